#include "convert/target_live.h"

#include "convert/file.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h> /* getdents64: readdir takes memory */
#include <unistd.h>

enum { FREE, CHANGING, LIVE, N_SLOTS = 16, MAX_DEPTH = 32 };

static struct {
    atomic_int state;
    char path[PATH_MAX];
} slots[N_SLOTS];

void cvt_target_live(const char *temp, bool live)
{
    size_t n = strlen(temp) + 1;
    for (int i = 0; i < N_SLOTS && n <= PATH_MAX; i++) {
        int expected = live ? FREE : LIVE;
        if (!live && (atomic_load(&slots[i].state) != LIVE || strcmp(slots[i].path, temp) != 0)) continue;
        if (!atomic_compare_exchange_strong(&slots[i].state, &expected, CHANGING)) continue;
        if (live) memcpy(slots[i].path, temp, n);
        atomic_store(&slots[i].state, live ? LIVE : FREE);
        return;
    }
}

/* An entry as the kernel gives it; the name is `d_reclen` - 19 bytes at most. */
typedef struct {
    uint64_t d_ino;
    int64_t d_off;
    unsigned short d_reclen;
    unsigned char d_type;
    char d_name[];
} raw_entry;

static bool remove_at(int dir, const char *name, int depth);

/* Empties an open folder; true when something was removed, so that it is worth another look. */
static bool empty_once(int fd, int depth)
{
    _Alignas(8) char block[2048];
    bool any = false;
    lseek(fd, 0, SEEK_SET);
    for (long n; (n = syscall(SYS_getdents64, fd, block, sizeof block)) > 0;)
        for (long at = 0; at < n;) {
            const raw_entry *e = (const raw_entry *)(const void *)(block + at);
            at += e->d_reclen;
            if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
            any |= remove_at(fd, e->d_name, depth + 1);
        }
    return any;
}

/* True when it is gone. */
static bool remove_at(int dir, const char *name, int depth)
{
    if (unlinkat(dir, name, 0) == 0) return true;
    int fd = depth < MAX_DEPTH ? openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (fd < 0) return false;
    while (empty_once(fd, depth)) {
    }
    close(fd);
    return unlinkat(dir, name, AT_REMOVEDIR) == 0;
}

void cvt_remove_tree(const char *path)
{
    remove_at(AT_FDCWD, path, 0);
}

void cvt_targets_remove(void)
{
    for (int i = 0; i < N_SLOTS; i++)
        if (atomic_load(&slots[i].state) == LIVE) cvt_remove_tree(slots[i].path);
}
