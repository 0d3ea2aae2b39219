/* fh1 bench: how fast an engine runs a model, beside what the machine could do at most. */
#include "cli/bench_train.h"
#include "cli/commands.h"
#include "cli/ids.h"
#include "cli/limits.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/synthetic.h"
#include "cuda/session.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 bench MODEL --engine E [--prefill N] [--batch B] [--context C] [--steps K] [--rounds R] [--json]\n\n"
    "Runs B rows of random ids: a prompt of N tokens per row, then, from a context of C tokens per row, K steps of "
    "one\n"
    "token. Prints milliseconds and tokens per second beside the limit of this machine, measured in the same run: the\n"
    "bytes that have to move over the rate of a copy (cuda) or of reading memory (the others), and, where that is\n"
    "more, the products over the rate of a large product. Half of the steps warm up.\n\n"
    "  MODEL         a model, or for cuda and cuda-host a config.json: the weights that fh1 init --seed would\n"
    "                write are then made on the device\n"
    "  --engine E    ref-f32, ref-f64, ref-bf16, cuda, cuda-host\n"
    "  --prefill N   default 512; with C above N the rest of the context is further calls of at most N\n"
    "  --batch B     default 1\n"
    "  --context C   default N\n"
    "  --steps K     default 32; 0: the prompt only\n"
    "  --rounds R    cuda: medians of R rounds, each the prompt (K = 0), or K more steps; default 1\n"
    "  --paced       cuda: each round waits for a line on standard input, so that a peer can be measured in between\n"
    "  --train       cuda: K full training steps over B rows of N tokens instead, on the device, contract fp32\n"
    "  --seed S      of a config.json's weights, default 1\n"
    "  --json        one JSON line per figure: "
    "{\"bench\",\"value\",\"unit\",\"limit\",\"share\",\"peer\",\"ratio\"}\n\n"
    "example: fh1 bench golden/models/mini-0.5b --engine ref-f32 --prefill 64 --steps 8\n";

typedef struct {
    const char *model, *engine;
    int64_t prefill, batch, context, steps, rounds, seed;
    bool json, paced, train;
} bench_options;

typedef struct {
    double prefill, step; /* seconds: the prompt, one step; 0: not measured */
    double copy, product; /* limits: bytes/s, FLOP/s; 0: not known */
    int64_t weight_bits;  /* as the engine reads them */
} bench_result;

/* Calls of N tokens until the context is there; the first one is timed. */
typedef struct {
    const bench_options *o;
    fh1_status (*call)(void *engine, const fh1_batch *b);
    void *engine;
    int64_t V;
} feeder;

static fh1_status feed(const feeder *f, int64_t tokens, double *seconds)
{
    for (int64_t at = 0; at < tokens;) {
        cli_ids ids;
        const int64_t n = tokens - at < f->o->prefill ? tokens - at : f->o->prefill;
        FH1_TRY(cli_ids_seeded((uint64_t)at, f->o->batch, n, f->V, &ids));
        const double begin = cli_seconds();
        fh1_status s = f->call(f->engine, &ids.batch);
        if (at == 0) *seconds = cli_seconds() - begin;
        cli_ids_free(&ids);
        if (s) return s;
        at += n;
    }
    return NULL;
}

/* -- on the device -------------------------------------------------------------------------------------------- */

