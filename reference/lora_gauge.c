/* Errors of the low-rank path t = A·x, u = B·t + b, of s·u, and of what DoRA does with it. The derivation stands in
 * docs/numerics.md, "Adapters". */
#include "reference/lora_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"
#include "reference/linear.h"

#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    const fh1_lora *lora;
    int64_t M, N, r;
    const double *t, *t_abs; /* [M,r] A·x and |A|·|x| */
    int64_t t_terms;         /* of the sum that makes t; 0: a column that is read */
    double t_sigmas, f_sigmas;
    const fh1_tensor *bias; /* of the base */
    double *y;              /* [M,N] the value so far, moves on by this adapter */
    const fh1_gauge *g;
    double *row; /* [threads, r] of B */
} lora_job;

typedef struct {
    double v;
    fh1_err e;
} measured;

/* u = Σ B·t + b and its error. What comes from t reaches all outputs of a token through r numbers, so it is shared. One
 * rounding more in each sum: the scale may be multiplied into A, into B or onto t beforehand. */
static measured path(const lora_job *j, const double *B, int64_t m, double b)
{
    const double u = j->contract->u, terms = (double)(j->t_terms > 0 ? j->t_terms + 1 : 0);
    double v = b, all = fabs(b), worst = 0, squares = 0;
    for (int64_t k = 0; k < j->r; ++k) {
        const double t = j->t[m * j->r + k], w = fabs(B[k]) * j->t_abs[m * j->r + k];
        v += B[k] * t;
        all += fabs(B[k] * t);
        worst += w;
        squares += w * w;
    }
    worst *= terms * u;
    const double likely = j->t_sigmas * u * sqrt(terms / 3 * squares);
    const fh1_err from_t = {worst, 0, likely < worst ? likely : worst};
    return (measured){v, fh1_err_sum(from_t, j->contract, j->r + 1 + (b != 0), all)};
}

/* The relative error of f = m / ‖V‖, one number for a channel. */
static fh1_err of_f(const lora_job *j, int64_t n)
{
    const double u = j->contract->u;
    const fh1_err squares = fh1_err_shared(u * (2 * (double)(j->r + 2) * j->lora->f_terms[n] + 2));
    const fh1_err root = ref_err_reciprocal_root(squares, j->contract, j->lora->A.shape[1], 1, 0, j->f_sigmas);
    return fh1_err_add(root, fh1_err_shared(u));
}

/* y + s·u */
static measured plain(const lora_job *j, measured y, measured su)
{
    const measured sum = {y.v + su.v, fh1_err_add(y.e, su.e)};
    return (measured){sum.v, fh1_err_round(sum.e, j->contract, FH1_ROUND_NONE, sum.v)};
}

/* y + ((f-1)·R(y - bias) + f·u·s): the error of y arrives times f, whatever road it takes, and so does that of s·u. */
static measured dora(const lora_job *j, measured y, measured su, int64_t n)
{
    const fh1_profile *c = j->contract;
    const double f = j->lora->f[n], b = j->bias && j->bias->data ? fh1_get(j->bias, n) : 0, base = y.v - b;
    const fh1_err rel = of_f(j, n), zero = {0};
    fh1_err e = fh1_err_add(fh1_err_scale(y.e, f), fh1_err_scale(su.e, f));
    e = fh1_err_add(e, fh1_err_scale(rel, f * (base + su.v)));
    if (b != 0) e = fh1_err_add(e, fh1_err_scale(fh1_err_round(zero, c, c->at[FH1_RP_LINEAR], base), f - 1));
    const double p1 = (f - 1) * base, p2 = f * su.v, v = b + f * (base + su.v);
    e = fh1_err_function(e, c, FH1_ROUND_NONE, 1, p1);            /* f-1 and its product */
    e = fh1_err_function(e, c, FH1_ROUND_NONE, 0, f * y.v);       /* another form scales the base at once */
    e = fh1_err_function(e, c, FH1_ROUND_NONE, 0, p2);            /* f·u */
    e = fh1_err_round(e, c, FH1_ROUND_NONE, fabs(p1) + fabs(p2)); /* their sum */
    return (measured){v, fh1_err_round(e, c, FH1_ROUND_NONE, v)};
}

