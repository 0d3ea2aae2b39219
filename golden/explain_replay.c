/* Running a cause on the judged engine's own values: the call of the first divergence, and where the cache before it is
 * not the judged engine's own (its taps were not recorded), all calls before it too, so that a cause which spoils the
 * cache is seen doing so. */
#include "golden/explain.h"

#include "oracle/compare.h"

#include <stdlib.h>

typedef struct {
    gld_judgement *j;
    gld_slot *s;
    double *out;
    bool taken;
} replay;

/* The tap in question ends the run: an engine stops at a status, and this one is no error. */
static fh1_status stop(void)
{
    return fh1_fail(FH1_E_INTERNAL, "the replay has what it wants");
}

/* The recorded row of the token in row r of an event, -1 where there is none: a fault of the mask computes other tokens
 * than the judged call has. Both are in the same order, so the search goes on from the last one. */
static int64_t recorded_row(const fh1_tap_event *e, const gld_slot *s, int64_t r, int64_t last)
{
    if (e->id == FH1_TAP_LOSS) return 0;
    const int64_t m = e->kept ? e->kept[r] : r;
    for (int64_t i = 1; i <= s->n; ++i) {
        const int64_t at = (last + i) % s->n;
        if (s->row[at] == e->tokens->row[m] && s->column[at] == e->tokens->col[m]) return at;
    }
    return -1;
}

/* What a cause computes, or, upstream of that, the judged engine's own values in its place. */
static void take(const fh1_tap_event *e, const gld_slot *s, double *out)
{
    const int64_t rows = e->id == FH1_TAP_LOSS ? 1 : e->value.shape[0];
    for (int64_t r = 0, at, last = -1; r < rows; ++r) {
        if ((at = recorded_row(e, s, r, last)) < 0) continue;
        last = at;
        for (int64_t i = 0; i < s->width; ++i) {
            const double judged = s->value[at * s->width + i];
            const int64_t k = r * s->width + i;
            if (out) out[at * s->width + i] = fh1_get(&e->value, k);
            else if (s->coarse || fh1_class(judged) != 0) continue;
            else if (e->value.dtype == FH1_F64) ((double *)e->value.data)[k] = judged;
            else ((float *)e->value.data)[k] = (float)judged;
        }
    }
}

static fh1_status on_tap(void *user, const fh1_tap_event *e)
{
    replay *r = user;
    gld_slot *s = gld_find_slot(r->j, e->id, e->layer);
    if (!s || !s->value) return NULL;
    const bool wanted = s == r->s;
    /* a token that the cause does not compute is 0, as a recorder leaves it */
    for (int64_t i = 0; wanted && i < s->n * s->width; ++i) r->out[i] = 0;
    take(e, s, wanted ? r->out : NULL);
    if (e->id == r->j->scaled && e->value.dtype == FH1_F64)
        for (int64_t i = 0; i < fh1_n_elems(&e->value); ++i) ((double *)e->value.data)[i] *= r->j->scale;
    r->taken |= wanted;
    return wanted ? stop() : NULL;
}

static fh1_round input_round(void *user, fh1_tap_id id, int64_t layer)
{
    return gld_declared_input(((replay *)user)->j, id, layer);
}

/* Layers that need not be computed: the one before the tap's was recorded. */
static int64_t first_layer(gld_judgement *j, const gld_slot *s)
{
    int64_t layer = fh1_tap_is_per_layer(s->tap->id) ? s->tap->layer : j->c->n_layers;
    if (s->tap->id <= FH1_TAP_INPUT) return 0;
    if (s->tap->id == FH1_TAP_LOGITS || s->tap->id == FH1_TAP_FINAL_LAYERNORM || s->tap->id == FH1_TAP_LOSS) --layer;
    return layer > 0 && gld_recorded(j, FH1_TAP_LAYER, layer - 1) ? layer : 0;
}

/* ---- earlier calls ---- */

typedef struct {
    const gld_judgement *j;
    const gld_step *step;
    bool one_token;
} past;

/* Stored coarser than the contract says: not what the engine went on from. */
static bool too_coarse(const past *p, const gld_tap *t)
{
    const fh1_dtype declared = fh1_profile_tap_dtype(p->j->o->profile, t->id, p->one_token, p->j->c);
    return fh1_dtype_ulp(t->t.dtype, 1) > fh1_dtype_ulp(declared, 1);
}

