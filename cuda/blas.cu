/* cuBLASLt behind cu_blas (blas.h). The library counts columns first: our row-major y[M,N] is its D[N,M] with ld = ldy,
 * W[N,K] its A[K,N] transposed, x[M,K] its B[K,M]; so D = alpha·Aᵀ·B + bias, the bias per row of D, that is per n. */
#include "cuda/blas.h"
#include "cuda/blas_tune.h"
#include "cuda/linear.cuh"

#if CU_HOST
#include "cuda/host/cublaslt.h"
#define CU_HAS_LT 1
#elif __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>
#define CU_HAS_LT 1
#else
#define CU_HAS_LT 0
#endif

namespace CU_NS
{

/* 64 x 64 sums for each of two parts of 2 blocks on each of up to 256 multiprocessors: 16 MiB; the library wants 32. */
enum { WORKSPACE = (CU_HOST ? 4 : 32) << 20, ARRIVED = 16384, CANDIDATES = 20 };

#if CU_HAS_LT
/* The functions used, found when the program runs. */
#define LT_FUNCTIONS(F)             \
    F(GetVersion)                   \
    F(Create)                       \
    F(Destroy)                      \
    F(MatmulDescCreate)             \
    F(MatmulDescDestroy)            \
    F(MatmulDescSetAttribute)       \
    F(MatrixLayoutCreate)           \
    F(MatrixLayoutDestroy)          \
    F(MatmulPreferenceCreate)       \
    F(MatmulPreferenceDestroy)      \
    F(MatmulPreferenceSetAttribute) \
    F(MatmulAlgoGetHeuristic)       \
    F(Matmul)

namespace
{
struct lt_functions {
#define LT_MEMBER(name) decltype(&cublasLt##name) name;
    LT_FUNCTIONS(LT_MEMBER)
};
} // namespace
#endif

struct cu_blas {
#if CU_HAS_LT
    lt_functions lt;
    cublasLtHandle_t handle;
    cu_tune tune;
    int tuned;
#endif
    void *library;
    size_t version;
    void *workspace;
    unsigned *arrived;
};

#if CU_HAS_LT
namespace
{

/* false where the library is absent or lacks a function. */
bool open_library(cu_blas *h)
{
#if CU_HOST
#define LT_TAKE(name) h->lt.name = cublasLt##name;
    LT_FUNCTIONS(LT_TAKE)
#else
#ifdef FH1_CUBLASLT_LIB
    h->library = dlopen(FH1_CUBLASLT_LIB, RTLD_NOW | RTLD_LOCAL);
#endif
    /* of the major version whose header was compiled in */
    char name[64];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    if (!h->library) h->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!h->library) return false;
#define LT_TAKE(name)                                                                         \
    h->lt.name = reinterpret_cast<decltype(h->lt.name)>(dlsym(h->library, "cublasLt" #name)); \
    if (!h->lt.name) return false;
    LT_FUNCTIONS(LT_TAKE)
#endif
    return h->lt.Create(&h->handle) == CUBLAS_STATUS_SUCCESS;
}

void device_name(char (&name)[256])
{
    snprintf(name, sizeof name, "cuda-host");
#if !CU_HOST
    cudaDeviceProp p;
    int device = 0;
    if (cudaGetDevice(&device) == cudaSuccess && cudaGetDeviceProperties(&p, device) == cudaSuccess)
        snprintf(name, sizeof name, "%s", p.name);
#endif
}

/* What the library is told about one product. */
struct lt_product {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
};

bool good(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS;
}

void product_free(const cu_blas *h, lt_product *p)
{
    if (p->op) h->lt.MatmulDescDestroy(p->op);
    if (p->w) h->lt.MatrixLayoutDestroy(p->w);
    if (p->x) h->lt.MatrixLayoutDestroy(p->x);
    if (p->y) h->lt.MatrixLayoutDestroy(p->y);
    *p = lt_product{};
}

/* CUBLAS_COMPUTE_32F: f32 operands are multiplied as f32, never as TF32. */
bool product_new(const cu_blas *h, const cu_linear *a, lt_product *p)
{
    *p = lt_product{};
    const cudaDataType_t in = a->type == CU_F32 ? CUDA_R_32F : CUDA_R_16BF,
                         out = a->y_type == CU_F32 ? CUDA_R_32F : CUDA_R_16BF;
    const uint64_t M = static_cast<uint64_t>(a->M), N = static_cast<uint64_t>(a->N), K = static_cast<uint64_t>(a->K);
    const int32_t transposed = CUBLAS_OP_T, bias_type = CUDA_R_32F, epilogue = CUBLASLT_EPILOGUE_BIAS;
    const lt_functions *lt = &h->lt;
    return good(lt->MatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
           good(lt->MatrixLayoutCreate(&p->w, in, K, N, a->K)) &&
           good(lt->MatrixLayoutCreate(&p->x, in, K, M, a->ldx)) &&
           good(lt->MatrixLayoutCreate(&p->y, out, N, M, a->ldy)) &&
           good(lt->MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed)) &&
           (!a->b ||
            (good(lt->MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue)) &&
             good(lt->MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a->b, sizeof a->b)) &&
             good(lt->MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type,
                                             sizeof bias_type))));
}

