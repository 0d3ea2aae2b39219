/* fh1 faults: the planted faults, and the proof that every rule can fail. */
#include "cli/commands.h"
#include "cli/fault_cuda.h"
#include "cli/fault_matrix.h"
#include "cli/options.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: fh1 faults [NAME…] [--family F] [--json]\n"
    "       fh1 faults [NAME…] --run [--family F] [--engine cuda-host] [--bf16] [--jobs N] [--models FOLDER] "
    "[--json]\n\n"
    "Known bugs of real ports, each a switch in a second copy of the reference: what it does, where it was seen,\n"
    "and what must catch it: a case of fh1 check with the tap where it shows first, a law of fh1 laws, an op in\n"
    "one of its data regimes.\n\n"
    "  NAME…           only these, with all that is known about them; an unknown name is an error\n"
    "  --family F      falcon_h1 or falcon_mamba: what its models can have (default: both families)\n"
    "  --run           the matrix: each fault under each rule, then honest engines under all of them\n"
    "  --engine E      of --run: ref, the reference (default), or cuda-host: faults of ops in the CUDA engine, at its\n"
    "                  launches, under fp32, by check and by the op cases that the registry asks for, and honest\n"
    "                  variants of that engine\n"
    "  --bf16          of --run: the faulty engines compute as transformers does in bf16, and only fh1 check looks;\n"
    "                  says which faults hide below that rounding, and asks for nothing\n"
    "  --jobs N        of --run: processes (default: the processors of this machine)\n"
    "  --models DIR    of --run: the golden models (default golden/models)\n"
    "  --json          JSON lines: one object per fault; with --run one per row, the summary last\n\n"
    "In the matrix X is red and had to be, x is red, . is green, ! is green and must not be. Behind it: where the\n"
    "judge saw it first, and the place of the right fault among the suspects.\n\n"
    "exit codes: 0 all killed, no honest engine rejected, right tap and step for all, and the right fault among\n"
    "the first three suspects for at least 95 %; 1 otherwise; 2 bad usage or bad input; 3 internal error\n\n"
    "example: fh1 faults --run key_multiplier_dropped reorder_keys_only\n";

enum { FIRST_SUSPECTS = 3, PERCENT_WANTED = 95 };

typedef struct {
    bool run, bf16, json;
    int64_t jobs;
    const char *models, *engine, *family; /* family NULL: both */
    cli_list names;
} fault_options;

/* ---- the list ---- */

static bool wants(const fault_options *o, fh1_family family)
{
    return !o->family || strcmp(o->family, fh1_family_name(family)) == 0;
}

/* How a row or an entry is called: the family is told where a fault stands for another than its main one. */
static const char *name_of_job(int job, char *buf, size_t size)
{
    const fh1_fault f = fault_of_job(job);
    const fh1_family family = fault_family_of_job(job);
    snprintf(buf, size, "%s%s%s", fh1_fault_get(f)->name, family == gld_fault_family(f) ? "" : " on ",
             family == gld_fault_family(f) ? "" : fh1_family_name(family));
    return buf;
}

static void print_short(int job)
{
    const fh1_fault_info info = fault_info_of(fault_of_job(job), fault_family_of_job(job));
    char caught[256], name[96];
    printf("%-42s %-14s %-62s %s\n", name_of_job(job, name, sizeof name), info.op,
           fault_caught_by(fault_of_job(job), fault_family_of_job(job), &info, caught, sizeof caught), info.source);
}

/* Where it shows first in models of the family. */
static void print_place(fh1_fault f, fh1_family family)
{
    const fh1_fault_info info = fault_info_of(f, family);
    char caught[256], tap[FH1_TAP_NAME_SIZE];
    const char *name = fh1_tap_name(family, info.tap, 0, tap);
    const size_t prefix = strlen(fh1_layers_module(family)) + strlen(".0.");
    printf("\n  shows   %s: first at ", fh1_family_name(family));
    if (strcmp(info.op, "adamw") == 0) printf("backward.adamw, a step of the optimiser alone");
    else if (fh1_fault_is_gradient(f) && fh1_tap_is_per_layer(info.tap) && strlen(name) > prefix)
        printf("the gradients behind %s of the last layer", name + prefix);
    else if (fh1_fault_is_gradient(f)) printf("the gradients behind %s", name);
    else printf("%s of the first layer that it touches", name);
    printf("\n  caught  %s", fault_caught_by(f, family, &info, caught, sizeof caught));
}

