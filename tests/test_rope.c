/* rope: x'_lo = x_lo·cos − x_hi·sin, x'_hi = x_hi·cos + x_lo·sin, halves of a head, angle = position·θ^(-2i/A).
 *
 * Truth's angle is f64. With e = 2i/A and f = θ^-e, the rounded exponent moves f by e·ln θ units, pow and the
 * reciprocal by one each, the product with the position p by one: the angle is off by at most
 * 2^-53·(e·ln θ + 3)·p·f, which is largest for f = 1: 9e-11 rad at p = 262143. With 4 units for cos, sin and
 * their sum the bound of an element is 2^-53·((e·ln θ + 3)·p·f + 4)·(|x_lo| + |x_hi|).
 * An f32 engine has a declared rounding point there (transformers multiplies in f32): its frequencies are tested
 * against the formula, its rotation against the angle that it declares. */
#include "tests/witness.h"

typedef enum {
    RIGHT,
    INTERLEAVED,
    OTHER_SENSE,
    NEXT_POSITION,
    THETA_10000,
    FREQ_OF_ONE_I,
    ANGLE_BF16,
    ONE_HEAD_ONLY
} fault;
static const char *const fault_name[] = {"",
                                         "pairs interleaved",
                                         "turned the other way",
                                         "position off by one",
                                         "theta 10000",
                                         "exponent i/A",
                                         "angle rounded to bf16",
                                         "only head 0 turned"};

static fh1_config config(int64_t A, double theta)
{
    fh1_config c = {.A = A, .rope = {.type = FH1_ROPE_DEFAULT, .theta = theta, .max_position = 262144}};
    return c;
}

/* The angle of pair i at a position: exact in the type's own terms, see above. */
static wide angle_of(const fh1_engine *e, const fh1_config *c, int64_t position, int64_t i, fault f)
{
    if (f == NEXT_POSITION) position += 1;
    if (e->dtype == FH1_F32) {
        float freq[256];
        double scale;
        fh1_config other = *c;
        if (f == THETA_10000) other.rope.theta = 10000;
        if (f == FREQ_OF_ONE_I) other.A *= 2;
        fh1_rope_frequencies_f32(&other, 0, freq, &scale);
        const float angle = (float)position * freq[i];
        return f == ANGLE_BF16 ? (wide)w_r((wide)angle) : (wide)angle;
    }
    const wide theta = f == THETA_10000 ? 10000 : (wide)c->rope.theta;
    const wide angle = (wide)position * powl(theta, -(f == FREQ_OF_ONE_I ? 1 : 2) * (wide)i / (wide)c->A);
    return f == ANGLE_BF16 ? (wide)w_r(angle) : angle;
}

static void witness(const fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                    const double *x, fault f, double *out, double *gauge)
{
    const int64_t A = c->A, half = A / 2;
    for (int64_t r = 0; r < T * heads; ++r)
        for (int64_t i = 0; i < half; ++i) {
            wide angle = angle_of(e, c, position[r / heads], i, f);
            if (f == OTHER_SENSE) angle = -angle;
            if (f == ONE_HEAD_ONLY && r % heads) angle = 0;
            const int64_t lo = r * A + (f == INTERLEAVED ? 2 * i : i),
                          hi = r * A + (f == INTERLEAVED ? 2 * i + 1 : i + half);
            const wide a = (wide)x[lo], b = (wide)x[hi];
            out[lo] = (double)(a * cosl(angle) - b * sinl(angle));
            out[hi] = (double)(b * cosl(angle) + a * sinl(angle));
            const wide units = 2 * (wide)i / (wide)A * logl((wide)c->rope.theta) + 3;
            const wide turn = e->dtype == FH1_F32 ? 0 : units * fabsl(angle);
            gauge[lo] = gauge[hi] = (double)((turn + 4) * (fabsl(a) + fabsl(b)));
        }
}

static double *run(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                   const double *x)
{
    const int64_t n = T * heads * c->A;
    void *v = w_to(e, x, n);
    w_fine(e->ops->rope(e, c, T, heads, position, T ? position[T - 1] + 1 : 0, v));
    return w_from(e, v, n);
}

static const int64_t positions[] = {0, 1, 2, 7, 100, 4095, 4096, 65537, 131071, 262143};
enum { T = sizeof positions / sizeof *positions };

