#!/usr/bin/env bash
# fh1 repro as a user meets it: a line that fails is run, made small, and the printed command fails again in a process of
# its own; an honest line passes and cannot be shrunk. Argument: the fh1 program; run from the root of the tree.
set -euo pipefail
fh1=$1
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

honest='--make=layers=4,D=64,F=96,V=97,A=16,dtype=bf16,rms_norm=1,m_key=0.3 --engine=ref-f32 --seed=7 --schedule=p65x3l:0,12,63;d3;c5k:1/0,3;d1'
faulty="$honest --fault=key_multiplier_dropped"

# -- run
run 0 repro --help && says 'usage: fh1 repro' && says 'example: '
run 0 repro "$honest" && says PASS
run 1 repro "$faulty" && says 'first divergence  model.layers.0.self_attn.k_rope step 0' && says "repro  fh1 repro '--make=layers=4,D=64"
run 1 repro --json "$faulty" && says '"first_divergence":{"tap":"model.layers.0.self_attn.k_rope","step":0'
run 0 repro $honest --json && says '"verdict":"PASS"' # without the quotes
run 0 repro --op=ssd_scan --T=9 && says PASS

# -- shrink: the printed command fails again, at the same tap
run 0 repro --shrink "$faulty" && says '# FAIL at model.layers.0.self_attn.k_rope'
command=$(head -n1 "$dir/out")
[[ $command == "fh1 repro '--make=layers=1,D=1,"* ]] || complain "not small: $command"
(( ${#command} < 240 )) || complain "still long: $command"
line=${command#fh1 repro \'}
run 1 repro "${line%\'}" && says 'first divergence  model.layers.0.self_attn.k_rope step 0'
run 0 repro "${line% --fault=*}"
run 0 repro --shrink --json "$faulty" && says '"tap":"model.layers.0.self_attn.k_rope"'
run 0 repro --shrink --runs 3 "$faulty" && says 'there may be a smaller one'
[[ ! -s $dir/err ]] || complain 'progress where there is no terminal'
bad 'does not fail' repro --shrink "$honest"

# -- traffic
traffic='--make=layers=2,D=12,V=23 --engine=ref-f64 --seed=7 --traffic=a=2;a+9,4;b=a;a*3;a<b;a+2'
run 0 repro "$traffic" && says PASS
run 0 repro --make=layers=1,D=8 --engine=ref-f32 '--traffic=a=2;a+5,3<0,1;a*2' && says PASS # in pieces
run 0 repro '--model=golden/models/odd --engine=ref-bf16 --traffic=a=2;a+5,3<0,1;b=a;a*2;a@1,0;a<b;a+1' && says PASS
run 1 repro --json "$traffic --fault=restore_keeps_conv" && says '"first_divergence":{"tap":"logits","step":5,"where":[0,9,0]}'
run 1 repro "$traffic --fault=restore_keeps_conv" && says "--traffic=a=2;a+9,4;b=a;a*3;a<b;a+2 --fault=restore_keeps_conv'"
run 0 repro --shrink "$traffic --fault=restore_keeps_conv" && says '# FAIL at cache.0.conv'
command=$(head -n1 "$dir/out")
line=${command#fh1 repro \'}
run 1 repro "${line%\'}" && says 'first divergence  cache.0.conv step 3'
bad 'does not fail' repro --shrink "$traffic --fault=truncate_off_by_one"
bad 'move 3: cache c is not there' repro '--make=D=8 --engine=ref-f64 --traffic=a=1;a+3;c+1'
bad 'contradict' repro "$traffic --schedule=p3"
run 1 repro '--make=D=8 --engine=ref-f64 --traffic=a=1;a.' && says MISTRUSTED

# -- a failing engine of fh1 check prints such a line
run 1 check golden/models/odd --engine ref-f32 --contract exact
repro=$(sed -n "s/^repro  //p" "$dir/out")
[[ $repro == "fh1 repro '--model=golden/models/odd "* ]] || complain "check tells no line: $repro"
line=${repro#fh1 repro \'}
run 1 repro "${line%\'}" && says 'first divergence  model.layers.0.input step 0'

# -- bad lines
bad 'LINE' repro
bad 'unknown option' repro --shirnk "$faulty"
bad 'contradict' repro "--model=golden/models/odd $honest"
bad 'ref-f99' repro '--make=D=8 --engine=ref-f99 --schedule=p3'
bad '/no/such' repro '--model=/no/such --engine=ref-f32 --schedule=p3'
bad '--runs' repro --runs 0 "$honest"

echo "$checks command lines, $failures failures"
((failures == 0))
