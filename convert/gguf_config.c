/* config.json for a GGUF file that fh1 did not write: what its keys and tensors say, all multipliers 1, since they are
 * in the weights. It describes the function that stock llama.cpp computes from the file. */
#include "convert/gguf_import.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const cvt_gguf_file *f;
    fh1_status error; /* the first */
} keys;

/* A key that the loader of llama.cpp needs too; `otherwise` >= 0 where it has a default. */
static int64_t need(keys *k, const char *key, int64_t otherwise)
{
    uint64_t v = otherwise >= 0 ? (uint64_t)otherwise : 0;
    if (k->error) return 0;
    if (otherwise < 0 && !cvt_gguf_find_kv(k->f, key))
        k->error = fh1_where(FH1_BAD("the key is missing"), "%s, key \"%s\"", k->f->path, key);
    if (!k->error) k->error = cvt_gguf_get_uint(k->f, key, &v);
    if (!k->error && v > INT32_MAX)
        k->error = cvt_gguf_at(fh1_where(FH1_BAD("the value is out of range"), "key \"%s\"", key), k->f,
                               cvt_gguf_find_kv(k->f, key)->at);
    return k->error ? 0 : (int64_t)v;
}

/* The shortest decimal that is this float: what somebody once typed. */
static const char *shortest(float v, char *buf, size_t size)
{
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(buf, size, "%.*g", digits, (double)v);
        if (strtof(buf, NULL) == v) break;
    }
    return buf;
}

static float need_real(keys *k, const char *key, float otherwise)
{
    float v = otherwise;
    if (k->error) return 0;
    if (isnan(otherwise) && !cvt_gguf_find_kv(k->f, key))
        k->error = fh1_where(FH1_BAD("the key is missing"), "%s, key \"%s\"", k->f->path, key);
    if (!k->error) k->error = cvt_gguf_get_real(k->f, key, &v);
    if (!k->error && !isfinite(v))
        k->error = cvt_gguf_at(fh1_where(FH1_BAD("the value is not finite"), "key \"%s\"", key), k->f,
                               cvt_gguf_find_kv(k->f, key)->at);
    return k->error ? 0 : v;
}

/* default or linear: what the graph of llama.cpp can compute for this architecture. */
static bool is_linear(keys *k)
{
    const char *text = "none";
    uint64_t n = 4;
    if (k->error) return false;
    k->error = cvt_gguf_get_text(k->f, "falcon-h1.rope.scaling.type", &text, &n);
    if (k->error || (n == 4 && memcmp(text, "none", 4) == 0)) return false;
    if (n == 6 && memcmp(text, "linear", 6) == 0) return true;
    k->error = fh1_found(fh1_expected(fh1_where(FH1_BAD("this scaling of rotations is not supported"),
                                                "%s, key \"falcon-h1.rope.scaling.type\"", k->f->path),
                                      "none or linear"),
                         "%.*s", n > 60 ? 60 : (int)n, text);
    return false;
}

static bool has(const cvt_gguf_file *f, const char *tensor)
{
    return cvt_gguf_find_tensor(f, tensor) >= 0;
}

static void add_bool(cvt_text *b, const char *key, bool v)
{
    cvt_text_add(b, "  \"%s\": %s,\n", key, v ? "true" : "false");
}

static void add_int(cvt_text *b, const char *key, int64_t v)
{
    cvt_text_add(b, "  \"%s\": %lld,\n", key, (long long)v);
}

/* A token's number, where the file has one. */
static void add_token(cvt_text *b, keys *k, const char *name, const char *key)
{
    if (cvt_gguf_find_kv(k->f, key)) add_int(b, name, need(k, key, -1));
}

static void add_rope(cvt_text *b, keys *k)
{
    char theta[32], factor[32];
    shortest(need_real(k, "falcon-h1.rope.freq_base", 10000), theta, sizeof theta); /* llama.cpp's default */
    const bool linear = is_linear(k);
    cvt_text_add(b, "  \"rope_parameters\": {\n");
    if (linear)
        cvt_text_add(b, "    \"factor\": %s,\n",
                     shortest(need_real(k, "falcon-h1.rope.scaling.factor", NAN), factor, sizeof factor));
    cvt_text_add(b, "    \"rope_theta\": %s,\n    \"rope_type\": \"%s\"\n  },\n", theta, linear ? "linear" : "default");
}

