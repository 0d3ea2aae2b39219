/* Traffic on one engine. What to say, and which inputs are given or left out where both mean the same, are drawn from
 * the seed alone, so that every engine walks the same road. */
#include "golden/traffic_impl.h"

#include "oracle/random.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t n, begin;  /* tokens; the first one of the current document */
    int64_t doc, docs; /* seq_idx of the current document, documents so far */
    int *token;        /* [room] */
    uint8_t *real;     /* [room] columns that were real */
} traffic_row;

typedef struct {
    fh1_cache *cache;
    int rows;
    int64_t columns;
    bool padded; /* some column was padding */
    traffic_row row[GLD_TRAFFIC_ROWS];
} traffic_books;

typedef struct {
    fh1_engine *e;
    const fh1_model *m;
    fh1_stream ids, choices, noise;
    traffic_sizes sizes;
    traffic_road *out;
    traffic_books books[GLD_TRAFFIC_CACHES + 1]; /* the last one: a copy that no letter names */
    int64_t room;                                /* columns of the longest cache */
    int move;
    bool steady;                             /* angles depend on the longest position: none may be invented */
    int64_t *id, *position, *seq_idx, *mask; /* of one call */
    void *logits;
} traffic_walker;

/* ---- looking at rows ---- */

static fh1_status look_at_row(traffic_walker *w, int cache, int64_t row, int move)
{
    const traffic_books *b = &w->books[cache];
    const traffic_row *r = &b->row[row];
    traffic_road *out = w->out;
    if (b->cache->B != b->rows || b->cache->rows[row].n != r->n)
        return fh1_fail(FH1_E_WRONG, "the cache holds %lld tokens in row %lld of %lld, but %lld are right",
                        b->cache->B <= row ? -1LL : (long long)b->cache->rows[row].n, (long long)row,
                        (long long)b->cache->B, (long long)r->n);
    if (out->n_looks == out->room) {
        const int grown = out->room ? 2 * out->room : 16;
        traffic_look *more = realloc(out->look, (size_t)grown * sizeof *more);
        if (!more) return fh1_no_memory((size_t)grown * sizeof *more, "the looks at a cache");
        out->look = more;
        out->room = grown;
    }
    const int64_t L = w->m->config.n_layers;
    const size_t kv = (size_t)(2 * L * r->n * w->sizes.kv), memory = (size_t)(L * (w->sizes.window + w->sizes.state));
    traffic_look *look = &out->look[out->n_looks];
    *look = (traffic_look){.move = move, .cache = cache, .row = (int)row, .n = r->n};
    look->kv = malloc((kv + memory + 1) * sizeof(double) + (size_t)r->n * sizeof *look->token);
    if (!look->kv) return fh1_no_memory((kv + memory) * sizeof(double), "what a cache holds");
    out->n_looks++;
    look->memory = look->kv + kv;
    look->token = (int *)(void *)(look->memory + memory + 1);
    if (r->n) memcpy(look->token, r->token, (size_t)r->n * sizeof *look->token);
    return gld_traffic_read(b->cache, row, 0, look->kv, look->memory);
}

static fh1_status look_at(traffic_walker *w, int cache, int move)
{
    for (int b = 0; w->books[cache].cache && b < w->books[cache].rows; b++) FH1_TRY(look_at_row(w, cache, b, move));
    return NULL;
}

/* ---- books ---- */

static void copy_row(const traffic_walker *w, traffic_row *to, const traffic_row *from)
{
    const traffic_row own = *to;
    *to = *from;
    to->token = own.token;
    to->real = own.real;
    memcpy(to->token, from->token, (size_t)from->n * sizeof *to->token);
    memcpy(to->real, from->real, (size_t)w->room);
}

static void copy_books(const traffic_walker *w, traffic_books *to, const traffic_books *from)
{
    to->rows = from->rows;
    to->columns = from->columns;
    to->padded = from->padded;
    for (int b = 0; b < from->rows; b++) copy_row(w, &to->row[b], &from->row[b]);
}

static void empty_row(const traffic_walker *w, traffic_row *r)
{
    r->n = r->begin = r->docs = 0;
    r->doc = -1;
    memset(r->real, 0, (size_t)w->room);
}

