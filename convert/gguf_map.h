/* Which tensor of Hugging Face is which of a `falcon-h1` GGUF file, in what shape, and what is folded into it: the one
 * table that export and import share. Internal to the gguf_*.c. */
#pragma once

#include "convert/gguf_file.h"
#include "oracle/config.h"

typedef enum {
    CVT_GGUF_SCALE,  /* w · factor of its row */
    CVT_GGUF_NEG_EXP /* A = -exp(A_log) */
} cvt_gguf_fold;

typedef struct {
    char name[CVT_GGUF_MAX_NAME + 1]; /* in GGUF; "" where the format has no place for it: zeros only */
    char hf[96];                      /* "" where Hugging Face has none: zeros are written */
    int rank;                         /* of the Hugging Face tensor */
    int64_t shape[3];
    int64_t rows, cols; /* shape[0], and the elements of one row */
    int n_dims;         /* in GGUF */
    int64_t dim[2];
    cvt_gguf_fold fold;
    int n_factors; /* rows below until[k] have factor[k] */
    int64_t until[5];
    double factor[5];
    bool matrix; /* in any type; the others must be f32 */
} cvt_gguf_entry;

typedef struct {
    cvt_gguf_entry *at; /* n, in the order of the file; freed by the caller */
    int64_t n;
} cvt_gguf_map;

/* A tied model has its embedding twice: as token_embd and, with the other multiplier, as output. */
fh1_status cvt_gguf_map_new(const fh1_config *c, cvt_gguf_map *out);

/* Rows [first, first + n), in place, in f64. */
void cvt_gguf_fold_rows(const cvt_gguf_entry *e, int64_t first, int64_t n, double *v);
void cvt_gguf_unfold_rows(const cvt_gguf_entry *e, int64_t first, int64_t n, double *v);
bool cvt_gguf_factor_is_one(const cvt_gguf_entry *e);

/* ggml's q8_0: blocks of 32 values, an f16 scale and 32 bytes. n is a multiple of 32. */
void cvt_gguf_q8_0_encode(const float *v, int64_t n, unsigned char *out);
void cvt_gguf_q8_0_decode(const unsigned char *in, int64_t n, double *v);
