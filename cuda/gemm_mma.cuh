/* bf16 products by tensor cores: the kernel behind gemm_skinny_fwd.cu and gemm_tiled_fwd.cu.
 *
 * A tile is BN rows of W by BM rows of x; W is the operand with 16 rows of mma.m16n8k16, so that a few rows of x cost
 * no more than they are. K goes by in slices of 64, through a ring of STAGES buffers filled by cp.async; in a buffer
 *
 *     | W: BN rows of 8 pieces of 16 bytes | x: BM rows of 8 pieces |      piece p of row r lies at p ^ (r % 8)
 *
 * so that neither the copies nor ldmatrix meet in a bank. WN x WM warps share a tile.
 *
 * All slices of all tiles stand in one line, which is cut into equal parts, one per block: every multiprocessor loads
 * the same number of bytes, whatever the number of tiles. The ring does not stop between tiles. Where a cut falls into
 * a tile, each block stores its part of the sums; the last to arrive adds the parts in their order, so that the result
 * does not depend on the order in which blocks run. With one block per tile (no scratch) there are no such cuts. */
#pragma once

#include "cuda/blas.h"
#include "cuda/linear.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{

enum { CU_MMA_SLICE = 64, CU_MMA_PIECES = 8 }; /* of K; 16-byte pieces in it */

struct cu_mma_job {
    cu_linear a;
    cu_scratch scratch;
    int tiles_m, tiles, slices; /* tile t: rows t / tiles_m of W, t % tiles_m of x */
};

struct cu_mma_smem {
    unsigned char *ring;
    float *out; /* [rows of x at a time][BN + 4] */
    int *last;
};

/* Rows of x whose results pass through shared memory at a time. */
template <int BM> __host__ __device__ constexpr int mma_out_rows()
{
    return BM < 32 ? BM : 32;
}
template <int BN, int BM, int STAGES> __host__ __device__ inline size_t mma_carve(cu_mma_smem &s, unsigned char *base)
{
    cu_carve c(base);
    s.ring = c.take<unsigned char>(static_cast<size_t>(STAGES) * (BN + BM) * CU_MMA_PIECES * 16, 128);
    s.out = c.take<float>(static_cast<size_t>(mma_out_rows<BM>()) * (BN + 4));
    s.last = c.take<int>(1);
    return c.off;
}

/* Where in a buffer piece p of row r lies. */
CU_FN int mma_at(int r, int p)
{
    return (r * CU_MMA_PIECES + (p ^ (r % 8))) * 16;
}

/* Starts the copy of one slice of tile `tile`, ROWS rows; zeros where rows or K end. K is a multiple of 8. A thread has
 * the same piece of every STEP-th row. */
template <int ROWS, int THREADS>
CU_FN void mma_load(unsigned char *to, const bf16 *from, int64_t ld, int tile, int rows, int k0, int K)
{
    constexpr int STEP = THREADS / CU_MMA_PIECES;
    static_assert(STEP % 8 == 0 && (ROWS % STEP == 0 || ROWS < STEP), "a thread's pieces share their place in a row");
    const int r0 = threadIdx.x / CU_MMA_PIECES, p = threadIdx.x % CU_MMA_PIECES;
    if (ROWS < STEP && r0 >= ROWS) return;
    const int64_t row = static_cast<int64_t>(tile) * ROWS + r0;
    const int left = k0 + 8 * p >= K || row >= rows ? 0 : rows - static_cast<int>(row); /* rows from this one on */
    const bf16 *src = from + row * ld + k0 + 8 * p;
    to += mma_at(r0, p);
#pragma unroll
    for (int i = 0; i < (ROWS + STEP - 1) / STEP; ++i)
        cp_async16(to + i * STEP * CU_MMA_PIECES * 16, i * STEP < left ? src + i * STEP * ld : from, i * STEP < left);
}

/* acc += one slice: NT tiles of 16 rows of W by MT tiles of 8 rows of x, of this warp. */
template <int NT, int MT>
CU_FN void mma_slice(const unsigned char *w, const unsigned char *x, int n0, int m0, float (&acc)[NT][MT][4])
{
    const int lane = threadIdx.x & 31, quarter = lane / 8, row = lane % 8;
    uint32_t single[4]; /* MT 1: two steps of K at once */
#pragma unroll
    for (int kk = 0; kk < CU_MMA_SLICE / 16; ++kk) {
        uint32_t a[NT][4], b[MT][2];
#pragma unroll
        for (int i = 0; i < NT; ++i)
            ldmatrix_x4(a[i], w + mma_at(n0 + 16 * i + quarter % 2 * 8 + row, 2 * kk + quarter / 2));
        if constexpr (MT == 1) {
            if (kk % 2 == 0) ldmatrix_x4(single, x + mma_at(m0 + row, 2 * kk + quarter));
            b[0][0] = single[kk % 2 * 2];
            b[0][1] = single[kk % 2 * 2 + 1];
        } else {
#pragma unroll
            for (int j = 0; j < MT; j += 2) {
                uint32_t r[4];
                ldmatrix_x4(r, x + mma_at(m0 + 8 * j + quarter / 2 * 8 + row, 2 * kk + quarter % 2));
                b[j][0] = r[0];
                b[j][1] = r[1];
                b[j + 1][0] = r[2];
                b[j + 1][1] = r[3];
            }
        }
#pragma unroll
        for (int i = 0; i < NT; ++i)
#pragma unroll
            for (int j = 0; j < MT; ++j) mma_m16n8k16_bf16(acc[i][j], a[i], b[j]);
    }
}

