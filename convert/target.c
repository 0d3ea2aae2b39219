#include "convert/fault.h"
#include "convert/file.h"
#include "convert/target_live.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* What an old folder is called while the new one takes its place, where the two cannot be exchanged. */
#define MOVED_AWAY "-old"

static fh1_status os_error(const char *path, const char *doing)
{
    return fh1_where(fh1_fail(FH1_E_INTERNAL, "%s failed: %s", doing, strerror(errno)), "%s", path);
}

/* Is it the machine's trouble, and not what the user typed? */
static bool is_disk_error(int error)
{
    return error == ENOSPC || error == EDQUOT || error == EIO || error == ENOMEM || error == ENFILE || error == EMFILE;
}

/* A rename that replaces nothing, where the file system can promise that. */
static bool rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return true;
    return (errno == EINVAL || errno == ENOSYS) && !cvt_path_exists(to) && rename(from, to) == 0;
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

/* A temporary whose writer is gone. The old target that a writer had moved away (exchange) goes back to its place if
 * nothing stands there. */
static void remove_orphan(const char *path, const char *orphan)
{
    int fd = open(orphan, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool ours = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    bool restored = ours && cvt_has_suffix(orphan, MOVED_AWAY) && rename_new(orphan, path);
    if (ours && !restored) cvt_remove_tree(orphan);
    if (fd >= 0) close(fd);
}

/* The unlocked temporaries of this target. What was moved away comes first: the others may be all that there is. */
static void remove_orphans(const char *path)
{
    size_t n = dir_len(path);
    char *dir = parent(path), *prefix = NULL;
    DIR *d = dir ? opendir(dir) : NULL;
    int len = d ? asprintf(&prefix, ".%s.fh1-", path + n) : -1;
    for (int pass = 0; pass < 2 && len > 0; pass++, rewinddir(d))
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            char *orphan;
            if (strncmp(e->d_name, prefix, (size_t)len) != 0) continue;
            if (pass == 0 && !cvt_has_suffix(e->d_name, MOVED_AWAY)) continue;
            if (asprintf(&orphan, "%.*s%s", (int)n, path, e->d_name) < 0) break;
            remove_orphan(path, orphan);
            free(orphan);
        }
    if (len >= 0) free(prefix);
    if (d) closedir(d);
    free(dir);
}

/* With --force a folder is replaced as a whole, so it must be one that fh1 could have written. */
static fh1_status check_replaceable(const char *path)
{
    bool config = false, weights = false, empty = true, plain = true, history = false;
    DIR *d = opendir(path);
    if (!d) return fh1_where(cvt_cannot(errno, "the folder cannot be read"), "%s", path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        empty = false;
        config |= strcmp(e->d_name, "config.json") == 0 || strcmp(e->d_name, "adapter_config.json") == 0;
        weights |= cvt_has_suffix(e->d_name, ".safetensors");
        history |= strcmp(e->d_name, ".git") == 0;
        plain &= fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode);
    }
    closedir(d);
    if (empty || (config && plain) || (config && weights && !history)) return NULL;
    return fh1_hint(
        fh1_where(FH1_BAD("the existing folder is neither a model nor an adapter and is not replaced"), "%s", path),
        history ? "it holds a git repository; choose another name"
                : "a folder to replace holds config.json or adapter_config.json, and weights if it has folders; "
                  "choose another name");
}

static fh1_status already_there(const char *path)
{
    return fh1_hint(fh1_where(FH1_BAD("the target exists"), "%s", path), "choose another name, or use --force");
}

static fh1_status not_regular(const char *path)
{
    return fh1_hint(fh1_where(FH1_BAD("the target exists and is no regular file"), "%s", path),
                    "write to a new file and copy it there");
}

/* A link of /proc/self/fd may lead to what has no name: a pipe, a file that was removed. */
static fh1_status check_reached(const char *path, const char *target)
{
    struct stat named, reached;
    if (stat(path, &named) != 0) return NULL;
    if (stat(target, &reached) == 0 && named.st_dev == reached.st_dev && named.st_ino == reached.st_ino) return NULL;
    return not_regular(path);
}

