/* Contents of a cache on their way in and out: row by row, and in the padded layout of the taps. */
#include "oracle/cache_row.h"

#include <stdlib.h>

fh1_tensor fh1_cache_shape(const fh1_cache *c, fh1_cache_part part)
{
    const fh1_config *g = c->config;
    switch (part) {
    case FH1_CACHE_CONV: return fh1_view3(NULL, c->dtype, c->B, fh1_conv_dim(g), g->K - 1);
    case FH1_CACHE_SSM:
        if (g->family == FH1_FALCON_MAMBA) return fh1_view3(NULL, c->dtype, c->B, g->H, g->N);
        return fh1_view4(NULL, c->dtype, c->B, g->H, g->P, g->N);
    default: return fh1_view4(NULL, c->dtype, c->B, g->Hkv, c->n_cols, g->A);
    }
}

static size_t width(fh1_dtype t)
{
    return (size_t)fh1_dtype_bits(t) / 8;
}

/* The view of `t` at index i of its first axis. */
static fh1_tensor at(const fh1_tensor *t, int64_t i)
{
    fh1_tensor v = *t;
    v.rank = t->rank - 1;
    v.data = (char *)t->data + (ptrdiff_t)(i * t->stride[0]) * (ptrdiff_t)width(t->dtype);
    for (int k = 0; k < v.rank; k++) {
        v.shape[k] = t->shape[k + 1];
        v.stride[k] = t->stride[k + 1];
    }
    return v;
}

static bool is_state(fh1_cache_part part)
{
    return part == FH1_CACHE_CONV || part == FH1_CACHE_SSM;
}

/* What row b keeps of a part at `data`: [Hkv, n, A] of `cap` slots each, [c, K-1] or [H, P, N]. */
static fh1_tensor row_view(const fh1_cache *c, int64_t b, fh1_cache_part part, void *data, int64_t cap)
{
    const fh1_config *g = c->config;
    if (part == FH1_CACHE_CONV) return fh1_view2(data, c->dtype, fh1_conv_dim(g), g->K - 1);
    if (part == FH1_CACHE_SSM && g->family == FH1_FALCON_MAMBA) return fh1_view2(data, c->dtype, g->H, g->N);
    if (part == FH1_CACHE_SSM) return fh1_view3(data, c->dtype, g->H, g->P, g->N);
    fh1_tensor v = fh1_view3(data, c->dtype, g->Hkv, cap, g->A);
    v.shape[1] = c->rows[b].n;
    return v;
}

/* The same where the rows themselves hold it. */
static fh1_tensor stored(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part)
{
    const fh1_cache_row *r = &c->rows[b];
    void **const parts[] = {r->key, r->value, r->conv, r->ssm};
    return row_view(c, b, part, parts[part][layer], r->cap);
}

int64_t fh1_cache_row_elems(const fh1_cache *c, int64_t b, fh1_cache_part part)
{
    const fh1_tensor v = row_view(c, b, part, NULL, c->rows[b].n);
    return fh1_n_elems(&v);
}

fh1_status fh1_cache_row_read(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *out)
{
    if (fh1_cache_row_elems(c, b, part) == 0) return NULL;
    if (c->store) return c->store_ops->read(c, b, layer, part, out);
    const fh1_tensor mine = stored(c, b, layer, part), dense = row_view(c, b, part, out, c->rows[b].n);
    fh1_copy(&dense, &mine);
    return NULL;
}

fh1_status fh1_cache_row_write(fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in)
{
    if (fh1_cache_row_elems(c, b, part) == 0) return NULL;
    c->rows[b].used = true;
    if (c->store) return c->store_ops->write(c, b, layer, part, in);
    const fh1_tensor mine = stored(c, b, layer, part);
    const fh1_tensor dense = row_view(c, b, part, (void *)(uintptr_t)in, c->rows[b].n);
    fh1_copy(&mine, &dense);
    return NULL;
}

/* A buffer for one part of any row. */
static fh1_status new_buffer(const fh1_cache *c, fh1_cache_part part, void **out)
{
    size_t n = 1;
    for (int64_t b = 0; b < c->B; b++) {
        const size_t need = (size_t)fh1_cache_row_elems(c, b, part) * width(c->dtype);
        if (n < need) n = need;
    }
    *out = malloc(n);
    return *out ? NULL : fh1_no_memory(n, "a part of a cache row");
}

static fh1_status upload(fh1_cache *c, fh1_cache_part part, void *store, const fh1_cache_store *ops, void *buffer)
{
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t l = 0; c->rows[b].used && l < c->config->n_layers; l++) {
            if (fh1_cache_row_elems(c, b, part) == 0) break;
            FH1_TRY(fh1_cache_row_read(c, b, l, part, buffer));
            c->store = store; /* for this one call: the rows hold the contents until all of them are there */
            c->store_ops = ops;
            const fh1_status s = ops->write(c, b, l, part, buffer);
            c->store = NULL;
            c->store_ops = NULL;
            if (s) return s;
        }
    return NULL;
}

