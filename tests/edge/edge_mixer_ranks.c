/* D-75: the mixer of one layer, computed by 2 and 4 ranks that hold a part of its heads each. */
#include "tests/edge/edge_mixer.h"

#include <stdlib.h>
#include <string.h>

enum { T = 11, MOST_RANKS = 4 };

typedef struct {
    edge_run *r;
    const double *x; /* [T, D]: the normalised input, ssm_in_multiplier applied */
    int ranks;
} split;

/* One rank at work: its heads, the groups that it holds. */
typedef struct {
    law_run *run;
    fh1_engine *e;
    const split *s;
    const fh1_layer *l;
    const fh1_config *c;
    int ranks, rank, from;  /* whose rows of z, x and dt it takes */
    int64_t H, d, G, group; /* local heads, channels, groups, and the first of these */
} rank;

static bool plants(const rank *k, const char *name)
{
    return k->ranks > 1 && edge_plants(k->s->r, name);
}

static fh1_tensor rows(const fh1_tensor *t, int64_t first, int64_t n)
{
    if (!t->data) return *t;
    fh1_tensor part = *t;
    const int64_t width = fh1_n_elems(t) / t->shape[0];
    part.data = (char *)t->data + (size_t)(first * width * fh1_dtype_bits(t->dtype)) / 8;
    part.shape[0] = n;
    return part;
}

static double *room(const rank *k, int64_t n)
{
    return gld_law_room(k->run, n);
}

/* The five segments of in_proj: where each begins, and which of its rows are this rank's. Planted: a rank takes its
 * share of all rows as they stand. */
static void segment_rows(const rank *k, int i, int64_t *first, int64_t *n)
{
    const int64_t d = k->c->d_ssm, GN = k->c->G * k->c->N, N = k->c->N;
    const int64_t begin[] = {0, d, 2 * d, 2 * d + GN, 2 * d + 2 * GN};
    const int64_t local[] = {k->d, k->d, k->G * N, k->G * N, k->H};
    const int64_t own[] = {k->from * k->d, k->from * k->d, k->group * N, k->group * N, k->from * k->H};
    *n = local[i];
    *first = begin[i] + own[i];
    if (!plants(k, "rank_takes_an_even_share_of_in_proj") || k->c->G % k->ranks) return;
    *first = k->rank * fh1_in_proj_dim(k->c) / k->ranks;
    for (int j = 0; j < i; ++j) *first += local[j];
}

/* A segment of in_proj for all tokens, times its multiplier. */
static fh1_status project(const rank *k, int i, double **out)
{
    int64_t first, n;
    segment_rows(k, i, &first, &n);
    const fh1_tensor w = rows(&k->l->in_w, first, n), b = rows(&k->l->in_b, first, n);
    const void *x = gld_law_cast(k->run, k->e, k->s->x, T * k->c->D);
    void *y = gld_law_cast(k->run, k->e, NULL, T * n);
    *out = room(k, T * n);
    if (!x || !y || !*out) return fh1_no_memory(0, "a rank");
    FH1_TRY(k->e->ops->linear(k->e, T, x, &w, &b, y));
    fh1_to_f64(*out, y, k->e->dtype, T * n);
    for (int64_t j = 0; j < T * n; ++j) (*out)[j] *= k->c->m_ssm[i];
    return NULL;
}

/* Conv of one segment's channels: 1 x, 2 B, 3 C. */
static fh1_status convolve(const rank *k, int i, double **v)
{
    const int64_t d = k->c->d_ssm, GN = k->c->G * k->c->N, begin[] = {0, 0, d, d + GN};
    const int64_t n = i == 1 ? k->d : k->G * k->c->N, first = begin[i] + (i == 1 ? k->rank * k->d : k->group * k->c->N);
    const fh1_tensor w = rows(&k->l->conv_w, first, n), b = rows(&k->l->conv_b, first, n);
    const void *x = gld_law_cast(k->run, k->e, *v, T * n);
    void *y = gld_law_cast(k->run, k->e, NULL, T * n), *window = gld_law_cast(k->run, k->e, NULL, n * (k->c->K - 1));
    if (!x || !y || !window) return fh1_no_memory(0, "a rank");
    FH1_TRY(k->e->ops->conv1d(k->e, T, n, k->c->K, x, &w, &b, NULL, 0, window, y));
    fh1_to_f64(*v, y, k->e->dtype, T * n);
    return NULL;
}

