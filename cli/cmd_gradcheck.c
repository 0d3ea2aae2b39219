/* fh1 gradcheck: gradients of engines and traces against the complex step and the f64 backward pass. */
#include "cli/commands.h"
#include "cli/gradcheck.h"
#include "cli/plan.h"
#include "cli/report_out.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: fh1 gradcheck MODEL [--adapter DIR…] [--engine E…] [--elements N] [--seed N] …\n"
    "       fh1 gradcheck MODEL --trace FILE… [--contract P] [--variant V] …\n"
    "       fh1 gradcheck [MODEL] --suite DIR …\n\n"
    "Judges gradients (docs/gradients.md). An exact engine is held against the complex step, which knows no backward\n"
    "pass: along one direction of all parameters, along one of each tensor, and element by element. Engines that\n"
    "round, and traces of other libraries, are held against the f64 backward pass; what they may be off by is the\n"
    "spread of an honest pipeline of their contract. Each engine also owes <Jv,w> = <v,Jtw>, and the same bits with\n"
    "activations kept or computed again and with any number of threads.\n\n"
    "  --engine E…     ref-f64, ref-f32, ref-bf16, cuda-host, cuda, over seeded batches: short rows, borders of "
    "chunks,\n"
    "                  padding left and right, documents. Default: the first three, and cuda-host where neither an\n"
    "                  adapter nor a variant is given\n"
    "  --trace FILE…   traces of MODEL with step0/grad.<parameter>, step0/labels and perhaps step0/loss\n"
    "                  (fh1 taps MODEL lists the names; golden/hf/capture.py --backward makes one from PyTorch)\n"
    "  --suite DIR     every case of DIR/suite.json; with MODEL only the cases of that model\n"
    "  --adapter DIR…  attach PEFT adapters; their tensors have gradients too, by their keys in the adapter's file\n"
    "  --contract P    judge under this rounding profile instead of what the trace declares or the engine's own\n"
    "                  (cuda and cuda-host: fp32, in which they differentiate)\n"
    "  --variant V     departures from the consistent semantics that truth and engines follow\n"
    "  --map FILE      renames the tensors of a foreign trace (docs/traces.md)\n"
    "  --elements N    elements of each tensor against the complex step, its largest besides (default 3)\n"
    "  --seed N        of the batches, directions and elements (default 1)\n"
    "  --verbose       one line per tensor instead of failures only\n"
    "  --json          JSON lines: one object per tensor and subject, the summary last\n"
    "  --junit FILE, --markdown FILE, --html FILE, --lines FILE, --history FILE   as fh1 check\n\n"
    "exit codes: 0 PASS, 1 FAIL, or nothing but MISTRUSTED, 2 bad usage or bad input, 3 internal error\n\n"
    "example: fh1 gradcheck golden/models/mini-0.5b --trace golden/gradients/mini-0.5b/packed-f32.safetensors\n";

typedef struct {
    check_options c; /* what it shares with fh1 check */
    gradcheck_options g;
} options;

static void show_progress(const char *label)
{
    if (!isatty(STDERR_FILENO)) return;
    if (label) fprintf(stderr, "\r\033[K%s", label);
    else fputs("\r\033[K", stderr);
    fflush(stderr);
}

/* ---- engines ---- */

static fh1_status make_engine(const options *o, const char *name, const fh1_model *m, fh1_engine **out)
{
    const fh1_profile *p = NULL;
    unsigned switches = 0, variants = 0;
    if (o->c.contract) FH1_TRY(fh1_contract_parse(o->c.contract, &p, &switches));
    if (o->c.variant) FH1_TRY(fh1_variants_parse(o->c.variant, &variants));
    /* Its backward pass computes in f32 whatever the checkpoint stores; the contract of its bf16 forward pass would let
     * errors of some per cent through. */
    if (!o->c.contract && cli_engine_is_cuda(name)) p = fh1_profile_find("fp32");
    FH1_TRY(cli_engine_new(name, p && cli_engine_runs(name, p) ? p : NULL, variants | switches, out));
    fh1_status s = fh1_engine_open(*out, m);
    if (!s && !(*out)->backward)
        s = fh1_hint(FH1_BAD("engine %s has no backward pass", name), "ref-f64, ref-f32 and ref-bf16 have one");
    if (!s) return NULL;
    (*out)->free(*out);
    *out = NULL;
    return s;
}

