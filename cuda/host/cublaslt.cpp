/* cublaslt.h: descriptors that refuse what is not made here, and the product, a kernel of one thread per 32 x 32 tile.
 */
#include "cuda/host/cublaslt.h"

#include <cstring>

namespace cu_host
{

struct cublasLtContext {
    int unused;
};
struct cublasLtMatmulDescOpaque {
    int32_t trans_a, trans_b, bias_type;
    uint32_t epilogue;
    const void *bias;
};
struct cublasLtMatrixLayoutOpaque {
    cudaDataType_t type;
    int64_t rows, cols, ld;
    int32_t order;
};
struct cublasLtMatmulPreferenceOpaque {
    uint64_t workspace;
};

namespace
{

constexpr int64_t TILE = 32, PANEL = 128;
constexpr size_t ALGO_2_WORKSPACE = 256;

/* Element (i, j) of op(X) is p[i·si + j·sj]. */
struct view {
    void *p;
    int64_t si, sj;
    bool f32;
};
struct product {
    view a, b, c, d;
    int64_t m, n, k;
    float alpha, beta;
    const void *bias;
    bool bias_f32;
    unsigned char *dirty; /* workspace to write, or NULL */
};

inline float get(const view &v, int64_t i, int64_t j)
{
    const int64_t at = i * v.si + j * v.sj;
    return v.f32 ? static_cast<const float *>(v.p)[at] : __bfloat162float(static_cast<const bf16 *>(v.p)[at]);
}

typedef float lanes __attribute__((vector_size(16)));

/* sum[j][i] += Σ a[k][i]·b[k][j], for each sum in the order of k. 4 x 8 sums at a time stay in registers. */
void multiply_panel(const float (*a)[TILE], const float (*b)[TILE], int64_t n_k, float (*sum)[TILE])
{
    for (int j = 0; j < TILE; j += 4) {
        for (int i = 0; i < TILE; i += 8) {
            lanes s[4][2];
            for (int q = 0; q < 4; ++q) memcpy(s[q], &sum[j + q][i], sizeof s[q]);
            for (int64_t k = 0; k < n_k; ++k) {
                lanes x[2];
                memcpy(x, &a[k][i], sizeof x);
                for (int q = 0; q < 4; ++q) {
                    s[q][0] += x[0] * b[k][j + q];
                    s[q][1] += x[1] * b[k][j + q];
                }
            }
            for (int q = 0; q < 4; ++q) memcpy(&sum[j + q][i], s[q], sizeof s[q]);
        }
    }
}

void matmul_kernel(product p)
{
    const int64_t i0 = static_cast<int64_t>(blockIdx.x) * TILE, j0 = static_cast<int64_t>(blockIdx.y) * TILE;
    const int64_t n_i = p.m - i0 < TILE ? p.m - i0 : TILE, n_j = p.n - j0 < TILE ? p.n - j0 : TILE;
    alignas(16) float a[PANEL][TILE], b[PANEL][TILE], sum[TILE][TILE] = {};
    memset(a, 0, sizeof a); /* rows past the end make sums that nobody reads */
    memset(b, 0, sizeof b);
    for (int64_t k0 = 0; k0 < p.k; k0 += PANEL) {
        const int64_t n_k = p.k - k0 < PANEL ? p.k - k0 : PANEL;
        for (int64_t i = 0; i < n_i; ++i)
            for (int64_t k = 0; k < n_k; ++k) a[k][i] = get(p.a, i0 + i, k0 + k);
        for (int64_t j = 0; j < n_j; ++j)
            for (int64_t k = 0; k < n_k; ++k) b[k][j] = get(p.b, k0 + k, j0 + j);
        multiply_panel(a, b, n_k, sum);
    }
    for (int64_t j = 0; j < n_j; ++j) {
        for (int64_t i = 0; i < n_i; ++i) {
            float v = p.alpha * sum[j][i];
            if (p.beta != 0.f) v += p.beta * get(p.c, i0 + i, j0 + j); /* beta 0: C is not read */
            if (p.bias) v += get(view{const_cast<void *>(p.bias), 1, 0, p.bias_f32}, i0 + i, 0);
            const int64_t at = (i0 + i) * p.d.si + (j0 + j) * p.d.sj;
            if (p.d.f32) static_cast<float *>(p.d.p)[at] = v;
            else static_cast<bf16 *>(p.d.p)[at] = __float2bfloat16_rn(v);
        }
    }
    if (p.dirty && blockIdx.x == 0 && blockIdx.y == 0) memset(p.dirty, 0xff, ALGO_2_WORKSPACE);
}

bool known(cudaDataType_t t)
{
    return t == CUDA_R_32F || t == CUDA_R_16BF;
}

view view_of(const void *p, const cublasLtMatrixLayoutOpaque *l, bool transposed)
{
    const bool by_rows = (l->order == CUBLASLT_ORDER_ROW) != transposed;
    return view{const_cast<void *>(p), by_rows ? l->ld : 1, by_rows ? 1 : l->ld, l->type == CUDA_R_32F};
}

bool sound(const cublasLtMatrixLayoutOpaque *l)
{
    return l->rows > 0 && l->cols > 0 && l->ld >= (l->order == CUBLASLT_ORDER_ROW ? l->cols : l->rows);
}

/* Shapes that fit and types that go together, and the sizes of the product. */
cublasStatus_t agree(const cublasLtMatmulDescOpaque *d, const cublasLtMatrixLayoutOpaque *A,
                     const cublasLtMatrixLayoutOpaque *B, const cublasLtMatrixLayoutOpaque *C,
                     const cublasLtMatrixLayoutOpaque *D, product *p)
{
    if (!d || !A || !B || !C || !D || !sound(A) || !sound(B) || !sound(C) || !sound(D))
        return CUBLAS_STATUS_INVALID_VALUE;
    p->m = d->trans_a ? A->cols : A->rows;
    p->k = d->trans_a ? A->rows : A->cols;
    p->n = d->trans_b ? B->rows : B->cols;
    if ((d->trans_b ? B->cols : B->rows) != p->k || D->rows != p->m || D->cols != p->n || C->rows != p->m ||
        C->cols != p->n)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (A->type != B->type || C->type != D->type || (A->type == CUDA_R_32F && D->type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d->epilogue == CUBLASLT_EPILOGUE_BIAS) {
        if (!d->bias) return CUBLAS_STATUS_INVALID_VALUE;
        if (D->order != CUBLASLT_ORDER_COL) return CUBLAS_STATUS_NOT_SUPPORTED;
        const int32_t type = d->bias_type < 0 ? D->type : d->bias_type;
        if (type != D->type) return CUBLAS_STATUS_NOT_SUPPORTED;
        p->bias_f32 = type == CUDA_R_32F;
    }
    p->bias = d->epilogue == CUBLASLT_EPILOGUE_BIAS ? d->bias : NULL;
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> cublasStatus_t take(T *to, const void *value, size_t n_bytes)
{
    if (!value || n_bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, sizeof *to);
    return CUBLAS_STATUS_SUCCESS;
}

/* As `take`, for a number that must be one of two. */
cublasStatus_t take_one_of(int32_t *to, const void *value, size_t n_bytes, int32_t a, int32_t b)
{
    int32_t v;
    const cublasStatus_t s = take(&v, value, n_bytes);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    if (v != a && v != b) return CUBLAS_STATUS_NOT_SUPPORTED;
    *to = v;
    return s;
}

template <typename T> cublasStatus_t fresh(T **out, const T &value)
{
    *out = static_cast<T *>(malloc(sizeof(T)));
    if (!*out) return CUBLAS_STATUS_ALLOC_FAILED;
    **out = value;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t released(void *p)
{
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

size_t cublasLtGetVersion(void)
{
    return 1;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    return fresh(h, cublasLtContext{0});
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    return released(h);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale)
{
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    return fresh(d, cublasLtMatmulDescOpaque{CUBLAS_OP_N, CUBLAS_OP_N, -1, CUBLASLT_EPILOGUE_DEFAULT, NULL});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    return released(d);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t n_bytes)
{
    int32_t epilogue;
    cublasStatus_t s;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return take_one_of(&d->trans_a, value, n_bytes, CUBLAS_OP_N, CUBLAS_OP_T);
    case CUBLASLT_MATMUL_DESC_TRANSB: return take_one_of(&d->trans_b, value, n_bytes, CUBLAS_OP_N, CUBLAS_OP_T);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        s = take_one_of(&epilogue, value, n_bytes, CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS);
        if (s == CUBLAS_STATUS_SUCCESS) d->epilogue = static_cast<uint32_t>(epilogue);
        return s;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return take(&d->bias, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return take_one_of(&d->bias_type, value, n_bytes, CUDA_R_32F, CUDA_R_16BF);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type, uint64_t rows, uint64_t cols,
                                          int64_t ld)
{
    if (!known(type)) return CUBLAS_STATUS_NOT_SUPPORTED;
    return fresh(l, cublasLtMatrixLayoutOpaque{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld,
                                               CUBLASLT_ORDER_COL});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    return released(l);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t n_bytes)
{
    int32_t one;
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return take_one_of(&l->order, value, n_bytes, CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW);
    case CUBLASLT_MATRIX_LAYOUT_LD: return take(&l->ld, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return take_one_of(&one, value, n_bytes, 1, 1);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    return fresh(p, cublasLtMatmulPreferenceOpaque{0});
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    return released(p);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t n_bytes)
{
    uint32_t mask;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return take(&p->workspace, value, n_bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return take(&mask, value, n_bytes); /* both sum in one go */
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t A,
                                       cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result)
{
    product p = {};
    const cublasStatus_t s = agree(d, A, B, C, D, &p);
    if (!h || !algo || s != CUBLAS_STATUS_SUCCESS) return s == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_INVALID_VALUE : s;
    uint64_t rest = 0;
    for (int i = 1; i < 8; ++i) rest |= algo->data[i];
    if (rest || algo->data[0] < 1 || algo->data[0] > 2) return CUBLAS_STATUS_INVALID_VALUE;
    if (result) {
        result->workspaceSize = algo->data[0] == 2 ? ALGO_2_WORKSPACE : 0;
        result->state = CUBLAS_STATUS_SUCCESS;
        result->wavesCount = 1.f;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t A,
                                              cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C,
                                              cublasLtMatrixLayout_t D, cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t *result, int *n)
{
    *n = 0;
    if (!pref || wanted <= 0) return CUBLAS_STATUS_INVALID_VALUE;
    for (uint64_t id = 1; id <= 2 && *n < wanted; ++id) {
        cublasLtMatmulHeuristicResult_t r = {};
        r.algo.data[0] = id;
        const cublasStatus_t s = cublasLtMatmulAlgoCheck(h, d, A, B, C, D, &r.algo, &r);
        if (s != CUBLAS_STATUS_SUCCESS) return s;
        if (r.workspaceSize <= pref->workspace) result[(*n)++] = r;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t A, const void *b, cublasLtMatrixLayout_t B, const void *beta,
                              const void *c, cublasLtMatrixLayout_t C, void *out, cublasLtMatrixLayout_t D,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream)
{
    product p = {};
    cublasStatus_t s = agree(d, A, B, C, D, &p);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    cublasLtMatmulHeuristicResult_t r = {};
    r.algo.data[0] = 1;
    if (algo) r.algo = *algo;
    s = cublasLtMatmulAlgoCheck(h, d, A, B, C, D, &r.algo, &r);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    if (r.workspaceSize > workspace_bytes || !alpha || !beta || !a || !b || !out) return CUBLAS_STATUS_INVALID_VALUE;
    p.a = view_of(a, A, d->trans_a);
    p.b = view_of(b, B, d->trans_b);
    p.c = view_of(c, C, false);
    p.d = view_of(out, D, false);
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    if (p.beta != 0.f && !c) return CUBLAS_STATUS_INVALID_VALUE;
    p.dirty = r.workspaceSize ? static_cast<unsigned char *>(workspace) : NULL;
    const dim3 grid(static_cast<unsigned>((p.m + TILE - 1) / TILE), static_cast<unsigned>((p.n + TILE - 1) / TILE));
    LAUNCH(matmul_kernel, grid, 1, 0, stream, p);
    return cudaGetLastError() == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // namespace cu_host
