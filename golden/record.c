#include "golden/record.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One engine on one cache; with `out`, its taps go there. */
typedef struct {
    fh1_engine *e;
    const fh1_model *m;
    gld_record_options opt;
    fh1_cache *cache;
    gld_trace *out;
    int64_t n_logits; /* of the running call */
    bool one_token;   /* a one-token step on a cache */
} recorder;

/* -- taps -------------------------------------------------------------------------------------- */

static bool wanted(const recorder *r, fh1_tap_id id, int64_t layer)
{
    if (r->opt.no_cache_taps && fh1_tap_is_cache(id)) return false;
    return gld_taps_match(r->m->config.family, r->opt.taps, id, layer);
}

static fh1_dtype stored_as(const recorder *r, fh1_tap_id id)
{
    if (r->opt.store != FH1_DTYPE_COUNT) return r->opt.store;
    return fh1_profile_tap_dtype(r->e->profile, id, r->one_token, &r->m->config);
}

/* The engine promises packed rows, [M, …], of its own type. */
static fh1_status check_event(const recorder *r, const fh1_tap_event *ev)
{
    int64_t rows = ev->kept && ev->value.rank > 0 ? ev->value.shape[0] : ev->tokens->M;
    fh1_tensor expected = fh1_tap_packed_shape(&r->m->config, ev->id, rows);
    bool good = fh1_same_shape(&ev->value, &expected) && fh1_is_dense(&ev->value);
    for (int64_t k = 0; good && ev->kept && k < rows; k++) good = ev->kept[k] >= 0 && ev->kept[k] < ev->tokens->M;
    if (good) return NULL;
    char name[FH1_TAP_NAME_SIZE], text[160];
    fh1_status s = fh1_fail(FH1_E_INTERNAL, "engine %s hands out %s in a wrong layout", r->e->name,
                            fh1_tap_name(r->m->config.family, ev->id, ev->layer, name));
    s = fh1_expected(s, "%s", fh1_shape_text(&expected, text, sizeof text));
    return fh1_found(s, "%s", fh1_shape_text(&ev->value, text, sizeof text));
}

static fh1_tensor row_of(const fh1_tensor *t, int64_t row, int64_t width)
{
    size_t size = (size_t)fh1_dtype_bits(t->dtype) / 8;
    return fh1_view1((char *)t->data + (size_t)(row * width) * size, t->dtype, width);
}

/* Packed rows to their places in [B, columns, …], the last `columns` of T; rounds to the stored type. */
static void scatter(const fh1_tap_event *ev, int64_t columns, const fh1_tensor *to)
{
    int64_t rows = ev->value.shape[0], width = rows > 0 ? fh1_n_elems(&ev->value) / rows : 0;
    for (int64_t k = 0; k < rows; k++) {
        int64_t m = ev->kept ? ev->kept[k] : k;
        int64_t col = ev->tokens->col[m] - (ev->tokens->T - columns);
        if (col < 0) continue;
        fh1_tensor src = row_of(&ev->value, k, width);
        fh1_tensor dst = row_of(to, ev->tokens->row[m] * columns + col, width);
        fh1_copy(&dst, &src);
    }
}

static fh1_status on_tap(void *user, const fh1_tap_event *ev)
{
    recorder *r = user;
    if (!wanted(r, ev->id, ev->layer)) return NULL;
    int64_t B = ev->tokens->B, T = ev->tokens->T, columns = ev->id == FH1_TAP_LOGITS ? r->n_logits : T;
    fh1_tensor shape = fh1_tap_shape(&r->m->config, ev->id, B, T, r->n_logits, 0), view;
    if (ev->id != FH1_TAP_LOSS) FH1_TRY(check_event(r, ev));
    FH1_TRY(gld_trace_add_tap(r->out, ev->id, ev->layer, stored_as(r, ev->id), &shape, &view));
    if (ev->id == FH1_TAP_LOSS) fh1_set(&view, 0, fh1_get(&ev->value, 0));
    else scatter(ev, columns, &view);
    return NULL;
}

static fh1_status record_cache(recorder *r)
{
    for (int64_t layer = 0; layer < r->m->config.n_layers; layer++) {
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; part++) {
            fh1_tap_id id = (fh1_tap_id)(FH1_TAP_CACHE_KEY + part);
            fh1_tensor shape = fh1_cache_shape(r->cache, (fh1_cache_part)part), view;
            if (!fh1_tap_exists(&r->m->config, id) || !wanted(r, id, layer)) continue; /* Falcon-Mamba has no keys */
            FH1_TRY(gld_trace_add_tap(r->out, id, layer, stored_as(r, id), &shape, &view));
            FH1_TRY(fh1_cache_export(r->cache, layer, (fh1_cache_part)part, &view));
        }
    }
    return NULL;
}

/* -- calls ------------------------------------------------------------------------------------- */