static fh1_status scan(const rank *k, double *const seg[5], double **y)
{
    const fh1_tensor bias = rows(&k->l->dt_bias, k->rank * k->H, k->H);
    const void *raw = gld_law_cast(k->run, k->e, seg[4], T * k->H);
    void *dt = gld_law_cast(k->run, k->e, NULL, T * k->H);
    double *dt64 = room(k, T * k->H), *state = room(k, k->d * k->c->N);
    if (!raw || !dt || !dt64 || !state) return fh1_no_memory(0, "a rank");
    FH1_TRY(k->e->ops->dt_softplus(k->e, T, k->H, raw, &bias, k->c->dt_lo, k->c->dt_hi, dt));
    fh1_to_f64(dt64, dt, k->e->dtype, T * k->H);
    const law_scan s = {.T = T,
                        .H = k->H,
                        .P = k->c->P,
                        .N = k->c->N,
                        .G = k->G,
                        .x = seg[1],
                        .B = seg[2],
                        .C = seg[3],
                        .dt = dt64,
                        .state = state,
                        .A_log = rows(&k->l->A_log, k->rank * k->H, k->H),
                        .D = rows(&k->l->D, k->rank * k->H, k->H)};
    law_out of_y, of_state;
    FH1_TRY(gld_run_scan(k->run, k->e, &s, &of_y, &of_state));
    *y = of_y.v;
    return NULL;
}

/* in_proj to scan: y and z [T, local channels]. */
static fh1_status work(const rank *k, double **y, double **z)
{
    double *seg[5];
    for (int i = 0; i < 5; ++i) FH1_TRY(project(k, i, &seg[i]));
    for (int i = 1; i < 4; ++i) FH1_TRY(convolve(k, i, &seg[i]));
    *z = seg[0];
    return scan(k, seg, y);
}

static rank rank_of(law_run *run, fh1_engine *e, law_road road, const split *s, int ranks, int i)
{
    const fh1_config *c = &run->m->config;
    rank k = {.run = run, .e = e, .s = s, .l = &run->m->layers[0], .c = c, .ranks = ranks, .rank = i, .from = i};
    k.H = c->H / ranks;
    k.d = c->d_ssm / ranks;
    k.G = c->G >= ranks ? c->G / ranks : 1; /* fewer groups than ranks: replicated */
    k.group = i * c->G / ranks;
    if (c->G < ranks && plants(&k, "replicated_group_by_modulo")) k.group = i % c->G;
    if (road == LAW_PLANTED) k.from = (i + 1) % ranks;
    return k;
}

/* A part of [T, from_width] into columns of [T, to_width]. */
static void place(double *to, int64_t to_width, int64_t at, const double *from, int64_t width)
{
    for (int64_t t = 0; t < T; ++t) memcpy(to + t * to_width + at, from + t * width, (size_t)width * sizeof *to);
}

static fh1_status gate(const rank *k, const double *y, const double *z, int64_t d, int64_t G, int64_t first,
                       double **out)
{
    const law_gate g = {.M = T,
                        .d = d,
                        .G = G,
                        .y = y,
                        .z = z,
                        .w = rows(&k->l->norm, first, d),
                        .eps = k->c->eps,
                        .norm_before_gate = k->c->norm_before_gate};
    law_out o;
    FH1_TRY(gld_run_gated_norm(k->run, k->e, &g, &o));
    *out = o.v;
    return NULL;
}

/* Groups that a rank holds whole are normed by it alone; one that is spread over ranks is gathered first. */
static fh1_status gate_all(const rank *k, double *const y[], double *const z[], double *out)
{
    const int64_t d = k[0].c->d_ssm;
    const bool alone = k[0].c->G % k[0].ranks == 0 || !k[0].l->norm.data || plants(k, "spread_group_normed_per_rank");
    double *part;
    for (int i = 0; alone && i < k[0].ranks; ++i) {
        const int64_t G = plants(k, "norm_over_the_whole_rank") ? 1 : k[i].G;
        FH1_TRY(gate(&k[i], y[i], z[i], k[i].d, G, i * k[i].d, &part));
        place(out, d, i * k[i].d, part, k[i].d);
    }
    if (alone) return NULL;
    double *all_y = room(k, T * d), *all_z = room(k, T * d);
    if (!all_y || !all_z) return fh1_no_memory(0, "a rank");
    for (int i = 0; i < k[0].ranks; ++i) {
        place(all_y, d, i * k[i].d, y[i], k[i].d);
        place(all_z, d, i * k[i].d, z[i], k[i].d);
    }
    FH1_TRY(gate(k, all_y, all_z, d, k[0].c->G, 0, &part));
    memcpy(out, part, (size_t)(T * d) * sizeof *out);
    return NULL;
}

