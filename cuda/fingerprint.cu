#include "cuda/fingerprint.h"

namespace CU_NS
{
namespace
{

const size_t SAMPLES = 64, SAMPLE_BYTES = 16;

uint64_t mix(uint64_t h, const void *p, size_t n) /* FNV-1a */
{
    const unsigned char *b = static_cast<const unsigned char *>(p);
    for (size_t i = 0; i < n; ++i) h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    return h;
}

uint64_t mix_tensor(uint64_t h, const fh1_tensor *t)
{
    h = mix(h, &t->data, sizeof t->data);
    h = mix(h, &t->dtype, sizeof t->dtype);
    for (int i = 0; i < t->rank; ++i) h = mix(h, &t->shape[i], sizeof t->shape[i]);
    if (!t->data || !fh1_is_dense(t)) return h;
    const size_t n = static_cast<size_t>(fh1_n_elems(t)) * static_cast<size_t>(fh1_dtype_bits(t->dtype)) / 8;
    const size_t step = n / SAMPLES > SAMPLE_BYTES ? n / SAMPLES : SAMPLE_BYTES;
    for (size_t at = 0; at < n; at += step)
        h = mix(h, static_cast<const char *>(t->data) + at, n - at < SAMPLE_BYTES ? n - at : SAMPLE_BYTES);
    return h;
}

uint64_t mix_adapter(uint64_t h, const fh1_lora *l)
{
    if (!l) return mix(h, "", 1);
    for (const fh1_tensor *t : {&l->A, &l->B, &l->bias}) h = mix_tensor(h, t);
    return mix(h, &l->scale, sizeof l->scale);
}

uint64_t mix_config(uint64_t h, const fh1_config *c)
{
    const double numbers[] = {c->eps,      c->dt_lo,     c->dt_hi,    c->rope.theta, c->rope.factor,
                              c->m_emb,    c->m_lm,      c->m_key,    c->m_attn_in,  c->m_attn_out,
                              c->m_ssm_in, c->m_ssm_out, c->m_gate,   c->m_down,     c->m_ssm[0],
                              c->m_ssm[1], c->m_ssm[2],  c->m_ssm[3], c->m_ssm[4],   c->mixer_eps};
    const int64_t sizes[] = {c->n_layers, c->D, c->V, c->F, c->Hq, c->Hkv,    c->A,     c->H,
                             c->P,        c->N, c->G, c->K, c->R,  c->family, c->block, c->residual_in_fp32};
    return mix(mix(h, numbers, sizeof numbers), sizes, sizeof sizes);
}

uint64_t mix_layer(uint64_t h, const fh1_layer *l)
{
    const fh1_tensor *const all[] = {&l->input_layernorm,
                                     &l->attn_layernorm,
                                     &l->pre_ff_layernorm,
                                     &l->q_w,
                                     &l->q_b,
                                     &l->k_w,
                                     &l->k_b,
                                     &l->v_w,
                                     &l->v_b,
                                     &l->o_w,
                                     &l->o_b,
                                     &l->A_log,
                                     &l->D,
                                     &l->dt_bias,
                                     &l->in_w,
                                     &l->in_b,
                                     &l->conv_w,
                                     &l->conv_b,
                                     &l->x_w,
                                     &l->dt_w,
                                     &l->norm,
                                     &l->out_w,
                                     &l->out_b,
                                     &l->gate_w,
                                     &l->gate_b,
                                     &l->up_w,
                                     &l->up_b,
                                     &l->down_w,
                                     &l->down_b};
    for (const fh1_tensor *t : all) h = mix_tensor(h, t);
    for (const fh1_lora *a : l->lora) h = mix_adapter(h, a);
    return h;
}

} // namespace

cu_fingerprint cu_fingerprint_of(const fh1_model *m)
{
    uint64_t h = mix_config(UINT64_C(0xcbf29ce484222325), &m->config);
    for (const fh1_tensor *t : {&m->embed, &m->final_layernorm, &m->lm_head}) h = mix_tensor(h, t);
    h = mix_adapter(mix_adapter(h, m->embed_lora), m->head_lora);
    for (int64_t i = 0; i < m->config.n_layers; ++i) h = mix_layer(h, &m->layers[i]);
    return {m, h};
}

} // namespace CU_NS
