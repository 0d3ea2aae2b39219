#include "reference/ssd_scan.h"

#include "oracle/thread.h"
#include "reference/lanes.h"

#include <string.h>

typedef struct {
    const REF(ref_ssd_args) * a;
    const fh1_profile *p;
} scan_job;

/* One row of the state: S = decay·S + xb·B, returns S·C. REF_LANES partial sums, as in ref_dot. */
FH1_CLONES static real advance_row(int64_t N, real decay, real xb, const real *B, const real *C, real *S)
{
    ref_vec acc[REF_SUMS] = {{0}};
    int64_t n = 0;
    for (; n + REF_LANES <= N; n += REF_LANES)
        for (int l = 0; l < REF_SUMS; ++l) {
            const int64_t at = n + l * REF_VEC_LEN;
            const ref_vec s = decay * ref_load(S + at) + xb * ref_load(B + at);
            *(ref_vec_mem *)(S + at) = s;
            acc[l] += s * ref_load(C + at);
        }
    real tail = 0;
    for (; n < N; ++n) {
        S[n] = decay * S[n] + xb * B[n];
        tail += S[n] * C[n];
    }
    return ref_sum(acc) + tail;
}

static void scan_head(const REF(ref_ssd_args) * a, const fh1_profile *p, int64_t h)
{
    const int64_t P = a->P, N = a->N, d = a->H * P, g = h / (a->H / a->G);
    const real A = -r_exp((real)fh1_get(a->A_log, h)), D = (real)fh1_get(a->D, h);
    real *S = a->state + h * P * N;
    int64_t doc = a->state_doc;
    for (int64_t t = 0; t < a->T; ++t) {
        const real *x = a->xbc + t * a->ldx + h * P;
        const real *B = a->xbc + t * a->ldx + d + g * N;
        const real *C = a->xbc + t * a->ldx + d + (a->G + g) * N;
        const real dt = a->dt[t * a->H + h], decay = r_exp(dt * A);
        if (a->doc && a->doc[t] != doc) {
            memset(S, 0, (size_t)(P * N) * sizeof *S);
            doc = a->doc[t];
        }
        real *y = a->y + t * d + h * P;
        for (int64_t i = 0; i < P; ++i) y[i] = advance_row(N, decay, dt * x[i], B, C, S + i * N) + D * x[i];
        REF(ref_round_row)(p->at[FH1_RP_SSD], P, y);
    }
}

static void heads(void *ctx, int64_t h0, int64_t h1, int thread)
{
    (void)thread;
    const scan_job *j = ctx;
    for (int64_t h = h0; h < h1; ++h) scan_head(j->a, j->p, h);
}

void REF(ref_ssd_scan_fwd)(const REF(ref_ssd_args) * a, const fh1_profile *p)
{
    scan_job j = {a, p};
    fh1_parallel_for(a->H, 1, heads, &j);
}

void REF(ref_ssd_decay)(int64_t H, int64_t P, int64_t N, const real *dt, const fh1_tensor *A_log, int64_t n,
                        real *state)
{
    for (int64_t h = 0; h < H; ++h) {
        const real decay = r_exp(-dt[h] * r_exp((real)fh1_get(A_log, h)));
        for (int64_t k = 0; k < n; ++k)
            for (int64_t i = 0; i < P * N; ++i) state[h * P * N + i] *= decay;
    }
}
