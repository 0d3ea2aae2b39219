/* fh1_bwd_ops of the mixer. */
#include "cuda/bwd_ops.h"

namespace CU_NS
{

fh1_status cu_op_bwd_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                            const fh1_tensor *bias, const int64_t *doc, int64_t window_doc, const void *window,
                            const void *dy, const void *dwindow_out, void *dx, void *dw, void *db, void *dwindow)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_conv1d_bwd_args a = {};
    const int64_t taps = c * (K - 1);
    a.t = cu_bench_tokens(&b, T, 0, doc, window_doc);
    a.d_ssm = cu_bench_int(&b, c);
    a.K = cu_bench_int(&b, K);
    a.x = cu_bench_f32(&b, x, T * c);
    a.ldx = a.lddx = c;
    a.m_x = a.m_B = a.m_C = 1;
    a.w = cu_bench_small(&b, w);
    a.b = cu_bench_small(&b, bias);
    a.window = cu_bench_f32(&b, window, taps);
    a.dy = cu_bench_f32(&b, dy, T * c);
    a.dwindow_out = cu_bench_f32(&b, dwindow_out, taps);
    a.dx = cu_bwd_room(&b, dx, T * c);
    a.dw = cu_bench_f32(&b, dw, c * K);
    a.db = cu_bench_f32(&b, db, c);
    a.dwindow = cu_bwd_room(&b, dwindow, taps);
    a.scratch = cu_bwd_scratch(&b, cu_conv1d_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_conv1d_bwd(b.k, &a));
    cu_bwd_take(&b, a.dx, dx, T * c);
    cu_bwd_take(&b, a.dw, dw, c * K);
    cu_bwd_take(&b, a.db, db, c);
    cu_bwd_take(&b, a.dwindow, dwindow, taps);
    return cu_bench_close(&b);
}

fh1_status cu_op_bwd_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias,
                                 double lo, double hi, const void *ddt, void *draw, void *dbias)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_dt_softplus_bwd_args a = {};
    a.M = cu_bench_int(&b, T);
    a.H = cu_bench_int(&b, H);
    a.raw = cu_bench_f32(&b, raw, T * H);
    a.ld = a.lddraw = H;
    a.m_dt = 1;
    a.bias = cu_bench_small(&b, bias);
    a.lo = static_cast<float>(lo);
    a.hi = static_cast<float>(hi);
    a.ddt = cu_bench_f32(&b, ddt, T * H);
    a.draw = cu_bwd_room(&b, draw, T * H);
    a.dbias = cu_bench_f32(&b, dbias, H);
    a.scratch = cu_bwd_scratch(&b, cu_dt_softplus_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_dt_softplus_bwd(b.k, &a));
    cu_bwd_take(&b, a.draw, draw, T * H);
    cu_bwd_take(&b, a.dbias, dbias, H);
    return cu_bench_close(&b);
}

/* dx [T,d], dB and dC [T,GN] out of what lies side by side; each may be NULL. */
static void apart(cu_bench *b, const float *dxbc, int64_t T, int64_t d, int64_t GN, void *dx, void *dB, void *dC)
{
    if (!dxbc) return;
    const int64_t ld = d + 2 * GN;
    float *all = static_cast<float *>(malloc(static_cast<size_t>(T * ld + 1) * sizeof(float)));
    if (!all)
        CU_BENCH_NOTE(b, fh1_no_memory(static_cast<size_t>(T * ld) * sizeof(float), "gradients of a scan's inputs"));
    else cu_bench_take(b, CU_F32, dxbc, all, T * ld);
    for (int64_t t = 0; t < T && !b->failed; ++t) {
        const float *row = all + t * ld;
        if (dx) memcpy(static_cast<float *>(dx) + t * d, row, static_cast<size_t>(d) * sizeof *row);
        if (dB) memcpy(static_cast<float *>(dB) + t * GN, row + d, static_cast<size_t>(GN) * sizeof *row);
        if (dC) memcpy(static_cast<float *>(dC) + t * GN, row + d + GN, static_cast<size_t>(GN) * sizeof *row);
    }
    free(all);
}

