#!/usr/bin/env bash
# fh1 merge as a user meets it: what comes out, what is refused with which words, that --verify tells a right merge from
# a wrong one, and that --diff finds the adapter again. Argument: the fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
bases=golden/merges/bases
adapters=golden/merges/adapters
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

# bad TEXT ARGUMENTS…: exit 2, the text in the last line of stderr, no target.
bad() {
    local text=$1
    shift
    run 2 merge "$@" -o "$dir/none"
    tail -n1 "$dir/err" | grep -q '^fh1 merge: ' || complain "no 'fh1 merge' at the start: fh1 merge $*"
    tail -n1 "$dir/err" | grep -qF -- "$text" || { complain "stderr does not say '$text': fh1 merge $*" && cat "$dir/err"; }
    [[ ! -e $dir/none ]] || complain "a target is left: fh1 merge $*"
}

# ---- what comes out ----
run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/qv" --verify
says "PASS  merged, against attached"
says "1 adapter with 4 low-rank pairs merged, rounding exact"
cmp -s $bases/plain-bf16/config.json "$dir/qv/config.json" || complain "config.json changed"
cmp -s $bases/plain-bf16/generation_config.json "$dir/qv/generation_config.json" || complain "a side file changed"
run 0 merge $bases/plain-f16 $adapters/rslora -o "$dir/sharded" --verify
[[ $(ls "$dir/sharded") == "$(ls $bases/plain-f16)" ]] || complain "other files than the base's"
run 0 merge $bases/tied-bf16 $adapters/head-tied -o "$dir/untied" --verify
warns "tie_word_embeddings becomes false"
grep -q '"tie_word_embeddings": false' "$dir/untied/config.json" || complain "the config is still tied"
run 0 merge $bases/plain-bf16 $adapters/qv $adapters/second=-0.5 -o "$dir/two" --verify
says "2 adapters with 8 low-rank pairs merged"
run 0 merge $bases/plain-bf16 $adapters/dora -o "$dir/dora" --rounding peft --verify
run 0 merge $bases/plain-f32 $adapters/pissa-residual --initial $adapters/pissa-initial -o "$dir/pissa" --verify
run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/qv.fh1" --verify -q
run 0 merge "$dir/qv.fh1" $adapters/second -o "$dir/again" --verify
# Rows of 600 columns are merged in pieces.
sed 's/"intermediate_size": 56/"intermediate_size": 600/' golden/models/mini-0.5b/config.json > "$dir/wide.json"
echo '5 17 23 42 8' > "$dir/wide.ids"
run 0 init --config "$dir/wide.json" -o "$dir/wide" --seed 3 --dtype f32
run 0 train "$dir/wide" --data "$dir/wide.ids" --steps 2 --lr 0.1 --seq-len 4 --lora 2,4,down_proj -o "$dir/wide-adapter"
run 0 merge "$dir/wide" "$dir/wide-adapter" -o "$dir/wide-merged" --verify
says "PASS  merged, against attached"
run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/qv.gguf"
cmp -s <(head -c4 "$dir/qv.gguf") <(printf GGUF) || complain "no GGUF"
warns "do not come back bit for bit"
run 0 merge $bases/tied-bf16 $adapters/qv -o "$dir/named"
warns "it says that it was trained on 'plain-bf16'"
run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/silent"
[[ ! -s $dir/err ]] || complain "a base of the right name is warned of"
run 0 merge $bases/int8 $adapters/int8 -o "$dir/int8"
run 0 merge --diff $bases/int8 "$dir/int8"
says "4 tensors changed"
bad "what is between them is nothing" $bases/plain-f32 $adapters/pissa-residual --initial $adapters/pissa-residual
run 2 merge $bases/plain-bf16 $adapters/qv -o "$dir/none.gguf" --verify
warns "folding into GGUF rounds again"
[[ ! -e $dir/none.gguf ]] || complain "a target is left"
run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/json" --json --verify
! grep -qv '^{.*}$' "$dir/out" || complain "--json prints something else"

# The same bytes again, whatever the number of threads.
FH1_THREADS=3 run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/qv" --force
cp "$dir/qv/model.safetensors" "$dir/three"
FH1_THREADS=1 run 0 merge $bases/plain-bf16 $adapters/qv -o "$dir/qv" --force
cmp -s "$dir/three" "$dir/qv/model.safetensors" || complain "threads change the bytes"

