/* edge_cases [D-36…] [--engine E…] [--no-faults] [--seed N] [--list | --markdown | --self-test]: every case on every
 * engine, then each of its planted faults, which must turn it red on one of the reference engines. Exit 0, or 1 with
 * one line per case that is not as it must be. */
#include "tests/edge/edge_impl.h"
#include "tests/edge/edge_rows.h"

#include "cuda/engine.h"
#include "oracle/thread.h"

#include <ftw.h>
#include <string.h>
#include <unistd.h>

const edge_chapter edge_chapters[] = {
    {"Prefill, decode, chunking", edge_prefill},
    {"Padding and masks", edge_padding},
    {"Positions and RoPE", edge_positions},
    {"State movement", edge_state},
    {"Branching", edge_branching},
    {"Packing", edge_packing},
    {"Mixer numerics visible through the cache", edge_mixer},
    {"Gradient edge cases", edge_gradients},
    {"Adapter and file cases", edge_files},
    {"Found by running the libraries", edge_found},
    {"Falcon-Mamba and the other blocks", edge_families},
    {NULL, NULL},
};

static const struct {
    const char *name;
    unsigned bit;
} engines[] = {{"ref-f64", EDGE_F64},
               {"ref-f32", EDGE_F32},
               {"ref-bf16", EDGE_BF16},
               {"cuda-host", EDGE_CUDA_HOST},
               {"cuda", EDGE_CUDA}};
enum { N_ENGINES = sizeof engines / sizeof *engines };

typedef struct {
    unsigned engines;
    bool faults;
    uint64_t seed;
    const char *only; /* this fault alone */
    int64_t runs, bad;
} options;

const edge_case *edge_find(const char *id)
{
    for (const edge_chapter *ch = edge_chapters; ch->title; ++ch)
        for (const edge_case *c = ch->cases; c->id; ++c)
            if (strcmp(c->id, id) == 0) return c;
    return NULL;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

/* A run of the case with the fault of this name, NULL: none. */
static edge_run run_of(const options *o, const edge_case *c, int engine, const char *name)
{
    const fh1_fault fault = name ? fh1_fault_find(name) : FH1_FAULT_NONE;
    return (edge_run){.the_case = c,
                      .engine = engines[engine].name,
                      .bit = engines[engine].bit,
                      .fault = fault,
                      .plant = fault == FH1_FAULT_NONE ? name : NULL,
                      .seed = o->seed};
}

/* One run in a folder of its own. */
static fh1_status run_once(edge_run *r)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(r->folder, sizeof r->folder, "%.40s/fh1-edge-XXXXXX", tmp && strlen(tmp) <= 40 ? tmp : "/tmp");
    if (!mkdtemp(r->folder)) return fh1_fail(FH1_E_INTERNAL, "%s: cannot make a folder", r->folder);
    edge_plant(r->plant);
    fh1_status s = r->the_case->run(r);
    edge_plant(NULL);
    edge_engines_free(r);
    nftw(r->folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    if (s) return s;
    if (r->checks == 0) return fh1_fail(FH1_E_INTERNAL, "nothing was compared");
    if (r->fault == FH1_FAULT_NONE && !r->plant && r->the_case->falcon_mamba && r->mamba_checks == 0)
        return fh1_fail(FH1_E_INTERNAL, "nothing was compared on Falcon-Mamba, which the case is said to run on");
    return NULL;
}

static void honest(options *o, const edge_case *c)
{
    for (int e = 0; e < N_ENGINES; ++e) {
        char line[1024];
        if (!(engines[e].bit & c->engines & o->engines)) continue;
        edge_run r = run_of(o, c, e, NULL);
        fh1_status s = run_once(&r);
        o->runs++;
        if (!s) {
            printf("%s %-9s PASS  %lld checks\n", c->id, engines[e].name, (long long)r.checks);
            continue;
        }
        o->bad++;
        printf("%s %-9s FAIL  %s\n", c->id, engines[e].name, fh1_status_line(s, line, sizeof line));
    }
}

/* Red on one of the engines of the reference: some faults are rounding, which f64 has not. `mamba`: in a comparison on
 * Falcon-Mamba. */
static bool turns_red(const options *o, const edge_case *c, const char *name, bool mamba, char *line, size_t size)
{
    snprintf(line, size, "nothing fails");
    for (int e = 0; e < N_ENGINES; ++e) {
        if (!(engines[e].bit & c->engines & o->engines) || engines[e].bit >= EDGE_CUDA_HOST) continue;
        edge_run r = run_of(o, c, e, name);
        r.mamba_only = mamba;
        fh1_status s = run_once(&r);
        if (!s) continue;
        const size_t used = (size_t)snprintf(line, size, "on %s: ", engines[e].name);
        fh1_status_line(s, line + used, size - used);
        if (s->code == FH1_E_WRONG && (!mamba || r.mamba_failed > 0)) return true;
    }
    return false;
}

static bool turns_red_elsewhere(const options *o, const edge_case *c, const char *name, char *line, size_t size)
{
    char command[256];
    int n = snprintf(command, sizeof command, "%s --fault %s --seed %llu --engine", c->id, name,
                     (unsigned long long)o->seed);
    for (int e = 0; e < N_ENGINES; ++e)
        if (engines[e].bit & o->engines) n += snprintf(command + n, sizeof command - (size_t)n, " %s", engines[e].name);
    return edge_run_elsewhere(command, line, size);
}

static void planted(options *o, const edge_case *c)
{
    char names[512], *save = NULL;
    snprintf(names, sizeof names, "%s", c->faults);
    for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
        char line[1024];
        if (o->only && strcmp(o->only, name) != 0) continue;
        const bool red = edge_planted_elsewhere(name) ? turns_red_elsewhere(o, c, name, line, sizeof line)
                                                      : turns_red(o, c, name, false, line, sizeof line);
        o->runs++;
        o->bad += !red;
        printf("%s fault     %s  %s: %.300s\n", c->id, red ? "RED " : "MISSED", name, line);
    }
}

