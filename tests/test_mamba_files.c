/* The files of Falcon-Mamba: new folders, folder to container and back, what GGUF refuses, tied heads. */
#include "convert/gguf.h"
#include "convert/hf_write.h"
#include "convert/model_open.h"
#include "convert/native.h"
#include "tests/mamba_folder.h"

#include <math.h>

#define UNTIED "\"tie_word_embeddings\": false,"

static const cvt_write_options forced = {.force = true};

static char scratch[256];

static const char *in_scratch(const char *name, char buf[4096])
{
    path_in(buf, 4096, scratch, name);
    return buf;
}

static void setup(void)
{
    scratch_new(scratch, sizeof scratch);
}

static void teardown(void)
{
    scratch_remove(scratch);
}

/* The table of the checkpoint's tensors, falcon_mamba in transformers. */
static const struct {
    const char *name;
    int rank;
    int64_t shape[3];
    int when; /* 0: always, 1: untied, 2: use_bias */
} layout[] = {
    {"backbone.embeddings.weight", 2, {MAMBA_V, MAMBA_D}, 0},
    {"backbone.layers.1.norm.weight", 1, {MAMBA_D}, 0},
    {"backbone.layers.1.mixer.A_log", 2, {MAMBA_I, MAMBA_N}, 0},
    {"backbone.layers.1.mixer.D", 1, {MAMBA_I}, 0},
    {"backbone.layers.1.mixer.conv1d.weight", 3, {MAMBA_I, 1, MAMBA_K}, 0},
    {"backbone.layers.1.mixer.conv1d.bias", 1, {MAMBA_I}, 0},
    {"backbone.layers.1.mixer.in_proj.weight", 2, {2 * MAMBA_I, MAMBA_D}, 0},
    {"backbone.layers.1.mixer.in_proj.bias", 1, {2 * MAMBA_I}, 2},
    {"backbone.layers.1.mixer.x_proj.weight", 2, {MAMBA_R + 2 * MAMBA_N, MAMBA_I}, 0},
    {"backbone.layers.1.mixer.dt_proj.weight", 2, {MAMBA_I, MAMBA_R}, 0},
    {"backbone.layers.1.mixer.dt_proj.bias", 1, {MAMBA_I}, 0},
    {"backbone.layers.1.mixer.out_proj.weight", 2, {MAMBA_D, MAMBA_I}, 0},
    {"backbone.layers.1.mixer.out_proj.bias", 1, {MAMBA_D}, 2},
    {"backbone.norm_f.weight", 1, {MAMBA_D}, 0},
    {"lm_head.weight", 2, {MAMBA_V, MAMBA_D}, 1},
};

static void check_layout(const char *more)
{
    char path[4096];
    cvt_ckpt *c;
    const bool untied = strstr(more, "tie_word_embeddings") != NULL, biased = strstr(more, "biased") != NULL;
    int64_t n = 0;
    mamba_folder(scratch, "new", more, FH1_BF16, 3);
    expect_ok(cvt_ckpt_open(in_scratch("new", path), &c), path);
    for (size_t i = 0; i < sizeof layout / sizeof *layout; i++) {
        const int64_t t = cvt_ckpt_find(c, layout[i].name);
        const bool wanted = layout[i].when == 0 || (layout[i].when == 1 ? untied : biased);
        ck_assert_msg((t >= 0) == wanted, "%s, %s", layout[i].name, more);
        if (!wanted) continue;
        n += strstr(layout[i].name, "layers.") ? MAMBA_L : 1;
        ck_assert_int_eq(c->tensors[t].rank, layout[i].rank);
        ck_assert_int_eq(c->tensors[t].dtype, FH1_BF16);
        ck_assert_mem_eq(c->tensors[t].shape, layout[i].shape, (size_t)layout[i].rank * sizeof(int64_t));
    }
    ck_assert_int_eq(c->n_tensors, n);
    cvt_ckpt_close(c);
}

