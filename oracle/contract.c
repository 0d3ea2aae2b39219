#include "oracle/contract.h"

#include <ctype.h>
#include <float.h>
#include <stdio.h>
#include <string.h>

/* transformers' eager CPU path keeps every intermediate in the model's type, softmax, norms and silu
 * going through f32 and rounding once. Two values stay f32: the scan output of a prefill and the
 * state in the cache (read in 5.23.0 and seen in its traces). */
#define EAGER_POINTS(r, residual)                                                                                   \
    {                                                                                                               \
        [FH1_RP_EMBED] = r, [FH1_RP_NORM_INNER] = r, [FH1_RP_NORM] = r, [FH1_RP_SCALE_IN] = r, [FH1_RP_LINEAR] = r, \
        [FH1_RP_KEY] = r, [FH1_RP_ROPE_TABLE] = r, [FH1_RP_ROPE] = r, [FH1_RP_ROPE_SUM] = r, [FH1_RP_SCORE] = r,    \
        [FH1_RP_PROB] = r, [FH1_RP_CONTEXT] = r, [FH1_RP_MUP_VECTOR] = r, [FH1_RP_MUP] = r, [FH1_RP_CONV] = r,      \
        [FH1_RP_CONV_ACT] = r, [FH1_RP_DT] = r, [FH1_RP_STEP] = r, [FH1_RP_SSD] = FH1_ROUND_NONE,                   \
        [FH1_RP_SCAN_READ] = r, [FH1_RP_GATE_SILU] = r, [FH1_RP_GATED] = r, [FH1_RP_OUT_PRODUCT] = r,               \
        [FH1_RP_BRANCH] = r, [FH1_RP_RESIDUAL] = residual, [FH1_RP_MLP] = r, [FH1_RP_ACT] = r, [FH1_RP_HEAD] = r,   \
        [FH1_RP_LOGITS] = r                                                                                         \
    }

/* Below the normal range f32 has few bits left, products of decays lose them step by step, and many pipelines flush to
 * zero: nothing of the size of the smallest normal numbers is judged. The elementary functions: 4 u, since a vectorised
 * pow of a library is up to 2 ulp of its result off (measured in transformers' rope frequencies). */
#define F32_ARITHMETIC .u = 0x1p-24, .exp_units = 4, .underflow = 16 * 0x1p-126

/* llama.cpp computes in f32 and scans one token after another. The input of a product is brought to the type of the
 * weights, which are what the file says: judge them by `fh1 check FILE.gguf`. Its softplus is log(1 + exp). */
#define LLAMACPP .storage = FH1_F32, .any_form = true, .log_of_sum = true, F32_ARITHMETIC, .chunk = 1

/* Fused kernels on tensor cores round what they store, and what a tensor core reads where it is not of that type yet:
 * the weights of a softmax, and the operands of a chunked scan, in two parts. Multipliers meet f32 sums. */
#define TENSOR_CORE_POINTS(r, residual)                                                                            \
    {                                                                                                              \
        [FH1_RP_EMBED] = r, [FH1_RP_NORM] = r, [FH1_RP_LINEAR] = r, [FH1_RP_ROPE_SUM] = r, [FH1_RP_PROB_TILE] = r, \
        [FH1_RP_CONTEXT] = r, [FH1_RP_CONV_ACT] = r, [FH1_RP_SSD] = r, [FH1_RP_SSD_TILE] = r, [FH1_RP_GATED] = r,  \
        [FH1_RP_RESIDUAL] = residual, [FH1_RP_ACT] = r                                                             \
    }

/* An engine whose chunk is not known: kernels take 64 to 256 tokens at once. */
#define LONGEST_CHUNK 256

/* What a tensor core cuts off errs by twice as much as what is rounded. */
#define TENSOR_CORE_ARITHMETIC                                                                              \
    .any_form = true, .exact_angle = true, .u = 0x1p-23, .cut = 16, .exp_units = 4, .chunk = LONGEST_CHUNK, \
    .underflow = 16 * 0x1p-126

