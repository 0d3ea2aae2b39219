#include "oracle/config.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char *const rope_names[] = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};

/* Each size stays below 2^31 and each product of two or three below 2^48, so that the bytes of any
 * tensor, and sums of a few, fit an int64_t with room to spare. */
static const int64_t MAX_SIZE = INT64_C(1) << 31, MAX_PRODUCT = INT64_C(1) << 48;

typedef struct {
    const char *key;
    size_t offset;
} size_key;

static const size_key sizes_h1[] = {
    {"num_hidden_layers", offsetof(fh1_config, n_layers)},
    {"hidden_size", offsetof(fh1_config, D)},
    {"vocab_size", offsetof(fh1_config, V)},
    {"intermediate_size", offsetof(fh1_config, F)},
    {"num_attention_heads", offsetof(fh1_config, Hq)},
    {"num_key_value_heads", offsetof(fh1_config, Hkv)},
    {"head_dim", offsetof(fh1_config, A)},
    {"mamba_n_heads", offsetof(fh1_config, H)},
    {"mamba_d_head", offsetof(fh1_config, P)},
    {"mamba_d_state", offsetof(fh1_config, N)},
    {"mamba_n_groups", offsetof(fh1_config, G)},
    {"mamba_d_conv", offsetof(fh1_config, K)},
    {"mamba_chunk_size", offsetof(fh1_config, Q)},
    {"mamba_d_ssm", offsetof(fh1_config, d_ssm)},
};

static const size_key sizes_mamba[] = {
    {"num_hidden_layers", offsetof(fh1_config, n_layers)},
    {"hidden_size", offsetof(fh1_config, D)},
    {"vocab_size", offsetof(fh1_config, V)},
    {"intermediate_size", offsetof(fh1_config, d_ssm)},
    {"state_size", offsetof(fh1_config, N)},
    {"conv_kernel", offsetof(fh1_config, K)},
    {"time_step_rank", offsetof(fh1_config, R)},
};

static const struct {
    const char *key;
    size_t offset;
} multipliers[] = {
    {"embedding_multiplier", offsetof(fh1_config, m_emb)},
    {"lm_head_multiplier", offsetof(fh1_config, m_lm)},
    {"key_multiplier", offsetof(fh1_config, m_key)},
    {"attention_in_multiplier", offsetof(fh1_config, m_attn_in)},
    {"attention_out_multiplier", offsetof(fh1_config, m_attn_out)},
    {"ssm_in_multiplier", offsetof(fh1_config, m_ssm_in)},
    {"ssm_out_multiplier", offsetof(fh1_config, m_ssm_out)},
    {"mlp_multipliers[0]", offsetof(fh1_config, m_gate)},
    {"mlp_multipliers[1]", offsetof(fh1_config, m_down)},
    {"ssm_multipliers[0]", offsetof(fh1_config, m_ssm)},
    {"ssm_multipliers[1]", offsetof(fh1_config, m_ssm) + sizeof(double)},
    {"ssm_multipliers[2]", offsetof(fh1_config, m_ssm) + 2 * sizeof(double)},
    {"ssm_multipliers[3]", offsetof(fh1_config, m_ssm) + 3 * sizeof(double)},
    {"ssm_multipliers[4]", offsetof(fh1_config, m_ssm) + 4 * sizeof(double)},
};

const char *fh1_rope_type_name(fh1_rope_type t)
{
    return rope_names[t];
}

static bool is_mamba(const fh1_config *c)
{
    return c->family == FH1_FALCON_MAMBA;
}

const char *fh1_family_name(fh1_family f)
{
    return f == FH1_FALCON_MAMBA ? "falcon_mamba" : "falcon_h1";
}

bool fh1_family_find(const char *name, fh1_family *out)
{
    for (int i = FH1_FALCON_H1; i <= FH1_FALCON_MAMBA; i++) {
        if (strcmp(name, fh1_family_name((fh1_family)i)) != 0) continue;
        *out = (fh1_family)i;
        return true;
    }
    return false;
}

int64_t fh1_padding_idx(const fh1_config *c)
{
    return c->family == FH1_FALCON_MAMBA ? -1 : c->pad;
}

const char *fh1_embed_module(fh1_family f)
{
    return f == FH1_FALCON_MAMBA ? "backbone.embeddings" : "model.embed_tokens";
}

const char *fh1_layers_module(fh1_family f)
{
    return f == FH1_FALCON_MAMBA ? "backbone.layers" : "model.layers";
}

const char *fh1_eps_key(fh1_family f)
{
    return f == FH1_FALCON_MAMBA ? "layer_norm_epsilon" : "rms_norm_eps";
}

const char *fh1_embed_weight(fh1_family f)
{
    return f == FH1_FALCON_MAMBA ? "backbone.embeddings.weight" : "model.embed_tokens.weight";
}

