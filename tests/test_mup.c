/* The µP width law: the released models follow it to the last bits, the Tiny ones do not, and laws that are nearly
 * right are told apart by the released models. Rounded values are told from wrong ones. Other widths of a model. */
#include "cli/mup_widths.h"
#include "convert/hf_config.h"
#include "oracle/round.h"

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const released[] = {"Falcon-H1-0.5B", "Falcon-H1-1.5B", "Falcon-H1-1.5B-Deep", "Falcon-H1-3B",
                                       "Falcon-H1-7B",   "Falcon-H1R-7B",  "Falcon-H1-34B"};
enum { N_RELEASED = sizeof released / sizeof *released };

static void fine(fh1_status s)
{
    char line[2048];
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

static fh1_config config_of(const char *name)
{
    char path[256];
    fh1_config c;
    snprintf(path, sizeof path, "golden/configs/%s.json", name);
    fine(cvt_hf_config_read(path, &c));
    return c;
}

static fh1_mup_finding finding(const fh1_config *c, const double law[FH1_N_MULTIPLIERS], int i)
{
    double value[FH1_N_MULTIPLIERS];
    fh1_multipliers_of(c, value);
    return fh1_mup_judge(law[i], value[i]);
}

START_TEST(released_models_follow)
{
    double worst = 0;
    for (int k = 0; k < N_RELEASED; k++) {
        const fh1_config c = config_of(released[k]);
        const fh1_mup_widths w = fh1_mup_widths_of(&c);
        double law[FH1_N_MULTIPLIERS];
        fh1_mup_law(&w, law);
        for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
            const fh1_mup_finding f = finding(&c, law, i);
            ck_assert_msg(f.verdict == FH1_MUP_FOLLOWS, "%s: %s is off by %g", released[k], fh1_multiplier_name(i),
                          f.relative);
            worst = fmax(worst, fabs(f.relative));
        }
    }
    printf("  largest difference from the law: %.1f ulps of 1\n", worst / DBL_EPSILON);
}
END_TEST

/* The names are keys of config.json: moving one moves the value of this name. */
START_TEST(names_and_values_belong_together)
{
    const fh1_config c = config_of("Falcon-H1-7B");
    double v[FH1_N_MULTIPLIERS], before[FH1_N_MULTIPLIERS];
    fh1_multipliers_of(&c, before);
    FILE *f = fopen("golden/configs/Falcon-H1-7B.json", "r");
    ck_assert(f);
    static char text[8192];
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
        char key[64];
        cJSON *json, *at;
        snprintf(key, sizeof key, "%s", fh1_multiplier_name(i));
        char *bracket = strchr(key, '[');
        const int place = bracket ? atoi(bracket + 1) : -1;
        if (bracket) *bracket = '\0';
        fine(cvt_json_parse(text, strlen(text), 8, "7B", &json));
        at = cJSON_GetObjectItemCaseSensitive(json, key);
        if (place >= 0) at = cJSON_GetArrayItem(at, place);
        ck_assert_msg(at != NULL, "%s is no key", fh1_multiplier_name(i));
        cJSON_SetNumberHelper(at, 7.5);
        fh1_config moved;
        fine(cvt_hf_config_parse(json, "7B", &moved));
        fh1_multipliers_of(&moved, v);
        for (int k = 0; k < FH1_N_MULTIPLIERS; k++)
            ck_assert_msg(v[k] == (k == i ? 7.5 : before[k]), "%s moves %s", fh1_multiplier_name(i),
                          fh1_multiplier_name(k));
        cJSON_Delete(json);
    }
}
END_TEST

