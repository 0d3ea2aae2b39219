/* Taps: the named intermediate tensors that engines are compared on (DESIGN: section Taps; the table
 * is docs/taps.md, printed for one model by `fh1 taps`). */
#pragma once

#include "oracle/batch.h"
#include "oracle/config.h"
#include "oracle/round.h"
#include "oracle/tensor.h"

/* In the order of the table; the per-layer ones repeat for each layer. */
typedef enum {
    FH1_TAP_EMBED,           /* model.embed_tokens */
    FH1_TAP_INPUT,           /* model.layers.0.input */
    FH1_TAP_INPUT_LAYERNORM, /* first per-layer tap */
    FH1_TAP_Q_PROJ,
    FH1_TAP_K_PROJ,
    FH1_TAP_V_PROJ,
    FH1_TAP_Q_ROPE,
    FH1_TAP_K_ROPE,
    FH1_TAP_CONTEXT,
    FH1_TAP_O_PROJ,
    FH1_TAP_IN_PROJ,
    FH1_TAP_CONV_ACT,
    FH1_TAP_X_PROJ, /* Falcon-Mamba */
    FH1_TAP_DT,
    FH1_TAP_SSD, /* Falcon-Mamba: the scan */
    FH1_TAP_GATED,
    FH1_TAP_OUT_PROJ,
    FH1_TAP_MID_SSM,        /* block S_A_M */
    FH1_TAP_ATTN_LAYERNORM, /* block S_A_M */
    FH1_TAP_MID,
    FH1_TAP_PRE_FF_LAYERNORM,
    FH1_TAP_GATE_PROJ,
    FH1_TAP_UP_PROJ,
    FH1_TAP_ACT,
    FH1_TAP_DOWN_PROJ,
    FH1_TAP_LAYER, /* model.layers.i, last per-layer tap */
    FH1_TAP_FINAL_LAYERNORM,
    FH1_TAP_LOGITS,
    FH1_TAP_CACHE_KEY,
    FH1_TAP_CACHE_VALUE,
    FH1_TAP_CACHE_CONV,
    FH1_TAP_CACHE_SSM, /* per layer */
    FH1_TAP_LOSS,
    FH1_TAP_COUNT
} fh1_tap_id;

bool fh1_tap_is_per_layer(fh1_tap_id id); /* cache taps included */
bool fh1_tap_is_cache(fh1_tap_id id);
bool fh1_tap_is_linear(fh1_tap_id id); /* output of one matrix product, logits included */
/* Whether a model with this config has it: its family and its block decide. */
bool fh1_tap_exists(const fh1_config *c, fh1_tap_id id);
/* The residual stream that a layer reads: the output of the layer before, layer *of; in front of layer 0 what the
 * embedding leaves (Falcon-Mamba has no multiplier behind its table). */
fh1_tap_id fh1_tap_stream(const fh1_config *c, int64_t layer, int64_t *of);
/* For a linear tap: the tap that the product reads (the only one between is a multiplier). */
fh1_tap_id fh1_tap_linear_input(const fh1_config *c, fh1_tap_id id);

#define FH1_TAP_NAME_SIZE 96
/* "model.layers.3.mamba.ssd" into buf, in the module names of the family; layer is ignored for model-level taps. A tap
 * that the family does not have is named as the other one does. */
const char *fh1_tap_name(fh1_family family, fh1_tap_id id, int64_t layer, char buf[FH1_TAP_NAME_SIZE]);
/* The module whose product a linear tap is: its name, but lm_head for the logits, and for FH1_TAP_DT (Falcon-Mamba)
 * dt_proj, which stands in front of it. */