static void channels(void *ctx, int64_t n0, int64_t n1, int thread)
{
    const lora_job *j = ctx;
    const fh1_lora *l = j->lora;
    double *B = j->row + thread * j->r;
    for (int64_t n = n0; n < n1; ++n) {
        for (int64_t k = 0; k < j->r; ++k) B[k] = fh1_get(&l->B, n * j->r + k);
        const double b = l->bias.data ? fh1_get(&l->bias, n) : 0;
        for (int64_t m = 0; m < j->M; ++m) {
            const int64_t i = m * j->N + n;
            const measured u = path(j, B, m, b), y = {j->y[i], fh1_gauge_at(j->g, i)};
            const measured su = {u.v * l->scale, ref_err_multiply(u.e, j->contract, FH1_ROUND_NONE, u.v, l->scale)};
            const measured sum = l->f ? dora(j, y, su, n) : plain(j, y, su);
            j->y[i] = sum.v;
            fh1_gauge_set(j->g, i, sum.e);
        }
    }
}

/* One adapter after the other onto y and g; memory has room for t, |t|, the rows of B. */
static fh1_status add_one(lora_job *j, const double *x, const int64_t *ids)
{
    const fh1_tensor *A = &j->lora->A;
    j->r = A->shape[0];
    const int64_t n = j->M * j->r;
    const size_t bytes = (size_t)(2 * n + fh1_threads() * j->r + 1) * sizeof(double);
    double *t = malloc(bytes);
    if (!t) return fh1_no_memory(bytes, "the gauge of an adapter");
    fh1_status s = NULL;
    if (x) {
        s = ref_linear_fwd_f64(j->M, x, A, NULL, fh1_profile_find("exact"), t);
        if (!s) s = ref_linear_abs_sum_f64(j->M, x, A, NULL, t + n);
    }
    for (int64_t i = 0; ids && i < n; ++i) {
        t[i] = fh1_get(A, i % j->r * A->shape[1] + ids[i / j->r]);
        t[n + i] = fabs(t[i]);
    }
    j->t = t;
    j->t_abs = t + n;
    j->t_terms = x ? A->shape[1] : 0;
    j->t_sigmas = fh1_gauge_sigmas(n);
    j->f_sigmas = fh1_gauge_sigmas(j->N);
    j->row = t + 2 * n;
    if (!s) fh1_parallel_for(j->N, 16, channels, j);
    free(t);
    return s;
}

static fh1_status add_all(lora_job *j, const double *x, const int64_t *ids, const fh1_lora *lora, const double *y,
                          fh1_round stored)
{
    j->N = lora->B.shape[0];
    const int64_t n = j->M * j->N;
    if (!(j->y = malloc((size_t)(n + 1) * sizeof *j->y))) return fh1_no_memory((size_t)n * sizeof *j->y, "a gauge");
    for (int64_t i = 0; i < n; ++i) j->y[i] = y[i];
    fh1_status s = NULL;
    for (j->lora = lora; j->lora && !s; j->lora = j->lora->next) s = add_one(j, x, ids);
    for (int64_t i = 0; !s && stored != FH1_ROUND_NONE && i < n; ++i)
        fh1_gauge_set(j->g, i, fh1_err_round(fh1_gauge_at(j->g, i), j->contract, stored, j->y[i]));
    free(j->y);
    return s;
}

fh1_status ref_lora_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_lora *lora,
                          const fh1_tensor *bias, const double *y, const fh1_gauge *g)
{
    lora_job j = {.contract = contract, .M = M, .bias = bias, .g = g};
    return add_all(&j, x, NULL, lora, y, contract->at[FH1_RP_LINEAR]);
}

fh1_status ref_lora_embed_gauge(const fh1_profile *contract, int64_t M, const int64_t *ids, const fh1_lora *lora,
                                const double *y, const fh1_gauge *g)
{
    lora_job j = {.contract = contract, .M = M, .g = g};
    return add_all(&j, NULL, ids, lora, y, contract->at[FH1_RP_EMBED]);
}
