# Sourced by ci/gpu: the machine, the programs, and the checks of the stage `test`. Uses stage, out, deadline.

note() { echo "$*" | tee -a "$FH1_GPU_LOG"; }

# quoted TEXT: a JSON string.
quoted() {
    local text
    text=$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')
    printf '"%s"' "${text:0:300}"
}

# record NAME VERDICT SECONDS NOTE: PASS, FAIL, SKIPPED or n/a.
record() {
    printf '{"check":%s,"verdict":"%s","seconds":%s,"note":%s}\n' "$(quoted "$1")" "$2" "$3" "$(quoted "$4")" >> "$FH1_GPU_JSON"
    note "$(printf '%-8s %4d s  %s%s' "$2" "$3" "$1" "${4:+: $4}")"
}

commit_of_tree() {
    git -C "$root" rev-parse --short=12 HEAD 2> /dev/null || cat "$root/build/gpu-pack/commit" 2> /dev/null || echo unknown
}

# A folder with lib/libcublasLt.so.13; empty where there is none but the loader's own.
cublas_root() {
    local folder
    folder=$(python3 -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])' 2> /dev/null) ||
        folder=${XDG_CACHE_HOME:-$HOME/.cache}/fh1/cuda-13.0/nvidia/cu13
    if [[ -e $folder/lib/libcublasLt.so.13 ]]; then echo "$folder"; fi
}

# first_line COMMAND…: of its output, or what is missing.
first_line() { "$@" 2> /dev/null | sed -n "${line:-1}p" | grep . || echo "not there"; }

machine() {
    local driver
    command -v python3 > /dev/null || refuse "python3 is needed, its standard library only"
    cublas=$(cublas_root)
    driver=$(first_line nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader)
    note "nvcc    $(line=4 first_line nvcc --version)"
    note "g++     $(first_line g++ --version)"
    note "cmake   $(first_line cmake --version)"
    note "device  $driver"
    note "kernel  $(uname -srm), $jobs processors"
    note "cublas  ${cublas:-not found}"
    note "commit  $(commit_of_tree)"
    printf '{"machine":true,"stage":"%s","date":"%s","commit":"%s","device":%s,"nvcc":%s,"kernel":%s}\n' "$stage" \
        "$(date -u +%Y-%m-%d)" "$(commit_of_tree)" "$(quoted "$driver")" "$(quoted "$(line=4 first_line nvcc --version)")" \
        "$(quoted "$(uname -sr)")" >> "$FH1_GPU_JSON"
}

has_device() { nvidia-smi -L 2> /dev/null | grep -q '^GPU '; }

have_packages() {
    command -v nvcc cmake ninja pkg-config > /dev/null && pkg-config --exists openblas libcjson libzstd libxxhash libpcre2-8 check
}

# programs: sets fh1 and tests (a folder); from the sources where they can be built.
programs() {
    export LD_LIBRARY_PATH=${cublas:+$cublas/lib:}${LD_LIBRARY_PATH-}
    if have_packages; then
        note "building preset cuda"
        if (cd "$root" && cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES=90a-real -DFH1_CUBLAS_ROOT="$cublas" &&
            cmake --build --preset cuda -j "$jobs") >> "$FH1_GPU_LOG" 2>&1; then
            fh1=$root/build/cuda/fh1 tests=$root/build/cuda/tests/gpu built=1
            record build PASS "$SECONDS" "from the sources"
            return
        fi
        record build FAIL "$SECONDS" "see gpu-$stage.log"
        finish
    fi
    if ! pack_open >> "$FH1_GPU_LOG" 2>&1; then
        record build FAIL "$SECONDS" "no packages to build with, and build/gpu-pack is not there or of another tree: ci/gpu pack"
        finish
    fi
    fh1=$pack/programs/fh1 tests=$pack/programs built=
    record build PASS "$SECONDS" "build/gpu-pack of commit $(cat "$pack/commit")"
}

# check NAME SECONDS COMMAND…: its exit code as a verdict; n/a where the device refuses the tool.
check() {
    local name=$1 limit=$2 begin=$SECONDS code=0 said verdict=FAIL
    shift 2
    if ((deadline - SECONDS < 5)); then
        record "$name" SKIPPED 0 "no time left in this stage"
        return
    fi
    if ((limit > deadline - SECONDS)); then limit=$((deadline - SECONDS)); fi
    echo "== $name: $*" >> "$FH1_GPU_LOG"
    (cd "$root" && timeout -k 5 "$limit" "$@") > "$out/.said" 2>&1 < /dev/null || code=$?
    tail -c 20000 "$out/.said" >> "$FH1_GPU_LOG"
    said=$(grep -v '^ *$' "$out/.said" | tail -n 1 || true)
    case $code in
        0) verdict=PASS said= ;;
        77) verdict=SKIPPED ;;
        124 | 137) said="not done after $limit s" ;;
    esac
    if [[ $1 == compute-sanitizer ]] && grep -q 'Device not supported' "$out/.said"; then
        verdict=n/a said="Device not supported"
    fi
    record "$name" "$verdict" "$((SECONDS - begin))" "$said"
    rm -f "$out/.said"
}

