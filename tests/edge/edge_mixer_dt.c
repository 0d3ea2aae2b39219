/* D-68, D-69, D-72: Δ, its limits, and the decay exp(Δ·A). */
#include "tests/edge/edge_mixer.h"

#include "oracle/compare.h"
#include "oracle/round.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- D-68 ---- */

enum { PRE = 8, RATES = 4, HEADS = PRE * RATES, WIDTH = 2, STATE = 3, EXTREME_T = 5 };

static const double pre[PRE] = {-50, -20, 0, 19.9, 20, 20.1, 50, 90}, rate[RATES] = {-10, 0, 5, 10};

/* Head h: pre-activation h mod 8, A_log h / 8. */
typedef struct {
    const fh1_engine *e;
    void *raw, *dt, *x, *BC, *state, *y;
    fh1_tensor bias, A, D;
    double numbers[3 * HEADS];
} extremes;

static fh1_status open_extremes(fh1_engine *e, extremes *o)
{
    enum { N = EXTREME_T * HEADS * WIDTH * STATE };
    void **const part[] = {&o->raw, &o->dt, &o->x, &o->BC, &o->state, &o->y};
    o->e = e;
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i)
        if (!(*part[i] = calloc(N, sizeof(double)))) return fh1_no_memory(N * sizeof(double), "a scan");
    double v[EXTREME_T * HEADS];
    for (int i = 0; i < EXTREME_T * HEADS; ++i) v[i] = pre[i % HEADS % PRE];
    fh1_from_f64(o->raw, e->dtype, v, EXTREME_T * HEADS);
    for (int h = 0; h < HEADS; ++h) {
        o->numbers[h] = 0;                     /* dt_bias: it stands in the pre-activation already */
        o->numbers[HEADS + h] = rate[h / PRE]; /* A_log */
        o->numbers[2 * HEADS + h] = 1;         /* D */
    }
    o->bias = fh1_view1(o->numbers, FH1_F64, HEADS);
    o->A = fh1_view1(o->numbers + HEADS, FH1_F64, HEADS);
    o->D = fh1_view1(o->numbers + 2 * HEADS, FH1_F64, HEADS);
    return NULL;
}

static void close_extremes(extremes *o)
{
    free(o->raw), free(o->dt), free(o->x), free(o->BC), free(o->state), free(o->y);
}

