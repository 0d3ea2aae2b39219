/* Makes traffic of any moves: numbers are folded into what is possible where they stand, the rest is dropped. What is
 * possible already stays, so that a second repair changes nothing. */
#include "golden/traffic_impl.h"

#include <string.h>

typedef struct {
    int64_t columns, cells;
    traffic_state state;
} limits;

/* least <= most. */
static int64_t fold(int64_t v, int64_t least, int64_t most)
{
    if (v >= least && v <= most) return v;
    const int64_t n = most - least + 1, rest = v % n;
    return least + (rest < 0 ? rest + n : rest);
}

/* A cache that is there, this one or the next; -1: none but `not`. */
static int some_cache(const traffic_state *s, int64_t wanted, int not )
{
    const int first = (int)fold(wanted, 0, GLD_TRAFFIC_CACHES - 1);
    for (int i = 0; i < GLD_TRAFFIC_CACHES; i++) {
        const int c = (first + i) % GLD_TRAFFIC_CACHES;
        if (c != not &&s->cache[c].there) return c;
    }
    return -1;
}

/* Columns that a call on this cache may have. */
static int64_t room(const limits *b, const traffic_cache *c)
{
    const int64_t columns = b->columns - c->columns, cells = (b->cells - b->state.cells) / c->rows;
    return columns < cells ? columns : cells;
}

static void repair_cuts(const gld_move *m, int b, gld_move *out)
{
    const int64_t n = out->n[b] ? fold(m->n_cuts[b], 0, GLD_TRAFFIC_CUTS) : 0;
    for (int64_t i = 0; i < n; i++) { /* rising, each once */
        const int64_t v = fold(m->cut[b][i], 0, out->n[b] - 1);
        int64_t at = 0;
        while (at < out->n_cuts[b] && out->cut[b][at] < v) at++;
        if (at < out->n_cuts[b] && out->cut[b][at] == v) continue;
        for (int64_t k = out->n_cuts[b]; k > at; k--) out->cut[b][k] = out->cut[b][k - 1];
        out->cut[b][at] = v;
        out->n_cuts[b]++;
    }
}

static bool repair_call(const limits *l, const traffic_cache *c, const gld_move *m, gld_move *out)
{
    const int64_t most = room(l, c);
    if (most < 1) return false;
    for (int b = 0; b < c->rows; b++) {
        out->n[b] = fold(m->n[b], 0, most);
        out->left[b] = fold(m->left[b], 0, most - out->n[b]);
        out->right[b] = fold(m->right[b], 0, most - out->n[b] - out->left[b]);
    }
    if (gld_move_columns(out, c->rows) == 0) out->n[0] = 1;
    for (int b = 0; b < c->rows; b++) repair_cuts(m, b, out);
    return true;
}

/* Drafts and what is fed again. */
static bool repair_speculation(const limits *l, const traffic_cache *c, const gld_move *m, gld_move *out)
{
    const int64_t columns = l->columns - c->columns, cells = (l->cells - l->state.cells) / c->rows / 2;
    const int64_t most = columns < cells ? columns : cells;
    if (most < 1) return false;
    out->count = fold(m->count, 1, most);
    for (int b = 0; b < c->rows; b++) out->n[b] = fold(m->n[b], 0, out->count);
    return true;
}

static bool repair_two(const limits *b, const gld_move *m, gld_move *out)
{
    if (m->kind == GLD_MOVE_RESTORE) {
        out->other = some_cache(&b->state, m->other, out->cache);
        return out->other >= 0;
    }
    out->other = (int)fold(m->other, 0, GLD_TRAFFIC_CACHES - 1);
    if (out->other == out->cache) out->other = (out->cache + 1) % GLD_TRAFFIC_CACHES;
    return true;
}

static bool repair_row(const traffic_cache *c, const gld_move *m, gld_move *out)
{
    out->row = fold(m->row, 0, c->rows - 1);
    if (out->kind == GLD_MOVE_RESTART) return true;
    if (c->stored[out->row] < 2) return false;
    out->count = fold(m->count, 1, c->stored[out->row] - 1);
    return true;
}

/* false: dropped. `out` is zeroed but for its kind. */
static bool repair_move(const limits *b, const gld_move *m, gld_move *out)
{
    if (out->kind == GLD_MOVE_NEW) {
        out->cache = (int)fold(m->cache, 0, GLD_TRAFFIC_CACHES - 1);
        out->rows = (int)fold(m->rows, 1, GLD_TRAFFIC_ROWS);
        return true;
    }
    out->cache = some_cache(&b->state, m->cache, -1);
    if (out->cache < 0) return false;
    const traffic_cache *c = &b->state.cache[out->cache];
    switch (out->kind) {
    case GLD_MOVE_CALL: return repair_call(b, c, m, out);
    case GLD_MOVE_STEPS:
        if (room(b, c) < 1) return false;
        out->count = fold(m->count, 1, room(b, c));
        return true;
    case GLD_MOVE_COPY:
    case GLD_MOVE_RESTORE: return repair_two(b, m, out);
    case GLD_MOVE_REORDER:
        out->rows = (int)fold(m->rows, 1, GLD_TRAFFIC_ROWS);
        for (int i = 0; i < out->rows; i++) out->n[i] = fold(m->n[i], 0, c->rows - 1);
        return true;
    case GLD_MOVE_RESTART:
    case GLD_MOVE_ROLLBACK: return repair_row(c, m, out);
    case GLD_MOVE_SPECULATE: return repair_speculation(b, c, m, out);
    default: return true;
    }
}

void gld_traffic_repair_within(gld_traffic *t, int64_t columns, int64_t cells)
{
    limits b = {.columns = columns, .cells = cells};
    const int n = (int)fold(t->n, 0, GLD_TRAFFIC_MOVES);
    t->n = 0;
    for (int i = 0; i < n; i++) {
        gld_move m = {.kind = (gld_move_kind)fold((int64_t)t->move[i].kind, 0, GLD_MOVE_COUNT - 1)};
        gld_move from = t->move[i];
        from.kind = m.kind;
        if (!repair_move(&b, &from, &m)) continue;
        if (gld_traffic_step(&b.state, &m)) continue; /* cannot be: what was repaired can be done */
        t->move[t->n++] = m;
    }
    if (t->n == 0) t->move[t->n++] = (gld_move){.kind = GLD_MOVE_NEW, .rows = 1};
    memset(&t->move[t->n], 0, (size_t)(GLD_TRAFFIC_MOVES - t->n) * sizeof *t->move);
}

void gld_traffic_repair(gld_traffic *t)
{
    gld_traffic_repair_within(t, GLD_TRAFFIC_REPAIRED_COLUMNS, GLD_TRAFFIC_REPAIRED_CELLS);
}
