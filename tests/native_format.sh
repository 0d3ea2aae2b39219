#!/usr/bin/env bash
# docs/native_format.md is true: every command on the page prints what the page says, a decoder of nothing but dd, od and
# zstd gives back each tensor, and files of earlier versions stay readable. Argument: the fh1 program.
# The planted fault: with one bit of the file flipped, the page and the decoder must disagree with it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$(cd "$(dirname "$1")" && pwd):$PATH
command -v zstd > /dev/null || { echo "zstd, the command, is not installed" && exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# page FILE: runs the transcripts of the page in the current folder and prints where they differ.
page() {
    local line command='' want='' fenced=0 got status=0
    check() {
        [[ -n $command ]] || return 0
        got=$(bash -c "$command" 2>&1) || true
        [[ $got == "${want%$'\n'}" ]] && return 0
        echo "\$ $command"
        diff <(echo "${want%$'\n'}") <(echo "$got") || true
        status=1
    }
    while IFS= read -r line; do
        if [[ $line == '```' ]]; then
            check
            command='' want='' fenced=$((1 - fenced))
        elif ((fenced)) && [[ $line == '$ '* ]]; then
            check
            command=${line#'$ '} want=''
        elif ((fenced)); then
            want+=$line$'\n'
        fi
    done < "$1"
    return $status
}

number() { od -A n -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# decode FILE OUT: all chunks of a native file one after the other, as the page describes them.
decode() {
    local file=$1 out=$2 at json size first second i n_records
    at=$(number "$file" 24 8)
    tail -c +$((at + 1)) "$file" | zstd -dcq > "$dir/index" || return 1
    json=$(number "$dir/index" 0 8)
    n_records=$((($(stat -c %s "$dir/index") - 8 - json) / 32))
    tail -c +$((9 + json)) "$dir/index" > "$dir/records"
    : > "$out"
    for ((i = 0; i < n_records; i++)); do
        at=$(number "$dir/records" $((32 * i)) 8)
        first=$(number "$dir/records" $((32 * i + 20)) 4)
        second=$(number "$dir/records" $((32 * i + 24)) 4)
        plane "$file" "$at" "$first" "$(number "$dir/records" $((32 * i + 29)) 1)" > "$dir/p0" || return 1
        if [[ $(number "$dir/records" $((32 * i + 28)) 1) == 0 ]]; then
            cat "$dir/p0" >> "$out"
            continue
        fi
        plane "$file" $((at + (first + 63) / 64 * 64)) "$second" "$(number "$dir/records" $((32 * i + 30)) 1)" > "$dir/p1" ||
            return 1
        paste -d ' ' <(od -A n -v -t u1 -w1 "$dir/p0") <(od -A n -v -t u1 -w1 "$dir/p1") |
            awk '{
                low = $1 % 2 * 128 + $2 % 128
                high = int($1 / 2) + int($2 / 128) * 128
                printf "\\x%02x\\x%02x", low, high
            }' > "$dir/escaped"
        printf '%b' "$(cat "$dir/escaped")" >> "$out"
    done
}

# plane FILE OFFSET BYTES CODEC
plane() {
    local codec=(cat)
    [[ $4 == 0 ]] || codec=(zstd -dcq)
    dd if="$1" bs=4096 skip="$2" count="$3" iflag=skip_bytes,count_bytes status=none | "${codec[@]}"
}

cp -r "$root/golden/native/." "$dir/"
cd "$dir"
echo "the page"
page "$root/docs/native_format.md"

echo "the decoder"
cat tiny/config.json tiny/model.safetensors tiny/note.txt > want
decode tiny.fh1 got
cmp want got
fh1 convert tiny again.fh1 > /dev/null
decode again.fh1 got
cmp want got

echo "both ways"
fh1 convert tiny.fh1 back > /dev/null
diff -r tiny back

echo "planted: a flipped bit"
cp tiny.fh1 good.fh1
printf '\x7a' | dd of=tiny.fh1 bs=1 seek=1300 conv=notrunc status=none
cmp -s tiny.fh1 good.fh1 && { echo "the byte was that already" && exit 1; }
if page "$root/docs/native_format.md" > /dev/null; then echo "the page did not notice" && exit 1; fi
if decode tiny.fh1 got 2> /dev/null && cmp -s want got; then echo "the decoder did not notice" && exit 1; fi
if fh1 convert tiny.fh1 other > /dev/null 2>&1; then echo "fh1 did not notice" && exit 1; fi
[[ ! -e other ]] || { echo "half a folder is left" && exit 1; }
