/* Ops of embedding, attention, MLP and head: arrays, what could be lost, call, gauge. */
#include "golden/op_case_impl.h"

#include <string.h>

#define OFFERED(op)                              \
    static bool op##_offered(const fh1_ops *ops) \
    {                                            \
        return ops->op != NULL;                  \
    }

static gld_probe *scalar_probe(gld_op_data *d, const char *what, double *scalar, double value)
{
    gld_probe *p = gld_add_probe(d, what, NULL, "output", d->out[0].n, 1);
    p->scalar = scalar;
    p->value = value;
    return p;
}

/* Only unit `only` of `picked` is lost. */
static void only(gld_probe *p, int64_t inner, int64_t units, int64_t only_unit)
{
    p->picked = (gld_units){inner, units};
    p->only = only_unit;
}

/* -- embed ------------------------------------------------------------------------------------- */

static void embed_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *table = gld_add_param(d, "table", GLD_KIND_TABLE, c->V, c->D);
    gld_add_out(d, "y", c->T, c->D, -1);
    d->n_ints = c->T;
    gld_add_probe(d, "the table", table, "row", c->D, c->T);
    gld_probe *ids = gld_add_probe(d, "the ids", NULL, "row", c->D, c->T);
    ids->ints = d->ints;
    ids->modulus = c->V;
}

OFFERED(embed)

static fh1_status embed_call(const gld_op_call *k)
{
    return k->e->ops->embed(k->e, k->d->c->T, k->d->ints, &k->d->in[0].t, k->out[0]);
}

static fh1_status embed_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                              bool *offered)
{
    *offered = o->embed != NULL;
    return *offered ? o->embed(d->profile, d->out[0].n, y[0], g) : NULL;
}

/* -- rmsnorm ----------------------------------------------------------------------------------- */

static void rmsnorm_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_HIDDEN, c->T, c->D, -1);
    gld_array *w = gld_add_param(d, "w", GLD_KIND_NORM, c->weight ? c->D : 0, -1);
    gld_add_out(d, "y", c->T, c->D, -1);
    gld_add_probe(d, "x", x, "row", c->D, c->T);
    if (c->weight) gld_add_probe(d, "w", w, "channel", 1, c->D);
    if (c->regime <= GLD_REGIME_ADVERSARIAL && c->regime != GLD_REGIME_TRAINED) scalar_probe(d, "eps", &d->eps, 0);
}

OFFERED(rmsnorm)

static fh1_status rmsnorm_call(const gld_op_call *k)
{
    const gld_op_case *c = k->d->c;
    return k->e->ops->rmsnorm(k->e, c->T, c->D, k->in[0], &k->d->in[1].t, k->d->eps, k->out[0]);
}

static fh1_status rmsnorm_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                bool *offered)
{
    *offered = o->rmsnorm != NULL;
    return *offered ? o->rmsnorm(d->profile, d->c->T, d->c->D, d->in[0].v, &d->in[1].t, d->eps, y[0], g) : NULL;
}

/* -- linear and lm_head ------------------------------------------------------------------------ */

static void matrix_lay_out(gld_op_data *d, int64_t n_out)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_ACT, c->T, c->D, -1);
    gld_array *w = gld_add_param(d, "w", GLD_KIND_WEIGHT, n_out, c->D);
    gld_add_out(d, "y", c->T, n_out, -1);
    gld_add_probe(d, "x", x, "row", n_out, c->T);
    only(gld_add_probe(d, "the last column of x", x, "output", d->out[0].n, 1), 1, c->D, c->D - 1);
    gld_add_probe(d, "w", w, "channel", 1, n_out);
}

static void linear_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    matrix_lay_out(d, c->F);
    gld_array *b = gld_add_param(d, "b", GLD_KIND_BIAS, c->bias ? c->F : 0, -1);
    if (c->bias) gld_add_probe(d, "b", b, "channel", 1, c->F);
    d->store = d->profile->at[FH1_RP_LINEAR];
}

OFFERED(linear)

