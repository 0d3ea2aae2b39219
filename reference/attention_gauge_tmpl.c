#include "reference/attention_gauge.h"

#include "oracle/thread.h"
#include "reference/attention_row.h"

#include <stdlib.h>

typedef struct {
    const REF(ref_attention_args) * a;
    const fh1_profile *exact;
    real *bound;
    real *scratch; /* [threads, 2, S]: weights, and the error of each score */
} gauge_job;

static void one_query(const gauge_job *j, int64_t t, int64_t h, real *w, real *error)
{
    const REF(ref_attention_args) *a = j->a;
    const int64_t A = a->A, first = a->first[t], n = a->S - a->T + t + 1 - first;
    const real *q = a->q + (t * a->Hq + h) * A, scale = (real)(1 / sqrt((double)A));
    const int64_t at = (h / (a->Hq / a->Hkv) * a->ld_kv + first) * A;
    const real *k = a->k + at, *v = a->v + at, *out = a->out + (t * a->Hq + h) * A;
    real *bound = j->bound + (t * a->Hq + h) * A;
    for (int64_t i = 0; i < n; ++i) {
        real s = 0, g = 0;
        for (int64_t d = 0; d < A; ++d) {
            s += q[d] * k[i * A + d];
            g += r_fabs(q[d] * k[i * A + d]);
        }
        w[i] = s;
        error[i] = (r_sqrt((real)A) * g + 2 * r_fabs(s)) * scale / 2;
    }
    REF(ref_attention_weigh)(n, scale, j->exact, w);
    for (int64_t d = 0; d < A; ++d) {
        bound[d] = 0;
        for (int64_t i = 0; i < n; ++i)
            bound[d] += w[i] * (r_fabs(v[i * A + d] - out[d]) * error[i] + r_fabs(v[i * A + d]));
    }
}

static void queries(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const gauge_job *j = ctx;
    real *w = j->scratch + 2 * thread * j->a->S;
    for (int64_t i = i0; i < i1; ++i) one_query(j, i % j->a->T, i / j->a->T, w, w + j->a->S);
}

fh1_status REF(ref_attention_gauge)(const REF(ref_attention_args) * a, real *bound)
{
    if (a->T == 0) return NULL;
    const size_t n = 2 * (size_t)fh1_threads() * (size_t)a->S * sizeof(real);
    gauge_job j = {a, fh1_profile_find("exact"), bound, malloc(n)};
    if (!j.scratch) return fh1_no_memory(n, "the gauge of attention");
    fh1_parallel_for(a->T * a->Hq, 32, queries, &j);
    free(j.scratch);
    return NULL;
}
