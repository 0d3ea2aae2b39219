#include "reference/selective_scan.h"

#include "oracle/reached.h"
#include "oracle/thread.h"
#include "reference/lanes_exp.h"
#include "reference/scan_faults.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32 }; /* channels of a piece of work: their states and rates stay in the first cache */

typedef struct {
    const REF(ref_selective_args) * a;
    fh1_round read, out;
    int64_t Nv;    /* N as whole vectors */
    real *scratch; /* of each thread: A [BLOCK, Nv], D [BLOCK], decays of a row [Nv] */
    int64_t per_thread;
} scan_job;

/* The channels of a block: i0 to i0 + n. */
typedef struct {
    int64_t i0, n;
    real *A, *D, *decay;
} block;

/* -- rates -- */

/* Planted faults: where A_log[i,n] does not stand. */

static bool is_read_elsewhere(void)
{
    return REF_FAULT(SELECTIVE_A_TRANSPOSED) || REF_FAULT(SELECTIVE_A_PER_CHANNEL) ||
           REF_FAULT(SELECTIVE_A_OF_CHANNEL_0);
}

static int64_t wrong_place(int64_t i, int64_t n, int64_t I, int64_t N)
{
    if (REF_FAULT(SELECTIVE_A_TRANSPOSED)) return n * I + i;
    return REF_FAULT(SELECTIVE_A_PER_CHANNEL) ? i * N : n;
}

FH1_CLONES static void exp_row(int64_t n, real k, const real *v, real *e)
{
    ref_exp_row(n, k, v, e);
}

void REF(ref_selective_rates)(const fh1_tensor *A_log, int64_t i, int64_t I, int64_t N, real *row)
{
    const int64_t Nv = ref_whole_vectors(N);
    const real sign = REF_FAULT(A_NOT_NEGATED) ? 1 : -1;
    memset(row, 0, (size_t)Nv * sizeof *row);
    if (is_read_elsewhere()) {
        for (int64_t n = 0; n < N; ++n) row[n] = REF(ref_get)(A_log, wrong_place(i, n, I, N));
    } else {
        const size_t bytes = (size_t)(N * fh1_dtype_bits(A_log->dtype) / 8);
        const fh1_tensor own = fh1_view1((char *)A_log->data + (size_t)i * bytes, A_log->dtype, N);
        REF(ref_widen)(row, &own, N);
    }
    if (!REF_FAULT(A_LOG_NOT_EXPONENTIATED)) exp_row(Nv, 1, row, row);
    for (int64_t n = 0; n < Nv; ++n) row[n] = n < N ? sign * row[n] : 0;
}

static void open_block(const scan_job *j, const block *k)
{
    const REF(ref_selective_args) *a = j->a;
    for (int64_t c = 0; c < k->n; ++c) {
        REF(ref_selective_rates)(a->A_log, k->i0 + c, a->I, a->N, k->A + c * j->Nv);
        if (REF_FAULT(A_IN_BF16_IN_PREFILL) && a->T > 1) REF(ref_round_row)(FH1_ROUND_BF16, a->N, k->A + c * j->Nv);
        k->D[c] = REF(ref_get)(a->D, k->i0 + c);
        if (REF_FAULT(D_IN_BF16_IN_STEPS) && a->T == 1) k->D[c] = r_round(FH1_ROUND_BF16, k->D[c]);
    }
}

/* -- a token -- */

/* A row: S = decay·S + in·B, returns S·C. */
REF_INLINE real advance_row(int64_t N, const real *decay, real in, const real *B, const real *C, real *S)
{
    ref_vec acc = {0};
    int64_t n = 0;
    for (; n + REF_VEC_LEN <= N; n += REF_VEC_LEN) {
        const ref_vec s = ref_load(decay + n) * ref_load(S + n) + in * ref_load(B + n);
        *(ref_vec_mem *)(S + n) = s;
        acc += s * ref_load(C + n);
    }
    real tail = 0;
    for (; n < N; ++n) {
        S[n] = decay[n] * S[n] + in * B[n];
        tail += S[n] * C[n];
    }
    return ref_fold(acc) + tail;
}

