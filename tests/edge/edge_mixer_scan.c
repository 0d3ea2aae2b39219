/* D-66, D-67, D-73: groups of B and C, the gated norm over groups, the skip D·x. */
#include "tests/edge/edge_mixer.h"

#include "oracle/random.h"

#include <stdlib.h>
#include <string.h>

static fh1_status check_text(edge_run *r, const char *text, const char *schedule)
{
    fh1_model m;
    FH1_TRY(edge_model(r, text, &m));
    fh1_status s = edge_check(r, &m, schedule, r->seed);
    edge_contract(r, NULL); /* engines may hold on to the model */
    fh1_model_free(&m);
    const char *tail = strstr(text, ",H=");
    return fh1_where(s, "%s", tail ? tail + 1 : text);
}

/* ---- D-66 ---- */

#define EIGHT_HEADS EDGE_WIDTHS "H=8,P=8,N=8,"

/* The same model with one group per head: rows of in_proj and channels of the conv for B and C are copied, head h from
 * group h / (H/G), or (planted) from h mod G. */
typedef struct {
    fh1_model own, tiled;
} expanded;

static void copy_rows(const fh1_tensor *to, int64_t first, const fh1_tensor *from, int64_t begin, int64_t n)
{
    if (!to->data) return;
    const int64_t width = fh1_n_elems(to) / to->shape[0];
    for (int64_t i = 0; i < n * width; ++i) fh1_set(to, first * width + i, fh1_get(from, begin * width + i));
}

/* Segments of `to` that begin at `first`, those of `from` at `begin`: d rows as they are, B and C per head. */
static void spread_groups(const fh1_config *c, bool tile, const fh1_tensor *to, int64_t first, const fh1_tensor *from,
                          int64_t begin)
{
    for (int64_t part = 0; part < 2; ++part)
        for (int64_t h = 0; h < c->H; ++h) {
            const int64_t g = tile ? h % c->G : h / (c->H / c->G);
            copy_rows(to, first + (part * c->H + h) * c->N, from, begin + (part * c->G + g) * c->N, c->N);
        }
}

static void expand_layer(const fh1_config *c, bool tile, const fh1_layer *to, const fh1_layer *from)
{
    const int64_t d = c->d_ssm, BC = 2 * c->G * c->N, more = 2 * c->H * c->N;
    const fh1_tensor *in[2] = {&to->in_w, &to->in_b}, *was[2] = {&from->in_w, &from->in_b};
    for (int i = 0; i < 2; ++i) {
        copy_rows(in[i], 0, was[i], 0, 2 * d);
        spread_groups(c, tile, in[i], 2 * d, was[i], 2 * d);
        copy_rows(in[i], 2 * d + more, was[i], 2 * d + BC, c->H);
    }
    const fh1_tensor *conv[2] = {&to->conv_w, &to->conv_b}, *had[2] = {&from->conv_w, &from->conv_b};
    for (int i = 0; i < 2; ++i) {
        copy_rows(conv[i], 0, had[i], 0, d);
        spread_groups(c, tile, conv[i], d, had[i], d);
    }
}

/* All but in_proj and conv are of the same shape. */
static void expand(const fh1_model *m, bool tile, fh1_model *to)
{
    for (int64_t i = 0; i < m->n_weights; ++i)
        if (fh1_same_shape(&m->weights[i].t, &to->weights[i].t))
            memcpy(to->weights[i].t.data, m->weights[i].t.data, fh1_n_bytes(&m->weights[i].t));
    for (int64_t l = 0; l < m->config.n_layers; ++l) expand_layer(&m->config, tile, &to->layers[l], &m->layers[l]);
}

/* Left: G groups. Right: as many as heads. Windows have other widths and are left out. */
static fh1_status walk_groups(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const expanded *x = run->data;
    const fh1_model *m = road == LAW_LEFT ? run->m : road == LAW_RIGHT ? &x->own : &x->tiled;
    law_session *s;
    law_side all = {0};
    FH1_TRY(edge_session(run, e, m, &s));
    FH1_TRY(gld_session_feed(s, run->text[0], 13));
    FH1_TRY(gld_session_feed(s, run->text[0] + 13, 1));
    fh1_status st = gld_session_take(s, 0, 0, -1, true, false, &all);
    for (int i = 0; i < all.n && !st; ++i) {
        law_tensor *t;
        if (all.t[i].id == FH1_TAP_CACHE_CONV) continue;
        st = gld_side_add(out, &all.t[i], &t);
        if (!st) memcpy(t->v, all.t[i].v, (size_t)(t->n * t->width) * sizeof *t->v);
    }
    gld_side_free(&all);
    return st;
}