const char *fh1_tap_linear_module(fh1_family family, fh1_tap_id id, int64_t layer, char buf[FH1_TAP_NAME_SIZE]);
/* The reverse of fh1_tap_name; false for a name that is no tap of a model of that family with n_layers layers. */
bool fh1_tap_parse(fh1_family family, const char *name, int64_t n_layers, fh1_tap_id *id, int64_t *layer);
/* The same where no model is at hand: the families are tried in turn (cache.*, logits and loss are those of both). */
bool fh1_tap_parse_any(const char *name, int64_t n_layers, fh1_tap_id *id, int64_t *layer);
/* Rank of a tap in the order of first divergence within one step: the order of computation. Where no model is at hand
 * (c NULL) that of the released block, for n_layers layers. */
int64_t fh1_tap_order(const fh1_config *c, fh1_tap_id id, int64_t layer, int64_t n_layers);
/* All taps in that order, for one layer. */
void fh1_taps_in_order(const fh1_config *c, fh1_tap_id ids[FH1_TAP_COUNT]);
/* One line that defines it, for `fh1 taps`. */
const char *fh1_tap_definition(fh1_family family, fh1_tap_id id);

/* The shape in a trace: [B, T, …]; `n_logits` = T' columns of logits, `n_cols` = S slots of the cache
 * after the step. data is NULL, dtype F64. */
fh1_tensor fh1_tap_shape(const fh1_config *c, fh1_tap_id id, int64_t B, int64_t T, int64_t n_logits, int64_t n_cols);
/* The shape for the M packed tokens: [M, …]; not for cache taps and loss. */
fh1_tensor fh1_tap_packed_shape(const fh1_config *c, fh1_tap_id id, int64_t M);
/* How many last axes make one judged unit and which axis counts units: a channel of the last axis, or
 * a head for head-shaped taps (q_rope, k_rope, context, ssd, cache.*). Returns the number of units and
 * the unit of a row-major ordinal within one token (of one batch row for cache.conv and cache.ssm). */
int64_t fh1_tap_units(const fh1_config *c, fh1_tap_id id);
int64_t fh1_tap_unit_of(const fh1_config *c, fh1_tap_id id, int64_t ordinal_in_token);
/* The same from a full index in the shape of fh1_tap_shape, batch axis first. Works for every tap,
 * and is the only one for cache.key and cache.value, where S lies inside the unit. */
int64_t fh1_tap_unit_of_index(const fh1_config *c, fh1_tap_id id, const int64_t *index);

/* What an engine hands to a sink at each tap of a call. Cache taps are not sent: they are read from
 * the cache after the call. */
typedef struct {
    fh1_tap_id id;
    int64_t layer;    /* 0 for model-level taps */
    fh1_tensor value; /* [M, …] packed tokens, dense, in the engine's compute type; a sink may
                         overwrite it (teacher forcing): the engine goes on from what it finds */
    const fh1_tokens *tokens;
    const int64_t *kept;           /* logits only: which packed tokens the rows of value belong to
                                       (logits_to_keep); NULL elsewhere: row m is token m */
    const struct fh1_gauge *gauge; /* what an honest engine may be off by here, shape of value; NULL unless asked for */
} fh1_tap_event;

struct fh1_gauge_request; /* oracle/gauge_request.h */

typedef struct fh1_tap_sink {
    void *user;
    fh1_status (*tap)(void *user, const fh1_tap_event *e);
    /* Optional: gauges for the taps of this call. Only an exact engine serves it. */
    const struct fh1_gauge_request *gauges;
    /* Optional: the rounding that the judged contract applies to the scaled input of this linear tap
     * (n·m_attn_in, n·m_ssm_in), applied by an exact engine too. See docs/numerics.md. */
    fh1_round (*input_round)(void *user, fh1_tap_id id, int64_t layer);
    /* Start at this layer: the ones before are not computed. The sink is shown the output of the layer before
     * (model.layers.i, or the input where it is 0) and puts in what the engine goes on from. 0: all. */
    int64_t first_layer;
    /* Stop before this layer: neither it nor the final norm and the head are computed. 0: run to the end. */
    int64_t end_layer;
} fh1_tap_sink;
