#include "fuzz/mutate_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = 512, MAX_PIECE = 1024, TRIES = 8 };

/* kind: { } [ ] : , " as they are, 0 a number, w any other run of bytes */
typedef struct {
    size_t begin, end;
    int close; /* of an opening bracket: the token that closes it, -1 where none does; of others: itself */
    char kind;
    bool key;   /* a colon follows */
    bool value; /* a string that is no key, a number, a word, an opening bracket that is closed */
} token;

typedef struct {
    token at[MAX_TOKENS];
    int n;
} tokens;

typedef struct {
    char *text;
    size_t n, room;
    const tokens *found;
    const fuzz_json_stock *stock;
    fuzz_rng *r;
} edit;

/* -- tokens, as far as bytes look like them ------------------------------------------------------ */

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t end_of(const char *text, size_t n, size_t i)
{
    if (strchr("{}[]:,", text[i])) return i + 1; /* the zero too */
    if (text[i] == '"') {
        for (i++; i < n && text[i] != '"'; i++)
            if (text[i] == '\\') i++;
        return i < n ? i + 1 : n;
    }
    while (i < n && !blank(text[i]) && !strchr("{}[]:,\"", text[i])) i++;
    return i;
}

static void find_tokens(const char *text, size_t n, tokens *t)
{
    int open[64], depth = 0;
    t->n = 0;
    for (size_t i = 0; i < n && t->n < MAX_TOKENS;) {
        if (blank(text[i])) {
            i++;
            continue;
        }
        char c = text[i];
        bool number = (c >= '0' && c <= '9') || c == '-';
        token k = {.begin = i, .end = end_of(text, n, i), .close = t->n};
        k.kind = number ? '0' : c && strchr("{}[]:,\"", c) ? c : 'w';
        k.value = number || k.kind == '"' || k.kind == 'w';
        if (k.kind == '{' || k.kind == '[') {
            k.close = -1;
            if (depth < 64) open[depth] = t->n;
            depth++;
        }
        if ((k.kind == '}' || k.kind == ']') && depth > 0 && --depth < 64) {
            t->at[open[depth]].close = t->n;
            t->at[open[depth]].value = true;
        }
        if (k.kind == ':' && t->n > 0 && t->at[t->n - 1].kind == '"') {
            t->at[t->n - 1].key = true;
            t->at[t->n - 1].value = false;
        }
        t->at[t->n++] = k;
        i = k.end;
    }
}

static bool is_value(const token *k)
{
    return k->value;
}

static bool is_key(const token *k)
{
    return k->key;
}

static bool is_number(const token *k)
{
    return k->kind == '0';
}

static bool is_string(const token *k)
{
    return k->kind == '"' && k->end - k->begin >= 2;
}

/* One of the tokens that are so, -1 where none is. */
static int pick(const tokens *t, bool (*so)(const token *), fuzz_rng *r)
{
    int n = 0, chosen = -1;
    for (int i = 0; i < t->n; i++)
        if (so(&t->at[i])) n++;
    uint64_t k = fuzz_below(r, (uint64_t)n);
    for (int i = 0; i < t->n && chosen < 0; i++)
        if (so(&t->at[i]) && k-- == 0) chosen = i;
    return chosen;
}

static size_t value_end(const tokens *t, int i)
{
    return t->at[t->at[i].close].end;
}

/* The bytes of the element or member that the value i belongs to. */
static void piece_of(const tokens *t, int i, size_t *begin, size_t *end)
{
    bool member = i >= 2 && t->at[i - 1].kind == ':' && t->at[i - 2].key;
    *begin = t->at[member ? i - 2 : i].begin;
    *end = value_end(t, i);
}

/* -- changes: false where there is no place or no room ------------------------------------------- */

static bool replace(edit *e, size_t begin, size_t end, const char *with, size_t n)
{
    if (n > end - begin && n - (end - begin) > e->room - e->n) return false;
    memmove(e->text + begin + n, e->text + end, e->n - end);
    memcpy(e->text + begin, with, n);
    e->n = e->n - (end - begin) + n;
    return true;
}

static bool replace_text(edit *e, size_t begin, size_t end, const char *with)
{
    return replace(e, begin, end, with, strlen(with));
}

static const char *one_of(const edit *e, const char *const *list, size_t n)
{
    return list[fuzz_below(e->r, n)];
}
#define ONE_OF(e, list) one_of(e, list, sizeof(list) / sizeof *(list))

static const char *word(const edit *e)
{
    size_t n = 0;
    while (e->stock->words && e->stock->words[n]) n++;
    return n ? e->stock->words[fuzz_below(e->r, n)] : "x";
}

