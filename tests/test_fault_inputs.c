/* The inputs and models on which planted faults show: each input is one that an engine may be given and holds what its
 * name says, on every golden model; edits of a model give a model that can be run, and change what they should. */
#include "golden/fault_inputs.h"

#include "golden/record.h"
#include "oracle/fault.h"
#include "reference/engine.h"
#include "tests/trace_fixture.h"

#include <math.h>

static const char *const models[] = {"mini-0.5b", "mini-34b", "odd"};

/* What a schedule has, over all its calls. */
typedef struct {
    bool left, right, empty, several_rows, long_position, one_token_prompt, labels, restart, continued_padding, zero_id;
    int64_t documents, longest;
} content;

static content look(const gld_trace *t)
{
    content f = {.one_token_prompt = t->steps[0].batch.T == 1};
    for (int64_t j = 0; j < t->n_steps; j++) {
        const fh1_batch *b = &t->steps[j].batch;
        f.several_rows = b->B > 1;
        f.labels |= b->labels != NULL;
        f.longest = b->T > f.longest ? b->T : f.longest;
        for (int64_t i = 0; i < b->B * b->T; i++) {
            const int64_t *m = b->mask ? b->mask + (i / b->T + 1) * b->mask_len - b->T : NULL;
            const bool pad = m && !m[i % b->T];
            f.left |= pad && i % b->T == 0;
            f.right |= pad && i % b->T == b->T - 1 && m[0];
            f.continued_padding |= pad && j > 0 && b->T > 1;
            f.empty |= pad && i % b->T == b->T - 1 && !m[0];
            f.zero_id |= !pad && b->ids[i] == 0;
            f.long_position |= b->positions && b->positions[i] > 100000;
            f.restart |= b->positions && i % b->T > 0 && b->positions[i] < b->positions[i - 1];
            if (b->seq_idx && b->seq_idx[i] >= f.documents) f.documents = b->seq_idx[i] + 1;
        }
    }
    return f;
}

static bool holds(int which, const content *f, const fh1_config *c)
{
    switch (which) {
    case GLD_RAGGED: return f->left && f->several_rows && f->longest > 2 * c->Q;
    case GLD_PACKED: return f->documents > 2 && f->restart;
    case GLD_RIGHT_PADDED: return f->right && !f->left && f->longest > c->Q && f->continued_padding;
    case GLD_MIXED_PADDING: return f->left && f->right && f->continued_padding;
    case GLD_BATCH_OF_ONE_PADDED: return f->left && !f->several_rows;
    case GLD_LONG_POSITIONS: return f->long_position;
    case GLD_SINGLE_TOKENS: return f->one_token_prompt && f->longest == 1;
    case GLD_SHORT_CALLS: return !f->one_token_prompt && f->longest == 9;
    case GLD_LABELS: return f->labels && f->left;
    case GLD_RUNNING_DOCUMENTS: return f->documents > 2 && !f->restart;
    case GLD_EMPTY_ROW: return f->empty;
    case GLD_LONG_PROMPTS: return f->several_rows && f->longest == 3 * c->Q;
    default: return f->longest > 3 * c->Q && f->longest % c->Q;
    }
}

START_TEST(inputs_hold_what_their_name_says)
{
    for (int i = 0; i < N_OF(models); i++) {
        fh1_model m;
        OK(gld_fault_model_open("golden/models", models[i], &m));
        int held = 0;
        for (int which = 0; which < GLD_FAULT_INPUTS; which++) {
            gld_trace t, other;
            OK(gld_fault_inputs(&m.config, which, &t));
            OK(gld_trace_check_inputs(&t, &m.config));
            const content f = look(&t);
            ck_assert_msg(holds(which, &f, &m.config), "%s, %s", models[i], gld_fault_input_name(which));
            if (which > GLD_PACKED) ck_assert_msg(f.zero_id, "%s: no token 0", gld_fault_input_name(which));
            OK(gld_fault_inputs(&m.config, (which + 1) % GLD_FAULT_INPUTS, &other));
            const content g = look(&other);
            held += holds(which, &g, &m.config);
            gld_trace_free(&other);
            gld_trace_free(&t);
        }
        ck_assert_int_lt(held, GLD_FAULT_INPUTS / 2); /* the names tell the schedules apart */
        fh1_model_free(&m);
    }
    ck_assert_ptr_null(gld_fault_input_name(GLD_FAULT_INPUTS));
    ck_assert_str_eq(gld_fault_input_name(GLD_RIGHT_PADDED), "right_padded");
}
END_TEST

