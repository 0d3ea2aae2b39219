/* A layer of Falcon-Mamba on the way back: out_proj, gate, scan, Δ and dt_proj, the three norms inside, x_proj, conv,
 * in_proj, norm. */
#include "reference/backward.h"
#include "reference/dt_softplus_bwd.h"
#include "reference/gated_norm_bwd.h"
#include "reference/linear.h"
#include "reference/lora.h"
#include "reference/rmsnorm.h"
#include "reference/rmsnorm_bwd.h"
#include "reference/selective_scan_bwd.h"

#include <string.h>

/* The buffers of one layer; [M, …] but for the last two. d<name>: the derivative by it. */
typedef struct {
    int64_t n;            /* all together */
    real *inner, *dinner; /* dt [M,R], B [M,N], C [M,N] behind their norms */
    real *dxp;            /* x_proj, R + 2N */
    real *raw;            /* dt_proj's output, before bias and softplus, I; then the derivative by it */
    real *dproj;          /* in_proj, 2I */
    real *dgated, *dy;    /* input of out_proj, output of the scan, I each */
    real *dconv, *ddt;    /* conv_act, Δ, I each */
    real *unnormed;       /* dt_proj's output where a norm over I stands behind it (ref_norm_is_late); else no room */
    real *part, *dpart;   /* columns of one norm, dense; R or N */
    real *state;          /* zeros, [I,N]: a training step has no past */
    real *window;         /* [I,K-1] twice */
} buffers;

static fh1_status allocate(REF(ref_bwd) * b, buffers *f)
{
    const fh1_config *c = b->k.c;
    const int64_t M = b->k.t.M, I = c->H, xp = fh1_x_proj_dim(c), widest = c->R > c->N ? c->R : c->N;
    real *next;
    struct {
        real **at;
        int64_t n;
    } part[] = {{&f->inner, M * xp},
                {&f->dinner, M * xp},
                {&f->dxp, M * xp},
                {&f->raw, M * I},
                {&f->dproj, M * fh1_in_proj_dim(c)},
                {&f->dgated, M * I},
                {&f->dy, M * I},
                {&f->dconv, M * I},
                {&f->ddt, M * I},
                {&f->unnormed, ref_norm_is_late(b->k.e) ? M * I : 0},
                {&f->part, M * widest},
                {&f->dpart, M * widest},
                {&f->state, I * c->N},
                {&f->window, 2 * I * (c->K - 1)}};
    f->n = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i) f->n += part[i].n;
    FH1_TRY(REF(ref_bwd_new)(b, f->n, &next));
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i) {
        *part[i].at = next;
        next += part[i].n;
    }
    memset(f->state, 0, (size_t)(I * c->N) * sizeof(real));
    return NULL;
}

/* What stands between x_proj and the scan, again: f->inner and f->raw. */
static fh1_status between(REF(ref_bwd) * b, int64_t layer, const REF(ref_acts) * a, const buffers *f)
{
    static const fh1_tensor none;
    const fh1_lora *lora = fh1_lora_of(b->k.m, FH1_TAP_DT, layer);
    REF(ref_call) k = b->k;
    k.xp = a->tap[FH1_TAP_X_PROJ];
    k.inner = f->inner;
    FH1_TRY(REF(ref_mamba_inner_norms)(&k));
    FH1_TRY(REF(ref_linear_fwd)(k.t.M, f->inner, &k.m->layers[layer].dt_w, &none, k.p, f->raw));
    if (lora) FH1_TRY(REF(ref_lora_add)(k.t.M, f->inner, lora, &none, k.p, f->raw));
    if (!ref_norm_is_late(k.e)) return NULL;
    memcpy(f->unnormed, f->raw, (size_t)(k.t.M * k.c->H) * sizeof(real));
    return REF(ref_rmsnorm_fwd)(k.t.M, k.c->H, f->raw, &none, k.c->mixer_eps, k.p, f->raw);
}

