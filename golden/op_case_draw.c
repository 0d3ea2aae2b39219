/* Data of the regimes trained, adversarial and fuzzed: one number at a time, by what its array stands for. */
#include "golden/op_case_impl.h"

#include <stdio.h>

typedef struct {
    const gld_op_data *d;
    fh1_stream s, column, more; /* by element; by column or row; for second draws */
    uint64_t i;
    int64_t row, col, width;
} place;

static double uniform(const place *p, double lo, double hi)
{
    return lo + (hi - lo) * fh1_random_uniform(p->s, p->i);
}

static double normal(const place *p)
{
    return fh1_random_normal(p->s, p->i);
}

/* Of either sign, and never small: what a sum must not swallow. */
static double away(const place *p, double lo, double hi)
{
    const double v = uniform(p, lo, hi);
    return fh1_random_u64(p->more, p->i) & 1 ? v : -v;
}

/* A power of two from 2^-n to 2^n. */
static double spread(const place *p, int64_t n)
{
    return exp2((double)(fh1_random_below(p->more, p->i, 2 * n + 1) - n));
}

static double pick(const place *p, int n, const double *from)
{
    return from[fh1_random_below(p->s, p->i, n)];
}

static double softplus_inverse(double y)
{
    return log(expm1(y));
}

/* What Mamba starts from and checkpoints keep: steps between 0.001 and 0.1, by head, log-uniform. */
static double head_step(const place *p)
{
    return exp(log(1e-3) + fh1_random_uniform(p->column, (uint64_t)p->col) * log(100));
}

static bool outlier(const place *p)
{
    return fh1_random_below(p->column, (uint64_t)p->col, 16) == 0;
}

static double trained(const place *p, gld_kind kind)
{
    switch (kind) {
    case GLD_KIND_HIDDEN: return away(p, 0.05, 2.5) * (outlier(p) ? 8 : 1);
    case GLD_KIND_ACT: return normal(p) * (outlier(p) ? 5 : 1);
    case GLD_KIND_WEIGHT:
        return normal(p) / sqrt((double)p->width) * (0.5 + fh1_random_uniform(p->column, (uint64_t)p->row));
    case GLD_KIND_NORM: return exp(0.7 * normal(p));
    case GLD_KIND_BIAS: return away(p, 0.1, 0.3);
    case GLD_KIND_CONV:
    case GLD_KIND_WINDOW: return away(p, 0.2, 2.5);
    case GLD_KIND_TAPS: return away(p, 0.15, 0.6);
    case GLD_KIND_CONV_BIAS: return away(p, 0.1, 0.5);
    case GLD_KIND_DT_RAW: return p->d->c->limits && p->i < 2 ? (p->i ? -9 : 6) : normal(p);
    case GLD_KIND_DT_BIAS: return softplus_inverse(head_step(p));
    case GLD_KIND_DT: return head_step(p) * exp(0.5 * normal(p)); /* the slowest heads keep a state over 1000 tokens */
    case GLD_KIND_B:
    case GLD_KIND_C: return 0.5 * normal(p);
    case GLD_KIND_A_LOG: return log(uniform(p, 1.3, 16));
    case GLD_KIND_D: return away(p, 0.5, 1.5);
    case GLD_KIND_Z:
    case GLD_KIND_GATE: return away(p, 0.02, 4);
    case GLD_KIND_BRANCH: return away(p, 0.3, 2);
    case GLD_KIND_LOGITS: return 3 * normal(p);
    case GLD_KIND_TABLE: return 0.02 * normal(p);
    default: return normal(p);
    }
}

/* Terms of a sum that cancel in pairs: columns 2j and 2j+1 meet weights that differ by a few percent. */
static double cancelling(const place *p, bool weight)
{
    place first = *p;
    if (p->col % 2 == 0 || p->col == p->width) return away(p, 0.5, 1) * spread(p, weight ? 0 : 4);
    first.i--;
    first.col--;
    const double v = cancelling(&first, weight);
    return weight ? v * (1 + 0x1p-6 * (double)(1 + fh1_random_below(p->s, p->i, 3))) : -v;
}

