#pragma once

#include "oracle/gauge.h"

/* A table is read, not computed: half an ulp of the contract's storage type at each of the n values y. g assigned. */
void ref_embed_gauge(const fh1_profile *contract, int64_t n, const double *y, const fh1_gauge *g);
