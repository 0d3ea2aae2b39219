/* Attention of many tokens on Hopper (sm_90a): TMA, mbarriers and wgmma; bf16, A = 64 or 128. Rows, tiles, masks and
 * rounding points are those of attention_mma_fwd.cu, which is this kernel's oracle; so is the care for values that are
 * not finite.
 *
 * A block owns 128 rows (query heads of a group, token after token) and has three warpgroups: one thread of the first
 * brings pages of keys and values by TMA into a ring of STAGES places each; two consumers own 64 rows each:
 *
 *   turn j:  issue S[j] = Q·K[j]ᵀ, then o += P[j-1]·V[j-1];  when S[j] is there, softmax of it while the tensor cores
 *            still multiply P·V;  then rescale o, round P[j]
 *
 * The two take turns at issuing (named barriers ORDER + i), so that one computes its softmax while the other keeps the
 * tensor cores busy. Q and P are A operands in registers; K is the K-major and V the MN-major B operand, both in boxes
 * of 64 columns × 64 slots with the 128-byte swizzle. A page of the pool is 64 rows of the tensor map. */
#include "cuda/attention_tile.cuh"
#include "cuda/sm90_ops.h"

namespace CU_NS
{
namespace
{

enum { GROUP = 128, CONSUMERS = 2, ROWS = 64 * CONSUMERS, THREADS = GROUP * (1 + CONSUMERS) };
enum { STAGES = 3, BOX = 64 * CU_PAGE };                    /* BOX: elements of one */
enum { ORDER = 1, CHECKED = 3 };                            /* ids of named barriers */
enum { PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232 }; /* (40 + 2·232)·128 <= 65536 */

/* Ring of pages; barriers count 1 arrival and the bytes (full), or one arrival per consumer warp (empty). */
struct ring_smem {
    bf16 *k, *v;                                   /* [STAGES][A / 64][BOX] */
    uint64_t *k_full, *k_empty, *v_full, *v_empty; /* [STAGES] */
    int *found;                                    /* [2]: a value of the page is not finite */
    uint32_t *odd;                                 /* att_take_odd */
};

template <int A> __host__ __device__ inline size_t carve(ring_smem *s, unsigned char *base)
{
    cu_carve c(base);
    ring_smem r;
    r.k = c.take<bf16>(STAGES * (A / 64) * BOX, 1024);
    r.v = c.take<bf16>(STAGES * (A / 64) * BOX, 1024);
    r.k_full = c.take<uint64_t>(STAGES);
    r.k_empty = c.take<uint64_t>(STAGES);
    r.v_full = c.take<uint64_t>(STAGES);
    r.v_empty = c.take<uint64_t>(STAGES);
    r.found = c.take<int>(2);
    r.odd = c.take<uint32_t>(ODD_WORDS * A);
    if (base) *s = r;
    return c.off;
}

#if CU_SM90
/* The values of a page as they lie under the swizzle. */
struct swizzled_values {
    bf16 *v;
    __device__ bf16 *at(int slot, int column) const
    {
        return v + column / 64 * BOX + slot * 64 + ((column % 64 / 8) ^ (slot % 8)) * 8 + column % 8;
    }
};

/* The one thread that loads. */
template <int A>
__device__ inline void produce(const ring_smem &sm, const cu_attention &a, const att_tile &t, const tensor_map *key,
                               const tensor_map *value)
{
    const int first = t.begin / CU_PAGE, pages = (t.end + CU_PAGE - 1) / CU_PAGE - first;
    for (int j = 0; j < pages; ++j) {
        const int stage = j % STAGES, at = stage * (A / 64) * BOX, bytes = CU_PAGE * A * 2;
        const int y = static_cast<int>(cu_kv_at(a.kv, t.row, t.kv, (first + j) * CU_PAGE) / A);
        if (j >= STAGES) mbar_wait(sm.k_empty + stage, (j / STAGES - 1) & 1);
        mbar_expect_tx(sm.k_full + stage, bytes);
        for (int i = 0; i < A / 64; ++i) tma_load_2d(sm.k + at + i * BOX, key, i * 64, y, sm.k_full + stage);
        if (j >= STAGES) mbar_wait(sm.v_empty + stage, (j / STAGES - 1) & 1);
        mbar_expect_tx(sm.v_full + stage, bytes);
        for (int i = 0; i < A / 64; ++i) tma_load_2d(sm.v + at + i * BOX, value, i * 64, y, sm.v_full + stage);
    }
}

/* Both consumers: looks for values of a page that are not finite; where there are some, puts zeros in their place and
 * adds them to the rows that see them. `turn` counts these pages. */
template <int A>
__device__ inline void check_page(const ring_smem &sm, bf16 *v, float (&o)[A / 8][4], const att_rows &r, int slot,
                                  int turn)
{
    const int tid = static_cast<int>(threadIdx.x) - GROUP;
    const uint4 *all = reinterpret_cast<const uint4 *>(v);
    int *found = sm.found + turn % 2; /* a quick thread may be at the next page while a slow one reads this */
    bool bad = false;
    for (int i = tid; i < CU_PAGE * A / 8; i += GROUP * CONSUMERS) bad = bad || !finite8(all[i]);
    if (bad) atomicExch(found, 1);
    named_barrier_sync(CHECKED, GROUP * CONSUMERS);
    if (atomicAdd(found, 0) == 0) return;
    const swizzled_values values = {v};
    if (tid < A) att_take_odd<A>(sm.odd, values, tid);
    fence_proxy_async(); /* wgmma reads through another path than these writes */
    named_barrier_sync(CHECKED, GROUP * CONSUMERS);
    if (tid == 0) atomicExch(found, 0);
    att_add_odd(o, sm.odd, r, slot);
}

template <int A> CU_FN void issue_scores(float (&s)[8][4], const uint32_t (&q)[A / 16][4], const bf16 *k)
{
    float(&d)[32] = reinterpret_cast<float(&)[32]>(s);
#pragma unroll ALL
    for (int i = 0; i < A / 16; ++i)
        wgmma_m64n64k16_rs<false>(d, q[i], wgmma_desc_sw128(k + i / 4 * BOX + i % 4 * 16), i > 0);
    wgmma_commit();
}

template <int A> CU_FN void issue_values(float (&o)[A / 8][4], const uint32_t (&p)[4][4], const bf16 *v)
{
    float(&d)[A / 2] = reinterpret_cast<float(&)[A / 2]>(o);
#pragma unroll ALL
    for (int i = 0; i < CU_PAGE / 16; ++i)
        if constexpr (A == 64) wgmma_m64n64k16_rs<true>(d, p[i], wgmma_desc_sw128(v + i * 16 * 64));
        else wgmma_m64n128k16_rs<true>(d, p[i], wgmma_desc_sw128(v + i * 16 * 64, BOX * 2));
    wgmma_commit();
}

/* Page j of the tile: its place in the ring, its first slot. */
template <int A> struct tile_pages {
    const ring_smem &sm;
    int first, pages; /* page index of the row, number of pages */
    int all_from, all_to;
    __device__ bf16 *k(int j) const
    {
        return sm.k + j % STAGES * (A / 64) * BOX;
    }
    __device__ bf16 *v(int j) const
    {
        return sm.v + j % STAGES * (A / 64) * BOX;
    }
    __device__ int slot(int j) const
    {
        return (first + j) * CU_PAGE;
    }
    __device__ bool whole(int j) const /* every row sees every slot */
    {
        return slot(j) >= all_from && slot(j) + CU_PAGE <= all_to;
    }
};

__device__ inline void release(uint64_t *empty)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbar_arrive(empty);
}

/* All pages of the tile for one consumer, `mine` = 0 or 1. The products are issued on straight paths, since ptxas
 * serializes them otherwise: the first scores before the loop, the last values after it. */
template <int A>
__device__ inline void consume(const ring_smem &sm, const cu_attention &a, const att_tile &t, int mine, float c)
{
    const tile_pages<A> g = {sm, t.begin / CU_PAGE, (t.end + CU_PAGE - 1) / CU_PAGE - t.begin / CU_PAGE, t.all_from,
                             t.all_to};
    att_rows r = att_rows_of(a, t, mine * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16);
    uint32_t q[A / 16][4], p[4][4];
    att_load_q<A>(q, a, r);
    float o[A / 8][4], s[8][4], keep[2];
#pragma unroll ALL
    for (int n = 0; n < A / 8; ++n) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.f;
    int checks = 0;

    mbar_wait(sm.k_full, 0);
    wgmma_fence();
    issue_scores<A>(s, q, g.k(0));
    wgmma_wait<0>();
    release(sm.k_empty);
    if (!g.whole(0)) att_mask(s, r, g.slot(0));
    att_softmax(s, keep, &r, c);
    att_pack(p, s);
    if (mine == 1 && g.pages > 1) named_barrier_arrive(ORDER, GROUP * CONSUMERS); /* consumer 0 goes first */
    for (int j = 1; j < g.pages; ++j) {
        mbar_wait(sm.v_full + (j - 1) % STAGES, (j - 1) / STAGES & 1);
        if (!g.whole(j - 1)) check_page<A>(sm, g.v(j - 1), o, r, g.slot(j - 1), checks++);
        mbar_wait(sm.k_full + j % STAGES, j / STAGES & 1);
        named_barrier_sync(ORDER + mine, GROUP * CONSUMERS);
        wgmma_fence();
        issue_scores<A>(s, q, g.k(j));
        issue_values<A>(o, p, g.v(j - 1));
        if (mine == 0 || j + 1 < g.pages) named_barrier_arrive(ORDER + (mine ^ 1), GROUP * CONSUMERS);
        wgmma_wait<1>();
        release(sm.k_empty + j % STAGES);
        if (!g.whole(j)) att_mask(s, r, g.slot(j));
        att_softmax(s, keep, &r, c);
        wgmma_wait<0>();
        release(sm.v_empty + (j - 1) % STAGES);
        att_rescale(o, keep);
        att_pack(p, s);
    }
    const int last = g.pages - 1;
    mbar_wait(sm.v_full + last % STAGES, last / STAGES & 1);
    if (!g.whole(last)) check_page<A>(sm, g.v(last), o, r, g.slot(last), checks);
    wgmma_fence();
    issue_values<A>(o, p, g.v(last));
    wgmma_wait<0>();
    att_store(o, a, r);
}
#endif

/* grid (tiles of the longest row, B·Hkv) */
template <int A>
__global__ void __launch_bounds__(THREADS, 1)
    attention_wgmma_kernel(cu_attention a, float scale, TMAP_PARAM key, TMAP_PARAM value)
{
#if CU_SM90
    DYN_SMEM_1024(raw);
    ring_smem sm = {};
    carve<A>(&sm, raw);
    const att_tile t = att_tile_of(a, static_cast<int>(gridDim.x - 1 - blockIdx.x), static_cast<int>(blockIdx.y), ROWS);
    if (t.rows <= 0) return; /* the whole block */
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            mbar_init(sm.k_full + i, 1);
            mbar_init(sm.v_full + i, 1);
            mbar_init(sm.k_empty + i, CONSUMERS * GROUP / 32);
            mbar_init(sm.v_empty + i, CONSUMERS * GROUP / 32);
        }
        sm.found[0] = sm.found[1] = 0;
        mbar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce<A>(sm, a, t, &key, &value);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume<A>(sm, a, t, static_cast<int>(threadIdx.x) / GROUP - 1, scale * 1.44269504088896340736f);
    }
