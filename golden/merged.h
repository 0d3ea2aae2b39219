/* A merged model against the model with its adapters attached, both in f64. */
#pragma once

#include "oracle/engine.h"
#include "oracle/report.h"

/* Runs `merged` over a short schedule (a prefill, a step, a continuation) and judges every tap against `attached` as
 * gld_judge does, under the engine's contract: where a product of the merged model may be off by the rounding of its
 * weights, `halves` half ulps of each (oracle/gauge_request.h), that is allowed besides, and nothing else. The caller
 * ends the subject. FH1_E_INPUT: models of different sizes. */
typedef struct {
    const fh1_model *attached, *merged;
    const char *engine; /* that runs `merged`: ref-f64, or ref-f32 where the merge itself was computed in f32 */
    double halves;
    uint64_t seed;
    const char *subject;                                                                   /* for the report */
    fh1_engine *(*make_engine)(const char *name, const fh1_profile *p, unsigned variants); /* reference engines */
} gld_merged;
fh1_status gld_judge_merged(const gld_merged *m, fh1_report *report);
