/* Sessions of the laws: calls on one cache, and what is read back from it. */
#include "golden/law_impl.h"

#include <string.h>

/* Laws judge small models whole; of a large one this many logits per token and numbers per cache tensor. */
#define KEPT_LOGITS 1024
#define KEPT_ELEMENTS 16384

void gld_side_free(law_side *s)
{
    for (int i = 0; i < s->n; ++i) {
        free(s->t[i].v);
        free(s->t[i].allowed);
    }
    free(s->t);
    *s = (law_side){0};
}

fh1_status gld_side_add(law_side *s, const law_tensor *like, law_tensor **out)
{
    if (s->n == s->room) {
        const int room = s->room ? 2 * s->room : 32;
        law_tensor *t = realloc(s->t, (size_t)room * sizeof *t);
        if (!t) return fh1_no_memory((size_t)room * sizeof *t, "a law");
        s->t = t;
        s->room = room;
    }
    law_tensor *t = &s->t[s->n];
    *t = *like;
    t->allowed = NULL;
    if (!(t->v = calloc((size_t)(t->n * t->width + 1), sizeof *t->v)))
        return fh1_no_memory((size_t)(t->n * t->width) * sizeof *t->v, "a law");
    s->n++;
    *out = t;
    return NULL;
}

int64_t gld_other_id(const law_run *r, int64_t id)
{
    return (id + 1) % r->m->config.V;
}

static int64_t thin(int64_t n, int64_t most)
{
    return n <= most ? 1 : ((n + most - 1) / most) | 1; /* odd: heads and windows are even */
}

fh1_status gld_session_open(law_run *r, fh1_engine *e, int64_t B, law_session **out)
{
    if (r->n_open == LAW_SESSIONS) return fh1_fail(FH1_E_INTERNAL, "a law opened too many sessions");
    law_session *s = calloc(1, sizeof *s);
    if (!s) return fh1_no_memory(sizeof *s, "a law");
    r->open[r->n_open++] = *out = s;
    s->e = e;
    s->m = r->m;
    s->B = B;
    s->room = 2 * r->T + 32;
    s->stride = thin(r->m->config.V, KEPT_LOGITS);
    s->kept = (r->m->config.V + s->stride - 1) / s->stride;
    const size_t bytes = (size_t)(s->room * s->kept) * sizeof(double);
    for (int64_t b = 0; b < LAW_ROWS; ++b) {
        s->real[b] = calloc((size_t)s->room, 1);
        s->logits[b] = malloc(bytes);
        if (!s->real[b] || !s->logits[b]) return fh1_no_memory(bytes, "logits of a law");
    }
    return fh1_cache_new(&r->m->config, e->dtype, B, &s->cache);
}

void gld_sessions_close(law_run *r)
{
    while (r->n_open > 0) {
        law_session *s = r->open[--r->n_open];
        for (int64_t b = 0; b < LAW_ROWS; ++b) {
            free(s->real[b]);
            free(s->logits[b]);
        }
        fh1_cache_free(s->cache);
        free(s);
    }
}

