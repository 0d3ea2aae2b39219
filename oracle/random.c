#include "oracle/random.h"

#include <assert.h>
#include <math.h>

#define PHI 0x9e3779b97f4a7c15u /* 2^64 / golden ratio, odd: steps that never settle into a pattern */

/* A bijection of 64 bits in which every input bit flips each output bit half of the time. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

fh1_stream fh1_stream_open(uint64_t seed, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) hash = (hash ^ *p) * 0x100000001b3u;
    return (fh1_stream){mix(mix(seed + PHI) + hash)};
}

/* Adding the key between the two rounds keeps streams apart whose keys differ by a multiple of PHI:
 * without it they would be the same sequence, shifted. */
uint64_t fh1_random_u64(fh1_stream s, uint64_t index)
{
    return mix(mix(s.key + PHI * (index + 1)) + s.key);
}

double fh1_random_uniform(fh1_stream s, uint64_t index)
{
    return (double)(fh1_random_u64(s, index) >> 11) * 0x1p-53;
}

int64_t fh1_random_below(fh1_stream s, uint64_t index, int64_t n)
{
    assert(n > 0);
    /* The upper half of the 128-bit product; uneven by less than n / 2^64. */
    __extension__ unsigned __int128 product = fh1_random_u64(s, index);
    product *= (uint64_t)n;
    return (int64_t)(product >> 64);
}

/* ln(s) for normal s > 0: s = m·2^e with m in [sqrt(1/2), sqrt(2)), ln(m) = 2·atanh(t), where
 * t = (m-1)/(m+1), |t| < 0.172; twelve terms of the series leave less than 1e-17. */
static double natural_log(double s)
{
    int e;
    double m = frexp(s, &e);
    if (m < 0.70710678118654752) {
        m *= 2;
        e -= 1;
    }
    double t = (m - 1) / (m + 1), t2 = t * t, sum = 0;
    for (int k = 23; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
    return 0.69314718055994531 * e + 2 * t * sum;
}

double fh1_random_normal(fh1_stream s, uint64_t index)
{
    for (uint64_t a = 0;; a++) {
        fh1_stream sx = {mix(s.key + 2 * a + 1)}, sy = {mix(s.key + 2 * a + 2)};
        double x = 2 * fh1_random_uniform(sx, index) - 1;
        double y = 2 * fh1_random_uniform(sy, index) - 1;
        double r2 = x * x + y * y;
        if (r2 > 0 && r2 < 1) return x * sqrt(-2 * natural_log(r2) / r2);
    }
}
