#include "reference/merged_gauge.h"

#include "oracle/thread.h"

typedef struct {
    const fh1_tensor *w, *b, *base, *base_bias;
    double halves;
    int64_t M;
    const double *x;
    const fh1_gauge *g;
} merged_job;

static void add(const fh1_gauge *g, int64_t i, double bound)
{
    fh1_gauge_set(g, i, fh1_err_add(fh1_gauge_at(g, i), fh1_err_shared(bound)));
}

static double half_ulp(const fh1_tensor *t, const fh1_tensor *base, int64_t i)
{
    const double v = fh1_get(t, i), delta = v - (base && base->data ? fh1_get(base, i) : 0);
    return fh1_dtype_ulp(t->dtype, fabs(delta) > fabs(v) ? delta : v) / 2;
}

static void channels(void *ctx, int64_t n0, int64_t n1, int thread)
{
    (void)thread;
    const merged_job *j = ctx;
    const int64_t N = j->w->shape[0], K = j->w->shape[1];
    for (int64_t n = n0; n < n1; ++n) {
        const double b = j->b && j->b->data ? half_ulp(j->b, j->base_bias, n) : 0;
        for (int64_t m = 0; m < j->M; ++m) add(j->g, m * N + n, j->halves * b);
        for (int64_t k = 0; k < K; ++k) {
            const double h = j->halves * half_ulp(j->w, j->base, n * K + k);
            for (int64_t m = 0; m < j->M; ++m) add(j->g, m * N + n, h * fabs(j->x[m * K + k]));
        }
    }
}

fh1_status ref_merged_gauge(const fh1_gauge_request *r, fh1_tap_id id, int64_t layer, int64_t M, const double *x,
                            const fh1_tensor *base, const fh1_tensor *base_bias, const fh1_gauge *g)
{
    fh1_model *m = (fh1_model *)(uintptr_t)r->merged; /* only read */
    const fh1_linear l = fh1_model_linear(m, id, layer);
    merged_job j = {l.w, l.b, base, base_bias, r->merged_halves, M, x, g};
    fh1_parallel_for(l.w->shape[0], 16, channels, &j);
    return NULL;
}

void ref_merged_embed_gauge(const fh1_gauge_request *r, int64_t M, const int64_t *ids, const fh1_tensor *base,
                            const fh1_gauge *g)
{
    const fh1_tensor *w = &r->merged->embed;
    const int64_t D = w->shape[1];
    for (int64_t i = 0; i < M * D; ++i) add(g, i, r->merged_halves * half_ulp(w, base, ids[i / D] * D + i % D));
}
