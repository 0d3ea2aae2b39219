/* What the standard cases of golden/op_case.h kill: the registry of planted faults, by regime, and an engine that gets
 * something wrong in each of its ops. */
#include "golden/op_case.h"
#include "reference/faulty.h"
#include "tests/op_engines.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text(fh1_status s)
{
    static char why[1024];
    return s ? fh1_status_line(s, why, sizeof why) : "";
}

static fh1_verdict run(const gld_op_case *c, fh1_engine *judged)
{
    gld_op_result r;
    char line[GLD_OP_LINE];
    fh1_status s = gld_op_case_compare(c, truth, judged, &r);
    ck_assert_msg(!s, "%s: %s", gld_op_case_print(c, line, sizeof line), text(s));
    return r.verdict;
}

/* -- planted faults ------------------------------------------------------------------------------ */

/* Faults of one op are tried on it and on its step. */
static bool touches(const fh1_fault_info *f, gld_op op)
{
    const char *name = gld_op_name(op);
    const bool selective = strncmp(name, "selective_", 10) == 0; /* has the faults of scans, and its own */
    if (strncmp(f->op, "ssd_", 4) == 0) return selective || strncmp(name, "ssd_", 4) == 0;
    if (strncmp(f->op, "selective_", 10) == 0) return selective;
    if (strcmp(f->op, "linear") == 0) return op == GLD_OP_LINEAR || op == GLD_OP_LM_HEAD;
    return strncmp(name, f->op, strlen(f->op)) == 0 || strncmp(f->op, name, strlen(name)) == 0;
}

/* Kills of fault f by regime; false where no op table shows it (a fault of the whole model). */
static bool kills(fh1_fault f, const char *engine, bool *by)
{
    fh1_engine *e = ref_faulty_engine_new(engine, NULL, 0, f);
    bool any = false;
    gld_op_case c;
    ck_assert(e);
    for (int i = 0; gld_op_case_standard(i, &c); ++i) {
        if (by[c.regime] || !touches(fh1_fault_get(f), c.op)) continue;
        by[c.regime] = run(&c, e) == FH1_FAIL;
        any = any || by[c.regime];
    }
    e->free(e);
    return any;
}

START_TEST(the_registry_by_regime)
{
    int n[2][GLD_REGIME_COUNT] = {{0}}, killed[2] = {0}, of_the_model = 0;
    char missed[512] = "";
    printf("  fault (op): the regimes that kill it, f32 | bf16: l)attice t)rained a)dversarial r)ecorded f)uzzed\n");
    for (int f = 1; f < FH1_FAULT_COUNT; ++f) {
        if (fh1_fault_is_gradient((fh1_fault)f)) continue; /* no forward pass shows it */
        bool by[2][GLD_REGIME_COUNT] = {{false}}, any[2];
        char marks[2][8] = {"-----", "-----"};
        for (int e = 0; e < 2; ++e) {
            /* what changes nothing in f32 is no fault of an op */
            any[e] = (e == 0 || any[0]) && kills((fh1_fault)f, e ? "ref-bf16" : "ref-f32", by[e]);
            killed[e] += any[e];
            for (int r = 0; r < GLD_REGIME_COUNT; ++r) {
                n[e][r] += by[e][r];
                if (by[e][r]) marks[e][r] = gld_regime_name((gld_regime)r)[0];
            }
        }
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        if (any[0] || any[1]) printf("  %-36s %-14s %s | %s\n", info->name, info->op, marks[0], marks[1]);
        else ++of_the_model;
        if (any[0] || !strstr(info->caught_by, "lattice")) continue;
        const size_t used = strlen(missed);
        snprintf(missed + used, sizeof missed - used, " %s", info->name);
    }
    for (int e = 0; e < 2; ++e)
        printf("  %s: %d faults, by regime %d %d %d %d %d\n", e ? "bf16" : "f32", killed[e], n[e][0], n[e][1], n[e][2],
               n[e][3], n[e][4]);
    printf("  %d faults do not show in any single op: they live in the model, its schedule or its cache\n",
           of_the_model);
    fflush(stdout);
    ck_assert_int_gt(killed[0], 0);
    ck_assert_msg(!*missed, "the registry says that the lattice catches these:%s", missed);
}
END_TEST

