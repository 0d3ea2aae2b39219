#pragma once

#include "oracle/gauge_request.h"

/* What rounding the weights of a merged model (merged_halves half ulps of their type each) may change, added to g:
 * E = S = Σ|x|·h(W') + h(b'), h half an ulp, of the weight or of its distance to the base's, whichever is larger: a
 * chain may round ΔW first. All tokens share these errors, and a ΔW smaller than the ulp vanishes as a whole, so
 * nothing averages out. `base` [N,K] and `base_bias` are the truth's. */
fh1_status ref_merged_gauge(const fh1_gauge_request *r, fh1_tap_id id, int64_t layer, int64_t M, const double *x,
                            const fh1_tensor *base, const fh1_tensor *base_bias, const fh1_gauge *g);
/* Rows of the embedding table. */
void ref_merged_embed_gauge(const fh1_gauge_request *r, int64_t M, const int64_t *ids, const fh1_tensor *base,
                            const fh1_gauge *g);
