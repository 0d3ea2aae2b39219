/* Views, single elements and bulk conversion. Elementwise access is checked against the types of C,
 * bulk conversion against elementwise access, copies against index arithmetic written out here. */
#include "oracle/random.h"
#include "oracle/round.h"
#include "oracle/tensor.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const fh1_dtype floats[] = {FH1_F64, FH1_F32, FH1_BF16, FH1_F16};

START_TEST(types_have_names_and_widths)
{
    fh1_dtype t;
    int bits = 0;
    for (int i = 0; i < FH1_DTYPE_COUNT; i++) {
        const bool in_files = i != FH1_C128; /* in memory only */
        ck_assert(fh1_dtype_parse(fh1_dtype_name((fh1_dtype)i), &t) == in_files);
        ck_assert(t == (fh1_dtype)i || !in_files);
        ck_assert_int_eq(fh1_dtype_is_float((fh1_dtype)i), i < 4);
        bits += fh1_dtype_bits((fh1_dtype)i);
    }
    ck_assert_int_eq(bits, 128 + 4 * 64 + 3 * 32 + 4 * 16 + 8 * 8 + 2 * 6 + 4);
    ck_assert(!fh1_dtype_parse("bf16", &t) && !fh1_dtype_parse("", &t) && !fh1_dtype_parse("BF160", &t));
    ck_assert_str_eq(fh1_dtype_name(FH1_F8_E4M3FNUZ), "F8_E4M3FNUZ");
    ck_assert_str_eq(fh1_dtype_name(FH1_DTYPE_COUNT), "?");
}
END_TEST

START_TEST(ulp_is_the_distance_to_the_next_value)
{
    long wrong = 0, off = 0;
    for (uint16_t h = 0; h < 0x7f7f; h++) {
        double lo = (double)fh1_bf16_to_f32(h), hi = (double)fh1_bf16_to_f32((uint16_t)(h + 1));
        wrong += fh1_dtype_ulp(FH1_BF16, lo) != hi - lo || fh1_dtype_ulp(FH1_BF16, -(lo + hi) / 2) != hi - lo;
        off += fh1_dtype_ulp(FH1_F16, lo) != hi - lo; /* planted: another type */
    }
    for (uint16_t h = 0; h < 0x7bff; h++) {
        double lo = (double)fh1_f16_to_f32(h), hi = (double)fh1_f16_to_f32((uint16_t)(h + 1));
        wrong += fh1_dtype_ulp(FH1_F16, lo) != hi - lo || fh1_dtype_ulp(FH1_F16, -(lo + hi) / 2) != hi - lo;
    }
    fh1_stream s = fh1_stream_open(1, "ulp");
    for (uint64_t i = 0; i < 10000; i++) {
        float f = fabsf(fh1_bits_f32((uint32_t)fh1_random_u64(s, i)));
        double d = ldexp(fh1_random_uniform(s, i), (int)fh1_random_below(s, i, 2000) - 1070);
        if (f < 0x1p127f) wrong += fh1_dtype_ulp(FH1_F32, (double)f) != (double)(nextafterf(f, INFINITY) - f);
        wrong += fh1_dtype_ulp(FH1_F64, d) != nextafter(d, (double)INFINITY) - d;
    }
    ck_assert_int_eq(wrong, 0);
    ck_assert_int_gt(off, 30000);
    for (int i = 0; i < 4; i++) {
        ck_assert(isnan(fh1_dtype_ulp(floats[i], (double)INFINITY)));
        ck_assert(isnan(fh1_dtype_ulp(floats[i], (double)NAN)));
    }
    ck_assert(fh1_dtype_ulp(FH1_BF16, 1.5) == 0x1p-7 && fh1_dtype_ulp(FH1_BF16, 0) == 0x1p-133);
    ck_assert(fh1_dtype_ulp(FH1_F64, 0) == 0x1p-1074);
}
END_TEST

/* Writes v, reads it back; the element lies at an odd address between guards. */
static double through(fh1_dtype t, double v)
{
    unsigned char raw[32];
    memset(raw, 0xa5, sizeof raw);
    fh1_tensor x = fh1_view1(raw + 1, t, 3);
    fh1_set(&x, 1, v);
    size_t size = (size_t)fh1_dtype_bits(t) / 8;
    for (size_t i = 0; i < sizeof raw; i++)
        if (i < 1 + size || i >= 1 + 2 * size) ck_assert_uint_eq(raw[i], 0xa5);
    return fh1_get(&x, 1);
}

