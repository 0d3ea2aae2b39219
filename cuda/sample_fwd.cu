/* Sampling in two steps: the best logit of pieces of each row, by as many blocks as the device has room for; then a
 * block per row that merges them and, above temperature 0, filters and draws. sample.cuh says what exactly. */
#include "cuda/philox.h"
#include "cuda/sample.cuh"
#include "cuda/sample_draw.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

enum { PIECES = 64 };

/* -- the best logit ------------------------------------------------------------------------------ */

struct best {
    float v;
    int id; /* -1: a NaN is among them; INT_MAX: nothing yet */
};

/* NaN over everything, then the larger, then the lower id. */
CU_FN best better(best a, best b)
{
    if (a.id < 0 || b.id < 0) return a.id < 0 ? a : b;
    if (b.v > a.v || (b.v == a.v && b.id < a.id)) return b;
    return a;
}

CU_FN best take(best a, float v, int id)
{
    const best b = {v, v == v ? id : -1};
    return better(a, b);
}

CU_FN best nothing()
{
    const best b = {-INFINITY, INT32_MAX};
    return b;
}

CU_FN best warp_best(best a)
{
#pragma unroll
    for (int o = 16; o; o >>= 1) {
        best b;
        b.v = __shfl_xor_sync(0xffffffffu, a.v, o);
        b.id = __shfl_xor_sync(0xffffffffu, a.id, o);
        a = better(a, b);
    }
    return a;
}

/* part[m, p] = the best of piece p of row m; pieces of `length` logits, a multiple of 4. */
__global__ void best_piece_k(int V, int length, bool aligned, const float *logits, best *part)
{
    SHARED(best, warps, [8]);
    const int64_t m = blockIdx.y;
    const float *l = logits + m * V;
    const int from = static_cast<int>(blockIdx.x) * length, to = V - from < length ? V : from + length;
    const int t = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
    best b = nothing();
    const int wide = aligned ? from + (to - from) / 4 * 4 : from;
    for (int i = from + 4 * t; i < wide; i += 4 * n) {
        const float4 v = *reinterpret_cast<const float4 *>(l + i);
        b = take(take(take(take(b, v.x, i), v.y, i + 1), v.z, i + 2), v.w, i + 3);
    }
    for (int i = wide + t; i < to; i += n) b = take(b, l[i], i);
    b = warp_best(b);
    if ((t & 31) == 0) warps[t >> 5] = b;
    __syncthreads();
    if (t != 0) return;
    for (int w = 1; w < n / 32; ++w) b = better(b, warps[w]);
    part[m * gridDim.x + blockIdx.x] = b;
}

/* The pieces of a row by one warp; all its lanes get the answer. */
CU_FN best merged(const best *part, int pieces)
{
    best b = nothing();
    for (int i = static_cast<int>(threadIdx.x) & 31; i < pieces; i += 32) b = better(b, part[i]);
    return warp_best(b);
}

__global__ void greedy_k(int pieces, const best *part, int *token)
{
    const int64_t m = blockIdx.x;
    const best b = merged(part + m * pieces, pieces);
    if (threadIdx.x == 0) token[m] = b.id;
}

struct sampling {
    int V, pieces, top_k;
    const float *logits;
    const best *part;
    double scale, top_p;
    uint64_t seed;
    const int64_t *step, *stream;
    int *token;
};

__global__ void __launch_bounds__(THREADS) sample_k(sampling a)
{
    SHARED(u64, bin, [BINS]);
    SHARED(u64, of_warp, [WARPS]);
    SHARED(u64, found, [2]);
    const int64_t m = blockIdx.x;
    const best b = merged(a.part + m * a.pieces, a.pieces);
    if (b.id < 0) { /* the same for all threads */
        if (threadIdx.x == 0) a.token[m] = -1;
        return;
    }
    const row r = {a.V, a.logits + m * a.V, b.v, a.scale};
    const shared s = {bin, of_warp, found};
    cut c = {0, 0}; /* no key is 0 but a NaN's */
    if (a.top_k > 0 && a.top_k < a.V) c = beginning<false>(r, s, c, static_cast<u64>(a.top_k));
    if (a.top_p < 1) {
        const double want = ceil(a.top_p * static_cast<double>(kept_sum(r, s, c)));
        c = beginning<true>(r, s, c, want >= 1 ? static_cast<u64>(want) : 1ull);
    }
    const uint64_t step = static_cast<uint64_t>(a.step[m]), stream = static_cast<uint64_t>(a.stream ? a.stream[m] : m);
    const uint4 random = philox4x32_10(make_uint4(static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32),
                                                  static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)),
                                       make_uint2(static_cast<uint32_t>(a.seed), static_cast<uint32_t>(a.seed >> 32)));
    const int token = drawn(r, s, c, static_cast<u64>(random.y) << 32 | random.x);
    if (threadIdx.x == 0) a.token[m] = token;
}

} // namespace

size_t cu_sample_scratch(int M, int V)
{
    (void)V;
    return static_cast<size_t>(M > 0 ? M : 1) * PIECES * sizeof(best);
}

fh1_status cu_sample_fwd(cu_ctx *k, const cu_sample *a)
{
    if (a->M <= 0) return NULL;
    if (!(a->temperature >= 0) || !(a->temperature <= 3.4e38f))
        return fh1_found(FH1_BAD("the temperature is a number from 0 on"), "%g", static_cast<double>(a->temperature));
    if (a->top_k < 0) return fh1_found(FH1_BAD("top-k is a number from 0 on"), "%d", a->top_k);
    if (!(a->top_p >= 0) || !(a->top_p <= 1))
        return fh1_found(FH1_BAD("top-p is a number from 0 to 1"), "%g", static_cast<double>(a->top_p));
    if (a->V <= 0) return FH1_BAD("no token can be taken from no logits");

    /* pieces of at least 2048 logits, two blocks for each multiprocessor */
    int pieces = 2 * k->sms / a->M, most = (a->V + 2047) / 2048;
    pieces = pieces < 1 ? 1 : pieces > PIECES ? PIECES : pieces;
    pieces = pieces > most ? most : pieces;
    const int length = ((a->V + pieces - 1) / pieces + 3) / 4 * 4;
    pieces = (a->V + length - 1) / length;
    const bool aligned = k->path == CU_AUTO && reinterpret_cast<uintptr_t>(a->logits) % 16 == 0 && a->V % 4 == 0;
    best *part = static_cast<best *>(a->scratch);
    const unsigned rows = static_cast<unsigned>(a->M);
    for (unsigned at = 0; at < rows; at += 65535) { /* the most that a grid is high */
        const unsigned n = rows - at < 65535 ? rows - at : 65535;
        LAUNCH(best_piece_k, dim3(static_cast<unsigned>(pieces), n), 256, 0, k->stream, a->V, length, aligned,
               a->logits + static_cast<int64_t>(at) * a->V, part + static_cast<int64_t>(at) * pieces);
    }
    FH1_TRY(cu_launched("sample, best of pieces"));
    if (a->temperature == 0) {
        LAUNCH(greedy_k, rows, 32, 0, k->stream, pieces, static_cast<const best *>(part), a->token);
        return cu_launched("sample, greedy");
    }
    const double log2_e = 1.4426950408889634;
    const sampling p = {a->V,
                        pieces,
                        a->top_k,
                        a->logits,
                        part,
                        log2_e / static_cast<double>(a->temperature),
                        static_cast<double>(a->top_p),
                        a->seed,
                        a->step,
                        a->stream,
                        a->token};
    LAUNCH(sample_k, rows, THREADS, 0, k->stream, p);
    return cu_launched("sample");
}

} // namespace CU_NS
