/* The scan over chunks of 64 tokens on tensor cores, as the kernels of ssd_fused_fwd.cu and ssd_chunk_fwd.cu share it.
 *
 * A block of 8 warps works on one head of one row and up to 64 rows of its state ("slice"). Warp w holds 16 of them and
 * half of their columns in registers, as the accumulators of mma.m16n8k16 lie. With c the running sum of dt·A in the
 * chunk, and j <= i tokens of one document, a chunk is
 *   y[i] = Σ_j (C[i]·B[j]) exp(c_i - c_j) dt_j x_j + exp(c_i) C[i]·S,   S' = exp(c_end) S + Σ_j exp(c_end - c_j) dt_j
 * x_j ⊗ B_j all of it computed transposed (rows are those of the state), so that S itself is a left operand where it
 * lies.
 *
 * Operands that are not bf16 to begin with go in as two bf16, high and low part. c is summed in f64 and kept as two
 * f32: between two late tokens of a chunk c_i - c_j is small while both are large. A product with a token that must not
 * be seen is a product with 0, which removes finite numbers only; a chunk that holds anything else is walked token by
 * token, where it is not there at all. */
#pragma once

#include "cuda/ssd_tiles.cuh"

namespace CU_NS
{

/* ---- the scores: (C[i]·B[j]) exp(c_i - c_j) dt_j, high and low part, in the place of y ---- */

CU_FN float ssd_score(const ssd_tiles &s, int i, int j, float v)
{
    if (j > i || j < s.start[i]) return 0.f; /* never the exponential of a positive number */
    return v * (expf((s.hi[i] - s.hi[j]) + (s.lo[i] - s.lo[j])) * s.dt[j]);
}

CU_FN void ssd_scores(const ssd_tiles &s, int N, int lane)
{
    const int warp = threadIdx.x >> 5, i0 = 16 * (warp & 3), j0 = 32 * (warp >> 2);
    bf16 *high = reinterpret_cast<bf16 *>(s.y), *low = high + SSD_CHUNK * SSD_LDM;
    if (j0 > i0 + 15) return; /* above the diagonal: nobody reads it */
    float v[4][4] = {};
    for (int k = 0; k < N; k += 16) {
        uint32_t c[4], b[4];
        ldmatrix_x4(c, left_mk(s.C + i0 * (N + 8) + k, N + 8, lane));
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            ldmatrix_x4(b, right_nk(s.B + (j0 + 16 * n) * (N + 8) + k, N + 8, lane));
            mma_pair(v[2 * n], v[2 * n + 1], c, b);
        }
    }
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int i = i0 + (lane >> 2) + 8 * r, j = j0 + 8 * n + 2 * (lane & 3);
            uint32_t hi, lo;
            split(ssd_score(s, i, j, v[n][2 * r]), ssd_score(s, i, j + 1, v[n][2 * r + 1]), hi, lo);
            *reinterpret_cast<uint32_t *>(high + i * SSD_LDM + j) = hi;
            *reinterpret_cast<uint32_t *>(low + i * SSD_LDM + j) = lo;
        }
}

/* ---- outputs and the state ---- */

/* y[i8 tile] of the warp's rows: what its half of the columns and its half of the tokens add. */
template <int NT>
CU_FN void ssd_outputs(const ssd_tiles &s, const ssd_place &b, int N, const float (&S)[NT][2][4], float (&y)[8][4])
{
    if (s.start[0] < 0) { /* else no token sees the state */
#pragma unroll
        for (int k = 0; k < NT; ++k) {
            if (k >= b.tiles) continue;
            uint32_t hi[4], lo[4], c[4];
#pragma unroll
            for (int q = 0; q < 4; ++q) split(S[k][q >> 1][2 * (q & 1)], S[k][q >> 1][2 * (q & 1) + 1], hi[q], lo[q]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                ldmatrix_x4(c, right_nk(s.C + 16 * i * (N + 8) + b.n0 + 16 * k, N + 8, b.lane));
                mma_pair(y[2 * i], y[2 * i + 1], hi, c);
                mma_pair(y[2 * i], y[2 * i + 1], lo, c);
            }
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int t = 8 * i + 2 * (b.lane & 3) + r;
                const float decay = expf(s.hi[t]);
                const bool sees = s.start[t] < 0;
                y[i][r] = sees ? y[i][r] * decay : 0.f;
                y[i][2 + r] = sees ? y[i][2 + r] * decay : 0.f;
            }
    }
    const bf16 *high = reinterpret_cast<const bf16 *>(s.y), *low = high + SSD_CHUNK * SSD_LDM;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const int j0 = 32 * b.half + 16 * k;
        uint32_t x[4], m[4];
        ldmatrix_x4_trans(x, left_km(s.x + j0 * SSD_LDX + b.p, SSD_LDX, b.lane));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (j0 > 16 * i) continue;
            ldmatrix_x4(m, right_nk(high + 16 * i * SSD_LDM + j0, SSD_LDM, b.lane));
            mma_pair(y[2 * i], y[2 * i + 1], x, m);
            ldmatrix_x4(m, right_nk(low + 16 * i * SSD_LDM + j0, SSD_LDM, b.lane));
            mma_pair(y[2 * i], y[2 * i + 1], x, m);
        }
    }
}

