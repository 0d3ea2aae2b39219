#!/usr/bin/env bash
# zoo.sh PROGRAM BUILD TABLE [--write]: runs every planted bug and its honest twin, each in a process of its own, in the
# modes of this build (plain: forward, reverse, random, deferred; else one of asan, check, tsan, msan) and holds what was
# said against the columns of TABLE. A bug that the table says is caught must be caught, a twin must be clean, and every bug
# must be caught by some mode. --write puts what was seen into TABLE instead.
#
# Kinds: RACE OOB FREED UNINIT ALIGN (our checker), ASAN UBSAN MSAN TSAN, LAYER (cuda-host ended the program), REFUSED (a
# call of the runtime API failed), BAD (wrong numbers), CRASH, - (nothing).
#
# exit codes: 0 as the table says, 1 not
set -u
program=$1 build=$2 table=$3 write=${4:-}
case $build in
    plain) modes="forward reverse random deferred" ;;
    *) modes=$build ;;
esac
export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="atexit_sleep_ms=0 ${TSAN_OPTIONS:-}"

settings() {
    case $1 in
        forward | reverse) echo "FH1_CUDA_ORDER=$1" ;;
        random) echo "FH1_CUDA_ORDER=random:7" ;;
        deferred) echo "FH1_CUDA_STREAMS=deferred" ;;
        *) echo "FH1_CUDA_ORDER=forward" ;;
    esac
}

# look MODE NAME honest|planted: the kind
look() {
    local said code
    said=$(timeout 120 env "$(settings "$1")" "$program" "$2" "$3" 2>&1)
    code=$?
    case $said in
        *"runtime error"*) echo UBSAN ;;
        *AddressSanitizer*) echo ASAN ;;
        *MemorySanitizer*) echo MSAN ;;
        *ThreadSanitizer*) echo TSAN ;;
        *"cu-check: RACE"*) echo RACE ;;
        *"cu-check: OUT OF"*) echo OOB ;;
        *"cu-check: USE AFTER"*) echo FREED ;;
        *"cu-check: MISALIGNED"*) echo ALIGN ;;
        *"cu-check: "*UNINITIALISED*) echo UNINIT ;;
        *REFUSED*) echo REFUSED ;;
        *) case $code in
            0) echo - ;;
            66) echo LAYER ;;
            1) echo BAD ;;
            *) echo CRASH ;;
        esac ;;
    esac
}

column() { # MODE
    awk -v mode="$1" '$1 == "bug" { for (i = 1; i <= NF; ++i) if ($i == mode) print i; exit }' "$table"
}

wrong=0
complain() {
    echo "zoo: $*"
    wrong=1
}
for mode in $modes; do
    at=$(column "$mode")
    [[ -n $at ]] || { echo "zoo: $table has no column $mode"; exit 1; }
    for name in $("$program" list); do
        [[ -n $write ]] || awk -v bug="$name" '$1 == bug { found = 1 } END { exit !found }' "$table" ||
            complain "$name is not in $table"
        kind=$(look "$mode" "$name" honest)
        [[ $kind == - ]] || complain "$mode: the honest twin of $name: $kind"
        kind=$(look "$mode" "$name" planted)
        expected=$(awk -v bug="$name" -v at="$at" '$1 == bug { print $at }' "$table")
        if [[ -n $write ]]; then
            awk -v bug="$name" -v at="$at" -v kind="$kind" '$1 == bug { $at = kind } { print }' "$table" > "$table.new" &&
                mv "$table.new" "$table"
        elif [[ $kind == - && $expected != - ]]; then complain "$mode: $name is not caught (the table says $expected)"
        elif [[ $kind != "$expected" ]]; then echo "zoo: note: $mode: $name is $kind, the table says $expected"
        fi
    done
done
if [[ -n $write ]]; then
    awk '/^#/ { print; next } { printf "%-32s %-7s", $1, $2; for (i = 3; i <= NF; ++i) printf " %-8s", $i; print "" }' "$table" |
        sed 's/ *$//' > "$table.new" && mv "$table.new" "$table"
fi
# The table itself: no bug that nobody catches.
while read -r name; do complain "$name is caught by nothing"; done < <(awk '
    $1 == "bug" || /^#/ || !NF { next }
    { for (i = 3; i <= NF; ++i) if ($i != "-") next; print $1 }' "$table")
exit "$wrong"
