/* What the tests of attached adapters share: adapters made in memory, and the model that merging them in f64 gives,
 * computed here in long double from the formulas. */
#pragma once

#include "convert/model_attach.h"
#include "tests/tiny_model.h"

enum { MADE_MOST = 64, MADE_BLOCKS = 512 };

/* An adapter in the making; blocks are freed with it. */
typedef struct {
    cvt_adapter a;
    cvt_lora loras[MADE_MOST];
    cvt_replacement replacements[MADE_MOST];
    cvt_token_rows tokens[4];
    void *blocks[MADE_BLOCKS];
    int n_blocks;
    uint64_t seed;
} made;

static inline void *made_room(made *x, size_t bytes)
{
    ck_assert_int_lt(x->n_blocks, MADE_BLOCKS);
    return x->blocks[x->n_blocks++] = calloc(1, bytes ? bytes : 1);
}

static inline void made_open(made *x, uint64_t seed)
{
    memset(x, 0, sizeof *x);
    x->a.loras = x->loras;
    x->a.replacements = x->replacements;
    x->a.tokens = x->tokens;
    x->seed = seed;
    snprintf(x->a.path, sizeof x->a.path, "adapter %llu", (unsigned long long)seed);
}

static inline void made_close(made *x)
{
    for (int i = 0; i < x->n_blocks; ++i) free(x->blocks[i]);
}

/* mean + size·normal */
static inline fh1_tensor made_tensor(made *x, fh1_dtype dtype, int rank, const int64_t *shape, double mean, double size)
{
    char name[32];
    snprintf(name, sizeof name, "block %d", x->n_blocks);
    const fh1_stream s = fh1_stream_open(x->seed, name);
    fh1_tensor t = fh1_view(NULL, dtype, rank, shape);
    t.data = made_room(x, fh1_n_bytes(&t));
    for (int64_t i = 0; i < fh1_n_elems(&t); ++i) fh1_set(&t, i, mean + size * fh1_random_normal(s, (uint64_t)i));
    return t;
}

typedef enum { MADE_PLAIN, MADE_BIAS, MADE_DORA } made_kind;

/* A pair for `module`, whose weight is [out, in]; the table of an embedding is [in, out]. */
static inline cvt_lora *made_pair(made *x, const char *module, int64_t out, int64_t in, int64_t r, made_kind kind)
{
    ck_assert_int_lt(x->a.n_loras, MADE_MOST);
    cvt_lora *l = &x->loras[x->a.n_loras++];
    char *name = made_room(x, strlen(module) + 1);
    strcpy(name, module);
    *l = (cvt_lora){.module = name,
                    .embedding = tiny_ends(module, "embed_tokens") || tiny_ends(module, "embeddings"),
                    .r = r,
                    .scale = 1.7 / 3};
    l->A = made_tensor(x, FH1_F32, 2, (int64_t[]){r, in}, 0, l->embedding ? 0.5 : 1 / sqrt((double)in));
    l->B = made_tensor(x, FH1_F32, 2, (int64_t[]){out, r}, 0, 0.6 / sqrt((double)r));
    if (kind == MADE_BIAS) l->bias = made_tensor(x, FH1_F32, 1, &out, 0, 0.3);
    if (kind == MADE_DORA) l->magnitude = made_tensor(x, FH1_F32, 1, &out, 1.5, 0.2);
    return l;
}

