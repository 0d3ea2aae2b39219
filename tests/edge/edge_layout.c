/* Contents of a cache on their way through files, other layouts, swap space and the tables of a cache manager. */
#include "tests/edge/edge_moves.h"

#include "convert/safetensors.h"

#include <math.h>
#include <string.h>

/* ---- D-41: other layouts, through a file ---- */

typedef struct {
    bool k_columns;     /* the window has K columns, the oldest of no meaning */
    bool token_major;   /* keys and values [B, S, Hkv, A] */
    bool channel_major; /* window [B, columns, c], state [B, P, N, H] */
    fh1_dtype dtype;
} layout;

/* Dense strides in another order of axes: order[i] is the axis that stands at place i. */
static void lay(fh1_tensor *t, const int *order)
{
    int64_t step = 1;
    for (int i = t->rank - 1; i >= 0; --i) {
        t->stride[order[i]] = step;
        step *= t->shape[order[i]];
    }
}

/* The view of a part inside a block of the layout, *size elements long: with room behind a window, so that a wrong
 * stride reads that and not another's memory. */
static fh1_tensor view_of(const fh1_cache *c, fh1_cache_part part, const layout *l, int64_t *size)
{
    fh1_tensor t = fh1_cache_shape(c, part);
    const bool window = part == FH1_CACHE_CONV, state = part == FH1_CACHE_SSM;
    t.dtype = l->dtype;
    t.shape[2] += window && l->k_columns;
    *size = fh1_n_elems(&t) + (window ? 3 * t.shape[1] : 0);
    if (window && l->channel_major) lay(&t, (int[]){0, 2, 1});
    if (state && l->channel_major) lay(&t, t.rank == 4 ? (int[]){0, 2, 3, 1} : (int[]){0, 2, 1});
    if (!window && !state && l->token_major) lay(&t, (int[]){0, 2, 1, 3});
    t.shape[2] -= window && l->k_columns;
    return t;
}

/* The newest K - 1 of the K columns. */
static void *newest(const layout *l, fh1_cache_part part, const fh1_tensor *t, void *block)
{
    const int64_t skip = l->k_columns && part == FH1_CACHE_CONV ? t->stride[2] : 0;
    return (char *)block + (size_t)skip * (size_t)fh1_dtype_bits(t->dtype) / 8;
}

static const char *name_of(int64_t layer, int part, char name[32])
{
    snprintf(name, 32, "%lld.%d", (long long)layer, part);
    return name;
}

static fh1_status save_part(const fh1_cache *c, int64_t layer, int part, const layout *l, cvt_st_writer *w)
{
    char name[32];
    int64_t size;
    fh1_tensor t = view_of(c, (fh1_cache_part)part, l, &size);
    void *block = malloc((size_t)size * 8);
    if (!block) return fh1_no_memory((size_t)size * 8, "a part of a cache");
    const fh1_tensor all = fh1_view1(block, l->dtype, size);
    for (int64_t i = 0; i < size; ++i) fh1_set(&all, i, (double)NAN);
    t.data = newest(l, (fh1_cache_part)part, &t, block);
    fh1_status s = fh1_cache_export(c, layer, (fh1_cache_part)part, &t);
    if (!s) s = cvt_st_writer_put(w, name_of(layer, part, name), 0, block, size);
    free(block);
    return s;
}

static fh1_status save(const fh1_cache *c, const layout *l, const char *path)
{
    cvt_st_writer *w;
    char name[32];
    FH1_TRY(cvt_st_writer_new(path, true, &w));
    fh1_status s = NULL;
    for (int pass = 0; pass < 2; ++pass) /* declare, then write */
        for (int64_t i = 0; i < c->config->n_layers; ++i)
            for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM && !s; ++part) {
                int64_t size;
                view_of(c, (fh1_cache_part)part, l, &size);
                s = pass ? save_part(c, i, part, l, w)
                         : cvt_st_writer_declare(w, name_of(i, part, name), l->dtype, 1, &size);
            }
    if (!s) s = cvt_st_writer_commit(w);
    cvt_st_writer_free(w);
    return s;
}

/* What converters get wrong. */
typedef struct {
    bool from_first_column, stride_of_four, heads_and_width;
} misread;

