/* Engines with one mistake each, around ref-f64: what the laws must notice. The mistake is made outside of the engine,
 * so that it does not depend on how the reference is built. */
#pragma once

#include "reference/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    BROKEN_LENGTH_COUNTS,     /* logits depend on the length of the call */
    BROKEN_LOOKS_AHEAD,       /* a token's logits know the next token */
    BROKEN_SEES_ITSELF_ONLY,  /* every token is the first of its document */
    BROKEN_DRIFTS,            /* the second call differs by a bit */
    BROKEN_STEP_POSITION,     /* one-token steps stand at position 0 */
    BROKEN_SINGLE_STATE,      /* the first call of one token finds garbage in the state */
    BROKEN_DOCS_ON_A_CACHE,   /* seq_idx is not read when there is a cache */
    BROKEN_MASK_OF_ROW_0,     /* one mask for all rows */
    BROKEN_STATE_OF_EMPTY,    /* a row of padding gets a state */
    BROKEN_NEIGHBOUR,         /* a row's logits leak into the next row */
    BROKEN_CLONE_NO_STATE,    /* a copy without the states */
    BROKEN_CLONE_BACK,        /* the first call on a copy spoils the original's window */
    BROKEN_RESTORE_NO_WINDOW, /* a restore leaves the windows as they are */
    BROKEN_REORDER_NO_KEYS,   /* keys stay in their rows */
    BROKEN_RESET_LEAVES_DOC,  /* a reset leaves one number behind */
    BROKEN_TRUNCATE_ACCEPTS,  /* any length is accepted */
    BROKEN_TRUNCATE_NOTHING,  /* a row that starts again keeps its state */
    BROKEN_CHUNK_CARRY,       /* the chunked scan starts from half of the state */
    BROKEN_SCAN_SQUARE,       /* the scan is not linear in x */
    BROKEN_FIRST_HEAD,        /* head 0 is special */
    BROKEN_ROPE_QUERIES,      /* positions of queries count double */
    BROKEN_NORM_EPS,          /* eps is added to the root */
    BROKEN_SOFTMAX_NO_MAX,    /* large scores overflow */
    BROKEN_VARIANT_PACKED,    /* the mixer runs on over documents */
    BROKEN_VARIANT_RIGHT,     /* memory goes on over right padding */
    BROKEN_VARIANT_HISTORY,   /* several tokens on a cache start from an empty memory */
    BROKEN_COUNT
} broken_kind;

typedef struct {
    fh1_engine *inner;
    broken_kind kind;
    int calls;
    fh1_ops ops;
    fh1_cache_ops cache_ops;
} broken;

static broken *broken_of(fh1_engine *e)
{
    return e->ctx;
}

static void broken_zero_state(const fh1_cache *c)
{
    for (int64_t b = 0; b < c->B; ++b)
        for (int64_t l = 0; l < c->config->n_layers; ++l)
            memset(c->rows[b].ssm[l], 0, (size_t)(c->config->d_ssm * c->config->N) * sizeof(double));
}

static void broken_mark_state(fh1_cache *c, int64_t b)
{
    for (int64_t l = 0; l < c->config->n_layers; ++l) ((double *)c->rows[b].ssm[l])[0] += 0.5;
}

/* ---- the model ---- */

/* Inputs of the call, changed; positions, mask and seq_idx that must be freed are in `memory`. */
static fh1_batch broken_inputs(broken_kind kind, const fh1_batch *b, const fh1_cache *cache, int64_t **memory)
{
    fh1_batch in = *b;
    const int64_t n = b->B * b->T;
    *memory = calloc((size_t)(n + b->B * b->mask_len + 1), sizeof **memory);
    if (kind == BROKEN_STEP_POSITION && b->T == 1 && cache->n_cols > 0) in.positions = *memory;
    if (kind == BROKEN_DOCS_ON_A_CACHE && cache->n_cols > 0) in.seq_idx = NULL;
    if (kind == BROKEN_SEES_ITSELF_ONLY && cache->n_cols == 0) {
        for (int64_t i = 0; i < n; ++i) (*memory)[i] = i % b->T;
        in.seq_idx = *memory;
    }
    if (kind == BROKEN_MASK_OF_ROW_0 && b->mask) {
        for (int64_t i = 0; i < b->B; ++i)
            memcpy(*memory + i * b->mask_len, b->mask, (size_t)b->mask_len * sizeof **memory);
        in.mask = *memory;
    }
    return in;
}

