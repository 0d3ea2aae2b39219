/* The judge on the golden models: honest traces pass, and a planted fault is found at its own tap, step and place.
 *
 * Faults are planted in two ways. In a record: one tensor of an honest trace is changed, so that every later tap is at
 * odds with it; the first divergence counts. In the engine: a tap is changed on its way and the engine goes on from it,
 * as a wrong implementation would; then that tap, and no other, may fail. */
#include "tests/judge_fixture.h"

/* --- honest traces --- */

START_TEST(honest_traces_pass)
{
    static const kind all[] = {{M34, "ref-f64"}, {M34, "ref-f32"},      {M34_BF16, "ref-bf16"}, {ODD, "ref-f64"},
                               {ODD, "ref-f32"}, {M34_BF16, "ref-f32"}, {ODD, "ref-bf16"}};
    for (int i = 0; i < N_OF(all); i++) {
        gld_trace t = record(all[i]);
        verdict v = judge(&t, all[i]);
        ck_assert_int_eq(v.n_taps, 3 * (2 + 21 * 3 + 2 + 4 * 3)); /* every tap of three steps and three layers */
        expect_pass(v, all[i].engine);
        gld_trace_free(&t);
    }
}
END_TEST

/* Traces of transformers. */
START_TEST(golden_traces_pass)
{
    static const struct {
        int model;
        const char *path, *profile;
    } of[] = {
        {M34, "mini-34b/left3", "fp32"}, {M34_BF16, "mini-34b-bf16/left1", "hf-eager-bf16"}, {ODD, "odd/t3", "fp32"}};
    char path[256];
    for (int i = 0; i < N_OF(of); i++) {
        gld_trace t;
        snprintf(path, sizeof path, "golden/traces/%s.safetensors", of[i].path);
        OK(gld_trace_open(path, &models[of[i].model], NULL, &t));
        expect_pass(judge_as(&t, &models[of[i].model], fh1_profile_find(of[i].profile), 0, NULL), of[i].path);
        gld_trace_free(&t);
    }
}
END_TEST

/* A bf16 trace is no fp32 trace, an f32 one not exact: a contract is not a formality. */
START_TEST(contracts_are_held)
{
    gld_trace t = record(kinds[BF16]);
    verdict v = judge_as(&t, &models[M34_BF16], fh1_profile_find("fp32"), 0, NULL);
    ck_assert_int_gt(v.n_fail, 10); /* a tap of one rounding passes: what is stored in bf16 may be rounded to it */
    cJSON_Delete(v.lines);
    gld_trace_free(&t);
    t = record(kinds[F32]);
    expect_fail(judge_as(&t, &models[M34], fh1_profile_find("exact"), 0, NULL), 0, "model.layers.0.input", NULL, false);
    expect_pass(judge_as(&t, &models[M34], fh1_profile_find("exact"), 0, "model.embed_tokens"), "a lookup is exact");
    gld_trace_free(&t);
}
END_TEST

/* --- faults in the engine: one tap, and only that one --- */

static void one_nan(fh1_tensor *v)
{
    fh1_set(v, v->shape[1] * 10 + 5, (double)NAN); /* token 10 of the packed ones: row 1, column 1 */
}

static void negate_last_column(fh1_tensor *v)
{
    const int64_t width = fh1_n_elems(v) / v->shape[0];
    for (int64_t m = 0; m < v->shape[0]; m++) fh1_set(v, m * width + width - 1, -fh1_get(v, m * width + width - 1));
}

/* Everything by 1.001: far above an f32 rounding, far below a bf16 one. */
static void thousandth(fh1_tensor *v)
{
    for (int64_t i = 0; i < fh1_n_elems(v); i++) fh1_set(v, i, 1.001 * fh1_get(v, i));
}

static void no_key_multiplier(fh1_tensor *v)
{
    for (int64_t i = 0; i < fh1_n_elems(v); i++) fh1_set(v, i, fh1_get(v, i) / models[M34].config.m_key);
}

/* Head 4 of 6 is clamped to [2 lo, hi/2] instead of [lo, hi]. */
static void wrong_limits(fh1_tensor *v)
{
    for (int64_t m = 0; m < v->shape[0]; m++) {
        const double lo = 2 * models[ODD].config.dt_lo, hi = models[ODD].config.dt_hi / 2, dt = fh1_get(v, m * 6 + 4);
        fh1_set(v, m * 6 + 4, fmin(fmax(dt, lo), hi));
    }
}

