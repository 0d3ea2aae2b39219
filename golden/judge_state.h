/* State shared by the files of the judge. Internal. */
#pragma once

#include "golden/judge.h"
#include "golden/judge_rules.h"
#include "oracle/gauge_request.h"

/* Runs of the emulated pipeline where a trace leaves taps out. What lies between two recorded taps is then a chain of
 * ops, and with few tokens its error in one run is luck: the runs after the first let each tap that was not recorded
 * round differently. */
#define MEMBERS 5

/* What is known about one recorded tap of the current step. Arrays are packed: [n, width]. */
typedef struct {
    const gld_tap *tap;
    bool judged; /* the glob lets it through */
    bool coarse; /* stored coarser than the contract says: not what the engine went on from */
    bool far;    /* an input of its op is not known */
    int64_t n, width;
    double *value;   /* judged values of real tokens */
    int64_t *column; /* [n] of the call; NULL for cache taps and the loss */
    int64_t *row;    /* [n] of the batch; NULL as column */
    int64_t *word;   /* [n] id of the token, once judged; NULL as column */
    int32_t *unit;   /* [n, width] channel or head, once judged */
    bool *skip;      /* [n, width] not judged */
    double *local;
    fh1_gauge gauge;   /* of the op, worst == NULL where there is none */
    double free_rms;   /* relative error against the free run */
    double *emulated2; /* mean square error of the emulated runs */
    const char *why;   /* it is not judged, or NULL */
    fh1_tap_result *result;
    int64_t where; /* flat index of the deciding element */
    bool out_of_memory;
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
    int n_members;          /* 0 under `exact` */
    fh1_gauge_cache errors; /* of the local cache, where it was computed and not imported */
    fh1_cache *before;      /* the local cache before the call of the first divergence; else before this call */
    bool failed;            /* there is a first divergence: */
    fh1_tap_result first;   /* of the lowest call, then of the order of computation */
    fh1_tap_id scaled;      /* a replay multiplies this recorded tap by `scale`; FH1_TAP_COUNT: none */
    double scale;
    bool *known; /* [n_layers, GLD_PARTS]: the local cache holds the judged engine's own values */
} gld_judgement;

typedef enum { RUN_FREE, RUN_LOCAL, RUN_EMULATED } gld_run;

enum { GLD_PARTS = FH1_CACHE_SSM + 1 };

gld_slot *gld_find_slot(gld_judgement *j, fh1_tap_id id, int64_t layer);
const gld_step *gld_current(const gld_judgement *j);

/* First sight of a tap: its judged values. Then: the rows of the event that the trace has, to `out` (NULL: not wanted);
 * with `force` the engine goes on from the judged values. */
fh1_status gld_read_judged(gld_judgement *j, const fh1_tap_event *e, gld_slot *s);
void gld_take(gld_judgement *j, const fh1_tap_event *e, gld_slot *s, bool force, double *out);
/* The rounding of a linear tap's scaled input, where it is known (fh1_tap_sink.input_round). */
fh1_round gld_declared_input(gld_judgement *j, fh1_tap_id id, int64_t layer);
/* The values of a cache tap in `cache`, [n, width] of the slot. */
fh1_status gld_export_cache_tap(const fh1_cache *cache, const gld_slot *s, double *out);

/* What the rules look at, of an annotated slot. */
gld_tap_errors gld_errors_of(const gld_judgement *j, const gld_slot *s);

/* Recorded in this call, and precisely enough to go on from. */
bool gld_recorded(gld_judgement *j, fh1_tap_id id, int64_t layer);
/* Whether everything that the op of this tap reads is known. */
bool gld_inputs_recorded(gld_judgement *j, fh1_tap_id id, int64_t layer);
/* Whether the residual stream that a layer reads is. */
bool gld_stream_recorded(gld_judgement *j, int64_t layer);
/* After a call: which parts of the local cache are the judged engine's own. */
void gld_note_known(gld_judgement *j);

/* One engine over the current call; its taps are read, compared and forced as `run` says. */
fh1_status gld_run_step(gld_judgement *j, fh1_engine *e, fh1_cache *cache, gld_run run, int member);
/* A cache tap: judged values, and what the caches of all runs hold. */
fh1_status gld_read_cache_slot(gld_judgement *j, gld_slot *s);
/* The next call goes on from what the judged engine holds. */
fh1_status gld_import_judged(gld_judgement *j, const gld_slot *s);
