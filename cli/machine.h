/* What this machine offers, and whether OpenBLAS uses it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *blas; /* openblas_get_config() */
    const char *core; /* the kernels that OpenBLAS chose: "SkylakeX" */
    int blas_threads, threads;
    const char *simd;     /* the widest of avx512, avx2, baseline that the processor has */
    const char *coretype; /* OPENBLAS_CORETYPE, NULL when unset */
    bool slow_core;       /* the core type is for an older processor than this one */
} cli_machine;

cli_machine cli_machine_get(void);
/* One line that says what to do about slow_core. */
const char *cli_machine_warning(const cli_machine *m, char *buf, size_t size);
