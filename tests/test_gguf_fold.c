/* Folding against an independent witness: a second reader, products in long double from the names in docs/gguf.md.
 * Planted: each of the 14 multipliers wrong by 1 %, which the witness must see, and weights that were folded before. */
#include "oracle/compare.h"
#include "tests/gguf_models.h"

#include <math.h>

/* ---- the witness ---- */

typedef struct {
    const char *gguf, *hf; /* % is the layer */
    int multipliers[2];    /* whose product is folded in, by their place in fourteen(); -1: none; -2: the segments */
} rule;

enum { EMB, LM, KEY, ATTN_IN, ATTN_OUT, SSM_IN, SSM_OUT, GATE, DOWN, SEGMENTS, NONE = -1, BY_SEGMENT = -2 };

static const rule rules[] = {
    {"token_embd.weight", "model.embed_tokens.weight", {EMB, NONE}},
    {"output.weight", "lm_head.weight", {LM, NONE}},
    {"output_norm.weight", "model.final_layernorm.weight", {NONE, NONE}},
    {"blk.%.attn_norm.weight", "model.layers.%.input_layernorm.weight", {NONE, NONE}},
    {"blk.%.attn_q.weight", "model.layers.%.self_attn.q_proj.weight", {ATTN_IN, NONE}},
    {"blk.%.attn_k.weight", "model.layers.%.self_attn.k_proj.weight", {ATTN_IN, KEY}},
    {"blk.%.attn_v.weight", "model.layers.%.self_attn.v_proj.weight", {ATTN_IN, NONE}},
    {"blk.%.attn_output.weight", "model.layers.%.self_attn.o_proj.weight", {ATTN_OUT, NONE}},
    {"blk.%.attn_q.bias", "model.layers.%.self_attn.q_proj.bias", {NONE, NONE}},
    {"blk.%.attn_k.bias", "model.layers.%.self_attn.k_proj.bias", {KEY, NONE}},
    {"blk.%.attn_v.bias", "model.layers.%.self_attn.v_proj.bias", {NONE, NONE}},
    {"blk.%.ssm_in.weight", "model.layers.%.mamba.in_proj.weight", {BY_SEGMENT, SSM_IN}},
    {"blk.%.ssm_conv1d.weight", "model.layers.%.mamba.conv1d.weight", {NONE, NONE}},
    {"blk.%.ssm_conv1d.bias", "model.layers.%.mamba.conv1d.bias", {NONE, NONE}},
    {"blk.%.ssm_dt.bias", "model.layers.%.mamba.dt_bias", {NONE, NONE}},
    {"blk.%.ssm_d", "model.layers.%.mamba.D", {NONE, NONE}},
    {"blk.%.ssm_norm.weight", "model.layers.%.mamba.norm.weight", {NONE, NONE}},
    {"blk.%.ssm_out.weight", "model.layers.%.mamba.out_proj.weight", {SSM_OUT, NONE}},
    {"blk.%.ffn_norm", "model.layers.%.pre_ff_layernorm.weight", {NONE, NONE}},
    {"blk.%.ffn_gate.weight", "model.layers.%.feed_forward.gate_proj.weight", {GATE, NONE}},
    {"blk.%.ffn_up.weight", "model.layers.%.feed_forward.up_proj.weight", {NONE, NONE}},
    {"blk.%.ffn_down.weight", "model.layers.%.feed_forward.down_proj.weight", {DOWN, NONE}},
    {"blk.%.ffn_gate.bias", "model.layers.%.feed_forward.gate_proj.bias", {GATE, NONE}},
    {"blk.%.ffn_up.bias", "model.layers.%.feed_forward.up_proj.bias", {NONE, NONE}},
    {"blk.%.ffn_down.bias", "model.layers.%.feed_forward.down_proj.bias", {DOWN, NONE}},
};

static void fourteen(const fh1_config *c, double *m)
{
    const double v[14] = {c->m_emb,  c->m_lm,   c->m_key,    c->m_attn_in, c->m_attn_out, c->m_ssm_in, c->m_ssm_out,
                          c->m_gate, c->m_down, c->m_ssm[0], c->m_ssm[1],  c->m_ssm[2],   c->m_ssm[3], c->m_ssm[4]};
    memcpy(m, v, sizeof v);
}

static int segment_of(const fh1_config *c, int64_t row)
{
    const int64_t ends[5] = {c->d_ssm, 2 * c->d_ssm, 2 * c->d_ssm + c->G * c->N, 2 * c->d_ssm + 2 * c->G * c->N,
                             2 * c->d_ssm + 2 * c->G * c->N + c->H};
    int k = 0;
    while (row >= ends[k]) k++;
    return k;
}

static long double factor_of(const rule *r, const fh1_config *c, const double *m, int64_t row)
{
    long double f = 1;
    for (int k = 0; k < 2; k++) {
        if (r->multipliers[k] == BY_SEGMENT) f *= m[SEGMENTS + segment_of(c, row)];
        else if (r->multipliers[k] != NONE) f *= m[r->multipliers[k]];
    }
    return f;
}

