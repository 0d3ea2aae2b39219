#!/usr/bin/env bash
# Somebody else cuts, changes or replaces a file while fh1 reads it: exit code 2, one line that names the file, no target,
# and never a crash. The module change_source (tests/change_source.c) plays the other. Arguments: the fh1 program, the
# module.
set -euo pipefail
fh1=$1 module=$2
dir=$(mktemp -d)
export OPENBLAS_NUM_THREADS=1 FH1_THREADS=2 # hundreds of short runs
trap 'rm -rf "$dir"' EXIT
changes=0 failures=0

complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

mkdir "$dir/fresh" "$dir/out"
cp -r golden/models/mini-0.5b "$dir/fresh/model"
cp -r golden/merges/bases/plain-bf16 "$dir/fresh/base"
cp -r golden/merges/adapters/in-bf16 "$dir/fresh/adapter"
cp golden/traces/mini-0.5b/t37.safetensors "$dir/fresh/trace.safetensors"
"$fh1" convert "$dir/fresh/model" "$dir/fresh/model.fh1" > "$dir/stdout" 2>&1
"$fh1" convert "$dir/fresh/model" "$dir/fresh/model.gguf" > "$dir/stdout" 2>&1
echo '5 6 7' > "$dir/ids"

# meet AT HOW FILE COMMAND…: runs with a fresh copy; FILE below it. Exit code in $code.
meet() {
    local at=$1 how=$2 file=$3
    shift 3
    rm -rf "$dir/in" "$dir/out" "$dir/log"
    mkdir "$dir/out"
    cp -r "$dir/fresh" "$dir/in"
    touch -d '1 hour ago' "$dir/in/$file"
    code=0
    FH1_CHANGE_FILE=$dir/in/$file FH1_CHANGE_AT=$at FH1_CHANGE_HOW=$how FH1_CHANGE_LOG=$dir/log LD_PRELOAD=$module \
        "$fh1" "$@" > "$dir/stdout" 2> "$dir/stderr" || code=$?
}

# refused WHAT FILE: the verdict on the last run, if the change came at all.
refused() {
    changes=$((changes + 1))
    ((code == 2)) || complain "$1: exit $code: $(cat "$dir/stdout" "$dir/stderr")"
    [[ $(wc -l < "$dir/stderr") == 1 ]] || complain "$1: not one line: $(cat "$dir/stderr")"
    grep -qF "$(basename "$2")" "$dir/stderr" || complain "$1: the file is not named: $(cat "$dir/stderr")"
    [[ -z $(ls -A "$dir/out") ]] || complain "$1: left behind: $(ls -A "$dir/out")"
}

# by_reads FIRST FILE COMMAND…: changes after read FIRST, a middle one and the last one of it. FIRST is 2 where the first
# read only finds out what kind of file this is: what is changed before it is opened was always so.
by_reads() {
    local first=$1 file=$2 n k how
    shift 2
    meet 0 none "$file" "$@"
    ((code == 0)) || complain "$*: exit $code without any change: $(cat "$dir/stderr")"
    n=$(sed -n 's/^reads //p' "$dir/log")
    ((n > 0)) || complain "$*: $file is not read"
    for k in "$first" $(((n + 1) / 2)) "$n"; do
        for how in cut empty rewrite replace; do
            meet "$k" "$how" "$file" "$@"
            grep -q "^$how" "$dir/log" || complain "$*: read $k of $n never came"
            refused "$how after read $k of $n: $*" "$file"
        done
    done
}

# by_map FILE COMMAND…: cut once it is mapped. Who maps gets a signal instead of an error.
by_map() {
    local file=$1
    shift
    meet 0 none "$file" "$@"
    ((code <= 1)) || complain "$*: exit $code without any change: $(cat "$dir/stderr")"
    meet map empty "$file" "$@"
    refused "cut once it was mapped: $*" "$file"
    grep -qF 'cut short' "$dir/stderr" || complain "$*: the reason is not named: $(cat "$dir/stderr")"
}

in=$dir/in out=$dir/out
by_reads 1 model/model.safetensors convert "$in/model" "$out/copy"
by_reads 1 model/config.json convert "$in/model" "$out/copy.fh1"
by_reads 1 model/model.safetensors convert "$in/model" "$out/copy.gguf"
by_reads 2 model.fh1 convert "$in/model.fh1" "$out/copy"
by_reads 2 model.gguf convert "$in/model.gguf" "$out/copy"
by_reads 1 base/model.safetensors merge "$in/base" "$in/adapter" -o "$out/merged"
by_reads 1 model/model.safetensors verify "$in/model"
by_reads 1 model.fh1 verify "$in/model.fh1"
by_reads 1 model.gguf verify "$in/model.gguf"
by_map adapter/adapter_model.safetensors merge "$in/base" "$in/adapter" -o "$out/merged"
for how in rewrite replace; do
    meet map "$how" adapter/adapter_model.safetensors merge "$in/base" "$in/adapter" -o "$out/merged"
    refused "$how once it was mapped: merge" adapter/adapter_model.safetensors
done
by_map model/model.safetensors check "$in/model" --trace "$in/trace.safetensors"
by_map trace.safetensors check "$in/model" --trace "$in/trace.safetensors"
by_map model/model.safetensors check "$in/model" --engine ref-f32
by_map model/model.safetensors run "$in/model" --ids "$dir/ids" -n 2
by_map model/model.safetensors info "$in/model"
by_map model/model.safetensors trace "$in/model" --engine ref-f32 --seed 1 --tokens 5 -o "$out/t.safetensors"
by_map trace.safetensors diff "$in/trace.safetensors" "$in/trace.safetensors"

echo "$changes changes, $failures failures"
((failures == 0 && changes > 100))
