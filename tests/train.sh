#!/usr/bin/env bash
# fh1 train at the command line: refusals, what is written, resumed runs to the same bits, kill -9 and signals at random
# moments, adapters that merge, targets that are whole or not there.
# usage: tests/train.sh FH1   (from the root of the sources)
set -euo pipefail
fh1=$1
source tests/shell.sh
model=golden/models/mini-0.5b
ids=golden/gradients/mini-0.5b/train.ids
bare=(--data "$ids" --seq-len 24 --batch 2)
# The bases of the adapters know fewer ids.
few_ids=$dir/few.ids
awk '{ for (i = 1; i <= NF; i++) printf "%d ", $i % 50; print "" }' "$ids" > "$few_ids"
few=(--data "$few_ids" --seq-len 24 --batch 2)
small=("${bare[@]}" --lr 1e-3)

# field KEY: of the summary in the last run's output.
field() { tail -n1 "$dir/out" | grep -o "\"$1\":[^,}]*" | cut -d: -f2-; }
# near A B RELATIVE
near() { awk -v a="$1" -v b="$2" -v r="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a == a && d <= r * (b < 0 ? -b : b)) }'; }
# same FOLDER FOLDER: every file, byte for byte.
same() { diff -r "$1" "$2" > /dev/null || complain "$1 and $2 differ"; }
clean() { [[ -z $(find "$dir" -name '.*.fh1-*') ]] || complain "temporaries are left: $(find "$dir" -name '.*.fh1-*')"; }
absent() { [[ ! -e $1 ]] || complain "$1 is there"; }

# --- refusals: exit 2, one line, nothing written ---
out=$dir/refused
bad '--data is missing' train "$model" --steps 1 --lr 1 -o "$out"
bad '--steps is missing' train "$model" --data "$ids" --lr 1 -o "$out"
bad '--lr is missing' train "$model" --data "$ids" --steps 1 -o "$out"
bad '--out is missing' train "$model" --data "$ids" --steps 1 --lr 1
bad 'an argument is missing' train --data "$ids" --steps 1 --lr 1 -o "$out"
bad '--lr: not a number' train "$model" --data "$ids" --steps 1 --lr x -o "$out"
bad '--lr: not a number' train "$model" --data "$ids" --steps 1 --lr nan -o "$out"
bad '--steps: not a number' train "$model" --data "$ids" --steps 0 --lr 1 -o "$out"
bad '--betas: not two numbers' train "$model" "${small[@]}" --steps 1 --betas 0.9 -o "$out"
bad '--betas: not two numbers' train "$model" "${small[@]}" --steps 1 --betas 0.9,1 -o "$out"
bad '--schedule: unknown' train "$model" "${small[@]}" --steps 1 --schedule sine -o "$out"
bad '--warmup is longer' train "$model" "${small[@]}" --steps 1 --warmup 2 -o "$out"
bad '--min-lr is above' train "$model" "${small[@]}" --steps 1 --min-lr 1 -o "$out"
bad '--decay: unknown rule' train "$model" "${small[@]}" --steps 1 --decay some -o "$out"
bad 'unknown engine' train "$model" "${small[@]}" --steps 1 --engine gpt -o "$out"
bad 'depthwise' train "$model" "${small[@]}" --steps 1 --lora 4,8,conv1d -o "$out"
bad 'matches no module' train "$model" "${small[@]}" --steps 1 --lora 4,8,query -o "$out"
bad 'the rank is larger' train "$model" "${small[@]}" --steps 1 --lora 400,8,q_proj -o "$out"
bad 'choose one of them' train "$model" "${small[@]}" --steps 1 --lora 4,8,q_proj --adapter x -o "$out"
bad '--rslora belongs to --lora' train "$model" "${small[@]}" --steps 1 --rslora -o "$out"
bad 'no meaning' train "$model" "${small[@]}" --steps 1 --lora 4,8,q_proj --freeze '*' -o "$out"
bad 'fits no parameter' train "$model" "${small[@]}" --steps 1 --train '*nothing*' -o "$out"
bad 'nothing is trained' train "$model" "${small[@]}" --steps 1 --freeze '*' -o "$out"
bad 'the name of a file' train "$model" "${small[@]}" --steps 1 -o "$out.fh1"
bad 'the target lies inside the source' train "$model" "${small[@]}" --steps 1 -o "$model/trained"
bad 'the target exists' train "$model" "${small[@]}" --steps 1 -o "$model"
bad 'the target is the source' train "$model" "${small[@]}" --steps 1 --force -o "$model"
printf '1 2 3\n4 999 5\n' > "$dir/bad.ids"
bad 'line 2, column 3: not a token id' train "$model" --data "$dir/bad.ids" --steps 1 --lr 1 -o "$out"
printf '1\n2\n' > "$dir/bad.ids"
bad 'nothing to learn from' train "$model" --data "$dir/bad.ids" --steps 1 --lr 1 -o "$out"
echo '{"groups": [{"kind": "lora_A", "lr": 2}]}' > "$dir/mup.json"
bad 'group 0 fits no parameter' train "$model" "${small[@]}" --steps 1 --mup "$dir/mup.json" -o "$out"
bad 'modules of its own' train golden/merges/bases/plain-bf16 "${few[@]}" --lr 1 --steps 1 --adapter golden/merges/adapters/save-norms -o "$out"
bad 'no backward pass for it' train golden/merges/bases/plain-bf16 "${few[@]}" --lr 1 --steps 1 --adapter golden/merges/adapters/dora -o "$out"
absent "$out"
clean

# --- a model ---
run 0 train "$model" "${small[@]}" --steps 10 --json -o "$dir/ten"
awk -v a="$(field loss_first)" -v b="$(field loss_last)" 'BEGIN { exit !(b < a - 0.05) }' || complain "the loss did not fall"
[[ $(grep -c '"step":' "$dir/out") == 10 && $(field steps) == 10 ]] || complain 'not a line per step'
warns 'memory: weights'
run 0 verify "$dir/ten" # every rule of a model folder
cmp -s "$model/config.json" "$dir/ten/config.json" || complain 'config.json was changed'
for f in "$model"/*; do [[ -e $dir/ten/${f##*/} ]] || complain "${f##*/} is missing"; done
bad 'the target exists' train "$model" "${small[@]}" --steps 1 -o "$dir/ten"
run 0 train "$model" "${small[@]}" --steps 10 --recompute --quiet --force -o "$dir/again"
[[ ! -s $dir/out && ! -s $dir/err ]] || complain '--quiet says something'
same "$dir/ten" "$dir/again"
run 0 train "$model" "${small[@]}" --steps 9 --force -o "$dir/again"
says 'step 9 of 9'
! diff -rq "$dir/ten" "$dir/again" > /dev/null || complain 'nine steps are ten'

