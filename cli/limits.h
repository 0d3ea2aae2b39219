/* What a call of the model costs at least, and what the processor can do: the yardsticks of `fh1 bench`. */
#pragma once

#include "oracle/config.h"

#include <stddef.h>

/* Bytes that must move and multiply-adds·2 that must be done; the model of docs/performance.md. */
typedef struct {
    double weights, rest; /* bytes: weights; keys, values, windows and states, logits */
    double flops;
} cli_work;

/* B rows of T new tokens behind `past` stored ones, logits of the last of each; weights of `bits`, which is also what
 * keys and values take (16 or 32), windows and states f32. */
cli_work cli_work_of(const fh1_config *c, int64_t B, int64_t T, int64_t past, int64_t bits);
/* Products and the reading of weights overlap, the rest does not. */
double cli_work_seconds(const cli_work *w, double bytes_per_s, double flops_per_s);

/* Bytes/s of reading n_bytes once, all threads, pieces of 1 MiB. */
double cli_read_rate(const void *p, size_t n_bytes);
/* Measured: reading memory with all threads, f32 products of the BLAS with all threads. */
fh1_status cli_limits_cpu(double *bytes_per_s, double *flops_per_s);