static const fh1_profile profiles[] = {
    {.name = "exact",
     .summary = "f64 throughout, rounds nowhere else",
     .storage = FH1_F64,
     .at = {FH1_ROUND_NONE},
     .any_form = true,
     .u = 0x1p-53,
     .exp_units = 4,
     .chunk = LONGEST_CHUNK,
     .underflow = 16 * DBL_MIN,
     .relative = 1e-11},
    {.name = "fp32",
     .summary = "f32 throughout, rounds nowhere else",
     .storage = FH1_F32,
     .at = {FH1_ROUND_NONE},
     .any_form = true,
     F32_ARITHMETIC,
     .chunk = LONGEST_CHUNK},
    {.name = "hf-eager-bf16",
     .summary = "transformers on the CPU, eager attention, bf16 model",
     .storage = FH1_BF16,
     .at = EAGER_POINTS(FH1_ROUND_BF16, FH1_ROUND_BF16),
     F32_ARITHMETIC},
    {.name = "hf-eager-fp16",
     .summary = "transformers on the CPU, eager attention, f16 model",
     .storage = FH1_F16,
     .at = EAGER_POINTS(FH1_ROUND_F16, FH1_ROUND_F16),
     F32_ARITHMETIC},
    {.name = "cuda-bf16",
     .summary = "fused kernels on tensor cores, bf16 model: rounded where stored, sums in f32",
     .storage = FH1_BF16,
     .at = TENSOR_CORE_POINTS(FH1_ROUND_BF16, FH1_ROUND_BF16),
     TENSOR_CORE_ARITHMETIC},
    {.name = "llamacpp-f32", .summary = "llama.cpp on the CPU, f32 GGUF, f32 KV cache, no flash attention", LLAMACPP},
    {.name = "llamacpp-bf16",
     .summary = "the same with a bf16 GGUF: inputs of products rounded to bf16",
     .at = {[FH1_RP_LINEAR_IN] = FH1_ROUND_BF16},
     LLAMACPP},
    {.name = "llamacpp-f16",
     .summary = "the same with an f16 GGUF: inputs of products rounded to f16",
     .at = {[FH1_RP_LINEAR_IN] = FH1_ROUND_F16},
     LLAMACPP},
    {.name = "llamacpp-q8_0",
     .summary = "the same with a q8_0 GGUF: inputs of products quantised in blocks of 32",
     .at = {[FH1_RP_LINEAR_IN] = FH1_ROUND_Q8_0},
     LLAMACPP},
};

/* The same pipelines where the residual stays in f32 (Falcon-Mamba with residual_in_fp32). The library rounds it in
 * front of each layer's norm; the last norm reads it as it is and leaves its output in f32, which lm_head rounds. Fused
 * kernels read it in f32 and store what every norm gives. */
static const fh1_profile wide_profiles[] = {
    {.name = "hf-eager-bf16",
     .summary = "transformers on the CPU, bf16 model, residual in f32",
     .storage = FH1_BF16,
     .wide_residual = FH1_ROUND_BF16,
     .at = EAGER_POINTS(FH1_ROUND_BF16, FH1_ROUND_NONE),
     F32_ARITHMETIC},
    {.name = "hf-eager-fp16",
     .summary = "transformers on the CPU, f16 model, residual in f32",
     .storage = FH1_F16,
     .wide_residual = FH1_ROUND_F16,
     .at = EAGER_POINTS(FH1_ROUND_F16, FH1_ROUND_NONE),
     F32_ARITHMETIC},
    {.name = "cuda-bf16",
     .summary = "fused kernels on tensor cores, bf16 model, residual in f32, also where a norm reads it",
     .storage = FH1_BF16,
     .at = TENSOR_CORE_POINTS(FH1_ROUND_BF16, FH1_ROUND_NONE),
     TENSOR_CORE_ARITHMETIC},
};

const fh1_rules fh1_rule = {
    .alpha = 1e-6,
    .truth = 0x1p-24,
    .rms_band = 1.5,
    .band_low = 0.5,
    .band_tap = 2,
    .band_unit = 4,
    .band_token = 16,
    .chain_element = 20,
    .chain_ulps = 4,
    .min_elements = 32,
    .flip_sigmas = 4 * 1.4142135623730951,
    .law_f64 = 1e-12,
    .suspect = 0.5,
    .explained = 0.9,
    .noise_share = 0.98,
    .suspect_work = 1e12,
    .vacuous = 1,
    .grad_runs = 8,
    .grad_factor = 1e-3,
    .grad_step = 1e-12,
    .grad_along = 1e-14,
    .trend_rise = 2,
    .trend_least = 0.125,
    .trend_runs = 3,
};