static void broken_logits(broken *k, const fh1_batch *b, int64_t V, double *y)
{
    for (int64_t i = 0; i < b->B * b->T * V; ++i) {
        const int64_t t = i / V % b->T, row = i / V / b->T;
        if (k->kind == BROKEN_LENGTH_COUNTS) y[i] *= 1 + 1e-6 * (double)b->T;
        if (k->kind == BROKEN_LOOKS_AHEAD && t + 1 < b->T) y[i] += 1e-9 * y[i + V];
        if (k->kind == BROKEN_DRIFTS && i == 0) y[i] *= 1 + 0x1p-50 * k->calls;
        if (k->kind == BROKEN_NEIGHBOUR && row + 1 < b->B) y[i + b->T * V] += 1e-6 * y[i];
    }
}

static fh1_status broken_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                                 int64_t n_logits, void *logits, const fh1_tap_sink *sink)
{
    broken *k = broken_of(e);
    int64_t *memory;
    const fh1_batch in = broken_inputs(k->kind, b, cache, &memory);
    if (k->kind == BROKEN_SINGLE_STATE && b->T == 1 && cache->n_cols == 0) {
        cache->rows[0].doc = 0; /* else the first token would clear the state */
        broken_mark_state(cache, 0);
    }
    fh1_status s = k->inner->forward(k->inner, m, &in, cache, n_logits, logits, sink);
    for (int64_t r = 0; !s && k->kind == BROKEN_STATE_OF_EMPTY && r < b->B; ++r)
        if (cache->rows[r].n == 0) broken_mark_state(cache, r);
    if (!s && logits && n_logits == b->T) broken_logits(k, b, m->config.V, logits);
    k->calls++;
    free(memory);
    return s;
}

/* ---- its cache ---- */

static fh1_status broken_clone(const fh1_cache *c, fh1_cache **out)
{
    fh1_status s = fh1_cache_clone(c, out);
    if (!s) broken_zero_state(*out);
    return s;
}

static fh1_status broken_clone_back(const fh1_cache *c, fh1_cache **out)
{
    fh1_status s = fh1_cache_clone(c, out);
    if (!s) memset(c->rows[0].conv[0], 0, (size_t)(c->config->d_ssm * (c->config->K - 1)) * sizeof(double));
    return s;
}

static fh1_status broken_restore(fh1_cache *c, const fh1_cache *snapshot)
{
    const size_t bytes = (size_t)(fh1_conv_dim(c->config) * (c->config->K - 1)) * sizeof(double);
    void *kept = malloc(bytes);
    memcpy(kept, c->rows[0].conv[0], bytes);
    fh1_status s = fh1_cache_restore(c, snapshot);
    if (!s) memcpy(c->rows[0].conv[0], kept, bytes);
    free(kept);
    return s;
}

static fh1_status broken_reorder(fh1_cache *c, const int64_t *from, int64_t n)
{
    fh1_status s = fh1_cache_reorder(c, from, n);
    if (s || n < 3) return s;
    void *first = c->rows[0].key[0];
    c->rows[0].key[0] = c->rows[2].key[0];
    c->rows[2].key[0] = first;
    return NULL;
}

static void broken_reset(fh1_cache *c)
{
    fh1_cache_reset(c);
    c->rows[0].doc = 0; /* else the first token would clear the state */
    broken_mark_state(c, 0);
}

static fh1_status broken_truncate(fh1_cache *c, int64_t b, int64_t n)
{
    return n > 0 ? NULL : fh1_cache_truncate(c, b, n);
}

static fh1_status broken_truncate_nothing(fh1_cache *c, int64_t b, int64_t n)
{
    fh1_status s = fh1_cache_truncate(c, b, n);
    if (s || n > 0) return s;
    c->rows[b].doc = 0;
    broken_mark_state(c, b);
    return NULL;
}

/* ---- its ops ---- */

static fh1_status broken_chunk(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                               const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                               const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    fh1_engine *in = broken_of(e)->inner;
    for (int64_t i = 0; i < H * P * N; ++i) ((double *)state)[i] *= 0.5;
    return in->ops->ssd_chunk(in, T, H, P, N, G, Q, x, B, C, dt, A_log, D, doc, state_doc, state, y);
}

