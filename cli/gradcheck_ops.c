/* The backward ops alone, on what a whole model's pass does not reach: states before and after a call, past keys,
 * square weights, gradients that are added to, dt at its limits and at 2 and 20, and the optimiser. */
#include "cli/gradcheck.h"

#include "golden/grad_rules.h"
#include "oracle/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ARRAYS = 40 };

/* One run of one op: inputs are functions of their ordinal, outputs are gathered in the order of the calls. */
typedef struct {
    fh1_engine *e;
    const fh1_model *m;
    double unit;   /* relative size of the noise on inputs; 0: none */
    uint64_t seed; /* of the noise */
    struct {
        void *data;
        int64_t n;
        bool out;
    } array[MOST_ARRAYS];
    int n;
    bool no_memory;
} run;

static void *array(run *r, int64_t n, bool out)
{
    void *p = calloc((size_t)n + 1, sizeof(double));
    if (!p || r->n == MOST_ARRAYS) {
        free(p);
        r->no_memory = true;
        return NULL;
    }
    r->array[r->n].data = p;
    r->array[r->n].n = n;
    r->array[r->n++].out = out;
    return p;
}

static void set(const run *r, void *to, int64_t i, double v)
{
    if (r->e->dtype == FH1_F64) ((double *)to)[i] = v;
    else ((float *)to)[i] = (float)v;
}

/* n numbers about `size`, exact in f32; the same for every engine. */
static void fill(run *r, void *to, int ordinal, int64_t n, double centre, double size, bool noisy)
{
    const fh1_stream s = fh1_stream_open(7 + (uint64_t)ordinal, "gradcheck.op");
    const fh1_stream noise = fh1_stream_open(r->seed * 64 + (uint64_t)ordinal, "gradcheck.noise");
    for (int64_t i = 0; to && i < n; ++i) {
        const double v = (double)(float)(centre + size * fh1_random_normal(s, (uint64_t)i));
        set(r, to, i, noisy ? v * (1 + r->unit * fh1_random_normal(noise, (uint64_t)i)) : v);
    }
}

static void *in(run *r, int64_t n, double centre, double size)
{
    void *p = array(r, n, false);
    fill(r, p, r->n, n, centre, size, true);
    return p;
}

/* An output that is assigned, or one that begins with numbers of its own and is added to. */
static void *out(run *r, int64_t n)
{
    return array(r, n, true);
}

static void *sum(run *r, int64_t n)
{
    void *p = array(r, n, true);
    fill(r, p, r->n, n, 0.5, 1, false);
    return p;
}

static fh1_tensor weight(run *r, int64_t n0, int64_t n1, double centre, double size)
{
    void *p = in(r, n0 * (n1 > 0 ? n1 : 1), centre, size);
    return n1 > 0 ? fh1_view2(p, r->e->dtype, n0, n1) : fh1_view1(p, r->e->dtype, n0);
}

/* ---- the ops ---- */

static const int64_t ids[] = {3, 0, 3, 1, 5, 0, 3}, documents[] = {0, 0, 1, 1, 1, 2, 2};
enum { M = 7, D = 6, V = 8 };

static fh1_status embed(run *r)
{
    return r->e->bwd_ops->embed(r->e, M, ids, V, D, 0, in(r, M * D, 0, 1), sum(r, V * D));
}

static fh1_status rmsnorm(run *r)
{
    const void *x = in(r, M * D, 0.3, 1), *dy = in(r, M * D, 0, 1);
    const fh1_tensor w = weight(r, D, 0, 1, 0.3);
    return r->e->bwd_ops->rmsnorm(r->e, M, D, x, &w, 1e-5, dy, out(r, M * D), sum(r, D));
}

static fh1_status linear(run *r)
{
    const void *x = in(r, M * D, 0.3, 1), *dy = in(r, M * D, 0, 1);
    const fh1_tensor w = weight(r, D, D, 0, 1);
    return r->e->bwd_ops->linear(r->e, M, x, &w, dy, out(r, M * D), sum(r, D * D), sum(r, D));
}

static fh1_status conv1d(run *r)
{
    enum { K = 4 };
    const void *x = in(r, M * D, 0, 1), *window = in(r, D * (K - 1), 0, 1), *dy = in(r, M * D, 0, 1);
    const void *dwindow = in(r, D * (K - 1), 0, 1);
    const fh1_tensor b = weight(r, D, 0, 0, 1), w2 = weight(r, D, K, 0, 1);
    const fh1_tensor w = fh1_view3(w2.data, w2.dtype, D, 1, K);
    return r->e->bwd_ops->conv1d(r->e, M, D, K, x, &w, &b, documents, 0, window, dy, dwindow, out(r, M * D),
                                 sum(r, D * K), sum(r, D), out(r, D * (K - 1)));
}

