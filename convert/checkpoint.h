/* A checkpoint as a stream: the files of a model folder and the tensors in them, wherever they come from.
 *
 * A Hugging Face folder, a native file, a GGUF file, and whatever a cast, a dequantisation or a merge makes of one of
 * these look the same here: the files that a Hugging Face folder would hold, in the order of their names; those of kind
 * `weights` are safetensors files whose data are the tensors of the table. Nothing is loaded before it is read, views
 * compute when they are read, so memory stays at a few pieces for a model of any size. Sinks: hf_write.h, native.h,
 * gguf.h. */
#pragma once

#include "oracle/config.h"
#include "oracle/tensor.h"

#include <cjson/cJSON.h>

typedef struct {
    char *key, *value;
} cvt_pair;

typedef struct {
    char *name;     /* path in the folder, parts joined by '/'; never absolute, no part ".", ".." or empty */
    bool weights;   /* safetensors, its tensors are in the table; otherwise a side file, copied as it is */
    uint64_t bytes; /* of the whole file; of weights without a header: 0 */
    char *data;     /* side file: its bytes where they are held in memory, else NULL: read_file gives them */
    char *header;   /* weights: the length word and the JSON as they stand in the file; NULL: to be laid out */
    uint64_t header_bytes;
    cvt_pair *meta; /* weights: __metadata__, n_meta */
    int n_meta;
    int64_t source; /* for the reader's own use */
} cvt_ckpt_file;

typedef struct {
    char *name; /* as Hugging Face's */
    fh1_dtype dtype;
    int rank;
    int64_t shape[FH1_MAX_RANK];
    int64_t file;   /* index into files */
    uint64_t begin; /* of its data from the start of that file, once the file has a header */
    int64_t source; /* for the reader's own use */
} cvt_ckpt_tensor;

typedef struct cvt_ckpt cvt_ckpt;

/* What a reader or view does itself. In a view, an operation that is NULL is asked of `below`. */
typedef struct {
    /* Whole rows of tensor t, an index of the table: rows [first, first + n) of its first axis; a scalar and a tensor
     * of a type below 8 bits is one row. Any thread, several at once. */
    fh1_status (*read_rows)(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst);
    /* Any bytes of tensor t, where that is cheaper than rows; may be NULL. */
    fh1_status (*read_bytes)(cvt_ckpt *c, int64_t t, uint64_t first, uint64_t n, void *dst);
    /* Bytes of a side file. Any thread. */
    fh1_status (*read_file)(cvt_ckpt *c, int64_t file, uint64_t first, uint64_t n, void *dst);
    /* FH1_E_INPUT when a source file is no longer the one that was opened (size, inode, time of change). */
    fh1_status (*unchanged)(cvt_ckpt *c);
    void (*free_state)(cvt_ckpt *c);
} cvt_ckpt_ops;

typedef enum { CVT_KIND_NONE, CVT_KIND_HF, CVT_KIND_NATIVE, CVT_KIND_GGUF } cvt_kind;

struct cvt_ckpt {
    const cvt_ckpt_ops *ops;
    void *state;          /* of the reader or view */
    cvt_ckpt *below;      /* of a view: what it reads from, owned */
    cvt_kind kind;        /* what cvt_ckpt_open found at `path`; NONE of a view */
    char path[4096];      /* what the user named; for messages */
    cvt_ckpt_file *files; /* n_files, sorted by name */
    int64_t n_files;
    cvt_ckpt_tensor *tensors; /* n_tensors, sorted by name */
    int64_t n_tensors;
};

/* ---- reading ---- */

/* What a path is: a folder (Hugging Face), a file that begins like a native file or like GGUF. Anything else is NONE
 * without an error; a path that cannot be read is FH1_E_INPUT. */
fh1_status cvt_ckpt_kind(const char *path, cvt_kind *out);
fh1_status cvt_ckpt_open(const char *path, cvt_ckpt **out);
/* The same for who wants f32 or more: a GGUF file as cvt_gguf_open_wide reads it. */
fh1_status cvt_ckpt_open_wide(const char *path, cvt_ckpt **out);
fh1_status cvt_hf_ckpt_open(const char *dir, cvt_ckpt **out); /* any folder; one without weights has only side files */
void cvt_ckpt_close(cvt_ckpt *c);                             /* and those below it; NULL is fine */

int64_t cvt_ckpt_find(const cvt_ckpt *c, const char *tensor);    /* -1: none */
int64_t cvt_ckpt_find_file(const cvt_ckpt *c, const char *name); /* -1: none */
const char *cvt_ckpt_meta(const cvt_ckpt *c, const char *key);   /* of the first weights file that has it; NULL: none */

int64_t cvt_ckpt_rows(const cvt_ckpt_tensor *t);
uint64_t cvt_ckpt_row_bytes(const cvt_ckpt_tensor *t);
uint64_t cvt_ckpt_tensor_bytes(const cvt_ckpt_tensor *t);
uint64_t cvt_ckpt_total_bytes(const cvt_ckpt *c); /* of all tensors and side files: what a sink will read */

