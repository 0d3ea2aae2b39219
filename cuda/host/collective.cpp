/* Warp collectives: lanes wait for each other, the last one does the work for all. On them: mma.sync and ldmatrix. */
#include "cuda/host/bf16.h"
#include "cuda/host/internal.h"

namespace cu_host
{
namespace sim
{

/* The mask is complete: all its lanes are in the same operation, and it happens. */
static void run_collective(Worker *w, Block *b, unsigned base, unsigned mask, bool orders)
{
    const Thread *t = cur;
    idle_yields = 0;
    void *args[32];
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const unsigned l = static_cast<unsigned>(__builtin_ctz(rest));
        const Thread &o = w->th[base + l];
        if (o.op != t->op || o.mask != mask)
            die(t->site, "%s with mask %08x, but lane %u is in %s at %s:%d with mask %08x", t->wait, mask, l, o.wait,
                o.site.file, o.site.line, o.mask);
        args[l] = o.arg;
    }
    reinterpret_cast<collective_fn>(const_cast<void *>(t->op))(args, mask);
    if (hooks) hooks->warp_complete(b, t->warp, mask, orders);
}

void collective(unsigned mask, void *arg, collective_fn fn, const char *what, bool orders, Site s)
{
    Worker *w = worker;
    Thread *t = cur;
    Block *b = t->blk;
    const unsigned warp = t->warp, base = b->first + warp * 32;
    const unsigned lanes = b->n_threads - warp * 32;
    if (lanes < 32) mask &= (1u << lanes) - 1; /* the block's last warp */
    if (!(mask >> t->lane & 1)) die(s, "%s: lane %u is not in its own mask %08x", what, t->lane, mask);
    uint32_t &waiting = b->warp_waiting[warp];
    t->arg = arg;
    t->mask = mask;
    t->op = reinterpret_cast<const void *>(fn);
    t->wait = what;
    t->site = s;
    const unsigned key = static_cast<unsigned>(__builtin_ctz(mask));
    char *tsan = &b->warp_tsan[warp][key][b->warp_gen[warp][key] & 1];
    if (orders) TSAN(__tsan_release(tsan));
    if (((waiting | 1u << t->lane) & mask) == mask) {
        run_collective(w, b, base, mask, orders);
        if (orders) ++b->warp_gen[warp][key];
        waiting &= ~mask;
        w->ready[base >> 6] |= static_cast<uint64_t>(mask) << (base & 63);
        t->wait = nullptr;
        w->let_first_run(base, base + (lanes < 32 ? lanes : 32));
    } else {
        if (const unsigned gone = b->warp_exited[warp] & mask)
            die(s, "%s: lanes %08x of its mask have ended", what, gone);
        waiting |= 1u << t->lane;
        w->wait_here(what, s);
    }
    if (orders) {
        TSAN(__tsan_acquire(tsan));
        ++t->warp_epoch;
    }
    if (hooks) hooks->warp_sync(t, mask, orders);
    (void)tsan;
}

struct Mma {
    float *d;
    const uint32_t *a, *b;
};

/* A's column and B's row k of lane l's registers are 2 (l % 4) and the next, + 8 in the upper half of the registers. */
__attribute__((no_sanitize("undefined"))) static void mma_warp(void *const *args, unsigned mask)
{
    if (mask != ~0u) die(cur->site, "mma.sync needs the whole warp, not the lanes %08x", mask);
    float A[16][16], B[16][8];
    for (int l = 0; l < 32; ++l) {
        const Mma *m = static_cast<const Mma *>(args[l]);
        const int g = l >> 2, c = (l & 3) * 2;
        for (int i = 0; i < 4; ++i) {
            float *to = &A[g + (i & 1) * 8][c + (i >> 1) * 8];
            to[0] = __uint_as_float(m->a[i] << 16);
            to[1] = __uint_as_float(m->a[i] & 0xffff0000u);
        }
        for (int i = 0; i < 2; ++i) {
            B[c + i * 8][g] = __uint_as_float(m->b[i] << 16);
            B[c + i * 8 + 1][g] = __uint_as_float(m->b[i] & 0xffff0000u);
        }
    }
    for (int r = 0; r < 16; ++r) {
        typedef float four __attribute__((vector_size(16)));
        four lo = {}, hi = {};
        for (int k = 0; k < 16; ++k) {
            const float x = A[r][k];
            four p, q;
            memcpy(&p, &B[k][0], 16);
            memcpy(&q, &B[k][4], 16);
            lo += p * x;
            hi += q * x;
        }
        for (int l = (r & 7) * 4, n = 0; n < 4; ++n) { /* columns 2n, 2n + 1 of row r are in lane l + n */
            float *d = static_cast<Mma *>(args[l + n])->d + (r >> 3) * 2;
            d[0] += n < 2 ? lo[2 * n] : hi[2 * n - 4];
            d[1] += n < 2 ? lo[2 * n + 1] : hi[2 * n - 3];
        }
    }
}

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site s)
{
    Mma m{d, a, b};
    collective(~0u, &m, mma_warp, "mma.sync", false, s);
}

const void *const *gather_rows(const void *row, Site s)
{
    if (reinterpret_cast<uintptr_t>(row) % 16)
        die(s, "ldmatrix: a row starts at an address that is not 16-byte aligned");
    Thread *t = cur;
    collective(
        ~0u, const_cast<void *>(row),
        [](void *const *args, unsigned mask) {
            if (mask != ~0u) die(cur->site, "ldmatrix needs the whole warp, not the lanes %08x", mask);
            const Unwatched addresses;
            memcpy(cur->blk->rows[cur->warp], args, 32 * sizeof *args);
        },
        "ldmatrix", false, s);
    return t->blk->rows[t->warp];
}

void copy_async_queue(void *dst, const void *src, int bytes, bool pred, Site s)
{
    Thread *t = cur;
    if (bytes != 4 && bytes != 8 && bytes != 16) die(s, "cp.async copies 4, 8 or 16 bytes, not %d", bytes);
    if (reinterpret_cast<uintptr_t>(dst) % static_cast<unsigned>(bytes) ||
        (pred && reinterpret_cast<uintptr_t>(src) % static_cast<unsigned>(bytes)))
        die(s, "cp.async: an address is not a multiple of %d", bytes);
    if (t->n_copies == t->room_copies) {
        const unsigned room = t->room_copies ? 2 * t->room_copies : 16;
        void *p = realloc(t->copies, room * sizeof *t->copies);
        if (!p) die(s, "no memory for a queue of cp.async");
        t->copies = static_cast<CopyAsync *>(p);
        t->room_copies = room;
    }
    t->copies[t->n_copies++] = CopyAsync{dst, src, bytes, pred ? bytes : 0, t->copy_group};
}

} // namespace sim
} // namespace cu_host
