/* fh1_bwd_ops (oracle/backward.h) over arrays of the host, as cuda/ops.h has fh1_ops: for tests of single ops. Contract
 * fp32 whatever the engine's own: arrays are f32, matrices are widened exactly. */
#pragma once

#include "cuda/backward.cuh"
#include "cuda/ops_impl.h"

namespace CU_NS
{

extern const fh1_bwd_ops cu_bwd_ops; /* bwd_ops.cu */

/* A bench of f32. */
static inline cu_bench cu_bwd_bench_open(fh1_engine *e)
{
    cu_bench b = cu_bench_open(e);
    b.type = CU_F32;
    return b;
}
/* Room for an output that is wanted, and the way back; NULL where `host` is. */
static inline float *cu_bwd_room(cu_bench *b, const void *host, int64_t n)
{
    return host ? static_cast<float *>(cu_bench_room(b, CU_F32, n)) : NULL;
}
static inline void cu_bwd_take(cu_bench *b, const float *device, void *host, int64_t n)
{
    if (host) cu_bench_take(b, CU_F32, device, host, n);
}
static inline float *cu_bwd_scratch(cu_bench *b, size_t bytes)
{
    return static_cast<float *>(cu_bench_room(b, CU_F32, static_cast<int64_t>((bytes + 3) / 4)));
}

/* The entries of the mixer, in bwd_ops_mixer.cu. */
fh1_status cu_op_bwd_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                            const fh1_tensor *b, const int64_t *doc, int64_t window_doc, const void *window,
                            const void *dy, const void *dwindow_out, void *dx, void *dw, void *db, void *dwindow);
fh1_status cu_op_bwd_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias,
                                 double lo, double hi, const void *ddt, void *draw, void *dbias);
fh1_status cu_op_bwd_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                              const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                              const fh1_tensor *D, const int64_t *doc, int64_t state_doc, const void *state,
                              const void *dy, const void *dstate_out, void *dx, void *dB, void *dC, void *ddt,
                              void *dA_log, void *dD, void *dstate);
fh1_status cu_op_bwd_selective_scan(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                    const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                    const int64_t *doc, int64_t state_doc, const void *state, const void *dy,
                                    const void *dstate_out, void *dx, void *dB, void *dC, void *ddt, void *dA_log,
                                    void *dD, void *dstate);
fh1_status cu_op_bwd_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                                const fh1_tensor *w, double eps, bool norm_before_gate, const void *dout, void *dy,
                                void *dz, void *dw);

} // namespace CU_NS
