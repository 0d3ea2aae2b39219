#include "fuzz/slow_config.h"

#include "fuzz/plant.h"
#include "fuzz/slow_rules.h"
#include "fuzz/slow_value.h"

#include <math.h>

bool slow_json_same(const slow_json *a, const slow_json *b)
{
    if (a->kind != b->kind || a->n != b->n) return false;
    if (a->kind == SLOW_NUMBER) return slow_json_double(a) == slow_json_double(b);
    if (a->kind == SLOW_STRING) return strcmp(a->text, b->text) == 0;
    const slow_json *y = b->first;
    for (const slow_json *x = a->first; x; x = x->next, y = y->next) {
        const slow_json *other = a->kind == SLOW_OBJECT ? slow_json_member(b, x->name) : y;
        if (!other || !slow_json_same(x, other)) return false;
    }
    return true;
}

/* ---- the keys of the model ---- */

static bool read_sizes(const slow_json *o, fh1_config *c)
{
    double expand;
    if (!size(o, "hidden_size", &c->D) || !size(o, "vocab_size", &c->V) || !size(o, "intermediate_size", &c->F) ||
        !size(o, "num_attention_heads", &c->Hq) || !size(o, "num_key_value_heads", &c->Hkv) ||
        !size(o, "head_dim", &c->A) || !size(o, "mamba_n_heads", &c->H) || !size(o, "mamba_n_groups", &c->G) ||
        !size(o, "mamba_d_state", &c->N) || !size(o, "mamba_d_conv", &c->K) || !size(o, "mamba_chunk_size", &c->Q))
        return false;
    if (!is_integer(value(o, "num_hidden_layers"), 1, 16384, &c->n_layers)) return false;
    if (value(o, "mamba_d_ssm") || !value(o, "mamba_expand")) {
        if (!size(o, "mamba_d_ssm", &c->d_ssm)) return false;
    } else {
        if (!number(o, "mamba_expand", &expand)) return false;
        expand *= (double)c->D;
        if (expand < 1 || expand > (double)MOST_SIZE) return false;
        c->d_ssm = (int64_t)floor(expand);
    }
    if (!word(o, "mamba_d_head")) return size(o, "mamba_d_head", &c->P);
    c->P = c->d_ssm / c->H;
    return is_word(o, "mamba_d_head", "auto") && c->P * c->H == c->d_ssm;
}

static bool read_switches(const slow_json *o, fh1_config *c)
{
    bool mlp = true;
    if (!truth(o, "attention_bias", &c->attention_bias) || !truth(o, "mlp_bias", &c->mlp_bias) ||
        !truth(o, "projectors_bias", &c->projectors_bias) || !truth(o, "mamba_proj_bias", &c->mamba_proj_bias) ||
        !truth(o, "mamba_conv_bias", &c->mamba_conv_bias) || !truth(o, "mamba_rms_norm", &c->mamba_rms_norm) ||
        !truth(o, "tie_word_embeddings", &c->tied))
        return false;
    if (!truth(o, "mamba_norm_before_gate", &c->norm_before_gate) &&
        (c->mamba_rms_norm || value(o, "mamba_norm_before_gate")))
        return false; /* without the norm its place may be left out */
    if (value(o, "mamba_use_mlp") && !(truth(o, "mamba_use_mlp", &mlp) && mlp)) return false;
    return true;
}

static bool read_numbers(const slow_json *o, fh1_config *c)
{
    double mlp[2] = {0, 0};
    const bool good = number(o, "rms_norm_eps", &c->eps) && number(o, "embedding_multiplier", &c->m_emb) &&
                      number(o, "lm_head_multiplier", &c->m_lm) && number(o, "key_multiplier", &c->m_key) &&
                      number(o, "attention_in_multiplier", &c->m_attn_in) &&
                      number(o, "attention_out_multiplier", &c->m_attn_out) &&
                      number(o, "ssm_in_multiplier", &c->m_ssm_in) && number(o, "ssm_out_multiplier", &c->m_ssm_out) &&
                      numbers(o, "ssm_multipliers", 5, c->m_ssm) && numbers(o, "mlp_multipliers", 2, mlp);
    c->m_gate = mlp[0];
    c->m_down = mlp[fuzz_planted("mlp") ? 0 : 1];
    return good;
}

static bool read_limit(const slow_json *v, double *out)
{
    if (v->kind != SLOW_OBJECT) return is_number(v, out);
    *out = (double)INFINITY;
    return is_word(v, "__float__", "Infinity");
}

