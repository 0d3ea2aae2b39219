#pragma once

#include "reference/real.h"

#include <cblas.h>

/* c[M,N] = a[M,K] · b, with b [K,N], or [N,K] where `of_b` is CblasTrans; rows ld* apart. One thread. */
static inline void REF(ref_gemm)(CBLAS_TRANSPOSE of_b, int64_t M, int64_t N, int64_t K, const real *a, int64_t lda,
                                 const real *b, int64_t ldb, real *c, int64_t ldc)
{
#if REF_BITS == 64
    cblas_dgemm(CblasRowMajor, CblasNoTrans, of_b, (int)M, (int)N, (int)K, 1.0, a, (int)lda, b, (int)ldb, 0.0, c,
                (int)ldc);
#elif REF_BITS == 32
    cblas_sgemm(CblasRowMajor, CblasNoTrans, of_b, (int)M, (int)N, (int)K, 1.0f, a, (int)lda, b, (int)ldb, 0.0f, c,
                (int)ldc);
#else
    const real one = 1, zero = 0;
    cblas_zgemm(CblasRowMajor, CblasNoTrans, of_b, (int)M, (int)N, (int)K, &one, a, (int)lda, b, (int)ldb, &zero, c,
                (int)ldc);
#endif
}
