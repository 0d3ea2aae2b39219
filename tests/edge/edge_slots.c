/* Slots of a pool: what nobody owns holds NaN, what is given out again is new, what pads a batch writes nowhere. */
#include "tests/edge/edge_moves.h"

#include <math.h>

/* ---- D-42: NaN wherever no live row is ---- */

/* Two of four rows are given out; the others are owned by nobody, and masked in every call. */
static fh1_status serve(law_run *run, law_session *s)
{
    law_session *snapshot;
    FH1_TRY(edge_feed(run, s, 0, (int64_t[]){6, 0, 0, 1}));
    FH1_TRY(edge_feed(run, s, 0, (int64_t[]){1, 0, 0, 1}));
    FH1_TRY(gld_session_fork(run, s, &snapshot));
    FH1_TRY(edge_feed(run, s, 0, (int64_t[]){0, 0, 0, 3}));
    FH1_TRY(gld_session_restore(s, snapshot));
    FH1_TRY(edge_feed(run, s, 0, (int64_t[]){5, 0, 0, 0})); /* over a chunk edge, and the window of row 3 waits */
    return edge_feed(run, s, 0, (int64_t[]){1, 0, 0, 1});
}

static const int64_t served[] = {13, 0, 0, 3};

/* The pool was in use. `poisoned`: its owner was careless, every part of every slot is NaN. */
static fh1_status used_pool(law_run *run, fh1_engine *e, bool poisoned, law_session **s)
{
    FH1_TRY(edge_open(run, e, 4, 4, 5, s));
    for (int64_t b = 0; poisoned && b < 4; ++b) FH1_TRY(edge_fill(*s, b, EDGE_PARTS, (double)NAN));
    return NULL;
}

/* `by_reset`: the whole pool is emptied and rows 1 and 2 get their NaN afterwards; otherwise rows 0 and 3 are
 * truncated. */
static fh1_status pool_of(law_run *run, fh1_engine *e, law_road road, bool by_reset, law_side *out)
{
    const bool poisoned = road != LAW_LEFT;
    law_session *s;
    gld_sessions_close(run);
    FH1_TRY(used_pool(run, e, poisoned, &s));
    if (by_reset) gld_session_reset(s);
    for (int64_t b = 0; b < 4; ++b) {
        const bool live = served[b] > 0;
        if (!live && by_reset && poisoned) FH1_TRY(edge_fill(s, b, EDGE_MEMORY, (double)NAN));
        if (live && !by_reset) FH1_TRY(edge_restart_row(s, b));
        if (live && edge_mistake(run, e, road, "slot_given_out_as_it_is")) FH1_TRY(edge_dirty(s, b, (double)NAN));
    }
    FH1_TRY(serve(run, s));
    for (int64_t b = 0; b < 4; b += 3) {
        FH1_TRY(gld_session_take(s, b, 0, -1, true, true, out));
        if (road == LAW_LEFT) FH1_TRY(edge_take_alone(run, e, run->text[b], served[b], out));
        else FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    }
    return NULL;
}

static fh1_status walk_pool(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    if (!edge_slow(run->data)) FH1_TRY(pool_of(run, e, road, true, out));
    return pool_of(run, e, road, false, out);
}

fh1_status edge_poisoned_pool(edge_run *r)
{
    return edge_walks(r, 20, walk_pool, LAW_MEMORY);
}

/* ---- D-43: a long request, then one of a single token in its slot ---- */

/* Three calls behind each other are the case of D-03; here they meet what 30 other words left. */
static fh1_status one_after(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t first, law_side *out)
{
    const int64_t who = B / 2, after_long = edge_slow(run->data) ? 12 : 30;
    law_session *s;
    int64_t before[3] = {after_long, B == 1 || road != LAW_LEFT ? after_long : 0, after_long};
    gld_sessions_close(run);
    FH1_TRY(gld_session_open(run, e, B, &s));
    if (B == 3 || road != LAW_LEFT) FH1_TRY(edge_feed(run, s, 4, before));
    if (road != LAW_LEFT) {
        if (B == 1) gld_session_reset(s);
        else FH1_TRY(edge_restart_row(s, who));
    }
    if (road == LAW_PLANTED) FH1_TRY(edge_dirty(s, who, 0.5));
    int64_t n[3] = {0};
    for (int call = 0; call < 3; ++call) { /* the neighbours wait */
        n[who] = call == 0 ? first : 1;
        FH1_TRY(edge_feed(run, s, 0, n));
    }
    FH1_TRY(gld_session_take(s, who, 0, -1, true, true, out));
    if (road == LAW_LEFT) return edge_take_alone(run, e, run->text[who], first + 2, out);
    return gld_session_take(s, who, 0, -1, true, false, out);
}

