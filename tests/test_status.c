/* Errors as values: one message on one printable line, whatever the names in it hold. */
#include "oracle/status.h"

#include <check.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* True for one line of valid UTF-8 without control characters: the judge of the tests below. */
static bool one_printable_line(const char *s)
{
    for (const unsigned char *p = (const unsigned char *)s; *p;) {
        int extra = *p < 0x80 ? 0 : *p < 0xc2 ? -1 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf5 ? 3 : -1;
        if (extra < 0 || *p < 0x20 || *p == 0x7f) return false;
        if (*p == 0xc2 && p[1] < 0xa0) return false;
        if (*p == 0xe0 && p[1] < 0xa0) return false;
        if (*p == 0xf0 && p[1] < 0x90) return false;
        if ((*p == 0xed && p[1] >= 0xa0) || (*p == 0xf4 && p[1] >= 0x90)) return false;
        if (*p == 0xe2 && p[1] == 0x80 && (p[2] >= 0xa8 && p[2] <= 0xae)) return false;
        p++;
        for (; extra > 0; extra--, p++)
            if ((*p & 0xc0) != 0x80) return false;
    }
    return true;
}

START_TEST(the_line_has_all_parts)
{
    char line[1024];
    fh1_status s = FH1_BAD("tensor '%s' has the wrong shape", "q_proj");
    s = fh1_where(s, "byte %d", 17);
    s = fh1_where(s, "model.safetensors");
    s = fh1_expected(s, "[64, 64]");
    s = fh1_found(s, "[64]");
    s = fh1_hint(s, "export it again");
    ck_assert_int_eq(s->code, FH1_E_INPUT);
    ck_assert_str_eq(fh1_status_line(s, line, sizeof line),
                     "model.safetensors: byte 17: tensor 'q_proj' has the wrong shape "
                     "(expected [64, 64], found [64]); export it again");
}
END_TEST

START_TEST(absent_parts_leave_no_trace)
{
    char line[1024];
    ck_assert_str_eq(fh1_status_line(FH1_BAD("no"), line, sizeof line), "no");
    ck_assert_str_eq(fh1_status_line(fh1_found(FH1_BAD("no"), "x"), line, sizeof line), "no (found x)");
    ck_assert_str_eq(fh1_status_line(fh1_expected(FH1_BAD("no"), "y"), line, sizeof line), "no (expected y)");
    ck_assert_str_eq(fh1_status_line(NULL, line, sizeof line), "no error");
    ck_assert_ptr_null(fh1_where(NULL, "somewhere"));
    ck_assert_ptr_null(fh1_hint(NULL, "something"));
}
END_TEST

START_TEST(parts_that_are_set_stay)
{
    fh1_status s = fh1_hint(fh1_expected(FH1_BAD("no"), "first"), "first hint");
    s = fh1_hint(fh1_expected(s, "second"), "second hint");
    ck_assert_str_eq(s->expected, "first");
    ck_assert_str_eq(s->hint, "first hint");
    s = FH1_BAD("a new error");
    ck_assert_str_eq(s->expected, ""); /* nothing of the old one is left */
    ck_assert_str_eq(s->hint, "");
}
END_TEST

START_TEST(an_error_may_quote_the_one_before)
{
    fh1_status s = FH1_BAD("inner");
    s = FH1_BAD("outer of %s", s->what);
    ck_assert_str_eq(s->what, "outer of inner");
    s = fh1_where(s, "%s, again", fh1_where(s, "here")->where);
    ck_assert_str_eq(s->where, "here, again: here");
}
END_TEST

START_TEST(hostile_names_are_escaped)
{
    static const char *const names[] = {
        "a\nb",
        "a\tb",
        "\x1b[2J",
        "\x7f",
        "\xff\xfe",
        "cut \xe2\x82",
        "\xc0\xaf",
        "\xed\xa0\x80",
        "\xf4\x90\x80\x80",
        "\xc2\x85",
        "\xe2\x80\xa8",
        "\xe2\x80\xae"
        "txt.exe",
        "\x80",
        "\xe2",
    };
    char line[1024];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ck_assert(!one_printable_line(names[i])); /* planted: what happens without escapes */
        fh1_status s = fh1_hint(fh1_found(fh1_where(FH1_BAD("x"), "%s", names[i]), "%s", names[i]), "%s", names[i]);
        fh1_status_line(s, line, sizeof line);
        ck_assert_msg(one_printable_line(line), "name %zu", i);
        ck_assert_ptr_nonnull(strstr(line, "\\x"));
    }
    ck_assert_str_eq(fh1_printable("a\nb\xff", line, sizeof line), "a\\x0ab\\xff");
    ck_assert_str_eq(fh1_printable("größe 模型 \xf0\x9f\x98\x80 \\n", line, sizeof line),
                     "größe 模型 \xf0\x9f\x98\x80 \\n");
}
END_TEST

