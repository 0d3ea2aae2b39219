/* The vocabulary of a GGUF file from tokenizer.json, by a second reader. Planted: tokenizers that cannot be represented
 * or contradict the embedding, each refused by the place in tokenizer.json. */
#include "tests/gguf_models.h"

#define TOKENIZER(model, added, rest)                                                                                \
    "{\"version\":\"1.0\",\"added_tokens\":[" added "],\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" \
    "{\"type\":\"Split\"},{\"type\":\"ByteLevel\"}]}," rest "\"model\":" model "}"
#define BPE "{\"type\":\"BPE\",\"vocab\":{\"a\":3,\"b\":4,\"ab\":5,\"\xc4\xa0\":6},\"merges\":"
#define ADDED                                              \
    "{\"id\":0,\"content\":\"<pad>\",\"special\":false},"  \
    "{\"id\":1,\"content\":\"<|bos|>\",\"special\":true}," \
    "{\"id\":2,\"content\":\"<|eos|>\",\"special\":true}," \
    "{\"id\":9,\"content\":\"two words\",\"special\":false}"
#define ADDS_BOS                                                                                              \
    "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"TemplateProcessing\",\"single\":[" \
    "{\"SpecialToken\":{\"id\":\"<|bos|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}]},"

static char dir[256], model[512], target[512];

static void setup_model(const char *tokenizer, const char *settings)
{
    make_model(dir, "model", FH1_F32, NULL);
    path_in(model, sizeof model, dir, "model");
    path_in(target, sizeof target, dir, "f.gguf");
    write_text(model, "tokenizer.json", tokenizer);
    if (settings) write_text(model, "tokenizer_config.json", settings);
}

static plain_gguf export_vocabulary(const char *tokenizer, const char *settings)
{
    setup_model(tokenizer, settings);
    export_as(model, target, CVT_GGUF_F32);
    return plain_open(dir, "f.gguf");
}

static void expect_bool(const plain_gguf *g, const char *key, bool v)
{
    uint32_t type;
    const size_t at = plain_find(g, key, &type);
    ck_assert_msg(at != 0 && type == 7 && g->b[at] == v, "%s is not %d", key, v);
}

START_TEST(tokens_merges_and_numbers)
{
    uint32_t type;
    scratch_new(dir, sizeof dir);
    plain_gguf g = export_vocabulary(
        TOKENIZER(BPE "[\"a b\",[\"\xc4\xa0\",\"a\"],[\" \",\"b\"]]}", ADDED, ADDS_BOS),
        "{\"bos_token\":{\"content\":\"<|bos|>\"},\"eos_token\":\"<|eos|>\",\"pad_token\":\"<pad>\",\"unk_token\":null,"
        "\"add_bos_token\":false,\"chat_template\":[{\"name\":\"tool\",\"template\":\"T\"},{\"name\":\"default\","
        "\"template\":\"D\"}]}");
    expect_text(&g, "tokenizer.ggml.model", "gpt2");
    expect_text(&g, "tokenizer.ggml.pre", "falcon-h1");
    static const char *const tokens[] = {"<pad>", "<|bos|>",  "<|eos|>", "a",      "b",
                                         "ab",    "\xc4\xa0", "[PAD7]",  "[PAD8]", "two words"};
    static const uint32_t types[] = {3, 3, 3, 1, 1, 1, 1, 5, 5, 4};
    const size_t at = plain_find(&g, "tokenizer.ggml.token_type", &type);
    ck_assert(type == 9 && plain_int(g.b + at, 4) == 5 && plain_int(g.b + at + 4, 8) == 96);
    for (uint64_t i = 0; i < 10; i++) {
        expect_item(&g, "tokenizer.ggml.tokens", i, tokens[i]);
        ck_assert_uint_eq(plain_int(g.b + at + 12 + 4 * i, 4), types[i]);
    }
    expect_item(&g, "tokenizer.ggml.tokens", 95, "[PAD95]");
    expect_item(&g, "tokenizer.ggml.merges", 0, "a b");
    expect_item(&g, "tokenizer.ggml.merges", 1, "\xc4\xa0 a");
    expect_item(&g, "tokenizer.ggml.merges", 2, "\xc4\xa0 b"); /* a space in a half is spelled as its byte */
    expect_uint(&g, "tokenizer.ggml.bos_token_id", 1);
    expect_uint(&g, "tokenizer.ggml.eos_token_id", 2);
    expect_uint(&g, "tokenizer.ggml.padding_token_id", 0);
    ck_assert_uint_eq(plain_find(&g, "tokenizer.ggml.unknown_token_id", &type), 0);
    expect_bool(&g, "tokenizer.ggml.add_bos_token", true); /* the tokenizer does it, whatever the settings say */
    expect_bool(&g, "tokenizer.ggml.add_eos_token", false);
    expect_text(&g, "tokenizer.chat_template", "D");
    free(g.b);
    scratch_remove(dir);
}
END_TEST