/* A rename would take a device or a pipe away, and part the name from a file that output still goes to. */
static fh1_status check_regular(const char *path, const struct stat *st)
{
    struct stat out;
    if (!S_ISREG(st->st_mode)) return not_regular(path);
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
        if (fstat(fd, &out) == 0 && out.st_dev == st->st_dev && out.st_ino == st->st_ino)
            return fh1_hint(
                fh1_where(FH1_BAD("the target is the file that standard output or error goes to"), "%s", path),
                "choose another name");
    return NULL;
}

static fh1_status check_target(const char *path, bool folder, bool force)
{
    struct stat st;
    if (lstat(path, &st) != 0) return NULL;
    if (!force) return already_there(path);
    if (folder && S_ISREG(st.st_mode)) return fh1_where(FH1_BAD("the target exists and is a file"), "%s", path);
    if (!folder && S_ISDIR(st.st_mode)) return fh1_where(FH1_BAD("the target exists and is a folder"), "%s", path);
    return S_ISDIR(st.st_mode) ? check_replaceable(path) : check_regular(path, &st);
}

/* What may read a target may read the new one, and nobody else. */
static fh1_status keep_mode(const cvt_target *t)
{
    struct stat st;
    if (stat(t->target, &st) != 0) return NULL;
    const mode_t mode = (st.st_mode & 0777) | (t->folder ? S_IRWXU : 0);
    return fchmod(t->fd, mode) == 0 ? NULL : os_error(t->target, "setting the access rights of the target");
}

fh1_status cvt_target_path(const char *path, char **out)
{
    enum { MOST_LINKS = 40 }; /* as the kernel */
    char to[PATH_MAX], *next;
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') len--;
    *out = strndup(path, len);
    for (int i = 0; *out && i <= MOST_LINKS; i++) {
        ssize_t n = readlink(*out, to, sizeof to - 1);
        if (n <= 0) return NULL; /* no link; or what is wrong shows when the target is made */
        while (n > 1 && to[n - 1] == '/') n--;
        int dir = to[0] == '/' ? 0 : (int)dir_len(*out);
        if (asprintf(&next, "%.*s%.*s", dir, *out, (int)n, to) < 0) next = NULL;
        free(*out);
        *out = next;
    }
    if (!*out) return fh1_no_memory(len, "a path");
    free(*out);
    *out = NULL;
    return fh1_where(FH1_BAD("the target is a link that leads in a circle"), "%s", path);
}

/* Creates and locks the temporary; false with errno set. */
static bool create_temp(cvt_target *t)
{
    for (;;) {
        struct stat by_fd, by_name;
        bool made = t->folder ? mkdir(t->temp, 0777) == 0 : true;
        if (!made) return false;
        t->fd = open(t->temp, (t->folder ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_EXCL) | O_CLOEXEC, 0666);
        if (t->fd < 0) {
            int why = errno;
            if (t->folder) rmdir(t->temp);
            errno = why;
            return false;
        }
        flock(t->fd, LOCK_EX); /* a file system without locks only loses the cleaning of orphans */
        if (fstat(t->fd, &by_fd) == 0 && lstat(t->temp, &by_name) == 0 && by_fd.st_ino == by_name.st_ino) return true;
        close(t->fd); /* taken for an orphan between its creation and the lock */
    }
}

/* The target itself, cut to nothing. */
static fh1_status faulty_begin(cvt_target *t)
{
    t->temp = strdup(t->target);
    t->fd = open(t->target, O_RDWR | O_TRUNC | O_CLOEXEC);
    return t->temp && t->fd >= 0 ? NULL : os_error(t->target, "opening the target");
}

