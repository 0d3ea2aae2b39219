/* Laws of the operations on a cache: a snapshot is the moment it was taken, a fork leaves its parent alone, a reorder
 * moves everything a row remembers, a reset is a new cache, a truncation keeps all or nothing. What only moves memory
 * keeps every bit. */
#include "golden/law_impl.h"

static const int64_t more[] = {3, 1}; /* the calls after the operation */

static fh1_status go_on(law_session *s, const int64_t *text)
{
    FH1_TRY(gld_session_feed(s, text, more[0]));
    return gld_session_feed(s, text + more[0], more[1]);
}

static fh1_status take_row(const law_session *s, law_side *out)
{
    return gld_session_take(s, 0, 0, -1, true, true, out);
}

/* ---- snapshot: taken at p, restored twice, and into a cache that had seen something else ---- */

/* The next n tokens of texts a and b. */
static fh1_status feed_two(law_session *s, const int64_t *a, const int64_t *b, int64_t n)
{
    return gld_session_rows(s, (law_row[]){{a, 0, n, 0}, {b, 0, n, 0}}, 0);
}

static fh1_status take_two(const law_session *s, law_side *out)
{
    for (int64_t row = 0; row < 2; ++row) FH1_TRY(gld_session_take(s, row, 0, -1, true, true, out));
    return NULL;
}

/* out NULL: nobody looks. */
static fh1_status go_on_two(law_session *s, const int64_t *a, const int64_t *b, law_side *out)
{
    FH1_TRY(feed_two(s, a, b, more[0]));
    FH1_TRY(feed_two(s, a, b, more[1]));
    return out ? take_two(s, out) : NULL;
}

/* Two rows: each must come back to its own place. */
static fh1_status snapshot_at(law_run *r, fh1_engine *e, law_road road, int64_t p, law_side *out)
{
    const int64_t *a = r->text[0], *b = r->text[3];
    law_session *s, *snapshot, *other;
    FH1_TRY(gld_session_open(r, e, 2, &s));
    FH1_TRY(feed_two(s, a, b, p));
    if (road == LAW_LEFT) { /* nothing happens; compared three times */
        FH1_TRY(go_on_two(s, a, b, out));
        for (int i = 0; i < 2; ++i) FH1_TRY(take_two(s, out));
        return NULL;
    }
    FH1_TRY(gld_session_fork(r, s, &snapshot));
    if (road == LAW_PLANTED) FH1_TRY(gld_session_forget(snapshot));
    FH1_TRY(go_on_two(s, r->text[1], r->text[2], NULL));
    for (int again = 0; again < 2; ++again) {
        FH1_TRY(gld_session_restore(s, snapshot));
        FH1_TRY(go_on_two(s, a, b, out));
    }
    FH1_TRY(gld_session_open(r, e, 2, &other));
    FH1_TRY(feed_two(other, r->text[2], r->text[1], p + 2));
    FH1_TRY(gld_session_restore(other, snapshot));
    return go_on_two(other, a, b, out);
}

static fh1_status walk_snapshot(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = fh1_scan_chunk(&r->m->config);
    FH1_TRY(snapshot_at(r, e, road, 1, out)); /* the window is not full */
    return snapshot_at(r, e, road, Q < r->T ? Q : r->T / 2, out);
}

fh1_status gld_law_snapshot(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->cache_ops) return gld_law_skip(r, "the engine has no operations on its cache");
    return gld_law_judge(a, walk_snapshot, LAW_ALL, NULL, r);
}

/* ---- fork: parent and child go on with words of their own ---- */

/* `child_first`: who writes first into what might be shared. */
static fh1_status fork_at(law_run *r, fh1_engine *e, law_road road, bool child_first, law_side *out)
{
    const int64_t n = r->T / 2;
    law_session *parent, *child;
    FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){n, 0}, &parent));
    if (road == LAW_LEFT) { /* two rows that never met */
        FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){n, 0}, &child));
    } else {
        FH1_TRY(gld_session_fork(r, parent, &child));
        if (road == LAW_PLANTED) {
            FH1_TRY(gld_session_forget(parent));
            FH1_TRY(gld_session_forget(child));
        }
    }
    if (child_first) FH1_TRY(go_on(child, r->text[1]));
    FH1_TRY(go_on(parent, r->text[0] + n));
    if (!child_first) FH1_TRY(go_on(child, r->text[1]));
    FH1_TRY(take_row(parent, out));
    return take_row(child, out);
}

static fh1_status walk_fork(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    FH1_TRY(fork_at(r, e, road, true, out));
    return fork_at(r, e, road, false, out);
}

fh1_status gld_law_fork(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->cache_ops) return gld_law_skip(r, "the engine has no operations on its cache");
    return gld_law_judge(a, walk_fork, LAW_ALL, NULL, r);
}

/* ---- reorder: three beams become (2, 2, 0, 1), then (3, 1, 0) ---- */