static bool read_limits(const slow_json *o, fh1_config *c)
{
    const slow_json *v = value(o, "time_step_limit");
    c->dt_hi = (double)INFINITY;
    if (!v) return true;
    return v->kind == SLOW_ARRAY && v->n == 2 && read_limit(v->first, &c->dt_lo) &&
           read_limit(v->first->next, &c->dt_hi);
}

static bool read_tokens(const slow_json *o, fh1_config *c)
{
    const slow_json *eos = value(o, "eos_token_id");
    c->bos = c->pad = -1;
    if (value(o, "bos_token_id") && !is_integer(value(o, "bos_token_id"), -1, MOST_SIZE, &c->bos)) return false;
    if (value(o, "pad_token_id") && !is_integer(value(o, "pad_token_id"), -1, MOST_SIZE, &c->pad)) return false;
    if (!eos) return true;
    const bool list = eos->kind == SLOW_ARRAY;
    if (list && eos->n > 8) return false;
    for (const slow_json *v = list ? eos->first : eos; v; v = list ? v->next : NULL)
        if (!is_integer(v, 0, MOST_SIZE, &c->eos[c->n_eos++])) return false;
    return true;
}

static bool read_block(const slow_json *o, fh1_config *c)
{
    if (!value(o, "fh1_block")) return true;
    c->block = is_word(o, "fh1_block", "S_A_M") ? FH1_BLOCK_S_A_M
               : is_word(o, "fh1_block", "SAM") ? FH1_BLOCK_SAM
                                                : FH1_BLOCK_SA_M;
    return c->block != FH1_BLOCK_SA_M || is_word(o, "fh1_block", "SA_M");
}

static bool all_layers(const slow_json *o, const fh1_config *c)
{
    const slow_json *v = value(o, "attn_layer_indices");
    int64_t n = 0, layer;
    if (!v) return true;
    if (v->kind != SLOW_ARRAY || (int64_t)v->n != c->n_layers) return false;
    for (const slow_json *e = v->first; e; e = e->next, n++)
        if (!is_integer(e, n, n, &layer)) return false;
    return true;
}

/* ---- rope ---- */

enum { MOST_ROPE_KEYS = 256 };

/* An object with something in it; NULL in *out when there is none. */
static bool rope_object(const slow_json *o, const char *key, const slow_json **out)
{
    const slow_json *v = value(o, key);
    *out = v && v->n > 0 ? v : NULL;
    return !v || (v->kind == SLOW_OBJECT && v->n <= MOST_ROPE_KEYS);
}

static const char *type_of(const slow_json *r)
{
    const slow_json *now = value(r, "rope_type"), *old = value(r, "type");
    if (now && old && !slow_json_same(now, old)) return NULL;
    return word(r, now ? "rope_type" : "type");
}

/* Whatever stands in `a` stands in `b`, but for type and theta, which have their own rules. */
static bool contains(const slow_json *b, const slow_json *a)
{
    for (const slow_json *v = a->first; v; v = v->next) {
        const bool own =
            strcmp(v->name, "type") == 0 || strcmp(v->name, "rope_type") == 0 || strcmp(v->name, "rope_theta") == 0;
        const slow_json *other = value(b, v->name);
        if (!own && v->kind != SLOW_NULL && !(other && slow_json_same(v, other))) return false;
    }
    return true;
}

static bool read_theta(const slow_json *const places[3], double *theta)
{
    double all[3];
    int n = 0;
    for (int i = 0; i < 3; i++)
        if (places[i] && value(places[i], "rope_theta") && !number(places[i], "rope_theta", &all[n++])) return false;
    for (int i = 1; i < n; i++)
        if (all[i] != all[0] && !fuzz_planted("theta")) return false;
    if (n > 0) *theta = all[0];
    return n > 0;
}

static bool original_length(const slow_json *o, const slow_json *r, fh1_rope *rope)
{
    static const char key[] = "original_max_position_embeddings";
    const slow_json *from = value(o, key) ? o : r;
    if (value(from, key)) return size(from, key, &rope->original_max_position);
    return size(o, "max_position_embeddings", &rope->original_max_position);
}

/* factor may be left to be derived from the lengths; what is given is positive. */
static bool derivable(const slow_json *o, const slow_json *r, fh1_rope *rope)
{
    if (!maybe_number(r, "factor", &rope->factor) || !maybe_number(r, "attention_factor", &rope->attention_factor))
        return false;
    if (value(r, "factor") && !(rope->factor > 0)) return false;
    if (value(r, "attention_factor") && !(rope->attention_factor > 0)) return false;
    return value(r, "factor") || value(o, "max_position_embeddings");
}

