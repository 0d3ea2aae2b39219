/* Prefill on caches that are new, used, asked for nothing, and thrown away. */
#include "tests/edge/edge_prefill.h"

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
