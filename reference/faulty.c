#include "reference/faulty.h"

#include "reference/engine.h"

fh1_fault ref_fault_now;

/* The two faulty compilations of the templates. */
fh1_status ref_forward_f32_faulty(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                                  const fh1_tap_sink *);
fh1_status ref_forward_f64_faulty(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                                  const fh1_tap_sink *);
extern const fh1_ops ref_ops_f32_faulty, ref_ops_f64_faulty;

fh1_engine *ref_faulty_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_fault f)
{
    fh1_engine *e = ref_engine_new(name, profile, variants);
    if (!e) return NULL;
    const bool f64 = e->dtype == FH1_F64;
    e->ops = f64 ? &ref_ops_f64_faulty : &ref_ops_f32_faulty;
    e->forward = f64 ? ref_forward_f64_faulty : ref_forward_f32_faulty;
    e->fault = f;
    return e;
}