CU_FN void ssd_put_outputs(const ssd_tiles &s, const ssd_place &b, const float (&y)[8][4])
{
    float *to = s.y + b.half * SSD_CHUNK * SSD_LDY + b.p + (b.lane >> 2);
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int q = 0; q < 4; ++q) to[(8 * i + 2 * (b.lane & 3) + (q & 1)) * SSD_LDY + 8 * (q >> 1)] = y[i][q];
}

/* How much of token j is left at the chunk's end; `from` the first token of its last document, or -1. */
CU_FN float ssd_weight(const ssd_tiles &s, int j, int from)
{
    const int end = SSD_CHUNK - 1;
    return j < from ? 0.f : expf((s.hi[end] - s.hi[j]) + (s.lo[end] - s.lo[j])) * s.dt[j];
}

template <int NT> CU_FN void ssd_update(const ssd_tiles &s, const ssd_place &b, int N, int from, float (&S)[NT][2][4])
{
    const float decay = expf(s.hi[SSD_CHUNK - 1]);
#pragma unroll
    for (int k = 0; k < NT; ++k)
#pragma unroll
        for (int q = 0; q < 8; ++q) S[k][q >> 2][q & 3] = from < 0 ? S[k][q >> 2][q & 3] * decay : 0.f;
#pragma unroll
    for (int j0 = 0; j0 < SSD_CHUNK; j0 += 16) {
        uint32_t x[4], hi[4], lo[4], r[4];
        ldmatrix_x4_trans(x, left_km(s.x + j0 * SSD_LDX + b.p, SSD_LDX, b.lane));
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int j = j0 + 2 * (b.lane & 3) + 8 * (q >> 1);
            const float2 v = unpack_bf16(x[q]);
            split(v.x * ssd_weight(s, j, from), v.y * ssd_weight(s, j + 1, from), hi[q], lo[q]);
        }
#pragma unroll
        for (int k = 0; k < NT; ++k) {
            if (k >= b.tiles) continue;
            ldmatrix_x4_trans(r, right_kn(s.B + j0 * (N + 8) + b.n0 + 16 * k, N + 8, b.lane));
            mma_pair(S[k][0], S[k][1], hi, r);
            mma_pair(S[k][0], S[k][1], lo, r);
        }
    }
}

/* The chunk token by token, in the same registers. */
template <int NT, bool OUTPUTS>
CU_FN void ssd_walk(const ssd_tiles &s, const ssd_place &b, int N, float A, int tokens, float (&S)[NT][2][4])
{
    for (int t = 0; t < tokens; ++t) {
        const float dt = s.dt[t], decay = expf(dt * A);
        const bool fresh = s.start[t] == t;
        float sum[2] = {};
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const float in = dt * load(s.x + t * SSD_LDX + b.p + (b.lane >> 2) + 8 * (q >> 1));
#pragma unroll
            for (int k = 0; k < NT; ++k)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int n = t * (N + 8) + b.n0 + 16 * k + 8 * e + 2 * (b.lane & 3) + (q & 1);
                    if (k >= b.tiles) continue;
                    S[k][e][q] = fmaf(in, load(s.B + n), fresh ? 0.f : decay * S[k][e][q]);
                    if (OUTPUTS) sum[q >> 1] = fmaf(S[k][e][q], load(s.C + n), sum[q >> 1]);
                }
        }
        if constexpr (OUTPUTS) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float y = quad_sum(sum[r]);
                if ((b.lane & 3) == 0) s.y[(b.half * SSD_CHUNK + t) * SSD_LDY + b.p + (b.lane >> 2) + 8 * r] = y;
            }
        }
    }
}

/* y = R(both parts + D·x), eight elements a thread. */
CU_FN void ssd_store_outputs(const cu_ssd &a, const ssd_tiles &s, const ssd_place &b, int64_t t0, int tokens)
{
    const float D = a.D[b.h];
    const int pieces = b.width / 8;
    bf16 *y = static_cast<bf16 *>(a.y) + (t0 * a.H + b.h) * a.P + b.p0;
    for (int i = threadIdx.x; i < tokens * pieces; i += SSD_THREADS) {
        const int t = i / pieces, p = 8 * (i - t * pieces);
        const float *v = s.y + t * SSD_LDY + p, *w = v + SSD_CHUNK * SSD_LDY;
        uint32_t r[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t *>(s.x + t * SSD_LDX + p + 2 * q));
            r[q] = pack_bf16(fmaf(D, x.x, v[2 * q] + w[2 * q]), fmaf(D, x.y, v[2 * q + 1] + w[2 * q + 1]));
        }
        *reinterpret_cast<uint4 *>(y + static_cast<int64_t>(t) * a.H * a.P + p) = make_uint4(r[0], r[1], r[2], r[3]);
    }
}

