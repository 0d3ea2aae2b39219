/* Files and folders: reading and mapping with checks, and targets that appear whole or not at all.
 *
 * A target is built under a temporary name beside it, `.NAME.fh1-XXXX`, locked while its writer lives. A
 * writer that was killed leaves its temporary unlocked; the next one for the same target removes it. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

/* A whole regular file of at most `max_bytes`; *text is malloc'ed, with a zero behind its n bytes. */
fh1_status cvt_file_read(const char *path, size_t max_bytes, char **text, size_t *n);

/* Maps a regular file read-only; *data is NULL when it is empty. */
fh1_status cvt_file_map(const char *path, const void **data, size_t *n);
void cvt_file_unmap(const void *data, size_t n);

bool cvt_path_exists(const char *path); /* a dangling symbolic link exists */
bool cvt_has_suffix(const char *s, const char *suffix);
/* dir/name into buf; FH1_E_INPUT when it does not fit. */
fh1_status cvt_path_join(char *buf, size_t size, const char *dir, const char *name);

typedef struct {
    char *target, *temp; /* malloc'ed */
    int fd;              /* of the temporary file or folder, locked */
    bool folder, force;
} cvt_target;

/* Refuses an existing target without `force`; with it, a target of the other kind, and a folder that is not
 * a model folder (files only, config.json among them). Creates the temporary. Free in any case. */
fh1_status cvt_target_begin(const char *path, bool folder, bool force, cvt_target *t);
fh1_status cvt_target_commit(cvt_target *t); /* syncs, renames, syncs the folder around it */
void cvt_target_free(cvt_target *t);         /* before commit: removes the temporary */

/* All `n` bytes at the offset, whatever signals say. A full disk is FH1_E_INTERNAL. */
fh1_status cvt_write_at(int fd, const char *path, const void *data, size_t n, uint64_t offset);

/* A small file in one call. */
fh1_status cvt_file_write(const char *path, const void *data, size_t n, bool force);