static const fh1_variant_info variants[] = {
    {"mup_rounded", FH1_VAR_MUP_ROUNDED,
     "ssm_multipliers rounded to bf16: a model loaded as bf16, then moved to float32 (transformers, all versions)"},
    {"decode_no_dt_limit", FH1_VAR_DECODE_NO_DT_LIMIT,
     "time_step_limit ignored in one-token steps (transformers 5.15 to 5.23, CUDA kernels of all versions)"},
    {"no_dt_limit", FH1_VAR_NO_DT_LIMIT, "time_step_limit ignored everywhere (transformers 4.53 to 5.3)"},
    {"in_proj_bias_at_pads", FH1_VAR_IN_PROJ_BIAS_AT_PADS,
     "the bias of in_proj at left pads enters the conv window (transformers, all versions up to 5.23; falcon_mamba in "
     "5.23)"},
    {"right_pad_cache", FH1_VAR_RIGHT_PAD_CACHE,
     "after right padding: conv window of the last columns, state decayed over the pads (transformers, all "
     "versions up to 5.23)"},
    {"history_dropped", FH1_VAR_HISTORY_DROPPED,
     "several tokens on a cache start from empty conv and state (transformers 4.53 to 5.12)"},
    {"pads_in_mixer", FH1_VAR_PADS_IN_MIXER,
     "in a padded batch of one, pads are real tokens for the mixer and attend to pads (transformers 4.53 to 5.3)"},
    {"mixer_leaks_docs", FH1_VAR_MIXER_LEAKS_DOCS,
     "documents part in attention only, conv and state run on (transformers up to about 5.19; all versions "
     "where only restarted positions mark the documents)"},
    {"scan_restarts", FH1_VAR_SCAN_RESTARTS,
     "several tokens on a cache: the conv goes on, the state starts at zero (falcon_mamba in transformers up to 5.23)"},
    {"dt_norm_after_dt_proj", FH1_VAR_DT_NORM_AFTER_DT_PROJ,
     "the inner norm of dt stands behind dt_proj, over all channels (falcon_mamba of transformers in training, by the "
     "fused kernel)"},
    {"theta_class_default", FH1_VAR_THETA_CLASS_DEFAULT,
     "rope_theta 1e5 whatever config.json says (a folder of transformers 5 read by 4.57)"},
    {"doc_reset_80", FH1_VAR_DOC_RESET_80,
     "the log-decay of a document's first token is -80, which leaves 1.8e-35 of the state before it (the training "
     "trick of Falcon-H1's report)"},
};

enum { N_PROFILES = sizeof profiles / sizeof *profiles, N_VARIANTS = sizeof variants / sizeof *variants };

const fh1_profile *fh1_profile_at(int i)
{
    return i >= 0 && i < N_PROFILES ? &profiles[i] : NULL;
}

const fh1_profile *fh1_profile_find(const char *name)
{
    for (int i = 0; i < N_PROFILES; i++)
        if (strcmp(profiles[i].name, name) == 0) return &profiles[i];
    return NULL;
}

const fh1_profile *fh1_profile_for(const fh1_profile *p, const fh1_config *c)
{
    if (!c || c->family != FH1_FALCON_MAMBA || !c->residual_in_fp32) return p;
    for (size_t i = 0; i < sizeof wide_profiles / sizeof *wide_profiles; i++)
        if (strcmp(wide_profiles[i].name, p->name) == 0) return &wide_profiles[i];
    return p;
}

const fh1_variant_info *fh1_variant_at(int i)
{
    return i >= 0 && i < N_VARIANTS ? &variants[i] : NULL;
}

const fh1_profile *fh1_profile_for_dtype(fh1_dtype t)
{
    switch (t) {
    case FH1_F32: return fh1_profile_find("fp32");
    case FH1_BF16: return fh1_profile_find("hf-eager-bf16");
    case FH1_F16: return fh1_profile_find("hf-eager-fp16");
    default: return fh1_profile_find("exact");
    }
}

double fh1_doc_reset(unsigned set)
{
    return set & FH1_VAR_DOC_RESET_80 ? -80 : 0;
}

fh1_round fh1_profile_scan_output(const fh1_profile *p, bool one_token)
{
    const fh1_round step = p->at[FH1_RP_STEP];
    return one_token && step != FH1_ROUND_NONE ? step : p->at[FH1_RP_SSD];
}

fh1_profile fh1_profile_head(const fh1_profile *p)
{
    fh1_profile head = *p;
    head.at[FH1_RP_LINEAR] = p->at[FH1_RP_HEAD];
    if (p->wide_residual != FH1_ROUND_NONE) head.at[FH1_RP_LINEAR_IN] = p->wide_residual;
    return head;
}

fh1_profile fh1_profile_linear(const fh1_profile *p, const fh1_config *c, fh1_tap_id id, int64_t T)
{
    if (id == FH1_TAP_LOGITS) return fh1_profile_head(p);
    fh1_profile linear = *p;
    if (id == FH1_TAP_OUT_PROJ && c->family == FH1_FALCON_MAMBA && T > 1)
        linear.before_bias = p->at[FH1_RP_OUT_PRODUCT];
    return linear;
}

