#include "cuda/adapters.h"

#include "cuda/backward.cuh"
#include "cuda/call.h"
#include "cuda/embed.cuh"

namespace CU_NS
{
namespace
{

/* An f32 copy; of a matrix [rows, columns] its transpose where that is asked for. */
fh1_status send(cu_adapters *o, const fh1_tensor *t, bool transposed, cudaStream_t stream, const float **out)
{
    *out = nullptr;
    if (!t->data) return NULL;
    const int64_t n = fh1_n_elems(t), columns = t->rank == 2 ? t->shape[1] : 1, rows = t->rank == 2 ? t->shape[0] : n;
    std::vector<float> v(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        const int64_t to = transposed ? i % columns * rows + i / columns : i;
        v[static_cast<size_t>(to)] = static_cast<float>(fh1_get(t, i));
    }
    void *p = nullptr;
    const size_t bytes = v.size() * sizeof(float);
    CU_TRY(cudaMalloc(&p, bytes ? bytes : 1), "the memory for an adapter");
    o->memory.push_back(p);
    o->bytes += bytes;
    *out = static_cast<const float *>(p);
    return cu_send(p, v.data(), bytes, stream, "sending an adapter");
}

fh1_status load(cu_adapters *o, const fh1_lora *l, bool lookup, cudaStream_t stream, cu_adapter *to)
{
    *to = {};
    if (!l) return NULL;
    if (l->f || l->next)
        return fh1_hint(FH1_BAD("this engine does not apply DoRA, nor two adapters on one module"), "merge it first");
    FH1_TRY(send(o, &l->A, lookup, stream, &to->A));
    FH1_TRY(send(o, &l->B, false, stream, &to->B));
    FH1_TRY(send(o, &l->bias, false, stream, &to->bias));
    to->r = static_cast<int>(l->A.shape[0]);
    to->scale = static_cast<float>(l->scale);
    if (to->r > o->most_r) o->most_r = to->r;
    return NULL;
}

} // namespace

fh1_status cu_adapters_load(const fh1_model *m, cudaStream_t stream, cu_adapters *out)
{
    bool any = false;
    for (int64_t i = 0; i < m->config.n_layers; ++i)
        for (const fh1_lora *l : m->layers[i].lora) any = any || l;
    FH1_TRY(load(out, m->embed_lora, true, stream, &out->embed));
    FH1_TRY(load(out, m->head_lora, false, stream, &out->head));
    if (!any) return NULL;
    out->of.resize(static_cast<size_t>(m->config.n_layers) * FH1_TAP_LAYER);
    for (int64_t i = 0; i < m->config.n_layers; ++i)
        for (int id = 0; id < FH1_TAP_LAYER; ++id)
            FH1_TRY(load(out, m->layers[i].lora[id], false, stream,
                         &out->of[static_cast<size_t>(i) * FH1_TAP_LAYER + static_cast<size_t>(id)]));
    return NULL;
}

void cu_adapters_free(cu_adapters *a)
{
    for (void *p : a->memory) cudaFree(p);
    *a = cu_adapters{};
}

void cu_adapters_attach(const cu_adapters *a, cu_call *call)
{
    call->adapters = a->of.empty() ? NULL : a->of.data();
    call->embed_adapter = a->embed.r ? &a->embed : NULL;
    call->head_adapter = a->head.r ? &a->head : NULL;
}

namespace
{

fh1_status low_rank(cu_call *call, int64_t rows, const cu_adapter *l, float **t)
{
    cu_buffer *b = &call->work->part[CU_LOW_RANK];
    FH1_TRY(cu_buffer_need(b, static_cast<size_t>(rows) * static_cast<size_t>(l->r) * sizeof(float)));
    *t = static_cast<float *>(b->p);
    return NULL;
}

} // namespace

fh1_status cu_call_adapt_embed(cu_call *call, double m, void *x)
{
    const cu_adapter *l = call->embed_adapter;
    if (!l || !l->r) return NULL;
    const int64_t D = call->c->D, r = l->r;
    float *t;
    FH1_TRY(low_rank(call, call->t.M, l, &t));
    cu_embed a = {};
    a.type = CU_F32;
    a.M = call->t.M;
    a.D = l->r;
    a.id = call->t.id;
    a.table = l->A;
    a.m_emb = 1;
    a.x = t;
    FH1_TRY(cu_embed_fwd(call->k, &a));
    const cu_product p = {
        a.M, D, r, t, r, 1, CU_F32, l->B, 1, r, static_cast<float>(m) * l->scale, true, static_cast<float *>(x), D};
    return cu_product_run(call->k, &p);
}

fh1_status cu_call_adapt_head(cu_call *call, int n, const void *h, void *logits)
{
    if (!call->head_adapter || !call->head_adapter->r) return NULL;
    cu_lora a = {};
    a.M = n;
    a.N = static_cast<int>(call->c->V);
    a.K = static_cast<int>(call->c->D);
    a.x = static_cast<const float *>(h);
    a.ldx = call->c->D;
    a.adapter = *call->head_adapter;
    a.adapter.scale *= static_cast<float>(call->c->m_lm); /* its bias too stands before the multiplier */
    a.alpha = 1;
    FH1_TRY(low_rank(call, n, &a.adapter, &a.t));
    a.y = static_cast<float *>(logits);
    a.ldy = call->c->V;
    return cu_lora_fwd(call->k, &a);
}

fh1_status cu_call_adapt(cu_call *call, int64_t layer, fh1_tap_id id, const void *x, int64_t K, double alpha, void *y,
                         int64_t ldy)
{
    const cu_adapter *l = call->adapters ? &call->adapters[layer * FH1_TAP_LAYER + id] : NULL;
    if (!l || !l->r) return NULL;
    const fh1_tensor shape = fh1_tap_packed_shape(call->c, id, 1);
    cu_lora a = {};
    FH1_TRY(low_rank(call, call->t.M, l, &a.t));
    a.M = call->t.M;
    a.N = static_cast<int>(fh1_n_elems(&shape));
    a.K = static_cast<int>(K);
    a.x = static_cast<const float *>(x);
    a.ldx = K;
    a.adapter = *l;
    a.alpha = static_cast<float>(alpha);
    a.y = static_cast<float *>(y);
    a.ldy = ldy;
    return cu_lora_fwd(call->k, &a);
}

} // namespace CU_NS
