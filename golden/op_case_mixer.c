/* Ops of the mixer: arrays, what could be lost, call, gauge. */
#include "golden/op_case_impl.h"

#include <string.h>

#define OFFERED(op)                              \
    static bool op##_offered(const fh1_ops *ops) \
    {                                            \
        return ops->op != NULL;                  \
    }

/* In-place state: out[1] starts as the input `in`. */
static void copy_state(const gld_op_call *k, int in)
{
    memcpy(k->out[1], k->in[in], (size_t)(k->d->in[in].n * fh1_dtype_bits(k->e->dtype) / 8));
}

/* What came before the call belongs to the first document. */
static int64_t doc_before(const gld_op_data *d)
{
    return d->doc ? d->doc[0] : 0;
}

/* -- conv1d and conv1d_step -------------------------------------------------------------------- */

static void conv1d_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_CONV, c->T, c->c, -1);
    gld_array *w = gld_add_param(d, "w", GLD_KIND_TAPS, c->c, c->K);
    gld_array *b = gld_add_param(d, "b", GLD_KIND_CONV_BIAS, c->bias ? c->c : 0, -1);
    gld_array *window = gld_add_in(d, "window", GLD_KIND_WINDOW, c->c, c->K - 1, -1);
    window->stored = gld_tap_type(d, FH1_TAP_CACHE_CONV);
    gld_add_out(d, "y", c->T, c->c, -1);
    gld_add_out(d, "window", c->c, c->K - 1, -1);
    d->exact_out[1] = true;
    /* silu turns: on other data than the lattice a channel may have the same value with and without an input */
    const bool lattice = c->regime == GLD_REGIME_LATTICE;
    const int64_t inner = lattice ? 1 : d->out[0].n, units = lattice ? c->c : 1;
    gld_add_probe(d, "x", x, "channel", inner, units);
    gld_probe *last = gld_add_probe(d, "the last token", x, "output", d->out[0].n, 1);
    last->picked = (gld_units){c->c, c->T};
    last->only = c->T - 1;
    for (int64_t k = 0; k < c->K; ++k) {
        gld_probe *tap = gld_add_probe(d, "a tap of w", w, "channel", inner, units);
        tap->picked = (gld_units){1, c->K};
        tap->only = k;
    }
    if (c->bias) gld_add_probe(d, "b", b, "channel", inner, units);
    if (c->state && c->K > 1) gld_add_probe(d, "the window", window, "channel", inner, units);
    if (c->docs > 1 && c->K > 1) gld_add_probe(d, "the documents", NULL, "output", d->out[0].n, 1);
    d->store = d->profile->at[FH1_RP_CONV_ACT];
}

OFFERED(conv1d)
OFFERED(conv1d_step)

static fh1_status conv1d_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    copy_state(k, 3);
    return k->e->ops->conv1d(k->e, d->c->T, d->c->c, d->c->K, k->in[0], &d->in[1].t, &d->in[2].t, d->doc, doc_before(d),
                             k->out[1], k->out[0]);
}

static fh1_status conv1d_step_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    copy_state(k, 3);
    return k->e->ops->conv1d_step(k->e, d->c->c, d->c->K, k->in[0], &d->in[1].t, &d->in[2].t, k->out[1], k->out[0]);
}

static fh1_status conv1d_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                               bool *offered)
{
    const gld_op_case *c = d->c;
    *offered = o->conv1d != NULL;
    return *offered ? o->conv1d(d->profile, c->T, c->c, c->K, d->in[0].v, &d->in[1].t, &d->in[2].t, d->doc,
                                doc_before(d), d->in[3].v, y[0], g)
                    : NULL;
}

/* -- dt_softplus ------------------------------------------------------------------------------- */

