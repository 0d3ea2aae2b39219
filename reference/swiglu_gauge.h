#pragma once

#include "oracle/gauge.h"

/* The gauge of swiglu.h: gate·m, silu, ·up, each with R(FH1_RP_MLP). gate, up [M,F], g [M,F] assigned. */
void ref_swiglu_gauge(const fh1_profile *contract, int64_t M, int64_t F, const double *gate, double m_gate,
                      const double *up, const fh1_gauge *g);