static double value_at(const void *p, fh1_dtype t, int64_t i)
{
    return t == FH1_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

static void keep_logits(law_session *s, const fh1_batch *b, const void *out)
{
    const int64_t V = s->m->config.V;
    for (int64_t r = 0; r < b->B; ++r)
        for (int64_t t = 0; t < b->T; ++t) {
            const bool real = !b->mask || b->mask[(r + 1) * b->mask_len - b->T + t] != 0;
            s->real[r][s->n_cols + t] = real;
            s->padded |= !real;
            if (!real) continue;
            double *row = s->logits[r] + s->n[r]++ * s->kept;
            for (int64_t v = 0; v < s->kept; ++v)
                row[v] = value_at(out, s->e->dtype, (r * b->T + t) * V + v * s->stride);
        }
}

fh1_status gld_session_call(law_session *s, const fh1_batch *b)
{
    const size_t bytes = (size_t)(b->B * b->T * s->m->config.V) * (s->e->dtype == FH1_F64 ? 8 : 4);
    if (s->n_cols + b->T > s->room) return fh1_fail(FH1_E_INTERNAL, "a law fed more tokens than it has room");
    void *out = malloc(bytes);
    if (!out) return fh1_no_memory(bytes, "logits of a law");
    fh1_status st = s->e->forward(s->e, s->m, b, s->cache, b->T, out, NULL);
    if (!st) {
        keep_logits(s, b, out);
        s->n_cols += b->T;
    }
    free(out);
    return st;
}

fh1_status gld_session_rows(law_session *s, const law_row *rows, int64_t pad_id)
{
    const int64_t T = rows[0].left + rows[0].n + rows[0].right, len = s->n_cols + T, B = s->B;
    int64_t *ids = calloc((size_t)(B * (2 * T + len)), sizeof *ids), *positions = ids + B * T, *mask = ids + 2 * B * T;
    if (!ids) return fh1_no_memory((size_t)(B * (2 * T + len)) * sizeof *ids, "the inputs of a law");
    bool padded = s->padded;
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t i = 0; i < s->n_cols; ++i) mask[b * len + i] = s->real[b][i];
        for (int64_t t = 0; t < T; ++t) {
            const int64_t i = t - rows[b].left;
            const bool real = i >= 0 && i < rows[b].n;
            padded |= !real;
            ids[b * T + t] = real ? rows[b].text[s->n[b] + i] : pad_id;
            positions[b * T + t] = real ? s->n[b] + i : 0;
            mask[b * len + s->n_cols + t] = real;
        }
    }
    const fh1_batch masked = {.B = B, .T = T, .ids = ids, .mask = mask, .mask_len = len, .positions = positions};
    const fh1_batch plain = {.B = B, .T = T, .ids = ids};
    fh1_status st = gld_session_call(s, padded ? &masked : &plain);
    free(ids);
    return st;
}

fh1_status gld_session_feed(law_session *s, const int64_t *text, int64_t n)
{
    return gld_session_call(s, &(fh1_batch){.B = 1, .T = n, .ids = text});
}

fh1_status gld_session_solo(law_run *r, fh1_engine *e, const int64_t *text, const int64_t *calls, law_session **s)
{
    FH1_TRY(gld_session_open(r, e, 1, s));
    for (; *calls > 0; text += *calls++) FH1_TRY(gld_session_feed(*s, text, *calls));
    return NULL;
}

/* Rows that do not exist keep what they have. */
static void copy_books(law_session *s, const law_session *from, const int64_t *rows, int64_t n)
{
    s->n_cols = from->n_cols;
    s->padded = from->padded;
    s->B = n;
    for (int64_t b = 0; b < n; ++b) {
        const int64_t f = rows ? rows[b] : b;
        s->n[b] = from->n[f];
        memcpy(s->real[b], from->real[f], (size_t)s->room);
        memcpy(s->logits[b], from->logits[f], (size_t)(from->n[f] * s->kept) * sizeof(double));
    }
}

fh1_status gld_session_fork(law_run *r, const law_session *from, law_session **s)
{
    FH1_TRY(gld_session_open(r, from->e, 1, s));
    fh1_cache_free((*s)->cache);
    (*s)->cache = NULL;
    copy_books(*s, from, NULL, from->B);
    return from->e->cache_ops->clone(from->cache, &(*s)->cache);
}

fh1_status gld_session_restore(law_session *s, const law_session *snapshot)
{
    copy_books(s, snapshot, NULL, snapshot->B);
    return s->e->cache_ops->restore(s->cache, snapshot->cache);
}

void gld_session_reset(law_session *s)
{
    s->e->cache_ops->reset(s->cache);
    s->n_cols = 0;
    s->padded = false;
    memset(s->n, 0, sizeof s->n);
}

fh1_status gld_session_reorder(law_run *r, law_session *s, const int64_t *from, int64_t n)
{
    law_session *old;
    FH1_TRY(gld_session_open(r, s->e, 1, &old));
    copy_books(old, s, NULL, s->B);
    copy_books(s, old, from, n);
    return s->e->cache_ops->reorder(s->cache, from, n);
}

/* One part of a row, dense, wherever the engine keeps it; freed by the caller. */
static fh1_status read_part(const law_session *s, int64_t b, int64_t layer, fh1_cache_part part, void **out)
{
    const size_t bytes = (size_t)fh1_cache_row_elems(s->cache, b, part) * (s->cache->dtype == FH1_F64 ? 8 : 4);
    if (!(*out = malloc(bytes + 1))) return fh1_no_memory(bytes, "a law");
    const fh1_status st = fh1_cache_row_read(s->cache, b, layer, part, *out);
    if (st) free(*out);
    return st;
}

