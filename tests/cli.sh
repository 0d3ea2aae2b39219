#!/usr/bin/env bash
# The program as a user meets it: exit codes, one line per error that names the thing, nothing on stdout after bad
# input, and verdicts that change when a fault is planted. Argument: the fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
model=golden/models/odd
trace=golden/traces/odd/t37.safetensors
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

# Two's-complement little-endian bytes of $1 in $2 bytes, as \x escapes.
bytes() {
    local i v=$1 out=
    for ((i = 0; i < $2; i++)); do out+=$(printf '\\x%02x' $(((v >> (8 * i)) & 255))); done
    printf '%s' "$out"
}

# safetensors FILE HEADER DATA: DATA as \x escapes.
safetensors() {
    printf "$(bytes ${#2} 8)" > "$1"
    printf '%s' "$2" >> "$1"
    printf "$3" >> "$1"
}

# one_step FILE IDS SHAPE [EXTRA-HEADER EXTRA-DATA]: a trace with one call.
one_step() {
    local ids=$2 data= id n=0
    for id in $ids; do data+=$(bytes "$id" 8) && n=$((n + 8)); done
    safetensors "$1" "{\"__metadata__\":{\"fh1.trace\":\"1\"},\"step0/input_ids\":{\"dtype\":\"I64\",\"shape\":$3,\"data_offsets\":[0,$n]}${4:-}}" "$data${5:-}"
}

