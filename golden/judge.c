#include "golden/explain.h"

#include "oracle/thread.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- from numbers to a verdict ---- */

static void unravel(int64_t ordinal, const fh1_tensor *shape, int64_t *index)
{
    for (int d = shape->rank - 1; d >= 0; --d) {
        index[d] = ordinal % shape->shape[d];
        ordinal /= shape->shape[d];
    }
}

/* Row-major ordinal in the recorded tensor of element i of packed row r. */
static int64_t ordinal_of(const gld_judgement *j, const gld_slot *s, const fh1_tokens *tokens, int64_t r, int64_t i)
{
    if (fh1_tap_is_cache(s->tap->id) || s->tap->id == FH1_TAP_LOSS) return r * s->width + i;
    int64_t seen = -1;
    const bool logits = s->tap->id == FH1_TAP_LOGITS;
    const int64_t cols = logits ? gld_current(j)->n_logits : tokens->T;
    for (int64_t m = 0; m < tokens->M; ++m) {
        const int64_t col = tokens->col[m] - (tokens->T - cols);
        if (col >= 0 && ++seen == r) return (tokens->row[m] * cols + col) * s->width + i;
    }
    assert(false && "a judged row is a packed token");
    return 0;
}

static bool padding_slot(const gld_judgement *j, fh1_tap_id id, const int64_t *index)
{
    if (id != FH1_TAP_CACHE_KEY && id != FH1_TAP_CACHE_VALUE) return false;
    const fh1_cache_row *row = &j->books->rows[index[0]];
    int64_t lo = 0, hi = row->n; /* columns rise: binary search */
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (row->col[mid] < index[2]) lo = mid + 1;
        else hi = mid;
    }
    return lo == row->n || row->col[lo] != index[2];
}

static fh1_dtype coarser(fh1_dtype a, fh1_dtype b)
{
    return fh1_dtype_ulp(a, 1) > fh1_dtype_ulp(b, 1) ? a : b;
}

static fh1_status annotate(const gld_judgement *j, gld_slot *s)
{
    const int64_t n = s->n * s->width;
    s->unit = malloc((size_t)(n + 1) * sizeof *s->unit);
    s->skip = calloc((size_t)(n + 1), sizeof *s->skip);
    if (s->column) s->word = malloc((size_t)(s->n + 1) * sizeof *s->word);
    if (!s->unit || !s->skip || (s->column && !s->word)) return fh1_no_memory((size_t)n * 5, "error annotations");
    const fh1_batch *b = &gld_current(j)->batch;
    for (int64_t r = 0; s->word && r < s->n; ++r) s->word[r] = b->ids[s->row[r] * b->T + s->column[r]];
    for (int64_t r = 0; r < s->n; ++r)
        for (int64_t i = 0; i < s->width; ++i) {
            int64_t index[FH1_MAX_RANK] = {0};
            const int64_t at = r * s->width + i;
            if (fh1_tap_is_cache(s->tap->id)) {
                unravel(at, &s->tap->t, index);
                s->unit[at] = (int32_t)fh1_tap_unit_of_index(j->c, s->tap->id, index);
                s->skip[at] = padding_slot(j, s->tap->id, index);
            } else {
                s->unit[at] = s->tap->id == FH1_TAP_LOSS ? 0 : (int32_t)fh1_tap_unit_of(j->c, s->tap->id, i);
            }
        }
    return NULL;
}

gld_tap_errors gld_errors_of(const gld_judgement *j, const gld_slot *s)
{
    const gld_tap *tap = s->tap;
    const fh1_dtype declared = fh1_profile_tap_dtype(j->o->profile, tap->id, j->one_token, j->c);
    return (gld_tap_errors){.id = tap->id,
                            .profile = j->o->profile,
                            .ulp_type = coarser(tap->t.dtype, declared),
                            .stored_coarser = s->coarse,
                            .n_tokens = s->n,
                            .width = s->width,
                            .judged = s->value,
                            .local = s->local,
                            .free_rms = s->free_rms,
                            .emulated2 = s->emulated2,
                            .gauge = s->gauge.worst ? &s->gauge : NULL,
                            .far = s->far,
                            .skip = s->skip,
                            .unit = s->unit,
                            .n_units = tap->id == FH1_TAP_LOSS ? 1 : fh1_tap_units(j->c, tap->id),
                            .correlated = tap->id == FH1_TAP_CONTEXT ? j->c->A : 1,
                            .alike = s->word,
                            .column = s->column,
                            .n_columns = gld_current(j)->batch.T};
}

