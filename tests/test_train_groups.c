/* Which parameters are trained and how fast: patterns, kinds, µP groups, the rules of decay. */
#include "cli/train_groups.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

START_TEST(globs)
{
    static const struct {
        const char *pattern, *name;
        bool fits;
    } of[] = {
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"*", "model.norm", true},
        {"a*c", "abc", true},
        {"a*c", "ac", true},
        {"a*c", "acb", false},
        {"a*c", "acbc", true},
        {"*.mamba.*", "model.layers.0.mamba.in_proj.weight", true},
        {"*.mamba.*", "model.layers.0.mambo.in_proj.weight", false},
        {"*in_proj.weight", "model.layers.0.mamba.in_proj.weight", true},
        {"*in_proj.weight", "model.layers.0.mamba.in_proj.weights", false},
        {"model.layers.?.mamba.D", "model.layers.3.mamba.D", true},
        {"model.layers.?.mamba.D", "model.layers.13.mamba.D", false},
        {"*a*b*c*", "xxaxxbxxcxx", true},
        {"*a*b*c*", "xxaxxcxxbxx", false},
        {"**a", "a", true},
        {"a.b", "axb", false}, /* a point is a point */
        {"[a]", "a", false},
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        ck_assert_msg(cli_glob(of[i].pattern, of[i].name) == of[i].fits, "'%s' on '%s'", of[i].pattern, of[i].name);
    char pattern[64], name[4096]; /* a pattern for which backtracking over all stars would take for ever */
    for (int i = 0; i < 30; i++) memcpy(pattern + 2 * i, "*a", 2);
    memcpy(pattern + 60, "b", 2);
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    ck_assert(!cli_glob(pattern, name));
}
END_TEST

START_TEST(kinds)
{
    static const struct {
        const char *name, *kind;
        bool decays;
    } of[] = {
        {"model.embed_tokens.weight", "embed_tokens", true},
        {"lm_head.weight", "lm_head", true},
        {"model.layers.0.mamba.in_proj.weight", "in_proj", true},
        {"model.layers.0.mamba.in_proj.bias", "bias", false},
        {"model.layers.0.mamba.conv1d.weight", "conv1d", true},
        {"model.layers.0.mamba.conv1d.bias", "bias", false},
        {"model.layers.0.mamba.dt_bias", "dt_bias", false},
        {"model.layers.0.mamba.A_log", "A_log", true},
        {"backbone.embeddings.weight", "embed_tokens", true},
        {"backbone.layers.0.mixer.in_proj.weight", "in_proj", true},
        {"backbone.layers.0.mixer.x_proj.weight", "x_proj", true},
        {"backbone.layers.0.mixer.dt_proj.weight", "dt_proj", true},
        {"backbone.layers.0.mixer.dt_proj.bias", "dt_bias", false},
        {"backbone.layers.0.mixer.conv1d.bias", "bias", false},
        {"backbone.layers.0.mixer.A_log", "A_log", true},
        {"backbone.layers.0.norm.weight", "layernorm", false},
        {"backbone.norm_f.weight", "layernorm", true}, /* no pattern of the Trainer fits its name */
        {"model.layers.0.mamba.D", "D", true},
        {"model.layers.0.mamba.norm.weight", "norm", false},
        {"model.layers.0.mamba.out_proj.weight", "out_proj", true},
        {"model.layers.0.self_attn.q_proj.weight", "q_proj", true},
        {"model.layers.0.self_attn.k_proj.weight", "k_proj", true},
        {"model.layers.0.self_attn.v_proj.weight", "v_proj", true},
        {"model.layers.0.self_attn.v_proj.bias", "bias", false},
        {"model.layers.0.self_attn.o_proj.weight", "o_proj", true},
        {"model.layers.0.feed_forward.gate_proj.weight", "gate_proj", true},
        {"model.layers.0.feed_forward.up_proj.weight", "up_proj", true},
        {"model.layers.0.feed_forward.down_proj.weight", "down_proj", true},
        {"model.layers.0.input_layernorm.weight", "layernorm", false},
        {"model.layers.0.pre_ff_layernorm.weight", "layernorm", false},
        {"model.final_layernorm.weight", "layernorm", false},
        {"base_model.model.model.layers.0.mamba.in_proj.lora_A.weight", "lora_A", true},
        {"base_model.model.model.layers.0.mamba.in_proj.lora_B.weight", "lora_B", true},
        {"base_model.model.model.layers.0.mamba.in_proj.lora_B.bias", "bias", false},
        {"base_model.model.model.embed_tokens.lora_embedding_A", "lora_A", true},
        {"base_model.model.model.embed_tokens.lora_embedding_B", "lora_B", true},
    };
    bool seen[32] = {false};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        ck_assert_str_eq(cli_param_kind(of[i].name), of[i].kind);
        ck_assert_msg(cli_decays_in_hf(of[i].name) == of[i].decays, "%s", of[i].name);
        for (int k = 0; cli_param_kinds[k]; k++) seen[k] |= strcmp(cli_param_kinds[k], of[i].kind) == 0;
    }
    for (int k = 0; cli_param_kinds[k]; k++) ck_assert_msg(seen[k], "no parameter is a %s", cli_param_kinds[k]);
}
END_TEST

