/* fh1-bench: speed of the reference engines on a checkpoint, and on one of Falcon-Mamba, beside the limits of the
 * machine measured in the same run. Called by ci/bench; not a test.
 *
 *   prefill_f32, prefill_f64   tokens/s of one 512-token prompt against what the rate of OpenBLAS's gemm at
 *                              512×1024×4096 allows for the matrix products of the layers
 *   decode_bf16                tokens/s of batch-1 greedy steps on the stored weights (ref-f32 arithmetic) against
 *                              the read bandwidth over the bytes of weights that a step reads
 *   load                       GB/s of opening the folder and reading every weight once, against reading the
 *                              mapped bytes
 *   mamba_prefill_f32, mamba_prefill_f64, mamba_decode_bf16
 *                              the same of the second checkpoint; its scans are no products, so the limit is
 *                              further away than Falcon-H1's
 * Repetitions of limits and engines are interleaved; medians are printed. */
#include "cli/bench/bench.h"
#include "cli/limits.h"
#include "convert/model_open.h"
#include "oracle/clones.h"
#include "oracle/thread.h"
#include "reference/engine.h"

#include <cblas.h>
#include <string.h>

#define PROMPT 512
#define STEPS 16

extern void openblas_set_num_threads(int);
extern char *openblas_get_corename(void);

/* ---- limits of the machine ---- */

/* GFLOP/s of y = x·Wᵀ, M 512, K 1024, N 4096, all threads; the weights change between calls so that they
 * come from memory. */
static double gemm_rate(bool f64)
{
    enum { M = 512, K = 1024, N = 4096, COPIES = 4 };
    const size_t size = f64 ? sizeof(double) : sizeof(float);
    char *x = malloc(M * K * size), *w = malloc((size_t)COPIES * N * K * size), *y = malloc(M * N * size);
    if (!x || !w || !y) bench_stop(fh1_no_memory((size_t)COPIES * N * K * size, "the gemm limit"));
    for (size_t i = 0; i < M * K; ++i)
        f64 ? (((double *)x)[i] = (double)(i % 7) - 3) : (double)(((float *)x)[i] = (float)(i % 7) - 3);
    for (size_t i = 0; i < (size_t)COPIES * N * K; ++i)
        f64 ? (((double *)w)[i] = (double)(i % 5) - 2) : (double)(((float *)w)[i] = (float)(i % 5) - 2);
    openblas_set_num_threads(fh1_threads());
    double best = 0;
    for (int r = 0; r < 2 * COPIES; ++r) {
        const char *wr = w + (size_t)(r % COPIES) * N * K * size;
        const double t0 = bench_now();
        if (f64)
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, (double *)x, K, (const double *)wr, K, 0,
                        (double *)y, N);
        else
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, N, K, 1, (float *)x, K, (const float *)wr, K, 0,
                        (float *)y, N);
        const double rate = 2.0 * M * K * N / (bench_now() - t0) / 1e9;
        if (r >= COPIES && rate > best) best = rate;
    }
    openblas_set_num_threads(1);
    free(x);
    free(w);
    free(y);
    return best;
}

/* ---- engines ---- */

typedef struct {
    fh1_model model;
    double gemm_flops; /* per token of a prefill: layers only, logits are computed for the last token */
    double step_bytes; /* weights that one step reads: all but the embedding table */
    double file_bytes;
    double p32[BENCH_MAX_ROUNDS], p64[BENCH_MAX_ROUNDS], dec[BENCH_MAX_ROUNDS];
} subject;

/* Matrices that multiply every token. */
static void measure_model(subject *s)
{
    const fh1_model *m = &s->model;
    for (int64_t i = 0; i < m->n_weights; ++i) {
        const double bytes = (double)fh1_n_bytes(&m->weights[i].t), n = (double)fh1_n_elems(&m->weights[i].t);
        const bool table = strcmp(m->weights[i].name, fh1_embed_weight(m->config.family)) == 0;
        s->file_bytes += bytes;
        if (!table || m->config.tied) s->step_bytes += bytes;
        const bool head = strcmp(m->weights[i].name, "lm_head.weight") == 0;
        if (!table && !head && fh1_weight_is_matrix(m->weights[i].name, m->weights[i].t.rank)) s->gemm_flops += 2 * n;
    }
}

static fh1_status forward(fh1_engine *e, const subject *s, fh1_cache *c, int64_t T, int64_t first)
{
    int64_t ids[PROMPT];
    for (int64_t t = 0; t < T; ++t) ids[t] = (first + 7919 * t) % s->model.config.V;
    const fh1_batch b = {.B = 1, .T = T, .ids = ids};
    void *logits = malloc((size_t)s->model.config.V * 8);
    if (!logits) return fh1_no_memory((size_t)s->model.config.V * 8, "logits");
    fh1_status st = e->forward(e, &s->model, &b, c, 1, logits, NULL);
    free(logits);
    return st;
}

static double prefill_rate(const char *engine, const subject *s)
{
    fh1_engine *e = ref_engine_new(engine, NULL, 0);
    fh1_cache *c;
    bench_must(fh1_cache_new(&s->model.config, e->dtype, 1, &c));
    const double t0 = bench_now();
    bench_must(forward(e, s, c, PROMPT, 11));
    const double rate = PROMPT / (bench_now() - t0);
    fh1_cache_free(c);
    e->free(e);
    return rate;
}

static double decode_rate(const subject *s)
{
    fh1_engine *e = ref_engine_new("ref-f32", NULL, 0);
    fh1_cache *c;
    bench_must(fh1_cache_new(&s->model.config, e->dtype, 1, &c));
    bench_must(forward(e, s, c, 8, 3));
    const double t0 = bench_now();
    for (int i = 0; i < STEPS; ++i) bench_must(forward(e, s, c, 1, 17 + i));
    const double rate = STEPS / (bench_now() - t0);
    fh1_cache_free(c);
    e->free(e);
    return rate;
}

