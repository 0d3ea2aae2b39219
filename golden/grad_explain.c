#include "golden/grad_explain.h"

#include "golden/explain.h"
#include "oracle/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)GLD_MOST_GRAD_SUSPECTS == (int)GLD_MOST_SUSPECTS, "gld_suspect_add counts them");

typedef struct {
    const gld_grad_truth *t;
    const gld_grad_judged *j;
    const bool *failed;
    int64_t first; /* the first failing tensor */
    fh1_suspect list[GLD_MOST_GRAD_SUSPECTS];
    int n;
} search;

/* Σ (judged - values)² over a tensor; values NULL: truth · factor. Elements that are no number do not count. */
static double left_of(const search *s, int64_t k, const fh1_tensor *values, double factor)
{
    const fh1_tensor *truth = &s->t->grads->params[k].grad, *judged = &s->j->grads[k];
    double sum = 0;
    for (int64_t i = 0; i < fh1_n_elems(truth); ++i) {
        const double a = fh1_get(judged, i), b = values ? fh1_get(values, i) : factor * fh1_get(truth, i);
        if (isfinite(a) && isfinite(b)) sum += (a - b) * (a - b);
    }
    return sum;
}

static double square(const fh1_tensor *t)
{
    double sum = 0;
    for (int64_t i = 0; i < fh1_n_elems(t); ++i) sum += fh1_get(t, i) * fh1_get(t, i);
    return sum;
}

/* g NULL: the factor. */
static double score(const search *s, const fh1_grads *g, double factor)
{
    double whole = 0, rest = 0, at_first = 0;
    for (int64_t k = s->first; k < s->t->grads->n; ++k) {
        if (!s->failed[k]) continue;
        const double before = left_of(s, k, NULL, 1), after = left_of(s, k, g ? &g->params[k].grad : NULL, factor);
        const double unit = square(&s->t->grads->params[k].grad);
        if (k == s->first) at_first = before > 0 ? (before - after) / before : 0;
        if (!(unit > 0)) continue;
        whole += before / unit;
        rest += after / unit;
    }
    const double all = whole > 0 ? fmax(0, (whole - rest) / whole) : at_first;
    return isfinite(at_first + all) ? (at_first + all) / 2 : 0;
}

/* The score of the gradients that the truth has with a fault planted and other variants; 0 where it has none. */
static fh1_status score_of(const search *s, fh1_fault f, unsigned variants, fh1_grads *g, double *out)
{
    const gld_grad_truth *t = s->t;
    *out = 0;
    fh1_engine *e = s->j->make_faulty("ref-f64", fh1_profile_find("exact"), variants, f);
    if (!e) return fh1_no_memory(sizeof *e, "a faulty engine");
    fh1_backward o = {.grads = g, .divisor = t->divisor};
    fh1_grads_zero(g);
    fh1_status st = e->backward(e, t->model, t->batch, &o);
    e->free(e);
    if (st && st->code == FH1_E_INPUT) return NULL;
    if (!st) *out = score(s, g, 1);
    return st;
}

static fh1_status try_fault(search *s, fh1_fault f, fh1_grads *g)
{
    const fh1_fault_info *info = fh1_fault_get(f);
    fh1_suspect suspect = {.score = 0};
    FH1_TRY(score_of(s, f, s->t->variants, g, &suspect.score));
    snprintf(suspect.fault, sizeof suspect.fault, "%s", info->name);
    snprintf(suspect.evidence, sizeof suspect.evidence, "%.2f %% of the squared error: %s (%s)", 100 * suspect.score,
             info->what, info->source);
    gld_suspect_add(s->list, &s->n, &suspect, 0);
    return NULL;
}

/* A deviation of a real library that nobody declared. */
static fh1_status try_variants(search *s, fh1_grads *g)
{
    const fh1_variant_info *v;
    for (int i = 0; (v = fh1_variant_at(i)); ++i) {
        fh1_suspect suspect = {.score = 0};
        if (s->t->variants & v->bit) continue;
        FH1_TRY(score_of(s, FH1_FAULT_NONE, s->t->variants | v->bit, g, &suspect.score));
        snprintf(suspect.fault, sizeof suspect.fault, "variant %s", v->name);
        snprintf(suspect.evidence, sizeof suspect.evidence,
                 "%.2f %% of the squared error: %s; --variant %s judges as that library computes", 100 * suspect.score,
                 v->summary, v->name);
        gld_suspect_add(s->list, &s->n, &suspect, 0);
    }
    return NULL;
}

/* About how many multiply-adds a backward pass costs. */
static double work_of(const gld_grad_truth *t)
{
    double n = 0;
    for (int64_t k = 0; k < t->grads->n; ++k) n += (double)fh1_n_elems(&t->grads->params[k].grad);
    return 4 * n * (double)(t->batch->B * t->batch->T);
}

/* Whether the op of a fault stands near the first failing tensor: at most a few parameters before it on the way back.
 * One product and one norm stand for all of them in the registry. */
