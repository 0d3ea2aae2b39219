/* What each move of traffic alone can see: a mistake that shows with the move and not without it. And engines that are
 * wrong in other ways (tests/broken_engine.h). */
#include "tests/traffic_fixture.h"

#include "cuda/engine.h"
#include "tests/broken_engine.h"

#include <stdlib.h>

/* -- one mistake around ref-f64 ------------------------------------------------------------------ */

typedef enum {
    HONEST,
    ACCEPTS_NOTHING,       /* a call of no tokens is done */
    REFUSES_AND_FORGETS,   /* a call of no tokens is refused, the states are gone */
    CRIES_WOLF,            /* it is refused as an error of the program */
    ROLLBACK_FORGETS,      /* going back is refused, the states are gone */
    COPY_FORGETS_PADDING,  /* a copy believes that its tokens stood in the first columns */
    RESTORE_KEEPS_WINDOW,  /* a restored cache keeps its windows */
    SPEAKS_IN_PADDING,     /* logits of padding are not zero */
    REMEMBERS_THE_ROW,     /* a row that starts again keeps its state and its document */
    STEPS_ARE_LATE,        /* a call of one column comes to other logits */
    PREFILL_OF_SHORT_ROWS, /* the first of several rows of different lengths is wrong */
    LOSES_A_ROW,           /* a reorder to fewer rows leaves one too many */
    SECOND_DOCUMENT_LEAKS, /* a call with documents comes to other states */
} mistake;

static mistake made;
static fh1_engine *inner;

static void forget(const fh1_cache *c, bool windows)
{
    const fh1_config *g = c->config;
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t l = 0; l < g->n_layers; l++) {
            if (windows) memset(c->rows[b].conv[l], 0, (size_t)(fh1_conv_dim(g) * (g->K - 1)) * sizeof(double));
            else memset(c->rows[b].ssm[l], 0, (size_t)(g->H * g->P * g->N) * sizeof(double));
        }
}

static bool has_padding(const fh1_batch *b)
{
    for (int64_t r = 0; b->mask && r < b->B; r++)
        if (!b->mask[(r + 1) * b->mask_len - 1] || !b->mask[(r + 1) * b->mask_len - b->T]) return true;
    return false;
}

static fh1_status wrong_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n,
                                void *logits, const fh1_tap_sink *sink)
{
    (void)e;
    if (b->T == 0 && made == ACCEPTS_NOTHING) return NULL;
    if (b->T == 0 && made == CRIES_WOLF) return fh1_fail(FH1_E_WRONG, "wolf");
    if (b->T == 0 && made == REFUSES_AND_FORGETS) forget(cache, false);
    FH1_TRY(inner->forward(inner, m, b, cache, n, logits, sink));
    double *first = logits;
    if (made == SPEAKS_IN_PADDING && has_padding(b))
        for (int64_t i = 0; i < b->B * b->T; i++) first[i * m->config.V] += first[i * m->config.V] == 0;
    if (made == STEPS_ARE_LATE && b->T == 1) *first *= 1 + 1e-9;
    if (made == PREFILL_OF_SHORT_ROWS && b->B > 1 && has_padding(b)) *first += 1e-6;
    if (made == SECOND_DOCUMENT_LEAKS && b->seq_idx && b->seq_idx[b->T - 1] > b->seq_idx[0])
        *(double *)cache->rows[0].ssm[0] += 1e-6;
    return NULL;
}

static fh1_status wrong_truncate(fh1_cache *c, int64_t row, int64_t n)
{
    if (made == ROLLBACK_FORGETS && n) forget(c, true);
    if (made != REMEMBERS_THE_ROW || n) return fh1_cache_truncate(c, row, n);
    const int64_t doc = c->rows[row].doc;
    double state;
    memcpy(&state, c->rows[row].ssm[0], sizeof state);
    FH1_TRY(fh1_cache_truncate(c, row, n));
    memcpy(c->rows[row].ssm[0], &state, sizeof state);
    c->rows[row].doc = doc;
    return NULL;
}

static fh1_status wrong_clone(const fh1_cache *c, fh1_cache **out)
{
    FH1_TRY(fh1_cache_clone(c, out));
    for (int64_t b = 0; made == COPY_FORGETS_PADDING && b < (*out)->B; b++)
        for (int64_t i = 0; i < (*out)->rows[b].n; i++) (*out)->rows[b].col[i] = i;
    return NULL;
}