static fh1_status broken_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                              const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                              const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    fh1_engine *in = broken_of(e)->inner;
    double *out = y;
    FH1_TRY(in->ops->ssd_scan(in, T, H, P, N, G, x, B, C, dt, A_log, D, doc, state_doc, state, y));
    for (int64_t i = 0; i < T * H * P; ++i) {
        if (broken_of(e)->kind == BROKEN_SCAN_SQUARE) out[i] += 1e-6 * out[i] * out[i];
        else if (i / P % H == 0) out[i] *= 1 + 1e-6;
    }
    return NULL;
}

static fh1_status broken_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                              int64_t seq_len, void *x)
{
    fh1_engine *in = broken_of(e)->inner;
    int64_t *twice = malloc((size_t)(T + 1) * sizeof *twice);
    for (int64_t t = 0; t < T; ++t) twice[t] = (heads == c->Hq ? 2 : 1) * position[t];
    fh1_status s = in->ops->rope(in, c, T, heads, twice, seq_len, x);
    free(twice);
    return s;
}

static fh1_status broken_rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                                 void *y)
{
    (void)e;
    for (int64_t m = 0; m < M; ++m) {
        const double *row = (const double *)x + m * D;
        double sum = 0;
        for (int64_t i = 0; i < D; ++i) sum += row[i] * row[i];
        const double size = sqrt(sum / (double)D) + eps;
        for (int64_t i = 0; i < D; ++i) ((double *)y)[m * D + i] = size > 0 ? row[i] / size * fh1_get(w, i) : 0;
    }
    return NULL;
}

/* As an f32 softmax that does not take the maximum off. */
static fh1_status broken_attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A,
                                   const void *q, const void *k, const void *v, const int64_t *first, void *out)
{
    fh1_engine *in = broken_of(e)->inner;
    FH1_TRY(in->ops->attention(in, T, S, Hq, Hkv, A, q, k, v, first, out));
    double score = 0;
    for (int64_t i = 0; i < A; ++i) score += ((const double *)q)[i] * ((const double *)k)[i] / sqrt((double)A);
    if (isinf(expf((float)score))) ((double *)out)[0] = (double)NAN;
    return NULL;
}

static void broken_free(fh1_engine *e)
{
    broken *k = broken_of(e);
    k->inner->free(k->inner);
    free(k);
    free(e);
}

static inline fh1_engine *broken_engine_new(broken_kind kind)
{
    const unsigned variants = kind == BROKEN_VARIANT_PACKED    ? FH1_VAR_MIXER_LEAKS_DOCS
                              : kind == BROKEN_VARIANT_RIGHT   ? FH1_VAR_RIGHT_PAD_CACHE
                              : kind == BROKEN_VARIANT_HISTORY ? FH1_VAR_HISTORY_DROPPED
                                                               : 0;
    fh1_engine *e = calloc(1, sizeof *e);
    broken *k = calloc(1, sizeof *k);
    k->kind = kind;
    k->inner = ref_engine_new("ref-f64", NULL, variants);
    *e = *k->inner;
    k->ops = *e->ops;
    k->cache_ops = *e->cache_ops;
    if (kind == BROKEN_CHUNK_CARRY) k->ops.ssd_chunk = broken_chunk;
    if (kind == BROKEN_SCAN_SQUARE || kind == BROKEN_FIRST_HEAD) k->ops.ssd_scan = broken_scan;
    if (kind == BROKEN_ROPE_QUERIES) k->ops.rope = broken_rope;
    if (kind == BROKEN_NORM_EPS) k->ops.rmsnorm = broken_rmsnorm;
    if (kind == BROKEN_SOFTMAX_NO_MAX) k->ops.attention = broken_attention;
    if (kind == BROKEN_CLONE_NO_STATE) k->cache_ops.clone = broken_clone;
    if (kind == BROKEN_CLONE_BACK) k->cache_ops.clone = broken_clone_back;
    if (kind == BROKEN_RESTORE_NO_WINDOW) k->cache_ops.restore = broken_restore;
    if (kind == BROKEN_REORDER_NO_KEYS) k->cache_ops.reorder = broken_reorder;
    if (kind == BROKEN_RESET_LEAVES_DOC) k->cache_ops.reset = broken_reset;
    if (kind == BROKEN_TRUNCATE_ACCEPTS) k->cache_ops.truncate = broken_truncate;
    if (kind == BROKEN_TRUNCATE_NOTHING) k->cache_ops.truncate = broken_truncate_nothing;
    e->ops = &k->ops;
    e->cache_ops = &k->cache_ops;
    e->forward = broken_forward;
    e->free = broken_free;
    e->ctx = k;
    return e;
}
