/* fh1_bwd_ops of lookup, norms, products, attention, gate, head, loss and step, and the table of all. */
#include "cuda/bwd_ops.h"

namespace CU_NS
{
namespace
{

fh1_status op_embed(fh1_engine *e, int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad, const void *dy,
                    void *dtable)
{
    cu_bench b = cu_bwd_bench_open(e);
    for (int64_t m = 0; m < M; ++m)
        if (ids[m] < 0 || ids[m] >= V)
            CU_BENCH_NOTE(&b,
                          fh1_found(FH1_BAD("a token outside of the table"), "%lld", static_cast<long long>(ids[m])));
    cu_embed_bwd_args a = {};
    a.M = cu_bench_int(&b, M);
    a.D = cu_bench_int(&b, D);
    a.id = cu_bench_ints(&b, ids, M);
    a.pad = pad < 0 ? -1 : cu_bench_int(&b, pad);
    a.m_emb = 1;
    a.dx = cu_bench_f32(&b, dy, M * D);
    a.dtable = cu_bench_f32(&b, dtable, V * D);
    CU_BENCH_NOTE(&b, cu_embed_bwd(b.k, &a));
    cu_bwd_take(&b, a.dtable, dtable, V * D);
    return cu_bench_close(&b);
}

fh1_status op_rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps,
                      const void *dy, void *dx, void *dw)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_rmsnorm_bwd_args a = {};
    a.M = cu_bench_int(&b, M);
    a.D = cu_bench_int(&b, D);
    a.x = cu_bench_f32(&b, x, M * D);
    a.w = cu_bench_small(&b, w);
    a.eps = static_cast<float>(eps);
    a.dy = cu_bench_f32(&b, dy, M * D);
    a.dx = cu_bwd_room(&b, dx, M * D);
    a.dw = cu_bench_f32(&b, dw, D);
    a.scratch = cu_bwd_scratch(&b, cu_rmsnorm_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_rmsnorm_bwd(b.k, &a));
    cu_bwd_take(&b, a.dx, dx, M * D);
    cu_bwd_take(&b, a.dw, dw, D);
    return cu_bench_close(&b);
}

fh1_status product(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, double alpha, const void *dy, void *dx,
                   void *dw, void *db)
{
    cu_bench b = cu_bwd_bench_open(e);
    const int64_t N = w->shape[0], K = w->shape[1];
    cu_linear_bwd_args a = {};
    a.M = cu_bench_int(&b, M);
    a.N = cu_bench_int(&b, N);
    a.K = cu_bench_int(&b, K);
    a.x = cu_bench_f32(&b, x, M * K);
    a.w_type = CU_F32;
    a.w = cu_bench_matrix(&b, w, "the weight");
    a.alpha = static_cast<float>(alpha);
    a.dy = cu_bench_f32(&b, dy, M * N);
    a.ldx = a.lddx = K;
    a.ldy = N;
    a.dx = cu_bwd_room(&b, dx, M * K);
    a.dw = cu_bench_f32(&b, dw, N * K);
    a.db = cu_bench_f32(&b, db, N);
    CU_BENCH_NOTE(&b, cu_linear_bwd(b.k, &a));
    cu_bwd_take(&b, a.dx, dx, M * K);
    cu_bwd_take(&b, a.dw, dw, N * K);
    cu_bwd_take(&b, a.db, db, N);
    return cu_bench_close(&b);
}

fh1_status op_linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const void *dy, void *dx, void *dw,
                     void *db)
{
    return product(e, M, x, w, 1, dy, dx, dw, db);
}

fh1_status op_lm_head(fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m_lm, const void *dlogits,
                      void *dh, void *dw)
{
    return product(e, M, h, w, m_lm, dlogits, dh, dw, NULL);
}

