/* Backward of selective_scan: every derivative of a call against the complex step through the same forward, documents
 * packed and apart, and the planted faults of its gradients. */
#include "reference/faulty.h"
#include "tests/grad_fixture.h"

enum { TOKENS = 140 };

typedef struct {
    int64_t T, I, N;
    const int64_t *doc;
    int64_t doc_before;
    unsigned variants; /* FH1_VAR_DOC_RESET_80 */
} call_shape;

/* Numbers that are kept until the program ends: a list, so that none counts as lost. */
typedef struct kept {
    struct kept *next;
    double v[];
} kept;
static kept *all_kept;

/* n numbers that f32 holds, normal or from lo to hi. */
static const double *values(const char *name, int64_t n, double lo, double hi)
{
    kept *block = malloc(sizeof *block + (size_t)n * sizeof *block->v);
    ck_assert_ptr_nonnull(block);
    block->next = all_kept;
    all_kept = block;
    double *v = block->v;
    const fh1_stream s = fh1_stream_open(3, name);
    for (int64_t i = 0; i < n; ++i) {
        const double u = fh1_random_uniform(s, (uint64_t)i);
        v[i] = (double)(float)(hi > lo ? lo + (hi - lo) * u : fh1_random_normal(s, (uint64_t)i));
    }
    return v;
}

/* x, B, C, dt, A_log, D, state -> y, state */
static fh1_status forward(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    const call_shape *s = op->shape;
    const fh1_tensor A = grad_weight2(e, in[4], s->I, s->N), D = grad_weight1(e, in[5], s->I);
    grad_carry(op, e, in[6], out[1], 1);
    e->variants = s->variants;
    return e->ops->selective_scan(e, s->T, s->I, s->N, in[0], in[1], in[2], in[3], &A, &D, s->doc, s->doc_before,
                                  out[1], out[0]);
}

static fh1_status backward(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    const call_shape *s = op->shape;
    const fh1_tensor A = grad_weight2(e, in[4], s->I, s->N), D = grad_weight1(e, in[5], s->I);
    e->variants = s->variants;
    return e->bwd_ops->selective_scan(e, s->T, s->I, s->N, in[0], in[1], in[2], in[3], &A, &D, s->doc, s->doc_before,
                                      in[6], dout[0], dout[1], din[0], din[1], din[2], din[3], din[4], din[5], din[6]);
}

static grad_op call_of(const call_shape *s)
{
    const int64_t d = s->T * s->I, gn = s->T * s->N, n = s->I * s->N;
    return (grad_op){.name = "selective_scan",
                     .n_in = 7,
                     .n_out = 2,
                     .in = {{"x", d, values("x", d, 0, 0)},
                            {"B", gn, values("B", gn, 0, 0)},
                            {"C", gn, values("C", gn, 0, 0)},
                            {"dt", d, values("dt", d, 0.01, 0.6)},
                            {"A_log", n, values("A_log", n, -1, 1.5), .parameter = true},
                            {"D", s->I, values("D", s->I, 0, 0), .parameter = true},
                            {"state", n, values("state", n, 0, 0)}},
                     .out = {{"y", d}, {"state", n}},
                     .shape = s,
                     .sampled = 60,
                     .forward = forward,
                     .backward = backward};
}

/* Documents of 1 to 9 tokens, so that some begin at the edge of a segment of 64 and of a chunk of 16, some not. */
static const int64_t *documents(void)
{
    static int64_t doc[TOKENS];
    for (int64_t t = 1, left = 4; t < TOKENS; ++t, --left) {
        doc[t] = doc[t - 1] + (left == 0);
        if (left == 0) left = 1 + t * 5 % 9;
    }
    return doc;
}

