/* Traffic: what one engine computes of every document alone, in one call on an empty cache. */
#include "golden/traffic_impl.h"

#include "oracle/compare.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const traffic_road *road;
    const fh1_model *m;
    fh1_engine *e;
    traffic_sizes sizes;
    int64_t L, V;
    int64_t *ids, *path; /* [longest document] */
    void *logits;        /* of a solo */
} soloist;

void gld_traffic_alone_free(traffic_alone *a)
{
    for (int i = 0; i < a->n; i++) free(a->run[i].memory);
    free(a->logits);
    free(a->kv);
    free(a->run);
    free(a->of);
    *a = (traffic_alone){0};
}

/* Which solos are needed: one behind every token where somebody looked, and one for what else was said. */
static fh1_status plan_solos(const traffic_road *road, traffic_alone *x)
{
    const int n = road->n_tokens;
    bool *shown = calloc((size_t)n + 1, 1);
    x->of = malloc(((size_t)n + 1) * sizeof *x->of);
    x->run = calloc((size_t)n + 1, sizeof *x->run);
    if (!shown || !x->of || !x->run) {
        free(shown);
        return fh1_no_memory((size_t)n * sizeof *x->run, "documents alone");
    }
    for (int i = 0; i < n; i++) x->of[i] = -1;
    for (int i = 0; i < road->n_looks; i++) {
        const traffic_look *look = &road->look[i];
        if (look->n) x->of[look->token[look->n - 1]] = 0;
    }
    for (int i = n - 1; i >= 0; i--) { /* the last ones are the deepest */
        if (shown[i] && x->of[i] < 0) continue;
        traffic_solo *s = &x->run[x->n];
        *s = (traffic_solo){.last = i, .n = road->token[i].position + 1};
        for (int k = i; k >= 0 && !shown[k]; k = road->token[k].parent, s->own++) shown[k] = true;
        if (x->of[i] == 0) x->of[i] = x->n;
        x->n++;
    }
    free(shown);
    return NULL;
}

void gld_traffic_path(const traffic_road *road, const traffic_solo *s, int64_t *path)
{
    int token = s->last;
    for (int64_t i = s->n - 1; i >= 0; i--, token = road->token[token].parent) path[i] = token;
}

/* The own tokens of a solo that has run on `c`: their logits, keys and values to their places. */
static fh1_status keep_solo(const soloist *j, const fh1_cache *c, const traffic_solo *s, traffic_alone *x)
{
    const traffic_sizes *z = &j->sizes;
    const int64_t first = s->n - s->own;
    for (int64_t i = 0; i < s->own; i++)
        for (int64_t v = 0; v < z->kept; v++)
            x->logits[j->path[first + i] * z->kept + v] =
                traffic_number(j->logits, j->e->dtype, i * j->V + v * z->stride);
    double *kv = malloc((size_t)(2 * j->L * s->own * z->kv + 1) * sizeof *kv);
    if (!kv) return fh1_no_memory((size_t)(2 * j->L * s->own * z->kv) * sizeof *kv, "keys and values");
    fh1_status st = gld_traffic_read(c, 0, first, kv, s->memory);
    for (int64_t lp = 0; !st && lp < 2 * j->L; lp++)
        for (int64_t i = 0; i < s->own; i++)
            memcpy(x->kv + (j->path[first + i] * 2 * j->L + lp) * z->kv, kv + (lp * s->own + i) * z->kv,
                   (size_t)z->kv * sizeof *kv);
    free(kv);
    return st;
}

static fh1_status run_solo(const soloist *j, traffic_alone *x, traffic_solo *s)
{
    fh1_cache *c = NULL;
    const int64_t memory = j->L * (j->sizes.window + j->sizes.state);
    if (x->of[s->last] >= 0 && !(s->memory = malloc((size_t)(memory + 1) * sizeof *s->memory)))
        return fh1_no_memory((size_t)memory * sizeof *s->memory, "a document alone");
    gld_traffic_path(j->road, s, j->path);
    for (int64_t i = 0; i < s->n; i++) j->ids[i] = j->road->token[j->path[i]].id;
    FH1_TRY(fh1_cache_new(&j->m->config, j->e->dtype, 1, &c));
    fh1_status st = j->e->forward(j->e, j->m, &(fh1_batch){.B = 1, .T = s->n, .ids = j->ids}, c, s->own,
                                  s->own ? j->logits : NULL, NULL);
    if (!st) st = keep_solo(j, c, s, x);
    fh1_cache_free(c);
    return st;
}

static fh1_status run_all(soloist *j, traffic_alone *x)
{
    const int64_t n = j->road->n_tokens;
    const traffic_sizes *z = &j->sizes;
    int64_t longest = 1;
    for (int i = 0; i < n; i++)
        if (j->road->token[i].position >= longest) longest = j->road->token[i].position + 1;
    j->ids = malloc((size_t)(2 * longest) * sizeof *j->ids);
    j->logits = malloc((size_t)(longest * j->V) * sizeof(double));
    x->logits = malloc((size_t)(n * z->kept + 1) * sizeof(double));
    x->kv = malloc((size_t)(2 * n * j->L * z->kv + 1) * sizeof(double));
    if (!j->ids || !j->logits || !x->logits || !x->kv)
        return fh1_no_memory((size_t)(longest * j->V) * sizeof(double), "documents alone");
    j->path = j->ids + longest;
    FH1_TRY(plan_solos(j->road, x));
    for (int i = 0; i < x->n; i++) FH1_TRY(run_solo(j, x, &x->run[i]));
    return NULL;
}

fh1_status gld_traffic_alone(const traffic_road *road, const fh1_model *m, fh1_engine *e, traffic_alone *out)
{
    soloist j = {.road = road,
                 .m = m,
                 .e = e,
                 .sizes = gld_traffic_sizes(&m->config),
                 .L = m->config.n_layers,
                 .V = m->config.V};
    const fh1_status s = run_all(&j, out);
    free(j.ids);
    free(j.logits);
    return s;
}

static void take_farther(double *to, const double *other, const double *truth, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!fh1_within(fh1_error_of(other[i], truth[i]), fh1_error_of(to[i], truth[i]))) to[i] = other[i];
}

void gld_traffic_farther(const traffic_road *road, const fh1_model *m, traffic_alone *to, const traffic_alone *other,
                         const traffic_alone *truth)
{
    const traffic_sizes z = gld_traffic_sizes(&m->config);
    const int64_t L = m->config.n_layers, n = road->n_tokens;
    take_farther(to->logits, other->logits, truth->logits, n * z.kept);
    take_farther(to->kv, other->kv, truth->kv, 2 * n * L * z.kv);
    for (int i = 0; i < to->n; i++)
        if (to->run[i].memory)
            take_farther(to->run[i].memory, other->run[i].memory, truth->run[i].memory, L * (z.window + z.state));
}
