/* An engine whose every number is known: a tap's value is a formula of the tap, the token, its position and the
 * channel, so that a value in a wrong place of a trace cannot be right by accident. Its faults are those of
 * engines: rows of the neighbour, a tap sent twice, a wrong shape, NaN. */
#pragma once

#include "oracle/engine.h"
#include "reference/engine.h"
#include "tests/trace_fixture.h"

#include <math.h>

enum fault { NO_FAULT, SHIFTED, TWICE, BAD_SHAPE, NAN_LOGITS };

typedef struct {
    enum fault fault;
    bool tied;        /* logits: two equal maxima */
    int64_t nan_from; /* NAN_LOGITS: from this position on */
    int64_t n_logits; /* of the last call */
    int n_calls;
} fake;

/* Needs more bits than bf16 and f32 have, so that every rounding shows. */
static inline double tap_value(int id, int64_t layer, int64_t token, int64_t position, int64_t channel)
{
    double v = 1 + id + 40 * (double)layer + (double)token / 32 + (double)position / 512;
    return v + (double)channel / 8192 + ldexp(1, -40);
}

static inline int64_t next_id(int64_t token, int64_t position)
{
    return (token * 7 + position * 3 + 1) % 23;
}

static inline double logit(const fake *f, int64_t token, int64_t position, int64_t v)
{
    if (f->fault == NAN_LOGITS && position >= f->nan_from && v == 11) return (double)NAN;
    int64_t best = next_id(token, position);
    if (v == best || (f->tied && v == (best + 5) % 23)) return 3;
    return -(double)v / 64;
}

/* Cache element k of a layer's part; for keys and values k counts within the token. */
static inline double cache_value(int part, int64_t layer, int64_t token, int64_t k)
{
    return 100 * (part + 1) + 10 * (double)layer + (double)token / 32 + (double)k / 4096 + ldexp(1, -40);
}

static inline void put(const fh1_engine *e, void *p, int64_t i, double v)
{
    if (e->dtype == FH1_F64) ((double *)p)[i] = v;
    else ((float *)p)[i] = (float)v;
}

static inline fh1_status fake_send(fh1_engine *e, const fh1_model *m, fh1_tap_id id, int64_t layer, const fh1_tokens *t,
                                   const int64_t *kept, int64_t rows, const fh1_tap_sink *sink)
{
    const fake *f = e->ctx;
    fh1_tensor value = fh1_tap_packed_shape(&m->config, id, rows);
    value.dtype = e->dtype;
    int64_t width = rows > 0 ? fh1_n_elems(&value) / rows : 0;
    value.data = calloc((size_t)(rows * width) + 1, sizeof(double));
    ck_assert_ptr_nonnull(value.data);
    for (int64_t r = 0; r < rows; r++) {
        int64_t token = kept ? kept[r] : r;
        if (f->fault == SHIFTED && token > 0) token--;
        for (int64_t k = 0; k < width; k++)
            put(e, value.data, r * width + k,
                id == FH1_TAP_LOGITS ? logit(f, t->id[token], t->position[token], k)
                                     : tap_value((int)id, layer, t->id[token], t->position[token], k));
    }
    if (f->fault == BAD_SHAPE && id == FH1_TAP_SSD) value.shape[1]--;
    fh1_status s =
        sink->tap(sink->user, &(fh1_tap_event){.id = id, .layer = layer, .value = value, .tokens = t, .kept = kept});
    if (!s && f->fault == TWICE && id == FH1_TAP_MID)
        s = sink->tap(sink->user, &(fh1_tap_event){.id = id, .layer = layer, .value = value, .tokens = t});
    free(value.data);
    return s;
}

