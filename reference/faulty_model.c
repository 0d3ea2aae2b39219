#include "reference/faulty_model.h"

#include "reference/faulty_mixer_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void swap(double *a, double *b)
{
    const double t = *a;
    *a = *b;
    *b = t;
}

static void swap_tensors(fh1_tensor *a, fh1_tensor *b)
{
    const fh1_tensor t = *a;
    *a = *b;
    *b = t;
}

static double bf16(double v)
{
    return fh1_round_f64(FH1_ROUND_BF16, v);
}

/* -- the config: each returns whether the fault is one of its edits ------------------------------ */

static void each_multiplier(fh1_config *c, double (*edit)(double), bool mixer_too)
{
    double *const all[] = {&c->m_emb, &c->m_lm, &c->m_key, &c->m_attn_in, &c->m_attn_out, &c->m_gate, &c->m_down};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i) *all[i] = edit(*all[i]);
    if (!mixer_too) return;
    c->m_ssm_in = edit(c->m_ssm_in);
    c->m_ssm_out = edit(c->m_ssm_out);
    for (int i = 0; i < 5; ++i) c->m_ssm[i] = edit(c->m_ssm[i]);
}

static double one(double v)
{
    return v * 0 + 1;
}

static bool edit_multipliers(fh1_fault f, fh1_config *c)
{
    switch ((int)f) {
    case FH1_FAULT_KEY_MULTIPLIER_TWICE: c->m_key *= c->m_key; return true;
    case FH1_FAULT_EMBEDDING_MULTIPLIER_DROPPED: c->m_emb = 1; return true;
    case FH1_FAULT_EMBEDDING_MULTIPLIER_TWICE: c->m_emb *= c->m_emb; return true;
    case FH1_FAULT_EMBEDDING_SCALED_BY_ROOT_D: c->m_emb = sqrt((double)c->D); return true;
    case FH1_FAULT_EMBEDDING_AND_HEAD_MULTIPLIERS_SWAPPED: swap(&c->m_emb, &c->m_lm); return true;
    case FH1_FAULT_HEAD_MULTIPLIER_DROPPED: c->m_lm = 1; return true;
    case FH1_FAULT_HEAD_MULTIPLIER_TWICE: c->m_lm *= c->m_lm; return true;
    case FH1_FAULT_HEAD_MULTIPLIER_DIVIDES: c->m_lm = 1 / c->m_lm; return true;
    case FH1_FAULT_TIED_HEAD_SCALED_AS_EMBEDDING: c->m_lm *= c->tied ? c->m_emb : 1; return true;
    case FH1_FAULT_ATTENTION_IN_MULTIPLIER_DROPPED: c->m_attn_in = 1; return true;
    case FH1_FAULT_ATTENTION_IN_MULTIPLIER_TWICE: c->m_attn_in *= c->m_attn_in; return true;
    case FH1_FAULT_ATTENTION_OUT_MULTIPLIER_DROPPED: c->m_attn_out = 1; return true;
    case FH1_FAULT_ATTENTION_OUT_MULTIPLIER_TWICE: c->m_attn_out *= c->m_attn_out; return true;
    case FH1_FAULT_ATTENTION_OUT_ON_BOTH_BRANCHES: c->m_ssm_out = c->m_attn_out; return true;
    case FH1_FAULT_BRANCH_OUT_MULTIPLIERS_SWAPPED: swap(&c->m_attn_out, &c->m_ssm_out); return true;
    case FH1_FAULT_BRANCH_IN_MULTIPLIERS_SWAPPED: swap(&c->m_attn_in, &c->m_ssm_in); return true;
    case FH1_FAULT_ATTENTION_MULTIPLIERS_MIXED_UP: c->m_attn_in = c->m_attn_out; return true;
    case FH1_FAULT_MLP_MULTIPLIERS_DROPPED: c->m_gate = c->m_down = 1; return true;
    case FH1_FAULT_MLP_MULTIPLIERS_SWAPPED: swap(&c->m_gate, &c->m_down); return true;
    case FH1_FAULT_GATE_MULTIPLIER_TWICE: c->m_gate *= c->m_gate; return true;
    case FH1_FAULT_DOWN_MULTIPLIER_DROPPED: c->m_down = 1; return true;
    case FH1_FAULT_DOWN_MULTIPLIER_TWICE: c->m_down *= c->m_down; return true;
    case FH1_FAULT_MULTIPLIERS_ALL_ONE: each_multiplier(c, one, true); return true;
    case FH1_FAULT_MULTIPLIERS_IN_BF16: each_multiplier(c, bf16, false); return true;
    case FH1_FAULT_ATTENTION_BRANCH_DROPPED: c->m_attn_out = 0; return true;
    case FH1_FAULT_MIXER_BRANCH_DROPPED: c->m_ssm_out = 0; return true;
    case FH1_FAULT_BRANCHES_AVERAGED:
        c->m_attn_out /= 2;
        c->m_ssm_out /= 2;
        return true;
    default: return false;
    }
}