static fh1_status scan_row(REF(ref_bwd) * b, const REF(ref_acts) * a, int64_t layer, int64_t row, const buffers *f)
{
    const fh1_config *c = b->k.c;
    const fh1_layer *l = &b->k.m->layers[layer];
    const fh1_grads *g = b->o->grads;
    const int64_t I = c->H, N = c->N, M = b->k.t.M;
    const int64_t begin = b->k.t.row_begin[row], at_b = M * c->R + begin * N, at_c = at_b + M * N;
    const REF(ref_selective_bwd_args) args = {.T = b->k.t.row_begin[row + 1] - begin,
                                              .I = I,
                                              .N = N,
                                              .ldx = I,
                                              .ldb = N,
                                              .ldc = N,
                                              .x = a->tap[FH1_TAP_CONV_ACT] + begin * I,
                                              .B = f->inner + at_b,
                                              .C = f->inner + at_c,
                                              .dt = a->tap[FH1_TAP_DT] + begin * I,
                                              .A_log = &l->A_log,
                                              .D = &l->D,
                                              .doc = REF(ref_bwd_documents)(b, begin),
                                              .state_doc = -1,
                                              .reset = fh1_doc_reset(b->k.e->variants),
                                              .state = f->state,
                                              .dy = f->dy + begin * I,
                                              .lddx = I,
                                              .lddb = N,
                                              .lddc = N,
                                              .dx = f->dconv + begin * I,
                                              .dB = f->dinner + at_b,
                                              .dC = f->dinner + at_c,
                                              .ddt = f->ddt + begin * I,
                                              .dA_log = fh1_grad_of(g, &l->A_log),
                                              .dD = fh1_grad_of(g, &l->D)};
    return args.T > 0 ? REF(ref_selective_scan_bwd)(&args) : NULL;
}

/* Dense rows x [M,n] to columns [first, first + n) of out [M,width]. */
static void into_columns(int64_t M, int64_t width, const real *x, int64_t first, int64_t n, real *out)
{
    for (int64_t m = 0; m < M; ++m) memcpy(out + m * width + first, x + m * n, (size_t)n * sizeof *x);
}

/* Through the norm of columns [first, first + n) of x_proj, whose output's derivative is d [M,n]. The norm has no
 * weight, but it has a Jacobian: what moves one element moves the root of them all. */
static fh1_status inner_norm(const REF(ref_bwd) * b, const REF(ref_acts) * a, int64_t first, int64_t n, const real *d,
                             const buffers *f)
{
    static const fh1_tensor no_weight;
    const int64_t M = b->k.t.M, width = fh1_x_proj_dim(b->k.c);
    REF(ref_columns)(M, width, a->tap[FH1_TAP_X_PROJ], first, n, f->part);
    FH1_TRY(REF(ref_rmsnorm_bwd)(M, n, f->part, &no_weight, b->k.c->mixer_eps, d, f->dpart, NULL));
    const real *from = REF_FAULT(GRAD_INNER_NORM_JACOBIAN_DROPPED) ? d : f->dpart;
    into_columns(M, width, from, first, n, f->dxp);
    return NULL;
}

/* From Δ, B and C back to x_proj's output. */
static fh1_status projections(REF(ref_bwd) * b, int64_t layer, const REF(ref_acts) * a, const buffers *f)
{
    static const fh1_tensor none;
    const fh1_config *c = b->k.c;
    const fh1_layer *l = &b->k.m->layers[layer];
    const int64_t M = b->k.t.M, I = c->H, R = c->R, N = c->N;
    const bool late = ref_norm_is_late(b->k.e);
    REF(ref_dt_softplus_bwd)
    (M, I, f->raw, I, &l->dt_bias, 0, (double)INFINITY, f->ddt, f->raw, I, fh1_grad_of(b->o->grads, &l->dt_bias));
    if (late) FH1_TRY(REF(ref_rmsnorm_bwd)(M, I, f->unnormed, &none, c->mixer_eps, f->raw, f->raw, NULL));
    FH1_TRY(REF(ref_bwd_product)(b, FH1_TAP_DT, layer, M, f->inner, f->raw, false, f->dinner));
    if (late) into_columns(M, fh1_x_proj_dim(c), f->dinner, 0, R, f->dxp);
    else FH1_TRY(inner_norm(b, a, 0, R, f->dinner, f));
    FH1_TRY(inner_norm(b, a, R, N, f->dinner + M * R, f));
    return inner_norm(b, a, R + N, N, f->dinner + M * (R + N), f);
}

