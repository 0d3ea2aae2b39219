/* Sampling: Philox against its published vectors, greedy with ties, NaN and infinities, and the filters and the draw
 * against a sort in double. Tokens do not depend on the order of threads, on the batch or on the device. */
#include "cuda/philox.h"
#include "cuda/sample.cuh"
#include "tests/cuda/small_fixture.h"

#include <algorithm>

/* -- Philox -------------------------------------------------------------------------------------- */

namespace CU_NS
{
namespace
{

__global__ void philox_k(int n, const uint4 *counter, const uint2 *key, uint4 *out)
{
    const int i = static_cast<int>(threadIdx.x);
    if (i < n) out[i] = philox4x32_10(counter[i], key[i]);
}

} // namespace
} // namespace CU_NS

static uint4 philox(uint4 counter, uint2 key)
{
    uint4 *out = device_new<uint4>(1);
    const std::vector<uint4> c = {counter};
    const std::vector<uint2> k = {key};
    LAUNCH(philox_k, 1, 32, 0, nullptr, 1, static_cast<const uint4 *>(to_device(c)),
           static_cast<const uint2 *>(to_device(k)), out);
    good(cu_launched("philox"));
    const uint4 v = from_device(out, 1)[0];
    free_device();
    return v;
}

/* The known-answer vectors of Random123. */
START_TEST(philox_known_answers)
{
    const uint32_t all = 0xffffffffu;
    const uint4 in[3] = {{0, 0, 0, 0}, {all, all, all, all}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}};
    const uint2 key[3] = {{0, 0}, {all, all}, {0xa4093822, 0x299f31d0}};
    const uint4 want[3] = {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                           {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                           {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int i = 0; i < 3; ++i) {
        const uint4 got = philox(in[i], key[i]);
        ck_assert_msg(got.x == want[i].x && got.y == want[i].y && got.z == want[i].z && got.w == want[i].w,
                      "%08x %08x %08x %08x", got.x, got.y, got.z, got.w);
    }
}
END_TEST

/* -- runs ---------------------------------------------------------------------------------------- */

struct choice {
    float temperature;
    int top_k;
    float top_p;
    uint64_t seed;
};

static cu_sample on_device(int M, int V, const std::vector<float> &l, const choice &c, const std::vector<int64_t> &step,
                           const std::vector<int64_t> &stream)
{
    cu_sample a = {};
    a.M = M;
    a.V = V;
    a.logits = to_device(l);
    a.temperature = c.temperature;
    a.top_k = c.top_k;
    a.top_p = c.top_p;
    a.seed = c.seed;
    a.step = to_device(step);
    a.stream = stream.empty() ? nullptr : to_device(stream);
    a.token = device_new<int>(static_cast<size_t>(M));
    a.scratch = device_new<char>(cu_sample_scratch(M, V));
    return a;
}

static std::vector<int> run(int M, int V, const std::vector<float> &l, const choice &c,
                            const std::vector<int64_t> &step, const std::vector<int64_t> &stream,
                            cu_path path = CU_AUTO)
{
    cu_ctx k = context(path);
    const cu_sample a = on_device(M, V, l, c, step, stream);
    good(cu_sample_fwd(&k, &a));
    const std::vector<int> token = from_device(a.token, static_cast<size_t>(M));
    free_device();
    return token;
}

static const choice greedy = {0, 0, 1, 0};

static std::vector<int> run_greedy(int M, int V, const std::vector<float> &l, cu_path path)
{
    return run(M, V, l, greedy, std::vector<int64_t>(static_cast<size_t>(M), 0), {}, path);
}

/* -- greedy -------------------------------------------------------------------------------------- */

START_TEST(greedy_takes_the_first_of_the_largest)
{
    static const int shape[][2] = {{1, 1}, {1, 2}, {3, 7}, {5, 130}, {2, 4100}, {1, 16385}, {9, 2052}};
    for (int path = 0; path < 2; ++path)
        for (const int *s : shape)
            for (int ties = 0; ties < 2; ++ties) {
                std::vector<float> l = draw("greedy", static_cast<size_t>(s[0]) * s[1], 2);
                for (float &v : l) v = ties ? floorf(v) : v; /* many equal ones */
                const std::vector<int> got = run_greedy(s[0], s[1], l, static_cast<cu_path>(path));
                for (int m = 0; m < s[0]; ++m) {
                    const float *row = &l[static_cast<size_t>(m) * s[1]];
                    const int64_t want = std::max_element(row, row + s[1]) - row;
                    ck_assert_msg(got[m] == want, "V %d, row %d: %d, not %d", s[1], m, got[m], static_cast<int>(want));
                }
            }
}
END_TEST

/* The place of the last NaN, and of the largest: every id of rows of several blocks. */
START_TEST(greedy_special_values)
{
    const float inf = INFINITY;
    for (int path = 0; path < 2; ++path) {
        const cu_path p = static_cast<cu_path>(path);
        ck_assert_int_eq(run_greedy(1, 4, {-inf, -inf, -inf, -inf}, p)[0], 0);
        ck_assert_int_eq(run_greedy(1, 4, {-inf, -3, inf, inf}, p)[0], 2);
        ck_assert_int_eq(run_greedy(1, 4, {-0.f, 0.f, -1, -0.f}, p)[0], 0);
        const std::vector<int> two = run_greedy(2, 4, {9, 1, NAN, 0, 0, 1, 2, 3}, p);
        ck_assert(two[0] == -1 && two[1] == 3);
        ck_assert_int_eq(run_greedy(1, 3, {inf, 1, NAN}, p)[0], -1);
        for (int at : {0, 3, 2047, 2048, 5000, 5002}) {
            std::vector<float> l(5003, 0.f);
            l[at] = 1;
            ck_assert_int_eq(run_greedy(1, 5003, l, p)[0], at);
            l[at] = NAN;
            ck_assert_int_eq(run_greedy(1, 5003, l, p)[0], -1);
        }
        ck_assert(run_greedy(0, 4, {}, p).empty());
    }
}
END_TEST

/* -- the filters and the draw -------------------------------------------------------------------- */

struct token_at {
    float l;
    int id;
    double w;
};

/* The definition in double: weights are off by 2^-22 relative and 2^-40 of the largest each, so `slack` of all of them.
 * Returns the token and whether a weight that is so far off could make another. */
static int drawn(int V, const float *l, const choice &c, uint64_t random, bool *close)
{
    std::vector<token_at> all;
    const double most = *std::max_element(l, l + V);
    for (int i = 0; i < V; ++i) all.push_back({l[i], i, l[i] == most ? 1 : exp((l[i] - most) / c.temperature)});
    std::stable_sort(all.begin(), all.end(), [](const token_at &a, const token_at &b) { return a.l > b.l; });
    if (c.top_k > 0 && c.top_k < V) all.resize(c.top_k);
    double sum = 0, part = 0;
    for (const token_at &t : all) sum += t.w;
    const double slack = sum * 0x1p-21 + V * 0x1p-40;
    *close = false;
    if (c.top_p < 1) {
        size_t n = 0;
        while (n < all.size() && (n == 0 || part < c.top_p * sum)) {
            part += all[n++].w;
            *close |= fabs(part - c.top_p * sum) < slack && n < all.size();
        }
        all.resize(n);
    }
    std::sort(all.begin(), all.end(), [](const token_at &a, const token_at &b) { return a.id < b.id; });
    sum = 0;
    for (const token_at &t : all) sum += t.w;
    const double target = ldexp(static_cast<double>(random), -64) * sum;
    part = 0;
    for (const token_at &t : all) {
        part += t.w;
        *close |= fabs(part - target) < slack;
        if (part > target) return t.id;
    }
    return all.back().id;
}

static uint64_t random_of(const choice &c, int64_t step, int64_t stream)
{
    const uint64_t a = static_cast<uint64_t>(step), b = static_cast<uint64_t>(stream);
    const uint4 r = philox({static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), static_cast<uint32_t>(b),
                            static_cast<uint32_t>(b >> 32)},
                           {static_cast<uint32_t>(c.seed), static_cast<uint32_t>(c.seed >> 32)});
    return static_cast<uint64_t>(r.y) << 32 | r.x;
}

