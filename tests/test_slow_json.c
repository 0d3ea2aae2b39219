/* The second reader of JSON that the fuzz targets judge the first one by (fuzz/slow_json.h): a table of texts of which
 * RFC 8259 and json.h leave no doubt, what the tree says, and each rule taken out: the table notices. */
#include "convert/json.h"
#include "fuzz/slow_json.c"
#include "tests/convert_test.h"

enum { DEPTH = 4 };

typedef struct {
    const char *text;
    bool good;
    const char *rule; /* what refuses it, where that can be taken out */
} sample;

static const sample samples[] = {
    {"{}", true, NULL},
    {"[]", true, NULL},
    {" \t\r\n[ \t\r\n] \t\r\n", true, NULL},
    {"null", true, NULL},
    {"true", true, NULL},
    {"false", true, NULL},
    {"\"\"", true, NULL},
    {"0", true, NULL},
    {"-0", true, NULL},
    {"10", true, NULL},
    {"-1.5e-3", true, NULL},
    {"1E+05", true, NULL},
    {"0.0", true, NULL},
    {"0e0", true, NULL},
    {"1e308", true, NULL},
    {"1e-999", true, NULL},
    {"18446744073709551616", true, NULL},
    {"123456789012345678901234567890123456789012345678901234567890123", true, NULL}, /* 63 characters */
    {"[[[[]]]]", true, NULL},
    {"[{\"a\":[{}]}]", true, NULL},
    {"[1,2 , 3]", true, NULL},
    {"{\"a\":1,\"b\" : 2}", true, NULL},
    {"{\"a\":{\"a\":1}}", true, NULL},
    {"{\"A\":1,\"a\":2}", true, NULL},
    {"{\"\":1}", true, NULL},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\uD83d\\uDe00\"", true, NULL},
    {"\"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"", true,
     NULL},
    {"\"[[[[[[[[[[[\"", true, NULL},

    {"", false, NULL},
    {" ", false, NULL},
    {"{", false, NULL},
    {"}", false, NULL},
    {"[", false, NULL},
    {"[1", false, NULL},
    {"[1,", false, NULL},
    {"[1,]", false, NULL},
    {"[,1]", false, NULL},
    {"[1 2]", false, NULL},
    {"[1}", false, NULL},
    {"[1]]", false, NULL},
    {"[1],", false, NULL},
    {"{} {}", false, NULL},
    {"{\"a\"}", false, NULL},
    {"{\"a\":}", false, NULL},
    {"{\"a\" 1}", false, NULL},
    {"{\"a\":1,}", false, NULL},
    {"{,}", false, NULL},
    {"{a:1}", false, NULL},
    {"{1:1}", false, NULL},
    {"{'a':1}", false, NULL},
    {"{\"a\":1:2}", false, NULL},
    {"[\"a\":1]", false, NULL},
    {"\xef\xbb\xbf{}", false, NULL},
    {"[1] // note", false, NULL},
    {"[1]\v", false, NULL},
    {"\f[1]", false, NULL},
    {"\xc2\xa0[1]", false, NULL},
    {"nul", false, NULL},
    {"nulls", false, NULL},
    {"True", false, NULL},
    {"NaN", false, NULL},
    {"-Infinity", false, NULL},
    {"01", false, "zeros"},
    {"-012", false, "zeros"},
    {"00", false, "zeros"},
    {"+1", false, NULL},
    {"-", false, NULL},
    {"--1", false, NULL},
    {"1.", false, NULL},
    {".5", false, NULL},
    {"1.e3", false, NULL},
    {"1e", false, NULL},
    {"1e+", false, NULL},
    {"0x10", false, NULL},
    {"1_0", false, NULL},
    {"1e999", false, NULL},
    {"1234567890123456789012345678901234567890123456789012345678901234", false, NULL}, /* 64 characters */
    {"[[[[[]]]]]", false, "depth"},
    {"{\"a\":{\"a\":{\"a\":{\"a\":[]}}}}", false, "depth"},
    {"\"", false, NULL},
    {"\"a", false, NULL},
    {"\"\\\"", false, NULL},
    {"\"\\", false, NULL},
    {"\"a\nb\"", false, NULL},
    {"\"a\tb\"", false, NULL},
    {"\"\\x41\"", false, NULL},
    {"\"\\a\"", false, NULL},
    {"\"\\U0041\"", false, NULL},
    {"\"\\u004\"", false, NULL},
    {"\"\\u12g4\"", false, NULL},
    {"\"\\u+041\"", false, NULL},
    {"\"\\u0000\"", false, "nul"},
    {"{\"a\\u0000b\":1}", false, "nul"},
    {"\"\\ud800\"", false, "surrogates"},
    {"\"\\udc00\"", false, "surrogates"},
    {"\"\\udc00\\ud800\"", false, "surrogates"},
    {"\"\\ud800\\ud800\"", false, "surrogates"},
    {"\"\\ud800x\"", false, "surrogates"},
    {"\"\\ud800\\n\"", false, "surrogates"},
    {"\"\xff\"", false, NULL},
    {"\"\x80\"", false, NULL},
    {"\"\xc3\"", false, NULL},
    {"\"\xc3(\"", false, NULL},
    {"\"\xe2\x82\"", false, NULL},
    {"\"\xc0\xaf\"", false, "utf8"},
    {"\"\xc1\xbf\"", false, "utf8"},
    {"\"\xe0\x9f\xbf\"", false, "utf8"},
    {"\"\xf0\x8f\xbf\xbf\"", false, "utf8"},
    {"\"\xed\xa0\x80\"", false, "utf8"},
    {"\"\xed\xbf\xbf\"", false, "utf8"},
    {"\"\xf4\x90\x80\x80\"", false, "utf8"},
    {"\"\xf8\x88\x80\x80\x80\"", false, NULL},
    {"{\"a\":1,\"a\":1}", false, "duplicates"},
    {"{\"a\":1,\"\\u0061\":2}", false, "duplicates"},
    {"{\"\":1,\"\":2}", false, "duplicates"},
    {"[{\"x\":[],\"y\":1,\"x\":[]}]", false, "duplicates"},
    {"{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\ude00\":2}", false, "duplicates"},
};