static bool change_number(edit *e)
{
    static const char *const list[] = {
        "0",
        "1",
        "-1",
        "-0",
        "1e2",
        "2.0",
        "0.5",
        "01",
        "1e999",
        "255",
        "65536",
        "4294967295",
        "4294967296",
        "281474976710656",     /* 2^48 */
        "9007199254740992",    /* 2^53 */
        "9007199254740993",    /* and one more, which a double does not hold */
        "4611686018427387904", /* 2^62 */
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1000000000000000000000000000000000000000000000000000000000000000", /* 64 characters */
    };
    int i = pick(e->found, is_number, e->r), other = pick(e->found, is_number, e->r);
    if (i < 0) return false;
    const token *k = &e->found->at[i], *o = &e->found->at[other];
    char text[32];
    switch (fuzz_below(e->r, 4)) {
    case 0: return replace_text(e, k->begin, k->end, ONE_OF(e, list));
    case 1: snprintf(text, sizeof text, "%d", (int)fuzz_below(e->r, 20)); break;
    case 2:
        if (o->end - o->begin >= sizeof text) return false;
        snprintf(text, sizeof text, "%.*s", (int)(o->end - o->begin), e->text + o->begin);
        break;
    default:
        if (k->end - k->begin >= sizeof text) return false;
        snprintf(text, sizeof text, "%.*s", (int)(k->end - k->begin), e->text + k->begin);
        long long near =
            (long long)((uint64_t)strtoll(text, NULL, 10) / 2 * 2 + fuzz_below(e->r, 4) - 1); /* may wrap */
        snprintf(text, sizeof text, "%lld", near);
    }
    return replace_text(e, k->begin, k->end, text);
}

static bool duplicate(edit *e)
{
    char copy[MAX_PIECE + 1];
    size_t begin, end;
    int i = pick(e->found, is_value, e->r);
    if (i < 0) return false;
    piece_of(e->found, i, &begin, &end);
    if (end - begin > MAX_PIECE) return false;
    copy[0] = ',';
    memcpy(copy + 1, e->text + begin, end - begin);
    return replace(e, end, end, copy, end - begin + 1);
}

static bool delete (edit *e)
{
    const tokens *t = e->found;
    size_t begin, end;
    int i = pick(t, is_value, e->r);
    if (i < 0) return false;
    piece_of(t, i, &begin, &end);
    int behind = t->at[i].close + 1;
    int before = i - (i >= 2 && t->at[i - 1].kind == ':' ? 3 : 1);
    if (behind < t->n && t->at[behind].kind == ',') end = t->at[behind].end;
    else if (before >= 0 && t->at[before].kind == ',') begin = t->at[before].begin;
    return replace(e, begin, end, "", 0);
}

/* A key, or another string, becomes a word that means something, another one of the text, or almost itself. */
static bool rename_string(edit *e)
{
    static const char *const additions[] = {"x", " ", "/", "\\n", ".", "\\u0041", "\xc3\xa9"};
    bool (*kind)(const token *) = fuzz_below(e->r, 2) ? is_key : is_string;
    int i = pick(e->found, kind, e->r), other = pick(e->found, kind, e->r);
    char text[MAX_PIECE];
    if (i < 0) return false;
    const token *k = &e->found->at[i], *o = &e->found->at[other];
    switch (fuzz_below(e->r, 4)) {
    case 0: return replace_text(e, k->begin + 1, k->end - 1, word(e));
    case 1:
        if (o->end - o->begin > sizeof text) return false;
        memcpy(text, e->text + o->begin, o->end - o->begin);
        return replace(e, k->begin, k->end, text, o->end - o->begin);
    case 2: return replace_text(e, k->end - 1, k->end - 1, ONE_OF(e, additions));
    default: return replace(e, k->begin + 1, k->end - 1, "", 0);
    }
}

static bool change_type(edit *e)
{
    static const char *const list[] = {"null",  "true", "false", "0",   "-1",        "1.5", "\"\"",
                                       "\"x\"", "[]",   "{}",    "[0]", "{\"x\":0}", "NaN", "nul"};
    int i = pick(e->found, is_value, e->r);
    return i >= 0 && replace_text(e, e->found->at[i].begin, value_end(e->found, i), ONE_OF(e, list));
}

static bool deepen(edit *e)
{
    int i = pick(e->found, is_value, e->r), times = 1 << fuzz_below(e->r, 4);
    if (i < 0) return false;
    bool object = fuzz_below(e->r, 2);
    for (int k = 0; k < times; k++) {
        const char *open = object ? "{\"x\":" : "[", *close = object ? "}" : "]";
        size_t begin = e->found->at[i].begin, end = value_end(e->found, i) + (size_t)k * (strlen(open) + 1);
        if (e->room - e->n < strlen(open) + 1) return k > 0;
        replace_text(e, end, end, close);
        replace_text(e, begin, begin, open);
    }
    return true;
}

