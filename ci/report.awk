# suite.json and the JSON lines of `fh1 check --json` -> one self-contained HTML page. Only the flat keys that it shows
# are read; both files have one object per line by construction, so no JSON parser is needed.
function text(key,    s) {
    if (!match($0, "\"" key "\":\"([^\"\\\\]|\\\\.)*\"")) return ""
    s = substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 5)
    gsub(/\\"/, "\"", s); gsub(/\\\\/, "\\", s)
    gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s)
    return s
}
function number(key,    s) {
    if (!match($0, "\"" key "\":[-+0-9.eE]+")) return ""
    return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
}
FNR == NR { # suite.json: which traces must FAIL
    if (/"expect": *"FAIL"/ && match($0, /"name": *"[^"]*"/)) {
        name = substr($0, RSTART, RLENGTH)
        gsub(/^"name": *"|"$/, "", name)
        wanted["trace " name] = 1
    }
    next
}
/"summary":true/ { version = text("fh1"); verdict = text("verdict"); repro = text("repro"); next }
{
    s = text("subject"); v = text("verdict"); m = number("margin")
    if (!(s in seen)) { seen[s] = 1; order[++n] = s }
    count[s, v]++
    total[v]++
    if (m != "" && (!(s in worst) || m + 0 > worst[s])) { worst[s] = m + 0; at[s] = "step " number("step") " " text("tap") }
    if (v == "FAIL" && !(s in first)) first[s] = "step " number("step") " " text("tap")
}
END {
    print "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>fh1 report</title><style>"
    print "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}"
    print "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25em .6em;border-bottom:1px solid #ddd}"
    print "td.n{text-align:right;font-variant-numeric:tabular-nums}.FAIL{background:#fde2e0}.PASS{background:#e6f4e6}"
    print ".MISTRUSTED{background:#fff3cd}.wanted{background:#eef3fb}code{background:#f3f3f3;padding:.1em .3em}</style></head><body>"
    printf "<h1>fh1 %s: <span class=\"%s\">%s</span></h1>\n", version, verdict, verdict
    printf "<p>%d taps PASS, %d FAIL, %d MISTRUSTED, %d SKIP over %d subjects. Golden wrong traces must FAIL at a named tap.</p>\n", \
        total["PASS"], total["FAIL"], total["MISTRUSTED"], total["SKIP"], n
    printf "<p>Again: <code>%s</code></p>\n", repro
    print "<table><tr><th>subject</th><th>PASS</th><th>FAIL</th><th>MISTRUSTED</th><th>SKIP</th><th>worst margin</th><th>at</th><th>first divergence</th></tr>"
    for (i = 1; i <= n; i++) {
        s = order[i]
        printf "<tr class=\"%s\"><td>%s</td><td class=\"n\">%d</td><td class=\"n\">%d</td><td class=\"n\">%d</td><td class=\"n\">%d</td><td class=\"n\">%s</td><td>%s</td><td>%s</td></tr>\n", \
            (s in wanted) ? "wanted" : (s in first) ? "FAIL" : "", s (s in wanted ? " (must FAIL)" : ""), count[s, "PASS"], count[s, "FAIL"], count[s, "MISTRUSTED"], count[s, "SKIP"], \
            (s in worst) ? sprintf("%.3g", worst[s]) : "", at[s], first[s]
    }
    print "</table></body></html>"
}