/* Beyond 20 softplus is the identity: both limits are met exactly in any arithmetic. No noise, which would leave them.
 */
static fh1_status dt_softplus(run *r)
{
    static const double raw[M * 2] = {25, 21, 30, 20.5, 24, 22, 21, 25, 26, 18, 20, 23, 2.5, -1};
    void *v = array(r, M * 2, false);
    const void *ddt = in(r, M * 2, 0, 1);
    fh1_tensor bias = fh1_view1(array(r, 2, false), r->e->dtype, 2); /* zeros */
    for (int64_t i = 0; v && i < M * 2; ++i) set(r, v, i, raw[i]);
    if (r->no_memory) return NULL;
    FH1_TRY(r->e->bwd_ops->dt_softplus(r->e, M, 2, v, &bias, 21, 25, ddt, out(r, M * 2), sum(r, 2)));
    return r->e->bwd_ops->dt_softplus(r->e, M, 2, v, &bias, 0, (double)INFINITY, ddt, out(r, M * 2), sum(r, 2));
}

static fh1_status ssd_scan(run *r)
{
    enum { T = 37, H = 4, P = 3, N = 5, G = 2 };
    static const int64_t late[T] = {[20] = 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const void *x = in(r, T * H * P, 0, 1), *B = in(r, T * G * N, 0, 1), *C = in(r, T * G * N, 0, 1);
    const void *dt = in(r, T * H, 0.3, 0.05), *state = in(r, H * P * N, 0, 1), *dy = in(r, T * H * P, 0, 1);
    const void *dstate = in(r, H * P * N, 0, 1);
    const fh1_tensor A = weight(r, H, 0, -1, 0.3), skip = weight(r, H, 0, 1, 0.3);
    for (int cut = 0; cut < 2; ++cut)
        FH1_TRY(r->e->bwd_ops->ssd_scan(r->e, T, H, P, N, G, x, B, C, dt, &A, &skip, cut ? late : NULL, 0, state, dy,
                                        dstate, out(r, T * H * P), out(r, T * G * N), out(r, T * G * N), out(r, T * H),
                                        sum(r, H), sum(r, H), out(r, H * P * N)));
    return NULL;
}

static fh1_status selective_scan(run *r)
{
    enum { T = 70, I = 5, N = 6 };
    static int64_t late[T];
    const void *x = in(r, T * I, 0, 1), *B = in(r, T * N, 0, 1), *C = in(r, T * N, 0, 1);
    const void *dt = in(r, T * I, 0.3, 0.05), *state = in(r, I * N, 0, 1), *dy = in(r, T * I, 0, 1);
    const void *dstate = in(r, I * N, 0, 1);
    const fh1_tensor A = weight(r, I, N, -1, 0.3), skip = weight(r, I, 0, 1, 0.3);
    for (int64_t t = 0; t < T; ++t) late[t] = t >= 20;
    for (int cut = 0; cut < 2; ++cut)
        FH1_TRY(r->e->bwd_ops->selective_scan(r->e, T, I, N, x, B, C, dt, &A, &skip, cut ? late : NULL, 0, state, dy,
                                              dstate, out(r, T * I), out(r, T * N), out(r, T * N), out(r, T * I),
                                              sum(r, I * N), sum(r, I), out(r, I * N)));
    return NULL;
}

static fh1_status gated_norm(run *r)
{
    const void *y = in(r, M * D, 0.3, 1), *z = in(r, M * D, 0, 1), *d = in(r, M * D, 0, 1);
    const fh1_tensor w = weight(r, D, 0, 1, 0.3);
    for (int first = 0; first < 2; ++first)
        FH1_TRY(r->e->bwd_ops->gated_norm(r->e, M, D, 2, y, z, &w, 1e-5, first != 0, d, out(r, M * D), out(r, M * D),
                                          sum(r, D)));
    return NULL;
}

static fh1_status rope(run *r)
{
    static const int64_t positions[M] = {0, 1, 2, 3, 40, 41, 42};
    const int64_t A = r->m->config.A;
    void *dx = out(r, M * 2 * A);
    fill(r, dx, r->n, M * 2 * A, 0, 1, true);
    return r->no_memory ? NULL : r->e->bwd_ops->rope(r->e, &r->m->config, M, 2, positions, 43, dx);
}

static fh1_status attention(run *r)
{
    enum { T = 5, S = 9, Hq = 4, Hkv = 2, A = 4 };
    static const int64_t first[T] = {0, 0, 2, 2, 2};
    const void *q = in(r, T * Hq * A, 0, 1), *k = in(r, Hkv * S * A, 0, 1), *v = in(r, Hkv * S * A, 0, 1);
    const void *d = in(r, T * Hq * A, 0, 1);
    return r->e->bwd_ops->attention(r->e, T, S, Hq, Hkv, A, q, k, v, first, d, out(r, T * Hq * A), out(r, Hkv * S * A),
                                    out(r, Hkv * S * A));
}

static fh1_status swiglu(run *r)
{
    const void *gate = in(r, M * D, 0, 2), *up = in(r, M * D, 0, 1), *d = in(r, M * D, 0, 1);
    return r->e->bwd_ops->swiglu(r->e, M, D, gate, 0.75, up, d, out(r, M * D), out(r, M * D));
}

static fh1_status lm_head(run *r)
{
    const void *h = in(r, M * D, 0, 1), *d = in(r, M * V, 0, 1);
    const fh1_tensor w = weight(r, V, D, 0, 1);
    return r->e->bwd_ops->lm_head(r->e, M, h, &w, 0.25, d, out(r, M * D), sum(r, V * D));
}

static fh1_status cross_entropy(run *r)
{
    static const int64_t labels[M] = {3, 0, -100, 7, 1, -100, 5};
    const void *logits = in(r, M * V, 0, 2);
    for (int divisor = 0; divisor < 3; divisor += 2) {
        double loss = 0;
        void *told = out(r, 1), *d = out(r, M * V);
        if (r->no_memory) return NULL;
        FH1_TRY(r->e->bwd_ops->cross_entropy(r->e, M, V, logits, labels, divisor, &loss, d));
        set(r, told, 0, loss);
    }
    return NULL;
}

static fh1_status adamw(run *r)
{
    enum { n = 16 };
    const fh1_adamw o = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-3, .decay = 0.1, .grad_scale = 0.5, .t = 3};
    const void *g = in(r, n, 0, 0.1);
    void *w = sum(r, n), *m = out(r, n), *v = out(r, n);
    fill(r, m, r->n + 1, n, 0, 0.05, true);
    for (int64_t i = 0; v && i < n; ++i) set(r, v, i, 0x1p-9 * (double)(i + 1));
    return r->no_memory ? NULL : r->e->bwd_ops->adamw(r->e, n, &o, g, w, m, v);
}

