/* fh1 run: tokens. */
#include "cli/commands.h"
#include "cli/ids.h"
#include "cli/options.h"
#include "cuda/session.h"
#include "golden/record.h"

#include <inttypes.h>
#include <stdlib.h>

static const char help[] =
    "usage: fh1 run MODEL --ids FILE -n N [--engine E] [--temperature X [--top-k K] [--top-p P] [--seed S]]\n"
    "               [--adapter DIR…] [--json] [--verbose]\n\n"
    "Continues each row of FILE by N tokens and prints the new ids, one line per row, separated by blanks. The\n"
    "tokens are greedy (the lowest id wins a tie) unless there is a temperature.\n\n"
    "  --ids FILE    text: one row per line, ids separated by blanks. Rows of different length are padded\n"
    "                on the left and masked; padding never reaches the model\n"
    "  -n N          how many new tokens per row\n"
    "  --engine E    ref-f32 (default), ref-f64, ref-bf16, cuda, or cuda-host (the GPU's kernels on the CPU)\n"
    "  --temperature X  cuda and cuda-host: draw from softmax(logits / X) instead (default 0: greedy), of\n"
    "  --top-k K        the K likeliest tokens (default 0: all), and of these\n"
    "  --top-p P        the fewest whose probabilities add up to P (default 1: all);\n"
    "  --seed S         the same seed draws the same tokens, on every device (default 0)\n"
    "  --adapter DIR…  attach PEFT adapters, in this order, without merging; not for cuda\n"
    "  --json        one JSON line per row: {\"row\",\"ids\"}\n"
    "  --verbose     cuda: on stderr what it takes on the device, before it is allocated, and its speed\n\n"
    "example: echo 5 17 23 42 > ids.txt && fh1 run golden/models/mini-0.5b --ids ids.txt -n 8\n";

typedef struct {
    const char *model, *ids, *engine, *temperature, *top_p;
    cli_list adapters;
    int64_t n, top_k, seed;
    bool json, verbose;
    double temperature_value, top_p_value;
} run_options;

static void print_rows(const int64_t *tokens, int64_t B, int64_t n, bool json)
{
    for (int64_t b = 0; b < B; b++) {
        if (json) printf("{\"row\":%" PRId64 ",\"ids\":[", b);
        for (int64_t t = 0; t < n; t++) printf("%s%" PRId64, t ? (json ? "," : " ") : "", tokens[b * n + t]);
        fputs(json ? "]}\n" : "\n", stdout);
    }
}

static fh1_status by_engine(const run_options *o, const fh1_model *m, const fh1_batch *b, int64_t *tokens)
{
    fh1_engine *e;
    FH1_TRY(cli_engine_new(o->engine, NULL, 0, &e));
    fh1_status s = gld_record_greedy(e, m, b, o->n, NULL, tokens, NULL);
    e->free(e);
    return s;
}

static void tell_speed(const cu_session *session, const char *what, int64_t tokens)
{
    const cu_session_facts f = cu_session_tell(session);
    fprintf(stderr, "%-8s %" PRId64 " tokens in %.3f s, %.1f tokens/s", what, tokens, f.seconds,
            f.seconds > 0 ? (double)tokens / f.seconds : 0);
    if (f.graph_steps) fprintf(stderr, ", %" PRId64 " of %" PRId64 " steps by a graph", f.graph_steps, f.steps);
    fputc('\n', stderr);
}

static fh1_status by_session(const run_options *o, const fh1_model *m, const fh1_batch *b, int64_t *tokens)
{
    cu_session *session;
    const cu_session_options so = {.engine = o->engine,
                                   .B = b->B,
                                   .prompt = b->T,
                                   .context = b->T + o->n,
                                   .temperature = o->temperature_value,
                                   .top_k = o->top_k,
                                   .top_p = o->top_p_value,
                                   .seed = (uint64_t)o->seed,
                                   .plan = o->verbose ? stderr : NULL};
    FH1_TRY(cu_session_new(m, &so, &session));
    if (o->verbose) fprintf(stderr, "device   %s\n", cu_session_tell(session).device);
    fh1_status s = cu_session_prefill(session, b);
    if (!s && o->verbose) tell_speed(session, "prompt", b->B * b->T);
    if (!s) s = cu_session_decode(session, o->n, tokens);
    if (!s && o->verbose) tell_speed(session, "decode", b->B * (o->n - 1));
    cu_session_free(session);
    return s;
}

