/* A small folder with everything that a careless copy would lose: sub-folders, an empty file, links, a header in an
 * unusual spelling, a shard whose tensors lie in another order, a weight file that the index does not name. */
#pragma once

#include "convert/checkpoint.h"
#include "tests/convert_test.h"

#include <stdint.h>

static const char fixture_config[] = "{\n  \"model_type\": \"falcon_h1\",\n  \"torch_dtype\": \"bfloat16\",\n"
                                     "  \"list\": [1, {\"torch_dtype\": 2}]\n}\n";

/* A safetensors file: the length word, `header` as it is, the data. */
static inline void write_safetensors(const char *dir, const char *name, const char *header, const void *data, size_t n)
{
    size_t len = strlen(header);
    char *all = malloc(8 + len + n);
    ck_assert_ptr_nonnull(all);
    for (int i = 0; i < 8; i++) all[i] = (char)(unsigned char)(len >> (8 * i));
    memcpy(all + 8, header, len);
    if (n) memcpy(all + 8 + len, data, n);
    write_bytes(dir, name, all, 8 + len + n);
    free(all);
}

static inline void make_folder(const char *dir, const char *name)
{
    char path[4096];
    path_in(path, sizeof path, dir, name);
    ck_assert_int_eq(mkdir(path, 0777), 0);
}

/* "a" F32 [4, 3] and "c" BF16 [5] in shard 1; "b" I64 [2], "d" U8 [0, 7] and "e" F4 [4] in shard 2. */
static inline void make_fixture(const char *dir)
{
    float a[12] = {1, -2, 3.5f, 0.1f, 1e-3f, 1e6f, 7, 8, 9, 10, 11, 12};
    uint16_t c[5] = {0x3f80, 0xbf80, 0x4000, 0x0001, 0x7f80};
    unsigned char one[58], two[18];
    memcpy(one, c, 10); /* c lies before a, unaligned */
    memcpy(one + 10, a, 48);
    for (size_t i = 0; i < sizeof two; i++) two[i] = (unsigned char)(200 + i);
    write_safetensors(dir, "model-00001-of-00002.safetensors",
                      " { \"a\" :{\"shape\":[4,3],\"dtype\":\"F32\",\"data_offsets\":[10, 58]},\n"
                      "\"\\u0063\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[0,10],\"extra\":true},"
                      "\"__metadata__\":{\"z\":\"last\",\"format\":\"pt\",\"a\":\"\\u00e9\"}}   ",
                      one, sizeof one);
    write_safetensors(dir, "model-00002-of-00002.safetensors",
                      "{\"e\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[16,18]},"
                      "\"b\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                      "\"d\":{\"dtype\":\"U8\",\"shape\":[0,7],\"data_offsets\":[16,16]}}",
                      two, sizeof two);
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"e\":\"model-00002-of-00002.safetensors\",\"a\":\"model-00001-of-00002.safetensors\","
               "\"c\":\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002.safetensors\","
               "\"d\":\"model-00002-of-00002.safetensors\"},\"metadata\":{\"total_size\":76,\"zebra\":[1,2],"
               "\"author\":\"x\"}}");
    write_text(dir, "config.json", fixture_config);
    write_safetensors(dir, "other.safetensors", "{}", "", 0); /* not of the model */
    write_text(dir, "empty", "");
    write_text(dir, "not.safetensors", "no header at all");
    make_folder(dir, "original");
    make_folder(dir, "original/deep er");
    write_text(dir, "original/params.json", "{}");
    write_text(dir, "original/deep er/\xc3\xa9\xff.bin", "bytes\r\n");
    char path[4096];
    path_in(path, sizeof path, dir, "linked.txt");
    ck_assert_int_eq(symlink("original/params.json", path), 0);
    path_in(path, sizeof path, dir, "linked folder");
    ck_assert_int_eq(symlink("original", path), 0);
}

static inline cvt_ckpt *open_fixture(const char *dir)
{
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_open(dir, &c), dir);
    return c;
}

static inline cvt_ckpt *view_of(cvt_ckpt *below)
{
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_view(below, &c), "a view");
    return c;
}

/* The text of a side file. */
static inline void expect_file(cvt_ckpt *c, const char *name, const char *want)
{
    char *text;
    size_t n;
    int64_t at = cvt_ckpt_find_file(c, name);
    ck_assert_msg(at >= 0, "no file %s", name);
    expect_ok(cvt_ckpt_file_text(c, at, 1 << 20, &text, &n), name);
    ck_assert_msg(n == strlen(want) && memcmp(text, want, n) == 0, "%s is:\n%s\nand not:\n%s", name, text, want);
    free(text);
}
