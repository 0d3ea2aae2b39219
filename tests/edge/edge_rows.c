#include "tests/edge/edge_rows.h"

#include "oracle/random.h"

#include <math.h>
#include <string.h>

/* ---- schedules ---- */

typedef struct {
    const edge_plan *plan;
    gld_calls calls;
} parsed_plan;

/* What one law judges: as many plans as its sessions allow. */
typedef struct {
    parsed_plan *plans;
    int n;
} plan_group;

static bool looked_at(const parsed_plan *p, int64_t step)
{
    return step == gld_calls_steps(&p->calls) - 1 || (step < 64 && p->plan->looks >> step & 1);
}

/* Tokens of row b in one step. */
static int64_t step_tokens(const parsed_plan *p, int64_t step, int64_t b)
{
    const gld_call *k = &p->calls.call[gld_calls_of_step(&p->calls, step)];
    return k->T - k->left[b] - k->right[b];
}

static fh1_status take_all(const law_session *s, int64_t B, law_side *out)
{
    for (int64_t b = 0; b < B; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    return NULL;
}

/* Rows that were run alone on this road, by row and length: many schedules of a list end at the same length. */
typedef struct {
    law_session *of[LAW_ROWS][2 * LAW_SESSIONS];
} alone_runs;

static fh1_status alone(law_run *r, fh1_engine *e, alone_runs *known, int64_t b, int64_t n, law_session **s)
{
    law_session **at = n < 2 * LAW_SESSIONS ? &known->of[b][n] : NULL;
    if (at && *at) {
        *s = *at;
        return NULL;
    }
    FH1_TRY(gld_session_solo(r, e, r->text[b], (int64_t[]){n, 0}, s));
    if (at) *at = *s;
    return NULL;
}

static fh1_status walk_alone(law_run *r, fh1_engine *e, const parsed_plan *p, alone_runs *known, law_side *out)
{
    int64_t so_far[LAW_ROWS] = {0};
    for (int64_t j = 0; j < gld_calls_steps(&p->calls); ++j)
        for (int64_t b = 0; b < p->calls.B; ++b) {
            law_session *s;
            so_far[b] += step_tokens(p, j, b);
            if (!looked_at(p, j)) continue;
            FH1_TRY(alone(r, e, known, b, so_far[b], &s));
            law_side mine = {0};
            fh1_status st = gld_session_take(s, 0, 0, -1, true, false, &mine);
            for (int i = 0; i < mine.n && !st; ++i) {
                law_tensor *t, like = mine.t[i];
                like.row = b;
                st = gld_side_add(out, &like, &t);
                if (!st) memcpy(t->v, mine.t[i].v, (size_t)(like.n * like.width) * sizeof *t->v);
            }
            gld_side_free(&mine);
            FH1_TRY(st);
        }
    return NULL;
}

static fh1_status walk_schedule(law_run *r, fh1_engine *e, law_road road, const parsed_plan *p, law_side *out)
{
    const int64_t steps = gld_calls_steps(&p->calls);
    const bool other_text = road == LAW_PLANTED && steps == 1;
    law_session *s;
    FH1_TRY(gld_session_open(r, e, p->calls.B, &s));
    for (int64_t j = 0; j < steps; ++j) {
        const gld_call *k = &p->calls.call[gld_calls_of_step(&p->calls, j)];
        law_row rows[LAW_ROWS];
        for (int64_t b = 0; b < p->calls.B; ++b)
            rows[b] =
                (law_row){r->text[other_text ? LAW_ROWS - 1 - b : b], k->left[b], step_tokens(p, j, b), k->right[b]};
        if (road == LAW_PLANTED && j == 1) FH1_TRY(gld_session_forget(s));
        FH1_TRY(gld_session_rows(s, rows, p->plan->pad_id));
        if (looked_at(p, j)) FH1_TRY(take_all(s, p->calls.B, out));
    }
    return NULL;
}

static fh1_status walk_plans(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const plan_group *g = r->data;
    alone_runs known = {{{NULL}}};
    for (int i = 0; i < g->n; ++i) {
        if (road == LAW_LEFT) FH1_TRY(walk_alone(r, e, &g->plans[i], &known, out));
        else FH1_TRY(walk_schedule(r, e, road, &g->plans[i], out));
    }
    return NULL;
}

/* Sessions of the left road. */
static int64_t sessions_of(const parsed_plan *p)
{
    int64_t n = 0;
    for (int64_t j = 0; j < gld_calls_steps(&p->calls); ++j) n += looked_at(p, j) ? p->calls.B : 0;
    return n;
}

static int64_t longest_row(const parsed_plan *p)
{
    int64_t most = 16; /* what a law wants at least */
    for (int64_t b = 0; b < p->calls.B; ++b) {
        int64_t n = 0;
        for (int64_t j = 0; j < gld_calls_steps(&p->calls); ++j) n += step_tokens(p, j, b);
        if (n > most) most = n;
    }
    return most;
}

static fh1_status judge_group(edge_run *r, const fh1_model *m, plan_group *g, int64_t tokens)
{
    if (g->n == 0) return NULL;
    const char *first = g->plans[0].plan->calls, *last = g->plans[g->n - 1].plan->calls;
    fh1_status s = edge_law(r, m, tokens, walk_plans, LAW_ALL, g);
    g->n = 0;
    return s ? fh1_where(s, "%s … %s", first, last) : NULL;
}

static fh1_status judge_plans(edge_run *r, const fh1_model *m, const edge_plan *plans, parsed_plan *room)
{
    plan_group g = {.plans = room};
    int64_t tokens = 16, sessions = 0;
    for (; plans->calls; ++plans) {
        parsed_plan *p = &room[g.n];
        if (plans->engines && !(plans->engines & r->bit)) continue;
        p->plan = plans;
        FH1_TRY(gld_calls_parse(plans->calls, &p->calls));
        const int64_t more = sessions_of(p), long_one = longest_row(p);
        if (more > LAW_SESSIONS || p->calls.B > LAW_ROWS)
            return fh1_fail(FH1_E_INTERNAL, "%s: too much to look at", plans->calls);
        if (sessions + more > LAW_SESSIONS || g.n + 1 == LAW_SESSIONS) {
            const parsed_plan kept = *p;
            FH1_TRY(judge_group(r, m, &g, tokens));
            room[0] = kept;
            tokens = 16;
            sessions = 0;
        }
        g.n++;
        sessions += more;
        if (long_one > tokens) tokens = long_one;
    }
    return judge_group(r, m, &g, tokens);
}

static fh1_status judge_on_roads(edge_run *r, const fh1_model *m, const edge_plan *plans)
{
    parsed_plan *room = malloc((LAW_SESSIONS + 1) * sizeof *room);
    if (!room) return fh1_no_memory(LAW_SESSIONS * sizeof *room, "schedules");
    fh1_status s = judge_plans(r, m, plans, room);
    free(room);
    return s;
}

fh1_status edge_plans(edge_run *r, const fh1_model *m, const edge_plan *plans)
{
    const edge_plan *last = NULL;
    if (!edge_is_slow(r)) return judge_on_roads(r, m, plans);
    for (; plans->calls; ++plans) {
        if (plans->engines && !(plans->engines & r->bit)) continue;
        FH1_TRY(fh1_where(edge_check(r, m, plans->calls, r->seed), "%s", plans->calls));
        last = plans;
    }
    return last ? judge_on_roads(r, m, (edge_plan[]){*last, {.calls = NULL}}) : NULL;
}

static fh1_status plans_on(edge_run *r, const fh1_model *m, void *data)
{
    return edge_plans(r, m, data);
}

fh1_status edge_plans_all(edge_run *r, const edge_plan *plans)
{
    return edge_each_model(r, plans_on, (void *)(uintptr_t)plans);
}

/* ---- models ---- */

fh1_status edge_on_model(edge_run *r, const char *spec, edge_judge judge, void *data)
{
    fh1_model m;
    FH1_TRY(edge_model(r, spec, &m));
    const bool wanted = !r->mamba_only || m.config.family == FH1_FALCON_MAMBA;
    fh1_status s = wanted ? judge(r, &m, data) : NULL;
    edge_contract(r, r->profile); /* engines may hold on to the model */
    fh1_model_free(&m);
    return s;
}

/* A fault is planted in models of a family that has the op. */
static bool can_have(const edge_run *r, fh1_family family)
{
    return r->fault == FH1_FAULT_NONE || fh1_fault_acts_on(r->fault, family);
}

static fh1_status on_altered(edge_run *r, const char *text, const char *more, edge_judge judge, void *data)
{
    char spec[640];
    snprintf(spec, sizeof spec, "%s%s", text, more);
    return edge_on_model(r, spec, judge, data);
}

static fh1_status on_mamba(edge_run *r, const char *more, edge_judge judge, void *data)
{
    if (!r->the_case->falcon_mamba || !can_have(r, FH1_FALCON_MAMBA)) return NULL;
    return fh1_where(on_altered(r, edge_mamba_text(), more, judge, data), "Falcon-Mamba");
}

fh1_status edge_on_mamba(edge_run *r, edge_judge judge, void *data)
{
    return on_mamba(r, "", judge, data);
}

fh1_status edge_each_altered(edge_run *r, const char *more, edge_judge judge, void *data)
{
    for (int i = 0; edge_model_text(i) && can_have(r, FH1_FALCON_H1); ++i)
        FH1_TRY(fh1_where(on_altered(r, edge_model_text(i), more, judge, data), "model %d", i));
    return on_mamba(r, more, judge, data);
}

fh1_status edge_each_model(edge_run *r, edge_judge judge, void *data)
{
    return edge_each_altered(r, "", judge, data);
}

void edge_ids(const edge_run *r, const char *name, int64_t first, int64_t V, int64_t n, int64_t *ids)
{
    const fh1_stream s = fh1_stream_open(r->seed, name);
    for (int64_t i = 0; i < n; ++i) ids[i] = first + fh1_random_below(s, (uint64_t)i, V - first);
}

/* ---- calls and what they leave ---- */

fh1_status edge_forward(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                        double *logits)
{
    const int64_t n = b->B * n_logits * m->config.V;
    void *out = malloc((size_t)n * 8 + 8);
    if (!out) return fh1_no_memory((size_t)n * 8, "logits");
    fh1_status s = e->forward(e, m, b, cache, n_logits, out, NULL);
    if (!s && logits) fh1_to_f64(logits, out, e->dtype, n);
    free(out);
    return s;
}

static fh1_status read_part(const fh1_cache *c, int64_t b, int64_t layer, int part, size_t *bytes, void **out)
{
    *bytes = (size_t)fh1_cache_row_elems(c, b, (fh1_cache_part)part) * (c->dtype == FH1_F64 ? 8 : 4);
    if (!(*out = calloc(*bytes + 1, 1))) return fh1_no_memory(*bytes, "a cache");
    const fh1_status s = fh1_cache_row_read(c, b, layer, (fh1_cache_part)part, *out);
    if (s) free(*out);
    return s;
}

static const char *const part_name[] = {"keys", "values", "conv window", "state"};

static fh1_status same_part(edge_run *r, const fh1_cache *a, int64_t row_a, const fh1_cache *b, int64_t row_b,
                            int64_t layer, int part, const char *what)
{
    size_t n_a, n_b;
    void *v_a, *v_b;
    FH1_TRY(read_part(a, row_a, layer, part, &n_a, &v_a));
    fh1_status s = read_part(b, row_b, layer, part, &n_b, &v_b);
    if (!s) {
        s = edge_require(r, n_a == n_b && memcmp(v_a, v_b, n_a) == 0,
                         "%s: %s of layer %lld, row %lld, are not the same", what, part_name[part], (long long)layer,
                         (long long)row_a);
        free(v_b);
    }
    free(v_a);
    return s;
}

fh1_status edge_same_row(edge_run *r, const fh1_cache *a, int64_t row_a, const fh1_cache *b, int64_t row_b,
                         const char *what)
{
    const fh1_cache_row *l = &a->rows[row_a], *o = &b->rows[row_b];
    FH1_TRY(edge_require(r, l->n == o->n && l->doc == o->doc && l->doc_begin == o->doc_begin,
                         "%s: row %lld holds %lld tokens, document %lld from %lld, not %lld, %lld from %lld", what,
                         (long long)row_a, (long long)l->n, (long long)l->doc, (long long)l->doc_begin, (long long)o->n,
                         (long long)o->doc, (long long)o->doc_begin));
    for (int64_t layer = 0; layer < a->config->n_layers; ++layer)
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part)
            FH1_TRY(same_part(r, a, row_a, b, row_b, layer, part, what));
    return NULL;
}

