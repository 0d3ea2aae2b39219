/* What stands at padding, and rows that have nothing else. */
#include "tests/edge/edge_padding.h"

#include <math.h>
#include <string.h>

/* Three rows that are padded left, not at all, and on both sides; then columns with padding on the right. */
enum { B = 3, FIRST = 14, MORE = 5, PAD = 3, MOST = B * (FIRST + MORE) };
static const int64_t left[2][B] = {{9, 0, 4}, {0, 2, 0}}, right[2][B] = {{0, 0, 2}, {2, 0, 4}};

typedef struct {
    int64_t ids[2][MOST], mask[2][MOST], positions[2][MOST];
    fh1_batch batch[2];
} padded_calls;

static void set_up(const edge_run *r, int64_t V, int64_t pad_id, padded_calls *k)
{
    int64_t said[B] = {0};
    int64_t words[B * (FIRST + MORE)];
    edge_ids(r, "words beside padding", PAD + 1, V, B * (FIRST + MORE), words);
    for (int call = 0; call < 2; ++call) {
        const int64_t T = call ? MORE : FIRST, len = call ? FIRST + MORE : FIRST;
        for (int64_t b = 0; b < B; ++b)
            for (int64_t t = 0; t < T; ++t) {
                const bool real = t >= left[call][b] && t < T - right[call][b];
                k->ids[call][b * T + t] = real ? words[b * (FIRST + MORE) + said[b]] : pad_id;
                k->positions[call][b * T + t] = real ? said[b] : 0;
                k->mask[call][b * len + len - T + t] = real;
                said[b] += real;
                if (call)
                    for (int64_t i = 0; i < FIRST; ++i) k->mask[1][b * len + i] = k->mask[0][b * FIRST + i];
            }
        k->batch[call] = (fh1_batch){.B = B,
                                     .T = T,
                                     .ids = k->ids[call],
                                     .mask = k->mask[call],
                                     .mask_len = len,
                                     .positions = k->positions[call]};
    }
}

/* A stack that masks by multiplication: padding goes through the model, its activations times 0. */
static fh1_status times_mask(void *user, const fh1_tap_event *e)
{
    const padded_calls *k = user;
    if (e->id != FH1_TAP_INPUT_LAYERNORM) return NULL;
    const int64_t rows = e->value.shape[0], D = e->value.shape[1];
    const int call = rows == B * MORE;
    for (int64_t m = 0; m < rows; ++m)
        for (int64_t i = 0; i < D; ++i) {
            void *at = (char *)e->value.data + (size_t)(m * D + i) * (e->value.dtype == FH1_F64 ? 8 : 4);
            const int64_t T = call ? MORE : FIRST, len = call ? FIRST + MORE : FIRST;
            double v;
            fh1_to_f64(&v, at, e->value.dtype, 1);
            v *= (double)k->mask[call][m / T * len + len - T + m % T];
            fh1_from_f64(at, e->value.dtype, &v, 1);
        }
    return NULL;
}

/* Both calls; logits of all columns [MOST, V]. */
static fh1_status run_calls(edge_run *r, fh1_engine *e, const fh1_model *m, padded_calls *k, fh1_cache **cache,
                            double *logits)
{
    const fh1_tap_sink sink = {.user = k, .tap = times_mask};
    const bool multiplies = edge_plants(r, "padding_times_zero");
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, B, cache));
    for (int call = 0; call < 2; ++call) {
        fh1_batch b = k->batch[call];
        const int64_t n = b.B * b.T * m->config.V;
        void *out = malloc((size_t)n * 8);
        if (!out) return fh1_no_memory((size_t)n * 8, "logits");
        if (multiplies) b.mask = NULL, b.mask_len = 0;
        fh1_status s = e->forward(e, m, &b, *cache, b.T, out, multiplies ? &sink : NULL);
        if (!s) fh1_to_f64(logits, out, e->dtype, n);
        free(out);
        if (s) return s;
        logits += n;
    }
    return NULL;
}

