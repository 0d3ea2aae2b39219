/* Shared by the files of cuda/host/ and by the race checker: blocks, barriers, one OS thread's scheduler, the device's
 * heap, and the hooks through which a checker learns what happens. Kernels never see this file. */
#pragma once

#include "cuda/host/runtime_api.h"
#include "cuda/host/sanitizer.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#include <deque>
#include <memory>
#include <vector>

namespace cu_host
{
namespace sim
{

/* Exit code after a mistake of a kernel. */
enum { KERNEL_MISTAKE = 66 };
[[noreturn]] void exit_mistake();
/* fault.cpp: reports of accesses to no memory; once per OS thread. */
void watch_faults();

enum : size_t {
    SHARED_MAX = 227 * 1024,       /* dynamic, with cudaFuncSetAttribute */
    SHARED_STATIC_MAX = 48 * 1024, /* static, and dynamic without it */
    ARENA = 384 * 1024             /* one resident block's shared memory with all gaps */
};

enum Order { FORWARD, REVERSE, RANDOM };

/* What ThreadSanitizer is told; nothing in other builds. */
#if CU_HOST_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void *);
void __tsan_switch_to_fiber(void *, unsigned);
void *__tsan_get_current_fiber(void);
void __tsan_acquire(void *);
void __tsan_release(void *);
void AnnotateIgnoreWritesBegin(const char *, int);
void AnnotateIgnoreWritesEnd(const char *, int);
void AnnotateIgnoreReadsBegin(const char *, int);
void AnnotateIgnoreReadsEnd(const char *, int);
}
#define TSAN(call) call
#else
#define TSAN(call) (void)0
#endif
/* While one lives: memcpy and memset, which ThreadSanitizer watches even in code that it did not compile, are this
 * layer's own doing and no part of the program. */
struct Unwatched {
    Unwatched()
    {
        TSAN(AnnotateIgnoreWritesBegin(__FILE__, __LINE__));
        TSAN(AnnotateIgnoreReadsBegin(__FILE__, __LINE__));
    }
    ~Unwatched()
    {
        TSAN(AnnotateIgnoreReadsEnd(__FILE__, __LINE__));
        TSAN(AnnotateIgnoreWritesEnd(__FILE__, __LINE__));
    }
    Unwatched(const Unwatched &) = delete;
    Unwatched &operator=(const Unwatched &) = delete;
};

struct Settings {
    Order order; /* FH1_CUDA_ORDER=forward|reverse|random:SEED */
    unsigned seed;
    bool deferred; /* FH1_CUDA_STREAMS=deferred: work waits until something waits for it */
    bool poison;   /* FH1_CUDA_POISON=0: no NaN in fresh memory */
    int workers;   /* FH1_CUDA_WORKERS: OS threads that run blocks */
    int sms;       /* FH1_CUDA_SMS: multiprocessors reported */
    size_t memory; /* FH1_CUDA_MEMORY: bytes of the device, suffix K, M or G */
    size_t stack;  /* bytes of one thread's stack */
};
Settings &settings();

struct SharedStatic {
    const SharedVar *var;
    unsigned char *p;
};

/* Barrier of a block (16 of them), of a warpgroup, or of the grid. Bits are thread indices relative to the block's
 * (grid: the group's) first. */
struct Barrier {
    unsigned arrived, expected, gen;
    Site site;         /* of the first arrival */
    uint64_t *waiting; /* those who wait */
    uint64_t *came;    /* those who arrived, waiting or not */
    unsigned words;
    char tsan[2]; /* sync objects of ThreadSanitizer by parity of gen: a late leaver must not acquire what early
                     leavers release into the next generation */
    /* The checker's vector clocks: what arrived so far, what each completed generation (by parity) knew. */
    uint16_t acc[32], snap[2][32];
    void *shadow;
};

struct Block : Place {
    const Launch *l;
    unsigned slot;  /* place in the group of resident blocks */
    unsigned seq;   /* number of the block since the program started, unique; 0 and 1 are no block's */
    unsigned first; /* index of its thread 0 in the group, a multiple of 64 */
    unsigned n_threads, alive;
    int vote[2]; /* of __syncthreads_or …, by parity of bar[0].gen */

    unsigned char *arena; /* dynamic shared memory first, 1024-aligned, then statics, each with a gap behind */
    size_t used;          /* bytes from `arena` that are taken, gaps included */
    size_t static_bytes;
    unsigned dynamic_align; /* that the kernel has asked for */
    std::vector<SharedStatic> statics;
    struct Gap {
        unsigned char *p;
        size_t n;
    };
    std::vector<Gap> gaps; /* bytes inside the arena that belong to nobody */
    unsigned char *gap_top;