static const char *const block_names[] = {"SA_M", "SAM", "S_A_M"};

const char *fh1_block_name(fh1_block b)
{
    return block_names[b];
}

bool fh1_block_find(const char *name, fh1_block *out)
{
    for (int i = 0; i < (int)(sizeof block_names / sizeof *block_names); i++) {
        if (strcmp(name, block_names[i]) != 0) continue;
        *out = (fh1_block)i;
        return true;
    }
    return false;
}

int64_t fh1_conv_dim(const fh1_config *c)
{
    return is_mamba(c) ? c->d_ssm : c->d_ssm + 2 * c->G * c->N;
}

int64_t fh1_in_proj_dim(const fh1_config *c)
{
    return is_mamba(c) ? 2 * c->d_ssm : 2 * c->d_ssm + 2 * c->G * c->N + c->H;
}

int64_t fh1_x_proj_dim(const fh1_config *c)
{
    return is_mamba(c) ? c->R + 2 * c->N : 0;
}

int64_t fh1_scan_chunk(const fh1_config *c)
{
    return c->family == FH1_FALCON_MAMBA ? 16 : c->Q;
}

int64_t fh1_in_proj_conv(const fh1_config *c)
{
    return is_mamba(c) ? 0 : c->d_ssm;
}

int64_t fh1_in_proj_gate(const fh1_config *c)
{
    return is_mamba(c) ? c->d_ssm : 0;
}

void fh1_config_copy(fh1_config *dst, const fh1_config *src)
{
    const double *from[2] = {src->rope.long_factor, src->rope.short_factor};
    const int64_t room = sizeof src->factors[0] / sizeof src->factors[0][0];
    fh1_config copy = *src;
    int64_t n = src->A / 2 < room ? src->A / 2 : room; /* a config that is not checked yet may be larger */
    for (int i = 0; i < 2; i++)
        if (from[i] && n > 0) memcpy(copy.factors[i], from[i], (size_t)n * sizeof *from[i]);
    *dst = copy;
    dst->rope.long_factor = copy.rope.long_factor ? dst->factors[0] : NULL;
    dst->rope.short_factor = copy.rope.short_factor ? dst->factors[1] : NULL;
}

static int64_t size_at(const fh1_config *c, size_t offset)
{
    int64_t v;
    memcpy(&v, (const char *)c + offset, sizeof v);
    return v;
}

static fh1_status check_sizes(const fh1_config *c)
{
    const size_key *sizes = is_mamba(c) ? sizes_mamba : sizes_h1;
    const size_t n = is_mamba(c) ? sizeof sizes_mamba / sizeof *sizes_mamba : sizeof sizes_h1 / sizeof *sizes_h1;
    for (size_t i = 0; i < n; i++) {
        int64_t v = size_at(c, sizes[i].offset);
        if (v >= 1 && v <= MAX_SIZE) continue;
        fh1_status s = fh1_where(FH1_BAD("a size is out of range"), "%s", sizes[i].key);
        return fh1_found(fh1_expected(s, "1 to 2^31"), "%lld", (long long)v);
    }
    if (c->K > 64) {
        fh1_status s =
            fh1_where(FH1_BAD("the convolution is too wide"), "%s", is_mamba(c) ? "conv_kernel" : "mamba_d_conv");
        return fh1_found(fh1_expected(s, "1 to 64"), "%lld", (long long)c->K);
    }
    return NULL;
}

/* False if a·b exceeds MAX_PRODUCT; a, b >= 1. */
static bool product(int64_t a, int64_t b, int64_t *out)
{
    if (a > MAX_PRODUCT / b) return false;
    *out = a * b;
    return true;
}

static fh1_status too_large(const char *keys)
{
    fh1_status s = fh1_where(FH1_BAD("the model is too large"), "%s", keys);
    return fh1_expected(s, "at most 2^48 elements in a tensor");
}

static fh1_status check_products_mamba(const fh1_config *c)
{
    int64_t t;
    if (!product(c->V, c->D, &t)) return too_large("vocab_size * hidden_size");
    if (!product(2 * c->d_ssm, c->D, &t)) return too_large("2 * intermediate_size * hidden_size");
    if (!product(c->d_ssm, c->R + 2 * c->N, &t))
        return too_large("intermediate_size * (time_step_rank + 2 * state_size)");
    return product(c->d_ssm, c->K, &t) ? NULL : too_large("intermediate_size * conv_kernel");
}

