/* One token per row. The state and A are read once and the state is written once, 16 bytes a lane; LANES lanes share a
 * channel. Other widths take the general way. */
#include "cuda/gate.cuh"
#include "cuda/selective_tile.cuh"

namespace CU_NS
{
namespace
{

constexpr int THREADS = CU_SELECTIVE_THREADS;

CU_FN float4 decays(float dt, float4 A)
{
    const float by = LOG2_E;
    return make_float4(fast_exp2(dt * (A.x * by)), fast_exp2(dt * (A.y * by)), fast_exp2(dt * (A.z * by)),
                       fast_exp2(dt * (A.w * by)));
}

/* N = 4·LANES. grid (channels, rows) */
template <typename T, int LANES> __global__ void __launch_bounds__(THREADS) selective_step(cu_selective a)
{
    const int row = static_cast<int>(blockIdx.y), part = static_cast<int>(threadIdx.x) % LANES;
    const int i = static_cast<int>(blockIdx.x) * (THREADS / LANES) + static_cast<int>(threadIdx.x) / LANES;
    const int64_t m = a.t.row_begin[row];
    if (m == a.t.row_begin[row + 1]) return; /* the whole block */
    const bool on = i < a.I, fresh = a.t.start[m] >= 0;
    const int64_t columns = static_cast<int64_t>(i) * a.N + 4 * part;
    float4 *state = reinterpret_cast<float4 *>(a.state + static_cast<int64_t>(a.slot[row]) * a.I * a.N + columns);
    const float4 zero = make_float4(0.f, 0.f, 0.f, 0.f);
    float4 S = on && !fresh ? *state : zero; /* an empty state is not read: it may never have been written */
    const float4 A = on ? *reinterpret_cast<const float4 *>(a.A + columns) : zero;
    const T *B = static_cast<const T *>(a.B) + m * a.ldbc + 4 * part;
    const T *C = static_cast<const T *>(a.C) + m * a.ldbc + 4 * part;
    const float dt = on ? a.dt[m * a.I + i] : 0.f, x = on ? load(static_cast<const T *>(a.x) + m * a.ldx + i) : 0.f;
    const float4 keep = fresh ? zero : decays(dt, A);
    const float in = dt * x;
    S = make_float4(fmaf(in, load(B), keep.x * S.x), fmaf(in, load(B + 1), keep.y * S.y),
                    fmaf(in, load(B + 2), keep.z * S.z), fmaf(in, load(B + 3), keep.w * S.w));
    if (on) *state = S;
    float sum = fmaf(S.w, load(C + 3), fmaf(S.z, load(C + 2), fmaf(S.y, load(C + 1), S.x * load(C))));
#pragma unroll
    for (int o = LANES / 2; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (!on || part) return;
    const T *z = a.z ? static_cast<const T *>(a.z) + m * a.ldz + i : nullptr;
    store_gated(static_cast<T *>(a.y), static_cast<T *>(a.gated), m * a.I + i, z, 1.f, fmaf(a.D[i], x, sum));
}

bool aligned(const cu_selective &a)
{
    return (reinterpret_cast<uintptr_t>(a.state) | reinterpret_cast<uintptr_t>(a.A)) % 16 == 0;
}

template <typename T, int LANES> void launch(cu_ctx *k, const cu_selective &a)
{
    const int channels = THREADS / LANES;
    const dim3 grid(static_cast<unsigned>((a.I + channels - 1) / channels), static_cast<unsigned>(a.t.B));
    LAUNCH((selective_step<T, LANES>), grid, THREADS, 0, k->stream, a);
}

/* False: no kernel for this width. */
template <typename T> bool choose(cu_ctx *k, const cu_selective &a)
{
    if (k->path == CU_GENERAL || !aligned(a)) return false;
    if (a.N == 8) launch<T, 2>(k, a);
    else if (a.N == 16) launch<T, 4>(k, a);
    else if (a.N == 64) launch<T, 16>(k, a);
    else return false;
    return true;
}

} // namespace

fh1_status cu_selective_step_fwd(cu_ctx *k, const cu_selective *a)
{
    if (a->t.M == 0 || a->I == 0) return NULL;
    if (!(a->type == CU_BF16 ? choose<bf16>(k, *a) : choose<float>(k, *a))) return cu_selective_general_fwd(k, a);
    return cu_launched("selective_step");
}

} // namespace CU_NS
