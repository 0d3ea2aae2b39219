/* Backward of the scan against the recurrence reversed token by token, in double: groups, documents, rows, states. */
#include "tests/cuda/bwd_fixture.h"

struct scan_call {
    packed_rows r;
    int H, P, N, G;
    bool with_state, with_after; /* states before the call, derivatives by those after it */
    std::vector<float> xbc, dt, A, D, state, dy, after, dA_log, dD;
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

static scan_call make(const std::vector<int> &lengths, int H, int P, int N, int G, double dt = 0.05)
{
    scan_call c = {packed_rows(lengths), H, P, N, G, true, true, {}, {}, {}, {}, {}, {}, {}, {}, {}};
    const size_t M = static_cast<size_t>(c.r.tokens());
    c.xbc = draw("xbc", M * c.ldx()), c.dy = draw("dy", M * H * P);
    c.dt = draw("dt", M * H), c.A = draw("A", H), c.D = draw("D", H);
    for (float &v : c.dt) v = static_cast<float>(dt * exp(v));
    for (float &v : c.A) v = -expf(v);
    c.state = draw("state", c.states() + static_cast<size_t>(H) * P * N), c.after = draw("after", c.states());
    c.dA_log = draw("dA_log", H), c.dD = draw("dD", H);
    return c;
}

enum want_mask { DXBC = 1, DDT = 2, DA = 4, DD = 8, DSTATE = 16, ALL = 31 };

static scan_result run(const scan_call &c, unsigned mask = ALL)
{
    cu_ctx k = context();
    cu_ssd_scan_bwd_args a = {};
    a.t = c.r.on_device(), a.H = c.H, a.P = c.P, a.N = c.N, a.G = c.G;
    a.xbc = to_device(c.xbc), a.ldx = c.ldx(), a.dt = to_device(c.dt), a.A = to_device(c.A), a.D = to_device(c.D);
    a.state = c.with_state ? to_device(c.state) : nullptr, a.slot = to_device(c.r.slot);
    a.dy = to_device(c.dy), a.dstate_out = c.with_after ? to_device(c.after) : nullptr;
    const size_t M = static_cast<size_t>(c.r.tokens()), n = M * (c.ldx() + 2);
    float *dA = to_device(c.dA_log), *dD = to_device(c.dD);
    a.dxbc = mask & DXBC ? to_device(std::vector<float>(n, 7.f)) : nullptr, a.lddx = c.ldx() + 2;
    a.ddt = mask & DDT ? device_new<float>(M * c.H) : nullptr;
    a.dA_log = mask & DA ? dA : nullptr, a.dD = mask & DD ? dD : nullptr;
    a.dstate = mask & DSTATE ? device_new<float>(c.states()) : nullptr;
    a.scratch = scratch_of(cu_ssd_scan_bwd_scratch(&a));
    good(cu_ssd_scan_bwd(&k, &a));
    scan_result r;
    const std::vector<float> all = a.dxbc ? from_device(a.dxbc, n) : std::vector<float>();
    for (size_t i = 0; i < all.size(); ++i) {
        if (static_cast<int64_t>(i % a.lddx) < c.ldx() - 7) r.dxbc.push_back(all[i]);
        else ck_assert(all[i] == 7.f);
    }
    if (a.ddt) r.ddt = from_device(a.ddt, M * c.H);
    if (a.dstate) r.dstate = from_device(a.dstate, c.states());
    r.dA_log = from_device(dA, c.H), r.dD = from_device(dD, c.H);
    free_device();
    return r;
}

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
    double decay(int t) const
    {
        return exp(dt(t) * c.A[h]);
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
                if (!c.r.begins[t]) to.add(decay(t) * from.v, decay(t) * from.size);
                to.add(in, fabs(in));
            }
    }

    /* To `o`; u: what a number may be off by, relative to its size. */
    void backward(double u, scan_truth &o)
    {
        std::vector<number> dS(PN);
        number dA, dD;
        const size_t row = static_cast<size_t>(b) * c.H + h, width = c.ldx() - 7;
        for (size_t e = 0; e < PN && c.with_after && f != AFTER_FORGOTTEN; ++e)
            dS[e].add(c.after[row * PN + e], fabs(c.after[row * PN + e]));
        for (int t = end - 1; t >= begin; --t) {
            const float *e = c.dy.data() + (static_cast<size_t>(t) * c.H + h) * c.P;
            std::vector<number> dB(c.N), dC(c.N);
            number q, through;
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
                    if (!c.r.begins[t] || f == LEAKS_DECAY)
                        q.add(decay(t) * d.v * before.v, decay(t) * d.size * before.size);
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
            const size_t i = static_cast<size_t>(t) * c.H + h;
            number ddt;
            if (f != NO_INPUT_PATH) ddt.add(through.v, through.size);
            if (f != NO_DECAY_PATH) ddt.add(c.A[h] * q.v, fabs(c.A[h]) * q.size);
            o.ddt.want[i] = ddt.v, o.ddt.err[i] = u * ddt.size;
            dA.add(dt(t) * q.v, dt(t) * q.size);
            for (number &d : dS) {
                const double a = f == EARLY_DECAY && t > begin ? decay(t - 1) : decay(t);
                if (c.r.begins[t] && f != LEAKS) d = {};
                else d.v *= a, d.size *= a;
            }
        }
        for (size_t e = 0; e < PN; ++e)
            o.dstate.want[row * PN + e] = dS[e].v, o.dstate.err[row * PN + e] = u * dS[e].size;
        const double by = f == BY_A ? 1 : c.A[h];
        o.dA_log.want[h] += by * dA.v, o.dA_log.err[h] += 2 * u * fabs(by) * dA.size;
        o.dD.want[h] += dD.v, o.dD.err[h] += 2 * u * dD.size;
    }
};

