/* Schedules against rows that are alone: what the chapters of prefill, padding and positions have in common. */
#pragma once

#include "golden/calls.h"
#include "tests/edge/edge.h"

/* A schedule on one cache, as golden/calls.h writes it (at most LAW_ROWS rows). Each row says a text of its own. */
typedef struct {
    const char *calls;
    uint64_t looks;   /* bit j: compared after step j; the last step always is */
    unsigned engines; /* EDGE_…, those that run it; 0: all */
    int64_t pad_id;   /* stands in every column of padding */
} edge_plan;

/* After each step that is looked at, every row holds what it holds alone after one call on a new cache: logits of all
 * its tokens, keys, values, conv window, state. Within what two honest runs may differ by. `plans` end with calls NULL.
 * The planted mistake is a cache that forgets before the second call, or another text. A slow engine runs each schedule
 * once, against the truth, tap by tap (edge_check, where padding holds ids of its own), and the last one also so, as
 * without a sink its calls take other kernels. */
fh1_status edge_plans(edge_run *r, const fh1_model *m, const edge_plan *plans);
fh1_status edge_plans_all(edge_run *r, const edge_plan *plans); /* on every usual model */

/* EDGE_CUDA_HOST and EDGE_CUDA are three orders of magnitude slower a call than the reference: cases give them fewer
 * combinations. */
#define EDGE_REFERENCE (EDGE_F64 | EDGE_F32 | EDGE_BF16)
static inline bool edge_is_slow(const edge_run *r)
{
    return r->bit & (EDGE_CUDA_HOST | EDGE_CUDA);
}

/* `judge` on each usual model, with engines of its own; on Falcon-Mamba too where the case says so. */
typedef fh1_status (*edge_judge)(edge_run *r, const fh1_model *m, void *data);
fh1_status edge_each_model(edge_run *r, edge_judge judge, void *data);
fh1_status edge_each_altered(edge_run *r, const char *more, edge_judge judge, void *data); /* `more`: ",tied=0" */
fh1_status edge_on_model(edge_run *r, const char *spec, edge_judge judge, void *data);
fh1_status edge_on_mamba(edge_run *r, edge_judge judge, void *data); /* nothing where the case does not say so */

/* n ids of the stream `name` of the run's seed, in [first, V). */
void edge_ids(const edge_run *r, const char *name, int64_t first, int64_t V, int64_t n, int64_t *ids);

/* One call; logits of the last n_logits columns as f64 [B, n_logits, V] (NULL: not kept, but computed). */
fh1_status edge_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                        double *logits);
/* FH1_E_WRONG unless row `row` of both caches holds the same tokens, documents and bits in every layer and part. */
fh1_status edge_same_row(edge_run *r, const fh1_cache *a, int64_t row_a, const fh1_cache *b, int64_t row_b,
                         const char *what);
/* The same for all rows, columns included. */
fh1_status edge_same_cache(edge_run *r, const fh1_cache *a, const fh1_cache *b, const char *what);
/* FH1_E_WRONG unless n numbers are the same bits, NaN of the same bits included. */
fh1_status edge_same_bits(edge_run *r, const double *a, const double *b, int64_t n, const char *what);
/* FH1_E_WRONG unless window and state of a row are exactly zero in every layer. */
fh1_status edge_zero_memory(edge_run *r, const fh1_cache *c, int64_t row, const char *what);
/* FH1_E_WRONG unless all n numbers are finite. */
fh1_status edge_finite(edge_run *r, const double *v, int64_t n, const char *what);
/* FH1_E_WRONG unless the engine refuses the call with FH1_E_INPUT and the cache stays as it was, bit for bit. */
fh1_status edge_call_refused(edge_run *r, fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                             const char *what);
