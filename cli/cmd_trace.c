/* fh1 trace: every tap of an engine into a trace file. */
#include "cli/commands.h"
#include "cli/ids.h"
#include "cli/options.h"
#include "golden/record.h"

#include <stdlib.h>
#include <unistd.h>

static const char help[] =
    "usage: fh1 trace MODEL --engine E (--ids FILE | --seed N --tokens T [--batch B] | --like TRACE)\n"
    "                 [--decode K] [--profile P] [--variant V] [--taps GLOB] [--store f64|f32|bf16|f16]\n"
    "                 [--adapter DIR…] [--backward] [--force] -o OUT\n\n"
    "Runs the engine and writes the taps of each call into one .safetensors file (docs/traces.md).\n\n"
    "  --engine E     ref-f64, ref-f32, ref-bf16, cuda-host or cuda\n"
    "  --ids FILE     text: one row per line, ids separated by blanks. Rows of different length are padded\n"
    "                 on the left, with a mask, and positions that count real tokens\n"
    "  --seed N       random ids instead: --batch B rows (default 1) of --tokens T\n"
    "  --like TRACE   the steps, ids, masks, positions and documents of another trace\n"
    "  --adapter DIR… attach PEFT adapters, in this order, without merging\n"
    "  --decode K     K greedy one-token steps after the ids\n"
    "  --profile P    rounding profile that the engine runs, see docs/numerics.md (default: its own)\n"
    "  --variant V    departures from the consistent semantics, separated by commas\n"
    "  --taps GLOB    only taps whose name matches, as '*.layers.1.*'\n"
    "  --backward     the gradients of every parameter, and the loss, instead of taps: of the first call of --like, "
    "or\n"
    "                 of the ids, each of which is a label too (fh1 gradcheck judges them)\n"
    "  --store T      type of the stored taps (default: the profile's)\n"
    "  -o, --out OUT  the file to write; --force replaces an existing one\n\n"
    "example: fh1 trace golden/models/mini-0.5b --engine ref-f32 --seed 1 --tokens 37 --decode 4 -o mine.safetensors\n";

typedef struct {
    const char *model, *engine, *ids, *like, *profile, *variant, *taps, *store, *out;
    cli_list adapters;
    int64_t seed, tokens, batch, decode;
    bool force, backward;
} trace_options;

/* Everything that can be wrong before a file is opened. */
static fh1_status check_options(const trace_options *o)
{
    const char *missing = !o->engine ? "--engine" : !o->out ? "-o" : NULL;
    if (missing) return fh1_hint(FH1_BAD("%s is missing", missing), "see fh1 trace --help");
    int sources = (o->ids != NULL) + (o->seed >= 0) + (o->like != NULL);
    if (sources != 1) {
        fh1_status e = fh1_expected(FH1_BAD("the inputs are not clear"), "one of --ids, --seed and --like");
        return fh1_hint(fh1_found(e, "%d of them", sources), "see fh1 trace --help");
    }
    if ((o->seed >= 0) != (o->tokens > 0)) return FH1_BAD("--seed and --tokens belong together");
    if (o->seed < 0 && o->batch) return FH1_BAD("--batch goes with --seed only");
    if (o->like && o->decode) return FH1_BAD("--decode cannot follow --like: that trace fixes every step");
    if (o->backward && (o->decode || o->taps))
        return FH1_BAD("--backward records one call and every parameter: no --decode, no --taps");
    if (!o->force && access(o->out, F_OK) == 0)
        return fh1_hint(fh1_where(FH1_BAD("the file exists"), "%s", o->out), "--force replaces it");
    return cli_engine_known(o->engine);
}

static fh1_status find_profile(const char *name, const fh1_profile **out)
{
    unsigned switches = 0;
    *out = NULL;
    if (!name) return NULL;
    FH1_TRY(fh1_contract_parse(name, out, &switches));
    return switches ? FH1_BAD("--profile: '%s' has switches; give them to --variant", name) : NULL;
}

static fh1_status record(const trace_options *o, const fh1_model *m, fh1_engine *e, const gld_record_options *ro,
                         gld_trace *out)
{
    fh1_status s;
    if (o->like) {
        gld_trace like = {0};
        FH1_TRY(gld_trace_open(o->like, m, NULL, &like));
        s = gld_record_like(e, m, &like, ro, out);
        gld_trace_free(&like);
        return s;
    }
    cli_ids ids = {0};
    if (o->ids) FH1_TRY(cli_ids_read(o->ids, m->config.V, &ids));
    else FH1_TRY(cli_ids_seeded((uint64_t)o->seed, o->batch ? o->batch : 1, o->tokens, m->config.V, &ids));
    s = gld_record_greedy(e, m, &ids.batch, o->decode, ro, NULL, out);
    cli_ids_free(&ids);
    return s;
}

/* ids as labels: each token predicts the next one of its row; the first real token is nobody's prediction. */
static fh1_status labelled(const fh1_model *m, const fh1_batch *b, int64_t **labels)
{
    fh1_tokens t;
    const int64_t n = b->B * b->T;
    if (!(*labels = malloc((size_t)(n + 1) * sizeof **labels))) return fh1_no_memory((size_t)n * 8, "labels");
    for (int64_t i = 0; i < n; i++) (*labels)[i] = -100;
    FH1_TRY(fh1_tokens_pack(b, m->config.V, NULL, &t));
    for (int64_t k = 0; k < t.M; k++)
        if (k > t.row_begin[t.row[k]] && t.doc[k] == t.doc[k - 1]) (*labels)[t.row[k] * b->T + t.col[k]] = t.id[k];
    fh1_tokens_free(&t);
    return NULL;
}

