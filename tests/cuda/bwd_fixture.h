/* What tests of backward kernels share: numbers with what an f32 kernel may be off by, and rows of packed documents. */
#pragma once

#include "cuda/backward.cuh"
#include "tests/cuda/harness.h"

#include <string>

static const double ulp = 0x1p-24; /* half of one, of numbers about 1: the relative error of one rounding */

/* Truth in f64 and its bound. */
struct expected {
    std::vector<double> want, err;
    explicit expected(size_t n = 0) : want(n), err(n)
    {
    }
};

/* Elements beyond their bound, NaN against a number included. The denormal: results may underflow. */
static inline size_t beyond(const std::vector<float> &got, const expected &e)
{
    size_t bad = got.size() != e.want.size();
    for (size_t i = 0; i < got.size() && i < e.want.size(); ++i) {
        const bool same =
            std::isnan(e.want[i]) ? std::isnan(got[i]) : fabs(got[i] - e.want[i]) <= e.err[i] * 1.01 + 1e-37;
        bad += !(same || (std::isinf(e.want[i]) && got[i] == e.want[i]));
    }
    return bad;
}

/* silu of a product v·m that was rounded once, its derivative, and what kernels may be off by: 6 roundings of the
 * exponential, the sum and the quotient, more of the two terms of the derivative, and the argument's rounding by the
 * slopes of both (at most 1.1 and 0.5). */
struct silu_truth {
    double s, slope, s_err, slope_err;
    explicit silu_truth(double u)
    {
        const double e = exp(-fabs(u)), sigma = (u < 0 ? e : 1) / (1 + e), other = (u < 0 ? 1 : e) / (1 + e);
        s = u * sigma, slope = sigma * (1 + u * other);
        s_err = ulp * (6 * fabs(s) + 1.1 * fabs(u) * (u < -10 ? exp(u / 2) : 1));
        slope_err = ulp * (10 * sigma * (1 + fabs(u) * other) + 0.5 * fabs(u) * (fabs(u) > 10 ? exp(-fabs(u) / 2) : 1));
    }
};

/* Rows of these lengths; begins[t]: token t begins a document. */
struct packed_rows {
    std::vector<int> row_begin{0}, slot;
    std::vector<bool> begins;
    packed_rows() = default;
    explicit packed_rows(const std::vector<int> &lengths)
    {
        for (int n : lengths) row_begin.push_back(row_begin.back() + n);
        for (int b = 0; b < rows(); ++b) slot.push_back(rows() - b); /* scattered, slot 0 is nobody's */
        begins.assign(static_cast<size_t>(tokens()), false);
    }
    int tokens() const
    {
        return row_begin.back();
    }
    int rows() const
    {
        return static_cast<int>(row_begin.size()) - 1;
    }
    int length(int b) const
    {
        return row_begin[static_cast<size_t>(b) + 1] - row_begin[static_cast<size_t>(b)];
    }
    /* As cu_tokens has it. */
    std::vector<int> starts() const
    {
        std::vector<int> s(begins.size(), -1);
        for (int b = 0; b < rows(); ++b)
            for (int t = row_begin[b]; t < row_begin[b + 1]; ++t)
                s[t] = begins[t] ? t : t > row_begin[b] ? s[t - 1] : -1;
        return s;
    }
    cu_tokens on_device() const
    {
        cu_tokens t = {};
        t.M = tokens(), t.B = rows();
        std::vector<int> row;
        for (int b = 0; b < rows(); ++b) {
            t.longest = std::max(t.longest, length(b));
            row.insert(row.end(), static_cast<size_t>(length(b)), b);
        }
        t.row_begin = to_device(row_begin);
        t.row = to_device(row);
        t.start = to_device(starts());
        return t;
    }
};

/* Scratch of exactly that many bytes, so that an overrun is seen; NULL where none is needed. */
static inline float *scratch_of(size_t bytes)
{
    return bytes ? reinterpret_cast<float *>(device_new<unsigned char>(bytes)) : nullptr;
}
