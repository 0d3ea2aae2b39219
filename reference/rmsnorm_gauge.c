#include "reference/rmsnorm_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    int64_t D;
    const double *x, *weight; /* NULL: none */
    double eps, sigmas;
    const fh1_gauge *g;
} norm_job;

static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    const fh1_profile *c = j->contract;
    fh1_round inner = c->at[FH1_RP_NORM_INNER]; /* without a weight, what follows it rounds the same number again */
    if (!j->weight && inner == FH1_ROUND_NONE) inner = c->at[FH1_RP_NORM];
    for (int64_t m = m0; m < m1; ++m) {
        const double *x = j->x + m * j->D;
        double mean = 0;
        for (int64_t i = 0; i < j->D; ++i) mean += x[i] * x[i];
        mean /= (double)j->D;
        const double root = 1 / sqrt(mean + j->eps);
        const fh1_err relative = ref_err_reciprocal_root((fh1_err){0}, c, j->D, mean, j->eps, j->sigmas);
        for (int64_t i = 0; i < j->D; ++i) {
            const double n = x[i] * root, w = j->weight ? j->weight[i] : 1;
            fh1_err e = fh1_err_round(fh1_err_scale(relative, n), c, inner, n);
            if (j->weight) e = fh1_err_round(fh1_err_scale(e, w), c, c->at[FH1_RP_NORM], n * w);
            fh1_gauge_set(j->g, m * j->D + i, e);
        }
    }
}

fh1_status ref_rmsnorm_gauge(const fh1_profile *contract, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                             double eps, const fh1_gauge *g)
{
    double *weight = w->data ? malloc((size_t)(D + 1) * sizeof *weight) : NULL;
    if (w->data && !weight) return fh1_no_memory((size_t)(D + 1) * sizeof *weight, "a norm weight");
    if (weight) fh1_to_f64(weight, w->data, w->dtype, D);
    norm_job j = {contract, D, x, weight, eps, fh1_gauge_sigmas(M), g};
    fh1_parallel_for(M, 4, rows, &j);
    free(weight);
    return NULL;
}

/* Adds Σ_j |J_ij|·e_j, J = (1 - a·aᵀ)/r. */
static void through(int64_t D, const double *x, double r, const double *e, double *sum)
{
    const double n = (double)D * r * r; /* a_i·a_j = x_i·x_j/n */
    double all = 0;
    for (int64_t j = 0; j < D; ++j) all += fabs(x[j]) * e[j];
    for (int64_t i = 0; i < D; ++i) {
        const double others = all - fabs(x[i]) * e[i];
        sum[i] += (fabs(1 - x[i] * x[i] / n) * e[i] + fabs(x[i]) / n * fmax(0, others)) / r;
    }
}

/* Adds Σ_j J_ij²·v_j. */
static void variance_through(int64_t D, const double *x, double r, const double *v, double *sum)
{
    const double n = (double)D * r * r;
    double all = 0;
    for (int64_t j = 0; j < D; ++j) all += x[j] * x[j] * v[j];
    for (int64_t i = 0; i < D; ++i) {
        const double own = 1 - x[i] * x[i] / n, others = all - x[i] * x[i] * v[i];
        sum[i] += (own * own * v[i] + x[i] * x[i] / n / n * fmax(0, others)) / (r * r);
    }
}

/* x' = x + e, |e_i| <= worst_i with RMS ρ·r: r' >= (1 - ρ)·r, and with h = <x,e>/(D·r²) + <e,e>/(2D·r²)
 *     r/r' = (1 + 2h)^(-1/2) = 1 - h + 3/2·h²·(1 + 2θh)^(-5/2),   |h| <= ρ + ρ²/2.
 * What the Jacobian lacks is x times all of that but <x,e>, and e_i times r/r' - 1. No value of a norm exceeds √D. */
static void second_order(int64_t D, const double *x, double r, const double *worst, double *sum)
{
    double square = 0;
    for (int64_t i = 0; i < D; ++i) square += worst[i] * worst[i];
    const double rho = sqrt(square / (double)D) / r, most = sqrt((double)D), h = rho + rho * rho / 2;
    const double bend = rho * rho / 2 + 1.5 * h * h / pow(1 - rho, 5), root = rho / (1 - rho);
    for (int64_t i = 0; i < D; ++i) {
        const double bounded = most + fabs(x[i]) / r;
        sum[i] = rho < 1 ? fmin(sum[i] + (fabs(x[i]) * bend + worst[i] * root) / r, bounded) : bounded;
    }
}

void ref_rmsnorm_input_gauge(int64_t M, int64_t D, const double *x, double eps, const fh1_gauge *in, const fh1_gauge *g)
{
    for (int64_t m = 0; m < M; ++m, x += D) {
        const int64_t at = m * D;
        double mean = 0;
        for (int64_t i = 0; i < D; ++i) mean += x[i] * x[i];
        const double r = sqrt(mean / (double)D + eps);
        if (!(r > 0)) continue;
        through(D, x, r, in->worst + at, g->worst + at);
        through(D, x, r, in->shared + at, g->shared + at);
        variance_through(D, x, r, in->variance + at, g->variance + at);
        second_order(D, x, r, in->worst + at, g->worst + at);
    }
}
