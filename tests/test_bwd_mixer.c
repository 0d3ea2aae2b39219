/* Backward of conv1d, dt_softplus, ssd_scan and gated_norm against the complex step through the same forward, and the
 * contract of fh1_bwd_ops (tests/grad_fixture.h). Every planted fault of these ops is seen, in f64 and in f32. */
#include "tests/bwd_mixer_cases.h"

#include "reference/faulty.h"

static fh1_engine *f64;

static void open_engine(void)
{
    f64 = ref_engine_new("ref-f64", NULL, 0);
}

static void close_engine(void)
{
    f64->free(f64);
}

static const int64_t lengths[] = {1, 3, 15, 16, 17, 37}; /* the scan's chunk is 16 */

START_TEST(conv1d_holds)
{
    for (int k = 0; k < 6 * 3 * 4; ++k) { /* K = 2 … 4, T < K among them */
        const call_shape s = {.T = lengths[k % 6],
                              .n = {k % 5 ? 5 : 66, 2 + k / 6 % 3},
                              .doc = k / 18 % 2 ? case_documents() : NULL,
                              .doc_before = k % 3 ? 0 : -1,
                              .plain = k / 36};
        const grad_op op = conv_case(&s);
        GRAD_HOLDS(&op, f64);
    }
    const call_shape pointwise = {.T = 3, .n = {5, 1}}, long_sums = {.T = 200, .n = {3, 4}};
    const grad_op a = conv_case(&pointwise), b = conv_case(&long_sums);
    GRAD_HOLDS(&a, f64);
    GRAD_HOLDS(&b, f64);
}
END_TEST

static const double limits[][2] = {{0, (double)INFINITY}, {21, 25}, {0.25, 20.5}, {0.001, 0.1}};

START_TEST(dt_softplus_holds)
{
    for (int k = 0; k < 6 * 4; ++k) {
        const call_shape s = {
            .T = lengths[k % 6], .n = {k % 2 ? 3 : 13}, .lo = limits[k / 6][0], .hi = limits[k / 6][1]};
        const grad_op op = dt_case(&s);
        GRAD_HOLDS(&op, f64);
    }
}
END_TEST

START_TEST(ssd_scan_holds)
{
    for (int k = 0; k < 6 * 3 * 2; ++k) { /* G = 1, 2, 4 */
        const call_shape s = {.T = lengths[k % 6],
                              .n = {4, 2, k % 7 ? 3 : 17, 1 << k / 6 % 3},
                              .doc = k / 18 ? case_documents() : NULL,
                              .doc_before = k % 4 ? 0 : -1};
        const grad_op op = scan_case(&s);
        GRAD_HOLDS(&op, f64);
    }
}
END_TEST

START_TEST(segments_of_a_scan_hold)
{
    const call_shape s = {.T = 517, .n = {2, 1, 2, 1}};
    grad_op op = scan_case(&s);
    op.sampled = 25;
    GRAD_HOLDS(&op, f64);
}
END_TEST

START_TEST(gated_norm_holds)
{
    for (int k = 0; k < 6 * 3 * 3; ++k) {
        const int form = k / 18;
        const call_shape s = {
            .T = lengths[k % 6], .n = {12, 1 << k / 6 % 3}, .norm_first = form == 1, .plain = form == 2};
        const grad_op op = gate_case(&s);
        GRAD_HOLDS(&op, f64);
    }
}
END_TEST

/* -- planted faults -- */

/* The ordinary calls in which a fault of the op must show, one after the other. */
static int calls_of(const char *op, call_shape *s)
{
    const double none = (double)INFINITY;
    int n = 0;
    if (!strcmp(op, "conv1d")) {
        s[n++] = (call_shape){.T = 19, .n = {5, 4}};
        s[n++] = (call_shape){.T = 19, .n = {5, 4}, .doc = case_documents()};
    } else if (!strcmp(op, "dt_softplus")) {
        s[n++] = (call_shape){.T = 19, .n = {5}, .hi = none};
        s[n++] = (call_shape){.T = 19, .n = {5}, .lo = 0.25, .hi = 20.5};
        s[n++] = (call_shape){.T = 19, .n = {5}, .lo = 0, .hi = 25};
    } else if (!strcmp(op, "ssd_scan")) {
        s[n++] = (call_shape){.T = 21, .n = {4, 2, 3, 2}};
        s[n++] = (call_shape){.T = 21, .n = {4, 2, 3, 2}, .doc = case_documents()};
    } else {
        s[n++] = (call_shape){.T = 5, .n = {12, 2}};
        s[n++] = (call_shape){.T = 5, .n = {12, 2}, .norm_first = true};
    }
    return n;
}

