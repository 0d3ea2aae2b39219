#include "fuzz/slow_rules.h"

#include "fuzz/plant.h"

#include <math.h>

typedef unsigned __int128 wide;

/* Three sizes of at most 2^31 need 93 bits. */
static bool fits(int64_t a, int64_t b, int64_t c)
{
    return (wide)a * (wide)b * (wide)c <= (wide)1 << 48;
}

static bool is_size(int64_t v)
{
    return v >= 1 && v <= INT64_C(2147483648);
}

static bool sizes_hold(const fh1_config *c)
{
    const int64_t all[] = {c->n_layers, c->D, c->V, c->F, c->Hq, c->Hkv, c->A, c->H, c->P, c->N, c->G, c->K, c->Q};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!is_size(all[i])) return false;
    if (!is_size(c->d_ssm) || c->K > 64) return false;
    if (!fits(c->V, c->D, 1) || !fits(c->F, c->D, 1) || !fits(c->Hq, c->A, c->D) || !fits(c->Hkv, c->A, c->D) ||
        !fits(c->H, c->P, c->N) || !fits(c->G, c->N, 1))
        return false;
    const int64_t in = 2 * (c->H * c->P) + 2 * (c->G * c->N) + c->H; /* each at most 2^49 */
    if (!fits(in, c->D, 1) || !fits(in, c->K, 1)) return false;
    if (c->A % 2 != 0) return false;
    if (c->Hq % c->Hkv != 0 && !fuzz_planted("heads")) return false;
    return c->H % c->G == 0 && c->d_ssm == c->H * c->P;
}

static bool mamba_sizes_hold(const fh1_config *c)
{
    const int64_t all[] = {c->n_layers, c->D, c->V, c->d_ssm, c->N, c->K, c->R};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!is_size(all[i])) return false;
    return c->K <= 64 && fits(c->V, c->D, 1) && fits(2 * c->d_ssm, c->D, 1) && fits(c->d_ssm, c->R + 2 * c->N, 1) &&
           fits(c->d_ssm, c->K, 1);
}

static bool above_zero(double v)
{
    return v > 0 && v < (double)INFINITY;
}

static bool numbers_hold(const fh1_config *c)
{
    const double m[] = {c->m_emb,  c->m_lm,   c->m_key,    c->m_attn_in, c->m_attn_out, c->m_ssm_in, c->m_ssm_out,
                        c->m_gate, c->m_down, c->m_ssm[0], c->m_ssm[1],  c->m_ssm[2],   c->m_ssm[3], c->m_ssm[4]};
    for (size_t i = 0; i < sizeof m / sizeof *m; i++)
        if (!isfinite(m[i])) return false;
    return above_zero(c->eps) && isfinite(c->dt_lo) && c->dt_lo >= 0 && c->dt_hi > 0 && c->dt_lo <= c->dt_hi &&
           c->n_eos >= 0 && c->n_eos <= 8;
}

static bool zero_or_above(double v)
{
    return v == 0 || above_zero(v);
}

static bool rope_holds(const fh1_config *c)
{
    const fh1_rope *r = &c->rope;
    const bool yarn = r->type == FH1_ROPE_YARN, longrope = r->type == FH1_ROPE_LONGROPE;
    const bool llama3 = r->type == FH1_ROPE_LLAMA3, dynamic = r->type == FH1_ROPE_DYNAMIC;
    if (!above_zero(r->theta) || (yarn && r->theta <= 1)) return false;
    if (r->max_position < 0 || r->max_position > INT64_C(2147483648)) return false;
    if (dynamic && (r->max_position < 1 || c->A < 4)) return false;
    if (r->type != FH1_ROPE_DEFAULT && !above_zero(r->factor) && !((yarn || longrope) && r->factor == 0)) return false;
    if ((yarn || longrope || llama3) && (r->original_max_position < 2 || !is_size(r->original_max_position)))
        return false;
    if (yarn && !(above_zero(r->beta_fast) && above_zero(r->beta_slow) && zero_or_above(r->mscale) &&
                  zero_or_above(r->mscale_all_dim)))
        return false;
    if ((yarn || longrope) && (!zero_or_above(r->attention_factor) || (r->factor == 0 && r->max_position < 1)))
        return false;
    if (llama3 && !(above_zero(r->low_freq_factor) && above_zero(r->high_freq_factor) &&
                    r->high_freq_factor > r->low_freq_factor))
        return false;
    if (!longrope) return true;
    if (c->A > 1025 || !r->long_factor || !r->short_factor) return false; /* A is even */
    for (int64_t i = 0; i < c->A / 2; i++)
        if (!above_zero(r->long_factor[i]) || !above_zero(r->short_factor[i])) return false;
    return true;
}

