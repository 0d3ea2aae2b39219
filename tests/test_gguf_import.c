/* Unfolding: 16-bit models come back byte for byte from an f32 file, what does not come back is counted, blocks are
 * decoded, files of others are models too. Planted: flipped bits, edited keys and tensors, a missing private key. */
#include "oracle/compare.h"
#include "tests/gguf_models.h"

#include <math.h>

/* ---- there and back ---- */

static void expect_same_bytes(cvt_ckpt *a, cvt_ckpt *b)
{
    ck_assert_int_eq(a->n_tensors, b->n_tensors);
    for (int64_t i = 0; i < a->n_tensors; i++) {
        const size_t n = cvt_ckpt_tensor_bytes(&a->tensors[i]);
        char *x = malloc(n + 1), *y = malloc(n + 1);
        ck_assert_str_eq(a->tensors[i].name, b->tensors[i].name);
        ck_assert_int_eq(a->tensors[i].dtype, b->tensors[i].dtype);
        ck_assert_uint_eq(cvt_ckpt_tensor_bytes(&b->tensors[i]), n);
        expect_ok(cvt_ckpt_read(a, i, 0, n, x), a->tensors[i].name);
        expect_ok(cvt_ckpt_read(b, i, 0, n, y), b->tensors[i].name);
        ck_assert_msg(memcmp(x, y, n) == 0, "%s does not come back", a->tensors[i].name);
        free(x);
        free(y);
    }
}

static void expect_round_trip(const char *model, const char *path, cvt_gguf_type type)
{
    cvt_ckpt *a = open_model(model), *b;
    expect_ok(cvt_gguf_write(a, path, type, &forced), path);
    expect_ok(cvt_gguf_verify(path, NULL), path);
    b = open_model(path);
    ck_assert_str_eq(cvt_gguf_losses(b), "");
    expect_same_bytes(a, b);
    for (int64_t i = 0; i < a->n_files; i++) {
        char *x, *y;
        size_t n, k;
        if (a->files[i].weights) continue;
        const int64_t at = cvt_ckpt_find_file(b, a->files[i].name);
        ck_assert_msg(at >= 0, "%s is lost", a->files[i].name);
        expect_ok(cvt_ckpt_file_text(a, i, 1 << 20, &x, &n), a->files[i].name);
        expect_ok(cvt_ckpt_file_text(b, at, 1 << 20, &y, &k), a->files[i].name);
        ck_assert(n == k && memcmp(x, y, n) == 0);
        free(x);
        free(y);
    }
    cvt_ckpt_close(a);
    cvt_ckpt_close(b);
}

