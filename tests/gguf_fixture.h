/* A second reader of GGUF for the tests, as plain as can be: it trusts the file. */
#pragma once

#include "tests/convert_test.h"

#include "oracle/round.h"

#include <inttypes.h>

typedef struct {
    unsigned char *b;
    size_t n;
    uint64_t n_tensors, n_kv, kv_at, infos_at, data_at;
} plain_gguf;

typedef struct {
    int n_dims;
    uint64_t dim[4];
    uint32_t type;
    const unsigned char *data;
} plain_tensor;

static inline uint64_t plain_int(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    while (bytes-- > 0) v = v << 8 | p[bytes];
    return v;
}

static inline size_t plain_value_end(const plain_gguf *g, uint32_t type, size_t at)
{
    static const int bytes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) return at + 8 + plain_int(g->b + at, 8);
    if (type != 9) return at + (size_t)bytes[type];
    const uint32_t item = (uint32_t)plain_int(g->b + at, 4);
    uint64_t n = plain_int(g->b + at + 4, 8);
    for (at += 12; n > 0; n--) at = plain_value_end(g, item, at);
    return at;
}

static inline size_t plain_info_end(const plain_gguf *g, size_t at)
{
    at += 8 + plain_int(g->b + at, 8);
    return at + 4 + 8 * plain_int(g->b + at, 4) + 4 + 8;
}

static inline plain_gguf plain_open(const char *dir, const char *name)
{
    plain_gguf g = {0};
    g.b = (unsigned char *)read_bytes(dir, name, &g.n);
    ck_assert_int_eq(memcmp(g.b, "GGUF\3\0\0\0", 8), 0);
    g.n_tensors = plain_int(g.b + 8, 8);
    g.n_kv = plain_int(g.b + 16, 8);
    size_t at = g.kv_at = 24;
    for (uint64_t i = 0; i < g.n_kv; i++) {
        at += 8 + plain_int(g.b + at, 8);
        at = plain_value_end(&g, (uint32_t)plain_int(g.b + at, 4), at + 4);
    }
    g.infos_at = at;
    for (uint64_t i = 0; i < g.n_tensors; i++) at = plain_info_end(&g, at);
    g.data_at = (at + 31) / 32 * 32;
    return g;
}

/* The place of a value and its type; 0: no such key. */
static inline size_t plain_find(const plain_gguf *g, const char *key, uint32_t *type)
{
    size_t at = g->kv_at;
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const uint64_t n = plain_int(g->b + at, 8);
        const bool same = n == strlen(key) && memcmp(g->b + at + 8, key, n) == 0;
        at += 8 + n;
        *type = (uint32_t)plain_int(g->b + at, 4);
        if (same) return at + 4;
        at = plain_value_end(g, *type, at + 4);
    }
    return 0;
}

static inline void expect_uint(const plain_gguf *g, const char *key, uint64_t v)
{
    uint32_t type;
    const size_t at = plain_find(g, key, &type);
    ck_assert_msg(at != 0 && type == 4, "%s: no uint32", key);
    ck_assert_msg(plain_int(g->b + at, 4) == v, "%s: %" PRIu64 ", expected %" PRIu64, key, plain_int(g->b + at, 4), v);
}

static inline void expect_float(const plain_gguf *g, const char *key, double v)
{
    uint32_t type;
    const size_t at = plain_find(g, key, &type);
    ck_assert_msg(at != 0 && type == 6, "%s: no float32", key);
    ck_assert_msg(fh1_bits_f32((uint32_t)plain_int(g->b + at, 4)) == (float)v, "%s", key);
}

static inline bool plain_text_is(const plain_gguf *g, size_t at, const char *text)
{
    return plain_int(g->b + at, 8) == strlen(text) && memcmp(g->b + at + 8, text, strlen(text)) == 0;
}

static inline void expect_text(const plain_gguf *g, const char *key, const char *text)
{
    uint32_t type;
    const size_t at = plain_find(g, key, &type);
    ck_assert_msg(at != 0 && type == 8, "%s: no string", key);
    ck_assert_msg(plain_text_is(g, at, text), "%s: %.*s, expected %s", key, (int)plain_int(g->b + at, 8),
                  (const char *)g->b + at + 8, text);
}

/* Item i of an array of strings. */
static inline void expect_item(const plain_gguf *g, const char *key, uint64_t i, const char *text)
{
    uint32_t type;
    size_t at = plain_find(g, key, &type);
    ck_assert_msg(at != 0 && type == 9 && plain_int(g->b + at, 4) == 8, "%s: no array of strings", key);
    ck_assert_uint_lt(i, plain_int(g->b + at + 4, 8));
    for (at += 12; i > 0; i--) at += 8 + plain_int(g->b + at, 8);
    ck_assert_msg(plain_text_is(g, at, text), "%s: %.*s, expected %s", key, (int)plain_int(g->b + at, 8),
                  (const char *)g->b + at + 8, text);
}

static inline bool plain_tensor_find(const plain_gguf *g, const char *name, plain_tensor *t)
{
    size_t at = g->infos_at;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const size_t next = plain_info_end(g, at);
        if (plain_text_is(g, at, name)) {
            at += 8 + strlen(name);
            t->n_dims = (int)plain_int(g->b + at, 4);
            for (int d = 0; d < 4; d++) t->dim[d] = d < t->n_dims ? plain_int(g->b + at + 4 + 8 * d, 8) : 1;
            t->type = (uint32_t)plain_int(g->b + next - 12, 4);
            t->data = g->b + g->data_at + plain_int(g->b + next - 8, 8);
            return true;
        }
        at = next;
    }
    return false;
}
