/* The finger on the bug: what the judge says about the cause of a first divergence, on traces of engines that have one.
 * A planted fault is named, a moved parameter is named with its delta, and what nothing explains is "unknown", with the
 * place where it sits. */
#include "tests/faults_fixture.h"

#include "oracle/round.h"

#include <math.h>

enum { MOST = 8, LAYER = 1, ROW = 5, HEAD = 3 };

typedef struct {
    int n;
    struct {
        char name[64], evidence[400];
        double score;
    } at[MOST];
    char first[128]; /* "step 0 model.layers.0.mamba.ssd", "" without a divergence */
} explained;

typedef fh1_engine *(*faulty_maker)(const char *, const fh1_profile *, unsigned, fh1_fault);

static explained explain_with(const gld_trace *t, const fh1_model *m, faulty_maker make)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report;
    explained x = {.n = 0};
    const gld_judge_options o = {.model = m,
                                 .profile = fh1_profile_find(t->contract),
                                 .subject = "t",
                                 .make_engine = ref_engine_new,
                                 .make_faulty = make};
    OK(fh1_report_new(FH1_REPORT_JSON, false, out, &report));
    OK(gld_judge(t, &o, report));
    fh1_report_end_subject(report, "t", NULL, 0);
    fh1_report_finish(report, "0", "fh1 check");
    fh1_report_free(report);
    fclose(out);
    cJSON *summary = cJSON_Parse(strstr(text, "{\"summary\"")), *s;
    const cJSON *first = cJSON_GetObjectItem(summary, "first_divergence");
    if (cJSON_IsObject(first))
        snprintf(x.first, sizeof x.first, "step %d %s", cJSON_GetObjectItem(first, "step")->valueint,
                 cJSON_GetObjectItem(first, "tap")->valuestring);
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(summary, "suspects"))
    {
        ck_assert_int_lt(x.n, MOST);
        snprintf(x.at[x.n].name, sizeof x.at->name, "%s", cJSON_GetObjectItem(s, "fault")->valuestring);
        snprintf(x.at[x.n].evidence, sizeof x.at->evidence, "%s", cJSON_GetObjectItem(s, "evidence")->valuestring);
        x.at[x.n++].score = cJSON_GetObjectItem(s, "score")->valuedouble;
    }
    cJSON_Delete(summary);
    free(text);
    printf("  %s:\n", *x.first ? x.first : "no divergence");
    for (int i = 0; i < x.n; i++) printf("    %.6f %s: %s\n", x.at[i].score, x.at[i].name, x.at[i].evidence);
    return x;
}

static explained explain(const gld_trace *t, const fh1_model *m)
{
    return explain_with(t, m, ref_faulty_engine_new);
}

static gld_trace record(fh1_engine *e, const fh1_model *m, int inputs, bool cache_taps)
{
    const gld_record_options o = {.no_cache_taps = !cache_taps, .store = FH1_DTYPE_COUNT};
    gld_trace in, out;
    ck_assert_ptr_nonnull(e);
    OK(gld_fault_inputs(&m->config, inputs, &in));
    OK(gld_record_like(e, m, &in, &o, &out));
    e->free(e);
    gld_trace_free(&in);
    return out;
}

static gld_trace record_fault(const char *name, const char *engine, const fh1_model *m, int inputs, bool cache_taps)
{
    const fh1_fault f = fh1_fault_find(name);
    ck_assert_msg(f != FH1_FAULT_NONE, "%s", name);
    return record(ref_faulty_engine_new(engine, NULL, 0, f), m, inputs, cache_taps);
}

/* Its place among the suspects from 1; 0: not there. */
static int place(const explained *x, const char *name)
{
    for (int i = 0; i < x->n; i++)
        if (strcmp(x->at[i].name, name) == 0) return i + 1;
    return 0;
}

static void says(const explained *x, int at, const char *text)
{
    ck_assert_msg(at < x->n && strstr(x->at[at].evidence, text), "'%s' is not in: %s", text,
                  at < x->n ? x->at[at].evidence : "nothing");
}