fh1_status op_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                   int64_t seq_len, void *dx)
{
    cu_bench b = cu_bwd_bench_open(e);
    const int64_t n = T * heads * c->A;
    cu_rope_bwd_args a = {};
    a.t = cu_bench_tokens(&b, T, 0, NULL, 0);
    a.t.position = static_cast<int64_t *>(cu_bench_bytes(&b, position, static_cast<size_t>(T) * sizeof *position));
    a.Hq = cu_bench_int(&b, heads);
    a.A = cu_bench_int(&b, c->A);
    a.inv_freq = cu_bench_frequencies(&b, c, seq_len, &a.scale);
    a.m_key = 1;
    a.dq = cu_bench_f32(&b, dx, n);
    a.ldq = heads * c->A;
    CU_BENCH_NOTE(&b, cu_rope_bwd(b.k, &a));
    cu_bwd_take(&b, a.dq, dx, n);
    return cu_bench_close(&b);
}

fh1_status op_attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                        const void *k, const void *v, const int64_t *first, const void *dout, void *dq, void *dk,
                        void *dv)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_attention_bwd_args a = {};
    const int64_t n = T * Hq * A, keys = Hkv * S * A;
    a.t = cu_bench_tokens(&b, T, S - T, NULL, 0);
    a.t.first = cu_bench_ints(&b, first, T);
    a.past = cu_bench_int(&b, S - T);
    a.Hq = cu_bench_int(&b, Hq);
    a.Hkv = cu_bench_int(&b, Hkv);
    a.A = cu_bench_int(&b, A);
    a.q = cu_bench_f32(&b, q, n);
    a.k = cu_bench_f32(&b, k, keys);
    a.v = cu_bench_f32(&b, v, keys);
    a.dout = cu_bench_f32(&b, dout, n);
    a.ldq = a.lddq = Hq * A;
    a.kv_head = a.dkv_head = S * A;
    a.ldkv = a.lddkv = A;
    a.dq = cu_bwd_room(&b, dq, n);
    a.dk = cu_bwd_room(&b, dk, keys);
    a.dv = cu_bwd_room(&b, dv, keys);
    a.scratch = cu_bwd_scratch(&b, cu_attention_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_attention_bwd(b.k, &a));
    cu_bwd_take(&b, a.dq, dq, n);
    cu_bwd_take(&b, a.dk, dk, keys);
    cu_bwd_take(&b, a.dv, dv, keys);
    return cu_bench_close(&b);
}

fh1_status op_swiglu(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                     const void *dact, void *dgate, void *dup)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_swiglu_bwd_args a = {};
    a.M = cu_bench_int(&b, M);
    a.F = cu_bench_int(&b, F);
    a.gate = cu_bench_f32(&b, gate, M * F);
    a.up = cu_bench_f32(&b, up, M * F);
    a.ld = a.ldd = F;
    a.m_gate = static_cast<float>(m_gate);
    a.dact = cu_bench_f32(&b, dact, M * F);
    a.dgate = cu_bwd_room(&b, dgate, M * F);
    a.dup = cu_bwd_room(&b, dup, M * F);
    CU_BENCH_NOTE(&b, cu_swiglu_bwd(b.k, &a));
    cu_bwd_take(&b, a.dgate, dgate, M * F);
    cu_bwd_take(&b, a.dup, dup, M * F);
    return cu_bench_close(&b);
}

fh1_status op_residual(fh1_engine *e, int64_t n, const void *dx, double m_a, void *da, double m_b, void *db)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_residual_bwd_args a = {};
    a.n = n;
    a.dx = cu_bench_f32(&b, dx, n);
    a.m_a = static_cast<float>(m_a);
    a.m_b = static_cast<float>(m_b);
    a.da = cu_bwd_room(&b, da, n);
    a.db = cu_bwd_room(&b, db, n);
    CU_BENCH_NOTE(&b, cu_residual_bwd(b.k, &a));
    cu_bwd_take(&b, a.da, da, n);
    cu_bwd_take(&b, a.db, db, n);
    return cu_bench_close(&b);
}

