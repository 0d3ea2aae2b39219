/* Parameters and FLOPs of a token by part: the released models' parameters as they are publicly counted, and FLOPs
 * against a machine that counts: every operation of docs/allocation.md is done by mul() and add(), which do. The
 * divisions of the report's search space. */
#include "cli/cost.h"
#include "cli/space.h"
#include "convert/hf_config.h"
#include "oracle/mup.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fine(fh1_status s)
{
    char line[2048];
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

START_TEST(released_parameters)
{
    static const struct {
        const char *name;
        double parameters;
    } of[] = {{"Falcon-H1-0.5B", 521411104},     {"Falcon-H1-1.5B", 1554863488}, {"Falcon-H1-1.5B-Deep", 1554874768},
              {"Falcon-H1-3B", 3149387264},      {"Falcon-H1-7B", 7585654880},   {"Falcon-H1-34B", 33642516224},
              {"Falcon-H1-Tiny-R-90M", 91131072}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        char path[256];
        fh1_config c;
        cli_count n;
        snprintf(path, sizeof path, "golden/configs/%s.json", of[i].name);
        fine(cvt_hf_config_read(path, &c));
        fine(cli_parameters_of(&c, &n));
        ck_assert_msg(n.total == of[i].parameters, "%s: %.0f", of[i].name, n.total);
        double sum = 0;
        for (int k = 0; k < CLI_N_PARTS; k++) sum += n.parts[k];
        ck_assert(sum == n.total);
        ck_assert((n.parts[CLI_HEAD] == 0) == c.tied);
        ck_assert(n.parts[CLI_EMBEDDING] == (double)(c.V * c.D));
    }
}
END_TEST

/* The released falcon-mamba-7b: 7,272,665,088 parameters. */
START_TEST(falcon_mamba_7b)
{
    static const char config[] =
        "{\"model_type\": \"falcon_mamba\", \"hidden_size\": 4096, \"intermediate_size\": 8192, \"num_hidden_layers\": "
        "64, "
        "\"vocab_size\": 65024, \"state_size\": 16, \"conv_kernel\": 4, \"time_step_rank\": 256, \"expand\": 16, "
        "\"layer_norm_epsilon\": 1e-05, \"residual_in_fp32\": true, \"hidden_act\": \"silu\", \"use_bias\": false, "
        "\"use_conv_bias\": true, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}";
    cJSON *json;
    fh1_config c;
    cli_count n;
    fine(cvt_json_parse(config, sizeof config - 1, 4, "config", &json));
    fine(cvt_hf_config_parse(json, "config", &c));
    cJSON_Delete(json);
    fine(cli_parameters_of(&c, &n));
    ck_assert_msg(n.total == 7272665088.0, "%.0f", n.total);
    ck_assert(n.parts[CLI_NORMS] == 65.0 * 4096 && n.parts[CLI_HEAD] == 65024.0 * 4096);
    ck_assert(n.parts[CLI_ATTENTION] == 0 && n.parts[CLI_MLP] == 0);
    const cli_count here = cli_flops_of(&c, 1), far = cli_flops_of(&c, 1e6);
    ck_assert(here.total == far.total && here.parts[CLI_ATTENTION] == 0 && here.parts[CLI_MLP] == 0);
}
END_TEST

/* ---- the counting machine ---- */

static double operations;

static double mul(double a, double b)
{
    operations++;
    return a * b;
}

static double add(double a, double b)
{
    operations++;
    return a + b;
}

/* Numbers do not matter; sums start at zero. */
static void linear(int64_t out, int64_t in, bool bias)
{
    for (int64_t o = 0; o < out; o++) {
        double y = 0;
        for (int64_t i = 0; i < in; i++) y = add(y, mul(1, 2));
        if (bias) y = add(y, 1);
    }
}

static void rms_norm(int64_t n, bool weight)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum = add(sum, mul(1, 1));
    for (int64_t i = 0; i < n; i++) {
        const double u = mul(1, sum);
        if (weight) mul(u, 1);
    }
}

static void conv(const fh1_config *c)
{
    for (int64_t j = 0; j < fh1_conv_dim(c); j++) {
        double y = 0;
        for (int64_t k = 0; k < c->K; k++) y = add(y, mul(1, 1));
        if (c->mamba_conv_bias) add(y, 1);
    }
}

