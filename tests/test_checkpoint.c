/* The frame of the converters: a folder as files and tensors, views and their edits. The planted faults: names
 * that lead out of the folder, sources that change under the reader. */
#include "convert/checkpoint.h"

#include "oracle/thread.h"
#include "tests/checkpoint_fixture.h"

#include <fcntl.h>

START_TEST(a_folder_is_all_its_files)
{
    static const char *const names[] = {"config.json",
                                        "empty",
                                        "linked folder/deep er/\xc3\xa9\xff.bin",
                                        "linked folder/params.json",
                                        "linked.txt",
                                        "model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors",
                                        "model.safetensors.index.json",
                                        "not.safetensors",
                                        "original/deep er/\xc3\xa9\xff.bin",
                                        "original/params.json",
                                        "other.safetensors"};
    char dir[256];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = open_fixture(dir);
    ck_assert_int_eq(c->n_files, sizeof names / sizeof *names);
    for (int i = 0; i < c->n_files; i++) {
        ck_assert_str_eq(c->files[i].name, names[i]);
        ck_assert_int_eq(c->files[i].weights, i == 5 || i == 6);
        ck_assert_int_eq(c->files[i].header != NULL, i == 5 || i == 6);
    }
    expect_file(c, "linked folder/deep er/\xc3\xa9\xff.bin", "bytes\r\n");
    expect_file(c, "empty", "");
    ck_assert_int_eq(c->n_tensors, 5);
    ck_assert_str_eq(c->tensors[2].name, "c");
    ck_assert_str_eq(cvt_ckpt_meta(c, "a"), "\xc3\xa9");
    ck_assert_ptr_null(cvt_ckpt_meta(c, "b"));
    ck_assert_int_eq(cvt_ckpt_find(c, "e"), 4);
    ck_assert_int_eq(cvt_ckpt_find(c, "f"), -1);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(what_is_no_file_is_refused)
{
    char dir[256], path[512];
    cvt_ckpt *c;
    make_fixture(scratch_new(dir, sizeof dir));
    path_in(path, sizeof path, dir, "original/loop");
    ck_assert_int_eq(symlink("..", path), 0);
    expect_error(cvt_ckpt_open(dir, &c), FH1_E_INPUT, "leads back", "a loop");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(symlink("nothing", path), 0);
    expect_error(cvt_ckpt_open(dir, &c), FH1_E_INPUT, "/loop", "a dangling link");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    expect_error(cvt_ckpt_open(dir, &c), FH1_E_INPUT, "no file", "a pipe");
    expect_error(cvt_ckpt_open(path, &c), FH1_E_INPUT, "not a model", "a pipe as the model");
    ck_assert_int_eq(unlink(path), 0);
    path_in(path, sizeof path, dir, "other.safetensors");
    expect_error(cvt_ckpt_open(path, &c), FH1_E_INPUT, "give the folder", "a weight file as the model");
    path_in(path, sizeof path, dir, "nowhere");
    expect_error(cvt_ckpt_open(path, &c), FH1_E_INPUT, "nowhere", "no such model");
    write_text(dir, "model-00002-of-00002.safetensors", "damaged");
    expect_error(cvt_ckpt_open(dir, &c), FH1_E_INPUT, "model-00002-of-00002", "a shard cut short");
    scratch_remove(dir);
}
END_TEST

/* Every range of every tensor, by rows and by bytes, through a view too: the file's bytes. */
static void compare_ranges(cvt_ckpt *c, const char *dir)
{
    for (int64_t t = 0; t < c->n_tensors; t++) {
        const cvt_ckpt_tensor *e = &c->tensors[t];
        size_t n_file;
        char *file = read_bytes(dir, c->files[e->file].name, &n_file), got[64];
        uint64_t n = cvt_ckpt_tensor_bytes(e), width = cvt_ckpt_row_bytes(e);
        ck_assert_uint_eq(width * (uint64_t)cvt_ckpt_rows(e), n);
        for (uint64_t first = 0; first <= n; first++)
            for (uint64_t k = 0; k <= n - first; k++) {
                expect_ok(cvt_ckpt_read(c, t, first, k, got), e->name);
                ck_assert_int_eq(memcmp(got, file + e->begin + first, k), 0);
            }
        expect_error(cvt_ckpt_read(c, t, n, 1, got), FH1_E_INTERNAL, "bounds", e->name);
        expect_error(cvt_ckpt_read_rows(c, t, cvt_ckpt_rows(e), 1, got), FH1_E_INTERNAL, "bounds", e->name);
        free(file);
    }
}

static fh1_status rows_of_below(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    return cvt_ckpt_read_rows(c->below, c->tensors[t].source, first, n, dst);
}

START_TEST(any_range_is_the_files_bytes)
{
    static const cvt_ckpt_ops by_rows = {.read_rows = rows_of_below};
    char dir[256];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = open_fixture(dir);
    compare_ranges(c, dir);
    int64_t a = cvt_ckpt_find(c, "a"); /* rows of 12 bytes */
    ck_assert_uint_eq(cvt_ckpt_piece(c, a, 25), 25);
    c = view_of(c);
    ck_assert_uint_eq(cvt_ckpt_piece(c, a, 25), 25);
    compare_ranges(c, dir);
    c->ops = &by_rows; /* as a view that computes: ranges are cut from whole rows */
    compare_ranges(c, dir);
    ck_assert_uint_eq(cvt_ckpt_piece(c, a, 25), 24);
    ck_assert_uint_eq(cvt_ckpt_piece(c, a, 5), 12);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(a_source_that_changes_is_noticed)
{
    char dir[256], path[512], buf[64];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = open_fixture(dir);
    int64_t a = cvt_ckpt_find(c, "a");
    expect_ok(cvt_ckpt_unchanged(c), "nothing happened");
    expect_ok(cvt_ckpt_read_rows(c, a, 0, 4, buf), "a");
    path_in(path, sizeof path, dir, "model-00001-of-00002.safetensors");
    ck_assert_int_eq(truncate(path, 100), 0);
    expect_error(cvt_ckpt_unchanged(c), FH1_E_INPUT, "changed", "cut");
    expect_error(cvt_ckpt_read_rows(c, a, 0, 4, buf), FH1_E_INPUT, "model-00001", "reading what was cut");
    cvt_ckpt_close(c);
    scratch_remove(dir);

    make_fixture(scratch_new(dir, sizeof dir));
    c = open_fixture(dir);
    struct stat st;
    path_in(path, sizeof path, dir, "original/params.json");
    ck_assert_int_eq(stat(path, &st), 0);
    write_text(dir, "original/params.json", "[]"); /* as long as before, and the time of the change is set back */
    ck_assert_int_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){st.st_atim, st.st_mtim}, 0), 0);
    expect_error(cvt_ckpt_unchanged(c), FH1_E_INPUT, "params.json", "changed in secret");
    cvt_ckpt_close(c);
    scratch_remove(dir);

    make_fixture(scratch_new(dir, sizeof dir));
    c = open_fixture(dir);
    write_text(dir, "new", fixture_config); /* the same bytes, another file */
    char from[512];
    path_in(from, sizeof from, dir, "new");
    path_in(path, sizeof path, dir, "config.json");
    ck_assert_int_eq(rename(from, path), 0);
    expect_error(cvt_ckpt_unchanged(c), FH1_E_INPUT, "config.json", "replaced");
    expect_error(cvt_ckpt_read_file(c, cvt_ckpt_find_file(c, "config.json"), 0, 4, buf), FH1_E_INPUT, "changed",
                 "reading what was replaced");
    ck_assert_int_eq(unlink(path), 0);
    expect_error(cvt_ckpt_unchanged(c), FH1_E_INPUT, "config.json", "removed");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