/* First unit (slice of a tile) of block b. */
CU_FN int mma_first(const cu_mma_job &g, int b)
{
    return static_cast<int>(static_cast<int64_t>(g.tiles) * g.slices * b / gridDim.x);
}
/* The block that has unit u. */
CU_FN int mma_block_of(const cu_mma_job &g, int u)
{
    return static_cast<int>(((static_cast<int64_t>(u) + 1) * gridDim.x - 1) /
                            (static_cast<int64_t>(g.tiles) * g.slices));
}
/* Where block b keeps its part of a tile: a block has at most two, one that began before it and one that goes on after.
 */
template <int BN, int BM> CU_FN float *mma_part(const cu_mma_job &g, int b, int tile)
{
    const int64_t slot = 2 * static_cast<int64_t>(b) + (mma_first(g, b) > tile * g.slices ? 0 : 1);
    return g.scratch.part + slot * BN * BM;
}

/* y of tile `tile`, element (n, m) inside. */
template <int BN, int BM> CU_FN void mma_store_y(const cu_mma_job &g, int tile, int n, int m, float sum)
{
    const int64_t col = static_cast<int64_t>(tile / g.tiles_m) * BN + n,
                  row = static_cast<int64_t>(tile % g.tiles_m) * BM + m;
    if (col >= g.a.N || row >= g.a.M) return;
    const float v = g.a.alpha * sum + (g.a.b ? g.a.b[col] : 0.f);
    if (g.a.y_type == CU_F32) store(static_cast<float *>(g.a.y) + row * g.a.ldy + col, v);
    else store(static_cast<bf16 *>(g.a.y) + row * g.a.ldy + col, v);
}

/* The warp's sums of the slices of one tile that this block had: through shared memory, so that neighbours store
 * neighbours, to y if that was all of the tile, else to the block's part. */
template <int BN, int BM, int WN, int WM, int NT, int MT>
CU_FN void mma_finish(const cu_mma_job &g, const cu_mma_smem &s, int tile, bool whole, const float (&acc)[NT][MT][4])
{
    constexpr int ROWS = mma_out_rows<BM>(), LD = BN + 4, THREADS = 32 * WN * WM;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n0 = warp % WN * 16 * NT, m0 = warp / WN * 8 * MT;
    float *part = whole ? nullptr : mma_part<BN, BM>(g, blockIdx.x, tile);
#pragma unroll 1
    for (int at = 0; at < BM; at += ROWS) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < NT; ++i) {
#pragma unroll
            for (int j = 0; j < MT; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int n = n0 + 16 * i + lane / 4 + e / 2 * 8, m = m0 + 8 * j + lane % 4 * 2 + e % 2 - at;
                    if (m >= 0 && m < ROWS) s.out[m * LD + n] = acc[i][j][e];
                }
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int e = threadIdx.x; e < ROWS * BN; e += THREADS) {
            const int m = e / BN, n = e % BN;
            if (whole) mma_store_y<BN, BM>(g, tile, n, at + m, s.out[m * LD + n]);
            else part[(at + m) * BN + n] = s.out[m * LD + n];
        }
    }
    if (whole) return;
    const int from = mma_block_of(g, tile * g.slices), to = mma_block_of(g, (tile + 1) * g.slices - 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *s.last = atomicAdd(&g.scratch.arrived[tile], 1u) == static_cast<unsigned>(to - from);
    __syncthreads();
    if (!*s.last) return;
    __threadfence();
    if (threadIdx.x == 0) g.scratch.arrived[tile] = 0; /* for the next launch */
#pragma unroll 1
    for (int e = threadIdx.x; e < BM * BN; e += THREADS) {
        float sum = 0.f;
        for (int b = from; b <= to; ++b) sum += mma_part<BN, BM>(g, b, tile)[e];
        mma_store_y<BN, BM>(g, tile, e % BN, e / BN, sum);
    }
}

