/* The text of a seeded model: parse, print, check. */
#include "golden/seeded_model.h"

#include "golden/words.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_FIELD(name, member, of)                          \
    {                                                         \
        name, offsetof(fh1_config, member), GLD_SPEC_SIZE, of \
    }
#define INTEGER(name, member, of)                                \
    {                                                            \
        name, offsetof(fh1_config, member), GLD_SPEC_INTEGER, of \
    }
#define SWITCH(name, member, of)                                \
    {                                                           \
        name, offsetof(fh1_config, member), GLD_SPEC_SWITCH, of \
    }
#define NUMBER(name, member, of)                                \
    {                                                           \
        name, offsetof(fh1_config, member), GLD_SPEC_NUMBER, of \
    }

/* Families that a field belongs to. */
enum { H1 = 1 << FH1_FALCON_H1, MAMBA = 1 << FH1_FALCON_MAMBA, BOTH = H1 | MAMBA };

static const gld_spec_field fields[] = {
    SIZE_FIELD("layers", n_layers, BOTH),
    SIZE_FIELD("D", D, BOTH),
    SIZE_FIELD("F", F, H1),
    SIZE_FIELD("V", V, BOTH),
    SIZE_FIELD("Hq", Hq, H1),
    SIZE_FIELD("Hkv", Hkv, H1),
    SIZE_FIELD("A", A, H1),
    SIZE_FIELD("H", H, H1),
    SIZE_FIELD("P", P, H1),
    SIZE_FIELD("N", N, BOTH),
    SIZE_FIELD("G", G, H1),
    SIZE_FIELD("K", K, BOTH),
    SIZE_FIELD("Q", Q, H1),
    SIZE_FIELD("I", d_ssm, MAMBA),
    SIZE_FIELD("R", R, MAMBA),
    SWITCH("attention_bias", attention_bias, H1),
    SWITCH("mlp_bias", mlp_bias, H1),
    SWITCH("mamba_proj_bias", mamba_proj_bias, H1),
    SWITCH("use_bias", mamba_proj_bias, MAMBA),
    SWITCH("projectors_bias", projectors_bias, H1),
    SWITCH("conv_bias", mamba_conv_bias, BOTH),
    SWITCH("rms_norm", mamba_rms_norm, H1),
    SWITCH("norm_before_gate", norm_before_gate, H1),
    SWITCH("tied", tied, BOTH),
    SWITCH("residual_in_fp32", residual_in_fp32, MAMBA),
    NUMBER("eps", eps, BOTH),
    NUMBER("mixer_eps", mixer_eps, MAMBA),
    NUMBER("dt_lo", dt_lo, H1),
    NUMBER("dt_hi", dt_hi, H1),
    NUMBER("m_emb", m_emb, H1),
    NUMBER("m_lm", m_lm, H1),
    NUMBER("m_key", m_key, H1),
    NUMBER("m_attn_in", m_attn_in, H1),
    NUMBER("m_attn_out", m_attn_out, H1),
    NUMBER("m_ssm_in", m_ssm_in, H1),
    NUMBER("m_ssm_out", m_ssm_out, H1),
    NUMBER("m_gate", m_gate, H1),
    NUMBER("m_down", m_down, H1),
    NUMBER("m_z", m_ssm[0], H1),
    NUMBER("m_x", m_ssm[1], H1),
    NUMBER("m_B", m_ssm[2], H1),
    NUMBER("m_C", m_ssm[3], H1),
    NUMBER("m_dt", m_ssm[4], H1),
    NUMBER("theta", rope.theta, H1),
    NUMBER("factor", rope.factor, H1),
    NUMBER("attention_factor", rope.attention_factor, H1),
    NUMBER("beta_fast", rope.beta_fast, H1),
    NUMBER("beta_slow", rope.beta_slow, H1),
    NUMBER("mscale", rope.mscale, H1),
    NUMBER("mscale_all_dim", rope.mscale_all_dim, H1),
    NUMBER("low_freq_factor", rope.low_freq_factor, H1),
    NUMBER("high_freq_factor", rope.high_freq_factor, H1),
    SWITCH("truncate", rope.truncate, H1),
    INTEGER("original_max_position", rope.original_max_position, H1),
    INTEGER("max_position", rope.max_position, H1),
};
enum { N_FIELDS = sizeof fields / sizeof *fields };
/* Keys of another kind, behind the fields. */
enum { KEY_DTYPE = N_FIELDS, KEY_WEIGHTS, KEY_FAMILY, KEY_BLOCK, KEY_ROPE, KEY_LONG, KEY_SHORT, N_KEYS };
static const char *const other_keys[] = {"dtype", "weights", "family", "block", "rope", "long_factor", "short_factor"};