/* ---- groups ---- */

enum { N = 5 };
static double numbers[N];
static fh1_tensor values[N];
static fh1_param params[N];

/* Four parameters with gradients and a frozen one. */
static fh1_grads make_params(void)
{
    static const char *const names[N] = {"model.layers.1.mamba.A_log", "model.layers.1.mamba.in_proj.weight",
                                         "model.layers.0.mamba.A_log", "model.layers.0.mamba.in_proj.weight",
                                         "model.embed_tokens.weight"};
    for (int i = 0; i < N; i++) {
        values[i] = fh1_view1(&numbers[i], FH1_F64, 1);
        params[i] = (fh1_param){.value = &values[i], .grad = fh1_view1(i < 4 ? &numbers[i] : NULL, FH1_F64, 1)};
        snprintf(params[i].name, sizeof params[i].name, "%s", names[i]);
    }
    return (fh1_grads){.dtype = FH1_F64, .n = N, .params = params};
}

static char path[64];

static fh1_status read_groups(const char *text, cli_groups *out)
{
    snprintf(path, sizeof path, "/tmp/fh1-train-groups.%ld", (long)getpid());
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
    fh1_status s = cli_groups_read(path, out);
    unlink(path);
    return s;
}

START_TEST(the_first_group_counts)
{
    const fh1_grads g = make_params();
    cli_groups groups;
    cli_factors f[N];
    ck_assert_ptr_null(
        read_groups("{\"groups\":[{\"match\":\"*.1.mamba.A_log\",\"lr\":0.5,\"weight_decay\":0},"
                    "{\"kind\":\"A_log\",\"lr\":0.25},{\"kind\":\"in_proj\",\"match\":\"*.0.*\",\"lr\":2}]}",
                    &groups));
    ck_assert_int_eq(groups.n, 3);
    ck_assert_uint_eq(strlen(groups.hash), 32);
    ck_assert_ptr_null(cli_groups_apply(&groups, &g, f));
    static const cli_factors want[N] = {{0.5, 0}, {1, 1}, {0.25, 1}, {2, 1}, {1, 1}};
    for (int i = 0; i < N; i++) ck_assert(f[i].lr == want[i].lr && f[i].decay == want[i].decay);
    cli_groups_free(&groups);
    ck_assert_ptr_null(cli_groups_apply(&groups, &g, f)); /* none: all 1 */
    for (int i = 0; i < N; i++) ck_assert(f[i].lr == 1 && f[i].decay == 1);
}
END_TEST