static grad_op case_of(const char *op, const call_shape *s)
{
    return !strcmp(op, "conv1d")        ? conv_case(s)
           : !strcmp(op, "dt_softplus") ? dt_case(s)
           : !strcmp(op, "ssd_scan")    ? scan_case(s)
                                        : gate_case(s);
}

/* The largest gap of the calls, as a share of the largest element of its array. */
static double gap_of(const char *op, const char *engine, fh1_fault f)
{
    call_shape s[4];
    const int n = calls_of(op, s);
    double worst = 0;
    for (int i = 0; i < n; ++i) {
        fh1_engine *e = ref_faulty_engine_new(engine, NULL, 0, f);
        ck_assert_ptr_nonnull(e);
        grad_op c = case_of(op, &s[i]);
        c.sampled = 40;
        worst = fmax(worst, grad_check(&c, e).element);
        e->free(e);
    }
    return worst;
}

static bool is_of_mixer(const fh1_fault_info *info)
{
    static const char *const ops[] = {"conv1d", "dt_softplus", "ssd_scan", "gated_norm"};
    for (int i = 0; i < 4; ++i)
        if (!strcmp(info->op, ops[i])) return !strncmp(info->name, "grad_", 5);
    return false;
}

START_TEST(every_fault_is_seen)
{
    int n = 0;
    for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT; ++f) {
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        if (!is_of_mixer(info)) continue;
        ++n;
        const double by[2] = {gap_of(info->op, "ref-f64", (fh1_fault)f), gap_of(info->op, "ref-f32", (fh1_fault)f)};
        for (int k = 0; k < 2; ++k) ck_assert_msg(by[k] > 0.02, "%s moves gradients by %.3g only", info->name, by[k]);
    }
    ck_assert_int_ge(n, 38);
}
END_TEST

static fh1_status cut_backward(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    call_shape exact = *(const call_shape *)op->shape;
    exact.variants = 0;
    const grad_op cut = {.shape = &exact};
    return scan_backward(&cut, e, in, dout, din);
}

/* Documents by -80, over a state so large that exp(-80) of it is of order one: what is carried through the reset is
 * seen, and so is a Δ or an A that takes part in it. */
START_TEST(a_reset_is_a_constant)
{
    static const int64_t doc[6] = {1, 1, 1, 2, 2, 3};
    const call_shape s = {.T = 6, .n = {4, 2, 3, 2}, .doc = doc, .variants = FH1_VAR_DOC_RESET_80};
    call_shape exact = s;
    exact.variants = 0;
    grad_op op = scan_case(&s), cut = scan_case(&exact);
    double state[4 * 2 * 3];
    for (int i = 0; i < 24; ++i) state[i] = 1e35 * op.in[6].v[i];
    op.in[6].v = state;
    GRAD_HOLDS(&op, f64);
    fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, FH1_FAULT_GRAD_DECAY_CROSSES_DOCUMENTS);
    GRAD_BREAKS(&op, e);
    e->free(e);
    op.backward = cut_backward; /* the backward of the exact cut */
    GRAD_BREAKS(&op, f64);
    GRAD_HOLDS(&cut, f64);
}
END_TEST

/* The calls that show the faults find nothing in the faulty copies without a fault. */
START_TEST(no_fault_is_no_fault)
{
    static const char *const ops[] = {"conv1d", "dt_softplus", "ssd_scan", "gated_norm"};
    for (int i = 0; i < 4; ++i) {
        ck_assert(gap_of(ops[i], "ref-f64", FH1_FAULT_NONE) < GRAD_ELEMENT);
        ck_assert(gap_of(ops[i], "ref-f32", FH1_FAULT_NONE) < 1e-5);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {conv1d_holds,     dt_softplus_holds,   ssd_scan_holds,       segments_of_a_scan_hold,
                                  gated_norm_holds, every_fault_is_seen, no_fault_is_no_fault, a_reset_is_a_constant};
    Suite *s = suite_create("backward of the mixer");
    TCase *c = tcase_create("ops");
    tcase_add_checked_fixture(c, open_engine, close_engine);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(c, tests[i]);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
