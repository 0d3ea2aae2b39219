/* Decoding of what the real bitsandbytes quantised (golden/hf/make_bnb.py): its own results by hash, and an
 * independent decoder element by element. */
#include "convert/hf_write.h"
#include "convert/model_open.h"
#include "tests/bnb_fixture.h"

#include <cjson/cJSON.h>

static cvt_ckpt *open_decoded(const char *dir, fh1_dtype dtype)
{
    cvt_ckpt *below, *c;
    expect_ok(cvt_ckpt_open(dir, &below), dir);
    bool quantised;
    expect_ok(cvt_bnb_is(below, &quantised), dir);
    ck_assert_msg(quantised, "%s", dir);
    expect_ok(cvt_ckpt_dequantise(below, dtype, &c), dir);
    return c;
}

static void *read_all(cvt_ckpt *c, int64_t t)
{
    size_t n = cvt_ckpt_tensor_bytes(&c->tensors[t]);
    void *data = malloc(n + 1);
    ck_assert_ptr_nonnull(data);
    expect_ok(cvt_ckpt_read(c, t, 0, n, data), c->tensors[t].name);
    return data;
}

/* "BF16 [27, 35] 0123456789abcdef" of a tensor. */
static void describe(cvt_ckpt *c, int64_t t, char *buf, size_t size)
{
    char shape[128];
    const cvt_ckpt_tensor *e = &c->tensors[t];
    fh1_tensor view = fh1_view(NULL, e->dtype, e->rank, e->shape);
    void *data = read_all(c, t);
    snprintf(buf, size, "%s %s %016llx", fh1_dtype_name(e->dtype), fh1_shape_text(&view, shape, sizeof shape),
             (unsigned long long)cvt_hash64(data, cvt_ckpt_tensor_bytes(e)));
    free(data);
}

/* Every tensor that the real library decoded, in every folder; the others are as they were. */
START_TEST(real_results)
{
    size_t n;
    int64_t checked = 0;
    char *text = read_bytes("golden/bnb", "decoded.json", &n), now[200];
    cJSON *json = cJSON_Parse(text);
    ck_assert_ptr_nonnull(json);
    for (const cJSON *dir = json->child; dir; dir = dir->next) {
        cvt_ckpt *c = open_decoded(dir->string, FH1_DTYPE_COUNT);
        bool quantised;
        expect_ok(cvt_bnb_is(c, &quantised), dir->string);
        ck_assert_msg(!quantised, "%s still looks quantised", dir->string);
        for (const cJSON *want = dir->child; want; want = want->next, checked++) {
            int64_t t = cvt_ckpt_find(c, want->string);
            ck_assert_msg(t >= 0, "%s has no %s", dir->string, want->string);
            describe(c, t, now, sizeof now);
            ck_assert_msg(strcmp(now, want->valuestring) == 0, "%s, %s: expected %s, found %s", dir->string,
                          want->string, want->valuestring, now);
        }
        cvt_ckpt_close(c);
    }
    ck_assert_int_eq(checked, 98);
    cJSON_Delete(json);
    free(text);
}
END_TEST

/* Elements of all weights of the mixed folder that differ from the independent decoder in this way. */
static int64_t differences(bnb_folder *f, cvt_ckpt *c, bnb_way way)
{
    int64_t n_bad = 0;
    for (int64_t t = 0; t < c->n_tensors; t++) {
        const cvt_ckpt_tensor *e = &c->tensors[t];
        bnb_tensor *raw = bnb_find(f, e->name), *state = bnb_part(f, e->name, ".quant_state.bitsandbytes__nf4");
        if (!state) state = bnb_part(f, e->name, ".quant_state.bitsandbytes__fp4");
        if (!state && raw->dtype != FH1_I8) continue;
        char *json = state ? strndup((const char *)state->data, state->n) : NULL;
        unsigned char *data = read_all(c, t), one[8];
        size_t size = (size_t)fh1_dtype_bits(e->dtype) / 8;
        for (int64_t i = 0; i < e->shape[0] * e->shape[1]; i++) {
            float v = bnb_element(f, e->name, json, e->shape[1], i, way);
            fh1_tensor to = fh1_view1(one, e->dtype, 1);
            fh1_set(&to, 0, (double)v);
            n_bad += memcmp(one, data + (size_t)i * size, size) != 0;
        }
        free(data);
        free(json);
    }
    return n_bad;
}

