/* The Hugging Face sink: every file of the folder byte for byte, or nothing. The planted faults: a source that changes,
 * a value that cannot be held, a stop from outside, targets that must not be replaced. */
#include "convert/hf_write.h"

#include "convert/work.h"
#include "oracle/thread.h"
#include "tests/checkpoint_fixture.h"

/* Files of both folders are the same; returns how many there are. */
static int compare_folders(const char *a, const char *b)
{
    int n = 0;
    cvt_ckpt *c = open_fixture(a);
    ck_assert_int_gt(c->n_files, 0);
    for (int64_t i = 0; i < c->n_files; i++) {
        size_t k, m;
        char *x = read_bytes(a, c->files[i].name, &k), *y = read_bytes(b, c->files[i].name, &m);
        ck_assert_msg(k == m && memcmp(x, y, k) == 0, "%s differs", c->files[i].name);
        free(x);
        free(y);
        n++;
    }
    cvt_ckpt_close(c);
    c = open_fixture(b);
    ck_assert_int_eq(c->n_files, n);
    cvt_ckpt_close(c);
    return n;
}

typedef struct {
    uint64_t last, total;
    int steps, stop_at;
    const char *touch; /* changed at the last step but the final one */
} watcher;

static fh1_status watch(void *user, uint64_t done, uint64_t total)
{
    watcher *w = user;
    ck_assert_uint_ge(done, w->last);
    ck_assert_uint_le(done, total);
    w->last = done;
    w->total = total;
    if (++w->steps == w->stop_at) return fh1_fail(FH1_E_INTERNAL, "stopped from outside");
    if (w->touch && done == total) {
        FILE *f = fopen(w->touch, "ab");
        ck_assert_ptr_nonnull(f);
        fputc(' ', f);
        fclose(f);
        w->touch = NULL;
    }
    return NULL;
}

