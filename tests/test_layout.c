/* Where tensors lie: shards by size and in the order of layers, headers that stay or are made anew. The planted faults:
 * a side file that has a shard's name, the plain order of names, a header made anew where the old one should stay. */
#include "convert/safetensors.h"
#include "tests/checkpoint_fixture.h"

/* The bytes that a sink would write for a file of weights. */
static char *whole_file(cvt_ckpt *c, int64_t file)
{
    const cvt_ckpt_file *f = &c->files[file];
    char *all = calloc(1, f->bytes + 1);
    ck_assert_ptr_nonnull(all);
    memcpy(all, f->header, f->header_bytes);
    for (int64_t t = 0; t < c->n_tensors; t++)
        if (c->tensors[t].file == file)
            expect_ok(cvt_ckpt_read(c, t, 0, cvt_ckpt_tensor_bytes(&c->tensors[t]), all + c->tensors[t].begin), "t");
    return all;
}

START_TEST(shards_are_cut_by_size)
{
    char dir[256], want[64], got[64];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = view_of(open_fixture(dir));
    expect_ok(cvt_ckpt_read(c, cvt_ckpt_find(c, "a"), 0, 48, want), "a");
    expect_ok(cvt_ckpt_reshard(c, 26), "a 48 | b 16 c 10 d 0 | e 2");
    expect_ok(cvt_ckpt_lay_out(c), "layout");
    ck_assert_int_eq(cvt_ckpt_find_file(c, "model-00001-of-00002.safetensors"), -1);
    int64_t two = cvt_ckpt_find_file(c, "model-00002-of-00003.safetensors");
    ck_assert_int_ge(two, 0);
    ck_assert_int_eq(c->tensors[cvt_ckpt_find(c, "b")].file, two);
    ck_assert_int_eq(c->tensors[cvt_ckpt_find(c, "d")].file, two);
    ck_assert_int_eq(c->tensors[cvt_ckpt_find(c, "e")].file, two + 1);
    ck_assert_int_eq(c->files[two + 1].n_meta, 3); /* every shard says what the old ones said */
    char *file = whole_file(c, two);
    cvt_st *st;
    expect_ok(cvt_st_parse(file, c->files[two].bytes, "shard 2", &st), "shard 2");
    ck_assert_int_eq(cvt_st_count(st), 3);
    ck_assert_str_eq(cvt_st_metadata(st, "z"), "last");
    cvt_st_close(st);
    free(file);
    expect_ok(cvt_ckpt_read(c, cvt_ckpt_find(c, "a"), 0, 48, got), "a");
    ck_assert_int_eq(memcmp(got, want, 48), 0);
    expect_ok(cvt_ckpt_reshard(c, 0), "one file");
    expect_ok(cvt_ckpt_lay_out(c), "layout");
    ck_assert_int_ge(cvt_ckpt_find_file(c, "model.safetensors"), 0);
    ck_assert_int_eq(cvt_ckpt_find_file(c, "model.safetensors.index.json"), -1);
    expect_ok(cvt_ckpt_set_file(c, "model-00001-of-00005.safetensors", "in the way", 10), "a side file");
    expect_error(cvt_ckpt_reshard(c, 1), FH1_E_INPUT, "two files", "a side file in the way");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(shards_go_by_layers)
{
    static const char *const order[] = {"h.2.x", "h.007.x", "h.10",     "h.10.x", "h.10.x.y", "h.a",
                                        "h.a0",  "h.a2",    "h.a10.b2", "h.b",    "i",        "model"};
    enum { N = sizeof order / sizeof *order };
    static const cvt_ckpt_ops none = {0};
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_new("made", &none, NULL, &c), "made");
    expect_ok(cvt_ckpt_push_file(c, "model.safetensors", true, 0, 0), "a file");
    for (int i = N - 1; i >= 0; i--)
        expect_ok(cvt_ckpt_push_tensor(c, order[i], FH1_U8, 1, (int64_t[]){1}, 0, 0, 0), order[i]);
    expect_ok(cvt_ckpt_finish(c), "tables");
    expect_ok(cvt_ckpt_reshard(c, 1), "one byte each");
    ck_assert_int_eq(c->n_files, N);
    bool by_names = true;
    for (int i = 0; i < N; i++) {
        ck_assert_msg(c->tensors[cvt_ckpt_find(c, order[i])].file == i, "%s is out of place", order[i]);
        by_names &= c->tensors[i].file == i;
    }
    ck_assert(!by_names);
    cvt_ckpt_close(c);
}
END_TEST

START_TEST(what_is_not_edited_keeps_its_header)
{
    char dir[256];
    make_fixture(scratch_new(dir, sizeof dir));
    cvt_ckpt *c = view_of(view_of(open_fixture(dir)));
    expect_ok(cvt_ckpt_edit_config(c, "torch_dtype", "1"), "an edit elsewhere");
    expect_ok(cvt_ckpt_lay_out(c), "layout");
    for (int i = 1; i <= 2; i++) {
        char name[64];
        size_t n;
        snprintf(name, sizeof name, "model-%05d-of-00002.safetensors", i);
        int64_t at = cvt_ckpt_find_file(c, name);
        char *want = read_bytes(dir, name, &n), *got = whole_file(c, at);
        ck_assert_uint_eq(n, c->files[at].bytes);
        ck_assert_int_eq(memcmp(want, got, n), 0);
        free(got);
        cvt_ckpt_drop_header(c, at); /* and with a new header the file is another one, with the same tensors */
        expect_ok(cvt_ckpt_lay_out(c), "layout");
        got = whole_file(c, at);
        ck_assert(c->files[at].bytes != n || memcmp(want, got, n) != 0);
        free(want);
        free(got);
    }
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shards_are_cut_by_size, shards_go_by_layers, what_is_not_edited_keeps_its_header};
    return run_tests("layout", tests, sizeof tests / sizeof *tests);
}