/* Bit for bit in what lies in the cache right after each move; within rounding against rows that were alone. */
static fh1_status walk_reorder(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t spread[] = {2, 2, 0, 1}, wrong[] = {0, 1, 2, 0}, compact[] = {3, 1, 0};
    const int64_t n = r->T / 2 < 7 ? r->T / 2 : 7;
    const int64_t *from = road == LAW_PLANTED ? wrong : spread;
    law_session *s, *alone;
    law_row rows[LAW_ROWS];
    for (int b = 0; b < 3; ++b) rows[b] = (law_row){r->text[b], 0, n, 0};
    FH1_TRY(gld_session_open(r, e, 3, &s));
    FH1_TRY(gld_session_rows(s, rows, 0));
    if (road == LAW_LEFT)
        for (int b = 0; b < 4; ++b) FH1_TRY(gld_session_take(s, spread[b], 0, -1, true, true, out));
    if (road == LAW_LEFT) { /* each beam alone, in the order of the last move */
        for (int b = 0; b < 3; ++b) {
            FH1_TRY(gld_session_solo(r, e, r->text[spread[compact[b]]], (int64_t[]){n, 0}, &alone));
            FH1_TRY(gld_session_feed(alone, r->text[compact[b]] + n, 3));
            FH1_TRY(gld_session_feed(alone, r->text[b] + n + 3, 1));
            FH1_TRY(gld_session_take(alone, 0, 0, -1, true, false, out));
        }
        return NULL;
    }
    FH1_TRY(gld_session_reorder(r, s, from, 4));
    for (int b = 0; b < 4; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, true, out));
    for (int b = 0; b < 4; ++b) rows[b] = (law_row){r->text[b], 0, 3, 0};
    FH1_TRY(gld_session_rows(s, rows, 0));
    FH1_TRY(gld_session_reorder(r, s, compact, 3));
    for (int b = 0; b < 3; ++b) rows[b] = (law_row){r->text[b], 0, 1, 0};
    FH1_TRY(gld_session_rows(s, rows, 0));
    for (int b = 0; b < 3; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    return NULL;
}

fh1_status gld_law_reorder(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->cache_ops) return gld_law_skip(r, "the engine has no operations on its cache");
    return gld_law_judge(a, walk_reorder, LAW_ALL, NULL, r);
}

/* ---- reset: a used cache is a new one ---- */

/* Large positions and a later document were in it: both must be forgotten. */
static fh1_status walk_reset(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t first[] = {1, 3, r->T / 2}, n = r->T / 2;
    int64_t far_away[GLD_LAW_TOKENS], doc[GLD_LAW_TOKENS];
    for (int64_t t = 0; t < n; ++t) far_away[t] = 4 * r->T + t, doc[t] = t < n / 2 ? 3 : 4;
    for (size_t i = 0; i < sizeof first / sizeof *first; ++i) {
        law_session *s;
        FH1_TRY(gld_session_open(r, e, 1, &s));
        if (road != LAW_LEFT) {
            const fh1_batch used = {.B = 1, .T = n, .ids = r->text[1], .positions = far_away, .seq_idx = doc};
            FH1_TRY(gld_session_call(s, &used));
            gld_session_reset(s);
        }
        const int64_t *text = r->text[road == LAW_PLANTED];
        FH1_TRY(gld_session_feed(s, text, first[i]));
        FH1_TRY(gld_session_feed(s, text + first[i], 1));
        FH1_TRY(take_row(s, out));
    }
    return NULL;
}

fh1_status gld_law_reset(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->cache_ops) return gld_law_skip(r, "the engine has no operations on its cache");
    return gld_law_judge(a, walk_reset, LAW_ALL, NULL, r);
}

/* ---- truncate: to all tokens or to none; the state of other moments is gone ---- */

/* FH1_E_WRONG where a rollback is accepted whose state the engine cannot have. */
static fh1_status refuses_rollbacks(fh1_engine *e, law_session *s, int64_t row)
{
    const int64_t n = s->n[row], to[] = {-1, 1, n - 1, n + 1};
    for (size_t i = 0; i < sizeof to / sizeof *to; ++i) {
        fh1_status st = e->cache_ops->truncate(s->cache, row, to[i]);
        if (!st)
            return fh1_fail(FH1_E_WRONG, "a cut to %lld of %lld tokens was accepted: their state is gone",
                            (long long)to[i], (long long)n);
        if (st->code == FH1_E_INTERNAL) return st;
    }
    return NULL;
}

static fh1_status walk_truncate(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t n = r->T / 2;
    const law_row first[] = {{r->text[0], 0, n, 0}, {r->text[1], 0, n, 0}};
    const int64_t *again = road == LAW_PLANTED ? r->text[3] : r->text[2];
    law_session *s, *alone;
    FH1_TRY(gld_session_open(r, e, 2, &s));
    FH1_TRY(gld_session_rows(s, first, 0));
    if (road != LAW_LEFT) {
        FH1_TRY(e->cache_ops->truncate(s->cache, 1, n)); /* nothing to do */
        if (e->cache_ops != r->a->truth->cache_ops || e == r->a->engine) FH1_TRY(refuses_rollbacks(e, s, 1));
    }
    for (int b = 0; b < 2; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, true, out));
    if (road == LAW_LEFT) {
        FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){n, 2, 0}, &alone));
        FH1_TRY(gld_session_take(alone, 0, 0, -1, true, false, out));
        FH1_TRY(gld_session_solo(r, e, r->text[2], (int64_t[]){2, 0}, &alone));
        return gld_session_take(alone, 0, 0, -1, true, false, out);
    }
    FH1_TRY(e->cache_ops->truncate(s->cache, 1, 0)); /* its old columns are padding from now on */
    for (int64_t i = 0; i < s->n_cols; ++i) s->real[1][i] = 0;
    s->n[1] = 0;
    s->padded = true;
    FH1_TRY(gld_session_rows(s, (law_row[]){{r->text[0], 0, 2, 0}, {again, 0, 2, 0}}, 0));
    FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
    return gld_session_take(s, 1, 0, -1, true, false, out);
}

fh1_status gld_law_truncate(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->cache_ops) return gld_law_skip(r, "the engine has no operations on its cache");
    return gld_law_judge(a, walk_truncate, LAW_ALL, NULL, r);
}
