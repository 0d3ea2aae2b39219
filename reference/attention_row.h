/* What one row of scores goes through, shared by attention, attention_step and attention_gauge. */
#pragma once

#include "reference/real.h"

/* A^-½ */
real REF(ref_attention_scale)(int64_t A);

/* s[n] = R(softmax(R(R(s)·scale))), n > 0. */
void REF(ref_attention_weigh)(int64_t n, real scale, const fh1_profile *p, real *s);

/* out[n] += w·v[n] */
void REF(ref_attention_add)(int64_t n, real w, const real *v, real *out);