START_TEST(independent_decoder)
{
    static const char *const names[BNB_WAYS] = {"right",          "nibbles swapped", "offset dropped", "divided by 127",
                                                "blocks per row", "other table",     "scale rounded"};
    bnb_folder f = bnb_load(BNB_MIXED);
    cvt_ckpt *c = open_decoded(BNB_MIXED, FH1_DTYPE_COUNT);
    ck_assert_int_eq(differences(&f, c, BNB_RIGHT), 0);
    for (int way = BNB_RIGHT + 1; way < BNB_WAYS; way++)
        ck_assert_msg(differences(&f, c, (bnb_way)way) > 0, "%s was not seen", names[way]);
    cvt_ckpt_close(c);
    bnb_free(&f);
}
END_TEST

/* Rows on request are slices of the whole, wherever blocks and bytes begin. */
START_TEST(rows_are_slices)
{
    cvt_ckpt *c = open_decoded(BNB_MIXED, FH1_DTYPE_COUNT);
    for (int64_t t = 0; t < c->n_tensors; t++) {
        size_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
        int64_t rows = cvt_ckpt_rows(&c->tensors[t]);
        char *whole = read_all(c, t), *part = malloc((size_t)rows * width + 1);
        ck_assert_ptr_nonnull(part);
        for (int64_t first = 0; first < rows; first += 1 + first / 3)
            for (int64_t n = 1; first + n <= rows; n += 1 + n / 2) {
                expect_ok(cvt_ckpt_read_rows(c, t, first, n, part), c->tensors[t].name);
                ck_assert_mem_eq(part, whole + (size_t)first * width, (size_t)n * width);
            }
        free(part);
        free(whole);
    }
    cvt_ckpt_close(c);
}
END_TEST

/* Decoded in its own type, then rounded to the one that was asked for: two roundings where both are short. */
START_TEST(in_another_type)
{
    cvt_ckpt *own = open_decoded(BNB_MIXED, FH1_DTYPE_COUNT), *c = open_decoded(BNB_MIXED, FH1_BF16);
    cJSON *config;
    for (int64_t t = 0; t < c->n_tensors; t++) {
        const cvt_ckpt_tensor *e = &c->tensors[t];
        int64_t n = (int64_t)cvt_ckpt_tensor_bytes(e) / 2, from = cvt_ckpt_find(own, e->name);
        ck_assert_int_eq(e->dtype, FH1_BF16);
        uint16_t *a = read_all(c, t);
        void *b = read_all(own, from);
        float *v = malloc((size_t)n * sizeof *v + 1);
        ck_assert_ptr_nonnull(v);
        fh1_to_f32(v, b, own->tensors[from].dtype, n);
        for (int64_t i = 0; i < n; i++) ck_assert_int_eq(a[i], fh1_f32_to_bf16(v[i]));
        free(a);
        free(b);
        free(v);
    }
    expect_ok(cvt_ckpt_config_json(c, &config), "config.json");
    ck_assert_ptr_null(cJSON_GetObjectItemCaseSensitive(config, "quantization_config"));
    ck_assert_str_eq(cJSON_GetObjectItemCaseSensitive(config, "dtype")->valuestring, "bfloat16");
    cJSON_Delete(config);
    cvt_ckpt_close(c);
    cvt_ckpt_close(own);
}
END_TEST

/* A folder that is written from the view is a plain model. */
START_TEST(written_folder_opens)
{
    char dir[256], path[512];
    fh1_model m;
    static const char *const bases[] = {"golden/merges/bases/nf4-nested", "golden/merges/bases/int8", BNB_MIXED};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        scratch_new(dir, sizeof dir);
        path_in(path, sizeof path, dir, "plain");
        ck_assert_ptr_nonnull(cvt_model_open(bases[i], &m)); /* quantised, it is not one */
        cvt_ckpt *c = open_decoded(bases[i], FH1_BF16);
        expect_ok(cvt_hf_write(c, path, &(cvt_write_options){0}), path);
        cvt_ckpt_close(c);
        expect_ok(cvt_model_open(path, &m), path);
        fh1_model_free(&m);
        scratch_remove(dir);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {real_results, independent_decoder, rows_are_slices, in_another_type,
                                  written_folder_opens};
    return run_tests("bnb", tests, sizeof tests / sizeof *tests);
}
