/* The safetensors writer: files byte for byte as the reference writer makes them, whole or not at all. The
 * planted faults: half a tensor, a name twice, a target that appears meanwhile, a disk that is full. */
#include "convert/safetensors.h"
#include "tests/convert_test.h"

#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>

/* Declares one small tensor of each type, in an order that is not the file's. */
static void declare_all(cvt_st_writer *w, bool backwards)
{
    for (int i = 0; i < FH1_FILE_DTYPES; i++) {
        fh1_dtype t = (fh1_dtype)(backwards ? FH1_FILE_DTYPES - 1 - i : i);
        expect_ok(cvt_st_writer_declare(w, fh1_dtype_name(t), t, 1, (const int64_t[]){8}), fh1_dtype_name(t));
    }
}

START_TEST(the_header_is_the_reference_writers)
{
    /* Two files of the reference writer, its order of types and names included. */
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[8,12]},"
        "\"c\\\"\\\\\\n\\u0001\xc3\xa9\":{\"dtype\":\"BF16\",\"shape\":[0,3],\"data_offsets\":[12,12]},"
        "\"d\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[12,14]}}";
    static const char *const order[] = {"U64",         "I64",     "F64",     "C64",     "F32", "U32",
                                        "I32",         "BF16",    "F16",     "U16",     "I16", "F8_E5M2FNUZ",
                                        "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8",  "U8",
                                        "F6_E3M2",     "F6_E2M3", "F4",      "BOOL"};
    char dir[256], path[512];
    cvt_st_writer *w;
    size_t n;
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "a.safetensors");
    expect_ok(cvt_st_writer_new(path, false, &w), path);
    expect_ok(cvt_st_writer_meta(w, "format", "pt"), path);
    expect_ok(cvt_st_writer_declare(w, "a", FH1_I32, 0, NULL), path);
    expect_ok(cvt_st_writer_declare(w, "d", FH1_BF16, 1, (const int64_t[]){1}), path);
    expect_ok(cvt_st_writer_declare(w, "c\"\\\n\1\xc3\xa9", FH1_BF16, 2, (const int64_t[]){0, 3}), path);
    expect_ok(cvt_st_writer_declare(w, "b", FH1_F32, 2, (const int64_t[]){2, 1}), path);
    expect_ok(cvt_st_writer_put(w, "a", 0, "AAAA", 1), path);
    expect_ok(cvt_st_writer_put(w, "d", 0, "DD", 1), path);
    expect_ok(cvt_st_writer_put(w, "b", 1, "bbbb", 1), path);
    expect_ok(cvt_st_writer_put(w, "b", 0, "BBBB", 1), path);
    expect_ok(cvt_st_writer_commit(w), path);
    cvt_st_writer_free(w);
    char *got = read_bytes(dir, "a.safetensors", &n);
    size_t n_header = (sizeof want - 1 + 7) / 8 * 8;
    ck_assert_uint_eq(n, 8 + n_header + 14);
    ck_assert_uint_eq((size_t)(unsigned char)got[0] + 256 * (size_t)(unsigned char)got[1], n_header);
    ck_assert_int_eq(memcmp(got + 8, want, sizeof want - 1), 0);
    for (size_t i = sizeof want - 1; i < n_header; i++) ck_assert_int_eq(got[8 + i], ' ');
    ck_assert_int_eq(memcmp(got + 8 + n_header, "BBBBbbbbAAAADD", 14), 0);
    free(got);

    for (int backwards = 0; backwards < 2; backwards++) {
        char data[64] = {0};
        cvt_st *f;
        expect_ok(cvt_st_writer_new(path, true, &w), path);
        declare_all(w, backwards);
        for (int t = 0; t < FH1_FILE_DTYPES; t++)
            expect_ok(cvt_st_writer_put(w, fh1_dtype_name((fh1_dtype)t), 0, data, 8), path);
        expect_ok(cvt_st_writer_commit(w), path);
        cvt_st_writer_free(w);
        expect_ok(cvt_st_open(path, &f), path);
        ck_assert_int_eq(cvt_st_count(f), FH1_FILE_DTYPES);
        ck_assert_ptr_null(cvt_st_metadata(f, "format"));
        for (int i = 1; i < FH1_FILE_DTYPES; i++)
            ck_assert_uint_eq(cvt_st_find(f, order[i])->begin, cvt_st_find(f, order[i - 1])->end);
        ck_assert_uint_eq(cvt_st_find(f, "U64")->begin % 8, 0);
        cvt_st_close(f);
    }
    scratch_remove(dir);
}
END_TEST

