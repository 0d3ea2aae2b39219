# Function bodies that stand twice: "FILE:LINE is FILE:LINE again". A body counts without comments and blanks, from `least`
# characters on. Formatted as clang-format does here: a line that ends in ')', then '{' and '}' at the first column.
FNR == 1 { inside = 0; last = "" }
{
    line = $0
    gsub(/\/\*[^*]*\*+([^\/*][^*]*\*+)*\//, "", line) # comments of one line
    sub(/\/\/.*/, "", line)
    sub(/^ \*.*/, "", line) # and the lines of longer ones
    sub(/\/\*.*/, "", line)
}
!inside && line == "{" && last ~ /\)$/ { inside = 1; body = ""; begin = FNR; next }
inside && line ~ /^}/ {
    inside = 0
    if (length(body) >= least) {
        if (body in first) print FILENAME ":" begin " is " first[body] " again"
        else first[body] = FILENAME ":" begin
    }
    last = ""
    next
}
inside { gsub(/[ \t]/, "", line); body = body line; next }
line != "" { last = line }
