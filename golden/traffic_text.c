/* The text of traffic: parse, check, print. */
#include "golden/traffic_impl.h"

#include <inttypes.h>
#include <string.h>

/* -- what moves do ------------------------------------------------------------------------------- */

static fh1_status out_of_range(const char *what, int64_t least, int64_t most, int64_t v)
{
    fh1_status s = fh1_expected(FH1_BAD("%s", what), "%" PRId64 " to %" PRId64, least, most);
    return fh1_found(s, "%" PRId64, v);
}

static fh1_status in_range(const char *what, int64_t least, int64_t most, int64_t v)
{
    return v >= least && v <= most ? NULL : out_of_range(what, least, most, v);
}

static fh1_status is_there(const traffic_state *s, int cache)
{
    FH1_TRY(in_range("a cache is a letter from a on", 0, GLD_TRAFFIC_CACHES - 1, cache));
    if (s->cache[cache].there) return NULL;
    return fh1_hint(FH1_BAD("cache %c is not there", 'a' + cache), "%c=1 makes one of one row", 'a' + cache);
}

int64_t gld_move_columns(const gld_move *m, int rows)
{
    int64_t most = 0;
    for (int b = 0; b < rows; b++) {
        const int64_t n = m->left[b] + m->n[b] + m->right[b];
        if (n > most) most = n;
    }
    return most;
}

static fh1_status check_row(const gld_move *m, int b)
{
    FH1_TRY(in_range("tokens of a call", 0, TRAFFIC_COLUMNS, m->n[b]));
    FH1_TRY(in_range("columns of padding left", 0, TRAFFIC_COLUMNS, m->left[b]));
    FH1_TRY(in_range("columns of padding right", 0, TRAFFIC_COLUMNS, m->right[b]));
    FH1_TRY(in_range("documents that begin in a row", 0, GLD_TRAFFIC_CUTS, m->n_cuts[b]));
    for (int64_t i = 0; i < m->n_cuts[b]; i++)
        FH1_TRY(in_range("documents begin at rising tokens of the call", i ? m->cut[b][i - 1] + 1 : 0, m->n[b] - 1,
                         m->cut[b][i]));
    return NULL;
}

/* Books n[b] tokens in calls of `width` columns, `columns` in all. */
static fh1_status grow(traffic_state *s, traffic_cache *c, const int64_t *n, int64_t columns, int64_t width)
{
    if (c->columns + columns > TRAFFIC_COLUMNS)
        return fh1_found(fh1_expected(FH1_BAD("too many tokens in a row"), "up to %d columns", TRAFFIC_COLUMNS),
                         "%" PRId64, c->columns + columns);
    for (int b = 0; b < c->rows; b++) {
        c->stored[b] += n[b];
        s->tokens += n[b];
    }
    c->columns += columns;
    s->cells += columns * c->rows;
    if (c->columns > s->room) s->room = c->columns;
    if (width * c->rows > s->widest) s->widest = width * c->rows;
    return NULL;
}

static fh1_status step_call(traffic_state *s, traffic_cache *c, const gld_move *m)
{
    for (int b = 0; b < c->rows; b++) {
        fh1_status e = check_row(m, b);
        if (e) return fh1_where(e, "row %d", b);
    }
    const int64_t columns = gld_move_columns(m, c->rows);
    if (columns < 1) return fh1_hint(FH1_BAD("a call of no tokens"), "X: is one that must be refused");
    return grow(s, c, m->n, columns, columns);
}

static fh1_status step_speculate(traffic_state *s, traffic_cache *c, const gld_move *m)
{
    int64_t drafts[GLD_TRAFFIC_ROWS] = {0}, most = 0;
    bool all = true;
    FH1_TRY(in_range("drafts", 1, TRAFFIC_COLUMNS, m->count));
    for (int b = 0; b < c->rows; b++) {
        drafts[b] = m->count;
        FH1_TRY(in_range("accepted drafts", 0, m->count, m->n[b]));
        all &= m->n[b] == m->count;
        if (m->n[b] > most) most = m->n[b];
    }
    traffic_cache before = *c;
    FH1_TRY(grow(s, c, drafts, m->count, m->count));
    if (all) return NULL;
    *c = before;
    return most ? grow(s, c, m->n, most, most) : NULL;
}

