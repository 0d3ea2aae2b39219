/* Variants: each reproduces one deviation of a real library. Where its trigger is present it is exactly what its
 * summary says, shown by building the same deviation by hand; where it is absent it changes nothing. */
#include "tests/tiny_mamba.h"

enum { LENGTH = 16 };
static int64_t ids[LENGTH];

/* The parts of a config that no variant can be triggered by. */
static fh1_config unmoved(int kind)
{
    fh1_config c = tiny_config(kind);
    const double in_bf16[5] = {0.75, 1.25, 0.875, 1.125, 0.9375};
    memcpy(c.m_ssm, in_bf16, sizeof in_bf16);
    c.dt_lo = 0, c.dt_hi = INFINITY;
    c.rope = (fh1_rope){.theta = 1e5};
    return c;
}

static void build(fh1_model *m, const fh1_config *c, int kind)
{
    tiny_build(m, c, tiny_dtype(kind), 7);
    tiny_ids(40, LENGTH, ids);
}

/* A prefill, then (more > 0) a call of that many tokens. */
static tiny_session played(const fh1_model *m, unsigned variants, int64_t T, int64_t more)
{
    tiny_session s = tiny_open(m, "ref-f64", variants, 1);
    tiny_feed(&s, ids, T);
    if (more > 0) tiny_feed(&s, ids + T, more);
    return s;
}

static void close_two(tiny_session *a, tiny_session *b)
{
    tiny_close(a);
    tiny_close(b);
}

START_TEST(no_variant_without_its_trigger)
{
    fh1_model m;
    const fh1_config c = unmoved(_i);
    build(&m, &c, _i);
    tiny_session plain = played(&m, 0, 7, 1);
    unsigned all = 0;
    for (int i = 0; fh1_variant_at(i); ++i) {
        all |= fh1_variant_at(i)->bit;
        tiny_session s = played(&m, fh1_variant_at(i)->bit, 7, 1);
        ck_assert_msg(tiny_same(&s, 0, &plain, 0), "%s", fh1_variant_at(i)->name);
        tiny_close(&s);
    }
    tiny_session s = played(&m, all, 7, 1);
    ck_assert(tiny_same(&s, 0, &plain, 0));
    close_two(&s, &plain);
    fh1_model_free(&m);
}
END_TEST

/* The variant on `m` is no variant on `by_hand`, and is not what `m` is without it. */
static void check_is_config(const fh1_model *m, const fh1_model *by_hand, unsigned variant, const char *name)
{
    tiny_session s = played(m, variant, 6, 1), other = played(by_hand, 0, 6, 1), plain = played(m, 0, 6, 1);
    ck_assert_msg(tiny_same(&s, 0, &other, 0), "%s is not its own definition", name);
    TINY_BREAKS(tiny_gap_logits(&s, 0, 0, &plain, 0), "%s", name);
    close_two(&s, &other);
    tiny_close(&plain);
}

START_TEST(variants_that_are_another_config)
{
    fh1_model m, by_hand;
    fh1_config c = tiny_config(_i);
    build(&m, &c, _i);
    for (int s = 0; s < 5; ++s) c.m_ssm[s] = fh1_round_f64(FH1_ROUND_BF16, (double)(float)c.m_ssm[s]);
    build(&by_hand, &c, _i);
    check_is_config(&m, &by_hand, FH1_VAR_MUP_ROUNDED, "mup_rounded");
    fh1_model_free(&by_hand);

    c = tiny_config(_i);
    c.rope = (fh1_rope){.theta = 1e5};
    build(&by_hand, &c, _i);
    check_is_config(&m, &by_hand, FH1_VAR_THETA_CLASS_DEFAULT, "theta_class_default");
    fh1_model_free(&by_hand);
    fh1_model_free(&m);

    c = tiny_config(_i);
    c.dt_lo = 0.2, c.dt_hi = 0.5;
    build(&m, &c, _i);
    c.dt_lo = 0, c.dt_hi = INFINITY;
    build(&by_hand, &c, _i);
    check_is_config(&m, &by_hand, FH1_VAR_NO_DT_LIMIT, "no_dt_limit");
    fh1_model_free(&by_hand);
    fh1_model_free(&m);
}
END_TEST