fh1_status fh1_cache_attach(fh1_cache *c, void *store, const fh1_cache_store *ops)
{
    if (c->store) return fh1_fail(FH1_E_INTERNAL, "the contents of this cache are in a store already");
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; part++) {
        void *buffer;
        FH1_TRY(new_buffer(c, (fh1_cache_part)part, &buffer));
        const fh1_status s = upload(c, (fh1_cache_part)part, store, ops, buffer);
        free(buffer);
        if (s) return s;
    }
    for (int64_t b = 0; b < c->B; b++) fh1_row_free_parts(c, &c->rows[b]);
    c->store = store;
    c->store_ops = ops;
    return NULL;
}

static fh1_status check_view(const fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *t)
{
    static const char *const names[] = {"key", "value", "conv", "ssm"};
    fh1_tensor want = fh1_cache_shape(c, part);
    if (layer < 0 || layer >= c->config->n_layers)
        return FH1_BAD("layer %lld is not in a cache of %lld layers", (long long)layer, (long long)c->config->n_layers);
    if (c->dtype == FH1_C128)
        return fh1_hint(FH1_BAD("a cache of complex numbers has no export and no import: its tensors are real"),
                        "read its rows (fh1_cache_row_read)");
    if (!fh1_dtype_is_float(t->dtype)) {
        fh1_status s =
            fh1_where(FH1_BAD("a cache tensor is not of a float type"), "cache.%lld.%s", (long long)layer, names[part]);
        return fh1_found(fh1_expected(s, "F64, F32, BF16 or F16"), "%s", fh1_dtype_name(t->dtype));
    }
    if (!fh1_same_shape(&want, t)) {
        char expected[128], found[128];
        fh1_status s =
            fh1_where(FH1_BAD("a cache tensor has the wrong shape"), "cache.%lld.%s", (long long)layer, names[part]);
        s = fh1_expected(s, "%s", fh1_shape_text(&want, expected, sizeof expected));
        return fh1_found(s, "%s", fh1_shape_text(t, found, sizeof found));
    }
    return NULL;
}

static void zero(const fh1_tensor *t)
{
    int64_t n = fh1_n_elems(t);
    for (int64_t i = 0; i < n; i++) fh1_set(t, i, 0.0);
}

/* Between the tokens of a row and their columns in the padded layout [Hkv, S, A]. */
static void move_tokens(const fh1_cache_row *r, fh1_tensor *tokens, fh1_tensor *padded, bool out)
{
    for (int64_t h = 0; h < tokens->shape[0]; h++) {
        fh1_tensor mine = at(tokens, h), theirs = at(padded, h);
        for (int64_t i = 0; i < r->n; i++) {
            fh1_tensor a = at(&mine, i), b = at(&theirs, r->col[i]);
            fh1_copy(out ? &b : &a, out ? &a : &b);
        }
    }
}

/* One row of a part between `mine`, where its contents are, and the row of a padded view. */
static void move_row(const fh1_cache *c, int64_t b, fh1_cache_part part, fh1_tensor *mine, fh1_tensor *theirs, bool out)
{
    if (is_state(part)) fh1_copy(out ? theirs : mine, out ? mine : theirs);
    else move_tokens(&c->rows[b], mine, theirs, out);
}

/* The same through a dense copy of what the store holds. */
static fh1_status move_stored(const fh1_cache *c, fh1_cache *writable, int64_t layer, fh1_cache_part part,
                              const fh1_tensor *t)
{
    void *buffer;
    FH1_TRY(new_buffer(c, part, &buffer));
    fh1_status s = NULL;
    for (int64_t b = 0; b < c->B && !s; b++) {
        if (fh1_cache_row_elems(c, b, part) == 0) continue;
        fh1_tensor mine = row_view(c, b, part, buffer, c->rows[b].n), theirs = at(t, b);
        if (!writable) s = fh1_cache_row_read(c, b, layer, part, buffer);
        if (!s) move_row(c, b, part, &mine, &theirs, !writable);
        if (!s && writable) s = fh1_cache_row_write(writable, b, layer, part, buffer);
    }
    free(buffer);
    return s;
}

fh1_status fh1_cache_export(const fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *out)
{
    FH1_TRY(check_view(c, layer, part, out));
    if (fh1_n_elems(out) == 0) return NULL; /* no columns yet, or a window of K - 1 = 0 */
    if (!is_state(part)) zero(out);         /* slots of padding */
    if (c->store) return move_stored(c, NULL, layer, part, out);
    for (int64_t b = 0; b < c->B; b++) {
        fh1_tensor mine = stored(c, b, layer, part), theirs = at(out, b);
        move_row(c, b, part, &mine, &theirs, true);
    }
    return NULL;
}

fh1_status fh1_cache_import(fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *in)
{
    FH1_TRY(check_view(c, layer, part, in));
    if (fh1_n_elems(in) == 0) return NULL;
    if (c->store) return move_stored(c, c, layer, part, in);
    for (int64_t b = 0; b < c->B; b++) {
        fh1_tensor mine = stored(c, b, layer, part), theirs = at(in, b);
        c->rows[b].used = true;
        move_row(c, b, part, &mine, &theirs, false);
    }
    return NULL;
}
