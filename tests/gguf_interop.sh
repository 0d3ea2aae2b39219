#!/usr/bin/env bash
# Our GGUF files in stock llama.cpp, its logits judged; skipped (77) without the llama_logits that ci/interop builds and
# names in FH1_INTEROP_LLAMA. Argument: the fh1 program.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fh1=$1 llama=${FH1_INTEROP_LLAMA:-}
if [[ -z $llama ]]; then
    echo "skipped: FH1_INTEROP_LLAMA is not set (ci/interop sets it)"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAILED: $*" >&2 && exit 1; }

# 40 ids in two calls on one cache.
awk 'BEGIN { for (i = 0; i < 40; i++) printf "%d ", (i * i * 7 + i * 31 + 5) % 90 }' > "$dir/ids"

# logits FILE CONTRACT: what llama.cpp makes of the ids, in $dir/trace.
logits() { "$llama" "$1" "$dir/ids" "$dir/trace" --split 25 --contract "$2"; }

# free_rms: of the steps of the last verdict, the largest distance from truth's own run.
free_rms() { sed -n 's/.*"free_rms":\([^,}]*\).*/\1/p' "$dir/lines" | sort -g | tail -n 1; }

# judge MODEL: the trace against the model, PASS or not; the lines stay in $dir/lines.
judge() { "$fh1" check "$1" --trace "$dir/trace" --json > "$dir/lines"; }

# convert MODEL FILE TYPE: what the conversion cannot undo is told on stderr, which matters only when it fails.
convert() {
    "$fh1" convert "$1" "$2" --dtype "$3" --quiet --force 2> "$dir/message" || fail "$1: $(cat "$dir/message")"
}

# exact NAME MODEL: as f32, where only llama.cpp's own f32 arithmetic lies between.
exact() {
    convert "$2" "$dir/$1.gguf" f32
    logits "$dir/$1.gguf" llamacpp-f32
    judge "$2" || fail "$1: $(cat "$dir/lines")"
    local rms
    rms=$(free_rms)
    awk -v r="$rms" 'BEGIN { exit !(r + 0 > 0 && r + 0 <= 1e-5) }' || fail "$1: relative RMS $rms, allowed 1e-5"
    echo "f32   $1: relative RMS $rms"
}

# coarse NAME MODEL TYPE: against the numbers that the file itself holds.
coarse() {
    convert "$2" "$dir/c.gguf" "$3"
    logits "$dir/c.gguf" "llamacpp-$3"
    judge "$dir/c.gguf" || fail "$1 as $3: $(cat "$dir/lines")"
    echo "$3  $1: relative RMS $(free_rms) within its contract"
    # f32 arithmetic would have been told apart, or the contract says nothing.
    if "$fh1" check "$dir/c.gguf" --trace "$dir/trace" --contract llamacpp-f32 > /dev/null; then
        fail "$1 as $3 passes without its roundings"
    fi
}

# variant NAME SED: a model with another config.json.
variant() {
    sed -e "$2" "$root/golden/models/mini-0.5b/config.json" > "$dir/$1.json"
    "$fh1" init --config "$dir/$1.json" --seed 3 --dtype "${3:-f32}" -o "$dir/$1" > /dev/null
}

# ---- every golden model that llama.cpp can represent, and what no golden model has ----
for model in "$root"/golden/models/*; do
    name=$(basename "$model")
    [[ $name == odd* || $name == mamba-* || $name == block-* ]] && continue # refused by name, below
    exact "$name" "$model"
    for type in bf16 f16; do coarse "$name" "$model" "$type"; done
done
variant tied 's/"tie_word_embeddings": false/"tie_word_embeddings": true/'
variant no-conv-bias 's/"mamba_conv_bias": true/"mamba_conv_bias": false/'
variant mlp-bias 's/"mlp_bias": false/"mlp_bias": true/'
variant linear 's/"rope_type": "default"/"rope_type": "linear", "factor": 2.0/'
variant k1 's/"mamba_d_conv": 4/"mamba_d_conv": 1/'
blocks='s/"hidden_size": 32/"hidden_size": 64/; s/"intermediate_size": 56/"intermediate_size": 96/
    s/"mamba_d_ssm": 60/"mamba_d_ssm": 64/; s/"mamba_d_head": 10/"mamba_d_head": 8/; s/"mamba_n_heads": 6/"mamba_n_heads": 8/'
variant blocks "$blocks" bf16
for name in tied no-conv-bias mlp-bias linear k1 blocks; do exact "$name" "$dir/$name"; done
for name in "$root/golden/models/mini-0.5b" "$dir/blocks"; do coarse "$(basename "$name")" "$name" q8_0; done

# ---- what it cannot represent is refused by name, and nothing is left ----
# refused KEY MODEL
refused() {
    local code=0
    "$fh1" convert "$2" "$dir/refused.gguf" --dtype f32 --quiet 2> "$dir/message" || code=$?
    [[ $code == 2 ]] || fail "$2 is not refused (exit $code)"
    grep -q "$1" "$dir/message" || fail "$2: the message does not name $1: $(cat "$dir/message")"
    [[ ! -e $dir/refused.gguf ]] || fail "$2: a target is left"
}
for model in odd odd-bf16; do refused time_step_limit "$root/golden/models/$model"; done
for model in "$root"/golden/models/mamba-*; do refused model_type "$model"; done
for model in "$root"/golden/models/block-*; do refused fh1_block "$model"; done
variant gate 's/"mamba_rms_norm": false/"mamba_rms_norm": true/; s/"mamba_norm_before_gate": false/"mamba_norm_before_gate": true/'
refused mamba_norm_before_gate "$dir/gate"
variant o-bias 's/"attention_bias": false/"attention_bias": true/'
refused self_attn.o_proj.bias "$dir/o-bias"
variant in-bias 's/"mamba_proj_bias": false/"mamba_proj_bias": true/'
refused mamba.in_proj.bias "$dir/in-bias"
variant out-bias 's/"projectors_bias": false/"projectors_bias": true/'
refused mamba.out_proj.bias "$dir/out-bias"
variant yarn 's/"rope_type": "default"/"rope_type": "yarn", "factor": 2.0/'
refused rope_scaling "$dir/yarn"
refused "both are GGUF" "$dir/tied.gguf"

# ---- the same file as llama.cpp's own converter makes, vocabulary included ----
variant vocabulary 's/"vocab_size": 96/"vocab_size": 320/'
if [[ -n ${FH1_INTEROP_PYTHON:-} ]]; then
    mkdir "$dir/stock"
    "$FH1_INTEROP_PYTHON" "$root/golden/llama/compare_stock.py" "$(dirname "$llama")"/llama_cpp_python-*/vendor/llama.cpp \
        "$fh1" "$dir/vocabulary" "$dir/stock" > "$dir/log" 2>&1 || fail "$(cat "$dir/log")"
    tail -n 1 "$dir/log"
    exact vocabulary "$dir/stock/model"
fi

# ---- an exporter that forgets one multiplier would be seen ----
model=$root/golden/models/mini-0.5b
for key in key_multiplier attention_out_multiplier embedding_multiplier lm_head_multiplier ssm_in_multiplier \
    ssm_out_multiplier; do
    rm -rf "$dir/wrong"
    cp -r "$model" "$dir/wrong"
    sed -i "s/\"$key\": [0-9.]*/\"$key\": 1.0/" "$dir/wrong/config.json"
    convert "$dir/wrong" "$dir/wrong.gguf" f32
    logits "$dir/wrong.gguf" llamacpp-f32
    if judge "$model"; then fail "a file without $key is accepted"; fi
done
echo "six planted faults are rejected"