START_TEST(elements_round_and_saturate)
{
    static const struct {
        fh1_dtype t;
        double in, out;
    } cases[] = {
        {FH1_F64, 0.1, 0.1},
        {FH1_F32, 0.1, (double)0.1f},
        {FH1_BF16, 1 + 0x1p-8, 1},
        {FH1_BF16, 1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-7}, /* by way of f32 this would be 1 */
        {FH1_F16, 65519, 65504},
        {FH1_F16, 65520, HUGE_VAL},
        {FH1_I64, -0x1p63, -0x1p63},
        {FH1_I64, 1e300, 0x1p63},
        {FH1_U64, 1e300, 0x1p64},
        {FH1_U64, -1, 0},
        {FH1_I32, 2.5, 2},
        {FH1_I32, 3.5, 4},
        {FH1_I32, 1e10, 2147483647.0},
        {FH1_U32, 4294967295.0, 4294967295.0},
        {FH1_U32, -0.4, 0},
        {FH1_I16, -40000, -32768},
        {FH1_U16, 65535, 65535},
        {FH1_I8, -128.4, -128},
        {FH1_U8, 255.6, 255},
        {FH1_BOOL, -0.1, 1},
        {FH1_BOOL, 0, 0},
        {FH1_I32, (double)NAN, 0},
        {FH1_BOOL, (double)NAN, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        ck_assert_msg(through(cases[i].t, cases[i].in) == cases[i].out, "case %zu", i);
    ck_assert(isnan(through(FH1_BF16, (double)NAN)));
    ck_assert(signbit(through(FH1_F16, -0.0)));
}
END_TEST

START_TEST(integers_are_exact)
{
    int64_t v[] = {INT64_MIN, INT64_MAX, (1LL << 53) + 1, -1};
    fh1_tensor t = fh1_view1(v, FH1_I64, 4);
    for (int i = 0; i < 4; i++) ck_assert(fh1_get_i64(&t, i) == v[i]);
    ck_assert((int64_t)fh1_get(&t, 2) != v[2]); /* planted: what an f64 on the way would do */
    t.dtype = FH1_U64;
    ck_assert(fh1_get_i64(&t, 3) == -1 && fh1_get(&t, 3) == 0x1p64);
    uint8_t b[] = {0, 1, 7, 255};
    fh1_tensor u = fh1_view1(b, FH1_U8, 4), o = fh1_view1(b, FH1_BOOL, 4), i = fh1_view1(b, FH1_I8, 4);
    ck_assert(fh1_get_i64(&u, 3) == 255 && fh1_get_i64(&o, 3) == 1 && fh1_get_i64(&i, 3) == -1);
}
END_TEST

START_TEST(views_count_elements)
{
    fh1_tensor t = fh1_view3(NULL, FH1_BF16, 3, 37, 64);
    char text[64];
    ck_assert_int_eq(fh1_n_elems(&t), 3 * 37 * 64);
    ck_assert_uint_eq(fh1_n_bytes(&t), 2 * 3 * 37 * 64);
    ck_assert_str_eq(fh1_shape_text(&t, text, sizeof text), "[3, 37, 64]");
    ck_assert_str_eq(fh1_shape_text(&t, text, 6), "[3, 3");
    t = fh1_view(NULL, FH1_F64, 0, NULL);
    ck_assert_int_eq(fh1_n_elems(&t), 1);
    ck_assert_str_eq(fh1_shape_text(&t, text, sizeof text), "[]");
    t = fh1_view1(NULL, FH1_F6_E2M3, 9);
    ck_assert_uint_eq(fh1_n_bytes(&t), 7); /* 54 bits */
    t = fh1_view4(NULL, FH1_F64, INT64_MAX, INT64_MAX, 3, 0);
    ck_assert_int_eq(fh1_n_elems(&t), 0);
    t = fh1_view2(NULL, FH1_F64, INT64_MAX, 3);
    ck_assert(fh1_n_elems(&t) == INT64_MAX && fh1_n_bytes(&t) == SIZE_MAX);
    int64_t p;
    ck_assert(fh1_mul_i64(3037000499, 3037000499, &p) && p == 9223372030926249001);
    ck_assert(!fh1_mul_i64(3037000500, 3037000500, &p));
    ck_assert(fh1_mul_i64(0, INT64_MAX, &p) && p == 0);
}
END_TEST

START_TEST(permuted_views_read_the_right_element)
{
    float data[2 * 3 * 4];
    for (int i = 0; i < 24; i++) data[i] = (float)i;
    fh1_tensor t = fh1_view3(data, FH1_F32, 2, 3, 4);
    fh1_tensor p = fh1_permute(&t, (const int[]){2, 0, 1});
    ck_assert(fh1_is_dense(&t) && !fh1_is_dense(&p));
    ck_assert(p.shape[0] == 4 && p.shape[1] == 2 && p.shape[2] == 3);
    int same = 0, ordinal = 0;
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 3; j++, ordinal++) {
                ck_assert(fh1_get(&p, ordinal) == 12 * i + 4 * j + k);
                same += fh1_get(&p, ordinal) == fh1_get(&t, ordinal);
            }
    ck_assert_int_lt(same, 6); /* planted: ignoring the strides */
    fh1_set(&p, 1, 99);
    ck_assert(data[4] == 99);
    fh1_tensor one = fh1_view3(data, FH1_F32, 1, 24, 1);
    one.stride[0] = 7; /* the stride of an axis of one means nothing */
    ck_assert(fh1_is_dense(&one));
    ck_assert(fh1_same_shape(&t, &t) && !fh1_same_shape(&t, &p) && !fh1_same_shape(&t, &one));
}
END_TEST

START_TEST(copies_follow_strides_and_types)
{
    double src[60];
    uint16_t dst[60];
    for (int i = 0; i < 60; i++) src[i] = i + 0x1p-9;
    fh1_tensor s = fh1_view3(src, FH1_F64, 3, 4, 5);
    fh1_tensor d = fh1_view3(dst, FH1_BF16, 5, 4, 3);
    fh1_tensor turned = fh1_permute(&d, (const int[]){2, 1, 0});
    fh1_copy(&turned, &s);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++)
            for (int k = 0; k < 5; k++)
                ck_assert_uint_eq(dst[12 * k + 3 * j + i], fh1_f64_to_bf16(src[20 * i + 5 * j + k]));

    fh1_tensor every_third = fh1_view1(src, FH1_F64, 20); /* one strided axis is all there is */
    every_third.stride[0] = 3;
    double out[20];
    fh1_tensor o = fh1_view1(out, FH1_F64, 20);
    fh1_copy(&o, &every_third);
    for (int i = 0; i < 20; i++) ck_assert(out[i] == src[3 * i]);
    fh1_tensor empty = fh1_view2(NULL, FH1_F32, 0, 4);
    fh1_copy(&empty, &empty);
    fh1_tensor a = fh1_view(out, FH1_F64, 0, NULL), b = fh1_view(src, FH1_F64, 0, NULL);
    fh1_copy(&a, &b);
    ck_assert(out[0] == src[0]);
}
END_TEST

