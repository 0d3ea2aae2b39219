#include "reference/faulty.h"

#include "reference/engine.h"
#include "reference/faulty_batch.h"
#include "reference/faulty_cache.h"
#include "reference/faulty_mixer_model.h"

#include <string.h>

fh1_fault ref_fault_now;

/* The two faulty compilations of the templates. */
fh1_status ref_forward_f32_faulty(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                                  const fh1_tap_sink *);
fh1_status ref_forward_f64_faulty(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                                  const fh1_tap_sink *);
fh1_status ref_backward_f32_faulty(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_backward *);
fh1_status ref_backward_f64_faulty(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_backward *);
extern const fh1_ops ref_ops_f32_faulty, ref_ops_f64_faulty;
extern const fh1_bwd_ops ref_bwd_ops_f32_faulty, ref_bwd_ops_f64_faulty;

/* The call on the edited model and inputs; faults that are no edit leave both as they are. */
static fh1_status run(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                      void *logits, const fh1_tap_sink *sink)
{
    if (e->fault == FH1_FAULT_LAST_LOGITS_ONLY && n_logits > 1) {
        const int64_t row = n_logits * m->config.V * (fh1_dtype_bits(e->dtype) / 8);
        if (logits) memset(logits, 0, (size_t)(b->B * row));
        logits = NULL;
        n_logits = 1;
    }
    return (e->dtype == FH1_F64 ? ref_forward_f64_faulty : ref_forward_f32_faulty)(e, m, b, cache, n_logits, logits,
                                                                                   sink);
}

static fh1_status forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                          void *logits, const fh1_tap_sink *sink)
{
    const unsigned declared = e->variants;
    e->variants |= ref_fault_variants(e->fault);
    ref_edited_model model;
    ref_edited_batch batch = {.memory = NULL};
    fh1_status s = ref_edited_model_new(e->fault, m, &model);
    if (!s) s = ref_edited_batch_new(e->fault, b, cache, &batch);
    if (!s) s = run(e, model.model, &batch.batch, cache, n_logits, logits, sink);
    if (!s) ref_edit_cache(e->fault, b, cache);
    ref_edited_batch_free(&batch);
    ref_edited_model_free(&model);
    e->variants = declared;
    return s;
}

fh1_engine *ref_faulty_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_fault f)
{
    fh1_engine *e = ref_engine_new(name, profile, variants);
    if (!e) return NULL;
    const bool f64 = e->dtype == FH1_F64;
    e->ops = f64 ? &ref_ops_f64_faulty : &ref_ops_f32_faulty;
    e->bwd_ops = f64 ? &ref_bwd_ops_f64_faulty : &ref_bwd_ops_f32_faulty;
    e->cache_ops = &ref_cache_ops_faulty;
    e->forward = forward;
    e->backward = f64 ? ref_backward_f64_faulty : ref_backward_f32_faulty;
    e->fault = f;
    ref_fault_now = f; /* for cache operations before its first call */
    return e;
}