static fh1_status wrong_restore(fh1_cache *c, const fh1_cache *from)
{
    if (made != RESTORE_KEEPS_WINDOW) return fh1_cache_restore(c, from);
    FH1_TRY(fh1_cache_restore(c, from));
    forget(c, true);
    return NULL;
}

static fh1_status wrong_reorder(fh1_cache *c, const int64_t *from, int64_t n)
{
    const int64_t all[] = {from[0], n > 1 ? from[1] : 0, n > 2 ? from[2] : 0, n > 3 ? from[3] : 0};
    return fh1_cache_reorder(c, all, made == LOSES_A_ROW && n < c->B ? n + 1 : n);
}

static gld_traffic_result judged(mistake what, const fh1_model *m, const char *line)
{
    static const fh1_cache_ops ops = {fh1_cache_reset, wrong_clone, wrong_restore, wrong_reorder, wrong_truncate};
    const gld_traffic t = traffic_of(line);
    inner = ref_engine_new("ref-f64", NULL, 0);
    fh1_engine wrong = *inner;
    made = what;
    wrong.forward = wrong_forward;
    wrong.cache_ops = &ops;
    const gld_traffic_result r = traffic_judged(&t, &wrong, m, 2);
    inner->free(inner);
    return r;
}

static const struct {
    mistake what;
    const char *with, *without, *says;
} moves[] = {
    {ACCEPTS_NOTHING, "a=1;a+3;a:", "a=1;a+3", "move 3, cache a: a call of no tokens was accepted"},
    {REFUSES_AND_FORGETS, "a=1;a+3;a:;a+2", "a=1;a+3;a+2", "move 4: logits, cache a, row 0, document 0, token 3"},
    {CRIES_WOLF, "a=1;a+3;a:", "a=1;a+3", "move 3, cache a: a call of no tokens is not refused as bad input"},
    {ROLLBACK_FORGETS, "a=1;a+3;a-0:1;a+1", "a=1;a+3;a+1", "move 4: logits, cache a, row 0, document 0, token 3"},
    {COPY_FORGETS_PADDING, "a=2;a+3,1<0,2;a~", "a=2;a+3,1<0,2;b=a", "at the end: cache.0.key, cache a, row 1"},
    {RESTORE_KEEPS_WINDOW, "a=1;a+3;a?2:1", "a=1;a+3;a?2:2", "move 3: logits, cache a, row 0, document 0, token 3"},
    {RESTORE_KEEPS_WINDOW, "a=1;a+3;b=a;a<b;a+1", "a=1;a+3;b=a;a+1", "move 5: logits"},
    {SPEAKS_IN_PADDING, "a=2;a+3,2", "a=2;a+3", "move 2, cache a: logits of padding are not 0: row 1, column 2"},
    {REMEMBERS_THE_ROW, "a=2;a+3;a!1", "a=2;a+3", "at the end: cache.0.ssm, cache a, row 1, channel 0"},
    {STEPS_ARE_LATE, "a=2;a+3;a*1", "a=2;a+3;a+2", "move 3: logits, cache a, row 0, document 0, token 3, channel 0"},
    {PREFILL_OF_SHORT_ROWS, "b=2;b+3,1", "b=2;b+3", "move 2: logits, cache b, row 0, document 0, token 0, channel 0"},
    {LOSES_A_ROW, "a=3;a+2;a@2", "a=3;a+2;a@2,0,1", "at the end, cache a: the cache holds 2 tokens in row 0 of 2, but"},
    {SECOND_DOCUMENT_LEAKS, "a=1;a+5|2", "a=1;a+5", "at the end: cache.0.ssm, cache a, row 0, document 1, channel 0"},
};

START_TEST(test_every_move_sees)
{
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    const gld_traffic_result with = judged(moves[_i].what, &m, moves[_i].with);
    ck_assert_msg(with.verdict == FH1_FAIL, "%s: %s", moves[_i].with, with.sentence);
    ck_assert_msg(strstr(with.sentence, moves[_i].says), "%s: %s", moves[_i].with, with.sentence);
    const gld_traffic_result without = judged(moves[_i].what, &m, moves[_i].without);
    ck_assert_msg(without.verdict == FH1_PASS, "%s: %s", moves[_i].without, without.sentence);
    ck_assert_int_eq(judged(HONEST, &m, moves[_i].with).verdict, FH1_PASS);
    fh1_model_free(&m);
}
END_TEST

