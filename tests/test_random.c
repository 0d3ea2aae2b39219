/* Random numbers as a function of (seed, name, index): pinned values, computed by an implementation of
 * the formula in oracle/random.h in another language; moments; independence of neighbours. Each judge
 * of randomness must reject a stream that is not random. */
#include "oracle/compare.h"
#include "oracle/random.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MANY = 100000 };

START_TEST(values_are_pinned)
{
    static const struct {
        uint64_t seed;
        const char *name;
        uint64_t index, u64;
        int64_t below_1000;
        double uniform, normal;
    } pinned[] = {
        {0, "", 0, 0x0224754ed6880c9du, 8, 0x1.123aa76b44040p-7, -1.6497945211692528},
        {0, "", 1, 0x77436978aa057826u, 465, 0x1.dd0da5e2a815ep-2, 0.8617100638747655},
        {1, "", 0, 0x5eeaf88a79985a96u, 370, 0x1.7babe229e6616p-2, 0.3681521910960114},
        {0, "a", 0, 0x7373a06734d44022u, 450, 0x1.cdce819cd3510p-2, -0.4668573579038891},
        {42, "model.embed_tokens.weight", 0, 0x5658fafce0baa829u, 337, 0x1.5963ebf382eaap-2, 0.00023105174331903886},
        {42, "model.embed_tokens.weight", 123456789, 0xf5c50bcb411671b2u, 960, 0x1.eb8a1796822cep-1,
         1.1437661723959713},
        {UINT64_MAX, "model.layers.0.mamba.A_log", UINT64_MAX, 0xe0adbccba62a0707u, 877, 0x1.c15b79974c540p-1,
         -1.5146554578957658},
    };
    for (size_t i = 0; i < sizeof pinned / sizeof pinned[0]; i++) {
        fh1_stream s = fh1_stream_open(pinned[i].seed, pinned[i].name);
        uint64_t index = pinned[i].index;
        ck_assert_uint_eq(fh1_random_u64(s, index), pinned[i].u64);
        ck_assert_int_eq(fh1_random_below(s, index, 1000), pinned[i].below_1000);
        ck_assert(fh1_random_uniform(s, index) == pinned[i].uniform);
        /* its logarithm came from a library, ours is bit-exact only with itself */
        ck_assert(fh1_within(fabs(fh1_random_normal(s, index) - pinned[i].normal), 1e-14));
    }
}
END_TEST

/* The bits of normals: additions, products, quotients and square roots are the same everywhere. */
START_TEST(normals_are_the_same_bits_everywhere)
{
    fh1_stream s = fh1_stream_open(5, "bits of normals");
    uint64_t hash = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        union {
            double v;
            uint64_t u;
        } bits = {fh1_random_normal(s, i)};
        hash = (hash ^ bits.u) * 0x100000001b3u;
    }
    ck_assert_uint_eq(hash, 0x5fccc484f57bd1a2u);
}
END_TEST

/* Four moments of `draw` within five standard errors of the wanted ones (about 1e-6 each by chance;
 * the values are fixed, so it passes always or never). */
static bool moments_are(double (*draw)(fh1_stream, uint64_t), const double want[4], const double var[4])
{
    fh1_stream s = fh1_stream_open(11, "moments");
    double sum[4] = {0};
    for (uint64_t i = 0; i < MANY; i++) {
        double v = draw(s, i), p = 1;
        for (int k = 0; k < 4; k++) sum[k] += p *= v;
    }
    for (int k = 0; k < 4; k++)
        if (!fh1_within(fabs(sum[k] / MANY - want[k]), 5 * sqrt(var[k] / MANY))) return false;
    return true;
}

static double centred(fh1_stream s, uint64_t i)
{
    return fh1_random_uniform(s, i) - 0.5;
}
static double sum_of_three(fh1_stream s, uint64_t i)
{
    return 2 * (centred(s, 3 * i) + centred(s, 3 * i + 1) + centred(s, 3 * i + 2));
}

START_TEST(moments_are_those_of_the_distribution)
{
    /* E v^k and Var v^k, k = 1 .. 4 */
    static const double normal[4] = {0, 1, 0, 3}, normal_var[4] = {1, 2, 15, 96};
    static const double uniform[4] = {0, 1.0 / 12, 0, 1.0 / 80};
    static const double uniform_var[4] = {1.0 / 12, 1.0 / 180, 1.0 / 448, 1.0 / 3600};
    ck_assert(moments_are(fh1_random_normal, normal, normal_var));
    ck_assert(moments_are(centred, uniform, uniform_var));
    ck_assert(!moments_are(sum_of_three, normal, normal_var)); /* planted: mean and variance alone agree */
    ck_assert(!moments_are(fh1_random_uniform, uniform, uniform_var));
}
END_TEST

