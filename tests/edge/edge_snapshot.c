/* Snapshots: taken anywhere, put back anywhere, as often as one likes. */
#include "tests/edge/edge_moves.h"

#include <string.h>

/* ---- D-36: restored in other places ---- */

static fh1_status go_on(law_run *run, law_session *s)
{
    for (int64_t call = 0; call < 3; ++call) FH1_TRY(edge_feed_all(run, s, 0, call == 0 ? 3 : 1));
    return NULL;
}

enum { GO_ON = 5 };

/* What p tokens and those of go_on leave: by the same calls, bit for bit, and by one call of each row alone. */
static fh1_status uninterrupted(law_run *run, fh1_engine *e, int64_t B, int64_t p, law_side *out)
{
    static const int64_t turn[] = {2, 0, 1};
    law_session *s;
    FH1_TRY(edge_open(run, e, B, 0, p, &s));
    for (int64_t b = 0; B == 3 && b < B; ++b) FH1_TRY(gld_session_take(s, turn[b], 0, -1, true, true, out));
    FH1_TRY(go_on(run, s));
    for (int place = edge_slow(run->data); place < 2; ++place) FH1_TRY(edge_take_all(s, true, out));
    for (int64_t b = 0; b < B; ++b) FH1_TRY(edge_take_alone(run, e, run->text[b], p + GO_ON, out));
    return NULL;
}

/* In a new cache and in one that had seen other words; with three rows each in another slot, too. */
static fh1_status elsewhere(law_run *run, fh1_engine *e, int64_t B, law_session *snapshot, law_side *out)
{
    law_session *s;
    if (B == 3) {
        FH1_TRY(edge_open(run, e, B, 3, 2, &s));
        FH1_TRY(gld_session_restore(s, snapshot));
        FH1_TRY(gld_session_reorder(run, s, (int64_t[]){2, 0, 1}, B));
        FH1_TRY(edge_take_all(s, true, out));
    }
    for (int place = edge_slow(run->data); place < 2; ++place) {
        FH1_TRY(edge_open(run, e, B, 3, place ? snapshot->n[0] + 2 : 0, &s));
        FH1_TRY(gld_session_restore(s, snapshot));
        FH1_TRY(go_on(run, s));
        FH1_TRY(edge_take_all(s, true, out));
    }
    return edge_take_all(s, false, out);
}

static fh1_status restored_at(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t p, law_side *out)
{
    law_session *s, *snapshot;
    gld_sessions_close(run);
    if (road == LAW_LEFT) return uninterrupted(run, e, B, p, out);
    FH1_TRY(edge_open(run, e, B, 0, p, &s));
    FH1_TRY(gld_session_fork(run, s, &snapshot));
    if (edge_mistake(run, e, road, "empty_snapshot")) FH1_TRY(gld_session_forget(snapshot));
    FH1_TRY(edge_feed_all(run, s, 4, 2)); /* the original goes elsewhere */
    return elsewhere(run, e, B, snapshot, out);
}

static fh1_status walk_restored(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = edge_chunk(run);
    FH1_TRY(restored_at(run, e, road, 3, Q, out));
    if (edge_slow(run->data)) return NULL;
    FH1_TRY(restored_at(run, e, road, 1, Q, out));
    FH1_TRY(restored_at(run, e, road, 1, 2 * Q, out));
    return restored_at(run, e, road, 3, 2 * Q, out);
}

fh1_status edge_snapshot_restored(edge_run *r)
{
    return edge_walks(r, 24, walk_restored, LAW_ALL);
}

/* ---- D-37: at lengths that are on no grid ---- */

static const int64_t off_grid[] = {1, 2, 3, 5, 7, 9, 13, 15, 17, 21};
enum { N_OFF_GRID = sizeof off_grid / sizeof *off_grid };

/* One pass over the text that leaves a snapshot at each length; then each is hit by somebody else. The state of a hit
 * is looked up by a number of its own: a manager that computes it with the blocks of the keys gets another moment. */
static fh1_status hits(law_run *run, fh1_engine *e, law_road road, int64_t B, const int *which, int n, law_side *out)
{
    law_session *s, *pool[N_OFF_GRID];
    gld_sessions_close(run);
    if (road == LAW_LEFT) {
        for (int i = 0; i < n; ++i) FH1_TRY(uninterrupted(run, e, B, off_grid[which[i]], out));
        return NULL;
    }
    for (int i = 0; i < n; ++i) {
        /* each length by one call, so that the bits are those of the left road */
        FH1_TRY(edge_open(run, e, B, 0, off_grid[which[i]], &s));
        FH1_TRY(gld_session_fork(run, s, &pool[i]));
    }
    for (int i = n - 1; i >= 0; --i)
        if (edge_mistake(run, e, road, "state_index_of_the_key_blocks"))
            FH1_TRY(edge_copy_all(pool[i], pool[i / 2], EDGE_MEMORY));
    for (int i = 0; i < n; ++i) FH1_TRY(elsewhere(run, e, B, pool[i], out));
    return NULL;
}

