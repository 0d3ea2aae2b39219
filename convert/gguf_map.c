#include "convert/gguf_map.h"

#include "convert/fault.h"

#include "oracle/clones.h"
#include "oracle/tensor.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_TENSORS 32 /* at most */

typedef struct {
    const fh1_config *c;
    cvt_gguf_map *map;
    int64_t layer;
} builder;

/* The next entry: a tensor of the shape [a, b], or [a] where b is 0. `%` in names is the layer's number. */
static cvt_gguf_entry *add(builder *b, const char *name, const char *hf, int64_t rows, int64_t cols)
{
    cvt_gguf_entry *e = &b->map->at[b->map->n++];
    *e = (cvt_gguf_entry){.rank = cols ? 2 : 1, .shape = {rows, cols}, .rows = rows, .cols = cols ? cols : 1};
    const char *at = strchr(name, '%');
    if (at) snprintf(e->name, sizeof e->name, "%.*s%lld%s", (int)(at - name), name, (long long)b->layer, at + 1);
    else snprintf(e->name, sizeof e->name, "%s", name);
    at = strchr(hf, '%');
    if (at) snprintf(e->hf, sizeof e->hf, "%.*s%lld%s", (int)(at - hf), hf, (long long)b->layer, at + 1);
    else snprintf(e->hf, sizeof e->hf, "%s", hf);
    e->n_dims = e->rank;
    e->dim[0] = cols ? cols : rows;
    e->dim[1] = cols ? rows : 1;
    e->matrix = cols != 0;
    e->n_factors = 1;
    e->until[0] = rows;
    e->factor[0] = 1;
    return e;
}

static double faulty_factor(const char *hf, double factor)
{
    uint16_t narrow;
    if (CVT_FAULT(MLP_FOLD_MATCHES_NOTHING) && strstr(hf, "feed_forward.")) return 1;
    if (!CVT_FAULT(FACTORS_IN_BF16)) return factor;
    fh1_from_f64(&narrow, FH1_BF16, &factor, 1);
    fh1_to_f64(&factor, &narrow, FH1_BF16, 1);
    return factor;
}

static void scaled(builder *b, const char *name, const char *hf, int64_t rows, int64_t cols, double factor)
{
    add(b, name, hf, rows, cols)->factor[0] = faulty_factor(hf, factor);
}

static void add_attention(builder *b)
{
    const fh1_config *c = b->c;
    const int64_t q = c->Hq * c->A, kv = c->Hkv * c->A;
    scaled(b, "blk.%.attn_q.weight", "model.layers.%.self_attn.q_proj.weight", q, c->D, c->m_attn_in);
    scaled(b, "blk.%.attn_k.weight", "model.layers.%.self_attn.k_proj.weight", kv, c->D,
           c->m_attn_in * (CVT_FAULT(KEY_FOLD_MATCHES_NOTHING) ? 1 : c->m_key));
    scaled(b, "blk.%.attn_v.weight", "model.layers.%.self_attn.v_proj.weight", kv, c->D, c->m_attn_in);
    scaled(b, "blk.%.attn_output.weight", "model.layers.%.self_attn.o_proj.weight", c->D, q, c->m_attn_out);
    if (!c->attention_bias) return;
    scaled(b, "blk.%.attn_q.bias", "model.layers.%.self_attn.q_proj.bias", q, 0, 1);
    scaled(b, "blk.%.attn_k.bias", "model.layers.%.self_attn.k_proj.bias", kv, 0, c->m_key);
    scaled(b, "blk.%.attn_v.bias", "model.layers.%.self_attn.v_proj.bias", kv, 0, 1);
    scaled(b, "", "model.layers.%.self_attn.o_proj.bias", c->D, 0, c->m_attn_out);
}

static void add_mixer(builder *b)
{
    const fh1_config *c = b->c;
    const int64_t conv = fh1_conv_dim(c), gn = c->G * c->N;
    cvt_gguf_entry *e = add(b, "blk.%.ssm_in.weight", "model.layers.%.mamba.in_proj.weight", fh1_in_proj_dim(c), c->D);
    const int64_t width[5] = {c->d_ssm, c->d_ssm, gn, gn, c->H}; /* z, x, B, C, dt */
    e->n_factors = 5;
    for (int k = 0; k < 5; k++) {
        e->until[k] = (k ? e->until[k - 1] : 0) + width[k];
        e->factor[k] = c->m_ssm_in * (CVT_FAULT(SEGMENTS_FOLDED_AS_ONE) ? 1 : c->m_ssm[k]);
    }
    e = add(b, "blk.%.ssm_conv1d.weight", "model.layers.%.mamba.conv1d.weight", conv, c->K);
    e->rank = 3; /* [c, 1, K] */
    e->shape[1] = 1;
    e->shape[2] = c->K;
    e->matrix = false;
    add(b, "blk.%.ssm_conv1d.bias", c->mamba_conv_bias ? "model.layers.%.mamba.conv1d.bias" : "", conv, 0);
    add(b, "blk.%.ssm_dt.bias", "model.layers.%.mamba.dt_bias", c->H, 0);
    for (int k = 0; k < 2; k++) {
        e = add(b, k ? "blk.%.ssm_d" : "blk.%.ssm_a", k ? "model.layers.%.mamba.D" : "model.layers.%.mamba.A_log", c->H,
                0);
        e->n_dims = 2;
        e->dim[0] = 1;
        e->dim[1] = c->H;
        if (k == 0) e->fold = CVT_GGUF_NEG_EXP;
    }
    if (c->mamba_rms_norm) {
        e = add(b, "blk.%.ssm_norm.weight", "model.layers.%.mamba.norm.weight", c->d_ssm, 0);
        e->n_dims = 2;
        e->dim[0] = c->d_ssm / c->G;
        e->dim[1] = c->G;
    }
    scaled(b, "blk.%.ssm_out.weight", "model.layers.%.mamba.out_proj.weight", c->D, c->d_ssm, c->m_ssm_out);
    if (c->mamba_proj_bias) add(b, "", "model.layers.%.mamba.in_proj.bias", fh1_in_proj_dim(c), 0);
    if (c->projectors_bias) add(b, "", "model.layers.%.mamba.out_proj.bias", c->D, 0);
}

