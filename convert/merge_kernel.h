/* The inner loops of a merge. For convert/merge_rows.c. Same bits on every machine. */
#pragma once

#include "oracle/tensor.h"

/* C[rows, cols] += s · L[rows, r] · R[r, cols], sums over k = 0 … r−1 in f64. C has rows of ldc elements, R of ldr. */
void cvt_kernel_add_f64(int64_t rows, int64_t r, int64_t cols, double s, const double *L, const double *R, int64_t ldr,
                        double *C, int64_t ldc);
/* D[rows, cols] = L · R as a chain of fused multiply-adds in f32 over k = 0 … r−1, from 0; rows of ldd elements. */
void cvt_kernel_chain_f32(int64_t rows, int64_t r, int64_t cols, const float *L, const float *R, int64_t ldr, float *D,
                          int64_t ldd);
/* The same with each product rounded before it is added. */
void cvt_kernel_products_f32(int64_t rows, int64_t r, int64_t cols, const float *L, const float *R, int64_t ldr,
                             float *D, int64_t ldd);
/* x = fl32(fl32(a·b) + c) fused, element by element: c += s · a with one rounding. */
void cvt_kernel_fma_f32(int64_t n, float s, const float *a, float *c);

/* ‖x‖ in f32, in the order of PyTorch's kernel for contiguous rows on AVX2: eight partial sums of rounded squares,
 * added up in turn; then four more squares if as many are left, and the last ones fused. */
float cvt_kernel_norm_f32(const float *x, int64_t n);

/* To f64, which is exact, and one rounding from it. */
void cvt_kernel_widen(double *dst, const void *src, fh1_dtype t, int64_t n);
void cvt_kernel_narrow(void *dst, fh1_dtype t, const double *src, int64_t n);
/* v = the nearest value of type t (F32, BF16, F16). */
void cvt_kernel_round_f32(float *v, fh1_dtype t, int64_t n);
/* How many of n elements are NaN or infinite. */
int64_t cvt_kernel_not_finite(const void *p, fh1_dtype t, int64_t n);
