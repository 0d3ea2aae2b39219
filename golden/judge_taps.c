#include "golden/judge_state.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    gld_judgement *j;
    gld_run run;
    int member; /* of the emulated runs */
} run_sink;

gld_slot *gld_find_slot(gld_judgement *j, fh1_tap_id id, int64_t layer)
{
    for (int64_t i = 0; i < j->n_slots; ++i)
        if (j->slots[i].tap->id == id && j->slots[i].tap->layer == layer) return &j->slots[i];
    return NULL;
}

const gld_step *gld_current(const gld_judgement *j)
{
    return &j->trace->steps[j->step];
}

/* One row of a recorded tensor, [B, T', …] at (b, t), widened to f64. */
static void read_row(const fh1_tensor *t, int64_t b, int64_t col, int64_t width, double *out)
{
    const int64_t columns = t->rank > 1 ? t->shape[1] : 1, first = (b * columns + col) * width;
    if (fh1_is_dense(t)) {
        const size_t size = (size_t)fh1_dtype_bits(t->dtype) / 8;
        fh1_to_f64(out, (const char *)t->data + (size_t)first * size, t->dtype, width);
        return;
    }
    for (int64_t i = 0; i < width; ++i) out[i] = fh1_get(t, first + i);
}

/* Column of the recorded tensor that token m stands in; -1 where it is not judged: a trace may hold the last columns of
 * the logits only, and under FH1_VAR_PADS_IN_MIXER the engines compute padding too. */
static int64_t recorded_column(const gld_judgement *j, const fh1_tap_event *e, int64_t m)
{
    const fh1_batch *b = &gld_current(j)->batch;
    const int64_t col = e->tokens->col[m];
    if (b->mask && b->mask[e->tokens->row[m] * b->mask_len + b->mask_len - b->T + col] == 0) return -1;
    return e->id == FH1_TAP_LOGITS ? col - (b->T - gld_current(j)->n_logits) : col;
}

static int64_t token_of(const fh1_tap_event *e, int64_t r)
{
    return e->kept ? e->kept[r] : r;
}

static fh1_status grab(double **p, int64_t n)
{
    const size_t bytes = (size_t)(n > 0 ? n : 1) * sizeof **p;
    *p = malloc(bytes);
    return *p ? NULL : fh1_no_memory(bytes, "judged values");
}

static void element(const fh1_tensor *t, int64_t i, double *out)
{
    *out = t->dtype == FH1_F64 ? ((const double *)t->data)[i] : (double)((const float *)t->data)[i];
}

/* First sight of a tap: read the judged values of its real tokens. */
fh1_status gld_read_judged(gld_judgement *j, const fh1_tap_event *e, gld_slot *s)
{
    const int64_t rows = e->id == FH1_TAP_LOSS ? 1 : e->value.shape[0];
    s->width = rows ? fh1_n_elems(&e->value) / rows : 0;
    FH1_TRY(grab(&s->value, rows * s->width));
    if (e->id != FH1_TAP_LOSS) {
        s->column = malloc((size_t)(rows + 1) * sizeof *s->column);
        s->row = malloc((size_t)(rows + 1) * sizeof *s->row);
        if (!s->column || !s->row) return fh1_no_memory((size_t)rows * 16, "judged columns");
    }
    s->n = 0;
    for (int64_t r = 0; r < rows; ++r) {
        if (e->id == FH1_TAP_LOSS) {
            s->value[0] = fh1_get(&s->tap->t, 0);
            s->n = 1;
            continue;
        }
        const int64_t m = token_of(e, r), col = recorded_column(j, e, m);
        if (col < 0) continue;
        s->column[s->n] = e->tokens->col[m];
        s->row[s->n] = e->tokens->row[m];
        read_row(&s->tap->t, e->tokens->row[m], col, s->width, s->value + s->n++ * s->width);
    }
    return NULL;
}

/* Copies the rows of the event that the trace has, in the order of gld_read_judged. With `force` the engine goes
 * on from the judged values; `out` may be NULL. A value that is no number is left to the engine, so that one NaN does
 * not make everything behind it unjudgeable. */
void gld_take(gld_judgement *j, const fh1_tap_event *e, gld_slot *s, bool force, double *out)
{
    const int64_t rows = e->id == FH1_TAP_LOSS ? 1 : e->value.shape[0];
    int64_t n = 0;
    for (int64_t r = 0; r < rows; ++r) {
        if (e->id != FH1_TAP_LOSS && recorded_column(j, e, token_of(e, r)) < 0) continue;
        for (int64_t i = 0; i < s->width; ++i) {
            const double judged = s->value[n * s->width + i];
            if (out) element(&e->value, r * s->width + i, &out[n * s->width + i]);
            if (!force || s->coarse || fh1_class(judged) != 0) continue;
            if (e->value.dtype == FH1_F64) ((double *)e->value.data)[r * s->width + i] = judged;
            else ((float *)e->value.data)[r * s->width + i] = (float)judged;
        }
        ++n;
    }
}

/* Another honest rounding of a tap that nobody recorded: one element in twelve moves by one ulp of the stored type,
 * which has the variance of a rounding error. */