/* A port that does not know this type of scaling. */
static bool unscaled(fh1_rope *r, fh1_rope_type type)
{
    if (r->type == type) r->type = FH1_ROPE_DEFAULT;
    return true;
}

static bool edit_constants(fh1_fault f, fh1_config *c)
{
    fh1_rope *r = &c->rope;
    switch ((int)f) {
    case FH1_FAULT_NORM_EPS_MISSING: c->eps = 0; return true;
    case FH1_FAULT_NORM_EPS_TENTH: c->eps /= 10; return true;
    case FH1_FAULT_NORM_EPS_ON_SUM: c->eps /= (double)c->D; return true;
    case FH1_FAULT_ROPE_THETA_10000: r->theta = 1e4; return true;
    case FH1_FAULT_ROPE_THETA_CLASS_DEFAULT: *r = (fh1_rope){.theta = 1e5}; return true;
    case FH1_FAULT_ROPE_THETA_IN_BF16: r->theta = bf16(r->theta); return true;
    case FH1_FAULT_ROPE_THETA_IN_F16: r->theta = fh1_round_f64(FH1_ROUND_F16, r->theta); return true;
    case FH1_FAULT_ROPE_THETA_AS_INT32: r->theta = fmod(r->theta, 0x1p32); return true;
    case FH1_FAULT_ROPE_FREQUENCIES_UNINITIALISED: r->theta = (double)NAN; return true;
    case FH1_FAULT_ROPE_EXPONENT_HALVED: r->theta = sqrt(r->theta); return true;
    case FH1_FAULT_ROPE_WIDTH_FROM_HIDDEN: r->theta = pow(r->theta, (double)(c->A * c->Hq) / (double)c->D); return true;
    case FH1_FAULT_ROPE_LINEAR_FACTOR_IGNORED: return unscaled(r, FH1_ROPE_LINEAR);
    case FH1_FAULT_ROPE_LLAMA3_FACTOR_IGNORED: return unscaled(r, FH1_ROPE_LLAMA3);
    case FH1_FAULT_ROPE_YARN_FACTOR_IGNORED: return unscaled(r, FH1_ROPE_YARN);
    case FH1_FAULT_ROPE_DYNAMIC_NEVER_GROWS: return unscaled(r, FH1_ROPE_DYNAMIC);
    case FH1_FAULT_ROPE_YARN_SCALE_DROPPED: r->attention_factor = 1; return true;
    case FH1_FAULT_ROPE_YARN_SCALE_TWICE: r->attention_factor = pow(0.1 * log(r->factor) + 1, 2); return true;
    case FH1_FAULT_ROPE_LONGROPE_STAYS_SHORT: r->long_factor = r->short_factor; return true;
    default: return false;
    }
}

/* -- the weights --------------------------------------------------------------------------------- */

