/* The gauge of a scan on tensor cores (cuda-bf16): operands in two bf16 parts, sums that are cut off. */
#include "tests/scan_bench.h"

static void store_bf16(const scan *s, result *r)
{
    for (int64_t i = 0; i < s->T * s->H * s->P; ++i) r->y[i] = fh1_round_f64(FH1_ROUND_BF16, r->y[i]);
}

/* Operands in two parts, whichever of them is split; token after token; one-token steps in f32. */
START_TEST(tensor_cores_are_accepted)
{
    static const operands parts[] = {{2, 2, 2, false, false}, {2, 2, 2, true, true}, {0}};
    for (int c = 0; c < N_KINDS; ++c) {
        for (uint64_t seed = 1; seed <= 2; ++seed) {
            scan s = new_scan(CUDA, (kind)c, seed, 300, seed == 1 ? 32 : 19);
            true_scan(CUDA, &s, 0, s.T, ref_ssd_columns(g_contract(CUDA), s.T, 128));
            for (int64_t Q = 0; Q <= 256; Q += 64) {
                const result r = engine_scan(CUDA, "ref-bf16", &s, Q);
                honest(CUDA, Q ? "chunks" : "scan", &s, &r);
            }
            for (int i = 0; i < 3; ++i) {
                result r = tree_chunks(&s, parts[i]);
                store_bf16(&s, &r);
                honest(CUDA, "chunks of sums by a tree", &s, &r);
            }
        }
        scan s = new_scan(CUDA, (kind)c, 1, 60, 32);
        for (int64_t t = 0; t < s.T; ++t) true_scan(CUDA, &s, t, t + 1, 0);
        const result r = engine_scan(CUDA, "ref-bf16", &s, -1);
        honest(CUDA, "steps", &s, &r);
        g_summary(kind_name[c]);
    }
}
END_TEST

/* What is cut off is lost in one direction: a state of many tokens alike is a little too small everywhere. */
START_TEST(a_sum_that_is_cut_off_is_too_small)
{
    scan s = new_scan(CUDA, STUCK, 1, 2000, 8);
    true_scan(CUDA, &s, 0, s.T, ref_ssd_columns(g_contract(CUDA), s.T, 128));
    const result r = tree_chunks(&s, (operands){2, 2, 2, false, true});
    g_honest(CUDA, "cut off", n_state(&s), r.state, s.after, &s.g_state);
    int64_t below = 0;
    for (int64_t i = 0; i < s.P * s.N; ++i) below += fabs(r.state[i]) < fabs(s.after[i]); /* of the slowest head */
    ck_assert_int_ge(below, s.P * s.N * 3 / 4);
}
END_TEST

/* One bf16 where two are due. What enters the state shows there; what only y sees is less than y's own rounding where
 * y is as large as its terms, and shows where they cancel. */
START_TEST(one_part_is_not_enough)
{
    scan s = new_scan(CUDA, TRAINED, 1, 300, 32);
    true_scan(CUDA, &s, 0, s.T, ref_ssd_columns(g_contract(CUDA), s.T, 128));
    for (int by_x = 0; by_x < 2; ++by_x) {
        const result r = tree_chunks(&s, (operands){2, 2, 1, by_x, false});
        g_fault(CUDA, by_x ? "x in one part, state" : "B in one part, state", n_state(&s), r.state, s.after,
                &s.g_state);
    }
    scan a = new_scan(CUDA, ALTERNATING, 1, 300, 32);
    true_scan(CUDA, &a, 0, a.T, ref_ssd_columns(g_contract(CUDA), a.T, 128));
    const operands one[] = {{1, 2, 2, false, false}, {2, 1, 2, false, false}};
    for (int i = 0; i < 2; ++i) {
        result r = tree_chunks(&a, one[i]);
        store_bf16(&a, &r);
        g_fault(CUDA, i ? "state in one part" : "weights in one part", a.T * a.H * a.P, r.y, a.y, &a.g);
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {tensor_cores_are_accepted, a_sum_that_is_cut_off_is_too_small, one_part_is_not_enough,
                            NULL};
    return w_main("gauge_tensor_cores", tests);
}