static fh1_status recorder_open(recorder *r, fh1_engine *e, const fh1_model *m, int64_t B,
                                const gld_record_options *opt, gld_trace *out)
{
    static const gld_record_options all = {.store = FH1_DTYPE_COUNT};
    *r = (recorder){.e = e, .m = m, .opt = opt ? *opt : all, .out = out};
    assert(r->opt.store == FH1_DTYPE_COUNT || fh1_dtype_is_float(r->opt.store));
    if (out) memset(out, 0, sizeof *out);
    FH1_TRY(gld_taps_check(r->opt.taps, &m->config));
    FH1_TRY(fh1_engine_open(e, m));
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, B, &r->cache));
    if (!out) return NULL;
    FH1_TRY(gld_trace_new(out));
    out->family = m->config.family;
    snprintf(out->path, sizeof out->path, "%s", e->name);
    snprintf(out->contract, sizeof out->contract, "%s", e->profile->name);
    snprintf(out->producer, sizeof out->producer, "fh1 %s", e->name);
    const fh1_variant_info *v;
    for (int i = 0; (v = fh1_variant_at(i)); i++) {
        size_t used = strlen(out->variant);
        if (e->variants & v->bit)
            snprintf(out->variant + used, sizeof out->variant - used, "%s%s", used ? "," : "", v->name);
    }
    return NULL;
}

static void recorder_close(recorder *r, fh1_status s)
{
    fh1_cache_free(r->cache);
    if (s && r->out) gld_trace_free(r->out);
}

static fh1_status call(recorder *r, const fh1_batch *b, int64_t n_logits, void *logits)
{
    const fh1_tap_sink sink = {.user = r, .tap = on_tap};
    r->n_logits = n_logits;
    r->one_token = b->T == 1 && r->cache->n_cols > 0;
    if (r->out) FH1_TRY(gld_trace_add_step(r->out, b));
    FH1_TRY(r->e->forward(r->e, r->m, b, r->cache, n_logits, logits, r->out ? &sink : NULL));
    return r->out ? record_cache(r) : NULL;
}

/* T' when nothing else asks for logits: all of them if they are recorded or the loss needs them. */
static int64_t columns_recorded(const recorder *r, const fh1_batch *b)
{
    bool loss = b->labels && wanted(r, FH1_TAP_LOSS, 0);
    return r->out && (loss || wanted(r, FH1_TAP_LOGITS, 0)) ? b->T : 1;
}

fh1_status gld_record_like(fh1_engine *e, const fh1_model *m, const gld_trace *like, const gld_record_options *opt,
                           gld_trace *out)
{
    recorder r;
    fh1_status s = recorder_open(&r, e, m, like->n_steps > 0 ? like->steps[0].batch.B : 1, opt, out);
    for (int64_t j = 0; j < like->n_steps && !s; j++) {
        const gld_step *step = &like->steps[j];
        int64_t n = step->n_logits > 0 ? step->n_logits : columns_recorded(&r, &step->batch);
        s = call(&r, &step->batch, n, NULL);
        if (s) s = fh1_where(s, "step %lld", (long long)j);
    }
    recorder_close(&r, s);
    return s;
}

/* -- greedy decoding --------------------------------------------------------------------------- */

typedef struct {
    recorder *r;
    int64_t B, T, n;
    int64_t *block;     /* owns the arrays below */
    int64_t *last_col;  /* [B] last real column of the prompt */
    int64_t *next;      /* [B] position of the row's next token */
    int64_t *ids;       /* [B] the next tokens */
    int64_t *positions; /* [B, T] counted positions of the prompt */
    int64_t *mask;      /* [B, T + n], filled up to the running call */
    bool has_positions, padded;
    int64_t n_logits; /* of the prompt's call */
    void *logits;     /* [B, n_logits, V] */
} decoder;

static fh1_status decoder_room(decoder *d)
{
    int64_t width = 0, n = 0, n_bytes = 0;
    if (d->n > INT64_MAX / 4 - d->T || !fh1_mul_i64(d->B, 3 + 2 * d->T + d->n, &n) ||
        !fh1_mul_i64(n, sizeof *d->block, &n_bytes))
        return FH1_BAD("%lld tokens for %lld rows are too many", (long long)d->n, (long long)d->B);
    d->block = calloc((size_t)n, sizeof *d->block);
    if (!d->block) return fh1_no_memory((size_t)n_bytes, "the inputs of greedy decoding");
    d->last_col = d->block;
    d->next = d->last_col + d->B;
    d->ids = d->next + d->B;
    d->positions = d->ids + d->B;
    d->mask = d->positions + d->B * d->T;

    bool fits = fh1_mul_i64(d->B * d->n_logits, d->r->m->config.V, &width) &&
                fh1_mul_i64(width, fh1_dtype_bits(d->r->e->dtype) / 8, &n_bytes);
    d->logits = fits ? malloc((size_t)n_bytes) : NULL;
    return d->logits ? NULL : fh1_no_memory(fits ? (size_t)n_bytes : SIZE_MAX, "logits");
}

