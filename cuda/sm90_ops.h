/* Hopper's instructions, each beside its twin on the CPU: mbarriers, bulk and tensor copies into shared memory (TMA),
 * and the asynchronous products of a warpgroup (wgmma). For kernels compiled for sm_90a: their bodies are guarded by
 * CU_SM90. tests/cuda/test_cu_sm90_ops.cu holds the twins against plain formulas, and the hardware against the same. */
#pragma once

#include "cuda/warp_ops.h"

#if CU_HOST
#include "cuda/host/sm90.h"
#define CU_SM90 1
#else
#include <cuda.h>
#include <cudaTypedefs.h>
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CU_SM90 1
#else
#define CU_SM90 0
#endif
#endif

namespace CU_NS
{

/* What tensor_load reads from: made by the host (tensor_map_2d, tensor_map_3d), passed as TMAP_PARAM. */
#if CU_HOST
struct alignas(64) tensor_map {
    sim::TensorMap m;
};
#define TMAP_PARAM const tensor_map
#else
typedef CUtensorMap tensor_map;
#define TMAP_PARAM const __grid_constant__ tensor_map
#endif

#if !CU_HOST

/* ---- mbarriers: 8 bytes of shared memory, for `n` arrivals per phase and any number of awaited bytes ---- */
CU_FN void mbar_init(uint64_t *bar, int n)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(smem_u32(bar)), "r"(n) : "memory");
}
/* After mbar_init, before the barrier of the block that shows it to the others. */
CU_FN void mbar_fence_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/* Arrives, after which `bytes` more are awaited. */
CU_FN void mbar_expect_tx(uint64_t *bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(smem_u32(bar)), "r"(bytes) : "memory");
}
CU_FN void mbar_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0];" ::"r"(smem_u32(bar)) : "memory");
}
/* Until the phase of this parity is complete: 0 the first, 1 the second (and the one "before the first"), 0 … */
CU_FN void mbar_wait(uint64_t *bar, int parity)
{
    asm volatile(
        "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1;\n@p bra done;\nbra again;\n"
        "done:\n}" ::"r"(smem_u32(bar)),
        "r"(parity)
        : "memory");
}

/* ---- copies into shared memory that complete on an mbarrier; one thread issues ---- */
CU_FN void bulk_load(void *smem, const void *gmem, int bytes, uint64_t *bar)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(smem_u32(smem)),
        "l"(gmem), "r"(bytes), "r"(smem_u32(bar))
        : "memory");
}
/* The box at column x of row y (of plane z); zeros where it leaves the tensor. */
CU_FN void tma_load_2d(void *smem, const tensor_map *m, int x, int y, uint64_t *bar)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3}],[%4];" ::
            "r"(smem_u32(smem)),
        "l"(m), "r"(x), "r"(y), "r"(smem_u32(bar))
        : "memory");
}
CU_FN void tma_load_3d(void *smem, const tensor_map *m, int x, int y, int z, uint64_t *bar)
{
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3,%4}],[%5];" ::
            "r"(smem_u32(smem)),
        "l"(m), "r"(x), "r"(y), "r"(z), "r"(smem_u32(bar))
        : "memory");
}
/* Ordinary writes to shared memory before it become visible to wgmma and TMA after it. */
CU_FN void fence_proxy_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- wgmma ---- */
/* Before the first product, and after accumulators or A registers were touched. */
CU_FN void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
CU_FN void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All groups but the last N committed ones. */
template <int N> CU_FN void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* An operand in shared memory: rows of 64 bf16 (128 bytes) with the 128-byte swizzle, 8 rows 1024 bytes apart, as a
 * swizzled box of 64 columns lies. `next64`: bytes from the first 64 columns to the next 64, for a transposed B wider
 * than 64. The next 16 of k: 32 bytes on, transposed 16 rows (2048 bytes) on. */
CU_FN uint64_t wgmma_desc_sw128(const void *p, int next64 = 16)
{
    return static_cast<uint64_t>((smem_u32(p) & 0x3ffff) >> 4) | static_cast<uint64_t>(next64 >> 4) << 16 |
           static_cast<uint64_t>(1024 >> 4) << 32 | 1ull << 62;
}
/* Registers per thread, for the warpgroups that need more or fewer than the launch gave. */
template <int N> CU_FN void registers_up()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> CU_FN void registers_down()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* wgmma_m64nNk16_ss<TRANS_B>(d, a, b, add): d[64,N] = (add ? d : 0) + A[64,16]·B[16,N], both by descriptor.
 * wgmma_m64nNk16_rs: A in registers, the fragment of mma.m16n8k16 of each warp's 16 rows.
 * TRANS_B: B lies as [k, n], n contiguous (as V does); else as [n, k] (as a linear weight or K does).
 * Thread t has d[4j + 2h + i] = row t / 32 · 16 + t % 32 / 4 + 8h, column 8j + t % 4 · 2 + i. */