/* One for every product of the model, in turn plain, with a bias, and (`dora`) with a norm; ranks 1 to 5. */
static inline void made_all_linear(made *x, fh1_model *m, bool dora)
{
    int n = 0;
    for (int64_t layer = 0; layer < m->config.n_layers; ++layer)
        for (int id = 0; id < FH1_TAP_LAYER; ++id) {
            char name[FH1_TAP_NAME_SIZE];
            const bool dt_proj = m->config.family == FH1_FALCON_MAMBA && id == FH1_TAP_DT;
            if (!fh1_tap_exists(&m->config, (fh1_tap_id)id) || !(dt_proj || fh1_tap_is_linear((fh1_tap_id)id)))
                continue;
            const fh1_linear p = fh1_model_linear(m, (fh1_tap_id)id, layer);
            made_kind kind = n % 3 == 1 ? MADE_BIAS : n % 3 == 2 && dora ? MADE_DORA : MADE_PLAIN;
            if (kind == MADE_BIAS && !(p.b && p.b->data)) kind = MADE_PLAIN; /* the merged model has no place for it */
            fh1_tap_name(m->config.family, (fh1_tap_id)id, layer, name);
            if (dt_proj) strcat(name, "_proj");
            made_pair(x, name, p.w->shape[0], p.w->shape[1], 1 + n++ % 5, kind);
        }
}

static inline void made_ends(made *x, const fh1_model *m, bool embed, bool head, made_kind kind)
{
    const int64_t V = m->config.V, D = m->config.D;
    if (embed) made_pair(x, fh1_embed_module(m->config.family), D, V, 3, kind == MADE_BIAS ? MADE_PLAIN : kind);
    if (head) made_pair(x, "lm_head", V, D, 2, kind);
}

static inline void made_replacement(made *x, const char *name, fh1_dtype dtype, int rank, const int64_t *shape,
                                    bool copy)
{
    cvt_replacement *r = &x->replacements[x->a.n_replacements++];
    r->name = made_room(x, strlen(name) + 1);
    strcpy(r->name, name);
    r->copy = copy;
    r->t = made_tensor(x, dtype, rank, shape, 0, 0.3);
}

/* The base in f64 and untied, its values those of `m` as it is now. */
static inline void merged_build(fh1_model *out, fh1_model *m)
{
    fh1_config c;
    fh1_config_copy(&c, &m->config);
    c.tied = false;
    tiny_build(out, &c, FH1_F64, 1);
    for (int64_t i = 0; i < out->n_weights; ++i) {
        fh1_tensor *to = fh1_model_slot(out, out->weights[i].name), *from = fh1_model_slot(m, out->weights[i].name);
        for (int64_t k = 0; k < fh1_n_elems(to); ++k) fh1_set(to, k, fh1_get(from, k));
    }
}

static inline long double merged_delta(const cvt_lora *l, double scale, int64_t out, int64_t in)
{
    long double sum = 0;
    for (int64_t k = 0; k < l->r; ++k)
        sum += (long double)fh1_get(&l->B, out * l->r + k) * fh1_get(&l->A, k * l->A.shape[1] + in);
    return scale * sum;
}

/* W + ΔW, scaled by rows where there is a norm; bias + s·b. Biases must exist where the pair has one. */
static inline void merged_add(fh1_model *out, const cvt_lora *l, double weight)
{
    char name[128];
    snprintf(name, sizeof name, "%s.weight", l->module);
    fh1_tensor *w = fh1_model_slot(out, name);
    const int64_t N = l->B.shape[0], K = l->A.shape[1];
    const double scale = l->scale * weight;
    for (int64_t n = 0; n < N; ++n) {
        long double square = 0, f = 1;
        for (int64_t k = 0; k < K; ++k) {
            const int64_t at = l->embedding ? k * N + n : n * K + k;
            const long double v = fh1_get(w, at) + merged_delta(l, scale, n, k);
            square += v * v;
        }
        if (l->magnitude.data) f = fh1_get(&l->magnitude, n) / sqrtl(square);
        for (int64_t k = 0; k < K; ++k) {
            const int64_t at = l->embedding ? k * N + n : n * K + k;
            fh1_set(w, at, (double)(f * (fh1_get(w, at) + merged_delta(l, scale, n, k))));
        }
    }
    if (!l->bias.data) return;
    snprintf(name, sizeof name, "%s.bias", l->module);
    fh1_tensor *b = fh1_model_slot(out, name);
    ck_assert_msg(b && b->data, "%s: nothing to add to", name);
    for (int64_t n = 0; n < N; ++n) fh1_set(b, n, fh1_get(b, n) + scale * fh1_get(&l->bias, n));
}
