/* Mistakes with mbarriers, bulk copies and wgmma. */
#include "tests/cuda/zoo.h"

namespace CU_NS
{
namespace
{

/* A producer warp copies x into two stages, `ROUNDS` times; the others read. */
enum { ROUNDS = 4, PRODUCER = T, MBAR_NO_WAIT = 1, OVERWRITES, WRONG_BYTES, WRONG_PARITY, NOT_MADE, SHORT_SOURCE };
struct stages {
    float *s; /* stage k at + k T */
    uint64_t *full, *empty;
};
__host__ __device__ inline size_t carve(stages *p, unsigned char *base)
{
    cu_carve c(base);
    p->s = c.take<float>(2 * T, 128);
    p->full = c.take<uint64_t>(2);
    p->empty = c.take<uint64_t>(2);
    return c.off;
}
__global__ void pipeline(float *o, const float *x, int bug)
{
#if CU_SM90
    DYN_SMEM(base);
    stages p;
    carve(&p, base);
    const int i = threadIdx.x;
    if (i == 0 && bug != NOT_MADE)
        for (int k = 0; k < 2; ++k) {
            mbar_init(&p.full[k], 1);
            mbar_init(&p.empty[k], T);
            mbar_fence_init();
        }
    __syncthreads();
    if (i >= PRODUCER) {
        for (int r = 0; i == PRODUCER && r < ROUNDS; ++r) {
            const int k = r & 1;
            mbar_wait(&p.empty[k], (r / 2 & 1) ^ 1);
            mbar_expect_tx(&p.full[k], T * 4 - (bug == WRONG_BYTES ? 16 : 0));
            bulk_load(p.s + k * T, x + (bug == SHORT_SOURCE ? 4 : 0), T * 4, &p.full[k]);
        }
        return;
    }
    float sum = 0;
    for (int r = 0; r < ROUNDS; ++r) {
        const int k = r & 1;
        if (bug != MBAR_NO_WAIT) mbar_wait(&p.full[k], (r / 2 & 1) ^ (bug == WRONG_PARITY));
        if (bug == OVERWRITES) mbar_arrive(&p.empty[k]); /* before it has read */
        sum += p.s[k * T + T - 1 - i];
        if (bug != OVERWRITES) mbar_arrive(&p.empty[k]);
    }
    o[i] = sum * (1.f / ROUNDS);
#endif
}
template <int BUG> void run_pipeline(cage *c)
{
    stages p;
    LAUNCH(pipeline, 1, T + 32, carve(&p, nullptr), nullptr, c->o, c->x, c->bug ? BUG : 0);
}

/* d = a·b of 64 x 64 x 16 from shared memory, a = ones in its first column of k, b = x there: every row of d is x. */
enum { WGMMA_NO_WAIT = 1, OPERAND_OVERWRITTEN, IN_FLIGHT };
struct tiles {
    bf16 *a, *b;
};
__host__ __device__ inline size_t carve(tiles *t, unsigned char *base)
{
    cu_carve c(base);
    t->a = c.take<bf16>(64 * 64, 1024);
    t->b = c.take<bf16>(64 * 64, 1024);
    return c.off;
}
__global__ void __launch_bounds__(T) product(float *o, const float *x, int bug)
{
#if CU_SM90
    DYN_SMEM_1024(base);
    tiles t;
    carve(&t, base);
    const int i = threadIdx.x;
    for (int k = i; k < 64 * 64; k += T) {
        t.a[k] = __float2bfloat16_rn(0.f);
        t.b[k] = __float2bfloat16_rn(0.f);
    }
    __syncthreads();
    if (i < 64) { /* element (row, 0): the swizzle moves 16-byte pieces */
        const int at = i * 64 + (i & 7) * 8;
        t.a[at] = __float2bfloat16_rn(1.f);
        t.b[at] = __float2bfloat16_rn(x[i]);
    }
    fence_proxy_async();
    __syncthreads();
    float d[32] = {};
    wgmma_fence();
    wgmma_m64n64k16_ss<false>(d, wgmma_desc_sw128(t.a), wgmma_desc_sw128(t.b));
    wgmma_commit();
    if (bug == OPERAND_OVERWRITTEN) t.b[i] = __float2bfloat16_rn(0.f);
    if (!bug || bug == OPERAND_OVERWRITTEN) wgmma_wait<0>();
    if (i >= 64) o[i] = x[i];
    if (i < 4) /* row 0 */
        for (int j = 0; j < 16; ++j) o[j / 2 * 8 + i * 2 + j % 2] = d[j / 2 * 4 + j % 2];
    if (bug == WGMMA_NO_WAIT) wgmma_wait<0>();
#endif
}
template <int BUG> void run_product(cage *c)
{
    tiles t;
    LAUNCH(product, 1, T, carve(&t, nullptr), nullptr, c->o, c->x, c->bug ? BUG : 0);
}

} // namespace

const std::vector<animal> zoo_hopper = {
    {"mbarrier_without_wait", run_pipeline<MBAR_NO_WAIT>, reversed},
    {"bulk_copy_into_a_buffer_in_use", run_pipeline<OVERWRITES>, reversed},
    {"wrong_expected_bytes", run_pipeline<WRONG_BYTES>, reversed},
    {"wrong_parity", run_pipeline<WRONG_PARITY>, reversed},
    {"mbarrier_not_made", run_pipeline<NOT_MADE>, reversed},
    {"bulk_copy_reads_past", run_pipeline<SHORT_SOURCE>, reversed},
    {"wgmma_without_wait", run_product<WGMMA_NO_WAIT>, same},
    {"wgmma_operand_overwritten", run_product<OPERAND_OVERWRITTEN>, same},
    {"wgmma_in_flight_at_exit", run_product<IN_FLIGHT>, same},
};

} // namespace CU_NS
