#include "golden/explain.h"

#include "oracle/compare.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- scores ---- */

/* The square error that an honest engine would have at an element. */
static double honest2(const gld_slot *s, int64_t i)
{
    if (!s->far && s->gauge.worst) return s->gauge.variance[i];
    return s->emulated2 && isfinite(s->emulated2[i]) ? s->emulated2[i] : 0;
}

static fh1_status residual_of(gld_judgement *j, const gld_slot *s, const bool *skip, gld_residual *r)
{
    const int64_t n = s->n * s->width;
    *r = (gld_residual){.j = j,
                        .slot = s,
                        .id = s->tap->id,
                        .layer = s->tap->layer,
                        .n = s->n,
                        .width = s->width,
                        .judged = s->value,
                        .local = s->local};
    r->residual = calloc((size_t)n + 1, sizeof *r->residual);
    r->counts = calloc(2 * (size_t)n + 2, sizeof *r->counts);
    if (!r->residual || !r->counts) return fh1_no_memory((size_t)n * 10, "a residual");
    r->other_class = r->counts + n + 1;
    for (int64_t i = 0; i < n; ++i) {
        if (skip && skip[i]) continue;
        const bool judged = isfinite(s->value[i]), local = isfinite(s->local[i]);
        r->counts[i] = judged && local;
        r->other_class[i] = judged != local;
        r->n_other += r->other_class[i];
        if (r->counts[i]) r->residual[i] = s->value[i] - s->local[i];
        r->sum += r->residual[i] * r->residual[i];
        if (r->counts[i]) r->noise += honest2(s, i);
    }
    /* The prediction is not better than a few per cent, and a score must not hang on the difference of two of them. */
    if (r->noise > fh1_rule.noise_share * r->sum) r->noise = fh1_rule.noise_share * r->sum;
    return NULL;
}

/* Causes are run in f64: what an engine of 32 bits would have lost is beyond its range. */
static bool in_range(const gld_residual *r, double v)
{
    return r->j->o->profile->storage == FH1_F64 ? isfinite(v) != 0 : fabs(v) <= FLT_MAX;
}

/* Where the judged engine has NaN or infinities of its own, a cause must have them at the same places. */
static double same_classes(const gld_residual *r, const double *values)
{
    int64_t both = 0, either = 0;
    for (int64_t i = 0; i < r->n * r->width; ++i) {
        const bool differs = in_range(r, values[i]) != in_range(r, r->local[i]);
        both += differs && r->other_class[i];
        either += differs || r->other_class[i];
    }
    return either ? (double)both / (double)either : 0;
}

/* The tap's margin with values[n, width] in the place of truth. */
static double margin_against(const gld_residual *r, const double *values)
{
    gld_tap_errors errors = gld_errors_of(r->j, r->slot);
    fh1_tap_result *result = calloc(1, sizeof *result);
    int64_t where;
    errors.local = values;
    const double margin = result && !gld_judge_tap(&errors, result, &where) ? result->margin : (double)INFINITY;
    free(result);
    return margin;
}

/* Whether the cause takes away what is beyond rounding, and not only some of what rounding left: the tap passes with
 * it, or nearly so, since a fitted number is off by some rounding itself. */
static bool settles(const gld_residual *r, const double *values)
{
    return fh1_within(margin_against(r, values) - 1, fh1_rule.suspect * (r->j->first.margin - 1));
}

double gld_explained(const gld_residual *r, const double *values)
{
    if (r->n_other > 0) return same_classes(r, values);
    double left = 0;
    for (int64_t i = 0; i < r->n * r->width; ++i) {
        if (!r->counts[i]) continue;
        const double d = r->judged[i] - values[i];
        left += d * d;
    }
    const double taken = r->sum - left;
    if (!(r->sum > 0) || !isfinite(taken)) return 0;
    const double gross = taken / r->sum, net = fmin(taken / (r->sum - r->noise), 1);
    return !fh1_within(net, fh1_rule.suspect) && settles(r, values) ? net : gross;
}

static double rank(const fh1_suspect *s, double handicap)
{
    return s->score - handicap;
}

void gld_suspect_add(fh1_suspect *list, int *n, const fh1_suspect *s, double handicap)
{
    if (!fh1_within(fh1_rule.suspect, s->score)) return;
    int at = *n;
    while (at > 0 && rank(&list[at - 1], 0) < rank(s, handicap)) --at;
    if (at >= GLD_MOST_SUSPECTS) return;
    if (*n < GLD_MOST_SUSPECTS) ++*n;
    memmove(list + at + 1, list + at, (size_t)(*n - 1 - at) * sizeof *list);
    list[at] = *s;
}

