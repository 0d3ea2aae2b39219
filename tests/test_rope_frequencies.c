/* The six rope types. Three witnesses: bit patterns of transformers 5.23.0 for the f32 form, the f64 form
 * within what f32 can differ, and laws that follow from what each type is for. Each comparison also sees
 * wrong frequencies and must refuse them. */
#include "oracle/compare.h"
#include "oracle/config.h"
#include "tests/small_config.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

enum { A = 8, PAIRS = A / 2, MAX_LENGTH = 2048 };

static const double long_list[PAIRS] = {1.5, 4.25, 9.75, 20.0}, short_list[PAIRS] = {1.0, 1.125, 1.5, 2.25};

/* What FalconH1RotaryEmbedding holds after a call whose longest position is seq_len - 1. */
typedef struct {
    fh1_rope rope;
    int64_t seq_len;
    float inv_freq[PAIRS];
    double scale;
} witness;

#define LONG .long_factor = long_list, .short_factor = short_list, .original_max_position = 512
#define YARN .beta_fast = 32, .beta_slow = 1, .truncate = true, .original_max_position = 512

static const witness witnesses[] = {
    {{.type = FH1_ROPE_DEFAULT, .theta = 1e11}, 7, {0x1p+0f, 0x1.d22a5p-10f, 0x1.a86f0ap-19f, 0x1.827022p-28f}, 1},
    {{.type = FH1_ROPE_LINEAR, .theta = 12345, .factor = 3.3},
     7,
     {0x1.364d94p-2f, 0x1.d7036ap-6f, 0x1.657a9ap-9f, 0x1.0f4fa8p-12f},
     1},
    {{.type = FH1_ROPE_DYNAMIC, .theta = 1e4, .factor = 3.7},
     2048,
     {0x1p+0f, 0x1.99999ap-4f, 0x1.47ae14p-7f, 0x1.0624dep-10f},
     1},
    {{.type = FH1_ROPE_DYNAMIC, .theta = 1e4, .factor = 3.7},
     2049,
     {0x1p+0f, 0x1.995a88p-4f, 0x1.474932p-7f, 0x1.05abd6p-10f},
     1},
    {{.type = FH1_ROPE_DYNAMIC, .theta = 1e4, .factor = 3.7},
     262143,
     {0x1p+0f, 0x1.a52fb4p-7f, 0x1.5a7af6p-13f, 0x1.1d0662p-19f},
     1},
    {{.type = FH1_ROPE_YARN, .theta = 1e4, .factor = 4, YARN},
     7,
     {0x1p+0f, 0x1p-4f, 0x1.47ae14p-9f, 0x1.0624dep-12f},
     0x1.237d37fe5d298p+0},
    {{.type = FH1_ROPE_YARN,
      .theta = 1e6,
      .factor = 3.3,
      .beta_fast = 20.5,
      .beta_slow = 0.75,
      .original_max_position = 512},
     7,
     {0x1p+0f, 0x1.23bafcp-6f, 0x1.3dc014p-12f, 0x1.418a6cp-17f},
     0x1.1e907d839ad8cp+0},
    {{.type = FH1_ROPE_YARN, .theta = 1e4, .factor = 40, .mscale = 0.75, .mscale_all_dim = 0.5, YARN},
     7,
     {0x1p+0f, 0x1.a3d70ap-5f, 0x1.0624dep-12f, 0x1.a36e2ep-16f},
     0x1.13eeb2bb949acp+0},
    {{.type = FH1_ROPE_LLAMA3,
      .theta = 5e5,
      .factor = 8,
      .low_freq_factor = 1,
      .high_freq_factor = 4,
      .original_max_position = 512},
     7,
     {0x1p+0f, 0x1.c0019cp-6f, 0x1.72ba42p-13f, 0x1.be2188p-18f},
     1},
    {{.type = FH1_ROPE_LLAMA3,
      .theta = 1e4,
      .factor = 32,
      .low_freq_factor = 1.25,
      .high_freq_factor = 7,
      .original_max_position = 100},
     7,
     {0x1p+0f, 0x1.22f584p-7f, 0x1.47ae14p-12f, 0x1.0624dep-15f},
     1},
    {{.type = FH1_ROPE_LONGROPE, .theta = 1e4, LONG},
     512,
     {0x1p+0f, 0x1.6c16c2p-4f, 0x1.b4e81cp-8f, 0x1.d208a6p-12f},
     0x1.1b04c62a8f4cep+0},
    {{.type = FH1_ROPE_LONGROPE, .theta = 1e4, LONG},
     513,
     {0x1.555556p-1f, 0x1.818182p-6f, 0x1.0cdd9ap-10f, 0x1.a36e2ep-15f},
     0x1.1b04c62a8f4cep+0},
    {{.type = FH1_ROPE_LONGROPE, .theta = 1e4, .factor = 6, LONG},
     7,
     {0x1p+0f, 0x1.6c16c2p-4f, 0x1.b4e81cp-8f, 0x1.d208a6p-12f},
     0x1.227248894f5cap+0},
    /* so short a length that the ramp of yarn has no width */
    {{.type = FH1_ROPE_YARN,
      .theta = 1e4,
      .factor = 4,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = true,
      .original_max_position = 6},
     7,
     {0x1p+0f, 0x1.99999ap-6f, 0x1.47ae14p-9f, 0x1.0624dep-12f},
     0x1.237d37fe5d298p+0},
};

