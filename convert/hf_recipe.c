/* A trained Falcon-H1 keeps its activations of order one although its multipliers span three powers of
 * ten: the weights have grown by what the multipliers take away. The recipes do the same. A linear layer
 * whose input has the size `in` (the multiplier in front of it included) and whose output shall have the
 * size `out` (before the multiplier behind it) gets weights of standard deviation out / (in·sqrt(fan_in)). */
#include "convert/hf_recipe.h"

#include "convert/fault.h"

#include "oracle/random.h"

#include <math.h>
#include <string.h>

typedef struct {
    const char *module;
    double fan_in, in, out;
} linear;

/* Undoes a multiplier; one that is zero cannot be undone. */
static double undo(double multiplier)
{
    return multiplier == 0 ? 1 : 1 / fabs(multiplier);
}

/* "mamba.D" of "model.layers.7.mamba.D", "mixer.D" of "backbone.layers.7.mixer.D"; other names as they are. */
static const char *within_layer(const char *name)
{
    static const char layers[] = ".layers.";
    const char *at = strstr(name, layers), *dot = at ? strchr(at + strlen(layers), '.') : NULL;
    return dot ? dot + 1 : name;
}

static void normal(cvt_recipe *r, double mean, double std, int64_t n_elems)
{
    *r = (cvt_recipe){.kind = CVT_RECIPE_NORMAL, .mean = mean, .n_segments = 1, .end = {n_elems}, .std = {std}};
}

/* `name` is the module's weight or bias; a bias is a twentieth of the output. */
static bool linear_recipe(const linear *l, const char *name, int64_t n_elems, cvt_recipe *r)
{
    size_t n = strlen(l->module);
    if (strncmp(name, l->module, n) != 0) return false;
    if (strcmp(name + n, ".weight") == 0) normal(r, 0, l->out / (l->in * sqrt(l->fan_in)), n_elems);
    else if (strcmp(name + n, ".bias") == 0) normal(r, 0, 0.05 * l->out, n_elems);
    else return false;
    return true;
}

/* The segments z, x, B, C, dt of in_proj. B and C are so small that C·B over the state is of order one; dt
 * moves the step by a factor of about two from token to token. */
static bool in_proj_recipe(const fh1_config *c, const char *name, int64_t n_elems, cvt_recipe *r)
{
    const double small = 2 / sqrt(sqrt((double)c->N)), size[5] = {1, 1, small, small, 0.5};
    const int64_t rows[5] = {c->d_ssm, c->d_ssm, c->G * c->N, c->G * c->N, c->H};
    const int64_t width = n_elems / fh1_in_proj_dim(c); /* of a row: D, or 1 for the bias */
    int64_t end = 0;
    for (int k = 0; k < 5; k++) {
        linear l = {"mamba.in_proj", (double)c->D, 1 / undo(c->m_ssm_in), size[k] * undo(c->m_ssm[k])};
        cvt_recipe part;
        if (!linear_recipe(&l, name, 0, &part)) return false;
        if (k == 0) *r = part;
        end += rows[k] * width;
        r->end[k] = end;
        r->std[k] = part.std[0];
    }
    r->n_segments = 5;
    return true;
}

