#!/usr/bin/env bash
# `fh1 verify`: everything that the golden suite holds is whole; one damaged byte, shard, shape or half of a pair is not,
# and is named; what is no model, or is merely odd, is told apart from damage. Argument: the fh1 program.
set -euo pipefail
fh1=$1
dir=$(mktemp -d)
export OPENBLAS_NUM_THREADS=1 FH1_THREADS=2 # hundreds of short runs
trap 'rm -rf "$dir"' EXIT
checks=0 failures=0
model=golden/models/mini-0.5b-bf16
sharded=golden/merges/bases/plain-f16
adapter=golden/merges/adapters/qv

complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

# verify CODE TEXT PATH OPTION…: the exit code, and a text in the output.
verify() {
    local want=$1 text=$2 code=0
    shift 2
    checks=$((checks + 1))
    "$fh1" verify "$@" > "$dir/out" 2> "$dir/err" || code=$?
    ((code == want)) || complain "exit $code instead of $want: verify $*: $(cat "$dir/out" "$dir/err")"
    cat "$dir/out" "$dir/err" | grep -qF -- "$text" || complain "'$text' is not said: verify $*: $(cat "$dir/out" "$dir/err")"
    if ((want == 2)); then [[ ! -s $dir/out ]] || complain "output after bad input: verify $*"; else [[ ! -s $dir/err ]] || complain "stderr: verify $*: $(cat "$dir/err")"; fi
}

fresh() {
    rm -rf "$dir/m"
    cp -r "$1" "$dir/m"
}

# flip FILE OFFSET: the lowest bit of one byte.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N1 "$1")
    printf "$(printf '\\x%02x' $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# -- whole
