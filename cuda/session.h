/* The fast way through the CUDA engine: a model, a cache and a sampler that stay on the device. A prompt is one call;
 * the steps after it are queued without the host looking in between, each the same CUDA graph, which reads the token
 * that the sampler left and moves positions on by itself. C linkage; for `fh1 run`, `fh1 bench` and programs that want
 * tokens.
 *
 * Kernels and numbers are those of the engine behind fh1_engine (engine.h): greedy tokens are the same. */
#pragma once

#include "oracle/engine.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cu_session cu_session;

typedef struct cu_session_options {
    const char *engine;         /* "cuda" or "cuda-host" */
    const fh1_profile *profile; /* as in cu_engine_new */
    int64_t B;                  /* rows */
    int64_t prompt;             /* most new tokens of a row in one call */
    int64_t context;            /* most tokens of a row in the end */
    double temperature;         /* cuda/sample.cuh; 0: greedy */
    int64_t top_k;              /* 0: all */
    double top_p;               /* 1: all; 0 is taken as 1, so that options of zeros are greedy */
    uint64_t seed;
    bool no_graph; /* every kernel launched by the host */
    FILE *plan;    /* what it will take on the device, before anything is allocated; NULL: not told */
} cu_session_options;

/* Loads the model. FH1_E_INPUT: as cu_engine_new, and a request that does not fit into the device's memory. The model
 * must outlive the session. */
fh1_status cu_session_new(const fh1_model *m, const cu_session_options *o, cu_session **out);
void cu_session_free(cu_session *s);

/* A call with B rows, each with at least one token, and the choice of each row's next token from its last logits. May
 * be repeated: another one goes on behind the tokens so far, the chosen one not being one of them until it is decoded
 * or given. Rows of a padded batch without positions count their real tokens. */
fh1_status cu_session_prefill(cu_session *s, const fh1_batch *b);

/* The next n tokens of each row, [B, n]; NULL: not wanted. The last one is chosen but not run yet. FH1_E_WRONG: logits
 * that are NaN, with row and step. */
fh1_status cu_session_decode(cu_session *s, int64_t n, int64_t *tokens);

/* Every row empty again. */
void cu_session_reset(cu_session *s);

typedef struct {
    const char *device; /* one line */
    const fh1_profile *profile;
    double seconds;      /* of the last prefill or decode */
    int64_t steps;       /* that it ran */
    int64_t graph_steps; /* of them by a graph */
    int64_t captures;    /* graphs made so far */
    size_t weight_bytes; /* on the device */
} cu_session_facts;
cu_session_facts cu_session_tell(const cu_session *s);

/* How the elements of one matrix are drawn: mean + std[k]·(a bell-shaped number of variance 1 made of (key, ordinal)),
 * k the segment of the ordinal (convert/hf_recipe.h; key of oracle/random.h). */
typedef struct {
    uint64_t key;
    double mean;
    int n_segments;
    int64_t end[5]; /* ordinal behind the segment */
    double std[5];
} cu_matrix_recipe;
typedef fh1_status (*cu_recipe_of)(void *user, const char *name, int64_t n_elems, cu_matrix_recipe *out);

/* Makes every matrix anew on the device, for measuring sizes that no file is there for: whatever the model's matrices
 * held is overwritten. */
fh1_status cu_session_synthesize(cu_session *s, cu_recipe_of recipe, void *user);

/* Limits of the device, measured: bytes/s of a copy (read and written), and multiply-adds·2 per second of a bf16
 * product of cubes of side `n`. */
fh1_status cu_session_limits(cu_session *s, int64_t n, double *copy, double *product);

#ifdef __cplusplus
}
#endif
