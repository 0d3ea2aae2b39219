/* What the kernels of the scan's backward pass share (ssd_scan_bwd.cu, ssd_chunk_bwd.cu).
 *
 * Rows are cut into chunks of 64 tokens. With c_t the running sum of dt·A inside a chunk, S the state before it and dS
 * the derivative by the state after it, everything about a chunk is a few products of matrices with at most 64 rows or
 * columns; they are done in f32, tile by tile of 64 × 64, a block of 256 threads with 4 × 4 elements each. Any P and N.
 *
 * A document that begins inside a chunk cuts it into segments, which see nothing of each other: tiles are filled from
 * one segment at a time, with zeros around. */
#pragma once

#include "cuda/backward.cuh"

namespace CU_NS
{

enum { SSD_BWD_CHUNK = 64, SSD_BWD_THREADS = 256, SSD_BWD_LD = 68, SSD_BWD_TILE = SSD_BWD_CHUNK * SSD_BWD_LD };

/* Heads of a group that one block works on, one after the other: their shares of dB and dC are summed where they go. */
enum { SSD_BWD_HEADS = 4 };

/* The scratch, in floats. Chunks of row b have the numbers from row_begin[b] / 64 + b on (some numbers are nobody's).
 */
struct ssd_bwd_space {
    int64_t chunks;
    int parts;      /* blocks that share the heads of a group */
    float *state;   /* [chunks, H, P, N] before each chunk */
    float *dstate;  /* [chunks, H, P, N] by the state after each chunk */
    float *left;    /* [chunks, H] of the state before a chunk in the one after; -1: a document begins */
    float *dA, *dD; /* [chunks, H] */
    float *dB, *dC; /* [parts, M, G, N], where parts > 1 */
};

size_t ssd_bwd_cut(const cu_ssd_scan_bwd_args *a, ssd_bwd_space *w); /* returns bytes */

/* dx, dB, dC, ddt, and the chunks' shares of dA and dD, from the states on both sides of each chunk. */
fh1_status cu_ssd_chunk_bwd(cu_ctx *k, const cu_ssd_scan_bwd_args *a, const ssd_bwd_space *w);

/* The chunk of a block: grid (…, chunks of a row, rows). begin >= end: none. */
struct ssd_bwd_span {
    int64_t begin, end, at; /* tokens; number of the chunk */
};

CU_FN ssd_bwd_span ssd_bwd_span_of(const cu_ssd_scan_bwd_args &a, int row, int64_t chunk)
{
    const int64_t first = a.t.row_begin[row], last = a.t.row_begin[row + 1];
    const int64_t begin = first + chunk * SSD_BWD_CHUNK;
    return {begin, begin + SSD_BWD_CHUNK < last ? begin + SSD_BWD_CHUNK : last, first / SSD_BWD_CHUNK + row + chunk};
}

/* The end of the segment that begins at token t. */
CU_FN int64_t ssd_bwd_segment(const cu_ssd_scan_bwd_args &a, int64_t t, int64_t end)
{
    if (a.t.start[end - 1] <= t) return end;
    for (++t; a.t.start[t] != t;) ++t;
    return t;
}

/* Columns of token t. */
CU_FN const float *ssd_bwd_x(const cu_ssd_scan_bwd_args &a, int64_t t, int h)
{
    return a.xbc + t * a.ldx + static_cast<int64_t>(h) * a.P;
}
CU_FN const float *ssd_bwd_B(const cu_ssd_scan_bwd_args &a, int64_t t, int g)
{
    return a.xbc + t * a.ldx + static_cast<int64_t>(a.H) * a.P + static_cast<int64_t>(g) * a.N;
}
CU_FN const float *ssd_bwd_C(const cu_ssd_scan_bwd_args &a, int64_t t, int g)
{
    return ssd_bwd_B(a, t, g) + static_cast<int64_t>(a.G) * a.N;
}
CU_FN const float *ssd_bwd_dy(const cu_ssd_scan_bwd_args &a, int64_t t, int h)
{
    return a.dy + (t * a.H + h) * a.P;
}

/* c_t = Σ dt·A over `n` tokens from t0 on, in f64: differences of late ones are small. The first 64 threads; dt is read
 * by all of them. */
CU_FN void ssd_bwd_sums(const float *dt, float A, int n, double *c)
{
    if (threadIdx.x >= SSD_BWD_CHUNK) return;
    double sum = 0;
    for (int j = 0; j <= static_cast<int>(threadIdx.x) && j < n; ++j) sum += static_cast<double>(dt[j]) * A;
    c[threadIdx.x] = sum;
}
CU_FN void ssd_bwd_steps(const cu_ssd_scan_bwd_args &a, int64_t t0, int n, int h, float *dt)
{
    const int i = static_cast<int>(threadIdx.x);
    if (i < SSD_BWD_CHUNK) dt[i] = i < n ? a.dt[(t0 + i) * a.H + h] : 0.f;
}

/* ---- tiles in shared memory: 64 rows of 64 columns, SSD_BWD_LD apart ---- */

/* rows × columns of a matrix, zeros beside; rows below are left as they are. */
CU_FN void ssd_bwd_rows(float *to, const float *from, int64_t ld, int64_t rows, int64_t columns)
{
    const int all = static_cast<int>(rows < 64 ? rows : 64) * 64;
#pragma unroll 4
    for (int e = static_cast<int>(threadIdx.x); e < all; e += SSD_BWD_THREADS) {
        const int r = e >> 6, c = e & 63;
        to[r * SSD_BWD_LD + c] = c < columns ? from[r * ld + c] : 0.f;
    }
}
/* The same transposed: zeros below, what lies beside is left as it is. */
CU_FN void ssd_bwd_columns(float *to, const float *from, int64_t ld, int64_t rows, int64_t columns)
{
    const int c = static_cast<int>(threadIdx.x & 63);
    if (c >= columns) return;
#pragma unroll 4
    for (int r = static_cast<int>(threadIdx.x >> 6); r < 64; r += SSD_BWD_THREADS / 64)
        to[c * SSD_BWD_LD + r] = r < rows ? from[r * ld + c] : 0.f;
}

/* Elements (4·i + r, 4·j + q) are those of thread 16·i + j. */
struct ssd_bwd_place {
    int i, j;
};
CU_FN ssd_bwd_place ssd_bwd_place_of()
{
    return {4 * static_cast<int>(threadIdx.x >> 4), 4 * static_cast<int>(threadIdx.x & 15)};
}

CU_FN void ssd_bwd_fma(const float (&a)[4], const float *b, float (&sum)[4][4])
{
    const float4 v = *reinterpret_cast<const float4 *>(b);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        sum[r][0] = fmaf(a[r], v.x, sum[r][0]), sum[r][1] = fmaf(a[r], v.y, sum[r][1]);
        sum[r][2] = fmaf(a[r], v.z, sum[r][2]), sum[r][3] = fmaf(a[r], v.w, sum[r][3]);
    }
}
/* sum[i,j] += Σ_k a[k][i]·b[k][j] */
CU_FN void ssd_bwd_multiply(const float *a, const float *b, int64_t k_end, const ssd_bwd_place &p, float (&sum)[4][4])
{
#pragma unroll 4
    for (int k = 0; k < k_end && k < 64; ++k) {
        const float4 v = *reinterpret_cast<const float4 *>(a + k * SSD_BWD_LD + p.i);
        const float row[4] = {v.x, v.y, v.z, v.w};
        ssd_bwd_fma(row, b + k * SSD_BWD_LD + p.j, sum);
    }
}
/* sum[i,j] += Σ_k a[i][k]·b[k][j] */
CU_FN void ssd_bwd_multiply_rows(const float *a, const float *b, int64_t k_end, const ssd_bwd_place &p,
                                 float (&sum)[4][4])
{
#pragma unroll 4
    for (int k = 0; k < k_end && k < 64; ++k) {
        float row[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) row[r] = a[(p.i + r) * SSD_BWD_LD + k];
        ssd_bwd_fma(row, b + k * SSD_BWD_LD + p.j, sum);
    }
}

} // namespace CU_NS
