/* What a trainer is made of besides the pass: where the values of every parameter lie on the device. */
#pragma once

#include "cuda/adapters.h"
#include "cuda/trainer.h"
#include "cuda/weights.h"

namespace CU_NS
{

struct cu_place {
    const fh1_tensor *value;
    float *at;
};
struct cu_places {
    std::vector<cu_place> all; /* sorted by the address of `value` */
};

/* Decay rates of one layer. */
static inline int64_t cu_rates_of(const fh1_config *c)
{
    return c->family == FH1_FALCON_MAMBA ? c->H * c->N : c->H;
}

/* f32 weights. A_log [n_layers, rates]: the weights hold -exp of it only. */
void cu_places_make(const fh1_model *m, const cu_weights *w, const cu_adapters *a, float *A_log, cu_places *out);
/* NULL: not there. */
float *cu_place_of(const cu_places *p, const fh1_tensor *value);

fh1_status cu_live_trainer_new(fh1_model *m, const cu_trainer_options *o, cu_trainer **out);

} // namespace CU_NS
