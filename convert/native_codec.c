#define ZSTD_STATIC_LINKING_ONLY /* literalCompressionMode, ZSTD_getFrameHeader */
#include "convert/hash.h"
#include "convert/native_impl.h"
#include "oracle/clones.h"

#include "oracle/reached.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

/* No LZ matches, literals Huffman-coded: exponents are independent draws, in which matches cost time and bits. */
#define LEVEL_HUFFMAN (-131072)
#define LEVEL_PLAIN 3
#define WINDOW_MAX ((unsigned long long)8 << 20) /* what every zstd decoder supports (RFC 8878) */

struct native_lane {
    ZSTD_CCtx *huffman, *plain;
    ZSTD_DCtx *decoder;
    unsigned char *planes;
    size_t n_planes; /* bytes of room there */
};

fh1_status native_lane_new(native_lane **out)
{
    *out = calloc(1, sizeof **out); /* its parts are made when they are needed */
    return *out ? NULL : fh1_no_memory(sizeof **out, "the codec of one thread");
}

void native_lane_free(native_lane *l)
{
    if (!l) return;
    ZSTD_freeCCtx(l->huffman);
    ZSTD_freeCCtx(l->plain);
    ZSTD_freeDCtx(l->decoder);
    free(l->planes);
    free(l);
}

/* ---- planes ---- */

/* Elements of any alignment. */
typedef uint16_t __attribute__((may_alias, aligned(1))) element;
#define BLOCK 128 /* elements; a fixed count is what the compiler turns into vectors without asking questions */

FH1_CLONES void native_split_high(const unsigned char *restrict raw, unsigned char *restrict high, size_t n_elems)
{
    const element *restrict w = (const element *)raw;
    size_t i = 0;
    for (; i + BLOCK <= n_elems; i += BLOCK)
        for (int k = 0; k < BLOCK; k++) high[i + (size_t)k] = (unsigned char)(w[i + (size_t)k] >> 7);
    for (; i < n_elems; i++) high[i] = (unsigned char)(w[i] >> 7);
}

FH1_CLONES void native_split_low(const unsigned char *restrict raw, unsigned char *restrict low, size_t n_elems)
{
    const element *restrict w = (const element *)raw;
    size_t i = 0;
    for (; i + BLOCK <= n_elems; i += BLOCK)
        for (int k = 0; k < BLOCK; k++)
            low[i + (size_t)k] = (unsigned char)((w[i + (size_t)k] >> 8 & 0x80) | (w[i + (size_t)k] & 0x7f));
    for (; i < n_elems; i++) low[i] = (unsigned char)((w[i] >> 8 & 0x80) | (w[i] & 0x7f));
}

FH1_CLONES void native_join(const unsigned char *restrict high, const unsigned char *restrict low,
                            unsigned char *restrict raw, size_t n_elems)
{
    element *restrict w = (element *)raw;
    size_t i = 0;
    for (; i + BLOCK <= n_elems; i += BLOCK)
        for (int k = 0; k < BLOCK; k++) {
            const unsigned h = high[i + (size_t)k], l = low[i + (size_t)k];
            w[i + (size_t)k] = (uint16_t)(h << 7 | (l & 0x7f) | (l & 0x80) << 8);
        }
    for (; i < n_elems; i++) w[i] = (uint16_t)(high[i] << 7 | (low[i] & 0x7f) | (low[i] & 0x80) << 8);
}

/* ---- zstd ---- */

