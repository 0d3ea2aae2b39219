#include "tests/edge/edge_moves.h"
#include "tests/edge/edge_rows.h"

#include <string.h>

bool edge_wrong(const law_run *run, const fh1_engine *e, law_road road, const char *name)
{
    return road == LAW_RIGHT && e == run->a->engine && edge_plants(run->data, name);
}

bool edge_mistake(const law_run *run, const fh1_engine *e, law_road road, const char *name)
{
    return road == LAW_PLANTED || edge_wrong(run, e, road, name);
}

bool edge_slow(const edge_run *r)
{
    return r->bit & (EDGE_CUDA_HOST | EDGE_CUDA);
}

int64_t edge_chunk(const law_run *run)
{
    const fh1_config *c = &run->m->config;
    return c->family == FH1_FALCON_MAMBA ? 8 : c->Q;
}

typedef struct {
    int64_t tokens;
    law_walk walk;
    uint64_t notices;
} walking;

static fh1_status walk_on(edge_run *r, const fh1_model *m, void *data)
{
    const walking *w = data;
    return edge_law(r, m, w->tokens, w->walk, w->notices, r);
}

fh1_status edge_walks(edge_run *r, int64_t tokens, law_walk walk, uint64_t notices)
{
    walking w = {tokens, walk, notices};
    if (!edge_slow(r)) return edge_each_model(r, walk_on, &w);
    FH1_TRY(edge_on_model(r, edge_model_text(1), walk_on, &w));
    return edge_on_mamba(r, walk_on, &w);
}

/* ---- calls ---- */

fh1_status edge_feed(law_run *run, law_session *s, int first, const int64_t *n)
{
    law_row rows[LAW_ROWS];
    int64_t T = 0;
    for (int64_t b = 0; b < s->B; ++b) T = n[b] > T ? n[b] : T;
    for (int64_t b = 0; b < s->B; ++b) rows[b] = (law_row){run->text[first + b], 0, n[b], T - n[b]};
    return gld_session_rows(s, rows, 0);
}

fh1_status edge_feed_all(law_run *run, law_session *s, int first, int64_t n)
{
    int64_t each[LAW_ROWS];
    for (int b = 0; b < LAW_ROWS; ++b) each[b] = n;
    return edge_feed(run, s, first, each);
}

fh1_status edge_open(law_run *run, fh1_engine *e, int64_t B, int first, int64_t n, law_session **s)
{
    FH1_TRY(gld_session_open(run, e, B, s));
    return n > 0 ? edge_feed_all(run, *s, first, n) : NULL;
}

fh1_status edge_take_all(const law_session *s, bool exact, law_side *out)
{
    for (int64_t b = 0; b < s->B; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, exact, out));
    return NULL;
}

fh1_status edge_take_alone(law_run *run, fh1_engine *e, const int64_t *text, int64_t n, law_side *out)
{
    law_session *s;
    FH1_TRY(gld_session_solo(run, e, text, (int64_t[]){n, 0}, &s));
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

fh1_status edge_restart_row(law_session *s, int64_t b)
{
    FH1_TRY(s->e->cache_ops->truncate(s->cache, b, 0));
    memset(s->real[b], 0, (size_t)s->n_cols);
    s->n[b] = 0;
    s->padded = true;
    return NULL;
}

fh1_status edge_alone(law_run *run, const law_session *from, int64_t b, law_session **s)
{
    FH1_TRY(gld_session_fork(run, from, s));
    return gld_session_reorder(run, *s, &b, 1);
}

/* ---- parts ---- */

static bool of(int parts, int part)
{
    return parts & (part == FH1_CACHE_CONV ? EDGE_WINDOW : part == FH1_CACHE_SSM ? EDGE_STATE : EDGE_KEYS);
}

static size_t width_of(const law_session *s)
{
    return s->cache->dtype == FH1_F64 ? 8 : 4;
}

fh1_status edge_copy_parts(law_session *to, int64_t to_row, const law_session *from, int64_t from_row, int parts)
{
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
        if (!of(parts, part)) continue;
        void *v = malloc((size_t)fh1_cache_row_elems(from->cache, from_row, (fh1_cache_part)part) * width_of(from) + 1);
        fh1_status s = v ? NULL : fh1_no_memory(1, "a part of a cache");
        for (int64_t l = 0; l < from->m->config.n_layers && !s; ++l) {
            s = fh1_cache_row_read(from->cache, from_row, l, (fh1_cache_part)part, v);
            if (!s) s = fh1_cache_row_write(to->cache, to_row, l, (fh1_cache_part)part, v);
        }
        free(v);
        FH1_TRY(s);
    }
    return NULL;
}