/* Makes *t a copy in f32 of its own, to be edited. */
static fh1_status own(ref_edited_model *e, fh1_tensor *t)
{
    const size_t n = (size_t)fh1_n_elems(t);
    void **block = malloc(64 + n * sizeof(float));
    if (!block) return fh1_no_memory(n * sizeof(float), "a weight with a planted fault");
    block[0] = e->owned;
    e->owned = block;
    float *data = (float *)(void *)((char *)block + 64);
    fh1_to_f32(data, t->data, t->dtype, (int64_t)n);
    t->data = data;
    t->dtype = FH1_F32;
    return NULL;
}

/* w = w·factor + term in rows [begin, end) of the first axis; a weight that the model lacks stays absent. */
static fh1_status scale(ref_edited_model *e, fh1_tensor *t, int64_t begin, int64_t end, double factor, double term)
{
    if (!t->data) return NULL;
    FH1_TRY(own(e, t));
    const int64_t width = fh1_n_elems(t) / t->shape[0];
    float *w = t->data;
    for (int64_t i = begin * width; i < end * width; ++i) w[i] = (float)((double)w[i] * factor + term);
    return NULL;
}

static fh1_status scale_all(ref_edited_model *e, fh1_tensor *t, double factor, double term)
{
    return scale(e, t, 0, t->shape[0], factor, term);
}

fh1_status ref_edit_scale(ref_edited_model *e, fh1_tensor *t, double factor, double term)
{
    return scale_all(e, t, factor, term);
}

/* Rows of each head from halves to pairs: row i of the first half becomes row 2i, of the second 2i + 1. A weight that
 * the model lacks stays absent. */
static fh1_status interleave(ref_edited_model *e, fh1_tensor *t, int64_t A)
{
    if (!t->data) return NULL;
    const fh1_tensor from = *t;
    const int64_t D = t->shape[1];
    FH1_TRY(own(e, t));
    float *w = t->data;
    for (int64_t r = 0; r < t->shape[0]; ++r) {
        const int64_t i = r % A, source = r - i + (i % 2 ? A / 2 : 0) + i / 2;
        const fh1_tensor row =
            fh1_view1((char *)from.data + (size_t)(source * D * (fh1_dtype_bits(from.dtype) / 8)), from.dtype, D);
        fh1_to_f32(w + r * D, row.data, row.dtype, D);
    }
    return NULL;
}