# copy NAME SED-EXPRESSION: the model with a changed config.json.
copy() {
    mkdir -p "$dir/$1"
    cp "$model"/*.safetensors "$dir/$1/"
    sed -E "$2" "$model/config.json" > "$dir/$1/config.json"
}

# -- help and usage
run 0 --help && says 'fh1 check'
run 0 --version && says 'commit'
for command in info taps trace run check repro diff init laws faults verify; do
    run 0 "$command" --help && says "usage: fh1 $command" && says 'example: '
done
run 2
bad "unknown command 'chekc'" chekc
bad 'MODEL' check
bad '--tokens' info "$model" --tokens 0
bad '--bogus' check "$model" --bogus
bad 'ref-f99' check "$model" --engine ref-f99
bad 'no_such_law' laws "$model" --law no_such_law
bad '--tokens' laws --tokens 5
run 0 laws --engine ref-f32 --law split reset && says 'PASS: 2 PASS' && says 'margin'
run 0 laws "$model" --engine ref-f64 --law causality --json && says '"law":"causality"' && says '"summary":true'
bad 'hf-eager-bf17' check "$model" --trace "$trace" --contract hf-eager-bf17
bad 'no_such_variant' check "$model" --trace "$trace" --variant no_such_variant
bad 'one of --ids, --seed and --like' trace "$model" --engine ref-f32 -o "$dir/x"

# -- faults
run 0 faults && says 'key_multiplier_dropped' && says 'check mini-0.5b mixed_padding self_attn.k_rope' && says 'law.reorder'
[[ $(grep -c '' "$dir/out") -gt 120 ]] || complain 'fewer than 120 faults'
run 0 faults --json
grep -qvE '^\{"fault":"[a-z0-9_]+","family":"falcon_(h1|mamba)","op":"[a-z0-9_]+","source":"[^"]+","caught_by":"[^"]+"\}$' "$dir/out" \
    && complain 'a line of fh1 faults --json has other keys'
run 0 faults key_multiplier_dropped && says 'keys are not multiplied' && says 'ml-explore/mlx-lm#1622'
bad "unknown fault (found 'key_multiplier')" faults key_multiplier
bad '--run' faults --jobs 2
run 0 faults --run key_multiplier_dropped reorder_keys_only && says '3 faults: 3 killed (100 %)' && says '1 of 1 (100.0 %)'
run 0 faults --run --family falcon_h1 key_multiplier_dropped reorder_keys_only && says '2 faults: 2 killed (100 %)'
run 0 faults --run --json reorder_keys_only && says '"killed":true' && says '"summary":true'
# each name has a row in the family that is asked for, wherever it stands
run 0 faults --family falcon_mamba inner_norms_dropped dt_bias_dropped && says 'inner_norms_dropped' && says 'dt_bias_dropped'
for names in 'key_multiplier_dropped inner_norms_dropped' 'inner_norms_dropped key_multiplier_dropped'; do
    bad "models of falcon_mamba cannot have (found 'key_multiplier_dropped')" faults --family falcon_mamba $names
    bad "models of falcon_h1 cannot have (found 'inner_norms_dropped')" faults --family falcon_h1 $names
done
bad "cuda-host runs on models of falcon_h1 alone (found 'dt_bias_dropped')" \
    faults --run --engine cuda-host --family falcon_mamba dt_bias_dropped
run 0 faults --run --family falcon_mamba grad_conv_taps_reversed dt_bias_dropped && says '2 faults: 2 killed (100 %)'
bad "models of falcon_mamba cannot have (found 'grad_groups_tiled')" faults --family falcon_mamba grad_groups_tiled
bad "$dir/mini-0.5b" faults --run --models "$dir" key_multiplier_dropped

# -- good paths
run 0 info "$model" && says 'ssm_multipliers[4] (dt)'
run 0 info "$model" --json && says '"tied_head":true'
run 0 taps "$model" && says 'model.layers.i.mamba.conv_act'
run 0 taps "$model" --json && says '"tap":"cache.2.ssm"'
# In the order of computation: the mixer behind attention, but in the block S_A_M in front of it.
run 0 taps "$model" && [[ $(grep -oE 'i\.(mamba.in_proj|self_attn.q_proj)' "$dir/out" | head -1) == i.self_attn.q_proj ]] \
    || complain 'taps are not in the order of computation'
run 0 taps golden/models/block-sequential && [[ $(grep -oE 'i\.(mamba.in_proj|self_attn.q_proj)' "$dir/out" | head -1) == i.mamba.in_proj ]] \
    || complain 'taps of S_A_M are not in the order of computation'
run 0 check "$model" --trace "$trace" && says PASS
run 0 check "$model" --trace "$trace" --json && says '"summary":true'
run 0 check "$model" --engine ref-f32 && says PASS
run 0 trace "$model" --engine ref-f32 --seed 7 --tokens 9 --batch 2 --decode 2 -o "$dir/a.safetensors"
run 0 trace "$model" --engine ref-f32 --like "$dir/a.safetensors" -o "$dir/b.safetensors"
run 0 diff "$dir/a.safetensors" "$dir/b.safetensors" && says '0 differ'
run 0 check "$model" --trace "$dir/a.safetensors" && says PASS
run 1 diff "$dir/a.safetensors" "$trace"
bad 'exists' trace "$model" --engine ref-f32 --seed 7 --tokens 9 -o "$dir/a.safetensors"

printf '5 17 23\n42\n' > "$dir/ids"
run 0 run "$model" --ids "$dir/ids" -n 6 && [[ $(wc -lw < "$dir/out" | tr -s ' ') == ' 2 12' ]] || complain 'run: 2 rows of 6 ids'
cp "$dir/out" "$dir/both"
printf '42\n' > "$dir/solo"
run 0 run "$model" --ids "$dir/solo" -n 6
[[ $(tail -n1 "$dir/both") == "$(cat "$dir/out")" ]] || complain 'run: a padded row differs from the row alone'

# -- adapters, attached
base=golden/merges/bases/plain-f32 adapter=golden/merges/adapters/exclude-list
attached=golden/traces/attached/exclude-list-f32.safetensors
run 0 check "$base" --adapter "$adapter" --trace "$attached" --engine ref-f32 && says '2 subjects'
run 1 check "$base" --trace "$attached" && says 'first divergence model.layers.0.self_attn.k_proj step 0'
run 1 check "$base" --adapter "$adapter" "$adapter" --trace "$attached" && says 'first divergence model.layers.0.self_attn.k_proj'
run 0 check "$base" --adapter "$adapter" --engine ref-f32 && says PASS
run 0 trace "$base" --adapter "$adapter" --engine ref-f32 --like "$attached" -o "$dir/attached.safetensors"
run 0 check "$base" --adapter "$adapter" --trace "$dir/attached.safetensors" && says PASS
run 1 check "$base" --trace "$dir/attached.safetensors"
run 0 laws "$base" --adapter "$adapter" --engine ref-f32 --law split decode_prefill && says 'PASS: 2 PASS'
printf '5 17 23\n42\n' > "$dir/ids"
run 0 run "$base" --ids "$dir/ids" -n 8 && cp "$dir/out" "$dir/without"
run 0 run "$base" --adapter "$adapter" --ids "$dir/ids" -n 8
! cmp -s "$dir/out" "$dir/without" || complain 'run: an adapter changes nothing'
bad 'adapter_config.json' check "$base" --adapter "$base" --trace "$attached"
bad '--suite' check --suite golden --adapter "$adapter"
bad 'MODEL' laws --adapter "$adapter"

run 0 init --config "$model/config.json" -o "$dir/made" --seed 3 --dtype f32
run 0 check "$dir/made" --engine ref-f32 && says PASS
bad 'exists' init --config "$model/config.json" -o "$dir/made" --seed 3
run 0 init --config "$model/config.json" -o "$dir/again" --seed 3 --dtype f32
cmp "$dir/made/model.safetensors" "$dir/again/model.safetensors" || complain 'init: one seed, two files'

# -- planted faults: a wrong trace is named, and so is a NaN
copy key 's/"key_multiplier": [0-9.]+/"key_multiplier": 1.0/'
run 0 trace "$dir/key" --engine ref-f32 --seed 7 --tokens 9 -o "$dir/key.safetensors"
run 1 check "$model" --trace "$dir/key.safetensors" --json && says '"first_divergence":{"tap":"model.layers.0.self_attn.k_rope","step":0'
nan=$(printf '\\x00\\x00\\xc0\\x7f%.0s' {1..33})
one_step "$dir/nan" 5 '[1,1]' ',"step0/model.embed_tokens":{"dtype":"F32","shape":[1,1,33],"data_offsets":[8,140]}' "$nan"
run 1 check "$model" --trace "$dir/nan" && says 'model.embed_tokens'

# -- bad models
copy no_key '/"key_multiplier"/d'
bad 'key_multiplier' info "$dir/no_key"
copy rope 's/"rope_type": "default"/"rope_type": "spiral"/'
bad 'spiral' info "$dir/rope"
copy contradiction 's/"rms_norm_eps"/"rope_theta": 5.0, "rms_norm_eps"/'
bad 'rope_theta' info "$dir/contradiction"
copy shape 's/"intermediate_size": 45/"intermediate_size": 46/'
bad 'feed_forward' info "$dir/shape"
copy shard ''
rm "$dir/shard/model.safetensors"
printf '{"metadata":{"total_size":4},"weight_map":{"model.embed_tokens.weight":"model-00001-of-00002.safetensors"}}' > "$dir/shard/model.safetensors.index.json"
bad 'model-00001-of-00002.safetensors' info "$dir/shard"
bad 'config.json' info "$dir"

# -- bad traces and ids
one_step "$dir/t" 97 '[1,1]'
bad '97' check "$model" --trace "$dir/t"
one_step "$dir/t" '' '[1,0]'
bad 'step0' check "$model" --trace "$dir/t"
one_step "$dir/t" 5 '[1,1]' ',"step0/model.embed_tokens":{"dtype":"F32","shape":[1,33,1],"data_offsets":[8,140]}' "$nan"
bad '[1, 33, 1]' check "$model" --trace "$dir/t"
one_step "$dir/t" 5 '[1,1]' ',"step0/model.layers.0.unknown":{"dtype":"F32","shape":[1,1,33],"data_offsets":[8,140]}' "$nan"
bad 'model.layers.0.unknown' check "$model" --trace "$dir/t"
for mask in '1 0 1' '1 1 2'; do
    data=
    for v in $mask; do data+=$(bytes "$v" 8); done
    one_step "$dir/t" '5 6 7' '[1,3]' ',"step0/attention_mask":{"dtype":"I64","shape":[1,3],"data_offsets":[24,48]}' "$data"
    bad 'mask' check "$model" --trace "$dir/t"
done
head -c 1000 "$trace" > "$dir/t"
bad "$dir/t" check "$model" --trace "$dir/t"
printf '5 97\n' > "$dir/ids"
bad 'line 1, column 3' run "$model" --ids "$dir/ids" -n 2
: > "$dir/ids"
bad 'no token ids' run "$model" --ids "$dir/ids" -n 2
bad 'suite.json' check --suite "$dir"

# -- a result that cannot be written: a closed output, a full disk
code=0
"$fh1" taps "$model" >&- 2> "$dir/err" || code=$?
((code == 3)) || complain "closed stdout: exit $code instead of 3"
if [[ -c /dev/full ]]; then
    code=0
    "$fh1" taps "$model" > /dev/full 2> "$dir/err" || code=$?
    ((code == 3)) || complain "full disk: exit $code instead of 3"
fi


# -- reports go to files only, and a link stays what it is
check=(check "$model" --trace "$trace")
run 2 "${check[@]}" --history /proc/self/mem
run 2 "${check[@]}" --html /dev/stdout
message=$("$fh1" "${check[@]}" --html /dev/stdout 2>&1) || true # a pipe
[[ $message == *'no regular file'* ]] || complain "a pipe as a target: $message"
run 2 "${check[@]}" --junit /dev/null
[[ -L /dev/stdout && -c /dev/null ]] || complain "a device is gone"
ln -s behind.xml "$dir/link.xml"
run 0 "${check[@]}" --junit "$dir/link.xml"
[[ -L $dir/link.xml && -s $dir/behind.xml ]] || complain "the report is not what the link names"
rm "$dir/behind.xml"
bad 'the same file' "${check[@]}" --junit "$dir/link.xml" --lines "$dir/behind.xml"

# -- the line of a repro survives any name of a folder
odd=$dir/$'caf\xe9 \n\'x'
cp -r "$model" "$odd"
run 1 check "$odd" --trace "$dir/key.safetensors" && line=$(sed -n 's/^repro  fh1 //p' "$dir/out")
grep -qF '\xe9' <<< "$line" || complain "not escaped: $line"
eval "words=($line)" && run 1 "${words[@]}"

echo "$checks command lines, $failures failures"
((failures == 0))
