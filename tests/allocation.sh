#!/usr/bin/env bash
# fh1 mup, fh1 init --block and fh1 info as somebody who shapes a model meets them: verdicts, exit codes, what is assumed and
# what is refused. Argument: the fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
configs=golden/configs
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

# json_lines: every line of the last output is one object.
json_lines() { ! grep -qvE '^\{.*\}$' "$dir/out" || complain 'not JSON lines'; }
count() { [[ $(grep -c "$1" "$dir/out") == "$2" ]] || complain "not $2 lines with $1"; }

# -- mup: the check
run 0 mup --help && says 'usage: fh1 mup' && says 'example: '
for model in 0.5B 1.5B 1.5B-Deep 3B 7B 34B; do
    run 0 mup "$configs/Falcon-H1-$model.json" && says 'FOLLOWS: 14 of 14' && says 'key_multiplier'
done
run 1 mup "$configs/Falcon-H1-Tiny-R-90M.json" && says 'DEVIATES: 2 of 14' && says 'does not follow the width law' &&
    says 'what fits it is lm_head_multiplier, attention_in_multiplier'
run 1 mup "$configs/Falcon-H1-Tiny-R-90M.json" --json && json_lines && count '"verdict":"deviates"' 12
tail -1 "$dir/out" | grep -q '^{"summary":true,.*"verdict":"DEVIATES","follow":2,"rounded":0,"deviate":12}' || complain 'no summary'

# edit NAME SED-EXPRESSION: the 7B's config, changed.
edit() { sed -E "$2" "$configs/Falcon-H1-7B.json" > "$dir/$1.json"; }
edit bf16 's/("key_multiplier": )[0-9.e-]+/\10.0306396484375/'
run 0 mup "$dir/bf16.json" && says 'the law rounded to bf16, -0.0017' && says '13 of 14 follow the law, 1 are the law rounded'
edit digits 's/("ssm_out_multiplier": )[0-9.e-]+/\10.117851/'
run 0 mup "$dir/digits.json" && says 'the law rounded to 6 digits'
edit wrong 's/("key_multiplier": )[0-9.e-]+/\10.0308/'
run 1 mup "$dir/wrong.json" && says 'DEVIATES by +0.357 %' && says '13 of 14 follow'
edit once 's/("key_multiplier": )[0-9.e-]+/\10.07365695637359868/'
run 1 mup "$dir/once.json" && says '2.4 times the law'

# -- mup: what holds a config
mkdir "$dir/folder"
cp "$configs/Falcon-H1-7B.json" "$dir/folder/config.json"
run 0 mup "$dir/folder" && says 'FOLLOWS'
run 0 init --fractions 2,1,5 --width 40 --layers 1 --state 8 --vocab 64 -o "$dir/small" --seed 1
run 0 mup "$dir/small" && says 'FOLLOWS'
run 0 convert "$dir/small" "$dir/small.fh1"
run 0 mup "$dir/small.fh1" && says 'FOLLOWS'
run 0 convert "$dir/small" "$dir/small.gguf" --dtype f32
bad 'folded into its weights' mup "$dir/small.gguf"
bad 'no config' mup "$dir/small/model.safetensors"
bad 'CONFIG' mup
bad "$dir/none.json" mup "$dir/none.json"
cat > "$dir/mamba.json" << 'JSON'
{"model_type": "falcon_mamba", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64, "state_size": 4,
 "conv_kernel": 4, "time_step_rank": 1, "layer_norm_epsilon": 1e-05, "residual_in_fp32": true, "hidden_act": "silu", "use_bias": false,
 "use_conv_bias": true, "tie_word_embeddings": false, "torch_dtype": "float32"}
JSON
bad 'falcon_mamba has no multipliers' mup "$dir/mamba.json"

# -- mup: other widths
base=$configs/Falcon-H1-1.5B-Deep.json
run 0 mup "$base" --width 2560 --attention-width 1280 --d-ssm 4096 --mlp-width 6144 && says 'attention width            1280, 10 heads of 128 (given)' &&
    says 'head_dim                   128 (as in CONFIG)' && says 'attention_out_multiplier   0.15' && says 'ssm_out_multiplier         0.08838834764831' # the 3B
