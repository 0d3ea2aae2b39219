/* Accesses to pages without access: which allocation was missed, by which thread. Sanitizers have their own handler. */
#include "cuda/host/internal.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

namespace cu_host
{
namespace sim
{

#if !CU_HOST_ASAN && !CU_HOST_MSAN && !CU_HOST_TSAN
static struct sigaction before[2]; /* SIGSEGV, SIGBUS */

static const char *describe(const void *p, char *buf, size_t size)
{
    size_t n;
    const uintptr_t a = reinterpret_cast<uintptr_t>(p);
    if (was_freed(p, &n)) {
        snprintf(buf, size, "use after cudaFree: %p was in an allocation of %zu bytes", p, n);
        return buf;
    }
    const Allocation *x = allocation_before(p);
    if (x && !x->pinned && a - x->at < x->n + (1 << 20))
        snprintf(buf, size, "out of bounds: byte %zu of a device allocation of %zu bytes",
                 static_cast<size_t>(a - x->at), x->n);
    else snprintf(buf, size, "out of bounds: %p is in no device allocation", p);
    return buf;
}

static void on_fault(int sig, siginfo_t *info, void *more)
{
    const char *p = static_cast<const char *>(info->si_addr);
    char buf[256];
    if (cur && cur->ctx && p < cur->ctx->stack && p >= cur->ctx->stack - (1 << 16))
        die(Site{nullptr, 0}, "stack overflow of a thread: more than %zu bytes", cur->ctx->size);
    if (on_device(p)) die(Site{nullptr, 0}, "%s%s", describe(p, buf, sizeof buf), cur ? "" : ", from host code");
    if (cur) die(Site{nullptr, 0}, "access to %p, which is no memory", static_cast<const void *>(p));
    const struct sigaction &old = before[sig == SIGBUS];
    if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) return old.sa_sigaction(sig, info, more);
    if (!(old.sa_flags & SA_SIGINFO) && old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN)
        return old.sa_handler(sig);
    sigaction(sig, &old, nullptr); /* the access is made again, and the default applies */
}

/* A stack for the handler, since a thread's own may be what has overflowed. */
struct HandlerStack {
    void *p;
    HandlerStack() : p(nullptr)
    {
        enum { SIZE = 1 << 16 };
        stack_t now;
        if (sigaltstack(nullptr, &now) || !(now.ss_flags & SS_DISABLE)) return;
        p = mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return;
        stack_t s = {};
        s.ss_sp = p;
        s.ss_size = SIZE;
        sigaltstack(&s, nullptr);
    }
    ~HandlerStack()
    {
        if (!p || p == MAP_FAILED) return;
        stack_t off = {};
        off.ss_flags = SS_DISABLE;
        sigaltstack(&off, nullptr);
        munmap(p, 1 << 16);
    }
};

void watch_faults()
{
    static thread_local HandlerStack stack;
    (void)stack;
    static const bool once = [] {
        struct sigaction a = {};
        a.sa_sigaction = on_fault;
        a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &a, &before[0]);
        sigaction(SIGBUS, &a, &before[1]);
        return true;
    }();
    (void)once;
}
#else
void watch_faults()
{
}
#endif

} // namespace sim
} // namespace cu_host
