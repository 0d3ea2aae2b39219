/* The scan in one kernel: a block walks the chunks of its row, head and slice of the state in order, the state in
 * registers throughout. For calls with enough rows and heads to fill the device. */
#include "cuda/ssd_chunk.cuh"

namespace CU_NS
{
namespace
{

/* NT: tiles of 16 columns a warp. grid (slices, H, rows) */
template <int NT> __global__ void __launch_bounds__(SSD_THREADS, 1) ssd_fused(cu_ssd a, int stages)
{
    DYN_SMEM(base);
    ssd_tiles s;
    ssd_carve(&s, base, a.N, stages, true);
    const int row = blockIdx.z, h = blockIdx.y;
    const ssd_place b = ssd_place_of(a, row, h, blockIdx.x);
    const int64_t begin = a.t.row_begin[row], end = a.t.row_begin[row + 1];
    if (begin == end) return;
    float *state = a.state + (static_cast<int64_t>(a.slot[row]) * a.H + h) * a.P * static_cast<int64_t>(a.N);
    float S[NT][2][4];
    ssd_load_state<NT>(a.t.start[begin] < 0 ? state : nullptr, b, a.N, S);
    ssd_chunks<NT, true, true>(a, s, stages, b, begin, end, S);
    ssd_store_state<NT>(state, b, a.N, S);
}

template <int NT> fh1_status launch(cu_ctx *k, const cu_ssd &a)
{
    const int stages = cu_ssd_stages(k, &a, a.t.longest > SSD_CHUNK);
    ssd_tiles s;
    const size_t bytes = ssd_carve(&s, nullptr, a.N, stages, true);
    const dim3 grid(static_cast<unsigned>((a.P + SSD_SLICE - 1) / SSD_SLICE), static_cast<unsigned>(a.H),
                    static_cast<unsigned>(a.t.B));
    CU_TRY(cudaFuncSetAttribute(ssd_fused<NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
           "the shared memory of ssd_fused");
    LAUNCH(ssd_fused<NT>, grid, SSD_THREADS, bytes, k->stream, a, stages);
    return cu_launched("ssd_fused");
}

} // namespace

bool cu_ssd_tiled(const cu_ssd *a)
{
    const uintptr_t all =
        reinterpret_cast<uintptr_t>(a->xbc) | reinterpret_cast<uintptr_t>(a->y) | reinterpret_cast<uintptr_t>(a->state);
    return a->type == CU_BF16 && a->P > 0 && a->P % 16 == 0 && a->P <= 128 && a->N > 0 && a->N % 16 == 0 &&
           a->N <= 256 && a->ldx % 8 == 0 && all % 16 == 0;
}

int cu_ssd_stages(const cu_ctx *k, const cu_ssd *a, bool several)
{
    /* what a block may ask for: 163 KiB on compute capability 8.0, 227 on 9.x and 10.x, else 99 */
    const size_t limit = 1024 * (k->arch == 80 ? 163 : k->arch >= 90 && k->arch < 120 ? 227 : 99);
    ssd_tiles s;
    for (int stages = several ? 2 : 1; stages > 0; --stages)
        if (ssd_carve(&s, nullptr, a->N, stages, true) <= limit) return stages;
    return 0;
}

fh1_status cu_ssd_fused_fwd(cu_ctx *k, const cu_ssd *a)
{
    if (a->N <= 32) return launch<1>(k, *a);
    if (a->N <= 64) return launch<2>(k, *a);
    if (a->N <= 128) return launch<4>(k, *a);
    return launch<8>(k, *a);
}

} // namespace CU_NS