static fh1_status step_steps(traffic_state *s, traffic_cache *c, const gld_move *m)
{
    int64_t n[GLD_TRAFFIC_ROWS] = {0};
    FH1_TRY(in_range("steps", 1, TRAFFIC_COLUMNS, m->count));
    for (int b = 0; b < c->rows; b++) n[b] = m->count;
    return grow(s, c, n, m->count, 1);
}

static fh1_status step_reorder(traffic_cache *c, const gld_move *m)
{
    int64_t stored[GLD_TRAFFIC_ROWS];
    FH1_TRY(in_range("rows of a reorder", 1, GLD_TRAFFIC_ROWS, m->rows));
    for (int i = 0; i < m->rows; i++) {
        FH1_TRY(in_range("a row of the cache", 0, c->rows - 1, m->n[i]));
        stored[i] = c->stored[m->n[i]];
    }
    memcpy(c->stored, stored, (size_t)m->rows * sizeof *stored);
    c->rows = m->rows;
    return NULL;
}

static fh1_status step_two(traffic_state *s, const gld_move *m)
{
    if (m->kind == GLD_MOVE_RESTORE) FH1_TRY(is_there(s, m->other));
    FH1_TRY(in_range("a cache is a letter from a on", 0, GLD_TRAFFIC_CACHES - 1, m->other));
    if (m->cache == m->other) return FH1_BAD("a cache and its copy are two");
    if (m->kind == GLD_MOVE_COPY) s->cache[m->other] = s->cache[m->cache];
    else s->cache[m->cache] = s->cache[m->other];
    return NULL;
}

static fh1_status step_row(traffic_cache *c, const gld_move *m)
{
    FH1_TRY(in_range("a row of the cache", 0, c->rows - 1, m->row));
    if (m->kind == GLD_MOVE_RESTART) c->stored[m->row] = 0;
    else if (c->stored[m->row] < 2) return FH1_BAD("a row of fewer than two tokens cannot go back between them");
    else return in_range("tokens to go back by", 1, c->stored[m->row] - 1, m->count);
    return NULL;
}

static fh1_status step(traffic_state *s, const gld_move *m)
{
    if (m->kind == GLD_MOVE_NEW) {
        FH1_TRY(in_range("a cache is a letter from a on", 0, GLD_TRAFFIC_CACHES - 1, m->cache));
        FH1_TRY(in_range("rows of a cache", 1, GLD_TRAFFIC_ROWS, m->rows));
        s->cache[m->cache] = (traffic_cache){.there = true, .rows = m->rows};
        return NULL;
    }
    FH1_TRY(is_there(s, m->cache));
    traffic_cache *c = &s->cache[m->cache];
    switch (m->kind) {
    case GLD_MOVE_CALL: return step_call(s, c, m);
    case GLD_MOVE_STEPS: return step_steps(s, c, m);
    case GLD_MOVE_COPY:
    case GLD_MOVE_RESTORE: return step_two(s, m);
    case GLD_MOVE_REORDER: return step_reorder(c, m);
    case GLD_MOVE_RESTART:
    case GLD_MOVE_ROLLBACK: return step_row(c, m);
    case GLD_MOVE_RESET: *c = (traffic_cache){.there = true, .rows = c->rows}; return NULL;
    case GLD_MOVE_SPECULATE: return step_speculate(s, c, m);
    case GLD_MOVE_SWAP:
    case GLD_MOVE_NOTHING: return NULL;
    default: return FH1_BAD("unknown move %d", (int)m->kind);
    }
}

fh1_status gld_traffic_step(traffic_state *s, const gld_move *m)
{
    const traffic_state before = *s;
    fh1_status e = step(s, m);
    if (e) *s = before;
    return e;
}

static fh1_status run_books(const gld_traffic *t, traffic_state *s)
{
    memset(s, 0, sizeof *s);
    FH1_TRY(in_range("moves", 1, GLD_TRAFFIC_MOVES, t->n));
    for (int i = 0; i < t->n; i++) {
        fh1_status e = gld_traffic_step(s, &t->move[i]);
        if (e) return fh1_where(e, "move %d", i + 1);
    }
    return NULL;
}

fh1_status gld_traffic_check(const gld_traffic *t)
{
    traffic_state s;
    return run_books(t, &s);
}

int64_t gld_traffic_cells(const gld_traffic *t)
{
    traffic_state s;
    return run_books(t, &s) ? 0 : s.cells;
}

