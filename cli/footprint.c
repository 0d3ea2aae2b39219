#include "cli/footprint.h"

#include <inttypes.h>
#include <string.h>

const char *cli_part_name(int part)
{
    static const char *const names[CLI_N_PARTS] = {"embedding", "attention", "mixer", "mlp", "norms", "lm_head"};
    return names[part];
}

int cli_part_of(const char *name)
{
    if (strstr(name, ".self_attn.")) return CLI_ATTENTION;
    if (strstr(name, ".mamba.") || strstr(name, ".mixer.")) return CLI_MIXER;
    if (strstr(name, ".feed_forward.")) return CLI_MLP;
    if (strstr(name, "embed_tokens") || strstr(name, ".embeddings.")) return CLI_EMBEDDING;
    return strstr(name, "norm") ? CLI_NORMS : CLI_HEAD; /* input_layernorm; norm and norm_f of Falcon-Mamba */
}

/* bytes = 4 · Π dims; false on overflow */
static bool f32_bytes(const int64_t *dims, int n, uint64_t *out)
{
    int64_t v = 4;
    for (int i = 0; i < n; i++)
        if (!fh1_mul_i64(v, dims[i], &v)) return false;
    *out = (uint64_t)v;
    return true;
}

fh1_status cli_footprint_of(const fh1_model *m, int64_t B, int64_t T, cli_footprint *out)
{
    const fh1_config *c = &m->config;
    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < m->n_weights; i++) {
        int64_t n = fh1_n_elems(&m->weights[i].t);
        out->total += n;
        out->parts[cli_part_of(m->weights[i].name)] += n;
        out->weight_bytes += fh1_n_bytes(&m->weights[i].t);
    }
    out->tensors = m->n_weights;

    /* The widest moment of a layer: the residual stream, its norm and both branch outputs; then either
     * in_proj, conv, step sizes, scan and gate, in Falcon-Mamba x_proj and its norms, or three times F. Beside it one
     * weight panel of 8 MiB per thread. */
    int64_t mixer = fh1_in_proj_dim(c) + fh1_conv_dim(c) + c->H + 2 * c->d_ssm + 2 * fh1_x_proj_dim(c), mlp = 3 * c->F;
    int64_t width = 4 * c->D + (c->Hq * 2 + c->Hkv * 2) * c->A + (mixer > mlp ? mixer : mlp);
    uint64_t logits = 0;
    bool ok = f32_bytes((const int64_t[]){2, c->n_layers, B, c->Hkv, T, c->A}, 6, &out->kv_bytes) &&
              f32_bytes((const int64_t[]){c->n_layers, B, fh1_conv_dim(c), c->K - 1}, 4, &out->conv_bytes) &&
              f32_bytes((const int64_t[]){c->n_layers, B, c->H, c->P, c->N}, 5, &out->ssm_bytes) &&
              f32_bytes((const int64_t[]){B, T, width}, 3, &out->workspace_bytes) &&
              f32_bytes((const int64_t[]){B, c->V}, 2, &logits);
    if (!ok) return FH1_BAD("%" PRId64 " rows of %" PRId64 " tokens need more bytes than a number can hold", B, T);
    out->workspace_bytes += logits + (8u << 20);
    return NULL;
}
