/* Fault × rule: each planted fault (oracle/fault.h) against every rule that could see it, and honest engines against
 * the same rules. A fault is killed when all rules that its registry entry names are red; an honest engine must leave
 * all of them green. */
#pragma once

#include "golden/fault_inputs.h"
#include "golden/laws.h"
#include "golden/op_case.h"

typedef enum {
    FAULT_RULE_CHECK, /* the judge on the fault's own case */
    FAULT_RULE_LAW,
    FAULT_RULE_LATTICE, /* the op in the regimes of gld_regime, in their order */
    FAULT_RULE_TRAINED,
    FAULT_RULE_ADVERSARIAL,
    FAULT_RULE_RECORDED,
    FAULT_RULE_FUZZED,
    FAULT_RULE_HORIZON,  /* a scan beyond token 50 000 */
    FAULT_RULE_GRADIENT, /* the judge of gradients, and of the backward ops alone */
    FAULT_RULES
} fault_rule;

const char *fault_rule_name(int rule); /* "check" */

/* A fault on models of one family; honest engines are -1 - i. */
static inline int fault_job(fh1_fault f, fh1_family family)
{
    return (int)f + (family == FH1_FALCON_MAMBA ? FH1_FAULT_COUNT : 0);
}
static inline fh1_fault fault_of_job(int job)
{
    return (fh1_fault)(job % FH1_FAULT_COUNT);
}
static inline fh1_family fault_family_of_job(int job)
{
    return job < FH1_FAULT_COUNT ? FH1_FALCON_H1 : FH1_FALCON_MAMBA;
}

/* One row. Plain data: it travels through a pipe. */
typedef struct {
    int job;                /* fault_job, or below 0: an honest engine */
    int runs[FAULT_RULES];  /* cases, laws tried; 0: the rule does not concern it */
    int red[FAULT_RULES];   /* of them FAIL */
    bool owes[FAULT_RULES]; /* named by the registry and not all red */
    bool killed;
    bool right_tap, right_step;              /* where check found it; true where check is not asked */
    bool late;                               /* its first changed bits were inside honest rounding */
    bool judged;                             /* check was asked, so causes were looked for: */
    bool acts;                               /* it changed a bit */
    int rank;                                /* of the fault among the suspects from 1; 0: not among them */
    char found[96], wanted[96], changed[96]; /* "step 0 self_attn.k_rope": by check, by the registry, first bits */
    char suspects[320];                      /* their names, best first */
    char rejected[256];                      /* honest rows: by what first */
    char error[512];                         /* why there is no row */
    double seconds;
} fault_row;

typedef struct fault_bench fault_bench;

/* Models of `folder` (golden/models) are opened as they are needed. `bf16`: rows run ref-bf16 on the bf16 models under
 * its own contract, and only through check. */
fh1_status fault_bench_new(const char *folder, bool bf16, fault_bench **out);
/* Rows run cuda-host instead (fault_cuda.h), under fp32, or with bf16 under cuda-bf16; the laws are left to fh1 laws.
 */
void fault_bench_take_cuda(fault_bench *b);
void fault_bench_free(fault_bench *b);

/* On models of `family`. `info` is the registry's entry with its tap there (fault_info_of); another one is judged as if
 * it stood there. */
fh1_status fault_row_run(fault_bench *b, fh1_fault f, fh1_family family, const fh1_fault_info *info, fault_row *row);
fh1_fault_info fault_info_of(fh1_fault f, fh1_family family);

/* Honest engines; NULL past the last. */
const char *fault_honest_name(int i);
/* Whether it belongs to the matrix of cuda-host, or to that of the reference. */
bool fault_honest_is_cuda(int i);
fh1_status fault_honest_run(fault_bench *b, int i, fault_row *row);
/* Any engine through what an honest one must pass: all cases of all faults, all laws, all ops, the long scan. */
fh1_status fault_engine_run(fault_bench *b, fh1_engine *e, fault_row *row);

/* What must be red, for people: "check mini-0.5b ragged self_attn.k_rope, law.reorder". Returns buf. */
const char *fault_caught_by(fh1_fault f, fh1_family family, const fh1_fault_info *info, char *buf, size_t size);

/* Rows of fault and honest jobs, computed by n_processes copies of this process and handed to `done` in the order of
 * `jobs` as soon as they and those before them are there. */
typedef struct {
    const char *folder;
    bool bf16, cuda;
    const int *jobs;
    int n_jobs, n_processes;
    void (*done)(void *user, const fault_row *row);
    void *user;
} fault_jobs;
fh1_status fault_jobs_run(const fault_jobs *j);
