/* The three blocks of a layer (fh1_block): what they have in common bit for bit, that each tap is judged by its own op,
 * that SA_M is what a config without the key means, and the sum of three branches against its gauge. What each block
 * computes is held against real modules by golden/models/block-* and golden/gradients/block-*. */
#define REF_BITS 64 /* the branches of the f64 sum */
#include "reference/residual_gauge.h"
#include "tests/judge_fixture.h"

#include "convert/json.h"
#include "golden/seeded_model.h"
#include "oracle/gauge.h"

static const fh1_block blocks[] = {FH1_BLOCK_SA_M, FH1_BLOCK_SAM, FH1_BLOCK_S_A_M};
enum { N_BLOCKS = N_OF(blocks) };

/* The same seed gives each block the same tensors, by name. */
static void open_block(fh1_block b, const char *dtype, fh1_model *m)
{
    char text[512];
    gld_seeded_spec spec;
    snprintf(text, sizeof text,
             "layers=3,D=12,F=15,V=96,Hq=4,Hkv=2,A=6,H=4,P=5,N=7,G=2,K=4,Q=4,dtype=%s,block=%s,m_attn_in=1.3,"
             "m_attn_out=0.7,m_ssm_in=0.8,m_ssm_out=0.6,m_down=0.9,rms_norm=1,tied=0",
             dtype, fh1_block_name(b));
    OK(gld_seeded_parse(text, &spec));
    OK(gld_seeded_model_new(&spec, 5, m));
}

/* Every tap of the usual calls: a padded batch, a step, three tokens more. */
static gld_trace taps_of(const fh1_model *m, const char *engine)
{
    gld_trace in, out;
    inputs(&in);
    fh1_engine *e = ref_engine_new(engine, NULL, 0);
    OK(gld_record_like(e, m, &in, NULL, &out));
    e->free(e);
    gld_trace_free(&in);
    return out;
}

static bool same_tap(const gld_trace *a, const gld_trace *b, int64_t step, fh1_tap_id id, int64_t layer)
{
    const gld_tap *x = gld_trace_find(a, step, id, layer), *y = gld_trace_find(b, step, id, layer);
    ck_assert(x && y && x->t.dtype == y->t.dtype && fh1_n_elems(&x->t) == fh1_n_elems(&y->t));
    return memcmp(x->t.data, y->t.data, fh1_n_bytes(&x->t)) == 0;
}

/* -- one branch alone ---------------------------------------------------------------------------- */

typedef enum { MIXER, ATTENTION, MLP, NONE_ALONE } branch;

/* The multipliers of the other branches are 0, and all norms before a branch have the weight of the first one. */
static gld_trace run_alone(fh1_block b, branch which, const char *engine)
{
    fh1_model m;
    open_block(b, "f32", &m);
    if (which != MIXER && which != NONE_ALONE) m.config.m_ssm_out = 0;
    if (which != ATTENTION && which != NONE_ALONE) m.config.m_attn_out = 0;
    if (which != MLP && which != NONE_ALONE) m.config.m_down = 0;
    for (int64_t i = 0; i < m.config.n_layers; i++) {
        fh1_layer *l = &m.layers[i];
        if (l->attn_layernorm.data) l->attn_layernorm = l->input_layernorm;
        if (l->pre_ff_layernorm.data) l->pre_ff_layernorm = l->input_layernorm;
    }
    gld_trace t = taps_of(&m, engine);
    fh1_model_free(&m);
    return t;
}

/* x + m·branch(norm x) is the same layer however the three stand; with two branches it is not. */
START_TEST(a_branch_alone_is_the_same_in_each_block)
{
    static const char *const engines[] = {"ref-f64", "ref-f32"};
    for (int e = 0; e < N_OF(engines); e++)
        for (int which = MIXER; which <= NONE_ALONE; which++) {
            gld_trace t[N_BLOCKS];
            for (int b = 0; b < N_BLOCKS; b++) t[b] = run_alone(blocks[b], (branch)which, engines[e]);
            for (int b = 1; b < N_BLOCKS; b++)
                for (int64_t step = 0; step < t[0].n_steps; step++) {
                    bool same = same_tap(&t[0], &t[b], step, FH1_TAP_LOGITS, 0);
                    if (which == MIXER) same &= same_tap(&t[0], &t[b], step, FH1_TAP_CACHE_SSM, 2);
                    if (which == ATTENTION) same &= same_tap(&t[0], &t[b], step, FH1_TAP_CACHE_VALUE, 2);
                    ck_assert_msg(same == (which != NONE_ALONE), "%s, block %s, branch %d, step %d: %s", engines[e],
                                  fh1_block_name(blocks[b]), which, (int)step, same ? "the same" : "not the same");
                }
            for (int b = 0; b < N_BLOCKS; b++) gld_trace_free(&t[b]);
        }
}
END_TEST