static fh1_status encoder(ZSTD_CCtx **c, int level)
{
    if (*c) return NULL;
    *c = ZSTD_createCCtx();
    if (!*c) return fh1_no_memory(1 << 20, "a zstd encoder");
    size_t e = ZSTD_CCtx_setParameter(*c, ZSTD_c_compressionLevel, level);
    if (!ZSTD_isError(e) && level == LEVEL_HUFFMAN)
        e = ZSTD_CCtx_setParameter(*c, ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
    if (ZSTD_isError(e)) return fh1_fail(FH1_E_INTERNAL, "zstd takes no level %d: %s", level, ZSTD_getErrorName(e));
    return NULL;
}

/* A frame counts when it saves a thirty-second at least; *stored is 0 otherwise. */
static fh1_status shrink(ZSTD_CCtx **c, int level, const void *in, size_t n, void *out, uint32_t *stored)
{
    FH1_TRY(encoder(c, level));
    size_t got = ZSTD_compress2(*c, out, n - n / 32, in, n);
    *stored = ZSTD_isError(got) || got >= n ? 0 : (uint32_t)got;
    if (ZSTD_isError(got) && ZSTD_getErrorCode(got) != ZSTD_error_dstSize_tooSmall)
        return fh1_fail(FH1_E_INTERNAL, "zstd cannot compress: %s", ZSTD_getErrorName(got));
    return NULL;
}

fh1_status native_zstd(const void *in, size_t n, int level, unsigned char **out, size_t *n_out)
{
    const size_t room = ZSTD_compressBound(n);
    *out = malloc(room);
    if (!*out) return fh1_no_memory(room, "compressed data");
    *n_out = ZSTD_compress(*out, room, in, n, level);
    if (!ZSTD_isError(*n_out)) return NULL;
    free(*out);
    *out = NULL;
    return fh1_fail(FH1_E_INTERNAL, "zstd cannot compress: %s", ZSTD_getErrorName(*n_out));
}

fh1_status native_unzstd(native_lane *l, const void *in, size_t n_in, void *dst, size_t n)
{
    ZSTD_frameHeader h;
    size_t e = ZSTD_getFrameHeader(&h, in, n_in);
    if (e != 0 || h.frameType != ZSTD_frame) return FH1_BAD("there is no whole zstd frame");
    if (h.frameContentSize != n)
        return fh1_found(fh1_expected(FH1_BAD("the zstd frame declares another size"), "%zu bytes", n), "%llu",
                         h.frameContentSize);
    if (h.windowSize > WINDOW_MAX || h.dictID != 0)
        return FH1_BAD("the zstd frame asks for a window of %llu bytes or a dictionary", h.windowSize);
    const size_t frame = ZSTD_findFrameCompressedSize(in, n_in);
    if (ZSTD_isError(frame) || frame != n_in) return FH1_BAD("the zstd frame is cut off, or something follows it");
    if (!l->decoder) l->decoder = ZSTD_createDCtx();
    if (!l->decoder) return fh1_no_memory(1 << 17, "a zstd decoder");
    const size_t got = ZSTD_decompressDCtx(l->decoder, dst, n, in, n_in);
    if (ZSTD_isError(got)) return FH1_BAD("the zstd frame is damaged: %s", ZSTD_getErrorName(got));
    if (got != n) return fh1_found(fh1_expected(FH1_BAD("the zstd frame ends early"), "%zu bytes", n), "%zu", got);
    return NULL;
}

/* ---- chunks ---- */

/* Do some bytes occur much more often than others? Signs and mantissas of trained weights are almost uniform, those of
 * constant or coarsely rounded ones are not. Looks at eight runs; integers, so that every machine decides the same. */
static bool uneven(const unsigned char *p, size_t n)
{
    enum { RUNS = 8, RUN = 512 };
    uint32_t count[256] = {0};
    uint64_t squares = 0, seen = 0;
    for (size_t r = 0; r < RUNS; r++) {
        const size_t begin = n > RUN ? r * ((n - RUN) / (RUNS - 1)) : 0, end = n > RUN ? begin + RUN : n;
        for (size_t i = begin; i < end; i++) count[p[i]]++;
        seen += end - begin;
    }
    for (int i = 0; i < 256; i++) squares += (uint64_t)count[i] * count[i];
    return squares > 2 * (seen + seen * seen / 256); /* uniform: seen + seen²/256; twice that is 7 bits of entropy */
}

static fh1_status need_planes(native_lane *l, size_t n)
{
    n = (size_t)native_pad(n);
    if (n <= l->n_planes) return NULL;
    free(l->planes);
    l->planes = aligned_alloc(NATIVE_ALIGN, n);
    l->n_planes = l->planes ? n : 0;
    return l->planes ? NULL : fh1_no_memory(n, "the planes of a chunk");
}

static void pad_with_zeros(unsigned char *plane, size_t n)
{
    memset(plane + n, 0, (size_t)native_pad(n) - n);
}

/* *done stays false when the exponents do not shrink. */
static fh1_status encode_split(native_lane *l, const unsigned char *raw, size_t n, unsigned char *out,
                               native_chunk *record, bool *done)
{
    const size_t n_elems = n / 2;
    FH1_TRY(need_planes(l, n));
    native_split_high(raw, l->planes, n_elems);
    FH1_TRY(shrink(&l->huffman, LEVEL_HUFFMAN, l->planes, n_elems, out, &record->stored[0]));
    if (!record->stored[0]) return NULL;
    pad_with_zeros(out, record->stored[0]);
    unsigned char *low = out + native_pad(record->stored[0]);
    native_split_low(raw, low, n_elems);
    record->layout = NATIVE_SPLIT16;
    record->codec[0] = NATIVE_ZSTD;
    record->codec[1] = NATIVE_RAW;
    record->stored[1] = (uint32_t)n_elems;
    if (uneven(low, n_elems)) {
        uint32_t stored;
        FH1_TRY(shrink(&l->plain, LEVEL_PLAIN, low, n_elems, l->planes, &stored));
        if (stored) {
            memcpy(low, l->planes, stored);
            record->codec[1] = NATIVE_ZSTD;
            record->stored[1] = stored;
        }
    }
    pad_with_zeros(low, record->stored[1]);
    *done = true;
    return NULL;
}

static fh1_status encode_plain(native_lane *l, const unsigned char *raw, size_t n, unsigned char *out,
                               native_chunk *record)
{
    FH1_TRY(shrink(&l->plain, LEVEL_PLAIN, raw, n, out, &record->stored[0]));
    record->layout = NATIVE_PLAIN;
    record->codec[0] = record->stored[0] ? NATIVE_ZSTD : NATIVE_RAW;
    record->codec[1] = NATIVE_RAW;
    record->stored[1] = 0;
    if (!record->stored[0]) {
        memcpy(out, raw, n);
        record->stored[0] = (uint32_t)n;
    }
    pad_with_zeros(out, record->stored[0]);
    return NULL;
}

fh1_status native_encode(native_lane *l, const void *raw, size_t n, bool split16, unsigned char *out,
                         native_chunk *record)
{
    bool done = false;
    record->bytes = (uint32_t)n;
    if (split16 && n % 2 == 0) FH1_TRY(encode_split(l, raw, n, out, record, &done));
    if (!done) FH1_TRY(encode_plain(l, raw, n, out, record));
    FH1_REACHED(record->layout == NATIVE_SPLIT16 && record->codec[1] == NATIVE_RAW);
    FH1_REACHED(record->layout == NATIVE_SPLIT16 && record->codec[1] == NATIVE_ZSTD);
    FH1_REACHED(record->layout == NATIVE_PLAIN && record->codec[0] == NATIVE_RAW);
    FH1_REACHED(record->layout == NATIVE_PLAIN && record->codec[0] == NATIVE_ZSTD);
    FH1_REACHED(split16 && !done); /* exponents that do not shrink */
    record->checksum = cvt_hash64(out, (size_t)native_span(record));
    return NULL;
}

/* A plane as it lies in the file, or decoded into `room`. */
static fh1_status decode_plane(native_lane *l, const native_chunk *c, int plane, const unsigned char *in, size_t n,
                               unsigned char *room, const unsigned char **out)
{
    *out = c->codec[plane] == NATIVE_RAW ? in : room;
    if (c->codec[plane] == NATIVE_RAW) return NULL;
    return fh1_where(native_unzstd(l, in, c->stored[plane], room, n), "plane %d", plane);
}

static bool all_zero(const unsigned char *p, size_t n)
{
    unsigned char any = 0;
    for (size_t i = 0; i < n; i++) any |= p[i];
    return any == 0;
}

fh1_status native_decode(native_lane *l, const native_chunk *c, const unsigned char *in, void *dst)
{
    const unsigned char *in1 = in + native_pad(c->stored[0]), *high, *low;
    const uint64_t sum = cvt_hash64(in, (size_t)native_span(c));
    if (sum != c->checksum)
        return fh1_found(fh1_expected(FH1_BAD("the checksum of the chunk does not fit its bytes: the file is damaged"),
                                      "%016llx", (unsigned long long)c->checksum),
                         "%016llx", (unsigned long long)sum);
    if (!all_zero(in + c->stored[0], (size_t)native_pad(c->stored[0]) - c->stored[0]) ||
        !all_zero(in1 + c->stored[1], (size_t)native_pad(c->stored[1]) - c->stored[1]))
        return FH1_BAD("the bytes between planes are not zero");
    if (c->layout == NATIVE_PLAIN) {
        FH1_TRY(decode_plane(l, c, 0, in, c->bytes, dst, &high));
        if (high != dst) memcpy(dst, high, c->bytes);
        return NULL;
    }
    const size_t n_elems = c->bytes / 2;
    FH1_TRY(need_planes(l, c->bytes));
    FH1_TRY(decode_plane(l, c, 0, in, n_elems, l->planes, &high));
    FH1_TRY(decode_plane(l, c, 1, in1, n_elems, l->planes + n_elems, &low));
    native_join(high, low, dst, n_elems);
    return NULL;
}
