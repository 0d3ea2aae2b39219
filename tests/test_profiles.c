/* Rounding profiles at model level: where a profile rounds, the stored value has the type that it says; each point
 * rounds something, first seen at the tap it belongs to; without roundings ref-bf16 is ref-f32 but for its scan. */
#include "tests/tiny_model.h"

enum { T = 11 };
static int64_t ids[T + 1];

/* A prefill with labels and one step, both shown to `sink`. */
static tiny_session played(const fh1_model *m, const char *engine, const fh1_profile *profile, const fh1_tap_sink *sink)
{
    tiny_ids(50, T + 1, ids);
    tiny_session s = tiny_open(m, engine, 0, 1);
    if (profile) s.e->profile = profile;
    s.sink = sink;
    tiny_call(&s, &(fh1_batch){.B = 1, .T = T, .ids = ids, .labels = ids});
    tiny_feed(&s, ids + T, 1);
    s.sink = NULL;
    return s;
}

static fh1_round kind_of(fh1_dtype t)
{
    return t == FH1_BF16 ? FH1_ROUND_BF16 : t == FH1_F16 ? FH1_ROUND_F16 : FH1_ROUND_F32;
}

static int64_t unrounded(fh1_round r, int64_t n, const double *v)
{
    int64_t k = 0;
    for (int64_t i = 0; i < n; ++i) k += !fh1_within(fh1_error_of(fh1_round_f64(r, v[i]), v[i]), 0);
    return k;
}

/* Values of each tap that its declared type cannot hold, and values that the model's type cannot hold. */
typedef struct {
    const fh1_profile *profile;
    const fh1_config *config;
    int64_t seen[FH1_TAP_COUNT], outside[FH1_TAP_COUNT], wider[FH1_TAP_COUNT];
} census;

static fh1_status count(void *user, const fh1_tap_event *e)
{
    census *c = user;
    const int64_t n = fh1_n_elems(&e->value);
    double *v = malloc((size_t)(n + 1) * sizeof *v);
    fh1_to_f64(v, e->value.data, e->value.dtype, n);
    const fh1_dtype declared = fh1_profile_tap_dtype(c->profile, e->id, e->tokens->past > 0, c->config);
    c->seen[e->id]++;
    c->outside[e->id] += unrounded(kind_of(declared), n, v);
    c->wider[e->id] += unrounded(kind_of(c->profile->storage), n, v);
    free(v);
    return NULL;
}

/* loop: kind and model type */
START_TEST(stored_values_have_their_type)
{
    static const char *const name_of[] = {"hf-eager-bf16", "hf-eager-fp16", "cuda-bf16"};
    const fh1_profile *p = fh1_profile_find(name_of[_i % 3]);
    const fh1_config c = tiny_config(_i / 3);
    fh1_model m;
    tiny_build(&m, &c, p->storage, 7);
    census half = {.profile = p, .config = &c}, full = half;
    tiny_session s = played(&m, "ref-bf16", p, &(fh1_tap_sink){.user = &half, .tap = count});
    tiny_session f = played(&m, "ref-bf16", fh1_profile_find("fp32"), &(fh1_tap_sink){.user = &full, .tap = count});
    for (int id = 0; id < FH1_TAP_COUNT; ++id) {
        if (fh1_tap_is_cache((fh1_tap_id)id) || !fh1_tap_exists(&c, (fh1_tap_id)id)) continue;
        char name[FH1_TAP_NAME_SIZE];
        fh1_tap_name(FH1_FALCON_H1, (fh1_tap_id)id, 0, name);
        const int64_t calls = id == FH1_TAP_LOSS ? 1 : fh1_tap_is_per_layer((fh1_tap_id)id) ? 2 * c.n_layers : 2;
        ck_assert_msg(half.seen[id] == calls, "%s shown %d times", name, (int)half.seen[id]);
        ck_assert_msg(half.outside[id] == 0, "%s: %d values are not of the declared type", name, (int)half.outside[id]);
        /* without the roundings the same census finds them missing, except where a weight is only looked up */
        const bool f32 = fh1_profile_tap_dtype(p, (fh1_tap_id)id, true, &c) == FH1_F32;
        const bool computed = id != FH1_TAP_EMBED && !f32;
        ck_assert_msg((full.outside[id] > 0) == computed, "%s under fp32", name);
    }
    const bool fused = _i % 3 == 2; /* the scan output of a prefill stays wide; Δ and logits do */
    ck_assert((half.wider[FH1_TAP_SSD] > 0) == !fused);
    ck_assert((half.wider[FH1_TAP_DT] > 0) == fused && (half.wider[FH1_TAP_LOGITS] > 0) == fused);
    for (int64_t l = 0; l < c.n_layers; ++l)
        for (int part = 0; part < 4; ++part) {
            double *v;
            const int64_t n = tiny_part(&s, 0, l, (fh1_cache_part)part, 0, s.n[0], &v);
            const int64_t wide = unrounded(kind_of(p->storage), n, v);
            const bool f32 = part == FH1_CACHE_SSM || (fused && part == FH1_CACHE_CONV);
            ck_assert_msg((wide > 0) == f32, "layer %d, cache part %d: %d", (int)l, part, (int)wide);
            free(v);
        }
    tiny_close(&s);
    tiny_close(&f);
    fh1_model_free(&m);
}
END_TEST

