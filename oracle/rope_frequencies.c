/* Inverse frequencies of the six rope types.
 *
 * With A the head width, e_i = 2i/A for i in [0, A/2) and f_i = theta^-e_i:
 *   default   f_i
 *   linear    f_i / factor
 *   dynamic   f_i of a base that grows with the sequence: theta·(factor·L/max - (factor - 1))^(A/(A-2)),
 *             L = seq_len where it exceeds max = max_position_embeddings, otherwise theta itself
 *   yarn      f_i for fast pairs, f_i / factor for slow ones, a linear ramp over the pair numbers between
 *   llama3    the same idea with a ramp over the wavelengths
 *   longrope  f_i / short_factor[i], or / long_factor[i] once seq_len > original_max_position
 *
 * Hugging Face keeps the longest length of a dynamic rope in the model object and goes back to theta
 * when a later call is shorter than max again. Within one sequence lengths only grow, so a length that
 * lives in the cache is enough here. */
#include "oracle/config.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

/* What the library computes in Python numbers (f64) before any tensor is touched. */
typedef struct {
    double factor;
    double scale;          /* on cos and sin */
    double low, high;      /* yarn: pair numbers where the ramp begins and ends; llama3: wavelengths */
    const double *divisor; /* longrope */
    bool grown;            /* dynamic: seq_len is beyond max_position */
} plan;

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* The pair (a real number) that turns `rotations` times within the original length. */
static double yarn_pair(const fh1_config *c, double rotations)
{
    double length = (double)c->rope.original_max_position;
    return (double)c->A * log(length / (rotations * 2 * PI)) / (2 * log(c->rope.theta));
}

static void plan_yarn(const fh1_config *c, plan *p)
{
    const fh1_rope *r = &c->rope;
    if (r->attention_factor > 0) p->scale = r->attention_factor;
    else if (r->mscale > 0 && r->mscale_all_dim > 0)
        p->scale = yarn_scale(p->factor, r->mscale) / yarn_scale(p->factor, r->mscale_all_dim);
    else p->scale = yarn_scale(p->factor, 1);

    double low = yarn_pair(c, r->beta_fast), high = yarn_pair(c, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    p->low = fmax(low, 0);
    p->high = fmin(high, (double)(c->A - 1));
    if (p->low == p->high) p->high += 0.001; /* as the library avoids 0/0 */
}

static plan make_plan(const fh1_config *c, int64_t seq_len)
{
    const fh1_rope *r = &c->rope;
    double original = (double)r->original_max_position;
    plan p = {.factor = r->factor, .scale = 1};
    bool derived = r->type == FH1_ROPE_YARN || r->type == FH1_ROPE_LONGROPE;
    if (derived && p.factor == 0) p.factor = (double)r->max_position / original;

    switch (r->type) {
    case FH1_ROPE_DYNAMIC: p.grown = seq_len > r->max_position; break;
    case FH1_ROPE_YARN: plan_yarn(c, &p); break;
    case FH1_ROPE_LLAMA3:
        p.low = original / r->low_freq_factor;
        p.high = original / r->high_freq_factor;
        break;
    case FH1_ROPE_LONGROPE:
        p.divisor = seq_len > r->original_max_position ? r->long_factor : r->short_factor;
        if (r->attention_factor > 0) p.scale = r->attention_factor;
        else if (p.factor > 1) p.scale = sqrt(1 + log(p.factor) / log(original));
        break;
    default: break;
    }
    return p;
}

static double dynamic_base(const fh1_config *c, int64_t seq_len)
{
    const fh1_rope *r = &c->rope;
    double growth = r->factor * (double)seq_len / (double)r->max_position - (r->factor - 1);
    return r->theta * pow(growth, (double)c->A / (double)(c->A - 2));
}

void fh1_rope_frequencies(const fh1_config *c, int64_t seq_len, double *inv_freq, double *scale)
{
    const fh1_rope *r = &c->rope;
    plan p = make_plan(c, seq_len);
    double base = p.grown ? dynamic_base(c, seq_len) : r->theta;
    *scale = p.scale;
    for (int64_t i = 0; i < c->A / 2; i++) {
        double freq = 1 / pow(base, (double)(2 * i) / (double)c->A);
        if (r->type == FH1_ROPE_LINEAR) {
            freq /= p.factor;
        } else if (r->type == FH1_ROPE_YARN) {
            double slow = fmin(fmax(((double)i - p.low) / (p.high - p.low), 0), 1);
            freq = freq / p.factor * slow + freq * (1 - slow);
        } else if (r->type == FH1_ROPE_LLAMA3) {
            double length = (double)r->original_max_position, wave = 2 * PI / freq;
            double fast = (length / wave - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
            if (wave > p.low) freq /= p.factor;
            else if (!(wave < p.high)) freq = (1 - fast) * freq / p.factor + fast * freq;
        } else if (r->type == FH1_ROPE_LONGROPE) {
            freq /= p.divisor[i];
        }
        inv_freq[i] = freq;
    }
}

/* Below, every operation is one that torch does on f32 tensors, in its order: a Python number that
 * meets a tensor is rounded to f32 first, except as an exponent, and number / tensor is reciprocal times
 * number. What remains is powf: torch's vector routine is one ulp off the correctly rounded power for
 * about one element in a hundred. */

static float dynamic_base_f32(const fh1_config *c, int64_t seq_len)
{
    const fh1_rope *r = &c->rope; /* seq_len is a tensor there, so all of this is f32 */
    float growth = (float)r->factor * (float)seq_len / (float)r->max_position - (float)(r->factor - 1);
    return (float)r->theta * (float)pow((double)growth, (double)c->A / (double)(c->A - 2));
}

static float llama3_f32(const fh1_rope *r, const plan *p, float freq)
{
    float wave = 1.0f / freq * (float)(2 * PI);
    float fast = 1.0f / wave * (float)r->original_max_position - (float)r->low_freq_factor;
    fast /= (float)(r->high_freq_factor - r->low_freq_factor);
    if (wave > (float)p->low) return freq / (float)p->factor;
    if (wave < (float)p->high) return freq;
    return (1.0f - fast) * freq / (float)p->factor + fast * freq;
}

static float yarn_f32(const plan *p, int64_t i, float power)
{
    float slow = ((float)i - (float)p->low) / (float)(p->high - p->low);
    float fast = 1.0f - fminf(fmaxf(slow, 0.0f), 1.0f);
    return 1.0f / ((float)p->factor * power) * (1.0f - fast) + 1.0f / power * fast;
}

void fh1_rope_frequencies_f32(const fh1_config *c, int64_t seq_len, float *inv_freq, double *scale)
{
    const fh1_rope *r = &c->rope;
    plan p = make_plan(c, seq_len);
    float base = p.grown ? dynamic_base_f32(c, seq_len) : (float)r->theta;
    *scale = p.scale;
    for (int64_t i = 0; i < c->A / 2; i++) {
        float power = powf(base, (float)(2 * i) / (float)c->A);
        switch (r->type) {
        case FH1_ROPE_LINEAR: inv_freq[i] = 1.0f / power / (float)p.factor; break;
        case FH1_ROPE_YARN: inv_freq[i] = yarn_f32(&p, i, power); break;
        case FH1_ROPE_LLAMA3: inv_freq[i] = llama3_f32(r, &p, 1.0f / power); break;
        case FH1_ROPE_LONGROPE: inv_freq[i] = 1.0f / ((float)p.divisor[i] * power); break;
        default: inv_freq[i] = 1.0f / power;
        }
    }
}
