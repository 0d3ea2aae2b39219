#include "reference/lm_head_gauge.h"

#include "oracle/thread.h"
#include "reference/gauge_parts.h"
#include "reference/linear_gauge.h"

#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    double m;
    const double *product;
    const fh1_gauge *g;
} logits_job;

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const logits_job *j = ctx;
    const fh1_profile *c = j->contract;
    for (int64_t i = i0; i < i1; ++i)
        fh1_gauge_set(j->g, i, ref_err_multiply(fh1_gauge_at(j->g, i), c, c->at[FH1_RP_LOGITS], j->product[i], j->m));
}

void ref_lm_head_scale_gauge(const fh1_profile *contract, int64_t n, double m_lm, const double *product,
                             const fh1_gauge *g)
{
    logits_job j = {contract, m_lm, product, g};
    fh1_parallel_for(n, 1 << 12, elements, &j);
}

fh1_status ref_lm_head_gauge(const fh1_profile *contract, int64_t M, const double *h, const fh1_tensor *w, double m_lm,
                             const double *logits, const fh1_gauge *g)
{
    const int64_t n = M * w->shape[0];
    double *product = malloc((size_t)(n + 1) * sizeof *product);
    if (!product) return fh1_no_memory((size_t)n * sizeof *product, "the gauge of the logits");
    for (int64_t i = 0; i < n; ++i) product[i] = m_lm != 0 ? logits[i] / m_lm : 0; /* m = 0 leaves no error either */
    const fh1_profile head = fh1_profile_head(contract);
    fh1_status s = ref_linear_gauge(&head, M, h, w, NULL, product, g);
    if (!s) ref_lm_head_scale_gauge(contract, n, m_lm, product, g);
    free(product);
    return s;
}