static double rms_gap(const tiny_session *a, const tiny_session *b)
{
    fh1_rms r = {0};
    for (int64_t i = 0; i < a->n[0] * TINY_V; ++i)
        fh1_rms_add(&r, fh1_error_of(a->logits[0][i], b->logits[0][i]), b->logits[0][i], i);
    return fh1_rms_err(&r) / fh1_rms_ref(&r);
}

/* Some forty roundings one after another, each of relative size u/2 or so: between u/4 and 32 u. */
START_TEST(errors_have_the_size_of_their_type)
{
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    tiny_build(&m, &c, FH1_BF16, 7);
    tiny_session exact = played(&m, "ref-f64", NULL, NULL), f32 = played(&m, "ref-f32", NULL, NULL);
    tiny_session bf16 = played(&m, "ref-bf16", NULL, NULL);
    tiny_session f16 = played(&m, "ref-bf16", fh1_profile_find("hf-eager-fp16"), NULL);
    const double gap[] = {rms_gap(&bf16, &f32), rms_gap(&f16, &f32), rms_gap(&f32, &exact)};
    const double u[] = {0x1p-8, 0x1p-11, 0x1p-24};
    for (int k = 0; k < 3; ++k) {
        TINY_HOLDS(gap[k], 32 * u[k], "type %d", k);
        ck_assert_msg(!fh1_within(gap[k], u[k] / 4), "type %d does not round: gap %g", k, gap[k]);
    }
    tiny_close(&exact);
    tiny_close(&f32);
    tiny_close(&bf16);
    tiny_close(&f16);
    fh1_model_free(&m);
}
END_TEST

/* ref-bf16 without roundings is ref-f32, once its scan runs token by token too. */
START_TEST(without_roundings_bf16_is_f32)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(50, T + 1, ids);
    tiny_session f32 = played(&m, "ref-f32", NULL, NULL), bf16 = played(&m, "ref-bf16", NULL, NULL);
    tiny_session chunks = played(&m, "ref-bf16", fh1_profile_find("fp32"), NULL);
    tiny_session none = tiny_open(&m, "ref-bf16", 0, 1);
    none.e->profile = fh1_profile_find("fp32");
    none.e->chunked = false;
    tiny_feed(&none, ids, T);
    tiny_feed(&none, ids + T, 1);
    ck_assert(tiny_same(&none, 0, &f32, 0));
    TINY_HOLDS(tiny_gap(&chunks, 0, &f32, 0), TINY_F32, "chunks in f32");
    ck_assert(!tiny_same(&chunks, 0, &f32, 0));
    ck_assert(!fh1_within(tiny_gap(&bf16, 0, &f32, 0), TINY_F32));
    tiny_close(&f32);
    tiny_close(&bf16);
    tiny_close(&chunks);
    tiny_close(&none);
    fh1_model_free(&m);
}
END_TEST

