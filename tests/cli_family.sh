#!/usr/bin/env bash
# Every command on Falcon-Mamba and on the blocks SAM and S_A_M: what one command writes another one reads, and a file that
# says something else is rejected. Argument: the fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

# changed NAME MODEL SED: the model in $dir/NAME, its config.json edited.
changed() {
    cp -r "golden/models/$2" "$dir/$1"
    sed "$3" "golden/models/$2/config.json" > "$dir/$1/config.json"
    ! cmp -s "$dir/$1/config.json" "golden/models/$2/config.json" || complain "$1: the edit changes nothing"
}

printf '5 17 23\n42\n' > "$dir/ids"
printf '42\n' > "$dir/solo"
for name in mamba-tied mamba-untied-bf16 block-sam block-sequential; do
    model=golden/models/$name own=$dir/$name.safetensors
    run 0 info "$model" && says parameters && says FLOPs
    run 0 taps "$model" --json && says '"tap":"cache.1.ssm"'
    grep -o '"tap":"[^"]*"' "$dir/out" | grep -v '"grad\.' > "$dir/listed"
    # a trace of every tap is one that check, diff and --like read, and holds what `fh1 taps` lists
    run 0 trace "$model" --engine ref-f32 --seed 7 --tokens 9 --batch 2 --decode 1 -o "$own"
    for tap in $(cut -d'"' -f4 "$dir/listed"); do
        [[ $tap == loss ]] || grep -aq "\"step1/$tap\"" "$own" || complain "$name: no $tap in a trace of every tap"
    done
    run 0 check "$model" --trace "$own" && says PASS
    run 0 trace "$model" --engine ref-f32 --like "$own" -o "$dir/like.safetensors"
    run 0 diff "$own" "$dir/like.safetensors" && says '0 differ'
    rm "$dir/like.safetensors"
    # a row does not see its neighbour, and both engines choose the same ids
    run 0 run "$model" --ids "$dir/ids" -n 4 && cp "$dir/out" "$dir/both"
    run 0 run "$model" --ids "$dir/solo" -n 4
    [[ $(tail -n1 "$dir/both") == "$(cat "$dir/out")" ]] || complain "$name, run: a padded row differs from the row alone"
    run 0 run "$model" --ids "$dir/ids" -n 4 --engine cuda-host
    [[ $name == *bf16 ]] || cmp -s "$dir/both" "$dir/out" || complain "$name, run: cuda-host chooses other ids"
    # folder, native file, folder
    run 0 convert "$model" "$dir/$name.fh1"
    run 0 verify "$dir/$name.fh1" && says good
    run 0 check "$dir/$name.fh1" --trace "$own" && says PASS
    run 0 convert "$dir/$name.fh1" "$dir/$name.back"
    diff -r "$model" "$dir/$name.back" > /dev/null || complain "$name: not the same folder after .fh1"
    bad 'keep the model as' convert "$model" "$dir/$name.gguf"
done
# the order of the block: the mixer stands before attention there
run 0 taps golden/models/block-sequential
[[ $(grep -n 'mamba.in_proj ' "$dir/out" | head -1 | cut -d: -f1) -lt $(grep -n 'self_attn.q_proj ' "$dir/out" | head -1 | cut -d: -f1) ]] ||
    complain 'taps: attention before the mixer in S_A_M'
run 0 check golden/models/block-sequential --engine ref-f32 --html "$dir/page.html"
grep -o 'scope="row">[a-z_.]*' "$dir/page.html" | cut -d'>' -f2 | awk '!seen[$0]++' | tr '\n' ' ' > "$dir/rows"
grep -q 'mamba.out_proj mid_ssm attn_layernorm self_attn.q_proj' "$dir/rows" || complain "page: not in the order of S_A_M: $(cat "$dir/rows")"

# -- planted: another model's config is seen at its tap
changed eps mamba-tied 's/"mixer_rms_eps": 3e-05/"mixer_rms_eps": 3e-01/'
run 1 check "$dir/eps" --trace "$dir/mamba-tied.safetensors" && says 'first divergence backbone.layers.0.mixer.dt step 0'
changed rank mamba-tied 's/"time_step_rank": 6/"time_step_rank": 5/'
bad 'x_proj' info "$dir/rank"
changed block block-sam 's/"SAM"/"SA_M"/'
bad 'pre_ff_layernorm' info "$dir/block"
changed multiplier mamba-tied 's/"model_type": "falcon_mamba"/"model_type": "falcon_h1"/'
bad 'config.json' info "$dir/multiplier"
bad 'multipliers' mup golden/models/mamba-tied

# --- a variant of the family alone: engines, and gradients by the complex step ---
run 0 check golden/models/mamba-tied --engine ref-f32 ref-bf16 --variant dt_norm_after_dt_proj
run 0 gradcheck golden/models/mamba-tied --engine ref-f64 ref-f32 --elements 2 --variant dt_norm_after_dt_proj
run 1 check golden/models/mamba-tied --trace golden/traces/mamba-tied/t37.safetensors --variant dt_norm_after_dt_proj
says 'backbone.layers.0.mixer.dt'

echo "$checks command lines, $failures failures"
((failures == 0))
