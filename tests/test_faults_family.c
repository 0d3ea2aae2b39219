/* Which families a planted fault belongs to (oracle/fault_mamba.h): those that Falcon-Mamba cannot have change no bit
 * of it, those that it can have name a tap and a case of it. That they show there is the matter of `fh1 faults --run`;
 * of backward passes most show here. */
#include "tests/faults_fixture.h"

#include "cli/gradcheck.h"
#include "convert/model_attach.h"

static bool is_of_forward(fh1_fault f)
{
    return !fh1_fault_is_gradient(f) && fault_has_rule(fh1_fault_get(f), "check");
}

/* The first tap that differs in a bit; FH1_TAP_COUNT: none. */
static fh1_tap_id first_change(const gld_trace *a, const gld_trace *b)
{
    for (int64_t j = 0; j < a->n_steps; j++)
        for (int64_t k = 0; k < a->steps[j].n_taps; k++) {
            const gld_tap *left = &a->steps[j].taps[k];
            const gld_tap *right = gld_trace_find(b, j, left->id, left->layer);
            const size_t bytes = (size_t)(fh1_n_elems(&left->t) * (fh1_dtype_bits(left->t.dtype) / 8));
            if (!right || memcmp(left->t.data, right->t.data, bytes) != 0) return left->id;
        }
    return FH1_TAP_COUNT;
}

static gld_trace run(fh1_fault f, const char *model, int inputs)
{
    const fh1_model *m = fault_model(model);
    gld_trace in;
    OK(gld_fault_inputs(&m->config, inputs, &in));
    gld_trace t = fault_record(ref_faulty_engine_new("ref-f32", NULL, 0, f), m, &in);
    gld_trace_free(&in);
    return t;
}

START_TEST(what_falcon_mamba_cannot_have_changes_no_bit)
{
    static const struct {
        const char *model;
        int inputs;
    } cases[] = {{"mamba-untied", GLD_RAGGED}, {"mamba-tied", GLD_MIXED_PADDING}, {"mamba-tied", GLD_PACKED}};
    int n = 0;
    for (int i = 0; i < N_OF(cases); i++) {
        gld_trace honest = run(FH1_FAULT_NONE, cases[i].model, cases[i].inputs);
        for (int f = 1; f < FH1_FAULT_COUNT; f++) {
            if (!is_of_forward((fh1_fault)f) || fh1_fault_acts_on((fh1_fault)f, FH1_FALCON_MAMBA)) continue;
            gld_trace t = run((fh1_fault)f, cases[i].model, cases[i].inputs);
            char tap[FH1_TAP_NAME_SIZE];
            const fh1_tap_id at = first_change(&honest, &t);
            ck_assert_msg(at == FH1_TAP_COUNT, "%s acts on %s: %s", fh1_fault_get((fh1_fault)f)->name, cases[i].model,
                          fh1_tap_name(FH1_FALCON_MAMBA, at, 0, tap));
            gld_trace_free(&t);
            n++;
        }
        gld_trace acting =
            run(FH1_FAULT_CONV_OFF_BY_ONE, cases[i].model, cases[i].inputs); /* the comparison can fail */
        ck_assert_int_eq(first_change(&honest, &acting), FH1_TAP_CONV_ACT);
        gld_trace_free(&acting);
        gld_trace_free(&honest);
    }
    ck_assert_int_gt(n, 300);
}
END_TEST

/* ---- backward passes ---- */

static const struct {
    const char *model, *adapter; /* NULL: without one */
    int batch;                   /* of gradcheck_batch_name */
} trained[] = {{"mamba-untied", NULL, 7},
               {"mamba-tied", NULL, 5},
               {"mamba-untied", "mamba-linear", 5},
               {"mamba-tied", "mamba-tied-ends", 7}};

static void open_trained(int i, fh1_model *m, gradcheck_batch *batch)
{
    char model[128], adapter[128];
    const char *list[] = {adapter};
    snprintf(model, sizeof model, "golden/models/%s", trained[i].model);
    snprintf(adapter, sizeof adapter, "golden/gradients/adapters/%s", trained[i].adapter ? trained[i].adapter : "");
    const cvt_attach a = {.adapters = list, .n = trained[i].adapter ? 1 : 0};
    OK(cvt_model_open_attached(model, &a, m));
    OK(gradcheck_batch_new(&m->config, 1, trained[i].batch, batch));
}

