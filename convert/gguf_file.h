/* The GGUF container, version 3, whatever model is in it: a strict reader and a writer. Internal to the gguf_*.c. */
#pragma once

#include "convert/file.h"
#include "convert/text.h"

#include <xxhash.h>

typedef enum {
    CVT_GGUF_U8,
    CVT_GGUF_I8,
    CVT_GGUF_U16,
    CVT_GGUF_I16,
    CVT_GGUF_U32,
    CVT_GGUF_I32,
    CVT_GGUF_FLOAT,
    CVT_GGUF_BOOL,
    CVT_GGUF_STRING,
    CVT_GGUF_ARRAY,
    CVT_GGUF_U64,
    CVT_GGUF_I64,
    CVT_GGUF_DOUBLE,
    CVT_GGUF_KINDS
} cvt_gguf_kind;

const char *cvt_gguf_kind_name(uint32_t kind);

/* How the numbers of a tensor are stored: blocks of `block` elements in `bytes` bytes. */
typedef struct {
    uint32_t id;
    const char *name;
    int block, bytes;
} cvt_gguf_format;

enum { CVT_GGUF_ID_F32 = 0, CVT_GGUF_ID_F16 = 1, CVT_GGUF_ID_Q8_0 = 8, CVT_GGUF_ID_F64 = 28, CVT_GGUF_ID_BF16 = 30 };

const cvt_gguf_format *cvt_gguf_format_of(uint32_t id); /* NULL: unknown */

#define CVT_GGUF_MAX_DIMS 4

typedef struct {
    char *key;
    uint32_t kind;     /* cvt_gguf_kind */
    uint32_t item;     /* of an array */
    uint64_t n;        /* items of an array, bytes of a string, else 1 */
    uint64_t at;       /* of the key's entry in the file */
    uint64_t value_at; /* of the text, the first item or the number in the file, hence in `head` */
    uint64_t bytes;    /* of these */
} cvt_gguf_kv;

typedef struct {
    char *name;
    const cvt_gguf_format *format;
    int n_dims;
    int64_t dim[CVT_GGUF_MAX_DIMS]; /* fastest first; 1 beyond n_dims */
    uint64_t begin, bytes;          /* from the start of the file */
    uint64_t at;                    /* of its entry in the file */
} cvt_gguf_info;

typedef struct {
    char *path;
    int fd;
    uint64_t device, inode, file_bytes;
    int64_t changed[4];  /* times of the last changes of data and of the file, seconds and nanoseconds */
    unsigned char *head; /* everything before the data */
    uint64_t head_bytes, infos_at, infos_end, data_begin, alignment;
    cvt_gguf_kv *kv; /* n_kv, sorted by key */
    int64_t n_kv;
    cvt_gguf_info *tensors; /* n_tensors, sorted by name */
    int64_t n_tensors;
    int64_t *in_order; /* indices of tensors in the order of their data */
} cvt_gguf_file;

/* Every rule of the format is checked: magic, version, counts, lengths, kinds, duplicate keys and tensors, alignment,
 * extents that cover the data exactly. What is allocated follows what has been read, at most CVT_GGUF_MAX_HEAD. */
fh1_status cvt_gguf_file_open(const char *path, cvt_gguf_file **out);
void cvt_gguf_file_close(cvt_gguf_file *f);
fh1_status cvt_gguf_file_unchanged(const cvt_gguf_file *f);
fh1_status cvt_gguf_parse(cvt_gguf_file *f); /* of cvt_gguf_file_open: fills the tables of an open file */
fh1_status cvt_gguf_place(cvt_gguf_file *f); /* of cvt_gguf_parse: offsets in the file, exact cover */

