/* The rows of a cache: their memory, and the books of a call. */
#include "oracle/cache_row.h"

#include "oracle/reached.h"

#include <stdlib.h>
#include <string.h>

/* Elements that one row keeps per layer. Slots that hold no token are NaN, so that reading one shows. */
static int64_t conv_size(const fh1_config *c)
{
    return fh1_conv_dim(c) * (c->K - 1);
}

static int64_t ssm_size(const fh1_config *c)
{
    return c->d_ssm * c->N;
}

static size_t elem_size(const fh1_cache *c)
{
    return (size_t)fh1_dtype_bits(c->dtype) / 8;
}

static void fill_nan(void *p, size_t n_bytes)
{
    memset(p, 0xff, n_bytes); /* all ones is a NaN in f32, in f64 and in both parts of a complex number */
}

static void free_buffers(const fh1_cache *c, void **b)
{
    for (int64_t l = 0; b && l < c->config->n_layers; l++) free(b[l]);
    free(b);
}

void fh1_row_free_parts(const fh1_cache *c, fh1_cache_row *r)
{
    free_buffers(c, r->key);
    free_buffers(c, r->value);
    free_buffers(c, r->conv);
    free_buffers(c, r->ssm);
    r->key = r->value = r->conv = r->ssm = NULL;
}

void fh1_row_free(const fh1_cache *c, fh1_cache_row *r)
{
    fh1_row_free_parts(c, r);
    free(r->col);
    memset(r, 0, sizeof *r);
}

/* n_layers buffers of n zeros (one byte at least, so that NULL means failure); NULL without memory. Zeros by calloc:
 * pages that nobody touches before a store takes over cost nothing. */
static void **new_buffers(const fh1_cache *c, int64_t n)
{
    int64_t n_layers = c->config->n_layers;
    void **b = calloc((size_t)n_layers, sizeof *b);
    for (int64_t l = 0; b && l < n_layers; l++) {
        b[l] = calloc(n > 0 ? (size_t)n : 1, elem_size(c));
        if (b[l]) continue;
        free_buffers(c, b);
        return NULL;
    }
    return b;
}

void fh1_row_empty(fh1_cache *c, int64_t b)
{
    const fh1_config *g = c->config;
    fh1_cache_row *r = &c->rows[b];
    size_t e = elem_size(c);
    r->n = 0;
    r->doc = -1;
    r->doc_begin = 0;
    if (c->store) {
        c->store_ops->reset_row(c->store, b);
        return;
    }
    for (int64_t l = 0; l < g->n_layers; l++) {
        memset(r->conv[l], 0, (size_t)conv_size(g) * e);
        memset(r->ssm[l], 0, (size_t)ssm_size(g) * e);
        fill_nan(r->key[l], (size_t)(g->Hkv * r->cap * g->A) * e);
        fill_nan(r->value[l], (size_t)(g->Hkv * r->cap * g->A) * e);
    }
}

/* Moves the first n tokens of every head from rows of `from` slots to rows of `to` slots. */
static void copy_heads(const fh1_cache *c, char *dst, int64_t to, const char *src, int64_t from, int64_t n)
{
    size_t token = (size_t)c->config->A * elem_size(c);
    for (int64_t h = 0; h < c->config->Hkv; h++) {
        char *d = dst + (size_t)(h * to) * token;
        if (n > 0) memcpy(d, src + (size_t)(h * from) * token, (size_t)n * token); /* src is NULL in a new row */
        fill_nan(d + (size_t)n * token, (size_t)(to - n) * token);
    }
}

/* Keys and values of `r` in new buffers of `cap` slots; `r` keeps its old ones on failure. */
static fh1_status grow_parts(const fh1_cache *c, fh1_cache_row *r, int64_t cap, int64_t n_elems)
{
    void **key = new_buffers(c, n_elems), **value = new_buffers(c, n_elems);
    if (!key || !value) {
        free_buffers(c, key);
        free_buffers(c, value);
        return fh1_no_memory((size_t)n_elems * elem_size(c), "the keys and values of a cache row");
    }
    for (int64_t l = 0; l < c->config->n_layers; l++) {
        copy_heads(c, key[l], cap, r->key ? r->key[l] : NULL, r->cap, r->n);
        copy_heads(c, value[l], cap, r->value ? r->value[l] : NULL, r->cap, r->n);
    }
    free_buffers(c, r->key);
    free_buffers(c, r->value);
    r->key = key;
    r->value = value;
    return NULL;
}

/* Room for `cap` tokens; `r` is as it was on failure. */
static fh1_status set_capacity(const fh1_cache *c, fh1_cache_row *r, int64_t cap)
{
    const fh1_config *g = c->config;
    int64_t n_elems, n_bytes;
    if (!fh1_mul_i64(g->Hkv * g->A, cap, &n_elems) || !fh1_mul_i64(n_elems, (int64_t)elem_size(c), &n_bytes))
        return FH1_BAD("a sequence of %lld tokens is too long for the cache", (long long)cap);

    int64_t *col = malloc((size_t)cap * sizeof *col + 1);
    fh1_status s = col ? NULL : fh1_no_memory((size_t)cap * sizeof *col, "the columns of a cache row");
    if (!s && !c->store) s = grow_parts(c, r, cap, n_elems);
    if (s) {
        free(col);
        return s;
    }
    if (r->n > 0) memcpy(col, r->col, (size_t)r->n * sizeof *col);
    free(r->col);
    r->col = col;
    r->cap = cap;
    return NULL;
}

