/* The backward pass of the whole model against the complex step over golden models: seeded elements and the largest of
 * every parameter, one direction of all parameters at once; lengths around the chunk of the scan, padding, documents, a
 * padding row that is held, adapters. Planted faults differ. */
#include "reference/faulty.h"
#include "tests/complex_fixture.h"

typedef struct {
    double element;          /* the largest gap of an element over the largest of its tensor */
    double direction;        /* gap of the direction over the sum of |terms| */
    char at[FH1_PARAM_NAME]; /* parameter of `element` */
} gaps;

/* The largest element of a gradient. */
static double largest(const fh1_tensor *grad, int64_t *at)
{
    double most = 0;
    *at = 0;
    for (int64_t i = 0, n = fh1_n_elems(grad); i < n; ++i)
        if (fabs(fh1_get(grad, i)) > most) most = fabs(fh1_get(grad, i)), *at = i;
    return most;
}

static double slope(ref_complex_model *z)
{
    double value, derivative;
    GRAD_FINE(ref_complex_value(z, &value, &derivative));
    return derivative;
}

/* `elements` seeded ones of each parameter, and its largest. */
static void compare_elements(ref_complex_model *z, const fh1_grads *g, int elements, gaps *out)
{
    for (int64_t k = 0; k < g->n; ++k) {
        const fh1_param *p = &g->params[k];
        const fh1_stream pick = fh1_stream_open(17, p->name);
        int64_t top;
        const double most = largest(&p->grad, &top);
        for (int e = 0; e <= elements; ++e) {
            const int64_t i = e == elements ? top : fh1_random_below(pick, (uint64_t)e, fh1_n_elems(p->value));
            ref_complex_clear(z);
            GRAD_FINE(ref_complex_direct_element(z, p->value, i, 1));
            const double err = fabs(slope(z) - fh1_get(&p->grad, i)), gap = fh1_within(err, 0) ? 0 : err / most;
            if (fh1_within(gap, out->element)) continue;
            out->element = isnan(gap) ? (double)INFINITY : gap;
            memcpy(out->at, p->name, sizeof out->at);
        }
    }
}

static void compare_direction(ref_complex_model *z, const fh1_grads *g, gaps *out)
{
    double sum = 0, terms = 0;
    for (int64_t k = 0; k < g->n; ++k) {
        const fh1_param *p = &g->params[k];
        double *v = direction_of(p);
        GRAD_FINE(ref_complex_direct(z, p->value, v));
        for (int64_t i = 0, n = fh1_n_elems(p->value); i < n; ++i) {
            sum += v[i] * fh1_get(&p->grad, i);
            terms += fabs(v[i] * fh1_get(&p->grad, i));
        }
        free(v);
    }
    const double err = fabs(slope(z) - sum);
    out->direction = fh1_within(err, 0) ? 0 : fh1_within(err, (double)INFINITY) ? err / terms : (double)INFINITY;
}

static gaps run(fh1_engine *e, example *x, const fh1_batch *b, int elements)
{
    gaps out = {0};
    fh1_grads *g;
    ref_complex_model *z;
    GRAD_FINE(fh1_grads_new(&x->m, FH1_F64, NULL, NULL, &g));
    GRAD_FINE(ref_complex_model_new(&x->m, 0, fh1_padding_idx(&x->m.config), &z));
    /* one column has no label that counts: weights of logits instead */
    const double *w = b->T == 1 ? x->w : NULL;
    const fh1_batch plain = {.B = b->B, .T = b->T, .ids = b->ids};
    if (w) b = &plain;
    fh1_backward o = {.grads = g, .dlogits = w};
    GRAD_FINE(e->backward(e, &x->m, b, &o));
    GRAD_FINE(ref_complex_function(z, b, 0, w));
    double value, derivative;
    GRAD_FINE(ref_complex_value(z, &value, &derivative));
    if (!w && !e->fault) ck_assert_msg(fh1_within(fabs(value - o.loss), 1e-13 * fabs(value)), "%a %a", value, o.loss);
    compare_elements(z, g, elements, &out);
    compare_direction(z, g, &out);
    fh1_grads_free(g);
    ref_complex_model_free(z);
    return out;
}

static void agrees(fh1_engine *e, example *x, const fh1_batch *b, const char *what, int elements)
{
    const gaps a = run(e, x, b, elements);
    ck_assert_msg(fh1_within(a.element, GRAD_ELEMENT), "%s, %d columns: %s %g", what, (int)b->T, a.at, a.element);
    ck_assert_msg(fh1_within(a.direction, GRAD_DIRECTION), "%s, %d columns: %g", what, (int)b->T, a.direction);
}

