#include "reference/attention_op_gauge.h"

#include "oracle/clones.h"
#include "oracle/thread.h"
#include "reference/gauge_parts.h"

#include <stdlib.h>
#include <string.h>

/* One visible key of one query. */
typedef struct {
    double tie;            /* the score as the contract rounds it: equal scores make equal errors */
    int64_t at;            /* which key */
    double score;          /* scaled */
    double log_p, p;       /* softmax */
    fh1_err weight;        /* error of exp(score - max): relative, then absolute and over the smallest possible sum */
    fh1_err rounded;       /* absolute: the quotient, and the rounding of p */
    double before, behind; /* how far the score is above all before it, behind it; negative: it is not */
} key_weight;

/* Running sums over the keys in their order, [A] each: of weight errors δ with out, and of roundings ρ of the weights.
 */
typedef struct {
    double *worst, *variance, *bias;      /* Σ E(δ)·|v - out|, Σ (σ(δ)·(v - out))², Σ mean(δ)·|v - out| */
    double *round_worst, *round_variance; /* Σ E(ρ)·|v|, Σ V(ρ)·v² */
    double *low, *high;                   /* smallest and largest v */
    double *abs_sum, *scaled, *moved;     /* Σ p·|v|, Σ p·score·(v - out), Σ p·(v - out) */
    double *tie, *round_tie;              /* of the keys that tie: Σ σ(δ)·(v - out), Σ σ(ρ)·v */
} sums;

enum { N_SUMS = sizeof(sums) / sizeof(double *) };

typedef struct {
    const fh1_profile *contract;
    const ref_attention_gauge_args *a;
    double scale, scale_err, sigmas;
    bool any_form; /* an online softmax, in powers of 2, merged from parts: all are honest */
    const fh1_gauge *g;
    key_weight *keys; /* [threads, S] */
    double *scratch;  /* [threads, N_SUMS, A] */
} attention_gauge_job;

static int by_tie(const void *x, const void *y)
{
    const double a = ((const key_weight *)x)->tie, b = ((const key_weight *)y)->tie;
    return (a > b) - (a < b);
}

/* Scores with their errors: a sum of A products, R, the factor (its own error is common to all keys and handled
 * apart), R. Returns the largest. */
static double scores(const attention_gauge_job *j, const double *q, const double *k, int64_t n, key_weight *w)
{
    const fh1_profile *c = j->contract;
    const int64_t A = j->a->A;
    const fh1_round r = c->at[FH1_RP_SCORE], arithmetic = c->u > 0x1p-53 ? FH1_ROUND_F32 : FH1_ROUND_NONE;
    double max = -(double)INFINITY;
    for (int64_t i = 0; i < n; ++i) {
        double s = 0, abs_sum = 0;
        for (int64_t d = 0; d < A; ++d) {
            s += q[d] * k[i * A + d];
            abs_sum += fabs(q[d] * k[i * A + d]);
        }
        fh1_err e = fh1_err_round(fh1_err_sum((fh1_err){0}, c, A, abs_sum), c, r, s);
        e = fh1_err_round(fh1_err_scale(e, j->scale), c, r, s * j->scale);
        w[i] = (key_weight){.at = i, .score = s * j->scale, .weight = e};
        w[i].tie = fh1_round_f64(r == FH1_ROUND_NONE ? arithmetic : r, w[i].score);
        max = fmax(max, w[i].score);
    }
    return max;
}

/* log Σ exp(x_i), x_i = log p - E: the smallest that the sum can have become, in shares of the true one. */
static double log_least(int64_t n, const key_weight *w)
{
    double max = -(double)INFINITY, sum = 0;
    for (int64_t i = 0; i < n; ++i) max = fmax(max, w[i].log_p - w[i].weight.worst);
    for (int64_t i = 0; i < n; ++i) sum += exp(w[i].log_p - w[i].weight.worst - max);
    return max + log(sum);
}

/* δ as it moves a weight: p·(e^δ - 1) over the smallest sum. |e^δ - 1| <= expm1(E), its deviation is at most σ·e^E, and
 * its mean, the same for every run, at most V/2·e^E. Scores in 16 bits may be off by far more than 1: any weight is
 * possible then, and the exponent only has to stay finite. */
static void move_weight(key_weight *w, double least)
{
    const double E = w->weight.worst, V = w->weight.variance, large = 100;
    const double most = exp(fmin(w->log_p + E - least, large)), mean = fmin(V / 2, 1) * most;
    w->weight = (fh1_err){-expm1(-E) * most, V * most * most, mean};
}

/* Weights and the errors of both their steps. score - max rounds, once more where it is turned into a power of two; exp
 * has its units. What is common to all keys, as an error of the maximum, cancels in the quotient. Returns the logarithm
 * of the smallest sum. */
