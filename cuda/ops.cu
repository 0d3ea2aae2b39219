/* fh1_ops of embedding, norms, products, MLP and head, and the table of all. */
#include "cuda/cross_entropy.cuh"
#include "cuda/embed.cuh"
#include "cuda/linear.cuh"
#include "cuda/ops.h"
#include "cuda/ops_impl.h"
#include "cuda/residual.cuh"
#include "cuda/rmsnorm.cuh"
#include "cuda/sample.cuh"
#include "cuda/swiglu.cuh"

namespace CU_NS
{
namespace
{

fh1_status op_embed(fh1_engine *e, int64_t M, const int64_t *ids, const fh1_tensor *table, void *y)
{
    cu_bench b = cu_bench_open(e);
    const int64_t V = table->shape[0], D = table->shape[1];
    for (int64_t m = 0; m < M; ++m)
        if (ids[m] < 0 || ids[m] >= V)
            CU_BENCH_NOTE(&b,
                          fh1_found(FH1_BAD("a token outside of the table"), "%lld", static_cast<long long>(ids[m])));
    cu_embed a = {};
    a.type = b.type;
    a.M = cu_bench_int(&b, M);
    a.D = cu_bench_int(&b, D);
    a.id = cu_bench_ints(&b, ids, M);
    a.table = cu_bench_matrix(&b, table, "the table");
    a.m_emb = 1;
    a.y = cu_bench_room(&b, b.type, M * D);
    a.x = cu_bench_room(&b, b.type, M * D);
    CU_BENCH_NOTE(&b, cu_embed_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.y, y, M * D);
    return cu_bench_close(&b);
}

fh1_status op_rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps, void *y)
{
    cu_bench b = cu_bench_open(e);
    cu_rmsnorm a = {};
    a.type = b.type;
    a.M = cu_bench_int(&b, M);
    a.D = cu_bench_int(&b, D);
    a.x = cu_bench_stored(&b, x, M * D);
    a.w = cu_bench_small(&b, w);
    a.eps = static_cast<float>(eps);
    a.n = cu_bench_room(&b, b.type, M * D);
    CU_BENCH_NOTE(&b, cu_rmsnorm_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.n, y, M * D);
    return cu_bench_close(&b);
}

fh1_status product(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *bias, double alpha,
                   bool logits, void *y)
{
    cu_bench b = cu_bench_open(e);
    const int64_t N = w->shape[0], K = w->shape[1];
    cu_linear a = {};
    a.type = b.type;
    a.M = cu_bench_int(&b, M);
    a.N = cu_bench_int(&b, N);
    a.K = cu_bench_int(&b, K);
    a.x = cu_bench_stored(&b, x, M * K);
    a.ldx = K;
    a.w = cu_bench_matrix(&b, w, "the weight");
    a.b = cu_bench_small(&b, bias);
    a.alpha = static_cast<float>(alpha);
    a.y_type = logits ? CU_F32 : b.type;
    a.y = cu_bench_room(&b, a.y_type, M * N);
    a.ldy = N;
    CU_BENCH_NOTE(&b, cu_linear_fwd(b.k, &a));
    cu_bench_take(&b, a.y_type, a.y, y, M * N);
    return cu_bench_close(&b);
}

fh1_status op_linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y)
{
    return product(e, M, x, w, b, 1, false, y);
}

fh1_status op_lm_head(fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m_lm, void *logits)
{
    return product(e, M, h, w, NULL, m_lm, true, logits);
}

fh1_status op_swiglu(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up, void *act)
{
    cu_bench b = cu_bench_open(e);
    cu_swiglu a = {};
    a.type = b.type;
    a.M = cu_bench_int(&b, M);
    a.F = cu_bench_int(&b, F);
    a.gate = cu_bench_stored(&b, gate, M * F);
    a.up = cu_bench_stored(&b, up, M * F);
    a.ld = F;
    a.m_gate = static_cast<float>(m_gate);
    a.act = cu_bench_room(&b, b.type, M * F);
    CU_BENCH_NOTE(&b, cu_swiglu_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.act, act, M * F);
    return cu_bench_close(&b);
}

fh1_status op_residual(fh1_engine *e, int64_t n, const void *branch, double m_a, const void *second, double m_b,
                       void *x)
{
    cu_bench b = cu_bench_open(e);
    cu_residual a = {};
    a.type = b.type;
    a.n = n;
    a.a = cu_bench_stored(&b, branch, n);
    a.b = cu_bench_stored(&b, second, n);
    a.m_a = static_cast<float>(m_a);
    a.m_b = static_cast<float>(m_b);
    a.x = cu_bench_stored(&b, x, n);
    CU_BENCH_NOTE(&b, cu_residual_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.x, x, n);
    return cu_bench_close(&b);
}

fh1_status op_cross_entropy(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                            double *loss)
{
    cu_bench b = cu_bench_open(e);
    cu_cross_entropy a = {};
    a.M = cu_bench_int(&b, M);
    a.V = cu_bench_int(&b, V);
    a.logits = cu_bench_f32(&b, logits, M * V);
    a.label = cu_bench_ints(&b, labels, M);
    a.row = static_cast<double *>(cu_bench_room(&b, CU_F32, 2 * M));
    a.loss = static_cast<double *>(cu_bench_room(&b, CU_F32, 2));
    CU_BENCH_NOTE(&b, cu_cross_entropy_fwd(b.k, &a));
    cu_bench_take(&b, CU_F32, a.loss, loss, 2); /* a double is two floats wide */
    return cu_bench_close(&b);
}

fh1_status op_sample(fh1_engine *e, int64_t M, int64_t V, const void *logits, int64_t *token)
{
    cu_bench b = cu_bench_open(e);
    cu_sample a = {};
    a.M = cu_bench_int(&b, M);
    a.V = cu_bench_int(&b, V);
    a.logits = cu_bench_f32(&b, logits, M * V);
    a.top_p = 1;
    a.token = static_cast<int *>(cu_bench_room(&b, CU_F32, M));
    a.scratch = cu_bench_room(&b, CU_F32, static_cast<int64_t>((cu_sample_scratch(a.M, a.V) + 3) / 4));
    CU_BENCH_NOTE(&b, cu_sample_fwd(b.k, &a));
    /* into the second half of token[]; then widened from the front, which never passes what is still to be read */
    int *found = reinterpret_cast<int *>(token) + M;
    cu_bench_take(&b, CU_F32, a.token, found, M);
    for (int64_t m = 0; m < M && !b.failed; ++m) {
        int one;
        memcpy(&one, found + m, sizeof one);
        token[m] = one;
    }
    return cu_bench_close(&b);
}

} // namespace

const fh1_ops cu_ops = {op_embed,
                        op_rmsnorm,
                        op_linear,
                        cu_op_conv1d,
                        cu_op_conv1d_step,
                        cu_op_dt_softplus,
                        cu_op_ssd_scan,
                        cu_op_ssd_chunk,
                        cu_op_ssd_step,
                        cu_op_selective_scan,
                        cu_op_selective_step,
                        cu_op_gated_norm,
                        cu_op_rope,
                        cu_op_attention,
                        cu_op_attention_step,
                        op_swiglu,
                        op_residual,
                        op_lm_head,
                        op_cross_entropy,
                        op_sample};

} // namespace CU_NS
