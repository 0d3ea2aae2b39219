#include "reference/gated_norm.h"

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

static void normalise_group(int64_t n, real eps, real *v)
{
    const real r = 1 / r_sqrt(REF(ref_dot)(n, v, v) / (real)n + eps);
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
        real *out = j->out + m * j->d + first;
        for (int64_t i = 0; i < n; ++i) out[i] = j->norm_first ? y[i] : y[i] * REF(ref_silu)(z[i]);
        normalise_group(n, j->eps, out);
        for (int64_t i = 0; i < n; ++i) out[i] *= j->w[first + i];
        if (j->norm_first)
            for (int64_t i = 0; i < n; ++i) out[i] *= REF(ref_silu)(z[i]);
        REF(ref_round_row)(j->p->at[FH1_RP_GATED], n, out);
    }
}

/* Without a norm there is no row either: elements, so that one token is shared out too. */
static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const gate_job *j = ctx;
    const fh1_round silu = j->p->at[FH1_RP_GATE_SILU], gated = j->p->at[FH1_RP_GATED];
    for (int64_t i = i0; i < i1;) {
        const int64_t m = i / j->d, end = (m + 1) * j->d < i1 ? (m + 1) * j->d : i1;
        const real *z = j->z + m * (j->ldz - j->d); /* z[i] is then the gate of element i */
        for (; i < end; ++i) j->out[i] = r_round(gated, j->y[i] * r_round(silu, REF(ref_silu)(z[i])));
    }
}

fh1_status REF(ref_gated_norm_fwd)(int64_t M, int64_t d, int64_t G, const real *y, const real *z, int64_t ldz,
                                   const fh1_tensor *w, double eps, bool norm_before_gate, const fh1_profile *p,
                                   real *out)
{
    gate_job j = {d, G, ldz, y, z, NULL, (real)eps, norm_before_gate, p, out};
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
