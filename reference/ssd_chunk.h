#pragma once

#include "reference/ssd_scan.h"

/* The recurrence of ssd_scan.h in chunks of Q tokens, as transformers and the GPU kernels compute it; equal in
 * exact arithmetic, different in rounding. It emulates honest pipelines (ref-bf16 and the judge's yardstick);
 * truth never uses it. Per chunk, with l_t = Δ_t A, Λ_t = Σ l up to t and x̂ = Δx:
 *   y_t = Σ_{s<=t} (C_t·B_s) exp(Σ_{s<k<=t} l_k) x̂_s + exp(Λ_t) C_t·S + D x_t
 *   S  <- exp(Λ_last) S + Σ_s exp(Λ_last - Λ_s) x̂_s ⊗ B_s
 * Where FH1_RP_SSD_TILE rounds, what is no input of the scan goes into each product in two parts of that type, high
 * and low: the weights (C_t·B_s)·exp·Δ_s, the state read by C, and exp·Δ_s·B_s as it enters the state.
 * The difference Λ_last - Λ_s is where an f32 pipeline loses u·|Λ|. The chunk grid restarts with each document.
 * With a `reset` documents are no edges: -80 stands among the l_t of a chunk, and one that holds it is computed as the
 * kernels that train so do, all decays exp(Λ_t - Λ_s) of two sums. Then u·|Λ| grows by 80 u with each document before a
 * token, and NaN goes from one document into the next (docs/numerics.md, "Documents by -80").
 * Arguments as there; FH1_E_INTERNAL without memory. */
fh1_status REF(ref_ssd_chunk_fwd)(const REF(ref_ssd_args) * a, int64_t Q, const fh1_profile *p);
