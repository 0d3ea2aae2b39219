/* Training steps that stay on the device: weights as f32 masters, gradients and both moments of AdamW, under contract
 * fp32. A step is the pass of fh1_engine.backward, the norm, clipping and the update; the loss and the norm come back.
 * C linkage; for measuring, and for programs whose models fit (16 bytes per parameter that moves, 4 per other one). */
#pragma once

#include "cuda/session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cu_trainer cu_trainer;

typedef struct cu_trainer_options {
    const char *engine;                                     /* "cuda" or "cuda-host" */
    bool (*moves)(void *user, const fh1_param *p);          /* NULL: every parameter */
    double (*decay_factor)(void *user, const fh1_param *p); /* times fh1_adamw.decay; NULL: 1 */
    void *user;
    double decay;
} cu_trainer_options;

/* Loads the model and its adapters, which must outlive the trainer and are not written. FH1_E_INPUT: DoRA, two adapters
 * on one module, an adapter of the embedding table, memory that does not suffice. */
fh1_status cu_trainer_new(fh1_model *m, const cu_trainer_options *o, cu_trainer **out);
void cu_trainer_free(cu_trainer *t);

/* Every matrix made anew on the device (cu_session_synthesize). */
fh1_status cu_trainer_synthesize(cu_trainer *t, cu_recipe_of recipe, void *user);

typedef struct cu_trainer_result {
    double loss, norm; /* of the batch before the step; of all gradients before clipping */
    int64_t n_labels;
    double backward, update; /* seconds */
    size_t bytes;            /* on the device */
} cu_trainer_result;
/* One step over a batch with labels. lr, beta1, beta2 and eps of `o` count, and t (from 1); max_norm 0: no clipping.
 * FH1_E_WRONG: a norm that is not finite; nothing has moved then. */
fh1_status cu_trainer_step(cu_trainer *t, const fh1_batch *b, const fh1_adamw *o, double max_norm,
                           cu_trainer_result *r);

/* The parameters in backward order, values of parameter i as they are now (all of them, f32). */
const fh1_grads *cu_trainer_parameters(const cu_trainer *t);
fh1_status cu_trainer_read(cu_trainer *t, int64_t i, float *out);

#ifdef __cplusplus
}
#endif