enum { MAX_LAYERS = 1024, MAX_FACTORS = 512 };
#define MAX_SPEC_SIZE (INT64_C(1) << 31)
#define MAX_WEIGHT_BYTES (INT64_C(1) << 30)

static const char *const dtype_names[] = {"f32", "bf16", "f16"};
static const fh1_dtype dtypes[] = {FH1_F32, FH1_BF16, FH1_F16};
static const char *const weights_names[GLD_WEIGHTS_COUNT] = {"init", "trained", "lattice"};

const gld_spec_field *gld_spec_field_at(int i)
{
    return i >= 0 && i < N_FIELDS ? &fields[i] : NULL;
}

/* -- what is usual ------------------------------------------------------------------------------- */

static bool belongs(const gld_spec_field *f, fh1_family family)
{
    return f->families >> family & 1;
}

/* What follows from the sizes that a line gives. */
static void derive(fh1_config *c)
{
    if (c->family == FH1_FALCON_MAMBA) {
        c->H = c->d_ssm;
        c->projectors_bias = c->mamba_proj_bias;
    } else {
        c->d_ssm = c->H * c->P; /* sizes are below 2^31 */
    }
}

/* In the order of the fields: layers, D, F, V, Hq, Hkv, A, H, P, N, G, K, Q, I, R. */
static const int64_t usual_sizes[][15] = {[FH1_FALCON_H1] = {2, 32, 48, 64, 4, 2, 8, 4, 8, 16, 2, 4, 8, 0, 0},
                                          [FH1_FALCON_MAMBA] = {2, 32, 0, 64, 0, 0, 0, 0, 1, 8, 1, 4, 1, 48, 4}};

static void usual_of(fh1_family family, fh1_rope_type rope, gld_seeded_spec *s)
{
    memset(s, 0, sizeof *s);
    fh1_config *c = &s->config;
    for (int i = 0; fields[i].kind == GLD_SPEC_SIZE; i++)
        memcpy((char *)c + fields[i].offset, &usual_sizes[family][i], sizeof(int64_t));
    c->family = family;
    c->mamba_conv_bias = true;
    c->eps = 1e-5;
    if (family == FH1_FALCON_MAMBA) {
        c->residual_in_fp32 = true;
        c->mixer_eps = 1e-6;
    }
    derive(c);
    c->dt_hi = (double)INFINITY;
    c->m_emb = c->m_lm = c->m_key = c->m_attn_in = c->m_attn_out = c->m_ssm_in = c->m_ssm_out = 1;
    c->m_gate = c->m_down = 1;
    for (int i = 0; i < 5; i++) c->m_ssm[i] = 1;
    c->bos = c->pad = -1;
    s->dtype = FH1_F32;
    s->weights = GLD_WEIGHTS_INIT;
    if (family == FH1_FALCON_MAMBA) return;
    c->rope.type = rope;
    c->rope.theta = 1e4;
    if (rope == FH1_ROPE_YARN) {
        c->rope.beta_fast = 32;
        c->rope.beta_slow = 1;
        c->rope.truncate = true;
    }
}

void gld_seeded_usual(gld_seeded_spec *s)
{
    usual_of(FH1_FALCON_H1, FH1_ROPE_DEFAULT, s);
}

void gld_seeded_spec_copy(gld_seeded_spec *to, const gld_seeded_spec *from)
{
    fh1_config_copy(&to->config, &from->config);
    to->dtype = from->dtype;
    to->weights = from->weights;
}

static size_t width_of(const gld_spec_field *f)
{
    return f->kind == GLD_SPEC_SWITCH ? sizeof(bool) : sizeof(int64_t); /* a double is as wide */
}

static bool same_field(const fh1_config *a, const fh1_config *b, const gld_spec_field *f)
{
    return memcmp((const char *)a + f->offset, (const char *)b + f->offset, width_of(f)) == 0;
}

