/* Adapters of Falcon-Mamba: every module that can be adapted against W + s·B·A in long double, which shares nothing
 * with convert/merge*.c; tied ends; what is refused and what is told. The bits of PEFT: tests/test_merge_golden.c. */
#include "convert/hf_write.h"
#include "tests/adapter_fixture.h"
#include "tests/mamba_folder.h"

#include <math.h>

#define UNTIED "\"tie_word_embeddings\": false,"

static char scratch[256], base[4096], adapter[4096];

static void setup(const char *more, fh1_dtype dtype)
{
    scratch_new(scratch, sizeof scratch);
    path_in(base, sizeof base, scratch, "base");
    path_in(adapter, sizeof adapter, scratch, "adapter");
    mamba_folder(scratch, "base", more, dtype, 21);
}

static void teardown(void)
{
    scratch_remove(scratch);
}

static const struct {
    const char *module;
    int64_t out, in;
} modules[] = {
    {MAMBA_LAYER0 "in_proj", 2 * MAMBA_I, MAMBA_D}, {MAMBA_LAYER0 "x_proj", MAMBA_R + 2 * MAMBA_N, MAMBA_I},
    {MAMBA_LAYER0 "dt_proj", MAMBA_I, MAMBA_R},     {MAMBA_LAYER0 "out_proj", MAMBA_D, MAMBA_I},
    {"backbone.embeddings", MAMBA_V, MAMBA_D},      {"lm_head", MAMBA_V, MAMBA_D},
};
enum { N_MODULES = sizeof modules / sizeof *modules, RANK = 2 };
#define SCALE 1.5 /* alpha 3 / r 2 */

static bool is_embedding(int i)
{
    return strcmp(modules[i].module, "backbone.embeddings") == 0;
}

/* LoRA on the modules of the bits of `mask`. */
static void make_adapter(unsigned mask, const char *more)
{
    made_adapter a = {0};
    char list[700] = "", name[128];
    for (int i = 0; i < N_MODULES; i++) {
        if (!(mask >> i & 1)) continue;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s\"%s\"", *list ? "," : "", modules[i].module);
        if (!is_embedding(i)) {
            made_lora(&a, modules[i].module, modules[i].out, modules[i].in, RANK);
            continue;
        }
        snprintf(name, sizeof name, "%s.lora_embedding_A", modules[i].module);
        made_add(&a, name, RANK, modules[i].out);
        snprintf(name, sizeof name, "%s.lora_embedding_B", modules[i].module);
        made_add(&a, name, modules[i].in, RANK);
    }
    char members[900];
    snprintf(members, sizeof members, "\"r\":%d,\"lora_alpha\":3,\"target_modules\":[%s]%s", RANK, list, more);
    made_config(&a, members);
    made_write(&a, adapter);
}

static fh1_status open_adapter(cvt_adapter *a)
{
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_open(base, &c), base);
    fh1_status s = cvt_adapter_open(adapter, NULL, c, a);
    cvt_ckpt_close(c);
    return s;
}

static cvt_ckpt *merged_with(const cvt_adapter *a)
{
    cvt_ckpt *c, *merged;
    const cvt_merge_part part = {a, 1};
    const cvt_merge_options o = {.rounding = CVT_ROUND_EXACT};
    expect_ok(cvt_ckpt_open(base, &c), base);
    expect_ok(cvt_ckpt_merge(c, &part, 1, &o, &merged), "merge");
    return merged;
}

static const cvt_lora *lora_of(const cvt_adapter *a, const char *module)
{
    for (int64_t i = 0; i < a->n_loras; i++)
        if (strcmp(a->loras[i].module, module) == 0) return &a->loras[i];
    ck_abort_msg("no pair for %s", module);
}

