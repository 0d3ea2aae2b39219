/* D-74, D-76: batches of any size and order, and how many logits are asked for. */
#include "tests/edge/edge_mixer.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- D-74 ---- */

/* Row 0 alone, or in a given place among others; then three steps. */
static fh1_status one_place(law_run *run, fh1_engine *e, int64_t B, int64_t place, bool planted, law_side *out)
{
    law_session *s;
    law_row rows[LAW_ROWS];
    FH1_TRY(gld_session_open(run, e, B, &s));
    for (int64_t call = 0; call < 3; ++call) {
        const int64_t n = call == 0 ? 9 : 1;
        for (int64_t b = 0; b < B; ++b) {
            int64_t text = b == place ? 0 : b == 0 ? place : b;
            if (planted && b == place) text = LAW_ROWS - 1; /* the neighbour's words */
            rows[b] = (law_row){run->text[text], 0, n, 0};
        }
        FH1_TRY(gld_session_rows(s, rows, 0));
    }
    return gld_session_take(s, place, 0, -1, true, false, out);
}

static fh1_status walk_batches(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t place[][2] = {{1, 0}, {2, 1}, {3, 0}, {3, 2}, {4, 2}}; /* rows, place */
    const edge_run *r = run->data;
    for (size_t i = 0; i < sizeof place / sizeof *place; ++i)
        if (!edge_is_cuda(r) || i == 3)
            FH1_TRY(road == LAW_LEFT ? one_place(run, e, 1, 0, false, out)
                                     : one_place(run, e, place[i][0], place[i][1], road == LAW_PLANTED, out));
    return NULL;
}

fh1_status edge_batch_sizes(edge_run *r)
{
    FH1_TRY(edge_law_all(r, 16, walk_batches, LAW_ALL, r));
    FH1_TRY(edge_named_law(r, "batch_permutation", 16));
    return edge_is_cuda(r) ? NULL : edge_named_law(r, "batch_mate", 16);
}

/* ---- D-76 ---- */

enum { ROWS = 3, COLUMNS = 9, MORE = 5, V_MOST = 64 };

/* transformers' logits_to_keep: 0 is all of them. */
static int64_t columns_of(const edge_run *r, int64_t keep, int64_t T)
{
    return keep == 0 && !edge_plants(r, "keep_0_is_none") ? T : keep;
}

typedef struct {
    const edge_run *r;
    const double *logits; /* [B, n, V] of the call */
    int64_t n, T, V, seen;
    bool good;
} index_form;

/* The tap tells by `kept` which tokens its rows are: the index form. Each is that token's row. */
static fh1_status by_index(void *user, const fh1_tap_event *ev)
{
    index_form *x = user;
    if (ev->id != FH1_TAP_LOGITS) return NULL;
    const int64_t rows = ev->value.shape[0];
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t m = ev->kept ? ev->kept[i] : i, col = ev->tokens->col[m] - (x->T - x->n);
        x->good &= col >= 0;
        for (int64_t v = 0; col >= 0 && v < x->V; ++v)
            x->good &= fh1_get(&ev->value, i * x->V + v) == x->logits[(ev->tokens->row[m] * x->n + col) * x->V + v];
    }
    x->seen += rows;
    return NULL;
}

typedef struct {
    int64_t ids[ROWS * COLUMNS], mask[ROWS * (COLUMNS + MORE)], positions[ROWS * COLUMNS];
    fh1_batch batch;
} call;

/* Row 0 whole, row 1 padded left by 2, row 2 right by 3; then MORE columns for each. */
static void make_call(const law_run *run, bool second, call *c)
{
    static const int64_t left[ROWS] = {0, 2, 0}, right[ROWS] = {0, 0, 3};
    const int64_t T = second ? MORE : COLUMNS, len = second ? COLUMNS + MORE : COLUMNS;
    for (int64_t b = 0; b < ROWS; ++b) {
        const int64_t before = second ? COLUMNS - left[b] - right[b] : 0;
        for (int64_t t = 0; t < len; ++t)
            c->mask[b * len + t] = t >= COLUMNS || (t >= left[b] && t < COLUMNS - right[b]);
        for (int64_t t = 0; t < T; ++t) {
            const int64_t at = second ? before + t : t < left[b] ? 0 : t - left[b];
            c->ids[b * T + t] = run->text[b][at];
            c->positions[b * T + t] = at;
        }
    }
    c->batch =
        (fh1_batch){.B = ROWS, .T = T, .ids = c->ids, .mask = c->mask, .mask_len = len, .positions = c->positions};
}

typedef struct {
    edge_run *r;
    int64_t keep;
} keeping;

/* The last `keep` columns of the logits [B, n, V] that were asked for; padding stays out. */
static fh1_status take_logits(const law_run *run, const edge_run *r, const call *c, const double *logits, int64_t n,
                              int64_t keep, law_side *out)
{
    const int64_t V = run->m->config.V, len = c->batch.mask_len;
    for (int64_t b = 0; b < ROWS; ++b) {
        const law_tensor like = {
            .id = FH1_TAP_LOGITS, .row = b, .n = keep, .width = V, .stride = 1, .fiber = V, .samples = keep};
        law_tensor *t;
        FH1_TRY(gld_side_add(out, &like, &t));
        for (int64_t k = 0; k < keep; ++k) {
            const int64_t from = edge_plants(r, "keeps_the_first_columns") ? k : n - keep + k;
            if (!c->mask[b * len + len - keep + k]) continue;
            memcpy(t->v + k * V, logits + (b * n + from) * V, (size_t)V * sizeof *t->v);
        }
    }
    return NULL;
}

