#include "reference/selective_scan_bwd.h"

#include "oracle/thread.h"
#include "reference/lanes_exp.h"
#include "reference/scan_faults.h"
#include "reference/selective_scan.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 32 /* channels of a piece of work */,
    SUM = 64 /* tokens of a partial sum */,
    CHUNK = 16 /* of faults */
};

/* Rows of N are kept as whole vectors, Nv numbers, with zeros behind. */
typedef struct {
    const REF(ref_selective_bwd_args) * a;
    int64_t Nv, L, begin, end; /* tokens of a segment, those of the present one */
    real *start;               /* [segments, I, Nv]: states before each segment */
    real *carry;               /* [I, Nv]: a_{t+1}·dS_{t+1} */
    real *bc;                  /* [L, 2, Nv]: B and C of the segment */
    real *share;               /* [blocks, L, 2, Nv]: dB and dC of each block */
    double *sum;               /* [I, N + 1]: Σ Δ·q, Σ e·x */
    real *scratch;
    int64_t per_thread;
} scan_job;

/* What a thread has of one channel in one segment; rows of Nv. */
typedef struct {
    int64_t i;
    real D;
    real *A, *zero, *part; /* part: Σ Δ·q of at most SUM tokens */
    real *decay;           /* [L]: a_t */
    real *S;               /* [L + 1]: states before the segment and after each token */
} channel;

static int64_t segment_of(int64_t T)
{
    int64_t L = SUM;
    while (L * L < T) L += SUM;
    return L;
}

static bool begins(const REF(ref_selective_bwd_args) * a, int64_t t)
{
    return REF(ref_doc_begins)(a->doc, a->state_doc, t);
}

static double reset(const REF(ref_selective_bwd_args) * a, int64_t t)
{
    return REF(ref_reset_at)(a->doc, a->state_doc, t, a->reset);
}

static void put_row(const scan_job *j, const real *from, real *row)
{
    memset(row, 0, (size_t)j->Nv * sizeof *row);
    if (from) memcpy(row, from, (size_t)j->a->N * sizeof *row);
}

static channel open_channel(const scan_job *j, int64_t i, int thread)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    const int64_t Nv = j->Nv;
    channel k = {.i = i, .D = REF(ref_get)(a->D, i), .A = j->scratch + thread * j->per_thread};
    k.zero = k.A + Nv;
    k.part = k.zero + Nv;
    k.decay = k.part + Nv;
    k.S = k.decay + j->L * Nv;
    put_row(j, NULL, k.zero);
    put_row(j, NULL, k.part);
    REF(ref_selective_rates)(a->A_log, i, a->I, a->N, k.A);
    memcpy(k.S, j->start + (j->begin / j->L * a->I + i) * Nv, (size_t)Nv * sizeof *k.S);
    return k;
}

/* -- states again -- */

FH1_CLONES static void advance(const scan_job *j, const channel *k)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    const int64_t Nv = j->Nv;
    for (int64_t t = j->begin; t < j->end; ++t) {
        const real dt = a->dt[t * a->I + k->i], in = dt * a->x[t * a->ldx + k->i];
        const real *B = j->bc + (t - j->begin) * 2 * Nv;
        real *S = k->S + (t - j->begin) * Nv, *decay = k->decay + (t - j->begin) * Nv;
        const double by = reset(a, t);
        const real *before = begins(a, t) && !(by < 0) ? k->zero : S;
        if (by < 0)
            for (int64_t n = 0; n < Nv; ++n) decay[n] = r_exp((real)by);
        else ref_exp_row(Nv, dt, k->A, decay);
        for (int64_t n = 0; n < Nv; n += REF_VEC_LEN)
            *(ref_vec_mem *)(S + Nv + n) = ref_load(decay + n) * ref_load(before + n) + in * ref_load(B + n);
    }
}

/* -- backwards -- */

/* Sums over a row: x·dS·B without the x, and A·q. */
typedef struct {
    real by_b, by_rate;
} row_sums;