/* What runs on Falcon-Mamba must be able to fail there: the first of the faults that turns it red is named. */
static void planted_on_mamba(options *o, const edge_case *c)
{
    char names[512], line[1024], *save = NULL;
    snprintf(names, sizeof names, "%s", c->faults);
    o->runs++;
    for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
        const fh1_fault f = fh1_fault_find(name);
        if (f != FH1_FAULT_NONE && !fh1_fault_acts_on(f, FH1_FALCON_MAMBA)) continue;
        if (!turns_red(o, c, name, true, line, sizeof line)) continue;
        printf("%s on Falcon-Mamba RED   %s: %.300s\n", c->id, name, line);
        return;
    }
    o->bad++;
    printf("%s on Falcon-Mamba MISSED: none of its faults shows there\n", c->id);
}

static void run_case(options *o, const edge_case *c)
{
    if (!o->only) honest(o, c);
    if (o->faults || o->only) planted(o, c);
    if (o->faults && !o->only && c->falcon_mamba && (o->engines & EDGE_REFERENCE)) planted_on_mamba(o, c);
    fflush(stdout);
}

/* No device is no failure of ours: `cuda` is left out then. */
static unsigned present(void)
{
    return EDGE_ALL & ~(cu_device_missing() ? (unsigned)EDGE_CUDA : 0);
}

/* word NULL: it was asked for. */
static int usage(const char *word)
{
    if (word) fprintf(stderr, "edge_cases: '%s' is no case, no option and, behind --engine, no engine\n", word);
    fputs("usage: edge_cases [D-36…] [--engine E…] [--fault NAME] [--no-faults] [--seed N]\n"
          "                  [--list | --markdown | --self-test]\n"
          "Every case on every engine, then with each of its planted faults; docs/edge_cases.md says what they are.\n"
          "exit codes: 0 green, and red with each fault; 1 otherwise; 2 bad usage\n",
          word ? stderr : stdout);
    return word ? 2 : 0;
}

static unsigned engine_bit(const char *name)
{
    for (int e = 0; e < N_ENGINES; ++e)
        if (strcmp(engines[e].name, name) == 0) return engines[e].bit;
    return 0;
}

static int list(void)
{
    for (const edge_chapter *ch = edge_chapters; ch->title; ++ch)
        for (const edge_case *c = ch->cases; c->id; ++c) printf("%s %s\n", c->id, c->title);
    return 0;
}

/* Cases whose flag lies, and one whose does not: how many of their runs must be bad. */
static int self_test(const options *given)
{
    int wrong = 0;
    for (const edge_liar *l = edge_liars; l->the_case.id; ++l) {
        options o = *given;
        o.engines = EDGE_F64 | EDGE_F32;
        run_case(&o, &l->the_case);
        if (o.bad != l->bad) printf("%s: %lld bad, not %lld\n", l->the_case.id, (long long)o.bad, (long long)l->bad);
        wrong += o.bad != l->bad;
    }
    return wrong > 0;
}

int main(int argc, char **argv)
{
    options o = {.engines = present(), .faults = true, .seed = 1};
    const edge_case *chosen[128];
    int n = 0;
    unsigned asked = 0;
    if (!getenv("FH1_THREADS")) fh1_set_threads(1); /* models this small spend half their time on waking a second one */
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return usage(NULL);
        if (strcmp(argv[i], "--list") == 0) return list();
        if (strcmp(argv[i], "--self-test") == 0) return self_test(&o);
        if (strcmp(argv[i], "--markdown") == 0) {
            edge_page(stdout);
            return 0;
        }
        if (strcmp(argv[i], "--no-faults") == 0) o.faults = false;
        else if (strcmp(argv[i], "--fault") == 0 && i + 1 < argc) o.only = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) o.seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--engine") == 0)
            while (i + 1 < argc && engine_bit(argv[i + 1])) asked |= engine_bit(argv[++i]);
        else if (n < 128 && edge_find(argv[i])) chosen[n++] = edge_find(argv[i]);
        else return usage(argv[i]);
    }
    if (asked) o.engines &= asked;
    for (int i = 0; i < n; ++i) run_case(&o, chosen[i]);
    for (const edge_chapter *ch = edge_chapters; !n && ch->title; ++ch)
        for (const edge_case *c = ch->cases; c->id; ++c) run_case(&o, c);
    if (o.only && o.runs == 0) printf("no chosen case has a fault of this name: %s\n", o.only);
    printf("%lld runs, %lld bad\n", (long long)o.runs, (long long)o.bad);
    return o.bad > 0 || o.runs == 0;
}
