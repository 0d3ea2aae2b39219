#include "fuzz/heap.h"

#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static size_t live, peak;

static void add(size_t n)
{
    const size_t now = __atomic_add_fetch(&live, n, __ATOMIC_RELAXED);
    size_t most = __atomic_load_n(&peak, __ATOMIC_RELAXED);
    while (now > most && !__atomic_compare_exchange_n(&peak, &most, now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static void drop(size_t n)
{
    __atomic_sub_fetch(&live, n, __ATOMIC_RELAXED);
}

size_t fuzz_heap_live(void)
{
    return __atomic_load_n(&live, __ATOMIC_RELAXED);
}

size_t fuzz_heap_peak(void)
{
    return __atomic_load_n(&peak, __ATOMIC_RELAXED);
}

void fuzz_heap_mark(void)
{
    __atomic_store_n(&peak, fuzz_heap_live(), __ATOMIC_RELAXED);
}

static long count, fail_at;

void fuzz_heap_fail_at(long n)
{
    __atomic_store_n(&fail_at, n, __ATOMIC_RELAXED);
    __atomic_store_n(&count, 0, __ATOMIC_RELAXED);
}

long fuzz_heap_count(void)
{
    return __atomic_load_n(&count, __ATOMIC_RELAXED);
}

#ifdef FH1_SANITIZE

/* Bytes are those that were asked for: malloc_usable_size is the same there. */
extern int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void *, size_t),
                                                     void (*given)(const volatile void *));
extern size_t __sanitizer_get_allocated_size(const volatile void *p);

static void taken(const volatile void *p, size_t n)
{
    (void)n;
    if (p) add(__sanitizer_get_allocated_size(p));
}

static void given(const volatile void *p)
{
    if (p) drop(__sanitizer_get_allocated_size(p));
}

__attribute__((constructor)) static void listen_to_the_heap(void)
{
    __sanitizer_install_malloc_and_free_hooks(taken, given);
}

#else

/* glibc's own entries, which these replace for the whole program, libraries included. Bytes are usable ones. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static uintptr_t blas_begin, blas_end;

static int find_blas(struct dl_phdr_info *lib, size_t size, void *user)
{
    (void)size, (void)user;
    if (!strstr(lib->dlpi_name, "openblas")) return 0;
    for (int i = 0; i < lib->dlpi_phnum; i++) {
        const uintptr_t begin = lib->dlpi_addr + lib->dlpi_phdr[i].p_vaddr;
        if (lib->dlpi_phdr[i].p_type != PT_LOAD || !(lib->dlpi_phdr[i].p_flags & PF_X)) continue;
        blas_begin = begin;
        blas_end = begin + lib->dlpi_phdr[i].p_memsz;
    }
    return 1;
}

__attribute__((constructor)) static void look_for_blas(void)
{
    dl_iterate_phdr(find_blas, NULL);
}

/* Whether the allocation for `caller` fails. OpenBLAS's are never refused, nor counted: its small products for AVX-512
 * (0.3.21, TN) write to what malloc gives them without a look at it, and nobody can mend that from outside. */
static bool fails(const void *caller)
{
    if ((uintptr_t)caller >= blas_begin && (uintptr_t)caller < blas_end) return false;
    const long n = __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    if (n != __atomic_load_n(&fail_at, __ATOMIC_RELAXED)) return false;
    errno = ENOMEM;
    return true;
}

static void *counted(void *p)
{
    if (p) add(malloc_usable_size(p));
    return p;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t n)
{
    return fails(CALLER) ? NULL : counted(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return fails(CALLER) ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    const size_t before = p ? malloc_usable_size(p) : 0;
    if (n && fails(CALLER)) return NULL;
    void *q = __libc_realloc(p, n);
    if (q || !n) drop(before); /* else p is still there */
    return counted(q);
}

static void *aligned(const void *caller, size_t align, size_t n)
{
    return fails(caller) ? NULL : counted(__libc_memalign(align, n));
}

void *memalign(size_t align, size_t n)
{
    return aligned(CALLER, align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return aligned(CALLER, align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    if (align % sizeof(void *) || align & (align - 1) || !align) return EINVAL;
    void *p = aligned(CALLER, align, n);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

void free(void *p)
{
    if (!p) return;
    drop(malloc_usable_size(p));
    __libc_free(p);
}

#endif