static bool is_near(const search *s, fh1_fault f)
{
    enum { FEW = 6 };
    const char *op = fh1_fault_get(f)->op;
    const fh1_grads *g = s->t->grads;
    const fh1_config *c = &s->t->model->config;
    const int64_t layer = g->params[s->first].layer, of_none = s->first < g->n / 2 ? c->n_layers - 1 : 0;
    const int64_t at = gld_grad_first_of(g, fh1_fault_tap(f, c->family), layer < 0 ? of_none : layer);
    if (strcmp(op, "linear") == 0 || strcmp(op, "rmsnorm") == 0) return true;
    return at <= s->first && s->first - at < FEW;
}

static bool concerns(const search *s, fh1_fault f)
{
    return fh1_fault_is_gradient(f) && fh1_fault_acts_on(f, s->t->model->config.family);
}

/* First the faults whose op is near, then all others while nothing explains it and the cost allows. */
static fh1_status try_faults(search *s)
{
    double left = fh1_rule.suspect_work;
    fh1_grads *g;
    FH1_TRY(gld_grads_new(s->t->model, FH1_F64, &g));
    fh1_status st = NULL;
    for (int near = 1; near >= 0 && !st; --near) {
        if (!near && s->n > 0 && s->list[0].score >= fh1_rule.explained) break;
        for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT && !st; ++f) {
            if (!concerns(s, (fh1_fault)f) || is_near(s, (fh1_fault)f) != near) continue;
            if ((left -= work_of(s->t)) < 0) break;
            st = try_fault(s, (fh1_fault)f, g);
        }
    }
    if (!st && (s->n == 0 || s->list[0].score < fh1_rule.explained)) st = try_variants(s, g);
    fh1_grads_free(g);
    return st;
}

/* A number that a constant factor may come from. */
static const char *meaning(const gld_grad_truth *t, double factor, char *buf, size_t size)
{
    const fh1_config *c = &t->model->config;
    const struct {
        const char *name;
        double value;
    } known[] = {
        {"the number of labels: a sum where the mean is meant", (double)t->n_labels},
        {"1 / the number of labels: divided twice", 1 / (double)t->n_labels},
        {"embedding_multiplier", c->m_emb},
        {"lm_head_multiplier", c->m_lm},
        {"key_multiplier", c->m_key},
        {"attention_in_multiplier", c->m_attn_in},
        {"attention_out_multiplier", c->m_attn_out},
        {"ssm_in_multiplier", c->m_ssm_in},
        {"ssm_out_multiplier", c->m_ssm_out},
        {"the gate's mlp_multiplier", c->m_gate},
        {"the down mlp_multiplier", c->m_down},
    };
    snprintf(buf, size, "%.6g", factor);
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        const double v = known[i].value;
        const bool is = fh1_within(fabs(factor - v), fabs(v) * fh1_rule.grad_factor);
        const bool inverse = fh1_within(fabs(factor * v - 1), fh1_rule.grad_factor);
        if (v == 1 || !(is || inverse)) continue;
        snprintf(buf, size, is ? "%.6g, %s" : "%.6g, 1 / %s", factor, known[i].name);
        break;
    }
    return buf;
}

/* judged = factor · truth: a multiplier or a divisor, whatever the op. */
static void try_factor(search *s)
{
    const fh1_tensor *truth = &s->t->grads->params[s->first].grad, *judged = &s->j->grads[s->first];
    double product = 0, unit = 0;
    char text[128];
    for (int64_t i = 0; i < fh1_n_elems(truth); ++i) {
        const double a = fh1_get(judged, i), b = fh1_get(truth, i);
        if (!isfinite(a) || !isfinite(b)) continue;
        product += a * b;
        unit += b * b;
    }
    if (!(unit > 0)) return;
    const double factor = product / unit;
    fh1_suspect suspect = {.fault = "constant_factor", .score = score(s, NULL, factor)};
    snprintf(suspect.evidence, sizeof suspect.evidence,
             "%.2f %% of the squared error: the gradients are the true ones times %s", 100 * suspect.score,
             meaning(s->t, factor, text, sizeof text));
    gld_suspect_add(s->list, &s->n, &suspect, 0);
}

static void unknown(search *s)
{
    if (s->n > 0 && s->list[0].score >= fh1_rule.explained) return;
    fh1_suspect u = {.fault = "unknown"};
    if (s->first < 0)
        snprintf(u.evidence, sizeof u.evidence, "the loss alone is wrong: look at the forward pass first");
    else
        snprintf(u.evidence, sizeof u.evidence, "no known fault explains this: look at %s",
                 gld_grad_points_to(s->t->grads->params[s->first].name));
    if (s->n == GLD_MOST_GRAD_SUSPECTS) --s->n;
    s->list[s->n++] = u;
}

fh1_status gld_grad_explain(const gld_grad_truth *t, const gld_grad_judged *j, const bool *failed, int64_t first,
                            fh1_report *report, gld_grad_first *found)
{
    search s = {.t = t, .j = j, .failed = failed, .first = first};
    while (s.first < 0 || (s.first < t->grads->n && !failed[s.first])) ++s.first; /* behind a loss that failed */
    if (s.first == t->grads->n) s.first = -1;
    if (s.first >= 0) {
        FH1_TRY(try_faults(&s));
        try_factor(&s);
    }
    unknown(&s);
    memcpy(found->suspect, s.list, sizeof s.list);
    found->n_suspects = s.n;
    return fh1_report_suspects(report, s.list, s.n, NULL);
}
