/* Tiles as in attention_tmpl.c: queries of the same document, whose common keys go through gemm and the last ones,
 * where causality cuts, one by one. A kv head is one piece of work: its dk and dv are sums over query heads and tiles.
 */
#include "reference/attention_bwd.h"

#include "oracle/thread.h"
#include "reference/attention_row.h"
#include "reference/linear.h" /* ref_dot */

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#define TILE 64          /* queries */
#define SCORES (1 << 20) /* scores of one tile at most, longer contexts take fewer queries */
#define MIN_GEMM 32      /* keys below which a matrix product does not pay */

#if REF_BITS == 64
#define gemm cblas_dgemm
#else
#define gemm cblas_sgemm
#endif

typedef struct {
    const REF(ref_attention_bwd_args) * a;
    const fh1_profile *exact;
    int64_t tile;
    real *scores; /* [threads, 2, tile, S] */
} attention_job;

/* Queries t0 … t1 of one head, all with the same first key. Rows of q, dout, dq are `ld` apart; keys count from the
 * first that is seen; p and ds [t1-t0, S]. */
typedef struct {
    int64_t t0, t1, ld, shared, n0; /* keys that go through gemm; keys that query t0 sees */
    int64_t S, A;
    const real *q, *dout, *k, *v;
    real *dq, *dk, *dv, *p, *ds;
} tile;

/* p = softmax(scale·q·kᵀ), as the forward op computes it. */
static void probabilities(const tile *t, const fh1_profile *exact)
{
    const real scale = REF(ref_attention_scale)(t->A);
    if (t->shared > 0)
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(t->t1 - t->t0), (int)t->shared, (int)t->A, 1, t->q,
             (int)t->ld, t->k, (int)t->A, 0, t->p, (int)t->S);
    for (int64_t j = 0; j < t->t1 - t->t0; ++j) {
        real *p = t->p + j * t->S;
        for (int64_t i = t->shared; i < t->n0 + j; ++i) p[i] = REF(ref_dot)(t->A, t->q + j * t->ld, t->k + i * t->A);
        REF(ref_attention_weigh)(t->n0 + j, scale, exact, p);
    }
}

/* By the scores before the scale: dp = dout·vᵀ by the probabilities, then back through the softmax, whose row sum takes
 * Σ p·dp from each, then the scale. */
static void by_scores(const tile *t)
{
    const real scale = REF(ref_attention_scale)(t->A);
    if (t->shared > 0)
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(t->t1 - t->t0), (int)t->shared, (int)t->A, 1, t->dout,
             (int)t->ld, t->v, (int)t->A, 0, t->ds, (int)t->S);
    for (int64_t j = 0; j < t->t1 - t->t0; ++j) {
        const real *p = t->p + j * t->S;
        real *ds = t->ds + j * t->S;
        const int64_t n = t->n0 + j;
        for (int64_t i = t->shared; i < n; ++i) ds[i] = REF(ref_dot)(t->A, t->dout + j * t->ld, t->v + i * t->A);
        const real row = REF_FAULT(GRAD_SOFTMAX_WITHOUT_ROW_TERM) ? 0 : REF(ref_dot)(n, p, ds);
        for (int64_t i = 0; i < n; ++i) ds[i] = p[i] * (ds[i] - row) * scale;
    }
}

/* dq: a score is q·k, so a query gets the keys it sees, weighed by ds. */
static void by_queries(const tile *t)
{
    if (t->shared > 0) {
        gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(t->t1 - t->t0), (int)t->A, (int)t->shared, 1, t->ds,
             (int)t->S, t->k, (int)t->A, 0, t->dq, (int)t->ld);
    } else {
        for (int64_t j = 0; j < t->t1 - t->t0; ++j) memset(t->dq + j * t->ld, 0, (size_t)t->A * sizeof *t->dq);
    }
    for (int64_t j = 0; j < t->t1 - t->t0; ++j)
        for (int64_t i = t->shared; i < t->n0 + j; ++i)
            REF(ref_attention_add)(t->A, t->ds[j * t->S + i], t->k + i * t->A, t->dq + j * t->ld);
}