static fh1_status finish_with(const char *const *names, int n, const char *tensor, int64_t dim)
{
    static const cvt_ckpt_ops none = {0};
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_new("made", &none, NULL, &c), "made");
    for (int i = 0; i < n; i++) expect_ok(cvt_ckpt_push_file(c, names[i], i == 0, 0, i), names[i]);
    if (tensor) expect_ok(cvt_ckpt_push_tensor(c, tensor, FH1_F64, 2, (int64_t[]){dim, dim}, 0, 0, 0), tensor);
    fh1_status s = cvt_ckpt_finish(c);
    cvt_ckpt_close(c);
    return s;
}

START_TEST(tables_that_no_folder_can_hold_are_refused)
{
    static const char *const bad[] = {"../x", "/x", "a//b", "a/./b", "a/../b", "..", ".", "", "a/"};
    char long_part[300];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_error(finish_with((const char *[]){"w", bad[i]}, 2, NULL, 1), FH1_E_INPUT, "leads out", bad[i]);
    memset(long_part, 'x', sizeof long_part - 1);
    long_part[sizeof long_part - 1] = '\0';
    expect_error(finish_with((const char *[]){"w", long_part}, 2, NULL, 1), FH1_E_INPUT, "leads out", "a long name");
    expect_error(finish_with((const char *[]){"w", "a", "a"}, 3, NULL, 1), FH1_E_INPUT, "two files", "twice");
    expect_error(finish_with((const char *[]){"w", "a", "a.b", "a/b"}, 4, NULL, 1), FH1_E_INPUT, "one file is a folder",
                 "file and folder");
    expect_error(finish_with((const char *[]){"w"}, 1, "\xff", 1), FH1_E_INPUT, "UTF-8", "a tensor's name");
    expect_error(finish_with((const char *[]){"w"}, 1, "__metadata__", 1), FH1_E_INPUT, "metadata", "a tensor's name");
    expect_error(finish_with((const char *[]){"w"}, 1, "t", INT64_C(1) << 32), FH1_E_INPUT, "overflows", "a shape");
    expect_ok(finish_with((const char *[]){"w", "..a", "a..", ".a/...", "a b/c"}, 5, "t", 3), "odd but fine");
}
END_TEST