static bool disturb_string(edit *e)
{
    static const char *const list[] = {"\\ud800",
                                       "\\udc00",
                                       "\\ud83d\\ude00",
                                       "\\u0000",
                                       "\\u0041",
                                       "\\x",
                                       "\\\"",
                                       "\\\\",
                                       "\"",
                                       "\n",
                                       "\x7f",
                                       "\xff",
                                       "\xc0\xaf",
                                       "\xed\xa0\x80",
                                       "\xf4\x90\x80\x80",
                                       "\xe2\x82",
                                       "\xf0\x9f\x98\x80",
                                       "\\u2028",
                                       "\xe2\x80\xae"};
    int i = pick(e->found, is_string, e->r);
    if (i < 0) return false;
    const token *k = &e->found->at[i];
    size_t at = k->begin + 1 + fuzz_below(e->r, k->end - k->begin - 1);
    return replace_text(e, at, at, ONE_OF(e, list));
}

/* The same string, one of its letters as an escape: names that differ in bytes only. */
static bool respell(edit *e)
{
    int i = pick(e->found, is_string, e->r);
    if (i < 0) return false;
    const token *k = &e->found->at[i];
    if (k->end - k->begin < 3) return false;
    size_t at = k->begin + 1 + fuzz_below(e->r, k->end - k->begin - 2);
    char c = e->text[at], text[8];
    if (c == '\\' || c <= ' ' || c > '~' || e->text[at - 1] == '\\') return false;
    snprintf(text, sizeof text, fuzz_below(e->r, 2) ? "\\u%04x" : "\\u%04X", c);
    return replace_text(e, at, at + 1, text);
}

static bool cut(edit *e)
{
    if (e->n == 0 || fuzz_below(e->r, 4)) return false; /* less often than the others */
    e->n = fuzz_below(e->r, e->n);
    return true;
}

/* A value of the other text instead of one of this. */
static bool splice(edit *e)
{
    tokens theirs;
    if (!e->stock->other) return false;
    find_tokens(e->stock->other, e->stock->n_other, &theirs);
    int i = pick(e->found, is_value, e->r), k = pick(&theirs, is_value, e->r);
    if (i < 0 || k < 0) return false;
    size_t begin, end, from, to;
    piece_of(&theirs, k, &from, &to);
    piece_of(e->found, i, &begin, &end);
    if (fuzz_below(e->r, 2)) { /* values alone */
        from = theirs.at[k].begin;
        begin = e->found->at[i].begin;
    }
    return replace(e, begin, end, e->stock->other + from, to - from);
}

/* A value of this text instead of another one of it. */
static bool copy_value(edit *e)
{
    char copy[MAX_PIECE];
    int i = pick(e->found, is_value, e->r), k = pick(e->found, is_value, e->r);
    if (i < 0) return false;
    size_t from = e->found->at[k].begin, n = value_end(e->found, k) - from;
    if (n > sizeof copy) return false;
    memcpy(copy, e->text + from, n);
    return replace(e, e->found->at[i].begin, value_end(e->found, i), copy, n);
}

static bool punctuate(edit *e)
{
    static const char *const list[] = {" ",  "\n",   "\t\r",         ",", ":", "{", "}", "[", "]", "\"",
                                       "\f", "/**/", "\xef\xbb\xbf", "0"};
    if (e->found->n == 0) return false;
    const token *k = &e->found->at[fuzz_below(e->r, (uint64_t)e->found->n)];
    size_t at = fuzz_below(e->r, 2) ? k->begin : k->end;
    if (fuzz_below(e->r, 8) == 0) at = 0;
    return replace_text(e, at, at, ONE_OF(e, list));
}

size_t fuzz_mutate_json(char *text, size_t n, size_t room, const fuzz_json_stock *stock, fuzz_rng *r)
{
    static bool (*const changes[])(edit *) = {
        change_number, change_number,  change_number, duplicate, delete, rename_string, rename_string, change_type,
        deepen,        disturb_string, respell,       cut,       splice, copy_value,    copy_value,    punctuate,
    };
    tokens found;
    find_tokens(text, n, &found);
    edit e = {.text = text, .n = n, .room = room, .found = &found, .stock = stock, .r = r};
    for (int i = 0; i < TRIES; i++)
        if (changes[fuzz_below(r, sizeof changes / sizeof *changes)](&e)) break;
    return e.n;
}