static void dt_softplus_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *raw = gld_add_in(d, "raw", GLD_KIND_DT_RAW, c->T, c->H, -1);
    gld_array *bias = gld_add_param(d, "bias", GLD_KIND_DT_BIAS, c->H, -1);
    gld_add_out(d, "dt", c->T, c->H, -1);
    const bool lattice = c->regime == GLD_REGIME_LATTICE;
    d->lo = c->limits ? (lattice ? 0.5 : 0.0078125) : 0;
    d->hi = c->limits ? (lattice ? 64 : 0.125) : (double)INFINITY;
    gld_add_probe(d, "raw", raw, c->limits ? "output" : "head", c->limits ? d->out[0].n : 1, c->limits ? 1 : c->H);
    gld_add_probe(d, "bias", bias, c->limits ? "output" : "head", c->limits ? d->out[0].n : 1, c->limits ? 1 : c->H);
    for (int i = 0; i < 2 && c->limits; ++i) {
        gld_probe *p = gld_add_probe(d, i ? "the upper limit" : "the lower limit", NULL, "output", d->out[0].n, 1);
        p->scalar = i ? &d->hi : &d->lo;
        p->value = i ? (double)INFINITY : 0;
    }
    d->store = d->profile->at[FH1_RP_DT];
}

OFFERED(dt_softplus)

static fh1_status dt_softplus_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    return k->e->ops->dt_softplus(k->e, d->c->T, d->c->H, k->in[0], &d->in[1].t, d->lo, d->hi, k->out[0]);
}

static fh1_status dt_softplus_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                    bool *offered)
{
    *offered = o->dt_softplus != NULL;
    return *offered ? o->dt_softplus(d->profile, d->c->T, d->c->H, d->in[0].v, &d->in[1].t, d->lo, d->hi, y[0], g)
                    : NULL;
}

/* -- ssd_scan, ssd_chunk and ssd_step ---------------------------------------------------------- */

enum { SSD_X, SSD_B, SSD_C, SSD_DT, SSD_A_LOG, SSD_D, SSD_STATE };

/* Loss of `a` shows in y of each head; or in y or the state. */
static gld_probe *ssd_probe(gld_op_data *d, const char *what, gld_array *a, bool state_too)
{
    const gld_op_case *c = d->c;
    gld_probe *p = gld_add_probe(d, what, a, "head", c->P, c->H);
    if (state_too) p->moves[1] = (gld_units){p->moves[0].units > 1 ? c->P * c->N : d->out[1].n, p->moves[0].units};
    return p;
}

static void ssd_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_X, c->T, c->H, c->P);
    gld_array *B = gld_add_in(d, "B", GLD_KIND_B, c->T, c->G, c->N);
    gld_array *C = gld_add_in(d, "C", GLD_KIND_C, c->T, c->G, c->N);
    gld_array *dt = gld_add_in(d, "dt", GLD_KIND_DT, c->T, c->H, -1);
    dt->stored = gld_tap_type(d, FH1_TAP_DT);
    gld_array *A_log = gld_add_param(d, "A_log", GLD_KIND_A_LOG, c->H, -1);
    gld_array *D = gld_add_param(d, "D", GLD_KIND_D, c->H, -1);
    gld_array *state = gld_add_in(d, "state", GLD_KIND_STATE, c->H, c->P, c->N);
    state->stored = FH1_F32; /* whatever the contract stores, the state is f32 */
    gld_add_out(d, "y", c->T, c->H, c->P);
    gld_add_out(d, "state", c->H, c->P, c->N);
    ssd_probe(d, "x", x, false);
    gld_probe *last = gld_add_probe(d, "the last token", x, "output", d->out[0].n, 1);
    last->picked = (gld_units){c->H * c->P, c->T};
    last->only = c->T - 1;
    ssd_probe(d, "B", B, true);
    ssd_probe(d, "C", C, false);
    ssd_probe(d, "dt", dt, true);
    ssd_probe(d, "A_log", A_log, true)->value = 1; /* 0 is a usual value */
    ssd_probe(d, "D", D, false);
    if (c->state) ssd_probe(d, "the state", state, true);
    if (c->docs > 1) gld_add_probe(d, "the documents", NULL, "output", d->out[0].n, 1);
    d->store = fh1_profile_scan_output(d->profile, c->op == GLD_OP_SSD_STEP);
}

