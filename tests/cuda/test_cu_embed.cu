/* The lookup: rows copied to the bit, and times the multiplier in one f32 product and one rounding. */
#include "cuda/embed.cuh"
#include "tests/cuda/small_fixture.h"

static void run(const way &w, int M, int D, int V, float m_emb, bool want_y)
{
    const std::vector<float> table = as_stored(w.type, draw("table", static_cast<size_t>(V) * D));
    std::vector<int> id(M);
    const fh1_stream s = fh1_stream_open(2, "ids");
    for (int m = 0; m < M; ++m) id[m] = static_cast<int>(fh1_random_below(s, m, V));
    if (M > 1) id[0] = V - 1, id[1] = 0;
    const size_t n = static_cast<size_t>(M) * D;
    cu_ctx k = context(w.path);
    cu_embed a = {};
    a.type = w.type;
    a.M = M;
    a.D = D;
    a.id = to_device(id);
    a.table = to_device(w.type, table);
    a.m_emb = m_emb;
    a.y = want_y ? device_new(w.type, n) : nullptr;
    a.wide = w.wide;
    a.x = device_new(w.stream(), n);
    good(cu_embed_fwd(&k, &a));
    const std::vector<float> x = from_device(w.stream(), a.x, n);
    const std::vector<float> y = want_y ? from_device(w.type, a.y, n) : x;
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < D; ++i) {
            const float t = table[static_cast<size_t>(id[m]) * D + i];
            const size_t at = static_cast<size_t>(m) * D + i;
            const double want = static_cast<double>(t) * m_emb;
            if (want_y) ck_assert_msg(y[at] == t, "M %d D %d: y[%d, %d] is %g, not %g", M, D, m, i, y[at], t);
            ck_assert_msg(close_to(w.stream(), x[at], want, U * fabs(want)), "M %d D %d: x[%d, %d] is %g, not %g", M, D,
                          m, i, x[at], want);
            ck_assert(!close_to(w.stream(), x[at], 2 * want, U * fabs(want))); /* a lost factor of 2 would be seen */
        }
    free_device();
}

START_TEST(rows_of_the_table)
{
    static const int shape[][3] = {{1, 8, 5},    {3, 7, 4}, {37, 130, 11}, {5, 1024, 9},
                                   {2, 2049, 3}, {1, 1, 2}, {4, 1256, 6}};
    for (int i = 0; i < N_STREAM_WAYS; ++i)
        for (const int *s : shape) {
            run(stream_ways[i], s[0], s[1], s[2], 5.656854249492381f, true);
            run(stream_ways[i], s[0], s[1], s[2], 1.f, false);
        }
}
END_TEST

/* NaN and infinities pass; the rows beside them keep to themselves. No token: nothing is done. */
START_TEST(special_values)
{
    const float inf = INFINITY;
    for (int i = 0; i < N_WAYS; ++i) {
        std::vector<float> table = draw("special", 3 * 8);
        table[8] = NAN, table[9] = inf, table[10] = -inf, table[11] = -0.f;
        const std::vector<int> id = {1, 2};
        cu_ctx k = context(ways[i].path);
        cu_embed a = {};
        a.type = ways[i].type;
        a.M = 2;
        a.D = 8;
        a.id = to_device(id);
        a.table = to_device(a.type, table);
        a.m_emb = 2;
        a.x = device_new(a.type, 16);
        good(cu_embed_fwd(&k, &a));
        const std::vector<float> x = from_device(a.type, a.x, 16);
        ck_assert(std::isnan(x[0]) && x[1] == inf && x[2] == -inf && x[3] == 0 && std::signbit(x[3]));
        for (int j = 4; j < 16; ++j) ck_assert(std::isfinite(x[j]));
        a.M = 0;
        a.x = nullptr;
        good(cu_embed_fwd(&k, &a));
        free_device();
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {rows_of_the_table, special_values};
    return run_tests("embed", tests, 2);
}
