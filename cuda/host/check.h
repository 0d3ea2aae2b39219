/* The race checker: what its files share. Kernels are compiled with g++'s instrumentation for ThreadSanitizer, but its
 * library is not linked: the calls that the compiler put before every access come here (check_calls.cpp), are held
 * against a shadow of each byte (check_access.cpp) and against the order that barriers have made (check_order.cpp). */
#pragma once

#include "cuda/host/internal.h"

#include <unordered_map>

namespace cu_host
{
namespace sim
{

/* Clocks of a block: one per warp, and one per mbarrier for the copies that complete on it. They tick at whatever
 * publishes something. */
enum : unsigned { WARPS = 32, CLOCKS = 64 };

struct Clocks {
    uint32_t at[CLOCKS];
    void clear()
    {
        memset(at, 0, sizeof at);
    }
    void join(const Clocks &o)
    {
        for (unsigned i = 0; i < CLOCKS; ++i) at[i] = at[i] < o.at[i] ? o.at[i] : at[i];
    }
};

/* What a thread has seen: of the clocks, and of the lanes of its own warp (by the warp's clock). An access at time s of
 * warp w came before all that this thread does now if seen.at[w] > s, or if it was a lane l of this warp and
 * lanes[l] > s. */
struct Seen {
    Clocks seen;
    uint32_t lanes[32];
};

/* A barrier: what those who arrived had seen; what each completed generation or phase, by parity, knew. */
struct Meeting {
    Clocks arrived, done[2];
};

/* A word that blocks meet at by atomic operations: who came, and what of it a fence had made visible by then. */
struct Release {
    uint32_t seq;
    uint32_t at[WARPS];
};
typedef std::vector<Release> Releases;

struct BlockShadow {
    uint32_t seq;
    Clocks now;
    Seen threads[1024];
    Meeting bar[16];
    std::unordered_map<const uint64_t *, unsigned> mbar; /* number of an mbarrier; its clock is WARPS + number % 32 */
    std::deque<Meeting> mbars;
    uint32_t fenced[WARPS];
    std::unordered_map<uintptr_t, size_t> acquired; /* word: releases seen there */
};

/* Of a byte: its last writer and those who have read it since and are not known to each other. `pc`: from the start of
 * the program. Sequence numbers as in Hooks; 1 is the host, 0 nobody. */
struct Cell {
    uint32_t wseq, wtime, wpc;
    uint16_t wthread;                   /* in its block | flags */
    uint16_t rthread;                   /* the last reader */
    uint32_t rseq, rtime, rpc, readers; /* readers: a set, see check_readers.cpp */
};
static_assert(sizeof(Cell) == 32, "cells of 32 bytes: two in a line of the cache");
enum : uint16_t { ATOMIC = 0x8000, GAP = 0x4000, COPY = 0x2000, THREAD = 0x07ff }; /* COPY: THREAD is its clock */

extern uint32_t first_seq;  /* of the launch that runs */
extern size_t heap_changes; /* allocations and releases so far */
extern bool strict;         /* FH1_CUDA_CHECK_STRICT=1: warnings are mistakes */

static inline BlockShadow &shadow_of(const Block *b)
{
    return *static_cast<BlockShadow *>(b->shadow);
}
static inline Seen &seen_by(const Thread *t)
{
    return *static_cast<Seen *>(t->shadow);
}

/* check_order.cpp */
bool seen_lane(const Thread *me, unsigned lane, uint32_t time);
/* Whether a block of this launch did its access before `me`: grid barriers, and atomics with a fence before them. */
bool seen_block(const Thread *me, uint32_t seq, unsigned warp, uint32_t time, uintptr_t address, bool atomic);
void atomic_meeting(const Thread *me, uintptr_t address);
/* The clock of the copies that complete on bar. */
unsigned copy_clock(const Block *b, const uint64_t *bar);

/* check_readers.cpp: sets of (thread, time), each made once; 0 is empty. */
uint32_t readers_with(uint32_t set, const Thread *me, uint32_t time);
/* The first reader that `me` does not know to be done: its thread in the block, -1: there is none. */
int unseen_reader(uint32_t set, const Thread *me);
void readers_clear();

/* check_access.cpp */
void check_access(uintptr_t a, size_t n, bool write, bool atomic, bool aligned, const void *return_address);
void check_copy_issue(const Thread *t, uintptr_t a, size_t n, unsigned clock, Site s);
void check_copy_land(const Block *b, uintptr_t a, size_t n, unsigned clock, Site s);
void check_copy_source(const Block *b, uintptr_t a, size_t n, Site s);
void check_read_by_warp(const Thread *t, uintptr_t a, size_t n, Site s);
void shadow_gap(const Block *b, uintptr_t a, size_t n);
void shadow_host_write(uintptr_t a, size_t n);
void shadow_release(uintptr_t a, size_t n);
bool is_shared(const Block *b, uintptr_t a);

/* check_report.cpp */
enum Verdict { MISTAKE, WARNING };
struct Finding {
    const char *what;
    uintptr_t at;
    uint32_t pc; /* 0: `site` */
    Site site;
    uint32_t earlier_pc; /* 0: none */
    const char *earlier; /* who it was */
};
void report(const Finding &f, Verdict v);
uint32_t relative_pc(const void *return_address);
const std::string &source_line(uint32_t pc);              /* file:line of a kernel */
void find_source_lines(const std::vector<uint32_t> &pcs); /* many at once: one call of addr2line */
bool is_copy_async(uint32_t pc); /* of a line that was asked for: what cp.async is made of on the CPU */
void set_kernel(const char *name);
const char *kernel_name();
/* A place without code of its own (copies, wgmma) as a pc for cells. */
uint32_t pc_of_site(Site s);

/* lint.cpp */
extern bool linting;
void lint_access(const Thread *t, uintptr_t a, size_t n, bool write, bool shared, uint32_t pc);
void lint_block_end(const Block *b);

} // namespace sim
} // namespace cu_host