/* -- reading ------------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static fh1_status expected(const char *at, const char *what)
{
    char shown[48];
    fh1_status s = fh1_expected(FH1_BAD("not a move"), "%s", what);
    return fh1_found(s, "'%s'", fh1_printable(at, shown, sizeof shown));
}

static fh1_status read_letter(const char **p, int *cache)
{
    if (**p < 'a' || **p >= 'a' + GLD_TRAFFIC_CACHES) return expected(*p, "a cache, a letter from a to h");
    *cache = *(*p)++ - 'a';
    return NULL;
}

static fh1_status read_number(const char **p, int64_t *v)
{
    const char *from = *p;
    if (!is_digit(**p)) return expected(from, "a number");
    for (*v = 0; is_digit(**p); ++*p) {
        *v = 10 * *v + (**p - '0');
        if (*v > TRAFFIC_COLUMNS) return expected(from, "a number up to 1024");
    }
    return NULL;
}

static fh1_status read_int(const char **p, int *v)
{
    int64_t wide;
    FH1_TRY(read_number(p, &wide));
    *v = (int)wide;
    return NULL;
}

/* Numbers per row, and how many there were. */
static fh1_status read_list(const char **p, char separator, int64_t *v, int *n)
{
    for (*n = 0;;) {
        if (*n == GLD_TRAFFIC_ROWS) return expected(*p, "no more rows than 4");
        FH1_TRY(read_number(p, &v[(*n)++]));
        if (**p != separator) return NULL;
        ++*p;
    }
}

/* The last number goes on in the rows behind it. */
static fh1_status read_last_goes_on(const char **p, char separator, int64_t *v, int *n)
{
    FH1_TRY(read_list(p, separator, v, n));
    for (int b = *n; b < GLD_TRAFFIC_ROWS; b++) v[b] = v[*n - 1];
    return NULL;
}

static fh1_status read_cuts(const char **p, gld_move *m, int *n)
{
    for (int b = 0;; b++) {
        if (b == GLD_TRAFFIC_ROWS) return expected(*p, "no more rows than 4");
        *n = b + 1;
        while (is_digit(**p)) { /* a row may have none */
            if (m->n_cuts[b] == GLD_TRAFFIC_CUTS) return expected(*p, "no more documents in a row than 4");
            FH1_TRY(read_number(p, &m->cut[b][m->n_cuts[b]++]));
            if (**p != ',') break;
            ++*p;
            if (!is_digit(**p)) return expected(*p, "a number");
        }
        if (**p != '/') return NULL;
        ++*p;
    }
}

static fh1_status read_call(const char **p, gld_move *m, int *rows)
{
    int n;
    FH1_TRY(read_last_goes_on(p, ',', m->n, rows));
    for (int i = 0; i < 3; i++) {
        if (**p != "<>|"[i]) continue;
        ++*p;
        FH1_TRY(i == 2 ? read_cuts(p, m, &n) : read_list(p, ',', i ? m->right : m->left, &n));
        if (n > *rows) *rows = n;
    }
    return NULL;
}

/* *rows: numbers that were given per row. */
static fh1_status read_move(const char **p, gld_move *m, int *rows)
{
    memset(m, 0, sizeof *m);
    FH1_TRY(read_letter(p, &m->cache));
    const char what = **p;
    static const char moves[] = "=+*<@!-.~?:";
    if (!what || !strchr(moves, what)) return expected(*p, "one of = + * < @ ! - . ~ ? : behind a cache");
    ++*p;
    switch (what) {
    case '=':
        if (is_digit(**p)) return m->kind = GLD_MOVE_NEW, read_int(p, &m->rows);
        m->kind = GLD_MOVE_COPY;
        m->other = m->cache;
        return read_letter(p, &m->cache);
    case '+': return m->kind = GLD_MOVE_CALL, read_call(p, m, rows);
    case '*': return m->kind = GLD_MOVE_STEPS, read_number(p, &m->count);
    case '<': return m->kind = GLD_MOVE_RESTORE, read_letter(p, &m->other);
    case '@': return m->kind = GLD_MOVE_REORDER, read_list(p, ',', m->n, &m->rows);
    case '!': return m->kind = GLD_MOVE_RESTART, read_number(p, &m->row);
    case '-':
        m->kind = GLD_MOVE_ROLLBACK;
        FH1_TRY(read_number(p, &m->row));
        if (**p != ':') return expected(*p, "':' and tokens");
        ++*p;
        return read_number(p, &m->count);
    case '?':
        m->kind = GLD_MOVE_SPECULATE;
        FH1_TRY(read_number(p, &m->count));
        if (**p != ':') return expected(*p, "':' and accepted drafts");
        ++*p;
        return read_last_goes_on(p, '/', m->n, rows);
    case '.': m->kind = GLD_MOVE_RESET; return NULL;
    case '~': m->kind = GLD_MOVE_SWAP; return NULL;
    default: m->kind = GLD_MOVE_NOTHING; return NULL;
    }
}