/* What a cache holds may not depend on the logits: bit for bit. */
static fh1_status take_memory(const law_run *run, const fh1_cache *cache, law_side *out)
{
    const fh1_config *c = &run->m->config;
    double room[4096];
    for (int64_t b = 0; b < ROWS; ++b)
        for (int64_t l = 0; l < c->n_layers; ++l)
            for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
                const int64_t n = fh1_cache_row_elems(cache, b, (fh1_cache_part)part);
                const law_tensor like = {.id = (fh1_tap_id)(FH1_TAP_CACHE_KEY + part),
                                         .layer = l,
                                         .row = b,
                                         .first_token = -1,
                                         .n = 1,
                                         .width = n,
                                         .stride = 1,
                                         .fiber = 1,
                                         .samples = 1,
                                         .exact = true};
                law_tensor *t;
                if (n > (int64_t)(sizeof room / sizeof *room))
                    return fh1_fail(FH1_E_INTERNAL, "a cache larger than its room");
                FH1_TRY(gld_side_add(out, &like, &t));
                FH1_TRY(fh1_cache_row_read(cache, b, l, (fh1_cache_part)part, room));
                fh1_to_f64(t->v, room, cache->dtype, n);
            }
    return NULL;
}

static fh1_status run_call(law_run *run, fh1_engine *e, const keeping *k, law_road road, fh1_cache *cache, bool second,
                           law_side *out)
{
    const int64_t V = run->m->config.V;
    call c;
    make_call(run, second, &c);
    const int64_t T = c.batch.T, keep = k->keep > T || k->keep == 0 ? T : k->keep;
    const int64_t n = road == LAW_RIGHT ? columns_of(k->r, k->keep, T) : T, asked = n < T ? n : T;
    double *own = gld_law_room(run, ROWS * T * V), *logits = gld_law_room(run, ROWS * T * V);
    if (!own || !logits) return fh1_no_memory(0, "logits");
    FH1_TRY(e->forward(e, run->m, &c.batch, cache, asked, asked > 0 ? own : NULL, NULL));
    fh1_to_f64(logits, own, e->dtype, ROWS * asked * V);
    if (road == LAW_PLANTED)
        for (int64_t i = ROWS * T * V - 1; i >= V; --i) logits[i] = logits[i - V]; /* one column late */
    if (asked < keep) return take_logits(run, k->r, &c, logits, keep, keep, out);  /* zeros */
    return take_logits(run, k->r, &c, logits, asked, keep, out);
}

static fh1_status walk_kept(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const keeping *k = run->data;
    fh1_cache *cache = NULL;
    FH1_TRY(fh1_cache_new(&run->m->config, e->dtype, ROWS, &cache));
    fh1_status s = NULL;
    for (int second = 0; !s && second < 2; ++second) s = run_call(run, e, k, road, cache, second != 0, out);
    if (!s) s = take_memory(run, cache, out);
    fh1_cache_free(cache);
    return s;
}

/* A call that wants none leaves the same cache; and the tap's index form names the tokens whose rows it shows. */
static fh1_status index_and_none(edge_run *r, const fh1_model *m, int64_t n)
{
    static const int64_t ids[2 * COLUMNS] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3};
    static const int64_t mask[2 * COLUMNS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1};
    const fh1_batch b = {.B = 2, .T = COLUMNS, .ids = ids, .mask = mask, .mask_len = COLUMNS};
    const int64_t V = m->config.V;
    double own[2 * COLUMNS * V_MOST], logits[2 * COLUMNS * V_MOST];
    fh1_engine *e;
    fh1_cache *cache = NULL;
    index_form x = {.r = r, .logits = logits, .n = n, .T = COLUMNS, .V = V, .good = true};
    const fh1_tap_sink sink = {.user = &x, .tap = by_index};
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = fh1_cache_new(&m->config, e->dtype, 2, &cache);
    if (!s) s = e->forward(e, m, &b, cache, n, own, NULL);
    fh1_to_f64(logits, own, e->dtype, 2 * n * V);
    fh1_cache_free(cache);
    cache = NULL;
    if (!s) s = fh1_cache_new(&m->config, e->dtype, 2, &cache);
    if (!s) s = e->forward(e, m, &b, cache, n, NULL, &sink);
    fh1_cache_free(cache);
    if (!s)
        s = edge_require(r, x.good, "a row of the logits' tap is not that of the token it names, %lld kept",
                         (long long)n);
    const int64_t real = n + (n < COLUMNS - 2 ? n : COLUMNS - 2);
    return s ? s
             : edge_require(r, x.seen == real, "the tap shows %lld tokens, %lld are kept", (long long)x.seen,
                            (long long)real);
}

fh1_status edge_logits_kept(edge_run *r)
{
    static const int64_t keep[] = {0, 1, 2, 4, COLUMNS};
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        if (edge_is_cuda(r) && i == 0) continue;
        FH1_TRY(edge_model(r, edge_model_text(i), &m));
        fh1_status s = NULL;
        for (size_t k = 0; !s && k < sizeof keep / sizeof *keep; ++k) {
            keeping data = {r, keep[k]};
            s = edge_law(r, &m, 16, walk_kept, LAW_BIT(FH1_TAP_LOGITS), &data);
            if (!s && keep[k] > 0) s = index_and_none(r, &m, keep[k]);
            s = fh1_where(s, "logits_to_keep %lld", (long long)keep[k]);
        }
        if (!s) s = edge_check(r, &m, "p9x2l:0,2;d1", r->seed);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}