static inline fh1_status fake_send_all(fh1_engine *e, const fh1_model *m, const fh1_batch *b, const fh1_tokens *t,
                                       const int64_t *kept, int64_t n_kept, const fh1_tap_sink *sink)
{
    for (int64_t layer = 0; layer < m->config.n_layers; layer++)
        for (int id = 0; id <= FH1_TAP_LAYER; id++)
            if (fh1_tap_exists(&m->config, (fh1_tap_id)id) && (layer == 0 || id >= FH1_TAP_INPUT_LAYERNORM))
                FH1_TRY(fake_send(e, m, (fh1_tap_id)id, layer, t, NULL, t->M, sink));
    FH1_TRY(fake_send(e, m, FH1_TAP_FINAL_LAYERNORM, 0, t, NULL, t->M, sink));
    FH1_TRY(fake_send(e, m, FH1_TAP_LOGITS, 0, t, kept, n_kept, sink));
    if (!b->labels) return NULL;
    double loss[1];
    put(e, loss, 0, 2.5);
    return sink->tap(sink->user,
                     &(fh1_tap_event){.id = FH1_TAP_LOSS, .value = fh1_view(loss, e->dtype, 0, NULL), .tokens = t});
}

static inline void write_cache(const fh1_engine *e, fh1_cache *cache, const fh1_tokens *t)
{
    const fh1_config *c = cache->config;
    for (int64_t layer = 0; layer < c->n_layers; layer++) {
        for (int64_t m = 0; m < t->M; m++) {
            fh1_cache_row *r = &cache->rows[t->row[m]];
            int64_t slot = r->n + m - t->row_begin[t->row[m]];
            for (int64_t h = 0; h < c->Hkv; h++)
                for (int64_t a = 0; a < c->A; a++) {
                    put(e, r->key[layer], (h * r->cap + slot) * c->A + a,
                        cache_value(0, layer, t->id[m], h * c->A + a));
                    put(e, r->value[layer], (h * r->cap + slot) * c->A + a,
                        cache_value(1, layer, t->id[m], h * c->A + a));
                }
            for (int64_t k = 0; k < fh1_conv_dim(c) * (c->K - 1); k++)
                put(e, r->conv[layer], k, cache_value(2, layer, t->id[m], k));
            for (int64_t k = 0; k < c->d_ssm * c->N; k++) put(e, r->ssm[layer], k, cache_value(3, layer, t->id[m], k));
        }
    }
}

static inline fh1_status fake_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                                      int64_t n_logits, void *logits, const fh1_tap_sink *sink)
{
    fake *f = e->ctx;
    fh1_tokens t;
    int64_t kept[256], n_kept = 0;
    f->n_calls++;
    f->n_logits = n_logits;
    FH1_TRY(fh1_tokens_pack(b, m->config.V, cache, &t));
    ck_assert_int_le(t.M, N_OF(kept));
    for (int64_t k = 0; logits && k < b->B * n_logits * m->config.V; k++) put(e, logits, k, 0);
    for (int64_t k = 0; k < t.M; k++) {
        int64_t col = t.col[k] - (b->T - n_logits);
        if (col < 0) continue;
        kept[n_kept++] = k;
        for (int64_t v = 0; logits && v < m->config.V; v++)
            put(e, logits, (t.row[k] * n_logits + col) * m->config.V + v, logit(f, t.id[k], t.position[k], v));
    }
    fh1_status s = fh1_cache_prepare(cache, &t);
    if (!s && sink) s = fake_send_all(e, m, b, &t, kept, n_kept, sink);
    if (!s) {
        write_cache(e, cache, &t);
        fh1_cache_commit(cache, &t);
    }
    fh1_tokens_free(&t);
    return s;
}

/* The choice of a token is not what is faked: the reference's own. */
static inline const fh1_ops *real_ops(fh1_dtype dtype)
{
    fh1_engine *e = ref_engine_new(dtype == FH1_F64 ? "ref-f64" : "ref-f32", NULL, 0);
    const fh1_ops *ops = e ? e->ops : NULL;
    if (e) e->free(e);
    return ops;
}

static inline fh1_engine engine_of(fake *f, fh1_dtype dtype, const char *profile)
{
    fh1_engine e = {.name = "fake",
                    .dtype = dtype,
                    .profile = fh1_profile_find(profile),
                    .forward = fake_forward,
                    .ctx = f,
                    .ops = real_ops(dtype)};
    ck_assert_ptr_nonnull(e.profile);
    return e;
}
