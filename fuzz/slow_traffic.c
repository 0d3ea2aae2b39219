/* The text of traffic, read a second time: moves between semicolons, a letter, a sign, and what the sign asks for; then
 * the books of eight caches as plain numbers. */
#include "fuzz/plant.h"
#include "fuzz/slow_repro.h"

/* Rows, tokens per row and columns of a cache; no rows: not there. */
typedef struct {
    int64_t rows, columns, tokens[4];
} shelf;

static double cells; /* columns times rows of all calls of this text */

static bool small(const char *text, int64_t *v)
{
    *v = 0;
    if (*text == '\0') return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        *v = *v * 10 + (*text - '0');
        if (*v > 1024) return false;
    }
    return true;
}

/* One to four numbers; how many, 0: none of it. */
static int64_t numbers(const char *text, char separator, int64_t v[4])
{
    slow_words w = slow_words_cut(text, separator);
    int64_t n = w.n <= 4 ? w.n : 0;
    for (int i = 0; i < n; i++)
        if (!small(w.word[i], &v[i])) n = 0;
    slow_words_free(&w);
    return n;
}

static void last_goes_on(int64_t v[4], int64_t n)
{
    for (; n > 0 && n < 4; n++) v[n] = v[n - 1];
}

static int64_t most_of(const int64_t *v, int64_t n)
{
    int64_t most = 0;
    for (int64_t i = 0; i < n; i++) most = v[i] > most ? v[i] : most;
    return most;
}

static int64_t cuts(const char *text, gld_move *m)
{
    slow_words rows = slow_words_cut(text, '/');
    int64_t n = rows.n <= 4 ? rows.n : 0;
    for (int64_t b = 0; b < n; b++) {
        if (rows.word[b][0] == '\0') continue;
        m->n_cuts[b] = numbers(rows.word[b], ',', m->cut[b]);
        if (m->n_cuts[b] == 0) n = 0;
    }
    slow_words_free(&rows);
    return n;
}

/* 9,4<0,2>1|3/1: the three parts behind the numbers in this order. */
static bool call(char *text, gld_move *m, const shelf *s, int64_t *columns)
{
    char *part[3] = {strchr(text, '<'), NULL, strchr(text, '|')};
    part[1] = strchr(part[0] ? part[0] : text, '>');
    if (part[1] && part[2] && part[2] < part[1]) return false;
    if (part[0] && ((part[1] && part[1] < part[0]) || (part[2] && part[2] < part[0]))) return false;
    for (int i = 0; i < 3; i++)
        if (part[i]) *part[i]++ = '\0';
    int64_t given = numbers(text, ',', m->n);
    if (given < 1 || given > s->rows) return false;
    last_goes_on(m->n, given);
    for (int i = 0; i < 3; i++) {
        if (!part[i]) continue;
        given = i == 2 ? cuts(part[i], m) : numbers(part[i], ',', i == 0 ? m->left : m->right);
        if (given < 1 || given > s->rows) return false;
    }
    int64_t width[4];
    for (int64_t b = 0; b < s->rows; b++) {
        width[b] = m->left[b] + m->n[b] + m->right[b];
        for (int64_t i = 0; i < m->n_cuts[b]; i++)
            if (m->cut[b][i] >= m->n[b] || (i && m->cut[b][i] <= m->cut[b][i - 1])) return false;
    }
    *columns = most_of(width, s->rows);
    return *columns > 0 && s->columns + *columns <= 1024;
}

static void say(shelf *s, const int64_t *n, int64_t columns)
{
    for (int64_t b = 0; b < s->rows; b++) s->tokens[b] += n[b];
    s->columns += columns;
    cells += (double)(columns * s->rows);
}

static bool speculate(const char *text, gld_move *m, shelf *s)
{
    slow_words w = slow_words_cut(text, ':');
    int64_t given = 0, width[4];
    if (w.n == 2 && small(w.word[0], &m->count)) given = numbers(w.word[1], '/', m->n);
    slow_words_free(&w);
    if (given < 1 || given > s->rows || m->count < 1 || s->columns + m->count > 1024) return false;
    last_goes_on(m->n, given);
    bool all = true;
    for (int64_t b = 0; b < s->rows; b++) {
        if (m->n[b] > m->count && !fuzz_planted("drafts")) return false;
        all &= m->n[b] == m->count;
        width[b] = m->n[b];
    }
    say(s, width, all ? m->count : most_of(width, s->rows));
    if (!all) cells += (double)(m->count * s->rows); /* the drafts that went */
    return true;
}