START_TEST(without_settings)
{
    scratch_new(dir, sizeof dir);
    make_model(dir, "model", FH1_F32, NULL);
    path_in(model, sizeof model, dir, "model");
    write_text(model, "chat_template.jinja", "{{ x }}");
    write_text(model, "tokenizer.json", TOKENIZER(BPE "[]}", ADDED, ""));
    path_in(target, sizeof target, dir, "f.gguf");
    export_as(model, target, CVT_GGUF_F32);
    plain_gguf g = plain_open(dir, "f.gguf");
    expect_uint(&g, "tokenizer.ggml.bos_token_id", 1);
    expect_uint(&g, "tokenizer.ggml.eos_token_id", 11); /* of config.json */
    expect_bool(&g, "tokenizer.ggml.add_bos_token", false);
    expect_text(&g, "tokenizer.chat_template", "{{ x }}");
    free(g.b);
    scratch_remove(dir);
}
END_TEST

START_TEST(what_cannot_be_represented)
{
    static const struct {
        const char *tokenizer, *word;
    } bad[] = {
        {"{", "tokenizer.json"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "model.type"},
        {"{\"version\":\"1.0\"}", "model.type"},
        {"{\"model\":" BPE "[]}}", "pre_tokenizer"},
        {TOKENIZER("{\"type\":\"BPE\",\"merges\":[]}", "", ""), "model.vocab"},
        {TOKENIZER("{\"type\":\"BPE\",\"vocab\":{\"a\":96},\"merges\":[]}", "", ""), "no row in the embedding"},
        {TOKENIZER("{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", "", ""), "not a text with a number"},
        {TOKENIZER("{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}", "", ""), "not a text with a number"},
        {TOKENIZER("{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}", "", ""), "have the number 1"},
        {TOKENIZER(BPE "[]}", "{\"id\":3,\"content\":\"c\"}", ""), "have the number 3"},
        {TOKENIZER(BPE "[]}", "{\"id\":8}", ""), "added_tokens"},
        {TOKENIZER(BPE "[[\"a\"]]}", "", ""), "model.merges"},
        {TOKENIZER(BPE "[[\"a\",\"b\",\"c\"]]}", "", ""), "model.merges"},
        {TOKENIZER(BPE "3}", "", ""), "model.merges"},
    };
    scratch_new(dir, sizeof dir);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setup_model(bad[i].tokenizer, NULL);
        cvt_ckpt *c = open_model(model);
        expect_error(cvt_gguf_write(c, target, CVT_GGUF_F32, &forced), FH1_E_INPUT, bad[i].word, bad[i].tokenizer);
        ck_assert_int_ne(access(target, F_OK), 0);
        cvt_ckpt_close(c);
    }
    setup_model(TOKENIZER(BPE "[]}", "", ""), NULL);
    export_as(model, target, CVT_GGUF_F32);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {tokens_merges_and_numbers, without_settings, what_cannot_be_represented};
    return run_tests("gguf_vocabulary", tests, sizeof tests / sizeof *tests);
}
