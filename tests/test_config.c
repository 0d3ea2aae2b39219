/* Every rule of fh1_config_check, one broken config per rule; the unbroken ones beside them pass, so a
 * check that refuses everything fails here too. */
#include "oracle/config.h"
#include "tests/small_config.h"

#include <check.h>
#include <stdlib.h>

static fh1_config scaled(fh1_rope_type type)
{
    fh1_config c = small_config();
    fh1_rope *r = &c.rope;
    r->type = type;
    if (type != FH1_ROPE_DEFAULT) r->factor = 4;
    if (type == FH1_ROPE_YARN || type == FH1_ROPE_LLAMA3 || type == FH1_ROPE_LONGROPE) r->original_max_position = 512;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->low_freq_factor = 1;
    r->high_freq_factor = 4;
    return c;
}

static const double ones[512] = {1, 1, 1, 1};

static fh1_config longrope(void)
{
    fh1_config c = scaled(FH1_ROPE_LONGROPE);
    c.rope.long_factor = c.rope.short_factor = ones;
    return c;
}

START_TEST(good_configs_pass)
{
    for (int type = FH1_ROPE_DEFAULT; type <= FH1_ROPE_LONGROPE; type++) {
        fh1_config c = type == FH1_ROPE_LONGROPE ? longrope() : scaled((fh1_rope_type)type);
        fh1_status s = fh1_config_check(&c);
        ck_assert_msg(!s, "%s: %s", fh1_rope_type_name((fh1_rope_type)type), s ? s->what : "");
    }
    fh1_config c = small_config();
    c.K = 1;     /* a convolution of one tap has no window */
    c.m_key = 0; /* legal, if odd */
    c.dt_lo = c.dt_hi = 0.1;
    ck_assert(!fh1_config_check(&c));
}
END_TEST

START_TEST(widths_are_those_of_the_checkpoint)
{
    fh1_config c = small_config();
    ck_assert_int_eq(fh1_conv_dim(&c), 12 + 2 * 2 * 5);
    ck_assert_int_eq(fh1_in_proj_dim(&c), 2 * 12 + 2 * 2 * 5 + 4);
}
END_TEST

typedef struct {
    const char *key;    /* that the message must name */
    fh1_rope_type type; /* of the config that is broken */
    void (*spoil)(fh1_config *c);
} rule;

#define RULE(fn, statement)       \
    static void fn(fh1_config *c) \
    {                             \
        statement;                \
    }

RULE(no_layers, c->n_layers = 0)
RULE(negative_width, c->D = -1)
RULE(huge_vocabulary, c->V = (INT64_C(1) << 31) + 1)
RULE(no_heads, c->Hq = 0)
RULE(no_chunk, c->Q = 0)
RULE(wide_conv, c->K = 65)
RULE(odd_head, c->A = 7)
RULE(uneven_sharing, c->Hkv = 4)
RULE(uneven_groups, c->G = 3)
RULE(other_width, c->d_ssm = 13)
RULE(large_table, (c->V = INT64_C(1) << 30, c->D = INT64_C(1) << 30))
RULE(large_mlp, (c->F = INT64_C(1) << 31, c->D = INT64_C(1) << 18))
RULE(large_state, (c->H = INT64_C(1) << 20, c->P = INT64_C(1) << 20, c->N = INT64_C(1) << 20))
RULE(nan_multiplier, c->m_down = (double)NAN)
RULE(infinite_multiplier, c->m_ssm[3] = (double)INFINITY)
RULE(zero_eps, c->eps = 0)
RULE(nan_eps, c->eps = (double)NAN)
RULE(negative_limit, c->dt_lo = -0.1)
RULE(infinite_lower_limit, c->dt_lo = (double)INFINITY)
RULE(crossed_limits, (c->dt_lo = 0.2, c->dt_hi = 0.1))
RULE(nan_limit, c->dt_hi = (double)NAN)
RULE(zero_upper_limit, c->dt_hi = 0)
RULE(zero_theta, c->rope.theta = 0)
RULE(infinite_theta, c->rope.theta = (double)INFINITY)
RULE(no_factor, c->rope.factor = 0)
RULE(no_length, c->rope.max_position = 0)
RULE(one_pair, (c->A = 2, c->rope.type = FH1_ROPE_DYNAMIC))
RULE(no_original, c->rope.original_max_position = 0)
RULE(no_beta, c->rope.beta_fast = 0)
RULE(theta_of_one, c->rope.theta = 1)
RULE(crossed_bands, c->rope.high_freq_factor = c->rope.low_freq_factor)
RULE(no_ratio, (c->rope.factor = 0, c->rope.max_position = 0))
RULE(negative_scale, c->rope.attention_factor = -1)
RULE(no_list, c->rope.long_factor = NULL)
RULE(zero_in_list, c->A = 12) /* the list holds four ones, then zeros */
RULE(wide_head, c->A = 1026)

