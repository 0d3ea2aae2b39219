#include "golden/shrink_impl.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_RUNS = 600 };

bool gld_search_over(const gld_search *s)
{
    return s->error || s->result->exhausted;
}

static bool same_failure(const gld_repro *r, const gld_repro_outcome *a, const gld_repro_outcome *b)
{
    if (b->verdict != FH1_FAIL) return false;
    if (r->is_traffic) return true; /* what is shared wrongly shows here or there */
    return r->is_op ? strcmp(a->tap, b->tap) == 0 : a->id == b->id;
}

static void tell(const gld_search *s)
{
    char *line = s->o->progress ? gld_repro_print(s->best) : NULL;
    if (line) s->o->progress(s->o->user, s->result->runs, line);
    free(line);
}

static fh1_status check(const gld_repro *r)
{
    if (r->is_op) return gld_op_case_check(&r->op);
    FH1_TRY(r->is_traffic ? gld_traffic_check(&r->traffic) : gld_calls_check(&r->calls));
    return *r->model ? NULL : gld_seeded_check(&r->make);
}

/* A size may have been set to what its neighbours did not allow, and stand where it stood. */
static bool is_new(const gld_search *s)
{
    char *was = gld_repro_print(s->best), *is = gld_repro_print(s->candidate);
    const bool differ = was && is && strcmp(was, is) != 0;
    free(was);
    free(is);
    return differ;
}

bool gld_search_try(gld_search *s)
{
    gld_repro_outcome outcome;
    const int max = s->o->max_runs ? s->o->max_runs : MAX_RUNS;
    bool fails = false;
    if (!gld_search_over(s) && check(s->candidate) == NULL && is_new(s)) {
        if (s->result->runs == max) {
            s->result->exhausted = true;
        } else {
            s->result->runs++;
            fh1_status e = gld_repro_try(s->candidate, s->env, &outcome);
            if (e && e->code == FH1_E_INTERNAL) s->error = e;
            fails = !e && same_failure(s->candidate, &s->wanted, &outcome);
        }
    }
    if (fails) {
        gld_repro_copy(s->best, s->candidate);
        s->result->outcome = outcome;
        s->changed = true;
        tell(s);
    } else {
        gld_repro_copy(s->candidate, s->best);
    }
    return fails;
}

void gld_search_number(gld_search *s, gld_set set, int arg, int64_t now, int64_t least)
{
    if (now <= least) return;
    set(s, arg, least);
    if (gld_search_try(s)) return;
    for (int64_t step = (now - least) / 2; step > 0 && !gld_search_over(s);) {
        if (now - step > least) {
            set(s, arg, now - step);
            if (gld_search_try(s)) {
                now -= step;
                continue;
            }
        }
        step /= 2;
    }
}

/* -- ops ----------------------------------------------------------------------------------------- */

static int64_t op_value(const gld_repro *r, const char *name)
{
    const gld_op_field *f;
    for (int i = 0; (f = gld_op_field_at(i)); i++)
        if (strcmp(f->name, name) == 0) return gld_op_field_get(f, &r->op);
    return 1;
}

static void set_op_value(gld_repro *r, const char *name, int64_t v)
{
    const gld_op_field *f;
    for (int i = 0; (f = gld_op_field_at(i)); i++)
        if (strcmp(f->name, name) == 0) gld_op_field_set(f, &r->op, v);
}

/* The largest divisor of n that is not above the present value of a field. */
static void make_divide(gld_repro *r, const char *name, int64_t n)
{
    int64_t d = op_value(r, name);
    while (d > 1 && n % d) d--;
    set_op_value(r, name, d);
}

static void set_field(gld_search *s, int i, int64_t v)
{
    gld_repro *r = s->candidate;
    gld_op_field_set(gld_op_field_at(i), &r->op, v);
    if (r->op.A % 2) r->op.A++;
    if (r->op.docs > r->op.T) r->op.docs = r->op.T;
    make_divide(r, "Hkv", r->op.Hq);
    make_divide(r, "G", r->op.op == GLD_OP_GATED_NORM ? r->op.D : r->op.H);
}

void gld_shrink_op(gld_search *s)
{
    const gld_op_field *f;
    for (int i = 0; (f = gld_op_field_at(i)); i++) {
        if (!(f->ops >> s->best->op.op & 1) || f->kind == GLD_FIELD_PLACE) continue;
        gld_search_number(s, set_field, i, gld_op_field_get(f, &s->best->op), f->min);
    }
    if (s->best->op.regime == GLD_REGIME_LATTICE) return;
    s->candidate->op.regime = GLD_REGIME_LATTICE;
    s->candidate->op.trace[0] = s->candidate->op.model[0] = 0;
    gld_search_try(s);
}

/* -- all ----------------------------------------------------------------------------------------- */

static fh1_status does_not_fail(const gld_repro_outcome *o)
{
    fh1_status s = FH1_BAD("the line does not fail, so there is nothing to shrink");
    return fh1_found(fh1_expected(s, "FAIL"), "%s", fh1_verdict_name(o->verdict));
}

/* Nothing after the first divergence matters, and all taps are judged: a filter names layers that will go. */
static void cut_to_failure(gld_search *s)
{
    gld_calls *c = &s->candidate->calls;
    if (s->best->is_op || s->best->is_traffic) return;
    if (s->best->step >= 0) {
        gld_calls_end_at(c, s->best->step);
        s->candidate->step = -1;
        gld_search_try(s);
    }
    if (s->result->outcome.step + 1 < gld_calls_steps(c)) {
        gld_calls_end_at(c, s->result->outcome.step);
        gld_search_try(s);
    }
    if (*s->best->taps) {
        s->candidate->taps[0] = 0;
        gld_search_try(s);
    }
}

static void search(gld_search *s)
{
    cut_to_failure(s);
    if (!s->best->is_op) gld_shrink_to_small(s);
    do {
        s->changed = false;
        if (s->best->is_op) {
            gld_shrink_op(s);
        } else {
            if (s->best->is_traffic) gld_shrink_traffic(s);
            else gld_shrink_calls(s);
            if (!*s->best->model) gld_shrink_model(s);
        }
    } while (s->changed && !gld_search_over(s));
}

fh1_status gld_shrink(gld_repro *r, const gld_repro_env *env, const gld_shrink_options *o, gld_shrink_result *result)
{
    memset(result, 0, sizeof *result);
    FH1_TRY(gld_repro_try(r, env, &result->outcome));
    result->runs = 1;
    if (result->outcome.verdict != FH1_FAIL) return does_not_fail(&result->outcome);
    gld_search s = {.env = env, .o = o, .best = r, .wanted = result->outcome, .result = result};
    s.candidate = malloc(sizeof *s.candidate);
    if (!s.candidate) return fh1_no_memory(sizeof *s.candidate, "a smaller line");
    gld_repro_copy(s.candidate, r);
    search(&s);
    free(s.candidate);
    return s.error;
}