static double load_rate(const char *dir)
{
    const double t0 = bench_now();
    fh1_model m;
    bench_must(cvt_model_open(dir, &m));
    double bytes = 0;
    for (int64_t i = 0; i < m.n_weights; ++i) {
        cli_read_rate(m.weights[i].t.data, fh1_n_bytes(&m.weights[i].t) / 8 * 8);
        bytes += (double)fh1_n_bytes(&m.weights[i].t);
    }
    const double t = bench_now() - t0;
    fh1_model_free(&m);
    return bytes / t / 1e9;
}

static void *bandwidth_buffer(size_t n_bytes)
{
    char *p = aligned_alloc(4096, n_bytes);
    if (!p) bench_stop(fh1_no_memory(n_bytes, "the bandwidth buffer"));
    memset(p, 1, n_bytes);
    return p;
}

/* ---- rounds ---- */

typedef struct {
    double sgemm[BENCH_MAX_ROUNDS], dgemm[BENCH_MAX_ROUNDS], read[BENCH_MAX_ROUNDS], mapped[BENCH_MAX_ROUNDS],
        load[BENCH_MAX_ROUNDS];
} machine;

enum { BUFFER = 1 << 30 };

static double mapped_rate(const fh1_model *m)
{
    double rate = 0;
    for (int64_t w = 0; w < m->n_weights; ++w)
        if (fh1_n_bytes(&m->weights[w].t) == fh1_n_bytes(&m->embed))
            rate = cli_read_rate(m->weights[w].t.data, fh1_n_bytes(&m->embed) / 8 * 8) / 1e9;
    return rate;
}

static void measure_round(subject *s, int n, const char *dir, const void *buffer, int i, machine *m)
{
    m->read[i] = cli_read_rate(buffer, BUFFER) / 1e9;
    for (int k = 0; k < n; ++k) s[k].dec[i] = decode_rate(&s[k]);
    m->sgemm[i] = gemm_rate(false);
    for (int k = 0; k < n; ++k) s[k].p32[i] = prefill_rate("ref-f32", &s[k]);
    m->dgemm[i] = gemm_rate(true);
    for (int k = 0; k < n; ++k) s[k].p64[i] = prefill_rate("ref-f64", &s[k]);
    m->mapped[i] = mapped_rate(&s[0].model);
    m->load[i] = load_rate(dir);
}

/* A prompt in both types and a step beside their limits, named by the family. */
static void tell_subject(bool json, subject *s, int rounds, double sgemm, double dgemm, double read)
{
    const char *family = s->model.config.family == FH1_FALCON_MAMBA ? "mamba_" : "";
    double *const figures[] = {s->p32, s->p64, s->dec};
    const double limits[] = {sgemm * 1e9 / s->gemm_flops, dgemm * 1e9 / s->gemm_flops, read * 1e9 / s->step_bytes};
    static const char *const names[] = {"prefill_f32", "prefill_f64", "decode_bf16"};
    for (int i = 0; i < 3; ++i) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", family, names[i]);
        bench_tell(json, name, bench_median(figures[i], rounds), "tokens/s", limits[i], NAN);
    }
}

static void run(const char *const *dirs, int n, int rounds, bool json)
{
    static subject s[2];
    static machine m;
    for (int k = 0; k < n; ++k) {
        bench_must(cvt_model_open(dirs[k], &s[k].model));
        measure_model(&s[k]);
    }
    void *buffer = bandwidth_buffer(BUFFER);
    for (int r = -1; r < rounds; ++r) /* round -1 warms caches and page tables up */
        measure_round(s, n, dirs[0], buffer, r < 0 ? 0 : r, &m);
    const double sgemm = bench_median(m.sgemm, rounds), dgemm = bench_median(m.dgemm, rounds),
                 read = bench_median(m.read, rounds);
    if (!json) {
        for (int k = 0; k < n; ++k) printf("%s: %.3f GB of weights\n", dirs[k], s[k].file_bytes / 1e9);
        printf("%d threads, BLAS core %s, path %s, %d rounds, medians\n", fh1_threads(), openblas_get_corename(),
               fh1_cpu_path(), rounds);
        printf("machine: sgemm %.1f GFLOP/s, dgemm %.1f GFLOP/s (512x1024x4096), read %.1f GB/s\n", sgemm, dgemm, read);
    }
    tell_subject(json, &s[0], rounds, sgemm, dgemm, read);
    bench_tell(json, "load", bench_median(m.load, rounds), "GB/s", bench_median(m.mapped, rounds), NAN);
    if (n > 1) tell_subject(json, &s[1], rounds, sgemm, dgemm, read);
    if (!json) printf("peer: none on this machine (not measured)\n");
    free(buffer);
    for (int k = 0; k < n; ++k) fh1_model_free(&s[k].model);
}

int main(int argc, char **argv)
{
    bool json = false, bad = false;
    int rounds = 5, n = 0;
    const char *dirs[2] = {NULL, NULL};
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) rounds = atoi(argv[++i]);
        else if (argv[i][0] != '-' && n < 2) dirs[n++] = argv[i];
        else bad = true;
    }
    if (bad || n == 0 || rounds < 1 || rounds > BENCH_MAX_ROUNDS) {
        fprintf(stderr, "usage: fh1-bench MODEL_DIR [MAMBA_DIR] [--rounds 1..%d] [--json]   (see ci/bench --help)\n",
                BENCH_MAX_ROUNDS);
        return 2;
    }
    run(dirs, n, rounds, json);
    return 0;
}
