#include "reference/ssd_rows_bwd.h"

#include "reference/lanes.h"

#include <string.h>

#define SUMS \
    2 /* vectors of partial sums: with those of two rows, and what is on its way, as many as there are registers */
#define WIDTH (SUMS * REF_VEC_LEN)

REF_INLINE void put(real *p, ref_vec v)
{
    *(ref_vec_mem *)p = v;
}

REF_INLINE real sum_of(ref_vec a, ref_vec b)
{
    ref_vec v = a + b;
#if REF_BITS == 64
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2);
#else
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#endif
    return v[0];
}

/* REF_LANES columns stay in registers over all tokens: four chains, as each waits for its own product and sum. */
FH1_CLONES static void advance(int64_t tokens, int64_t N, const real *decay, const real *in, const real *B, int64_t ld,
                               const real *S, real *rows, real *last)
{
    int64_t n = 0;
    for (; n + REF_LANES <= N; n += REF_LANES) {
        ref_vec v[REF_SUMS];
        for (int l = 0; l < REF_SUMS; ++l) v[l] = ref_load(S + n + l * REF_VEC_LEN);
        for (int64_t t = 0; t < tokens; ++t)
            for (int l = 0; l < REF_SUMS; ++l) {
                const int64_t at = n + l * REF_VEC_LEN;
                v[l] = decay[t] * v[l] + in[t] * ref_load(B + t * ld + at);
                if (rows) put(rows + t * N + at, v[l]);
            }
        for (int l = 0; last && l < REF_SUMS; ++l) put(last + n + l * REF_VEC_LEN, v[l]);
    }
    for (; n < N; ++n) {
        real a = S[n];
        for (int64_t t = 0; t < tokens; ++t) {
            a = decay[t] * a + in[t] * B[t * ld + n];
            if (rows) rows[t * N + n] = a;
        }
        if (last) last[n] = a;
    }
}

void REF(ref_ssd_advance)(int64_t n, int64_t N, const real *decay, const real *in, const real *B, int64_t ld,
                          const real *S, real *rows, real *last)
{
    advance(n, N, decay, in, B, ld, S, rows, last);
}

/* Token t; R is a constant wherever this is inlined. */
REF_INLINE void retreat_token(const int R, REF(ref_ssd_rows) * k, int64_t t)
{
    const int64_t N = k->N;
    const real *B = k->B + t * k->ld, *C = k->C + t * k->ld, decay = k->decay[t];
    real *dB = k->dB + t * k->ld_out, *dC = k->dC + t * k->ld_out, b[REF_SSD_ROWS] = {0}, s = 0;
    ref_vec by_b[REF_SSD_ROWS][SUMS] = {{{0}}}, by_s[SUMS] = {{0}};
    int64_t n = 0;
    for (; n + WIDTH <= N; n += WIDTH)
        for (int l = 0; l < SUMS; ++l) {
            const int64_t at = n + l * REF_VEC_LEN;
            const ref_vec vB = ref_load(B + at), vC = ref_load(C + at);
            ref_vec gB = ref_load(dB + at), gC = ref_load(dC + at);
            for (int r = 0; r < R; ++r) {
                const ref_vec dS = ref_load(k->carry[r] + at) + k->e[r][t] * vC;
                gC += k->e[r][t] * ref_load(k->after[r] + t * N + at);
                gB += k->in[r][t] * dS;
                by_b[r][l] += dS * vB;
                by_s[l] += dS * ref_load(k->before[r] + t * N + at);
                put(k->carry[r] + at, decay * dS);
            }
            put(dB + at, gB);
            put(dC + at, gC);
        }
    for (; n < N; ++n)
        for (int r = 0; r < R; ++r) {
            const real dS = k->carry[r][n] + k->e[r][t] * C[n];
            dC[n] += k->e[r][t] * k->after[r][t * N + n];
            dB[n] += k->in[r][t] * dS;
            b[r] += dS * B[n];
            s += dS * k->before[r][t * N + n];
            k->carry[r][n] = decay * dS;
        }
    for (int r = 0; r < R; ++r) {
        k->by_b[r][t] = sum_of(by_b[r][0], by_b[r][1]) + b[r];
        if (k->ends[t]) memset(k->carry[r], 0, (size_t)N * sizeof(real));
    }
    k->by_state[t] = sum_of(by_s[0], by_s[1]) + s;
}

FH1_CLONES static void retreat_1(REF(ref_ssd_rows) * k)
{
    for (int64_t t = k->n - 1; t >= 0; --t) retreat_token(1, k, t);
}

FH1_CLONES static void retreat_2(REF(ref_ssd_rows) * k)
{
    for (int64_t t = k->n - 1; t >= 0; --t) retreat_token(2, k, t);
}

void REF(ref_ssd_retreat)(int rows, REF(ref_ssd_rows) * k)
{
    if (rows == 1) retreat_1(k);
    else retreat_2(k);
}
