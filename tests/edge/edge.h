/* The fixed catalogue of edge cases, D-01 to D-114: each is a set-up, an invariant, and the planted faults that must
 * turn it red. `ctest -R D-36` runs one; docs/edge_cases.md is printed from here (edge_cases --markdown). */
#pragma once

#include "golden/law_impl.h"
#include "golden/seeded_model.h"

/* Engines that a case runs on, in this order. */
enum { EDGE_F64 = 1, EDGE_F32 = 2, EDGE_BF16 = 4, EDGE_CUDA_HOST = 8, EDGE_CUDA = 16, EDGE_ALL = 31 };

typedef struct edge_run edge_run;

typedef struct {
    const char *id;        /* "D-36" */
    const char *title;     /* a few words */
    const char *setup;     /* what is run */
    const char *invariant; /* what must hold */
    const char *catches;   /* families of bugs and public threads, as "CP1 huggingface/transformers#46741" */
    /* Names separated by blanks, at least one. As in oracle/fault.h (planted in the engine), as in convert/fault.h
     * (planted in the converters), or any other: planted by the case itself, which asks edge_plants. */
    const char *faults;
    unsigned engines; /* EDGE_ALL, or fewer with `why` */
    const char *why;  /* which engines are left out and why; NULL with EDGE_ALL */
    /* FH1_E_WRONG where the invariant does not hold, the message says where; any other error is the test's own. */
    fh1_status (*run)(edge_run *r);
    /* It runs on a Falcon-Mamba too, on each of its engines, and one of its faults shows there: edge_main.c holds it to
     * that. */
    bool falcon_mamba;
} edge_case;

/* One case on one engine with at most one fault. */
struct edge_run {
    const edge_case *the_case;
    const char *engine; /* "ref-f64" … */
    unsigned bit;       /* EDGE_… of it */
    fh1_fault fault;    /* planted in the engine, FH1_FAULT_NONE */
    const char *plant;  /* name of a fault that is not an engine's, NULL */
    uint64_t seed;
    char folder[64];                    /* an empty folder of its own, for files */
    int64_t checks;                     /* comparisons made; none at all is a failure of the test */
    bool mamba_only;                    /* leaves out the other models: whether a fault shows on Falcon-Mamba itself */
    bool on_mamba;                      /* the judged engine's model is one */
    int64_t mamba_checks, mamba_failed; /* comparisons made meanwhile, and those of them that failed */
    /* what edge.c keeps between calls */
    fh1_engine *judged, *truth, *emulated;
    const fh1_profile *profile;
    bool anchored; /* what `judged` returns was held against the truth */
};

/* Whether the fault of this name is planted in this run. */
bool edge_plants(const edge_run *r, const char *name);

/* Plants a fault of convert/fault.h, or none (NULL, or a name that is not of there); for the harness. */
void edge_plant(const char *name);

/* ---- engines: made at the first question, freed by the harness ---- */

/* The judged engine, faulty where a fault of oracle/fault.h is planted; its contract is its default for
 * this model (fh1_engine_open is called). */
fh1_status edge_engine(edge_run *r, const fh1_model *m, fh1_engine **out);
/* The same engine without the fault's profile: another contract; frees the former ones. NULL: the engine's own. */
void edge_contract(edge_run *r, const fh1_profile *p);
fh1_status edge_truth(edge_run *r, fh1_engine **out);

/* ---- models ---- */

/* Two usual models: i = 0: G = 1, no gated norm; i = 1: G = 2, gated norm, biases everywhere. Both: three layers, Q =
 * 8, K = 4, heads times width unlike D, all 14 multipliers distinct and not 1, conv bias. NULL past the last. `spec` is
 * what gld_seeded_parse takes. */
const char *edge_model_text(int i);
/* A Falcon-Mamba of as many layers and the same V and K, biases everywhere. */
const char *edge_mamba_text(void);
/* The model of a spec and the seed of the run; released by fh1_model_free. */
fh1_status edge_model(edge_run *r, const char *spec, fh1_model *out);

/* ---- comparisons ---- */

/* left against right on the judged engine as the laws compare (golden/laws.h): bits where a tensor is `exact`, else
 * what two honest runs may differ by. Both roads are the judged engine's: so that not both are nothing, an engine
 * without a fault is first asked for the logits of a short prompt, which must be near the truth's. `walk` is called per
 * road (LAW_LEFT, LAW_RIGHT, and LAW_PLANTED on the truth, a mistake that must show in each tap of `notices`; 0: none).
 * FH1_E_WRONG with the place where they differ. A verdict of MISTRUSTED is FH1_E_WRONG too. `tokens`: longest row. */
fh1_status edge_law(edge_run *r, const fh1_model *m, int64_t tokens, law_walk walk, uint64_t notices, void *data);
/* The same on every usual model. */
fh1_status edge_law_all(edge_run *r, int64_t tokens, law_walk walk, uint64_t notices, void *data);
/* A law of golden/laws.h by its name, on every usual model. */
fh1_status edge_named_law(edge_run *r, const char *law, int64_t tokens);
/* The judged engine's trace over a schedule (golden/calls.h) against the truth, tap by tap, as `fh1 check` does. */
fh1_status edge_check(edge_run *r, const fh1_model *m, const char *schedule, uint64_t seed);
/* The same where the engine runs another model than the truth: what a wrong config or a wrong conversion does. */
fh1_status edge_check_as(edge_run *r, const fh1_model *ran, const fh1_model *m, const char *schedule, uint64_t seed);

/* FH1_E_WRONG unless `holds`; counts as a comparison. */
fh1_status edge_require(edge_run *r, bool holds, const char *what, ...) __attribute__((format(printf, 3, 4)));

/* ---- the chapters ---- */
typedef struct {
    const char *title;
    const edge_case *cases; /* ends with id NULL */
} edge_chapter;
extern const edge_case edge_prefill[], edge_padding[], edge_positions[], edge_state[], edge_branching[], edge_packing[],
    edge_mixer[], edge_gradients[], edge_files[], edge_found[], edge_families[];