bool run(const cu_blas *h, const lt_product *p, const cu_linear *a, const cublasLtMatmulAlgo_t *algo,
         cudaStream_t stream)
{
    const float beta = 0.f;
    return good(h->lt.Matmul(h->handle, p->op, &a->alpha, a->w, p->w, a->x, p->x, &beta, a->y, p->y, a->y, p->y, algo,
                             h->workspace, WORKSPACE, stream));
}

/* Candidates in the order in which the library believes in them; how many. */
int candidates(const cu_blas *h, const lt_product *p, cublasLtMatmulHeuristicResult_t (&r)[CANDIDATES])
{
    cublasLtMatmulPreference_t want = NULL;
    const uint64_t bytes = WORKSPACE;
    const uint32_t once = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int n = 0;
    const lt_functions *lt = &h->lt;
    if (good(lt->MatmulPreferenceCreate(&want)) &&
        good(lt->MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes)) &&
        good(lt->MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &once, sizeof once)) &&
        !good(lt->MatmulAlgoGetHeuristic(h->handle, p->op, p->w, p->x, p->y, p->y, want, CANDIDATES, r, &n)))
        n = 0;
    if (want) lt->MatmulPreferenceDestroy(want);
    return n;
}

#if !CU_HOST
/* Shortest of three runs in milliseconds after one that warms up; negative where the candidate does not run. */
float time_of(const cu_blas *h, const lt_product *p, const cu_linear *a, const cublasLtMatmulAlgo_t *algo,
              cudaStream_t stream, cudaEvent_t from, cudaEvent_t to)
{
    float best = -1.f;
    for (int i = 0; i < 4; ++i) {
        float ms = 0.f;
        if (cudaEventRecord(from, stream) != cudaSuccess || !run(h, p, a, algo, stream) ||
            cudaEventRecord(to, stream) != cudaSuccess || cudaEventSynchronize(to) != cudaSuccess ||
            cudaEventElapsedTime(&ms, from, to) != cudaSuccess)
            return -1.f;
        if (i > 0 && (best < 0.f || ms < best)) best = ms;
    }
    return best;
}

/* Index of the fastest, -1 where none runs. */
int fastest(const cu_blas *h, const lt_product *p, const cu_linear *a, const cublasLtMatmulHeuristicResult_t *r, int n,
            cudaStream_t stream, double *microseconds)
{
    cudaEvent_t from = NULL, to = NULL;
    int best = -1;
    if (cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess) {
        for (int i = 0; i < n; ++i) {
            const float ms = good(r[i].state) ? time_of(h, p, a, &r[i].algo, stream, from, to) : -1.f;
            if (ms < 0.f || (best >= 0 && 1e3 * ms >= *microseconds)) continue;
            best = i;
            *microseconds = 1e3 * ms;
        }
    }
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    return best;
}
#endif

bool may_time(cudaStream_t stream)
{
#if CU_HOST
    (void)stream;
    return false;
#else
    cudaStreamCaptureStatus s;
    return cudaStreamIsCapturing(stream, &s) == cudaSuccess && s == cudaStreamCaptureStatusNone;
#endif
}

cu_tune_key key_of(const cu_linear *a)
{
    int M = 1;
    while (M < a->M && M < 1 << 30) M *= 2;
    return cu_tune_key{M, a->N, a->K, a->type, a->y_type, a->b != NULL};
}