static const choice choices[] = {
    {1, 0, 1, 7},     {0.7f, 5, 1, 7},    {1.3f, 0, 0.9f, 8},  {0.8f, 40, 0.5f, 0x123456789abcdef0},
    {5, 3, 0.99f, 1}, {1, 1000000, 1, 2}, {0.01f, 0, 1, 3},    {1e-30f, 0, 1, 4},
    {1, 0, 0, 5},     {1, 1, 1, 6},       {1e30f, 17, 0.3f, 9}};

START_TEST(draws_as_defined)
{
    static const int sizes[] = {2, 33, 1030, 4100};
    int judged = 0, runs = 0, unlike = 0;
    for (const int V : sizes)
        for (const choice &c : choices)
            for (int ties = 0; ties < 2; ++ties) {
                enum { M = 2 };
                if (ties && V > 1030) continue;
                std::vector<float> l = draw("logits", static_cast<size_t>(M) * V, 3);
                for (float &v : l) v = ties ? floorf(v) : v;
                const std::vector<int64_t> step = {V, (static_cast<int64_t>(3) << 33) + V},
                                           stream = {11, int64_t{5} << 40};
                const std::vector<int> got = run(M, V, l, c, step, stream);
                for (int m = 0; m < M; ++m) {
                    bool close, ignored;
                    const float *row = &l[static_cast<size_t>(m) * V];
                    const int want = drawn(V, row, c, random_of(c, step[m], stream[m]), &close);
                    ck_assert_msg(close || got[m] == want, "V %d, T %g, top-k %d, top-p %g, row %d: %d, not %d", V,
                                  c.temperature, c.top_k, c.top_p, m, got[m], want);
                    judged += !close;
                    ++runs;
                    const choice other = {c.temperature * 2 + 1, 0, 1, 0}; /* other filters would be seen */
                    unlike += got[m] != drawn(V, row, other, ~random_of(c, step[m], stream[m]), &ignored);
                }
            }
    ck_assert_msg(judged * 10 > runs * 9 && unlike * 2 > runs, "%d of %d judged, %d unlike", judged, runs, unlike);
}
END_TEST