static fh1_status generate(const run_options *o, const fh1_model *m)
{
    cli_ids ids = {0};
    int64_t *tokens = NULL, n;
    fh1_status s = cli_ids_read(o->ids, m->config.V, &ids);
    if (s) return s;
    if (!fh1_mul_i64(ids.batch.B, o->n, &n) || !(tokens = calloc((size_t)n, sizeof *tokens))) {
        s = fh1_no_memory((size_t)ids.batch.B * (size_t)o->n * sizeof *tokens, "new tokens");
        goto done;
    }
    s = cli_engine_is_cuda(o->engine) ? by_session(o, m, &ids.batch, tokens) : by_engine(o, m, &ids.batch, tokens);
    if (!s) print_rows(tokens, ids.batch.B, o->n, o->json);
done:
    free(tokens);
    cli_ids_free(&ids);
    return s;
}

static fh1_status read_real(const char *option, const char *text, double lo, double hi, double *out)
{
    char *end;
    if (!text) return NULL;
    *out = strtod(text, &end);
    if (end != text && *end == 0 && *out >= lo && *out <= hi) return NULL;
    return fh1_found(fh1_expected(FH1_BAD("%s: not a number that fits", option), "%g to %g", lo, hi), "'%s'", text);
}

static fh1_status read_sampling(run_options *o)
{
    o->top_p_value = 1;
    FH1_TRY(read_real("--temperature", o->temperature, 0, 1000, &o->temperature_value));
    FH1_TRY(read_real("--top-p", o->top_p, 0x1p-20, 1, &o->top_p_value));
    const bool asked = o->temperature || o->top_p || o->top_k || o->seed;
    if (asked && !cli_engine_is_cuda(o->engine))
        return fh1_hint(FH1_BAD("engine %s is greedy: it has no --temperature, --top-k, --top-p and --seed", o->engine),
                        "cuda and cuda-host have them");
    if ((o->top_p || o->top_k || o->seed) && !(o->temperature_value > 0))
        return fh1_hint(
            FH1_BAD("--top-k, --top-p and --seed say how to draw, and without a temperature nothing is drawn"),
            "add --temperature 1, or leave them out for greedy tokens");
    return NULL;
}

static fh1_status run(run_options *o)
{
    fh1_model m = {0};
    const char *missing = !o->ids ? "--ids" : o->n < 1 ? "-n" : NULL;
    if (missing) return fh1_hint(FH1_BAD("%s is missing", missing), "see fh1 run --help");
    FH1_TRY(cli_engine_known(o->engine));
    FH1_TRY(read_sampling(o));
    FH1_TRY(cli_model_open(o->model, &o->adapters, &m));
    fh1_status s = generate(o, &m);
    fh1_model_free(&m);
    return s;
}

fh1_status cmd_run(int argc, char **argv, int *code)
{
    run_options o = {.engine = "ref-f32"};
    bool done;
    const cli_option options[] = {
        {"ids", 0, CLI_TEXT, &o.ids, 0, 0},
        {"new", 'n', CLI_INT, &o.n, 1, 1 << 24}, /* more than any context */
        {"engine", 0, CLI_TEXT, &o.engine, 0, 0},
        {"json", 0, CLI_FLAG, &o.json, 0, 0},
        {"adapter", 0, CLI_LIST, &o.adapters, 0, 0},
        {"temperature", 0, CLI_TEXT, &o.temperature, 0, 0},
        {"top-k", 0, CLI_INT, &o.top_k, 0, INT32_MAX},
        {"top-p", 0, CLI_TEXT, &o.top_p, 0, 0},
        {"seed", 0, CLI_INT, &o.seed, 0, INT64_MAX},
        {"verbose", 0, CLI_FLAG, &o.verbose, 0, 0},
    };
    const cli_syntax syntax = {"run", help, options, sizeof options / sizeof *options, 1, 1, "MODEL"};
    cli_list words = {0};

    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        o.model = words.items[0];
        s = run(&o);
    }
    cli_list_free(&words);
    cli_list_free(&o.adapters);
    *code = 0;
    return s;
}