/* One careless engine: each of its ops gets something wrong. */
static fh1_tensor nothing(void)
{
    return fh1_view1(NULL, FH1_F32, 0);
}

static fh1_status a_number_of_the_table_lost(fh1_engine *e, int64_t M, const int64_t *ids, const fh1_tensor *table,
                                             void *y)
{
    FH1_TRY(f32->ops->embed(e, M, ids, table, y));
    if (M > 0 && ids[M - 1] > 0) memset((float *)y + (M - 1) * table->shape[1], 0, sizeof(float));
    return NULL;
}

static fh1_status no_eps(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps, void *y)
{
    (void)eps;
    return f32->ops->rmsnorm(e, M, D, x, w, 0, y);
}

static fh1_status no_bias(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y)
{
    const fh1_tensor none = nothing();
    (void)b;
    return f32->ops->linear(e, M, x, w, &none, y);
}

static fh1_status no_window(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                            const fh1_tensor *b, const int64_t *doc, int64_t window_doc, void *window, void *y)
{
    memset(window, 0, (size_t)(c * (K - 1)) * sizeof(float));
    return f32->ops->conv1d(e, T, c, K, x, w, b, doc, window_doc, window, y);
}

static fh1_status stale_window(fh1_engine *e, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                               const fh1_tensor *b, void *window, void *y)
{
    const size_t n = (size_t)(c * (K - 1)) * sizeof(float);
    void *copy = malloc(n + 1);
    memcpy(copy, window, n);
    fh1_status s = f32->ops->conv1d_step(e, c, K, x, w, b, window, y);
    memcpy(window, copy, n);
    free(copy);
    return s;
}

static fh1_status no_clamp(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias, double lo,
                           double hi, void *dt)
{
    (void)lo, (void)hi;
    return f32->ops->dt_softplus(e, T, H, raw, bias, 0, (double)INFINITY, dt);
}

static fh1_status no_state(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                           const void *B, const void *C, const void *dt, const fh1_tensor *A, const fh1_tensor *D,
                           const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    memset(state, 0, (size_t)(H * P * N) * sizeof(float));
    return f32->ops->ssd_scan(e, T, H, P, N, G, x, B, C, dt, A, D, doc, state_doc, state, y);
}

static fh1_status swapped_chunk(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                                const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A,
                                const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    return f32->ops->ssd_chunk(e, T, H, P, N, G, Q, x, C, B, dt, A, D, doc, state_doc, state, y);
}

static float without_third[64];

static fh1_tensor lose_third(const fh1_tensor *D)
{
    fh1_to_f32(without_third, D->data, D->dtype, D->shape[0]);
    without_third[3] = 0;
    return fh1_view1(without_third, FH1_F32, D->shape[0]);
}

static fh1_status no_d_in_one_head(fh1_engine *e, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                                   const void *B, const void *C, const void *dt, const fh1_tensor *A,
                                   const fh1_tensor *D, void *state, void *y)
{
    if (H > 3) {
        const fh1_tensor lost = lose_third(D);
        return f32->ops->ssd_step(e, H, P, N, G, x, B, C, dt, A, &lost, state, y);
    }
    return f32->ops->ssd_step(e, H, P, N, G, x, C, B, dt, A, D, state, y);
}

static fh1_status no_channel_state(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                   const void *C, const void *dt, const fh1_tensor *A, const fh1_tensor *D,
                                   const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    memset(state, 0, (size_t)(I * N) * sizeof(float));
    return f32->ops->selective_scan(e, T, I, N, x, B, C, dt, A, D, doc, state_doc, state, y);
}

static fh1_status swapped_selective_step(fh1_engine *e, int64_t I, int64_t N, const void *x, const void *B,
                                         const void *C, const void *dt, const fh1_tensor *A, const fh1_tensor *D,
                                         void *state, void *y)
{
    return f32->ops->selective_step(e, I, N, x, C, B, dt, A, D, state, y);
}

static fh1_status other_order(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                              const fh1_tensor *w, double eps, bool first, void *out)
{
    if (w->data) return f32->ops->gated_norm(e, M, d, G, y, z, w, eps, !first, out);
    return f32->ops->gated_norm(e, M, d, G, z, y, w, eps, first, out);
}