/* The first tap that a point shows in; `step`: only in a one-token step. */
static const struct {
    fh1_point point;
    fh1_tap_id tap;
    bool step;
} first_seen[] = {
    {FH1_RP_EMBED, FH1_TAP_INPUT, false},
    {FH1_RP_NORM_INNER, FH1_TAP_INPUT_LAYERNORM, false},
    {FH1_RP_NORM, FH1_TAP_INPUT_LAYERNORM, false},
    {FH1_RP_SCALE_IN, FH1_TAP_Q_PROJ, false},
    {FH1_RP_LINEAR_IN, FH1_TAP_Q_PROJ, false},
    {FH1_RP_LINEAR, FH1_TAP_Q_PROJ, false},
    {FH1_RP_KEY, FH1_TAP_K_ROPE, false},
    {FH1_RP_ROPE_TABLE, FH1_TAP_Q_ROPE, false},
    {FH1_RP_ROPE, FH1_TAP_Q_ROPE, false},
    {FH1_RP_ROPE_SUM, FH1_TAP_Q_ROPE, false},
    {FH1_RP_SCORE, FH1_TAP_CONTEXT, false},
    {FH1_RP_PROB, FH1_TAP_CONTEXT, false},
    {FH1_RP_PROB_TILE, FH1_TAP_CONTEXT, false},
    {FH1_RP_CONTEXT, FH1_TAP_CONTEXT, false},
    {FH1_RP_MUP_VECTOR, FH1_TAP_CONV_ACT, false},
    {FH1_RP_MUP, FH1_TAP_CONV_ACT, false},
    {FH1_RP_CONV, FH1_TAP_CONV_ACT, false},
    {FH1_RP_CONV_ACT, FH1_TAP_CONV_ACT, false},
    {FH1_RP_DT, FH1_TAP_DT, false},
    {FH1_RP_STEP, FH1_TAP_SSD, true},
    {FH1_RP_SSD, FH1_TAP_SSD, false},
    {FH1_RP_SSD_TILE, FH1_TAP_SSD, false},
    {FH1_RP_GATE_SILU, FH1_TAP_GATED, false},
    {FH1_RP_SCAN_READ, FH1_TAP_COUNT, false}, /* Falcon-Mamba's */
    {FH1_RP_GATED, FH1_TAP_GATED, false},
    {FH1_RP_OUT_PRODUCT, FH1_TAP_COUNT, false}, /* Falcon-Mamba's */
    {FH1_RP_BRANCH, FH1_TAP_MID, false},
    {FH1_RP_RESIDUAL, FH1_TAP_MID, false},
    {FH1_RP_MLP, FH1_TAP_ACT, false},
    {FH1_RP_ACT, FH1_TAP_ACT, false},
    {FH1_RP_HEAD, FH1_TAP_LOGITS, false},
    {FH1_RP_LOGITS, FH1_TAP_LOGITS, false},
};

static int first_difference(const tiny_tape *a, const tiny_tape *b)
{
    for (int id = 0; id < FH1_TAP_COUNT; ++id)
        if (!tiny_same_tap(a, b, (fh1_tap_id)id)) return id;
    return FH1_TAP_COUNT;
}

/* Each point alone, prefill and step on tape. */
START_TEST(every_point_rounds_where_it_stands)
{
    fh1_model m;
    const fh1_config c = tiny_config(_i);
    tiny_build(&m, &c, FH1_BF16, 7);
    tiny_ids(51, T + 1, ids);
    const fh1_batch prefill = {.B = 1, .T = T, .ids = ids}, step = {.B = 1, .T = 1, .ids = ids + T};
    fh1_profile one = *fh1_profile_find("fp32");
    tiny_session plain = tiny_open(&m, "ref-f32", 0, 1);
    plain.e->chunked = true;
    tiny_tape plain_prefill = tiny_taped_call(&plain, &prefill), plain_step = tiny_taped_call(&plain, &step);
    ck_assert_uint_eq(sizeof first_seen / sizeof *first_seen, FH1_RP_COUNT);
    for (size_t k = 0; k < FH1_RP_COUNT; ++k) {
        memset(one.at, 0, sizeof one.at);
        one.at[first_seen[k].point] = FH1_ROUND_BF16;
        tiny_session s = tiny_open(&m, "ref-f32", 0, 1);
        s.e->profile = &one;
        s.e->chunked = true;
        tiny_tape a = tiny_taped_call(&s, &prefill), b = tiny_taped_call(&s, &step);
        int want = first_seen[k].tap;
        if (first_seen[k].point == FH1_RP_GATE_SILU && c.mamba_rms_norm) want = FH1_TAP_COUNT; /* fused there */
        const int seen[2] = {first_difference(&a, &plain_prefill), first_difference(&b, &plain_step)};
        ck_assert_msg(seen[0] == (first_seen[k].step ? FH1_TAP_COUNT : want), "point %d: prefill differs at %d first",
                      (int)k, seen[0]);
        if (first_seen[k].step || want == FH1_TAP_COUNT)
            ck_assert_msg(seen[1] == want, "point %d: step differs at %d first", (int)k, seen[1]);
        tiny_close(&s);
        tiny_tape_free(&a);
        tiny_tape_free(&b);
    }
    tiny_close(&plain);
    tiny_tape_free(&plain_prefill);
    tiny_tape_free(&plain_step);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("profiles");
    tcase_add_loop_test(tc, stored_values_have_their_type, 0, 3 * TINY_KINDS);
    tcase_add_loop_test(tc, errors_have_the_size_of_their_type, 0, TINY_KINDS);
    tcase_add_loop_test(tc, without_roundings_bf16_is_f32, 0, TINY_KINDS);
    tcase_add_loop_test(tc, every_point_rounds_where_it_stands, 0, TINY_KINDS);
    return tiny_main(suite_create("profiles"), tc);
}
