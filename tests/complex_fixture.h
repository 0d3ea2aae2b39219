/* Whole models over complex numbers: the golden ones with batches and a function of them, and the weak witness of their
 * derivatives, central differences of a real engine. */
#pragma once

#include "convert/hf_folder.h"
#include "oracle/contract.h"
#include "tests/grad_fixture.h"

enum { T = 37, B = 2, MAX = B * T };
static const char *const golden[] = {"mini-0.5b", "mini-34b", "odd", "odd-bf16", "mamba-untied", "mamba-tied"};
enum { N_GOLDEN = sizeof golden / sizeof *golden, MINI_34B = 1, ODD = 2, MAMBA = 4 };

typedef struct {
    fh1_model m;
    int64_t ids[MAX], labels[MAX], mask[MAX], doc[MAX];
    fh1_batch plain, padded, packed;
    double *w; /* [B,T,V] of logits */
} example;

static inline void open_example(example *x, int which)
{
    char path[128];
    snprintf(path, sizeof path, "golden/models/%s", golden[which]);
    memset(x, 0, sizeof *x);
    GRAD_FINE(cvt_hf_folder_open(path, &x->m));
    const fh1_stream s = fh1_stream_open(3, "ids");
    const int64_t V = x->m.config.V;
    for (int64_t i = 0; i < MAX; ++i) {
        x->ids[i] = fh1_random_below(s, (uint64_t)i, V);
        x->labels[i] = i % 5 == 4 ? -100 : x->ids[i];
        x->mask[i] = i >= 6;
        x->doc[i] = i % T / 12;
    }
    x->plain = (fh1_batch){.B = 1, .T = T, .ids = x->ids, .labels = x->labels};
    x->padded = (fh1_batch){.B = B, .T = T, .ids = x->ids, .labels = x->labels, .mask = x->mask, .mask_len = T};
    x->packed = (fh1_batch){.B = 1, .T = T, .ids = x->ids, .labels = x->labels, .seq_idx = x->doc};
    x->w = malloc((size_t)(MAX * V) * sizeof *x->w);
    for (int64_t i = 0; i < MAX * V; ++i) x->w[i] = fh1_random_normal(s, (uint64_t)(i + 1000));
}

static inline void close_example(example *x)
{
    free(x->w);
    fh1_model_free(&x->m);
}

/* The function of complex.h by a real engine, for differences. */
typedef struct {
    const example *x;
    const fh1_batch *b;
    double value;
} real_function;

static inline fh1_status add_up(void *user, const fh1_tap_event *e)
{
    real_function *f = user;
    const double *v = e->value.data;
    if (e->id == FH1_TAP_LOSS) f->value += v[0];
    if (e->id != FH1_TAP_LOGITS) return NULL;
    const int64_t V = e->value.shape[1];
    for (int64_t i = 0; i < e->value.shape[0]; ++i) {
        const int64_t m = e->kept[i];
        const double *w = f->x->w + (e->tokens->row[m] * e->tokens->T + e->tokens->col[m]) * V;
        for (int64_t k = 0; k < V; ++k) f->value += w[k] * v[i * V + k];
    }
    return NULL;
}

static inline double real_value(fh1_engine *e, const example *x, const fh1_model *m, const fh1_batch *b)
{
    fh1_cache *cache;
    real_function f = {.x = x, .b = b};
    const fh1_tap_sink sink = {.user = &f, .tap = add_up};
    GRAD_FINE(fh1_cache_new(&m->config, e->dtype, b->B, &cache));
    GRAD_FINE(e->forward(e, m, b, cache, b->T, NULL, &sink));
    fh1_cache_free(cache);
    return f.value;
}

/* (f(W + δv) - f(W - δv)) / 2δ with W held in f64 meanwhile. */
static inline double difference(fh1_engine *e, example *x, const fh1_batch *b, fh1_tensor *value, const double *v,
                                double delta)
{
    const fh1_tensor was = *value, head = x->m.lm_head;
    const bool tied = value == &x->m.embed && head.data == was.data;
    const int64_t n = fh1_n_elems(value);
    double *w = malloc((size_t)n * sizeof *w), f[2];
    *value = fh1_view(w, FH1_F64, was.rank, was.shape);
    if (tied) x->m.lm_head = *value;
    for (int side = 0; side < 2; ++side) {
        for (int64_t i = 0; i < n; ++i) w[i] = fh1_get(&was, i) + (side ? -delta : delta) * v[i];
        f[side] = real_value(e, x, &x->m, b);
    }
    *value = was;
    x->m.lm_head = head;
    free(w);
    return (f[0] - f[1]) / (2 * delta);
}

/* A direction of the size of the tensor: random, times the RMS of its elements. */
static inline double *direction_of(const fh1_param *p)
{
    const int64_t n = fh1_n_elems(p->value);
    double *v = malloc((size_t)n * sizeof *v), sum = 0;
    const fh1_stream s = fh1_stream_open(11, p->name);
    for (int64_t i = 0; i < n; ++i) sum += fh1_get(p->value, i) * fh1_get(p->value, i);
    for (int64_t i = 0; i < n; ++i) v[i] = sqrt(sum / (double)n) * fh1_random_normal(s, (uint64_t)i);
    return v;
}

static inline bool nothing(void *user, const fh1_param *p)
{
    (void)user, (void)p;
    return false;
}

#define DELTA 1e-6

/* Every parameter of every model in one direction. A central difference of f64 values of size f is good to some ulps of
 * f over 2δ (rounding: 1e-9 of f for a dozen ulps) and to δ²/6 of the third derivative; a direction of the tensor's own
 * size keeps that below some hundred f: 1e-10 f. 1e-7 f leaves both ten times and is a weak witness: a derivative
 * counts where it is a hundred times larger. Returns how many do, `of` how
 * many there are. */
static inline int64_t compare_with_differences(example *x, fh1_engine *e, const fh1_batch *b, double *worst,
                                               int64_t *of)
{
    fh1_grads *list;
    ref_complex_model *z;
    GRAD_FINE(fh1_grads_new(&x->m, FH1_F64, nothing, NULL, &list));
    GRAD_FINE(ref_complex_model_new(&x->m, 0, -1, &z));
    GRAD_FINE(ref_complex_function(z, b, 0, x->w));
    int64_t counted = 0;
    *of = list->n;
    for (int64_t k = 0; k < list->n; ++k) {
        const fh1_param *p = &list->params[k];
        double *v = direction_of(p), value, derivative;
        ref_complex_clear(z);
        GRAD_FINE(ref_complex_direct(z, p->value, v));
        GRAD_FINE(ref_complex_value(z, &value, &derivative));
        const double weak = difference(e, x, b, p->value, v, DELTA);
        const double gap = fabs(weak - derivative) / (1e-7 * fabs(value));
        if (!fh1_within(gap, *worst)) *worst = isnan(gap) ? (double)INFINITY : gap;
        counted += fabs(derivative) > 1e-5 * fabs(value);
        free(v);
    }
    ref_complex_model_free(z);
    fh1_grads_free(list);
    return counted;
}

static inline double derivative_of(ref_complex_model *z)
{
    double value, derivative;
    GRAD_FINE(ref_complex_value(z, &value, &derivative));
    return derivative;
}
