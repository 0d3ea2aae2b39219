/* The op table of an engine: the same functions that the model is made of, behind fh1_ops. */
#include "reference/attention_step.h"
#include "reference/call.h"
#include "reference/conv1d_step.h"
#include "reference/cross_entropy.h"
#include "reference/dt_softplus.h"
#include "reference/embed.h"
#include "reference/gated_norm.h"
#include "reference/linear.h"
#include "reference/lm_head.h"
#include "reference/residual.h"
#include "reference/rmsnorm.h"
#include "reference/rope.h"
#include "reference/sample.h"
#include "reference/selective_step.h"
#include "reference/ssd_chunk.h"
#include "reference/ssd_step.h"
#include "reference/swiglu.h"

#include <stdlib.h>
#include <string.h>

static fh1_status op_embed(fh1_engine *e, int64_t M, const int64_t *ids, const fh1_tensor *table, void *y)
{
    REF_ENTER(e);
    REF(ref_embed_fwd)(M, ids, table, y);
    return NULL;
}

static fh1_status op_rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                             void *y)
{
    REF_ENTER(e);
    return REF(ref_rmsnorm_fwd)(M, D, x, w, eps, e->profile, y);
}

static fh1_status op_linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y)
{
    REF_ENTER(e);
    return REF(ref_linear_fwd)(M, x, w, b, e->profile, y);
}

static fh1_status op_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                            const fh1_tensor *b, const int64_t *doc, int64_t window_doc, void *window, void *y)
{
    REF_ENTER(e);
    REF(ref_conv1d_args)
    a = {.T = T,
         .c = c,
         .K = K,
         .ldx = c,
         .x = x,
         .w = w,
         .b = b,
         .doc = doc,
         .window_doc = window_doc,
         .window = window,
         .y = y};
    return REF(ref_conv1d_fwd)(&a, e->profile);
}

static fh1_status op_conv1d_step(fh1_engine *e, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                                 const fh1_tensor *b, void *window, void *y)
{
    REF_ENTER(e);
    REF(ref_conv1d_args) a = {.T = 1, .c = c, .K = K, .ldx = c, .x = x, .w = w, .b = b, .window = window, .y = y};
    return REF(ref_conv1d_step_fwd)(&a, e->profile);
}

static fh1_status op_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias,
                                 double lo, double hi, void *dt)
{
    REF_ENTER(e);
    REF(ref_dt_softplus_fwd)(T, H, raw, H, bias, lo, hi, e->profile, dt);
    return NULL;
}

/* The arguments of a scan with x, B, C joined into the conv layout that it reads; a->xbc is freed by `release`. */
static fh1_status join(const REF(ref_ssd_args) * shape, const void *x, const void *B, const void *C,
                       REF(ref_ssd_args) * a)
{
    *a = *shape;
    const int64_t d = a->H * a->P, GN = a->G * a->N;
    a->ldx = d + 2 * GN;
    const size_t bytes = (size_t)(a->T * a->ldx + 1) * sizeof(real);
    real *xbc = malloc(bytes);
    if (!xbc) return fh1_no_memory(bytes, "scan inputs");
    for (int64_t t = 0; t < a->T; ++t) {
        memcpy(xbc + t * a->ldx, (const real *)x + t * d, (size_t)d * sizeof *xbc);
        memcpy(xbc + t * a->ldx + d, (const real *)B + t * GN, (size_t)GN * sizeof *xbc);
        memcpy(xbc + t * a->ldx + d + GN, (const real *)C + t * GN, (size_t)GN * sizeof *xbc);
    }
    a->xbc = xbc;
    return NULL;
}

static void release(REF(ref_ssd_args) * a)
{
    free((void *)(uintptr_t)a->xbc);
}

static fh1_status op_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                              const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                              const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    REF_ENTER(e);
    REF(ref_ssd_args) a;
    const REF(ref_ssd_args) shape = {.T = T,
                                     .H = H,
                                     .P = P,
                                     .N = N,
                                     .G = G,
                                     .dt = dt,
                                     .A_log = A_log,
                                     .D = D,
                                     .doc = doc,
                                     .state_doc = state_doc,
                                     .reset = fh1_doc_reset(e->variants),
                                     .state = state,
                                     .y = y};
    FH1_TRY(join(&shape, x, B, C, &a));
    REF(ref_ssd_scan_fwd)(&a, e->profile);
    release(&a);
    return NULL;
}

static fh1_status op_ssd_chunk(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                               const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                               const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    REF_ENTER(e);
    REF(ref_ssd_args) a;
    const REF(ref_ssd_args) shape = {.T = T,
                                     .H = H,
                                     .P = P,
                                     .N = N,
                                     .G = G,
                                     .dt = dt,
                                     .A_log = A_log,
                                     .D = D,
                                     .doc = doc,
                                     .state_doc = state_doc,
                                     .reset = fh1_doc_reset(e->variants),
                                     .state = state,
                                     .y = y};
    FH1_TRY(join(&shape, x, B, C, &a));
    fh1_status s = REF(ref_ssd_chunk_fwd)(&a, Q, e->profile);
    release(&a);
    return s;
}