/* Limits hold in a prefill, in a prefill of one token and in a call of several; a step of one lacks them. */
START_TEST(decode_no_dt_limit)
{
    fh1_model m, open;
    fh1_config c = tiny_config(_i);
    c.dt_lo = 0.2, c.dt_hi = 0.5;
    build(&m, &c, _i);
    c.dt_lo = 0, c.dt_hi = INFINITY;
    build(&open, &c, _i);
    for (int64_t T = 1; T <= 6; T += 5) {
        tiny_session s = played(&m, FH1_VAR_DECODE_NO_DT_LIMIT, T, 3), plain = played(&m, 0, T, 3);
        ck_assert(tiny_same(&s, 0, &plain, 0));
        tiny_session by_hand = tiny_fork(&plain);
        by_hand.m = &open;
        tiny_feed(&s, ids + T + 3, 1);
        tiny_feed(&plain, ids + T + 3, 1);
        tiny_feed(&by_hand, ids + T + 3, 1);
        ck_assert(tiny_same(&s, 0, &by_hand, 0));
        TINY_BREAKS(tiny_gap(&s, 0, &plain, 0), "decode_no_dt_limit");
        close_two(&s, &plain);
        tiny_close(&by_hand);
    }
    fh1_model_free(&m);
    fh1_model_free(&open);
}
END_TEST

/* One row: left padding, n tokens, right padding; positions count tokens. */
static tiny_session padded(const fh1_model *m, unsigned variants, int64_t left, int64_t n, int64_t right)
{
    int64_t in[LENGTH] = {0}, mask[LENGTH] = {0}, positions[LENGTH] = {0};
    for (int64_t t = 0; t < n; ++t) in[left + t] = ids[t], mask[left + t] = 1, positions[left + t] = t;
    tiny_session s = tiny_open(m, "ref-f64", variants, 1);
    tiny_call(&s, &(fh1_batch){.B = 1,
                               .T = left + n + right,
                               .ids = in,
                               .mask = mask,
                               .mask_len = left + n + right,
                               .positions = positions});
    return s;
}

/* Channel j of what the mixer sees at a padding column behind in_proj: its bias times the segment's multiplier, the
 * conv channels first, then dt. */
static double pad_value(const fh1_model *m, int64_t layer, int64_t j)
{
    const fh1_config *c = &m->config;
    const int64_t GN = c->G * c->N;
    if (!m->layers[layer].in_b.data) return 0;
    const int segment = j < c->d_ssm ? 1 : j < c->d_ssm + GN ? 2 : j < c->d_ssm + 2 * GN ? 3 : 4;
    return fh1_get(&m->layers[layer].in_b, c->d_ssm + j) * c->m_ssm[segment];
}

/* Shift n padding columns into every conv window of row 0. */
static void push_pads(tiny_session *s, int64_t n)
{
    const fh1_config *c = &s->m->config;
    const int64_t W = c->K - 1;
    for (int64_t l = 0; l < c->n_layers; ++l)
        for (int64_t j = 0; j < fh1_conv_dim(c); ++j) {
            double *w = (double *)s->cache->rows[0].conv[l] + j * W;
            for (int64_t i = 0; i < W; ++i) w[i] = i + n < W ? w[i + n] : pad_value(s->m, l, j);
        }
}

START_TEST(in_proj_bias_at_pads)
{
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    build(&m, &c, _i);
    for (int64_t pads = 1; pads <= c.K; ++pads) {
        tiny_session s = padded(&m, FH1_VAR_IN_PROJ_BIAS_AT_PADS, pads, 5, 0), plain = padded(&m, 0, pads, 5, 0);
        tiny_session by_hand = tiny_open(&m, "ref-f64", 0, 1);
        push_pads(&by_hand, pads);
        by_hand.cache->rows[0].doc = 0; /* the window belongs to the document that begins */
        tiny_feed(&by_hand, ids, 5);
        ck_assert_msg(tiny_same(&s, 0, &by_hand, 0), "%d pads: gap %g", (int)pads, tiny_gap(&s, 0, &by_hand, 0));
        ck_assert_int_eq(tiny_same(&s, 0, &plain, 0), !c.mamba_proj_bias);
        close_two(&s, &plain);
        tiny_close(&by_hand);
        s = padded(&m, FH1_VAR_IN_PROJ_BIAS_AT_PADS, 0, 5, pads), plain = padded(&m, 0, 0, 5, pads);
        ck_assert(tiny_same(&s, 0, &plain, 0)); /* pads on the right are another matter */
        close_two(&s, &plain);
    }
    fh1_model_free(&m);
}
END_TEST

