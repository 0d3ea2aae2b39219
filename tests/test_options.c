/* The command line parser and ids files: every mistake is a status that names it, exit code 2. */
#include "cli/ids.h"
#include "cli/options.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *text;
static cli_list list;
static int64_t number;
static bool flag;

static fh1_status parse(int argc, const char *const *args, cli_list *words)
{
    static const cli_option options[] = {
        {"text", 't', CLI_TEXT, &text, 0, 0},
        {"list", 0, CLI_LIST, &list, 0, 0},
        {"number", 'n', CLI_INT, &number, 1, 100},
        {"flag", 0, CLI_FLAG, &flag, 0, 0},
    };
    static const cli_syntax syntax = {"test", "help text\n", options, 4, 1, 2, "WORD [WORD]"};
    bool done;
    text = NULL;
    number = -1;
    flag = false;
    cli_list_free(&list);
    cli_list_free(words);
    return cli_parse(&syntax, argc, (char **)(uintptr_t)args, words, &done);
}

#define PARSE(words, ...)                                                               \
    parse((int)(sizeof((const char *[]){"fh1", "test", __VA_ARGS__}) / sizeof(char *)), \
          (const char *[]){"fh1", "test", __VA_ARGS__}, words)

/* The message of a bad command line; it must be FH1_E_INPUT and point to the help. */
static void expect_bad(fh1_status s, const char *part)
{
    char line[2048];
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->code, FH1_E_INPUT);
    fh1_status_line(s, line, sizeof line);
    ck_assert_msg(strstr(line, part) != NULL, "'%s' does not name '%s'", line, part);
    ck_assert_msg(strstr(line, "fh1 test --help") != NULL, "'%s' has no hint", line);
}

START_TEST(good_command_lines)
{
    cli_list words = {0};
    ck_assert_ptr_null(PARSE(&words, "model", "--list", "a", "b", "--number", "7", "--list", "c", "--flag"));
    ck_assert_int_eq(words.n, 1);
    ck_assert_str_eq(words.items[0], "model");
    ck_assert_int_eq(list.n, 3);
    ck_assert_str_eq(list.items[2], "c");
    ck_assert_int_eq(number, 7);
    ck_assert(flag);

    ck_assert_ptr_null(PARSE(&words, "--text=x=y", "-n", "100", "--", "--model"));
    ck_assert_str_eq(text, "x=y");
    ck_assert_str_eq(words.items[0], "--model");
    cli_list_free(&words);
    cli_list_free(&list);
}
END_TEST

START_TEST(bad_command_lines)
{
    cli_list words = {0};
    expect_bad(PARSE(&words, "m", "--txet", "x"), "--txet");
    expect_bad(PARSE(&words, "m", "-x"), "-x");
    expect_bad(PARSE(&words, "m", "--text"), "--text");
    expect_bad(PARSE(&words, "m", "--text", "--flag"), "--text");
    expect_bad(PARSE(&words, "m", "--text", "a", "--text", "b"), "twice");
    expect_bad(PARSE(&words, "m", "--flag=1"), "--flag");
    expect_bad(PARSE(&words, "m", "--number", "0"), "1 to 100");
    expect_bad(PARSE(&words, "m", "--number", "101"), "101");
    expect_bad(PARSE(&words, "m", "--number", "7x"), "7x");
    expect_bad(PARSE(&words, "m", "--number", "99999999999999999999"), "99999999999999999999");
    expect_bad(PARSE(&words, "--flag"), "WORD");
    expect_bad(PARSE(&words, "a", "b", "c"), "'c'");
    cli_list_free(&words);
    cli_list_free(&list);
}
END_TEST

START_TEST(repro_is_quoted)
{
    const char *args[] = {"/some/where/fh1", "check", "plain-1.0", "two words", "it's", "", "*.ssd"};
    char *line = cli_repro(7, (char **)(uintptr_t)args);
    ck_assert_str_eq(line, "fh1 check plain-1.0 'two words' 'it'\\''s' '' '*.ssd'");
    free(line);
    /* what no terminal shows as it is: escaped, so that the line survives a report */
    const char *odd[] = {"fh1",         "check", "caf\xe9", "a\nb'c\\d", "\x1b[31m\xc3\xa9", "\xc3\xa9t\xc3\xa9",
                         "\xe2\x80\xae"};
    line = cli_repro(7, (char **)(uintptr_t)odd);
    ck_assert_str_eq(
        line,
        "fh1 check $'caf\\xe9' $'a\\x0ab\\'c\\\\d' $'\\x1b[31m\\xc3\\xa9' '\xc3\xa9t\xc3\xa9' $'\\xe2\\x80\\xae'");
    free(line);
}
END_TEST

/* The status of reading `content` as an ids file of a model with 10 tokens. */
static fh1_status read_ids(const char *content, size_t n, cli_ids *ids)
{
    char path[] = "/tmp/fh1-ids-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, content, n), (ssize_t)n);
    close(fd);
    fh1_status s = cli_ids_read(path, 10, ids);
    unlink(path);
    return s;
}

START_TEST(ids_are_padded_left)
{
    cli_ids ids;
    ck_assert_ptr_null(read_ids("1 2 3\n\t9  \n", 11, &ids));
    const int64_t want_ids[] = {1, 2, 3, 0, 0, 9}, want_mask[] = {1, 1, 1, 0, 0, 1},
                  want_positions[] = {0, 1, 2, 0, 0, 0};
    ck_assert_int_eq(ids.batch.B, 2);
    ck_assert_int_eq(ids.batch.T, 3);
    ck_assert_int_eq(ids.batch.mask_len, 3);
    ck_assert_mem_eq(ids.ids, want_ids, sizeof want_ids);
    ck_assert_mem_eq(ids.mask, want_mask, sizeof want_mask);
    ck_assert_mem_eq(ids.positions, want_positions, sizeof want_positions);
    cli_ids_free(&ids);

    ck_assert_ptr_null(read_ids("1 2\n3 4\n\n\n", 10, &ids)); /* empty lines at the end are fine */
    ck_assert_ptr_null(ids.mask);
    ck_assert_int_eq(ids.batch.mask_len, 0);
    cli_ids_free(&ids);
}
END_TEST

START_TEST(bad_ids_name_line_and_column)
{
    static const struct {
        const char *content, *part;
    } bad[] = {
        {"", "no token ids"}, {"\n\n", "no token ids"}, {"1 2\n\n3\n", "line 2"}, {"1 2\n3 x4\n", "line 2, column 3"},
        {"1 -1\n", "'-1'"},   {"1 10\n", "0 to 9"},     {"1,2\n", "'1,2'"},
    };
    char line[2048];
    cli_ids ids;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fh1_status s = read_ids(bad[i].content, strlen(bad[i].content), &ids);
        ck_assert_msg(s != NULL, "accepted: '%s'", bad[i].content);
        ck_assert_int_eq(s->code, FH1_E_INPUT);
        fh1_status_line(s, line, sizeof line);
        ck_assert_msg(strstr(line, bad[i].part) != NULL, "'%s' does not say '%s'", line, bad[i].part);
    }
    ck_assert_ptr_nonnull(read_ids("1\0002\n", 4, &ids)); /* a zero byte would end the line early */
    ck_assert_ptr_nonnull(cli_ids_read("/nonexistent/ids.txt", 10, &ids));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *t = tcase_create("command line");
    tcase_add_test(t, good_command_lines);
    tcase_add_test(t, bad_command_lines);
    tcase_add_test(t, repro_is_quoted);
    tcase_add_test(t, ids_are_padded_left);
    tcase_add_test(t, bad_ids_name_line_and_column);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
