/* wgmma: each warp forms its 16 rows of a product in its own wait, so that neither the operands in shared memory nor
 * the accumulators are safe a moment earlier, and no warp orders another one. */
#include "cuda/host/bf16.h"
#include "cuda/host/internal.h"
#include "cuda/host/sm90.h"

namespace cu_host
{
namespace sim
{

/* Accumulators in use: [16][n] of a warp. */
struct Accumulators {
    float *d[32];
    int n, pending;
    std::vector<float> c;
};
struct Product {
    WarpgroupProduct p;
    uint32_t a[32][4];
    unsigned group;
    Accumulators *acc;
    Site site;
};
struct WarpState {
    std::deque<Product> queue;
    std::deque<std::unique_ptr<Accumulators>> acc;
    unsigned group, issued;
};
/* By slot of the block and warp; `log`: what the warps of a warpgroup issued, which must be the same. */
struct Warpgroups {
    std::vector<std::unique_ptr<WarpState>> warps;
    std::vector<std::vector<WarpgroupProduct>> log;
    std::vector<float> a, b;
};

static Warpgroups &groups()
{
    if (!worker->wg) worker->wg = new Warpgroups;
    return *worker->wg;
}

static WarpState &state()
{
    Warpgroups &g = groups();
    const size_t i = cur->blk->slot * 32 + cur->warp;
    if (g.warps.size() <= i) g.warps.resize(i + 1);
    if (g.log.size() <= i / 4) g.log.resize(i / 4 + 1);
    if (!g.warps[i]) g.warps[i] = std::make_unique<WarpState>();
    return *g.warps[i];
}

uint64_t shared_address(const void *p, Site s)
{
    const Block *b = cur->blk;
    const unsigned char *at = static_cast<const unsigned char *>(p);
    if (at < b->arena || at >= b->arena + b->used) die(s, "a matrix descriptor of an address outside of shared memory");
    return static_cast<uint64_t>(at - b->arena);
}

/* 8 numbers of an operand: rows of 128 bytes, groups of 8 rows, swizzled. `row` along the strided index, `piece` counts
 * 8 numbers along the contiguous one; the leading distance is that between 64 contiguous numbers. */
static void fetch(float *to, uint64_t desc, int row, int piece, const Product &p, bool at_issue)
{
    if (desc >> 62 != 1) die(p.site, "wgmma: only 128-byte swizzled operands are known here");
    const uint64_t start = (desc & 0x3fff) << 4, leading = (desc >> 16 & 0x3fff) << 4,
                   strided = (desc >> 32 & 0x3fff) << 4;
    uint64_t at = start + static_cast<uint64_t>(row / 8) * strided + static_cast<uint64_t>(row % 8) * 128 +
                  static_cast<uint64_t>(piece / 8) * leading + static_cast<uint64_t>(piece % 8) * 16;
    at ^= at >> 3 & 0x70;
    const Block *b = cur->blk;
    if (at + 16 > b->l->smem) die(p.site, "wgmma: an operand reaches past the end of dynamic shared memory");
    if (hooks) hooks->wgmma_read(cur, b->arena + at, 16, at_issue);
    __nv_bfloat16 v[8];
    memcpy(v, b->arena + at, 16);
    for (int i = 0; i < 8; ++i) to[i] = v[i];
}

/* a [16][16], b [16][n] as f32. */
static void operands(const Product &p, float *a, float *b, bool at_issue)
{
    const int n = p.p.n;
    float eight[8];
    if (p.p.a_registers)
        for (int l = 0; l < 32; ++l)
            for (int i = 0; i < 4; ++i) {
                float *to = a + (l / 4 + i % 2 * 8) * 16 + l % 4 * 2 + i / 2 * 8;
                to[0] = __uint_as_float(p.a[l][i] << 16);
                to[1] = __uint_as_float(p.a[l][i] & 0xffff0000u);
            }
    else
        for (int r = 0; r < 16; ++r)
            for (int h = 0; h < 2; ++h)
                fetch(a + r * 16 + h * 8, p.p.a, static_cast<int>(cur->warp % 4) * 16 + r, h, p, at_issue);
    if (p.p.b_transposed)
        for (int k = 0; k < 16; ++k)
            for (int c = 0; c < n / 8; ++c) fetch(b + k * n + c * 8, p.p.b, k, c, p, at_issue);
    else
        for (int c = 0; c < n; ++c)
            for (int h = 0; h < 2; ++h) {
                fetch(eight, p.p.b, c, h, p, at_issue);
                for (int k = 0; k < 8; ++k) b[(h * 8 + k) * n + c] = eight[k];
            }
}

__attribute__((no_sanitize("undefined"))) static void multiply(float *c, const float *a, const float *b, int n)
{
    float sum[256];
    for (int r = 0; r < 16; ++r) {
        for (int j = 0; j < n; ++j) sum[j] = 0;
        for (int k = 0; k < 16; ++k) {
            const float x = a[r * 16 + k];
            const float *y = b + k * n;
            for (int j = 0; j < n; ++j) sum[j] += x * y[j];
        }
        for (int j = 0; j < n; ++j) c[r * n + j] += sum[j];
    }
}

/* Lane l has columns 8j + 2 (l % 4) and the next of rows l / 4 and l / 4 + 8. */
static size_t place(int l, int i, int n)
{
    const int row = l / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + l % 4 * 2 + i % 2;
    return static_cast<size_t>(row * n + column);
}

struct Issue {
    float *d;
    WarpgroupProduct p;
    uint32_t a[4];
};

static Accumulators *accumulators(WarpState &w, void *const *lanes)
{
    const Issue *first = static_cast<const Issue *>(lanes[0]);
    for (const auto &x : w.acc)
        if (x->d[0] == first->d) {
            if (x->n != first->p.n) die(cur->site, "wgmma: the accumulators of a product that is still running");
            return x.get();
        }
    w.acc.push_back(std::make_unique<Accumulators>());
    Accumulators *x = w.acc.back().get();
    x->n = first->p.n;
    x->pending = 0;
    x->c.assign(static_cast<size_t>(16 * x->n), 0.f);
    for (int l = 0; l < 32; ++l) {
        x->d[l] = static_cast<const Issue *>(lanes[l])->d;
        for (int i = 0; i < x->n / 2; ++i) {
            if (first->p.add) x->c[place(l, i, x->n)] = x->d[l][i];
            x->d[l][i] = __uint_as_float(~0u);
        }
    }
    return x;
}

static bool same(const WarpgroupProduct &p, const WarpgroupProduct &q)
{
    return p.n == q.n && !p.a_registers == !q.a_registers && p.a == q.a && p.b == q.b &&
           p.b_transposed == q.b_transposed && p.add == q.add;
}

static void issue_warp(void *const *lanes, unsigned mask)
{
    const Unwatched queue;
    if (mask != ~0u) die(cur->site, "wgmma needs whole warps, not the lanes %08x", mask);
    const Issue *first = static_cast<const Issue *>(lanes[0]);
    WarpState &w = state();
    for (int l = 1; l < 32; ++l)
        if (!same(first->p, static_cast<const Issue *>(lanes[l])->p))
            die(cur->site, "wgmma: lane %d has another descriptor or scale than lane 0", l);
    auto &log = groups().log[(cur->blk->slot * 32 + cur->warp) / 4];
    if (w.issued == log.size()) log.push_back(first->p);
    else if (!same(log[w.issued], first->p)) die(cur->site, "wgmma: the warps of a warpgroup issue different products");
    ++w.issued;
    if (!first->p.a_registers && cur->blk->dynamic_align < 1024)
        die(cur->site, "wgmma operands want DYN_SMEM_1024: the device would not align them");
    w.queue.emplace_back();
    Product &p = w.queue.back();
    p.p = first->p;
    p.group = w.group;
    p.site = cur->site;
    for (int l = 0; l < 32; ++l) memcpy(p.a[l], static_cast<const Issue *>(lanes[l])->a, sizeof p.a[l]);
    p.acc = accumulators(w, lanes);
    ++p.acc->pending;
    if (hooks) {
        Warpgroups &g = groups();
        g.a.resize(256);
        g.b.resize(static_cast<size_t>(16 * p.p.n));
        operands(p, g.a.data(), g.b.data(), true);
    }
}

void wgmma_issue(float *d, const WarpgroupProduct &p, Site s)
{
    Issue x{d, p, {}};
    if (cur->blk->n_threads < (cur->warp / 4 + 1u) * 128) die(s, "wgmma in a warpgroup of less than 128 threads");
    if (p.a_registers) memcpy(x.a, p.a_registers, sizeof x.a);
    collective(~0u, &x, issue_warp, "wgmma", false, s);
}

static void commit_warp(void *const *, unsigned)
{
    const Unwatched queue;
    ++state().group;
}

void wgmma_commit(Site s)
{
    collective(~0u, nullptr, commit_warp, "wgmma_commit", false, s);
}

static void finish(Accumulators &x)
{
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < x.n / 2; ++i) x.d[l][i] = x.c[place(l, i, x.n)];
}

static void wait_warp(void *const *lanes, unsigned)
{
    const Unwatched queue;
    WarpState &w = state();
    Warpgroups &g = groups();
    const unsigned keep = static_cast<unsigned>(*static_cast<const int *>(lanes[0]));
    while (!w.queue.empty() && w.queue.front().group + keep < w.group) {
        const Product &p = w.queue.front();
        g.a.resize(256);
        g.b.resize(static_cast<size_t>(16 * p.p.n));
        operands(p, g.a.data(), g.b.data(), false);
        if (!p.p.add) p.acc->c.assign(p.acc->c.size(), 0.f);
        multiply(p.acc->c.data(), g.a.data(), g.b.data(), p.p.n);
        if (--p.acc->pending == 0) {
            finish(*p.acc);
            for (size_t i = 0; i < w.acc.size(); ++i)
                if (w.acc[i].get() == p.acc) {
                    w.acc.erase(w.acc.begin() + static_cast<std::ptrdiff_t>(i));
                    break;
                }
        }
        w.queue.pop_front();
    }
}

void wgmma_wait(int keep, Site s)
{
    collective(~0u, &keep, wait_warp, "wgmma_wait", false, s);
}

void wgmma_block_end(Worker *w, const Block *b)
{
    if (!w->wg) return;
    Warpgroups &g = *w->wg;
    for (size_t i = b->slot * 32; i < g.warps.size() && i < b->slot * 32 + 32; ++i) {
        if (!g.warps[i]) continue;
        WarpState &x = *g.warps[i];
        if (!x.queue.empty()) die(x.queue.front().site, "kernel %s ends with wgmma in flight", b->l->name);
        if (x.issued != g.log[i / 4].size())
            die(Site{nullptr, 0}, "kernel %s: warp %zu issued %u wgmma, another warp of its warpgroup %zu", b->l->name,
                i % 32, x.issued, g.log[i / 4].size());
        x.group = x.issued = 0;
    }
    for (size_t i = b->slot * 8; i < g.log.size() && i < b->slot * 8 + 8; ++i) g.log[i].clear();
}

void wgmma_free(Worker *w)
{
    delete w->wg;
    w->wg = nullptr;
}

} // namespace sim
} // namespace cu_host
