/* fh1_ops of the mixer. */
#include "cuda/conv1d.cuh"
#include "cuda/dt_softplus.cuh"
#include "cuda/gated_norm.cuh"
#include "cuda/ops_impl.h"
#include "cuda/selective_scan.cuh"
#include "cuda/ssd_step.cuh"

namespace CU_NS
{

static int *first_slot(cu_bench *b)
{
    const int64_t slot = 0;
    return cu_bench_ints(b, &slot, 1);
}

fh1_status cu_op_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                        const fh1_tensor *bias, const int64_t *doc, int64_t window_doc, void *window, void *y)
{
    cu_bench b = cu_bench_open(e);
    cu_conv1d a = {};
    a.type = b.type;
    a.t = cu_bench_tokens(&b, T, 0, doc, window_doc);
    a.d_ssm = cu_bench_int(&b, c);
    a.K = cu_bench_int(&b, K);
    a.x = cu_bench_stored(&b, x, T * c);
    a.ldx = c;
    a.m_x = a.m_B = a.m_C = 1;
    a.w = cu_bench_small(&b, w);
    a.b = cu_bench_small(&b, bias);
    a.window = cu_bench_f32(&b, window, c * (K - 1));
    a.slot = first_slot(&b);
    a.y = cu_bench_room(&b, b.type, T * c);
    CU_BENCH_NOTE(&b, cu_conv1d_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.y, y, T * c);
    cu_bench_take(&b, CU_F32, a.window, window, c * (K - 1));
    return cu_bench_close(&b);
}

fh1_status cu_op_conv1d_step(fh1_engine *e, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                             const fh1_tensor *b, void *window, void *y)
{
    return cu_op_conv1d(e, 1, c, K, x, w, b, NULL, 0, window, y);
}

fh1_status cu_op_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias, double lo,
                             double hi, void *dt)
{
    cu_bench b = cu_bench_open(e);
    cu_dt_softplus a = {};
    a.type = b.type;
    a.M = cu_bench_int(&b, T);
    a.H = cu_bench_int(&b, H);
    a.raw = cu_bench_stored(&b, raw, T * H);
    a.ld = H;
    a.m_dt = 1;
    a.bias = cu_bench_small(&b, bias);
    a.lo = static_cast<float>(lo);
    a.hi = static_cast<float>(hi);
    a.dt = static_cast<float *>(cu_bench_room(&b, CU_F32, T * H));
    CU_BENCH_NOTE(&b, cu_dt_softplus_fwd(b.k, &a));
    cu_bench_take(&b, CU_F32, a.dt, dt, T * H);
    return cu_bench_close(&b);
}

/* -- the scan ------------------------------------------------------------------------------------ */

struct scan {
    int64_t T, H, P, N, G;
    const void *x, *B, *C, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
};

void *cu_bench_joined(cu_bench *b, int64_t T, int64_t d, int64_t GN, const void *x, const void *B, const void *C)
{
    const int64_t ld = d + 2 * GN;
    float *xbc = static_cast<float *>(malloc(static_cast<size_t>(T * ld + 1) * sizeof(float)));
    if (!xbc) {
        CU_BENCH_NOTE(b, fh1_no_memory(static_cast<size_t>(T * ld) * sizeof(float), "inputs of a scan"));
        return NULL;
    }
    for (int64_t t = 0; t < T; ++t) {
        float *row = xbc + t * ld;
        memcpy(row, static_cast<const float *>(x) + t * d, static_cast<size_t>(d) * sizeof *row);
        memcpy(row + d, static_cast<const float *>(B) + t * GN, static_cast<size_t>(GN) * sizeof *row);
        memcpy(row + d + GN, static_cast<const float *>(C) + t * GN, static_cast<size_t>(GN) * sizeof *row);
    }
    void *p = cu_bench_stored(b, xbc, T * ld);
    free(xbc);
    return p;
}

float *cu_bench_decay_rates(cu_bench *b, const fh1_tensor *A_log, int64_t n)
{
    float *A = static_cast<float *>(malloc(static_cast<size_t>(n) * sizeof(float)));
    if (!A) {
        CU_BENCH_NOTE(b, fh1_no_memory(static_cast<size_t>(n) * sizeof(float), "decay rates"));
        return NULL;
    }
    for (int64_t i = 0; i < n; ++i) A[i] = static_cast<float>(-exp(fh1_get(A_log, i)));
    float *p = cu_bench_f32(b, A, n);
    free(A);
    return p;
}

static cu_ssd laid_out(cu_bench *b, const scan *s, void *state)
{
    cu_ssd a = {};
    a.type = b->type;
    a.t = cu_bench_tokens(b, s->T, 0, s->doc, s->state_doc);
    a.H = cu_bench_int(b, s->H);
    a.P = cu_bench_int(b, s->P);
    a.N = cu_bench_int(b, s->N);
    a.G = cu_bench_int(b, s->G);
    a.xbc = cu_bench_joined(b, s->T, s->H * s->P, s->G * s->N, s->x, s->B, s->C);
    a.ldx = s->H * s->P + 2 * s->G * s->N;
    a.dt = cu_bench_f32(b, s->dt, s->T * s->H);
    a.A = cu_bench_decay_rates(b, s->A_log, s->H);
    a.D = cu_bench_small(b, s->D);
    a.state = cu_bench_f32(b, state, s->H * s->P * s->N);
    a.slot = first_slot(b);
    a.y = cu_bench_room(b, b->type, s->T * s->H * s->P);
    return a;
}

