/* The parts of the import of GGUF. Internal to the gguf_*.c. */
#pragma once

#include "convert/gguf_export.h"

/* What the private keys say about one tensor of the original. */
typedef struct {
    char *name;
    fh1_dtype dtype;
    const unsigned char *bytes; /* all of it, where folding loses it; NULL otherwise */
    uint64_t n_bytes;
} cvt_gguf_original;

/* Where one tensor of Hugging Face comes from. */
typedef struct {
    const cvt_gguf_entry *e;
    const cvt_gguf_info *info;         /* NULL: zeros */
    const cvt_gguf_original *original; /* NULL: unfolded */
} cvt_gguf_source;

typedef struct {
    cvt_gguf_file *f;
    fh1_config config;
    bool own;                     /* written by fh1: has the private keys */
    bool wide;                    /* for engines: nothing is rounded below f32 */
    cvt_gguf_original *originals; /* n_originals, sorted by name */
    int64_t n_originals;
    cvt_gguf_map map;
    cvt_gguf_source *sources; /* n_sources; `source` of the tensors is an index */
    int64_t n_sources;
    bool *used; /* f->n_tensors */
    cvt_text losses;
} cvt_gguf_state;

/* config.json of a file that has none: from its keys, all multipliers 1. */
fh1_status cvt_gguf_make_config(const cvt_gguf_file *f, cvt_text *json);
/* The keys of the model must say what config.json says. */
fh1_status cvt_gguf_check_model_keys(const cvt_gguf_file *f, const fh1_config *g);

/* Private keys: whether they are there and of a version that is known; side files into c; the originals. */
fh1_status cvt_gguf_check_private(cvt_gguf_state *s);
fh1_status cvt_gguf_add_files(cvt_ckpt *c, const cvt_gguf_state *s);
fh1_status cvt_gguf_add_file(cvt_ckpt *c, const char *name, const void *data, size_t n);
fh1_status cvt_gguf_add_metadata(cvt_ckpt *c, const cvt_gguf_state *s);
fh1_status cvt_gguf_read_originals(cvt_gguf_state *s);
const cvt_gguf_original *cvt_gguf_find_original(const cvt_gguf_state *s, const char *name); /* NULL: none */

/* An array of strings: *n of them, *at where they begin; none when the key is absent. */
fh1_status cvt_gguf_strings(const cvt_gguf_file *f, const char *key, uint64_t *n, uint64_t *at);

/* Rows of a source as `dtype`. */
fh1_status cvt_gguf_unfold(const cvt_gguf_file *f, const cvt_gguf_source *s, fh1_dtype dtype, int64_t first, int64_t n,
                           void *dst);
fh1_status cvt_gguf_check_supported(const cvt_gguf_file *f, const cvt_gguf_info *t); /* that the numbers can be read */
/* Does the original give the tensor of the file when it is folded? */
fh1_status cvt_gguf_original_fits(const cvt_gguf_file *f, const cvt_gguf_source *s, const cvt_gguf_original *o,
                                  bool *fits);

fh1_status cvt_gguf_note_losses(cvt_gguf_state *s);
