/* The faulty engine: which faults its launches know, and what its copies of loader and upload note down for them. */
#include "cuda/device.h"
#include "cuda/faulty/spoil.cuh"
#include "cuda/tokens_upload.h"
#include "cuda/world.h"

#include "cuda/faulty.h" /* last: spoil.cuh brought oracle/ in as C */

extern "C" const cu_world cu_world_faulty; /* engine.cu with its launches spoiled */

namespace CU_NS
{

cu_faulty_state cu_faulty;

namespace
{

#define F(id) FH1_FAULT_##id
const fh1_fault planted[] = {
    /* embed, rmsnorm, residual, swiglu */
    F(EMBEDDING_ROW_0_ZEROED), F(NORM_EPS_OUTSIDE_ROOT), F(NORM_MEAN_SUBTRACTED), F(NORM_SCALE_IN_BF16),
    F(FINAL_NORM_SKIPPED), F(FINAL_NORM_TWICE), F(MIXERS_RESIDUAL_DROPPED), F(MLP_RESIDUAL_DROPPED),
    F(RESIDUAL_FROM_NORM), F(RESIDUAL_IN_BF16), F(DOWN_MULTIPLIER_ON_RESIDUAL), F(ATTENTION_IN_ON_RESIDUAL),
    F(GATE_MULTIPLIER_AFTER_SILU), F(MLP_GELU), F(MLP_SIGMOID), F(NAN_IN_ONE_ELEMENT),
    /* linear, lm_head, cross_entropy, sample */
    F(SSM_IN_BEFORE_NORM), F(SSM_IN_ON_RESIDUAL), F(DOCUMENT_IDS_SCALE_THE_MIXER), F(MLP_READS_RESIDUAL),
    F(LINEAR_TF32), F(LINEAR_BF16_ACCUMULATOR), F(LINEAR_LAST_K_DROPPED), F(LONG_PREFILL_IN_F16),
    F(HEAD_READS_RESIDUAL), F(LAST_LOGITS_ONLY), F(LOGITS_ONE_POSITION_LATE), F(LOGITS_IN_BF16),
    F(LOSS_WITHOUT_HEAD_MULTIPLIER), F(LOSS_NOT_SHIFTED), F(LOSS_SHIFTED_TWICE), F(LOSS_COUNTS_IGNORED), F(LOSS_SUMMED),
    F(LOSS_WITHOUT_MAX), F(SAMPLE_TIE_TAKES_LAST), F(SAMPLE_PASSES_NAN),
    /* rope, attention */
    F(KEY_MULTIPLIER_DROPPED), F(KEY_MULTIPLIER_ON_QUERIES), F(KEY_MULTIPLIER_ON_VALUES), F(ROPE_INTERLEAVED),
    F(ROPE_SIGN_FLIPPED), F(ROPE_HALF_OF_HEAD), F(ROPE_KEYS_NOT_ROTATED), F(ROPE_QUERIES_NOT_ROTATED),
    F(ROPE_ANGLES_IN_BF16), F(ROPE_TABLE_IN_BF16), F(DOCUMENTS_IGNORED_IN_ATTENTION), F(ATTENTION_NOT_CAUSAL),
    F(CAUSAL_MASK_SHOWS_NEXT), F(CAUSAL_MASK_HIDES_SELF), F(CAUSAL_MASK_FROM_TOP_LEFT), F(CONTINUED_CALL_NOT_CAUSAL),
    F(DECODE_SEES_NEW_KEY_ONLY), F(CONTINUED_CALL_SEES_NEW_KEYS_ONLY), F(FIRST_KEY_NOT_SEEN), F(SLIDING_WINDOW),
    F(KV_HEADS_BY_MODULO), F(SCORES_NOT_SCALED), F(SCORES_SCALED_TWICE), F(SCORES_SCALED_BY_HIDDEN),
    F(SCORES_HAVE_A_POSITION_TERM), F(SCORES_IN_BF16), F(SOFTMAX_IN_BF16), F(SOFTMAX_WITHOUT_MAX),
    F(SOFTMAX_COUNTS_AN_EMPTY_SLOT), F(KEYS_OF_ROW_0), F(KV_CACHE_IN_BF16),
    /* conv1d */
    F(MUP_ROUNDED_TO_BF16), F(MUP_AFTER_CONV), F(IN_PROJ_X_BEFORE_Z), F(IN_PROJ_C_BEFORE_B), F(IN_PROJ_SPLIT_EVENLY),
    F(CONV_WITHOUT_SILU), F(CONV_STEP_WITHOUT_SILU), F(CONV_SILU_FIRST), F(CONV_STRIDE_OF_FOUR),
    F(CONV_LEAKS_DOCUMENTS), F(CONV_CONTEXT_OF_ROW_BEFORE), F(CONV_WINDOW_FIRST_COLUMNS), F(CONV_WINDOW_POST_CONV),
    F(CONV_WINDOW_ONE_SHORT), F(CONV_WINDOW_READ_AS_K), F(CONV_WINDOW_LEFT_ALIGNED),
    F(CONV_WINDOW_NOT_STORED_IN_SHORT_CALLS), F(CONV_WINDOW_FROZEN_IN_STEPS), F(HISTORY_DROPPED),
    F(MIXER_LEAKS_DOCUMENTS), F(LAST_ROW_HAS_STALE_SLOT), F(PADDING_ROW_WRITES_SLOT_0), F(PADDING_ROW_WRITES_LAST_SLOT),
    F(STATE_NOT_STORED_BY_PREFILL),
    /* dt_softplus, gated_norm */
    F(DT_BIAS_AFTER_SOFTPLUS), F(SOFTPLUS_MISSING), F(SOFTPLUS_IS_EXP), F(SOFTPLUS_LINEAR_TOO_EARLY), F(DT_IN_BF16),
    F(DT_NOT_CLAMPED), F(DT_NOT_CLAMPED_IN_STEPS), F(DT_CLAMPED_IN_STEPS_ONLY), F(DT_CLAMPED_BEFORE_SOFTPLUS),
    F(DT_OF_FIRST_TOKEN), F(GATE_OPERANDS_SWAPPED), F(GATE_IS_SIGMOID), F(GATE_IN_BF16), F(GATE_OF_ROW_0),
    F(GATED_NORM_TWICE), F(GATED_NORM_OVER_WHOLE_WIDTH), F(GATED_NORM_WEIGHT_OF_GROUP_0),
    F(GATED_NORM_EPS_OUTSIDE_ROOT), F(GATED_NORM_EPS_MISSING),
    /* ssd_scan */
    F(A_NOT_NEGATED), F(A_LOG_NOT_EXPONENTIATED), F(A_IN_BF16_IN_PREFILL), F(DECAY_WITHOUT_DT), F(INPUT_WITHOUT_DT),
    F(DT_STALE_AT_ONE_TOKEN), F(D_ON_SCALED_INPUT), F(GROUPS_TILED), F(GROUP_0_FOR_ALL), F(B_AND_C_SWAPPED),
    F(Y_READS_STATE_BEFORE), F(CARRY_LOST_AT_CHUNK_EDGE), F(CARRY_LOST_AT_50000), F(SECOND_HALF_FROM_ZERO),
    F(LONG_CALLS_DROP_STATE), F(DECAY_SKIPPED_AT_CHUNK_EDGE), F(DECAY_FROM_WRONG_ORIGIN), F(DECAY_SUMS_IN_F16),
    F(DECAY_ABOVE_DIAGONAL), F(CHUNK_TAIL_NOT_ZEROED), F(LAST_TOKEN_NOT_IN_STATE), F(STATE_TRANSPOSED),
    F(SCAN_LEAKS_DOCUMENTS), F(STATE_UNINITIALISED_AT_BLOCK_EDGE), F(INITIAL_STATE_OF_ROW_0), F(LAYERS_SHARE_STATE),
    F(STATE_IN_BF16), F(STATE_IN_F16), F(STATE_STORED_IN_BF16), F(Y_READS_ROUNDED_STATE), F(SCAN_SUMS_IN_BF16),
    /* Falcon-Mamba */
    F(IN_PROJ_Z_BEFORE_X), F(CONV_RESTARTS_AT_K_TOKENS), F(CONV_OF_FIRST_TOKEN), F(CONV_COLUMN_AT_POSITION),
    F(INNER_NORMS_DROPPED), F(INNER_NORM_OF_DT_DROPPED), F(INNER_NORM_OF_B_DROPPED), F(INNER_NORM_OF_C_DROPPED),
    F(INNER_NORMS_TWICE), F(INNER_NORM_OVER_X_PROJ), F(DT_NORM_AFTER_DT_PROJ), F(X_PROJ_DT_LAST),
    F(DT_CLAMPED_TO_INIT_RANGE), F(D_IN_BF16_IN_STEPS), F(GATE_BEFORE_D), F(LAST_NORM_READS_ROUNDED_RESIDUAL),
    F(SELECTIVE_A_TRANSPOSED), F(SELECTIVE_A_PER_CHANNEL), F(SELECTIVE_A_OF_CHANNEL_0), F(SELECTIVE_SCAN_RESTARTS),
    F(SELECTIVE_STATE_TRANSPOSED), F(DOC_RESET_BY_8)};
#undef F

fh1_status (*true_forward)(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                           const fh1_tap_sink *);

fh1_status forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                   void *logits, const fh1_tap_sink *sink)
{
    cu_faulty.fault = e->fault;
    cu_faulty.batch = b;
    if (CU_FAULT(LAST_LOGITS_ONLY) && n_logits > 1) {
        if (logits) memset(logits, 0, static_cast<size_t>(b->B * n_logits * m->config.V) * sizeof(float));
        logits = NULL;
        n_logits = 1;
    }
    const fh1_status s = true_forward(e, m, b, cache, n_logits, logits, sink);
    cu_faulty.batch = NULL;
    cu_faulty.tokens = NULL;
    cu_faulty.cache = NULL;
    cu_faulty.t = {};
    return s;
}

fh1_status engine_new(const fh1_profile *profile, fh1_fault f, bool general, fh1_engine **out)
{
    cu_faulty = {};
    cu_faulty.fault = f;
    cu_faulty.general = general;
    FH1_TRY(cu_world_faulty.engine_new(profile, out));
    (*out)->fault = f;
    true_forward = (*out)->forward;
    (*out)->forward = forward;
    return NULL;
}

} // namespace