static const struct {
    const char *name;
    fh1_status (*call)(run *r);
} ops[] = {
    {"embed", embed},
    {"rmsnorm", rmsnorm},
    {"linear", linear},
    {"conv1d", conv1d},
    {"dt_softplus", dt_softplus},
    {"ssd_scan", ssd_scan},
    {"selective_scan", selective_scan},
    {"gated_norm", gated_norm},
    {"rope", rope},
    {"attention", attention},
    {"swiglu", swiglu},
    {"lm_head", lm_head},
    {"cross_entropy", cross_entropy},
    {"adamw", adamw},
};
enum { N_OPS = sizeof ops / sizeof *ops };

const char *gradcheck_op_name(int i)
{
    return i >= 0 && i < N_OPS ? ops[i].name : NULL;
}

/* ---- comparison ---- */

static void release(run *r)
{
    for (int i = 0; i < r->n; ++i) free(r->array[i].data);
    r->n = 0;
}

static fh1_status go(int op, run *r)
{
    /* A full table or no memory is seen before anything is called with a NULL of ours. */
    fh1_status s = ops[op].call(r);
    return r->no_memory ? fh1_no_memory(sizeof(double), "a backward op") : s;
}

static double value(const run *r, int a, int64_t i)
{
    return r->e->dtype == FH1_F64 ? ((const double *)r->array[a].data)[i]
                                  : (double)((const float *)r->array[a].data)[i];
}

typedef struct {
    double *judged, *truth, *spread2;
} columns;

static fh1_status open_columns(int64_t n, columns *c)
{
    if (!(c->judged = calloc((size_t)(3 * n) + 1, sizeof(double))))
        return fh1_no_memory((size_t)n * 24, "a backward op");
    c->truth = c->judged + n;
    c->spread2 = c->truth + n;
    return NULL;
}