static fh1_status backward_of(const fh1_model *m, fh1_engine *e, const fh1_batch *b, const gld_record_options *ro,
                              gld_trace *out)
{
    fh1_batch with = *b;
    int64_t *labels = NULL;
    fh1_status s = b->labels ? NULL : labelled(m, b, &labels);
    if (labels) with.labels = labels;
    if (!s) s = gld_record_backward(e, m, &with, ro, out);
    free(labels);
    return s;
}

static fh1_status record_backward(const trace_options *o, const fh1_model *m, fh1_engine *e,
                                  const gld_record_options *ro, gld_trace *out)
{
    fh1_status s;
    if (o->like) {
        gld_trace like = {0};
        FH1_TRY(gld_trace_open(o->like, m, NULL, &like));
        s = backward_of(m, e, &like.steps[0].batch, ro, out);
        gld_trace_free(&like);
        return s;
    }
    cli_ids ids = {0};
    if (o->ids) FH1_TRY(cli_ids_read(o->ids, m->config.V, &ids));
    else FH1_TRY(cli_ids_seeded((uint64_t)o->seed, o->batch ? o->batch : 1, o->tokens, m->config.V, &ids));
    s = backward_of(m, e, &ids.batch, ro, out);
    cli_ids_free(&ids);
    return s;
}

static fh1_status write_trace(const trace_options *o, const fh1_engine *e, gld_trace *t)
{
    snprintf(t->contract, sizeof t->contract, "%s", e->profile->name);
    snprintf(t->variant, sizeof t->variant, "%s", o->variant ? o->variant : "");
    snprintf(t->producer, sizeof t->producer, "fh1 %s %s", cli_version(), e->name);
    return gld_trace_write(t, o->out, o->force, NULL);
}

/* A trace declares its engine's contract; tensors stored in a shorter type would have roundings that it does not name.
 */
static fh1_status check_store(fh1_dtype store, const fh1_profile *p)
{
    if (!(fh1_dtype_ulp(store, 1) > fh1_dtype_ulp(p->storage, 1))) return NULL;
    fh1_status s = FH1_BAD("--store: shorter than what the engine's contract '%s' stores", p->name);
    s = fh1_expected(s, "%s or longer", fh1_dtype_name(p->storage));
    return fh1_hint(fh1_found(s, "%s", fh1_dtype_name(store)), "ref-bf16 records 16-bit traces");
}

static fh1_status run(const trace_options *o)
{
    const fh1_profile *profile;
    unsigned variants = 0;
    gld_record_options ro = {.taps = o->taps, .store = FH1_DTYPE_COUNT};
    fh1_model m = {0};
    fh1_engine *e = NULL;
    gld_trace t = {0};

    FH1_TRY(check_options(o));
    FH1_TRY(find_profile(o->profile, &profile));
    FH1_TRY(fh1_variants_parse(o->variant ? o->variant : "", &variants));
    if (o->store) FH1_TRY(cli_dtype("--store", o->store, &ro.store));
    FH1_TRY(cli_model_open(o->model, &o->adapters, &m));
    fh1_status s = cli_engine_new(o->engine, profile, variants, &e);
    if (!s) s = fh1_engine_open(e, &m);
    if (!s && o->store) s = check_store(ro.store, e->profile);
    if (!s) s = o->backward ? record_backward(o, &m, e, &ro, &t) : record(o, &m, e, &ro, &t);
    if (!s) s = write_trace(o, e, &t);
    gld_trace_free(&t);
    if (e) e->free(e);
    fh1_model_free(&m);
    return s;
}

fh1_status cmd_trace(int argc, char **argv, int *code)
{
    trace_options o = {.seed = -1};
    bool done;
    const cli_option options[] = {
        {"engine", 0, CLI_TEXT, &o.engine, 0, 0},      {"ids", 0, CLI_TEXT, &o.ids, 0, 0},
        {"seed", 0, CLI_INT, &o.seed, 0, INT64_MAX},   {"tokens", 0, CLI_INT, &o.tokens, 1, 1 << 24},
        {"batch", 0, CLI_INT, &o.batch, 1, 1 << 20},   {"like", 0, CLI_TEXT, &o.like, 0, 0},
        {"decode", 0, CLI_INT, &o.decode, 0, 1 << 24}, {"profile", 0, CLI_TEXT, &o.profile, 0, 0},
        {"variant", 0, CLI_TEXT, &o.variant, 0, 0},    {"taps", 0, CLI_TEXT, &o.taps, 0, 0},
        {"store", 0, CLI_TEXT, &o.store, 0, 0},        {"out", 'o', CLI_TEXT, &o.out, 0, 0},
        {"force", 0, CLI_FLAG, &o.force, 0, 0},        {"adapter", 0, CLI_LIST, &o.adapters, 0, 0},
        {"backward", 0, CLI_FLAG, &o.backward, 0, 0},
    };
    const cli_syntax syntax = {"trace", help, options, sizeof options / sizeof options[0], 1, 1, "MODEL"};
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
