/* What the cases of the mixer and of gradients share. */
#include "tests/edge/edge_mixer.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <stdlib.h>

void edge_scale(const fh1_tensor *t, int64_t first, int64_t n, double factor)
{
    if (!t->data) return;
    const int64_t rows = t->shape[0], width = fh1_n_elems(t) / rows;
    if (n < 0) n = rows - first;
    for (int64_t i = first * width; i < (first + n) * width; ++i) fh1_set(t, i, factor * fh1_get(t, i));
}

fh1_status edge_logits(fh1_engine *e, const fh1_model *m, int64_t T, const int64_t *ids, double **out)
{
    const int64_t n = T * m->config.V;
    fh1_cache *cache = NULL;
    void *own = calloc((size_t)n, sizeof(double));
    *out = calloc((size_t)n, sizeof **out);
    fh1_status s = own && *out ? NULL : fh1_no_memory((size_t)n * sizeof(double), "logits");
    if (!s) s = fh1_cache_new(&m->config, e->dtype, 1, &cache);
    if (!s) s = e->forward(e, m, &(fh1_batch){.B = 1, .T = T, .ids = ids}, cache, T, own, NULL);
    if (!s) fh1_to_f64(*out, own, e->dtype, n);
    fh1_cache_free(cache);
    free(own);
    if (s) free(*out), *out = NULL;
    return s;
}

double edge_moved(const double *a, const double *b, int64_t n)
{
    fh1_rms r = {0};
    for (int64_t i = 0; i < n; ++i) fh1_rms_add(&r, fh1_error_of(a[i], b[i]), b[i], i);
    return fh1_rms_err(&r) / fh1_rms_ref(&r);
}

double *edge_numbers(const edge_run *r, const char *name, int64_t n, double mean, double size)
{
    const fh1_stream s = fh1_stream_open(r->seed, name);
    double *v = malloc((size_t)(n + 1) * sizeof *v);
    for (int64_t i = 0; v && i < n; ++i) v[i] = (double)(float)(mean + size * fh1_random_normal(s, (uint64_t)i));
    return v;
}

fh1_status edge_session(law_run *run, fh1_engine *e, const fh1_model *m, law_session **s)
{
    const fh1_model *usual = run->m;
    run->m = m;
    fh1_status st = gld_session_open(run, e, 1, s);
    run->m = usual;
    return st;
}