fh1_status edge_same_cache(edge_run *r, const fh1_cache *a, const fh1_cache *b, const char *what)
{
    FH1_TRY(edge_require(r, a->B == b->B && a->n_cols == b->n_cols && a->rope_seq_len == b->rope_seq_len,
                         "%s: %lld rows of %lld columns, not %lld of %lld", what, (long long)a->B, (long long)a->n_cols,
                         (long long)b->B, (long long)b->n_cols));
    for (int64_t row = 0; row < a->B; ++row) {
        const size_t n = (size_t)a->rows[row].n;
        FH1_TRY(edge_same_row(r, a, row, b, row, what));
        FH1_TRY(edge_require(r, n == 0 || memcmp(a->rows[row].col, b->rows[row].col, n * sizeof(int64_t)) == 0,
                             "%s: the columns of row %lld are others", what, (long long)row));
    }
    return NULL;
}

fh1_status edge_same_bits(edge_run *r, const double *a, const double *b, int64_t n, const char *what)
{
    int64_t i = 0;
    while (i < n && memcmp(a + i, b + i, sizeof *a) == 0) ++i;
    if (i == n) return edge_require(r, true, "%s", what);
    return edge_require(r, false, "%s: number %lld is %.9g and %.9g, the same bits are promised", what, (long long)i,
                        a[i], b[i]);
}