static fh1_status judge_batch(const options *o, fh1_model *m, fh1_engine *e, const fh1_batch *b, const char *what,
                              fh1_report *report)
{
    char label[256];
    gld_grad_truth truth;
    snprintf(label, sizeof label, "%s %s", e->name, what);
    show_progress(label);
    fh1_status s = gld_grad_truth_new(m, b, e->profile, e->variants, 0, ref_engine_new, &truth);
    const gradcheck_case c = {
        .m = m, .truth = &truth, .o = &o->g, .subject = label, .make_faulty = ref_faulty_engine_new, .report = report};
    if (!s) s = gradcheck_engine(&c, e);
    gld_grad_truth_free(&truth);
    show_progress(NULL);
    if (s) return fh1_where(s, "%s", label);
    fh1_report_end_subject(report, label, NULL, 0);
    return NULL;
}

static fh1_status judge_ops(const fh1_model *m, fh1_engine *e, fh1_report *report)
{
    char label[64];
    if (!e->bwd_ops) return NULL;
    snprintf(label, sizeof label, "%s ops", e->name);
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0);
    if (!truth) return fh1_no_memory(sizeof *truth, "the truth");
    fh1_status s = gradcheck_ops(label, e, truth, m, report);
    truth->free(truth);
    if (!s) fh1_report_end_subject(report, label, NULL, 0);
    return s;
}

static fh1_status judge_seeded(const options *o, fh1_model *m, fh1_engine *e, fh1_report *report)
{
    fh1_status s = judge_ops(m, e, report);
    for (int i = 0; gradcheck_batch_name(i) && !s; ++i) {
        char what[64];
        gradcheck_batch b;
        s = gradcheck_batch_new(&m->config, (uint64_t)o->g.seed, i, &b);
        snprintf(what, sizeof what, "seed %" PRId64 " %s", o->g.seed, b.name);
        if (!s) s = judge_batch(o, m, e, &b.batch, what, report);
        gradcheck_batch_free(&b);
    }
    return s;
}

/* The CUDA engine has its own contracts, no variants, and on some models no adapters: named, it says so itself. */
static bool cuda_host_fits(const options *o)
{
    const fh1_profile *p = o->c.contract ? fh1_profile_find(o->c.contract) : NULL;
    return !o->c.adapters.n && !(o->c.variant && *o->c.variant) &&
           (!o->c.contract || (p && cli_engine_runs("cuda-host", p)));
}

static fh1_status judge_engines(const options *o, fh1_report *report)
{
    static const char *const all[] = {"ref-f64", "ref-f32", "ref-bf16", "cuda-host"};
    const bool named = o->c.engines.n > 0;
    fh1_model m = {0};
    fh1_status s = cli_model_open(o->c.model, &o->c.adapters, &m);
    if (s) return s;
    for (int i = 0; i < (named ? o->c.engines.n : cuda_host_fits(o) ? 4 : 3) && !s; ++i) {
        const char *name = named ? o->c.engines.items[i] : all[i];
        fh1_engine *e = NULL;
        s = make_engine(o, name, &m, &e);
        if (s && !named && s->code == FH1_E_INPUT && i == 3) { /* no backward pass there, or none for this model */
            s = NULL;
            continue;
        }
        if (!s) s = judge_seeded(o, &m, e, report);
        if (e) e->free(e);
    }
    fh1_model_free(&m);
    return s;
}

/* ---- traces ---- */

static fh1_status judge_subject(const options *o, const check_subject *s, fh1_report *report)
{
    if (s->engine) {
        fh1_engine *e;
        FH1_TRY(make_engine(o, s->engine, s->model, &e));
        fh1_status st = judge_batch(o, (fh1_model *)(uintptr_t)s->model, e, &s->trace->steps[0].batch,
                                    strchr(s->label, ' ') + 1, report);
        e->free(e);
        return st;
    }
    const gld_gradcheck_options go = {.model = s->model,
                                      .profile = s->profile,
                                      .variants = s->variants,
                                      .subject = s->label,
                                      .make_engine = ref_engine_new,
                                      .make_faulty = ref_faulty_engine_new};
    show_progress(s->label);
    fh1_status st = gld_gradcheck_trace(s->trace, &go, report, NULL);
    show_progress(NULL);
    if (st) return st;
    fh1_report_end_subject(report, s->label, s->expect_fail ? s->expect_tap : NULL, s->expect_step);
    return NULL;
}

