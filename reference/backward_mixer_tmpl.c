/* The Mamba-2 branch on the way back: out_proj, gate, scan and Δ, conv, the mup vector, in_proj. */
#include "reference/backward.h"
#include "reference/conv1d_bwd.h"
#include "reference/dt_softplus_bwd.h"
#include "reference/gated_norm_bwd.h"
#include "reference/mixer.h"
#include "reference/ssd_scan_bwd.h"

#include <stdlib.h>
#include <string.h>

/* The buffers of one layer; [M, …] but for the last two, of one row. */
typedef struct {
    int64_t n;    /* all together */
    real *proj;   /* in_proj's output times the mup vector */
    real *dproj;  /* by that */
    real *dgated; /* by the input of out_proj, d_ssm */
    real *dy;     /* by the scan's output, d_ssm */
    real *dconv;  /* by the conv's output */
    real *ddt;    /* by Δ, H */
    real *state;  /* zeros, [H,P,N]: a training step has no past */
    real *window; /* [c,K-1], and after it the derivative by it */
} buffers;

static fh1_status allocate(REF(ref_bwd) * b, buffers *f)
{
    const fh1_config *c = b->k.c;
    const int64_t M = b->k.t.M, conv = fh1_conv_dim(c);
    real *next;
    struct {
        real **at;
        int64_t n;
    } part[] = {{&f->proj, M * fh1_in_proj_dim(c)},
                {&f->dproj, M * fh1_in_proj_dim(c)},
                {&f->dgated, M * c->d_ssm},
                {&f->dy, M * c->d_ssm},
                {&f->dconv, M * conv},
                {&f->ddt, M * c->H},
                {&f->state, c->H * c->P * c->N},
                {&f->window, 2 * conv * (c->K - 1)}};
    f->n = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i) f->n += part[i].n;
    FH1_TRY(REF(ref_bwd_new)(b, f->n, &next));
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i) {
        *part[i].at = next;
        next += part[i].n;
    }
    memset(f->state, 0, (size_t)(c->H * c->P * c->N) * sizeof(real));
    return NULL;
}

const int64_t *REF(ref_bwd_documents)(const REF(ref_bwd) * b, int64_t begin)
{
    return b->k.e->variants & FH1_VAR_MIXER_LEAKS_DOCS ? NULL : b->k.t.doc + begin;
}

static fh1_status scan_row(REF(ref_bwd) * b, const REF(ref_acts) * a, int64_t layer, int64_t begin, int64_t n,
                           const buffers *f)
{
    const fh1_config *c = b->k.c;
    const fh1_layer *l = &b->k.m->layers[layer];
    const fh1_grads *g = b->o->grads;
    const int64_t conv = fh1_conv_dim(c);
    REF(ref_ssd_bwd_args)
    args = {.T = n,
            .H = c->H,
            .P = c->P,
            .N = c->N,
            .G = c->G,
            .ldx = conv,
            .xbc = a->tap[FH1_TAP_CONV_ACT] + begin * conv,
            .dt = a->tap[FH1_TAP_DT] + begin * c->H,
            .A_log = &l->A_log,
            .D = &l->D,
            .doc = REF(ref_bwd_documents)(b, begin),
            .state_doc = -1,
            .reset = fh1_doc_reset(b->k.e->variants),
            .state = f->state,
            .dy = f->dy + begin * c->d_ssm,
            .lddx = conv,
            .dxbc = f->dconv + begin * conv,
            .ddt = f->ddt + begin * c->H,
            .dA_log = fh1_grad_of(g, &l->A_log),
            .dD = fh1_grad_of(g, &l->D)};
    return REF(ref_ssd_scan_bwd)(&args);
}

/* FH1_VAR_IN_PROJ_BIAS_AT_PADS: the window of a left-padded row holds the bias, which has a derivative for it. */
static void window_of_pads(const REF(ref_bwd) * b, const fh1_layer *l, int64_t row, const real u[5], real *window)
{
    const fh1_config *c = b->k.c;
    const int64_t W = c->K - 1, conv = fh1_conv_dim(c), pads = b->k.t.n_left[row], first = fh1_in_proj_conv(c);
    memset(window, 0, (size_t)(2 * conv * W) * sizeof *window);
    if (!(b->k.e->variants & FH1_VAR_IN_PROJ_BIAS_AT_PADS) || pads == 0 || !l->in_b.data) return;
    for (int64_t j = 0; j < conv; ++j)
        for (int64_t i = W > pads ? W - pads : 0; i < W; ++i)
            window[j * W + i] = (real)fh1_get(&l->in_b, first + j) * u[REF(ref_mup_segment)(c, first + j)];
}

static void bias_of_pads(const REF(ref_bwd) * b, const fh1_layer *l, int64_t row, const real u[5], const real *dwindow)
{
    const fh1_config *c = b->k.c;
    const int64_t W = c->K - 1, conv = fh1_conv_dim(c), pads = b->k.t.n_left[row], first = fh1_in_proj_conv(c);
    real *dbias = fh1_grad_of(b->o->grads, &l->in_b);
    if (!(b->k.e->variants & FH1_VAR_IN_PROJ_BIAS_AT_PADS) || pads == 0 || !dbias) return;
    for (int64_t j = 0; j < conv; ++j)
        for (int64_t i = W > pads ? W - pads : 0; i < W; ++i)
            dbias[first + j] += dwindow[j * W + i] * u[REF(ref_mup_segment)(c, first + j)];
}

