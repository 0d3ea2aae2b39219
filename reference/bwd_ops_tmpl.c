/* The table of backward ops of an engine: the same functions that the whole model's backward is made of, behind
 * fh1_bwd_ops (oracle/backward.h). */
#include "reference/adamw.h"
#include "reference/attention_bwd.h"
#include "reference/conv1d_bwd.h"
#include "reference/cross_entropy_bwd.h"
#include "reference/dt_softplus_bwd.h"
#include "reference/embed_bwd.h"
#include "reference/gated_norm_bwd.h"
#include "reference/linear_bwd.h"
#include "reference/rmsnorm_bwd.h"
#include "reference/rope.h"
#include "reference/rope_bwd.h"
#include "reference/selective_scan_bwd.h"
#include "reference/ssd_scan_bwd.h"
#include "reference/swiglu_bwd.h"

#include <stdlib.h>
#include <string.h>

static fh1_status bwd_embed(fh1_engine *e, int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad,
                            const void *dy, void *dtable)
{
    REF_ENTER(e);
    REF(ref_embed_bwd)(M, ids, V, D, pad, dy, dtable);
    return NULL;
}

static fh1_status bwd_rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                              const void *dy, void *dx, void *dw)
{
    REF_ENTER(e);
    return REF(ref_rmsnorm_bwd)(M, D, x, w, eps, dy, dx, dw);
}

static fh1_status bwd_linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const void *dy, void *dx,
                             void *dw, void *db)
{
    REF_ENTER(e);
    return REF(ref_linear_bwd)(M, x, w, dy, false, dx, dw, db);
}

static fh1_status bwd_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                             const fh1_tensor *b, const int64_t *doc, int64_t window_doc, const void *window,
                             const void *dy, const void *dwindow_out, void *dx, void *dw, void *db, void *dwindow)
{
    REF_ENTER(e);
    const REF(ref_conv1d_bwd_args) a = {.T = T,
                                        .c = c,
                                        .K = K,
                                        .ldx = c,
                                        .x = x,
                                        .w = w,
                                        .b = b,
                                        .doc = doc,
                                        .window_doc = window_doc,
                                        .window = window,
                                        .dy = dy,
                                        .dwindow_out = dwindow_out,
                                        .lddx = c,
                                        .dx = dx,
                                        .dw = dw,
                                        .db = db,
                                        .dwindow = dwindow};
    return REF(ref_conv1d_bwd)(&a);
}

static fh1_status bwd_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias,
                                  double lo, double hi, const void *ddt, void *draw, void *dbias)
{
    REF_ENTER(e);
    REF(ref_dt_softplus_bwd)(T, H, raw, H, bias, lo, hi, ddt, draw, H, dbias);
    return NULL;
}

/* The columns x, B, C of a scan and the widths of the three. */
typedef struct {
    int64_t T, width[3];
} columns;

/* To and from the joined layout that the scan works in; a part that is NULL is not wanted. */
static void join(const columns *c, const void *const part[3], real *joined)
{
    for (int64_t t = 0; t < c->T; ++t)
        for (int i = 0; i < 3; joined += c->width[i++])
            memcpy(joined, (const real *)part[i] + t * c->width[i], (size_t)c->width[i] * sizeof *joined);
}

static void split(const columns *c, const real *joined, void *const part[3])
{
    for (int64_t t = 0; t < c->T; ++t)
        for (int i = 0; i < 3; joined += c->width[i++])
            if (part[i]) memcpy((real *)part[i] + t * c->width[i], joined, (size_t)c->width[i] * sizeof *joined);
}

static fh1_status bwd_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                               const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                               const fh1_tensor *D, const int64_t *doc, int64_t state_doc, const void *state,
                               const void *dy, const void *dstate_out, void *dx, void *dB, void *dC, void *ddt,
                               void *dA_log, void *dD, void *dstate)
{
    REF_ENTER(e);
    const columns c = {T, {H * P, G * N, G * N}};
    const void *const in[3] = {x, B, C};
    void *const out[3] = {dx, dB, dC};
    const int64_t ld = H * P + 2 * G * N;
    const size_t n = (size_t)(T * ld + 1);
    real *xbc = malloc(2 * n * sizeof *xbc), *dxbc = xbc ? xbc + n : NULL;
    if (!xbc) return fh1_no_memory(2 * n * sizeof *xbc, "scan inputs and their gradients");
    join(&c, in, xbc);
    const REF(ref_ssd_bwd_args) a = {.T = T,
                                     .H = H,
                                     .P = P,
                                     .N = N,
                                     .G = G,
                                     .ldx = ld,
                                     .xbc = xbc,
                                     .dt = dt,
                                     .A_log = A_log,
                                     .D = D,
                                     .doc = doc,
                                     .state_doc = state_doc,
                                     .reset = fh1_doc_reset(e->variants),
                                     .state = state,
                                     .dy = dy,
                                     .dstate_out = dstate_out,
                                     .lddx = ld,
                                     .dxbc = dx || dB || dC ? dxbc : NULL,
                                     .ddt = ddt,
                                     .dA_log = dA_log,
                                     .dD = dD,
                                     .dstate = dstate};
    fh1_status s = REF(ref_ssd_scan_bwd)(&a);
    if (!s && a.dxbc) split(&c, dxbc, out);
    free(xbc);
    return s;
}

