/* Which rule judges a tap: its gauge where the judged engine's own values of everything that its op reads are known,
 * and the rule for chains where they are not. One element of every recorded tap is made wrong, so that each of them
 * fails, and says by which rule; then taps are left out, or stored too coarsely, one after the other. */
#include "tests/judge_fixture.h"

enum { LAYERS = 3, STEPS = 3, PARTS = FH1_CACHE_SSM + 1 };

/* --- what is recorded --- */

typedef struct {
    fh1_tap_id id;
    int64_t layer;
    int step;
} place;

typedef enum { LEFT_OUT, COARSE } way;

/* What each test does to an honest trace of F32. */
typedef struct {
    bool caches; /* cache taps are there, */
    int from;    /* of this call and later ones */
    bool pads;   /* a padded batch of one under FH1_VAR_PADS_IN_MIXER */
    place x;     /* layer -1: nothing */
    way how;
} plan;

/* The judged engine's own value of a tap is in the trace, in full. */
static bool recorded(const plan *p, int step, fh1_tap_id id, int64_t layer)
{
    if (fh1_tap_is_cache(id) && (!p->caches || step < p->from)) return false;
    return !(p->x.step == step && p->x.id == id && p->x.layer == layer);
}

/* --- what each op reads, written down once more --- */

static const struct {
    fh1_tap_id id, in[3]; /* FH1_TAP_COUNT: none; FH1_TAP_LAYER: the residual stream before */
    unsigned parts;       /* of the cache, as they were before the call */
} ops[] = {
#define NONE FH1_TAP_COUNT
#define KEY_VALUE (1u << FH1_CACHE_KEY | 1u << FH1_CACHE_VALUE)
    {FH1_TAP_EMBED, {NONE, NONE, NONE}, 0},
    {FH1_TAP_INPUT, {FH1_TAP_EMBED, NONE, NONE}, 0},
    {FH1_TAP_INPUT_LAYERNORM, {FH1_TAP_LAYER, NONE, NONE}, 0},
    {FH1_TAP_Q_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_K_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_V_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_Q_ROPE, {FH1_TAP_Q_PROJ, NONE, NONE}, 0},
    {FH1_TAP_K_ROPE, {FH1_TAP_K_PROJ, NONE, NONE}, 0},
    {FH1_TAP_CONTEXT, {FH1_TAP_Q_ROPE, FH1_TAP_K_ROPE, FH1_TAP_V_PROJ}, KEY_VALUE},
    {FH1_TAP_O_PROJ, {FH1_TAP_CONTEXT, NONE, NONE}, 0},
    {FH1_TAP_IN_PROJ, {FH1_TAP_INPUT_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_CONV_ACT, {FH1_TAP_IN_PROJ, NONE, NONE}, 1u << FH1_CACHE_CONV},
    {FH1_TAP_DT, {FH1_TAP_IN_PROJ, NONE, NONE}, 0},
    {FH1_TAP_SSD, {FH1_TAP_CONV_ACT, FH1_TAP_DT, NONE}, 1u << FH1_CACHE_SSM},
    {FH1_TAP_GATED, {FH1_TAP_SSD, FH1_TAP_IN_PROJ, NONE}, 0},
    {FH1_TAP_OUT_PROJ, {FH1_TAP_GATED, NONE, NONE}, 0},
    {FH1_TAP_MID, {FH1_TAP_LAYER, FH1_TAP_O_PROJ, FH1_TAP_OUT_PROJ}, 0},
    {FH1_TAP_PRE_FF_LAYERNORM, {FH1_TAP_MID, NONE, NONE}, 0},
    {FH1_TAP_GATE_PROJ, {FH1_TAP_PRE_FF_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_UP_PROJ, {FH1_TAP_PRE_FF_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_ACT, {FH1_TAP_GATE_PROJ, FH1_TAP_UP_PROJ, NONE}, 0},
    {FH1_TAP_DOWN_PROJ, {FH1_TAP_ACT, NONE, NONE}, 0},
    {FH1_TAP_LAYER, {FH1_TAP_MID, FH1_TAP_DOWN_PROJ, NONE}, 0},
    {FH1_TAP_FINAL_LAYERNORM, {FH1_TAP_LAYER, NONE, NONE}, 0},
    {FH1_TAP_LOGITS, {FH1_TAP_FINAL_LAYERNORM, NONE, NONE}, 0},
    {FH1_TAP_CACHE_KEY, {FH1_TAP_K_ROPE, NONE, NONE}, 1u << FH1_CACHE_KEY},
    {FH1_TAP_CACHE_VALUE, {FH1_TAP_V_PROJ, NONE, NONE}, 1u << FH1_CACHE_VALUE},
    {FH1_TAP_CACHE_CONV, {FH1_TAP_IN_PROJ, NONE, NONE}, 1u << FH1_CACHE_CONV},
    {FH1_TAP_CACHE_SSM, {FH1_TAP_CONV_ACT, FH1_TAP_DT, NONE}, 1u << FH1_CACHE_SSM},
    {FH1_TAP_LOSS, {FH1_TAP_LOGITS, NONE, NONE}, 0},
};

static bool inputs_recorded(const plan *p, int step, fh1_tap_id id, int64_t layer);

/* A part of the cache holds the judged engine's own values before the call. */
static bool known(const plan *p, int step, int64_t layer, int part)
{
    const fh1_tap_id id = (fh1_tap_id)(FH1_TAP_CACHE_KEY + part);
    if (step == 0) return !p->pads || part < FH1_CACHE_CONV;
    return recorded(p, step - 1, id, layer) || inputs_recorded(p, step - 1, id, layer);
}

static bool inputs_recorded(const plan *p, int step, fh1_tap_id id, int64_t layer)
{
    int op = 0;
    while (ops[op].id != id) op++;
    for (int i = 0; i < 3 && ops[op].in[i] != NONE; i++) {
        fh1_tap_id in = ops[op].in[i];
        int64_t of = fh1_tap_is_per_layer(in) ? layer : 0;
        if (in == FH1_TAP_LAYER && id == FH1_TAP_FINAL_LAYERNORM) of = LAYERS - 1;
        else if (in == FH1_TAP_LAYER) of = layer - 1;
        if (of < 0) in = FH1_TAP_INPUT, of = 0;
        if (!recorded(p, step, in, of)) return false;
    }
    for (int part = 0; part < PARTS; part++)
        if (ops[op].parts >> part & 1 && !known(p, step, layer, part)) return false;
    return true;
}

/* --- the traces --- */

/* Three calls of `rows` sequences, the first one with labels. Row 0 is padded by three columns. */
static void calls(int64_t rows, gld_trace *t)
{
    static const int64_t length[] = {T, 1, 3};
    int64_t ids[B * T], mask[B * (T + 4)], labels[B * T];
    OK(gld_trace_new(t));
    for (int64_t j = 0, past = 0; j < STEPS; past += length[j++]) {
        for (int64_t i = 0; i < rows * length[j]; i++)
            ids[i] = 2 + (i * 37 + 11 * j) % 90, labels[i] = i < 4 ? -100 : ids[i];
        for (int64_t i = 0; i < rows * (past + length[j]); i++) mask[i] = i >= 3;
        OK(gld_trace_add_step(t, &(fh1_batch){.B = rows,
                                              .T = length[j],
                                              .ids = ids,
                                              .mask = mask,
                                              .mask_len = past + length[j],
                                              .labels = j ? NULL : labels}));
    }
}

static gld_trace record_plan(const plan *p)
{
    gld_trace in, t;
    calls(p->pads ? 1 : B, &in);
    fh1_engine *e = ref_engine_new("ref-f32", NULL, p->pads ? FH1_VAR_PADS_IN_MIXER : 0);
    const gld_record_options o = {NULL, !p->caches, FH1_DTYPE_COUNT};
    OK(gld_record_like(e, &models[M34], &in, &o, &t));
    e->free(e);
    gld_trace_free(&in);
    return t;
}

/* The last element: of the last row, which ends in a real token. Each tap by another share, since some ops hardly
 * change what they read. */
static void spoil(const fh1_tensor *t, fh1_tap_id id)
{
    const int64_t n = fh1_n_elems(t);
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(fh1_get(t, i)));
    fh1_set(t, n - 1, fh1_get(t, n - 1) + (most + 0.5) * (1 + 0.37 * (int)id));
}

static void store_coarse(fh1_tensor *t, uint16_t **room)
{
    const int64_t n = fh1_n_elems(t);
    *room = malloc((size_t)n * sizeof **room);
    ck_assert_ptr_nonnull(*room);
    for (int64_t i = 0; i < n; i++) (*room)[i] = fh1_f64_to_bf16(fh1_get(t, i));
    *t = fh1_view(*room, FH1_BF16, t->rank, t->shape);
}

static bool by_gauge(const char *reason)
{
    ck_assert_msg(strstr(reason, "by its gauge") || strstr(reason, "not recorded"), "%s", reason);
    return strstr(reason, "by its gauge") != NULL;
}

/* Judges it and compares the rule of every tap of every call with what the table says. Returns how many were judged by
 * their gauge. */
static int check(const plan *p)
{
    gld_trace t = record_plan(p);
    uint16_t *room = NULL;
    int n_gauge = 0, n_taps = 0;
    for (int j = 0; j < STEPS; j++) {
        gld_step *s = &t.steps[j];
        int64_t n = 0;
        for (int64_t i = 0; i < s->n_taps; i++) {
            const bool x = p->x.step == j && p->x.id == s->taps[i].id && p->x.layer == s->taps[i].layer;
            if (x && p->how == COARSE) store_coarse(&s->taps[i].t, &room);
            spoil(&s->taps[i].t, s->taps[i].id);
            if (fh1_tap_is_cache(s->taps[i].id) && j < p->from) continue;
            if (!x || p->how == COARSE) s->taps[n++] = s->taps[i];
        }
        s->n_taps = n;
        if (!gld_trace_find(&t, j, FH1_TAP_LOGITS, 0)) s->n_logits = 0;
    }
    verdict v = judge_as(&t, &models[M34], fh1_profile_find("fp32"), p->pads ? FH1_VAR_PADS_IN_MIXER : 0, NULL);
    for (int j = 0; j < STEPS; j++)
        for (int64_t i = 0; i < t.steps[j].n_taps; i++) {
            const gld_tap *tap = &t.steps[j].taps[i];
            char name[FH1_TAP_NAME_SIZE], x[FH1_TAP_NAME_SIZE];
            const cJSON *l = line_of(&v, j, fh1_tap_name(FH1_FALCON_H1, tap->id, tap->layer, name));
            ck_assert_msg(strcmp(cJSON_GetObjectItem(l, "verdict")->valuestring, "FAIL") == 0, "%s passes", name);
            const bool gauge = by_gauge(cJSON_GetObjectItem(l, "reason")->valuestring);
            const bool wanted = inputs_recorded(p, j, tap->id, tap->layer);
            ck_assert_msg(gauge == wanted, "call %d, %s: %s its gauge (%s %s of call %d, caches %d)", j, name,
                          gauge ? "by" : "not by", p->how == COARSE ? "coarse" : "without",
                          fh1_tap_name(FH1_FALCON_H1, p->x.id, p->x.layer < 0 ? 0 : p->x.layer, x), p->x.step,
                          p->caches);
            n_gauge += gauge, n_taps++;
        }
    ck_assert_int_eq(v.n_taps, n_taps);
    cJSON_Delete(v.lines);
    gld_trace_free(&t);
    free(room);
    return n_gauge;
}

static const place nothing = {FH1_TAP_EMBED, -1, -1};

/* --- tests --- */

START_TEST(whole_traces)
{
    const plan all = {.caches = true, .x = nothing}, no_caches = {.x = nothing};
    const int per_call = 2 + 21 * LAYERS + 2;
    ck_assert_int_eq(check(&all), STEPS * (per_call + 4 * LAYERS) + 1);
    ck_assert_int_eq(check(&no_caches), STEPS * per_call + 1); /* what went into the caches is recorded */
}
END_TEST

/* Each tap of a layer, and those around it, is missing once, in the first call and in a later one. The op that reads it
 * loses its gauge, and where it goes into the cache, later calls do too, unless the cache itself was recorded. */
static void each_tap(bool caches, way how, int step)
{
    for (int id = 0; id < FH1_TAP_LOSS; id++) {
        if (fh1_tap_is_cache((fh1_tap_id)id) && !caches) continue;
        const int64_t layer = fh1_tap_is_per_layer((fh1_tap_id)id) ? id == FH1_TAP_LAYER && step ? LAYERS - 1 : 1 : 0;
        const plan p = {.caches = caches, .x = {(fh1_tap_id)id, layer, step}, .how = how};
        check(&p);
    }
}

START_TEST(each_tap_missing_in_the_first_call)
{
    each_tap(false, LEFT_OUT, 0);
}
END_TEST

START_TEST(each_tap_missing_in_a_later_call)
{
    each_tap(true, LEFT_OUT, 1);
}
END_TEST

/* What goes into a cache, and the cache beside it or not. */
START_TEST(caches_stand_in_for_what_went_into_them)
{
    static const fh1_tap_id into[] = {FH1_TAP_K_ROPE, FH1_TAP_V_PROJ, FH1_TAP_IN_PROJ, FH1_TAP_CONV_ACT, FH1_TAP_DT};
    for (int i = 0; i < N_OF(into) * 3; i++) { /* none, all, and all from the second call on */
        const plan p = {.caches = i % 3, .from = i % 3 == 2, .x = {into[i / 3], 1, i % 3 == 0}};
        check(&p);
    }
}
END_TEST

/* A tensor of bf16 under a contract that stores f32 is not what the engine went on from. */
START_TEST(each_tap_stored_too_coarsely)
{
    each_tap(true, COARSE, 0);
}
END_TEST

/* A mixer that computes on padding leaves what no trace records: window and state are not known until they are. */
START_TEST(padding_in_the_mixer)
{
    const plan without = {.pads = true, .x = nothing}, with = {.pads = true, .caches = true, .x = nothing};
    ck_assert(inputs_recorded(&with, 1, FH1_TAP_SSD, 0) && !inputs_recorded(&with, 0, FH1_TAP_SSD, 0));
    ck_assert(!inputs_recorded(&without, 2, FH1_TAP_CONV_ACT, 0) && inputs_recorded(&without, 2, FH1_TAP_CONTEXT, 0));
    check(&without);
    check(&with);
}
END_TEST

/* The loss is that of all columns; logits of the last ones say nothing about the others. */
START_TEST(loss_of_fewer_logits)
{
    for (int64_t columns = T - 1; columns <= T; columns++) {
        const plan all = {.x = nothing};
        gld_trace t = record_plan(&all);
        fh1_tensor *logits = tensor(&t, 0, FH1_TAP_LOGITS, 0);
        const int64_t V = logits->shape[2];
        float *room = malloc((size_t)(B * columns * V) * sizeof *room);
        ck_assert_ptr_nonnull(room);
        for (int64_t i = 0; i < B * columns * V; i++)
            room[i] = (float)fh1_get(logits, i + (i / (columns * V) + 1) * (T - columns) * V);
        *logits = fh1_view(room, FH1_F32, 3, (int64_t[]){B, columns, V});
        t.steps[0].n_logits = columns;
        expect_pass(judge(&t, kinds[F32]), "fewer logits, honest");
        spoil(tensor(&t, 0, FH1_TAP_LOSS, 0), FH1_TAP_LOSS);
        verdict v = judge(&t, kinds[F32]);
        const cJSON *l = line_of(&v, 0, "loss");
        ck_assert_str_eq(cJSON_GetObjectItem(l, "verdict")->valuestring, "FAIL");
        ck_assert(by_gauge(cJSON_GetObjectItem(l, "reason")->valuestring) == (columns == T));
        cJSON_Delete(v.lines);
        gld_trace_free(&t);
        free(room);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {whole_traces,
                                  each_tap_missing_in_the_first_call,
                                  each_tap_missing_in_a_later_call,
                                  caches_stand_in_for_what_went_into_them,
                                  each_tap_stored_too_coarsely,
                                  padding_in_the_mixer,
                                  loss_of_fewer_logits,
                                  NULL};
    return judge_main("judge_inputs", tests);
}