static bool any_linear_recipe(const fh1_config *c, const char *name, int64_t n_elems, cvt_recipe *r)
{
    /* Each layer adds three branches to the residual, which starts at size one. What feeds their last linear
     * layer is smaller than one: an average over tokens, products with a silu (0.6 for bell-shaped input). */
    const double branch = 1 / sqrt(2.0 * (double)c->n_layers), D = (double)c->D;
    const double context = 0.4, gated = c->mamba_rms_norm && !c->norm_before_gate ? 1 : 0.4, act = 0.6;
    const linear table[] = {
        {"self_attn.q_proj", D, 1 / undo(c->m_attn_in), 1},
        {"self_attn.k_proj", D, 1 / undo(c->m_attn_in), undo(c->m_key)},
        {"self_attn.v_proj", D, 1 / undo(c->m_attn_in), 1},
        {"self_attn.o_proj", (double)(c->Hq * c->A), context, branch * undo(c->m_attn_out)},
        {"mamba.out_proj", (double)c->d_ssm, gated, branch * undo(c->m_ssm_out)},
        {"feed_forward.gate_proj", D, 1, undo(c->m_gate)},
        {"feed_forward.up_proj", D, 1, 1},
        {"feed_forward.down_proj", (double)c->F, act, branch * undo(c->m_down)},
        {"lm_head", D, 1, 2 * undo(c->m_lm)}, /* logits of size two */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (linear_recipe(&table[i], name, n_elems, r)) return true;
    return in_proj_recipe(c, name, n_elems, r);
}

/* Falcon-Mamba. What x_proj gives is normalised, so that its size shows only beside mixer_rms_eps: with a mean square
 * of 1e-4 the released 1e-6 is 1 % of it, and the 1e-5 of the other norms, taken by mistake, 10 %. dt, B and C come out
 * of their norms with size one. */
static bool mamba_linear_recipe(const fh1_config *c, const char *name, int64_t n_elems, cvt_recipe *r)
{
    const double branch = 1 / sqrt((double)c->n_layers), D = (double)c->D, I = (double)c->d_ssm;
    const double conv_act = 0.6, gated = 0.4;
    const linear table[] = {
        {"mixer.in_proj", D, 1, 1},
        {"mixer.x_proj", I, conv_act, 0.01},
        {"mixer.dt_proj", (double)c->R, 1, 0.5}, /* moves the step by a factor of about two from token to token */
        {"mixer.out_proj", I, gated, branch},
        {"lm_head", D, 1, 2},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (linear_recipe(&table[i], name, n_elems, r)) return true;
    return false;
}

static bool is_any(const char *part, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(part, names[i]) == 0) return true;
    return false;
}

/* Part of the mixer of either family: "mamba.D", "mixer.D". */
static bool is_mixers(const char *part, const char *what)
{
    return (strncmp(part, "mamba.", 6) == 0 || strncmp(part, "mixer.", 6) == 0) && strcmp(part + 6, what) == 0;
}

fh1_status cvt_hf_recipe(const fh1_config *c, const char *name, int64_t n_elems, cvt_recipe *out)
{
    static const char *const norms[] = {
        "input_layernorm.weight",       "attn_layernorm.weight", "pre_ff_layernorm.weight", "mamba.norm.weight",
        "model.final_layernorm.weight", "norm.weight",           "backbone.norm_f.weight"};
    const char *part = within_layer(name);
    const bool mamba = c->family == FH1_FALCON_MAMBA;
    if (is_any(part, norms, sizeof norms / sizeof *norms)) {
        normal(out, 1, 0.1, n_elems);
    } else if (is_mixers(part, "D")) {
        normal(out, CVT_FAULT(INIT_D_ZERO) ? 0 : 1, 0.1, n_elems);
    } else if (strcmp(part, fh1_embed_weight(c->family)) == 0) {
        double std = undo(c->m_emb), head = 3 * undo(c->m_lm) / sqrt((double)c->D);
        /* A tied table is the head too, and large logits would leave one token only. */
        normal(out, 0, c->tied && head < std ? head : std, n_elems);
    } else if (is_mixers(part, "conv1d.weight")) {
        normal(out, 0, 1 / sqrt((double)c->K), n_elems);
    } else if (is_mixers(part, "conv1d.bias")) {
        normal(out, 0, 0.1, n_elems);
    } else if (is_mixers(part, "A_log")) {
        *out = (cvt_recipe){.kind = CVT_RECIPE_A_LOG};
    } else if (is_mixers(part, mamba ? "dt_proj.bias" : "dt_bias")) {
        *out = (cvt_recipe){.kind = CVT_RECIPE_DT_BIAS};
    } else if (!(mamba ? mamba_linear_recipe : any_linear_recipe)(c, part, n_elems, out)) {
        return fh1_where(fh1_fail(FH1_E_INTERNAL, "no recipe for this tensor"), "%s", name);
    }
    return NULL;
}

/* Sum of the four 16-bit parts: a bell of variance 1 that ends at 3.5, in exact arithmetic and from one
 * draw, so that billions of weights are quick and the same on every machine. */
static double bell(uint64_t u)
{
    uint64_t sum = (u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48);
    return ((double)sum - 4 * 32767.5) / 37837.227237206; /* sqrt(4·(2^32 - 1)/12) */
}

/* -A as Mamba initialises it: uniform in [1, 16] per head; Falcon-Mamba: 1, 2, … N along the state of each channel. */
static double decay_of(const fh1_config *c, fh1_stream a_log, int64_t at)
{
    if (c->family == FH1_FALCON_MAMBA) return (double)(at % c->N + 1);
    return 1 + 15 * fh1_random_uniform(a_log, (uint64_t)at);
}

/* dt log-uniform in [0.001, 0.1] as Mamba initialises it (within time_step_limit where they meet), but the
 * first head forgets in three tokens and the last one in a thousand, so that each model has both extremes. A channel of
 * Falcon-Mamba is as slow as its slowest state, whose -A is 1. */
static double step_of_head(const fh1_config *c, fh1_stream s, fh1_stream a_log, int64_t head)
{
    const double decay = decay_of(c, a_log, c->family == FH1_FALCON_MAMBA ? 0 : head);
    if (head == 0) return 1 / (3 * decay);
    if (head == c->H - 1) return 1 / (1000 * decay);
    double lo = fmax(c->dt_lo, 0.001), hi = fmin(c->dt_hi, 0.1);
    if (!(lo < hi)) lo = 0.001, hi = 0.1;
    return lo * pow(hi / lo, fh1_random_uniform(s, (uint64_t)head));
}

void cvt_hf_recipe_fill(const fh1_config *c, const cvt_recipe *r, uint64_t seed, const char *name, int64_t first,
                        int64_t n, double *out)
{
    fh1_stream s = fh1_stream_open(seed, name), a_log = s;
    char sibling[160];
    if (r->kind == CVT_RECIPE_DT_BIAS && c->family == FH1_FALCON_H1) { /* the step of a head is chosen against its A */
        size_t stem = strlen(name) - strlen("dt_bias");
        memcpy(sibling, name, stem);
        memcpy(sibling + stem, "A_log", sizeof "A_log");
        a_log = fh1_stream_open(seed, sibling);
    }
    int k = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i;
        if (r->kind == CVT_RECIPE_A_LOG) {
            out[i] = CVT_FAULT(INIT_A_LOG_NORMAL) ? 0.02 * fh1_random_normal(s, (uint64_t)at) : log(decay_of(c, s, at));
        } else if (r->kind == CVT_RECIPE_DT_BIAS) {
            double dt = step_of_head(c, s, a_log, at);
            out[i] = CVT_FAULT(INIT_DT_BIAS_ZERO) ? 0 : dt + log(-expm1(-dt)); /* softplus(out) = dt */
        } else {
            while (at >= r->end[k] && k < r->n_segments - 1) k++;
            out[i] = r->mean + r->std[k] * bell(fh1_random_u64(s, (uint64_t)at));
        }
    }
}
