/* Laws of heads and of attention, on activations of the model: heads are independent of each other and of their order;
 * attention sees differences of positions, and differences of scores. */
#include "golden/law_impl.h"

#include "oracle/compare.h"

#include <math.h>
#include <string.h>

static fh1_status no_room(void)
{
    return fh1_no_memory(0, "inputs of a law");
}

/* ---- head_permutation: groups rotate by one, and so do the heads of a group ---- */

/* order[h]: which head stands in place h; heads come in `groups` runs. */
static void rotate(int64_t heads, int64_t groups, int64_t *order)
{
    const int64_t per = heads / groups;
    for (int64_t h = 0; h < heads; ++h) order[h] = (h / per + 1) % groups * per + (h % per + 1) % per;
}

/* to[t, i, :] = from[t, order[i], :], blocks of `width`. */
static double *permuted(law_run *r, const double *from, int64_t T, int64_t heads, int64_t width, const int64_t *order)
{
    double *to = gld_law_room(r, T * heads * width);
    for (int64_t t = 0; to && t < T; ++t)
        for (int64_t h = 0; h < heads; ++h)
            memcpy(to + (t * heads + h) * width, from + (t * heads + order[h]) * width, (size_t)width * sizeof *to);
    return to;
}

/* The ordinals that undo it: from[place of the old order] = ordinal in the permuted output. */
static int64_t *undo(law_run *r, int64_t T, int64_t heads, int64_t width, const int64_t *order)
{
    int64_t *from = (int64_t *)gld_law_room(r, T * heads * width);
    for (int64_t t = 0; from && t < T; ++t)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t i = 0; i < width; ++i) from[(t * heads + order[h]) * width + i] = (t * heads + h) * width + i;
    return from;
}

static fh1_status permute_scan(law_run *r, const law_acts *a, law_scan *s, const int64_t *order)
{
    const fh1_config *c = &r->m->config;
    const fh1_layer *l = &r->m->layers[a->layer];
    int64_t *group = (int64_t *)gld_law_room(r, c->G);
    const int64_t rates = fh1_n_elems(&l->A_log) / c->H; /* of a head: 1, or N */
    double *A_log = gld_law_room(r, c->H * rates), *D = gld_law_room(r, c->H);
    if (!group || !A_log || !D) return no_room();
    for (int64_t g = 0; g < c->G; ++g) group[g] = (g + 1) % c->G;
    for (int64_t h = 0; h < c->H; ++h) {
        for (int64_t n = 0; n < rates; ++n) A_log[h * rates + n] = fh1_get(&l->A_log, order[h] * rates + n);
        D[h] = fh1_get(&l->D, order[h]);
    }
    s->x = permuted(r, a->x, a->T, c->H, c->P, order);
    s->dt = permuted(r, a->dt, a->T, c->H, 1, order);
    s->B = permuted(r, a->B, a->T, c->G, c->N, group);
    s->C = permuted(r, a->C, a->T, c->G, c->N, group);
    s->state = permuted(r, a->state, 1, c->H, c->P * c->N, order);
    s->A_log = l->A_log.rank == 2 ? fh1_view2(A_log, FH1_F64, c->H, rates) : fh1_view1(A_log, FH1_F64, c->H);
    s->D = fh1_view1(D, FH1_F64, c->H);
    return s->x && s->dt && s->B && s->C && s->state ? NULL : no_room();
}

/* Planted, here and below: the outputs are left in the other order. */
static fh1_status walk_scan_heads(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const law_acts *a = r->data;
    const fh1_config *c = &r->m->config;
    const fh1_layer *l = &r->m->layers[a->layer];
    law_scan s = {.T = a->T, .H = c->H, .P = c->P, .N = c->N, .G = c->G, .x = a->x, .B = a->B, .C = a->C, .dt = a->dt};
    s.state = a->state;
    s.A_log = l->A_log;
    s.D = l->D;
    int64_t *order = (int64_t *)gld_law_room(r, c->H), *back = NULL;
    law_out y, state;
    law_tensor *t;
    if (!order) return no_room();
    rotate(c->H, c->G, order);
    if (road != LAW_LEFT) FH1_TRY(permute_scan(r, a, &s, order));
    if (road == LAW_RIGHT && !(back = undo(r, a->T, c->H, c->P, order))) return no_room();
    FH1_TRY(gld_run_scan(r, e, &s, &y, &state));
    FH1_TRY(gld_side_op(out, a, FH1_TAP_SSD, c->d_ssm, &t));
    return gld_out_add(t, &y, back, 1);
}

