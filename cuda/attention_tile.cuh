/* What the tensor-core kernels of attention share: which rows and keys a tile has, masks, online softmax and the care
 * for values that are not finite, on accumulator fragments of mma m16n8 and wgmma m64 (both give lane l of a warp rows
 * l/4 and l/4 + 8, columns 2·(l%4) and the next, of every 8). */
#pragma once

#include "cuda/attention_impl.h"
#include "cuda/warp_ops.h"

namespace CU_NS
{

/* Rows `row0` .. `row0 + rows` of one row of the batch and key head; row i is token i / G of the row, head i % G. */
struct att_tile {
    int row, kv, G;
    int64_t row0;
    int rows;             /* 0 or less: none */
    int m0, slot0;        /* packed index and slot of the row's first new token */
    int begin, end;       /* slots that some row of the tile sees */
    int all_from, all_to; /* slots that every row sees; may be none */
};

CU_FN att_tile att_tile_of(const cu_attention &a, int index, int row_and_kv, int size)
{
    att_tile t;
    t.row = row_and_kv / a.Hkv;
    t.kv = row_and_kv % a.Hkv;
    t.G = a.Hq / a.Hkv;
    t.row0 = static_cast<int64_t>(index) * size;
    t.m0 = a.t.row_begin[t.row];
    const int64_t left = static_cast<int64_t>(a.t.row_begin[t.row + 1] - t.m0) * t.G - t.row0;
    t.rows = left < size ? static_cast<int>(left) : size;
    t.slot0 = a.t.past[t.row];
    t.begin = t.end = t.all_from = t.all_to = 0;
    if (left <= 0) return t;
    const int one = static_cast<int>(t.row0 / t.G), last = static_cast<int>((t.row0 + t.rows - 1) / t.G);
    t.begin = a.t.first[t.m0 + one]; /* documents follow one another, so `first` grows with the token */
    t.end = t.slot0 + last + 1;
    t.all_from = a.t.first[t.m0 + last];
    t.all_to = t.slot0 + one + 1;
    return t;
}

/* The two rows of this lane, [0] and [1] 8 further: the slots they see, running maximum of the scores (before the
 * scale) and sum of exp. A row beyond the tile sees nothing. */
struct att_rows {
    int64_t q[2], out[2]; /* element offsets of the row in q and out, -1 beyond the tile */
    int from[2], to[2];
    float max[2], sum[2];
};

/* `base`: first row of the warp in the tile. */
CU_FN att_rows att_rows_of(const cu_attention &a, const att_tile &t, int base)
{
    att_rows r;
#pragma unroll ALL
    for (int i = 0; i < 2; ++i) {
        const int at = base + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * i;
        const bool there = at < t.rows;
        const int64_t j = t.row0 + (there ? at : 0);
        const int token = static_cast<int>(j / t.G), h = t.kv * t.G + static_cast<int>(j % t.G), m = t.m0 + token;
        r.q[i] = there ? m * a.ldq + static_cast<int64_t>(h) * a.A : -1;
        r.out[i] = there ? (static_cast<int64_t>(m) * a.Hq + h) * a.A : -1;
        r.from[i] = there ? a.t.first[m] : 0;
        r.to[i] = there ? t.slot0 + token + 1 : 0;
        r.max[i] = -INFINITY;
        r.sum[i] = 0.f;
    }
    return r;
}

/* The queries of a warp as A fragments; zeros beyond the tile. */
template <int A> CU_FN void att_load_q(uint32_t (&q)[A / 16][4], const cu_attention &a, const att_rows &r)
{
    const bf16 *x = static_cast<const bf16 *>(a.q);
    const int c = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll ALL
    for (int k = 0; k < A / 16; ++k)
#pragma unroll ALL
        for (int i = 0; i < 4; ++i) {
            const int64_t at = r.q[i % 2];
            q[k][i] = at < 0 ? 0u : *reinterpret_cast<const uint32_t *>(x + at + k * 16 + i / 2 * 8 + c);
        }
}

/* Scores of slots that the row does not see become -inf; `slot`: that of column 0. */
template <int N> CU_FN void att_mask(float (&s)[N][4], const att_rows &r, int slot)
{
    const int c = slot + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll ALL
    for (int n = 0; n < N; ++n)
#pragma unroll ALL
        for (int i = 0; i < 4; ++i) {
            const int at = c + n * 8 + i % 2;
            if (at < r.from[i / 2] || at >= r.to[i / 2]) s[n][i] = -INFINITY;
        }
}

/* Maximum and sum take in the 64 scores of each row, which become p = exp(score - maximum); what was summed up before
 * is to be multiplied with `keep`. The sum is that of the unrounded p, each lane its own part (att_store adds them up).
 * exp2((s - max)·c), c = scale·log2 e: the difference first, so that equal scores give exactly 1 at any size. */
CU_FN void att_softmax(float (&s)[8][4], float (&keep)[2], att_rows *r, float c)
{
#pragma unroll ALL
    for (int i = 0; i < 2; ++i) {
        float max = r->max[i];
#pragma unroll ALL
        for (int n = 0; n < 8; ++n) max = fmaxf(max, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
        max = quad_max(max);
        const float ref = softmax_ref(max);
        keep[i] = fast_exp2((r->max[i] - ref) * c);
        float sum = r->sum[i] * keep[i];
        r->max[i] = max;
#pragma unroll ALL
        for (int n = 0; n < 8; ++n) {
            s[n][2 * i] = fast_exp2((s[n][2 * i] - ref) * c);
            s[n][2 * i + 1] = fast_exp2((s[n][2 * i + 1] - ref) * c);
            sum += s[n][2 * i] + s[n][2 * i + 1];
        }
        r->sum[i] = sum;
    }
}

/* Nothing to do for a warp whose maxima have all stayed: a factor of 1 changes no bit. */
template <int NO> CU_FN void att_rescale(float (&o)[NO][4], const float (&keep)[2])
{
    if (!__any_sync(0xffffffffu, keep[0] != 1.f || keep[1] != 1.f)) return;
#pragma unroll ALL
    for (int n = 0; n < NO; ++n)
#pragma unroll ALL
        for (int i = 0; i < 4; ++i) o[n][i] *= keep[i / 2];
}

/* p rounded to bf16, as A fragments of P·V. */
CU_FN void att_pack(uint32_t (&p)[4][4], const float (&s)[8][4])
{
#pragma unroll ALL
    for (int k = 0; k < 4; ++k)
#pragma unroll ALL
        for (int i = 0; i < 4; ++i) p[k][i] = pack_bf16(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}

/* 8 bf16 of which none is NaN or infinite: no exponent of all ones. */
CU_FN bool finite8(const uint4 &x)
{
    const uint32_t w[4] = {x.x, x.y, x.z, x.w};
    bool good = true;
#pragma unroll ALL
    for (int i = 0; i < 4; ++i) good = good && (w[i] & 0x7f80u) != 0x7f80u && (w[i] & 0x7f800000u) != 0x7f800000u;
    return good;
}

/* Which slots of a page hold a value that is NaN, +inf, -inf, for each column: bit s of the 64 is slot s.
 * [3 kinds][2 halves][A] words of shared memory. */
enum { ODD_WORDS = 6 };

/* Column `column` of a page: writes down its values that are not finite and puts zeros in their place. v.at(slot,
 * column) is a pointer to a value. */
template <int A, typename V> CU_FN void att_take_odd(uint32_t *odd, const V &v, int column)
{
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
        uint32_t nan = 0, above = 0, below = 0;
#pragma unroll 1
        for (int s = 0; s < 32; ++s) {
            bf16 *at = v.at(half * 32 + s, column);
            const uint32_t x = __float_as_uint(load(at));
            if ((x & 0x7f800000u) != 0x7f800000u) continue;
            if (x & 0x007fffffu) nan |= 1u << s;
            else if (x >> 31) below |= 1u << s;
            else above |= 1u << s;
            store(at, 0.f);
        }
        odd[half * A + column] = nan;
        odd[(2 + half) * A + column] = above;
        odd[(4 + half) * A + column] = below;
    }
}

/* Bits lo .. hi of 32. */
CU_FN uint32_t bits32(int lo, int hi)
{
    const uint32_t below_hi = hi >= 32 ? ~0u : hi <= 0 ? 0u : (1u << hi) - 1;
    const uint32_t below_lo = lo >= 32 ? ~0u : lo <= 0 ? 0u : (1u << lo) - 1;
    return below_hi & ~below_lo;
}

/* o += what was taken out, in the rows that see it (a weight above 0 is taken for granted: were it 0 for lack of range,
 * the product would be an infinity all the same). `slot`: the page's first. */
template <int NO> CU_FN void att_add_odd(float (&o)[NO][4], const uint32_t *odd, const att_rows &r, int slot)
{
    const int c = static_cast<int>(threadIdx.x) % 4 * 2;
    uint32_t seen[2][2];
#pragma unroll ALL
    for (int i = 0; i < 4; ++i)
        seen[i / 2][i % 2] = bits32(r.from[i / 2] - slot - i % 2 * 32, r.to[i / 2] - slot - i % 2 * 32);
#pragma unroll ALL
    for (int n = 0; n < NO; ++n)
#pragma unroll ALL
        for (int i = 0; i < 2; ++i) {
            const uint32_t *w = odd + n * 8 + c + i;
            const uint32_t nan[2] = {w[0], w[NO * 8]}, above[2] = {w[2 * NO * 8], w[3 * NO * 8]};
            const uint32_t below[2] = {w[4 * NO * 8], w[5 * NO * 8]};
#pragma unroll ALL
            for (int j = 0; j < 2; ++j) {
                float &x = o[n][2 * j + i];
                if ((above[0] & seen[j][0]) | (above[1] & seen[j][1])) x += INFINITY;
                if ((below[0] & seen[j][0]) | (below[1] & seen[j][1])) x -= INFINITY;
                if ((nan[0] & seen[j][0]) | (nan[1] & seen[j][1])) x = NAN;
            }
        }
}

/* The rows of this lane to their place, divided by their sums. */
template <int NO> CU_FN void att_store(const float (&o)[NO][4], const cu_attention &a, const att_rows &r)
{
    bf16 *out = static_cast<bf16 *>(a.out);
    const int c = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll ALL
    for (int i = 0; i < 2; ++i) {
        const float sum = quad_sum(r.sum[i]);
        if (r.out[i] < 0) continue;
#pragma unroll ALL
        for (int n = 0; n < NO; ++n)
            *reinterpret_cast<uint32_t *>(out + r.out[i] + n * 8 + c) =
                pack_bf16(o[n][2 * i] / sum, o[n][2 * i + 1] / sum);
    }
}

} // namespace CU_NS
