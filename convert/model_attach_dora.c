/* The norms of DoRA, in f64. */
#include "convert/model_attach.h"

#include "oracle/thread.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    const fh1_lora *l;
    const fh1_tensor *W;
    bool embedding;
    const fh1_tensor *magnitude;
    double *f, *f_terms;
    int64_t in, out, r;
    double *A;    /* [r, in] */
    double *work; /* [threads, 2, in]: s·B·A of one output, and |s|·|B|·|A| */
} dora_job;

static void outputs(void *ctx, int64_t n0, int64_t n1, int thread)
{
    const dora_job *j = ctx;
    double *delta = j->work + 2 * thread * j->in, *all = delta + j->in;
    for (int64_t n = n0; n < n1; n++) {
        double square = 0, terms = 0;
        for (int64_t i = 0; i < j->in; i++) delta[i] = all[i] = 0;
        for (int64_t k = 0; k < j->r; k++) {
            const double b = j->l->scale * fh1_get(&j->l->B, n * j->r + k), *A = j->A + k * j->in;
            for (int64_t i = 0; i < j->in; i++) {
                delta[i] += b * A[i];
                all[i] += fabs(b * A[i]);
            }
        }
        for (int64_t i = 0; i < j->in; i++) {
            const double v = fh1_get(j->W, j->embedding ? i * j->out + n : n * j->in + i) + delta[i];
            square += v * v;
            terms += fabs(v) * all[i];
        }
        j->f[n] = fh1_get(j->magnitude, n) / sqrt(square);
        j->f_terms[n] = terms / square;
    }
}

fh1_status cvt_dora_factors(const fh1_lora *l, const fh1_tensor *W, bool embedding, const fh1_tensor *magnitude,
                            double *f, double *f_terms)
{
    dora_job j = {.l = l, .W = W, .embedding = embedding, .magnitude = magnitude, .f = f, .f_terms = f_terms};
    j.r = l->A.shape[0];
    j.in = l->A.shape[1];
    j.out = l->B.shape[0];
    const size_t bytes = (size_t)((j.r + 2 * fh1_threads()) * j.in) * sizeof(double);
    if (!(j.A = malloc(bytes))) return fh1_no_memory(bytes, "the norms of DoRA");
    j.work = j.A + j.r * j.in;
    fh1_to_f64(j.A, l->A.data, l->A.dtype, j.r * j.in);
    fh1_parallel_for(j.out, 4, outputs, &j);
    free(j.A);
    for (int64_t n = 0; n < j.out; n++)
        if (!isfinite(f[n]) || !isfinite(f_terms[n]))
            return FH1_BAD("DoRA divides by the norm of W + s·B·A, which is zero or not finite for output %lld",
                           (long long)n);
    return NULL;
}
