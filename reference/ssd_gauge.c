/* All errors are relative to u or to the value; letters as in docs/numerics.md: l = |Δ·A|, a = exp(-l), W = the largest
 * sum of l that a chunk can have reached at a token. */
#include "reference/ssd_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_grid.h"
#include "reference/gauge_parts.h"
#include "reference/lanes.h"
#include "reference/scan_faults.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What is carried per element of the state, N4 = N rounded up to whole vectors, one after another per row. */
enum {
    VALUE,     /* h */
    SQUARES,   /* Σ of the squared inputs, decayed: what |h|² is where inputs have nothing to do with each other */
    MAGNITUDE, /* Σ of the absolute inputs, decayed */
    WORST,
    VARIANCE,
    SHARED,
    N_LANES
};

/* One token of one head: factors of the recurrences below. */
typedef struct {
    double a;                         /* decay */
    double variance, worst, shared;   /* relative error of the decayed state */
    double in_variance, in_worst;     /* relative error of an input as it enters */
    double read_variance, read_worst; /* relative error of the sums that make an output */
    double tile_variance;             /* of an operand of a product in two parts */
    double cut;                       /* what such sums lose per token on average, of the state */
    double u, sum_variance, tiny;
} weights;

typedef struct {
    const fh1_profile *contract;
    const REF(ref_ssd_args) * a;
    const double *pad_dt; /* [H]; NULL: no padding */
    int64_t columns, N4;
    double tile; /* what an operand in two parts is off by, relative; 0: f32 as it is */
    const fh1_gauge *g_state, *g;
    double *scratch;  /* per thread: the lanes of a row [N_LANES, N4], B, C [N4], then l, same, sorted [T] */
    weights *weights; /* per thread [T] */
    int64_t per_thread;
} gauge_job;

int64_t ref_ssd_columns(const fh1_profile *contract, int64_t columns, int64_t Q)
{
    const int64_t longest = contract->chunk > Q ? contract->chunk : Q;
    return columns < longest ? columns : longest;
}

/* An error x of an exponent as a relative one of its exponential; large ones stay finite. */
static double grown(double x)
{
    return x < 0x1p-20 ? x : expm1(fmin(x, 64));
}

/* ---- exponents ---- */

/* l of every token of the head (0 where it is no number: the truth is none there either); returns the largest. */
static double exponents(const gauge_job *j, int64_t h, double *l, double *mean)
{
    const double A = exp(fh1_get(j->a->A_log, h));
    double most = 0, sum = 0;
    for (int64_t t = 0; t < j->a->T; ++t) {
        l[t] = fabs(j->a->dt[t * j->a->H + h] * A);
        if (!isfinite(l[t])) l[t] = 0;
        most = fmax(most, l[t]);
        sum += l[t];
    }
    *mean = sum / (double)j->a->T;
    return most;
}

/* ---- factors of a token ---- */

/* same: tokens of the call with this l; memory: tokens of the call that the state still holds. The error of a decay is
 * one for all P·N elements of a head, so an RMS over them averages nothing: its bound stands in for its deviation. */
static weights token_weights(const gauge_job *j, double l, double W, double same, double memory)
{
    const fh1_profile *c = j->contract;
    const double u = c->u, exps = c->exp_units, third = u * u / 3, T = (double)j->a->T;
    const double sums = j->columns > 1 ? grown(u * W) : 0, d = (double)(j->a->N + j->columns);
    const double of_A = ref_exp_units(c, l) - exps + exps * l; /* A is an exp itself; l may be turned to base 2 */
    weights w = {.a = exp(-l), .u = u, .sum_variance = third, .tiny = c->underflow};
    w.worst = (exps + of_A + l + 1) * u + sums;
    w.shared = of_A * u; /* one for the head and all its tokens */
    w.variance = third;
    if (same * 16 > T) w.shared += (exps + l + 2) * u + sums; /* each step rounds as the others do */
    else w.variance += (1 + (same - 1) * fmin(1, memory / T)) * u * u * (exps * exps + l * l) + sums * sums;
    const double once = j->columns > 1 ? exps : 0; /* a chunk takes one more exp per input and per output */
    /* transformers spreads the Δ of a one-token call over the head before softplus, whose vector lanes and scalar tail
     * differ: only lane 0 is recorded (measured: 4.2 u of an input with three roundings). */
    const double lane = T == 1 ? exps : 0, times = c->any_form ? 3 : 2; /* in base 2, once more */
    w.worst += lane * l * u;
    w.in_worst = (3 + once + lane) * u + times * sums;
    w.in_variance = third * (3 + once * once + lane * lane) + (times + 2) / 3 * sums * sums;
    w.read_worst = (d + 1 + once) * u + times * sums;
    const double parts = j->tile * j->tile / 3, repeats = 1 + (same - 1) * fmin(1, memory / T);
    w.in_worst += j->tile;
    w.in_variance += parts * repeats; /* tokens alike, at the same places of their chunks, are split alike */
    w.read_worst += j->tile;
    w.tile_variance = parts;
    w.cut = j->tile > 0 ? fh1_err_cut(c, 2, 1) : 0;
    w.read_variance = third * (d / 2 + once * once) + (times + 2) / 3 * sums * sums;
    return w;
}

