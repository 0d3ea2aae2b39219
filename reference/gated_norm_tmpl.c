#include "reference/gated_norm.h"

#include "oracle/reached.h"
#include "oracle/thread.h"
#include "reference/linear.h" /* ref_dot */

#include <stdlib.h>

typedef struct {
    int64_t d, G, ldz;
    const real *y, *z;
    const real *w; /* NULL: no norm */
    real eps;
    bool norm_first;
    const fh1_profile *p;
    real *out;
} gate_job;

static real gate(real z)
{
    return REF_FAULT(GATE_IS_SIGMOID) ? 1 / (1 + r_exp(-z)) : REF(ref_silu)(z);
}

static void swap(const real **a, const real **b)
{
    const real *t = *a;
    *a = *b;
    *b = t;
}

static void normalise_group(int64_t n, real eps, real *v)
{
    const real mean = REF(ref_dot)(n, v, v) / (real)n;
    real r = 1 / r_sqrt(mean + eps);
    if (REF_FAULT(GATED_NORM_EPS_OUTSIDE_ROOT)) r = 1 / (r_sqrt(mean) + eps);
    if (REF_FAULT(GATED_NORM_EPS_MISSING)) r = 1 / r_sqrt(mean);
    for (int64_t i = 0; i < n; ++i) v[i] *= r;
}

/* Group g of row m stands alone: its norm, if there is one, looks at nothing else. */
static void groups(void *ctx, int64_t k0, int64_t k1, int thread)
{
    (void)thread;
    const gate_job *j = ctx;
    const int64_t n = j->d / j->G;
    for (int64_t k = k0; k < k1; ++k) {
        const int64_t m = k / j->G, first = k % j->G * n;
        const real *y = j->y + m * j->d + first, *z = j->z + m * j->ldz + first;
        const real *w = REF_FAULT(GATED_NORM_WEIGHT_OF_GROUP_0) ? j->w : j->w + first;
        real *out = j->out + m * j->d + first;
        if (REF_FAULT(GATE_OPERANDS_SWAPPED)) swap(&y, &z);
        for (int64_t i = 0; i < n; ++i) out[i] = j->norm_first ? y[i] : y[i] * gate(z[i]);
        for (int times = REF_FAULT(GATED_NORM_TWICE) ? 2 : 1; times > 0; --times) {
            normalise_group(n, j->eps, out);
            for (int64_t i = 0; i < n; ++i) out[i] *= w[i];
        }
        if (j->norm_first)
            for (int64_t i = 0; i < n; ++i) out[i] *= gate(z[i]);
        REF(ref_round_row)(j->p->at[FH1_RP_GATED], n, out);
    }
}

/* Without a norm there is no row either: elements, so that one token is shared out too. */
static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const gate_job *j = ctx;
    const fh1_round silu = REF_FAULT(GATE_IN_BF16) ? FH1_ROUND_BF16 : j->p->at[FH1_RP_GATE_SILU],
                    gated = j->p->at[FH1_RP_GATED];
    for (int64_t i = i0; i < i1;) {
        const int64_t m = i / j->d, end = (m + 1) * j->d < i1 ? (m + 1) * j->d : i1;
        const real *y = j->y, *z = j->z + m * (j->ldz - j->d); /* z[i] is then the gate of element i */
        if (REF_FAULT(GATE_OPERANDS_SWAPPED)) swap(&y, &z);
        for (; i < end; ++i) j->out[i] = r_round(gated, y[i] * r_round(silu, gate(z[i])));
    }
}

fh1_status REF(ref_gated_norm_fwd)(int64_t M, int64_t d, int64_t G, const real *y, const real *z, int64_t ldz,
                                   const fh1_tensor *w, double eps, bool norm_before_gate, const fh1_profile *p,
                                   real *out)
{
    if (REF_FAULT(GATED_NORM_OVER_WHOLE_WIDTH)) G = 1;
    gate_job j = {d, G, ldz, y, z, NULL, (real)eps, norm_before_gate, p, out};
    FH1_REACHED(!w->data);
    FH1_REACHED(w->data && G > 1);
    FH1_REACHED(w->data && norm_before_gate);
    FH1_REACHED(w->data && !norm_before_gate);
    if (!w->data) {
        fh1_parallel_for(M * d, 768, elements, &j); /* two pieces even for one token of the 0.5B */
        return NULL;
    }
    real *weight = malloc((size_t)d * sizeof *weight);
    if (!weight) return fh1_no_memory((size_t)d * sizeof *weight, "a norm weight");
    REF(ref_widen)(weight, w, d);
    j.w = weight;
    fh1_parallel_for(M * G, 8, groups, &j);
    free(weight);
    return NULL;
}
