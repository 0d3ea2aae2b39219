#include "convert/json.h"

#include "convert/file.h"
#include "convert/json_scan.h"
#include "oracle/reached.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One cJSON node takes some 80 bytes, so that a hostile text could ask for 40 times its size. A safetensors
 * header of the largest permitted size stays below this number of values. */
#define MAX_VALUES ((size_t)1 << 24)

/* Set in cJSON's `type` beside its own bits (which end at 512) on numbers that are no exact integers: the
 * text of a number is lost once cJSON has it. */
#define NOT_AN_INTEGER (1 << 16)

/* Ordinals, in the order of the text, of the numbers that get the mark. */
typedef struct {
    uint32_t *at;
    size_t n, room;
} marks;

static fh1_status marks_add(marks *m, size_t ordinal)
{
    if (m->n == m->room) {
        size_t room = m->room ? 2 * m->room : 64;
        uint32_t *grown = realloc(m->at, room * sizeof *grown);
        if (!grown) return fh1_no_memory(room * sizeof *grown, "numbers of a JSON text");
        m->at = grown;
        m->room = room;
    }
    m->at[m->n++] = (uint32_t)ordinal;
    return NULL;
}

/* Lexical rules, depth and size over the whole text, before anything is built. */
static fh1_status prescan(cvt_scan *s, int max_depth, marks *m)
{
    int depth = 0;
    size_t n_values = 0, n_numbers = 0;
    for (;;) {
        FH1_TRY(cvt_scan_next(s));
        if (s->kind == CVT_TOKEN_END) return NULL;
        if (s->kind == CVT_TOKEN_CLOSE) depth--;
        if (s->kind == CVT_TOKEN_OPEN && ++depth > max_depth)
            return fh1_where(FH1_BAD("brackets are nested deeper than %d", max_depth), "%s, byte %zu", s->what,
                             s->begin);
        if (s->kind == CVT_TOKEN_NUMBER && !s->exact) FH1_TRY(marks_add(m, n_numbers));
        if (s->kind == CVT_TOKEN_NUMBER) n_numbers++;
        if (s->kind == CVT_TOKEN_COLON && n_values > 0) n_values--; /* the string before it was a key */
        if (s->kind != CVT_TOKEN_COLON && s->kind != CVT_TOKEN_COMMA && s->kind != CVT_TOKEN_CLOSE) n_values++;
        FH1_REACHED(depth == max_depth);
        if (n_values > MAX_VALUES)
            return fh1_where(FH1_BAD("the text has more than %zu values", MAX_VALUES), "%s", s->what);
    }
}

/* Byte offset of the key with this ordinal; only for messages. */
static size_t key_offset(const char *text, size_t n, size_t ordinal)
{
    cvt_scan s = {.text = text, .n = n, .what = ""};
    size_t last_string = 0;
    while (!cvt_scan_next(&s) && s.kind != CVT_TOKEN_END) {
        if (s.kind == CVT_TOKEN_STRING) last_string = s.begin;
        if (s.kind == CVT_TOKEN_COLON && ordinal-- == 0) break;
    }
    return last_string;
}

typedef struct {
    const char *name;
    size_t ordinal;
} json_key;

static int by_name(const void *a, const void *b)
{
    const json_key *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->ordinal < y->ordinal ? -1 : x->ordinal > y->ordinal;
}

typedef struct {
    const char *text, *what;
    size_t n;
    const marks *marks;
    size_t next_mark, n_numbers, n_keys; /* so far, in the order of the text */
} walk;

static fh1_status refuse_duplicates(const walk *w, json_key *keys, size_t n)
{
    if (n > 1) qsort(keys, n, sizeof *keys, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(keys[i - 1].name, keys[i].name) == 0)
            return fh1_where(FH1_BAD("the key \"%.100s\" appears twice in one object", keys[i].name), "%s, byte %zu",
                             w->what, key_offset(w->text, w->n, keys[i].ordinal));
    return NULL;
}

/* Marks numbers and looks for duplicate keys. The recursion is as deep as the brackets, which are bounded. */
static fh1_status check_tree(walk *w, cJSON *v)
{
    if (cJSON_IsNumber(v)) {
        if (w->next_mark < w->marks->n && w->marks->at[w->next_mark] == w->n_numbers) {
            v->type |= NOT_AN_INTEGER;
            w->next_mark++;
        }
        w->n_numbers++;
        return NULL;
    }
    json_key *keys = NULL;
    size_t n = 0, i = 0;
    if (cJSON_IsObject(v) && v->child) {
        for (cJSON *c = v->child; c; c = c->next) n++;
        keys = malloc(n * sizeof *keys);
        if (!keys) return fh1_no_memory(n * sizeof *keys, "keys of a JSON object");
    }
    fh1_status s = NULL;
    for (cJSON *c = v->child; c && !s; c = c->next) {
        if (keys) keys[i++] = (json_key){c->string, w->n_keys++};
        s = check_tree(w, c);
    }
    if (!s && keys) s = refuse_duplicates(w, keys, n);
    free(keys);
    return s;
}

