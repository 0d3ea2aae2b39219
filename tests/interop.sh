#!/usr/bin/env bash
# Tests against the real library; skipped (77) without the Python environment that ci/interop prepares and names in
# FH1_INTEROP_PYTHON. Arguments: the fh1 program, and what to do:
#   regenerate  one golden case per model again, compared with the one in the tree
#   capture     a fresh trace with the user's tool, judged
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fh1=$1 python=${FH1_INTEROP_PYTHON:-}
if [[ -z $python ]]; then
    echo "skipped: FH1_INTEROP_PYTHON is not set (ci/interop sets it)"
    exit 77
fi
case $2 in
    regenerate) exec "$python" "$root/golden/hf/regenerate.py" ;;
    capture) ;;
    *) echo "interop.sh: unknown test '$2'" >&2 && exit 2 ;;
esac

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
printf '5 17 23 42 8 31\n60 2 9\n' > "$dir/ids"
for model in mini-34b mini-0.5b-bf16; do
    "$python" "$root/golden/hf/capture.py" "$root/golden/models/$model" --ids "$dir/ids" --decode 3 -o "$dir/$model"
    "$fh1" check "$root/golden/models/$model" --trace "$dir/$model" --engine ref-f32
done
# One model's trace is not another's: the right verdict above is no accident.
if "$fh1" check "$root/golden/models/mini-0.5b-bf16" --trace "$dir/mini-0.5b-bf16" --variant history_dropped,theta_class_default > /dev/null; then
    echo "a wrong variant was accepted"
    exit 1
fi