# Nothing moves without a rate and decay: every byte of a bf16 model survives masters and rounding.
bf16=golden/models/mini-0.5b-bf16
run 0 train "$bf16" --data "$ids" --seq-len 24 --steps 2 --lr 0 -o "$dir/still"
same "$bf16" "$dir/still"
run 0 train "$bf16" "${small[@]}" --steps 2 -o "$dir/moved"
run 0 merge --diff "$bf16" "$dir/moved"
run 0 verify "$dir/moved"

# Only what --train names moves.
run 0 train "$model" "${small[@]}" --steps 2 --train '*A_log,*dt_bias' --freeze '*.1.*' -o "$dir/few"
run 0 merge --diff "$model" "$dir/few" --json
! grep -qE '"tensor":"[^"]*(weight|\.1\.)' "$dir/out" || complain 'a frozen weight moved'
[[ $(grep -c '"tensor":"[^"]*A_log' "$dir/out") == 2 ]] || complain 'A_log of two layers did not move'

# Two halves of a batch are the batch.
run 0 train "$model" --data "$ids" --lr 1e-3 --seq-len 24 --batch 1 --accumulate 2 --engine ref-f64 --steps 6 --json -o "$dir/halves"
halves=$(field loss_last)
run 0 train "$model" "${small[@]}" --engine ref-f64 --steps 6 --json -o "$dir/whole"
near "$(field loss_last)" "$halves" 1e-12 || complain "accumulated $halves, in one $(field loss_last)"
run 0 train "$model" --data "$ids" --lr 1e-3 --seq-len 24 --batch 1 --engine ref-f64 --steps 6 --json -o "$dir/half"
! near "$(field loss_last)" "$halves" 1e-6 || complain 'a batch of one row is one of two'

# The GPU's kernels on the CPU train alike: honest f32 gradients, and three steps behind them.
run 0 train "$model" "${small[@]}" --steps 3 --json -o "$dir/host"
on_host=$(field loss_last)
run 0 train "$model" "${small[@]}" --steps 3 --json --engine cuda-host -o "$dir/device"
near "$(field loss_last)" "$on_host" 1e-5 || complain "cuda-host $(field loss_last), ref-f32 $on_host"

