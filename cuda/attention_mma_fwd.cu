/* Attention of many tokens on the tensor cores of sm_80 (mma m16n8k16), bf16, A = 32, 64, 96 or 128.
 *
 * Rows of a tile: the query heads that share a key head lie behind one another, token after token, so that row i of a
 * row of the batch is token i / G, head i % G (G = Hq/Hkv) and every key is loaded once for all of them. A block (4
 * warps, 16 rows each) owns 64 such rows and walks over the pages of keys that any of them sees, last tiles of a row
 * first, since they take longest. Grid: (tiles of the longest row, B·Hkv).
 *
 * Shared memory: [K 64×(A+8)] [V 64×(A+8)] twice; cp.async brings the next page while this one is used. The 8 more make
 * ldmatrix free of bank conflicts. Queries go straight into registers.
 *
 * What a row must not see (later tokens, earlier documents) is cut off by selection. That is enough for keys, since a
 * column of Q·Kᵀ depends on one key alone; in P·V however 0·NaN is NaN for every row. So slots that no row of the tile
 * sees are zeros, and pages that rows see partly are first searched for values that are not finite: these few are
 * replaced by zeros and added by selection (att_take_odd, att_add_odd). A row that does not see such a value keeps
 * every bit. */
#include "cuda/attention_impl.h"

#include "cuda/attention_tile.cuh"

namespace CU_NS
{
namespace
{

enum { WARPS = 4, ROWS = 16 * WARPS, THREADS = 32 * WARPS };

/* One stage; the second lies `stage` elements behind. */
struct tile_smem {
    bf16 *k, *v;
    int64_t stage;
    uint32_t *odd; /* att_take_odd */
};

template <int A> __host__ __device__ inline size_t carve(tile_smem *s, unsigned char *base)
{
    cu_carve c(base);
    bf16 *k0 = c.take<bf16>(CU_PAGE * (A + 8)), *v0 = c.take<bf16>(CU_PAGE * (A + 8));
    bf16 *k1 = c.take<bf16>(CU_PAGE * (A + 8));
    c.take<bf16>(CU_PAGE * (A + 8));
    uint32_t *odd = c.take<uint32_t>(ODD_WORDS * A);
    if (base) {
        s->odd = odd;
        s->k = k0;
        s->v = v0;
        s->stage = k1 - k0;
    }
    return c.off;
}

/* The values of a page in shared memory, as att_take_odd reaches them. */
template <int A> struct page_values {
    bf16 *v;
    __device__ bf16 *at(int slot, int column) const
    {
        return v + slot * (A + 8) + column;
    }
};

/* Starts the copy of one page: slots from `from` to before `to`, zeros elsewhere. */
template <int A>
__device__ inline void load_page(bf16 *k, bf16 *v, const bf16 *key, const bf16 *value, int from, int to)
{
    constexpr int CHUNKS = A / 8; /* of 16 bytes per slot */
    for (int i = static_cast<int>(threadIdx.x); i < CU_PAGE * CHUNKS; i += THREADS) {
        const int slot = i / CHUNKS, c = i % CHUNKS * 8;
        const bool seen = slot >= from && slot < to;
        cp_async16(k + slot * (A + 8) + c, key + slot * A + c, seen);
        cp_async16(v + slot * (A + 8) + c, value + slot * A + c, seen);
    }
}

/* S[16, 64] = Q·Kᵀ of one warp: s[n] are the keys 8n .. 8n+8. */
template <int A> __device__ inline void scores(float (&s)[8][4], const uint32_t (&q)[A / 16][4], const bf16 *k)
{
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll ALL
    for (int n = 0; n < 8; ++n) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
#pragma unroll ALL
        for (int i = 0; i < A / 16; i += 2) {
            uint32_t b[4]; /* two steps of 16 along A */
            ldmatrix_x4(b, k + (n * 8 + lane % 8) * (A + 8) + i * 16 + lane / 8 * 8);
            const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
            mma_m16n8k16_bf16(s[n], q[i], b0);
            mma_m16n8k16_bf16(s[n], q[i + 1], b1);
        }
    }
}

/* o[16, A] += P·V */
template <int A> __device__ inline void add_values(float (&o)[A / 8][4], const uint32_t (&p)[4][4], const bf16 *v)
{
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll ALL
    for (int i = 0; i < CU_PAGE / 16; ++i)
#pragma unroll ALL
        for (int n = 0; n < A / 8; n += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, v + (i * 16 + lane % 16) * (A + 8) + n * 8 + lane / 16 * 8);
            const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
            mma_m16n8k16_bf16(o[n], p[i], b0);
            mma_m16n8k16_bf16(o[n + 1], p[i], b1);
        }
}

