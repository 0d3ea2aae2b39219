#!/usr/bin/env bash
# Files that are not what they claim, at the door of the program: every class of malformed input, for folders, headers,
# JSON, native files, GGUF, adapters and quantised weights. Each is refused with exit code 2 and one line that names the
# file and the reason, and by `verify` with 1 (2 for a version of the future or past); soon, without a target, and within
# an address space that has no room for what it claims. The sound file of each kind passes first. Arguments: the fh1
# program, and `unlimited` under a sanitizer, which needs its address space.
set -euo pipefail
fh1=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export OPENBLAS_NUM_THREADS=1 FH1_THREADS=2
[[ ${2:-} == unlimited ]] || ulimit -v 700000 # KiB; what is claimed below begins at 4 GiB
cases=0 failures=0
mkdir "$dir/out"

complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

# run CODE NAME TEXT COMMAND…: the line of the error contains both.
run() {
    local want=$1 name=$2 text=$3 code=0 line
    shift 3
    cases=$((cases + 1))
    (ulimit -t 5 && exec "$fh1" "$@") > "$dir/stdout" 2> "$dir/stderr" || code=$? # seconds of processor time: soon
    ((code == want)) || complain "exit $code instead of $want: fh1 $*: $(cat "$dir/stdout" "$dir/stderr")"
    [[ -z $(ls -A "$dir/out") ]] || complain "left behind: $(ls -A "$dir/out"): fh1 $*"
    if ((want == 2)); then
        [[ ! -s $dir/stdout ]] || complain "output after bad input: fh1 $*"
        line=$(cat "$dir/stderr")
    else
        line=$(grep '^damaged: ' "$dir/stdout" || true)
    fi
    [[ $(wc -l <<< "$line") == 1 ]] || complain "not one line: fh1 $*: $line"
    [[ $line == *"$name"* && $line == *"$text"* ]] || complain "'$name' and '$text' wanted: fh1 $*: $line"
}

# bad PATH NAME TEXT [CODE]: a model that nobody takes; NAME is the file to be named. CODE is what verify says.
bad() {
    run 2 "$2" "$3" convert "$1" "$dir/out/copy"
    run 2 "$2" "$3" convert "$1" "$dir/out/copy.fh1"
    run "${4:-1}" "$2" "$3" verify "$1"
}

# good PATH
good() {
    "$fh1" verify "$1" > "$dir/stdout" 2>&1 || complain "a sound one is refused: $1: $(cat "$dir/stdout")"
    "$fh1" convert "$1" "$dir/copy" > "$dir/stdout" 2>&1 || complain "a sound one is refused: $1: $(cat "$dir/stdout")"
    rm -rf "$dir/copy"
}

# le BYTES NUMBER: little endian, as \x escapes.
le() {
    local i v=$2
    for ((i = 0; i < $1; i++)); do printf '\\x%02x' $(((v >> (8 * i)) & 255)); done
}

# ---- safetensors: a folder with one file that is not its model's, so structure is all that can be wrong

fresh() {
    rm -rf "$dir/m"
    cp -r "$1" "$dir/m"
}