static const gld_tap *tap_of(const past *p, fh1_tap_id id, int64_t layer)
{
    for (int64_t i = 0; i < p->step->n_taps; ++i)
        if (p->step->taps[i].id == id && p->step->taps[i].layer == layer)
            return too_coarse(p, &p->step->taps[i]) ? NULL : &p->step->taps[i];
    return NULL;
}

static bool padding(const fh1_batch *b, int64_t row, int64_t column)
{
    return b->mask && b->mask[row * b->mask_len + b->mask_len - b->T + column] == 0;
}

/* The recorded values in place of the cause's. */
static fh1_status on_past_tap(void *user, const fh1_tap_event *e)
{
    const past *p = user;
    const gld_tap *t = tap_of(p, e->id, e->layer);
    if (!t || e->id == FH1_TAP_LOSS || e->id == FH1_TAP_LOGITS) return NULL;
    const int64_t rows = e->value.shape[0], width = rows ? fh1_n_elems(&e->value) / rows : 0;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t m = e->kept ? e->kept[r] : r, row = e->tokens->row[m], column = e->tokens->col[m];
        if (padding(&p->step->batch, row, column)) continue;
        for (int64_t i = 0; i < width; ++i) {
            const double judged = fh1_get(&t->t, (row * t->t.shape[1] + column) * width + i);
            const int64_t at = r * width + i;
            if (fh1_class(judged) != 0) continue;
            if (e->value.dtype == FH1_F64) ((double *)e->value.data)[at] = judged;
            else ((float *)e->value.data)[at] = (float)judged;
        }
    }
    return NULL;
}

/* The residual stream that layer i of a past call read, as it was recorded. */
static const gld_tap *past_stream(const past *p, int64_t layer)
{
    int64_t of;
    const fh1_tap_id id = fh1_tap_stream(p->j->c, layer, &of);
    return tap_of(p, id, of);
}

static fh1_round past_input_round(void *user, fh1_tap_id id, int64_t layer)
{
    const past *p = user;
    if (id == FH1_TAP_INPUT_LAYERNORM) /* a residual in f32, as gld_declared_input has it */
        return past_stream(p, layer) ? p->j->o->profile->wide_residual : FH1_ROUND_NONE;
    const fh1_round r = p->j->o->profile->at[FH1_RP_SCALE_IN];
    if (!tap_of(p, fh1_tap_linear_input(p->j->c, id), layer) || p->j->o->profile->storage == FH1_F64)
        return FH1_ROUND_NONE;
    return r == FH1_ROUND_NONE ? FH1_ROUND_F32 : r;
}

static fh1_status import_tap(fh1_cache *cache, const gld_tap *t)
{
    const fh1_cache_part part = (fh1_cache_part)(t->id - FH1_TAP_CACHE_KEY);
    fh1_tensor view = fh1_cache_shape(cache, part);
    const int64_t n = fh1_n_elems(&view);
    if (n != fh1_n_elems(&t->t)) return NULL; /* the cause holds other tokens */
    double *v = malloc((size_t)(n + 1) * sizeof *v);
    if (!v) return fh1_no_memory((size_t)n * sizeof *v, "a recorded cache");
    view.data = v;
    view.dtype = FH1_F64;
    fh1_status s = fh1_cache_export(cache, t->layer, part, &view);
    for (int64_t i = 0; i < n; ++i) {
        const double judged = fh1_get(&t->t, i);
        if (fh1_class(judged) == 0) v[i] = judged;
    }
    if (!s) s = fh1_cache_import(cache, t->layer, part, &view);
    free(v);
    return s;
}

/* All calls before the current one, from an empty cache. */
static fh1_status run_past(gld_judgement *j, fh1_engine *e, const fh1_model *m, fh1_cache *cache)
{
    for (int64_t k = 0; k < j->step; ++k) {
        past p = {j, &j->trace->steps[k], k > 0 && j->trace->steps[k].batch.T == 1};
        const fh1_gauge_request constants = {.contract = j->o->profile};
        const fh1_tap_sink sink = {
            .user = &p, .tap = on_past_tap, .gauges = &constants, .input_round = past_input_round};
        FH1_TRY(e->forward(e, m, &p.step->batch, cache, 0, NULL, &sink));
        for (int64_t i = 0; i < p.step->n_taps; ++i)
            if (fh1_tap_is_cache(p.step->taps[i].id) && !too_coarse(&p, &p.step->taps[i]))
                FH1_TRY(import_tap(cache, &p.step->taps[i]));
    }
    return NULL;
}

