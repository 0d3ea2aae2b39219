/* Steps of a session: what the device keeps of each row, and the kernels that move it on. */
#include "cuda/decode_linear.cuh"
#include "cuda/sample.cuh"
#include "cuda/session_impl.h"

namespace CU_NS
{
namespace
{

/* The chosen tokens are written down and become the next ids; a token that was run moves its row on. An id of -1 is
 * kept in `out` for the host to see, and runs as 0: nothing that follows counts. One block. */
__global__ void move_on_k(cu_step_state s, int B, bool ran)
{
    const int n = *s.count;
    for (int b = threadIdx.x; b < B; b += blockDim.x) {
        const int token = s.token[b];
        s.out[static_cast<int64_t>(n) * B + b] = token;
        s.id[b] = token < 0 ? 0 : token;
        if (ran) {
            s.past[b] += 1;
            s.position[b] += 1;
        }
    }
    __syncthreads(); /* every thread has read the counter */
    if (threadIdx.x == 0) *s.count = n + 1;
}

int64_t piece(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

} // namespace

fh1_status cu_step_state_new(cu_live_session *s)
{
    const int64_t B = s->o.B, ints = piece(B * 4), longs = piece(B * 8), begin = piece((B + 1) * 4);
    FH1_TRY(cu_buffer_need(&s->state, static_cast<size_t>(6 * ints + longs + begin + piece(4))));
    char *p = static_cast<char *>(s->state.p);
    int **const parts[] = {&s->at.id, &s->at.row, &s->at.past, &s->at.start, &s->at.first, &s->at.token};
    for (int **part : parts) {
        *part = reinterpret_cast<int *>(p);
        p += ints;
    }
    s->at.row_begin = reinterpret_cast<int *>(p);
    p += begin;
    s->at.position = reinterpret_cast<int64_t *>(p);
    p += longs;
    s->at.count = reinterpret_cast<int *>(p);
    return NULL;
}

fh1_status cu_step_state_set(cu_live_session *s)
{
    const size_t B = static_cast<size_t>(s->o.B);
    const cudaStream_t stream = s->device.k.stream;
    std::vector<int> row(B), begin(B + 1), past(B), start(B, -1), first(B);
    for (size_t b = 0; b < B; ++b) {
        const fh1_cache_row *r = &s->cache->rows[b];
        row[b] = begin[b] = static_cast<int>(b);
        past[b] = static_cast<int>(r->n);
        first[b] = static_cast<int>(r->doc_begin);
    }
    begin[B] = static_cast<int>(B);
    FH1_TRY(cu_send(s->at.row, row.data(), B * sizeof(int), stream, "the rows of a step"));
    FH1_TRY(cu_send(s->at.row_begin, begin.data(), (B + 1) * sizeof(int), stream, "the rows of a step"));
    FH1_TRY(cu_send(s->at.past, past.data(), B * sizeof(int), stream, "the rows of a step"));
    FH1_TRY(cu_send(s->at.start, start.data(), B * sizeof(int), stream, "the rows of a step"));
    FH1_TRY(cu_send(s->at.first, first.data(), B * sizeof(int), stream, "the rows of a step"));
    return cu_send(s->at.position, s->next->data(), B * sizeof(int64_t), stream, "the positions of a step");
}

fh1_status cu_step_out(cu_live_session *s, int64_t n)
{
    if (n > s->out_room) {
        const int64_t room = s->out_room ? 2 * s->out_room : 256; /* a graph knows the place: it rarely moves */
        s->out_room = n > room ? n : room;
        FH1_TRY(cu_buffer_need(&s->out, static_cast<size_t>(s->out_room * s->o.B) * sizeof(int)));
        s->at.out = static_cast<int *>(s->out.p);
        if (s->graph) CU_TRY(cudaGraphExecDestroy(s->graph), "forgetting a graph"); /* it knows the old place */
        s->graph = NULL;
    }
    return cu_status(cudaMemsetAsync(s->at.count, 0, sizeof(int), s->device.k.stream), "counting steps");
}

fh1_status cu_step_call(cu_live_session *s, cu_cache *cache, int keys, cu_call *call)
{
    const int B = static_cast<int>(s->o.B);
    *call = {};
    call->k = &s->device.k;
    call->w = &s->weights;
    call->c = s->c;
    call->work = &s->work;
    call->cache = cache;
    call->one_token = true;
    call->inv_freq = s->weights.inv_freq;
    call->rope_scale = static_cast<float>(s->weights.rope_scale);
    call->t.M = call->t.B = B;
    call->t.longest = 1;
    call->t.most_keys = keys;
    call->t.id = s->at.id;
    call->t.row = s->at.row;
    call->t.row_begin = s->at.row_begin;
    call->t.past = s->at.past;
    call->t.position = s->at.position;
    call->t.start = s->at.start;
    call->t.first = s->at.first;
    FH1_TRY(cu_call_open(call));
    call->head_norms = call->fused && s->o.temperature == 0;
    return NULL;
}

static fh1_status greedy(cu_live_session *s, cu_call *call)
{
    const size_t bytes = cu_head_greedy_scratch(call->k);
    cu_head_greedy a = {};
    FH1_TRY(cu_buffer_need(&s->greedy, bytes));
    a.type = call->w->type;
    a.M = call->t.M;
    a.D = static_cast<int>(s->c->D);
    a.V = static_cast<int>(s->c->V);
    a.x = cu_part_of(call, CU_X);
    a.norm = call->w->final_layernorm;
    a.eps = static_cast<float>(s->c->eps);
    a.w = call->w->lm_head;
    a.alpha = static_cast<float>(s->c->m_lm);
    a.token = s->at.token;
    a.scratch = s->greedy.p;
    return cu_head_greedy_fwd(call->k, &a);
}

fh1_status cu_step_choose(cu_live_session *s, cu_call *call, bool ran)
{
    const int B = static_cast<int>(s->o.B), V = static_cast<int>(s->c->V);
    if (ran && call->head_norms) {
        FH1_TRY(greedy(s, call));
    } else {
        cu_sample a = {};
        FH1_TRY(cu_buffer_need(&s->sample, cu_sample_scratch(B, V)));
        a.M = B;
        a.V = V;
        a.logits = static_cast<const float *>(cu_part_of(call, CU_LOGITS));
        a.temperature = static_cast<float>(s->o.temperature);
        a.top_k = static_cast<int>(s->o.top_k);
        a.top_p = static_cast<float>(s->o.top_p > 0 ? s->o.top_p : 1);
        a.seed = s->o.seed;
        a.step = s->at.position;
        a.token = s->at.token;
        a.scratch = s->sample.p;
        FH1_TRY(cu_sample_fwd(call->k, &a));
    }
    LAUNCH(move_on_k, 1, 128, 0, call->k->stream, s->at, B, ran);
    return cu_launched("moving rows on");
}

fh1_status cu_step_run(cu_live_session *s, cu_call *call)
{
    FH1_TRY(cu_call_layers(call));
    if (!call->head_norms) FH1_TRY(cu_call_logits(call, call->t.M, NULL));
    return cu_step_choose(s, call, true);
}

} // namespace CU_NS