static fh1_status walk_again(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    for (int64_t B = 1; B <= 3; B += 2)
        for (int64_t first = 1; first <= (edge_slow(run->data) ? 1 : 2); ++first)
            FH1_TRY(one_after(run, e, road, B, first, out));
    return NULL;
}

fh1_status edge_slot_again(edge_run *r)
{
    return edge_walks(r, 40, walk_again, LAW_MEMORY);
}

/* ---- D-44: a decode batch padded to the shape of a graph ---- */

/* n[b] tokens for the live rows, which stand at `at` and behind; the others are padding that holds a stale id. */
static fh1_status live_call(law_run *run, law_session *s, int64_t at, int64_t B, const int64_t *n)
{
    law_row rows[LAW_ROWS];
    int64_t T = 0;
    for (int64_t b = 0; b < B; ++b) T = n[b] > T ? n[b] : T;
    for (int64_t b = 0; b < s->B; ++b) {
        const bool live = b >= at && b < at + B;
        rows[b] = live ? (law_row){run->text[b - at], 0, n[b - at], T - n[b - at]} : (law_row){run->text[7], T, 0, 0};
    }
    return gld_session_rows(s, rows, run->m->config.V - 1);
}

static fh1_status padded_step(law_run *run, fh1_engine *e, law_road road, law_session *s, int64_t at, int64_t B)
{
    law_session *dummy;
    const bool aliased = s->B > B && edge_mistake(run, e, road, "padding_row_aliases_a_live_slot");
    if (aliased) { /* the padding runs as a token there */
        FH1_TRY(edge_alone(run, s, at, &dummy));
        FH1_TRY(edge_feed_all(run, dummy, 7, 1));
    }
    FH1_TRY(live_call(run, s, at, B, (int64_t[]){1, 1, 1}));
    return aliased ? edge_copy_parts(s, at, dummy, 0, EDGE_MEMORY) : NULL;
}

/* The live rows, and the padding: empty slots. A fused kernel for steps may leave a batch with padding to the general
 * one, so that engines on a device keep the value and not every bit. */
static fh1_status take_shape(law_run *run, fh1_engine *e, const law_session *s, int64_t at, int64_t B, int64_t shape,
                             law_side *out)
{
    law_session *unused;
    for (int64_t b = 0; b < B; ++b) FH1_TRY(gld_session_take(s, at + b, 0, -1, true, !edge_slow(run->data), out));
    FH1_TRY(gld_session_open(run, e, 1, &unused));
    for (int64_t b = 0; b < shape - B; ++b) {
        const bool padded = s->B > B;
        FH1_TRY(gld_session_take(padded ? s : unused, padded ? b + (at == 0 ? B : 0) : 0, 0, -1, true, true, out));
    }
    return NULL;
}

typedef struct {
    int64_t B, shape;
    bool late;  /* the padding comes when the decoding begins: copies of row 0, emptied */
    bool front; /* it stands before the live rows */
} graph;

static fh1_status steps_in_shape(law_run *run, fh1_engine *e, law_road road, const graph *g, law_side *out)
{
    law_session *s;
    const bool padded = road != LAW_LEFT;
    const int64_t at = padded && g->front ? g->shape - g->B : 0;
    int64_t to_shape[LAW_ROWS] = {0}, back[LAW_ROWS];
    for (int64_t b = 0; b < g->B; ++b) to_shape[at + b] = b, back[b] = at + b;
    gld_sessions_close(run);
    FH1_TRY(gld_session_open(run, e, padded && !g->late ? g->shape : g->B, &s));
    FH1_TRY(live_call(run, s, g->late ? 0 : at, g->B, (int64_t[]){5, 2, 9}));
    if (padded && g->late) {
        FH1_TRY(gld_session_reorder(run, s, to_shape, g->shape));
        for (int64_t b = 0; b < g->shape; ++b)
            if (b < at || b >= at + g->B) FH1_TRY(edge_restart_row(s, b));
    }
    for (int step = 0; step < 3; ++step) FH1_TRY(padded_step(run, e, road, s, at, g->B));
    FH1_TRY(take_shape(run, e, s, at, g->B, g->shape, out));
    if (padded) FH1_TRY(gld_session_reorder(run, s, back, g->B)); /* the padding goes again */
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    return take_shape(run, e, s, 0, g->B, g->B, out);
}

static fh1_status walk_padded_steps(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    if (edge_slow(run->data)) return steps_in_shape(run, e, road, &(graph){3, 4, true, true}, out);
    for (int i = 0; i < 8; ++i) {
        const graph g = {i & 1 ? 3 : 1, i & 2 ? 8 : 4, i & 4, i == 1 || i == 2 || i == 4 || i == 7};
        FH1_TRY(steps_in_shape(run, e, road, &g, out));
    }
    return NULL;
}

fh1_status edge_padded_steps(edge_run *r)
{
    return edge_walks(r, 16, walk_padded_steps, LAW_MEMORY);
}
