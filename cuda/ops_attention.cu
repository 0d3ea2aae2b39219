/* fh1_ops of attention: rotation, and keys and values brought into pages. */
#include "cuda/attention.cuh"
#include "cuda/ops_impl.h"
#include "cuda/rope.cuh"

namespace CU_NS
{

double *cu_bench_frequencies(cu_bench *b, const fh1_config *c, int64_t seq_len, float *scale)
{
    const size_t pairs = static_cast<size_t>(c->A / 2);
    double *f = static_cast<double *>(malloc((pairs + 1) * sizeof(double))), factor = 1;
    if (!f) CU_BENCH_NOTE(b, fh1_no_memory(pairs * sizeof(double), "rotary frequencies"));
    else fh1_rope_frequencies(c, seq_len, f, &factor);
    double *device = static_cast<double *>(cu_bench_bytes(b, f, pairs * sizeof *f));
    free(f);
    *scale = static_cast<float>(factor);
    return device;
}

fh1_status cu_op_rope(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                      int64_t seq_len, void *x)
{
    cu_bench b = cu_bench_open(e);
    const int64_t n = T * heads * c->A;
    cu_rope a = {};
    a.type = b.type;
    a.t = cu_bench_tokens(&b, T, 0, NULL, 0);
    a.t.position = static_cast<int64_t *>(cu_bench_bytes(&b, position, static_cast<size_t>(T) * sizeof *position));
    a.Hq = cu_bench_int(&b, heads);
    a.A = cu_bench_int(&b, c->A);
    a.inv_freq = cu_bench_frequencies(&b, c, seq_len, &a.scale);
    a.m_key = 1;
    a.q = cu_bench_stored(&b, x, n);
    a.ldq = heads * c->A;
    CU_BENCH_NOTE(&b, cu_rope_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.q, x, n);
    return cu_bench_close(&b);
}

/* [Hkv, S, A] in pages, the last page first, so that no kernel gets by without the table. On the CPU the places behind
 * the last token hold NaN, on a device zeros, as the engine's pools do. */
static void *paged(cu_bench *b, const void *dense, const cu_kv *kv, int64_t S)
{
    const int64_t n = kv->n_pages * kv->Hkv * CU_PAGE * kv->A;
    float *all = static_cast<float *>(malloc(static_cast<size_t>(n + 1) * sizeof(float)));
    if (!all) {
        CU_BENCH_NOTE(b, fh1_no_memory(static_cast<size_t>(n) * sizeof(float), "pages"));
        return NULL;
    }
    for (int64_t i = 0; i < n; ++i) all[i] = CU_HOST ? NAN : 0.f;
    for (int64_t h = 0; h < kv->Hkv; ++h)
        for (int64_t s = 0; s < S; ++s) {
            const int64_t page = kv->n_pages - 1 - s / CU_PAGE;
            memcpy(all + ((page * kv->Hkv + h) * CU_PAGE + s % CU_PAGE) * kv->A,
                   static_cast<const float *>(dense) + (h * S + s) * kv->A, static_cast<size_t>(kv->A) * sizeof *all);
        }
    void *p = cu_bench_stored(b, all, n);
    free(all);
    return p;
}

static cu_kv pages(cu_bench *b, int64_t S, int64_t Hkv, int64_t A, const void *k, const void *v)
{
    cu_kv kv = {};
    kv.type = b->type;
    kv.Hkv = cu_bench_int(b, Hkv);
    kv.A = cu_bench_int(b, A);
    kv.n_pages = (S + CU_PAGE - 1) / CU_PAGE;
    kv.max_pages = cu_bench_int(b, kv.n_pages);
    kv.key = paged(b, k, &kv, S);
    kv.value = paged(b, v, &kv, S);
    int64_t *table = static_cast<int64_t *>(malloc(static_cast<size_t>(kv.n_pages + 1) * sizeof(int64_t)));
    if (!table) {
        CU_BENCH_NOTE(b, fh1_no_memory(static_cast<size_t>(kv.n_pages) * sizeof(int64_t), "a table of pages"));
        return kv;
    }
    for (int64_t i = 0; i < kv.n_pages; ++i) table[i] = kv.n_pages - 1 - i;
    kv.table = cu_bench_ints(b, table, kv.n_pages);
    free(table);
    return kv;
}

static fh1_status attend(fh1_engine *e, bool step, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A,
                         const void *q, const void *k, const void *v, const int64_t *first, void *out)
{
    cu_bench b = cu_bench_open(e);
    cu_attention a = {};
    a.type = b.type;
    a.t = cu_bench_tokens(&b, T, S - T, NULL, 0);
    a.t.first = cu_bench_ints(&b, first, T);
    a.Hq = cu_bench_int(&b, Hq);
    a.Hkv = cu_bench_int(&b, Hkv);
    a.A = cu_bench_int(&b, A);
    a.q = cu_bench_stored(&b, q, T * Hq * A);
    a.ldq = Hq * A;
    a.kv = pages(&b, S, Hkv, A, k, v);
    a.out = cu_bench_room(&b, b.type, T * Hq * A);
    if (step && !b.failed) {
        const size_t bytes = cu_attention_step_scratch(b.k, &a, 1, a.t.most_keys);
        a.scratch = cu_bench_room(&b, CU_F32, static_cast<int64_t>((bytes + 3) / 4));
        if (a.scratch && bytes) /* its counters start at zero */
            CU_BENCH_NOTE(&b, cu_status(cudaMemsetAsync(a.scratch, 0, bytes, b.k->stream), "clearing scratch"));
    }
    CU_BENCH_NOTE(&b, step ? cu_attention_step_fwd(b.k, &a) : cu_attention_fwd(b.k, &a));
    cu_bench_take(&b, b.type, a.out, out, T * Hq * A);
    return cu_bench_close(&b);
}

fh1_status cu_op_attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                           const void *k, const void *v, const int64_t *first, void *out)
{
    return attend(e, false, T, S, Hq, Hkv, A, q, k, v, first, out);
}

fh1_status cu_op_attention_step(fh1_engine *e, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                                const void *k, const void *v, int64_t first, void *out)
{
    return attend(e, true, 1, S, Hq, Hkv, A, q, k, v, &first, out);
}

} // namespace CU_NS
