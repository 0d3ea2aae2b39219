/* All errors are relative to u or to the value; letters as in docs/numerics.md: l = |Δ·A|, a = exp(-l). */
#include "reference/selective_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_grid.h"
#include "reference/gauge_parts.h"
#include "reference/lanes_exp.h"
#include "reference/scan_faults.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What is carried per element of the state, rows of Nv = N as whole vectors. The first six as in ssd_gauge.c; OF_B is
 * the variance that errors of B bring in: independent from token to token, the same for all channels. They are not
 * where tokens repeat: KNOWN is, with its sign, what B's rounding alone comes to, which truth can compute. */
enum { VALUE, SQUARES, MAGNITUDE, WORST, VARIANCE, SHARED, OF_B, KNOWN, N_LANES };

/* What a token has for all channels, rows of Nv: B, C, their gauges, and their rounding to 16 bits, R(B) - B. */
enum { ROW_B, B_WORST, B_VARIANCE, B_SHARED, B_KNOWN, ROW_C, C_WORST, C_VARIANCE, C_SHARED, C_KNOWN, N_ROWS };

typedef struct {
    const fh1_profile *contract;
    const REF(ref_selective_args) * a;
    fh1_round read, out;
    int64_t Nv, levels; /* levels: roundings of partial sums that a tree adds */
    double of_inputs;   /* how many deviations of B's and C's errors the largest may reach */
    const fh1_gauge *g_state, *g;
    double *rows;    /* [T, N_ROWS, Nv] */
    double *scratch; /* per thread: lanes [N_LANES, Nv], rate, memory, l, decay [Nv], |Δ|, same, sorted [T] */
    int64_t per_thread;
} gauge_job;

typedef struct {
    double *lane, *rate, *memory, *l, *decay, *dt, *same, *sorted;
} channel;

/* ---- the recurrences ---- */

/* Sums over a row of the state with the weights C; `inputs`: the variance that errors of B and C bring, `known`: what
 * their roundings come to. */
typedef struct {
    double y, abs_y, square, squares, magnitude, worst, variance, shared, inputs, known;
} reading;

/* Relative errors of one token in one channel. The exponent l is rounded once, its A is off by exps + 2·|l| in base 2
 * and so for all tokens; exp by exps. Equal Δ have equal errors: `same` of them among T tokens, of which the state
 * holds memory·T. */
typedef struct {
    double l1, l0;   /* worst: l0 + l1·l */
    double s1, s0;   /* shared: s0 + s1·l */
    double times;    /* variance of exp, u²·(exps² + l²): times 1 + times·memory, or none where it is shared */
    double likely;   /* 1, or 0 where it is shared */
    double exps2, u; /* exp_units² */
} weights;

static weights token_weights(const gauge_job *j, double same)
{
    const fh1_profile *c = j->contract;
    const double of_A = ref_exp_units(c, 1), u = c->u, exps = c->exp_units; /* exps + twice in base 2, times l */
    const bool repeats = same * 16 > (double)j->a->T;
    return (weights){.l0 = (exps + 1) * u,
                     .l1 = (of_A + 1) * u,
                     .s0 = repeats ? (exps + 2) * u : 0,
                     .s1 = (of_A + (repeats ? 1 : 0)) * u,
                     .times = same - 1,
                     .likely = repeats ? 0 : u * u,
                     .exps2 = exps * exps,
                     .u = u};
}

/* A row over one token, xb = Δ·x, in = xb·B. Per element:
 *   h' = a h + in,  Q' = a² Q + in²,  M' = a M + |in|
 *   V' = a² (V + v h²) + u²/3 (h'² + Q' + 2 in²),  O' = a² O + xb² V_B
 *   K' = a K + xb K_B
 *   S' = a (S + s |h|) + |xb| S_B,  E' = a (E + e M) + u (M' + 2 |in|) + |xb| E_B,  both + tiny (M + 1) */
