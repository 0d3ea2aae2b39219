/* Prefill on caches that are new, used, asked for nothing, and thrown away. */
#include "tests/edge/edge_prefill.h"

#include "oracle/compare.h"

#include <math.h>
#include <string.h>

/* ---- D-03 ---- */

/* A dirty pool: other words, far positions. */
static fh1_status soil(fh1_engine *e, const fh1_model *m, fh1_cache *c, int64_t n, const int64_t *ids)
{
    int64_t all[LAW_ROWS * 16];
    for (int64_t i = 0; i < c->B * n; ++i) all[i] = ids[i % n];
    return edge_forward(e, m, &(fh1_batch){.B = c->B, .T = n, .ids = all}, c, 1, NULL);
}

/* The token in row 1 of three, which was given to it or had nothing but padding; rows 0 and 2 said n words.
 */
static fh1_status in_a_row(fh1_engine *e, const fh1_model *m, fh1_cache *c, int64_t n, int64_t token, double *logits)
{
    int64_t mask[3 * 16] = {0}, ids[3] = {token, token, token}, position[3] = {0};
    double all[3 * 64];
    for (int64_t i = 0; i < 3 * n; ++i) mask[i / n * (n + 1) + i % n] = i / n != 1;
    mask[1 * (n + 1) + n] = 1;
    const fh1_batch b = {.B = 3, .T = 1, .ids = ids, .mask = mask, .mask_len = n + 1, .positions = position};
    FH1_TRY(edge_forward(e, m, &b, c, 1, all));
    for (int64_t v = 0; v < m->config.V; ++v) logits[v] = all[m->config.V + v];
    return NULL;
}

typedef struct {
    const fh1_model *m;
    fh1_engine *e;
    fh1_cache *first; /* the token alone, or in a clean row of three */
    double want[64];
    int64_t rows, dirt[16];
} one_token;

enum { TOKEN = 7, WORDS = 5 };

/* A pool of `rows`, used as `times` says: 0 new, else other words from dirt[times] on. The row of three that is new
 * had padding while the others spoke. */
static fh1_status prepare(const one_token *o, int times, fh1_cache **out)
{
    int64_t mask[3 * WORDS];
    for (int64_t i = 0; i < 3 * WORDS; ++i) mask[i] = i / WORDS != 1;
    FH1_TRY(fh1_cache_new(&o->m->config, o->e->dtype, o->rows, out));
    if (times == 0 && o->rows == 1) return NULL;
    if (times > 0) FH1_TRY(soil(o->e, o->m, *out, WORDS, o->dirt + times));
    if (o->rows == 1) {
        o->e->cache_ops->reset(*out);
        return NULL;
    }
    if (times > 0) return o->e->cache_ops->truncate(*out, 1, 0);
    int64_t ids[3 * WORDS];
    for (int64_t i = 0; i < 3 * WORDS; ++i) ids[i] = o->dirt[i % WORDS];
    const fh1_batch b = {.B = 3, .T = WORDS, .ids = ids, .mask = mask, .mask_len = WORDS};
    return edge_forward(o->e, o->m, &b, *out, 1, NULL);
}

static fh1_status say_it(const one_token *o, fh1_cache *c, double *logits)
{
    const int64_t token = TOKEN;
    if (o->rows == 3) return in_a_row(o->e, o->m, c, WORDS, token, logits);
    return edge_forward(o->e, o->m, &(fh1_batch){.B = 1, .T = 1, .ids = &token}, c, 1, logits);
}

static fh1_status again(edge_run *r, one_token *o, int times)
{
    double logits[64];
    fh1_cache *c = NULL;
    fh1_status s = prepare(o, times, &c);
    if (!s) s = say_it(o, c, logits);
    if (!s) s = edge_same_bits(r, o->want, logits, o->m->config.V, "logits of a prompt of one token");
    if (!s) s = edge_same_row(r, c, o->rows == 3, o->first, o->rows == 3, "a prompt of one token");
    fh1_cache_free(c);
    return s;
}

