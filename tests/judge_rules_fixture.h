/* One constructed tap for gld_judge_tap, and what its verdict must be. */
#pragma once

#include "golden/judge_rules.h"

#include "oracle/compare.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(array) ((int)(sizeof(array) / sizeof *(array)))
enum { MAX = 64 * 64 };

/* The verdict changes within this share of a bound: far more than the roundings of the judge's own sums. */
#define INSIDE (1 - 0x1p-30)
#define OUTSIDE (1 + 0x1p-30)

/* A tap of n tokens, `width` elements each, every column a unit of its own, truth and judged 1 everywhere, no gauge and
 * no emulated pipeline, unless changed. */
typedef struct {
    gld_tap_errors t;
    double judged[MAX], local[MAX], emulated2[MAX], worst[MAX], variance[MAX], shared[MAX];
    fh1_gauge gauge;
    bool skip[MAX];
    int32_t unit[MAX];
    int64_t column[MAX];
    fh1_tap_result r;
    int64_t where;
} tap;

static inline tap *tap_new(int64_t n, int64_t width, const char *profile)
{
    ck_assert_int_le(n * width, MAX);
    tap *p = calloc(1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    for (int i = 0; i < MAX; i++) {
        p->judged[i] = p->local[i] = 1;
        p->unit[i] = (int32_t)(i % (width ? width : 1));
        p->column[i] = i;
    }
    p->gauge = (fh1_gauge){p->worst, p->variance, p->shared};
    p->t = (gld_tap_errors){.id = FH1_TAP_MID,
                            .profile = fh1_profile_find(profile),
                            .n_tokens = n,
                            .width = width,
                            .judged = p->judged,
                            .local = p->local,
                            .free_rms = 0.125,
                            .skip = p->skip,
                            .unit = p->unit,
                            .n_units = width,
                            .correlated = 1,
                            .column = p->column,
                            .n_columns = n};
    ck_assert_ptr_nonnull(p->t.profile);
    p->t.ulp_type = p->t.profile->storage;
    return p;
}

static inline double underflow(const tap *p)
{
    return p->t.profile->underflow;
}

static inline int64_t size_of(const tap *p)
{
    return p->t.n_tokens * p->t.width;
}

/* The same gauge for every element. */
static inline void gauge_is(tap *p, double worst, double variance, double shared)
{
    p->t.gauge = &p->gauge;
    for (int i = 0; i < MAX; i++) fh1_gauge_set(&p->gauge, i, (fh1_err){worst, variance, shared});
}

/* Every element off by `err`, upwards. */
static inline void errors_are(tap *p, double err)
{
    for (int i = 0; i < MAX; i++) p->judged[i] = p->local[i] + err;
}

static inline void emulated_is(tap *p, double rms)
{
    p->t.emulated2 = p->emulated2;
    for (int i = 0; i < MAX; i++) p->emulated2[i] = rms * rms;
}

/* Behind a chain of ops, all errors `err`, all emulated ones `emu`. An ulp of f32 is far below both. */
static inline tap *chain(int64_t n, int64_t width, double err, double emu)
{
    tap *p = tap_new(n, width, "fp32");
    p->t.far = true;
    errors_are(p, err);
    emulated_is(p, emu);
    return p;
}

static inline fh1_verdict judge(tap *p)
{
    memset(&p->r, 0x55, sizeof p->r);
    ck_assert_ptr_null(gld_judge_tap(&p->t, &p->r, &p->where));
    return p->r.verdict;
}

/* The verdict, its rule (NULL: any) and its place (negative: any). */
static inline void expect(tap *p, fh1_verdict verdict, const char *reason, int64_t where)
{
    const fh1_verdict v = judge(p);
    ck_assert_msg(v == verdict, "%s (%s), margin %.17g, expected %s", fh1_verdict_name(v), p->r.reason, p->r.margin,
                  fh1_verdict_name(verdict));
    if (reason) ck_assert_msg(strstr(p->r.reason, reason) != NULL, "'%s' is not in '%s'", reason, p->r.reason);
    if (where >= 0) ck_assert_msg(p->where == where, "at %lld, expected %lld", (long long)p->where, (long long)where);
    if (verdict == FH1_PASS) ck_assert(fh1_within(p->r.margin, 1) && p->r.reason[0] == 0);
    if (verdict == FH1_FAIL) ck_assert(!fh1_within(p->r.margin, 1));
    if (verdict == FH1_MISTRUSTED || verdict == FH1_SKIP) ck_assert(p->r.reason[0] != 0);
}

/* Equal but for the roundings of a sum, and for OUTSIDE. */
static inline void near(double value, double wanted)
{
    ck_assert_msg(fh1_within(fabs(value - wanted), 0x1p-29 * fabs(wanted)), "%.17g, expected %.17g", value, wanted);
}

/* The error of element i is `allowed`, just inside (PASS) and just outside (FAIL of that rule, at i). */
static inline void both_sides(tap *p, int64_t i, double allowed, const char *rule)
{
    const double before = p->judged[i];
    p->judged[i] = p->local[i] + allowed * INSIDE;
    expect(p, FH1_PASS, "", -1);
    p->judged[i] = p->local[i] - allowed * OUTSIDE;
    expect(p, FH1_FAIL, rule, i);
    near(p->r.allowed, allowed);
    near(p->r.max_err, allowed);
    near(p->r.margin, 1);
    p->judged[i] = before;
}

static inline int rules_main(const char *name, const TTest *const *tests)
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    for (; *tests; tests++) tcase_add_test(tc, *tests);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
