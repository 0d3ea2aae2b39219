/* Somebody else writes to a file while a program reads it: an LD_PRELOAD module that cuts, changes or replaces the file
 * in the middle of the reading, at a place that does not depend on time. tests/changed.sh runs the readers with it.
 *
 *   FH1_CHANGE_FILE  the file; until it is opened nothing happens
 *   FH1_CHANGE_AT    after which read of it (pread or read; from 1), or "map": after it was mapped; 0: reads are
 * counted FH1_CHANGE_HOW   cut: to half its size; empty: to nothing; rewrite: its last byte is another one; replace:
 * another file of the same bytes takes its name; touch: only its time of change FH1_CHANGE_LOG   a file that gets a
 * line with HOW when it is done, and at the end "reads N" */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char file[PATH_MAX];
static long at;
static bool on_map;
static const char *how = "";
static atomic_long reads;
static _Thread_local bool busy; /* the change itself is not counted */

/* dlsym returns an object pointer, which ISO C does not turn into a function. */
#define REAL(name)                              \
    static __typeof__(&name) real;              \
    if (!real) {                                \
        void *symbol = dlsym(RTLD_NEXT, #name); \
        memcpy(&real, &symbol, sizeof real);    \
    }

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FH1_CHANGE_FILE"), *when = getenv("FH1_CHANGE_AT");
    if (!path || !when || !realpath(path, file)) return;
    how = getenv("FH1_CHANGE_HOW") ? getenv("FH1_CHANGE_HOW") : "cut";
    on_map = strcmp(when, "map") == 0;
    at = on_map ? 0 : strtol(when, NULL, 10);
}

static bool is_file(int fd)
{
    char link[64], path[PATH_MAX];
    if (!file[0] || busy) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    return strcmp(path, file) == 0;
}

static void rewrite_last(off_t size)
{
    char c = 0;
    int fd = open(file, O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && pread(fd, &c, 1, size - 1) == 1;
    c ^= 1;
    done = done && pwrite(fd, &c, 1, size - 1) == 1;
    if (fd >= 0) close(fd);
    if (!done) abort();
}

static void replace(off_t size)
{
    char other[PATH_MAX + 8], *bytes = malloc((size_t)size + 1);
    snprintf(other, sizeof other, "%s.new", file);
    int in = open(file, O_RDONLY | O_CLOEXEC), out = open(other, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool done = bytes && in >= 0 && out >= 0 && pread(in, bytes, (size_t)size, 0) == size &&
                pwrite(out, bytes, (size_t)size, 0) == size && rename(other, file) == 0;
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    free(bytes);
    if (!done) abort();
}

static void say(const char *what, long n)
{
    const char *log = getenv("FH1_CHANGE_LOG");
    int fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (fd >= 0) dprintf(fd, "%s %ld\n", what, n);
    if (fd >= 0) close(fd);
}

static void change(void)
{
    struct stat st;
    int keep = errno;
    busy = true;
    if (stat(file, &st) != 0) abort();
    if (strcmp(how, "cut") == 0 && truncate(file, st.st_size / 2) != 0) abort();
    if (strcmp(how, "empty") == 0 && truncate(file, 0) != 0) abort();
    if (strcmp(how, "rewrite") == 0) rewrite_last(st.st_size);
    if (strcmp(how, "replace") == 0) replace(st.st_size);
    if (strcmp(how, "touch") == 0 && utimensat(AT_FDCWD, file, NULL, 0) != 0) abort();
    say(how, 1);
    busy = false;
    errno = keep;
}

__attribute__((destructor)) static void end(void)
{
    busy = true;
    if (file[0]) say("reads", atomic_load(&reads));
}

static void was_read(int fd)
{
    if (!on_map && is_file(fd) && atomic_fetch_add(&reads, 1) + 1 == at) change();
}

ssize_t read(int fd, void *data, size_t n)
{
    REAL(read)
    ssize_t got = real(fd, data, n);
    was_read(fd);
    return got;
}

ssize_t pread(int fd, void *data, size_t n, off_t from)
{
    REAL(pread)
    ssize_t got = real(fd, data, n, from);
    was_read(fd);
    return got;
}

ssize_t pread64(int fd, void *data, size_t n, off64_t from)
{
    REAL(pread64)
    ssize_t got = real(fd, data, n, from);
    was_read(fd);
    return got;
}

void *mmap(void *where, size_t n, int access, int flags, int fd, off_t from)
{
    REAL(mmap)
    void *map = real(where, n, access, flags, fd, from);
    if (on_map && fd >= 0 && is_file(fd) && atomic_fetch_add(&reads, 1) == 0) change();
    return map;
}

void *mmap64(void *where, size_t n, int access, int flags, int fd, off64_t from)
{
    return mmap(where, n, access, flags, fd, from);
}