OFFERED(ssd_scan)
OFFERED(ssd_chunk)
OFFERED(ssd_step)

static fh1_status ssd_scan_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    const gld_op_case *c = d->c;
    copy_state(k, SSD_STATE);
    return k->e->ops->ssd_scan(k->e, c->T, c->H, c->P, c->N, c->G, k->in[SSD_X], k->in[SSD_B], k->in[SSD_C],
                               k->in[SSD_DT], &d->in[SSD_A_LOG].t, &d->in[SSD_D].t, d->doc, doc_before(d), k->out[1],
                               k->out[0]);
}

/* Truth has no chunks: in exact arithmetic they change nothing. */
static fh1_status ssd_chunk_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    const gld_op_case *c = d->c;
    if (k->truth) return ssd_scan_call(k);
    copy_state(k, SSD_STATE);
    return k->e->ops->ssd_chunk(k->e, c->T, c->H, c->P, c->N, c->G, c->Q, k->in[SSD_X], k->in[SSD_B], k->in[SSD_C],
                                k->in[SSD_DT], &d->in[SSD_A_LOG].t, &d->in[SSD_D].t, d->doc, doc_before(d), k->out[1],
                                k->out[0]);
}

static fh1_status ssd_step_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    const gld_op_case *c = d->c;
    copy_state(k, SSD_STATE);
    return k->e->ops->ssd_step(k->e, c->H, c->P, c->N, c->G, k->in[SSD_X], k->in[SSD_B], k->in[SSD_C], k->in[SSD_DT],
                               &d->in[SSD_A_LOG].t, &d->in[SSD_D].t, k->out[1], k->out[0]);
}

static fh1_status ssd_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                            bool *offered)
{
    const gld_op_case *c = d->c;
    const double *x = d->in[SSD_X].v, *B = d->in[SSD_B].v, *C = d->in[SSD_C].v, *dt = d->in[SSD_DT].v;
    const fh1_tensor *A_log = &d->in[SSD_A_LOG].t, *D = &d->in[SSD_D].t;
    const bool step = c->op == GLD_OP_SSD_STEP;
    *offered = step ? o->ssd_step != NULL : o->ssd_scan != NULL;
    if (!*offered) return NULL;
    for (int64_t i = 0; i < d->out[1].n; ++i) fh1_gauge_set(&g[1], i, (fh1_err){0, 0, 0}); /* the state came exact */
    if (step)
        return o->ssd_step(d->profile, c->H, c->P, c->N, c->G, x, B, C, dt, A_log, D, d->in[SSD_STATE].v, y[0], &g[1],
                           &g[0]);
    return o->ssd_scan(d->profile, c->T, c->H, c->P, c->N, c->G, c->Q, x, B, C, dt, A_log, D, d->doc, doc_before(d),
                       d->in[SSD_STATE].v, y[0], &g[1], &g[0]);
}

/* -- selective_scan and selective_step --------------------------------------------------------- */

enum { SEL_X, SEL_B, SEL_C, SEL_DT, SEL_A_LOG, SEL_D, SEL_STATE };

/* Loss of `a` shows in y of each channel; or in y or the state. Of a single token a channel has one number, and off the
 * lattice that may be small beside its roundings: then somewhere in y. */
static gld_probe *selective_probe(gld_op_data *d, const char *what, gld_array *a, bool state_too)
{
    const bool each = d->c->T > 1 || d->c->regime == GLD_REGIME_LATTICE;
    gld_probe *p = gld_add_probe(d, what, a, "channel", each ? 1 : d->out[0].n, each ? d->c->c : 1);
    if (state_too) p->moves[1] = (gld_units){p->moves[0].units > 1 ? d->c->N : d->out[1].n, p->moves[0].units};
    return p;
}

