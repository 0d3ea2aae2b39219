#include "cuda/call.h"

#include "cuda/attention.cuh"
#include "cuda/decode_linear.cuh"
#include "cuda/embed.cuh"
#include "cuda/linear.cuh"
#include "cuda/residual.cuh"
#include "cuda/rmsnorm.cuh"
#include "cuda/ssd_scan.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

/* -- small kernels of the call itself ---------------------------------------------------------------- */

/* y = R(x·m): what enters the first layer, from a lookup that a sink has seen. */
template <typename T> __global__ void scale_k(int64_t n, const T *x, float m, T *y)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) store(y + i, load(x + i) * m);
}

/* y[i] = x[kept[i]], rows of D */
template <typename T> __global__ void gather_k(int D, const int *kept, const T *x, T *y)
{
    const int64_t to = static_cast<int64_t>(blockIdx.x) * D, from = static_cast<int64_t>(kept[blockIdx.x]) * D;
    for (int i = threadIdx.x; i < D; i += blockDim.x) y[to + i] = x[from + i];
}

template <typename T> fh1_status scale_as(cu_call *call, const void *x, void *y)
{
    const int64_t n = call->t.M * call->c->D;
    if (!n) return NULL;
    LAUNCH((scale_k<T>), static_cast<unsigned>((n + 255) / 256), 256, 0, call->k->stream, n, static_cast<const T *>(x),
           static_cast<float>(call->c->m_emb), static_cast<T *>(y));
    return cu_launched("scale");
}

template <typename T> fh1_status gather_as(cu_call *call, int n, const int *kept, const void *x, void *y)
{
    if (!n) return NULL;
    LAUNCH((gather_k<T>), n, 128, 0, call->k->stream, static_cast<int>(call->c->D), kept, static_cast<const T *>(x),
           static_cast<T *>(y));
    return cu_launched("gather");
}

/* -- buffers ------------------------------------------------------------------------------------------ */

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
    case CU_MIXER:
    case CU_ATTN:
    case CU_DOWN: return c->D;
    case CU_PROJ: return aligned(fh1_in_proj_dim(c));
    case CU_QKV: return aligned(qkv_width(c));
    case CU_CONV: return fh1_conv_dim(c);
    case CU_DT: return c->H;
    case CU_SSD:
    case CU_GATED: return c->d_ssm;
    case CU_CONTEXT: return c->Hq * c->A;
    case CU_GATE_UP: return 2 * aligned(c->F);
    case CU_ACT: return c->F;
    default: return 0;
    }
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
    call->fused = call->one_token && call->t.M <= CU_DECODE_ROWS && call->k->path != CU_GENERAL && !adapted;
    const bool fused = call->fused;
    call->ld_proj = fused ? fh1_in_proj_dim(c) + qkv_width(c) : part_width(c, CU_PROJ);
    call->ld_qkv = fused ? call->ld_proj : part_width(c, CU_QKV);
    call->ld_up = fused ? c->F : aligned(c->F);
    call->ld_gate_up = 2 * call->ld_up;
    for (int p = 0; p < CU_PARTS; ++p) {
        const int64_t width = fused && p == CU_PROJ ? call->ld_proj : fused && p == CU_QKV ? 0 : part_width(c, p);
        const size_t bytes = static_cast<size_t>(call->t.M * width) * (p == CU_DT ? 4 : cu_size(type));
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
    for (int p = 0; p < CU_PARTS; ++p)
        n += static_cast<size_t>(M * part_width(c, p)) * (p == CU_DT ? 4 : cu_size(type));
    const cu_ssd scan = scan_shape(c, type);
    return n + cu_ssd_scratch(&scan, CU_SSD_AUTO, static_cast<int>(M), static_cast<int>(B));
}

/* -- the model ----------------------------------------------------------------------------------------- */

fh1_status cu_call_linear(cu_call *call, int M, const void *x, int64_t K, const void *w, const float *b, int64_t first,
                          int64_t n, double alpha, void *y, int64_t ldy)
{
    cu_linear a = {};
    a.type = a.y_type = call->w->type;
    a.M = M;
    a.N = static_cast<int>(n);
    a.K = static_cast<int>(K);
    a.x = x;
    a.ldx = K;
    a.w = cu_at(a.type, w, first * K);
    a.b = b ? b + first : NULL;
    a.alpha = static_cast<float>(alpha);
    a.y = y;
    a.ldy = ldy;
    return cu_linear_fwd(call->k, &a);
}

