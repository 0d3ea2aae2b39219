/* A model that is only a config.json: what `fh1 init --seed N` would make of it, as far as that fits. Vectors have
 * their values; matrices are views of one area of zeros, and are made where they are needed, on the device. */
#pragma once

#include "cuda/trainer.h"
#include "oracle/model.h"

/* bf16. Released by fh1_model_free. */
fh1_status cli_synthetic_open(const char *config_path, uint64_t seed, fh1_model *out);

/* The matrices of such a model in the memory of a session. */
fh1_status cli_synthetic_fill(cu_session *s, const fh1_model *m, uint64_t seed);

/* The same in the memory of a trainer. */
fh1_status cli_synthetic_matrices(cu_trainer *t, const fh1_model *m, uint64_t seed);

/* Whether a model's name is that of a config. */
bool cli_synthetic_named(const char *path);