fh1_status fh1_row_new(const fh1_cache *c, fh1_cache_row *r, int64_t cap)
{
    memset(r, 0, sizeof *r);
    r->doc = -1;
    fh1_status s = NULL;
    if (!c->store) {
        r->conv = new_buffers(c, conv_size(c->config));
        r->ssm = new_buffers(c, ssm_size(c->config));
        if (!r->conv || !r->ssm)
            s = fh1_no_memory((size_t)ssm_size(c->config) * elem_size(c), "the state of a cache row");
    }
    if (!s) s = set_capacity(c, r, cap);
    if (s) fh1_row_free(c, r);
    return s;
}

fh1_status fh1_row_copy(const fh1_cache *c, fh1_cache_row *to, const fh1_cache_row *from)
{
    const fh1_config *g = c->config;
    FH1_REACHED(from->n == 0);
    FH1_REACHED(from->n > 0 && from->n < from->cap);
    FH1_TRY(fh1_row_new(c, to, from->n));
    to->n = from->n;
    to->doc = from->doc;
    to->doc_begin = from->doc_begin;
    to->used = from->used;
    if (from->n > 0) memcpy(to->col, from->col, (size_t)from->n * sizeof *to->col);
    for (int64_t l = 0; !c->store && l < g->n_layers; l++) {
        copy_heads(c, to->key[l], to->cap, from->key[l], from->cap, from->n);
        copy_heads(c, to->value[l], to->cap, from->value[l], from->cap, from->n);
        memcpy(to->conv[l], from->conv[l], (size_t)conv_size(g) * elem_size(c));
        memcpy(to->ssm[l], from->ssm[l], (size_t)ssm_size(g) * elem_size(c));
    }
    return NULL;
}

fh1_status fh1_cache_reserve(fh1_cache *c, int64_t b, int64_t n)
{
    fh1_cache_row *r = &c->rows[b];
    if (n > INT64_MAX / 2 - r->n) return FH1_BAD("%lld more tokens are too many for the cache", (long long)n);
    int64_t need = r->n + n;
    FH1_REACHED(need == r->cap && n > 0);
    FH1_REACHED(need > r->cap && need > 2 * r->cap);
    FH1_REACHED(need > r->cap && need <= 2 * r->cap);
    if (need <= r->cap) return NULL;
    /* A prefill gets what it asks for; what then grows token by token doubles. */
    return set_capacity(c, r, need > 2 * r->cap ? need : 2 * r->cap);
}

fh1_status fh1_cache_new(const fh1_config *config, fh1_dtype dtype, int64_t B, fh1_cache **out)
{
    *out = NULL;
    if (B < 1) return FH1_BAD("a cache needs one row or more, found %lld", (long long)B);
    if (dtype != FH1_F32 && dtype != FH1_F64 && dtype != FH1_C128)
        return fh1_found(fh1_expected(FH1_BAD("a cache cannot have this type"), "F32, F64 or C128"), "%s",
                         fh1_dtype_name(dtype));
    fh1_cache *c = calloc(1, sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a cache");
    c->config = config;
    c->dtype = dtype;
    c->rows = calloc((size_t)B, sizeof *c->rows);
    fh1_status s = c->rows ? NULL : fh1_no_memory((size_t)B * sizeof *c->rows, "the rows of a cache");
    while (!s && c->B < B) {
        s = fh1_row_new(c, &c->rows[c->B], 0);
        if (!s) c->B++;
    }
    if (s) {
        fh1_cache_free(c);
        return s;
    }
    *out = c;
    return NULL;
}

void fh1_cache_free(fh1_cache *c)
{
    if (!c) return;
    if (c->store) c->store_ops->free(c->store);
    for (int64_t b = 0; b < c->B; b++) fh1_row_free(c, &c->rows[b]);
    free(c->rows);
    free(c);
}

fh1_status fh1_cache_prepare(fh1_cache *c, const fh1_tokens *t)
{
    if (t->B != c->B || t->past != c->n_cols)
        return fh1_fail(FH1_E_INTERNAL, "tokens of %lld rows after %lld columns do not fit a cache of %lld after %lld",
                        (long long)t->B, (long long)t->past, (long long)c->B, (long long)c->n_cols);
    for (int64_t b = 0; b < c->B; b++) FH1_TRY(fh1_cache_reserve(c, b, t->row_begin[b + 1] - t->row_begin[b]));
    for (int64_t b = 0; b < c->B; b++) c->rows[b].used = true; /* the engine writes from here on */
    return NULL;
}

void fh1_cache_commit(fh1_cache *c, const fh1_tokens *t)
{
    for (int64_t b = 0; b < c->B; b++) {
        fh1_cache_row *r = &c->rows[b];
        for (int64_t m = t->row_begin[b]; m < t->row_begin[b + 1]; m++, r->n++) {
            r->col[r->n] = c->n_cols + t->col[m];
            if (t->doc[m] == r->doc) continue;
            r->doc = t->doc[m];
            r->doc_begin = r->n;
        }
    }
    c->n_cols += t->T;
    if (c->rope_seq_len < t->max_position + 1) c->rope_seq_len = t->max_position + 1;
}

size_t fh1_cache_bytes(const fh1_cache *c)
{
    const fh1_config *g = c->config;
    size_t n = sizeof *c + (size_t)c->B * sizeof *c->rows;
    if (c->store) n += c->store_ops->bytes(c->store);
    for (int64_t b = 0; b < c->B; b++) {
        int64_t cap = c->rows[b].cap;
        int64_t per_layer = 2 * g->Hkv * cap * g->A + conv_size(g) + ssm_size(g);
        if (!c->store) n += (size_t)g->n_layers * ((size_t)per_layer * elem_size(c) + 4 * sizeof(void *));
        n += (size_t)cap * sizeof(int64_t);
    }
    return n;
}
