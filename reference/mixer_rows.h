/* The rows of a batch in the mixer of a layer: conv window and state belong to rows. */
#pragma once

#include "reference/call.h"

typedef struct {
    real *window, *state;
    const int64_t *doc; /* of the row's tokens, NULL: documents are ignored */
    int64_t begin, n;   /* the row's packed tokens */
    int64_t held_doc;   /* document of window and state */
} REF(ref_row);

REF(ref_row) REF(ref_row_of)(const REF(ref_call) * k, int64_t layer, int64_t b);
/* n columns of padding onto a row's window, as libraries that mask in front of in_proj have them: its bias, or 0. */
fh1_status REF(ref_pad_window)(REF(ref_call) * k, const fh1_layer *l, int64_t b, const REF(ref_row) * v, int64_t n);
/* The conv of all rows: k->proj at fh1_in_proj_conv to k->conv. The variants of left padding are done here. */
fh1_status REF(ref_conv_rows)(REF(ref_call) * k, const fh1_layer *l, int64_t layer);
