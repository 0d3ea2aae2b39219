/* Profiles, variants and the text that names them. The stored types are those seen in traces of
 * transformers 5.23.0. */
#include "oracle/contract.h"
#include "tests/small_config.h"

#include <check.h>
#include <stdlib.h>

START_TEST(profiles_are_found_by_name)
{
    int n = 0;
    for (const fh1_profile *p; (p = fh1_profile_at(n)); n++) {
        ck_assert_ptr_eq(fh1_profile_find(p->name), p);
        ck_assert(*p->summary);
    }
    ck_assert_int_eq(n, 9);
    ck_assert_ptr_null(fh1_profile_at(-1));
    ck_assert_ptr_null(fh1_profile_find("hf-eager-bf1"));
    ck_assert_ptr_null(fh1_profile_find("hf-eager-bf166"));
}
END_TEST

START_TEST(profiles_round_where_they_say)
{
    const fh1_profile *exact = fh1_profile_find("exact"), *f32 = fh1_profile_find("fp32");
    ck_assert(exact->u == 0x1p-53 && exact->storage == FH1_F64);
    ck_assert(f32->u == 0x1p-24 && f32->storage == FH1_F32);
    static const struct {
        const char *name;
        fh1_dtype storage;
        fh1_round round;
    } eager[] = {{"hf-eager-bf16", FH1_BF16, FH1_ROUND_BF16}, {"hf-eager-fp16", FH1_F16, FH1_ROUND_F16}};
    for (int point = 0; point < FH1_RP_COUNT; point++) {
        ck_assert_int_eq(exact->at[point], FH1_ROUND_NONE);
        ck_assert_int_eq(f32->at[point], FH1_ROUND_NONE);
        for (int k = 0; k < 2; k++) {
            const fh1_profile *p = fh1_profile_find(eager[k].name);
            ck_assert(p->u == 0x1p-24 && p->storage == eager[k].storage);
            /* the scan output of a prefill is the only value that stays f32; inputs are rounded where they are made */
            const bool plain = point == FH1_RP_SSD || point == FH1_RP_LINEAR_IN || point == FH1_RP_PROB_TILE ||
                               point == FH1_RP_SSD_TILE;
            ck_assert_int_eq(p->at[point], plain ? FH1_ROUND_NONE : eager[k].round);
        }
    }
    static const struct {
        const char *name;
        fh1_round input;
    } llama[] = {{"llamacpp-f32", FH1_ROUND_NONE},
                 {"llamacpp-bf16", FH1_ROUND_BF16},
                 {"llamacpp-f16", FH1_ROUND_F16},
                 {"llamacpp-q8_0", FH1_ROUND_Q8_0}};
    for (int k = 0; k < 4; k++) {
        const fh1_profile *p = fh1_profile_find(llama[k].name);
        ck_assert(p->u == 0x1p-24 && p->storage == FH1_F32 && p->chunk == 1 && p->log_of_sum);
        for (int point = 0; point < FH1_RP_COUNT; point++)
            ck_assert_int_eq(p->at[point], point == FH1_RP_LINEAR_IN ? llama[k].input : FH1_ROUND_NONE);
    }
    ck_assert(!f32->log_of_sum && !fh1_profile_find("hf-eager-bf16")->log_of_sum);
}
END_TEST

START_TEST(a_tap_has_the_type_that_the_library_keeps)
{
    fh1_config c = small_config();
    const fh1_profile *p = fh1_profile_find("hf-eager-bf16");
    for (int one_token = 0; one_token < 2; one_token++) {
        for (int i = 0; i < FH1_TAP_COUNT; i++) {
            fh1_tap_id id = (fh1_tap_id)i;
            bool wide = id == FH1_TAP_CACHE_SSM || id == FH1_TAP_LOSS || (id == FH1_TAP_SSD && !one_token);
            ck_assert_int_eq(fh1_profile_tap_dtype(p, id, one_token, &c), wide ? FH1_F32 : FH1_BF16);
            ck_assert_int_eq(fh1_profile_tap_dtype(fh1_profile_find("exact"), id, one_token, &c), FH1_F64);
            ck_assert_int_eq(fh1_profile_tap_dtype(fh1_profile_find("fp32"), id, one_token, &c), FH1_F32);
        }
    }
    ck_assert_int_eq(fh1_profile_tap_dtype(fh1_profile_find("hf-eager-fp16"), FH1_TAP_LOGITS, false, &c), FH1_F16);
}
END_TEST

