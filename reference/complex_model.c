/* A model over complex numbers: views of another one, with complex copies where a parameter moves. */
#include "reference/complex.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    fh1_tensor *slot;    /* in x->copy */
    fh1_tensor original; /* what stands there while nothing moves */
    double *z;           /* the complex copy, NULL until it is needed */
    bool moves;
    int64_t first; /* layer that reads it first; n_layers: what comes after the layers */
} parameter;

struct ref_complex_model {
    fh1_model *m;
    fh1_model copy; /* tables of its own, no weights of its own */
    fh1_lora *lora; /* copies of the adapters, those of x->of */
    const fh1_lora **of;
    int64_t n_lora, pad;
    fh1_grads *list; /* names of the parameters; no gradients */
    parameter *p;    /* list->n, in its order */
    bool tied;
    double
        *looked_up; /* the complex embedding as lookups see it, where row `pad` is held; else that of its parameter */
    fh1_engine *e;
    /* the function */
    fh1_batch batch;
    double divisor;
    const double *w;
    fh1_cache *cache;
    double **stream; /* [n_layers] residual streams behind each layer, pairs */
    int64_t n_labels;
    bool recording;
    int64_t first;            /* layer of the pass that runs; behind the one before it the stream is put in */
    double value, derivative; /* of the pass that runs */
};

/* -- the copied tables -- */

static fh1_lora *copy_lora(ref_complex_model *x, const fh1_lora *l)
{
    if (!l) return NULL;
    x->lora[x->n_lora] = *l;
    x->of[x->n_lora] = l;
    return &x->lora[x->n_lora++];
}

/* Adapters are alone on their weights: fh1_grads_new has seen to it. */
static fh1_status copy_tables(ref_complex_model *x)
{
    const fh1_model *m = x->m;
    const int64_t L = m->config.n_layers;
    const size_t n_lora = (size_t)(L * FH1_TAP_LAYER + 2);
    x->copy = *m;
    x->copy.layers = malloc((size_t)L * sizeof *x->copy.layers);
    x->lora = malloc(n_lora * sizeof *x->lora);
    x->of = malloc(n_lora * sizeof *x->of);
    if (!x->copy.layers || !x->lora || !x->of)
        return fh1_no_memory(n_lora * sizeof *x->lora, "the tables of a complex model");
    memcpy(x->copy.layers, m->layers, (size_t)L * sizeof *m->layers);
    for (int64_t i = 0; i < L; ++i)
        for (int t = 0; t < FH1_TAP_LAYER; ++t) x->copy.layers[i].lora[t] = copy_lora(x, m->layers[i].lora[t]);
    x->copy.embed_lora = copy_lora(x, m->embed_lora);
    x->copy.head_lora = copy_lora(x, m->head_lora);
    return NULL;
}

static fh1_tensor *moved(char *to, const void *from, size_t size, const fh1_tensor *value)
{
    const uintptr_t at = (uintptr_t)value, begin = (uintptr_t)from;
    return at >= begin && at < begin + size ? (fh1_tensor *)(void *)(to + (at - begin)) : NULL;
}

/* Where the slot of the model at `value` is in the copy. */
static fh1_tensor *slot_of(ref_complex_model *x, const fh1_tensor *value)
{
    const fh1_model *m = x->m;
    fh1_tensor *t = moved((char *)&x->copy, m, sizeof *m, value);
    if (!t) t = moved((char *)x->copy.layers, m->layers, (size_t)m->config.n_layers * sizeof *m->layers, value);
    for (int64_t i = 0; !t && i < x->n_lora; ++i) t = moved((char *)&x->lora[i], x->of[i], sizeof *x->lora, value);
    return t;
}

static bool none(void *user, const fh1_param *p)
{
    (void)user, (void)p;
    return false;
}

static int64_t first_reader(const ref_complex_model *x, const fh1_param *p)
{
    const fh1_model *m = x->m;
    if (p->layer >= 0) return p->layer;
    const bool embeds =
        p->value == &m->embed || (m->embed_lora && (p->value == &m->embed_lora->A || p->value == &m->embed_lora->B ||
                                                    p->value == &m->embed_lora->bias));
    return embeds ? -1 : m->config.n_layers;
}

static fh1_status list_parameters(ref_complex_model *x)
{
    FH1_TRY(fh1_grads_new(x->m, FH1_F64, none, NULL, &x->list));
    FH1_TRY(copy_tables(x));
    x->tied = x->list->tied_head != NULL;
    x->p = calloc((size_t)x->list->n + 1, sizeof *x->p);
    x->stream = calloc((size_t)x->m->config.n_layers, sizeof *x->stream);
    if (!x->p || !x->stream)
        return fh1_no_memory((size_t)x->list->n * sizeof *x->p, "the parameters of a complex model");
    for (int64_t i = 0; i < x->list->n; ++i) {
        const fh1_param *p = &x->list->params[i];
        x->p[i] = (parameter){.slot = slot_of(x, p->value), .original = *p->value, .first = first_reader(x, p)};
        if (!x->p[i].slot) return fh1_fail(FH1_E_INTERNAL, "%s is nowhere in its model", p->name);
    }
    return NULL;
}

