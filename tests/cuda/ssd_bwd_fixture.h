/* One call of a scan's backward pass, and its truth: the recurrence reversed token by token, in double, with groups,
 * documents, rows and states. The selective scan is the same with heads of one channel, one group, and a rate for each
 * number of the state. */
#pragma once

#include "tests/cuda/bwd_fixture.h"

struct scan_call {
    packed_rows r;
    int H, P, N, G;
    bool with_state, with_after; /* states before the call, derivatives by those after it */
    std::vector<float> xbc, dt, A, D, state, dy, after, dA_log, dD;
    bool selective = false; /* A is [H, N], P and G are 1 */
    size_t rates() const
    {
        return static_cast<size_t>(selective ? H * N : H);
    }
    int64_t ldx() const
    {
        return H * P + 2 * G * N + 7;
    }
    size_t states() const /* of all rows */
    {
        return static_cast<size_t>(r.rows()) * H * P * N;
    }
};

struct scan_result {
    std::vector<float> dxbc, ddt, dA_log, dD, dstate;
};

static inline scan_call make(const std::vector<int> &lengths, int H, int P, int N, int G, double dt = 0.05,
                             bool selective = false)
{
    scan_call c = {packed_rows(lengths), H, P, N, G, true, true, {}, {}, {}, {}, {}, {}, {}, {}, {}, selective};
    const size_t M = static_cast<size_t>(c.r.tokens());
    c.xbc = draw("xbc", M * c.ldx()), c.dy = draw("dy", M * H * P);
    c.dt = draw("dt", M * H), c.A = draw("A", c.rates()), c.D = draw("D", H);
    for (float &v : c.dt) v = static_cast<float>(dt * exp(v));
    for (float &v : c.A) v = -expf(v);
    c.state = draw("state", c.states() + static_cast<size_t>(H) * P * N), c.after = draw("after", c.states());
    c.dA_log = draw("dA_log", c.rates()), c.dD = draw("dD", H);
    return c;
}

enum want_mask { DXBC = 1, DDT = 2, DA = 4, DD = 8, DSTATE = 16, ALL = 31 };

enum fault {
    RIGHT,
    STATE_AFTER,   /* S_t for S_{t-1} in q */
    LAST_HEAD,     /* dB and dC not summed over the heads of the group */
    LEAKS,         /* dS is carried over a document's first token */
    LEAKS_DECAY,   /* q is not 0 there */
    EARLY_DECAY,   /* carried by a_t, not a_{t+1} */
    NO_INPUT_PATH, /* ddt through dt·x alone, or */
    NO_DECAY_PATH, /* through the decay alone */
    BY_A,          /* dA for dA_log */
    NO_SKIP,
    STATE_FORGOTTEN,
    AFTER_FORGOTTEN,
    GROUPS_TILED,
    FAULTS
};

struct scan_truth {
    expected dxbc, ddt, dA_log, dD, dstate;
};

/* A number and the sum of the magnitudes of its terms. */
struct number {
    double v = 0, size = 0;
    void add(double x, double magnitude)
    {
        v += x, size += magnitude;
    }
};

/* One head of one row; every sum with the sum of its magnitudes, from which bounds follow. */
struct head_truth {
    const scan_call &c;
    fault f;
    int b, h, g, begin, end;
    size_t PN;
    std::vector<number> S; /* [T + 1, P, N], the one before the row first */
    const float *x(int t) const
    {
        return c.xbc.data() + t * c.ldx() + h * c.P;
    }
    const float *B(int t) const
    {
        return c.xbc.data() + t * c.ldx() + c.H * c.P + g * c.N;
    }
    const float *C(int t) const
    {
        return B(t) + c.G * c.N;
    }
    double dt(int t) const
    {
        return c.dt[static_cast<size_t>(t) * c.H + h];
    }
    size_t rate_of(int n) const
    {
        return c.selective ? static_cast<size_t>(h) * c.N + n : static_cast<size_t>(h);
    }
    double rate(int n) const
    {
        return c.A[rate_of(n)];
    }
    double decay(int t, int n) const
    {
        return exp(dt(t) * rate(n));
    }