fh1_status edge_copy_all(law_session *to, const law_session *from, int parts)
{
    for (int64_t b = 0; b < from->B; ++b) FH1_TRY(edge_copy_parts(to, b, from, b, parts));
    return NULL;
}

fh1_status edge_fill(law_session *s, int64_t row, int parts, double value)
{
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
        if (!of(parts, part)) continue;
        const int64_t n = fh1_cache_row_elems(s->cache, row, (fh1_cache_part)part);
        void *v = malloc((size_t)n * width_of(s) + 1);
        fh1_status st = v ? NULL : fh1_no_memory((size_t)n, "a part of a cache");
        const fh1_tensor t = fh1_view1(v, s->cache->dtype, n);
        for (int64_t i = 0; i < n && !st; ++i) fh1_set(&t, i, value);
        for (int64_t l = 0; l < s->m->config.n_layers && !st; ++l)
            st = fh1_cache_row_write(s->cache, row, l, (fh1_cache_part)part, v);
        free(v);
        FH1_TRY(st);
    }
    return NULL;
}

fh1_status edge_dirty(law_session *s, int64_t row, double value)
{
    s->cache->rows[row].doc = 0; /* a row without a document begins one, from zeros */
    return edge_fill(s, row, EDGE_MEMORY, value);
}

/* The tokens of all earlier calls as those of one. */
static fh1_status book(fh1_cache *to, const fh1_cache *from)
{
    int64_t begin[LAW_ROWS + 1] = {0}, M = 0;
    for (int64_t b = 0; b < from->B; ++b) M = begin[b + 1] = M + from->rows[b].n;
    int64_t *col = malloc((size_t)(2 * M + 1) * sizeof *col), *doc = col + M;
    if (!col) return fh1_no_memory((size_t)M * sizeof *col, "the books of a cache");
    for (int64_t b = 0; b < from->B; ++b)
        for (int64_t i = 0; i < from->rows[b].n; ++i) {
            const fh1_cache_row *r = &from->rows[b];
            col[begin[b] + i] = r->col[i];
            doc[begin[b] + i] = i < r->doc_begin ? r->doc - 1 : r->doc; /* of the earlier ones nothing is booked */
        }
    const fh1_tokens t = {.B = from->B,
                          .T = from->n_cols,
                          .M = M,
                          .row_begin = begin,
                          .col = col,
                          .doc = doc,
                          .max_position = from->rope_seq_len - 1};
    fh1_status s = fh1_cache_prepare(to, &t);
    if (!s) fh1_cache_commit(to, &t);
    free(col);
    return s;
}

fh1_status edge_empty_like(law_run *run, const law_session *from, law_session **s)
{
    FH1_TRY(gld_session_open(run, from->e, from->B, s));
    (*s)->n_cols = from->n_cols;
    (*s)->padded = from->padded;
    for (int64_t b = 0; b < from->B; ++b) {
        (*s)->n[b] = from->n[b];
        memcpy((*s)->real[b], from->real[b], (size_t)from->room);
        memcpy((*s)->logits[b], from->logits[b], (size_t)(from->n[b] * from->kept) * sizeof(double));
    }
    return book((*s)->cache, from->cache);
}

fh1_status edge_swapped(law_run *run, const law_session *from, int parts, law_session **s)
{
    FH1_TRY(edge_empty_like(run, from, s));
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
        fh1_tensor t = fh1_cache_shape(from->cache, (fh1_cache_part)part);
        if (!(t.data = malloc(fh1_n_bytes(&t) + 1))) return fh1_no_memory(fh1_n_bytes(&t), "a part of a cache");
        fh1_status st = NULL;
        for (int64_t l = 0; l < from->m->config.n_layers && !st; ++l) {
            st = fh1_cache_export(from->cache, l, (fh1_cache_part)part, &t);
            if (!st && of(parts, part)) st = fh1_cache_import((*s)->cache, l, (fh1_cache_part)part, &t);
        }
        free(t.data);
        FH1_TRY(st);
    }
    return NULL;
}