static void decay_states(tiny_session *s, int64_t n)
{
    const fh1_config *c = &s->m->config;
    for (int64_t l = 0; l < c->n_layers; ++l)
        for (int64_t i = 0; i < c->d_ssm * c->N; ++i) {
            const int64_t h = i / (c->P * c->N);
            const fh1_layer *w = &s->m->layers[l];
            const double raw = pad_value(s->m, l, fh1_conv_dim(c) + h) + fh1_get(&w->dt_bias, h);
            const double dt = fmin(fmax(log1p(exp(raw)), c->dt_lo), c->dt_hi);
            ((double *)s->cache->rows[0].ssm[l])[i] *= exp(-(double)n * dt * exp(fh1_get(&w->A_log, h)));
        }
}

START_TEST(right_pad_cache)
{
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    build(&m, &c, _i);
    for (int64_t pads = 1; pads <= c.K; ++pads) {
        tiny_session s = padded(&m, FH1_VAR_RIGHT_PAD_CACHE, 0, 5, pads), plain = padded(&m, 0, 0, 5, pads);
        tiny_session by_hand = tiny_fork(&plain);
        push_pads(&by_hand, pads);
        decay_states(&by_hand, pads);
        ck_assert(fh1_within(tiny_gap_logits(&s, 0, 0, &plain, 0), 0)); /* the call itself is right */
        TINY_HOLDS(tiny_gap(&s, 0, &by_hand, 0), TINY_F64, "%d pads", (int)pads);
        TINY_BREAKS(tiny_gap_part(&s, 0, 0, &plain, 0, FH1_CACHE_CONV), "window, %d pads", (int)pads);
        TINY_BREAKS(tiny_gap_part(&s, 0, 0, &plain, 0, FH1_CACHE_SSM), "state, %d pads", (int)pads);
        tiny_feed(&s, ids + 5, 1);
        tiny_feed(&plain, ids + 5, 1);
        TINY_BREAKS(tiny_gap_logits(&s, 0, 0, &plain, 0), "the step after %d pads", (int)pads);
        close_two(&s, &plain);
        tiny_close(&by_hand);
        s = padded(&m, FH1_VAR_RIGHT_PAD_CACHE, pads, 5, 0), plain = padded(&m, 0, pads, 5, 0);
        ck_assert(tiny_same(&s, 0, &plain, 0));
        close_two(&s, &plain);
    }
    fh1_model_free(&m);
}
END_TEST

/* Keys and values go on, conv window and state do not. */
START_TEST(history_dropped)
{
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    build(&m, &c, _i);
    tiny_session s = played(&m, FH1_VAR_HISTORY_DROPPED, 6, 1), plain = played(&m, 0, 6, 1);
    tiny_session by_hand = tiny_fork(&plain);
    ck_assert(tiny_same(&s, 0, &plain, 0));
    for (int64_t l = 0; l < c.n_layers; ++l) {
        memset(by_hand.cache->rows[0].conv[l], 0, (size_t)(fh1_conv_dim(&c) * (c.K - 1)) * sizeof(double));
        memset(by_hand.cache->rows[0].ssm[l], 0, (size_t)(c.d_ssm * c.N) * sizeof(double));
    }
    tiny_feed(&s, ids + 7, 3);
    tiny_feed(&plain, ids + 7, 3);
    tiny_feed(&by_hand, ids + 7, 3);
    ck_assert(tiny_same(&s, 0, &by_hand, 0));
    TINY_BREAKS(tiny_gap_logits(&s, 0, 0, &plain, 0), "history_dropped");
    close_two(&s, &plain);
    tiny_close(&by_hand);
    fh1_model_free(&m);
}
END_TEST