double counted(const int64_t *labels, int64_t M)
{
    double n = 0;
    for (int64_t m = 0; m < M; ++m) n += labels[m] != -100;
    return n;
}

/* The rows' losses come back and are added up here, in their order. */
fh1_status op_cross_entropy(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                            double divisor, double *loss, void *dlogits)
{
    cu_bench b = cu_bwd_bench_open(e);
    if (divisor == 0) divisor = counted(labels, M);
    double *row = static_cast<double *>(malloc(static_cast<size_t>(M + 1) * sizeof(double)));
    if (!row) CU_BENCH_NOTE(&b, fh1_no_memory(static_cast<size_t>(M) * sizeof(double), "losses"));
    cu_cross_entropy_bwd_args a = {};
    a.M = cu_bench_int(&b, M);
    a.V = cu_bench_int(&b, V);
    a.logits = cu_bench_f32(&b, logits, M * V);
    a.label = cu_bench_ints(&b, labels, M);
    a.divisor = divisor == 0 ? 1 : divisor; /* no label counts: nothing is divided */
    a.dlogits = cu_bwd_room(&b, dlogits, M * V);
    a.row = static_cast<double *>(cu_bench_room(&b, CU_F32, 2 * M)); /* a double is two floats wide */
    CU_BENCH_NOTE(&b, cu_cross_entropy_bwd(b.k, &a));
    cu_bwd_take(&b, a.dlogits, dlogits, M * V);
    cu_bwd_take(&b, reinterpret_cast<float *>(a.row), row, 2 * M);
    double sum = 0;
    for (int64_t m = 0; m < M && !b.failed; ++m) sum += row[m];
    *loss = sum / divisor;
    free(row);
    return cu_bench_close(&b);
}

fh1_status op_adamw(fh1_engine *e, int64_t n, const fh1_adamw *o, const void *g, void *w, void *m, void *v)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_adamw_tensor t = {};
    t.n = n;
    t.g = cu_bench_f32(&b, g, n);
    t.w = cu_bench_f32(&b, w, n);
    t.m = cu_bench_f32(&b, m, n);
    t.v = cu_bench_f32(&b, v, n);
    t.decay = o->decay;
    cu_adamw_args a = {};
    a.n = 1;
    a.list = static_cast<cu_adamw_tensor *>(cu_bench_bytes(&b, &t, sizeof t));
    a.pieces = (n + CU_ADAMW_PIECE - 1) / CU_ADAMW_PIECE;
    a.o = *o;
    CU_BENCH_NOTE(&b, cu_adamw(b.k, &a));
    cu_bwd_take(&b, t.w, w, n);
    cu_bwd_take(&b, t.m, m, n);
    cu_bwd_take(&b, t.v, v, n);
    return cu_bench_close(&b);
}

fh1_status op_sum_of_squares(fh1_engine *e, int64_t n, const void *g, double *sum)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_squares_args a = {};
    a.n = n;
    a.g = cu_bench_f32(&b, g, n);
    a.part = static_cast<double *>(cu_bench_room(&b, CU_F32, 2 * CU_SQUARES_PARTS));
    a.sum = static_cast<double *>(cu_bench_room(&b, CU_F32, 2));
    CU_BENCH_NOTE(&b, cu_sum_of_squares(b.k, &a));
    cu_bench_take(&b, CU_F32, a.sum, sum, 2);
    return cu_bench_close(&b);
}

} // namespace

const fh1_bwd_ops cu_bwd_ops = {op_embed,
                                op_rmsnorm,
                                op_linear,
                                cu_op_bwd_conv1d,
                                cu_op_bwd_dt_softplus,
                                cu_op_bwd_ssd_scan,
                                cu_op_bwd_selective_scan,
                                cu_op_bwd_gated_norm,
                                op_rope,
                                op_attention,
                                op_swiglu,
                                op_residual,
                                op_lm_head,
                                op_cross_entropy,
                                op_adamw,
                                op_sum_of_squares};

} // namespace CU_NS