static fh1_status groups_expand(edge_run *r, const char *text, const char *wide)
{
    fh1_model m;
    expanded x;
    FH1_TRY(edge_model(r, text, &m));
    fh1_status s = edge_model(r, wide, &x.own);
    if (s) goto first;
    if ((s = edge_model(r, wide, &x.tiled))) goto second;
    expand(&m, false, &x.own);
    expand(&m, true, &x.tiled);
    s = edge_law(r, &m, 16, walk_groups, LAW_BIT(FH1_TAP_LOGITS) | LAW_BIT(FH1_TAP_CACHE_SSM), &x);
    edge_contract(r, NULL);
    fh1_model_free(&x.tiled);
second:
    fh1_model_free(&x.own);
first:
    fh1_model_free(&m);
    return s;
}

fh1_status edge_groups(edge_run *r)
{
    static const char *const text[] = {EIGHT_HEADS "G=2,rms_norm=0", EIGHT_HEADS "G=4,rms_norm=0,mamba_proj_bias=1"};
    static const char *const wide[] = {EIGHT_HEADS "G=8,rms_norm=0", EIGHT_HEADS "G=8,rms_norm=0,mamba_proj_bias=1"};
    static const char *const normed[] = {EIGHT_HEADS "G=2,rms_norm=1", EIGHT_HEADS "G=4,rms_norm=1"};
    for (int i = 0; i < 2; ++i) {
        FH1_TRY(check_text(r, text[i], "p11;d2"));
        if (!edge_is_cuda(r)) FH1_TRY(check_text(r, normed[i], "p11x3;d2"));
        FH1_TRY(groups_expand(r, text[i], wide[i]));
    }
    return NULL;
}

/* ---- D-67 ---- */

enum { GATE_ROWS = 5, GATE_WIDTH = 64 };

typedef struct {
    const double *y, *z, *w;
    int64_t G;
    bool before;
} gate;

static law_gate part_of(const gate *g, int64_t M, int64_t d, int64_t G, const double *y, const double *z,
                        const double *w)
{
    return (law_gate){.M = M,
                      .d = d,
                      .G = G,
                      .y = y,
                      .z = z,
                      .w = fh1_view1((void *)w, FH1_F64, d),
                      .eps = 1e-5,
                      .norm_before_gate = g->before};
}

/* Left: the norm over G groups. Right: each group alone, as a norm over all it sees. Planted: one mean for all. */
static fh1_status walk_gate(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const gate *g = run->data;
    const int64_t M = GATE_ROWS, d = GATE_WIDTH, wide = d / g->G;
    const law_tensor like = {.id = FH1_TAP_GATED, .n = M, .width = d, .stride = 1, .fiber = wide, .samples = M};
    law_tensor *t;
    law_out o;
    FH1_TRY(gld_side_add(out, &like, &t));
    if (road != LAW_RIGHT) {
        const law_gate whole = part_of(g, M, d, road == LAW_LEFT ? g->G : 1, g->y, g->z, g->w);
        FH1_TRY(gld_run_gated_norm(run, e, &whole, &o));
        return gld_out_add(t, &o, NULL, 1);
    }
    double *y = gld_law_room(run, M * wide), *z = gld_law_room(run, M * wide);
    if (!y || !z) return fh1_no_memory(0, "a gate");
    for (int64_t k = 0; k < g->G; ++k) {
        for (int64_t m = 0; m < M; ++m) {
            memcpy(y + m * wide, g->y + m * d + k * wide, (size_t)wide * sizeof *y);
            memcpy(z + m * wide, g->z + m * d + k * wide, (size_t)wide * sizeof *z);
        }
        const law_gate one = part_of(g, M, wide, 1, y, z, g->w + k * wide);
        FH1_TRY(gld_run_gated_norm(run, e, &one, &o));
        if (o.allowed && !t->allowed && !(t->allowed = calloc((size_t)(M * d), sizeof(double))))
            return fh1_no_memory(0, "a gate");
        for (int64_t i = 0; i < M * wide; ++i) {
            const int64_t at = i / wide * d + k * wide + i % wide;
            t->v[at] = o.v[i];
            if (o.allowed) t->allowed[at] = o.allowed[i];
        }
    }
    return NULL;
}

