#include "cli/space.h"

#include "cli/options.h"
#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/text.h"
#include "golden/words.h"
#include "oracle/mup.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char report_model[] =
    "{\n"
    "  \"architectures\": [\"FalconH1ForCausalLM\"],\n"
    "  \"attention_bias\": false,\n"
    "  \"attention_dropout\": 0.0,\n"
    "  \"attention_in_multiplier\": 1.0,\n"
    "  \"attention_out_multiplier\": 0.5,\n"
    "  \"attn_layer_indices\": null,\n"
    "  \"bos_token_id\": 1,\n"
    "  \"embedding_multiplier\": 5.656854249492381,\n"
    "  \"eos_token_id\": 11,\n"
    "  \"fh1_block\": \"SA_M\",\n"
    "  \"head_dim\": 128,\n"
    "  \"hidden_act\": \"silu\",\n"
    "  \"hidden_size\": 1280,\n"
    "  \"initializer_range\": 0.02,\n"
    "  \"intermediate_size\": 3040,\n"
    "  \"key_multiplier\": 0.17677669529663687,\n"
    "  \"lm_head_multiplier\": 0.03125,\n"
    "  \"mamba_chunk_size\": 128,\n"
    "  \"mamba_conv_bias\": true,\n"
    "  \"mamba_d_conv\": 4,\n"
    "  \"mamba_d_head\": 64,\n"
    "  \"mamba_d_ssm\": 1024,\n"
    "  \"mamba_d_state\": 256,\n"
    "  \"mamba_expand\": 2,\n"
    "  \"mamba_n_groups\": 1,\n"
    "  \"mamba_n_heads\": 16,\n"
    "  \"mamba_norm_before_gate\": false,\n"
    "  \"mamba_proj_bias\": false,\n"
    "  \"mamba_rms_norm\": true,\n"
    "  \"mamba_use_mlp\": true,\n"
    "  \"max_position_embeddings\": 131072,\n"
    "  \"mlp_bias\": false,\n"
    "  \"mlp_multipliers\": [0.7071067811865476, 0.3125],\n"
    "  \"model_type\": \"falcon_h1\",\n"
    "  \"num_attention_heads\": 6,\n"
    "  \"num_hidden_layers\": 60,\n"
    "  \"num_key_value_heads\": 2,\n"
    "  \"num_logits_to_keep\": 1,\n"
    "  \"pad_token_id\": 0,\n"
    "  \"projectors_bias\": false,\n"
    "  \"rms_norm_eps\": 1e-05,\n"
    "  \"rope_scaling\": null,\n"
    "  \"rope_theta\": 100000000000.0,\n"
    "  \"ssm_in_multiplier\": 1.0,\n"
    "  \"ssm_multipliers\": [0.3535533905932738, 0.25, 0.1767766952966369, 0.5, 0.3535533905932738],\n"
    "  \"ssm_out_multiplier\": 0.23570226039551587,\n"
    "  \"tie_word_embeddings\": false,\n"
    "  \"torch_dtype\": \"bfloat16\",\n"
    "  \"vocab_size\": 65537\n"
    "}\n";

/* ---- fractions ---- */

fh1_status cli_fractions_read(const char *text, cli_fractions *out)
{
    int v[3] = {0}, n = 0;
    for (const char *at = text; n < 3; at++) {
        char word[8];
        const size_t length = strcspn(at, ",");
        int64_t number;
        snprintf(word, sizeof word, "%.*s", length < sizeof word ? (int)length : 0, at);
        if (!cli_read_int(word, &number) || number < 0 || number > 99) break;
        v[n++] = (int)number;
        at += length;
        if (*at == '\0' && n < 3) break;
        if (n == 3 && *at != '\0') n = 4;
    }
    if (n != 3)
        return fh1_found(
            fh1_expected(FH1_BAD("--fractions: not three numbers"), "eighths of mixer, attention and MLP, as 2,1,5"),
            "'%.60s'", text);
    static const char *const part[] = {"mixer", "attention", "MLP"};
    for (int i = 0; i < 3; i++)
        if (v[i] < 1)
            return fh1_found(fh1_expected(FH1_BAD("--fractions: nothing is left for the %s", part[i]), "1 or more"),
                             "%d", v[i]);
    if (v[0] + v[1] + v[2] != 8)
        return fh1_found(
            fh1_expected(FH1_BAD("--fractions: the eighths of mixer, attention and MLP do not add up"), "8"),
            "%d + %d + %d = %d", v[0], v[1], v[2], v[0] + v[1] + v[2]);
    *out = (cli_fractions){v[0], v[1], v[2]};
    return NULL;
}

