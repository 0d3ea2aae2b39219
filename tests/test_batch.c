/* Packing a batch into its real tokens: what comes out for ragged rows, later calls and documents, and a
 * message with row and column for everything that is wrong. */
#include "oracle/batch.h"
#include "oracle/cache.h"
#include "tests/small_config.h"

#include <check.h>
#include <stdlib.h>

enum { V = 23 };
#define NOTHING INT64_MIN /* read at padding, it would be refused everywhere */

static void expect_tokens(const fh1_tokens *t, int64_t M, const int64_t *row, const int64_t *col, const int64_t *id,
                          const int64_t *position, const int64_t *doc)
{
    ck_assert_int_eq(t->M, M);
    ck_assert_int_eq(t->row_begin[t->B], M);
    for (int64_t m = 0; m < M; m++) {
        ck_assert_int_eq(t->row[m], row[m]);
        ck_assert_int_eq(t->col[m], col[m]);
        ck_assert_int_eq(t->id[m], id[m]);
        ck_assert_int_eq(t->position[m], position[m]);
        ck_assert_int_eq(t->doc[m], doc[m]);
        ck_assert(m >= t->row_begin[row[m]] && m < t->row_begin[row[m] + 1]);
    }
}

START_TEST(without_a_mask_all_is_real)
{
    int64_t ids[] = {5, 6, 7, 8, 9, 10};
    fh1_batch b = {.B = 2, .T = 3, .ids = ids};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&b, V, NULL, &t));
    expect_tokens(&t, 6, (int64_t[]){0, 0, 0, 1, 1, 1}, (int64_t[]){0, 1, 2, 0, 1, 2}, ids,
                  (int64_t[]){0, 1, 2, 0, 1, 2}, (int64_t[6]){0});
    ck_assert(t.past == 0 && t.max_position == 2 && t.n_left[1] == 0 && t.n_right[1] == 0);
    fh1_tokens_free(&t);
    ck_assert_ptr_null(t.row_begin);
    fh1_tokens_free(&t);
}
END_TEST

/* Left, right, both, and a row of padding; nothing of the padding is read. */
START_TEST(padding_is_dropped)
{
    int64_t x = NOTHING;
    int64_t ids[] = {x, x, 3, 4, /**/ 5, 6, x, x, /**/ x, 7, 8, x, /**/ x, x, x, x};
    int64_t mask[] = {0, 0, 1, 1, /**/ 1, 1, 0, 0, /**/ 0, 1, 1, 0, /**/ 0, 0, 0, 0};
    int64_t docs[] = {x, x, 1, 2, /**/ 0, 0, x, x, /**/ x, 4, 4, x, /**/ x, x, x, x};
    int64_t positions[] = {x, x, 0, 1, /**/ 0, 1, 9, x, /**/ -1, 0, 1, 50, /**/ x, x, x, INT64_MAX};
    fh1_batch b = {.B = 4, .T = 4, .ids = ids, .mask = mask, .mask_len = 4, .seq_idx = docs, .positions = positions};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&b, V, NULL, &t));
    expect_tokens(&t, 6, (int64_t[]){0, 0, 1, 1, 2, 2}, (int64_t[]){2, 3, 0, 1, 1, 2}, (int64_t[]){3, 4, 5, 6, 7, 8},
                  (int64_t[]){0, 1, 0, 1, 0, 1}, (int64_t[]){1, 2, 0, 0, 4, 4});
    int64_t left[] = {2, 0, 1, 4}, right[] = {0, 2, 1, 0}, begin[] = {0, 2, 4, 6, 6};
    ck_assert_mem_eq(t.n_left, left, sizeof left);
    ck_assert_mem_eq(t.n_right, right, sizeof right);
    ck_assert_mem_eq(t.row_begin, begin, sizeof begin);
    ck_assert_int_eq(t.max_position, 50); /* padding counts, nonsense there does not */
    fh1_tokens_free(&t);
}
END_TEST