START_TEST(every_file_comes_out_as_it_went_in)
{
    char dir[256], in[300], out[300];
    scratch_new(dir, sizeof dir);
    make_folder(dir, "in");
    path_in(in, sizeof in, dir, "in");
    path_in(out, sizeof out, dir, "out");
    make_fixture(in);
    watcher w = {0};
    const cvt_progress progress = {&w, watch};
    const cvt_write_options o = {.progress = &progress};
    cvt_ckpt *c = open_fixture(in);
    uint64_t total = cvt_ckpt_total_bytes(c);
    expect_ok(cvt_hf_write(c, out, &o), "write");
    ck_assert_int_eq(compare_folders(in, out), 12);
    ck_assert_uint_eq(w.last, total);
    ck_assert_uint_eq(w.total, total);
    expect_error(cvt_hf_write(c, out, &o), FH1_E_INPUT, "exists", "again");
    const cvt_write_options again = {.force = true};
    expect_ok(cvt_hf_write(c, out, &again), "again with force");
    ck_assert_int_eq(compare_folders(in, out), 12);
    ck_assert_int_eq(count_entries(dir), 2);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(a_stop_at_any_moment_leaves_nothing)
{
    char dir[256], in[300], out[300];
    scratch_new(dir, sizeof dir);
    make_folder(dir, "in");
    path_in(in, sizeof in, dir, "in");
    path_in(out, sizeof out, dir, "out");
    make_fixture(in);
    int stops = 0;
    for (int k = 1;; k++) {
        watcher w = {.stop_at = k};
        const cvt_progress progress = {&w, watch};
        const cvt_write_options o = {.progress = &progress};
        cvt_ckpt *c = open_fixture(in);
        fh1_status s = cvt_hf_write(c, out, &o);
        if (!s) { /* there are not so many steps */
            cvt_ckpt_close(c);
            break;
        }
        expect_error(s, FH1_E_INTERNAL, "stopped from outside", "stop");
        ck_assert_int_eq(count_entries(dir), 1);
        cvt_ckpt_close(c);
        stops++;
    }
    ck_assert_int_ge(stops, 10);
    ck_assert_int_eq(compare_folders(in, out), 12);
    scratch_remove(dir);
}
END_TEST

START_TEST(a_source_that_changes_leaves_nothing)
{
    char dir[256], in[300], out[300], touch[400];
    scratch_new(dir, sizeof dir);
    make_folder(dir, "in");
    path_in(in, sizeof in, dir, "in");
    path_in(out, sizeof out, dir, "out");
    make_fixture(in);
    path_in(touch, sizeof touch, in, "config.json");
    watcher w = {.touch = touch};
    const cvt_progress progress = {&w, watch};
    const cvt_write_options o = {.progress = &progress};
    cvt_ckpt *c = open_fixture(in);
    expect_error(cvt_hf_write(c, out, &o), FH1_E_INPUT, "config.json: the file was changed", "changed at the end");
    ck_assert_int_eq(count_entries(dir), 1);
    cvt_ckpt_close(c);

    w = (watcher){0};
    c = open_fixture(in);
    path_in(touch, sizeof touch, in, "model-00001-of-00002.safetensors");
    ck_assert_int_eq(truncate(touch, 100), 0);
    expect_error(cvt_hf_write(c, out, &o), FH1_E_INPUT, "model-00001-of-00002", "cut before it was read");
    ck_assert_int_eq(count_entries(dir), 1);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(an_error_of_a_view_reaches_the_caller)
{
    char dir[256], in[300], out[300];
    scratch_new(dir, sizeof dir);
    make_folder(dir, "in");
    path_in(in, sizeof in, dir, "in");
    path_in(out, sizeof out, dir, "out");
    make_fixture(in); /* "a" holds a million, which f16 does not */
    const cvt_write_options o = {.force = true};
    cvt_ckpt *c;
    make_folder(dir, "out");
    write_text(out, "config.json", "old");
    expect_ok(cvt_ckpt_cast(open_fixture(in), FH1_F16, &c), "cast");
    expect_error(cvt_hf_write(c, out, &o), FH1_E_INPUT, "tensor \"a\"", "overflow");
    size_t n;
    char *old = read_bytes(out, "config.json", &n);
    ck_assert_str_eq(old, "old");
    free(old);
    ck_assert_int_eq(count_entries(dir), 2);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

/* "r" F32 [3, 700000]: rows longer than a piece of one of 32 threads; "s" U8 [5000000] and a side file: several pieces.
 */
static void make_large(const char *in)
{
    enum { ROWS = 3, WIDTH = 700000, BYTES = 5000000 };
    size_t n = (size_t)ROWS * WIDTH * 4;
    unsigned char *data = malloc(n + BYTES);
    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) memcpy(data + 4 * i, &(float){(float)i + 0.25f}, 4);
    for (size_t i = 0; i < BYTES; i++) data[n + i] = (unsigned char)(i * 7 + (i >> 10));
    write_safetensors(in, "model.safetensors",
                      "{\"r\":{\"dtype\":\"F32\",\"shape\":[3,700000],\"data_offsets\":[0,8400000]},"
                      "\"s\":{\"dtype\":\"U8\",\"shape\":[5000000],\"data_offsets\":[8400000,13400000]}}",
                      data, n + BYTES);
    write_bytes(in, "side", data + n, BYTES);
    write_text(in, "config.json", "{}");
    free(data);
}

START_TEST(large_tensors_go_in_pieces)
{
    char dir[256], in[300], out[300];
    float before[8], after[8];
    size_t n, m;
    scratch_new(dir, sizeof dir);
    make_folder(dir, "in");
    path_in(in, sizeof in, dir, "in");
    path_in(out, sizeof out, dir, "out");
    make_large(in);
    fh1_set_threads(32);
    const cvt_write_options o = {.force = true};
    cvt_ckpt *c = open_fixture(in);
    expect_ok(cvt_hf_write(c, out, &o), "by bytes");
    ck_assert_int_eq(compare_folders(in, out), 3);
    expect_ok(cvt_ckpt_cast(c, FH1_F64, &c), "cast");
    expect_ok(cvt_hf_write(c, out, &o), "by rows");
    fh1_set_threads(0);
    cvt_ckpt_close(c);
    char *a = read_bytes(in, "model.safetensors", &n), *b = read_bytes(out, "model.safetensors", &m);
    ck_assert_int_eq(memcmp(a + n - 5000000, b + m - 5000000, 5000000), 0);
    for (size_t i = 0; i < 2100000; i += 8) {
        fh1_to_f32(before, a + n - 13400000 + 4 * i, FH1_F32, 4);
        fh1_to_f32(after, b + m - 5000000 - 16800000 + 8 * i, FH1_F64, 4);
        ck_assert_int_eq(memcmp(before, after, 16), 0);
    }
    free(a);
    free(b);
    scratch_remove(dir);
}
END_TEST

START_TEST(the_first_error_is_the_one_that_is_told)
{
    cvt_work w;
    cvt_work_begin(&w, NULL, 10);
    ck_assert(cvt_work_goes_on(&w));
    cvt_work_did(&w, 1, NULL);
    cvt_work_did(&w, 1, fh1_hint(fh1_where(FH1_BAD("first"), "here"), "do that"));
    ck_assert(!cvt_work_goes_on(&w));
    cvt_work_did(&w, 1, fh1_fail(FH1_E_INTERNAL, "second"));
    expect_error(cvt_work_end(&w), FH1_E_INPUT, "here: first; do that", "two errors");
}
END_TEST

START_TEST(only_a_model_is_replaced)
{
    char dir[256], in[300], out[300];
    scratch_new(dir, sizeof dir);
    make_folder(dir, "in");
    make_folder(dir, "out");
    path_in(in, sizeof in, dir, "in");
    path_in(out, sizeof out, dir, "out");
    make_fixture(in);
    write_text(out, "diary.txt", "mine");
    cvt_ckpt *c = open_fixture(in);
    const cvt_write_options force = {.force = true}, careful = {0};
    expect_error(cvt_hf_write(c, out, &force), FH1_E_INPUT, "neither a model nor an adapter", "someone's folder");
    path_in(out, sizeof out, dir, "out/diary.txt");
    expect_error(cvt_hf_write(c, out, &force), FH1_E_INPUT, "file", "a file");
    path_in(out, sizeof out, dir, "nowhere/out");
    expect_error(cvt_hf_write(c, out, &careful), FH1_E_INPUT, "nowhere", "no folder to put it in");
    ck_assert_int_eq(count_entries(dir), 2);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_file_comes_out_as_it_went_in,
                                  a_stop_at_any_moment_leaves_nothing,
                                  a_source_that_changes_leaves_nothing,
                                  an_error_of_a_view_reaches_the_caller,
                                  large_tensors_go_in_pieces,
                                  the_first_error_is_the_one_that_is_told,
                                  only_a_model_is_replaced};
    return run_tests("hf_write", tests, sizeof tests / sizeof *tests);
}
