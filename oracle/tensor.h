/* Strided tensor views: a pointer, a type, a shape and strides. Copying is a visible call. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

#define FH1_MAX_RANK 8

/* The first eight are the types that fh1 computes with; the rest are recognised in files (names
 * and widths of safetensors 0.8) so that a message can name what was found. */
typedef enum {
    FH1_F64,
    FH1_F32,
    FH1_BF16,
    FH1_F16,
    FH1_I64,
    FH1_I32,
    FH1_U8,
    FH1_BOOL,
    FH1_I8,
    FH1_I16,
    FH1_U16,
    FH1_U32,
    FH1_U64,
    FH1_C64,
    FH1_F8_E5M2,
    FH1_F8_E4M3,
    FH1_F8_E8M0,
    FH1_F8_E5M2FNUZ,
    FH1_F8_E4M3FNUZ,
    FH1_F6_E2M3,
    FH1_F6_E3M2,
    FH1_F4,
    FH1_FILE_DTYPES,            /* those before stand in files */
    FH1_C128 = FH1_FILE_DTYPES, /* two f64, real and imaginary: the numbers of the complex step (reference/complex.h);
                                   in memory only */
    FH1_DTYPE_COUNT
} fh1_dtype;

const char *fh1_dtype_name(fh1_dtype t);                /* safetensors spelling: "BF16" */
bool fh1_dtype_parse(const char *name, fh1_dtype *out); /* false when unknown */
int fh1_dtype_bits(fh1_dtype t);                        /* 4, 6, 8, 16, 32, 64 or 128 */
bool fh1_dtype_is_float(fh1_dtype t);                   /* F64, F32, BF16, F16 */
double fh1_dtype_ulp(fh1_dtype t, double v);            /* spacing of t at |v|, floats only;
                                                           the smallest subnormal at 0 */

typedef struct {
    void *data; /* may be NULL for an absent tensor; never owned by the view */
    fh1_dtype dtype;
    int rank;
    int64_t shape[FH1_MAX_RANK];
    int64_t stride[FH1_MAX_RANK]; /* in elements, row-major when dense */
} fh1_tensor;

/* A dense row-major view. `shape` has `rank` entries. */
fh1_tensor fh1_view(void *data, fh1_dtype dtype, int rank, const int64_t *shape);
fh1_tensor fh1_view1(void *data, fh1_dtype dtype, int64_t n0);
fh1_tensor fh1_view2(void *data, fh1_dtype dtype, int64_t n0, int64_t n1);
fh1_tensor fh1_view3(void *data, fh1_dtype dtype, int64_t n0, int64_t n1, int64_t n2);
fh1_tensor fh1_view4(void *data, fh1_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3);

int64_t fh1_n_elems(const fh1_tensor *t);
size_t fh1_n_bytes(const fh1_tensor *t); /* of the dense tensor */
bool fh1_is_dense(const fh1_tensor *t);
bool fh1_same_shape(const fh1_tensor *a, const fh1_tensor *b);
fh1_tensor fh1_permute(const fh1_tensor *t, const int *order); /* view with axes reordered */

/* One element by its row-major ordinal, as f64 (exact for every type but I64/U64 above 2^53).
 * Data needs no alignment. C64, C128 and the types below 16 bits that are no integers have no value:
 * asking for one is a mistake of the program. */
double fh1_get(const fh1_tensor *t, int64_t ordinal);
int64_t fh1_get_i64(const fh1_tensor *t, int64_t ordinal); /* integer types and BOOL; U64 wraps */
/* Rounds to nearest even; integers saturate and take NaN as 0, BOOL is v != 0. */
void fh1_set(const fh1_tensor *t, int64_t ordinal, double v);

/* dst = src, element by element, rounding to dst's type (nearest even). Same shape, any strides,
 * float types (or any two equal types), buffers that do not overlap. */
void fh1_copy(const fh1_tensor *dst, const fh1_tensor *src);

/* Dense bulk conversions between float types; n elements. */
void fh1_to_f64(double *dst, const void *src, fh1_dtype t, int64_t n);
void fh1_to_f32(float *dst, const void *src, fh1_dtype t, int64_t n); /* rounds F64 */
void fh1_from_f64(void *dst, fh1_dtype t, const double *src, int64_t n);
void fh1_from_f32(void *dst, fh1_dtype t, const float *src, int64_t n);

/* "[3, 37, 64]" into buf; returns buf. */
const char *fh1_shape_text(const fh1_tensor *t, char *buf, size_t size);

/* a·b without overflow; false when it would exceed INT64_MAX (a, b >= 0). */
bool fh1_mul_i64(int64_t a, int64_t b, int64_t *out);
