/* The CUDA engine behind fh1_engine, on the CPU (cuda-host): contracts, models that come and go, taps that are looked
 * at and written to, errors. That its numbers are right is judged by `fh1 check --engine cuda-host` (golden tests). */
#include "cuda/engine.h"
#include "golden/record.h"
#include "golden/seeded_model.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char every_switch[] =
    "layers=2,D=32,F=40,V=64,Hq=4,Hkv=2,A=8,H=4,P=8,N=16,G=2,K=4,Q=16,rms_norm=1,weights=trained,"
    "m_key=0.5,m_ssm_out=0.7,m_attn_out=1.3,m_down=0.9,m_gate=1.1,m_x=0.8,m_z=1.2,m_dt=0.6";
static const char odd_widths[] =
    "layers=2,D=27,F=19,V=31,Hq=3,Hkv=1,A=6,H=3,P=5,N=7,G=1,K=3,Q=8,conv_bias=1,mlp_bias=1,"
    "attention_bias=1,mamba_proj_bias=1,weights=trained";

static const char small[] =
    "layers=1,D=16,F=24,V=31,Hq=2,Hkv=1,A=8,H=2,P=8,N=16,G=1,K=4,Q=16,weights=trained,m_down=0.9";
static const char mamba[] =
    "family=falcon_mamba,layers=1,D=16,V=31,I=24,N=16,R=8,K=4,weights=trained,residual_in_fp32=1,mixer_eps=1e-6";
static const char mamba_odd[] =
    "family=falcon_mamba,layers=2,D=27,V=31,I=45,N=5,R=3,K=3,use_bias=1,conv_bias=0,tied=1,residual_in_fp32=0,"
    "weights=trained";

static void good(fh1_status s)
{
    char line[2048];
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

static fh1_model make(const char *text, uint64_t seed)
{
    gld_seeded_spec spec;
    fh1_model m;
    good(gld_seeded_parse(text, &spec));
    good(gld_seeded_model_new(&spec, seed, &m));
    return m;
}

static fh1_engine *engine(void)
{
    fh1_engine *e;
    good(cu_engine_new("cuda-host", NULL, 0, &e));
    return e;
}

enum { B = 2, T = 9 };
static const int64_t some_ids[B * T] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3};
static const int64_t other_ids[B * T] = {2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5, 2, 3};

/* Logits of the last column of a prompt of T - 1 columns and one step: [2, B, V], malloc'ed. */
static float *logits_of(fh1_engine *e, const fh1_model *m, const int64_t *ids, const fh1_tap_sink *sink)
{
    const size_t V = (size_t)m->config.V;
    float *out = calloc(2 * B * V, sizeof *out);
    int64_t prompt[B * (T - 1)], step[B];
    fh1_cache *c;
    ck_assert(out != NULL);
    for (int b = 0; b < B; ++b) {
        memcpy(prompt + b * (T - 1), ids + b * T, (T - 1) * sizeof *ids);
        step[b] = ids[b * T + T - 1];
    }
    good(fh1_cache_new(&m->config, e->dtype, B, &c));
    good(e->forward(e, m, &(fh1_batch){.B = B, .T = T - 1, .ids = prompt}, c, 1, out, sink));
    good(e->forward(e, m, &(fh1_batch){.B = B, .T = 1, .ids = step}, c, 1, out + B * V, sink));
    fh1_cache_free(c);
    return out;
}

static int64_t n_logits(const fh1_model *m)
{
    return 2 * B * m->config.V;
}