static fh1_grads *gradients(fh1_fault f, const fh1_model *m, const fh1_batch *b)
{
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, f);
    fh1_backward o = {0};
    ck_assert_ptr_nonnull(e);
    OK(gld_grads_new(m, FH1_F32, &o.grads));
    OK(e->backward(e, m, b, &o));
    e->free(e);
    return o.grads;
}

/* The first parameter whose gradient differs in a bit; g->n: none. */
static int64_t first_gradient(fh1_fault f, const fh1_model *m, const fh1_batch *b, const fh1_grads *honest)
{
    fh1_grads *g = gradients(f, m, b);
    int64_t k = 0;
    while (k < g->n && memcmp(g->params[k].grad.data, honest->params[k].grad.data,
                              (size_t)fh1_n_elems(&g->params[k].grad) * sizeof(float)) == 0)
        k++;
    fh1_grads_free(g);
    return k;
}

/* Of those it can have, windows, states, square weights, large dt and the optimiser are beyond these passes. */
START_TEST(gradients_of_falcon_mamba_know_its_faults_alone)
{
    bool acts[FH1_FAULT_COUNT] = {false};
    int can = 0, cannot = 0, seen = 0;
    for (int i = 0; i < N_OF(trained); i++) {
        fh1_model m;
        gradcheck_batch batch;
        open_trained(i, &m, &batch);
        fh1_grads *honest = gradients(FH1_FAULT_NONE, &m, &batch.batch);
        for (int f = 1; f < FH1_FAULT_COUNT; f++) {
            if (!fh1_fault_is_gradient((fh1_fault)f) || acts[f]) continue;
            const int64_t at = first_gradient((fh1_fault)f, &m, &batch.batch, honest);
            acts[f] = at < honest->n;
            ck_assert_msg(!acts[f] || fh1_fault_acts_on((fh1_fault)f, FH1_FALCON_MAMBA), "%s acts on %s: %s",
                          fh1_fault_get((fh1_fault)f)->name, trained[i].model,
                          acts[f] ? honest->params[at].name : "nothing");
        }
        fh1_grads_free(honest);
        gradcheck_batch_free(&batch);
        fh1_model_free(&m);
    }
    for (int f = 1; f < FH1_FAULT_COUNT; f++) {
        if (!fh1_fault_is_gradient((fh1_fault)f)) continue;
        seen += acts[f];
        *(fh1_fault_acts_on((fh1_fault)f, FH1_FALCON_MAMBA) ? &can : &cannot) += 1;
    }
    ck_assert_int_ge(seen, 40);
    ck_assert_int_gt(can, seen);
    ck_assert_int_gt(cannot, 30);
}
END_TEST

START_TEST(what_it_can_have_has_a_tap_and_a_case_of_it)
{
    int both = 0, own = 0;
    for (int i = 1; i < FH1_FAULT_COUNT; i++) {
        const fh1_fault f = (fh1_fault)i;
        const bool h1 = fh1_fault_acts_on(f, FH1_FALCON_H1), mamba = fh1_fault_acts_on(f, FH1_FALCON_MAMBA);
        ck_assert_msg(h1 || mamba, "%s acts on nothing", fh1_fault_get(f)->name);
        ck_assert_int_eq(gld_fault_family(f), h1 ? FH1_FALCON_H1 : FH1_FALCON_MAMBA);
        ck_assert_int_eq(fh1_fault_tap(f, gld_fault_family(f)), fh1_fault_get(f)->tap);
        if (!mamba) continue;
        const fh1_config c = {.family = FH1_FALCON_MAMBA};
        ck_assert_msg(fh1_tap_exists(&c, fh1_fault_tap(f, FH1_FALCON_MAMBA)), "%s names no tap of Falcon-Mamba",
                      fh1_fault_get(f)->name);
        ck_assert_msg(strncmp(gld_fault_case_of(f, FH1_FALCON_MAMBA).model, "mamba-", 6) == 0, "%s",
                      fh1_fault_get(f)->name);
        both += h1;
        own += !h1;
    }
    ck_assert_int_gt(both, 120);
    ck_assert_int_gt(own, 20);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {what_falcon_mamba_cannot_have_changes_no_bit,
                            gradients_of_falcon_mamba_know_its_faults_alone,
                            what_it_can_have_has_a_tap_and_a_case_of_it, NULL};
    return faults_main("families of faults", tests);
}
