/* One step of AdamW over a list of tensors in one kernel, and the sum of squares that clipping needs. */
#include "cuda/backward.cuh"
#include "cuda/sum_f64.cuh"

namespace CU_NS
{
namespace
{

enum { THREADS = 256 };

/* The constants of a step, in f32: what torch does with f32 parameters. */
struct step {
    float lr, beta2, one_1, one_2, root_2, eps, grad_scale; /* one_i = 1 - beta_i, root_2 = √(1 - beta2^t) */
    double rate;                                            /* for the decay */
};

/* The tensor that piece `at` belongs to: the last one that begins at or before it. */
CU_FN int tensor_of(const cu_adamw_tensor *list, int n, int64_t at)
{
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        const int mid = (lo + hi + 1) / 2;
        if (list[mid].first <= at) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

__global__ void __launch_bounds__(THREADS) adamw_k(const cu_adamw_tensor *list, int n, step o)
{
    const int64_t at = blockIdx.x;
    const cu_adamw_tensor t = list[tensor_of(list, n, at)];
    const int64_t begin = (at - t.first) * CU_ADAMW_PIECE;
    const int64_t end = begin + CU_ADAMW_PIECE < t.n ? begin + CU_ADAMW_PIECE : t.n;
    const float shrink = static_cast<float>(1.0 - o.rate * t.decay);
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
        const float g = o.grad_scale * t.g[i];
        const float m = t.m[i] + o.one_1 * (g - t.m[i]), v = o.beta2 * t.v[i] + o.one_2 * (g * g);
        const float w = t.w[i] * shrink - o.lr * (m / (sqrtf(v) / o.root_2 + o.eps));
        t.m[i] = m;
        t.v[i] = v;
        t.w[i] = w;
        if (t.copy) store(static_cast<bf16 *>(t.copy) + i, w);
    }
}

__global__ void __launch_bounds__(THREADS) squares_k(int64_t n, const float *g, double *part)
{
    SHARED(double, red, [THREADS / 32]);
    double sum = 0;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < n; i += stride) {
        const double v = static_cast<double>(g[i]);
        sum += v * v;
    }
    sum = block_sum_f64<THREADS>(sum, red);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) squares_sum_k(int n, const double *part, bool add, double *out)
{
    SHARED(double, red, [THREADS / 32]);
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += THREADS) sum += part[i];
    sum = block_sum_f64<THREADS>(sum, red);
    if (threadIdx.x == 0) *out = add ? *out + sum : sum;
}

} // namespace

fh1_status cu_adamw(cu_ctx *k, const cu_adamw_args *a)
{
    if (a->n <= 0 || a->pieces <= 0) return NULL;
    const fh1_adamw *o = &a->o;
    const double t = static_cast<double>(o->t);
    step s;
    s.lr = static_cast<float>(o->lr / (1 - pow(o->beta1, t)));
    s.beta2 = static_cast<float>(o->beta2);
    s.one_1 = static_cast<float>(1 - o->beta1);
    s.one_2 = static_cast<float>(1 - o->beta2);
    s.root_2 = static_cast<float>(sqrt(1 - pow(o->beta2, t)));
    s.eps = static_cast<float>(o->eps);
    s.grad_scale = static_cast<float>(o->grad_scale);
    s.rate = o->lr;
    LAUNCH(adamw_k, static_cast<unsigned>(a->pieces), THREADS, 0, k->stream, a->list, a->n, s);
    return cu_launched("adamw");
}

fh1_status cu_sum_of_squares(cu_ctx *k, const cu_squares_args *a)
{
    const int64_t pieces = (a->n + 4095) / 4096;
    const int parts = pieces < CU_SQUARES_PARTS ? static_cast<int>(pieces) : static_cast<int>(CU_SQUARES_PARTS);
    if (parts) {
        LAUNCH(squares_k, static_cast<unsigned>(parts), THREADS, 0, k->stream, a->n, a->g, a->part);
        FH1_TRY(cu_launched("squares"));
    }
    LAUNCH(squares_sum_k, 1, THREADS, 0, k->stream, parts, a->part, a->add, a->sum);
    return cu_launched("squares_sum");
}

} // namespace CU_NS
