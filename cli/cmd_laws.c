/* fh1 laws: what must hold between two runs of one engine. */
#include "cli/commands.h"
#include "cli/options.h"
#include "golden/laws.h"
#include "golden/seeded_model.h"
#include "reference/engine.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 laws [MODEL] [--engine E…] [--law NAME…] [--seed N] [--tokens T] [--adapter DIR…] [--json]\n\n"
    "Runs each engine on two roads that must meet: a row at once and in several calls, padded and not, packed\n"
    "and alone, with other neighbours, from a snapshot … Where the contract promises the same bits, nothing may\n"
    "differ; elsewhere no more than two honest runs under that contract. A third road with a planted mistake\n"
    "shows that the law could have failed on this data; where it does not, the verdict is MISTRUSTED.\n"
    "Without MODEL: a small one made from the seed.\n\n"
    "  --engine E…   ref-f64, ref-f32, ref-bf16 (default: these three), cuda-host, cuda\n"
    "  --law NAME…   only these; an unknown name lists all\n"
    "  --seed N      of the ids, and of the model without MODEL (default 1)\n"
    "  --tokens T    longest row of a run (default: two chunks and some, at most 70)\n"
    "  --adapter DIR…  attach PEFT adapters to MODEL, in this order\n"
    "  --json        JSON lines: one object per law and engine, the summary last\n\n"
    "exit codes: 0 PASS, 1 FAIL or nothing but MISTRUSTED, 2 bad usage or bad input, 3 internal error\n\n"
    "example: fh1 laws golden/models/mini-0.5b --engine ref-f32\n";

/* Every switch that has a law of its own is on; two groups, so that heads can be mapped wrongly. */
static const char small_model[] =
    "layers=2,D=32,F=48,V=64,Hq=4,Hkv=2,A=8,H=4,P=8,N=16,G=2,K=4,Q=16,rms_norm=1,weights=trained";

typedef struct {
    const char *model;
    cli_list engines, laws, adapters;
    int64_t seed, tokens;
    bool json;
} law_options;

typedef struct {
    int64_t verdict[4]; /* how many, by fh1_verdict */
} law_counts;

static void json_number(const char *key, double v)
{
    if (v - v == 0) printf(",\"%s\":%.9g", key, v);
    else printf(",\"%s\":null", key);
}

static void print_json(const char *engine, const gld_law *law, const gld_law_result *r)
{
    printf("{\"law\":\"%s\",\"subject\":", law->name);
    cli_json_string(stdout, engine);
    printf(",\"verdict\":\"%s\"", fh1_verdict_name(r->verdict));
    json_number("margin", r->margin);
    json_number("planted", r->planted);
    if (*r->tap) {
        printf(",\"tap\":\"%s\",\"row\":%" PRId64 ",\"token\":%" PRId64 ",\"channel\":%" PRId64, r->tap, r->row,
               r->token, r->channel);
        json_number("left", r->left);
        json_number("right", r->right);
        json_number("allowed", r->allowed);
    }
    if (*r->sentence) {
        fputs(",\"reason\":", stdout);
        cli_json_string(stdout, r->sentence);
    }
    fputs("}\n", stdout);
}

static void print_row(const gld_law *law, const gld_law_result *r)
{
    if (r->verdict == FH1_SKIP) printf("  %-11s %-18s %s\n", "SKIP", law->name, r->sentence);
    else
        printf("  %-11s %-18s margin %-9.3g %s\n", fh1_verdict_name(r->verdict), law->name, r->margin,
               *r->sentence ? r->sentence : law->summary);
}

static fh1_status run_engine(const law_options *o, const fh1_model *m, const char *name, law_counts *n)
{
    gld_law_args a = {.model = m, .seed = (uint64_t)o->seed, .tokens = o->tokens};
    fh1_status s = cli_engine_new(name, NULL, 0, &a.engine);
    if (!s) s = fh1_engine_open(a.engine, m);
    if (!s) s = cli_engine_new("ref-f64", NULL, 0, &a.truth);
    if (!s) s = cli_engine_new("ref-bf16", a.engine->profile, 0, &a.emulated); /* runs any profile */
    if (!s && !o->json) printf("%s\n", name);
    for (int i = 0; !s && gld_law_at(i); ++i) {
        gld_law_result r;
        bool chosen = o->laws.n == 0;
        for (int k = 0; k < o->laws.n; ++k) chosen |= strcmp(o->laws.items[k], gld_law_at(i)->name) == 0;
        if (!chosen) continue;
        s = gld_law_at(i)->run(&a, &r);
        if (s) break;
        n->verdict[r.verdict]++;
        if (o->json) print_json(name, gld_law_at(i), &r);
        else print_row(gld_law_at(i), &r);
    }
    if (a.engine) a.engine->free(a.engine);
    if (a.truth) a.truth->free(a.truth);
    if (a.emulated) a.emulated->free(a.emulated);
    return s;
}