static fh1_status gate_by_group(edge_run *r, const fh1_model *m)
{
    double *y = edge_numbers(r, "gate y", GATE_ROWS * GATE_WIDTH, 0, 1),
           *z = edge_numbers(r, "gate z", GATE_ROWS * GATE_WIDTH, 0, 1);
    double *w = edge_numbers(r, "gate w", GATE_WIDTH, 1, 0.3);
    fh1_status s = y && z && w ? NULL : fh1_no_memory(0, "a gate");
    for (int64_t i = 0; !s && i < GATE_ROWS * GATE_WIDTH; ++i)
        y[i] *= (double)(1 << i % GATE_WIDTH / 8); /* groups differ in size */
    for (int64_t G = 2; !s && G <= 8; G *= 4)
        for (int before = 0; !s && before < 2; ++before) {
            gate g = {y, z, w, G, before != 0};
            s = edge_law(r, m, 16, walk_gate, LAW_BIT(FH1_TAP_GATED), &g);
        }
    free(y), free(z), free(w);
    return s;
}

/* An engine that gates on the other side must be rejected. */
static fh1_status other_side_is_seen(edge_run *r, const char *text)
{
    fh1_model m;
    FH1_TRY(edge_model(r, text, &m));
    fh1_model other = m; /* the same weights */
    other.config.norm_before_gate ^= true;
    fh1_status s = edge_check_as(r, &other, &m, "p9", r->seed);
    if (!s || s->code == FH1_E_WRONG) s = edge_require(r, s != NULL, "the norm on the wrong side of the gate passes");
    edge_contract(r, NULL);
    if (!s) s = gate_by_group(r, &m);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}

fh1_status edge_gated_norm(edge_run *r)
{
    static const char *const text[] = {
        EIGHT_HEADS "G=1,rms_norm=1,norm_before_gate=1",
        EIGHT_HEADS "G=2,rms_norm=1",
        EIGHT_HEADS "G=4,rms_norm=1,norm_before_gate=1",
        EIGHT_HEADS "G=8,rms_norm=1",
        EIGHT_HEADS "G=4,rms_norm=0",
    };
    for (size_t i = 0; i < sizeof text / sizeof *text; ++i)
        if (!edge_is_cuda(r) || i == 1 || i == 2)
            FH1_TRY(check_text(r, text[i], edge_is_cuda(r) ? "p9x2;d1" : "p9x3;d2"));
    return other_side_is_seen(r, text[1]);
}

/* ---- D-73 ---- */

enum { SKIP_T = 11, SKIP_H = 4, SKIP_P = 6, SKIP_N = 5, SKIP_G = 2, SKIP_D = SKIP_H * SKIP_P };

typedef struct {
    const double *x, *B, *C, *dt, *A, *D, *state; /* A, D: [H, P], one number per head or many */
    const double *zeros;
    bool per_channel;
    int64_t Q;  /* 0: the recurrence */
    bool steps; /* token by token */
} skip;

static law_scan skip_scan(const skip *k, int64_t H, const double *A, const double *D, const double *dt)
{
    return (law_scan){.T = SKIP_T,
                      .H = H,
                      .P = SKIP_D / H,
                      .N = SKIP_N,
                      .G = SKIP_G,
                      .Q = k->Q,
                      .x = k->x,
                      .B = k->B,
                      .C = k->C,
                      .dt = dt,
                      .state = k->state,
                      .A_log = fh1_view1((void *)A, FH1_F64, H),
                      .D = fh1_view1((void *)D, FH1_F64, H)};
}

/* One token after the other through the op of a decode step. */
static fh1_status run_steps(law_run *run, fh1_engine *e, const law_scan *s, double *y)
{
    const int64_t d = SKIP_D, GN = s->G * s->N;
    void *x = gld_law_cast(run, e, s->x, SKIP_T * d), *B = gld_law_cast(run, e, s->B, SKIP_T * GN);
    void *C = gld_law_cast(run, e, s->C, SKIP_T * GN), *dt = gld_law_cast(run, e, s->dt, SKIP_T * s->H);
    void *state = gld_law_cast(run, e, s->state, d * s->N), *out = gld_law_cast(run, e, NULL, d);
    if (!x || !B || !C || !dt || !state || !out) return fh1_no_memory(0, "a scan");
    const size_t w = (size_t)fh1_dtype_bits(e->dtype) / 8;
    for (int64_t t = 0; t < SKIP_T; ++t) {
        FH1_TRY(e->ops->ssd_step(e, s->H, s->P, s->N, s->G, (char *)x + (size_t)(t * d) * w,
                                 (char *)B + (size_t)(t * GN) * w, (char *)C + (size_t)(t * GN) * w,
                                 (char *)dt + (size_t)(t * s->H) * w, &s->A_log, &s->D, state, out));
        fh1_to_f64(y + t * d, out, e->dtype, d);
    }
    return NULL;
}

