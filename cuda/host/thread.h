/* What a running CUDA thread is on the CPU, and the calls that kernels' headers make into the scheduler. Kernels see
 * the names of CUDA only; everything of this layer's own lives in cu_host::sim. */
#pragma once

#include "cuda/host/types.h"

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace cu_host
{
namespace sim
{

/* A place in a kernel. here() as a default argument names the caller (g++ 12 takes the builtins' line from the
 * definition when they stand in a braced default argument). */
struct Site {
    const char *file;
    int line;
    static Site here(const char *f = __builtin_FILE(), int l = __builtin_LINE())
    {
        return Site{f, l};
    }
};
#define CU_HOST_HERE ::cu_host::sim::Site::here()
/* For what this layer does inside instrumented kernel code on its own account. */
#define CU_HOST_NO_TSAN __attribute__((no_sanitize("thread")))

struct Block;
struct Context;
struct Stream;

/* A cp.async that was issued and not yet waited for. */
struct CopyAsync {
    void *dst;
    const void *src;
    int bytes;
    int from_src; /* bytes that come from src, the rest zeros */
    unsigned group;
};

/* What blockIdx, blockDim and gridDim are. */
struct Place {
    uint3 id;
    dim3 block, grid;
};

/* The first line of the cache holds all that a thread needs which never waits. */
struct alignas(64) Thread {
    uint3 tid;
    unsigned lin;       /* in the block … */
    uint8_t lane, warp; /* … and what follows from it */
    bool done;
    unsigned idx; /* in the group of resident blocks: lin + Block::first */
    const Place *place;
    Block *blk;
    Context *ctx;                  /* the stack it runs on, NULL before it starts */
    const char *wait;              /* what it waits for, NULL while it runs */
    unsigned n_copies, copy_group; /* cp.async: in the queue; groups committed */

    Site site; /* where it waits */
    void *arg; /* of the warp collective it waits in … */
    const void *op;
    unsigned mask;
    unsigned room_copies;
    CopyAsync *copies; /* queue, kept from block to block */

    /* The checker's; cleared at the start of the thread if there is one. Barriers passed, ordering collectives passed.
     */
    unsigned bar_epoch, warp_epoch;
    void *shadow;
    void *tsan; /* fiber of ThreadSanitizer */
};
extern __thread Thread *cur __attribute__((tls_model("initial-exec")));

/* A kernel launch, all that there is to know. */
struct Launch {
    dim3 grid, block;
    size_t smem;
    const char *name;
    const void *fn;
    bool cooperative;
    std::function<void()> body; /* one CUDA thread */
    size_t shared_limit;        /* static and dynamic together */
};
cudaError_t launch(Launch &&l, Stream *s);

/* A kernel's mistake: one report, exit code 66. */
[[noreturn]] void die(Site s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Shared memory. */
struct SharedVar {
    size_t size, align;
    const char *name;
    Site site;
};
unsigned char *dynamic_shared(unsigned align);
void *static_shared(const SharedVar *v);
void shared_gap(void *p, size_t n); /* after each piece of cu_carve: nobody's */

/* Barriers. */
void sync_threads(Site s);
int sync_threads_vote(int pred, int kind, Site s); /* 0: or, 1: and, 2: count */
void bar_sync(int id, int n_threads, Site s);
void bar_arrive(int id, int n_threads, Site s);
void sync_grid(Site s);
void yield();
void fence(int scope); /* 0 block, 1 device, 2 system */

/* Every lane of `mask` deposits `arg`; the last one to come runs fn(args by lane, mask) for all. `orders`: memory of
 * the lanes is ordered by it, as by __syncwarp; a shuffle does not. */
typedef void (*collective_fn)(void *const *args, unsigned mask);
void collective(unsigned mask, void *arg, collective_fn fn, const char *what, bool orders, Site s);

template <typename... P, typename... A>
cudaError_t launch_kernel(void (*k)(P...), const char *name, dim3 grid, dim3 block, size_t smem, Stream *s, bool coop,
                          A &&...a)
{
    static_assert((std::is_trivially_copyable<std::decay_t<P>>::value && ...), "kernel arguments are copied as bytes");
    std::tuple<std::decay_t<P>...> args(static_cast<P>(std::forward<A>(a))...);
    return launch(
        Launch{grid, block, smem, name, reinterpret_cast<const void *>(k), coop, [k, args] { std::apply(k, args); }, 0},
        s);
}

} // namespace sim
} // namespace cu_host

#define threadIdx (::cu_host::sim::cur->tid)
#define blockIdx (::cu_host::sim::cur->place->id)
#define blockDim (::cu_host::sim::cur->place->block)
#define gridDim (::cu_host::sim::cur->place->grid)
