#include "reference/linear_gauge.h"

#include "oracle/thread.h"
#include "reference/linear.h"

#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    int64_t terms;
    const double *y;
    const fh1_gauge *g;  /* worst holds S */
    const fh1_tensor *b; /* NULL: no bias */
    int64_t N;
} linear_gauge_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const linear_gauge_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        fh1_err e = fh1_err_sum((fh1_err){0}, j->contract, j->terms, j->g->worst[i]);
        e.shared = fh1_err_cut(j->contract, (double)j->terms, j->y[i]);
        if (j->b) e = fh1_err_round(e, j->contract, j->contract->before_bias, j->y[i] - fh1_get(j->b, i % j->N));
        fh1_gauge_set(j->g, i, fh1_err_round(e, j->contract, j->contract->at[FH1_RP_LINEAR], j->y[i]));
    }
}

/* The most that one rounding of x to the type of the inputs changes it, element by element: half an ulp, or half a step
 * of its block and half an ulp of the block's scale for each step. */
static void half_inputs(fh1_round r, int64_t n, const double *x, double *h)
{
    const fh1_dtype type = r == FH1_ROUND_BF16 ? FH1_BF16 : r == FH1_ROUND_F16 ? FH1_F16 : FH1_F32;
    for (int64_t i = 0; r != FH1_ROUND_Q8_0 && i < n; ++i) h[i] = fh1_dtype_ulp(type, x[i]) / 2;
    for (int64_t i = 0; r == FH1_ROUND_Q8_0 && i < n; i += 32) {
        double most = 0;
        for (int l = 0; l < 32; ++l) most = fmax(most, fabs(x[i + l]));
        const double step = most / 127, off = fh1_dtype_ulp(FH1_F16, step) / 2;
        for (int l = 0; l < 32; ++l) h[i + l] = step / 2 + (step > 0 ? off * fabs(x[i + l]) / step : 0);
    }
}

/* Inputs that the engine rounds: each errs for itself, Σ h·|w| at worst, Σ (h·w)²/3 likely. */
static fh1_status add_inputs(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                             const fh1_gauge *g)
{
    const int64_t N = w->shape[0], K = w->shape[1];
    const fh1_round r = contract->at[FH1_RP_LINEAR_IN];
    if (r == FH1_ROUND_NONE || M == 0 || (r == FH1_ROUND_Q8_0 && K % 32 != 0)) return NULL;
    double *h = malloc((size_t)(M * K) * sizeof *h), *sum = malloc((size_t)(M * N) * sizeof *sum);
    fh1_status s = h && sum ? NULL : fh1_no_memory((size_t)(M * (K + N)) * sizeof *h, "the gauge of a linear layer");
    if (!s) {
        half_inputs(r, M * K, x, h);
        s = ref_linear_abs_sum_f64(M, h, w, NULL, sum);
    }
    for (int64_t i = 0; !s && i < M * N; ++i) g->worst[i] += sum[i];
    if (!s) s = ref_linear_square_sum_f64(M, h, w, sum);
    for (int64_t i = 0; !s && i < M * N; ++i) g->variance[i] += sum[i] / 3;
    free(h);
    free(sum);
    return s;
}

static fh1_status product(const fh1_profile *contract, int64_t terms, int64_t M, const double *x, const fh1_tensor *w,
                          const fh1_tensor *b, const double *y, const fh1_gauge *g)
{
    FH1_TRY(ref_linear_abs_sum_f64(M, x, w, b, g->worst));
    const bool bias = b && b->data;
    linear_gauge_job j = {contract, terms + bias, y, g, bias ? b : NULL, w->shape[0]};
    fh1_parallel_for(M * w->shape[0], 1 << 12, elements, &j);
    return add_inputs(contract, M, x, w, g);
}

fh1_status ref_linear_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                            const fh1_tensor *b, const double *y, const fh1_gauge *g)
{
    return product(contract, w->shape[1], M, x, w, b, y, g);
}

/* Truth rounds x·m to f32, an engine rounds (x·W)·m instead: each is at most one u of S more. */
fh1_status ref_linear_scaled_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                                   const fh1_tensor *b, const double *y, const fh1_gauge *g)
{
    return product(contract, w->shape[1] + (contract->any_form ? 2 : 0), M, x, w, b, y, g);
}