FH1_CLONES static void advance_row(int64_t Nv, const weights *w, double tiny, double xb, const double *in_row,
                                   const channel *k, reading *out)
{
    ref_vec y = {0}, abs_y = {0}, square = {0}, squares = {0}, magnitude = {0}, worst = {0}, variance = {0},
            shared = {0}, inputs = {0}, known = {0};
    const double abs_xb = fabs(xb), third = w->u * w->u / 3;
    for (int64_t n = 0; n < Nv; n += REF_VEC_LEN) {
        const double *r = in_row + n;
        double *lane = k->lane + n;
        const ref_vec a = ref_load(k->decay + n), l = ref_load(k->l + n), a2 = a * a;
        const ref_vec in = xb * ref_load(r + ROW_B * Nv), abs_in = ref_vec_abs(in), in2 = in * in;
        const ref_vec h = ref_load(lane + VALUE * Nv), m = ref_load(lane + MAGNITUDE * Nv);
        const ref_vec h1 = a * h + in, m1 = a * m + abs_in, q1 = a2 * ref_load(lane + SQUARES * Nv) + in2;
        const ref_vec repeated = w->likely * (1 + w->times * ref_load(k->memory + n));
        const ref_vec v = third + repeated * (w->exps2 + l * l);
        const ref_vec v1 = a2 * (ref_load(lane + VARIANCE * Nv) + v * (h * h)) + third * (h1 * h1 + q1 + 2 * in2);
        const ref_vec o1 = a2 * ref_load(lane + OF_B * Nv) + xb * xb * ref_load(r + B_VARIANCE * Nv);
        const ref_vec s1 = a * (ref_load(lane + SHARED * Nv) + (w->s0 + w->s1 * l) * ref_vec_abs(h)) +
                           abs_xb * ref_load(r + B_SHARED * Nv) + tiny * m + tiny;
        const ref_vec e1 = a * (ref_load(lane + WORST * Nv) + (w->l0 + w->l1 * l) * m) + w->u * (m1 + 2 * abs_in) +
                           abs_xb * ref_load(r + B_WORST * Nv) + tiny * m + tiny;
        const ref_vec k1 = a * ref_load(lane + KNOWN * Nv) + xb * ref_load(r + B_KNOWN * Nv);
        *(ref_vec_mem *)(lane + KNOWN * Nv) = k1;
        *(ref_vec_mem *)(lane + VALUE * Nv) = h1;
        *(ref_vec_mem *)(lane + SQUARES * Nv) = q1;
        *(ref_vec_mem *)(lane + MAGNITUDE * Nv) = m1;
        *(ref_vec_mem *)(lane + VARIANCE * Nv) = v1;
        *(ref_vec_mem *)(lane + OF_B * Nv) = o1;
        *(ref_vec_mem *)(lane + SHARED * Nv) = s1;
        *(ref_vec_mem *)(lane + WORST * Nv) = e1;
        const ref_vec c = ref_load(r + ROW_C * Nv), ch = c * h1, c2 = c * c, abs_c = ref_vec_abs(c), h2 = h1 * h1;
        y += ch;
        abs_y += ref_vec_abs(ch);
        square += ch * ch;
        squares += c2 * q1;
        magnitude += abs_c * m1;
        variance += c2 * v1;
        inputs += c2 * o1 + h2 * ref_load(r + C_VARIANCE * Nv);
        known += c * k1 + h1 * ref_load(r + C_KNOWN * Nv);
        shared += abs_c * s1 + ref_vec_abs(h1) * ref_load(r + C_SHARED * Nv);
        worst += abs_c * e1 + (ref_vec_abs(h1) + e1) * ref_load(r + C_WORST * Nv);
    }
    *out = (reading){ref_vec_total(y),         ref_vec_total(abs_y), ref_vec_total(square),   ref_vec_total(squares),
                     ref_vec_total(magnitude), ref_vec_total(worst), ref_vec_total(variance), ref_vec_total(shared),
                     ref_vec_total(inputs),    ref_vec_total(known)};
}

