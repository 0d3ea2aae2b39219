/* RoPE itself: its tables against long double, and its layout through the converters. */
#include "tests/edge/edge_positions.h"

#include "convert/checkpoint.h"
#include "convert/gguf.h"
#include "convert/hf_folder.h"
#include "convert/model_open.h"
#include "convert/native.h"
#include "oracle/compare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- D-34 ---- */

static const int64_t far_positions[] = {0, 1, 4095, 131071, 262143};
enum { N_FAR = sizeof far_positions / sizeof *far_positions };

/* Queries of layer 0 are made unit vectors of the first halves; what comes of them is cosine | sine. */
typedef struct {
    int64_t n; /* numbers of q in the call */
    int64_t A;
    double *x, *rotated;
} unit_queries;

static fh1_status turn_units(void *user, const fh1_tap_event *e)
{
    unit_queries *k = user;
    if (e->layer != 0 || (e->id != FH1_TAP_Q_PROJ && e->id != FH1_TAP_Q_ROPE)) return NULL;
    if (e->id == FH1_TAP_Q_ROPE) {
        fh1_to_f64(k->rotated, e->value.data, e->value.dtype, k->n);
        return NULL;
    }
    for (int64_t i = 0; i < k->n; ++i) k->x[i] = i % k->A < k->A / 2;
    fh1_from_f64(e->value.data, e->value.dtype, k->x, k->n);
    return NULL;
}

/* Cosine and sine of pair i at a position, from their definition. */
static void exact_turn(double theta, int64_t A, int64_t position, int64_t i, double *cosine, double *sine)
{
    const long double angle = (long double)position * powl((long double)theta, -2 * (long double)i / (long double)A);
    *cosine = (double)cosl(angle);
    *sine = (double)sinl(angle);
}

static fh1_status judge_turns(edge_run *r, const fh1_engine *e, const fh1_config *c, const unit_queries *k)
{
    fh1_engine *truth;
    fh1_gauge g;
    FH1_TRY(edge_truth(r, &truth));
    FH1_TRY(fh1_gauge_new(k->n, &g));
    fh1_status s =
        truth->gauges->rope(e->profile, c, N_FAR, c->Hq, far_positions, far_positions[N_FAR - 1] + 1, k->x, &g);
    for (int64_t i = 0; i < k->n && !s; ++i) {
        const int64_t position = far_positions[i / (c->Hq * c->A)], a = i % c->A, pair = a % (c->A / 2);
        double turn[2];
        exact_turn(c->rope.theta, c->A, position, pair, &turn[0], &turn[1]);
        const double want = turn[a >= c->A / 2], allowed = g.worst[i];
        if (!fh1_within(fabs(k->rotated[i] - want), allowed))
            s = edge_require(
                r, false, "%s of pair %lld at position %lld is %.9g, by its definition %.12g; %.3g allowed",
                a >= c->A / 2 ? "sine" : "cosine", (long long)pair, (long long)position, k->rotated[i], want, allowed);
        const bool slowest = pair == c->A / 2 - 1 && position > 0;
        if (!s && slowest)
            s = edge_require(r,
                             a >= c->A / 2 ? k->rotated[i] > 0 && k->rotated[i] < 1e-4 : fabs(k->rotated[i] - 1) < 1e-9,
                             "the slowest pair at position %lld: %.12g", (long long)position, k->rotated[i]);
    }
    fh1_gauge_free(&g);
    return s ? s : edge_require(r, true, "turns");
}

