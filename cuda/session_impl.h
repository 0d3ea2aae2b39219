/* A session of this world from the inside, for session.cu, session_step.cu and session_limits.cu. */
#pragma once

#include "cuda/call.h"
#include "cuda/tokens_upload.h"
#include "cuda/world.h"

#include <time.h>
#include <vector>

namespace CU_NS
{

/* Of a clock that only goes forward. */
inline double cu_seconds()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/* What a step reads and moves on, on the device, [B] each but for `row_begin` [B + 1]. */
struct cu_step_state {
    int *id, *row, *row_begin, *past, *start, *first;
    int64_t *position; /* of `id`: what it is run at */
    int *token;        /* that the sampler chose; -1 where logits were NaN */
    int *out;          /* [room, B] tokens chosen since `count` was 0 */
    int *count;        /* [1] */
};

struct cu_live_session {
    cu_session base;
    cu_session_options o;
    const fh1_config *c;
    cu_device device;
    char device_line[160];
    cu_weights weights;
    bool loaded;
    cu_work work;
    cu_token_buffers tokens; /* of a prefill */
    cu_buffer state, out;    /* behind `at` */
    cu_buffer sample, greedy, kept, inv_freq;
    cu_step_state at;
    fh1_cache *cache;
    int64_t out_room;           /* steps */
    std::vector<int64_t> *next; /* [B] position of each row's chosen token */
    std::vector<int> *waiting;  /* [B] tokens that the prompt chose, until they are handed out */
    int64_t handed;             /* tokens per row since the prompt */
    cudaGraphExec_t graph;      /* of one step, for: */
    uint64_t graph_generation;  /* the cache's */
    int graph_keys;
};

static inline cu_live_session *cu_live(cu_session *s)
{
    return reinterpret_cast<cu_live_session *>(s);
}

/* `at` of B rows; from what the host knows; room for n choices in `out`, its counter back to 0. */
fh1_status cu_step_state_new(cu_live_session *s);
fh1_status cu_step_state_set(cu_live_session *s);
fh1_status cu_step_out(cu_live_session *s, int64_t n);

/* The call of one step on `at`; at most `keys` stored keys in a row afterwards. */
fh1_status cu_step_call(cu_live_session *s, cu_cache *cache, int keys, cu_call *call);
/* Queues a step: the model over `at`, the choice, and `at` moved on. Allocates nothing once one step has run. */
fh1_status cu_step_run(cu_live_session *s, cu_call *call);
/* Chooses each row's next id, from CU_LOGITS, or after a step (`ran`) from CU_X where the head norms; writes it down.
 */
fh1_status cu_step_choose(cu_live_session *s, cu_call *call, bool ran);

fh1_status cu_live_session_synthesize(cu_session *s, cu_recipe_of recipe, void *user);
fh1_status cu_live_session_limits(cu_session *s, int64_t n, double *copy, double *product);
fh1_status cu_live_session_new(const fh1_model *m, const cu_session_options *o, cu_session **out);

} // namespace CU_NS
