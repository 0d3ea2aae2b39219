/* The rules of the judge, one tap at a time: gld_judge_tap on constructed errors and gauges, each rule from both sides.
 * The numbers are those of fh1_rule, whatever they are. */
#include "tests/judge_rules_fixture.h"

static double sigmas_of(const tap *p)
{
    return fh1_gauge_sigmas(size_of(p));
}

/* --- every input was recorded: one element --- */

/* The smaller of the worst case and of S + lambda·√V, the number of elements giving lambda. */
START_TEST(an_element_has_its_gauge)
{
    static const int64_t shapes[][2] = {{1, 1}, {4, 40}, {64, 64}};
    for (int i = 0; i < N_OF(shapes) * 3; i++) {
        tap *p = tap_new(shapes[i / 3][0], shapes[i / 3][1], i % 2 ? "fp32" : "hf-eager-bf16");
        const double sigma = 1e-3, shared = i % 3 == 2 ? 5e-3 : 0, likely = shared + sigmas_of(p) * sigma;
        const double worst = i % 3 == 0 ? likely / 3 : 3 * likely;
        gauge_is(p, worst, sigma * sigma, shared);
        emulated_is(p, 1); /* not asked */
        both_sides(p, size_of(p) / 3, fmin(worst, likely) + underflow(p), "one element, by its gauge");
        p->t.far = true; /* an input is missing: now it is */
        p->judged[size_of(p) / 3] = 1 + 2 * likely;
        ck_assert_int_ne(judge(p), FH1_FAIL);
        free(p);
    }
}
END_TEST

/* Its own, not its neighbour's; and the largest margin is told, not the largest error. */
START_TEST(the_worst_margin_is_told)
{
    tap *p = tap_new(4, 20, "fp32");
    gauge_is(p, 1e-3, 1e-6, 0);
    fh1_gauge_set(&p->gauge, 5, (fh1_err){0.5, 0.25, 0});
    p->judged[5] += 0.1;
    p->judged[60] += 0.9e-3;
    expect(p, FH1_PASS, NULL, 60);
    near(p->r.margin, 0.9e-3 / (1e-3 + underflow(p)) * (p->r.max_err / 0.9e-3));
    p->judged[61] -= 1.1e-3;
    expect(p, FH1_FAIL, "one element, by its gauge", 61);
    p->judged[61] = 1;
    p->judged[5] = 1.51;
    expect(p, FH1_FAIL, NULL, 5);
    free(p);
}
END_TEST

/* Truth is computed in f64 itself: both sides have a gauge. */
START_TEST(exact_has_two_gauges)
{
    for (int i = 0; i < 2; i++) {
        tap *p = tap_new(4, 40, "exact");
        const double likely = 1e-3 + sigmas_of(p) * 1e-3;
        gauge_is(p, i ? 1 : 3e-3, 1e-6, 1e-3);
        both_sides(p, 77, 2 * (i ? likely : 3e-3) + underflow(p), "one element, by its gauge");
        free(p);
    }
}
END_TEST

/* A tensor in a shorter type than the contract's was rounded once more, where the larger of both values stands. */
START_TEST(storing_costs_half_an_ulp)
{
    static const struct {
        fh1_dtype type;
        double local, sign;
    } of[] = {{FH1_BF16, 1, 1},      {FH1_BF16, 1.5, -1},    {FH1_F16, 256, 1},    {FH1_BF16, 0.999, 1},
              {FH1_BF16, 1.001, -1}, {FH1_BF16, -0.999, -1}, {FH1_BF16, -1.001, 1}};
    for (int i = 0; i < N_OF(of) * 2; i++) {
        tap *p = tap_new(4, 40, "fp32");
        const double local = of[i / 2].local, worst = i % 2 ? 1e-4 * fabs(local) : 0;
        p->t.ulp_type = of[i / 2].type;
        gauge_is(p, worst, worst * worst, 0);
        p->local[77] = local;
        double half = 0; /* where the judged value stands, if that is the larger one */
        for (double margin = INSIDE; margin < 1.5; margin += OUTSIDE - INSIDE) {
            p->t.stored_coarser = true;
            half = fh1_dtype_ulp(of[i / 2].type, fmax(fabs(local), fabs(local + of[i / 2].sign * 1.5e-3))) / 2;
            const double allowed = worst + half + underflow(p);
            p->judged[77] = local + of[i / 2].sign * allowed * margin;
            const bool inside = margin < 1;
            expect(p, inside ? FH1_PASS : FH1_FAIL, inside ? "" : "one element", 77);
            near(p->r.allowed, allowed);
            p->t.stored_coarser = false;
            expect(p, FH1_FAIL, "one element", 77);
            if (!inside) break;
        }
        free(p);
    }
    tap *p = tap_new(4, 40, "fp32"); /* its variance too: half²/3 */
    gauge_is(p, 1, 1e-6, 0);
    p->t.stored_coarser = true, p->t.ulp_type = FH1_BF16;
    both_sides(p, 9, sigmas_of(p) * sqrt(1e-6 + 0x1p-16 / 3) + underflow(p), "one element");
    free(p);
}
END_TEST