static fh1_status walk_attention_heads(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const law_acts *a = r->data;
    const fh1_config *c = &r->m->config;
    law_attention at = {.T = a->T, .Hq = c->Hq, .Hkv = c->Hkv, .A = c->A, .q = a->q, .k = a->k, .v = a->v};
    int64_t *order = (int64_t *)gld_law_room(r, c->Hq), *kv = (int64_t *)gld_law_room(r, c->Hkv), *back = NULL;
    law_out y;
    law_tensor *t;
    if (!order || !kv) return no_room();
    rotate(c->Hq, c->Hkv, order);
    for (int64_t h = 0; h < c->Hkv; ++h) kv[h] = (h + 1) % c->Hkv;
    if (road != LAW_LEFT) {
        at.q = permuted(r, a->q, a->T, c->Hq, c->A, order);
        at.k = permuted(r, a->k, a->T, c->Hkv, c->A, kv);
        at.v = permuted(r, a->v, a->T, c->Hkv, c->A, kv);
        if (!at.q || !at.k || !at.v) return no_room();
    }
    if (road == LAW_RIGHT && !(back = undo(r, a->T, c->Hq, c->A, order))) return no_room();
    FH1_TRY(gld_run_attention(r, e, &at, &y));
    FH1_TRY(gld_side_op(out, a, FH1_TAP_CONTEXT, c->Hq * c->A, &t));
    return gld_out_add(t, &y, back, 1);
}

static fh1_status walk_heads(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    if (r->m->config.H > 1) FH1_TRY(walk_scan_heads(r, e, road, out));
    return r->m->config.Hq > 1 ? walk_attention_heads(r, e, road, out) : NULL;
}

fh1_status gld_law_head_permutation(const gld_law_args *a, gld_law_result *r)
{
    const fh1_config *c = &a->model->config;
    const bool mamba = c->family == FH1_FALCON_MAMBA; /* its heads are channels */
    if (c->H == 1 && c->Hq <= 1) return gld_law_skip(r, "one head in attention and mixer: no other order");
    if (!gld_law_has_scan(a) || (!mamba && !a->engine->ops->attention))
        return gld_law_skip(r, "the engine shows no scan and attention of its own");
    const uint64_t notices = (c->H > 1 ? LAW_BIT(FH1_TAP_SSD) : 0u) | (c->Hq > 1 ? LAW_BIT(FH1_TAP_CONTEXT) : 0u);
    return gld_law_judge_acts(a, walk_heads, notices, r);
}

/* ---- rope_shift: all positions larger by a constant ---- */