static void empty_books(const traffic_walker *w, traffic_books *b, int rows)
{
    b->rows = rows;
    b->columns = 0;
    b->padded = false;
    for (int i = 0; i < rows; i++) empty_row(w, &b->row[i]);
}

/* ---- one call ---- */

enum { GIVE_MASK = 1, GIVE_POSITIONS = 2, GIVE_DOCUMENTS = 4 };

static bool begins_document(const gld_move *m, int b, int64_t i)
{
    for (int64_t k = 0; k < m->n_cuts[b]; k++)
        if (m->cut[b][k] == i) return true;
    return false;
}

/* What must be given, as bits. */
static unsigned must_give(const traffic_books *c, const gld_move *m, int64_t T)
{
    unsigned must = 0;
    for (int b = 0; b < c->rows; b++) {
        const traffic_row *r = &c->row[b];
        if (m->n[b] < T) must |= GIVE_MASK;
        if (m->n[b] > 0 && (m->left[b] > 0 || r->n - r->begin != c->columns)) must |= GIVE_POSITIONS;
        for (int64_t k = 0; k < m->n_cuts[b]; k++)
            if (r->n > 0 || m->cut[b][k] > 0) must |= GIVE_POSITIONS | GIVE_DOCUMENTS;
    }
    return must;
}

/* One token of row b in column t; `again`: the token whose word is said again, or -1. */
static void say(traffic_walker *w, int cache, int b, bool new_document, bool documents, int again, int64_t at)
{
    traffic_row *r = &w->books[cache].row[b];
    const int64_t draw = fh1_random_below(w->noise, (uint64_t)w->out->n_tokens, 3);
    if (r->n == 0) r->doc = documents ? draw : 0;
    else if (new_document) r->doc += 1 + draw;
    if (new_document || r->n == 0) {
        r->begin = r->n;
        r->docs++;
    }
    const int64_t position = r->n - r->begin;
    traffic_token *t = &w->out->token[w->out->n_tokens];
    *t = (traffic_token){.parent = position ? r->token[r->n - 1] : -1,
                         .move = w->move,
                         .cache = cache,
                         .row = b,
                         .document = (int)r->docs - 1,
                         .position = position};
    t->id = again >= 0 ? w->out->token[again].id : fh1_random_below(w->ids, (uint64_t)w->out->n_tokens, w->m->config.V);
    if (t->parent >= 0) w->out->token[t->parent].branch++;
    r->token[r->n++] = w->out->n_tokens++;
    w->id[at] = t->id;
    w->position[at] = position;
    w->seq_idx[at] = r->doc;
}

/* Padding may hold anything: it is not read. Its positions count for angles that depend on the longest one. */
static void draw_padding(traffic_walker *w, int64_t columns, int64_t at)
{
    const uint64_t i = (uint64_t)(columns * 64 + at);
    w->id[at] = fh1_random_below(w->noise, 3 * i, w->m->config.V + 4) - 2;
    w->position[at] = w->steady ? 0 : fh1_random_below(w->noise, 3 * i + 1, 4096);
    w->seq_idx[at] = fh1_random_below(w->noise, 3 * i + 2, 9) - 1;
}

static void fill(traffic_walker *w, int cache, const gld_move *m, const int *const *again, int64_t T, unsigned give)
{
    traffic_books *c = &w->books[cache];
    const int64_t len = c->columns + T;
    for (int b = 0; b < c->rows; b++) {
        traffic_row *r = &c->row[b];
        for (int64_t t = 0; t < T; t++) {
            const int64_t i = t - m->left[b], at = b * T + t;
            const bool real = i >= 0 && i < m->n[b];
            r->real[c->columns + t] = real;
            c->padded |= !real;
            if (real) say(w, cache, b, begins_document(m, b, i), give & GIVE_DOCUMENTS, again ? again[b][i] : -1, at);
            else draw_padding(w, c->columns, at);
            const int64_t position = give & GIVE_POSITIONS ? w->position[at] : c->columns + t;
            if (position >= w->out->longest) w->out->longest = position + 1;
        }
        for (int64_t t = 0; t < len; t++) w->mask[b * len + t] = r->real[t];
    }
}