/* N around vectors of 4, I around the block of 32, T around the segment of 64 tokens and at three of them. */
static const int64_t shapes[][3] = {{1, 1, 1},  {1, 33, 16}, {2, 3, 5},      {17, 5, 8},
                                    {64, 3, 7}, {65, 2, 3},  {TOKENS, 2, 4}, {9, 70, 6}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void holds(const call_shape *s, fh1_engine *e, double *worst)
{
    const grad_op op = call_of(s);
    const grad_gap g = grad_check(&op, e);
    ck_assert_msg(fh1_within(g.element, GRAD_ELEMENT) && fh1_within(g.direction, GRAD_DIRECTION),
                  "T %lld, I %lld, N %lld: d%s[%lld] off by %.3g, along a direction %.3g %s", (long long)s->T,
                  (long long)s->I, (long long)s->N, g.array, (long long)g.at, g.element, g.direction, g.broken);
    if (!fh1_within(g.element, *worst)) *worst = g.element;
}

START_TEST(the_complex_step_agrees)
{
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    double worst = 0;
    for (int k = 0; k < 3 * N_SHAPES; ++k) {
        const int64_t *n = shapes[k / 3];
        const call_shape s = {
            .T = n[0], .I = n[1], .N = n[2], .doc = k % 3 ? documents() : NULL, .doc_before = k % 3 - 2};
        holds(&s, e, &worst);
    }
    printf("  largest gap to the complex step, over the largest gradient of its array: %.2g\n", worst);
    e->free(e);
}
END_TEST

/* √T above 64: segments of 128 tokens, forty of them. */
START_TEST(longer_segments)
{
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    static const call_shape s = {.T = 5003, .I = 2, .N = 2};
    grad_op op = call_of(&s);
    op.sampled = 8;
    const grad_gap g = grad_check(&op, e);
    ck_assert_msg(fh1_within(g.element, GRAD_ELEMENT), "d%s[%lld] off by %.3g %s", g.array, (long long)g.at, g.element,
                  g.broken);
    e->free(e);
}
END_TEST

/* f32 is off by what its sums of T·N and I terms lose, far below a planted fault. */
START_TEST(single_precision)
{
    fh1_engine *e = ref_engine_new("ref-f32", NULL, 0);
    static const call_shape s = {.T = 33, .I = 37, .N = 7};
    const grad_op op = call_of(&s);
    const grad_gap g = grad_check(&op, e);
    ck_assert_msg(fh1_within(g.element, 1e-4), "d%s[%lld] off by %.3g %s", g.array, (long long)g.at, g.element,
                  g.broken);
    e->free(e);
}
END_TEST

/* No tokens hand the state's gradient on; a NULL state is zeros. */
START_TEST(ends_of_a_call)
{
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    enum { T = 5, I = 3, N = 4 };
    const double *x = values("x", T * I, 0, 0), *B = values("B", T * N, 0, 0), *C = values("C", T * N, 0, 0);
    const double *dt = values("dt", T * I, 0.01, 0.6), *dy = values("dy", T * I, 0, 0),
                 *after = values("s", I * N, 0, 0);
    double a_log[I * N] = {0}, d[I] = {1, 2, 3}, zeros[I * N] = {0}, dx[2][T * I], ds[2][I * N];
    const fh1_tensor A = fh1_view2(a_log, FH1_F64, I, N), D = fh1_view1(d, FH1_F64, I);
    GRAD_FINE(e->bwd_ops->selective_scan(e, 0, I, N, x, B, C, dt, &A, &D, NULL, 0, zeros, dy, after, NULL, NULL, NULL,
                                         NULL, NULL, NULL, ds[0]));
    ck_assert(memcmp(ds[0], after, sizeof ds[0]) == 0);
    for (int k = 0; k < 2; ++k)
        GRAD_FINE(e->bwd_ops->selective_scan(e, T, I, N, x, B, C, dt, &A, &D, NULL, 0, k ? zeros : NULL, dy, NULL,
                                             dx[k], NULL, NULL, NULL, NULL, NULL, ds[k]));
    ck_assert(memcmp(dx[0], dx[1], sizeof dx[0]) == 0 && memcmp(ds[0], ds[1], sizeof ds[0]) == 0);
    e->free(e);
}
END_TEST

/* What lies in another document, NaN or not, is not seen. */
START_TEST(documents_do_not_meet)
{
    fh1_engine *e = ref_engine_new("ref-f32", NULL, 0);
    enum { T = 12, I = 34, N = 5 };
    static const int64_t doc[T] = {2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 6};
    static float x[T * I], B[T * N], C[T * N], dt[T * I], dy[T * I], a_log[I * N], d[I], state[I * N];
    static float dx[2][T * I], dB[2][T * N], dC[2][T * N], ddt[2][T * I];
    float *const to[] = {x, B, C, dt, dy, a_log, d};
    const int64_t size[] = {T * I, T * N, T * N, T * I, T * I, I * N, I};
    static const char *const name[] = {"x", "B", "C", "dt", "dy", "A_log", "D"};
    for (int i = 0; i < 7; ++i)
        fh1_from_f64(to[i], FH1_F32, values(name[i], size[i], i == 3 ? 0.01 : 0, i == 3 ? 0.6 : 0), size[i]);
    const fh1_tensor A = fh1_view2(a_log, FH1_F32, I, N), D = fh1_view1(d, FH1_F32, I);
    for (int k = 0; k < 2; ++k) {
        for (int64_t i = 0; i < I * N; ++i) state[i] = k ? (float)NAN : 0;
        for (int64_t i = 0; i < I && k; ++i) x[3 * I + i] = dy[4 * I + i] = (float)NAN;
        GRAD_FINE(e->bwd_ops->selective_scan(e, T, I, N, x, B, C, dt, &A, &D, doc, -1, state, dy, NULL, dx[k], dB[k],
                                             dC[k], ddt[k], NULL, NULL, NULL));
    }
    ck_assert(memcmp(dx[0] + 5 * I, dx[1] + 5 * I, 7 * I * sizeof(float)) == 0);
    ck_assert(memcmp(dx[0], dx[1], 3 * I * sizeof(float)) == 0);
    ck_assert(memcmp(dB[0] + 5 * N, dB[1] + 5 * N, 7 * N * sizeof(float)) == 0);
    ck_assert(memcmp(dC[0], dC[1], 3 * N * sizeof(float)) == 0);
    ck_assert(memcmp(ddt[0] + 5 * I, ddt[1] + 5 * I, 7 * I * sizeof(float)) == 0);
    e->free(e);
}
END_TEST

/* As in test_bwd_mixer.c: exp(-80) of such a state is of order one. */
START_TEST(a_reset_is_a_constant)
{
    static const int64_t doc[6] = {1, 1, 1, 2, 2, 3};
    const call_shape s = {.T = 6, .I = 5, .N = 3, .doc = doc, .variants = FH1_VAR_DOC_RESET_80};
    grad_op op = call_of(&s);
    double state[15];
    for (int i = 0; i < 15; ++i) state[i] = 1e35 * op.in[6].v[i];
    op.in[6].v = state;
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    GRAD_HOLDS(&op, e);
    e->free(e);
    e = ref_faulty_engine_new("ref-f64", NULL, 0, FH1_FAULT_GRAD_DECAY_CROSSES_DOCUMENTS);
    GRAD_BREAKS(&op, e);
    e->free(e);
}
END_TEST

/* Every planted fault that both kinds of scan can have, in one of two ordinary calls. */
START_TEST(faults_are_rejected)
{
    static const fh1_fault list[] = {FH1_FAULT_GRAD_B_AND_C_LAST_HEAD,
                                     FH1_FAULT_GRAD_B_WITHOUT_DT,
                                     FH1_FAULT_GRAD_C_FROM_STATE_BEFORE,
                                     FH1_FAULT_GRAD_X_WITHOUT_SKIP,
                                     FH1_FAULT_GRAD_D_RACE,
                                     FH1_FAULT_GRAD_DT_DECAY_DROPPED,
                                     FH1_FAULT_GRAD_DT_INPUT_DROPPED,
                                     FH1_FAULT_GRAD_A_LOG_WITHOUT_A,
                                     FH1_FAULT_GRAD_A_LOG_OF_FIRST_STATE,
                                     FH1_FAULT_GRAD_STATE_AFTER,
                                     FH1_FAULT_GRAD_CARRY_CROSSES_DOCUMENTS,
                                     FH1_FAULT_GRAD_DECAY_CROSSES_DOCUMENTS,
                                     FH1_FAULT_GRAD_INITIAL_STATE_LOST,
                                     FH1_FAULT_GRAD_FINAL_STATE_IGNORED,
                                     FH1_FAULT_GRAD_CARRY_DROPPED_AT_CHUNK_EDGE};
    static const call_shape calls[] = {{.T = 21, .I = 40, .N = 5}, {.T = 21, .I = 4, .N = 5}};
    for (size_t i = 0; i < sizeof list / sizeof *list; ++i) {
        fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, list[i]);
        bool seen = false;
        for (int k = 0; k < 2 && !seen; ++k) {
            call_shape s = calls[k];
            if (k) s.doc = documents();
            grad_op op = call_of(&s);
            op.sampled = 20;
            const grad_gap g = grad_check(&op, e);
            seen = !fh1_within(g.element, GRAD_SEEN) || !fh1_within(g.direction, GRAD_SEEN);
        }
        ck_assert_msg(seen, "%s passes unseen", fh1_fault_get(list[i])->name);
        e->free(e);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_complex_step_agrees, longer_segments,     single_precision,     ends_of_a_call,
                                  documents_do_not_meet,   faults_are_rejected, a_reset_is_a_constant};
    Suite *s = suite_create("selective_scan backward");
    TCase *t = tcase_create("selective_scan backward");
    tcase_set_timeout(t, 120);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