static fh1_config config_of(const fh1_rope *rope)
{
    fh1_config c = small_config();
    c.A = A;
    c.rope = *rope;
    c.rope.max_position = MAX_LENGTH;
    ck_assert(!fh1_config_check(&c));
    return c;
}

/* Largest distance in units of the last place of `want`. */
static double ulps_apart(const float *got, const float *want)
{
    double worst = 0;
    for (int i = 0; i < PAIRS; i++) {
        double ulp = (double)(nextafterf(want[i], INFINITY) - want[i]);
        worst = fmax(worst, fh1_error_of((double)got[i], (double)want[i]) / ulp);
    }
    return worst;
}

static double relative_error(const double *got, const float *want)
{
    double worst = 0;
    for (int i = 0; i < PAIRS; i++) worst = fmax(worst, fh1_error_of(got[i], (double)want[i]) / (double)want[i]);
    return worst;
}

/* One ulp of powf in another libm may become two after the reciprocal, four where llama3 blends. */
#define ALLOWED_ULPS 4.0
/* The exponent's rounding, times ln of the largest base (25), plus a few operations: below 2e-6. */
#define ALLOWED_F64 2e-6

START_TEST(frequencies_are_those_of_the_library)
{
    const witness *w = &witnesses[_i];
    fh1_config c = config_of(&w->rope);
    float f32[PAIRS];
    double f64[PAIRS], scale, scale32;
    fh1_rope_frequencies_f32(&c, w->seq_len, f32, &scale32);
    fh1_rope_frequencies(&c, w->seq_len, f64, &scale);
    ck_assert_msg(fh1_within(ulps_apart(f32, w->inv_freq), ALLOWED_ULPS), "%g ulps", ulps_apart(f32, w->inv_freq));
    ck_assert(fh1_within(relative_error(f64, w->inv_freq), ALLOWED_F64));
    ck_assert(fh1_within(fabs(scale - w->scale), 4e-16));
    ck_assert_double_eq(scale, scale32);
}
END_TEST

/* Wrong ways that ports have taken. Every one must fall out of the bounds above. */
START_TEST(wrong_frequencies_are_refused)
{
    const witness *w = &witnesses[0];
    fh1_config c = config_of(&w->rope);
    double f64[PAIRS], scale;
    float f32[PAIRS];

    c.rope.theta = 99857989632.0; /* 1e11 in bf16 */
    fh1_rope_frequencies(&c, 1, f64, &scale);
    fh1_rope_frequencies_f32(&c, 1, f32, &scale);
    ck_assert(!fh1_within(relative_error(f64, w->inv_freq), ALLOWED_F64));
    ck_assert(!fh1_within(ulps_apart(f32, w->inv_freq), ALLOWED_ULPS));

    c.rope.theta = 1e5; /* the class default of transformers 4.57 */
    fh1_rope_frequencies(&c, 1, f64, &scale);
    ck_assert(!fh1_within(relative_error(f64, w->inv_freq), ALLOWED_F64));

    c = config_of(&w->rope);
    c.A = A + 2; /* the exponent's denominator off by one pair */
    double wide[PAIRS + 1];
    fh1_rope_frequencies(&c, 1, wide, &scale);
    ck_assert(!fh1_within(relative_error(wide, w->inv_freq), ALLOWED_F64));

    for (size_t i = 0; i < sizeof witnesses / sizeof *witnesses; i++) { /* the type ignored */
        if (witnesses[i].rope.type == FH1_ROPE_DEFAULT || witnesses[i].seq_len == MAX_LENGTH) continue;
        c = config_of(&witnesses[i].rope);
        c.rope.type = FH1_ROPE_DEFAULT;
        fh1_rope_frequencies(&c, 1, f64, &scale);
        bool same = fh1_within(relative_error(f64, witnesses[i].inv_freq), ALLOWED_F64);
        ck_assert_msg(!same, "witness %zu", i);
    }
}
END_TEST

