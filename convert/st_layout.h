/* Where tensors lie in a safetensors file, and the header that says so, as the reference writer has them: types in its
 * order, then names, the data from a multiple of 8 bytes on. */
#pragma once

#include "convert/checkpoint.h"

typedef struct {
    const char *name;
    fh1_dtype dtype;
    int rank;
    const int64_t *shape;
    uint64_t n_bytes;
    uint64_t begin; /* set: from the start of the data */
    size_t tag;     /* the caller's */
} cvt_st_item;

/* A name or metadata text that readers accept: UTF-8; a tensor is not called __metadata__. */
fh1_status cvt_st_check_text(const char *text);
fh1_status cvt_st_check_name(const char *name);

/* Elements and bytes of a tensor; FH1_E_INPUT when a product overflows or bytes are not whole. */
fh1_status cvt_st_size(fh1_dtype dtype, int rank, const int64_t *shape, int64_t *n_elems, uint64_t *n_bytes);

/* Sorts the items into the order of the file, places them, and makes the length word and the JSON, malloc'ed. Names
 * that appear twice and a header too large for readers are refused. */
fh1_status cvt_st_layout(cvt_st_item *items, size_t n, const cvt_pair *meta, size_t n_meta, char **header,
                         size_t *header_bytes);