/* Stored tensors, and what tensor cores read: nothing else. */
START_TEST(fused_kernels_round_what_they_store)
{
    static const fh1_point rounded[] = {FH1_RP_EMBED,     FH1_RP_NORM,    FH1_RP_LINEAR,   FH1_RP_ROPE_SUM,
                                        FH1_RP_PROB_TILE, FH1_RP_CONTEXT, FH1_RP_CONV_ACT, FH1_RP_SSD,
                                        FH1_RP_SSD_TILE,  FH1_RP_GATED,   FH1_RP_RESIDUAL, FH1_RP_ACT};
    static const fh1_tap_id wide[] = {FH1_TAP_DT, FH1_TAP_CACHE_CONV, FH1_TAP_CACHE_SSM, FH1_TAP_LOGITS, FH1_TAP_LOSS};
    const fh1_profile *p = fh1_profile_find("cuda-bf16");
    ck_assert(p->storage == FH1_BF16 && p->u == 0x1p-23 && p->any_form && p->exact_angle && !p->log_of_sum);
    for (int point = 0; point < FH1_RP_COUNT; point++) {
        bool rounds = false;
        for (size_t i = 0; i < sizeof rounded / sizeof *rounded; i++) rounds |= rounded[i] == (fh1_point)point;
        ck_assert_int_eq(p->at[point], rounds ? FH1_ROUND_BF16 : FH1_ROUND_NONE);
    }
    fh1_config c = small_config();
    for (int i = 0; i < FH1_TAP_COUNT; i++) {
        bool f32 = false;
        for (size_t k = 0; k < sizeof wide / sizeof *wide; k++) f32 |= wide[k] == (fh1_tap_id)i;
        for (int one_token = 0; one_token < 2; one_token++)
            ck_assert_int_eq(fh1_profile_tap_dtype(p, (fh1_tap_id)i, one_token, &c), f32 ? FH1_F32 : FH1_BF16);
    }
    ck_assert_int_eq(fh1_profile_scan_output(p, true), FH1_ROUND_BF16);
    ck_assert_int_eq(fh1_profile_scan_output(fh1_profile_find("hf-eager-fp16"), true), FH1_ROUND_F16);
    ck_assert_int_eq(fh1_profile_scan_output(fh1_profile_find("hf-eager-fp16"), false), FH1_ROUND_NONE);
    ck_assert_int_eq(fh1_profile_head(p).at[FH1_RP_LINEAR], FH1_ROUND_NONE);
    ck_assert_int_eq(fh1_profile_head(fh1_profile_find("hf-eager-bf16")).at[FH1_RP_LINEAR], FH1_ROUND_BF16);
    for (int i = 0; fh1_profile_at(i); i++) /* who names a pipeline */
        ck_assert(fh1_profile_at(i)->any_form == !strstr(fh1_profile_at(i)->name, "hf-eager"));
}
END_TEST

START_TEST(types_choose_their_contract)
{
    ck_assert_str_eq(fh1_profile_for_dtype(FH1_F64)->name, "exact");
    ck_assert_str_eq(fh1_profile_for_dtype(FH1_F32)->name, "fp32");
    ck_assert_str_eq(fh1_profile_for_dtype(FH1_BF16)->name, "hf-eager-bf16");
    ck_assert_str_eq(fh1_profile_for_dtype(FH1_F16)->name, "hf-eager-fp16");
}
END_TEST

/* Each variant has its own bit and comes back by its name: two that share one would show here. */
START_TEST(variants_are_distinct)
{
    unsigned all = 0, set;
    int n = 0;
    for (const fh1_variant_info *v; (v = fh1_variant_at(n)); n++) {
        ck_assert(v->bit && !(v->bit & (v->bit - 1)) && !(all & v->bit));
        all |= v->bit;
        ck_assert(!fh1_variants_parse(v->name, &set));
        ck_assert_uint_eq(set, v->bit);
        ck_assert(strstr(v->summary, "transformers") || strstr(v->summary, "report")); /* where it was met */
    }
    ck_assert_int_eq(n, 12);
    ck_assert_uint_eq(all, (1u << 12) - 1);
    ck_assert_ptr_null(fh1_variant_at(-1));
}
END_TEST