/* Elements of one tensor that are not the rounded product; -1: neither side has the tensor. */
static int64_t differing(const plain_gguf *g, cvt_ckpt *c, const fh1_config *k, const double *m, const rule *r,
                         int64_t layer)
{
    char name[128], hf[128];
    plain_tensor t;
    const char *at = strchr(r->gguf, '%'), *hf_at = strchr(r->hf, '%');
    if (!at) snprintf(name, sizeof name, "%s", r->gguf);
    else snprintf(name, sizeof name, "%.*s%d%s", (int)(at - r->gguf), r->gguf, (int)layer, at + 1);
    if (!hf_at) snprintf(hf, sizeof hf, "%s", r->hf);
    else snprintf(hf, sizeof hf, "%.*s%d%s", (int)(hf_at - r->hf), r->hf, (int)layer, hf_at + 1);
    const int64_t i =
        cvt_ckpt_find(c, k->tied && !at && strcmp(hf, "lm_head.weight") == 0 ? "model.embed_tokens.weight" : hf);
    const bool there = plain_tensor_find(g, name, &t);
    if (i < 0 && there) ck_assert_msg(strstr(name, "conv1d.bias"), "%s comes from nowhere", name);
    ck_assert_msg(i < 0 || there, "%s is missing", name);
    if (!there || i < 0) return -1;
    const fh1_dtype d = c->tensors[i].dtype;
    const size_t n_bytes = cvt_ckpt_tensor_bytes(&c->tensors[i]);
    const int64_t n = (int64_t)n_bytes * 8 / fh1_dtype_bits(d), cols = n / c->tensors[i].shape[0];
    void *raw = malloc(n_bytes);
    int64_t count = 0;
    ck_assert_uint_eq(t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3], (uint64_t)n);
    expect_ok(cvt_ckpt_read(c, i, 0, n_bytes, raw), hf);
    const fh1_tensor w = fh1_view1(raw, d, n), v = fh1_view1((void *)(uintptr_t)t.data,
                                                             t.type == 0   ? FH1_F32
                                                             : t.type == 1 ? FH1_F16
                                                                           : FH1_BF16,
                                                             n);
    for (int64_t e = 0; e < n; e++) {
        const double want = (double)((long double)fh1_get(&w, e) * factor_of(r, k, m, e / cols)), got = fh1_get(&v, e);
        /* Half an ulp, and the little by which the product in f64 is rounded before. */
        count += !fh1_within(fabs(got - want), 0.500001 * fh1_dtype_ulp(v.dtype, want));
    }
    free(raw);
    return count;
}

static int64_t all_differing(const plain_gguf *g, cvt_ckpt *c, const fh1_config *k, const double *m)
{
    int64_t count = 0, seen = 0;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (int64_t layer = 0; layer < (strchr(rules[i].gguf, '%') ? k->n_layers : 1); layer++) {
            const int64_t d = differing(g, c, k, m, &rules[i], layer);
            if (d < 0) continue;
            count += d;
            seen++;
        }
    /* A and, without a bias of its own, the zeros of the convolution are the only others. */
    ck_assert_int_eq((int64_t)g->n_tensors, seen + k->n_layers * (k->mamba_conv_bias ? 1 : 2));
    return count;
}

/* A = -exp(A_log) for all heads of all layers. */
static void expect_decays(const plain_gguf *g, cvt_ckpt *c, const fh1_config *k)
{
    for (int64_t layer = 0; layer < k->n_layers; layer++) {
        char name[64];
        plain_tensor t;
        float log_of[512], a;
        unsigned char raw[2048];
        snprintf(name, sizeof name, "model.layers.%d.mamba.A_log", (int)layer);
        const int64_t i = cvt_ckpt_find(c, name);
        expect_ok(cvt_ckpt_read(c, i, 0, cvt_ckpt_tensor_bytes(&c->tensors[i]), raw), name);
        fh1_to_f32(log_of, raw, c->tensors[i].dtype, k->H);
        snprintf(name, sizeof name, "blk.%d.ssm_a", (int)layer);
        ck_assert_msg(plain_tensor_find(g, name, &t), "%s", name);
        ck_assert(t.type == 0 && t.n_dims == 2 && t.dim[0] == 1 && t.dim[1] == (uint64_t)k->H);
        for (int64_t h = 0; h < k->H; h++) {
            memcpy(&a, t.data + 4 * h, 4);
            const long double want = -expl((long double)log_of[h]);
            ck_assert(
                fh1_within((double)fabsl((long double)a - want), 0.500001 * fh1_dtype_ulp(FH1_F32, (double)want)));
        }
    }
}

