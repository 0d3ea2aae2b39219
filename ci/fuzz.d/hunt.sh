# ci/fuzz --hunt [FAULT…]: how long schedules take to find each planted fault, from an empty corpus.
# shellcheck shell=bash

limit=600
faults=("$@")
if ((${#faults[@]} == 0)); then mapfile -t faults < <(awk 'NF == 1 && !/^#/' "$root/fuzz/hunt.list"); fi
for fault in "${faults[@]}"; do
    awk -v f="$fault" '$1 == f && !/^#/ { known = 1 } END { exit !known }' "$root/fuzz/hunt.list" || refuse "fuzz/hunt.list has no fault '$fault'"
done
fuzz_setup
fuzz_build fuzz schedule
log=$fuzz/hunt
rm -rf "$log"
mkdir -p "$log"
mapfile -t options < <(fuzz_options schedule)

# The time of the search itself: from the start of the program to the finding. A fault of another name is refused by the
# target itself, which is no finding.
hunt() {
    local fault=$1 here=$log/$1 start end n=0 found=false
    mkdir -p "$here/corpus"
    start=$(date +%s.%N)
    (cd "$here" && FH1_FUZZ_FAULT=$fault FH1_THREADS=1 OPENBLAS_NUM_THREADS=1 "$root/build/fuzz/fuzz/fuzz_schedule" ${options[@]+"${options[@]}"} \
        -max_total_time=$limit -print_final_stats=1 -artifact_prefix="$here/" "$here/corpus") > "$here/log" 2>&1 || true
    end=$(date +%s.%N)
    grep -aq '^FINDING .*FH1_FAIL' "$here/log" && found=true
    read -r n _ < <(fuzz_sum "$here/log")
    awk -v f="$fault" -v found=$found -v s="$start" -v e="$end" -v n="$n" \
        'BEGIN { printf "{\"fault\":\"%s\",\"found\":%s,\"seconds\":%.1f,\"executions\":%d}\n", f, found, e - s, n }' | tee -a "$log/lines"
}

for fault in "${faults[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
    hunt "$fault" &
done
wait
sed -n 's/.*"found":true,"seconds":\([0-9.]*\).*/\1/p' "$log/lines" | sort -n > "$log/seconds"
missed=$(grep -c '"found":false' "$log/lines" || true)
awk -v missed="$missed" '{ s[NR] = $1 }
    END { printf "{\"summary\":true,\"found\":%d,\"missed\":%d,\"median_seconds\":%.1f,\"slowest_seconds\":%.1f}\n",
              NR, missed, (NR ? (s[int((NR + 1) / 2)] + s[int((NR + 2) / 2)]) / 2 : 0), (NR ? s[NR] : 0) }' "$log/seconds"
((missed == 0))
