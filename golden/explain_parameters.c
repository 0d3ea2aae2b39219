/* Attribution: the residual regressed on the Jacobian of each parameter and multiplier of the tap's op. A parameter is
 * moved a little, all its components at once where each has outputs of its own (a channel, a head), and the op is run
 * again on the judged engine's values: what moves is the column of the Jacobian. The step and the share of the
 * residual that fit best come from least squares. */
#include "golden/explain_move.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The step of the derivative, relative: f64 keeps ten digits of the difference. */
#define STEP 0x1p-20

/* A planted fault says more than a fitted number: of causes that explain about the same it comes first. */
#define HANDICAP 0.002

/* ---- least squares ---- */

typedef struct {
    double jj, jr, rr;
} fit;

static void add_fit(fit *f, double j, double r)
{
    f->jj += j * j;
    f->jr += j * r;
    f->rr += r * r;
}

static void tell(gld_search *q, const char *name, int64_t component, const fit *f, double value, double score)
{
    if (!(f->jj > 0) || !(q->r->sum > 0)) return;
    const double delta = f->jr / f->jj, left = fmax(q->r->sum - f->jr * delta, 0);
    const double spread = sqrt(left / fmax(1, (double)(q->r->n * q->r->width - 1)) / f->jj);
    char full[64], tap[FH1_TAP_NAME_SIZE];
    fh1_suspect s = {.score = score};
    if (component >= 0) snprintf(full, sizeof full, "%s[%lld]", name, (long long)component);
    else snprintf(full, sizeof full, "%s", name);
    snprintf(s.fault, sizeof s.fault, "%s", full);
    fh1_tap_name(q->r->j->c->family, q->r->id, q->r->layer, tap);
    char t[32] = "exactly";
    if (spread > 0 && fabs(delta) / spread < 1e6) snprintf(t, sizeof t, "t = %.3g", delta / spread);
    snprintf(s.evidence, sizeof s.evidence, "%s in %s is off by %s%.4g (%s)", full, tap, delta < 0 ? "-" : "+",
             fabs(delta), t);
    if (value != 0 && isfinite(value))
        snprintf(s.evidence + strlen(s.evidence) - 1, sizeof s.evidence - strlen(s.evidence), ", %.4g instead of %.4g)",
                 value + delta, value);
    gld_suspect_add(q->list, q->n, &s, q->handicap);
}

/* One column for the whole tap. */
static fit fit_whole(const gld_search *q)
{
    fit f = {0};
    for (int64_t i = 0; i < q->r->n * q->r->width; ++i)
        if (q->r->counts[i] && isfinite(q->jacobian[i])) add_fit(&f, q->jacobian[i], q->r->residual[i]);
    return f;
}

/* Of a fit that is exact in its parameter, or small, and acts on part `at` of n parts of `size` elements of a row. */
static double linear_score(const gld_search *q, const fit *f, int64_t size, int64_t n, int64_t at)
{
    const gld_residual *r = q->r;
    if (!(f->jj > 0)) return 0;
    for (int64_t i = 0; i < r->n * r->width; ++i) {
        const bool moves = i % r->width / size % n == at && isfinite(q->jacobian[i]);
        q->plus[i] = r->local[i] + (moves ? f->jr / f->jj * q->jacobian[i] : 0);
    }
    return gld_explained(r, q->plus);
}

/* All of the tap by one factor: what a multiplier of no name amounts to. */
void gld_move_scale(gld_search *q)
{
    char tap[FH1_TAP_NAME_SIZE], name[FH1_TAP_NAME_SIZE + 16];
    for (int64_t i = 0; i < q->r->n * q->r->width; ++i) q->jacobian[i] = q->r->local[i];
    const fit f = fit_whole(q);
    const char *last = strrchr(fh1_tap_name(q->r->j->c->family, q->r->id, q->r->layer, tap), '.');
    snprintf(name, sizeof name, "scale of %s", last ? last + 1 : tap);
    tell(q, name, -1, &f, 1, linear_score(q, &f, q->r->width, 1, 0));
}

/* One column for each of n parts of a row; the best one is told. */
static fh1_status regress_parts(gld_search *q, const char *name, int64_t n, int64_t stride, int64_t at)
{
    fit *f = calloc((size_t)n, sizeof *f);
    if (!f) return fh1_no_memory((size_t)n * sizeof *f, "a regression");
    const int64_t size = q->r->width / n > 0 ? q->r->width / n : 1;
    for (int64_t i = 0; i < q->r->n * q->r->width; ++i)
        if (q->r->counts[i] && isfinite(q->jacobian[i]))
            add_fit(&f[i % q->r->width / size % n], q->jacobian[i], q->r->residual[i]);
    int64_t best = 0;
    double most = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double taken = f[i].jj > 0 ? f[i].jr * f[i].jr / f[i].jj : 0;
        if (taken > most) most = taken, best = i;
    }
    tell(q, name, best * stride + at, &f[best], 0, linear_score(q, &f[best], size, n, best));
    free(f);
    return NULL;
}

