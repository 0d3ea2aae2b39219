/* Safetensors: what a strict reader must refuse and what it must accept. The planted faults: each accepted file
 * is refused again with one byte more and with one byte less, and most malformed ones are one edit away
 * from a sound file. */
#include "convert/safetensors.h"
#include "tests/convert_test.h"

#include <stdint.h>

#define A(dtype, shape, offsets) "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define E(dtype, shape, offsets) ":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* Length word, header, data; malloc'ed to the byte. */
static char *build(const char *header, size_t n_header, size_t n_data, size_t *n)
{
    *n = 8 + n_header + n_data;
    char *file = malloc(*n);
    ck_assert_ptr_nonnull(file);
    for (size_t i = 0; i < 8; i++) file[i] = (char)(unsigned char)(n_header >> (8 * i));
    memcpy(file + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) file[8 + n_header + i] = (char)i;
    return file;
}

/* *dtype is that of the first tensor. */
static fh1_status parse_built(const char *header, size_t n_data, fh1_dtype *dtype)
{
    size_t n;
    cvt_st *f = NULL;
    char *file = build(header, strlen(header), n_data, &n);
    fh1_status s = cvt_st_parse(file, n, "file", &f);
    ck_assert((s == NULL) == (f != NULL));
    if (f && dtype) *dtype = cvt_st_at(f, 0)->t.dtype;
    cvt_st_close(f);
    free(file);
    return s;
}