# Rows without two tokens in one document are no step.
printf '1\n2\n3 4\n' > "$dir/thin.ids"
run 0 train "$model" --data "$dir/thin.ids" --seq-len 2 --lr 1e-3 --steps 2 --json -o "$dir/thin"
warns 'rows before step 1 are passed over'
[[ $(grep -c '"tokens":2,' "$dir/out") == 2 ]] || complain 'not two steps of two tokens'

# --- resumed ---
run 0 train "$model" "${small[@]}" --steps 5 --save-every 2 -o "$dir/resumed"
run 0 train "$model" "${small[@]}" --steps 10 --save-every 3 --resume --force -o "$dir/resumed"
says 'steps 6 to 10'
same "$dir/ten" "$dir/resumed"
rm -rf "$dir/resumed"
bad 'the checkpoint of an earlier run' train "$model" "${small[@]}" --steps 12 --save-every 3 -o "$dir/resumed"
bad '--lr is not what the run began with' train "$model" --data "$ids" --lr 2e-3 --seq-len 24 --batch 2 --steps 12 --resume -o "$dir/resumed"
bad '--seq-len is not' train "$model" --data "$ids" --lr 1e-3 --seq-len 25 --batch 2 --steps 12 --resume -o "$dir/resumed"
bad '--engine is not' train "$model" "${small[@]}" --engine ref-f64 --steps 12 --resume -o "$dir/resumed"
bad 'the model is not' train golden/models/mini-0.5b-bf16 "${small[@]}" --steps 12 --resume -o "$dir/resumed"
bad '--lora is not' train "$model" "${small[@]}" --lora 4,8,q_proj --steps 12 --resume -o "$dir/resumed"
bad 'behind the last step' train "$model" "${small[@]}" --steps 9 --resume -o "$dir/resumed"
{ cat "$ids" && echo 1 2 3; } > "$dir/more.ids"
bad '--data is not' train "$model" --data "$dir/more.ids" --lr 1e-3 --seq-len 24 --batch 2 --steps 12 --resume -o "$dir/resumed"
absent "$dir/resumed"
size=$(stat -c %s "$dir/resumed.ckpt")
printf '\x5a' | dd of="$dir/resumed.ckpt" bs=1 seek=$((size - 1000)) conv=notrunc status=none # one byte of a moment
bad 'the checkpoint is damaged' train "$model" "${small[@]}" --steps 12 --resume -o "$dir/resumed"
echo text > "$dir/resumed.ckpt"
bad 'no checkpoint of fh1 train' train "$model" "${small[@]}" --steps 12 --resume -o "$dir/resumed"
[[ $(cat "$dir/resumed.ckpt") == text ]] || complain 'a file that is no checkpoint was touched'

# --- kill -9 at random moments, until the run is through ---
started=$(date +%s%N)
run 0 train "$model" "${small[@]}" --steps 10 --quiet --save-every 1 --force -o "$dir/timed"
took=$((($(date +%s%N) - started) / 1000))
same "$dir/ten" "$dir/timed"
RANDOM=7 killed=0
# through OUT: run and kill until a run is through.
through() {
    local attempt code pid
    for attempt in $(seq 40); do
        "$fh1" train "$model" "${small[@]}" --steps 10 --quiet --save-every 1 --resume -o "$1" 2> "$dir/err" &
        pid=$!
        sleep "$(awk -v r=$RANDOM -v t=$took -v n="$attempt" 'BEGIN { print (n > 20 ? n : 0.8) * r / 32768 * t / 1e6 }')"
        kill -9 $pid 2> /dev/null || true
        code=0
        wait $pid 2> /dev/null || code=$?
        ((code == 137)) || return 0
        killed=$((killed + 1))
        [[ ! -e $1 ]] || { same "$dir/ten" "$1" && rm -rf "$1"; }
    done
    complain "never through: $1"
}
for round in 1 2 3 4 5 6; do
    through "$dir/killed$round"
    same "$dir/ten" "$dir/killed$round"
done
((killed > 0)) || complain 'nobody was killed'
clean

