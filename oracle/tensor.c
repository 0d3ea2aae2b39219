#include "oracle/tensor.h"

#include "oracle/round.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* digits: mantissa bits after the point, e_min: exponent of the smallest normal; 0 for non-floats. */
static const struct {
    const char *name;
    int bits, digits, e_min;
} types[FH1_DTYPE_COUNT] = {
    [FH1_F64] = {"F64", 64, 52, -1022},
    [FH1_F32] = {"F32", 32, 23, -126},
    [FH1_BF16] = {"BF16", 16, 7, -126},
    [FH1_F16] = {"F16", 16, 10, -14},
    [FH1_I64] = {"I64", 64, 0, 0},
    [FH1_I32] = {"I32", 32, 0, 0},
    [FH1_U8] = {"U8", 8, 0, 0},
    [FH1_BOOL] = {"BOOL", 8, 0, 0},
    [FH1_I8] = {"I8", 8, 0, 0},
    [FH1_I16] = {"I16", 16, 0, 0},
    [FH1_U16] = {"U16", 16, 0, 0},
    [FH1_U32] = {"U32", 32, 0, 0},
    [FH1_U64] = {"U64", 64, 0, 0},
    [FH1_C64] = {"C64", 64, 0, 0},
    [FH1_F8_E5M2] = {"F8_E5M2", 8, 0, 0},
    [FH1_F8_E4M3] = {"F8_E4M3", 8, 0, 0},
    [FH1_F8_E8M0] = {"F8_E8M0", 8, 0, 0},
    [FH1_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8, 0, 0},
    [FH1_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8, 0, 0},
    [FH1_F6_E2M3] = {"F6_E2M3", 6, 0, 0},
    [FH1_F6_E3M2] = {"F6_E3M2", 6, 0, 0},
    [FH1_F4] = {"F4", 4, 0, 0},
    [FH1_C128] = {"C128", 128, 0, 0},
};

const char *fh1_dtype_name(fh1_dtype t)
{
    return (unsigned)t < FH1_DTYPE_COUNT ? types[t].name : "?";
}

bool fh1_dtype_parse(const char *name, fh1_dtype *out)
{
    for (int t = 0; t < FH1_FILE_DTYPES; t++) {
        if (strcmp(name, types[t].name) == 0) {
            *out = (fh1_dtype)t;
            return true;
        }
    }
    return false;
}

int fh1_dtype_bits(fh1_dtype t)
{
    assert((unsigned)t < FH1_DTYPE_COUNT);
    return types[t].bits;
}

bool fh1_dtype_is_float(fh1_dtype t)
{
    return (unsigned)t < FH1_DTYPE_COUNT && types[t].digits > 0;
}

double fh1_dtype_ulp(fh1_dtype t, double v)
{
    assert(fh1_dtype_is_float(t));
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    const int e_v = (int)(bits >> 52 & 0x7ff) - 1023; /* the exponent of |v|; -1023: zero or below the normal range */
    if (e_v == 1024) return (double)NAN;
    const int e = (e_v > types[t].e_min ? e_v : types[t].e_min) - types[t].digits;
    if (e < -1022) return ldexp(1.0, e); /* only F64 */
    bits = (uint64_t)(e + 1023) << 52;
    memcpy(&v, &bits, sizeof v);
    return v;
}

bool fh1_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    assert(a >= 0 && b >= 0);
    return !__builtin_mul_overflow(a, b, out);
}

/* Products of shapes that no memory could hold stay at INT64_MAX instead of wrapping. */
static int64_t mul_saturated(int64_t a, int64_t b)
{
    int64_t p;
    return fh1_mul_i64(a, b, &p) ? p : INT64_MAX;
}

fh1_tensor fh1_view(void *data, fh1_dtype dtype, int rank, const int64_t *shape)
{
    assert(rank >= 0 && rank <= FH1_MAX_RANK);
    fh1_tensor t = {.data = data, .dtype = dtype, .rank = rank};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        assert(shape[i] >= 0);
        t.shape[i] = shape[i];
        t.stride[i] = stride;
        stride = mul_saturated(stride, shape[i]);
    }
    return t;
}

fh1_tensor fh1_view1(void *data, fh1_dtype dtype, int64_t n0)
{
    return fh1_view(data, dtype, 1, (const int64_t[]){n0});
}

fh1_tensor fh1_view2(void *data, fh1_dtype dtype, int64_t n0, int64_t n1)
{
    return fh1_view(data, dtype, 2, (const int64_t[]){n0, n1});
}

