/* Every instruction below the level of CUDA C that kernels use (sm_80), each beside its twin on the CPU; and the
 * reductions over a warp, a quad and a block that are made of them. tests/cuda/conformance holds the twins against the
 * hardware. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

#if !CU_HOST
CU_FN uint32_t smem_u32(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
/* D[16,8] += A[16,16]·B[16,8], fragments as in the PTX ISA, "mma.m16n8k16" */
CU_FN void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
CU_FN void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(row))
                 : "memory");
}
CU_FN void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(row))
                 : "memory");
}
/* 16 bytes from global to shared memory; zeros where !pred */
CU_FN void cp_async16(void *smem, const void *gmem, bool pred = true)
{
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(smem_u32(smem)), "l"(gmem), "r"(pred ? 16 : 0)
                 : "memory");
}
CU_FN void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> CU_FN void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
CU_FN void named_barrier_sync(int id, int nthreads)
{
    asm volatile("bar.sync %0,%1;" ::"r"(id), "r"(nthreads) : "memory");
}
CU_FN void named_barrier_arrive(int id, int nthreads)
{
    asm volatile("bar.arrive %0,%1;" ::"r"(id), "r"(nthreads) : "memory");
}
/* 16 bytes that are read once: past the L1 */
CU_FN uint4 ld_stream16(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
CU_FN float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}
#else
CU_FN void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], sim::Site s = CU_HOST_HERE)
{
    sim::mma_m16n8k16_bf16(d, a, b, s);
}
CU_FN void ldmatrix_x4(uint32_t (&r)[4], const void *row, sim::Site s = CU_HOST_HERE)
{
    sim::ldmatrix<4, false>(r, row, s);
}
CU_FN void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, sim::Site s = CU_HOST_HERE)
{
    sim::ldmatrix<4, true>(r, row, s);
}
CU_FN void cp_async16(void *smem, const void *gmem, bool pred = true, sim::Site s = CU_HOST_HERE)
{
    sim::copy_async(smem, gmem, 16, pred, s);
}
CU_FN void cp_async_commit()
{
    sim::copy_async_commit();
}
template <int N> CU_FN void cp_async_wait()
{
    sim::copy_async_wait(N);
}
CU_FN void named_barrier_sync(int id, int nthreads, sim::Site s = CU_HOST_HERE)
{
    sim::bar_sync(id, nthreads, s);
}
CU_FN void named_barrier_arrive(int id, int nthreads, sim::Site s = CU_HOST_HERE)
{
    sim::bar_arrive(id, nthreads, s);
}
CU_FN uint4 ld_stream16(const void *p)
{
    return *static_cast<const uint4 *>(p);
}
CU_FN float fast_exp2(float x)
{
    return exp2f(x);
}
#endif

CU_FN float warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
CU_FN float warp_max(float v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
CU_FN float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
CU_FN float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
/* Every thread of the block gets the sum; blockDim.x a multiple of 32. `red`: 32 floats of shared memory, free again on
 * return. */
CU_FN float block_sum(float v, float *red)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    v = warp_sum(v);
    if (lane == 0) red[warp] = v;
    __syncthreads();
    v = warp_sum(lane < warps ? red[lane] : 0.f);
    __syncthreads();
    return v;
}
CU_FN uint32_t pack_bf16(float lo, float hi)
{
    __nv_bfloat162 t = __floats2bfloat162_rn(lo, hi);
    uint32_t u;
    memcpy(&u, &t, 4);
    return u;
}
CU_FN float2 unpack_bf16(uint32_t u)
{
    return make_float2(__uint_as_float(u << 16), __uint_as_float(u & 0xffff0000u));
}

/* One stored element as f32, and back, rounded to nearest even. */
CU_FN float load(const float *p)
{
    return *p;
}
CU_FN float load(const bf16 *p)
{
    return __bfloat162float(*p);
}
CU_FN void store(float *p, float v)
{
    *p = v;
}
CU_FN void store(bf16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}
/* v as T stores it. */
template <typename T> CU_FN float rounded(float v)
{
    T t;
    store(&t, v);
    return load(&t);
}

} // namespace CU_NS