static fh1_status check_products(const fh1_config *c)
{
    int64_t q, kv, d, gn, in, t;
    const char *keys = NULL;
    if (is_mamba(c)) return check_products_mamba(c);
    if (!product(c->V, c->D, &t)) keys = "vocab_size * hidden_size";
    else if (!product(c->F, c->D, &t)) keys = "intermediate_size * hidden_size";
    else if (!product(c->Hq, c->A, &q) || !product(q, c->D, &t)) keys = "num_attention_heads * head_dim * hidden_size";
    else if (!product(c->Hkv, c->A, &kv) || !product(kv, c->D, &t))
        keys = "num_key_value_heads * head_dim * hidden_size";
    else if (!product(c->H, c->P, &d) || !product(d, c->N, &t)) keys = "mamba_n_heads * mamba_d_head * mamba_d_state";
    else if (!product(c->G, c->N, &gn)) keys = "mamba_n_groups * mamba_d_state";
    else if (in = 2 * d + 2 * gn + c->H, !product(in, c->D, &t) || !product(in, c->K, &t))
        keys = "(2 * mamba_d_ssm + 2 * mamba_n_groups * mamba_d_state + mamba_n_heads) * hidden_size";
    return keys ? too_large(keys) : NULL;
}

static fh1_status not_a_multiple(const char *what, const char *key, int64_t v, const char *of_key, int64_t of)
{
    fh1_status s = fh1_where(FH1_BAD("%s", what), "%s", key);
    return fh1_found(fh1_expected(s, "a multiple of %s = %lld", of_key, (long long)of), "%lld", (long long)v);
}

/* Falcon-Mamba: what the fields that it shares with the other family must hold. */
static fh1_status check_channels(const fh1_config *c)
{
    const bool own = c->H == c->d_ssm && c->P == 1 && c->G == 1 && c->Q == 1 && c->F == 0 && c->Hq == 0 &&
                     c->Hkv == 0 && c->A == 0 && c->block == FH1_BLOCK_SA_M;
    if (!own) return fh1_fail(FH1_E_INTERNAL, "a falcon_mamba config with heads of its own (oracle/config.h)");
    return NULL;
}

static fh1_status check_heads(const fh1_config *c)
{
    if (is_mamba(c)) return check_channels(c);
    if (c->A % 2) {
        fh1_status s = fh1_where(FH1_BAD("the rotation needs pairs"), "head_dim");
        return fh1_found(fh1_expected(s, "an even number"), "%lld", (long long)c->A);
    }
    if (c->Hq % c->Hkv)
        return not_a_multiple("query heads cannot share key heads evenly", "num_attention_heads", c->Hq,
                              "num_key_value_heads", c->Hkv);
    if (c->H % c->G)
        return not_a_multiple("mixer heads cannot share groups evenly", "mamba_n_heads", c->H, "mamba_n_groups", c->G);
    if (c->d_ssm != c->H * c->P) { /* that G divides it follows */
        fh1_status s = fh1_where(FH1_BAD("the mixer's width is not that of its heads"), "mamba_d_ssm");
        s = fh1_expected(s, "mamba_n_heads * mamba_d_head = %lld", (long long)(c->H * c->P));
        return fh1_found(s, "%lld", (long long)c->d_ssm);
    }
    return NULL;
}

static fh1_status bad_number(const char *key, const char *expected, double found)
{
    fh1_status s = fh1_where(FH1_BAD("a number is out of range"), "%s", key);
    return fh1_found(fh1_expected(s, "%s", expected), "%.17g", found);
}

static bool positive(double v)
{
    return isfinite(v) && v > 0;
}

static fh1_status check_numbers(const fh1_config *c)
{
    for (size_t i = 0; i < sizeof multipliers / sizeof *multipliers; i++) {
        double v;
        memcpy(&v, (const char *)c + multipliers[i].offset, sizeof v);
        if (!isfinite(v)) return bad_number(multipliers[i].key, "a finite number", v);
    }
    if (!positive(c->eps)) return bad_number(fh1_eps_key(c->family), "a positive finite number", c->eps);
    if (is_mamba(c) && !positive(c->mixer_eps))
        return bad_number("mixer_rms_eps", "a positive finite number", c->mixer_eps);
    if (!isfinite(c->dt_lo) || c->dt_lo < 0)
        return bad_number("time_step_limit[0]", "a finite number, 0 or more", c->dt_lo);
    if (!(c->dt_hi > 0) || !(c->dt_lo <= c->dt_hi))
        return bad_number("time_step_limit[1]", "a positive number or infinity, not below time_step_limit[0]",
                          c->dt_hi);
    if (c->n_eos < 0 || c->n_eos > (int)(sizeof c->eos / sizeof *c->eos)) {
        fh1_status s = fh1_where(FH1_BAD("too many end tokens"), "eos_token_id");
        return fh1_found(fh1_expected(s, "up to 8"), "%d", c->n_eos);
    }
    return NULL;
}

#define ROPE "rope_parameters."

