/* Documents in a text file: ids checked with line and column, packed whole into rows, epoch after epoch, and found
 * again from a place that was written down. */
#include "cli/train_data.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64];

static void write_file(const char *text, size_t n)
{
    snprintf(path, sizeof path, "/tmp/fh1-train-data.%ld", (long)getpid());
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, n, f), n);
    fclose(f);
}

static void remove_file(void)
{
    unlink(path);
}

static cli_train_data *open_text(const char *text, int64_t T, int64_t shuffle)
{
    cli_train_data *d = NULL;
    char line[2048];
    write_file(text, strlen(text));
    fh1_status s = cli_train_data_open(path, 100, T, shuffle, &d);
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
    return d;
}

static void refused(const char *text, size_t n, int64_t T, const char *part)
{
    cli_train_data *d = NULL;
    char line[2048];
    write_file(text, n);
    fh1_status s = cli_train_data_open(path, 100, T, -1, &d);
    ck_assert_msg(s && s->code == FH1_E_INPUT && !d, "not refused: %s", part);
    ck_assert_msg(strstr(fh1_status_line(s, line, sizeof line), part), "'%s' is not in: %s", part, line);
}

/* "1 2|3 .:0 1|0;..." One row: ids with a bar before each new document, points for padding. */
static const char *row_text(const cli_train_batch *b, int64_t row, char *buf, size_t size)
{
    const int64_t T = b->batch.T;
    size_t n = 0;
    buf[0] = '\0';
    for (int64_t t = 0; t < T; t++) {
        const int64_t at = row * T + t;
        const bool begins = t && b->batch.seq_idx[at] != b->batch.seq_idx[at - 1];
        if (!b->batch.mask[at]) n += (size_t)snprintf(buf + n, size - n, ".");
        else n += (size_t)snprintf(buf + n, size - n, "%s%lld ", begins ? "|" : "", (long long)b->batch.ids[at]);
    }
    return buf;
}

#define ROW(b, row, text)                                                       \
    do {                                                                        \
        char row_buf_[512];                                                     \
        ck_assert_str_eq(row_text(&(b), row, row_buf_, sizeof row_buf_), text); \
    } while (0)

static void next(cli_train_data *d, cli_train_batch *b)
{
    char line[2048];
    fh1_status s = cli_train_data_next(d, b);
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

START_TEST(rows_take_whole_documents)
{
    /* 3 fits, 2 fits (5 of 6), 4 does not: padding; then 4 and 2 fill a row to the last column */
    cli_train_data *d = open_text("1 2 3\n4 5\n\n6 7 8 9\n10 11\n12 13\n", 6, -1);
    cli_train_batch b;
    ck_assert_ptr_null(cli_train_batch_new(2, 6, &b));
    next(d, &b);
    ROW(b, 0, "1 2 3 |4 5 .");
    ROW(b, 1, "6 7 8 9 |10 11 ");
    ck_assert_int_eq(b.n_tokens, 11);
    ck_assert_int_eq(b.n_labels, 7);
    next(d, &b); /* the last document stands alone: the next epoch begins with a row of its own */
    ROW(b, 0, "12 13 ....");
    ROW(b, 1, "1 2 3 |4 5 .");
    const cli_train_facts *f = cli_train_data_facts(d);
    ck_assert_int_eq(f->documents, 5);
    ck_assert_int_eq(f->tokens, 13);
    ck_assert_int_eq(f->labels, 8);
    cli_train_batch_free(&b);
    cli_train_data_free(d);
}
END_TEST

START_TEST(loss_never_crosses_documents)
{
    cli_train_data *d = open_text("1 2 3\n4 5\n", 6, -1);
    cli_train_batch b;
    static const int64_t labels[] = {-100, 2, 3, -100, 5, -100}, positions[] = {0, 1, 2, 0, 1, 0},
                         documents[] = {0, 0, 0, 1, 1, 1}, mask[] = {1, 1, 1, 1, 1, 0};
    ck_assert_ptr_null(cli_train_batch_new(1, 6, &b));
    next(d, &b);
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(b.batch.labels[i], labels[i]);
        ck_assert_int_eq(b.batch.positions[i], positions[i]);
        ck_assert_int_eq(b.batch.seq_idx[i], documents[i]);
        ck_assert_int_eq(b.batch.mask[i], mask[i]);
    }
    cli_train_batch_free(&b);
    cli_train_data_free(d);
}
END_TEST