/* Each result is a sum of products in which no term passes through more than so many roundings of u: sums over N, over
 * P, and over 64 tokens three times (C·B or e·x, W's prefixes and columns), a product of two or three factors and two
 * exponentials each (6), two roundings per chunk of a state that is carried on. An exponential has in addition the
 * rounding of its argument, which is at most the decay of a chunk; beyond 100 nothing is left of a number. Sums of dA
 * and dD over tokens of a chunk are counted twice more. */
static scan_truth truth(const scan_call &c, fault f = RIGHT)
{
    const size_t M = static_cast<size_t>(c.r.tokens());
    scan_truth o = {expected(M * (c.ldx() - 7)), expected(M * c.H), expected(c.H), expected(c.H), expected(c.states())};
    for (int h = 0; h < c.H; ++h) o.dA_log.want[h] = c.dA_log[h], o.dD.want[h] = c.dD[h];
    double decay = 0;
    int longest = 0;
    for (int b = 0; b < c.r.rows(); ++b) longest = std::max(longest, c.r.length(b));
    for (size_t i = 0; i < c.dt.size(); ++i) decay = fmax(decay, -static_cast<double>(c.dt[i]) * c.A[i % c.H]);
    const double u = ulp * (c.N + c.P + 3 * 64 + 30 + 2 * (longest / 64 + 1) + fmin(64 * decay, 100));
    for (int b = 0; b < c.r.rows(); ++b)
        for (int h = 0; h < c.H; ++h) {
            const int g = f == GROUPS_TILED ? h % c.G : h / (c.H / c.G);
            head_truth t = {c, f, b, h, g, c.r.row_begin[b], c.r.row_begin[b + 1], static_cast<size_t>(c.P) * c.N, {}};
            t.forward();
            t.backward(u, o);
        }
    for (int h = 0; h < c.H; ++h)
        o.dA_log.err[h] += ulp * fabs(o.dA_log.want[h]), o.dD.err[h] += ulp * fabs(o.dD.want[h]);
    return o;
}

static size_t wrong(const scan_result &r, const scan_truth &t)
{
    return beyond(r.dxbc, t.dxbc) + beyond(r.ddt, t.ddt) + beyond(r.dA_log, t.dA_log) + beyond(r.dD, t.dD) +
           beyond(r.dstate, t.dstate);
}

static void check(const scan_call &c)
{
    const scan_result r = run(c);
    const scan_truth t = truth(c);
    ck_assert_msg(wrong(r, t) == 0, "%d tokens, H %d P %d N %d G %d: %zu dxbc, %zu ddt, %zu dA, %zu dD, %zu dstate off",
                  c.r.tokens(), c.H, c.P, c.N, c.G, beyond(r.dxbc, t.dxbc), beyond(r.ddt, t.ddt),
                  beyond(r.dA_log, t.dA_log), beyond(r.dD, t.dD), beyond(r.dstate, t.dstate));
}

