/* The op table of an engine: the same functions that the model is made of, behind fh1_ops. */
#include "reference/attention.h"
#include "reference/call.h"
#include "reference/conv1d.h"
#include "reference/cross_entropy.h"
#include "reference/dt_softplus.h"
#include "reference/embed.h"
#include "reference/gated_norm.h"
#include "reference/linear.h"
#include "reference/rmsnorm.h"
#include "reference/rope.h"
#include "reference/ssd_step.h"
#include "reference/swiglu.h"

#include <stdlib.h>
#include <string.h>

static fh1_status op_embed(fh1_engine *e, int64_t M, const int64_t *ids, const fh1_tensor *table, void *y)
{
    (void)e;
    REF(ref_embed_fwd)(M, ids, table, y);
    return NULL;
}

static fh1_status op_rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                             void *y)
{
    return REF(ref_rmsnorm_fwd)(M, D, x, w, eps, e->profile, y);
}

static fh1_status op_linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y)
{
    return REF(ref_linear_fwd)(M, x, w, b, e->profile, y);
}

static fh1_status op_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                            const fh1_tensor *b, const int64_t *doc, int64_t window_doc, void *window, void *y)
{
    REF(ref_conv1d_args) a = {.T = T, .c = c, .K = K, .ldx = c, .x = x, .w = w, .b = b, .doc = doc,
                              .window_doc = window_doc, .window = window, .y = y};
    return REF(ref_conv1d_fwd)(&a, e->profile);
}

static fh1_status op_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias, double lo,
                                 double hi, void *dt)
{
    REF(ref_dt_softplus_fwd)(T, H, raw, H, bias, lo, hi, e->profile, dt);
    return NULL;
}

/* Separate x, B, C into the conv layout that the scan reads. */
static fh1_status op_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                              const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                              const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    const int64_t d = H * P, GN = G * N, ld = d + 2 * GN;
    const size_t bytes = (size_t)(T * ld + 1) * sizeof(real);
    real *xbc = malloc(bytes);
    if (!xbc) return fh1_no_memory(bytes, "scan inputs");
    for (int64_t t = 0; t < T; ++t) {
        memcpy(xbc + t * ld, (const real *)x + t * d, (size_t)d * sizeof *xbc);
        memcpy(xbc + t * ld + d, (const real *)B + t * GN, (size_t)GN * sizeof *xbc);
        memcpy(xbc + t * ld + d + GN, (const real *)C + t * GN, (size_t)GN * sizeof *xbc);
    }
    REF(ref_ssd_args) a = {.T = T, .H = H, .P = P, .N = N, .G = G, .ldx = ld, .xbc = xbc, .dt = dt, .A_log = A_log,
                           .D = D, .doc = doc, .state_doc = state_doc, .state = state, .y = y};
    REF(ref_ssd_scan_fwd)(&a, e->profile);
    free(xbc);
    return NULL;
}

static fh1_status op_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                                const fh1_tensor *w, double eps, bool norm_before_gate, void *out)
{
    return REF(ref_gated_norm_fwd)(M, d, G, y, z, d, w, eps, norm_before_gate, e->profile, out);
}

static fh1_status op_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                          int64_t seq_len, void *x)
{
    const size_t bytes = (size_t)(T * c->A + 1) * sizeof(real);
    real *table = malloc(bytes);
    if (!table) return fh1_no_memory(bytes, "a rope table");
    REF(ref_rope_table)(c, T, position, seq_len, e->profile, table);
    REF(ref_rope_fwd)(T, heads, c->A, table, e->profile, x);
    free(table);
    return NULL;
}

static fh1_status op_attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                               const void *k, const void *v, const int64_t *first, void *out)
{
    REF(ref_attention_args) a = {.T = T, .S = S, .Hq = Hq, .Hkv = Hkv, .A = A, .ld_kv = S, .q = q, .k = k, .v = v,
                                 .first = first, .out = out};
    return REF(ref_attention_fwd)(&a, e->profile);
}

static fh1_status op_swiglu(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                            void *act)
{
    REF(ref_swiglu_fwd)(M, F, gate, m_gate, up, e->profile, act);
    return NULL;
}

static fh1_status op_cross_entropy(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                                   double *loss)
{
    (void)e;
    *loss = REF(ref_cross_entropy_fwd)(M, V, logits, labels);
    return NULL;
}

const fh1_ops REF(ref_ops) = {
    .embed = op_embed, .rmsnorm = op_rmsnorm, .linear = op_linear, .conv1d = op_conv1d, .dt_softplus = op_dt_softplus,
    .ssd_scan = op_ssd_scan, .gated_norm = op_gated_norm, .rope = op_rope, .attention = op_attention,
    .swiglu = op_swiglu, .cross_entropy = op_cross_entropy,
};