static double weigh(const attention_gauge_job *j, int64_t n, double max, key_weight *w)
{
    const fh1_profile *c = j->contract;
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += exp(w[i].score - max);
    for (int64_t i = 0; i < n; ++i) {
        const double argument = c->u * (max - w[i].score);
        w[i].log_p = w[i].score - max - log(sum);
        w[i].p = exp(w[i].log_p);
        w[i].weight = fh1_err_half(fh1_err_half(w[i].weight, argument), argument);
        w[i].weight = fh1_err_half(w[i].weight, c->exp_units * c->u);
        if (j->any_form) w[i].weight = fh1_err_half(w[i].weight, c->exp_units * c->u); /* of the part it is in */
    }
    const double least = log_least(n, w), below_1 = nextafter(1, 0); /* 1 itself is exact */
    const double tile = ref_half_ulp_of_1(c->at[FH1_RP_PROB_TILE]);
    for (int64_t i = 0; i < n; ++i) {
        const double most = fmin(exp(w[i].log_p + w[i].weight.worst - least), below_1);
        w[i].rounded = fh1_err_round((fh1_err){0}, c, c->at[FH1_RP_PROB], most);
        /* before it is normalised, and so in a binade that is not known: relative */
        w[i].rounded = fh1_err_half(w[i].rounded, tile * most);
        move_weight(&w[i], least);
    }
    return least;
}

/* How often the maximum rises, read forwards or backwards. */
static int64_t find_rises(int64_t n, key_weight *w)
{
    double before = w[0].score, behind = w[n - 1].score;
    int64_t forwards = 0, backwards = 0;
    w[0].before = w[n - 1].behind = -1;
    for (int64_t i = 1; i < n; ++i) {
        const int64_t k = n - 1 - i;
        w[i].before = w[i].score - before;
        w[k].behind = w[k].score - behind;
        before = fmax(before, w[i].score);
        behind = fmax(behind, w[k].score);
        forwards += w[i].before > 0;
        backwards += w[k].behind > 0;
    }
    return forwards > backwards ? forwards : backwards;
}

FH1_CLONES static void add_key(int64_t A, const key_weight *w, const double *v, const double *out, const sums *s)
{
    const double ps = w->p * w->score;
    for (int64_t d = 0; d < A; ++d) {
        const double off = v[d] - out[d], size = fabs(v[d]);
        s->worst[d] += w->weight.worst * fabs(off);
        s->variance[d] += w->weight.variance * off * off;
        s->bias[d] += w->weight.shared * fabs(off);
        s->round_worst[d] += w->rounded.worst * size;
        s->round_variance[d] += w->rounded.variance * size * size;
        s->abs_sum[d] += w->p * size;
        s->scaled[d] += ps * off;
        s->moved[d] += w->p * off;
        s->low[d] = v[d] < s->low[d] ? v[d] : s->low[d];
        s->high[d] = v[d] > s->high[d] ? v[d] : s->high[d];
    }
}

/* An online softmax scales all it has summed by an exp when the maximum rises: one error for the keys so far. For those
 * behind, of an engine that reads backwards, the sum is the same but for its sign, as Σ p·(v - out) = 0. */
static void add_rise(const attention_gauge_job *j, double rise, double least, const sums *s)
{
    const fh1_profile *c = j->contract;
    if (!j->any_form || !(rise > 0)) return;
    const double half = c->u * (ref_exp_units(c, rise) + rise + 1) * exp(fmin(-least, 100));
    for (int64_t d = 0; d < j->a->A; ++d) {
        const double moved = half * fabs(s->moved[d]);
        s->worst[d] += moved;
        s->variance[d] += moved * moved / 3;
    }
}

/* Keys whose scores tie round alike: their errors add up before they are squared. */
static void add_ties(int64_t A, const key_weight *w, int64_t n, const double *v, const double *out, const sums *s)
{
    memset(s->tie, 0, (size_t)A * sizeof(double));
    memset(s->round_tie, 0, (size_t)A * sizeof(double));
    for (int64_t i = 0; i < n; ++i) {
        const double by_weight = sqrt(w[i].weight.variance), by_round = sqrt(w[i].rounded.variance);
        const double *vi = v + w[i].at * A;
        for (int64_t d = 0; d < A; ++d) {
            s->tie[d] += by_weight * (vi[d] - out[d]);
            s->round_tie[d] += by_round * vi[d];
        }
    }
    for (int64_t d = 0; d < A; ++d) {
        s->variance[d] += s->tie[d] * s->tie[d];
        s->round_variance[d] += s->round_tie[d] * s->round_tie[d];
    }
}