static const struct {
    const char *header;
    size_t n_data;
    const char *word;
} malformed[] = {
    {A("\"F32\"", "[2]", "[0,8]"), 7, "beyond the end"},
    {A("\"F32\"", "[2]", "[0,8]"), 9, "goes on after the last tensor"},
    {"{}", 1, "goes on"},
    {"", 0, "not well-formed"},
    {"{", 0, "not well-formed"},
    {"[]", 0, "not a JSON object"},
    {"\"a\"", 0, "not a JSON object"},
    {"null", 0, "not a JSON object"},
    {"1", 0, "not a JSON object"},
    {"true", 0, "not a JSON object"},
    {"{/**/}", 0, "byte 0x2f"},
    {"\xef\xbb\xbf{}", 0, "byte order mark"},
    {"{} x", 0, "JSON value was expected"},
    {"{}{}", 0, "more text"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},}", 1, "not well-formed"},
    {A("\"F33\"", "[2]", "[0,8]"), 8, "unknown dtype \"F33\""},
    {A("\"f32\"", "[2]", "[0,8]"), 8, "unknown dtype"},
    {A("\"\"", "[2]", "[0,8]"), 8, "unknown dtype"},
    {A("\"C128\"", "[1]", "[0,16]"), 16, "unknown dtype"},
    {A("\"F8_E4M3FN\"", "[8]", "[0,8]"), 8, "unknown dtype"},
    {A("\"I4\"", "[16]", "[0,8]"), 8, "unknown dtype"},
    {A("{\"F32\":null}", "[2]", "[0,8]"), 8, "dtype is not a string"},
    {A("32", "[2]", "[0,8]"), 8, "dtype is not a string"},
    {"{\"a\":[\"F32\",[2],[0,8]]}", 8, "entry is not an object"},
    {"{\"a\":[\"F32\",[2]]}", 8, "entry is not an object"},
    {"{\"a\":\"F32\"}", 8, "entry is not an object"},
    {"{\"a\":null}", 0, "entry is not an object"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "shape is missing"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "\"dtype\" appears twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":[1]}}", 8, "unknown field \"x\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":[[1]]}}", 8, "nested deeper"},
    {A("\"F32\"", "null", "[0,8]"), 8, "shape is not an array"},
    {A("\"F32\"", "2", "[0,8]"), 8, "shape is not an array"},
    {A("\"F32\"", "\"[2]\"", "[0,8]"), 8, "shape is not an array"},
    {A("\"F32\"", "[null]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[+2]", "[0,8]"), 8, "JSON value was expected"},
    {A("\"F32\"", "[0,9223372036854775808]", "[0,0]"), 0, "dimension 1"},
    {A("\"F32\"", "[[2]]", "[0,8]"), 8, "nested deeper than 3"},
    {A("\"F32\"", "[-2]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[2.0]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[2e0]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[\"2\"]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[2,true]", "[0,8]"), 8, "dimension 1"},
    {A("\"F32\"", "[-0]", "[0,0]"), 0, "dimension 0"},
    {A("\"F32\"", "[02]", "[0,8]"), 8, "not a JSON number"},
    {A("\"F32\"", "[0x2]", "[0,8]"), 8, "not a JSON number"},
    {A("\"F32\"", "[NaN]", "[0,8]"), 8, "NaN is not JSON"},
    {A("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, "at most 8 dimensions, found 9"},
    {A("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, "overflows at dimension 1"},
    {A("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows at dimension 1"},
    {A("\"F64\"", "[4503599627370496,512]", "[0,8]"), 8, "shape and dtype overflows"},
    {A("\"F32\"", "[18446744073709551618]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[9007199254740993]", "[0,8]"), 8, "dimension 0"},
    {A("\"F32\"", "[3]", "[0,8]"), 8, "expected 12 bytes, found 8"},
    {A("\"F32\"", "[]", "[0,8]"), 8, "expected 4 bytes, found 8"},
    {A("\"F4\"", "[3]", "[0,2]"), 2, "3 elements of F4"},
    {A("\"F4\"", "[]", "[0,1]"), 1, "whole number of bytes"},
    {A("\"F6_E2M3\"", "[3]", "[0,3]"), 3, "whole number of bytes"},
    {A("\"F32\"", "[2]", "[8,0]"), 8, "end before they begin"},
    {A("\"F32\"", "[2]", "[]"), 8, "array of two"},
    {A("\"F32\"", "[2]", "[0]"), 8, "array of two"},
    {A("\"F32\"", "[2]", "[0,8,8]"), 8, "array of two"},
    {A("\"F32\"", "[2]", "{}"), 8, "array of two"},
    {A("\"F32\"", "[2]", "[0,8.0]"), 8, "two whole numbers"},
    {A("\"F32\"", "[2]", "[-8,0]"), 8, "two whole numbers"},
    {A("\"F32\"", "[2]", "[0,18446744073709551615]"), 8, "two whole numbers"},
    {A("\"F32\"", "[2]", "[4,12]"), 12, "there is a hole before"},
    {A("\"F32\"", "[0]", "[4,4]"), 0, "beyond the end"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("U8", "[2]", "[3,5]") "}", 5, "\"b\": there is a hole"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("U8", "[2]", "[1,3]") "}", 3, "\"b\": tensors overlap"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("U8", "[2]", "[0,2]") "}", 2, "\"b\": tensors overlap"},
    {"{\"a\"" E("U8", "[4]", "[0,4]") ",\"b\"" E("U8", "[2]", "[1,3]") "}", 4, "\"b\": tensors overlap"},
    {"{\"a\"" E("U8", "[4]", "[0,4]") ",\"b\"" E("U8", "[0]", "[2,2]") "}", 4, "tensors overlap"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"a\"" E("U8", "[2]", "[0,2]") "}", 2, "\"a\" appears twice"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"\\u0061\"" E("U8", "[2]", "[2,4]") "}", 4, "\"a\" appears twice"},
    {"{\"a\\u0000b\"" E("U8", "[2]", "[0,2]") "}", 2, "\\u0000"},
    {"{\"\\ud800\"" E("U8", "[2]", "[0,2]") "}", 2, "lone surrogate"},
    {"{\"a\xff\"" E("U8", "[2]", "[0,2]") "}", 2, "UTF-8"},
    {"{\"a\xc0\x80\"" E("U8", "[2]", "[0,2]") "}", 2, "UTF-8"},     /* an overlong NUL */
    {"{\"a\xed\xa0\x80\"" E("U8", "[2]", "[0,2]") "}", 2, "UTF-8"}, /* a raw surrogate */
    {"{\"a\tb\"" E("U8", "[2]", "[0,2]") "}", 2, "control character"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "metadata value of \"a\""},
    {"{\"__metadata__\":{\"a\":null}}", 0, "metadata value"},
    {"{\"__metadata__\":{\"a\":[\"b\"]}}", 0, "metadata value"},
    {"{\"__metadata__\":[]}", 0, "not an object of strings"},
    {"{\"__metadata__\":\"pt\"}", 0, "not an object of strings"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "\"a\" appears twice"},
    {"{\"__metadata__\":{},\"__metadat\\u0061__\":{}}", 0, "appears twice"},
    {"{\"__metadata__\"" E("U8", "[2]", "[0,2]") "}", 2, "cannot be named __metadata__"},
};

START_TEST(malformed_headers_are_refused)
{
    ck_assert_uint_ge(sizeof malformed / sizeof *malformed, 40);
    expect_ok(parse_built(A("\"F32\"", "[2]", "[0,8]"), 8, NULL), "the sound file");
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        fh1_status s = parse_built(malformed[i].header, malformed[i].n_data, NULL);
        expect_error(s, FH1_E_INPUT, malformed[i].word, malformed[i].header);
        expect_error(s, FH1_E_INPUT, "file", malformed[i].header);
    }
}
END_TEST

START_TEST(malformed_frames_are_refused)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *word;
    } frames[] = {
        {"", 0, "at least 8 bytes, found 0"},
        {"\2\0\0\0\0\0\0", 7, "at least 8 bytes, found 7"},
        {"\3\0\0\0\0\0\0\0{}", 10, "header is cut off"},
        {"\0\0\0\0\0\0\0\0", 8, "not well-formed"},
        {"\0\xe1\xf5\5\0\0\0\0{}", 10, "header is cut off"}, /* 100 000 000 */
        {"\1\xe1\xf5\5\0\0\0\0{}", 10, "too large"},
        {"\0\0\0\0\0\0\0\x80{}", 10, "found 9223372036854775808"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "too large"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", 64, "git-lfs pointer"},
        {"{\"a\":1}   ", 10, "too large"},           /* JSON without the length word */
        {"\4\0\0\0\0\0\0\0{}\0\0", 12, "byte 0x00"}, /* padded with zeros */
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        cvt_st *f;
        char *exact = malloc(frames[i].n ? frames[i].n : 1), what[32];
        ck_assert_ptr_nonnull(exact);
        memcpy(exact, frames[i].bytes, frames[i].n);
        snprintf(what, sizeof what, "frame %zu", i);
        expect_error(cvt_st_parse(exact, frames[i].n, "file", &f), FH1_E_INPUT, frames[i].word, what);
        free(exact);
    }
    /* 200 brackets deep, in a file that is otherwise sound */
    char deep[500] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":";
    size_t n = strlen(deep);
    memset(deep + n, '[', 200);
    memset(deep + n + 200, ']', 200);
    strcpy(deep + n + 400, "}}");
    expect_error(parse_built(deep, 1, NULL), FH1_E_INPUT, "nested deeper than 3", "depth 200");
}
END_TEST

static const struct {
    const char *header;
    size_t n_data;
    int64_t count;
} sound[] = {
    {"{}", 0, 0},
    {" \t\r\n{}  \n", 0, 0},
    {"{\"__metadata__\":{}}", 0, 0},
    {"{\"__metadata__\":null}", 0, 0},
    {"{\"a\" : {\"data_offsets\":[ 0 , 1 ],\"shape\":[1,1],\"dtype\":\"U8\"}, \"__metadata__\":{\"format\":\"pt\"} }",
     1, 1},
    {"{\"a\"" E("U8", "[2]", "[1,3]") ",\"b\"" E("U8", "[]", "[0,1]") "}", 3, 2}, /* header order is not data order */
    {"{\"a\"" E("F32", "[1]", "[1,5]") ",\"b\"" E("BOOL", "[1]", "[0,1]") "}", 5, 2}, /* unaligned */
    {"{\"a\"" E("F32", "[0,7]", "[0,0]") ",\"b\"" E("F64", "[0]", "[0,0]") ",\"c\"" E("U8", "[2]", "[0,2]") "}", 2, 3},
    {"{\"c\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("F64", "[3,0]", "[2,2]") "}", 2, 2},
    {A("\"U8\"", "[0,4294967296,4294967296]", "[0,0]"), 0, 1},
    {A("\"F64\"", "[1,1,1,1,1,1,1,2]", "[0,16]"), 16, 1},
    {A("\"F4\"", "[2,3]", "[0,3]"), 3, 1},
    {A("\"F6_E3M2\"", "[4]", "[0,3]"), 3, 1},
    {"{\"\"" E("U8", "[]", "[0,1]") ",\"../\\u000a\\u2028\"" E("I8", "[]", "[1,2]") "}", 2, 2},
    {"{\"a\":{\"\\u0064type\":\"\\u0055\\u0038\",\"shape\":[],\"data_offsets\":[0,1],\"x\":null,\"y\":\"z\"}}", 1, 1},
};

START_TEST(sound_files_are_accepted)
{
    for (size_t i = 0; i < sizeof sound / sizeof *sound; i++) {
        const char *h = sound[i].header;
        size_t n;
        cvt_st *f;
        char *file = build(h, strlen(h), sound[i].n_data + 1, &n);
        expect_ok(cvt_st_parse(file, n - 1, "file", &f), h);
        ck_assert_int_eq(cvt_st_count(f), sound[i].count);
        for (int64_t k = 0; k < cvt_st_count(f); k++) {
            const cvt_st_entry *e = cvt_st_at(f, k);
            ck_assert_ptr_eq(cvt_st_find(f, e->name), e);
            ck_assert_ptr_eq((char *)e->t.data, file + e->begin);
            ck_assert_uint_eq(fh1_n_bytes(&e->t), e->end - e->begin);
            ck_assert(k == 0 || strcmp(cvt_st_at(f, k - 1)->name, e->name) < 0);
        }
        ck_assert_ptr_null(cvt_st_find(f, "absent"));
        ck_assert_ptr_null(cvt_st_at(f, sound[i].count));
        cvt_st_close(f);
        expect_error(cvt_st_parse(file, n, "file", &f), FH1_E_INPUT, "goes on", h);
        ck_assert_msg(cvt_st_parse(file, n - 2, "file", &f) != NULL, "%s: accepted without its last byte", h);
        free(file);
    }
    for (int t = 0; t < FH1_FILE_DTYPES; t++) { /* every type, 8 elements */
        char h[120];
        fh1_dtype got = FH1_DTYPE_COUNT;
        int n = fh1_dtype_bits((fh1_dtype)t);
        snprintf(h, sizeof h, "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%d]}}",
                 fh1_dtype_name((fh1_dtype)t), n);
        expect_ok(parse_built(h, (size_t)n, &got), h);
        ck_assert_int_eq(got, t);
    }
}
END_TEST

START_TEST(the_largest_header_is_read)
{
    size_t n, n_header = 100000000;
    char *header = malloc(n_header);
    ck_assert_ptr_nonnull(header);
    memset(header, ' ', n_header);
    memcpy(header, "{}", 2);
    char *file = build(header, n_header, 0, &n);
    free(header);
    cvt_st *f;
    expect_ok(cvt_st_parse(file, n, "file", &f), "100 MB");
    cvt_st_close(f);
    free(file);
}
END_TEST

START_TEST(files_that_are_none_are_refused)
{
    char dir[256], path[512];
    cvt_st *f;
    scratch_new(dir, sizeof dir);
    expect_error(cvt_st_open(dir, &f), FH1_E_INPUT, "folder", "a folder");
    write_text(dir, "empty", "");
    path_in(path, sizeof path, dir, "empty");
    expect_error(cvt_st_open(path, &f), FH1_E_INPUT, "at least 8 bytes", "an empty file");
    path_in(path, sizeof path, dir, "none");
    expect_error(cvt_st_open(path, &f), FH1_E_INPUT, "cannot be opened", "a missing file");
    path_in(path, sizeof path, dir, "fifo");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    expect_error(cvt_st_open(path, &f), FH1_E_INPUT, "not a regular file", "a pipe");
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {malformed_headers_are_refused, malformed_frames_are_refused, sound_files_are_accepted,
                                  the_largest_header_is_read, files_that_are_none_are_refused};
    return run_tests("safetensors", tests, sizeof tests / sizeof *tests);
}
