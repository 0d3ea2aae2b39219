/* cp.async on the CPU, at the worst time that the rules allow: the destination turns to NaN at issue (as if the copy
 * came at once: an overwrite of a buffer that is still read shows), and the data come only in the wait (as if the copy
 * came last: a wait that is missing or too weak shows). Inline, so that sanitizers see the accesses as the kernel's
 * own. */
#pragma once

#include "cuda/host/sanitizer.h"
#include "cuda/host/thread.h"

namespace cu_host
{
namespace sim
{

/* Checks the addresses and queues. */
void copy_async_queue(void *dst, const void *src, int bytes, bool pred, Site s);

template <typename T> static inline void copy_async_as(void *dst, const void *src, bool pred)
{
    *static_cast<T *>(dst) = pred ? *static_cast<const T *>(src) : T{};
}
static inline void copy_async(void *dst, const void *src, int bytes, bool pred, Site s)
{
    copy_async_queue(dst, src, bytes, pred, s);
    if (bytes == 16) *static_cast<uint4 *>(dst) = uint4{~0u, ~0u, ~0u, ~0u};
    else if (bytes == 8) *static_cast<uint2 *>(dst) = uint2{~0u, ~0u};
    else *static_cast<unsigned *>(dst) = ~0u;
    uninitialised(dst, static_cast<size_t>(bytes));
}
static inline void copy_async_commit()
{
    ++cur->copy_group;
}
/* All groups but the last `keep` committed ones. */
static inline void copy_async_wait(int keep)
{
    Thread *t = cur;
    unsigned left = 0;
    for (unsigned i = 0; i < t->n_copies; ++i) {
        const CopyAsync c = t->copies[i];
        if (c.group + static_cast<unsigned>(keep) >= t->copy_group) t->copies[left++] = c;
        else if (c.bytes == 16) copy_async_as<uint4>(c.dst, c.src, c.from_src != 0);
        else if (c.bytes == 8) copy_async_as<uint2>(c.dst, c.src, c.from_src != 0);
        else copy_async_as<unsigned>(c.dst, c.src, c.from_src != 0);
    }
    t->n_copies = left;
}

} // namespace sim
} // namespace cu_host
