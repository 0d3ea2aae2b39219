/* One call of a scan or a step, its truth in f64 and what an f32 engine may be off by. The selective scan is the same
 * recurrence with heads of one channel, one group, and a rate for each number of the state. */
#pragma once

#include "cuda/selective_scan.cuh"
#include "cuda/ssd_step.cuh"
#include "tests/cuda/harness.h"

#include <algorithm>
#include <string>

/* A call: rows of tokens, documents, shapes and numbers. begins[t]: token t begins a document. */
struct ssd_call {
    cu_type type;
    int H, P, N, G;
    std::vector<int> row_begin, slot;
    std::vector<bool> begins;
    std::vector<float> xbc, dt, A, D, state; /* state [slots, H, P, N] */
    bool selective = false;                  /* A is [H, N], P and G are 1 */
    double rate(int h, int n) const
    {
        return A[selective ? static_cast<size_t>(h) * N + n : static_cast<size_t>(h)];
    }
    int tokens() const
    {
        return row_begin.back();
    }
    int rows() const
    {
        return static_cast<int>(row_begin.size()) - 1;
    }
    int64_t ldx() const
    {
        return H * P + 2 * G * N + 16; /* other columns follow */
    }
};

struct ssd_result {
    std::vector<float> y, state;
};

/* start of every token, as cu_tokens has it. */
static inline std::vector<int> starts(const ssd_call &c)
{
    std::vector<int> s(static_cast<size_t>(c.tokens()), -1);
    for (int b = 0; b < c.rows(); ++b) {
        int now = -1;
        for (int t = c.row_begin[b]; t < c.row_begin[b + 1]; ++t) {
            if (c.begins[t]) now = t;
            s[t] = now;
        }
    }
    return s;
}

/* Rows of these lengths with numbers of about one, steps around `dt`, states that are not zero, in scattered slots with
 * one more that belongs to nobody. */
static inline ssd_call make_call(cu_type type, std::vector<int> lengths, int H, int P, int N, int G, double dt = 0.05)
{
    ssd_call c = {type, H, P, N, G, {0}, {}, {}, {}, {}, {}, {}, {}, false};
    for (int n : lengths) c.row_begin.push_back(c.row_begin.back() + n);
    const int M = c.tokens(), B = c.rows();
    for (int b = 0; b < B; ++b) c.slot.push_back(B - b);
    c.begins.assign(static_cast<size_t>(M), false);
    c.xbc = as_stored(type, draw("xbc", static_cast<size_t>(M) * c.ldx()));
    c.dt = draw("dt", static_cast<size_t>(M) * H);
    for (float &v : c.dt) v = static_cast<float>(dt * exp(v));
    c.A = draw("A", H);
    for (float &v : c.A) v = -expf(v);
    c.D = draw("D", H);
    c.state = draw("state", static_cast<size_t>(B + 1) * H * P * N);
    return c;
}

static inline ssd_call make_selective(cu_type type, const std::vector<int> &lengths, int I, int N, double dt = 0.05)
{
    ssd_call c = make_call(type, lengths, I, 1, N, 1, dt);
    c.selective = true;
    c.A = draw("A", static_cast<size_t>(I) * N);
    for (float &v : c.A) v = -expf(v);
    return c;
}

/* Token t, and the state that a row finds, spoilt. */
static inline void spoil_token(ssd_call &c, int t, float v)
{
    for (int64_t i = 0; i < c.ldx(); ++i) c.xbc[t * c.ldx() + i] = v;
    for (int h = 0; h < c.H; ++h) c.dt[static_cast<size_t>(t) * c.H + h] = NAN;
}

static inline void spoil_state(ssd_call &c, int row)
{
    const size_t n = static_cast<size_t>(c.H) * c.P * c.N, at = c.slot[row] * n;
    std::fill(c.state.begin() + at, c.state.begin() + at + n, NAN);
}

/* Tokens from .. to of a call with one row; what happened before is in `state`. */
static inline ssd_call part(const ssd_call &c, int from, int to, const std::vector<float> &state)
{
    ssd_call r = c;
    r.row_begin = {0, to - from};
    r.begins.assign(c.begins.begin() + from, c.begins.begin() + to);
    r.xbc.assign(c.xbc.begin() + from * c.ldx(), c.xbc.begin() + to * c.ldx());
    r.dt.assign(c.dt.begin() + from * c.H, c.dt.begin() + to * c.H);
    r.state = state;
    return r;
}