static void selective_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = gld_add_in(d, "x", GLD_KIND_X, c->T, c->c, -1);
    gld_array *B = gld_add_in(d, "B", GLD_KIND_B, c->T, c->N, -1);
    gld_array *C = gld_add_in(d, "C", GLD_KIND_C, c->T, c->N, -1);
    gld_array *dt = gld_add_in(d, "dt", GLD_KIND_DT, c->T, c->c, -1);
    dt->stored = gld_tap_type(d, FH1_TAP_DT);
    gld_array *A_log = gld_add_param(d, "A_log", GLD_KIND_A_LOG, c->c, c->N);
    gld_array *D = gld_add_param(d, "D", GLD_KIND_D, c->c, -1);
    gld_array *state = gld_add_in(d, "state", GLD_KIND_STATE, c->c, c->N, -1);
    state->stored = FH1_F32; /* whatever the contract stores, the state is f32 */
    gld_add_out(d, "y", c->T, c->c, -1);
    gld_add_out(d, "state", c->c, c->N, -1);
    selective_probe(d, "x", x, false);
    if (c->T > 1) {
        gld_probe *last = gld_add_probe(d, "the last token", x, "output", d->out[0].n, 1);
        last->picked = (gld_units){c->c, c->T};
        last->only = c->T - 1;
    }
    selective_probe(d, "B", B, true);
    selective_probe(d, "C", C, false);
    selective_probe(d, "dt", dt, true);
    selective_probe(d, "A_log", A_log, true)->value = 1; /* 0 is a usual value */
    gld_probe *skip = selective_probe(d, "D", D, false);
    /* beside a huge state a channel's D·x may lie below one rounding of its sums; not in all of them */
    if (c->regime == GLD_REGIME_ADVERSARIAL) skip->moves[0] = (gld_units){d->out[0].n, 1};
    if (c->state) selective_probe(d, "the state", state, true);
    if (c->docs > 1) gld_add_probe(d, "the documents", NULL, "output", d->out[0].n, 1);
    d->store = fh1_profile_scan_output(d->profile, c->op == GLD_OP_SELECTIVE_STEP);
}

OFFERED(selective_scan)
OFFERED(selective_step)

static fh1_status selective_scan_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    const gld_op_case *c = d->c;
    copy_state(k, SEL_STATE);
    return k->e->ops->selective_scan(k->e, c->T, c->c, c->N, k->in[SEL_X], k->in[SEL_B], k->in[SEL_C], k->in[SEL_DT],
                                     &d->in[SEL_A_LOG].t, &d->in[SEL_D].t, d->doc, doc_before(d), k->out[1], k->out[0]);
}

static fh1_status selective_step_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    copy_state(k, SEL_STATE);
    return k->e->ops->selective_step(k->e, d->c->c, d->c->N, k->in[SEL_X], k->in[SEL_B], k->in[SEL_C], k->in[SEL_DT],
                                     &d->in[SEL_A_LOG].t, &d->in[SEL_D].t, k->out[1], k->out[0]);
}

static fh1_status selective_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                  bool *offered)
{
    const gld_op_case *c = d->c;
    const double *x = d->in[SEL_X].v, *B = d->in[SEL_B].v, *C = d->in[SEL_C].v, *dt = d->in[SEL_DT].v;
    const fh1_tensor *A_log = &d->in[SEL_A_LOG].t, *D = &d->in[SEL_D].t;
    const bool step = c->op == GLD_OP_SELECTIVE_STEP;
    *offered = step ? o->selective_step != NULL : o->selective_scan != NULL;
    if (!*offered) return NULL;
    for (int64_t i = 0; i < d->out[1].n; ++i) fh1_gauge_set(&g[1], i, (fh1_err){0, 0, 0}); /* the state came exact */
    if (step)
        return o->selective_step(d->profile, c->c, c->N, x, B, C, dt, A_log, D, d->in[SEL_STATE].v, y[0], NULL, NULL,
                                 &g[1], &g[0]);
    return o->selective_scan(d->profile, c->T, c->c, c->N, x, B, C, dt, A_log, D, d->doc, doc_before(d),
                             d->in[SEL_STATE].v, y[0], NULL, NULL, &g[1], &g[0]);
}

