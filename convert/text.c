#include "convert/text.h"

#include "convert/json_scan.h" /* cvt_utf8_len */
#include "convert/st_layout.h" /* cvt_st_check_text */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and a zero. */
static bool reserve(cvt_text *b, size_t n)
{
    if (b->failed) return false;
    if (b->n + n + 1 <= b->room) return true;
    size_t room = 2 * (b->n + n + 1);
    char *grown = realloc(b->s, room);
    if (!grown) {
        b->failed = true;
        return false;
    }
    b->s = grown;
    b->room = room;
    return true;
}

void cvt_text_bytes(cvt_text *b, const char *s, size_t n)
{
    if (!reserve(b, n)) return;
    memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = '\0';
}

void cvt_text_add(cvt_text *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    if (n >= 0 && reserve(b, (size_t)n)) b->n += (size_t)vsnprintf(b->s + b->n, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
}

/* The code point of a UTF-8 sequence of k bytes. */
static unsigned code_point(const char *s, size_t k)
{
    static const unsigned char first[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    unsigned v = (unsigned char)s[0] & first[k];
    for (size_t i = 1; i < k; i++) v = v << 6 | ((unsigned char)s[i] & 0x3f);
    return v;
}

static void add_escaped(cvt_text *b, unsigned v)
{
    if (v >= 0x10000) {
        cvt_text_add(b, "\\u%04x", 0xd800 + ((v - 0x10000) >> 10));
        v = 0xdc00 + ((v - 0x10000) & 0x3ff);
    }
    cvt_text_add(b, "\\u%04x", v);
}

void cvt_text_json(cvt_text *b, const char *s, bool ascii)
{
    static const char special[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    size_t n = strlen(s);
    cvt_text_bytes(b, "\"", 1);
    while (n > 0) {
        size_t plain = 0;
        while (plain < n && (unsigned char)s[plain] >= 0x20 && s[plain] != '"' && s[plain] != '\\' &&
               !(ascii && (unsigned char)s[plain] >= 0x7f))
            plain++;
        cvt_text_bytes(b, s, plain);
        s += plain;
        n -= plain;
        if (n == 0) break;
        const char *k = strchr(special, *s);
        size_t step = k ? 1 : cvt_utf8_len(s, n);
        if (k) cvt_text_add(b, "\\%c", letter[k - special]);
        else add_escaped(b, step ? code_point(s, step) : (unsigned char)*s);
        if (step == 0) step = 1;
        s += step;
        n -= step;
    }
    cvt_text_bytes(b, "\"", 1);
}

void cvt_text_hex(cvt_text *b, const char *name)
{
    for (const char *p = name; *p; p++) cvt_text_add(b, "%02x", (unsigned)(unsigned char)*p);
}

bool cvt_text_unhex(const char *hex, char *out, size_t size)
{
    const size_t n = strlen(hex) / 2;
    if (strlen(hex) % 2 != 0 || n >= size || strspn(hex, "0123456789abcdef") != 2 * n) return false;
    for (size_t i = 0; i < n; i++) {
        const char digits[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        out[i] = (char)(unsigned char)strtoul(digits, NULL, 16);
        if (out[i] == '\0') return false;
    }
    out[n] = '\0';
    return cvt_st_check_text(out) != NULL;
}