/* The verdict on one slot, to its `result` and `where`. Reads the judgement and writes the slot only, so slots are
 * judged side by side. */
static fh1_status judge_slot(const gld_judgement *j, gld_slot *s)
{
    const gld_tap *tap = s->tap;
    s->result = calloc(1, sizeof *s->result);
    if (!s->result) return fh1_no_memory(sizeof *s->result, "a verdict");
    *s->result = (fh1_tap_result){.subject = j->o->subject,
                                  .step = j->step,
                                  .order = fh1_tap_order(j->c, tap->id, tap->layer, j->c->n_layers),
                                  .id = tap->id,
                                  .layer = fh1_tap_is_per_layer(tap->id) ? tap->layer : -1,
                                  .rank = tap->t.rank};
    fh1_tap_name(j->c->family, tap->id, tap->layer, s->result->tap);
    FH1_TRY(annotate(j, s));
    const gld_tap_errors errors = gld_errors_of(j, s);
    return gld_judge_tap(&errors, s->result, &s->where);
}

static void judge_slots(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const gld_judgement *j = ctx;
    for (int64_t i = begin; i < end; ++i) {
        gld_slot *s = &j->slots[i];
        if (s->judged && !s->why) s->out_of_memory = judge_slot(j, s) != NULL;
    }
}

static fh1_status report_slot(gld_judgement *j, gld_slot *s, const fh1_tokens *tokens)
{
    fh1_tap_result *r = s->result;
    if (s->out_of_memory || !r) return fh1_no_memory((size_t)(s->n * s->width) * 16, "the judgement of a tap");
    if (s->n > 0 && s->width > 0)
        unravel(ordinal_of(j, s, tokens, s->where / s->width, s->where % s->width), &s->tap->t, r->where);
    FH1_TRY(fh1_report_add(j->report, r));
    const bool earlier = !j->failed || (r->step == j->first.step && r->order < j->first.order);
    if (r->verdict == FH1_FAIL && earlier) {
        j->failed = true;
        j->first = *r;
    }
    return NULL;
}

/* A label whose predecessor is padding: what logits at padding say means nothing, so the loss over them does not. */
static bool loss_reads_padding(const fh1_batch *b, const fh1_tokens *tokens)
{
    for (int64_t row = 0; b->labels && row < b->B; ++row)
        for (int64_t t = 1; t < b->T; ++t) {
            const int64_t before = t - 1;
            const bool padding = before < tokens->n_left[row] || before >= b->T - tokens->n_right[row];
            if (padding && b->labels[row * b->T + t] != -100) return true;
        }
    return false;
}

static fh1_status skip(gld_judgement *j, const gld_slot *s, const char *reason)
{
    fh1_tap_result r = {.subject = j->o->subject,
                        .step = j->step,
                        .verdict = FH1_SKIP,
                        .margin = (double)NAN,
                        .rms_ratio = (double)NAN,
                        .max_err = (double)NAN,
                        .allowed = (double)NAN,
                        .rel_rms = (double)NAN,
                        .free_rms = (double)NAN,
                        .id = s->tap->id,
                        .layer = fh1_tap_is_per_layer(s->tap->id) ? s->tap->layer : -1,
                        .order = fh1_tap_order(j->c, s->tap->id, s->tap->layer, j->c->n_layers)};
    fh1_tap_name(j->c->family, s->tap->id, s->tap->layer, r.tap);
    snprintf(r.reason, sizeof r.reason, "%s", reason);
    return fh1_report_add(j->report, &r);
}

/* A mean over nothing: every label is ignored, or has no predecessor in its row. */
static bool no_label_counts(const fh1_batch *b)
{
    for (int64_t row = 0; row < b->B; ++row)
        for (int64_t t = 1; t < b->T; ++t)
            if (b->labels[row * b->T + t] != -100) return false;
    return true;
}

/* Why the recorded loss cannot be judged; NULL when it can. */
static const char *no_loss(const gld_slot *s, const fh1_batch *b, const fh1_tokens *tokens)
{
    if (s->tap->id != FH1_TAP_LOSS) return NULL;
    if (!b->labels) return "a loss without labels: record stepJ/labels too";
    if (no_label_counts(b)) return "no label counts: the loss is a mean over nothing";
    return loss_reads_padding(b, tokens) ? "a label is predicted from padding: set it to -100" : NULL;
}

