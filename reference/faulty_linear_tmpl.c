#include "reference/faulty_linear.h"

#ifdef REF_FAULTY
#include <stdlib.h>

bool REF(ref_faulty_linear_wanted)(int64_t M)
{
    if (REF_FAULT(LONG_PREFILL_IN_F16)) return M > 64;
    return REF_FAULT(LINEAR_TF32) || REF_FAULT(LINEAR_BF16_ACCUMULATOR) || REF_FAULT(LINEAR_LAST_K_DROPPED);
}

static real product(int64_t K, const real *x, const real *w)
{
    const fh1_round in = REF_FAULT(LINEAR_TF32)           ? FH1_ROUND_TF32
                         : REF_FAULT(LONG_PREFILL_IN_F16) ? FH1_ROUND_F16
                                                          : FH1_ROUND_NONE;
    const fh1_round acc = REF_FAULT(LINEAR_BF16_ACCUMULATOR) ? FH1_ROUND_BF16 : FH1_ROUND_NONE;
    const int64_t n = REF_FAULT(LINEAR_LAST_K_DROPPED) ? K - 1 : K;
    real sum = 0;
    for (int64_t i = 0; i < n; ++i) sum = r_round(acc, sum + r_round(in, x[i]) * r_round(in, w[i]));
    return sum;
}

fh1_status REF(ref_faulty_linear)(int64_t M, const real *x, const fh1_tensor *w, const real *bias, fh1_round r, real *y)
{
    const int64_t N = w->shape[0], K = w->shape[1];
    real *row = malloc((size_t)K * sizeof *row);
    if (!row) return fh1_no_memory((size_t)K * sizeof *row, "a weight row");
    for (int64_t n = 0; n < N; ++n) {
        const size_t row_bytes = (size_t)(K * (fh1_dtype_bits(w->dtype) / 8));
        const fh1_tensor t = fh1_view1((char *)w->data + (size_t)n * row_bytes, w->dtype, K);
        REF(ref_widen)(row, &t, K);
        for (int64_t m = 0; m < M; ++m) y[m * N + n] = r_round(r, product(K, x + m * K, row) + (bias ? bias[n] : 0));
    }
    free(row);
    return NULL;
}
#endif