/* Planted: the keys stay where they were. */
static fh1_status walk_shifted_ops(law_run *r, fh1_engine *e, law_road road, int64_t shift, law_side *out)
{
    const law_acts *a = r->data;
    const fh1_config *c = &r->m->config;
    int64_t *here = (int64_t *)gld_law_room(r, a->T), *there = (int64_t *)gld_law_room(r, a->T);
    void *q = gld_law_cast(r, e, a->q, a->T * c->Hq * c->A), *k = gld_law_cast(r, e, a->k, a->T * c->Hkv * c->A);
    double *q64 = gld_law_room(r, a->T * c->Hq * c->A), *k64 = gld_law_room(r, a->T * c->Hkv * c->A);
    if (!here || !there || !q || !k || !q64 || !k64) return no_room();
    for (int64_t t = 0; t < a->T; ++t) here[t] = t, there[t] = t + (road == LAW_LEFT ? 0 : shift);
    const int64_t len = a->T + shift;
    FH1_TRY(e->ops->rope(e, c, a->T, c->Hq, there, len, q));
    FH1_TRY(e->ops->rope(e, c, a->T, c->Hkv, road == LAW_PLANTED ? here : there, len, k));
    fh1_to_f64(q64, q, e->dtype, a->T * c->Hq * c->A);
    fh1_to_f64(k64, k, e->dtype, a->T * c->Hkv * c->A);
    const law_attention at = {.T = a->T, .Hq = c->Hq, .Hkv = c->Hkv, .A = c->A, .q = q64, .k = k64, .v = a->v};
    law_out y;
    law_tensor *t;
    FH1_TRY(gld_run_attention(r, e, &at, &y));
    y.allowed = NULL; /* it knows nothing of the rotation's error */
    FH1_TRY(gld_side_op(out, a, FH1_TAP_CONTEXT, c->Hq * c->A, &t));
    return gld_out_add(t, &y, NULL, 1);
}

/* Keys are rotated elsewhere and not compared; the mixer of layer 0, which reads embeddings only, keeps its bits.
 * Planted: every second position is skipped. */
static fh1_status walk_shifted_model(law_run *r, fh1_engine *e, law_road road, int64_t shift, law_side *out)
{
    int64_t positions[GLD_LAW_TOKENS];
    law_session *s;
    law_side all = {0};
    for (int64_t t = 0; t < r->T; ++t)
        positions[t] = road == LAW_LEFT ? t : road == LAW_RIGHT ? t + shift : 2 * t + shift;
    FH1_TRY(gld_session_open(r, e, 1, &s));
    FH1_TRY(gld_session_call(s, &(fh1_batch){.B = 1, .T = r->T, .ids = r->text[0], .positions = positions}));
    fh1_status st = gld_session_take(s, 0, 0, -1, true, false, &all);
    for (int i = 0; i < all.n && !st; ++i) {
        law_tensor *t, like = all.t[i];
        if (like.id == FH1_TAP_CACHE_KEY) continue;
        like.exact = like.layer == 0 && (like.id == FH1_TAP_CACHE_CONV || like.id == FH1_TAP_CACHE_SSM);
        st = gld_side_add(out, &like, &t);
        if (!st) memcpy(t->v, all.t[i].v, (size_t)(t->n * t->width) * sizeof *t->v);
    }
    gld_side_free(&all);
    return st;
}

static fh1_status walk_shift(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t shift[] = {1, 37};
    for (size_t i = 0; i < sizeof shift / sizeof *shift; ++i) {
        if (e->ops && e->ops->rope && e->ops->attention && r->a->engine->ops)
            FH1_TRY(walk_shifted_ops(r, e, road, shift[i], out));
        FH1_TRY(walk_shifted_model(r, e, road, shift[i], out));
    }
    return NULL;
}

fh1_status gld_law_rope_shift(const gld_law_args *a, gld_law_result *r)
{
    const fh1_rope_type type = a->model->config.rope.type;
    if (a->model->config.family == FH1_FALCON_MAMBA) return gld_law_skip(r, "Falcon-Mamba has no positions");
    if (type == FH1_ROPE_DYNAMIC || type == FH1_ROPE_LONGROPE)
        return gld_law_skip(r, "rope type %s: frequencies depend on the longest position", fh1_rope_type_name(type));
    return gld_law_judge_acts(a, walk_shift, LAW_BIT(FH1_TAP_LOGITS), r);
}

/* ---- softmax_shift: the same added to all scores of a query, to all logits of a token ---- */

/* On a lattice where sums stay exact: multiples of 1/8 of the RMS, at most 4 of it. */
static void to_lattice(double *v, int64_t n)
{
    fh1_rms rms = {0};
    for (int64_t i = 0; i < n; ++i) fh1_rms_add(&rms, 0, v[i], i);
    const double unit = fh1_rms_ref(&rms);
    for (int64_t i = 0; i < n; ++i) v[i] = unit > 0 ? rint(8 * fmax(-4, fmin(4, v[i] / unit))) / 8 : 0;
}