/* --- every input was recorded: groups --- */

/* What a group's RMS may be, from the definition: `n` elements of variances v, all sharing `shared`. */
static double group_allowed(const tap *p, int64_t n, const double *v, double shared)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += v[i], squares += v[i] * v[i];
    const double weigh = fmax(1, sum * sum / squares / (double)p->t.correlated);
    return shared + fh1_rule.rms_band * (1 + sigmas_of(p) / sqrt(2 * weigh)) * sqrt(sum / (double)n) + underflow(p);
}

/* 20 wide and 4 tokens: the only group is the tap. */
START_TEST(rms_of_the_tap)
{
    enum { UNIFORM, SHARED, UNEQUAL, FEW_WEIGH, CORRELATED, N_CASES };
    for (int i = 0; i < N_CASES; i++) {
        tap *p = tap_new(4, 20, "fp32");
        const double shared = i == SHARED ? 2e-3 : 0;
        gauge_is(p, 1, 1e-6, shared);
        for (int k = 0; k < 80; k++) {
            if (i == UNEQUAL) p->variance[k] = 1e-6 * (1 + k);
            if (i == FEW_WEIGH && k >= 5) p->variance[k] = 1e-9;
        }
        p->t.correlated = i == CORRELATED ? 8 : 1;
        const double allowed = group_allowed(p, 80, p->variance, shared);
        for (int side = 0; side < 2; side++) {
            for (int k = 0; k < 80; k++) { /* so that no element alone is conspicuous, all of one RMS */
                const double share = i == UNEQUAL ? sqrt((1 + k) / 40.5) : i == FEW_WEIGH ? 4 * (k < 5) : 1;
                p->judged[k] = 1 + (side ? OUTSIDE : INSIDE) * allowed * share;
            }
            if (side) expect(p, FH1_FAIL, "RMS of the tap, by its gauge", -1);
            else expect(p, FH1_PASS, "", -1);
            if (side) near(p->r.allowed, allowed), near(p->r.max_err, allowed);
            else ck_assert(!fh1_within(fabs(p->r.allowed - allowed), 1e-9)); /* quiet: an element is followed */
        }
        free(p);
    }
}
END_TEST

/* One channel wrong in all tokens, one token wrong in all channels; a group needs enough judged elements. */
START_TEST(channels_and_tokens_decide)
{
    const int64_t enough = fh1_rule.min_elements;
    for (int i = 0; i < 8; i++) {
        const bool token = i & 1, few = i & 2, outside = i & 4;
        tap *p = tap_new(64, 64, "fp32");
        gauge_is(p, 1, 1e-6, 1e-3);
        const int64_t n = few ? enough - 1 : enough + 3;
        const double allowed = group_allowed(p, n, p->variance, 1e-3);
        for (int64_t k = 0; k < 64; k++) {
            const int64_t at = token ? 7 * 64 + k : k * 64 + 7;
            p->judged[at] = 1 - allowed * (outside ? OUTSIDE : INSIDE);
            p->skip[at] = k >= n;
        }
        p->variance[7 * 64 + 2] = p->variance[2 * 64 + 7] = 1e-6 * (1 - 0x1p-40); /* the largest margin */
        const int64_t at = token ? 7 * 64 + 2 : 2 * 64 + 7;
        if (few || !outside) expect(p, FH1_PASS, NULL, at);
        else expect(p, FH1_FAIL, token ? "RMS of one token, by" : "RMS of one channel or head, by", at);
        if (!few && outside) near(p->r.allowed, allowed), near(p->r.max_err, allowed);
        free(p);
    }
    for (int few = 0; few < 2; few++) { /* the tap as a group of `enough`, or one fewer */
        tap *p = tap_new(1, enough - few, "fp32");
        gauge_is(p, 1, 1e-6, 0);
        errors_are(p, group_allowed(p, enough - few, p->variance, 0) * OUTSIDE);
        expect(p, few ? FH1_PASS : FH1_FAIL, few ? "" : "RMS of", -1);
        free(p);
    }
}
END_TEST

