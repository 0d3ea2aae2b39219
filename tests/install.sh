#!/usr/bin/env bash
# Installs a build tree into a stage folder and builds a program against it, once through find_package and
# once through pkg-config. Arguments: build folder, C compiler, generator.
set -euo pipefail
build=$1 compiler=$2 generator=$3
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/consumer" && pwd)
stage=$build/stage
rm -rf "$stage" "$build/consumer"
cmake --install "$build" --prefix "$stage" > /dev/null

cmake -S "$source" -B "$build/consumer" -G "$generator" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$stage" > /dev/null
cmake --build "$build/consumer" > /dev/null
echo "find_package: $("$build/consumer/consumer")"

pc=$(dirname "$(find "$stage" -name fh1.pc)")
flags=$(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs fh1)
# shellcheck disable=SC2086 # flags are words
"$compiler" "$source/main.c" $flags -o "$build/consumer/by-pkg-config"
echo "pkg-config:   $("$build/consumer/by-pkg-config")"
"$stage/bin/fh1" --version