/* Left: heads of width 1, a D for each channel: what D [H, P] means. Right: heads of width P with one D each, or, where
 * channels differ, the scan without a skip and D·x beside it. Planted: D of the head's first channel. */
static fh1_status walk_skip(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const skip *k = run->data;
    const law_tensor like = {
        .id = FH1_TAP_SSD, .n = SKIP_T, .width = SKIP_D, .stride = 1, .fiber = 1, .samples = SKIP_T};
    double A[SKIP_H], D[SKIP_H], *dt = gld_law_room(run, SKIP_T * SKIP_H);
    double *y = gld_law_room(run, SKIP_T * SKIP_D);
    law_tensor *t;
    law_out of_y, of_state;
    if (!dt || !y) return fh1_no_memory(0, "a scan");
    FH1_TRY(gld_side_add(out, &like, &t));
    for (int h = 0; h < SKIP_H; ++h) {
        A[h] = k->A[h * SKIP_P];
        D[h] = road == LAW_RIGHT && k->per_channel ? 0 : k->D[h * SKIP_P];
        for (int i = 0; i < SKIP_T; ++i) dt[i * SKIP_H + h] = k->dt[i * SKIP_D + h * SKIP_P];
    }
    if (road == LAW_PLANTED && !k->per_channel) D[0] += 0.5;
    law_scan s = road == LAW_LEFT ? skip_scan(k, SKIP_D, k->A, k->D, k->dt) : skip_scan(k, SKIP_H, A, D, dt);
    if (k->steps) {
        FH1_TRY(run_steps(run, e, &s, t->v));
    } else {
        FH1_TRY(gld_run_scan(run, e, &s, &of_y, &of_state));
        of_y.allowed = k->per_channel ? NULL : of_y.allowed; /* the sum beside it is not the gauge's */
        FH1_TRY(gld_out_add(t, &of_y, NULL, 1));
    }
    for (int64_t i = 0; road == LAW_RIGHT && k->per_channel && i < SKIP_T * SKIP_D; ++i)
        t->v[i] += k->D[i % SKIP_D] * k->x[i];
    return NULL;
}

static fh1_status skip_law(edge_run *r, const fh1_model *m, skip *k)
{
    for (int form = 0; form < 3; ++form) {
        k->Q = form == 1 ? 4 : 0;
        k->steps = form == 2;
        FH1_TRY(fh1_where(edge_law(r, m, 16, walk_skip, LAW_BIT(FH1_TAP_SSD), k), "%s, D per %s",
                          form == 0   ? "scan"
                          : form == 1 ? "chunks of 4"
                                      : "steps",
                          k->per_channel ? "channel" : "head"));
    }
    return NULL;
}

fh1_status edge_skip_forms(edge_run *r)
{
    fh1_model m;
    FH1_TRY(edge_model(r, edge_model_text(0), &m));
    double *v[7] = {edge_numbers(r, "skip x", SKIP_T * SKIP_D, 0, 1),
                    edge_numbers(r, "skip B", SKIP_T * SKIP_G * SKIP_N, 0, 1),
                    edge_numbers(r, "skip C", SKIP_T * SKIP_G * SKIP_N, 0, 1),
                    edge_numbers(r, "skip dt", SKIP_T * SKIP_D, 0.3, 0.05),
                    edge_numbers(r, "skip A", SKIP_D, 0, 0.5),
                    edge_numbers(r, "skip D", SKIP_D, 1, 0.5),
                    edge_numbers(r, "skip state", SKIP_D * SKIP_N, 0, 1)};
    fh1_status s = NULL;
    for (int i = 0; i < 7; ++i)
        if (!v[i]) s = fh1_no_memory(0, "a scan");
    for (int64_t i = 0; !s && i < SKIP_T * SKIP_D; ++i)
        v[3][i] = v[3][i / SKIP_P * SKIP_P]; /* Δ and A are the head's */
    for (int64_t i = 0; !s && i < SKIP_D; ++i) v[4][i] = v[4][i / SKIP_P * SKIP_P];
    skip k = {.x = v[0], .B = v[1], .C = v[2], .dt = v[3], .A = v[4], .D = v[5], .state = v[6], .per_channel = true};
    if (!s) s = skip_law(r, &m, &k);
    for (int64_t i = 0; !s && i < SKIP_D; ++i) v[5][i] = v[5][i / SKIP_P * SKIP_P];
    k.per_channel = false;
    if (!s) s = skip_law(r, &m, &k);
    if (!s) s = edge_check(r, &m, "p9;d2", r->seed);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    for (int i = 0; i < 7; ++i) free(v[i]);
    return s;
}