static bool rollback(const char *text, gld_move *m, const shelf *s)
{
    slow_words w = slow_words_cut(text, ':');
    const bool good = w.n == 2 && small(w.word[0], &m->row) && small(w.word[1], &m->count);
    slow_words_free(&w);
    return good && m->row < s->rows && m->count > 0 && m->count < s->tokens[m->row];
}

static bool reorder(const char *text, gld_move *m, shelf *s)
{
    const shelf old = *s;
    s->rows = numbers(text, ',', m->n);
    m->rows = (int)s->rows;
    for (int64_t i = 0; i < s->rows; i++) {
        if (m->n[i] >= old.rows) return false;
        s->tokens[i] = old.tokens[m->n[i]];
    }
    return s->rows > 0;
}

static int letter(char c)
{
    return c >= 'a' && c <= 'h' ? c - 'a' : -1;
}

/* b=a, and a=2. */
static bool equals(const char *text, gld_move *m, shelf *all)
{
    int64_t rows;
    if (letter(*text) >= 0 && text[1] == '\0') {
        m->kind = GLD_MOVE_COPY;
        m->other = m->cache;
        m->cache = letter(*text);
        all[m->other] = all[m->cache];
        return m->cache != m->other && all[m->cache].rows > 0;
    }
    m->kind = GLD_MOVE_NEW;
    if (!small(text, &rows) || rows < 1 || rows > 4) return false;
    m->rows = (int)rows;
    all[m->cache] = (shelf){.rows = rows};
    return true;
}

static bool move(char *text, gld_move *m, shelf *all)
{
    static const char signs[] = "+*<@!-.~?:";
    static const gld_move_kind kinds[] = {GLD_MOVE_CALL,      GLD_MOVE_STEPS,    GLD_MOVE_RESTORE, GLD_MOVE_REORDER,
                                          GLD_MOVE_RESTART,   GLD_MOVE_ROLLBACK, GLD_MOVE_RESET,   GLD_MOVE_SWAP,
                                          GLD_MOVE_SPECULATE, GLD_MOVE_NOTHING};
    m->cache = letter(text[0]);
    if (m->cache < 0 || text[1] == '\0') return false;
    char *rest = text + 2;
    int64_t columns;
    if (text[1] == '=') return equals(rest, m, all);
    const char *sign = strchr(signs, text[1]);
    shelf *s = &all[m->cache];
    if (!sign || (s->rows == 0 && !fuzz_planted("no-cache"))) return false;
    m->kind = kinds[sign - signs];
    switch (m->kind) {
    case GLD_MOVE_CALL:
        if (!call(rest, m, s, &columns)) return false;
        say(s, m->n, columns);
        return true;
    case GLD_MOVE_STEPS:
        if (!small(rest, &m->count) || m->count < 1 || s->columns + m->count > 1024) return false;
        say(s, (int64_t[]){m->count, m->count, m->count, m->count}, m->count);
        return true;
    case GLD_MOVE_RESTORE:
        m->other = letter(rest[0]);
        if (m->other < 0 || rest[1] || m->other == m->cache || all[m->other].rows == 0) return false;
        *s = all[m->other];
        return true;
    case GLD_MOVE_REORDER: return reorder(rest, m, s);
    case GLD_MOVE_RESTART:
        if (!small(rest, &m->row) || m->row >= s->rows) return false;
        s->tokens[m->row] = 0;
        return true;
    case GLD_MOVE_ROLLBACK: return rollback(rest, m, s);
    case GLD_MOVE_SPECULATE: return speculate(rest, m, s);
    case GLD_MOVE_RESET: *s = (shelf){.rows = s->rows}; return *rest == '\0';
    default: return *rest == '\0';
    }
}

bool slow_traffic_read(const char *text, gld_traffic *out, double *n_cells)
{
    cells = 0;
    shelf all[GLD_TRAFFIC_CACHES] = {{0}};
    slow_words moves = slow_words_cut(text, ';');
    bool good = moves.n <= GLD_TRAFFIC_MOVES;
    for (int i = 0; i < moves.n && good; i++) good = move(moves.word[i], &out->move[i], all);
    out->n = moves.n;
    slow_words_free(&moves);
    *n_cells = cells;
    return good;
}