namespace
{

cu_shown stream_of(const cu_call *call, cu_part p)
{
    const int64_t D = call->c->D;
    return {call->w->type, cu_part_of(call, p), call->t.M, D, 0, D, NULL};
}

fh1_status embed(cu_call *call)
{
    const cu_shown y = stream_of(call, CU_ASIDE), x = stream_of(call, CU_X);
    cu_embed a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.D = static_cast<int>(call->c->D);
    a.id = call->t.id;
    a.table = call->w->embed;
    a.m_emb = static_cast<float>(call->c->m_emb);
    a.y = call->sink ? y.p : NULL;
    a.x = x.p;
    FH1_TRY(cu_embed_fwd(call->k, &a));
    if (!call->sink) return cu_call_adapt_embed(call, call->c->m_emb, x.p);
    FH1_TRY(cu_call_adapt_embed(call, 1, y.p));
    FH1_TRY(cu_call_tap(call, FH1_TAP_EMBED, 0, &y));
    FH1_TRY(a.type == CU_F32 ? scale_as<float>(call, y.p, x.p) : scale_as<bf16>(call, y.p, x.p));
    return cu_call_tap(call, FH1_TAP_INPUT, 0, &x);
}

} // namespace

fh1_status cu_call_sum(cu_call *call, const void *a, double m_a, const void *b, double m_b)
{
    cu_residual r = {};
    r.type = call->w->type;
    r.n = call->t.M * call->c->D;
    r.a = a;
    r.b = b;
    r.m_a = static_cast<float>(m_a);
    r.m_b = static_cast<float>(m_b);
    r.x = cu_part_of(call, CU_X);
    return cu_residual_fwd(call->k, &r);
}

namespace
{

/* x += a·m_a + b·m_b (no `a`: nothing), shown as `id`; then n = norm(x), shown as `norm`. One kernel where nobody looks
 * in between. */
struct sum_of {
    const void *a, *b;
    double m_a, m_b;
    fh1_tap_id id;
    int64_t layer;
};
fh1_status sum_and_norm(cu_call *call, const sum_of *s, const float *w, fh1_tap_id norm, int64_t layer)
{
    const cu_shown x = stream_of(call, CU_X), n = stream_of(call, CU_N);
    const bool split = call->sink && s->a;
    if (split) {
        FH1_TRY(cu_call_sum(call, s->a, s->m_a, s->b, s->m_b));
        FH1_TRY(cu_call_tap(call, s->id, s->layer, &x));
    }
    cu_rmsnorm a = {};
    a.type = x.type;
    a.M = call->t.M;
    a.D = static_cast<int>(x.width);
    a.x = x.p;
    if (!split) {
        a.a = s->a;
        a.b = s->b;
        a.m_a = static_cast<float>(s->m_a);
        a.m_b = static_cast<float>(s->m_b);
    }
    a.w = w;
    a.eps = static_cast<float>(call->c->eps);
    a.n = n.p;
    FH1_TRY(cu_rmsnorm_fwd(call->k, &a));
    return cu_call_tap(call, norm, layer, &n);
}

} // namespace

/* gate | up in one product where both parts then begin on 16 bytes. */
fh1_status cu_call_gate_up(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const void *n = cu_part_of(call, CU_N);
    void *gate = cu_part_of(call, CU_GATE_UP), *up = cu_at(call->w->type, gate, call->ld_up);
    const int M = call->t.M;
    const bool one = call->ld_up == c->F;
    FH1_TRY(cu_call_linear(call, M, n, c->D, l->gate_up, l->gate_up_b, 0, one ? 2 * c->F : c->F, 1, gate,
                           call->ld_gate_up));
    if (!one) FH1_TRY(cu_call_linear(call, M, n, c->D, l->gate_up, l->gate_up_b, c->F, c->F, 1, up, call->ld_gate_up));
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_GATE_PROJ, n, c->D, 1, gate, call->ld_gate_up));
    return cu_call_adapt(call, layer, FH1_TAP_UP_PROJ, n, c->D, 1, up, call->ld_gate_up);
}

fh1_status cu_call_act(cu_call *call)
{
    const fh1_config *c = call->c;
    void *gate = cu_part_of(call, CU_GATE_UP);
    cu_swiglu a = {};
    a.type = call->w->type;
    a.M = call->t.M;
    a.F = static_cast<int>(c->F);
    a.gate = gate;
    a.up = cu_at(a.type, gate, call->ld_up);
    a.ld = call->ld_gate_up;
    a.m_gate = static_cast<float>(c->m_gate);
    a.act = cu_part_of(call, CU_ACT);
    return cu_swiglu_fwd(call->k, &a);
}