# --- a signal leaves nothing but the last checkpoint ---
"$fh1" train "$model" "${small[@]}" --steps 100000 --quiet --save-every 5 -o "$dir/stopped" 2> "$dir/err" &
pid=$!
for _ in $(seq 200); do if [[ -e $dir/stopped.ckpt ]]; then break; else sleep 0.1; fi; done
kill -TERM $pid # a script's background jobs ignore SIGINT
code=0
wait $pid || code=$?
((code == 143)) || complain "exit $code after SIGTERM"
warns 'interrupted by SIGTERM'
warns 'the last checkpoint stays'
absent "$dir/stopped"
[[ -e $dir/stopped.ckpt ]] || complain 'no checkpoint'
clean

# --- a full disk: no target, exit 3 ---
code=0
(ulimit -f 8 && "$fh1" train "$model" "${small[@]}" --steps 1 --quiet -o "$dir/full") 2> "$dir/err" || code=$?
((code == 3)) || complain "exit $code on a full disk"
absent "$dir/full"
code=0
(ulimit -f 8 && "$fh1" train "$model" "${small[@]}" --steps 2 --quiet --save-every 1 -o "$dir/full") 2> "$dir/err" || code=$?
((code == 3)) || complain "exit $code where the checkpoint does not fit"
absent "$dir/full.ckpt"
clean

# --- what is not finite stops the run ---
run 1 train "$model" --data "$ids" --seq-len 24 --steps 50 --lr 1e6 --weight-decay 0 -o "$dir/wild"
warns 'training stopped at step'
absent "$dir/wild"

# --- adapters ---
base=golden/merges/bases/plain-f32
lora=(--lora 4,8,in_proj+q_proj+down_proj+embed_tokens+lm_head)
run 0 train "$base" "${few[@]}" --lr 1e-2 "${lora[@]}" --steps 8 --json -o "$dir/adapter"
warns 'adapter: '
awk -v a="$(field loss_first)" -v b="$(field loss_last)" 'BEGIN { exit !(b < a - 0.05) }' || complain 'the loss did not fall'
[[ $(ls "$dir/adapter") == $'adapter_config.json\nadapter_model.safetensors' ]] || complain 'not the files of an adapter'
run 0 train "$base" "${few[@]}" --lr 1e-2 "${lora[@]}" --steps 4 --save-every 4 -o "$dir/adapter2"
run 0 train "$base" "${few[@]}" --lr 1e-2 "${lora[@]}" --steps 8 --resume --force -o "$dir/adapter2"
same "$dir/adapter" "$dir/adapter2"
run 0 train "$base" "${few[@]}" --lr 1e-2 "${lora[@]}" --steps 8 --seed 2 -o "$dir/adapter3"
! cmp -s "$dir"/adapter{,3}/adapter_model.safetensors || complain 'the seed has no effect'
# The loss with the adapter attached is that of the merged model, and not that of the base.
run 0 merge "$base" "$dir/adapter" -o "$dir/merged" --verify
run 0 train "$base" "${few[@]}" --adapter "$dir/adapter" --lr 0 --steps 1 --json -o "$dir/attached"
attached=$(field loss_first)
same "$dir/adapter" "$dir/attached"
run 0 train "$dir/merged" "${few[@]}" --lr 0 --steps 1 --json -o "$dir/merged2"
near "$(field loss_first)" "$attached" 1e-5 || complain "attached $attached, merged $(field loss_first)"
run 0 train "$base" "${few[@]}" --lr 0 --steps 1 --json -o "$dir/base2"
! near "$(field loss_first)" "$attached" 1e-2 || complain 'the adapter has no effect'
bad 'not what the run began with' train "$base" "${few[@]}" --lr 1e-2 --adapter "$dir/adapter3" --steps 9 --resume --force -o "$dir/adapter2"
# Every module that can have one; out_proj is trained, and warned of.
run 0 train golden/merges/bases/tied-bf16 "${few[@]}" --lr 1e-3 --rslora --steps 1 -o "$dir/every" \
    --lora "2,2,in_proj out_proj q_proj k_proj v_proj o_proj gate_proj up_proj down_proj embed_tokens lm_head"
warns 'PEFT refuses to load it'
grep -q '"use_rslora": true' "$dir/every/adapter_config.json" || complain 'no rslora in the config'
# Falcon-Mamba's modules: every one learns, and what was trained attached is what is merged.
mamba=golden/merges/bases/mamba-tied-bf16
run 0 train "$mamba" "${few[@]}" --lr 1e-2 --lora "2,4,in_proj x_proj dt_proj out_proj embeddings lm_head" --steps 8 --json \
    -o "$dir/of-mamba"
