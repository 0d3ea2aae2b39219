/* Spoilers of the scan: other rates, other starts, and the recurrence token by token where a wrong kernel reads, rounds
 * or carries its state. */
#include "cuda/faulty/spoil.cuh"

namespace CU_NS
{
namespace
{

enum { CHUNK = CU_FAULTY_CHUNK, BLOCK = 8 }; /* tokens: of kernels that have such faults, of a paged cache */

bool by_hand()
{
    return cu_faulty_recurrence() || CU_FAULT(GROUPS_TILED) || CU_FAULT(GROUP_0_FOR_ALL) ||
           CU_FAULT(DECAY_SUMS_IN_F16) || CU_FAULT(DECAY_ABOVE_DIAGONAL) || CU_FAULT(LAST_TOKEN_NOT_IN_STATE) ||
           CU_FAULT(DOC_RESET_BY_8);
}

/* -- the recurrence ------------------------------------------------------------------------------------------- */

struct head_of {
    const cu_ssd *a;
    int begin, n, h; /* the row's tokens */
    float *S;        /* [P, N] */
};

float rate_sum(const head_of *r, int from, int to, fh1_round round)
{
    float sum = 0;
    for (int t = from; t < to; ++t)
        sum = fh1_round_f32(round, sum + r->a->dt[static_cast<int64_t>(r->begin + t) * r->a->H + r->h] * r->a->A[r->h]);
    return sum;
}

float decay_of(const head_of *r, int t, float dt)
{
    const int edge = t - t % CHUNK, end = edge + CHUNK < r->n ? edge + CHUNK : r->n;
    const float right = expf(dt * r->a->A[r->h]);
    if (CU_FAULT(DECAY_WITHOUT_DT)) return expf(r->a->A[r->h]);
    if (CU_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE) && t > 0 && t == edge) return 1;
    if (CU_FAULT(DECAY_SUMS_IN_F16))
        return expf(rate_sum(r, edge, t + 1, FH1_ROUND_F16) - rate_sum(r, edge, t, FH1_ROUND_F16));
    if (CU_FAULT(DECAY_ABOVE_DIAGONAL)) return right + 0 * expf(-rate_sum(r, t + 1, end, FH1_ROUND_NONE));
    return right;
}

int group_of(const cu_ssd *a, int h)
{
    if (CU_FAULT(GROUPS_TILED)) return h % a->G;
    return CU_FAULT(GROUP_0_FOR_ALL) ? 0 : h / (a->H / a->G);
}

/* One row of the state: S = decay·S + in·B; returns what y reads of it. */
float advance(const cu_ssd *a, float decay, float in, int64_t B, int64_t C, float *S)
{
    float y = 0;
    for (int n = 0; n < a->N; ++n)
        y = cu_faulty_element(y, decay, in * get(a->type, a->xbc, B + n), get(a->type, a->xbc, C + n), S + n);
    return y;
}

void scan_token(const head_of *r, int t)
{
    const cu_ssd *a = r->a;
    const int64_t m = r->begin + t, GN = static_cast<int64_t>(a->G) * a->N, d = static_cast<int64_t>(a->H) * a->P;
    const size_t bytes = static_cast<size_t>(a->P) * static_cast<size_t>(a->N) * sizeof(float);
    const float dt = a->dt[(m - (CU_FAULT(DT_STALE_AT_ONE_TOKEN) && t == 3)) * a->H + r->h], D = a->D[r->h];
    const bool reset = a->t.start[m] == m && CU_FAULT(DOC_RESET_BY_8);
    const float decay = reset ? expf(-8) : decay_of(r, t, dt), in = CU_FAULT(INPUT_WITHOUT_DT) ? 1 : dt;
    int64_t B = m * a->ldx + d + group_of(a, r->h) * a->N, C = B + GN;
    if (CU_FAULT(B_AND_C_SWAPPED)) {
        C = B;
        B = C + GN;
    }
    if ((a->t.start[m] == m && !reset) || cu_faulty_carry_lost(t, r->n)) memset(r->S, 0, bytes);
    for (int i = 0; i < a->P; ++i) {
        const float x = get(a->type, a->xbc, m * a->ldx + r->h * a->P + i);
        const float read = advance(a, decay, in * x, B, C, r->S + i * a->N);
        put(a->type, a->y, m * d + r->h * a->P + i, read + (CU_FAULT(D_ON_SCALED_INPUT) ? D * dt : D) * x);
        if (cu_faulty_tail_repeats(t, r->n)) advance(a, decay, in * x, B, C, r->S + i * a->N);
    }
}

void scan_rows(const cu_ssd *a)
{
    const int64_t PN = static_cast<int64_t>(a->P) * a->N;
    for (int b = 0; b < a->t.B; ++b)
        for (int h = 0; h < a->H; ++h) {
            const head_of r = {a, a->t.row_begin[b], a->t.row_begin[b + 1] - a->t.row_begin[b], h,
                               a->state + (static_cast<int64_t>(a->slot[b]) * a->H + h) * PN};
            std::vector<float> before_last;
            for (int t = 0; t < r.n; ++t) {
                if (t == r.n - 1) before_last.assign(r.S, r.S + PN);
                scan_token(&r, t);
            }
            if (CU_FAULT(LAST_TOKEN_NOT_IN_STATE) && r.n > 1)
                memcpy(r.S, before_last.data(), static_cast<size_t>(PN) * sizeof *r.S);
        }
}

/* -- what a call starts from, and what it leaves ---------------------------------------------------------------- */

/* Over the tokens before the row in its chunk of the packed call. */
void decay_from_chunk_start(const cu_ssd *a, int b, float *state)
{
    const int begin = a->t.row_begin[b];
    const int64_t PN = static_cast<int64_t>(a->P) * a->N;
    for (int h = 0; h < a->H; ++h) {
        float sum = 0;
        for (int64_t m = begin - begin % CHUNK; m < begin; ++m) sum += a->dt[m * a->H + h];
        const float decay = expf(sum * a->A[h]);
        for (int64_t i = 0; i < PN; ++i) state[h * PN + i] *= decay;
    }
}

void spoil_start(const cu_ssd *a)
{
    const int64_t size = static_cast<int64_t>(a->H) * a->P * a->N;
    const size_t bytes = static_cast<size_t>(size) * sizeof(float);
    if (!of_model(a->t) || past_columns() == 0 || cu_faulty.tokens->T == 1) return;
    for (int b = 0; b < a->t.B; ++b) {
        const int n = a->t.row_begin[b + 1] - a->t.row_begin[b], past = a->t.past[b];
        float *state = a->state + a->slot[b] * size;
        if (CU_FAULT(INITIAL_STATE_OF_ROW_0) && b > 0) memcpy(state, a->state + a->slot[0] * size, bytes);
        if (CU_FAULT(DECAY_FROM_WRONG_ORIGIN)) decay_from_chunk_start(a, b, state);
        if (CU_FAULT(STATE_UNINITIALISED_AT_BLOCK_EDGE) && n > 0 && past / BLOCK != (past + n - 1) / BLOCK)
            memset(state, 0xff, bytes); /* NaN */
    }
}

/* [H,P,N] to [H,N,P] in the same memory. */
void transpose(const cu_ssd *a, float *state)
{
    const int64_t n = static_cast<int64_t>(a->P) * a->N;
    for (int h = 0; h < a->H; ++h) {
        float *S = state + h * n;
        const std::vector<float> old(S, S + n);
        for (int64_t i = 0; i < n; ++i) S[i % a->N * a->P + i / a->N] = old[static_cast<size_t>(i)];
    }
}

void spoil_end(const cu_ssd *a)
{
    const int64_t size = static_cast<int64_t>(a->H) * a->P * a->N;
    for (int b = 0; b < a->t.B; ++b) {
        float *state = a->state + a->slot[b] * size;
        for (int64_t i = 0; CU_FAULT(STATE_STORED_IN_BF16) && i < size; ++i) state[i] = in_bf16(state[i]);
        if (CU_FAULT(STATE_TRANSPOSED) && a->t.row_begin[b + 1] - a->t.row_begin[b] > 1) transpose(a, state);
    }
}

std::vector<float> rates(const cu_ssd *a)
{
    std::vector<float> A(a->A, a->A + a->H);
    for (float &v : A) {
        if (CU_FAULT(A_NOT_NEGATED)) v = -v;
        if (CU_FAULT(A_LOG_NOT_EXPONENTIATED)) v = -logf(-v);
        if (CU_FAULT(A_IN_BF16_IN_PREFILL) && a->t.longest > 1) v = in_bf16(v);
    }
    return A;
}

/* `step`: the one-token kernel, without its gate. */
fh1_status scan(cu_ctx *k, const cu_ssd *given, bool step, cu_ssd_way way)
{
    cu_ssd a = *given;
    const int64_t size = static_cast<int64_t>(a.H) * a.P * a.N;
    FH1_TRY(settled(k));
    const std::vector<float> A = rates(&a);
    const std::vector<int> one_document(static_cast<size_t>(a.t.M) + 1, -1);
    a.A = A.data();
    if (CU_FAULT(SCAN_LEAKS_DOCUMENTS) || CU_FAULT(MIXER_LEAKS_DOCUMENTS)) a.t.start = one_document.data();
    cu_faulty_mix_slots(given->t, a.slot, a.state, size, true);
    spoil_start(&a);
    if (by_hand()) {
        scan_rows(&a);
    } else if (step) {
        cu_ssd_step one = {};
        one.s = a;
        FH1_TRY(cu_ssd_step_fwd(k, &one));
    } else {
        FH1_TRY(cu_ssd_scan_fwd(k, &a, way));
    }
    FH1_TRY(settled(k));
    spoil_end(&a);
    cu_faulty_mix_slots(given->t, a.slot, a.state, size, false);
    return NULL;
}

} // namespace

