/* Export and import of a cache in the padded layout of the taps. */
#include "oracle/cache.h"

fh1_tensor fh1_cache_shape(const fh1_cache *c, fh1_cache_part part)
{
    const fh1_config *g = c->config;
    switch (part) {
    case FH1_CACHE_CONV: return fh1_view3(NULL, c->dtype, c->B, fh1_conv_dim(g), g->K - 1);
    case FH1_CACHE_SSM: return fh1_view4(NULL, c->dtype, c->B, g->H, g->P, g->N);
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

/* What row b of the cache keeps of a part: [Hkv, n, A] (a strided view of the first n of cap slots),
 * [c, K-1] or [H, P, N]. */
static fh1_tensor stored(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part)
{
    const fh1_config *g = c->config;
    const fh1_cache_row *r = &c->rows[b];
    if (part == FH1_CACHE_CONV) return fh1_view2(r->conv[layer], c->dtype, fh1_conv_dim(g), g->K - 1);
    if (part == FH1_CACHE_SSM) return fh1_view3(r->ssm[layer], c->dtype, g->H, g->P, g->N);
    void **buffers = part == FH1_CACHE_KEY ? r->key : r->value;
    fh1_tensor v = fh1_view3(buffers[layer], c->dtype, g->Hkv, r->cap, g->A);
    v.shape[1] = r->n;
    return v;
}

static fh1_status check_view(const fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *t)
{
    static const char *const names[] = {"key", "value", "conv", "ssm"};
    fh1_tensor want = fh1_cache_shape(c, part);
    if (layer < 0 || layer >= c->config->n_layers)
        return FH1_BAD("layer %lld is not in a cache of %lld layers", (long long)layer, (long long)c->config->n_layers);
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

static void move(const fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *t, bool out)
{
    if (fh1_n_elems(t) == 0) return; /* no columns yet, or a window of K - 1 = 0 */
    for (int64_t b = 0; b < c->B; b++) {
        fh1_tensor mine = stored(c, b, layer, part), theirs = at(t, b);
        if (part == FH1_CACHE_CONV || part == FH1_CACHE_SSM) fh1_copy(out ? &theirs : &mine, out ? &mine : &theirs);
        else move_tokens(&c->rows[b], &mine, &theirs, out);
    }
}

fh1_status fh1_cache_export(const fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *out)
{
    FH1_TRY(check_view(c, layer, part, out));
    if (part == FH1_CACHE_KEY || part == FH1_CACHE_VALUE) zero(out); /* slots of padding */
    move(c, layer, part, out, true);
    return NULL;
}

fh1_status fh1_cache_import(fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *in)
{
    FH1_TRY(check_view(c, layer, part, in));
    move(c, layer, part, in, false);
    return NULL;
}
