#!/usr/bin/env bash
# Every fault of convert/fault_list.h is planted somewhere in convert/ and named by an edge case, which must turn red.
# usage: tests/converter_faults.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
n=0 bad=0
while read -r id name; do
    n=$((n + 1))
    if ! grep -qE "CVT_FAULT\($id\)" convert/*.c; then
        echo "$name is planted nowhere"
        bad=$((bad + 1))
    fi
    if ! grep -qE "[\" ]$name[\" ]" tests/edge/edge_f*.c; then
        echo "$name is named by no case"
        bad=$((bad + 1))
    fi
done < <(tr '\n' ' ' < convert/fault_list.h | grep -oE 'CVT_FAULT_LIST\([A-Z0-9_]+, *"[a-z0-9_]+"' | sed -E 's/CVT_FAULT_LIST\(([A-Z0-9_]+), *"([a-z0-9_]+)"/\1 \2/')
for id in $(grep -ohE 'CVT_FAULT\([A-Z0-9_]+\)' convert/*.c | sed -E 's/.*\((.*)\)/\1/' | sort -u); do
    grep -qE "CVT_FAULT_LIST\($id," convert/fault_list.h || { echo "$id is not in the list" && bad=$((bad + 1)); }
done
echo "$n faults of the converters, $bad bad"
((n > 0 && bad == 0))