START_TEST(agrees_with_the_formula_up_to_262143)
{
    static const int64_t shape[][2] = {{1, 2}, {1, 64}, {3, 6}, {2, 128}, {5, 34}};
    static const double thetas[] = {1e11, 10000};
    for (int k = 0; k < 20; ++k) {
        const int64_t heads = shape[k / 4][0], n = T * heads * shape[k / 4][1];
        const fh1_config c = config(shape[k / 4][1], thetas[k / 2 % 2]);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *x = w_normal("x", n, 3), *want = w_new(n), *gauge = w_new(n);
        witness(e, &c, T, heads, positions, x, RIGHT, want, gauge);
        w_accepts(e, "positions to 262143", n, run(e, &c, T, heads, positions, x), want, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    enum { HEADS = 2, A = 32, N = T * HEADS * A };
    const fh1_config c = config(A, 1e11);
    double *x = w_normal("x", N, 1), *want = w_new(N), *gauge = w_new(N);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run(e, &c, T, HEADS, positions, x);
        for (fault f = INTERLEAVED; f <= ONE_HEAD_ONLY; ++f) {
            witness(e, &c, T, HEADS, positions, x, f, want, gauge);
            w_rejects(e, fault_name[f], N, got, want, gauge);
        }
    }
}
END_TEST

/* The frequencies that the f32 angle is made of: θ and the exponent rounded to f32, then pow and a reciprocal, an
 * ulp and a half; θ = 1e11 becomes 99999997952. */
START_TEST(f32_frequencies_follow_the_formula)
{
    static const double thetas[] = {1e11, 10000, 1e5};
    for (int k = 0; k < 9; ++k) {
        const int64_t A = 32 << k / 3;
        const fh1_config c = config(A, thetas[k % 3]);
        float freq[64];
        double scale, got[64], want[64], wrong[64], gauge[64];
        fh1_rope_frequencies_f32(&c, 0, freq, &scale);
        ck_assert(scale == 1);
        for (int64_t i = 0; i < A / 2; ++i) {
            got[i] = (double)freq[i];
            want[i] = (double)powl((wide)(float)thetas[k % 3], -(wide)((float)(2 * i) / (float)A));
            wrong[i] = (double)powl((wide)thetas[k % 3] * 1.00001L, -(wide)(2 * i) / (wide)A);
            gauge[i] = 3 * want[i];
        }
        w_accepts(w_f32, "frequencies", A / 2, got, want, gauge);
        w_rejects(w_f32, "theta off by 1e-5", A / 2, got, wrong, gauge);
    }
}
END_TEST

/* Position 0 turns nothing, and a yarn factor of 2 on its table doubles exactly. */
START_TEST(lattice_is_exact)
{
    enum { HEADS = 3, A = 34, N = 2 * HEADS * A };
    static const int64_t zero[2] = {0, 0};
    const fh1_config c = config(A, 1e11);
    fh1_config yarn = c;
    yarn.rope.type = FH1_ROPE_YARN;
    yarn.rope.factor = 4, yarn.rope.attention_factor = 2, yarn.rope.beta_fast = 32, yarn.rope.beta_slow = 1;
    yarn.rope.truncate = true, yarn.rope.original_max_position = 4096;
    double *x = w_lattice("x", N, 1, 99, 0.25), *doubled = w_new(N);
    for (int64_t i = 0; i < N; ++i) doubled[i] = 2 * x[i];
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        w_exact(e, "position 0", N, run(e, &c, 2, HEADS, zero, x), x);
        w_exact(e, "factor 2", N, run(e, &yarn, 2, HEADS, zero, x), doubled);
    }
}
END_TEST

/* Laws: lengths stay; q(p + s)·k(p' + s) does not depend on s; and a row does not depend on its neighbours. */
START_TEST(lengths_and_distances_stay)
{
    enum { A = 64 };
    const fh1_config c = config(A, 1e11);
    double *x = w_normal("x", 2 * A, 1), dot[3] = {0}, squares[3] = {0}, gauge[3];
    static const int64_t at[3][2] = {{0, 5}, {1000, 1005}, {200000, 200005}};
    for (int s = 0; s < 3; ++s) {
        const double *y = run(w_f64, &c, 2, 1, at[s], x);
        double size = 0;
        for (int64_t i = 0; i < A; ++i) {
            dot[s] += y[i] * y[A + i];
            squares[s] += y[i] * y[i];
            size += x[i] * x[i] + x[A + i] * x[A + i];
        }
        gauge[s] = size * (2 * 3 * (double)at[s][1] + 100);
        w_exact(w_f64, "one row alone", A, y + A, run(w_f64, &c, 1, 1, at[s] + 1, x + A));
    }
    const double same[3] = {dot[0], dot[0], dot[0]}, length[3] = {squares[0], squares[0], squares[0]};
    w_accepts(w_f64, "distances", 3, dot, same, gauge);
    w_accepts(w_f64, "lengths", 3, squares, length, gauge);
    const double *moved = run(w_f64, &c, 2, 1, (const int64_t[]){0, 6}, x);
    double other[3] = {0};
    for (int64_t i = 0; i < A; ++i) other[0] += moved[i] * moved[A + i];
    w_rejects(w_f64, "another distance", 1, dot, other, gauge);
}
END_TEST

/* cos and sin are rounded, both products and their sum. */
START_TEST(bf16_rounding_points)
{
    enum { HEADS = 4, A = 32, HALF = A / 2, N = T * HEADS * A };
    const fh1_config c = config(A, 1e11);
    double *x = w_rounded(w_normal("x", N, 2), N), *want = w_new(N), *once = w_new(N), *exact_table = w_new(N);
    for (int64_t r = 0; r < T * HEADS; ++r)
        for (int64_t i = 0; i < HALF; ++i) {
            const wide angle = angle_of(w_bf16, &c, positions[r / HEADS], i, RIGHT);
            const wide cosine = (wide)w_r(cosl(angle)), sine = (wide)w_r(sinl(angle));
            const int64_t lo = r * A + i, hi = lo + HALF;
            const wide a = (wide)x[lo], b = (wide)x[hi];
            want[lo] = w_r((wide)w_r(a * cosine) - (wide)w_r(b * sine));
            want[hi] = w_r((wide)w_r(b * cosine) + (wide)w_r(a * sine));
            once[lo] = w_r(a * cosine - b * sine);
            once[hi] = w_r(b * cosine + a * sine);
            exact_table[lo] = w_r((wide)w_r(a * cosl(angle)) - (wide)w_r(b * sinl(angle)));
            exact_table[hi] = w_r((wide)w_r(b * cosl(angle)) + (wide)w_r(a * sinl(angle)));
        }
    const double *got = run(w_bf16, &c, T, HEADS, positions, x);
    w_exact(w_bf16, "four roundings", N, got, want);
    w_rejects(w_bf16, "products not rounded", N, got, once, NULL);
    w_rejects(w_bf16, "table not rounded", N, got, exact_table, NULL);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula_up_to_262143,
                            faults_are_rejected,
                            f32_frequencies_follow_the_formula,
                            lattice_is_exact,
                            lengths_and_distances_stay,
                            bf16_rounding_points,
                            NULL};
    return w_main("rope", tests);
}