/* In layer 0 the mixer computes what it computes without a mask, attention what it computes with it. */
START_TEST(pads_in_mixer)
{
    enum { PADS = 3, T = 8 };
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    build(&m, &c, _i);
    int64_t mask[2 * T], positions[2 * T], in[2 * T];
    for (int64_t t = 0; t < 2 * T; ++t) {
        mask[t] = t % T >= PADS;
        positions[t] = t % T < PADS ? 0 : t % T - PADS;
        in[t] = ids[t];
    }
    fh1_batch b = {.B = 1, .T = T, .ids = in, .mask = mask, .mask_len = T, .positions = positions};
    tiny_session s = tiny_open(&m, "ref-f64", FH1_VAR_PADS_IN_MIXER, 1), masked = tiny_open(&m, "ref-f64", 0, 1);
    tiny_session unmasked = tiny_open(&m, "ref-f64", 0, 1);
    tiny_tape ts = tiny_taped_call(&s, &b), tm = tiny_taped_call(&masked, &b);
    b.mask = NULL;
    tiny_tape tu = tiny_taped_call(&unmasked, &b);
    const int64_t width = c.Hq * c.A, n = tm.n[FH1_TAP_CONTEXT];
    ck_assert(tiny_same_tap(&ts, &tu, FH1_TAP_SSD) && tiny_same_tap(&ts, &tu, FH1_TAP_OUT_PROJ));
    TINY_HOLDS(tiny_gap_of(n, ts.v[FH1_TAP_CONTEXT] + PADS * width, tm.v[FH1_TAP_CONTEXT]), TINY_F64, "attention");
    TINY_BREAKS(tiny_gap_of(n, tu.v[FH1_TAP_CONTEXT] + PADS * width, tm.v[FH1_TAP_CONTEXT]), "attention to pads");
    TINY_BREAKS(tiny_gap_of(tm.n[FH1_TAP_SSD], ts.v[FH1_TAP_SSD] + PADS * c.d_ssm, tm.v[FH1_TAP_SSD]), "scan of pads");
    close_two(&s, &masked);
    tiny_close(&unmasked);
    tiny_tape_free(&ts);
    tiny_tape_free(&tm);
    tiny_tape_free(&tu);

    b.B = 2, b.mask = mask; /* two rows are masked as they should */
    s = tiny_open(&m, "ref-f64", FH1_VAR_PADS_IN_MIXER, 2), masked = tiny_open(&m, "ref-f64", 0, 2);
    tiny_call(&s, &b);
    tiny_call(&masked, &b);
    ck_assert(tiny_same(&s, 0, &masked, 0) && tiny_same(&s, 1, &masked, 1));
    close_two(&s, &masked);
    fh1_model_free(&m);
}
END_TEST

START_TEST(mixer_leaks_docs)
{
    static const int64_t seq_idx[9] = {0, 0, 0, 1, 1, 1, 1, 2, 2}, positions[9] = {0, 1, 2, 0, 1, 2, 3, 0, 1};
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    build(&m, &c, _i);
    fh1_batch b = {.B = 1, .T = 9, .ids = ids, .seq_idx = seq_idx, .positions = positions};
    tiny_session s = tiny_open(&m, "ref-f64", FH1_VAR_MIXER_LEAKS_DOCS, 1), packed = tiny_open(&m, "ref-f64", 0, 1);
    tiny_session one = tiny_open(&m, "ref-f64", 0, 1);
    tiny_tape ts = tiny_taped_call(&s, &b), tp = tiny_taped_call(&packed, &b);
    b.seq_idx = NULL;
    tiny_tape to = tiny_taped_call(&one, &b);
    ck_assert(tiny_same_tap(&ts, &tp, FH1_TAP_CONTEXT) && !tiny_same_tap(&ts, &to, FH1_TAP_CONTEXT));
    ck_assert(tiny_same_tap(&ts, &to, FH1_TAP_CONV_ACT) && !tiny_same_tap(&ts, &tp, FH1_TAP_CONV_ACT));
    ck_assert(tiny_same_tap(&ts, &to, FH1_TAP_SSD) && !tiny_same_tap(&ts, &tp, FH1_TAP_SSD));
    close_two(&s, &packed);
    tiny_close(&one);
    tiny_tape_free(&ts);
    tiny_tape_free(&tp);
    tiny_tape_free(&to);
    fh1_model_free(&m);
}
END_TEST