/* Each wrong law is a right one for the base, and is caught by another released model. */
START_TEST(wrong_laws_are_caught)
{
    static const char *const name[] = {"key grows with the width once",
                                       "key does not know head_dim",
                                       "attention_out knows the width only",
                                       "ssm_out goes with the width",
                                       "down without the width",
                                       "down without the MLP's width",
                                       "B does not know the state",
                                       "gate with the root of the width",
                                       "lm_head with the root of the width",
                                       "ssm_in constant"};
    for (int fault = 0; fault < 10; fault++) {
        bool caught = false, base = true;
        for (int k = 0; k < N_RELEASED; k++) {
            const fh1_config c = config_of(released[k]);
            const fh1_mup_widths w = fh1_mup_widths_of(&c);
            double law[FH1_N_MULTIPLIERS];
            const double by = 1280.0 / (double)w.D;
            fh1_mup_law(&w, law);
            switch (fault) {
            case 0: law[2] /= by; break;
            case 1: law[2] *= sqrt((double)w.A / 128); break;
            case 2: law[4] *= (double)w.attention / 768; break;
            case 3: law[6] *= (double)w.d_ssm / 1536 * by; break;
            case 4: law[8] /= by; break;
            case 5: law[8] *= (double)w.F / 3072; break;
            case 6: law[11] *= (double)w.N / 256; break;
            case 7: law[7] /= sqrt(by); break;
            case 8: law[1] /= sqrt(by); break;
            default: law[5] /= by; break;
            }
            for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
                const bool wrong = finding(&c, law, i).verdict == FH1_MUP_DEVIATES;
                caught |= wrong;
                if (strcmp(released[k], "Falcon-H1-1.5B-Deep") == 0) base &= !wrong;
            }
        }
        ck_assert_msg(base, "%s: the base is no base", name[fault]);
        ck_assert_msg(caught, "%s: not noticed", name[fault]);
    }
}
END_TEST

START_TEST(tiny_follows_in_its_head_only)
{
    static const char *const tiny[] = {"Falcon-H1-Tiny-90M-Instruct", "Falcon-H1-Tiny-R-90M"};
    for (int k = 0; k < 2; k++) {
        const fh1_config c = config_of(tiny[k]);
        const fh1_mup_widths w = fh1_mup_widths_of(&c);
        double law[FH1_N_MULTIPLIERS];
        fh1_mup_law(&w, law);
        for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
            const bool follows = i == 1 || i == 3; /* lm_head, and attention_in, which is 1 everywhere */
            ck_assert_msg((finding(&c, law, i).verdict == FH1_MUP_FOLLOWS) == follows, "%s: %s", tiny[k],
                          fh1_multiplier_name(i));
        }
    }
}
END_TEST

/* Values of the law at many widths, rounded in each way; and moved by as little as a rounding to bf16 moves. */
START_TEST(roundings_are_named)
{
    static const struct {
        fh1_round type;
        const char *name;
    } types[] = {{FH1_ROUND_F32, "f32"}, {FH1_ROUND_BF16, "bf16"}, {FH1_ROUND_F16, "f16"}};
    int seen = 0;
    for (int64_t D = 640; D <= 6400; D += 320) {
        const fh1_mup_widths w = {.D = D, .attention = 768, .d_ssm = 1472, .F = 3000, .A = 96, .N = 192};
        double law[FH1_N_MULTIPLIERS];
        fh1_mup_law(&w, law);
        for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
            const double v = law[i];
            ck_assert_int_eq(fh1_mup_judge(v, nextafter(v, 9)).verdict, FH1_MUP_FOLLOWS);
            ck_assert_int_eq(fh1_mup_judge(v, nextafter(v, 0)).verdict, FH1_MUP_FOLLOWS);
            for (int t = 0; t < 3; t++) {
                const double r = fh1_round_f64(types[t].type, v);
                const fh1_mup_finding f = fh1_mup_judge(v, r);
                ck_assert_int_ne(f.verdict, FH1_MUP_DEVIATES);
                if (f.verdict != FH1_MUP_ROUNDED) continue; /* the law is such a number */
                seen++;
                /* bf16 numbers are f16 and f32 numbers too: the first that fits is named */
                ck_assert_msg(fabs(f.relative) <= 0x1p-8 && fabs(r / v - 1 - f.relative) < 1e-15, "%s %g",
                              types[t].name, f.relative);
                ck_assert_msg(strcmp(f.rounded, types[t].name) == 0 || fh1_round_f64(types[0].type, v) == r ||
                                  fh1_round_f64(types[1].type, v) == r,
                              "%s is called %s", types[t].name, f.rounded);
            }
            for (int digits = 3; digits <= 15; digits++) {
                char text[40];
                snprintf(text, sizeof text, "%.*g", digits, v);
                ck_assert_int_ne(fh1_mup_judge(v, strtod(text, NULL)).verdict, FH1_MUP_DEVIATES);
            }
            const double off = v * (1 + 0x1.23456p-9);
            ck_assert_msg(fh1_mup_judge(v, off).verdict == FH1_MUP_DEVIATES, "%s at %d: %g passes for %g",
                          fh1_multiplier_name(i), (int)D, off, v);
            ck_assert_int_eq(fh1_mup_judge(v, -v).verdict, FH1_MUP_DEVIATES);
            ck_assert_int_eq(fh1_mup_judge(v, 0).verdict, FH1_MUP_DEVIATES);
        }
    }
    ck_assert_int_gt(seen, 300);
    const fh1_mup_finding five = fh1_mup_judge(0.17677669529663687, 0.17678), two = fh1_mup_judge(0.1767766, 0.18);
    ck_assert_str_eq(five.rounded, "5 digits");
    ck_assert_int_eq(two.verdict, FH1_MUP_DEVIATES); /* two digits are no rounding of a multiplier */
}
END_TEST