fh1_status REF(ref_bwd_conv_row)(REF(ref_bwd) * b, int64_t layer, int64_t row, const real u[5], const real *proj,
                                 const real *dconv, real *window, real *dproj)
{
    const fh1_config *c = b->k.c;
    const fh1_layer *l = &b->k.m->layers[layer];
    const fh1_grads *g = b->o->grads;
    const int64_t begin = b->k.t.row_begin[row], n = b->k.t.row_begin[row + 1] - begin;
    const int64_t conv = fh1_conv_dim(c), width = fh1_in_proj_dim(c), at = begin * width + fh1_in_proj_conv(c);
    const int64_t *doc = REF(ref_bwd_documents)(b, begin);
    real *dwindow = window + conv * (c->K - 1);
    window_of_pads(b, l, row, u, window);
    const bool pads_count = (b->k.e->variants & FH1_VAR_IN_PROJ_BIAS_AT_PADS) && b->k.t.n_left[row] > 0;
    REF(ref_conv1d_bwd_args)
    args = {.T = n,
            .c = conv,
            .K = c->K,
            .ldx = width,
            .x = proj + at,
            .w = &l->conv_w,
            .b = &l->conv_b,
            .doc = doc,
            .window_doc = pads_count && doc ? doc[0] : -1,
            .window = window,
            .dy = dconv + begin * conv,
            .lddx = width,
            .dx = dproj + at,
            .dw = fh1_grad_of(g, &l->conv_w),
            .db = fh1_grad_of(g, &l->conv_b),
            .dwindow = dwindow};
    FH1_TRY(REF(ref_conv1d_bwd)(&args));
    bias_of_pads(b, l, row, u, dwindow);
    return NULL;
}

/* Everything between the output of in_proj and the input of out_proj: f->dgated in, f->dproj out. */
static fh1_status inner(REF(ref_bwd) * b, int64_t layer, const real u[5], const buffers *f)
{
    const fh1_config *c = b->k.c;
    const fh1_layer *l = &b->k.m->layers[layer];
    const fh1_tokens *t = &b->k.t;
    const fh1_grads *g = b->o->grads;
    const REF(ref_acts) *a = REF(ref_bwd_acts)(b, layer);
    const int64_t M = t->M, width = fh1_in_proj_dim(c), dt_at = c->d_ssm + fh1_conv_dim(c);
    const bool unlimited = b->k.e->variants & FH1_VAR_NO_DT_LIMIT;
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_GATED, layer, M, f->dgated));
    FH1_TRY(REF(ref_gated_norm_bwd)(M, c->d_ssm, c->G, a->tap[FH1_TAP_SSD], f->proj, width, &l->norm, c->eps,
                                    c->norm_before_gate, f->dgated, f->dy, f->dproj, width, fh1_grad_of(g, &l->norm)));
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_SSD, layer, M, f->dy));
    for (int64_t r = 0; r < t->B; ++r) {
        const int64_t begin = t->row_begin[r], n = t->row_begin[r + 1] - begin;
        if (n > 0) FH1_TRY(scan_row(b, a, layer, begin, n, f));
    }
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_CONV_ACT, layer, M, f->dconv));
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_DT, layer, M, f->ddt));
    for (int64_t r = 0; r < t->B; ++r) {
        const int64_t n = t->row_begin[r + 1] - t->row_begin[r];
        if (n > 0) FH1_TRY(REF(ref_bwd_conv_row)(b, layer, r, u, f->proj, f->dconv, f->window, f->dproj));
    }
    REF(ref_dt_softplus_bwd)
    (M, c->H, f->proj + dt_at, width, &l->dt_bias, unlimited ? 0 : c->dt_lo, unlimited ? (double)INFINITY : c->dt_hi,
     f->ddt, f->dproj + dt_at, width, fh1_grad_of(g, &l->dt_bias));
    return NULL;
}

fh1_status REF(ref_bwd_mixer)(REF(ref_bwd) * b, int64_t layer)
{
    const fh1_config *c = b->k.c;
    const REF(ref_acts) *a = REF(ref_bwd_acts)(b, layer);
    const int64_t M = b->k.t.M, width = fh1_in_proj_dim(c);
    buffers f;
    real u[5];
    FH1_TRY(allocate(b, &f));
    memcpy(f.proj, a->tap[FH1_TAP_IN_PROJ], (size_t)(M * width) * sizeof *f.proj);
    REF(ref_mup_apply)(&b->k, M, f.proj);
    REF(ref_mup_vector)(&b->k, u);
    fh1_status s =
        REF(ref_bwd_linear)(b, FH1_TAP_OUT_PROJ, layer, M, a->tap[FH1_TAP_GATED], b->branch, false, f.dgated);
    if (!s) s = inner(b, layer, u, &f);
    if (!s) {
        if (REF_FAULT(GRAD_MUP_DROPPED)) u[1] = u[2] = u[3] = 1;
        if (REF_FAULT(GRAD_MUP_OF_DT_DROPPED)) u[4] = 1;
        for (int64_t i = 0; i < width; ++i) {
            const real by = u[REF(ref_mup_segment)(c, i)];
            for (int64_t m = 0; m < M; ++m) f.dproj[m * width + i] *= by;
        }
        REF(ref_bwd_scale)(b, a->tap[FH1_TAP_INPUT_LAYERNORM], c->m_ssm_in);
        s = REF(ref_bwd_linear)(b, FH1_TAP_IN_PROJ, layer, M, b->scaled, f.dproj, false, b->dscaled);
    }
    REF(ref_bwd_delete)(b, f.n, f.proj);
    if (s) return s;
    const real m = REF_FAULT(GRAD_SSM_IN_DROPPED) ? 1 : (real)c->m_ssm_in;
    for (int64_t i = 0; i < M * c->D; ++i) b->dn[i] += m * b->dscaled[i];
    return NULL;
}
