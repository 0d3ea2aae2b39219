/* The rules of the judge, one tap at a time: gld_judge_tap on constructed errors, each constant from both sides. */
#include "tests/judge_rules_fixture.h"

/* --- RMS rules --- */

/* An emulated error of 0 does not mean that an honest engine may not round. */
START_TEST(floor_is_one_ulp)
{
    static const fh1_dtype types[] = {FH1_F32, FH1_BF16, FH1_F16};
    static const struct {
        double ulps;
        fh1_verdict verdict;
    } of[] = {{0.5, FH1_PASS}, {0.999, FH1_PASS}, {1.001, FH1_FAIL}, {20, FH1_FAIL}};
    for (int i = 0; i < N_OF(of) * 3 * 2; i++) {
        const double ulp = fh1_dtype_ulp(types[i % 3], 1), emulated = i / 3 % 2 ? 1e-3 * ulp : 0;
        tap *p = uniform(4, 40, of[i / 6].ulps * ulp, emulated);
        p->t.ulp_type = types[i % 3];
        expect(p, of[i / 6].verdict, NULL, -1);
        ck_assert(fh1_within(fabs(p->r.margin - of[i / 6].ulps), 1e-9));
        ck_assert(isnan(p->r.rms_ratio) == !(emulated > 0));
        free(p);
    }
    tap *p = tap_new(4, 40, "hf-eager-bf16", FH1_BF16); /* the floor is that of the value: 256 has 256 times the ulp */
    for (int i = 0; i < MAX; i++) p->local[i] = 256, p->judged[i] = 257;
    expect(p, FH1_PASS, NULL, -1);
    p->t.ulp_type = FH1_F16;
    expect(p, FH1_FAIL, "RMS of the tap", -1);
    free(p);
}
END_TEST

START_TEST(slack_raises_the_floor)
{
    for (int i = 0; i < 2; i++) {
        tap *p = uniform(4, 40, i ? 0.0101 : 0.0099, 0);
        expect(p, FH1_FAIL, "RMS of", -1);
        for (int k = 0; k < MAX; k++) p->slack[k] = 0.01 - 0x1p-23;
        expect(p, i ? FH1_FAIL : FH1_PASS, NULL, -1);
        free(p);
    }
}
END_TEST

/* Behind a chain of ops 1 + 2/√n times as much, n being the tokens. */
START_TEST(the_tap_may_be_twice_the_emulated)
{
    static const struct {
        double factor;
        int64_t n;
        bool far;
        fh1_verdict verdict;
    } of[] = {
        {1.99, 4, false, FH1_PASS}, {2.01, 4, false, FH1_FAIL}, {3.99, 4, true, FH1_PASS},  {4.01, 4, true, FH1_FAIL},
        {5.99, 1, true, FH1_PASS},  {6.01, 1, true, FH1_FAIL},  {2.49, 64, true, FH1_PASS}, {2.51, 64, true, FH1_FAIL},
    };
    for (int i = 0; i < N_OF(of); i++) {
        tap *p = uniform(of[i].n, 20, 0.01 * of[i].factor, 0.01); /* 20: no token has enough elements for a rule */
        p->t.far = of[i].far;
        expect(p, of[i].verdict, of[i].verdict == FH1_FAIL ? "RMS of the tap" : "", -1);
        ck_assert(fh1_within(fabs(p->r.rms_ratio - of[i].factor), 1e-9));
        free(p);
    }
    tap *p = uniform(4, 20, 0, 0.01);                          /* RMS, not mean: large errors count by their squares */
    for (int i = 0; i < 10; i++) p->judged[i * 8 + 1] = 1.056; /* 10·0.056²/80 = 0.0198² */
    expect(p, FH1_PASS, NULL, -1);
    for (int i = 0; i < 10; i++) p->judged[i * 8 + 1] = i == 5 ? 1.058 : 1.057;
    expect(p, FH1_FAIL, "RMS of the tap", 41);
    ck_assert(fh1_within(fabs(p->r.max_err - 0.058), 1e-12) && fh1_within(fabs(p->r.allowed - 0.02), 1e-12));
    free(p);
}
END_TEST