/* The recurrence of channel after channel, then D·x and the gate. */
static void scan(const fh1_config *c)
{
    for (int64_t i = 0; i < c->d_ssm; i++) {
        const double dx = mul(1, 1);
        double y = 0;
        for (int64_t n = 0; n < c->N; n++) {
            const double S = add(mul(0.5, 1), mul(dx, 1));
            y = add(y, mul(S, 1));
        }
        y = add(y, mul(1, 1));
        mul(y, 1);
    }
}

static void layer_of_mamba(const fh1_config *c)
{
    rms_norm(c->D, true);
    linear(2 * c->d_ssm, c->D, c->mamba_proj_bias);
    conv(c);
    linear(c->R + 2 * c->N, c->d_ssm, false);
    rms_norm(c->R, false);
    rms_norm(c->N, false);
    rms_norm(c->N, false);
    linear(c->d_ssm, c->R, true);
    for (int64_t i = 0; i < c->d_ssm * c->N; i++) mul(1, 1); /* Δ·A */
    scan(c);
    linear(c->D, c->d_ssm, c->projectors_bias);
}

static void mixer(const fh1_config *c)
{
    linear(2 * c->d_ssm + 2 * c->G * c->N + c->H, c->D, c->mamba_proj_bias);
    conv(c);
    for (int64_t h = 0; h < c->H; h++) mul(1, 1); /* Δ·A */
    scan(c);
    if (c->mamba_rms_norm) rms_norm(c->d_ssm, true);
    linear(c->D, c->d_ssm, c->projectors_bias);
}

static void attention(const fh1_config *c, int64_t context)
{
    linear(c->Hq * c->A, c->D, c->attention_bias);
    for (int kv = 0; kv < 2; kv++) linear(c->Hkv * c->A, c->D, c->attention_bias);
    for (int64_t i = 0; i < (c->Hq + c->Hkv) * c->A; i++) add(mul(1, 1), mul(1, 1)); /* x·cos + rot(x)·sin */
    for (int64_t h = 0; h < c->Hq; h++) {
        linear(context, c->A, false); /* scores */
        linear(c->A, context, false); /* weighted values */
    }
    linear(c->D, c->Hq * c->A, c->attention_bias);
}

static void mlp(const fh1_config *c)
{
    linear(c->F, c->D, c->mlp_bias);
    linear(c->F, c->D, c->mlp_bias);
    for (int64_t i = 0; i < c->F; i++) mul(1, 1);
    linear(c->D, c->F, c->mlp_bias);
}

/* What `run` adds, L times. */
static double counted(const fh1_config *c, void (*run)(const fh1_config *))
{
    operations = 0;
    run(c);
    return (double)c->n_layers * operations;
}

static int64_t seen; /* by attention */

static void attention_of_seen(const fh1_config *c)
{
    attention(c, seen);
}

static const fh1_config shapes[] = {
    {.n_layers = 3,
     .D = 12,
     .V = 29,
     .F = 14,
     .Hq = 4,
     .Hkv = 2,
     .A = 6,
     .H = 6,
     .P = 3,
     .N = 5,
     .G = 2,
     .K = 4,
     .d_ssm = 18,
     .attention_bias = true,
     .mlp_bias = true,
     .mamba_proj_bias = true,
     .projectors_bias = true,
     .mamba_conv_bias = true,
     .mamba_rms_norm = true},
    {.n_layers = 2,
     .D = 10,
     .V = 31,
     .F = 7,
     .Hq = 3,
     .Hkv = 1,
     .A = 4,
     .H = 2,
     .P = 8,
     .N = 9,
     .G = 1,
     .K = 2,
     .d_ssm = 16,
     .tied = true},
    {.family = FH1_FALCON_MAMBA,
     .n_layers = 4,
     .D = 9,
     .V = 23,
     .H = 20,
     .P = 1,
     .N = 3,
     .G = 1,
     .K = 3,
     .d_ssm = 20,
     .R = 5,
     .mamba_proj_bias = true,
     .projectors_bias = true,
     .mamba_conv_bias = true},
    {.family = FH1_FALCON_MAMBA,
     .n_layers = 1,
     .D = 8,
     .V = 5,
     .H = 16,
     .P = 1,
     .N = 4,
     .G = 1,
     .K = 4,
     .d_ssm = 16,
     .R = 1},
};