START_TEST(the_tensors_are_those_of_the_library)
{
    setup();
    check_layout("");
    check_layout(UNTIED);
    check_layout(UNTIED "\"comment\": \"biased\",");
    teardown();
}
END_TEST

/* -A is 1 … N in each channel, dt = softplus(dt_proj.bias) in [0.001, 0.1] but for the first and the last channel,
 * which forget in three tokens and in a thousand; D about 1. f32 stores each with 2^-24 of it. */
START_TEST(a_new_mixer_is_mambas)
{
    char path[4096];
    fh1_model m;
    double least = 1, most = 0, D = 0;
    setup();
    mamba_folder(scratch, "new", UNTIED, FH1_F32, 11);
    expect_ok(cvt_model_open(in_scratch("new", path), &m), path);
    for (int64_t layer = 0; layer < MAMBA_L; layer++) {
        const fh1_layer *l = &m.layers[layer];
        for (int64_t i = 0; i < MAMBA_I; i++) {
            for (int64_t n = 0; n < MAMBA_N; n++)
                ck_assert(fh1_get(&l->A_log, i * MAMBA_N + n) == (double)(float)log((double)(n + 1)));
            const double dt = log1p(exp(fh1_get(&l->dt_bias, i)));
            D += fh1_get(&l->D, i);
            if (i == 0) ck_assert(fabs(3 * dt - 1) < 1e-3);
            if (i == MAMBA_I - 1) ck_assert(fabs(1000 * dt - 1) < 1e-3);
            if (i == 0 || i == MAMBA_I - 1) continue;
            least = fmin(least, dt);
            most = fmax(most, dt);
        }
    }
    ck_assert_msg(least >= 0.000999 && least < 0.004 && most <= 0.1001 && most > 0.03, "dt in [%g, %g]", least, most);
    ck_assert_msg(fabs(D / (MAMBA_L * MAMBA_I) - 1) < 6 * 0.1 / sqrt(MAMBA_L * MAMBA_I), "D is %g on average", D);
    fh1_model_free(&m);
    teardown();
}
END_TEST

static void same_file(const char *a, const char *b, const char *name)
{
    size_t n, k;
    char *x = read_bytes(a, name, &n), *y = read_bytes(b, name, &k);
    ck_assert_msg(n == k && memcmp(x, y, n) == 0, "%s differs after the way there and back", name);
    free(x);
    free(y);
}

START_TEST(there_and_back_is_byte_for_byte)
{
    static const char *const kinds[] = {"", UNTIED, UNTIED "\"comment\": \"biased\","};
    char path[4096], back[4096], native[4096];
    cvt_ckpt *c;
    setup();
    for (int i = 0; i < 3; i++) {
        mamba_folder(scratch, "new", kinds[i], i == 1 ? FH1_BF16 : FH1_F32, (uint64_t)i);
        expect_ok(cvt_ckpt_open(in_scratch("new", path), &c), path);
        expect_ok(cvt_native_write(c, in_scratch("m.fh1", native), &forced), "to the container");
        cvt_ckpt_close(c);
        expect_ok(cvt_native_verify(native, NULL), native);
        expect_ok(cvt_ckpt_open(native, &c), native);
        expect_ok(cvt_hf_write(c, in_scratch("back", back), &forced), "from the container");
        cvt_ckpt_close(c);
        same_file(path, back, "config.json");
        same_file(path, back, "model.safetensors");
        fh1_model a, b;
        expect_ok(cvt_model_open(path, &a), path);
        expect_ok(cvt_model_open(native, &b), native);
        ck_assert(a.config.family == FH1_FALCON_MAMBA && a.n_weights == b.n_weights && a.config.tied == (i == 0));
        for (int64_t k = 0; k < a.n_weights; k++)
            ck_assert_mem_eq(a.weights[k].t.data, b.weights[k].t.data, fh1_n_bytes(&a.weights[k].t));
        fh1_model_free(&a);
        fh1_model_free(&b);
    }
    teardown();
}
END_TEST

