/* One line that shows a failure again, and what runs it.
 *
 * Of an op (golden/op_case.h):
 *   --op=ssd_scan --regime=adversarial --T=129 --H=2 --seed=7 --engine=ref-f32
 * Of a model, which lies in a folder or is made from the seed (golden/seeded_model.h), over a schedule
 * (golden/calls.h):
 *   --make=layers=2,D=32,…,m_key=0.25 --engine=ref-f32 --seed=7 --schedule=p9x2l:3;d2 --fault=key_multiplier_dropped
 * or under traffic on several caches (golden/traffic.h) instead of a schedule:
 *   --make=layers=2,D=32,… --engine=ref-f64 --seed=7 --traffic=a=2;a+9,4;b=a;a*3;a<b;a+2
 *
 * Options are separated by blanks; a backslash keeps the character behind it, so that a path may hold a blank. */
#pragma once

#include "golden/calls.h"
#include "golden/op_case.h"
#include "golden/seeded_model.h"
#include "golden/traffic.h"

/* Copied with gld_repro_copy. */
typedef struct {
    bool is_op;
    gld_op_case op; /* engine, contract and fault of an op stand here; the rest of the struct is for models */

    char model[1024];     /* folder, or empty: */
    gld_seeded_spec make; /* made from the seed */
    uint64_t seed;        /* of ids, and of the weights of a made model */
    gld_calls calls;
    bool is_traffic; /* instead of calls; has no taps and no step, and its variants are the judged engine's alone */
    gld_traffic traffic;
    char engine[32], contract[128], variant[256], fault[64]; /* empty: the usual one, none */
    char taps[256];                                          /* only these are judged; empty: all */
    int64_t step;                                            /* calls after this one are not run; -1: all are */
} gld_repro;

void gld_repro_copy(gld_repro *to, const gld_repro *from);
/* FH1_E_INPUT says which option is unknown, given twice, missing or out of range. Opens no file. */
fh1_status gld_repro_parse(const char *line, gld_repro *out);
/* The line that parses to this, malloc'ed; NULL without memory. */
char *gld_repro_print(const gld_repro *r);
/* The same as a command for a shell: fh1 repro '…'. */
char *gld_repro_command(const gld_repro *r);

/* The command that runs `engine` over these inputs again, if they are what a schedule makes from `seed` and the model
 * came from a folder; NULL in *command otherwise. `contract` is NULL for the engine's own. malloc'ed. */
fh1_status gld_repro_line(const fh1_model *m, const char *engine, const fh1_profile *contract, unsigned variants,
                          uint64_t seed, const gld_trace *inputs, char **command);

/* Engines come from outside: golden/ knows none. */
typedef struct {
    fh1_engine *(*make)(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault); /* judged */
    fh1_engine *(*make_truth)(const char *name, const fh1_profile *p, unsigned variants);
    /* As in gld_judge_options: to explain the first divergence, NULL for no causes. */
    fh1_engine *(*make_faulty)(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault);
} gld_repro_env;

/* The verdicts on every tap, or the one on the op or the traffic, into `report`; the subject is closed. */
fh1_status gld_repro_run(const gld_repro *r, const gld_repro_env *env, fh1_report *report);

typedef struct {
    fh1_verdict verdict;
    char tap[FH1_TAP_NAME_SIZE]; /* first divergence, or the op; empty where nothing fails; "traffic" where it broke a
                                    promise that is no number */
    fh1_tap_id id;               /* of a model's tap */
    int64_t step;                /* of traffic: the move, from 0 */
} gld_repro_outcome;

/* Runs it without telling anybody. */
fh1_status gld_repro_try(const gld_repro *r, const gld_repro_env *env, gld_repro_outcome *out);
