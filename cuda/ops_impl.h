/* What the files ops*.cu share: a bench on which one op is laid out. Its functions do nothing after the first error,
 * which bench_close returns; it frees everything in any case. */
#pragma once

#include "cuda/ops.h"
#include "cuda/tokens.h"

namespace CU_NS
{

enum { CU_BENCH_ARRAYS = 24 };

struct cu_bench {
    cu_ctx *k;
    cu_type type; /* of activations and matrices */
    void *array[CU_BENCH_ARRAYS];
    int n;
    fh1_status failed;
};

cu_bench cu_bench_open(fh1_engine *e);
fh1_status cu_bench_close(cu_bench *b);
/* The status of `expr`, which is not evaluated after an error: a second one would write over the first one's record. */
#define CU_BENCH_NOTE(b, expr)                  \
    do {                                        \
        if (!(b)->failed) (b)->failed = (expr); \
    } while (0)
/* A size that kernels count in int; 0 and an error beyond. */
int cu_bench_int(cu_bench *b, int64_t n);

/* New arrays on the device; NULL after an error, or where the host's is NULL. */
void *cu_bench_room(cu_bench *b, cu_type t, int64_t n);
void *cu_bench_bytes(cu_bench *b, const void *host, size_t bytes);
float *cu_bench_f32(cu_bench *b, const void *host, int64_t n);             /* as it is */
void *cu_bench_stored(cu_bench *b, const void *host, int64_t n);           /* f32 -> stored */
int *cu_bench_ints(cu_bench *b, const int64_t *host, int64_t n);           /* FH1_E_INPUT where one is no int */
float *cu_bench_small(cu_bench *b, const fh1_tensor *t);                   /* a parameter, f32 on the device */
void *cu_bench_matrix(cu_bench *b, const fh1_tensor *t, const char *name); /* a weight matrix, stored */
void cu_bench_take(cu_bench *b, cu_type t, const void *device, void *host, int64_t n); /* -> f32 */

/* x [T,d], B and C [T,GN] of the host side by side, as the conv writes them, stored. */
void *cu_bench_joined(cu_bench *b, int64_t T, int64_t d, int64_t GN, const void *x, const void *B, const void *C);
/* Frequencies of the model's rotation [A/2], f64, and the factor on cos and sin. */
double *cu_bench_frequencies(cu_bench *b, const fh1_config *c, int64_t seq_len, float *scale);
/* A = -exp(A_log) of n elements, in f64, as the model's loader makes it. */
float *cu_bench_decay_rates(cu_bench *b, const fh1_tensor *A_log, int64_t n);

/* The tokens of one row: T new ones behind `past`. doc NULL: they go on with the row's document; else document `before`
 * is what the row's window and state hold. */
cu_tokens cu_bench_tokens(cu_bench *b, int64_t T, int64_t past, const int64_t *doc, int64_t before);

/* The entries, by file. */
fh1_status cu_op_conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                        const fh1_tensor *b, const int64_t *doc, int64_t window_doc, void *window, void *y);
fh1_status cu_op_conv1d_step(fh1_engine *e, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                             const fh1_tensor *b, void *window, void *y);
fh1_status cu_op_dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias, double lo,
                             double hi, void *dt);
fh1_status cu_op_ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                          const void *B, const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                          const int64_t *doc, int64_t state_doc, void *state, void *y);
fh1_status cu_op_ssd_chunk(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                           const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                           const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y);
fh1_status cu_op_ssd_step(fh1_engine *e, int64_t H, int64_t P, int64_t N, int64_t G, const void *x, const void *B,
                          const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state,
                          void *y);
fh1_status cu_op_selective_scan(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                const int64_t *doc, int64_t state_doc, void *state, void *y);
fh1_status cu_op_selective_step(fh1_engine *e, int64_t I, int64_t N, const void *x, const void *B, const void *C,
                                const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state, void *y);
fh1_status cu_op_gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                            const fh1_tensor *w, double eps, bool norm_before_gate, void *out);
fh1_status cu_op_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                      int64_t seq_len, void *x);
fh1_status cu_op_attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                           const void *k, const void *v, const int64_t *first, void *out);
fh1_status cu_op_attention_step(fh1_engine *e, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                                const void *k, const void *v, int64_t first, void *out);

} // namespace CU_NS
