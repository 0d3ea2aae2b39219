/* What the kernels of the scan over chunks (ssd_chunk.cuh) read, and how it lies in shared memory. A chunk is fetched
 * while the one before it is worked on. */
#pragma once

#include "cuda/ssd_scan.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{

constexpr int SSD_CHUNK = 64, SSD_SLICE = 64, SSD_THREADS = 256;
constexpr int SSD_LDX = SSD_SLICE + 8, SSD_LDM = SSD_CHUNK + 8, SSD_LDY = SSD_SLICE + 4; /* padded: no bank conflicts */

/* Shared memory: `stages` tiles of each operand, of which the pointers name the current one. `y` [2, chunk, LDY], one
 * part from each half of the columns; the scores lie in it before. */
struct ssd_tiles {
    bf16 *x, *B, *C; /* [chunk, LDX], [chunk, N + 8] twice */
    float *y;
    float *hi, *lo, *dt; /* [chunk] c = hi + lo */
    int *start;          /* [chunk] first token of the document in the chunk, -1: before it */
};

static __host__ __device__ inline size_t ssd_carve(ssd_tiles *s, unsigned char *base, int N, int stages, bool outputs)
{
    cu_carve c(base);
    const size_t tokens = static_cast<size_t>(stages) * SSD_CHUNK;
    s->x = c.take<bf16>(tokens * SSD_LDX);
    s->B = c.take<bf16>(tokens * (N + 8));
    s->C = outputs ? c.take<bf16>(tokens * (N + 8)) : nullptr;
    s->y = outputs ? c.take<float>(2 * SSD_CHUNK * SSD_LDY) : nullptr;
    s->hi = c.take<float>(SSD_CHUNK);
    s->lo = c.take<float>(SSD_CHUNK);
    s->dt = c.take<float>(SSD_CHUNK);
    s->start = c.take<int>(SSD_CHUNK);
    return c.off;
}

/* The same with the operands `by` stages on. */
CU_FN ssd_tiles ssd_stage(ssd_tiles s, int N, int by)
{
    s.x += by * SSD_CHUNK * SSD_LDX;
    s.B += by * SSD_CHUNK * (N + 8);
    if (s.C) s.C += by * SSD_CHUNK * (N + 8);
    return s;
}

/* What one block works on, and where its warp stands in it. */
struct ssd_place {
    int row, h, p0, width; /* rows p0 .. p0 + width of the state */
    int lane, half, p;     /* the warp's rows are p0 + p .. +16 */
    int n0, tiles;         /* its columns: `tiles` times 16 from n0 on */
    bool idle;             /* no rows */
};

CU_FN ssd_place ssd_place_of(const cu_ssd &a, int row, int h, int slice)
{
    ssd_place b;
    const int warp = threadIdx.x >> 5, all = a.N / 16;
    b.row = row, b.h = h, b.p0 = slice * SSD_SLICE;
    b.width = a.P - b.p0 < SSD_SLICE ? a.P - b.p0 : SSD_SLICE;
    b.lane = threadIdx.x & 31, b.half = warp >> 2, b.p = 16 * (warp & 3);
    b.n0 = b.half * ((all + 1) / 2) * 16;
    b.tiles = b.half ? all / 2 : (all + 1) / 2;
    b.idle = b.p >= b.width;
    return b;
}

/* v = hi + lo to about 17 bits, as fragments of two bf16 each. */
CU_FN void split(float v0, float v1, uint32_t &hi, uint32_t &lo)
{
    hi = pack_bf16(v0, v1);
    const float2 h = unpack_bf16(hi);
    /* what is infinite has no low part: inf - inf would make it a NaN */
    lo = pack_bf16(fabsf(h.x) < INFINITY ? v0 - h.x : 0.f, fabsf(h.y) < INFINITY ? v1 - h.y : 0.f);
}

/* ---- reading a chunk ---- */

/* One operand's tile, zeros beyond the last token. `columns` a multiple of 8. */
CU_FN void ssd_fetch(bf16 *tile, int ld, const bf16 *from, int64_t ldx, int columns, int tokens)
{
    const int pieces = columns / 8;
    for (int i = threadIdx.x; i < SSD_CHUNK * pieces; i += SSD_THREADS) {
        const int t = i / pieces, c = 8 * (i - t * pieces);
        cp_async16(tile + t * ld + c, from + (t < tokens ? t : 0) * ldx + c, t < tokens);
    }
}

/* What the first warp reads of two tokens a lane: their steps, and where their documents begin in the chunk, -1:
 * before. Zero and -1 beyond the last one. */
struct ssd_steps {
    float dt[2];
    int start[2];
};

