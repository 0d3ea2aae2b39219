#include "reference/ssd_scan_bwd.h"

#include "oracle/thread.h"
#include "reference/linear.h" /* ref_dot */
#include "reference/scan_faults.h"
#include "reference/ssd_rows_bwd.h"

#include <stdlib.h>
#include <string.h>

/* Three lengths. A chunk's states, of two rows, lie side by side while its tokens are gone through backwards. Each
 * chunk of a segment begins with a checkpoint. Each segment does, too, and between two segments B's and C's gradients
 * of all heads are added up, so that what a head keeps for itself is of one segment. */
enum { CHUNK = REF_SSD_CHUNK, SUM = 64 /* tokens of a partial sum */, SEGMENT = 512 };

typedef struct {
    const REF(ref_ssd_bwd_args) * a;
    int64_t L, begin, end; /* tokens of a segment, those of the present one */
    real *start;           /* [segments, H, P, N]: states before each segment */
    real *carry;           /* [H, P, N]: a_{t+1} dS_{t+1} */
    real *share;           /* [H, L, 2, N]: dB and dC of each head */
    double *sum;           /* [2, H]: dA, dD */
    real *scratch;         /* of each thread */
    int64_t n_scratch;
} scan_job;

/* What one thread has of one head in one segment. */
typedef struct {
    int64_t h;
    real A, D;
    real *decay; /* [L]: a_t */
    real *dt;    /* [L] */
    real *mark;  /* [L / CHUNK + 1, P, N]: the state before each chunk */
    real *row;   /* [2, CHUNK + 1, N]: of two rows, before and after each token */
    real *zero;  /* [N] */
    real *bc;    /* [CHUNK, 2, N]: B and C of a chunk; columns of a wide matrix would fall on few lines of the cache */
    real *x, *e; /* [P, CHUNK]: x and dy of a chunk */
    real *dx;    /* [P, CHUNK] */
    real *xdS;   /* [CHUNK]: x_tᵀ dS_t B_t */
    real *q;     /* [CHUNK]: ⟨dS_t, S_{t-1}⟩ */
} scan_head;

static int64_t segment_of(int64_t T, int64_t P)
{
    int64_t L = SEGMENT;
    while (L * L < T * P / 2) L += SEGMENT;
    return L;
}

static int64_t group_of(const REF(ref_ssd_bwd_args) * a, int64_t h)
{
    return REF_FAULT(GRAD_GROUPS_TILED) ? h % a->G : h / (a->H / a->G);
}

static const real *x_of(const REF(ref_ssd_bwd_args) * a, int64_t t, int64_t h)
{
    return a->xbc + t * a->ldx + h * a->P;
}

static const real *b_of(const REF(ref_ssd_bwd_args) * a, int64_t t, int64_t h)
{
    return a->xbc + t * a->ldx + a->H * a->P + group_of(a, h) * a->N;
}

static const real *c_of(const REF(ref_ssd_bwd_args) * a, int64_t t, int64_t h)
{
    return b_of(a, t, h) + a->G * a->N;
}

/* Head i of group g. */
static int64_t member(const REF(ref_ssd_bwd_args) * a, int64_t g, int64_t i)
{
    return REF_FAULT(GRAD_GROUPS_TILED) ? i * a->G + g : g * (a->H / a->G) + i;
}

static bool begins(const REF(ref_ssd_bwd_args) * a, int64_t t)
{
    return REF(ref_doc_begins)(a->doc, a->state_doc, t);
}

static double reset(const REF(ref_ssd_bwd_args) * a, int64_t t)
{
    return REF(ref_reset_at)(a->doc, a->state_doc, t, a->reset);
}

/* Whether nothing of what lies before reaches it. */
static bool cut(const REF(ref_ssd_bwd_args) * a, int64_t t)
{
    return begins(a, t) && !(reset(a, t) < 0);
}

