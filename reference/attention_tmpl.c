/* Queries are taken in tiles that see the same document. The keys before the tile are visible to all of them and go
 * through gemm; the last keys, where causality cuts, go one by one, so that no key a query must not see is touched. */
#include "reference/attention.h"

#include "oracle/reached.h"
#include "oracle/thread.h"
#include "reference/attention_row.h"
#include "reference/attention_step.h"
#include "reference/gemm.h"
#include "reference/linear.h"

#include <stdlib.h>
#include <string.h>

#define TILE 64          /* queries */
#define SCORES (1 << 20) /* scores of one tile at most, longer contexts take fewer queries */
#define MIN_GEMM 32      /* keys below which a matrix product does not pay */

typedef struct {
    const REF(ref_attention_args) * a;
    const fh1_profile *p;
    int64_t tile;
    real *scores; /* [threads, tile, S] */
} attention_job;

/* Keys that query t sees, from its first to its own. */
static int64_t keys_seen(const REF(ref_attention_args) * a, int64_t t)
{
    int64_t end = a->S - a->T + t + 1;
    if (REF_FAULT(ATTENTION_NOT_CAUSAL) || (REF_FAULT(CONTINUED_CALL_NOT_CAUSAL) && a->S > a->T)) end = a->S;
    if (REF_FAULT(CAUSAL_MASK_SHOWS_NEXT) && end < a->S) ++end;
    if (REF_FAULT(CAUSAL_MASK_HIDES_SELF) && end > a->first[t] + 1) --end;
    if (REF_FAULT(CAUSAL_MASK_FROM_TOP_LEFT)) end = t + 1 > a->first[t] ? t + 1 : a->first[t] + 1;
    return end - a->first[t];
}

/* Queries t0..t1 of head h, all with the same first key. */
static void tile(const attention_job *j, int64_t t0, int64_t t1, int64_t h, real *s)
{
    const REF(ref_attention_args) *a = j->a;
    const fh1_profile *p = j->p;
    const int64_t A = a->A, first = a->first[t0], ld = a->Hq * A;
    const int64_t kv = REF_FAULT(KV_HEADS_BY_MODULO) ? h % a->Hkv : h / (a->Hq / a->Hkv);
    const real *q = a->q + (t0 * a->Hq + h) * A, scale = REF(ref_attention_scale)(A);
    const real *k = a->k + (kv * a->ld_kv + first) * A, *v = a->v + (kv * a->ld_kv + first) * A;
    real *out = a->out + (t0 * a->Hq + h) * A;
    int64_t shared = keys_seen(a, t0) - 1; /* keys before the tile */
    if (shared < MIN_GEMM || t1 - t0 < 2) shared = 0;
    FH1_REACHED(shared > 0);
    FH1_REACHED(first > 0);
    if (shared > 0) REF(ref_gemm)(CblasTrans, t1 - t0, shared, A, q, ld, k, A, s, a->S);
    for (int64_t t = t0; t < t1; ++t) {
        const int64_t n = keys_seen(a, t);
        real *st = s + (t - t0) * a->S;
        for (int64_t i = shared; i < n; ++i) st[i] = REF(ref_dot)(A, q + (t - t0) * ld, k + i * A);
        REF(ref_attention_weigh)(n, scale, p, st);
        memset(out + (t - t0) * ld, 0, (size_t)A * sizeof *out);
    }
    if (shared > 0) REF(ref_gemm)(CblasNoTrans, t1 - t0, A, shared, s, a->S, v, A, out, ld);
    for (int64_t t = t0; t < t1; ++t) {
        const int64_t n = keys_seen(a, t);
        real *row = out + (t - t0) * ld;
        for (int64_t i = shared; i < n; ++i) REF(ref_attention_add)(A, s[(t - t0) * a->S + i], v + i * A, row);
        REF(ref_round_row)(p->at[FH1_RP_CONTEXT], A, row);
    }
}

static void tiles(void *ctx, int64_t i0, int64_t i1, int thread)
{
    const attention_job *j = ctx;
    const int64_t per_head = (j->a->T + j->tile - 1) / j->tile;
    for (int64_t i = i0; i < i1; ++i) {
        const int64_t h = i / per_head, begin = i % per_head * j->tile;
        const int64_t end = begin + j->tile < j->a->T ? begin + j->tile : j->a->T;
        for (int64_t t0 = begin, t1; t0 < end; t0 = t1) {
            for (t1 = t0 + 1; t1 < end && j->a->first[t1] == j->a->first[t0];) ++t1;
            tile(j, t0, t1, h, j->scores + thread * j->tile * j->a->S);
        }
    }
}

fh1_status REF(ref_attention_fwd)(const REF(ref_attention_args) * a, const fh1_profile *p)
{
    if (a->T == 0) return NULL;
    if (a->T == 1) return REF(ref_attention_step_fwd)(a, p);
    FH1_REACHED(a->S > a->T);                      /* several tokens on a cache */
    FH1_REACHED(a->first[a->T - 1] > a->first[0]); /* documents */
    FH1_REACHED(a->Hq > a->Hkv);
    int64_t n_tile = SCORES / a->S;
    if (n_tile > TILE) n_tile = TILE;
    if (n_tile > a->T) n_tile = a->T;
    if (n_tile < 1) n_tile = 1;
    FH1_REACHED(n_tile < a->T && a->T % n_tile != 0);
    const size_t n = (size_t)fh1_threads() * (size_t)(n_tile * a->S) * sizeof(real);
    attention_job j = {a, p, n_tile, malloc(n)};
    if (!j.scores) return fh1_no_memory(n, "attention scores");
    fh1_parallel_for(a->Hq * ((a->T + n_tile - 1) / n_tile), 1, tiles, &j);
    free(j.scores);
    return NULL;
}