static fh1_status load(fh1_cache *c, const layout *l, const char *path, const misread *wrong)
{
    cvt_st *f;
    char name[32];
    FH1_TRY(cvt_st_open(path, &f));
    fh1_status s = NULL;
    for (int64_t i = 0; i < c->config->n_layers; ++i)
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM && !s; ++part) {
            int64_t size;
            const bool window = part == FH1_CACHE_CONV;
            const cvt_st_entry *at = cvt_st_find(f, name_of(i, part, name));
            fh1_tensor t = view_of(c, (fh1_cache_part)part, l, &size);
            if (!at || fh1_n_elems(&at->t) != size) {
                s = fh1_fail(FH1_E_INTERNAL, "%s is not in the file that was written", name);
                break;
            }
            t.data = newest(l, (fh1_cache_part)part, &t, at->t.data);
            if (window && wrong->from_first_column) t.data = at->t.data;
            if (window && wrong->stride_of_four && !l->channel_major) t.stride[1] = 3 + l->k_columns;
            if (part == FH1_CACHE_SSM && wrong->heads_and_width)
                lay(&t, t.rank == 4 ? (int[]){0, 2, 1, 3} : (int[]){0, 2, 1}); /* Falcon-Mamba's heads have no width */
            s = fh1_cache_import(c, i, (fh1_cache_part)part, &t);
        }
    cvt_st_close(f);
    return s;
}

/* Each number rounded where it lies: what a narrow file may keep of it. */
static fh1_status narrow(law_session *s, fh1_dtype dtype)
{
    for (int64_t b = 0; b < s->B; ++b)
        for (int64_t l = 0; l < s->m->config.n_layers; ++l)
            for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
                const int64_t n = fh1_cache_row_elems(s->cache, b, (fh1_cache_part)part);
                double *room = malloc((size_t)n * 16 + 16);
                if (!room) return fh1_no_memory((size_t)n * 16, "a part of a cache");
                const fh1_tensor mine = fh1_view1(room, s->cache->dtype, n), other = fh1_view1(room + n, dtype, n);
                fh1_status st = fh1_cache_row_read(s->cache, b, l, (fh1_cache_part)part, mine.data);
                if (!st) {
                    fh1_copy(&other, &mine);
                    fh1_copy(&mine, &other);
                    st = fh1_cache_row_write(s->cache, b, l, (fh1_cache_part)part, mine.data);
                }
                free(room);
                if (st) return st;
            }
    return NULL;
}

/* A ragged batch of three and one row; then through the file, at once and after the next step. */
static fh1_status through(law_run *run, fh1_engine *e, law_road road, int64_t B, const layout *l, law_side *out)
{
    edge_run *r = run->data;
    char path[128];
    law_session *s, *other;
    const misread wrong = {.from_first_column = edge_mistake(run, e, road, "window_read_from_the_first_of_k_columns"),
                           .stride_of_four = edge_wrong(run, e, road, "window_stride_of_four"),
                           .heads_and_width = edge_mistake(run, e, road, "heads_and_width_exchanged")};
    gld_sessions_close(run);
    snprintf(path, sizeof path, "%s/cache.safetensors", r->folder);
    FH1_TRY(gld_session_open(run, e, B, &s));
    const law_row rows[] = {{run->text[0], B == 3 ? 2 : 0, 9, 0}, {run->text[1], 0, 2, 9}, {run->text[2], 3, 7, 1}};
    FH1_TRY(gld_session_rows(s, rows, 0));
    const fh1_dtype kept = edge_wrong(run, e, road, "saved_in_bf16") && l->dtype <= FH1_F32 ? FH1_BF16 : l->dtype;
    layout laid = *l;
    laid.dtype = kept;
    if (road == LAW_LEFT) {
        FH1_TRY(narrow(s, l->dtype)); /* nothing where the file is as wide */
    } else {
        FH1_TRY(edge_empty_like(run, s, &other));
        FH1_TRY(save(s->cache, &laid, path));
        FH1_TRY(load(other->cache, &laid, path, &wrong));
        s = other;
    }
    FH1_TRY(edge_take_all(s, true, out));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(edge_take_all(s, true, out));
    for (int64_t b = 0; b < B && l->dtype == FH1_F64; ++b) { /* nothing was lost: each row is what it is alone */
        if (road == LAW_LEFT) FH1_TRY(edge_take_alone(run, e, run->text[b], s->n[b], out));
        else FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    }
    return NULL;
}