static void use_pad_as_token(example *x)
{
    x->ids[5] = x->ids[11] = x->m.config.pad;
}

START_TEST(golden_models)
{
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    for (int g = 0; g < N_GOLDEN; ++g) {
        example x;
        open_example(&x, g);
        use_pad_as_token(&x);
        agrees(e, &x, g % 2 ? &x.padded : &x.packed, golden[g], 4);
        close_example(&x);
    }
    e->free(e);
}
END_TEST

/* One token, fewer than the window of the conv, around one chunk of the scan (of a selective scan: of what its backward
 * pass takes at a time), and two chunks with a rest. */
static void lengths_of(int which, int64_t Q)
{
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    example x;
    open_example(&x, which);
    const int64_t columns[] = {1, 2, 3, Q - 1, Q, Q + 1, 2 * Q + 5};
    int64_t ids[256], labels[256];
    ck_assert_int_lt(2 * Q + 5, 256);
    for (int i = 0; i < 256; ++i) ids[i] = labels[i] = x.ids[i % MAX];
    for (size_t k = 0; k < sizeof columns / sizeof *columns; ++k) {
        const fh1_batch b = {.B = 1, .T = columns[k], .ids = ids, .labels = labels};
        agrees(e, &x, &b, golden[which], 0);
    }
    close_example(&x);
    e->free(e);
}

START_TEST(lengths)
{
    example x;
    open_example(&x, MINI_34B);
    const int64_t Q = x.m.config.Q;
    close_example(&x);
    lengths_of(MINI_34B, Q);
    lengths_of(MAMBA, 64);
}
END_TEST

static void reject(int which, const fh1_fault *faults)
{
    example x;
    open_example(&x, which);
    use_pad_as_token(&x);
    for (; *faults != FH1_FAULT_NONE; ++faults) {
        fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, *faults);
        const gaps a = run(e, &x, &x.packed, 0);
        ck_assert_msg(!fh1_within(a.element, GRAD_SEEN) || !fh1_within(a.direction, GRAD_SEEN), "%s: %g, %g",
                      fh1_fault_get(*faults)->name, a.element, a.direction);
        e->free(e);
    }
    close_example(&x);
}

/* One of each kind of op; each moves some element far out of the bound of the golden models. */
START_TEST(planted_faults)
{
    static const fh1_fault of_h1[] = {FH1_FAULT_GRAD_NORM_CONSTANT,
                                      FH1_FAULT_GRAD_SOFTMAX_WITHOUT_ROW_TERM,
                                      FH1_FAULT_GRAD_B_DECAY_MISSING,
                                      FH1_FAULT_GRAD_B_AND_C_LAST_HEAD,
                                      FH1_FAULT_GRAD_CONV_TAPS_REVERSED,
                                      FH1_FAULT_GRAD_TIED_HEAD_SHARE_LOST,
                                      FH1_FAULT_GRAD_EMBED_PADDING_ROW_KEPT,
                                      FH1_FAULT_GRAD_MUP_DROPPED,
                                      FH1_FAULT_NONE};
    static const fh1_fault of_mamba[] = {FH1_FAULT_GRAD_INNER_NORM_JACOBIAN_DROPPED,
                                         FH1_FAULT_GRAD_INNER_NORM_CONSTANT,
                                         FH1_FAULT_GRAD_X_WITHOUT_X_PROJ,
                                         FH1_FAULT_GRAD_B_AND_C_LAST_HEAD,
                                         FH1_FAULT_GRAD_DT_DECAY_DROPPED,
                                         FH1_FAULT_GRAD_CARRY_CROSSES_DOCUMENTS,
                                         FH1_FAULT_GRAD_CONV_LEAKS_DOCUMENTS,
                                         FH1_FAULT_GRAD_GATE_SLOPE_IS_SIGMOID,
                                         FH1_FAULT_GRAD_SOFTPLUS_AT_OUTPUT,
                                         FH1_FAULT_GRAD_RESIDUAL_NOT_PASSED,
                                         FH1_FAULT_NONE};
    reject(ODD, of_h1); /* tied, three groups */
    reject(MAMBA, of_mamba);
}
END_TEST

int main(void)
{
    fh1_set_threads(1); /* the loops are short: waking a pool costs more */
    Suite *suite = suite_create("complex_backward");
    TCase *tc = tcase_create("complex_backward");
    tcase_add_test(tc, golden_models);
    tcase_add_test(tc, lengths);
    tcase_add_test(tc, planted_faults);
    tcase_set_timeout(tc, 200);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