fh1_tensor fh1_view3(void *data, fh1_dtype dtype, int64_t n0, int64_t n1, int64_t n2)
{
    return fh1_view(data, dtype, 3, (const int64_t[]){n0, n1, n2});
}

fh1_tensor fh1_view4(void *data, fh1_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3)
{
    return fh1_view(data, dtype, 4, (const int64_t[]){n0, n1, n2, n3});
}

int64_t fh1_n_elems(const fh1_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] == 0) return 0;
        n = mul_saturated(n, t->shape[i]);
    }
    return n;
}

size_t fh1_n_bytes(const fh1_tensor *t)
{
    size_t n = (size_t)fh1_n_elems(t), bits = (size_t)types[t->dtype].bits;
    /* Types below a byte are packed without gaps; n is split so that n·bits cannot overflow first. */
    size_t whole;
    if (__builtin_mul_overflow(n / 8, bits, &whole)) return SIZE_MAX;
    return whole + (n % 8 * bits + 7) / 8;
}

bool fh1_is_dense(const fh1_tensor *t)
{
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] == 0) return true;
        if (t->shape[i] != 1 && t->stride[i] != stride) return false;
        stride = mul_saturated(stride, t->shape[i]);
    }
    return true;
}

bool fh1_same_shape(const fh1_tensor *a, const fh1_tensor *b)
{
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

fh1_tensor fh1_permute(const fh1_tensor *t, const int *order)
{
    fh1_tensor p = *t;
    unsigned seen = 0;
    for (int i = 0; i < t->rank; i++) {
        assert(order[i] >= 0 && order[i] < t->rank && !(seen >> order[i] & 1u));
        seen |= 1u << order[i];
        p.shape[i] = t->shape[order[i]];
        p.stride[i] = t->stride[order[i]];
    }
    return p;
}

/* Where the element with this row-major ordinal lies. */
static unsigned char *locate(const fh1_tensor *t, int64_t ordinal)
{
    assert(t->data && ordinal >= 0 && ordinal < fh1_n_elems(t));
    int64_t offset = ordinal;
    if (!fh1_is_dense(t)) {
        offset = 0;
        for (int i = t->rank - 1; i >= 0; i--) {
            offset += ordinal % t->shape[i] * t->stride[i];
            ordinal /= t->shape[i];
        }
    }
    assert(types[t->dtype].bits % 8 == 0);
    return (unsigned char *)t->data + offset * (types[t->dtype].bits / 8);
}

/* memcpy because tensors of foreign files start at any byte. */
#define LOAD(type, p)                        \
    __extension__({                          \
        type load_v_;                        \
        memcpy(&load_v_, p, sizeof load_v_); \
        load_v_;                             \
    })

static double load_f64(const unsigned char *p, fh1_dtype t)
{
    switch (t) {
    case FH1_F64: return LOAD(double, p);
    case FH1_F32: return (double)LOAD(float, p);
    case FH1_BF16: return (double)fh1_bf16_to_f32(LOAD(uint16_t, p));
    case FH1_F16: return (double)fh1_f16_to_f32(LOAD(uint16_t, p));
    case FH1_I64: return (double)LOAD(int64_t, p);
    case FH1_U64: return (double)LOAD(uint64_t, p);
    case FH1_I32: return LOAD(int32_t, p);
    case FH1_U32: return LOAD(uint32_t, p);
    case FH1_I16: return LOAD(int16_t, p);
    case FH1_U16: return LOAD(uint16_t, p);
    case FH1_I8: return LOAD(int8_t, p);
    case FH1_U8: return *p;
    case FH1_BOOL: return *p != 0;
    default: break;
    }
    assert(false && "a type without a value of its own");
    return (double)NAN;
}

double fh1_get(const fh1_tensor *t, int64_t ordinal)
{
    return load_f64(locate(t, ordinal), t->dtype);
}

int64_t fh1_get_i64(const fh1_tensor *t, int64_t ordinal)
{
    const unsigned char *p = locate(t, ordinal);
    assert(!fh1_dtype_is_float(t->dtype));
    if (t->dtype == FH1_I64) return LOAD(int64_t, p);
    if (t->dtype == FH1_U64) return (int64_t)LOAD(uint64_t, p);
    return (int64_t)load_f64(p, t->dtype); /* at most 32 bits: exact */
}

/* v rounded and held in [lo, hi]; the bounds are exact in f64 for every type up to 32 bits. */
static double to_integer(double v, double lo, double hi)
{
    if (isnan(v)) return 0;
    v = nearbyint(v); /* default rounding mode: ties to even */
    return v < lo ? lo : v > hi ? hi : v;
}

#define STORE(type, p, value)                  \
    do {                                       \
        type store_v_ = (type)(value);         \
        memcpy(p, &store_v_, sizeof store_v_); \
    } while (0)

static void store_f64(unsigned char *p, fh1_dtype t, double v)
{
    switch (t) {
    case FH1_F64: STORE(double, p, v); return;
    case FH1_F32: STORE(float, p, v); return;
    case FH1_BF16: STORE(uint16_t, p, fh1_f64_to_bf16(v)); return;
    case FH1_F16: STORE(uint16_t, p, fh1_f64_to_f16(v)); return;
    case FH1_I64: /* 2^63 itself is no I64; the f64 below it is */
        v = to_integer(v, -0x1p63, 0x1p63);
        STORE(int64_t, p, v >= 0x1p63 ? INT64_MAX : (int64_t)v);
        return;
    case FH1_U64:
        v = to_integer(v, 0, 0x1p64);
        STORE(uint64_t, p, v >= 0x1p64 ? UINT64_MAX : (uint64_t)v);
        return;
    case FH1_I32: STORE(int32_t, p, to_integer(v, INT32_MIN, INT32_MAX)); return;
    case FH1_U32: STORE(uint32_t, p, to_integer(v, 0, UINT32_MAX)); return;
    case FH1_I16: STORE(int16_t, p, to_integer(v, INT16_MIN, INT16_MAX)); return;
    case FH1_U16: STORE(uint16_t, p, to_integer(v, 0, UINT16_MAX)); return;
    case FH1_I8: STORE(int8_t, p, to_integer(v, INT8_MIN, INT8_MAX)); return;
    case FH1_U8: STORE(uint8_t, p, to_integer(v, 0, UINT8_MAX)); return;
    case FH1_BOOL: STORE(uint8_t, p, v != 0 && !isnan(v)); return;
    default: break;
    }
    assert(false && "a type without a value of its own");
}

void fh1_set(const fh1_tensor *t, int64_t ordinal, double v)
{
    store_f64(locate(t, ordinal), t->dtype, v);
}

/* One run along the last axis; equal types keep every bit, a NaN's payload included. */
static void copy_run(unsigned char *d, int64_t d_step, fh1_dtype d_type, const unsigned char *s, int64_t s_step,
                     fh1_dtype s_type, int64_t n)
{
    size_t d_size = (size_t)types[d_type].bits / 8, s_size = (size_t)types[s_type].bits / 8;
    int64_t d_bytes = d_step * (int64_t)d_size, s_bytes = s_step * (int64_t)s_size;
    if (d_type == s_type && d_step == 1 && s_step == 1) {
        memcpy(d, s, (size_t)n * d_size);
        return;
    }
    for (int64_t i = 0; i < n; i++, d += d_bytes, s += s_bytes) {
        if (d_type == s_type) memcpy(d, s, d_size);
        else store_f64(d, d_type, load_f64(s, s_type));
    }
}

void fh1_copy(const fh1_tensor *dst, const fh1_tensor *src)
{
    assert(fh1_same_shape(dst, src));
    assert(dst->dtype == src->dtype || (fh1_dtype_is_float(dst->dtype) && fh1_dtype_is_float(src->dtype)));
    assert(types[dst->dtype].bits % 8 == 0);
    int64_t n = fh1_n_elems(dst);
    if (n == 0) return;
    int last = dst->rank - 1;
    int64_t run = n, d_step = 1, s_step = 1;
    if (!fh1_is_dense(dst) || !fh1_is_dense(src)) { /* so the rank is at least 1 */
        run = dst->shape[last];
        d_step = dst->stride[last];
        s_step = src->stride[last];
    }
    for (int64_t i = 0; i < n; i += run)
        copy_run(locate(dst, i), d_step, dst->dtype, locate(src, i), s_step, src->dtype, run);
}

const char *fh1_shape_text(const fh1_tensor *t, char *buf, size_t size)
{
    size_t at = 0;
    if (size == 0) return buf;
    buf[0] = 0;
    for (int i = 0; i <= t->rank && at < size; i++) {
        int n;
        if (i == t->rank) n = snprintf(buf + at, size - at, "%s]", t->rank ? "" : "[");
        else n = snprintf(buf + at, size - at, "%s%lld", i ? ", " : "[", (long long)t->shape[i]);
        at += (size_t)n;
    }
    return buf;
}
