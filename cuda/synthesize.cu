#include "cuda/synthesize.cuh"

#include "cuda/session_impl.h"

namespace CU_NS
{
namespace
{

enum { BLOCK = 256, PER_THREAD = 8, MOST_SEGMENTS = 5 };

/* The generator of oracle/random.h on the device. */
CU_FN uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
CU_FN uint64_t random_u64(uint64_t key, uint64_t index)
{
    return mix(mix(key + UINT64_C(0x9e3779b97f4a7c15) * (index + 1)) + key);
}

/* The sum of the four 16-bit parts, a bell of variance 1 (convert/hf_recipe.c). */
CU_FN double bell(uint64_t u)
{
    const uint64_t sum = (u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48);
    return (static_cast<double>(sum) - 4 * 32767.5) / 37837.227237206;
}

CU_FN void put(float *p, double v)
{
    *p = static_cast<float>(v);
}
CU_FN void put(bf16 *p, double v)
{
    *p = __double2bfloat16(v);
}

template <typename T> __global__ void synthesize(cu_matrix_recipe r, int64_t first, int64_t n, T *out)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * (BLOCK * PER_THREAD) + threadIdx.x;
    for (int j = 0; j < PER_THREAD; ++j) {
        const int64_t i = begin + j * BLOCK, at = first + i;
        if (i >= n) return;
        double std = r.std[0];
#pragma unroll
        for (int k = 1; k < MOST_SEGMENTS; ++k) std = k < r.n_segments && at >= r.end[k - 1] ? r.std[k] : std;
        /* no fused multiply-add: the processor has none there */
        put(out + i, r.mean + __dmul_rn(std, bell(random_u64(r.key, static_cast<uint64_t>(at)))));
    }
}

struct filler {
    const cu_ctx *k;
    const fh1_config *c;
    cu_type type;
    cu_recipe_of recipe;
    void *user;
    char *to; /* where the next tensor of a block goes */
};

/* One tensor of n elements by its name ("" before it: not of a layer). */
fh1_status one(filler *f, const char *name, int64_t layer, int64_t n)
{
    char full[160];
    cu_synthetic a = {};
    if (layer < 0) snprintf(full, sizeof full, "%s.weight", name);
    else
        snprintf(full, sizeof full, "%s.%lld.%s.weight", fh1_layers_module(f->c->family), static_cast<long long>(layer),
                 name);
    FH1_TRY(f->recipe(f->user, full, n, &a.recipe));
    a.type = f->type;
    a.n = n;
    a.out = f->to;
    f->to += static_cast<size_t>(n) * cu_size(f->type);
    return cu_synthesize_fwd(f->k, &a);
}

/* Weights are read-only to everybody else. */
void at(filler *f, const void *block)
{
    f->to = static_cast<char *>(const_cast<void *>(block));
}

fh1_status fill_mamba_layer(filler *f, const cu_layer *l, int64_t i)
{
    const fh1_config *c = f->c;
    at(f, l->in_qkv);
    FH1_TRY(one(f, "mixer.in_proj", i, fh1_in_proj_dim(c) * c->D));
    at(f, l->x_proj);
    FH1_TRY(one(f, "mixer.x_proj", i, fh1_x_proj_dim(c) * c->d_ssm));
    at(f, l->dt_proj);
    FH1_TRY(one(f, "mixer.dt_proj", i, c->d_ssm * c->R));
    at(f, l->out);
    return one(f, "mixer.out_proj", i, c->D * c->d_ssm);
}

fh1_status fill_layer(filler *f, const cu_layer *l, int64_t i)
{
    if (f->c->family == FH1_FALCON_MAMBA) return fill_mamba_layer(f, l, i);
    const fh1_config *c = f->c;
    const int64_t q = c->Hq * c->A, kv = c->Hkv * c->A;
    at(f, l->in_qkv);
    FH1_TRY(one(f, "mamba.in_proj", i, fh1_in_proj_dim(c) * c->D));
    FH1_TRY(one(f, "self_attn.q_proj", i, q * c->D));
    FH1_TRY(one(f, "self_attn.k_proj", i, kv * c->D));
    FH1_TRY(one(f, "self_attn.v_proj", i, kv * c->D));
    at(f, l->out);
    FH1_TRY(one(f, "mamba.out_proj", i, c->D * c->d_ssm));
    at(f, l->o);
    FH1_TRY(one(f, "self_attn.o_proj", i, c->D * q));
    at(f, l->gate_up);
    FH1_TRY(one(f, "feed_forward.gate_proj", i, c->F * c->D));
    FH1_TRY(one(f, "feed_forward.up_proj", i, c->F * c->D));
    at(f, l->down);
    return one(f, "feed_forward.down_proj", i, c->D * c->F);
}

} // namespace

fh1_status cu_synthesize_fwd(const cu_ctx *k, const cu_synthetic *a)
{
    const int64_t step = static_cast<int64_t>(BLOCK) * PER_THREAD, grids = int64_t{1} << 30;
    for (int64_t i = 0; i < a->n; i += grids * step) {
        const int64_t n = a->n - i < grids * step ? a->n - i : grids * step;
        const unsigned blocks = static_cast<unsigned>((n + step - 1) / step);
        if (a->type == CU_F32)
            LAUNCH(synthesize<float>, blocks, BLOCK, 0, k->stream, a->recipe, a->first + i, n,
                   static_cast<float *>(a->out) + i);
        else
            LAUNCH(synthesize<bf16>, blocks, BLOCK, 0, k->stream, a->recipe, a->first + i, n,
                   static_cast<bf16 *>(a->out) + i);
        FH1_TRY(cu_launched("synthesize"));
    }
    return NULL;
}

fh1_status cu_weights_synthesize(const cu_ctx *k, cu_weights *w, cu_recipe_of recipe, void *user)
{
    const fh1_config *c = w->config;
    filler f = {k, c, w->type, recipe, user, NULL};
    at(&f, w->embed);
    FH1_TRY(one(&f, fh1_embed_module(c->family), -1, c->V * c->D));
    for (int64_t i = 0; i < c->n_layers; ++i) FH1_TRY(fill_layer(&f, &w->layers[i], i));
    if (w->lm_head != w->embed) {
        at(&f, w->lm_head);
        FH1_TRY(one(&f, "lm_head", -1, c->V * c->D));
    }
    return cu_status(cudaStreamSynchronize(k->stream), "making weights");
}

fh1_status cu_live_session_synthesize(cu_session *base, cu_recipe_of recipe, void *user)
{
    cu_live_session *s = cu_live(base);
    return cu_weights_synthesize(&s->device.k, &s->weights, recipe, user);
}

} // namespace CU_NS