static fh1_status op_ssd_step(fh1_engine *e, int64_t H, int64_t P, int64_t N, int64_t G, const void *x, const void *B,
                              const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state,
                              void *y)
{
    REF_ENTER(e);
    REF(ref_ssd_args) a;
    const REF(ref_ssd_args)
        shape = {.T = 1, .H = H, .P = P, .N = N, .G = G, .dt = dt, .A_log = A_log, .D = D, .state = state, .y = y};
    FH1_TRY(join(&shape, x, B, C, &a));
    REF(ref_ssd_step_fwd)(&a, e->profile);
    release(&a);
    return NULL;
}

static fh1_status op_selective_scan(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                    const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                    const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    REF_ENTER(e);
    REF(ref_selective_args) a = REF(ref_selective_dense)(T, I, N, x, B, C, dt, A_log, D, state, y);
    a.doc = doc;
    a.state_doc = state_doc;
    a.reset = fh1_doc_reset(e->variants);
    return REF(ref_selective_scan_fwd)(&a, e->profile);
}

static fh1_status op_selective_step(fh1_engine *e, int64_t I, int64_t N, const void *x, const void *B, const void *C,
                                    const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state, void *y)
{
    REF_ENTER(e);
    const REF(ref_selective_args) a = REF(ref_selective_dense)(1, I, N, x, B, C, dt, A_log, D, state, y);
    return REF(ref_selective_step_fwd)(&a, e->profile);
}

static fh1_status op_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                                const fh1_tensor *w, double eps, bool norm_before_gate, void *out)
{
    REF_ENTER(e);
    return REF(ref_gated_norm_fwd)(M, d, G, y, z, d, w, eps, norm_before_gate, e->profile, out);
}

static fh1_status op_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                          int64_t seq_len, void *x)
{
    REF_ENTER(e);
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
    REF_ENTER(e);
    REF(ref_attention_args)
    a = {.T = T, .S = S, .Hq = Hq, .Hkv = Hkv, .A = A, .ld_kv = S, .q = q, .k = k, .v = v, .first = first, .out = out};
    return REF(ref_attention_fwd)(&a, e->profile);
}

static fh1_status op_attention_step(fh1_engine *e, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                                    const void *k, const void *v, int64_t first, void *out)
{
    REF_ENTER(e);
    REF(ref_attention_args)
    a = {.T = 1, .S = S, .Hq = Hq, .Hkv = Hkv, .A = A, .ld_kv = S, .q = q, .k = k, .v = v, .first = &first, .out = out};
    return REF(ref_attention_step_fwd)(&a, e->profile);
}

static fh1_status op_swiglu(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                            void *act)
{
    REF_ENTER(e);
    REF(ref_swiglu_fwd)(M, F, gate, m_gate, up, e->profile, act);
    return NULL;
}

static fh1_status op_residual(fh1_engine *e, int64_t n, const void *a, double m_a, const void *b, double m_b, void *x)
{
    REF_ENTER(e);
    const REF(ref_branches) mixers = {.a = a, .b = b, .m_a = m_a, .m_b = m_b}, mlp = {.mlp = a, .m_mlp = m_a};
    REF(ref_residual_fwd)(n, b ? &mixers : &mlp, e->profile, x);
    return NULL;
}

static fh1_status op_lm_head(fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m_lm, void *logits)
{
    REF_ENTER(e);
    return REF(ref_lm_head_fwd)(M, h, w, m_lm, e->profile, logits);
}

#if REF_BITS != 128 /* argmax has no derivative */
static fh1_status op_sample(fh1_engine *e, int64_t M, int64_t V, const void *logits, int64_t *token)
{
    REF_ENTER(e);
    REF(ref_sample_greedy)(M, V, logits, token);
    return NULL;
}
#endif

static fh1_status op_cross_entropy(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                                   double *loss)
{
    REF_ENTER(e);
    const ref_wide value = REF(ref_cross_entropy_fwd)(M, V, logits, labels);
    memcpy(loss, &value, sizeof value);
    return NULL;
}

const fh1_ops REF(ref_ops) = {
    .embed = op_embed,
    .rmsnorm = op_rmsnorm,
    .linear = op_linear,
    .conv1d = op_conv1d,
    .conv1d_step = op_conv1d_step,
    .dt_softplus = op_dt_softplus,
    .ssd_scan = op_ssd_scan,
    .ssd_chunk = op_ssd_chunk,
    .ssd_step = op_ssd_step,
    .selective_scan = op_selective_scan,
    .selective_step = op_selective_step,
    .gated_norm = op_gated_norm,
    .rope = op_rope,
    .attention = op_attention,
    .attention_step = op_attention_step,
    .swiglu = op_swiglu,
    .residual = op_residual,
    .lm_head = op_lm_head,
    .cross_entropy = op_cross_entropy,
#if REF_BITS != 128
    .sample = op_sample,
#endif
};