START_TEST(long_documents_are_cut)
{
    /* 1 to 9 in pieces of 4, 4, 1; a piece never joins another one of its document, though it may share a row */
    cli_train_data *d = open_text("20 21\n1 2 3 4 5 6 7 8 9\n30 31 32\n1 2 3 4\n40", 4, -1);
    cli_train_batch b;
    ck_assert_ptr_null(cli_train_batch_new(6, 4, &b));
    next(d, &b);
    ROW(b, 0, "20 21 ..");
    ROW(b, 1, "1 2 3 4 ");
    ROW(b, 2, "5 6 7 8 ");
    ROW(b, 3, "9 |30 31 32 ");
    ROW(b, 4, "1 2 3 4 "); /* its length is that of a row: nothing is left of it */
    ROW(b, 5, "40 ...");
    ck_assert_int_eq(cli_train_data_facts(d)->labels, b.n_labels);
    cli_train_batch_free(&b);
    cli_train_data_free(d);
}
END_TEST

/* A line longer than the window of the reader, and ids across the border between two windows. */
START_TEST(lines_may_be_long)
{
    enum { N = 120000, T = 1000 };
    char *text = malloc(4 * N), *at = text;
    for (int i = 0; i < N; i++) at += sprintf(at, "%d%c", 10 + i % 90, i == N / 2 ? '\n' : ' ');
    write_file(text, (size_t)(at - text));
    cli_train_data *d = NULL;
    cli_train_batch b;
    ck_assert_ptr_null(cli_train_data_open(path, 100, T, -1, &d));
    ck_assert_int_eq(cli_train_data_facts(d)->tokens, N);
    ck_assert_int_eq(cli_train_data_facts(d)->documents, 2);
    ck_assert_ptr_null(cli_train_batch_new(1, T, &b));
    for (int row = 0; row < 60; row++) {
        next(d, &b);
        for (int64_t t = 0; t < T; t++) ck_assert_int_eq(b.batch.ids[t], 10 + (row * T + t) % 90);
    }
    next(d, &b); /* document 0 has N / 2 + 1 tokens: the last one is a piece of its own, document 1 does not fit */
    ck_assert_int_eq(b.n_tokens, 1);
    cli_train_batch_free(&b);
    cli_train_data_free(d);
    free(text);
}
END_TEST

START_TEST(a_place_is_found_again)
{
    static const char *const text = "\n1 2 3 4 5 6 7 8 9 10 11\n \n12 13\n14 15 16\n\n17\n18 19 20 21 22 23\n";
    for (int64_t shuffle = -1; shuffle < 3; shuffle++) {
        cli_train_data *one = open_text(text, 4, shuffle), *two = NULL;
        cli_train_batch a, b;
        ck_assert_ptr_null(cli_train_batch_new(1, 4, &a));
        ck_assert_ptr_null(cli_train_batch_new(1, 4, &b));
        for (int k = 0; k < 40; k++) {
            const cli_train_place place = cli_train_data_tell(one);
            next(one, &a);
            cli_train_data_free(two);
            ck_assert_ptr_null(cli_train_data_open(path, 100, 4, shuffle, &two));
            ck_assert_ptr_null(cli_train_data_seek(two, &place));
            next(two, &b);
            ck_assert_mem_eq(a.memory, b.memory, 5 * 4 * sizeof *a.memory);
            /* and from there on */
            const cli_train_place after = cli_train_data_tell(two), want = cli_train_data_tell(one);
            ck_assert_int_eq(after.token, want.token);
            ck_assert_int_eq(after.document, want.document);
            ck_assert_int_eq(after.epoch, want.epoch);
        }
        cli_train_place nowhere = {.document = 99};
        ck_assert_ptr_nonnull(cli_train_data_seek(two, &nowhere));
        nowhere = (cli_train_place){.document = 1, .token = 1000, .offset = 0};
        ck_assert_ptr_nonnull(cli_train_data_seek(two, &nowhere));
        cli_train_batch_free(&a);
        cli_train_batch_free(&b);
        cli_train_data_free(one);
        cli_train_data_free(two);
    }
}
END_TEST

