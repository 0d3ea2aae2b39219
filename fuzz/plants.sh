#!/usr/bin/env bash
# That a target can fail: with each planted fault of its second reading, or of its result, some input of the corpus must
# be a finding; without one none is. Arguments: the replay program, its corpus, the names of the faults.
set -euo pipefail
replay=$1 corpus=$2
shift 2
(($# > 0)) || exit 2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ulimit -c 0 # findings abort
"$replay" "$corpus" > "$log" 2>&1 || { cat "$log" && echo "a finding without a plant" && exit 1; }
for plant in "$@"; do
    code=0
    FH1_FUZZ_PLANT=$plant FH1_FUZZ_FAULT=$plant "$replay" "$corpus" > "$log" 2>&1 || code=$?
    ((code != 0)) && grep -q '^FINDING ' "$log" || { cat "$log" && echo "the planted $plant is not seen" && exit 1; }
    echo "$plant: $(grep -m 1 '^FINDING ' "$log" | cut -c1-150 | tr -cd '[:print:]')"
done
