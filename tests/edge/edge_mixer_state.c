/* D-70, D-71: the type that a state is stored in, and where it is rounded. */
#include "tests/edge/edge_mixer.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- D-70 ---- */

enum { H = 4, P = 2, N = 4, CELLS = H * P * N, STEPS = 4096, FEW_STEPS = 96, KINDS = 4 };

static const struct {
    const char *name;
    fh1_dtype type; /* I8: whole multiples of a scale per row of N, its largest magnitude over 127 */
} kind[KINDS] = {{"f32", FH1_F32}, {"bf16", FH1_BF16}, {"f16", FH1_F16}, {"int8", FH1_I8}};

typedef struct {
    edge_run *r;
    fh1_engine *e, *truth;
    int64_t T;
    double A_log[H], D[H], *x, *B, *C, *dt; /* [T, H·P], [T, N] twice, [T, H] */
    fh1_tensor A, skip;
    double *h, *y; /* the truth after each step: [T + 1, CELLS], [T, H·P] */
} road;

/* Horizons of 5 to 5000 tokens, inputs that are positive on average: a state that grows large beside its increments. */
static fh1_status open_road(edge_run *r, road *w)
{
    w->T = edge_is_cuda(r) ? FEW_STEPS : STEPS;
    w->x = edge_numbers(r, "drift x", w->T * H * P, 0.3, 0.3), w->B = edge_numbers(r, "drift B", w->T * N, 1, 0.3);
    w->C = edge_numbers(r, "drift C", w->T * N, 0, 1), w->dt = edge_numbers(r, "drift dt", w->T * H, 0.05, 0.005);
    w->h = calloc((size_t)((w->T + 1) * CELLS), sizeof *w->h), w->y = calloc((size_t)(w->T * H * P), sizeof *w->y);
    if (!w->x || !w->B || !w->C || !w->dt || !w->h || !w->y) return fh1_no_memory(0, "a long decode");
    for (int i = 0; i < H; ++i) w->A_log[i] = log(1 / (0.05 * 5 * pow(10, i))), w->D[i] = 1;
    w->A = fh1_view1(w->A_log, FH1_F64, H), w->skip = fh1_view1(w->D, FH1_F64, H);
    for (int64_t t = 0; t < w->T; ++t) {
        double *after = w->h + (t + 1) * CELLS;
        memcpy(after, after - CELLS, CELLS * sizeof *after);
        FH1_TRY(w->truth->ops->ssd_step(w->truth, H, P, N, 1, w->x + t * H * P, w->B + t * N, w->C + t * N,
                                        w->dt + t * H, &w->A, &w->skip, after, w->y + t * H * P));
    }
    return NULL;
}

static void close_road(road *w)
{
    free(w->x), free(w->B), free(w->C), free(w->dt), free(w->h), free(w->y);
}

/* Distance of two neighbours of the stored type at v, in a row whose largest magnitude is `most`. */
static double spacing(int k, double v, double most)
{
    return kind[k].type == FH1_I8 ? most / 127 : fh1_dtype_ulp(kind[k].type, v);
}

static double largest(const double *row)
{
    double most = 0;
    for (int i = 0; i < N; ++i) most = fmax(most, fabs(row[i]));
    return most;
}

/* What a cache of this type keeps of the state. Stochastic: up with the probability of the part that is lost. */
static void store(const road *w, int k, bool stochastic, uint64_t run, int64_t t, double *state, double *scale)
{
    const fh1_stream dice = fh1_stream_open(run, "stochastic rounding");
    if (kind[k].type == FH1_F32) return; /* the engine's own arithmetic */
    for (int row = 0; row < H * P; ++row) {
        const double most = largest(state + row * N);
        if (!edge_plants(w->r, "int8_scale_of_the_first_step") || t == 0) scale[row] = most;
        for (int i = 0; i < N && most > 0; ++i) {
            double *v = &state[row * N + i];
            const double step = spacing(k, *v, scale[row]), q = *v / step; /* exact, or one rounding of f64 */
            double whole = rint(q);
            if (edge_plants(w->r, "state_truncated")) whole = trunc(q);
            if (stochastic && !edge_plants(w->r, "stochastic_rounds_to_nearest"))
                whole = floor(q + fh1_random_uniform(dice, (uint64_t)(t * CELLS + row * N + i)));
            if (kind[k].type == FH1_I8) whole = fmax(-127, fmin(127, whole));
            *v = whole * step;
        }
    }
}