/* What a chunk reads. */
static void fetch(const scan_job *j, const scan_head *k, int64_t t0, int64_t end)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    const int64_t N = a->N;
    for (int64_t t = t0; t < end; ++t) {
        const real *x = x_of(a, t, k->h), *e = a->dy + (t * a->H + k->h) * a->P;
        memcpy(k->bc + (t - t0) * 2 * N, b_of(a, t, k->h), (size_t)N * sizeof *x);
        memcpy(k->bc + (t - t0) * 2 * N + N, c_of(a, t, k->h), (size_t)N * sizeof *x);
        for (int64_t p = 0; p < a->P; ++p) {
            k->x[p * CHUNK + t - t0] = x[p];
            k->e[p * CHUNK + t - t0] = e[p];
        }
    }
}

/* -- states again -- */

/* Row p from S over tokens [t0, end), within a chunk: to `rows` and to `last` as in ref_ssd_advance. A document begins
 * from zeros. */
static void advance_row(const scan_job *j, const scan_head *k, int64_t t0, int64_t end, int64_t p, const real *S,
                        real *rows, real *last)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    real in[CHUNK];
    for (int64_t t = t0, next; t < end; t = next) {
        for (next = t; next < end && (next == t || !cut(a, next)); ++next)
            in[next - t] = k->dt[next - j->begin] * k->x[p * CHUNK + next - t0];
        REF(ref_ssd_advance)
        (next - t, a->N, k->decay + t - j->begin, in, k->bc + (t - t0) * 2 * a->N, 2 * a->N, cut(a, t) ? k->zero : S,
         rows ? rows + (t - t0) * a->N : NULL, last);
        S = last ? last : rows + (next - 1 - t0) * a->N;
    }
}

/* The state (all rows) over the tokens of the segment, from S on: S moves on by `step` with each chunk, 0 to be left
 * with the last state, P·N to have one before each chunk and one after all. */
static void run_segment(const scan_job *j, const scan_head *k, real *S, int64_t step)
{
    const int64_t P = j->a->P, N = j->a->N;
    for (int64_t t0 = j->begin; t0 < j->end; t0 += CHUNK, S += step) {
        const int64_t end = t0 + CHUNK < j->end ? t0 + CHUNK : j->end;
        fetch(j, k, t0, end);
        for (int64_t p = 0; p < P; ++p) advance_row(j, k, t0, end, p, S + p * N, NULL, S + step + p * N);
    }
}

static scan_head head_of(const scan_job *j, int64_t h, int thread)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    const int64_t marks = (j->L + CHUNK - 1) / CHUNK;
    scan_head k = {.h = h, .A = -r_exp((real)fh1_get(a->A_log, h)), .D = (real)fh1_get(a->D, h)};
    k.decay = j->scratch + thread * j->n_scratch;
    k.dt = k.decay + j->L;
    k.mark = k.dt + j->L;
    k.row = k.mark + (marks + 1) * a->P * a->N;
    k.zero = k.row + REF_SSD_ROWS * (CHUNK + 1) * a->N;
    k.bc = k.zero + a->N;
    k.x = k.bc + CHUNK * 2 * a->N;
    k.e = k.x + a->P * CHUNK;
    k.dx = k.e + a->P * CHUNK;
    k.xdS = k.dx + a->P * CHUNK;
    k.q = k.xdS + CHUNK;
    for (int64_t t = j->begin; t < j->end; ++t) {
        k.dt[t - j->begin] = a->dt[t * a->H + h];
        k.decay[t - j->begin] = r_exp(reset(a, t) < 0 ? (real)reset(a, t) : a->dt[t * a->H + h] * k.A);
    }
    memset(k.zero, 0, (size_t)a->N * sizeof *k.zero);
    return k;
}

/* The state before the next segment, of each head. */
static void heads_forward(void *ctx, int64_t h0, int64_t h1, int thread)
{
    const scan_job *j = ctx;
    const int64_t n = j->a->P * j->a->N;
    for (int64_t h = h0; h < h1; ++h) {
        const scan_head k = head_of(j, h, thread);
        real *S = j->start + (j->begin / j->L * j->a->H + h) * n, *next = S + j->a->H * n;
        memcpy(next, S, (size_t)n * sizeof *S);
        run_segment(j, &k, next, 0);
    }
}

