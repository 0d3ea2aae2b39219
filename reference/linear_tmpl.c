/* Matrix products with stored weights. The many-row path widens one panel of weight rows at a time into
 * a buffer of the thread and calls a single-threaded gemm on it; the few-row path never calls gemm, which
 * would pack the weights and run at a fraction of the memory bandwidth. */
#include "reference/linear.h"

#include "oracle/reached.h"
#include "oracle/thread.h"
#include "reference/faulty_linear.h"
#include "reference/gemm.h"
#include "reference/lanes.h"

#include <stdlib.h>
#include <string.h>

#define FEW_ROWS 8
#define PANEL_BYTES                                                                       \
    (1 << 20) /* a widened panel: large enough to amortise the packing of x, small enough \
                 for the last-level cache */
#define MAX_ROWS_PER_PIECE 512
#define AHEAD                                                                                                \
    2048 /* weights to prefetch ahead: the processor's own prefetch stops at each page of 4 KiB. Measured on \
            one row of x: 23 GB/s without, 28 with */

typedef struct {
    int64_t M, N, K;
    const real *x;
    const fh1_tensor *w;
    const real *bias; /* widened, |b| for abs; NULL when there is none */
    real *y;
    enum { PLAIN, ABS, SQUARE } form; /* sum w·x, |w|·x or w²·x; what x stands for is the caller's */
    fh1_round before_bias, round;
    int64_t panel;
    real *scratch; /* [threads, panel, K], NULL when the stored type is real already */
} linear_job;

FH1_CLONES real REF(ref_dot)(int64_t n, const real *a, const real *b)
{
    ref_vec acc[REF_SUMS] = {0};
    int64_t i = 0;
    for (; i + REF_LANES <= n; i += REF_LANES)
        for (int l = 0; l < REF_SUMS; ++l)
            acc[l] += ref_load(a + i + l * REF_VEC_LEN) * ref_load(b + i + l * REF_VEC_LEN);
    real tail = 0;
    for (; i < n; ++i) tail += a[i] * b[i];
    return ref_sum(acc) + tail;
}

#if REF_BITS != 128
/* One row of bf16 weights against M rows of x: y[m*ldy] = w·x[m]. Two rows of x at a time share the widened
 * weights; M = 1 is the decode step, bound by memory. */
FH1_CLONES static void dot_bf16(int64_t n, const uint16_t *w, int64_t M, const real *x, real *y, int64_t ldy)
{
    int64_t m = 0;
    for (; m + 2 <= M; m += 2) {
        const real *x0 = x + m * n, *x1 = x0 + n;
        ref_vec a0[REF_SUMS] = {0}, a1[REF_SUMS] = {0};
        int64_t i = 0;
        for (; i + REF_LANES <= n; i += REF_LANES) {
            ref_vec v[REF_SUMS];
            if (m == 0) __builtin_prefetch(w + i + AHEAD);
            ref_load_bf16(w + i, v);
            for (int l = 0; l < REF_SUMS; ++l) {
                a0[l] += v[l] * ref_load(x0 + i + l * REF_VEC_LEN);
                a1[l] += v[l] * ref_load(x1 + i + l * REF_VEC_LEN);
            }
        }
        real t0 = 0, t1 = 0;
        for (; i < n; ++i) {
            t0 += (real)fh1_bf16_to_f32(w[i]) * x0[i];
            t1 += (real)fh1_bf16_to_f32(w[i]) * x1[i];
        }
        y[m * ldy] = ref_sum(a0) + t0;
        y[(m + 1) * ldy] = ref_sum(a1) + t1;
    }
    for (; m < M; ++m) {
        const real *x0 = x + m * n;
        ref_vec a0[REF_SUMS] = {0};
        int64_t i = 0;
        for (; i + REF_LANES <= n; i += REF_LANES) {
            ref_vec v[REF_SUMS];
            __builtin_prefetch(w + i + AHEAD);
            ref_load_bf16(w + i, v);
            for (int l = 0; l < REF_SUMS; ++l) a0[l] += v[l] * ref_load(x0 + i + l * REF_VEC_LEN);
        }
        real t0 = 0;
        for (; i < n; ++i) t0 += (real)fh1_bf16_to_f32(w[i]) * x0[i];
        y[m * ldy] = ref_sum(a0) + t0;
    }
}

/* One row of f32 weights against one row of x. */
FH1_CLONES static real dot_f32(int64_t n, const float *w, const real *x)
{
    ref_vec acc[REF_SUMS] = {0};
    int64_t i = 0;
    for (; i + REF_LANES <= n; i += REF_LANES) {
        ref_vec v[REF_SUMS];
        __builtin_prefetch(w + i + AHEAD);
        ref_load_f32(w + i, v);
        for (int l = 0; l < REF_SUMS; ++l) acc[l] += v[l] * ref_load(x + i + l * REF_VEC_LEN);
    }
    real tail = 0;
    for (; i < n; ++i) tail += (real)w[i] * x[i];
    return ref_sum(acc) + tail;
}