START_TEST(short_buffers_cut_between_characters)
{
    char whole[64], line[64];
    const char *text = "é\n模x";
    fh1_printable(text, whole, sizeof whole);
    for (size_t size = 1; size <= strlen(whole) + 1; size++) {
        memset(line, '#', sizeof line);
        fh1_printable(text, line, size);
        ck_assert_uint_lt(strlen(line), size);
        ck_assert(one_printable_line(line));
        ck_assert_int_eq(strncmp(whole, line, strlen(line)), 0);
        ck_assert_int_eq(line[size], '#');
    }
    line[0] = '#';
    fh1_printable(text, line, 0);
    fh1_status_line(FH1_BAD("x"), line, 0);
    ck_assert_int_eq(line[0], '#');
}
END_TEST

START_TEST(long_parts_are_cut_and_say_so)
{
    char line[4096], text[2000];
    for (size_t i = 0; i + 1 < sizeof text; i += 2) memcpy(text + i, "é", 2);
    text[sizeof text - 2] = 0;
    for (int shift = 0; shift < 2; shift++) { /* either half of a character at the cut */
        fh1_status s = fh1_hint(FH1_BAD("%s%s", shift ? "x" : "", text), "%s%s", shift ? "x" : "", text);
        s = fh1_where(fh1_where(s, "%s", text), "outer%s", shift ? "x" : "");
        fh1_status_line(s, line, sizeof line);
        ck_assert_ptr_null(strstr(line, "\\x"));
        ck_assert_str_eq(line + strlen(line) - 3, "...");
        ck_assert_str_eq(s->what + strlen(s->what) - 3, "...");
        ck_assert_str_eq(s->where + strlen(s->where) - 3, "...");
        ck_assert_int_eq(strncmp(s->where, "outer", 5), 0);
    }
}
END_TEST

static void *fail_elsewhere(void *unused)
{
    (void)unused;
    return (void *)(intptr_t)(fh1_fail(FH1_E_WRONG, "from another thread")->code == FH1_E_WRONG);
}

START_TEST(each_thread_has_its_own)
{
    pthread_t other;
    void *ok = NULL;
    fh1_status s = FH1_BAD("from this thread");
    ck_assert_int_eq(pthread_create(&other, NULL, fail_elsewhere, NULL), 0);
    pthread_join(other, &ok);
    ck_assert_ptr_nonnull(ok);
    ck_assert_str_eq(s->what, "from this thread");
}
END_TEST

static fh1_status halves(int n, int *out)
{
    if (n % 2) return FH1_BAD("%d is odd", n);
    *out = n / 2;
    return NULL;
}

static fh1_status quarters(int n, int *out)
{
    int half = 0;
    FH1_TRY(halves(n, &half));
    return halves(half, out);
}

static fh1_status quarters_goto(int n, int *out, int *released)
{
    int half = 0;
    fh1_status s;
    FH1_TRY_GOTO(s, halves(n, &half), end);
    FH1_TRY_GOTO(s, halves(half, out), end);
end:
    ++*released;
    return s;
}

START_TEST(try_forwards_the_first_error)
{
    int q = 0, released = 0;
    ck_assert_ptr_null(quarters(12, &q));
    ck_assert_int_eq(q, 3);
    ck_assert_str_eq(quarters(13, &q)->what, "13 is odd");
    ck_assert_str_eq(quarters(14, &q)->what, "7 is odd");
    ck_assert_ptr_null(quarters_goto(16, &q, &released));
    ck_assert_str_eq(quarters_goto(13, &q, &released)->what, "13 is odd");
    ck_assert_int_eq(released, 2);
    ck_assert_int_eq(fh1_no_memory(7, "a test")->code, FH1_E_INTERNAL);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("status");
    tcase_add_test(c, the_line_has_all_parts);
    tcase_add_test(c, absent_parts_leave_no_trace);
    tcase_add_test(c, parts_that_are_set_stay);
    tcase_add_test(c, an_error_may_quote_the_one_before);
    tcase_add_test(c, hostile_names_are_escaped);
    tcase_add_test(c, short_buffers_cut_between_characters);
    tcase_add_test(c, long_parts_are_cut_and_say_so);
    tcase_add_test(c, each_thread_has_its_own);
    tcase_add_test(c, try_forwards_the_first_error);
    Suite *s = suite_create("status");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