/* Element d: the weights move it within the range of the values it averages. n: terms of its sum. */
static fh1_err element(const attention_gauge_job *j, int64_t n, const sums *s, int64_t d, double out)
{
    const fh1_profile *c = j->contract;
    const double reach = fmax(s->high[d] - out, out - s->low[d]), scale = fabs(s->scaled[d]) * j->scale_err;
    fh1_err e = {fmin(s->worst[d] + scale, reach), fmin(s->variance[d], reach * reach),
                 fmin(s->bias[d] + scale, reach)};
    e.worst += s->round_worst[d];
    e.variance += s->round_variance[d];
    const fh1_err total = fh1_err_sum((fh1_err){0}, c, n, fabs(out)); /* Σ exp: one relative error for the row */
    e.worst += total.worst;
    e.shared += fmin(total.worst, j->sigmas * sqrt(total.variance));
    e = fh1_err_sum(e, c, n, s->abs_sum[d] + e.worst);
    e.shared += fh1_err_cut(c, (double)n, out);
    return fh1_err_round(e, c, c->at[FH1_RP_CONTEXT], out);
}

static void one_query(const attention_gauge_job *j, int64_t t, int64_t h, key_weight *w, const sums *s)
{
    const ref_attention_gauge_args *a = j->a;
    const int64_t A = a->A, first = a->first[t], n = a->S - a->T + t + 1 - first, at = (t * a->Hq + h) * A;
    const int64_t kv = (h / (a->Hq / a->Hkv) * a->ld_kv + first) * A;
    const double *v = a->v + kv, *out = a->out + at;
    if (n == 1) { /* the weight is 1 exactly */
        for (int64_t d = 0; d < A; ++d)
            fh1_gauge_set(j->g, at + d,
                          fh1_err_round((fh1_err){0}, j->contract, j->contract->at[FH1_RP_CONTEXT], out[d]));
        return;
    }
    const double least = weigh(j, n, scores(j, a->q + at, a->k + kv, n, w), w);
    const int64_t rises = j->any_form ? find_rises(n, w) : 0;
    memset(s->worst, 0, (size_t)(N_SUMS * A) * sizeof(double));
    memcpy(s->low, v, (size_t)A * sizeof(double));
    memcpy(s->high, v, (size_t)A * sizeof(double));
    for (int64_t i = 0; i < n; ++i) {
        add_rise(j, w[i].before, least, s);
        add_key(A, &w[i], v + i * A, out, s);
        add_rise(j, w[i].behind, least, s);
    }
    qsort(w, (size_t)n, sizeof *w, by_tie);
    for (int64_t i0 = 0, i1; i0 < n; i0 = i1) {
        for (i1 = i0 + 1; i1 < n && !(w[i1].tie > w[i0].tie); ++i1) continue;
        if (i1 > i0 + 1) add_ties(A, w + i0, i1 - i0, v, out, s);
    }
    for (int64_t d = 0; d < A; ++d) fh1_gauge_set(j->g, at + d, element(j, n + rises, s, d, out[d]));
}

static void queries(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const attention_gauge_job *j = ctx;
    const int64_t A = j->a->A;
    double *b = j->scratch + thread * N_SUMS * A;
    const sums s = {b,         b + A,     b + 2 * A, b + 3 * A, b + 4 * A,  b + 5 * A,
                    b + 6 * A, b + 7 * A, b + 8 * A, b + 9 * A, b + 10 * A, b + 11 * A};
    for (int64_t i = i0; i < i1; ++i) one_query(j, i % j->a->T, i / j->a->T, j->keys + thread * j->a->S, &s);
}

fh1_status ref_attention_op_gauge(const fh1_profile *contract, const ref_attention_gauge_args *a, const fh1_gauge *g)
{
    if (a->T == 0) return NULL;
    const size_t n_keys = (size_t)fh1_threads() * (size_t)a->S, n_sums = (size_t)fh1_threads() * N_SUMS * (size_t)a->A;
    const size_t bytes = n_keys * sizeof(key_weight) + n_sums * sizeof(double);
    key_weight *keys = malloc(bytes);
    if (!keys) return fh1_no_memory(bytes, "the gauge of attention");
    const double scale = 1 / sqrt((double)a->A);
    attention_gauge_job j = {.contract = contract,
                             .a = a,
                             .scale = scale,
                             /* A^-1/2 is one rounded number; times log₂e, two more roundings */
                             .scale_err = contract->u * (contract->any_form ? 3 : 1),
                             .any_form = contract->any_form,
                             .sigmas = fh1_gauge_sigmas(a->T * a->Hq),
                             .g = g,
                             .keys = keys,
                             .scratch = (double *)(keys + n_keys)};
    fh1_parallel_for(a->T * a->Hq, 16, queries, &j);
    free(keys);
    return NULL;
}
