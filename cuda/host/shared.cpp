/* Shared memory: an arena per resident block, dynamic memory first, then each SHARED array as it is first reached.
 * Behind every piece lies a gap that is nobody's: AddressSanitizer and the checker report an access to it, and without
 * them it holds NaN, and a write into it is found when the block ends. */
#include "cuda/host/internal.h"

#include <sys/mman.h>

namespace cu_host
{
namespace sim
{

enum : size_t { ALIGN = 1024, GAP = 128 };

static void fill(void *p, size_t n)
{
    const Unwatched fresh;
    memset(p, 0xff, n);
}

unsigned char *arena_new()
{
    void *p = mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "cuda-host: no memory for a block's shared memory\n");
        exit_mistake();
    }
    no_access(p, ARENA);
    return static_cast<unsigned char *>(p);
}

void arena_free(unsigned char *arena)
{
    access_again(arena, ARENA);
    munmap(arena, ARENA);
}

static void piece(unsigned char *p, size_t n)
{
    access_again(p, n);
    if (settings().poison) fill(p, n);
    uninitialised(p, n);
}

static void gap(Block *b, unsigned char *p, size_t n)
{
    access_again(p, n);
    fill(p, n);
    uninitialised(p, n);
    no_access(p, n);
    b->gaps.push_back({p, n});
    if (hooks) hooks->gap(b, p, n);
}

void arena_enter(Block *b, unsigned char *arena)
{
    b->arena = reinterpret_cast<unsigned char *>((reinterpret_cast<uintptr_t>(arena) + 2 * ALIGN - 1) / ALIGN * ALIGN);
    b->statics.clear();
    b->gaps.clear();
    b->gap_top = b->arena;
    b->static_bytes = 0;
    b->dynamic_align = 0;
    const size_t n = b->l->smem;
    if (n) piece(b->arena, n);
    gap(b, b->arena + n, GAP);
    b->used = (n + GAP + 15) / 16 * 16;
}

/* Something was written into nobody's bytes. */
[[noreturn]] static void overrun(const Block *b, const unsigned char *at)
{
    const char *name = "dynamic memory";
    const unsigned char *from = b->arena;
    for (const SharedStatic &v : b->statics)
        if (v.p <= at && v.p > from) {
            name = v.var->name;
            from = v.p;
        }
    fprintf(stderr,
            "cuda-host: kernel %s, block %u,%u,%u wrote past the end of a piece of shared memory: byte %zu of %s\n",
            b->l->name, b->id.x, b->id.y, b->id.z, static_cast<size_t>(at - from), name);
    exit_mistake();
}

void arena_leave(Block *b)
{
    for (const Block::Gap &g : b->gaps) {
        if (CU_HOST_ASAN) break; /* has seen it when it happened */
        initialised(g.p, g.n);
        for (size_t i = 0; i < g.n; ++i)
            if (g.p[i] != 0xff) overrun(b, g.p + i);
    }
    no_access(b->arena, b->used);
}

/* The arena is aligned to 1024 in any case; whoever needs that must have asked for it. */
unsigned char *dynamic_shared(unsigned align)
{
    if (align > cur->blk->dynamic_align) cur->blk->dynamic_align = align;
    return cur->blk->arena;
}

void *static_shared(const SharedVar *v)
{
    Block *b = cur->blk;
    for (const SharedStatic &s : b->statics)
        if (s.var == v) return s.p;
    const Unwatched lists;
    const size_t n = (v->size + 15) / 16 * 16, total = b->l->smem + b->static_bytes + n;
    if (b->static_bytes + n > SHARED_STATIC_MAX) die(v->site, "more than 48 KiB of static shared memory");
    if (total > b->l->shared_limit)
        die(v->site, "%zu bytes of dynamic and %zu of static shared memory: more than the %zu that the launch may have",
            b->l->smem, b->static_bytes + n, b->l->shared_limit);
    unsigned char *p = b->arena + (b->used + v->align - 1) / v->align * v->align;
    b->used = static_cast<size_t>(p - b->arena) + v->size + GAP;
    b->static_bytes += n;
    if (p + v->size + GAP > b->arena + ARENA - 2 * ALIGN) die(v->site, "a block's shared memory with all gaps is full");
    piece(p, v->size);
    gap(b, p + v->size, GAP);
    b->used = (b->used + 15) / 16 * 16;
    b->statics.push_back({v, p});
    return p;
}

/* Every thread runs the same cut; the first one fences. */
void shared_gap(void *p, size_t n)
{
    if (!cur) return;
    Block *b = cur->blk;
    unsigned char *at = static_cast<unsigned char *>(p);
    if (at < b->gap_top) return;
    if (at + n > b->arena + b->l->smem)
        die(Site{nullptr, 0}, "the kernel cuts %zu bytes out of dynamic shared memory, the launch gave %zu",
            static_cast<size_t>(at - b->arena), b->l->smem);
    const Unwatched lists;
    b->gap_top = at + n;
    gap(b, at, n);
}

} // namespace sim
} // namespace cu_host
