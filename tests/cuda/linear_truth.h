/* One product for the tests of cuda/linear.cuh: draws it, runs it by a given path, and judges every element of the
 * result and of the gaps between its rows. */
#pragma once

#include "cuda/linear.cuh"
#include "tests/cuda/harness.h"

struct product {
    cu_type type, y_type;
    int M, N, K;
    bool bias;
    float alpha;
    int pad_x, pad_y; /* unused elements at the end of each row */
};
typedef fh1_status (*linear_path)(cu_ctx *, const cu_linear *);

/* The numbers of one product on the host, and where they lie on the device. */
struct product_data {
    std::vector<float> x, w, b;
    cu_linear a;
};

static const float GAP = 777;

static inline product_data product_draw(const product &p)
{
    product_data d;
    const int64_t ldx = p.K + p.pad_x, ldy = p.N + p.pad_y;
    d.x = as_stored(p.type, draw("x", static_cast<size_t>(p.M * ldx)));
    for (int m = 0; m < p.M; ++m) /* a read of the gap shows */
        for (int64_t i = p.K; i < ldx; ++i) d.x[static_cast<size_t>(m * ldx + i)] = NAN;
    d.w = as_stored(p.type, draw("w", static_cast<size_t>(p.N) * p.K, 1 / sqrt(p.K + 1.0)));
    if (p.bias) d.b = draw("b", static_cast<size_t>(p.N));
    const std::vector<float> y(static_cast<size_t>(p.M * ldy), GAP);
    d.a = cu_linear{p.type,
                    p.M,
                    p.N,
                    p.K,
                    to_device(p.type, d.x),
                    ldx,
                    to_device(p.type, d.w),
                    p.bias ? to_device(d.b) : NULL,
                    p.alpha,
                    to_device(p.y_type, y),
                    ldy,
                    p.y_type};
    return d;
}

/* What the stored type may lose on a number as large as v: half of its last place. */
static inline double half_ulp(cu_type t, double v)
{
    int e;
    frexp(v, &e); /* v < 2^e; the significand has 8 bits, or 24 */
    return v == 0 ? 0 : ldexp(1, e - 1 - (t == CU_BF16 ? 8 : 24));
}

/* The element in double and its error bound. The products of two stored numbers are exact in f32 for bf16 and rounded
 * with the addition for f32 (fma); K additions in any order err by at most K·2^-24·Σ|x·w|, twice that where tensor
 * cores cut instead of rounding; alpha and the bias round once each. */
static inline double product_truth(const product &p, const product_data &d, int m, int n, double *bound)
{
    double sum = 0, size = 0;
    for (int k = 0; k < p.K; ++k) {
        const double t = static_cast<double>(d.x[static_cast<size_t>(m * d.a.ldx + k)]) *
                         static_cast<double>(d.w[static_cast<size_t>(n) * p.K + k]);
        sum += t;
        size += fabs(t);
    }
    const double b = p.bias ? static_cast<double>(d.b[static_cast<size_t>(n)]) : 0, y = p.alpha * sum + b;
    const double err = ldexp(1, -23) * ((p.K + 2) * fabs(p.alpha) * size + fabs(b));
    *bound = err + half_ulp(p.y_type, fabs(y) + err);
    return y;
}

/* The largest error as a part of what is allowed; writes into the gaps count as infinite. */
static inline double product_margin(const product &p, const product_data &d)
{
    const std::vector<float> y = from_device(p.y_type, d.a.y, static_cast<size_t>(p.M * d.a.ldy));
    double worst = 0;
    for (int m = 0; m < p.M; ++m) {
        for (int64_t n = 0; n < d.a.ldy; ++n) {
            const double v = y[static_cast<size_t>(m * d.a.ldy + n)];
            double bound = 1, truth = GAP;
            if (n < p.N) truth = product_truth(p, d, m, static_cast<int>(n), &bound);
            else if (v != as_stored(p.y_type, {GAP})[0]) return INFINITY;
            else continue;
            const double share = fabs(v - truth) / (bound > 0 ? bound : 1e-300);
            if (!(share <= worst)) worst = share; /* NaN is kept: it fails every comparison after */
        }
    }
    return worst;
}

static inline void product_check(cu_ctx *k, linear_path path, const product &p)
{
    const product_data d = product_draw(p);
    good(path(k, &d.a));
    const double margin = product_margin(p, d);
    ck_assert_msg(margin <= 1, "%s M %d N %d K %d bias %d alpha %g y %s: %g times what is allowed",
                  p.type == CU_F32 ? "f32" : "bf16", p.M, p.N, p.K, p.bias, static_cast<double>(p.alpha),
                  p.y_type == CU_F32 ? "f32" : "bf16", margin);
    free_device();
}
