#include "reference/attention_step.h"

#include "oracle/thread.h"
#include "reference/attention_row.h"
#include "reference/linear.h" /* ref_dot */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const REF(ref_attention_args) * a;
    const fh1_profile *p;
    real *scores; /* [threads, S] */
} step_job;

static void heads(void *ctx, int64_t h0, int64_t h1, int thread)
{
    const step_job *j = ctx;
    const REF(ref_attention_args) *a = j->a;
    const int64_t A = a->A, n = a->S - a->first[0];
    real *s = j->scores + thread * a->S;
    for (int64_t h = h0; h < h1; ++h) {
        const int64_t kv = REF_FAULT(KV_HEADS_BY_MODULO) ? h % a->Hkv : h / (a->Hq / a->Hkv);
        const int64_t at = (kv * a->ld_kv + a->first[0]) * A;
        real *out = a->out + h * A;
        for (int64_t i = 0; i < n; ++i) s[i] = REF(ref_dot)(A, a->q + h * A, a->k + at + i * A);
        REF(ref_attention_weigh)(n, REF(ref_attention_scale)(A), j->p, s);
        memset(out, 0, (size_t)A * sizeof *out);
        for (int64_t i = 0; i < n; ++i) REF(ref_attention_add)(A, s[i], a->v + at + i * A, out);
        REF(ref_round_row)(j->p->at[FH1_RP_CONTEXT], A, out);
    }
}

fh1_status REF(ref_attention_step_fwd)(const REF(ref_attention_args) * a, const fh1_profile *p)
{
    assert(a->T == 1);
    const size_t n = (size_t)fh1_threads() * (size_t)a->S * sizeof(real);
    step_job j = {a, p, malloc(n)};
    if (!j.scores) return fh1_no_memory(n, "attention scores");
    fh1_parallel_for(a->Hq, 1, heads, &j);
    free(j.scores);
    return NULL;
}