enum { SAMPLES = sizeof samples / sizeof *samples };

/* In a block of exactly n bytes, so that a sanitizer sees a read behind the text. */
static bool reads(const char *text, size_t n, int depth)
{
    char *copy = malloc(n ? n : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, text, n);
    slow_json *v = slow_json_read(copy, n, depth);
    free(copy);
    slow_json_free(v);
    return v != NULL;
}

START_TEST(both_readers_say_what_the_table_says)
{
    for (size_t i = 0; i < SAMPLES; i++) {
        const sample *s = &samples[i];
        cJSON *v;
        bool fast = cvt_json_parse(s->text, strlen(s->text), DEPTH, "text", &v) == NULL;
        cJSON_Delete(v);
        ck_assert_msg(reads(s->text, strlen(s->text), DEPTH) == s->good, "slow: %s", s->text);
        ck_assert_msg(fast == s->good, "fast: %s", s->text);
    }
    ck_assert(!reads("[1\0]", 4, DEPTH));
    ck_assert(!reads("\"\0\"", 3, DEPTH));
    ck_assert(!reads("[]\0", 3, DEPTH));
    ck_assert(reads("1", 1, 0) && !reads("[]", 2, 0));
}
END_TEST

START_TEST(beginnings_of_a_good_text_are_refused)
{
    const char *text = "{\"a\":[1.5e3,-0,true,\"\\ud83d\\ude00\xc3\xa9\"],\"b\":null} ";
    for (size_t n = 0; n <= strlen(text); n++)
        ck_assert_msg(reads(text, n, DEPTH) == (n + 1 >= strlen(text)), "%.*s", (int)n, text);
}
END_TEST

START_TEST(a_rule_taken_out_is_noticed)
{
    static const char *const rules[] = {"duplicates", "surrogates", "utf8", "nul", "depth", "zeros"};
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        int n = 0;
        slow_json_without = rules[r];
        for (size_t i = 0; i < SAMPLES; i++) {
            const sample *s = &samples[i];
            bool of_rule = s->rule && strcmp(s->rule, rules[r]) == 0;
            ck_assert_msg(reads(s->text, strlen(s->text), DEPTH) == (s->good || of_rule), "without %s: %s", rules[r],
                          s->text);
            n += of_rule;
        }
        slow_json_without = NULL;
        ck_assert_msg(n > 1, "no sample for %s", rules[r]);
    }
}
END_TEST

START_TEST(the_tree_is_the_text)
{
    const char *text = "{\"a\\u00e9\":[1,-0,2.0,9007199254740992,9007199254740993,-9007199254740992,1e2],"
                       "\"s\":\"\\ud83d\\ude00\\n\",\"n\":null,\"o\":{\"t\":true,\"f\":false}}";
    slow_json *v = slow_json_read(text, strlen(text), DEPTH);
    ck_assert_ptr_nonnull(v);
    ck_assert_uint_eq(v->n, 4);
    const slow_json *a = slow_json_member(v, "a\xc3\xa9"), *e = a->first;
    static const int64_t want[] = {1, 0, 0, INT64_C(1) << 53, 0, -(INT64_C(1) << 53), 0};
    ck_assert_uint_eq(a->n, 7);
    for (int i = 0; i < 7; i++, e = e->next) {
        int64_t got = 0;
        ck_assert_int_eq(slow_json_integer(e, &got), want[i] != 0);
        ck_assert_int_eq(got, want[i]);
    }
    ck_assert_ptr_null(e);
    ck_assert(slow_json_double(a->first->next->next) == 2.0);
    ck_assert_str_eq(slow_json_member(v, "s")->text, "\xf0\x9f\x98\x80\n");
    ck_assert_int_eq(slow_json_member(v, "n")->kind, SLOW_NULL);
    ck_assert_int_eq(slow_json_member(slow_json_member(v, "o"), "t")->kind, SLOW_TRUE);
    ck_assert_int_eq(slow_json_member(slow_json_member(v, "o"), "f")->kind, SLOW_FALSE);
    ck_assert_ptr_null(slow_json_member(v, "x"));
    ck_assert_ptr_null(slow_json_member(a, "x"));
    ck_assert_ptr_null(slow_json_member(NULL, "x"));
    slow_json_free(v);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {both_readers_say_what_the_table_says, beginnings_of_a_good_text_are_refused,
                                  a_rule_taken_out_is_noticed, the_tree_is_the_text};
    return run_tests("slow_json", tests, sizeof tests / sizeof *tests);
}