static fh1_status walk_anywhere(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    if (edge_slow(run->data)) return hits(run, e, road, 3, (int[]){1, 5}, 2, out);
    FH1_TRY(hits(run, e, road, 1, (int[]){0, 1, 2, 3}, 4, out));
    FH1_TRY(hits(run, e, road, 3, (int[]){2, 4, 6}, 3, out));
    FH1_TRY(hits(run, e, road, 1, (int[]){5, 7}, 2, out));
    return hits(run, e, road, 3, (int[]){1, 8, 9}, 3, out);
}

fh1_status edge_snapshot_anywhere(edge_run *r)
{
    return edge_walks(r, 28, walk_anywhere, LAW_MEMORY);
}

/* ---- D-38: several requests in one prefill, each with an aligned length of its own ---- */

static const int64_t request[] = {20, 27, 36}, aligned[] = {16, 24, 32}, rest[] = {4, 3, 4};

/* Where a grid that runs over the rows laid end to end puts row b's last border. */
static int64_t on_the_flat_grid(int64_t b, int64_t Q)
{
    int64_t offset = 0;
    for (int64_t i = 0; i < b; ++i) offset += request[i];
    return (offset + aligned[b]) / Q * Q - offset;
}

/* One row at its aligned length, and at the end with a step behind it. */
static fh1_status take_request(law_run *run, law_session *s, int b, law_side *out)
{
    FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
    FH1_TRY(edge_feed_all(run, s, b, rest[b]));
    FH1_TRY(edge_feed_all(run, s, b, 1));
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

static fh1_status walk_requests(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    law_session *batch, *snapshot, *row, *s;
    if (road == LAW_LEFT) {
        for (int b = 0; b < 3; ++b) {
            FH1_TRY(gld_session_solo(run, e, run->text[b], (int64_t[]){aligned[b], 0}, &s));
            FH1_TRY(take_request(run, s, b, out));
        }
        for (int b = 0; b < 3; ++b) FH1_TRY(edge_take_alone(run, e, run->text[b], request[b], out));
        return NULL;
    }
    FH1_TRY(gld_session_open(run, e, 3, &batch));
    FH1_TRY(edge_feed(run, batch, 0, aligned));
    FH1_TRY(gld_session_fork(run, batch, &snapshot));
    FH1_TRY(edge_feed(run, batch, 0, rest)); /* the requests themselves go on */
    for (int b = 0; b < 3; ++b) {
        FH1_TRY(edge_alone(run, snapshot, b, &row));
        FH1_TRY(edge_open(run, e, 1, 4, 2, &s));
        FH1_TRY(gld_session_restore(s, row));
        if (b > 0 && edge_mistake(run, e, road, "grid_of_the_flattened_batch")) {
            law_session *wrong;
            const int64_t at = on_the_flat_grid(b, edge_chunk(run));
            FH1_TRY(gld_session_solo(run, e, run->text[b], (int64_t[]){at, 0}, &wrong));
            FH1_TRY(edge_copy_parts(s, 0, wrong, 0, EDGE_MEMORY));
        }
        FH1_TRY(take_request(run, s, b, out));
    }
    return edge_take_all(batch, false, out);
}

fh1_status edge_snapshots_of_a_batch(edge_run *r)
{
    return edge_walks(r, 40, walk_requests, LAW_MEMORY);
}

/* ---- D-39: one token left, none left ---- */

/* A call of no tokens is refused, and nothing moves. Asked of the judged engine. */
static fh1_status refuses_nothing(law_run *run, law_session *s)
{
    if (s->e != run->a->engine) return NULL;
    const fh1_batch none = {.B = s->B, .T = 0, .ids = run->text[0]};
    fh1_status st = s->e->forward(s->e, s->m, &none, s->cache, 0, NULL, NULL);
    if (st && st->code == FH1_E_INPUT) return NULL;
    if (st) return st;
    return fh1_fail(FH1_E_WRONG, "a call of no tokens was accepted");
}

/* The whole prompt of n tokens is cached. There is nothing to run and no logits to give: the server must go back to the
 * snapshot of n - 1 tokens and say the last one again. */
static fh1_status none_left(law_run *run, fh1_engine *e, law_road road, law_session *before, law_session *all,
                            law_session **s)
{
    const int64_t n = all->n[0];
    law_session *other;
    FH1_TRY(edge_open(run, e, all->B, 4, n + 1, &other));
    FH1_TRY(edge_open(run, e, all->B, 4, 1, s));
    FH1_TRY(gld_session_restore(*s, all));
    FH1_TRY(refuses_nothing(run, *s));
    FH1_TRY(gld_session_restore(*s, before));
    /* keys can be dropped, a state cannot: the last token enters it twice */
    if (edge_wrong(run, e, road, "last_token_fed_again")) FH1_TRY(edge_copy_all(*s, all, EDGE_MEMORY));
    FH1_TRY(edge_feed_all(run, *s, 0, 1));
    if (edge_wrong(run, e, road, "stale_logits_with_nothing_left"))
        memcpy((*s)->logits[0] + (n - 1) * all->kept, other->logits[0] + n * all->kept,
               (size_t)all->kept * sizeof(double));
    return NULL;
}

static fh1_status hit(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t n, law_side *out)
{
    law_session *s, *before, *all;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, n - 1, &s));
    if (road == LAW_LEFT) { /* the prefix and one token; each row in one call */
        if (n > 1) FH1_TRY(edge_take_all(s, true, out));
        FH1_TRY(edge_feed_all(run, s, 0, 1));
        for (int i = 0; i < 2; ++i) FH1_TRY(edge_take_all(s, true, out));
        for (int64_t b = 0; b < B; ++b) FH1_TRY(edge_take_alone(run, e, run->text[b], n, out));
        return NULL;
    }
    FH1_TRY(gld_session_fork(run, s, &before));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(gld_session_fork(run, s, &all));
    FH1_TRY(edge_open(run, e, B, 4, 3, &s));
    FH1_TRY(gld_session_restore(s, before));
    FH1_TRY(refuses_nothing(run, s));
    if (road == LAW_PLANTED) FH1_TRY(gld_session_forget(s));
    if (n > 1) FH1_TRY(edge_take_all(s, true, out));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(edge_take_all(s, true, out));
    FH1_TRY(none_left(run, e, road, before, all, &s));
    FH1_TRY(edge_take_all(s, true, out));
    return edge_take_all(s, false, out);
}

