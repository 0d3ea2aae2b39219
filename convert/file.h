/* Files and folders: reading and mapping with checks, and targets that appear whole or not at all.
 *
 * A target is built under a temporary name beside it, `.NAME.fh1-XXXX`, locked while its writer lives. A
 * writer that was killed leaves its temporary unlocked; the next one for the same target removes it. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

/* Why a call of the system on somebody's file failed, "WHAT: REASON": FH1_E_INTERNAL where this machine is short of
 * something or the disk does not work, which says nothing about the file, else FH1_E_INPUT. */
fh1_status cvt_cannot(int why, const char *what);
/* FH1_E_INPUT: somebody wrote to the file while it was read. */
fh1_status cvt_changed(const char *path);

/* Opens a regular file, without waiting for the other end of a pipe. */
fh1_status cvt_file_open(const char *path, int *fd, size_t *n);

/* All `n` bytes at the offset; FH1_E_INPUT when the file ends before. */
fh1_status cvt_read_at(int fd, const char *path, void *dst, size_t n, uint64_t offset);

/* The first `n` bytes into dst, fewer (*got) where the file ends before. */
fh1_status cvt_read_begin(int fd, const char *path, void *dst, size_t n, size_t *got);

/* A whole regular file of at most `max_bytes`; *text is malloc'ed, with a zero behind its n bytes. */
fh1_status cvt_file_read(const char *path, size_t max_bytes, char **text, size_t *n);

/* Maps a regular file read-only; *data is NULL when it is empty. */
fh1_status cvt_file_map(const char *path, const void **data, size_t *n);
void cvt_file_unmap(const void *data, size_t n);

bool cvt_path_exists(const char *path); /* a dangling symbolic link exists */
bool cvt_has_suffix(const char *s, const char *suffix);
/* The last part of a path of `length` bytes, whatever slashes end it; *n its length. */
const char *cvt_path_last(const char *path, size_t length, size_t *n);
/* dir/name into buf; FH1_E_INPUT when it does not fit. */
fh1_status cvt_path_join(char *buf, size_t size, const char *dir, const char *name);

/* What is written when `path` is the target: slashes at its end taken off, symbolic links followed to what they name,
 * which need not exist. malloc'ed. */
fh1_status cvt_target_path(const char *path, char **out);

typedef struct {
    char *target, *temp; /* malloc'ed */
    int fd;              /* of the temporary file or folder, locked */
    bool folder, force;
} cvt_target;

/* The target is cvt_target_path of `path`. Refuses an existing one without `force`; with it, one of the
 * other kind, what is neither file nor folder, the file that standard output goes to, and a folder that is neither a
 * model nor an adapter (config.json or adapter_config.json, and weights if there are folders in it). Creates the
 * temporary, with the access rights of what is replaced. Free in any case. */
fh1_status cvt_target_begin(const char *path, bool folder, bool force, cvt_target *t);
fh1_status cvt_target_commit(cvt_target *t); /* syncs, renames, syncs the folder around it */
void cvt_target_free(cvt_target *t);         /* before commit: removes the temporary */

/* Removes the temporaries of all targets of this process; safe in the handler of a fatal signal. */
void cvt_targets_remove(void);

/* All `n` bytes at the offset, whatever signals say. A full disk is FH1_E_INTERNAL. */
fh1_status cvt_write_at(int fd, const char *path, const void *data, size_t n, uint64_t offset);

/* Room on the disk for a file of n bytes, so that a full one shows before the work; file systems that cannot say pass.
 */
fh1_status cvt_file_reserve(int fd, const char *path, uint64_t n);

/* A small file in one call. */
fh1_status cvt_file_write(const char *path, const void *data, size_t n, bool force);
