/* Truth against judged engine on one case, and what the case could not have shown. */
#include "golden/op_case_impl.h"

#include "oracle/compare.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const gld_op_case *c;
    gld_op_data d;
    fh1_engine *truth, *judged;
    bool guarded;
    fh1_arena *arena, *scratch;
    double *want[GLD_MAX_OUT], *got[GLD_MAX_OUT], *moved[GLD_MAX_OUT], *allowed[GLD_MAX_OUT];
    fh1_gauge gauge[GLD_MAX_OUT]; /* zero where the output is exact */
    gld_op_result *r;
} run;

static bool bits_equal(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static bool lattice(const run *x)
{
    return x->c->regime == GLD_REGIME_LATTICE;
}

static void where_text(const gld_array *a, int64_t i, char *buf, size_t size)
{
    int64_t index[3];
    for (int k = a->rank - 1; k >= 0; --k) {
        index[k] = i % a->shape[k];
        i /= a->shape[k];
    }
    size_t used = (size_t)snprintf(buf, size, "%s[", a->name);
    for (int k = 0; k < a->rank && used < size; ++k)
        used += (size_t)snprintf(buf + used, size - used, "%s%lld", k ? ", " : "", (long long)index[k]);
    if (used < size) snprintf(buf + used, size - used, "]");
}

/* -- allowed ----------------------------------------------------------------------------------- */

/* The gauge of each output; lattice data and exact outputs have none and allow nothing. */
static fh1_status find_allowed(run *x, bool *offered)
{
    const gld_op_data *d = &x->d;
    const bool none = lattice(x) || d->exact_out[0];
    *offered = true;
    for (int k = 0; k < d->n_out; ++k) {
        for (int64_t i = 0; i < d->out[k].n; ++i) x->allowed[k][i] = 0;
        if (!none && !d->exact_out[k]) FH1_TRY(fh1_gauge_new(d->out[k].n, &x->gauge[k]));
    }
    if (none) return NULL;
    *offered = false;
    if (!x->truth->gauges) return NULL;
    FH1_TRY(gld_op_def_of(x->c->op)->gauge(d, x->truth->gauges, x->want, x->gauge, offered));
    for (int k = 0; k < d->n_out && *offered; ++k) {
        if (d->exact_out[k]) continue;
        const double sigmas = fh1_gauge_sigmas(d->out[k].n);
        for (int64_t i = 0; i < d->out[k].n; ++i)
            x->allowed[k][i] = fh1_gauge_allowed(fh1_gauge_at(&x->gauge[k], i), sigmas) + d->profile->underflow;
    }
    return NULL;
}

/* On lattice data nothing rounds but the write of the output. */
static void round_truth(run *x)
{
    if (!lattice(x)) return;
    for (int64_t i = 0; i < x->d.out[0].n; ++i) x->want[0][i] = fh1_round_f64(x->d.store, x->want[0][i]);
}

/* -- the rules --------------------------------------------------------------------------------- */

static void note_worst(run *x, int k, int64_t i, double err, double margin)
{
    gld_op_result *r = x->r;
    r->margin = margin;
    r->max_err = err;
    r->allowed = x->allowed[k][i];
    r->judged = x->got[k][i];
    r->truth = x->want[k][i];
    where_text(&x->d.out[k], i, r->where, sizeof r->where);
}

/* Each element. A zero counts with its sign on lattice data. */
static void judge_elements(run *x)
{
    for (int k = 0; k < x->d.n_out; ++k)
        for (int64_t i = 0; i < x->d.out[k].n; ++i) {
            const double err = fh1_error_of(x->got[k][i], x->want[k][i]), allowed = x->allowed[k][i];
            const bool sign = lattice(x) && err == 0 && !bits_equal(x->got[k][i], x->want[k][i]);
            const bool good = fh1_within(err, allowed) && !sign;
            double margin = good ? (err == 0 ? 0 : err / allowed) : (double)INFINITY;
            if (!good && isfinite(err) && allowed > 0) margin = err / allowed;
            const bool first = k == 0 && i == 0;
            if (first || !fh1_within(margin, x->r->margin)) note_worst(x, k, i, err, margin);
            if (good || x->r->verdict == FH1_FAIL) continue;
            x->r->verdict = FH1_FAIL;
            snprintf(x->r->reason, sizeof x->r->reason, "%s",
                     sign         ? "a zero has the other sign"
                     : lattice(x) ? "not the same bits"
                                  : "beyond its gauge");
        }
}

typedef struct {
    double err2, gauge2, gauge4;
} sums;

/* So many independent elements of equal gauge would average as well: (Σg²)² / Σg⁴. A row that one outlier rules makes
 * no RMS, nor do the channels of one head of attention, whose errors come through the same weights. */
static double effective(const run *x, const sums *s)
{
    const double n = s->gauge4 > 0 ? s->gauge2 * s->gauge2 / s->gauge4 : 0;
    return n / (double)x->d.correlated;
}

/* RMS error of each unit against the RMS that the gauge predicts. */
static fh1_status judge_rms(run *x, int k, gld_units u, const char *unit)
{
    const int64_t n = x->d.out[k].n;
    void *p;
    if (n / u.units < fh1_rule.min_elements) return NULL;
    FH1_TRY(fh1_arena_get(x->scratch, (size_t)u.units * sizeof(sums), "sums", &p));
    sums *s = p;
    memset(s, 0, (size_t)u.units * sizeof *s);
    const double floor2 = x->d.profile->underflow * x->d.profile->underflow;
    for (int64_t i = 0; i < n; ++i) {
        sums *of = &s[i / u.inner % u.units];
        const fh1_err e = fh1_gauge_at(&x->gauge[k], i);
        const double err = fh1_error_of(x->got[k][i], x->want[k][i]);
        const double gauge2 = e.variance + e.shared * e.shared + floor2;
        of->err2 += err * err;
        of->gauge2 += gauge2;
        of->gauge4 += gauge2 * gauge2;
    }
    for (int64_t i = 0; i < u.units; ++i) {
        if (!(effective(x, &s[i]) >= (double)fh1_rule.min_elements)) continue;
        const double err = sqrt(s[i].err2), allowed = fh1_rule.rms_band * sqrt(s[i].gauge2);
        if (!fh1_within(err, x->r->rms_ratio * sqrt(s[i].gauge2))) x->r->rms_ratio = err / sqrt(s[i].gauge2);
        if (fh1_within(err, allowed) || x->r->verdict == FH1_FAIL) continue;
        x->r->verdict = FH1_FAIL;
        x->r->margin = err / allowed;
        snprintf(x->r->where, sizeof x->r->where, "%s, %s %lld", x->d.out[k].name, unit, (long long)i);
        snprintf(x->r->reason, sizeof x->r->reason, "RMS error is %.3g of what the gauge predicts", err / allowed);
    }
    fh1_arena_clear(x->scratch);
    return NULL;
}

static fh1_status judge_all_rms(run *x)
{
    for (int k = 0; k < x->d.n_out; ++k) {
        const gld_array *a = &x->d.out[k];
        if (!x->gauge[k].worst || a->n == 0) continue;
        const int64_t row = a->n / a->shape[0];
        FH1_TRY(judge_rms(x, k, (gld_units){a->n, 1}, "all"));
        FH1_TRY(judge_rms(x, k, (gld_units){row, a->shape[0]}, "row"));
        if (a->rank > 1) FH1_TRY(judge_rms(x, k, (gld_units){row / a->shape[1], a->shape[1]}, "column"));
    }
    return NULL;
}

/* -- what the case could not show -------------------------------------------------------------- */

static void mistrust(run *x, const char *reason, const char *what, const char *unit, int64_t i)
{
    x->r->verdict = FH1_MISTRUSTED;
    const int n = snprintf(x->r->reason, sizeof x->r->reason, reason, what);
    if (i >= 0 && n > 0 && (size_t)n < sizeof x->r->reason)
        snprintf(x->r->reason + n, sizeof x->r->reason - (size_t)n, " in %s %lld", unit, (long long)i);
}

static bool unit_moved(const run *x, const gld_probe *p, int64_t unit)
{
    for (int k = 0; k < x->d.n_out; ++k) {
        const gld_units u = p->moves[k];
        for (int64_t i = unit * u.inner; u.units > 0 && i < x->d.out[k].n; i += u.inner * u.units)
            for (int64_t j = i; j < i + u.inner && j < x->d.out[k].n; ++j)
                if (!fh1_within(fh1_error_of(x->moved[k][j], x->want[k][j]), x->allowed[k][j])) return true;
    }
    return false;
}

/* Takes the input of `p` away; `saved` holds what it was. */
static void lose(gld_op_data *d, const gld_probe *p, double *saved, int64_t **documents)
{
    *documents = d->doc;
    if (p->array) {
        for (int64_t i = 0; i < p->array->n; ++i) {
            saved[i] = p->array->v[i];
            if (p->only < 0 || i / p->picked.inner % p->picked.units == p->only) p->array->v[i] = p->value;
        }
        gld_array_store(p->array);
    } else if (p->scalar) {
        saved[0] = *p->scalar;
        *p->scalar = p->value;
    } else if (p->ints) {
        for (int64_t t = 0; t < d->n_ints; ++t) {
            saved[t] = (double)p->ints[t];
            if (p->ints[t] >= 0) p->ints[t] = p->modulus > 0 ? (p->ints[t] + 1) % p->modulus : p->ints[t] + 1;
        }
    } else {
        for (int64_t t = 0; t < d->c->T; ++t) {
            saved[t] = (double)d->first[t];
            d->first[t] = d->first[0];
        }
        d->doc = NULL;
    }
}

static void give_back(gld_op_data *d, const gld_probe *p, const double *saved, int64_t *documents)
{
    if (p->array) {
        memcpy(p->array->v, saved, (size_t)p->array->n * sizeof *saved);
        gld_array_store(p->array);
    } else if (p->scalar) {
        *p->scalar = saved[0];
    } else if (p->ints) {
        for (int64_t t = 0; t < d->n_ints; ++t) p->ints[t] = (int64_t)saved[t];
    } else {
        for (int64_t t = 0; t < d->c->T; ++t) d->first[t] = (int64_t)saved[t];
        d->doc = documents;
    }
}

static fh1_status probe(run *x, const gld_probe *p, double *saved)
{
    int64_t *documents;
    bool outside;
    if (p->array && p->array->n == 0) return NULL;
    lose(&x->d, p, saved, &documents);
    fh1_status s = gld_op_apply(x->truth, true, &x->d, x->scratch, x->moved, &outside);
    give_back(&x->d, p, saved, documents);
    FH1_TRY(s);
    for (int64_t i = 0; i < p->moves[0].units; ++i) {
        if (unit_moved(x, p, i)) continue;
        mistrust(x, "the loss of %s would not show", p->what, p->unit, p->moves[0].units > 1 ? i : -1);
        return NULL;
    }
    return NULL;
}

static fh1_status guard(run *x)
{
    int64_t largest = x->c->T;
    for (int i = 0; i < x->d.n_in; ++i)
        if (x->d.in[i].n > largest) largest = x->d.in[i].n;
    void *saved;
    FH1_TRY(fh1_arena_get(x->arena, (size_t)largest * sizeof(double), "a lost input", &saved));
    double allowed2 = 0, truth2 = 0;
    for (int64_t i = 0; i < x->d.out[0].n; ++i) {
        allowed2 += x->allowed[0][i] * x->allowed[0][i];
        truth2 += x->want[0][i] * x->want[0][i];
    }
    if (!lattice(x) && !x->d.exact_out[0] && !(sqrt(allowed2) < fh1_rule.vacuous * sqrt(truth2)))
        mistrust(x, "%s: what is allowed is as large as the values", x->d.out[0].name, "", -1);
    for (int i = 0; i < x->d.n_probes && x->r->verdict == FH1_PASS; ++i) FH1_TRY(probe(x, &x->d.probe[i], saved));
    return NULL;
}

/* -- the whole --------------------------------------------------------------------------------- */

static void skip(run *x, const char *why)
{
    x->r->verdict = FH1_SKIP;
    snprintf(x->r->reason, sizeof x->r->reason, "%s", why);
}

static fh1_status outputs(run *x, double **y)
{
    for (int k = 0; k < x->d.n_out; ++k) {
        void *p;
        const int64_t n = x->d.out[k].n;
        FH1_TRY(fh1_arena_get(x->arena, (size_t)(n > 0 ? n : 1) * sizeof(double), "outputs", &p));
        y[k] = p;
    }
    return NULL;
}

static fh1_status judge(run *x)
{
    bool offered, outside;
    const gld_op_def *def = gld_op_def_of(x->c->op);
    if (!def->offered(x->judged->ops)) {
        skip(x, "the engine does not offer this op");
        return NULL;
    }
    FH1_TRY(fh1_arena_new(&x->arena));
    FH1_TRY(fh1_arena_new(&x->scratch));
    FH1_TRY(gld_op_data_new(x->c, x->judged->profile, &x->d));
    if (*x->d.skip) {
        skip(x, x->d.skip);
        return NULL;
    }
    FH1_TRY(outputs(x, x->want));
    FH1_TRY(outputs(x, x->got));
    FH1_TRY(outputs(x, x->moved));
    FH1_TRY(outputs(x, x->allowed));
    FH1_TRY(gld_op_apply(x->truth, true, &x->d, x->scratch, x->want, &outside));
    FH1_TRY(find_allowed(x, &offered));
    if (!offered) {
        skip(x, "the truth has no gauge for this op");
        return NULL;
    }
    FH1_TRY(gld_op_apply(x->judged, false, &x->d, x->scratch, x->got, &outside));
    round_truth(x);
    judge_elements(x);
    FH1_TRY(judge_all_rms(x));
    if (outside) {
        x->r->verdict = FH1_FAIL;
        snprintf(x->r->reason, sizeof x->r->reason, "the op wrote outside its outputs");
    }
    return x->r->verdict == FH1_PASS && x->guarded ? guard(x) : NULL;
}

static fh1_status run_case(const gld_op_case *c, fh1_engine *truth, fh1_engine *judged, bool guarded, gld_op_result *r)
{
    memset(r, 0, sizeof *r);
    r->verdict = FH1_PASS;
    run x = {.c = c, .truth = truth, .judged = judged, .guarded = guarded, .r = r};
    fh1_status s = gld_op_case_check(c);
    if (!s) s = judge(&x);
    for (int k = 0; k < GLD_MAX_OUT; ++k) fh1_gauge_free(&x.gauge[k]);
    gld_op_data_free(&x.d);
    fh1_arena_free(x.arena);
    fh1_arena_free(x.scratch);
    return s;
}

fh1_status gld_op_case_run(const gld_op_case *c, fh1_engine *truth, fh1_engine *judged, gld_op_result *r)
{
    return run_case(c, truth, judged, true, r);
}

fh1_status gld_op_case_compare(const gld_op_case *c, fh1_engine *truth, fh1_engine *judged, gld_op_result *r)
{
    return run_case(c, truth, judged, false, r);
}
