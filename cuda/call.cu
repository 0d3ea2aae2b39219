#include "cuda/call.h"

#include "cuda/embed.cuh"
#include "cuda/linear.cuh"
#include "cuda/residual.cuh"
#include "cuda/rmsnorm.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/warp_ops.h"

namespace CU_NS
{
namespace
{

/* -- small kernels of the call itself ---------------------------------------------------------------- */

/* y = R(x·m): what enters the first layer, from a lookup that a sink has seen, in the type of the stream. */
template <typename T, typename Y> __global__ void scale_k(int64_t n, const T *x, float m, Y *y)
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

template <typename T, typename Y> fh1_status scale_as(cu_call *call, const void *x, void *y)
{
    const int64_t n = call->t.M * call->c->D;
    if (!n) return NULL;
    LAUNCH((scale_k<T, Y>), static_cast<unsigned>((n + 255) / 256), 256, 0, call->k->stream, n,
           static_cast<const T *>(x), static_cast<float>(call->c->m_emb), static_cast<Y *>(y));
    return cu_launched("scale");
}

template <typename T> fh1_status gather_as(cu_call *call, int n, const int *kept, const void *x, void *y)
{
    if (!n) return NULL;
    LAUNCH((gather_k<T>), n, 128, 0, call->k->stream, static_cast<int>(call->c->D), kept, static_cast<const T *>(x),
           static_cast<T *>(y));
    return cu_launched("gather");
}

} // namespace

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
    return {p == CU_X && call->wide ? CU_F32 : call->w->type, cu_part_of(call, p), call->t.M, D, 0, D, NULL};
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
    a.wide = call->wide;
    a.x = x.p;
    FH1_TRY(cu_embed_fwd(call->k, &a));
    if (!call->sink) return cu_call_adapt_embed(call, call->c->m_emb, x.p);
    FH1_TRY(cu_call_adapt_embed(call, 1, y.p));
    FH1_TRY(cu_call_tap(call, FH1_TAP_EMBED, 0, &y));
    if (a.type == CU_F32) FH1_TRY((scale_as<float, float>(call, y.p, x.p)));
    else FH1_TRY((call->wide ? scale_as<bf16, float>(call, y.p, x.p) : scale_as<bf16, bf16>(call, y.p, x.p)));
    return fh1_tap_exists(call->c, FH1_TAP_INPUT) ? cu_call_tap(call, FH1_TAP_INPUT, 0, &x) : NULL;
}

} // namespace

fh1_status cu_call_sum(cu_call *call, const cu_branches *s)
{
    cu_residual r = {};
    r.type = call->w->type;
    r.n = call->t.M * call->c->D;
    r.a = s->a;
    r.b = s->b;
    r.c = s->c;
    r.m_a = static_cast<float>(s->m_a);
    r.m_b = static_cast<float>(s->m_b);
    r.m_c = static_cast<float>(s->m_c);
    r.wide = call->wide;
    r.x = cu_part_of(call, CU_X);
    return cu_residual_fwd(call->k, &r);
}

