/* The planted faults that name a law (caught_by "law.NAME"): that law is broken by the faulty copy of the reference on
 * one of three models, and kept by the same copy without a fault. */
#include "reference/faulty.h"
#include "tests/law_fixture.h"

enum { N_MODELS = 3 };
static const char *const folder[N_MODELS] = {"golden/models/odd", "golden/models/mini-34b", NULL}; /* NULL: tiny */

static void open_model(int k, fh1_model *m)
{
    if (folder[k]) TINY_OK(cvt_hf_folder_open(folder[k], m));
    else tiny_build_kind(m, 0);
}

/* The laws that `caught_by` names, cut out one after the other. NULL at the end. */
static const gld_law *next_law(const char **text)
{
    char name[64];
    const char *at = strstr(*text, "law.");
    if (!at) return NULL;
    *text = at + 4 + strcspn(at + 4, " ");
    snprintf(name, sizeof name, "%.*s", (int)(*text - at - 4), at + 4);
    const gld_law *law = gld_law_find(name);
    ck_assert_msg(law != NULL, "no law is called '%s'", name);
    return law;
}

static bool breaks(const gld_law *law, fh1_fault f, const fh1_model *m)
{
    law_engines l = law_engines_for(ref_faulty_engine_new("ref-f32", NULL, 0, f));
    const gld_law_result r = law_run_one(law, &l, m, 1);
    law_engines_free(&l);
    return r.verdict == FH1_FAIL;
}

START_TEST(faults_break_the_laws_that_they_name)
{
    fh1_model m[N_MODELS];
    memset(m, 0, sizeof m);
    int n = 0;
    for (int k = 0; k < N_MODELS; ++k) open_model(k, &m[k]);
    for (int f = 1; f < FH1_FAULT_COUNT; ++f) {
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        const char *rest = info->caught_by;
        for (const gld_law *law = next_law(&rest); law; law = next_law(&rest)) {
            int by = 0;
            while (by < N_MODELS && !breaks(law, (fh1_fault)f, &m[by])) ++by;
            ck_assert_msg(by < N_MODELS, "%s does not break law.%s", info->name, law->name);
            n++;
        }
    }
    printf("%d pairs of fault and law\n", n);
    for (int k = 0; k < N_MODELS; ++k) {
        for (int i = 0; gld_law_at(i); ++i)
            ck_assert_msg(!breaks(gld_law_at(i), FH1_FAULT_NONE, &m[k]), "%s without a fault", gld_law_at(i)->name);
        fh1_model_free(&m[k]);
    }
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("laws_faults");
    tcase_add_test(tc, faults_break_the_laws_that_they_name);
    return tiny_main(suite_create("laws_faults"), tc);
}
