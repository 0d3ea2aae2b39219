/* The adapters of a model on the device, f32: contract fp32 alone applies them. */
#pragma once

#include "cuda/device.h"
#include "cuda/lora.cuh"
#include "cuda/oracle.h"

#include <vector>

namespace CU_NS
{

struct cu_adapters {
    std::vector<cu_adapter> of; /* layer l, product id: of[l · FH1_TAP_LAYER + id]; empty: none in any layer */
    cu_adapter embed, head;     /* embed: A is [V, r] */
    std::vector<void *> memory;
    size_t bytes;
    int most_r;
};

/* FH1_E_INPUT: DoRA, or two adapters on one module. Freed by cu_adapters_free in any case. */
fh1_status cu_adapters_load(const fh1_model *m, cudaStream_t stream, cu_adapters *out);
void cu_adapters_free(cu_adapters *a);
/* Those of a call; `a` must stay where it is. */
void cu_adapters_attach(const cu_adapters *a, struct cu_call *call);

/* FH1_E_INPUT where one is attached; which. */
fh1_status cu_adapters_none(const fh1_model *m);

} // namespace CU_NS
