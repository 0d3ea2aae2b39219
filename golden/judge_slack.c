#include "golden/judge_rules.h"

#include <math.h>

static const double u = 0x1p-24; /* every contract but `exact` computes in f32 */

/* Roundings per value that a row may share, in units of u·|y|: reciprocal root, exp, quotient, two products. */
#define SHARED 4.0

/* mean(x²) over d values: a random walk of d roundings, halved by the root. */
static double norm_units(int64_t d)
{
    return sqrt((double)d) / 2 + SHARED;
}

/* softplus at v with y = softplus(v): an error u·(|raw| + |bias| + |v|) of v costs that much of y where y is
 * small (y ~ exp v), and |v| = |log y| there. */
static double softplus_units(double y)
{
    return 2 * SHARED + (y > 0 && y < 1 ? -log(y) : 0);
}

/* Frequency and angle are f32 products, and the vectorised pow of a library is an ulp off here and there (measured: up
 * to 2 ulp of a frequency, 4 with llama3): SHARED·u·angle·|pair|. The pair's length is what a rotation keeps. */
static void rope_slack(const gld_slack_args *a, double *slack)
{
    double freq[4096], scale;
    const int64_t A = a->config->A, half = A / 2;
    fh1_rope_frequencies(a->config, a->tokens->max_position + 1, freq, &scale);
    for (int64_t r = 0; r < a->n; ++r)
        for (int64_t i = 0; i < a->width; ++i) {
            const int64_t k = i % A % half;
            const double *head = a->local + r * a->width + i / A * A;
            slack[r * a->width + i] =
                hypot(head[k], head[k + half]) * fabs((double)a->tokens->position[r] * freq[k]) * SHARED * u;
        }
}

/* The error of a decay is shared by the whole head; what it scales is of the size of the head's values.
 * `elements` of one row belong to one head. */
static void decay_slack(const gld_slack_args *a, int64_t elements, double *slack)
{
    for (int64_t r = 0; r < a->n; ++r) {
        const int64_t b = a->id == FH1_TAP_CACHE_SSM ? r : a->tokens->row[r];
        for (int64_t h = 0; h < a->config->H; ++h) {
            const int64_t at = r * a->width + h * elements;
            double sum = 0;
            for (int64_t i = 0; i < elements; ++i) sum += a->local[at + i] * a->local[at + i];
            const double s = u * (SHARED + a->decay[b * a->config->H + h]) * sqrt(sum / (double)elements);
            for (int64_t i = 0; i < elements; ++i) slack[at + i] = s;
        }
    }
}

static double units(const fh1_config *c, fh1_tap_id id, double y)
{
    switch (id) {
    case FH1_TAP_INPUT_LAYERNORM:
    case FH1_TAP_PRE_FF_LAYERNORM:
    case FH1_TAP_FINAL_LAYERNORM: return norm_units(c->D);
    case FH1_TAP_GATED: return c->mamba_rms_norm ? norm_units(c->d_ssm / c->G) + SHARED : SHARED;
    case FH1_TAP_DT: return softplus_units(fabs(y));
    case FH1_TAP_ACT: return SHARED;
    case FH1_TAP_LOSS: return 8 * SHARED * (fabs(y) < 1 ? 1 / (fabs(y) + u) : 1); /* one number: logsumexp and a mean */
    default: return 0;
    }
}

/* Below the normal range f32 has few bits left, products of decays lose them step by step, and many pipelines flush to
 * zero: nothing of the size of the smallest normal numbers is judged. */
#define UNDERFLOW (16 * 0x1p-126)

static void op_slack(const gld_slack_args *a, double *slack)
{
    const fh1_config *c = a->config;
    switch (a->id) {
    case FH1_TAP_Q_ROPE:
    case FH1_TAP_K_ROPE: rope_slack(a, slack); return;
    case FH1_TAP_SSD: decay_slack(a, c->P, slack); return;
    case FH1_TAP_CACHE_SSM: decay_slack(a, c->P * c->N, slack); return;
    case FH1_TAP_CONTEXT:
        for (int64_t i = 0; i < a->n * a->width; ++i)
            slack[i] = u * (a->bound ? a->bound[i] : SHARED * fabs(a->local[i]));
        return;
    case FH1_TAP_CONV_ACT: /* transformers up to 5.14 rounds each tap, their sum and the bias in a one-token step */
        for (int64_t i = 0; i < a->n * a->width; ++i) {
            const double step =
                a->one_token && fh1_dtype_bits(a->ulp_type) <= 16 ? fh1_dtype_ulp(a->ulp_type, a->local[i]) : 0;
            slack[i] = SHARED * u * fabs(a->local[i]) + step;
        }
        return;
    default: break;
    }
    for (int64_t i = 0; i < a->n * a->width; ++i) slack[i] = fabs(a->local[i]) * u * units(c, a->id, a->local[i]);
}

void gld_slack(const gld_slack_args *a, double *slack)
{
    op_slack(a, slack);
    for (int64_t i = 0; i < a->n * a->width; ++i) slack[i] += UNDERFLOW;
}