    Barrier bar[16];
    uint64_t bar_bits[16][2][16];
    uint32_t warp_waiting[32]; /* lanes in a collective */
    uint32_t warp_exited[32];
    uint8_t warp_gen[32][32]; /* ordering collectives completed, by lowest lane of the mask: parity for TSan */
    char warp_tsan[32][32][2];
    const void *rows[32][32]; /* of each warp's last ldmatrix */

    uint16_t vc[32][32]; /* the checker's: what warp v has seen of warp w */
    bool synced;
    void *shadow;
};

/* A stack and what is needed to come back to it. */
struct Context {
    void *sp;
    char *stack;
    size_t size;
    Thread *th;
    void *fake; /* AddressSanitizer's fake stack, or the main context's TSan fiber */
    Context *next;
};

/* A bulk or tensor copy in flight: it lands when nothing else can run. */
struct AsyncCopy {
    uint64_t *bar;
    int bytes;
    void *dst;
    const void *src;
    Block *blk;
    Site site;
    std::function<void()> land;
};

struct Warpgroups; /* wgmma in flight, cuda/host/wgmma.cpp */

/* One OS thread's scheduler: it runs a group of resident blocks (one, or a whole cooperative grid) to the end. */
struct Worker {
    std::vector<Thread> th;
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<uint64_t> ready, fresh; /* by thread index; fresh: ready and never run */
    Context main, *here, *prev, *idle, *used;
    unsigned total, alive, rng, colour;
    Order order;               /* of the settings, while a group runs */
    unsigned n_blocks, stride; /* stride: thread indices per block, a multiple of 64 */
    Barrier grid;
    std::vector<uint64_t> grid_bits;
    std::vector<unsigned char *> arenas;
    std::deque<AsyncCopy> async;
    std::vector<std::pair<const uint64_t *, unsigned>> mbar_waiting;
    Warpgroups *wg;

    Worker();
    ~Worker();
    void run_group(const Launch &l, unsigned first_block, unsigned n, unsigned seq);

    /* scheduler.cpp: leave the running thread */
    void wait_here(const char *what, Site s);     /* until somebody makes it ready */
    void let_first_run(unsigned lo, unsigned hi); /* it stays ready; the order's first of [lo, hi) goes on */
    void run_thread(unsigned i);
    /* The next ready thread in the order, -1: none. The commonest case first: a later one of the same 64. */
    int pick(unsigned after)
    {
        if (order == FORWARD && (after & 63) != 63) {
            const uint64_t later = ready[after >> 6] & ~1ull << (after & 63);
            if (later) return static_cast<int>(after & ~63u) + __builtin_ctzll(later);
        }
        return pick_far(after);
    }
    int pick_far(unsigned after);
    int first_ready(unsigned lo, unsigned hi) const;
    void set_ready(unsigned i)
    {
        ready[i >> 6] |= 1ull << (i & 63);
    }
    void clear_ready(unsigned i)
    {
        ready[i >> 6] &= ~(1ull << (i & 63));
    }
    [[noreturn]] void deadlock();

    /* sm90.cpp: the oldest bulk copy lands; false: none is in flight */
    bool deliver();

    /* fiber.cpp */
    Context *get_context();
    void swap_to(Context *to);
    void switched(void *fake);