static void add_mlp(builder *b)
{
    const fh1_config *c = b->c;
    add(b, "blk.%.ffn_norm", "model.layers.%.pre_ff_layernorm.weight", c->D, 0); /* no suffix: llama.cpp's name */
    scaled(b, "blk.%.ffn_gate.weight", "model.layers.%.feed_forward.gate_proj.weight", c->F, c->D, c->m_gate);
    scaled(b, "blk.%.ffn_up.weight", "model.layers.%.feed_forward.up_proj.weight", c->F, c->D, 1);
    scaled(b, "blk.%.ffn_down.weight", "model.layers.%.feed_forward.down_proj.weight", c->D, c->F, c->m_down);
    if (!c->mlp_bias) return;
    scaled(b, "blk.%.ffn_gate.bias", "model.layers.%.feed_forward.gate_proj.bias", c->F, 0, c->m_gate);
    scaled(b, "blk.%.ffn_up.bias", "model.layers.%.feed_forward.up_proj.bias", c->F, 0, 1);
    scaled(b, "blk.%.ffn_down.bias", "model.layers.%.feed_forward.down_proj.bias", c->D, 0, c->m_down);
}

fh1_status cvt_gguf_map_new(const fh1_config *c, cvt_gguf_map *out)
{
    const size_t most = (size_t)c->n_layers * LAYER_TENSORS + 3;
    *out = (cvt_gguf_map){calloc(most, sizeof *out->at), 0};
    if (!out->at) return fh1_no_memory(most * sizeof *out->at, "the tensors of a GGUF file");
    builder b = {c, out, 0};
    scaled(&b, "token_embd.weight", "model.embed_tokens.weight", c->V, c->D, c->m_emb);
    for (b.layer = 0; b.layer < c->n_layers; b.layer++) {
        add(&b, "blk.%.attn_norm.weight", "model.layers.%.input_layernorm.weight", c->D, 0);
        add_attention(&b);
        add_mixer(&b);
        add_mlp(&b);
    }
    add(&b, "output_norm.weight", "model.final_layernorm.weight", c->D, 0);
    scaled(&b, "output.weight", c->tied ? "model.embed_tokens.weight" : "lm_head.weight", c->V, c->D,
           c->tied && CVT_FAULT(TIED_HEAD_FOLDED_AS_EMBEDDING) ? c->m_emb : c->m_lm);
    return NULL;
}

/* The end of the run of rows from `row` on that share a factor. */
static int64_t run_of(const cvt_gguf_entry *e, int64_t row, double *factor)
{
    int k = 0;
    while (k + 1 < e->n_factors && row >= e->until[k]) k++;
    *factor = e->factor[k];
    return e->until[k];
}

FH1_CLONES static void multiply(double *v, int64_t n, double m)
{
    for (int64_t i = 0; i < n; i++) v[i] *= m;
}

FH1_CLONES static void divide(double *v, int64_t n, double m)
{
    for (int64_t i = 0; i < n; i++) v[i] /= m;
}

void cvt_gguf_fold_rows(const cvt_gguf_entry *e, int64_t first, int64_t n, double *v)
{
    if (e->fold == CVT_GGUF_NEG_EXP) {
        for (int64_t i = 0; i < n * e->cols; i++) v[i] = -exp(v[i]);
        return;
    }
    for (int64_t row = first, end; row < first + n; row = end) {
        double m;
        end = run_of(e, row, &m);
        if (end > first + n) end = first + n;
        if (m != 1) multiply(v + (row - first) * e->cols, (end - row) * e->cols, m);
    }
}

void cvt_gguf_unfold_rows(const cvt_gguf_entry *e, int64_t first, int64_t n, double *v)
{
    if (e->fold == CVT_GGUF_NEG_EXP) {
        for (int64_t i = 0; i < n * e->cols; i++) v[i] = log(-v[i]);
        return;
    }
    for (int64_t row = first, end; row < first + n; row = end) {
        double m;
        end = run_of(e, row, &m);
        if (end > first + n) end = first + n;
        if (m != 1) divide(v + (row - first) * e->cols, (end - row) * e->cols, m);
    }
}

bool cvt_gguf_factor_is_one(const cvt_gguf_entry *e)
{
    bool one = e->fold == CVT_GGUF_SCALE;
    for (int k = 0; k < e->n_factors; k++) one &= e->factor[k] == 1;
    return one;
}