/* ---- moving a parameter ---- */

static void difference(gld_search *q, double step)
{
    for (int64_t i = 0; i < q->r->n * q->r->width; ++i) q->jacobian[i] = (q->plus[i] - q->minus[i]) / (2 * step);
}

/* The value that fits best is tried: a tangent that explains the residual far from where it touches explains nothing.
 */
fh1_status gld_move_number(gld_search *q, double *at, const char *name, bool positive)
{
    fh1_engine *e = q->r->j->truth;
    /* The mup vector is held rounded: a small step would vanish in that. */
    const bool rounded = q->r->j->o->profile->at[FH1_RP_MUP_VECTOR] != FH1_ROUND_NONE;
    const bool coarse = rounded && at >= q->model.config.m_ssm && at < q->model.config.m_ssm + 5;
    const double value = *at, step = (coarse ? 0x1p-5 : STEP) * (value != 0 && isfinite(value) ? fabs(value) : 1);
    if (!isfinite(value)) return NULL;
    *at = value + step;
    FH1_TRY(gld_replay(q->r->j, q->s, e, &q->model, q->plus));
    *at = value - step;
    FH1_TRY(gld_replay(q->r->j, q->s, e, &q->model, q->minus));
    *at = value;
    difference(q, step);
    const fit f = fit_whole(q);
    const double fitted = f.jj > 0 ? value + f.jr / f.jj : value;
    if (!isfinite(fitted) || (positive && !(fitted > 0))) return NULL;
    *at = fitted;
    FH1_TRY(gld_replay(q->r->j, q->s, e, &q->model, q->plus));
    *at = value;
    tell(q, name, -1, &f, value, gld_explained(q->r, q->plus));
    return NULL;
}

/* All components [n] of a small weight whose component i·stride + at belongs to part i of a row of the tap. */
fh1_status gld_move_weight(gld_search *q, fh1_tensor *w, const char *name, int64_t parts, int64_t stride, int64_t at)
{
    if (!w->data || parts < 1) return NULL;
    const int64_t n = fh1_n_elems(w);
    const fh1_tensor kept = *w;
    double *v = malloc((size_t)n * sizeof *v);
    if (!v) return fh1_no_memory((size_t)n * sizeof *v, "a parameter");
    fh1_to_f64(v, kept.data, kept.dtype, n);
    w->data = v;
    w->dtype = FH1_F64;
    for (int64_t i = at; i < n; i += stride) v[i] += STEP;
    fh1_status st = gld_replay(q->r->j, q->s, q->r->j->truth, &q->model, q->plus);
    for (int64_t i = at; i < n; i += stride) v[i] -= 2 * STEP;
    if (!st) st = gld_replay(q->r->j, q->s, q->r->j->truth, &q->model, q->minus);
    free(v);
    *w = kept;
    if (st) return st;
    difference(q, STEP);
    return regress_parts(q, name, parts, stride, at);
}

/* One weight W[n,k] off by δ moves y[m,n] by δ·x[m,k]: for the row with the largest residual, the column that fits
 * best. Few tokens would let any column fit. */
