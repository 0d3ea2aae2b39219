/* A pass over a batch: what every part of it shares, the forward pass with its checkpoints, the lookup, and how
 * gradients reach the caller. */
#include "cuda/train.h"

#include "cuda/embed.cuh"
#include "cuda/rmsnorm.cuh"

extern "C" {
#include "oracle/thread.h"
}

namespace CU_NS
{

void cu_train_free(cu_train *t)
{
    cu_work_free(&t->work);
    cu_token_buffers_free(&t->tokens);
    cu_buffer_free(&t->inv_freq);
    for (cu_buffer &b : t->part) cu_buffer_free(&b);
}

/* -- what the parts share ------------------------------------------------------------------------------ */

fh1_status cu_train_need(cu_train_run *r, cu_train_part p, int64_t n)
{
    return cu_buffer_need(&r->t->part[p], static_cast<size_t>(n) * sizeof(float));
}

fh1_status cu_train_scratch(cu_train_run *r, size_t bytes, float **out)
{
    *out = NULL;
    if (!bytes) return NULL;
    cu_buffer *b = &r->t->part[CU_TRAIN_SCRATCH];
    FH1_TRY(cu_buffer_need(b, bytes));
    *out = static_cast<float *>(b->p);
    return NULL;
}

float *cu_train_grad(const cu_train_run *r, const fh1_tensor *value)
{
    const fh1_grads *g = r->o->grads;
    const float *host = value ? static_cast<const float *>(fh1_grad_of(g, value)) : NULL;
    return host ? cu_train_at(r, CU_TRAIN_GRADS) + (host - static_cast<const float *>(g->memory)) : NULL;
}

fh1_status cu_train_linear_bwd(cu_train_run *r, const cu_train_product *p)
{
    const fh1_linear l = fh1_model_linear(const_cast<fh1_model *>(r->m), p->id, p->layer); /* for its addresses only */
    cu_linear_bwd_args a = {};
    a.M = p->rows;
    a.N = static_cast<int>(l.w->shape[0]);
    a.K = static_cast<int>(l.w->shape[1]);
    a.x = p->x;
    a.ldx = p->ldx;
    a.w_type = CU_F32;
    a.w = p->w;
    a.alpha = static_cast<float>(p->alpha);
    a.dy = p->dy;
    a.ldy = p->ldy;
    a.add = p->add;
    a.dx = p->dx;
    a.lddx = p->lddx;
    a.dw = cu_train_grad(r, l.w);
    a.db = p->id == FH1_TAP_DT ? NULL : cu_train_grad(r, l.b); /* that bias is added in front of softplus */
    FH1_TRY(cu_linear_bwd(r->call.k, &a));
    const fh1_lora *lora = *l.lora;
    if (!lora) return NULL;
    const size_t at = static_cast<size_t>(p->layer) * FH1_TAP_LAYER + static_cast<size_t>(p->id);
    const cu_adapter *d = p->id == FH1_TAP_LOGITS ? &r->adapters->head : &r->adapters->of[at];
    cu_lora_bwd_args b = {a.M,
                          a.N,
                          a.K,
                          d->r,
                          a.x,
                          a.ldx,
                          d->A,
                          d->B,
                          d->scale,
                          a.alpha,
                          a.dy,
                          a.ldy,
                          a.dx,
                          a.lddx,
                          cu_train_grad(r, &lora->A),
                          cu_train_grad(r, &lora->B),
                          cu_train_grad(r, &lora->bias),
                          NULL};
    FH1_TRY(cu_train_scratch(r, cu_lora_bwd_scratch(&b), &b.scratch));
    return cu_lora_bwd(r->call.k, &b);
}

fh1_status cu_train_norm_fwd(cu_train_run *r, void *x, const float *w)
{
    cu_rmsnorm a = {};
    a.type = CU_F32;
    a.M = r->call.t.M;
    a.D = static_cast<int>(r->c->D);
    a.x = x;
    a.w = w;
    a.eps = static_cast<float>(r->c->eps);
    a.n = cu_part_of(&r->call, CU_N);
    return cu_rmsnorm_fwd(r->call.k, &a);
}

fh1_status cu_train_norm_bwd(cu_train_run *r, const float *x, const float *w, const fh1_tensor *value, const float *dy,
                             bool add, float *dx)
{
    cu_rmsnorm_bwd_args a = {};
    a.M = r->call.t.M;
    a.D = static_cast<int>(r->c->D);
    a.x = x;
    a.w = w;
    a.eps = static_cast<float>(r->c->eps);
    a.dy = dy;
    a.add = add;
    a.dx = dx;
    a.dw = cu_train_grad(r, value);
    FH1_TRY(cu_train_scratch(r, cu_rmsnorm_bwd_scratch(&a), &a.scratch));
    return cu_rmsnorm_bwd(r->call.k, &a);
}

namespace
{

/* -- the lookup ---------------------------------------------------------------------------------------- */

fh1_status lookup(cu_train_run *r, const void *table, int64_t width, double m, void *x)
{
    cu_embed a = {};
    a.type = CU_F32;
    a.M = r->call.t.M;
    a.D = static_cast<int>(width);
    a.id = r->call.t.id;
    a.table = table;
    a.m_emb = static_cast<float>(m);
    a.x = x;
    return cu_embed_fwd(r->call.k, &a);
}

/* t = A[:, id], the input of an adapter's second product. */
fh1_status low_rank(cu_train_run *r, float **t)
{
    const int rank = r->adapters->embed.r;
    FH1_TRY(cu_train_scratch(r, 2 * static_cast<size_t>(r->call.t.M) * static_cast<size_t>(rank) * sizeof(float), t));
    return lookup(r, r->adapters->embed.A, rank, 1, *t);
}

/* Its row learns nothing; -1: Falcon-Mamba's lookup has no such row. */
int padding_row(const fh1_config *c)
{
    return static_cast<int>(fh1_padding_idx(c));
}

fh1_status embed_fwd(cu_train_run *r)
{
    const fh1_config *c = r->c;
    float *x = cu_train_f32(r, CU_X);
    FH1_TRY(lookup(r, r->w->embed, c->D, c->m_emb, x));
    return cu_call_adapt_embed(&r->call, c->m_emb, x);
}

/* dB += dyᵀ·t and, a row of Aᵀ per token, dAᵀ += dy·B, dy = m_emb·scale·dx */
fh1_status embed_lora_bwd(cu_train_run *r, const float *dx)
{
    const cu_adapter *l = &r->adapters->embed;
    const fh1_lora *lora = r->m->embed_lora;
    const int M = r->call.t.M;
    const int64_t D = r->c->D, rank = l->r;
    const float m = static_cast<float>(r->c->m_emb) * l->scale;
    float *t, *dB = cu_train_grad(r, &lora->B);
    FH1_TRY(low_rank(r, &t));
    const cu_product into_B = {D, rank, M, dx, 1, D, CU_F32, t, rank, 1, m, true, dB, rank};
    if (dB) FH1_TRY(cu_product_run(r->call.k, &into_B));
    if (!cu_train_grad(r, &lora->A)) return NULL;
    float *dt = t + M * rank;
    const cu_product back = {M, rank, D, dx, D, 1, CU_F32, l->B, rank, 1, m, false, dt, rank};
    FH1_TRY(cu_product_run(r->call.k, &back));
    cu_buffer *dA = &r->t->part[CU_TRAIN_EMBED_A];
    FH1_TRY(cu_train_need(r, CU_TRAIN_EMBED_A, r->c->V * rank));
    CU_TRY(cudaMemsetAsync(dA->p, 0, dA->bytes, r->call.k->stream), "clearing gradients");
    const cu_embed_bwd_args a = {M,  static_cast<int>(rank),     r->call.t.id, padding_row(r->c), 1,
                                 dt, static_cast<float *>(dA->p)};
    return cu_embed_bwd(r->call.k, &a);
}

fh1_status embed_bwd(cu_train_run *r)
{
    const float *dx = cu_train_at(r, CU_TRAIN_DX);
    const cu_embed_bwd_args a = {
        r->call.t.M, static_cast<int>(r->c->D),     r->call.t.id, padding_row(r->c), static_cast<float>(r->c->m_emb),
        dx,          cu_train_grad(r, &r->m->embed)};
    FH1_TRY(cu_embed_bwd(r->call.k, &a));
    return r->adapters->embed.r ? embed_lora_bwd(r, dx) : NULL;
}

/* -- the pass ------------------------------------------------------------------------------------------ */

fh1_status keep(cu_train_run *r, int64_t layer)
{
    const int64_t n = r->call.t.M * r->c->D;
    return cu_status(cudaMemcpyAsync(cu_train_at(r, CU_TRAIN_CHECKPOINT) + layer * n, cu_part_of(&r->call, CU_X),
                                     static_cast<size_t>(n) * sizeof(float), cudaMemcpyDeviceToDevice,
                                     r->call.k->stream),
                     "keeping the input of a layer");
}

fh1_status back_to(cu_train_run *r, int64_t layer)
{
    const int64_t n = r->call.t.M * r->c->D;
    return cu_status(cudaMemcpyAsync(cu_part_of(&r->call, CU_X), cu_train_at(r, CU_TRAIN_CHECKPOINT) + layer * n,
                                     static_cast<size_t>(n) * sizeof(float), cudaMemcpyDeviceToDevice,
                                     r->call.k->stream),
                     "the input of a layer");
}

fh1_status allocate(cu_train_run *r)
{
    const fh1_config *c = r->c;
    const int64_t M = r->call.t.M, D = c->D;
    const struct {
        cu_train_part part;
        int64_t n;
    } parts[] = {{CU_TRAIN_CHECKPOINT, (c->n_layers + 1) * M * D},
                 {CU_TRAIN_GRADS, static_cast<int64_t>(r->o->grads->bytes / sizeof(float))},
                 {CU_TRAIN_DX, M * D},
                 {CU_TRAIN_BRANCH, M * D},
                 {CU_TRAIN_BRANCH_2, M * D},
                 {CU_TRAIN_DN, M * D},
                 {CU_TRAIN_DACT, M * c->F},
                 {CU_TRAIN_DCONTEXT, M * c->Hq * c->A},
                 {CU_TRAIN_DQKV, M * (c->Hq + 2 * c->Hkv) * c->A},
                 {CU_TRAIN_DGATED, M * c->d_ssm},
                 {CU_TRAIN_DSSD, M * c->d_ssm},
                 {CU_TRAIN_DCONV, M * fh1_conv_dim(c)},
                 {CU_TRAIN_DX_PROJ, M * fh1_x_proj_dim(c)},
                 {CU_TRAIN_DBC, c->R ? 2 * M * c->N : 0},
                 {CU_TRAIN_DLOW, M * c->R},
                 {CU_TRAIN_DRAW, c->R ? M * c->H : 0},
                 {CU_TRAIN_DDT, M * c->H},
                 {CU_TRAIN_DPROJ, M * fh1_in_proj_dim(c)}};
    for (const auto &p : parts) FH1_TRY(cu_train_need(r, p.part, p.n));
    const cu_buffer *g = &r->t->part[CU_TRAIN_GRADS];
    return cu_status(cudaMemsetAsync(g->p, 0, g->bytes, r->call.k->stream), "clearing gradients");
}

fh1_status pass(cu_train_run *r)
{
    const int64_t n_layers = r->c->n_layers;
    FH1_TRY(allocate(r));
    FH1_TRY(embed_fwd(r));
    for (int64_t i = 0; i < n_layers; ++i) {
        FH1_TRY(keep(r, i));
        FH1_TRY(cu_train_layer_fwd(r, i));
    }
    FH1_TRY(keep(r, n_layers));
    FH1_TRY(cu_train_norm_fwd(r, cu_part_of(&r->call, CU_X), r->w->final_layernorm));
    FH1_TRY(cu_train_head_bwd(r));
    for (int64_t i = n_layers; i-- > 0;) {
        FH1_TRY(back_to(r, i));
        FH1_TRY(cu_train_layer_bwd(r, i));
    }
    return embed_bwd(r);
}

/* -- gradients to the caller --------------------------------------------------------------------------- */

struct sum {
    float *to;
    const float *from;
};

void add_piece(void *ctx, int64_t begin, int64_t end, int)
{
    const sum *s = static_cast<const sum *>(ctx);
    for (int64_t i = begin; i < end; ++i) s->to[i] += s->from[i];
}

fh1_status add_embed_A(cu_train_run *r)
{
    const fh1_lora *lora = r->m->embed_lora;
    float *to = lora ? static_cast<float *>(fh1_grad_of(r->o->grads, &lora->A)) : NULL;
    if (!to) return NULL;
    const int64_t rank = lora->A.shape[0], V = lora->A.shape[1];
    std::vector<float> v(static_cast<size_t>(rank * V));
    FH1_TRY(cu_fetch(v.data(), cu_train_at(r, CU_TRAIN_EMBED_A), v.size() * sizeof(float), r->call.k->stream,
                     "reading gradients"));
    for (int64_t i = 0; i < rank * V; ++i) to[i % rank * V + i / rank] += v[static_cast<size_t>(i)];
    return NULL;
}

fh1_status deliver(cu_train_run *r)
{
    const fh1_grads *g = r->o->grads;
    std::vector<float> v(g->bytes / sizeof(float));
    FH1_TRY(cu_fetch(v.data(), cu_train_at(r, CU_TRAIN_GRADS), g->bytes, r->call.k->stream, "reading gradients"));
    sum s = {static_cast<float *>(g->memory), v.data()};
    fh1_parallel_for(static_cast<int64_t>(v.size()), 1 << 18, add_piece, &s);
    return add_embed_A(r);
}

size_t bytes_of(const cu_train_run *r)
{
    size_t n = r->adapters->bytes;
    for (const cu_buffer &b : r->t->work.part) n += b.bytes;
    for (const cu_buffer &b : r->t->part) n += b.bytes;
    return n;
}

/* All tokens on a cache of one layer, which every layer uses in turn: a training step has no past. */
fh1_status with_cache(cu_train_run *r, const fh1_config *one)
{
    fh1_cache *cache;
    cu_call *call = &r->call;
    FH1_TRY(fh1_cache_new(one, FH1_F32, r->batch->B, &cache));
    fh1_status s = cu_tokens_upload(&r->tokens, cache, call->k->stream, &r->t->tokens, &call->t);
    if (!s) s = cu_cache_prepare(cache, CU_F32, &r->tokens, call->k->stream, &call->cache);
    if (!s) s = cu_call_set_rope(call, cache, &r->t->inv_freq);
    if (!s) s = cu_call_open(call);
    if (!s) s = pass(r);
    if (!s && r->deliver) s = deliver(r);
    r->o->peak = bytes_of(r);
    const cudaError_t e = cudaStreamSynchronize(call->k->stream); /* nothing of a failed call runs on */
    if (!s) s = cu_status(e, "a backward pass");
    fh1_cache_free(cache);
    return s;
}

fh1_status check(const fh1_batch *b, const fh1_backward *o)
{
    if (!b->labels && !o->dlogits)
        return fh1_hint(FH1_BAD("a backward pass without labels"), "give the labels of the batch (-100: none)");
    if (o->sink || o->flow)
        return fh1_hint(FH1_BAD("this engine shows no taps of a backward pass"), "ref-f32 and ref-f64 show them");
    if (o->grads->dtype != FH1_F32)
        return fh1_fail(FH1_E_INTERNAL, "gradients in %s, this engine computes F32", fh1_dtype_name(o->grads->dtype));
    return NULL;
}

} // namespace

fh1_status cu_train_backward(cu_train *t, cu_ctx *k, const cu_weights *w, const cu_adapters *adapters,
                             const fh1_model *m, const fh1_batch *b, fh1_backward *o, bool deliver)
{
    o->loss = NAN;
    o->n_labels = 0;
    o->peak = 0;
    FH1_TRY(check(b, o));
    fh1_config one = m->config;
    one.n_layers = 1;
    cu_train_run r = {};
    r.t = t;
    r.m = m;
    r.c = &m->config;
    r.batch = b;
    r.o = o;
    r.w = w;
    r.adapters = adapters;
    r.deliver = deliver;
    r.view = *w;
    r.call.k = k;
    r.call.w = &r.view;
    r.call.c = &m->config;
    r.call.work = &t->work;
    r.call.tokens = &r.tokens;
    r.call.keep_scan = true;
    cu_adapters_attach(adapters, &r.call);
    FH1_TRY(fh1_tokens_pack(b, m->config.V, NULL, &r.tokens));
    const fh1_status s = with_cache(&r, &one);
    fh1_tokens_free(&r.tokens);
    return s;
}

} // namespace CU_NS