namespace
{

/* What goes into the stream next (no `a`: nothing), and the tap that shows the sum. */
struct sum_of {
    cu_branches s;
    fh1_tap_id id;
    int64_t layer;
};

/* The sum; then n = norm(x), shown as `norm`. One kernel where nobody looks in between and there are at most two
 * branches. */
fh1_status sum_and_norm(cu_call *call, const sum_of *s, const float *w, fh1_tap_id norm, int64_t layer)
{
    const cu_shown x = stream_of(call, CU_X), n = stream_of(call, CU_N);
    const bool split = s->s.a && (call->sink || s->s.c);
    if (split) {
        FH1_TRY(cu_call_sum(call, &s->s));
        FH1_TRY(cu_call_tap(call, s->id, s->layer, &x));
    }
    cu_rmsnorm a = {};
    a.type = n.type;
    a.M = call->t.M;
    a.D = static_cast<int>(x.width);
    a.wide = call->wide;
    a.x = x.p;
    if (!split) {
        a.a = s->s.a;
        a.b = s->s.b;
        a.m_a = static_cast<float>(s->s.m_a);
        a.m_b = static_cast<float>(s->s.m_b);
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

/* ---- layers, by block: `before` is what the one before left for the stream, and becomes what this one leaves ---- */

namespace
{

fh1_status mamba_layer(cu_call *call, int64_t i, sum_of *before)
{
    FH1_TRY(sum_and_norm(call, before, call->w->layers[i].input_layernorm, FH1_TAP_INPUT_LAYERNORM, i));
    FH1_TRY(cu_call_mixer(call, i));
    *before = {{cu_part_of(call, CU_MIXER), NULL, NULL, 1, 0, 0}, FH1_TAP_LAYER, i};
    return NULL;
}

fh1_status sa_m_layer(cu_call *call, int64_t i, sum_of *before)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[i];
    FH1_TRY(sum_and_norm(call, before, l->input_layernorm, FH1_TAP_INPUT_LAYERNORM, i));
    FH1_TRY(cu_call_attention(call, i));
    FH1_TRY(cu_call_mixer(call, i));
    const void *mixer = cu_part_of(call, CU_MIXER), *attn = cu_part_of(call, CU_ATTN);
    const sum_of mixers = {{mixer, attn, NULL, c->m_ssm_out, c->m_attn_out, 0}, FH1_TAP_MID, i};
    FH1_TRY(sum_and_norm(call, &mixers, l->pre_ff_layernorm, FH1_TAP_PRE_FF_LAYERNORM, i));
    FH1_TRY(cu_call_mlp(call, i));
    *before = {{cu_part_of(call, CU_DOWN), NULL, NULL, c->m_down, 0, 0}, FH1_TAP_LAYER, i};
    return NULL;
}

fh1_status sam_layer(cu_call *call, int64_t i, sum_of *before)
{
    const fh1_config *c = call->c;
    FH1_TRY(sum_and_norm(call, before, call->w->layers[i].input_layernorm, FH1_TAP_INPUT_LAYERNORM, i));
    FH1_TRY(cu_call_attention(call, i));
    FH1_TRY(cu_call_mixer(call, i));
    FH1_TRY(cu_call_mlp(call, i));
    const void *mixer = cu_part_of(call, CU_MIXER), *attn = cu_part_of(call, CU_ATTN);
    *before = {{mixer, attn, cu_part_of(call, CU_DOWN), c->m_ssm_out, c->m_attn_out, c->m_down}, FH1_TAP_LAYER, i};
    return NULL;
}

fh1_status s_a_m_layer(cu_call *call, int64_t i, sum_of *before)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[i];
    FH1_TRY(sum_and_norm(call, before, l->input_layernorm, FH1_TAP_INPUT_LAYERNORM, i));
    FH1_TRY(cu_call_mixer(call, i));
    const sum_of mixer = {{cu_part_of(call, CU_MIXER), NULL, NULL, c->m_ssm_out, 0, 0}, FH1_TAP_MID_SSM, i};
    FH1_TRY(sum_and_norm(call, &mixer, l->attn_layernorm, FH1_TAP_ATTN_LAYERNORM, i));
    FH1_TRY(cu_call_attention(call, i));
    const sum_of attn = {{cu_part_of(call, CU_ATTN), NULL, NULL, c->m_attn_out, 0, 0}, FH1_TAP_MID, i};
    FH1_TRY(sum_and_norm(call, &attn, l->pre_ff_layernorm, FH1_TAP_PRE_FF_LAYERNORM, i));
    FH1_TRY(cu_call_mlp(call, i));
    *before = {{cu_part_of(call, CU_DOWN), NULL, NULL, c->m_down, 0, 0}, FH1_TAP_LAYER, i};
    return NULL;
}

fh1_status layer_of(cu_call *call, int64_t i, sum_of *before)
{
    if (call->c->family == FH1_FALCON_MAMBA) return mamba_layer(call, i, before);
    switch (call->c->block) {
    case FH1_BLOCK_SAM: return sam_layer(call, i, before);
    case FH1_BLOCK_S_A_M: return s_a_m_layer(call, i, before);
    default: return sa_m_layer(call, i, before);
    }
}

} // namespace

fh1_status cu_call_layer(cu_call *call, int64_t layer)
{
    sum_of left = {};
    FH1_TRY(layer_of(call, layer, &left));
    return cu_call_sum(call, &left.s);
}

fh1_status cu_call_layers(cu_call *call)
{
    const fh1_config *c = call->c;
    const int64_t first = call->sink ? call->sink->first_layer : 0;
    const cu_shown x = stream_of(call, CU_X);
    FH1_TRY(embed(call));
    if (first > 0) FH1_TRY(cu_call_tap(call, FH1_TAP_LAYER, first - 1, &x));
    sum_of before = {};
    for (int64_t i = first; i < c->n_layers; ++i)
        FH1_TRY(call->fused ? cu_call_decode_layer(call, i) : layer_of(call, i, &before));
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
