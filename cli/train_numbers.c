#include "cli/train_numbers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool read_part(const char *text, char end_char, double min, double max, const char **behind, double *out)
{
    char *end = NULL;
    if (*text == '\0' || strchr(" \t\n+", *text)) return false;
    *out = strtod(text, &end);
    *behind = end;
    return end != text && *end == end_char && isfinite(*out) && *out >= min && *out <= max;
}

fh1_status cli_read_number(const char *option, const char *text, double min, double max, double *out)
{
    const char *end;
    double v;
    if (read_part(text, '\0', min, max, &end, &v)) {
        *out = v;
        return NULL;
    }
    return fh1_found(fh1_expected(FH1_BAD("%s: not a number that fits", option), "%g to %g", min, max), "'%.100s'",
                     text);
}

fh1_status cli_read_pair(const char *option, const char *text, double min, double max, double out[2])
{
    const char *at;
    double v[2];
    if (read_part(text, ',', min, max, &at, &v[0]) && read_part(at + 1, '\0', min, max, &at, &v[1])) {
        out[0] = v[0];
        out[1] = v[1];
        return NULL;
    }
    return fh1_found(
        fh1_expected(FH1_BAD("%s: not two numbers that fit", option), "two of %g to %g with a comma", min, max),
        "'%.100s'", text);
}
