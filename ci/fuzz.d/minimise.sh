# ci/fuzz --minimise [TARGET…]: what the runs found, merged into fuzz/corpus/NAME.
# shellcheck shell=bash

# Per target; the whole corpus is part of the repository and stays below 300 KB. Where not all fits, any are taken, by their
# hashes: the smallest ones would be the dullest.
most_files=120
most() { [[ $1 == schedule ]] && echo 40000 || echo 16000; }

list=$(fuzz_targets "$@")
mapfile -t targets <<< "$list"
fuzz_setup
fuzz_build fuzz "${targets[@]}"

# Files that a person named stay; those that are called by their hash are libFuzzer's, and are chosen anew.
is_hash() { [[ ${1##*/} =~ ^[0-9a-f]{40}$ ]]; }

for name in "${targets[@]}"; do
    kept=$root/fuzz/corpus/$name
    folder=$fuzz/minimised/$name
    rm -rf "$folder"
    mkdir -p "$folder" "$kept" "$fuzz/corpus/$name"
    mapfile -t options < <(fuzz_options "$name")
    (cd "$fuzz" && FH1_THREADS=1 OPENBLAS_NUM_THREADS=1 "$root/build/fuzz/fuzz/fuzz_$name" ${options[@]+"${options[@]}"} -set_cover_merge=1 "$folder" "$kept" "$fuzz/corpus/$name") \
        > "$fuzz/minimised/$name.log" 2>&1 || refuse "merging $name failed: build/fuzz-runs/minimised/$name.log"
    used=0 taken=0 most_bytes=$(most "$name")
    for file in "$kept"/*; do
        [[ -f $file ]] || continue
        if is_hash "$file"; then rm "$file"; else used=$((used + $(stat -c %s "$file"))); fi
    done
    while read -r size file; do
        ((used + size <= most_bytes && taken < most_files)) || continue
        cmp -s "$file" <(cat "$kept/${file##*/}" 2> /dev/null) || cp "$file" "$kept/"
        used=$((used + size)) taken=$((taken + 1))
    done < <(find "$folder" -type f -printf '%s %p\n' | sort -k2)
    rmdir "$kept" 2> /dev/null || true
    echo "{\"target\":\"$name\",\"needed\":$(fuzz_count "$folder"),\"taken\":$taken,\"files\":$(fuzz_count "$kept"),\"bytes\":$used}"
done
