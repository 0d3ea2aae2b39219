/* The engine behind fh1_engine: a model on the device, and calls that go there and come back. */
#include "cuda/bwd_ops.h"
#include "cuda/call.h"
#include "cuda/cross_entropy.cuh"
#include "cuda/fingerprint.h"
#include "cuda/ops.h"
#include "cuda/session_impl.h"
#include "cuda/tokens_upload.h"
#include "cuda/train.h"
#include "cuda/trainer_impl.h"
#include "cuda/world.h"

#include <vector>

namespace CU_NS
{
namespace
{

struct engine {
    fh1_engine base;
    const fh1_profile *wanted; /* NULL: the checkpoint decides */
    cu_device device;
    bool loaded;
    cu_fingerprint model; /* that is loaded */
    cu_weights weights;
    cu_adapters *adapters;
    cu_work work;
    cu_token_buffers tokens;
    cu_buffer inv_freq, kept, label, row_loss, loss;
    cu_train train;
};

engine *of(fh1_engine *e)
{
    return static_cast<engine *>(e->ctx);
}

void unload(engine *e)
{
    if (e->loaded) cu_weights_free(&e->weights);
    cu_adapters_free(e->adapters);
    e->loaded = false;
}

fh1_status engine_open(fh1_engine *base, const fh1_model *m)
{
    engine *e = of(base);
    const cu_fingerprint found = cu_fingerprint_of(m);
    if (e->loaded && cu_fingerprint_same(&found, &e->model)) return NULL;
    unload(e);
    const fh1_profile *profile;
    cu_type type;
    FH1_TRY(cu_contract(m, e->wanted, &profile, &type));
    FH1_TRY(cu_weights_load(m, type, e->device.k.stream, &e->weights));
    e->loaded = true;
    const fh1_status s = cu_adapters_load(m, e->device.k.stream, e->adapters);
    if (s) {
        unload(e);
        return s;
    }
    e->model = found;
    base->profile = profile;
    return NULL;
}

void engine_free(fh1_engine *base)
{
    engine *e = of(base);
    unload(e);
    delete e->adapters;
    cu_work_free(&e->work);
    cu_token_buffers_free(&e->tokens);
    for (cu_buffer *b : {&e->inv_freq, &e->kept, &e->label, &e->row_loss, &e->loss}) cu_buffer_free(b);
    cu_train_free(&e->train);
    cu_device_close(&e->device);
    free(e);
}

/* -- one call --------------------------------------------------------------------------------------------- */

/* The mean over the labels of the next columns of each row, shown as the tap `loss`. */
fh1_status show_loss(engine *e, const fh1_batch *b, cu_call *call)
{
    const fh1_tokens *t = call->tokens;
    std::vector<int> label;
    for (int64_t m = 0; m < t->M; ++m)
        label.push_back(t->col[m] + 1 < t->T ? static_cast<int>(b->labels[t->row[m] * t->T + t->col[m] + 1]) : -100);
    const size_t bytes = label.size() * sizeof(int);
    FH1_TRY(cu_buffer_need(&e->label, bytes));
    FH1_TRY(cu_buffer_need(&e->row_loss, label.size() * sizeof(double)));
    FH1_TRY(cu_buffer_need(&e->loss, sizeof(double)));
    FH1_TRY(cu_send(e->label.p, label.data(), bytes, call->k->stream, "sending labels"));
    cu_cross_entropy a = {};
    a.M = call->t.M;
    a.V = static_cast<int>(call->c->V);
    a.logits = static_cast<const float *>(cu_part_of(call, CU_LOGITS));
    a.label = static_cast<const int *>(e->label.p);
    a.row = static_cast<double *>(e->row_loss.p);
    a.loss = static_cast<double *>(e->loss.p);
    double loss = NAN;
    if (a.M) {
        FH1_TRY(cu_cross_entropy_fwd(call->k, &a));
        FH1_TRY(cu_fetch(&loss, a.loss, sizeof loss, call->k->stream, "reading the loss"));
    }
    float shown = static_cast<float>(loss);
    fh1_tap_event ev = {};
    ev.id = FH1_TAP_LOSS;
    ev.tokens = t;
    ev.value = fh1_view(&shown, FH1_F32, 0, NULL);
    return call->sink->tap(call->sink->user, &ev);
}

/* Kept logits to their places in [B, n_logits, V]; zeros at padding. */
fh1_status scatter(cu_call *call, const std::vector<int64_t> &kept, int64_t n_logits, float *out)
{
    const fh1_tokens *t = call->tokens;
    const size_t V = static_cast<size_t>(call->c->V);
    const float *from = static_cast<const float *>(cu_part_of(call, CU_LOGITS));
    memset(out, 0, static_cast<size_t>(t->B * n_logits) * V * sizeof *out);
    for (size_t i = 0; i < kept.size();) { /* tokens side by side in one row are so on both sides */
        const int64_t m = kept[i];
        size_t n = 1;
        while (i + n < kept.size() && t->row[kept[i + n]] == t->row[m]) ++n;
        float *to = out + static_cast<size_t>(t->row[m] * n_logits + t->col[m] - (t->T - n_logits)) * V;
        FH1_TRY(cu_fetch(to, from + i * V, n * V * sizeof *out, call->k->stream, "reading logits"));
        i += n;
    }
    return NULL;
}

fh1_status head(engine *e, const fh1_batch *b, int64_t n_logits, float *out, cu_call *call)
{
    const fh1_tokens *t = call->tokens;
    if (n_logits == 0 || (!out && !call->sink)) return NULL;
    std::vector<int64_t> kept;
    for (int64_t m = 0; m < t->M; ++m)
        if (t->col[m] >= t->T - n_logits) kept.push_back(m);
    const std::vector<int> rows(kept.begin(), kept.end());
    const int n = static_cast<int>(kept.size());
    const bool all = n == t->M;
    FH1_TRY(cu_buffer_need(&e->kept, rows.size() * sizeof(int)));
    FH1_TRY(cu_send(e->kept.p, rows.data(), rows.size() * sizeof(int), call->k->stream, "choosing rows"));
    FH1_TRY(cu_call_logits(call, n, all ? NULL : static_cast<const int *>(e->kept.p)));
    const int64_t V = call->c->V;
    kept.push_back(-1); /* so that an empty list has an address */
    const cu_shown logits = {CU_F32, cu_part_of(call, CU_LOGITS), n, V, 0, V, kept.data()};
    FH1_TRY(cu_call_tap(call, FH1_TAP_LOGITS, 0, &logits));
    kept.pop_back();
    if (b->labels && call->sink && all) FH1_TRY(show_loss(e, b, call));
    return out ? scatter(call, kept, n_logits, out) : NULL;
}

fh1_status run(engine *e, const fh1_batch *b, fh1_cache *cache, int64_t n_logits, float *logits, const fh1_tokens *t,
               const fh1_tap_sink *sink)
{
    cu_call call = {};
    call.k = &e->device.k;
    call.w = &e->weights;
    call.c = e->weights.config;
    call.work = &e->work;
    call.tokens = t;
    call.sink = sink;
    cu_adapters_attach(e->adapters, &call);
    FH1_TRY(cu_tokens_upload(t, cache, call.k->stream, &e->tokens, &call.t));
    FH1_TRY(cu_cache_prepare(cache, e->weights.type, t, call.k->stream, &call.cache));
    FH1_TRY(cu_call_set_rope(&call, cache, &e->inv_freq));
    call.one_token = call.t.longest == 1 && call.t.M == call.t.B;
    FH1_TRY(cu_call_open(&call));
    FH1_TRY(cu_call_layers(&call));
    FH1_TRY(head(e, b, n_logits, logits, &call));
    CU_TRY(cudaStreamSynchronize(call.k->stream), "the call");
    fh1_cache_commit(cache, t);
    return NULL;
}

fh1_status engine_forward(fh1_engine *base, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                          void *logits, const fh1_tap_sink *sink)
{
    engine *e = of(base);
    fh1_tokens t;
    FH1_TRY(engine_open(base, m));
    FH1_TRY(fh1_tokens_pack(b, m->config.V, cache, &t));
    if (n_logits < 0 || n_logits > b->T) n_logits = b->T;
    const fh1_status s = run(e, b, cache, n_logits, static_cast<float *>(logits), &t, sink);
    if (s) cudaStreamSynchronize(e->device.k.stream); /* nothing of a failed call runs on */
    fh1_tokens_free(&t);
    return s;
}

/* Weights move between steps, so that each call loads them; those of the forward pass, in the contract's type, give up
 * their place and are loaded again when they are next asked for. */
fh1_status engine_backward(fh1_engine *base, const fh1_model *m, const fh1_batch *b, fh1_backward *o)
{
    engine *e = of(base);
    cu_weights w;
    cu_adapters adapters = {};
    unload(e);
    FH1_TRY(cu_weights_load(m, CU_F32, e->device.k.stream, &w));
    fh1_status s = cu_adapters_load(m, e->device.k.stream, &adapters);
    if (!s) s = cu_train_backward(&e->train, &e->device.k, &w, &adapters, m, b, o, true);
    cu_adapters_free(&adapters);
    cu_weights_free(&w);
    return s;
}

fh1_status engine_new(const fh1_profile *profile, fh1_engine **out)
{
    engine *e = static_cast<engine *>(calloc(1, sizeof *e));
    if (!e) return fh1_no_memory(sizeof *e, "an engine");
    e->wanted = profile;
    e->adapters = new cu_adapters{};
    e->base.ctx = e;
    e->base.dtype = FH1_F32;
    e->base.profile = profile ? profile : fh1_profile_find("fp32");
    e->base.ops = &cu_ops;
    e->base.bwd_ops = &cu_bwd_ops;
    e->base.cache_ops = &fh1_cache_ops_true;
    e->base.open = engine_open;
    e->base.forward = engine_forward;
    e->base.backward = engine_backward;
    e->base.free = engine_free;
    snprintf(e->base.name, sizeof e->base.name, "%s", CU_HOST ? "cuda-host" : "cuda");
    const fh1_status s = cu_device_open(&e->device);
    if (s) engine_free(&e->base);
    else *out = &e->base;
    return s;
}

fh1_status describe(char *line, size_t size)
{
    cu_device d;
    fh1_status s = cu_device_open(&d);
    if (!s) snprintf(line, size, "%s, %d multiprocessors, sm_%d", d.name, d.k.sms, d.k.arch);
    cu_device_close(&d);
    return s;
}

} // namespace

fh1_status cu_ops_context(fh1_engine *e, cu_ctx **k)
{
    *k = &of(e)->device.k;
    return NULL;
}

} // namespace CU_NS

extern "C" {
#if CU_HOST
const cu_world cu_world_host
#else
const cu_world cu_world_gpu
#endif
    = {CU_HOST ? "cuda-host" : "cuda", CU_NS::cu_device_usable,   CU_NS::describe, CU_NS::engine_new,
       CU_NS::cu_live_session_new,     CU_NS::cu_live_trainer_new};
}