START_TEST(the_worst_group_is_told)
{
    tap *p = tap_new(64, 64, "fp32");
    gauge_is(p, 1, 1e-6, 0);
    const double column = group_allowed(p, 64, p->variance, 0);
    for (int64_t k = 0; k < 64; k++)
        p->judged[k * 64 + 7] = 1 + 1.05 * column, p->judged[k * 64 + 9] = 1 + 1.1 * column;
    p->judged[33 * 64 + 9] = 1 + 1.11 * column;
    expect(p, FH1_FAIL, "channel or head", 33 * 64 + 9);
    for (int64_t k = 0; k < 64; k++) p->judged[12 * 64 + k] = 1 - 1.2 * column;
    expect(p, FH1_FAIL, "RMS of one token", 12 * 64);
    for (int64_t k = 0; k < 64; k++) p->judged[k] = p->judged[k * 64] = 1 + 1.3 * column; /* the first of both */
    expect(p, FH1_FAIL, "RMS of", 0);
    for (int64_t k = 0; k < 64; k++) p->judged[k] = 1;
    expect(p, FH1_FAIL, "channel or head", 64);
    for (int64_t k = 0; k < 64; k++) p->judged[k] = 1 + 1.3 * column, p->judged[k * 64] = k ? 1 : p->judged[0];
    expect(p, FH1_FAIL, "one token", 0);
    for (int64_t k = 0; k < 64; k++) p->judged[k] = 1;
    p->judged[5] = 1.5; /* and an element may be worse than all groups */
    expect(p, FH1_FAIL, "one element", 5);
    p->judged[5] = 1;
    for (int64_t k = 0; k < 64; k++) p->judged[12 * 64 + k] = 1;
    for (int64_t k = 0; k < 64 * 64; k++) p->unit[k] = 0; /* as one unit the columns are diluted */
    p->t.n_units = 1;
    expect(p, FH1_PASS, NULL, 33 * 64 + 9);
    free(p);
}
END_TEST

/* --- a chain of ops: the emulated pipeline --- */

static double scatter(const tap *p)
{
    return 1 + 2 / sqrt((double)p->t.n_tokens);
}

/* 20 wide: no token has enough elements; with 4 tokens no channel either. The gauge of the last op comes on top. */
START_TEST(rms_of_the_tap_behind_a_chain)
{
    static const int64_t tokens[] = {1, 4, 16};
    for (int i = 0; i < N_OF(tokens) * 3; i++) {
        const double emu = 0.01, gauge = i / 3 ? 0.013 : 0;
        tap *p = chain(tokens[i % 3], 20, 0, emu);
        if (gauge > 0) gauge_is(p, gauge, 1, 0);
        if (i / 3 == 2) p->t.far = false, p->t.gauge = NULL; /* without a gauge the last op is a chain too */
        const double last = (i / 3 == 1 ? gauge : 0) + underflow(p);
        const double allowed = fh1_rule.band_tap * scatter(p) * emu + last;
        errors_are(p, allowed * INSIDE);
        expect(p, FH1_PASS, "", -1);
        near(p->r.allowed, allowed); /* the tap is what is followed */
        near(p->r.rms_ratio, allowed * INSIDE / emu);
        errors_are(p, allowed * OUTSIDE);
        expect(p, FH1_FAIL, "RMS of the tap, behind", -1);
        near(p->r.max_err, allowed);
        free(p);
    }
    tap *p = chain(4, 20, 0, 0.01); /* RMS, not mean: large errors count by their squares */
    const double allowed = fh1_rule.band_tap * scatter(p) * 0.01;
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < 10; i++) p->judged[i * 8 + 1] = 1 + sqrt(8) * allowed * (side ? OUTSIDE : INSIDE);
        p->judged[41] += 1e-12;
        expect(p, side ? FH1_FAIL : FH1_PASS, side ? "RMS of the tap" : "", 41);
    }
    free(p);
}
END_TEST

