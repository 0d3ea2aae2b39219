#include "cli/cost.h"

#include "oracle/model.h"

static fh1_status add_tensor(void *user, const char *name, int rank, const int64_t *shape)
{
    cli_count *k = user;
    double n = 1;
    for (int i = 0; i < rank; i++) n *= (double)shape[i];
    k->parts[cli_part_of(name)] += n;
    k->total += n;
    return NULL;
}

fh1_status cli_parameters_of(const fh1_config *c, cli_count *out)
{
    *out = (cli_count){0};
    return fh1_config_weights(c, add_tensor, out);
}

/* W·x, with a bias or without. */
static double product(int64_t out, int64_t in, bool bias)
{
    return 2 * (double)out * (double)in + (bias ? (double)out : 0);
}

/* Square, sum, scale, weight. */
static double norm(int64_t width)
{
    return 4 * (double)width;
}

/* The conv over its channels, and a state of N numbers for each of d_ssm channels: S = a·S + (Δx)·B is three operations
 * per number, S·C two; Δ·x, and D·x with its sum, and the gate: four per channel. */
static double conv_and_scan(const fh1_config *c)
{
    const double conv = product(fh1_conv_dim(c), c->K, c->mamba_conv_bias);
    return conv + 5 * (double)c->d_ssm * (double)c->N + 4 * (double)c->d_ssm;
}

static double mixer(const fh1_config *c)
{
    const double decays = (double)c->H; /* Δ·A */
    return product(fh1_in_proj_dim(c), c->D, c->mamba_proj_bias) + conv_and_scan(c) + decays +
           (c->mamba_rms_norm ? norm(c->d_ssm) : 0) + product(c->D, c->d_ssm, c->projectors_bias);
}

/* Falcon-Mamba: a decay for each number of the state; the norms of dt, B and C have no weight. */
static double mamba_mixer(const fh1_config *c)
{
    const double decays = (double)c->d_ssm * (double)c->N, inner = 3 * (double)fh1_x_proj_dim(c);
    return product(fh1_in_proj_dim(c), c->D, c->mamba_proj_bias) + conv_and_scan(c) + decays +
           product(fh1_x_proj_dim(c), c->d_ssm, false) + inner + product(c->d_ssm, c->R, true) +
           product(c->D, c->d_ssm, c->projectors_bias);
}

/* Two products and a sum rotate each number of q and k; a score and a weighted value are 2·head_dim per token seen. */
static double attention(const fh1_config *c, double context)
{
    const int64_t q = c->Hq * c->A, kv = c->Hkv * c->A;
    const bool bias = c->attention_bias;
    return product(q, c->D, bias) + 2 * product(kv, c->D, bias) + 3 * (double)(q + kv) + 4 * (double)q * context +
           product(c->D, q, bias);
}

static double mlp(const fh1_config *c)
{
    return 2 * product(c->F, c->D, c->mlp_bias) + (double)c->F + product(c->D, c->F, c->mlp_bias);
}

static int norms_of_layer(const fh1_config *c)
{
    if (c->family == FH1_FALCON_MAMBA || c->block == FH1_BLOCK_SAM) return 1;
    return c->block == FH1_BLOCK_S_A_M ? 3 : 2;
}

cli_count cli_flops_of(const fh1_config *c, double context)
{
    const double L = (double)c->n_layers;
    cli_count k = {
        .parts = {[CLI_NORMS] = norm(c->D) * (L * norms_of_layer(c) + 1), [CLI_HEAD] = product(c->V, c->D, false)}};
    if (c->family == FH1_FALCON_MAMBA) {
        k.parts[CLI_MIXER] = L * mamba_mixer(c);
    } else {
        k.parts[CLI_MIXER] = L * mixer(c);
        k.parts[CLI_ATTENTION] = L * attention(c, context);
        k.parts[CLI_MLP] = L * mlp(c);
    }
    for (int i = 0; i < CLI_N_PARTS; i++) k.total += k.parts[i];
    return k;
}