/* What the prompt says about each row. */
static fh1_status read_rows(decoder *d, const fh1_tokens *t)
{
    for (int64_t b = 0; b < d->B; b++) {
        int64_t end = t->row_begin[b + 1];
        if (end == t->row_begin[b]) {
            fh1_status s = FH1_BAD("row %lld of the prompt has no token to go on from", (long long)b);
            return fh1_hint(s, "give every row at least one token that the mask does not cover");
        }
        d->last_col[b] = t->col[end - 1];
        d->next[b] = t->position[end - 1] + 1;
        if (d->padded && !d->has_positions) d->next[b] = end - t->row_begin[b];
        for (int64_t col = 0; col < d->T; col++) {
            int64_t p = col - t->n_left[b];
            d->positions[b * d->T + col] = p < 0 ? 0 : p < d->next[b] ? p : d->next[b] - 1;
        }
    }
    return NULL;
}

static fh1_status decoder_open(decoder *d, recorder *r, const fh1_batch *prompt, const fh1_tokens *t, int64_t n)
{
    *d = (decoder){.r = r, .B = prompt->B, .T = prompt->T, .n = n, .has_positions = prompt->positions};
    int64_t needed = 1; /* after right padding a row's last logits lie before the last column */
    for (int64_t b = 0; b < d->B; b++) {
        d->padded |= t->n_left[b] > 0 || t->n_right[b] > 0;
        if (t->n_right[b] >= needed) needed = t->n_right[b] + 1;
    }
    d->n_logits = columns_recorded(r, prompt);
    if (d->n_logits < needed) d->n_logits = needed;
    FH1_TRY(decoder_room(d));
    return read_rows(d, t);
}

/* Chooses every row's token from the logits of a call with `columns` of them, after its column `col`. */
static fh1_status choose(decoder *d, int64_t step, int64_t columns, const int64_t *col, int64_t *tokens)
{
    fh1_engine *e = d->r->e;
    const int64_t V = d->r->m->config.V;
    const size_t row_bytes = (size_t)(V * (fh1_dtype_bits(e->dtype) / 8));
    for (int64_t b = 0; b < d->B; b++) {
        const int64_t row = b * columns + (col ? col[b] - (d->T - columns) : 0);
        FH1_TRY(e->ops->sample(e, 1, V, (const char *)d->logits + (size_t)row * row_bytes, &d->ids[b]));
        if (d->ids[b] < 0) {
            fh1_status s = fh1_fail(FH1_E_WRONG, "the logits of engine %s are NaN", e->name);
            return fh1_where(s, "step %lld, row %lld", (long long)step, (long long)b);
        }
        if (tokens) tokens[b * d->n + step] = d->ids[b];
    }
    return NULL;
}

/* The one-token batch of step k + 1; its arrays are the decoder's. */
static fh1_batch next_batch(decoder *d, const fh1_batch *prompt, int64_t k)
{
    fh1_batch b = {.B = d->B, .T = 1, .ids = d->ids};
    if (prompt->mask) {
        b.mask = d->mask;
        b.mask_len = d->T + k + 1;
        for (int64_t row = 0; row < d->B; row++)
            for (int64_t col = 0; col < b.mask_len; col++)
                d->mask[row * b.mask_len + col] = col < d->T ? prompt->mask[row * d->T + col] : 1;
    }
    if (d->has_positions || d->padded) {
        for (int64_t row = 0; row < d->B; row++) d->positions[row] = d->next[row] + k;
        b.positions = d->positions;
    }
    return b;
}

static fh1_status decode(decoder *d, const fh1_batch *prompt, int64_t *tokens)
{
    fh1_batch first = *prompt;
    if (d->padded && !first.positions) first.positions = d->positions;
    fh1_status s = call(d->r, &first, d->n_logits, d->logits);
    if (s) return fh1_where(s, "step 0");
    int64_t runs = d->r->out ? d->n : d->n - 1; /* the last token need not be run for itself */
    for (int64_t k = 0; k < d->n; k++) {
        FH1_TRY(choose(d, k, k == 0 ? d->n_logits : 1, k == 0 ? d->last_col : NULL, tokens));
        if (k == runs) break;
        fh1_batch b = next_batch(d, prompt, k);
        s = call(d->r, &b, 1, d->logits);
        if (s) return fh1_where(s, "step %lld", (long long)k + 1);
    }
    return NULL;
}

fh1_status gld_record_greedy(fh1_engine *e, const fh1_model *m, const fh1_batch *prompt, int64_t n,
                             const gld_record_options *opt, int64_t *tokens, gld_trace *out)
{
    assert(n >= 0);
    recorder r;
    decoder d = {.block = NULL};
    fh1_tokens t = {0};
    if (out) memset(out, 0, sizeof *out);
    FH1_TRY(fh1_tokens_pack(prompt, m->config.V, NULL, &t));
    fh1_status s = recorder_open(&r, e, m, prompt->B, opt, out);
    if (!s) s = decoder_open(&d, &r, prompt, &t, n);
    if (!s) s = decode(&d, prompt, tokens);
    free(d.block);
    free(d.logits);
    fh1_tokens_free(&t);
    recorder_close(&r, s);
    return s;
}
