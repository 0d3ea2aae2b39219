/* The buffers of a call's activations: their widths, types and places. */
#include "cuda/attention.cuh"
#include "cuda/call.h"
#include "cuda/decode_linear.cuh"
#include "cuda/ssd_scan.cuh"

namespace CU_NS
{
namespace
{

/* Row lengths that keep every part 16-byte aligned for bf16. */
int64_t aligned(int64_t n)
{
    return (n + 7) / 8 * 8;
}

int64_t qkv_width(const fh1_config *c)
{
    return (c->Hq + 2 * c->Hkv) * c->A;
}

/* Elements per token of each part that has M rows; 0: not one of them. */
int64_t part_width(const fh1_config *c, int part)
{
    switch (part) {
    case CU_X:
    case CU_N:
    case CU_MIXER: return c->D;
    case CU_ATTN: return c->Hq ? c->D : 0;
    case CU_DOWN: return c->F ? c->D : 0;
    case CU_PROJ: return aligned(fh1_in_proj_dim(c));
    case CU_QKV: return aligned(qkv_width(c));
    case CU_CONV: return fh1_conv_dim(c);
    case CU_X_PROJ: return aligned(fh1_x_proj_dim(c));
    case CU_DT_LOW: return c->R;
    case CU_BC: return c->R ? 2 * c->N : 0;
    case CU_DT_RAW: return c->R ? c->H : 0;
    case CU_DT: return c->H;
    case CU_SSD:
    case CU_GATED: return c->d_ssm;
    case CU_CONTEXT: return c->Hq * c->A;
    case CU_GATE_UP: return 2 * aligned(c->F);
    case CU_ACT: return c->F;
    default: return 0;
    }
}

/* The residual stream stays f32 beside branches of bf16. */
bool wide_stream(const fh1_config *c, cu_type type)
{
    return type == CU_BF16 && c->residual_in_fp32;
}

size_t part_size(const fh1_config *c, cu_type type, int part)
{
    return part == CU_DT || (part == CU_X && wide_stream(c, type)) ? sizeof(float) : cu_size(type);
}

cu_ssd scan_shape(const fh1_config *c, cu_type type)
{
    cu_ssd a = {};
    a.type = type;
    a.H = static_cast<int>(c->H);
    a.P = static_cast<int>(c->P);
    a.N = static_cast<int>(c->N);
    a.G = static_cast<int>(c->G);
    return a;
}

fh1_status need_scratch(cu_call *call)
{
    if (call->c->family == FH1_FALCON_MAMBA) return NULL; /* its scan has none, and it does not attend */
    cu_ssd scan = scan_shape(call->c, call->w->type);
    cu_attention step = {};
    scan.t = call->t;
    step.type = call->w->type;
    step.t = call->t;
    step.Hq = static_cast<int>(call->c->Hq);
    step.Hkv = static_cast<int>(call->c->Hkv);
    step.A = static_cast<int>(call->c->A);
    if (!call->one_token)
        return cu_buffer_need(&call->work->part[CU_SCAN], cu_ssd_scratch(&scan, CU_SSD_AUTO, call->t.M, call->t.B));
    cu_buffer *b = &call->work->part[CU_STEP];
    FH1_TRY(cu_buffer_need(b, cu_attention_step_scratch(call->k, &step, call->t.B, call->t.most_keys)));
    if (!b->bytes) return NULL;
    return cu_status(cudaMemsetAsync(b->p, 0, b->bytes, call->k->stream), "clearing scratch");
}

} // namespace

fh1_status cu_call_open(cu_call *call)
{
    const fh1_config *c = call->c;
    const cu_type type = call->w->type;
    const bool adapted = call->adapters || call->embed_adapter || call->head_adapter;
    const bool released = c->family == FH1_FALCON_H1 && c->block == FH1_BLOCK_SA_M;
    call->fused = released && call->one_token && call->t.M <= CU_DECODE_ROWS && call->k->path != CU_GENERAL && !adapted;
    call->wide = wide_stream(c, type);
    const bool fused = call->fused;
    call->ld_proj = fused ? fh1_in_proj_dim(c) + qkv_width(c) : part_width(c, CU_PROJ);
    call->ld_qkv = fused ? call->ld_proj : part_width(c, CU_QKV);
    call->ld_up = fused ? c->F : aligned(c->F);
    call->ld_gate_up = 2 * call->ld_up;
    call->ld_x_proj = part_width(c, CU_X_PROJ);
    for (int p = 0; p < CU_PARTS; ++p) {
        const int64_t width = fused && p == CU_PROJ ? call->ld_proj : fused && p == CU_QKV ? 0 : part_width(c, p);
        const size_t bytes = static_cast<size_t>(call->t.M * width) * part_size(c, type, p);
        if (width) FH1_TRY(cu_buffer_need(&call->work->part[p], bytes));
    }
    call->proj = cu_part_of(call, CU_PROJ);
    call->qkv = fused ? cu_at(type, call->proj, fh1_in_proj_dim(c)) : cu_part_of(call, CU_QKV);
    if (call->sink)
        FH1_TRY(cu_buffer_need(&call->work->part[CU_ASIDE], static_cast<size_t>(call->t.M * c->D) * cu_size(type)));
    return need_scratch(call);
}

void cu_work_free(cu_work *w)
{
    for (cu_buffer &b : w->part) cu_buffer_free(&b);
}

size_t cu_work_bytes(const fh1_config *c, cu_type type, int64_t M, int64_t B)
{
    size_t n = 0;
    for (int p = 0; p < CU_PARTS; ++p) n += static_cast<size_t>(M * part_width(c, p)) * part_size(c, type, p);
    const cu_ssd scan = scan_shape(c, type);
    if (c->family == FH1_FALCON_MAMBA) return n;
    return n + cu_ssd_scratch(&scan, CU_SSD_AUTO, static_cast<int>(M), static_cast<int>(B));
}

} // namespace CU_NS
