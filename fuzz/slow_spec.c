/* The text of a seeded model: KEY=VALUE between commas. */
#include "fuzz/plant.h"
#include "fuzz/slow_repro.h"
#include "fuzz/slow_rules.h"

#include <math.h>

enum { SIZES = 13, SWITCHES = 9, NUMBERS = 27, COUNTS = 2, OTHERS = 5 };

static const char *const size_names[SIZES] = {"layers", "D", "F", "V", "Hq", "Hkv", "A", "H", "P", "N", "G", "K", "Q"};
static const int64_t usual_sizes[SIZES] = {2, 32, 48, 64, 4, 2, 8, 4, 8, 16, 2, 4, 8};
static const char *const switch_names[SWITCHES] = {
    "attention_bias", "mlp_bias", "mamba_proj_bias",  "projectors_bias", "conv_bias",
    "rms_norm",       "tied",     "norm_before_gate", "truncate"};
static const char *const number_names[NUMBERS] = {"eps",
                                                  "dt_lo",
                                                  "dt_hi",
                                                  "m_emb",
                                                  "m_lm",
                                                  "m_key",
                                                  "m_attn_in",
                                                  "m_attn_out",
                                                  "m_ssm_in",
                                                  "m_ssm_out",
                                                  "m_gate",
                                                  "m_down",
                                                  "m_z",
                                                  "m_x",
                                                  "m_B",
                                                  "m_C",
                                                  "m_dt",
                                                  "theta",
                                                  "factor",
                                                  "attention_factor",
                                                  "beta_fast",
                                                  "beta_slow",
                                                  "mscale",
                                                  "mscale_all_dim",
                                                  "low_freq_factor",
                                                  "high_freq_factor",
                                                  ""};
static const char *const count_names[COUNTS] = {"original_max_position", "max_position"};
static const char *const other_names[OTHERS] = {"dtype", "weights", "rope", "long_factor", "short_factor"};

static int64_t *size_of(fh1_config *c, int i)
{
    int64_t *const at[SIZES] = {&c->n_layers, &c->D, &c->F, &c->V, &c->Hq, &c->Hkv, &c->A,
                                &c->H,        &c->P, &c->N, &c->G, &c->K,  &c->Q};
    return at[i];
}

static bool *switch_of(fh1_config *c, int i)
{
    bool *const at[SWITCHES] = {
        &c->attention_bias, &c->mlp_bias, &c->mamba_proj_bias,  &c->projectors_bias, &c->mamba_conv_bias,
        &c->mamba_rms_norm, &c->tied,     &c->norm_before_gate, &c->rope.truncate};
    return at[i];
}

static double *number_of(fh1_config *c, int i)
{
    fh1_rope *r = &c->rope;
    double *const at[NUMBERS - 1] = {&c->eps,
                                     &c->dt_lo,
                                     &c->dt_hi,
                                     &c->m_emb,
                                     &c->m_lm,
                                     &c->m_key,
                                     &c->m_attn_in,
                                     &c->m_attn_out,
                                     &c->m_ssm_in,
                                     &c->m_ssm_out,
                                     &c->m_gate,
                                     &c->m_down,
                                     &c->m_ssm[0],
                                     &c->m_ssm[1],
                                     &c->m_ssm[2],
                                     &c->m_ssm[3],
                                     &c->m_ssm[4],
                                     &r->theta,
                                     &r->factor,
                                     &r->attention_factor,
                                     &r->beta_fast,
                                     &r->beta_slow,
                                     &r->mscale,
                                     &r->mscale_all_dim,
                                     &r->low_freq_factor,
                                     &r->high_freq_factor};
    return at[i];
}

