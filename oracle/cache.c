#include "oracle/cache.h"

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
    return c->dtype == FH1_F64 ? sizeof(double) : sizeof(float);
}

static void fill_nan(void *p, size_t n_bytes)
{
    memset(p, 0xff, n_bytes); /* all ones is a NaN in f32 and in f64 */
}

static void free_row(const fh1_cache *c, fh1_cache_row *r)
{
    void **parts[] = {r->key, r->value, r->conv, r->ssm};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        for (int64_t l = 0; parts[i] && l < c->config->n_layers; l++) free(parts[i][l]);
        free(parts[i]);
    }
    free(r->col);
    memset(r, 0, sizeof *r);
}

/* n_layers buffers of n elements (one byte at least, so that NULL means failure); NULL without memory. */
static void **new_buffers(const fh1_cache *c, int64_t n)
{
    int64_t n_layers = c->config->n_layers;
    void **b = calloc((size_t)n_layers, sizeof *b);
    for (int64_t l = 0; b && l < n_layers; l++) {
        b[l] = malloc(n > 0 ? (size_t)n * elem_size(c) : 1);
        if (b[l]) continue;
        while (l > 0) free(b[--l]);
        free(b);
        return NULL;
    }
    return b;
}

static void free_buffers(const fh1_cache *c, void **b)
{
    for (int64_t l = 0; b && l < c->config->n_layers; l++) free(b[l]);
    free(b);
}

