/* The strict door to JSON. The fault that is planted in every table is cJSON without the rules before it: it
 * takes a good part of the texts that must be refused. */
#include "convert/json.h"
#include "tests/convert_test.h"

#include <math.h>

static fh1_status parse(const char *text, size_t n, int depth, cJSON **out)
{
    /* In a block of exactly n bytes, so that a sanitizer sees a read behind the text. */
    char *copy = malloc(n ? n : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, text, n);
    fh1_status s = cvt_json_parse(copy, n, depth, "text", out);
    free(copy);
    return s;
}

static bool cjson_takes(const char *text)
{
    cJSON *v = cJSON_ParseWithOpts(text, NULL, true);
    bool taken = v != NULL;
    cJSON_Delete(v);
    return taken;
}

static const struct {
    const char *text, *word;
} bad[] = {
    {"", "not well-formed"},
    {"  ", "not well-formed"},
    {"{", "not well-formed"},
    {"[1,]", "not well-formed"},
    {"{\"a\":1,}", "not well-formed"},
    {"{\"a\" 1}", "not well-formed"},
    {"{a:1}", "byte 1"},
    {"[1]]", "byte 3"},
    {"{} {}", "byte 3: there is more text"},
    {"[1 2]", "not well-formed"},
    {"\xef\xbb\xbf{}", "byte order mark"},
    {"[01]", "byte 1: this is not a JSON number"},
    {"[-01]", "not a JSON number"},
    {"[1.]", "not a JSON number"},
    {"[.5]", "byte 1"},
    {"[+1]", "byte 1"},
    {"[1e]", "not a JSON number"},
    {"[-]", "not a JSON number"},
    {"[0x10]", "not a JSON number"},
    {"[1e999]", "too large for a double"},
    {"[NaN]", "NaN is not JSON"},
    {"[0.0, Infinity]", "byte 6: Infinity is not JSON"},
    {"[-Infinity]", "-Infinity is not JSON"},
    {"[nulls]", "a JSON value was expected"},
    {"[True]", "a JSON value was expected"},
    {"[1]\x01", "byte 3: the byte 0x01"},
    {"[\x0b"
     "1]",
     "byte 1: the byte 0x0b"},
    {"[1] // note", "the byte 0x2f"},
    {"[\"a\nb\"]", "raw control character 0x0a"},
    {"[\"a]", "no closing quote"},
    {"[\"\\x41\"]", "escape"},
    {"[\"\\u12g4\"]", "escape"},
    {"[\"\\u0000\"]", "u0000"},
    {"[\"\\ud800\"]", "lone surrogate"},
    {"[\"\\ud800\\u0041\"]", "lone surrogate"},
    {"[\"\\udc00\"]", "lone surrogate"},
    {"[\"\xff\"]", "byte 2: the text is not valid UTF-8"},
    {"[\"\xc0\xaf\"]", "UTF-8"},         /* overlong */
    {"[\"\xe0\x80\xaf\"]", "UTF-8"},     /* overlong */
    {"[\"\xed\xa0\x80\"]", "UTF-8"},     /* surrogate */
    {"[\"\xf4\x90\x80\x80\"]", "UTF-8"}, /* above U+10FFFF */
    {"[\"\xe2\x82\"]", "UTF-8"},         /* cut */
    {"{\"a\":1,\"b\":2,\"a\":3}", "byte 13: the key \"a\" appears twice"},
    {"{\"a\":1,\"\\u0061\":3}", "byte 7: the key \"a\" appears twice"},
    {"{\"x\":[{\"\":1,\"\":2}]}", "appears twice"},
    {"[1, 1234567890123456789012345678901234567890123456789012345678901234]", "more than 63 characters"},
};

START_TEST(malformed_texts_are_refused)
{
    int n_lax = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cJSON *v = (cJSON *)&bad;
        expect_error(parse(bad[i].text, strlen(bad[i].text), 8, &v), FH1_E_INPUT, bad[i].word, bad[i].text);
        ck_assert_msg(v == NULL, "%s: a tree was handed out", bad[i].text);
        n_lax += cjson_takes(bad[i].text);
    }
    ck_assert_int_ge(n_lax, 15); /* of 46 with cJSON 1.7.15: what only our own rules refuse */
    cJSON *v;
    expect_error(parse("[1\0]", 4, 8, &v), FH1_E_INPUT, "the byte 0x00", "NUL in the text");
}
END_TEST

