/* A small random model in memory, and the comparison that the law tests share.
 *
 * Four kinds of model cover the switches of the architecture between them: widths that no kernel likes (Hq·A and
 * d_ssm unrelated to D), 1, 2 and 3 groups, gated norm off, before and after the gate, every bias on and off, 14
 * distinct multipliers, finite and open time_step_limit, 2 to 5 conv taps, tied and untied, f32 and bf16 weights.
 * A_log is spread so that one head remembers a few hundred tokens and another less than one.
 *
 * A session is one cache with the logits of every real token that went through it. Two sessions that should have
 * computed the same thing are compared with tiny_gap: logits, keys, values, conv windows and states. */
#pragma once

#include "oracle/compare.h"
#include "oracle/random.h"
#include "oracle/thread.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TINY_KINDS = 4, TINY_ROWS = 8, TINY_TOKENS = 64, TINY_V = 29 };

/* Largest error over the RMS of the tensor. Sums of at most 70 terms through three layers: 2e-13 is the most seen. */
#define TINY_F64 fh1_rule.law_f64
#define TINY_F32 (TINY_F64 * 0x1p29) /* the ratio of the unit roundoffs */
/* What a planted fault must at least move: a million times the bound that it has to break. */
#define TINY_SEEN (1e6 * TINY_F64)

#define TINY_OK(expr)                                                                                    \
    do {                                                                                                 \
        fh1_status tiny_status_ = (expr);                                                                \
        char tiny_line_[2048];                                                                           \
        ck_assert_msg(tiny_status_ == NULL, "%s",                                                        \
                      tiny_status_ ? fh1_status_line(tiny_status_, tiny_line_, sizeof tiny_line_) : ""); \
    } while (0)

/* A law holds, or a planted fault is rejected by the same comparison. */
#define TINY_HOLDS(gap, tol, ...)                                                         \
    do {                                                                                  \
        double tiny_gap_ = (gap);                                                         \
        char tiny_text_[160];                                                             \
        snprintf(tiny_text_, sizeof tiny_text_, __VA_ARGS__);                             \
        ck_assert_msg(fh1_within(tiny_gap_, tol), "%s: gap %.3g", tiny_text_, tiny_gap_); \
    } while (0)
#define TINY_BREAKS(gap, ...)                                                                                 \
    do {                                                                                                      \
        double tiny_gap_ = (gap);                                                                             \
        char tiny_text_[160];                                                                                 \
        snprintf(tiny_text_, sizeof tiny_text_, __VA_ARGS__);                                                 \
        ck_assert_msg(!fh1_within(tiny_gap_, TINY_SEEN), "%s: not noticed, gap %.3g", tiny_text_, tiny_gap_); \
    } while (0)

static inline fh1_config tiny_config(int kind)
{
    static const struct {
        int64_t G, K, Hkv, N, Q;
        bool rms_norm, before_gate, biases, conv_bias, tied;
        double dt_lo, dt_hi;
    } of[TINY_KINDS] = {
        {2, 4, 2, 5, 6, true, true, true, true, false, 0.15, 0.6},
        {1, 2, 4, 4, 4, false, false, false, true, true, 0, INFINITY},
        {3, 5, 1, 20, 5, true, false, true, false, false, 0.05, 1.5},
        {2, 3, 2, 7, 8, true, true, false, false, true, 0, INFINITY},
    };
    fh1_config c = {
        .n_layers = 3,
        .D = 12,
        .V = TINY_V,
        .F = 14,
        .Hq = 4,
        .Hkv = of[kind].Hkv,
        .A = 6,
        .H = 6,
        .P = 3,
        .N = of[kind].N,
        .G = of[kind].G,
        .K = of[kind].K,
        .Q = of[kind].Q,
        .d_ssm = 18,
        .attention_bias = of[kind].biases,
        .mlp_bias = of[kind].biases,
        .mamba_proj_bias = of[kind].biases,
        .projectors_bias = of[kind].biases,
        .mamba_conv_bias = of[kind].conv_bias,
        .mamba_rms_norm = of[kind].rms_norm,
        .norm_before_gate = of[kind].before_gate,
        .tied = of[kind].tied,
        .eps = 1e-5,
        .dt_lo = of[kind].dt_lo,
        .dt_hi = of[kind].dt_hi,
        .rope = {.type = FH1_ROPE_DEFAULT, .theta = 50},
        .m_emb = 1.7,
        .m_lm = 0.6,
        .m_key = 0.8,
        .m_attn_in = 1.3,
        .m_attn_out = 0.9,
        .m_ssm_in = 1.1,
        .m_ssm_out = 0.75,
        .m_gate = 1.4,
        .m_down = 0.65,
        .m_ssm = {0.7, 1.2, 0.85, 1.15, 0.95},
        .bos = -1,
        .pad = -1,
    };
    return c;
}