/* One channel wrong in all tokens, one token wrong in all channels: diluted, the tap as a whole is quiet. A group with
 * fewer than 32 judged elements does not decide. */
START_TEST(channels_and_tokens_decide)
{
    static const struct {
        bool token;
        int64_t group; /* elements of the group, of 64 */
        double factor;
        const char *rule; /* NULL: PASS */
    } of[] = {
        {false, 64, 3.99, NULL},
        {false, 64, 4.01, "channel or head"},
        {false, 32, 4.01, "channel or head"},
        {false, 31, 4.01, NULL},
        {true, 64, 7.99, NULL},
        {true, 64, 8.01, "one token"},
        {true, 32, 8.01, "one token"},
        {true, 31, 8.01, NULL},
    };
    for (int i = 0; i < N_OF(of); i++) {
        tap *p = uniform(64, 64, 0, 0.01);
        for (int64_t k = 0; k < 64; k++) {
            const int64_t at = of[i].token ? 7 * 64 + k : k * 64 + 7;
            if (k < of[i].group) p->judged[at] = 1 + 0.01 * of[i].factor;
            else p->skip[at] = true;
        }
        const int64_t at = of[i].token ? 7 * 64 : 7;
        expect(p, of[i].rule ? FH1_FAIL : FH1_PASS, of[i].rule, of[i].rule ? at : -1);
        if (of[i].rule) ck_assert(fh1_within(fabs(p->r.margin - of[i].factor / (of[i].token ? 8 : 4)), 1e-9));
        else ck_assert(p->r.margin < 0.6); /* the whole tap is what is told */
        free(p);
    }
    tap *p = uniform(64, 64, 0, 0.01); /* the worst of several groups, and within it the largest error */
    for (int64_t k = 0; k < 64; k++) p->judged[k * 64 + 7] = 1.05, p->judged[k * 64 + 9] = 1.06;
    p->judged[33 * 64 + 9] = 1.065;
    expect(p, FH1_FAIL, "channel or head", 33 * 64 + 9);
    for (int64_t k = 0; k < 64 * 64; k++) p->unit[k] = 0; /* as one unit they are diluted */
    p->t.n_units = 1;
    expect(p, FH1_PASS, NULL, -1);
    free(p);
}
END_TEST

/* The same behind a chain: 1 + 2/√64 as much, and twice that for a token. */
START_TEST(chains_widen_the_groups)
{
    static const struct {
        bool token;
        double factor;
        const char *rule;
    } of[] = {{false, 4.99, NULL}, {false, 5.01, "channel or head"}, {true, 19.9, NULL}, {true, 20.1, "RMS of"}};
    for (int i = 0; i < N_OF(of); i++) {
        tap *p = uniform(64, 64, 0, 0.01);
        p->t.far = true;
        for (int64_t k = 0; k < 64; k++) p->judged[of[i].token ? 7 * 64 + k : k * 64 + 7] = 1 + 0.01 * of[i].factor;
        expect(p, of[i].rule ? FH1_FAIL : FH1_PASS, of[i].rule, -1);
        free(p);
    }
}
END_TEST

/* --- one element --- */

