/* fh1 init: a synthetic checkpoint from a config.json, or of the report's search space. */
#include "cli/commands.h"
#include "cli/cost.h"
#include "cli/space.h"
#include "convert/hf_folder.h"

#include <inttypes.h>
#include <stdlib.h>

static const char help[] =
    "usage: fh1 init --config FILE -o DIR --seed N [--dtype bf16|f32|f16] [--force]\n"
    "       fh1 init [--config FILE] --block SA_M|SAM|S_A_M [--fractions S,A,M] [--layers L] [--width D] [--state N]\n"
    "                [--vocab V] -o DIR --seed N [--dtype …] [--force]\n"
    "       fh1 init [--config FILE] [--block …] [--layers L] [--width D] … --list [--context S] [--json]\n\n"
    "Writes a Hugging Face model folder with the geometry of FILE and weights drawn from the seed, so that\n"
    "they behave like trained ones: activations of order one, some heads that forget in a few tokens and\n"
    "others that remember a thousand. The same seed gives the same bytes on every machine.\n\n"
    "  --config FILE       a config.json of model_type falcon_h1 or falcon_mamba; it is copied into DIR\n"
    "  -o, --out DIR       the folder to make; an existing one is refused\n"
    "  --seed N            any whole number\n"
    "  --dtype T           type of the stored weights: bf16 (default), f32 or f16\n"
    "  --force             replace DIR if it exists\n\n"
    "The search space of Falcon-H1's report (docs/allocation.md), for studying how to divide a layer:\n"
    "  --block B           how mixer, attention and MLP stand to each other: SA_M (the released models), SAM (all "
    "three\n"
    "                      side by side) or S_A_M (one after the other); written to config.json as fh1_block\n"
    "  --fractions S,A,M   eighths for mixer, attention and MLP, together 8, each 1 or more; sets their widths, and "
    "the\n"
    "                      multipliers of the µP law for them. Without --config: the report's model, D 1280, 60 "
    "layers\n"
    "  --layers L          another depth\n"
    "  --width D           another hidden size, a multiple of 40: all widths in proportion (needs --fractions)\n"
    "  --state N           another mamba_d_state\n"
    "  --vocab V           another vocab_size\n"
    "  --list              all 21 divisions with their parameters and the FLOPs of a token; writes nothing\n"
    "  --context S         of a token that attends to S, itself included (default 4096)\n"
    "  --json              JSON lines (--list)\n\n"
    "example: fh1 init --config golden/models/mini-0.5b/config.json -o /tmp/synthetic --seed 1 --dtype f32\n"
    "example: fh1 init --block SAM --list\n"
    "example: fh1 init --block S_A_M --fractions 1,1,6 --layers 2 --width 80 --state 16 --vocab 512 -o /tmp/s1 --seed "
    "1\n";

typedef struct {
    const char *config, *out, *dtype, *block, *fractions;
    int64_t seed, layers, width, state, vocab, context;
    bool force, list, json;
} request;

static fh1_status missing(const char *what)
{
    return fh1_hint(FH1_BAD("%s is missing", what), "see fh1 init --help");
}

static fh1_status read_block(const char *text, fh1_block *out)
{
    *out = FH1_BLOCK_SA_M;
    if (!text || fh1_block_find(text, out)) return NULL;
    return fh1_found(fh1_expected(FH1_BAD("--block: no such block"), "SA_M, SAM or S_A_M"), "'%.60s'", text);
}

static fh1_status read_space(const request *r, cli_space *out)
{
    *out = (cli_space){.has_block = r->block, .D = r->width, .layers = r->layers, .N = r->state, .V = r->vocab};
    FH1_TRY(read_block(r->block, &out->block));
    if (r->fractions) FH1_TRY(cli_fractions_read(r->fractions, &out->f));
    if (r->list && r->fractions) return FH1_BAD("--list shows all fractions: --fractions has no meaning with it");
    if (!r->list && !r->fractions && r->width)
        return fh1_hint(FH1_BAD("--width needs --fractions"), "they say what the other widths are");
    if (!r->list && !r->fractions && !r->config)
        return fh1_hint(FH1_BAD("--fractions or --config is missing"), "see fh1 init --help");
    return NULL;
}

/* ---- the list ---- */

static void print_division(const cli_fractions *f, const fh1_config *c, const cli_count *n, const cli_count *flops,
                           int64_t context, bool json)
{
    static const int parts[] = {CLI_MIXER, CLI_ATTENTION, CLI_MLP};
    if (!json) {
        printf("%d,%d,%d  %6" PRId64 " = %2" PRId64 "x%-3" PRId64 "  %6" PRId64 " = %2" PRId64 "x%-3" PRId64
               "  %6" PRId64 "  %13.0f  %14.0f ",
               f->s, f->a, f->m, c->d_ssm, c->H, c->P, c->Hq * c->A, c->Hq, c->A, c->F, n->total, flops->total);
        for (int i = 0; i < 3; i++) printf(" %4.1f", 100 * flops->parts[parts[i]] / flops->total);
        putchar('\n');
        return;
    }
    printf("{\"block\":\"%s\",\"fractions\":[%d,%d,%d],\"d_ssm\":%" PRId64 ",\"mamba_heads\":%" PRId64
           ",\"attention_width\":%" PRId64 ",\"heads\":%" PRId64 ",\"mlp_width\":%" PRId64,
           fh1_block_name(c->block), f->s, f->a, f->m, c->d_ssm, c->H, c->Hq * c->A, c->Hq, c->F);
    printf(",\"parameters\":%.0f,\"context\":%" PRId64 ",\"flops_per_token\":%.0f", n->total, context, flops->total);
    for (int i = 0; i < 3; i++) printf(",\"%s_flops\":%.0f", cli_part_name(parts[i]), flops->parts[parts[i]]);
    puts("}");
}

