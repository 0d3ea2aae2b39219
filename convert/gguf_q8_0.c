/* ggml's q8_0, with the arithmetic of its reference encoder: all of it in f32, so that the bytes are the same. */
#include "convert/gguf_map.h"

#include "oracle/clones.h"
#include "oracle/round.h"

#include <float.h>
#include <math.h>

#define BLOCK 32
#define BLOCK_BYTES 34

/* As roundf, ties away from zero, in a form that compilers vectorise; both steps are exact. */
static inline float round_away(float v)
{
    const float whole = truncf(v), rest = v - whole;
    return rest >= 0.5f ? whole + 1 : rest <= -0.5f ? whole - 1 : whole;
}

FH1_CLONES void cvt_gguf_q8_0_encode(const float *v, int64_t n, unsigned char *out)
{
    for (int64_t b = 0; b < n / BLOCK; b++, v += BLOCK, out += BLOCK_BYTES) {
        float most = 0;
        for (int i = 0; i < BLOCK; i++) most = fabsf(v[i]) > most ? fabsf(v[i]) : most;
        const float d = most / 127.0f, inverse = d > FLT_MIN ? 1.0f / d : 0.0f; /* the scale of a smaller one is 0 */
        const uint16_t scale = fh1_f32_to_f16(d);
        signed char q[BLOCK];
        for (int i = 0; i < BLOCK; i++) q[i] = (signed char)(int)round_away(v[i] * inverse);
        out[0] = (unsigned char)(scale & 0xff);
        out[1] = (unsigned char)(scale >> 8);
        for (int i = 0; i < BLOCK; i++) out[2 + i] = (unsigned char)q[i];
    }
}

void cvt_gguf_q8_0_decode(const unsigned char *in, int64_t n, double *v)
{
    for (int64_t b = 0; b < n / BLOCK; b++, v += BLOCK, in += BLOCK_BYTES) {
        const double d = (double)fh1_f16_to_f32((uint16_t)(in[0] | in[1] << 8));
        for (int i = 0; i < BLOCK; i++) v[i] = d * (double)(signed char)in[2 + i];
    }
}
