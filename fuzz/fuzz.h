/* What the fuzz targets share. A target is one file fuzz_NAME.c with
 *
 *   int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)      the check; an error is FUZZ_CHECK
 *   size_t LLVMFuzzerCustomMutator(…)                                 where bytes alone get nowhere
 *
 * as libFuzzer and AFL++ call them; fuzz_replay.c calls them without either (any compiler; regressions in ctest). */
#pragma once

#include "oracle/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
                                 size_t max_size, unsigned int seed);
/* A random change of the bytes, given by whoever runs the target; returns the new size. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* Tells what was expected and aborts: a finding. */
#define FUZZ_CHECK(cond, ...) ((cond) ? (void)0 : fuzz_finding(__FILE__, __LINE__, #cond, __VA_ARGS__))
_Noreturn void fuzz_finding(const char *file, int line, const char *cond, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- inputs as files, which the parsers read: in memory, without a disk ---- */

/* A path whose file has these bytes (a descriptor of memfd_create under /proc/self/fd): valid until the next call with
 * the same slot, 0 … 7. */
const char *fuzz_file(int slot, const void *data, size_t size);
/* The bytes of any file, malloc'ed. */
void *fuzz_read(const char *path, size_t *size);

/* ---- bounds: around one parse ---- */

typedef struct {
    size_t live, peak; /* bytes on the heap now, and the most since fuzz_bounds_begin */
    uint64_t cpu_ns;   /* of this thread */
} fuzz_bounds;
void fuzz_bounds_begin(fuzz_bounds *b);
/* Heap: at most base_bytes + per_byte · size at any moment since begin. Time of the processor: at most base_ms +
 * per_kb_ms · size / 1024; one that takes longer is run again by `again` (NULL: not) up to five times, the shortest
 * counts: the machine is shared. Builds with sanitizers are given eight times as long. */
void fuzz_bounds_end(fuzz_bounds *b, size_t size, size_t base_bytes, double per_byte, double base_ms, double per_kb_ms,
                     void (*again)(void *), void *user);
/* Nothing that the parse allocated is still there. */
void fuzz_nothing_left(const fuzz_bounds *b);

/* Small xorshift for mutators: the same everywhere. */
typedef struct {
    uint64_t s;
} fuzz_rng;
uint64_t fuzz_next(fuzz_rng *r);
static inline uint64_t fuzz_below(fuzz_rng *r, uint64_t n)
{
    return n ? fuzz_next(r) % n : 0;
}