START_TEST(orders_are_drawn_by_seed_and_epoch)
{
    static const char *const text = "1 1\n2 2\n3 3\n4 4\n5 5\n6 6\n7 7\n8 8\n";
    int64_t order[3][8];
    for (int which = 0; which < 3; which++) {
        cli_train_data *d = open_text(text, 2, which == 2 ? 8 : 7);
        cli_train_batch b;
        ck_assert_ptr_null(cli_train_batch_new(8, 2, &b));
        if (which == 1) next(d, &b); /* its second epoch */
        next(d, &b);
        int64_t sum = 0;
        for (int i = 0; i < 8; i++) sum += order[which][i] = b.batch.ids[2 * i];
        ck_assert_int_eq(sum, 36); /* each document once */
        cli_train_batch_free(&b);
        cli_train_data_free(d);
    }
    ck_assert_int_ne(memcmp(order[0], order[1], sizeof order[0]), 0);
    ck_assert_int_ne(memcmp(order[0], order[2], sizeof order[0]), 0);
}
END_TEST

START_TEST(bad_data_are_named)
{
#define REFUSED(text, part) refused(text, sizeof(text) - 1, 4, part)
    REFUSED("1 2\n3 100 4\n",
            "line 2, column 3: not a token id of this model (expected a whole number, 0 to 99, found '100')");
    REFUSED("1 2\n  x\n", "line 2, column 3");
    REFUSED("1 -2\n", "column 3");
    REFUSED("1 2.0\n", "found '2.0'");
    REFUSED("1 2,3\n", "found '2,3'");
    REFUSED("1 999999999999999999999999999999999999999999999\n", "column 3");
    REFUSED("1 2\0 3\n", "a zero byte in a text file");
    REFUSED("", "nothing to learn from");
    REFUSED("\n \n", "found 0 documents, 0 tokens");
    REFUSED("1\n2\n3\n", "found 3 documents, 3 tokens");
    refused("1 2\n", 4, 1, "nothing to predict");
    cli_train_data *d;
    ck_assert_ptr_nonnull(cli_train_data_open("there/is/nothing", 100, 4, -1, &d));
}
END_TEST

START_TEST(a_file_that_changes_is_noticed)
{
    enum { N = 40000 };
    char *text = malloc(4 * N), *at = text;
    for (int i = 0; i < N; i++) at += sprintf(at, "%d\n", i % 100);
    at += sprintf(at, "1 2\n");
    write_file(text, (size_t)(at - text));
    cli_train_data *d = NULL;
    cli_train_batch b;
    ck_assert_ptr_null(cli_train_data_open(path, 100, 4, -1, &d));
    ck_assert_ptr_null(cli_train_batch_new(N / 4, 4, &b));
    ck_assert_int_eq(truncate(path, 10), 0);
    fh1_status s = cli_train_data_next(d, &b);
    ck_assert_msg(s && strstr(s->what, "the data changed"), "not noticed");
    cli_train_batch_free(&b);
    cli_train_data_free(d);
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train_data");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, NULL, remove_file);
    tcase_add_test(tc, rows_take_whole_documents);
    tcase_add_test(tc, loss_never_crosses_documents);
    tcase_add_test(tc, long_documents_are_cut);
    tcase_add_test(tc, lines_may_be_long);
    tcase_add_test(tc, a_place_is_found_again);
    tcase_add_test(tc, orders_are_drawn_by_seed_and_epoch);
    tcase_add_test(tc, bad_data_are_named);
    tcase_add_test(tc, a_file_that_changes_is_noticed);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
