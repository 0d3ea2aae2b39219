/* `fh1 bench --train`: full training steps that stay on the device (cuda/trainer.h). */
#pragma once

#include "oracle/model.h"

typedef struct {
    const char *engine; /* "cuda", "cuda-host" */
    int64_t B, T;       /* rows and their tokens */
    int64_t steps;      /* timed; one more goes before */
    int64_t seed;       /* of a synthetic model's matrices */
    bool synthetic, json;
} cli_bench_train_options;

/* Prints tokens per second and where the time goes: medians over the steps. */
fh1_status cli_bench_train(const cli_bench_train_options *o, fh1_model *m);
