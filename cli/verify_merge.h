/* fh1 merge --verify: the reference runs twice, with the adapters attached and on the merged model. */
#pragma once

#include "convert/merge.h"

typedef struct {
    const char *base, *merged; /* what cvt_model_open opens */
    cvt_ckpt *image;           /* the base is decoded from this instead, a dequantised one say; NULL: from `base` */
    const char *const *adapters;
    const double *weights; /* NULL: all 1 */
    int n;
    const char *initial; /* as in cvt_adapter_open */
    cvt_rounding rounding;
    int64_t seed;
    const char *repro; /* the command as typed (cli_repro) */
} cli_verify;

/* Prints a report to stdout (JSON lines with `json`). *code is 0 where the merged model is what the attached one is,
 * but for the rounding of its weights, and 1 where it is not. */
fh1_status cli_verify_merge(const cli_verify *v, bool json, int *code);