/* One decode: states after the steps into `out` [T, CELLS], outputs into y [T, H·P]. */
static fh1_status decode(const road *w, int k, bool stochastic, uint64_t run, double *out, double *y)
{
    const fh1_dtype own = w->e->dtype;
    double state[CELLS] = {0}, scale[H * P] = {0}, got[H * P];
    char state_own[CELLS * 8], x[H * P * 8], B[N * 8], C[N * 8], dt[H * 8], y_own[H * P * 8];
    for (int64_t t = 0; t < w->T; ++t) {
        fh1_from_f64(state_own, own, state, CELLS);
        fh1_from_f64(x, own, w->x + t * H * P, H * P), fh1_from_f64(dt, own, w->dt + t * H, H);
        fh1_from_f64(B, own, w->B + t * N, N), fh1_from_f64(C, own, w->C + t * N, N);
        FH1_TRY(w->e->ops->ssd_step(w->e, H, P, N, 1, x, B, C, dt, &w->A, &w->skip, state_own, y_own));
        fh1_to_f64(state, state_own, own, CELLS);
        fh1_to_f64(got, y_own, own, H * P);
        store(w, k, stochastic, run, t, state, scale);
        memcpy(out + t * CELLS, state, sizeof state);
        if (y) memcpy(y + t * H * P, got, sizeof got);
    }
    return NULL;
}

/* The curve: the gauge of the contract's own steps, and with each step the rounding of the stored type, half a spacing
 * that may repeat (shared), or, stochastic, one of at most a spacing whose mean is zero and whose variance is
 * p(1 - p)·spacing² <= spacing²/4, which decays as the state does. `noise`: V of the stochastic part alone; `own`: the
 * gauge without what is stored. All [T, CELLS]; of_y [T, H·P] is what the outputs may be off by. */
typedef struct {
    double *allowed, *own, *noise, *of_y;
} curve;

static fh1_status draw_curve(const road *w, int k, bool stochastic, curve *c)
{
    fh1_gauge g = {0}, plain = {0}, y = {0};
    const double sigmas = fh1_gauge_sigmas(CELLS * w->T);
    fh1_status s = fh1_gauge_new(CELLS, &g);
    if (!s) s = fh1_gauge_new(CELLS, &plain);
    if (!s) s = fh1_gauge_new(H * P, &y);
    for (int64_t t = 0; !s && t < w->T; ++t) {
        const double *before = w->h + t * CELLS, *after = before + CELLS;
        fh1_gauge *const both[2] = {&plain, &g};
        for (int i = 0; !s && i < 2; ++i)
            s = w->truth->gauges->ssd_step(w->e->profile, H, P, N, 1, w->x + t * H * P, w->B + t * N, w->C + t * N,
                                           w->dt + t * H, &w->A, &w->skip, before, w->y + t * H * P, both[i], &y);
        for (int i = 0; !s && i < H * P; ++i) c->of_y[t * H * P + i] = fh1_gauge_allowed(fh1_gauge_at(&y, i), sigmas);
        for (int i = 0; !s && i < CELLS; ++i) {
            const double off = fh1_gauge_allowed(fh1_gauge_at(&g, i), sigmas),
                         a = exp(-w->dt[t * H + i / (P * N)] * exp(w->A_log[i / (P * N)]));
            const double at = fabs(after[i]) + off, most = largest(after + i / N * N) + off;
            const double step = kind[k].type == FH1_F32 ? 0 : spacing(k, at, most);
            fh1_err e = fh1_gauge_at(&g, i);
            e = fh1_err_add(e, stochastic ? (fh1_err){step, step * step / 4, 0} : (fh1_err){step / 2, 0, step / 2});
            fh1_gauge_set(&g, i, e);
            c->allowed[t * CELLS + i] = fh1_gauge_allowed(e, sigmas);
            c->own[t * CELLS + i] = fh1_gauge_allowed(fh1_gauge_at(&plain, i), sigmas);
            c->noise[t * CELLS + i] =
                (t ? a * a * c->noise[(t - 1) * CELLS + i] : 0) + (stochastic ? step * step / 4 : 0);
        }
    }
    fh1_gauge_free(&g), fh1_gauge_free(&plain), fh1_gauge_free(&y);
    return s;
}

