#!/usr/bin/env bash
# kill -9 at random moments of convert and merge. Whatever the moment: the target is absent or complete, or under --force
# the old one or the new one, never anything else; at most one temporary lies beside it, and the next run removes it.
# Every fourth run gets SIGTERM or SIGINT instead, and must not even leave that. Arguments: the fh1 program, how often, a seed.
set -euo pipefail
fh1=$1 count=$2 seed=$3
RANDOM=$seed
dir=$(mktemp -d)
export OPENBLAS_NUM_THREADS=1 FH1_THREADS=2 # hundreds of short runs
trap 'rm -rf "$dir"' EXIT
killed=0 asked=0 too_late=0 temporaries=0 replaced=0 failures=0

complain() {
    echo "FAILED: $1 (seed $seed, run $i)"
    failures=$((failures + 1))
}

# A model that is large enough to be met at work, a folder in it, and an adapter for its shapes.
base=$dir/base
cp -r golden/merges/bases/plain-bf16 "$base"
mkdir "$base/original"
head -c 3000000 /dev/zero | tr '\0' '\171' > "$base/original/notes.bin"
adapter=golden/merges/adapters/all-linear

targets=(model model.fh1 model.gguf merged merged.fh1)
command_for() {
    case $1 in
        model.gguf) echo convert golden/models/mini-0.5b-bf16 ;;
        model*) echo convert "$base" ;;
        merged*) echo merge "$base" "$adapter" -o ;;
    esac
}

# The finished targets, how long each takes, and something else that --force may replace.
mkdir "$dir/good" "$dir/old" "$dir/disk"
declare -A micros
i=0
for target in "${targets[@]}"; do
    begin=${EPOCHREALTIME/[.,]/}
    read -ra words <<< "$(command_for "$target")"
    "$fh1" "${words[@]}" "$dir/good/$target" > "$dir/out" 2>&1 || complain "$target: $(cat "$dir/out")"
    micros[$target]=$((${EPOCHREALTIME/[.,]/} - begin))
    cp -r "$dir/good/$target" "$dir/old/$target"
    old=$dir/old/$target
    [[ ! -d $old ]] || old+=/README.md
    echo 'the old one' >> "$old"
done

temporaries_of() { ls -A "$dir/disk" | grep -c "^\.$1\.fh1-" || true; }

same() { diff -r "$1" "$2" > /dev/null 2>&1; }

# The comparison itself: half a target must be seen.
cp -r "$dir/good/model" "$dir/half"
truncate -s 3000 "$dir/half/model.safetensors"
{ same "$dir/good/model" "$dir/good/model" && ! same "$dir/half" "$dir/good/model"; } || complain 'half a model is not seen'

for ((i = 1; i <= count; i++)); do
    target=${targets[$((RANDOM % ${#targets[@]}))]}
    force=$((RANDOM % 2))
    after=$(((RANDOM * 32768 + RANDOM) % (micros[$target] * 11 / 10)))
    read -ra words <<< "$(command_for "$target")"
    at=$dir/disk/$target
    if ((force)); then
        [[ -e $at ]] || cp -r "$dir/old/$target" "$at"
        words=("${words[0]}" --force "${words[@]:1}")
    else
        rm -rf "$at"
    fi
    signal=KILL died=137
    case $((RANDOM % 8)) in
        0) signal=TERM died=143 ;;
        1) signal=INT died=130 ;;
    esac
    before=$(temporaries_of "$target")
    code=0
    begin=${EPOCHREALTIME/[.,]/}
    timeout --foreground --preserve-status -s $signal "$(printf '%d.%06d' $((after / 1000000)) $((after % 1000000)))" \
        "$fh1" "${words[@]}" "$at" > "$dir/out" 2>&1 || code=$?
    took=$((${EPOCHREALTIME/[.,]/} - begin))
    ((code != 0)) || micros[$target]=$(((3 * micros[$target] + took) / 4)) # the machine has its moods
    left=$(temporaries_of "$target")
    ((left <= 1)) || complain "$target: $left temporaries"
    case $code in
        0) too_late=$((too_late + 1)) ;;
        137)
            killed=$((killed + 1))
            temporaries=$((temporaries + left))
            ;;
        "$died")
            asked=$((asked + 1))
            ((left <= before)) || complain "$target: SIG$signal left a temporary"
            # Before the work it says nothing, after the work it has told of that.
            [[ ! -s $dir/out ]] || grep -q "interrupted by SIG$signal" "$dir/out" || same "$at" "$dir/good/$target" ||
                complain "$target: says $(cat "$dir/out")"
            ;;
        *) complain "$target: exit $code: $(cat "$dir/out")" ;;
    esac
    if [[ ! -e $at ]]; then
        { ((force == 0)) && ((code != 0)); } || complain "$target: gone"
    elif same "$at" "$dir/good/$target"; then
        ((force == 0)) || replaced=$((replaced + 1))
        if ((i % 10 == 0)); then "$fh1" verify "$at" > "$dir/out" 2>&1 || complain "$target: $(cat "$dir/out")"; fi
        rm -rf "$at"
    elif ! { ((force)) && same "$at" "$dir/old/$target"; }; then
        complain "$target: neither whole nor absent: $(ls -lA "$at")"
    elif ((code == 0)); then
        complain "$target: exit 0, and the old one is still there"
    fi
done

# The next run of each removes what the killed ones left.
for target in "${targets[@]}"; do
    rm -rf "$dir/disk/$target"
    read -ra words <<< "$(command_for "$target")"
    "$fh1" "${words[@]}" "$dir/disk/$target" > "$dir/out" 2>&1 || complain "$target: $(cat "$dir/out")"
    same "$dir/disk/$target" "$dir/good/$target" || complain "$target: not the same as before"
done
left=$(ls -A "$dir/disk" | wc -l)
((left == ${#targets[@]})) || complain "left at the end: $(ls -A "$dir/disk" | tr '\n' ' ')"

echo "$count runs: $killed killed, $asked asked to end, $too_late finished before, $temporaries left a temporary, $replaced had replaced the" \
    "old target; $failures failures"
# A test that never kills anyone at work would show nothing.
((count < 20 || (killed > count / 4 && temporaries > 0))) || complain 'too few kills met a run at work'
((failures == 0))