template <int A> __global__ void __launch_bounds__(THREADS, 2) attention_mma_kernel(cu_attention a, float scale)
{
    DYN_SMEM(raw);
    tile_smem sm = {};
    carve<A>(&sm, raw);
    const att_tile t = att_tile_of(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), static_cast<int>(blockIdx.y), ROWS);
    if (t.rows <= 0) return; /* the whole block */
    const int warp = static_cast<int>(threadIdx.x) / 32;
    att_rows r = att_rows_of(a, t, warp * 16);
    uint32_t q[A / 16][4];
    att_load_q<A>(q, a, r);
    float o[A / 8][4] = {};
    const bf16 *key = static_cast<const bf16 *>(a.kv.key), *value = static_cast<const bf16 *>(a.kv.value);
    int stage = 0;
    for (int page = t.begin / CU_PAGE; page * CU_PAGE < t.end; ++page) {
        if (page == t.begin / CU_PAGE) {
            const int64_t at = cu_kv_at(a.kv, t.row, t.kv, page * CU_PAGE);
            load_page<A>(sm.k, sm.v, key + at, value + at, t.begin - page * CU_PAGE, t.end - page * CU_PAGE);
            cp_async_commit();
        }
        const int next = (page + 1) * CU_PAGE;
        if (next < t.end) {
            const int64_t at = cu_kv_at(a.kv, t.row, t.kv, next), to = (stage ^ 1) * sm.stage;
            load_page<A>(sm.k + to, sm.v + to, key + at, value + at, 0, t.end - next);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const bf16 *k = sm.k + stage * sm.stage;
        bf16 *v = sm.v + stage * sm.stage;
        float s[8][4];
        scores<A>(s, q, k);
        const bool whole = page * CU_PAGE >= t.all_from && next <= t.all_to; /* every row sees every slot */
        if (!whole) att_mask(s, r, page * CU_PAGE);
        float keep[2];
        uint32_t p[4][4];
        att_softmax(s, keep, &r, scale * 1.44269504088896340736f);
        att_rescale(o, keep);
        att_pack(p, s);
        if (!whole) {
            bool odd = false;
            for (int i = static_cast<int>(threadIdx.x); i < CU_PAGE * A / 8; i += THREADS)
                odd |= !finite8(*reinterpret_cast<const uint4 *>(v + i / (A / 8) * (A + 8) + i % (A / 8) * 8));
            if (__syncthreads_or(odd)) {
                const page_values<A> values = {v};
                if (threadIdx.x < A) att_take_odd<A>(sm.odd, values, static_cast<int>(threadIdx.x));
                __syncthreads();
                att_add_odd(o, sm.odd, r, page * CU_PAGE);
            }
        }
        add_values<A>(o, p, v);
        __syncthreads(); /* the next turn loads into this stage's place */
        stage ^= 1;
    }
    cp_async_wait<0>();
    att_store(o, a, r);
}

template <int A> fh1_status launch(const cu_ctx *k, const cu_attention &a)
{
    const size_t smem = carve<A>(nullptr, nullptr);
    CU_TRY(cudaFuncSetAttribute(attention_mma_kernel<A>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(smem)),
           "shared memory of the attention");
    const int64_t rows = static_cast<int64_t>(a.t.longest) * (a.Hq / a.Hkv);
    const dim3 grid(static_cast<unsigned>((rows + ROWS - 1) / ROWS), static_cast<unsigned>(a.t.B * a.Hkv));
    LAUNCH((attention_mma_kernel<A>), grid, THREADS, smem, k->stream, a, attention_scale(A));
    return cu_launched("attention (mma)");
}

} // namespace

bool attention_mma_takes(const cu_attention &a)
{
    const bool width = a.A == 32 || a.A == 64 || a.A == 96 || a.A == 128;
    return width && a.type == CU_BF16 && a.t.B * a.Hkv <= 65535 && a.ldq % 2 == 0 &&
           reinterpret_cast<uintptr_t>(a.q) % 4 == 0 && reinterpret_cast<uintptr_t>(a.out) % 4 == 0 &&
           reinterpret_cast<uintptr_t>(a.kv.key) % 16 == 0 && reinterpret_cast<uintptr_t>(a.kv.value) % 16 == 0;
}

fh1_status attention_mma(const cu_ctx *k, const cu_attention &a)
{
    switch (a.A) {
    case 32: return launch<32>(k, a);
    case 64: return launch<64>(k, a);
    case 96: return launch<96>(k, a);
    default: return launch<128>(k, a);
    }
}

} // namespace CU_NS
