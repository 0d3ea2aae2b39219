#include "reference/rope.h"

#include "oracle/reached.h"

#define MAX_HALF 4096 /* A/2; fh1_config_check keeps the head width below 8192 */

#if REF_BITS == 32
/* Angles in f64: cos and sin are those of the exact angle, rounded once, and once more with the factor. */
static void exact_table(const fh1_config *c, int64_t M, const int64_t *position, int64_t seq_len, float *cosines,
                        float *sines)
{
    const int64_t half = c->A / 2;
    double freq[MAX_HALF], scale;
    fh1_rope_frequencies(c, seq_len, freq, &scale);
    for (int64_t m = 0; m < M; ++m)
        for (int64_t i = 0; i < half; ++i) {
            const double angle = (double)position[m] * freq[i];
            cosines[m * half + i] = (float)cos(angle) * (float)scale;
            sines[m * half + i] = (float)sin(angle) * (float)scale;
        }
}
#endif

void REF(ref_rope_table)(const fh1_config *c, int64_t M, const int64_t *position, int64_t seq_len, const fh1_profile *p,
                         real *cos_sin)
{
    const int64_t half = c->A / 2;
    real *cosines = cos_sin, *sines = cos_sin + M * half;
#if REF_BITS == 32
    if (p->exact_angle) {
        exact_table(c, M, position, seq_len, cosines, sines);
        REF(ref_round_row)(p->at[FH1_RP_ROPE_TABLE], 2 * M * half, cos_sin);
        return;
    }
#endif
    ref_part freq[MAX_HALF];
    double scale;
#if REF_BITS != 32
    fh1_rope_frequencies(c, seq_len, freq, &scale);
#else
    fh1_rope_frequencies_f32(c, seq_len, freq, &scale);
#endif
    for (int64_t m = 0; m < M; ++m)
        for (int64_t i = 0; i < half; ++i) {
            ref_part angle = (ref_part)position[m] * freq[i];
            if (REF_FAULT(ROPE_ANGLES_IN_BF16)) angle = r_re(r_round(FH1_ROUND_BF16, angle));
#if REF_BITS != 32
            cosines[m * half + i] = cos(angle) * scale;
            sines[m * half + i] = sin(angle) * scale;
#else
            cosines[m * half + i] = cosf(angle) * (float)scale;
            sines[m * half + i] = sinf(angle) * (float)scale;
#endif
        }
    const fh1_round r = REF_FAULT(ROPE_TABLE_IN_BF16) ? FH1_ROUND_BF16 : p->at[FH1_RP_ROPE_TABLE];
    REF(ref_round_row)(r, 2 * M * half, cos_sin);
}

void REF(ref_rope_fwd)(int64_t M, int64_t heads, int64_t A, const real *cos_sin, const fh1_profile *p, real *x)
{
    const int64_t half = A / 2;
    const fh1_round r = p->at[FH1_RP_ROPE], of_sum = p->at[FH1_RP_ROPE_SUM];
    FH1_REACHED(A == 2);
    const int64_t rotated = REF_FAULT(ROPE_HALF_OF_HEAD) ? half / 2 : half, step = REF_FAULT(ROPE_INTERLEAVED) ? 2 : 1;
    const int64_t apart = REF_FAULT(ROPE_INTERLEAVED) ? 1 : half;
    const real sign = REF_FAULT(ROPE_SIGN_FLIPPED) ? -1 : 1;
    for (int64_t m = 0; m < M; ++m)
        for (int64_t h = 0; h < heads; ++h) {
            real *head = x + (m * heads + h) * A;
            for (int64_t i = 0; i < rotated; ++i) {
                const real c = cos_sin[m * half + i], s = sign * cos_sin[(M + m) * half + i];
                real *lo = head + i * step, *hi = lo + apart;
                const real a = *lo, b = *hi;
                *lo = r_round(of_sum, r_round(r, a * c) + r_round(r, -b * s));
                *hi = r_round(of_sum, r_round(r, b * c) + r_round(r, a * s));
            }
        }
}
