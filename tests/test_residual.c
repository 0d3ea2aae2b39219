/* residual: x += a·m_a + b·m_b in place, the branches first; without b, x += a·m_a: the MLP's residual, which rounds
 * the product at the points of the MLP. */
#include "tests/witness.h"

typedef struct {
    int64_t n;
    double *a, *b, *x, m_a, m_b; /* b NULL: one branch */
} input;

typedef enum { RIGHT, SWAPPED, ONE_MULTIPLIER, NO_B, ASSIGNED, ADDED_TWICE, X_SCALED } fault;
static const char *const fault_name[] = {"",
                                         "multipliers swapped",
                                         "one multiplier for both",
                                         "the second branch dropped",
                                         "assigned instead of added",
                                         "branches added twice",
                                         "x scaled too"};

/* gauge: multiplier, product and sum of each branch, the sum with x, and the witness as a double. */
static void witness(const input *v, fault f, double *out, double *gauge)
{
    for (int64_t i = 0; i < v->n; ++i) {
        const wide m_a = (wide)(f == SWAPPED ? v->m_b : v->m_a);
        const wide m_b = (wide)(f == SWAPPED || f == ONE_MULTIPLIER ? v->m_a : v->m_b);
        const wide pa = (wide)v->a[i] * m_a, pb = v->b && f != NO_B ? (wide)v->b[i] * m_b : 0;
        const wide x = f == ASSIGNED ? 0 : (wide)v->x[i] * (f == X_SCALED ? m_a : 1);
        out[i] = (double)(x + (pa + pb) * (f == ADDED_TWICE ? 2 : 1));
        gauge[i] = (double)(5 * (fabsl(pa) + fabsl(pb)) + 2 * fabsl(x));
    }
}

static double *run(fh1_engine *e, const input *v)
{
    void *x = w_to(e, v->x, v->n);
    w_fine(e->ops->residual(e, v->n, w_to(e, v->a, v->n), v->m_a, v->b ? w_to(e, v->b, v->n) : NULL, v->m_b, x));
    return w_from(e, x, v->n);
}