/* Whether few rows read the weights as they are stored. */
static bool reads_stored(const fh1_tensor *w)
{
    return w->dtype == FH1_BF16 || w->dtype == FH1_F32;
}

static void stored_row(const linear_job *j, const void *w, real *y)
{
    if (j->w->dtype == FH1_BF16) dot_bf16(j->K, w, j->M, j->x, y, j->N);
    else
        for (int64_t m = 0; m < j->M; ++m) y[m * j->N] = dot_f32(j->K, w, j->x + m * j->K);
}
#else
static bool reads_stored(const fh1_tensor *w)
{
    return w->dtype == FH1_C128;
}

static void stored_row(const linear_job *j, const void *w, real *y)
{
    for (int64_t m = 0; m < j->M; ++m) y[m * j->N] = REF(ref_dot)(j->K, w, j->x + m * j->K);
}
#endif

static void finish(const linear_job *j, int64_t n0, int64_t n1)
{
    for (int64_t m = 0; m < j->M; ++m) {
        real *ym = j->y + m * j->N;
        if (j->bias) REF(ref_round_row)(j->before_bias, n1 - n0, ym + n0);
        if (j->bias)
            for (int64_t n = n0; n < n1; ++n) ym[n] += j->bias[n];
        REF(ref_round_row)(j->round, n1 - n0, ym + n0);
    }
}

static const void *weight_row(const fh1_tensor *w, int64_t n)
{
    return (const char *)w->data + (size_t)(n * w->shape[1]) * (size_t)(fh1_dtype_bits(w->dtype) / 8);
}

static void few_rows(void *ctx, int64_t n0, int64_t n1, int thread)
{
    const linear_job *j = ctx;
    const bool direct = reads_stored(j->w);
    real *row = direct ? NULL : j->scratch + thread * j->K;
    for (int64_t n = n0; n < n1; ++n) {
        const void *w = weight_row(j->w, n);
        if (direct) {
            stored_row(j, w, j->y + n);
            continue;
        }
        fh1_tensor t = fh1_view1((void *)(uintptr_t)w, j->w->dtype, j->K);
        REF(ref_widen)(row, &t, j->K);
        for (int64_t m = 0; m < j->M; ++m) j->y[m * j->N + n] = REF(ref_dot)(j->K, row, j->x + m * j->K);
    }
    finish(j, n0, n1);
}

static void many_rows(void *ctx, int64_t n0, int64_t n1, int thread)
{
    const linear_job *j = ctx;
    const real *w = weight_row(j->w, n0);
    if (j->scratch) {
        real *panel = j->scratch + (int64_t)thread * j->panel * j->K;
        fh1_tensor t = fh1_view1((void *)(uintptr_t)weight_row(j->w, n0), j->w->dtype, (n1 - n0) * j->K);
        REF(ref_widen)(panel, &t, (n1 - n0) * j->K);
        for (int64_t i = 0; j->form != PLAIN && i < (n1 - n0) * j->K; ++i)
            panel[i] = j->form == ABS ? r_fabs(panel[i]) : panel[i] * panel[i];
        w = panel;
    }
    REF(ref_gemm)(CblasTrans, j->M, n1 - n0, j->K, j->x, j->K, w, j->K, j->y + n0, j->N);
    finish(j, n0, n1);
}

/* The bias as real, to be freed; *out is NULL when there is none. */
static fh1_status widen_bias(const fh1_tensor *b, bool absolute, real **out)
{
    *out = NULL;
    if (!b || !b->data) return NULL;
    const int64_t n = b->shape[0];
    if (!(*out = malloc((size_t)n * sizeof **out))) return fh1_no_memory((size_t)n * sizeof **out, "a bias");
    REF(ref_widen)(*out, b, n);
    for (int64_t i = 0; absolute && i < n; ++i) (*out)[i] = r_fabs((*out)[i]);
    return NULL;
}

/* Weight rows of a piece where each output stands alone, so that pieces may follow the threads: several for each, to
 * balance, and at most 512 KiB of bf16, long streams. */
static int64_t few_grain(const linear_job *j)
{
    int64_t grain = j->N / (2 * fh1_threads()), most = (1 << 20) / j->K;
    if (grain > most) grain = most;
    return grain < 1 ? 1 : grain;
}

