#!/usr/bin/env bash
# docs/edge_cases.md is what the registry prints, and the registry has D-01 to D-114, each once. Argument: edge_cases.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$1" --markdown > "$dir/page"
cmp "$dir/page" docs/edge_cases.md || {
    echo "docs/edge_cases.md is not up to date: build/release/tests/edge_cases --markdown > docs/edge_cases.md"
    exit 1
}
for ((i = 1; i <= 114; i++)); do printf 'D-%02d\n' "$i"; done > "$dir/wanted"
"$1" --list | cut -d' ' -f1 > "$dir/found"
diff "$dir/wanted" "$dir/found"
sed 's/| D-36 |/| D-37 |/' docs/edge_cases.md | cmp -s - "$dir/page" && exit 1 # cmp would see it
exit 0