    void start(unsigned i, Context *c); /* fills th[i] and gives it a stack */
    void thread_exit(Thread *t);
    void enter_block(unsigned k, const Launch &l, unsigned id, unsigned seq);
    void leave_block(Block *b);
    void after(Thread *t, Context *c); /* what runs when t has ended on c */
    void retire(Context *c);
    bool is_fresh(unsigned i) const
    {
        return fresh[i >> 6] >> (i & 63) & 1;
    }
    int up(unsigned from) const; /* first ready index >= from, or -1 */
    int down(int from) const;    /* last ready index <= from, or -1 */
};
extern __thread Worker *worker __attribute__((tls_model("initial-exec")));
/* yields since anything last happened in this OS thread: a loop that waits for what cannot come is found by it. */
extern __thread unsigned idle_yields __attribute__((tls_model("initial-exec")));
[[noreturn]] void fiber_main();

/* shared.cpp: the block's arena, filled and fenced; and given back. */
void arena_enter(Block *b, unsigned char *arena);
void arena_leave(Block *b);
unsigned char *arena_new();
void arena_free(unsigned char *arena);

void barrier_setup(Barrier &b, uint64_t *waiting, uint64_t *came, unsigned words);
void barrier_complete(Worker *w, Barrier &b, unsigned base);
/* wgmma.cpp: the block's threads have all ended; true when products are still in flight */
void wgmma_block_end(Worker *w, const Block *b);
void wgmma_free(Worker *w);

/* Held by every call of the runtime API that changes something: host code may call from several OS threads. */
struct Locked {
    Locked();
    ~Locked();
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;
};

/* ---- memory --------------------------------------------------------------------------------------------------- */

struct Allocation {
    uintptr_t at;
    size_t n;
    uintptr_t lo, hi; /* its pages; 0 for host memory */
    bool pinned;      /* host memory of cudaMallocHost or cudaHostRegister */
    bool ours;        /* free() it */
};
/* Sorted by address (a vector: std::map lives partly in libstdc++, where MemorySanitizer cannot look). */
const std::vector<Allocation> &allocations();
const Allocation *allocation_of(const void *p);     /* that holds *p, else NULL */
const Allocation *allocation_before(const void *p); /* the last one that starts at or before p, else NULL */
bool on_device(const void *p);                      /* inside of the device's address range */
bool was_freed(const void *p, size_t *n);           /* lies in one of the last freed allocations, of n bytes */
uintptr_t heap_base();
size_t heap_size(); /* of the reservation; 0 before the first cudaMalloc */
/* n bytes from p are device memory of one allocation? Else one line on stderr and cudaErrorInvalidValue. */
cudaError_t check_device_range(const void *p, size_t n, const char *what);

/* ---- streams -------------------------------------------------------------------------------------------------- */

/* f runs when its turn comes: now, when the stream is waited for, or in every launch of the graph being captured. */
cudaError_t enqueue(Stream *s, std::function<void()> f);
bool runs_at_once(Stream *s); /* f would run before enqueue returns */
/* In a call that a capture forbids (unless it is relaxed): the error, and the capture is void; else success. */
cudaError_t forbidden_in_capture(const char *call);
void drain_all();
void drain_stream(Stream *s);
bool is_capturing(Stream *s);
/* fmt NULL: nothing is printed. */
cudaError_t fail(cudaError_t e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void run_launch(const Launch &l);

/* ---- the checker's view --------------------------------------------------------------------------------------- */

/* A checker sets `hooks` from a static constructor, all members filled. The running thread is `cur` wherever a Thread
 * is not given. Sequence numbers grow over the program's life: blocks of a launch are first_seq … first_seq + blocks
 * - 1. */
struct Hooks {
    void (*launch)(const Launch &l, unsigned first_seq);
    void (*launch_end)(const Launch &l);
    void (*block)(Block *b);     /* about to start: clear what belongs to a block */
    void (*block_end)(Block *b); /* all threads ended, statics and gaps still listed */
    void (*thread)(Thread *t);   /* about to start */
    void (*thread_end)(Thread *t);

    /* __syncthreads, named and grid barriers: arrive (waiting or not), complete once, leave by those who waited. */
    void (*arrive)(Barrier &b, Thread *t);
    void (*complete)(Barrier &b);
    void (*leave)(Barrier &b, Thread *t, unsigned gen);

    /* Warp collectives: once when all lanes of the mask are there, before any goes on; then each lane as it leaves. */
    void (*warp_complete)(Block *b, unsigned warp, unsigned mask, bool orders);
    void (*warp_sync)(Thread *t, unsigned mask, bool orders);
    void (*fence)(Thread *t, int scope);

    /* mbarriers: `phase` counts the completed ones. init by t; arrive before the count falls; complete once per phase;
     * leave when a wait for `phase` returns. */
    void (*mbar_init)(const uint64_t *bar, Thread *t);
    void (*mbar_arrive)(const uint64_t *bar, Thread *t);
    void (*mbar_complete)(const uint64_t *bar, unsigned phase);
    void (*mbar_leave)(const uint64_t *bar, unsigned phase, Thread *t);

    /* Bulk and tensor copies: issued by cur (from then on dst is nobody's), landed (the bytes of dst are written in the
     * name of the copy; a wait for the phase of `bar` that follows orders them). cp.async is seen as the plain accesses
     * that its twin makes: a write at issue, a read and a write at the wait. */
    void (*async_issue)(const AsyncCopy &c, Thread *t);
    void (*async_read)(const AsyncCopy &c, const void *src, size_t n); /* a piece of the source, while it lands */
    void (*async_write)(const AsyncCopy &c, void *dst, size_t n);      /* a piece of the destination, while it lands */
    void (*async_land)(const AsyncCopy &c);
    /* wgmma: shared memory that products of the warp of t read, at issue and again at the wait that ends them. */
    void (*wgmma_read)(Thread *t, const void *p, size_t n, bool at_issue);

    /* Device memory. */
    void (*alloc)(void *p, size_t n);
    void (*release)(void *p, size_t n);
    void (*host_write)(void *p, size_t n); /* memcpy, memset: initialised, ordered before what follows */
    void (*host_read)(const void *p, size_t n);
    void (*gap)(Block *b, void *p, size_t n);
};
extern const Hooks *hooks;

} // namespace sim
} // namespace cu_host