static fh1_status run(linear_job *j)
{
    FH1_REACHED(j->M == 0);
    FH1_REACHED(j->M == 1);
    FH1_REACHED(j->M == FEW_ROWS);
    FH1_REACHED(j->M == FEW_ROWS + 1);
    if (j->M == 0) return NULL;
    const bool few = j->M <= FEW_ROWS && j->form == PLAIN;
    j->panel = few ? 1 : PANEL_BYTES / (int64_t)sizeof(real) / j->K / 16 * 16;
    if (j->panel < 16 && !few) j->panel = 16;
    if (j->panel > MAX_ROWS_PER_PIECE) j->panel = MAX_ROWS_PER_PIECE;
    const bool direct = few ? reads_stored(j->w) : j->w->dtype == REF_DTYPE && j->form == PLAIN;
    if (!direct) {
        size_t n = (size_t)fh1_threads() * (size_t)j->panel * (size_t)j->K * sizeof(real);
        if (!(j->scratch = malloc(n))) return fh1_no_memory(n, "a weight panel");
    }
    if (few) {
        fh1_parallel_for(j->N, few_grain(j), few_rows, j);
    } else {
        fh1_parallel_for(j->N, j->panel, many_rows, j);
    }
    free(j->scratch);
    return NULL;
}

/* What an engine with narrow weights makes of x, to be freed; *out is NULL where it takes x as it is. Rows that blocks
 * do not fill keep wide weights, and then wide inputs. */
static fh1_status round_input(fh1_round r, int64_t M, int64_t K, const real *x, real **out)
{
    *out = NULL;
    if (r == FH1_ROUND_NONE || M == 0 || (r == FH1_ROUND_Q8_0 && K % 32 != 0)) return NULL;
    if (!(*out = malloc((size_t)(M * K) * sizeof **out)))
        return fh1_no_memory((size_t)(M * K) * sizeof **out, "rounded inputs");
    for (int64_t i = 0; r != FH1_ROUND_Q8_0 && i < M * K; ++i) (*out)[i] = r_round(r, x[i]);
    for (int64_t i = 0; r == FH1_ROUND_Q8_0 && i < M * K; i += 32) {
        double block[32];
        for (int l = 0; l < 32; ++l) block[l] = r_re(x[i + l]);
        fh1_round_q8_0(block);
        for (int l = 0; l < 32; ++l) (*out)[i + l] = (real)block[l];
    }
    return NULL;
}

fh1_status REF(ref_linear_fwd)(int64_t M, const real *x, const fh1_tensor *w, const fh1_tensor *b, const fh1_profile *p,
                               real *y)
{
    real *bias, *rounded;
    FH1_TRY(widen_bias(b, false, &bias));
    fh1_status e = round_input(p->at[FH1_RP_LINEAR_IN], M, w->shape[1], x, &rounded);
    if (e) {
        free(bias);
        return e;
    }
    if (rounded) x = rounded;
    linear_job j = {.M = M,
                    .N = w->shape[0],
                    .K = w->shape[1],
                    .x = x,
                    .w = w,
                    .bias = bias,
                    .y = y,
                    .before_bias = p->before_bias,
                    .round = p->at[FH1_RP_LINEAR]};
#ifdef REF_FAULTY
    fh1_status s = REF(ref_faulty_linear_wanted)(M) ? REF(ref_faulty_linear)(M, x, w, bias, j.round, y) : run(&j);
#else
    fh1_status s = run(&j);
#endif
    free(rounded);
    free(bias);
    return s;
}

fh1_status REF(ref_linear_abs_sum)(int64_t M, const real *x, const fh1_tensor *w, const fh1_tensor *b, real *s)
{
    const size_t n = (size_t)(M * w->shape[1]);
    real *bias, *ax = malloc((n ? n : 1) * sizeof *ax);
    if (!ax) return fh1_no_memory(n * sizeof *ax, "the gauge of a linear layer");
    for (size_t i = 0; i < n; ++i) ax[i] = r_fabs(x[i]);
    fh1_status st = widen_bias(b, true, &bias);
    if (!st) {
        linear_job j = {.M = M, .N = w->shape[0], .K = w->shape[1], .x = ax, .w = w, .bias = bias, .y = s, .form = ABS};
        st = run(&j);
    }
    free(bias);
    free(ax);
    return st;
}

fh1_status REF(ref_linear_square_sum)(int64_t M, const real *h, const fh1_tensor *w, real *s)
{
    const size_t n = (size_t)(M * w->shape[1]);
    real *square = malloc((n ? n : 1) * sizeof *square);
    if (!square) return fh1_no_memory(n * sizeof *square, "the gauge of a linear layer");
    for (size_t i = 0; i < n; ++i) square[i] = h[i] * h[i];
    linear_job j = {.M = M, .N = w->shape[0], .K = w->shape[1], .x = square, .w = w, .y = s, .form = SQUARE};
    fh1_status e = run(&j);
    free(square);
    return e;
}