bool gld_spec_make_usual(gld_seeded_spec *s, const gld_spec_field *f)
{
    gld_seeded_spec usual;
    usual_of(s->config.family, s->config.rope.type, &usual);
    if (!belongs(f, s->config.family) || same_field(&s->config, &usual.config, f)) return false;
    memcpy((char *)&s->config + f->offset, (const char *)&usual.config + f->offset, width_of(f));
    derive(&s->config);
    return true;
}

static int64_t divisor_up_to(int64_t n, int64_t most)
{
    while (most > 1 && n % most) most--;
    return most < 1 ? 1 : most;
}

void gld_spec_set_size(gld_seeded_spec *s, const gld_spec_field *f, int64_t v)
{
    fh1_config *c = &s->config;
    memcpy((char *)c + f->offset, &v, sizeof v);
    derive(c);
    if (c->family == FH1_FALCON_MAMBA) return;
    c->A += c->A % 2;
    c->Hkv = divisor_up_to(c->Hq, c->Hkv);
    c->G = divisor_up_to(c->H, c->G);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void gld_seeded_small(const fh1_config *c, fh1_dtype dtype, int64_t layers, gld_seeded_spec *out)
{
    fh1_config_copy(&out->config, c);
    out->dtype = dtype == FH1_F64 ? FH1_F32 : dtype;
    out->weights = GLD_WEIGHTS_INIT;
    fh1_config *s = &out->config;
    s->n_layers = least(c->n_layers, layers);
    s->D = least(c->D, 32);
    s->V = least(c->V, 64);
    s->bos = s->pad = -1;
    s->n_eos = 0;
    if (c->family == FH1_FALCON_MAMBA) {
        s->d_ssm = least(c->d_ssm, 48);
        s->N = least(c->N, 8);
        s->R = least(c->R, 4);
        derive(s);
        return;
    }
    s->F = least(c->F, 48);
    s->Hkv = least(c->Hkv, 2);
    s->Hq = s->Hkv * least(c->Hq / c->Hkv, 2);
    s->A = least(c->A, 8);
    s->G = least(c->G, 2);
    s->H = s->G * least(c->H / c->G, 2);
    s->P = least(c->P, 8);
    s->N = least(c->N, 16);
    derive(s);
}

/* -- reading ------------------------------------------------------------------------------------- */

static fh1_status bad_value(const gld_word *key, const char *value)
{
    char shown[96];
    fh1_status s = fh1_where(FH1_BAD("not a value of this key"), "%s", key->text);
    return fh1_found(s, "'%s'", fh1_printable(value, shown, sizeof shown));
}

static fh1_status read_field(const gld_word *key, const gld_spec_field *f, const char *value, fh1_config *c)
{
    char *at = (char *)c + f->offset;
    if (f->kind == GLD_SPEC_SWITCH) {
        if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0) return fh1_expected(bad_value(key, value), "0 or 1");
        *(bool *)at = *value == '1';
    } else if (f->kind == GLD_SPEC_NUMBER) {
        double v;
        if (!gld_word_number(value, &v)) return fh1_expected(bad_value(key, value), "a number");
        memcpy(at, &v, sizeof v);
    } else {
        int64_t v, most = f->offset == offsetof(fh1_config, n_layers) ? MAX_LAYERS : MAX_SPEC_SIZE;
        int64_t fewest = f->kind == GLD_SPEC_SIZE ? 1 : 0;
        if (!gld_word_integer(value, &v) || v < fewest || v > most)
            return fh1_expected(bad_value(key, value), "a whole number, %" PRId64 " to %" PRId64, fewest, most);
        memcpy(at, &v, sizeof v);
    }
    return NULL;
}

static fh1_status read_name(const gld_word *key, const char *value, const char *const *names, int n, int *out)
{
    char known[128] = "";
    for (*out = 0; *out < n; ++*out) {
        if (strcmp(value, names[*out]) == 0) return NULL;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", names[*out]);
    }
    return fh1_expected(bad_value(key, value), "one of %s", known);
}

