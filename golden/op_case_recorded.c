/* Recorded data: activations cut from a trace, parameters from its model. A case may be larger or smaller than the
 * recording: rows and columns wrap around. */
#include "golden/op_case_impl.h"

#include "convert/model_open.h"
#include "golden/trace.h"

#include <math.h>
#include <string.h>

typedef struct {
    fh1_model model;
    gld_trace trace;
    int64_t layer, step;
} recording;

/* Where an activation stands: columns [first, first + width) of a tap, times a multiplier. */
typedef struct {
    fh1_tap_id tap;
    int64_t first, width;
    double times;
} source;

/* Falcon-Mamba has fewer taps: B and C are columns of x_proj, before their norms. */
static source source_of_mamba(const fh1_config *c, gld_kind kind)
{
    switch (kind) {
    case GLD_KIND_HIDDEN: return (source){FH1_TAP_LAYER, 0, c->D, 1};
    case GLD_KIND_ACT: return (source){FH1_TAP_INPUT_LAYERNORM, 0, c->D, 1};
    case GLD_KIND_CONV:
    case GLD_KIND_WINDOW: return (source){FH1_TAP_IN_PROJ, fh1_in_proj_conv(c), c->d_ssm, 1};
    case GLD_KIND_DT: return (source){FH1_TAP_DT, 0, c->H, 1};
    case GLD_KIND_X: return (source){FH1_TAP_CONV_ACT, 0, c->d_ssm, 1};
    case GLD_KIND_B: return (source){FH1_TAP_X_PROJ, c->R, c->N, 1};
    case GLD_KIND_C: return (source){FH1_TAP_X_PROJ, c->R + c->N, c->N, 1};
    case GLD_KIND_Y: return (source){FH1_TAP_SSD, 0, c->d_ssm, 1};
    case GLD_KIND_Z: return (source){FH1_TAP_IN_PROJ, fh1_in_proj_gate(c), c->d_ssm, 1};
    case GLD_KIND_STATE: return (source){FH1_TAP_CACHE_SSM, 0, c->H * c->N, 1};
    default: return (source){FH1_TAP_LOGITS, 0, c->V, 1};
    }
}

static source source_of(const fh1_config *c, gld_kind kind, const char *name)
{
    if (c->family == FH1_FALCON_MAMBA) return source_of_mamba(c, kind);
    const int64_t d = c->d_ssm, GN = c->G * c->N;
    const bool second = strcmp(name, "b") == 0;
    switch (kind) {
    case GLD_KIND_HIDDEN: return (source){FH1_TAP_MID, 0, c->D, 1};
    case GLD_KIND_ACT: return (source){FH1_TAP_INPUT_LAYERNORM, 0, c->D, 1};
    case GLD_KIND_CONV:
    case GLD_KIND_WINDOW: return (source){FH1_TAP_IN_PROJ, d, d, c->m_ssm[1] * c->m_ssm_in};
    case GLD_KIND_DT_RAW: return (source){FH1_TAP_IN_PROJ, 2 * d + 2 * GN, c->H, c->m_ssm[4] * c->m_ssm_in};
    case GLD_KIND_DT: return (source){FH1_TAP_DT, 0, c->H, 1};
    case GLD_KIND_X: return (source){FH1_TAP_CONV_ACT, 0, d, 1};
    case GLD_KIND_B: return (source){FH1_TAP_CONV_ACT, d, GN, 1};
    case GLD_KIND_C: return (source){FH1_TAP_CONV_ACT, d + GN, GN, 1};
    case GLD_KIND_Y: return (source){FH1_TAP_SSD, 0, d, 1};
    case GLD_KIND_Z: return (source){FH1_TAP_IN_PROJ, 0, d, c->m_ssm[0] * c->m_ssm_in};
    case GLD_KIND_Q: return (source){FH1_TAP_Q_ROPE, 0, c->Hq * c->A, 1};
    case GLD_KIND_KEY: return (source){FH1_TAP_K_ROPE, 0, c->Hkv * c->A, 1};
    case GLD_KIND_VALUE: return (source){FH1_TAP_V_PROJ, 0, c->Hkv * c->A, 1};
    case GLD_KIND_GATE: return (source){FH1_TAP_GATE_PROJ, 0, c->F, 1};
    case GLD_KIND_UP: return (source){FH1_TAP_UP_PROJ, 0, c->F, 1};
    case GLD_KIND_BRANCH: return (source){second ? FH1_TAP_O_PROJ : FH1_TAP_OUT_PROJ, 0, c->D, 1};
    case GLD_KIND_STATE: return (source){FH1_TAP_CACHE_SSM, 0, c->H * c->P * c->N, 1};
    default: return (source){FH1_TAP_LOGITS, 0, c->V, 1};
    }
}

/* The parameter of the model; rank 1 or 2. */
static const fh1_tensor *parameter_of(const recording *r, gld_op op, gld_kind kind)
{
    const fh1_layer *l = &r->model.layers[r->layer];
    switch (kind) {
    case GLD_KIND_WEIGHT: return op == GLD_OP_LM_HEAD ? &r->model.lm_head : &l->in_w;
    case GLD_KIND_NORM: return op == GLD_OP_GATED_NORM && l->norm.data ? &l->norm : &l->input_layernorm;
    case GLD_KIND_TAPS: return &l->conv_w;
    case GLD_KIND_CONV_BIAS:
    case GLD_KIND_BIAS: return l->conv_b.data ? &l->conv_b : &l->dt_bias;
    case GLD_KIND_DT_BIAS: return &l->dt_bias;
    case GLD_KIND_A_LOG: return &l->A_log;
    case GLD_KIND_D: return &l->D;
    default: return &r->model.embed;
    }
}