static fh1_status linear_call(const gld_op_call *k)
{
    return k->e->ops->linear(k->e, k->d->c->T, k->in[0], &k->d->in[1].t, &k->d->in[2].t, k->out[0]);
}

static fh1_status linear_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                               bool *offered)
{
    *offered = o->linear != NULL;
    return *offered ? o->linear(d->profile, d->c->T, d->in[0].v, &d->in[1].t, &d->in[2].t, y[0], g) : NULL;
}

static void lm_head_lay_out(gld_op_data *d)
{
    matrix_lay_out(d, d->c->V);
    d->m[0] = d->c->regime == GLD_REGIME_LATTICE ? 0.25 : 0.0390625;
    scalar_probe(d, "lm_head_multiplier", &d->m[0], 1);
    d->store = d->profile->at[FH1_RP_LOGITS];
}

OFFERED(lm_head)

static fh1_status lm_head_call(const gld_op_call *k)
{
    return k->e->ops->lm_head(k->e, k->d->c->T, k->in[0], &k->d->in[1].t, k->d->m[0], k->out[0]);
}

static fh1_status lm_head_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                bool *offered)
{
    *offered = o->lm_head != NULL;
    return *offered ? o->lm_head(d->profile, d->c->T, d->in[0].v, &d->in[1].t, d->m[0], y[0], g) : NULL;
}

/* -- rope -------------------------------------------------------------------------------------- */

static void rope_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_Q, c->T, c->Hq, c->A);
    gld_add_out(d, "x", c->T, c->Hq, c->A);
    d->n_ints = c->T;
    gld_add_probe(d, "x", x, "head", c->A, c->T * c->Hq);
    gld_probe *p = gld_add_probe(d, "the positions", NULL, "token", c->Hq * c->A, c->T);
    p->ints = d->ints;
}

OFFERED(rope)

static fh1_status rope_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    memcpy(k->out[0], k->in[0], (size_t)(d->in[0].n * fh1_dtype_bits(k->e->dtype) / 8));
    return k->e->ops->rope(k->e, &d->config, d->c->T, d->c->Hq, d->ints, d->c->past + d->c->T, k->out[0]);
}

static fh1_status rope_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                             bool *offered)
{
    (void)y;
    *offered = o->rope != NULL;
    return *offered ? o->rope(d->profile, &d->config, d->c->T, d->c->Hq, d->ints, d->c->past + d->c->T, d->in[0].v, g)
                    : NULL;
}

/* -- attention and attention_step -------------------------------------------------------------- */

static void attention_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    const int64_t S = c->past + c->T;
    gld_array *q = gld_add_in(d, "q", GLD_KIND_Q, c->T, c->Hq, c->A);
    gld_array *k = gld_add_in(d, "k", GLD_KIND_KEY, c->Hkv, S, c->A);
    gld_array *v = gld_add_in(d, "v", GLD_KIND_VALUE, c->Hkv, S, c->A);
    gld_add_out(d, "out", c->T, c->Hq, c->A);
    d->correlated = c->A;
    gld_add_probe(d, "q", q, "head", c->A, c->Hq);
    gld_add_probe(d, "k", k, "head", c->A, c->Hq);
    gld_add_probe(d, "v", v, "head", c->A, c->Hq);
    gld_add_probe(d, "v", v, "token", c->Hq * c->A, c->T);
    only(gld_add_probe(d, "the last value", v, "output", d->out[0].n, 1), c->A, S, S - 1);
    if (c->docs > 1) gld_add_probe(d, "the documents", NULL, "output", d->out[0].n, 1);
}

OFFERED(attention)
OFFERED(attention_step)

static fh1_status attention_call(const gld_op_call *k)
{
    const gld_op_case *c = k->d->c;
    return k->e->ops->attention(k->e, c->T, c->past + c->T, c->Hq, c->Hkv, c->A, k->in[0], k->in[1], k->in[2],
                                k->d->first, k->out[0]);
}