static fh1_status edit_layer(fh1_fault f, ref_edited_model *e, int64_t i, bool *edited)
{
    const fh1_config *c = &e->copy.config;
    fh1_layer *l = &e->layers[i];
    *edited = true;
    switch ((int)f) {
    case FH1_FAULT_VALUES_WITHOUT_ATTENTION_IN: return scale_all(e, &l->v_w, 1 / c->m_attn_in, 0);
    case FH1_FAULT_NORM_WEIGHT_DROPPED: return scale_all(e, &l->input_layernorm, 0, 1);
    case FH1_FAULT_PRE_FF_NORM_WEIGHT_MISSING: return scale_all(e, &l->pre_ff_layernorm, 0, 1);
    case FH1_FAULT_NORM_WEIGHT_PLUS_ONE: return scale_all(e, &l->input_layernorm, 1, 1);
    case FH1_FAULT_NORM_SUM_FOR_MEAN: return scale_all(e, &l->input_layernorm, 1 / sqrt((double)c->D), 0);
    case FH1_FAULT_LAYER_NORMS_SWAPPED:
        if (l->pre_ff_layernorm.data) swap_tensors(&l->input_layernorm, &l->pre_ff_layernorm);
        return NULL;
    case FH1_FAULT_ATTN_LAYERNORM_SHARED:
        if (l->attn_layernorm.data) l->attn_layernorm = l->input_layernorm;
        return NULL;
    case FH1_FAULT_QK_ROWS_INTERLEAVED: FH1_TRY(interleave(e, &l->q_w, c->A)); return interleave(e, &l->k_w, c->A);
    case FH1_FAULT_K_AND_V_SWAPPED:
        swap_tensors(&l->k_w, &l->v_w);
        swap_tensors(&l->k_b, &l->v_b);
        return NULL;
    case FH1_FAULT_QKV_BIAS_IGNORED: l->q_b.data = l->k_b.data = l->v_b.data = NULL; return NULL;
    case FH1_FAULT_O_PROJ_BIAS_IGNORED: l->o_b.data = NULL; return NULL;
    case FH1_FAULT_QK_BIAS_SCALED:
        FH1_TRY(scale_all(e, &l->q_b, c->m_attn_in, 0));
        return scale_all(e, &l->k_b, c->m_attn_in, 0);
    case FH1_FAULT_GATE_AND_UP_SWAPPED:
        swap_tensors(&l->gate_w, &l->up_w);
        swap_tensors(&l->gate_b, &l->up_b);
        return NULL;
    case FH1_FAULT_MLP_BIAS_IGNORED: l->gate_b.data = l->up_b.data = NULL; return NULL;
    case FH1_FAULT_DOWN_BIAS_IGNORED: l->down_b.data = NULL; return NULL;
    case FH1_FAULT_ONE_ROW_SCALED: return i == 1 ? scale(e, &l->down_w, 0, 1, 1.01, 0) : NULL;
    case FH1_FAULT_LAYER_0_FOR_ALL: *l = e->layers[0]; return NULL;
    case FH1_FAULT_LAYERS_SWAPPED:
        if (i == 1) {
            const fh1_layer first = e->layers[0];
            e->layers[0] = *l;
            *l = first;
        }
        return NULL;
    default: return ref_edit_mixer_layer(f, e, l, edited);
    }
}

/* What is neither config nor layer. */
static fh1_status edit_ends(fh1_fault f, ref_edited_model *e, bool *edited)
{
    *edited = true;
    if (f == FH1_FAULT_HEAD_TIED_TO_EMBEDDING) e->copy.lm_head = e->copy.embed;
    else if (f == FH1_FAULT_TIED_HEAD_LEFT_EMPTY)
        return e->copy.config.tied ? scale_all(e, &e->copy.lm_head, 0, 0) : NULL;
    else if (f == FH1_FAULT_FINAL_NORM_WEIGHT_DROPPED) return scale_all(e, &e->copy.final_layernorm, 0, 1);
    else *edited = false;
    return NULL;
}

static fh1_status edit_layers(fh1_fault f, ref_edited_model *e, bool *edited)
{
    const int64_t n = e->copy.config.n_layers;
    const size_t bytes = (size_t)n * sizeof *e->layers;
    if (!(e->layers = malloc(bytes))) return fh1_no_memory(bytes, "the layers of a faulty model");
    memcpy(e->layers, e->copy.layers, bytes);
    e->copy.layers = e->layers;
    *edited = false;
    for (int64_t i = 0; i < n && (i == 0 || *edited); ++i) FH1_TRY(edit_layer(f, e, i, edited));
    return NULL;
}

fh1_status ref_edited_model_new(fh1_fault f, const fh1_model *m, ref_edited_model *out)
{
    *out = (ref_edited_model){.model = m, .copy = *m};
    if (f == FH1_FAULT_NONE) return NULL;
    fh1_config_copy(&out->copy.config, &m->config);
    bool edited = edit_multipliers(f, &out->copy.config) || edit_constants(f, &out->copy.config) ||
                  ref_edit_mixer_config(f, &out->copy.config);
    if (!edited) FH1_TRY(edit_ends(f, out, &edited));
    if (!edited) FH1_TRY(edit_layers(f, out, &edited));
    if (edited) out->model = &out->copy;
    return NULL;
}

void ref_edited_model_free(ref_edited_model *e)
{
    while (e->owned) {
        void *next = *(void **)e->owned;
        free(e->owned);
        e->owned = next;
    }
    free(e->layers);
    memset(e, 0, sizeof *e);
}