static double worst_margin(const double *v, const double *truth, const double *allowed, int64_t n, int64_t *at)
{
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double err = fh1_error_of(v[i], truth[i]), margin = fh1_within(err, 0) ? 0 : err / allowed[i];
        if (fh1_within(margin, worst)) continue;
        worst = margin;
        *at = i;
    }
    return worst;
}

static fh1_status under_curve(const road *w, int k, bool stochastic, const curve *c, const double *state,
                              const double *y)
{
    int64_t at = 0;
    const double margin = worst_margin(state, w->h + CELLS, c->allowed, w->T * CELLS, &at);
    FH1_TRY(edge_require(w->r, fh1_within(margin, 1),
                         "a state in %s, %s: %.3g times its curve after %lld steps, cell %lld: %.9g, truth %.9g",
                         kind[k].name, stochastic ? "stochastic" : "nearest", margin, (long long)(at / CELLS + 1),
                         (long long)(at % CELLS), state[at], w->h[CELLS + at]));
    const double of_y = worst_margin(y, w->y, c->of_y, w->T * H * P, &at);
    return edge_require(w->r, fh1_within(of_y, 1),
                        "outputs beside a state in %s: %.3g times what is allowed, step %lld", kind[k].name, of_y,
                        (long long)(at / (H * P)));
}

/* The mean of n runs: their noise averages to V/n, the engine's own roundings do not. Nearest rounding loses increments
 * below half a spacing, always in one direction. */
static fh1_status unbiased(const road *w, int k, const curve *c, double *state, double *mean)
{
    const int n = edge_is_cuda(w->r) ? 4 : 8;
    const double sigmas = fh1_gauge_sigmas(CELLS * w->T);
    double worst = 0;
    memset(mean, 0, (size_t)(w->T * CELLS) * sizeof *mean);
    for (int run = 0; run < n; ++run) {
        FH1_TRY(decode(w, k, true, w->r->seed * 64 + (uint64_t)run, state, NULL));
        for (int64_t i = 0; i < w->T * CELLS; ++i) mean[i] += state[i] / n;
    }
    for (int64_t i = 0; i < w->T * CELLS; i += P * N) { /* over the cells of a head too: each has a noise of its own */
        double off = 0, own = 0, noise = 0;
        for (int64_t cell = i; cell < i + P * N; ++cell) {
            off += mean[cell] - w->h[CELLS + cell];
            own += c->own[cell];
            noise += c->noise[cell];
        }
        const double margin = fabs(off) / fmax(own + sigmas * sqrt(noise / n), 0x1p-1022);
        if (!fh1_within(margin, worst)) worst = margin;
    }
    FH1_TRY(edge_require(w->r, fh1_within(worst, 1),
                         "the mean of %d stochastic runs in %s is biased: %.3g times what %d runs may be off by", n,
                         kind[k].name, worst, n));
    /* the last of them once more */
    FH1_TRY(decode(w, k, true, w->r->seed * 64 + (uint64_t)n - 1, mean, NULL));
    return edge_require(w->r, memcmp(mean, state, (size_t)(w->T * CELLS) * sizeof *mean) == 0,
                        "the same seed gives other states in %s", kind[k].name);
}

static fh1_status all_kinds(road *w, curve *c, double *state, double *y)
{
    for (int k = 0; k < KINDS; ++k)
        for (int stochastic = 0; stochastic < (k ? 2 : 1); ++stochastic) {
            FH1_TRY(draw_curve(w, k, stochastic != 0, c));
            FH1_TRY(decode(w, k, stochastic != 0, w->r->seed, state, y));
            FH1_TRY(under_curve(w, k, stochastic != 0, c, state, y));
            if (stochastic) FH1_TRY(unbiased(w, k, c, state, c->allowed));
        }
    return NULL;
}

