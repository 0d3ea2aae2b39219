/* The judge on caches, padding and sparse traces: what a call leaves behind is judged as its taps are, padding is not,
 * and a fault between two recorded taps comes up at the next one. */
#include "tests/judge_fixture.h"

/* --- the cache --- */

static double decay_of(const gld_trace *t, const fh1_model *m, int64_t row, int64_t h)
{
    const fh1_tensor *dt = &gld_trace_find(t, 0, FH1_TAP_DT, 1)->t;
    return exp(-exp(fh1_get(&m->layers[1].A_log, h)) * fh1_get(dt, (row * T + T - 1) * m->config.H + h));
}

START_TEST(a_state_decayed_once_more_is_found)
{
    for (int i = 0; i < N_KINDS; i++) {
        const fh1_model *m = &models[kinds[i].model];
        gld_trace t = record(kinds[i]);
        fh1_tensor *S = tensor(&t, 0, FH1_TAP_CACHE_SSM, 1);
        const int64_t per_head = m->config.P * m->config.N, per_row = per_head * m->config.H;
        for (int64_t k = 0; k < per_row; k++)
            fh1_set(S, per_row + k, fh1_get(S, per_row + k) * decay_of(&t, m, 1, k / per_head));
        expect_fail(judge(&t, kinds[i]), 0, "cache.1.ssm", (int64_t[]){1, -1, -1, -1}, false);
        gld_trace_free(&t);
    }
}
END_TEST

/* The window of row 1 lags by one column: oldest repeated, newest missing. */
START_TEST(a_shifted_window_is_found)
{
    for (int i = 0; i < N_KINDS * 2; i++) {
        const kind k = kinds[i / 2];
        gld_trace t = record(k);
        fh1_tensor *w = tensor(&t, i % 2, FH1_TAP_CACHE_CONV, 0);
        const int64_t W = w->shape[2], n = w->shape[1] * W;
        for (int64_t at = 2 * n - 1; at >= n; at--)
            if (at % W) fh1_set(w, at, fh1_get(w, at - 1));
        expect_fail(judge(&t, k), i % 2, "cache.0.conv", (int64_t[]){1, -1, -1, -1}, false);
        gld_trace_free(&t);
    }
}
END_TEST

/* One old key of one head, half as large again: a later step must leave it alone. */
START_TEST(an_old_key_that_changed_is_found)
{
    for (int i = 0; i < N_KINDS; i++) {
        gld_trace t = record(kinds[i]);
        fh1_tensor *key = tensor(&t, 1, FH1_TAP_CACHE_KEY, 0);
        const int64_t S = key->shape[2], A = key->shape[3], at = ((1 * key->shape[1] + 1) * S + 4) * A;
        for (int64_t k = 0; k < A; k++) fh1_set(key, at + k, 1.5 * fh1_get(key, at + k));
        expect_fail(judge(&t, kinds[i]), 1, "cache.0.key", (int64_t[]){1, 1, 4, -1}, false);
        gld_trace_free(&t);
    }
}
END_TEST

static void state_times_three(fh1_cache *c)
{
    double *f64_state = c->rows[1].ssm[1];
    float *f32_state = c->rows[1].ssm[1];
    for (int64_t i = 0; i < c->config->H * c->config->P * c->config->N; i++)
        if (c->dtype == FH1_F64) f64_state[i] *= 3;
        else f32_state[i] *= 3;
}

/* A state that goes wrong between two calls: at once where the cache is recorded, in the next scan where not. */
START_TEST(a_state_nobody_recorded_is_found_in_the_next_step)
{
    const saboteur fault = {.bad_step = 0, .edit_cache = state_times_three};
    for (int i = 0; i < N_KINDS; i++) {
        const kind k = kinds[i];
        gld_trace t = record_like(k, NULL, NULL, true, NULL);
        expect_pass(judge(&t, k), "without cache taps");
        gld_trace_free(&t);
        t = record_like(k, NULL, NULL, true, &fault);
        expect_fail(judge(&t, k), 1, "model.layers.1.mamba.ssd", (int64_t[]){1, 0, -1, -1}, false);
        gld_trace_free(&t);
        t = record_like(k, NULL, NULL, false, &fault);
        expect_fail(judge(&t, k), 0, "cache.1.ssm", (int64_t[]){1, -1, -1, -1}, true);
        gld_trace_free(&t);
    }
}
END_TEST

/* --- padding --- */

/* Garbage at the padding of row 0, in every tap that has a column for it. */
static void spoil_padding(gld_trace *t, bool numbers)
{
    for (int64_t j = 0; j < t->n_steps; j++)
        for (int64_t i = 0; i < t->steps[j].n_taps; i++) {
            const gld_tap *tap = &t->steps[j].taps[i];
            const bool keyed = tap->id == FH1_TAP_CACHE_KEY || tap->id == FH1_TAP_CACHE_VALUE;
            if ((fh1_tap_is_cache(tap->id) && !keyed) || (!keyed && j > 0) || tap->id == FH1_TAP_LOSS) continue;
            const int64_t slots = tap->t.shape[keyed ? 2 : 1], n = fh1_n_elems(&tap->t) / B;
            const int64_t inner = keyed ? tap->t.shape[3] : n / slots;
            for (int64_t k = 0; k < n; k++)
                if (k / inner % slots < 3) fh1_set(&tap->t, k, numbers ? 1e4 * (double)(k % 7 - 3) : (double)NAN);
        }
}

