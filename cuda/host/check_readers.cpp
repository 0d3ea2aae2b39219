/* Who has read a byte since it was written: sets of threads with the times of their reads. The same sets come up again
 * and again, so each is made once and cells hold its number. A reader whose read the next one knows to be done is left
 * out: whoever comes after the later one comes after both. */
#include "cuda/host/check.h"

namespace cu_host
{
namespace sim
{

/* Lanes of one warp and the time of the latest of their reads. */
struct Readers {
    uint32_t warp, lanes, time;
};
struct Set {
    uint32_t at, n;
};
/* set + (thread, time) -> result: a thread and a time of its warp say what the thread has seen. */
struct Step {
    uint32_t set, thread, time, result;
};
enum : size_t { STEPS = 1 << 14, MOST = 1 << 22 };
static std::vector<Readers> readers;
static std::vector<Set> sets;
static std::vector<Step> steps;

void readers_clear()
{
    if (sets.size() == 1) return;
    readers.clear();
    sets.assign(1, Set{0, 0});
    steps.assign(STEPS, Step{0, ~0u, 0, 0});
}

static int unseen(const Readers &r, const Thread *me)
{
    if (seen_by(me).seen.at[r.warp] > r.time) return -1;
    for (uint32_t m = r.lanes; m; m &= m - 1) {
        const unsigned l = static_cast<unsigned>(__builtin_ctz(m));
        if (r.warp == me->warp && (l == me->lane || seen_lane(me, l, r.time))) continue;
        return static_cast<int>(r.warp * 32 + l);
    }
    return -1;
}

int unseen_reader(uint32_t set, const Thread *me)
{
    const Set s = sets[set];
    for (uint32_t i = 0; i < s.n; ++i) {
        const int who = unseen(readers[s.at + i], me);
        if (who >= 0) return who;
    }
    return -1;
}

static uint32_t make(uint32_t set, const Thread *me, uint32_t time)
{
    const Set old = sets[set];
    Set s{static_cast<uint32_t>(readers.size()), 0};
    Readers mine{me->warp, 1u << me->lane, time};
    for (uint32_t i = 0; i < old.n; ++i) {
        const Readers r = readers[old.at + i];
        if (unseen(r, me) < 0) continue;
        if (r.warp == me->warp) mine.lanes |= r.lanes;
        else readers.push_back(r), ++s.n;
    }
    readers.push_back(mine);
    ++s.n;
    sets.push_back(s);
    return static_cast<uint32_t>(sets.size() - 1);
}

uint32_t readers_with(uint32_t set, const Thread *me, uint32_t time)
{
    /* Forgotten, not wrong: cells that name a set beyond the end are taken as read by nobody. */
    if (readers.size() > MOST || sets.empty()) readers_clear();
    if (set >= sets.size()) set = 0;
    const uint32_t hash = (set * 2654435761u ^ (me->idx * 40503u + time) * 2246822519u) >> 18;
    Step &s = steps[hash % STEPS];
    if (s.set != set || s.thread != me->idx || s.time != time) s = Step{set, me->idx, time, make(set, me, time)};
    return s.result;
}

} // namespace sim
} // namespace cu_host