/* Columns of padding have no logits; what an engine writes there is none of the others' business. */
static void blank_padding(const padded_calls *k, int64_t V, double *logits)
{
    for (int call = 0; call < 2; ++call) {
        const fh1_batch *b = &k->batch[call];
        for (int64_t i = 0; i < b->B * b->T; ++i, logits += V)
            if (!b->mask[i / b->T * b->mask_len + b->mask_len - b->T + i % b->T])
                memset(logits, 0, (size_t)V * sizeof *logits);
    }
}

typedef struct {
    fh1_cache *cache;
    double logits[MOST * 32];
} outcome;

static fh1_status run_padded(edge_run *r, const fh1_model *m, int64_t pad_id, outcome *o)
{
    padded_calls k;
    fh1_engine *e;
    o->cache = NULL;
    set_up(r, m->config.V, pad_id, &k);
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = run_calls(r, e, m, &k, &o->cache, o->logits);
    blank_padding(&k, m->config.V, o->logits);
    return s;
}

static fh1_status same_outcome(edge_run *r, const fh1_model *m, const outcome *a, const outcome *b, const char *what)
{
    FH1_TRY(edge_finite(r, b->logits, MOST * m->config.V, what));
    FH1_TRY(edge_same_bits(r, a->logits, b->logits, MOST * m->config.V, what));
    return edge_same_cache(r, a->cache, b->cache, what);
}

/* ---- D-16: every id of the vocabulary ---- */

static fh1_status ids_on(edge_run *r, const fh1_model *m, void *data)
{
    static outcome first, other;
    const int64_t step = edge_is_slow(r) ? m->config.V - 1 : 1; /* a slow engine: the first and the last id */
    char what[64];
    (void)data;
    fh1_status s = run_padded(r, m, 0, &first);
    for (int64_t id = step; id < m->config.V && !s; id += step) {
        snprintf(what, sizeof what, "id %lld at padding", (long long)id);
        s = run_padded(r, m, id, &other);
        if (!s) s = same_outcome(r, m, &first, &other, what);
        fh1_cache_free(other.cache);
    }
    fh1_cache_free(first.cache);
    return s;
}

fh1_status edge_pad_ids(edge_run *r)
{
    return edge_each_model(r, ids_on, NULL);
}

/* ---- D-17: NaN, infinity and 1e30 in the embedding of the padding id ---- */

static void poison(fh1_model *m, float v)
{
    float *row = (float *)m->embed.data + PAD * m->config.D;
    for (int64_t i = 0; i < m->config.D; ++i) row[i] = i % 2 ? v : -v;
}

/* The engine has seen the edit: said as a token, the id gives NaN. */
static fh1_status bites(edge_run *r, const fh1_model *m)
{
    const int64_t id = PAD;
    double logits[64];
    fh1_engine *e;
    fh1_cache *c = NULL;
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, 1, &c));
    fh1_status s = edge_forward(e, m, &(fh1_batch){.B = 1, .T = 1, .ids = &id}, c, 1, logits);
    fh1_cache_free(c);
    return s ? s : edge_require(r, isnan(logits[0]), "a token whose embedding is NaN has logit %g", logits[0]);
}

static fh1_status poisoned(edge_run *r, const fh1_model *m, void *data)
{
    static outcome clean, spoiled;
    static const float values[] = {NAN, 1e30f, INFINITY};
    static fh1_model edited[3]; /* a model whose weights were edited is another one for an engine */
    char what[64];
    (void)data;
    fh1_status s = run_padded(r, m, PAD, &clean);
    for (size_t i = 0; i < (edge_is_slow(r) ? 1 : 3) && !s; ++i) {
        edited[i] = *m;
        poison(&edited[i], values[i]); /* of a seed, in memory of its own */
        snprintf(what, sizeof what, "%g in the embedding of the padding id", (double)values[i]);
        if (i == 0) s = bites(r, &edited[i]);
        if (!s) s = run_padded(r, &edited[i], PAD, &spoiled);
        if (!s) s = same_outcome(r, &edited[i], &clean, &spoiled, what);
        fh1_cache_free(spoiled.cache);
        spoiled.cache = NULL;
    }
    fh1_cache_free(clean.cache);
    return s;
}