bool slow_config_holds(const fh1_config *c)
{
    if (c->family == FH1_FALCON_MAMBA) return mamba_sizes_hold(c) && numbers_hold(c) && above_zero(c->mixer_eps);
    return sizes_hold(c) && numbers_hold(c) && rope_holds(c);
}

static double mamba_parameters(const fh1_config *c)
{
    const double D = (double)c->D, I = (double)c->d_ssm, N = (double)c->N, R = (double)c->R;
    double layer = 2 * I * D + (R + 2 * N) * I + I * R + D * I; /* in_proj, x_proj, dt_proj, out_proj */
    layer += I * N + I + I + I * (double)c->K + D;              /* A_log, D, dt_proj's bias, conv, norm */
    if (c->mamba_proj_bias) layer += 2 * I + D;
    if (c->mamba_conv_bias) layer += I;
    return (double)c->n_layers * layer + (c->tied ? 1 : 2) * (double)c->V * D + D;
}

double slow_parameters(const fh1_config *c)
{
    if (c->family == FH1_FALCON_MAMBA) return mamba_parameters(c);
    const int norms = c->block == FH1_BLOCK_SAM ? 1 : c->block == FH1_BLOCK_S_A_M ? 3 : 2;
    const double D = (double)c->D, F = (double)c->F, H = (double)c->H, K = (double)c->K, d = (double)c->d_ssm;
    const double q = (double)(c->Hq * c->A), kv = (double)(c->Hkv * c->A), gn = (double)(c->G * c->N);
    const double conv = d + 2 * gn, in = d + conv + H;
    double layer = 3 * F * D + q * D + 2 * kv * D + D * q + in * D + D * d; /* the nine projections */
    layer += conv * K + 3 * H + norms * D;                                  /* conv; dt_bias, A_log, D; norms */
    if (c->mlp_bias) layer += 2 * F + D;
    if (c->attention_bias) layer += q + 2 * kv + D;
    if (c->mamba_proj_bias) layer += in;
    if (c->projectors_bias) layer += D;
    if (c->mamba_conv_bias) layer += conv;
    if (c->mamba_rms_norm) layer += d;
    return (double)c->n_layers * layer + (c->tied ? 1 : 2) * (double)c->V * D + D;
}

/* The table of taps in docs/taps.md: per token; per call and row; per call, row and column of the cache, each call
 * with those that the last of its repetitions has. The loss counts as one number per token. */
static double recorded_per_token(const fh1_config *c)
{
    const double D = (double)c->D, q = (double)(c->Hq * c->A), kv = (double)(c->Hkv * c->A), F = (double)c->F;
    const double d = (double)c->d_ssm, conv = d + 2 * (double)(c->G * c->N), L = (double)c->n_layers;
    const double xdt = (double)(c->R + 2 * c->N) + d;
    if (c->family == FH1_FALCON_MAMBA) return D + L * (D + 2 * d + d + xdt + d + d + D + D) + D + (double)c->V + 1;
    const int sums = c->block == FH1_BLOCK_SAM ? 1 : c->block == FH1_BLOCK_S_A_M ? 3 : 2; /* and as many norms */
    const double attention = q + 2 * kv + q + kv + q + D; /* projections, rotated, context, o_proj */
    const double mixer = (d + conv + (double)c->H) + conv + (double)c->H + d + d + D;
    const double mlp = 3 * F + D;
    return 2 * D + L * (attention + mixer + mlp + 2 * sums * D) + D + (double)c->V + 1;
}

double slow_recorded(const gld_calls *s, const fh1_config *c)
{
    const double kv = (double)(c->Hkv * c->A), L = (double)c->n_layers, d = (double)c->d_ssm;
    const double conv = d + (c->family == FH1_FALCON_MAMBA ? 0 : 2 * (double)(c->G * c->N));
    const double token = recorded_per_token(c), row = L * (conv * (double)(c->K - 1) + d * (double)c->N);
    double sum = 0, columns = 0;
    for (int i = 0; i < s->n; i++) {
        const double T = (double)s->call[i].T, times = (double)s->call[i].times;
        columns += T * times;
        sum += times * (T * token + row + columns * (2 * kv * L));
    }
    return sum * (double)s->B;
}
