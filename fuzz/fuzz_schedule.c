/* Traffic on caches (golden/traffic.h) of drawn models: every document of every row must compute what it computes alone
 * in one call on an empty cache, by the truth. ref-f64 is judged on each schedule, ref-f32 and ref-bf16 on every 10th,
 * cuda-host on every 200th; which ones follows from the bytes, so that a replay does the same.
 *
 * FH1_FUZZ_FAULT=NAME plants a fault of oracle/fault.h in the judged ref-f64, alone: ci/fuzz --hunt shows that it is
 * found, and FH1_FUZZ_SHRINK=1 that it is made small. FH1_FUZZ_PRINT=1 prints each schedule as the line that runs it
 * again; FH1_FUZZ_COUNT=1 at the end how many verdicts of each kind there were. */
#include "fuzz/schedule.h"

#include "cuda/engine.h"
#include "golden/shrink.h"
#include "oracle/thread.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MODELS = 64 };

static struct {
    fh1_engine *truth, *f64, *f32, *bf16, *cuda_host;
    fh1_engine *emulated[2]; /* for ref-f32's contract, and for the others' */
    fh1_fault fault;
    bool print, shrink;
    uint64_t verdicts[4][4]; /* of f64, f32, bf16 and cuda-host: fh1_verdict */
} it;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    return schedule_mutate(data, size, max_size, seed);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
                                 size_t max_size, unsigned int seed)
{
    return schedule_cross(a, a_size, b, b_size, out, max_size, seed);
}

static void count(void)
{
    fh1_engine *const engines[] = {it.f64, it.f32, it.bf16, it.cuda_host};
    for (int i = 0; i < 4; i++) {
        fprintf(stderr, "{\"engine\":\"%s\"", engines[i]->name);
        for (int v = 0; v < 4; v++)
            fprintf(stderr, ",\"%s\":%" PRIu64, fh1_verdict_name((fh1_verdict)v), it.verdicts[i][v]);
        fprintf(stderr, "}\n");
    }
}

static void make_engines(void)
{
    const char *fault = getenv("FH1_FUZZ_FAULT");
    const char *shrink = getenv("FH1_FUZZ_SHRINK");
    it.print = getenv("FH1_FUZZ_PRINT");
    it.shrink = shrink ? *shrink == '1' : !fault;
    if (fault) {
        it.fault = fh1_fault_find(fault);
        if (!it.fault) {
            fprintf(stderr, "FH1_FUZZ_FAULT: no fault is called '%s'\n", fault);
            exit(2);
        }
    }
    fh1_set_threads(1); /* models are tiny, and the other cores run other schedules */
    it.truth = ref_engine_new("ref-f64", NULL, 0);
    it.f64 = it.fault ? ref_faulty_engine_new("ref-f64", NULL, 0, it.fault) : ref_engine_new("ref-f64", NULL, 0);
    it.f32 = ref_engine_new("ref-f32", NULL, 0);
    it.bf16 = ref_engine_new("ref-bf16", NULL, 0);
    FUZZ_CHECK(it.truth && it.f64 && it.f32 && it.bf16, "engines could not be made");
    const fh1_status s = cu_engine_new("cuda-host", NULL, 0, &it.cuda_host);
    FUZZ_CHECK(!s, "%s", s->what);
    if (getenv("FH1_FUZZ_COUNT")) atexit(count);
}

/* -- models -------------------------------------------------------------------------------------- */

/* Made again only where spec or seed are others: mutations of traffic come in runs. */
static const fh1_model *model_of(const schedule *s, const uint8_t *data, size_t size)
{
    static struct {
        uint64_t key;
        fh1_model model;
        bool made;
    } kept[MODELS];
    const uint64_t key = XXH3_64bits(data, size < SCHEDULE_HEAD ? size : SCHEDULE_HEAD);
    const size_t at = key % MODELS;
    if (kept[at].made && kept[at].key == key) return &kept[at].model;
    if (kept[at].made) fh1_model_free(&kept[at].model);
    kept[at].made = false;
    const fh1_status status = gld_seeded_model_new(&s->spec, s->seed, &kept[at].model);
    FUZZ_CHECK(!status, "%s: %s", status->where, status->what);
    kept[at].key = key;
    kept[at].made = true;
    return &kept[at].model;
}