static input make(int64_t n, bool two)
{
    input v = {.n = n, .a = w_normal("a", n, 1), .x = w_normal("x", n, 1), .m_a = 0.0883883476, .m_b = 0.0375};
    if (two) v.b = w_normal("b", n, 1);
    return v;
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t sizes[] = {0, 1, 7, 1000, 16384, 40001}; /* on both sides of a thread's piece */
    for (int k = 0; k < 24; ++k) {
        const input v = make(sizes[k / 4], k / 2 % 2);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(v.n), *gauge = w_new(v.n);
        witness(&v, RIGHT, want, gauge);
        w_accepts(e, v.b ? "two branches" : "one branch", v.n, run(e, &v), want, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 4; ++k) {
        const input v = make(50, k / 2);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(v.n), *gauge = w_new(v.n), *got = run(e, &v);
        for (fault f = RIGHT; f <= X_SCALED; ++f) {
            if (!v.b && (f == ONE_MULTIPLIER || f == NO_B)) continue;
            witness(&v, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "before the faults", v.n, got, want, gauge);
            else w_rejects(e, fault_name[f], v.n, got, want, gauge);
        }
    }
}
END_TEST

/* Short numbers: nothing is rounded. */
START_TEST(lattice_is_exact)
{
    for (int k = 0; k < 4; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input v = make(400, k / 2);
        v.a = w_lattice("a", v.n, -99, 99, 1), v.x = w_lattice("x", v.n, -99, 99, 0.125);
        if (v.b) v.b = w_lattice("b", v.n, -99, 99, 1);
        v.m_a = 0.375, v.m_b = 1.25;
        double *want = w_new(v.n), *gauge = w_new(v.n);
        const double *got = run(e, &v);
        for (fault f = RIGHT; f <= X_SCALED; ++f) {
            if (!v.b && (f == ONE_MULTIPLIER || f == NO_B)) continue;
            witness(&v, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "lattice", v.n, got, want, NULL);
            else w_rejects(e, fault_name[f], v.n, got, want, NULL);
        }
    }
}
END_TEST

/* Branches that cancel leave x as it is, however small: (x + a) + b would lose it. */
START_TEST(branches_come_first)
{
    for (int k = 0; k < 3; ++k) {
        fh1_engine *e = k == 0 ? w_f64 : k == 1 ? w_f32 : w_bf16;
        const double one = 1, minus = -1, tiny = k ? 0x1p-40 : 0x1p-80, lost = 0;
        const input v = {1, w_copy(&one, 1), w_copy(&minus, 1), w_copy(&tiny, 1), 1, 1};
        const double *got = run(e, &v);
        w_exact(e, "what is left of x", 1, got, &tiny);
        w_rejects(e, "x and the first branch added first", 1, got, &lost, NULL);
    }
}
END_TEST

/* NaN and infinities go where they belong: x[i] sees a[i], b[i] and itself. */
START_TEST(elements_do_not_meet)
{
    for (int k = 0; k < 4; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input v = make(33, k / 2);
        const double *clean = run(e, &v);
        v.a[3] = (double)NAN, v.x[7] = (double)INFINITY, v.a[32] = -(double)INFINITY;
        if (v.b) v.b[11] = (double)NAN;
        const double *got = run(e, &v);
        for (int64_t i = 0; i < v.n; ++i) {
            if (i == 3 || (i == 11 && v.b)) ck_assert(isnan(got[i]));
            else if (i == 7) ck_assert(got[i] > 0 && isinf(got[i]));
            else if (i == 32) ck_assert(got[i] < 0 && isinf(got[i]));
            else w_exact(e, "beside NaN", 1, got + i, clean + i);
        }
    }
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    const input v = make(70000, true);
    fh1_set_threads(1);
    const double *one = run(w_f32, &v);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", v.n, run(w_f32, &v), one);
    fh1_set_threads(0);
}
END_TEST

/* One element of a bf16 pipeline, computed in f32 with a scalar multiplier of f32; `skip` leaves a rounding out. */
static double rounded(const input *v, int64_t i, int skip, bool m_rounded)
{
    const float m_a = m_rounded ? (float)w_r((wide)v->m_a) : (float)v->m_a;
    const float m_b = m_rounded ? (float)w_r((wide)v->m_b) : (float)v->m_b;
    float pa = (float)v->a[i] * m_a, pb = v->b ? (float)v->b[i] * m_b : 0;
    if (skip != 1) pa = (float)w_r((wide)pa);
    if (skip != 2) pb = (float)w_r((wide)pb);
    float s = pa + pb;
    if (skip != 3) s = (float)w_r((wide)s);
    s = (float)v->x[i] + s;
    return skip == 4 ? (double)s : w_r((wide)s);
}

START_TEST(bf16_rounding_points)
{
    for (int two = 0; two < 2; ++two) {
        input v = make(1000, two);
        w_rounded(v.a, v.n), w_rounded(v.x, v.n);
        if (two) w_rounded(v.b, v.n);
        v.m_a = 0.75 * 0.883883476, v.m_b = 0.84375 * 0.7;
        double *want = w_new(v.n), *got = run(w_bf16, &v);
        for (int skip = 0; skip <= 5; ++skip) {
            for (int64_t i = 0; i < v.n; ++i) want[i] = rounded(&v, i, skip, skip == 5);
            if (skip == 0) w_exact(w_bf16, "roundings", v.n, got, want);
            else if (two || skip == 4 || skip == 5) w_rejects(w_bf16, "another rounding", v.n, got, want, NULL);
        }
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {
        agrees_with_the_formula, faults_are_rejected,         lattice_is_exact,     branches_come_first,
        elements_do_not_meet,    threads_do_not_change_a_bit, bf16_rounding_points, NULL};
    return w_main("residual", tests);
}
