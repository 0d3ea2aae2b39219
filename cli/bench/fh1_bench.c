/* fh1-bench: speed of the reference engines on one checkpoint, beside the limits of the machine measured in
 * the same run. Called by ci/bench; not a test.
 *
 *   prefill_f32, prefill_f64   tokens/s of one 512-token prompt against what the rate of OpenBLAS's gemm at
 *                              512×1024×4096 allows for the matrix products of the layers
 *   decode_bf16                tokens/s of batch-1 greedy steps on the stored weights (ref-f32 arithmetic) against
 *                              the read bandwidth over the bytes of weights that a step reads
 *   load                       GB/s of opening the folder and reading every weight once, against reading the
 *                              mapped bytes
 * Repetitions of limits and engines are interleaved; medians are printed. */
#include "cli/bench/bench.h"
#include "cli/limits.h"
#include "convert/model_open.h"
#include "oracle/clones.h"
#include "oracle/thread.h"
#include "reference/engine.h"

#include <cblas.h>
#include <string.h>
#include <sys/resource.h>

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
} subject;

static void measure_model(subject *s)
{
    const fh1_model *m = &s->model;
    for (int64_t i = 0; i < m->n_weights; ++i) {
        const double bytes = (double)fh1_n_bytes(&m->weights[i].t), n = (double)fh1_n_elems(&m->weights[i].t);
        const bool head = strcmp(m->weights[i].name, "lm_head.weight") == 0;
        const bool table = strcmp(m->weights[i].name, "model.embed_tokens.weight") == 0;
        s->file_bytes += bytes;
        if (!table || m->config.tied) s->step_bytes += bytes;
        if (!head && !table && m->weights[i].t.rank == 2) s->gemm_flops += 2 * n;
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

static void run(const char *dir, int rounds, bool json)
{
    enum { BUFFER = 1 << 30 };
    subject s = {0};
    bench_must(cvt_model_open(dir, &s.model));
    measure_model(&s);
    void *buffer = bandwidth_buffer(BUFFER);
    double sgemm[BENCH_MAX_ROUNDS], dgemm[BENCH_MAX_ROUNDS], bw[BENCH_MAX_ROUNDS], mapped[BENCH_MAX_ROUNDS],
        p32[BENCH_MAX_ROUNDS], p64[BENCH_MAX_ROUNDS], dec[BENCH_MAX_ROUNDS], load[BENCH_MAX_ROUNDS];
    for (int r = -1; r < rounds; ++r) { /* round -1 warms caches and page tables up */
        const int i = r < 0 ? 0 : r;
        bw[i] = cli_read_rate(buffer, BUFFER) / 1e9;
        dec[i] = decode_rate(&s);
        sgemm[i] = gemm_rate(false);
        p32[i] = prefill_rate("ref-f32", &s);
        dgemm[i] = gemm_rate(true);
        p64[i] = prefill_rate("ref-f64", &s);
        mapped[i] = 0;
        for (int64_t w = 0; w < s.model.n_weights; ++w)
            if (fh1_n_bytes(&s.model.weights[w].t) == fh1_n_bytes(&s.model.embed))
                mapped[i] = cli_read_rate(s.model.weights[w].t.data, fh1_n_bytes(&s.model.embed) / 8 * 8) / 1e9;
        load[i] = load_rate(dir);
    }
    const double gs = bench_median(sgemm, rounds), gd = bench_median(dgemm, rounds), b = bench_median(bw, rounds);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    if (!json) {
        printf("%s: %.3f GB of weights, %d threads, BLAS core %s, path %s, %d rounds, medians\n", dir,
               s.file_bytes / 1e9, fh1_threads(), openblas_get_corename(), fh1_cpu_path(), rounds);
        printf("machine: sgemm %.1f GFLOP/s, dgemm %.1f GFLOP/s (512x1024x4096), read %.1f GB/s\n", gs, gd, b);
    }
    bench_tell(json, "prefill_f32", bench_median(p32, rounds), "tokens/s", gs * 1e9 / s.gemm_flops, NAN);
    bench_tell(json, "prefill_f64", bench_median(p64, rounds), "tokens/s", gd * 1e9 / s.gemm_flops, NAN);
    bench_tell(json, "decode_bf16", bench_median(dec, rounds), "tokens/s", b * 1e9 / s.step_bytes, NAN);
    bench_tell(json, "load", bench_median(load, rounds), "GB/s", bench_median(mapped, rounds), NAN);
    if (!json) printf("peer: none on this machine (not measured)\n");
    free(buffer);
    fh1_model_free(&s.model);
}

int main(int argc, char **argv)
{
    bool json = false;
    int rounds = 5;
    const char *dir = NULL;
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) rounds = atoi(argv[++i]);
        else if (argv[i][0] != '-' && !dir) dir = argv[i];
        else dir = NULL, argc = 0;
    }
    if (!dir || rounds < 1 || rounds > BENCH_MAX_ROUNDS) {
        fprintf(stderr, "usage: fh1-bench MODEL_DIR [--rounds 1..%d] [--json]   (see ci/bench --help)\n",
                BENCH_MAX_ROUNDS);
        return 2;
    }
    run(dir, rounds, json);
    return 0;
}