START_TEST(lengths)
{
    for (int T : {1, 3, 63, 64, 65, 133}) check(make({T}, 2, 5, 7, 1));
    check(make({70, 0, 1, 64, 3, 129}, 4, 3, 9, 2)); /* numbers of chunks that are nobody's */
}
END_TEST

START_TEST(shapes)
{
    for (int G : {1, 2, 4}) check(make({20, 66}, 4, 8, 16, G));
    check(make({70}, 12, 4, 6, 2)); /* two blocks a group, the second with half as many heads */
    check(make({67}, 9, 4, 6, 1));
    check(make({70}, 1, 64, 128, 1)); /* as released */
    check(make({66}, 1, 64, 256, 1));
    check(make({66}, 1, 70, 130, 1)); /* tiles with an edge */
    check(make({66}, 1, 1, 1, 1));
}
END_TEST

START_TEST(steps)
{
    for (double dt : {1e-4, 0.5, 20.}) check(make({133}, 2, 4, 8, 1, dt));
}
END_TEST

/* States are wanted or not, known or zero. */
START_TEST(states)
{
    scan_call c = make({70, 0, 5}, 2, 4, 8, 1);
    c.with_state = false;
    check(c);
    c.with_after = false;
    check(c);
    c.r.begins[0] = c.r.begins[70] = true; /* training: every row begins a document */
    check(c);
}
END_TEST

/* Documents of every length around the edges of chunks; then NaN in every second one and in the states of rows that
 * begin one, of which nothing may be seen but in dA and dD. */
START_TEST(documents_stand_alone)
{
    scan_call c = make({150, 3, 67}, 4, 5, 9, 2);
    for (int t : {0, 1, 7, 63, 64, 65, 127, 140, 152, 153, 216, 217}) c.r.begins[t] = true;
    check(c);
    int document = 0;
    for (size_t t = 0; t < c.r.begins.size(); ++t) {
        document += c.r.begins[t];
        for (int64_t i = 0; document % 2 && i < c.ldx(); ++i) c.xbc[t * c.ldx() + i] = NAN;
    }
    for (int b : {0, 2}) {
        const size_t n = static_cast<size_t>(c.H) * c.P * c.N, at = c.r.slot[b] * n;
        std::fill(c.state.begin() + at, c.state.begin() + at + n, NAN);
    }
    check(c);
}
END_TEST

/* The same numbers, whichever outputs are wanted. */
START_TEST(in_part)
{
    scan_call c = make({70, 20}, 6, 3, 5, 1);
    const scan_result all = run(c);
    for (unsigned mask : {DXBC, DDT, DA, DD, DSTATE}) {
        const scan_result r = run(c, mask);
        ck_assert(r.dxbc == (mask == DXBC ? all.dxbc : std::vector<float>()));
        ck_assert(r.ddt == (mask == DDT ? all.ddt : std::vector<float>()));
        ck_assert(r.dstate == (mask == DSTATE ? all.dstate : std::vector<float>()));
        ck_assert(r.dA_log == (mask == DA ? all.dA_log : c.dA_log));
        ck_assert(r.dD == (mask == DD ? all.dD : c.dD));
    }
}
END_TEST

START_TEST(faults_are_seen)
{
    scan_call c = make({80, 2, 30}, 4, 4, 8, 2);
    c.r.begins[10] = c.r.begins[70] = c.r.begins[90] = true;
    const scan_result r = run(c);
    ck_assert_uint_eq(wrong(r, truth(c)), 0);
    for (int f = RIGHT + 1; f < FAULTS; ++f)
        ck_assert_msg(wrong(r, truth(c, static_cast<fault>(f))) > 0, "fault %d is not seen", f);
}
END_TEST

START_TEST(no_tokens)
{
    check(make({0, 0}, 2, 4, 8, 1));
}
END_TEST

int main()
{
    Suite *s = suite_create("ssd_scan_bwd");
    TCase *c = tcase_create("ssd_scan_bwd");
    tcase_add_test(c, lengths);
    tcase_add_test(c, shapes);
    tcase_add_test(c, steps);
    tcase_add_test(c, states);
    tcase_add_test(c, documents_stand_alone);
    tcase_add_test(c, in_part);
    tcase_add_test(c, faults_are_seen);
    tcase_add_test(c, no_tokens);
    suite_add_tcase(s, c);
    return run_suite(s);
}
