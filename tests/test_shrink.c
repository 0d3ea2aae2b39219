/* The shrinker: a planted fault on a big line ends in a tiny one that fails at the same kind of tap, what the fault
 * needs stays, the same line comes out twice, and a line that does not fail is refused. */
#include "tests/repro_fixture.h"

#include <stdlib.h>

static gld_repro r;

static gld_shrink_result shrunk(const char *line, int max_runs)
{
    const gld_shrink_options o = {.max_runs = max_runs};
    gld_shrink_result result;
    OK(gld_repro_parse(line, &r));
    OK(gld_shrink(&r, &fixture_env, &o, &result));
    return result;
}

START_TEST(test_big_line_becomes_tiny)
{
    gld_repro_outcome again;
    gld_shrink_result result = shrunk(BIG_LINE BIG_FAULT, 0);
    const fh1_config *c = &r.make.config;
    ck_assert_int_eq(result.outcome.id, FH1_TAP_K_ROPE);
    ck_assert(!result.exhausted && result.runs < 100);
    ck_assert(c->n_layers == 1 && c->D <= 2 && c->F == 1 && c->V == 1 && c->Hq == 1 && c->Hkv == 1 && c->A == 2);
    ck_assert(c->H == 1 && c->P == 1 && c->N == 1 && c->G == 1 && c->K == 1 && c->Q == 1);
    ck_assert(r.calls.n == 1 && r.calls.B == 1 && r.calls.call[0].T == 1 && r.calls.call[0].left[0] == 0);
    ck_assert(!c->attention_bias && !c->mamba_rms_norm && c->m_emb == 1 && c->m_gate == 1);
    ck_assert_msg(c->m_key == 0.25, "the multiplier that is dropped must stay, as a power of two: %g", c->m_key);
    ck_assert(r.make.weights == GLD_WEIGHTS_LATTICE && r.make.dtype == FH1_F32);

    char *line = gld_repro_print(&r); /* the printed line fails again, */
    OK(gld_repro_parse(line, &r));
    OK(gld_repro_try(&r, &fixture_env, &again));
    ck_assert(again.verdict == FH1_FAIL && again.id == FH1_TAP_K_ROPE && again.step == result.outcome.step);
    r.fault[0] = 0; /* and passes without the fault */
    OK(gld_repro_try(&r, &fixture_env, &again));
    ck_assert_int_eq(again.verdict, FH1_PASS);
    free(line);
}
END_TEST

START_TEST(test_from_a_folder)
{
    gld_shrink_result result =
        shrunk("--model=golden/models/odd --engine=ref-f32 --schedule=p37x3l:0,12,35;d2;c5;d1" BIG_FAULT
               " --tap=*.1.self_attn.*,*.2.self_attn.* --step=3",
               0);
    ck_assert_str_eq(r.model, ""); /* needs no file any more */
    ck_assert_int_eq(result.outcome.id, FH1_TAP_K_ROPE);
    ck_assert(r.make.config.n_layers == 1 && r.make.config.D <= 2 && r.calls.call[0].T == 1);
    ck_assert_str_eq(r.taps, "");
}
END_TEST

/* A head width is even: what cannot become 3 must not be tried for ever. */
START_TEST(test_even_width)
{
    gld_shrink_result result =
        shrunk("--make=layers=1,A=8 --engine=ref-f32 --schedule=p3 --fault=rope_exponent_halved", 0);
    ck_assert(!result.exhausted && result.runs < 100 && r.make.config.A == 4);
}
END_TEST

START_TEST(test_same_line_twice)
{
    shrunk(BIG_LINE BIG_FAULT, 30);
    char *first = gld_repro_print(&r);
    gld_shrink_result result = shrunk(BIG_LINE BIG_FAULT, 30);
    char *second = gld_repro_print(&r);
    ck_assert_str_eq(first, second);
    ck_assert(result.runs <= 30);
    free(first);
    free(second);
    result = shrunk(BIG_LINE BIG_FAULT, 4); /* bounded, and says so */
    ck_assert(result.exhausted && result.runs == 4 && result.outcome.verdict == FH1_FAIL);
}
END_TEST

/* An engine that is wrong only where these hold: what the shrinker must not take away. */
typedef struct {
    int64_t layers, width, T, rows, call;
    bool left;
} need;
static need needs;
static fh1_status (*honest)(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                            const fh1_tap_sink *);
static const fh1_tap_sink *outer;
static int64_t calls_so_far;

static bool wrong_here(const fh1_tap_event *e)
{
    const fh1_tokens *t = e->tokens;
    int64_t left = 0;
    for (int64_t b = 0; b < t->B; b++) left += t->n_left[b];
    return e->id == FH1_TAP_SSD && e->layer == needs.layers - 1 && e->value.shape[1] >= needs.width &&
           t->T >= needs.T && t->B >= needs.rows && calls_so_far >= needs.call && (left || !needs.left) && t->M > 0;
}

static fh1_status spoil(void *user, const fh1_tap_event *e)
{
    (void)user;
    if (wrong_here(e)) fh1_set(&e->value, 0, 1 + 2 * fh1_get(&e->value, 0));
    return outer->tap(outer->user, e);
}

