#include "fuzz/fuzz.h"

#include "fuzz/folder.h"
#include "fuzz/heap.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Sanitizers check every access: what they allow is a fact of builds, not of parsers. */
#ifdef FH1_SANITIZE
enum { SLOWER = 8 };
#else
enum { SLOWER = 1 };
#endif

#pragma weak fuzz_folder_remove /* only targets that have a folder bring it in */

void fuzz_finding(const char *file, int line, const char *cond, const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fprintf(stderr, "\nFINDING %s:%d: %s: ", file, line, cond);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    if (fuzz_folder_remove) fuzz_folder_remove();
    abort();
}

/* -- inputs as files ----------------------------------------------------------------------------- */

/* The target cannot go on: a broken machine is no finding of its own, but must not pass for an input that was run. */
_Noreturn static void machine(const char *what)
{
    perror(what);
    abort();
}

static void write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        const ssize_t n = pwrite(fd, (const char *)data + done, size - done, (off_t)done);
        if (n <= 0) machine("write to a file in memory");
        done += (size_t)n;
    }
}

const char *fuzz_file(int slot, const void *data, size_t size)
{
    enum { SLOTS = 8 };
    static struct {
        int fd; /* 0: none yet */
        char path[32];
    } files[SLOTS];
    if (slot < 0 || slot >= SLOTS) machine("fuzz_file: no such slot");
    if (!files[slot].fd) {
        files[slot].fd = memfd_create("fuzz", MFD_CLOEXEC);
        if (files[slot].fd < 0) machine("memfd_create");
        snprintf(files[slot].path, sizeof files[slot].path, "/proc/self/fd/%d", files[slot].fd);
    }
    write_all(files[slot].fd, data, size); /* over what was there, whose pages are taken again */
    if (ftruncate(files[slot].fd, (off_t)size)) machine("ftruncate");
    return files[slot].path;
}

void *fuzz_read(const char *path, size_t *size)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) machine(path);
    char *data = malloc((size_t)st.st_size + 1);
    if (!data) machine("malloc");
    for (*size = 0; *size < (size_t)st.st_size;) {
        const ssize_t n = pread(fd, data + *size, (size_t)st.st_size - *size, (off_t)*size);
        if (n <= 0) machine(path);
        *size += (size_t)n;
    }
    close(fd);
    data[*size] = 0; /* for those who read text */
    return data;
}

/* -- bounds -------------------------------------------------------------------------------------- */

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void fuzz_bounds_begin(fuzz_bounds *b)
{
    fuzz_heap_mark();
    b->live = b->peak = fuzz_heap_live();
    b->cpu_ns = cpu_ns();
}

void fuzz_bounds_end(fuzz_bounds *b, size_t size, size_t base_bytes, double per_byte, double base_ms, double per_kb_ms,
                     void (*again)(void *), void *user)
{
    uint64_t took = cpu_ns() - b->cpu_ns;
    const double allowed = (double)base_bytes + per_byte * (double)size;
    const double allowed_ms = SLOWER * (base_ms + per_kb_ms * (double)size / 1024);
    b->peak = fuzz_heap_peak();
    FUZZ_CHECK((double)(b->peak - b->live) <= allowed, "%zu bytes of input, %zu bytes of heap, %.0f allowed", size,
               b->peak - b->live, allowed);
    for (int i = 0; i < 5 && again && (double)took > allowed_ms * 1e6; i++) {
        const uint64_t start = cpu_ns();
        again(user);
        const uint64_t this_time = cpu_ns() - start;
        if (this_time < took) took = this_time;
    }
    FUZZ_CHECK((double)took <= allowed_ms * 1e6, "%zu bytes of input, %.2f ms of processor, %.2f allowed", size,
               (double)took / 1e6, allowed_ms);
}

void fuzz_nothing_left(const fuzz_bounds *b)
{
    const size_t now = fuzz_heap_live();
    FUZZ_CHECK(now <= b->live, "%zu bytes are still on the heap", now - b->live);
}

uint64_t fuzz_next(fuzz_rng *r)
{
    if (!r->s) r->s = UINT64_C(0x9e3779b97f4a7c15); /* 0 would stay 0 */
    r->s ^= r->s << 13;
    r->s ^= r->s >> 7;
    r->s ^= r->s << 17;
    return r->s * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}