/* Everything that a result tells, and numbers that the sentence shows. */
START_TEST(test_result)
{
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    const gld_traffic_result r = judged(PREFILL_OF_SHORT_ROWS, &m, "c=2;c+3|1;c+2,1");
    ck_assert(r.verdict == FH1_FAIL && r.move == 2 && r.cache == 2 && r.row == 0 && r.document == 1);
    ck_assert(r.token == 2 && r.channel == 0 && r.calls == 2 && r.tokens == 9);
    ck_assert_str_eq(r.tap, "logits");
    ck_assert_double_eq_tol(r.value, r.truth + 1e-6, 1e-9);
    ck_assert(r.allowed > 0 && r.allowed < 1e-9 && isfinite(r.margin) && r.margin > 1e3);
    const gld_traffic_result refused = judged(ACCEPTS_NOTHING, &m, "a=1;a+3;a:");
    ck_assert(refused.move == 2 && refused.cache == 0 && refused.row == -1 && !refused.tap[0] && isinf(refused.margin));
    fh1_model_free(&m);
}
END_TEST

/* -- engines that are wrong otherwise ------------------------------------------------------------- */

/* Mistakes in ops that forward does not call, and one of a single bit, which is within rounding. */
static bool cannot_show(broken_kind k)
{
    return (k >= BROKEN_CHUNK_CARRY && k <= BROKEN_SOFTMAX_NO_MAX) || k == BROKEN_DRIFTS;
}

START_TEST(test_broken_engines)
{
    static const char *const lines[] = {
        "a=2;a+9,4<0,2;b=a;a*3;a@1,1,0;a<b;a!1;a+5",
        "a=3;a+6,2,0;a*2;b=a;a+4,1,7>2|//1,5;b*2;a<b;a+2;a<b;a+1;b+3",
        "a=2;a+7;a?4:2/0;a*2;a-0:1;a-1:3;a.;a+1;a.;a+2;a*3",
        "a=3;a+5|2/0,3;a+4|0/1,2;a*2;a@2,0,1,0;a+3;a@3,1;a*2",
        "a=3;a+3,0,2;a+2,0",
        "a=3;a+4;a@2,0,1;a+2", /* rows of one length */
    };
    fh1_model m;
    traffic_model(TRAFFIC_MODEL, 5, &m);
    for (int k = 0; k < BROKEN_COUNT; k++) {
        if (cannot_show((broken_kind)k)) continue;
        bool red = false; /* keys that stay in their rows have room for the tokens of these */
        for (int i = k == BROKEN_REORDER_NO_KEYS ? 5 : 0; i < N_OF(lines) && !red; i++) {
            fh1_engine *e = broken_engine_new((broken_kind)k);
            const gld_traffic t = traffic_of(lines[i]);
            const gld_traffic_result r = traffic_judged(&t, e, &m, 1);
            red = r.verdict == FH1_FAIL;
            if (red) printf("broken %2d, line %d: %s\n", k, i + 1, r.sentence);
            e->free(e);
        }
        ck_assert_msg(red, "broken engine %d was not noticed", k);
    }
    fh1_model_free(&m);
}
END_TEST

/* -- the CUDA engine's kernels on the CPU --------------------------------------------------------- */

START_TEST(test_cuda_host)
{
    fh1_model m;
    traffic_model("layers=1,D=8,F=8,V=11,Hq=2,Hkv=1,A=4,H=2,P=2,N=2,G=1,K=3,Q=4,rms_norm=1", 3, &m);
    fh1_engine *e = NULL;
    OK(cu_engine_new("cuda-host", NULL, 0, &e));
    const gld_traffic t = traffic_of("a=2;a+5,3<0,1;b=a;a?2:1/0;a@1,0;a<b;b~;a!1;a+2|1;a-0:1;a:;b.;b*1");
    const gld_traffic_result r = traffic_judged(&t, e, &m, 4);
    ck_assert_msg(r.verdict == FH1_PASS && r.margin > 0, "%s", r.sentence);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("traffic_moves");
    TCase *tc = tcase_create("traffic_moves");
    fh1_set_threads(1);
    tcase_set_timeout(tc, 100);
    tcase_add_loop_test(tc, test_every_move_sees, 0, N_OF(moves));
    tcase_add_test(tc, test_result);
    tcase_add_test(tc, test_broken_engines);
    tcase_add_test(tc, test_cuda_host);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