/* D-68 of the edge cases, and the bend between: the pre-activation, reached whatever the bias. */
static double dt_raw_at_the_ends(const place *p)
{
    static const double v[10] = {0, 20, -50, 20.1, 3, -20, 50, 19.9, 8, 90};
    const gld_array *bias = gld_find_in((gld_op_data *)(uintptr_t)p->d, GLD_KIND_DT_BIAS);
    return v[(p->row + 3 * p->col) % 10] - bias->v[p->col];
}

/* Against A_log of -10, 0, 5 and 10, by head. Long chunks of large Δ·A are honest noise in f32: sums of 10^6 and more
 * whose differences matter. So the fastest head takes short steps; its large ones are on the lattice. */
static double dt_at_the_ends(const place *p)
{
    static const double slow[7] = {0, 1e-5, 1e-3, 0.1, 1, 20.1, 90}, fast[7] = {0, 1e-6, 1e-5, 1e-4, 1e-4, 1e-3, 0.01};
    return p->col % 4 == 3 ? pick(p, 7, fast) : p->col % 4 == 2 ? pick(p, 5, slow) : pick(p, 7, slow);
}

static double adversarial(const place *p, gld_kind kind)
{
    static const double row_scale[4] = {1e-4, 1, 3e-3, 300}; /* D-111: eps counts in the first */
    static const double channel[3] = {0.02, 1, 10}, norm[3] = {0.02, 1, -8}, bias[3] = {-4, 0.5, 3};
    static const double A_log[4] = {-10, 0, 5, 10};
    static const double gate[7] = {-80, -20, -3, -1e-3, 0.5, 8, 60};
    const double scale = row_scale[p->row % 4], of_channel = channel[p->col % 3];
    const bool subnormal = p->i % 31 == 30;
    /* a pipeline in f16 that rounds what a selective scan reads: its sums must stay below 65504 */
    const gld_op op = p->d->c->op;
    const bool narrow =
        p->d->profile->storage == FH1_F16 && (op == GLD_OP_SELECTIVE_SCAN || op == GLD_OP_SELECTIVE_STEP);
    switch (kind) {
    case GLD_KIND_HIDDEN: return scale * away(p, 0.1, 2) * (outlier(p) ? 50 : 1);
    case GLD_KIND_ACT: return cancelling(p, false);
    case GLD_KIND_WEIGHT: return cancelling(p, true);
    case GLD_KIND_NORM: return pick(p, 3, norm);
    case GLD_KIND_CONV: return away(p, 0.3, 2) * of_channel;
    case GLD_KIND_WINDOW: return away(p, 0.3, 2) * channel[p->row % 3];
    case GLD_KIND_TAPS: return away(p, 0.25, 0.75);
    case GLD_KIND_DT_RAW: return dt_raw_at_the_ends(p);
    case GLD_KIND_DT_BIAS: return pick(p, 3, bias);
    case GLD_KIND_DT: return p->row == 0 ? 1e-4 : dt_at_the_ends(p);
    case GLD_KIND_A_LOG: return A_log[p->col % 4];
    case GLD_KIND_X:
    case GLD_KIND_B:
    case GLD_KIND_C: return subnormal ? 1e-39 : narrow ? normal(p) / 16 : normal(p) * spread(p, 3);
    case GLD_KIND_D: return away(p, 0.5, 1.5) * (p->col % 2 ? 8 : 1);
    case GLD_KIND_STATE: return normal(p) * (p->d->c->T > 1 ? 10 : 1);
    case GLD_KIND_Y: return scale * away(p, 0.1, 2);
    case GLD_KIND_Z:
    case GLD_KIND_GATE: return pick(p, 7, gate) * (1 + 0.05 * fh1_random_uniform(p->more, p->i));
    case GLD_KIND_UP:
    case GLD_KIND_BRANCH: return away(p, 0.5, 2) * spread(p, 3);
    case GLD_KIND_Q: return normal(p) * (p->row % 2 ? 4 : 16);
    case GLD_KIND_KEY: return fh1_random_normal(p->column, (uint64_t)p->col) + 0.15 * normal(p); /* near ties */
    case GLD_KIND_VALUE: return away(p, 0.5, 2) * spread(p, 5);
    case GLD_KIND_LOGITS: return p->row % 3 == 1 ? 1000 + 0.01 * normal(p) : 200 * normal(p);
    case GLD_KIND_TABLE: return subnormal ? 1e-39 : normal(p) * spread(p, 10);
    default: return trained(p, kind);
    }
}