static void print_long(fh1_fault f)
{
    const fh1_fault_info *info = fh1_fault_get(f);
    printf("%s\n  what    %s\n  op      %s\n  source  %s", info->name, info->what, info->op, info->source);
    for (int i = FH1_FALCON_H1; i <= FH1_FALCON_MAMBA; ++i)
        if (fh1_fault_acts_on(f, (fh1_family)i)) print_place(f, (fh1_family)i);
    printf("\n");
}

static void print_json(int job)
{
    const fh1_fault_info info = fault_info_of(fault_of_job(job), fault_family_of_job(job));
    char caught[256];
    printf("{\"fault\":\"%s\",\"family\":\"%s\",\"op\":\"%s\",\"source\":", info.name,
           fh1_family_name(fault_family_of_job(job)), info.op);
    cli_json_string(stdout, info.source);
    fputs(",\"caught_by\":", stdout);
    cli_json_string(stdout, fault_caught_by(fault_of_job(job), fault_family_of_job(job), &info, caught, sizeof caught));
    fputs("}\n", stdout);
}

static void list(const fault_options *o, const int *jobs, int n)
{
    int faults = 0;
    for (int i = 0; i < n; ++i) {
        const bool first = i == 0 || fault_of_job(jobs[i]) != fault_of_job(jobs[i - 1]);
        faults += first;
        if (o->json) print_json(jobs[i]);
        else if (o->names.n == 0) print_short(jobs[i]);
        else if (first) print_long(fault_of_job(jobs[i]));
    }
    if (!o->json && o->names.n == 0)
        printf("%d faults; fh1 faults NAME says what one does, --run proves them\n", faults);
}

/* ---- the matrix ---- */

static bool is_cuda(const fault_options *o)
{
    return strcmp(o->engine, "cuda-host") == 0;
}

typedef struct {
    const fault_options *o;
    int faults, killed, placed, late, judged, hidden, idle, first_three, honest, rejected, broken;
    bool headed;
} tally;

static void print_heading(void)
{
    printf("%-42s", "fault");
    for (int r = 0; r < FAULT_RULES; ++r) printf(" %.4s", fault_rule_name(r));
    printf("  first divergence, place among the suspects\n");
}

/* "X", "x12": how many cases or laws of the rule are red. */
static void print_cell(const fault_row *row, int r)
{
    const fh1_fault_info *info = row->job > 0 ? fh1_fault_get(fault_of_job(row->job)) : NULL;
    const bool named = info && strstr(info->caught_by, fault_rule_name(r));
    char text[16] = "";
    if (row->owes[r]) snprintf(text, sizeof text, "!");
    else if (row->red[r] > 1) snprintf(text, sizeof text, "%c%d", named ? 'X' : 'x', row->red[r]);
    else if (row->red[r] == 1) snprintf(text, sizeof text, "%c", named ? 'X' : 'x');
    else if (row->runs[r] > 0) snprintf(text, sizeof text, ".");
    printf(" %-4s", text);
}