static fh1_status walk_hits(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t K = run->m->config.K, Q = edge_chunk(run), length[] = {Q + 1, 1, 2, K, Q, 2 * Q + 1};
    if (edge_slow(run->data)) return hit(run, e, road, 1, length[0], out);
    for (size_t i = 0; i < sizeof length / sizeof *length; ++i)
        for (int64_t B = 1; B <= 3; B += 2) FH1_TRY(hit(run, e, road, B, length[i], out));
    return NULL;
}

fh1_status edge_almost_all_cached(edge_run *r)
{
    return edge_walks(r, 20, walk_hits, LAW_ALL);
}

/* ---- D-40: the same snapshot again and again ---- */

static fh1_status twice(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t p, const int64_t *calls,
                        law_side *out)
{
    law_session *s, *snapshot;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, p, &s));
    if (road == LAW_LEFT) {
        FH1_TRY(edge_take_all(s, true, out));
        for (const int64_t *n = calls; *n > 0; ++n) FH1_TRY(edge_feed_all(run, s, 0, *n));
        for (int again = 0; again < 2; ++again) FH1_TRY(edge_take_all(s, true, out));
        for (int64_t b = 0; b < B; ++b) FH1_TRY(edge_take_alone(run, e, run->text[b], s->n[b], out));
        return NULL;
    }
    FH1_TRY(gld_session_fork(run, s, &snapshot));
    fh1_status st = NULL;
    for (int again = 0; again < 2 && !st; ++again) {
        st = gld_session_restore(s, snapshot);
        for (const int64_t *n = calls; *n > 0 && !st; ++n) {
            st = edge_feed_all(run, s, 0, *n);
            /* a call shorter than the window writes it into the block that it shares with the snapshot */
            const bool shared = edge_mistake(run, e, road, "short_call_writes_into_the_shared_block");
            if (!st && shared && *n < run->m->config.K - 1) st = edge_copy_all(snapshot, s, EDGE_WINDOW);
        }
        if (again == 0 && !st) st = edge_take_all(snapshot, true, out);
        if (!st) st = edge_take_all(s, true, out);
    }
    if (!st) st = edge_take_all(s, false, out);
    return st;
}

static fh1_status walk_twice(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t calls[][4] = {{1, 1, 1, 0}, {2, 1, 0}, {3, 2, 0}, {9, 0}};
    const int64_t Q = edge_chunk(run), p[] = {2, 13, Q};
    if (edge_slow(run->data)) return twice(run, e, road, 3, 2, calls[1], out);
    for (int i = 0; i < 3; ++i)
        for (int c = 0; c < 4; ++c) FH1_TRY(twice(run, e, road, (i + c) % 2 ? 1 : 3, p[i], calls[c], out));
    return NULL;
}

fh1_status edge_snapshot_twice(edge_run *r)
{
    return edge_walks(r, 24, walk_twice, LAW_BIT(FH1_TAP_CACHE_CONV));
}
