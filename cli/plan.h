/* What `fh1 check` is going to judge: all inputs opened and checked before the first verdict, so that bad
 * input never leaves half a report. */
#pragma once

#include "cli/options.h"
#include "cli/report_files.h"
#include "golden/judge.h"
#include "golden/suite.h"

typedef struct {
    const char *model, *suite, *contract, *variant, *map, *taps; /* NULL when absent */
    cli_list traces, engines, adapters;
    int64_t seed;
    bool json, verbose;
    report_paths reports;
} check_options;

/* One thing that is judged. */
typedef struct {
    char label[256];
    const fh1_model *model;
    const gld_trace *trace;     /* what is judged, or whose inputs the engine runs */
    const char *engine;         /* NULL: the trace itself */
    const fh1_profile *profile; /* the contract it is judged under */
    unsigned variants;
    bool expect_fail; /* a golden wrong trace */
    const char *expect_tap;
    int64_t expect_step;
} check_subject;

typedef struct {
    fh1_model m;
    char *path;        /* canonical, so that a model is opened once, */
    cli_list adapters; /* with the same adapters attached; borrowed */
} check_model;

typedef struct {
    check_model **models;
    int n_models;
    gld_trace **traces;
    int n_traces;
    check_subject *subjects;
    int n_subjects;
    gld_suite suite;
    gld_map *map;
} check_plan;

/* Opens models, traces and the suite, and lists the subjects in the order in which they are judged. The
 * plan must be freed in any case. */
fh1_status check_plan_make(const check_options *o, check_plan *p);
void check_plan_free(check_plan *p);