/* The state of one head and row [P,N] from and to memory. */
template <int NT> CU_FN void ssd_load_state(const float *from, const ssd_place &b, int N, float (&S)[NT][2][4])
{
#pragma unroll
    for (int k = 0; k < NT; ++k)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            float2 v = make_float2(0.f, 0.f);
            if (from && !b.idle && k < b.tiles)
                v = *reinterpret_cast<const float2 *>(
                    from + static_cast<int64_t>(b.p0 + b.p + (b.lane >> 2) + 8 * (q & 1)) * N + b.n0 + 16 * k +
                    8 * (q >> 1) + 2 * (b.lane & 3));
            S[k][q >> 1][2 * (q & 1)] = v.x, S[k][q >> 1][2 * (q & 1) + 1] = v.y;
        }
}
template <int NT> CU_FN void ssd_store_state(float *to, const ssd_place &b, int N, const float (&S)[NT][2][4])
{
#pragma unroll
    for (int k = 0; k < NT; ++k)
#pragma unroll
        for (int q = 0; q < 4; ++q)
            if (!b.idle && k < b.tiles)
                *reinterpret_cast<float2 *>(to + static_cast<int64_t>(b.p0 + b.p + (b.lane >> 2) + 8 * (q & 1)) * N +
                                            b.n0 + 16 * k + 8 * (q >> 1) + 2 * (b.lane & 3)) =
                    make_float2(S[k][q >> 1][2 * (q & 1)], S[k][q >> 1][2 * (q & 1) + 1]);
}

/* How many tokens the chunk at t0 holds; none or less beyond the end. */
CU_FN int ssd_tokens(int64_t t0, int64_t end)
{
    return static_cast<int>(end - t0 < SSD_CHUNK ? end - t0 : SSD_CHUNK);
}

/* Tokens begin .. end of a row, chunk by chunk, S going from the state before to the state after. UPDATE_LAST: the
 * state after the last chunk is wanted too. With two stages a chunk is fetched while the one before it is worked on.
 * Returns how much of the state before is left in the one after, -1 where a document begins. */
template <int NT, bool OUTPUTS, bool UPDATE_LAST>
CU_FN float ssd_chunks(const cu_ssd &a, const ssd_tiles &first, int stages, const ssd_place &b, int64_t begin,
                       int64_t end, float (&S)[NT][2][4])
{
    float left = 1.f;
    int stage = 0;
    ssd_steps next = {};
    if (stages == 2) next = ssd_fetch_chunk<OUTPUTS>(a, first, b, begin, ssd_tokens(begin, end));
    for (int64_t t0 = begin; t0 < end; t0 += SSD_CHUNK, stage ^= 1) {
        const int tokens = ssd_tokens(t0, end), after = ssd_tokens(t0 + SSD_CHUNK, end);
        const ssd_tiles s = ssd_stage(first, a.N, stages == 2 ? stage : 0);
        __syncthreads(); /* the other stage is free, and y */
        const ssd_steps steps = stages == 2 ? next : ssd_fetch_chunk<OUTPUTS>(a, s, b, t0, tokens);
        next =
            ssd_fetch_chunk<OUTPUTS>(a, ssd_stage(first, a.N, stage ^ 1), b, t0 + SSD_CHUNK, stages == 2 ? after : 0);
        const bool walk = ssd_wait_chunk<OUTPUTS>(a, s, b, steps);
        const int from = s.start[tokens - 1];
        left = from >= 0 || left < 0.f ? -1.f : left * expf(s.hi[SSD_CHUNK - 1]);
        if (walk) {
            if (!b.idle) ssd_walk<NT, OUTPUTS>(s, b, a.N, a.A[b.h], tokens, S);
        } else {
            if constexpr (OUTPUTS) {
                float y[8][4] = {};
                ssd_scores(s, a.N, b.lane);
                __syncthreads();
                if (!b.idle) ssd_outputs<NT>(s, b, a.N, S, y);
                __syncthreads(); /* scores read: y may take their place */
                if (!b.idle) ssd_put_outputs(s, b, y);
            }
            if (!b.idle && (UPDATE_LAST || t0 + SSD_CHUNK < end)) ssd_update<NT>(s, b, a.N, from, S);
        }
        if constexpr (OUTPUTS) {
            __syncthreads();
            ssd_store_outputs(a, s, b, t0, tokens);
        }
    }
    cp_async_wait<0>();
    return left;
}

} // namespace CU_NS