# ---- what --verify and --diff see ----
# PEFT's merge of both tied ends adds ΔW twice: a real fault, and --verify must say so.
run 1 merge $bases/tied-f32 $adapters/both-ensure-f32 -o "$dir/twice" --rounding peft --verify
warns "adds ΔW to it twice"
says "FAIL"
run 0 merge $bases/tied-f32 $adapters/both-ensure-f32 -o "$dir/once" --verify
run 0 merge --diff $bases/plain-bf16 "$dir/qv"
says "4 tensors changed, 31 are the same"
[[ $(grep -c 'rank 5 ' "$dir/out") == 4 ]] || complain "--diff does not find rank 5 four times"
says '"name":"qv"'
run 0 merge --diff $bases/plain-bf16 $bases/plain-bf16
says "0 tensors changed"
run 0 merge --diff $bases/tied-bf16 "$dir/untied" --json
says '{"tensor":"lm_head.weight","only_in":"merged"}'
run 2 merge --diff $bases/plain-bf16 golden/models/odd

# ---- quantised bases ----
run 0 convert $bases/nf4 "$dir/decoded" --dtype bf16
run 0 merge "$dir/decoded" $adapters/nf4-all=0.5 -o "$dir/other"
run 0 merge $bases/nf4 $adapters/nf4-all -o "$dir/nf4" --verify
run 0 merge $bases/nf4 $adapters/nf4-all -o "$dir/image" --base-image quantised --original "$dir/other" --verify
says "ratio 0.5" # the "original" was made half of ΔW away
cmp -s "$dir/nf4/model.safetensors" "$dir/image/model.safetensors" || complain "--original changes the merge"
run 0 merge $bases/nf4 $adapters/nf4-all -o "$dir/onto" --base-image original --original "$dir/decoded" --verify
says "ratio 0"
bad "name the model that it was quantised from" $bases/nf4 $adapters/nf4-all --base-image original
bad "the base is not quantised" "$dir/decoded" $adapters/nf4-all --base-image quantised
bad "the base is not quantised" "$dir/decoded" $adapters/nf4-all --original "$dir/other"
bad "quantised too" $bases/nf4 $adapters/nf4-all --original $bases/nf4
bad "quantised or original" $bases/nf4 $adapters/nf4-all --base-image both

# ---- what is refused ----
bad "in the model already" "$dir/qv" $adapters/qv
bad "in the model already" "$dir/qv.fh1" $adapters/qv
bad "named twice" $bases/plain-bf16 $adapters/qv $adapters/qv
bad "has no adapter_config.json" $bases/plain-bf16 $bases/plain-bf16
bad "init_lora_weights" $bases/plain-f32 $adapters/pissa-residual
bad "leave --initial out" $bases/plain-bf16 $adapters/qv --initial $adapters/qv
bad "plain LoRA only" $bases/plain-bf16 $adapters/dora=0.5
bad "not a number" $bases/plain-bf16 $adapters/qv=much
bad "--rounding: unknown" $bases/plain-bf16 $adapters/qv --rounding up
bad "another shape" golden/models/odd-bf16 $adapters/qv
bad "cannot be opened" "$dir/nowhere" $adapters/qv
cp -r $adapters/qv "$dir/nan"
printf '\x00\x00\xc0\x7f' | dd of="$dir/nan/adapter_model.safetensors" bs=1 conv=notrunc status=none \
    seek=$(($(stat -c %s "$dir/nan/adapter_model.safetensors") - 4))
bad "not finite" $bases/plain-bf16 "$dir/nan"
run 2 merge $bases/plain-bf16 $adapters/qv -o "$dir/qv"
warns "the target exists"
run 2 merge $bases/plain-bf16 $adapters/qv
warns "-o is missing"
cp -r $bases/plain-bf16 "$dir/source"
run 2 merge "$dir/source" $adapters/qv -o "$dir/source" --force
warns "the target is the source"
cmp -s $bases/plain-bf16/model.safetensors "$dir/source/model.safetensors" || complain "the source was touched"
cp -r $adapters/qv "$dir/adapter"
run 2 merge $bases/plain-bf16 "$dir/adapter" -o "$dir/adapter/out"
warns "lies inside the source"

echo "merge.sh: $checks runs, $failures failures"
((failures == 0))
