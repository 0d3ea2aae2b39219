/* Speculation by snapshots: several drafts are verified in one call, some of them are accepted, and the cache must be
 * that of a plain decode. */
#include "tests/edge/edge_moves.h"

#include <string.h>

enum { MOST_DRAFTS = 5, ROOM = 160 };

/* One verification: the next token of each row and k drafts, of which the row's own j are right. */
typedef struct {
    int64_t k, j[LAW_ROWS];
} verification;

/* Call the k + 1 tokens; logits of all of them are in the books afterwards. */
static fh1_status call_drafts(law_run *run, law_session *s, const verification *v)
{
    int64_t text[LAW_ROWS][ROOM];
    law_row rows[LAW_ROWS];
    for (int64_t b = 0; b < s->B; ++b) {
        const int64_t right = s->n[b] + 1 + v->j[b];
        memcpy(text[b], run->text[b], (size_t)(s->n[b] + v->k + 1) * sizeof **text);
        for (int64_t i = right; i < s->n[b] + v->k + 1; ++i) text[b][i] = gld_other_id(run, text[b][i]);
        rows[b] = (law_row){text[b], 0, v->k + 1, 0};
    }
    return gld_session_rows(s, rows, 0);
}

/* Verify, then go back to the moment before and say again what was accepted; a row that had all right would not have to
 * go back, but its neighbours do. `seen` (NULL: nobody looks) takes the logits, keys and values by which one accepts.
 * The mistakes: what the drafts made of the memory stays, or of the window alone. */
static fh1_status speculate(law_run *run, fh1_engine *e, law_road road, law_session *s, const verification *v,
                            law_side *seen)
{
    law_session *before, *verified;
    int64_t kept[LAW_ROWS], was[LAW_ROWS];
    bool all = true;
    memcpy(was, s->n, sizeof was);
    FH1_TRY(gld_session_fork(run, s, &before));
    FH1_TRY(call_drafts(run, s, v));
    for (int64_t b = 0; b < s->B; ++b) {
        kept[b] = v->j[b] + 1;
        all &= v->j[b] == v->k;
        if (seen) FH1_TRY(gld_session_take(s, b, was[b], kept[b], false, false, seen));
    }
    if (all) return NULL;
    FH1_TRY(gld_session_fork(run, s, &verified));
    FH1_TRY(gld_session_restore(s, before));
    FH1_TRY(edge_feed(run, s, 0, kept));
    if (edge_mistake(run, e, road, "state_after_all_drafts")) FH1_TRY(edge_copy_all(s, verified, EDGE_MEMORY));
    if (edge_wrong(run, e, road, "window_not_rolled_back")) FH1_TRY(edge_copy_all(s, verified, EDGE_WINDOW));
    return NULL;
}

/* The same tokens one by one. */
static fh1_status decode(law_run *run, law_session *s, const verification *v, law_side *seen)
{
    int64_t was[LAW_ROWS];
    memcpy(was, s->n, sizeof was);
    for (int64_t i = 0; i <= v->k; ++i) {
        int64_t n[LAW_ROWS];
        bool any = false;
        for (int64_t b = 0; b < s->B; ++b) any |= n[b] = i <= v->j[b];
        if (any) FH1_TRY(edge_feed(run, s, 0, n));
    }
    for (int64_t b = 0; seen && b < s->B; ++b) FH1_TRY(gld_session_take(s, b, was[b], v->j[b] + 1, false, false, seen));
    return NULL;
}

static fh1_status round_of(law_run *run, fh1_engine *e, law_road road, law_session *s, const verification *v,
                           law_side *seen)
{
    return road == LAW_LEFT ? decode(run, s, v, seen) : speculate(run, e, road, s, v, seen);
}

/* ---- D-51: j of k ---- */