/* -- planted faults ------------------------------------------------------------------------------- */

START_TEST(a_known_fault_is_named)
{
    static const struct {
        const char *fault, *model, *engine;
        int inputs;
    } cases[] = {{"key_multiplier_dropped", "mini-0.5b", "ref-f32", GLD_MIXED_PADDING},
                 {"conv_off_by_one", "mini-0.5b", "ref-f32", GLD_RAGGED},
                 {"groups_tiled", "mini-34b", "ref-f32", GLD_RAGGED},
                 {"kv_heads_by_modulo", "mini-0.5b", "ref-f32", GLD_RAGGED},
                 {"mask_one_late", "mini-0.5b", "ref-f32", GLD_RAGGED},
                 {"key_multiplier_dropped", "mini-0.5b-bf16", "ref-bf16", GLD_MIXED_PADDING},
                 {"gate_and_up_swapped", "mini-0.5b-bf16", "ref-bf16", GLD_MIXED_PADDING},
                 {"inner_norms_dropped", "mamba-untied", "ref-f32", GLD_RAGGED},
                 {"selective_scan_restarts", "mamba-tied-bf16", "ref-bf16", GLD_SHORT_CALLS}};
    for (int i = 0; i < N_OF(cases); i++) {
        const fh1_model *m = fault_model(cases[i].model);
        gld_trace t = record_fault(cases[i].fault, cases[i].engine, m, cases[i].inputs, true);
        const explained x = explain(&t, m), none = explain_with(&t, m, NULL);
        ck_assert_msg(place(&x, cases[i].fault) == 1, "%s is not the first", cases[i].fault);
        ck_assert(x.at[0].score >= fh1_rule.explained && !place(&x, "unknown"));
        ck_assert_int_eq(none.n, 0); /* and without the faulty copy nobody is */
        gld_trace_free(&t);
    }
}
END_TEST

/* What spoils the cache shows in a later call; without cache taps only a run of all calls can tell. */
START_TEST(a_fault_of_an_earlier_call_is_named)
{
    static const char *const faults[] = {"conv_window_post_conv", "last_token_not_in_state"};
    const fh1_model *m = fault_model("mini-0.5b");
    for (int i = 0; i < N_OF(faults); i++) {
        gld_trace t = record_fault(faults[i], "ref-f32", m, GLD_SHORT_CALLS, false);
        const explained x = explain(&t, m);
        const int at = place(&x, faults[i]);
        ck_assert_msg(strncmp(x.first, "step 0", 6) != 0, "%s", x.first);
        ck_assert_msg(at >= 1 && at <= 3, "%s is number %d", faults[i], at);
        gld_trace_free(&t);
    }
}
END_TEST

START_TEST(an_honest_engine_has_no_suspects)
{
    const fh1_model *m = fault_model("mini-0.5b");
    gld_trace t = record(ref_engine_new("ref-f32", NULL, 0), m, GLD_RAGGED, true);
    const explained x = explain(&t, m);
    ck_assert(!*x.first && x.n == 0);
    gld_trace_free(&t);
}
END_TEST

/* -- parameters ----------------------------------------------------------------------------------- */

/* A copy of `w` in f32, for one layer of a model of its own. */
typedef struct {
    fh1_model m;
    fh1_layer layers[16];
    float *values;
} edited;

static void edit_begin(const fh1_model *from, edited *e)
{
    e->m = *from;
    fh1_config_copy(&e->m.config, &from->config);
    ck_assert_int_le(from->config.n_layers, N_OF(e->layers));
    memcpy(e->layers, from->layers, (size_t)from->config.n_layers * sizeof *e->layers);
    e->m.layers = e->layers;
}

static float *edit(edited *e, fh1_tensor *w)
{
    const int64_t n = fh1_n_elems(w);
    ck_assert_ptr_nonnull(e->values = malloc((size_t)n * sizeof *e->values));
    fh1_to_f32(e->values, w->data, w->dtype, n);
    w->data = e->values;
    w->dtype = FH1_F32;
    return e->values;
}