START_TEST(well_formed_texts_are_read)
{
    static const char *const good[] = {
        "{}",
        "[]",
        " \t\r\n[ ] \n",
        "null",
        "0",
        "-0",
        "-1.5e-3",
        "1E+5",
        "\"\\ud83d\\ude00 \\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\xf0\x9f\x98\x80\xed\x9f\xbf\xee\x80\x80\xc2\x80\"",
        "{\"a\":{\"a\":[{\"a\":1}]}}",
        "{\"A\":1,\"a\":2}",
        "\"NaN [[[[[[[[[[ {\"",
        "[1e308,5e-324,1e-999]",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cJSON *v;
        expect_ok(parse(good[i], strlen(good[i]), 5, &v), good[i]);
        cJSON_Delete(v);
    }
    /* Every beginning of a good text is either bad or good, and never read beyond its end. */
    const char *text = "{\"a\":[1.5e3,-0,true,\"\\ud83d\\ude00\xc3\xa9\"],\"b\":null} ";
    int n_good = 0;
    for (size_t n = 0; n <= strlen(text); n++) {
        cJSON *v;
        if (parse(text, n, 5, &v)) continue;
        cJSON_Delete(v);
        n_good++;
    }
    ck_assert_int_eq(n_good, 2); /* with and without the last blank */
}
END_TEST

START_TEST(depth_is_counted_outside_strings)
{
    cJSON *v;
    expect_ok(parse("[[\"[[[[\"]]", 10, 2, &v), "depth 2 of 2");
    cJSON_Delete(v);
    expect_error(parse("[[\"[[[[\"]]", 10, 1, &v), FH1_E_INPUT, "byte 1: brackets are nested deeper than 1",
                 "depth 2 of 1");
    size_t n = 1000000; /* a recursive parser would die here */
    char *deep = malloc(n);
    ck_assert_ptr_nonnull(deep);
    memset(deep, '[', n);
    expect_error(parse(deep, n, 16, &v), FH1_E_INPUT, "byte 16: brackets", "a million brackets");
    free(deep);
}
END_TEST

START_TEST(integers_are_what_the_text_says)
{
    const char *text = "[0,1,-7,9007199254740992,-9007199254740992, -0,2.0,1e2,0.5,9007199254740993,\"5\",true]";
    cJSON *v;
    expect_ok(parse(text, strlen(text), 2, &v), text);
    static const int64_t want[] = {0, 1, -7, 9007199254740992, -9007199254740992};
    int i = 0;
    for (const cJSON *e = v->child; e; e = e->next, i++) {
        int64_t got = 42;
        bool is = cvt_json_is_int(e, &got);
        ck_assert_msg(is == (i < 5), "element %d of %s", i, text);
        ck_assert_int_eq(got, i < 5 ? want[i] : 42);
    }
    ck_assert_int_eq(i, 12);
    /* The value alone would not tell: 2.0 and 2 are the same double. */
    ck_assert(cJSON_GetArrayItem(v, 6)->valuedouble == 2.0);
    cJSON_Delete(v);
}
END_TEST

START_TEST(values_are_found_in_the_text)
{
    const char *text = "{ \"a\" : [1, {\"dtype\": 1}], \"s\": \"dtype\", \"dtype\" : \"float32\" , \"z\":{\"y\":[]}}";
    size_t b, e;
    ck_assert(cvt_json_find_value(text, strlen(text), "dtype", &b, &e));
    ck_assert_int_eq(strncmp(text + b, "\"float32\"", e - b), 0);
    ck_assert_uint_eq(e - b, 9);
    ck_assert(cvt_json_find_value(text, strlen(text), "a", &b, &e));
    ck_assert_int_eq(strncmp(text + b, "[1, {\"dtype\": 1}]", e - b), 0);
    ck_assert(cvt_json_find_value(text, strlen(text), "z", &b, &e));
    ck_assert_uint_eq(e, strlen(text) - 1);
    ck_assert(!cvt_json_find_value(text, strlen(text), "y", &b, &e));
}
END_TEST