/* -- backwards -- */

/* A planted fault: what dB gets from the right of each token as it was before the decay of token t + 1. */
static void add_undecayed(const scan_job *j, const scan_head *k, int64_t t0, int n, const REF(ref_ssd_rows) * rows)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    for (int r = 0; r < n; ++r)
        for (int64_t c = 0; c < a->N; ++c) {
            real carry = rows->carry[r][c];
            for (int64_t i = rows->n - 1; i >= 0; --i) {
                const int64_t t = t0 + i;
                const real decay = t + 1 < a->T ? r_exp(a->dt[(t + 1) * a->H + k->h] * k->A) : 1;
                if (decay > 0) rows->dB[i * rows->ld_out + c] += rows->in[r][i] * (carry / decay - carry);
                carry = rows->ends[i] ? 0 : rows->decay[i] * (carry + rows->e[r][i] * rows->C[i * rows->ld + c]);
            }
        }
}

/* Row r of those at hand, row p of the head: its states again, and what it is multiplied with. */
static void place_row(const scan_job *j, const scan_head *k, int64_t t0, int64_t end, int r, int64_t p,
                      REF(ref_ssd_rows) * rows)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    const int64_t N = a->N;
    const int64_t mark = (t0 - j->begin) / (REF_FAULT(GRAD_OTHER_CHUNK_LENGTH) ? 2 * CHUNK : CHUNK);
    real *before = k->row + r * (CHUNK + 1) * N, *after = before + N;
    memcpy(before, k->mark + (mark * a->P + p) * N, (size_t)N * sizeof *before);
    advance_row(j, k, t0, end, p, before, after, NULL);
    rows->before[r] = REF_FAULT(GRAD_STATE_AFTER) ? after : before;
    rows->after[r] = REF_FAULT(GRAD_C_FROM_STATE_BEFORE) ? before : after;
    rows->carry[r] = j->carry + (k->h * a->P + p) * N;
    for (int64_t i = 0; i < end - t0; ++i) {
        const real dt = REF_FAULT(GRAD_B_WITHOUT_DT) ? 1 : k->dt[t0 - j->begin + i];
        rows->e[r][i] = k->e[p * CHUNK + i];
        rows->in[r][i] = dt * k->x[p * CHUNK + i];
    }
}

/* dx of row p, and what it adds to x·dS·B and ⟨dS, S⟩. */
static void take_row(const scan_job *j, const scan_head *k, int64_t t0, int64_t end, int r, int64_t p,
                     const REF(ref_ssd_rows) * rows)
{
    const real skip = REF_FAULT(GRAD_X_WITHOUT_SKIP) ? 0 : k->D;
    for (int64_t i = 0; i < end - t0; ++i) {
        const real dot = rows->by_b[r][i];
        k->xdS[i] += k->x[p * CHUNK + i] * dot;
        k->dx[p * CHUNK + i] = k->dt[t0 - j->begin + i] * dot + skip * rows->e[r][i];
    }
}

static void store_dx(const scan_job *j, const scan_head *k, int64_t t0, int64_t end)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    for (int64_t t = t0; a->dxbc && t < end; ++t)
        for (int64_t p = 0; p < a->P; ++p) a->dxbc[t * a->lddx + k->h * a->P + p] = k->dx[p * CHUNK + t - t0];
}