#define CU_WGMMA_32                                          \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define CU_WGMMA_64                                                                \
    CU_WGMMA_32 ","                                                                \
                "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
                "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define CU_WGMMA_128                                                                           \
    CU_WGMMA_64 ","                                                                            \
                "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"             \
                "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"             \
                "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
                "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define CU_WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CU_WGMMA_D16(i) CU_WGMMA_D4(i), CU_WGMMA_D4(i + 4), CU_WGMMA_D4(i + 8), CU_WGMMA_D4(i + 12)
#define CU_WGMMA_D32(i) CU_WGMMA_D16(i), CU_WGMMA_D16(i + 16)
#define CU_WGMMA_D64(i) CU_WGMMA_D32(i), CU_WGMMA_D32(i + 32)
#define CU_WGMMA_D128(i) CU_WGMMA_D64(i), CU_WGMMA_D64(i + 64)
/* R registers of N columns; p0 … p6: the operands after them, as text. */
#define CU_WGMMA(N, R, p0, p1, p2, p3, p4, p5, p6)                                                                    \
    template <bool TRANS_B> CU_FN void wgmma_m64n##N##k16_ss(float(&d)[R], uint64_t a, uint64_t b, bool add = true)   \
    {                                                                                                                 \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p,%" p2 ",0;\n"                                                   \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" CU_WGMMA_##R "},%" p0 ",%" p1       \
                                                                                               ",p,1,1,0,%" p3 ";\n}" \
                     : CU_WGMMA_D##R(0)                                                                               \
                     : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(TRANS_B ? 1 : 0));                             \
    }                                                                                                                 \
    template <bool TRANS_B>                                                                                           \
    CU_FN void wgmma_m64n##N##k16_rs(float(&d)[R], const uint32_t(&a)[4], uint64_t b, bool add = true)                \
    {                                                                                                                 \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p,%" p5 ",0;\n"                                                   \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" CU_WGMMA_##R                        \
                     "},{%" p0 ",%" p1 ",%" p2 ",%" p3 "},%" p4 ",p,1,1,%" p6 ";\n}"                                  \
                     : CU_WGMMA_D##R(0)                                                                               \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),                \
                       "n"(TRANS_B ? 1 : 0));                                                                         \
    }
CU_WGMMA(64, 32, "32", "33", "34", "35", "36", "37", "38")
CU_WGMMA(128, 64, "64", "65", "66", "67", "68", "69", "70")
CU_WGMMA(256, 128, "128", "129", "130", "131", "132", "133", "134")
#undef CU_WGMMA
#undef CU_WGMMA_32
#undef CU_WGMMA_64
#undef CU_WGMMA_128
#undef CU_WGMMA_D4
#undef CU_WGMMA_D16
#undef CU_WGMMA_D32
#undef CU_WGMMA_D64
#undef CU_WGMMA_D128

#else

CU_FN void mbar_init(uint64_t *bar, int n, sim::Site s = CU_HOST_HERE)
{
    sim::mbar_init(bar, n, s);
}
CU_FN void mbar_fence_init()
{
    sim::fence(0);
}
CU_FN void mbar_expect_tx(uint64_t *bar, int bytes, sim::Site s = CU_HOST_HERE)
{
    sim::mbar_arrive(bar, bytes, s);
}
CU_FN void mbar_arrive(uint64_t *bar, sim::Site s = CU_HOST_HERE)
{
    sim::mbar_arrive(bar, 0, s);
}
CU_FN void mbar_wait(uint64_t *bar, int parity, sim::Site s = CU_HOST_HERE)
{
    sim::mbar_wait(bar, parity, s);
}
CU_FN void bulk_load(void *smem, const void *gmem, int bytes, uint64_t *bar, sim::Site s = CU_HOST_HERE)
{
    sim::bulk_load(smem, gmem, bytes, bar, s);
}
CU_FN void tma_load_2d(void *smem, const tensor_map *m, int x, int y, uint64_t *bar, sim::Site s = CU_HOST_HERE)
{
    if (m->m.rank != 2) sim::die(s, "tma_load_2d of a tensor map of rank %d", m->m.rank);
    sim::tensor_load(smem, &m->m, x, y, 0, bar, s);
}
CU_FN void tma_load_3d(void *smem, const tensor_map *m, int x, int y, int z, uint64_t *bar, sim::Site s = CU_HOST_HERE)
{
    if (m->m.rank != 3) sim::die(s, "tma_load_3d of a tensor map of rank %d", m->m.rank);
    sim::tensor_load(smem, &m->m, x, y, z, bar, s);
}
CU_FN void fence_proxy_async()
{
}
CU_FN void wgmma_fence()
{
}
CU_FN void wgmma_commit(sim::Site s = CU_HOST_HERE)
{
    sim::wgmma_commit(s);
}
template <int N> CU_FN void wgmma_wait(sim::Site s = CU_HOST_HERE)
{
    sim::wgmma_wait(N, s);
}
CU_FN uint64_t wgmma_desc_sw128(const void *p, int next64 = 16, sim::Site s = CU_HOST_HERE)
{
    return (sim::shared_address(p, s) & 0x3ffff) >> 4 | static_cast<uint64_t>(next64 >> 4) << 16 |
           static_cast<uint64_t>(1024 >> 4) << 32 | 1ull << 62;
}
template <int N> CU_FN void registers_up()
{
}
template <int N> CU_FN void registers_down()
{
}
#define CU_WGMMA(N)                                                                                        \
    template <bool TRANS_B>                                                                                \
    CU_FN void wgmma_m64n##N##k16_ss(float(&d)[N / 2], uint64_t a, uint64_t b, bool add = true,            \
                                     sim::Site s = CU_HOST_HERE)                                           \
    {                                                                                                      \
        sim::wgmma_issue(d, {N, nullptr, a, b, TRANS_B, add}, s);                                          \
    }                                                                                                      \
    template <bool TRANS_B>                                                                                \
    CU_FN void wgmma_m64n##N##k16_rs(float(&d)[N / 2], const uint32_t(&a)[4], uint64_t b, bool add = true, \
                                     sim::Site s = CU_HOST_HERE)                                           \
    {                                                                                                      \
        sim::wgmma_issue(d, {N, a, 0, b, TRANS_B, add}, s);                                                \
    }
