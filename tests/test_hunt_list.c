/* fuzz/hunt.list: every planted fault of caches, masks, positions and documents is either hunted by schedules or
 * excused with a reason; names are those of the registry, each once. */
#include "oracle/fault.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a schedule must be able to show: the two lists, and faults of other lists whose op says so. */
static const fh1_fault required[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_cache.h"
#include "oracle/fault_list_inputs.h"
#undef FH1_FAULT
};

static int listed[FH1_FAULT_COUNT], excused[FH1_FAULT_COUNT];

/* Reads the list; the number of lines that are wrong, each told. */
static int read_list(FILE *in)
{
    char line[512];
    int wrong = 0;
    memset(listed, 0, sizeof listed);
    memset(excused, 0, sizeof excused);
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = 0;
        if (!*line || *line == '#') continue;
        char *reason = strchr(line, ' ');
        if (reason) *reason++ = 0;
        const fh1_fault f = fh1_fault_find(line);
        const bool fits = f && !fh1_fault_is_gradient(f) && (!reason || strlen(reason) > strlen("not: ") + 10) &&
                          (!reason || !strncmp(reason, "not: ", 5));
        if (!fits) {
            fprintf(stderr, "fuzz/hunt.list: '%s': no such fault, or no reason behind 'not: '\n", line);
            wrong++;
            continue;
        }
        listed[f]++;
        excused[f] += reason != NULL;
    }
    for (int f = 1; f < FH1_FAULT_COUNT; f++) wrong += listed[f] > 1;
    return wrong;
}

static int forgotten(void)
{
    int n = 0;
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) n += listed[required[i]] == 0;
    for (int f = 1; f < FH1_FAULT_COUNT; f++) {
        const char *op = fh1_fault_get((fh1_fault)f)->op;
        n += (!strcmp(op, "cache") || !strcmp(op, "schedule")) && !fh1_fault_is_gradient((fh1_fault)f) && !listed[f];
    }
    return n;
}

START_TEST(none_is_forgotten)
{
    FILE *in = fopen("fuzz/hunt.list", "r");
    ck_assert_ptr_nonnull(in);
    ck_assert_int_eq(read_list(in), 0);
    fclose(in);
    ck_assert_int_eq(forgotten(), 0);
    int hunted = 0, left_out = 0;
    for (int f = 1; f < FH1_FAULT_COUNT; f++) {
        hunted += listed[f] && !excused[f];
        left_out += excused[f];
    }
    ck_assert_int_ge(hunted, (int)(sizeof required / sizeof *required));
    ck_assert_int_le(left_out, 2); /* each further one wants a look at whether schedules could not show it */
}
END_TEST

START_TEST(a_list_with_errors_is_refused)
{
    static const char *const bad[] = {"no_such_fault\n", "slot_not_zeroed\nslot_not_zeroed\n",
                                      "slot_not_zeroed because\n", "slot_not_zeroed not: \n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *in = fmemopen((void *)(size_t)bad[i], strlen(bad[i]), "r");
        ck_assert_int_eq(read_list(in), 1);
        fclose(in);
    }
    FILE *in = fmemopen((void *)(size_t) "slot_not_zeroed\n", 16, "r");
    ck_assert_int_eq(read_list(in), 0);
    ck_assert_int_gt(forgotten(), 50);
    fclose(in);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hunt list");
    TCase *t = tcase_create("hunt list");
    tcase_add_test(t, none_is_forgotten);
    tcase_add_test(t, a_list_with_errors_is_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
