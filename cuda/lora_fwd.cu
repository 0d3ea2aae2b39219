/* Two thin products, and the bias of the second. */
#include "cuda/backward.cuh"
#include "cuda/lora.cuh"

namespace CU_NS
{
namespace
{

__global__ void __launch_bounds__(256) lora_bias_k(int N, const float *b, float scale, float *y, int64_t ld)
{
    const int64_t n = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
    if (n < N) y[static_cast<int64_t>(blockIdx.x) * ld + n] += scale * b[n];
}

} // namespace

fh1_status cu_lora_fwd(cu_ctx *k, const cu_lora *a)
{
    const cu_adapter *l = &a->adapter;
    if (a->M <= 0 || a->N <= 0) return NULL;
    cu_product p = {}; /* t = alpha·x·Aᵀ */
    p.I = a->M, p.J = l->r, p.R = a->K;
    p.a = a->x, p.a_i = a->ldx, p.a_r = 1;
    p.b_type = CU_F32, p.b = l->A, p.b_r = 1, p.b_j = a->K;
    p.alpha = a->alpha;
    p.c = a->t, p.ldc = l->r;
    FH1_TRY(cu_product_run(k, &p));
    cu_product q = {}; /* y += scale·t·Bᵀ */
    q.I = a->M, q.J = a->N, q.R = l->r;
    q.a = a->t, q.a_i = l->r, q.a_r = 1;
    q.b_type = CU_F32, q.b = l->B, q.b_r = 1, q.b_j = l->r;
    q.alpha = l->scale;
    q.add = true;
    q.c = a->y, q.ldc = a->ldy;
    FH1_TRY(cu_product_run(k, &q));
    if (!l->bias) return NULL;
    const dim3 grid(static_cast<unsigned>(a->M), static_cast<unsigned>((a->N + 255) / 256));
    LAUNCH(lora_bias_k, grid, 256, 0, k->stream, a->N, l->bias, l->scale, a->y, a->ldy);
    return cu_launched("lora_bias");
}

} // namespace CU_NS
