/* What a request takes, against sizes counted by hand and against what is then allocated; and what is said where it
 * does not fit. */
#include "cuda/cache_impl.h"
#include "cuda/plan.h"
#include "cuda/weights.h"
#include "tests/cuda/harness.h"

extern "C" {
#include "tests/small_config.h"
}

namespace
{

const size_t GIB = size_t{1} << 30;

/* 7B: 44 layers, D 3072, F 12288, 12 query and 2 key heads of 128, 24 heads of 128 with 256 states. */
fh1_config seven_b(void)
{
    fh1_config c = small_config();
    c.n_layers = 44;
    c.D = 3072;
    c.V = 130049;
    c.F = 12288;
    c.Hq = 12;
    c.Hkv = 2;
    c.A = 128;
    c.H = 24;
    c.P = 128;
    c.N = 256;
    c.G = 1;
    c.K = 4;
    c.d_ssm = 3072;
    c.mamba_conv_bias = true;
    c.mamba_rms_norm = true;
    return c;
}

START_TEST(a_released_model)
{
    const fh1_config c = seven_b();
    const cu_plan p = cu_plan_make(&c, CU_BF16, 8, 512, 4096, 1);
    /* 7585654880 parameters; what is no matrix is f32: per layer two norms, conv with bias, A, D, dt_bias, norm */
    const size_t small = 44 * (2 * 3072 + 3584 * 5 + 3 * 24 + 3072) + 3072;
    ck_assert_uint_eq(p.bytes[CU_PLAN_WEIGHTS], (size_t{7585654880} - small) * 2 + small * 4 + 64 * 8);
    ck_assert_uint_eq(p.bytes[CU_PLAN_KV], size_t{8} * 4096 * 44 * 2 * 2 * 128 * 2 + 8 * 64 * 4);
    ck_assert_uint_eq(p.bytes[CU_PLAN_STATE], size_t{8} * 44 * (24 * 128 * 256 + 3584 * 3) * 4 + 8 * 4);
    ck_assert_uint_eq(p.bytes[CU_PLAN_LOGITS], size_t{8} * (130049 * 4 + 3072 * 2));
    ck_assert(p.bytes[CU_PLAN_WORK] > size_t{8} * 512 * (3072 * 5 + 12288 * 3) * 2);
    size_t sum = 0;
    for (size_t n : p.bytes) sum += n;
    ck_assert_uint_eq(sum, p.total);
}
END_TEST

/* A whole page is taken for its first token. */
START_TEST(pages_are_whole)
{
    const fh1_config c = seven_b();
    const size_t one = cu_plan_make(&c, CU_BF16, 1, 1, 1, 1).bytes[CU_PLAN_KV];
    ck_assert_uint_eq(cu_plan_make(&c, CU_BF16, 1, 1, 64, 1).bytes[CU_PLAN_KV], one);
    ck_assert_uint_eq(cu_plan_make(&c, CU_BF16, 1, 1, 65, 1).bytes[CU_PLAN_KV], 2 * one);
    ck_assert_uint_eq(cu_plan_make(&c, CU_F32, 1, 1, 64, 1).bytes[CU_PLAN_KV], 2 * one - 4); /* the table stays */
}
END_TEST

char zeros[4096];

struct table {
    fh1_weight *w;
    int64_t n;
};

fh1_status add(void *user, const char *name, int rank, const int64_t *shape)
{
    table *t = static_cast<table *>(user);
    t->w = static_cast<fh1_weight *>(realloc(t->w, static_cast<size_t>(t->n + 1) * sizeof *t->w));
    t->w[t->n].name = strdup(name);
    t->w[t->n++].t = fh1_view(zeros, FH1_BF16, rank, shape);
    return NULL;
}

/* The config says the same as the model, whatever is switched on. */
START_TEST(weights_as_they_are_loaded)
{
    for (unsigned bits = 0; bits < 256; ++bits) {
        fh1_config c = bits & 128 ? small_mamba_config() : small_config();
        static const fh1_block blocks[] = {FH1_BLOCK_SA_M, FH1_BLOCK_SAM, FH1_BLOCK_S_A_M};
        if (!(bits & 128)) c.block = blocks[bits % 3];
        c.attention_bias = !(bits & 128) && bits & 1;
        c.mamba_proj_bias = bits & 2;
        c.mlp_bias = bits & 4;
        c.projectors_bias = bits & 8;
        c.mamba_conv_bias = bits & 16;
        c.mamba_rms_norm = !(bits & 128) && bits & 32;
        c.tied = bits & 64;
        table t = {NULL, 0};
        fh1_model m = {};
        good(fh1_config_weights(&c, add, &t));
        good(fh1_model_bind(&m, &c, t.w, t.n));
        for (cu_type type : {CU_F32, CU_BF16})
            ck_assert_uint_eq(cu_plan_make(&c, type, 1, 1, 1, 1).bytes[CU_PLAN_WEIGHTS], cu_weights_bytes(&m, type));
        fh1_model_free(&m);
    }
}
END_TEST

/* Falcon-Mamba-7B: 7272665088 parameters, no keys; a state of 8192 · 16 and a window of 8192 · 3 a layer. */
START_TEST(a_released_model_without_attention)
{
    fh1_config c = small_mamba_config();
    c.n_layers = 64;
    c.D = 4096;
    c.V = 65024;
    c.H = c.d_ssm = 8192;
    c.N = 16;
    c.R = 256;
    const cu_plan p = cu_plan_make(&c, CU_BF16, 8, 512, 4096, 1);
    const size_t small = 64 * (size_t{8192} * (5 + 16 + 2) + 4096) + 4096; /* conv with bias, A, D, dt_bias; norms */
    ck_assert_uint_eq(p.bytes[CU_PLAN_WEIGHTS], (size_t{7272665088} - small) * 2 + small * 4);
    ck_assert_uint_eq(p.bytes[CU_PLAN_KV], size_t{8} * 64 * 4); /* tables alone */
    ck_assert_uint_eq(p.bytes[CU_PLAN_STATE], size_t{8} * 64 * (8192 * 16 + 8192 * 3) * 4 + 8 * 4);
    /* in f32 the stream and the step sizes; in_proj, conv, dt_proj, scan, gate */
    ck_assert(p.bytes[CU_PLAN_WORK] > size_t{8} * 512 * (4096 * 4 + 8192 * 4 + 6 * 8192 * 2));
}
END_TEST

/* The cache takes what was planned, and its tables. */
static void check_cache(const fh1_config &c)
{
    const int64_t ids[3 * 70] = {};
    fh1_batch batch = {};
    batch.B = 3;
    batch.T = 70;
    batch.ids = ids;
    fh1_cache *cache;
    cu_cache *store;
    fh1_tokens t;
    good(fh1_cache_new(&c, FH1_F32, 3, &cache));
    good(fh1_tokens_pack(&batch, c.V, cache, &t));
    good(cu_cache_prepare(cache, CU_BF16, &t, nullptr, &store));
    const cu_plan p = cu_plan_make(&c, CU_BF16, 3, 70, 70, 1);
    ck_assert_uint_eq(cu_cache_store.bytes(store), p.bytes[CU_PLAN_KV] + p.bytes[CU_PLAN_STATE]);
    fh1_tokens_free(&t);
    fh1_cache_free(cache);
}

START_TEST(a_cache_as_it_is_made)
{
    check_cache(small_config());
    check_cache(small_mamba_config());
}
END_TEST

bool says(fh1_status s, const char *text)
{
    char line[1024];
    return s && s->code == FH1_E_INPUT && strstr(fh1_status_line(s, line, sizeof line), text);
}

START_TEST(what_does_not_fit_is_refused)
{
    const fh1_config c = seven_b();
    cu_plan p = cu_plan_make(&c, CU_BF16, 1, 512, 4096, 1);
    ck_assert(!cu_plan_check(&p, p.total));
    ck_assert(says(cu_plan_check(&p, p.total - 1), "for weights"));
    ck_assert(says(cu_plan_check(&p, p.total - 1), "fewer tokens in one call") ||
              says(cu_plan_check(&p, p.total - 1), "a shorter context"));
    ck_assert(says(cu_plan_check(&p, 4 * GIB), "a smaller model"));
    p = cu_plan_make(&c, CU_BF16, 64, 1, 262144, 1);
    ck_assert(says(cu_plan_check(&p, 80 * GIB), "at most 80.00 GiB"));
    ck_assert(says(cu_plan_check(&p, 80 * GIB), "for keys and values"));
    ck_assert(says(cu_plan_check(&p, 80 * GIB), "a shorter context"));
    p = cu_plan_make(&c, CU_BF16, 1024, 1, 64, 1);
    ck_assert(says(cu_plan_check(&p, 80 * GIB), "what helps: fewer rows"));
    p = cu_plan_make(&c, CU_BF16, 16, 4096, 4096, 4096);
    ck_assert(says(cu_plan_check(&p, 40 * GIB), "logits of fewer tokens"));
}
END_TEST

START_TEST(the_table)
{
    const fh1_config c = seven_b();
    const cu_plan p = cu_plan_make(&c, CU_BF16, 2, 128, 8192, 1);
    char text[1024] = "";
    FILE *f = fmemopen(text, sizeof text, "w");
    ck_assert(f);
    cu_plan_print(&p, f);
    fclose(f);
    ck_assert(strstr(text, "2 rows of 8192 tokens, 128 in one call, bf16"));
    ck_assert(strstr(text, "keys and values") && strstr(text, "0.688 GiB") && strstr(text, "together"));
}
END_TEST

} // namespace

int main(void)
{
    TCase *t = tcase_create("plan");
    tcase_add_test(t, a_released_model);
    tcase_add_test(t, a_released_model_without_attention);
    tcase_add_test(t, pages_are_whole);
    tcase_add_test(t, weights_as_they_are_loaded);
    tcase_add_test(t, a_cache_as_it_is_made);
    tcase_add_test(t, what_does_not_fit_is_refused);
    tcase_add_test(t, the_table);
    Suite *s = suite_create("cu_plan");
    suite_add_tcase(s, t);
    return run_suite(s);
}
