/* Gradients of products, and the product that makes them: any strides, so that dy·W, dyᵀ·x and the thin products of
 * LoRA are one kernel.
 *
 * A block makes a tile of T x T outputs, 256 threads with PER x PER sums each; both operands come through shared memory
 * in slices along the summed axis, read along whichever of their axes is dense. */
#include "cuda/backward.cuh"
#include "cuda/column_sum.cuh"

namespace CU_NS
{
namespace
{

enum { THREADS = 256, SIDE = 16 };

/* to[s][x] = from(x0 + x, r0 + s), zero outside; element (x, r) at x·by_x + r·by_r. */
template <int T, int SLICE, bool DENSE_R, typename E>
CU_FN void load_slice(float (*to)[T + 1], const E *from, int64_t by_x, int64_t by_r, int64_t x0, int64_t X, int64_t r0,
                      int64_t R)
{
#pragma unroll
    for (int e = static_cast<int>(threadIdx.x); e < T * SLICE; e += THREADS) {
        const int x = DENSE_R ? e / SLICE : e % T, s = DENSE_R ? e % SLICE : e / T;
        const bool in = x0 + x < X && r0 + s < R;
        to[s][x] = in ? load(from + (x0 + x) * by_x + (r0 + s) * by_r) : 0.f;
    }
}

template <typename E, int T, bool A_R, bool B_R> __global__ void __launch_bounds__(THREADS) product_k(cu_product p)
{
    constexpr int PER = T / SIDE, SLICE = T == 64 ? 32 : 16;
    SHARED(float, as, [SLICE][T + 1]);
    SHARED(float, bs, [SLICE][T + 1]);
    const int tj = static_cast<int>(threadIdx.x) % SIDE, ti = static_cast<int>(threadIdx.x) / SIDE;
    const int64_t j0 = static_cast<int64_t>(blockIdx.x) * T, i0 = static_cast<int64_t>(blockIdx.y) * T;
    float acc[PER][PER] = {};
    for (int64_t r0 = 0; r0 < p.R; r0 += SLICE) {
        load_slice<T, SLICE, A_R>(as, p.a, p.a_i, p.a_r, i0, p.I, r0, p.R);
        load_slice<T, SLICE, B_R>(bs, static_cast<const E *>(p.b), p.b_j, p.b_r, j0, p.J, r0, p.R);
        __syncthreads();
        /* no multiplication past R: the zero that stands there times an infinity would be NaN */
        const int n = p.R - r0 < SLICE ? static_cast<int>(p.R - r0) : SLICE;
        for (int s = 0; s < n; ++s) {
            float b[PER];
#pragma unroll
            for (int j = 0; j < PER; ++j) b[j] = bs[s][tj + SIDE * j];
#pragma unroll
            for (int i = 0; i < PER; ++i) {
                const float a = as[s][ti + SIDE * i];
#pragma unroll
                for (int j = 0; j < PER; ++j) acc[i][j] = fmaf(a, b[j], acc[i][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int j = 0; j < PER; ++j) {
            const int64_t row = i0 + ti + SIDE * i, column = j0 + tj + SIDE * j;
            if (row >= p.I || column >= p.J) continue;
            float *c = p.c + row * p.ldc + column;
            const float v = p.alpha * acc[i][j];
            *c = p.add ? *c + v : v;
        }
}

template <typename E, int T> fh1_status tiled(cu_ctx *k, const cu_product *p)
{
    const dim3 grid(static_cast<unsigned>((p->J + T - 1) / T), static_cast<unsigned>((p->I + T - 1) / T));
    const bool a_r = p->a_r == 1, b_r = p->b_r == 1;
    if (a_r && b_r) LAUNCH((product_k<E, T, true, true>), grid, THREADS, 0, k->stream, *p);
    else if (a_r) LAUNCH((product_k<E, T, true, false>), grid, THREADS, 0, k->stream, *p);
    else if (b_r) LAUNCH((product_k<E, T, false, true>), grid, THREADS, 0, k->stream, *p);
    else LAUNCH((product_k<E, T, false, false>), grid, THREADS, 0, k->stream, *p);
    return cu_launched("product");
}

__global__ void __launch_bounds__(CU_COLUMN_THREADS)
    bias_k(int64_t M, int64_t N, const float *dy, int64_t ld, float alpha, float *db)
{
    SHARED(float, part, [CU_COLUMN_LANES][CU_COLUMNS + 1]);
    column_sum(
        M, N, alpha, [=](int64_t m, int64_t n) { return dy[m * ld + n]; }, part, db);
}

fh1_status bias(cu_ctx *k, int64_t M, int64_t N, const float *dy, int64_t ld, float alpha, float *db)
{
    if (!M || !N || !db) return NULL;
    LAUNCH(bias_k, column_blocks(N), CU_COLUMN_THREADS, 0, k->stream, M, N, dy, ld, alpha, db);
    return cu_launched("bias_bwd");
}

} // namespace

fh1_status cu_product_run(cu_ctx *k, const cu_product *p)
{
    if (!p->I || !p->J || (p->add && !p->R)) return NULL;
    /* wide tiles where they still give every multiprocessor one */
    const int64_t wide = (p->I + 127) / 128 * ((p->J + 127) / 128);
    const bool big = p->I > 64 && p->J > 64 && wide >= k->sms;
    if (p->b_type == CU_BF16) return big ? tiled<bf16, 128>(k, p) : tiled<bf16, 64>(k, p);
    return big ? tiled<float, 128>(k, p) : tiled<float, 64>(k, p);
}

fh1_status cu_linear_bwd(cu_ctx *k, const cu_linear_bwd_args *a)
{
    if (a->dx) {
        const cu_product p = {a->M, a->K, a->N, a->dy,    a->ldy, 1,     a->w_type,
                              a->w, a->K, 1,    a->alpha, a->add, a->dx, a->lddx};
        FH1_TRY(cu_product_run(k, &p));
    }
    if (a->dw) {
        const cu_product p = {a->N, a->K, a->M, a->dy, 1, a->ldy, CU_F32, a->x, a->ldx, 1, a->alpha, true, a->dw, a->K};
        FH1_TRY(cu_product_run(k, &p));
    }
    return bias(k, a->M, a->N, a->dy, a->ldy, 1.f, a->db);
}

size_t cu_lora_bwd_scratch(const cu_lora_bwd_args *a)
{
    return 2 * static_cast<size_t>(a->M) * static_cast<size_t>(a->r) * sizeof(float);
}

fh1_status cu_lora_bwd(cu_ctx *k, const cu_lora_bwd_args *a)
{
    float *t = a->scratch, *u = t + static_cast<int64_t>(a->M) * a->r;
    if (a->dx || a->dA) { /* u = scale·dy·B */
        const cu_product p = {a->M, a->r, a->N, a->dy, a->ldy, 1, CU_F32, a->B, a->r, 1, a->scale, false, u, a->r};
        FH1_TRY(cu_product_run(k, &p));
    }
    if (a->dB) { /* t = alpha·x·Aᵀ */
        const cu_product p = {a->M, a->r, a->K, a->x, a->ldx, 1, CU_F32, a->A, 1, a->K, a->alpha, false, t, a->r};
        FH1_TRY(cu_product_run(k, &p));
        const cu_product q = {a->N, a->r, a->M, a->dy, 1, a->ldy, CU_F32, t, a->r, 1, a->scale, true, a->dB, a->r};
        FH1_TRY(cu_product_run(k, &q));
    }
    if (a->dA) {
        const cu_product p = {a->r, a->K, a->M, u, 1, a->r, CU_F32, a->x, a->ldx, 1, a->alpha, true, a->dA, a->K};
        FH1_TRY(cu_product_run(k, &p));
    }
    if (a->dx) {
        const cu_product p = {a->M, a->K, a->r, u, a->r, 1, CU_F32, a->A, a->K, 1, a->alpha, true, a->dx, a->lddx};
        FH1_TRY(cu_product_run(k, &p));
    }
    return bias(k, a->M, a->N, a->dy, a->ldy, a->scale, a->db);
}

} // namespace CU_NS