START_TEST(faults_of_an_engine_are_found)
{
    static const struct {
        kind k;
        fh1_tap_id id;
        int64_t layer;
        int step;
        void (*edit)(fh1_tensor *);
        int64_t where[4];
    } of[] = {
        {{M34, "ref-f32"}, FH1_TAP_K_ROPE, 1, 0, no_key_multiplier, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_K_ROPE, 1, 1, no_key_multiplier, {-1, -1, -1, -1}},
        {{ODD, "ref-f32"}, FH1_TAP_DT, 1, 0, wrong_limits, {-1, -1, 4, -1}},
        {{ODD, "ref-f32"}, FH1_TAP_DT, 2, 2, wrong_limits, {-1, -1, 4, -1}},
        {{M34, "ref-f32"}, FH1_TAP_LOGITS, 0, 0, negate_last_column, {-1, -1, 103, -1}},
        {{M34_BF16, "ref-bf16"}, FH1_TAP_LOGITS, 0, 2, negate_last_column, {-1, -1, 103, -1}},
        {{M34, "ref-f32"}, FH1_TAP_MID, 2, 1, negate_last_column, {-1, -1, 39, -1}},
        {{M34, "ref-f32"}, FH1_TAP_Q_PROJ, 0, 0, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_OUT_PROJ, 2, 1, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_SSD, 1, 2, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_CONV_ACT, 0, 1, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_GATED, 2, 0, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_CONTEXT, 2, 2, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_ACT, 1, 0, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_LAYER, 2, 1, thousandth, {-1, -1, -1, -1}},
        {{M34, "ref-f32"}, FH1_TAP_FINAL_LAYERNORM, 0, 0, thousandth, {-1, -1, -1, -1}},
    };
    for (int i = 0; i < N_OF(of); i++) {
        const saboteur fault = {.bad_step = of[i].step, .id = of[i].id, .layer = of[i].layer, .edit = of[i].edit};
        char name[FH1_TAP_NAME_SIZE];
        gld_trace t = record_like(of[i].k, NULL, NULL, false, &fault);
        expect_fail(judge(&t, of[i].k), of[i].step, fh1_tap_name(FH1_FALCON_H1, of[i].id, of[i].layer, name),
                    of[i].where, true);
        gld_trace_free(&t);
    }
}
END_TEST

/* In a record alone: behind it truth goes on with its own value, since nobody knows the engine's. So the ops that read
 * the tap may fail too, by what that value was off by; nothing behind them may. */
START_TEST(one_nan_is_found_where_it_is)
{
    static const struct {
        fh1_tap_id id, readers[4]; /* FH1_TAP_EMBED: none */
    } of[] = {{FH1_TAP_INPUT_LAYERNORM, {FH1_TAP_Q_PROJ, FH1_TAP_K_PROJ, FH1_TAP_V_PROJ, FH1_TAP_IN_PROJ}},
              {FH1_TAP_Q_PROJ, {FH1_TAP_Q_ROPE}},
              {FH1_TAP_DT, {FH1_TAP_SSD, FH1_TAP_CACHE_SSM}},
              {FH1_TAP_DOWN_PROJ, {FH1_TAP_LAYER}}};
    char name[FH1_TAP_NAME_SIZE];
    for (int i = 0; i < N_KINDS * N_OF(of); i++) {
        const fh1_tap_id id = of[i / N_KINDS].id;
        gld_trace t = record(kinds[i % N_KINDS]);
        fh1_tensor *v = tensor(&t, 0, id, 1);
        const int64_t width = v->shape[2];
        fh1_set(v, (T + 4) * width + width - 2, (double)NAN);
        verdict found = judge(&t, kinds[i % N_KINDS]);
        int n_readers = 0;
        for (int k = 0; k < 4 && of[i / N_KINDS].readers[k] != FH1_TAP_EMBED; k++) {
            const cJSON *line = line_of(&found, 0, fh1_tap_name(FH1_FALCON_H1, of[i / N_KINDS].readers[k], 1, name));
            n_readers += strcmp(cJSON_GetObjectItem(line, "verdict")->valuestring, "FAIL") == 0;
        }
        ck_assert_int_eq(found.n_fail, 1 + n_readers);
        expect_fail(found, 0, fh1_tap_name(FH1_FALCON_H1, id, 1, name), (int64_t[]){1, 4, width - 2, -1},
                    i % N_KINDS == EXACT);
        gld_trace_free(&t);
    }
    /* an engine that goes on from it has NaN all over: the first is named */
    const saboteur fault = {.bad_step = 0, .id = FH1_TAP_GATE_PROJ, .layer = 1, .edit = one_nan};
    gld_trace t = record_like(kinds[F32], NULL, NULL, false, &fault);
    expect_fail(judge(&t, kinds[F32]), 0, "model.layers.1.feed_forward.gate_proj", (int64_t[]){1, 1, 5, -1}, false);
    gld_trace_free(&t);
}
END_TEST