#define CVT_GGUF_MAX_HEAD ((uint64_t)128 << 20)  /* a vocabulary of 261 120 tokens has 9 MB */
#define CVT_GGUF_MAX_STRING ((uint64_t)64 << 20) /* the text of a tokenizer may travel in one */
#define CVT_GGUF_MAX_KEY 65535                   /* by the format */
#define CVT_GGUF_MAX_NAME 63                     /* ggml's limit for names of tensors */
#define CVT_GGUF_MAX_ITEMS ((uint64_t)1 << 26)
#define CVT_GGUF_MAX_ENTRIES ((uint64_t)1 << 16) /* keys, and tensors: 1 300 in the largest model */

const cvt_gguf_kv *cvt_gguf_find_kv(const cvt_gguf_file *f, const char *key); /* NULL: none */
int64_t cvt_gguf_find_tensor(const cvt_gguf_file *f, const char *name);       /* -1: none */

/* Values. A key that is absent: *out keeps its value. Another kind than asked for is FH1_E_INPUT naming the key. */
fh1_status cvt_gguf_get_uint(const cvt_gguf_file *f, const char *key, uint64_t *out); /* any integer kind, >= 0 */
fh1_status cvt_gguf_get_real(const cvt_gguf_file *f, const char *key, float *out);    /* float32 */
fh1_status cvt_gguf_get_text(const cvt_gguf_file *f, const char *key, const char **out, uint64_t *n);
/* The strings of an array one after another: *at starts at kv->value_at. */
const char *cvt_gguf_next_string(const cvt_gguf_file *f, uint64_t *at, uint64_t *n);

uint64_t cvt_gguf_u64(const unsigned char *p);
uint32_t cvt_gguf_u32(const unsigned char *p);

/* Bytes of the file; a file that has become shorter is FH1_E_INPUT. */
fh1_status cvt_gguf_read(const cvt_gguf_file *f, uint64_t at, uint64_t n, void *dst);

fh1_status cvt_gguf_at(fh1_status s, const cvt_gguf_file *f, uint64_t at); /* "PATH, byte AT" */

/* ---- writer ---- */

typedef struct {
    cvt_text kv; /* the entries so far */
    uint64_t n_kv;
    cvt_text infos;
    uint64_t *begin, *bytes; /* of the tensors, from the start of the data */
    int64_t n_tensors, room;
    uint64_t data_begin, data_bytes;
    cvt_target target;
    bool open;
} cvt_gguf_writer;

#define CVT_GGUF_ALIGNMENT 32

void cvt_gguf_put_uint(cvt_gguf_writer *w, const char *key, uint64_t v); /* u32 */
void cvt_gguf_put_real(cvt_gguf_writer *w, const char *key, double v);   /* f32 */
void cvt_gguf_put_bool(cvt_gguf_writer *w, const char *key, bool v);
void cvt_gguf_put_text(cvt_gguf_writer *w, const char *key, const char *text, size_t n);
/* The head of an array; its items follow by the functions below. */
void cvt_gguf_put_array(cvt_gguf_writer *w, const char *key, cvt_gguf_kind item, uint64_t n);
void cvt_gguf_add_string(cvt_gguf_writer *w, const char *text, size_t n);
void cvt_gguf_add_number(cvt_gguf_writer *w, uint64_t v, int bytes);
fh1_status cvt_gguf_put_tensor(cvt_gguf_writer *w, const char *name, const cvt_gguf_format *f, int n_dims,
                               const int64_t *dim);

/* Ends the declarations: creates the target, writes everything before the data. Sizes are checked before. */
fh1_status cvt_gguf_begin(cvt_gguf_writer *w, const char *path, bool force);
uint64_t cvt_gguf_file_size(const cvt_gguf_writer *w); /* known before cvt_gguf_begin */
fh1_status cvt_gguf_put_data(cvt_gguf_writer *w, int64_t tensor, uint64_t first, const void *data, uint64_t n);
/* Overwrites bytes of an entry; `at` is what w->kv.n was. */
fh1_status cvt_gguf_patch(cvt_gguf_writer *w, uint64_t at, const void *data, uint64_t n);
fh1_status cvt_gguf_commit(cvt_gguf_writer *w);
void cvt_gguf_writer_free(cvt_gguf_writer *w); /* before commit: nothing is left */
