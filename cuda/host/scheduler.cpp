/* Which thread runs next. Every CUDA thread is a logical thread; it gets a stack when it first runs, and hands it on
 * when it ends without having waited, so that a kernel without barriers is a plain loop over its threads. */
#include "cuda/host/internal.h"

#include <algorithm>

namespace cu_host
{
namespace sim
{

__thread Thread *cur;
__thread Worker *worker;
__thread unsigned idle_yields;

int Worker::up(unsigned from) const
{
    for (size_t w = from >> 6; w < ready.size(); ++w) {
        const uint64_t m = w == from >> 6 ? ready[w] & ~0ull << (from & 63) : ready[w];
        if (m) return static_cast<int>(w * 64) + __builtin_ctzll(m);
    }
    return -1;
}

int Worker::down(int from) const
{
    if (from < 0) return -1;
    for (int w = from >> 6; w >= 0; --w) {
        uint64_t m = ready[static_cast<size_t>(w)];
        if (w == from >> 6 && (from & 63) != 63) m &= (2ull << (from & 63)) - 1;
        if (m) return w * 64 + 63 - __builtin_clzll(m);
    }
    return -1;
}

int Worker::pick_far(unsigned after)
{
    int r;
    switch (order) {
    case FORWARD: r = up(after + 1); return r >= 0 ? r : up(0);
    case REVERSE: r = down(static_cast<int>(after) - 1); return r >= 0 ? r : down(static_cast<int>(total) - 1);
    case RANDOM: break;
    }
    rng = rng * 1664525u + 1013904223u;
    r = up(static_cast<unsigned>(static_cast<uint64_t>(rng >> 8) * total >> 24));
    return r >= 0 ? r : up(0);
}

int Worker::first_ready(unsigned lo, unsigned hi) const
{
    return order == REVERSE ? down(static_cast<int>(hi) - 1) : up(lo);
}

void Worker::start(unsigned i, Context *c)
{
    fresh[i >> 6] &= ~(1ull << (i & 63));
    const unsigned k = n_blocks == 1 ? 0 : i / stride;
    Block *b = blocks[k].get();
    const Launch &l = *b->l;
    Thread &t = th[i];
    const unsigned lin = i - b->first;
    if (l.block.y * l.block.z == 1) t.tid = uint3{lin, 0, 0};
    else t.tid = uint3{lin % l.block.x, lin / l.block.x % l.block.y, lin / l.block.x / l.block.y};
    t.lin = lin;
    t.lane = static_cast<uint8_t>(lin & 31);
    t.warp = static_cast<uint8_t>(lin >> 5);
    t.done = false;
    t.idx = i;
    t.place = b;
    t.blk = b;
    t.wait = nullptr;
    t.n_copies = t.copy_group = 0;
    t.ctx = c;
    c->th = &t;
    TSAN(if (!t.tsan) t.tsan = __tsan_create_fiber(0));
    if (hooks) {
        t.bar_epoch = t.warp_epoch = 0;
        t.shadow = nullptr;
        hooks->thread(&t);
    }
}

void Worker::run_thread(unsigned i)
{
    Thread *t = &th[i];
    if (t == cur) return;
    if (is_fresh(i)) start(i, get_context());
    cur = t;
    TSAN(__tsan_switch_to_fiber(t->tsan, 1));
    swap_to(t->ctx);
}

void Worker::wait_here(const char *what, Site s)
{
    Thread *me = cur;
    me->wait = what;
    me->site = s;
    clear_ready(me->idx);
    int n;
    while ((n = pick(me->idx)) < 0)
        if (!deliver()) deadlock();
    run_thread(static_cast<unsigned>(n));
    me->wait = nullptr;
}

/* After a barrier the order's first thread goes first, even before the one that came last: forward and reverse together
 * put every two threads of the next interval in both orders. */
void Worker::let_first_run(unsigned lo, unsigned hi)
{
    const int n = order == RANDOM ? pick(cur->idx) : first_ready(lo, hi);
    run_thread(static_cast<unsigned>(n));
}

/* A thread that spins lets the others run. When nothing has happened for long, what it waits for comes from a block
 * that does not run yet, or never. */
void yield()
{
    enum { LONG = 20000000 };
    const int n = worker->pick(cur->idx);
    if (++idle_yields > LONG && !worker->deliver())
        die(Site{nullptr, 0}, "threads spin and nothing happens%s",
            cur->blk->l->cooperative ? "" : ": a block waits for another one in a launch that is not cooperative?");
    if (n >= 0) worker->run_thread(static_cast<unsigned>(n));
}

void Worker::thread_exit(Thread *t)
{
    Block *b = t->blk;
    idle_yields = 0;
    if (t->n_copies) die(Site{nullptr, 0}, "the thread ends with %u cp.async that were never waited for", t->n_copies);
    if (hooks) hooks->thread_end(t);
    t->done = true;
    t->ctx = nullptr;
    clear_ready(t->idx);
    --alive;
    --b->alive;
    Barrier &all = b->bar[0];
    if (all.arrived && !all.expected && all.arrived == b->alive) barrier_complete(this, all, b->first);
    b->warp_exited[t->warp] |= 1u << t->lane;
    for (uint32_t w = b->warp_waiting[t->warp]; w; w &= w - 1) {
        const Thread &o = th[b->first + t->warp * 32 + static_cast<unsigned>(__builtin_ctz(w))];
        if (o.mask >> t->lane & 1)
            die(o.site, "the thread has ended, but lane %u waits for it in %s (mask %08x)", o.lane, o.wait, o.mask);
    }
}

/* t has ended on c: the next thread runs, on the same stack if it has none yet; after the last one the group is over.
 * Returns when c has a thread to start. */
void Worker::after(Thread *t, Context *c)
{
    int n = pick(t->idx);
    while (n < 0 && alive) {
        if (!deliver()) deadlock();
        n = pick(t->idx);
    }
    if (n < 0) {
        if (!async.empty()) die(async.front().site, "the block ends with %zu bulk copies in flight", async.size());
        retire(c);
        cur = nullptr;
        TSAN(__tsan_switch_to_fiber(main.fake, 1));
        TSAN(__tsan_acquire(&alive));
        swap_to(&main);
        return;
    }
    const unsigned i = static_cast<unsigned>(n);
    if (!CU_HOST_TSAN && is_fresh(i)) return start(i, c);
    retire(c);
    if (is_fresh(i)) start(i, get_context());
    cur = &th[i];
    TSAN(__tsan_switch_to_fiber(th[i].tsan, 1));
    swap_to(th[i].ctx);
}

void Worker::enter_block(unsigned k, const Launch &l, unsigned id, unsigned seq)
{
    if (blocks.size() <= k) {
        blocks.push_back(std::make_unique<Block>());
        Block &n = *blocks.back();
        for (int i = 0; i < 16; ++i) barrier_setup(n.bar[i], n.bar_bits[i][0], n.bar_bits[i][1], 16);
        arenas.push_back(arena_new());
    }
    Block &b = *blocks[k];
    b.block = l.block;
    b.grid = l.grid;
    b.id = uint3{id % l.grid.x, id / l.grid.x % l.grid.y, id / l.grid.x / l.grid.y};
    b.l = &l;
    b.slot = k;
    b.seq = seq;
    b.first = k * stride;
    b.n_threads = b.alive = l.block.x * l.block.y * l.block.z;
    memset(b.warp_exited, 0, sizeof b.warp_exited);
    arena_enter(&b, arenas[k]);
    for (unsigned i = 0; i < b.n_threads; i += 64) {
        const unsigned left = b.n_threads - i;
        ready[(b.first + i) / 64] = fresh[(b.first + i) / 64] = left >= 64 ? ~0ull : (1ull << left) - 1;
    }
    if (hooks) hooks->block(&b);
}

void Worker::leave_block(Block *b)
{
    if (hooks) hooks->block_end(b);
    wgmma_block_end(this, b);
    for (Barrier &r : b->bar) /* arrivals that nobody waited for */
        if (r.arrived) {
            r.arrived = 0;
            memset(r.came, 0, r.words * sizeof *r.came);
        }
    arena_leave(b);
}

void Worker::run_group(const Launch &l, unsigned first_block, unsigned n, unsigned seq)
{
    worker = this;
    order = settings().order;
    n_blocks = n;
    stride = (l.block.x * l.block.y * l.block.z + 63) / 64 * 64;
    total = stride * n;
    alive = l.block.x * l.block.y * l.block.z * n;
    rng = settings().seed * 2654435761u + first_block;
    if (th.size() < total) th.resize(total); /* no thread exists between groups: nothing points into it */
    ready.assign(total / 64, 0);
    fresh.assign(total / 64, 0);
    if (l.cooperative) {
        grid_bits.assign(total / 64 * 2, 0);
        barrier_setup(grid, grid_bits.data(), grid_bits.data() + total / 64, total / 64);
    }
    TSAN(main.fake = __tsan_get_current_fiber());
    TSAN(__tsan_release(const_cast<Launch *>(&l)));
    for (unsigned k = 0; k < n; ++k) enter_block(k, l, first_block + k, seq + k);

    const unsigned first = static_cast<unsigned>(order == RANDOM ? pick(0) : first_ready(0, total));
    start(first, get_context());
    Thread *t = &th[first];
    cur = t;
    TSAN(__tsan_switch_to_fiber(t->tsan, 1));
    swap_to(t->ctx);
    cur = nullptr;
    while (Context *c = used) {
        used = c->next;
        c->next = idle;
        idle = c;
    }
    for (unsigned k = 0; k < n; ++k) leave_block(blocks[k].get());
}

} // namespace sim
} // namespace cu_host