/* ---- one step, all steps ---- */

static fh1_status open_slots(gld_judgement *j)
{
    const gld_step *step = gld_current(j);
    j->n_slots = step->n_taps;
    j->slots = calloc((size_t)step->n_taps + 1, sizeof *j->slots);
    if (!j->slots) return fh1_no_memory((size_t)step->n_taps * sizeof *j->slots, "a step");
    j->n_logits = step->n_logits;
    for (int64_t i = 0; i < step->n_taps; ++i) {
        j->slots[i].tap = &step->taps[i];
        j->slots[i].judged =
            !j->o->taps || gld_taps_match(j->c->family, j->o->taps, step->taps[i].id, step->taps[i].layer);
        if (step->taps[i].id == FH1_TAP_LOSS) j->n_logits = step->batch.T; /* the loss needs all positions */
        const fh1_dtype declared = fh1_profile_tap_dtype(j->o->profile, step->taps[i].id, j->one_token, j->c);
        j->slots[i].coarse = coarser(step->taps[i].t.dtype, declared) != declared;
    }
    for (int64_t i = 0; i < step->n_taps; ++i)
        j->slots[i].far = !gld_inputs_recorded(j, step->taps[i].id, step->taps[i].layer);
    return NULL;
}

static void close_slots(gld_judgement *j)
{
    for (int64_t i = 0; j->slots && i < j->n_slots; ++i) {
        gld_slot *s = &j->slots[i];
        free(s->value);
        free(s->local);
        free(s->emulated2);
        free(s->column);
        free(s->row);
        free(s->word);
        free(s->result);
        free(s->unit);
        free(s->skip);
        fh1_gauge_free(&s->gauge);
    }
    free(j->slots);
    j->slots = NULL;
    j->n_slots = 0;
}

/* The causes of the first divergence, while the call that shows it is at hand. */
static fh1_status explain(gld_judgement *j)
{
    fh1_suspect list[GLD_MOST_SUSPECTS];
    int n = 0;
    if (!j->failed || j->first.step != j->step || !j->o->make_faulty) return NULL;
    FH1_TRY(gld_explain(j, gld_find_slot(j, j->first.id, j->first.layer < 0 ? 0 : j->first.layer), list, &n));
    return fh1_report_suspects(j->report, list, n, NULL);
}

static fh1_status keep_cache_before(gld_judgement *j)
{
    if (j->failed || !j->o->make_faulty) return NULL;
    fh1_cache_free(j->before);
    j->before = NULL;
    return fh1_cache_clone(j->local_cache, &j->before);
}

static fh1_status judge_step(gld_judgement *j, const fh1_tokens *tokens)
{
    FH1_TRY(keep_cache_before(j));
    FH1_TRY(gld_run_step(j, j->truth, j->free_cache, RUN_FREE, 0));
    FH1_TRY(gld_run_step(j, j->truth, j->local_cache, RUN_LOCAL, 0));
    for (int i = 0; i < j->n_members; ++i) FH1_TRY(gld_run_step(j, j->emulated, j->member_cache[i], RUN_EMULATED, i));
    for (int64_t i = 0; i < j->n_slots; ++i) {
        gld_slot *s = &j->slots[i];
        if (fh1_tap_is_cache(s->tap->id)) FH1_TRY(gld_read_cache_slot(j, s));
        if (!s->judged) continue;
        s->why = no_loss(s, &gld_current(j)->batch, tokens);
        if (!s->why && !s->value) s->why = "no engine computes it for this input";
    }
    fh1_parallel_for(j->n_slots, 1, judge_slots, j);
    for (int64_t i = 0; i < j->n_slots; ++i) {
        gld_slot *s = &j->slots[i];
        if (s->judged) FH1_TRY(s->why ? skip(j, s, s->why) : report_slot(j, s, tokens));
    }
    FH1_TRY(explain(j));
    for (int64_t i = 0; i < j->n_slots; ++i)
        if (fh1_tap_is_cache(j->slots[i].tap->id)) FH1_TRY(gld_import_judged(j, &j->slots[i]));
    gld_note_known(j);
    return NULL;
}