fh1_profile fh1_profile_final_norm(const fh1_profile *p)
{
    fh1_profile norm = *p;
    if (p->wide_residual != FH1_ROUND_NONE) norm.at[FH1_RP_NORM_INNER] = norm.at[FH1_RP_NORM] = FH1_ROUND_NONE;
    return norm;
}

/* Taps that a 16-bit pipeline may leave in f32: those that it does not round. */
static bool stays_wide(const fh1_profile *p, fh1_tap_id id, bool one_token)
{
    switch (id) {
    case FH1_TAP_CACHE_SSM:
    case FH1_TAP_LOSS: return true;
    case FH1_TAP_SSD: return fh1_profile_scan_output(p, one_token) == FH1_ROUND_NONE;
    case FH1_TAP_DT: return p->at[FH1_RP_DT] == FH1_ROUND_NONE;
    case FH1_TAP_CACHE_CONV: return p->at[FH1_RP_MUP] == FH1_ROUND_NONE;
    case FH1_TAP_LOGITS: return p->at[FH1_RP_LOGITS] == FH1_ROUND_NONE;
    case FH1_TAP_LAYER: return p->at[FH1_RP_RESIDUAL] == FH1_ROUND_NONE;
    case FH1_TAP_FINAL_LAYERNORM: return p->wide_residual != FH1_ROUND_NONE;
    default: return false;
    }
}

fh1_dtype fh1_profile_tap_dtype(const fh1_profile *p, fh1_tap_id id, bool one_token, const fh1_config *c)
{
    p = fh1_profile_for(p, c);
    if (p->storage == FH1_F64 || p->storage == FH1_F32) return p->storage;
    return stays_wide(p, id, one_token) ? FH1_F32 : p->storage;
}

/* The next name of a list, without the blanks around it: [*begin, *begin + *n). False at the end. */
static bool next_name(const char **rest, char separator, const char **begin, int *n)
{
    if (!*rest) return false;
    const char *end = strchr(*rest, separator), *stop = end ? end : *rest + strlen(*rest);
    while (*rest < stop && isspace((unsigned char)**rest)) ++*rest;
    while (stop > *rest && isspace((unsigned char)stop[-1])) stop--;
    *begin = *rest;
    *n = (int)(stop - *rest);
    *rest = end ? end + 1 : NULL;
    return true;
}

static bool same_name(const char *begin, int n, const char *name)
{
    return strlen(name) == (size_t)n && memcmp(begin, name, (size_t)n) == 0;
}

static void append_name(char *list, size_t size, const char *name)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", name);
}

static fh1_status add_variant(const char *begin, int n, unsigned *set)
{
    for (int i = 0; i < N_VARIANTS; i++) {
        if (!same_name(begin, n, variants[i].name)) continue;
        *set |= variants[i].bit;
        return NULL;
    }
    char known[256] = "";
    for (int i = 0; i < N_VARIANTS; i++) append_name(known, sizeof known, variants[i].name);
    return fh1_expected(FH1_BAD("unknown variant '%.*s'", n > 80 ? 80 : n, begin), "one of %s", known);
}

fh1_status fh1_variants_parse(const char *list, unsigned *set)
{
    const char *rest = list, *name;
    int n;
    *set = 0;
    if (list[strspn(list, " \t\r\n")] == '\0') return NULL;
    while (next_name(&rest, ',', &name, &n)) FH1_TRY(add_variant(name, n, set));
    return NULL;
}

fh1_status fh1_contract_parse(const char *text, const fh1_profile **profile, unsigned *set)
{
    const char *rest = text, *name;
    int n;
    *profile = NULL;
    *set = 0;
    next_name(&rest, '+', &name, &n);
    for (int i = 0; i < N_PROFILES; i++)
        if (same_name(name, n, profiles[i].name)) *profile = &profiles[i];
    if (!*profile) {
        char known[256] = "";
        for (int i = 0; i < N_PROFILES; i++) append_name(known, sizeof known, profiles[i].name);
        fh1_status s = FH1_BAD("unknown rounding profile '%.*s'", n > 80 ? 80 : n, name);
        s = fh1_expected(s, "one of %s", known);
        return fh1_hint(s, "switches follow the profile, as in fp32+mup_rounded");
    }
    while (next_name(&rest, '+', &name, &n)) FH1_TRY(add_variant(name, n, set));
    return NULL;
}
