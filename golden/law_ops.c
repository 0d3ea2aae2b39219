/* How the laws run single ops: casts, gauges from the truth, memory that ends with the road. */
#include "golden/law_impl.h"

#include <math.h>
#include <string.h>

double *gld_law_room(law_run *r, int64_t n)
{
    /* the first slot links the list; 16 bytes keep the rest aligned as malloc does */
    char *block = calloc(1, 16 + (size_t)(n + 1) * sizeof(double));
    if (!block) return NULL;
    *(void **)(void *)block = r->rooms;
    r->rooms = block;
    return (double *)(void *)(block + 16);
}

void *gld_law_cast(law_run *r, const fh1_engine *e, const double *v, int64_t n)
{
    void *out = gld_law_room(r, n);
    if (out && v) fh1_from_f64(out, e->dtype, v, n);
    return out;
}

static fh1_status no_room(void)
{
    return fh1_no_memory(0, "an op of a law");
}

/* Outputs in the compute type of e as f64. */
static fh1_status read_out(law_run *r, const fh1_engine *e, const void *y, int64_t n, law_out *out)
{
    *out = (law_out){.n = n, .v = gld_law_room(r, n)};
    if (!out->v) return no_room();
    fh1_to_f64(out->v, y, e->dtype, n);
    return NULL;
}

static fh1_status allow(law_run *r, const fh1_gauge *g, law_out *out)
{
    if (!(out->allowed = gld_law_room(r, out->n))) return no_room();
    const double sigmas = fh1_gauge_sigmas(out->n);
    for (int64_t i = 0; i < out->n; ++i) out->allowed[i] = fh1_gauge_allowed(fh1_gauge_at(g, i), sigmas);
    return NULL;
}

fh1_status gld_out_add(law_tensor *t, const law_out *out, const int64_t *from, double factor)
{
    const int64_t n = t->n * t->width;
    if (out->allowed && !t->allowed && !(t->allowed = calloc((size_t)(n + 1), sizeof *t->allowed))) return no_room();
    for (int64_t i = 0; i < n; ++i) {
        const int64_t k = from ? from[i] : i;
        t->v[i] += factor * out->v[k];
        if (out->allowed) t->allowed[i] += fabs(factor) * out->allowed[k];
    }
    return NULL;
}

fh1_status gld_side_op(law_side *s, const law_acts *a, fh1_tap_id id, int64_t width, law_tensor **t)
{
    const law_tensor like = {
        .id = id, .layer = a->layer, .n = a->T, .width = width, .stride = 1, .fiber = width, .samples = a->T};
    return gld_side_add(s, &like, t);
}

/* Only the judged engine's outputs have an allowance. */
static bool wants_gauge(const law_run *r, const fh1_engine *e)
{
    return e == r->a->engine && r->a->truth->gauges;
}

/* ---- scan ---- */

bool gld_law_has_scan(const gld_law_args *a)
{
    const fh1_ops *ops = a->engine->ops;
    return ops && (a->model->config.family == FH1_FALCON_MAMBA ? ops->selective_scan != NULL : ops->ssd_scan != NULL);
}

static bool is_selective(const law_scan *s)
{
    return s->A_log.rank == 2;
}

static fh1_status call_scan(fh1_engine *e, const law_scan *s, const void *x, const void *B, const void *C,
                            const void *dt, void *state, void *y)
{
    if (is_selective(s))
        return e->ops->selective_scan(e, s->T, s->H, s->N, x, B, C, dt, &s->A_log, &s->D, NULL, 0, state, y);
    if (s->Q > 0)
        return e->ops->ssd_chunk(e, s->T, s->H, s->P, s->N, s->G, s->Q, x, B, C, dt, &s->A_log, &s->D, NULL, 0, state,
                                 y);
    return e->ops->ssd_scan(e, s->T, s->H, s->P, s->N, s->G, x, B, C, dt, &s->A_log, &s->D, NULL, 0, state, y);
}