/* Whether the cache before this call is what the judged engine recorded, and not what truth computed from other taps.
 */
static bool cache_recorded(const gld_judgement *j)
{
    if (j->step == 0) return true;
    const past p = {j, &j->trace->steps[j->step - 1], j->step > 1 && j->trace->steps[j->step - 1].batch.T == 1};
    for (int64_t layer = 0; layer < j->c->n_layers; ++layer)
        for (int part = 0; part < GLD_PARTS; ++part)
            if (fh1_tap_exists(j->c, (fh1_tap_id)(FH1_TAP_CACHE_KEY + part)) &&
                !tap_of(&p, (fh1_tap_id)(FH1_TAP_CACHE_KEY + part), layer))
                return false;
    return true;
}

static fh1_status cache_before(gld_judgement *j, fh1_engine *e, const fh1_model *m, fh1_cache **out)
{
    if (cache_recorded(j)) return fh1_cache_clone(j->before, out);
    FH1_TRY(fh1_cache_new(j->c, e->dtype, j->trace->steps[0].batch.B, out));
    fh1_status s = run_past(j, e, m, *out);
    if (!s) return NULL;
    fh1_cache_free(*out);
    return s;
}

/* ---- the current call ---- */

fh1_status gld_replay(gld_judgement *j, gld_slot *s, fh1_engine *e, const fh1_model *m, double *out)
{
    replay user = {j, s, out, false};
    const fh1_gauge_request constants = {.contract = j->o->profile}; /* multipliers as the contract holds them */
    const fh1_tap_sink sink = {.user = &user,
                               .tap = on_tap,
                               .gauges = &constants,
                               .input_round = input_round,
                               .first_layer = first_layer(j, s)};
    fh1_cache *cache;
    FH1_TRY(cache_before(j, e, m, &cache));
    fh1_status st = e->forward(e, m, &gld_current(j)->batch, cache, j->n_logits, NULL, &sink);
    if (st && user.taken) {
        st = NULL;
    } else if (!st && fh1_tap_is_cache(s->tap->id)) {
        st = gld_export_cache_tap(cache, s, out);
    } else if (!st && !user.taken) { /* a fault may leave a tap out altogether */
        for (int64_t i = 0; i < s->n * s->width; ++i) out[i] = s->local[i];
    }
    fh1_cache_free(cache);
    return st;
}

/* Multiply-adds of one token in one layer. */
static double layer_work(const fh1_config *c)
{
    const int64_t inner = c->family == FH1_FALCON_MAMBA ? c->d_ssm * (fh1_x_proj_dim(c) + c->R + 3 * c->N) : 0;
    return (double)(c->D * (fh1_in_proj_dim(c) + c->d_ssm + 2 * (c->Hq + c->Hkv) * c->A + 3 * c->F) + inner);
}

double gld_replay_work(gld_judgement *j, const gld_slot *s)
{
    const fh1_config *c = j->c;
    const double layer = layer_work(c);
    const bool head = s->tap->id == FH1_TAP_LOGITS || s->tap->id == FH1_TAP_LOSS;
    const int64_t first = first_layer(j, s), last = fh1_tap_is_per_layer(s->tap->id) ? s->tap->layer + 1 : c->n_layers;
    const double layers = fh1_tap_is_cache(s->tap->id) ? (double)(c->n_layers - first) : (double)(last - first);
    const gld_step *step = gld_current(j);
    double before = 0;
    for (int64_t k = 0; k < j->step && !cache_recorded(j); ++k)
        before += (double)(step->batch.B * j->trace->steps[k].batch.T) * layer * (double)c->n_layers;
    return before + (double)(step->batch.B * step->batch.T) * (layer * layers + (head ? (double)(c->V * c->D) : 0)) + 1;
}