#endif
}

template <int A> fh1_status launch(const cu_ctx *k, const cu_attention &a)
{
    const size_t smem = carve<A>(nullptr, nullptr);
    CU_TRY(cudaFuncSetAttribute(attention_wgmma_kernel<A>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(smem)),
           "shared memory of the attention");
    tensor_map key, value;
    const int64_t slots = a.kv.n_pages * a.kv.Hkv * CU_PAGE;
    FH1_TRY(tensor_map_2d(&key, a.kv.key, slots, A, CU_PAGE, 64));
    FH1_TRY(tensor_map_2d(&value, a.kv.value, slots, A, CU_PAGE, 64));
    const int64_t rows = static_cast<int64_t>(a.t.longest) * (a.Hq / a.Hkv);
    const dim3 grid(static_cast<unsigned>((rows + ROWS - 1) / ROWS), static_cast<unsigned>(a.t.B * a.Hkv));
    LAUNCH((attention_wgmma_kernel<A>), grid, THREADS, smem, k->stream, a, attention_scale(A), key, value);
    return cu_launched("attention (wgmma)");
}

} // namespace

bool attention_wgmma_takes(const cu_ctx *k, const cu_attention &a)
{
    return k->arch >= 90 && k->arch < 100 && (a.A == 64 || a.A == 128) && attention_mma_takes(a) &&
           a.kv.n_pages * a.kv.Hkv <= INT32_MAX / CU_PAGE;
}

fh1_status attention_wgmma(const cu_ctx *k, const cu_attention &a)
{
    return a.A == 64 ? launch<64>(k, a) : launch<128>(k, a);
}

} // namespace CU_NS