/* Token t of a channel; dB and dC are those of the block. */
REF_INLINE row_sums retreat(const scan_job *j, const channel *k, int64_t t, real e, real in, real *dB, real *dC)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    const int64_t Nv = j->Nv, at = (t - j->begin) * Nv;
    const real *B = j->bc + 2 * at, *C = B + Nv, *decay = k->decay + at;
    const real *before = k->S + at + (REF_FAULT(GRAD_STATE_AFTER) ? Nv : 0);
    const real *after = k->S + at + (REF_FAULT(GRAD_C_FROM_STATE_BEFORE) ? 0 : Nv);
    const real dt = a->dt[t * a->I + k->i];
    const bool first = begins(a, t) && !REF_FAULT(GRAD_DECAY_CROSSES_DOCUMENTS),
               ends = REF(ref_carry_ends)(a->doc, a->state_doc, t) && !(reset(a, t) < 0);
    real *carry = j->carry + k->i * Nv;
    ref_vec by_b = {0}, by_rate = {0};
    const ref_vec none = {0};
    for (int64_t n = 0; n < Nv; n += REF_VEC_LEN) {
        const ref_vec dS = ref_load(carry + n) + e * ref_load(C + n), back = ref_load(decay + n) * dS;
        const ref_vec q = first ? none : back * ref_load(before + n);
        *(ref_vec_mem *)(dC + n) = ref_load(dC + n) + e * ref_load(after + n);
        *(ref_vec_mem *)(dB + n) = ref_load(dB + n) + in * dS;
        *(ref_vec_mem *)(k->part + n) = ref_load(k->part + n) + dt * q;
        *(ref_vec_mem *)(carry + n) = ends ? none : back;
        by_b += dS * ref_load(B + n);
        by_rate += ref_load(k->A + n) * q;
    }
    return (row_sums){ref_fold(by_b), ref_fold(by_rate)};
}

/* The partial sums of a channel join what is summed in f64. */
static void flush(const scan_job *j, const channel *k, real *dD)
{
    double *sum = j->sum + k->i * (j->a->N + 1);
    for (int64_t n = 0; n < j->a->N; ++n) sum[n] += (double)k->part[n];
    sum[j->a->N] += (double)*dD;
    put_row(j, NULL, k->part);
    *dD = 0;
}

FH1_CLONES static void retreat_channel(const scan_job *j, const channel *k, real *share)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    real dD = 0;
    for (int64_t t = j->end - 1; t >= j->begin; --t) {
        const real e = a->dy[t * a->I + k->i], x = a->x[t * a->ldx + k->i], dt = a->dt[t * a->I + k->i];
        real *dB = share + (t - j->begin) * 2 * j->Nv;
        const row_sums s = retreat(j, k, t, e, REF_FAULT(GRAD_B_WITHOUT_DT) ? x : dt * x, dB, dB + j->Nv);
        const real by_input = REF_FAULT(GRAD_DT_INPUT_DROPPED) ? 0 : x * s.by_b;
        const real by_decay = REF_FAULT(GRAD_DT_DECAY_DROPPED) ? 0 : s.by_rate;
        if (a->dx) a->dx[t * a->lddx + k->i] = dt * s.by_b + (REF_FAULT(GRAD_X_WITHOUT_SKIP) ? 0 : k->D * e);
        if (a->ddt) a->ddt[t * a->I + k->i] = by_input + by_decay;
        if (!REF_FAULT(GRAD_D_RACE) || t % 2) dD += e * x;
        if (t % SUM == 0) flush(j, k, &dD);
    }
}

static void channels_forward(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const scan_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const channel k = open_channel(j, i, thread);
        advance(j, &k);
        real *next = j->start + ((j->begin / j->L + 1) * j->a->I + i) * j->Nv;
        memcpy(next, k.S + (j->end - j->begin) * j->Nv, (size_t)j->Nv * sizeof *next);
    }
}

static void channels_backward(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const scan_job *j = ctx;
    const size_t bytes = (size_t)(j->L * 2 * j->Nv) * sizeof(real);
    real *share = j->share + i0 / BLOCK * j->L * 2 * j->Nv;
    memset(share, 0, bytes);
    for (int64_t i = i0; i < i1; ++i) {
        const channel k = open_channel(j, i, thread);
        if (REF_FAULT(GRAD_B_AND_C_LAST_HEAD)) memset(share, 0, bytes);
        advance(j, &k);
        retreat_channel(j, &k, share);
    }
}