static fh1_status taken(cu_bench *b, const scan *s, const cu_ssd *a, void *state, void *y)
{
    cu_bench_take(b, b->type, a->y, y, s->T * s->H * s->P);
    cu_bench_take(b, CU_F32, a->state, state, s->H * s->P * s->N);
    return cu_bench_close(b);
}

static fh1_status scanned(fh1_engine *e, const scan *s, cu_ssd_way way, void *state, void *y)
{
    cu_bench b = cu_bench_open(e);
    cu_ssd a = laid_out(&b, s, state);
    if (!b.failed)
        a.scratch = cu_bench_room(&b, CU_F32, static_cast<int64_t>((cu_ssd_scratch(&a, way, a.t.M, 1) + 3) / 4));
    CU_BENCH_NOTE(&b, cu_ssd_scan_fwd(b.k, &a, way));
    return taken(&b, s, &a, state, y);
}

fh1_status cu_op_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                          const void *B, const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                          const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    const scan s = {T, H, P, N, G, x, B, C, dt, A_log, D, doc, state_doc};
    return scanned(e, &s, CU_SSD_AUTO, state, y);
}

/* The kernels' chunks are their own: Q, which the model names, changes no exact result. */
fh1_status cu_op_ssd_chunk(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                           const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                           const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    (void)Q;
    const scan s = {T, H, P, N, G, x, B, C, dt, A_log, D, doc, state_doc};
    return scanned(e, &s, CU_SSD_CHUNKS, state, y);
}

fh1_status cu_op_ssd_step(fh1_engine *e, int64_t H, int64_t P, int64_t N, int64_t G, const void *x, const void *B,
                          const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state,
                          void *y)
{
    const scan s = {1, H, P, N, G, x, B, C, dt, A_log, D, NULL, 0};
    cu_bench b = cu_bench_open(e);
    cu_ssd_step a = {};
    a.s = laid_out(&b, &s, state);
    a.m_z = 1;
    CU_BENCH_NOTE(&b, cu_ssd_step_fwd(b.k, &a));
    return taken(&b, &s, &a.s, state, y);
}

/* A state per channel: scan and step differ in the kernel alone. */
struct selective {
    int64_t T, I, N;
    const void *x, *B, *C, *dt;
    const fh1_tensor *A_log, *D;
    const int64_t *doc;
    int64_t state_doc;
};

static fh1_status selected(fh1_engine *e, const selective *s, fh1_status (*run)(cu_ctx *, const cu_selective *),
                           void *state, void *y)
{
    cu_bench b = cu_bench_open(e);
    cu_selective a = {};
    const int64_t states = s->I * s->N;
    a.type = b.type;
    a.t = cu_bench_tokens(&b, s->T, 0, s->doc, s->state_doc);
    a.I = cu_bench_int(&b, s->I);
    a.N = cu_bench_int(&b, s->N);
    a.x = cu_bench_stored(&b, s->x, s->T * s->I);
    a.ldx = s->I;
    a.B = cu_bench_stored(&b, s->B, s->T * s->N);
    a.C = cu_bench_stored(&b, s->C, s->T * s->N);
    a.ldbc = s->N;
    a.dt = cu_bench_f32(&b, s->dt, s->T * s->I);
    a.A = cu_bench_decay_rates(&b, s->A_log, states);
    a.D = cu_bench_small(&b, s->D);
    a.state = cu_bench_f32(&b, state, states);
    a.slot = first_slot(&b);
    a.y = cu_bench_room(&b, b.type, s->T * s->I);
    CU_BENCH_NOTE(&b, run(b.k, &a));
    cu_bench_take(&b, b.type, a.y, y, s->T * s->I);
    cu_bench_take(&b, CU_F32, a.state, state, states);
    return cu_bench_close(&b);
}

fh1_status cu_op_selective_scan(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    const selective s = {T, I, N, x, B, C, dt, A_log, D, doc, state_doc};
    return selected(e, &s, cu_selective_scan_fwd, state, y);
}

fh1_status cu_op_selective_step(fh1_engine *e, int64_t I, int64_t N, const void *x, const void *B, const void *C,
                                const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state, void *y)
{
    const selective s = {1, I, N, x, B, C, dt, A_log, D, NULL, 0};
    return selected(e, &s, cu_selective_step_fwd, state, y);
}

/* -- the gate ------------------------------------------------------------------------------------ */

fh1_status cu_op_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                            const fh1_tensor *w, double eps, bool norm_before_gate, void *out)
{
    cu_bench b = cu_bench_open(e);
    cu_gated_norm a = {};
    a.type = b.type;
    a.M = cu_bench_int(&b, M);
    a.d = cu_bench_int(&b, d);
    a.G = cu_bench_int(&b, G);
    a.y = cu_bench_stored(&b, y, M * d);
    a.z = cu_bench_stored(&b, z, M * d);
    a.ldz = d;
    a.m_z = 1;
    a.w = cu_bench_small(&b, w);
    a.eps = static_cast<float>(eps);
    a.norm_before_gate = norm_before_gate;
    a.out = cu_bench_room(&b, b.type, M * d);
    CU_BENCH_NOTE(&b, cu_gated_norm_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.out, out, M * d);
    return cu_bench_close(&b);
}

} // namespace CU_NS
