/* The loss backwards: rows of any width, ignored ones, confident ones. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

struct results {
    floats dlogits;
    std::vector<double> row;
};

static results run(int M, int V, const floats &logits, const std::vector<int> &label, double divisor, bool in_place)
{
    cu_ctx k = context();
    cu_cross_entropy_bwd_args a = {};
    float *l = to_device(logits);
    a.M = M, a.V = V;
    a.logits = l;
    a.label = to_device(label);
    a.divisor = divisor;
    a.dlogits = in_place ? l : device_new<float>(logits.size());
    a.row = device_new<double>(static_cast<size_t>(M));
    good(cu_cross_entropy_bwd(&k, &a));
    const results r = {from_device(a.dlogits, logits.size()), from_device(a.row, static_cast<size_t>(M))};
    free_device();
    return r;
}

static std::vector<int> labels_of(int M, int V)
{
    std::vector<int> label;
    for (int m = 0; m < M; ++m) label.push_back(m % 5 == 3 ? -100 : static_cast<int>(m * 7919LL % V));
    return label;
}

/* Everything is f64 but the last rounding; sums of V exponentials and their arguments are good to (V + 50)·2^-52. */
START_TEST(shapes)
{
    static const int shape[][2] = {{1, 1}, {1, 2}, {7, 31}, {5, 256}, {3, 1000}, {12, 257}};
    for (const int *s : shape)
        for (int in_place = 0; in_place < 2; ++in_place) {
            const int M = s[0], V = s[1];
            const floats logits = some("logits", static_cast<int64_t>(M) * V, 4);
            const std::vector<int> label = labels_of(M, V);
            const results r = run(M, V, logits, label, 3, in_place);
            ck_assert(r.dlogits == run(M, V, logits, label, 3, in_place).dlogits);
            verdict v = {};
            for (int m = 0; m < M; ++m) {
                const float *l = logits.data() + static_cast<size_t>(m) * V;
                double sum = 0;
                for (int i = 0; i < V; ++i) sum += exp(static_cast<double>(l[i]));
                if (label[m] < 0) ck_assert(r.row[m] == 0);
                else ck_assert(fabs(r.row[m] - (log(sum) - l[label[m]])) < 1e-11);
                for (int i = 0; i < V; ++i) {
                    const double p = exp(static_cast<double>(l[i])) / sum, want = (i == label[m] ? p - 1 : p) / 3;
                    const float got = r.dlogits[static_cast<size_t>(m) * V + i];
                    if (label[m] < 0) ck_assert(got == 0 && !std::signbit(got));
                    else judge(&v, "dlogits", m * V + i, got, want, (V + 50) * 0x1p-50 * fabs(p), p);
                }
            }
            if (V > 1) can_fail(v, "a gradient that is not divided, nor knows its label");
        }
}
END_TEST

/* One that is certain: p - 1 keeps what f32 would lose. */
START_TEST(a_confident_row)
{
    const results r = run(1, 2, {0, 40}, {1}, 1, false);
    ck_assert(r.dlogits[0] > 4.2e-18f && r.dlogits[0] < 4.3e-18f && r.row[0] > 0);
    ck_assert(fabs(r.dlogits[1] + r.dlogits[0]) < 1e-20);
}
END_TEST

START_TEST(special_values)
{
    floats logits = some("logits", 5 * 9);
    logits[9 + 2] = NAN;
    logits[18 + 2] = -INFINITY;
    logits[27 + 2] = INFINITY;
    const results r = run(5, 9, logits, {1, 1, 1, 1, 9}, 1, true); /* 9: no token */
    for (int m = 0; m < 5; ++m)
        for (int i = 0; i < 9; ++i) {
            const float d = r.dlogits[m * 9 + i];
            if (m == 0) ck_assert(std::isfinite(d));
            if (m == 1 || m == 4) ck_assert(std::isnan(d) && std::isnan(r.row[m]));
            if (m == 2) ck_assert(i == 2 ? d == 0 : std::isfinite(d));
            if (m == 3) ck_assert(i != 2 || std::isnan(d));
        }
    ck_assert(run(0, 9, {}, {}, 1, false).row.empty());
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, a_confident_row, special_values};
    return run_tests("cross_entropy_bwd", tests, 3);
}