/* ---- the recurrences ---- */

/* Sums over a row of the state with the weights C. */
typedef struct {
    double y, abs_y, square, squares, magnitude, worst, variance, shared;
    double whole; /* Σ C² · Σ Q: what the squares of Σ C·in over all inputs come to at most */
} reading;

/* One row of the state over one token, xb = Δ·x. Per element, with `in` = xb·B:
 *   h'    = a h + in,   Q' = a² Q + in²,   M' = a M + |in|
 *   V'    = a² (V + w.variance h²) + sum_variance (h'² + Q') + w.in_variance in²
 *   S'    = a (S + w.shared |h|)  and E' = a (E + w.worst M) + u M' + w.in_worst |in|, both + tiny (M + 1) */
FH1_CLONES static void advance_row(int64_t N4, const weights *w, double xb, const double *B, const double *C,
                                   double *row, reading *out)
{
    ref_vec y = {0}, abs_y = {0}, square = {0}, squares = {0}, magnitude = {0}, worst = {0}, variance = {0},
            shared = {0}, all_c = {0}, all_q = {0};
    const double a2 = w->a * w->a, decayed_variance = a2 * w->variance, decayed_worst = w->a * w->worst + w->tiny;
    const double decayed_shared = w->a * w->shared;
    for (int64_t n = 0; n < N4; n += REF_VEC_LEN) {
        double *lane = row + n;
        const ref_vec c = ref_load(C + n), in = xb * ref_load(B + n), abs_in = ref_vec_abs(in), in2 = in * in;
        const ref_vec h = ref_load(lane + VALUE * N4), m = ref_load(lane + MAGNITUDE * N4);
        const ref_vec h1 = w->a * h + in, m1 = w->a * m + abs_in;
        const ref_vec q1 = a2 * ref_load(lane + SQUARES * N4) + in2;
        const ref_vec v1 = a2 * ref_load(lane + VARIANCE * N4) + decayed_variance * (h * h) +
                           w->sum_variance * (h1 * h1 + q1) + w->in_variance * in2;
        ref_vec s1 = w->a * ref_load(lane + SHARED * N4) + decayed_shared * ref_vec_abs(h) + w->tiny * m + w->tiny;
        ref_vec e1 =
            w->a * ref_load(lane + WORST * N4) + decayed_worst * m + w->u * m1 + w->in_worst * abs_in + w->tiny;
        if (w->cut > 0) {
            s1 += w->cut * ref_vec_abs(h1);
            e1 += w->cut * ref_vec_abs(h1);
        }
        *(ref_vec_mem *)(lane + VALUE * N4) = h1;
        *(ref_vec_mem *)(lane + SQUARES * N4) = q1;
        *(ref_vec_mem *)(lane + MAGNITUDE * N4) = m1;
        *(ref_vec_mem *)(lane + VARIANCE * N4) = v1;
        *(ref_vec_mem *)(lane + SHARED * N4) = s1;
        *(ref_vec_mem *)(lane + WORST * N4) = e1;
        const ref_vec ch = c * h1, c2 = c * c, abs_c = ref_vec_abs(c);
        y += ch;
        abs_y += ref_vec_abs(ch);
        square += ch * ch;
        squares += c2 * q1;
        variance += c2 * v1;
        magnitude += abs_c * m1;
        shared += abs_c * s1;
        worst += abs_c * e1;
        all_c += c2;
        all_q += q1;
    }
    *out = (reading){ref_vec_total(y),        ref_vec_total(abs_y),     ref_vec_total(square),
                     ref_vec_total(squares),  ref_vec_total(magnitude), ref_vec_total(worst),
                     ref_vec_total(variance), ref_vec_total(shared),    ref_vec_total(all_c) * ref_vec_total(all_q)};
}

