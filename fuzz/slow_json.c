#include "fuzz/slow_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *slow_json_without;

typedef struct {
    const char *text;
    size_t n, at;
    int depth, max_depth;
} place;

static bool without(const char *rule)
{
    return slow_json_without && strcmp(slow_json_without, rule) == 0;
}

static void *must(void *p)
{
    if (!p) abort(); /* a fuzz target has no use for a reading that is half there */
    return p;
}

/* -- bytes ------------------------------------------------------------------------------------- */

static bool more(const place *p)
{
    return p->at < p->n;
}

static unsigned char byte(const place *p)
{
    return (unsigned char)p->text[p->at];
}

static bool take(place *p, char c)
{
    if (!more(p) || p->text[p->at] != c) return false;
    p->at++;
    return true;
}

/* ws = *( %x20 / %x09 / %x0A / %x0D ) */
static void white_space(place *p)
{
    while (take(p, ' ') || take(p, '\t') || take(p, '\n') || take(p, '\r')) continue;
}

static bool literal(place *p, const char *word)
{
    size_t n = strlen(word);
    if (p->n - p->at < n || memcmp(p->text + p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

/* -- strings ----------------------------------------------------------------------------------- */

/* A code point in the only form that UTF-8 has for it; how many bytes. */
static size_t encode(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6) out[i] = (char)(unsigned char)(0x80 | (c & 0x3f));
    out[0] = (char)(unsigned char)(c | (n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0));
    return n;
}

static bool is_surrogate(uint32_t c)
{
    return c >= 0xd800 && c <= 0xdfff;
}

/* One code point that stands in the text as UTF-8. It is put together from the payload of its bytes, and must then be
 * one of Unicode's that has just this form: so overlong ones, surrogates and what is above U+10FFFF fall out. */
static bool plain_code_point(place *p, uint32_t *out)
{
    unsigned char lead = byte(p);
    size_t n = lead < 0x80 ? 1 : (lead & 0xe0) == 0xc0 ? 2 : (lead & 0xf0) == 0xe0 ? 3 : (lead & 0xf8) == 0xf0 ? 4 : 0;
    if (n == 0 || p->n - p->at < n) return false;
    uint32_t c = n == 1 ? lead : lead & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        unsigned char b = (unsigned char)p->text[p->at + i];
        if ((b & 0xc0) != 0x80) return false;
        c = c << 6 | (b & 0x3fu);
    }
    char form[4];
    bool sound = c <= 0x10ffff && !is_surrogate(c) && encode(c, form) == n && memcmp(form, p->text + p->at, n) == 0;
    if (!sound && !without("utf8")) return false;
    p->at += n;
    *out = c;
    return true;
}

bool slow_code_point(const char *text, size_t n, size_t *at, uint32_t *out)
{
    place p = {.text = text, .n = n, .at = *at};
    const bool sound = plain_code_point(&p, out);
    *at = p.at;
    return sound;
}

static bool four_digits(place *p, uint32_t *out)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    *out = 0;
    for (int i = 0; i < 4; i++) {
        const char *d = more(p) && byte(p) ? strchr(digits, p->text[p->at]) : NULL;
        if (!d) return false;
        *out = *out * 16 + (uint32_t)((d - digits) % 16);
        p->at++;
    }
    return true;
}