/* --- one weight row off by 2 % --- */

static int64_t quiet_row; /* the row of q_proj with the smallest outputs */

static void scale_row(fh1_tensor *v)
{
    const int64_t width = fh1_n_elems(v) / v->shape[0];
    for (int64_t m = 0; m < v->shape[0]; m++)
        fh1_set(v, m * width + quiet_row,
                (double)fh1_bf16_to_f32(fh1_f64_to_bf16(1.02 * fh1_get(v, m * width + quiet_row))));
}

/* RMS over the real tokens of a tap of step 0, and of one channel of it. */
static double rms(const fh1_tensor *v, int64_t channel)
{
    const int64_t width = v->shape[2];
    double sum = 0, n = 0;
    for (int64_t i = 3 * width; i < fh1_n_elems(v); i++) /* the padding comes first */
        if (channel < 0 || i % width == channel) sum += fh1_get(v, i) * fh1_get(v, i), n++;
    return sqrt(sum / n);
}

/* The bound per element sees it. A rule over the tap would allow twice the honest error, or one ulp of each element:
 * the fault hides under either, in a real model (thousands of rows) whatever the row, here in the row of the smallest
 * outputs. */
START_TEST(a_row_scaled_by_two_percent_is_found)
{
    static const char tap[] = "model.layers.1.self_attn.q_proj";
    gld_trace honest = record(kinds[BF16]);
    const fh1_tensor *q = tensor(&honest, 0, FH1_TAP_Q_PROJ, 1);
    for (int64_t i = 1; i < q->shape[2]; i++)
        if (rms(q, i) < rms(q, quiet_row)) quiet_row = i;
    verdict v = judge(&honest, kinds[BF16]);
    const double honest_rms = figure(&v, 0, tap, "rel_rms");
    expect_pass(v, "honest");

    const saboteur fault = {.bad_step = 0, .id = FH1_TAP_Q_PROJ, .layer = 1, .edit = scale_row};
    gld_trace t = record_like(kinds[BF16], NULL, NULL, false, &fault);
    v = judge(&t, kinds[BF16]);
    ck_assert_double_lt(figure(&v, 0, tap, "rms_ratio"), 2);
    ck_assert_double_lt(figure(&v, 0, tap, "rel_rms"), 2 * honest_rms);
    double ulps = 0; /* the floor of the RMS rules */
    for (int64_t i = 3 * q->shape[2]; i < fh1_n_elems(q); i++) ulps += pow(fh1_dtype_ulp(FH1_BF16, fh1_get(q, i)), 2);
    ck_assert_double_lt(figure(&v, 0, tap, "rel_rms"), sqrt(ulps / (double)(21 * q->shape[2])) / rms(q, -1));
    ck_assert_double_gt(figure(&v, 0, tap, "margin"), 1.5);
    expect_fail(v, 0, tap, (int64_t[]){-1, -1, quiet_row, -1}, true);
    gld_trace_free(&t);

    t = record_like(kinds[BF16], NULL, "*.q_proj", true,
                    &fault); /* without its input it cannot be told from a rounding */
    v = judge(&t, kinds[BF16]);
    ck_assert_int_eq(v.n_taps, 9);
    cJSON_Delete(v.lines);
    gld_trace_free(&t);
    gld_trace_free(&honest);
}
END_TEST

/* --- logits and loss --- */