static void same_figures(const verdict *a, const verdict *b)
{
    char *left = cJSON_PrintUnformatted(a->lines), *right = cJSON_PrintUnformatted(b->lines);
    ck_assert_str_eq(left, right);
    free(left);
    free(right);
}

START_TEST(padding_does_not_matter)
{
    for (int i = 0; i < N_KINDS * 2; i++) {
        const kind k = kinds[i / 2];
        gld_trace t = record(k);
        verdict clean = judge(&t, k);
        spoil_padding(&t, i % 2);
        verdict spoilt = judge(&t, k);
        same_figures(&clean, &spoilt);
        cJSON_Delete(clean.lines);
        expect_pass(spoilt, "garbage in padding");
        fh1_tensor *v = tensor(&t, 0, FH1_TAP_ACT, 0); /* the column beside it is real */
        fh1_set(v, 3 * v->shape[2], 1e4);
        expect_fail(judge(&t, k), 0, "model.layers.0.feed_forward.act", (int64_t[]){0, 3, 0, -1}, false);
        gld_trace_free(&t);
    }
}
END_TEST

/* --- sparse traces --- */

static bool every_second(int64_t i, const gld_tap *tap)
{
    (void)tap;
    return i % 2 == 1;
}

static bool layers_only(int64_t i, const gld_tap *tap)
{
    (void)i;
    return tap->id == FH1_TAP_LAYER;
}

static bool logits_only(int64_t i, const gld_tap *tap)
{
    (void)i;
    return tap->id == FH1_TAP_LOGITS;
}

/* Name of the first tap from `id` of layer 1 on that is left. */
static const char *next_recorded(const gld_trace *t, int64_t step, fh1_tap_id id, char name[FH1_TAP_NAME_SIZE])
{
    const gld_step *s = &t->steps[step];
    for (int64_t i = 0; i < s->n_taps; i++)
        if (fh1_tap_order(NULL, s->taps[i].id, s->taps[i].layer, 3) >= fh1_tap_order(NULL, id, 1, 3))
            return fh1_tap_name(FH1_FALCON_H1, s->taps[i].id, s->taps[i].layer, name);
    ck_abort_msg("no tap is left");
    return NULL;
}

static void halve_a_head(fh1_tensor *v)
{
    const int64_t width = fh1_n_elems(v) / v->shape[0];
    for (int64_t i = 0; i < fh1_n_elems(v); i++)
        if (i % width < width / 4) fh1_set(v, i, 0.5 * fh1_get(v, i));
}

/* An honest trace passes whatever is left out, a fault comes up at the next tap that is there. */
START_TEST(sparse_traces)
{
    static bool (*const keeps[])(int64_t, const gld_tap *) = {every_second, layers_only, logits_only};
    static const fh1_tap_id ids[] = {FH1_TAP_SSD, FH1_TAP_CONTEXT, FH1_TAP_ACT};
    char name[FH1_TAP_NAME_SIZE];
    for (int i = 0; i < 9 * N_KINDS; i++) {
        const kind k = kinds[i / 9];
        const fh1_tap_id id = ids[i / 3 % 3];
        const int step = i % 2;
        gld_trace t = record(k);
        keep_only(&t, keeps[i % 3]);
        expect_pass(judge(&t, k), "honest and sparse");
        gld_trace_free(&t);
        const saboteur fault = {.bad_step = step, .id = id, .layer = 1, .edit = halve_a_head};
        t = record_like(k, NULL, NULL, false, &fault);
        keep_only(&t, keeps[i % 3]);
        expect_fail(judge(&t, k), step, next_recorded(&t, step, id, name), NULL, false);
        gld_trace_free(&t);
    }
}
END_TEST

/* The glob judges a part; the rest still feeds it. */
START_TEST(a_glob_judges_what_it_names)
{
    const saboteur fault = {.bad_step = 0, .id = FH1_TAP_ACT, .layer = 1, .edit = halve_a_head};
    gld_trace t = record_like(kinds[F32], NULL, NULL, false, &fault);
    verdict v = judge_as(&t, &models[M34], fh1_profile_find("fp32"), 0, "*.mid,logits");
    ck_assert_int_eq(v.n_taps, 3 * 4);
    expect_pass(v, "from the recorded taps all others are right");
    expect_fail(judge_as(&t, &models[M34], fh1_profile_find("fp32"), 0, "*.act"), 0, "model.layers.1.feed_forward.act",
                NULL, true);
    gld_trace_free(&t);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_state_decayed_once_more_is_found,
                                  a_shifted_window_is_found,
                                  an_old_key_that_changed_is_found,
                                  a_state_nobody_recorded_is_found_in_the_next_step,
                                  padding_does_not_matter,
                                  sparse_traces,
                                  a_glob_judges_what_it_names,
                                  NULL};
    return judge_main("judge_cache", tests);
}