START_TEST(equal_types_keep_every_bit)
{
    uint32_t in[4] = {0x7f812345u, 0x80000000u, 0xffc00001u, 1}, out[4];
    fh1_tensor s = fh1_view2(in, FH1_F32, 2, 2), d = fh1_view2(out, FH1_F32, 2, 2);
    fh1_tensor turned = fh1_permute(&d, (const int[]){1, 0});
    fh1_copy(&turned, &s);
    ck_assert(out[0] == in[0] && out[1] == in[2] && out[2] == in[1] && out[3] == in[3]);
    fh1_to_f32((float *)(void *)out, in, FH1_F32, 4);
    ck_assert_mem_eq(out, in, sizeof in);
}
END_TEST

/* Elements where a bulk conversion differs from the elementwise one: random values of many sizes with
 * ties, infinities and NaN among them, at an odd address, for lengths around every vector width. */
static long bulk_differences(fh1_dtype t, bool plant)
{
    enum { MOST = 70 };
    static double d[MOST], back[MOST];
    static float f[MOST];
    static unsigned char raw[8 * MOST + 1], raw2[8 * MOST + 1];
    size_t size = (size_t)fh1_dtype_bits(t) / 8;
    fh1_stream s = fh1_stream_open(7, fh1_dtype_name(t));
    fh1_tensor x = fh1_view1(raw + 1, t, MOST), y = fh1_view1(raw2 + 1, t, MOST);
    long wrong = 0;
    for (int64_t n = 0; n <= MOST; n++) {
        for (int64_t i = 0; i < n; i++) {
            uint64_t at = (uint64_t)(n * MOST + i);
            d[i] = ldexp(fh1_random_normal(s, at), (int)fh1_random_below(s, at, 60) - 30);
            if (i % 11 == 3) d[i] = 1 + 0x1p-8 + 0x1p-40; /* a tie, but for a bit that f32 would lose */
            if (i % 13 == 5) d[i] = i % 2 ? (double)NAN : -(double)INFINITY;
            fh1_set(&y, i, d[i]);
        }
        if (plant)
            for (int64_t i = 0; i < n; i++) d[i] = (double)(float)d[i];
        fh1_from_f64(raw + 1, t, d, n);
        wrong += memcmp(raw + 1, raw2 + 1, (size_t)n * size) != 0;
        fh1_to_f64(back, raw + 1, t, n);
        fh1_to_f32(f, raw + 1, t, n);
        for (int64_t i = 0; i < n; i++) {
            double v = fh1_get(&x, i);
            wrong += !(back[i] == v || (isnan(v) && isnan(back[i])));
            wrong += !(f[i] == (float)v || (isnan(v) && isnan(f[i])));
            fh1_set(&y, i, (double)f[i]);
        }
        fh1_from_f32(raw + 1, t, f, n);
        wrong += memcmp(raw + 1, raw2 + 1, (size_t)n * size) != 0;
    }
    return wrong;
}

START_TEST(bulk_conversion_is_elementwise_conversion)
{
    for (int i = 0; i < 4; i++) ck_assert_int_eq(bulk_differences(floats[i], false), 0);
    ck_assert_int_gt(bulk_differences(FH1_BF16, true), 50); /* planted: rounded twice */
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("tensor");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, types_have_names_and_widths);
    tcase_add_test(c, ulp_is_the_distance_to_the_next_value);
    tcase_add_test(c, elements_round_and_saturate);
    tcase_add_test(c, integers_are_exact);
    tcase_add_test(c, views_count_elements);
    tcase_add_test(c, permuted_views_read_the_right_element);
    tcase_add_test(c, copies_follow_strides_and_types);
    tcase_add_test(c, equal_types_keep_every_bit);
    tcase_add_test(c, bulk_conversion_is_elementwise_conversion);
    Suite *s = suite_create("tensor");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