static void print_row(const fault_row *row)
{
    char name[96];
    printf("%-42s", row->job < 0 ? fault_honest_name(-1 - row->job) : name_of_job(row->job, name, sizeof name));
    for (int r = 0; r < FAULT_RULES; ++r) print_cell(row, r);
    if (*row->error) printf("  %s", row->error);
    if (*row->rejected) printf("  REJECTED by %s", row->rejected);
    if (!row->judged && row->job > 0 && *row->found) printf("  %s", row->found);
    if (row->judged) {
        printf("  %s", *row->found ? row->found : "not found");
        if (row->rank) printf(", %d.", row->rank);
        else if (*row->found) printf(", not a suspect");
        if (*row->found && !row->right_tap) printf("  WRONG TAP, %s wanted", row->wanted);
        if (*row->found && !row->right_step) printf("  WRONG PLACE, bits changed first at %s", row->changed);
        if (row->rank == 0 || row->rank > FIRST_SUSPECTS) printf(" [%s]", row->suspects);
        if (row->late) printf(" (bits since %s)", row->changed);
    }
    if (row->judged && !row->acts) printf("  (changes no bit)");
    else if (row->job > 0 && !row->killed) printf("  SURVIVES");
    printf("\n");
}

static void json_counts(const char *key, const int *n)
{
    printf(",\"%s\":{", key);
    for (int r = 0; r < FAULT_RULES; ++r) printf("%s\"%s\":%d", r ? "," : "", fault_rule_name(r), n[r]);
    printf("}");
}

static void print_row_json(const fault_row *row)
{
    const bool fault = row->job > 0;
    printf("{\"%s\":\"%s\"", fault ? "fault" : "honest",
           fault ? fh1_fault_get(fault_of_job(row->job))->name : fault_honest_name(-1 - row->job));
    if (fault) printf(",\"family\":\"%s\"", fh1_family_name(fault_family_of_job(row->job)));
    json_counts("runs", row->runs);
    json_counts("red", row->red);
    if (fault) printf(",\"killed\":%s", row->killed ? "true" : "false");
    if (row->judged)
        printf(",\"found\":\"%s\",\"changed\":\"%s\",\"right_tap\":%s,\"right_step\":%s,\"rank\":%d", row->found,
               row->changed, row->right_tap ? "true" : "false", row->right_step ? "true" : "false", row->rank);
    if (!fault) printf(",\"rejected\":%s", *row->rejected ? "true" : "false");
    if (*row->rejected || *row->error) {
        fputs(",\"reason\":", stdout);
        cli_json_string(stdout, *row->error ? row->error : row->rejected);
    }
    printf(",\"seconds\":%.3f}\n", row->seconds);
}

static void count(void *user, const fault_row *row)
{
    tally *t = user;
    if (row->job > 0) {
        t->faults++;
        t->killed += row->killed && !*row->error;
        t->judged += row->judged;
        t->hidden += row->judged && row->acts && !row->killed;
        t->idle += row->judged && !row->acts;
        t->placed += row->judged && row->right_tap && row->right_step;
        t->late += row->judged && row->late;
        t->first_three += row->judged && row->rank >= 1 && row->rank <= FIRST_SUSPECTS;
    } else {
        t->honest++;
        bool red = *row->error != 0;
        for (int r = 0; r < FAULT_RULES; ++r) red = red || row->red[r] > 0;
        t->rejected += red;
    }
    t->broken += *row->error != 0;
    if (t->o->json) print_row_json(row);
    else {
        if (!t->headed) print_heading();
        t->headed = true;
        print_row(row);
    }
    fflush(stdout);
}

static double percent(int part, int whole)
{
    return whole ? 100.0 * part / whole : 100;
}

static bool good(const tally *t)
{
    const bool suspects = t->first_three * 100 >= t->judged * PERCENT_WANTED;
    return t->killed == t->faults && t->rejected == 0 && t->placed == t->judged && suspects;
}

