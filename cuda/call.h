/* One call of the model on the device: its packed tokens, the buffers of its activations, and where its taps go. The
 * adapter behind fh1_engine (engine.cu) and the native session (session.cu) run the same calls. */
#pragma once

#include "cuda/cache.h"
#include "cuda/device.h"
#include "cuda/tokens.h"
#include "cuda/weights.h"

namespace CU_NS
{

enum cu_part {
    CU_X,        /* residual stream [M, D], f32 where it is wide */
    CU_N,        /* normalised [M, D] */
    CU_ASIDE,    /* where taps are shown: the lookup, or the stream before a fused sum [M, D] */
    CU_PROJ,     /* in_proj [M, ld_proj]; where decode products are fused q | k | v of a row follow it */
    CU_QKV,      /* else q | k | v [M, ld_qkv] */
    CU_CONV,     /* [M, c] */
    CU_X_PROJ,   /* x_proj: dt | B | C [M, ld_x_proj] */
    CU_DT_LOW,   /* its dt normalised, the input of dt_proj [M, R] */
    CU_BC,       /* its B | C, each normalised [M, 2N] */
    CU_DT_RAW,   /* dt_proj [M, H] */
    CU_DT,       /* f32 [M, H] */
    CU_SSD,      /* [M, d_ssm] */
    CU_GATED,    /* [M, d_ssm] */
    CU_MIXER,    /* out_proj [M, D] */
    CU_CONTEXT,  /* [M, Hq·A] */
    CU_ATTN,     /* o_proj [M, D] */
    CU_GATE_UP,  /* [M, ld_gate_up] */
    CU_ACT,      /* [M, F] */
    CU_DOWN,     /* [M, D] */
    CU_KEPT,     /* normalised rows that get logits [n, D] */
    CU_LOGITS,   /* f32 [n, V] */
    CU_SCAN,     /* scratch of the scan */
    CU_STEP,     /* scratch of decode attention: zeros before the first use, its counters put themselves back */
    CU_LOW_RANK, /* f32 [M, r], between the two products of an adapter */
    CU_PARTS
};

struct cu_work {
    cu_buffer part[CU_PARTS];
};

struct cu_adapter; /* cuda/lora.cuh */

struct cu_call {
    cu_ctx *k;
    const cu_weights *w;
    const fh1_config *c;
    cu_work *work;
    cu_cache *cache;
    cu_tokens t;
    bool one_token;         /* one in every row: decode kernels */
    const double *inv_freq; /* [A/2] on the device */
    float rope_scale;
    const fh1_tokens *tokens; /* of the host; where taps are shown */
    const fh1_tap_sink *sink; /* NULL: no taps */
    /* Under contract fp32. Of layer l and product id: adapters[l · FH1_TAP_LAYER + id], r = 0 where there is none;
     * NULL: none at all. Those of the two ends: NULL or r = 0. */
    const cu_adapter *adapters, *embed_adapter, *head_adapter;
    bool fused;       /* one_token and few rows: cuda/decode_linear.cuh */
    bool head_norms;  /* the head does the final norm itself: CU_X is the end of a fused step */
    bool keep_scan;   /* CU_SSD is wanted although nobody looks: training */
    bool wide;        /* the residual stream is f32 whatever the weights' type is */
    void *proj, *qkv; /* in_proj's output, and q | k | v behind one another */
    int64_t ld_proj, ld_qkv, ld_up, ld_gate_up, ld_x_proj;
};

/* Row lengths, and every buffer but CU_KEPT and CU_LOGITS, for the M tokens of `call`. */
fh1_status cu_call_open(cu_call *call);
void cu_work_free(cu_work *w);
/* Bytes that cu_call_open asks for in a call of M tokens, B rows. */
size_t cu_work_bytes(const fh1_config *c, cu_type type, int64_t M, int64_t B);

/* From ids to CU_N, the final norm, all layers; keys, values, windows and states end up in the cache. */
fh1_status cu_call_layers(cu_call *call);
/* CU_LOGITS of `n` packed tokens, kept[n] on the device, NULL: the n first. */
fh1_status cu_call_logits(cu_call *call, int n, const int *kept);

/* One layer without the norm behind it, CU_X to CU_X. */
fh1_status cu_call_layer(cu_call *call, int64_t layer);

/* Parts of a layer. call_mixer.cu: CU_N to CU_MIXER; what lies between its two products. call_selective.cu: what is
 * Falcon-Mamba's own of that, CU_CONV to CU_DT_RAW, and CU_DT to CU_GATED. call_attention.cu: CU_N to CU_ATTN.
 * call_decode.cu: a whole layer of a fused step, CU_X to CU_X. */
fh1_status cu_call_mixer(cu_call *call, int64_t layer);
fh1_status cu_call_mixer_inner(cu_call *call, int64_t layer);
fh1_status cu_call_selective_proj(cu_call *call, int64_t layer);
fh1_status cu_call_selective_scan(cu_call *call, int64_t layer);
fh1_status cu_call_attention(cu_call *call, int64_t layer);
fh1_status cu_call_attention_inner(cu_call *call, int64_t layer);
fh1_status cu_call_decode_layer(cu_call *call, int64_t layer);

/* x += a·m_a + b·m_b + c·m_c (b and c may be NULL), CU_X. */
struct cu_branches {
    const void *a, *b, *c;
    double m_a, m_b, m_c;
};
fh1_status cu_call_sum(cu_call *call, const cu_branches *s);
/* CU_N times the rows of in_qkv; CU_N to CU_ACT, the latter part from gate | up on. */
fh1_status cu_call_in_proj(cu_call *call, int64_t layer);
fh1_status cu_call_qkv(cu_call *call, int64_t layer);
fh1_status cu_call_gate_up(cu_call *call, int64_t layer);
fh1_status cu_call_act(cu_call *call);
/* CU_N to CU_DOWN. */
fh1_status cu_call_mlp(cu_call *call, int64_t layer);

/* y = R(alpha·(x·W[first .. first+n]ᵀ) + b) over rows of a concatenated weight [ , K]. */
fh1_status cu_call_linear(cu_call *call, int M, const void *x, int64_t K, const void *w, const float *b, int64_t first,
                          int64_t n, double alpha, void *y, int64_t ldy);

/* What the adapter of a product adds to its output y, if there is one: x [M, K] times alpha is its input. */
fh1_status cu_call_adapt(cu_call *call, int64_t layer, fh1_tap_id id, const void *x, int64_t K, double alpha, void *y,
                         int64_t ldy);
/* The same for the lookup: x += m·scale·B·A[:, id]; and for `n` rows h of the head. */
fh1_status cu_call_adapt_embed(cu_call *call, double m, void *x);
fh1_status cu_call_adapt_head(cu_call *call, int n, const void *h, void *logits);

/* inv_freq and rope_scale of a call: the model's, or, where they depend on how long the sequence is, those of this
 * call, which go to `own`. */
fh1_status cu_call_set_rope(cu_call *call, const fh1_cache *cache, cu_buffer *own);

/* What is shown of a stored array: columns `at` .. at+width of its rows. */
struct cu_shown {
    cu_type type;
    void *p;
    int64_t rows, ld, at, width;
    const int64_t *kept; /* logits only */
};

/* Shows a tap to the sink, and takes back what the sink wrote, rounded to the storage type: then *changed becomes true,
 * else it stays as it is. Nothing without a sink. */
fh1_status cu_call_tap(cu_call *call, fh1_tap_id id, int64_t layer, const cu_shown *a, bool *changed = nullptr);

static inline void *cu_part_of(const cu_call *call, cu_part p)
{
    return call->work->part[p].p;
}
static inline void *cu_at(cu_type t, void *p, int64_t elements)
{
    return static_cast<char *>(p) + static_cast<int64_t>(cu_size(t)) * elements;
}
static inline const void *cu_at(cu_type t, const void *p, int64_t elements)
{
    return static_cast<const char *>(p) + static_cast<int64_t>(cu_size(t)) * elements;
}

} // namespace CU_NS
