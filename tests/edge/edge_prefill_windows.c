/* Windows and the snapshots that hold them: what is in them after each call, and who may write there. */
#include "tests/edge/edge_prefill.h"

#include <math.h>
#include <string.h>

/* ---- D-02: what a window holds ---- */

/* The columns of the window of a layer, oldest first, as f64 [c, K-1]. */
static fh1_status window_of(const fh1_cache *c, int64_t row, int64_t layer, double *out)
{
    void *raw = malloc((size_t)fh1_cache_row_elems(c, row, FH1_CACHE_CONV) * 8);
    if (!raw) return fh1_no_memory(0, "a window");
    fh1_status s = fh1_cache_row_read(c, row, layer, FH1_CACHE_CONV, raw);
    if (!s) fh1_to_f64(out, raw, c->dtype, fh1_cache_row_elems(c, row, FH1_CACHE_CONV));
    free(raw);
    return s;
}

/* What a layer's window must hold: x, B, C of in_proj times their multipliers, before conv and activation. */
typedef struct {
    const fh1_config *c;
    double *column; /* [n_layers, room, conv_dim] */
    int64_t room, n;
    const edge_run *r;
} columns_seen;

static fh1_status keep_columns(void *user, const fh1_tap_event *e)
{
    columns_seen *seen = user;
    const fh1_config *c = seen->c;
    const int64_t width = fh1_conv_dim(c), GN = c->G * c->N;
    const bool post_conv = edge_plants(seen->r, "window_of_activations");
    if (e->id != (post_conv ? FH1_TAP_CONV_ACT : FH1_TAP_IN_PROJ)) return NULL;
    const int64_t rows = e->value.shape[0], from = post_conv ? width : fh1_in_proj_dim(c);
    for (int64_t t = 0; t < rows; ++t) {
        double *to = seen->column + (e->layer * seen->room + seen->n + t) * width;
        fh1_to_f64(to,
                   (const char *)e->value.data +
                       (t * from + (post_conv ? 0 : fh1_in_proj_conv(c))) * (e->value.dtype == FH1_F64 ? 8 : 4),
                   e->value.dtype, width);
        for (int64_t j = 0; !post_conv && j < width; ++j)
            to[j] *= c->m_ssm[j < c->d_ssm ? 1 : j < c->d_ssm + GN ? 2 : 3];
    }
    return NULL;
}

/* The window holds the last K-1 columns that the engine itself showed at in_proj, times the multiplier: what lies
 * between is that product alone, rounded in the engine's arithmetic and then to its storage, and the multiplier, which
 * may be held in the storage type: two roundings to storage and one of arithmetic, each at most an ulp of the product.
 * Zeros before the first token. */
static fh1_status judge_window(edge_run *r, const fh1_engine *e, const fh1_cache *cache, const columns_seen *seen)
{
    const fh1_config *c = seen->c;
    const int64_t width = fh1_conv_dim(c), W = c->K - 1;
    const fh1_dtype store = fh1_profile_tap_dtype(e->profile, FH1_TAP_IN_PROJ, false, c);
    double *window = malloc((size_t)(width * W) * sizeof *window);
    if (!window) return fh1_no_memory(0, "a window");
    fh1_status s = NULL;
    for (int64_t layer = 0; layer < c->n_layers && !s; ++layer) {
        s = window_of(cache, 0, layer, window);
        for (int64_t i = 0; i < W * width && !s; ++i) {
            const int64_t t = seen->n - W + i % W, j = i / W;
            const double want = t < 0 ? 0 : seen->column[(layer * seen->room + t) * width + j];
            const double off = fabs(window[i] - want), allowed = 3 * fh1_dtype_ulp(store, want);
            if (t < 0 ? window[i] != 0 : !(off <= allowed))
                s = edge_require(r, false,
                                 "after %lld tokens column %lld of the window of layer %lld, channel %lld, is "
                                 "%.9g, in_proj gave %.9g",
                                 (long long)seen->n, (long long)(i % W), (long long)layer, (long long)j, window[i],
                                 want);
        }
    }
    free(window);
    return s ? s : edge_require(r, true, "the window");
}

/* Calls of `calls` tokens; after each the window is the last K-1 columns. */
static fh1_status watch_window(edge_run *r, const fh1_model *m, const int64_t *calls)
{
    const fh1_config *c = &m->config;
    columns_seen seen = {.c = c, .room = 40, .r = r};
    const fh1_tap_sink sink = {.user = &seen, .tap = keep_columns};
    int64_t ids[40];
    fh1_engine *e;
    fh1_cache *cache = NULL;
    edge_ids(r, "window", 0, c->V, 40, ids);
    FH1_TRY(edge_engine(r, m, &e));
    if (!(seen.column = calloc((size_t)(c->n_layers * seen.room * fh1_conv_dim(c)), sizeof(double))))
        return fh1_no_memory(0, "columns");
    fh1_status s = fh1_cache_new(c, e->dtype, 1, &cache);
    for (; *calls > 0 && !s; ++calls) {
        s = e->forward(e, m, &(fh1_batch){.B = 1, .T = *calls, .ids = ids + seen.n}, cache, 0, NULL, &sink);
        seen.n += *calls;
        if (!s) s = judge_window(r, e, cache, &seen);
    }
    fh1_cache_free(cache);
    free(seen.column);
    return s;
}

