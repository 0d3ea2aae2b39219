#!/usr/bin/env bash
# A disk that fails at the k-th call that opens, examines, reads or maps a file, for every k, whatever fh1 reads: exit code 3
# (the disk is broken, the file is not judged), one line that names the file, no target. Reads that a signal interrupts or
# that give seven bytes at a time change nothing. The module fail_read (tests/fail_read.c) plays the disk. Arguments: the fh1
# program, the module, and `all` to interrupt every read instead of each fourth.
set -euo pipefail
fh1=$1 module=$2 reads=${3:-some}
dir=$(mktemp -d)
export OPENBLAS_NUM_THREADS=1 FH1_THREADS=1
trap 'rm -rf "$dir"' EXIT
runs=0 failures=0

complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

mkdir "$dir/in" "$dir/out" "$dir/good"
cp -r golden/merges/bases/plain-bf16 "$dir/in/base"
cp -r golden/merges/adapters/in-bf16 "$dir/in/adapter"
cp golden/traces/mini-0.5b/t1.safetensors "$dir/in/trace.safetensors"
"$fh1" convert "$dir/in/base" "$dir/in/base.fh1" > "$dir/stdout" 2>&1
"$fh1" convert "$dir/in/base" "$dir/in/base.gguf" > "$dir/stdout" 2>&1

# on_bad_disk AT ERRNO SHORT COMMAND…: exit code in $code, stdout, stderr and log in the folder.
on_bad_disk() {
    local at=$1 error=$2 short=$3
    shift 3
    rm -rf "$dir/log" "$dir/out"
    mkdir "$dir/out"
    code=0
    runs=$((runs + 1))
    FH1_FAIL_AT=$at FH1_FAIL_ERRNO=$error FH1_FAIL_SHORT=$short FH1_FAIL_UNDER=$dir/in FH1_FAIL_LOG=$dir/log \
        LD_PRELOAD=$module "$fh1" "$@" > "$dir/stdout" 2> "$dir/stderr" || code=$?
}

same() { cmp -s "$dir/stdout" "$dir/stdout.good" && diff -r "$dir/out" "$dir/good" > /dev/null; }

# broken WHAT: the verdict on a run in which a call failed.
broken() {
    ((code == 3)) || complain "$1: exit $code: $(cat "$dir/stdout" "$dir/stderr")"
    [[ $(wc -l < "$dir/stderr") == 1 ]] || complain "$1: not one line: $(cat "$dir/stderr")"
    grep -qE 'Input/output error|out of memory' "$dir/stderr" || complain "$1: no reason: $(cat "$dir/stderr")"
    [[ -z $(ls -A "$dir/out") ]] || complain "$1: left behind: $(ls -A "$dir/out")"
}

# every_call COMMAND…: each call of it.
every_call() {
    local n k kind
    on_bad_disk 0 0 0 "$@"
    ((code == 0)) || complain "$* on a good disk: exit $code: $(cat "$dir/stderr")"
    n=$(sed -n 's/^calls //p' "$dir/log")
    ((n >= 2)) || complain "$*: only $n calls were seen: is the module loaded?"
    rm -rf "$dir/good"
    cp -r "$dir/out" "$dir/good"
    cp "$dir/stdout" "$dir/stdout.good"
    on_bad_disk 0 0 1 "$@"
    { ((code == 0)) && same; } || complain "$* with short reads: exit $code: $(cat "$dir/stderr")"
    for ((k = 1; k <= n; k++)); do
        on_bad_disk "$k" 5 0 "$@"
        kind=$(head -n1 "$dir/log" | cut -d' ' -f2)
        broken "$*, call $k ($(head -n1 "$dir/log"))"
        [[ $kind == read && ($reads == all || $((k % 4)) == 1) ]] || continue
        on_bad_disk "$k" 4 0 "$@"
        { ((code == 0)) && same; } || complain "$*, call $k interrupted: exit $code: $(cat "$dir/stderr")"
    done
    echo "$n calls, each of them failed: $1 $(basename "$2")"
}

for what in base base.fh1 base.gguf adapter trace.safetensors; do every_call verify "$dir/in/$what"; done
every_call info "$dir/in/base"
every_call convert "$dir/in/base" "$dir/out/model.fh1"
every_call convert "$dir/in/base.fh1" "$dir/out/model"
every_call convert "$dir/in/base.gguf" "$dir/out/model"
every_call merge "$dir/in/base" "$dir/in/adapter" -o "$dir/out/merged"
every_call check golden/models/mini-0.5b --trace "$dir/in/trace.safetensors" --taps logits

# The check itself must see an exit code of 1, a second line and something that is left.
before=$failures code=1
printf 'fh1: Input/output error\nmore\n' > "$dir/stderr"
touch "$dir/out/left"
broken planted > "$dir/stdout"
((failures == before + 3)) || complain 'a bad run is not seen'
failures=$before
echo "$runs runs, $failures failures"
((failures == 0 && runs > 100))