fh1_status edge_pad_embeddings(edge_run *r)
{
    /* an untied head: its row of the padding id would be NaN, too */
    return edge_each_altered(r, ",tied=0", poisoned, NULL);
}

/* ---- D-18: what a row holds before its first token ---- */

/* `silent`: rows that have nothing but `T` columns of padding. */
static fh1_status zero_before(edge_run *r, const fh1_model *m, int64_t rows, int64_t T, unsigned silent)
{
    int64_t ids[B * 16], mask[B * 16];
    fh1_engine *e;
    fh1_cache *c = NULL;
    edge_ids(r, "words", 0, m->config.V, B * 16, ids);
    for (int64_t i = 0; i < rows * T; ++i) mask[i] = !(silent >> i / T & 1);
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, rows, &c));
    const fh1_batch b = {.B = rows, .T = T, .ids = ids, .mask = mask, .mask_len = T};
    fh1_status s = edge_forward(e, m, &b, c, T, NULL);
    for (int64_t row = 0; row < rows && !s; ++row)
        if (silent >> row & 1) s = edge_zero_memory(r, c, row, "before the first token");
    fh1_cache_free(c);
    return s;
}

static fh1_status zeros_on(edge_run *r, const fh1_model *m, void *data)
{
    static const int64_t lengths[] = {1, 2, 3, 4, 7, 8, 9};
    (void)data;
    for (size_t i = edge_is_slow(r) ? 5 : 0; i < (edge_is_slow(r) ? 6 : 7); ++i) {
        FH1_TRY(zero_before(r, m, 1, lengths[i], 1));
        FH1_TRY(zero_before(r, m, 3, lengths[i], 2));
        FH1_TRY(zero_before(r, m, 3, lengths[i], 5));
    }
    const edge_plan plans[] = {/* and then the tokens come, in the same call and in a later one */
                               {.calls = "p4l:3;c3", .looks = ~0ull},
                               {.calls = "p3l:2;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p8x3l:0,8,7;c4;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p9x3l:9,0,9;c1l:0,0,1;c5", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = NULL}};
    return edge_plans(r, m, plans);
}

fh1_status edge_zero_before_first(edge_run *r)
{
    return edge_each_model(r, zeros_on, NULL);
}

/* ---- D-24: another neighbour ---- */

/* Row 1 says the same beside neighbours of these words; lengths alike, so that nothing but numbers differs. */
static fh1_status beside(edge_run *r, const fh1_model *m, const char *words, outcome *o)
{
    padded_calls k;
    fh1_engine *e;
    int64_t other[MOST];
    o->cache = NULL;
    set_up(r, m->config.V, 0, &k);
    edge_ids(r, words, 0, m->config.V, MOST, other);
    for (int call = 0; call < 2; ++call)
        for (int64_t i = 0; i < k.batch[call].B * k.batch[call].T; ++i)
            if (i / k.batch[call].T != 1) k.ids[call][i] = other[i];
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = run_calls(r, e, m, &k, &o->cache, o->logits);
    blank_padding(&k, m->config.V, o->logits);
    return s;
}

/* Logits of row 1 in both calls. */
static fh1_status same_row_1(edge_run *r, int64_t V, const double *a, const double *b)
{
    const int64_t second = B * FIRST * V + MORE * V;
    FH1_TRY(edge_same_bits(r, a + FIRST * V, b + FIRST * V, FIRST * V, "logits beside other words"));
    return edge_same_bits(r, a + second, b + second, MORE * V, "logits of the second call beside other words");
}