for path in golden/models/* golden/merges/bases/*; do verify 0 'good: ' "$path"; done
for path in golden/merges/adapters/*; do verify 0 ', an adapter folder: ' "$path"; done
for path in golden/traces/odd/*.safetensors; do verify 0 'trace file' "$path"; done
"$fh1" convert "$model" "$dir/a.fh1" > "$dir/out" 2>&1
"$fh1" convert "$model" "$dir/a.gguf" > "$dir/out" 2>&1
verify 0 'native file' "$dir/a.fh1"
verify 0 'GGUF file' "$dir/a.gguf"
verify 0 'safetensors file' "$model/model.safetensors"
verify 0 '"verdict":"good","damage":null,"tensors":51,' "$model" --json
cp "$dir/a.fh1" "$dir/no_suffix"
verify 0 'native file' "$dir/no_suffix"

# -- damaged files: a flipped bit anywhere, a cut, a pointer
bytes=$(stat -c %s "$dir/a.fh1")
for at in 0 9 70 $((bytes / 3)) $((bytes / 2)) $((bytes - 1)); do
    cp "$dir/a.fh1" "$dir/b.fh1"
    flip "$dir/b.fh1" $at
    verify 1 'damaged: ' "$dir/b.fh1"
done
verify 1 '"verdict":"damaged","damage":"' "$dir/b.fh1" --json
bytes=$(stat -c %s "$dir/a.gguf")
for at in 0 5 30 $((bytes / 2)) $((bytes - 1)); do
    cp "$dir/a.gguf" "$dir/b.gguf"
    flip "$dir/b.gguf" $at
    verify 1 'damaged: ' "$dir/b.gguf"
done
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n' > "$dir/pointer.gguf"
verify 1 'git-lfs pointer' "$dir/pointer.gguf"
head -c 5000 "$model/model.safetensors" > "$dir/cut.safetensors"
verify 1 'cut.safetensors' "$dir/cut.safetensors"

# -- damaged folders
fresh "$sharded"
rm "$dir/m/model-00003-of-00004.safetensors"
verify 1 'model-00003-of-00004.safetensors' "$dir/m"
fresh "$sharded"
cp "$dir/m/model-00002-of-00004.safetensors" "$dir/m/model-00003-of-00004.safetensors"
verify 1 'model.safetensors.index.json' "$dir/m"
fresh "$model"
rm "$dir/m/config.json"
verify 1 'config.json' "$dir/m"
fresh "$model"
sed -i 's/"intermediate_size": 56/"intermediate_size": 57/' "$dir/m/config.json"
verify 1 'feed_forward' "$dir/m"
fresh "$model"
sed -i 's/"num_hidden_layers": 3/"num_hidden_layers": 2/' "$dir/m/config.json"
verify 1 'model.layers.2.' "$dir/m"
fresh "$model"
LC_ALL=C sed -i 's/model\.layers\.1\.mamba\.A_log/model.layers.1.mamba.B_log/' "$dir/m/model.safetensors"
verify 1 'A_log' "$dir/m"
fresh "$model"
echo '{"version": "1.0", "model": {' > "$dir/m/tokenizer.json"
verify 1 'tokenizer.json' "$dir/m"
fresh "$model"
mkdir "$dir/m/original"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n' > "$dir/m/original/tokenizer.model"
verify 1 'original/tokenizer.model' "$dir/m"
fresh golden/merges/bases/nf4-nested
LC_ALL=C sed -i '0,/q_proj\.weight\.nested_absmax/s//q_proj.weight.nested_absmay/' "$dir"/m/*.safetensors "$dir/m"/*.index.json
verify 1 'q_proj' "$dir/m"
fresh "$adapter"
LC_ALL=C sed -i '0,/q_proj\.lora_B/s//q_proj.lora_D/' "$dir/m/adapter_model.safetensors"
verify 1 'q_proj.lora_A' "$dir/m"
fresh "$adapter"
sed -i 's/"r": 5/"r": 5, "lora_future": 1/' "$dir/m/adapter_config.json"
verify 1 'lora_future' "$dir/m"
cp golden/traces/odd/t3.safetensors "$dir/trace.safetensors"
LC_ALL=C sed -i 's/"step0\/input_ids"/"step0\/input_idz"/' "$dir/trace.safetensors"
verify 1 'token ids' "$dir/trace.safetensors"

# -- odd, but whole
fresh "$model"
header=$(od -An -tu8 -N8 "$dir/m/model.safetensors")
for at in 0 2 4; do printf '\xc0\x7f' | dd of="$dir/m/model.safetensors" bs=1 seek=$((8 + header + at)) conv=notrunc status=none; done
printf '\x80\xff' | dd of="$dir/m/model.safetensors" bs=1 seek=$((8 + header + 6)) conv=notrunc status=none
verify 0 '(BF16) holds 3 NaN and 1 infinite values, the first at element 0' "$dir/m"
echo stray > "$dir/m/model-00009-of-00009.safetensors"
verify 0 'model-00009-of-00009.safetensors is no part of the model' "$dir/m"
echo '{"loss": NaN}' > "$dir/m/trainer_state.json"
verify 0 'trainer_state.json' "$dir/m"
verify 0 '"n_notes":3,' "$dir/m" --json
fresh "$model"
sed -i 's/"model_type": "falcon_h1"/"model_type": "llama"/' "$dir/m/config.json"
verify 0 'model_type is llama' "$dir/m"

# -- whole, for all that is known, but for other programs
cp "$dir/a.gguf" "$dir/b.gguf"
printf '\x04' | dd of="$dir/b.gguf" bs=1 seek=4 conv=notrunc status=none
verify 2 'version of GGUF is not supported' "$dir/b.gguf"
sed 's/falcon-h1/falcon-h9/' "$dir/a.gguf" > "$dir/b.gguf"
verify 2 'falcon-h9' "$dir/b.gguf"

# -- no such thing
verify 2 'No such file' "$dir/none"
verify 2 'neither a model nor an adapter' "$dir"
verify 2 'no file that fh1 knows' README.md
fresh "$model"
mv "$dir/m/model.safetensors" "$dir/m/pytorch_model.bin"
verify 2 'pickled' "$dir/m"
mkfifo "$dir/pipe.fh1"
verify 2 'not a regular file' "$dir/pipe.fh1"
if ((EUID != 0)); then
    chmod 000 "$dir/a.fh1"
    verify 2 'a.fh1' "$dir/a.fh1"
fi
verify 2 'PATH'
verify 2 'one argument too many' "$model" "$model"

echo "$checks command lines, $failures failures"
((failures == 0))
