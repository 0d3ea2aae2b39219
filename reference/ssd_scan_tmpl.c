#include "reference/ssd_scan.h"

#include "oracle/reached.h"
#include "oracle/thread.h"
#include "reference/lanes.h"
#include "reference/scan_faults.h"

#include <string.h>

typedef struct {
    const REF(ref_ssd_args) * a;
    const fh1_profile *p;
} scan_job;

/* One row of the state: S = decay·S + xb·B, returns S·C. REF_LANES partial sums, as in ref_dot. */
FH1_CLONES static real advance_row(int64_t N, real decay, real xb, const real *B, const real *C, real *S)
{
    ref_vec acc[REF_SUMS] = {0};
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

/* -- planted faults -- */

/* advance_row where a state is read or rounded at the wrong point. */
static real advance_spoiled_row(int64_t N, real decay, real xb, const real *B, const real *C, real *S)
{
    real y = 0;
    for (int64_t n = 0; n < N; ++n) y = REF(ref_spoiled_element)(y, decay, xb * B[n], C[n], &S[n]);
    return y;
}

/* Σ Δ A of head h over tokens [from, to), each partial sum rounded. */
static real decay_sum(const REF(ref_ssd_args) * a, int64_t h, int64_t from, int64_t to, fh1_round r)
{
    real sum = 0;
    for (int64_t t = from; t < to; ++t) sum = r_round(r, sum + a->dt[t * a->H + h] * REF(ref_ssd_rate)(a, h));
    return sum;
}

/* The decay of token t where it should be `right`. */
static real spoiled_decay(const REF(ref_ssd_args) * a, int64_t t, int64_t h, real right)
{
    const int64_t edge = t - t % REF_FAULTY_CHUNK;
    const int64_t end = edge + REF_FAULTY_CHUNK < a->T ? edge + REF_FAULTY_CHUNK : a->T;
    if (REF_FAULT(DECAY_WITHOUT_DT)) return r_exp(REF(ref_ssd_rate)(a, h));
    if (REF_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE) && t > 0 && t == edge) return 1;
    if (REF_FAULT(DECAY_SUMS_IN_F16))
        return r_exp(decay_sum(a, h, edge, t + 1, FH1_ROUND_F16) - decay_sum(a, h, edge, t, FH1_ROUND_F16));
    if (REF_FAULT(DECAY_ABOVE_DIAGONAL)) return right + 0 * r_exp(-decay_sum(a, h, t + 1, end, FH1_ROUND_NONE));
    return right;
}

/* -- the scan -- */

static void scan_head(const REF(ref_ssd_args) * a, const fh1_profile *p, int64_t h)
{
    const int64_t P = a->P, N = a->N, d = a->H * P;
    const real A = REF(ref_ssd_rate)(a, h), D = REF(ref_get)(a->D, h);
    real (*const advance)(int64_t, real, real, const real *, const real *, real *) =
        REF(ref_row_is_spoiled)() ? advance_spoiled_row : advance_row;
    real *S = a->state + h * P * N;
    int64_t doc = a->state_doc;
    for (int64_t t = 0; t < a->T; ++t) {
        const real *x = REF(ref_ssd_x)(a, t, h), *B = REF(ref_ssd_b)(a, t, h), *C = REF(ref_ssd_c)(a, t, h);
        const real dt = a->dt[REF(ref_dt_token)(t) * a->H + h];
        const double reset = REF(ref_reset_at)(a->doc, a->state_doc, t, a->reset);
        const real decay = reset < 0 ? r_exp((real)reset) : spoiled_decay(a, t, h, r_exp(dt * A));
        const real in = REF_FAULT(INPUT_WITHOUT_DT) ? 1 : dt, skip = REF_FAULT(D_ON_SCALED_INPUT) ? D * dt : D;
        if (REF(ref_ssd_cut)(a, t, doc)) {
            if (!(reset < 0)) memset(S, 0, (size_t)(P * N) * sizeof *S);
            doc = a->doc[t];
        }
        if (REF(ref_carry_lost)(t, a->T)) memset(S, 0, (size_t)(P * N) * sizeof *S);
        real *y = a->y + t * d + h * P;
        for (int64_t i = 0; i < P; ++i) y[i] = advance(N, decay, in * x[i], B, C, S + i * N) + skip * x[i];
        REF(ref_round_row)(p->at[FH1_RP_SSD], P, y);
        if (t < a->T - 1 || !REF(ref_tail_repeats)(a->T)) continue;
        for (int64_t i = 0; i < P; ++i) advance(N, decay, in * x[i], B, C, S + i * N);
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
    FH1_REACHED(a->T == 1);
    FH1_REACHED(a->N < REF_LANES);
    FH1_REACHED(a->N > REF_LANES && a->N % REF_LANES != 0);
    FH1_REACHED(a->H > a->G && a->G > 1); /* heads share groups */
    scan_job j = {a, p};
    fh1_parallel_for(a->H, 1, heads, &j);
}

void REF(ref_ssd_decay)(int64_t H, int64_t P, int64_t N, const real *dt, const fh1_tensor *A_log, int64_t n,
                        real *state)
{
    for (int64_t h = 0; h < H; ++h) {
        const real decay = r_exp(-dt[h] * r_exp(REF(ref_get)(A_log, h)));
        for (int64_t k = 0; k < n; ++k)
            for (int64_t i = 0; i < P * N; ++i) state[h * P * N + i] *= decay;
    }
}
