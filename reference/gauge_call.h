/* The gauges of one call of the model, where the sink asks for them: each hook stands next to its op in the forward.
 * Only the copy that computes truth has them (f64, no faults); elsewhere REF_GAUGE is nothing. */
#pragma once

#include "reference/attention.h"
#include "reference/call.h"
#include "reference/conv1d.h"
#include "reference/residual.h"
#include "reference/selective_scan.h"
#include "reference/ssd_scan.h"

#if REF_BITS == 64 && !defined REF_FAULTY
#define REF_GAUGE(call) FH1_TRY(call)

/* Each fills the gauge that the next ref_show of the same tap hands to the sink; nothing where it is not wanted.
 * FH1_E_INTERNAL without memory. Inputs are those of the op, in-place ones before it runs. */
fh1_status ref_gauge_embed(ref_call_f64 *k); /* before the adapters */
fh1_status ref_gauge_input(ref_call_f64 *k); /* before embedding_multiplier */
fh1_status ref_gauge_norm(ref_call_f64 *k, fh1_tap_id id, int64_t layer, const double *x, const fh1_tensor *w);
fh1_status ref_gauge_linear(ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t rows, const double *x,
                            const fh1_tensor *w, const fh1_tensor *b, const double *y);      /* before the adapters */
fh1_status ref_gauge_logits(ref_call_f64 *k, int64_t rows, double m, const double *product); /* before m */
fh1_status ref_gauge_rope(ref_call_f64 *k, int64_t layer); /* after key_multiplier, before the rotation */
/* One row of the batch each, in order; the row's tokens begin at packed token `begin`. */
fh1_status ref_gauge_attention(ref_call_f64 *k, int64_t layer, int64_t begin, const ref_attention_args_f64 *a);
fh1_status ref_gauge_conv1d(ref_call_f64 *k, int64_t layer, int64_t row, const ref_conv1d_args_f64 *a);
fh1_status ref_gauge_ssd(ref_call_f64 *k, int64_t layer, int64_t row, const ref_ssd_args_f64 *a);
/* Variants: n padding columns [in_proj width], after the mup vector, enter the window; a state has decayed over n of
 * them, with their dt[H], to `state`. */
fh1_status ref_gauge_pad_window(ref_call_f64 *k, int64_t layer, int64_t row, const double *col, int64_t n);
fh1_status ref_gauge_pad_state(ref_call_f64 *k, int64_t layer, int64_t row, const double *col, double lo, double hi,
                               int64_t n, const double *dt, const double *state);
/* The same of Falcon-Mamba's state, whose Δ is that of the bias: zero [H] are zeros. */
fh1_status ref_gauge_mamba_pad_state(ref_call_f64 *k, int64_t layer, int64_t row, int64_t n, const double *zero,
                                     const double *dt, const double *state);
fh1_status ref_gauge_dt(ref_call_f64 *k, int64_t layer, double lo, double hi);
/* Falcon-Mamba: after the product of dt_proj in k->dt, before the adapters and the bias; a row of its scan. */
fh1_status ref_gauge_mamba_dt(ref_call_f64 *k, int64_t layer);
fh1_status ref_gauge_selective(ref_call_f64 *k, int64_t layer, int64_t row, const ref_selective_args_f64 *a);
fh1_status ref_gauge_gated(ref_call_f64 *k, int64_t layer);
fh1_status ref_gauge_act(ref_call_f64 *k, int64_t layer); /* before swiglu overwrites k->gate */
/* A sum of branches onto k->x, shown as `id`. */
fh1_status ref_gauge_residual(ref_call_f64 *k, fh1_tap_id id, int64_t layer, const ref_branches_f64 *b);
fh1_status ref_gauge_loss(ref_call_f64 *k, const double *logits, const int64_t *label);
#else
#define REF_GAUGE(call) ((void)0)
#endif
