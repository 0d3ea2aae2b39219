/* Launches: what the device would refuse is refused; then the blocks run, one after the other in the order's direction,
 * on several OS threads, or, of a cooperative launch, all at once. */
#include "cuda/host/internal.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace cu_host
{
namespace sim
{

/* What cudaFuncSetAttribute gave to a kernel. */
struct Limit {
    const void *fn;
    size_t smem;
};
static std::vector<Limit> limits;

static size_t limit_of(const void *f)
{
    for (const Limit &x : limits)
        if (x.fn == f) return x.smem;
    return SHARED_STATIC_MAX;
}

cudaError_t set_function_attribute(const void *f, cudaFuncAttribute a, int v)
{
    if (a == cudaFuncAttributePreferredSharedMemoryCarveout)
        return v < -1 || v > 100 ? fail(cudaErrorInvalidValue, "a shared memory carveout of %d %%", v) : cudaSuccess;
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize || v < 0 || static_cast<size_t>(v) > SHARED_MAX)
        return fail(cudaErrorInvalidValue, "cudaFuncSetAttribute(%d, %d): at most %zu bytes of dynamic shared memory",
                    static_cast<int>(a), v, static_cast<size_t>(SHARED_MAX));
    const Locked lock;
    for (Limit &x : limits)
        if (x.fn == f) {
            x.smem = static_cast<size_t>(v);
            return cudaSuccess;
        }
    limits.push_back({f, static_cast<size_t>(v)});
    return cudaSuccess;
}

cudaError_t function_attributes(cudaFuncAttributes *a, const void *f)
{
    *a = cudaFuncAttributes{};
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 32;
    a->maxDynamicSharedSizeBytes = static_cast<int>(limit_of(f));
    return cudaSuccess;
}

/* OS threads that stay: fibers never move between them. */
struct Pool {
    std::mutex mutex;
    std::condition_variable start, end;
    const Launch *l = nullptr;
    unsigned blocks = 0, seq = 0, round = 0;
    int busy = 0, n;
    std::atomic<unsigned> next{0};

    explicit Pool(int k) : n(k)
    {
        for (int i = 0; i < k; ++i) std::thread([this] { work(); }).detach();
    }
    void work()
    {
        Worker w;
        for (unsigned seen = 0;;) {
            std::unique_lock<std::mutex> lock(mutex);
            start.wait(lock, [&] { return round != seen; });
            seen = round;
            lock.unlock();
            for (unsigned i; (i = next++) < blocks;) w.run_group(*l, i, 1, seq + i);
            lock.lock();
            if (--busy == 0) end.notify_one();
        }
    }
    void run(const Launch &launched, unsigned k, unsigned first_seq)
    {
        std::unique_lock<std::mutex> lock(mutex);
        l = &launched;
        blocks = k;
        seq = first_seq;
        next = 0;
        busy = n;
        ++round;
        start.notify_all();
        end.wait(lock, [&] { return busy == 0; });
    }
};

static unsigned gcd(unsigned a, unsigned b)
{
    while (b) {
        const unsigned r = a % b;
        a = b;
        b = r;
    }
    return a;
}

void run_launch(const Launch &l)
{
    static thread_local Worker mine;
    static unsigned next_seq = 2;
    const unsigned n = l.grid.x * l.grid.y * l.grid.z, seq = next_seq;
    next_seq += n;
    if (cur) die(Site{nullptr, 0}, "a kernel launches %s: not supported", l.name);
    if (hooks) hooks->launch(l, seq);
    if (l.cooperative) mine.run_group(l, 0, n, seq);
    else if (settings().workers > 1 && n > 1 && !hooks) {
        static Pool *pool = new Pool(settings().workers);
        pool->run(l, n, seq);
    } else {
        /* In the order's direction; random: a step that visits every block once. */
        uint64_t step = settings().order == REVERSE ? n - 1 : 1, at = settings().order == REVERSE ? n - 1 : 0;
        if (settings().order == RANDOM && n > 2) {
            unsigned k = (settings().seed * 2654435761u ^ seq * 40503u) % n;
            while (gcd(k, n) != 1) k = (k + 1) % n;
            step = k;
            at = (settings().seed * 69069u + seq) % n;
        }
        for (unsigned i = 0; i < n; ++i, at = (at + step) % n)
            mine.run_group(l, static_cast<unsigned>(at), 1, seq + static_cast<unsigned>(at));
    }
    if (hooks) hooks->launch_end(l);
}

static cudaError_t refused(const Launch &l)
{
    const unsigned long threads = static_cast<unsigned long>(l.block.x) * l.block.y * l.block.z;
    if (!threads || threads > 1024 || l.block.x > 1024 || l.block.y > 1024 || l.block.z > 64)
        return fail(cudaErrorInvalidConfiguration, "%s: a block of %u x %u x %u threads", l.name, l.block.x, l.block.y,
                    l.block.z);
    if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > 0x7fffffffu || l.grid.y > 65535 || l.grid.z > 65535)
        return fail(cudaErrorInvalidConfiguration, "%s: a grid of %u x %u x %u blocks", l.name, l.grid.x, l.grid.y,
                    l.grid.z);
    if (static_cast<unsigned long>(l.grid.x) * l.grid.y > 0xffffffffu / l.grid.z)
        return fail(cudaErrorInvalidConfiguration, "%s: more than 2^32 blocks", l.name);
    if (l.smem > limit_of(l.fn))
        return fail(cudaErrorInvalidValue, "%s: %zu bytes of dynamic shared memory, %zu allowed (cudaFuncSetAttribute)",
                    l.name, l.smem, limit_of(l.fn));
    if (l.cooperative) {
        int per_sm = 0;
        occupancy(&per_sm, l.fn, static_cast<int>(threads), l.smem);
        const unsigned long n = static_cast<unsigned long>(l.grid.x) * l.grid.y * l.grid.z;
        if (n > static_cast<unsigned long>(per_sm) * static_cast<unsigned long>(settings().sms))
            return fail(cudaErrorCooperativeLaunchTooLarge,
                        "%s: %lu blocks of a cooperative launch, %d fit on each of %d "
                        "multiprocessors",
                        l.name, n, per_sm, settings().sms);
    }
    return cudaSuccess;
}

cudaError_t launch(Launch &&l, Stream *s)
{
    const Locked lock;
    if (const cudaError_t e = refused(l)) return e;
    const size_t given = limit_of(l.fn);
    l.shared_limit =
        given > SHARED_STATIC_MAX ? static_cast<size_t>(SHARED_MAX) : static_cast<size_t>(SHARED_STATIC_MAX);
    if (runs_at_once(s)) {
        run_launch(l);
        return cudaSuccess;
    }
    auto kept = std::make_shared<Launch>(std::move(l));
    return enqueue(s, [kept] { run_launch(*kept); });
}

} // namespace sim
} // namespace cu_host