# same_tokens MODEL: greedy tokens of the GPU and of the f32 reference, by `check`.
same_tokens() {
    local folder engine
    folder=$(mktemp -d)
    printf '5 17 23 42 7 11\n3 1 4 1 5 9 2 6\n8\n' > "$folder/ids"
    for engine in cuda ref-f32; do
        "$fh1" run "$1" --ids "$folder/ids" -n 24 --engine "$engine" > "$folder/$engine" || return 1
    done
    diff "$folder/cuda" "$folder/ref-f32" && rm -r "$folder"
}

# compute-sanitizer over small kernels.
sanitize() {
    local tool program
    if ! command -v compute-sanitizer > /dev/null; then
        record compute-sanitizer n/a 0 "not on this machine"
        return
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        for program in warp_ops embed rmsnorm swiglu ssd_step gated_norm; do
            check "$tool $program" 45 compute-sanitizer --tool "$tool" --error-exitcode 1 "$tests/test_cu_$program"
        done
    done
}

stage_test() {
    local program model
    export fh1
    export -f same_tokens
    if [[ -n $built ]]; then
        check 'ctest -L gpu' 240 ctest --test-dir "$root/build/cuda" -L gpu --output-on-failure
    fi
    for program in "$tests"/test_cu_*; do
        [[ -n $built || $program == *_conformance ]] || check "gpu.${program##*/test_cu_}" 60 "$program"
    done
    check conformance 60 env FH1_CONFORMANCE_OUT="$out" "$tests/test_cu_conformance"
    check 'check --suite golden' 180 "$fh1" check --suite "$root/golden" --engine cuda
    for model in "$root"/golden/models/*/; do
        model=${model%/}
        check "check ${model##*/}" 60 "$fh1" check "$model" --engine cuda
        [[ $model == *-bf16 ]] || check "tokens ${model##*/}" 60 bash -c 'same_tokens "$0"' "$model"
    done
    sanitize
    for model in "$root"/golden/models/*/; do
        model=${model%/}
        check "laws ${model##*/}" 120 "$fh1" laws "$model" --engine cuda
    done
}

# steps SIZE ROWS TOKENS: full training steps, the figures into the JSON; a size that does not fit is a figure without a value.
steps() {
    local name="train $1 B=$2 tokens $3" code=0
    if ((deadline - SECONDS < 30)); then
        printf '{"bench":%s,"value":null,"unit":"tokens/s","note":"not measured: no time left in this stage"}\n' \
            "$(quoted "$name")" >> "$FH1_GPU_JSON"
        return
    fi
    echo "== $name" >> "$FH1_GPU_LOG"
    timeout -k 5 $((deadline - SECONDS)) "$fh1" bench "$root/golden/configs/Falcon-H1-$1.json" --engine "$engine" --train \
        --batch "$2" --prefill "$3" --steps 5 --json > "$out/.figures" 2> "$out/.said" || code=$?
    tail -c 4000 "$out/.said" >> "$FH1_GPU_LOG"
    if ((code == 0)); then
        sed "s/\"bench\":\"$engine train /\"bench\":\"$name: /" "$out/.figures" | tee -a "$FH1_GPU_LOG" >> "$FH1_GPU_JSON"
    elif grep -q -i memory "$out/.said"; then
        printf '{"bench":%s,"value":null,"unit":"tokens/s","note":%s}\n' "$(quoted "$name")" \
            "$(quoted "not measured: $(head -n 1 "$out/.said")")" >> "$FH1_GPU_JSON"
    else
        record "$name" FAIL 0 "$(head -n 1 "$out/.said")"
    fi
    rm -f "$out/.figures" "$out/.said"
}

stage_train() {
    local model engine=cuda
    for model in mini-0.5b mini-34b odd mini-0.5b-bf16; do
        check "gradcheck $model" 90 "$fh1" gradcheck "$root/golden/models/$model" --engine "$engine"
    done
    check 'gradcheck adapter' 90 "$fh1" gradcheck "$root/golden/models/mini-34b" --adapter \
        "$root/golden/gradients/adapters/linear" --engine "$engine"
    steps 0.5B 1 2048
    steps 0.5B 8 2048
    steps 0.5B 1 16384
    steps 1.5B-Deep 1 2048
    steps 1.5B-Deep 4 2048
}
