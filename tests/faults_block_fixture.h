/* The planted faults of attention, mixer and MLP on the models of their cases, put into another block: each must be
 * found there too, at the tap that the block has in the place of SA_M's. */
#pragma once

#include "tests/faults_fixture.h"

static const fh1_fault all_faults[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_mixer.h"
#include "oracle/fault_list_network.h"
#undef FH1_FAULT
};

/* A fault that the block shows elsewhere, or, FH1_TAP_COUNT, cannot have. */
typedef struct {
    fh1_fault f;
    fh1_tap_id tap;
} elsewhere;

static inline fh1_tap_id shown_at(fh1_fault f, const elsewhere *table, int n)
{
    for (int i = 0; i < n; i++)
        if (table[i].f == f) return table[i].tap;
    const fh1_tap_id tap = fh1_fault_get(f)->tap;
    if (tap != FH1_TAP_MID) return tap; /* what both mixers are added to: with the MLP, or one after the other */
    return fault_block == FH1_BLOCK_SAM ? FH1_TAP_LAYER : FH1_TAP_MID_SSM;
}

/* Those that name the rule `check`, from ordinal `part` on every `parts`-th; all are tried before the test gives up. A
 * fault that the block cannot have changes nothing. */
static inline void faults_are_found_in_block(const elsewhere *table, int n, int part, int parts)
{
    char missed[16384] = "";
    size_t used = 0;
    int found_some = 0;
    for (int i = part; i < N_OF(all_faults) && used < sizeof missed - 400; i += parts) {
        const fh1_fault_info *info = fh1_fault_get(all_faults[i]);
        const gld_fault_case c = gld_fault_case_of(all_faults[i], FH1_FALCON_H1);
        if (!fault_has_rule(info, "check")) continue;
        const fh1_tap_id want = shown_at(all_faults[i], table, n);
        const fault_found found = fault_run(all_faults[i], c.model, (int)c.inputs);
        const bool absent = want == FH1_TAP_COUNT;
        found_some += found.n_fail > 0;
        if (absent ? found.n_fail == 0 : found.n_fail > 0 && found.tap == want) continue;
        char name[FH1_TAP_NAME_SIZE];
        used += (size_t)snprintf(missed + used, sizeof missed - used, "\n  %s on %s %s: %s instead of %s", info->name,
                                 c.model, gld_fault_input_name((int)c.inputs), found.text,
                                 absent ? "nothing" : fh1_tap_name(FH1_FALCON_H1, want, 0, name));
    }
    ck_assert_msg(used == 0, "%s", missed);
    ck_assert_int_gt(found_some, N_OF(all_faults) / parts / 2);
}

enum { PARTS = 3 };

#define FAULTS_PART(i)                                           \
    START_TEST(faults_are_found_##i)                             \
    {                                                            \
        faults_are_found_in_block(table, N_OF(table), i, PARTS); \
    }                                                            \
    END_TEST

/* The program of one block, with its `table`; one program each, so that they run side by side. */
#define FAULTS_OF_BLOCK(block, title)                                                       \
    FAULTS_PART(0)                                                                          \
    FAULTS_PART(1)                                                                          \
    FAULTS_PART(2)                                                                          \
    START_TEST(the_second_copy_without_a_fault_is_the_first)                                \
    {                                                                                       \
        no_fault_is_no_change(all_faults, N_OF(all_faults));                                \
    }                                                                                       \
    END_TEST                                                                                \
    int main(void)                                                                          \
    {                                                                                       \
        const TTest *tests[] = {faults_are_found_0, faults_are_found_1, faults_are_found_2, \
                                the_second_copy_without_a_fault_is_the_first, NULL};        \
        fault_block = block;                                                                \
        return faults_main(title, tests);                                                   \
    }