static void print_summary(const tally *t)
{
    if (t->o->json) {
        printf("{\"summary\":true,\"fh1\":\"%s\",\"schema\":1,\"verdict\":\"%s\",\"faults\":%d,\"killed\":%d,"
               "\"honest\":%d,\"rejected\":%d,\"judged\":%d,\"right_place\":%d,\"right_suspect\":%d}\n",
               cli_version(), good(t) ? "PASS" : "FAIL", t->faults, t->killed, t->honest, t->rejected, t->judged,
               t->placed, t->first_three);
        return;
    }
    printf("%d faults: %d killed (%.0f %%), ", t->faults, t->killed, percent(t->killed, t->faults));
    if (t->o->bf16) {
        const int acting = t->judged - t->idle, seen = acting - t->hidden;
        printf(
            "of %d that check looks for in bf16 %d change no bit, %d hide below the rounding, %d are seen; right fault "
            "among the first three suspects %d of %d (%.1f %%)\n",
            t->judged, t->idle, t->hidden, seen, t->first_three, seen, percent(t->first_three, seen));
        return;
    }
    printf("%d honest variants rejected (of %d); right tap and step %d of %d (%d of them after changes inside "
           "rounding); right fault among the first three suspects %d of %d (%.1f %%)\n",
           t->rejected, t->honest, t->placed, t->judged, t->late, t->first_three, t->judged,
           percent(t->first_three, t->judged));
}

/* ---- the command ---- */

/* Gradients of cuda-host are judged by fh1 gradcheck; in bf16 only fh1 check looks. */
static bool concerns(const fault_options *o, fh1_fault f)
{
    if (o->run && o->bf16 && fh1_fault_is_gradient(f)) return false;
    return !is_cuda(o) || fault_cuda_has(f);
}

/* A row for each family that can have the fault and is wanted; cuda-host knows one. */
static bool has_row(const fault_options *o, fh1_fault f, fh1_family family)
{
    return fh1_fault_acts_on(f, family) && wants(o, family) && (!is_cuda(o) || family == gld_fault_family(f));
}

static void add_rows(const fault_options *o, fh1_fault f, int *jobs, int *n)
{
    for (int i = FH1_FALCON_H1; i <= FH1_FALCON_MAMBA; ++i) {
        bool twice = false;
        for (int k = 0; k < *n; ++k) twice |= jobs[k] == fault_job(f, (fh1_family)i);
        if (!twice && has_row(o, f, (fh1_family)i)) jobs[(*n)++] = fault_job(f, (fh1_family)i);
    }
}

/* A name without a row would be dropped in silence. */
static fh1_status check_name(const fault_options *o, const char *name)
{
    const fh1_fault f = fh1_fault_find(name);
    if (f == FH1_FAULT_NONE)
        return fh1_hint(fh1_found(FH1_BAD("unknown fault"), "'%s'", name), "fh1 faults lists them all");
    const char *why = is_cuda(o) ? fault_cuda_lacks(f) : NULL;
    if (is_cuda(o) && !fault_cuda_has(f))
        return fh1_hint(fh1_found(FH1_BAD("a fault that engine cuda-host cannot have"), "'%s'", name), "%s",
                        why ? why : "only faults of ops are planted there");
    if (has_row(o, f, FH1_FALCON_H1) || has_row(o, f, FH1_FALCON_MAMBA)) return NULL;
    const fh1_family asked = wants(o, FH1_FALCON_MAMBA) ? FH1_FALCON_MAMBA : FH1_FALCON_H1;
    const char *main_one = fh1_family_name(gld_fault_family(f));
    fh1_status s = fh1_fault_acts_on(f, asked) ? FH1_BAD("a fault that cuda-host runs on models of %s alone", main_one)
                                               : FH1_BAD("a fault that models of %s cannot have", o->family);
    return fh1_hint(fh1_found(s, "'%s'", name), "leave --family out");
}

/* Those named, else all; with --run the honest engines too. */
static fh1_status choose(const fault_options *o, int *jobs, int *n)
{
    *n = 0;
    for (int i = 0; i < o->names.n; ++i) {
        FH1_TRY(check_name(o, o->names.items[i]));
        add_rows(o, fh1_fault_find(o->names.items[i]), jobs, n);
    }
    if (o->names.n > 0) return NULL;
    for (int i = 0; o->run && fault_honest_name(i); ++i)
        if (fault_honest_is_cuda(i) == is_cuda(o)) jobs[(*n)++] = -1 - i;
    for (int f = 1; f < FH1_FAULT_COUNT; ++f)
        if (concerns(o, (fh1_fault)f)) add_rows(o, (fh1_fault)f, jobs, n);
    return NULL;
}