/* Columns of out_proj per rank, and the sum of what they give; its bias once. */
static fh1_status reduce(const rank *k, const double *gated, double *out)
{
    const fh1_tensor *w = &k->l->out_w;
    const int64_t d = k->c->d_ssm, D = k->c->D;
    fh1_tensor own = fh1_view2(room(k, D * k->d), w->dtype, D, k->d), none = {0};
    double *x = room(k, T * k->d), *y = room(k, T * D);
    if (!own.data || !x || !y) return fh1_no_memory(0, "a rank");
    for (int64_t i = 0; i < D * k->d; ++i) fh1_set(&own, i, fh1_get(w, i / k->d * d + k->rank * k->d + i % k->d));
    for (int64_t t = 0; t < T; ++t) memcpy(x + t * k->d, gated + t * d + k->rank * k->d, (size_t)k->d * sizeof *x);
    const bool bias = k->rank == 0 || plants(k, "bias_of_out_proj_on_every_rank");
    const void *in = gld_law_cast(k->run, k->e, x, T * k->d);
    void *part = gld_law_cast(k->run, k->e, NULL, T * D);
    if (!in || !part) return fh1_no_memory(0, "a rank");
    FH1_TRY(k->e->ops->linear(k->e, T, in, &own, bias ? &k->l->out_b : &none, part));
    fh1_to_f64(y, part, k->e->dtype, T * D);
    for (int64_t i = 0; i < T * D; ++i) out[i] += y[i];
    return NULL;
}

static fh1_status add(law_side *out, fh1_tap_id id, int64_t width, double **v)
{
    const law_tensor like = {.id = id, .n = T, .width = width, .stride = 1, .fiber = width, .samples = T};
    law_tensor *t;
    FH1_TRY(gld_side_add(out, &like, &t));
    *v = t->v;
    return NULL;
}

/* Left: one rank. Right: many. Planted: each takes the next one's rows of z, x and dt. */
static fh1_status walk_ranks(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const split *s = run->data;
    const int ranks = road == LAW_LEFT ? 1 : s->ranks;
    rank k[MOST_RANKS];
    double *y[MOST_RANKS], *z[MOST_RANKS], *gated, *summed;
    FH1_TRY(add(out, FH1_TAP_GATED, run->m->config.d_ssm, &gated));
    FH1_TRY(add(out, FH1_TAP_OUT_PROJ, run->m->config.D, &summed));
    for (int i = 0; i < ranks; ++i) {
        k[i] = rank_of(run, e, road, s, ranks, i);
        FH1_TRY(work(&k[i], &y[i], &z[i]));
    }
    FH1_TRY(gate_all(k, y, z, gated));
    for (int i = 0; i < ranks; ++i) FH1_TRY(reduce(&k[i], gated, summed));
    return NULL;
}

fh1_status edge_tensor_parallel(edge_run *r)
{
    static const char *const text[] = {
        EDGE_WIDTHS "H=8,P=4,N=8,G=1,rms_norm=0,mamba_proj_bias=1,projectors_bias=1",
        EDGE_WIDTHS "H=8,P=4,N=8,G=2,rms_norm=1,mamba_proj_bias=1,projectors_bias=1",
        EDGE_WIDTHS "H=8,P=4,N=8,G=4,rms_norm=1,mamba_proj_bias=1,projectors_bias=1",
    };
    for (size_t i = 0; i < sizeof text / sizeof *text; ++i) {
        fh1_model m;
        FH1_TRY(edge_model(r, text[i], &m));
        double *x = edge_numbers(r, "input of the ranks", T * m.config.D, 0, 1);
        fh1_status s = x ? NULL : fh1_no_memory(0, "a rank");
        for (int ranks = 2; !s && ranks <= MOST_RANKS; ranks *= 2) {
            split data = {r, x, ranks};
            s = edge_law(r, &m, 16, walk_ranks, LAW_BIT(FH1_TAP_GATED) | LAW_BIT(FH1_TAP_OUT_PROJ), &data);
            s = fh1_where(s, "%d ranks, %lld groups", ranks, (long long)m.config.G);
        }
        if (!s && i == 2) s = edge_check(r, &m, "p9;d1", r->seed); /* the whole is the truth's */
        edge_contract(r, NULL);
        free(x);
        fh1_model_free(&m);
        FH1_TRY(s);
    }
    return NULL;
}