fh1_status edge_zero_memory(edge_run *r, const fh1_cache *c, int64_t row, const char *what)
{
    for (int64_t layer = 0; layer < c->config->n_layers; ++layer)
        for (int part = FH1_CACHE_CONV; part <= FH1_CACHE_SSM; ++part) {
            size_t bytes;
            void *v;
            bool zero = true;
            FH1_TRY(read_part(c, row, layer, part, &bytes, &v));
            for (size_t i = 0; i < bytes; ++i) zero &= ((const unsigned char *)v)[i] == 0;
            free(v);
            FH1_TRY(edge_require(r, zero, "%s: the %s of layer %lld, row %lld, is not zero", what, part_name[part],
                                 (long long)layer, (long long)row));
        }
    return NULL;
}

fh1_status edge_finite(edge_run *r, const double *v, int64_t n, const char *what)
{
    int64_t i = 0;
    while (i < n && isfinite(v[i])) ++i;
    return edge_require(r, i == n, "%s: number %lld is %g", what, (long long)i, i < n ? v[i] : 0.0);
}

fh1_status edge_call_refused(edge_run *r, fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                             const char *what)
{
    fh1_cache *before;
    FH1_TRY(fh1_cache_clone(cache, &before));
    fh1_status refusal = edge_forward(e, m, b, cache, 1, NULL);
    fh1_status s = edge_require(r, refusal && refusal->code == FH1_E_INPUT, "%s: %s", what,
                                refusal ? "the engine fails otherwise" : "the engine accepts it");
    if (!s) s = edge_same_cache(r, cache, before, what);
    fh1_cache_free(before);
    return s;
}