/* Before the first row: a folder without the models that the cases need. */
static fh1_status check_models(const fault_options *o)
{
    static const char *const names[] = {"mini-0.5b",        "mini-34b",     "odd",       "block-sam",
                                        "block-sequential", "mamba-untied", "mamba-tied"};
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
        char name[32];
        fh1_model m;
        snprintf(name, sizeof name, "%s%s", names[i], o->bf16 ? "-bf16" : "");
        FH1_TRY(fh1_hint(gld_fault_model_open(o->models, name, &m), "--models names the folder of the golden models"));
        fh1_model_free(&m);
    }
    return NULL;
}

static fh1_status run(const fault_options *o, int *code)
{
    int n = 0, *jobs = malloc((2 * FH1_FAULT_COUNT + 64 + 2 * (size_t)o->names.n) * sizeof *jobs);
    if (!jobs) return fh1_no_memory(FH1_FAULT_COUNT * sizeof *jobs, "a list of faults");
    fh1_status s = choose(o, jobs, &n);
    tally t = {.o = o};
    if (!s && o->run) s = check_models(o);
    if (!s && !o->run) list(o, jobs, n);
    if (!s && o->run) {
        const long cores = sysconf(_SC_NPROCESSORS_ONLN);
        const fault_jobs j = {.folder = o->models,
                              .bf16 = o->bf16,
                              .cuda = is_cuda(o),
                              .jobs = jobs,
                              .n_jobs = n,
                              .n_processes = o->jobs     ? (int)o->jobs
                                             : cores > 0 ? (int)cores
                                                         : 1,
                              .done = count,
                              .user = &t};
        s = fault_jobs_run(&j);
        if (!s) print_summary(&t);
        *code = t.broken > 0 ? FH1_E_INTERNAL : o->bf16 || good(&t) ? 0 : FH1_E_WRONG;
    }
    free(jobs);
    return s;
}

fh1_status cmd_faults(int argc, char **argv, int *code)
{
    fault_options o = {.models = "golden/models", .engine = "ref"};
    bool done;
    const cli_option options[] = {
        {"run", 0, CLI_FLAG, &o.run, 0, 0},       {"bf16", 0, CLI_FLAG, &o.bf16, 0, 0},
        {"json", 0, CLI_FLAG, &o.json, 0, 0},     {"jobs", 'j', CLI_INT, &o.jobs, 1, 64},
        {"models", 0, CLI_TEXT, &o.models, 0, 0}, {"engine", 0, CLI_TEXT, &o.engine, 0, 0},
        {"family", 0, CLI_TEXT, &o.family, 0, 0},
    };
    const cli_syntax syntax = {"faults",        help,   options, sizeof options / sizeof options[0], 0,
                               FH1_FAULT_COUNT, "NAME…"};
    *code = 0;
    fh1_status s = cli_parse(&syntax, argc, argv, &o.names, &done);
    if (!s && !done && (o.bf16 || o.jobs || is_cuda(&o)) && !o.run)
        s = fh1_hint(FH1_BAD("--engine, --bf16 and --jobs belong to --run"), "see fh1 faults --help");
    if (!s && !done && !is_cuda(&o) && strcmp(o.engine, "ref") != 0)
        s = fh1_found(fh1_expected(FH1_BAD("--engine"), "ref or cuda-host"), "'%s'", o.engine);
    if (!s && !done && !wants(&o, FH1_FALCON_H1) && !wants(&o, FH1_FALCON_MAMBA))
        s = fh1_found(fh1_expected(FH1_BAD("--family"), "falcon_h1 or falcon_mamba"), "'%s'", o.family);
    if (!s && !done) s = run(&o, code);
    cli_list_free(&o.names);
    return s;
}