static inline cu_ssd device_call(const ssd_call &c)
{
    cu_ssd a = {};
    a.type = c.type;
    a.t.M = c.tokens(), a.t.B = c.rows();
    for (int b = 0; b < c.rows(); ++b) a.t.longest = std::max(a.t.longest, c.row_begin[b + 1] - c.row_begin[b]);
    a.t.row_begin = to_device(c.row_begin);
    a.t.start = to_device(starts(c));
    a.H = c.H, a.P = c.P, a.N = c.N, a.G = c.G;
    a.xbc = to_device(c.type, c.xbc);
    a.ldx = c.ldx();
    a.dt = to_device(c.dt), a.A = to_device(c.A), a.D = to_device(c.D);
    a.state = to_device(c.state), a.slot = to_device(c.slot);
    a.y = device_new(c.type, static_cast<size_t>(c.tokens()) * c.H * c.P);
    return a;
}

static inline ssd_result result_of(const ssd_call &c, const cu_ssd &a)
{
    return {from_device(c.type, a.y, static_cast<size_t>(c.tokens()) * c.H * c.P),
            from_device(a.state, c.state.size())};
}

static inline ssd_result run_scan(const ssd_call &c, cu_ssd_way way, cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    cu_ssd a = device_call(c);
    const size_t bytes = cu_ssd_scratch(&a, way, a.t.M, a.t.B);
    if (bytes) a.scratch = device_new<unsigned char>(bytes);
    good(cu_ssd_scan_fwd(&k, &a, way));
    const ssd_result r = result_of(c, a);
    free_device();
    return r;
}

/* x, B and C lie side by side here; the kernels take them apart. */
static inline cu_selective device_selective(const ssd_call &c)
{
    const cu_ssd s = device_call(c);
    cu_selective a = {};
    a.type = s.type, a.t = s.t, a.I = s.H, a.N = s.N;
    a.x = s.xbc, a.ldx = a.ldbc = s.ldx;
    a.B = static_cast<const char *>(s.xbc) + cu_size(s.type) * static_cast<size_t>(c.H);
    a.C = static_cast<const char *>(a.B) + cu_size(s.type) * static_cast<size_t>(c.N);
    a.dt = s.dt, a.A = s.A, a.D = s.D, a.state = s.state, a.slot = s.slot, a.y = s.y;
    return a;
}

static inline ssd_result run_selective(const ssd_call &c, bool step, cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    const cu_selective a = device_selective(c);
    good(step ? cu_selective_step_fwd(&k, &a) : cu_selective_scan_fwd(&k, &a));
    cu_ssd s = {};
    s.y = a.y, s.state = a.state;
    const ssd_result r = result_of(c, s);
    free_device();
    return r;
}

/* Truth and bounds, with u = 2^-24 and e = 2^-17 for operands that tensor cores take in two parts (0 for f32).
 * Let |S| be the recurrence of the magnitudes. Per token
 *   err(S') = a·err(S) + a·|S|·(4 + |dt·A|)·u + |dt·x·B|·(2u + e):
 * the exponential to 2u plus its rounded argument, a product, a sum; what enters is two products and one split. The
 * selective scan raises 2 to dt·(A·log2 e), an argument that is rounded twice: 2·|dt·A|. Over a
 * chunk the same holds of exp(c_i - c_j), whose argument is good to a rounding of itself, which is Σ |dt·A|·u over the
 * tokens between; and a sum of 64 tokens is no more than a rounding each. Then
 *   err(y) = |C|·err(S) + |S|·|C|·((N + 80)·u + 2e) + 2u·|D·x| + half an ulp of y as stored
 * for sums over N columns (also those of C·B) and 64 tokens in any order, and the split of scores and of the state. */
struct ssd_truth {
    std::vector<double> y, y_err, state, state_err;
};

enum ssd_fault { SSD_RIGHT, SSD_LEAKS, SSD_LATE_DECAY, SSD_NO_SKIP, SSD_GROUPS_TILED, SSD_A_TRANSPOSED, SSD_B_IS_C };

struct ssd_row_truth {
    double S, err, size;
};

