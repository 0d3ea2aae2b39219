/* The text of a seeded model: KEY=VALUE between commas. */
#include "fuzz/plant.h"
#include "fuzz/slow_repro.h"
#include "fuzz/slow_rules.h"

#include <math.h>

enum { SIZES = 15, SWITCHES = 11, NUMBERS = 28, COUNTS = 2, OTHERS = 7 };

/* The keys of Falcon-Mamba, and those that Falcon-H1 has not. */
static const char mamba_keys[] =
    " family layers D V N K I R use_bias conv_bias tied residual_in_fp32 eps mixer_eps dtype weights ";
static const char not_h1_keys[] = " I R use_bias residual_in_fp32 mixer_eps ";

static const char *const size_names[SIZES] = {"layers", "D", "F", "V", "Hq", "Hkv", "A", "H",
                                              "P",      "N", "G", "K", "Q",  "I",   "R"};
static const int64_t usual_sizes[][SIZES] = {{2, 32, 48, 64, 4, 2, 8, 4, 8, 16, 2, 4, 8, 32, 0},
                                             {2, 32, 0, 64, 0, 0, 0, 48, 1, 8, 1, 4, 1, 48, 4}};
static const char *const switch_names[SWITCHES] = {
    "attention_bias", "mlp_bias",         "mamba_proj_bias", "projectors_bias", "conv_bias",       "rms_norm",
    "tied",           "norm_before_gate", "truncate",        "use_bias",        "residual_in_fp32"};
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
                                                  "mixer_eps",
                                                  ""};
static const char *const count_names[COUNTS] = {"original_max_position", "max_position"};
static const char *const other_names[OTHERS] = {"dtype",        "weights", "rope", "long_factor",
                                                "short_factor", "family",  "block"};

static int64_t *size_of(fh1_config *c, int i)
{
    int64_t *const at[SIZES] = {&c->n_layers, &c->D, &c->F, &c->V, &c->Hq, &c->Hkv,   &c->A, &c->H,
                                &c->P,        &c->N, &c->G, &c->K, &c->Q,  &c->d_ssm, &c->R};
    return at[i];
}

static bool *switch_of(fh1_config *c, int i)
{
    bool *const at[SWITCHES] = {
        &c->attention_bias,  &c->mlp_bias, &c->mamba_proj_bias,  &c->projectors_bias, &c->mamba_conv_bias,
        &c->mamba_rms_norm,  &c->tied,     &c->norm_before_gate, &c->rope.truncate,   &c->mamba_proj_bias,
        &c->residual_in_fp32};
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
                                     &r->high_freq_factor,
                                     &c->mixer_eps};
    return at[i];
}

static int find(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static void usual_of(fh1_family family, fh1_rope_type rope, gld_seeded_spec *s)
{
    memset(s, 0, sizeof *s);
    fh1_config *c = &s->config;
    c->family = family;
    for (int i = 0; i < SIZES; i++) *size_of(c, i) = usual_sizes[family][i];
    c->m_emb = c->m_lm = c->m_key = c->m_attn_in = c->m_attn_out = c->m_ssm_in = c->m_ssm_out = 1;
    c->m_gate = c->m_down = c->m_ssm[0] = c->m_ssm[1] = c->m_ssm[2] = c->m_ssm[3] = c->m_ssm[4] = 1;
    c->mamba_conv_bias = true;
    c->eps = 1e-5;
    c->dt_hi = (double)INFINITY;
    c->bos = c->pad = -1;
    s->dtype = FH1_F32;
    if (family == FH1_FALCON_MAMBA) {
        c->residual_in_fp32 = true;
        c->mixer_eps = 1e-6;
        return;
    }
    c->rope.type = rope;
    c->rope.theta = 10000;
    if (rope == FH1_ROPE_YARN) c->rope.beta_fast = 32, c->rope.beta_slow = 1, c->rope.truncate = true;
}

void slow_spec_usual(gld_seeded_spec *s)
{
    usual_of(FH1_FALCON_H1, FH1_ROPE_DEFAULT, s);
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
    static const char *const blocks[] = {"SA_M", "SAM", "S_A_M"};
    static const fh1_dtype types[] = {FH1_F32, FH1_BF16, FH1_F16};
    if (strcmp(name, "rope") == 0 || strcmp(name, "family") == 0) return true; /* were read first */
    if (strcmp(name, "block") == 0) {
        const int block = find(blocks, 3, value);
        s->config.block = (fh1_block)(block < 0 ? 0 : block);
        return block >= 0;
    }
    if (strcmp(name, "long_factor") == 0) return read_list(value, s->config.factors[0], &n_factors[0]);
    if (strcmp(name, "short_factor") == 0) return read_list(value, s->config.factors[1], &n_factors[1]);
    const bool dtype = strcmp(name, "dtype") == 0;
    const int k = find(dtype ? dtypes : weights, 3, value);
    if (k < 0) return false;
    if (dtype) s->dtype = types[k];
    else s->weights = (gld_weights)k;
    return true;
}

static bool listed(const char *list, const char *name)
{
    char key[64];
    return strlen(name) < sizeof key - 2 && snprintf(key, sizeof key, " %s ", name) > 0 && strstr(list, key);
}

static bool known(fh1_family family, const char *name)
{
    return family == FH1_FALCON_MAMBA ? listed(mamba_keys, name) : !listed(not_h1_keys, name);
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

/* The entries that say what is usual: each of them must be a value of its key. */
static bool read_first(const slow_words *w, const char *key, const char *const *names, int n, int *found)
{
    *found = 0;
    for (int i = 0; i < w->n; i++) {
        if (strncmp(w->word[i], key, strlen(key)) != 0) continue;
        *found = find(names, n, w->word[i] + strlen(key));
        if (*found < 0) return false;
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
        if (!known(s->config.family, w->word[i]) && !fuzz_planted("family")) return false;
        if (!read_entry(w->word[i], value, s, n_factors)) return false;
    }
    return true;
}

bool slow_spec_read(const char *text, gld_seeded_spec *out)
{
    static const char *const ropes[] = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};
    static const char *const families[] = {"falcon_h1", "falcon_mamba"};
    int rope, family;
    int64_t n_factors[2] = {0, 0};
    slow_words w = slow_words_cut(text, ',');
    fh1_config *c = &out->config;
    bool good = read_first(&w, "family=", families, 2, &family) && read_first(&w, "rope=", ropes, 6, &rope);
    if (good) usual_of((fh1_family)family, (fh1_rope_type)rope, out);
    good = good && read_entries(&w, out, n_factors);
    slow_words_free(&w);
    if (!good) return false;
    if (c->family == FH1_FALCON_MAMBA) c->H = c->d_ssm, c->projectors_bias = c->mamba_proj_bias;
    else c->d_ssm = c->H * c->P;
    for (int k = 0; k < 2; k++) {
        if (n_factors[k] == 0) continue;
        if (rope != FH1_ROPE_LONGROPE || n_factors[k] != c->A / 2) return false;
        *(k == 0 ? &c->rope.long_factor : &c->rope.short_factor) = c->factors[k];
    }
    const int bytes = out->dtype == FH1_F32 ? 4 : 2;
    return slow_config_holds(c) && slow_parameters(c) * bytes <= (double)(1 << 30);
}
