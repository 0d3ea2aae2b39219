/* The attention branch of a layer: q, k and v in one product, rotation and append, attention, o_proj. */
#include "cuda/attention.cuh"
#include "cuda/call.h"
#include "cuda/rope.cuh"
#include "cuda/warp_ops.h"

#include <vector>

namespace CU_NS
{
namespace
{

/* Keys and values into their slots as they are: where a sink saw the rotated keys first and may have changed them. */
template <typename T> struct append_args {
    cu_tokens t;
    cu_kv kv;
    const T *k, *v;
    int64_t ld;
};
template <typename T> __global__ void append_k(append_args<T> a)
{
    const int m = blockIdx.x, b = a.t.row[m], slot = a.t.past[b] + m - a.t.row_begin[b];
    for (int i = threadIdx.x; i < a.kv.Hkv * a.kv.A; i += blockDim.x) {
        const int h = i / a.kv.A, e = i % a.kv.A;
        const int64_t to = cu_kv_at(a.kv, b, h, slot) + e, from = m * a.ld + i;
        static_cast<T *>(a.kv.key)[to] = a.k[from];
        static_cast<T *>(a.kv.value)[to] = a.v[from];
    }
}

template <typename T> fh1_status append_as(cu_call *call, const cu_rope *r)
{
    const append_args<T> a = {r->t, r->kv, static_cast<const T *>(r->k), static_cast<const T *>(r->v), r->ldk};
    if (!r->t.M) return NULL;
    LAUNCH((append_k<T>), r->t.M, 128, 0, call->k->stream, a);
    return cu_launched("append");
}

cu_rope rope_args(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    cu_rope a = {};
    a.type = call->w->type;
    a.t = call->t;
    a.Hq = static_cast<int>(c->Hq);
    a.Hkv = static_cast<int>(c->Hkv);
    a.A = static_cast<int>(c->A);
    a.inv_freq = call->inv_freq;
    a.scale = call->rope_scale;
    a.m_key = static_cast<float>(c->m_key);
    a.q = call->qkv;
    a.k = cu_at(a.type, a.q, c->Hq * c->A);
    a.v = cu_at(a.type, a.q, (c->Hq + c->Hkv) * c->A);
    a.ldq = a.ldk = a.ldv = call->ld_qkv;
    a.kv = cu_cache_kv(call->cache, layer);
    return a;
}

fh1_status rotate(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    cu_rope a = rope_args(call, layer);
    if (!call->sink) return cu_rope_fwd(call->k, &a);
    const int64_t M = call->t.M, ld = call->ld_qkv;
    const cu_shown q = {a.type, a.q, M, ld, 0, c->Hq * c->A, NULL};
    const cu_shown k = {a.type, a.q, M, ld, c->Hq * c->A, c->Hkv * c->A, NULL};
    cu_rope only = a;
    only.kv.key = NULL;
    FH1_TRY(cu_rope_fwd(call->k, &only));
    FH1_TRY(cu_call_tap(call, FH1_TAP_Q_ROPE, layer, &q));
    FH1_TRY(cu_call_tap(call, FH1_TAP_K_ROPE, layer, &k));
    return a.type == CU_F32 ? append_as<float>(call, &a) : append_as<bf16>(call, &a);
}

fh1_status attend(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    cu_attention a = {};
    a.type = call->w->type;
    a.t = call->t;
    a.Hq = static_cast<int>(c->Hq);
    a.Hkv = static_cast<int>(c->Hkv);
    a.A = static_cast<int>(c->A);
    a.q = call->qkv;
    a.ldq = call->ld_qkv;
    a.kv = cu_cache_kv(call->cache, layer);
    a.out = cu_part_of(call, CU_CONTEXT);
    a.scratch = cu_part_of(call, CU_STEP);
    return call->one_token ? cu_attention_step_fwd(call->k, &a) : cu_attention_fwd(call->k, &a);
}

} // namespace

fh1_status cu_call_set_rope(cu_call *call, const fh1_cache *cache, cu_buffer *own)
{
    call->inv_freq = call->w->inv_freq;
    call->rope_scale = static_cast<float>(call->w->rope_scale);
    if (call->inv_freq) return NULL;
    const int64_t longest = call->tokens->max_position + 1, seen = cache->rope_seq_len;
    std::vector<double> f(static_cast<size_t>(call->c->A / 2));
    double scale;
    fh1_rope_frequencies(call->c, longest > seen ? longest : seen, f.data(), &scale);
    FH1_TRY(cu_buffer_need(own, f.size() * sizeof(double)));
    call->inv_freq = static_cast<const double *>(own->p);
    call->rope_scale = static_cast<float>(scale);
    return cu_send(own->p, f.data(), f.size() * sizeof(double), call->k->stream, "sending rotary frequencies");
}

fh1_status cu_call_qkv(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const void *n = cu_part_of(call, CU_N);
    const int64_t ld = call->ld_qkv, q = c->Hq * c->A, kv = c->Hkv * c->A;
    const double m = c->m_attn_in;
    FH1_TRY(cu_call_linear(call, call->t.M, n, c->D, l->in_qkv, l->in_qkv_b, fh1_in_proj_dim(c), q + 2 * kv, m,
                           call->qkv, ld));
    if (!call->adapters) return NULL;
    const cu_type type = call->w->type;
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_Q_PROJ, n, c->D, m, call->qkv, ld));
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_K_PROJ, n, c->D, m, cu_at(type, call->qkv, q), ld));
    return cu_call_adapt(call, layer, FH1_TAP_V_PROJ, n, c->D, m, cu_at(type, call->qkv, q + kv), ld);
}

fh1_status cu_call_attention_inner(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_type type = call->w->type;
    const int64_t M = call->t.M, q_width = c->Hq * c->A, k_width = c->Hkv * c->A, ld = call->ld_qkv;
    const cu_shown q = {type, call->qkv, M, ld, 0, q_width, NULL};
    const cu_shown k = {type, call->qkv, M, ld, q_width, k_width, NULL};
    const cu_shown v = {type, call->qkv, M, ld, q_width + k_width, k_width, NULL};
    const cu_shown context = {type, cu_part_of(call, CU_CONTEXT), M, q_width, 0, q_width, NULL};
    FH1_TRY(cu_call_tap(call, FH1_TAP_Q_PROJ, layer, &q));
    FH1_TRY(cu_call_tap(call, FH1_TAP_K_PROJ, layer, &k));
    FH1_TRY(cu_call_tap(call, FH1_TAP_V_PROJ, layer, &v));
    FH1_TRY(rotate(call, layer));
    FH1_TRY(attend(call, layer));
    return cu_call_tap(call, FH1_TAP_CONTEXT, layer, &context);
}

fh1_status cu_call_attention(cu_call *call, int64_t layer)
{
    const fh1_config *c = call->c;
    const cu_layer *l = &call->w->layers[layer];
    const cu_shown out = {call->w->type, cu_part_of(call, CU_ATTN), call->t.M, c->D, 0, c->D, NULL};
    FH1_TRY(cu_call_qkv(call, layer));
    FH1_TRY(cu_call_attention_inner(call, layer));
    const void *context = cu_part_of(call, CU_CONTEXT);
    FH1_TRY(cu_call_linear(call, call->t.M, context, c->Hq * c->A, l->o, l->o_b, 0, c->D, 1, out.p, c->D));
    FH1_TRY(cu_call_adapt(call, layer, FH1_TAP_O_PROJ, context, c->Hq * c->A, 1, out.p, c->D));
    return cu_call_tap(call, FH1_TAP_O_PROJ, layer, &out);
}

} // namespace CU_NS
