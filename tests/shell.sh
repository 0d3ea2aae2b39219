# What the tests of the command line share; sourced by them, with the program in `fh1`. A folder of their own in `dir`; they
# end with `((failures == 0))`.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
checks=0 failures=0

complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

# run CODE ARGUMENTS…: runs fh1; output in $dir/out and $dir/err; the exit code must be CODE.
run() {
    local want=$1 code=0
    shift
    checks=$((checks + 1))
    "$fh1" "$@" > "$dir/out" 2> "$dir/err" || code=$?
    if ((code != want)); then
        complain "exit $code instead of $want: fh1 $*"
        head -c 400 "$dir/err"
    fi
}

# says TEXT: the output of the last run contains TEXT; warns: its stderr does.
says() { grep -qF -- "$1" "$dir/out" || { complain "stdout does not say '$1'" && head -c 600 "$dir/out"; }; }
warns() { grep -qF -- "$1" "$dir/err" || { complain "stderr does not say '$1'" && head -c 600 "$dir/err"; }; }

# bad TEXT ARGUMENTS…: exit 2, nothing on stdout, and one line on stderr that begins with fh1 and contains TEXT.
bad() {
    local text=$1
    shift
    run 2 "$@"
    [[ ! -s $dir/out ]] || complain "partial output: fh1 $*"
    [[ $(wc -l < "$dir/err") == 1 ]] || complain "not one line on stderr: fh1 $*"
    grep -q '^fh1' "$dir/err" || complain "no 'fh1' at the start: fh1 $*"
    grep -qF -- "$text" "$dir/err" || { complain "stderr does not say '$text': fh1 $*" && cat "$dir/err"; }
}