# header TEXT DATA-BYTES [LENGTH]: model.safetensors of $dir/m.
header() {
    {
        printf "$(le 8 "${3:-${#1}}")"
        printf '%s' "$1"
        head -c "$2" /dev/zero
    } > "$dir/m/model.safetensors"
}

st() {
    header "$1" "$2" "${4:-${#1}}"
    bad "$dir/m" model.safetensors "$3"
}

fresh golden/models/mini-0.5b-bf16
good "$dir/m"
st '{}' 0 'header is cut off' 1000
st '{}' 0 'too large' 100000001
st '{}' 0 'too large' 9223372036854775807
st '{}' 0 'too large' -1
st '{"a":{"dtype":"F32","shape":[1073741824,1073741824,8],"data_offsets":[0,8]}}' 8 overflows
st '{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}' 8 'beyond the end'
st '{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}' 3 'a hole'
st '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}' 3 overlap
st '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}' 2 'appears twice'
st '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}' 3 'goes on'
st '{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}' 2 'F4'
st '{"a\u0000":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}' 2 '\u0000'
st "{\"a\":$(printf '[%.0s' {1..200})" 0 'nested deeper'
st "$(printf '[%.0s' {1..100000})" 0 'nested deeper'
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n' > "$dir/m/model.safetensors"
bad "$dir/m" model.safetensors git-lfs
head -c 5000 golden/models/mini-0.5b-bf16/model.safetensors > "$dir/m/model.safetensors"
bad "$dir/m" model.safetensors 'cut'
: > "$dir/m/model.safetensors"
bad "$dir/m" model.safetensors 'at least 8 bytes'
rm "$dir/m/model.safetensors"
mkfifo "$dir/m/model.safetensors"
run 2 model.safetensors 'no file' convert "$dir/m" "$dir/out/copy"

# ---- the index

index=model.safetensors.index.json shard=model-00002-of-00004.safetensors
fresh golden/merges/bases/plain-f16
good "$dir/m"
# edit SED-EXPRESSION TEXT
edit() {
    sed -E "$1" "golden/merges/bases/plain-f16/$index" > "$dir/m/$index"
    ! cmp -s "$dir/m/$index" "golden/merges/bases/plain-f16/$index" || complain "nothing to edit: $1"
    bad "$dir/m" "$index" "$2"
}
edit "0,/$shard/s//model-00009-of-00009.safetensors/" missing
edit "0,/\"$shard/s//\"..\/m\/$shard/" 'plain file name'
edit "0,/\"$shard/s//\"\/etc\/$shard/" 'plain file name'
edit '0,/"model\.embed_tokens\.weight"/s//"model.embed_tokens"/' 'not in the index'
edit 's/"weight_map": \{/"weight_map": {"ghost": "model-00001-of-00004.safetensors",/' 'ghost'
edit 's/"total_size": /"total_size": 1/' total_size
edit '$d' 'JSON'
truncate -s 100M "$dir/m/$index"
bad "$dir/m" "$index" 'too large'

# ---- config.json

fresh golden/models/mini-0.5b-bf16
# config SED-EXPRESSION TEXT
config() {
    sed -E "$1" golden/models/mini-0.5b-bf16/config.json > "$dir/m/config.json"
    bad "$dir/m" config.json "$2"
}
config '0,/"hidden_size": 32/s//"hidden_size": 32, "hidden_size": 32/' 'appears twice'
config 's/"hidden_size": 32/"hidden_size": 1e999/' 'large'
config 's/"hidden_size": 32/"hidden_size": 32.5/' hidden_size
config 's/"hidden_size": 32/"hidden_size": -32/' hidden_size
config 's/"hidden_size": 32/"hidden_size": NaN/' NaN
config "s/\"hidden_size\": 32/\"x\": $(printf '[%.0s' {1..500}), \"hidden_size\": 32/" 'nested deeper'
config 's/"rms_norm_eps"/"rope_theta": 5.0, "rms_norm_eps"/' rope_theta
config '$d' JSON
truncate -s 100M "$dir/m/config.json"
bad "$dir/m" config.json 'too large'
fresh golden/models/mini-0.5b-bf16
sed -i 's/"num_hidden_layers": 3/"num_hidden_layers": 4000000000/' "$dir/m/config.json"
run 1 "$dir/m" '' verify "$dir/m"

# ---- native files

"$fh1" convert golden/models/mini-0.5b-bf16 "$dir/good.fh1" > "$dir/stdout" 2>&1
good "$dir/good.fh1"
bytes=$(stat -c %s "$dir/good.fh1")
# patch OFFSET BYTES TEXT
patch() {
    cp "$dir/good.fh1" "$dir/bad.fh1"
    printf "$2" | dd of="$dir/bad.fh1" bs=1 seek="$1" conv=notrunc status=none
    bad "$dir/bad.fh1" bad.fh1 "$3"
}
patch 40 '\xff\xff\xff\xff\xff\xff\xff\x7f' checksum # an index of 8 EiB
patch 8 '\x63' checksum
patch $((bytes - 1)) '\x99\x98' ''
patch $((bytes - 20)) '\x00\x01\x02\x03' ''
head -c 63 "$dir/good.fh1" > "$dir/bad.fh1"
bad "$dir/bad.fh1" bad.fh1 'too short'
head -c $((bytes / 2)) "$dir/good.fh1" > "$dir/bad.fh1"
bad "$dir/bad.fh1" bad.fh1 'cut off'
: > "$dir/bad.fh1"
run 1 bad.fh1 'too short' verify "$dir/bad.fh1"
run 2 bad.fh1 '' convert "$dir/bad.fh1" "$dir/out/copy"
# In the data: nothing but a read of that chunk can tell.
patch 4000 '\x0f\xf0\x55' ''

# ---- GGUF

"$fh1" convert golden/models/mini-0.5b-bf16 "$dir/good.gguf" > "$dir/stdout" 2>&1
good "$dir/good.gguf"
# gguf VERSION TENSORS KEYS BODY TEXT [CODE]: BODY as \x escapes.
gguf() {
    printf "GGUF$(le 4 "$1")$(le 8 "$2")$(le 8 "$3")$4" > "$dir/bad.gguf"
    bad "$dir/bad.gguf" bad.gguf "$5" "${6:-1}"
}
huge=4611686018427387904
text() { printf '%s%s' "$(le 8 ${#1})" "$1"; }
key="$(text general.architecture)$(le 4 8)$(text falcon-h1)"
gguf 1 0 0 '' version 2
gguf 2 0 0 '' version 2
gguf 50331648 0 0 '' endian 2
gguf 12345 0 0 '' version
gguf 3 $huge 0 '' tensors
gguf 3 0 $huge '' key
gguf 3 -1 -1 '' ''
gguf 3 0 1 "$(le 8 $huge)abc" key
gguf 3 0 1 "$(text a)$(le 4 8)$(le 8 $huge)abc" 'too long'
gguf 3 0 1 "$(text a)$(le 4 9)$(le 4 0)$(le 8 $huge)abc" 'array'
gguf 3 0 1 "$(text a)$(le 4 9)$(le 4 8)$(le 8 67000000)$(le 8 1)" ''
gguf 3 0 1 "$(text a)$(le 4 9)$(le 4 9)$(le 8 1)$(le 4 9)$(le 8 1)" 'array'
gguf 3 0 1 "$(text a)$(le 4 99)$(le 8 1)" 'no known type'
gguf 3 0 2 "$key$key" 'twice'
gguf 3 0 2 "$key$(text general.alignment)$(le 4 4)$(le 4 3)" alignment
gguf 3 0 2 "$key$(text general.alignment)$(le 4 4)$(le 4 0)" alignment
# tensor NAME DIMS… -- TYPE OFFSET
tensor() {
    local name=$1 dims=()
    shift
    while [[ $1 != -- ]]; do dims+=("$1") && shift; done
    printf '%s' "$(text "$name")$(le 4 ${#dims[@]})"
    for d in "${dims[@]}"; do le 8 "$d"; done
    printf '%s' "$(le 4 "$2")$(le 8 "$3")"
}
gguf 3 1 1 "$key$(tensor a 1 1 1 1 1 -- 0 0)" 'dim'
gguf 3 1 1 "$key$(tensor a 1099511627776 1099511627776 -- 0 0)" 'overflow'
gguf 3 1 1 "$key$(tensor a 1099511627776 -- 0 0)" 'ends'
gguf 3 1 1 "$key$(tensor a 8 -- 99 0)" 'type'
gguf 3 1 1 "$key$(tensor a 8 -- 0 7)" ''
gguf 3 1 1 "$key$(tensor a 8 -- 0 $huge)" ''
gguf 3 2 1 "$key$(tensor a 8 -- 0 0)$(tensor a 8 -- 0 32)$(printf '\\x00%.0s' {1..160})" 'twice'
gguf 3 2 1 "$key$(tensor a 8 -- 0 0)$(tensor b 8 -- 0 0)$(printf '\\x00%.0s' {1..160})" ''
for n in 3 20 100 5000; do
    head -c $n "$dir/good.gguf" > "$dir/bad.gguf"
    run 1 bad.gguf '' verify "$dir/bad.gguf"
    run 2 bad.gguf '' convert "$dir/bad.gguf" "$dir/out/copy"
done

# ---- adapters

base=golden/merges/bases/plain-bf16
# adapter NAME TEXT SED-EXPRESSION [FILE]: an edit of a sound adapter's config.
fresh_adapter() {
    rm -rf "$dir/a"
    cp -r "golden/merges/adapters/$1" "$dir/a"
}
refuse() { run 2 "$1" "$2" merge "$base" "$dir/a" -o "$dir/out/merged"; }
# adapter_config SED-EXPRESSION TEXT
adapter_config() {
    fresh_adapter qv
    sed -i -E "$1" "$dir/a/adapter_config.json"
    ! cmp -s "$dir/a/adapter_config.json" golden/merges/adapters/qv/adapter_config.json || complain "nothing to edit: $1"
    refuse adapter_config.json "$2"
}
fresh_adapter qv
"$fh1" merge "$base" "$dir/a" -o "$dir/merged" > "$dir/stdout" 2>&1 || complain "a sound adapter: $(cat "$dir/stdout")"
adapter_config 's/"r": 5/"r": 0/' 'rank'
adapter_config 's/"lora_alpha": 3/"lora_alpha": "3"/' lora_alpha
adapter_config 's/"peft_type": "LORA"/"peft_type": "IA3"/' peft_type
adapter_config 's/"r": 5/"r": 5, "lora_future": 1/' lora_future
adapter_config 's/"layer_replication": null/"layer_replication": [[0,2],[1,2]]/' layer_replication
adapter_config 's/"init_lora_weights": true/"init_lora_weights": "pissa"/' pissa
adapter_config 's/"r": 5/"r": 5, "r": 5/' 'appears twice'
adapter_config '$d' JSON
fresh_adapter qv
sed -i 's/"r": 5/"r": 5000000000/' "$dir/a/adapter_config.json"
refuse adapter_model.safetensors '[5000000000, 27]'
fresh_adapter qv
truncate -s 100M "$dir/a/adapter_config.json"
refuse adapter_config.json 'too large'
fresh_adapter qv
sed -i -z -E 's/"target_modules": \[[^]]*\]/"target_modules": "(((a*)*)*)*(x+x+)+y|(.*.*.*.*.*.*)*!"/' "$dir/a/adapter_config.json"
refuse "$dir/a" '' # a pattern that would run for ages
for n in 4 100 2000; do
    fresh_adapter qv
    truncate -s $n "$dir/a/adapter_model.safetensors"
    refuse adapter_model.safetensors ''
done
fresh_adapter qv
printf 'version https://git-lfs.github.com/spec/v1\n' > "$dir/a/adapter_model.safetensors"
refuse adapter_model.safetensors git-lfs
fresh_adapter qv
mv "$dir/a/adapter_model.safetensors" "$dir/a/adapter_model.bin"
refuse "$dir/a" '.bin'
# names of tensors, all of one length
fresh_adapter qv
LC_ALL=C sed -i 's/layers\.0\.self_attn\.q_proj\.lora_A/layers.9.self_attn.q_proj.lora_A/' "$dir/a/adapter_model.safetensors"
refuse adapter_model.safetensors 'layers.9.self_attn.q_proj'
fresh_adapter qv
LC_ALL=C sed -i 's/layers\.0\.self_attn\.q_proj\.lora_A/layers.0.self_attn.q_proj.lora_C/' "$dir/a/adapter_model.safetensors"
refuse adapter_model.safetensors 'lora_C'

# ---- quantised weights: the state is JSON in a tensor

# state FROM TO TEXT: of one length
state() {
    fresh golden/merges/bases/nf4
    LC_ALL=C sed -i "0,/$1/s//$2/" "$dir/m/model.safetensors"
    ! cmp -s "$dir/m/model.safetensors" golden/merges/bases/nf4/model.safetensors || complain "nothing to edit: $1"
    run 2 quant_state "$3" convert "$dir/m" "$dir/out/copy" --dtype bf16
    run 1 quant_state "$3" verify "$dir/m"
}
state '"quant_type": "nf4"' '"quant_type": "nf5"' nf5
state '"blocksize": 64' '"blocksize": 63' blocksize
state '"blocksize"' '"blocksiz_"' block
state '"shape": \[' '"shape": {' JSON

# ---- one place for two things

fresh golden/models/mini-0.5b-bf16
ln -s m "$dir/link"
for target in m m/ link ./m/../m m/inside; do
    run 2 m '' convert "$dir/m" "$dir/$target" --force
done
ln "$dir/good.fh1" "$dir/hard.fh1"
cp "$dir/good.fh1" "$dir/before.fh1"
run 2 good.fh1 '' convert "$dir/good.fh1" "$dir/good.fh1" --force
code=0
"$fh1" convert "$dir/good.fh1" "$dir/hard.fh1" --force > "$dir/stdout" 2>&1 || code=$?
cmp -s "$dir/good.fh1" "$dir/before.fh1" || complain "the source of a hard link was changed (exit $code)"
diff -r "$dir/m" golden/models/mini-0.5b-bf16 > /dev/null || complain 'the source was changed'

echo "$cases command lines, $failures failures"
((failures == 0))