static fh1_status plan(const fh1_config *c, int64_t D, const char *attention, const char *d_ssm, const char *mlp,
                       cli_mup_plan *out)
{
    cli_mup_list other[CLI_MUP_OTHERS] = {
        [CLI_MUP_ATTENTION] = {.option = "--attention-width", .text = attention},
        [CLI_MUP_D_SSM] = {.option = "--d-ssm", .text = d_ssm},
        [CLI_MUP_MLP] = {.option = "--mlp-width", .text = mlp},
        [CLI_MUP_HEAD] = {.option = "--head-dim"},
        [CLI_MUP_STATE] = {.option = "--state"},
    };
    for (int k = 0; k < CLI_MUP_OTHERS; k++) fine(cli_mup_list_read(&other[k]));
    return cli_mup_plan_at(c, D, other, 0, out);
}

START_TEST(other_widths)
{
    const fh1_config c = config_of("Falcon-H1-34B"); /* 5120: 20/4 heads of 128, 32 of 128 in 2 groups, MLP 21504 */
    cli_mup_plan p;
    fine(plan(&c, 5120, NULL, NULL, NULL, &p));
    ck_assert(p.w.attention == 2560 && p.w.d_ssm == 4096 && p.w.F == 21504 && p.w.A == 128 && p.w.N == 256);
    fine(plan(&c, 2048, NULL, NULL, NULL, &p)); /* 8 heads; 12.8 of which 2 groups share; 8601.6 */
    ck_assert(p.Hq == 8 && p.w.attention == 1024 && p.H == 12 && p.w.d_ssm == 1536 && p.w.F == 8602);
    fine(plan(&c, 1, NULL, NULL, NULL, &p));
    ck_assert(p.Hq == 4 && p.H == 2 && p.w.F == 4);
    fine(plan(&c, 2048, "1536", "2048", "5000", &p));
    ck_assert(p.w.attention == 1536 && p.w.d_ssm == 2048 && p.w.F == 5000 && p.given[CLI_MUP_MLP]);
    fh1_status s = plan(&c, 2048, "1500", NULL, NULL, &p);
    ck_assert(s && s->code == FH1_E_INPUT && strstr(s->what, "--attention-width") && strstr(s->hint, "1536"));
    s = plan(&c, 2048, NULL, "2000", NULL, &p);
    ck_assert(s && s->code == FH1_E_INPUT && strstr(s->what, "--d-ssm") && strstr(s->expected, "256"));
    s = plan(&c, INT64_C(1) << 31, NULL, NULL, NULL, &p);
    ck_assert(s && s->code == FH1_E_INPUT && strstr(s->what, "too wide"));
}
END_TEST

START_TEST(lists)
{
    static const char *const bad[] = {"", ",", "1,", ",1", "1,,2", "0", "-5", "1.5", "1e3", "x", "2147483649", "1 2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cli_mup_list l = {.option = "--width", .text = bad[i]};
        fh1_status s = cli_mup_list_read(&l);
        ck_assert_msg(s && s->code == FH1_E_INPUT && strstr(s->what, "--width"), "'%s'", bad[i]);
    }
    cli_mup_list l = {.option = "--width", .text = "64,2147483648,1"};
    fine(cli_mup_list_read(&l));
    ck_assert(l.n == 3 && l.v[0] == 64 && l.v[1] == 2147483648 && l.v[2] == 1);
    char many[3 * CLI_MUP_MOST + 8] = "1";
    for (int i = 0; i < CLI_MUP_MOST; i++) strcat(many, ",1");
    l.text = many;
    fh1_status s = cli_mup_list_read(&l);
    ck_assert(s && s->code == FH1_E_INPUT);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("mup");
    tcase_add_test(c, released_models_follow);
    tcase_add_test(c, names_and_values_belong_together);
    tcase_add_test(c, wrong_laws_are_caught);
    tcase_add_test(c, tiny_follows_in_its_head_only);
    tcase_add_test(c, roundings_are_named);
    tcase_add_test(c, other_widths);
    tcase_add_test(c, lists);
    Suite *s = suite_create("mup");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
