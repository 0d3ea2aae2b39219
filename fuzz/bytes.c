/* LLVMFuzzerMutate for those who run targets without libFuzzer: fuzz_replay.c and AFL++'s mutators. */
#include "fuzz/bytes.h"

#include "fuzz/fuzz.h"

#include <string.h>

static fuzz_rng rng;

void fuzz_bytes_seed(uint64_t seed)
{
    rng.s = seed + 1;
}

static size_t insert(fuzz_rng *r, uint8_t *data, size_t size, size_t max_size)
{
    size_t n = 1 + fuzz_below(r, fuzz_below(r, 4) ? 4 : 64), at = fuzz_below(r, size + 1);
    if (n > max_size - size) n = max_size - size;
    memmove(data + at + n, data + at, size - at);
    const uint8_t with = (uint8_t)fuzz_next(r);
    const bool one_value = fuzz_below(r, 2);
    for (size_t i = 0; i < n; i++) data[at + i] = one_value ? with : (uint8_t)fuzz_next(r);
    return size + n;
}

static size_t erase(fuzz_rng *r, uint8_t *data, size_t size)
{
    const size_t at = fuzz_below(r, size), n = 1 + fuzz_below(r, size - at < 64 ? size - at : 64);
    memmove(data + at, data + at + n, size - at - n);
    return size - n;
}

static size_t duplicate(fuzz_rng *r, uint8_t *data, size_t size, size_t max_size)
{
    const size_t from = fuzz_below(r, size), to = fuzz_below(r, size + 1);
    size_t n = 1 + fuzz_below(r, size - from < 64 ? size - from : 64);
    uint8_t part[64];
    if (n > max_size - size) n = max_size - size;
    memcpy(part, data + from, n);
    memmove(data + to + n, data + to, size - to);
    memcpy(data + to, part, n);
    return size + n;
}

/* Little-endian numbers of 1, 2, 4 or 8 bytes: a small step, or a value at which types and sizes end. */
static void change_number(fuzz_rng *r, uint8_t *data, size_t size)
{
    static const uint64_t edges[] = {0,         1,          0x7f,       0x80,       0xff,      0x7fff,
                                     0xffff,    0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, UINT64_C(1) << 63,
                                     UINT64_MAX};
    size_t width = (size_t)1 << fuzz_below(r, 4);
    while (width > size) width /= 2;
    const size_t at = fuzz_below(r, size - width + 1);
    uint64_t v = 0;
    memcpy(&v, data + at, width);
    if (fuzz_below(r, 2)) v += fuzz_below(r, 33) - 16;
    else v = edges[fuzz_below(r, sizeof edges / sizeof *edges)];
    memcpy(data + at, &v, width);
}

/* Weak, for some versions of AFL++'s driver have one too. */
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    fuzz_rng *r = &rng;
    if (!max_size) return 0;
    switch (size ? fuzz_below(r, 6) : 0) {
    case 0:
    case 1: return size < max_size ? insert(r, data, size, max_size) : size;
    case 2: return erase(r, data, size);
    case 3: return size < max_size ? duplicate(r, data, size, max_size) : size;
    case 4: change_number(r, data, size); return size;
    default: data[fuzz_below(r, size)] ^= (uint8_t)(1u << fuzz_below(r, 8)); return size;
    }
}
