/* JSON strings as Python's json.dumps spells them, with and without ensure_ascii. The planted fault: the other one. */
#include "convert/text.h"

#include "tests/convert_test.h"

START_TEST(json_strings_are_pythons)
{
    static const char text[] = "a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
    cvt_text b = {0};
    cvt_text_json(&b, text, true);
    ck_assert_str_eq(b.s, "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\\u00e9\\u20ac\\ud83d\\ude00\"");
    char *other = b.s;
    b = (cvt_text){0};
    cvt_text_json(&b, text, false);
    ck_assert_str_ne(b.s, other);
    free(other);
    ck_assert_str_eq(b.s, "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    free(b.s);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {json_strings_are_pythons};
    return run_tests("text", tests, 1);
}