START_TEST(a_hole_in_the_mask_would_be_noticed)
{
    fh1_model m;
    gld_trace t;
    OK(gld_fault_model_open("golden/models", "odd", &m));
    OK(gld_fault_inputs(&m.config, GLD_MIXED_PADDING, &t));
    ((int64_t *)(uintptr_t)t.steps[0].batch.mask)[3] = 0;
    FAILS(gld_trace_check_inputs(&t, &m.config), FH1_E_INPUT, "hole");
    gld_trace_free(&t);
    fh1_model_free(&m);
}
END_TEST

/* Logits of the last step. */
static gld_trace run(const char *model, int inputs)
{
    fh1_model m;
    gld_trace in, out;
    OK(gld_fault_model_open("golden/models", model, &m));
    OK(fh1_config_check(&m.config));
    OK(gld_fault_inputs(&m.config, inputs, &in));
    fh1_engine *e = ref_engine_new("ref-f32", NULL, 0);
    const gld_record_options logits = {"logits", true, FH1_F32};
    OK(gld_record_like(e, &m, &in, &logits, &out));
    e->free(e);
    gld_trace_free(&in);
    fh1_model_free(&m);
    return out;
}

START_TEST(edits_change_the_model)
{
    static const char *const edits[] = {"linear", "dynamic", "yarn", "llama3", "longrope",
                                        "faint",  "sharp",   "loud", "wide"};
    for (int i = 0; i < N_OF(edits); i++) {
        char name[64];
        snprintf(name, sizeof name, "odd:%s", edits[i]);
        gld_trace plain = run("odd", GLD_SHORT_CALLS), again = run("odd", GLD_SHORT_CALLS);
        gld_trace edited = run(name, GLD_SHORT_CALLS);
        const int64_t last = plain.n_steps - 1;
        const fh1_tensor *a = &gld_trace_find(&plain, last, FH1_TAP_LOGITS, 0)->t;
        const fh1_tensor *b = &gld_trace_find(&edited, last, FH1_TAP_LOGITS, 0)->t;
        const fh1_tensor *c = &gld_trace_find(&again, last, FH1_TAP_LOGITS, 0)->t;
        const size_t bytes = (size_t)fh1_n_elems(a) * sizeof(float);
        ck_assert_msg(memcmp(a->data, b->data, bytes) != 0, "%s changes nothing", name);
        ck_assert_int_eq(memcmp(a->data, c->data, bytes), 0);
        for (int64_t k = 0; k < fh1_n_elems(b); k++)
            ck_assert_msg(isfinite(fh1_get(b, k)), "%s: logit %d", name, (int)k);
        gld_trace_free(&plain);
        gld_trace_free(&again);
        gld_trace_free(&edited);
    }
    fh1_model m;
    FAILS(gld_fault_model_open("golden/models", "odd:upside_down", &m), FH1_E_INPUT, "no such edit");
    FAILS(gld_fault_model_open("golden/models", "missing", &m), FH1_E_INPUT, "missing");
}
END_TEST

START_TEST(every_fault_has_a_case)
{
    for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT; f++) {
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        const gld_fault_case c = gld_fault_case_of((fh1_fault)f, gld_fault_family((fh1_fault)f));
        ck_assert_ptr_nonnull(c.model);
        ck_assert_ptr_nonnull(gld_fault_input_name((int)c.inputs));
        ck_assert_int_eq(fh1_fault_find(info->name), f); /* names are unique */
        ck_assert_msg(*info->source && *info->caught_by && *info->what && *info->op, "%s says too little", info->name);
        ck_assert_uint_eq(strspn(info->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(info->name));
    }
    ck_assert_int_eq(fh1_fault_find("no_such_fault"), FH1_FAULT_NONE);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {inputs_hold_what_their_name_says, a_hole_in_the_mask_would_be_noticed,
                            edits_change_the_model, every_fault_has_a_case};
    Suite *suite = suite_create("inputs for faults");
    TCase *tc = tcase_create("inputs for faults");
    tcase_set_timeout(tc, 60);
    for (int i = 0; i < N_OF(tests); i++) tcase_add_test(tc, tests[i]);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner), ran = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed || !ran;
}