static fh1_status walk_layouts(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const layout all[] = {{true, true, true, FH1_BF16},
                                 {false, false, false, FH1_F32},
                                 {true, false, false, FH1_F64},
                                 {false, true, true, FH1_F32}};
    const bool few = edge_slow(run->data) || run->m->config.K != 4; /* every file is synced */
    for (int i = 0; i < (few ? 3 : 4) - edge_slow(run->data); ++i)
        FH1_TRY(through(run, e, road, i % 2 ? 1 : 3, &all[i], out));
    return NULL;
}

/* The usual models, and windows of other widths. */
fh1_status edge_layouts(edge_run *r)
{
    FH1_TRY(edge_walks(r, 16, walk_layouts, LAW_MEMORY));
    for (int K = 2; K <= 5; ++K) {
        char spec[160];
        fh1_model m;
        if (K == 4 || (edge_slow(r) && K != 3)) continue;
        snprintf(spec, sizeof spec,
                 "layers=2,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=%d,Q=8,weights=trained,m_key=0.59375", K);
        FH1_TRY(edge_model(r, spec, &m));
        fh1_status s = edge_law(r, &m, 16, walk_layouts, LAW_MEMORY, r);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        if (s) return fh1_where(s, "K = %d", K);
    }
    return NULL;
}

/* ---- D-45: preempted at any step ---- */

enum { STEPS = 6 }; /* half of them on a slow engine */

static int steps_of(const law_run *run)
{
    return edge_slow(run->data) ? STEPS / 2 : STEPS;
}

/* Swapped out and in before every step, the whole batch. */
static fh1_status swapped(law_run *run, fh1_engine *e, law_road road, int64_t B, law_side *out)
{
    law_session *s;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, 7, &s));
    for (int step = 0; step < steps_of(run); ++step) {
        if (road != LAW_LEFT) {
            const bool wrong = edge_mistake(run, e, road, "window_not_swapped");
            FH1_TRY(edge_swapped(run, s, wrong ? EDGE_KEYS | EDGE_STATE : EDGE_PARTS, &s));
        }
        FH1_TRY(edge_feed_all(run, s, 0, 1));
    }
    return edge_take_all(s, true, out);
}

/* Row `who` is dropped before step `at` and said again in one call, while its neighbours wait. */
static fh1_status recomputed(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t at, law_side *out)
{
    const int64_t who = B / 2, n = 7;
    law_session *s;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, n, &s));
    for (int64_t step = 0; step < steps_of(run); ++step) {
        if (step == at && road != LAW_LEFT) {
            int64_t again[LAW_ROWS] = {0};
            law_session *old;
            FH1_TRY(gld_session_fork(run, s, &old));
            if (B == 1) gld_session_reset(s);
            else FH1_TRY(edge_restart_row(s, who));
            again[who] = n + step;
            if (edge_mistake(run, e, road, "recomputed_on_the_old_state")) {
                /* the slot is found again as it was left */
                FH1_TRY(edge_feed(run, s, 0, (const int64_t[]){again[0] ? 1 : 0, again[1] ? 1 : 0, 0}));
                again[who]--;
                FH1_TRY(edge_copy_parts(s, who, old, who, EDGE_MEMORY));
            }
            FH1_TRY(edge_feed(run, s, 0, again));
        }
        FH1_TRY(edge_feed_all(run, s, 0, 1));
    }
    return edge_take_all(s, false, out);
}

static fh1_status walk_preempted(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const bool slow = edge_slow(run->data);
    for (int64_t B = slow ? 3 : 1; B <= 3; B += 2) {
        FH1_TRY(swapped(run, e, road, B, out));
        for (int64_t at = slow ? 2 : 0; at < steps_of(run); ++at) FH1_TRY(recomputed(run, e, road, B, at, out));
    }
    return NULL;
}

fh1_status edge_preempted(edge_run *r)
{
    return edge_walks(r, 16, walk_preempted, LAW_MEMORY);
}

/* ---- D-46: a manager that keeps the parts of all layers in one table ---- */

/* One block of the table; as wide as the widest part. */
static double *block_of(double *table, int64_t n_layers, int64_t size, int64_t layer, int part)
{
    return table + (part * n_layers + layer) * size;
}