static fh1_status read_factors(const gld_word *key, const char *value, double *to, int *n)
{
    gld_word item;
    for (*n = 0; gld_next_word(&value, '/', &item); ++*n) {
        if (*n == MAX_FACTORS) return fh1_expected(bad_value(key, "…"), "up to %d numbers", MAX_FACTORS);
        if (!gld_word_number(item.text, &to[*n]))
            return fh1_expected(bad_value(key, item.text), "numbers with / between");
    }
    return NULL;
}

static int key_of(fh1_family family, const char *name)
{
    for (int i = 0; i < N_FIELDS; i++)
        if (belongs(&fields[i], family) && strcmp(name, fields[i].name) == 0) return i;
    for (int i = KEY_DTYPE; i < N_KEYS; i++)
        if (strcmp(name, other_keys[i - KEY_DTYPE]) == 0) return family == FH1_FALCON_H1 || i < KEY_BLOCK ? i : -1;
    return -1;
}

static fh1_status read_family(const gld_word *key, const char *value, fh1_family *family)
{
    if (fh1_family_find(value, family)) return NULL;
    return fh1_expected(bad_value(key, value), "one of falcon_h1, falcon_mamba");
}

static fh1_status read_rope(const gld_word *key, const char *value, fh1_rope_type *type)
{
    const char *names[FH1_ROPE_LONGROPE + 1];
    int found;
    for (int i = 0; i <= FH1_ROPE_LONGROPE; i++) names[i] = fh1_rope_type_name((fh1_rope_type)i);
    FH1_TRY(read_name(key, value, names, FH1_ROPE_LONGROPE + 1, &found));
    *type = (fh1_rope_type)found;
    return NULL;
}

static fh1_status read_block(const gld_word *key, const char *value, fh1_block *block)
{
    if (fh1_block_find(value, block)) return NULL;
    return fh1_expected(bad_value(key, value), "one of SA_M, SAM, S_A_M");
}

static fh1_status take(const gld_word *key, int which, const char *value, gld_seeded_spec *s, int n_factors[2])
{
    int k;
    switch (which) {
    case KEY_DTYPE:
        FH1_TRY(read_name(key, value, dtype_names, 3, &k));
        s->dtype = dtypes[k];
        return NULL;
    case KEY_WEIGHTS:
        FH1_TRY(read_name(key, value, weights_names, GLD_WEIGHTS_COUNT, &k));
        s->weights = (gld_weights)k;
        return NULL;
    case KEY_BLOCK: return read_block(key, value, &s->config.block);
    case KEY_FAMILY:
    case KEY_ROPE: return NULL; /* read before the others */
    case KEY_LONG:
    case KEY_SHORT: return read_factors(key, value, s->config.factors[which - KEY_LONG], &n_factors[which - KEY_LONG]);
    default: return read_field(key, &fields[which], value, &s->config);
    }
}

static fh1_status bind_factors(gld_seeded_spec *s, const int n[2])
{
    fh1_config *c = &s->config;
    const double **list[2] = {&c->rope.long_factor, &c->rope.short_factor};
    for (int k = 0; k < 2; k++) {
        if (n[k] == 0) continue;
        fh1_status e = fh1_where(FH1_BAD("not one factor per pair"), "%s", other_keys[KEY_LONG - KEY_DTYPE + k]);
        if (c->rope.type != FH1_ROPE_LONGROPE) return fh1_expected(e, "rope=longrope");
        if (n[k] != c->A / 2) return fh1_found(fh1_expected(e, "A/2 = %" PRId64 " numbers", c->A / 2), "%d", n[k]);
        *list[k] = c->factors[k];
    }
    return NULL;
}

