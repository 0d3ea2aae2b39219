/* The order of accesses within a launch, as CUDA gives it: barriers (of the block, named, of the grid) exactly,
 * arrivals without waiting too; __syncwarp among the lanes of its mask; mbarriers; between blocks an atomic operation
 * on the same word, for what the first block had fenced. Shuffles and votes order nothing. Hooks of internal.h. */
#include "cuda/host/check.h"

namespace cu_host
{
namespace sim
{

uint32_t first_seq;
size_t heap_changes;
static bool cooperative;
static std::unordered_map<uintptr_t, Releases> words;           /* of this launch */
static std::vector<std::unique_ptr<BlockShadow>> block_shadows; /* by slot */
/* By block of a cooperative launch: what arrived at the grid's barrier, and what the last complete one knew. */
static std::vector<Clocks> grid_arrived, grid_done;

static uint32_t tick(const Thread *t)
{
    return ++shadow_of(t->blk).now.at[t->warp];
}

/* What t does from now on is told apart from what it did, and the latter is put into `m`. */
static void publish(const Thread *t, Clocks &m)
{
    m.join(seen_by(t).seen);
    const uint32_t now = tick(t);
    if (m.at[t->warp] < now) m.at[t->warp] = now;
}

/* The clock ticks: a thread and a time of its warp name what the thread has seen (check_readers.cpp). */
static void learn(const Thread *t, const Clocks &m)
{
    seen_by(t).seen.join(m);
    tick(t);
}

bool seen_lane(const Thread *me, unsigned lane, uint32_t time)
{
    return seen_by(me).lanes[lane] > time;
}

static void on_launch(const Launch &l, unsigned first)
{
    set_kernel(l.name);
    first_seq = first;
    cooperative = l.cooperative;
    words.clear();
    readers_clear();
    grid_arrived.assign(l.cooperative ? static_cast<size_t>(l.grid.x) * l.grid.y * l.grid.z : 0, Clocks{});
    grid_done = grid_arrived;
}

static void on_launch_end(const Launch &)
{
}

static void on_block(Block *b)
{
    if (block_shadows.size() <= b->slot) block_shadows.resize(b->slot + 1);
    if (!block_shadows[b->slot]) block_shadows[b->slot] = std::make_unique<BlockShadow>();
    BlockShadow &s = *block_shadows[b->slot];
    b->shadow = &s;
    s.seq = b->seq;
    for (uint32_t &c : s.now.at) c = 1;
    memset(s.threads, 0, b->n_threads * sizeof *s.threads);
    memset(s.bar, 0, sizeof s.bar);
    memset(s.fenced, 0, sizeof s.fenced);
    s.mbar.clear();
    s.mbars.clear();
    s.acquired.clear();
    if (!cooperative) readers_clear();
}

static void on_block_end(Block *b)
{
    if (linting) lint_block_end(b);
}

static void on_thread(Thread *t)
{
    t->shadow = &shadow_of(t->blk).threads[t->lin];
}

static void on_thread_end(Thread *)
{
}

/* ---- barriers ---- */

static bool is_grid(const Barrier &b)
{
    return &b == &worker->grid;
}

static Meeting &meeting(const Barrier &b)
{
    const Block *k = cur->blk;
    return shadow_of(k).bar[&b - k->bar];
}

static void on_arrive(Barrier &b, Thread *t)
{
    if (is_grid(b)) publish(t, grid_arrived[t->blk->seq - first_seq]);
    else publish(t, meeting(b).arrived);
}

static void on_complete(Barrier &b)
{
    if (is_grid(b)) {
        grid_done = grid_arrived;
        return;
    }
    Meeting &m = meeting(b);
    m.done[b.gen & 1] = m.arrived;
    m.arrived.clear();
}

static void on_leave(Barrier &b, Thread *t, unsigned gen)
{
    if (is_grid(b)) learn(t, grid_done[t->blk->seq - first_seq]);
    else learn(t, meeting(b).done[gen & 1]);
}

static void on_warp_complete(Block *b, unsigned warp, unsigned mask, bool orders)
{
    if (!orders) return;
    BlockShadow &s = shadow_of(b);
    const uint32_t now = ++s.now.at[warp];
    Clocks all;
    all.clear();
    uint32_t lanes[32] = {};
    for (unsigned m = mask; m; m &= m - 1) {
        const Seen &t = s.threads[warp * 32 + static_cast<unsigned>(__builtin_ctz(m))];
        all.join(t.seen);
        for (int i = 0; i < 32; ++i) lanes[i] = lanes[i] < t.lanes[i] ? t.lanes[i] : lanes[i];
    }
    for (unsigned m = mask; m; m &= m - 1) lanes[__builtin_ctz(m)] = now;
    for (unsigned m = mask; m; m &= m - 1) {
        Seen &t = s.threads[warp * 32 + static_cast<unsigned>(__builtin_ctz(m))];
        t.seen = all;
        memcpy(t.lanes, lanes, sizeof lanes);
    }
}

static void on_warp_sync(Thread *, unsigned, bool)
{
}

/* ---- between blocks ---- */

/* What the thread did and what it has seen is visible to other blocks, once they know that the fence is past. */
static void on_fence(Thread *t, int scope)
{
    if (scope < 1) return;
    BlockShadow &s = shadow_of(t->blk);
    const Clocks &c = seen_by(t).seen;
    for (unsigned w = 0; w < WARPS; ++w)
        if (s.fenced[w] < c.at[w]) s.fenced[w] = c.at[w];
    s.fenced[t->warp] = tick(t);
}

void atomic_meeting(const Thread *me, uintptr_t address)
{
    BlockShadow &s = shadow_of(me->blk);
    Releases &r = words[address];
    if (r.empty() || r.back().seq != s.seq) r.push_back(Release{s.seq, {}});
    Release &mine = r.back();
    const Clocks &c = seen_by(me).seen;
    for (unsigned w = 0; w < WARPS; ++w) {
        const uint32_t known = w == me->warp ? s.now.at[w] : c.at[w];
        const uint32_t visible = known < s.fenced[w] ? known : s.fenced[w];
        if (mine.at[w] < visible) mine.at[w] = visible;
    }
    s.acquired[address] = r.size();
}

bool seen_block(const Thread *me, uint32_t seq, unsigned warp, uint32_t time, uintptr_t address, bool atomic)
{
    if (cooperative && grid_done[seq - first_seq].at[warp] > time) return true;
    for (const auto &a : shadow_of(me->blk).acquired) {
        const Releases &r = words[a.first];
        for (size_t i = 0; i < a.second && i < r.size(); ++i)
            if (r[i].seq == seq && (r[i].at[warp] > time || (atomic && a.first == address))) return true;
    }
    return false;
}

/* ---- mbarriers, copies and products of Hopper ---- */

static unsigned mbar_number(const Block *b, const uint64_t *bar)
{
    BlockShadow &s = shadow_of(b);
    const auto i = s.mbar.find(bar);
    if (i != s.mbar.end()) return i->second;
    const unsigned n = static_cast<unsigned>(s.mbars.size());
    s.mbar[bar] = n;
    s.mbars.emplace_back();
    memset(&s.mbars.back(), 0, sizeof(Meeting));
    return n;
}

unsigned copy_clock(const Block *b, const uint64_t *bar)
{
    return WARPS + mbar_number(b, bar) % (CLOCKS - WARPS);
}

static Meeting &meeting(const Block *b, const uint64_t *bar)
{
    return shadow_of(b).mbars[mbar_number(b, bar)];
}

static void on_mbar_init(const uint64_t *bar, Thread *t)
{
    meeting(t->blk, bar).arrived.clear();
}

static void on_mbar_arrive(const uint64_t *bar, Thread *t)
{
    publish(t, meeting(t->blk, bar).arrived);
}

/* What arrived in earlier phases has also arrived in this one: nothing is cleared. */
static void on_mbar_complete(const uint64_t *bar, unsigned phase)
{
    Meeting &m = meeting(cur->blk, bar);
    m.done[phase & 1] = m.arrived;
}

static void on_mbar_leave(const uint64_t *bar, unsigned phase, Thread *t)
{
    learn(t, meeting(t->blk, bar).done[phase & 1]);
}

static void on_async_issue(const AsyncCopy &c, Thread *t)
{
    check_copy_issue(t, reinterpret_cast<uintptr_t>(c.dst), static_cast<size_t>(c.bytes), copy_clock(c.blk, c.bar),
                     c.site);
}

static void on_async_read(const AsyncCopy &c, const void *src, size_t n)
{
    check_copy_source(c.blk, reinterpret_cast<uintptr_t>(src), n, c.site);
}

static void on_async_write(const AsyncCopy &c, void *dst, size_t n)
{
    check_copy_land(c.blk, reinterpret_cast<uintptr_t>(dst), n, copy_clock(c.blk, c.bar), c.site);
}

static void on_async_land(const AsyncCopy &c)
{
    const unsigned k = copy_clock(c.blk, c.bar);
    meeting(c.blk, c.bar).arrived.at[k] = ++shadow_of(c.blk).now.at[k];
}

static void on_wgmma_read(Thread *t, const void *p, size_t n, bool)
{
    check_read_by_warp(t, reinterpret_cast<uintptr_t>(p), n, t->site);
}

/* ---- memory ---- */

static void on_alloc(void *, size_t)
{
    ++heap_changes;
}
static void on_release(void *p, size_t n)
{
    ++heap_changes;
    shadow_release(reinterpret_cast<uintptr_t>(p), n);
}
static void on_host_write(void *p, size_t n)
{
    shadow_host_write(reinterpret_cast<uintptr_t>(p), n);
}
static void on_host_read(const void *, size_t)
{
}
static void on_gap(Block *b, void *p, size_t n)
{
    shadow_gap(b, reinterpret_cast<uintptr_t>(p), n);
}

static const Hooks checker = {
    on_launch,        on_launch_end, on_block,         on_block_end,  on_thread,      on_thread_end, on_arrive,
    on_complete,      on_leave,      on_warp_complete, on_warp_sync,  on_fence,       on_mbar_init,  on_mbar_arrive,
    on_mbar_complete, on_mbar_leave, on_async_issue,   on_async_read, on_async_write, on_async_land, on_wgmma_read,
    on_alloc,         on_release,    on_host_write,    on_host_read,  on_gap};
static const struct Installed {
    Installed()
    {
        hooks = &checker;
    }
} installed;

} // namespace sim
} // namespace cu_host
