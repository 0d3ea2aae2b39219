/* A session: prompts, and steps through a graph. */
#include "cuda/adapters.h"
#include "cuda/session_impl.h"

#include "cuda/plan.h"

#include <ctime>

namespace CU_NS
{
namespace
{

void forget_graph(cu_live_session *s)
{
    if (s->graph) cudaGraphExecDestroy(s->graph);
    s->graph = NULL;
}

void session_free(cu_session *base)
{
    cu_live_session *s = cu_live(base);
    if (s->device.k.stream) cudaStreamSynchronize(s->device.k.stream);
    forget_graph(s);
    fh1_cache_free(s->cache);
    cu_work_free(&s->work);
    cu_token_buffers_free(&s->tokens);
    for (cu_buffer *b : {&s->state, &s->out, &s->sample, &s->greedy, &s->kept, &s->inv_freq}) cu_buffer_free(b);
    if (s->loaded) cu_weights_free(&s->weights);
    cu_device_close(&s->device);
    delete s->next;
    delete s->waiting;
    free(s);
}

void session_reset(cu_session *base)
{
    cu_live_session *s = cu_live(base);
    fh1_cache_reset(s->cache);
    s->waiting->clear();
}

/* -- angles that depend on how long a sequence is -------------------------------------------------------------- */

fh1_status set_rope(cu_live_session *s, int64_t longest, cu_call *call)
{
    if (s->weights.inv_freq) {
        call->inv_freq = s->weights.inv_freq;
        call->rope_scale = static_cast<float>(s->weights.rope_scale);
        return NULL;
    }
    std::vector<double> f(static_cast<size_t>(s->c->A / 2));
    const int64_t seen = s->cache->rope_seq_len;
    double scale;
    fh1_rope_frequencies(s->c, longest > seen ? longest : seen, f.data(), &scale);
    FH1_TRY(cu_buffer_need(&s->inv_freq, f.size() * sizeof(double)));
    call->inv_freq = static_cast<const double *>(s->inv_freq.p);
    call->rope_scale = static_cast<float>(scale);
    return cu_send(s->inv_freq.p, f.data(), f.size() * sizeof(double), s->device.k.stream,
                   "sending rotary frequencies");
}

/* -- prompts ----------------------------------------------------------------------------------------------------- */

/* Positions of a padded batch that has none: they count real tokens. */
void count_positions(const fh1_batch *b, const fh1_tokens *t, const fh1_cache *cache, std::vector<int64_t> *out)
{
    bool padded = false;
    for (int64_t i = 0; i < t->B; ++i) padded |= t->n_left[i] > 0 || t->n_right[i] > 0;
    if (b->positions || !padded) return;
    out->resize(static_cast<size_t>(t->B * t->T));
    for (int64_t i = 0; i < t->B; ++i) {
        const int64_t n = t->T - t->n_left[i] - t->n_right[i], past = cache->rows[i].n;
        for (int64_t k = 0; k < t->T; ++k) {
            const int64_t p = k - t->n_left[i];
            (*out)[static_cast<size_t>(i * t->T + k)] = past + (p < 0 ? 0 : p < n ? p : n - 1);
        }
    }
}

fh1_status check_rows(const cu_live_session *s, const fh1_tokens *t)
{
    if (t->B != s->o.B) {
        const fh1_status e =
            fh1_expected(FH1_BAD("the number of rows is not the session's"), "%lld", static_cast<long long>(s->o.B));
        return fh1_found(e, "%lld", static_cast<long long>(t->B));
    }
    for (int64_t b = 0; b < t->B; ++b)
        if (t->row_begin[b] == t->row_begin[b + 1]) {
            const fh1_status e =
                FH1_BAD("row %lld of the prompt has no token to go on from", static_cast<long long>(b));
            return fh1_hint(e, "give every row at least one token that the mask does not cover");
        }
    return NULL;
}

int64_t most_tokens(const cu_live_session *s)
{
    int64_t most = 0;
    for (int64_t b = 0; b < s->o.B; ++b) most = s->cache->rows[b].n > most ? s->cache->rows[b].n : most;
    return most;
}

fh1_status check_context(const cu_live_session *s, int64_t n)
{
    if (most_tokens(s) + n <= s->o.context) return NULL;
    fh1_status e = FH1_BAD("the session's context is full");
    e = fh1_expected(e, "at most %lld tokens in a row", static_cast<long long>(s->o.context));
    return fh1_found(e, "%lld", static_cast<long long>(most_tokens(s) + n));
}

/* Tokens chosen by the last n choices, [n, B]; the first of them is number `from` of the row. */
fh1_status read_choices(cu_live_session *s, int64_t n, int64_t from, std::vector<int> *out)
{
    const size_t B = static_cast<size_t>(s->o.B);
    out->resize(static_cast<size_t>(n) * B);
    FH1_TRY(cu_fetch(out->data(), s->at.out, out->size() * sizeof(int), s->device.k.stream, "reading tokens"));
    for (size_t i = 0; i < out->size(); ++i) {
        if ((*out)[i] >= 0) continue;
        const fh1_status e = fh1_fail(FH1_E_WRONG, "the logits of engine %s are NaN", s->o.engine);
        return fh1_where(e, "step %lld, row %lld", static_cast<long long>(from) + static_cast<long long>(i / B),
                         static_cast<long long>(i % B));
    }
    return NULL;
}

/* The last token of each row gets logits; the choice is counted by the position that was run. */
fh1_status choose_first(cu_live_session *s, const fh1_tokens *t, cu_call *call)
{
    std::vector<int> kept;
    for (int64_t b = 0; b < t->B; ++b) {
        const int64_t last = t->row_begin[b + 1] - 1;
        kept.push_back(static_cast<int>(last));
        (*s->next)[static_cast<size_t>(b)] = t->position[last];
    }
    FH1_TRY(cu_buffer_need(&s->kept, kept.size() * sizeof(int)));
    FH1_TRY(cu_send(s->kept.p, kept.data(), kept.size() * sizeof(int), call->k->stream, "choosing rows"));
    FH1_TRY(cu_call_logits(call, static_cast<int>(t->B), static_cast<const int *>(s->kept.p)));
    FH1_TRY(cu_step_state_set(s));
    FH1_TRY(cu_step_out(s, 1));
    FH1_TRY(cu_step_choose(s, call, false));
    for (int64_t &p : *s->next) p++;
    FH1_TRY(cu_step_state_set(s)); /* ids are the choice, at the next positions */
    s->handed = 0;
    return read_choices(s, 1, 0, s->waiting);
}

fh1_status run_prompt(cu_live_session *s, const fh1_tokens *t)
{
    cu_call call = {};
    call.k = &s->device.k;
    call.w = &s->weights;
    call.c = s->c;
    call.work = &s->work;
    call.tokens = t;
    FH1_TRY(check_rows(s, t));
    FH1_TRY(check_context(s, t->T));
    FH1_TRY(cu_tokens_upload(t, s->cache, call.k->stream, &s->tokens, &call.t));
    FH1_TRY(cu_cache_prepare(s->cache, s->weights.type, t, call.k->stream, &call.cache));
    FH1_TRY(set_rope(s, t->max_position + 1, &call));
    call.one_token = call.t.longest == 1 && call.t.M == call.t.B;
    FH1_TRY(cu_call_open(&call));
    FH1_TRY(cu_call_layers(&call));
    fh1_cache_commit(s->cache, t);
    return choose_first(s, t, &call);
}

fh1_status session_prefill(cu_session *base, const fh1_batch *b)
{
    cu_live_session *s = cu_live(base);
    fh1_tokens t;
    fh1_batch in = *b;
    std::vector<int64_t> positions;
    FH1_TRY(fh1_tokens_pack(b, s->c->V, s->cache, &t));
    count_positions(b, &t, s->cache, &positions);
    fh1_status e = NULL;
    if (!positions.empty()) {
        fh1_tokens_free(&t);
        in.positions = positions.data();
        FH1_TRY(fh1_tokens_pack(&in, s->c->V, s->cache, &t));
    }
    const double begin = cu_seconds();
    forget_graph(s); /* buffers grow with the prompt */
    s->waiting->clear();
    e = run_prompt(s, &t);
    base->facts.seconds = cu_seconds() - begin;
    base->facts.steps = 1;
    base->facts.graph_steps = 0;
    fh1_tokens_free(&t);
    if (e) cudaStreamSynchronize(s->device.k.stream);
    return e;
}

/* -- steps --------------------------------------------------------------------------------------------------------- */

/* The books of one step: a token in every row. */
fh1_status book_step(cu_live_session *s, bool room_on_device, cu_cache **cache)
{
    const std::vector<int64_t> ids(static_cast<size_t>(s->o.B), 0);
    fh1_batch b = {};
    fh1_tokens t;
    b.B = s->o.B;
    b.T = 1;
    b.ids = ids.data();
    b.positions = s->next->data();
    FH1_TRY(fh1_tokens_pack(&b, s->c->V, s->cache, &t));
    fh1_status e;
    if (room_on_device) {
        e = cu_cache_prepare(s->cache, s->weights.type, &t, s->device.k.stream, cache);
    } else if (!(e = fh1_cache_prepare(s->cache, &t))) {
        fh1_cache_commit(s->cache, &t);
        for (int64_t &p : *s->next) p++;
    }
    fh1_tokens_free(&t);
    return e;
}

/* The graph of a step, made anew when something that it points to has moved. */
fh1_status capture(cu_live_session *s, cu_call *call)
{
    const uint64_t generation = cu_cache_generation(call->cache);
    if (s->graph && s->graph_generation == generation && s->graph_keys == call->t.most_keys) return NULL;
    forget_graph(s);
    cudaGraph_t graph = NULL;
    const cudaStream_t stream = s->device.k.stream;
    CU_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a step");
    const fh1_status e = cu_step_run(s, call);
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (e) {
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();
        return e;
    }
    CU_TRY(ended, "capturing a step");
    const cudaError_t made = cudaGraphInstantiate(&s->graph, graph, 0);
    cudaGraphDestroy(graph);
    if (made != cudaSuccess) s->graph = NULL;
    CU_TRY(made, "making a graph of a step");
    s->graph_generation = generation;
    s->graph_keys = call->t.most_keys;
    s->base.facts.captures++;
    return NULL;
}

/* A number of keys that stays the same for many steps: the next power of two, but no more than the context. */
int keys_for(const cu_live_session *s, int64_t tokens)
{
    int64_t keys = 256;
    while (keys < tokens) keys *= 2;
    return static_cast<int>(keys < s->o.context ? keys : s->o.context);
}

/* The first step of a run is launched kernel by kernel, so that what is made on first use exists; the others are the
 * graph, unless angles depend on the length. */
fh1_status run_steps(cu_live_session *s, int64_t n)
{
    cu_cache *cache;
    cu_call call;
    const bool graphs = !s->o.no_graph && s->weights.inv_freq;
    FH1_TRY(book_step(s, true, &cache));
    FH1_TRY(cu_cache_reserve(cache, n, s->device.k.stream));
    FH1_TRY(cu_step_call(s, cache, keys_for(s, most_tokens(s) + n), &call));
    for (int64_t i = 0; i < n; ++i) {
        if (!s->weights.inv_freq) {
            int64_t longest = 0;
            for (const int64_t p : *s->next) longest = p + 1 > longest ? p + 1 : longest;
            FH1_TRY(set_rope(s, longest, &call));
        }
        if (graphs && (i > 0 || s->graph)) {
            FH1_TRY(capture(s, &call));
            CU_TRY(cudaGraphLaunch(s->graph, s->device.k.stream), "launching a step");
            s->base.facts.graph_steps++;
        } else {
            FH1_TRY(cu_step_run(s, &call));
        }
        FH1_TRY(book_step(s, false, NULL));
    }
    return cu_status(cudaStreamSynchronize(s->device.k.stream), "decoding");
}

void hand_out(cu_live_session *s, const std::vector<int> &chosen, int64_t n, int64_t at, int64_t *tokens)
{
    const size_t B = static_cast<size_t>(s->o.B);
    for (size_t i = 0; tokens && i < chosen.size(); ++i)
        tokens[static_cast<int64_t>(i % B) * n + at + static_cast<int64_t>(i / B)] = chosen[i];
    s->handed += static_cast<int64_t>(chosen.size() / B);
}

fh1_status session_decode(cu_session *base, int64_t n, int64_t *tokens)
{
    cu_live_session *s = cu_live(base);
    if (n < 1) return NULL;
    if (!s->cache->n_cols) return FH1_BAD("a session decodes after a prompt");
    const int64_t waiting = s->waiting->empty() ? 0 : 1, steps = n - waiting;
    std::vector<int> chosen;
    FH1_TRY(check_context(s, steps));
    base->facts.steps = steps;
    base->facts.graph_steps = 0;
    const double begin = cu_seconds();
    fh1_status e = NULL;
    if (steps) e = cu_step_out(s, steps);
    if (!e && steps) e = run_steps(s, steps);
    base->facts.seconds = cu_seconds() - begin;
    hand_out(s, *s->waiting, n, 0, tokens);
    s->waiting->clear();
    if (!e && steps) e = read_choices(s, steps, s->handed, &chosen);
    if (!e) hand_out(s, chosen, n, waiting, tokens);
    else cudaStreamSynchronize(s->device.k.stream);
    return e;
}

fh1_status load(cu_live_session *s, const fh1_model *m)
{
    const fh1_profile *profile;
    cu_type type;
    FH1_TRY(cu_device_open(&s->device));
    FH1_TRY(cu_adapters_none(m)); /* its decode steps know none */
    FH1_TRY(cu_contract(m, s->o.profile, &profile, &type));
    const cu_plan plan = cu_plan_make(&m->config, type, s->o.B, s->o.prompt, s->o.context, 1);
    if (s->o.plan) cu_plan_print(&plan, s->o.plan);
    if (s->device.total) FH1_TRY(cu_plan_check(&plan, s->device.free_now));
    FH1_TRY(cu_weights_load(m, type, s->device.k.stream, &s->weights));
    s->loaded = true;
    s->c = s->weights.config;
    s->base.facts.profile = profile;
    s->base.facts.weight_bytes = s->weights.bytes;
    snprintf(s->device_line, sizeof s->device_line, "%.100s, %d multiprocessors, sm_%d", s->device.name,
             s->device.k.sms, s->device.k.arch);
    s->base.facts.device = s->device_line;
    FH1_TRY(fh1_cache_new(s->c, FH1_F32, s->o.B, &s->cache));
    return cu_step_state_new(s);
}

} // namespace

fh1_status cu_live_session_new(const fh1_model *m, const cu_session_options *o, cu_session **out)
{
    cu_live_session *s = static_cast<cu_live_session *>(calloc(1, sizeof *s));
    if (!s) return fh1_no_memory(sizeof *s, "a session");
    s->o = *o;
    s->base.free = session_free;
    s->base.prefill = session_prefill;
    s->base.decode = session_decode;
    s->base.reset = session_reset;
    s->base.synthesize = cu_live_session_synthesize;
    s->base.limits = cu_live_session_limits;
    s->next = new std::vector<int64_t>(static_cast<size_t>(o->B));
    s->waiting = new std::vector<int>;
    const fh1_status e = load(s, m);
    if (e) session_free(&s->base);
    else *out = &s->base;
    return e;
}

} // namespace CU_NS