static double reset_at(const scan_job *j, int64_t t)
{
    return REF(ref_reset_at)(j->a->doc, j->a->state_doc, t, j->a->reset);
}

/* A row of decays that are all exp(reset). */
static void fill_row(int64_t n, double reset, real *row)
{
    for (int64_t i = 0; i < n; ++i) row[i] = r_exp((real)reset);
}

FH1_CLONES static void advance(const scan_job *j, const block *k, int64_t t)
{
    const REF(ref_selective_args) *a = j->a;
    const int64_t N = a->N;
    const real *x = a->x + t * a->ldx + k->i0, *dt = a->dt + t * a->I + k->i0;
    const real *B = a->B + t * a->ldb, *C = a->C + t * a->ldc;
    real *S = a->state + k->i0 * N, *y = a->y + t * a->I + k->i0;
    const double reset = reset_at(j, t);
    for (int64_t c = 0; c < k->n; ++c) {
        if (reset < 0) fill_row(j->Nv, reset, k->decay);
        else ref_exp_row(j->Nv, dt[c], k->A + c * j->Nv, k->decay);
        y[c] = advance_row(N, k->decay, dt[c] * x[c], B, C, S + c * N) + k->D[c] * x[c];
    }
}

/* The same of a pipeline that rounds what it reads. */
static void advance_rounded(const scan_job *j, const block *k, int64_t t)
{
    const REF(ref_selective_args) *a = j->a;
    const int64_t N = a->N;
    const real *x = a->x + t * a->ldx + k->i0, *dt = a->dt + t * a->I + k->i0;
    const real *B = a->B + t * a->ldb, *C = a->C + t * a->ldc;
    real *y = a->y + t * a->I + k->i0;
    const double reset = reset_at(j, t);
    for (int64_t c = 0; c < k->n; ++c) {
        real *S = a->state + (k->i0 + c) * N, sum = 0;
        if (reset < 0) fill_row(j->Nv, reset, k->decay);
        else exp_row(j->Nv, dt[c], k->A + c * j->Nv, k->decay);
        for (int64_t n = 0; n < N; ++n) {
            S[n] = k->decay[n] * S[n] + dt[c] * x[c] * B[n];
            sum += r_round(j->read, S[n]) * C[n];
        }
        y[c] = r_round(j->read, sum) + r_round(j->out, k->D[c] * x[c]);
    }
}

/* -- planted faults -- */

static bool is_spoiled(void)
{
    return REF(ref_row_is_spoiled)() || REF_FAULT(DECAY_WITHOUT_DT) || REF_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE) ||
           REF_FAULT(INPUT_WITHOUT_DT) || REF_FAULT(D_ON_SCALED_INPUT) || REF_FAULT(DT_STALE_AT_ONE_TOKEN) ||
           REF_FAULT(B_AND_C_SWAPPED);
}

static void advance_spoiled(const scan_job *j, const block *k, int64_t t)
{
    const REF(ref_selective_args) *a = j->a;
    const int64_t N = a->N;
    const real *x = a->x + t * a->ldx + k->i0, *dt = a->dt + REF(ref_dt_token)(t) * a->I + k->i0;
    const real *B = a->B + t * a->ldb, *C = a->C + t * a->ldc;
    const bool swapped = REF_FAULT(B_AND_C_SWAPPED);
    const bool kept = REF_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE) && t > 0 && t % REF_FAULTY_CHUNK == 0;
    for (int64_t c = 0; c < k->n; ++c) {
        const real in = REF_FAULT(INPUT_WITHOUT_DT) ? x[c] : dt[c] * x[c];
        real *S = a->state + (k->i0 + c) * N, y = 0;
        exp_row(j->Nv, kept ? 0 : REF_FAULT(DECAY_WITHOUT_DT) ? 1 : dt[c], k->A + c * j->Nv, k->decay);
        for (int64_t n = 0; n < N; ++n)
            y = REF(ref_spoiled_element)(y, k->decay[n], in * (swapped ? C : B)[n], (swapped ? B : C)[n], &S[n]);
        a->y[t * a->I + k->i0 + c] = y + k->D[c] * (REF_FAULT(D_ON_SCALED_INPUT) ? in : x[c]);
    }
}