/* -- the key ------------------------------------------------------------------------------------- */

/* golden/models/mini-0.5b with `block` as its key; NULL: as it is. */
static fh1_status open_with_key(const char *block, fh1_model *m)
{
    static const char folder[] = "golden/models/mini-0.5b";
    char path[512], root[256], link_path[256];
    cJSON *config;
    snprintf(path, sizeof path, "%s/config.json", folder);
    OK(cvt_json_read(path, 1 << 16, 16, &config));
    if (block) cJSON_AddStringToObject(config, "fh1_block", block);
    char *text = cJSON_Print(config);
    fixture_text("config.json", text);
    ck_assert_ptr_nonnull(getcwd(root, sizeof root));
    snprintf(path, sizeof path, "%s/%s/model.safetensors", root, folder);
    if (access(fixture_path("model.safetensors", link_path), F_OK) != 0) ck_assert_int_eq(symlink(path, link_path), 0);
    free(text);
    cJSON_Delete(config);
    return cvt_hf_folder_open(fixture_dir, m);
}

START_TEST(the_released_block_needs_no_key)
{
    static const char *const engines[] = {"ref-f64", "ref-f32", "ref-bf16"};
    fh1_model absent, present, other;
    fixture_begin();
    OK(open_with_key(NULL, &absent));
    OK(open_with_key("SA_M", &present));
    for (int e = 0; e < N_OF(engines); e++) {
        gld_trace a = taps_of(&absent, engines[e]), b = taps_of(&present, engines[e]);
        for (int64_t step = 0; step < a.n_steps; step++) {
            ck_assert_int_eq(a.steps[step].n_taps, b.steps[step].n_taps);
            for (int64_t i = 0; i < a.steps[step].n_taps; i++) {
                const gld_tap *tap = &a.steps[step].taps[i];
                ck_assert(same_tap(&a, &b, step, tap->id, tap->layer));
            }
        }
        gld_trace_free(&a);
        gld_trace_free(&b);
    }
    /* the key counts: these weights are none of the other blocks' */
    FAILS(open_with_key("S_A_M", &other), FH1_E_INPUT, "attn_layernorm");
    FAILS(open_with_key("SAM", &other), FH1_E_INPUT, "pre_ff_layernorm");
    FAILS(open_with_key("MSA", &other), FH1_E_INPUT, "fh1_block");
    fh1_model_free(&absent);
    fh1_model_free(&present);
    fixture_end();
}
END_TEST

/* -- the judge ----------------------------------------------------------------------------------- */

