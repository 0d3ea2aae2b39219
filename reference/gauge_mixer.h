#pragma once

#include "oracle/engine.h"

/* The entries of fh1_gauge_ops for the ops of the mixer: dense, inputs exact (parameters as there). */
fh1_status ref_gauge_op_conv1d(const fh1_profile *contract, int64_t T, int64_t c, int64_t K, const double *x,
                               const fh1_tensor *w, const fh1_tensor *b, const int64_t *doc, int64_t window_doc,
                               const double *window, const double *y, const fh1_gauge *g);
fh1_status ref_gauge_op_dt_softplus(const fh1_profile *contract, int64_t T, int64_t H, const double *raw,
                                    const fh1_tensor *bias, double lo, double hi, const double *dt, const fh1_gauge *g);
fh1_status ref_gauge_op_ssd_scan(const fh1_profile *contract, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G,
                                 int64_t Q, const double *x, const double *B, const double *C, const double *dt,
                                 const fh1_tensor *A_log, const fh1_tensor *D, const int64_t *doc, int64_t state_doc,
                                 const double *state, const double *y, const fh1_gauge *g_state, const fh1_gauge *g);
fh1_status ref_gauge_op_ssd_step(const fh1_profile *contract, int64_t H, int64_t P, int64_t N, int64_t G,
                                 const double *x, const double *B, const double *C, const double *dt,
                                 const fh1_tensor *A_log, const fh1_tensor *D, const double *state, const double *y,
                                 const fh1_gauge *g_state, const fh1_gauge *g);
fh1_status ref_gauge_op_selective_scan(const fh1_profile *contract, int64_t T, int64_t I, int64_t N, const double *x,
                                       const double *B, const double *C, const double *dt, const fh1_tensor *A_log,
                                       const fh1_tensor *D, const int64_t *doc, int64_t state_doc, const double *state,
                                       const double *y, const fh1_gauge *g_B, const fh1_gauge *g_C,
                                       const fh1_gauge *g_state, const fh1_gauge *g);
fh1_status ref_gauge_op_selective_step(const fh1_profile *contract, int64_t I, int64_t N, const double *x,
                                       const double *B, const double *C, const double *dt, const fh1_tensor *A_log,
                                       const fh1_tensor *D, const double *state, const double *y, const fh1_gauge *g_B,
                                       const fh1_gauge *g_C, const fh1_gauge *g_state, const fh1_gauge *g);