/* Columns are counted, not tokens: left padding is not corrected for. */
START_TEST(default_positions_count_columns)
{
    int64_t ids[] = {1, 2, 3}, mask[] = {0, 1, 1};
    fh1_batch b = {.B = 1, .T = 3, .ids = ids, .mask = mask, .mask_len = 3};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&b, V, NULL, &t));
    expect_tokens(&t, 2, (int64_t[]){0, 0}, (int64_t[]){1, 2}, (int64_t[]){2, 3}, (int64_t[]){1, 2}, (int64_t[]){0, 0});
    ck_assert_int_eq(t.max_position, 2);
    fh1_tokens_free(&t);
}
END_TEST

/* Whole numbers are f64's up to 2^53; the next one is refused. */
START_TEST(the_last_position_is_taken)
{
    int64_t ids[] = {1}, last[] = {INT64_C(1) << 53}, next[] = {(INT64_C(1) << 53) + 1};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&(fh1_batch){.B = 1, .T = 1, .ids = ids, .positions = last}, V, NULL, &t));
    ck_assert(t.position[0] == last[0] && t.max_position == last[0]);
    fh1_tokens_free(&t);
    ck_assert(fh1_tokens_pack(&(fh1_batch){.B = 1, .T = 1, .ids = ids, .positions = next}, V, NULL, &t));
}
END_TEST

static void call(fh1_cache *c, const fh1_batch *b)
{
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(b, V, c, &t));
    ck_assert(!fh1_cache_prepare(c, &t));
    fh1_cache_commit(c, &t);
    fh1_tokens_free(&t);
}

/* A cache after one call of 2 rows and 3 columns: row 0 left-padded by one, row 1 right-padded by one,
 * last documents 2 and 0. */
static fh1_cache *used_cache(const fh1_config *c)
{
    static const int64_t ids[] = {0, 1, 2, 3, 4, 0}, mask[] = {0, 1, 1, 1, 1, 0}, docs[] = {0, 1, 2, 0, 0, 0};
    fh1_cache *cache;
    ck_assert(!fh1_cache_new(c, FH1_F64, 2, &cache));
    call(cache, &(fh1_batch){.B = 2, .T = 3, .ids = ids, .mask = mask, .mask_len = 3, .seq_idx = docs});
    return cache;
}

START_TEST(later_calls_go_on)
{
    fh1_config c = small_config();
    fh1_cache *cache = used_cache(&c);
    int64_t ids[] = {5, 6, 7, 8}, mask[] = {0, 1, 1, 1, 1, /**/ 1, 1, 0, 0, 1};
    fh1_batch b = {.B = 2, .T = 2, .ids = ids, .mask = mask, .mask_len = 5};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&b, V, cache, &t));
    expect_tokens(&t, 3, (int64_t[]){0, 0, 1}, (int64_t[]){0, 1, 1}, (int64_t[]){5, 6, 8}, (int64_t[]){3, 4, 4},
                  (int64_t[]){2, 2, 0});
    ck_assert(t.past == 3 && t.max_position == 4);
    fh1_tokens_free(&t);

    int64_t docs[] = {2, 3, 0, 0}; /* the same document or a later one */
    b.seq_idx = docs;
    ck_assert(!fh1_tokens_pack(&b, V, cache, &t));
    fh1_tokens_free(&t);
    b.mask = NULL; /* all new tokens real, whatever came before */
    ck_assert(!fh1_tokens_pack(&b, V, cache, &t));
    ck_assert_int_eq(t.M, 4);
    fh1_tokens_free(&t);
    fh1_cache_free(cache);
}
END_TEST

