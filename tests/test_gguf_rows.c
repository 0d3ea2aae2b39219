/* Rows of a tensor of a GGUF file, any of them, are those of the whole: of every type that fh1 writes, and of vectors
 * in blocks, which other programs may write and where a row is a part of a block. Their numbers are decoded here by
 * hand. And what the file's tensors say is all that counts where nothing marks the file as one of fh1: planted are
 * private keys that say something else. */
#include "tests/gguf_models.h"

enum { BLOCK = 32, BLOCK_BYTES = 34 };

/* Vectors of whole blocks: norms of 32, biases of the MLP of 64 (with a factor), the mixer's norm of [64, 2]. */
static const char *const in_blocks[] = {"\"intermediate_size\": 56",
                                        "\"intermediate_size\": 64",
                                        "\"mlp_bias\": false",
                                        "\"mlp_bias\": true",
                                        "\"mamba_d_head\": 10",
                                        "\"mamba_d_head\": 64",
                                        "\"mamba_d_ssm\": 60",
                                        "\"mamba_d_ssm\": 128",
                                        "\"mamba_n_heads\": 6",
                                        "\"mamba_n_heads\": 2",
                                        "\"mamba_n_groups\": 1",
                                        "\"mamba_n_groups\": 2",
                                        "\"mamba_rms_norm\": false",
                                        "\"mamba_rms_norm\": true",
                                        "\"attention_bias\": false",
                                        "\"attention_bias\": true",
                                        NULL};

static void put_int(unsigned char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (unsigned char)(v >> 8 * i);
}

/* No element is 0, and none of the blocks' scales is another's. */
static double number(int64_t i)
{
    return (double)(1 << (i / BLOCK)) * (double)(i % BLOCK - 40);
}

/* The F32 vector becomes one of blocks; the tensors behind it move up. */
static void store_in_blocks(plain_gguf *g, const char *name)
{
    plain_tensor t;
    ck_assert_msg(plain_tensor_find(g, name, &t) && t.type == 0, "%s", name);
    const uint64_t n = t.dim[0] * t.dim[1], offset = (uint64_t)(t.data - g->b) - g->data_at;
    const uint64_t before = (4 * n + 31) / 32 * 32, after = (n / BLOCK * BLOCK_BYTES + 31) / 32 * 32;
    ck_assert_uint_eq(t.dim[0] % BLOCK, 0);
    for (uint64_t i = 0, at = g->infos_at; i < g->n_tensors; i++) {
        const size_t next = plain_info_end(g, at);
        const uint64_t its = plain_int(g->b + next - 8, 8);
        if (its > offset) put_int(g->b + next - 8, its - before + after, 8);
        if (its == offset) put_int(g->b + next - 12, 8, 4);
        at = next;
    }
    unsigned char *data = g->b + g->data_at + offset;
    const size_t behind = g->n - (size_t)(data - g->b) - before;
    memmove(data + after, data + before, behind);
    g->n -= before - after;
    memset(data, 0, after);
    for (uint64_t i = 0; i < n; i++) {
        unsigned char *block = data + i / BLOCK * BLOCK_BYTES;
        put_int(block, fh1_f32_to_f16((float)(1 << (i / BLOCK))), 2);
        block[2 + i % BLOCK] = (unsigned char)(int)(i % BLOCK - 40);
    }
}

/* Of all ranges of a short tensor, and of some of a long one, how many are not those of the whole `off` rows on. */
static int64_t strange_parts(cvt_ckpt *c, int64_t i, int64_t off)
{
    const cvt_ckpt_tensor *t = &c->tensors[i];
    const int64_t rows = cvt_ckpt_rows(t), step = rows > 32 ? rows / 11 : 1;
    const size_t row = cvt_ckpt_row_bytes(t), n = cvt_ckpt_tensor_bytes(t);
    unsigned char *whole = malloc(n), *part = malloc(n);
    int64_t strange = 0;
    ck_assert_uint_eq((size_t)rows * row, n);
    expect_ok(cvt_ckpt_read(c, i, 0, n, whole), t->name);
    for (int64_t a = 0; a < rows - off; a += step)
        for (int64_t b = rows - off; b > a; b -= step) {
            memset(part, 0xa5, n);
            expect_ok(cvt_ckpt_read_rows(c, i, a, b - a, part), t->name);
            strange += memcmp(part, whole + (size_t)(a + off) * row, (size_t)(b - a) * row) != 0;
        }
    free(whole);
    free(part);
    return strange;
}

static void expect_all_parts(const char *path)
{
    cvt_ckpt *c[2];
    expect_ok(cvt_gguf_open(path, &c[0]), path);
    expect_ok(cvt_gguf_open_wide(path, &c[1]), path);
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < c[k]->n_tensors; i++)
            ck_assert_msg(strange_parts(c[k], i, 0) == 0, "%s", c[k]->tensors[i].name);
        /* planted: the row before */
        ck_assert_int_gt(strange_parts(c[k], cvt_ckpt_find(c[k], "model.embed_tokens.weight"), 1), 0);
        cvt_ckpt_close(c[k]);
    }
}