static fh1_status attention_step_call(const gld_op_call *k)
{
    const gld_op_case *c = k->d->c;
    return k->e->ops->attention_step(k->e, c->past + 1, c->Hq, c->Hkv, c->A, k->in[0], k->in[1], k->in[2],
                                     k->d->first[0], k->out[0]);
}

static fh1_status attention_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                  bool *offered)
{
    const gld_op_case *c = d->c;
    *offered = o->attention != NULL;
    return *offered ? o->attention(d->profile, c->T, c->past + c->T, c->Hq, c->Hkv, c->A, d->in[0].v, d->in[1].v,
                                   d->in[2].v, d->first, y[0], g)
                    : NULL;
}

/* -- swiglu and residual ----------------------------------------------------------------------- */

static void swiglu_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *gate = gld_add_in(d, "gate", GLD_KIND_GATE, c->T, c->F, -1);
    gld_array *up = gld_add_in(d, "up", GLD_KIND_UP, c->T, c->F, -1);
    gld_add_out(d, "act", c->T, c->F, -1);
    d->m[0] = c->regime == GLD_REGIME_LATTICE ? 0.5 : 0.8838834764831844;
    gld_add_probe(d, "gate", gate, "channel", 1, c->F);
    gld_add_probe(d, "up", up, "channel", 1, c->F);
    scalar_probe(d, "the gate's multiplier", &d->m[0], 1);
    d->store = d->profile->at[FH1_RP_ACT];
}

OFFERED(swiglu)

static fh1_status swiglu_call(const gld_op_call *k)
{
    return k->e->ops->swiglu(k->e, k->d->c->T, k->d->c->F, k->in[0], k->d->m[0], k->in[1], k->out[0]);
}

static fh1_status swiglu_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                               bool *offered)
{
    *offered = o->swiglu != NULL;
    return *offered ? o->swiglu(d->profile, d->c->T, d->c->F, d->in[0].v, d->m[0], d->in[1].v, y[0], g) : NULL;
}

static void residual_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    const bool lattice = c->regime == GLD_REGIME_LATTICE;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_HIDDEN, c->T, c->D, -1);
    gld_array *a = gld_add_in(d, "a", GLD_KIND_BRANCH, c->T, c->D, -1);
    gld_array *b = c->mix ? gld_add_in(d, "b", GLD_KIND_BRANCH, c->T, c->D, -1) : NULL;
    gld_add_out(d, "x", c->T, c->D, -1);
    d->m[0] = lattice ? 2 : 0.71;
    d->m[1] = lattice ? 0.5 : 0.39;
    gld_add_probe(d, "x", x, "channel", 1, c->D);
    gld_add_probe(d, "a", a, "channel", 1, c->D);
    if (b) gld_add_probe(d, "b", b, "channel", 1, c->D);
    scalar_probe(d, "the multiplier of a", &d->m[0], 1);
    if (b) scalar_probe(d, "the multiplier of b", &d->m[1], 1);
    d->store = d->profile->at[FH1_RP_RESIDUAL];
}

OFFERED(residual)

static fh1_status residual_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    memcpy(k->out[0], k->in[0], (size_t)(d->in[0].n * fh1_dtype_bits(k->e->dtype) / 8));
    return k->e->ops->residual(k->e, d->out[0].n, k->in[1], d->m[0], d->c->mix ? k->in[2] : NULL, d->m[1], k->out[0]);
}

static fh1_status residual_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                 bool *offered)
{
    (void)y;
    *offered = o->residual != NULL;
    return *offered ? o->residual(d->profile, d->out[0].n, d->in[1].v, d->m[0], d->c->mix ? d->in[2].v : NULL, d->m[1],
                                  d->in[0].v, g)
                    : NULL;
}

/* -- loss and choice --------------------------------------------------------------------------- */