static fh1_status accept(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t p, int64_t k, int64_t j,
                         law_side *out)
{
    law_session *s;
    verification v = {.k = k};
    for (int64_t b = 0; b < B; ++b) v.j[b] = (j + b) % (k + 1);
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, p, &s));
    FH1_TRY(round_of(run, e, road, s, &v, out));
    FH1_TRY(edge_take_all(s, false, out));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    return edge_take_all(s, false, out);
}

static fh1_status walk_drafts(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    if (edge_slow(run->data)) return accept(run, e, road, 3, 6, 3, 1, out); /* rows accept 1, 2 and 3 of 3 */
    for (int64_t k = 0; k <= MOST_DRAFTS; ++k) {
        for (int64_t j = 0; j <= k; ++j) FH1_TRY(accept(run, e, road, 1, 2 * k + j, k, j, out));
        FH1_TRY(accept(run, e, road, 3, 6, k, k / 2, out));
    }
    return NULL;
}

fh1_status edge_drafts(edge_run *r)
{
    return edge_walks(r, 24, walk_drafts, LAW_MEMORY);
}

/* ---- D-52: steps without drafts after two or more were accepted ---- */

/* The memory after each of the k + 1 tokens is kept in columns, as engines do that have no way back; the accepted
 * column is read, or column 0. */
static fh1_status by_columns(law_run *run, fh1_engine *e, law_road road, law_session *s, const verification *v)
{
    law_session *column[MOST_DRAFTS + 1];
    for (int64_t i = 0; i <= v->k; ++i) {
        verification first = {.k = i};
        for (int64_t b = 0; b < s->B; ++b) first.j[b] = v->j[b] < i ? v->j[b] : i;
        FH1_TRY(gld_session_fork(run, s, &column[i]));
        FH1_TRY(call_drafts(run, column[i], &first));
    }
    const int64_t j = v->j[0];
    FH1_TRY(gld_session_restore(s, column[j]));
    return edge_mistake(run, e, road, "column_0_after_acceptance") ? edge_copy_all(s, column[0], EDGE_MEMORY) : NULL;
}

static fh1_status then_plain(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t k, int64_t j, law_side *out)
{
    law_session *s;
    verification v = {.k = k}, again = {.k = 2};
    for (int64_t b = 0; b < B; ++b) v.j[b] = j, again.j[b] = 2;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, 6, &s));
    FH1_TRY(road == LAW_LEFT ? decode(run, s, &v, NULL) : by_columns(run, e, road, s, &v));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(edge_take_all(s, false, out));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(road == LAW_LEFT ? decode(run, s, &again, NULL) : by_columns(run, e, road, s, &again));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    return edge_take_all(s, false, out);
}

static fh1_status walk_after(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t kj[][2] = {{3, 2}, {2, 2}, {5, 2}, {5, 3}, {5, 5}};
    if (edge_slow(run->data)) return then_plain(run, e, road, 1, 3, 2, out);
    for (size_t i = 0; i < sizeof kj / sizeof *kj; ++i)
        for (int64_t B = 1; B <= 3; B += 2) FH1_TRY(then_plain(run, e, road, B, kj[i][0], kj[i][1], out));
    return NULL;
}

fh1_status edge_after_drafts(edge_run *r)
{
    return edge_walks(r, 24, walk_after, LAW_MEMORY);
}

/* ---- D-53: acceptance ends at a border ---- */

static fh1_status up_to(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t end, int64_t j, law_side *out)
{
    const int64_t Q = edge_chunk(run), k = MOST_DRAFTS;
    law_session *s, *block;
    verification v = {.k = k};
    for (int64_t b = 0; b < B; ++b) v.j[b] = j;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, end - 1 - j, &s));
    FH1_TRY(round_of(run, e, road, s, &v, NULL));
    if (end % Q == 0 && edge_mistake(run, e, road, "block_before_at_a_border")) {
        /* the block that ends here is full, the copy is taken from the one before it */
        FH1_TRY(edge_open(run, e, B, 0, end - Q, &block));
        FH1_TRY(edge_copy_all(s, block, EDGE_MEMORY));
    }
    FH1_TRY(edge_take_all(s, false, out));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(edge_feed_all(run, s, 0, 2));
    return edge_take_all(s, false, out);
}