/* theta^(-2i/A) in long double, which the f64 form must hit to a few roundings. */
START_TEST(default_is_exact_in_f64)
{
    fh1_config c = small_config();
    c.A = 128;
    c.rope.theta = 1e11;
    double got[64], scale;
    fh1_rope_frequencies(&c, 1, got, &scale);
    for (int i = 0; i < 64; i++) {
        long double want = powl(1e11L, -(long double)(2 * i) / 128);
        double err = (double)fabsl((long double)got[i] / want - 1);
        ck_assert_msg(fh1_within(err, 1e-15), "pair %d: %g", i, err);
        double wrong = fabs(pow((double)(float)1e11, -(double)(2 * i) / 128) / got[i] - 1); /* 99 999 997 952 */
        ck_assert(i == 0 || !fh1_within(wrong, 1e-15));
    }
    ck_assert(fh1_within(fabs(got[63] - 1.4855e-11), 1e-15)); /* the slowest pair never moves */
    ck_assert_double_eq(scale, 1);
}
END_TEST

static void frequencies(const witness *w, int64_t seq_len, double *out)
{
    fh1_config c = config_of(&w->rope);
    double scale;
    fh1_rope_frequencies(&c, seq_len, out, &scale);
}

START_TEST(length_switches_where_it_should)
{
    double a[PAIRS], b[PAIRS];
    frequencies(&witnesses[2], 0, a); /* dynamic: nothing up to max_position_embeddings, growth after it */
    frequencies(&witnesses[2], MAX_LENGTH, b);
    ck_assert_mem_eq(a, b, sizeof a);
    frequencies(&witnesses[2], MAX_LENGTH + 1, b);
    ck_assert(b[0] == 1 && b[1] < a[1] && b[3] < a[3]);
    frequencies(&witnesses[2], 4 * MAX_LENGTH, a);
    ck_assert(a[3] < b[3]);

    frequencies(&witnesses[10], 0, a); /* longrope: the short list up to the original length */
    frequencies(&witnesses[10], 512, b);
    ck_assert_mem_eq(a, b, sizeof a);
    frequencies(&witnesses[10], 513, b);
    frequencies(&witnesses[10], 100000, a);
    ck_assert_mem_eq(a, b, sizeof a);
    for (int i = 0; i < PAIRS; i++) {
        frequencies(&witnesses[10], 512, a);
        ck_assert(fh1_within(fabs(a[i] / b[i] - long_list[i] / short_list[i]), 1e-13));
    }
}
END_TEST

/* yarn and llama3 leave the fastest pair alone and slow the slowest by the whole factor. */
START_TEST(bands_end_at_one_and_at_the_factor)
{
    static const int which[] = {5, 6, 7, 8, 9};
    for (size_t k = 0; k < sizeof which / sizeof *which; k++) {
        const witness *w = &witnesses[which[k]];
        fh1_config c = config_of(&w->rope);
        double got[PAIRS], plain[PAIRS], scale;
        fh1_rope_frequencies(&c, 1, got, &scale);
        c.rope.type = FH1_ROPE_DEFAULT;
        fh1_rope_frequencies(&c, 1, plain, &scale);
        ck_assert(fh1_within(fabs(got[0] / plain[0] - 1), 1e-15));
        ck_assert(fh1_within(fabs(plain[3] / got[3] - w->rope.factor), 1e-13));
        for (int i = 1; i < PAIRS; i++) {
            double slowed = plain[i] / got[i];
            ck_assert(slowed >= 1 && slowed <= w->rope.factor * (1 + 1e-14));
        }
    }
}
END_TEST

/* An absent factor is the ratio of the two lengths; a given attention_factor wins over the derived one. */
START_TEST(absent_fields_are_derived)
{
    fh1_config c = config_of(&witnesses[5].rope);
    double given[PAIRS], derived[PAIRS], scale, same;
    ck_assert_double_eq(c.rope.factor, MAX_LENGTH / 512.0);
    fh1_rope_frequencies(&c, 1, given, &scale);
    c.rope.factor = 0;
    fh1_rope_frequencies(&c, 1, derived, &same);
    ck_assert_mem_eq(given, derived, sizeof given);
    ck_assert_double_eq(scale, same);
    for (int type = FH1_ROPE_YARN; type <= FH1_ROPE_LONGROPE; type += FH1_ROPE_LONGROPE - FH1_ROPE_YARN) {
        c = config_of(&witnesses[type == FH1_ROPE_YARN ? 5 : 10].rope);
        c.rope.attention_factor = 1.5;
        fh1_rope_frequencies(&c, 1, derived, &scale);
        ck_assert_double_eq(scale, 1.5);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("rope_frequencies");
    tcase_add_loop_test(t, frequencies_are_those_of_the_library, 0, sizeof witnesses / sizeof *witnesses);
    tcase_add_test(t, wrong_frequencies_are_refused);
    tcase_add_test(t, default_is_exact_in_f64);
    tcase_add_test(t, length_switches_where_it_should);
    tcase_add_test(t, absent_fields_are_derived);
    tcase_add_test(t, bands_end_at_one_and_at_the_factor);
    Suite *s = suite_create("rope_frequencies");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