START_TEST(groups_behind_a_chain)
{
    const int64_t enough = fh1_rule.min_elements;
    for (int i = 0; i < 8; i++) {
        const bool token = i & 1, few = i & 2, outside = i & 4;
        tap *p = chain(64, 64, 0, 1e-3);
        gauge_is(p, 2e-3, 1, 0);
        const double band = token ? fh1_rule.band_token : fh1_rule.band_unit;
        const double allowed = band * scatter(p) * 1e-3 + 2e-3 + underflow(p);
        const int64_t n = few ? enough - 1 : enough;
        for (int64_t k = 0; k < 64; k++) {
            const int64_t at = token ? 7 * 64 + k : k * 64 + 7;
            p->judged[at] = 1 + allowed * (outside ? OUTSIDE : INSIDE);
            p->skip[at] = k >= n;
        }
        const int64_t at = token ? 7 * 64 : 7;
        if (few || !outside) expect(p, FH1_PASS, "", -1);
        else expect(p, FH1_FAIL, token ? "RMS of one token, behind" : "RMS of one channel or head, behind", at);
        if (!few && outside) near(p->r.allowed, allowed);
        else ck_assert(p->r.margin < 0.9); /* the tap */
        free(p);
    }
}
END_TEST

/* The emulated error that counts is the largest of the element's own, its channel's and its token's; where those have
 * too few elements, the tap's. On top: the gauge, and ulps of the stored type. */
START_TEST(one_element_behind_a_chain)
{
    enum { PLAIN, OWN, CHANNEL, TOKEN, NEXT_TOKEN, NEXT_CHANNEL, GAUGE, COARSE, N_CASES };
    for (int i = 0; i < N_CASES; i++) {
        tap *p = chain(64, 64, 0, 1e-3);
        const int64_t m = 7, c = 9, at = m * 64 + c;
        for (int64_t k = 0; k < 64; k++) {
            if (i == CHANNEL || i == NEXT_CHANNEL) p->emulated2[k * 64 + c + (i == NEXT_CHANNEL)] = 2.25e-6;
            if (i == TOKEN || i == NEXT_TOKEN) p->emulated2[(m + (i == NEXT_TOKEN)) * 64 + k] = 2.25e-6;
        }
        if (i == OWN) p->emulated2[at] = 2.25e-6;
        if (i == CHANNEL || i == TOKEN) p->emulated2[at] = 0; /* its own run was lucky: 63 of 64 are left */
        if (i == GAUGE) gauge_is(p, 3e-3, 1, 0);
        if (i == COARSE) p->t.ulp_type = FH1_F16;
        double emu = i == OWN ? 1.5e-3 : i == CHANNEL || i == TOKEN ? sqrt(2.25e-6 * 63 / 64) : 1e-3;
        if (i == NEXT_TOKEN || i == NEXT_CHANNEL) emu = sqrt((63 * 1e-6 + 2.25e-6) / 64); /* one of 64 in its groups */
        const double allowed = fh1_rule.chain_element * emu + (i == GAUGE ? 3e-3 : 0) + underflow(p) +
                               fh1_rule.chain_ulps * fh1_dtype_ulp(p->t.ulp_type, 1);
        both_sides(p, at, allowed, "one element, behind");
        free(p);
    }
    tap *p = chain(20, 20, 0, 2e-3); /* every group is small: the tap stands in, here without one row and column */
    for (int64_t k = 0; k < 20; k++) p->emulated2[2 * 20 + k] = p->emulated2[k * 20 + 5] = 0;
    const double emu = sqrt(4e-6 * (400 - 39) / 400);
    both_sides(p, 45, fh1_rule.chain_element * emu + underflow(p) + fh1_rule.chain_ulps * 0x1p-23, "one element, beh");
    p->emulated2[45] = (double)INFINITY; /* an emulated pipeline that overflowed is no yardstick */
    both_sides(p, 45, fh1_rule.chain_element * emu + underflow(p) + fh1_rule.chain_ulps * 0x1p-23, "one element, beh");
    free(p);
}
END_TEST

/* --- a chain of ops under `exact`: a share of the tap --- */

START_TEST(exact_behind_a_chain_has_a_share)
{
    for (int i = 0; i < 8; i++) {
        const double scale = i % 4 == 0 ? 1 : i % 4 == 1 ? 0x1p100 : i % 4 == 2 ? 0x1p-100 : 0x1p800;
        tap *p = tap_new(4, 40, "exact");
        p->t.far = i < 4; /* or without a gauge */
        const double gauge = i < 4 ? p->t.profile->relative / 4 * scale : 0;
        if (i < 4) gauge_is(p, gauge, scale > 1e200 ? (double)INFINITY : scale * scale, 0);
        for (int k = 0; k < MAX; k++) p->judged[k] = p->local[k] = k % 2 ? 2 * scale : k % 4 ? -scale : 0;
        double square = 0;
        for (int k = 0; k < 160; k++) square += p->local[k] / scale * p->local[k] / scale / 160;
        const double allowed = p->t.profile->relative * sqrt(square) * scale + 2 * gauge + underflow(p);
        p->local[98] = p->judged[98] = -0.0; /* fewer digits are lost beside zero */
        const double without = square - 1.0 / 160;
        const double here = allowed - p->t.profile->relative * (sqrt(square) - sqrt(without)) * scale;
        both_sides(p, 98, here, "one element, as a share of the tap");
        free(p);
    }
}
END_TEST

