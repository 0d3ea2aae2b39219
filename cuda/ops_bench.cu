#include "cuda/device.h"
#include "cuda/ops_impl.h"

#include <climits>

namespace CU_NS
{

cu_bench cu_bench_open(fh1_engine *e)
{
    cu_bench b = {};
    b.failed = cu_ops_context(e, &b.k);
    const fh1_dtype stored = e->profile->storage;
    b.type = stored == FH1_BF16 ? CU_BF16 : CU_F32;
    if (!b.failed && stored != FH1_BF16 && stored != FH1_F32)
        b.failed =
            FH1_BAD("engine %s does not store %s (contract %s)", e->name, fh1_dtype_name(stored), e->profile->name);
    return b;
}

fh1_status cu_bench_close(cu_bench *b)
{
    if (b->n) {
        const cudaError_t e = cudaStreamSynchronize(b->k->stream);
        if (!b->failed) b->failed = cu_status(e, "an op");
    }
    for (int i = 0; i < b->n; ++i) {
        const cudaError_t e = cudaFree(b->array[i]);
        if (!b->failed) b->failed = cu_status(e, "freeing the arrays of an op");
    }
    return b->failed;
}

int cu_bench_int(cu_bench *b, int64_t n)
{
    if (n >= 0 && n <= INT_MAX) return static_cast<int>(n);
    CU_BENCH_NOTE(b, fh1_found(FH1_BAD("a size that kernels do not count to"), "%lld", static_cast<long long>(n)));
    return 0;
}

/* Uninitialised. */
static void *room(cu_bench *b, size_t bytes)
{
    void *p = NULL;
    if (b->failed) return NULL;
    if (b->n == CU_BENCH_ARRAYS) b->failed = fh1_fail(FH1_E_INTERNAL, "an op with too many arrays");
    else b->failed = cu_status(cudaMalloc(&p, bytes ? bytes : 1), "allocating an array of an op");
    if (b->failed) return NULL;
    b->array[b->n++] = p;
    return p;
}

void *cu_bench_room(cu_bench *b, cu_type t, int64_t n)
{
    return room(b, static_cast<size_t>(n) * cu_size(t));
}

void *cu_bench_bytes(cu_bench *b, const void *host, size_t bytes)
{
    void *p = host ? room(b, bytes) : NULL;
    if (!p || !bytes) return p;
    b->failed = cu_send(p, host, bytes, b->k->stream, "sending an array");
    return p;
}

float *cu_bench_f32(cu_bench *b, const void *host, int64_t n)
{
    return static_cast<float *>(cu_bench_bytes(b, host, static_cast<size_t>(n) * sizeof(float)));
}

/* NULL and an error without memory. */
static void *host_memory(cu_bench *b, int64_t n, size_t size)
{
    if (b->failed) return NULL;
    const size_t bytes = static_cast<size_t>(n > 0 ? n : 1) * size;
    void *p = malloc(bytes);
    if (!p) CU_BENCH_NOTE(b, fh1_no_memory(bytes, "an array of an op"));
    return p;
}

void *cu_bench_stored(cu_bench *b, const void *host, int64_t n)
{
    if (!host || b->type == CU_F32) return cu_bench_f32(b, host, n);
    void *narrow = host_memory(b, n, 2);
    if (!narrow) return NULL;
    fh1_from_f32(narrow, FH1_BF16, static_cast<const float *>(host), n);
    void *p = cu_bench_bytes(b, narrow, static_cast<size_t>(n) * 2);
    free(narrow);
    return p;
}

int *cu_bench_ints(cu_bench *b, const int64_t *host, int64_t n)
{
    int *v = host ? static_cast<int *>(host_memory(b, n, sizeof(int))) : NULL;
    if (!v) return NULL;
    for (int64_t i = 0; i < n && !b->failed; ++i) {
        v[i] = static_cast<int>(host[i]);
        if (v[i] != host[i])
            CU_BENCH_NOTE(b, fh1_found(FH1_BAD("a number that kernels do not count to"), "%lld",
                                       static_cast<long long>(host[i])));
    }
    void *p = cu_bench_bytes(b, v, static_cast<size_t>(n) * sizeof(int));
    free(v);
    return static_cast<int *>(p);
}

float *cu_bench_small(cu_bench *b, const fh1_tensor *t)
{
    const int64_t n = t && t->data ? fh1_n_elems(t) : 0;
    float *v = n ? static_cast<float *>(host_memory(b, n, sizeof(float))) : NULL;
    if (!v) return NULL;
    fh1_to_f32(v, t->data, t->dtype, n);
    float *p = cu_bench_f32(b, v, n);
    free(v);
    return p;
}

/* Whether all of them are stored without rounding (NaN as NaN); *at names one that is not. */
static bool exact(const float *v, int64_t n, int64_t *at)
{
    for (*at = 0; *at < n; ++*at) {
        const float x = v[*at];
        uint16_t narrow;
        float back;
        fh1_from_f32(&narrow, FH1_BF16, &x, 1);
        fh1_to_f32(&back, &narrow, FH1_BF16, 1);
        if (!(back == x || x != x)) return false;
    }
    return true;
}

void *cu_bench_matrix(cu_bench *b, const fh1_tensor *t, const char *name)
{
    const int64_t n = fh1_n_elems(t);
    if (b->failed) return NULL;
    if (t->dtype == FH1_F64) {
        b->failed = FH1_BAD("%s is F64, which no engine on a device stores", name);
        return NULL;
    }
    if (b->type == CU_BF16 && t->dtype == FH1_BF16) return cu_bench_bytes(b, t->data, static_cast<size_t>(n) * 2);
    float *v = static_cast<float *>(host_memory(b, n, sizeof(float)));
    if (!v) return NULL;
    int64_t at;
    fh1_to_f32(v, t->data, t->dtype, n);
    if (b->type == CU_BF16 && !exact(v, n, &at)) {
        const fh1_status s =
            FH1_BAD("%s, %s, would round to the bf16 in which this engine stores it", name, fh1_dtype_name(t->dtype));
        CU_BENCH_NOTE(b, fh1_found(s, "element %lld is %g", static_cast<long long>(at), static_cast<double>(v[at])));
    }
    void *p = cu_bench_stored(b, v, n);
    free(v);
    return p;
}

void cu_bench_take(cu_bench *b, cu_type t, const void *device, void *host, int64_t n)
{
    if (b->failed || n <= 0) return;
    void *narrow = t == CU_BF16 ? host_memory(b, n, 2) : NULL;
    void *to = t == CU_BF16 ? narrow : host;
    if (!to) return;
    const size_t bytes = static_cast<size_t>(n) * cu_size(t);
    b->failed = cu_fetch(to, device, bytes, b->k->stream, "an op");
    if (narrow && !b->failed) fh1_to_f32(static_cast<float *>(host), narrow, FH1_BF16, n);
    free(narrow);
}

cu_tokens cu_bench_tokens(cu_bench *b, int64_t T, int64_t past, const int64_t *doc, int64_t before)
{
    cu_tokens t = {};
    t.M = t.longest = cu_bench_int(b, T);
    t.B = 1;
    t.most_keys = cu_bench_int(b, past + T);
    int *v = static_cast<int *>(host_memory(b, 3 * T, sizeof(int)));
    if (!v) return t;
    int *row = v, *start = v + T, *first = v + 2 * T;
    bool goes_on = true;
    for (int64_t m = 0; m < T; ++m) {
        const bool same = !doc || (m ? doc[m] == doc[m - 1] : doc[m] == before);
        if (!same) goes_on = false;
        row[m] = first[m] = 0;
        start[m] = goes_on ? -1 : !same ? static_cast<int>(m) : start[m - 1];
    }
    const int ends[2] = {0, t.M}, stored = static_cast<int>(past);
    const size_t bytes = static_cast<size_t>(T) * sizeof(int);
    t.row = static_cast<int *>(cu_bench_bytes(b, row, bytes));
    t.start = static_cast<int *>(cu_bench_bytes(b, start, bytes));
    t.first = static_cast<int *>(cu_bench_bytes(b, first, bytes));
    t.row_begin = static_cast<int *>(cu_bench_bytes(b, ends, sizeof ends));
    t.past = static_cast<int *>(cu_bench_bytes(b, &stored, sizeof stored));
    free(v);
    return t;
}

} // namespace CU_NS
