/* The lookup backwards: ids that come once, often, or not; the padding row. */
#include "cuda/backward.cuh"
#include "tests/cuda/backward_fixture.h"

static floats run(int D, const std::vector<int> &id, int pad, float m_emb, const floats &dx, const floats &table)
{
    cu_ctx k = context();
    cu_embed_bwd_args a = {};
    a.M = static_cast<int>(id.size()), a.D = D;
    a.id = to_device(id);
    a.pad = pad;
    a.m_emb = m_emb;
    a.dx = to_device(dx);
    a.dtable = to_device(table);
    good(cu_embed_bwd(&k, &a));
    const floats out = from_device(a.dtable, table.size());
    free_device();
    return out;
}

static void check(int M, int V, int D, int pad)
{
    const float m_emb = 5.5f;
    const floats dx = some("dx", static_cast<int64_t>(M) * D), table = some("table", static_cast<int64_t>(V) * D);
    const fh1_stream s = fh1_stream_open(3, "ids");
    std::vector<int> id;
    for (int m = 0; m < M; ++m) {
        const double n = fabs(fh1_random_normal(s, static_cast<uint64_t>(m))) * V / 3;
        id.push_back(n < V ? static_cast<int>(n) : 0);
    }
    std::vector<floats> out;
    twice([&] { return std::vector<floats>{run(D, id, pad, m_emb, dx, table)}; }, &out);
    std::vector<sum_of_terms> t(table.size());
    std::vector<double> last(table.size());
    for (int m = 0; m < M; ++m)
        for (int i = 0; i < D; ++i) {
            const size_t at = static_cast<size_t>(id[m]) * D + i;
            const double term = static_cast<double>(m_emb) * dx[static_cast<size_t>(m) * D + i];
            if (id[m] != pad) t[at].add(term), last[at] = term;
        }
    verdict v = {};
    for (size_t i = 0; i < t.size(); ++i) {
        if (t[i].n == 0) ck_assert(out[0][i] == table[i]);
        else if (t[i].n == 1) /* a product and a sum */
            ck_assert(close_to(CU_F32, out[0][i], t[i].value + table[i], 2 * U * (t[i].size + fabs(table[i]))));
        else
            judge(&v, "dtable", static_cast<int64_t>(i), out[0][i], t[i].value + table[i],
                  t[i].off(2) + U * fabs(table[i]), last[i] + table[i]);
    }
    if (M > 4 * V) can_fail(v, "a row that keeps its last token only");
}

START_TEST(shapes)
{
    check(1, 1, 1, -1);
    check(70, 9, 5, -1);
    check(300, 11, 300, 0);
    check(33, 100, 257, 7);
}
END_TEST

START_TEST(special_values)
{
    floats dx = some("dx", 12), table = some("table", 16);
    dx[4] = NAN; /* token 1 */
    const floats out = run(4, {2, 3, 2}, -1, 1, dx, table);
    for (int i = 0; i < 16; ++i) ck_assert_int_eq(std::isnan(out[i]), i == 12);
    ck_assert(run(4, {}, -1, 1, {}, table) == table);
    ck_assert(run(4, {2, 2, 2}, 2, 1, dx, table) == table); /* padding gets nothing, not even a NaN */
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {shapes, special_values};
    return run_tests("embed_bwd", tests, 2);
}