fh1_status edge_state_types(edge_run *r)
{
    road w = {.r = r};
    fh1_model m;
    FH1_TRY(edge_model(r, edge_model_text(0), &m));
    fh1_status s = edge_engine(r, &m, &w.e);
    if (!s) s = edge_truth(r, &w.truth);
    if (!s) s = open_road(r, &w);
    const size_t cells = (size_t)(w.T * CELLS);
    double *memory = s ? NULL : calloc(4 * cells + 2 * (size_t)(w.T * H * P), sizeof *memory);
    if (!s && !memory) s = fh1_no_memory(cells * 32, "a long decode");
    if (!s) {
        curve c = {memory, memory + cells, memory + 2 * cells, memory + 4 * cells};
        s = all_kinds(&w, &c, memory + 3 * cells, memory + 4 * cells + w.T * H * P);
    }
    free(memory);
    close_road(&w);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}

/* ---- D-71 ---- */

enum { LH = 2, LP = 2, LN = 4, LT = 3, LCELLS = LH * LP * LN };

/* A reader of its own: v with so many bits, to nearest, ties to even. */
static double bits(double v, fh1_round r)
{
    int e;
    const int keep = r == FH1_ROUND_BF16 ? 8 : r == FH1_ROUND_F16 ? 11 : 53;
    const double m = frexp(v, &e);
    return ldexp(rint(ldexp(m, keep)), e - keep);
}

/* Decays of exactly 1, products of few bits, and states of 13: every sum is exact in any order, and the only thing that
 * an output shows is where it was rounded. */
typedef struct {
    double A_log[LH], D[LH], x[LT * LH * LP], B[LT * LN], C[LT * LN], dt[LT * LH], state[LCELLS];
    double y[LT * LH * LP]; /* meant */
    fh1_tensor A, skip;
} lattice;

static int64_t draw(const fh1_stream s, uint64_t *i, int64_t lo, int64_t hi)
{
    return lo + fh1_random_below(s, (*i)++, hi - lo + 1);
}

static void fill(const edge_run *r, lattice *l)
{
    const fh1_stream s = fh1_stream_open(r->seed, "rounding point");
    uint64_t i = 0;
    for (int k = 0; k < LH; ++k) l->A_log[k] = -200, l->D[k] = (double)draw(s, &i, 1, 3);
    for (int k = 0; k < LT * LH * LP; ++k) l->x[k] = (double)draw(s, &i, -3, 3);
    for (int k = 0; k < LT * LN; ++k) l->B[k] = (double)draw(s, &i, -3, 3), l->C[k] = (double)draw(s, &i, 1, 4);
    for (int k = 0; k < LT * LH; ++k) l->dt[k] = ldexp(1, (int)draw(s, &i, -2, 0));
    for (int k = 0; k < LCELLS; ++k) l->state[k] = (double)draw(s, &i, 4096, 8191) * 0x1p-10;
    l->A = fh1_view1(l->A_log, FH1_F64, LH), l->skip = fh1_view1(l->D, FH1_F64, LH);
}

/* The outputs of LT tokens as the profile declares them, and the states in l->state. */
static void witness(const edge_run *r, const fh1_profile *p, bool steps, lattice *l)
{
    const fh1_round step = steps ? p->at[FH1_RP_STEP] : FH1_ROUND_NONE;
    const bool rounded = step != FH1_ROUND_NONE && !edge_plants(r, "reference_reads_unrounded_state");
    for (int t = 0; t < LT; ++t)
        for (int c = 0; c < LH * LP; ++c) {
            const double x = l->x[t * LH * LP + c], dt = l->dt[t * LH + c / LP];
            double sum = 0, skip = l->D[c / LP] * x;
            for (int n = 0; n < LN; ++n) {
                double *S = &l->state[c * LN + n];
                *S += bits(bits(dt * l->B[t * LN + n], step) * x, step);
                sum += (rounded ? bits(*S, step) : *S) * l->C[t * LN + n];
            }
            if (step != FH1_ROUND_NONE) sum = bits(bits(sum, step) + bits(skip, step), step);
            else sum = bits(sum + skip, p->at[FH1_RP_SSD]);
            l->y[t * LH * LP + c] = sum;
        }
}

