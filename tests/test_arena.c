/* A case's memory: rogue fill, canaries that notice a planted write on either side. */
#include "oracle/arena.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static fh1_arena *fresh(void)
{
    fh1_arena *a;
    ck_assert_ptr_null(fh1_arena_new(&a));
    return a;
}

static void *get(fh1_arena *a, size_t n, const char *name)
{
    void *p;
    ck_assert_ptr_null(fh1_arena_get(a, n, name, &p));
    ck_assert_ptr_nonnull(p);
    return p;
}

START_TEST(pieces_are_aligned_apart_and_counted)
{
    fh1_arena *a = fresh();
    size_t sum = 0;
    for (size_t n = 0; n < 200; n++) {
        unsigned char *p = get(a, n, "piece");
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        memset(p, (int)n, n); /* all of it is ours */
        sum += n;
    }
    ck_assert_uint_eq(fh1_arena_bytes(a), sum);
    ck_assert_ptr_null(fh1_arena_check(a));
    fh1_arena_clear(a);
    ck_assert_uint_eq(fh1_arena_bytes(a), 0);
    get(a, 10, "again");
    ck_assert_ptr_null(fh1_arena_check(a));
    fh1_arena_free(a);
    fh1_arena_free(NULL);
}
END_TEST

START_TEST(fresh_memory_is_nan_in_both_types)
{
    fh1_arena *a = fresh();
    float *f = get(a, 7 * sizeof *f, "f32");
    double *d = get(a, 7 * sizeof *d, "f64");
    for (int i = 0; i < 7; i++) {
        uint32_t lane;
        memcpy(&lane, &f[i], sizeof lane);
        ck_assert_uint_eq(lane & 0xffff, 0xfa57);
        ck_assert(isnan(f[i]) && isnan(d[i]));
    }
    double sum = 0;
    for (int i = 0; i < 6; i++) d[i] = 1;
    for (int i = 0; i < 7; i++) sum += d[i];
    ck_assert(isnan(sum)); /* planted: an op that forgot its last element */
    fh1_arena_free(a);
}
END_TEST

START_TEST(a_write_outside_is_found)
{
    for (size_t n = 0; n < 70; n += 23) {
        for (ptrdiff_t distance = 1; distance <= 64; distance += 9) {
            for (int after = 0; after < 2; after++) {
                fh1_arena *a = fresh();
                get(a, 100, "first");
                unsigned char *p = get(a, n, "second");
                unsigned char *at = after ? p + n + distance - 1 : p - distance;
                ck_assert_ptr_null(fh1_arena_check(a));
                *at ^= 1;
                fh1_status s = fh1_arena_check(a);
                ck_assert_ptr_nonnull(s);
                ck_assert_int_eq(s->code, FH1_E_INTERNAL);
                ck_assert_ptr_nonnull(strstr(s->what, "'second'"));
                ck_assert_ptr_nonnull(strstr(s->what, after ? "after" : "before"));
                *at ^= 1;
                ck_assert_ptr_null(fh1_arena_check(a));
                fh1_arena_free(a);
            }
        }
    }
}
END_TEST

START_TEST(no_constant_fill_looks_like_a_canary)
{
    for (int fill = 0; fill < 256; fill++) {
        fh1_arena *a = fresh();
        unsigned char *p = get(a, 8, "short");
        memset(p, fill, 10); /* two bytes too many */
        ck_assert_ptr_nonnull(fh1_arena_check(a));
        fh1_arena_free(a);
    }
}
END_TEST

START_TEST(impossible_sizes_are_errors)
{
    fh1_arena *a = fresh();
    void *p = a;
    fh1_status s = fh1_arena_get(a, SIZE_MAX - 10, "absurd", &p);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->code, FH1_E_INTERNAL);
    ck_assert_ptr_null(p);
    ck_assert_ptr_nonnull(strstr(s->what, "absurd"));
    get(a, 8, "still usable");
    ck_assert_ptr_null(fh1_arena_check(a));
    fh1_arena_free(a);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("arena");
    tcase_add_test(c, pieces_are_aligned_apart_and_counted);
    tcase_add_test(c, fresh_memory_is_nan_in_both_types);
    tcase_add_test(c, a_write_outside_is_found);
    tcase_add_test(c, no_constant_fill_looks_like_a_canary);
    tcase_add_test(c, impossible_sizes_are_errors);
    Suite *s = suite_create("arena");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