START_TEST(what_is_written_is_read_back)
{
    char dir[256], path[512];
    cvt_st_writer *w;
    cvt_st *f;
    float values[1000];
    for (int i = 0; i < 1000; i++) values[i] = (float)i * 0.37f;
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "a.safetensors");
    umask(027);
    expect_ok(cvt_st_writer_new(path, false, &w), path);
    expect_ok(cvt_st_writer_meta(w, "z", "last \"one\""), path);
    expect_ok(cvt_st_writer_meta(w, "fh1.trace", "1"), path);
    expect_ok(cvt_st_writer_declare(w, "x", FH1_F32, 3, (const int64_t[]){10, 5, 20}), path);
    expect_ok(cvt_st_writer_put(w, "x", 600, values + 600, 400), path);
    expect_ok(cvt_st_writer_put(w, "x", 0, values, 300), path);
    expect_ok(cvt_st_writer_put(w, "x", 250, values + 250, 350), path); /* overlaps the piece before it */
    ck_assert_int_eq(access(path, F_OK), -1);                           /* not before the commit */
    expect_ok(cvt_st_writer_commit(w), path);
    cvt_st_writer_free(w);
    ck_assert_int_eq(count_entries(dir), 1);

    expect_ok(cvt_st_open(path, &f), path);
    const cvt_st_entry *e = cvt_st_find(f, "x");
    ck_assert_ptr_nonnull(e);
    ck_assert_int_eq(e->t.rank, 3);
    ck_assert_int_eq(e->t.stride[0], 100);
    ck_assert_int_eq(e->t.stride[1], 20);
    ck_assert_int_eq(memcmp(e->t.data, values, sizeof values), 0);
    ck_assert_str_eq(cvt_st_metadata(f, "z"), "last \"one\"");
    ck_assert_str_eq(cvt_st_metadata(f, "fh1.trace"), "1");
    ck_assert_str_eq(cvt_st_path(f), path);

    /* Writing over a file that is mapped leaves the map its old data. The access rights stay. */
    umask(022);
    expect_ok(cvt_st_writer_new(path, true, &w), path);
    expect_ok(cvt_st_writer_commit(w), path);
    cvt_st_writer_free(w);
    ck_assert_int_eq(memcmp(e->t.data, values, sizeof values), 0);
    cvt_st_close(f);
    expect_ok(cvt_st_open(path, &f), path);
    ck_assert_int_eq(cvt_st_count(f), 0);
    cvt_st_close(f);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0640);
    scratch_remove(dir);
}
END_TEST

static void abandon(cvt_st_writer *w, const char *dir, int n_left)
{
    cvt_st_writer_free(w);
    ck_assert_int_eq(count_entries(dir), n_left);
}