static fh1_status check_factors(const fh1_config *c)
{
    const double *list[2] = {c->rope.long_factor, c->rope.short_factor};
    static const char *const key[2] = {ROPE "long_factor", ROPE "short_factor"};
    if (c->A / 2 > 512) {
        fh1_status s = fh1_where(FH1_BAD("longrope is limited to heads of 1024"), "head_dim");
        return fh1_found(fh1_expected(s, "1024 or less"), "%lld", (long long)c->A);
    }
    for (int k = 0; k < 2; k++) {
        if (!list[k]) {
            fh1_status s = fh1_where(FH1_BAD("a list is missing"), "%s", key[k]);
            return fh1_expected(s, "%lld numbers", (long long)(c->A / 2));
        }
        for (int64_t i = 0; i < c->A / 2; i++)
            if (!positive(list[k][i])) return bad_number(key[k], "positive finite numbers", list[k][i]);
    }
    return NULL;
}

/* yarn and longrope scale cos and sin: by attention_factor, or as derived from factor, or from the
 * ratio of the two lengths. */
static fh1_status check_attention_factor(const fh1_rope *r)
{
    if (!(r->attention_factor >= 0) || isinf(r->attention_factor))
        return bad_number(ROPE "attention_factor", "a positive finite number", r->attention_factor);
    if (r->factor == 0 && r->max_position < 1) {
        fh1_status s = fh1_where(FH1_BAD("the scaling factor cannot be derived"), "max_position_embeddings");
        return fh1_hint(s, "give " ROPE "factor or max_position_embeddings");
    }
    return NULL;
}

static fh1_status check_yarn(const fh1_rope *r)
{
    if (r->theta <= 1) return bad_number(ROPE "rope_theta", "a number above 1 (yarn)", r->theta);
    if (!positive(r->beta_fast)) return bad_number(ROPE "beta_fast", "a positive finite number", r->beta_fast);
    if (!positive(r->beta_slow)) return bad_number(ROPE "beta_slow", "a positive finite number", r->beta_slow);
    if (!(r->mscale >= 0) || isinf(r->mscale)) return bad_number(ROPE "mscale", "a positive number", r->mscale);
    if (!(r->mscale_all_dim >= 0) || isinf(r->mscale_all_dim))
        return bad_number(ROPE "mscale_all_dim", "a positive number", r->mscale_all_dim);
    return check_attention_factor(r);
}

static fh1_status check_llama3(const fh1_rope *r)
{
    if (!positive(r->low_freq_factor))
        return bad_number(ROPE "low_freq_factor", "a positive finite number", r->low_freq_factor);
    if (!positive(r->high_freq_factor) || r->high_freq_factor <= r->low_freq_factor)
        return bad_number(ROPE "high_freq_factor", "a finite number above low_freq_factor", r->high_freq_factor);
    return NULL;
}

static fh1_status check_rope(const fh1_config *c)
{
    const fh1_rope *r = &c->rope;
    if ((unsigned)r->type > FH1_ROPE_LONGROPE) return FH1_BAD("unknown rope type %d", (int)r->type);
    if (!positive(r->theta)) return bad_number(ROPE "rope_theta", "a positive finite number", r->theta);

    bool derived = r->type == FH1_ROPE_YARN || r->type == FH1_ROPE_LONGROPE;
    if (r->type != FH1_ROPE_DEFAULT && !positive(r->factor) && !(derived && r->factor == 0))
        return bad_number(ROPE "factor", "a positive finite number", r->factor);

    bool original = derived || r->type == FH1_ROPE_LLAMA3;
    if (original && (r->original_max_position < 2 || r->original_max_position > MAX_SIZE))
        return bad_number(ROPE "original_max_position_embeddings", "2 to 2^31", (double)r->original_max_position);
    if (r->max_position < 0 || r->max_position > MAX_SIZE || (r->type == FH1_ROPE_DYNAMIC && r->max_position < 1))
        return bad_number("max_position_embeddings", "1 to 2^31", (double)r->max_position);
    if (r->type == FH1_ROPE_DYNAMIC && c->A < 4) {
        fh1_status s = fh1_where(FH1_BAD("dynamic rope needs two pairs"), "head_dim");
        return fh1_found(fh1_expected(s, "4 or more"), "%lld", (long long)c->A);
    }

    switch (r->type) {
    case FH1_ROPE_YARN: return check_yarn(r);
    case FH1_ROPE_LLAMA3: return check_llama3(r);
    case FH1_ROPE_LONGROPE: FH1_TRY(check_attention_factor(r)); return check_factors(c);
    default: return NULL;
    }
}

fh1_status fh1_config_check(const fh1_config *c)
{
    FH1_TRY(check_sizes(c));
    FH1_TRY(check_products(c));
    FH1_TRY(check_heads(c));
    FH1_TRY(check_numbers(c));
    return is_mamba(c) ? NULL : check_rope(c);
}
