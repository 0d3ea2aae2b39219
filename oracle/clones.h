/* FH1_CLONES before a function compiles it for AVX-512, AVX2 and baseline x86-64; the loader picks
 * one at start. Empty elsewhere, and under sanitizers, whose runtime is not up yet when it picks.
 * The clones compute the same bits: -ffp-contract=off keeps fused multiply-adds out of all of them. */
#pragma once

#include <stdint.h> /* __GLIBC__, by way of features.h */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(FH1_SANITIZE)
#define FH1_HAS_CLONES 1
#define FH1_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FH1_HAS_CLONES 0
#define FH1_CLONES
#endif

/* What the hot loops run on: "avx512f", "avx2" or "baseline". */
const char *fh1_cpu_path(void);
