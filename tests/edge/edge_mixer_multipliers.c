/* D-64, D-65: the fourteen multipliers. */
#include "tests/edge/edge_mixer.h"

#include <stddef.h>
#include <stdlib.h>

enum { MULTIPLIERS = EDGE_N_MULTIPLIERS, FIRST_OF_IN_PROJ = 9, TOKENS = 9 };

static const struct {
    const char *name;
    size_t at;
} multiplier[MULTIPLIERS] = {
    {"embedding_multiplier", offsetof(fh1_config, m_emb)},
    {"lm_head_multiplier", offsetof(fh1_config, m_lm)},
    {"key_multiplier", offsetof(fh1_config, m_key)},
    {"attention_in_multiplier", offsetof(fh1_config, m_attn_in)},
    {"attention_out_multiplier", offsetof(fh1_config, m_attn_out)},
    {"ssm_in_multiplier", offsetof(fh1_config, m_ssm_in)},
    {"ssm_out_multiplier", offsetof(fh1_config, m_ssm_out)},
    {"mlp_multipliers[0]", offsetof(fh1_config, m_gate)},
    {"mlp_multipliers[1]", offsetof(fh1_config, m_down)},
    {"ssm_multipliers[0] (z)", offsetof(fh1_config, m_ssm)},
    {"ssm_multipliers[1] (x)", offsetof(fh1_config, m_ssm) + sizeof(double)},
    {"ssm_multipliers[2] (B)", offsetof(fh1_config, m_ssm) + 2 * sizeof(double)},
    {"ssm_multipliers[3] (C)", offsetof(fh1_config, m_ssm) + 3 * sizeof(double)},
    {"ssm_multipliers[4] (dt)", offsetof(fh1_config, m_ssm) + 4 * sizeof(double)},
};

static double *at(fh1_model *m, int i)
{
    return (double *)(void *)((char *)&m->config + multiplier[i].at);
}

/* Rows of in_proj that belong to a segment. */
static void segment(const fh1_config *c, int i, int64_t *first, int64_t *n)
{
    const int64_t GN = c->G * c->N, width[] = {c->d_ssm, c->d_ssm, GN, GN, c->H};
    *first = 0;
    for (int k = 0; k < i; ++k) *first += width[k];
    *n = width[i];
}

static void whole(const fh1_tensor *t, edge_rows_visit visit, void *user)
{
    if (t->data) visit(user, t, 0, t->shape[0]);
}

/* What is multiplied by it: the products before, bias included; inputs that are scaled meet no bias. */
static void visit_layer(const fh1_config *c, const fh1_layer *l, int i, edge_rows_visit visit, void *user)
{
    const fh1_tensor *const acts_on[][4] = {
        {NULL},
        {NULL},
        {&l->k_w, &l->k_b, NULL},
        {&l->q_w, &l->k_w, &l->v_w, NULL},
        {&l->o_w, &l->o_b, NULL},
        {&l->in_w, NULL},
        {&l->out_w, &l->out_b, NULL},
        {&l->gate_w, &l->gate_b, NULL},
        {&l->down_w, &l->down_b, NULL},
    };
    if (i < FIRST_OF_IN_PROJ) {
        for (int k = 0; acts_on[i][k]; ++k) whole(acts_on[i][k], visit, user);
        return;
    }
    int64_t first, n;
    segment(c, i - FIRST_OF_IN_PROJ, &first, &n);
    visit(user, &l->in_w, first, n);
    if (l->in_b.data) visit(user, &l->in_b, first, n);
}

void edge_multiplier_rows(const fh1_model *m, int i, edge_rows_visit visit, void *user)
{
    if (i == 0) whole(&m->embed, visit, user);
    if (i == 1) whole(&m->lm_head, visit, user);
    for (int64_t l = 0; l < m->config.n_layers; ++l) visit_layer(&m->config, &m->layers[l], i, visit, user);
}

double *edge_multiplier(fh1_model *m, int i, const char **name)
{
    if (name) *name = multiplier[i].name;
    return at(m, i);
}

static void scale_rows(void *user, const fh1_tensor *t, int64_t first, int64_t n)
{
    edge_scale(t, first, n, *(const double *)user);
}