/* Logits of this call's tokens, which were numbered row by row from `first` on. */
static fh1_status keep_logits(traffic_walker *w, int cache, int64_t T, int64_t before, int64_t first)
{
    const traffic_books *c = &w->books[cache];
    const traffic_sizes *z = &w->sizes;
    for (int b = 0; b < c->rows; b++)
        for (int64_t t = 0; t < T; t++) {
            const int64_t from = (b * T + t) * w->m->config.V;
            if (c->row[b].real[before + t]) {
                double *to = w->out->logits + first++ * z->kept;
                for (int64_t v = 0; v < z->kept; v++)
                    to[v] = traffic_number(w->logits, w->e->dtype, from + v * z->stride);
                continue;
            }
            for (int64_t v = 0; v < z->kept; v++)
                if (!(traffic_number(w->logits, w->e->dtype, from + v * z->stride) == 0))
                    return fh1_fail(FH1_E_WRONG, "logits of padding are not 0: row %d, column %lld of the call", b,
                                    (long long)t);
        }
    return NULL;
}

/* n, left, right and cuts of `m`. */
static fh1_status call(traffic_walker *w, int cache, const gld_move *m, const int *const *again)
{
    traffic_books *c = &w->books[cache];
    const int64_t T = gld_move_columns(m, c->rows), before = c->columns, first = w->out->n_tokens;
    const unsigned drawn = (unsigned)fh1_random_below(w->choices, (uint64_t)before, 8);
    const unsigned give = must_give(c, m, T) | drawn;
    fill(w, cache, m, again, T, give);
    const fh1_batch batch = {.B = c->rows,
                             .T = T,
                             .ids = w->id,
                             .mask = give & GIVE_MASK ? w->mask : NULL,
                             .mask_len = give & GIVE_MASK ? before + T : 0,
                             .positions = give & GIVE_POSITIONS ? w->position : NULL,
                             .seq_idx = give & GIVE_DOCUMENTS ? w->seq_idx : NULL};
    c->columns += T;
    w->out->calls++;
    FH1_TRY(w->e->forward(w->e, w->m, &batch, c->cache, T, w->logits, NULL));
    return keep_logits(w, cache, T, before, first);
}

static fh1_status steps(traffic_walker *w, int cache, int64_t n)
{
    const gld_move one = {.n = {1, 1, 1, 1}};
    for (int64_t i = 0; i < n; i++) FH1_TRY(call(w, cache, &one, NULL));
    return NULL;
}

/* ---- moves on whole caches ---- */

static void put_cache(traffic_books *b, fh1_cache *cache)
{
    if (b->cache) fh1_cache_free(b->cache);
    b->cache = cache;
}

static fh1_status make(traffic_walker *w, const gld_move *m)
{
    fh1_cache *cache;
    FH1_TRY(look_at(w, m->cache, w->move));
    FH1_TRY(fh1_cache_new(&w->m->config, w->e->dtype, m->rows, &cache));
    put_cache(&w->books[m->cache], cache);
    empty_books(w, &w->books[m->cache], m->rows);
    return NULL;
}

static fh1_status copy(traffic_walker *w, int from, int to)
{
    fh1_cache *cache;
    FH1_TRY(look_at(w, to, w->move));
    FH1_TRY(w->e->cache_ops->clone(w->books[from].cache, &cache));
    put_cache(&w->books[to], cache);
    copy_books(w, &w->books[to], &w->books[from]);
    return NULL;
}

static fh1_status restore(traffic_walker *w, int to, int from)
{
    FH1_TRY(look_at(w, to, w->move));
    FH1_TRY(w->e->cache_ops->restore(w->books[to].cache, w->books[from].cache));
    copy_books(w, &w->books[to], &w->books[from]);
    return NULL;
}

enum { SCRATCH = GLD_TRAFFIC_CACHES }; /* books of a copy that no letter names */

static fh1_status reorder(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache], *old = &w->books[SCRATCH];
    for (int row = 0; row < b->rows; row++) {
        bool stays = false;
        for (int i = 0; i < m->rows; i++) stays |= m->n[i] == row;
        if (!stays) FH1_TRY(look_at_row(w, m->cache, row, w->move));
    }
    copy_books(w, old, b);
    for (int i = 0; i < m->rows; i++) copy_row(w, &b->row[i], &old->row[m->n[i]]);
    b->rows = m->rows;
    return w->e->cache_ops->reorder(b->cache, m->n, m->rows);
}

