/* Every access of a kernel against the shadow of its bytes: bounds, alignment, bytes that nobody wrote, and races. */
#include "cuda/host/check.h"

#include <sys/mman.h>

namespace cu_host
{
namespace sim
{

enum : size_t { SLOTS = 256 }; /* resident blocks of a cooperative launch that have a shadow of their own */
static Cell *shared_shadow, *heap_shadow;

static Cell *reserve(size_t cells)
{
    void *p =
        mmap(nullptr, cells * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "cu-check: no addresses for the shadow of %zu bytes; a smaller FH1_CUDA_MEMORY may help\n",
                cells);
        exit_mistake();
    }
    return static_cast<Cell *>(p);
}

bool is_shared(const Block *b, uintptr_t a)
{
    return a - reinterpret_cast<uintptr_t>(b->arena) < ARENA - 2048;
}

static Cell *shared_cells(const Block *b, uintptr_t a)
{
    if (!shared_shadow) shared_shadow = reserve(SLOTS * ARENA);
    return shared_shadow + b->slot % SLOTS * ARENA + (a - reinterpret_cast<uintptr_t>(b->arena));
}

static Cell *heap_cells(uintptr_t a)
{
    if (!heap_shadow) heap_shadow = reserve(heap_size());
    return heap_shadow + (a - heap_base());
}

void shadow_gap(const Block *b, uintptr_t a, size_t n)
{
    Cell *c = shared_cells(b, a);
    for (size_t i = 0; i < n; ++i) {
        c[i].wseq = b->seq;
        c[i].wthread = GAP;
    }
}

void shadow_host_write(uintptr_t a, size_t n)
{
    Cell *c = heap_cells(a);
    for (size_t i = 0; i < n; ++i) {
        c[i].wseq = 1;
        c[i].rseq = 0;
    }
}

/* The pages of an allocation are its own, and so are those of its shadow. */
void shadow_release(uintptr_t a, size_t n)
{
    memset(static_cast<void *>(heap_cells(a)), 0, n < 4096 ? n * sizeof(Cell) : 0);
    if (n < 4096) return;
    const uintptr_t from = reinterpret_cast<uintptr_t>(heap_cells(a)), page = 4096,
                    first = (from + page - 1) / page * page, last = (from + n * sizeof(Cell)) / page * page;
    memset(reinterpret_cast<void *>(from), 0, first - from);
    madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
    memset(reinterpret_cast<void *>(last), 0, from + n * sizeof(Cell) - last);
}

/* One access as its bytes see it. */
struct Access {
    const Thread *me;
    uintptr_t a;
    uint32_t seq, time, pc;
    bool write, atomic, shared;
    bool found; /* something is wrong: one report per access */
};

static void say(Access &x, const char *what, uint32_t earlier_pc, const char *earlier, Verdict v = MISTAKE)
{
    if (!x.found) report(Finding{what, x.a, x.pc, Site{nullptr, 0}, earlier_pc, earlier}, v);
    x.found = true;
}

static const char *thread_name(int lin)
{
    static char text[32];
    snprintf(text, sizeof text, "thread %d", lin);
    return text;
}

static bool saw_writer(const Access &x, const Cell &c)
{
    const Thread *me = x.me;
    if (x.atomic && c.wthread & ATOMIC) return true;
    const unsigned who = c.wthread & THREAD;
    if (c.wthread & COPY) return seen_by(me).seen.at[who] > c.wtime;
    return who == me->lin || seen_by(me).seen.at[who / 32] > c.wtime ||
           (who / 32 == me->warp && seen_lane(me, who % 32, c.wtime));
}

static void against_writer(Access &x, const Cell &c)
{
    if (c.wseq == x.seq) {
        if (c.wthread & GAP) say(x, x.write ? "OUT OF BOUNDS, write" : "OUT OF BOUNDS, read", 0, nullptr);
        else if (!saw_writer(x, c))
            say(x, x.write ? "RACE, write after write" : "RACE, read after write", c.wpc,
                c.wthread & COPY ? "a copy" : thread_name(c.wthread & THREAD));
    } else if (x.shared ? !x.write : c.wseq == 0 && !x.write)
        say(x, "UNINITIALISED, read", 0, nullptr, strict ? MISTAKE : WARNING);
    else if (!x.shared && c.wseq >= first_seq && !(x.atomic && c.wthread & ATOMIC) &&
             !seen_block(x.me, c.wseq, (c.wthread & THREAD) / 32, c.wtime, x.a, c.wthread & ATOMIC))
        say(x, x.write ? "RACE, write after write" : "RACE, read after write", c.wpc, "another block");
}

static void against_readers(Access &x, const Cell &c)
{
    if (c.rseq == x.seq) {
        const int who = unseen_reader(c.readers, x.me);
        if (who >= 0) say(x, "RACE, write after read", c.rpc, thread_name(who));
    } else if (!x.shared && c.rseq >= first_seq && !seen_block(x.me, c.rseq, c.rthread / 32, c.rtime, x.a, false))
        say(x, "RACE, write after read", c.rpc, "another block");
}

/* Of the blocks that read a byte, the last one is held against another block's write; within a block all readers are.
 */
static void step(Access &x, Cell &c)
{
    against_writer(x, c);
    if (!x.write) {
        if (x.atomic) return; /* it races with plain writes only, which are held against the atomic writes */
        c.readers = readers_with(c.rseq == x.seq ? c.readers : 0, x.me, x.time);
        c.rseq = x.seq;
        c.rtime = x.time;
        c.rpc = x.pc;
        c.rthread = static_cast<uint16_t>(x.me->lin);
        return;
    }
    if (!x.atomic) against_readers(x, c);
    c.wseq = x.seq;
    c.wtime = x.time;
    c.wpc = x.pc;
    c.wthread = static_cast<uint16_t>(x.me->lin | (x.atomic ? ATOMIC : 0));
    c.rseq = 0;
}

/* Bytes of one access have mostly the same history. */
static void steps(Access &x, Cell *c, size_t n)
{
    const Cell old = *c;
    step(x, *c);
    const Cell now = *c;
    for (size_t i = 1; i < n; ++i)
        if (!memcmp(&c[i], &old, sizeof old)) c[i] = now;
        else step(x, c[i]);
}

/* In the heap, of which allocation? The last hits by place in the code. */
static bool inside_allocation(uintptr_t a, size_t n, uint32_t pc)
{
    static struct {
        uintptr_t at;
        size_t n;
    } hits[256];
    static size_t changes;
    if (changes != heap_changes) {
        memset(hits, 0, sizeof hits);
        changes = heap_changes;
    }
    auto &h = hits[pc >> 2 & 255];
    if (a - h.at < h.n && a - h.at + n <= h.n) return true;
    const Allocation *x = allocation_of(reinterpret_cast<void *>(a));
    if (!x || a - x->at + n > x->n) return false;
    h.at = x->at;
    h.n = x->n;
    return true;
}

static const char *outside(uintptr_t a, bool write)
{
    size_t n;
    if (was_freed(reinterpret_cast<void *>(a), &n))
        return write ? "USE AFTER cudaFree, write" : "USE AFTER cudaFree, read";
    return write ? "OUT OF BOUNDS, write" : "OUT OF BOUNDS, read";
}

static void check(const Thread *me, uintptr_t a, size_t n, bool write, bool atomic, bool aligned, uint32_t pc)
{
    const Block *b = me->blk;
    Access x{me, a, b->seq, shadow_of(b).now.at[me->warp], pc, write, atomic, is_shared(b, a), false};
    Cell *c;
    if (x.shared) {
        if (a + n > reinterpret_cast<uintptr_t>(b->arena) + b->used) return say(x, outside(a, write), 0, nullptr);
        c = shared_cells(b, a);
    } else {
        if (!on_device(reinterpret_cast<void *>(a))) return; /* the thread's own stack, constants */
        if (!inside_allocation(a, n, pc)) {
            say(x, outside(a, write), 0, nullptr);
            exit_mistake(); /* the access itself would fault or hit another tensor */
        }
        c = heap_cells(a);
    }
    if (aligned && n > 1 && a % n) say(x, "MISALIGNED access", 0, nullptr);
    if (linting && !b->id.x && !b->id.y && !b->id.z) lint_access(me, a, n, write, x.shared, pc);
    steps(x, c, n);
    if (atomic && write && !x.shared) atomic_meeting(me, a);
}

void check_access(uintptr_t a, size_t n, bool write, bool atomic, bool aligned, const void *return_address)
{
    if (cur) check(cur, a, n, write, atomic, aligned, relative_pc(return_address));
}

/* A warp's product reads in the name of the lane that came last. */
void check_read_by_warp(const Thread *t, uintptr_t a, size_t n, Site s)
{
    check(t, a, n, false, false, true, pc_of_site(s));
}

/* The thread that issues may overwrite; from then on the bytes are the copy's, whose time is yet to come. */
void check_copy_issue(const Thread *t, uintptr_t a, size_t n, unsigned clock, Site s)
{
    check(t, a, n, true, false, false, pc_of_site(s));
    check_copy_land(t->blk, a, n, clock, s);
}

void check_copy_land(const Block *b, uintptr_t a, size_t n, unsigned clock, Site s)
{
    Cell *c = shared_cells(b, a);
    const uint32_t time = shadow_of(b).now.at[clock], pc = pc_of_site(s);
    for (size_t i = 0; i < n; ++i) {
        c[i].wseq = b->seq;
        c[i].wtime = time;
        c[i].wthread = static_cast<uint16_t>(COPY | clock);
        c[i].wpc = pc;
        c[i].rseq = 0;
    }
}

void check_copy_source(const Block *, uintptr_t a, size_t n, Site s)
{
    const uint32_t pc = pc_of_site(s);
    const void *p = reinterpret_cast<const void *>(a);
    if (on_device(p) && inside_allocation(a, n, pc)) return;
    report(Finding{"OUT OF BOUNDS, source of a copy", a, pc, s, 0, nullptr}, MISTAKE);
    exit_mistake();
}

} // namespace sim
} // namespace cu_host
