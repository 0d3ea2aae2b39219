#include "convert/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static fh1_status os_error(const char *path, const char *doing)
{
    return fh1_where(fh1_fail(FH1_E_INTERNAL, "%s failed: %s", doing, strerror(errno)), "%s", path);
}

/* Length of the folder part of a path, its slash included; 0 when the path has none. */
static size_t dir_len(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* The folder that holds `path`, malloc'ed. */
static char *parent(const char *path)
{
    size_t n = dir_len(path);
    return n ? strndup(path, n) : strdup(".");
}

/* Removes a file, or a folder of files (none of ours has folders inside). */
static void remove_any(const char *path)
{
    if (unlink(path) == 0) return;
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(path);
}

/* Removes temporaries of this target whose writer is gone, which shows in the missing lock. */
static void remove_orphans(const char *path)
{
    size_t n = dir_len(path);
    char *dir = parent(path), *prefix = NULL;
    DIR *d = dir ? opendir(dir) : NULL;
    int len = d ? asprintf(&prefix, ".%s.fh1-", path + n) : -1;
    for (struct dirent *e; len > 0 && (e = readdir(d)) != NULL;) {
        char *orphan;
        if (strncmp(e->d_name, prefix, (size_t)len) != 0) continue;
        if (asprintf(&orphan, "%.*s%s", (int)n, path, e->d_name) < 0) break;
        int fd = open(orphan, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) remove_any(orphan);
        if (fd >= 0) close(fd);
        free(orphan);
    }
    if (len >= 0) free(prefix);
    if (d) closedir(d);
    free(dir);
}

/* With --force a folder is replaced as a whole, so it must be one that fh1 could have written. */
static fh1_status check_replaceable(const char *path)
{
    bool config = false, empty = true, plain = true;
    DIR *d = opendir(path);
    if (!d) return fh1_where(FH1_BAD("the folder cannot be read: %s", strerror(errno)), "%s", path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        empty = false;
        config |= strcmp(e->d_name, "config.json") == 0;
        plain &= fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode);
    }
    closedir(d);
    if (empty || (config && plain)) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the existing folder is not a model folder and is not replaced"), "%s", path),
                    "a folder to replace holds config.json and no folders; choose another name");
}

static fh1_status already_there(const char *path)
{
    return fh1_hint(fh1_where(FH1_BAD("the target exists"), "%s", path), "choose another name, or use --force");
}

static fh1_status check_target(const char *path, bool folder, bool force)
{
    struct stat st;
    if (lstat(path, &st) != 0) return NULL;
    if (!force) return already_there(path);
    if (folder != (S_ISDIR(st.st_mode) != 0))
        return fh1_where(FH1_BAD("the target exists and is a %s", folder ? "file" : "folder"), "%s", path);
    if (!folder && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) /* a rename would take a device or a pipe away */
        return fh1_hint(fh1_where(FH1_BAD("the target exists and is no regular file"), "%s", path),
                        "write to a new file and copy it there");
    return folder ? check_replaceable(path) : NULL;
}

/* Creates and locks the temporary; false with errno set. */
static bool create_temp(cvt_target *t)
{
    for (;;) {
        struct stat by_fd, by_name;
        bool made = t->folder ? mkdir(t->temp, 0777) == 0 : true;
        if (!made) return false;
        t->fd = open(t->temp, (t->folder ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_EXCL) | O_CLOEXEC, 0666);
        if (t->fd < 0) return false;
        flock(t->fd, LOCK_EX); /* a file system without locks only loses the cleaning of orphans */
        if (fstat(t->fd, &by_fd) == 0 && lstat(t->temp, &by_name) == 0 && by_fd.st_ino == by_name.st_ino) return true;
        close(t->fd); /* taken for an orphan between its creation and the lock */
    }
}

fh1_status cvt_target_begin(const char *path, bool folder, bool force, cvt_target *t)
{
    *t = (cvt_target){.fd = -1, .folder = folder, .force = force};
    size_t len = strlen(path);
    while (folder && len > 1 && path[len - 1] == '/') len--;
    t->target = strndup(path, len);
    if (!t->target) return fh1_no_memory(len, "a path");
    const char *base = t->target + dir_len(t->target);
    if (*base == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return fh1_where(FH1_BAD("the target needs a name"), "%s", path);
    FH1_TRY(check_target(t->target, folder, force));
    remove_orphans(t->target);
    for (int i = 0; i < 100; i++) {
        free(t->temp);
        if (asprintf(&t->temp, "%.*s.%s.fh1-%ld-%d", (int)dir_len(t->target), t->target, base, (long)getpid(), i) < 0) {
            t->temp = NULL;
            return fh1_no_memory(len, "a path");
        }
        if (create_temp(t)) return NULL;
        if (errno != EEXIST) break;
    }
    fh1_status s = fh1_where(FH1_BAD("the target cannot be created: %s", strerror(errno)), "%s", path);
    free(t->temp); /* not ours */
    t->temp = NULL;
    return s;
}

static void sync_parent(const char *path)
{
    char *dir = parent(path);
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(dir);
    if (fd >= 0) {
        fsync(fd); /* some file systems cannot; the data itself is synced already */
        close(fd);
    }
}

/* Puts the new folder in the place of the old one, which then lies under the temporary name. */
static fh1_status exchange(cvt_target *t)
{
    if (renameat2(AT_FDCWD, t->temp, AT_FDCWD, t->target, RENAME_EXCHANGE) == 0) {
        remove_any(t->temp);
        return NULL;
    }
    if (errno != EINVAL && errno != ENOSYS) return os_error(t->target, "replacing the folder");
    char *old; /* no exchange on this file system: for an instant neither folder has the name */
    if (asprintf(&old, "%s-old", t->temp) < 0) return fh1_no_memory(strlen(t->temp), "a path");
    bool moved = rename(t->target, old) == 0;
    bool done = moved && rename(t->temp, t->target) == 0;
    fh1_status s = done ? NULL : os_error(t->target, "replacing the folder");
    if (moved && !done) rename(old, t->target);
    if (done) remove_any(old);
    free(old);
    return s;
}

fh1_status cvt_target_commit(cvt_target *t)
{
    if (fsync(t->fd) != 0) return os_error(t->target, "writing to disk");
    FH1_TRY(check_target(t->target, t->folder, t->force)); /* it may have appeared meanwhile */
    if (t->force && t->folder && cvt_path_exists(t->target)) {
        FH1_TRY(exchange(t));
    } else {
        unsigned flags = t->force ? 0 : RENAME_NOREPLACE;
        int failed = renameat2(AT_FDCWD, t->temp, AT_FDCWD, t->target, flags);
        if (failed && (errno == EINVAL || errno == ENOSYS)) failed = rename(t->temp, t->target);
        if (failed && errno == EEXIST) return already_there(t->target);
        if (failed) return os_error(t->target, "renaming the finished target");
    }
    free(t->temp);
    t->temp = NULL;
    sync_parent(t->target);
    return NULL;
}

void cvt_target_free(cvt_target *t)
{
    if (t->temp) remove_any(t->temp);
    if (t->fd >= 0) close(t->fd);
    free(t->temp);
    free(t->target);
    *t = (cvt_target){.fd = -1};
}