static void loss_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "logits", GLD_KIND_LOGITS, c->T, c->V, -1);
    x->stored = gld_tap_type(d, FH1_TAP_LOGITS);
    gld_add_out(d, "loss", 1, -1, -1);
    d->n_ints = c->T;
    gld_add_probe(d, "the logits", x, "output", 1, 1);
    only(gld_add_probe(d, "the last row of logits", x, "output", 1, 1), c->V, c->T, c->T - 1);
    gld_probe *p = gld_add_probe(d, "the labels", NULL, "output", 1, 1);
    p->ints = d->ints;
    p->modulus = c->V;
}

OFFERED(cross_entropy)

static fh1_status loss_call(const gld_op_call *k)
{
    double loss;
    FH1_TRY(k->e->ops->cross_entropy(k->e, k->d->c->T, k->d->c->V, k->in[0], k->d->ints, &loss));
    fh1_from_f64(k->out[0], k->e->dtype, &loss, 1);
    return NULL;
}

static fh1_status loss_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                             bool *offered)
{
    *offered = o->cross_entropy != NULL;
    return *offered ? o->cross_entropy(d->profile, d->c->T, d->c->V, d->in[0].v, d->ints, y[0][0], g) : NULL;
}

static void sample_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "logits", GLD_KIND_LOGITS, c->T, c->V, -1);
    x->stored = gld_tap_type(d, FH1_TAP_LOGITS);
    gld_add_out(d, "token", c->T, -1, -1);
    d->exact_out[0] = true;
    gld_add_probe(d, "the logits", x, "output", c->T, 1);
    if (c->regime == GLD_REGIME_RECORDED) return; /* a recorded winner is where it is */
    gld_probe *last = gld_add_probe(d, "the last logit", x, "output", c->T, 1);
    only(last, 1, c->V, c->V - 1);
    last->value = -60000; /* below all others */
}

OFFERED(sample)

static fh1_status sample_call(const gld_op_call *k)
{
    const int64_t T = k->d->c->T;
    void *tokens;
    FH1_TRY(fh1_arena_get(k->scratch, (size_t)T * sizeof(int64_t), "tokens", &tokens));
    FH1_TRY(k->e->ops->sample(k->e, T, k->d->c->V, k->in[0], tokens));
    for (int64_t t = 0; t < T; ++t) {
        const double token = (double)((int64_t *)tokens)[t];
        fh1_from_f64((char *)k->out[0] + t * fh1_dtype_bits(k->e->dtype) / 8, k->e->dtype, &token, 1);
    }
    return NULL;
}

/* A choice has no gauge: both engines see the same numbers. */
static fh1_status no_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                           bool *offered)
{
    (void)d, (void)o, (void)y, (void)g;
    *offered = true;
    return NULL;
}

const gld_op_def gld_op_network[GLD_OP_COUNT] = {
    [GLD_OP_EMBED] = {embed_lay_out, embed_offered, embed_call, embed_gauge},
    [GLD_OP_RMSNORM] = {rmsnorm_lay_out, rmsnorm_offered, rmsnorm_call, rmsnorm_gauge},
    [GLD_OP_LINEAR] = {linear_lay_out, linear_offered, linear_call, linear_gauge},
    [GLD_OP_ROPE] = {rope_lay_out, rope_offered, rope_call, rope_gauge},
    [GLD_OP_ATTENTION] = {attention_lay_out, attention_offered, attention_call, attention_gauge},
    [GLD_OP_ATTENTION_STEP] = {attention_lay_out, attention_step_offered, attention_step_call, attention_gauge},
    [GLD_OP_SWIGLU] = {swiglu_lay_out, swiglu_offered, swiglu_call, swiglu_gauge},
    [GLD_OP_RESIDUAL] = {residual_lay_out, residual_offered, residual_call, residual_gauge},
    [GLD_OP_LM_HEAD] = {lm_head_lay_out, lm_head_offered, lm_head_call, lm_head_gauge},
    [GLD_OP_CROSS_ENTROPY] = {loss_lay_out, cross_entropy_offered, loss_call, loss_gauge},
    [GLD_OP_SAMPLE] = {sample_lay_out, sample_offered, sample_call, no_gauge},
};
