#include "reference/complex.h"

#include "reference/engine.h"

#include <stdlib.h>
#include <string.h>

/* The third compilation of the templates. */
fh1_status ref_forward_c128(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                            const fh1_tap_sink *);
extern const fh1_ops ref_ops_c128;

static fh1_status forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                          void *logits, const fh1_tap_sink *sink)
{
    if (sink && (sink->gauges || sink->input_round))
        return fh1_fail(FH1_E_INTERNAL, "a complex engine has neither gauges nor roundings");
    return ref_forward_c128(e, m, b, cache, n_logits, logits, sink);
}

static void engine_free(fh1_engine *e)
{
    free(e);
}

fh1_engine *ref_complex_engine_new(unsigned variants)
{
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, variants); /* it also settles the threads of BLAS */
    if (!truth) return NULL;
    fh1_engine *e = calloc(1, sizeof *e);
    if (e) {
        strcpy(e->name, "ref-c128");
        e->dtype = FH1_C128;
        e->profile = truth->profile;
        e->variants = variants;
        e->ops = &ref_ops_c128;
        e->cache_ops = &fh1_cache_ops_true;
        e->forward = forward;
        e->free = engine_free;
    }
    truth->free(truth);
    return e;
}
