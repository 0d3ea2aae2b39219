/* Steps that stay on the device. Where a parameter's values lie follows from the order in which weights.cu puts tensors
 * behind one another. */
#include "cuda/synthesize.cuh"
#include "cuda/train.h"
#include "cuda/trainer_impl.h"
#include "cuda/world.h"

#include <chrono>

namespace CU_NS
{
namespace
{

struct trainer {
    cu_trainer base;
    cu_device device;
    const fh1_model *m;
    fh1_grads *g;
    cu_weights w;
    cu_adapters adapters;
    cu_train train;
    cu_places places;
    cu_buffer moment[2], list, part, A_log;
    cu_adamw_args step; /* but for its numbers */
};

trainer *of(cu_trainer *t)
{
    return reinterpret_cast<trainer *>(t); /* its first member */
}

void trainer_free(cu_trainer *base)
{
    trainer *t = of(base);
    cu_adapters_free(&t->adapters);
    cu_weights_free(&t->w);
    cu_train_free(&t->train);
    for (cu_buffer *b : {&t->moment[0], &t->moment[1], &t->list, &t->part, &t->A_log}) cu_buffer_free(b);
    cu_device_close(&t->device);
    fh1_grads_free(t->g);
    delete t;
}

/* The device holds A = -exp(A_log): A_log itself is kept beside it, and A made anew after every step. */
__global__ void __launch_bounds__(256) rates_k(int64_t n, const float *A_log, float *A)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
    if (i < n) A[i] = static_cast<float>(-exp(static_cast<double>(A_log[i])));
}

fh1_status keep_A_log(trainer *t)
{
    const fh1_config *c = &t->m->config;
    const int64_t n = cu_rates_of(c);
    std::vector<float> v;
    for (int64_t i = 0; i < c->n_layers; ++i)
        for (int64_t j = 0; j < n; ++j) v.push_back(static_cast<float>(fh1_get(&t->m->layers[i].A_log, j)));
    FH1_TRY(cu_buffer_need(&t->A_log, v.size() * sizeof(float)));
    return cu_send(t->A_log.p, v.data(), t->A_log.bytes, t->device.k.stream, "sending A_log");
}

fh1_status make_rates(trainer *t)
{
    const int64_t n = cu_rates_of(&t->m->config);
    for (int64_t i = 0; i < t->m->config.n_layers; ++i) {
        if (!fh1_grad_of(t->g, &t->m->layers[i].A_log)) continue;
        LAUNCH(rates_k, static_cast<unsigned>((n + 255) / 256), 256, 0, t->device.k.stream, n,
               static_cast<const float *>(t->A_log.p) + i * n, const_cast<float *>(t->w.layers[i].A));
        FH1_TRY(cu_launched("rates"));
    }
    return NULL;
}

/* The list of adamw.cu, once and for all: nothing of it moves. */
fh1_status make_list(trainer *t, const cu_trainer_options *o)
{
    std::vector<cu_adamw_tensor> list;
    t->step.pieces = 0;
    for (int64_t i = 0; i < t->g->n; ++i) {
        const fh1_param *p = &t->g->params[i];
        if (!p->grad.data) continue;
        const int64_t at = static_cast<const float *>(p->grad.data) - static_cast<const float *>(t->g->memory);
        cu_adamw_tensor d = {};
        d.n = fh1_n_elems(p->value);
        d.first = t->step.pieces;
        d.g = static_cast<const float *>(t->train.part[CU_TRAIN_GRADS].p) + at;
        d.w = cu_place_of(&t->places, p->value);
        d.m = static_cast<float *>(t->moment[0].p) + at;
        d.v = static_cast<float *>(t->moment[1].p) + at;
        d.decay = o->decay * (o->decay_factor ? o->decay_factor(o->user, p) : 1);
        if (!d.w) return fh1_fail(FH1_E_INTERNAL, "%s has no place on the device", p->name);
        list.push_back(d);
        t->step.pieces += (d.n + CU_ADAMW_PIECE - 1) / CU_ADAMW_PIECE;
    }
    t->step.n = static_cast<int>(list.size());
    const size_t bytes = list.size() * sizeof list[0];
    FH1_TRY(cu_buffer_need(&t->list, bytes));
    t->step.list = static_cast<const cu_adamw_tensor *>(t->list.p);
    return cu_send(t->list.p, list.data(), bytes, t->device.k.stream, "the list of parameters");
}

fh1_status load(trainer *t, fh1_model *m, const cu_trainer_options *o)
{
    if (m->embed_lora)
        return fh1_hint(FH1_BAD("steps on the device do not move an adapter of the embedding table"),
                        "fh1 train with this engine does");
    FH1_TRY(cu_device_open(&t->device));
    FH1_TRY(fh1_grads_new(m, FH1_F32, o->moves, o->user, &t->g));
    const cudaStream_t stream = t->device.k.stream;
    FH1_TRY(cu_weights_load(m, CU_F32, stream, &t->w));
    FH1_TRY(cu_adapters_load(m, stream, &t->adapters));
    FH1_TRY(keep_A_log(t));
    FH1_TRY(cu_buffer_need(&t->train.part[CU_TRAIN_GRADS], t->g->bytes));
    for (cu_buffer &b : t->moment) {
        FH1_TRY(cu_buffer_need(&b, t->g->bytes));
        CU_TRY(cudaMemsetAsync(b.p, 0, b.bytes, stream), "clearing moments");
    }
    FH1_TRY(cu_buffer_need(&t->part, (CU_SQUARES_PARTS + 1) * sizeof(double)));
    cu_places_make(m, &t->w, &t->adapters, static_cast<float *>(t->A_log.p), &t->places);
    FH1_TRY(make_list(t, o));
    return cu_status(cudaStreamSynchronize(stream), "loading a model");
}

double seconds_since(std::chrono::steady_clock::time_point begin)
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

fh1_status norm_of(trainer *t, double *norm)
{
    double *part = static_cast<double *>(t->part.p);
    cu_squares_args a = {};
    a.n = static_cast<int64_t>(t->g->bytes / sizeof(float));
    a.g = static_cast<const float *>(t->train.part[CU_TRAIN_GRADS].p);
    a.part = part;
    a.sum = part + CU_SQUARES_PARTS;
    FH1_TRY(cu_sum_of_squares(&t->device.k, &a));
    FH1_TRY(cu_fetch(norm, a.sum, sizeof *norm, t->device.k.stream, "the norm"));
    *norm = sqrt(*norm);
    return NULL;
}

fh1_status update(trainer *t, const fh1_adamw *o, double max_norm, cu_trainer_result *r)
{
    FH1_TRY(norm_of(t, &r->norm));
    if (!std::isfinite(r->norm))
        return fh1_fail(FH1_E_WRONG, "step %lld: the norm of the gradients is %g", static_cast<long long>(o->t),
                        r->norm);
    t->step.o = *o;
    const double scale = max_norm / (r->norm + 1e-6);
    t->step.o.grad_scale = max_norm > 0 && scale < 1 ? scale : 1;
    FH1_TRY(cu_adamw(&t->device.k, &t->step));
    FH1_TRY(make_rates(t));
    return cu_status(cudaStreamSynchronize(t->device.k.stream), "a step");
}

fh1_status trainer_step(cu_trainer *base, const fh1_batch *b, const fh1_adamw *o, double max_norm, cu_trainer_result *r)
{
    trainer *t = of(base);
    *r = {};
    fh1_backward pass = {};
    pass.grads = t->g;
    const auto begin = std::chrono::steady_clock::now();
    FH1_TRY(cu_train_backward(&t->train, &t->device.k, &t->w, &t->adapters, t->m, b, &pass, false));
    const auto middle = std::chrono::steady_clock::now();
    r->backward = seconds_since(begin);
    r->loss = pass.loss;
    r->n_labels = pass.n_labels;
    FH1_TRY(update(t, o, max_norm, r));
    r->update = seconds_since(middle);
    r->bytes = t->w.bytes + pass.peak + 2 * t->g->bytes;
    return NULL;
}

fh1_status trainer_synthesize(cu_trainer *base, cu_recipe_of recipe, void *user)
{
    trainer *t = of(base);
    FH1_TRY(cu_weights_synthesize(&t->device.k, &t->w, recipe, user));
    return cu_status(cudaStreamSynchronize(t->device.k.stream), "making weights");
}

fh1_status trainer_read(cu_trainer *base, int64_t i, float *out)
{
    trainer *t = of(base);
    const fh1_tensor *value = t->g->params[i].value;
    return cu_fetch(out, cu_place_of(&t->places, value), static_cast<size_t>(fh1_n_elems(value)) * sizeof *out,
                    t->device.k.stream, "reading a parameter");
}

const fh1_grads *trainer_parameters(const cu_trainer *base)
{
    return reinterpret_cast<const trainer *>(base)->g;
}

} // namespace

fh1_status cu_live_trainer_new(fh1_model *m, const cu_trainer_options *o, cu_trainer **out)
{
    trainer *t = new trainer{};
    t->m = m;
    t->base = {trainer_free, trainer_step, trainer_synthesize, trainer_parameters, trainer_read};
    const fh1_status s = load(t, m, o);
    if (s) trainer_free(&t->base);
    else *out = &t->base;
    return s;
}

} // namespace CU_NS