/* Rows keep their tokens in any batch; rows, steps and seeds have their own. */
START_TEST(independent_of_the_batch)
{
    enum { M = 8, V = 300 };
    const std::vector<float> one = draw("one", V, 1);
    std::vector<float> l;
    std::vector<int64_t> step, stream;
    for (int m = 0; m < M; ++m) {
        l.insert(l.end(), one.begin(), one.end());
        step.push_back(100 + m / 2);
        stream.push_back(m % 2);
    }
    const choice c = {1, 100, 0.95f, 42};
    const std::vector<int> all = run(M, V, l, c, step, stream);
    int equal = 0;
    for (int m = 0; m < M; ++m) {
        const std::vector<int> alone = run(1, V, one, c, {step[m]}, {stream[m]});
        ck_assert_int_eq(alone[0], all[m]);
        equal += all[m] == all[0];
    }
    ck_assert_int_lt(equal, M / 2);
    const std::vector<int> by_row = run(2, V, l, c, {100, 100}, {}); /* stream NULL: the row */
    ck_assert(by_row[0] == all[0] && by_row[1] == all[1]);
    const choice other = {1, 100, 0.95f, 43};
    ck_assert(run(M, V, l, other, step, stream) != all);
}
END_TEST

/* On every device: a list made once. The logits are k/8, so that no input differs either. */
START_TEST(the_same_tokens_everywhere)
{
    enum { M = 8, V = 2500 };
    static const int want[M] = {596, 1453, 234, 1079, 789, 1145, 1177, 1239};
    std::vector<float> l;
    std::vector<int64_t> step;
    const fh1_stream s = fh1_stream_open(9, "everywhere");
    for (int i = 0; i < M * V; ++i) l.push_back(static_cast<float>(fh1_random_below(s, i, 64)) * 0.125f);
    for (int m = 0; m < M; ++m) step.push_back(1000 * m);
    const choice c = {0.9f, 600, 0.8f, 2024};
    const std::vector<int> got = run(M, V, l, c, step, {});
    for (int m = 0; m < M; ++m) {
        bool close;
        ck_assert_msg(got[m] == want[m], "row %d: %d, not %d", m, got[m], want[m]);
        ck_assert(drawn(V, &l[m * V], c, random_of(c, step[m], m), &close) == want[m] || close);
    }
}
END_TEST

