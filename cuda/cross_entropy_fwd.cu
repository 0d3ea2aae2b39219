/* The loss: a block per row, then one block that adds the rows up in a fixed order. All of it in f64; the exponentials
 * too, since log(1 + small) of a confident row is all that its loss is. */
#include "cuda/cross_entropy.cuh"
#include "cuda/sum_f64.cuh"

namespace CU_NS
{
namespace
{

enum { THREADS = 256, IGNORED = -100 };

/* row[m] = logsumexp - logit of the label; 0 where the label does not count, NaN where it is no token */
__global__ void cross_entropy_row_k(int V, const float *logits, const int *label, double *row)
{
    SHARED(float, red_max, [THREADS / 32]);
    SHARED(double, red, [THREADS / 32]);
    const int64_t m = blockIdx.x;
    const float *l = logits + m * V;
    const int want = label[m];
    if (want < 0 || want >= V) { /* the same for all threads */
        if (threadIdx.x == 0) row[m] = want == IGNORED ? 0.0 : nan("");
        return;
    }
    float most = -INFINITY;
    for (int i = static_cast<int>(threadIdx.x); i < V; i += THREADS) most = fmaxf(most, l[i]);
    most = block_max<THREADS>(most, red_max);
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < V; i += THREADS)
        sum += exp(static_cast<double>(l[i]) - static_cast<double>(most));
    sum = block_sum_f64<THREADS>(sum, red);
    if (threadIdx.x == 0) row[m] = log(sum) + (static_cast<double>(most) - static_cast<double>(l[want]));
}

__global__ void cross_entropy_mean_k(int M, const int *label, const double *row, double *loss)
{
    SHARED(double, red, [THREADS / 32]);
    double sum = 0, n = 0;
    for (int m = static_cast<int>(threadIdx.x); m < M; m += THREADS) {
        sum += row[m];
        n += label[m] == IGNORED ? 0.0 : 1.0;
    }
    sum = block_sum_f64<THREADS>(sum, red);
    n = block_sum_f64<THREADS>(n, red);
    if (threadIdx.x == 0) *loss = n > 0 ? sum / n : nan("");
}

} // namespace

fh1_status cu_cross_entropy_fwd(cu_ctx *k, const cu_cross_entropy *a)
{
    if (a->M > 0) {
        LAUNCH(cross_entropy_row_k, static_cast<unsigned>(a->M), THREADS, 0, k->stream, a->V, a->logits, a->label,
               a->row);
        FH1_TRY(cu_launched("cross_entropy"));
    }
    LAUNCH(cross_entropy_mean_k, 1, THREADS, 0, k->stream, a->M > 0 ? a->M : 0, a->label, a->row, a->loss);
    return cu_launched("cross_entropy mean");
}

} // namespace CU_NS
