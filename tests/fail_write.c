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
#include "tests/fail_call.h"

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
