#!/usr/bin/env bash
# The HTML page in a real browser, without a window: it loads, the console stays empty, its script has run, and the
# picture is not blank. Arguments: the fh1 program, and where the pictures shall stay (default: nowhere). Needs Chromium;
# 77 (skipped) where there is none.
set -euo pipefail
fh1=$1
browser=
for name in chromium chromium-browser google-chrome; do
    [[ -n $browser ]] || browser=$(command -v "$name" || true)
done
if [[ -z $browser ]]; then
    echo "SKIPPED: no Chromium here (ci/interop installs it where it can)"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
keep=${2:-}
failures=0
complain() {
    echo "FAILED: $1"
    failures=$((failures + 1))
}

# browse PAGE ARGUMENTS…: stdout and the log of one visit in $dir/dom and $dir/log.
browse() {
    local page=$1
    shift
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
        --no-first-run --user-data-dir="$dir/profile" --enable-logging=stderr --virtual-time-budget=2000 "$@" "file://$page" \
        > "$dir/dom" 2> "$dir/log" || complain "the browser gave up on $page"
}
# console: what pages wrote to their console, errors of scripts and of loading among it.
console() { grep -E 'CONSOLE|ERR_' "$dir/log" || true; }

# look NAME: visits $dir/NAME.html as a screen in light, in dark, and as a phone.
look() {
    local name=$1 kind size
    browse "$dir/$name.html" --dump-dom
    [[ -z $(console) ]] || complain "$name: the console is not empty: $(console)"
    grep -q '<button>Copy</button>' "$dir/dom" || complain "$name: the script did not run"
    for kind in light:1300,2000:1 dark:1300,2000:0 phone:412,1800:1; do
        size=${kind#*:}
        browse "$dir/$name.html" --window-size="${size%:*}" --blink-settings=preferredColorScheme="${kind##*:}" \
            --screenshot="$dir/$name-${kind%%:*}.png"
        # A blank page of this size compresses to a few kilobytes.
        [[ $(stat -c %s "$dir/$name-${kind%%:*}.png") -gt 20000 ]] || complain "$name: the ${kind%%:*} picture is blank"
    done
}

# A wrong golden trace, a right one, and an engine; then all of it with a past.
check=("$fh1" check golden/models/mini-34b --trace golden/traces/wrong-4.57.6/history-dropped-34b.safetensors
    golden/traces/mini-34b/left3.safetensors --engine ref-bf16 --history "$dir/history.jsonl" --html "$dir/fail.html")
for run in 1 2 3 4; do
    code=0
    "${check[@]}" > /dev/null || code=$?
    ((code == 1)) || complain "run $run: exit $code instead of 1"
done
look fail
grep -q 'class="spark"' "$dir/fail.html" || complain "no trend after three runs"
"$fh1" check golden/models/mini-34b --trace golden/traces/mini-34b/left3.safetensors --html "$dir/pass.html" > /dev/null ||
    complain "a right trace does not pass"
look pass

# Planted: a page with an error in its script must be noticed, or the checks above prove nothing.
sed 's/^show();$/nowhere();/' "$dir/pass.html" > "$dir/planted.html"
browse "$dir/planted.html" --dump-dom
[[ -n $(console) ]] || complain "an error in a script went unnoticed"

[[ -z $keep ]] || { mkdir -p "$keep" && cp "$dir"/*.png "$dir"/*.html "$keep"; }
echo "2 pages, $failures failures"
((failures == 0))