static void jitter(const gld_judgement *j, int member, const fh1_tap_event *e)
{
    const fh1_dtype type = fh1_profile_tap_dtype(j->o->profile, e->id, j->one_token, j->c);
    char name[FH1_TAP_NAME_SIZE];
    const fh1_stream s =
        fh1_stream_open((uint64_t)(j->step * MEMBERS + member), fh1_tap_name(j->c->family, e->id, e->layer, name));
    float *v = e->value.data;
    for (int64_t i = 0; i < fh1_n_elems(&e->value); ++i) {
        const int64_t dice = fh1_random_below(s, (uint64_t)i, 24);
        if (dice < 2) v[i] += (float)((dice ? 1 : -1) * fh1_dtype_ulp(type, v[i]));
    }
}

static fh1_status take_gauge(gld_judgement *j, const fh1_tap_event *e, gld_slot *s)
{
    FH1_TRY(fh1_gauge_new(s->n * s->width, &s->gauge));
    const int64_t rows = e->id == FH1_TAP_LOSS ? 1 : e->value.shape[0];
    int64_t n = 0;
    for (int64_t r = 0; r < rows; ++r) {
        if (e->id != FH1_TAP_LOSS && recorded_column(j, e, token_of(e, r)) < 0) continue;
        for (int64_t i = 0; i < s->width; ++i)
            fh1_gauge_set(&s->gauge, n * s->width + i, fh1_gauge_at(e->gauge, r * s->width + i));
        ++n;
    }
    return NULL;
}

/* emulated2 += (value - local)² / members */
static void add_square(const gld_judgement *j, gld_slot *s, const double *value)
{
    for (int64_t i = 0; i < s->n * s->width; ++i) {
        const double err = fh1_error_of(value[i], s->local[i]);
        s->emulated2[i] += err * err / j->n_members;
    }
}

/* RMS of judged - truth over RMS of truth. Slots of padding, where truth holds exact zeros, are left out. */
static double relative_rms(const gld_slot *s, const double *truth)
{
    fh1_rms rms = {0};
    for (int64_t i = 0; i < s->n * s->width; ++i) {
        if (truth[i] == 0 && fh1_tap_is_cache(s->tap->id)) continue;
        fh1_rms_add(&rms, fh1_error_of(s->value[i], truth[i]), truth[i], i);
    }
    const double err = fh1_rms_err(&rms), ref = fh1_rms_ref(&rms);
    return ref > 0 ? err / ref : err > 0 ? (double)INFINITY : 0;
}

static fh1_status on_tap(void *user, const fh1_tap_event *e)
{
    run_sink *sink = user;
    gld_judgement *j = sink->j;
    gld_slot *s = gld_find_slot(j, e->id, e->layer);
    if (!s) {
        if (sink->member > 0 && e->id != FH1_TAP_LOSS) jitter(j, sink->member, e);
        return NULL;
    }
    if (!s->value) FH1_TRY(gld_read_judged(j, e, s));
    if (!s->judged) { /* only forced */
        gld_take(j, e, s, sink->run != RUN_FREE, NULL);
        return NULL;
    }
    double *values;
    FH1_TRY(grab(&values, s->n * s->width));
    gld_take(j, e, s, sink->run != RUN_FREE, values);
    if (sink->run == RUN_LOCAL) {
        s->local = values;
        return e->gauge ? take_gauge(j, e, s) : NULL;
    }
    fh1_status st = NULL;
    if (sink->run == RUN_FREE) {
        s->free_rms = relative_rms(s, values);
    } else {
        if (!s->emulated2 && !(st = grab(&s->emulated2, s->n * s->width)))
            memset(s->emulated2, 0, (size_t)(s->n * s->width) * sizeof *s->emulated2);
        if (!st) add_square(j, s, values);
    }
    free(values);
    return st;
}

/* Every judged tap; and the two ops that carry errors from call to call. */
static bool gauge_wanted(void *user, fh1_tap_id id, int64_t layer)
{
    gld_judgement *j = ((run_sink *)user)->j;
    if (id == FH1_TAP_CONV_ACT || id == FH1_TAP_SSD) return true;
    const gld_slot *s = gld_find_slot(j, id, layer);
    return s && s->judged;
}

static bool gauge_hidden(void *user, fh1_tap_id id, int64_t layer)
{
    return !gld_recorded(((run_sink *)user)->j, id, layer);
}

/* The scaled input of in_proj and of q/k/v_proj is rounded by the contract between two taps. Since the
 * input itself is recorded, that rounding is known bit for bit and truth repeats it (q_proj stands for all
 * three, which read the same scaled input). */
fh1_round gld_declared_input(gld_judgement *j, fh1_tap_id id, int64_t layer)
{
    if (id == FH1_TAP_INPUT_LAYERNORM) /* a residual in f32, rounded in front of the norm */
        return gld_stream_recorded(j, layer) ? j->o->profile->wide_residual : FH1_ROUND_NONE;
    if (!gld_recorded(j, fh1_tap_linear_input(j->c, id), layer) || j->o->profile->storage == FH1_F64)
        return FH1_ROUND_NONE;
    const fh1_round r = j->o->profile->at[FH1_RP_SCALE_IN];
    return r == FH1_ROUND_NONE ? FH1_ROUND_F32 : r;
}