static fh1_status windows(edge_run *r, const fh1_model *m, void *data)
{
    (void)data;
    for (int i = 0; i < EDGE_LENGTHS; ++i) {
        const int64_t n = edge_lengths[i], calls[] = {n > 0 ? n : 1, 1, 1, 1, 1, 1, 0};
        if (!edge_is_slow(r)) FH1_TRY(watch_window(r, m, calls));
    }
    return watch_window(r, m, (const int64_t[]){2, 3, 2, 9, 0});
}

fh1_status edge_windows(edge_run *r)
{
    return edge_each_model(r, windows, NULL);
}

/* ---- D-06: short calls in the middle and at the end, and the snapshot before them ---- */

/* A manager that lets a short call write its window into the block it came from. */
static fh1_status write_to_source(const law_session *s, const law_session *snapshot)
{
    for (int64_t layer = 0; layer < s->m->config.n_layers; ++layer) {
        void *window = malloc((size_t)fh1_cache_row_elems(s->cache, 0, FH1_CACHE_CONV) * 8);
        if (!window) return fh1_no_memory(0, "a window");
        fh1_status st = fh1_cache_row_read(s->cache, 0, layer, FH1_CACHE_CONV, window);
        if (!st) st = fh1_cache_row_write(snapshot->cache, 0, layer, FH1_CACHE_CONV, window);
        free(window);
        if (st) return st;
    }
    return NULL;
}

typedef struct {
    edge_run *r;
    int64_t call[6]; /* the first, then those that start from a snapshot; 0 ends */
} short_calls;

/* The next call of a session, and what the snapshot before it has become: it goes on by the same words. */
static fh1_status short_call(law_run *r, law_road road, const short_calls *k, law_session *s, int64_t n, int64_t more,
                             law_side *out)
{
    law_session *snapshot;
    FH1_TRY(gld_session_fork(r, s, &snapshot));
    if (road == LAW_PLANTED && n > 0) {
        FH1_TRY(gld_session_forget(s));
        FH1_TRY(gld_session_forget(snapshot));
    }
    FH1_TRY(gld_session_feed(s, r->text[0] + n, more));
    if (edge_plants(k->r, "short_call_writes_its_source") && s->e == r->a->engine && more < r->m->config.K - 1)
        FH1_TRY(write_to_source(s, snapshot));
    FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
    FH1_TRY(gld_session_take(snapshot, 0, 0, -1, true, false, out));
    FH1_TRY(gld_session_feed(snapshot, r->text[0] + n, more));
    return gld_session_take(snapshot, 0, 0, -1, true, false, out);
}

/* Left: the texts at once. Planted: row and snapshot forget what was before. */
static fh1_status walk_short_calls(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const short_calls *k = r->data;
    law_session *s, *before;
    int64_t n = 0;
    FH1_TRY(gld_session_open(r, e, 1, &s));
    before = s;
    for (int i = 0; k->call[i] > 0; n += k->call[i++]) {
        if (road != LAW_LEFT) {
            FH1_TRY(short_call(r, road, k, s, n, k->call[i], out));
            continue;
        }
        FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){n + k->call[i], 0}, &s));
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
        FH1_TRY(gld_session_take(before, 0, 0, -1, true, false, out));
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
        before = s;
    }
    return NULL;
}

static fh1_status short_calls_on(edge_run *r, const fh1_model *m, void *data)
{
    (void)data;
    /* 1 and 2 in the middle and at the end, behind a chunk that is whole, one short and one over */
    static const int64_t all[][6] = {{8, 1, 8, 2}, {7, 2, 7, 1}, {9, 1, 2, 1}, {2, 1, 2, 1}, {1, 2, 1, 2}};
    const size_t n = edge_is_slow(r) ? 1 : sizeof all / sizeof *all;
    for (size_t i = 0; i < n; ++i) {
        short_calls k = {.r = r};
        memcpy(k.call, all[i], sizeof k.call);
        if (edge_is_slow(r)) k.call[0] = 2, k.call[2] = 0;
        FH1_TRY(edge_law(r, m, 20, walk_short_calls, LAW_ALL, &k));
    }
    return NULL;
}

fh1_status edge_short_chunks(edge_run *r)
{
    return edge_each_model(r, short_calls_on, NULL);
}
