/* Spoilers of the selective scan: rates of the wrong element, starts, and the recurrence token by token where a wrong
 * kernel reads, rounds or carries its state. */
#include "cuda/faulty/spoil.cuh"

namespace CU_NS
{
namespace
{

enum { BLOCK = 8 }; /* tokens, of a paged cache */

/* A[i,n] as a wrong kernel finds it. */
std::vector<float> rates(const cu_selective *a)
{
    const int64_t I = a->I, N = a->N;
    std::vector<float> A(static_cast<size_t>(I * N));
    for (int64_t i = 0; i < I; ++i)
        for (int64_t n = 0; n < N; ++n) {
            int64_t at = i * N + n;
            if (CU_FAULT(SELECTIVE_A_TRANSPOSED)) at = n * I + i;
            if (CU_FAULT(SELECTIVE_A_PER_CHANNEL)) at = i * N;
            if (CU_FAULT(SELECTIVE_A_OF_CHANNEL_0)) at = n;
            float v = a->A[at];
            if (CU_FAULT(A_NOT_NEGATED)) v = -v;
            if (CU_FAULT(A_LOG_NOT_EXPONENTIATED)) v = -logf(-v);
            if (CU_FAULT(A_IN_BF16_IN_PREFILL) && a->t.longest > 1) v = in_bf16(v);
            A[static_cast<size_t>(i * N + n)] = v;
        }
    return A;
}

struct channel_of {
    const cu_selective *a;
    int begin, n, i; /* the row's tokens */
    float *S;        /* [N] */
};

void token(const channel_of *r, int t)
{
    const cu_selective *a = r->a;
    const int64_t m = r->begin + t;
    const float dt = a->dt[(m - (CU_FAULT(DT_STALE_AT_ONE_TOKEN) && t == 3)) * a->I + r->i], D = a->D[r->i];
    const float x = get(a->type, a->x, m * a->ldx + r->i), in = CU_FAULT(INPUT_WITHOUT_DT) ? x : dt * x;
    const bool kept = CU_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE) && t > 0 && t % CU_FAULTY_CHUNK == 0;
    const bool reset = a->t.start[m] == m && CU_FAULT(DOC_RESET_BY_8); /* a decay, not a selection */
    const float step = kept ? 0.f : CU_FAULT(DECAY_WITHOUT_DT) ? 1.f : dt;
    const void *B = CU_FAULT(B_AND_C_SWAPPED) ? a->C : a->B, *C = CU_FAULT(B_AND_C_SWAPPED) ? a->B : a->C;
    const float *A = a->A + static_cast<int64_t>(r->i) * a->N;
    const auto sum = [&] {
        float y = 0;
        for (int n = 0; n < a->N; ++n)
            y = cu_faulty_element(y, reset ? expf(-8) : expf(step * A[n]), in * get(a->type, B, m * a->ldbc + n),
                                  get(a->type, C, m * a->ldbc + n), r->S + n);
        return y;
    };
    if ((a->t.start[m] == m && !reset) || cu_faulty_carry_lost(t, r->n))
        memset(r->S, 0, static_cast<size_t>(a->N) * sizeof *r->S);
    put(a->type, a->y, m * a->I + r->i, sum() + D * (CU_FAULT(D_ON_SCALED_INPUT) ? in : x));
    if (cu_faulty_tail_repeats(t, r->n)) sum();
}

void recur(const cu_selective *a)
{
    for (int b = 0; b < a->t.B; ++b)
        for (int i = 0; i < a->I; ++i) {
            const channel_of r = {a, a->t.row_begin[b], a->t.row_begin[b + 1] - a->t.row_begin[b], i,
                                  a->state + (static_cast<int64_t>(a->slot[b]) * a->I + i) * a->N};
            std::vector<float> before_last;
            for (int t = 0; t < r.n; ++t) {
                if (t == r.n - 1) before_last.assign(r.S, r.S + a->N);
                token(&r, t);
            }
            if (CU_FAULT(LAST_TOKEN_NOT_IN_STATE) && r.n > 1)
                memcpy(r.S, before_last.data(), static_cast<size_t>(a->N) * sizeof *r.S);
        }
}

/* -- what a call starts from, and what it leaves ---------------------------------------------------------------- */

void spoil_start(const cu_selective *a)
{
    const int64_t size = static_cast<int64_t>(a->I) * a->N;
    const size_t bytes = static_cast<size_t>(size) * sizeof(float);
    for (int b = 0; b < a->t.B; ++b) {
        const int n = a->t.row_begin[b + 1] - a->t.row_begin[b];
        float *state = a->state + a->slot[b] * size;
        if (CU_FAULT(SELECTIVE_SCAN_RESTARTS) && n > 1) memset(state, 0, bytes);
        if (!of_model(a->t) || past_columns() == 0 || cu_faulty.tokens->T == 1) continue;
        const int past = a->t.past[b];
        if (CU_FAULT(INITIAL_STATE_OF_ROW_0) && b > 0) memcpy(state, a->state + a->slot[0] * size, bytes);
        if (CU_FAULT(STATE_UNINITIALISED_AT_BLOCK_EDGE) && n > 0 && past / BLOCK != (past + n - 1) / BLOCK)
            memset(state, 0xff, bytes); /* NaN */
    }
}

void spoil_end(const cu_selective *a)
{
    const int64_t size = static_cast<int64_t>(a->I) * a->N;
    for (int b = 0; b < a->t.B; ++b) {
        float *state = a->state + a->slot[b] * size;
        for (int64_t i = 0; CU_FAULT(STATE_STORED_IN_BF16) && i < size; ++i) state[i] = in_bf16(state[i]);
        if (!CU_FAULT(SELECTIVE_STATE_TRANSPOSED) || a->t.row_begin[b + 1] - a->t.row_begin[b] < 2) continue;
        const std::vector<float> old(state, state + size);
        for (int64_t i = 0; i < size; ++i) state[i % a->N * a->I + i / a->N] = old[static_cast<size_t>(i)];
    }
}

/* What is gated is the sum over the state; D·x is added behind the gate. */
void add_skip(const cu_selective *s)
{
    for (int64_t m = 0; m < s->t.M; ++m)
        for (int i = 0; i < s->I; ++i) {
            const float z = get(s->type, s->z, m * s->ldz + i), skip = s->D[i] * get(s->type, s->x, m * s->ldx + i);
            put(s->type, s->gated, m * s->I + i, get(s->type, s->gated, m * s->I + i) + skip * (1 - z * sigmoid_of(z)));
        }
}

/* The gate goes through its own spoiler. */
fh1_status gate(cu_ctx *k, const cu_selective *s)
{
    cu_gated_norm a = {};
    if (!s->z) return NULL;
    a.type = s->type;
    a.M = s->t.M;
    a.d = s->I;
    a.G = 1;
    a.y = s->y;
    a.z = s->z;
    a.ldz = s->ldz;
    a.m_z = 1;
    a.out = s->gated;
    FH1_TRY(cu_faulty_gated_norm_fwd(k, &a));
    FH1_TRY(settled(k));
    if (CU_FAULT(GATE_BEFORE_D)) add_skip(s);
    return NULL;
}

fh1_status scan(cu_ctx *k, const cu_selective *given, fh1_status (*run)(cu_ctx *, const cu_selective *))
{
    cu_selective a = *given;
    const int64_t size = static_cast<int64_t>(a.I) * a.N;
    cu_spoiled y(a.type, static_cast<int64_t>(a.t.M) * a.I);
    if (cu_faulty.fault == FH1_FAULT_NONE) return run(k, given);
    FH1_TRY(settled(k));
    const std::vector<float> A = rates(&a);
    const std::vector<int> one_document(static_cast<size_t>(a.t.M) + 1, -1);
    std::vector<float> D(a.D, a.D + a.I);
    for (float &v : D)
        if (CU_FAULT(D_IN_BF16_IN_STEPS) && all_steps(a.t)) v = in_bf16(v);
    a.A = A.data();
    a.D = D.data();
    if (CU_FAULT(SCAN_LEAKS_DOCUMENTS) || CU_FAULT(MIXER_LEAKS_DOCUMENTS)) a.t.start = one_document.data();
    if (!a.y) a.y = y.p();
    cu_faulty_mix_slots(given->t, a.slot, a.state, size, true);
    spoil_start(&a);
    const cu_selective spoiled = a;
    a.z = NULL;
    if (cu_faulty_recurrence() || CU_FAULT(LAST_TOKEN_NOT_IN_STATE) || CU_FAULT(DOC_RESET_BY_8)) recur(&a);
    else FH1_TRY(run(k, &a));
    FH1_TRY(settled(k));
    spoil_end(&a);
    cu_faulty_mix_slots(given->t, a.slot, a.state, size, false);
    return gate(k, &spoiled);
}

} // namespace

fh1_status cu_faulty_selective_scan_fwd(cu_ctx *k, const cu_selective *a)
{
    return scan(k, a, cu_selective_scan_fwd);
}

fh1_status cu_faulty_selective_step_fwd(cu_ctx *k, const cu_selective *a)
{
    return scan(k, a, cu_selective_step_fwd);
}

} // namespace CU_NS