static fh1_status gauge_scan(law_run *r, const law_scan *s, law_out *y, law_out *state)
{
    fh1_engine *truth = r->a->truth;
    const int64_t n_state = s->H * s->P * s->N;
    double *after = gld_law_room(r, n_state), *true_y = gld_law_room(r, y->n);
    fh1_gauge g = {0}, g_state = {0};
    if (!after || !true_y) return no_room();
    memcpy(after, s->state, (size_t)n_state * sizeof *after);
    law_scan recurrence = *s;
    recurrence.Q = 0;
    FH1_TRY(call_scan(truth, &recurrence, s->x, s->B, s->C, s->dt, after, true_y));
    fh1_status st = fh1_gauge_new(y->n, &g);
    if (!st) st = fh1_gauge_new(n_state, &g_state);
    const fh1_profile *contract = r->a->engine->profile;
    if (!st && is_selective(s))
        st = truth->gauges->selective_scan(contract, s->T, s->H, s->N, s->x, s->B, s->C, s->dt, &s->A_log, &s->D, NULL,
                                           0, s->state, true_y, NULL, NULL, &g_state, &g);
    else if (!st)
        st = truth->gauges->ssd_scan(contract, s->T, s->H, s->P, s->N, s->G, s->Q, s->x, s->B, s->C, s->dt, &s->A_log,
                                     &s->D, NULL, 0, s->state, true_y, &g_state, &g);
    if (!st) st = allow(r, &g, y);
    if (!st) st = allow(r, &g_state, state);
    fh1_gauge_free(&g);
    fh1_gauge_free(&g_state);
    return st;
}

fh1_status gld_run_scan(law_run *r, fh1_engine *e, const law_scan *s, law_out *y, law_out *state)
{
    const int64_t d = s->T * s->H * s->P, GN = s->T * s->G * s->N, n_state = s->H * s->P * s->N;
    const void *x = gld_law_cast(r, e, s->x, d), *B = gld_law_cast(r, e, s->B, GN), *C = gld_law_cast(r, e, s->C, GN);
    const void *dt = gld_law_cast(r, e, s->dt, s->T * s->H);
    void *memory = gld_law_cast(r, e, s->state, n_state), *out = gld_law_cast(r, e, NULL, d);
    if (!x || !B || !C || !dt || !memory || !out) return no_room();
    FH1_TRY(call_scan(e, s, x, B, C, dt, memory, out));
    FH1_TRY(read_out(r, e, out, d, y));
    FH1_TRY(read_out(r, e, memory, n_state, state));
    const fh1_gauge_ops *gauges = r->a->truth->gauges;
    const bool known = gauges && (is_selective(s) ? gauges->selective_scan != NULL : gauges->ssd_scan != NULL);
    return wants_gauge(r, e) && known ? gauge_scan(r, s, y, state) : NULL;
}

/* ---- attention ---- */

/* [T, heads, A] as [heads, T, A]. */
static double *head_major(law_run *r, const law_attention *at, const double *v)
{
    double *out = gld_law_room(r, at->T * at->Hkv * at->A);
    for (int64_t t = 0; out && t < at->T; ++t)
        for (int64_t h = 0; h < at->Hkv; ++h)
            memcpy(out + (h * at->T + t) * at->A, v + (t * at->Hkv + h) * at->A, (size_t)at->A * sizeof *out);
    return out;
}

static fh1_status gauge_attention(law_run *r, const law_attention *at, const double *k, const double *v,
                                  const int64_t *first, law_out *out)
{
    fh1_engine *truth = r->a->truth;
    double *y = gld_law_room(r, out->n);
    fh1_gauge g = {0};
    if (!y) return no_room();
    FH1_TRY(truth->ops->attention(truth, at->T, at->T, at->Hq, at->Hkv, at->A, at->q, k, v, first, y));
    fh1_status st = fh1_gauge_new(out->n, &g);
    if (!st)
        st = truth->gauges->attention(r->a->engine->profile, at->T, at->T, at->Hq, at->Hkv, at->A, at->q, k, v, first,
                                      y, &g);
    if (!st) st = allow(r, &g, out);
    fh1_gauge_free(&g);
    return st;
}

