/* Backward ops of the CUDA engine on the CPU (cuda-host; FH1_CUDA_ENGINE=cuda: on the device) against the complex step,
 * through e->bwd_ops as tests of any engine go, with the contract of those entries: assigned or added, NULL where
 * nothing is wanted, the same bits again. tests/cuda/test_cu_*_bwd.cu look at the kernels themselves. */
#include "tests/bwd_mixer_cases.h"

#include "cuda/engine.h"
#include "reference/faulty.h"

enum { SKIPPED = 77 };
static fh1_engine *cuda, *f32;

static const char *engine_name(void)
{
    const char *name = getenv("FH1_CUDA_ENGINE");
    return name && *name ? name : "cuda-host";
}

static void open_engines(void)
{
    GRAD_FINE(cu_engine_new(engine_name(), fh1_profile_find("fp32"), 0, &cuda));
    f32 = ref_engine_new("ref-f32", NULL, 0);
}

static void close_engines(void)
{
    cuda->free(cuda);
    f32->free(f32);
}

/* How much of an array's largest element f32 may lose: eight times what the reference in f32 loses, whose order of
 * summation is another one, and no less than 16 roundings. A direction averages over all elements. */
static double allowed(const grad_op *op)
{
    return 8 * grad_check(op, f32).element + 0x1p-20;
}

static void holds(const grad_op *op)
{
    const grad_gap gap = grad_check(op, cuda);
    const double most = allowed(op);
    ck_assert_msg(!gap.broken[0], "%s: %s", op->name, gap.broken);
    ck_assert_msg(most < 1e-3, "%s: f32 says nothing here: %.3g", op->name, most);
    ck_assert_msg(fh1_within(gap.element, most), "%s: d%s[%lld] is off by %.3g of its largest, %.3g are allowed",
                  op->name, gap.array, (long long)gap.at, gap.element, most);
    ck_assert_msg(fh1_within(gap.direction, most), "%s: a direction is off by %.3g", op->name, gap.direction);
}

/* The same measure sees a wrong backward pass. */
static void sees(const grad_op *op, fh1_fault f)
{
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, f);
    ck_assert_ptr_nonnull(e);
    const grad_gap gap = grad_check(op, e);
    ck_assert_msg(!fh1_within(gap.element, allowed(op)), "%s is not seen: %.3g", fh1_fault_get(f)->name, gap.element);
    e->free(e);
}

static const int64_t lengths[] = {1, 3, 37, 63, 64, 65, 133}; /* the kernels' chunk is 64 */
enum { LENGTHS = sizeof lengths / sizeof *lengths };

START_TEST(conv1d)
{
    for (int k = 0; k < LENGTHS * 4; ++k) {
        const call_shape s = {.T = lengths[k % LENGTHS],
                              .n = {5, 1 + k % 5},
                              .doc = k / LENGTHS % 2 ? case_documents() : NULL,
                              .doc_before = k % 3 ? 0 : -1,
                              .plain = k / LENGTHS / 2};
        grad_op op = conv_case(&s);
        op.sampled = 24;
        holds(&op);
    }
    const call_shape s = {.T = 37, .n = {5, 4}};
    grad_op op = conv_case(&s);
    sees(&op, FH1_FAULT_GRAD_CONV_TAPS_REVERSED);
}
END_TEST

START_TEST(dt_softplus)
{
    static const double limits[][2] = {{0, (double)INFINITY}, {21, 25}, {0.25, 20.5}, {0.001, 0.1}};
    for (int k = 0; k < LENGTHS * 4; ++k) {
        const call_shape s = {.T = lengths[k % LENGTHS],
                              .n = {k % 2 ? 3 : 2},
                              .lo = limits[k / LENGTHS][0],
                              .hi = limits[k / LENGTHS][1]};
        grad_op op = dt_case(&s);
        op.sampled = 24;
        holds(&op);
    }
    const call_shape s = {.T = 37, .n = {3}, .lo = 21, .hi = 25};
    grad_op op = dt_case(&s);
    sees(&op, FH1_FAULT_GRAD_DT_CLAMP_ZERO_AT_LIMIT);
}
END_TEST

START_TEST(ssd_scan)
{
    for (int k = 0; k < LENGTHS * 2; ++k) { /* G = 1, 2, 4 */
        const call_shape s = {.T = lengths[k % LENGTHS],
                              .n = {4, 2, k % 5 ? 3 : 17, 1 << k % 3},
                              .doc = k / LENGTHS && lengths[k % LENGTHS] < 70 ? case_documents() : NULL,
                              .doc_before = k % 4 ? 0 : -1};
        grad_op op = scan_case(&s);
        op.sampled = 24;
        holds(&op);
    }
    const call_shape s = {.T = 37, .n = {4, 2, 3, 2}};
    grad_op op = scan_case(&s);
    sees(&op, FH1_FAULT_GRAD_B_AND_C_LAST_HEAD);
}
END_TEST

START_TEST(gated_norm)
{
    for (int k = 0; k < LENGTHS * 3; ++k) {
        const call_shape s = {.T = lengths[k % LENGTHS],
                              .n = {24, 1 << k % 3},
                              .norm_first = k / LENGTHS == 1,
                              .plain = k / LENGTHS == 2};
        grad_op op = gate_case(&s);
        op.sampled = 24;
        holds(&op);
    }
    const call_shape s = {.T = 5, .n = {24, 2}};
    grad_op op = gate_case(&s);
    sees(&op, FH1_FAULT_GRAD_GATED_NORM_OVER_WHOLE_WIDTH);
}
END_TEST

int main(void)
{
    char why[1024];
    if (strcmp(engine_name(), "cuda") == 0 && cu_device_missing()) {
        printf("skipped: %s\n", fh1_status_line(cu_device_missing(), why, sizeof why));
        return SKIPPED;
    }
    const TTest *const tests[] = {conv1d, dt_softplus, ssd_scan, gated_norm};
    Suite *s = suite_create("cuda_bwd");
    TCase *t = tcase_create("cuda_bwd");
    tcase_add_unchecked_fixture(t, open_engines, close_engines);
    tcase_set_timeout(t, 600);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* a CUDA context does not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