START_TEST(edits_of_the_config_leave_the_rest_alone)
{
    char dir[256];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = view_of(open_fixture(dir));
    expect_ok(cvt_ckpt_edit_config(c, "torch_dtype", "\"float32\""), "replace");
    expect_file(c, "config.json",
                "{\n  \"model_type\": \"falcon_h1\",\n  \"torch_dtype\": \"float32\",\n"
                "  \"list\": [1, {\"torch_dtype\": 2}]\n}\n");
    expect_ok(cvt_ckpt_edit_config(c, "list", NULL), "remove the last");
    expect_file(c, "config.json", "{\n  \"model_type\": \"falcon_h1\",\n  \"torch_dtype\": \"float32\"\n}\n");
    expect_ok(cvt_ckpt_edit_config(c, "model_type", NULL), "remove the first");
    expect_file(c, "config.json", "{\n  \"torch_dtype\": \"float32\"\n}\n");
    expect_ok(cvt_ckpt_edit_config(c, "nothing", NULL), "remove what is not there");
    expect_ok(cvt_ckpt_edit_config(c, "torch_dtype", NULL), "remove the only one");
    expect_file(c, "config.json", "{\n}\n");
    expect_ok(cvt_ckpt_edit_config(c, "new", "[1]"), "add to nothing");
    expect_file(c, "config.json", "{\n  \"new\": [1]\n\n}\n");
    expect_ok(cvt_ckpt_edit_config(c, "\"q\"", "true"), "add before others");
    expect_file(c, "config.json", "{\n  \"\\\"q\\\"\": true,\n  \"new\": [1]\n\n}\n");
    expect_ok(cvt_ckpt_set_file(c, "config.json", "[]", 2), "no object");
    expect_error(cvt_ckpt_edit_config(c, "a", "1"), FH1_E_INPUT, "not a JSON object", "no object");
    cvt_ckpt_remove_file(c, "config.json");
    expect_error(cvt_ckpt_edit_config(c, "a", "1"), FH1_E_INPUT, "no config.json", "no file");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(edits_keep_the_tables_in_order)
{
    char dir[256], buf[64], want[64];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = view_of(open_fixture(dir));
    expect_ok(cvt_ckpt_read(c, cvt_ckpt_find(c, "c"), 0, 10, want), "c");
    expect_ok(cvt_ckpt_set_file(c, "aaa", "A", 1), "a first file");
    expect_ok(cvt_ckpt_add_tensor(c, "bb", FH1_F32, 1, (int64_t[]){3}, "zzz.safetensors", 7), "a tensor in a new file");
    expect_ok(cvt_ckpt_add_tensor(c, "0", FH1_F32, 0, NULL, "model-00001-of-00002.safetensors", 8), "a first tensor");
    expect_error(cvt_ckpt_add_tensor(c, "bb", FH1_F32, 0, NULL, "zzz.safetensors", 7), FH1_E_INPUT, "same name",
                 "twice");
    expect_error(cvt_ckpt_add_tensor(c, "x", FH1_F32, 0, NULL, "aaa", 7), FH1_E_INPUT, "aaa", "in a side file");
    expect_error(cvt_ckpt_set_file(c, "zzz.safetensors", "", 0), FH1_E_INTERNAL, "weights", "over weights");
    for (int64_t i = 1; i < c->n_tensors; i++) ck_assert_str_lt(c->tensors[i - 1].name, c->tensors[i].name);
    for (int64_t i = 1; i < c->n_files; i++) ck_assert_str_lt(c->files[i - 1].name, c->files[i].name);
    ck_assert_str_eq(c->files[c->tensors[cvt_ckpt_find(c, "bb")].file].name, "zzz.safetensors");
    ck_assert_str_eq(c->files[c->tensors[cvt_ckpt_find(c, "c")].file].name, "model-00001-of-00002.safetensors");
    expect_ok(cvt_ckpt_read(c, cvt_ckpt_find(c, "c"), 0, 10, buf), "c");
    ck_assert_int_eq(memcmp(buf, want, 10), 0);
    expect_error(cvt_ckpt_read_rows(c, cvt_ckpt_find(c, "bb"), 0, 1, buf), FH1_E_INTERNAL, "bb", "nobody reads it");
    c->tensors[cvt_ckpt_find(c, "bb")].source = 0;
    expect_error(cvt_ckpt_read(c, cvt_ckpt_find(c, "bb"), 0, 1, buf), FH1_E_INTERNAL, "bb", "rows of another size");
    cvt_ckpt_remove_tensor(c, "bb");
    cvt_ckpt_remove_file(c, "aaa");
    cvt_ckpt_remove_file(c, "model-00001-of-00002.safetensors");
    ck_assert_int_eq(c->n_tensors, 3);
    expect_ok(cvt_ckpt_set_meta(c, "k", "v"), "metadata");
    expect_ok(cvt_ckpt_set_meta(c, "format", NULL), "metadata");
    expect_ok(cvt_ckpt_lay_out(c), "layout");
    ck_assert_int_eq(cvt_ckpt_find_file(c, "zzz.safetensors"), -1); /* nothing in it */
    ck_assert_str_eq(cvt_ckpt_meta(c, "k"), "v");
    ck_assert_ptr_null(cvt_ckpt_meta(c, "format"));
    expect_file(c, "model.safetensors.index.json",
                "{\n  \"metadata\": {\n    \"author\": \"x\",\n    \"total_size\": 18,\n    \"zebra\": [1,2]\n  },\n"
                "  \"weight_map\": {\n    \"b\": \"model-00002-of-00002.safetensors\",\n"
                "    \"d\": \"model-00002-of-00002.safetensors\",\n    \"e\": \"model-00002-of-00002.safetensors\"\n"
                "  }\n}\n");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

/* More files than stay open at a time, read by several threads in turns. */
enum { MANY = 100, TURNS = 2000 };

typedef struct {
    cvt_ckpt *c;
    _Atomic int wrong;
} many_files;

static void read_some(void *ctx, int64_t begin, int64_t end, int thread)
{
    many_files *m = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        char got[16] = "", want[16];
        int64_t file = i * 37 % MANY;
        if (cvt_ckpt_read_file(m->c, file, 0, m->c->files[file].bytes, got)) m->wrong++;
        snprintf(want, sizeof want, "%s!", m->c->files[file].name);
        m->wrong += strcmp(got, want) != 0;
    }
}

START_TEST(many_files_are_read_by_many_threads)
{
    char dir[256], name[16], text[17];
    scratch_new(dir, sizeof dir);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "f%03d", i);
        snprintf(text, sizeof text, "%s%c", name, i == 77 ? '?' : '!');
        write_text(dir, name, text);
    }
    many_files m = {.c = open_fixture(dir)};
    fh1_set_threads(8);
    fh1_parallel_for(TURNS, 1, read_some, &m);
    fh1_set_threads(0);
    ck_assert_int_eq(m.wrong, TURNS / MANY); /* the one file that says something else */
    cvt_ckpt_close(m.c);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_folder_is_all_its_files,
                                  what_is_no_file_is_refused,
                                  any_range_is_the_files_bytes,
                                  a_source_that_changes_is_noticed,
                                  tables_that_no_folder_can_hold_are_refused,
                                  edits_of_the_config_leave_the_rest_alone,
                                  edits_keep_the_tables_in_order,
                                  many_files_are_read_by_many_threads};
    return run_tests("checkpoint", tests, sizeof tests / sizeof *tests);
}
