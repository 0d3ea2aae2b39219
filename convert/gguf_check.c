/* What stock llama.cpp cannot represent, refused by the name of the key. Its loader would take most of these models
 * without a word and compute something else. */
#include "convert/gguf_export.h"

#include "convert/fault.h"

#include <math.h>
#include <stdio.h>

#define MAX_LAYERS 512 /* llama.cpp's table */

static fh1_status refuse(const cvt_ckpt *c, const char *key, const char *why)
{
    return fh1_hint(
        fh1_where(FH1_BAD("stock llama.cpp cannot represent the model: %s", why), "%s, config.json, %s", c->path, key),
        "keep the model as a Hugging Face folder or a .fh1 file");
}

fh1_status cvt_gguf_check_graph(const fh1_config *g, const char *where)
{
    static const char keep[] = "keep the model as a Hugging Face folder or a .fh1 file";
    if (g->family != FH1_FALCON_H1)
        return fh1_hint(fh1_where(FH1_BAD("fh1 writes and reads GGUF files of architecture falcon-h1 only, and the "
                                          "model is %s",
                                          fh1_family_name(g->family)),
                                  "%s, model_type", where),
                        "%s; for llama.cpp, convert the folder with llama.cpp's own script", keep);
    if (g->block == FH1_BLOCK_SA_M) return NULL;
    fh1_status s =
        FH1_BAD("llama.cpp's graph of falcon-h1 has one order of a layer's parts, and would compute that one");
    s = fh1_found(fh1_expected(fh1_where(s, "%s, fh1_block", where), "SA_M"), "%s", fh1_block_name(g->block));
    return fh1_hint(s, "%s", keep);
}

static fh1_status check_multipliers(const cvt_ckpt *c, const fh1_config *g)
{
    const struct {
        const char *key;
        double value;
    } m[] = {{"embedding_multiplier", g->m_emb},
             {"lm_head_multiplier", g->m_lm},
             {"key_multiplier", g->m_key},
             {"attention_in_multiplier", g->m_attn_in},
             {"attention_out_multiplier", g->m_attn_out},
             {"ssm_in_multiplier", g->m_ssm_in},
             {"ssm_out_multiplier", g->m_ssm_out},
             {"mlp_multipliers", g->m_gate},
             {"mlp_multipliers", g->m_down},
             {"ssm_multipliers", g->m_ssm[0]},
             {"ssm_multipliers", g->m_ssm[1]},
             {"ssm_multipliers", g->m_ssm[2]},
             {"ssm_multipliers", g->m_ssm[3]},
             {"ssm_multipliers", g->m_ssm[4]}};
    for (size_t i = 0; i < sizeof m / sizeof *m; i++)
        if (m[i].value == 0) return refuse(c, m[i].key, "a multiplier of 0 would erase the weights it is folded into");
    return NULL;
}

/* Marked as folded, and the config asks for multipliers all the same: they would be applied twice. */
static fh1_status check_folded(cvt_ckpt *c, const cJSON *config, const fh1_config *g)
{
    const cJSON *key = cJSON_GetObjectItemCaseSensitive(config, CVT_GGUF_FOLDED_KEY);
    const char *meta = cvt_ckpt_meta(c, CVT_GGUF_FOLDED_META);
    const int64_t conv = cvt_ckpt_find(c, "model.layers.0.mamba.conv1d.weight");
    if (CVT_FAULT(FOLDED_MARK_IGNORED)) return NULL;
    if (CVT_FAULT(FOLDED_BY_SHAPE) && conv >= 0 && c->tensors[conv].rank == 3) return NULL; /* PyTorch's layout */
    bool unit = g->m_emb == 1 && g->m_lm == 1 && g->m_key == 1 && g->m_attn_in == 1 && g->m_attn_out == 1 &&
                g->m_ssm_in == 1 && g->m_ssm_out == 1 && g->m_gate == 1 && g->m_down == 1;
    for (int k = 0; k < 5; k++) unit &= g->m_ssm[k] == 1;
    if ((!cJSON_IsTrue(key) && !meta) || unit) return NULL;
    return fh1_hint(
        fh1_where(FH1_BAD("the weights are folded already: folding the multipliers of config.json would apply them "
                          "twice"),
                  "%s, %s", c->path, meta ? "metadata " CVT_GGUF_FOLDED_META : "config.json, " CVT_GGUF_FOLDED_KEY),
        "convert the original model, or set every multiplier in config.json to 1");
}

fh1_status cvt_gguf_check_config(cvt_ckpt *c, const cJSON *config, const fh1_config *g)
{
    for (const cvt_ckpt *at = c; at; at = at->below)
        if (cvt_gguf_is_source(at))
            return fh1_hint(
                fh1_where(FH1_BAD("the model is a GGUF file already, its weights are folded"), "%s", c->path),
                "convert the original model; or convert this file to a Hugging Face folder first");
    char where[4200];
    snprintf(where, sizeof where, "%s, config.json", c->path);
    FH1_TRY(cvt_gguf_check_graph(g, where));
    FH1_TRY(check_folded(c, config, g));
    if (g->dt_lo > 0 || isfinite(g->dt_hi)) return refuse(c, "time_step_limit", "it knows no limits of the time step");
    if (g->mamba_rms_norm && g->norm_before_gate)
        return refuse(c, "mamba_norm_before_gate", "its norm comes after the gate");
    if (g->rope.type != FH1_ROPE_DEFAULT && g->rope.type != FH1_ROPE_LINEAR)
        return fh1_expected(fh1_found(refuse(c, "rope_scaling", "it does not scale rotations this way"), "%s",
                                      fh1_rope_type_name(g->rope.type)),
                            "default or linear");
    if (g->rope.max_position <= 0)
        return fh1_hint(fh1_where(FH1_BAD("the key is missing, and a GGUF file must say it"),
                                  "%s, config.json, max_position_embeddings", c->path),
                        "add the length that the model was trained for");
    if (g->n_layers > MAX_LAYERS) return refuse(c, "num_hidden_layers", "it holds at most 512 layers");
    return check_multipliers(c, g);
}