/* dB and dC of the tokens: the blocks in their order. */
static void tokens(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const scan_job *j = ctx;
    const REF(ref_selective_bwd_args) *a = j->a;
    const int64_t blocks = (a->I + BLOCK - 1) / BLOCK, row = 2 * j->Nv;
    for (int64_t i = i0; i < i1; ++i)
        for (int part = 0; part < 2; ++part) {
            real *out = part ? a->dC : a->dB;
            if (!out) continue;
            out += (j->begin + i) * (part ? a->lddc : a->lddb);
            for (int64_t n = 0; n < a->N; ++n) {
                double sum = 0;
                for (int64_t b = REF_FAULT(GRAD_B_AND_C_LAST_HEAD) ? blocks - 1 : 0; b < blocks; ++b)
                    sum += (double)j->share[(b * j->L + i) * row + part * j->Nv + n];
                out[n] = (real)sum;
            }
        }
}

/* -- the whole -- */

static void take_segment(scan_job *j, int64_t segment)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    j->begin = segment * j->L;
    j->end = j->begin + j->L < a->T ? j->begin + j->L : a->T;
    for (int64_t t = j->begin; t < j->end; ++t) {
        real *row = j->bc + (t - j->begin) * 2 * j->Nv;
        put_row(j, a->B + t * a->ldb, row);
        put_row(j, a->C + t * a->ldc, row + j->Nv);
    }
}

static void add_parameters(const scan_job *j)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    const int64_t learn = REF_FAULT(GRAD_A_LOG_OF_FIRST_STATE) ? 1 : a->N;
    for (int64_t i = 0; i < a->I; ++i) {
        const double *sum = j->sum + i * (a->N + 1);
        for (int64_t n = 0; a->dA_log && n < learn; ++n) {
            const double A = REF_FAULT(GRAD_A_LOG_WITHOUT_A) ? 1 : -exp(fh1_get(a->A_log, i * a->N + n));
            a->dA_log[i * a->N + n] += (real)(A * sum[n]);
        }
        if (a->dD) a->dD[i] += (real)sum[a->N];
    }
}

static void run(scan_job *j)
{
    const REF(ref_selective_bwd_args) *a = j->a;
    const int64_t segments = (a->T + j->L - 1) / j->L;
    for (int64_t i = 0; i < a->I; ++i) {
        put_row(j, a->state ? a->state + i * a->N : NULL, j->start + i * j->Nv);
        const bool wanted = a->dstate_out && !REF_FAULT(GRAD_FINAL_STATE_IGNORED);
        put_row(j, wanted ? a->dstate_out + i * a->N : NULL, j->carry + i * j->Nv);
    }
    for (int64_t s = 0; s + 1 < segments; ++s) {
        take_segment(j, s);
        fh1_parallel_for(a->I, BLOCK, channels_forward, j);
    }
    for (int64_t s = segments - 1; s >= 0; --s) {
        take_segment(j, s);
        fh1_parallel_for(a->I, BLOCK, channels_backward, j);
        fh1_parallel_for(j->end - j->begin, 4, tokens, j);
    }
    add_parameters(j);
    for (int64_t i = 0; a->dstate && i < a->I; ++i) {
        real *out = a->dstate + i * a->N;
        if (REF_FAULT(GRAD_INITIAL_STATE_LOST)) memset(out, 0, (size_t)a->N * sizeof *out);
        else memcpy(out, j->carry + i * j->Nv, (size_t)a->N * sizeof *out);
    }
}

fh1_status REF(ref_selective_scan_bwd)(const REF(ref_selective_bwd_args) * a)
{
    scan_job j = {.a = a, .Nv = ref_whole_vectors(a->N), .L = segment_of(a->T)};
    const int64_t segments = (a->T + j.L - 1) / j.L, blocks = (a->I + BLOCK - 1) / BLOCK;
    j.per_thread = (3 + j.L + j.L + 1) * j.Nv;
    const size_t states = (size_t)((segments > 0 ? segments : 1) * a->I * j.Nv), carry = (size_t)(a->I * j.Nv);
    const size_t bc = (size_t)(2 * j.L * j.Nv), share = (size_t)blocks * bc;
    const size_t scratch = (size_t)(fh1_threads() * j.per_thread), sums = (size_t)(a->I * (a->N + 1));
    const size_t bytes = (states + carry + bc + share + scratch) * sizeof(real);
    j.start = malloc(bytes);
    j.sum = calloc(sums + 1, sizeof *j.sum);
    fh1_status s = j.start && j.sum ? NULL : fh1_no_memory(bytes + sums * sizeof *j.sum, "the gradient of a scan");
    if (!s) {
        j.carry = j.start + states;
        j.bc = j.carry + carry;
        j.share = j.bc + bc;
        j.scratch = j.share + share;
        run(&j);
    }
    free(j.start);
    free(j.sum);
    return s;
}
