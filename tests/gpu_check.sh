#!/usr/bin/env bash
# fh1 check --engine cuda where it can run; 77, which ctest takes as skipped, where it cannot. Arguments: the program, MODEL.
set -euo pipefail
"$1" info --json | grep -q '"name":"cuda","runs":true' || { echo "skipped: no CUDA device" && exit 77; }
exec "$1" check "$2" --engine cuda