/* So many times the emulated error and so many ulps, by tap and type; a chain of 64 tokens has 16·(1 + 2/8). */
START_TEST(one_element_may_not_be_far_off)
{
    static const struct {
        fh1_tap_id id;
        fh1_dtype type;
        bool far;
        double rms, ulps;
    } of[] = {
        {FH1_TAP_MID, FH1_BF16, false, 4, 2},     {FH1_TAP_CONV_ACT, FH1_F16, false, 4, 2},
        {FH1_TAP_MID, FH1_F32, false, 10, 4},     {FH1_TAP_SSD, FH1_BF16, false, 10, 4},
        {FH1_TAP_CONTEXT, FH1_F16, false, 10, 4}, {FH1_TAP_GATED, FH1_BF16, false, 10, 4},
        {FH1_TAP_MID, FH1_BF16, true, 20, 4},     {FH1_TAP_SSD, FH1_F32, true, 20, 4},
        {FH1_TAP_LOSS, FH1_F32, false, 10, 4},
    };
    for (int i = 0; i < N_OF(of) * 4; i++) {
        const bool beyond = i % 2, silent = i / 2 % 2; /* silent: the emulated pipeline made no error at all */
        const double ulp = fh1_dtype_ulp(of[i / 4].type, 1), emulated = silent ? 0 : 3 * ulp;
        tap *p = uniform(64, 64, 0, emulated);
        p->t.id = of[i / 4].id, p->t.ulp_type = of[i / 4].type, p->t.far = of[i / 4].far;
        const double allowed = of[i / 4].rms * emulated + of[i / 4].ulps * ulp;
        p->judged[1234] = 1 + allowed * (beyond ? 1.001 : 0.999);
        expect(p, beyond ? FH1_FAIL : FH1_PASS, beyond ? "one element" : "", beyond ? 1234 : -1);
        if (beyond) ck_assert(fh1_within(fabs(p->r.allowed / allowed - 1), 1e-6));
        p->slack[1234] = ulp; /* one of the ulps more for each */
        if (beyond) expect(p, FH1_PASS, NULL, -1);
        free(p);
    }
}
END_TEST

/* The emulated error that counts is the largest of the element's own, its channel's and its token's; where those have
 * fewer than 32 elements, the tap's. */
START_TEST(yardstick_of_one_element)
{
    enum { OWN, CHANNEL, TOKEN, NEXT_TOKEN, SMALL_TOKEN, N_CASES };
    for (int i = 0; i < N_CASES; i++) {
        tap *p = uniform(64, i == SMALL_TOKEN ? 20 : 64, 0, 1e-3);
        const int64_t width = p->t.width, m = 7, c = 9, at = m * width + c;
        p->judged[at] = 1.0199;
        expect(p, FH1_FAIL, "one element", at);
        for (int64_t k = 0; k < 64; k++) {
            if (i == CHANNEL) p->emulated2[k * width + c] = 2e-3 * 2e-3;
            if (i == TOKEN || (i == SMALL_TOKEN && k < width)) p->emulated2[m * width + k] = 2e-3 * 2e-3;
            if (i == NEXT_TOKEN) p->emulated2[(m + 1) * width + k] = 2e-3 * 2e-3;
        }
        if (i == OWN || i == SMALL_TOKEN) p->emulated2[at] = i == OWN ? 2e-3 * 2e-3 : 0;
        if (i < NEXT_TOKEN) expect(p, FH1_PASS, NULL, -1);
        else expect(p, FH1_FAIL, "one element", at);
        p->judged[at] = 1.0201; /* ten times 2e-3 and a few ulps of f32 */
        expect(p, FH1_FAIL, "one element", at);
        free(p);
    }
    tap *p = uniform(20, 20, 0, 2e-3); /* every group is small: the tap stands in, 0.95 · 2e-3 without row and column */
    for (int64_t k = 0; k < 20; k++) p->emulated2[2 * 20 + k] = p->emulated2[k * 20 + 5] = 0;
    p->judged[45] = 1.0189;
    expect(p, FH1_PASS, NULL, -1);
    p->judged[45] = 1.0191;
    expect(p, FH1_FAIL, "one element", 45);
    free(p);
}
END_TEST

