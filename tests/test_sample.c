/* sample: the index of the largest logit of each row, the lowest one at a tie, -1 where a logit is NaN. */
#include "tests/witness.h"

typedef enum { RIGHT, HIGHEST_AT_TIE, NAN_IGNORED, BY_SIZE, SMALLEST, FIRST_COLUMN_SKIPPED } fault;
static const char *const fault_name[] = {
    "", "the highest at a tie", "NaN passed over", "the largest in size", "the smallest", "column 0 never chosen"};

/* By counting: an index is right if nothing is above it, and nothing before it is its equal. */
static int64_t choose(int64_t V, const double *row, fault f)
{
    for (int64_t v = 0; v < V && f != NAN_IGNORED; ++v)
        if (isnan(row[v])) return -1;
    int64_t found = -1;
    for (int64_t v = f == FIRST_COLUMN_SKIPPED; v < V; ++v) {
        bool best = !isnan(row[v]);
        for (int64_t u = f == FIRST_COLUMN_SKIPPED; u < V && best; ++u) {
            const double a = f == BY_SIZE ? fabs(row[u]) : f == SMALLEST ? -row[u] : row[u];
            const double b = f == BY_SIZE ? fabs(row[v]) : f == SMALLEST ? -row[v] : row[v];
            best = !(a > b);
        }
        if (best && (found < 0 || f == HIGHEST_AT_TIE)) found = v;
    }
    return found;
}

static int64_t *witness(int64_t M, int64_t V, const double *logits, fault f)
{
    int64_t *token = w_ints(M);
    for (int64_t m = 0; m < M; ++m) token[m] = choose(V, logits + m * V, f);
    return token;
}

static int64_t *run(fh1_engine *e, int64_t M, int64_t V, const double *logits)
{
    int64_t *token = w_ints(M);
    w_fine(e->ops->sample(e, M, V, w_to(e, logits, M * V), token));
    return token;
}

static bool same(int64_t M, const int64_t *a, const int64_t *b)
{
    return memcmp(a, b, (size_t)M * sizeof *a) == 0;
}

static void accepts(fh1_engine *e, const char *what, int64_t M, int64_t V, const double *logits)
{
    const int64_t *got = run(e, M, V, logits), *want = witness(M, V, logits, RIGHT);
    for (int64_t m = 0; m < M; ++m)
        ck_assert_msg(got[m] == want[m], "%s, %s: row %lld of %lld is %lld, expected %lld", what, e->name, (long long)m,
                      (long long)M, (long long)got[m], (long long)want[m]);
}

static fh1_engine *engine(int k)
{
    return k % 3 == 0 ? w_f64 : k % 3 == 1 ? w_f32 : w_bf16;
}

START_TEST(agrees_with_the_witness)
{
    static const int64_t size[] = {1, 2, 3, 17, 300};
    for (int k = 0; k < 15; ++k) {
        const int64_t V = size[k / 3], M = 40;
        accepts(engine(k), "random", M, V, w_normal("logits", M * V, 3));
        accepts(engine(k), "ties", M, V, w_lattice("few values", M * V, -2, 2, 0.5));
    }
    ck_assert_ptr_nonnull(run(w_f32, 0, 5, w_normal("none", 1, 1))); /* no row: nothing is read */
}
END_TEST

START_TEST(faults_are_rejected)
{
    enum { M = 60, V = 9 };
    double *logits = w_lattice("few values", M * V, -3, 3, 1);
    for (int64_t m = 0; m < M; m += 5) logits[m * V + m % V] = (double)NAN;
    for (int k = 0; k < 3; ++k) {
        const int64_t *got = run(engine(k), M, V, logits);
        for (fault f = RIGHT; f <= FIRST_COLUMN_SKIPPED; ++f)
            ck_assert_msg(same(M, got, witness(M, V, logits, f)) == (f == RIGHT), "%s: %s", engine(k)->name,
                          fault_name[f]);
    }
}
END_TEST

/* NaN at any place of a row, before, at and behind its largest logit, and no other row knows. */
START_TEST(nan_is_reported_wherever_it_stands)
{
    enum { V = 7 };
    for (int k = 0; k < 3 * V * 2; ++k) {
        double *logits = w_normal("three rows", 3 * V, 1), other = k / 3 / V ? (double)INFINITY : 5;
        logits[V + 3] = other;
        const int64_t at = k / 3 % V;
        logits[V + at] = k % 2 ? (double)NAN : -(double)NAN;
        const int64_t *got = run(engine(k), 3, V, logits);
        ck_assert_int_eq(got[1], -1);
        ck_assert(got[0] == choose(V, logits, RIGHT) && got[0] >= 0);
        ck_assert(got[2] == choose(V, logits + 2 * V, RIGHT) && got[2] >= 0);
    }
}
END_TEST

START_TEST(infinities_zeros_and_neighbours)
{
    const double inf = (double)INFINITY, next = 1 + 0x1p-23, big = 3.4028234663852886e38;
    const struct {
        double row[4];
        int64_t want;
    } of[] = {
        {{-inf, -inf, -inf, -inf}, 0}, {{-inf, -inf, -big, -inf}, 2},   {{1, inf, big, inf}, 1},
        {{-0.0, 0, -1, 0}, 0},         {{-1, 0, -0.0, 0}, 1},           {{1, next, 1, next}, 1},
        {{-1, -2, -1, -3}, 0},         {{0x1p-149, 0, 0, 0x1p-148}, 3},
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; ++i)
        for (int k = 0; k < 3; ++k) {
            ck_assert_int_eq(choose(4, of[i].row, RIGHT), of[i].want);
            ck_assert_msg(*run(engine(k), 1, 4, of[i].row) == of[i].want, "case %d, %s", (int)i, engine(k)->name);
        }
    /* what f32 cannot tell apart is a tie in f32 alone */
    const double close[] = {1, 1 + 0x1p-40, 0};
    ck_assert_int_eq(*run(w_f64, 1, 3, close), 1);
    ck_assert_int_eq(*run(w_f32, 1, 3, close), 0);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_witness, faults_are_rejected, nan_is_reported_wherever_it_stands,
                            infinities_zeros_and_neighbours, NULL};
    return w_main("sample", tests);
}
