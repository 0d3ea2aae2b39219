#!/usr/bin/env bash
# Gradients and training against the real libraries; skipped (77) without the Python environment that ci/interop prepares
# and names in FH1_INTEROP_PYTHON, with peft in it. Arguments: the fh1 program, and what to do:
#   regenerate  some of golden/gradients again, compared with what is in the tree
#   gradcheck   fresh gradients with the user's tool, judged
#   train       fh1 train beside torch's optimiser; transformers and PEFT load what it wrote
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fh1=$(realpath "$1") python=${FH1_INTEROP_PYTHON:-}
if [[ -z $python ]]; then
    echo "skipped: FH1_INTEROP_PYTHON is not set (ci/interop sets it)"
    exit 77
fi
if ! "$python" -c 'import peft' 2> /dev/null; then
    echo "skipped: the Python environment has no peft"
    exit 77
fi
case $2 in
    regenerate) exec "$python" "$root/golden/hf/regenerate_gradients.py" ;;
    train) exec "$python" "$root/golden/hf/check_training.py" "$fh1" ;;
    gradcheck) ;;
    *) echo "interop_gradients.sh: unknown test '$2'" >&2 && exit 2 ;;
esac

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
models=$root/golden/models adapters=$root/golden/gradients/adapters
printf '5 17 23 42 8 31\n60 2 9\n' > "$dir/ids"
printf '5 17 -100 42 8 31\n60 2 9\n' > "$dir/labels"

cat > "$dir/schedule" << 'END'
[{"ids": [[0, 0, 60, 2, 9], [5, 17, 23, 42, 8]], "mask": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]],
  "labels": [[-100, -100, 60, 2, 9], [5, 17, 23, 42, 8]]}]
END

# Fresh traces $dir/NAME, all by one process: loading the libraries is what takes time.
ids="--ids '$dir/ids'"
cat > "$dir/commands" << END
f32-left mini-34b $ids --labels '$dir/labels'
f64-packed mini-0.5b $ids --f64 --pack 8
f64-right odd $ids --f64 --pad right
bf16-left mini-0.5b-bf16 $ids
adapter mini-34b $ids --adapter '$adapters/linear' --f64
adapter-full mini-0.5b $ids --adapter '$adapters/ends' --full --pack 7
f64-leak odd $ids --f64
label-of-padding mini-34b --schedule '$dir/schedule'
bf16-as-f32 mini-34b-bf16 $ids --contract fp32
mamba-f64-packed mamba-untied $ids --f64 --pack 8
mamba-f32-left mamba-untied $ids --labels '$dir/labels'
mamba-f64-right mamba-tied $ids --f64 --pad right
mamba-adapter mamba-untied $ids --adapter '$adapters/mamba-linear' --f64
mamba-leak mamba-tied $ids --f64
END
"$python" - "$root/golden/hf" "$models" "$dir" << 'END'
import shlex, sys
tools, models, out = sys.argv[1:]
sys.path.insert(0, tools)
import capture
for line in open(f"{out}/commands"):
    name, model, *words = shlex.split(line)
    sys.argv = ["capture.py", f"{models}/{model}", "--backward", "-o", f"{out}/{name}", *words]
    capture.main()
END

# verdict EXPECTED NAME MODEL [OPTION...]: the exit code of gradcheck.
verdict() {
    local expected=$1 name=$2 model=$3 found=0
    shift 3
    "$fh1" gradcheck "$models/$model" --trace "$dir/$name" "$@" > "$dir/out" 2>&1 || found=$?
    ((found == expected)) || { cat "$dir/out" && echo "$name: exit $found, expected $expected" && exit 1; }
    echo "$name: exit $found"
}

verdict 0 f32-left mini-34b
verdict 0 f64-packed mini-0.5b
verdict 0 f64-right odd
verdict 0 bf16-left mini-0.5b-bf16
verdict 0 adapter mini-34b --adapter "$adapters/linear"
verdict 0 adapter-full mini-0.5b --adapter "$adapters/ends"
verdict 0 mamba-f64-packed mamba-untied
verdict 0 mamba-f32-left mamba-untied
verdict 0 mamba-f64-right mamba-tied
verdict 0 mamba-adapter mamba-untied --adapter "$adapters/mamba-linear"

# The verdicts above are no accident: padding that leaks in the library, an adapter that is not there, bf16 sold as f32.
verdict 1 f64-leak odd
verdict 1 mamba-leak mamba-tied
verdict 2 adapter mini-34b
# Labels as users make them, ignored at padding only: the library predicts the first token from the padding.
verdict 2 label-of-padding mini-34b
grep -q 'row 0, column 2' "$dir/out"
verdict 1 bf16-as-f32 mini-34b-bf16
