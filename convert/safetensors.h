/* Safetensors files: a strict reader over mmap and an atomic writer of one file.
 *
 * The reader checks every rule of docs/formats.md before it looks at data: header size, JSON of depth
 * 3 at most, dtypes, checked products, exact coverage of the file without holes or overlap, no
 * duplicate names. Errors name file, tensor and byte offset. Nothing is allocated by sizes that the
 * file merely claims. */
#pragma once

#include "oracle/tensor.h"

#include <cjson/cJSON.h>

typedef struct {
    const char *name;
    fh1_tensor t;        /* data points into the map; no alignment is promised for foreign files */
    uint64_t begin, end; /* bytes from the start of the file */
} cvt_st_entry;

typedef struct cvt_st cvt_st;

fh1_status cvt_st_open(const char *path, cvt_st **out);
/* The same checks on a header that is read into memory; the tensors' data are NULL. For readers that take the data by
 * pread, to whom a file cut meanwhile is an error and not a signal. */
fh1_status cvt_st_open_header(const char *path, cvt_st **out);
/* The same for a header in memory, its length word included, of a file of `file_bytes`; it is copied. */
fh1_status cvt_st_parse_header(const void *header, size_t n, uint64_t file_bytes, const char *name, cvt_st **out);
void cvt_st_close(cvt_st *f); /* views die with it */
int64_t cvt_st_count(const cvt_st *f);
const cvt_st_entry *cvt_st_at(const cvt_st *f, int64_t i);          /* sorted by name */
const cvt_st_entry *cvt_st_find(const cvt_st *f, const char *name); /* NULL when absent */
const char *cvt_st_metadata(const cvt_st *f, const char *key);      /* NULL when absent */
const cJSON *cvt_st_metadata_all(const cvt_st *f);     /* the first of the pairs, linked by next; NULL: none */
const char *cvt_st_header(const cvt_st *f, size_t *n); /* the length word and the JSON, as they stand in the file */
const char *cvt_st_path(const cvt_st *f);

/* The same checks on bytes in memory (fuzzing, tests). `data` must outlive the handle. */
fh1_status cvt_st_parse(const void *data, size_t n_bytes, const char *name, cvt_st **out);

/* Writer: declare all tensors, then write their data in any order, then commit. The file appears under
 * its name only at commit (temporary name in the same folder, synced, renamed); abort leaves nothing.
 * The order in the file is the reference writer's: dtype rank descending, then name. */
typedef struct cvt_st_writer cvt_st_writer;
fh1_status cvt_st_writer_new(const char *path, bool force, cvt_st_writer **out);
fh1_status cvt_st_writer_meta(cvt_st_writer *w, const char *key, const char *value);
fh1_status cvt_st_writer_declare(cvt_st_writer *w, const char *name, fh1_dtype dtype, int rank, const int64_t *shape);
/* Ends the declarations at its first call. `n` elements of the declared type from element `first`. */
fh1_status cvt_st_writer_put(cvt_st_writer *w, const char *name, int64_t first, const void *data, int64_t n);
fh1_status cvt_st_writer_commit(cvt_st_writer *w); /* FH1_E_INTERNAL if a tensor is not complete */
void cvt_st_writer_free(cvt_st_writer *w);         /* before commit: abort */
