/* Stacks, and the switch from one to another: a dozen instructions where we know them, ucontext elsewhere (30 times
 * slower, it saves the signal mask by a system call). */
#include "cuda/host/internal.h"

#include <sys/mman.h>
#include <unistd.h>

#if defined(CU_HOST_UCONTEXT) || (!defined(__x86_64__) && !defined(__aarch64__))
#undef CU_HOST_UCONTEXT
#define CU_HOST_UCONTEXT 1
#include <ucontext.h>
#else
#define CU_HOST_UCONTEXT 0
#endif

namespace cu_host
{
namespace sim
{

#if CU_HOST_UCONTEXT
static void cu_host_swap(void **save, void *to)
{
    if (!*save) *save = new ucontext_t;
    swapcontext(static_cast<ucontext_t *>(*save), static_cast<ucontext_t *>(to));
}

static void *first_frame(char *, Context *c)
{
    ucontext_t *u = new ucontext_t;
    getcontext(u);
    u->uc_stack.ss_sp = c->stack;
    u->uc_stack.ss_size = c->size;
    u->uc_link = nullptr;
    makecontext(u, reinterpret_cast<void (*)()>(fiber_main), 0);
    return u;
}
#elif defined(__x86_64__)
/* Callee-saved registers on the stack, the stack pointer in *save; and back from `to`. */
extern "C" void cu_host_swap(void **save, void *to);
asm(".text\n.globl cu_host_swap\n.hidden cu_host_swap\n.type cu_host_swap,@function\ncu_host_swap:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size cu_host_swap,.-cu_host_swap\n");

static void *first_frame(char *top, Context *)
{
    void **p = reinterpret_cast<void **>(top) - 8;
    memset(p, 0, 64);
    p[6] = reinterpret_cast<void *>(fiber_main); /* where `ret` goes; the stack is then 8 off 16, as after a call */
    return p;
}
#else
extern "C" void cu_host_swap(void **save, void *to);
asm(".text\n.globl cu_host_swap\n.hidden cu_host_swap\n.type cu_host_swap,%function\ncu_host_swap:\n"
    "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\n"
    "stp d14,d15,[sp,#144]\nmov x9,sp\nstr x9,[x0]\nmov sp,x1\nldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\n"
    "ldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\n"
    "ldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\nadd sp,sp,#160\nret\n"
    ".size cu_host_swap,.-cu_host_swap\n");

static void *first_frame(char *top, Context *)
{
    void **p = reinterpret_cast<void **>(top) - 20;
    memset(p, 0, 160);
    p[11] = reinterpret_cast<void *>(fiber_main);
    return p;
}
#endif

static size_t page()
{
    static const size_t n = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return n;
}

/* A stack from the idle ones, or a new one with a page below that faults. */
Context *Worker::get_context()
{
    Context *c = idle;
    if (c) {
        idle = c->next;
        return c;
    }
    c = new Context{};
    c->size = settings().stack;
    void *p =
        mmap(nullptr, c->size + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page(), PROT_NONE)) {
        fprintf(stderr, "cuda-host: no memory for the stack of a thread\n");
        exit_mistake();
    }
    c->stack = static_cast<char *>(p) + page();
    /* Hot ends at different offsets, else all stacks fight for the same lines of the cache. */
    c->sp = first_frame(c->stack + c->size - colour++ * 37 % 64 * 192, c);
    return c;
}

static void free_contexts(Context *c)
{
    while (c) {
        Context *next = c->next;
        munmap(c->stack - page(), c->size + page());
#if CU_HOST_UCONTEXT
        delete static_cast<ucontext_t *>(c->sp);
#endif
        delete c;
        c = next;
    }
}

/* Under ThreadSanitizer no two threads of a block may share a stack: those are idle again after the block. */
void Worker::retire(Context *c)
{
    Context *&list = CU_HOST_TSAN ? used : idle;
    c->next = list;
    list = c;
}

void Worker::swap_to(Context *to)
{
    Context *from = here;
    if (from == to) return;
    here = to;
    prev = from;
#if CU_HOST_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->size);
#endif
    cu_host_swap(&from->sp, to->sp);
    switched(from->fake);
}

/* First thing on a stack: AddressSanitizer learns where it is, and we the bounds of the OS thread's own stack. */
void Worker::switched(void *fake)
{
#if CU_HOST_ASAN
    const void *bottom;
    size_t n;
    __sanitizer_finish_switch_fiber(fake, &bottom, &n);
    if (prev == &main) {
        main.stack = const_cast<char *>(static_cast<const char *>(bottom));
        main.size = n;
    }
#endif
    (void)fake;
}

void fiber_main()
{
    worker->switched(nullptr);
    for (;;) {
        Worker *w = worker;
        Context *c = w->here;
        Thread *t = c->th;
        cur = t;
        TSAN(__tsan_acquire(const_cast<Launch *>(t->blk->l)));
        t->blk->l->body();
        TSAN(__tsan_release(&w->alive));
        w->thread_exit(t);
        w->after(t, c);
    }
}

Worker::Worker()
    : main(), here(&main), prev(), idle(), used(), total(), alive(), rng(), order(FORWARD), n_blocks(), stride(),
      grid(), wg()
{
    colour = 0;
    watch_faults();
}

Worker::~Worker()
{
    for (Thread &t : th) {
        free(t.copies);
        TSAN(if (t.tsan) __tsan_destroy_fiber(t.tsan));
    }
    free_contexts(idle);
    free_contexts(used);
#if CU_HOST_UCONTEXT
    delete static_cast<ucontext_t *>(main.sp);
#endif
    for (unsigned char *a : arenas) arena_free(a);
    wgmma_free(this);
}

} // namespace sim
} // namespace cu_host