/* Whether every call has every tap of the layers: then each recorded tap is one op away from its inputs. */
static bool complete(const gld_judgement *j)
{
    const int64_t all = FH1_TAP_INPUT_LAYERNORM + (FH1_TAP_LAYER - FH1_TAP_INPUT_LAYERNORM + 1) * j->c->n_layers +
                        FH1_TAP_LOGITS - FH1_TAP_FINAL_LAYERNORM + 1;
    for (int64_t i = 0; i < j->trace->n_steps; ++i) {
        int64_t n = 0;
        for (int64_t k = 0; k < j->trace->steps[i].n_taps; ++k) {
            const fh1_tap_id id = j->trace->steps[i].taps[k].id;
            n += !fh1_tap_is_cache(id) && id != FH1_TAP_LOSS;
        }
        if (n < all) return false;
    }
    return true;
}

static fh1_status open_engines(gld_judgement *j)
{
    const gld_judge_options *o = j->o;
    const int64_t B = j->trace->steps[0].batch.B;
    const size_t n = (size_t)(j->c->n_layers * GLD_PARTS);
    if (!(j->known = malloc(n * sizeof *j->known))) return fh1_no_memory(n * sizeof *j->known, "a judgement");
    /* An empty cache is known. A mixer that computes on padding leaves what no trace records. */
    const bool pads = (o->variants & FH1_VAR_PADS_IN_MIXER) && B == 1 && j->trace->steps[0].batch.mask;
    for (size_t i = 0; i < n; ++i) j->known[i] = !pads || (int)i % GLD_PARTS < FH1_CACHE_CONV;
    FH1_TRY(fh1_gauge_cache_new(j->c, B, &j->errors));
    j->truth = o->make_engine("ref-f64", fh1_profile_find("exact"), o->variants);
    if (!j->truth) return fh1_no_memory(sizeof *j->truth, "the truth");
    FH1_TRY(gld_books_new(j->c, B, &j->books_config, &j->books));
    FH1_TRY(fh1_cache_new(j->c, FH1_F64, B, &j->free_cache));
    FH1_TRY(fh1_cache_new(j->c, FH1_F64, B, &j->local_cache));
    if (o->profile->storage == FH1_F64) return NULL;
    j->emulated = o->make_engine("ref-bf16", o->profile, o->variants); /* that name: scans in chunks */
    if (!j->emulated) return fh1_no_memory(sizeof *j->emulated, "the emulated pipeline");
    const int n_members = complete(j) ? 1 : MEMBERS;
    while (j->n_members < n_members) {
        FH1_TRY(fh1_cache_new(j->c, FH1_F32, B, &j->member_cache[j->n_members]));
        ++j->n_members;
    }
    return NULL;
}

static void close_engines(gld_judgement *j)
{
    if (j->truth) j->truth->free(j->truth);
    if (j->emulated) j->emulated->free(j->emulated);
    fh1_cache_free(j->books);
    fh1_cache_free(j->free_cache);
    fh1_cache_free(j->local_cache);
    fh1_cache_free(j->before);
    for (int i = 0; i < j->n_members; ++i) fh1_cache_free(j->member_cache[i]);
    fh1_gauge_cache_free(&j->errors);
    free(j->known);
}

fh1_status gld_judge(const gld_trace *t, const gld_judge_options *o, fh1_report *report)
{
    gld_judge_options own = *o; /* with the profile as this model's family has it */
    own.profile = fh1_profile_for(o->profile, &o->model->config);
    gld_judgement j = {.o = &own, .trace = t, .report = report, .c = &o->model->config, .scaled = FH1_TAP_COUNT};
    fh1_status s = gld_trace_check_inputs(t, j.c);
    if (!s) s = open_engines(&j);
    for (j.step = 0; !s && j.step < t->n_steps; ++j.step) {
        const fh1_batch *b = &t->steps[j.step].batch;
        fh1_tokens tokens = {0};
        j.one_token = b->T == 1 && j.books->n_cols > 0;
        s = fh1_tokens_pack(b, j.c->V, j.books, &tokens);
        if (!s) s = fh1_cache_prepare(j.books, &tokens);
        if (!s) {
            fh1_cache_commit(j.books, &tokens);
            s = open_slots(&j);
        }
        if (!s) s = judge_step(&j, &tokens);
        if (s) s = fh1_where(s, "step %lld", (long long)j.step);
        close_slots(&j);
        fh1_tokens_free(&tokens);
    }
    close_engines(&j);
    return s;
}