static fh1_status spoiled_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n,
                                  void *logits, const fh1_tap_sink *sink)
{
    fh1_tap_sink inner = *sink;
    outer = sink;
    inner.tap = spoil;
    if (cache->n_cols == 0) calls_so_far = 0;
    calls_so_far++;
    return honest(e, m, b, cache, n, logits, &inner);
}

static fh1_engine *spoiled_engine(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault)
{
    (void)fault;
    fh1_engine *e = ref_engine_new(name, p, variants);
    honest = e->forward;
    e->forward = spoiled_forward;
    return e;
}

START_TEST(test_keeps_what_matters)
{
    static const need of[] = {
        {1, 1, 37, 1, 1, false}, {3, 1, 1, 1, 1, false}, {1, 3, 1, 1, 1, false}, {1, 1, 1, 2, 1, false},
        {1, 1, 1, 1, 3, false},  {1, 1, 1, 1, 1, true},  {2, 2, 5, 2, 2, false},
    };
    static const gld_repro_env env = {spoiled_engine, ref_engine_new, NULL};
    const gld_shrink_options o = {0};
    const need *n = &of[_i];
    gld_shrink_result result;
    needs = *n;
    OK(gld_repro_parse("--make=layers=3,D=16,F=24,V=29,H=8,P=4,rms_norm=1 --engine=ref-f32 --schedule=p41x2l:0,7;d2;c5",
                       &r));
    OK(gld_shrink(&r, &env, &o, &result));
    char *line = gld_repro_print(&r);
    const gld_call *last = &r.calls.call[r.calls.n - 1];
    ck_assert_int_eq(result.outcome.id, FH1_TAP_SSD);
    ck_assert_msg(r.make.config.n_layers == n->layers, "%s", line);
    ck_assert_msg(r.make.config.d_ssm == n->width, "%s", line);
    ck_assert_msg(last->T == (n->left && n->T < 2 ? last->T : n->T) && last->T <= n->T + n->left, "%s", line);
    ck_assert_msg(r.calls.B == n->rows, "%s", line);
    ck_assert_msg(gld_calls_steps(&r.calls) == n->call, "%s", line);
    ck_assert_msg((last->left[0] > 0) == n->left, "%s", line);
    ck_assert_int_lt(result.runs, 150);
    free(line);
}
END_TEST

START_TEST(test_honest_line)
{
    const gld_shrink_options o = {0};
    gld_shrink_result result;
    OK(gld_repro_parse(BIG_LINE, &r));
    FAILS(gld_shrink(&r, &fixture_env, &o, &result), FH1_E_INPUT, "does not fail");
    OK(gld_repro_parse("--model=/no/such --engine=ref-f32 --schedule=p3", &r));
    FAILS(gld_shrink(&r, &fixture_env, &o, &result), FH1_E_INPUT, "/no/such");
}
END_TEST

/* -- ops ----------------------------------------------------------------------------------------- */

/* A scan that is wrong in its last head from the 20th token on. */
static const fh1_ops *true_ops;

static fh1_status wrong_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                             const void *B, const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                             const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    FH1_TRY(true_ops->ssd_scan(e, T, H, P, N, G, x, B, C, dt, A_log, D, doc, state_doc, state, y));
    float *last = (float *)y + (T * H - 1) * P;
    if (T >= 20) *last = 2 * *last + 1;
    return NULL;
}

static fh1_engine *wrong_op_engine(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault)
{
    static fh1_ops ops;
    fh1_engine *e = ref_engine_new(name, p, variants);
    (void)fault;
    true_ops = e->ops;
    ops = *e->ops;
    ops.ssd_scan = wrong_scan;
    e->ops = &ops;
    return e;
}

START_TEST(test_op_line)
{
    static const gld_repro_env env = {wrong_op_engine, ref_engine_new, NULL};
    const gld_shrink_options o = {0};
    gld_shrink_result result;
    OK(gld_repro_parse("--op=ssd_scan --regime=adversarial --T=129 --H=6 --G=3 --P=7 --N=9 --docs=4 --seed=3", &r));
    OK(gld_shrink(&r, &env, &o, &result));
    char *line = gld_repro_print(&r);
    ck_assert_str_eq(result.outcome.tap, "ssd_scan");
    ck_assert_msg(r.op.T == 20 && r.op.H == 1 && r.op.G == 1 && r.op.P == 1 && r.op.N == 1 && r.op.docs == 1, "%s",
                  line);
    ck_assert_msg(r.op.regime == GLD_REGIME_LATTICE && r.op.state == 0, "%s", line);
    free(line);
    FAILS(gld_shrink(&r, &fixture_env, &o, &result), FH1_E_INPUT, "does not fail");
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("shrink");
    tcase_add_test(tc, test_big_line_becomes_tiny);
    tcase_add_test(tc, test_from_a_folder);
    tcase_add_test(tc, test_even_width);
    tcase_add_test(tc, test_same_line_twice);
    tcase_add_loop_test(tc, test_keeps_what_matters, 0, 7);
    tcase_add_test(tc, test_honest_line);
    tcase_add_test(tc, test_op_line);
    return fixture_main(suite_create("shrink"), tc);
}