void cli_fractions_all(cli_fractions out[CLI_N_FRACTIONS])
{
    int n = 0;
    for (int s = 1; s <= 6; s++)
        for (int a = 1; a <= 7 - s; a++) out[n++] = (cli_fractions){s, a, 8 - s - a};
}

/* ---- keys ---- */

/* Sets a key of the outermost object; every other byte stays. */
static fh1_status set_key(char **text, size_t *n, const char *key, const char *value)
{
    size_t begin, end;
    cvt_text b = {0};
    if (cvt_json_find_value(*text, *n, key, &begin, &end)) {
        cvt_text_bytes(&b, *text, begin);
        cvt_text_add(&b, "%s", value);
        cvt_text_bytes(&b, *text + end, *n - end);
    } else {
        begin = (size_t)(strchr(*text, '{') - *text) + 1; /* it is a JSON object with keys in it */
        cvt_text_bytes(&b, *text, begin);
        cvt_text_add(&b, "\n  \"%s\": %s,", key, value);
        cvt_text_bytes(&b, *text + begin, *n - begin);
    }
    if (b.failed) {
        free(b.s);
        return fh1_no_memory(*n, "config.json");
    }
    free(*text);
    *text = b.s;
    *n = b.n;
    return NULL;
}

static fh1_status set_int(char **text, size_t *n, const char *key, int64_t v)
{
    char value[32];
    snprintf(value, sizeof value, "%" PRId64, v);
    return set_key(text, n, key, value);
}

/* The law's multipliers: seven keys with a number, and two lists. */
static fh1_status set_multipliers(char **text, size_t *n, const fh1_mup_widths *w)
{
    double m[FH1_N_MULTIPLIERS];
    char value[8 * 32], number[32];
    fh1_mup_law(w, m);
    for (int i = 0; i < 7; i++) FH1_TRY(set_key(text, n, fh1_multiplier_name(i), gld_number_text(m[i], number)));
    snprintf(value, sizeof value, "[%s", gld_number_text(m[7], number));
    snprintf(value + strlen(value), sizeof value - strlen(value), ", %s]", gld_number_text(m[8], number));
    FH1_TRY(set_key(text, n, "mlp_multipliers", value));
    *value = '\0';
    for (int i = 9; i < FH1_N_MULTIPLIERS; i++)
        snprintf(value + strlen(value), sizeof value - strlen(value), "%s%s", i > 9 ? ", " : "[",
                 gld_number_text(m[i], number));
    snprintf(value + strlen(value), sizeof value - strlen(value), "]");
    return set_key(text, n, "ssm_multipliers", value);
}

/* ---- widths ---- */

/* The base's head width where an eighth is a whole multiple of `share` such heads, else the largest power of two below
 * it; 0: none, not even `least`. */
static int64_t head_width(int64_t eighth, int64_t base, int64_t share, int64_t least)
{
    if (eighth % (base * share) == 0) return base;
    int64_t w = 1;
    while (2 * w <= base) w *= 2;
    while (w >= least && eighth % (w * share) != 0) w /= 2;
    return w >= least ? w : 0;
}

static fh1_status no_heads(const char *part, int64_t eighth, int64_t share, const char *shared)
{
    fh1_status s = FH1_BAD("an eighth of the %s, %" PRId64 ", holds no heads that %" PRId64 " %s share evenly", part,
                           eighth, share, shared);
    return fh1_hint(s, "choose another --width, or a base config with fewer %s", shared);
}