static double get(const extremes *o, const void *p, int64_t i)
{
    return o->e->dtype == FH1_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

/* A state of ones, or of numbers, and x = 0: what is left after EXTREME_T tokens is the decay alone, or inputs too. */
static fh1_status scan_extremes(fh1_engine *e, extremes *o, int form, double x)
{
    double ones[HEADS * WIDTH * STATE], in[EXTREME_T * HEADS * WIDTH];
    const size_t w = (size_t)fh1_dtype_bits(e->dtype) / 8;
    for (int i = 0; i < HEADS * WIDTH * STATE; ++i) ones[i] = 1;
    for (int i = 0; i < EXTREME_T * HEADS * WIDTH; ++i) in[i] = x;
    fh1_from_f64(o->state, e->dtype, ones, HEADS * WIDTH * STATE);
    fh1_from_f64(o->x, e->dtype, in, EXTREME_T * HEADS * WIDTH);
    fh1_from_f64(o->BC, e->dtype, ones, EXTREME_T * STATE);
    if (form == 0)
        return e->ops->ssd_scan(e, EXTREME_T, HEADS, WIDTH, STATE, 1, o->x, o->BC, o->BC, o->dt, &o->A, &o->D, NULL, 0,
                                o->state, o->y);
    if (form == 1)
        return e->ops->ssd_chunk(e, EXTREME_T, HEADS, WIDTH, STATE, 1, 3, o->x, o->BC, o->BC, o->dt, &o->A, &o->D, NULL,
                                 0, o->state, o->y);
    for (size_t t = 0; t < EXTREME_T; ++t)
        FH1_TRY(e->ops->ssd_step(e, HEADS, WIDTH, STATE, 1, o->x, o->BC, o->BC, (char *)o->dt + t * HEADS * w, &o->A,
                                 &o->D, o->state, (char *)o->y + t * HEADS * WIDTH * w));
    return NULL;
}

/* Where Δ·exp(A_log) is below a quarter of the unit roundoff, EXTREME_T decays are 1 in every bit; where it is above
 * 746 exp underflows to 0 in f64 and f32 alike. In between it is the business of the gauges. */
static fh1_status decays_end(edge_run *r, const extremes *o, const char *form)
{
    int ones = 0, zeros = 0;
    for (int h = 0; h < HEADS; ++h) {
        const double rate_now = log1p(exp(pre[h % PRE])) * exp(rate[h / PRE]);
        for (int i = 0; i < WIDTH * STATE; ++i) {
            const double s = get(o, o->state, h * WIDTH * STATE + i);
            if (rate_now < o->e->profile->u / 4 / EXTREME_T) ones += s == 1;
            else if (rate_now > 746) zeros += s == 0;
            else continue;
            if (s != 0 && s != 1)
                return edge_require(r, false, "%s: Δ from %g and A_log %g leave %.9g of a state of 1", form,
                                    pre[h % PRE], rate[h / PRE], s);
        }
    }
    /* -50 for all rates; 19.9 to 90 for 5 and 10, and 0 for 10 */
    return edge_require(r, ones >= 4 * WIDTH * STATE && zeros == 11 * WIDTH * STATE,
                        "%s: %d states are kept and %d are gone, 24 or more and 66 are meant", form, ones, zeros);
}

static fh1_status all_finite(edge_run *r, const extremes *o, const char *form)
{
    bool good = true;
    for (int i = 0; i < EXTREME_T * HEADS * WIDTH; ++i) good &= isfinite(get(o, o->y, i));
    for (int i = 0; i < HEADS * WIDTH * STATE; ++i) good &= isfinite(get(o, o->state, i));
    return edge_require(r, good, "%s: an output or a state is not finite", form);
}

/* Planted: softplus as log(1 + exp) in f32, without the branch at 20. */
static void overflow(const edge_run *r, extremes *o)
{
    if (!edge_plants(r, "softplus_overflows") || o->e->dtype != FH1_F32) return;
    for (int i = 0; i < EXTREME_T * HEADS; ++i) ((float *)o->dt)[i] = logf(1 + expf(((float *)o->raw)[i]));
}

static fh1_status ops_at_extremes(edge_run *r, fh1_engine *e)
{
    static const char *const form[] = {"scan", "chunks of 3", "steps"};
    extremes o = {0};
    fh1_status s = open_extremes(e, &o);
    if (!s) s = e->ops->dt_softplus(e, EXTREME_T, HEADS, o.raw, &o.bias, 0, (double)INFINITY, o.dt);
    if (!s) overflow(r, &o);
    for (int f = 0; !s && f < 3; ++f) {
        s = scan_extremes(e, &o, f, 0);
        if (!s) s = decays_end(r, &o, form[f]);
        if (!s) s = scan_extremes(e, &o, f, 1);
        if (!s) s = all_finite(r, &o, form[f]);
    }
    close_extremes(&o);
    return s;
}

fh1_status edge_dt_extremes(edge_run *r)
{
    fh1_model m;
    fh1_engine *e;
    FH1_TRY(edge_model(r, EDGE_WIDTHS "H=32,P=2,N=3,G=2,rms_norm=1", &m));
    for (int64_t l = 0; l < m.config.n_layers; ++l)
        for (int64_t h = 0; h < HEADS; ++h) { /* what in_proj adds is small against most of these */
            fh1_set(&m.layers[l].dt_bias, h, pre[h % PRE]);
            fh1_set(&m.layers[l].A_log, h, rate[h / PRE]);
        }
    fh1_status s = edge_engine(r, &m, &e);
    if (!s) s = ops_at_extremes(r, e);
    if (!s) s = edge_check(r, &m, edge_is_cuda(r) ? "p11;d1" : "p19x3;d2", r->seed);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}

/* ---- D-69 ---- */

typedef struct {
    const fh1_model *unlimited; /* NULL: there are no limits to forget */
    int64_t T, first;
} limits;

/* Left: one call. Right: a prefill, then steps. Planted: steps without limits. */
static fh1_status walk_limits(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const limits *l = run->data;
    const int64_t n = road == LAW_LEFT ? l->T : l->first;
    law_session *s;
    FH1_TRY(gld_session_open(run, e, 1, &s));
    FH1_TRY(gld_session_feed(s, run->text[0], n));
    if (road == LAW_PLANTED && l->unlimited) s->m = l->unlimited;
    for (int64_t t = n; t < l->T; ++t)
        FH1_TRY(gld_session_feed(s, run->text[road == LAW_PLANTED && !l->unlimited] + t, 1));
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

/* softplus of the bias from 0.002 to 0.2: on both sides of every limit. */
static void spread_dt(const fh1_model *m)
{
    for (int64_t l = 0; l < m->config.n_layers; ++l)
        for (int64_t h = 0; h < m->config.H; ++h) {
            const double dt = 0.002 * pow(100, (double)h / (double)(m->config.H - 1));
            fh1_set(&m->layers[l].dt_bias, h, log(expm1(dt)));
        }
}

static fh1_status with_limits(edge_run *r, double lo, double hi, int i)
{
    fh1_model m;
    FH1_TRY(edge_model(r, edge_model_text(i), &m));
    spread_dt(&m);
    fh1_model unlimited = m; /* the same weights */
    m.config.dt_lo = lo;
    m.config.dt_hi = hi;
    limits l = {.unlimited = lo > 0 || isfinite(hi) ? &unlimited : NULL, .T = edge_is_cuda(r) ? 14 : 21, .first = 9};
    /* A step in bf16 hides the limits of the first heads under its own rounding; the state of the engine's taps does
     * not. */
    const uint64_t notices = r->bit == EDGE_BF16 ? 0 : LAW_BIT(FH1_TAP_CACHE_SSM) | LAW_BIT(FH1_TAP_LOGITS);
    fh1_status s = edge_law(r, &m, 16, walk_limits, notices, &l);
    if (!s) s = edge_check(r, &m, edge_is_cuda(r) ? "p9;d1" : "p9x3;d3;c4", r->seed);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return fh1_where(s, "time_step_limit (%g, %g), model %d", lo, hi, i);
}

fh1_status edge_dt_limits(edge_run *r)
{
    static const double limit[][2] = {{0.01, 0.1}, {0, 0.05}, {0, (double)INFINITY}};
    for (size_t k = 0; k < sizeof limit / sizeof *limit; ++k)
        for (int i = 0; edge_model_text(i); ++i)
            if (!edge_is_cuda(r) || i == (int)k % 2) FH1_TRY(with_limits(r, limit[k][0], limit[k][1], i));
    return NULL;
}

/* ---- D-72 ---- */

enum { DECAY_T = 24, DECAY_H = 8, DECAY_P = 3, DECAY_N = 4, DECAY_STATE = DECAY_H * DECAY_P * DECAY_N };

typedef struct {
    const double *A, *dt, *state, *zeros;
    int64_t Q; /* 0: the recurrence */
} decay;

/* x = 0: the state only decays, and nothing but exp(Δ·A) is left. Left: a prefill. Right: steps. Planted: a prefill
 * with A in bf16. */
static fh1_status walk_decay(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const decay *d = run->data;
    const law_tensor like = {.id = FH1_TAP_CACHE_SSM,
                             .first_token = -1,
                             .n = 1,
                             .width = DECAY_STATE,
                             .stride = 1,
                             .fiber = DECAY_P * DECAY_N,
                             .samples = DECAY_T};
    double A[DECAY_H];
    law_tensor *t;
    FH1_TRY(gld_side_add(out, &like, &t));
    for (int h = 0; h < DECAY_H; ++h)
        A[h] = road == LAW_PLANTED ? log(fh1_round_f64(FH1_ROUND_BF16, exp(d->A[h]))) : d->A[h];
    law_scan s = {.T = DECAY_T,
                  .H = DECAY_H,
                  .P = DECAY_P,
                  .N = DECAY_N,
                  .G = 1,
                  .Q = d->Q,
                  .x = d->zeros,
                  .B = d->state,
                  .C = d->state,
                  .dt = d->dt,
                  .state = d->state,
                  .A_log = fh1_view1(A, FH1_F64, DECAY_H),
                  .D = fh1_view1((void *)d->zeros, FH1_F64, DECAY_H)};
    if (road != LAW_RIGHT) {
        law_out y, state;
        FH1_TRY(gld_run_scan(run, e, &s, &y, &state));
        state.allowed = NULL; /* the steps have none */
        return gld_out_add(t, &state, NULL, 1);
    }
    const size_t w = (size_t)fh1_dtype_bits(e->dtype) / 8;
    void *x = gld_law_cast(run, e, d->zeros, DECAY_H * DECAY_P), *B = gld_law_cast(run, e, d->state, DECAY_N);
    void *dt = gld_law_cast(run, e, d->dt, DECAY_T * DECAY_H), *state = gld_law_cast(run, e, d->state, DECAY_STATE);
    void *y = gld_law_cast(run, e, NULL, DECAY_H * DECAY_P);
    if (!x || !B || !dt || !state || !y) return fh1_no_memory(0, "steps");
    for (size_t i = 0; i < DECAY_T; ++i)
        FH1_TRY(e->ops->ssd_step(e, DECAY_H, DECAY_P, DECAY_N, 1, x, B, B, (char *)dt + i * DECAY_H * w, &s.A_log, &s.D,
                                 state, y));
    fh1_to_f64(t->v, state, e->dtype, DECAY_STATE);
    return NULL;
}

static fh1_status decay_in_both_phases(edge_run *r, const fh1_model *m)
{
    double *v[] = {edge_numbers(r, "decay A", DECAY_H, 0, 1),
                   edge_numbers(r, "decay dt", DECAY_T * DECAY_H, 0.05, 0.01),
                   edge_numbers(r, "decay state", DECAY_T * DECAY_STATE, 1, 0.3),
                   edge_numbers(r, "decay x", DECAY_T * DECAY_STATE, 0, 0)};
    fh1_status s = v[0] && v[1] && v[2] && v[3] ? NULL : fh1_no_memory(0, "a decay");
    for (int64_t Q = 0; !s && Q <= 8; Q += 8) {
        decay d = {v[0], v[1], v[2], v[3], Q};
        s = fh1_where(edge_law(r, m, 16, walk_decay, LAW_BIT(FH1_TAP_CACHE_SSM), &d),
                      Q ? "chunks of 8" : "the recurrence");
    }
    for (int i = 0; i < 4; ++i) free(v[i]);
    return s;
}

fh1_status edge_decay_precision(edge_run *r)
{
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        FH1_TRY(edge_model(r, edge_model_text(i), &m));
        for (int64_t l = 0; l < m.config.n_layers; ++l)
            for (int64_t h = 0; h < m.config.H; ++h) /* no bf16 numbers, and slow enough for three chunks */
                fh1_set(&m.layers[l].A_log, h, 0.0371 * (double)(1 + h) - 0.0021 * (double)l);
        fh1_status s = i == 0 ? decay_in_both_phases(r, &m) : NULL;
        if (!s && (!edge_is_cuda(r) || i == 1)) s = edge_check(r, &m, edge_is_cuda(r) ? "p19;d1" : "p25;d4", r->seed);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}