/* Errors of B and C are the same for all channels, so that none of these averages them: as far as they are likely to
 * go, over all T·N numbers, they are shared. */
static void share(const gauge_job *j, double inputs, fh1_err *e)
{
    e->shared = fmin(e->worst, e->shared + j->of_inputs * sqrt(inputs));
}

/* Σ C·h in any order. Where the terms add up rather than cancel, so may errors of decays that are alike. */
static fh1_err sum_of(const gauge_job *j, const reading *r)
{
    const double aligned = r->square > 0 ? fmax(1, r->y * r->y / r->square) : 1, u = j->contract->u;
    const double likely = r->y * r->y + r->square + r->squares, d = (double)(j->a->N + j->levels);
    fh1_err e = {.worst = r->worst + (d + 1) * u * r->magnitude + j->contract->underflow,
                 .variance = aligned * r->variance + u * u / 3 * (d / 2 * likely + r->abs_y * r->abs_y),
                 .shared = r->shared + fabs(r->known) + j->contract->underflow};
    share(j, r->inputs, &e);
    return e;
}

/* The same of a pipeline that rounds each element of the state where it is read. */
static fh1_err rounded_sum_of(const gauge_job *j, const ref_grid *k, const double *lane, const double *in_row,
                              const reading *r)
{
    const int64_t Nv = j->Nv;
    fh1_err y = sum_of(j, r);
    for (int64_t n = 0; n < j->a->N; ++n) {
        const fh1_err none = {0}, e = {lane[WORST * Nv + n], 0, 0};
        const double at = lane[VALUE * Nv + n];
        fh1_err read = ref_err_grid(k, none, fabs(at) + e.worst);
        y = fh1_err_add(y, fh1_err_scale(read, in_row[ROW_C * Nv + n]));
        y.worst += read.worst * in_row[C_WORST * Nv + n];
    }
    return y;
}

/* y = R(Q(Σ) + D x), any order: D x may be in each partial sum. */
static fh1_err output(const gauge_job *j, const double *lane, const double *in_row, const reading *r, double Dx)
{
    const fh1_profile *c = j->contract;
    const int64_t d = j->a->N + j->levels;
    if (j->read == FH1_ROUND_NONE) {
        fh1_err e = fh1_err_sum(sum_of(j, r), c, d, fabs(Dx));
        e = fh1_err_round(e, c, FH1_ROUND_NONE, Dx);
        return fh1_err_round(e, c, j->out, r->y + Dx);
    }
    const ref_grid k = ref_grid_of(c, j->read);
    fh1_err e = fh1_err_sum(rounded_sum_of(j, &k, lane, in_row, r), c, j->a->N, r->abs_y);
    e = fh1_err_round(e, c, j->read, r->y);
    e = fh1_err_round(e, c, j->out, Dx);
    return fh1_err_round(e, c, j->out, r->y + Dx);
}

/* ---- a channel ---- */