START_TEST(a_writer_leaves_all_or_nothing)
{
    char dir[256], path[512];
    cvt_st_writer *w;
    const int64_t two[] = {2};
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "a.safetensors");

    expect_ok(cvt_st_writer_new(path, false, &w), path);
    expect_ok(cvt_st_writer_declare(w, "x", FH1_F32, 1, two), path);
    expect_ok(cvt_st_writer_put(w, "x", 1, "1234", 1), path);
    expect_error(cvt_st_writer_commit(w), FH1_E_INTERNAL, "\"x\": the tensor is not complete", "half a tensor");
    abandon(w, dir, 0);

    expect_ok(cvt_st_writer_new(path, false, &w), path);
    expect_error(cvt_st_writer_declare(w, "__metadata__", FH1_F32, 1, two), FH1_E_INPUT, "metadata",
                 "the reserved name");
    expect_error(cvt_st_writer_declare(w, "\xff", FH1_F32, 1, two), FH1_E_INPUT, "UTF-8", "a bad name");
    expect_error(cvt_st_writer_declare(w, "x", FH1_F32, 2, (const int64_t[]){INT64_C(1) << 40, INT64_C(1) << 40}),
                 FH1_E_INPUT, "overflows", "a huge shape");
    expect_error(cvt_st_writer_declare(w, "x", FH1_F4, 1, (const int64_t[]){3}), FH1_E_INPUT, "whole number", "F4");
    expect_ok(cvt_st_writer_declare(w, "x", FH1_F32, 1, two), path);
    expect_ok(cvt_st_writer_declare(w, "x", FH1_F64, 1, two), path);
    expect_error(cvt_st_writer_put(w, "x", 0, "12345678", 2), FH1_E_INPUT, "same name", "a name twice");
    abandon(w, dir, 0);

    expect_ok(cvt_st_writer_new(path, false, &w), path);
    expect_ok(cvt_st_writer_declare(w, "x", FH1_F32, 1, two), path);
    expect_error(cvt_st_writer_put(w, "y", 0, "1234", 1), FH1_E_INTERNAL, "not declared", "an unknown name");
    expect_error(cvt_st_writer_put(w, "x", 1, "12345678", 2), FH1_E_INTERNAL, "elements 1 to 3 of 2", "too much data");
    expect_error(cvt_st_writer_declare(w, "z", FH1_F32, 1, two), FH1_E_INTERNAL, "after the first data", "too late");
    abandon(w, dir, 0);

    /* An existing target is kept, and one that appears while the file is written, too. */
    write_text(dir, "a.safetensors", "mine");
    expect_error(cvt_st_writer_new(path, false, &w), FH1_E_INPUT, "the target exists", "an existing file");
    unlink(path);
    expect_ok(cvt_st_writer_new(path, false, &w), path);
    write_text(dir, "a.safetensors", "mine");
    expect_error(cvt_st_writer_commit(w), FH1_E_INPUT, "the target exists", "a file that appeared");
    abandon(w, dir, 1);
    expect_error(cvt_st_writer_new(dir, true, &w), FH1_E_INPUT, "is a folder", "a folder");
    path_in(path, sizeof path, dir, "no/where.safetensors");
    expect_error(cvt_st_writer_new(path, false, &w), FH1_E_INPUT, "cannot be created", "a missing folder");

    /* What a killed writer left is removed by the next one for the same target, and only that. */
    path_in(path, sizeof path, dir, "a.safetensors");
    write_text(dir, ".a.safetensors.fh1-1-0", "orphan");
    write_text(dir, ".b.safetensors.fh1-1-0", "another target's");
    cvt_st_writer *live;
    expect_ok(cvt_st_writer_new(path, true, &live), path);
    expect_ok(cvt_st_writer_new(path, true, &w), path);
    ck_assert_int_eq(count_entries(dir), 4); /* target, b's, two temporaries */
    expect_ok(cvt_st_writer_commit(live), path);
    cvt_st_writer_free(live);
    abandon(w, dir, 2);
    scratch_remove(dir);
}
END_TEST

START_TEST(a_full_disk_is_a_clean_error)
{
    char dir[256], path[512];
    cvt_st_writer *w;
    struct rlimit old, small;
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "a.safetensors");
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    expect_ok(cvt_st_writer_new(path, false, &w), path);
    expect_ok(cvt_st_writer_declare(w, "x", FH1_U8, 1, (const int64_t[]){8192}), path);
    char *data = calloc(1, 8192);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    fh1_status s = cvt_st_writer_put(w, "x", 0, data, 8192);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    expect_error(s, FH1_E_INTERNAL, "a.safetensors", "a limit of 4096 bytes");
    free(data);
    abandon(w, dir, 0);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_header_is_the_reference_writers, what_is_written_is_read_back,
                                  a_writer_leaves_all_or_nothing, a_full_disk_is_a_clean_error};
    return run_tests("safetensors_write", tests, sizeof tests / sizeof *tests);
}