    void forward()
    {
        S.resize((end - begin + 1) * PN);
        const size_t slot = static_cast<size_t>(c.r.slot[b]) * c.H + h;
        for (size_t e = 0; e < PN; ++e) {
            const double v = c.with_state && f != STATE_FORGOTTEN ? c.state[slot * PN + e] : 0;
            S[e].add(v, fabs(v));
        }
        for (int t = begin; t < end; ++t)
            for (size_t e = 0; e < PN; ++e) {
                const number &from = S[(t - begin) * PN + e];
                number &to = S[(t - begin + 1) * PN + e];
                const double in = dt(t) * x(t)[e / c.N] * B(t)[e % c.N];
                const double a = decay(t, static_cast<int>(e % c.N));
                if (!c.r.begins[t]) to.add(a * from.v, a * from.size);
                to.add(in, fabs(in));
            }
    }

    /* To `o`; u: what a number may be off by, relative to its size. */
    void backward(double u, scan_truth &o)
    {
        std::vector<number> dS(PN);
        std::vector<number> dA(c.N); /* one by one where rates are, else all in the first */
        number dD;
        const size_t row = static_cast<size_t>(b) * c.H + h, width = c.ldx() - 7;
        for (size_t e = 0; e < PN && c.with_after && f != AFTER_FORGOTTEN; ++e)
            dS[e].add(c.after[row * PN + e], fabs(c.after[row * PN + e]));
        for (int t = end - 1; t >= begin; --t) {
            const float *e = c.dy.data() + (static_cast<size_t>(t) * c.H + h) * c.P;
            std::vector<number> dB(c.N), dC(c.N);
            number by_rate, through;
            for (int p = 0; p < c.P; ++p) {
                number dx;
                for (int n = 0; n < c.N; ++n) {
                    const size_t i = static_cast<size_t>(p) * c.N + n;
                    number &d = dS[i];
                    const number &now = S[(t - begin + 1) * PN + i];
                    const number &before = f == STATE_AFTER ? now : S[(t - begin) * PN + i];
                    const double eC = static_cast<double>(e[p]) * C(t)[n];
                    d.add(eC, fabs(eC));
                    dx.add(dt(t) * d.v * B(t)[n], fabs(dt(t) * B(t)[n]) * d.size);
                    dB[n].add(dt(t) * d.v * x(t)[p], fabs(dt(t) * x(t)[p]) * d.size);
                    dC[n].add(now.v * e[p], now.size * fabs(e[p]));
                    through.add(x(t)[p] * d.v * B(t)[n], fabs(x(t)[p] * B(t)[n]) * d.size);
                    if (c.r.begins[t] && f != LEAKS_DECAY) continue;
                    const double q = decay(t, n) * d.v * before.v, size = decay(t, n) * d.size * before.size;
                    by_rate.add(rate(n) * q, fabs(rate(n)) * size);
                    dA[c.selective ? n : 0].add(dt(t) * q, dt(t) * size);
                }
                const double skip = static_cast<double>(c.D[h]) * e[p], xe = static_cast<double>(x(t)[p]) * e[p];
                if (f != NO_SKIP) dx.add(skip, fabs(skip));
                dD.add(xe, fabs(xe));
                o.dxbc.want[t * width + h * c.P + p] = dx.v, o.dxbc.err[t * width + h * c.P + p] = u * dx.size;
            }
            for (int n = 0; n < c.N; ++n)
                for (int C_too = 0; C_too < 2; ++C_too) {
                    const size_t i = t * width + c.H * c.P + C_too * c.G * c.N + g * c.N + n;
                    const number &d = C_too ? dC[n] : dB[n];
                    o.dxbc.want[i] = f == LAST_HEAD ? d.v : o.dxbc.want[i] + d.v, o.dxbc.err[i] += u * d.size;
                }
            const size_t at = static_cast<size_t>(t) * c.H + h;
            number ddt;
            if (f != NO_INPUT_PATH) ddt.add(through.v, through.size);
            if (f != NO_DECAY_PATH) ddt.add(by_rate.v, by_rate.size);
            o.ddt.want[at] = ddt.v, o.ddt.err[at] = u * ddt.size;
            for (size_t i = 0; i < PN; ++i) {
                number &d = dS[i];
                const double a = decay(f == EARLY_DECAY && t > begin ? t - 1 : t, static_cast<int>(i % c.N));
                if (c.r.begins[t] && f != LEAKS) d = {};
                else d.v *= a, d.size *= a;
            }
        }
        for (size_t e = 0; e < PN; ++e)
            o.dstate.want[row * PN + e] = dS[e].v, o.dstate.err[row * PN + e] = u * dS[e].size;
        for (int n = 0; n < (c.selective ? c.N : 1); ++n) {
            const double by = f == BY_A ? 1 : rate(n);
            o.dA_log.want[rate_of(n)] += by * dA[n].v, o.dA_log.err[rate_of(n)] += 2 * u * fabs(by) * dA[n].size;
        }
        o.dD.want[h] += dD.v, o.dD.err[h] += 2 * u * dD.size;
    }
};

