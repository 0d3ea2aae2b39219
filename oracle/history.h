/* Margins of earlier runs: what `fh1 check --history` has read, one series per subject and kind of tap.
 *
 * A history file has one JSON object per line and subject of a run:
 *   {"time":"2026-11-21T06:42:54Z","fh1":"0.1.0","subject":"trace
 * mini/t37","verdict":"PASS","margins":{"mamba.ssd":0.41}} A kind of tap is its name without the layer (mamba.ssd,
 * logits, cache.ssm; layer is model.layers.i); its margin is the largest over layers and steps. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

typedef struct fh1_history fh1_history;

/* FH1_E_INTERNAL without memory, as for fh1_history_add. */
fh1_status fh1_history_new(fh1_history **h);
/* The margin of the next later run; the strings are copied. */
fh1_status fh1_history_add(fh1_history *h, const char *subject, const char *kind, double margin);
/* A series, oldest first, valid until the next add; n = 0 for one that is not there (h may be NULL). */
const double *fh1_history_series(const fh1_history *h, const char *subject, const char *kind, int64_t *n);
/* Median of n > 0 values; NaN without memory. */
double fh1_history_median(const double *v, int64_t n);
void fh1_history_free(fh1_history *h);
