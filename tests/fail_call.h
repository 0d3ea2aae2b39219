/* What the modules share that play a bad disk (fail_write.c, fail_read.c): settings from the environment, which files
 * are meant, the count of calls, and the libc's own functions. Included once per module. */
#pragma once

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