/* The copies of what the engine calls between launches. */
fh1_status cu_faulty_weights_load(const fh1_model *m, cu_type type, cudaStream_t stream, cu_weights *out,
                                  const cu_load_options *options)
{
    cu_faulty.w = out;
    return cu_weights_load(m, type, stream, out, options);
}

fh1_status cu_faulty_tokens_upload(const fh1_tokens *t, const fh1_cache *past, cudaStream_t stream, cu_token_buffers *b,
                                   cu_tokens *out)
{
    FH1_TRY(cu_tokens_upload(t, past, stream, b, out));
    cu_faulty.tokens = t;
    cu_faulty.cache = past;
    cu_faulty.t = *out;
    /* A fused launch of a decode step has no spoiler: with a fault a step is made of the separate ones. */
    if (!cu_faulty.general && cu_faulty.fault != FH1_FAULT_NONE)
        cu_faulty.k->path = all_steps(*out) ? CU_GENERAL : CU_AUTO;
    return NULL;
}

fh1_status cu_faulty_device_open(cu_device *d)
{
    FH1_TRY(cu_device_open(d));
    cu_faulty.k = &d->k;
    if (cu_faulty.general) d->k.path = CU_GENERAL;
    return NULL;
}

float *cu_faulty_cache_ssm(const cu_cache *c, int64_t layer)
{
    return cu_cache_ssm(c, CU_FAULT(LAYERS_SHARE_STATE) ? 0 : layer);
}

} // namespace CU_NS

extern "C" {

bool cu_faulty_plants(fh1_fault f)
{
    using namespace CU_NS;
    for (const fh1_fault p : planted)
        if (p == f) return true;
    return false;
}

fh1_status cu_faulty_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_fault f,
                                fh1_engine **out)
{
    *out = NULL;
    if (strcmp(name, "cuda-host") != 0) return fh1_found(FH1_BAD("an engine without planted faults"), "'%s'", name);
    if (variants) return FH1_BAD("engine %s has no variants", name);
    if (f != FH1_FAULT_NONE && !cu_faulty_plants(f))
        return fh1_found(FH1_BAD("a fault that no launch of engine %s has", name), "%s", fh1_fault_get(f)->name);
    return CU_NS::engine_new(profile, f, false, out);
}

fh1_status cu_general_engine_new(const fh1_profile *profile, fh1_engine **out)
{
    *out = NULL;
    return CU_NS::engine_new(profile, FH1_FAULT_NONE, true, out);
}
}
