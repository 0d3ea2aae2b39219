#!/usr/bin/env bash
# fh1 gradcheck as a user meets it: verdicts, exit codes, JSON lines, and traces that are not what they say. Argument: the
# fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
model=golden/models/mini-0.5b
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"
good=$dir/good.safetensors

# change NAME SED-EXPRESSION: a copy of the good trace; what is exchanged has the same length.
change() { LC_ALL=C sed "$2" "$good" > "$dir/$1"; }

# -- engines
run 0 gradcheck --help && says 'usage: fh1 gradcheck' && says 'example: '
run 0 gradcheck "$model" --engine ref-f32 --json
[[ $(grep -c '"tap":"grad\.model\.layers\.0\.mamba\.A_log"' "$dir/out") == 8 ]] || complain 'not one A_log per batch'
for key in step verdict margin rms_ratio max_err where allowed subject; do
    [[ $(grep -c "\"$key\":" "$dir/out") -ge $(($(grep -c '' "$dir/out") - 1)) ]] || complain "JSON without $key"
done
[[ $(grep -c '"summary":true' "$dir/out") == 1 ]] || complain 'not exactly one summary'
tail -1 "$dir/out" | grep -q '^{"summary":true.*"verdict":"PASS"' || complain 'the summary is not last, or no PASS'
for check in adjoint recompute threads accumulate attention ssd_scan adamw; do says "\"tap\":\"backward.$check\""; done

# -- traces of our own
run 0 trace "$model" --engine ref-f32 --seed 1 --tokens 9 --batch 2 --backward -o "$good"
run 0 gradcheck "$model" --trace "$good" --verbose && says 'grad.model.embed_tokens.weight' && says 'PASS'
run 0 check "$model" --trace "$good" && says 'fh1 gradcheck MODEL --trace FILE judges them'
run 0 gradcheck "$model" --trace "$good" --engine ref-f64 --elements 1 --verbose && says 'ref-f64 good.safetensors' &&
    says 'backward.directional'
run 0 taps "$model" && says 'grad.model.layers.i.mamba.A_log'
run 0 taps "$model" --json && says '"tap":"grad.lm_head.weight"'
run 1 gradcheck "$model" --trace "$good" --contract exact && says 'FAIL' # f32 is no f64
run 1 gradcheck "$model" --trace "$good" --contract exact --json --junit "$dir/junit.xml"
tail -1 "$dir/out" | grep -q '"first_divergence":{"tap":"' || complain 'no first divergence'
grep -q '<failure' "$dir/junit.xml" || complain 'JUnit without a failure'

# -- a gradient that is wrong: one NaN in the tensor whose bytes are last
cp "$good" "$dir/nan.safetensors"
printf '\000\000\300\177' | dd of="$dir/nan.safetensors" bs=1 conv=notrunc status=none \
    seek=$(($(wc -c < "$good") - 4))
run 1 gradcheck "$model" --trace "$dir/nan.safetensors" && says 'NaN' && says 'look at'

# -- traces that are not what they say
change name 's/layers\.1\.self_attn\.k_proj\.weight/layers.1.self_attn.k_prxj.weight/'
bad 'perhaps grad.model.layers.1.self_attn.k_proj.weight' gradcheck "$model" --trace "$dir/name"
change layer 's/grad\.model\.layers\.1\.mamba\.D"/grad.model.layers.7.mamba.D"/'
bad 'the gradient of no parameter' gradcheck "$model" --trace "$dir/layer"
change shape 's/\[96,32\]/[32,96]/'
bad 'expected [96, 32], found [32, 96]' gradcheck "$model" --trace "$dir/shape"
change labels 's/step0\/labels/step0\/lables/'
bad 'perhaps step0/labels' gradcheck "$model" --trace "$dir/labels"
bad 'a tied head has the embedding' gradcheck golden/models/odd --trace "$good"
bad 'no gradient in this trace' gradcheck "$model" --trace golden/traces/mini-0.5b/t37.safetensors

# -- usage
bad 'MODEL, or --suite DIR' gradcheck
bad '--map goes with --trace' gradcheck "$model" --map x
bad 'ref-f99' gradcheck "$model" --engine ref-f99
bad '--elements' gradcheck "$model" --elements -1
bad '--backward records one call' trace "$model" --engine ref-f32 --seed 1 --tokens 3 --decode 2 --backward -o "$dir/x"
bad 'no label counts' trace "$model" --engine ref-f32 --seed 1 --tokens 1 --backward -o "$dir/x"
[[ ! -e $dir/x ]] || complain 'half a file'

# -- the registry
run 0 faults grad_norm_constant && says 'gradient rmsnorm'

echo "$checks runs, $failures failures"
((failures == 0))
