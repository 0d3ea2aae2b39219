/* The loss against a plain log-sum-exp in double. */
#include "cuda/cross_entropy.cuh"
#include "tests/cuda/small_fixture.h"

static double loss_of(int M, int V, const std::vector<float> &l, const std::vector<int> &label)
{
    double sum = 0, n = 0;
    for (int m = 0; m < M; ++m) {
        if (label[m] == -100) continue;
        const float *row = &l[static_cast<size_t>(m) * V];
        double most = row[0], z = 0;
        for (int i = 1; i < V; ++i) most = fmax(most, row[i]);
        for (int i = 0; i < V; ++i) z += exp(row[i] - most);
        sum += log(z) + most - row[label[m]];
        n += 1;
    }
    return sum / n;
}

static double run(int M, int V, const std::vector<float> &l, const std::vector<int> &label)
{
    cu_ctx k = context();
    cu_cross_entropy a = {};
    a.M = M;
    a.V = V;
    a.logits = to_device(l);
    a.label = to_device(label);
    a.row = device_new<double>(static_cast<size_t>(M));
    a.loss = device_new<double>(1);
    good(cu_cross_entropy_fwd(&k, &a));
    const double loss = from_device(a.loss, 1)[0];
    free_device();
    return loss;
}

/* Everything is in f64: V + M sums of positive numbers, the exponentials and the logarithm to an ulp or two, and the
 * difference most - logit, of numbers up to `largest`. */
static double allowed(int M, int V, double largest)
{
    return (V + M + 16) * 0x1p-52 * (1 + largest + log(V));
}

static std::vector<int> labels(int M, int V)
{
    const fh1_stream s = fh1_stream_open(4, "labels");
    std::vector<int> label(static_cast<size_t>(M));
    for (int m = 0; m < M; ++m) label[m] = m % 5 == 2 ? -100 : static_cast<int>(fh1_random_below(s, m, V));
    return label;
}

START_TEST(shapes)
{
    static const int shape[][2] = {{1, 2}, {1, 1}, {3, 7}, {37, 130}, {5, 4099}, {600, 5}, {2, 16384}};
    for (const int *s : shape) {
        const std::vector<float> l = draw("logits", static_cast<size_t>(s[0]) * s[1], 4);
        std::vector<int> label = labels(s[0], s[1]);
        const double got = run(s[0], s[1], l, label), want = loss_of(s[0], s[1], l, label);
        ck_assert_msg(fabs(got - want) <= allowed(s[0], s[1], 24), "M %d V %d: %.17g, not %.17g", s[0], s[1], got,
                      want);
        if (s[1] < 2) continue;
        label[0] = (label[0] + 1) % s[1]; /* another label would be seen */
        ck_assert(fabs(got - loss_of(s[0], s[1], l, label)) > allowed(s[0], s[1], 24));
    }
}
END_TEST

/* A sure row's loss is that of the other logits: exp(-30), and not 0. */
START_TEST(a_sure_row)
{
    const std::vector<float> l = {30, 0, -800, 1000};
    ck_assert(fabs(run(1, 3, l, {0}) - log1p(exp(-30.))) <= 0x1p-52 * 4);
    ck_assert(run(1, 4, l, {3}) == 0);
    ck_assert(run(1, 4, l, {2}) == 1800);
}
END_TEST

START_TEST(special_values)
{
    const float inf = INFINITY;
    ck_assert(std::isnan(run(3, 2, {0, 1, 2, 3, 4, 5}, {-100, -100, -100}))); /* no label counts */
    ck_assert(std::isnan(run(0, 2, {}, {})));
    ck_assert(std::isnan(run(2, 3, {0, NAN, 1, 1, 2, 3}, {0, 0})));
    ck_assert(std::isfinite(run(2, 3, {0, NAN, 1, 1, 2, 3}, {-100, 0}))); /* its row does not count */
    ck_assert(fabs(run(1, 3, {-inf, 1, 1}, {2}) - log(2.)) < 0x1p-50);
    ck_assert(run(1, 3, {-inf, 1, 1}, {0}) == inf);
    ck_assert(std::isnan(run(1, 2, {inf, 1}, {0})));
    ck_assert(std::isnan(run(1, 2, {0, 1}, {2})));  /* no token */
    ck_assert(std::isnan(run(1, 2, {0, 1}, {-1}))); /* only -100 is ignored */
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, a_sure_row, special_values};
    return run_tests("cross_entropy", tests, 3);
}
