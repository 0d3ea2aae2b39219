#!/bin/sh
# usage: style_bodies.sh ROOT
# ci/style finds a function body that two files share, and only that.
set -eu
root=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/a.c" << 'C'
static int sum_of_squares(const int *v, int n)
{
    int sum = 0; /* of all */
    for (int i = 0; i < n; i++) sum += v[i] * v[i];
    return sum;
}
C
sed -e 's/sum_of_squares/norm2/' -e 's/; .*of all.*/;/' "$dir/a.c" > "$dir/b.c"
sed -e 's/norm2/norm3/' -e 's/v\[i\] \* v\[i\]/v[i] * n/' "$dir/b.c" > "$dir/c.c"
found=$(awk -v least=40 -f "$root/ci/style.d/bodies.awk" "$dir/a.c" "$dir/b.c" "$dir/c.c")
[ "$found" = "$dir/b.c:2 is $dir/a.c:2 again" ] || { echo "found: $found" && exit 1; }
[ -z "$(awk -v least=40 -f "$root/ci/style.d/bodies.awk" "$dir/a.c" "$dir/c.c")" ] || { echo "another body was taken for the same" && exit 1; }
