#!/usr/bin/env bash
# tests/stages.cmake in a project of nothing but /bin/true, and with one test replaced by /bin/false: what stands above
# the red one must not run, what stands beside or below it must.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# project RED: configures $work with test RED failing.
project() {
    cat > "$work/CMakeLists.txt" << END
cmake_minimum_required(VERSION 3.25)
project(stages LANGUAGES NONE)
enable_testing()
include($here/stages.cmake)
foreach(name unit.compare unit.gauge unit.blas unit.ssd_scan unit.laws golden.mini)
  if(name STREQUAL "$1")
    add_test(NAME \${name} COMMAND false)
  else()
    add_test(NAME \${name} COMMAND true)
  endif()
  fh1_stage(\${name})
endforeach()
END
    cmake -S "$work" -B "$work/build" > /dev/null
    ctest --test-dir "$work/build" -j 2 2>&1 || true
}

# expect RED NAME STATE
expect() {
    grep -qE "$2 \.+ *(\*\*\*)?$3" <<< "$log" || { echo "with $1 red, $2 should be '$3':" && echo "$log" && exit 1; }
}

log=$(project none)
for name in unit.compare unit.gauge unit.blas unit.ssd_scan unit.laws golden.mini; do expect nothing "$name" Passed; done
log=$(project unit.gauge)
expect unit.gauge unit.compare Passed
for name in unit.blas unit.ssd_scan unit.laws golden.mini; do expect unit.gauge "$name" 'Not Run'; done
log=$(project unit.ssd_scan)
for name in unit.compare unit.gauge unit.blas; do expect unit.ssd_scan "$name" Passed; done
for name in unit.laws golden.mini; do expect unit.ssd_scan "$name" 'Not Run'; done
echo "stages: a red test stops those above it"