static fh1_status bwd_selective_scan(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                     const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                     const int64_t *doc, int64_t state_doc, const void *state, const void *dy,
                                     const void *dstate_out, void *dx, void *dB, void *dC, void *ddt, void *dA_log,
                                     void *dD, void *dstate)
{
    REF_ENTER(e);
    const REF(ref_selective_bwd_args) a = {.T = T,
                                           .I = I,
                                           .N = N,
                                           .ldx = I,
                                           .ldb = N,
                                           .ldc = N,
                                           .x = x,
                                           .B = B,
                                           .C = C,
                                           .dt = dt,
                                           .A_log = A_log,
                                           .D = D,
                                           .doc = doc,
                                           .state_doc = state_doc,
                                           .reset = fh1_doc_reset(e->variants),
                                           .state = state,
                                           .dy = dy,
                                           .dstate_out = dstate_out,
                                           .lddx = I,
                                           .lddb = N,
                                           .lddc = N,
                                           .dx = dx,
                                           .dB = dB,
                                           .dC = dC,
                                           .ddt = ddt,
                                           .dA_log = dA_log,
                                           .dD = dD,
                                           .dstate = dstate};
    return REF(ref_selective_scan_bwd)(&a);
}

static fh1_status bwd_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                                 const fh1_tensor *w, double eps, bool norm_before_gate, const void *dout, void *dy,
                                 void *dz, void *dw)
{
    REF_ENTER(e);
    return REF(ref_gated_norm_bwd)(M, d, G, y, z, d, w, eps, norm_before_gate, dout, dy, dz, d, dw);
}

static fh1_status bwd_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                           int64_t seq_len, void *dx)
{
    REF_ENTER(e);
    const size_t bytes = (size_t)(T * c->A + 1) * sizeof(real);
    real *table = malloc(bytes);
    if (!table) return fh1_no_memory(bytes, "a rope table");
    REF(ref_rope_table)(c, T, position, seq_len, e->profile, table);
    REF(ref_rope_bwd)(T, heads, c->A, table, dx);
    free(table);
    return NULL;
}

static fh1_status bwd_attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                                const void *k, const void *v, const int64_t *first, const void *dout, void *dq,
                                void *dk, void *dv)
{
    REF_ENTER(e);
    const REF(ref_attention_bwd_args) a = {.T = T,
                                           .S = S,
                                           .Hq = Hq,
                                           .Hkv = Hkv,
                                           .A = A,
                                           .ld_kv = S,
                                           .q = q,
                                           .k = k,
                                           .v = v,
                                           .first = first,
                                           .dout = dout,
                                           .dq = dq,
                                           .dk = dk,
                                           .dv = dv};
    return REF(ref_attention_bwd)(&a);
}

static fh1_status bwd_swiglu(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                             const void *dact, void *dgate, void *dup)
{
    REF_ENTER(e);
    REF(ref_swiglu_bwd)(M, F, gate, m_gate, up, dact, dgate, dup);
    return NULL;
}

/* to = v·m; `to` may be v. */
static void scaled(int64_t n, const real *v, double m, real *to)
{
    for (int64_t i = 0; to && i < n; ++i) to[i] = v[i] * (real)m;
}

static fh1_status bwd_residual(fh1_engine *e, int64_t n, const void *dx, double m_a, void *da, double m_b, void *db)
{
    REF_ENTER(e);
    scaled(n, dx, m_a, da);
    scaled(n, dx, m_b, db);
    return NULL;
}

/* logits = (h·Wᵀ)·m: dh = (dlogits·W)·m, dw += dlogitsᵀ·(h·m) */
static fh1_status bwd_lm_head(fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m_lm,
                              const void *dlogits, void *dh, void *dw)
{
    REF_ENTER(e);
    const int64_t n = M * w->shape[1];
    const size_t bytes = (size_t)(n + 1) * sizeof(real);
    real *hm = calloc(1, bytes);
    if (!hm) return fh1_no_memory(bytes, "the input of lm_head");
    scaled(n, h, m_lm, hm);
    fh1_status s = REF(ref_linear_bwd)(M, hm, w, dlogits, false, dh, dw, NULL);
    free(hm);
    if (!s && dh) scaled(n, dh, m_lm, dh);
    return s;
}

static fh1_status bwd_cross_entropy(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                                    double divisor, double *loss, void *dlogits)
{
    REF_ENTER(e);
    int64_t n = 0;
    for (int64_t m = 0; m < M; ++m) n += labels[m] != -100;
    const double by = divisor != 0 ? divisor : (double)n;
    const double sum = REF(ref_cross_entropy_bwd)(M, V, logits, labels, by != 0 ? by : 1, dlogits);
    *loss = sum / by; /* 0/0: the mean of no labels */
    return NULL;
}

static fh1_status bwd_adamw(fh1_engine *e, int64_t n, const fh1_adamw *o, const void *g, void *w, void *m, void *v)
{
    REF_ENTER(e);
    REF(ref_adamw)(n, o, g, w, m, v);
    return NULL;
}

static fh1_status bwd_sum_of_squares(fh1_engine *e, int64_t n, const void *g, double *sum)
{
    REF_ENTER(e);
    *sum = REF(ref_sum_of_squares)(n, g);
    return NULL;
}

extern const fh1_bwd_ops REF(ref_bwd_ops);
const fh1_bwd_ops REF(ref_bwd_ops) = {
    .embed = bwd_embed,
    .rmsnorm = bwd_rmsnorm,
    .linear = bwd_linear,
    .conv1d = bwd_conv1d,
    .dt_softplus = bwd_dt_softplus,
    .ssd_scan = bwd_ssd_scan,
    .selective_scan = bwd_selective_scan,
    .gated_norm = bwd_gated_norm,
    .rope = bwd_rope,
    .attention = bwd_attention,
    .swiglu = bwd_swiglu,
    .residual = bwd_residual,
    .lm_head = bwd_lm_head,
    .cross_entropy = bwd_cross_entropy,
    .adamw = bwd_adamw,
    .sum_of_squares = bwd_sum_of_squares,
};
