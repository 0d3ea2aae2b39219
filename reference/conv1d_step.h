#pragma once

#include "reference/conv1d.h"

/* One token of conv1d.h on its window, without the transposed copies that many tokens pay for:
 *   y[j] = silu(R(b[j] + Σ_{i<K-1} w[j,i]·window[j,i] + w[j,K-1]·x[j])), then R; the window moves on by one.
 * T must be 1. Documents as there: a token of another document sees an empty window. */
fh1_status REF(ref_conv1d_step_fwd)(const REF(ref_conv1d_args) * a, const fh1_profile *p);