fh1_status gld_run_attention(law_run *r, fh1_engine *e, const law_attention *at, law_out *out)
{
    const int64_t n_q = at->T * at->Hq * at->A, n_kv = at->T * at->Hkv * at->A;
    const double *k = head_major(r, at, at->k), *v = head_major(r, at, at->v);
    const void *q = gld_law_cast(r, e, at->q, n_q);
    void *y = gld_law_cast(r, e, NULL, n_q);
    int64_t *first = (int64_t *)gld_law_room(r, at->T); /* zeros: from the first key on */
    if (!k || !v || !q || !y || !first) return no_room();
    const void *keys = gld_law_cast(r, e, k, n_kv), *values = gld_law_cast(r, e, v, n_kv);
    if (!keys || !values) return no_room();
    FH1_TRY(e->ops->attention(e, at->T, at->T, at->Hq, at->Hkv, at->A, q, keys, values, first, y));
    FH1_TRY(read_out(r, e, y, n_q, out));
    return wants_gauge(r, e) && r->a->truth->gauges->attention ? gauge_attention(r, at, k, v, first, out) : NULL;
}

/* ---- norms ---- */

fh1_status gld_run_rmsnorm(law_run *r, fh1_engine *e, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                           double eps, law_out *out)
{
    const void *in = gld_law_cast(r, e, x, M * D);
    void *y = gld_law_cast(r, e, NULL, M * D);
    fh1_gauge g = {0};
    if (!in || !y) return no_room();
    FH1_TRY(e->ops->rmsnorm(e, M, D, in, w, eps, y));
    FH1_TRY(read_out(r, e, y, M * D, out));
    if (!wants_gauge(r, e) || !r->a->truth->gauges->rmsnorm) return NULL;
    double *true_y = gld_law_room(r, M * D);
    if (!true_y) return no_room();
    FH1_TRY(r->a->truth->ops->rmsnorm(r->a->truth, M, D, x, w, eps, true_y));
    fh1_status st = fh1_gauge_new(M * D, &g);
    if (!st) st = r->a->truth->gauges->rmsnorm(e->profile, M, D, x, w, eps, true_y, &g);
    if (!st) st = allow(r, &g, out);
    fh1_gauge_free(&g);
    return st;
}

fh1_status gld_run_gated_norm(law_run *r, fh1_engine *e, const law_gate *n, law_out *out)
{
    fh1_engine *truth = r->a->truth;
    const int64_t len = n->M * n->d;
    const void *y = gld_law_cast(r, e, n->y, len), *z = gld_law_cast(r, e, n->z, len);
    void *to = gld_law_cast(r, e, NULL, len);
    fh1_gauge g = {0};
    if (!y || !z || !to) return no_room();
    FH1_TRY(e->ops->gated_norm(e, n->M, n->d, n->G, y, z, &n->w, n->eps, n->norm_before_gate, to));
    FH1_TRY(read_out(r, e, to, len, out));
    if (!wants_gauge(r, e) || !truth->gauges->gated_norm) return NULL;
    double *true_out = gld_law_room(r, len);
    if (!true_out) return no_room();
    FH1_TRY(truth->ops->gated_norm(truth, n->M, n->d, n->G, n->y, n->z, &n->w, n->eps, n->norm_before_gate, true_out));
    fh1_status st = fh1_gauge_new(len, &g);
    if (!st)
        st = truth->gauges->gated_norm(e->profile, n->M, n->d, n->G, n->y, n->z, &n->w, n->eps, n->norm_before_gate,
                                       true_out, &g);
    if (!st) st = allow(r, &g, out);
    fh1_gauge_free(&g);
    return st;
}

/* ---- loss ---- */

fh1_status gld_run_loss(law_run *r, fh1_engine *e, int64_t M, int64_t V, const double *logits, const int64_t *labels,
                        law_out *out)
{
    fh1_engine *truth = r->a->truth;
    const void *in = gld_law_cast(r, e, logits, M * V);
    fh1_gauge g = {0};
    *out = (law_out){.n = 1, .v = gld_law_room(r, 1)};
    if (!in || !out->v) return no_room();
    FH1_TRY(e->ops->cross_entropy(e, M, V, in, labels, out->v));
    if (!wants_gauge(r, e) || !truth->gauges->cross_entropy) return NULL;
    double loss;
    FH1_TRY(truth->ops->cross_entropy(truth, M, V, logits, labels, &loss));
    fh1_status st = fh1_gauge_new(1, &g);
    if (!st) st = truth->gauges->cross_entropy(e->profile, M, V, logits, labels, loss, &g);
    if (!st) g.variance[0] = (double)INFINITY; /* E alone: logits of a lattice repeat, and with them their roundings */
    if (!st) st = allow(r, &g, out);
    fh1_gauge_free(&g);
    return st;
}