/* A table is read: half an ulp, whatever an emulated pipeline does. */
START_TEST(a_table_entry_has_half_an_ulp)
{
    for (int i = 0; i < 4; i++) {
        tap *p = uniform(4, 40, 0, 1);
        p->t.id = i / 2 ? FH1_TAP_INPUT : FH1_TAP_EMBED;
        p->t.ulp_type = FH1_BF16;
        p->judged[33] += 0x1p-8 * (i % 2 ? 1.01 : 0.99);
        const bool fails = i == 1;
        expect(p, fails ? FH1_FAIL : FH1_PASS, fails ? "table" : "", fails ? 33 : -1);
        free(p);
    }
}
END_TEST

/* --- linear layers, per element --- */

static tap *linear(double err, double abs_sum, int64_t chain)
{
    tap *p = tap_new(4, 40, "hf-eager-bf16", FH1_F32);
    p->t.id = FH1_TAP_Q_PROJ;
    p->t.abs_sum = p->abs_sum;
    p->t.emulated2 = p->emulated2;
    p->t.chain = chain;
    for (int i = 0; i < MAX; i++) p->abs_sum[i] = abs_sum, p->emulated2[i] = 1; /* an RMS rule would allow anything */
    p->judged[77] += err;
    return p;
}

START_TEST(sums_have_four_sigmas)
{
    static const int64_t chains[] = {1, 40, 5120};
    for (int i = 0; i < N_OF(chains) * 4; i++) {
        const double sum = i / 6 ? 50 : 3, sigma = sqrt((double)chains[i / 2 % 3]) * 0x1p-24 * sum;
        const double allowed = 0x1p-24 + 4 * sigma; /* half an ulp of f32 at 1 */
        tap *p = linear(allowed * (i % 2 ? 1.001 : 0.999), sum, chains[i / 2 % 3]);
        expect(p, i % 2 ? FH1_FAIL : FH1_PASS, i % 2 ? "sum and rounding" : NULL, 77);
        ck_assert(fh1_within(fabs(p->r.allowed / allowed - 1), 1e-6));
        p->t.abs_sum = NULL; /* the input was not recorded: the RMS rules, generous here */
        expect(p, FH1_PASS, NULL, -1);
        free(p);
    }
}
END_TEST

/* Half an ulp where the larger value stands, and a second one below the multiplier of the logits. */
START_TEST(roundings_have_half_an_ulp)
{
    static const struct {
        double local, judged, multiplier;
        fh1_tap_id id;
        fh1_verdict verdict;
    } of[] = {
        {1.00390, 1.0078125, 1, FH1_TAP_Q_PROJ, FH1_FAIL}, /* the ulp of bf16 is 2^-7: 0.00391 from it */
        {1.00391, 1.0078125, 1, FH1_TAP_Q_PROJ, FH1_PASS},
        {0.9985, 1.0, 1, FH1_TAP_Q_PROJ, FH1_PASS},
        {0.9965, 1.0, 1, FH1_TAP_Q_PROJ, FH1_PASS}, /* 1 stands in the coarser binade */
        {0.9960, 1.0, 1, FH1_TAP_Q_PROJ, FH1_FAIL},
        {1.0, 1.0076, 1, FH1_TAP_LOGITS, FH1_PASS}, /* product and multiplier: an ulp in all */
        {1.0, 1.0080, 1, FH1_TAP_LOGITS, FH1_FAIL},
        {1.0, 1.0058, 0.75, FH1_TAP_LOGITS, FH1_PASS}, /* 1/0.75 has the same ulp, times 0.75: 0.00684 */
        {1.0, 1.0069, 0.75, FH1_TAP_LOGITS, FH1_FAIL},
        {1.0, 1.0069, -0.75, FH1_TAP_LOGITS, FH1_FAIL},
        {1.0, 1.0068, -0.75, FH1_TAP_LOGITS, FH1_PASS},
        {1.0, 1.0030, 0, FH1_TAP_LOGITS, FH1_PASS}, /* no multiplier to divide by */
        {1.0, 1.0069, 0.75, FH1_TAP_Q_PROJ, FH1_FAIL},
    };
    for (int i = 0; i < N_OF(of); i++) {
        tap *p = linear(0, 0, 40);
        p->t.ulp_type = FH1_BF16;
        p->t.id = of[i].id;
        p->t.multiplier = of[i].multiplier;
        p->local[77] = of[i].local, p->judged[77] = of[i].judged;
        const fh1_verdict v = judge(p);
        ck_assert_msg(v == of[i].verdict, "case %d: margin %.9g, allowed %.9g", i, p->r.margin, p->r.allowed);
        free(p);
    }
}
END_TEST

