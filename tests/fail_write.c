/* A disk that fails when told to: an LD_PRELOAD module around every call by which a program makes or changes a file
 * under one folder. tests/disk_full.sh runs the writers with it.
 *
 *   FH1_FAIL_UNDER  the folder; calls elsewhere, and standard streams, are left alone
 *   FH1_FAIL_AT     the call that fails, from 1; 0 or absent: none
 *   FH1_FAIL_ERRNO  28 (ENOSPC, the default), 5 (EIO), 4 (EINTR: writes must try again) …
 *   FH1_FAIL_ON     1: every later call fails too, as a full disk does; unlink works
 *   FH1_FAIL_SHORT  1: every write takes at most 1000 bytes
 *   FH1_FAIL_LOG    a file outside of the folder, which gets "N KIND PATH" of the call that failed, and at the end
 *                   "calls N"
 *
 * One process, any number of threads; a call is counted before it is made. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;
static long fail_at;
static int fail_errno = ENOSPC;
static bool fail_on, fail_short;
static char under[PATH_MAX];
static size_t n_under;
static int log_fd = -1;

/* The libc's own function of that name. dlsym returns an object pointer, which ISO C does not turn into a function. */
#define REAL(name)                              \
    static __typeof__(&name) real;              \
    if (!real) {                                \
        void *symbol = dlsym(RTLD_NEXT, #name); \
        memcpy(&real, &symbol, sizeof real);    \
    }

static long number(const char *name)
{
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

static void say(const char *kind, const char *path, long n)
{
    char line[PATH_MAX + 64];
    int len = path ? snprintf(line, sizeof line, "%ld %s %s\n", n, kind, path)
                   : snprintf(line, sizeof line, "%s %ld\n", kind, n);
    if (log_fd < 0) return;
    static ssize_t (*real)(int, const void *, size_t);
    void *symbol = dlsym(RTLD_NEXT, "write");
    memcpy(&real, &symbol, sizeof real);
    ssize_t written = real(log_fd, line, (size_t)len);
    (void)written;
}

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("FH1_FAIL_UNDER"), *log = getenv("FH1_FAIL_LOG");
    if (!folder || !realpath(folder, under)) return;
    if (log) log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666); /* before `under` counts */
    if (number("FH1_FAIL_ERRNO")) fail_errno = (int)number("FH1_FAIL_ERRNO");
    fail_on = number("FH1_FAIL_ON") != 0;
    fail_short = number("FH1_FAIL_SHORT") != 0;
    fail_at = number("FH1_FAIL_AT");
    n_under = strlen(under);
}

__attribute__((destructor)) static void end(void)
{
    say("calls", NULL, atomic_load(&calls));
}

static bool is_under(const char *path)
{
    return n_under && strncmp(path, under, n_under) == 0 && (path[n_under] == '/' || path[n_under] == '\0');
}

/* The folder of a path made absolute, so that a name that does not exist yet can be judged. */
static bool path_is_under(int dir, const char *path, char *full)
{
    char base[PATH_MAX] = "", joined[2 * PATH_MAX], link[64];
    if (!n_under) return false;
    if (path[0] != '/') {
        ssize_t n;
        snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
        n = readlink(link, base, sizeof base - 1);
        base[n > 0 ? n : 0] = '\0';
    }
    snprintf(joined, sizeof joined, "%s%s%s", base, *base ? "/" : "", path);
    snprintf(full, PATH_MAX, "%.*s", PATH_MAX - 1, joined);
    char *slash = strrchr(joined, '/'), real_folder[PATH_MAX];
    if (!slash) return false;
    *slash = '\0';
    return realpath(*joined ? joined : "/", real_folder) && is_under(real_folder);
}

static bool fd_is_under(int fd, char *full)
{
    char link[64];
    if (!n_under || fd <= STDERR_FILENO) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, full, PATH_MAX - 1);
    full[n > 0 ? n : 0] = '\0';
    return n > 0 && is_under(full);
}

/* Counts a call; true when it is to fail, errno is set then. */
static bool failed(const char *kind, const char *path)
{
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (!fail_at || n < fail_at || (n > fail_at && !fail_on)) return false;
    if (n == fail_at) say(kind, path, n);
    errno = fail_errno;
    return true;
}

static bool fails_path(const char *kind, int dir, const char *path)
{
    char full[PATH_MAX];
    int keep = errno;
    bool bad = path_is_under(dir, path, full) && failed(kind, full);
    if (!bad) errno = keep;
    return bad;
}

static bool fails_fd(const char *kind, int fd)
{
    char full[PATH_MAX];
    int keep = errno;
    bool bad = fd_is_under(fd, full) && failed(kind, full);
    if (!bad) errno = keep;
    return bad;
}

/* open for writing or creating; reading a folder or a source never runs out of space. */
#define OPENS(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                      \
    {                                                                                               \
        REAL(name)                                                                                  \
        va_list list;                                                                               \
        va_start(list, flags);                                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;                     \
        va_end(list);                                                                               \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR) && fails_path("open", AT_FDCWD, path)) return -1; \
        return real(path, flags, mode);                                                             \
    }
#define OPENS_AT(name)                                                                           \
    int name(int dir, const char *path, int flags, ...)                                          \
    {                                                                                            \
        REAL(name)                                                                               \
        va_list list;                                                                            \
        va_start(list, flags);                                                                   \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;                  \
        va_end(list);                                                                            \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR) && fails_path("openat", dir, path)) return -1; \
        return real(dir, path, flags, mode);                                                     \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir)
    return fails_path("mkdir", AT_FDCWD, path) ? -1 : real(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    REAL(mkdirat)
    return fails_path("mkdir", dir, path) ? -1 : real(dir, path, mode);
}

static size_t cut(int fd, size_t n)
{
    char full[PATH_MAX];
    return fail_short && n > 1000 && fd_is_under(fd, full) ? 1000 : n;
}

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(write)
    return fails_fd("write", fd) ? -1 : real(fd, data, cut(fd, n));
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    REAL(pwrite)
    return fails_fd("write", fd) ? -1 : real(fd, data, cut(fd, n), at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    REAL(pwrite64)
    return fails_fd("write", fd) ? -1 : real(fd, data, cut(fd, n), at);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags)
{
    REAL(copy_file_range)
    return fails_fd("write", out) ? -1 : real(in, in_at, out, out_at, cut(out, n), flags);
}

int ftruncate(int fd, off_t n)
{
    REAL(ftruncate)
    return fails_fd("ftruncate", fd) ? -1 : real(fd, n);
}

int ftruncate64(int fd, off64_t n)
{
    REAL(ftruncate64)
    return fails_fd("ftruncate", fd) ? -1 : real(fd, n);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    REAL(fallocate)
    return fails_fd("fallocate", fd) ? -1 : real(fd, mode, at, n);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
    REAL(posix_fallocate)
    return fails_fd("fallocate", fd) ? fail_errno : real(fd, at, n);
}

int fsync(int fd)
{
    REAL(fsync)
    return fails_fd("fsync", fd) ? -1 : real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync)
    return fails_fd("fsync", fd) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    REAL(rename)
    return fails_path("rename", AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    REAL(renameat)
    return fails_path("rename", to_dir, to) ? -1 : real(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    REAL(renameat2)
    return fails_path("rename", to_dir, to) ? -1 : real(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to)
{
    REAL(link)
    return fails_path("link", AT_FDCWD, to) ? -1 : real(from, to);
}

int symlink(const char *from, const char *to)
{
    REAL(symlink)
    return fails_path("symlink", AT_FDCWD, to) ? -1 : real(from, to);
}