/* --- greedy tokens --- */

/* Two rows of 10: in the second the judged engine prefers another token, by less than each of both may be off. */
START_TEST(another_greedy_token)
{
    enum { GAUGE, SHARED, WORSE, WORSE_TRUTH, CHAIN, NO_GAUGE, EXACT, N_CASES };
    for (int i = 0; i < N_CASES * 2; i++) {
        const bool outside = i % 2, chain = i / 2 == CHAIN || i / 2 == NO_GAUGE;
        tap *p = tap_new(2, 10, i / 2 == EXACT ? "exact" : "fp32");
        p->t.id = FH1_TAP_LOGITS;
        gauge_is(p, 1, 1e-6, i / 2 == SHARED ? 3e-4 : 0);
        if (i / 2 == WORSE) p->variance[14] = 4e-6; /* the worse of both counts */
        if (i / 2 == WORSE_TRUTH) p->variance[17] = 4e-6;
        if (i / 2 < CHAIN) emulated_is(p, 1); /* not asked */
        if (chain) gauge_is(p, 5e-3, 9e-6, 0), emulated_is(p, 4e-3);
        p->t.far = i / 2 == CHAIN;
        if (i / 2 == NO_GAUGE) p->t.gauge = NULL;
        for (int k = 0; k < 20; k++) p->local[k] = p->judged[k] = 1e-3 * (k % 10 == 3); /* quiet ones below */
        p->local[17] = 1; /* truth prefers 7, the judged engine 4 */
        double sigma = i / 2 == SHARED ? 1.3e-3 : i / 2 == WORSE || i / 2 == WORSE_TRUTH ? 2e-3 : 1e-3;
        if (chain) sigma = i / 2 == CHAIN ? 5e-3 : 4e-3; /* 3, 4, 5 */
        if (i / 2 == EXACT) sigma = 2e-3 + p->t.profile->relative;
        const double gap = fh1_rule.flip_sigmas * (sigma + underflow(p)) * (outside ? OUTSIDE : INSIDE);
        p->local[14] = 1 - gap;
        p->judged[14] = p->judged[17] = 1 - gap / 2; /* of two equal ones the first */
        if (outside) expect(p, FH1_FAIL, "another greedy token", 14);
        else expect(p, FH1_PASS, "", -1);
        if (outside) near(p->r.max_err, gap), near(p->r.margin, 1);
        p->judged[17] += 1e-9; /* the same token */
        expect(p, FH1_PASS, "", -1);
        p->judged[17] -= 1e-9;
        p->t.id = FH1_TAP_LAYER; /* no tokens */
        expect(p, FH1_PASS, "", -1);
        free(p);
    }
}
END_TEST

/* --- what the constants must be for the rules to make sense --- */

START_TEST(constants)
{
    ck_assert(fh1_rule.alpha > 0 && fh1_rule.alpha < 1e-3);
    ck_assert(fh1_rule.band_low < 1 && fh1_rule.rms_band >= 1);
    ck_assert(fh1_rule.band_tap <= fh1_rule.band_unit && fh1_rule.band_unit <= fh1_rule.band_token);
    ck_assert(fh1_rule.band_token <= fh1_rule.chain_element); /* one element may be off by more than any group */
    ck_assert(fh1_rule.min_elements > 1 && fh1_rule.vacuous <= 1);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_element_has_its_gauge,
                                  the_worst_margin_is_told,
                                  exact_has_two_gauges,
                                  storing_costs_half_an_ulp,
                                  rms_of_the_tap,
                                  channels_and_tokens_decide,
                                  the_worst_group_is_told,
                                  rms_of_the_tap_behind_a_chain,
                                  groups_behind_a_chain,
                                  one_element_behind_a_chain,
                                  exact_behind_a_chain_has_a_share,
                                  another_greedy_token,
                                  constants,
                                  NULL};
    return rules_main("judge_rules", tests);
}