/* The weights that a multiplier acts on, times f. */
static void fold(const fh1_model *m, int i, double f)
{
    edge_multiplier_rows(m, i, scale_rows, &f);
}

/* ---- D-64 ---- */

typedef struct {
    fh1_model by_config[MULTIPLIERS], by_weights[MULTIPLIERS];
    int n;
    const int64_t *calls;
} doubled;

static void release(doubled *d)
{
    for (int i = 0; i < d->n; ++i) fh1_model_free(&d->by_config[i]), fh1_model_free(&d->by_weights[i]);
}

/* The usual multipliers are bf16 numbers; these are none, as those of a release. */
static fh1_status uneven(edge_run *r, const char *text, fh1_model *m)
{
    FH1_TRY(edge_model(r, text, m));
    for (int i = 0; i < MULTIPLIERS; ++i) *at(m, i) *= 1 + 0x1p-10;
    return NULL;
}

static fh1_status make(edge_run *r, const char *text, doubled *d)
{
    for (; d->n < MULTIPLIERS; ++d->n) {
        FH1_TRY(uneven(r, text, &d->by_config[d->n]));
        fh1_status s = uneven(r, text, &d->by_weights[d->n]);
        if (s) fh1_model_free(&d->by_config[d->n]);
        FH1_TRY(s);
        *at(&d->by_config[d->n], d->n) *= 2;
        fold(&d->by_weights[d->n], d->n, 2);
    }
    return NULL;
}

/* Twice a number is exact in every type and goes unchanged through every rounding: a multiplier that is doubled is its
 * weights doubled, bit for bit. Planted: neither. */
static fh1_status walk_doubled(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const doubled *d = run->data;
    for (int i = 0; i < d->n; ++i) {
        law_session *s;
        const fh1_model *m = road == LAW_LEFT ? &d->by_config[i] : road == LAW_RIGHT ? &d->by_weights[i] : run->m;
        const int64_t *text = run->text[0];
        FH1_TRY(edge_session(run, e, m, &s));
        for (const int64_t *n = d->calls; *n > 0; text += *n++) FH1_TRY(gld_session_feed(s, text, *n));
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, true, out));
    }
    return NULL;
}

/* What the bits cannot say: that the fixture makes each multiplier matter. */
static fh1_status logits_move(edge_run *r, const fh1_model *m, const doubled *d)
{
    static const int64_t ids[TOKENS] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    fh1_engine *truth;
    double *base, *moved;
    FH1_TRY(edge_truth(r, &truth));
    FH1_TRY(edge_logits(truth, m, TOKENS, ids, &base));
    fh1_status s = NULL;
    for (int i = 0; !s && i < d->n; ++i) {
        s = edge_logits(truth, &d->by_config[i], TOKENS, ids, &moved);
        if (s) break;
        const double by = edge_moved(moved, base, TOKENS * m->config.V);
        s = edge_require(r, by > 1e-3, "twice the %s moves the true logits by %.3g of their size only",
                         multiplier[i].name, by);
        free(moved);
    }
    free(base);
    return s;
}

static fh1_status on_model(edge_run *r, const char *text)
{
    static const int64_t few[] = {TOKENS, 0}, many[] = {TOKENS, 1, 2, 0};
    doubled d = {.calls = edge_is_cuda(r) ? few : many};
    fh1_model m;
    FH1_TRY(uneven(r, text, &m));
    fh1_status s = make(r, text, &d);
    if (!s) s = edge_law(r, &m, 16, walk_doubled, LAW_ALL, &d);
    if (!s) s = logits_move(r, &m, &d);
    /* What the truth says; on one model each, else with all of them doubled at once. */
    const bool each = m.config.G == 2 && !edge_is_cuda(r);
    for (int i = 0; !s && i < d.n; ++i) {
        if (!each) *at(&m, i) *= 2;
        else s = fh1_where(edge_check(r, &d.by_config[i], "p9;d1", r->seed), "%s doubled", multiplier[i].name);
    }
    if (!s && !each) s = fh1_where(edge_check(r, &m, "p9;d1", r->seed), "all doubled");
    edge_contract(r, NULL); /* engines may hold on to models */
    release(&d);
    fh1_model_free(&m);
    return s;
}