/* ---- planted faults ---- */

/* Whether the judged contract allows what the fault does at this tap: bf16 activations are none under a bf16 contract.
 * Otherwise such a fault would be credited with the rounding that every honest engine leaves. */
static bool honest_here(const gld_residual *r, const gld_slot *s, const double *values)
{
    const double sigmas = fh1_gauge_sigmas(r->n * r->width);
    const bool gauged = !s->far && s->gauge.worst;
    double sum = 0;
    for (int64_t i = 0; i < r->n * r->width; ++i) {
        const double d = fh1_error_of(values[i], r->local[i]);
        if (r->other_class[i] || (r->counts[i] && !isfinite(d))) return false;
        if (!r->counts[i]) continue;
        if (gauged && !fh1_within(d, fh1_gauge_allowed(fh1_gauge_at(&s->gauge, i), sigmas))) return false;
        sum += d * d;
    }
    return gauged || fh1_within(sum, fh1_rule.band_tap * fh1_rule.band_tap * r->noise);
}

static fh1_status try_fault(const gld_residual *r, gld_slot *s, fh1_fault f, double *values, fh1_suspect *list, int *n)
{
    const gld_judge_options *o = r->j->o;
    fh1_engine *e = o->make_faulty("ref-f64", fh1_profile_find("exact"), o->variants, f);
    if (!e) return fh1_no_memory(sizeof *e, "a faulty engine");
    fh1_status st = gld_replay(r->j, s, e, o->model, values);
    e->free(e);
    if (st && st->code == FH1_E_INPUT) return NULL; /* a fault of the inputs may make them contradict the cache */
    if (st) return st;
    const fh1_fault_info *info = fh1_fault_get(f);
    if (honest_here(r, s, values)) return NULL;
    fh1_suspect suspect = {.score = gld_explained(r, values)};
    snprintf(suspect.fault, sizeof suspect.fault, "%s", info->name);
    snprintf(suspect.evidence, sizeof suspect.evidence, "%.2f %% of the squared error: %s (%s)", 100 * suspect.score,
             info->what, info->source);
    gld_suspect_add(list, n, &suspect, 0);
    return NULL;
}

static bool concerns(const gld_residual *r, fh1_fault f)
{
    return !fh1_fault_is_gradient(f) && fh1_fault_acts_on(f, r->j->c->family);
}

/* First the faults that show at this tap, then all others while nothing explains it and the cost allows. */
static fh1_status try_faults(const gld_residual *r, gld_slot *s, fh1_suspect *list, int *n)
{
    double left = fh1_rule.suspect_work;
    double *values = malloc((size_t)(r->n * r->width + 1) * sizeof *values);
    if (!values) return fh1_no_memory((size_t)(r->n * r->width) * sizeof *values, "a replay");
    fh1_status st = NULL;
    for (int here = 1; here >= 0 && !st; --here) {
        if (!here && *n > 0 && list[0].score >= fh1_rule.explained) break;
        for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT && !st; ++f) {
            if (!concerns(r, (fh1_fault)f) || (fh1_fault_tap((fh1_fault)f, r->j->c->family) == r->id) != here) continue;
            if ((left -= gld_replay_work(r->j, s)) < 0) break;
            st = try_fault(r, s, (fh1_fault)f, values, list, n);
        }
    }
    free(values);
    return st;
}

fh1_status gld_explain(gld_judgement *j, gld_slot *s, fh1_suspect *list, int *n)
{
    *n = 0;
    gld_residual r = {0};
    fh1_status st = residual_of(j, s, s->skip, &r);
    if (!st) st = try_faults(&r, s, list, n);
    if (!st && r.n_other == 0) st = gld_explain_parameters(&r, s, list, n);
    if (!st && (*n == 0 || list[0].score < fh1_rule.explained)) {
        fh1_suspect unknown = {.fault = "unknown"};
        char shape[200];
        gld_explain_shape(&r, s, shape, sizeof shape);
        snprintf(unknown.evidence, sizeof unknown.evidence, "no known fault explains this: %s", shape);
        if (*n == GLD_MOST_SUSPECTS) --*n;
        list[(*n)++] = unknown;
    }
    free(r.residual);
    free(r.counts);
    return st;
}