/* Starts to read the chunk at t0. Without tokens it only closes the group of copies, so that waiting counts them. */
template <bool OUTPUTS>
CU_FN ssd_steps ssd_fetch_chunk(const cu_ssd &a, const ssd_tiles &s, const ssd_place &b, int64_t t0, int tokens)
{
    ssd_steps r = {{0.f, 0.f}, {-1, -1}};
    if (tokens > 0) {
        const bf16 *x = static_cast<const bf16 *>(a.xbc) + t0 * a.ldx;
        const bf16 *B = x + static_cast<int64_t>(a.H) * a.P + static_cast<int64_t>(b.h / (a.H / a.G)) * a.N;
        ssd_fetch(s.x, SSD_LDX, x + static_cast<int64_t>(b.h) * a.P + b.p0, a.ldx, b.width, tokens);
        ssd_fetch(s.B, a.N + 8, B, a.ldx, a.N, tokens);
        if (OUTPUTS) ssd_fetch(s.C, a.N + 8, B + static_cast<int64_t>(a.G) * a.N, a.ldx, a.N, tokens);
    }
    cp_async_commit();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int t = 2 * b.lane + i;
        if (threadIdx.x >= 32 || t >= tokens) continue;
        const int64_t start = a.t.start[t0 + t];
        r.dt[i] = a.dt[(t0 + t) * a.H + b.h];
        r.start[i] = start >= t0 ? static_cast<int>(start - t0) : -1;
    }
    return r;
}

CU_FN bool not_finite(uint32_t pair)
{
    return (pair & 0x7f80u) == 0x7f80u || (pair & 0x7f800000u) == 0x7f800000u;
}

/* Whether what this thread has fetched holds an infinity or a NaN. */
CU_FN bool ssd_not_finite(const bf16 *tile, int ld, int columns)
{
    const int pieces = columns / 8;
    bool bad = false;
    for (int i = threadIdx.x; i < SSD_CHUNK * pieces; i += SSD_THREADS) {
        const int t = i / pieces, c = 8 * (i - t * pieces);
        const uint4 v = *reinterpret_cast<const uint4 *>(tile + t * ld + c);
        bad |= not_finite(v.x) || not_finite(v.y) || not_finite(v.z) || not_finite(v.w);
    }
    return bad;
}

/* By one warp: dt, c and documents of the chunk's tokens to shared memory. Whether this lane's are finite. */
CU_FN bool ssd_decays(const ssd_tiles &s, const ssd_steps &r, double A, int lane)
{
    const double c0 = r.dt[0] * A, c1 = r.dt[1] * A;
    double sum = c0 + c1;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const double left = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += left;
    }
    double v = __shfl_up_sync(0xffffffffu, sum, 1);
    if (lane == 0) v = 0;
    bool good = true;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        v += i ? c1 : c0;
        const float hi = static_cast<float>(v);
        s.hi[2 * lane + i] = hi;
        s.lo[2 * lane + i] = static_cast<float>(v - static_cast<double>(hi));
        s.dt[2 * lane + i] = r.dt[i];
        s.start[2 * lane + i] = r.start[i];
        good = good && fabsf(hi) < INFINITY && fabsf(r.dt[i]) < INFINITY;
    }
    return good;
}

/* The chunk that was fetched before the last one, ready for all threads. True where it has to be walked. */
template <bool OUTPUTS>
CU_FN bool ssd_wait_chunk(const cu_ssd &a, const ssd_tiles &s, const ssd_place &b, const ssd_steps &r)
{
    bool bad = false;
    if (threadIdx.x < 32) bad = !ssd_decays(s, r, a.A[b.h], b.lane);
    cp_async_wait<1>();
    bad |= ssd_not_finite(s.x, SSD_LDX, b.width) || ssd_not_finite(s.B, a.N + 8, a.N);
    if (OUTPUTS) bad |= ssd_not_finite(s.C, a.N + 8, a.N);
    return __syncthreads_or(bad) != 0;
}

/* ---- fragments: where lane `lane` points ldmatrix.x4 to ---- */

/* A right operand stored [n][k]: n16 x k16 as two n8 tiles, registers {0,1} and {2,3}. */
CU_FN const bf16 *right_nk(const bf16 *tile, int ld, int lane)
{
    return tile + ((lane & 7) + ((lane >> 4) << 3)) * ld + ((lane >> 3) & 1) * 8;
}
/* A right operand stored [k][n], for the transposing load. */
CU_FN const bf16 *right_kn(const bf16 *tile, int ld, int lane)
{
    return tile + ((lane & 7) + (((lane >> 3) & 1) << 3)) * ld + (lane >> 4) * 8;
}
/* A left operand stored [m][k]. */
CU_FN const bf16 *left_mk(const bf16 *tile, int ld, int lane)
{
    return tile + (lane & 15) * ld + (lane >> 4) * 8;
}
/* A left operand stored [k][m], for the transposing load. */
CU_FN const bf16 *left_km(const bf16 *tile, int ld, int lane)
{
    return tile + ((lane & 7) + ((lane >> 4) << 3)) * ld + ((lane >> 3) & 1) * 8;
}

/* d0, d1 += left · the two n8 tiles of `right` */
CU_FN void mma_pair(float (&d0)[4], float (&d1)[4], const uint32_t (&left)[4], const uint32_t (&right)[4])
{
    const uint32_t r0[2] = {right[0], right[1]}, r1[2] = {right[2], right[3]};
    mma_m16n8k16_bf16(d0, left, r0);
    mma_m16n8k16_bf16(d1, left, r1);
}

} // namespace CU_NS