fh1_status cu_call_mlp(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_type type = call->w->type;
    const int64_t M = call->t.M, ld = call->ld_gate_up;
    void *gate_at = cu_part_of(call, CU_GATE_UP);
    const cu_shown gate = {type, gate_at, M, ld, 0, c->F, NULL};
    const cu_shown up = {type, gate_at, M, ld, call->ld_up, c->F, NULL};
    const cu_shown act = {type, cu_part_of(call, CU_ACT), M, c->F, 0, c->F, NULL};
    const cu_shown down = stream_of(call, CU_DOWN);

    FH1_TRY(cu_call_gate_up(call, layer));
    FH1_TRY(cu_call_tap(call, FH1_TAP_GATE_PROJ, layer, &gate));
    FH1_TRY(cu_call_tap(call, FH1_TAP_UP_PROJ, layer, &up));
    FH1_TRY(cu_call_act(call));
    FH1_TRY(cu_call_tap(call, FH1_TAP_ACT, layer, &act));
    FH1_TRY(cu_call_linear(call, call->t.M, act.p, c->F, l->down, l->down_b, 0, c->D, 1, down.p, c->D));
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_DOWN_PROJ, act.p, c->F, 1, down.p, c->D));
    return cu_call_tap(call, FH1_TAP_DOWN_PROJ, layer, &down);
}

fh1_status cu_call_layers(cu_call *call)
{
    const fh1_config *c = call->c;
    const int64_t first = call->sink ? call->sink->first_layer : 0;
    const cu_shown x = stream_of(call, CU_X);
    FH1_TRY(embed(call));
    if (first > 0) FH1_TRY(cu_call_tap(call, FH1_TAP_LAYER, first - 1, &x));
    sum_of before = {};
    for (int64_t i = first; call->fused && i < c->n_layers; ++i) FH1_TRY(cu_call_decode_layer(call, i));
    for (int64_t i = first; !call->fused && i < c->n_layers; ++i) {
        const cu_layer *l = &call->w->layers[i];
        FH1_TRY(sum_and_norm(call, &before, l->input_layernorm, FH1_TAP_INPUT_LAYERNORM, i));
        FH1_TRY(cu_call_attention(call, i));
        FH1_TRY(cu_call_mixer(call, i));
        const sum_of mixers = {
            cu_part_of(call, CU_MIXER), cu_part_of(call, CU_ATTN), c->m_ssm_out, c->m_attn_out, FH1_TAP_MID, i};
        FH1_TRY(sum_and_norm(call, &mixers, l->pre_ff_layernorm, FH1_TAP_PRE_FF_LAYERNORM, i));
        FH1_TRY(cu_call_mlp(call, i));
        before = {cu_part_of(call, CU_DOWN), NULL, c->m_down, 0, FH1_TAP_LAYER, i};
    }
    if (call->head_norms) return NULL;
    return sum_and_norm(call, &before, call->w->final_layernorm, FH1_TAP_FINAL_LAYERNORM, 0);
}

fh1_status cu_call_logits(cu_call *call, int n, const int *kept)
{
    const fh1_config *c = call->c;
    const cu_type type = call->w->type;
    cu_buffer *logits = &call->work->part[CU_LOGITS], *rows = &call->work->part[CU_KEPT];
    const void *x = cu_part_of(call, CU_N);
    FH1_TRY(cu_buffer_need(logits, static_cast<size_t>(n) * static_cast<size_t>(c->V) * sizeof(float)));
    if (kept) {
        FH1_TRY(cu_buffer_need(rows, static_cast<size_t>(n * c->D) * cu_size(type)));
        FH1_TRY(type == CU_F32 ? gather_as<float>(call, n, kept, x, rows->p)
                               : gather_as<bf16>(call, n, kept, x, rows->p));
        x = rows->p;
    }
    cu_linear a = {};
    a.type = type;
    a.M = n;
    a.N = static_cast<int>(c->V);
    a.K = static_cast<int>(c->D);
    a.x = x;
    a.ldx = c->D;
    a.w = call->w->lm_head;
    a.alpha = static_cast<float>(c->m_lm);
    a.y = logits->p;
    a.ldy = c->V;
    a.y_type = CU_F32;
    FH1_TRY(cu_linear_fwd(call->k, &a));
    return cu_call_adapt_head(call, n, x, logits->p);
}

} // namespace CU_NS