static explained explain_edited(edited *e, const fh1_model *m)
{
    gld_trace t = record(ref_engine_new("ref-f32", NULL, 0), &e->m, GLD_RAGGED, true);
    const explained x = explain(&t, m);
    gld_trace_free(&t);
    free(e->values);
    return x;
}

/* "… is off by +0.03 (…": the number. */
static double delta(const explained *x, int at)
{
    static const char before[] = " is off by ";
    const char *number = at < x->n ? strstr(x->at[at].evidence, before) : NULL;
    ck_assert_ptr_nonnull(number);
    return strtod(number + strlen(before), NULL);
}

/* The delta is told with four digits; the engine's rounding and the f32 copy leave less than one in a hundred. */
static void near(double found, double wanted)
{
    ck_assert_msg(fh1_within(fabs(found / wanted - 1), 0x1p-6), "%g instead of %g", found, wanted);
}

START_TEST(a_scaled_row_is_named_with_its_scale)
{
    const fh1_model *m = fault_model("mini-0.5b");
    const int64_t D = m->config.D;
    edited e;
    edit_begin(m, &e);
    float *w = edit(&e, &e.layers[LAYER].q_w);
    for (int64_t i = 0; i < D; i++) w[ROW * D + i] *= 1.03f;
    const explained x = explain_edited(&e, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.self_attn.q_proj");
    ck_assert_int_eq(place(&x, "scale of q_proj.weight row[5]"), 1);
    near(delta(&x, 0), 0.03);
    ck_assert(x.at[0].score >= fh1_rule.explained);
}
END_TEST

START_TEST(a_missing_d_is_named_with_its_head)
{
    const fh1_model *m = fault_model("mini-0.5b");
    edited e;
    edit_begin(m, &e);
    float *D = edit(&e, &e.layers[LAYER].D);
    D[HEAD] -= 1;
    const explained x = explain_edited(&e, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.mamba.ssd");
    ck_assert_int_eq(place(&x, "D[3]"), 1);
    near(delta(&x, 0), -1);
}
END_TEST

START_TEST(a_rounded_a_log_is_named_with_its_head)
{
    const fh1_model *m = fault_model("mini-0.5b");
    edited e;
    edit_begin(m, &e);
    float *A = edit(&e, &e.layers[LAYER].A_log);
    const float before = A[HEAD];
    A[HEAD] = fh1_round_f32(FH1_ROUND_BF16, A[HEAD]);
    ck_assert(A[HEAD] != before);
    const double moved = (double)A[HEAD] - (double)before;
    const explained x = explain_edited(&e, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.mamba.ssd");
    ck_assert_int_eq(place(&x, "A_log[3]"), 1);
    near(delta(&x, 0), moved);
}
END_TEST

START_TEST(a_moved_multiplier_is_named_with_its_value)
{
    const fh1_model *m = fault_model("mini-0.5b");
    edited e;
    e.values = NULL;
    edit_begin(m, &e);
    e.m.config.m_key *= 1.0625;
    const explained x = explain_edited(&e, m);
    ck_assert_int_eq(place(&x, "key_multiplier"), 1);
    near(delta(&x, 0), m->config.m_key * 0.0625);
}
END_TEST

/* Falcon-Mamba has parameters of its own: a weight of dt_proj, a rate of one element, the eps of the norms inside. */
START_TEST(a_parameter_of_falcon_mamba_is_named)
{
    const fh1_model *m = fault_model("mamba-untied");
    const int64_t R = m->config.R, N = m->config.N;
    edited e;
    edit_begin(m, &e);
    edit(&e, &e.layers[LAYER].dt_w)[ROW * R + 2] += 0x1p-8f;
    explained x = explain_edited(&e, m);
    char name[64];
    snprintf(name, sizeof name, "dt_proj.weight[%d]", (int)(ROW * R + 2));
    ck_assert_str_eq(x.first, "step 0 backbone.layers.1.mixer.dt");
    ck_assert_int_eq(place(&x, name), 1);
    near(delta(&x, 0), 0x1p-8);

    edit_begin(m, &e);
    float *A = edit(&e, &e.layers[LAYER].A_log) + HEAD * N + 4;
    const double before = (double)*A;
    *A = fh1_round_f32(FH1_ROUND_BF16, *A + 0x1p-7f);
    const double moved = (double)*A - before;
    x = explain_edited(&e, m);
    snprintf(name, sizeof name, "A_log[%d]", (int)(HEAD * N + 4));
    ck_assert_str_eq(x.first, "step 0 backbone.layers.1.mixer.scan");
    ck_assert_int_eq(place(&x, name), 1);
    near(delta(&x, 0), moved);

    e.values = NULL;
    edit_begin(m, &e);
    e.m.config.mixer_eps *= 1 + 0x1p-6;
    x = explain_edited(&e, m);
    ck_assert_int_eq(place(&x, "mixer_rms_eps"), 1);
    near(delta(&x, 0), 0x1p-6 * m->config.mixer_eps);
}
END_TEST

/* -- what nothing explains ------------------------------------------------------------------------ */

/* The numbers of a recorded tap of the first call: [B, T, width]. */
static float *values_of(gld_trace *t, fh1_tap_id id, int64_t layer, int64_t *T, int64_t *width)
{
    const gld_tap *tap = gld_trace_find(t, 0, id, layer);
    ck_assert(tap && tap->t.dtype == FH1_F32);
    *T = tap->t.shape[1];
    *width = fh1_n_elems(&tap->t) / tap->t.shape[0] / *T;
    return (float *)tap->t.data;
}

START_TEST(an_unknown_bug_is_told_by_its_shape)
{
    enum { FROM = 7, ONE = 1, OTHER = 2 };
    const fh1_model *m = fault_model("mini-0.5b");
    const int64_t A = m->config.A;
    gld_trace t = record(ref_engine_new("ref-f32", NULL, 0), m, GLD_LONG_POSITIONS, true);
    int64_t T, width;
    float *v = values_of(&t, FH1_TAP_CONTEXT, LAYER, &T, &width);
    for (int64_t i = FROM; i < T; i++)
        for (int64_t a = 0; a < A; a++) {
            float *one = v + i * width + ONE * A + a, *other = v + i * width + OTHER * A + a, kept = *one;
            *one = *other;
            *other = kept;
        }
    const explained x = explain(&t, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.self_attn.context");
    ck_assert_msg(x.n > 0 && strcmp(x.at[x.n - 1].name, "unknown") == 0, "something explains it");
    says(&x, x.n - 1, "no known fault explains this: heads 1 to 2, tokens from 7 on");
    gld_trace_free(&t);
}
END_TEST

/* Rounding is most of a residual in bf16, and any number fits a little of it. */
START_TEST(one_bad_element_is_nobodys_fault)
{
    const fh1_model *m = fault_model("mini-0.5b");
    gld_trace t = record(ref_engine_new("ref-bf16", NULL, 0), m, GLD_LONG_POSITIONS, true);
    const gld_tap *tap = gld_trace_find(&t, 0, FH1_TAP_K_ROPE, LAYER);
    ck_assert_ptr_nonnull(tap);
    const int64_t n = fh1_n_elems(&tap->t);
    int64_t at = 0;
    for (int64_t i = 0; i < n; ++i)
        if (fabs(fh1_get(&tap->t, i)) > fabs(fh1_get(&tap->t, at))) at = i;
    fh1_set(&tap->t, at, 1.02 * fh1_get(&tap->t, at));
    const explained x = explain(&t, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.self_attn.k_rope");
    ck_assert_msg(x.n == 1 && strcmp(x.at[0].name, "unknown") == 0, "%s explains it", x.at[0].name);
    says(&x, 0, "only head ");
    says(&x, 0, "only token ");
    gld_trace_free(&t);
}
END_TEST

START_TEST(one_bad_channel_is_told)
{
    const fh1_model *m = fault_model("mini-0.5b");
    gld_trace t = record(ref_engine_new("ref-f32", NULL, 0), m, GLD_LONG_POSITIONS, true);
    int64_t T, width;
    float *v = values_of(&t, FH1_TAP_MID, LAYER, &T, &width);
    for (int64_t i = 0; i < T; i++) v[i * width + ROW] = i % 2 ? 3.0f : -3.0f;
    const explained x = explain(&t, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.mid");
    ck_assert_int_eq(place(&x, "unknown"), x.n);
    says(&x, x.n - 1, "only channel 5");
    gld_trace_free(&t);
}
END_TEST

START_TEST(one_token_of_every_chunk_is_told)
{
    const fh1_model *m = fault_model("mini-0.5b");
    const int64_t Q = m->config.Q;
    gld_trace t = record(ref_engine_new("ref-f32", NULL, 0), m, GLD_ONE_CHUNK_MORE, true);
    int64_t T, width;
    float *v = values_of(&t, FH1_TAP_SSD, LAYER, &T, &width);
    for (int64_t i = Q - 1; i < T; i += Q)
        for (int64_t k = 0; k < width; k++) v[i * width + k] = 0.5f * (float)(k % 3) - 1;
    const explained x = explain(&t, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.mamba.ssd");
    ck_assert_int_eq(place(&x, "unknown"), x.n);
    char text[64];
    snprintf(text, sizeof text, "token %lld of every %lld", (long long)(Q - 1), (long long)Q);
    says(&x, x.n - 1, text);
    gld_trace_free(&t);
}
END_TEST

START_TEST(a_nan_is_explained_by_where_it_is)
{
    const fh1_model *m = fault_model("mini-0.5b");
    gld_trace t = record_fault("nan_in_one_element", "ref-f32", m, GLD_MIXED_PADDING, true);
    explained x = explain(&t, m);
    ck_assert_int_eq(place(&x, "nan_in_one_element"), 1);
    gld_trace_free(&t);

    t = record(ref_engine_new("ref-f32", NULL, 0), m, GLD_LONG_POSITIONS, true);
    int64_t T, width;
    float *v = values_of(&t, FH1_TAP_ACT, LAYER, &T, &width);
    v[6 * width + ROW] = NAN;
    x = explain(&t, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.feed_forward.act");
    ck_assert_int_eq(place(&x, "unknown"), 1);
    says(&x, 0, "only channel 5, only token 6, NaN or infinite in one element");
    gld_trace_free(&t);
}
END_TEST

START_TEST(many_nans_are_told_by_their_shape)
{
    const fh1_model *m = fault_model("mini-0.5b");
    gld_trace t = record(ref_engine_new("ref-f32", NULL, 0), m, GLD_LONG_POSITIONS, true);
    int64_t T, width;
    float *v = values_of(&t, FH1_TAP_GATED, LAYER, &T, &width);
    for (int64_t i = T / 2 * width; i < T * width; i++) v[i] = i % 2 ? NAN : INFINITY;
    const explained x = explain(&t, m);
    ck_assert_str_eq(x.first, "step 0 model.layers.1.mamba.gated");
    ck_assert_int_ge(place(&x, "unknown"), 1);
    char text[64];
    snprintf(text, sizeof text, "tokens from %lld on, NaN or infinite in", (long long)(T / 2));
    says(&x, place(&x, "unknown") - 1, text);
    gld_trace_free(&t);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_known_fault_is_named,
                                  a_fault_of_an_earlier_call_is_named,
                                  an_honest_engine_has_no_suspects,
                                  a_scaled_row_is_named_with_its_scale,
                                  a_missing_d_is_named_with_its_head,
                                  a_rounded_a_log_is_named_with_its_head,
                                  a_parameter_of_falcon_mamba_is_named,
                                  a_moved_multiplier_is_named_with_its_value,
                                  an_unknown_bug_is_told_by_its_shape,
                                  one_bad_element_is_nobodys_fault,
                                  one_bad_channel_is_told,
                                  one_token_of_every_chunk_is_told,
                                  a_nan_is_explained_by_where_it_is,
                                  many_nans_are_told_by_their_shape,
                                  NULL};
    return faults_main("explain", tests);
}
