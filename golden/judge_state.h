/* State shared by the files of the judge. Internal. */
#pragma once

#include "golden/judge.h"
#include "golden/judge_rules.h"

/* Runs of the emulated pipeline where a trace leaves taps out. What lies between two recorded taps is then a chain of
 * ops, and with few tokens its error in one run is luck: the runs after the first let each tap that was not recorded
 * round differently. */
#define MEMBERS 5

/* What is known about one recorded tap of the current step. Arrays are packed: [n, width]. */
typedef struct {
    const gld_tap *tap;
    bool judged; /* the glob lets it through */
    int64_t n, width;
    double *value; /* judged values of real tokens */
    double *local, *abs_sum;
    double free_rms;   /* relative error against the free run */
    double *emulated2; /* mean square error of the emulated runs */
} gld_slot;

typedef struct {
    const gld_judge_options *o;
    const gld_trace *trace;
    fh1_report *report;
    const fh1_config *c;
    int64_t step;
    int64_t n_logits; /* columns computed, >= those recorded */
    gld_slot *slots;  /* one per recorded tap of the step */
    int64_t n_slots;
    bool one_token;
    fh1_engine *truth, *emulated;
    fh1_cache *books; /* rows, columns and documents as the masks say */
    fh1_config books_config;
    fh1_cache *free_cache, *local_cache, *member_cache[MEMBERS];
    int n_members; /* 0 under `exact` */
    double *decay; /* [n_layers, B, H]: units of u that a decay may be off by, from the local run */
} gld_judgement;

typedef enum { RUN_FREE, RUN_LOCAL, RUN_EMULATED } gld_run;

gld_slot *gld_find_slot(gld_judgement *j, fh1_tap_id id, int64_t layer);
const gld_step *gld_current(const gld_judgement *j);

/* One engine over the current call; its taps are read, compared and forced as `run` says. */
fh1_status gld_run_step(gld_judgement *j, fh1_engine *e, fh1_cache *cache, gld_run run, int member);
/* A cache tap: judged values, and what the caches of all runs hold. */
fh1_status gld_read_cache_slot(gld_judgement *j, gld_slot *s);
/* The next call goes on from what the judged engine holds. */
fh1_status gld_import_judged(gld_judgement *j, const gld_slot *s);