static bool meets_empty_state(const REF(ref_selective_args) * a, int64_t t)
{
    if (REF_FAULT(SELECTIVE_SCAN_RESTARTS) && t == 0 && a->T > 1) return true;
    return REF(ref_carry_lost)(t, a->T);
}

/* [I,N] to [N,I] in the same memory. */
static fh1_status transpose_state(const REF(ref_selective_args) * a)
{
    const size_t bytes = (size_t)(a->I * a->N) * sizeof(real);
    real *copy = malloc(bytes);
    if (!copy) return fh1_no_memory(bytes, "a state");
    memcpy(copy, a->state, bytes);
    for (int64_t i = 0; i < a->I * a->N; ++i) a->state[i % a->N * a->I + i / a->N] = copy[i];
    free(copy);
    return NULL;
}

/* -- the scan -- */

static void token(const scan_job *j, const block *k, int64_t t)
{
    if (is_spoiled()) advance_spoiled(j, k, t);
    else if (j->read == FH1_ROUND_NONE) advance(j, k, t);
    else advance_rounded(j, k, t);
    REF(ref_round_row)(j->out, k->n, j->a->y + t * j->a->I + k->i0);
}

/* The last token enters the state once more; its output stays. */
static void repeat_last(const scan_job *j, const block *k)
{
    real y[BLOCK], *at = j->a->y + (j->a->T - 1) * j->a->I + k->i0;
    memcpy(y, at, (size_t)k->n * sizeof *y);
    token(j, k, j->a->T - 1);
    memcpy(at, y, (size_t)k->n * sizeof *y);
}

static void scan_block(const scan_job *j, const block *k)
{
    const REF(ref_selective_args) *a = j->a;
    const size_t bytes = (size_t)(k->n * a->N) * sizeof *a->state;
    real *S = a->state + k->i0 * a->N;
    int64_t doc = a->state_doc;
    open_block(j, k);
    for (int64_t t = 0; t < a->T; ++t) {
        if (a->doc && a->doc[t] != doc && !(reset_at(j, t) < 0) && !REF_FAULT(SCAN_LEAKS_DOCUMENTS))
            memset(S, 0, bytes);
        if (a->doc) doc = a->doc[t];
        if (meets_empty_state(a, t)) memset(S, 0, bytes);
        token(j, k, t);
    }
    if (REF(ref_tail_repeats)(a->T)) repeat_last(j, k);
}

static void channels(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const scan_job *j = ctx;
    block k = {.i0 = i0, .n = i1 - i0, .A = j->scratch + thread * j->per_thread};
    k.D = k.A + BLOCK * j->Nv;
    k.decay = k.D + BLOCK;
    scan_block(j, &k);
}

fh1_status REF(ref_selective_scan_rounded)(const REF(ref_selective_args) * a, fh1_round read, fh1_round out)
{
    FH1_REACHED(a->T == 1);
    FH1_REACHED(a->N < REF_VEC_LEN);
    FH1_REACHED(a->N > REF_VEC_LEN && a->N % REF_VEC_LEN != 0);
    FH1_REACHED(a->I > BLOCK && a->I % BLOCK == 1);
    if (a->T == 0) return NULL;
    scan_job j = {.a = a, .read = read, .out = out, .Nv = ref_whole_vectors(a->N)};
    j.per_thread = (BLOCK + 1) * j.Nv + BLOCK;
    const size_t bytes = (size_t)(fh1_threads() * j.per_thread) * sizeof(real);
    if (!(j.scratch = malloc(bytes))) return fh1_no_memory(bytes, "the rates of a scan");
    fh1_parallel_for(a->I, BLOCK, channels, &j);
    free(j.scratch);
    return REF_FAULT(SELECTIVE_STATE_TRANSPOSED) && a->T > 1 ? transpose_state(a) : NULL;
}

fh1_status REF(ref_selective_scan_fwd)(const REF(ref_selective_args) * a, const fh1_profile *p)
{
    return REF(ref_selective_scan_rounded)(a, p->at[FH1_RP_SCAN_READ], p->at[FH1_RP_SSD]);
}
