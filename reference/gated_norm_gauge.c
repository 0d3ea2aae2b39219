#include "reference/gated_norm_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"

#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    int64_t d, G, ldz;
    const double *y, *z;
    const fh1_gauge *z_err;
    const double *w; /* NULL: no norm */
    double eps, sigmas;
    bool norm_first;
    const fh1_gauge *g;
} gate_job;

static double silu(double z)
{
    return z / (1 + exp(-z));
}

/* Of R(silu(z)) for element i of [M,d]. */
static fh1_err gate(const gate_job *j, fh1_round r, int64_t i, double z)
{
    return ref_err_silu(j->z_err ? fh1_gauge_at(j->z_err, i) : (fh1_err){0}, j->contract, r, z);
}

/* Relative error of the group's reciprocal root. The error of one square is 2·|v|·e; those of a group are independent
 * of each other but their sum is one number. */
static fh1_err group_root(const gate_job *j, int64_t n, const double *v, const fh1_err *e, double *root)
{
    double sum = 0;
    fh1_err squares = {0};
    for (int64_t i = 0; i < n; ++i) {
        sum += v[i] * v[i];
        fh1_err one = fh1_err_scale(e[i], 2 * v[i]);
        one.worst += e[i].worst * e[i].worst;
        squares = fh1_err_add(squares, one);
    }
    const double mean = sum / (double)n;
    *root = 1 / sqrt(mean + j->eps);
    squares = fh1_err_scale(squares, 1 / ((double)n * (mean + j->eps)));
    return ref_err_reciprocal_root(squares, j->contract, n, mean, j->eps, j->sigmas);
}

/* One group; v and e hold n values of scratch each. */
static void one_group(const gate_job *j, int64_t m, int64_t first, int64_t n, double *v, fh1_err *e)
{
    const fh1_profile *c = j->contract;
    const double *y = j->y + m * j->d + first, *z = j->z + m * j->ldz + first;
    const int64_t at = m * j->d + first;
    for (int64_t i = 0; i < n; ++i) {
        v[i] = y[i];
        e[i] = (fh1_err){0};
        if (j->norm_first) continue;
        const double s = silu(z[i]);
        v[i] = y[i] * s;
        e[i] = fh1_err_round(fh1_err_scale(gate(j, FH1_ROUND_NONE, at + i, z[i]), y[i]), c, FH1_ROUND_NONE, v[i]);
    }
    double root;
    const fh1_err relative = group_root(j, n, v, e, &root);
    for (int64_t i = 0; i < n; ++i) {
        const double normal = v[i] * root, w = j->w[first + i];
        fh1_err o = fh1_err_add(fh1_err_scale(e[i], root), fh1_err_scale(relative, normal));
        o.worst += e[i].worst * root * relative.worst;
        o = fh1_err_scale(fh1_err_round(o, c, FH1_ROUND_NONE, normal), w);
        double out = normal * w;
        if (j->norm_first) {
            const double s = silu(z[i]);
            o = fh1_err_round(o, c, FH1_ROUND_NONE, out);
            o = fh1_err_product(o, out, gate(j, FH1_ROUND_NONE, at + i, z[i]), s);
            out *= s;
        }
        fh1_gauge_set(j->g, at + i, fh1_err_round(o, c, c->at[FH1_RP_GATED], out));
    }
}

typedef struct {
    const gate_job *j;
    double *v;  /* [threads, d/G] */
    fh1_err *e; /* the same */
} group_job;

static void groups(void *ctx, int64_t k0, int64_t k1, int thread)
{
    const group_job *job = ctx;
    const gate_job *j = job->j;
    const int64_t n = j->d / j->G;
    for (int64_t k = k0; k < k1; ++k) one_group(j, k / j->G, k % j->G * n, n, job->v + thread * n, job->e + thread * n);
}

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const gate_job *j = ctx;
    const fh1_profile *c = j->contract;
    for (int64_t i = i0; i < i1; ++i) {
        const double z = j->z[i / j->d * j->ldz + i % j->d], y = j->y[i];
        const fh1_err e = fh1_err_scale(gate(j, c->at[FH1_RP_GATE_SILU], i, z), y);
        fh1_gauge_set(j->g, i, fh1_err_round(e, c, c->at[FH1_RP_GATED], y * silu(z)));
    }
}

fh1_status ref_gated_norm_gauge(const fh1_profile *contract, int64_t M, int64_t d, int64_t G, const double *y,
                                const double *z, int64_t ldz, const fh1_gauge *z_err, const fh1_tensor *w, double eps,
                                bool norm_before_gate, const fh1_gauge *g)
{
    gate_job j = {contract, d, G, ldz, y, z, z_err, NULL, eps, fh1_gauge_sigmas(M * G), norm_before_gate, g};
    if (!w->data) {
        fh1_parallel_for(M * d, 1 << 10, elements, &j);
        return NULL;
    }
    const size_t n = (size_t)fh1_threads() * (size_t)(d / G), bytes = n * (sizeof(fh1_err) + sizeof(double));
    fh1_err *e = malloc(bytes + (size_t)d * sizeof(double));
    if (!e) return fh1_no_memory(bytes + (size_t)d * sizeof(double), "the gauge of a gated norm");
    group_job job = {&j, (double *)(e + n), e};
    double *weight = job.v + n;
    fh1_to_f64(weight, w->data, w->dtype, d);
    j.w = weight;
    fh1_parallel_for(M * G, 2, groups, &job);
    free(e);
    return NULL;
}
