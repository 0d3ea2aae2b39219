/* Tables of slots and pages, and what a call needs of them. */
#include "cuda/cache_impl.h"

namespace CU_NS
{

/* ---- tables ---- */

void cu_cache_free_host_tables(cu_cache *c)
{
    free(c->slot);
    free(c->table);
    free(c->n_pages);
    free(c->tokens);
    free(c->stale);
}

static void free_tables(cu_cache *c)
{
    cu_cache_free_host_tables(c);
    cudaFree(c->d_slot);
    cudaFree(c->d_table);
    if (c->staged) cudaFreeHost(c->staged);
}

/* Whatever the pointers were, they are new ones or NULL. */
fh1_status cu_cache_host_tables(cu_cache *c, int64_t room, int64_t width)
{
    const size_t rows = static_cast<size_t>(room), cells = rows * static_cast<size_t>(width);
    c->room = room;
    c->width = width;
    c->slot = static_cast<int *>(calloc(rows, sizeof(int)));
    c->table = static_cast<int *>(malloc(cells * sizeof(int)));
    c->n_pages = static_cast<int *>(calloc(rows, sizeof(int)));
    c->tokens = static_cast<int64_t *>(calloc(rows, sizeof(int64_t)));
    c->stale = static_cast<bool *>(calloc(rows, sizeof(bool)));
    if (!c->slot || !c->table || !c->n_pages || !c->tokens || !c->stale)
        return fh1_no_memory((rows + cells) * sizeof(int), "the tables of a cache");
    for (size_t i = 0; i < cells; ++i) c->table[i] = -1;
    return NULL;
}

static fh1_status new_tables(cu_cache *c, int64_t room, int64_t width)
{
    const size_t rows = static_cast<size_t>(room), cells = rows * static_cast<size_t>(width);
    c->d_slot = c->d_table = c->staged = NULL;
    FH1_TRY(cu_cache_host_tables(c, room, width));
    cudaError_t e = cudaMalloc(&c->d_slot, rows * sizeof(int));
    if (e == cudaSuccess) e = cudaMalloc(&c->d_table, cells * sizeof(int));
    if (e == cudaSuccess) e = cudaMallocHost(reinterpret_cast<void **>(&c->staged), (rows + cells) * sizeof(int));
    if (e != cudaSuccess) cudaGetLastError(); /* the next launch has nothing to do with it */
    return cu_status(e, "the tables of a cache");
}

/* The old ones stay where they are on failure. */
fh1_status cu_cache_widen(cu_cache *c, int64_t B, int64_t width)
{
    if (B <= c->room && width <= c->width) return NULL;
    cu_cache next = *c;
    const int64_t room = B <= c->room ? c->room : B, wide = width <= c->width ? c->width : width;
    const fh1_status s = new_tables(&next, room, wide < 2 * c->width && wide > c->width ? 2 * c->width : wide);
    if (s) {
        free_tables(&next);
        return s;
    }
    const size_t rows = static_cast<size_t>(c->B);
    for (size_t b = 0; b < rows; ++b)
        memcpy(next.table + b * static_cast<size_t>(next.width), c->table + b * static_cast<size_t>(c->width),
               static_cast<size_t>(c->width) * sizeof(int));
    if (rows) {
        memcpy(next.slot, c->slot, rows * sizeof(int));
        memcpy(next.n_pages, c->n_pages, rows * sizeof(int));
        memcpy(next.tokens, c->tokens, rows * sizeof(int64_t));
        memcpy(next.stale, c->stale, rows * sizeof(bool));
    }
    cudaStreamSynchronize(c->pool->stream); /* nothing reads the old ones any more */
    free_tables(c);
    next.generation = cu_next_generation();
    next.dirty = true;
    *c = next;
    return NULL;
}

static fh1_status upload_tables(cu_cache *c)
{
    if (!c->dirty) return NULL;
    const size_t rows = static_cast<size_t>(c->B), cells = rows * static_cast<size_t>(c->width);
    CU_TRY(cudaEventSynchronize(c->arrived), "the tables of a cache");
    memcpy(c->staged, c->slot, rows * sizeof(int));
    memcpy(c->staged + rows, c->table, cells * sizeof(int));
    const cudaStream_t stream = c->pool->stream;
    CU_TRY(cudaMemcpyAsync(c->d_slot, c->staged, rows * sizeof(int), cudaMemcpyHostToDevice, stream),
           "the tables of a cache");
    CU_TRY(cudaMemcpyAsync(c->d_table, c->staged + rows, cells * sizeof(int), cudaMemcpyHostToDevice, stream),
           "the tables of a cache");
    CU_TRY(cudaEventRecord(c->arrived, stream), "the tables of a cache");
    c->dirty = false;
    return NULL;
}

/* ---- room ---- */

/* Pages that a row lacks, or has and must not write into. */
static int64_t pages_wanted(const cu_cache *c, int64_t b, int64_t begin, int64_t end)
{
    const int64_t last = cu_pages_of(end), have = c->n_pages[b];
    int64_t n = last > have ? last - have : 0;
    for (int64_t k = begin / CU_PAGE; k < last && k < have; ++k)
        if (c->pool->holders[c->table[b * c->width + k]] > 1) ++n;
    return n;
}

static fh1_status give_pages(cu_cache *c, int64_t b, int64_t begin, int64_t end)
{
    int *row = c->table + b * c->width;
    for (int64_t k = begin / CU_PAGE; k < cu_pages_of(end); ++k) {
        const int old = k < c->n_pages[b] ? row[k] : -1;
        if (old >= 0 && c->pool->holders[old] == 1) continue;
        int page;
        FH1_TRY(cu_pool_take_page(c->pool, &page));
        const fh1_status s = old >= 0 ? cu_pool_copy_page(c->pool, old, page) : NULL;
        if (s) {
            cu_pool_drop_page(c->pool, page);
            return s;
        }
        if (old >= 0) cu_pool_drop_page(c->pool, old);
        else c->n_pages[b]++;
        row[k] = page;
        c->dirty = true;
    }
    return NULL;
}

fh1_status cu_cache_room(cu_cache *c, const int64_t *begin, const int64_t *end)
{
    int64_t n = 0, width = 1;
    for (int64_t b = 0; b < c->B; ++b) {
        if (begin[b] == end[b]) continue;
        n += pages_wanted(c, b, begin[b], end[b]);
        if (width < cu_pages_of(end[b])) width = cu_pages_of(end[b]);
    }
    if (width > INT32_MAX / 2) return FH1_BAD("a sequence is too long for the cache");
    FH1_TRY(cu_pool_want_pages(c->pool, n));
    FH1_TRY(cu_cache_widen(c, c->B, width));
    for (int64_t b = 0; b < c->B; ++b)
        if (begin[b] < end[b]) FH1_TRY(give_pages(c, b, begin[b], end[b]));
    return NULL;
}

fh1_status cu_cache_room_of(cu_cache *c, int64_t b, int64_t begin, int64_t end)
{
    FH1_TRY(cu_pool_want_pages(c->pool, pages_wanted(c, b, begin, end)));
    FH1_TRY(cu_cache_widen(c, c->B, cu_pages_of(end)));
    return give_pages(c, b, begin, end);
}

/* ---- a cache ---- */

fh1_status cu_cache_new(cu_pool *pool, int64_t B, cu_cache **out)
{
    *out = NULL;
    cu_cache *c = static_cast<cu_cache *>(calloc(1, sizeof *c));
    if (!c) return fh1_no_memory(sizeof *c, "a cache on the device");
    cu_pool_hold(pool);
    c->pool = pool;
    c->generation = cu_next_generation();
    c->dirty = true;
    fh1_status s = new_tables(c, B, 1);
    if (!s) s = cu_status(cudaEventCreate(&c->arrived), "cudaEventCreate");
    if (!s) s = cu_pool_want_slots(pool, B);
    if (s) {
        cu_cache_free(c);
        return s;
    }
    for (int64_t b = 0; b < B; ++b) {
        c->slot[b] = cu_pool_take_slot(pool);
        c->stale[b] = true;
    }
    c->B = B;
    *out = c;
    return NULL;
}

void cu_cache_free(void *store)
{
    cu_cache *c = static_cast<cu_cache *>(store);
    cudaStreamSynchronize(c->pool->stream); /* nothing reads the tables any more */
    for (int64_t b = 0; b < c->B; ++b) {
        for (int64_t k = 0; k < c->n_pages[b]; ++k) cu_pool_drop_page(c->pool, c->table[b * c->width + k]);
        cu_pool_drop_slot(c->pool, c->slot[b]);
    }
    free_tables(c);
    if (c->arrived) cudaEventDestroy(c->arrived);
    cu_pool_drop(c->pool);
    free(c);
}

static size_t store_bytes(const void *store)
{
    const cu_cache *c = static_cast<const cu_cache *>(store);
    const cu_pool *p = c->pool;
    size_t per_row = cu_pool_unit(p, FH1_CACHE_CONV) + cu_pool_unit(p, FH1_CACHE_SSM), pages = 0;
    for (int64_t b = 0; b < c->B; ++b) pages += static_cast<size_t>(c->n_pages[b]);
    const size_t contents = static_cast<size_t>(c->B) * per_row + 2 * pages * cu_pool_unit(p, FH1_CACHE_KEY);
    return static_cast<size_t>(p->n_layers) * contents + static_cast<size_t>(c->room * (1 + c->width)) * sizeof(int);
}

static void reset_row(void *store, int64_t b)
{
    cu_cache *c = static_cast<cu_cache *>(store);
    for (int64_t k = 0; k < c->n_pages[b]; ++k) {
        cu_pool_drop_page(c->pool, c->table[b * c->width + k]);
        c->table[b * c->width + k] = -1;
    }
    c->n_pages[b] = 0;
    c->tokens[b] = 0;
    c->stale[b] = true;
    c->dirty = true;
}

fh1_status cu_cache_settle(cu_cache *c)
{
    int64_t n = 0;
    int *slot = static_cast<int *>(malloc(static_cast<size_t>(c->B) * sizeof *slot));
    if (!slot) return fh1_no_memory(static_cast<size_t>(c->B) * sizeof *slot, "emptying rows of a cache");
    for (int64_t b = 0; b < c->B; ++b)
        if (c->stale[b]) slot[n++] = c->slot[b];
    const fh1_status s = cu_pool_zero_slots(c->pool, slot, n);
    free(slot);
    if (!s) memset(c->stale, 0, static_cast<size_t>(c->B) * sizeof *c->stale);
    return s;
}

const fh1_cache_store cu_cache_store = {cu_cache_free,       store_bytes,           reset_row,
                                        cu_cache_clone_rows, cu_cache_reorder_rows, cu_cache_read_row,
                                        cu_cache_write_row};

static fh1_status attach(fh1_cache *c, cu_type type, cudaStream_t stream)
{
    cu_pool *pool;
    cu_cache *store;
    FH1_TRY(cu_pool_new(c->config, type, stream, &pool));
    fh1_status s = cu_cache_new(pool, c->B, &store);
    cu_pool_drop(pool); /* the store holds it now, or nobody does */
    if (s) return s;
    s = fh1_cache_attach(c, store, &cu_cache_store);
    if (s) cu_cache_free(store);
    return s;
}

/* Room for the tokens of t behind those in the books; t NULL: for `more` behind those that there is room for. */
static fh1_status fit_tokens(cu_cache *c, const fh1_cache *books, const fh1_tokens *t, int64_t more)
{
    const size_t B = static_cast<size_t>(c->B);
    int64_t *begin = static_cast<int64_t *>(malloc(2 * B * sizeof *begin)), *end = begin + B;
    if (!begin) return fh1_no_memory(2 * B * sizeof *begin, "a call");
    for (int64_t b = 0; b < c->B; ++b) {
        begin[b] = t ? books->rows[b].n : c->tokens[b];
        end[b] = begin[b] + (t ? t->row_begin[b + 1] - t->row_begin[b] : more);
    }
    const fh1_status s = cu_cache_room(c, begin, end);
    for (int64_t b = 0; b < c->B && t && !s; ++b) c->tokens[b] = end[b];
    free(begin);
    return s;
}

fh1_status cu_cache_prepare(fh1_cache *c, cu_type type, const fh1_tokens *t, cudaStream_t stream, cu_cache **out)
{
    *out = NULL;
    if (t->B != c->B)
        return fh1_fail(FH1_E_INTERNAL, "tokens of %lld rows do not fit a cache of %lld", static_cast<long long>(t->B),
                        static_cast<long long>(c->B));
    if (!c->store) FH1_TRY(attach(c, type, stream));
    cu_cache *store = static_cast<cu_cache *>(c->store);
    if (c->store_ops != &cu_cache_store || store->pool->type != type)
        return fh1_fail(FH1_E_INTERNAL, "the contents of this cache belong to another engine");
    FH1_TRY(cu_pool_set_stream(store->pool, stream));
    FH1_TRY(cu_cache_settle(store));
    FH1_TRY(fit_tokens(store, c, t, 0));
    FH1_TRY(upload_tables(store));
    FH1_TRY(fh1_cache_prepare(c, t));
    *out = store;
    return NULL;
}

fh1_status cu_cache_reserve(cu_cache *c, int64_t n, cudaStream_t stream)
{
    if (n > INT32_MAX) return FH1_BAD("%lld more tokens are too many for the cache", static_cast<long long>(n));
    FH1_TRY(cu_pool_set_stream(c->pool, stream));
    FH1_TRY(fit_tokens(c, NULL, NULL, n));
    return upload_tables(c);
}

/* ---- views ---- */

cu_kv cu_cache_kv(const cu_cache *c, int64_t layer)
{
    const cu_pool *p = c->pool;
    cu_kv kv = {};
    kv.type = p->type;
    kv.Hkv = p->Hkv;
    kv.A = p->A;
    kv.key = p->part[FH1_CACHE_KEY][layer].p;
    kv.value = p->part[FH1_CACHE_VALUE][layer].p;
    kv.n_pages = p->n_pages;
    kv.table = c->d_table;
    kv.max_pages = static_cast<int>(c->width);
    return kv;
}

float *cu_cache_conv(const cu_cache *c, int64_t layer)
{
    return static_cast<float *>(c->pool->part[FH1_CACHE_CONV][layer].p);
}

float *cu_cache_ssm(const cu_cache *c, int64_t layer)
{
    return static_cast<float *>(c->pool->part[FH1_CACHE_SSM][layer].p);
}

const int *cu_cache_slot(const cu_cache *c)
{
    return c->d_slot;
}

uint64_t cu_cache_generation(const cu_cache *c)
{
    return static_cast<uint64_t>(c->generation) << 32 | c->pool->generation;
}

size_t cu_cache_bytes(const fh1_config *c, cu_type type, int64_t B, int64_t tokens)
{
    const size_t rows = static_cast<size_t>(B), pages = static_cast<size_t>(cu_pages_of(tokens));
    const size_t page = static_cast<size_t>(c->Hkv * CU_PAGE * c->A) * cu_size(type);
    const size_t slot = static_cast<size_t>(fh1_conv_dim(c) * (c->K - 1) + c->H * c->P * c->N) * sizeof(float);
    return rows * (static_cast<size_t>(c->n_layers) * (2 * pages * page + slot) + (1 + pages) * sizeof(int));
}

} // namespace CU_NS