static int64_t context_of(const request *r)
{
    return r->context ? r->context : 4096;
}

static fh1_status list_one(const request *r, cli_space *p, cli_fractions f, bool print, fh1_config *c)
{
    char *text;
    size_t n;
    cli_count parameters;
    p->f = f;
    FH1_TRY(cli_space_config(r->config, p, &text, &n, c));
    free(text);
    FH1_TRY(cli_parameters_of(c, &parameters));
    const cli_count flops = cli_flops_of(c, (double)context_of(r));
    if (print) print_division(&f, c, &parameters, &flops, context_of(r), r->json);
    return NULL;
}

static fh1_status list_all(const request *r, cli_space *p)
{
    cli_fractions all[CLI_N_FRACTIONS];
    fh1_config *c = malloc(sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a config");
    cli_fractions_all(all);
    fh1_status s = NULL; /* all are made before the first is printed: bad input leaves no half list */
    for (int i = 0; i < CLI_N_FRACTIONS && !s; i++) s = list_one(r, p, all[i], false, c);
    if (!s && !r->json)
        printf("block %s; s,a,m: eighths of mixer, attention, MLP; FLOPs of a token that attends to %" PRId64 "\n"
               "s,a,m  d_ssm = heads   attention = heads     MLP     parameters  FLOPs per token   %% s    a    m\n",
               fh1_block_name(c->block), context_of(r));
    for (int i = 0; i < CLI_N_FRACTIONS && !s; i++) s = list_one(r, p, all[i], true, c);
    free(c);
    return s;
}

/* ---- ---- */

static fh1_status make_of_space(const request *r, const cli_space *p, fh1_dtype t)
{
    char *text;
    size_t n;
    fh1_config *c = malloc(sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a config");
    fh1_status s = cli_space_config(r->config, p, &text, &n, c);
    free(c);
    if (s) return s;
    return cvt_hf_folder_init_text(text, n, r->config ? r->config : "the model of the report", r->out,
                                   (uint64_t)r->seed, t, r->force);
}

/* What belongs to a list only, or to a folder only. */
static fh1_status check_options(const request *r)
{
    if (!r->list && (r->json || r->context)) return FH1_BAD("%s belongs to --list", r->json ? "--json" : "--context");
    if (r->list && (r->out || r->seed >= 0 || r->dtype || r->force))
        return fh1_hint(FH1_BAD("--list writes nothing"), "leave out -o, --seed, --dtype and --force");
    return NULL;
}

static fh1_status run(const request *r)
{
    const bool space =
        r->block || r->fractions || r->layers || r->width || r->state || r->vocab || r->list; /* else FILE as it is */
    cli_space p;
    fh1_dtype t;
    FH1_TRY(check_options(r));
    if (space) FH1_TRY(read_space(r, &p));
    if (r->list) return list_all(r, &p);
    if (!space && !r->config) return missing("--config");
    if (!r->out) return missing("-o");
    if (r->seed < 0) return missing("--seed");
    FH1_TRY(cli_dtype("--dtype", r->dtype ? r->dtype : "bf16", &t));
    if (t == FH1_F64)
        return fh1_found(fh1_expected(FH1_BAD("--dtype: no checkpoint is stored so"), "bf16, f32 or f16"), "'f64'");
    if (space) return make_of_space(r, &p, t);
    return cvt_hf_folder_init(r->config, r->out, (uint64_t)r->seed, t, r->force);
}

fh1_status cmd_init(int argc, char **argv, int *code)
{
    request r = {.seed = -1};
    bool done;
    const cli_option options[] = {
        {"config", 0, CLI_TEXT, &r.config, 0, 0},        {"out", 'o', CLI_TEXT, &r.out, 0, 0},
        {"seed", 0, CLI_INT, &r.seed, 0, INT64_MAX},     {"dtype", 0, CLI_TEXT, &r.dtype, 0, 0},
        {"force", 0, CLI_FLAG, &r.force, 0, 0},          {"block", 0, CLI_TEXT, &r.block, 0, 0},
        {"fractions", 0, CLI_TEXT, &r.fractions, 0, 0},  {"layers", 0, CLI_INT, &r.layers, 1, 1 << 14},
        {"width", 0, CLI_INT, &r.width, 1, 1 << 20},     {"state", 0, CLI_INT, &r.state, 1, 1 << 16},
        {"vocab", 0, CLI_INT, &r.vocab, 1, 1 << 24},     {"list", 0, CLI_FLAG, &r.list, 0, 0},
        {"context", 0, CLI_INT, &r.context, 1, 1 << 30}, {"json", 0, CLI_FLAG, &r.json, 0, 0},
    };
    const cli_syntax syntax = {"init", help, options, 14, 0, 0, ""};
    cli_list words = {0};

    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    cli_list_free(&words);
    *code = 0;
    return s || done ? s : run(&r);
}
