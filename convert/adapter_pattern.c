/* Python's regular expressions by PCRE2. The two differ in few places; a pattern that touches one of them is refused.
 */
#include "convert/adapter_match.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATTERN 65536
#define MATCH_LIMIT 200000u /* steps; a path has some 40 characters */
#define HEAP_LIMIT 4096u    /* KiB */

struct cvt_pattern {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    char what[128];
    char *text;
};

static fh1_status refuse(const char *what, const char *pattern, const char *why)
{
    return fh1_found(fh1_where(FH1_BAD("the pattern is not usable: %s", why), "%s", what), "%.200s", pattern);
}

/* What may follow "(?" in Python. Flags for all of the pattern only stand at its very beginning. */
static bool python_group(const char *s, bool first)
{
    if (strncmp(s, "P<", 2) == 0 || strncmp(s, "P=", 2) == 0) return true;
    if (strncmp(s, "<=", 2) == 0 || strncmp(s, "<!", 2) == 0) return true;
    if (*s == ':' || *s == '#' || *s == '=' || *s == '!' || *s == '(' || *s == '>') return true;
    size_t n = strspn(s, "aiLmsux"), off = s[n] == '-' ? 1 + strspn(s + n + 1, "ims") : 0;
    return s[n + off] == ':' || (s[n] == ')' && n > 0 && first);
}

/* NULL, or what in the pattern PCRE2 and Python read in different ways. */
static const char *not_python(const char *p, bool prefixed)
{
    const char *begin = prefixed ? NULL : p;
    bool in_class = false;
    for (; *p; p++) {
        if (*p == '\\') {
            p++;
            if (*p == '\0') return "it ends in a backslash";
            if (isalpha((unsigned char)*p) && !strchr("AbBdDsSwWZafnrtvx", *p))
                return "Python has no such escape, or one that is not supported here (\\u, \\U, \\N)";
            if (*p == 'x' && p[1] == '{') return "Python has no \\x{…}";
            continue;
        }
        if (in_class) {
            if (*p == '[' && p[1] && strchr(":.=", p[1])) return "Python has no classes like [:alpha:]";
            in_class = *p != ']';
            continue;
        }
        if (*p == '[') {
            in_class = true;
            if (p[1] == '^') p++;
            if (p[1] == ']') p++; /* the first one stands for itself */
            continue;
        }
        if (*p == '{' && p[1] == ',') return "{,n} is not supported, write {0,n}";
        if (*p != '(') continue;
        if (p[1] == '*') return "Python has no verbs like (*ACCEPT)";
        if (p[1] == '?' && !python_group(p + 2, p == begin)) return "Python has no such group";
    }
    return NULL;
}

static fh1_status compile(cvt_pattern *p, cvt_match_kind kind)
{
    int error;
    size_t at;
    uint32_t options =
        PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C | (kind == CVT_MATCH_FULL ? PCRE2_ENDANCHORED : 0);
    p->code = pcre2_compile((PCRE2_SPTR)p->text, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    if (!p->code) {
        char why[200] = "", text[256];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
        snprintf(text, sizeof text, "%.190s, at character %zu", why, at);
        return refuse(p->what, p->text, text);
    }
    p->data = pcre2_match_data_create_from_pattern(p->code, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->data || !p->limits) return fh1_no_memory(1024, "a pattern");
    pcre2_set_match_limit(p->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(p->limits, HEAP_LIMIT);
    return NULL;
}

fh1_status cvt_pattern_new(const char *prefix, const char *pattern, const char *suffix, cvt_match_kind kind,
                           const char *what, cvt_pattern **out)
{
    const char *why = strlen(pattern) > MAX_PATTERN ? "it is too long" : not_python(pattern, *prefix != '\0');
    *out = NULL;
    if (why) return refuse(what, pattern, why);
    cvt_pattern *p = calloc(1, sizeof *p);
    if (!p || asprintf(&p->text, "%s%s%s", prefix, pattern, suffix) < 0) {
        free(p);
        return fh1_no_memory(strlen(pattern), "a pattern");
    }
    snprintf(p->what, sizeof p->what, "%.127s", what);
    fh1_status s = compile(p, kind);
    if (s) cvt_pattern_free(p);
    else *out = p;
    return s;
}

void cvt_pattern_free(cvt_pattern *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    pcre2_match_data_free(p->data);
    pcre2_match_context_free(p->limits);
    free(p->text);
    free(p);
}

fh1_status cvt_pattern_match(const cvt_pattern *p, const char *text, bool *matched, int64_t *number)
{
    int rc = pcre2_match(p->code, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, 0, p->data, p->limits);
    *matched = rc > 0;
    if (rc == PCRE2_ERROR_NOMATCH) return NULL;
    if (rc <= 0) return refuse(p->what, p->text, "it takes too many steps");
    if (!number) return NULL;
    const size_t *ends = pcre2_get_ovector_pointer(p->data);
    size_t digits = ends[1] - 1; /* the group is followed by one point */
    while (digits > 0 && isdigit((unsigned char)text[digits - 1])) digits--;
    *number = strtoll(text + digits, NULL, 10);
    return NULL;
}