/* The tokens of a chunk backwards, two rows at a time. */
static void retreat(const scan_job *j, const scan_head *k, int64_t t0, int64_t end)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    real *share = j->share + (k->h * j->L + t0 - j->begin) * 2 * a->N;
    bool ends[CHUNK];
    REF(ref_ssd_rows)
    rows = {.n = end - t0,
            .N = a->N,
            .ld = 2 * a->N,
            .ld_out = 2 * a->N,
            .decay = k->decay + t0 - j->begin,
            .ends = ends,
            .B = k->bc,
            .C = k->bc + a->N,
            .dB = share,
            .dC = share + a->N};
    for (int64_t t = t0; t < end; ++t)
        ends[t - t0] = REF(ref_carry_ends)(a->doc, a->state_doc, t) && !(reset(a, t) < 0);
    fetch(j, k, t0, end);
    for (int64_t p = 0; p < a->P; p += REF_SSD_ROWS) {
        const int n = p + REF_SSD_ROWS <= a->P ? REF_SSD_ROWS : 1;
        for (int r = 0; r < n; ++r) place_row(j, k, t0, end, r, p + r, &rows);
        if (REF_FAULT(GRAD_B_DECAY_MISSING) && a->doc) add_undecayed(j, k, t0, n, &rows);
        REF(ref_ssd_retreat)(n, &rows);
        for (int r = 0; r < n; ++r) take_row(j, k, t0, end, r, p + r, &rows);
        for (int64_t t = t0; t < end; ++t)
            if (!begins(a, t) || REF_FAULT(GRAD_DECAY_CROSSES_DOCUMENTS)) k->q[t - t0] += rows.by_state[t - t0];
    }
    store_dx(j, k, t0, end);
}

/* dΔ of a chunk, and what it adds to dA and dD. */
static void add_rates(const scan_job *j, const scan_head *k, int64_t t0, int64_t end, real part[2])
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    for (int64_t t = end - 1; t >= t0; --t) {
        const int64_t i = t - j->begin;
        const real q = k->decay[i] * k->q[t - t0];
        const real by_input = REF_FAULT(GRAD_DT_INPUT_DROPPED) ? 0 : k->xdS[t - t0];
        const real by_decay = REF_FAULT(GRAD_DT_DECAY_DROPPED) ? 0 : k->A * q;
        if (a->ddt) a->ddt[t * a->H + k->h] = by_input + by_decay;
        part[0] += k->dt[i] * q;
        if (REF_FAULT(GRAD_D_RACE) && t % 2 == 0) continue;
        part[1] += REF(ref_dot)(REF_FAULT(GRAD_D_FIRST_BLOCK) ? a->P / 2 : a->P, x_of(a, t, k->h),
                                a->dy + (t * a->H + k->h) * a->P);
    }
}

static void heads_backward(void *ctx, int64_t h0, int64_t h1, int thread)
{
    const scan_job *j = ctx;
    const REF(ref_ssd_bwd_args) *a = j->a;
    const int64_t P = a->P, N = a->N, n_chunks = (j->end - j->begin + CHUNK - 1) / CHUNK;
    for (int64_t h = h0; h < h1; ++h) {
        const scan_head k = head_of(j, h, thread);
        real part[2] = {0, 0};
        memcpy(k.mark, j->start + (j->begin / j->L * a->H + h) * P * N, (size_t)(P * N) * sizeof *k.mark);
        memset(j->share + h * j->L * 2 * N, 0, (size_t)(j->L * 2 * N) * sizeof *k.mark);
        run_segment(j, &k, k.mark, P * N);
        for (int64_t chunk = n_chunks - 1; chunk >= 0; --chunk) {
            const int64_t t0 = j->begin + chunk * CHUNK, end = t0 + CHUNK < j->end ? t0 + CHUNK : j->end;
            memset(k.xdS, 0, 2 * CHUNK * sizeof *k.xdS); /* and q */
            retreat(j, &k, t0, end);
            add_rates(j, &k, t0, end, part);
            if (t0 % SUM != 0) continue;
            j->sum[h] += (double)part[0], j->sum[a->H + h] += (double)part[1];
            part[0] = part[1] = 0;
        }
    }
}