START_TEST(flops_are_counted)
{
    static const int norms[] = {[FH1_BLOCK_SA_M] = 2, [FH1_BLOCK_SAM] = 1, [FH1_BLOCK_S_A_M] = 3};
    for (int k = 0; k < 12; k++) {
        fh1_config c = shapes[k / 3];
        if (c.family == FH1_FALCON_H1) c.block = (fh1_block)(k % 3);
        seen = 1 + 13 * (k % 2);
        const cli_count got = cli_flops_of(&c, (double)seen);
        double want[CLI_N_PARTS] = {0}, total = 0;
        operations = 0;
        rms_norm(c.D, true);
        const double one_norm = operations;
        operations = 0;
        linear(c.V, c.D, false);
        want[CLI_HEAD] = operations;
        if (c.family == FH1_FALCON_H1) {
            want[CLI_MIXER] = counted(&c, mixer);
            want[CLI_ATTENTION] = counted(&c, attention_of_seen);
            want[CLI_MLP] = counted(&c, mlp);
            want[CLI_NORMS] = one_norm * (double)(norms[c.block] * c.n_layers + 1);
        } else {
            want[CLI_NORMS] = one_norm * (double)(c.n_layers + 1);
            want[CLI_MIXER] = counted(&c, layer_of_mamba) - one_norm * (double)c.n_layers;
        }
        for (int i = 0; i < CLI_N_PARTS; i++) {
            ck_assert_msg(got.parts[i] == want[i], "case %d, %s: %.0f, counted %.0f", k, cli_part_name(i), got.parts[i],
                          want[i]);
            total += want[i];
        }
        ck_assert(got.total == total);
    }
}
END_TEST

/* By hand: the 0.5B, D 1024, 36 layers, at a context of 1000. in_proj 2·1024·3352, conv 1792·(2·4 + 1), scan
 * 1536·(5·128 + 4) + 24, out_proj 2·1536·1024; no norm. q, k, v, o 2·1024·(512 + 128 + 128 + 512), rotations 3·640,
 * scores and values 4·512·1000. MLP 6·1024·2048 + 2048. */
START_TEST(the_half_billion_by_hand)
{
    fh1_config c;
    fine(cvt_hf_config_read("golden/configs/Falcon-H1-0.5B.json", &c));
    const cli_count k = cli_flops_of(&c, 1000);
    ck_assert(k.parts[CLI_MIXER] == 36.0 * (6864896 + 16128 + 989208 + 3145728));
    ck_assert(k.parts[CLI_ATTENTION] == 36.0 * (2621440 + 1920 + 2048000));
    ck_assert(k.parts[CLI_MLP] == 36.0 * (12582912 + 2048));
    ck_assert(k.parts[CLI_NORMS] == 73.0 * 4096 && k.parts[CLI_HEAD] == 2.0 * 1024 * 32784);
}
END_TEST

/* ---- the search space ---- */

static fh1_config divided(const char *base, cli_space p)
{
    fh1_config c;
    char *text;
    size_t n;
    fine(cli_space_config(base, &p, &text, &n, &c));
    free(text);
    return c;
}

START_TEST(the_space_of_the_report)
{
    static const int64_t widths[] = {1280, 40, 80, 120, 2560, 1000};
    cli_fractions all[CLI_N_FRACTIONS];
    bool seen_once[7][7] = {{false}};
    cli_fractions_all(all);
    for (int i = 0; i < CLI_N_FRACTIONS; i++) {
        ck_assert(all[i].s >= 1 && all[i].a >= 1 && all[i].m >= 1 && all[i].s + all[i].a + all[i].m == 8);
        ck_assert(!seen_once[all[i].s][all[i].a]);
        seen_once[all[i].s][all[i].a] = true;
        for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
            const int64_t D = widths[k];
            const fh1_config c = divided(NULL, (cli_space){.f = all[i], .D = D});
            ck_assert_int_eq(1280 * c.d_ssm, D * 512 * all[i].s);
            ck_assert_int_eq(1280 * c.Hq * c.A, D * 768 * all[i].a);
            ck_assert_int_eq(1280 * c.F, D * 608 * all[i].m);
            ck_assert(c.H * c.P == c.d_ssm && c.Hq % c.Hkv == 0 && c.A % 2 == 0);
            const fh1_mup_widths w = fh1_mup_widths_of(&c);
            double law[FH1_N_MULTIPLIERS], value[FH1_N_MULTIPLIERS];
            fh1_mup_law(&w, law);
            fh1_multipliers_of(&c, value);
            for (int m = 0; m < FH1_N_MULTIPLIERS; m++) ck_assert(law[m] == value[m]);
        }
    }
    const fh1_config c = divided(NULL, (cli_space){.f = {2, 1, 5}}); /* the division that was adopted */
    ck_assert(c.D == 1280 && c.n_layers == 60 && c.d_ssm == 1024 && c.P == 64 && c.Hq == 6 && c.A == 128 &&
              c.F == 3040);
}
END_TEST