/* A tied model may store its head too, if it is the embedding. */
START_TEST(a_stored_head_is_compared)
{
    char path[4096], other[4096];
    cvt_ckpt *c;
    fh1_model m;
    setup();
    mamba_folder(scratch, "new", UNTIED, FH1_F32, 5);
    expect_ok(cvt_ckpt_open(in_scratch("new", path), &c), path);
    expect_ok(cvt_ckpt_view(c, &c), "a view");
    expect_ok(cvt_ckpt_edit_config(c, "tie_word_embeddings", NULL), "without the key");
    expect_ok(cvt_hf_write(c, in_scratch("tied", other), &forced), other);
    cvt_ckpt_close(c);
    expect_error(cvt_model_open(other, &m), FH1_E_INPUT, "lm_head.weight differs from backbone.embeddings.weight", "");
    teardown();
}
END_TEST

static fh1_status to_gguf(const char *folder)
{
    char out[4096];
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_open(folder, &c), folder);
    fh1_status s = cvt_gguf_write(c, in_scratch("m.gguf", out), CVT_GGUF_KEEP, &forced);
    cvt_ckpt_close(c);
    ck_assert_msg(!s || access(out, F_OK) != 0, "a target is left");
    return s;
}

/* The config.json inside of m.gguf says SAM now. */
static void change_block(void)
{
    static const char old[] = "\"fh1_block\": \"SA_M\"", new[] = "\"fh1_block\":  \"SAM\"";
    char path[4096];
    cvt_ckpt *c;
    size_t n;
    expect_ok(cvt_ckpt_open(in_scratch("m.gguf", path), &c), path);
    cvt_ckpt_close(c);
    char *text = read_bytes(scratch, "m.gguf", &n), *at = memmem(text, n, old, sizeof old - 1);
    ck_assert(at != NULL && sizeof old == sizeof new);
    memcpy(at, new, sizeof new - 1);
    write_bytes(scratch, "m.gguf", text, n);
    free(text);
    expect_error(cvt_ckpt_open(path, &c), FH1_E_INPUT, "config.json, fh1_block: llama.cpp's graph", "an edited file");
}

START_TEST(gguf_holds_one_graph)
{
    static const char *const blocks[] = {"SAM", "S_A_M", "SA_M"};
    char path[4096], config[4096];
    setup();
    mamba_folder(scratch, "new", "", FH1_F32, 5);
    expect_error(to_gguf(in_scratch("new", path)), FH1_E_INPUT, "the model is falcon_mamba", "falcon_mamba");
    expect_error(to_gguf(path), FH1_E_INPUT, "keep the model as a Hugging Face folder or a .fh1 file", "what to do");
    for (int i = 0; i < 3; i++) {
        size_t n;
        char *text = read_bytes("golden/models/mini-0.5b", "config.json", &n), *more;
        ck_assert_int_gt(asprintf(&more, "{\"fh1_block\": \"%s\",%s", blocks[i], strchr(text, '{') + 1), 0);
        write_text(scratch, "block.json", more);
        free(text);
        free(more);
        expect_ok(cvt_hf_folder_init(in_scratch("block.json", config), in_scratch("new", path), 1, FH1_BF16, true),
                  blocks[i]);
        fh1_status s = to_gguf(path);
        if (i == 2) expect_ok(s, blocks[i]);
        else expect_error(s, FH1_E_INPUT, "fh1_block: llama.cpp's graph of falcon-h1 has one order", blocks[i]);
        if (i < 2) expect_error(to_gguf(path), FH1_E_INPUT, blocks[i], "the block is named");
    }
    change_block();
    teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_tensors_are_those_of_the_library, a_new_mixer_is_mambas,
                                  there_and_back_is_byte_for_byte, a_stored_head_is_compared, gguf_holds_one_graph};
    return run_tests("mamba_files", tests, sizeof tests / sizeof *tests);
}