static channel open_channel(const gauge_job *j, int64_t i, int thread)
{
    const REF(ref_selective_args) *a = j->a;
    const int64_t Nv = j->Nv, T = a->T;
    channel k = {.lane = j->scratch + thread * j->per_thread};
    k.rate = k.lane + N_LANES * Nv;
    k.memory = k.rate + Nv;
    k.l = k.memory + Nv;
    k.decay = k.l + Nv;
    k.dt = k.decay + Nv;
    k.same = k.dt + T;
    k.sorted = k.same + T;
    double mean = 0;
    for (int64_t t = 0; t < T; ++t) {
        const double dt = fabs(a->dt[t * a->I + i]);
        k.dt[t] = isfinite(dt) ? dt : 0; /* the truth is no number there either */
        mean += k.dt[t] / (double)T;
    }
    ref_count_same(T, k.dt, k.sorted, k.same);
    memset(k.lane, 0, (size_t)((N_LANES + 2) * Nv) * sizeof *k.lane); /* and rate, memory */
    for (int64_t n = 0; n < a->N; ++n) {
        const int64_t at = i * a->N + n;
        const double s = a->state[at];
        k.rate[n] = fmin(exp(fh1_get(a->A_log, at)), 0x1p60);
        /* (Σ aⁱ)² / Σ a²ⁱ, about: two horizons; all tokens without decay */
        k.memory[n] = fmin(1, 2 / -expm1(-mean * k.rate[n]) / (double)T);
        k.lane[VALUE * Nv + n] = s;
        k.lane[SQUARES * Nv + n] = s * s;
        k.lane[MAGNITUDE * Nv + n] = fabs(s);
        if (!j->g_state) continue;
        k.lane[WORST * Nv + n] = j->g_state->worst[at];
        k.lane[VARIANCE * Nv + n] = j->g_state->variance[at];
        k.lane[SHARED * Nv + n] = j->g_state->shared[at];
    }
    return k;
}

static void store_state(const gauge_job *j, const channel *k, int64_t i)
{
    const int64_t Nv = j->Nv;
    for (int64_t n = 0; n < j->a->N; ++n) {
        const double shared = k->lane[SHARED * Nv + n] + fabs(k->lane[KNOWN * Nv + n]);
        fh1_err e = {k->lane[WORST * Nv + n], k->lane[VARIANCE * Nv + n], shared};
        share(j, k->lane[OF_B * Nv + n], &e);
        fh1_gauge_set(j->g_state, i * j->a->N + n, e);
    }
}

/* l of a row; beyond 10⁴ a decay is 0 in any arithmetic. */
static void exponents(const gauge_job *j, const channel *k, double dt)
{
    for (int64_t n = 0; n < j->Nv; ++n) {
        k->l[n] = fmin(dt * k->rate[n], 1e4);
        k->decay[n] = exp(-k->l[n]);
    }
}

static void scan_channel(const gauge_job *j, int64_t i, int thread)
{
    const REF(ref_selective_args) *a = j->a;
    const channel k = open_channel(j, i, thread);
    const double D = fh1_get(a->D, i);
    int64_t doc = a->state_doc;
    for (int64_t t = 0; t < a->T; ++t) {
        const double x = a->x[t * a->ldx + i], *in_row = j->rows + t * N_ROWS * j->Nv;
        const weights w = token_weights(j, k.same[t]);
        reading r;
        const double reset = REF(ref_reset_at)(a->doc, a->state_doc, t, a->reset);
        if (a->doc && a->doc[t] != doc) {
            if (!(reset < 0)) memset(k.lane, 0, (size_t)(N_LANES * j->Nv) * sizeof *k.lane);
            doc = a->doc[t];
        }
        exponents(j, &k, k.dt[t]);
        for (int64_t n = 0; reset < 0 && n < j->Nv; ++n) k.l[n] = -reset, k.decay[n] = exp(reset);
        advance_row(j->Nv, &w, j->contract->underflow, a->dt[t * a->I + i] * x, in_row, &k, &r);
        if (j->g) fh1_gauge_set(j->g, t * a->I + i, output(j, k.lane, in_row, &r, D * x));
    }
    if (j->g_state) store_state(j, &k, i);
}

static void channels(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const gauge_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) scan_channel(j, i, thread);
}

/* ---- the whole ---- */

static void put_row(const gauge_job *j, const double *from, double *row)
{
    if (from) memcpy(row, from, (size_t)j->a->N * sizeof *row);
}

/* R(v) - v of a norm without a weight, as ref_rmsnorm_gauge takes it. */
static void put_rounding(const gauge_job *j, const double *from, double *row)
{
    const fh1_round inner = j->contract->at[FH1_RP_NORM_INNER];
    const fh1_round r = inner == FH1_ROUND_NONE ? j->contract->at[FH1_RP_NORM] : inner;
    if (r == FH1_ROUND_NONE || r == FH1_ROUND_F32) return;
    for (int64_t n = 0; n < j->a->N; ++n) row[n] = fh1_round_f64(r, from[n]) - from[n];
}

