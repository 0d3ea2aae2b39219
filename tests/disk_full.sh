#!/usr/bin/env bash
# A disk that fails at the k-th call that makes or changes a file, for every k, whatever fh1 writes: exit code 3, one
# line that says why, nothing left, and the old target untouched under --force. The module fail_write (tests/fail_write.c)
# plays the disk. Arguments: the fh1 program, the module, and `all` to let every call fail in both ways (EIO once, and
# ENOSPC from then on) and not in one of the two.
set -euo pipefail
fh1=$1 module=$2 ways=${3:-one}
dir=$(mktemp -d)
export OPENBLAS_NUM_THREADS=1 FH1_THREADS=2 # hundreds of short runs
trap 'rm -rf "$dir"' EXIT
base=$dir/base # sharded, with a folder in it
cp -r golden/merges/bases/plain-f16 "$base"
mkdir "$base/original"
echo '{}' > "$base/original/params.json"
runs=0 failed_calls=0 failures=0

complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

# on_bad_disk AT ERRNO ON SHORT COMMAND…: exit code in $code, stderr in $dir/err, the failed call in $dir/log.
on_bad_disk() {
    local at=$1 error=$2 on=$3 short=$4
    shift 4
    rm -f "$dir/log"
    code=0
    runs=$((runs + 1))
    FH1_FAIL_AT=$at FH1_FAIL_ERRNO=$error FH1_FAIL_ON=$on FH1_FAIL_SHORT=$short FH1_FAIL_UNDER=$dir/disk \
        FH1_FAIL_LOG=$dir/log LD_PRELOAD=$module "$fh1" "$@" > "$dir/out" 2> "$dir/err" || code=$?
}

same() { diff -r "$1" "$2" > /dev/null; }

# check WHAT OLD: after a failed call. OLD: what the target held before, empty for nothing.
check() {
    local what=$1 old=$2 left
    failed_calls=$((failed_calls + 1))
    ((code == 3)) || complain "$what: exit $code"
    [[ $(wc -l < "$dir/err") == 1 && $(cat "$dir/err") == fh1\ * ]] || complain "$what: stderr is $(cat "$dir/err")"
    grep -qE 'No space left on device|Input/output error' "$dir/err" || complain "$what: no reason in $(cat "$dir/err")"
    left=$(ls -A "$dir/disk")
    if grep -qF 'the target is complete' "$dir/err"; then # the last call of all: the folder around the target
        [[ $(head -n1 "$dir/log") == *"fsync $dir/disk" || $on == 1 ]] || complain "$what: not the last call"
        same "$dir/disk/$target" "$dir/good/$target" || complain "$what: said to be complete, and is not"
    elif [[ -z $old ]]; then
        [[ -z $left ]] || complain "$what: left behind: $left"
    else
        [[ $left == "$target" ]] || complain "$what: left behind: $left"
        same "$dir/disk/$target" "$old/$target" || complain "$what: the old target was changed"
    fi
}

# every_call NAME COMMAND… TARGET: TARGET is a name in the folder. First all goes well, which tells how many calls
# there are; then one fails with EIO, and from one on all fail with ENOSPC over an old target.
every_call() {
    local name=$1 k n kind
    shift
    local command=("${@:1:$#-1}")
    target=${*: -1}
    rm -rf "$dir/disk" "$dir/good" "$dir/old"
    mkdir "$dir/disk"
    on_bad_disk 0 0 0 0 "${command[@]}" "$dir/disk/$target"
    ((code == 0)) || complain "$name on a good disk: exit $code: $(cat "$dir/err")"
    mv "$dir/disk" "$dir/good"
    n=$(sed -n 's/^calls //p' "$dir/log")
    ((n >= 4)) || complain "$name: only $n calls were seen: is the module loaded?"

    mkdir "$dir/disk" "$dir/old"
    on_bad_disk 0 0 0 1 "${command[@]}" "$dir/disk/$target" # writes that take a thousand bytes at a time
    { ((code == 0)) && same "$dir/disk" "$dir/good"; } || complain "$name with short writes: exit $code"
    for ((k = 1; k <= n; k++)); do
        [[ $ways == all ]] || ((k % 2)) || continue
        rm -rf "$dir/disk"
        mkdir "$dir/disk"
        on=0
        on_bad_disk "$k" 5 0 0 "${command[@]}" "$dir/disk/$target"
        check "$name, call $k ($(head -n1 "$dir/log"))" ''
        kind=$(head -n1 "$dir/log" | cut -d' ' -f2)
        if [[ $kind == write && $((k % 5)) == 1 ]]; then # a write that a signal interrupts is tried again
            rm -rf "$dir/disk"
            mkdir "$dir/disk"
            on_bad_disk "$k" 4 0 0 "${command[@]}" "$dir/disk/$target"
            { ((code == 0)) && same "$dir/disk" "$dir/good"; } || complain "$name, call $k interrupted: exit $code"
        fi
    done
    cp -r "$dir/good/$target" "$dir/old/$target"
    local marked=$dir/old/$target
    [[ -d $marked ]] && marked+=/README.md
    echo 'the old one' >> "$marked"
    rm -rf "$dir/disk"
    cp -r "$dir/old" "$dir/disk"
    on=1
    for ((k = 1; k <= n; k++)); do
        [[ $ways == all ]] || ((k % 2 == 0)) || continue
        on_bad_disk "$k" 28 1 0 "${command[0]}" --force "${command[@]:1}" "$dir/disk/$target"
        check "$name --force, full from call $k ($(head -n1 "$dir/log"))" "$dir/old"
        if ! same "$dir/disk" "$dir/old"; then
            rm -rf "$dir/disk"
            cp -r "$dir/old" "$dir/disk"
        fi
    done
    echo "$name: $n calls, each of them failed"
}

every_call 'convert to a folder' convert "$base" model
every_call 'convert to a native file' convert "$base" model.fh1
every_call 'convert to GGUF' convert golden/merges/bases/plain-bf16 model.gguf
every_call 'merge' merge golden/merges/bases/plain-bf16 golden/merges/adapters/in-bf16 -o merged
[[ $ways == one ]] || every_call 'merge to a native file' merge "$base" golden/merges/adapters/in-f16 -o merged.fh1

# The check itself: something that is left, and another exit code, must be seen.
before=$failures
rm -rf "$dir/disk"
mkdir "$dir/disk"
echo 'fh1 convert: No space left on device' > "$dir/err"
code=3 target=model on=0
check 'planted: nothing left' '' > "$dir/out"
((failures == before)) || complain 'nothing left is complained about'
touch "$dir/disk/.model.fh1-1-0"
check 'planted: a temporary' '' > "$dir/out"
code=0
check 'planted: a temporary, exit 0' '' > "$dir/out"
((failures == before + 3)) || complain 'a temporary that is left is not seen'
failures=$before

echo "$runs runs, $failed_calls of them on a bad disk, $failures failures"
((failures == 0 && failed_calls > 100))
