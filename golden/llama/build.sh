#!/usr/bin/env bash
# build.sh FOLDER: stock llama.cpp for the CPU and llama_logits into FOLDER, which may be kept: what is there is used.
#
# The source is the tree that the llama-cpp-python sdist carries (pip is used as it is configured on this machine), its
# hash is checked. Needs cmake, a C++ compiler, python3 with pip; three minutes on two cores.
# Result: FOLDER/llama_logits. Exit codes: 0 built, 1 failed, 2 bad usage, 3 the source cannot be fetched.
set -euo pipefail

version=0.3.36 # carries llama.cpp 0c1e57098bba43ac29e6e3b677cdceebdd22334f
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

[[ $# == 1 ]] || { echo "usage: build.sh FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
name=llama_cpp_python-$version
src=$dir/$name/vendor/llama.cpp
log=$dir/log

fetch() {
    [[ -f $dir/$name/complete ]] && return
    if ! "${PYTHON:-python3}" -m pip download --retries 2 --disable-pip-version-check --no-binary :all: --no-deps -d "$dir" \
        "llama-cpp-python==$version" > "$log" 2>&1; then
        tail -n 3 "$log" >&2
        exit 3
    fi
    echo "$sha256  $dir/$name.tar.gz" | sha256sum --check --quiet -
    tar -xzf "$dir/$name.tar.gz" -C "$dir"
    touch "$dir/$name/complete"
    rm "$dir/$name.tar.gz"
}

# AVX2 without what only this machine has, so that a cache may move between machines.
build_library() {
    [[ -f $dir/build/complete ]] && return
    local off=()
    for option in BUILD_SHARED_LIBS GGML_NATIVE GGML_CCACHE LLAMA_OPENSSL \
        LLAMA_BUILD_{COMMON,TESTS,TOOLS,EXAMPLES,SERVER,APP}; do off+=("-D$option=OFF"); done
    if ! cmake -S "$src" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${off[@]}" > "$log" 2>&1 ||
        ! cmake --build "$dir/build" --target llama >> "$log" 2>&1; then
        tail -n 20 "$log" >&2
        exit 1
    fi
    touch "$dir/build/complete"
}

build_runner() {
    [[ $dir/llama_logits -nt $here/llama_logits.c && $dir/llama_logits -nt $dir/build/complete ]] && return
    local lib=$dir/build/ggml/src
    "${CC:-cc}" -std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -I"$src/include" -I"$src/ggml/include" \
        "$here/llama_logits.c" "$dir/build/src/libllama.a" "$lib/libggml.a" "$lib/libggml-cpu.a" "$lib/libggml-base.a" \
        -lstdc++ -fopenmp -lm -ldl -lpthread -o "$dir/llama_logits"
}

fetch
build_library
build_runner