fh1_status cvt_target_begin(const char *path, bool folder, bool force, cvt_target *t)
{
    *t = (cvt_target){.fd = -1, .folder = folder, .force = force};
    FH1_TRY(cvt_target_path(path, &t->target));
    FH1_TRY(check_reached(path, t->target));
    const char *base = t->target + dir_len(t->target);
    if (*base == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return fh1_where(FH1_BAD("the target needs a name"), "%s", path);
    FH1_TRY(check_target(t->target, folder, force));
    remove_orphans(t->target);
    if (CVT_FAULT(WRITTEN_IN_PLACE) && !folder && cvt_path_exists(t->target)) return faulty_begin(t);
    for (int i = 0; i < 100; i++) {
        free(t->temp);
        if (asprintf(&t->temp, "%.*s.%s.fh1-%ld-%d", (int)dir_len(t->target), t->target, base, (long)getpid(), i) < 0) {
            t->temp = NULL;
            return fh1_no_memory(strlen(path), "a path");
        }
        if (create_temp(t)) {
            cvt_target_live(t->temp, true);
            return keep_mode(t);
        }
        if (errno != EEXIST) break;
    }
    fh1_code code = is_disk_error(errno) ? FH1_E_INTERNAL : FH1_E_INPUT;
    fh1_status s = fh1_where(fh1_fail(code, "the target cannot be created: %s", strerror(errno)), "%s", path);
    free(t->temp); /* not ours */
    t->temp = NULL;
    return s;
}

/* The names in a folder, to disk. Some file systems cannot do that and say so, which is no failure. */
static fh1_status sync_folder(int fd, const char *path)
{
    if (fd >= 0 && (fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS)) return NULL;
    return os_error(path, "writing the folder to disk");
}

static fh1_status sync_parent(const char *path)
{
    char *dir = parent(path);
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(dir);
    if (fd < 0) return NULL; /* a folder that may be written but not read */
    fh1_status s = fh1_hint(sync_folder(fd, path), "the target is complete, but may be gone after a power failure");
    close(fd);
    return s;
}

/* The folders below one that was written; files are synced by who wrote them. */
static fh1_status sync_below(int parent_fd, const char *path)
{
    fh1_status s = NULL;
    int fd = openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        s = os_error(path, "reading the new folder");
        if (fd >= 0) close(fd);
        return s;
    }
    for (struct dirent *e; !s && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        int child = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child < 0) continue; /* a file */
        s = sync_below(child, path);
        close(child);
    }
    if (!s) s = sync_folder(dirfd(d), path);
    closedir(d);
    return s;
}

/* Puts the new folder in the place of the old one, which then lies under the temporary name. */
static fh1_status exchange(cvt_target *t)
{
    if (renameat2(AT_FDCWD, t->temp, AT_FDCWD, t->target, RENAME_EXCHANGE) == 0) {
        cvt_remove_tree(t->temp);
        return NULL;
    }
    if (errno != EINVAL && errno != ENOSYS) return os_error(t->target, "replacing the folder");
    char *old; /* no exchange on this file system: for an instant neither folder has the name */
    if (asprintf(&old, "%s" MOVED_AWAY, t->temp) < 0) return fh1_no_memory(strlen(t->temp), "a path");
    bool moved = rename(t->target, old) == 0;
    bool done = moved && rename(t->temp, t->target) == 0;
    fh1_status s = done ? NULL : os_error(t->target, "replacing the folder");
    if (moved && !done) rename(old, t->target);
    if (done) cvt_remove_tree(old);
    free(old);
    return s;
}

static fh1_status put_in_place(cvt_target *t)
{
    if (t->force && t->folder && cvt_path_exists(t->target)) return exchange(t);
    bool done = t->force ? rename(t->temp, t->target) == 0 : rename_new(t->temp, t->target);
    if (done) return NULL;
    return errno == EEXIST ? already_there(t->target) : os_error(t->target, "renaming the finished target");
}

fh1_status cvt_target_commit(cvt_target *t)
{
    if (t->folder) FH1_TRY(sync_below(t->fd, t->target));
    else if (fsync(t->fd) != 0) return os_error(t->target, "writing to disk");
    FH1_TRY(check_target(t->target, t->folder, t->force)); /* it may have appeared meanwhile */
    FH1_TRY(put_in_place(t));
    cvt_target_live(t->temp, false);
    free(t->temp);
    t->temp = NULL;
    return sync_parent(t->target);
}

void cvt_target_free(cvt_target *t)
{
    if (t->temp) {
        cvt_remove_tree(t->temp);
        cvt_target_live(t->temp, false);
    }
    if (t->fd >= 0) close(t->fd);
    free(t->temp);
    free(t->target);
    *t = (cvt_target){.fd = -1};
}