/* What no number can show: exp(-80) of a NaN in the state goes on into the next document, a cut drops it. */
START_TEST(doc_reset_80)
{
    const int64_t first[4] = {0, 0, 0, 0}, next[4] = {1, 1, 1, 1};
    fh1_model m;
    const bool mamba = _i >= TINY_KINDS;
    const fh1_config c = mamba ? tiny_mamba_config(_i - TINY_KINDS) : tiny_config(_i);
    build(&m, &c, _i);
    for (int64_t T = 1; T <= 4; T += 3)
        for (int k = 0; k < (mamba ? 4 : 6);
             ++k) { /* cut or reset; as a scan, in chunks; with a NaN in the state or without */
            const bool reset = k % 2, poisoned = k / 2;
            tiny_session s = tiny_open(&m, k / 2 == 2 ? TINY_CHUNKED : "ref-f64", reset ? FH1_VAR_DOC_RESET_80 : 0, 1);
            tiny_call(&s, &(fh1_batch){.B = 1, .T = 4, .ids = ids, .seq_idx = first});
            double *state = s.cache->rows[0].ssm[1];
            if (poisoned) state[0] = (double)NAN;
            tiny_call(&s, &(fh1_batch){.B = 1, .T = T, .ids = ids + 4, .seq_idx = next});
            const double logit = s.logits[0][4 * c.V];
            ck_assert_msg(isnan(logit) == (poisoned && reset), "%s of a state%s: %g", reset ? "reset" : "cut",
                          poisoned ? " with NaN" : "", logit);
            tiny_close(&s);
        }
    fh1_model_free(&m);
}
END_TEST

/* Δ from the tap of x_proj, in long double: the norm behind the product, or in front of it. */
static double largest_off(const tiny_session *s, const tiny_tape *t, bool behind)
{
    const fh1_config *c = &s->m->config;
    const int64_t R = c->R, I = c->H, width = R + 2 * c->N;
    const fh1_layer *l = &s->m->layers[0];
    double most = 0;
    for (int64_t m = 0; m < 4; m++) {
        const double *x = t->v[FH1_TAP_X_PROJ] + m * width;
        long double low[16], raw[32], sum = 0;
        for (int64_t r = 0; r < R; r++) sum += (long double)x[r] * x[r];
        for (int64_t r = 0; r < R; r++) low[r] = behind ? x[r] : x[r] / sqrtl(sum / R + c->mixer_eps);
        for (int64_t i = 0; i < I; i++) {
            raw[i] = 0;
            for (int64_t r = 0; r < R; r++) raw[i] += (long double)fh1_get(&l->dt_w, i * R + r) * low[r];
        }
        sum = 0;
        for (int64_t i = 0; i < I; i++) sum += raw[i] * raw[i];
        for (int64_t i = 0; i < I; i++) {
            const long double v = (behind ? raw[i] / sqrtl(sum / I + c->mixer_eps) : raw[i]) + fh1_get(&l->dt_bias, i);
            const double dt = t->v[FH1_TAP_DT][m * I + i], want = (double)(v > 20 ? v : log1pl(expl(v)));
            most = fmax(most, fabs(dt - want) / want);
        }
    }
    return most;
}

START_TEST(dt_norm_after_dt_proj)
{
    fh1_model m;
    const fh1_config c = tiny_mamba_config(_i);
    build(&m, &c, _i);
    for (int behind = 0; behind < 2; behind++) {
        tiny_session s = tiny_open(&m, "ref-f64", behind ? FH1_VAR_DT_NORM_AFTER_DT_PROJ : 0, 1);
        tiny_tape t = tiny_taped_call(&s, &(fh1_batch){.B = 1, .T = 4, .ids = ids});
        ck_assert_msg(largest_off(&s, &t, behind) < 1e-13, "%g", largest_off(&s, &t, behind));
        ck_assert(largest_off(&s, &t, !behind) > 1e-3);
        tiny_tape_free(&t);
        tiny_close(&s);
    }
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("variants");
    tcase_add_loop_test(tc, no_variant_without_its_trigger, 0, TINY_KINDS);
    tcase_add_loop_test(tc, variants_that_are_another_config, 0, TINY_KINDS);
    tcase_add_loop_test(tc, decode_no_dt_limit, 0, TINY_KINDS);
    tcase_add_loop_test(tc, in_proj_bias_at_pads, 0, TINY_KINDS);
    tcase_add_loop_test(tc, right_pad_cache, 0, TINY_KINDS);
    tcase_add_loop_test(tc, history_dropped, 0, TINY_KINDS);
    tcase_add_loop_test(tc, pads_in_mixer, 0, TINY_KINDS);
    tcase_add_loop_test(tc, mixer_leaks_docs, 0, TINY_KINDS);
    tcase_add_loop_test(tc, doc_reset_80, 0, TINY_KINDS + TINY_MAMBA_KINDS);
    tcase_add_loop_test(tc, dt_norm_after_dt_proj, 0, TINY_MAMBA_KINDS);
    return tiny_main(suite_create("variants"), tc);
}