CU_WGMMA(64)
CU_WGMMA(128)
CU_WGMMA(256)
#undef CU_WGMMA

#endif

/* ---- tensor maps, made on the host ---- */

/* bf16 [dim[rank-1], …, dim[0]], dim[0] contiguous, `stride` bytes between the others ([0] is not read), seen through
 * boxes. Swizzled boxes are 64 columns wide: rows of 128 bytes, whose 16-byte pieces are exchanged by row modulo 8.
 * FH1_E_INTERNAL where the hardware has no such map: base and strides multiples of 16 bytes, boxes up to 256. */
static inline fh1_status tensor_map_make(tensor_map *m, const void *base, int rank, const int64_t *dim,
                                         const int64_t *stride, const int *box, bool swizzled)
{
    memset(m, 0, sizeof *m);
    bool ok = rank >= 2 && rank <= 3 && base && reinterpret_cast<uintptr_t>(base) % 16 == 0 && box[0] * 2 % 16 == 0;
    ok = ok && (!swizzled || box[0] * 2 == 128);
    for (int i = 0; ok && i < rank; ++i)
        ok = dim[i] > 0 && dim[i] <= (1ll << 32) && box[i] > 0 && box[i] <= 256 &&
             (i == 0 || (stride[i] > 0 && stride[i] % 16 == 0 && stride[i] < (1ll << 40)));
    if (!ok)
        return fh1_fail(FH1_E_INTERNAL, "no tensor map of rank %d: %lld x %lld, %lld bytes apart, boxes of %d x %d",
                        rank, static_cast<long long>(dim[1]), static_cast<long long>(dim[0]),
                        static_cast<long long>(stride[1]), box[1], box[0]);
#if CU_HOST
    m->m = sim::TensorMap{base,
                          rank,
                          2,
                          {dim[0], dim[1], rank > 2 ? dim[2] : 1},
                          {2, stride[1], rank > 2 ? stride[2] : 0},
                          {box[0], box[1], rank > 2 ? box[2] : 1},
                          swizzled};
    return NULL;
#else
    void *found = NULL;
    cudaDriverEntryPointQueryResult result;
    CU_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
           "looking for cuTensorMapEncodeTiled");
    if (result != cudaDriverEntryPointSuccess || !found)
        return fh1_fail(FH1_E_INTERNAL, "the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12.0");
    cuuint64_t d[3], s[2];
    cuuint32_t b[3];
    const cuuint32_t one[3] = {1, 1, 1};
    for (int i = 0; i < rank; ++i) {
        d[i] = static_cast<cuuint64_t>(dim[i]);
        b[i] = static_cast<cuuint32_t>(box[i]);
        if (i) s[i - 1] = static_cast<cuuint64_t>(stride[i]);
    }
    const CUresult r = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found)(
        m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(rank), const_cast<void *>(base), d, s, b, one,
        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        return fh1_fail(FH1_E_INTERNAL, "cuTensorMapEncodeTiled failed with %d", static_cast<int>(r));
    return NULL;
#endif
}

/* [rows, cols], rows `ld` elements apart (0: cols), swizzled boxes of box_rows x box_cols (64). */
static inline fh1_status tensor_map_2d(tensor_map *m, const void *base, int64_t rows, int64_t cols, int box_rows,
                                       int box_cols, int64_t ld = 0)
{
    const int64_t dim[2] = {cols, rows}, stride[2] = {2, 2 * (ld ? ld : cols)};
    const int box[2] = {box_cols, box_rows};
    return tensor_map_make(m, base, 2, dim, stride, box, true);
}

} // namespace CU_NS