/* Where attention and mixer of a layer get the same number, what was stored last is found by both. */
static int number_of(int part, bool by_layer_alone)
{
    return by_layer_alone && part >= FH1_CACHE_CONV ? part - FH1_CACHE_CONV : part;
}

static fh1_status stored_and_fetched(law_run *run, fh1_engine *e, law_road road, law_session *from, law_session *to)
{
    const int64_t n_layers = from->m->config.n_layers;
    const bool collide = edge_mistake(run, e, road, "caches_keyed_by_layer_alone");
    int64_t size = 0;
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part) {
        const int64_t n = fh1_cache_row_elems(from->cache, 0, (fh1_cache_part)part);
        size = n > size ? n : size;
    }
    double *table = malloc((size_t)(4 * n_layers * size) * sizeof *table);
    if (!table) return fh1_no_memory((size_t)size, "the table of a cache manager");
    fh1_status s = NULL;
    for (int fetch = 0; fetch < 2; ++fetch)
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part)
            for (int64_t l = 0; l < n_layers && !s; ++l) {
                double *block = block_of(table, n_layers, size, l, number_of(part, collide));
                s = fetch ? fh1_cache_row_write(to->cache, 0, l, (fh1_cache_part)part, block)
                          : fh1_cache_row_read(from->cache, 0, l, (fh1_cache_part)part, block);
            }
    free(table);
    return s;
}

/* One part of one layer is overwritten: no other part moves. Of the judged engine. */
static fh1_status written_alone(law_run *run, const law_session *from)
{
    edge_run *r = run->data;
    const int64_t n_layers = from->m->config.n_layers;
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part)
        for (int64_t l = 0; l < n_layers; ++l) {
            law_session *s;
            FH1_TRY(gld_session_fork(run, from, &s));
            double room[2][512], zeros[512] = {0}; /* the longest part: H P N = 256 */
            FH1_TRY(fh1_cache_row_write(s->cache, 0, l, (fh1_cache_part)part, zeros));
            for (int64_t i = 0; i < n_layers * 4; ++i) {
                const int64_t other = i / 4;
                const fh1_cache_part p = (fh1_cache_part)(i % 4);
                const size_t bytes = (size_t)fh1_cache_row_elems(s->cache, 0, p) * (s->cache->dtype == FH1_F64 ? 8 : 4);
                if (bytes > sizeof *room) return fh1_fail(FH1_E_INTERNAL, "a part of %zu bytes", bytes);
                FH1_TRY(fh1_cache_row_read(s->cache, 0, other, p, room[0]));
                FH1_TRY(fh1_cache_row_read(from->cache, 0, other, p, room[1]));
                const bool same = memcmp(room[0], room[1], bytes) == 0;
                FH1_TRY(edge_require(r, same == (other != l || (int)p != part),
                                     "part %d of layer %lld was written and part %d of layer %lld %s", part,
                                     (long long)l, (int)p, (long long)other, same ? "did not move" : "moved"));
            }
        }
    return NULL;
}

/* As many tokens as make keys and values as long as the state, and as the window. */
static fh1_status walk_colliding(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const fh1_config *c = &run->m->config;
    const int64_t token = c->Hkv * c->A;
    const int64_t same_size[] = {c->d_ssm * c->N / token, fh1_conv_dim(c) * (c->K - 1) / token, 5};
    const int n = edge_slow(run->data) ? 1 : 3;
    for (int i = 0; i < n; ++i) {
        law_session *s, *other;
        gld_sessions_close(run);
        FH1_TRY(edge_open(run, e, 1, 0, same_size[i], &s));
        if (road != LAW_LEFT) {
            if (e == run->a->engine) FH1_TRY(written_alone(run, s));
            FH1_TRY(edge_empty_like(run, s, &other));
            FH1_TRY(stored_and_fetched(run, e, road, s, other));
            s = other;
        }
        FH1_TRY(edge_feed_all(run, s, 0, 1));
        FH1_TRY(edge_feed_all(run, s, 0, 2));
        FH1_TRY(edge_take_all(s, true, out));
        if (road == LAW_LEFT) FH1_TRY(edge_take_alone(run, e, run->text[0], same_size[i] + 3, out));
        else FH1_TRY(edge_take_all(s, false, out));
    }
    return NULL;
}

fh1_status edge_colliding_keys(edge_run *r)
{
    return edge_walks(r, 20, walk_colliding, LAW_MEMORY);
}