/* y = Σ C h + D x, in any order: D x may be in each of the d partial sums. Errors of decays are common to the lanes of
 * a head: where the terms C h add up rather than cancel, so do they. In two parts: the state that is read, or the
 * weight of each token, one error for all of Σ C·in. */
static fh1_err output(const gauge_job *j, const weights *w, const reading *r, double Dx)
{
    const double aligned = r->square > 0 ? fmax(1, r->y * r->y / r->square) : 1;
    const double likely = r->y * r->y + r->square + r->squares;
    fh1_err e = {.worst = r->worst + w->read_worst * r->magnitude + w->tiny,
                 .variance = aligned * r->variance + w->read_variance * likely + w->sum_variance * r->abs_y * r->abs_y,
                 .shared = r->shared + w->tiny};
    if (j->tile > 0) e.variance += w->tile_variance * (r->square + r->whole);
    e = fh1_err_sum(e, j->contract, j->a->N + j->columns, fabs(Dx));
    e = fh1_err_round(e, j->contract, FH1_ROUND_NONE, Dx);
    return fh1_err_round(e, j->contract, j->contract->at[FH1_RP_SSD], r->y + Dx);
}

/* Lanes of row i of head h from the incoming state, or to g_state. */
static void load_row(const gauge_job *j, int64_t at, double *row)
{
    const int64_t N4 = j->N4;
    memset(row, 0, (size_t)(N_LANES * N4) * sizeof *row);
    for (int64_t n = 0; n < j->a->N; ++n) {
        const double s = j->a->state[at + n];
        row[VALUE * N4 + n] = s;
        row[SQUARES * N4 + n] = s * s;
        row[MAGNITUDE * N4 + n] = fabs(s);
        if (!j->g_state) continue;
        row[WORST * N4 + n] = j->g_state->worst[at + n];
        row[VARIANCE * N4 + n] = j->g_state->variance[at + n];
        row[SHARED * N4 + n] = j->g_state->shared[at + n];
    }
}

static void store_row(const gauge_job *j, const double *row, int64_t at)
{
    const size_t bytes = (size_t)j->a->N * sizeof *row;
    memcpy(j->g_state->worst + at, row + WORST * j->N4, bytes);
    memcpy(j->g_state->variance + at, row + VARIANCE * j->N4, bytes);
    memcpy(j->g_state->shared + at, row + SHARED * j->N4, bytes);
}

/* With a reset every document begins with its l, which counts in the sums of a chunk: a kernel need not know that
 * nothing lies before the first one. */
static void reset_documents(const REF(ref_ssd_args) * a, double *l)
{
    for (int64_t t = 0; a->reset < 0 && a->doc && t < a->T; ++t)
        if (a->doc[t] != (t > 0 ? a->doc[t - 1] : a->state_doc)) l[t] = -a->reset;
}

/* The factors of all tokens of head h. */
static void head_weights(const gauge_job *j, int64_t h, double *scratch, weights *w)
{
    const int64_t T = j->a->T;
    double *l = scratch, *same = l + T, mean, window = 0;
    double most = exponents(j, h, l, &mean);
    if (j->pad_dt) most = fmax(most, j->pad_dt[h] * exp(fh1_get(j->a->A_log, h)));
    const double memory = 2 / -expm1(-mean); /* (Σ aⁱ)² / Σ a²ⁱ, about: two horizons; infinite without decay */
    reset_documents(j->a, l);
    ref_count_same(T, l, same + T, same);
    for (int64_t t = 0; t < T; ++t) {
        /* a chunk that ends here began at most `columns` ago; columns before the call may be padding with its Δ */
        window += l[t] - (t >= j->columns ? l[t - j->columns] : 0);
        const int64_t before = j->columns - 1 - t;
        w[t] = token_weights(j, l[t], fmax(window, 0) + (before > 0 ? (double)before * most : 0), same[t], memory);
    }
}