/* The last two columns of the logits alone. */
START_TEST(fewer_logits_than_tokens)
{
    for (int i = 0; i < N_KINDS; i++) {
        const kind k = kinds[i];
        gld_trace like;
        inputs(&like);
        const fh1_config *c = &models[k.model].config;
        fh1_tensor shape = fh1_tap_shape(c, FH1_TAP_LOGITS, B, T, 2, 0), view;
        like.n_steps = 1;
        OK(gld_trace_add_tap(&like, FH1_TAP_LOGITS, 0, FH1_F32, &shape, &view));
        gld_trace t = record_like(k, &like, NULL, false, NULL);
        ck_assert_int_eq(t.steps[0].n_logits, 2);
        expect_pass(judge(&t, k), "two columns of logits");
        fh1_tensor *v = tensor(&t, 0, FH1_TAP_LOGITS, 0);
        ck_assert_int_eq(v->shape[1], 2);
        const int64_t at = (1 * 2 + 0) * c->V + 17; /* row 1, the first of the two */
        fh1_set(v, at, fh1_get(v, at) + 0.5);
        expect_fail(judge(&t, k), 0, "logits", (int64_t[]){1, 0, 17, -1}, true);
        gld_trace_free(&t);
        gld_trace_free(&like);
    }
}
END_TEST

START_TEST(one_column_of_logits)
{
    for (int i = 0; i < N_KINDS; i++) {
        gld_trace t = record(kinds[i]);
        fh1_tensor *v = tensor(&t, 2, FH1_TAP_LOGITS, 0);
        for (int64_t r = 0; r < v->shape[0] * v->shape[1]; r++)
            fh1_set(v, r * v->shape[2] + 41, 1.05 * fh1_get(v, r * v->shape[2] + 41));
        expect_fail(judge(&t, kinds[i]), 2, "logits", (int64_t[]){-1, -1, 41, -1}, true);
        gld_trace_free(&t);
    }
}
END_TEST

START_TEST(loss)
{
    int64_t ids[B * T], labels[B * T], mask[B * T];
    for (int i = 0; i < B * T; i++)
        ids[i] = 2 + i * 37 % 90, mask[i] = i >= 3, labels[i] = i < 4 || i % 5 == 0 ? -100 : ids[i];
    for (int i = 0; i < N_KINDS; i++) {
        const kind k = kinds[i];
        gld_trace like;
        OK(gld_trace_new(&like));
        OK(gld_trace_add_step(&like,
                              &(fh1_batch){.B = B, .T = T, .ids = ids, .mask = mask, .mask_len = T, .labels = labels}));
        gld_trace t = record_like(k, &like, NULL, false, NULL);
        expect_pass(judge(&t, k), "with labels");
        fh1_tensor *v = tensor(&t, 0, FH1_TAP_LOSS, 0);
        const double honest = fh1_get(v, 0);
        fh1_set(v, 0, honest * 1.001);
        expect_fail(judge(&t, k), 0, "loss", NULL, true);
        fh1_set(v, 0, honest);
        ((int64_t *)(uintptr_t)t.steps[0].batch.labels)[3] = 5; /* predicted from the last padding column */
        verdict skipped = judge(&t, k);
        ck_assert_str_eq(cJSON_GetObjectItem(line_of(&skipped, 0, "loss"), "verdict")->valuestring, "SKIP");
        expect_pass(skipped, "a loss that reads padding");
        gld_trace_free(&t);
        gld_trace_free(&like);
    }
}
END_TEST

/* --- exact --- */

/* Every tap of a layer, a model and a cache in turn: an error that is small beside the eleventh digit, in one element
 * or in all. Only the tap itself is judged, since an op behind it may multiply what was added. */