fh1_status ref_complex_model_new(fh1_model *m, unsigned variants, int64_t pad, ref_complex_model **out)
{
    *out = NULL;
    ref_complex_model *x = calloc(1, sizeof *x);
    if (!x) return fh1_no_memory(sizeof *x, "a complex model");
    x->m = m;
    x->pad = pad;
    fh1_status s = list_parameters(x);
    if (!s && !(x->e = ref_complex_engine_new(variants))) s = fh1_no_memory(sizeof *x->e, "an engine");
    if (s) ref_complex_model_free(x);
    else *out = x;
    return s;
}

static void forget_function(ref_complex_model *x)
{
    for (int64_t i = 0; x->stream && i < x->m->config.n_layers; ++i) {
        free(x->stream[i]);
        x->stream[i] = NULL;
    }
    fh1_cache_free(x->cache);
    x->cache = NULL;
}

void ref_complex_model_free(ref_complex_model *x)
{
    if (!x) return;
    forget_function(x);
    for (int64_t i = 0; x->p && i < x->list->n; ++i) free(x->p[i].z);
    free(x->p);
    free(x->looked_up);
    free(x->stream);
    free(x->copy.layers);
    free(x->lora);
    free(x->of);
    fh1_grads_free(x->list);
    if (x->e) x->e->free(x->e);
    free(x);
}

/* -- directions -- */

static fh1_status find(ref_complex_model *x, const fh1_tensor *value, parameter **out)
{
    if (value == x->list->tied_head) value = x->list->embed;
    for (int64_t i = 0; i < x->list->n; ++i)
        if (x->list->params[i].value == value) {
            *out = &x->p[i];
            return NULL;
        }
    return fh1_fail(FH1_E_INTERNAL, "not the address of a parameter of this model");
}

static bool is_embedding(const ref_complex_model *x, const parameter *p)
{
    return p->slot == &x->copy.embed;
}

/* Pairs (w, 0); NULL without memory. */
static double *complex_copy(const fh1_tensor *t)
{
    const int64_t n = fh1_n_elems(t);
    double *z = malloc(((size_t)n * 2 + 1) * sizeof *z);
    for (int64_t i = 0; z && i < n; ++i) {
        z[2 * i] = fh1_get(t, i);
        z[2 * i + 1] = 0;
    }
    return z;
}

/* Whether lookups hold element i constant. */
static bool held(const ref_complex_model *x, const parameter *p, int64_t i)
{
    if (x->pad < 0) return false;
    if (is_embedding(x, p)) return i / p->original.shape[1] == x->pad;
    const bool adapter = x->copy.embed_lora && p->slot == &x->copy.embed_lora->A;
    return adapter && i % p->original.shape[1] == x->pad;
}

static fh1_status prepare(ref_complex_model *x, parameter *p)
{
    const bool twice = is_embedding(x, p) && x->tied && x->pad >= 0;
    if (!p->z) p->z = complex_copy(&p->original);
    if (p->z && twice && !x->looked_up) x->looked_up = complex_copy(&p->original);
    if (!p->z || (twice && !x->looked_up)) return fh1_no_memory(fh1_n_bytes(&p->original), "a complex weight");
    return NULL;
}

static void set_element(ref_complex_model *x, parameter *p, int64_t i, double v)
{
    const double step = FH1_COMPLEX_STEP * v;
    if (is_embedding(x, p) && x->looked_up) {
        p->z[2 * i + 1] = step;
        x->looked_up[2 * i + 1] = held(x, p, i) ? 0 : step;
    } else {
        p->z[2 * i + 1] = held(x, p, i) ? 0 : step;
    }
}

/* The engine reads the complex copy, or what was there. */
static void show(ref_complex_model *x, parameter *p, bool moves)
{
    p->moves = moves;
    *p->slot = p->original;
    if (moves) *p->slot = fh1_view(p->z, FH1_C128, p->original.rank, p->original.shape);
    if (!is_embedding(x, p) || !x->tied) return;
    x->copy.lm_head = *p->slot;
    if (moves && x->looked_up) p->slot->data = x->looked_up;
}

fh1_status ref_complex_direct(ref_complex_model *x, const fh1_tensor *value, const double *v)
{
    parameter *p = NULL;
    FH1_TRY(find(x, value, &p));
    if (!v && !p->moves) return NULL;
    FH1_TRY(prepare(x, p));
    for (int64_t i = 0, n = fh1_n_elems(&p->original); i < n; ++i) set_element(x, p, i, v ? v[i] : 0);
    show(x, p, v != NULL);
    return NULL;
}