static fh1_status walk_borders(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = edge_chunk(run);
    if (edge_slow(run->data)) return up_to(run, e, road, 1, Q, 2, out);
    for (int64_t end = Q - 1; end <= 2 * Q + 1; end += end == Q + 1 ? Q - 2 : 1)
        for (int64_t j = end % 2; j <= MOST_DRAFTS; j += 2) FH1_TRY(up_to(run, e, road, j < 2 ? 3 : 1, end, j, out));
    return NULL;
}

fh1_status edge_drafts_at_borders(edge_run *r)
{
    return edge_walks(r, 28, walk_borders, LAW_MEMORY);
}

/* ---- D-54: a prompt filled up with placeholders ---- */

/* Alone and without padding, or in the uniform shape of `shape` columns, saved at once, restored elsewhere. */
static fh1_status filled_up(law_run *run, fh1_engine *e, law_road road, const int64_t *n, int64_t B, law_side *out)
{
    const int64_t Q = edge_chunk(run);
    law_session *s, *saved;
    law_row rows[LAW_ROWS];
    int64_t shape = Q;
    gld_sessions_close(run);
    for (int64_t b = 0; b < B; ++b)
        while (shape < n[b]) shape += Q;
    if (road == LAW_LEFT) {
        for (int64_t b = 0; b < B; ++b) {
            FH1_TRY(gld_session_solo(run, e, run->text[b], (int64_t[]){n[b], 0}, &s));
            FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
            for (int step = 0; step < 2; ++step) FH1_TRY(edge_feed_all(run, s, (int)b, 1));
            FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
        }
        return NULL;
    }
    for (int64_t b = 0; b < B; ++b) rows[b] = (law_row){run->text[b], 0, n[b], shape - n[b]};
    FH1_TRY(gld_session_open(run, e, B, &s));
    FH1_TRY(gld_session_rows(s, rows, run->m->config.V - 1));
    if (edge_mistake(run, e, road, "placeholders_advance_the_state")) {
        int64_t text[LAW_ROWS][ROOM];
        law_session *over;
        for (int64_t b = 0; b < B; ++b) {
            for (int64_t i = 0; i < shape; ++i) text[b][i] = i < n[b] ? run->text[b][i] : run->m->config.V - 1;
            rows[b] = (law_row){text[b], 0, shape, 0};
        }
        FH1_TRY(gld_session_open(run, e, B, &over));
        FH1_TRY(gld_session_rows(over, rows, 0));
        FH1_TRY(edge_copy_all(s, over, EDGE_MEMORY));
    }
    FH1_TRY(gld_session_fork(run, s, &saved));
    for (int64_t b = 0; b < B; ++b) {
        FH1_TRY(edge_alone(run, saved, b, &s));
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
        for (int step = 0; step < 2; ++step) FH1_TRY(edge_feed_all(run, s, (int)b, 1));
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
    }
    return NULL;
}

static fh1_status walk_placeholders(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t n[][3] = {{7, 1, 9}, {2, 3, 8}, {13, 5, 17}};
    if (edge_slow(run->data)) return filled_up(run, e, road, (int64_t[]){2, 5}, 2, out);
    for (size_t i = 0; i < sizeof n / sizeof *n; ++i) {
        FH1_TRY(filled_up(run, e, road, n[i], 3, out));
        for (int b = 0; b < 3; ++b) FH1_TRY(filled_up(run, e, road, &n[i][b], 1, out));
    }
    return NULL;
}

fh1_status edge_placeholders(edge_run *r)
{
    return edge_walks(r, 28, walk_placeholders, LAW_MEMORY);
}
