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

static void rows(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const gate_job *j = ctx;
    const int64_t d = j->d, n = d / j->G;
    for (int64_t m = m0; m < m1; ++m) {
        const real *y = j->y + m * d, *z = j->z + m * j->ldz;
        real *out = j->out + m * d;
        if (!j->w) {
            for (int64_t i = 0; i < d; ++i) out[i] = y[i] * r_round(j->p->at[FH1_RP_GATE_SILU], REF(ref_silu)(z[i]));
        } else {
            for (int64_t i = 0; i < d; ++i) out[i] = j->norm_first ? y[i] : y[i] * REF(ref_silu)(z[i]);
            for (int64_t g = 0; g < j->G; ++g) normalise_group(n, j->eps, out + g * n);
            for (int64_t i = 0; i < d; ++i) out[i] *= j->w[i];
            if (j->norm_first)
                for (int64_t i = 0; i < d; ++i) out[i] *= REF(ref_silu)(z[i]);
        }
        REF(ref_round_row)(j->p->at[FH1_RP_GATED], d, out);
    }
}

fh1_status REF(ref_gated_norm_fwd)(int64_t M, int64_t d, int64_t G, const real *y, const real *z, int64_t ldz,
                                   const fh1_tensor *w, double eps, bool norm_before_gate, const fh1_profile *p,
                                   real *out)
{
    real *weight = NULL;
    if (w->data) {
        if (!(weight = malloc((size_t)d * sizeof *weight)))
            return fh1_no_memory((size_t)d * sizeof *weight, "a norm weight");
        REF(ref_widen)(weight, w, d);
    }
    gate_job j = {d, G, ldz, y, z, weight, (real)eps, norm_before_gate, p, out};
    fh1_parallel_for(M, 8, rows, &j);
    free(weight);
    return NULL;
}