/* Blocks have one, two or three norms a layer, and otherwise the same tensors. */
START_TEST(blocks_differ_in_norms)
{
    double norms[3];
    for (int b = 0; b < 3; b++) {
        const fh1_config c = divided(
            NULL, (cli_space){
                      .has_block = true, .block = (fh1_block)b, .f = {2, 1, 5}, .D = 40, .layers = 3, .N = 8, .V = 64});
        ck_assert(c.block == (fh1_block)b && c.n_layers == 3 && c.N == 8 && c.V == 64);
        cli_count n;
        fine(cli_parameters_of(&c, &n));
        norms[b] = n.parts[CLI_NORMS];
        ck_assert(n.parts[CLI_MLP] == 3.0 * 3 * 40 * 95);
    }
    ck_assert(norms[FH1_BLOCK_SAM] == 40 * 4 && norms[FH1_BLOCK_SA_M] == 40 * 7 && norms[FH1_BLOCK_S_A_M] == 40 * 10);
}
END_TEST

/* Another base: its heads where they fit, its depth, its types. */
START_TEST(other_bases)
{
    const cli_space p = {.has_block = true, .block = FH1_BLOCK_SAM, .f = {3, 1, 4}};
    fh1_config c = divided("golden/configs/Falcon-H1-34B.json", p); /* 5120; 4 groups of kv heads, 2 of the mixer */
    ck_assert(c.D == 5120 && c.n_layers == 72 && c.d_ssm == 3 * 2048 && c.P == 128 && c.G == 2 && c.A == 128);
    ck_assert(c.Hq * c.A == 3072 && c.Hkv == 4 && c.F == 4 * 2432 && c.block == FH1_BLOCK_SAM);
    c = divided("golden/configs/Falcon-H1-34B.json", (cli_space){.has_block = true, .block = FH1_BLOCK_S_A_M});
    ck_assert(c.block == FH1_BLOCK_S_A_M && c.d_ssm == 4096 && c.F == 21504 && c.m_key < 0.0111); /* nothing else */
}
END_TEST

static void refused(const char *text, const char *why)
{
    cli_fractions f;
    char line[2048];
    fh1_status s = cli_fractions_read(text, &f);
    ck_assert_msg(s && s->code == FH1_E_INPUT, "'%s' is taken", text);
    fh1_status_line(s, line, sizeof line);
    ck_assert_msg(strstr(line, why) != NULL, "'%s': %s", text, line);
}

START_TEST(what_is_refused)
{
    fh1_config c;
    char *text = NULL;
    size_t n;
    refused("2,1,4", "2 + 1 + 4 = 7");
    refused("3,3,3", "= 9");
    refused("0,2,6", "mixer");
    refused("2,0,6", "attention");
    refused("7,1,0", "MLP");
    const char *const no_numbers[] = {"",      "2,1",  "2,1,5,", "2,1,5,0", "2;1;5",
                                      "a,b,c", "2,1,", ",,",     "2, 1,5",  "-1,4,5"};
    for (size_t i = 0; i < sizeof no_numbers / sizeof *no_numbers; i++) refused(no_numbers[i], "--fractions");
    cli_space p = {.f = {2, 1, 5}, .D = 1000 + 1};
    fh1_status s = cli_space_config(NULL, &p, &text, &n, &c);
    ck_assert(s && s->code == FH1_E_INPUT && strstr(s->expected, "multiple of 40") && !text);
    s = cli_space_config("golden/configs/none.json", &p, &text, &n, &c);
    ck_assert(s && s->code == FH1_E_INPUT && !text);
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("cost");
    tcase_add_test(c, released_parameters);
    tcase_add_test(c, falcon_mamba_7b);
    tcase_add_test(c, flops_are_counted);
    tcase_add_test(c, the_half_billion_by_hand);
    tcase_add_test(c, the_space_of_the_report);
    tcase_add_test(c, blocks_differ_in_norms);
    tcase_add_test(c, other_bases);
    tcase_add_test(c, what_is_refused);
    Suite *s = suite_create("cost");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