static const rule rules[] = {
    {"num_hidden_layers", FH1_ROPE_DEFAULT, no_layers},
    {"hidden_size", FH1_ROPE_DEFAULT, negative_width},
    {"vocab_size", FH1_ROPE_DEFAULT, huge_vocabulary},
    {"num_attention_heads", FH1_ROPE_DEFAULT, no_heads},
    {"mamba_chunk_size", FH1_ROPE_DEFAULT, no_chunk},
    {"mamba_d_conv", FH1_ROPE_DEFAULT, wide_conv},
    {"head_dim", FH1_ROPE_DEFAULT, odd_head},
    {"num_attention_heads", FH1_ROPE_DEFAULT, uneven_sharing},
    {"mamba_n_heads", FH1_ROPE_DEFAULT, uneven_groups},
    {"mamba_d_ssm", FH1_ROPE_DEFAULT, other_width},
    {"vocab_size * hidden_size", FH1_ROPE_DEFAULT, large_table},
    {"intermediate_size * hidden_size", FH1_ROPE_DEFAULT, large_mlp},
    {"mamba_n_heads * mamba_d_head * mamba_d_state", FH1_ROPE_DEFAULT, large_state},
    {"mlp_multipliers[1]", FH1_ROPE_DEFAULT, nan_multiplier},
    {"ssm_multipliers[3]", FH1_ROPE_DEFAULT, infinite_multiplier},
    {"rms_norm_eps", FH1_ROPE_DEFAULT, zero_eps},
    {"rms_norm_eps", FH1_ROPE_DEFAULT, nan_eps},
    {"time_step_limit[0]", FH1_ROPE_DEFAULT, negative_limit},
    {"time_step_limit[0]", FH1_ROPE_DEFAULT, infinite_lower_limit},
    {"time_step_limit[1]", FH1_ROPE_DEFAULT, crossed_limits},
    {"time_step_limit[1]", FH1_ROPE_DEFAULT, nan_limit},
    {"time_step_limit[1]", FH1_ROPE_DEFAULT, zero_upper_limit},
    {"rope_parameters.rope_theta", FH1_ROPE_DEFAULT, zero_theta},
    {"rope_parameters.rope_theta", FH1_ROPE_DEFAULT, infinite_theta},
    {"rope_parameters.factor", FH1_ROPE_LINEAR, no_factor},
    {"rope_parameters.factor", FH1_ROPE_LLAMA3, no_factor},
    {"max_position_embeddings", FH1_ROPE_DYNAMIC, no_length},
    {"head_dim", FH1_ROPE_DYNAMIC, one_pair},
    {"rope_parameters.original_max_position_embeddings", FH1_ROPE_YARN, no_original},
    {"rope_parameters.beta_fast", FH1_ROPE_YARN, no_beta},
    {"rope_parameters.rope_theta", FH1_ROPE_YARN, theta_of_one},
    {"max_position_embeddings", FH1_ROPE_YARN, no_ratio},
    {"rope_parameters.high_freq_factor", FH1_ROPE_LLAMA3, crossed_bands},
    {"rope_parameters.attention_factor", FH1_ROPE_LONGROPE, negative_scale},
    {"rope_parameters.long_factor", FH1_ROPE_LONGROPE, no_list},
    {"rope_parameters.long_factor", FH1_ROPE_LONGROPE, zero_in_list},
    {"head_dim", FH1_ROPE_LONGROPE, wide_head},
};

START_TEST(a_broken_rule_names_its_key)
{
    const rule *r = &rules[_i];
    fh1_config c = r->type == FH1_ROPE_LONGROPE ? longrope() : scaled(r->type);
    ck_assert(!fh1_config_check(&c));
    r->spoil(&c);
    fh1_status s = fh1_config_check(&c);
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->code, FH1_E_INPUT);
    ck_assert_str_eq(s->where, r->key);
}
END_TEST

START_TEST(each_multiplier_is_checked)
{
    fh1_config c = small_config();
    double *all[] = {&c.m_emb,  &c.m_lm,   &c.m_key,    &c.m_attn_in, &c.m_attn_out, &c.m_ssm_in, &c.m_ssm_out,
                     &c.m_gate, &c.m_down, &c.m_ssm[0], &c.m_ssm[1],  &c.m_ssm[2],   &c.m_ssm[3], &c.m_ssm[4]};
    for (int i = 0; i < 14; i++) {
        double good = *all[i];
        *all[i] = (double)NAN;
        fh1_status s = fh1_config_check(&c);
        ck_assert_msg(s && strstr(s->where, "multiplier"), "multiplier %d", i);
        *all[i] = good;
    }
    ck_assert(!fh1_config_check(&c));
}
END_TEST

/* Assignment keeps pointing into the original, which is the fault that fh1_config_copy is there for. */
START_TEST(a_copy_owns_its_factors)
{
    fh1_config a = longrope();
    for (int i = 0; i < 4; i++) a.factors[0][i] = a.factors[1][i] = 1 + i;
    a.rope.long_factor = a.factors[0];
    a.rope.short_factor = ones;
    fh1_config assigned = a, b;
    fh1_config_copy(&b, &a);
    memset(a.factors, 0, sizeof a.factors);
    ck_assert_ptr_eq(assigned.rope.long_factor, a.factors[0]);
    ck_assert_ptr_eq(b.rope.long_factor, b.factors[0]);
    ck_assert_ptr_eq(b.rope.short_factor, b.factors[1]);
    ck_assert_double_eq(b.rope.long_factor[3], 4);
    ck_assert_double_eq(b.rope.short_factor[3], 1);
    ck_assert(!fh1_config_check(&b));
    ck_assert(fh1_config_check(&assigned));
    fh1_config_copy(&b, &b);
    ck_assert_double_eq(b.rope.long_factor[3], 4);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("config");
    tcase_add_test(t, good_configs_pass);
    tcase_add_test(t, widths_are_those_of_the_checkpoint);
    tcase_add_loop_test(t, a_broken_rule_names_its_key, 0, sizeof rules / sizeof *rules);
    tcase_add_test(t, each_multiplier_is_checked);
    tcase_add_test(t, a_copy_owns_its_factors);
    Suite *s = suite_create("config");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