/* What the ops of a block read where the released one reads something else; LAYER stands for the stream before. */
static const struct {
    fh1_block block;
    fh1_tap_id id, in[4];
} reads[] = {
#define NONE FH1_TAP_COUNT
    {FH1_BLOCK_SAM, FH1_TAP_LAYER, {FH1_TAP_LAYER, FH1_TAP_O_PROJ, FH1_TAP_OUT_PROJ, FH1_TAP_DOWN_PROJ}},
    {FH1_BLOCK_SAM, FH1_TAP_GATE_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_SAM, FH1_TAP_UP_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_SAM, FH1_TAP_Q_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_IN_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_MID_SSM, {FH1_TAP_LAYER, FH1_TAP_OUT_PROJ, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_ATTN_LAYERNORM, {FH1_TAP_MID_SSM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_Q_PROJ, {FH1_TAP_ATTN_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_K_PROJ, {FH1_TAP_ATTN_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_V_PROJ, {FH1_TAP_ATTN_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_MID, {FH1_TAP_MID_SSM, FH1_TAP_O_PROJ, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_PRE_FF_LAYERNORM, {FH1_TAP_MID, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_GATE_PROJ, {FH1_TAP_PRE_FF_LAYERNORM, NONE, NONE, NONE}},
    {FH1_BLOCK_S_A_M, FH1_TAP_LAYER, {FH1_TAP_MID, FH1_TAP_DOWN_PROJ, NONE, NONE}},
};

static void leave_out(gld_trace *t, int64_t step, fh1_tap_id id, int64_t layer)
{
    gld_step *s = &t->steps[step];
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_taps; i++)
        if (s->taps[i].id != id || s->taps[i].layer != layer) s->taps[n++] = s->taps[i];
    ck_assert_int_eq(n, s->n_taps - 1);
    s->n_taps = n;
}

/* The tap in layer 1 is wrong in one element: it is found there, by its gauge where all that its op reads is in the
 * trace, and by the chain's rule without the input `left_out`. */
static void found_by(const fh1_model *m, fh1_tap_id id, fh1_tap_id left_out)
{
    gld_trace t = taps_of(m, "ref-f32");
    fh1_tensor *v = tensor(&t, 0, id, 1);
    const int64_t last = fh1_n_elems(v) - 1;
    char name[FH1_TAP_NAME_SIZE];
    fh1_set(v, last, 2 * fh1_get(v, last) + 5);
    if (left_out != NONE) leave_out(&t, 0, left_out, left_out == FH1_TAP_LAYER ? 0 : 1);
    verdict d = judge_as(&t, m, fh1_profile_find("fp32"), 0, NULL);
    const cJSON *l = line_of(&d, 0, fh1_tap_name(FH1_FALCON_H1, id, 1, name));
    const char *reason = cJSON_GetObjectItem(l, "reason")->valuestring;
    ck_assert_str_eq(cJSON_GetObjectItem(l, "verdict")->valuestring, "FAIL");
    ck_assert_msg((strstr(reason, "by its gauge") != NULL) == (left_out == NONE), "%s: %s", name, reason);
    ck_assert_str_eq(cJSON_GetObjectItem(first_of(&d), "tap")->valuestring, name);
    cJSON_Delete(d.lines);
    gld_trace_free(&t);
}

START_TEST(each_op_is_judged_from_what_its_block_reads)
{
    fh1_model m;
    open_block(reads[_i].block, "f32", &m);
    found_by(&m, reads[_i].id, NONE);
    for (int i = 0; i < 4 && reads[_i].in[i] != NONE; i++) found_by(&m, reads[_i].id, reads[_i].in[i]);
    fh1_model_free(&m);
}
END_TEST

static fh1_tap_id kept_id;
static bool only_kept(int64_t i, const gld_tap *tap)
{
    (void)i;
    return tap->id == kept_id;
}

/* Teacher forcing from any subset: an honest engine passes with one tap of each layer in the trace, whichever it is. */
START_TEST(an_honest_engine_passes_with_any_tap_alone)
{
    static const char *const engines[] = {"ref-f32", "ref-bf16"};
    for (int e = 0; e < N_OF(engines); e++) {
        fh1_model m;
        open_block(blocks[1 + _i], e ? "bf16" : "f32", &m);
        for (int id = FH1_TAP_INPUT_LAYERNORM; id <= FH1_TAP_LAYER; id++) {
            kept_id = (fh1_tap_id)id;
            if (!fh1_tap_exists(&m.config, kept_id)) continue;
            gld_trace t = taps_of(&m, engines[e]);
            keep_only(&t, only_kept);
            expect_pass(judge_as(&t, &m, fh1_profile_find(e ? "hf-eager-bf16" : "fp32"), 0, NULL), engines[e]);
            gld_trace_free(&t);
        }
        fh1_model_free(&m);
    }
}
END_TEST

/* -- a part of a call ---------------------------------------------------------------------------- */

typedef struct {
    double *stream[3]; /* behind each layer */
    bool put_in;
    int n_taps;
} watch;

static fh1_status on_tap(void *user, const fh1_tap_event *e)
{
    watch *w = user;
    w->n_taps++;
    if (e->id != FH1_TAP_LAYER) return NULL;
    const size_t bytes = fh1_n_bytes(&e->value);
    if (w->put_in && e->layer == 0) memcpy(e->value.data, w->stream[0], bytes);
    else memcpy(w->stream[e->layer] = malloc(bytes), e->value.data, bytes);
    return NULL;
}

static void run_layers(const fh1_model *m, int64_t first, int64_t end, watch *w)
{
    static const int64_t ids[] = {5, 17, 23, 42, 8, 31};
    const fh1_batch b = {.B = 1, .T = N_OF(ids), .ids = ids};
    const fh1_tap_sink sink = {.user = w, .tap = on_tap, .first_layer = first, .end_layer = end};
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    fh1_cache *cache;
    OK(fh1_cache_new(&m->config, FH1_F64, 1, &cache));
    OK(e->forward(e, m, &b, cache, 0, NULL, &sink));
    fh1_cache_free(cache);
    e->free(e);
}

START_TEST(a_layer_alone_computes_what_it_computes_in_the_model)
{
    fh1_model m;
    open_block(blocks[_i], "f32", &m);
    watch all = {0}, one = {.put_in = true};
    run_layers(&m, 0, 0, &all);
    one.stream[0] = all.stream[0];
    run_layers(&m, 1, 2, &one);
    ck_assert(memcmp(all.stream[1], one.stream[1], 6 * 12 * sizeof(double)) == 0);
    ck_assert(memcmp(all.stream[0], one.stream[1], 6 * 12 * sizeof(double)) != 0);
    ck_assert_ptr_null(one.stream[2]);
    ck_assert_int_lt(one.n_taps, all.n_taps / 2);
    for (int i = 0; i < 3; i++) free(all.stream[i]);
    free(one.stream[1]);
    fh1_model_free(&m);
}
END_TEST

/* -- the sum of three branches ------------------------------------------------------------------- */

enum { N_SUM = 4096 };

/* The four terms in the order given by `order`, as f32 sums; `pairs`: (first + second) + (third + fourth). */
static float sum_of(const float v[4], const int order[4], bool pairs)
{
    const float first = v[order[0]] + v[order[1]];
    return pairs ? first + (v[order[2]] + v[order[3]]) : (first + v[order[2]]) + v[order[3]];
}

/* Each order of the sum is honest where the contract names none; a branch rounded to bf16 is not. */
START_TEST(the_gauge_of_three_branches_allows_each_order)
{
    static const int orders[][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {1, 2, 0, 3}, {3, 0, 1, 2}, {3, 2, 1, 0}, {0, 3, 1, 2}};
    static double a[N_SUM], b[N_SUM], c[N_SUM], x[N_SUM];
    const fh1_profile *fp32 = fh1_profile_find("fp32");
    const fh1_stream s = fh1_stream_open(11, "branches");
    const double m[3] = {(double)0.7F, (double)0.6F, (double)0.9F};
    for (uint64_t i = 0; i < N_SUM; i++) {
        a[i] = (double)(float)fh1_random_normal(s, 4 * i);
        b[i] = (double)(float)fh1_random_normal(s, 4 * i + 1);
        c[i] = (double)(float)fh1_random_normal(s, 4 * i + 2);
        x[i] = (double)(float)(3 * fh1_random_normal(s, 4 * i + 3));
    }
    const ref_branches_f64 branches = {a, b, c, m[0], m[1], m[2]};
    fh1_gauge g;
    OK(fh1_gauge_new(N_SUM, &g));
    ref_residual_gauge(fp32, N_SUM, &branches, x, &g);
    const double sigmas = fh1_gauge_sigmas(N_SUM);
    double most = 0;
    int coarse = 0;
    for (int i = 0; i < N_SUM; i++) {
        const double truth = x[i] + a[i] * m[0] + b[i] * m[1] + c[i] * m[2];
        const double allowed = fh1_gauge_allowed(fh1_gauge_at(&g, i), sigmas);
        float v[4] = {(float)a[i] * (float)m[0], (float)b[i] * (float)m[1], (float)c[i] * (float)m[2], (float)x[i]};
        for (int k = 0; k < 2 * N_OF(orders); k++) {
            const double err = fabs((double)sum_of(v, orders[k / 2], k % 2) - truth);
            ck_assert_msg(fh1_within(err, allowed), "element %d, order %d: %g beyond %g", i, k, err, allowed);
            most = fmax(most, err / allowed);
        }
        v[2] = (float)fh1_round_f64(FH1_ROUND_BF16, (double)v[2]);
        coarse += !fh1_within(fabs((double)sum_of(v, orders[0], false) - truth), allowed);
    }
    fh1_gauge_free(&g);
    ck_assert_double_gt(most, 0.3); /* and it is not wide */
    ck_assert_int_gt(coarse, N_SUM * 9 / 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("blocks");
    TCase *tc = tcase_create("blocks");
    tcase_set_timeout(tc, 250);
    tcase_add_test(tc, a_branch_alone_is_the_same_in_each_block);
    tcase_add_test(tc, the_released_block_needs_no_key);
    tcase_add_loop_test(tc, each_op_is_judged_from_what_its_block_reads, 0, N_OF(reads));
    tcase_add_loop_test(tc, an_honest_engine_passes_with_any_tap_alone, 0, 2);
    tcase_add_loop_test(tc, a_layer_alone_computes_what_it_computes_in_the_model, 0, N_BLOCKS);
    tcase_add_test(tc, the_gauge_of_three_branches_allows_each_order);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