/* Keys or values of tokens [begin, begin + n), token by token. */
static fh1_status take_tokens(const law_session *s, int64_t b, int64_t layer, fh1_cache_part part, law_tensor like,
                              law_side *out)
{
    const fh1_config *c = &s->m->config;
    const int64_t stored = s->cache->rows[b].n;
    void *from;
    law_tensor *t;
    like.id = part == FH1_CACHE_KEY ? FH1_TAP_CACHE_KEY : FH1_TAP_CACHE_VALUE;
    like.layer = layer;
    like.width = c->Hkv * c->A;
    like.fiber = c->A;
    FH1_TRY(gld_side_add(out, &like, &t));
    FH1_TRY(read_part(s, b, layer, part, &from));
    for (int64_t i = 0; i < t->n; ++i)
        for (int64_t h = 0; h < c->Hkv; ++h)
            for (int64_t a = 0; a < c->A; ++a)
                t->v[i * t->width + h * c->A + a] =
                    value_at(from, s->cache->dtype, (h * stored + t->first_token + i) * c->A + a);
    free(from);
    return NULL;
}

static fh1_status take_memory(const law_session *s, int64_t b, int64_t layer, fh1_cache_part part, law_tensor like,
                              law_side *out)
{
    const fh1_config *c = &s->m->config;
    void *from;
    const bool window = part == FH1_CACHE_CONV;
    const int64_t len = window ? fh1_conv_dim(c) * (c->K - 1) : c->H * c->P * c->N;
    law_tensor *t;
    like.id = window ? FH1_TAP_CACHE_CONV : FH1_TAP_CACHE_SSM;
    like.layer = layer;
    like.first_token = -1;
    like.n = 1;
    like.samples = window && s->n[b] > c->K - 1 ? c->K - 1 : s->n[b];
    like.stride = thin(len, KEPT_ELEMENTS);
    like.width = (len + like.stride - 1) / like.stride;
    like.fiber = like.stride > 1 ? 1 : window ? c->K - 1 : c->N;
    FH1_TRY(gld_side_add(out, &like, &t));
    FH1_TRY(read_part(s, b, layer, part, &from));
    for (int64_t i = 0; i < t->width; ++i) t->v[i] = value_at(from, s->cache->dtype, i * t->stride);
    free(from);
    return NULL;
}

fh1_status gld_session_take(const law_session *s, int64_t b, int64_t begin, int64_t n, bool memory, bool exact,
                            law_side *out)
{
    if (s->cache->B <= b || s->cache->rows[b].n != s->n[b])
        return fh1_fail(FH1_E_WRONG, "the cache holds %lld tokens in row %lld of %lld, %lld were fed",
                        s->cache->B <= b ? -1LL : (long long)s->cache->rows[b].n, (long long)b, (long long)s->cache->B,
                        (long long)s->n[b]);
    if (n < 0) n = s->n[b] - begin;
    const law_tensor like = {.row = b, .first_token = begin, .n = n, .stride = 1, .samples = n, .exact = exact};
    law_tensor logits = like, *t;
    logits.id = FH1_TAP_LOGITS;
    logits.width = s->kept;
    logits.stride = s->stride;
    logits.fiber = s->kept;
    FH1_TRY(gld_side_add(out, &logits, &t));
    memcpy(t->v, s->logits[b] + begin * s->kept, (size_t)(n * s->kept) * sizeof *t->v);
    for (int64_t layer = 0; layer < s->m->config.n_layers; ++layer) {
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_VALUE; ++part)
            FH1_TRY(take_tokens(s, b, layer, (fh1_cache_part)part, like, out));
        for (int part = FH1_CACHE_CONV; memory && part <= FH1_CACHE_SSM; ++part)
            FH1_TRY(take_memory(s, b, layer, (fh1_cache_part)part, like, out));
    }
    return NULL;
}

fh1_status gld_session_forget(law_session *s)
{
    const size_t wide = s->cache->dtype == FH1_F64 ? 8 : 4;
    for (int64_t b = 0; b < s->cache->B; ++b)
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
            void *zeros = calloc((size_t)fh1_cache_row_elems(s->cache, b, (fh1_cache_part)part) + 1, wide);
            fh1_status st = zeros ? NULL : fh1_no_memory(wide, "a law");
            for (int64_t l = 0; l < s->m->config.n_layers && !st; ++l)
                st = fh1_cache_row_write(s->cache, b, l, (fh1_cache_part)part, zeros);
            free(zeros);
            if (st) return st;
        }
    return NULL;
}