/* What is written again reads the same. The control: cJSON's printer changes some of these. */
START_TEST(values_are_written_and_compared_exactly)
{
    static const char *const texts[] = {"9007199254740991",
                                        "-9007199254740992",
                                        "1234567890123456",
                                        "1.0",
                                        "-0",
                                        "1e300",
                                        "4.9e-324",
                                        "0.1",
                                        "4.000000000000001",
                                        "9007199254740991.0",
                                        "[1,[],{},null,true,false]",
                                        "{\"b\":\"\\u0001\\\"\\\\/é\",\"a\":{\"x\":[1.5]}}"};
    int changed_by_cjson = 0;
    bool same;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cJSON *v, *w;
        int64_t a = 0, b = 0;
        expect_ok(parse(texts[i], strlen(texts[i]), 4, &v), texts[i]);
        char *text = cvt_json_print(v), *other = cJSON_PrintUnformatted(v);
        expect_ok(parse(text, strlen(text), 4, &w), text);
        expect_ok(cvt_json_same(v, w, &same), text);
        ck_assert_msg(same, "%s is written as %s", texts[i], text);
        ck_assert_int_eq(cvt_json_is_int(v, &a), cvt_json_is_int(w, &b));
        ck_assert_int_eq(a, b);
        cJSON_Delete(w);
        expect_ok(parse(other, strlen(other), 4, &w), other);
        expect_ok(cvt_json_same(v, w, &same), other);
        changed_by_cjson += !same;
        cJSON_Delete(w);
        cJSON_Delete(v);
        cJSON_free(other);
        free(text);
    }
    ck_assert_int_gt(changed_by_cjson, 0);
}
END_TEST

START_TEST(values_are_the_same_in_any_order_of_keys)
{
    static const struct {
        const char *a, *b;
        bool same;
    } pairs[] = {{"{\"a\":1,\"b\":[1,2]}", "{\"b\":[1,2],\"a\":1.0}", true},
                 {"{\"a\":1,\"b\":[1,2]}", "{\"b\":[2,1],\"a\":1}", false},
                 {"{\"a\":1}", "{\"a\":1,\"b\":1}", false},
                 {"{\"a\":1}", "{\"b\":1}", false},
                 {"4.0", "4.000000000000001", false}, /* an ulp, which cJSON_Compare lets pass */
                 {"[]", "{}", false},
                 {"null", "false", false},
                 {"\"\\u0061\"", "\"a\"", true}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        cJSON *v, *w;
        bool same;
        expect_ok(parse(pairs[i].a, strlen(pairs[i].a), 4, &v), pairs[i].a);
        expect_ok(parse(pairs[i].b, strlen(pairs[i].b), 4, &w), pairs[i].b);
        expect_ok(cvt_json_same(v, w, &same), pairs[i].a);
        ck_assert_msg(same == pairs[i].same, "%s and %s", pairs[i].a, pairs[i].b);
        cJSON_Delete(v);
        cJSON_Delete(w);
    }
}
END_TEST

START_TEST(files_are_checked_before_they_are_read)
{
    char dir[256], path[512];
    cJSON *v;
    scratch_new(dir, sizeof dir);
    write_text(dir, "a.json", "{\"a\": [1, 2]}");
    path_in(path, sizeof path, dir, "a.json");
    expect_ok(cvt_json_read(path, 13, 2, &v), path);
    cJSON_Delete(v);
    expect_error(cvt_json_read(path, 12, 2, &v), FH1_E_INPUT, "at most 12 bytes", "one byte too many");
    expect_error(cvt_json_read(dir, 100, 2, &v), FH1_E_INPUT, "folder", "a folder");
    path_in(path, sizeof path, dir, "none.json");
    expect_error(cvt_json_read(path, 100, 2, &v), FH1_E_INPUT, "none.json", "a missing file");
    path_in(path, sizeof path, dir, "fifo");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    expect_error(cvt_json_read(path, 100, 2, &v), FH1_E_INPUT, "not a regular file", "a pipe without writer");
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {malformed_texts_are_refused,
                                  well_formed_texts_are_read,
                                  depth_is_counted_outside_strings,
                                  integers_are_what_the_text_says,
                                  values_are_found_in_the_text,
                                  files_are_checked_before_they_are_read,
                                  values_are_written_and_compared_exactly,
                                  values_are_the_same_in_any_order_of_keys};
    return run_tests("json", tests, sizeof tests / sizeof *tests);
}
