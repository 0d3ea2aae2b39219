#!/usr/bin/env bash
# fh1 convert as a user meets it: any folder comes back byte for byte, sources stay intact, refusals name their reason.
# Argument: the fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

# same A B: the folders hold the same files, links followed.
same() { diff -r "$1" "$2" > /dev/null 2>&1; }

# state PATH: names, kinds and contents of everything below it.
state() { (cd "$1" && find . -printf '%p %y %l\n' | sort && find . -type f -exec sha256sum {} + | sort); }

# round_trip FOLDER [NAME]: through a folder, and through .fh1.
round_trip() {
    local name=${2:-$(basename "$1")}
    run 0 convert "$1" "$dir/$name.hf" --quiet
    same "$1" "$dir/$name.hf" || complain "$1 -> folder differs"
    run 0 convert "$1" "$dir/$name.fh1" --quiet
    run 0 convert "$dir/$name.fh1" "$dir/$name.back" --quiet
    same "$1" "$dir/$name.back" || complain "$1 -> .fh1 -> folder differs"
    [[ ! -s $dir/out && ! -s $dir/err ]] || complain "--quiet speaks"
}

# ---- round trips: f32 and bf16, single and sharded, tied and untied, quantised ----

for folder in golden/models/* golden/merges/bases/*; do
    [[ -f $folder/config.json ]] && round_trip "$folder" "${folder//\//-}"
done

# A folder that nobody's writer would make: header spelling, metadata order, odd names, links, sub-folders.
model=golden/models/odd-bf16
in=$dir/unusual
mkdir -p "$in/.cache/huggingface" "$in/original/a b"
cp "$model/generation_config.json" "$in"
printf '%s' "$(cat "$model/config.json")" > "$in/config.json" # without its last newline
n=$(od -An -tu8 -N8 "$model/model.safetensors" | tr -d ' ')
header=$(dd if="$model/model.safetensors" iflag=skip_bytes,count_bytes skip=8 count="$n" status=none | sed 's/ *$//')
body=${header#*\},} # what follows the metadata
header=$(printf ' {%s ,\n\t"__metadata__":{"zeta":"1","format":"pt","alpha":"\\u00e9"}}  ' "${body%\}}")
length=$(printf '%s' "$header." | wc -c)
length=$((length - 1))
{
    for ((i = 0; i < 8; i++)); do printf "$(printf '\\x%02x' $(((length >> (8 * i)) & 255)))"; done
    printf '%s' "$header"
    tail -c +$((9 + n)) "$model/model.safetensors"
} > "$in/model.safetensors"
: > "$in/original/empty"
printf 'line\r\n\0end' > "$in/original/a b/"$'caf\xe9.bin'
head -c 3000000 /dev/zero > "$in/original/zeros"
echo '{}' > "$in/.cache/huggingface/.gitignore"
ln -s original/zeros "$in/linked"
ln -s original "$in/folder"
ln "$in/config.json" "$in/hard"
cp "$model/model.safetensors" "$in/adapter.safetensors"
before=$(state "$in")
round_trip "$in"
run 0 check "$dir/unusual.fh1" --trace golden/traces/odd-bf16/t37.safetensors

# The comparison sees a change of one byte.
printf 'x' | dd of="$dir/unusual.back/original/zeros" bs=1 seek=2000000 conv=notrunc status=none
same "$in" "$dir/unusual.back" && complain "a changed byte is not seen"

# ---- shards and types ----

model=golden/models/mini-0.5b
run 0 convert $model "$dir/shards" --shard-size 100KB
grep -q "^$dir/shards: hf, [0-9]* bytes -> [0-9]* bytes, [0-9.]*$" "$dir/out" || complain "the summary: $(cat "$dir/out")"
[[ $(ls "$dir/shards" | grep -c '^model-0000.-of-00003.safetensors$') == 3 ]] || complain "three shards"
run 0 convert $model "$dir/ones" --shard-size 1KB -q # most shards hold one tensor
run 0 verify "$dir/ones"
run 0 convert "$dir/ones" "$dir/ones-again" --shard-size 1TB -q
cmp -s <(tail -c 60000 $model/model.safetensors) <(tail -c 60000 "$dir/ones-again/model.safetensors") || complain "other weights after shards"
round_trip "$dir/shards"
run 0 convert "$dir/shards.fh1" "$dir/single" --shard-size 1TB -q
same $model "$dir/single" || complain "shards do not join to the single file"
run 0 convert "$dir/shards" "$dir/bf16" --dtype bf16 --shard-size 1000000 -q
same $model-bf16 "$dir/bf16" || complain "the cast is not torch's"
run 0 convert "$dir/bf16" "$dir/wide.fh1" --dtype f32 -q
run 0 convert "$dir/wide.fh1" "$dir/narrow" --dtype bf16 -q
same $model-bf16 "$dir/narrow" || complain "bf16 -> f32 -> bf16 differs"
run 0 convert golden/merges/bases/nf4 "$dir/decoded" --dtype bf16 -q
grep -q quantization_config "$dir/decoded/config.json" && complain "quantization_config is still there"
run 0 info "$dir/decoded"

# ---- GGUF ----

run 0 convert $model-bf16 "$dir/m.gguf" --dtype f32
run 0 convert "$dir/m.gguf" "$dir/unfolded" -q
same $model-bf16 "$dir/unfolded" || complain "bf16 -> f32 GGUF -> folder differs"
run 0 convert "$dir/m.gguf" "$dir/unfolded.fh1" -q
run 0 check "$dir/m.gguf" --trace golden/traces/mini-0.5b-bf16/t37.safetensors
run 0 convert golden/merges/bases/nf4 "$dir/q8.gguf" --dtype q8_0
bad "cannot be kept" convert golden/merges/bases/nf4 "$dir/x.gguf"
bad "both are GGUF" convert "$dir/m.gguf" "$dir/x.gguf"
bad "time_step_limit" convert golden/models/odd "$dir/x.gguf"
bad "the model is falcon_mamba" convert golden/merges/bases/mamba-f32 "$dir/x.gguf"
run 0 convert $model "$dir/rounded.gguf" --dtype bf16
grep -q "^note: $dir/rounded.gguf: .* bit for bit" "$dir/err" || complain "the losses of folding are not told"

# ---- sources stay intact ----

cp -r $model "$dir/src"
run 0 convert "$dir/src" "$dir/src.fh1.good" --to fh1 -q
ln -s src "$dir/link"
ln "$dir/src.fh1.good" "$dir/hardlink.fh1"
ln -s src.fh1.good "$dir/symlink.fh1"
mkdir "$dir/target"
cp $model/* "$dir/target"
mkdir "$dir/into"
cp $model/config.json "$dir/into"
ln -s ../target/model.safetensors "$dir/into/model.safetensors"
all=$(state "$dir/src")$(state "$dir/into")$(sha256sum "$dir"/*.fh1*)
for force in "" --force; do
    bad "the target is the source" convert "$dir/src" "$dir/src" $force
    bad "the target is the source" convert "$dir/src" "$dir/src/" $force
    bad "the target is the source" convert "$dir/src" "$dir/link" $force
    bad "the target is the source" convert "$dir/link" "$dir/src" $force
    bad "the target is the source" convert "$dir/src" "$dir/target/../src" $force
    bad "the target lies inside the source" convert "$dir/src" "$dir/src/new" $force
    bad "the target lies inside the source" convert "$dir/link" "$dir/src/new.fh1" $force
    bad "the target is the source" convert "$dir/src.fh1.good" "$dir/hardlink.fh1" $force
    bad "the target is the source" convert "$dir/src.fh1.good" "$dir/symlink.fh1" $force
    bad "a link into the target" convert "$dir/into" "$dir/target" $force
done
cp "$dir/src.fh1.good" "$dir/target/inside.fh1"
bad "the source lies inside the target" convert "$dir/target/inside.fh1" "$dir/target" --force
[[ $all == $(state "$dir/src")$(state "$dir/into")$(sha256sum "$dir"/*.fh1*) ]] || complain "a source has changed"
[[ $before == $(state "$in") ]] || complain "the unusual folder has changed"

# ---- targets ----

bad "the target exists" convert $model "$dir/target"
run 0 convert $model-bf16 "$dir/target" --force -q
same $model-bf16 "$dir/target" || complain "--force does not replace a model"
mkdir "$dir/mine"
ln -s src/new.fh1 "$dir/dangling.fh1"
ln -s mine/model.fh1 "$dir/behind.fh1"
echo x > "$dir/mine/diary"
echo x > "$dir/diary.fh1"
bad "neither a model nor an adapter" convert $model "$dir/mine" --force
bad "not a model and is not replaced" convert $model "$dir/diary.fh1" --force
bad "the target exists" convert $model "$dir/diary.fh1"
run 0 convert $model "$dir/hardlink.fh1" --force -q
bad "the target lies inside the source" convert "$dir/link" "$dir/dangling.fh1" --force
run 0 convert $model "$dir/behind.fh1" --force -q
[[ -L $dir/behind.fh1 && -f $dir/mine/model.fh1 ]] || complain "the target is not what the link names"
for target in limited limited.fh1 limited.gguf; do
    code=0
    (ulimit -f 100 && exec "$fh1" convert $model "$dir/$target" -q) 2> "$dir/err" || code=$?
    ((code == 3)) || complain "a limit on the size of files: exit $code, $(cat "$dir/err")"
    [[ ! -e $dir/$target ]] || complain "a limit on the size of files: half a target"
done
bad "nowhere" convert $model "$dir/nowhere/x"

# ---- bad usage and bad input ----

bad "--to: unknown format" convert $model "$dir/x" --to onnx
bad "--dtype: unknown type" convert $model "$dir/x" --dtype f64
bad "only a GGUF file" convert $model "$dir/x" --dtype q8_0
for size in 0 -1 5XB GB "" 1e5GB 0.1 nan; do bad "--shard-size" convert $model "$dir/x" --shard-size "$size"; done
bad "--shard-size: a GGUF file is one file" convert $model "$dir/x.gguf" --shard-size 1MB
bad "convert" convert $model
bad "not a model" convert README.md "$dir/x"
mkdir "$dir/empty"
bad "no config.json" convert "$dir/empty" "$dir/x"
cp $model/config.json "$dir/empty"
bad "no weights" convert "$dir/empty" "$dir/x"
sed 's/"falcon_h1"/"llama"/' $model/config.json > "$dir/empty/config.json"
bad "model_type" convert "$dir/empty" "$dir/x"
cp -r "$dir/shards" "$dir/damaged"
sed -i 's/"total_size": [0-9]*/"total_size": 7/' "$dir/damaged/model.safetensors.index.json"
bad "total_size" convert "$dir/damaged" "$dir/x"
cp "$dir/shards/model.safetensors.index.json" "$dir/damaged"
truncate -s -1 "$dir/damaged/model-00002-of-00003.safetensors"
bad "model-00002-of-00003" convert "$dir/damaged" "$dir/x"
[[ ! -e $dir/x ]] || complain "something was written"

# ---- every command reads every format ----

for path in $model "$dir/src.fh1.good" "$dir/shards" golden/merges/bases/nf4 "$dir/q8.gguf"; do
    run 0 info "$path" --json
    grep -q '"format":{"name":"[a-z0-9]*","bytes":[0-9]*' "$dir/out" || complain "info: no format of $path"
    run 0 info "$path"
done
run 0 check "$dir/shards.fh1" --trace golden/traces/mini-0.5b/t37.safetensors
run 1 check "$dir/wide.fh1" --trace golden/traces/mini-0.5b/t37.safetensors # its weights were rounded
[[ -z $(find "$dir" -maxdepth 2 -name '.*.fh1-*') ]] || complain "a temporary is left"

echo "$checks runs, $failures failures"
((failures == 0))
