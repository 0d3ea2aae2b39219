#include "convert/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

fh1_status cvt_changed(const char *path)
{
    return fh1_hint(fh1_where(FH1_BAD("the file was changed while it was read"), "%s", path),
                    "start again when nothing writes to it");
}

fh1_status cvt_cannot(int why, const char *what)
{
    static const int ours[] = {ENOMEM, ENFILE, EMFILE, EIO, EAGAIN, ENOSPC, ENOBUFS};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (why == ours[i]) return fh1_fail(FH1_E_INTERNAL, "%s: %s", what, strerror(why));
    return FH1_BAD("%s: %s", what, strerror(why));
}

fh1_status cvt_file_open(const char *path, int *fd, size_t *n)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) return fh1_where(cvt_cannot(errno, "the file cannot be opened"), "%s", path);
    fh1_status s = NULL;
    if (fstat(*fd, &st) != 0) s = cvt_cannot(errno, "the file cannot be examined");
    else if (S_ISDIR(st.st_mode)) s = fh1_expected(fh1_found(FH1_BAD("this is not a file"), "a folder"), "a file");
    else if (!S_ISREG(st.st_mode))
        s = fh1_expected(fh1_found(FH1_BAD("this is not a regular file"), "a pipe or device"), "a regular file");
    else if ((uintmax_t)st.st_size > SIZE_MAX / 2) s = FH1_BAD("the file is too large for this machine");
    if (s) {
        close(*fd);
        return fh1_where(s, "%s", path);
    }
    *n = (size_t)st.st_size;
    return NULL;
}

/* Reads up to n bytes; *got is less only when the file shrank. */
static fh1_status read_all(int fd, const char *path, char *buf, size_t n, size_t *got)
{
    *got = 0;
    while (*got < n) {
        ssize_t k = read(fd, buf + *got, n - *got);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return fh1_where(cvt_cannot(errno, "reading failed"), "%s, byte %zu", path, *got);
        if (k == 0) break;
        *got += (size_t)k;
    }
    return NULL;
}

fh1_status cvt_read_at(int fd, const char *path, void *dst, size_t n, uint64_t offset)
{
    char *p = dst;
    while (n > 0) {
        ssize_t k = pread(fd, p, n, (off_t)offset);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0)
            return fh1_where(cvt_cannot(errno, "reading failed"), "%s, byte %llu", path, (unsigned long long)offset);
        if (k == 0)
            return fh1_where(FH1_BAD("the file ended while it was read: it was changed meanwhile"), "%s, byte %llu",
                             path, (unsigned long long)offset);
        p += k;
        n -= (size_t)k;
        offset += (uint64_t)k;
    }
    return NULL;
}

fh1_status cvt_read_begin(int fd, const char *path, void *dst, size_t n, size_t *got)
{
    *got = 0;
    while (*got < n) {
        ssize_t k = pread(fd, (char *)dst + *got, n - *got, (off_t)*got);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return fh1_where(cvt_cannot(errno, "reading failed"), "%s, byte %zu", path, *got);
        if (k == 0) break;
        *got += (size_t)k;
    }
    return NULL;
}

fh1_status cvt_file_read(const char *path, size_t max_bytes, char **text, size_t *n)
{
    int fd;
    size_t size;
    *text = NULL;
    *n = 0;
    FH1_TRY(cvt_file_open(path, &fd, &size));
    fh1_status s = NULL;
    if (size > max_bytes)
        s = fh1_where(
            fh1_found(fh1_expected(FH1_BAD("the file is too large"), "at most %zu bytes", max_bytes), "%zu", size),
            "%s", path);
    char *buf = s ? NULL : malloc(size + 1);
    if (!s && !buf) s = fh1_no_memory(size, path);
    if (!s) s = read_all(fd, path, buf, size, n);
    close(fd);
    if (s) {
        free(buf);
        *n = 0;
        return s;
    }
    buf[*n] = '\0';
    *text = buf;
    return NULL;
}

fh1_status cvt_file_map(const char *path, const void **data, size_t *n)
{
    int fd;
    *data = NULL;
    *n = 0;
    FH1_TRY(cvt_file_open(path, &fd, n));
    void *map = *n ? mmap(NULL, *n, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    int why = errno;
    close(fd);
    if (map == MAP_FAILED) return fh1_where(cvt_cannot(why, "the file cannot be mapped"), "%s", path);
    *data = map;
    return NULL;
}

void cvt_file_unmap(const void *data, size_t n)
{
    if (data) munmap((void *)(uintptr_t)data, n);
}

bool cvt_path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool cvt_has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && strcmp(s + n - k, suffix) == 0;
}

const char *cvt_path_last(const char *path, size_t length, size_t *n)
{
    size_t end = length;
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    *n = end - begin;
    return path + begin;
}

fh1_status cvt_path_join(char *buf, size_t size, const char *dir, const char *name)
{
    size_t len = strlen(dir);
    const char *slash = len > 0 && dir[len - 1] == '/' ? "" : "/";
    int n = snprintf(buf, size, "%s%s%s", dir, slash, name);
    if (n < 0 || (size_t)n >= size) return fh1_where(FH1_BAD("the path is too long"), "%.200s", dir);
    return NULL;
}

fh1_status cvt_write_at(int fd, const char *path, const void *data, size_t n, uint64_t offset)
{
    const char *p = data;
    while (n > 0) {
        ssize_t k = pwrite(fd, p, n, (off_t)offset);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return fh1_hint(fh1_where(fh1_fail(FH1_E_INTERNAL, "writing failed: %s", strerror(k < 0 ? errno : EIO)),
                                      "%s, byte %llu", path, (unsigned long long)offset),
                            "nothing is left under the target's name");
        p += k;
        n -= (size_t)k;
        offset += (uint64_t)k;
    }
    return NULL;
}

fh1_status cvt_file_reserve(int fd, const char *path, uint64_t n)
{
    if (n == 0 || fallocate(fd, 0, 0, (off_t)n) == 0 ||
        (errno != ENOSPC && errno != EFBIG && errno != EDQUOT && errno != EIO))
        return NULL;
    return fh1_where(fh1_fail(FH1_E_INTERNAL, "no room for %llu bytes: %s", (unsigned long long)n, strerror(errno)),
                     "%s", path);
}

fh1_status cvt_file_write(const char *path, const void *data, size_t n, bool force)
{
    cvt_target t;
    fh1_status s = cvt_target_begin(path, false, force, &t);
    if (!s) s = cvt_write_at(t.fd, path, data, n, 0);
    if (!s) s = cvt_target_commit(&t);
    cvt_target_free(&t);
    return s;
}
