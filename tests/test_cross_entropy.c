/* cross_entropy: mean over the rows with label != -100 of logsumexp(row) - row[label]. */
#include "tests/witness.h"

typedef enum { RIGHT, IGNORED_COUNT, SUM, NEXT_LABEL, NO_MAX_TERM, BASE_2, IGNORED_AS_0 } fault;
static const char *const fault_name[] = {"",
                                         "ignored rows in the mean",
                                         "sum instead of mean",
                                         "labels shifted once more",
                                         "maximum not added back",
                                         "bits instead of nats",
                                         "-100 read as label 0"};

/* gauge per row: V positive terms, half of it under the log; log, max and the logit once each; then the sum of
 * the rows and the division. */
static double witness(int64_t M, int64_t V, const double *logits, const int64_t *labels, fault f, double *gauge)
{
    wide total = 0, size = 0;
    int64_t n = 0;
    for (int64_t m = M - 1; m >= 0; --m) {
        int64_t label = labels[f == NEXT_LABEL ? (m + 1) % M : m];
        n += label != -100 || f == IGNORED_COUNT || f == IGNORED_AS_0;
        if (label == -100 && f != IGNORED_AS_0) continue;
        if (label == -100) label = 0;
        const double *row = logits + m * V;
        wide max = (wide)row[0], sum = 0;
        for (int64_t v = 0; v < V; ++v) max = fmaxl(max, (wide)row[v]);
        for (int64_t v = V - 1; v >= 0; --v) sum += expl((wide)row[v] - max);
        wide loss = logl(sum) + (f == NO_MAX_TERM ? 0 : max) - (wide)row[label];
        total += f == BASE_2 ? loss / logl(2) : loss;
        /* exponents of up to |row - max| are rounded, and weigh as the softmax does */
        wide spread = 0;
        for (int64_t v = 0; v < V; ++v) spread += (max - (wide)row[v]) * expl((wide)row[v] - max) / sum;
        size +=
            4 * sqrtl((wide)V) + 4 + spread + 3 * logl(sum) + 2 * fabsl(max) + fabsl((wide)row[label]) + fabsl(loss);
    }
    *gauge = (double)(size / (wide)n) + (double)(fabsl(total) / (wide)n) * (2 * sqrt((double)n) + 2);
    return (double)(f == SUM ? total : total / (wide)n);
}

static double run(fh1_engine *e, int64_t M, int64_t V, const double *logits, const int64_t *labels)
{
    double loss = 12345;
    w_fine(e->ops->cross_entropy(e, M, V, w_to(e, logits, M * V), labels, &loss));
    return loss;
}

/* Random labels, every fourth ignored, the first one never. */
static int64_t *some_labels(int64_t M, int64_t V)
{
    int64_t *labels = w_ints(M);
    for (int64_t m = 0; m < M; ++m)
        labels[m] = m % 4 == 2 ? -100 : fh1_random_below(fh1_stream_open(4, "labels"), (uint64_t)m, V);
    return labels;
}

START_TEST(agrees_with_the_formula_and_rejects_faults)
{
    static const int64_t shape[][2] = {{1, 1}, {1, 2}, {1, 50}, {7, 33}, {12, 1001}, {40, 7}};
    static const double scale[] = {0.01, 2, 30};
    for (int k = 0; k < 36; ++k) {
        const int64_t M = shape[k / 6][0], V = shape[k / 6][1], *labels = some_labels(M, V);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *logits = w_normal("logits", M * V, scale[k / 2 % 3]), gauge;
        for (int64_t i = 0; i < M * V; ++i)
            logits[i] = (double)(float)(logits[i] + 1.5); /* so that the maximum is not 0 */
        const double truth = witness(M, V, logits, labels, RIGHT, &gauge), got = run(e, M, V, logits, labels);
        w_accepts(e, "random rows", 1, &got, &truth, &gauge);
        for (fault f = IGNORED_COUNT; f <= IGNORED_AS_0 && M >= 7; ++f) {
            const double wrong = witness(M, V, logits, labels, f, &gauge);
            w_rejects(e, fault_name[f], 1, &got, &wrong, &gauge);
        }
    }
}
END_TEST

START_TEST(no_label_is_nan)
{
    const int64_t labels[3] = {-100, -100, -100};
    double *logits = w_normal("logits", 15, 1);
    for (int k = 0; k < 2; ++k) ck_assert(isnan(run(k ? w_f32 : w_f64, 3, 5, logits, labels)));
    ck_assert(isnan(run(w_f64, 0, 5, logits, labels)));
}
END_TEST

/* An ignored row is not read: NaN in it changes no bit. */
START_TEST(ignored_rows_are_not_read)
{
    enum { M = 7, V = 20 };
    const int64_t *labels = some_labels(M, V);
    double *logits = w_normal("logits", M * V, 1);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        double *poisoned = w_copy(logits, M * V);
        poisoned[2 * V + 3] = (double)NAN;
        poisoned[6 * V + 19] = (double)INFINITY;
        const double clean = run(e, M, V, logits, labels), with = run(e, M, V, poisoned, labels);
        w_exact(e, "NaN in an ignored row", 1, &with, &clean);
        poisoned[3 * V + 3] = (double)NAN; /* but in a row that counts it must not pass */
        ck_assert(isnan(run(e, M, V, poisoned, labels)));
    }
}
END_TEST

/* Differences so large that only the maximum has weight: the loss is the distance to it, exactly. */
START_TEST(lattice_is_exact)
{
    enum { M = 4, V = 11 };
    static const int64_t labels[M] = {10, 0, 4, 5};
    double *logits = w_new(M * V);
    for (int64_t i = 0; i < M * V; ++i)
        logits[i] = -1024.0 * (double)((i % V * 7 + i / V) % 11); /* one 0 in each row */
    double want = 0, first_label = 0;
    for (int64_t m = 0; m < M; ++m) want -= logits[m * V + labels[m]] / M, first_label -= logits[m * V] / M;
    ck_assert(want != first_label);
    for (int k = 0; k < 2; ++k) {
        const double got = run(k ? w_f32 : w_f64, M, V, logits, labels);
        w_exact(k ? w_f32 : w_f64, "lattice", 1, &got, &want);
        w_rejects(k ? w_f32 : w_f64, "label 0 everywhere", 1, &got, &first_label, NULL);
    }
}
END_TEST

/* Logits that overflow without the maximum, near ties on top of a large offset, and -inf for a masked word. */
START_TEST(huge_logits_and_near_ties)
{
    enum { M = 3, V = 6 };
    static const int64_t labels[M] = {1, 5, 0};
    static const double at[M * V] = {
        10000, 10000.0009765625,  9999, -3e4, 0, 1, 3e38, 3e38, -3e38, 0, 1, 3e38, -700, -701, -800,
        -900,  (double)-INFINITY, -702};
    double *logits = w_copy(at, M * V), gauge;
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        for (int64_t m = 0; m < M; ++m) {
            double *row = w_from(e, w_to(e, logits + m * V, V), V);
            const double got = run(e, 1, V, row, labels + m);
            row[4] = m == 2 ? -1e4 : row[4]; /* weightless either way, and finite for the gauge */
            const double truth = witness(1, V, row, labels + m, RIGHT, &gauge);
            w_accepts(e, "huge logits", 1, &got, &truth, &gauge);
            ck_assert(isfinite(got));
        }
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula_and_rejects_faults,
                            no_label_is_nan,
                            ignored_rows_are_not_read,
                            lattice_is_exact,
                            huge_logits_and_near_ties,
                            NULL};
    return w_main("cross_entropy", tests);
}
