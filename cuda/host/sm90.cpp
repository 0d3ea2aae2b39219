/* mbarriers and the copies that complete on them. */
#include "cuda/host/sm90.h"
#include "cuda/host/internal.h"

namespace cu_host
{
namespace sim
{

/* What lies in the 8 bytes of an mbarrier. */
struct Mbar {
    int32_t bytes;       /* awaited and not yet here */
    uint16_t pending;    /* arrivals that are missing in this phase */
    uint16_t count : 11; /* arrivals per phase; up to 1024 */
    uint16_t phase : 4;  /* completed ones, modulo 16 */
    uint16_t made : 1;   /* 0: made by mbar_init (fresh shared memory is all ones) */
};
static_assert(sizeof(Mbar) == 8, "an mbarrier has 8 bytes");

static Mbar get(const uint64_t *bar, Site s)
{
    Mbar m;
    memcpy(&m, bar, 8);
    if (m.made || !m.count) die(s, "an mbarrier is used that mbar_init has not made");
    return m;
}

static void complete_if_done(uint64_t *bar, Mbar m)
{
    if (!m.pending && !m.bytes) {
        if (hooks) hooks->mbar_complete(bar, m.phase);
        m.phase = static_cast<uint16_t>((m.phase + 1) & 15);
        m.pending = m.count;
        auto &w = worker->mbar_waiting;
        for (size_t i = 0; i < w.size();)
            if (w[i].first == bar) {
                worker->set_ready(w[i].second);
                w[i] = w.back();
                w.pop_back();
            } else ++i;
    }
    memcpy(bar, &m, 8);
}

void mbar_init(uint64_t *bar, int count, Site s)
{
    if (count < 1 || count > 1024) die(s, "an mbarrier for %d arrivals", count);
    Mbar m = {};
    m.pending = static_cast<uint16_t>(count);
    m.count = static_cast<uint16_t>(count & 2047);
    memcpy(bar, &m, 8);
    if (hooks) hooks->mbar_init(bar, cur);
}

void mbar_arrive(uint64_t *bar, int bytes, Site s)
{
    Mbar m = get(bar, s);
    if (!m.pending) die(s, "more arrivals at an mbarrier than the %d it was made for", m.count);
    if (hooks) hooks->mbar_arrive(bar, cur);
    TSAN(__tsan_release(bar));
    m.bytes += bytes;
    --m.pending;
    complete_if_done(bar, m);
}

/* Parity of the phase that is waited for: the wait is over once the barrier's current phase has another one. */
bool mbar_test(uint64_t *bar, int parity, Site s)
{
    const Mbar m = get(bar, s);
    if ((m.phase & 1) == (parity & 1)) return false;
    TSAN(__tsan_acquire(bar));
    if (hooks) hooks->mbar_leave(bar, (m.phase + 15u) & 15u, cur);
    return true;
}

void mbar_wait(uint64_t *bar, int parity, Site s)
{
    while (!mbar_test(bar, parity, s)) {
        {
            const Unwatched list;
            worker->mbar_waiting.emplace_back(bar, cur->idx);
        }
        worker->wait_here(parity & 1 ? "mbar_wait for parity 1" : "mbar_wait for parity 0", s);
    }
}

/* Nothing else can run: the oldest copy lands. */
bool Worker::deliver()
{
    if (async.empty()) return false;
    const Unwatched landing;
    const AsyncCopy c = std::move(async.front());
    async.pop_front();
    c.land();
    if (hooks) hooks->async_land(c);
    Mbar m = get(c.bar, c.site);
    m.bytes -= c.bytes;
    complete_if_done(c.bar, m);
    return true;
}

static void issue(AsyncCopy c)
{
    const Block *b = cur->blk;
    const unsigned char *d = static_cast<unsigned char *>(c.dst);
    if (d < b->arena || d + c.bytes > b->arena + b->used)
        die(c.site, "a bulk copy of %d bytes does not end inside of the block's shared memory", c.bytes);
    get(c.bar, c.site);
    memset(c.dst, 0xff, static_cast<size_t>(c.bytes));
    uninitialised(c.dst, static_cast<size_t>(c.bytes));
    if (hooks) hooks->async_issue(c, cur);
    worker->async.push_back(std::move(c));
}

static void move_piece(const AsyncCopy &c, void *d, const void *s, size_t n)
{
    if (hooks && s) hooks->async_read(c, s, n);
    if (s) memcpy(d, s, n);
    else memset(d, 0, n);
    if (hooks) hooks->async_write(c, d, n);
}

void bulk_load(void *dst, const void *src, int bytes, uint64_t *bar, Site s)
{
    const Unwatched issuing;
    if ((reinterpret_cast<uintptr_t>(dst) | reinterpret_cast<uintptr_t>(src) | static_cast<unsigned>(bytes)) % 16)
        die(s, "bulk copy: an address or the size, %d bytes, is no multiple of 16", bytes);
    AsyncCopy c{bar, bytes, dst, src, cur->blk, s, nullptr};
    c.land = [c] { move_piece(c, c.dst, c.src, static_cast<size_t>(c.bytes)); };
    issue(std::move(c));
}

/* One row of a box, from x on: 16 bytes at a time, which is what the swizzle moves; outside of the tensor zeros. */
static void land_row(const AsyncCopy &c, const TensorMap &m, int64_t x, int64_t y, int64_t z, int row)
{
    const int64_t row_bytes = static_cast<int64_t>(m.box[0]) * m.size;
    const bool inside = y >= 0 && y < m.dim[1] && z >= 0 && z < m.dim[2];
    const char *base = static_cast<const char *>(m.base) + (inside ? y * m.stride[1] + z * m.stride[2] : 0);
    for (int64_t i = 0; i < row_bytes; i += 16) {
        size_t at = static_cast<size_t>(row * row_bytes + i);
        if (m.swizzled) at ^= at >> 3 & 0x70;
        char *d = static_cast<char *>(c.dst) + at;
        const int64_t first = x + i / m.size, n = 16 / m.size;
        if (inside && first >= 0 && first + n <= m.dim[0]) {
            move_piece(c, d, base + first * m.size, 16);
            continue;
        }
        for (int64_t e = 0; e < n; ++e) {
            const bool in = inside && first + e >= 0 && first + e < m.dim[0];
            move_piece(c, d + e * m.size, in ? base + (first + e) * m.size : nullptr, static_cast<size_t>(m.size));
        }
    }
}

void tensor_load(void *dst, const TensorMap *map, int x, int y, int z, uint64_t *bar, Site s)
{
    const Unwatched issuing;
    const TensorMap m = *map;
    const int64_t bytes = static_cast<int64_t>(m.box[0]) * m.size * m.box[1] * m.box[2];
    if (!m.base) die(s, "tensor copy: the map was not encoded");
    if (m.swizzled && cur->blk->dynamic_align < 1024)
        die(s, "swizzled tiles want DYN_SMEM_1024: the device would not align them");
    if (reinterpret_cast<uintptr_t>(dst) % (m.swizzled ? 1024 : 128))
        die(s, "tensor copy: the tile does not start at a multiple of %d bytes", m.swizzled ? 1024 : 128);
    AsyncCopy c{bar, static_cast<int>(bytes), dst, m.base, cur->blk, s, nullptr};
    c.land = [c, m, x, y, z] {
        int row = 0;
        for (int k = 0; k < m.box[2]; ++k)
            for (int j = 0; j < m.box[1]; ++j) land_row(c, m, x, y + j, z + k, row++);
    };
    issue(std::move(c));
}

} // namespace sim
} // namespace cu_host
