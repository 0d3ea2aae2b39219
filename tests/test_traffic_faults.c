/* Planted faults under traffic: every mistake with a cache turns one of few lines red, and so do those with masks,
 * positions and documents. */
#include "tests/traffic_fixture.h"

#include <stdlib.h>

static const char *const lines[] = {
    "a=2;a+9,4<0,2;b=a;a*3;a@1,1,0;a<b;a!1;a+5",
    "a=3;a+6,2,5;a*2;b=a;a+4,1,7>2|//1,5;b*2;a<b;a+2;a<b;a+1;b+3",
    "a=2;a+7;a?4:2/0;a*2;a-0:1;a-1:3;a.;a+1;a.;a+2;a*3",
    "a=3;a+5|2/0,3;a+4|0/1,2;a*2;a@2,0,1,0;a+3;a@3,1;a*2",
    "a=1;a+4<2;a+0<1;a+3>2;a*1",
    "a=3;a+3,0,2;a+2,0",
    "a=1;a+300",
    "a=3;a+5;b=a;a+3;b+3;a<b;a@2,0,0;a+2", /* equal lengths: books alone tell nothing */
};

static const fh1_fault cache_faults[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_cache.h"
#undef FH1_FAULT
};

static const fh1_fault input_faults[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_inputs.h"
#undef FH1_FAULT
};

/* Documents begin where positions do in all traffic; and no row is 4096 tokens long. */
static bool cannot_show(fh1_fault f)
{
    return f == FH1_FAULT_DOCUMENT_BORDER_AT_POSITION_0 || f == FH1_FAULT_POSITIONS_CLAMPED;
}

/* The sentence of the first line that is red, or none. */
static void try_lines(fh1_fault f, const fh1_model *m, char found[512])
{
    fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, f);
    ck_assert_ptr_nonnull(e);
    found[0] = 0;
    for (int i = 0; i < N_OF(lines) && !found[0]; i++) {
        const gld_traffic t = traffic_of(lines[i]);
        const gld_traffic_result r = traffic_judged(&t, e, m, 1);
        if (r.verdict == FH1_FAIL) snprintf(found, 512, "line %d, %s", i + 1, r.sentence);
    }
    e->free(e);
}

static void every_fault_is_red(const fh1_fault *faults, int n)
{
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    char found[512];
    for (int k = 0; k < n; k++) {
        try_lines(faults[k], &m, found);
        printf("%-36s %s\n", fh1_fault_get(faults[k])->name, found);
        ck_assert_msg(*found ? !cannot_show(faults[k]) : cannot_show(faults[k]), "%s: %s",
                      fh1_fault_get(faults[k])->name, *found ? found : "nothing");
    }
    try_lines(FH1_FAULT_NONE, &m, found);
    ck_assert_str_eq(found, "");
    fh1_model_free(&m);
}

START_TEST(test_cache_faults)
{
    every_fault_is_red(cache_faults, N_OF(cache_faults));
}
END_TEST

/* What an engine's own books give away is not enough: numbers must tell, unless it is the books that are wrong (how
 * many tokens or columns there are) or what is accepted. */
static bool in_books_alone(fh1_fault f)
{
    return f == FH1_FAULT_SNAPSHOT_LENGTH_ROUNDED_UP || f == FH1_FAULT_TRUNCATE_OFF_BY_ONE ||
           f == FH1_FAULT_TRUNCATE_DOES_NOTHING || f == FH1_FAULT_RESET_KEEPS_KEYS ||
           f == FH1_FAULT_RESET_KEEPS_POSITIONS;
}

START_TEST(test_cache_faults_in_numbers)
{
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    for (int k = 0; k < N_OF(cache_faults); k++) {
        fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, cache_faults[k]);
        char tap[FH1_TAP_NAME_SIZE] = "";
        for (uint64_t seed = 1; seed <= 8 && !*tap; seed++)
            for (int i = 0; i < N_OF(lines) && !*tap; i++) {
                if (strstr(lines[i], "300")) continue; /* for positions */
                const gld_traffic t = traffic_of(lines[i]);
                const gld_traffic_result r = traffic_judged(&t, e, &m, seed);
                if (r.verdict == FH1_FAIL) memcpy(tap, r.tap, sizeof tap);
            }
        e->free(e);
        printf("%-36s %s\n", fh1_fault_get(cache_faults[k])->name, tap);
        ck_assert_msg(!*tap == in_books_alone(cache_faults[k]), "%s", fh1_fault_get(cache_faults[k])->name);
    }
    fh1_model_free(&m);
}
END_TEST

START_TEST(test_input_faults)
{
    every_fault_is_red(input_faults, N_OF(input_faults));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults under traffic");
    TCase *tc = tcase_create("faults");
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, test_cache_faults);
    tcase_add_test(tc, test_cache_faults_in_numbers);
    tcase_add_test(tc, test_input_faults);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
