/* What a tap's op reads, and whether the judged engine's own values of all of it are known: then the gauge of that one
 * op bounds an honest error. Otherwise a chain of ops lies between the last recorded values and the tap. */
#include "golden/judge_state.h"

#include <string.h>

bool gld_recorded(gld_judgement *j, fh1_tap_id id, int64_t layer)
{
    const gld_slot *s = gld_find_slot(j, id, layer);
    return s && !s->coarse;
}

/* The residual stream that layer i reads. */
static bool stream(gld_judgement *j, int64_t layer)
{
    int64_t of;
    const fh1_tap_id id = fh1_tap_stream(j->c, layer, &of);
    return gld_recorded(j, id, of);
}

static bool all(gld_judgement *j, int64_t layer, fh1_tap_id a, fh1_tap_id b)
{
    return gld_recorded(j, a, layer) && gld_recorded(j, b, layer);
}

/* What the scan reads beside x: Falcon-Mamba's B and C are in x_proj. */
static bool scanned(gld_judgement *j, int64_t layer)
{
    return all(j, layer, FH1_TAP_CONV_ACT, FH1_TAP_DT) &&
           (j->c->family == FH1_FALCON_H1 || gld_recorded(j, FH1_TAP_X_PROJ, layer));
}

static bool known(const gld_judgement *j, int64_t layer, fh1_cache_part part)
{
    return j->known[layer * GLD_PARTS + (int)part];
}

/* What goes into the cache in this call. */
static bool makes(gld_judgement *j, int64_t layer, fh1_cache_part part)
{
    switch (part) {
    case FH1_CACHE_KEY: return gld_recorded(j, FH1_TAP_K_ROPE, layer);
    case FH1_CACHE_VALUE: return gld_recorded(j, FH1_TAP_V_PROJ, layer);
    case FH1_CACHE_CONV: return gld_recorded(j, FH1_TAP_IN_PROJ, layer);
    default: return scanned(j, layer);
    }
}

bool gld_inputs_recorded(gld_judgement *j, fh1_tap_id id, int64_t layer)
{
    const bool kv = known(j, layer, FH1_CACHE_KEY) && known(j, layer, FH1_CACHE_VALUE);
    switch (id) {
    case FH1_TAP_EMBED: return true;
    case FH1_TAP_INPUT: return gld_recorded(j, FH1_TAP_EMBED, 0);
    case FH1_TAP_INPUT_LAYERNORM: return stream(j, layer);
    case FH1_TAP_Q_ROPE: return gld_recorded(j, FH1_TAP_Q_PROJ, layer);
    case FH1_TAP_K_ROPE: return gld_recorded(j, FH1_TAP_K_PROJ, layer);
    case FH1_TAP_CONTEXT:
        return kv && all(j, layer, FH1_TAP_Q_ROPE, FH1_TAP_K_ROPE) && gld_recorded(j, FH1_TAP_V_PROJ, layer);
    case FH1_TAP_CONV_ACT: return known(j, layer, FH1_CACHE_CONV) && makes(j, layer, FH1_CACHE_CONV);
    case FH1_TAP_DT: return gld_recorded(j, j->c->family == FH1_FALCON_MAMBA ? FH1_TAP_X_PROJ : FH1_TAP_IN_PROJ, layer);
    case FH1_TAP_SSD: return known(j, layer, FH1_CACHE_SSM) && makes(j, layer, FH1_CACHE_SSM);
    case FH1_TAP_GATED: return all(j, layer, FH1_TAP_SSD, FH1_TAP_IN_PROJ);
    case FH1_TAP_MID_SSM: return stream(j, layer) && gld_recorded(j, FH1_TAP_OUT_PROJ, layer);
    case FH1_TAP_ATTN_LAYERNORM: return gld_recorded(j, FH1_TAP_MID_SSM, layer);
    case FH1_TAP_MID:
        if (j->c->block == FH1_BLOCK_S_A_M) return all(j, layer, FH1_TAP_MID_SSM, FH1_TAP_O_PROJ);
        return stream(j, layer) && all(j, layer, FH1_TAP_O_PROJ, FH1_TAP_OUT_PROJ);
    case FH1_TAP_PRE_FF_LAYERNORM: return gld_recorded(j, FH1_TAP_MID, layer);
    case FH1_TAP_ACT: return all(j, layer, FH1_TAP_GATE_PROJ, FH1_TAP_UP_PROJ);
    case FH1_TAP_LAYER:
        if (j->c->family == FH1_FALCON_MAMBA) return stream(j, layer) && gld_recorded(j, FH1_TAP_OUT_PROJ, layer);
        if (j->c->block != FH1_BLOCK_SAM) return all(j, layer, FH1_TAP_MID, FH1_TAP_DOWN_PROJ);
        return stream(j, layer) && all(j, layer, FH1_TAP_O_PROJ, FH1_TAP_OUT_PROJ) &&
               gld_recorded(j, FH1_TAP_DOWN_PROJ, layer);
    case FH1_TAP_FINAL_LAYERNORM: return stream(j, j->c->n_layers);
    case FH1_TAP_LOSS: return gld_recorded(j, FH1_TAP_LOGITS, 0) && gld_current(j)->n_logits == gld_current(j)->batch.T;
    case FH1_TAP_CACHE_KEY: return known(j, layer, FH1_CACHE_KEY) && makes(j, layer, FH1_CACHE_KEY);
    case FH1_TAP_CACHE_VALUE: return known(j, layer, FH1_CACHE_VALUE) && makes(j, layer, FH1_CACHE_VALUE);
    case FH1_TAP_CACHE_CONV: return known(j, layer, FH1_CACHE_CONV) && makes(j, layer, FH1_CACHE_CONV);
    case FH1_TAP_CACHE_SSM: return known(j, layer, FH1_CACHE_SSM) && makes(j, layer, FH1_CACHE_SSM);
    default: return gld_recorded(j, fh1_tap_linear_input(j->c, id), layer);
    }
}

bool gld_stream_recorded(gld_judgement *j, int64_t layer)
{
    return stream(j, layer);
}

void gld_note_known(gld_judgement *j)
{
    for (int64_t layer = 0; layer < j->c->n_layers; ++layer)
        for (int part = 0; part < GLD_PARTS; ++part) {
            bool *at = &j->known[layer * GLD_PARTS + part];
            const bool imported = gld_recorded(j, (fh1_tap_id)(FH1_TAP_CACHE_KEY + part), layer);
            *at = imported || (*at && makes(j, layer, (fh1_cache_part)part));
        }
}