static inline fh1_dtype tiny_dtype(int kind)
{
    return kind % 2 ? FH1_BF16 : FH1_F32;
}

static inline bool tiny_ends(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* Element i of a weight, of the size that keeps activations near 1. */
static inline double tiny_value(fh1_stream s, const char *name, int64_t i, const fh1_tensor *t)
{
    const double g = fh1_random_normal(s, (uint64_t)i);
    if (tiny_ends(name, "A_log")) return -5 + 6.5 * (double)i / (double)(fh1_n_elems(t) - 1) + 0.1 * g;
    if (tiny_ends(name, ".D")) return g;
    if (tiny_ends(name, "dt_bias") || tiny_ends(name, "dt_proj.bias")) return g - 1;
    if (tiny_ends(name, "norm.weight") || tiny_ends(name, "norm_f.weight")) return 1 + 0.3 * g;
    if (tiny_ends(name, "conv1d.weight")) return 0.6 * g;
    if (tiny_ends(name, "embed_tokens.weight") || tiny_ends(name, "embeddings.weight")) return g;
    if (tiny_ends(name, "bias")) return 0.4 * g;
    return 1.5 * g / sqrt((double)t->shape[1]);
}

typedef struct {
    fh1_weight *w;
    int64_t n;
} tiny_table;

static inline fh1_status tiny_list(void *user, const char *name, int rank, const int64_t *shape)
{
    tiny_table *t = user;
    t->w[t->n].name = strdup(name);
    t->w[t->n++].t = fh1_view(NULL, FH1_F64, rank, shape);
    return NULL;
}

/* Released by fh1_model_free. */
static inline void tiny_build(fh1_model *m, const fh1_config *c, fh1_dtype dtype, uint64_t seed)
{
    tiny_table t = {.w = calloc((size_t)(32 * c->n_layers + 8), sizeof *t.w)};
    TINY_OK(fh1_config_check(c));
    TINY_OK(fh1_config_weights(c, tiny_list, &t));
    size_t bytes = 0;
    for (int64_t i = 0; i < t.n; ++i) bytes += ((size_t)fh1_n_elems(&t.w[i].t) * sizeof(double) + 63) / 64 * 64;
    char *memory = calloc(1, bytes), *next = memory;
    for (int64_t i = 0; i < t.n; ++i) {
        fh1_tensor *v = &t.w[i].t;
        const fh1_stream s = fh1_stream_open(seed, t.w[i].name);
        v->data = next;
        v->dtype = dtype;
        for (int64_t k = 0; k < fh1_n_elems(v); ++k) fh1_set(v, k, tiny_value(s, t.w[i].name, k, v));
        next += ((size_t)fh1_n_elems(v) * sizeof(double) + 63) / 64 * 64;
    }
    memset(m, 0, sizeof *m);
    m->owner = memory;
    m->free_owner = free;
    TINY_OK(fh1_model_bind(m, c, t.w, t.n));
}

static inline void tiny_build_kind(fh1_model *m, int kind)
{
    const fh1_config c = tiny_config(kind);
    tiny_build(m, &c, tiny_dtype(kind), 7);
}

/* Multiply rows [begin, end) of every weight whose name ends so; end < 0: all. Powers of two are exact. */
static inline void tiny_scale_rows(fh1_model *m, const char *name_end, int64_t begin, int64_t end, double factor)
{
    for (int64_t i = 0; i < m->n_weights; ++i) {
        fh1_tensor *t = &m->weights[i].t;
        if (!tiny_ends(m->weights[i].name, name_end)) continue;
        const int64_t width = fh1_n_elems(t) / t->shape[0], stop = end < 0 ? t->shape[0] : end;
        for (int64_t k = begin * width; k < stop * width; ++k) fh1_set(t, k, fh1_get(t, k) * factor);
    }
}

static inline void tiny_ids(uint64_t seed, int64_t n, int64_t *ids)
{
    const fh1_stream s = fh1_stream_open(seed, "ids");
    for (int64_t i = 0; i < n; ++i) ids[i] = fh1_random_below(s, (uint64_t)i, TINY_V);
}

typedef struct {
    const fh1_model *m;
    fh1_engine *e;
    fh1_cache *cache;
    int64_t n[TINY_ROWS];      /* real tokens per row so far */
    double *logits[TINY_ROWS]; /* [TINY_TOKENS, V] */
    const fh1_tap_sink *sink;  /* of the next call */
} tiny_session;

/* The f64 engine with the scan of ref-bf16: in chunks of Q. Equal to the recurrence but for rounding. */
#define TINY_CHUNKED "ref-f64 in chunks"

static inline tiny_session tiny_open(const fh1_model *m, const char *engine, unsigned variants, int64_t B)
{
    const bool chunked = strcmp(engine, TINY_CHUNKED) == 0;
    tiny_session s = {.m = m, .e = ref_engine_new(chunked ? "ref-f64" : engine, NULL, variants)};
    ck_assert_ptr_nonnull(s.e);
    s.e->chunked |= chunked;
    TINY_OK(fh1_cache_new(&m->config, s.e->dtype, B, &s.cache));
    for (int64_t b = 0; b < TINY_ROWS; ++b)
        s.logits[b] = calloc((size_t)(TINY_TOKENS * m->config.V), sizeof *s.logits[b]);
    return s;
}

static inline void tiny_close(tiny_session *s)
{
    for (int64_t b = 0; b < TINY_ROWS; ++b) free(s->logits[b]);
    fh1_cache_free(s->cache);
    s->e->free(s->e);
}

/* A deep copy that goes on by itself. */
static inline tiny_session tiny_fork(const tiny_session *s)
{
    tiny_session f = tiny_open(s->m, s->e->name, s->e->variants, 1);
    f.e->profile = s->e->profile;
    f.e->chunked = s->e->chunked;
    fh1_cache_free(f.cache);
    TINY_OK(fh1_cache_clone(s->cache, &f.cache));
    memcpy(f.n, s->n, sizeof f.n);
    for (int64_t b = 0; b < TINY_ROWS; ++b)
        memcpy(f.logits[b], s->logits[b], (size_t)(TINY_TOKENS * s->m->config.V) * sizeof(double));
    return f;
}

/* One call; the logits of real tokens are appended to their row. */
static inline void tiny_call(tiny_session *s, const fh1_batch *b)
{
    const int64_t V = s->m->config.V, n = b->B * b->T * V;
    double *wide = malloc((size_t)n * sizeof *wide);
    void *out = malloc((size_t)n * (s->e->dtype == FH1_F64 ? sizeof(double) : sizeof(float)));
    TINY_OK(s->e->forward(s->e, s->m, b, s->cache, b->T, out, s->sink));
    fh1_to_f64(wide, out, s->e->dtype, n);
    for (int64_t r = 0; r < b->B; ++r)
        for (int64_t t = 0; t < b->T; ++t) {
            if (b->mask && !b->mask[(r + 1) * b->mask_len - b->T + t]) continue;
            ck_assert_int_lt(s->n[r], TINY_TOKENS);
            memcpy(s->logits[r] + s->n[r]++ * V, wide + (r * b->T + t) * V, (size_t)V * sizeof *wide);
        }
    free(out);
    free(wide);
}

/* T more tokens of a batch of one. */
static inline void tiny_feed(tiny_session *s, const int64_t *ids, int64_t T)
{
    tiny_call(s, &(fh1_batch){.B = 1, .T = T, .ids = ids});
}

static inline tiny_session tiny_solo(const fh1_model *m, const char *engine, const int64_t *ids, int64_t T)
{
    tiny_session s = tiny_open(m, engine, 0, 1);
    tiny_feed(&s, ids, T);
    return s;
}

/* One cache part of one row and layer as f64, for keys and values the stored tokens [begin, begin + n).
 * Returns the number of elements; *out is malloc'ed. */
static inline int64_t tiny_part(const tiny_session *s, int64_t row, int64_t layer, fh1_cache_part part, int64_t begin,
                                int64_t n, double **out)
{
    const fh1_config *c = &s->m->config;
    const fh1_cache_row *r = &s->cache->rows[row];
    const size_t wide = s->cache->dtype == FH1_F64 ? 8 : 4;
    const bool window = part == FH1_CACHE_CONV;
    const int64_t len = part <= FH1_CACHE_VALUE ? c->Hkv * n * c->A
                        : window                ? fh1_conv_dim(c) * (c->K - 1)
                                                : c->H * c->P * c->N;
    *out = malloc((size_t)(len + 1) * sizeof **out);
    if (part > FH1_CACHE_VALUE) {
        fh1_to_f64(*out, window ? r->conv[layer] : r->ssm[layer], s->cache->dtype, len);
        return len;
    }
    const char *from = part == FH1_CACHE_KEY ? r->key[layer] : r->value[layer];
    for (int64_t h = 0; h < c->Hkv && n > 0; ++h)
        fh1_to_f64(*out + h * n * c->A, from + (size_t)((h * r->cap + begin) * c->A) * wide, s->cache->dtype, n * c->A);
    return len;
}

/* max |a - b| / rms(b); 0 for equal tensors even if they are 0. */
static inline double tiny_gap_of(int64_t n, const double *a, const double *b)
{
    fh1_rms r = {0};
    for (int64_t i = 0; i < n; ++i) fh1_rms_add(&r, fh1_error_of(a[i], b[i]), b[i], i);
    return fh1_within(r.max_err, 0) ? 0 : r.max_err / fh1_rms_ref(&r);
}

static inline double tiny_gap_part(const tiny_session *a, int64_t ra, int64_t begin, const tiny_session *b, int64_t rb,
                                   fh1_cache_part part)
{
    double worst = 0, *pa, *pb;
    for (int64_t layer = 0; layer < a->m->config.n_layers; ++layer) {
        const int64_t n = tiny_part(a, ra, layer, part, begin, b->n[rb], &pa);
        tiny_part(b, rb, layer, part, 0, b->n[rb], &pb);
        worst = fmax(worst, tiny_gap_of(n, pa, pb));
        free(pa);
        free(pb);
    }
    return worst;
}

static inline double tiny_gap_logits(const tiny_session *a, int64_t ra, int64_t begin, const tiny_session *b,
                                     int64_t rb)
{
    const int64_t V = a->m->config.V;
    return tiny_gap_of(b->n[rb] * V, a->logits[ra] + begin * V, b->logits[rb]);
}

/* The gap between the tokens of row ra of `a` from `begin` on and all tokens of row rb of `b`: logits, keys and
 * values; window and state too where both end together. Infinite if `a` is too short. */
static inline double tiny_gap_from(const tiny_session *a, int64_t ra, int64_t begin, const tiny_session *b, int64_t rb)
{
    const int64_t n = b->n[rb];
    if (begin + n > a->n[ra] || a->cache->rows[ra].n != a->n[ra] || b->cache->rows[rb].n != n) return INFINITY;
    double worst = tiny_gap_logits(a, ra, begin, b, rb);
    const int parts = begin + n == a->n[ra] ? 4 : 2;
    for (int part = 0; part < parts; ++part)
        worst = fmax(worst, tiny_gap_part(a, ra, begin, b, rb, (fh1_cache_part)part));
    return worst;
}

static inline double tiny_gap(const tiny_session *a, int64_t ra, const tiny_session *b, int64_t rb)
{
    return a->n[ra] == b->n[rb] ? tiny_gap_from(a, ra, 0, b, rb) : INFINITY;
}

/* The same without any tolerance; NaN does not pass here either. */
static inline bool tiny_same(const tiny_session *a, int64_t ra, const tiny_session *b, int64_t rb)
{
    return fh1_within(tiny_gap(a, ra, b, rb), 0);
}

/* The taps of layer 0 and of the whole model in the last call, as f64. */
typedef struct {
    int64_t n[FH1_TAP_COUNT];
    double *v[FH1_TAP_COUNT];
} tiny_tape;

static inline fh1_status tiny_tape_tap(void *user, const fh1_tap_event *e)
{
    tiny_tape *t = user;
    if (e->layer > 0) return NULL;
    const int64_t n = t->n[e->id] = fh1_n_elems(&e->value);
    t->v[e->id] = realloc(t->v[e->id], (size_t)(n + 1) * sizeof(double));
    fh1_to_f64(t->v[e->id], e->value.data, e->value.dtype, n);
    return NULL;
}

static inline void tiny_tape_free(tiny_tape *t)
{
    for (int i = 0; i < FH1_TAP_COUNT; ++i) free(t->v[i]);
    memset(t, 0, sizeof *t);
}

/* One call of `s` on a fresh tape. */
static inline tiny_tape tiny_taped_call(tiny_session *s, const fh1_batch *b)
{
    tiny_tape tape = {0};
    const fh1_tap_sink sink = {.user = &tape, .tap = tiny_tape_tap};
    s->sink = &sink;
    tiny_call(s, b);
    s->sink = NULL;
    return tape;
}

static inline bool tiny_same_tap(const tiny_tape *a, const tiny_tape *b, fh1_tap_id id)
{
    return a->n[id] == b->n[id] && fh1_within(tiny_gap_of(a->n[id], a->v[id], b->v[id]), 0);
}

/* Runs a suite of one case; the loops of a law are short, so one thread is faster than waking a pool. */
static inline int tiny_main(Suite *suite, TCase *tc)
{
    fh1_set_threads(1);
    tcase_set_timeout(tc, 200);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
