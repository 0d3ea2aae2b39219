/* The gauge table of the exact engine: the functions of *_gauge.c behind fh1_gauge_ops, dense and with exact inputs. */
#include "reference/gauge_ops.h"
#include "reference/attention_op_gauge.h"
#include "reference/cross_entropy_gauge.h"
#include "reference/embed_gauge.h"
#include "reference/gated_norm_gauge.h"
#include "reference/gauge_mixer.h"
#include "reference/linear_gauge.h"
#include "reference/lm_head_gauge.h"
#include "reference/residual_gauge.h"
#include "reference/rmsnorm_gauge.h"
#include "reference/rope_gauge.h"
#include "reference/swiglu_gauge.h"

static fh1_status op_embed(const fh1_profile *contract, int64_t n, const double *y, const fh1_gauge *g)
{
    ref_embed_gauge(contract, n, y, g);
    return NULL;
}

static fh1_status op_rmsnorm(const fh1_profile *contract, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                             double eps, const double *y, const fh1_gauge *g)
{
    (void)y;
    return ref_rmsnorm_gauge(contract, M, D, x, w, eps, g);
}

static fh1_status op_gated_norm(const fh1_profile *contract, int64_t M, int64_t d, int64_t G, const double *y,
                                const double *z, const fh1_tensor *w, double eps, bool norm_before_gate,
                                const double *out, const fh1_gauge *g)
{
    (void)out;
    return ref_gated_norm_gauge(contract, M, d, G, y, z, d, NULL, w, eps, norm_before_gate, g);
}

static fh1_status op_rope(const fh1_profile *contract, const fh1_config *c, int64_t T, int64_t heads,
                          const int64_t *position, int64_t seq_len, const double *x, const fh1_gauge *g)
{
    return ref_rope_gauge(contract, c, T, heads, position, seq_len, x, NULL, g);
}

static fh1_status op_attention(const fh1_profile *contract, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A,
                               const double *q, const double *k, const double *v, const int64_t *first,
                               const double *out, const fh1_gauge *g)
{
    const ref_attention_gauge_args a = {T, S, Hq, Hkv, A, S, q, k, v, first, out};
    return ref_attention_op_gauge(contract, &a, g);
}

static fh1_status op_swiglu(const fh1_profile *contract, int64_t M, int64_t F, const double *gate, double m_gate,
                            const double *up, const double *act, const fh1_gauge *g)
{
    (void)act;
    ref_swiglu_gauge(contract, M, F, gate, m_gate, up, g);
    return NULL;
}

static fh1_status op_residual(const fh1_profile *contract, int64_t n, const double *a, double m_a, const double *b,
                              double m_b, const double *x, const fh1_gauge *g)
{
    const ref_branches_f64 mixers = {.a = a, .b = b, .m_a = m_a, .m_b = m_b}, mlp = {.mlp = a, .m_mlp = m_a};
    ref_residual_gauge(contract, n, b ? &mixers : &mlp, x, g);
    return NULL;
}

static fh1_status op_cross_entropy(const fh1_profile *contract, int64_t M, int64_t V, const double *logits,
                                   const int64_t *labels, double loss, const fh1_gauge *g)
{
    (void)loss;
    ref_cross_entropy_gauge(contract, M, V, logits, labels, g);
    return NULL;
}

const fh1_gauge_ops ref_gauge_ops = {
    .embed = op_embed,
    .rmsnorm = op_rmsnorm,
    .linear = ref_linear_gauge,
    .conv1d = ref_gauge_op_conv1d,
    .dt_softplus = ref_gauge_op_dt_softplus,
    .ssd_scan = ref_gauge_op_ssd_scan,
    .ssd_step = ref_gauge_op_ssd_step,
    .selective_scan = ref_gauge_op_selective_scan,
    .selective_step = ref_gauge_op_selective_step,
    .gated_norm = op_gated_norm,
    .rope = op_rope,
    .attention = op_attention,
    .swiglu = op_swiglu,
    .residual = op_residual,
    .lm_head = ref_lm_head_gauge,
    .cross_entropy = op_cross_entropy,
};