template <int BN, int BM, int WN, int WM, int STAGES>
__global__ void __launch_bounds__(32 * WN * WM, 2) gemm_mma_kernel(cu_mma_job g)
{
    constexpr int NT = BN / WN / 16, MT = BM / WM / 8, THREADS = 32 * WN * WM;
    constexpr int W_BYTES = BN * CU_MMA_PIECES * 16, STAGE = W_BYTES + BM * CU_MMA_PIECES * 16;
    static_assert(MT == 1 || MT % 2 == 0, "rows of x come in pairs of tiles");
    DYN_SMEM(base);
    cu_mma_smem s;
    mma_carve<BN, BM, STAGES>(s, base);
    const int warp = threadIdx.x >> 5, n0 = warp % WN * 16 * NT, m0 = warp / WN * 8 * MT;
    const int u0 = mma_first(g, blockIdx.x), u1 = mma_first(g, blockIdx.x + 1);
    /* what is loaded next: a slice of the tile (ahead_n, ahead_m) */
    int ahead = u0, ahead_slice = u0 % g.slices, into = 0;
    int ahead_n = u0 / g.slices / g.tiles_m, ahead_m = u0 / g.slices % g.tiles_m;
    auto load_next = [&] {
        if (ahead < u1) {
            unsigned char *to = s.ring + into * STAGE;
            const int k0 = ahead_slice * CU_MMA_SLICE;
            mma_load<BN, THREADS>(to, static_cast<const bf16 *>(g.a.w), g.a.K, ahead_n, g.a.N, k0, g.a.K);
            mma_load<BM, THREADS>(to + W_BYTES, static_cast<const bf16 *>(g.a.x), g.a.ldx, ahead_m, g.a.M, k0, g.a.K);
        }
        cp_async_commit(); /* an empty group where there is nothing left, so that the waits count alike */
        ++ahead;
        into = into + 1 == STAGES ? 0 : into + 1;
        if (++ahead_slice < g.slices) return;
        ahead_slice = 0;
        if (++ahead_m < g.tiles_m) return;
        ahead_m = 0;
        ++ahead_n;
    };
    for (int i = 0; i < STAGES - 1; ++i) load_next();
    float acc[NT][MT][4] = {};
    int tile = u0 / g.slices;
    int slice = u0 % g.slices, stage = 0;
    bool from_start = slice == 0;
    for (int u = u0; u < u1; ++u) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* the slice is there for all, and all are done with the buffer that is filled next */
        load_next();
        mma_slice<NT, MT>(s.ring + stage * STAGE, s.ring + stage * STAGE + W_BYTES, n0, m0, acc);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        const bool to_end = ++slice == g.slices;
        if (!to_end && u + 1 < u1) continue;
        mma_finish<BN, BM, WN, WM>(g, s, tile, from_start && to_end, acc);
#pragma unroll
        for (int i = 0; i < NT; ++i)
#pragma unroll
            for (int j = 0; j < MT; ++j) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.f;
        ++tile;
        slice = 0;
        from_start = true;
    }
    cp_async_wait<0>();
}

/* `per_sm`: blocks that a multiprocessor holds. Cuts tiles where there is scratch for it and it evens out the load. */
template <int BN, int BM, int WN, int WM, int STAGES>
static fh1_status gemm_mma(cu_ctx *k, const cu_linear *a, int per_sm, const char *name)
{
    cu_mma_job g;
    g.a = *a;
    g.scratch = cu_blas_scratch(k->blas);
    const int64_t tiles_m = (a->M + BM - 1) / BM, tiles = (static_cast<int64_t>(a->N) + BN - 1) / BN * tiles_m;
    g.tiles_m = static_cast<int>(tiles_m);
    g.tiles = static_cast<int>(tiles);
    g.slices = (a->K + CU_MMA_SLICE - 1) / CU_MMA_SLICE;
    const int64_t units = tiles * g.slices, most = static_cast<int64_t>(k->sms) * per_sm;
    int64_t blocks = units / 2 < most ? (units + 1) / 2 : most; /* two slices at least, or the parts cost more */
    const bool can_cut = tiles <= g.scratch.n_arrived && blocks * 2 * BN * BM <= static_cast<int64_t>(g.scratch.n_part);
    if (!can_cut) blocks = tiles;
    if (units > INT32_MAX - most) return fh1_fail(FH1_E_INTERNAL, "%s: %d x %d results are too many", name, a->M, a->N);
    cu_mma_smem s;
    const size_t smem = mma_carve<BN, BM, STAGES>(s, nullptr);
    FH1_TRY(cu_status(cudaFuncSetAttribute(gemm_mma_kernel<BN, BM, WN, WM, STAGES>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem)),
                      "asking for shared memory"));
    LAUNCH((gemm_mma_kernel<BN, BM, WN, WM, STAGES>), static_cast<unsigned>(blocks), 32 * WN * WM, smem, k->stream, g);
    return cu_launched(name);
}

} // namespace CU_NS