run 0 mup "$base" --width 640,1280 --json && json_lines && count '"width":' 2 && says '"assumed":["attention_width","d_ssm","mlp_width","head_dim","state"]'
bad 'as many numbers as widths' mup "$base" --width 640,1280,2560 --state 64,128
bad 'the nearest is 1280' mup "$base" --width 2560 --attention-width 1300
bad '--d-ssm needs --width' mup "$base" --d-ssm 1024
bad '--width: not a width' mup "$base" --width 64,x

# -- mup: groups of learning rate and weight decay
cat > "$dir/groups.json" << 'JSON'
{"groups": [{"match": "*.mamba.A_log", "lr": 0.5, "weight_decay": 0.0}, {"kind": "in_proj", "match": "model.layers.0.*", "lr": 0.25},
            {"kind": "embed_tokens", "lr": 4.0}]}
JSON
run 0 mup "$base" --groups "$dir/groups.json" --json && json_lines
says '{"group":0,"match":"*.mamba.A_log","kind":null,"lr":0.5,"weight_decay":0,"tensors":66,"parameters":1584,'
says '{"group":1,"match":"model.layers.0.*","kind":"in_proj","lr":0.25,"weight_decay":1,"tensors":1,"parameters":4618240,'
says '{"group":null,"match":null,"kind":"in_proj","lr":1,"weight_decay":1,"tensors":65,'
run 0 mup "$base" --kinds && says 'down_proj' && says 'not decayed under --decay hf'
echo '{"groups": [{"kind": "lora_A", "lr": 2}]}' > "$dir/idle.json"
bad 'group 0 fits no parameter' mup "$base" --groups "$dir/idle.json"
echo '{"groups": [{"kind": "D"}, {"match": "*.mamba.D"}]}' > "$dir/taken.json"
bad 'group 1 fits no parameter that no earlier group has taken' mup "$base" --groups "$dir/taken.json"

run 0 mup "$dir/mamba.json" --kinds && says 'x_proj' && says '1 not decayed under --decay hf' # norm_f is, by its name

# -- init: the search space
run 0 init --block SAM --list --json && json_lines && count '"block":"SAM","fractions":' 21
says '"fractions":[2,1,5],"d_ssm":1024,"mamba_heads":16,"attention_width":768,"heads":6,"mlp_width":3040,"parameters":1302560320'
run 0 init --list && says '6,1,1    3072 = 48x64      768 =  6x128     608'
bad 'no whole numbers' init --list --config golden/configs/Falcon-H1-0.5B.json
for block in SA_M SAM S_A_M; do
    run 0 init --block $block --fractions 3,2,3 --width 80 --layers 2 --state 16 --vocab 512 -o "$dir/$block" --seed 1 --dtype f32
    grep -q "\"fh1_block\": \"$block\"" "$dir/$block/config.json" || complain "no fh1_block $block"
    run 0 mup "$dir/$block"
    run 0 info "$dir/$block" && says "block $block"
    run 0 check "$dir/$block" --engine ref-f32 && says PASS
