# ci/fuzz --afl [MINUTES [TARGET…]]: the targets under AFL++, one after the other on one core each.
# shellcheck shell=bash

minutes=${1:-1}
[[ $minutes =~ ^[1-9][0-9]{0,5}$ ]] || refuse "MINUTES is a whole number from 1 to 999999, not '$minutes'"
list=$(fuzz_targets "${@:2}")
mapfile -t targets <<< "$list"
"$root/ci/setup" >&2
if ! command -v afl-fuzz afl-clang-fast > /dev/null; then "$root/ci/setup" afl++ clang >&2; fi
fuzz_build fuzz-afl "${targets[@]}"
mutators=()
for name in "${targets[@]}"; do
    if grep -q LLVMFuzzerCustomMutator "$root/fuzz/fuzz_$name.c"; then mutators+=("mutator_$name"); fi
done
if ((${#mutators[@]} > 0)); then "$root/ci/build" release "${mutators[@]}" >&2; fi

# AFL++ asks for settings of the machine that a container may not change.
export AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_NO_UI=1 AFL_NO_AFFINITY=1 FH1_THREADS=1 OPENBLAS_NUM_THREADS=1
worst=0
run_afl() {
    local name=$1 out=$fuzz/afl/$1 seeds=$fuzz/afl/$1.seeds options=()
    rm -rf "$out" "$seeds" "$out.log"
    mkdir -p "$seeds"
    [[ ! -d $root/fuzz/corpus/$name ]] || cp "$root/fuzz/corpus/$name"/* "$seeds/"
    compgen -G "$seeds/*" > /dev/null || printf '{}' > "$seeds/start"
    [[ ! -f $root/fuzz/$name.dict ]] || options+=(-x "$root/fuzz/$name.dict")
    local mutator=$root/build/release/fuzz/mutator_$name.so
    if [[ " ${mutators[*]-} " == *" mutator_$name "* ]]; then export AFL_CUSTOM_MUTATOR_LIBRARY=$mutator AFL_CUSTOM_MUTATOR_ONLY=1; fi
    afl-fuzz -i "$seeds" -o "$out" -V $((minutes * 60)) -m none -t 20000 ${options[@]+"${options[@]}"} -- "$root/build/fuzz-afl/fuzz/fuzz_$name" > "$out.log" 2>&1 || true
    awk -v t="$name" '$1 ~ /^(execs_done|execs_per_sec|corpus_count|saved_crashes|saved_hangs|run_time)$/ { v[$1] = $3 }
        END { if (!("execs_done" in v)) exit 1
              printf "{\"target\":\"%s\",\"engine\":\"afl++\",\"executions\":%d,\"seconds\":%d,\"per_second\":%.1f,\"corpus\":%d,\"findings\":%d}\n",
                  t, v["execs_done"], v["run_time"], v["execs_per_sec"], v["corpus_count"], v["saved_crashes"] + v["saved_hangs"] }' \
        "$out/default/fuzzer_stats" || echo "{\"target\":\"$name\",\"engine\":\"afl++\",\"executions\":0,\"findings\":1}"
}
mkdir -p "$fuzz/afl"
: > "$fuzz/afl/lines"
for name in "${targets[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
    run_afl "$name" | tee -a "$fuzz/afl/lines" &
done
wait
! grep -qv '"findings":0}' "$fuzz/afl/lines"
