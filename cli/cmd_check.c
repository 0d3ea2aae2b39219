/* fh1 check: traces and engines against the truth, tap by tap. */
#include "cli/commands.h"
#include "cli/plan.h"
#include "cli/report_out.h"
#include "golden/record.h"
#include "golden/repro.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: fh1 check MODEL [--adapter DIR…] [--trace FILE…] [--engine E…] [--contract P] [--variant V] …\n"
    "       fh1 check [MODEL] --suite DIR [--engine E…] …\n\n"
    "Judges every tap against the f64 truth, twice: locally (from the judged engine's own recorded taps: what\n"
    "did this one op do?) and freely (from the truth's own upstream). A tap FAILs by the local comparison; the\n"
    "first one that does, in the order of computation, is the first divergence.\n\n"
    "  --trace FILE…   traces of MODEL (docs/traces.md)\n"
    "  --engine E…     ref-f64, ref-f32, ref-bf16, cuda-host (the GPU's kernels on the CPU), cuda. With --trace or\n"
    "                  --suite each engine also runs the inputs of every trace; otherwise a seeded schedule: a\n"
    "                  ragged left-padded prefill, decode, a continuation, and a packed batch. Default without\n"
    "                  --trace and --suite: all but cuda (cuda-host where neither adapter nor variant is given)\n"
    "  --adapter DIR…  attach PEFT adapters to MODEL, in this order, without merging (docs/numerics.md, Adapters)\n"
    "  --suite DIR     every case of DIR/suite.json; with MODEL only the cases of that model\n"
    "  --contract P    judge under this rounding profile instead of what the trace declares, as\n"
    "                  fp32, hf-eager-bf16 or fp32+mup_rounded; an engine that has it runs it\n"
    "  --variant V     departures from the consistent semantics that truth and engines follow, with commas;\n"
    "                  instead of what the trace declares ('' = none). Here, as for --contract, an unknown\n"
    "                  name lists the known ones\n"
    "  --map FILE      renames and transposes the taps of a foreign trace (docs/traces.md)\n"
    "  --taps GLOB     judge only taps whose name matches, as '*.layers.1.*'; several with commas\n"
    "  --seed N        of the seeded schedule (default 1)\n"
    "  --verbose       one line per tap instead of failures only\n"
    "  --json          JSON lines: one object per tap and subject, the summary last\n\n"
    "  Files for a CI (docs/ci.md). They are made anew by each run: one that is there already is replaced.\n"
    "  --junit FILE    JUnit: a suite per subject, a case per tap\n"
    "  --markdown FILE for the comment of a pull request\n"
    "  --html FILE     one page: heat map of margins, growth of errors, suspects; with --verbose details of all\n"
    "  --lines FILE    what --json prints, beside the table\n"
    "  --history FILE  appends the largest margin per subject and kind of tap, and notes which rose to twice their\n"
    "                  median of earlier runs; a note, never a FAIL\n\n"
    "exit codes: 0 PASS, 1 FAIL or MISTRUSTED, 2 bad usage or bad input, 3 internal error\n\n"
    "example: fh1 check golden/models/mini-0.5b --trace golden/traces/mini-0.5b/t37.safetensors\n";

static fh1_status run_engine(const check_subject *s, const fh1_profile **contract, gld_trace *out)
{
    const gld_record_options all = {.store = FH1_DTYPE_COUNT};
    fh1_engine *e;
    const fh1_profile *run = s->profile && cli_engine_runs(s->engine, s->profile) ? s->profile : NULL;
    FH1_TRY(cli_engine_new(s->engine, run, s->variants, &e));
    fh1_status status = gld_record_like(e, s->model, s->trace, &all, out);
    *contract = s->profile ? s->profile : e->profile;
    e->free(e);
    return status;
}

/* An engine over a seeded schedule fails again by a line of its own. */
static fh1_status tell_repro(const check_options *o, const check_subject *s, fh1_report *report)
{
    char *command;
    if (!s->engine || o->suite || o->traces.n || o->taps || o->adapters.n) return NULL;
    FH1_TRY(gld_repro_line(s->model, s->engine, s->profile, s->variants, (uint64_t)o->seed, s->trace, &command));
    fh1_status status = command ? fh1_report_suspects(report, NULL, 0, command) : NULL;
    free(command);
    return status;
}

/* Gradients of a trace are judged elsewhere: said in a row of the report, and refused where nothing else is there. */
static fh1_status pass_over_gradients(const check_subject *s, fh1_report *report)
{
    const int64_t n = gld_trace_n_grads(s->trace);
    if (s->engine || n == 0) return NULL;
    if (gld_trace_n_taps(s->trace) == 0)
        return fh1_hint(FH1_BAD("this trace has gradients only"), "fh1 gradcheck MODEL --trace FILE judges them");
    fh1_tap_result r = {.subject = s->label,
                        .tap = "grad.*",
                        .order = INT64_MAX,
                        .verdict = FH1_SKIP,
                        .margin = (double)NAN,
                        .rms_ratio = (double)NAN,
                        .max_err = (double)NAN,
                        .allowed = (double)NAN,
                        .rel_rms = (double)NAN,
                        .free_rms = (double)NAN,
                        .id = FH1_TAP_COUNT,
                        .layer = -1};
    snprintf(r.reason, sizeof r.reason, "%" PRId64 " gradients: fh1 gradcheck MODEL --trace FILE judges them", n);
    return fh1_report_add(report, &r);
}