static void cut_parameter(const fh1_tensor *t, gld_array *a)
{
    const int64_t n = fh1_n_elems(t), from = t->rank > 1 ? n / t->shape[0] : n;
    const int64_t to = a->rank > 1 ? a->n / a->shape[0] : a->n;
    for (int64_t i = 0; i < a->n; ++i) a->v[i] = fh1_get(t, i / to * from % n + i % to % from);
}

/* Row (token) and column (channel) of element i of an array. */
static void place_of(const gld_array *a, int64_t i, int64_t *row, int64_t *col)
{
    const int64_t width = a->n / a->shape[0];
    *row = i / width;
    *col = i % width;
    if (a->kind == GLD_KIND_WINDOW) { /* [c, K-1] */
        *row = i % width;
        *col = i / width;
    }
    if (a->kind == GLD_KIND_KEY || a->kind == GLD_KIND_VALUE) { /* [Hkv, S, A] */
        *row = i / a->shape[2] % a->shape[1];
        *col = i / width * a->shape[2] + i % a->shape[2];
    }
    if (a->kind == GLD_KIND_STATE) {
        *row = 0;
        *col = i;
    }
}

/* B and C as the scan reads them: rows of root mean square 1, but for mixer_eps. */
static void normalise(const fh1_config *c, gld_array *a)
{
    const int64_t width = a->n / a->shape[0];
    for (double *row = a->v; row < a->v + a->n; row += width) {
        double square = 0;
        for (int64_t i = 0; i < width; ++i) square += row[i] * row[i];
        const double root = sqrt(square / (double)width + c->mixer_eps);
        for (int64_t i = 0; i < width; ++i) row[i] /= root;
    }
}

static fh1_status cut_activation(const recording *r, gld_array *a)
{
    const source s = source_of(&r->model.config, a->kind, a->name);
    const gld_tap *tap = gld_trace_find(&r->trace, r->step, s.tap, fh1_tap_is_per_layer(s.tap) ? r->layer : 0);
    if (!tap) {
        char name[FH1_TAP_NAME_SIZE];
        fh1_status st =
            FH1_BAD("the trace does not hold %s", fh1_tap_name(r->model.config.family, s.tap, r->layer, name));
        return fh1_where(st, "%s: step %lld", r->trace.path, (long long)r->step);
    }
    const bool cache = fh1_tap_is_cache(s.tap);
    const int64_t n = fh1_n_elems(&tap->t), batch = tap->t.shape[0];
    const int64_t rows = cache ? batch : batch * tap->t.shape[1], width = n / rows;
    for (int64_t i = 0; i < a->n; ++i) {
        int64_t row, col;
        place_of(a, i, &row, &col);
        a->v[i] = s.times * fh1_get(&tap->t, row % rows * width + s.first + col % s.width);
    }
    if (s.tap == FH1_TAP_X_PROJ) normalise(&r->model.config, a);
    return NULL;
}

static fh1_status open_recording(const gld_op_case *c, recording *r)
{
    FH1_TRY(cvt_model_open(c->model, &r->model));
    FH1_TRY(gld_trace_open(c->trace, &r->model, NULL, &r->trace));
    if (c->layer < r->model.config.n_layers && c->step < r->trace.n_steps) {
        r->layer = c->layer;
        r->step = c->step;
        return NULL;
    }
    const bool layer = c->layer >= r->model.config.n_layers;
    fh1_status s = fh1_where(FH1_BAD("beyond the recording"), layer ? "--layer" : "--step");
    s = fh1_expected(s, "below %lld", (long long)(layer ? r->model.config.n_layers : r->trace.n_steps));
    return fh1_found(s, "%lld", (long long)(layer ? c->layer : c->step));
}

static fh1_status cut(gld_op_data *d, const recording *r)
{
    for (int i = 0; i < d->n_in; ++i) {
        gld_array *a = &d->in[i];
        if (a->n == 0) continue;
        if (a->param) cut_parameter(parameter_of(r, d->c->op, a->kind), a);
        else FH1_TRY(cut_activation(r, a));
    }
    d->eps = r->model.config.eps;
    if (d->c->limits) {
        d->lo = r->model.config.dt_lo;
        d->hi = r->model.config.dt_hi;
    }
    if (d->c->limits) {
        d->lo = r->model.config.dt_lo;
        d->hi = r->model.config.dt_hi;
    }
    if (d->c->op == GLD_OP_ROPE) {
        fh1_config_copy(&d->config, &r->model.config);
        d->config.A = d->c->A;
    }
    return NULL;
}

fh1_status gld_fill_recorded(gld_op_data *d)
{
    recording *r = NULL;
    void *p;
    FH1_TRY(fh1_arena_get(d->arena, sizeof *r, "a recording", &p));
    r = p;
    memset(r, 0, sizeof *r);
    fh1_status s = open_recording(d->c, r);
    if (!s) s = cut(d, r);
    gld_trace_free(&r->trace);
    fh1_model_free(&r->model);
    return s;
}