/* N numbers as whole vectors. */
static const double *whole(const gauge_job *j, const double *v, double *padded)
{
    return j->N4 == j->a->N ? v : memcpy(padded, v, (size_t)j->a->N * sizeof *v);
}

/* Row i of head h over all tokens: what is carried stays in the first cache. */
static void scan_row(const gauge_job *j, int64_t h, int64_t i, const weights *w, double *row)
{
    const REF(ref_ssd_args) *a = j->a;
    const int64_t P = a->P, N = a->N, d = a->H * P, group = h / (a->H / a->G), at = (h * P + i) * N;
    double *B = row + N_LANES * j->N4, *C = B + j->N4;
    const double D = fh1_get(a->D, h);
    int64_t doc = a->state_doc;
    load_row(j, at, row);
    for (int64_t t = 0; t < a->T; ++t) {
        const double *token = a->xbc + t * a->ldx, x = token[h * P + i];
        if (a->doc && a->doc[t] != doc) {
            if (!(REF(ref_reset_at)(a->doc, a->state_doc, t, a->reset) < 0))
                memset(row, 0, (size_t)(N_LANES * j->N4) * sizeof *row);
            doc = a->doc[t];
        }
        reading r;
        advance_row(j->N4, &w[t], a->dt[t * a->H + h] * x, whole(j, token + d + group * N, B),
                    whole(j, token + d + (a->G + group) * N, C), row, &r);
        if (j->g) fh1_gauge_set(j->g, t * d + h * P + i, output(j, &w[t], &r, D * x));
    }
    if (j->g_state) store_row(j, row, at);
}

static void heads(void *ctx, int64_t h0, int64_t h1, int thread)
{
    const gauge_job *j = ctx;
    double *row = j->scratch + thread * j->per_thread;
    weights *w = j->weights + thread * j->a->T;
    memset(row, 0, (size_t)((N_LANES + 2) * j->N4) * sizeof *row);
    for (int64_t h = h0; h < h1; ++h) {
        head_weights(j, h, row + (N_LANES + 2) * j->N4, w);
        for (int64_t i = 0; i < j->a->P; ++i) scan_row(j, h, i, w, row);
    }
}

static fh1_status scan_gauge(const fh1_profile *contract, const REF(ref_ssd_args) * a, int64_t columns, double tile,
                             const double *pad_dt, const fh1_gauge *g_state, const fh1_gauge *g)
{
    if (a->T == 0) return NULL;
    gauge_job j = {.contract = contract,
                   .a = a,
                   .pad_dt = pad_dt,
                   .columns = columns > 1 ? columns : 1,
                   .tile = tile,
                   .g_state = g_state,
                   .g = g};
    j.N4 = (a->N + REF_VEC_LEN - 1) / REF_VEC_LEN * REF_VEC_LEN;
    j.per_thread = (N_LANES + 2) * j.N4 + 3 * a->T;
    const size_t threads = (size_t)fh1_threads(), n = threads * (size_t)j.per_thread;
    const size_t bytes = n * sizeof *j.scratch + threads * (size_t)a->T * sizeof *j.weights;
    if (!(j.scratch = malloc(bytes))) return fh1_no_memory(bytes, "the gauge of a scan");
    j.weights = (weights *)(void *)(j.scratch + n);
    fh1_parallel_for(a->H, 1, heads, &j);
    free(j.scratch);
    return NULL;
}

/* In two parts, p bits each: what is left of v after the first is at most 2^-p of its power of two, and below that has
 * half ulps of 2^-p of half as much. */
fh1_status ref_ssd_scan_gauge(const fh1_profile *contract, const REF(ref_ssd_args) * a, int64_t columns,
                              const double *pad_dt, const fh1_gauge *g_state, const fh1_gauge *g)
{
    const double half = ref_half_ulp_of_1(contract->at[FH1_RP_SSD_TILE]);
    return scan_gauge(contract, a, columns, half * half / 2, pad_dt, g_state, g);
}

/* ---- one token ---- */