static fh1_status judge_plan(const options *o, const check_plan *p, fh1_report *report)
{
    for (int i = 0; i < p->n_subjects; ++i) FH1_TRY(judge_subject(o, &p->subjects[i], report));
    return NULL;
}

/* ---- the command ---- */

static fh1_status run(options *o, int argc, char **argv, int *code)
{
    check_plan plan = {0};
    report_files files = {0};
    cli_report out = {0};
    const bool traces = o->c.traces.n > 0 || o->c.suite;
    char *repro = cli_repro(argc, argv);
    if (!repro) return fh1_no_memory(0, "the command line");
    fh1_status s = NULL;
    if (traces) s = check_plan_make(&o->c, &plan);
    else if (!o->c.model)
        s = fh1_hint(fh1_expected(FH1_BAD("an argument is missing"), "MODEL, or --suite DIR"),
                     "see fh1 gradcheck --help");
    else if (o->c.map) s = FH1_BAD("--map goes with --trace");
    for (int i = 0; i < o->c.engines.n && !s; ++i) s = cli_engine_known(o->c.engines.items[i]);
    if (!s) s = report_files_open(&o->c.reports, &files);
    if (!s) {
        s = cli_report_open(o->c.json, o->c.verbose, &out);
        if (!s && files.past) fh1_report_past(out.report, files.past, files.time);
        if (!s) s = traces ? judge_plan(o, &plan, out.report) : judge_engines(o, out.report);
        if (!s) s = cli_report_finish(&out, repro, code);
        if (!s) s = report_files_write(&files, out.report);
        s = cli_report_close(&out, s);
    }
    report_files_free(&files);
    check_plan_free(&plan);
    free(repro);
    return s;
}

fh1_status cmd_gradcheck(int argc, char **argv, int *code)
{
    options o = {.c = {.seed = 1}, .g = {.seed = 1, .elements = 3}};
    bool done;
    const cli_option list[] = {
        {"trace", 0, CLI_LIST, &o.c.traces, 0, 0},
        {"engine", 0, CLI_LIST, &o.c.engines, 0, 0},
        {"adapter", 0, CLI_LIST, &o.c.adapters, 0, 0},
        {"suite", 0, CLI_TEXT, &o.c.suite, 0, 0},
        {"contract", 0, CLI_TEXT, &o.c.contract, 0, 0},
        {"variant", 0, CLI_TEXT, &o.c.variant, 0, 0},
        {"map", 0, CLI_TEXT, &o.c.map, 0, 0},
        {"elements", 0, CLI_INT, &o.g.elements, 0, 1 << 20},
        {"seed", 0, CLI_INT, &o.g.seed, 0, INT64_MAX},
        {"verbose", 0, CLI_FLAG, &o.c.verbose, 0, 0},
        {"json", 0, CLI_FLAG, &o.c.json, 0, 0},
        {"junit", 0, CLI_TEXT, &o.c.reports.junit, 0, 0},
        {"markdown", 0, CLI_TEXT, &o.c.reports.markdown, 0, 0},
        {"html", 0, CLI_TEXT, &o.c.reports.html, 0, 0},
        {"lines", 0, CLI_TEXT, &o.c.reports.lines, 0, 0},
        {"history", 0, CLI_TEXT, &o.c.reports.history, 0, 0},
    };
    const cli_syntax syntax = {"gradcheck", help, list, sizeof list / sizeof list[0], 0, 1, "MODEL"};
    cli_list words = {0};
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        o.c.model = words.n ? words.items[0] : NULL;
        s = run(&o, argc, argv, code);
    }
    cli_list_free(&words);
    cli_list_free(&o.c.traces);
    cli_list_free(&o.c.engines);
    cli_list_free(&o.c.adapters);
    return s;
}
