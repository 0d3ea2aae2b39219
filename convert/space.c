#include "convert/checkpoint.h"

#include "convert/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* The folder that holds the target; "" when it does not fit. */
static fh1_status folder_of(const char *path, char *dir, size_t size)
{
    char *target;
    FH1_TRY(cvt_target_path(path, &target));
    size_t n = strlen(target);
    while (n > 0 && target[n - 1] != '/') n--;
    int written = n ? snprintf(dir, size, "%.*s", (int)n, target) : snprintf(dir, size, ".");
    if (written < 0 || (size_t)written >= size) dir[0] = '\0';
    free(target);
    return NULL;
}

/* "1.50 GB (1500000000 bytes)" */
static const char *size_text(uint64_t n, char buf[64])
{
    static const char *const unit[] = {"bytes", "kB", "MB", "GB", "TB", "PB", "EB"};
    double v = (double)n;
    int u = 0;
    for (; v >= 1000 && u < 6; u++) v /= 1000;
    if (u == 0) snprintf(buf, 64, "%llu bytes", (unsigned long long)n);
    else snprintf(buf, 64, "%.2f %s (%llu bytes)", v, unit[u], (unsigned long long)n);
    return buf;
}

fh1_status cvt_check_space(const char *path, uint64_t bytes)
{
    char dir[4096], need[64], left[64];
    struct statvfs fs;
    FH1_TRY(folder_of(path, dir, sizeof dir));
    if (statvfs(dir, &fs) != 0)
        return fh1_where(cvt_cannot(errno, "the folder of the target cannot be examined"), "%s", path);
    uint64_t blocks = fs.f_bavail, block = fs.f_frsize ? fs.f_frsize : fs.f_bsize;
    if (fs.f_blocks == 0) return NULL; /* a file system that does not count its blocks */
    uint64_t has = block && blocks > UINT64_MAX / block ? UINT64_MAX : blocks * block;
    if (has >= bytes) return NULL;
    fh1_status s = fh1_where(FH1_BAD("the disk has too little space for the target"), "%s", path);
    s = fh1_found(fh1_expected(s, "%s", size_text(bytes, need)), "%s in %.120s", size_text(has, left), dir);
    return fh1_hint(s, "free some space, or choose a target on another disk; nothing was written");
}
