/* The loss backwards: a block per row, exponentials and their sum in f64 as the forward pass has them. */
#include "cuda/backward.cuh"
#include "cuda/sum_f64.cuh"

namespace CU_NS
{
namespace
{

enum { THREADS = 256, IGNORED = -100 };

/* A label that is neither a token nor ignored makes its row NaN. */
__global__ void __launch_bounds__(THREADS) cross_entropy_bwd_k(cu_cross_entropy_bwd_args a)
{
    SHARED(float, red_max, [THREADS / 32]);
    SHARED(double, red, [THREADS / 32]);
    const int64_t m = blockIdx.x;
    const float *l = a.logits + m * a.V;
    const int want = a.label[m], first = static_cast<int>(threadIdx.x);
    if (want < 0 || want >= a.V) { /* the same for all threads */
        const double v = want == IGNORED ? 0.0 : nan("");
        if (first == 0) a.row[m] = v;
        for (int i = first; a.dlogits && i < a.V; i += THREADS) a.dlogits[m * a.V + i] = static_cast<float>(v);
        return;
    }
    float most = -INFINITY;
    for (int i = first; i < a.V; i += THREADS) most = fmaxf(most, l[i]);
    most = block_max<THREADS>(most, red_max);
    /* without the label's own term, which is exactly 1 in a confident row: what is left is all its loss and gradient */
    double rest = 0;
    for (int i = first; i < a.V; i += THREADS)
        if (i != want) rest += exp(static_cast<double>(l[i]) - static_cast<double>(most));
    rest = block_sum_f64<THREADS>(rest, red);
    const double own = static_cast<double>(l[want]) - static_cast<double>(most), sum = rest + exp(own);
    if (first == 0) a.row[m] = own == 0 ? log1p(rest) : log(sum) - own;
    if (!a.dlogits) return;
    __syncthreads(); /* the label's logit is read before it is written over */
    for (int i = first; i < a.V; i += THREADS) {
        const double p = exp(static_cast<double>(l[i]) - static_cast<double>(most)) / sum;
        a.dlogits[m * a.V + i] = static_cast<float>((i == want ? -rest / sum : p) / a.divisor);
    }
}

} // namespace

fh1_status cu_cross_entropy_bwd(cu_ctx *k, const cu_cross_entropy_bwd_args *a)
{
    if (a->M <= 0) return NULL;
    LAUNCH(cross_entropy_bwd_k, static_cast<unsigned>(a->M), THREADS, 0, k->stream, *a);
    return cu_launched("cross_entropy_bwd");
}

} // namespace CU_NS