static bool read_yarn(const slow_json *o, const slow_json *r, fh1_rope *rope)
{
    rope->truncate = true;
    if (!slow_json_member(r, "factor") || !derivable(o, r, rope) || !original_length(o, r, rope)) return false;
    if (!maybe_number(r, "beta_fast", &rope->beta_fast) || !maybe_number(r, "beta_slow", &rope->beta_slow) ||
        !maybe_number(r, "mscale", &rope->mscale) || !maybe_number(r, "mscale_all_dim", &rope->mscale_all_dim))
        return false;
    if (rope->beta_fast == 0) rope->beta_fast = 32;
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    return !slow_json_member(r, "truncate") || truth(r, "truncate", &rope->truncate);
}

static bool read_longrope(const slow_json *o, const slow_json *r, fh1_config *c)
{
    const size_t pairs = (size_t)(c->A / 2);
    if (pairs > 512) return false;
    c->rope.long_factor = c->factors[0];
    c->rope.short_factor = c->factors[1];
    return derivable(o, r, &c->rope) && original_length(o, r, &c->rope) &&
           numbers(r, "long_factor", pairs, c->factors[0]) && numbers(r, "short_factor", pairs, c->factors[1]);
}

static bool read_type(const slow_json *o, const slow_json *r, const char *type, fh1_config *c)
{
    static const char *const names[] = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};
    fh1_rope *rope = &c->rope;
    int k = 0;
    while (k < 6 && strcmp(type, names[k]) != 0) k++;
    rope->type = (fh1_rope_type)k;
    switch (k) {
    case 0: return true;
    case 1: return number(r, "factor", &rope->factor);
    case 2: return value(o, "max_position_embeddings") && number(r, "factor", &rope->factor);
    case 3: return read_yarn(o, r, rope);
    case 4:
        return number(r, "factor", &rope->factor) && number(r, "low_freq_factor", &rope->low_freq_factor) &&
               number(r, "high_freq_factor", &rope->high_freq_factor) && original_length(o, r, rope);
    case 5: return read_longrope(o, r, c);
    default: return false;
    }
}

static bool read_rope(const slow_json *o, fh1_config *c)
{
    const slow_json *v4, *v5;
    if (!rope_object(o, "rope_scaling", &v4) || !rope_object(o, "rope_parameters", &v5)) return false;
    if (v4 && v5) {
        const char *a = type_of(v4), *b = type_of(v5);
        if (!a || !b || strcmp(a, b) != 0 || !contains(v4, v5) || !contains(v5, v4)) return false;
    }
    const slow_json *const places[3] = {o, v4, v5};
    if (!read_theta(places, &c->rope.theta)) return false;
    for (int i = 0; i < 3; i++) {
        double partial = 1;
        if (places[i] && !(maybe_number(places[i], "partial_rotary_factor", &partial) && partial == 1)) return false;
    }
    if (value(o, "max_position_embeddings") && !size(o, "max_position_embeddings", &c->rope.max_position)) return false;
    const slow_json *r = v5 ? v5 : v4;
    if (!r) return true;
    const char *type = type_of(r);
    return type && read_type(o, r, type, c);
}

static bool read_h1(const slow_json *root, fh1_config *c)
{
    return read_block(root, c) && read_sizes(root, c) && read_switches(root, c) && read_numbers(root, c) &&
           read_limits(root, c) && all_layers(root, c) && read_rope(root, c);
}

bool slow_config_read(const slow_json *root, fh1_config *c)
{
    memset(c, 0, sizeof *c);
    if (root->kind != SLOW_OBJECT) return false;
    if (is_word(root, "model_type", "falcon_mamba")) c->family = FH1_FALCON_MAMBA;
    else if (!is_word(root, "model_type", "falcon_h1")) return false;
    if (!is_word(root, "hidden_act", "silu") && !fuzz_planted("act")) return false;
    if (!(c->family == FH1_FALCON_MAMBA ? slow_config_read_mamba(root, c) : read_h1(root, c))) return false;
    return read_tokens(root, c) && slow_config_holds(c);
}

bool slow_config_dtype(const slow_json *root, fh1_dtype *out)
{
    static const char *const names[] = {"bfloat16", "float32", "float16", "float64"};
    static const fh1_dtype types[] = {FH1_BF16, FH1_F32, FH1_F16, FH1_F64};
    const slow_json *now = value(root, "dtype"), *old = value(root, "torch_dtype"), *v = now ? now : old;
    *out = FH1_F32;
    if (!v) return true;
    if (now && old && !slow_json_same(now, old)) return false;
    for (int i = 0; i < 4; i++) {
        *out = types[i];
        if (v->kind == SLOW_STRING && strcmp(v->text, names[i]) == 0) return true;
    }
    return false;
}
