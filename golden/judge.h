/* Judges a trace against the truth, tap by tap.
 *
 * Each tap is compared twice: *free*, against the truth's own run from the inputs, and *local*, against
 * what f64 computes from the judged engine's own recorded taps (teacher forcing: at every recorded tap
 * the truth goes on from the judged value, so what lies between two recorded taps is recomputed from
 * the nearest ones; a later step starts from the recorded cache of the step before where there is one).
 * FAIL is decided by the local comparison; the free error is reported. The rules for the allowed error
 * are in docs/numerics.md. */
#pragma once

#include "golden/trace.h"
#include "oracle/engine.h"
#include "oracle/report.h"

typedef struct {
    const fh1_model *model;
    const fh1_profile *profile; /* the judged contract */
    unsigned variants;          /* semantics that truth follows */
    const char *taps;           /* glob, NULL = all */
    const char *subject;        /* for the report */
    fh1_engine *(*make_engine)(const char *name, const fh1_profile *p, unsigned variants); /* reference engines */
    /* The same with a planted fault, to explain the first divergence; NULL: no causes are looked for. */
    fh1_engine *(*make_faulty)(const char *name, const fh1_profile *p, unsigned variants, fh1_fault f);
    const fh1_model *merged; /* the judged engine ran this one, `model` merged with its adapters; NULL: `model` */
    double merged_halves;    /* and its weights may be off by so many half ulps (oracle/gauge_request.h) */
} gld_judge_options;

/* Results go to `report`; the caller ends the subject. FH1_E_INPUT for inputs that the model cannot take. */
fh1_status gld_judge(const gld_trace *t, const gld_judge_options *o, fh1_report *report);
