/* The cast view: one rounding, nothing that becomes infinite. The planted faults: a rounding by way of f32, a value
 * that f16 does not hold. */
#include "convert/safetensors.h"
#include "tests/checkpoint_fixture.h"

#include <math.h>

static double to_double(fh1_dtype t, const void *p)
{
    double v;
    fh1_to_f64(&v, p, t, 1);
    return v;
}

START_TEST(a_cast_rounds_once)
{
    /* Halfway between two bf16 after a rounding to f32, below it before: two roundings would go up. */
    const double hard = 1.0 + 0x3p-8 - 0x1p-40;
    const double values[6] = {hard, -0.0, INFINITY, 65519.0, 0x1p-24, NAN};
    char dir[256];
    cvt_ckpt *c;
    write_text(scratch_new(dir, sizeof dir), "config.json", "{\"dtype\": \"float64\", \"torch_dtype\": null}");
    write_safetensors(dir, "model.safetensors",
                      "{\"i\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                      "\"x\":{\"dtype\":\"F64\",\"shape\":[2,3],\"data_offsets\":[4,52]}}",
                      (char[52]){0}, 52);
    char *file;
    size_t n;
    file = read_bytes(dir, "model.safetensors", &n);
    memcpy(file + n - 48, values, 48);
    write_bytes(dir, "model.safetensors", file, n);
    free(file);
    for (int k = 0; k < 3; k++) {
        const fh1_dtype to = (const fh1_dtype[]){FH1_BF16, FH1_F16, FH1_F32}[k];
        const size_t width = (size_t)fh1_dtype_bits(to) / 8;
        unsigned char got[24];
        expect_ok(cvt_ckpt_cast(open_fixture(dir), to, &c), "cast");
        int64_t x = cvt_ckpt_find(c, "x");
        ck_assert_int_eq(c->tensors[x].dtype, to);
        ck_assert_int_eq(c->tensors[cvt_ckpt_find(c, "i")].dtype, FH1_I32);
        expect_ok(cvt_ckpt_read_rows(c, x, 0, 2, got), "x");
        for (int i = 0; i < 6; i++) {
            double v = to_double(to, got + (size_t)i * width);
            if (isnan(values[i])) ck_assert(isnan(v));
            else
                ck_assert_msg(v == values[i] || fabs(v - values[i]) <= fh1_dtype_ulp(to, values[i]) / 2, "%d: %g", i,
                              v);
            ck_assert_int_eq(signbit(v) != 0 && !isnan(v), i == 1);
        }
        if (to == FH1_BF16) {
            ck_assert(to_double(to, got) == 1.0 + 0x1p-7);
            float twice = (float)hard; /* the planted fault: by way of f32 */
            unsigned char wrong[2];
            fh1_from_f32(wrong, FH1_BF16, &twice, 1);
            ck_assert(to_double(FH1_BF16, wrong) == 1.0 + 0x1p-6);
        }
        expect_ok(cvt_ckpt_lay_out(c), "layout");
        cvt_st *st;
        const cvt_ckpt_file *f = &c->files[cvt_ckpt_find_file(c, "model.safetensors")];
        expect_ok(cvt_st_parse_header(f->header, f->header_bytes, f->bytes, "header", &st), "header");
        ck_assert_int_eq(cvt_st_find(st, "x")->t.dtype, to);
        ck_assert_uint_eq(cvt_st_find(st, "x")->begin, c->tensors[x].begin);
        cvt_st_close(st);
        cvt_ckpt_close(c);
    }
    expect_ok(cvt_ckpt_cast(open_fixture(dir), FH1_BF16, &c), "cast");
    expect_file(c, "config.json", "{\"dtype\": \"bfloat16\", \"torch_dtype\": \"bfloat16\"}");
    cvt_ckpt_close(c);
    expect_error(cvt_ckpt_cast(open_fixture(dir), FH1_U8, &c), FH1_E_INPUT, "cannot have this type", "to U8");
    scratch_remove(dir);
}
END_TEST

START_TEST(a_cast_that_overflows_is_refused)
{
    const float values[2] = {65519.9f, 65520.0f}; /* the first rounds down to the largest f16, the second does not */
    char dir[256], got[4];
    cvt_ckpt *c;
    write_text(scratch_new(dir, sizeof dir), "config.json", "{}");
    write_safetensors(dir, "model.safetensors", "{\"big\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
                      values, 8);
    expect_ok(cvt_ckpt_cast(open_fixture(dir), FH1_F16, &c), "cast");
    expect_ok(cvt_ckpt_read_rows(c, 0, 0, 1, got), "the largest");
    expect_error(cvt_ckpt_read_rows(c, 0, 1, 1, got), FH1_E_INPUT, "\"big\"", "one above");
    expect_file(c, "config.json", "{\n  \"dtype\": \"float16\"\n}");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_cast_rounds_once, a_cast_that_overflows_is_refused};
    return run_tests("cast", tests, sizeof tests / sizeof *tests);
}