done
run 0 info "$dir/SAM" --json --context 100 && cp "$dir/out" "$dir/sam"
run 0 init --block SAM --fractions 3,2,3 --width 80 --layers 2 --state 16 --vocab 512 -o "$dir/again" --seed 1 --dtype f32
cmp "$dir/SAM/model.safetensors" "$dir/again/model.safetensors" || complain 'init: one seed, two files'
bad '2 + 2 + 3 = 7' init --block SAM --fractions 2,2,3 -o "$dir/x" --seed 1
bad 'nothing is left for the attention' init --fractions 4,0,4 -o "$dir/x" --seed 1
bad 'SA_M, SAM or S_A_M' init --block SMA --fractions 2,1,5 -o "$dir/x" --seed 1
bad 'a multiple of 40' init --fractions 2,1,5 --width 100 -o "$dir/x" --seed 1
bad '--width needs --fractions' init --config "$base" --block SAM --width 80 -o "$dir/x" --seed 1
bad '--fractions or --config is missing' init --block SAM -o "$dir/x" --seed 1
bad 'falcon_mamba has no search space' init --config "$dir/mamba.json" --block SAM -o "$dir/x" --seed 1
bad 'exists' init --fractions 2,1,5 --width 40 --layers 1 --state 8 --vocab 64 -o "$dir/small" --seed 1
[[ ! -e $dir/x ]] || complain 'a refused init leaves a folder'
run 0 init --config golden/models/mini-0.5b/config.json --block S_A_M -o "$dir/other" --seed 1
grep -q '"fh1_block": "S_A_M"' "$dir/other/config.json" && grep -q '"mamba_d_ssm"' "$dir/other/config.json" || complain 'another block of a config'
# Other sizes leave the block of the config alone, named there or not.
run 0 init --config golden/models/block-sam/config.json --layers 1 -o "$dir/sam1" --seed 1
grep -q '"fh1_block": "SAM"' "$dir/sam1/config.json" || complain 'another depth makes another block'
run 0 init --config golden/models/mini-0.5b/config.json --layers 1 -o "$dir/plain1" --seed 1
! grep -q fh1_block "$dir/plain1/config.json" || complain 'another depth names a block'
run 0 init --config golden/models/block-sam/config.json --fractions 3,2,3 --width 80 -o "$dir/sam2" --seed 1
grep -q '"fh1_block": "SAM"' "$dir/sam2/config.json" || complain 'other widths make another block'
bad '--json belongs to --list' init --config "$base" --json -o "$dir/x" --seed 1
bad '--context belongs to --list' init --block SAM --fractions 2,1,5 --context 9 -o "$dir/x" --seed 1
bad '--list writes nothing' init --list -o "$dir/x"
bad '--list writes nothing' init --list --dtype nonsense

# -- numbers at the end of their range
sed -e 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 16384/; s/"hidden_size": [0-9]*/"hidden_size": 16777216/
    s/"intermediate_size": [0-9]*/"intermediate_size": 16777216/' golden/models/mini-0.5b/config.json > "$dir/huge.json"
echo '{"groups": [{"match": "*_proj.weight"}]}' > "$dir/all.json"
run 0 mup "$dir/huge.json" --groups "$dir/all.json" --json && json_lines
! grep -q '"parameters":-' "$dir/out" || complain 'a count of parameters is negative'
sed -e 's/"lm_head_multiplier": [0-9.e-]*/"lm_head_multiplier": 1e308/' "$base" > "$dir/loud.json"
run 1 mup "$dir/loud.json" --json && json_lines && says '"relative":null'

# -- info
run 0 info golden/models/mamba-tied && says 'I=45 N=5 K=3 R=6' && says 'use_bias' && ! grep -q 'attends' "$dir/out"
run 0 info golden/models/mamba-tied --json && says '"I":45,"N":5,"K":3,"R":6,"use_bias":'
run 0 info "$dir/small" --context 1000 && says 'FLOPs of a token that attends to 1000' && says ' %'
run 0 info "$dir/small" --json --tokens 64 && says '"flops_per_token":{"context":64,"total":' && says '"shares":{"embedding":{"parameters":'
# total FILE-KEY: the first number of the object is the sum of the others.
sums() {
    grep -o "\"$1\":{[^}]*}" "$dir/out" | grep -oE '"[a-z_]+":[0-9]+' | grep -v '"context"' | cut -d: -f2 |
        awk 'NR == 1 {total = $1} NR > 1 {sum += $1} END {exit !(NR == 7 && sum == total && total > 0)}' || complain "the parts of $1 do not add up"
}
for model in golden/models/mini-34b golden/models/mamba-tied "$dir/SAM"; do
    run 0 info "$model" --json --context 9
    sums parameters
    sums flops_per_token
done
# By hand: D 40, 3 layers, F 60; 6 and 2 heads of 8; d_ssm 48, 4 heads, N 10, 2 groups, K 4, gated norm; V 104. Per layer in_proj
# 2·40·140, conv 88·9, decays 4, scan 48·54, norm 4·48, out_proj 2·48·40; q, k, v 2·40·80, rotation 3·64, scores and values
# 4·48·10, o 2·48·40; MLP 6·40·60 + 60; seven norms of 4·40.
run 0 info golden/models/mini-34b --json --context 10
says '"flops_per_token":{"context":10,"total":145736,"embedding":0,"attention":37056,"mixer":55860,"mlp":43380,"norms":1120,"lm_head":8320}'

echo "$checks runs, $failures failures"
((failures == 0))