warns 'merge it (fh1 merge, PEFT) to use it'
awk -v a="$(field loss_first)" -v b="$(field loss_last)" 'BEGIN { exit !(b < a) }' || complain 'the loss did not fall'
run 0 merge "$mamba" "$dir/of-mamba" -o "$dir/merged-mamba" --verify
bad 'embed_tokens matches no module' train "$mamba" "${few[@]}" --lr 1e-3 --lora 2,2,embed_tokens --steps 1 -o "$dir/none"
bad 'q_proj matches no module' train "$mamba" "${few[@]}" --lr 1e-3 --lora 2,2,q_proj --steps 1 -o "$dir/none"
bad 'x_proj matches no module' train "$base" "${few[@]}" --lr 1e-3 --lora 2,2,x_proj --steps 1 -o "$dir/none"
# --force replaces an adapter, and nothing that is none.
run 0 train "$base" "${few[@]}" --lr 1e-3 --lora 2,2,q_proj --steps 1 --force -o "$dir/every"
mkdir "$dir/mine" && echo mine > "$dir/mine/letter"
bad 'is not replaced' train "$base" "${few[@]}" --lr 1e-3 --lora 2,2,q_proj --steps 1 --force -o "$dir/mine"
[[ $(cat "$dir/mine/letter") == mine ]] || complain 'a letter is gone'
clean

# --- a head that is stored beside the embedding it is tied to learns with it ---
# store_head MODEL EMBEDDING OUT: MODEL with a copy of the embedding as lm_head.weight.
store_head() {
    cp -r "$1" "$3"
    local file=$3/model.safetensors n header entry begin end size
    n=$(od -An -t u8 -N 8 "$file" | tr -d ' ')
    header=$(head -c $((8 + n)) "$file" | tail -c "$n" | sed 's/ *$//')
    entry=$(grep -o "\"$2\":{[^}]*}" <<< "$header" | sed "s/\"$2\"/\"lm_head.weight\"/")
    IFS=, read -r begin end <<< "$(sed 's/.*"data_offsets":\[\([^]]*\)\].*/\1/' <<< "$entry")"
    size=$(($(stat -c %s "$file") - 8 - n))
    header="${header%\}},$(sed "s/\[$begin,$end\]/[$size,$((size + end - begin))]/" <<< "$entry")}"
    while ((${#header} % 8)); do header+=' '; done
    printf '%b' "$(printf '\\x%02x\\x%02x\\x00\\x00\\x00\\x00\\x00\\x00' $((${#header} % 256)) $((${#header} / 256)))" > "$dir/spliced.n"
    {
        cat "$dir/spliced.n"
        printf %s "$header"
        tail -c +$((9 + n)) "$file"
        head -c $((8 + n + end)) "$file" | tail -c $((end - begin))
    } > "$dir/spliced"
    mv "$dir/spliced" "$file"
}
for pair in mamba-tied:backbone.embeddings.weight odd:model.embed_tokens.weight; do
    store_head "golden/models/${pair%:*}" "${pair#*:}" "$dir/stored-${pair%:*}"
    run 0 train "$dir/stored-${pair%:*}" "${few[@]}" --lr 1e-2 --steps 2 -o "$dir/trained-${pair%:*}"
    run 0 check "$dir/trained-${pair%:*}" --engine ref-f32 # opens: both are still the same
done

# --- groups ---
echo '{"groups": [{"kind": "A_log", "lr": 0, "weight_decay": 0}, {"match": "*.0.*", "lr": 0}]}' > "$dir/mup.json"
run 0 train "$model" "${small[@]}" --weight-decay 0 --steps 2 --mup "$dir/mup.json" -o "$dir/groups"
run 0 merge --diff "$model" "$dir/groups" --json
! grep -qE '"tensor":"[^"]*(A_log|layers\.0\.)' "$dir/out" || complain 'a group of rate 0 moved'
grep -q '"tensor":"[^"]*layers\.1\.' "$dir/out" || complain 'nothing moved'
echo '{"groups": [{"kind": "A_log", "lr": 1}, {"match": "*.0.*", "lr": 1}]}' > "$dir/mup.json"
run 0 train "$model" "${small[@]}" --steps 2 --mup "$dir/mup.json" -o "$dir/groups1"
run 0 train "$model" "${small[@]}" --steps 2 -o "$dir/groups2"
same "$dir/groups1" "$dir/groups2"

echo "$checks commands, $killed runs killed, $failures failures"
((failures == 0))