static void expect_folded(const char *model, const char *dir, cvt_gguf_type type)
{
    static fh1_config k;
    char path[512];
    double m[14];
    cvt_ckpt *c = open_model(model);
    expect_ok(cvt_ckpt_config(c, &k), model);
    path_in(path, sizeof path, dir, "f.gguf");
    expect_ok(cvt_gguf_write(c, path, type, &forced), path);
    plain_gguf g = plain_open(dir, "f.gguf");
    fourteen(&k, m);
    ck_assert_msg(all_differing(&g, c, &k, m) == 0, "%s: a tensor is folded wrongly", model);
    for (int i = 0; i < 14; i++) {
        fourteen(&k, m);
        m[i] *= 1.01;
        ck_assert_msg(all_differing(&g, c, &k, m) > 0, "%s: multiplier %d is nowhere", model, i);
    }
    expect_decays(&g, c, &k);
    cvt_ckpt_close(c);
    free(g.b);
}

START_TEST(every_tensor_is_folded_once)
{
    char dir[256], path[512];
    scratch_new(dir, sizeof dir);
    expect_folded("golden/models/mini-34b", dir, CVT_GGUF_F32);
    expect_folded("golden/models/mini-34b", dir, CVT_GGUF_F16);
    expect_folded("golden/models/mini-0.5b-bf16", dir, CVT_GGUF_F32);
    expect_folded("golden/models/mini-0.5b-bf16", dir, CVT_GGUF_KEEP);
    make_model(dir, "biased", FH1_F32, biased);
    path_in(path, sizeof path, dir, "biased");
    char target[512];
    path_in(target, sizeof target, dir, "refused.gguf");
    cvt_ckpt *c = open_model(path);
    expect_error(cvt_gguf_write(c, target, CVT_GGUF_F32, &forced), FH1_E_INPUT, "o_proj.bias", "o bias");
    cvt_ckpt_close(c);
    zero_tensors(dir, "biased", "o_proj.bias");
    expect_folded(path, dir, CVT_GGUF_F32);
    make_model(dir, "tied", FH1_F16, tied);
    path_in(path, sizeof path, dir, "tied");
    expect_folded(path, dir, CVT_GGUF_F32);
    scratch_remove(dir);
}
END_TEST

START_TEST(keys_and_types_are_llama_cpps)
{
    char dir[256], path[512];
    plain_tensor t;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    export_as("golden/models/mini-34b-bf16", path, CVT_GGUF_KEEP);
    plain_gguf g = plain_open(dir, "f.gguf");
    expect_text(&g, "general.architecture", "falcon-h1");
    expect_text(&g, "tokenizer.ggml.model", "none");
    expect_uint(&g, "general.file_type", 32);
    expect_uint(&g, "falcon-h1.block_count", 3);
    expect_uint(&g, "falcon-h1.vocab_size", 104);
    expect_uint(&g, "falcon-h1.context_length", 16384);
    expect_uint(&g, "falcon-h1.attention.key_length", 8);
    expect_uint(&g, "falcon-h1.ssm.time_step_rank", 4);
    expect_uint(&g, "falcon-h1.ssm.group_count", 2);
    expect_float(&g, "falcon-h1.attention.layer_norm_rms_epsilon", 1e-5);
    expect_float(&g, "falcon-h1.rope.freq_base", 1e11);
    ck_assert(plain_tensor_find(&g, "blk.0.attn_q.weight", &t) && t.type == 30);
    ck_assert(plain_tensor_find(&g, "blk.0.ssm_conv1d.weight", &t) && t.type == 0 && t.dim[0] == 4 && t.dim[1] == 88);
    ck_assert(plain_tensor_find(&g, "blk.0.ssm_norm.weight", &t) && t.type == 0 && t.dim[0] == 24 && t.dim[1] == 2);
    ck_assert(plain_tensor_find(&g, "blk.2.ffn_norm", &t) && t.type == 0);
    ck_assert(!plain_tensor_find(&g, "blk.2.ffn_norm.weight", &t));
    free(g.b);
    scratch_remove(dir);
}
END_TEST

START_TEST(what_is_folded_is_not_folded_again)
{
    char dir[256], path[512];
    cvt_ckpt *c;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    expect_ok(cvt_ckpt_view(open_model("golden/models/mini-0.5b"), &c), "a view");
    expect_ok(cvt_ckpt_set_meta(c, "fh1.folded", "true"), "marked");
    expect_error(cvt_gguf_write(c, path, CVT_GGUF_F32, &forced), FH1_E_INPUT, "twice", "marked in the metadata");
    expect_ok(cvt_ckpt_set_meta(c, "fh1.folded", NULL), "not marked");
    expect_ok(cvt_ckpt_edit_config(c, "fh1_folded", "true"), "marked");
    expect_error(cvt_gguf_write(c, path, CVT_GGUF_F32, &forced), FH1_E_INPUT, "twice", "marked in the config");
    expect_ok(cvt_ckpt_edit_config(c, "fh1_folded", "false"), "not marked");
    expect_ok(cvt_gguf_write(c, path, CVT_GGUF_F32, &forced), "not marked");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_tensor_is_folded_once, keys_and_types_are_llama_cpps,
                                  what_is_folded_is_not_folded_again};
    return run_tests("gguf_fold", tests, sizeof tests / sizeof *tests);
}
