/* What the witnesses of backward ops count in: long double values with running error bounds, and complex ones whose
 * imaginary part carries a derivative. */
#pragma once

#include "tests/witness.h"

#include <complex.h>

typedef complex long double cwide;

#define TOKEN_SUM 68 /* additions that a term of a sum over tokens may pass before f64: 64 and a few */

/* A value, the sum of its absolute terms, its error in units of u. */
typedef struct {
    wide v, abs, err;
} term;

static inline term product(term a, term b) /* one rounding */
{
    return (term){a.v * b.v, a.abs * b.abs, a.err * b.abs + a.abs * b.err + a.abs * b.abs};
}

static inline term sum(term a, term b) /* one rounding */
{
    return (term){a.v + b.v, a.abs + b.abs, a.err + b.err + a.abs + b.abs};
}

/* Further roundings of the whole: what a longer sum than the one here may have. */
static inline term longer(term a, wide roundings)
{
    a.err += roundings * a.abs;
    return a;
}

static inline term given(double v)
{
    return (term){(wide)v, fabsl((wide)v), 0};
}

static inline term minus(term a)
{
    a.v = -a.v;
    return a;
}

/* 1/√v of a sum of squares: half of v's relative error, 2 roundings. */
static inline term inverse_root(term v)
{
    const wide r = 1 / sqrtl(v.v);
    return (term){r, r, r * (v.err / (2 * v.v) + 2)};
}

/* σ(v), and 1 - σ(v) with `far`: exp within 2 roundings, the sum and the quotient 1 each, exp again
 * and a product for the smaller of the two, and the own error of v times the
 * slope. */
static inline term sigmoid(term v, bool far)
{
    const wide on = 1 / (1 + expl(-v.v)), off = 1 / (1 + expl(v.v)), s = far ? off : on;
    return (term){s, s, 6 * s + v.err * on * off};
}

/* silu and silu' = σ(1 + v(1 - σ)) at a value with an error. */
static inline term silu_value(term v)
{
    const wide on = 1 / (1 + expl(-v.v)), off = 1 / (1 + expl(v.v));
    const wide value = v.v * on;
    return (term){value, fabsl(value), 7 * fabsl(value) + v.err * fabsl(on * (1 + v.v * off))};
}

static inline term silu_slope(term v) /* |silu''| <= 1/2: that is what an error of v does */
{
    const term exact = {v.v, fabsl(v.v), 0}, one = {1, 1, 0};
    term s = product(sigmoid(exact, false), sum(one, product(exact, sigmoid(exact, true))));
    s.err += v.err / 2;
    return s;
}
