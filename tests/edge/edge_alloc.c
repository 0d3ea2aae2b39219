/* The linker leads malloc, calloc and realloc of everything in the program through here (tests/CMakeLists.txt). */
#include "tests/edge/edge_store.h"

#include <stdatomic.h>
#include <stdlib.h>

static _Atomic size_t largest;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);

static void note(size_t n)
{
    size_t was = atomic_load_explicit(&largest, memory_order_relaxed);
    while (n > was && !atomic_compare_exchange_weak(&largest, &was, n)) continue;
}

void *__wrap_malloc(size_t n)
{
    note(n);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each)
{
    size_t all;
    note(__builtin_mul_overflow(n, each, &all) ? SIZE_MAX : all);
    return __real_calloc(n, each);
}

void *__wrap_realloc(void *p, size_t n)
{
    note(n);
    return __real_realloc(p, n);
}

void edge_alloc_begin(void)
{
    atomic_store(&largest, 0);
}

size_t edge_alloc_largest(void)
{
    return atomic_load(&largest);
}