static inline void truth_of_row(const ssd_call &c, ssd_fault f, int b, int h, int p, ssd_truth &r)
{
    const double u = ldexp(1, -24), e = c.type == CU_BF16 ? ldexp(1, -17) : 0;
    const int g = f == SSD_GROUPS_TILED ? h % c.G : h / (c.H / c.G);
    const size_t at = ((static_cast<size_t>(c.slot[b]) * c.H + h) * c.P + p) * c.N;
    std::vector<ssd_row_truth> S(static_cast<size_t>(c.N));
    for (int n = 0; n < c.N; ++n) S[n] = {c.state[at + n], 0, fabs(c.state[at + n])};
    for (int t = c.row_begin[b]; t < c.row_begin[b + 1]; ++t) {
        const float *col = c.xbc.data() + t * c.ldx(), *C = col + c.H * c.P + (c.G + g) * c.N;
        const float *B = f == SSD_B_IS_C ? C : C - c.G * c.N;
        const double dt = c.dt[static_cast<size_t>(t) * c.H + h], x = col[h * c.P + p];
        const double before =
            f == SSD_LATE_DECAY && t > c.row_begin[b] ? c.dt[static_cast<size_t>(t - 1) * c.H + h] : dt;
        const double D = f == SSD_NO_SKIP ? 0 : c.D[h];
        double y = 0, err = 2 * u * fabs(D * x), size = 0;
        for (int n = 0; n < c.N; ++n) {
            if (c.begins[t] && f != SSD_LEAKS) S[n] = {0, 0, 0};
            const bool turned = f == SSD_A_TRANSPOSED; /* [H, N] read as [N, H] */
            const double rate = turned ? c.A[static_cast<size_t>(n) * c.H + h] : c.rate(h, n);
            const double in = dt * x * B[n], exponent = before * rate, a = exp(exponent);
            const double argument = c.selective ? 2 * fabs(exponent) : fabs(exponent);
            S[n].err = a * S[n].err + a * S[n].size * (4 + argument) * u + fabs(in) * (2 * u + e);
            S[n].size = a * S[n].size + fabs(in);
            S[n].S = a * S[n].S + in;
            y += S[n].S * C[n];
            err += S[n].err * fabs(C[n]);
            size += S[n].size * fabs(C[n]);
        }
        const size_t i = (static_cast<size_t>(t) * c.H + h) * c.P + p;
        r.y[i] = y + D * x;
        err += size * ((c.N + 80) * u + 2 * e);
        r.y_err[i] = err + (c.type == CU_BF16 ? ldexp(fabs(r.y[i]) + err, -8) : u * fabs(r.y[i]));
    }
    for (int n = 0; n < c.N && c.row_begin[b] < c.row_begin[b + 1]; ++n) {
        r.state[at + n] = S[n].S;
        r.state_err[at + n] = S[n].err + 1e-38;
    }
}

static inline ssd_truth truth_of(const ssd_call &c, ssd_fault f = SSD_RIGHT)
{
    const size_t n = static_cast<size_t>(c.tokens()) * c.H * c.P;
    ssd_truth r = {std::vector<double>(n),
                   std::vector<double>(n),
                   {c.state.begin(), c.state.end()},
                   std::vector<double>(c.state.size())}; /* slots of nobody and of empty rows stay, to the bit */
    for (int b = 0; b < c.rows(); ++b)
        for (int h = 0; h < c.H; ++h)
            for (int p = 0; p < c.P; ++p) truth_of_row(c, f, b, h, p, r);
    return r;
}

/* Elements beyond their bound, NaN against a number included. */
static inline size_t beyond(const std::vector<float> &got, const std::vector<double> &want,
                            const std::vector<double> &err)
{
    size_t bad = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        const bool same = std::isnan(want[i]) ? std::isnan(got[i]) : fabs(got[i] - want[i]) <= err[i];
        bad += !(same || (std::isinf(want[i]) && got[i] == want[i]));
    }
    return bad;
}

static inline void check_scan(const ssd_call &c, const ssd_result &r, const ssd_truth &want, const char *what)
{
    const size_t y = beyond(r.y, want.y, want.y_err), s = beyond(r.state, want.state, want.state_err);
    ck_assert_msg(y == 0 && s == 0, "%s, %d tokens, H %d P %d N %d G %d: %zu outputs and %zu of the state are off",
                  what, c.tokens(), c.H, c.P, c.N, c.G, y, s);
}