static fh1_status stuck(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                        int64_t seq_len, void *x)
{
    int64_t *same = calloc((size_t)T, sizeof *same);
    for (int64_t t = 0; t < T; ++t) same[t] = position[0] > 0 ? 0 : position[t] / 2;
    fh1_status s = f32->ops->rope(e, c, T, heads, same, seq_len, x);
    free(same);
    return s;
}

static fh1_status no_first_key(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                               const void *k, const void *v, const int64_t *first, void *out)
{
    int64_t *zero = calloc((size_t)T, sizeof *zero);
    fh1_status s = f32->ops->attention(e, T, S, Hq, Hkv, A, q, k, v, zero, out);
    (void)first;
    free(zero);
    return s;
}

static fh1_status keys_for_values(fh1_engine *e, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                                  const void *k, const void *v, int64_t first, void *out)
{
    return f32->ops->attention_step(e, S, Hq, Hkv, A, q, v, k, first, out);
}

static fh1_status no_gate_multiplier(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m, const void *up,
                                     void *act)
{
    (void)m;
    return f32->ops->swiglu(e, M, F, gate, 1, up, act);
}

static fh1_status one_branch(fh1_engine *e, int64_t n, const void *a, double m_a, const void *b, double m_b, void *x)
{
    (void)b, (void)m_b;
    return f32->ops->residual(e, n, a, b ? m_a : 1, NULL, 0, x);
}

static fh1_status no_head_multiplier(fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m, void *y)
{
    (void)m;
    return f32->ops->lm_head(e, M, h, w, 1, y);
}

static fh1_status a_label_too_few(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                                  double *loss)
{
    if (M > 1) return f32->ops->cross_entropy(e, M - 1, V, logits, labels, loss);
    FH1_TRY(f32->ops->cross_entropy(e, M, V, logits, labels, loss));
    *loss /= 2;
    return NULL;
}

static fh1_status a_token_too_few(fh1_engine *e, int64_t M, int64_t V, const void *logits, int64_t *token)
{
    FH1_TRY(f32->ops->sample(e, M, V, logits, token));
    for (int64_t m = 0; m < M; ++m)
        if (token[m] == V - 1) token[m] = 0;
    return NULL;
}

START_TEST(every_op_can_fail)
{
    const fh1_ops careless = {
        .embed = a_number_of_the_table_lost,
        .rmsnorm = no_eps,
        .linear = no_bias,
        .conv1d = no_window,
        .conv1d_step = stale_window,
        .dt_softplus = no_clamp,
        .ssd_scan = no_state,
        .ssd_chunk = swapped_chunk,
        .ssd_step = no_d_in_one_head,
        .selective_scan = no_channel_state,
        .selective_step = swapped_selective_step,
        .gated_norm = other_order,
        .rope = stuck,
        .attention = no_first_key,
        .attention_step = keys_for_values,
        .swiglu = no_gate_multiplier,
        .residual = one_branch,
        .lm_head = no_head_multiplier,
        .cross_entropy = a_label_too_few,
        .sample = a_token_too_few,
    };
    fh1_engine e = *f32;
    e.ops = &careless;
    int failed[GLD_OP_COUNT][GLD_REGIME_COUNT] = {{0}};
    gld_op_case c;
    for (int i = 0; gld_op_case_standard(i, &c); ++i) failed[c.op][c.regime] += run(&c, &e) == FH1_FAIL;
    for (int op = 0; op < GLD_OP_COUNT; ++op) {
        const int *f = failed[op];
        printf("  careless %-16s fails lattice %d, trained %d, adversarial %d, recorded %d, fuzzed %d\n",
               gld_op_name((gld_op)op), f[0], f[1], f[2], f[3], f[4]);
        ck_assert_msg(f[0] > 0, "%s: no lattice case fails", gld_op_name((gld_op)op));
        ck_assert_msg(f[1] + f[2] + f[3] + f[4] > 0, "%s: only the lattice fails", gld_op_name((gld_op)op));
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_registry_by_regime, every_op_can_fail};
    Suite *s = suite_create("op_faults");
    TCase *t = tcase_create("op_faults");
    tcase_add_checked_fixture(t, open_engines, close_engines);
    tcase_set_timeout(t, 120);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
