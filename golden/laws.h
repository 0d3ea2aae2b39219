/* Laws: what holds between two runs of one engine, whatever the model's weights are. They need no recorded truth, so
 * they also catch what a reference and an engine have wrong in common (docs/numerics.md, "Laws").
 *
 * A law runs the judged engine twice, on two roads that must meet: `left` and `right`. Where the contract promises the
 * same bits (causality, run to run, operations on a cache), nothing may differ. Elsewhere the two may differ by what
 * two honest runs differ by: for single ops the sum of both gauges, for the model what the emulated pipeline of the
 * same contract is off by on the same two roads. A third road, with a mistake planted in it, is run by the truth: a
 * law that would not have noticed it on this data proves nothing and is MISTRUSTED. */
#pragma once

#include "oracle/engine.h"
#include "oracle/report.h"

typedef struct {
    fh1_engine *engine;   /* judged; its contract is engine->profile */
    fh1_engine *truth;    /* ref-f64 under `exact`, with gauges */
    fh1_engine *emulated; /* runs the judged contract's roundings; may be NULL where its storage is f64 */
    const fh1_model *model;
    uint64_t seed;
    int64_t tokens; /* longest row of a run, 16 .. GLD_LAW_TOKENS; 0: two chunks of the model and some, at most 70 */
} gld_law_args;

enum { GLD_LAW_TOKENS = 1024 };

typedef struct {
    fh1_verdict verdict;
    double margin;  /* largest |left - right| / allowed; infinite where bits must be equal and are not */
    double planted; /* the same for the planted mistake, of the part that noticed it least; > 1 or MISTRUSTED */
    /* the element that decided */
    char tap[FH1_TAP_NAME_SIZE];
    int64_t row, token, channel; /* -1 where it has none; token counts within the row */
    double left, right, allowed;
    char sentence[320]; /* what was compared, or why not: for people */
} gld_law_result;

typedef struct {
    const char *name;
    const char *summary; /* one line */
    /* FH1_E_INPUT: arguments that no law can use; an engine that refuses a lawful call is a FAIL. */
    fh1_status (*run)(const gld_law_args *a, gld_law_result *r);
    unsigned families; /* bit 1u << fh1_family of those that have what it is about, 0: all; elsewhere it is a SKIP */
} gld_law;

const gld_law *gld_law_at(int i); /* NULL past the last */
bool gld_law_concerns(const gld_law *law, fh1_family family);
const gld_law *gld_law_find(const char *name); /* NULL when unknown */