static fh1_status build(const char *text, size_t n, const char *what, const marks *m, cJSON **out)
{
    const char *stop = text;
    errno = 0;
    cJSON *root = cJSON_ParseWithLengthOpts(text, n, &stop, false);
    if (!root && errno == ENOMEM) return fh1_no_memory(n, what); /* it does not say so itself */
    if (!root)
        return fh1_where(FH1_BAD("the text is not well-formed JSON"), "%s, byte %zu", what, (size_t)(stop - text));
    cvt_scan rest = {.text = text, .n = n, .what = what, .at = (size_t)(stop - text)};
    fh1_status s = cvt_scan_next(&rest);
    if (!s && rest.kind != CVT_TOKEN_END)
        s = fh1_where(FH1_BAD("there is more text after the JSON value"), "%s, byte %zu", what, rest.begin);
    walk w = {.text = text, .n = n, .what = what, .marks = m};
    if (!s) s = check_tree(&w, root);
    if (s) cJSON_Delete(root);
    else *out = root;
    return s;
}

fh1_status cvt_json_parse(const char *text, size_t n, int max_depth, const char *what, cJSON **out)
{
    marks m = {0};
    cvt_scan scan = {.text = text, .n = n, .what = what};
    *out = NULL;
    fh1_status s = prescan(&scan, max_depth, &m);
    if (!s) s = build(text, n, what, &m, out);
    free(m.at);
    return s;
}

fh1_status cvt_json_read(const char *path, size_t max_bytes, int max_depth, cJSON **out)
{
    char *text;
    size_t n;
    *out = NULL;
    FH1_TRY(cvt_file_read(path, max_bytes, &text, &n));
    fh1_status s = cvt_json_parse(text, n, max_depth, path, out);
    free(text);
    return s;
}

bool cvt_json_is_int(const cJSON *v, int64_t *out)
{
    if (!cJSON_IsNumber(v) || (v->type & NOT_AN_INTEGER)) return false;
    double d = v->valuedouble;
    if (!(fabs(d) <= 9007199254740992.0 /* 2^53 */) || d != floor(d)) return false;
    *out = (int64_t)d;
    return true;
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* The children of v, n of them, those of an object in the order of their keys. */
static const cJSON **children(const cJSON *v, size_t n)
{
    const cJSON **list = malloc((n + 1) * sizeof *list);
    size_t i = 0;
    if (!list) return NULL;
    for (const cJSON *c = v->child; c; c = c->next) list[i++] = c;
    if (cJSON_IsObject(v) && n > 1) qsort(list, n, sizeof *list, by_key);
    return list;
}

/* The recursion is as deep as the brackets, which are bounded. */
fh1_status cvt_json_same(const cJSON *a, const cJSON *b, bool *same)
{
    const size_t n = (size_t)cJSON_GetArraySize(a);
    *same = (a->type & 0xff) == (b->type & 0xff) && n == (size_t)cJSON_GetArraySize(b);
    if (*same && cJSON_IsNumber(a)) *same = a->valuedouble == b->valuedouble;
    if (*same && cJSON_IsString(a)) *same = strcmp(a->valuestring, b->valuestring) == 0;
    if (!*same || n == 0) return NULL;
    const cJSON **x = children(a, n), **y = children(b, n);
    fh1_status s = x && y ? NULL : fh1_no_memory(n * sizeof *x, "the values of a JSON text");
    for (size_t i = 0; i < n && *same && !s; i++) {
        *same = !cJSON_IsObject(a) || by_key(&x[i], &y[i]) == 0;
        if (*same) s = cvt_json_same(x[i], y[i], same);
    }
    free(x);
    free(y);
    return s;
}

bool cvt_json_find_value(const char *text, size_t n, const char *key, size_t *begin, size_t *end)
{
    cvt_scan s = {.text = text, .n = n, .what = ""};
    int depth = 0;
    size_t len = strlen(key), name = 0, n_name = 0;
    bool found = false;
    if (strchr(key, '\\')) return false; /* in the text it would be spelled otherwise, and another key so */
    while (!cvt_scan_next(&s) && s.kind != CVT_TOKEN_END) {
        if (s.kind == CVT_TOKEN_OPEN) depth++;
        if (s.kind == CVT_TOKEN_CLOSE) depth--;
        if (found && depth == 0) return true;
        if (found && depth == 1 && s.kind == CVT_TOKEN_COMMA) return true;
        if (found && *begin == 0) *begin = s.begin;
        if (found) *end = s.end;
        if (s.kind == CVT_TOKEN_STRING) {
            name = s.begin + 1;
            n_name = s.end - s.begin - 2;
        }
        if (s.kind == CVT_TOKEN_COLON && depth == 1 && n_name == len && memcmp(text + name, key, len) == 0) {
            found = true;
            *begin = 0;
        }
    }
    return false;
}