static fh1_status tables_on(edge_run *r, const fh1_model *m, void *data)
{
    const fh1_config *c = &m->config;
    const int64_t ids[N_FAR] = {1, 2, 3, 4, 5};
    unit_queries k = {.n = N_FAR * c->Hq * c->A, .A = c->A};
    const fh1_tap_sink sink = {.user = &k, .tap = turn_units};
    fh1_engine *e;
    fh1_cache *cache = NULL;
    (void)data;
    if (!(k.x = malloc((size_t)(2 * k.n) * sizeof *k.x))) return fh1_no_memory((size_t)k.n * 16, "queries");
    k.rotated = k.x + k.n;
    fh1_status s = edge_engine(r, m, &e);
    if (!s) s = fh1_cache_new(c, e->dtype, 1, &cache);
    const fh1_batch b = {.B = 1, .T = N_FAR, .ids = ids, .positions = far_positions};
    if (!s) s = e->forward(e, m, &b, cache, 0, NULL, &sink);
    if (!s) s = judge_turns(r, e, c, &k);
    fh1_cache_free(cache);
    free(k.x);
    return s;
}

fh1_status edge_rope_tables(edge_run *r)
{
    static const char *const models[] = {
        "layers=1,D=24,F=16,V=29,Hq=2,Hkv=1,A=64,H=2,P=8,N=8,G=1,K=4,Q=8,theta=1e11,max_position=262144",
        "layers=1,D=24,F=16,V=29,Hq=4,Hkv=2,A=128,H=2,P=8,N=8,G=1,K=4,Q=8,theta=1e11,max_position=262144",
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; ++i)
        FH1_TRY(fh1_where(edge_on_model(r, models[i], tables_on, NULL), "model %d", (int)i));
    return NULL;
}

/* ---- D-35 ---- */

/* A model whose q_proj and k_proj have their rows in another order; the rest is that of `m`. */
typedef struct {
    fh1_model model;
    fh1_layer *layers;
    char *rows;
} reordered;

static void reordered_free(reordered *o)
{
    free(o->layers);
    free(o->rows);
    *o = (reordered){0};
}

/* Where row i of a head of A channels stands when the pairs are neighbours. */
static int64_t interleaved(int64_t i, int64_t A)
{
    return i < A / 2 ? 2 * i : 2 * (i - A / 2) + 1;
}

static char *reorder(const fh1_tensor *from, int64_t A, bool back, char *to, fh1_tensor *out)
{
    const size_t bytes = fh1_n_bytes(from), row = bytes / (size_t)from->shape[0];
    for (int64_t i = 0; i < from->shape[0]; ++i) {
        const int64_t other = i - i % A + interleaved(i % A, A), src = back ? other : i, dst = back ? i : other;
        memcpy(to + (size_t)dst * row, (const char *)from->data + (size_t)src * row, row);
    }
    *out = *from;
    out->data = to;
    return to + bytes;
}

static fh1_status reordered_new(const fh1_model *m, bool back, reordered *o)
{
    const fh1_config *c = &m->config;
    size_t bytes = 0;
    for (int64_t i = 0; i < c->n_layers; ++i) bytes += fh1_n_bytes(&m->layers[i].q_w) + fh1_n_bytes(&m->layers[i].k_w);
    *o = (reordered){.model = *m};
    o->rows = malloc(bytes);
    o->layers = malloc((size_t)c->n_layers * sizeof *o->layers);
    if (!o->rows || !o->layers) {
        reordered_free(o);
        return fh1_no_memory(bytes, "rows of q and k");
    }
    char *to = o->rows;
    memcpy(o->layers, m->layers, (size_t)c->n_layers * sizeof *o->layers);
    for (int64_t i = 0; i < c->n_layers; ++i) {
        to = reorder(&m->layers[i].q_w, c->A, back, to, &o->layers[i].q_w);
        to = reorder(&m->layers[i].k_w, c->A, back, to, &o->layers[i].k_w);
    }
    o->model.layers = o->layers;
    return NULL;
}

typedef struct {
    const fh1_model *converted, *permuted;
} layouts;

/* Left: the folder's model. Right: the converted one. Planted: rows for pairs of neighbours. */
static fh1_status walk_layouts(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const layouts *k = r->data;
    const fh1_model *folder = r->m;
    law_session *s;
    r->m = road == LAW_LEFT ? folder : road == LAW_RIGHT ? k->converted : k->permuted;
    fh1_status st = gld_session_solo(r, e, r->text[0], (int64_t[]){6, 1, 0}, &s);
    r->m = folder;
    return st ? st : gld_session_take(s, 0, 0, -1, true, true, out);
}