static fh1_status six_times(edge_run *r, const fh1_model *m, void *data)
{
    static char schedule[] = "p1";
    one_token o = {.m = m};
    const int most = edge_is_slow(r) ? 2 : 6;
    (void)data;
    FH1_TRY(edge_engine(r, m, &o.e));
    edge_ids(r, "dirty pool", 0, m->config.V, 16, o.dirt);
    for (o.rows = 1; o.rows <= 3; o.rows += 2) {
        fh1_status s = prepare(&o, 0, &o.first);
        if (!s) s = say_it(&o, o.first, o.want);
        for (int times = 0; times < most && !s; ++times)
            s = fh1_where(again(r, &o, times), "%lld rows, time %d", (long long)o.rows, times);
        fh1_cache_free(o.first);
        o.first = NULL;
        FH1_TRY(s);
    }
    return edge_check(r, m, schedule, r->seed);
}

fh1_status edge_one_token_prompt(edge_run *r)
{
    FH1_TRY(edge_each_model(r, six_times, NULL));
    return edge_is_slow(r) ? NULL : edge_named_law(r, "single_token", 16);
}

/* ---- D-10: nothing more to say ---- */

/* A server that answers a request without new tokens with what lies in its buffer. */
static fh1_status call_of_nothing(edge_run *r, fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *c,
                                  const char *what)
{
    if (edge_plants(r, "stale_logits_for_nothing"))
        return edge_require(r, false, "%s: logits of an earlier call come back", what);
    return edge_call_refused(r, e, m, b, c, what);
}

/* No columns: refused, for one row and for three, on a new cache and on a used one. */
static fh1_status no_columns(edge_run *r, const fh1_model *m, fh1_engine *e, int64_t B)
{
    int64_t ids[LAW_ROWS * 8], mask[LAW_ROWS * 8];
    fh1_cache *c = NULL;
    edge_ids(r, "words", 0, m->config.V, B * 8, ids);
    for (int64_t i = 0; i < B * 8; ++i) mask[i] = 1;
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, B, &c));
    fh1_status s = call_of_nothing(r, e, m, &(fh1_batch){.B = B, .ids = ids}, c, "no tokens on a new cache");
    if (!s) s = edge_forward(e, m, &(fh1_batch){.B = B, .T = 5, .ids = ids}, c, 1, NULL);
    if (!s) s = call_of_nothing(r, e, m, &(fh1_batch){.B = B, .ids = ids}, c, "no tokens behind five");
    const fh1_batch masked = {.B = B, .ids = ids, .mask = mask, .mask_len = 5};
    if (!s) s = call_of_nothing(r, e, m, &masked, c, "no tokens and the mask of the past");
    fh1_cache_free(c);
    return s;
}

/* Columns of nothing but padding for `silent` rows (bits): they keep every bit, in memory and books. */
static fh1_status only_padding(edge_run *r, const fh1_model *m, fh1_engine *e, int64_t T, unsigned silent)
{
    enum { B = 3, FIRST = 6 };
    int64_t ids[B * FIRST], more[B * 4], mask[B * (FIRST + 4)];
    fh1_cache *c = NULL, *before = NULL;
    edge_ids(r, "words", 0, m->config.V, B * FIRST, ids);
    edge_ids(r, "more words", 0, m->config.V, B * 4, more);
    for (int64_t b = 0; b < B; ++b)
        for (int64_t t = 0; t < FIRST + T; ++t) mask[b * (FIRST + T) + t] = t < FIRST || !(silent >> b & 1);
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, B, &c));
    fh1_status s = edge_forward(e, m, &(fh1_batch){.B = B, .T = FIRST, .ids = ids}, c, 1, NULL);
    if (!s) s = fh1_cache_clone(c, &before);
    const fh1_batch b = {.B = B, .T = T, .ids = more, .mask = mask, .mask_len = FIRST + T};
    if (!s) s = edge_forward(e, m, &b, c, T, NULL);
    for (int64_t row = 0; row < B && !s; ++row)
        if (silent >> row & 1) s = edge_same_row(r, before, row, c, row, "a row without new tokens");
    fh1_cache_free(before);
    fh1_cache_free(c);
    return s;
}

static fh1_status nothing_on(edge_run *r, const fh1_model *m, void *data)
{
    fh1_engine *e;
    (void)data;
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(no_columns(r, m, e, 1));
    FH1_TRY(no_columns(r, m, e, 3));
    FH1_TRY(only_padding(r, m, e, 1, 2));
    FH1_TRY(only_padding(r, m, e, 3, 4));
    FH1_TRY(only_padding(r, m, e, 3, 5));
    return only_padding(r, m, e, 2, 7); /* nobody speaks */
}

