/* What the two worlds export with C linkage, by the world's name; names.c chooses between them. */
#pragma once

#include "cuda/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name; /* "cuda-host", "cuda" */
    fh1_status (*missing)(void);
    fh1_status (*describe)(char *line, size_t size); /* the device */
    fh1_status (*engine_new)(const fh1_profile *profile, fh1_engine **out);
    fh1_status (*session_new)(const fh1_model *m, const cu_session_options *o, cu_session **out);
    fh1_status (*trainer_new)(fh1_model *m, const cu_trainer_options *o, cu_trainer **out);
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

struct cu_trainer {
    void (*free)(cu_trainer *t);
    fh1_status (*step)(cu_trainer *t, const fh1_batch *b, const fh1_adamw *o, double max_norm, cu_trainer_result *r);
    fh1_status (*synthesize)(cu_trainer *t, cu_recipe_of recipe, void *user);
    const fh1_grads *(*parameters)(const cu_trainer *t);
    fh1_status (*read)(cu_trainer *t, int64_t i, float *out);
};

#ifdef __cplusplus
}
#endif
