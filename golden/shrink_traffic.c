/* What can be made smaller in traffic: moves, rows, tokens, padding, documents, letters. After each change the moves
 * behind it are repaired: what cannot be done any more goes, too. */
#include "golden/shrink_impl.h"
#include "golden/traffic_impl.h"

#include <string.h>

static gld_traffic *edited(gld_search *s)
{
    return &s->candidate->traffic;
}

static bool try_repaired(gld_search *s)
{
    gld_traffic_repair_within(edited(s), TRAFFIC_COLUMNS, INT64_MAX / 8);
    return gld_search_try(s);
}

static void drop_moves(gld_traffic *t, int first, int n)
{
    memmove(&t->move[first], &t->move[first + n], (size_t)(t->n - first - n) * sizeof *t->move);
    t->n -= n;
}

/* Runs of moves, long ones first, from the end: what is done with a cache goes before the cache. */
static void shrink_moves(gld_search *s)
{
    for (int n = s->best->traffic.n / 2; n > 0; n /= 2)
        for (int first = s->best->traffic.n - n; first >= 0 && !gld_search_over(s); first--) {
            if (first + n > s->best->traffic.n || s->best->traffic.n <= n) continue;
            drop_moves(edited(s), first, n);
            try_repaired(s);
        }
}

/* -- rows ---------------------------------------------------------------------------------------- */

static void drop_at(int64_t v[GLD_TRAFFIC_ROWS], int row)
{
    memmove(&v[row], &v[row + 1], (size_t)(GLD_TRAFFIC_ROWS - row - 1) * sizeof *v);
    v[GLD_TRAFFIC_ROWS - 1] = 0;
}

static void drop_row_of_reorder(gld_move *m, int row)
{
    int n = 0;
    for (int i = 0; i < m->rows; i++)
        if (m->n[i] != row) m->n[n++] = m->n[i] - (m->n[i] > row);
    m->rows = n;
}

/* Of every cache, as far as numbers of rows follow each other. */
static void drop_row(gld_traffic *t, int row)
{
    for (int i = 0; i < t->n; i++) {
        gld_move *m = &t->move[i];
        if (m->kind == GLD_MOVE_NEW) m->rows -= m->rows > 1;
        if (m->kind == GLD_MOVE_REORDER) {
            drop_row_of_reorder(m, row);
            continue;
        }
        drop_at(m->n, row);
        drop_at(m->left, row);
        drop_at(m->right, row);
        drop_at(m->n_cuts, row);
        memmove(m->cut[row], m->cut[row + 1 < GLD_TRAFFIC_ROWS ? row + 1 : row],
                (size_t)(GLD_TRAFFIC_ROWS - row - 1) * sizeof *m->cut);
        if (m->row > row) m->row--;
    }
}

static void shrink_rows(gld_search *s)
{
    for (int row = GLD_TRAFFIC_ROWS - 1; row >= 0; row--) {
        drop_row(edited(s), row);
        try_repaired(s);
    }
}

/* -- numbers: arg is move and row in one ---------------------------------------------------------- */

static gld_move *move_of(gld_search *s, int arg)
{
    return &edited(s)->move[arg / GLD_TRAFFIC_ROWS];
}

static void set_n(gld_search *s, int arg, int64_t v)
{
    move_of(s, arg)->n[arg % GLD_TRAFFIC_ROWS] = v;
    gld_traffic_repair_within(edited(s), TRAFFIC_COLUMNS, INT64_MAX / 8);
}

static void set_all_n(gld_search *s, int arg, int64_t v)
{
    int64_t *n = move_of(s, arg)->n;
    for (int b = 0; b < GLD_TRAFFIC_ROWS; b++)
        if (n[b] > v) n[b] = v;
    gld_traffic_repair_within(edited(s), TRAFFIC_COLUMNS, INT64_MAX / 8);
}

static void set_left(gld_search *s, int arg, int64_t v)
{
    move_of(s, arg)->left[arg % GLD_TRAFFIC_ROWS] = v;
}

static void set_right(gld_search *s, int arg, int64_t v)
{
    move_of(s, arg)->right[arg % GLD_TRAFFIC_ROWS] = v;
}

static void set_count(gld_search *s, int arg, int64_t v)
{
    move_of(s, arg)->count = v;
    gld_traffic_repair_within(edited(s), TRAFFIC_COLUMNS, INT64_MAX / 8);
}

static void shrink_cuts(gld_search *s, int i, int row)
{
    const gld_move *m = &s->best->traffic.move[i];
    for (int64_t at = m->n_cuts[row] - 1; at >= 0 && at < m->n_cuts[row]; at--) {
        gld_move *e = &edited(s)->move[i];
        memmove(&e->cut[row][at], &e->cut[row][at + 1], (size_t)(GLD_TRAFFIC_CUTS - at - 1) * sizeof **e->cut);
        e->n_cuts[row]--;
        try_repaired(s);
    }
}

static void shrink_reorder(gld_search *s, int i)
{
    for (int row = s->best->traffic.move[i].rows - 1; row >= 0 && s->best->traffic.move[i].rows > 1; row--) {
        gld_move *e = &edited(s)->move[i];
        drop_at(e->n, row);
        e->rows--;
        try_repaired(s);
    }
}

/* m is of s->best and changes with it; a move that goes in a repair ends the round for its place. */
static void shrink_move(gld_search *s, int i)
{
    const gld_move *m = &s->best->traffic.move[i];
    const int arg = i * GLD_TRAFFIC_ROWS;
    int64_t most = 0;
    if (m->kind == GLD_MOVE_REORDER) return shrink_reorder(s, i);
    for (int b = 0; b < GLD_TRAFFIC_ROWS; b++)
        if (m->n[b] > most) most = m->n[b];
    if (m->kind == GLD_MOVE_CALL) gld_search_number(s, set_all_n, arg, most, 1);
    gld_search_number(s, set_count, arg, m->count, m->kind == GLD_MOVE_NEW ? 0 : 1);
    for (int b = 0; b < GLD_TRAFFIC_ROWS; b++) {
        gld_search_number(s, set_n, arg + b, m->n[b], 0);
        gld_search_number(s, set_left, arg + b, m->left[b], 0);
        gld_search_number(s, set_right, arg + b, m->right[b], 0);
        shrink_cuts(s, i, b);
    }
}

/* Letters in the order in which they come. */
static void shrink_letters(gld_search *s)
{
    int name[GLD_TRAFFIC_CACHES], used = 0;
    gld_traffic *t = edited(s);
    for (int c = 0; c < GLD_TRAFFIC_CACHES; c++) name[c] = -1;
    for (int i = 0; i < t->n; i++) {
        gld_move *m = &t->move[i];
        if (name[m->cache] < 0) name[m->cache] = used++;
        m->cache = name[m->cache];
        if (m->kind != GLD_MOVE_COPY && m->kind != GLD_MOVE_RESTORE) continue;
        if (name[m->other] < 0) name[m->other] = used++;
        m->other = name[m->other];
    }
    gld_search_try(s);
}

void gld_shrink_traffic(gld_search *s)
{
    shrink_moves(s);
    shrink_rows(s);
    for (int i = 0; i < s->best->traffic.n && !gld_search_over(s); i++) shrink_move(s, i);
    shrink_letters(s);
}