/* dB and dC of the tokens: the heads of a group in their order. */
static void tokens(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const scan_job *j = ctx;
    const REF(ref_ssd_bwd_args) *a = j->a;
    const int64_t N = a->N, per_group = a->H / a->G;
    for (int64_t i = i0; i < i1; ++i)
        for (int64_t g = 0; g < a->G; ++g) {
            real *dB = a->dxbc + (j->begin + i) * a->lddx + a->H * a->P + g * N, *dC = dB + a->G * N;
            memset(dB, 0, (size_t)N * sizeof *dB);
            memset(dC, 0, (size_t)N * sizeof *dC);
            for (int64_t m = REF_FAULT(GRAD_B_AND_C_LAST_HEAD) ? per_group - 1 : 0; m < per_group; ++m) {
                const real *share = j->share + (member(a, g, m) * j->L + i) * 2 * N;
                for (int64_t n = 0; n < N; ++n) dB[n] += share[n];
                for (int64_t n = 0; n < N; ++n) dC[n] += share[N + n];
            }
        }
}

static void segment(scan_job *j, int64_t begin, fh1_loop_body heads)
{
    j->begin = begin;
    j->end = begin + j->L < j->a->T ? begin + j->L : j->a->T;
    fh1_parallel_for(j->a->H, 1, heads, j);
}

static void run(scan_job *j)
{
    const REF(ref_ssd_bwd_args) *a = j->a;
    const int64_t n = a->H * a->P * a->N;
    if (a->state) memcpy(j->start, a->state, (size_t)n * sizeof *j->start);
    if (a->dstate_out && !REF_FAULT(GRAD_FINAL_STATE_IGNORED))
        memcpy(j->carry, a->dstate_out, (size_t)n * sizeof *j->carry);
    int64_t begin = 0;
    for (; begin + j->L < a->T; begin += j->L) segment(j, begin, heads_forward);
    for (; begin >= 0 && a->T > 0; begin -= j->L) {
        segment(j, begin, heads_backward);
        if (a->dxbc) fh1_parallel_for(j->end - j->begin, 8, tokens, j);
    }
    if (REF_FAULT(GRAD_INITIAL_STATE_LOST)) memset(j->carry, 0, (size_t)n * sizeof *j->carry);
    if (a->dstate) memcpy(a->dstate, j->carry, (size_t)n * sizeof *a->dstate);
    for (int64_t h = 0; h < a->H; ++h) {
        const real A = REF_FAULT(GRAD_A_LOG_WITHOUT_A) ? 1 : -r_exp((real)fh1_get(a->A_log, h));
        if (a->dA_log) a->dA_log[h] += A * (real)j->sum[h];
        if (a->dD) a->dD[h] += (real)j->sum[a->H + h];
    }
}

fh1_status REF(ref_ssd_scan_bwd)(const REF(ref_ssd_bwd_args) * a)
{
    scan_job j = {.a = a, .L = segment_of(a->T, a->P)};
    const int64_t segments = a->T > 0 ? (a->T + j.L - 1) / j.L : 1, n = a->H * a->P * a->N;
    if (a->T < j.L) j.L = a->T > 0 ? a->T : 1;
    j.n_scratch = 2 * j.L + ((j.L + CHUNK - 1) / CHUNK + 1) * a->P * a->N +
                  (REF_SSD_ROWS * (CHUNK + 1) + 1 + 2 * CHUNK) * a->N + CHUNK * (3 * a->P + 2);
    const int64_t n_share = a->H * j.L * 2 * a->N, n_real = (segments + 1) * n + n_share + fh1_threads() * j.n_scratch;
    const size_t bytes = (size_t)(2 * a->H) * sizeof(double) + (size_t)n_real * sizeof(real);
    j.sum = calloc(1, bytes);
    if (!j.sum) return fh1_no_memory(bytes, "the states of a scan backwards");
    j.start = (real *)(j.sum + 2 * a->H);
    j.carry = j.start + segments * n;
    j.share = j.carry + n;
    j.scratch = j.share + n_share;
    run(&j);
    free(j.sum);
    return NULL;
}