static fh1_status move_one_weight(gld_search *q, const char *name)
{
    const gld_residual *r = q->r;
    const gld_slot *in = gld_find_slot(r->j, fh1_tap_linear_input(r->j->c, r->id), r->layer < 0 ? 0 : r->layer);
    if (!in || in->coarse || !in->value || in->n != r->n || r->n < 4) return NULL;
    double *row = calloc((size_t)r->width, sizeof *row), most = 0;
    if (!row) return fh1_no_memory((size_t)r->width * sizeof *row, "a regression");
    const double *honest = !q->s->far && q->s->gauge.worst ? q->s->gauge.variance : NULL;
    for (int64_t i = 0; i < r->n * r->width; ++i) /* beside what rounding leaves there, where that is known */
        row[i % r->width] += r->residual[i] * r->residual[i] / (honest && honest[i] > 0 ? honest[i] : 1);
    int64_t n = 0, best = 0;
    for (int64_t i = 1; i < r->width; ++i)
        if (row[i] > row[n]) n = i;
    free(row);
    fit found = {0};
    for (int64_t k = 0; k < in->width; ++k) {
        fit f = {0};
        for (int64_t m = 0; m < r->n; ++m)
            if (r->counts[m * r->width + n]) add_fit(&f, in->value[m * in->width + k], r->residual[m * r->width + n]);
        if (!(f.jj > 0) || !(f.jr * f.jr / f.jj > most)) continue;
        most = f.jr * f.jr / f.jj;
        best = k;
        found = f;
    }
    char full[48];
    snprintf(full, sizeof full, "%s.weight[%lld,%lld]", name, (long long)n, (long long)best);
    const fh1_config *c = r->j->c;
    const double m = r->id == FH1_TAP_IN_PROJ                             ? c->m_ssm_in
                     : r->id >= FH1_TAP_Q_PROJ && r->id <= FH1_TAP_V_PROJ ? c->m_attn_in
                     : r->id == FH1_TAP_LOGITS                            ? c->m_lm
                                                                          : 1;
    found.jj *= m * m; /* x is multiplied on its way */
    found.jr *= m;
    for (int64_t i = 0; i < r->n; ++i) q->jacobian[i * r->width + n] = m * in->value[i * in->width + best];
    tell(q, full, -1, &found, 0, linear_score(q, &found, 1, r->width, n));
    return NULL;
}

/* A linear layer: row n scaled moves column n by itself, its bias by one. No run is needed. */
fh1_status gld_move_rows(gld_search *q, const char *name, const fh1_tensor *bias)
{
    const gld_residual *r = q->r;
    char full[48];
    for (int64_t i = 0; i < r->n * r->width; ++i)
        q->jacobian[i] = r->local[i] - (bias->data ? fh1_get(bias, i % r->width) : 0);
    snprintf(full, sizeof full, "scale of %s.weight", name);
    const fit f = fit_whole(q);
    tell(q, full, -1, &f, 1, linear_score(q, &f, r->width, 1, 0));
    snprintf(full, sizeof full, "scale of %s.weight row", name);
    FH1_TRY(regress_parts(q, full, r->width, 1, 0));
    if (r->n < 2) return NULL;
    for (int64_t i = 0; i < r->n * r->width; ++i) q->jacobian[i] = 1;
    snprintf(full, sizeof full, "%s.bias", name);
    FH1_TRY(regress_parts(q, full, r->width, 1, 0));
    return move_one_weight(q, name);
}

/* A recorded input multiplied by a factor: what a wrong scale inside the op amounts to. */
fh1_status gld_move_input(gld_search *q, fh1_tap_id input, const char *name)
{
    gld_judgement *j = q->r->j;
    if (!gld_recorded(j, input, q->r->layer)) return NULL;
    j->scaled = input;
    j->scale = 1 + STEP;
    fh1_status st = gld_replay(j, q->s, j->truth, &q->model, q->plus);
    j->scale = 1 - STEP;
    if (!st) st = gld_replay(j, q->s, j->truth, &q->model, q->minus);
    if (!st) {
        difference(q, STEP);
        const fit f = fit_whole(q);
        j->scale = f.jj > 0 ? 1 + f.jr / f.jj : 1;
        st = gld_replay(j, q->s, j->truth, &q->model, q->plus);
        if (!st) tell(q, name, -1, &f, 1, gld_explained(q->r, q->plus));
    }
    j->scaled = FH1_TAP_COUNT;
    return st;
}

fh1_status gld_explain_parameters(const gld_residual *r, gld_slot *s, fh1_suspect *list, int *n)
{
    const fh1_model *m = r->j->o->model;
    const size_t count = (size_t)(r->n * r->width + 1);
    gld_search q = {.r = r, .s = s, .model = *m, .handicap = HANDICAP, .list = list, .n = n};
    fh1_config_copy(&q.model.config, &m->config);
    q.layers = malloc((size_t)m->config.n_layers * sizeof *q.layers);
    q.plus = malloc(3 * count * sizeof *q.plus);
    fh1_status st = q.layers && q.plus ? NULL : fh1_no_memory(3 * count * sizeof *q.plus, "a regression");
    if (!st) {
        q.minus = q.plus + count;
        q.jacobian = q.minus + count;
        memcpy(q.layers, m->layers, (size_t)m->config.n_layers * sizeof *q.layers);
        q.model.layers = q.layers;
        st = gld_move_all(&q);
        q.handicap *= 2; /* a parameter says more than a factor */
        if (!st && !s->far && !fh1_tap_is_linear(r->id)) gld_move_scale(&q);
    }
    free(q.layers);
    free(q.plus);
    return st;
}