fh1_status gld_seeded_parse(const char *text, gld_seeded_spec *out)
{
    gld_word key;
    fh1_rope_type rope = FH1_ROPE_DEFAULT;
    fh1_family family = FH1_FALCON_H1;
    int n_factors[2] = {0, 0};
    uint64_t given = 0;
    _Static_assert(N_KEYS <= 64, "one bit per key");
    if (strlen(text) >= GLD_WORD_SIZE) return FH1_BAD("the text is longer than %d bytes", GLD_WORD_SIZE - 1);
    for (const char *rest = text; gld_next_word(&rest, ',', &key);) { /* these two decide what is usual */
        char *value = gld_word_split(&key);
        if (value && strcmp(key.text, "family") == 0) FH1_TRY(read_family(&key, value, &family));
        if (value && strcmp(key.text, "rope") == 0) FH1_TRY(read_rope(&key, value, &rope));
    }
    usual_of(family, rope, out);
    for (const char *rest = text; gld_next_word(&rest, ',', &key);) {
        char shown[96], *value = gld_word_split(&key);
        int which = key_of(family, key.text);
        fh1_printable(key.text, shown, sizeof shown);
        if (!value) return fh1_found(fh1_expected(FH1_BAD("a key without a value"), "KEY=VALUE"), "'%s'", shown);
        if (which < 0) return fh1_hint(FH1_BAD("unknown key '%s'", shown), "see fh1 repro --help");
        if (given >> which & 1) return FH1_BAD("key %s is given twice", shown);
        given |= UINT64_C(1) << which;
        FH1_TRY(take(&key, which, value, out, n_factors));
    }
    derive(&out->config);
    FH1_TRY(bind_factors(out, n_factors));
    return gld_seeded_check(out);
}

static fh1_status add_bytes(void *user, const char *name, int rank, const int64_t *shape)
{
    double n = 1, *sum = user;
    (void)name;
    for (int i = 0; i < rank; i++) n *= (double)shape[i];
    *sum += n;
    return NULL;
}

fh1_status gld_seeded_check(const gld_seeded_spec *s)
{
    double n = 0;
    FH1_TRY(fh1_config_check(&s->config));
    if (s->config.n_layers > MAX_LAYERS) return FH1_BAD("more than %d layers", MAX_LAYERS);
    FH1_TRY(fh1_config_weights(&s->config, add_bytes, &n));
    const double bytes = n * fh1_dtype_bits(s->dtype) / 8;
    if (bytes <= (double)MAX_WEIGHT_BYTES) return NULL;
    fh1_status e = fh1_expected(FH1_BAD("the model is too large to be made in memory"), "at most 1 GiB of weights");
    return fh1_found(e, "%.3g GiB", bytes / 0x1p30);
}

/* -- writing ------------------------------------------------------------------------------------- */

static void print_field(const gld_spec_field *f, const fh1_config *c, FILE *out)
{
    const char *at = (const char *)c + f->offset;
    if (f->kind == GLD_SPEC_SWITCH) {
        fprintf(out, "%s=%d", f->name, *(const bool *)at);
    } else if (f->kind == GLD_SPEC_NUMBER) {
        double v;
        char text[32];
        memcpy(&v, at, sizeof v);
        fprintf(out, "%s=%s", f->name, gld_number_text(v, text));
    } else {
        int64_t v;
        memcpy(&v, at, sizeof v);
        fprintf(out, "%s=%" PRId64, f->name, v);
    }
}

void gld_seeded_print(const gld_seeded_spec *s, FILE *out)
{
    const fh1_config *c = &s->config;
    const double *list[2] = {c->rope.long_factor, c->rope.short_factor};
    gld_seeded_spec usual;
    usual_of(c->family, c->rope.type, &usual);
    if (c->family != FH1_FALCON_H1) fprintf(out, "family=%s,", fh1_family_name(c->family));
    for (int i = 0; i < N_FIELDS; i++) {
        if (!belongs(&fields[i], c->family)) continue;
        if (fields[i].kind != GLD_SPEC_SIZE && same_field(c, &usual.config, &fields[i])) continue;
        if (i) putc(',', out);
        print_field(&fields[i], c, out);
    }
    for (int k = 1; k < 3; k++)
        if (s->dtype == dtypes[k]) fprintf(out, ",dtype=%s", dtype_names[k]);
    if (s->weights != GLD_WEIGHTS_INIT) fprintf(out, ",weights=%s", weights_names[s->weights]);
    if (c->block != FH1_BLOCK_SA_M) fprintf(out, ",block=%s", fh1_block_name(c->block));
    if (c->rope.type != FH1_ROPE_DEFAULT) fprintf(out, ",rope=%s", fh1_rope_type_name(c->rope.type));
    for (int k = 0; k < 2; k++) {
        char text[32];
        if (list[k]) fprintf(out, ",%s=", other_keys[KEY_LONG - KEY_DTYPE + k]);
        for (int64_t i = 0; list[k] && i < c->A / 2; i++)
            fprintf(out, "%s%s", i ? "/" : "", gld_number_text(list[k][i], text));
    }
}