/* Chooses, runs, and remembers what was timed (in cuda-host what was not). */
bool choose_and_run(cu_blas *h, const lt_product *p, const cu_linear *a, cudaStream_t stream, bool remember)
{
    cublasLtMatmulHeuristicResult_t r[CANDIDATES];
    const int n = candidates(h, p, r);
    int best = n > 0 ? 0 : -1;
    cu_tune_entry e = {};
#if !CU_HOST
    if (remember) best = fastest(h, p, a, r, n, stream, &e.microseconds);
#endif
    if (best < 0 || !run(h, p, a, &r[best].algo, stream)) return false;
    if (remember) {
        e.key = key_of(a);
        static_assert(sizeof e.algo == sizeof r[0].algo, "the file keeps all of an algorithm");
        memcpy(e.algo, &r[best].algo, sizeof e.algo);
        cu_tune_add(&h->tune, &e);
        ++h->tuned;
    }
    return true;
}

} // namespace
#endif

fh1_status cu_blas_new(const char *tune_cache, cu_blas **out)
{
    *out = NULL;
    cu_blas *h = static_cast<cu_blas *>(calloc(1, sizeof *h));
    if (!h) return fh1_no_memory(sizeof *h, "the handle of the matrix library");
    fh1_status s = cu_status(cudaMalloc(&h->workspace, WORKSPACE), "allocating the scratch of matrix products");
    if (!s) s = cu_status(cudaMalloc(&h->arrived, ARRIVED * sizeof *h->arrived), "allocating counters");
    if (!s) s = cu_status(cudaMemset(h->arrived, 0, ARRIVED * sizeof *h->arrived), "clearing counters");
    if (s) {
        cu_blas_free(h);
        return s;
    }
#if CU_HAS_LT
    if (open_library(h)) {
        char device[256];
        device_name(device);
        h->version = h->lt.GetVersion();
        cu_tune_open(&h->tune, tune_cache ? tune_cache : getenv("FH1_CUDA_TUNE_CACHE"), device, h->version);
    }
#else
    (void)tune_cache;
#endif
    *out = h;
    return NULL;
}

void cu_blas_free(cu_blas *h)
{
    if (!h) return;
#if CU_HAS_LT
    if (h->handle) h->lt.Destroy(h->handle);
    cu_tune_close(&h->tune);
#if !CU_HOST
    if (h->library) dlclose(h->library);
#endif
#endif
    cudaFree(h->workspace);
    cudaFree(h->arrived);
    free(h);
}

size_t cu_blas_version(const cu_blas *h)
{
    return h->version;
}

void cu_blas_counts(const cu_blas *h, int *tuned, int *loaded)
{
    *tuned = *loaded = 0;
#if CU_HAS_LT
    *tuned = h->tuned;
    *loaded = h->tune.loaded;
#else
    (void)h;
#endif
}

cu_scratch cu_blas_scratch(const cu_blas *h)
{
    if (!h) return cu_scratch{};
    return cu_scratch{static_cast<float *>(h->workspace), WORKSPACE / sizeof(float), h->arrived, ARRIVED};
}

fh1_status cu_blas_linear_fwd(cu_ctx *k, const cu_linear *a, bool *done)
{
    *done = false;
#if CU_HAS_LT
    cu_blas *h = k->blas;
    if (!h || !h->version || a->M == 0 || a->N == 0 || a->K == 0 || (a->b && a->y_type == CU_BF16)) return NULL;
    lt_product p;
    if (product_new(h, a, &p)) {
        const cu_tune_key key = key_of(a);
        const cu_tune_entry *e = cu_tune_find(&h->tune, &key);
        cublasLtMatmulAlgo_t algo;
        if (e) memcpy(&algo, e->algo, sizeof algo);
        *done = e && run(h, &p, a, &algo, k->stream);
        /* an algorithm chosen for another M of the bucket, or read from the file, may not take this one */
        if (!*done) *done = choose_and_run(h, &p, a, k->stream, CU_HOST || (!e && may_time(k->stream)));
    }
    product_free(h, &p);
#else
    (void)k;
    (void)a;
#endif
    return NULL;
}

} // namespace CU_NS
