/* Device memory. Every allocation has its own pages, its end within 255 bytes of a page that faults, and is full of
 * NaN; freed pages fault. Addresses come from one reservation, made by the first cudaMalloc, and are used again only
 * when it is used up. */
#include "cuda/host/internal.h"

#include <algorithm>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace cu_host
{
namespace sim
{

static std::vector<Allocation> list; /* by address */
static struct {
    unsigned char *base, *top;
    size_t size, page, in_use;
} heap;

enum { REMEMBERED = 64 };
static struct {
    uintptr_t at;
    size_t n;
} freed[REMEMBERED];
static unsigned n_freed;

const std::vector<Allocation> &allocations()
{
    return list;
}

static std::vector<Allocation>::iterator after(uintptr_t a)
{
    return std::upper_bound(list.begin(), list.end(), a, [](uintptr_t x, const Allocation &i) { return x < i.at; });
}

const Allocation *allocation_before(const void *p)
{
    const auto i = after(reinterpret_cast<uintptr_t>(p));
    return i == list.begin() ? nullptr : &*(i - 1);
}

const Allocation *allocation_of(const void *p)
{
    const Allocation *a = allocation_before(p);
    return a && reinterpret_cast<uintptr_t>(p) - a->at < a->n ? a : nullptr;
}

bool on_device(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(heap.base) < heap.size;
}

uintptr_t heap_base()
{
    return reinterpret_cast<uintptr_t>(heap.base);
}

size_t heap_size()
{
    return heap.size;
}

bool was_freed(const void *p, size_t *n)
{
    for (unsigned i = 0; i < REMEMBERED && i < n_freed; ++i)
        if (reinterpret_cast<uintptr_t>(p) - freed[i].at < freed[i].n) {
            *n = freed[i].n;
            return true;
        }
    return false;
}

/* Four times the device's memory in addresses, or what the process may still have. */
static bool reserve()
{
    heap.page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t want =
        settings().memory > (static_cast<size_t>(1) << 40) ? static_cast<size_t>(1) << 42 : settings().memory * 4;
    if (want < static_cast<size_t>(16) << 30) want = static_cast<size_t>(16) << 30;
    struct rlimit r;
    if (!getrlimit(RLIMIT_AS, &r) && r.rlim_cur != RLIM_INFINITY && want > r.rlim_cur / 2) want = r.rlim_cur / 2;
    for (; want >= static_cast<size_t>(16) << 20; want /= 2) {
        want = want / heap.page * heap.page;
        void *p = mmap(nullptr, want, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) continue;
        heap.base = heap.top = static_cast<unsigned char *>(p);
        heap.size = want;
        return true;
    }
    return false;
}

/* `need` bytes of addresses: fresh ones, else the first hole between two allocations. */
static unsigned char *addresses(size_t need)
{
    if (need <= static_cast<size_t>(heap.base + heap.size - heap.top)) {
        unsigned char *p = heap.top;
        heap.top += need;
        return p;
    }
    uintptr_t from = heap_base();
    for (const Allocation &a : list) {
        if (!a.hi) continue;
        if (a.lo - from >= need && a.lo > from) return reinterpret_cast<unsigned char *>(from);
        from = a.hi;
    }
    return need <= heap_base() + heap.size - from ? reinterpret_cast<unsigned char *>(from) : nullptr;
}

/* A page without access, the pages of n bytes that end (but for less than 256 bytes) where the next such page begins.
 */
static cudaError_t allocate(void **p, size_t n)
{
    *p = nullptr;
    if (!n) return cudaSuccess;
    if (!heap.base && !reserve()) return fail(cudaErrorMemoryAllocation, nullptr);
    if (n > settings().memory || heap.in_use > settings().memory - n) return fail(cudaErrorMemoryAllocation, nullptr);
    const size_t rounded = (n + 255) / 256 * 256, body = (rounded + heap.page - 1) / heap.page * heap.page;
    unsigned char *hole = addresses(body + 2 * heap.page);
    if (!hole) return fail(cudaErrorMemoryAllocation, nullptr);
    unsigned char *lo = hole + heap.page, *at = lo + body - rounded;
    if (mprotect(lo, body, PROT_READ | PROT_WRITE)) return fail(cudaErrorMemoryAllocation, nullptr);
    no_access(lo, static_cast<size_t>(at - lo));
    access_again(at, n);
    no_access(at + n, rounded - n);
    if (settings().poison) memset(at, 0xff, n);
    uninitialised(at, n);
    const uintptr_t a = reinterpret_cast<uintptr_t>(at), l = reinterpret_cast<uintptr_t>(lo);
    list.insert(after(a), Allocation{a, n, l, l + body, false, false});
    heap.in_use += n;
    if (hooks) hooks->alloc(at, n);
    *p = at;
    return cudaSuccess;
}

static cudaError_t release(void *p, const char *call)
{
    if (!p) return cudaSuccess;
    const auto i = after(reinterpret_cast<uintptr_t>(p));
    if (i == list.begin() || (i - 1)->at != reinterpret_cast<uintptr_t>(p) || (i - 1)->pinned) {
        size_t n;
        return fail(cudaErrorInvalidValue, "%s of %p: %s", call, p,
                    was_freed(p, &n) ? "it was freed before" : "no allocation starts there");
    }
    const Allocation a = *(i - 1);
    if (hooks) hooks->release(p, a.n);
    mmap(reinterpret_cast<void *>(a.lo), a.hi - a.lo, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    no_access(reinterpret_cast<void *>(a.lo), a.hi - a.lo);
    freed[n_freed % REMEMBERED].at = a.at;
    freed[n_freed++ % REMEMBERED].n = a.n;
    heap.in_use -= a.n;
    list.erase(i - 1);
    return cudaSuccess;
}

cudaError_t check_device_range(const void *p, size_t n, const char *what)
{
    const Allocation *a = allocation_before(p);
    size_t old;
    if (!on_device(p)) return fail(cudaErrorInvalidValue, "%s: %p is not device memory", what, p);
    if (a && !a->pinned && reinterpret_cast<uintptr_t>(p) - a->at + n <= a->n) return cudaSuccess;
    if (was_freed(p, &old)) return fail(cudaErrorInvalidValue, "%s: %p was freed", what, p);
    if (!a || a->pinned) return fail(cudaErrorInvalidValue, "%s: %p lies in no allocation", what, p);
    return fail(cudaErrorInvalidValue, "%s: %zu bytes at byte %zu of an allocation of %zu bytes", what, n,
                static_cast<size_t>(reinterpret_cast<uintptr_t>(p) - a->at), a->n);
}

} // namespace sim

using namespace sim;

cudaError_t cudaMalloc(void **p, size_t n)
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaMalloc")) return e;
    return allocate(p, n);
}

/* Waits for the device, as CUDA's does. */
cudaError_t cudaFree(void *p)
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaFree")) return e;
    drain_all();
    return release(p, "cudaFree");
}

