/* embed: a copy of table rows, widened exactly. The witness reads the stored bits by the definition of the
 * format (sign, exponent, fraction) and never meets the library's conversions. */
#include "tests/witness.h"

enum { V = 11, D = 37, M = 14 };

/* The value of `bits` in a format of e exponent and f fraction bits. */
static double decode(uint64_t bits, int e, int f)
{
    const int64_t exponent = (int64_t)(bits >> f & ((1ull << e) - 1)), bias = (1 << (e - 1)) - 1;
    const uint64_t fraction = bits & ((1ull << f) - 1);
    const wide m = exponent ? (wide)fraction + ldexpl(1, f) : (wide)fraction;
    const double v =
        exponent == 2 * bias + 1 ? (double)INFINITY : (double)ldexpl(m, (int)((exponent ? exponent : 1) - bias - f));
    return bits >> (e + f) & 1 ? -v : v;
}

static const struct {
    fh1_dtype t;
    int e, f;
} format[] = {{FH1_BF16, 8, 7}, {FH1_F16, 5, 10}, {FH1_F32, 8, 23}, {FH1_F64, 11, 52}};

/* Random bits; NaN become infinities, so that every element has a value to compare. The first elements are
 * both zeros, both infinities, the smallest subnormal and the largest number. */
static uint64_t stored_bits(int k, int64_t i)
{
    const int e = format[k].e, f = format[k].f;
    const uint64_t exponents = ((1ull << e) - 1) << f, sign = 1ull << (e + f);
    const uint64_t first[] = {0, sign, exponents, exponents | sign, 1, exponents - 1, 1 | sign};
    if (i < 7) return first[i];
    uint64_t b = fh1_random_u64(fh1_stream_open(3, "table"), (uint64_t)i) & (sign | (sign - 1));
    return (b & exponents) == exponents ? b & (sign | exponents) : b;
}

static fh1_tensor table(int k)
{
    const int bytes = fh1_dtype_bits(format[k].t) / 8;
    char *data = w_bytes((int64_t)V * D * bytes);
    for (int64_t i = 0; i < V * D; ++i) {
        uint64_t b = stored_bits(k, i);
        memcpy(data + i * bytes, &b, (size_t)bytes); /* little-endian, as every stored format here */
    }
    return fh1_view2(data, format[k].t, V, D);
}

static const int64_t ids[M] = {0, 10, 3, 3, 0, 7, 1, 2, 4, 5, 6, 8, 9, 10};

static double *witness(const fh1_engine *e, int k, int64_t row_shift, int64_t stride)
{
    double *y = w_new(M * D);
    for (int64_t m = 0; m < M; ++m)
        for (int64_t i = 0; i < D; ++i) {
            double v =
                decode(stored_bits(k, ((ids[m] + row_shift) % V * stride + i) % (V * D)), format[k].e, format[k].f);
            y[m * D + i] = e->dtype == FH1_F32 ? (double)(float)v : v;
        }
    return y;
}

static double *run(fh1_engine *e, const fh1_tensor *t, int64_t m)
{
    void *y = w_out(e, m * D);
    w_fine(e->ops->embed(e, m, ids, t, y));
    return w_from(e, y, m * D);
}

START_TEST(rows_of_every_stored_type_are_exact)
{
    for (int k = 0; k < 4; ++k) {
        fh1_tensor t = table(k);
        for (int p = 0; p < 3; ++p) {
            fh1_engine *e = p == 0 ? w_f64 : p == 1 ? w_f32 : w_bf16;
            const double *y = run(e, &t, M);
            w_exact(e, fh1_dtype_name(format[k].t), M * D, y, witness(e, k, 0, D));
            w_rejects(e, "next row", M * D, y, witness(e, k, 1, D), NULL);
            w_rejects(e, "row stride one too small", M * D, y, witness(e, k, 0, D - 1), NULL);
        }
    }
}
END_TEST

START_TEST(one_token_and_none)
{
    fh1_tensor t = table(0);
    w_exact(w_f64, "one token", D, run(w_f64, &t, 1), witness(w_f64, 0, 0, D));
    run(w_f64, &t, 0); /* the arena sees a write */
}
END_TEST

/* The same 16 bits mean another number in the other short format. */
START_TEST(bf16_is_not_f16)
{
    fh1_tensor t = table(0);
    t.dtype = FH1_F16;
    w_rejects(w_f64, "bf16 read as f16", M * D, run(w_f64, &t, M), witness(w_f64, 0, 0, D), NULL);
}
END_TEST

int main(void)
{
    const w_test tests[] = {rows_of_every_stored_type_are_exact, one_token_and_none, bf16_is_not_f16, NULL};
    return w_main("embed", tests);
}
