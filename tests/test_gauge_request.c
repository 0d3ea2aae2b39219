/* The gauges that stay with a cache between calls: made, forgotten where the engine's own values are known, freed. */
#include "oracle/compare.h"
#include "oracle/gauge_request.h"
#include "tests/small_config.h"

#include <check.h>
#include <stdlib.h>

static int64_t window(const fh1_config *c)
{
    return (c->d_ssm + 2 * c->G * c->N) * (c->K - 1);
}

static int64_t state(const fh1_config *c)
{
    return c->H * c->P * c->N;
}

static double mark(int64_t array, int64_t i, int part)
{
    return (double)(1 + 1000000 * array + 10 * i + part);
}

/* Another number everywhere, in all three parts of every gauge. */
static void fill(const fh1_config *c, fh1_gauge_cache *g)
{
    for (int64_t a = 0; a < g->n_layers * g->B; a++) {
        for (int64_t i = 0; i < window(c); i++)
            fh1_gauge_set(&g->conv[a], i, (fh1_err){mark(a, i, 0), mark(a, i, 1), mark(a, i, 2)});
        for (int64_t i = 0; i < state(c); i++)
            fh1_gauge_set(&g->ssm[a], i, (fh1_err){mark(a, i, 3), mark(a, i, 4), mark(a, i, 5)});
    }
}

static bool is(fh1_err e, double worst, double variance, double shared)
{
    return fh1_within(fabs(e.worst - worst), 0) && fh1_within(fabs(e.variance - variance), 0) &&
           fh1_within(fabs(e.shared - shared), 0);
}

/* All of an array is zero, or all is as `fill` left it. */
static bool holds(const fh1_gauge *g, int64_t array, int64_t n, int part, bool zero)
{
    const double keep = zero ? 0 : 1;
    for (int64_t i = 0; i < n; i++)
        if (!is(fh1_gauge_at(g, i), keep * mark(array, i, part), keep * mark(array, i, part + 1),
                keep * mark(array, i, part + 2)))
            return false;
    return true;
}

START_TEST(new_ones_are_zero)
{
    fh1_config c = small_config();
    for (int64_t B = 1; B < 4; B++) {
        fh1_gauge_cache g;
        ck_assert_ptr_null(fh1_gauge_cache_new(&c, B, &g));
        ck_assert(g.n_layers == c.n_layers && g.B == B);
        for (int64_t a = 0; a < c.n_layers * B; a++) {
            ck_assert(g.conv[a].variance - g.conv[a].worst == window(&c)); /* one block, no more than that */
            ck_assert(g.ssm[a].variance - g.ssm[a].worst == state(&c));
            ck_assert(holds(&g.conv[a], a, window(&c), 0, true) && holds(&g.ssm[a], a, state(&c), 3, true));
            for (int64_t b = 0; b < a; b++)
                ck_assert(g.conv[a].worst != g.conv[b].worst && g.ssm[a].worst != g.ssm[b].worst);
        }
        fill(&c, &g); /* each has its room: a sanitizer would see more */
        for (int64_t a = 0; a < c.n_layers * B; a++)
            ck_assert(holds(&g.conv[a], a, window(&c), 0, false) && holds(&g.ssm[a], a, state(&c), 3, false));
        fh1_gauge_cache_free(&g);
        ck_assert(!g.conv && !g.ssm && g.n_layers == 0 && g.B == 0);
    }
}
END_TEST

/* One part of one layer, in all rows, and nothing else. Keys and values have no errors to forget. */
START_TEST(forgets_one_part_of_one_layer)
{
    fh1_config c = small_config();
    enum { B = 3 };
    static const fh1_cache_part parts[] = {FH1_CACHE_KEY, FH1_CACHE_VALUE, FH1_CACHE_CONV, FH1_CACHE_SSM};
    for (int k = 0; k < 4; k++)
        for (int64_t layer = 0; layer < c.n_layers; layer++) {
            fh1_gauge_cache g;
            ck_assert_ptr_null(fh1_gauge_cache_new(&c, B, &g));
            fill(&c, &g);
            fh1_gauge_cache_forget(&g, &c, layer, parts[k]);
            for (int64_t a = 0; a < c.n_layers * B; a++) {
                const bool here = a / B == layer;
                ck_assert(holds(&g.conv[a], a, window(&c), 0, here && parts[k] == FH1_CACHE_CONV));
                ck_assert(holds(&g.ssm[a], a, state(&c), 3, here && parts[k] == FH1_CACHE_SSM));
            }
            g.ssm[4].shared[state(&c) - 1] += 1; /* the last number counts */
            ck_assert(!holds(&g.ssm[4], 4, state(&c), 3, layer == 1 && parts[k] == FH1_CACHE_SSM));
            fh1_gauge_cache_free(&g);
        }
}
END_TEST

/* A kernel of one column keeps no window; a cache without rows keeps nothing. */
START_TEST(empty_ones)
{
    fh1_config c = small_config();
    fh1_gauge_cache g;
    c.K = 1;
    ck_assert_ptr_null(fh1_gauge_cache_new(&c, 2, &g));
    ck_assert_ptr_nonnull(g.conv[3].worst);
    fill(&c, &g);
    fh1_gauge_cache_forget(&g, &c, 1, FH1_CACHE_CONV);
    ck_assert(holds(&g.ssm[3], 3, state(&c), 3, false));
    fh1_gauge_cache_free(&g);
    ck_assert_ptr_null(fh1_gauge_cache_new(&c, 0, &g));
    fh1_gauge_cache_forget(&g, &c, 1, FH1_CACHE_SSM);
    fh1_gauge_cache_free(&g);
    fh1_gauge_cache_free(&g); /* twice, or never made */
}
END_TEST

/* More than any memory: a status, and nothing left to free. */
START_TEST(no_memory)
{
    fh1_config c = small_config();
    c.H = INT64_C(1) << 48;
    ck_assert(state(&c) > INT64_C(1) << 50);
    fh1_gauge_cache g = {0};
#ifndef __SANITIZE_ADDRESS__ /* whose malloc ends the program instead */
    fh1_status s = fh1_gauge_cache_new(&c, 2, &g);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->code, FH1_E_INTERNAL);
#endif
    ck_assert(!g.conv && !g.ssm && g.B == 0);
    fh1_gauge_cache_free(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gauge_request");
    TCase *tc = tcase_create("gauge_request");
    tcase_add_test(tc, new_ones_are_zero);
    tcase_add_test(tc, forgets_one_part_of_one_layer);
    tcase_add_test(tc, empty_ones);
    tcase_add_test(tc, no_memory);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
