/* The vendor's matrix products (cuBLASLt) with an algorithm chosen by timing, and the device scratch that products
 * share.
 *
 * The library is opened when the program runs, so that a program built with its header also runs without it. Absent (no
 * header when built, no library when run) products go to our own kernels. In cuda-host it is cuda/host/cublaslt.h. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_linear;
struct cu_blas;

/* `tune_cache`: file with the algorithms chosen earlier, read now and rewritten after each new choice; NULL: the one
 * that FH1_CUDA_TUNE_CACHE names, if any, else the choices live in memory. A damaged file, one of another device or of
 * another version is ignored, the first with a line on stderr. FH1_E_INTERNAL: no memory for the scratch. */
fh1_status cu_blas_new(const char *tune_cache, cu_blas **out);
void cu_blas_free(cu_blas *h);

/* Version of the library, 0 where it is absent. */
size_t cu_blas_version(const cu_blas *h);

/* cu_linear_fwd by the library; *done false and nothing launched where it cannot: absent, k->blas NULL, a product that
 * it does not support, or one whose sum and bias it would not round together: with a bias and a bf16 result it takes
 * the bias in bf16 only.
 *
 * The algorithm of a product (M rounded up to a power of two, N, K, types) is chosen at its first use: the best of up
 * to 20 candidates, timed on the real operands; while the stream is being captured the first candidate, and nothing is
 * remembered. Candidates that add parts of a sum in the type of the result are not asked for: they round more than
 * once. */
fh1_status cu_blas_linear_fwd(cu_ctx *k, const cu_linear *a, bool *done);

/* How many products have been tuned and how many found in the file, for tests. */
void cu_blas_counts(const cu_blas *h, int *tuned, int *loaded);

/* Scratch of products that split a sum over blocks: floats, and counters that are 0 between launches. One stream at a
 * time. */
struct cu_scratch {
    float *part;
    size_t n_part;
    unsigned *arrived;
    int n_arrived;
};
cu_scratch cu_blas_scratch(const cu_blas *h); /* all 0 for NULL */

} // namespace CU_NS
