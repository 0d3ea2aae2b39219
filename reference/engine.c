#include "reference/engine.h"

#include "reference/gauge_ops.h"

#include <cblas.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* The two compilations of the templates. */
fh1_status ref_forward_f32(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                           const fh1_tap_sink *);
fh1_status ref_forward_f64(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                           const fh1_tap_sink *);
fh1_status ref_backward_f32(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_backward *);
fh1_status ref_backward_f64(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_backward *);
extern const fh1_ops ref_ops_f32, ref_ops_f64;
extern const fh1_bwd_ops ref_bwd_ops_f32, ref_bwd_ops_f64;

static const struct {
    const char *name, *profile;
    fh1_dtype dtype;
    bool chunked; /* ref-bf16 stands for pipelines as they are built, so its scan is theirs */
} kind[] = {
    {"ref-f64", "exact", FH1_F64, false},
    {"ref-f32", "fp32", FH1_F32, false},
    {"ref-bf16", "hf-eager-bf16", FH1_F32, true},
};

const char *ref_engine_name_at(int i)
{
    return i >= 0 && (size_t)i < sizeof kind / sizeof *kind ? kind[i].name : NULL;
}

/* Panels are spread over our own threads, so that pieces are fixed and balanced; each calls a BLAS of one. */
extern void openblas_set_num_threads(int);
static void one_blas_thread(void)
{
    openblas_set_num_threads(1);
}

static void engine_free(fh1_engine *e)
{
    free(e);
}

fh1_engine *ref_engine_new(const char *name, const fh1_profile *profile, unsigned variants)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, one_blas_thread);
    for (size_t i = 0; i < sizeof kind / sizeof *kind; ++i) {
        if (strcmp(name, kind[i].name)) continue;
        fh1_engine *e = calloc(1, sizeof *e);
        if (!e) return NULL;
        const bool f64 = kind[i].dtype == FH1_F64;
        strcpy(e->name, name);
        e->dtype = kind[i].dtype;
        e->profile = profile ? profile : fh1_profile_find(kind[i].profile);
        e->variants = variants;
        e->chunked = kind[i].chunked;
        e->ops = f64 ? &ref_ops_f64 : &ref_ops_f32;
        e->bwd_ops = f64 ? &ref_bwd_ops_f64 : &ref_bwd_ops_f32;
        e->gauges = f64 ? &ref_gauge_ops : NULL;
        e->cache_ops = &fh1_cache_ops_true;
        e->forward = f64 ? ref_forward_f64 : ref_forward_f32;
        e->backward = f64 ? ref_backward_f64 : ref_backward_f32;
        e->free = engine_free;
        return e;
    }
    return NULL;
}