static fh1_status neighbours_on(edge_run *r, const fh1_model *m, void *data)
{
    static outcome a, b;
    (void)data;
    fh1_status s = beside(r, m, "one neighbour", &a);
    if (!s) s = beside(r, m, "another neighbour", &b);
    if (!s) s = edge_same_row(r, a.cache, 1, b.cache, 1, "a row beside other words");
    if (!s) s = same_row_1(r, m->config.V, a.logits, b.logits);
    fh1_cache_free(a.cache);
    fh1_cache_free(b.cache);
    FH1_TRY(s);
    const edge_plan plans[] = {/* neighbours of other lengths */
                               {.calls = "p6x3r:0,5,5;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p9x3r:3,0,8;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p17x3l:11,0,16;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p30x3l:24,0,1r:0,29,0;c2", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p17x3l:11,0,0r:0,0,16;c2r:0,1,0", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
                               {.calls = NULL}};
    return edge_plans(r, m, plans);
}

fh1_status edge_neighbour(edge_run *r)
{
    return edge_each_model(r, neighbours_on, NULL);
}

/* ---- D-27: a row of nothing but padding ---- */

typedef struct {
    int64_t rows, empty; /* empty: which row, -1: none */
} crowd;

/* Two rows, or three of which one is empty; a prefill and a step. Row logits of the two in a row. */
static fh1_status speak(edge_run *r, fh1_engine *e, const fh1_model *m, crowd w, fh1_cache **c, double *logits)
{
    enum { T = 6 };
    int64_t words[2 * (T + 1)];
    const int64_t V = m->config.V;
    edge_ids(r, "words", 0, V, 2 * (T + 1), words);
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, w.rows, c));
    for (int call = 0; call < 2; ++call) {
        const int64_t n = call ? 1 : T, len = call ? T + 1 : T;
        int64_t ids[B * T] = {0}, mask[B * (T + 1)];
        double all[B * T * 32];
        int64_t speaker = 0;
        for (int64_t b = 0; b < w.rows; ++b) {
            for (int64_t i = 0; i < len; ++i) mask[b * len + i] = b != w.empty;
            for (int64_t t = 0; t < n; ++t) ids[b * n + t] = b == w.empty ? 5 : words[speaker * (T + 1) + len - n + t];
            speaker += b != w.empty;
        }
        const fh1_batch in = {.B = w.rows, .T = n, .ids = ids, .mask = mask, .mask_len = len};
        FH1_TRY(edge_forward(e, m, &in, *c, n, all));
        FH1_TRY(edge_finite(r, all, w.rows * n * V, "logits beside an empty row"));
        for (int64_t b = 0; b < w.rows; ++b) {
            if (b == w.empty) continue;
            memcpy(logits, all + b * n * V, (size_t)(n * V) * sizeof *logits);
            logits += n * V;
        }
    }
    return NULL;
}

static fh1_status empty_rows_on(edge_run *r, const fh1_model *m, void *data)
{
    enum { KEPT = 2 * 7 * 32 };
    double want[KEPT], got[KEPT];
    fh1_engine *e;
    fh1_cache *two = NULL;
    (void)data;
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = speak(r, e, m, (crowd){2, -1}, &two, want);
    for (int64_t empty = 0; empty < 3 && !s; ++empty) {
        fh1_cache *c = NULL;
        if (edge_is_slow(r) && empty == 1) continue;
        s = speak(r, e, m, (crowd){3, empty}, &c, got);
        if (!s) s = edge_zero_memory(r, c, empty, "a row of nothing but padding");
        if (!s && !edge_is_slow(r)) s = edge_same_bits(r, want, got, 2 * 7 * m->config.V, "logits beside an empty row");
        for (int64_t b = 0; b < 2 && !s && !edge_is_slow(r); ++b)
            s = edge_same_row(r, two, b, c, b + (b >= empty), "a row beside an empty one");
        fh1_cache_free(c);
    }
    fh1_cache_free(two);
    const edge_plan plans[] = {{.calls = "p6x3l:0,6,0;c1l:0,1,0", .looks = ~0ull},
                               {.calls = "p6x3l:6,0,6;c3l:3,0,2;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = NULL}};
    return s ? s : edge_plans(r, m, plans);
}

fh1_status edge_empty_row(edge_run *r)
{
    return edge_each_model(r, empty_rows_on, NULL);
}