fh1_status cvt_ckpt_read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst);
/* Any range of bytes of a tensor; rows at its ends are read whole and cut. */
fh1_status cvt_ckpt_read(cvt_ckpt *c, int64_t t, uint64_t first, uint64_t n, void *dst);
/* How many bytes of tensor t to ask for at a time so that nothing is computed or decoded twice: `wanted` where any
 * bytes can be read, else the whole rows that fit into it, one at least. */
uint64_t cvt_ckpt_piece(const cvt_ckpt *c, int64_t t, uint64_t wanted);
fh1_status cvt_ckpt_read_file(cvt_ckpt *c, int64_t file, uint64_t first, uint64_t n, void *dst);
fh1_status cvt_ckpt_unchanged(cvt_ckpt *c);

/* A whole side file of at most `max_bytes`; *text is malloc'ed, with a zero behind its n bytes. */
fh1_status cvt_ckpt_file_text(cvt_ckpt *c, int64_t file, size_t max_bytes, char **text, size_t *n);
/* config.json, parsed; freed by cJSON_Delete. FH1_E_INPUT when there is none. */
fh1_status cvt_ckpt_config_json(cvt_ckpt *c, cJSON **out);
/* The same as a config; refuses another model_type. Takes V from the embedding when there is one. */
fh1_status cvt_ckpt_config(cvt_ckpt *c, fh1_config *out);

/* ---- making readers ---- */

/* An empty checkpoint; `state` is the reader's and goes to ops->free_state. On failure the state stays the caller's. */
fh1_status cvt_ckpt_new(const char *path, const cvt_ckpt_ops *ops, void *state, cvt_ckpt **out);
/* Append to the tables; the new entry is the last one, its other fields are zero and may be set by the caller. */
fh1_status cvt_ckpt_push_file(cvt_ckpt *c, const char *name, bool weights, uint64_t bytes, int64_t source);
fh1_status cvt_ckpt_push_tensor(cvt_ckpt *c, const char *name, fh1_dtype dtype, int rank, const int64_t *shape,
                                int64_t file, uint64_t begin, int64_t source);
fh1_status cvt_ckpt_push_meta(cvt_ckpt_file *f, const char *key, const char *value);
void cvt_ckpt_clear_file(cvt_ckpt_file *f); /* releases what an entry holds */
/* Sorts the tables (`file` of the tensors follows) and refuses what no folder can hold: names that lead out of it, two
 * of the same name, a file that is also a folder; tensors of impossible sizes. */
fh1_status cvt_ckpt_finish(cvt_ckpt *c);

/* ---- views ---- */

/* A view that reads everything from `below` as it is (`source` of each entry is its index there) and takes it over,
 * also when it fails. Its tables are its own, to be edited by the functions that follow. */
fh1_status cvt_ckpt_view(cvt_ckpt *below, cvt_ckpt **out);

/* The file's header no longer holds (a tensor of it has another type or shape, say): cvt_ckpt_lay_out makes a new one.
 */
void cvt_ckpt_drop_header(cvt_ckpt *c, int64_t file);
/* Adds or replaces a side file; the bytes are copied. */
fh1_status cvt_ckpt_set_file(cvt_ckpt *c, const char *name, const void *data, size_t n);
void cvt_ckpt_remove_file(cvt_ckpt *c, const char *name);
/* Adds a tensor to a file of weights (made if it is not there); the table stays sorted, so indices move. */
fh1_status cvt_ckpt_add_tensor(cvt_ckpt *c, const char *name, fh1_dtype dtype, int rank, const int64_t *shape,
                               const char *file, int64_t source);
void cvt_ckpt_remove_tensor(cvt_ckpt *c, const char *name);
/* __metadata__ of every file of weights; value NULL removes the key. The headers are laid out anew. */
fh1_status cvt_ckpt_set_meta(cvt_ckpt *c, const char *key, const char *value);
/* Replaces, adds (`raw` its JSON text) or removes (NULL) one key of config.json and leaves every other byte alone. */
fh1_status cvt_ckpt_edit_config(cvt_ckpt *c, const char *key, const char *raw);

/* Distributes the tensors anew, in the order of their names (layer 2 before layer 10), over files of at most
 * `shard_bytes` of data (a larger tensor stands alone), named as Hugging Face does; 0: one file. */
fh1_status cvt_ckpt_reshard(cvt_ckpt *c, uint64_t shard_bytes);
/* Makes the headers that are missing (the reference writer's order and alignment), and with them offsets and sizes; the
 * index when there are shards and something changed. Every sink calls it first. */
fh1_status cvt_ckpt_lay_out(cvt_ckpt *c);

/* Every float tensor in `dtype`, rounded once to nearest even; the dtype key of config.json follows. */
fh1_status cvt_ckpt_cast(cvt_ckpt *below, fh1_dtype dtype, cvt_ckpt **out);

/* ---- writing ---- */

/* Told after each piece, by one thread at a time: bytes read so far, of cvt_ckpt_total_bytes. A status ends the work.
 */
typedef struct {
    void *user;
    fh1_status (*step)(void *user, uint64_t done, uint64_t total);
} cvt_progress;

typedef struct {
    bool force;                   /* replace an existing target */
    const cvt_progress *progress; /* NULL: silent */
} cvt_write_options;

/* FH1_E_INPUT before anything is written when the file system of `path` has fewer than `bytes` left. */
fh1_status cvt_check_space(const char *path, uint64_t bytes);
