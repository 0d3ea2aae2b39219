/* Operations on rows between calls: copies, a new order, and their contents as the host sees them. */
#include "cuda/cache_impl.h"

namespace CU_NS
{

/* ---- copies and order ---- */

/* Row `to` of d shares the pages that n tokens of row `from` of c fill. */
static void share_pages(const cu_cache *c, int64_t from, int64_t n, cu_cache *d, int64_t to)
{
    for (int64_t k = 0; k < cu_pages_of(n); ++k) {
        const int page = c->table[from * c->width + k];
        d->table[to * d->width + k] = page;
        d->pool->holders[page]++;
    }
    d->n_pages[to] = static_cast<int>(cu_pages_of(n));
    d->tokens[to] = n;
}

fh1_status cu_cache_clone_rows(const fh1_cache *c, void **out)
{
    cu_cache *from = static_cast<cu_cache *>(c->store), *copy;
    FH1_TRY(cu_cache_settle(from));
    FH1_TRY(cu_cache_new(from->pool, c->B, &copy));
    fh1_status s = cu_cache_widen(copy, c->B, from->width);
    if (!s) s = cu_pool_copy_slots(from->pool, from->slot, copy->slot, c->B);
    if (s) {
        cu_cache_free(copy);
        return s;
    }
    for (int64_t b = 0; b < c->B; ++b) {
        share_pages(from, b, c->rows[b].n, copy, b);
        copy->stale[b] = false;
    }
    *out = copy;
    return NULL;
}

/* Row i is the first that comes from from[i]: it takes the old row over. */
static bool moves(const int64_t *from, int64_t i)
{
    for (int64_t k = 0; k < i; ++k)
        if (from[k] == from[i]) return false;
    return true;
}

/* Slots with the contents of the rows that are used again. All taken ones are in `slot`, also on failure. */
static fh1_status copy_repeated(cu_cache *c, const int64_t *from, int64_t n, int *slot, int *source, int *copy)
{
    int64_t k = 0;
    for (int64_t i = 0; i < n; ++i) {
        slot[i] = -1;
        if (moves(from, i)) continue;
        source[k] = c->slot[from[i]];
        slot[i] = copy[k++] = cu_pool_take_slot(c->pool);
    }
    return cu_pool_copy_slots(c->pool, source, copy, k);
}

/* Moves tables into the new order; nothing here can fail. */
static void move_rows(const fh1_cache *books, cu_cache *c, cu_cache *next, const int64_t *from, int64_t n,
                      const int *slot)
{
    for (int64_t i = 0; i < n; ++i) {
        const int64_t f = from[i];
        if (slot[i] >= 0) {
            share_pages(c, f, books->rows[f].n, next, i);
            next->slot[i] = slot[i];
            continue;
        }
        memcpy(next->table + i * next->width, c->table + f * c->width, static_cast<size_t>(c->width) * sizeof(int));
        next->slot[i] = c->slot[f];
        next->n_pages[i] = c->n_pages[f];
        next->tokens[i] = c->tokens[f];
        c->slot[f] = -1;
    }
    for (int64_t b = 0; b < c->B; ++b) {
        if (c->slot[b] < 0) continue;
        for (int64_t k = 0; k < c->n_pages[b]; ++k) cu_pool_drop_page(c->pool, c->table[b * c->width + k]);
        cu_pool_drop_slot(c->pool, c->slot[b]);
    }
}

static fh1_status reorder_with(fh1_cache *books, const int64_t *from, int64_t n, int *work)
{
    cu_cache *c = static_cast<cu_cache *>(books->store), next;
    int *slot = work;
    FH1_TRY(cu_cache_settle(c));
    FH1_TRY(cu_cache_widen(c, n, c->width));
    int64_t repeated = 0;
    for (int64_t i = 0; i < n; ++i) repeated += !moves(from, i);
    FH1_TRY(cu_pool_want_slots(c->pool, repeated));
    next = *c; /* shares what is not of the host */
    fh1_status s = cu_cache_host_tables(&next, c->room, c->width);
    if (!s) s = copy_repeated(c, from, n, slot, work + n, work + 2 * n);
    else
        for (int64_t i = 0; i < n; ++i) slot[i] = -1;
    if (s) {
        for (int64_t i = 0; i < n; ++i)
            if (slot[i] >= 0) cu_pool_drop_slot(c->pool, slot[i]);
        cu_cache_free_host_tables(&next);
        return s;
    }
    move_rows(books, c, &next, from, n, slot);
    cu_cache_free_host_tables(c);
    next.B = n;
    next.dirty = true;
    *c = next;
    return NULL;
}

fh1_status cu_cache_reorder_rows(fh1_cache *c, const int64_t *from, int64_t n)
{
    int *work = static_cast<int *>(malloc(static_cast<size_t>(3 * n) * sizeof *work));
    if (!work) return fh1_no_memory(static_cast<size_t>(3 * n) * sizeof *work, "a reorder");
    const fh1_status s = reorder_with(c, from, n, work);
    free(work);
    return s;
}

/* ---- contents ---- */

/* Pages of a row that lie behind one another in the pool are copied at once, this many at most. */
enum { PAGES_AT_ONCE = 64 };

static fh1_dtype stored_as(cu_type t)
{
    return t == CU_F32 ? FH1_F32 : FH1_BF16;
}

/* Tokens [0, n) of the page at `page` (as on the device) and tokens [at, at + n) of the row at `row` [Hkv, n_row, A].
 */
static void move_page(const fh1_cache *c, cu_type type, char *page, char *row, int64_t n_row, int64_t at, int64_t n,
                      bool out)
{
    const fh1_config *g = c->config;
    const size_t wide = c->dtype == FH1_F64 ? 8 : 4;
    for (int64_t h = 0; h < g->Hkv; ++h) {
        const fh1_tensor a =
            fh1_view1(page + static_cast<size_t>(h * CU_PAGE * g->A) * cu_size(type), stored_as(type), n * g->A);
        const fh1_tensor b = fh1_view1(row + static_cast<size_t>((h * n_row + at) * g->A) * wide, c->dtype, n * g->A);
        fh1_copy(out ? &b : &a, out ? &a : &b);
    }
}

/* Between device and host, with everything queued before and until it is done. */
static fh1_status move_bytes(const cu_pool *p, void *device, void *host, size_t n, bool out)
{
    const cudaMemcpyKind kind = out ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice;
    CU_TRY(cudaMemcpyAsync(out ? host : device, out ? device : host, n, kind, p->stream), "reading or writing a cache");
    return cu_status(cudaStreamSynchronize(p->stream), "reading or writing a cache");
}

/* Pages [k, k + n) of row b, which are neighbours. */
static fh1_status move_pages(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, int64_t k, int64_t n,
                             char *buffer, char *row, bool out)
{
    const cu_cache *store = static_cast<const cu_cache *>(c->store);
    const cu_pool *p = store->pool;
    const size_t unit = cu_pool_unit(p, part);
    const int64_t n_row = c->rows[b].n;
    void *device = cu_pool_at(p, part, layer, store->table[b * store->width + k]);
    if (out) FH1_TRY(move_bytes(p, device, buffer, static_cast<size_t>(n) * unit, true));
    else memset(buffer, 0xff, static_cast<size_t>(n) * unit); /* NaN where no token is */
    for (int64_t i = 0; i < n; ++i) {
        const int64_t at = (k + i) * CU_PAGE, left = n_row - at, whole = CU_PAGE;
        move_page(c, p->type, buffer + static_cast<size_t>(i) * unit, row, n_row, at, left < whole ? left : whole, out);
    }
    return out ? NULL : move_bytes(p, device, buffer, static_cast<size_t>(n) * unit, false);
}

static fh1_status move_tokens(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *row, bool out)
{
    const cu_cache *store = static_cast<const cu_cache *>(c->store);
    const int *table = store->table + b * store->width;
    const int64_t n = cu_pages_of(c->rows[b].n), most = PAGES_AT_ONCE;
    const size_t bytes = static_cast<size_t>(n < most ? n : most) * cu_pool_unit(store->pool, part);
    char *buffer = static_cast<char *>(malloc(bytes + 1));
    fh1_status s = buffer ? NULL : fh1_no_memory(bytes, "pages of a cache");
    for (int64_t k = 0, run; k < n && !s; k += run) {
        run = 1;
        while (k + run < n && run < most && table[k + run] == table[k] + run) ++run;
        s = move_pages(c, b, layer, part, k, run, buffer, static_cast<char *>(row), out);
    }
    free(buffer);
    return s;
}

static fh1_status move_slot(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *row, bool out)
{
    const cu_cache *store = static_cast<const cu_cache *>(c->store);
    const cu_pool *p = store->pool;
    const size_t bytes = cu_pool_unit(p, part);
    void *device = cu_pool_at(p, part, layer, store->slot[b]);
    if (c->dtype == FH1_F32) return move_bytes(p, device, row, bytes, out);
    float *buffer = static_cast<float *>(malloc(bytes + 1));
    if (!buffer) return fh1_no_memory(bytes, "a state of a cache");
    const int64_t n = static_cast<int64_t>(bytes / sizeof *buffer);
    if (!out) fh1_from_f64(buffer, FH1_F32, static_cast<const double *>(row), n);
    const fh1_status s = move_bytes(p, device, buffer, bytes, out);
    if (out && !s) fh1_to_f64(static_cast<double *>(row), buffer, FH1_F32, n);
    free(buffer);
    return s;
}

fh1_status cu_cache_read_row(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *out)
{
    FH1_TRY(cu_cache_settle(static_cast<cu_cache *>(c->store)));
    if (part == FH1_CACHE_CONV || part == FH1_CACHE_SSM) return move_slot(c, b, layer, part, out, true);
    return move_tokens(c, b, layer, part, out, true);
}

fh1_status cu_cache_write_row(fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in)
{
    cu_cache *store = static_cast<cu_cache *>(c->store);
    void *row = const_cast<void *>(in); /* only read */
    FH1_TRY(cu_cache_settle(store));
    if (part == FH1_CACHE_CONV || part == FH1_CACHE_SSM) return move_slot(c, b, layer, part, row, false);
    FH1_TRY(cu_cache_room_of(store, b, 0, c->rows[b].n));
    return move_tokens(c, b, layer, part, row, false);
}

} // namespace CU_NS
