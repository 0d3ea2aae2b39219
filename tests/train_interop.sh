#!/usr/bin/env bash
# What fh1 train writes, loaded by the real transformers and PEFT; skipped (77) without the Python environment that
# ci/interop prepares and names in FH1_INTEROP_PYTHON. Argument: the fh1 program.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fh1=$(realpath "$1") python=${FH1_INTEROP_PYTHON:-}
if [[ -z $python ]]; then
    echo "skipped: FH1_INTEROP_PYTHON is not set (ci/interop sets it)"
    exit 77
fi
exec "$python" "$root/golden/hf/check_training.py" "$fh1"
