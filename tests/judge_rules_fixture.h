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

/* A tap of n tokens, `width` elements each, every element a unit of its own; truth is 1 everywhere, unless changed. */
typedef struct {
    gld_tap_errors t;
    double judged[MAX], local[MAX], emulated2[MAX], abs_sum[MAX], slack[MAX];
    bool skip[MAX];
    int32_t unit[MAX];
    fh1_tap_result r;
    int64_t where;
} tap;

static inline tap *tap_new(int64_t n, int64_t width, const char *profile, fh1_dtype ulp_type)
{
    ck_assert_int_le(n * width, MAX);
    tap *p = calloc(1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    for (int i = 0; i < MAX; i++) {
        p->judged[i] = p->local[i] = 1;
        p->unit[i] = (int32_t)(i % (width ? width : 1));
    }
    p->t = (gld_tap_errors){.id = FH1_TAP_MID,
                            .profile = fh1_profile_find(profile),
                            .ulp_type = ulp_type,
                            .n_tokens = n,
                            .width = width,
                            .judged = p->judged,
                            .local = p->local,
                            .free_rms = 0.125,
                            .slack = p->slack,
                            .skip = p->skip,
                            .unit = p->unit,
                            .n_units = width,
                            .chain = 1,
                            .multiplier = 1};
    ck_assert_ptr_nonnull(p->t.profile);
    return p;
}

static inline fh1_verdict judge(tap *p)
{
    memset(&p->r, 0x55, sizeof p->r);
    ck_assert_ptr_null(gld_judge_tap(&p->t, &p->r, &p->where));
    return p->r.verdict;
}

/* The verdict, its rule and its place. */
static inline void expect(tap *p, fh1_verdict verdict, const char *reason, int64_t where)
{
    const fh1_verdict v = judge(p);
    ck_assert_msg(v == verdict, "%s (%s), margin %.17g, expected %s", fh1_verdict_name(v), p->r.reason, p->r.margin,
                  fh1_verdict_name(verdict));
    if (reason) ck_assert_msg(strstr(p->r.reason, reason) != NULL, "'%s' is not in '%s'", reason, p->r.reason);
    if (where >= 0) ck_assert_msg(p->where == where, "at %lld, expected %lld", (long long)p->where, (long long)where);
    if (verdict == FH1_PASS) ck_assert(fh1_within(p->r.margin, 1) && p->r.reason[0] == 0);
    if (verdict == FH1_FAIL) ck_assert(!fh1_within(p->r.margin, 1));
}

/* All errors `err` and all emulated ones `emu`. */
static inline tap *uniform(int64_t n, int64_t width, double err, double emu)
{
    tap *p = tap_new(n, width, "hf-eager-bf16", FH1_F32); /* one ulp of f32 is far below these errors */
    p->t.emulated2 = p->emulated2;
    for (int i = 0; i < MAX; i++) p->judged[i] = 1 + err, p->emulated2[i] = emu * emu;
    return p;
}