static int find(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

void slow_spec_usual(fh1_rope_type rope, gld_seeded_spec *s)
{
    memset(s, 0, sizeof *s);
    fh1_config *c = &s->config;
    for (int i = 0; i < SIZES; i++) *size_of(c, i) = usual_sizes[i];
    c->m_emb = c->m_lm = c->m_key = c->m_attn_in = c->m_attn_out = c->m_ssm_in = c->m_ssm_out = 1;
    c->m_gate = c->m_down = c->m_ssm[0] = c->m_ssm[1] = c->m_ssm[2] = c->m_ssm[3] = c->m_ssm[4] = 1;
    c->d_ssm = 32;
    c->mamba_conv_bias = true;
    c->eps = 1e-5;
    c->dt_hi = (double)INFINITY;
    c->rope.type = rope;
    c->rope.theta = 10000;
    if (rope == FH1_ROPE_YARN) c->rope.beta_fast = 32, c->rope.beta_slow = 1, c->rope.truncate = true;
    c->bos = c->pad = -1;
    s->dtype = FH1_F32;
}

static bool read_list(const char *text, double *to, int64_t *n)
{
    slow_words w = slow_words_cut(text, '/');
    bool good = w.n <= 512;
    for (int i = 0; i < w.n && good; i++) good = slow_number(w.word[i], &to[i]);
    *n = w.n;
    slow_words_free(&w);
    return good;
}

static bool read_other(const char *name, const char *value, gld_seeded_spec *s, int64_t n_factors[2])
{
    static const char *const dtypes[] = {"f32", "bf16", "f16"}, *const weights[] = {"init", "trained", "lattice"};
    static const fh1_dtype types[] = {FH1_F32, FH1_BF16, FH1_F16};
    if (strcmp(name, "rope") == 0) return true; /* was read first */
    if (strcmp(name, "long_factor") == 0) return read_list(value, s->config.factors[0], &n_factors[0]);
    if (strcmp(name, "short_factor") == 0) return read_list(value, s->config.factors[1], &n_factors[1]);
    const bool dtype = strcmp(name, "dtype") == 0;
    const int k = find(dtype ? dtypes : weights, 3, value);
    if (k < 0) return false;
    if (dtype) s->dtype = types[k];
    else s->weights = (gld_weights)k;
    return true;
}

static bool read_entry(const char *name, const char *value, gld_seeded_spec *s, int64_t n_factors[2])
{
    fh1_config *c = &s->config;
    int64_t v = 0;
    const int size = find(size_names, SIZES, name), on = find(switch_names, SWITCHES, name);
    const int number = find(number_names, NUMBERS - 1, name), n = find(count_names, COUNTS, name);
    if (size >= 0) {
        if (!slow_integer(value, &v) || v < 1 || v > (size == 0 ? 1024 : INT64_C(2147483648))) return false;
        *size_of(c, size) = v;
        return true;
    }
    if (on >= 0) {
        *switch_of(c, on) = strcmp(value, "1") == 0;
        return strcmp(value, "1") == 0 || strcmp(value, "0") == 0;
    }
    if (number >= 0) return slow_number(value, number_of(c, number));
    if (n < 0) return find(other_names, OTHERS, name) >= 0 && read_other(name, value, s, n_factors);
    if (!slow_integer(value, &v) || v < 0 || v > INT64_C(2147483648)) return false;
    *(n == 0 ? &c->rope.original_max_position : &c->rope.max_position) = v;
    return true;
}

static bool read_rope(const slow_words *w, fh1_rope_type *type)
{
    static const char *const names[] = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};
    *type = FH1_ROPE_DEFAULT;
    for (int i = 0; i < w->n; i++) {
        if (strncmp(w->word[i], "rope=", 5) != 0) continue;
        const int k = find(names, 6, w->word[i] + 5);
        if (k < 0) return false;
        *type = (fh1_rope_type)k;
    }
    return true;
}

static bool read_entries(const slow_words *w, gld_seeded_spec *s, int64_t n_factors[2])
{
    for (int i = 0; i < w->n; i++) {
        char *value = strchr(w->word[i], '=');
        if (!value) return false;
        *value++ = '\0';
        for (int k = 0; k < i; k++)
            if (strcmp(w->word[i], w->word[k]) == 0) return false;
        if (!read_entry(w->word[i], value, s, n_factors)) return false;
    }
    return true;
}

bool slow_spec_read(const char *text, gld_seeded_spec *out)
{
    fh1_rope_type rope;
    int64_t n_factors[2] = {0, 0};
    slow_words w = slow_words_cut(text, ',');
    fh1_config *c = &out->config;
    bool good = read_rope(&w, &rope);
    if (good) slow_spec_usual(rope, out);
    good = good && read_entries(&w, out, n_factors);
    slow_words_free(&w);
    if (!good) return false;
    c->d_ssm = c->H * c->P;
    for (int k = 0; k < 2; k++) {
        if (n_factors[k] == 0) continue;
        if (rope != FH1_ROPE_LONGROPE || n_factors[k] != c->A / 2) return false;
        *(k == 0 ? &c->rope.long_factor : &c->rope.short_factor) = c->factors[k];
    }
    const int bytes = out->dtype == FH1_F32 ? 4 : 2;
    return slow_config_holds(c) && slow_parameters(c) * bytes <= (double)(1 << 30);
}
