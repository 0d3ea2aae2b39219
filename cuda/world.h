/* What the two worlds export with C linkage, by the world's name; names.c chooses between them. */
#pragma once

#include "cuda/session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name; /* "cuda-host", "cuda" */
    fh1_status (*missing)(void);
    fh1_status (*describe)(char *line, size_t size); /* the device */
    fh1_status (*engine_new)(const fh1_profile *profile, fh1_engine **out);
    fh1_status (*session_new)(const fh1_model *m, const cu_session_options *o, cu_session **out);
} cu_world;

extern const cu_world cu_world_host;
extern const cu_world cu_world_gpu; /* where FH1_NVCC */

/* How a session of one world is called from C: the first member of what it is. */
struct cu_session {
    void (*free)(cu_session *s);
    fh1_status (*prefill)(cu_session *s, const fh1_batch *b);
    fh1_status (*decode)(cu_session *s, int64_t n, int64_t *tokens);
    void (*reset)(cu_session *s);
    fh1_status (*synthesize)(cu_session *s, cu_recipe_of recipe, void *user);
    fh1_status (*limits)(cu_session *s, int64_t n, double *copy, double *product);
    cu_session_facts facts;
};

#ifdef __cplusplus
}
#endif
