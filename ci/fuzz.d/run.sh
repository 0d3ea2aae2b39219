# Sourced by ci/fuzz and ci/soak: building targets, running them for a time, and what came of it.
# shellcheck shell=bash

fuzz=$root/build/fuzz-runs # corpus/NAME grows here, findings/NAME-…, log/…
findings=$fuzz/findings

# fuzz_setup: what libFuzzer needs.
fuzz_setup() {
    "$root/ci/setup" >&2
    if ! newest_clang > /dev/null || ! compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a' > /dev/null; then
        "$root/ci/setup" clang-14 libclang-rt-14-dev >&2
    fi
}

# fuzz_targets [NAME…]: names of targets, all without arguments; refuses unknown ones.
fuzz_targets() {
    local file name
    if (($# > 0)); then
        for name in "$@"; do
            [[ -f $root/fuzz/fuzz_$name.c && $name != replay ]] || refuse "no target is called '$name'"
            echo "$name"
        done
        return
    fi
    for file in "$root"/fuzz/fuzz_*.c; do
        name=${file##*/fuzz_}
        [[ ${name%.c} == replay ]] || echo "${name%.c}"
    done
}

# fuzz_build PRESET TARGET…
fuzz_build() {
    local preset=$1 name programs=()
    shift
    for name in "$@"; do programs+=("fuzz_$name"); done
    "$root/ci/build" "$preset" "${programs[@]}" >&2
}

# fuzz_options TARGET: one option of libFuzzer per line, from fuzz/TARGET.options.
fuzz_options() {
    [[ ! -f $root/fuzz/$1.options ]] || grep -v -e '^#' -e '^$' "$root/fuzz/$1.options" || true
}

# fuzz_once PRESET TARGET SECONDS LOG: libFuzzer for that long, again after a finding (four at most). Its output is appended
# to LOG; findings are files $findings/TARGET-… Whoever runs this in the background ends it by SIGTERM, the program too.
fuzz_once() {
    local preset=$1 name=$2 log=$4 end=$((SECONDS + $3)) left=$3 tries=0 code options folders=() folder summaries
    mkdir -p "$fuzz/corpus/$name" "$findings" "${log%/*}"
    mapfile -t options < <(fuzz_options "$name")
    [[ ! -f $root/fuzz/$name.dict ]] || options+=("-dict=$root/fuzz/$name.dict")
    for folder in "$fuzz/corpus/$name" "$root/fuzz/corpus/$name" "$root/fuzz/regressions/$name"; do
        [[ ! -d $folder ]] || folders+=("$folder")
    done
    trap 'kill "$fuzz_child" 2> /dev/null; exit 143' TERM
    while ((left > 0 && tries < 4)); do
        summaries=$(fuzz_summaries "$log")
        (
            cd "$fuzz"
            ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 FH1_THREADS=1 OPENBLAS_NUM_THREADS=1 \
                exec "$root/build/$preset/fuzz/fuzz_$name" ${options[@]+"${options[@]}"} -max_total_time="$left" -timeout=60 \
                -rss_limit_mb=3072 -print_final_stats=1 -artifact_prefix="$findings/$name-" "${folders[@]}"
        ) >> "$log" 2>&1 &
        fuzz_child=$! code=0
        wait "$fuzz_child" || code=$?
        ((code != 0)) || break
        (($(fuzz_summaries "$log") > summaries)) || echo "SUMMARY: fuzz_$name ended with exit code $code" >> "$log"
        tries=$((tries + 1))
        left=$((end - SECONDS))
    done
    trap - TERM
}

fuzz_summaries() {
    grep -ac '^SUMMARY: ' "$1" 2> /dev/null || true
}

# fuzz_sum LOG…: "executions new_coverage runs_that_ended_badly" of the runs in these logs. Coverage is counted from what
# the corpus given to a run already reached.
fuzz_sum() {
    cat "$@" 2> /dev/null | awk '
        function cov(    i) { for (i = 1; i < NF; i++) if ($i == "cov:") return $(i + 1); return -1 }
        /^#[0-9]+[ \t]+INITED/ { c = cov(); if (c >= 0) { first = last = c; inited = 1 } next }
        /^#[0-9]+[ \t]/ { c = cov(); if (inited && c > last) last = c }
        /^stat::number_of_executed_units:/ { n += $2; if (inited) new += last - first; inited = 0 }
        /^SUMMARY: / { bad++ }
        END { printf "%d %d %d\n", n, new, bad }'
}

# fuzz_count FOLDER…: files in them.
fuzz_count() {
    find "$@" -type f 2> /dev/null | wc -l
}

# fuzz_line TARGET SECONDS BEFORE LOG…: the JSON line of a target; findings that are newer than the file BEFORE count.
fuzz_line() {
    local name=$1 seconds=$2 before=$3 n new bad found
    shift 3
    read -r n new bad < <(fuzz_sum "$@")
    found=$(find "$findings" -name "$name-*" -newer "$before" 2> /dev/null | wc -l)
    ((found > 0 || bad == 0)) || found=1 # one that left no file
    ((n > 0 || found > 0)) || found=1 # a target that did not run
    awk -v t="$name" -v n="$n" -v s="$seconds" -v new="$new" -v c="$(fuzz_count "$fuzz/corpus/$name" "$root/fuzz/corpus/$name")" -v f="$found" 'BEGIN {
        printf "{\"target\":\"%s\",\"executions\":%d,\"seconds\":%d,\"per_second\":%.1f,\"new_coverage\":%d,\"corpus\":%d,\"findings\":%d}\n",
            t, n, s, (s > 0 ? n / s : 0), new, c, f }'
}

# fuzz_summary: the last line, from the lines of targets on stdin.
fuzz_summary() {
    awk '
        function number(key) { return match($0, "\"" key "\":[0-9.]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : 0 }
        { n++; s += number("seconds"); c += number("new_coverage"); f += number("findings")
          if (/"target":"schedule"/) schedules += number("executions"); else parsers += number("executions") }
        END { printf "{\"summary\":true,\"targets\":%d,\"parser_executions\":%d,\"schedules\":%d,\"seconds\":%d,\"new_coverage\":%d,\"findings\":%d}\n",
            n, parsers, schedules, s, c, f }'
}

# fuzz_tell TARGET LOG…: what a finding said, to stderr.
fuzz_tell() {
    local name=$1
    shift
    cat "$@" 2> /dev/null | grep -aE '^(FINDING|fh1 repro|==[0-9]+==ERROR|SUMMARY: |Test unit written to|.*runtime error:)' | head -40 | sed "s/^/$name: /" >&2 || true
}