fh1_status cu_op_bwd_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                              const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                              const fh1_tensor *D, const int64_t *doc, int64_t state_doc, const void *state,
                              const void *dy, const void *dstate_out, void *dx, void *dB, void *dC, void *ddt,
                              void *dA_log, void *dD, void *dstate)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_ssd_scan_bwd_args a = {};
    const int64_t d = H * P, GN = G * N, ld = d + 2 * GN;
    a.t = cu_bench_tokens(&b, T, 0, doc, state_doc);
    a.H = cu_bench_int(&b, H);
    a.P = cu_bench_int(&b, P);
    a.N = cu_bench_int(&b, N);
    a.G = cu_bench_int(&b, G);
    a.xbc = static_cast<const float *>(cu_bench_joined(&b, T, d, GN, x, B, C));
    a.ldx = a.lddx = ld;
    a.dt = cu_bench_f32(&b, dt, T * H);
    a.A = cu_bench_decay_rates(&b, A_log, H);
    a.D = cu_bench_small(&b, D);
    a.state = cu_bench_f32(&b, state, d * N);
    a.dy = cu_bench_f32(&b, dy, T * d);
    a.dstate_out = cu_bench_f32(&b, dstate_out, d * N);
    a.dxbc = cu_bwd_room(&b, dx ? dx : dB ? dB : dC, T * ld);
    a.ddt = cu_bwd_room(&b, ddt, T * H);
    a.dA_log = cu_bench_f32(&b, dA_log, H);
    a.dD = cu_bench_f32(&b, dD, H);
    a.dstate = cu_bwd_room(&b, dstate, d * N);
    a.scratch = b.failed ? NULL : cu_bwd_scratch(&b, cu_ssd_scan_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_ssd_scan_bwd(b.k, &a));
    apart(&b, a.dxbc, T, d, GN, dx, dB, dC);
    cu_bwd_take(&b, a.ddt, ddt, T * H);
    cu_bwd_take(&b, a.dA_log, dA_log, H);
    cu_bwd_take(&b, a.dD, dD, H);
    cu_bwd_take(&b, a.dstate, dstate, d * N);
    return cu_bench_close(&b);
}

fh1_status cu_op_bwd_selective_scan(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                    const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                    const int64_t *doc, int64_t state_doc, const void *state, const void *dy,
                                    const void *dstate_out, void *dx, void *dB, void *dC, void *ddt, void *dA_log,
                                    void *dD, void *dstate)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_selective_scan_bwd_args a = {};
    const int64_t states = I * N;
    a.t = cu_bench_tokens(&b, T, 0, doc, state_doc);
    a.I = cu_bench_int(&b, I);
    a.N = cu_bench_int(&b, N);
    a.x = cu_bench_f32(&b, x, T * I);
    a.ldx = a.lddx = I;
    a.B = cu_bench_f32(&b, B, T * N);
    a.C = cu_bench_f32(&b, C, T * N);
    a.ldbc = a.lddbc = N;
    a.dt = cu_bench_f32(&b, dt, T * I);
    a.A = cu_bench_decay_rates(&b, A_log, states);
    a.D = cu_bench_small(&b, D);
    a.state = cu_bench_f32(&b, state, states);
    a.dy = cu_bench_f32(&b, dy, T * I);
    a.dstate_out = cu_bench_f32(&b, dstate_out, states);
    a.dx = cu_bwd_room(&b, dx, T * I);
    a.dB = cu_bwd_room(&b, dB, T * N);
    a.dC = cu_bwd_room(&b, dC, T * N);
    a.ddt = cu_bwd_room(&b, ddt, T * I);
    a.dA_log = cu_bench_f32(&b, dA_log, states);
    a.dD = cu_bench_f32(&b, dD, I);
    a.dstate = cu_bwd_room(&b, dstate, states);
    a.scratch = b.failed ? NULL : cu_bwd_scratch(&b, cu_selective_scan_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_selective_scan_bwd(b.k, &a));
    cu_bwd_take(&b, a.dx, dx, T * I);
    cu_bwd_take(&b, a.dB, dB, T * N);
    cu_bwd_take(&b, a.dC, dC, T * N);
    cu_bwd_take(&b, a.ddt, ddt, T * I);
    cu_bwd_take(&b, a.dA_log, dA_log, states);
    cu_bwd_take(&b, a.dD, dD, I);
    cu_bwd_take(&b, a.dstate, dstate, states);
    return cu_bench_close(&b);
}

fh1_status cu_op_bwd_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                                const fh1_tensor *w, double eps, bool norm_before_gate, const void *dout, void *dy,
                                void *dz, void *dw)
{
    cu_bench b = cu_bwd_bench_open(e);
    cu_gated_norm_bwd_args a = {};
    a.M = cu_bench_int(&b, M);
    a.d = cu_bench_int(&b, d);
    a.G = cu_bench_int(&b, G);
    a.y = cu_bench_f32(&b, y, M * d);
    a.z = cu_bench_f32(&b, z, M * d);
    a.ldz = a.lddz = d;
    a.m_z = 1;
    a.w = cu_bench_small(&b, w);
    a.eps = static_cast<float>(eps);
    a.norm_before_gate = norm_before_gate;
    a.dout = cu_bench_f32(&b, dout, M * d);
    a.dy = cu_bwd_room(&b, dy, M * d);
    a.dz = cu_bwd_room(&b, dz, M * d);
    a.dw = a.w ? cu_bench_f32(&b, dw, d) : NULL;
    a.scratch = cu_bwd_scratch(&b, cu_gated_norm_bwd_scratch(&a));
    CU_BENCH_NOTE(&b, cu_gated_norm_bwd(b.k, &a));
    cu_bwd_take(&b, a.dy, dy, M * d);
    cu_bwd_take(&b, a.dz, dz, M * d);
    if (a.dw) cu_bwd_take(&b, a.dw, dw, d);
    return cu_bench_close(&b);
}

} // namespace CU_NS