static fh1_verdict sum_up(const law_counts *n)
{
    if (n->verdict[FH1_FAIL] > 0) return FH1_FAIL;
    return n->verdict[FH1_PASS] > 0 ? FH1_PASS : FH1_MISTRUSTED;
}

static void print_summary(const law_options *o, const law_counts *n)
{
    const char *verdict = fh1_verdict_name(sum_up(n));
    if (o->json)
        printf("{\"summary\":true,\"fh1\":\"%s\",\"schema\":1,\"verdict\":\"%s\",\"pass\":%" PRId64 ",\"fail\":%" PRId64
               ",\"mistrusted\":%" PRId64 ",\"skip\":%" PRId64 "}\n",
               cli_version(), verdict, n->verdict[FH1_PASS], n->verdict[FH1_FAIL], n->verdict[FH1_MISTRUSTED],
               n->verdict[FH1_SKIP]);
    else
        printf("%s: %" PRId64 " PASS, %" PRId64 " FAIL, %" PRId64 " MISTRUSTED, %" PRId64 " SKIP\n", verdict,
               n->verdict[FH1_PASS], n->verdict[FH1_FAIL], n->verdict[FH1_MISTRUSTED], n->verdict[FH1_SKIP]);
}

static fh1_status check_names(const law_options *o)
{
    for (int k = 0; k < o->engines.n; ++k) FH1_TRY(cli_engine_known(o->engines.items[k]));
    for (int k = 0; k < o->laws.n; ++k) {
        char names[512] = "";
        if (gld_law_find(o->laws.items[k])) continue;
        for (int i = 0; gld_law_at(i); ++i) {
            const size_t used = strlen(names);
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", gld_law_at(i)->name);
        }
        return fh1_hint(fh1_found(FH1_BAD("unknown law"), "'%s'", o->laws.items[k]), "the laws are %s", names);
    }
    return NULL;
}

static fh1_status open_model(const law_options *o, fh1_model *m)
{
    gld_seeded_spec spec;
    if (o->model) return cli_model_open(o->model, &o->adapters, m);
    if (o->adapters.n) return FH1_BAD("--adapter needs the MODEL that it was trained on");
    FH1_TRY(gld_seeded_parse(small_model, &spec));
    return gld_seeded_model_new(&spec, (uint64_t)o->seed, m);
}

static fh1_status run(law_options *o, int *code)
{
    static const char *all_engines[] = {"ref-f64", "ref-f32", "ref-bf16"};
    const cli_list engines = o->engines.n ? o->engines : (cli_list){all_engines, 3};
    fh1_model m = {0};
    law_counts n = {{0}};
    FH1_TRY(check_names(o));
    FH1_TRY(open_model(o, &m));
    fh1_status s = NULL;
    for (int i = 0; !s && i < engines.n; ++i) s = run_engine(o, &m, engines.items[i], &n);
    if (!s) print_summary(o, &n);
    *code = sum_up(&n) == FH1_PASS ? 0 : 1;
    fh1_model_free(&m);
    return s;
}

fh1_status cmd_laws(int argc, char **argv, int *code)
{
    law_options o = {.seed = 1};
    bool done;
    const cli_option options[] = {
        {"engine", 0, CLI_LIST, &o.engines, 0, 0},   {"law", 0, CLI_LIST, &o.laws, 0, 0},
        {"seed", 0, CLI_INT, &o.seed, 0, INT64_MAX}, {"tokens", 0, CLI_INT, &o.tokens, 16, GLD_LAW_TOKENS},
        {"json", 0, CLI_FLAG, &o.json, 0, 0},        {"adapter", 0, CLI_LIST, &o.adapters, 0, 0},
    };
    const cli_syntax syntax = {"laws", help, options, sizeof options / sizeof options[0], 0, 1, "MODEL"};
    cli_list words = {0};
    *code = 0;
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        o.model = words.n ? words.items[0] : NULL;
        s = run(&o, code);
    }
    cli_list_free(&words);
    cli_list_free(&o.engines);
    cli_list_free(&o.laws);
    cli_list_free(&o.adapters);
    return s;
}
