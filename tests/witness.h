/* What the tests of single ops share. Each of them holds a second, independent implementation of its op,
 * the witness: long double, straight from the formula, with different loops than the reference. A witness
 * gives value and gauge per element; the engine is accepted if its error is within u·gauge, u being the
 * unit roundoff of the engine's contract. The same comparison must reject every wrong witness of the file.
 *
 * Data are doubles that f32 holds exactly, so that both precisions see the same numbers. All memory comes
 * from one arena: outputs start as NaN, writes outside them are found at the end of each test. */
#pragma once

#include "oracle/arena.h"
#include "oracle/compare.h"
#include "oracle/random.h"
#include "oracle/thread.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef long double wide;

static fh1_arena *w_arena;
static fh1_engine *w_f64, *w_f32, *w_bf16;
static double w_worst; /* largest margin of an accepted comparison */
static const char *w_worst_at = "";

/* --- memory and data --- */

static inline void *w_bytes(int64_t n_bytes)
{
    void *p;
    ck_assert_ptr_null(fh1_arena_get(w_arena, (size_t)n_bytes, "a test array", &p));
    return p;
}

static inline double *w_new(int64_t n)
{
    return w_bytes(n * (int64_t)sizeof(double));
}

static inline int64_t *w_ints(int64_t n)
{
    return w_bytes(n * (int64_t)sizeof(int64_t));
}

/* n normal numbers of deviation `scale`, exact in f32. */
static inline double *w_normal(const char *name, int64_t n, double scale)
{
    fh1_stream s = fh1_stream_open(1, name);
    double *v = w_new(n);
    for (int64_t i = 0; i < n; ++i) v[i] = (double)(float)(scale * fh1_random_normal(s, (uint64_t)i));
    return v;
}

/* n multiples of `unit`, unit·lo … unit·hi. */
static inline double *w_lattice(const char *name, int64_t n, int64_t lo, int64_t hi, double unit)
{
    fh1_stream s = fh1_stream_open(2, name);
    double *v = w_new(n);
    for (int64_t i = 0; i < n; ++i) v[i] = unit * (double)(lo + fh1_random_below(s, (uint64_t)i, hi - lo + 1));
    return v;
}

static inline double *w_fill(int64_t n, double value)
{
    double *v = w_new(n);
    for (int64_t i = 0; i < n; ++i) v[i] = value;
    return v;
}

static inline double *w_copy(const double *v, int64_t n)
{
    double *c = w_new(n);
    memcpy(c, v, (size_t)n * sizeof *c);
    return c;
}

/* In and out of the engine's compute type. */
static inline void *w_to(const fh1_engine *e, const double *v, int64_t n)
{
    void *p = w_bytes(n * fh1_dtype_bits(e->dtype) / 8);
    fh1_from_f64(p, e->dtype, v, n);
    return p;
}

static inline void *w_out(const fh1_engine *e, int64_t n)
{
    return w_bytes(n * fh1_dtype_bits(e->dtype) / 8);
}

static inline double *w_from(const fh1_engine *e, const void *p, int64_t n)
{
    double *v = w_new(n);
    fh1_to_f64(v, p, e->dtype, n);
    return v;
}

/* A weight as a checkpoint stores it; v becomes what was stored. */
static inline fh1_tensor w_store(fh1_dtype t, double *v, int64_t n)
{
    fh1_tensor x = fh1_view1(w_bytes(n * fh1_dtype_bits(t) / 8), t, n);
    fh1_from_f64(x.data, t, v, n);
    fh1_to_f64(v, x.data, t, n);
    return x;
}

static inline fh1_tensor w_store2(fh1_dtype t, double *v, int64_t n0, int64_t n1)
{
    fh1_tensor x = w_store(t, v, n0 * n1);
    return fh1_view2(x.data, t, n0, n1);
}

static inline fh1_tensor w_absent(void)
{
    return fh1_view1(NULL, FH1_F32, 0);
}

/* v after the single rounding of a bf16 pipeline that computes in f32. */
static inline double w_r(wide v)
{
    return (double)fh1_round_f32(FH1_ROUND_BF16, (float)v);
}

