#include "oracle/status.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* One record per thread: an error is forwarded upwards at once, so a second one only arises after
 * the first has been told or dropped. */
static _Thread_local fh1_error record;

/* Show that text did not fit: the end becomes "...", never half of a UTF-8 character. */
static void mark_cut(char *buf, size_t size)
{
    size_t end = size - 4; /* "..." and the zero */
    while (end > 0 && ((unsigned char)buf[end] & 0xc0u) == 0x80u) end--;
    memcpy(buf + end, "...", 4);
}

static void format(char *buf, size_t size, const char *fmt, va_list args)
{
    int n = vsnprintf(buf, size, fmt, args);
    if (n < 0) {
        snprintf(buf, size, "(message could not be formatted)");
        return;
    }
    if ((size_t)n >= size) mark_cut(buf, size);
}

fh1_status fh1_fail(fh1_code code, const char *what, ...)
{
    /* Formatted aside first: an argument may point into the record, as in "%s" of an inner error. */
    char text[sizeof record.what];
    va_list args;
    va_start(args, what);
    format(text, sizeof text, what, args);
    va_end(args);

    memset(&record, 0, sizeof record);
    record.code = code == FH1_OK ? FH1_E_INTERNAL : code;
    memcpy(record.what, text, strlen(text) + 1);
    return &record;
}

fh1_status fh1_where(fh1_status s, const char *fmt, ...)
{
    if (!s) return NULL;
    char outer[sizeof s->where], both[2 * sizeof s->where + 2];
    va_list args;
    va_start(args, fmt);
    format(outer, sizeof outer, fmt, args);
    va_end(args);

    fh1_error *e = (fh1_error *)s; /* const for readers only: every status is a writable record */
    snprintf(both, sizeof both, "%s%s%s", outer, e->where[0] ? ": " : "", e->where);
    if (strlen(both) >= sizeof e->where) mark_cut(both, sizeof e->where);
    memcpy(e->where, both, strlen(both) + 1);
    return s;
}

static void set_once(char *part, size_t size, const char *fmt, va_list args)
{
    char text[sizeof record.hint];
    if (part[0]) return;
    format(text, size, fmt, args);
    memcpy(part, text, strlen(text) + 1);
}

/* The three parts differ only in their field; va_start needs a function of its own for each. */
#define SET_PART(function, field)                           \
    fh1_status function(fh1_status s, const char *fmt, ...) \
    {                                                       \
        if (!s) return NULL;                                \
        fh1_error *e = (fh1_error *)s;                      \
        va_list args;                                       \
        va_start(args, fmt);                                \
        set_once(e->field, sizeof e->field, fmt, args);     \
        va_end(args);                                       \
        return s;                                           \
    }
SET_PART(fh1_expected, expected)
SET_PART(fh1_found, found)
SET_PART(fh1_hint, hint)

fh1_status fh1_no_memory(size_t n_bytes, const char *for_what)
{
    fh1_status s = fh1_fail(FH1_E_INTERNAL, "out of memory: %zu bytes for %s", n_bytes, for_what);
    return fh1_hint(s, "free memory or use a smaller model or batch");
}

/* Length of the UTF-8 character at p that is safe to print, 0 for anything else: bytes that are not
 * (shortest-form) UTF-8, control characters, and characters that break or reorder a line. */
static int printable_length(const unsigned char *p)
{
    if (p[0] < 0x80) return p[0] >= 0x20 && p[0] != 0x7f;
    int n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    uint32_t c = p[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0u) != 0x80u) return 0; /* also stops at the terminating zero */
        c = c << 6 | (p[i] & 0x3fu);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
    if (c < 0xa0) return 0;                                                   /* C1 controls */
    if (c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e)) return 0; /* lines, overrides */
    if (c == 0x61c || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff) return 0;  /* isolates, BOM */
    return n;
}

/* Append the escaped text at *at, keeping room for the zero. False when it was cut. */
static bool put(char *buf, size_t size, size_t *at, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        int n = printable_length(p);
        char escape[5];
        size_t need = n > 0 ? (size_t)n : 4;
        if (size - *at <= need) return false;
        if (n > 0) {
            memcpy(buf + *at, p, need);
        } else {
            snprintf(escape, sizeof escape, "\\x%02x", (unsigned)*p);
            memcpy(buf + *at, escape, need);
        }
        *at += need;
        p += n > 0 ? n : 1;
    }
    return true;
}

const char *fh1_printable(const char *text, char *buf, size_t size)
{
    size_t at = 0;
    if (size == 0) return buf;
    put(buf, size, &at, text);
    buf[at] = 0;
    return buf;
}

const char *fh1_status_line(fh1_status s, char *buf, size_t size)
{
    if (size == 0) return buf;
    size_t at = 0;
    bool has_e = s && s->expected[0], has_f = s && s->found[0];
    const char *const parts[] = {
        s ? s->where : "",        s && s->where[0] ? ": " : "", s ? s->what : "no error",    has_e || has_f ? " (" : "",
        has_e ? "expected " : "", has_e ? s->expected : "",     has_e && has_f ? ", " : "",  has_f ? "found " : "",
        has_f ? s->found : "",    has_e || has_f ? ")" : "",    s && s->hint[0] ? "; " : "", s ? s->hint : "",
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!put(buf, size, &at, parts[i])) break;
    buf[at] = 0;
    return buf;
}