static fh1_status judge(const check_options *o, const check_subject *s, fh1_report *report)
{
    gld_trace recorded = {0};
    gld_judge_options jo = {.model = s->model,
                            .profile = s->profile,
                            .variants = s->variants,
                            .taps = o->taps,
                            .subject = s->label,
                            .make_engine = ref_engine_new,
                            .make_faulty = ref_faulty_engine_new};
    fh1_status status = s->engine ? run_engine(s, &jo.profile, &recorded) : NULL;
    if (!status) status = pass_over_gradients(s, report);
    if (!status) status = gld_judge(s->engine ? &recorded : s->trace, &jo, report);
    if (s->engine) gld_trace_free(&recorded);
    if (!status) status = tell_repro(o, s, report);
    if (status) return fh1_where(status, "%s", s->label);
    fh1_report_end_subject(report, s->label, s->expect_fail ? s->expect_tap : NULL, s->expect_step);
    return NULL;
}

static void show_progress(int i, int n, const char *label)
{
    if (!isatty(STDERR_FILENO)) return;
    if (label) fprintf(stderr, "\r\033[K[%d/%d] %s", i + 1, n, label);
    else fputs("\r\033[K", stderr);
    fflush(stderr);
}

static fh1_status judge_all(const check_options *o, const check_plan *p, report_files *files, const char *repro,
                            int *code)
{
    cli_report out;
    fh1_status s = cli_report_open(o->json, o->verbose, &out);
    if (!s && files->past) fh1_report_past(out.report, files->past, files->time);
    for (int i = 0; i < p->n_subjects && !s; i++) {
        show_progress(i, p->n_subjects, p->subjects[i].label);
        s = judge(o, &p->subjects[i], out.report);
        show_progress(i, p->n_subjects, NULL);
    }
    if (!s) s = cli_report_finish(&out, repro, code);
    if (!s) s = report_files_write(files, out.report);
    return cli_report_close(&out, s);
}

/* The CUDA engine has its own two contracts and no variants; adapters it applies under one of them, when asked for. */
static bool cuda_host_fits(const check_options *o)
{
    const fh1_profile *p = o->contract ? fh1_profile_find(o->contract) : NULL;
    return !o->adapters.n && !(o->variant && *o->variant) && (!o->contract || (p && cli_engine_runs("cuda-host", p)));
}

static fh1_status run(check_options *o, int argc, char **argv, int *code)
{
    static const char *all_engines[] = {"ref-f64", "ref-f32", "ref-bf16", "cuda-host"};
    check_plan plan;
    check_options effective = *o;
    const int n = cuda_host_fits(o) ? 4 : 3;
    if (!o->traces.n && !o->engines.n && !o->suite) effective.engines = (cli_list){all_engines, n};
    char *repro = cli_repro(argc, argv);
    if (!repro) return fh1_no_memory(0, "the command line");
    fh1_status s = check_plan_make(&effective, &plan);
    for (int i = 0; !s && o->taps && i < plan.n_subjects; i++)
        s = gld_taps_check(o->taps, &plan.subjects[i].model->config);
    report_files files = {0};
    if (!s) s = report_files_open(&o->reports, &files);
    if (!s) s = judge_all(&effective, &plan, &files, repro, code);
    report_files_free(&files);
    check_plan_free(&plan);
    free(repro);
    return s;
}

fh1_status cmd_check(int argc, char **argv, int *code)
{
    check_options o = {.seed = 1};
    bool done;
    const cli_option options[] = {
        {"trace", 0, CLI_LIST, &o.traces, 0, 0},
        {"engine", 0, CLI_LIST, &o.engines, 0, 0},
        {"adapter", 0, CLI_LIST, &o.adapters, 0, 0},
        {"suite", 0, CLI_TEXT, &o.suite, 0, 0},
        {"contract", 0, CLI_TEXT, &o.contract, 0, 0},
        {"variant", 0, CLI_TEXT, &o.variant, 0, 0},
        {"map", 0, CLI_TEXT, &o.map, 0, 0},
        {"json", 0, CLI_FLAG, &o.json, 0, 0},
        {"taps", 0, CLI_TEXT, &o.taps, 0, 0},
        {"seed", 0, CLI_INT, &o.seed, 0, INT64_MAX},
        {"verbose", 0, CLI_FLAG, &o.verbose, 0, 0},
        {"junit", 0, CLI_TEXT, &o.reports.junit, 0, 0},
        {"markdown", 0, CLI_TEXT, &o.reports.markdown, 0, 0},
        {"html", 0, CLI_TEXT, &o.reports.html, 0, 0},
        {"lines", 0, CLI_TEXT, &o.reports.lines, 0, 0},
        {"history", 0, CLI_TEXT, &o.reports.history, 0, 0},
    };
    const cli_syntax syntax = {"check", help, options, sizeof options / sizeof options[0], 0, 1, "MODEL"};
    cli_list words = {0};
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        o.model = words.n ? words.items[0] : NULL;
        s = run(&o, argc, argv, code);
    }
    cli_list_free(&words);
    cli_list_free(&o.traces);
    cli_list_free(&o.engines);
    cli_list_free(&o.adapters);
    return s;
}