/* -- gated_norm -------------------------------------------------------------------------------- */

static void gated_norm_lay_out(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *y = gld_add_in(d, "y", GLD_KIND_Y, c->T, c->D, -1);
    gld_array *z = gld_add_in(d, "z", GLD_KIND_Z, c->T, c->D, -1);
    gld_array *w = gld_add_param(d, "w", GLD_KIND_NORM, c->norm ? c->D : 0, -1);
    gld_add_out(d, "out", c->T, c->D, -1);
    const int64_t n = c->norm ? c->D / c->G : 1;
    gld_add_probe(d, "y", y, c->norm ? "group" : "channel", n, c->norm ? c->T * c->G : c->D);
    gld_add_probe(d, "z", z, c->norm ? "group" : "channel", n, c->norm ? c->T * c->G : c->D);
    if (c->norm) gld_add_probe(d, "w", w, "channel", 1, c->D);
    if (c->norm && (c->regime == GLD_REGIME_LATTICE || c->regime == GLD_REGIME_ADVERSARIAL)) {
        gld_probe *eps = gld_add_probe(d, "eps", NULL, "output", d->out[0].n, 1);
        eps->scalar = &d->eps;
    }
    d->store = d->profile->at[FH1_RP_GATED];
}

OFFERED(gated_norm)

static fh1_status gated_norm_call(const gld_op_call *k)
{
    const gld_op_data *d = k->d;
    const gld_op_case *c = d->c;
    return k->e->ops->gated_norm(k->e, c->T, c->D, c->G, k->in[0], k->in[1], &d->in[2].t, d->eps,
                                 c->norm_before_gate != 0, k->out[0]);
}

static fh1_status gated_norm_gauge(const gld_op_data *d, const fh1_gauge_ops *o, double *const *y, const fh1_gauge *g,
                                   bool *offered)
{
    const gld_op_case *c = d->c;
    *offered = o->gated_norm != NULL;
    return *offered ? o->gated_norm(d->profile, c->T, c->D, c->G, d->in[0].v, d->in[1].v, &d->in[2].t, d->eps,
                                    c->norm_before_gate != 0, y[0], g)
                    : NULL;
}

const gld_op_def gld_op_mixer[GLD_OP_COUNT] = {
    [GLD_OP_CONV1D] = {conv1d_lay_out, conv1d_offered, conv1d_call, conv1d_gauge},
    [GLD_OP_CONV1D_STEP] = {conv1d_lay_out, conv1d_step_offered, conv1d_step_call, conv1d_gauge},
    [GLD_OP_DT_SOFTPLUS] = {dt_softplus_lay_out, dt_softplus_offered, dt_softplus_call, dt_softplus_gauge},
    [GLD_OP_SSD_SCAN] = {ssd_lay_out, ssd_scan_offered, ssd_scan_call, ssd_gauge},
    [GLD_OP_SSD_CHUNK] = {ssd_lay_out, ssd_chunk_offered, ssd_chunk_call, ssd_gauge},
    [GLD_OP_SSD_STEP] = {ssd_lay_out, ssd_step_offered, ssd_step_call, ssd_gauge},
    [GLD_OP_SELECTIVE_SCAN] = {selective_lay_out, selective_scan_offered, selective_scan_call, selective_gauge},
    [GLD_OP_SELECTIVE_STEP] = {selective_lay_out, selective_step_offered, selective_step_call, selective_gauge},
    [GLD_OP_GATED_NORM] = {gated_norm_lay_out, gated_norm_offered, gated_norm_call, gated_norm_gauge},
};