/* Three tokens of weights 1, 2, 5 in many draws: each count within 5 standard deviations. */
START_TEST(frequencies)
{
    enum { M = 200 };
    std::vector<float> l;
    std::vector<int64_t> step;
    for (int m = 0; m < M; ++m) {
        for (double w : {1., 2., 5.}) l.push_back(static_cast<float>(log(w)));
        step.push_back(m);
    }
    int count[3] = {0, 0, 0};
    for (int t : run(M, 3, l, {1, 0, 1, 77}, step, std::vector<int64_t>(M, 0))) ++count[t];
    for (int i = 0; i < 3; ++i) {
        const double p = (i == 0 ? 1 : i == 1 ? 2 : 5) / 8., sigma = sqrt(M * p * (1 - p));
        ck_assert_msg(fabs(count[i] - M * p) < 5 * sigma, "token %d: %d times of %d", i, count[i], M);
    }
}
END_TEST

START_TEST(special_values)
{
    const float inf = INFINITY;
    const choice c = {1, 0, 1, 1};
    for (int64_t step = 0; step < 4; ++step) {
        ck_assert_int_eq(run(1, 3, {NAN, 1, 2}, c, {step}, {})[0], -1);
        ck_assert_int_eq(run(1, 3, {-inf, 1, -inf}, c, {step}, {})[0], 1);
        ck_assert_int_eq(run(1, 4, {1, inf, 1e38f, -inf}, c, {step}, {})[0], 1);
        ck_assert(run(1, 4, {1, inf, 5, inf}, c, {step}, {})[0] % 2 == 1);
        ck_assert(run(1, 4, {-inf, -inf, -inf, -inf}, {1, 2, 1, 1}, {step}, {})[0] < 2); /* equal: the first two */
        ck_assert(run(1, 4, {-0.f, 0.f, -0.f, 0.f}, {1, 0, 0.5f, 1}, {step}, {})[0] < 2);
    }
}
END_TEST

START_TEST(refusals)
{
    const choice bad[] = {{-1, 0, 1, 0},    {NAN, 0, 1, 0},  {INFINITY, 0, 1, 0}, {1, -1, 1, 0},
                          {1, 0, -0.1f, 0}, {1, 0, 1.1f, 0}, {1, 0, NAN, 0}};
    cu_ctx k = context();
    for (const choice &c : bad) {
        const cu_sample a = on_device(1, 2, {0, 1}, c, {0}, {});
        const fh1_status s = cu_sample_fwd(&k, &a);
        ck_assert(s && s->code == FH1_E_INPUT);
    }
    free_device();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {philox_known_answers,
                                  greedy_takes_the_first_of_the_largest,
                                  greedy_special_values,
                                  draws_as_defined,
                                  independent_of_the_batch,
                                  the_same_tokens_everywhere,
                                  frequencies,
                                  special_values,
                                  refusals};
    return run_tests("sample", tests, sizeof tests / sizeof *tests);
}