START_TEST(sixteen_bits_come_back_from_f32)
{
    char dir[256], path[512], model[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    expect_round_trip("golden/models/mini-34b-bf16", path, CVT_GGUF_F32);
    expect_round_trip("golden/models/mini-0.5b-bf16", path, CVT_GGUF_F32);
    make_model(dir, "tied", FH1_F16, tied);
    path_in(model, sizeof model, dir, "tied");
    write_bytes(model, "blob.bin", "\0\xff\1", 3);
    write_bytes(model, "caf\xe9", "a name that is not UTF-8", 24);
    expect_round_trip(model, path, CVT_GGUF_F32);
    size_t n;
    char *file = read_bytes(dir, "f.gguf", &n);
    ck_assert_ptr_null(memmem(file, n, "caf\xe9", 4)); /* all texts in GGUF are */
    ck_assert_ptr_nonnull(memmem(file, n, "/636166e9", 9));
    free(file);
    make_model(dir, "biased", FH1_BF16, biased);
    zero_tensors(dir, "biased", "o_proj.bias");
    path_in(model, sizeof model, dir, "biased");
    expect_round_trip(model, path, CVT_GGUF_F32);
    scratch_remove(dir);
}
END_TEST

/* f32 weights may be an ulp off, and the losses count them; A_log and small tensors are exact all the same. */
START_TEST(losses_are_counted)
{
    char dir[256], path[512];
    uint64_t off = 0, all = 0;
    char sentence[128];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    export_as("golden/models/mini-34b", path, CVT_GGUF_F32);
    cvt_ckpt *a = open_model("golden/models/mini-34b"), *b = open_model(path);
    for (int64_t i = 0; i < a->n_tensors; i++) {
        const size_t n = cvt_ckpt_tensor_bytes(&a->tensors[i]) / 4;
        float *x = malloc(4 * n), *y = malloc(4 * n);
        const bool matrix = a->tensors[i].rank == 2;
        expect_ok(cvt_ckpt_read(a, i, 0, 4 * n, x), "original");
        expect_ok(cvt_ckpt_read(b, i, 0, 4 * n, y), "unfolded");
        for (size_t e = 0; e < n; e++) {
            ck_assert(fh1_within(fabs((double)(x[e] - y[e])), fh1_dtype_ulp(FH1_F32, (double)x[e])));
            ck_assert_msg(matrix || fh1_f32_bits(x[e]) == fh1_f32_bits(y[e]), "%s", a->tensors[i].name);
            off += fh1_f32_bits(x[e]) != fh1_f32_bits(y[e]);
        }
        all += matrix ? n : 0;
        free(x);
        free(y);
    }
    snprintf(sentence, sizeof sentence, "%" PRIu64 " of %" PRIu64 " elements", off, all);
    ck_assert_uint_gt(off, 0);
    ck_assert_msg(strstr(cvt_gguf_losses(b), sentence), "%s is not in: %s", sentence, cvt_gguf_losses(b));
    cvt_ckpt_close(a);
    cvt_ckpt_close(b);
    scratch_remove(dir);
}
END_TEST

/* Blocks of 32 decoded by hand; what an engine gets is f32 although the original was bf16. */
START_TEST(blocks_are_decoded)
{
    char dir[256], path[512];
    plain_tensor t;
    float wide[96 * 32];
    uint16_t narrow[96 * 32];
    cvt_ckpt *c, *w;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    export_as("golden/models/mini-0.5b-bf16", path, CVT_GGUF_Q8_0);
    plain_gguf g = plain_open(dir, "f.gguf");
    ck_assert(plain_tensor_find(&g, "output.weight", &t) && t.type == 8 && t.dim[0] == 32 && t.dim[1] == 96);
    expect_ok(cvt_gguf_open(path, &c), path);
    expect_ok(cvt_gguf_open_wide(path, &w), path);
    ck_assert_ptr_nonnull(strstr(cvt_gguf_losses(c), "Q8_0"));
    const int64_t i = cvt_ckpt_find(c, "lm_head.weight");
    ck_assert(c->tensors[i].dtype == FH1_BF16 && w->tensors[i].dtype == FH1_F32);
    expect_ok(cvt_ckpt_read(c, i, 0, sizeof narrow, narrow), "as the original");
    expect_ok(cvt_ckpt_read(w, i, 0, sizeof wide, wide), "wide");
    for (int k = 0; k < 96 * 32; k++) {
        const unsigned char *block = t.data + k / 32 * 34;
        const double v = (double)fh1_f16_to_f32((uint16_t)plain_int(block, 2)) * (signed char)block[2 + k % 32];
        ck_assert(wide[k] == (float)(v / 0.0390625));
        ck_assert_uint_eq(narrow[k], fh1_f64_to_bf16(v / 0.0390625));
    }
    cvt_ckpt_close(c);
    cvt_ckpt_close(w);
    free(g.b);
    scratch_remove(dir);
}
END_TEST

/* ---- files of others, and tampering ---- */

START_TEST(a_file_without_private_keys_is_a_model_too)
{
    char dir[256], path[512], back[512];
    static fh1_config k;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    export_as("golden/models/mini-34b", path, CVT_GGUF_F32);
    replace_in(dir, "f.gguf", "fh1.folded", "xyz.folded");
    cvt_ckpt *c = open_model(path);
    expect_ok(cvt_ckpt_config(c, &k), path);
    ck_assert(k.m_emb == 1 && k.m_key == 1 && k.m_ssm[3] == 1 && k.eps == 1e-5 && k.rope.theta == 1e11);
    ck_assert(k.D == 40 && k.G == 2 && k.H == 4 && k.P == 12 && k.mamba_rms_norm && !k.tied && !k.mlp_bias);
    ck_assert_str_eq(cvt_ckpt_meta(c, "fh1.folded"), "true");
    ck_assert_ptr_nonnull(strstr(cvt_gguf_losses(c), "multipliers"));
    plain_gguf g = plain_open(dir, "f.gguf");
    plain_tensor t;
    float v[40];
    ck_assert(plain_tensor_find(&g, "token_embd.weight", &t));
    expect_ok(cvt_ckpt_read_rows(c, cvt_ckpt_find(c, "model.embed_tokens.weight"), 3, 1, v), "a row");
    ck_assert_int_eq(memcmp(v, t.data + 3 * 40 * 4, sizeof v), 0);
    free(g.b);
    path_in(back, sizeof back, dir, "again.gguf");
    expect_error(cvt_gguf_write(c, back, CVT_GGUF_F32, &forced), FH1_E_INPUT, "already", "GGUF again");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(tampering_is_found)
{
    char dir[256], path[512];
    cvt_ckpt *c;
    plain_tensor t;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    export_as("golden/models/mini-34b", path, CVT_GGUF_F32);
    plain_gguf g = plain_open(dir, "f.gguf");
    expect_ok(cvt_gguf_verify(path, NULL), path);
    ck_assert(plain_tensor_find(&g, "blk.1.ssm_in.weight", &t));
    g.b[t.data - g.b + 1000] ^= 1;
    write_bytes(dir, "f.gguf", g.b, g.n);
    expect_error(cvt_gguf_verify(path, NULL), FH1_E_WRONG, "blk.1.ssm_in.weight", "a flipped bit");
    g.b[t.data - g.b + 1000] ^= 1;
    ck_assert(plain_tensor_find(&g, "blk.1.ssm_a", &t));
    g.b[t.data - g.b + 16] ^= 1; /* four heads: the first byte of the padding */
    write_bytes(dir, "f.gguf", g.b, g.n);
    expect_error(cvt_gguf_verify(path, NULL), FH1_E_WRONG, "between two tensors", "a flipped bit of the padding");
    g.b[t.data - g.b + 16] ^= 1;
    uint32_t type;
    const size_t theta = plain_find(&g, "falcon-h1.rope.freq_base", &type);
    g.b[theta + 2] ^= 1;
    write_bytes(dir, "f.gguf", g.b, g.n);
    expect_error(cvt_gguf_open(path, &c), FH1_E_INPUT, "rope.freq_base", "a key that contradicts config.json");
    g.b[theta + 2] ^= 1;
    float a;
    memcpy(&a, t.data, 4);
    a *= 2;
    memcpy(g.b + (t.data - g.b), &a, 4);
    write_bytes(dir, "f.gguf", g.b, g.n);
    expect_ok(cvt_gguf_open(path, &c), "another decay"); /* what the file says counts, not what it said once */
    float log_of[4];
    expect_ok(cvt_ckpt_read_rows(c, cvt_ckpt_find(c, "model.layers.1.mamba.A_log"), 0, 4, log_of), "A_log");
    ck_assert(fh1_within(fabs((double)log_of[0] - log(-(double)a)), 1e-6));
    cvt_ckpt_close(c);
    replace_in(dir, "f.gguf", "falcon-h1", "falcon-h2");
    expect_error(cvt_gguf_open(path, &c), FH1_E_INPUT, "falcon-h2", "another architecture");
    free(g.b);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {sixteen_bits_come_back_from_f32, losses_are_counted, blocks_are_decoded,
                                  a_file_without_private_keys_is_a_model_too, tampering_is_found};
    return run_tests("gguf_import", tests, sizeof tests / sizeof *tests);
}
