#include "cli/limits.h"

#include "cli/cost.h"
#include "cli/progress.h"
#include "oracle/clones.h"
#include "oracle/thread.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

extern void openblas_set_num_threads(int);

/* -- the work -------------------------------------------------------------------------------------------------- */

/* And of the last norm. */
static double parameters_of_layers(const fh1_config *c)
{
    cli_count k = {0};
    (void)cli_parameters_of(c, &k); /* only a visit that fails could fail, and its own does not */
    return k.parts[CLI_MIXER] + k.parts[CLI_ATTENTION] + k.parts[CLI_MLP] + k.parts[CLI_NORMS];
}

cli_work cli_work_of(const fh1_config *c, int64_t B, int64_t T, int64_t past, int64_t bits)
{
    const double size = (double)bits / 8, L = (double)c->n_layers, rows = (double)B, n = (double)T, tokens = rows * n;
    const double layers = parameters_of_layers(c);
    const double state = 4 * (double)(c->H * c->P * c->N + (c->K - 1) * fh1_conv_dim(c));
    const double kv = 2 * size * (double)(c->Hkv * c->A), head = (double)c->V * (double)c->D;
    const double keys = (double)past + (n + 1) / 2; /* that a new token sees, on average */
    const double scan = (double)(c->H * c->P * c->N) * 4, attention = 4 * (double)(c->Hq * c->A) * keys;
    return (cli_work){
        .weights = size * (layers + head),
        .rest = rows * (L * (2 * state + kv * ((double)past + n)) + 8 * (double)c->V),
        .flops = tokens * (2 * layers + L * (scan + attention)) + rows * 2 * head,
    };
}

double cli_work_seconds(const cli_work *w, double bytes_per_s, double flops_per_s)
{
    const double read = w->weights / bytes_per_s, compute = w->flops / flops_per_s;
    return (read > compute ? read : compute) + w->rest / bytes_per_s;
}

/* -- the processor ------------------------------------------------------------------------------------------------ */

enum { ROUNDS = 4 };

typedef struct {
    const uint64_t *p;
    uint64_t sum[256];
} read_job;

FH1_CLONES static uint64_t sum_words(const uint64_t *p, int64_t n)
{
    uint64_t s[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; ++l) s[l] += p[i + l];
    for (int l = 1; l < 16; ++l) s[0] += s[l];
    return s[0];
}

static void read_piece(void *ctx, int64_t begin, int64_t end, int thread)
{
    read_job *j = ctx;
    j->sum[thread % 256] += sum_words(j->p + begin, end - begin);
}

double cli_read_rate(const void *p, size_t n_bytes)
{
    read_job j = {.p = p};
    const double begin = cli_seconds();
    fh1_parallel_for((int64_t)(n_bytes / 8), 1 << 17, read_piece, &j);
    const double seconds = cli_seconds() - begin;
    volatile uint64_t keep = j.sum[0];
    (void)keep;
    return (double)n_bytes / seconds;
}

static fh1_status read_rate(double *out)
{
    const size_t bytes = (size_t)1 << 28;
    void *p = malloc(bytes);
    if (!p) return fh1_no_memory(bytes, "the memory limit");
    memset(p, 1, bytes);
    for (int i = 0; i < ROUNDS; ++i) {
        const double rate = cli_read_rate(p, bytes);
        if (rate > *out) *out = rate;
    }
    free(p);
    return NULL;
}

static fh1_status product_rate(double *out)
{
    enum { M = 512, K = 1024, N = 2048 };
    float *x = malloc(((size_t)M * K + (size_t)N * K + (size_t)M * N) * sizeof *x), *w = x + M * K, *y = w + N * K;
    if (!x) return fh1_no_memory(((size_t)M * K + (size_t)N * K + (size_t)M * N) * sizeof *x, "the product limit");
    for (int i = 0; i < M * K + N * K; ++i) x[i] = (float)(i % 7) - 3;
    openblas_set_num_threads(fh1_threads());
    for (int i = 0; i < ROUNDS; ++i) {
        const double begin = cli_seconds();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, x, K, w, K, 0, y, N);
        const double rate = 2.0 * M * N * K / (cli_seconds() - begin);
        if (rate > *out) *out = rate;
    }
    openblas_set_num_threads(1);
    free(x);
    return NULL;
}

fh1_status cli_limits_cpu(double *bytes_per_s, double *flops_per_s)
{
    *bytes_per_s = *flops_per_s = 0;
    FH1_TRY(read_rate(bytes_per_s));
    return product_rate(flops_per_s);
}