START_TEST(exact_sees_the_eleventh_digit)
{
    gld_trace t = record(kinds[EXACT]);
    const fh1_profile *exact = fh1_profile_find("exact");
    t.n_steps = 1;
    for (int64_t i = 0; i < t.steps[0].n_taps; i++) {
        const gld_tap *tap = &t.steps[0].taps[i];
        if (tap->layer == 2 || (tap->layer == 0 && fh1_tap_is_per_layer(tap->id))) continue;
        const int64_t n = fh1_n_elems(&tap->t);
        double *honest = malloc((size_t)n * sizeof *honest), square = 0;
        char name[FH1_TAP_NAME_SIZE];
        fh1_tap_name(FH1_FALCON_H1, tap->id, tap->layer, name);
        for (int64_t k = 0; k < n; k++) honest[k] = fh1_get(&tap->t, k), square += honest[k] * honest[k];
        const double tap_rms = sqrt(square / (double)n);
        verdict v = judge_as(&t, &models[M34], exact, 0, name);
        const double allowed = figure(&v, 0, name, "allowed"), margin = figure(&v, 0, name, "margin");
        const cJSON *at = cJSON_GetObjectItem(line_of(&v, 0, name), "where");
        int64_t where[4] = {-1, -1, -1, -1}, k = 0;
        for (int d = 0; d < cJSON_GetArraySize(at); d++) {
            where[d] = cJSON_GetArrayItem(at, d)->valueint;
            k = k * tap->t.shape[d] + where[d];
        }
        expect_pass(v, name);
        ck_assert_msg(fh1_within(allowed, 1e-11 * tap_rms), "%s: %g of %g are allowed", name, allowed, tap_rms);
        ck_assert_msg(fh1_within(margin, 0.7), "%s: margin %g", name, margin);
        fh1_set(&tap->t, k, honest[k] + allowed / 4);
        expect_pass(judge_as(&t, &models[M34], exact, 0, name), name);
        fh1_set(&tap->t, k, honest[k] + 3 * allowed + fh1_dtype_ulp(FH1_F64, honest[k]));
        expect_fail(judge_as(&t, &models[M34], exact, 0, name), 0, name, where, true);
        for (k = 0; k < n; k++) fh1_set(&tap->t, k, honest[k] + 1e-11 * tap_rms);
        expect_fail(judge_as(&t, &models[M34], exact, 0, name), 0, name, NULL, true);
        for (k = 0; k < n; k++) fh1_set(&tap->t, k, honest[k]);
        free(honest);
    }
    t.n_steps = 3; /* all are freed */
    gld_trace_free(&t);
}
END_TEST

/* --- variants and bad inputs --- */

/* Truth follows the variants that it is told to, and only those. */
START_TEST(variants_are_followed)
{
    gld_trace in, t;
    inputs(&in);
    fh1_engine *e = ref_engine_new("ref-f32", NULL, FH1_VAR_DECODE_NO_DT_LIMIT);
    OK(gld_record_like(e, &models[ODD], &in, NULL, &t));
    e->free(e);
    const fh1_profile *p = fh1_profile_find("fp32");
    expect_pass(judge_as(&t, &models[ODD], p, FH1_VAR_DECODE_NO_DT_LIMIT, NULL), "the variant it was made with");
    expect_fail(judge_as(&t, &models[ODD], p, 0, NULL), 1, "model.layers.0.mamba.dt", NULL, false);
    gld_trace_free(&t);
    gld_trace_free(&in);
}
END_TEST

START_TEST(inputs_that_no_model_takes)
{
    gld_trace t = record((kind){ODD, "ref-f32"});
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fh1_report *report;
    OK(fh1_report_new(FH1_REPORT_JSON, false, out, &report));
    const gld_judge_options o = {
        .model = &models[ODD], .profile = fh1_profile_find("fp32"), .subject = "t", .make_engine = ref_engine_new};
    ((int64_t *)(uintptr_t)t.steps[1].batch.ids)[1] = models[ODD].config.V;
    FAILS(gld_judge(&t, &o, report), FH1_E_INPUT, "step 1");
    fh1_report_free(report);
    fclose(out);
    ck_assert_uint_eq(size, 0); /* nothing was judged before the inputs were read */
    free(text);
    gld_trace_free(&t);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {honest_traces_pass,
                                  golden_traces_pass,
                                  contracts_are_held,
                                  faults_of_an_engine_are_found,
                                  one_nan_is_found_where_it_is,
                                  a_row_scaled_by_two_percent_is_found,
                                  fewer_logits_than_tokens,
                                  one_column_of_logits,
                                  loss,
                                  exact_sees_the_eleventh_digit,
                                  variants_are_followed,
                                  inputs_that_no_model_takes,
                                  NULL};
    return judge_main("judge", tests);
}