static fh1_status session_call(void *session, const fh1_batch *b)
{
    return cu_session_prefill(session, b);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int64_t n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Waits for a line where rounds are paced; false at the end of the input. */
static bool may_go_on(const bench_options *o)
{
    int c = '\n';
    if (o->paced)
        while ((c = getchar()) != EOF && c != '\n') {
        }
    return c != EOF;
}

static void tell_round(const bench_options *o, const char *what, int64_t round, double seconds)
{
    if (!o->json || (o->rounds == 1 && !o->paced)) return;
    printf("{\"bench\":\"%s %s round\",\"round\":%" PRId64 ",\"value\":%.6g,\"unit\":\"ms\"}\n", o->engine, what, round,
           1e3 * seconds);
    fflush(stdout);
}

static fh1_status prompt_round(const feeder *f, cu_session *s, double *seconds)
{
    cu_session_reset(s);
    return feed(f, f->o->prefill, seconds);
}

static fh1_status step_round(const feeder *f, cu_session *s, double *seconds)
{
    FH1_TRY(cu_session_decode(s, f->o->steps, NULL)); /* NaN logits are an error of it */
    const cu_session_facts facts = cu_session_tell(s);
    *seconds = facts.seconds / (double)facts.steps;
    return NULL;
}

static fh1_status run_rounds(const feeder *f, cu_session *s, double *seconds, int64_t *n)
{
    const bench_options *o = f->o;
    for (*n = 0; *n < o->rounds && may_go_on(o); ++*n) {
        FH1_TRY(o->steps ? step_round(f, s, &seconds[*n]) : prompt_round(f, s, &seconds[*n]));
        tell_round(o, o->steps ? "decode" : "prefill", *n, seconds[*n]);
    }
    return NULL;
}

static fh1_status time_session(const bench_options *o, const fh1_model *m, cu_session *s, bench_result *r)
{
    const feeder f = {o, session_call, s, m->config.V};
    double cold, *seconds;
    int64_t n;
    r->weight_bits = cu_session_tell(s).profile->storage == FH1_BF16 ? 16 : 32;
    FH1_TRY(feed(&f, o->prefill, &cold)); /* kernels are loaded, products tuned */
    cu_session_reset(s);
    FH1_TRY(feed(&f, o->context, &r->prefill));
    if (o->steps) FH1_TRY(cu_session_decode(s, (o->steps + 1) / 2 + 1, NULL));
    if (o->paced) {
        puts("{\"ready\":true}");
        fflush(stdout);
    }
    if (!(seconds = calloc((size_t)o->rounds, sizeof *seconds)))
        return fh1_no_memory((size_t)o->rounds * sizeof *seconds, "rounds");
    fh1_status e = run_rounds(&f, s, seconds, &n);
    if (!e && n == 0) e = FH1_BAD("--paced: standard input ended before the first round");
    if (!e) *(o->steps ? &r->step : &r->prefill) = median(seconds, n);
    free(seconds);
    return e;
}

static fh1_status by_session(const bench_options *o, const fh1_model *m, bench_result *r)
{
    cu_session *s;
    const cu_session_options so = {.engine = o->engine,
                                   .B = o->batch,
                                   .prompt = o->prefill,
                                   .context = o->context + (o->rounds + 1) * o->steps + 2};
    FH1_TRY(cu_session_new(m, &so, &s));
    fh1_status e = cli_synthetic_named(o->model) ? cli_synthetic_fill(s, m, (uint64_t)o->seed) : NULL;
    if (!e) e = time_session(o, m, s, r);
    if (!e && strcmp(o->engine, "cuda") == 0) e = cu_session_limits(s, 8192, &r->copy, &r->product);
    cu_session_free(s);
    return e;
}

/* -- on the processor ------------------------------------------------------------------------------------------ */

typedef struct {
    fh1_engine *e;
    const fh1_model *m;
    fh1_cache *cache;
    void *logits;
} runner;

static fh1_status engine_call(void *user, const fh1_batch *b)
{
    runner *r = user;
    return r->e->forward(r->e, r->m, b, r->cache, 1, r->logits, NULL);
}

static fh1_status time_engine(const bench_options *o, runner *u, bench_result *r)
{
    const feeder f = {o, engine_call, u, u->m->config.V};
    const int64_t warm = o->steps / 2 < 2 ? o->steps / 2 : 2;
    int64_t *ids = calloc((size_t)o->batch, sizeof *ids);
    if (!ids) return fh1_no_memory((size_t)o->batch * sizeof *ids, "ids");
    fh1_status s = feed(&f, o->context, &r->prefill);
    double begin = cli_seconds();
    for (int64_t k = -warm; k < o->steps && !s; k++) {
        if (k == 0) begin = cli_seconds();
        for (int64_t b = 0; b < o->batch; b++) ids[b] = (7919 * (k + warm) + b) % u->m->config.V;
        s = engine_call(u, &(fh1_batch){.B = o->batch, .T = 1, .ids = ids});
    }
    if (!s && o->steps) r->step = (cli_seconds() - begin) / (double)o->steps;
    free(ids);
    return s;
}

static fh1_status by_engine(const bench_options *o, const fh1_model *m, bench_result *r)
{
    runner u = {.m = m};
    int64_t n;
    fh1_status s = cli_engine_new(o->engine, NULL, 0, &u.e);
    if (!s) s = fh1_engine_open(u.e, m);
    if (!s) s = fh1_cache_new(&m->config, u.e->dtype, o->batch, &u.cache);
    if (!s && (!fh1_mul_i64(o->batch, m->config.V * 8, &n) || !(u.logits = malloc((size_t)n))))
        s = fh1_no_memory((size_t)o->batch * (size_t)m->config.V * 8, "logits");
    if (!s) s = time_engine(o, &u, r);
    r->weight_bits = fh1_dtype_bits(m->embed.dtype); /* as they are stored */
    free(u.logits);
    fh1_cache_free(u.cache);
    if (u.e) u.e->free(u.e);
    return s;
}

/* -- the report --------------------------------------------------------------------------------------------------- */

static void json_number(const char *key, double v)
{
    if (isfinite(v)) printf(",\"%s\":%.6g", key, v);
    else printf(",\"%s\":null", key);
}

static void tell_limit(const bench_options *o, const char *name, double value, const char *unit)
{
    printf("{\"bench\":\"%s %s\",\"value\":%.6g,\"unit\":\"%s\",\"limit\":null,\"share\":null,"
           "\"peer\":null,\"ratio\":null}\n",
           o->engine, name, value, unit);
}

/* A rate beside its limit; NAN: none. */
static void tell(const bench_options *o, const char *name, double value, double limit)
{
    if (o->json) {
        printf("{\"bench\":\"%s %s\",\"value\":%.6g,\"unit\":\"tokens/s\"", o->engine, name, value);
        json_number("limit", limit);
        json_number("share", value / limit);
        fputs(",\"peer\":null,\"ratio\":null}\n", stdout);
        return;
    }
    printf("%-8s %10.4g tokens/s", name, value);
    if (isfinite(limit)) printf("   limit %10.4g   share %5.1f %%", limit, 100 * value / limit);
}

static void report(const bench_options *o, const fh1_model *m, const bench_result *r)
{
    const cli_work prompt = cli_work_of(&m->config, o->batch, o->prefill, 0, r->weight_bits);
    const cli_work step = cli_work_of(&m->config, o->batch, 1, o->context + o->steps, r->weight_bits);
    const double tokens = (double)(o->batch * o->prefill);
    if (o->json) {
        tell_limit(o, "copy", r->copy / 1e9, "GB/s");
        tell_limit(o, "product", r->product / 1e12, "TFLOP/s");
    } else {
        printf("%s, %s: %" PRId64 " rows, prompt %" PRId64 ", context %" PRId64 "\n", o->model, o->engine, o->batch,
               o->prefill, o->context);
        printf("limits   %.1f GB/s, %.1f GFLOP/s\n", r->copy / 1e9, r->product / 1e9);
    }
    tell(o, "prefill", tokens / r->prefill, tokens / cli_work_seconds(&prompt, r->copy, r->product));
    if (!o->json) printf("   %.3f ms\n", 1e3 * r->prefill);
    if (!o->steps) return;
    tell(o, "decode", (double)o->batch / r->step, (double)o->batch / cli_work_seconds(&step, r->copy, r->product));
    if (!o->json) printf("   %.3f ms per step\n", 1e3 * r->step);
}

static fh1_status check_options(bench_options *o)
{
    if (!o->engine) return fh1_hint(FH1_BAD("--engine is missing"), "see fh1 bench --help");
    FH1_TRY(cli_engine_known(o->engine));
    if (o->context == 0) o->context = o->prefill;
    if (o->context < o->prefill) return FH1_BAD("--context is shorter than --prefill");
    if (cli_engine_is_cuda(o->engine)) return NULL;
    if (cli_synthetic_named(o->model))
        return fh1_hint(FH1_BAD("engine %s needs weights, not only a config", o->engine),
                        "make them: fh1 init --config %s -o DIR --seed %" PRId64, o->model, o->seed);
    if (o->rounds > 1 || o->paced || o->train)
        return FH1_BAD("--rounds, --paced and --train are for cuda and cuda-host");
    return NULL;
}

static fh1_status by_trainer(const bench_options *o, fh1_model *m)
{
    const cli_bench_train_options t = {.engine = o->engine,
                                       .B = o->batch,
                                       .T = o->prefill,
                                       .steps = o->steps ? o->steps : 1,
                                       .seed = o->seed,
                                       .synthetic = cli_synthetic_named(o->model),
                                       .json = o->json};
    return cli_bench_train(&t, m);
}

static fh1_status run(bench_options *o)
{
    fh1_model m = {0};
    bench_result r = {0};
    FH1_TRY(check_options(o));
    FH1_TRY(cli_synthetic_named(o->model) ? cli_synthetic_open(o->model, (uint64_t)o->seed, &m)
                                          : cli_model_open(o->model, &(cli_list){0}, &m));
    if (o->train) {
        const fh1_status trained = by_trainer(o, &m);
        fh1_model_free(&m);
        return trained;
    }
    fh1_status s = cli_engine_is_cuda(o->engine) ? by_session(o, &m, &r) : by_engine(o, &m, &r);
    if (!s && r.copy == 0) s = cli_limits_cpu(&r.copy, &r.product);
    if (!s) report(o, &m, &r);
    fh1_model_free(&m);
    return s;
}

fh1_status cmd_bench(int argc, char **argv, int *code)
{
    bench_options o = {.prefill = 512, .batch = 1, .steps = 32, .rounds = 1, .seed = 1};
    bool done;
    const cli_option options[] = {
        {"rounds", 0, CLI_INT, &o.rounds, 1, 1000},  {"seed", 0, CLI_INT, &o.seed, 0, INT64_MAX},
        {"paced", 0, CLI_FLAG, &o.paced, 0, 0},      {"train", 0, CLI_FLAG, &o.train, 0, 0},
        {"engine", 0, CLI_TEXT, &o.engine, 0, 0},    {"prefill", 0, CLI_INT, &o.prefill, 1, 1 << 22},
        {"batch", 0, CLI_INT, &o.batch, 1, 1 << 16}, {"context", 0, CLI_INT, &o.context, 1, 1 << 24},
        {"steps", 0, CLI_INT, &o.steps, 0, 1 << 20}, {"json", 0, CLI_FLAG, &o.json, 0, 0},
    };
    const cli_syntax syntax = {"bench", help, options, sizeof options / sizeof *options, 1, 1, "MODEL"};
    cli_list words = {0};
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        o.model = words.items[0];
        s = run(&o);
    }
    cli_list_free(&words);
    *code = 0;
    return s;
}
