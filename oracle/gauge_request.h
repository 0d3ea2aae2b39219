/* How gauges travel between the judge and an exact engine that runs the whole model. */
#pragma once

#include "oracle/cache.h"
#include "oracle/gauge.h"
#include "oracle/model.h"

/* Errors that stay in the cache between calls: what the judged engine's conv window and state may be off by, where
 * they were computed by the truth from recorded taps. Zero right after the judged engine's own values were imported.
 * Per layer and row, index layer·B + row. */
typedef struct {
    int64_t n_layers, B;
    fh1_gauge *conv; /* [c, K-1] each */
    fh1_gauge *ssm;  /* [H, P, N] each */
} fh1_gauge_cache;

/* All zero. FH1_E_INTERNAL without memory. */
fh1_status fh1_gauge_cache_new(const fh1_config *c, int64_t B, fh1_gauge_cache *g);
void fh1_gauge_cache_free(fh1_gauge_cache *g);
/* The judged engine's own window (FH1_CACHE_CONV) or state (FH1_CACHE_SSM) is known now, all rows of a layer. */
void fh1_gauge_cache_forget(fh1_gauge_cache *g, const fh1_config *c, int64_t layer, fh1_cache_part part);

typedef struct fh1_gauge_request {
    void *user;
    const fh1_profile *contract; /* of the judged engine */
    /* Whether the gauge of this tap is wanted: the inputs of its op must be the judged engine's own. */
    bool (*wanted)(void *user, fh1_tap_id id, int64_t layer);
    /* Optional: the judged engine's own value of this tap is not known. Where truth goes on from it through a norm,
     * which makes much of little near zero, the tap's gauge is carried into what the norm feeds. */
    bool (*hidden)(void *user, fh1_tap_id id, int64_t layer);
    fh1_gauge_cache *cache; /* read and updated by the call; NULL only where nothing is wanted */
    /* Optional: the judged engine computes with this model, whose weights are those of the truth with its adapters,
     * rounded to their type: each is off by merged_halves half ulps at most, of itself or of what the adapters add,
     * whichever is larger. */
    const fh1_model *merged;
    double merged_halves;
} fh1_gauge_request;
