#!/usr/bin/env bash
# What the README tells people to copy works: the C and the Python writer make traces that pass, and that fail once a
# weight is changed. Arguments: the fh1 program, a C compiler.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fh1=$1 compiler=$2
model=$root/golden/models/mini-0.5b other=$root/golden/models/odd
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

"$compiler" -std=c11 -O2 -Wall -Wextra "$root/golden/examples/write_trace.c" -o "$dir/write_trace" -lm
"$dir/write_trace" "$model" "$dir/c.safetensors"
"$fh1" check "$model" --trace "$dir/c.safetensors"

if command -v python3 > /dev/null; then
    PYTHONDONTWRITEBYTECODE=1 python3 "$root/golden/hf/write_trace.py" "$model" "$dir/python.safetensors"
    "$fh1" check "$model" --trace "$dir/python.safetensors"
else
    echo "no python3 here: write_trace.py is not tried"
fi

# The same trace against other weights of the same shapes must FAIL, and against another geometry it is bad input.
"$fh1" init --config "$model/config.json" -o "$dir/weights" --seed 1 --dtype f32
code=0
"$fh1" check "$dir/weights" --trace "$dir/c.safetensors" > /dev/null || code=$?
[[ $code == 1 ]] || { echo "other weights: exit $code instead of 1" && exit 1; }
code=0
"$fh1" check "$other" --trace "$dir/c.safetensors" 2> /dev/null || code=$?
[[ $code == 2 ]] || { echo "another geometry: exit $code instead of 2" && exit 1; }