fh1_status edge_no_new_tokens(edge_run *r)
{
    return edge_each_model(r, nothing_on, NULL);
}

/* ---- D-12: a cache that is thrown away ---- */

/* Which layers ran, and whether each changed the stream. */
typedef struct {
    int64_t ran, changed;
    double last[64]; /* the stream of the first channels at token 0 */
} layers_seen;

static fh1_status count_layers(void *user, const fh1_tap_event *e)
{
    layers_seen *seen = user;
    double now[64];
    if (e->id != FH1_TAP_LAYER && e->id != FH1_TAP_INPUT) return NULL;
    const int64_t n = e->value.shape[1] < 64 ? e->value.shape[1] : 64;
    fh1_to_f64(now, e->value.data, e->value.dtype, n);
    if (e->id == FH1_TAP_LAYER) {
        seen->ran++;
        seen->changed += memcmp(now, seen->last, (size_t)n * sizeof *now) != 0;
    }
    memcpy(seen->last, now, (size_t)n * sizeof *now);
    return NULL;
}

/* Scoring without a cache: all at once on a cache that nobody keeps. */
static fh1_status all_layers(edge_run *r, const fh1_model *m, void *data)
{
    int64_t ids[12];
    layers_seen seen = {0};
    const fh1_tap_sink sink = {.user = &seen, .tap = count_layers};
    fh1_engine *e;
    fh1_cache *c = NULL;
    (void)data;
    edge_ids(r, "words", 0, m->config.V, 12, ids);
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(fh1_cache_new(&m->config, e->dtype, 1, &c));
    fh1_status s = e->forward(e, m, &(fh1_batch){.B = 1, .T = 12, .ids = ids}, c, 0, NULL, &sink);
    fh1_cache_free(c);
    if (!s)
        s = edge_require(r, seen.ran == m->config.n_layers && seen.changed == seen.ran,
                         "%lld of %lld layers ran, %lld changed the stream", (long long)seen.ran,
                         (long long)m->config.n_layers, (long long)seen.changed);
    const edge_plan plans[] = {{.calls = "p1x3;c11", .engines = EDGE_REFERENCE},
                               {.calls = "p1;c11"},
                               {.calls = "p11;d1", .engines = EDGE_REFERENCE},
                               {.calls = NULL}};
    return s ? s : edge_plans(r, m, plans);
}

fh1_status edge_thrown_away(edge_run *r)
{
    return edge_each_model(r, all_layers, NULL);
}

/* ---- D-14: what is asked for does not change what is computed ---- */

typedef struct {
    int64_t n_logits;
    bool wanted, sink;
} request;

/* Looks at a tap; with the planted fault a hook that hands back what it kept in bf16. */
static fh1_status look_away(void *user, const fh1_tap_event *e)
{
    const int64_t n = fh1_n_elems(&e->value);
    if (!edge_plants(user, "hook_hands_back_bf16")) return NULL;
    for (int64_t i = 0; i < n; ++i) {
        double v;
        void *at = (char *)e->value.data + (size_t)i * (e->value.dtype == FH1_F64 ? 8 : 4);
        fh1_to_f64(&v, at, e->value.dtype, 1);
        v = fh1_round_f64(FH1_ROUND_BF16, v);
        fh1_from_f64(at, e->value.dtype, &v, 1);
    }
    return NULL;
}

/* A prefill of T columns and a step, both asked for `q`. */
static fh1_status asked(edge_run *r, fh1_engine *e, const fh1_model *m, int64_t B, int64_t T, const int64_t *ids,
                        const request *q, fh1_cache *c, double *logits)
{
    const fh1_tap_sink sink = {.user = r, .tap = look_away};
    for (int call = 0; call < 2; ++call) {
        const int64_t n = call ? 1 : T, keep = q->n_logits < n ? q->n_logits : n, len = B * keep * m->config.V;
        const fh1_batch b = {.B = B, .T = n, .ids = ids + (call ? B * T : 0)};
        void *out = malloc((size_t)len * 8 + 8);
        if (!out) return fh1_no_memory((size_t)len * 8, "logits");
        fh1_status s = e->forward(e, m, &b, c, keep, q->wanted ? out : NULL, q->sink ? &sink : NULL);
        if (!s && q->wanted) fh1_to_f64(logits, out, e->dtype, len);
        free(out);
        if (s) return s;
        logits += len;
    }
    return NULL;
}

