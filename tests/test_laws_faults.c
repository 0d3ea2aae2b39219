/* The planted faults that name a law (caught_by "law.NAME"): in each family that can have the fault, that law is broken
 * by the faulty copy of the reference on one of three models, and kept by the same copy without a fault. */
#include "golden/seeded_model.h"
#include "reference/faulty.h"
#include "tests/law_fixture.h"

enum { N_MODELS = 3 };
static const char *const folder[2][N_MODELS] = {
    [FH1_FALCON_H1] = {"golden/models/odd", "golden/models/mini-34b", NULL}, /* NULL: seeded */
    [FH1_FALCON_MAMBA] = {"golden/models/mamba-tied", "golden/models/mamba-untied", NULL}};

static void open_model(int family, int k, fh1_model *m)
{
    gld_seeded_spec spec;
    if (folder[family][k]) TINY_OK(cvt_hf_folder_open(folder[family][k], m));
    else if (family == FH1_FALCON_H1) tiny_build_kind(m, 0);
    else {
        TINY_OK(gld_seeded_parse("family=falcon_mamba,layers=2,D=32,V=64,I=64,N=16,R=4,K=4,weights=trained", &spec));
        TINY_OK(gld_seeded_model_new(&spec, 1, m));
    }
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
    for (int k = 0; k < N_MODELS; ++k) open_model(_i, k, &m[k]);
    for (int f = 1; f < FH1_FAULT_COUNT; ++f) {
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        const char *rest = info->caught_by;
        if (!fh1_fault_acts_on((fh1_fault)f, (fh1_family)_i)) continue;
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
    tcase_add_loop_test(tc, faults_break_the_laws_that_they_name, FH1_FALCON_H1, FH1_FALCON_MAMBA + 1);
    return tiny_main(suite_create("laws_faults"), tc);
}