/* One change to a good second call each, and what the message must say. */
static const struct {
    const char *what;
    int64_t row, col; /* of the changed entry */
    int64_t value;
    const char *where, *word;
} faults[] = {
    {"ids", 0, 1, V, "row 0, column 1", "vocabulary"},
    {"ids", 1, 0, -1, "row 1, column 0", "vocabulary"},
    {"mask", 0, 4, 2, "row 0, column 4", "neither 0 nor 1"},
    {"mask", 1, 3, -1, "row 1, column 3", "neither 0 nor 1"},
    {"mask", 0, 4, 0, "row 0, column 4", "hole"},
    {"mask", 0, 0, 1, "row 0, column 0", "contradicts"},
    {"mask", 0, 2, 0, "row 0, column 2", "contradicts"},
    {"mask", 1, 2, 1, "row 1, column 2", "contradicts"},
    {"mask", 1, 1, 7, "row 1, column 1", "contradicts"},
    {"mask_len", 0, 0, 3, "", "wrong length"},
    {"mask_len", 0, 0, 7, "", "wrong length"},
    {"T", 0, 0, 0, "", "new tokens"},
    {"T", 0, 0, -1, "", "new tokens"},
    {"B", 0, 0, 0, "", "rows"},
    {"B", 0, 0, 1, "", "between calls"},
    {"positions", 1, 2, -1, "row 1, column 2", "position"},
    {"positions", 0, 0, (INT64_C(1) << 53) + 1, "row 0, column 0", "position"},
    {"docs", 0, 0, 1, "row 0, column 0", "falls"}, /* the cache is in document 2 */
    {"docs", 0, 2, 2, "row 0, column 2", "falls"}, /* after 3 */
    {"docs", 1, 0, -1, "row 1, column 0", "negative"},
    {"labels", 1, 1, V, "row 1, column 1", "label"},
    {"labels", 0, 2, -1, "row 0, column 2", "label"},
};

START_TEST(what_is_wrong_is_named)
{
    fh1_config c = small_config();
    fh1_cache *cache = used_cache(&c);
    int64_t ids[] = {5, 6, 7, 8, 9, 10}, mask[] = {0, 1, 1, 1, 1, 1, /**/ 1, 1, 0, 1, 1, 1};
    int64_t positions[] = {2, 3, 4, 2, 3, 4}, docs[] = {2, 3, 3, 0, 0, 1}, labels[] = {5, -100, 7, 0, V - 1, -100};
    fh1_batch b = {.B = 2,
                   .T = 3,
                   .ids = ids,
                   .mask = mask,
                   .mask_len = 6,
                   .positions = positions,
                   .seq_idx = docs,
                   .labels = labels};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&b, V, cache, &t));
    fh1_tokens_free(&t);

    const char *what = faults[_i].what;
    int64_t row = faults[_i].row, col = faults[_i].col, value = faults[_i].value;
    if (strcmp(what, "mask_len") == 0) b.mask_len = value;
    else if (strcmp(what, "T") == 0) b.T = value;
    else if (strcmp(what, "B") == 0) b.B = value;
    else if (strcmp(what, "mask") == 0) mask[row * 6 + col] = value;
    else
        (strcmp(what, "ids") == 0      ? ids
         : strcmp(what, "docs") == 0   ? docs
         : strcmp(what, "labels") == 0 ? labels
                                       : positions)[row * 3 + col] = value;

    fh1_status s = fh1_tokens_pack(&b, V, cache, &t);
    ck_assert_msg(s && s->code == FH1_E_INPUT, "%s", what);
    ck_assert_str_eq(s->where, faults[_i].where);
    ck_assert_msg(strstr(s->what, faults[_i].word), "%s", s->what);
    ck_assert_ptr_null(t.row_begin);
    fh1_cache_free(cache);
}
END_TEST

/* A mask without a cache covers the new columns only; a first document may have any number. */
START_TEST(first_calls)
{
    int64_t ids[] = {1, 2}, mask[] = {1, 1, 1}, docs[] = {7, 7};
    fh1_batch b = {.B = 1, .T = 2, .ids = ids, .mask = mask, .mask_len = 3};
    fh1_tokens t;
    ck_assert(fh1_tokens_pack(&b, V, NULL, &t));
    b.mask_len = 2;
    b.seq_idx = docs;
    ck_assert(!fh1_tokens_pack(&b, V, NULL, &t));
    ck_assert_int_eq(t.doc[1], 7);
    fh1_tokens_free(&t);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("batch");
    tcase_add_test(t, without_a_mask_all_is_real);
    tcase_add_test(t, padding_is_dropped);
    tcase_add_test(t, default_positions_count_columns);
    tcase_add_test(t, the_last_position_is_taken);
    tcase_add_test(t, later_calls_go_on);
    tcase_add_loop_test(t, what_is_wrong_is_named, 0, sizeof faults / sizeof *faults);
    tcase_add_test(t, first_calls);
    Suite *s = suite_create("batch");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
