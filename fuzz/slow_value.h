/* Values of a JSON object by their key: false where one is missing, null, or not what it must be. */
#pragma once

#include "fuzz/slow_json.h"

#include <stdint.h>
#include <string.h>

#define MOST_SIZE INT64_C(2147483648)

static inline const slow_json *value(const slow_json *o, const char *key)
{
    const slow_json *v = slow_json_member(o, key);
    return v && v->kind != SLOW_NULL ? v : NULL;
}

static inline bool is_integer(const slow_json *v, int64_t least, int64_t most, int64_t *out)
{
    return v && v->kind == SLOW_NUMBER && slow_json_integer(v, out) && *out >= least && *out <= most;
}

static inline bool size(const slow_json *o, const char *key, int64_t *out)
{
    return is_integer(value(o, key), 1, MOST_SIZE, out);
}

static inline bool is_number(const slow_json *v, double *out)
{
    if (!v || v->kind != SLOW_NUMBER) return false;
    *out = slow_json_double(v);
    return true;
}

static inline bool number(const slow_json *o, const char *key, double *out)
{
    return is_number(value(o, key), out);
}

/* Absent and null leave *out. */
static inline bool maybe_number(const slow_json *o, const char *key, double *out)
{
    return !value(o, key) || number(o, key, out);
}

static inline bool truth(const slow_json *o, const char *key, bool *out)
{
    const slow_json *v = value(o, key);
    *out = v && v->kind == SLOW_TRUE;
    return v && (v->kind == SLOW_TRUE || v->kind == SLOW_FALSE);
}

static inline const char *word(const slow_json *o, const char *key)
{
    const slow_json *v = value(o, key);
    return v && v->kind == SLOW_STRING ? v->text : NULL;
}

static inline bool is_word(const slow_json *o, const char *key, const char *text)
{
    const char *w = word(o, key);
    return w && strcmp(w, text) == 0;
}

static inline bool numbers(const slow_json *o, const char *key, size_t n, double *out)
{
    const slow_json *v = value(o, key);
    if (!v || v->kind != SLOW_ARRAY || v->n != n) return false;
    for (const slow_json *e = v->first; e; e = e->next)
        if (!is_number(e, out++)) return false;
    return true;
}