static double *on_lattice(law_run *r, const double *v, int64_t n)
{
    double *to = gld_law_room(r, n);
    if (!to) return NULL;
    memcpy(to, v, (size_t)n * sizeof *to);
    to_lattice(to, n);
    return to;
}

/* Channel 0 of queries is 1, of keys `shift`: every score moves by shift/√A. Planted: on every second key only. */
static fh1_status walk_scores(law_run *r, fh1_engine *e, law_road road, double shift, law_side *out)
{
    const law_acts *a = r->data;
    const fh1_config *c = &r->m->config;
    double *q = on_lattice(r, a->q, a->T * c->Hq * c->A), *k = on_lattice(r, a->k, a->T * c->Hkv * c->A);
    if (!q || !k) return no_room();
    for (int64_t i = 0; i < a->T * c->Hq; ++i) q[i * c->A] = 1;
    for (int64_t i = 0; i < a->T * c->Hkv; ++i)
        k[i * c->A] = road == LAW_LEFT || (road == LAW_PLANTED && i / c->Hkv % 2) ? 0 : shift;
    const law_attention at = {.T = a->T, .Hq = c->Hq, .Hkv = c->Hkv, .A = c->A, .q = q, .k = k, .v = a->v};
    law_out y;
    law_tensor *t;
    FH1_TRY(gld_run_attention(r, e, &at, &y));
    FH1_TRY(gld_side_op(out, a, FH1_TAP_CONTEXT, c->Hq * c->A, &t));
    return gld_out_add(t, &y, NULL, 1);
}

/* Planted: one logit stays behind. */
static fh1_status walk_loss(law_run *r, fh1_engine *e, law_road road, double shift, law_side *out)
{
    const law_acts *a = r->data;
    const int64_t M = a->T, V = a->vocabulary;
    double *logits = on_lattice(r, a->logits, M * V);
    int64_t *labels = (int64_t *)gld_law_room(r, M);
    const law_tensor like = {
        .id = FH1_TAP_LOSS, .row = -1, .first_token = -1, .n = 1, .width = 1, .stride = 1, .fiber = 1, .samples = M};
    law_out loss;
    law_tensor *t;
    if (!logits || !labels) return no_room();
    for (int64_t i = 0; i < M * V; ++i)
        if (road != LAW_LEFT && (road == LAW_RIGHT || i % V)) logits[i] += shift;
    for (int64_t m = 0; m < M; ++m) labels[m] = r->text[1][m] % V;
    FH1_TRY(gld_run_loss(r, e, M, V, logits, labels, &loss));
    FH1_TRY(gld_side_add(out, &like, &t));
    return gld_out_add(t, &loss, NULL, 1);
}

/* A little, and so much that an exp overflows in f32 unless the maximum is taken off first. */
static fh1_status walk_softmax(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t A = r->m->config.A; /* Falcon-Mamba: 0, it has no attention */
    const double shift[] = {2, exp2(ceil(log2(128 * sqrt(A > 0 ? (double)A : 1))))};
    for (size_t i = 0; i < sizeof shift / sizeof *shift; ++i) {
        if (A > 0) FH1_TRY(walk_scores(r, e, road, shift[i], out));
        if (e->ops->cross_entropy && r->a->engine->ops->cross_entropy) FH1_TRY(walk_loss(r, e, road, shift[i], out));
    }
    return NULL;
}

fh1_status gld_law_softmax_shift(const gld_law_args *a, gld_law_result *r)
{
    const bool mamba = a->model->config.family == FH1_FALCON_MAMBA;
    if (!a->engine->ops || (mamba ? !a->engine->ops->cross_entropy : !a->engine->ops->attention))
        return gld_law_skip(r, mamba ? "the engine shows no loss of its own, and Falcon-Mamba has no attention"
                                     : "the engine shows no attention of its own");
    return gld_law_judge_acts(a, walk_softmax, LAW_BIT(mamba ? FH1_TAP_LOSS : FH1_TAP_CONTEXT), r);
}
