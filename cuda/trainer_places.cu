#include "cuda/trainer_impl.h"

#include <algorithm>

namespace CU_NS
{
namespace
{

void put(cu_places *o, const fh1_tensor *value, const void *at)
{
    if (value->data && at) o->all.push_back({value, static_cast<float *>(const_cast<void *>(at))});
}

/* Tensors behind one another in one block; a part without data has its place there too. */
void put_joined(cu_places *o, const void *block, std::initializer_list<const fh1_tensor *> parts,
                std::initializer_list<int64_t> sizes)
{
    const float *at = static_cast<const float *>(block);
    const int64_t *n = sizes.begin();
    for (const fh1_tensor *t : parts) {
        put(o, t, at);
        if (at) at += *n;
        ++n;
    }
}

void put_layer(cu_places *o, const fh1_config *c, const fh1_layer *l, const cu_layer *d, const float *A_log)
{
    const int64_t in = fh1_in_proj_dim(c), q = c->Hq * c->A, kv = c->Hkv * c->A, D = c->D;
    put_joined(o, d->in_qkv, {&l->in_w, &l->q_w, &l->k_w, &l->v_w}, {in * D, q * D, kv * D, kv * D});
    put_joined(o, d->in_qkv_b, {&l->in_b, &l->q_b, &l->k_b, &l->v_b}, {in, q, kv, kv});
    put_joined(o, d->gate_up, {&l->gate_w, &l->up_w}, {c->F * D, c->F * D});
    put_joined(o, d->gate_up_b, {&l->gate_b, &l->up_b}, {c->F, c->F});
    put(o, &l->input_layernorm, d->input_layernorm);
    put(o, &l->attn_layernorm, d->attn_layernorm);
    put(o, &l->pre_ff_layernorm, d->pre_ff_layernorm);
    put(o, &l->conv_w, d->conv_w);
    put(o, &l->conv_b, d->conv_b);
    put(o, &l->x_w, d->x_proj);
    put(o, &l->dt_w, d->dt_proj);
    put(o, &l->dt_bias, d->dt_bias);
    put(o, &l->A_log, A_log);
    put(o, &l->D, d->D);
    put(o, &l->norm, d->norm);
    put(o, &l->out_w, d->out);
    put(o, &l->out_b, d->out_b);
    put(o, &l->o_w, d->o);
    put(o, &l->o_b, d->o_b);
    put(o, &l->down_w, d->down);
    put(o, &l->down_b, d->down_b);
}

void put_adapter(cu_places *o, const fh1_lora *l, const cu_adapter *d)
{
    if (!l) return;
    put(o, &l->A, d->A);
    put(o, &l->B, d->B);
    put(o, &l->bias, d->bias);
}

bool before(const cu_place &a, const cu_place &b)
{
    return a.value < b.value;
}

} // namespace

void cu_places_make(const fh1_model *m, const cu_weights *w, const cu_adapters *a, float *A_log, cu_places *out)
{
    out->all.clear();
    put(out, &m->embed, w->embed);
    put(out, &m->lm_head, w->lm_head);
    put(out, &m->final_layernorm, w->final_layernorm);
    put_adapter(out, m->head_lora, &a->head);
    for (int64_t i = 0; i < m->config.n_layers; ++i) {
        put_layer(out, &m->config, &m->layers[i], &w->layers[i], A_log + i * cu_rates_of(&m->config));
        for (int id = 0; !a->of.empty() && id < FH1_TAP_LAYER; ++id)
            put_adapter(out, m->layers[i].lora[id], &a->of[static_cast<size_t>(i * FH1_TAP_LAYER + id)]);
    }
    std::sort(out->all.begin(), out->all.end(), before);
}

float *cu_place_of(const cu_places *p, const fh1_tensor *value)
{
    const auto at = std::lower_bound(p->all.begin(), p->all.end(), cu_place{value, nullptr}, before);
    return at != p->all.end() && at->value == value ? at->at : NULL;
}

} // namespace CU_NS
