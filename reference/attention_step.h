#pragma once

#include "reference/attention.h"

/* One query per row of heads on a cache: attention.h for T = 1, where every stored key from first[0] on is visible and
 * no tile pays. */
fh1_status REF(ref_attention_step_fwd)(const REF(ref_attention_args) * a, const fh1_profile *p);