/* Elements that are not the nearest number of the type to W + scale·B·A. */
static int64_t count_wrong(cvt_ckpt *merged, cvt_ckpt *plain, int i, const cvt_lora *l, const char *tensor,
                           double scale)
{
    int64_t n, n_base, wrong = 0;
    char weight[200];
    snprintf(weight, sizeof weight, "%s.weight", modules[i].module);
    const fh1_dtype type = tensor_of(merged, tensor)->dtype;
    double *got = numbers_of(merged, tensor, &n), *W = numbers_of(plain, weight, &n_base);
    ck_assert_int_eq(n, modules[i].out * modules[i].in);
    for (int64_t k = 0; k < n; k++) {
        const int64_t row = k / modules[i].in, col = k % modules[i].in;
        long double sum = 0;
        for (int64_t r = 0; r < RANK; r++)
            sum += l->embedding ? (long double)fh1_get(&l->A, r * modules[i].out + row) * fh1_get(&l->B, col * RANK + r)
                                : (long double)fh1_get(&l->B, row * RANK + r) * fh1_get(&l->A, r * modules[i].in + col);
        double want = (double)(W[k] + scale * sum), nearest;
        uint64_t raw;
        fh1_from_f64(&raw, type, &want, 1);
        fh1_to_f64(&nearest, &raw, type, 1);
        wrong += got[k] != nearest;
    }
    free(got);
    free(W);
    return wrong;
}

START_TEST(every_module_is_merged)
{
    static const fh1_dtype types[] = {FH1_F32, FH1_BF16};
    for (int k = 0; k < 2; k++) {
        cvt_adapter a;
        cvt_ckpt *plain;
        char name[200];
        setup(UNTIED, types[k]);
        make_adapter((1u << N_MODULES) - 1, "");
        expect_ok(open_adapter(&a), "an adapter of every module");
        ck_assert_int_eq(a.n_loras, N_MODULES);
        cvt_ckpt *merged = merged_with(&a);
        expect_ok(cvt_ckpt_open(base, &plain), base);
        for (int i = 0; i < N_MODULES; i++) {
            const cvt_lora *l = lora_of(&a, modules[i].module);
            ck_assert(l->embedding == is_embedding(i) && l->r == RANK && l->scale == SCALE);
            snprintf(name, sizeof name, "%s.weight", modules[i].module);
            ck_assert_int_eq(count_wrong(merged, plain, i, l, name, SCALE), 0);
            ck_assert_msg(count_wrong(merged, plain, i, l, name, 3) > 0, "%s: alpha alone is not seen", name);
            ck_assert_msg(count_wrong(merged, plain, i, l, name, 0) > 0, "%s: no difference is not seen", name);
        }
        cvt_ckpt_close(plain);
        cvt_ckpt_close(merged);
        cvt_adapter_free(&a);
        teardown();
    }
}
END_TEST

/* What both ends compute with the adapter attached; the config of the base does not say that it is tied. */
START_TEST(one_end_of_a_tied_base_unties_it)
{
    for (int end = 4; end < 6; end++) {
        cvt_adapter a;
        cvt_ckpt *plain;
        cJSON *json;
        setup("", FH1_F32);
        make_adapter(1u << end, "");
        expect_ok(open_adapter(&a), modules[end].module);
        cvt_ckpt *merged = merged_with(&a);
        expect_ok(cvt_ckpt_open(base, &plain), base);
        const cvt_lora *l = lora_of(&a, modules[end].module);
        /* W is the embedding's for both ends */
        ck_assert_int_eq(count_wrong(merged, plain, 4, l, "backbone.embeddings.weight", end == 4 ? SCALE : 0), 0);
        ck_assert_int_eq(count_wrong(merged, plain, 4, l, "lm_head.weight", end == 5 ? SCALE : 0), 0);
        expect_ok(cvt_ckpt_config_json(merged, &json), "config.json");
        ck_assert(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(json, "tie_word_embeddings")));
        cJSON_Delete(json);
        cvt_ckpt_close(plain);
        cvt_ckpt_close(merged);
        cvt_adapter_free(&a);
        teardown();
    }
}
END_TEST

static bool told(const cvt_adapter *a, const char *word)
{
    for (int i = 0; i < a->n_warnings; i++)
        if (strstr(a->warnings[i], word)) return true;
    return false;
}