static void idle(const char *text, const char *part)
{
    const fh1_grads g = make_params();
    cli_groups groups;
    cli_factors f[N];
    char line[2048];
    ck_assert_ptr_null(read_groups(text, &groups));
    fh1_status s = cli_groups_apply(&groups, &g, f);
    ck_assert_msg(s && s->code == FH1_E_INPUT && strstr(fh1_status_line(s, line, sizeof line), part), "%s: %s", text,
                  s ? line : "not refused");
    cli_groups_free(&groups);
}

START_TEST(a_group_must_fit_something)
{
    idle("{\"groups\":[{\"kind\":\"conv1d\",\"lr\":2}]}", "group 0 fits no parameter");
    idle("{\"groups\":[{\"kind\":\"A_log\"},{\"match\":\"*.0.mamba.A_log\"}]}",
         "group 1 fits no parameter that no earlier");
    idle("{\"groups\":[{\"kind\":\"embed_tokens\"}]}", "that is trained");
}
END_TEST

START_TEST(bad_files)
{
    static const struct {
        const char *text, *part;
    } of[] = {
        {"", ""},
        {"[]", "no groups"},
        {"{\"groups\":[]}", "no groups"},
        {"{\"groups\":{}}", "no groups"},
        {"{\"groups\":[1]}", "a group is an object"},
        {"{\"groups\":[{}]}", "a group needs"},
        {"{\"groups\":[{\"lr\":1}]}", "a group needs"},
        {"{\"groups\":[{\"kind\":\"in-proj\"}]}", "groups[0].kind: unknown kind"},
        {"{\"groups\":[{\"kind\":\"D\",\"lr\":-1}]}", "groups[0].lr"},
        {"{\"groups\":[{\"kind\":\"D\",\"lr\":\"1\"}]}", "groups[0].lr"},
        {"{\"groups\":[{\"kind\":\"D\",\"weight_decay\":-0.1}]}", "groups[0].weight_decay"},
        {"{\"groups\":[{\"kind\":\"D\",\"wd\":1}]}", "a key that nothing reads: 'wd'"},
        {"{\"groups\":[{\"kind\":\"D\"}],\"x\":1}", "a key that nothing reads: 'x'"},
        {"{\"groups\":[{\"match\":1}]}", "groups[0].match"},
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        cli_groups g;
        char line[2048];
        fh1_status s = read_groups(of[i].text, &g);
        ck_assert_msg(s && s->code == FH1_E_INPUT && strstr(fh1_status_line(s, line, sizeof line), of[i].part),
                      "%s: %s", of[i].text, s ? line : "not refused");
        ck_assert_ptr_null(g.groups);
    }
}
END_TEST

START_TEST(what_is_trained)
{
    const fh1_grads g = make_params();
    static const char *const two[] = {"*.A_log,*embed*", "*in_proj*"}, *const one[] = {"*.0.*"},
                             *const bad[] = {"*D,*.1.*"};
    const cli_globs none = {NULL, 0}, all = {two, 2}, some = {one, 1}, wrong = {bad, 1};
    ck_assert(cli_is_trained(&none, &none, params[0].name));
    ck_assert(cli_is_trained(&all, &none, params[4].name) && cli_is_trained(&all, &none, params[3].name));
    ck_assert(!cli_is_trained(&some, &none, params[0].name) && cli_is_trained(&some, &none, params[2].name));
    ck_assert(!cli_is_trained(&all, &some, params[2].name) && cli_is_trained(&all, &some, params[0].name));
    ck_assert_ptr_null(cli_globs_check("--train", &all, &g));
    fh1_status s = cli_globs_check("--freeze", &wrong, &g);
    ck_assert(s && s->code == FH1_E_INPUT && strstr(s->found, "'*D'"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train_groups");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, globs);
    tcase_add_test(tc, kinds);
    tcase_add_test(tc, the_first_group_counts);
    tcase_add_test(tc, a_group_must_fit_something);
    tcase_add_test(tc, bad_files);
    tcase_add_test(tc, what_is_trained);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
