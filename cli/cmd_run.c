/* fh1 run: greedy tokens. */
#include "cli/commands.h"
#include "cli/ids.h"
#include "cli/options.h"
#include "golden/record.h"

#include <inttypes.h>
#include <stdlib.h>

static const char help[] =
    "usage: fh1 run MODEL --ids FILE -n N [--engine E] [--adapter DIR…] [--json]\n\n"
    "Continues each row of FILE by N greedy tokens (the lowest id wins a tie) and prints the new ids, one\n"
    "line per row, separated by blanks.\n\n"
    "  --ids FILE    text: one row per line, ids separated by blanks. Rows of different length are padded\n"
    "                on the left and masked; padding never reaches the model\n"
    "  -n N          how many new tokens per row\n"
    "  --engine E    ref-f32 (default), ref-f64 or ref-bf16\n"
    "  --adapter DIR…  attach PEFT adapters, in this order, without merging\n"
    "  --json        one JSON line per row: {\"row\",\"ids\"}\n\n"
    "example: echo 5 17 23 42 > ids.txt && fh1 run golden/models/mini-0.5b --ids ids.txt -n 8\n";

typedef struct {
    const char *model, *ids, *engine;
    cli_list adapters;
    int64_t n;
    bool json;
} run_options;

static void print_rows(const int64_t *tokens, int64_t B, int64_t n, bool json)
{
    for (int64_t b = 0; b < B; b++) {
        if (json) printf("{\"row\":%" PRId64 ",\"ids\":[", b);
        for (int64_t t = 0; t < n; t++) printf("%s%" PRId64, t ? (json ? "," : " ") : "", tokens[b * n + t]);
        fputs(json ? "]}\n" : "\n", stdout);
    }
}

static fh1_status generate(const run_options *o, const fh1_model *m)
{
    cli_ids ids = {0};
    fh1_engine *e = NULL;
    int64_t *tokens = NULL, n;
    fh1_status s = cli_ids_read(o->ids, m->config.V, &ids);
    if (s) return s;
    FH1_TRY_GOTO(s, cli_engine_new(o->engine, NULL, 0, &e), done);
    if (!fh1_mul_i64(ids.batch.B, o->n, &n) || !(tokens = calloc((size_t)n, sizeof *tokens))) {
        s = fh1_no_memory((size_t)ids.batch.B * (size_t)o->n * sizeof *tokens, "new tokens");
        goto done;
    }
    FH1_TRY_GOTO(s, gld_record_greedy(e, m, &ids.batch, o->n, NULL, tokens, NULL), done);
    print_rows(tokens, ids.batch.B, o->n, o->json);
done:
    if (e) e->free(e);
    free(tokens);
    cli_ids_free(&ids);
    return s;
}

static fh1_status run(const run_options *o)
{
    fh1_model m = {0};
    const char *missing = !o->ids ? "--ids" : o->n < 1 ? "-n" : NULL;
    if (missing) return fh1_hint(FH1_BAD("%s is missing", missing), "see fh1 run --help");
    FH1_TRY(cli_engine_known(o->engine));
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
    };
    const cli_syntax syntax = {"run", help, options, 5, 1, 1, "MODEL"};
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