fh1_status edge_multipliers_doubled(edge_run *r)
{
    for (int i = 0; edge_model_text(i); ++i) {
        if (edge_is_cuda(r) && i == 0) continue; /* 30 ms a call there: the model with all biases */
        FH1_TRY(fh1_where(on_model(r, edge_model_text(i)), "model %d", i));
    }
    return NULL;
}

/* ---- D-65 ---- */

typedef struct {
    fh1_model by_config, by_weights, swapped;
} ordered;

static fh1_status walk_ordered(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t calls[] = {TOKENS, 1, 0};
    const ordered *o = run->data;
    const fh1_model *m = road == LAW_LEFT ? &o->by_config : road == LAW_RIGHT ? &o->by_weights : &o->swapped;
    const int64_t *text = run->text[0];
    law_session *s;
    FH1_TRY(edge_session(run, e, m, &s));
    for (const int64_t *n = calls; *n > 0; text += *n++) FH1_TRY(gld_session_feed(s, text, *n));
    return gld_session_take(s, 0, 0, -1, true, true, out);
}

/* Five different powers of two as multipliers, or in the rows of z, x, B, C and dt: the same bits. */
static fh1_status order_of_segments(edge_run *r, const char *text)
{
    static const double power[5] = {2, 0.5, 4, 0.25, 0.125};
    ordered o;
    fh1_model *const m[] = {&o.by_config, &o.by_weights, &o.swapped};
    int made = 0;
    fh1_status s = NULL;
    for (; !s && made < 3; made += !s) s = edge_model(r, text, m[made]);
    for (int i = 0; !s && i < 5; ++i) {
        o.by_config.config.m_ssm[i] = o.swapped.config.m_ssm[i] = power[i];
        o.by_weights.config.m_ssm[i] = 1;
        fold(&o.by_weights, FIRST_OF_IN_PROJ + i, power[i]);
    }
    if (!s) {
        o.swapped.config.m_ssm[0] = power[1];
        o.swapped.config.m_ssm[1] = power[0];
        s = edge_law(r, &o.by_config, 16, walk_ordered, LAW_BIT(FH1_TAP_LOGITS) | LAW_MEMORY, &o);
    }
    edge_contract(r, NULL);
    while (made > 0) fh1_model_free(m[--made]);
    return s;
}

/* An engine that has two of them exchanged must be rejected. z and x on every engine, all ten pairs on the fast ones.
 */
static fh1_status swapped_is_seen(edge_run *r, const char *text)
{
    fh1_model m, other;
    FH1_TRY(edge_model(r, text, &m));
    fh1_status s = edge_model(r, text, &other);
    if (s) fh1_model_free(&m);
    FH1_TRY(s);
    for (int i = 0; !s && i < 5; ++i)
        for (int k = i + 1; !s && k < 5; ++k) {
            double *v = other.config.m_ssm;
            if (edge_is_cuda(r) && i + k > 1) continue;
            v[i] = m.config.m_ssm[k], v[k] = m.config.m_ssm[i];
            s = edge_check_as(r, &other, &m, "p9", r->seed);
            if (s && s->code != FH1_E_WRONG) break;
            s = edge_require(r, s != NULL, "an engine with ssm_multipliers[%d] and [%d] exchanged passes", i, k);
            v[i] = m.config.m_ssm[i], v[k] = m.config.m_ssm[k];
        }
    edge_contract(r, NULL);
    fh1_model_free(&m);
    fh1_model_free(&other);
    return s;
}

fh1_status edge_multipliers_ordered(edge_run *r)
{
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        FH1_TRY(order_of_segments(r, edge_model_text(i)));
        FH1_TRY(edge_model(r, edge_model_text(i), &m));
        fh1_status s = edge_check(r, &m, "p11;d1", r->seed);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
        if (i == 0 || !edge_is_cuda(r)) FH1_TRY(fh1_where(swapped_is_seen(r, edge_model_text(i)), "model %d", i));
    }
    return NULL;
}
