/* Barriers of the block, named ones, and the grid's. */
#include "cuda/host/internal.h"

namespace cu_host
{
namespace sim
{

void barrier_setup(Barrier &b, uint64_t *waiting, uint64_t *came, unsigned words)
{
    b.arrived = b.expected = 0;
    b.waiting = waiting;
    b.came = came;
    b.words = words;
}

/* Everybody is there: those who wait may run. */
void barrier_complete(Worker *w, Barrier &b, unsigned base)
{
    idle_yields = 0;
    if (hooks) hooks->complete(b);
    const unsigned words = (w->stride * (&b == &w->grid ? w->n_blocks : 1) + 63) / 64;
    for (unsigned i = 0; i < words; ++i) {
        w->ready[base / 64 + i] |= b.waiting[i];
        b.waiting[i] = b.came[i] = 0;
    }
    b.arrived = 0;
    ++b.gen;
}

/* `me` relative to `base`; expected 0: as many as are alive in the block. */
static void arrive(Barrier &b, unsigned me, unsigned expected, const char *what, Site s)
{
    if (!b.arrived) {
        b.expected = expected;
        b.site = s;
    } else if (b.expected != expected)
        die(s, "%s for %u threads, but the one that came to it first, at %s:%d, says %u (0: the whole block)", what,
            expected, b.site.file, b.site.line, b.expected);
    if (b.came[me >> 6] >> (me & 63) & 1) die(s, "%s: the thread arrives twice before the barrier is complete", what);
    if (hooks) hooks->arrive(b, cur);
    TSAN(__tsan_release(&b.tsan[b.gen & 1]));
    b.came[me >> 6] |= 1ull << (me & 63);
    ++b.arrived;
}

static void arrive_and_wait(Barrier &b, unsigned base, unsigned me, unsigned expected, unsigned want, const char *what,
                            Site s)
{
    Worker *w = worker;
    Thread *t = cur;
    const unsigned gen = b.gen;
    arrive(b, me, expected, what, s);
    if (b.arrived == want) {
        barrier_complete(w, b, base);
        if (&b == &w->grid) w->let_first_run(0, w->total);
        else w->let_first_run(t->blk->first, t->blk->first + t->blk->n_threads);
    } else {
        b.waiting[me >> 6] |= 1ull << (me & 63);
        w->wait_here(what, s);
    }
    TSAN(__tsan_acquire(&b.tsan[gen & 1]));
    if (hooks) hooks->leave(b, t, gen);
}

void sync_threads(Site s)
{
    Block *b = cur->blk;
    Barrier &r = b->bar[0];
    if (r.arrived && !r.expected &&
        (r.site.line != s.line || (r.site.file != s.file && strcmp(r.site.file, s.file) != 0))) {
        unsigned first = 0;
        while (!(r.came[first >> 6] >> (first & 63) & 1)) ++first;
        die(s, "divergent barrier: thread %u waits in the __syncthreads at %s:%d, thread %u came to another one", first,
            r.site.file, r.site.line, cur->lin);
    }
    arrive_and_wait(r, b->first, cur->lin, 0, b->alive, "__syncthreads", s);
}

/* The count of generation g lies in vote[g & 1]; who enters g + 1 first clears the other one, which everybody has read
 * by then. */
int sync_threads_vote(int pred, int kind, Site s)
{
    Block *b = cur->blk;
    const unsigned g = b->bar[0].gen & 1;
    if (!b->bar[0].arrived) b->vote[g] = 0;
    if ((pred != 0) != (kind == 1)) ++b->vote[g]; /* for "and" those against are counted */
    sync_threads(s);
    const int v = b->vote[g];
    return kind == 0 ? v > 0 : kind == 1 ? v == 0 : v;
}

static void check_named(int id, int n, Site s)
{
    if (id < 0 || id > 15) die(s, "barriers are 0 to 15, not %d", id);
    if (n <= 0 || n % 32) die(s, "barrier %d: a thread count of %d is no multiple of 32", id, n);
}

void bar_sync(int id, int n, Site s)
{
    check_named(id, n, s);
    static const char *const name[16] = {
        "named barrier 0",  "named barrier 1",  "named barrier 2",  "named barrier 3",
        "named barrier 4",  "named barrier 5",  "named barrier 6",  "named barrier 7",
        "named barrier 8",  "named barrier 9",  "named barrier 10", "named barrier 11",
        "named barrier 12", "named barrier 13", "named barrier 14", "named barrier 15"};
    Block *b = cur->blk;
    arrive_and_wait(b->bar[id], b->first, cur->lin, static_cast<unsigned>(n), static_cast<unsigned>(n), name[id], s);
}

/* Comes and goes on; others wait in bar_sync. */
void bar_arrive(int id, int n, Site s)
{
    check_named(id, n, s);
    Block *b = cur->blk;
    Barrier &r = b->bar[id];
    arrive(r, cur->lin, static_cast<unsigned>(n), "a named barrier", s);
    if (r.arrived == static_cast<unsigned>(n)) barrier_complete(worker, r, b->first);
}

/* All threads of the grid; one that has ended is missed for ever, as on the device. */
void sync_grid(Site s)
{
    Worker *w = worker;
    const Launch &l = *cur->blk->l;
    if (!l.cooperative) die(s, "grid_sync in a kernel that was not launched by LAUNCH_COOP");
    const unsigned all = w->n_blocks * cur->blk->n_threads;
    arrive_and_wait(w->grid, 0, cur->idx, all, all, "grid_sync", s);
}

void fence(int scope)
{
    if (hooks && cur) hooks->fence(cur, scope);
#if !CU_HOST_TSAN
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

} // namespace sim
} // namespace cu_host