/* Of the 21 partitions at width D: eighths are 2D/5, 3D/5 and 19D/40 wide. */
static fh1_status set_widths(char **text, size_t *n, const fh1_config *base, const cli_space *p, int64_t D)
{
    if (D % 40 != 0)
        return fh1_hint(
            fh1_found(fh1_expected(FH1_BAD("eighths of this width are no whole numbers"), "a multiple of 40"),
                      "%" PRId64, D),
            "4096/8, 6144/8 and 4864/8 at width 1280 are 16, 24 and 19 fortieths of the width");
    const int64_t ssm = D / 40 * 16, attention = D / 40 * 24, mlp = D / 40 * 19;
    const int64_t P = head_width(ssm, base->P, base->G, 1), A = head_width(attention, base->A, base->Hkv, 2);
    if (!P) return no_heads("mixer", ssm, base->G, "groups");
    if (!A) return no_heads("attention", attention, base->Hkv, "key/value heads");
    FH1_TRY(set_int(text, n, "hidden_size", D));
    FH1_TRY(set_int(text, n, "mamba_d_ssm", ssm * p->f.s));
    FH1_TRY(set_int(text, n, "mamba_d_head", P));
    FH1_TRY(set_int(text, n, "mamba_n_heads", ssm * p->f.s / P));
    FH1_TRY(set_int(text, n, "head_dim", A));
    FH1_TRY(set_int(text, n, "num_attention_heads", attention * p->f.a / A));
    FH1_TRY(set_int(text, n, "intermediate_size", mlp * p->f.m));
    const fh1_mup_widths w = {.D = D,
                              .attention = attention * p->f.a,
                              .d_ssm = ssm * p->f.s,
                              .F = mlp * p->f.m,
                              .A = A,
                              .N = p->N ? p->N : base->N};
    return set_multipliers(text, n, &w);
}

/* ---- the config ---- */

static fh1_status parse(const char *text, size_t n, const char *name, fh1_config *out)
{
    cJSON *json = NULL;
    FH1_TRY(cvt_json_parse(text, n, CVT_HF_CONFIG_DEPTH, name, &json));
    fh1_status s = cvt_hf_config_parse(json, name, out);
    cJSON_Delete(json);
    return s;
}

static fh1_status edit(const fh1_config *base, const cli_space *p, char **text, size_t *n)
{
    if (p->has_block) {
        char block[16];
        snprintf(block, sizeof block, "\"%s\"", fh1_block_name(p->block));
        FH1_TRY(set_key(text, n, "fh1_block", block));
    }
    if (p->layers) FH1_TRY(set_int(text, n, "num_hidden_layers", p->layers));
    if (p->layers) FH1_TRY(set_key(text, n, "attn_layer_indices", "null")); /* it lists all of them, or none */
    if (p->N) FH1_TRY(set_int(text, n, "mamba_d_state", p->N));
    if (p->V) FH1_TRY(set_int(text, n, "vocab_size", p->V));
    return p->f.s ? set_widths(text, n, base, p, p->D ? p->D : base->D) : NULL;
}

fh1_status cli_space_config(const char *base, const cli_space *p, char **text, size_t *n, fh1_config *config)
{
    const char *name = base ? base : "the model of the report";
    *text = NULL;
    if (base) FH1_TRY(cvt_file_read(base, CVT_HF_CONFIG_BYTES, text, n));
    else if (!(*text = strdup(report_model))) return fh1_no_memory(sizeof report_model, "config.json");
    else *n = sizeof report_model - 1;
    fh1_status s = parse(*text, *n, name, config);
    if (!s && config->family != FH1_FALCON_H1)
        s = fh1_hint(fh1_where(FH1_BAD("%s has no search space", fh1_family_name(config->family)), "%s", name),
                     "--block, --fractions, --layers, --width, --state, --vocab and --list are for falcon_h1; change "
                     "config.json itself");
    if (!s) s = edit(config, p, text, n);
    if (!s) s = parse(*text, *n, name, config);
    if (s) {
        free(*text);
        *text = NULL;
    }
    return s;
}