static fh1_status read_and_do(const char **p, traffic_state *s, gld_move *m)
{
    int rows = 0;
    FH1_TRY(read_move(p, m, &rows));
    if (**p && **p != ';') return expected(*p, "';' or the end");
    const traffic_cache *c = &s->cache[m->cache];
    if (c->there && rows > c->rows)
        return fh1_found(fh1_expected(FH1_BAD("numbers for more rows than the cache has"), "up to %d", c->rows), "%d",
                         rows);
    return gld_traffic_step(s, m);
}

fh1_status gld_traffic_parse(const char *text, gld_traffic *out)
{
    traffic_state s = {0};
    memset(out, 0, sizeof *out);
    for (const char *p = text;; p++) {
        if (out->n == GLD_TRAFFIC_MOVES)
            return fh1_expected(FH1_BAD("much traffic"), "up to %d moves", GLD_TRAFFIC_MOVES);
        fh1_status e = read_and_do(&p, &s, &out->move[out->n]);
        if (e) return fh1_where(e, "move %d", out->n + 1);
        out->n++;
        if (*p == 0) return NULL;
    }
}

/* -- writing ------------------------------------------------------------------------------------- */

static void print_list(const char *before, char separator, const int64_t *v, int n, FILE *out)
{
    for (int i = 0; i < n; i++) {
        if (i) putc(separator, out);
        else fputs(before, out);
        fprintf(out, "%" PRId64, v[i]);
    }
}

static int without_repeats(const int64_t *v, int n)
{
    while (n > 1 && v[n - 1] == v[n - 2]) n--;
    return n;
}

static int without_zeros(const int64_t *v, int n)
{
    while (n > 0 && v[n - 1] == 0) n--;
    return n;
}

static void print_call(const gld_move *m, int rows, FILE *out)
{
    print_list("+", ',', m->n, without_repeats(m->n, rows), out);
    print_list("<", ',', m->left, without_zeros(m->left, rows), out);
    print_list(">", ',', m->right, without_zeros(m->right, rows), out);
    const int cut = without_zeros(m->n_cuts, rows);
    for (int b = 0; b < cut; b++) {
        putc(b ? '/' : '|', out);
        print_list("", ',', m->cut[b], (int)m->n_cuts[b], out);
    }
}

void gld_move_print(const gld_move *m, int rows, FILE *out)
{
    const int first = m->kind == GLD_MOVE_COPY ? m->other : m->cache;
    putc('a' + first, out);
    switch (m->kind) {
    case GLD_MOVE_NEW: fprintf(out, "=%d", m->rows); break;
    case GLD_MOVE_CALL: print_call(m, rows, out); break;
    case GLD_MOVE_STEPS: fprintf(out, "*%" PRId64, m->count); break;
    case GLD_MOVE_COPY: fprintf(out, "=%c", 'a' + m->cache); break;
    case GLD_MOVE_RESTORE: fprintf(out, "<%c", 'a' + m->other); break;
    case GLD_MOVE_REORDER: print_list("@", ',', m->n, m->rows, out); break;
    case GLD_MOVE_RESTART: fprintf(out, "!%" PRId64, m->row); break;
    case GLD_MOVE_ROLLBACK: fprintf(out, "-%" PRId64 ":%" PRId64, m->row, m->count); break;
    case GLD_MOVE_RESET: putc('.', out); break;
    case GLD_MOVE_SWAP: putc('~', out); break;
    case GLD_MOVE_SPECULATE:
        fprintf(out, "?%" PRId64, m->count);
        print_list(":", '/', m->n, without_repeats(m->n, rows), out);
        break;
    default: putc(':', out);
    }
}

void gld_traffic_print(const gld_traffic *t, FILE *out)
{
    traffic_state s = {0};
    for (int i = 0; i < t->n; i++) {
        if (i) putc(';', out);
        gld_move_print(&t->move[i], s.cache[t->move[i].cache].rows, out);
        if (gld_traffic_step(&s, &t->move[i])) return; /* not traffic */
    }
}