/* -- what the selective scan has too ---------------------------------------------------------------------------- */

bool cu_faulty_recurrence()
{
    return CU_FAULT(DECAY_WITHOUT_DT) || CU_FAULT(INPUT_WITHOUT_DT) || CU_FAULT(DT_STALE_AT_ONE_TOKEN) ||
           CU_FAULT(D_ON_SCALED_INPUT) || CU_FAULT(B_AND_C_SWAPPED) || CU_FAULT(Y_READS_STATE_BEFORE) ||
           CU_FAULT(CARRY_LOST_AT_CHUNK_EDGE) || CU_FAULT(CARRY_LOST_AT_50000) || CU_FAULT(SECOND_HALF_FROM_ZERO) ||
           CU_FAULT(LONG_CALLS_DROP_STATE) || CU_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE) ||
           CU_FAULT(CHUNK_TAIL_NOT_ZEROED) || CU_FAULT(STATE_IN_BF16) || CU_FAULT(STATE_IN_F16) ||
           CU_FAULT(Y_READS_ROUNDED_STATE) || CU_FAULT(SCAN_SUMS_IN_BF16);
}

bool cu_faulty_carry_lost(int t, int n)
{
    if (t == 0) return CU_FAULT(LONG_CALLS_DROP_STATE) && n > 4;
    return (CU_FAULT(CARRY_LOST_AT_CHUNK_EDGE) && t % CHUNK == 0) || (CU_FAULT(CARRY_LOST_AT_50000) && t == 50000) ||
           (CU_FAULT(SECOND_HALF_FROM_ZERO) && t == n / 2);
}