START_TEST(contract_follows_the_checkpoint)
{
    static const struct {
        const char *dtype, *wanted, *profile;
    } cases[] = {{"f32", NULL, "fp32"}, {"bf16", NULL, "cuda-bf16"}, {"f16", NULL, "fp32"}, {"bf16", "fp32", "fp32"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        char text[64];
        fh1_engine *e;
        snprintf(text, sizeof text, "layers=1,D=16,dtype=%s", cases[i].dtype);
        fh1_model m = make(text, 1);
        good(cu_engine_new("cuda-host", cases[i].wanted ? fh1_profile_find(cases[i].wanted) : NULL, 0, &e));
        good(fh1_engine_open(e, &m));
        ck_assert_str_eq(e->profile->name, cases[i].profile);
        e->free(e);
        fh1_model_free(&m);
    }
}
END_TEST

static void refused(const char *says, fh1_status s)
{
    char line[2048];
    ck_assert(s && s->code == FH1_E_INPUT);
    ck_assert_msg(strstr(fh1_status_line(s, line, sizeof line), says) != NULL, "'%s' does not say '%s'", line, says);
}

START_TEST(what_it_does_not_do_is_refused)
{
    fh1_engine *e = NULL;
    fh1_model m = make("layers=1,D=16", 1);
    refused("unknown engine", cu_engine_new("cude", NULL, 0, &e));
    refused("variants", cu_engine_new("cuda-host", NULL, FH1_VAR_MUP_ROUNDED, &e));
    fh1_status missing = cu_device_missing();
    if (missing) refused("cuda", missing);
    if (missing) refused("cuda", cu_engine_new("cuda", NULL, 0, &e));
    ck_assert(!e);
    good(cu_engine_new("cuda-host", fh1_profile_find("cuda-bf16"), 0, &e));
    refused("bf16", fh1_engine_open(e, &m));
    e->free(e);
    good(cu_engine_new("cuda-host", fh1_profile_find("hf-eager-bf16"), 0, &e));
    refused("cuda-bf16 or fp32", fh1_engine_open(e, &m));
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

/* Taps that a call shows, the cache's and the loss aside. */
static int shown(const fh1_config *c)
{
    int n = 0;
    for (int id = 0; id <= FH1_TAP_LOGITS; ++id)
        if (fh1_tap_exists(c, (fh1_tap_id)id)) n += fh1_tap_is_per_layer((fh1_tap_id)id) ? (int)c->n_layers : 1;
    return n;
}

static fh1_status look(void *user, const fh1_tap_event *ev)
{
    (void)ev;
    ++*(int *)user;
    return NULL;
}

/* Looking at taps changes no bit: the fused kernels round where the separate ones store. */
START_TEST(taps_change_nothing)
{
    static const char *const models[] = {every_switch, odd_widths, small, small, mamba, mamba_odd};
    static const char *const blocks[] = {"", "", ",block=SAM", ",block=S_A_M", "", ""};
    for (int i = 0; i < 12; ++i) {
        char text[400];
        snprintf(text, sizeof text, "%s%s,dtype=%s", models[i / 2], blocks[i / 2], i % 2 ? "bf16" : "f32");
        fh1_model m = make(text, 3);
        fh1_engine *e = engine();
        int seen = 0;
        const fh1_tap_sink sink = {.user = &seen, .tap = look};
        float *quiet = logits_of(e, &m, some_ids, NULL), *watched = logits_of(e, &m, some_ids, &sink);
        float *others = logits_of(e, &m, other_ids, NULL);
        ck_assert_int_eq(seen, 2 * shown(&m.config));
        ck_assert(memcmp(quiet, watched, (size_t)n_logits(&m) * sizeof *quiet) == 0);
        ck_assert(memcmp(quiet, others, (size_t)n_logits(&m) * sizeof *quiet) != 0);
        free(quiet);
        free(watched);
        free(others);
        e->free(e);
        fh1_model_free(&m);
    }
}
END_TEST

/* -- writing to taps ------------------------------------------------------------------------------------------------
 */

/* Every tap of layer 0 (and of the model) of one call, f32. */
typedef struct {
    float *v[FH1_TAP_COUNT];
    int64_t n[FH1_TAP_COUNT];
} recording;

typedef struct {
    const recording *from; /* taps in `set` are overwritten by these, */
    uint64_t set;
    recording *to; /* and all are kept here */
} rewriting;

static fh1_status rewrite(void *user, const fh1_tap_event *ev)
{
    rewriting *r = user;
    if (ev->layer != 0) return NULL;
    const int64_t n = fh1_n_elems(&ev->value);
    float *v = ev->value.data;
    if (r->set >> ev->id & 1) memcpy(v, r->from->v[ev->id], (size_t)n * sizeof *v);
    free(r->to->v[ev->id]);
    r->to->v[ev->id] = malloc((size_t)(n + 1) * sizeof *v);
    memcpy(r->to->v[ev->id], v, (size_t)n * sizeof *v);
    r->to->n[ev->id] = n;
    return NULL;
}

static void forget(recording *r)
{
    for (int i = 0; i < FH1_TAP_COUNT; ++i) free(r->v[i]);
    memset(r, 0, sizeof *r);
}

/* The tap after the written ones is what A's was, not what it would have been: error and size over all elements. */
static double gap(const recording *a, const recording *b, fh1_tap_id id)
{
    double err = 0, ref = 0;
    ck_assert_int_eq(a->n[id], b->n[id]);
    for (int64_t i = 0; i < a->n[id]; ++i) {
        err += pow((double)a->v[id][i] - (double)b->v[id][i], 2);
        ref += pow((double)a->v[id][i], 2);
    }
    return sqrt(err / ref);
}

/* A prompt of `some_ids` without its last column, then that column of `ids`, as a step or, with the first `n` - 1 of
 * `other_ids` behind it, as several tokens. Taps of the last call. */
static void last_call(fh1_engine *e, const fh1_model *m, const int64_t *ids, int64_t n, rewriting *r)
{
    recording ignored = {.n = {0}};
    rewriting nothing = {.to = &ignored};
    const fh1_tap_sink quiet = {.user = &nothing, .tap = rewrite}, sink = {.user = r, .tap = rewrite};
    int64_t prompt[B * T], next[B * T];
    fh1_cache *c;
    for (int b = 0; b < B; ++b) {
        memcpy(prompt + b * (T - 1), some_ids + b * T, (T - 1) * sizeof *ids);
        for (int64_t t = 0; t < n; ++t) next[b * n + t] = ids[b * T + T - 1 - t];
    }
    good(fh1_cache_new(&m->config, e->dtype, B, &c));
    good(e->forward(e, m, &(fh1_batch){.B = B, .T = T - 1, .ids = prompt}, c, 1, NULL, &quiet));
    good(e->forward(e, m, &(fh1_batch){.B = B, .T = n, .ids = next}, c, n, NULL, &sink));
    fh1_cache_free(c);
    forget(&ignored);
}

#define SET(id) ((uint64_t)1 << FH1_TAP_##id)
typedef struct {
    uint64_t written;
    fh1_tap_id seen;
} lesson;
static const lesson sa_m_teacher[] = {
    {SET(EMBED), FH1_TAP_INPUT},
    {SET(INPUT), FH1_TAP_INPUT_LAYERNORM},
    {SET(INPUT_LAYERNORM), FH1_TAP_Q_PROJ},
    {SET(INPUT_LAYERNORM), FH1_TAP_IN_PROJ},
    {SET(Q_PROJ), FH1_TAP_Q_ROPE},
    {SET(K_PROJ), FH1_TAP_K_ROPE},
    {SET(Q_ROPE) | SET(K_ROPE) | SET(V_PROJ), FH1_TAP_CONTEXT},
    {SET(CONTEXT), FH1_TAP_O_PROJ},
    {SET(IN_PROJ), FH1_TAP_CONV_ACT},
    {SET(IN_PROJ), FH1_TAP_DT},
    {SET(CONV_ACT) | SET(DT), FH1_TAP_SSD},
    {SET(SSD) | SET(IN_PROJ), FH1_TAP_GATED},
    {SET(GATED), FH1_TAP_OUT_PROJ},
    {SET(O_PROJ) | SET(OUT_PROJ) | SET(INPUT), FH1_TAP_MID},
    {SET(MID), FH1_TAP_PRE_FF_LAYERNORM},
    {SET(PRE_FF_LAYERNORM), FH1_TAP_GATE_PROJ},
    {SET(PRE_FF_LAYERNORM), FH1_TAP_ACT},
    {SET(GATE_PROJ) | SET(UP_PROJ), FH1_TAP_ACT},
    {SET(ACT), FH1_TAP_DOWN_PROJ},
    {SET(DOWN_PROJ) | SET(MID), FH1_TAP_LAYER},
    {SET(FINAL_LAYERNORM), FH1_TAP_LOGITS},
};
static const lesson mamba_teacher[] = {
    {SET(EMBED), FH1_TAP_INPUT_LAYERNORM},
    {SET(INPUT_LAYERNORM), FH1_TAP_IN_PROJ},
    {SET(IN_PROJ), FH1_TAP_CONV_ACT},
    {SET(CONV_ACT), FH1_TAP_X_PROJ},
    {SET(X_PROJ), FH1_TAP_DT},
    {SET(CONV_ACT) | SET(X_PROJ) | SET(DT), FH1_TAP_SSD},
    {SET(SSD) | SET(IN_PROJ), FH1_TAP_GATED},
    {SET(GATED), FH1_TAP_OUT_PROJ},
    {SET(OUT_PROJ) | SET(EMBED), FH1_TAP_LAYER},
    {SET(FINAL_LAYERNORM), FH1_TAP_LOGITS},
};
static const lesson s_a_m_teacher[] = {
    {SET(OUT_PROJ) | SET(INPUT), FH1_TAP_MID_SSM}, {SET(MID_SSM), FH1_TAP_ATTN_LAYERNORM},
    {SET(ATTN_LAYERNORM), FH1_TAP_Q_PROJ},         {SET(O_PROJ) | SET(MID_SSM), FH1_TAP_MID},
    {SET(MID), FH1_TAP_PRE_FF_LAYERNORM},          {SET(DOWN_PROJ) | SET(MID), FH1_TAP_LAYER},
};
static const lesson sam_teacher[] = {
    {SET(INPUT_LAYERNORM), FH1_TAP_IN_PROJ},
    {SET(INPUT_LAYERNORM), FH1_TAP_GATE_PROJ},
    {SET(OUT_PROJ) | SET(O_PROJ) | SET(DOWN_PROJ) | SET(INPUT), FH1_TAP_LAYER},
};
#define LESSONS(l) l, (int)(sizeof l / sizeof *l)
static const struct {
    const char *model, *block;
    const lesson *of;
    int n;
} classes[] = {{every_switch, "", LESSONS(sa_m_teacher)},
               {mamba, "", LESSONS(mamba_teacher)},
               {small, ",block=S_A_M", LESSONS(s_a_m_teacher)},
               {small, ",block=SAM", LESSONS(sam_teacher)}};
enum { N_CLASSES = sizeof classes / sizeof *classes };

/* f32: what is recomputed from the same values differs by the order of sums of at most 64 terms, some 2^-20. */
START_TEST(a_sink_may_write)
{
    const int64_t n = _i % 2 ? 3 : 1; /* the kernels of a prompt, and those of a step */
    const lesson *teacher = classes[_i / 2].of;
    char text[400];
    snprintf(text, sizeof text, "%s%s", classes[_i / 2].model, classes[_i / 2].block);
    fh1_model m = make(text, 5);
    fh1_engine *e = engine();
    recording a = {.n = {0}};
    rewriting record = {.to = &a};
    last_call(e, &m, other_ids, n, &record);
    for (int i = 0; i < classes[_i / 2].n; ++i) {
        recording b = {.n = {0}}, plain = {.n = {0}};
        rewriting taught = {&a, teacher[i].written, &b}, untaught = {.to = &plain};
        last_call(e, &m, some_ids, n, &taught);
        last_call(e, &m, some_ids, n, &untaught);
        ck_assert_msg(gap(&a, &b, teacher[i].seen) < 0x1p-20, "case %d of %s: %g", i, text,
                      gap(&a, &b, teacher[i].seen));
        ck_assert_msg(gap(&a, &plain, teacher[i].seen) > 0x1p-7, "case %d of %s could not fail", i, text);
        forget(&b);
        forget(&plain);
    }
    forget(&a);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

/* -- models and errors ------------------------------------------------------------------------------------------------
 */

/* Another model at the same address, and one whose weights changed in place, are other models. */
START_TEST(the_model_is_the_one_given)
{
    fh1_engine *e = engine();
    fh1_model m = make(every_switch, 1);
    float *first = logits_of(e, &m, some_ids, NULL);
    fh1_model_free(&m);
    m = make(every_switch, 2);
    fh1_engine *fresh = engine();
    float *second = logits_of(e, &m, some_ids, NULL), *want = logits_of(fresh, &m, some_ids, NULL);
    ck_assert(memcmp(second, want, (size_t)n_logits(&m) * sizeof *want) == 0);
    ck_assert(memcmp(first, want, (size_t)n_logits(&m) * sizeof *want) != 0);
    m.config.m_key = 2;
    float *third = logits_of(e, &m, some_ids, NULL);
    ck_assert(memcmp(third, want, (size_t)n_logits(&m) * sizeof *want) != 0);
    free(first);
    free(second);
    free(third);
    free(want);
    e->free(e);
    fresh->free(fresh);
    fh1_model_free(&m);
}
END_TEST

static fh1_status stop(void *user, const fh1_tap_event *ev)
{
    return ev->layer == 1 && ev->id == FH1_TAP_CONV_ACT ? fh1_fail(FH1_E_WRONG, "%s", (const char *)user) : NULL;
}

START_TEST(a_failed_call_leaves_a_cache_to_reset)
{
    fh1_model m = make(every_switch, 1);
    fh1_engine *e = engine();
    const size_t V = (size_t)m.config.V;
    float *a = calloc(B * V, sizeof *a), *b = calloc(B * V, sizeof *b);
    int64_t bad[B * T];
    fh1_cache *c, *clean;
    const fh1_batch batch = {.B = B, .T = T, .ids = some_ids};
    memcpy(bad, some_ids, sizeof bad);
    bad[T + 2] = m.config.V;
    good(fh1_cache_new(&m.config, e->dtype, B, &c));
    good(fh1_cache_new(&m.config, e->dtype, B, &clean));
    good(e->forward(e, &m, &batch, clean, 1, a, NULL));
    refused("vocabulary", e->forward(e, &m, &(fh1_batch){.B = B, .T = T, .ids = bad}, c, 1, b, NULL));
    fh1_status s = e->forward(e, &m, &batch, c, 1, b, &(fh1_tap_sink){.user = "enough", .tap = stop});
    ck_assert(s && s->code == FH1_E_WRONG);
    fh1_cache_reset(c);
    good(e->forward(e, &m, &batch, c, 1, b, NULL));
    ck_assert(memcmp(a, b, B * V * sizeof *a) == 0);
    fh1_cache_free(c);
    fh1_cache_free(clean);
    free(a);
    free(b);
    e->free(e);
    fh1_model_free(&m);
}
END_TEST

/* Rows without tokens, a first call of one column, no logits, some of them; against the f32 reference, whose sums are
 * in another order: at most a hundred terms through two layers, 2^-14 of the largest logit is far more than they can
 * do. */
START_TEST(calls_of_every_form)
{
    static const int64_t mask[B * 3] = {0, 0, 0, 0, 1, 1};
    const fh1_batch forms[] = {{.B = B, .T = 1, .ids = some_ids},
                               {.B = B, .T = 3, .ids = some_ids, .mask = mask, .mask_len = 3},
                               {.B = B, .T = 5, .ids = some_ids}};
    fh1_model m = make(odd_widths, 4);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; ++i)
        for (int64_t n = 0; n <= forms[i].T; ++n) {
            const size_t size = (size_t)(B * n * m.config.V);
            float *v[2];
            double most = 0;
            for (int k = 0; k < 2; ++k) {
                fh1_engine *e = k ? engine() : ref_engine_new("ref-f32", NULL, 0);
                fh1_cache *c;
                v[k] = calloc(size + 1, sizeof *v[k]);
                good(fh1_cache_new(&m.config, e->dtype, B, &c));
                good(e->forward(e, &m, &forms[i], c, n, n % 2 ? v[k] : NULL, NULL));
                ck_assert_int_eq(c->n_cols, forms[i].T);

                fh1_cache_free(c);
                e->free(e);
            }
            const size_t wrote = n % 2 ? size : 0;
            for (size_t j = 0; j < wrote; ++j) most = fmax(most, fabs((double)v[0][j]));
            for (size_t j = 0; j < wrote; ++j) ck_assert(fabs((double)v[0][j] - (double)v[1][j]) <= 0x1p-14 * most);
            free(v[0]);
            free(v[1]);
        }
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_engine");
    TCase *t = tcase_create("cuda_engine");
    suite_add_tcase(suite, t);
    tcase_set_timeout(t, 0);
    tcase_add_test(t, contract_follows_the_checkpoint);
    tcase_add_test(t, what_it_does_not_do_is_refused);
    tcase_add_test(t, taps_change_nothing);
    tcase_add_loop_test(t, a_sink_may_write, 0, 2 * N_CLASSES);
    tcase_add_test(t, the_model_is_the_one_given);
    tcase_add_test(t, a_failed_call_leaves_a_cache_to_reset);
    tcase_add_test(t, calls_of_every_form);
    SRunner *r = srunner_create(suite);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