static const struct {
    const char *text;
    unsigned set;
} good_lists[] = {
    {"", 0},
    {"  ", 0},
    {"mup_rounded", FH1_VAR_MUP_ROUNDED},
    {" mup_rounded ,right_pad_cache", FH1_VAR_MUP_ROUNDED | FH1_VAR_RIGHT_PAD_CACHE},
    {"no_dt_limit,no_dt_limit", FH1_VAR_NO_DT_LIMIT},
    {"decode_no_dt_limit,in_proj_bias_at_pads,right_pad_cache",
     FH1_VAR_DECODE_NO_DT_LIMIT | FH1_VAR_IN_PROJ_BIAS_AT_PADS | FH1_VAR_RIGHT_PAD_CACHE},
};
static const char *const bad_lists[] = {
    "mup",
    "mup_rounded2",
    ",",
    "mup_rounded,",
    ",mup_rounded",
    "mup_rounded,,no_dt_limit",
    "mup_rounded no_dt_limit",
    "MUP_ROUNDED",
    "mup_rounded+no_dt_limit",
};

START_TEST(lists_of_variants)
{
    unsigned set;
    for (size_t i = 0; i < sizeof good_lists / sizeof *good_lists; i++) {
        ck_assert(!fh1_variants_parse(good_lists[i].text, &set));
        ck_assert_uint_eq(set, good_lists[i].set);
    }
    for (size_t i = 0; i < sizeof bad_lists / sizeof *bad_lists; i++) {
        fh1_status s = fh1_variants_parse(bad_lists[i], &set);
        ck_assert_msg(s && s->code == FH1_E_INPUT, "%s", bad_lists[i]);
        ck_assert_ptr_nonnull(strstr(s->expected, "mup_rounded"));
        ck_assert_ptr_nonnull(strstr(s->expected, "theta_class_default")); /* the list is whole */
    }
}
END_TEST

START_TEST(contracts)
{
    const fh1_profile *p;
    unsigned set;
    ck_assert(!fh1_contract_parse("fp32", &p, &set));
    ck_assert(strcmp(p->name, "fp32") == 0 && set == 0);
    ck_assert(!fh1_contract_parse("hf-eager-bf16+mup_rounded+no_dt_limit", &p, &set));
    ck_assert(strcmp(p->name, "hf-eager-bf16") == 0);
    ck_assert_uint_eq(set, FH1_VAR_MUP_ROUNDED | FH1_VAR_NO_DT_LIMIT);

    static const struct {
        const char *text, *word, *known;
    } bad[] = {{"", "profile", "exact"},
               {"fp16", "profile", "hf-eager-fp16"},
               {"mup_rounded", "profile", "fp32"},
               {"fp32,mup_rounded", "profile", "exact"},
               {"fp32+", "variant", "mup_rounded"},
               {"fp32+fast", "fast", "no_dt_limit"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fh1_status s = fh1_contract_parse(bad[i].text, &p, &set);
        ck_assert_msg(s && s->code == FH1_E_INPUT, "%s", bad[i].text);
        ck_assert_msg(strstr(s->what, bad[i].word), "%s: %s", bad[i].text, s->what);
        ck_assert_ptr_nonnull(strstr(s->expected, bad[i].known));
    }
    char text[1000]; /* a name that no message has room for */
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    ck_assert(fh1_contract_parse(text, &p, &set));
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("contract");
    tcase_add_test(t, profiles_are_found_by_name);
    tcase_add_test(t, profiles_round_where_they_say);
    tcase_add_test(t, a_tap_has_the_type_that_the_library_keeps);
    tcase_add_test(t, fused_kernels_round_what_they_store);
    tcase_add_test(t, types_choose_their_contract);
    tcase_add_test(t, variants_are_distinct);
    tcase_add_test(t, lists_of_variants);
    tcase_add_test(t, contracts);
    Suite *s = suite_create("contract");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