/* B, C and what they may be off by, zeros behind N. */
static void gather(const gauge_job *j, const fh1_gauge *g_B, const fh1_gauge *g_C)
{
    const REF(ref_selective_args) *a = j->a;
    const int64_t Nv = j->Nv;
    memset(j->rows, 0, (size_t)(a->T * N_ROWS * Nv) * sizeof *j->rows);
    for (int64_t t = 0; t < a->T; ++t) {
        double *row = j->rows + t * N_ROWS * Nv;
        put_row(j, a->B + t * a->ldb, row + ROW_B * Nv);
        put_row(j, a->C + t * a->ldc, row + ROW_C * Nv);
        for (int part = 0; part < 2; ++part) {
            const fh1_gauge *g = part ? g_C : g_B;
            const int64_t at = t * a->N;
            double *of = row + (part ? ROW_C : ROW_B) * Nv;
            if (!g) continue;
            put_rounding(j, part ? a->C + t * a->ldc : a->B + t * a->ldb, of + (B_KNOWN - ROW_B) * Nv);
            put_row(j, g->worst + at, of + (B_WORST - ROW_B) * Nv);
            put_row(j, g->variance + at, of + (B_VARIANCE - ROW_B) * Nv);
            put_row(j, g->shared + at, of + (B_SHARED - ROW_B) * Nv);
        }
    }
}

static fh1_status gauge(const fh1_profile *contract, const REF(ref_selective_args) * a, fh1_round read, fh1_round out,
                        const fh1_gauge *g_B, const fh1_gauge *g_C, const fh1_gauge *g_state, const fh1_gauge *g)
{
    if (a->T == 0) return NULL;
    gauge_job j = {.contract = contract, .a = a, .read = read, .out = out, .g_state = g_state, .g = g};
    j.Nv = ref_whole_vectors(a->N);
    for (int64_t n = 1; n < a->T && contract->chunk != 1; n *= 2) j.levels += 2; /* up and down again */
    j.of_inputs = g_B || g_C ? fh1_gauge_sigmas(2 * a->T * a->N) : 0;
    j.per_thread = (N_LANES + 4) * j.Nv + 3 * a->T;
    const size_t rows = (size_t)(a->T * N_ROWS * j.Nv), bytes = (rows + (size_t)(fh1_threads() * j.per_thread)) * 8;
    if (!(j.rows = malloc(bytes))) return fh1_no_memory(bytes, "the gauge of a scan");
    j.scratch = j.rows + rows;
    gather(&j, g_B, g_C);
    fh1_parallel_for(a->I, 4, channels, &j);
    free(j.rows);
    return NULL;
}

fh1_status ref_selective_scan_gauge(const fh1_profile *contract, const REF(ref_selective_args) * a,
                                    const fh1_gauge *g_B, const fh1_gauge *g_C, const fh1_gauge *g_state,
                                    const fh1_gauge *g)
{
    return gauge(contract, a, contract->at[FH1_RP_SCAN_READ], contract->at[FH1_RP_SSD], g_B, g_C, g_state, g);
}

fh1_status ref_selective_step_gauge(const fh1_profile *contract, const REF(ref_selective_args) * a,
                                    const fh1_gauge *g_B, const fh1_gauge *g_C, const fh1_gauge *g_state,
                                    const fh1_gauge *g)
{
    const fh1_round r = contract->at[FH1_RP_STEP];
    assert(a->T == 1);
    if (r == FH1_ROUND_NONE) return ref_selective_scan_gauge(contract, a, g_B, g_C, g_state, g);
    return gauge(contract, a, r, r, g_B, g_C, g_state, g);
}
