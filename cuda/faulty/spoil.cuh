/* What the spoilers share: the planted fault, what the running engine is doing, and elements of device memory, which on
 * the CPU is memory like any other. Each spoiler is called as the launcher is whose place it takes. */
#pragma once

#include "cuda/attention.cuh"
#include "cuda/cache.h"
#include "cuda/conv1d.cuh"
#include "cuda/cross_entropy.cuh"
#include "cuda/dt_softplus.cuh"
#include "cuda/embed.cuh"
#include "cuda/gated_norm.cuh"
#include "cuda/linear.cuh"
#include "cuda/residual.cuh"
#include "cuda/rmsnorm.cuh"
#include "cuda/rope.cuh"
#include "cuda/sample.cuh"
#include "cuda/selective_scan.cuh"
#include "cuda/ssd_step.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/weights.h"

extern "C" {
#include "oracle/fault.h"
}

#include <vector>

namespace CU_NS
{

struct cu_faulty_state {
    fh1_fault fault;
    bool general;             /* launchers take their general path always, not only */
    cu_ctx *k;                /* where a fault is planted and a step would be fused */
    const cu_weights *w;      /* of the model that was loaded last */
    const fh1_batch *batch;   /* of the call */
    const fh1_tokens *tokens; /* its real tokens on the host, */
    const fh1_cache *cache;   /* the books before it, */
    cu_tokens t;              /* and the tokens on the device */
    cu_rmsnorm norm;          /* the last one that has a weight */
    cu_rmsnorm inner[3];      /* Falcon-Mamba's of dt, B and C, the last ones */
};
extern cu_faulty_state cu_faulty;

#define CU_FAULT(id) (cu_faulty.fault == FH1_FAULT_##id)

/* Everything before it has run: buffers may be looked at. */
static inline fh1_status settled(cu_ctx *k)
{
    return cu_status(cudaStreamSynchronize(k->stream), "a planted fault");
}

static inline float get(cu_type t, const void *p, int64_t i)
{
    return t == CU_F32 ? static_cast<const float *>(p)[i] : __bfloat162float(static_cast<const bf16 *>(p)[i]);
}
static inline void put(cu_type t, void *p, int64_t i, float v)
{
    if (t == CU_F32) static_cast<float *>(p)[i] = v;
    else static_cast<bf16 *>(p)[i] = __float2bfloat16_rn(v);
}
static inline float in_bf16(float v)
{
    return fh1_round_f32(FH1_ROUND_BF16, v);
}
static inline float sigmoid_of(float v)
{
    return 1.f / (1.f + expf(-v));
}

/* Stored arrays of a spoiler's own. */
struct cu_spoiled {
    cu_type type;
    std::vector<float> wide;
    std::vector<bf16> narrow;
    cu_spoiled(cu_type t, int64_t n) : type(t)
    {
        if (t == CU_F32) wide.resize(static_cast<size_t>(n) + 1);
        else narrow.resize(static_cast<size_t>(n) + 1);
    }
    void *p()
    {
        return type == CU_F32 ? static_cast<void *>(wide.data()) : static_cast<void *>(narrow.data());
    }
};

static inline bool of_falcon_mamba()
{
    return cu_faulty.w && cu_faulty.w->config->family == FH1_FALCON_MAMBA;
}
/* The type of a residual stream. */
template <typename A> static inline cu_type stream_of(const A *a)
{
    return a->wide ? CU_F32 : a->type;
}
/* One token in every row. */
static inline bool all_steps(const cu_tokens &t)
{
    return t.longest == 1 && t.M == t.B;
}
/* Tokens of the model's call, not of a single op. */
static inline bool of_model(const cu_tokens &t)
{
    return t.row && t.row == cu_faulty.t.row;
}
/* The columns before the call. */
static inline int64_t past_columns()
{
    return cu_faulty.cache ? cu_faulty.cache->n_cols : 0;
}

fh1_status cu_faulty_embed_fwd(cu_ctx *k, const cu_embed *a);
fh1_status cu_faulty_rmsnorm_fwd(cu_ctx *k, const cu_rmsnorm *a);
fh1_status cu_faulty_linear_fwd(cu_ctx *k, const cu_linear *a);
fh1_status cu_faulty_conv1d_fwd(cu_ctx *k, const cu_conv1d *a);
fh1_status cu_faulty_dt_softplus_fwd(cu_ctx *k, const cu_dt_softplus *a);
fh1_status cu_faulty_ssd_scan_fwd(cu_ctx *k, const cu_ssd *a, cu_ssd_way way);
fh1_status cu_faulty_ssd_step_fwd(cu_ctx *k, const cu_ssd_step *a);
fh1_status cu_faulty_selective_scan_fwd(cu_ctx *k, const cu_selective *a);
fh1_status cu_faulty_selective_step_fwd(cu_ctx *k, const cu_selective *a);
fh1_status cu_faulty_gated_norm_fwd(cu_ctx *k, const cu_gated_norm *a);
fh1_status cu_faulty_rope_fwd(cu_ctx *k, const cu_rope *a);
fh1_status cu_faulty_attention_fwd(cu_ctx *k, const cu_attention *a);
fh1_status cu_faulty_attention_step_fwd(cu_ctx *k, const cu_attention *a);
fh1_status cu_faulty_swiglu_fwd(cu_ctx *k, const cu_swiglu *a);
fh1_status cu_faulty_residual_fwd(cu_ctx *k, const cu_residual *a);
fh1_status cu_faulty_cross_entropy_fwd(cu_ctx *k, const cu_cross_entropy *a);
fh1_status cu_faulty_sample_fwd(cu_ctx *k, const cu_sample *a);

/* Faults of a recurrence token by token, of both scans (scan.cu): whether one is planted that is done by hand; whether
 * the state is lost before token t of a row's n; whether the last one enters twice. */
enum { CU_FAULTY_CHUNK = 16 };
bool cu_faulty_recurrence();
bool cu_faulty_carry_lost(int t, int n);
bool cu_faulty_tail_repeats(int t, int n);
/* One number of the state, S = decay·S + in; returns y and what it reads of it. */
float cu_faulty_element(float y, float decay, float in, float C, float *S);

/* Rows without tokens of a model's call, whose memory a fault touches: conv windows or states of `size` floats. */
void cu_faulty_mix_slots(const cu_tokens &t, const int *slot, float *memory, int64_t size, bool before);

} // namespace CU_NS
