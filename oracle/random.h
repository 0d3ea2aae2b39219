/* Counter-based random numbers: a pure function of (seed, name, index), so that any element of any
 * synthetic tensor can be recomputed anywhere, in any order, on any machine. In 64-bit arithmetic:
 *
 *   mix(z):  z ^= z >> 30, z *= 0xbf58476d1ce4e5b9, z ^= z >> 27, z *= 0x94d049bb133111eb, z ^= z >> 31
 *   phi    = 0x9e3779b97f4a7c15
 *   hash   = FNV-1a of the name's bytes
 *   key    = mix(mix(seed + phi) + hash)
 *   u64    = mix(mix(key + phi·(index + 1)) + key)
 *   normal = Marsaglia's polar method: attempt a = 0, 1, … takes x and y = 2·uniform − 1 from the
 *            streams with the keys mix(key + 2a + 1) and mix(key + 2a + 2) at the same index, until
 *            0 < s = x² + y² < 1; then x·sqrt(−2 ln(s) / s). ln is our own, of additions and products
 *            in a fixed order, because libraries differ in its last bit. */
#pragma once

#include <stdint.h>

typedef struct {
    uint64_t key;
} fh1_stream;

fh1_stream fh1_stream_open(uint64_t seed, const char *name);
uint64_t fh1_random_u64(fh1_stream s, uint64_t index);
double fh1_random_uniform(fh1_stream s, uint64_t index);           /* in [0, 1), 53 bits */
int64_t fh1_random_below(fh1_stream s, uint64_t index, int64_t n); /* in [0, n), n > 0 */
double fh1_random_normal(fh1_stream s, uint64_t index);            /* mean 0, variance 1 */