/* What two honest sums h·w of D terms may differ by, times m_lm: 2 (D + 2) u ‖h‖ ‖w‖, and no normalised vector is
 * longer than √D times the largest weight of its norm; and one ulp of the type that logits are stored in. */
static double head_allowed(const fh1_engine *e, const fh1_model *m, int64_t v, double logit)
{
    const fh1_config *c = &m->config;
    const fh1_dtype store = fh1_profile_tap_dtype(e->profile, FH1_TAP_LOGITS, false, c);
    double largest = 0, square = 0;
    for (int64_t i = 0; i < c->D; ++i) {
        const double w = fh1_get(&m->lm_head, v * c->D + i);
        largest = fmax(largest, fabs(fh1_get(&m->final_layernorm, i)));
        square += w * w;
    }
    const double D = (double)c->D, terms = fabs(c->m_lm) * largest * sqrt(D) * sqrt(square);
    return 2 * (D + 2) * e->profile->u * terms + fh1_dtype_ulp(store, logit);
}

static fh1_status near_logits(edge_run *r, const fh1_engine *e, const fh1_model *m, const double *a, const double *b,
                              int64_t n)
{
    for (int64_t i = 0; i < n; ++i)
        if (!fh1_within(fabs(a[i] - b[i]), head_allowed(e, m, i % m->config.V, a[i])))
            return edge_require(r, false, "logit %lld of a request is %.9g, of another one %.9g", (long long)i, a[i],
                                b[i]);
    return edge_require(r, true, "logits");
}

/* The last columns of `all` (T of them) against those of another request: the same bits where all were wanted, too; a
 * head that multiplies fewer rows sums in another order. */
static fh1_status same_tail(edge_run *r, const fh1_engine *e, const fh1_model *m, int64_t B, int64_t T,
                            const request *q, const double *all, const double *some)
{
    const int64_t V = m->config.V;
    for (int call = 0; call < 2; ++call) {
        const int64_t n = call ? 1 : T, keep = q->n_logits < n ? q->n_logits : n;
        for (int64_t b = 0; b < B; ++b)
            if (keep < n) FH1_TRY(near_logits(r, e, m, all + (b * n + n - keep) * V, some + b * keep * V, keep * V));
            else FH1_TRY(edge_same_bits(r, all + b * n * V, some + b * n * V, n * V, "logits with a sink"));
        all += B * n * V;
        some += B * keep * V;
    }
    return NULL;
}

static fh1_status requests_on(edge_run *r, const fh1_model *m, void *data)
{
    static const request others[] = {{1, true, false}, {3, true, false},  {10, true, true},
                                     {1, true, true},  {0, false, false}, {10, false, true}};
    enum { T = 10, MOST = 3 * (T + 1) };
    int64_t ids[MOST];
    double want[MOST * 32], got[MOST * 32];
    fh1_engine *e;
    (void)data;
    edge_ids(r, "words", 0, m->config.V, MOST, ids);
    FH1_TRY(edge_engine(r, m, &e));
    for (int64_t B = edge_is_slow(r) ? 3 : 1; B <= 3; B += 2) {
        fh1_cache *all = NULL, *c = NULL;
        fh1_status s = fh1_cache_new(&m->config, e->dtype, B, &all);
        if (!s) s = asked(r, e, m, B, T, ids, &(request){T, true, false}, all, want);
        for (size_t i = 0; i < sizeof others / sizeof *others && !s; ++i) {
            s = fh1_cache_new(&m->config, e->dtype, B, &c);
            if (!s) s = asked(r, e, m, B, T, ids, &others[i], c, got);
            if (!s && others[i].wanted) s = same_tail(r, e, m, B, T, &others[i], want, got);
            if (!s) s = edge_same_cache(r, all, c, "a cache of another request");
            fh1_cache_free(c);
            c = NULL;
            if (s) fh1_where(s, "request %d", (int)i);
        }
        fh1_cache_free(all);
        FH1_TRY(s);
    }
    return NULL;
}

fh1_status edge_requests(edge_run *r)
{
    return edge_each_model(r, requests_on, NULL);
}