START_TEST(what_the_library_passes_by_is_told)
{
    cvt_adapter a;
    setup(UNTIED, FH1_F32);
    make_adapter(15, "");
    expect_ok(open_adapter(&a), "the mixer's modules");
    ck_assert(told(&a, MAMBA_LAYER0 "out_proj: PEFT does not load adapters of this module"));
    ck_assert(told(&a, MAMBA_LAYER0 "x_proj: fused kernels of training pass adapters of this module by"));
    ck_assert(told(&a, MAMBA_LAYER0 "dt_proj: transformers passes adapters of this module by"));
    ck_assert(!told(&a, "in_proj"));
    cvt_adapter_free(&a);
    make_adapter(1, "");
    expect_ok(open_adapter(&a), "in_proj alone");
    ck_assert_int_eq(a.n_warnings, 0);
    cvt_adapter_free(&a);
    teardown();
}
END_TEST

/* Members of adapter_config.json with a pair for in_proj of both layers; NULL: opens. */
static const struct {
    const char *members, *word;
} cases[] = {
    {"\"target_modules\":[\"in_proj\"]", NULL},
    {"\"target_modules\":\"backbone.layers.[01].mixer.in_proj\"", NULL},
    {"\"target_modules\":\"all-linear\",\"exclude_modules\":[\"out_proj\",\"x_proj\",\"dt_proj\"]", NULL},
    {"\"target_modules\":\"all-linear\",\"exclude_modules\":[\"out_proj\",\"x_proj\"]", "mixer.dt_proj is missing"},
    {"\"target_modules\":\"all-linear\",\"exclude_modules\":[\"out_proj\",\"dt_proj\"]", "mixer.x_proj is missing"},
    {"\"target_modules\":\"all-linear\",\"exclude_modules\":[\"x_proj\",\"dt_proj\"]", "mixer.out_proj is missing"},
    {"\"target_modules\":[\"in_proj\",\"conv1d\"]", "LoRA on a convolution cannot be merged"},
    {"\"target_modules\":[\"in_proj\",\"norm_f\"]", "holds no matrix"},
    {"\"target_modules\":[\"embed_tokens\"]", "matches no module"},
    {"\"target_modules\":[\"q_proj\"]", "matches no module"},
    {"\"target_modules\":[\"in_proj\"],\"target_parameters\":[\"mixer.A_log\"]", "parameter of the mixer itself"},
    {"\"target_modules\":[\"in_proj\"],\"target_parameters\":[\"mixer.D\"]", "no matrix"},
    {"\"target_modules\":[\"in_proj\"],\"modules_to_save\":[\"norm_f\"]", "backbone.norm_f.weight is missing"},
    {"\"target_modules\":[\"in_proj\"],\"lora_bias\":true", "lora_B.bias"},
    {"\"target_modules\":[\"in_proj\"],\"trainable_token_indices\":[3]", "backbone.embeddings.token_adapter"},
    {"\"target_modules\":[\"in_proj\"],\"trainable_token_indices\":{\"embed_tokens\":[3]}", "names no embedding"},
};

START_TEST(modules_are_named_or_refused)
{
    setup(UNTIED, FH1_F32);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made_adapter x = {0};
        cvt_adapter a;
        char members[400];
        for (int layer = 0; layer < MAMBA_L; layer++) {
            char module[100];
            snprintf(module, sizeof module, "backbone.layers.%d.mixer.in_proj", layer);
            made_lora(&x, module, 2 * MAMBA_I, MAMBA_D, RANK);
        }
        snprintf(members, sizeof members, "\"r\":2,%s", cases[i].members);
        made_config(&x, members);
        made_write(&x, adapter);
        fh1_status s = open_adapter(&a);
        if (cases[i].word) expect_error(s, FH1_E_INPUT, cases[i].word, cases[i].members);
        else expect_ok(s, cases[i].members);
        if (!s) cvt_adapter_free(&a);
    }
    teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_module_is_merged, one_end_of_a_tied_base_unties_it,
                                  what_the_library_passes_by_is_told, modules_are_named_or_refused};
    return run_tests("mamba_merge", tests, sizeof tests / sizeof *tests);
}