static fh1_status run_lattice(fh1_engine *e, bool steps, const lattice *l, double *y, double *state)
{
    char x[sizeof l->x], B[sizeof l->B], C[sizeof l->C], dt[sizeof l->dt], S[sizeof l->state], out[sizeof l->x];
    const size_t w = (size_t)fh1_dtype_bits(e->dtype) / 8;
    fh1_from_f64(x, e->dtype, l->x, LT * LH * LP), fh1_from_f64(B, e->dtype, l->B, LT * LN);
    fh1_from_f64(C, e->dtype, l->C, LT * LN), fh1_from_f64(dt, e->dtype, l->dt, LT * LH);
    fh1_from_f64(S, e->dtype, l->state, LCELLS);
    if (!steps) FH1_TRY(e->ops->ssd_scan(e, LT, LH, LP, LN, 1, x, B, C, dt, &l->A, &l->skip, NULL, 0, S, out));
    for (size_t t = 0; steps && t < LT; ++t)
        FH1_TRY(e->ops->ssd_step(e, LH, LP, LN, 1, x + t * LH * LP * w, B + t * LN * w, C + t * LN * w, dt + t * LH * w,
                                 &l->A, &l->skip, S, out + t * LH * LP * w));
    fh1_to_f64(y, out, e->dtype, LT * LH * LP);
    fh1_to_f64(state, S, e->dtype, LCELLS);
    return NULL;
}

static fh1_status under_profile(edge_run *r, const fh1_model *m, const fh1_profile *p, int *seen)
{
    fh1_engine *e;
    if (p) edge_contract(r, p);
    FH1_TRY(edge_engine(r, m, &e));
    for (int steps = 0; steps < 2; ++steps) {
        lattice l, other;
        double y[LT * LH * LP], state[LCELLS];
        fill(r, &l);
        FH1_TRY(run_lattice(e, steps != 0, &l, y, state));
        other = l;
        witness(r, e->profile, steps != 0, &l);
        fh1_profile unrounded = *e->profile;
        unrounded.at[FH1_RP_STEP] = FH1_ROUND_NONE, unrounded.at[FH1_RP_SSD] = e->profile->at[FH1_RP_STEP];
        witness(r, &unrounded, steps != 0, &other);
        *seen += memcmp(l.y, other.y, sizeof l.y) != 0; /* the data can tell the two rounding points */
        for (int i = 0; i < LT * LH * LP; ++i)
            FH1_TRY(edge_require(r, y[i] == l.y[i], "%s, %s: output %d is %.9g, its rounding points give %.9g",
                                 e->profile->name, steps ? "steps" : "a scan", i, y[i], l.y[i]));
        for (int i = 0; i < LCELLS; ++i)
            FH1_TRY(edge_require(r, state[i] == l.state[i], "%s, %s: state %d is %.9g, kept unrounded it is %.9g",
                                 e->profile->name, steps ? "steps" : "a scan", i, state[i], l.state[i]));
    }
    return NULL;
}

/* Kernels of that contract take a model in bf16. */
static fh1_status under_cuda_bf16(edge_run *r)
{
    fh1_model m;
    int seen = 0;
    FH1_TRY(edge_model(r, EDGE_WIDTHS "H=4,P=8,N=8,G=1,dtype=bf16", &m));
    fh1_status s = under_profile(r, &m, fh1_profile_find("cuda-bf16"), &seen);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}

/* Every profile on ref-bf16, which runs any; an engine's own, and cuda-bf16, elsewhere. */
fh1_status edge_rounding_point(edge_run *r)
{
    fh1_model m;
    int seen = 0;
    FH1_TRY(edge_model(r, edge_model_text(0), &m));
    fh1_status s = under_profile(r, &m, NULL, &seen);
    for (int i = 0; !s && r->bit == EDGE_BF16 && fh1_profile_at(i); ++i)
        if (fh1_profile_at(i)->storage != FH1_F64) s = under_profile(r, &m, fh1_profile_at(i), &seen);
    if (!s && r->bit == EDGE_BF16)
        s = edge_require(r, seen >= 2, "%d of the profiles round the state that an output reads, 2 or more are meant",
                         seen);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s || !edge_is_cuda(r) ? s : under_cuda_bf16(r);
}