START_TEST(rows_are_parts_of_the_whole)
{
    static const cvt_gguf_type types[] = {CVT_GGUF_F32, CVT_GGUF_F16, CVT_GGUF_BF16, CVT_GGUF_Q8_0};
    char dir[256], path[512], model[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    make_model(dir, "in_blocks", FH1_F32, in_blocks);
    zero_tensors(dir, "in_blocks", "o_proj.bias");
    path_in(model, sizeof model, dir, "in_blocks");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        export_as(model, path, types[i]);
        expect_all_parts(path);
        replace_in(dir, "f.gguf", "fh1.folded", "xyz.folded"); /* another program's: multipliers of 1 */
        expect_all_parts(path);
    }
    scratch_remove(dir);
}
END_TEST

static void expect_numbers(const char *path, const char *hf, int64_t n, double factor)
{
    cvt_ckpt *c;
    float v[128];
    expect_ok(cvt_gguf_open_wide(path, &c), path);
    const int64_t t = cvt_ckpt_find(c, hf);
    ck_assert_msg(t >= 0 && c->tensors[t].dtype == FH1_F32 && cvt_ckpt_rows(&c->tensors[t]) == n, "%s", hf);
    expect_ok(cvt_ckpt_read_rows(c, t, 0, n, v), hf);
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(v[i] == (float)(number(i) / factor), "%s, element %" PRId64 ": %g, expected %g", hf, i,
                      (double)v[i], number(i) / factor);
    cvt_ckpt_close(c);
}

START_TEST(vectors_in_blocks)
{
    char dir[256], path[512], model[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    make_model(dir, "in_blocks", FH1_BF16, in_blocks);
    zero_tensors(dir, "in_blocks", "o_proj.bias");
    path_in(model, sizeof model, dir, "in_blocks");
    export_as(model, path, CVT_GGUF_F32);
    plain_gguf g = plain_open(dir, "f.gguf");
    store_in_blocks(&g, "blk.0.attn_norm.weight");
    store_in_blocks(&g, "blk.1.ffn_gate.bias");
    store_in_blocks(&g, "blk.2.ssm_norm.weight");
    write_bytes(dir, "f.gguf", g.b, g.n);
    free(g.b);
    expect_ok(cvt_gguf_verify(path, NULL), path);
    cvt_ckpt *c = open_model(path);
    ck_assert_ptr_nonnull(strstr(cvt_gguf_losses(c), "3 tensors are stored as Q8_0"));
    cvt_ckpt_close(c);
    expect_numbers(path, "model.layers.0.input_layernorm.weight", 32, 1);
    expect_numbers(path, "model.layers.1.feed_forward.gate_proj.bias", 64, 0.8838834764831844);
    expect_numbers(path, "model.layers.2.mamba.norm.weight", 128, 1);
    expect_all_parts(path);
    scratch_remove(dir);
}
END_TEST

/* Types, originals and names of left out files are there and not looked at: as they are, and when they are nonsense. */
START_TEST(without_the_mark_only_tensors_count)
{
    char dir[256], path[512];
    plain_tensor t;
    cvt_ckpt *c;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "f.gguf");
    export_as("golden/models/mini-34b-bf16", path, CVT_GGUF_F32);
    replace_in(dir, "f.gguf", "fh1.dtypes", "fh1.dtypos");
    expect_error(cvt_gguf_open(path, &c), FH1_E_INPUT, "not one type for each tensor", "a file of fh1");
    for (int round = 0; round < 2; round++) {
        if (round) replace_in(dir, "f.gguf", "fh1.dtypos", "fh1.dtypes");
        else replace_in(dir, "f.gguf", "fh1.folded", "xyz.folded");
        plain_gguf g = plain_open(dir, "f.gguf");
        expect_ok(cvt_gguf_open(path, &c), path);
        for (int64_t i = 0; i < c->n_tensors; i++) ck_assert_int_eq(c->tensors[i].dtype, FH1_F32);
        ck_assert(plain_tensor_find(&g, "token_embd.weight", &t));
        const int64_t i = cvt_ckpt_find(c, "model.embed_tokens.weight");
        const size_t n = cvt_ckpt_tensor_bytes(&c->tensors[i]);
        char *v = malloc(n);
        expect_ok(cvt_ckpt_read(c, i, 0, n, v), "the embedding");
        ck_assert_int_eq(memcmp(v, t.data, n), 0); /* products with the multiplier: no bf16 */
        free(v);
        free(g.b);
        cvt_ckpt_close(c);
    }
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {rows_are_parts_of_the_whole, vectors_in_blocks, without_the_mark_only_tensors_count};
    return run_tests("gguf_rows", tests, sizeof tests / sizeof *tests);
}
