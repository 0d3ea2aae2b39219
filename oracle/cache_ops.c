/* Operations on a whole cache between calls. */
#include "oracle/cache_row.h"
#include "oracle/engine.h"

#include "oracle/reached.h"

#include <stdlib.h>
#include <string.h>

void fh1_cache_reset(fh1_cache *c)
{
    for (int64_t b = 0; b < c->B; b++) fh1_row_empty(c, b);
    c->n_cols = 0;
    c->rope_seq_len = 0;
}

fh1_status fh1_cache_clone(const fh1_cache *c, fh1_cache **out)
{
    *out = NULL;
    fh1_cache *copy = calloc(1, sizeof *copy);
    if (!copy) return fh1_no_memory(sizeof *copy, "a cache");
    *copy = *c;
    copy->B = 0;
    copy->store = NULL;
    copy->rows = calloc((size_t)c->B, sizeof *copy->rows);
    fh1_status s = copy->rows ? NULL : fh1_no_memory((size_t)c->B * sizeof *copy->rows, "the rows of a cache");
    if (!s && c->store) s = c->store_ops->clone(c, &copy->store);
    while (!s && copy->B < c->B) {
        s = fh1_row_copy(copy, &copy->rows[copy->B], &c->rows[copy->B]);
        if (!s) copy->B++;
    }
    if (s) fh1_cache_free(copy);
    else *out = copy;
    return s;
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

static fh1_status check_from(const fh1_cache *c, const int64_t *from, int64_t n)
{
    if (n < 1) return FH1_BAD("a reorder must leave one row or more, found %lld", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        if (from[i] >= 0 && from[i] < c->B) continue;
        fh1_status s = fh1_where(FH1_BAD("a row to reorder from does not exist"), "entry %lld", (long long)i);
        return fh1_found(fh1_expected(s, "0 to %lld", (long long)(c->B - 1)), "%lld", (long long)from[i]);
    }
    return NULL;
}

fh1_status fh1_cache_reorder(fh1_cache *c, const int64_t *from, int64_t n)
{
    FH1_TRY(check_from(c, from, n));
    FH1_REACHED(n < c->B);
    FH1_REACHED(n > c->B);
    fh1_cache_row *rows = calloc((size_t)n, sizeof *rows);
    bool *taken = calloc((size_t)c->B, sizeof *taken);
    fh1_status s = rows && taken ? NULL : fh1_no_memory((size_t)n * sizeof *rows, "the rows of a cache");

    /* Repeated rows are copied while all old ones still stand; then the first use of each moves. */
    for (int64_t i = 0; !s && i < n; i++) {
        FH1_REACHED(taken[from[i]]); /* a beam with two children */
        if (taken[from[i]]) s = fh1_row_copy(c, &rows[i], &c->rows[from[i]]);
        taken[from[i]] = true;
    }
    if (!s && c->store) s = c->store_ops->reorder(c, from, n);
    if (s) {
        for (int64_t i = 0; rows && i < n; i++) fh1_row_free(c, &rows[i]);
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
    for (int64_t b = 0; b < c->B; b++) fh1_row_free(c, &c->rows[b]);
    free(c->rows);
    free(taken);
    c->rows = rows;
    c->B = n;
    return NULL;
}

fh1_status fh1_cache_truncate(fh1_cache *c, int64_t b, int64_t n)
{
    if (b < 0 || b >= c->B) return FH1_BAD("row %lld is not in a cache of %lld", (long long)b, (long long)c->B);
    const fh1_cache_row *r = &c->rows[b];
    FH1_REACHED(n == r->n && n > 0);
    FH1_REACHED(n == 0 && r->n > 0);
    FH1_REACHED(n == r->n - 1 && n > 0);
    if (n == r->n) return NULL;
    if (n != 0) {
        fh1_status s = fh1_where(FH1_BAD("a row cannot go back to an earlier moment"), "row %lld", (long long)b);
        s = fh1_expected(s, "0 or %lld tokens", (long long)r->n);
        s = fh1_found(s, "%lld", (long long)n);
        return fh1_hint(s, "the SSM state of that moment is gone: take a snapshot before, and restore it");
    }
    fh1_row_empty(c, b);
    return NULL;
}

const fh1_cache_ops fh1_cache_ops_true = {
    .reset = fh1_cache_reset,
    .clone = fh1_cache_clone,
    .restore = fh1_cache_restore,
    .reorder = fh1_cache_reorder,
    .truncate = fh1_cache_truncate,
};