static fh1_status restart(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache];
    FH1_TRY(look_at_row(w, m->cache, m->row, w->move));
    empty_row(w, &b->row[m->row]);
    b->padded |= b->columns > 0;
    return w->e->cache_ops->truncate(b->cache, m->row, 0);
}

/* NULL where `s` is the refusal that it should be. */
static fh1_status refused(fh1_status s, const char *what)
{
    if (!s) return fh1_fail(FH1_E_WRONG, "%s was accepted", what);
    if (s->code == FH1_E_INPUT) return NULL;
    return s->code == FH1_E_INTERNAL ? s : fh1_fail(FH1_E_WRONG, "%s is not refused as bad input", what);
}

static fh1_status rollback(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache];
    const int64_t n = b->row[m->row].n - m->count;
    return refused(w->e->cache_ops->truncate(b->cache, m->row, n), "going back to a moment whose state is gone");
}

static fh1_status nothing(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache];
    const fh1_batch batch = {.B = b->rows, .T = 0, .ids = w->id};
    return refused(w->e->forward(w->e, w->m, &batch, b->cache, 0, w->logits, NULL), "a call of no tokens");
}

static fh1_status reset(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache];
    FH1_TRY(look_at(w, m->cache, w->move));
    w->e->cache_ops->reset(b->cache);
    empty_books(w, b, b->rows);
    return NULL;
}

/* One part of one layer goes through a tensor; before, other numbers stand where it comes to. */
static fh1_status swap_part(traffic_walker *w, const fh1_cache *from, fh1_cache *to, int64_t layer, fh1_cache_part part)
{
    fh1_tensor t = fh1_cache_shape(from, part);
    const int64_t n = fh1_n_elems(&t);
    t.data = malloc((size_t)n * sizeof(double) + 1);
    if (!t.data) return fh1_no_memory((size_t)n * sizeof(double), "a part of a cache");
    t.dtype = from->dtype;
    for (int64_t i = 0; i < n; i++) fh1_set(&t, i, 1 + fh1_random_uniform(w->noise, (uint64_t)i));
    fh1_status s = fh1_cache_import(to, layer, part, &t);
    if (!s) s = fh1_cache_export(from, layer, part, &t);
    if (!s) s = fh1_cache_import(to, layer, part, &t);
    free(t.data);
    return s;
}

static fh1_status swap(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache];
    fh1_cache *other;
    FH1_TRY(w->e->cache_ops->clone(b->cache, &other));
    fh1_status s = NULL;
    for (int64_t l = 0; !s && l < w->m->config.n_layers; l++)
        for (int part = FH1_CACHE_KEY; !s && part <= FH1_CACHE_SSM; part++)
            s = swap_part(w, b->cache, other, l, (fh1_cache_part)part);
    if (s) fh1_cache_free(other);
    else put_cache(b, other);
    return s;
}

/* Drafts in one call; where some are rejected everything goes back, and the accepted ones are said again. */
static fh1_status speculate(traffic_walker *w, const gld_move *m)
{
    traffic_books *b = &w->books[m->cache];
    gld_move drafts = {.n = {m->count, m->count, m->count, m->count}}, accepted = {0};
    const int *again[GLD_TRAFFIC_ROWS];
    int *said = malloc((size_t)(GLD_TRAFFIC_ROWS * m->count) * sizeof *said);
    bool all = true, none = true;
    if (!said) return fh1_no_memory((size_t)m->count * sizeof *said, "drafts");
    fh1_status s = copy(w, m->cache, SCRATCH);
    if (!s) s = call(w, m->cache, &drafts, NULL);
    for (int row = 0; !s && row < b->rows; row++) {
        again[row] = memcpy(said + row * m->count, b->row[row].token + b->row[row].n - m->count,
                            (size_t)m->count * sizeof *said);
        accepted.n[row] = m->n[row];
        all &= m->n[row] == m->count;
        none &= m->n[row] == 0;
    }
    if (!s && !all) s = restore(w, m->cache, SCRATCH);
    if (!s && !all && !none) s = call(w, m->cache, &accepted, again);
    free(said);
    put_cache(&w->books[SCRATCH], NULL);
    return s;
}