/* A sum that is wrong by less than all others allow, at one element: the largest margin is told, not the largest error.
 */
START_TEST(the_worst_margin_is_told)
{
    tap *p = linear(0, 0, 1);
    for (int i = 0; i < MAX; i++) p->abs_sum[i] = i == 5 ? 1e6 : 1;
    p->judged[5] += 0.1;
    p->judged[60] += 1e-6;
    expect(p, FH1_FAIL, "sum and rounding", 60);
    ck_assert(fh1_within(fabs(p->r.max_err - 1e-6), 1e-12));
    p->judged[60] = 1;
    expect(p, FH1_PASS, NULL, 5);
    free(p);
}
END_TEST

/* --- exact --- */

START_TEST(exact_has_eleven_digits)
{
    for (int i = 0; i < 6; i++) {
        const double scale = i / 2 == 0 ? 1 : i / 2 == 1 ? 1e30 : 1e-30;
        tap *p = tap_new(4, 40, "exact", FH1_F64);
        p->t.abs_sum = p->abs_sum; /* not asked */
        for (int k = 0; k < MAX; k++) p->judged[k] = p->local[k] = k % 2 ? scale : -scale;
        p->judged[99] += (i % 2 ? 1.01e-11 : 0.99e-11) * scale;
        expect(p, i % 2 ? FH1_FAIL : FH1_PASS, i % 2 ? "1e-11" : NULL, 99);
        ck_assert(fh1_within(fabs(p->r.allowed / scale - 1e-11), 1e-20));
        free(p);
    }
}
END_TEST

/* --- what is told beside the verdict --- */

START_TEST(figures_of_the_report)
{
    tap *p = uniform(4, 40, 0.03, 0.02);
    for (int i = 0; i < MAX; i++) p->local[i] = 2, p->judged[i] = 2.03;
    expect(p, FH1_PASS, NULL, -1);
    ck_assert(fh1_within(fabs(p->r.rms_ratio - 1.5), 1e-9));
    ck_assert(fh1_within(fabs(p->r.rel_rms - 0.015), 1e-12));
    ck_assert(fh1_within(fabs(p->r.margin - 0.75), 1e-9));
    ck_assert(fh1_within(fabs(p->r.free_rms - 0.125), 0));
    p->t.emulated2 = NULL;
    expect(p, FH1_FAIL, "RMS of", -1); /* nothing but the floor is left */
    ck_assert(isnan(p->r.rms_ratio));
    free(p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("judge_rules");
    TCase *tc = tcase_create("rules");
    tcase_add_test(tc, floor_is_one_ulp);
    tcase_add_test(tc, slack_raises_the_floor);
    tcase_add_test(tc, the_tap_may_be_twice_the_emulated);
    tcase_add_test(tc, channels_and_tokens_decide);
    tcase_add_test(tc, chains_widen_the_groups);
    tcase_add_test(tc, one_element_may_not_be_far_off);
    tcase_add_test(tc, yardstick_of_one_element);
    tcase_add_test(tc, a_table_entry_has_half_an_ulp);
    tcase_add_test(tc, sums_have_four_sigmas);
    tcase_add_test(tc, roundings_have_half_an_ulp);
    tcase_add_test(tc, the_worst_margin_is_told);
    tcase_add_test(tc, exact_has_eleven_digits);
    tcase_add_test(tc, figures_of_the_report);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