static inline double *w_rounded(double *v, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) v[i] = w_r((wide)v[i]);
    return v;
}

/* --- verdicts --- */

typedef struct {
    bool ok;
    double margin; /* largest error / allowed */
    int64_t at;    /* first element beyond what is allowed, else the worst */
} w_verdict;

/* allowed = u·gauge[i] (gauge NULL: 0), and half an ulp of `store` if the engine rounds its output to it. */
static inline w_verdict w_judge(const fh1_engine *e, int64_t n, const double *got, const double *truth,
                                const double *gauge, fh1_dtype store)
{
    w_verdict r = {true, 0, 0};
    for (int64_t i = 0; i < n; ++i) {
        double err = fh1_error_of(got[i], truth[i]), allowed = gauge ? e->profile->u * gauge[i] : 0;
        if (store != FH1_F64 && isfinite(truth[i])) allowed += 0.5 * fh1_dtype_ulp(store, truth[i]);
        double margin = err == 0 ? 0 : err / allowed;
        if (!fh1_within(err, allowed)) return (w_verdict){false, margin, i};
        if (!fh1_within(margin, r.margin)) r.margin = margin, r.at = i;
    }
    return r;
}

static inline void w_assert(w_verdict v, const fh1_engine *e, const char *what, const double *got, const double *truth)
{
    ck_assert_msg(v.ok, "%s, %s: element %lld is %.17g, the witness says %.17g, margin %.3g", what, e->name,
                  (long long)v.at, got[v.at], truth[v.at], v.margin);
    if (!fh1_within(v.margin, w_worst)) w_worst = v.margin, w_worst_at = what;
}

static inline void w_accepts(const fh1_engine *e, const char *what, int64_t n, const double *got, const double *truth,
                             const double *gauge)
{
    w_assert(w_judge(e, n, got, truth, gauge, FH1_F64), e, what, got, truth);
}

static inline void w_rejects(const fh1_engine *e, const char *fault, int64_t n, const double *got, const double *wrong,
                             const double *gauge)
{
    ck_assert_msg(!w_judge(e, n, got, wrong, gauge, FH1_F64).ok, "the fault '%s' passes unseen (%s)", fault, e->name);
}

/* Bit for bit, signs of zero included. */
static inline bool w_same(const double *a, const double *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static inline void w_exact(const fh1_engine *e, const char *what, int64_t n, const double *got, const double *want)
{
    for (int64_t i = 0; i < n; ++i)
        ck_assert_msg(w_same(got + i, want + i, 1), "%s, %s: element %lld is %.17g, expected %.17g to the bit", what,
                      e->name, (long long)i, got[i], want[i]);
}

static inline void w_fine(fh1_status s)
{
    char line[1024];
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

/* --- running --- */

static inline void w_open(void)
{
    w_fine(fh1_arena_new(&w_arena));
    w_f64 = ref_engine_new("ref-f64", NULL, 0);
    w_f32 = ref_engine_new("ref-f32", NULL, 0);
    w_bf16 = ref_engine_new("ref-bf16", NULL, 0);
    ck_assert(w_f64 && w_f32 && w_bf16);
    w_worst = 0;
}

static inline void w_close(void)
{
    if (w_worst > 0) printf("  worst margin %.3f: %s\n", w_worst, w_worst_at);
    fflush(stdout);
    w_fine(fh1_arena_check(w_arena));
    fh1_arena_free(w_arena);
    w_f64->free(w_f64);
    w_f32->free(w_f32);
    w_bf16->free(w_bf16);
}

typedef const TTest *w_test;

/* Run the tests, a NULL-ended list; the exit status of main. */
static inline int w_main(const char *op, const w_test *tests)
{
    Suite *s = suite_create(op);
    TCase *c = tcase_create(op);
    tcase_add_checked_fixture(c, w_open, w_close);
    tcase_set_timeout(c, 120);
    for (; *tests; ++tests) tcase_add_test(c, *tests);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