/* Everything between the output of in_proj and the input of out_proj: f->dgated in, f->dproj out. */
static fh1_status inside(REF(ref_bwd) * b, int64_t layer, const buffers *f)
{
    static const fh1_tensor none;
    static const real ones[5] = {1, 1, 1, 1, 1};
    const fh1_config *c = b->k.c;
    const REF(ref_acts) *a = REF(ref_bwd_acts)(b, layer);
    const int64_t M = b->k.t.M, I = c->H, width = fh1_in_proj_dim(c), gate = fh1_in_proj_gate(c);
    const real *proj = a->tap[FH1_TAP_IN_PROJ];
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_GATED, layer, M, f->dgated));
    FH1_TRY(REF(ref_gated_norm_bwd)(M, I, 1, a->tap[FH1_TAP_SSD], proj + gate, width, &none, 0, false, f->dgated, f->dy,
                                    f->dproj + gate, width, NULL));
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_SSD, layer, M, f->dy));
    FH1_TRY(between(b, layer, a, f));
    for (int64_t r = 0; r < b->k.t.B; ++r) FH1_TRY(scan_row(b, a, layer, r, f));
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_DT, layer, M, f->ddt));
    FH1_TRY(projections(b, layer, a, f));
    const bool lost = REF_FAULT(GRAD_X_WITHOUT_X_PROJ);
    FH1_TRY(REF(ref_bwd_linear)(b, FH1_TAP_X_PROJ, layer, M, a->tap[FH1_TAP_CONV_ACT], f->dxp, true,
                                lost ? NULL : f->dconv));
    FH1_TRY(REF(ref_bwd_flow)(b, FH1_TAP_CONV_ACT, layer, M, f->dconv));
    for (int64_t r = 0; r < b->k.t.B; ++r)
        if (b->k.t.row_begin[r + 1] > b->k.t.row_begin[r])
            FH1_TRY(REF(ref_bwd_conv_row)(b, layer, r, ones, proj, f->dconv, f->window, f->dproj));
    return NULL;
}

/* Of b->branch, by the mixer's output, to b->dn. */
static fh1_status mixer(REF(ref_bwd) * b, int64_t layer)
{
    const REF(ref_acts) *a = REF(ref_bwd_acts)(b, layer);
    const int64_t M = b->k.t.M;
    buffers f;
    FH1_TRY(allocate(b, &f));
    fh1_status s =
        REF(ref_bwd_linear)(b, FH1_TAP_OUT_PROJ, layer, M, a->tap[FH1_TAP_GATED], b->branch, false, f.dgated);
    if (!s) s = inside(b, layer, &f);
    if (!s)
        s = REF(ref_bwd_linear)(b, FH1_TAP_IN_PROJ, layer, M, a->tap[FH1_TAP_INPUT_LAYERNORM], f.dproj, false, b->dn);
    REF(ref_bwd_delete)(b, f.n, f.inner);
    return s;
}

fh1_status REF(ref_bwd_mamba_layer)(REF(ref_bwd) * b, int64_t layer)
{
    const int64_t n = b->k.t.M * b->k.c->D;
    memcpy(b->branch, b->dx, (size_t)n * sizeof *b->branch);
    FH1_TRY(mixer(b, layer));
    memcpy(b->scaled, b->checkpoint + layer * n, (size_t)n * sizeof *b->scaled);
    REF(ref_round_row)(b->k.p->wide_residual, n, b->scaled); /* what the norm read */
    return REF(ref_bwd_norm)(b, FH1_TAP_INPUT_LAYERNORM, layer, b->scaled, &b->k.m->layers[layer].input_layernorm);
}