/* The first token has not come yet: no documents, zero window and state. Capacity stays. */
static void empty_row(const fh1_cache *c, fh1_cache_row *r)
{
    const fh1_config *g = c->config;
    size_t e = elem_size(c);
    r->n = 0;
    r->doc = -1;
    r->doc_begin = 0;
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

/* Keys, values and columns of `r` in new buffers of `cap` slots; `r` keeps its old ones on failure. */
static fh1_status set_capacity(const fh1_cache *c, fh1_cache_row *r, int64_t cap)
{
    const fh1_config *g = c->config;
    int64_t n_elems, n_bytes;
    if (!fh1_mul_i64(g->Hkv * g->A, cap, &n_elems) || !fh1_mul_i64(n_elems, (int64_t)elem_size(c), &n_bytes))
        return FH1_BAD("a sequence of %lld tokens is too long for the cache", (long long)cap);

    void **key = new_buffers(c, n_elems), **value = new_buffers(c, n_elems);
    int64_t *col = malloc((size_t)cap * sizeof *col + 1);
    if (!key || !value || !col) {
        free_buffers(c, key);
        free_buffers(c, value);
        free(col);
        return fh1_no_memory((size_t)n_bytes, "the keys and values of a cache row");
    }
    for (int64_t l = 0; l < g->n_layers; l++) {
        copy_heads(c, key[l], cap, r->key ? r->key[l] : NULL, r->cap, r->n);
        copy_heads(c, value[l], cap, r->value ? r->value[l] : NULL, r->cap, r->n);
    }
    if (r->n > 0) memcpy(col, r->col, (size_t)r->n * sizeof *col);
    free_buffers(c, r->key);
    free_buffers(c, r->value);
    free(r->col);
    r->key = key;
    r->value = value;
    r->col = col;
    r->cap = cap;
    return NULL;
}

/* An empty row of `cap` slots. */
static fh1_status new_row(const fh1_cache *c, fh1_cache_row *r, int64_t cap)
{
    memset(r, 0, sizeof *r);
    r->conv = new_buffers(c, conv_size(c->config));
    r->ssm = new_buffers(c, ssm_size(c->config));
    fh1_status s = NULL;
    if (!r->conv || !r->ssm) s = fh1_no_memory((size_t)ssm_size(c->config) * elem_size(c), "the state of a cache row");
    if (!s) s = set_capacity(c, r, cap);
    if (s) free_row(c, r);
    else empty_row(c, r);
    return s;
}

fh1_status fh1_cache_reserve(fh1_cache *c, int64_t b, int64_t n)
{
    fh1_cache_row *r = &c->rows[b];
    if (n > INT64_MAX / 2 - r->n) return FH1_BAD("%lld more tokens are too many for the cache", (long long)n);
    int64_t need = r->n + n;
    if (need <= r->cap) return NULL;
    /* A prefill gets what it asks for; what then grows token by token doubles. */
    return set_capacity(c, r, need > 2 * r->cap ? need : 2 * r->cap);
}

fh1_status fh1_cache_new(const fh1_config *config, fh1_dtype dtype, int64_t B, fh1_cache **out)
{
    *out = NULL;
    if (B < 1) return FH1_BAD("a cache needs one row or more, found %lld", (long long)B);
    if (dtype != FH1_F32 && dtype != FH1_F64)
        return fh1_found(fh1_expected(FH1_BAD("a cache cannot have this type"), "F32 or F64"), "%s",
                         fh1_dtype_name(dtype));
    fh1_cache *c = calloc(1, sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a cache");
    c->config = config;
    c->dtype = dtype;
    c->rows = calloc((size_t)B, sizeof *c->rows);
    fh1_status s = c->rows ? NULL : fh1_no_memory((size_t)B * sizeof *c->rows, "the rows of a cache");
    while (!s && c->B < B) {
        s = new_row(c, &c->rows[c->B], 0);
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
    for (int64_t b = 0; b < c->B; b++) free_row(c, &c->rows[b]);
    free(c->rows);
    free(c);
}

void fh1_cache_reset(fh1_cache *c)
{
    for (int64_t b = 0; b < c->B; b++) empty_row(c, &c->rows[b]);
    c->n_cols = 0;
    c->rope_seq_len = 0;
}

fh1_status fh1_cache_prepare(fh1_cache *c, const fh1_tokens *t)
{
    if (t->B != c->B || t->past != c->n_cols)
        return fh1_fail(FH1_E_INTERNAL, "tokens of %lld rows after %lld columns do not fit a cache of %lld after %lld",
                        (long long)t->B, (long long)t->past, (long long)c->B, (long long)c->n_cols);
    for (int64_t b = 0; b < c->B; b++) FH1_TRY(fh1_cache_reserve(c, b, t->row_begin[b + 1] - t->row_begin[b]));
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

/* A row of its own that holds what `from` holds, with no room to spare. */
static fh1_status copy_row(const fh1_cache *c, fh1_cache_row *to, const fh1_cache_row *from)
{
    const fh1_config *g = c->config;
    FH1_TRY(new_row(c, to, from->n));
    to->n = from->n;
    to->doc = from->doc;
    to->doc_begin = from->doc_begin;
    for (int64_t l = 0; l < g->n_layers; l++) {
        memcpy(to->conv[l], from->conv[l], (size_t)conv_size(g) * elem_size(c));
        memcpy(to->ssm[l], from->ssm[l], (size_t)ssm_size(g) * elem_size(c));
        copy_heads(c, to->key[l], to->cap, from->key[l], from->cap, from->n);
        copy_heads(c, to->value[l], to->cap, from->value[l], from->cap, from->n);
    }
    memcpy(to->col, from->col, (size_t)from->n * sizeof *to->col);
    return NULL;
}

fh1_status fh1_cache_clone(const fh1_cache *c, fh1_cache **out)
{
    fh1_cache *copy;
    *out = NULL;
    FH1_TRY(fh1_cache_new(c->config, c->dtype, c->B, &copy));
    for (int64_t b = 0; b < c->B; b++) {
        free_row(copy, &copy->rows[b]);
        fh1_status s = copy_row(copy, &copy->rows[b], &c->rows[b]);
        if (!s) continue;
        fh1_cache_free(copy);
        return s;
    }
    copy->n_cols = c->n_cols;
    copy->rope_seq_len = c->rope_seq_len;
    *out = copy;
    return NULL;
}

static bool same_geometry(const fh1_config *a, const fh1_config *b)
{
    return a->n_layers == b->n_layers && a->Hkv == b->Hkv && a->A == b->A && a->H == b->H && a->P == b->P &&
           a->N == b->N && a->G == b->G && a->K == b->K;
}

fh1_status fh1_cache_restore(fh1_cache *c, const fh1_cache *snapshot)
{
    if (c->dtype != snapshot->dtype || !same_geometry(c->config, snapshot->config))
        return FH1_BAD("a snapshot of another model or number type cannot be restored into this cache");
    fh1_cache *copy;
    FH1_TRY(fh1_cache_clone(snapshot, &copy));
    fh1_cache old = *c;
    *c = *copy;
    c->config = old.config;
    *copy = old;
    fh1_cache_free(copy);
    return NULL;
}

fh1_status fh1_cache_reorder(fh1_cache *c, const int64_t *from, int64_t n)
{
    if (n < 1) return FH1_BAD("a reorder must leave one row or more, found %lld", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        if (from[i] >= 0 && from[i] < c->B) continue;
        fh1_status s = fh1_where(FH1_BAD("a row to reorder from does not exist"), "entry %lld", (long long)i);
        return fh1_found(fh1_expected(s, "0 to %lld", (long long)(c->B - 1)), "%lld", (long long)from[i]);
    }
    fh1_cache_row *rows = calloc((size_t)n, sizeof *rows);
    bool *taken = calloc((size_t)c->B, sizeof *taken);
    fh1_status s = rows && taken ? NULL : fh1_no_memory((size_t)n * sizeof *rows, "the rows of a cache");

    /* Repeated rows are copied while all old ones still stand; then the first use of each moves. */
    for (int64_t i = 0; !s && i < n; i++) {
        if (taken[from[i]]) s = copy_row(c, &rows[i], &c->rows[from[i]]);
        taken[from[i]] = true;
    }
    if (s) {
        for (int64_t i = 0; rows && i < n; i++) free_row(c, &rows[i]);
        free(rows);
        free(taken);
        return s;
    }
    for (int64_t i = 0; i < n; i++) {
        if (!taken[from[i]]) continue;
        taken[from[i]] = false;
        rows[i] = c->rows[from[i]];
        memset(&c->rows[from[i]], 0, sizeof *rows);
    }
    for (int64_t b = 0; b < c->B; b++) free_row(c, &c->rows[b]);
    free(c->rows);
    free(taken);
    c->rows = rows;
    c->B = n;
    return NULL;
}

fh1_status fh1_cache_truncate(fh1_cache *c, int64_t b, int64_t n)
{
    if (b < 0 || b >= c->B) return FH1_BAD("row %lld is not in a cache of %lld", (long long)b, (long long)c->B);
    fh1_cache_row *r = &c->rows[b];
    if (n == r->n) return NULL;
    if (n != 0) {
        fh1_status s = fh1_where(FH1_BAD("a row cannot go back to an earlier moment"), "row %lld", (long long)b);
        s = fh1_expected(s, "0 or %lld tokens", (long long)r->n);
        s = fh1_found(s, "%lld", (long long)n);
        return fh1_hint(s, "the SSM state of that moment is gone: take a snapshot before, and restore it");
    }
    empty_row(c, r);
    return NULL;
}

size_t fh1_cache_bytes(const fh1_cache *c)
{
    const fh1_config *g = c->config;
    size_t n = sizeof *c + (size_t)c->B * sizeof *c->rows;
    for (int64_t b = 0; b < c->B; b++) {
        int64_t cap = c->rows[b].cap;
        int64_t per_layer = 2 * g->Hkv * cap * g->A + conv_size(g) + ssm_size(g);
        n += (size_t)g->n_layers * ((size_t)per_layer * elem_size(c) + 4 * sizeof(void *));
        n += (size_t)cap * sizeof(int64_t);
    }
    return n;
}
