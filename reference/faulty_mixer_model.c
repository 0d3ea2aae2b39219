#include "reference/faulty_mixer_model.h"

#include <math.h>

bool ref_edit_mixer_config(fh1_fault f, fh1_config *c)
{
    double *u = c->m_ssm; /* z, x, B, C, dt */
    switch ((int)f) {
    case FH1_FAULT_MUP_Z_DROPPED: u[0] = 1; return true;
    case FH1_FAULT_MUP_X_DROPPED: u[1] = 1; return true;
    case FH1_FAULT_MUP_B_DROPPED: u[2] = 1; return true;
    case FH1_FAULT_MUP_C_DROPPED: u[3] = 1; return true;
    case FH1_FAULT_MUP_DT_DROPPED: u[4] = 1; return true;
    case FH1_FAULT_MUP_ALL_ONES:
        for (int s = 0; s < 5; ++s) u[s] = 1;
        return true;
    case FH1_FAULT_MUP_TWICE:
        for (int s = 0; s < 5; ++s) u[s] *= u[s];
        return true;
    case FH1_FAULT_MUP_UNINITIALISED:
        for (int s = 0; s < 5; ++s) u[s] = (double)NAN;
        return true;
    case FH1_FAULT_MUP_Z_X_SWAPPED:
    case FH1_FAULT_MUP_B_C_SWAPPED: {
        double *pair = f == FH1_FAULT_MUP_Z_X_SWAPPED ? u : u + 2;
        const double first = pair[0];
        pair[0] = pair[1];
        pair[1] = first;
        return true;
    }
    case FH1_FAULT_SSM_IN_DROPPED: c->m_ssm_in = 1; return true;
    case FH1_FAULT_SSM_IN_TWICE: c->m_ssm_in *= c->m_ssm_in; return true;
    case FH1_FAULT_SSM_OUT_DROPPED: c->m_ssm_out = 1; return true;
    case FH1_FAULT_SSM_OUT_TWICE: c->m_ssm_out *= c->m_ssm_out; return true;
    case FH1_FAULT_DT_CLAMPED_AT_TIME_STEP_MIN: c->dt_lo = 0.001; return true;
    case FH1_FAULT_MIXER_EPS_OF_LAYER_NORM: c->mixer_eps = c->eps; return true;
    case FH1_FAULT_LAYER_NORM_EPS_OF_MIXER: c->eps = c->mixer_eps; return true;
    case FH1_FAULT_NORM_BEFORE_GATE_INVERTED: c->norm_before_gate = !c->norm_before_gate; return true;
    case FH1_FAULT_NORM_BEFORE_GATE_IGNORED: c->norm_before_gate = false; return true;
    default: return false;
    }
}

/* Taps in another order: tap k takes what stood at K-1-k, or at k+1 (nothing past the last). */
static fh1_status move_taps(ref_edited_model *e, fh1_tensor *t, bool reverse)
{
    const int64_t K = t->shape[t->rank - 1], n = fh1_n_elems(t);
    const fh1_tensor old = *t;
    FH1_TRY(ref_edit_scale(e, t, 1, 0));
    float *w = t->data;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t k = i % K, from = reverse ? K - 1 - k : k + 1;
        w[i] = from < K ? (float)fh1_get(&old, i - k + from) : 0;
    }
    return NULL;
}

static fh1_status rotate(ref_edited_model *e, fh1_tensor *t)
{
    const int64_t n = fh1_n_elems(t);
    const fh1_tensor old = *t;
    FH1_TRY(ref_edit_scale(e, t, 1, 0));
    for (int64_t i = 0; i < n; ++i) ((float *)t->data)[i] = (float)fh1_get(&old, (i + 1) % n);
    return NULL;
}

static fh1_status round_to_bf16(ref_edited_model *e, fh1_tensor *t)
{
    FH1_TRY(ref_edit_scale(e, t, 1, 0));
    float *w = t->data;
    for (int64_t i = 0; i < fh1_n_elems(t); ++i) w[i] = fh1_round_f32(FH1_ROUND_BF16, w[i]);
    return NULL;
}

fh1_status ref_edit_mixer_layer(fh1_fault f, ref_edited_model *e, fh1_layer *l, bool *edited)
{
    *edited = true;
    switch ((int)f) {
    case FH1_FAULT_CONV_TAPS_REVERSED: return move_taps(e, &l->conv_w, true);
    case FH1_FAULT_CONV_OFF_BY_ONE: return move_taps(e, &l->conv_w, false);
    case FH1_FAULT_CONV_BIAS_DROPPED: l->conv_b.data = NULL; return NULL;
    case FH1_FAULT_DT_BIAS_DROPPED: return ref_edit_scale(e, &l->dt_bias, 0, 0);
    case FH1_FAULT_DT_BIAS_TWICE: return ref_edit_scale(e, &l->dt_bias, 2, 0);
    case FH1_FAULT_A_LOG_IN_BF16: return round_to_bf16(e, &l->A_log);
    case FH1_FAULT_D_DROPPED: return ref_edit_scale(e, &l->D, 0, 0);
    case FH1_FAULT_D_OF_NEXT_HEAD: return rotate(e, &l->D);
    case FH1_FAULT_GATED_NORM_MISSING: l->norm.data = NULL; return NULL;
    case FH1_FAULT_GATED_NORM_WEIGHT_DROPPED: return ref_edit_scale(e, &l->norm, 0, 1);
    case FH1_FAULT_GATED_NORM_ALTHOUGH_OFF: /* ones, in the shape of the weight that is not there */
        if (l->norm.data) return NULL;
        l->norm = fh1_view1(l->out_w.data, l->out_w.dtype, e->copy.config.d_ssm);
        return ref_edit_scale(e, &l->norm, 0, 1);
    default: *edited = false; return NULL;
    }
}

unsigned ref_fault_variants(fh1_fault f)
{
    switch ((int)f) {
    case FH1_FAULT_MUP_ROUNDED_TO_BF16: return FH1_VAR_MUP_ROUNDED;
    case FH1_FAULT_CONV_BIAS_AT_LEFT_PADS: return FH1_VAR_IN_PROJ_BIAS_AT_PADS;
    case FH1_FAULT_CONV_WINDOW_AT_RIGHT_PADS: /* one half of the variant each: ref_mixer's after_row */
    case FH1_FAULT_STATE_DECAYS_OVER_RIGHT_PADS:
    case FH1_FAULT_CACHE_AFTER_LAST_COLUMN: return FH1_VAR_RIGHT_PAD_CACHE;
    case FH1_FAULT_DT_NOT_CLAMPED: return FH1_VAR_NO_DT_LIMIT;
    case FH1_FAULT_DT_NOT_CLAMPED_IN_STEPS: return FH1_VAR_DECODE_NO_DT_LIMIT;
    case FH1_FAULT_HISTORY_DROPPED: return FH1_VAR_HISTORY_DROPPED;
    case FH1_FAULT_MIXER_LEAKS_DOCUMENTS: return FH1_VAR_MIXER_LEAKS_DOCS;
    default: return 0;
    }
}