/* The op of the judged engine, of the truth, and of the truth on inputs that are off by rounding. */
static fh1_status spread(int op, fh1_engine *truth, const fh1_model *m, double unit, const run *exact, columns *c)
{
    for (int k = 0; k < fh1_rule.grad_runs; ++k) {
        run r = {.e = truth, .m = m, .unit = unit, .seed = (uint64_t)k + 1};
        int64_t at = 0;
        fh1_status s = go(op, &r);
        for (int a = 0; !s && a < r.n; ++a)
            for (int64_t i = 0; r.array[a].out && i < r.array[a].n; ++i, ++at) {
                const double d = value(&r, a, i) - value(exact, a, i);
                c->spread2[at] += d * d / fh1_rule.grad_runs;
            }
        release(&r);
        FH1_TRY(s);
    }
    return NULL;
}

/* Terms of the longest sum of these small ops. */
enum { LONGEST_SUM = 64 };

static fh1_status compare(int op, fh1_engine *e, fh1_engine *truth, const fh1_model *m, const run *judged,
                          const run *exact, fh1_tap_result *out_result)
{
    columns c = {0};
    int64_t n = 0, at = 0;
    for (int a = 0; a < exact->n; ++a) n += exact->array[a].out ? exact->array[a].n : 0;
    FH1_TRY(open_columns(n, &c));
    for (int a = 0; a < exact->n; ++a)
        for (int64_t i = 0; exact->array[a].out && i < exact->array[a].n; ++i, ++at) {
            c.judged[at] = value(judged, a, i);
            c.truth[at] = value(exact, a, i);
        }
    double u = fh1_dtype_ulp(e->dtype, 1) / 2 * (1 + sqrt(LONGEST_SUM / 6.0));
    /* A rounding has the derivative 1, but the angles of a rotation are the rounded ones of the forward pass. */
    const bool table = e->profile->at[FH1_RP_ROPE_TABLE] != FH1_ROUND_NONE;
    if (table && strcmp(ops[op].name, "rope") == 0) u += fh1_dtype_ulp(e->profile->storage, 1) / 2;
    fh1_status s = spread(op, truth, m, u, exact, &c);
    fh1_tap_result worst = {.margin = -1};
    at = 0;
    for (int a = 0; !s && a < exact->n; ++a) {
        if (!exact->array[a].out) continue;
        fh1_tap_result r = *out_result;
        int64_t where;
        const fh1_profile *p = fh1_profile_for_dtype(e->dtype);
        const gld_grad_errors t = {.profile = p,
                                   .stored = e->dtype,
                                   .rows = 1,
                                   .width = exact->array[a].n,
                                   .judged = c.judged + at,
                                   .truth = c.truth + at,
                                   .spread2 = c.spread2 + at,
                                   .samples = 1};
        gld_grad_rule(&t, &r, &where);
        r.rank = 1;
        r.where[0] = where;
        if (r.margin > worst.margin || isnan(r.margin)) worst = r;
        at += exact->array[a].n;
    }
    if (!s) *out_result = worst;
    free(c.judged);
    return s;
}

/* Why there is nothing to compare, NULL: there is. */
static const char *not_there(int op, const fh1_engine *e, const fh1_model *m)
{
    if (ops[op].call == rope && m->config.A == 0) return "this model has no attention, and so no angles";
    if (ops[op].call == selective_scan && !e->bwd_ops->selective_scan) return "the engine does not offer this op";
    return NULL;
}

fh1_status gradcheck_op(int op, fh1_engine *e, fh1_engine *truth, const fh1_model *m, fh1_tap_result *result)
{
    const char *why = not_there(op, e, m);
    if (why) {
        result->verdict = FH1_SKIP;
        snprintf(result->reason, sizeof result->reason, "%s", why);
        return NULL;
    }
    run judged = {.e = e, .m = m}, exact = {.e = truth, .m = m};
    fh1_status s = go(op, &judged);
    if (!s) s = go(op, &exact);
    if (!s) s = compare(op, e, truth, m, &judged, &exact, result);
    release(&judged);
    release(&exact);
    return fh1_where(s, "backward op %s", ops[op].name);
}

fh1_status gradcheck_ops(const char *subject, fh1_engine *e, fh1_engine *truth, const fh1_model *m, fh1_report *report)
{
    for (int i = 0; e->bwd_ops && i < N_OPS; ++i) {
        fh1_tap_result *r = calloc(1, sizeof *r);
        if (!r) return fh1_no_memory(sizeof *r, "a verdict");
        *r = (fh1_tap_result){.subject = subject, .order = i, .id = FH1_TAP_COUNT, .layer = -1};
        snprintf(r->tap, sizeof r->tap, "backward.%s", ops[i].name);
        fh1_status s = gradcheck_op(i, e, truth, m, r);
        if (!s) s = fh1_report_add(report, r);
        free(r);
        FH1_TRY(s);
    }
    return NULL;
}
