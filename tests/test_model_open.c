/* A model from a native file is the model of its folder, tensor for tensor. The planted faults: a damaged weight, a
 * quantised model, a tied one whose head is another, a tensor that is missing. */
#include "convert/model_open.h"

#include "convert/hf_folder.h"
#include "convert/native.h"
#include "tests/convert_test.h"

static bool same_model(const fh1_model *a, const fh1_model *b)
{
    ck_assert_int_eq(a->n_weights, b->n_weights);
    ck_assert_int_eq(a->config.V, b->config.V);
    bool same = true;
    for (int64_t i = 0; i < a->n_weights; i++) {
        const fh1_tensor *x = &a->weights[i].t, *y = &b->weights[i].t;
        ck_assert_str_eq(a->weights[i].name, b->weights[i].name);
        ck_assert(x->dtype == y->dtype && fh1_same_shape(x, y));
        ck_assert_uint_eq((uintptr_t)y->data % 64, 0);
        same &= memcmp(x->data, y->data, fh1_n_bytes(x)) == 0;
    }
    return same;
}

static void to_native(const char *folder, const char *file)
{
    const cvt_write_options o = {.force = true};
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_open(folder, &c), folder);
    expect_ok(cvt_native_write(c, file, &o), file);
    cvt_ckpt_close(c);
}

START_TEST(a_native_file_is_the_folders_model)
{
    static const char *const folders[] = {"golden/models/odd", "golden/models/mini-34b-bf16",
                                          "golden/merges/bases/tied-bf16", "golden/merges/bases/plain-f16"};
    char dir[256], file[300];
    path_in(file, sizeof file, scratch_new(dir, sizeof dir), "m.fh1");
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        fh1_model a, b;
        to_native(folders[i], file);
        expect_ok(cvt_model_open(folders[i], &a), folders[i]);
        expect_ok(cvt_model_open(file, &b), file);
        ck_assert(same_model(&a, &b));
        ck_assert_str_eq(a.revision, b.revision);
        ck_assert_str_eq(b.path, file);
        ((unsigned char *)b.weights[3].t.data)[1] ^= 1;
        ck_assert(!same_model(&a, &b));
        fh1_model_free(&a);
        fh1_model_free(&b);
    }
    scratch_remove(dir);
}
END_TEST

START_TEST(tensors_of_many_chunks_come_whole)
{
    char dir[256], config[300], folder[300], file[300];
    size_t n;
    fh1_model a, b;
    scratch_new(dir, sizeof dir);
    path_in(config, sizeof config, dir, "config.json");
    path_in(folder, sizeof folder, dir, "m");
    path_in(file, sizeof file, dir, "m.fh1");
    char *text = read_bytes("golden/models/mini-0.5b-bf16", "config.json", &n),
         *at = strstr(text, "\"vocab_size\": 96");
    ck_assert_ptr_nonnull(at);
    FILE *f = fopen(config, "wb");
    ck_assert_ptr_nonnull(f);
    fprintf(f, "%.*s\"vocab_size\": 40000%s", (int)(at - text), text, at + strlen("\"vocab_size\": 96"));
    ck_assert_int_eq(fclose(f), 0);
    free(text);
    expect_ok(cvt_hf_folder_init(config, folder, 1, FH1_BF16, false), folder);
    to_native(folder, file);
    expect_ok(cvt_model_open(folder, &a), folder);
    expect_ok(cvt_model_open(file, &b), file);
    ck_assert(same_model(&a, &b));
    fh1_model_free(&a);
    fh1_model_free(&b);
    scratch_remove(dir);
}
END_TEST

START_TEST(an_outline_has_shapes_and_no_values)
{
    fh1_model a, b;
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_open("golden/models/odd", &c), "odd");
    expect_ok(cvt_model_from_ckpt(c, &a), "odd");
    expect_ok(cvt_model_outline(c, &b), "odd");
    cvt_ckpt_close(c); /* both live on */
    ck_assert(!same_model(&a, &b));
    fh1_model_free(&a);
    fh1_model_free(&b);
}
END_TEST

static fh1_status open_view(cvt_ckpt *c)
{
    fh1_model m;
    fh1_status s = cvt_model_from_ckpt(c, &m);
    if (!s) fh1_model_free(&m);
    cvt_ckpt_close(c);
    return s;
}

static cvt_ckpt *view_of(const char *folder)
{
    cvt_ckpt *below, *c;
    expect_ok(cvt_ckpt_open(folder, &below), folder);
    expect_ok(cvt_ckpt_view(below, &c), folder);
    return c;
}

START_TEST(what_is_no_model_is_refused)
{
    cvt_ckpt *c = view_of("golden/models/odd");
    expect_ok(open_view(c), "a view");
    c = view_of("golden/models/odd");
    cvt_ckpt_remove_tensor(c, "model.layers.1.mamba.D");
    expect_error(open_view(c), FH1_E_INPUT, "model.layers.1.mamba.D", "a tensor less");
    c = view_of("golden/models/odd");
    int64_t d = cvt_ckpt_find(c, "model.layers.1.mamba.D");
    expect_ok(cvt_ckpt_add_tensor(c, "more", FH1_F32, 1, c->tensors[d].shape, "model.safetensors", d), "a tensor more");
    expect_error(open_view(c), FH1_E_INPUT, "more", "a tensor more");
    c = view_of("golden/models/odd");
    cvt_ckpt_remove_file(c, "config.json");
    expect_error(open_view(c), FH1_E_INPUT, "no config.json", "no config");
    expect_error(open_view(view_of("golden/merges/bases/nf4")), FH1_E_INPUT, "quanti", "a quantised model");

    /* A tied model may store its head, if it is the embedding. */
    c = view_of("golden/merges/bases/tied-bf16");
    cvt_ckpt_tensor e = c->tensors[cvt_ckpt_find(c, "model.embed_tokens.weight")];
    const char *file = c->files[e.file].name;
    expect_ok(cvt_ckpt_add_tensor(c, "lm_head.weight", e.dtype, e.rank, e.shape, file, e.source), "the same head");
    expect_ok(open_view(c), "a head that is the embedding");
    c = view_of("golden/merges/bases/plain-bf16");
    expect_ok(cvt_ckpt_edit_config(c, "tie_word_embeddings", "true"), "tied");
    expect_error(open_view(c), FH1_E_INPUT, "differs from model.embed_tokens.weight", "another head");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_native_file_is_the_folders_model, tensors_of_many_chunks_come_whole,
                                  an_outline_has_shapes_and_no_values, what_is_no_model_is_refused};
    return run_tests("model_open", tests, sizeof tests / sizeof *tests);
}
