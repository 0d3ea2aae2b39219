#include "convert/json_scan.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Some versions of cJSON copy a number into a buffer of 64 bytes and silently stop there. */
#define MAX_NUMBER 63

static fh1_status at(const cvt_scan *s, size_t offset, fh1_status e)
{
    return fh1_where(e, "%s, byte %zu", s->what, offset);
}

size_t cvt_utf8_len(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    if (n == 0) return 0;
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || len > n) return 0;
    /* The second byte alone decides about overlong forms, surrogates and the end of Unicode. */
    unsigned char lo = 0x80, hi = 0xbf;
    if (s[0] == 0xe0) lo = 0xa0;
    if (s[0] == 0xed) hi = 0x9f;
    if (s[0] == 0xf0) lo = 0x90;
    if (s[0] == 0xf4) hi = 0x8f;
    if (s[1] < lo || s[1] > hi) return 0;
    for (size_t i = 2; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return len;
}

/* Four hexadecimal digits at offset i, or -1. */
static int hex4(const cvt_scan *s, size_t i)
{
    int v = 0;
    if (s->n - i < 4) return -1;
    for (size_t k = i; k < i + 4; k++) {
        char c = s->text[k];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* The escape whose backslash is at *i; moves *i behind it. */
static fh1_status scan_escape(const cvt_scan *s, size_t *i)
{
    size_t start = *i;
    char c = start + 1 < s->n ? s->text[start + 1] : '\0';
    if (c != '\0' && strchr("\"\\/bfnrt", c)) {
        *i = start + 2;
        return NULL;
    }
    int v = c == 'u' ? hex4(s, start + 2) : -1;
    if (v < 0) return at(s, start, FH1_BAD("an escape in a string is not one of JSON's"));
    if (v == 0) return at(s, start, FH1_BAD("a string contains \\u0000"));
    *i = start + 6;
    if (v < 0xd800 || v > 0xdfff) return NULL;
    int low = v < 0xdc00 && s->n - *i >= 6 && s->text[*i] == '\\' && s->text[*i + 1] == 'u' ? hex4(s, *i + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff) return at(s, start, FH1_BAD("a string contains a lone surrogate escape"));
    *i += 6;
    return NULL;
}

static fh1_status scan_string(cvt_scan *s)
{
    size_t i = s->begin + 1;
    for (;;) {
        if (i >= s->n) return at(s, s->begin, FH1_BAD("a string has no closing quote"));
        unsigned char c = (unsigned char)s->text[i];
        if (c == '"') break;
        if (c == '\\') {
            FH1_TRY(scan_escape(s, &i));
        } else if (c < 0x20) {
            return fh1_hint(at(s, i, FH1_BAD("a string contains the raw control character 0x%02x", c)),
                            "JSON writes it as \\u%04x", c);
        } else {
            size_t len = cvt_utf8_len(s->text + i, s->n - i);
            if (len == 0) return at(s, i, FH1_BAD("the text is not valid UTF-8"));
            i += len;
        }
    }
    s->kind = CVT_TOKEN_STRING;
    s->end = i + 1;
    return NULL;
}

static size_t digits(const cvt_scan *s, size_t i)
{
    while (i < s->n && s->text[i] >= '0' && s->text[i] <= '9') i++;
    return i;
}

static bool is_word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '+' || c == '-';
}

/* What stands at the token's place, up to the next delimiter, into the error. */
static fh1_status bad_word(const cvt_scan *s, fh1_status e)
{
    size_t end = s->begin;
    while (end < s->n && is_word_byte(s->text[end])) end++;
    int len = end - s->begin > 40 ? 40 : (int)(end - s->begin);
    return fh1_found(at(s, s->begin, e), "%.*s", len, s->text + s->begin);
}

/* Whether an integer of these digits is at most 2^53, so that a double holds it exactly. */
static bool fits_double(const char *p, size_t n_digits)
{
    uint64_t v = 0;
    if (n_digits > 16) return false;
    for (size_t i = 0; i < n_digits; i++) v = v * 10 + (uint64_t)(p[i] - '0');
    return v <= UINT64_C(1) << 53;
}

static fh1_status scan_number(cvt_scan *s)
{
    size_t i = s->begin;
    bool negative = s->text[i] == '-', whole = true;
    if (negative) i++;
    size_t first = i, last = digits(s, i);
    bool ok = last > first && (last == first + 1 || s->text[first] != '0');
    i = last;
    if (ok && i < s->n && s->text[i] == '.') {
        whole = false;
        last = digits(s, ++i);
        ok = last > i;
        i = last;
    }
    if (ok && i < s->n && (s->text[i] == 'e' || s->text[i] == 'E')) {
        whole = false;
        i++;
        if (i < s->n && (s->text[i] == '+' || s->text[i] == '-')) i++;
        last = digits(s, i);
        ok = last > i;
        i = last;
    }
    if (!ok || (i < s->n && is_word_byte(s->text[i])))
        return fh1_hint(bad_word(s, FH1_BAD("this is not a JSON number")),
                        "JSON numbers are decimal, without leading zeros, plus sign or bare point");
    if (i - s->begin > MAX_NUMBER) return bad_word(s, FH1_BAD("a number has more than %d characters", MAX_NUMBER));
    char copy[MAX_NUMBER + 1];
    memcpy(copy, s->text + s->begin, i - s->begin);
    copy[i - s->begin] = '\0';
    if (!whole && !isfinite(strtod(copy, NULL))) return bad_word(s, FH1_BAD("a number is too large for a double"));
    s->kind = CVT_TOKEN_NUMBER;
    s->end = i;
    s->exact = whole && fits_double(s->text + first, i - first) && !(negative && s->text[first] == '0');
    return NULL;
}

static fh1_status scan_word(cvt_scan *s)
{
    static const char *const words[] = {"true", "false", "null"};
    size_t end = s->begin;
    while (end < s->n && is_word_byte(s->text[end])) end++;
    const char *p = s->text + s->begin;
    size_t len = end - s->begin;
    s->kind = CVT_TOKEN_WORD;
    s->end = end;
    for (int i = 0; i < 3; i++)
        if (len == strlen(words[i]) && memcmp(p, words[i], len) == 0) return NULL;
    const char *name = len > 0 && p[0] == '-' ? p + 1 : p;
    size_t n_name = len - (size_t)(name - p);
    if ((n_name == 8 && memcmp(name, "Infinity", 8) == 0) || (n_name == 3 && memcmp(name, "NaN", 3) == 0))
        return fh1_hint(at(s, s->begin, FH1_BAD("%.*s is not JSON", (int)len, p)),
                        "write {\"__float__\": \"Infinity\"} or null, as transformers does");
    return bad_word(s, FH1_BAD("a JSON value was expected"));
}

fh1_status cvt_scan_next(cvt_scan *s)
{
    if (s->at == 0 && s->n >= 3 && memcmp(s->text, "\xef\xbb\xbf", 3) == 0)
        return fh1_hint(at(s, 0, FH1_BAD("the text begins with a byte order mark")), "save it as UTF-8 without BOM");
    while (s->at < s->n &&
           (s->text[s->at] == ' ' || s->text[s->at] == '\t' || s->text[s->at] == '\n' || s->text[s->at] == '\r'))
        s->at++;
    s->begin = s->at;
    s->end = s->at + 1;
    s->exact = false;
    if (s->at >= s->n) {
        s->kind = CVT_TOKEN_END;
        s->end = s->n;
        return NULL;
    }
    char c = s->text[s->begin];
    char next = s->begin + 1 < s->n ? s->text[s->begin + 1] : '\0';
    if (c == '{' || c == '[') s->kind = CVT_TOKEN_OPEN;
    else if (c == '}' || c == ']') s->kind = CVT_TOKEN_CLOSE;
    else if (c == ':') s->kind = CVT_TOKEN_COLON;
    else if (c == ',') s->kind = CVT_TOKEN_COMMA;
    else if (c == '"') FH1_TRY(scan_string(s));
    else if ((c >= '0' && c <= '9') || (c == '-' && next != 'I' && next != 'N')) FH1_TRY(scan_number(s));
    else if (is_word_byte(c)) FH1_TRY(scan_word(s));
    else return at(s, s->begin, FH1_BAD("the byte 0x%02x cannot stand here in JSON", (unsigned char)c));
    s->at = s->end;
    return NULL;
}
