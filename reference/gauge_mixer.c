#include "reference/gauge_mixer.h"
#include "reference/conv1d_gauge.h"
#include "reference/dt_softplus_gauge.h"
#include "reference/selective_gauge.h"
#include "reference/ssd_gauge.h"

#include <stdlib.h>
#include <string.h>

/* The args of the forwards point to states and windows that they update. A gauge only reads them. */
static double *unchanged(const double *p)
{
    return (double *)(uintptr_t)p;
}

fh1_status ref_gauge_op_conv1d(const fh1_profile *contract, int64_t T, int64_t c, int64_t K, const double *x,
                               const fh1_tensor *w, const fh1_tensor *b, const int64_t *doc, int64_t window_doc,
                               const double *window, const double *y, const fh1_gauge *g)
{
    (void)y;
    const REF(ref_conv1d_args) a = {.T = T,
                                    .c = c,
                                    .K = K,
                                    .ldx = c,
                                    .x = x,
                                    .w = w,
                                    .b = b,
                                    .doc = doc,
                                    .window_doc = window_doc,
                                    .window = unchanged(window)};
    return ref_conv1d_gauge(contract, &a, NULL, NULL, g);
}

fh1_status ref_gauge_op_dt_softplus(const fh1_profile *contract, int64_t T, int64_t H, const double *raw,
                                    const fh1_tensor *bias, double lo, double hi, const double *dt, const fh1_gauge *g)
{
    (void)dt;
    ref_dt_softplus_gauge(contract, T, H, raw, H, bias, lo, hi, NULL, g);
    return NULL;
}

/* x, B and C joined into the conv layout that a scan reads; freed by the caller. */
static double *join(int64_t T, int64_t d, int64_t GN, const double *x, const double *B, const double *C)
{
    const int64_t width = d + 2 * GN;
    double *xbc = malloc((size_t)(T * width + 1) * sizeof *xbc);
    for (int64_t t = 0; xbc && t < T; ++t) {
        memcpy(xbc + t * width, x + t * d, (size_t)d * sizeof *x);
        memcpy(xbc + t * width + d, B + t * GN, (size_t)GN * sizeof *B);
        memcpy(xbc + t * width + d + GN, C + t * GN, (size_t)GN * sizeof *C);
    }
    return xbc;
}

fh1_status ref_gauge_op_ssd_scan(const fh1_profile *contract, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G,
                                 int64_t Q, const double *x, const double *B, const double *C, const double *dt,
                                 const fh1_tensor *A_log, const fh1_tensor *D, const int64_t *doc, int64_t state_doc,
                                 const double *state, const double *y, const fh1_gauge *g_state, const fh1_gauge *g)
{
    (void)y;
    double *xbc = join(T, H * P, G * N, x, B, C);
    if (!xbc) return fh1_no_memory((size_t)(T * (H * P + 2 * G * N)) * sizeof *xbc, "scan inputs");
    const REF(ref_ssd_args) a = {.T = T,
                                 .H = H,
                                 .P = P,
                                 .N = N,
                                 .G = G,
                                 .ldx = H * P + 2 * G * N,
                                 .xbc = xbc,
                                 .dt = dt,
                                 .A_log = A_log,
                                 .D = D,
                                 .doc = doc,
                                 .state_doc = state_doc,
                                 .state = unchanged(state)};
    fh1_status s = ref_ssd_scan_gauge(contract, &a, ref_ssd_columns(contract, T, Q), NULL, g_state, g);
    free(xbc);
    return s;
}

fh1_status ref_gauge_op_ssd_step(const fh1_profile *contract, int64_t H, int64_t P, int64_t N, int64_t G,
                                 const double *x, const double *B, const double *C, const double *dt,
                                 const fh1_tensor *A_log, const fh1_tensor *D, const double *state, const double *y,
                                 const fh1_gauge *g_state, const fh1_gauge *g)
{
    (void)y;
    double *xbc = join(1, H * P, G * N, x, B, C);
    if (!xbc) return fh1_no_memory((size_t)(H * P + 2 * G * N) * sizeof *xbc, "scan inputs");
    const REF(ref_ssd_args) a = {.T = 1,
                                 .H = H,
                                 .P = P,
                                 .N = N,
                                 .G = G,
                                 .ldx = H * P + 2 * G * N,
                                 .xbc = xbc,
                                 .dt = dt,
                                 .A_log = A_log,
                                 .D = D,
                                 .state = unchanged(state)};
    fh1_status s = ref_ssd_step_gauge(contract, &a, g_state, g);
    free(xbc);
    return s;
}

fh1_status ref_gauge_op_selective_scan(const fh1_profile *contract, int64_t T, int64_t I, int64_t N, const double *x,
                                       const double *B, const double *C, const double *dt, const fh1_tensor *A_log,
                                       const fh1_tensor *D, const int64_t *doc, int64_t state_doc, const double *state,
                                       const double *y, const fh1_gauge *g_B, const fh1_gauge *g_C,
                                       const fh1_gauge *g_state, const fh1_gauge *g)
{
    (void)y;
    REF(ref_selective_args) a = REF(ref_selective_dense)(T, I, N, x, B, C, dt, A_log, D, unchanged(state), NULL);
    a.doc = doc;
    a.state_doc = state_doc;
    return ref_selective_scan_gauge(contract, &a, g_B, g_C, g_state, g);
}

fh1_status ref_gauge_op_selective_step(const fh1_profile *contract, int64_t I, int64_t N, const double *x,
                                       const double *B, const double *C, const double *dt, const fh1_tensor *A_log,
                                       const fh1_tensor *D, const double *state, const double *y, const fh1_gauge *g_B,
                                       const fh1_gauge *g_C, const fh1_gauge *g_state, const fh1_gauge *g)
{
    (void)y;
    const REF(ref_selective_args) a = REF(ref_selective_dense)(1, I, N, x, B, C, dt, A_log, D, unchanged(state), NULL);
    return ref_selective_step_gauge(contract, &a, g_B, g_C, g_state, g);
}