fh1_status ref_complex_direct_element(ref_complex_model *x, const fh1_tensor *value, int64_t i, double v)
{
    parameter *p = NULL;
    FH1_TRY(find(x, value, &p));
    if (i < 0 || i >= fh1_n_elems(&p->original))
        return fh1_fail(FH1_E_INTERNAL, "a parameter has no element %lld", (long long)i);
    FH1_TRY(prepare(x, p));
    set_element(x, p, i, v);
    show(x, p, true);
    return NULL;
}

void ref_complex_clear(ref_complex_model *x)
{
    for (int64_t k = 0; k < x->list->n; ++k) {
        parameter *p = &x->p[k];
        if (!p->moves) continue;
        for (int64_t i = 0, n = fh1_n_elems(&p->original); i < n; ++i) set_element(x, p, i, 0);
        show(x, p, false);
    }
}

/* -- the function -- */

static fh1_status keep_stream(ref_complex_model *x, const fh1_tap_event *ev)
{
    const size_t bytes = fh1_n_bytes(&ev->value);
    double *s = malloc(bytes + 1);
    if (!s) return fh1_no_memory(bytes, "a residual stream");
    memcpy(s, ev->value.data, bytes);
    free(x->stream[ev->layer]);
    x->stream[ev->layer] = s;
    return NULL;
}

/* Labels that count: that of a real token's next column. */
static int64_t count_labels(const ref_complex_model *x, const fh1_tokens *t)
{
    int64_t n = 0;
    for (int64_t m = 0; m < t->M; ++m)
        n += t->col[m] + 1 < t->T && x->batch.labels[t->row[m] * t->T + t->col[m] + 1] != -100;
    return n;
}

static void add_loss(ref_complex_model *x, const fh1_tap_event *ev)
{
    const double *mean = ev->value.data;
    x->n_labels = count_labels(x, ev->tokens);
    const double share = x->divisor > 0 ? (double)x->n_labels / x->divisor : 1;
    if (x->n_labels == 0 && x->divisor > 0) return;
    x->value += mean[0] * share;
    x->derivative += (x->n_labels ? mean[1] / FH1_COMPLEX_STEP : (double)NAN) * share;
}

static void add_logits(ref_complex_model *x, const fh1_tap_event *ev)
{
    const int64_t V = ev->value.shape[1];
    const double *z = ev->value.data;
    for (int64_t i = 0; i < ev->value.shape[0]; ++i) {
        const int64_t m = ev->kept[i];
        const double *w = x->w + (ev->tokens->row[m] * ev->tokens->T + ev->tokens->col[m]) * V;
        double value = 0, derivative = 0;
        for (int64_t v = 0; v < V; ++v) {
            value += w[v] * z[2 * (i * V + v)];
            derivative += w[v] * (z[2 * (i * V + v) + 1] / FH1_COMPLEX_STEP);
        }
        x->value += value;
        x->derivative += derivative;
    }
}

static fh1_status tap(void *user, const fh1_tap_event *ev)
{
    ref_complex_model *x = user;
    if (ev->id == FH1_TAP_LAYER && x->recording) return keep_stream(x, ev);
    if (ev->id == FH1_TAP_LAYER && ev->layer == x->first - 1) /* nothing has moved yet */
        memcpy(ev->value.data, x->stream[ev->layer], fh1_n_bytes(&ev->value));
    if (ev->id == FH1_TAP_LOGITS && x->w) add_logits(x, ev);
    if (ev->id == FH1_TAP_LOSS) add_loss(x, ev);
    return NULL;
}

/* One pass of `m` from layer `first` on. */
static fh1_status pass(ref_complex_model *x, const fh1_model *m, int64_t first)
{
    const fh1_tap_sink sink = {.user = x, .tap = tap, .first_layer = first};
    x->first = first;
    x->value = x->derivative = 0;
    fh1_cache_reset(x->cache);
    return x->e->forward(x->e, m, &x->batch, x->cache, x->batch.T, NULL, &sink);
}

fh1_status ref_complex_function(ref_complex_model *x, const fh1_batch *batch, double divisor, const double *w)
{
    forget_function(x);
    if (!batch->labels && !w) return fh1_fail(FH1_E_INTERNAL, "neither labels nor weights of logits: no function");
    x->batch = *batch;
    x->divisor = divisor;
    x->w = w;
    FH1_TRY(fh1_cache_new(&x->copy.config, FH1_C128, batch->B, &x->cache));
    x->recording = true;
    fh1_status s = pass(x, x->m, 0);
    x->recording = false;
    if (s) forget_function(x);
    return s;
}

fh1_status ref_complex_value(ref_complex_model *x, double *value, double *derivative)
{
    if (!x->cache) return fh1_fail(FH1_E_INTERNAL, "a complex model without a function");
    int64_t first = x->m->config.n_layers;
    for (int64_t i = 0; i < x->list->n; ++i)
        if (x->p[i].moves && x->p[i].first < first) first = x->p[i].first;
    FH1_TRY(pass(x, &x->copy, first > 0 ? first : 0));
    *value = x->value;
    *derivative = x->derivative;
    return NULL;
}