/* Parameters and steps keep their ranges; activations may be anything whose products the stored type holds: f16 ends at
 * 65504, and an engine that overflows where it says so is not at fault. */
static double fuzzed(const place *p, gld_kind kind, bool param)
{
    const bool narrow = p->d->profile->storage == FH1_F16;
    const double special[6] = {0, -0.0, 1, -1, 1e-39, narrow ? 30 : 3000};
    const int64_t r = fh1_random_below(p->column, p->i + 1000, 16);
    if (r < 9 || (narrow && kind == GLD_KIND_DT)) return trained(p, kind);
    if (r < 14 || param || kind == GLD_KIND_DT) return adversarial(p, kind);
    return r == 14 ? (double)(fh1_random_below(p->s, p->i, 9) - 4) : pick(p, 6, special);
}

static void fill(gld_op_data *d, gld_array *a)
{
    char name[64];
    snprintf(name, sizeof name, "op_case/%s", a->name);
    place p = {.d = d, .s = fh1_stream_open((uint64_t)d->c->seed, name)};
    snprintf(name, sizeof name, "op_case/%s by column", a->name);
    p.column = fh1_stream_open((uint64_t)d->c->seed, name);
    snprintf(name, sizeof name, "op_case/%s again", a->name);
    p.more = fh1_stream_open((uint64_t)d->c->seed, name);
    p.width = a->rank > 1 ? a->n / a->shape[0] : a->n;
    if (a->kind == GLD_KIND_KEY || a->kind == GLD_KIND_VALUE) p.width = a->shape[2];
    for (int64_t i = 0; i < a->n; ++i) {
        p.i = (uint64_t)i;
        p.row = i / p.width;
        p.col = i % p.width;
        switch (d->c->regime) {
        case GLD_REGIME_TRAINED: a->v[i] = trained(&p, a->kind); break;
        case GLD_REGIME_ADVERSARIAL: a->v[i] = adversarial(&p, a->kind); break;
        default: a->v[i] = fuzzed(&p, a->kind, a->param);
        }
    }
}

/* The stream that takes the branches all but vanishes under them. */
static void cancel_residual(gld_op_data *d)
{
    double *x = d->in[0].v;
    const double *a = d->in[1].v, *b = d->c->mix ? d->in[2].v : NULL;
    for (int64_t i = 0; i < d->in[0].n; ++i)
        x[i] = -(a[i] * d->m[0] + (b ? b[i] * d->m[1] : 0)) * (1 + 0x1p-5 * (double)(1 + i % 3));
}

/* The last token wins the first row, the second one has two winners, and a NaN wins none. */
static void place_winners(gld_op_data *d)
{
    const int64_t V = d->c->V;
    double *v = d->in[0].v, most = 1;
    for (int64_t i = 0; i < d->in[0].n; ++i) most = fmax(most, fabs(v[i]));
    v[V - 1] = 2 * most;
    if (d->c->T > 1) v[V + V / 3] = v[V + V - 1] = 2 * most;
    if (d->c->T > 2 && d->c->regime != GLD_REGIME_TRAINED) v[2 * V + V / 2] = (double)NAN;
}

void gld_fill_drawn(gld_op_data *d)
{
    for (int i = d->n_in - 1; i >= 0; --i) fill(d, &d->in[i]); /* backwards: dt_raw looks at its bias */
    if (d->c->op == GLD_OP_RESIDUAL && d->c->regime == GLD_REGIME_ADVERSARIAL) cancel_residual(d);
    if (d->c->op == GLD_OP_SAMPLE) place_winners(d);
}
