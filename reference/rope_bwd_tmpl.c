#include "reference/rope_bwd.h"

#include "oracle/thread.h"

typedef struct {
    int64_t M, heads, A;
    const real *cos_sin;
    real *dx;
} rope_job;

/* Forward: lo' = lo·c - hi·s, hi' = hi·c + lo·s. Each half reaches both results. */
static void tokens(void *ctx, int64_t m0, int64_t m1, int thread)
{
    (void)thread;
    const rope_job *j = ctx;
    const int64_t half = j->A / 2;
    const real sign = REF_FAULT(GRAD_ROPE_ROTATED_FORWARD) ? -1 : 1;
    for (int64_t m = m0; m < m1; ++m)
        for (int64_t h = 0; h < j->heads; ++h) {
            real *lo = j->dx + (m * j->heads + h) * j->A, *hi = lo + half;
            for (int64_t i = 0; i < half; ++i) {
                const real c = j->cos_sin[m * half + i], s = sign * j->cos_sin[(j->M + m) * half + i];
                const real a = lo[i], b = hi[i];
                lo[i] = a * c + b * s;
                hi[i] = b * c - a * s;
            }
        }
}

void REF(ref_rope_bwd)(int64_t M, int64_t heads, int64_t A, const real *cos_sin, real *dx)
{
    rope_job j = {M, heads, A, cos_sin, dx};
    if (!REF_FAULT(GRAD_ROPE_MISSING)) fh1_parallel_for(M, 16, tokens, &j);
}
