#pragma once

#include "reference/attention.h"

/* What f32 arithmetic may cost attention, per element of out [T,Hq,A], in units of u: softmax turns the absolute error
 * of a score into a relative one of its weight. With s the scaled scores, w their softmax and g_j = A^-½ Σ|q·k_j|:
 *   bound = Σ_j w_j |v_j - out| · (√A·g_j + 2|s_j|)/2 + Σ_j w_j |v_j|
 * √A·g_j·u is the random walk of a sum of A products, 2|s_j|·u the scaling and the exponent; half of the sum, since the
 * errors of different keys are independent (the largest share of it that transformers used on 9 models that sharpen
 * attention was a quarter). `bound` is assigned. Compiled for f64; FH1_E_INTERNAL without memory. */
fh1_status REF(ref_attention_gauge)(const REF(ref_attention_args) * a, real *bound);