/* -- the line that runs it again ----------------------------------------------------------------- */

static fh1_engine *make_judged(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault)
{
    fh1_engine *e = NULL;
    if (fault) return ref_faulty_engine_new(name, p, variants, fault);
    if (strcmp(name, "cuda-host") != 0) return ref_engine_new(name, p, variants);
    return cu_engine_new(name, p, variants, &e) ? NULL : e;
}

static const gld_repro_env env = {make_judged, ref_engine_new, NULL};

static void line_of(const schedule *s, const fh1_engine *e, gld_repro *r)
{
    memset(r, 0, sizeof *r);
    gld_seeded_spec_copy(&r->make, &s->spec);
    r->seed = s->seed;
    r->is_traffic = true;
    r->traffic = s->traffic;
    r->step = -1;
    snprintf(r->engine, sizeof r->engine, "%s", e->name);
    if (e->fault) snprintf(r->fault, sizeof r->fault, "%s", fh1_fault_get(e->fault)->name);
}

static void print_line(const gld_repro *r, FILE *out)
{
    char *command = gld_repro_command(r);
    FUZZ_CHECK(command, "no memory for a line");
    fprintf(out, "%s\n", command);
    free(command);
}

/* A failure is printed as it is, then as small as it can be made: the second line is the one to look at. */
static void tell(const schedule *s, const fh1_engine *e)
{
    static gld_repro r;
    gld_shrink_result result;
    line_of(s, e, &r);
    print_line(&r, stderr);
    if (!it.shrink) return;
    const fh1_status status = gld_shrink(&r, &env, &(gld_shrink_options){0}, &result);
    if (status) fprintf(stderr, "not made smaller: %s\n", status->what);
    else print_line(&r, stderr);
}

/* -- judging ------------------------------------------------------------------------------------- */

static void judge(const schedule *s, const fh1_model *m, fh1_engine *e, fh1_engine *emulated)
{
    const int which = e == it.f64 ? 0 : e == it.f32 ? 1 : e == it.bf16 ? 2 : 3;
    gld_law_args a = {.engine = e, .truth = it.truth, .emulated = emulated, .model = m, .seed = s->seed};
    gld_traffic_result r;
    const fh1_status status = gld_traffic_judge(&s->traffic, &a, &r);
    it.verdicts[which][r.verdict] += !status;
    if (!status && r.verdict != FH1_FAIL) return;
    char line[1024];
    if (status) fh1_status_line(status, line, sizeof line); /* the next error takes its place */
    tell(s, e);
    FUZZ_CHECK(!status, "%s: %s", e->name, line);
    FUZZ_CHECK(r.verdict != FH1_FAIL, "%s: %s", e->name, r.sentence);
}

/* The engine that runs the roundings of another one's contract. */
static fh1_engine *emulator(fh1_engine **kept, const fh1_profile *contract)
{
    if (*kept && (*kept)->profile == contract) return *kept;
    if (*kept) (*kept)->free(*kept);
    *kept = ref_engine_new("ref-bf16", contract, 0);
    FUZZ_CHECK(*kept, "an engine could not be made");
    return *kept;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    schedule s;
    if (!it.truth) make_engines();
    schedule_of_bytes(data, size, &s);
    const fh1_model *m = model_of(&s, data, size);
    if (it.print) {
        static gld_repro r;
        line_of(&s, it.f64, &r);
        print_line(&r, stdout);
    }
    judge(&s, m, it.f64, NULL);
    const uint64_t chance = XXH3_64bits_withSeed(data, size, 1);
    if (it.fault || !size) return 0;
    if (chance % 10 == 0) {
        judge(&s, m, it.f32, emulator(&it.emulated[0], it.f32->profile));
        judge(&s, m, it.bf16, emulator(&it.emulated[1], it.bf16->profile));
    }
    if (chance % 200 == 1) {
        const fh1_status status = fh1_engine_open(it.cuda_host, m);
        FUZZ_CHECK(!status, "cuda-host: %s", status->what);
        judge(&s, m, it.cuda_host, emulator(&it.emulated[1], it.cuda_host->profile));
    }
    return 0;
}