/* What R(R(Δ B) x) is off by: known bit for bit where the engine rounds as declared and no rounding is close to a tie.
 * Where tokens repeat, so does the error: it is shared by the calls to come, not only by chance. */
REF_INLINE fh1_err step_input(const ref_grid *k, double dB, double x)
{
    fh1_err e = ref_err_grid(k, fh1_err_scale(ref_err_grid(k, (fh1_err){0}, dB), x), dB * x);
    const double first = ref_on_grid(k, dB),
                 known = fabs((first - dB) * x) + fabs(ref_on_grid(k, first * x) - first * x);
    e.shared = known < e.worst ? known : e.worst;
    return e;
}

/* A row of a decode step: S = a S + R(R(Δ B) x), y = Σ R(S) C before its own roundings. A decay of one token cannot be
 * told from one that repeats: its error is shared. *sum: Σ S C. */
static fh1_err step_row(const gauge_job *j, const ref_grid *k, const weights *w, int64_t at, double dt, double x,
                        const double *B, const double *C, bool fresh, double *sum)
{
    fh1_err y = {0};
    double abs_sum = 0;
    *sum = 0;
    for (int64_t n = 0; n < j->a->N; ++n) {
        const double h = fresh ? 0 : w->a * j->a->state[at + n], in = dt * B[n] * x, h1 = h + in;
        fh1_err e = j->g_state && !fresh ? fh1_err_scale(fh1_gauge_at(j->g_state, at + n), w->a) : (fh1_err){0};
        e.worst += w->worst * fabs(h) + w->tiny;
        e.shared += w->shared * fabs(h) + w->tiny;
        e = fh1_err_add(e, step_input(k, dt * B[n], x));
        e = fh1_err_half(e, k->u * (fabs(h1) + e.worst));
        if (j->g_state) fh1_gauge_set(j->g_state, at + n, e);
        y = fh1_err_add(y, fh1_err_scale(ref_err_grid(k, e, h1), C[n]));
        *sum += h1 * C[n];
        abs_sum += fabs(h1 * C[n]);
    }
    return fh1_err_sum(y, j->contract, j->a->N, abs_sum);
}

static void step_heads(void *ctx, int64_t h0, int64_t h1, int thread)
{
    (void)thread;
    const gauge_job *j = ctx;
    const REF(ref_ssd_args) *a = j->a;
    const ref_grid k = ref_grid_of(j->contract, j->contract->at[FH1_RP_STEP]);
    const int64_t P = a->P, N = a->N, d = a->H * P;
    const double reset = REF(ref_reset_at)(a->doc, a->state_doc, 0, a->reset);
    const bool fresh = a->doc && a->doc[0] != a->state_doc && !(reset < 0);
    for (int64_t h = h0; h < h1; ++h) {
        const int64_t group = h / (a->H / a->G);
        const double *x = a->xbc + h * P, *B = a->xbc + d + group * N, *C = a->xbc + d + (a->G + group) * N;
        const double l = reset < 0 ? -reset : fabs(a->dt[h]) * exp(fh1_get(a->A_log, h)), D = fh1_get(a->D, h);
        const weights w = token_weights(j, l, l, 1, 1);
        for (int64_t i = 0; i < P; ++i) {
            double sum;
            fh1_err y = step_row(j, &k, &w, (h * P + i) * N, a->dt[h], x[i], B, C, fresh, &sum);
            y = ref_err_grid(&k, y, sum);
            y = fh1_err_add(y, ref_err_grid(&k, (fh1_err){0}, D * x[i]));
            if (j->g) fh1_gauge_set(j->g, h * P + i, ref_err_grid(&k, y, sum + D * x[i]));
        }
    }
}

fh1_status ref_ssd_step_gauge(const fh1_profile *contract, const REF(ref_ssd_args) * a, const fh1_gauge *g_state,
                              const fh1_gauge *g)
{
    assert(a->T == 1);
    if (contract->at[FH1_RP_STEP] == FH1_ROUND_NONE) return scan_gauge(contract, a, 1, 0, NULL, g_state, g);
    gauge_job j = {.contract = contract, .a = a, .columns = 1, .g_state = g_state, .g = g};
    fh1_parallel_for(a->H, 1, step_heads, &j);
    return NULL;
}