static fh1_status do_move(traffic_walker *w, const gld_move *m)
{
    switch (m->kind) {
    case GLD_MOVE_NEW: return make(w, m);
    case GLD_MOVE_CALL: return call(w, m->cache, m, NULL);
    case GLD_MOVE_STEPS: return steps(w, m->cache, m->count);
    case GLD_MOVE_COPY: return copy(w, m->cache, m->other);
    case GLD_MOVE_RESTORE: return restore(w, m->cache, m->other);
    case GLD_MOVE_REORDER: return reorder(w, m);
    case GLD_MOVE_RESTART: return restart(w, m);
    case GLD_MOVE_ROLLBACK: return rollback(w, m);
    case GLD_MOVE_RESET: return reset(w, m);
    case GLD_MOVE_SWAP: return swap(w, m);
    case GLD_MOVE_SPECULATE: return speculate(w, m);
    default: return nothing(w, m);
    }
}

/* ---- all of it ---- */

void gld_traffic_road_free(traffic_road *r)
{
    for (int i = 0; i < r->n_looks; i++) free(r->look[i].kv);
    free(r->look);
    free(r->token);
    free(r->logits);
    *r = (traffic_road){0};
}

static fh1_status allocate(traffic_walker *w, const traffic_state *s, void **memory)
{
    const int64_t cells = s->room * GLD_TRAFFIC_ROWS + 1, rows = (SCRATCH + 1) * GLD_TRAFFIC_ROWS;
    const size_t logits = (size_t)(s->widest * w->m->config.V) * sizeof(double);
    const size_t ints = (size_t)(4 * cells) * sizeof *w->id, tokens = (size_t)(rows * s->room + 1) * sizeof(int);
    char *p = *memory = malloc(logits + ints + tokens + (size_t)(rows * s->room) + 1);
    w->out->token = malloc((size_t)(s->tokens + 1) * sizeof *w->out->token);
    w->out->logits = malloc((size_t)(s->tokens * w->sizes.kept + 1) * sizeof(double));
    if (!p || !w->out->token || !w->out->logits) return fh1_no_memory(logits + ints + tokens, "traffic");
    w->room = s->room;
    w->logits = p;
    w->id = (int64_t *)(void *)(p + logits);
    w->position = w->id + cells;
    w->seq_idx = w->position + cells;
    w->mask = w->seq_idx + cells;
    int *token = (int *)(void *)(w->mask + cells);
    uint8_t *real = (uint8_t *)token + tokens;
    for (int64_t i = 0; i < rows; i++) {
        w->books[i / GLD_TRAFFIC_ROWS].row[i % GLD_TRAFFIC_ROWS].token = token + i * s->room;
        w->books[i / GLD_TRAFFIC_ROWS].row[i % GLD_TRAFFIC_ROWS].real = real + i * s->room;
    }
    return NULL;
}

static fh1_status walk(traffic_walker *w, const gld_traffic *t)
{
    for (w->move = 0; w->move < t->n; w->move++) {
        w->out->move = w->move;
        w->out->cache = t->move[w->move].cache;
        FH1_TRY(do_move(w, &t->move[w->move]));
    }
    w->out->move = -1;
    for (int c = 0; c < GLD_TRAFFIC_CACHES; c++) {
        w->out->cache = c;
        FH1_TRY(look_at(w, c, -1));
    }
    return NULL;
}

fh1_status gld_traffic_walk(const gld_traffic *t, const fh1_model *m, fh1_engine *e, uint64_t seed, traffic_road *out)
{
    traffic_state s = {0};
    *out = (traffic_road){0};
    for (int i = 0; i < t->n; i++) FH1_TRY(gld_traffic_step(&s, &t->move[i]));
    const fh1_rope_type rope = m->config.rope.type;
    traffic_walker w = {.e = e,
                        .m = m,
                        .ids = fh1_stream_open(seed, "traffic"),
                        .choices = fh1_stream_open(seed, "what traffic gives"),
                        .noise = fh1_stream_open(seed, "padding of traffic"),
                        .sizes = gld_traffic_sizes(&m->config),
                        .steady = rope == FH1_ROPE_DYNAMIC || rope == FH1_ROPE_LONGROPE,
                        .out = out};
    void *memory = NULL;
    fh1_status st = allocate(&w, &s, &memory);
    if (!st) st = walk(&w, t);
    for (int c = 0; c <= SCRATCH; c++) put_cache(&w.books[c], NULL);
    free(memory);
    return st;
}
