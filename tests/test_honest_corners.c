/* Corners in which honest engines were rejected once: what they do there stays allowed, what a wrong one does is not.
 */
#define REF_BITS 64 /* the arguments of the f64 forwards */
#include "reference/gauge_parts.h"
#include "reference/ssd_gauge.h"
#include "tests/judge_rules_fixture.h"

/* A text of few words has few roundings: an RMS over its tokens averages those, not one per token. */
START_TEST(a_repeated_word_is_one_sample)
{
    enum { TOKENS = 60, WIDTH = 40 };
    static int64_t words[TOKENS];
    for (int few = 0; few < 2; ++few) {
        tap *p = tap_new(TOKENS, WIDTH, "fp32");
        gauge_is(p, 1, 1e-6, 0);
        for (int i = 0; i < TOKENS; ++i) words[i] = few ? i % 2 : i;
        p->t.alike = words;
        for (int i = 0; i < TOKENS; ++i) /* one channel, at 3.2 deviations in every token */
            p->judged[i * WIDTH + 7] = 1 + 3.2e-3;
        expect(p, few ? FH1_PASS : FH1_FAIL, few ? "" : "RMS of one channel or head, by its gauge", -1);
        for (int i = 0; i < TOKENS; ++i) p->judged[i * WIDTH + 7] = 1 + 7e-3; /* too much for a single one */
        expect(p, FH1_FAIL, NULL, -1);
        free(p);
    }
}
END_TEST

static double silu(double z)
{
    return z / (1 + exp(-z));
}

/* At the minimum of silu the slope is 0 and an error of z acts by its square alone. */
START_TEST(silu_at_its_minimum)
{
    const double at = -1.2784645427610738, errors[] = {2e-2, 1e-2, 4e-3, 1e-3};
    const fh1_profile *bf16 = fh1_profile_find("hf-eager-bf16");
    for (int i = 0; i < N_OF(errors); ++i)
        for (double z = at - 4 * errors[i]; z <= at + 4 * errors[i]; z += errors[i] / 8) {
            const double h = errors[i]; /* half an ulp, uniform: V = h²/3 */
            const fh1_err e = ref_err_silu((fh1_err){h, h * h / 3, 0}, bf16, FH1_ROUND_NONE, z);
            const double allowed = fh1_gauge_allowed(e, fh1_gauge_sigmas(1));
            for (double d = -h; d <= h; d += h / 16)
                ck_assert_msg(fh1_within(fabs(silu(z + d) - silu(z)), allowed),
                              "z %.6g, off by %.3g: %.3g, allowed %.3g", z, d, fabs(silu(z + d) - silu(z)), allowed);
            /* three times the error is too much where the bend is all that acts */
            if (fabs(z - at) < h / 16) ck_assert(!fh1_within(fabs(silu(z + 6 * h) - silu(z)), allowed));
        }
}
END_TEST

/* A pipeline that computes on left padding sums the decays over it, with the Δ of an empty hidden vector. */
START_TEST(decays_over_padding)
{
    enum { T = 4, N = 4, COLUMNS = 64 };
    double xbc[T * (1 + 2 * N)], dt[T], state[N] = {0}, rate = 0, skip = 0;
    const double none = 1e-3, much = 2;
    for (int i = 0; i < T * (1 + 2 * N); ++i) xbc[i] = 1 + i % 3;
    for (int t = 0; t < T; ++t) dt[t] = none;
    const fh1_tensor A_log = fh1_view1(&rate, FH1_F64, 1), D = fh1_view1(&skip, FH1_F64, 1);
    const REF(ref_ssd_args) a = {.T = T,
                                 .H = 1,
                                 .P = 1,
                                 .N = N,
                                 .G = 1,
                                 .ldx = 1 + 2 * N,
                                 .xbc = xbc,
                                 .dt = dt,
                                 .A_log = &A_log,
                                 .D = &D,
                                 .state = state};
    double worst[3];
    const double *const pads[3] = {NULL, &none, &much};
    for (int k = 0; k < 3; ++k) {
        fh1_gauge g;
        ck_assert_ptr_null(fh1_gauge_new(T, &g));
        ck_assert_ptr_null(ref_ssd_scan_gauge(fh1_profile_find("fp32"), &a, COLUMNS, pads[k], NULL, &g));
        worst[k] = g.worst[T - 1];
        fh1_gauge_free(&g);
    }
    ck_assert(fh1_within(worst[1], worst[0]) &&
              fh1_within(worst[0], worst[1])); /* padding like the tokens: nothing new */
    /* exponents of up to 60 columns of Δ = 2 have been added: W = 120, each of whose roundings loses u·W of the output
     */
    const double u = fh1_profile_find("fp32")->u;
    ck_assert_msg(!fh1_within(worst[2], worst[0] + 40 * u), "%.3g with padding, %.3g without", worst[2], worst[0]);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_repeated_word_is_one_sample, silu_at_its_minimum, decays_over_padding, NULL};
    return rules_main("honest_corners", tests);
}
