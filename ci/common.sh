# Sourced by the scripts of ci/: strict shell, the root of the tree, and an environment that does not slow OpenBLAS down.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A preset core type makes OpenBLAS use kernels of an older processor, at half the speed (docs/performance.md).
unset OPENBLAS_CORETYPE

jobs=$(nproc 2> /dev/null || echo 2)

# usage TEXT ARGUMENTS…: prints TEXT for --help and -h and ends the script.
usage() {
    local text=$1 arg
    shift
    for arg in "$@"; do
        if [[ $arg == --help || $arg == -h ]]; then
            echo "$text"
            exit 0
        fi
    done
}

# refuse MESSAGE: bad usage.
refuse() {
    echo "ci/$(basename "$0"): $1 (see --help)" >&2
    exit 2
}

# newest_clang: the suffix of the newest clang++ in PATH ("" or "-14"); fails where there is none.
newest_clang() {
    local name
    name=$(compgen -c | grep -xE 'clang\+\+(-[0-9]+)?' | sort -V | tail -n 1)
    [[ -n $name ]] && echo "${name#clang++}"
}
