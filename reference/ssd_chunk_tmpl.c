#include "reference/ssd_chunk.h"

#include "oracle/reached.h"
#include "oracle/thread.h"
#include "reference/linear.h" /* ref_dot */
#include "reference/scan_faults.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const REF(ref_ssd_args) * a;
    const fh1_profile *p;
    int64_t Q;
    real *scratch; /* [threads, Q + N]: Λ, a row of the state as it is read */
} chunk_job;

/* What a tensor core reads of an operand in two parts of type r: v, good to half an ulp of the second part. */
static inline real in_two(fh1_round r, real v)
{
    const real high = r_round(r, v);
    return isfinite(r_re(high)) ? high + r_round(r, v - high) : high;
}

/* Λ_t inside the chunk; whether one of its tokens is reset. */
static bool add_up(const REF(ref_ssd_args) * a, int64_t t0, int64_t n, int64_t h, real A, real *sum)
{
    bool any = false;
    real total = 0;
    for (int64_t l = 0; l < n; ++l) {
        const double reset = REF(ref_reset_at)(a->doc, a->state_doc, t0 + l, a->reset);
        any |= reset < 0;
        sum[l] = total += reset < 0 ? (real)reset : a->dt[(t0 + l) * a->H + h] * A;
    }
    return any;
}

/* The tokens of the chunk seen from each other; `sum` where decays are differences of Λ, else NULL. */
static void within(const REF(ref_ssd_args) * a, fh1_round tile, int64_t t0, int64_t n, int64_t h, real A,
                   const real *sum)
{
    for (int64_t t = t0; t < t0 + n; ++t) {
        real *y = a->y + (t * a->H + h) * a->P, decay_sum = 0;
        memset(y, 0, (size_t)a->P * sizeof *y);
        for (int64_t s = t; s >= t0; --s) {
            const real dt = a->dt[s * a->H + h], *x = REF(ref_ssd_x)(a, s, h);
            const real decay = r_exp(sum ? sum[t - t0] - sum[s - t0] : decay_sum);
            const real w = REF(ref_dot)(a->N, REF(ref_ssd_c)(a, t, h), REF(ref_ssd_b)(a, s, h)) * decay;
            if (tile == FH1_ROUND_NONE)
                for (int64_t i = 0; i < a->P; ++i) y[i] += w * (dt * x[i]);
            else
                for (int64_t i = 0; i < a->P; ++i) y[i] += in_two(tile, w * dt) * x[i];
            decay_sum += dt * A;
        }
    }
}

/* What the state before the chunk adds, and the state after it. */
static void across(const REF(ref_ssd_args) * a, fh1_round tile, int64_t t0, int64_t n, int64_t h, const real *sum,
                   real *row)
{
    const int64_t P = a->P, N = a->N;
    real *S = a->state + h * P * N;
    if (REF_FAULT(CARRY_LOST_AT_CHUNK_EDGE) && t0 > 0) memset(S, 0, (size_t)(P * N) * sizeof *S);
    for (int64_t i = 0; i < P; ++i) {
        const real *read = S + i * N;
        for (int64_t k = 0; k < N && tile != FH1_ROUND_NONE; ++k) row[k] = in_two(tile, read[k]);
        if (tile != FH1_ROUND_NONE) read = row;
        for (int64_t l = 0; l < n; ++l)
            a->y[((t0 + l) * a->H + h) * P + i] += r_exp(sum[l]) * REF(ref_dot)(N, REF(ref_ssd_c)(a, t0 + l, h), read);
    }
    const real whole = r_exp(sum[n - 1]);
    for (int64_t i = 0; i < P * N; ++i) S[i] *= whole;
    for (int64_t l = 0; l < n; ++l) {
        const real *x = REF(ref_ssd_x)(a, t0 + l, h), *B = REF(ref_ssd_b)(a, t0 + l, h);
        const real w = r_exp(sum[n - 1] - sum[l]), dt = a->dt[(t0 + l) * a->H + h];
        for (int64_t k = 0; k < N && tile != FH1_ROUND_NONE; ++k) row[k] = in_two(tile, w * dt * B[k]);
        for (int64_t i = 0; i < P; ++i)
            for (int64_t k = 0; k < N; ++k)
                S[i * N + k] += tile == FH1_ROUND_NONE ? (w * B[k]) * (dt * x[i]) : row[k] * x[i];
    }
}

static void chunk(const chunk_job *j, int64_t t0, int64_t n, int64_t h, real *sum)
{
    const REF(ref_ssd_args) *a = j->a;
    const real A = REF(ref_ssd_rate)(a, h), D = REF(ref_get)(a->D, h);
    const fh1_round tile = j->p->at[FH1_RP_SSD_TILE];
    const bool reset = add_up(a, t0, n, h, A, sum);
    within(a, tile, t0, n, h, A, reset ? sum : NULL);
    across(a, tile, t0, n, h, sum, sum + j->Q);
    for (int64_t t = t0; t < t0 + n; ++t) {
        real *y = a->y + (t * a->H + h) * a->P;
        const real *x = REF(ref_ssd_x)(a, t, h);
        for (int64_t i = 0; i < a->P; ++i) y[i] += D * x[i];
        REF(ref_round_row)(j->p->at[FH1_RP_SSD], a->P, y);
    }
}

/* Whether nothing of what lies before token t is seen by it. */
static bool begins(const REF(ref_ssd_args) * a, int64_t t)
{
    return REF(ref_ssd_cut)(a, t, t > 0 && a->doc ? a->doc[t - 1] : a->state_doc) &&
           !(REF(ref_reset_at)(a->doc, a->state_doc, t, a->reset) < 0);
}

static void heads(void *ctx, int64_t h0, int64_t h1, int thread)
{
    const chunk_job *j = ctx;
    const REF(ref_ssd_args) *a = j->a;
    for (int64_t h = h0; h < h1; ++h) {
        for (int64_t t = 0; t < a->T;) {
            if (begins(a, t)) memset(a->state + h * a->P * a->N, 0, (size_t)(a->P * a->N) * sizeof *a->state);
            int64_t n = 1;
            while (n < j->Q && t + n < a->T && !begins(a, t + n)) ++n;
            FH1_REACHED(n < j->Q && t + n < a->T);                      /* a document begins inside of a chunk */
            FH1_REACHED(n == j->Q && t + n < a->T && begins(a, t + n)); /* and at its edge */
            chunk(j, t, n, h, j->scratch + thread * (j->Q + a->N));
            t += n;
        }
    }
}

fh1_status REF(ref_ssd_chunk_fwd)(const REF(ref_ssd_args) * a, int64_t Q, const fh1_profile *p)
{
    FH1_REACHED(a->T == 1);
    FH1_REACHED(a->T < Q);
    FH1_REACHED(a->T == Q);
    FH1_REACHED(a->T > Q && a->T % Q == 0);
    FH1_REACHED(a->T > Q && a->T % Q == 1);
    if (Q > a->T) Q = a->T;
    const size_t bytes = ((size_t)fh1_threads() * (size_t)(Q + a->N) + 1) * sizeof(real);
    chunk_job j = {a, p, Q, malloc(bytes)};
    if (!j.scratch) return fh1_no_memory(bytes, "decay sums");
    fh1_parallel_for(a->H, 1, heads, &j);
    free(j.scratch);
    return NULL;
}