static void add_mixer(cvt_text *b, keys *k)
{
    const int64_t d = need(k, "falcon-h1.ssm.inner_size", -1), heads = need(k, "falcon-h1.ssm.time_step_rank", -1);
    if (!k->error && (heads < 1 || d % heads != 0))
        k->error = fh1_where(FH1_BAD("%lld heads do not divide the inner size %lld", (long long)heads, (long long)d),
                             "%s, key \"falcon-h1.ssm.time_step_rank\"", k->f->path);
    add_int(b, "mamba_chunk_size", 256);
    add_bool(b, "mamba_conv_bias", true);
    add_int(b, "mamba_d_conv", need(k, "falcon-h1.ssm.conv_kernel", -1));
    add_int(b, "mamba_d_head", heads ? d / heads : 0);
    add_int(b, "mamba_d_ssm", d);
    add_int(b, "mamba_d_state", need(k, "falcon-h1.ssm.state_size", -1));
    add_int(b, "mamba_n_groups", need(k, "falcon-h1.ssm.group_count", -1));
    add_int(b, "mamba_n_heads", heads);
    add_bool(b, "mamba_norm_before_gate", false);
    add_bool(b, "mamba_proj_bias", false);
    add_bool(b, "mamba_rms_norm", has(k->f, "blk.0.ssm_norm.weight"));
}

static const char *type_of_matrices(const cvt_gguf_file *f)
{
    const int64_t t = cvt_gguf_find_tensor(f, "token_embd.weight");
    const uint32_t id = t < 0 ? CVT_GGUF_ID_F32 : f->tensors[t].format->id;
    return id == CVT_GGUF_ID_F16 ? "float16" : id == CVT_GGUF_ID_BF16 ? "bfloat16" : "float32";
}

static void add_all(cvt_text *b, keys *k)
{
    char eps[32];
    const cvt_gguf_file *f = k->f;
    const int64_t heads = need(k, "falcon-h1.attention.head_count", -1);
    const int64_t width = need(k, "falcon-h1.embedding_length", -1);
    const int64_t t = cvt_gguf_find_tensor(f, "token_embd.weight");
    cvt_text_add(b, "{\n  \"architectures\": [\n    \"FalconH1ForCausalLM\"\n  ],\n");
    add_bool(b, "attention_bias", has(f, "blk.0.attn_q.bias"));
    cvt_text_add(b, "  \"attention_in_multiplier\": 1.0,\n  \"attention_out_multiplier\": 1.0,\n");
    add_token(b, k, "bos_token_id", "tokenizer.ggml.bos_token_id");
    cvt_text_add(b, "  \"dtype\": \"%s\",\n  \"embedding_multiplier\": 1.0,\n", type_of_matrices(f));
    add_token(b, k, "eos_token_id", "tokenizer.ggml.eos_token_id");
    cvt_text_add(b, "  \"" CVT_GGUF_FOLDED_KEY "\": true,\n");
    add_int(b, "head_dim", need(k, "falcon-h1.attention.key_length", heads ? width / heads : 0));
    cvt_text_add(b, "  \"hidden_act\": \"silu\",\n");
    add_int(b, "hidden_size", width);
    add_int(b, "intermediate_size", need(k, "falcon-h1.feed_forward_length", -1));
    cvt_text_add(b, "  \"key_multiplier\": 1.0,\n  \"lm_head_multiplier\": 1.0,\n");
    add_mixer(b, k);
    add_int(b, "max_position_embeddings", need(k, "falcon-h1.context_length", -1));
    add_bool(b, "mlp_bias", has(f, "blk.0.ffn_gate.bias"));
    cvt_text_add(b, "  \"mlp_multipliers\": [\n    1.0,\n    1.0\n  ],\n  \"model_type\": \"falcon_h1\",\n");
    add_int(b, "num_attention_heads", heads);
    add_int(b, "num_hidden_layers", need(k, "falcon-h1.block_count", -1));
    add_int(b, "num_key_value_heads", need(k, "falcon-h1.attention.head_count_kv", heads));
    add_token(b, k, "pad_token_id", "tokenizer.ggml.padding_token_id");
    add_bool(b, "projectors_bias", false);
    cvt_text_add(b, "  \"rms_norm_eps\": %s,\n",
                 shortest(need_real(k, "falcon-h1.attention.layer_norm_rms_epsilon", NAN), eps, sizeof eps));
    add_rope(b, k);
    cvt_text_add(b, "  \"ssm_in_multiplier\": 1.0,\n  \"ssm_multipliers\": [\n    1.0,\n    1.0,\n    1.0,\n    1.0,\n"
                    "    1.0\n  ],\n  \"ssm_out_multiplier\": 1.0,\n");
    add_bool(b, "tie_word_embeddings", !has(f, "output.weight"));
    cvt_text_add(b, "  \"vocab_size\": %lld\n}\n", t < 0 ? 0LL : (long long)f->tensors[t].dim[1]);
}

fh1_status cvt_gguf_make_config(const cvt_gguf_file *f, cvt_text *json)
{
    keys k = {f, NULL};
    add_all(json, &k);
    return k.error;
}
