/* memcpy and memset, held to their ranges and directions. */
#include "cuda/host/internal.h"

namespace cu_host
{

using namespace sim;

/* A rectangle of `height` rows of `width` bytes, each side with its own distance between rows. */
struct Copy {
    void *d;
    const void *s;
    size_t dpitch, spitch, width, height;
};

static size_t span(size_t pitch, size_t width, size_t height)
{
    return pitch * (height - 1) + width;
}

static void copy_now(const Copy &c)
{
    for (size_t r = 0; r < c.height; ++r) {
        char *d = static_cast<char *>(c.d) + r * c.dpitch;
        const char *s = static_cast<const char *>(c.s) + r * c.spitch;
        if (hooks && on_device(s)) hooks->host_read(s, c.width);
        memmove(d, s, c.width);
        if (hooks && on_device(d)) hooks->host_write(d, c.width);
    }
}

static cudaError_t check_side(const void *p, bool device, size_t n, const char *what)
{
    if (device) return check_device_range(p, n, what);
    if (on_device(p)) return fail(cudaErrorInvalidValue, "%s: %p is device memory, the direction says host", what, p);
    if (!p) return fail(cudaErrorInvalidValue, "%s: NULL", what);
    const Allocation *a = allocation_of(p);
    if (a && reinterpret_cast<uintptr_t>(p) - a->at + n > a->n)
        return fail(cudaErrorInvalidValue, "%s: %zu bytes at byte %zu of %zu bytes of pinned memory", what, n,
                    static_cast<size_t>(reinterpret_cast<uintptr_t>(p) - a->at), a->n);
    return cudaSuccess;
}

/* Sets whether the two sides are device memory. */
static cudaError_t check_copy(const Copy &c, cudaMemcpyKind k, bool *to_device, bool *from_device)
{
    if (static_cast<unsigned>(k) > cudaMemcpyDefault)
        return fail(cudaErrorInvalidMemcpyDirection, "cudaMemcpy: direction %d", static_cast<int>(k));
    *to_device = k == cudaMemcpyDefault ? on_device(c.d) : k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice;
    *from_device =
        k == cudaMemcpyDefault ? on_device(c.s) : k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice;
    if (c.width > c.dpitch || c.width > c.spitch)
        return fail(cudaErrorInvalidValue, "cudaMemcpy2D: rows of %zu bytes at distances %zu and %zu", c.width,
                    c.dpitch, c.spitch);
    if (const cudaError_t e = check_side(c.d, *to_device, span(c.dpitch, c.width, c.height), "cudaMemcpy destination"))
        return e;
    return check_side(c.s, *from_device, span(c.spitch, c.width, c.height), "cudaMemcpy source");
}

/* Memory that is not pinned is staged: such a source may be used again at once, such a destination is there at once. */
static cudaError_t copy_async(const Copy &c, cudaMemcpyKind k, Stream *st)
{
    const Locked lock;
    if (!c.width || !c.height) return cudaSuccess;
    bool to_device = false, from_device = false;
    if (const cudaError_t e = check_copy(c, k, &to_device, &from_device)) return e;
    if (runs_at_once(st)) {
        copy_now(c);
        return cudaSuccess;
    }
    if (is_capturing(st)) return enqueue(st, [c] { copy_now(c); });
    if (!from_device && !allocation_of(c.s)) {
        auto staged = std::make_shared<std::vector<char>>(c.width * c.height);
        copy_now(Copy{staged->data(), c.s, c.width, c.spitch, c.width, c.height});
        return enqueue(st, [c, staged] { copy_now(Copy{c.d, staged->data(), c.dpitch, c.width, c.width, c.height}); });
    }
    const cudaError_t e = enqueue(st, [c] { copy_now(c); });
    if (!e && !to_device && !allocation_of(c.d)) drain_stream(st);
    return e;
}

cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind k, cudaStream_t st)
{
    return copy_async(Copy{d, s, n, n, n, 1}, k, st);
}

cudaError_t cudaMemcpy2DAsync(void *d, size_t dpitch, const void *s, size_t spitch, size_t width, size_t height,
                              cudaMemcpyKind k, cudaStream_t st)
{
    return copy_async(Copy{d, s, dpitch, spitch, width, height}, k, st);
}

cudaError_t cudaMemcpy(void *d, const void *s, size_t n, cudaMemcpyKind k)
{
    return cudaMemcpy2D(d, n, s, n, n, 1, k);
}

cudaError_t cudaMemcpy2D(void *d, size_t dpitch, const void *s, size_t spitch, size_t width, size_t height,
                         cudaMemcpyKind k)
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaMemcpy")) return e;
    const cudaError_t e = copy_async(Copy{d, s, dpitch, spitch, width, height}, k, nullptr);
    drain_stream(nullptr);
    return e;
}

cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t st)
{
    const Locked lock;
    if (!n) return cudaSuccess;
    if (const cudaError_t e = check_device_range(d, n, "cudaMemset")) return e;
    const auto set = [=] {
        memset(d, v, n);
        if (hooks) hooks->host_write(d, n);
    };
    if (!runs_at_once(st)) return enqueue(st, set);
    set();
    return cudaSuccess;
}

cudaError_t cudaMemset(void *d, int v, size_t n)
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaMemset")) return e;
    return cudaMemsetAsync(d, v, n, nullptr);
}

} // namespace cu_host
