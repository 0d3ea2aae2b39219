/* How many bytes the program has on its heap, those of cJSON, zstd and every other library included. Under sanitizers
 * their hooks tell; elsewhere the program's own malloc does, a thin layer over that of libc. */
#pragma once

#include <stddef.h>

size_t fuzz_heap_live(void);
/* The most since the last fuzz_heap_mark. */
size_t fuzz_heap_peak(void);
void fuzz_heap_mark(void);

/* The n-th allocation from now on fails once, as if there were no memory; 0: none. Any thread's counts. No effect under
 * sanitizers, whose hooks only listen, and on what OpenBLAS allocates for itself. */
void fuzz_heap_fail_at(long n);
/* Allocations since fuzz_heap_fail_at was called last. */
long fuzz_heap_count(void);