/* dk with weights ds and rows q, or dv with weights p and rows dout: a key gets the queries that see it. */
static void by_keys(const tile *t, const real *weights, const real *rows, real *d)
{
    if (t->shared > 0)
        gemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)t->shared, (int)t->A, (int)(t->t1 - t->t0), 1, weights,
             (int)t->S, rows, (int)t->ld, 1, d, (int)t->A);
    for (int64_t j = 0; j < t->t1 - t->t0; ++j)
        for (int64_t i = t->shared; i < t->n0 + j; ++i)
            REF(ref_attention_add)(t->A, weights[j * t->S + i], rows + j * t->ld, d + i * t->A);
}

static void run_tile(const attention_job *j, int64_t t0, int64_t t1, int64_t h, int64_t kv, real *scratch)
{
    const REF(ref_attention_bwd_args) *a = j->a;
    const int64_t first = a->first[t0], of_query = (t0 * a->Hq + h) * a->A, of_key = (kv * a->ld_kv + first) * a->A;
    tile t = {.t0 = t0, .t1 = t1, .ld = a->Hq * a->A, .S = a->S, .A = a->A};
    t.n0 = a->S - a->T + t0 + 1 - first;
    t.shared = t.n0 - 1 < MIN_GEMM || t1 - t0 < 2 ? 0 : t.n0 - 1;
    t.q = a->q + of_query;
    t.dout = a->dout + of_query;
    t.k = a->k + of_key;
    t.v = a->v + of_key;
    t.p = scratch;
    t.ds = scratch + j->tile * a->S;
    probabilities(&t, j->exact);
    if (a->dv) by_keys(&t, t.p, t.dout, a->dv + of_key);
    if (!a->dq && !a->dk) return;
    by_scores(&t);
    if (a->dq) {
        t.dq = a->dq + of_query;
        by_queries(&t);
    }
    if (a->dk) by_keys(&t, t.ds, t.q, a->dk + of_key);
}

static void clear_keys(const REF(ref_attention_bwd_args) * a, int64_t kv, int64_t n)
{
    const size_t bytes = (size_t)(n * a->A) * sizeof(real);
    if (a->dk) memset(a->dk + kv * a->ld_kv * a->A, 0, bytes);
    if (a->dv) memset(a->dv + kv * a->ld_kv * a->A, 0, bytes);
}

static void kv_heads(void *ctx, int64_t kv0, int64_t kv1, int thread)
{
    const attention_job *j = ctx;
    const REF(ref_attention_bwd_args) *a = j->a;
    const int64_t group = a->Hq / a->Hkv;
    for (int64_t kv = kv0; kv < kv1; ++kv) {
        clear_keys(a, kv, a->S);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            if (REF_FAULT(GRAD_KV_HEADS_LAST_WINS)) clear_keys(a, kv, a->S);
            for (int64_t t0 = 0, t1; t0 < a->T; t0 = t1) {
                for (t1 = t0 + 1; t1 < a->T && t1 - t0 < j->tile && a->first[t1] == a->first[t0];) ++t1;
                run_tile(j, t0, t1, h, kv, j->scores + thread * 2 * j->tile * a->S);
            }
        }
        if (REF_FAULT(GRAD_PAST_KEYS_DROPPED)) clear_keys(a, kv, a->S - a->T);
        real *dk = a->dk ? a->dk + kv * a->ld_kv * a->A : NULL;
        for (int64_t i = 0; dk && REF_FAULT(GRAD_KEYS_NOT_SCALED) && i < a->S * a->A; ++i)
            dk[i] /= REF(ref_attention_scale)(a->A);
    }
}

fh1_status REF(ref_attention_bwd)(const REF(ref_attention_bwd_args) * a)
{
    int64_t n_tile = a->S > 0 ? SCORES / a->S : 1;
    if (n_tile > TILE) n_tile = TILE;
    if (n_tile > a->T) n_tile = a->T;
    if (n_tile < 1) n_tile = 1;
    const size_t n = (size_t)fh1_threads() * (size_t)(2 * n_tile * a->S) * sizeof(real);
    attention_job j = {a, fh1_profile_find(REF_BITS == 64 ? "exact" : "fp32"), n_tile, malloc(n + 1)};
    if (!j.scores) return fh1_no_memory(n, "attention scores");
    fh1_parallel_for(a->Hkv, 1, kv_heads, &j);
    free(j.scores);
    return NULL;
}
