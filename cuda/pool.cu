/* Pages and slots: growing, taking, giving back, copying. */
#include "cuda/pool.h"

namespace CU_NS
{

uint32_t cu_next_generation(void)
{
    static uint32_t last;
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

size_t cu_pool_unit(const cu_pool *p, fh1_cache_part part)
{
    if (part == FH1_CACHE_CONV) return static_cast<size_t>(p->conv_elems) * sizeof(float);
    if (part == FH1_CACHE_SSM) return static_cast<size_t>(p->ssm_elems) * sizeof(float);
    return static_cast<size_t>(p->Hkv) * CU_PAGE * static_cast<size_t>(p->A) * cu_size(p->type);
}

fh1_status cu_pool_new(const fh1_config *c, cu_type type, cudaStream_t stream, cu_pool **out)
{
    *out = NULL;
    cu_pool *p = static_cast<cu_pool *>(calloc(1, sizeof *p));
    if (!p) return fh1_no_memory(sizeof *p, "a cache on the device");
    p->n_caches = 1;
    p->type = type;
    p->n_layers = c->n_layers;
    p->Hkv = static_cast<int>(c->Hkv);
    p->A = static_cast<int>(c->A);
    p->conv_elems = fh1_conv_dim(c) * (c->K - 1);
    p->ssm_elems = c->H * c->P * c->N;
    p->stream = stream;
    p->generation = cu_next_generation();
    for (int i = 0; i < 4; ++i) {
        p->part[i] = static_cast<cu_array *>(calloc(static_cast<size_t>(c->n_layers), sizeof *p->part[i]));
        if (p->part[i]) continue;
        cu_pool_drop(p);
        return fh1_no_memory(static_cast<size_t>(c->n_layers) * sizeof **p->part, "a cache on the device");
    }
    *out = p;
    return NULL;
}

void cu_pool_hold(cu_pool *p)
{
    p->n_caches++;
}

void cu_pool_drop(cu_pool *p)
{
    if (--p->n_caches > 0) return;
    for (int i = 0; i < 4; ++i) {
        for (int64_t l = 0; p->part[i] && l < p->n_layers; ++l) cudaFree(p->part[i][l].p);
        free(p->part[i]);
    }
    free(p->holders);
    free(p->free_page);
    free(p->free_slot);
    free(p);
}

fh1_status cu_pool_set_stream(cu_pool *p, cudaStream_t stream)
{
    if (p->stream == stream) return NULL;
    CU_TRY(cudaStreamSynchronize(p->stream), "the work on a cache");
    p->stream = stream;
    return NULL;
}

/* ---- growing ---- */

/* Room for `room` pages or slots in one array; what it holds moves along. */
static fh1_status resize_array(cu_pool *p, fh1_cache_part part, int64_t layer, int64_t room)
{
    cu_array *a = &p->part[part][layer];
    if (a->room == room) return NULL;
    const size_t unit = cu_pool_unit(p, part), bytes = static_cast<size_t>(room) * unit;
    const size_t kept = static_cast<size_t>(a->room < room ? a->room : room) * unit;
    void *q = NULL;
    const cudaError_t e = cudaMalloc(&q, bytes ? bytes : 1);
    if (e != cudaSuccess) {
        cudaGetLastError(); /* the next launch has nothing to do with it */
        return cu_status(e, "more memory for a cache");
    }
    cudaError_t moved = cudaSuccess;
    if (kept) moved = cudaMemcpyAsync(q, a->p, kept, cudaMemcpyDeviceToDevice, p->stream);
#if !CU_HOST /* finite, so that masked scores of what no token wrote are cheap; on the CPU they stay NaN */
    if (moved == cudaSuccess && bytes > kept)
        moved = cudaMemsetAsync(static_cast<char *>(q) + kept, 0, bytes - kept, p->stream);
#endif
    if (moved == cudaSuccess) moved = cudaStreamSynchronize(p->stream);
    if (moved != cudaSuccess) {
        cudaFree(q);
        return cu_status(moved, "moving a cache");
    }
    cudaFree(a->p);
    a->p = q;
    a->room = room;
    p->generation = cu_next_generation();
    return NULL;
}

static fh1_status resize_parts(cu_pool *p, fh1_cache_part first, int64_t room)
{
    for (int64_t l = 0; l < p->n_layers; ++l) {
        FH1_TRY(resize_array(p, first, l, room));
        FH1_TRY(resize_array(p, static_cast<fh1_cache_part>(first + 1), l, room));
    }
    return NULL;
}

static fh1_status grow_stack(int **stack, int64_t room)
{
    int *grown = static_cast<int *>(realloc(*stack, static_cast<size_t>(room) * sizeof *grown));
    if (!grown) return fh1_no_memory(static_cast<size_t>(room) * sizeof *grown, "the books of a cache");
    *stack = grown;
    return NULL;
}

/* `first`: the first of the two parts that grow together. *n becomes at least `need`. */
static fh1_status grow(cu_pool *p, fh1_cache_part first, int64_t need, int64_t *n, int **stack, int64_t *n_free)
{
    int64_t room = need > 2 * *n ? need : 2 * *n;
    if (room > INT32_MAX / 2) return FH1_BAD("a cache of %lld pages is too large", static_cast<long long>(room));
    FH1_TRY(grow_stack(stack, room));
    if (first == FH1_CACHE_KEY) FH1_TRY(grow_stack(&p->holders, room));
    fh1_status s = resize_parts(p, first, room);
    if (s && room > need) s = resize_parts(p, first, room = need); /* some shrink again */
    if (s) return s;
    for (int64_t i = room; i-- > *n;) { /* the lowest on top: rows get neighbours */
        if (first == FH1_CACHE_KEY) p->holders[i] = 0;
        (*stack)[(*n_free)++] = static_cast<int>(i);
    }
    *n = room;
    return NULL;
}

fh1_status cu_pool_want_pages(cu_pool *p, int64_t n)
{
    if (n <= p->n_free_pages) return NULL;
    return grow(p, FH1_CACHE_KEY, p->n_pages + n - p->n_free_pages, &p->n_pages, &p->free_page, &p->n_free_pages);
}

fh1_status cu_pool_want_slots(cu_pool *p, int64_t n)
{
    if (n <= p->n_free_slots) return NULL;
    return grow(p, FH1_CACHE_CONV, p->n_slots + n - p->n_free_slots, &p->n_slots, &p->free_slot, &p->n_free_slots);
}

/* ---- taking and giving back ---- */

fh1_status cu_pool_take_page(cu_pool *p, int *page)
{
    *page = p->free_page[--p->n_free_pages];
    p->holders[*page] = 1;
#if CU_HOST /* what an earlier holder left must not look like keys */
    for (int64_t l = 0; l < p->n_layers; ++l)
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_VALUE; ++part) {
            const fh1_cache_part q = static_cast<fh1_cache_part>(part);
            CU_TRY(cudaMemsetAsync(cu_pool_at(p, q, l, *page), 0xff, cu_pool_unit(p, q), p->stream), "cudaMemset");
        }
#endif
    return NULL;
}

int cu_pool_take_slot(cu_pool *p)
{
    return p->free_slot[--p->n_free_slots];
}

void cu_pool_drop_page(cu_pool *p, int page)
{
    if (--p->holders[page] == 0) p->free_page[p->n_free_pages++] = page;
}

void cu_pool_drop_slot(cu_pool *p, int slot)
{
    p->free_slot[p->n_free_slots++] = slot;
}

/* ---- copying ---- */

static fh1_status copy_units(cu_pool *p, fh1_cache_part first, int from, int to, int64_t n)
{
    for (int64_t l = 0; l < p->n_layers; ++l)
        for (int i = first; i <= first + 1; ++i) {
            const fh1_cache_part part = static_cast<fh1_cache_part>(i);
            const size_t bytes = static_cast<size_t>(n) * cu_pool_unit(p, part);
            if (!bytes) continue;
            const void *source = cu_pool_at(p, part, l, from);
            CU_TRY(cudaMemcpyAsync(cu_pool_at(p, part, l, to), source, bytes, cudaMemcpyDeviceToDevice, p->stream),
                   "copying rows of a cache");
        }
    return NULL;
}

fh1_status cu_pool_copy_page(cu_pool *p, int from, int to)
{
    return copy_units(p, FH1_CACHE_KEY, from, to, 1);
}

/* How many entries from i on follow one another. */
static int64_t run_of(const int *v, int64_t i, int64_t n)
{
    int64_t k = 1;
    while (i + k < n && v[i + k] == v[i] + k) ++k;
    return k;
}

fh1_status cu_pool_copy_slots(cu_pool *p, const int *from, const int *to, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        const int64_t a = run_of(from, i, n), b = run_of(to, i, n), k = a < b ? a : b;
        FH1_TRY(copy_units(p, FH1_CACHE_CONV, from[i], to[i], k));
        i += k;
    }
    return NULL;
}

fh1_status cu_pool_zero_slots(cu_pool *p, const int *slot, int64_t n)
{
    for (int64_t i = 0, k; i < n; i += k) {
        k = run_of(slot, i, n);
        for (int64_t l = 0; l < p->n_layers; ++l)
            for (int part = FH1_CACHE_CONV; part <= FH1_CACHE_SSM; ++part) {
                const fh1_cache_part q = static_cast<fh1_cache_part>(part);
                const size_t bytes = static_cast<size_t>(k) * cu_pool_unit(p, q);
                if (!bytes) continue;
                CU_TRY(cudaMemsetAsync(cu_pool_at(p, q, l, slot[i]), 0, bytes, p->stream), "emptying rows of a cache");
            }
    }
    return NULL;
}

} // namespace CU_NS
