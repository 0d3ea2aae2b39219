#!/usr/bin/env bash
# Tests against the real library; skipped (77) without the Python environment that ci/interop prepares and names in
# FH1_INTEROP_PYTHON. Arguments: the fh1 program, and what to do:
#   regenerate  one golden case per model again, compared with the one in the tree
#   capture     a fresh trace with the user's tool, judged
#   convert     shards, index and casts, byte for byte those of transformers
#   attached    every adapter of golden/merges attached by PEFT, traced and judged
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fh1=$1 python=${FH1_INTEROP_PYTHON:-}
if [[ -z $python ]]; then
    echo "skipped: FH1_INTEROP_PYTHON is not set (ci/interop sets it)"
    exit 77
fi
case $2 in
    regenerate) exec "$python" "$root/golden/hf/regenerate.py" ;;
    capture | attached | convert) ;;
    *) echo "interop.sh: unknown test '$2'" >&2 && exit 2 ;;
esac

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
if [[ $2 == convert ]]; then
    "$python" "$root/golden/hf/check_convert.py" "$fh1" "$dir"
    exit
fi
if [[ $2 == attached ]]; then
    if ! "$python" -c 'import peft' 2> /dev/null; then
        echo "skipped: the Python environment has no peft"
        exit 77
    fi
    "$python" "$root/golden/hf/make_attached_traces.py" --all "$dir"
    n=0
    while read -r trace base variant adapters; do
        read -ra names <<< "$adapters"
        arguments=(check "$root/golden/merges/bases/$base" --trace "$dir/$trace" --engine ref-f32 ref-bf16
                   --variant "${variant#-}")
        "$fh1" "${arguments[@]}" --adapter "${names[@]/#/$root/golden/merges/adapters/}" > "$dir/out" || { cat "$dir/out" && exit 1; }
        n=$((n + 1))
        # Without the adapter the same trace is wrong: the verdict above is no accident.
        [[ $trace == scale-zero* ]] && continue
        if "$fh1" "${arguments[@]}" > /dev/null; then
            echo "$trace passes without its adapter"
            exit 1
        fi
    done < "$dir/list"
    echo "$n attached models"
    ((n >= 40))
    exit
fi

printf '5 17 23 42 8 31\n60 2 9\n' > "$dir/ids"
for model in mini-34b mini-0.5b-bf16 block-sequential block-sequential-bf16 mamba-untied mamba-untied-bf16; do
    "$python" "$root/golden/hf/capture.py" "$root/golden/models/$model" --ids "$dir/ids" --decode 3 -o "$dir/$model"
    "$fh1" check "$root/golden/models/$model" --trace "$dir/$model" --engine ref-f32
done
# One model's trace is not another's: the right verdict above is no accident.
if "$fh1" check "$root/golden/models/mini-0.5b-bf16" --trace "$dir/mini-0.5b-bf16" --variant history_dropped,theta_class_default > /dev/null; then
    echo "a wrong variant was accepted"
    exit 1
fi

# What a release does wrong is seen by the user's tool too: FalconMamba's scan starts again.
echo '[{"ids": [[5, 17, 23, 42, 8]]}, {"ids": [[31, 60, 2]]}]' > "$dir/schedule"
"$python" "$root/golden/hf/capture.py" "$root/golden/models/mamba-untied" --schedule "$dir/schedule" -o "$dir/restarts"
code=0
"$fh1" check "$root/golden/models/mamba-untied" --trace "$dir/restarts" --json > "$dir/out" || code=$?
((code == 1)) && grep -q '"first_divergence":{"tap":"backbone.layers.0.mixer.scan","step":1' "$dir/out" ||
    { cat "$dir/out" && echo "a scan that starts again: exit $code" && exit 1; }
"$fh1" check "$root/golden/models/mamba-untied" --trace "$dir/restarts" --variant scan_restarts

# An f64 recurrence of its own kind agrees with every golden trace of FalconMamba.
"$python" "$root/golden/hf/witness_mamba.py"
