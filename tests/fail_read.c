/* A disk that cannot be read when told to: an LD_PRELOAD module around every call by which a program opens, examines,
 * reads or maps a file under one folder. tests/bad_read.sh runs the readers with it. Settings as for fail_write.c;
 * FH1_FAIL_SHORT 1: every read gives at most 7 bytes. */
#include "tests/fail_call.h"

#include <sys/mman.h>

#define OPENS(name)                                                                                    \
    int name(const char *path, int flags, ...)                                                         \
    {                                                                                                  \
        REAL(name)                                                                                     \
        va_list list;                                                                                  \
        va_start(list, flags);                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;                        \
        va_end(list);                                                                                  \
        if (!(flags & (O_CREAT | O_WRONLY | O_RDWR)) && fails_path("open", AT_FDCWD, path)) return -1; \
        return real(path, flags, mode);                                                                \
    }
OPENS(open)
OPENS(open64)

static size_t cut(int fd, size_t n)
{
    char full[PATH_MAX];
    return fail_short && n > 7 && fd_is_under(fd, full) ? 7 : n;
}

ssize_t read(int fd, void *data, size_t n)
{
    REAL(read)
    return fails_fd("read", fd) ? -1 : real(fd, data, cut(fd, n));
}

ssize_t pread(int fd, void *data, size_t n, off_t at)
{
    REAL(pread)
    return fails_fd("read", fd) ? -1 : real(fd, data, cut(fd, n), at);
}

ssize_t pread64(int fd, void *data, size_t n, off64_t at)
{
    REAL(pread64)
    return fails_fd("read", fd) ? -1 : real(fd, data, cut(fd, n), at);
}

int fstat(int fd, struct stat *st)
{
    REAL(fstat)
    return fails_fd("fstat", fd) ? -1 : real(fd, st);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap)
    return fd >= 0 && fails_fd("mmap", fd) ? MAP_FAILED : real(at, n, protection, flags, fd, offset);
}
