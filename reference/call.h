/* The working set of one call of the model: its packed tokens, buffers and where its taps go. Shared by
 * the files that make up the whole-model forward. */
#pragma once

#include "reference/real.h"

typedef struct {
    fh1_engine *e;
    const fh1_model *m;
    const fh1_config *c;
    const fh1_profile *p;
    fh1_cache *cache;
    const fh1_tap_sink *sink; /* NULL: no taps */
    fh1_tokens t;
    bool one_token;    /* one column on a non-empty cache: the decode branch of transformers */
    int64_t pads_kept; /* FH1_VAR_PADS_IN_MIXER: leading padding that is computed as tokens */

    /* [M, …] each; one allocation */
    real *x;                /* residual stream, D */
    real *n;                /* normalised, D */
    real *scaled;           /* n · multiplier, D */
    real *proj;             /* in_proj, 2 d_ssm + 2GN + H */
    real *conv;             /* d_ssm + 2GN */
    real *xp, *inner;       /* Falcon-Mamba: x_proj, R + 2N; its three parts behind their norms, one after another */
    real *dt;               /* H */
    real *y;                /* scan output, then gated, d_ssm */
    real *mixer, *attn;     /* branch outputs, D */
    real *q, *k, *v, *ctx;  /* Hq·A, Hkv·A, Hkv·A, Hq·A */
    real *gate, *up, *down; /* F, F, D */
    real *cos_sin;          /* [2, M, A/2] */
    real *memory;
    real mup[5]; /* the ssm multipliers as apply_mup uses them */
    struct {     /* gauges that wait for their tap to be shown, reference/gauge_call.h */
        bool wanted;
        fh1_tap_id id;
        fh1_gauge g;
    } gauge[2];
    fh1_gauge hidden_xp; /* of xp in this layer, where the judged engine's own is not known; else worst == NULL */
} REF(ref_call);

/* FH1_VAR_DT_NORM_AFTER_DT_PROJ: Falcon-Mamba's dt goes through dt_proj as it is, and is normalised behind it. */
static inline bool ref_norm_is_late(const fh1_engine *e)
{
    return e->variants & FH1_VAR_DT_NORM_AFTER_DT_PROJ;
}

/* Columns [first, first + n) of rows [rows, width], dense to out [rows, n]. */
static inline void REF(ref_columns)(int64_t rows, int64_t width, const real *x, int64_t first, int64_t n, real *out)
{
    for (int64_t m = 0; m < rows; ++m) memcpy(out + m * n, x + m * width + first, (size_t)n * sizeof *out);
}

/* Show a tap to the sink; `data` is [M, …] (rows of `kept` for logits). */
fh1_status REF(ref_tap)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, real *data);

/* The same for `rows` rows of `kept` tokens. */
fh1_status REF(ref_show)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const int64_t *kept,
                         real *data);

/* Hands the event to the sink, with its gauge where one waits. */
fh1_status REF(ref_send)(REF(ref_call) * k, fh1_tap_event *ev);

/* y = x·Wᵀ + b with its tap; a multiplier that the tap includes (logits) is `m`, else 1. `rows` is M but
 * for logits, where `kept` lists the tokens. */
fh1_status REF(ref_linear_tap)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, int64_t rows, const int64_t *kept,
                               const real *x, const fh1_tensor *w, const fh1_tensor *b, double m, real *y);

/* k->scaled = R(n · m) for the linear tap `id`. */
void REF(ref_scale_input)(REF(ref_call) * k, fh1_tap_id id, int64_t layer, double m);

/* Both read k->n (the shared norm of the layer) and assign k->mixer / k->attn, before the out multiplier. */
fh1_status REF(ref_mixer_fwd)(REF(ref_call) * k, int64_t layer);
fh1_status REF(ref_self_attn_fwd)(REF(ref_call) * k, int64_t layer);
/* dt | B | C of Falcon-Mamba through their norms, from k->xp to k->inner: [M,R], then [M,N], then [M,N]. */
fh1_status REF(ref_mamba_inner_norms)(REF(ref_call) * k);
/* A whole layer: k->x to k->x. */
fh1_status REF(ref_layer_fwd)(REF(ref_call) * k, int64_t layer);
fh1_status REF(ref_mamba_layer_fwd)(REF(ref_call) * k, int64_t layer);

/* engine.forward, see oracle/engine.h. */
fh1_status REF(ref_forward)(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                            void *logits, const fh1_tap_sink *sink);
extern const fh1_ops REF(ref_ops);