bool cu_faulty_tail_repeats(int t, int n)
{
    return CU_FAULT(CHUNK_TAIL_NOT_ZEROED) && n > 1 && t == n - 1 && n % CHUNK != 0;
}

float cu_faulty_element(float y, float decay, float in, float C, float *S)
{
    const float before = *S, now = decay * before + in;
    float read = CU_FAULT(Y_READS_STATE_BEFORE) ? before : now;
    if (CU_FAULT(Y_READS_ROUNDED_STATE)) read = in_bf16(read);
    y += read * C;
    if (CU_FAULT(SCAN_SUMS_IN_BF16)) y = in_bf16(y);
    *S = CU_FAULT(STATE_IN_BF16) ? in_bf16(now) : CU_FAULT(STATE_IN_F16) ? fh1_round_f32(FH1_ROUND_F16, now) : now;
    return y;
}

/* -- the launches ----------------------------------------------------------------------------------------------- */

fh1_status cu_faulty_ssd_scan_fwd(cu_ctx *k, const cu_ssd *a, cu_ssd_way way)
{
    return cu_faulty.fault == FH1_FAULT_NONE ? cu_ssd_scan_fwd(k, a, way) : scan(k, a, false, way);
}

/* The gate of a step goes through its own spoiler. */
fh1_status cu_faulty_ssd_step_fwd(cu_ctx *k, const cu_ssd_step *given)
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_ssd_step_fwd(k, given);
    cu_ssd s = given->s;
    const int d = s.H * s.P;
    cu_spoiled y(s.type, static_cast<int64_t>(s.t.M) * d);
    if (!s.y) s.y = y.p();
    FH1_TRY(scan(k, &s, true, CU_SSD_AUTO));
    if (!given->z) return NULL;
    cu_gated_norm a = {};
    a.type = s.type;
    a.M = s.t.M;
    a.d = d;
    a.G = s.G;
    a.y = s.y;
    a.z = given->z;
    a.ldz = given->ldz;
    a.m_z = given->m_z;
    a.out = given->gated;
    return cu_faulty_gated_norm_fwd(k, &a);
}

} // namespace CU_NS