/* Behind a backslash. Two surrogates, high and low, are one code point; one alone is none. */
static bool escaped_code_point(place *p, uint32_t *out)
{
    static const char letters[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    uint32_t low;
    if (!more(p)) return false;
    const char *letter = byte(p) ? strchr(letters, p->text[p->at]) : NULL;
    if (letter) {
        p->at++;
        *out = (uint32_t)meaning[letter - letters];
        return true;
    }
    if (!take(p, 'u') || !four_digits(p, out)) return false;
    if (!is_surrogate(*out)) return true;
    size_t behind = p->at;
    bool pair =
        *out < 0xdc00 && take(p, '\\') && take(p, 'u') && four_digits(p, &low) && low >= 0xdc00 && low <= 0xdfff;
    if (!pair) p->at = behind;
    if (!pair) return without("surrogates");
    *out = 0x10000 + (*out - 0xd800) * 0x400 + (low - 0xdc00);
    return true;
}

/* The decoded text, or NULL. */
static char *string(place *p)
{
    if (!take(p, '"')) return NULL;
    char *s = must(malloc(p->n - p->at + 4)); /* decoding makes nothing longer; a code point is at most 4 bytes */
    size_t n = 0;
    for (;;) {
        uint32_t c;
        bool sound;
        if (!more(p)) break;
        if (take(p, '"')) {
            s[n] = '\0';
            return must(realloc(s, n + 1));
        }
        if (take(p, '\\')) sound = escaped_code_point(p, &c);
        else sound = byte(p) >= 0x20 && plain_code_point(p, &c); /* control characters must be escaped */
        if (!sound) break;
        if (c == 0 && without("nul")) continue;
        if (c == 0) break; /* fh1: a text with NUL inside has no end that everybody agrees on */
        n += encode(c, s + n);
    }
    free(s);
    return NULL;
}

/* -- numbers ----------------------------------------------------------------------------------- */

static size_t digits(place *p)
{
    size_t n = 0;
    while (more(p) && byte(p) >= '0' && byte(p) <= '9') p->at++, n++;
    return n;
}

/* number = [ minus ] int [ frac ] [ exp ]; the text, or NULL. */
static char *number(place *p)
{
    size_t begin = p->at;
    take(p, '-');
    if (take(p, '0')) {
        if (without("zeros")) digits(p); /* otherwise a digit behind it is left over, and ends the reading */
    } else if (digits(p) == 0) {
        return NULL;
    }
    if (take(p, '.') && digits(p) == 0) return NULL;
    if (take(p, 'e') || take(p, 'E')) {
        if (!take(p, '-')) take(p, '+');
        if (digits(p) == 0) return NULL;
    }
    if (p->at - begin > 63) return NULL; /* fh1: some versions of cJSON stop reading there */
    char *s = must(strndup(p->text + begin, p->at - begin));
    if (isfinite(strtod(s, NULL))) return s;
    free(s); /* fh1: no infinity by the back door */
    return NULL;
}

/* -- values ------------------------------------------------------------------------------------ */

static slow_json *value(place *p);

static bool has_member(const slow_json *object, const char *name)
{
    for (const slow_json *m = object->first; m; m = m->next)
        if (strcmp(m->name, name) == 0) return true;
    return false;
}

/* One element, or name and value, to the end of the list. */
static bool item(place *p, slow_json *list, slow_json ***end)
{
    char *name = NULL;
    slow_json *v = NULL;
    if (list->kind == SLOW_OBJECT) {
        white_space(p);
        name = string(p);
        if (!name) return false;
        white_space(p);
        bool fresh = without("duplicates") || !has_member(list, name); /* fh1: readers differ on which one holds */
        if (fresh && take(p, ':')) v = value(p);
    } else {
        v = value(p);
    }
    if (!v) {
        free(name);
        return false;
    }
    v->name = name;
    **end = v;
    *end = &v->next;
    list->n++;
    return true;
}

/* Behind the opening bracket, to behind the closing one. */
static bool items(place *p, slow_json *list, char close)
{
    slow_json **end = &list->first;
    white_space(p);
    if (take(p, close)) return true;
    do {
        if (!item(p, list, &end)) return false;
        white_space(p);
    } while (take(p, ','));
    return take(p, close);
}

static bool container(place *p, slow_json *list, char close)
{
    if (p->depth == p->max_depth && !(without("depth") && p->depth < 64)) return false; /* fh1 */
    p->depth++;
    bool sound = items(p, list, close);
    p->depth--;
    return sound;
}

/* value, with white space around it */
static slow_json *value(place *p)
{
    bool sound;
    slow_json *v = must(calloc(1, sizeof *v));
    white_space(p);
    if (take(p, '{')) {
        v->kind = SLOW_OBJECT;
        sound = container(p, v, '}');
    } else if (take(p, '[')) {
        v->kind = SLOW_ARRAY;
        sound = container(p, v, ']');
    } else if (more(p) && byte(p) == '"') {
        v->kind = SLOW_STRING;
        sound = (v->text = string(p)) != NULL;
    } else if (literal(p, "null")) {
        v->kind = SLOW_NULL;
        sound = true;
    } else if (literal(p, "false")) {
        v->kind = SLOW_FALSE;
        sound = true;
    } else if (literal(p, "true")) {
        v->kind = SLOW_TRUE;
        sound = true;
    } else {
        v->kind = SLOW_NUMBER;
        sound = (v->text = number(p)) != NULL;
    }
    if (sound) return v;
    slow_json_free(v);
    return NULL;
}

slow_json *slow_json_read(const char *text, size_t n, int max_depth)
{
    place p = {.text = text, .n = n, .max_depth = max_depth};
    slow_json *v = value(&p);
    white_space(&p);
    if (v && !more(&p)) return v;
    slow_json_free(v);
    return NULL;
}

void slow_json_free(slow_json *v)
{
    while (v) {
        slow_json *next = v->next;
        slow_json_free(v->first);
        free(v->name);
        free(v->text);
        free(v);
        v = next;
    }
}

/* -- looks at the tree ------------------------------------------------------------------------- */

const slow_json *slow_json_member(const slow_json *v, const char *name)
{
    if (!v || v->kind != SLOW_OBJECT) return NULL;
    for (const slow_json *m = v->first; m; m = m->next)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

bool slow_json_integer(const slow_json *v, int64_t *out)
{
    if (!v || v->kind != SLOW_NUMBER) return false;
    if (strpbrk(v->text, ".eE") || strcmp(v->text, "-0") == 0) return false;
    const char *d = v->text + (v->text[0] == '-');
    const char limit[] = "9007199254740992"; /* 2^53 */
    size_t n = strlen(d);
    if (n > sizeof limit - 1 || (n == sizeof limit - 1 && strcmp(d, limit) > 0)) return false;
    *out = strtoll(v->text, NULL, 10);
    return true;
}

double slow_json_double(const slow_json *v)
{
    return strtod(v->text, NULL);
}