static fh1_round input_round(void *user, fh1_tap_id id, int64_t layer)
{
    return gld_declared_input(((run_sink *)user)->j, id, layer);
}

fh1_status gld_run_step(gld_judgement *j, fh1_engine *e, fh1_cache *cache, gld_run run, int member)
{
    run_sink user = {j, run, member};
    fh1_tap_sink sink = {.user = &user, .tap = on_tap};
    const fh1_gauge_request gauges = {.user = &user,
                                      .contract = j->o->profile,
                                      .wanted = gauge_wanted,
                                      .hidden = gauge_hidden,
                                      .cache = &j->errors,
                                      .merged = j->o->merged,
                                      .merged_halves = j->o->merged_halves};
    if (run == RUN_LOCAL) {
        sink.gauges = &gauges;
        sink.input_round = input_round;
    }
    return e->forward(e, j->o->model, &gld_current(j)->batch, cache, j->n_logits, NULL, &sink);
}

/* ---- cache taps: read from the caches after the call ---- */

static fh1_cache_part part_of(fh1_tap_id id)
{
    return id == FH1_TAP_CACHE_KEY     ? FH1_CACHE_KEY
           : id == FH1_TAP_CACHE_VALUE ? FH1_CACHE_VALUE
           : id == FH1_TAP_CACHE_CONV  ? FH1_CACHE_CONV
                                       : FH1_CACHE_SSM;
}

fh1_status gld_export_cache_tap(const fh1_cache *cache, const gld_slot *s, double *out)
{
    fh1_tensor view = fh1_cache_shape(cache, part_of(s->tap->id));
    view.data = out;
    view.dtype = FH1_F64;
    return fh1_cache_export(cache, s->tap->layer, part_of(s->tap->id), &view);
}

static fh1_status export_part(const fh1_cache *cache, const gld_slot *s, int64_t n, double **out)
{
    FH1_TRY(grab(out, n));
    return gld_export_cache_tap(cache, s, *out);
}

/* Keys and values are copies: no error. Window and state carry what the local run noted, row by row. */
static fh1_status cache_gauge(const gld_judgement *j, gld_slot *s)
{
    FH1_TRY(fh1_gauge_new(s->n * s->width, &s->gauge));
    const fh1_gauge *of = s->tap->id == FH1_TAP_CACHE_CONV  ? j->errors.conv
                          : s->tap->id == FH1_TAP_CACHE_SSM ? j->errors.ssm
                                                            : NULL;
    for (int64_t b = 0; of && b < s->n; ++b)
        for (int64_t i = 0; i < s->width; ++i)
            fh1_gauge_set(&s->gauge, b * s->width + i, fh1_gauge_at(&of[s->tap->layer * s->n + b], i));
    return NULL;
}

fh1_status gld_read_cache_slot(gld_judgement *j, gld_slot *s)
{
    const fh1_tensor *t = &s->tap->t;
    const int64_t n = fh1_n_elems(t);
    s->n = t->shape[0];
    s->width = n / s->n;
    FH1_TRY(grab(&s->value, n));
    for (int64_t i = 0; i < n; ++i) s->value[i] = fh1_get(t, i);
    double *free_values;
    FH1_TRY(export_part(j->free_cache, s, n, &free_values));
    s->free_rms = relative_rms(s, free_values);
    free(free_values);
    FH1_TRY(export_part(j->local_cache, s, n, &s->local));
    FH1_TRY(cache_gauge(j, s));
    if (j->n_members == 0) return NULL;
    FH1_TRY(grab(&s->emulated2, n));
    memset(s->emulated2, 0, (size_t)n * sizeof *s->emulated2);
    for (int i = 0; i < j->n_members; ++i) {
        double *values;
        FH1_TRY(export_part(j->member_cache[i], s, n, &values));
        add_square(j, s, values);
        free(values);
    }
    return NULL;
}

/* The next step goes on from what the judged engine holds. */
fh1_status gld_import_judged(gld_judgement *j, const gld_slot *s)
{
    if (s->coarse) return NULL;
    fh1_gauge_cache_forget(&j->errors, j->c, s->tap->layer, part_of(s->tap->id));
    const int64_t n = s->n * s->width;
    double *v;
    FH1_TRY(grab(&v, n));
    for (int64_t i = 0; i < n; ++i) v[i] = fh1_class(s->value[i]) == 0 ? s->value[i] : s->local[i];
    fh1_tensor view = fh1_cache_shape(j->local_cache, part_of(s->tap->id));
    view.data = v;
    view.dtype = FH1_F64;
    fh1_status st = fh1_cache_import(j->local_cache, s->tap->layer, part_of(s->tap->id), &view);
    for (int i = 0; i < j->n_members && !st; ++i)
        st = fh1_cache_import(j->member_cache[i], s->tap->layer, part_of(s->tap->id), &view);
    free(v);
    return st;
}