static fh1_status convert(const edge_run *r, const char *folder, const char *native, const char *gguf)
{
    const cvt_write_options o = {.force = true};
    cvt_ckpt *c;
    (void)r;
    FH1_TRY(cvt_ckpt_open(folder, &c));
    fh1_status s = cvt_native_write(c, native, &o);
    if (!s) s = cvt_gguf_write(c, gguf, CVT_GGUF_F32, &o);
    cvt_ckpt_close(c);
    return s;
}

/* Rows of q and k element by element: folding and unfolding round once each, so within two units of f32 of what stood
 * in the folder. Another order of rows is anything but that. */
static fh1_status same_rows(edge_run *r, const fh1_model *a, const fh1_model *b)
{
    for (int64_t layer = 0; layer < a->config.n_layers; ++layer) {
        const fh1_tensor *left[] = {&a->layers[layer].q_w, &a->layers[layer].k_w};
        const fh1_tensor *right[] = {&b->layers[layer].q_w, &b->layers[layer].k_w};
        for (int w = 0; w < 2; ++w)
            for (int64_t i = 0; i < fh1_n_elems(left[w]); ++i) {
                const double v = fh1_get(left[w], i), got = fh1_get(right[w], i);
                if (!fh1_within(fabs(got - v), 2 * fh1_dtype_ulp(FH1_F32, v)))
                    return edge_require(r, false, "%s_proj of layer %lld, element %lld: %.9g became %.9g",
                                        w ? "k" : "q", (long long)layer, (long long)i, v, got);
            }
    }
    return edge_require(r, true, "rows");
}

/* The models of the three files, and the permuted one there and back. */
static fh1_status judge_layouts(edge_run *r, const fh1_model *folder, const fh1_model *native, const fh1_model *gguf)
{
    reordered there = {0}, back = {0}, wrong = {0};
    layouts k = {.converted = native};
    fh1_status s = reordered_new(folder, false, &there);
    if (!s) s = reordered_new(&there.model, true, &back);
    if (!s) s = reordered_new(native, false, &wrong);
    k.permuted = &there.model;
    if (edge_plants(r, "converter_interleaves_q_and_k")) k.converted = &wrong.model;
    const bool writer = edge_plants(r, "gguf_writer_interleaves_q_and_k");
    if (!s) s = same_rows(r, folder, writer ? &wrong.model : gguf);
    if (!s) s = edge_law(r, folder, 16, walk_layouts, LAW_TOKENS & ~LAW_BIT(FH1_TAP_CACHE_VALUE), &k);
    k.converted = &back.model;
    if (!s) s = edge_law(r, folder, 16, walk_layouts, LAW_TOKENS & ~LAW_BIT(FH1_TAP_CACHE_VALUE), &k);
    if (!s) s = edge_check(r, folder, "p6x3;d1", r->seed);
    edge_contract(r, r->profile); /* engines hold on to the models */
    reordered_free(&there);
    reordered_free(&back);
    reordered_free(&wrong);
    return s;
}

fh1_status edge_rope_layout(edge_run *r)
{
    char path[3][128];
    fh1_model m[3];
    static const char *const name[] = {"folder", "model.fh1", "model.gguf"};
    for (int i = 0; i < 3; ++i) snprintf(path[i], sizeof path[i], "%s/%s", r->folder, name[i]);
    FH1_TRY(cvt_hf_folder_init("golden/models/mini-0.5b/config.json", path[0], r->seed, FH1_F32, true));
    FH1_TRY(convert(r, path[0], path[1], path[2]));
    fh1_status s = NULL;
    int opened = 0;
    while (opened < 3 && !(s = cvt_model_open(path[opened], &m[opened]))) ++opened;
    if (!s) s = judge_layouts(r, &m[0], &m[1], &m[2]);
    for (int i = 0; i < opened; ++i) fh1_model_free(&m[i]);
    return s;
}