/* Each result is a sum of products in which no term passes through more than so many roundings of u: sums over N, over
 * P, and over 64 tokens three times (C·B or e·x, W's prefixes and columns), a product of two or three factors and two
 * exponentials each (6), two roundings per chunk of a state that is carried on. An exponential has in addition the
 * rounding of its argument, which is at most the decay of a chunk; beyond 100 nothing is left of a number. Sums of dA
 * and dD over tokens of a chunk are counted twice more. Sums of the selective scan are over N, over all channels (dB
 * and dC), and over no more than 64 tokens without one in f64. */
static inline scan_truth truth(const scan_call &c, fault f = RIGHT)
{
    const size_t M = static_cast<size_t>(c.r.tokens());
    scan_truth o = {expected(M * (c.ldx() - 7)), expected(M * c.H), expected(c.rates()), expected(c.H),
                    expected(c.states())};
    for (size_t i = 0; i < c.rates(); ++i) o.dA_log.want[i] = c.dA_log[i];
    for (int h = 0; h < c.H; ++h) o.dD.want[h] = c.dD[h];
    double decay = 0;
    int longest = 0;
    for (int b = 0; b < c.r.rows(); ++b) longest = std::max(longest, c.r.length(b));
    for (size_t i = 0; i < c.dt.size(); ++i)
        for (size_t r = i % c.H * c.rates() / c.H; r < (i % c.H + 1) * c.rates() / c.H; ++r)
            decay = fmax(decay, -static_cast<double>(c.dt[i]) * c.A[r]);
    const double u =
        ulp * (c.N + c.P + (c.selective ? c.H : 0) + 3 * 64 + 30 + 2 * (longest / 64 + 1) + fmin(64 * decay, 100));
    for (int b = 0; b < c.r.rows(); ++b)
        for (int h = 0; h < c.H; ++h) {
            const int g = f == GROUPS_TILED ? h % c.G : h / (c.H / c.G);
            head_truth t = {c, f, b, h, g, c.r.row_begin[b], c.r.row_begin[b + 1], static_cast<size_t>(c.P) * c.N, {}};
            t.forward();
            t.backward(u, o);
        }
    for (size_t i = 0; i < c.rates(); ++i) o.dA_log.err[i] += ulp * fabs(o.dA_log.want[i]);
    for (int h = 0; h < c.H; ++h) o.dD.err[h] += ulp * fabs(o.dD.want[h]);
    return o;
}

static inline size_t wrong(const scan_result &r, const scan_truth &t)
{
    return beyond(r.dxbc, t.dxbc) + beyond(r.ddt, t.ddt) + beyond(r.dA_log, t.dA_log) + beyond(r.dD, t.dD) +
           beyond(r.dstate, t.dstate);
}