START_TEST(normals_have_tails)
{
    fh1_stream s = fh1_stream_open(12, "tails");
    long beyond[6] = {0};
    for (uint64_t i = 0; i < 10 * MANY; i++) {
        double v = fabs(fh1_random_normal(s, i));
        for (int k = 0; k < 6; k++) beyond[k] += v > k;
    }
    for (int k = 0; k < 5; k++) { /* 0 .. 4 sigmas: erfc(k/√2) of a million, five standard errors */
        double want = 10.0 * MANY * erfc(k / sqrt(2.0));
        ck_assert(fh1_within(fabs((double)beyond[k] - want), 5 * sqrt(want) + 1));
    }
    ck_assert_int_le(beyond[5], 10);
}
END_TEST

/* The draws of two streams as pairs: correlation, and how often two bits at the same place agree. */
static bool independent(fh1_stream a, fh1_stream b, uint64_t shift)
{
    double sum = 0;
    long agree = 0;
    for (uint64_t i = 0; i < MANY; i++) {
        sum += centred(a, i) * centred(b, i + shift);
        agree += __builtin_popcountll(~(fh1_random_u64(a, i) ^ fh1_random_u64(b, i + shift)));
    }
    return fh1_within(fabs(sum * 12 / sqrt(MANY)), 5) &&
           fh1_within(fabs((double)agree - 32.0 * MANY), 5 * sqrt(16.0 * MANY));
}

START_TEST(neighbours_are_independent)
{
    fh1_stream s = fh1_stream_open(1, "layers.1"), next_seed = fh1_stream_open(2, "layers.1");
    fh1_stream next_name = fh1_stream_open(1, "layers.2"), longer = fh1_stream_open(1, "layers.10");
    ck_assert(independent(s, next_seed, 0) && independent(s, next_name, 0) && independent(s, longer, 0));
    for (uint64_t shift = 1; shift < 9; shift++) {
        ck_assert(independent(s, s, shift));
        ck_assert(independent(s, next_seed, shift));
    }
    /* streams whose keys differ by one step of the counter must not be the same sequence, shifted */
    fh1_stream stepped = {s.key + 0x9e3779b97f4a7c15u};
    for (uint64_t shift = 0; shift < 3; shift++) ck_assert(independent(s, stepped, shift));
    ck_assert(independent(stepped, s, 1));
    ck_assert(!independent(s, s, 0)); /* planted */
}
END_TEST

START_TEST(every_bit_is_fair)
{
    fh1_stream s = fh1_stream_open(3, "bits");
    long ones[64] = {0};
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t u = fh1_random_u64(s, i);
        for (int b = 0; b < 64; b++) ones[b] += (long)(u >> b & 1);
    }
    for (int b = 0; b < 64; b++) ck_assert(fh1_within(fabs((double)ones[b] - MANY / 2), 5 * sqrt(MANY / 4)));
}
END_TEST

START_TEST(below_stays_below)
{
    fh1_stream s = fh1_stream_open(4, "below");
    long count[7] = {0};
    for (uint64_t i = 0; i < MANY; i++) {
        int64_t v = fh1_random_below(s, i, 7);
        ck_assert(v >= 0 && v < 7);
        count[v]++;
    }
    for (int k = 0; k < 7; k++) ck_assert(fh1_within(fabs((double)count[k] - MANY / 7.0), 5 * sqrt(MANY / 7.0)));
    for (uint64_t i = 0; i < 100; i++) {
        ck_assert_int_eq(fh1_random_below(s, i, 1), 0);
        ck_assert(fh1_random_below(s, i, INT64_MAX) >= 0);
        ck_assert(fh1_random_uniform(s, i) >= 0 && fh1_random_uniform(s, i) < 1);
    }
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("random");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, values_are_pinned);
    tcase_add_test(c, normals_are_the_same_bits_everywhere);
    tcase_add_test(c, moments_are_those_of_the_distribution);
    tcase_add_test(c, normals_have_tails);
    tcase_add_test(c, neighbours_are_independent);
    tcase_add_test(c, every_bit_is_fair);
    tcase_add_test(c, below_stays_below);
    Suite *s = suite_create("random");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
