/* A store for caches in plain memory, with mistakes that can be planted and failures that can be asked for. */
#pragma once

#include "oracle/cache.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, PARTS = 4, MAX_ROWS = 6 };

typedef enum {
    NO_FAULT,
    CLONE_FORGETS_STATE,
    REORDER_LEAVES_WINDOW,
    REORDER_DROPS_REPEATS,
    RESET_KEEPS_STATE,
    WRITE_LOSES_A_ROW,
    N_FAULTS
} store_fault;

static store_fault fault;
static int fail_in; /* the n-th operation from now fails; 0: none */
static int n_stores;

typedef struct {
    size_t n;
    char *p;
} blob;

typedef struct {
    blob part[LAYERS][PARTS];
} fake_row;

typedef struct {
    int64_t B;
    const fh1_config *g;
    size_t wide;
    fake_row row[MAX_ROWS];
} fake;

static inline fh1_status may_fail(void)
{
    if (fail_in == 0 || --fail_in > 0) return NULL;
    return fh1_fail(FH1_E_INTERNAL, "the store failed");
}

static blob new_blob(const void *p, size_t n)
{
    blob b = {n, malloc(n + 1)};
    if (p) memcpy(b.p, p, n);
    else memset(b.p, 0, n);
    return b;
}

static size_t state_bytes(const fake *f, int part)
{
    const int64_t n = part == FH1_CACHE_CONV ? fh1_conv_dim(f->g) * (f->g->K - 1) : f->g->H * f->g->P * f->g->N;
    return (size_t)n * f->wide;
}

static void empty_parts(fake *f, fake_row *r)
{
    for (int l = 0; l < LAYERS; l++)
        for (int part = 0; part < PARTS; part++) {
            const bool state = part >= FH1_CACHE_CONV;
            if (state && fault == RESET_KEEPS_STATE && r->part[l][part].p) continue;
            free(r->part[l][part].p);
            r->part[l][part] = new_blob(NULL, state ? state_bytes(f, part) : 0);
        }
}

static void free_parts(fake_row *r)
{
    for (int l = 0; l < LAYERS; l++)
        for (int part = 0; part < PARTS; part++) free(r->part[l][part].p);
    memset(r, 0, sizeof *r);
}

static fake_row copy_parts(const fake_row *r)
{
    fake_row copy;
    for (int l = 0; l < LAYERS; l++)
        for (int part = 0; part < PARTS; part++) copy.part[l][part] = new_blob(r->part[l][part].p, r->part[l][part].n);
    return copy;
}

static fake *new_fake(const fh1_cache *c)
{
    fake *f = calloc(1, sizeof *f);
    n_stores++;
    f->B = c->B;
    f->g = c->config;
    f->wide = c->dtype == FH1_F64 ? 8 : 4;
    for (int64_t b = 0; b < f->B; b++) empty_parts(f, &f->row[b]);
    return f;
}

static void fake_free(void *store)
{
    fake *f = store;
    for (int64_t b = 0; b < f->B; b++) free_parts(&f->row[b]);
    free(f);
    n_stores--;
}

static size_t fake_bytes(const void *store)
{
    return sizeof *(const fake *)store;
}

static void fake_reset_row(void *store, int64_t b)
{
    fake *f = store;
    empty_parts(f, &f->row[b]);
}

static fh1_status fake_clone(const fh1_cache *c, void **out)
{
    FH1_TRY(may_fail());
    const fake *f = c->store;
    fake *copy = calloc(1, sizeof *copy);
    n_stores++;
    *copy = *f;
    for (int64_t b = 0; b < f->B; b++) {
        copy->row[b] = copy_parts(&f->row[b]);
        if (fault == CLONE_FORGETS_STATE)
            memset(copy->row[b].part[1][FH1_CACHE_SSM].p, 0, copy->row[b].part[1][FH1_CACHE_SSM].n);
    }
    *out = copy;
    return NULL;
}

static fh1_status fake_reorder(fh1_cache *c, const int64_t *from, int64_t n)
{
    FH1_TRY(may_fail());
    fake *f = c->store, old = *f;
    for (int64_t i = 0; i < n; i++) {
        bool again = false;
        for (int64_t k = 0; k < i; k++) again |= from[k] == from[i];
        f->row[i] = copy_parts(&old.row[from[i]]);
        if (fault == REORDER_DROPS_REPEATS && again) memset(f->row[i].part[0][FH1_CACHE_SSM].p, 0, 4);
        if (fault != REORDER_LEAVES_WINDOW || i >= old.B) continue;
        const blob *mine = &old.row[i].part[1][FH1_CACHE_CONV];
        memcpy(f->row[i].part[1][FH1_CACHE_CONV].p, mine->p, mine->n);
    }
    for (int64_t b = 0; b < old.B; b++) free_parts(&old.row[b]);
    f->B = n;
    return NULL;
}

static fh1_status fake_read(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *out)
{
    FH1_TRY(may_fail());
    const fake *f = c->store;
    const blob *v = &f->row[b].part[layer][part];
    ck_assert_uint_eq(v->n, (size_t)fh1_cache_row_elems(c, b, part) * f->wide);
    memcpy(out, v->p, v->n);
    return NULL;
}

static fh1_status fake_write(fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in)
{
    FH1_TRY(may_fail());
    fake *f = c->store;
    blob *v = &f->row[b].part[layer][part];
    const size_t n = (size_t)fh1_cache_row_elems(c, b, part) * f->wide;
    free(v->p);
    *v = new_blob(in, n);
    if (fault == WRITE_LOSES_A_ROW && b == 1 && part == FH1_CACHE_VALUE) memset(v->p, 0, n);
    return NULL;
}

static const fh1_cache_store fake_ops = {fake_free,    fake_bytes, fake_reset_row, fake_clone,
                                         fake_reorder, fake_read,  fake_write};