/* The address is known at once; the memory goes back when the stream comes to it. */
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s)
{
    const Locked lock;
    if (is_capturing(s)) return fail(cudaErrorNotSupported, "cudaMallocAsync into a graph");
    return allocate(p, n);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t s)
{
    const Locked lock;
    if (is_capturing(s)) return fail(cudaErrorNotSupported, "cudaFreeAsync into a graph");
    if (runs_at_once(s)) return release(p, "cudaFreeAsync");
    return enqueue(s, [p] { release(p, "cudaFreeAsync"); });
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    const Locked lock;
    *total = settings().memory;
    *free_bytes = settings().memory - heap.in_use;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned)
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaHostAlloc")) return e;
    *p = malloc(n ? n : 1);
    if (!*p) return fail(cudaErrorMemoryAllocation, nullptr);
    if (settings().poison) memset(*p, 0xff, n);
    uninitialised(*p, n);
    const uintptr_t a = reinterpret_cast<uintptr_t>(*p);
    list.insert(after(a), Allocation{a, n, 0, 0, true, true});
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t n)
{
    return cudaHostAlloc(p, n, cudaHostAllocDefault);
}

static cudaError_t forget_host(void *p, bool ours, const char *call)
{
    const auto i = after(reinterpret_cast<uintptr_t>(p));
    if (i == list.begin() || (i - 1)->at != reinterpret_cast<uintptr_t>(p) || !(i - 1)->pinned || (i - 1)->ours != ours)
        return fail(cudaErrorInvalidValue, "%s of %p: nothing starts there", call, p);
    drain_all();
    list.erase(i - 1);
    if (ours) free(p);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaFreeHost")) return e;
    return p ? forget_host(p, true, "cudaFreeHost") : cudaSuccess;
}

cudaError_t cudaHostRegister(void *p, size_t n, unsigned)
{
    const Locked lock;
    if (!p || !n || on_device(p)) return fail(cudaErrorInvalidValue, "cudaHostRegister of %zu bytes at %p", n, p);
    const uintptr_t a = reinterpret_cast<uintptr_t>(p);
    if (allocation_of(p)) return fail(cudaErrorInvalidValue, "cudaHostRegister: %p is registered", p);
    list.insert(after(a), Allocation{a, n, 0, 0, true, false});
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p)
{
    const Locked lock;
    return forget_host(p, false, "cudaHostUnregister");
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p)
{
    const Locked lock;
    *a = cudaPointerAttributes{};
    const Allocation *x = allocation_of(p);
    a->type = !x ? cudaMemoryTypeUnregistered : x->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    if (x && !x->pinned) a->devicePointer = const_cast<void *>(p);
    if (!x || x->pinned) a->hostPointer = const_cast<void *>(p);
    return cudaSuccess;
}

} // namespace cu_host
