/* The roads of a law and the one comparison between them. */
#include "golden/law_impl.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- what two honest runs may differ by ---- */

typedef struct {
    double whole;    /* RMS over the tensor */
    double variance; /* of the difference of two honest runs, per element */
    double fiber;    /* the same of the fiber that is looked at */
} yardstick;

double gld_mean_square(const law_tensor *a, const law_tensor *b)
{
    fh1_rms r = {0};
    for (int64_t i = 0; i < a->n * a->width; ++i) {
        const double err = b ? fh1_error_of(a->v[i], b->v[i]) : 0;
        if (isfinite(err)) fh1_rms_add(&r, err, a->v[i], i); /* an emulated overflow says nothing */
    }
    const double v = b ? fh1_rms_err(&r) : fh1_rms_ref(&r);
    return v * v;
}

static fh1_dtype storage_of(const gld_law_args *a, fh1_tap_id id)
{
    return fh1_profile_tap_dtype(a->engine->profile, id, false, &a->model->config);
}

/* Behind a chain of ops the errors of one token are not independent, they came through the same hidden vector: the
 * tokens are the samples. */
static double band(const law_tensor *t)
{
    if (t->samples >= fh1_rule.min_elements) return fh1_rule.band_tap;
    return t->samples > 1 ? fh1_rule.band_unit : fh1_rule.band_token;
}

static double slack(const law_place *p)
{
    return p->slack > 0 ? p->slack : 1;
}

/* Both roads of the emulated pipeline are off by an RMS of their own, which in a tensor of few tokens is luck: what it
 * is off by in all of them is always possible, and an ulp. */
static yardstick measure(const gld_law_args *a, const law_place *p)
{
    const double ref2 = gld_mean_square(p->true_left, NULL);
    if (!p->emulated_left) {
        const double relative = slack(p) * a->engine->profile->relative * sqrt(ref2);
        return (yardstick){relative, 0, 0};
    }
    const double ulp = fh1_dtype_ulp(storage_of(a, p->left->id), sqrt(ref2));
    const double here =
        gld_mean_square(p->emulated_left, p->true_left) + gld_mean_square(p->emulated_right, p->true_right);
    const double variance = fmax(here, 2 * p->pooled * ref2) + ulp * ulp;
    return (yardstick){slack(p) * band(p->left) * sqrt(variance), variance, 0};
}

/* Square errors of both emulated roads in the fiber that begins at i: one ill-conditioned number reaches all of it. */
static double fiber_variance(const law_place *p, int64_t i)
{
    const int64_t fiber = p->left->fiber;
    double sum = 0;
    for (int64_t k = i; k < i + fiber; ++k) {
        const double l = fh1_error_of(p->emulated_left->v[k], p->true_left->v[k]);
        const double r = fh1_error_of(p->emulated_right->v[k], p->true_right->v[k]);
        if (isfinite(l * l + r * r)) sum += l * l + r * r;
    }
    return sum / (double)fiber;
}

static double element_allowed(const gld_law_args *a, const law_place *p, const yardstick *y, int64_t i)
{
    const double smallest = a->engine->profile->underflow;
    if (p->left->exact) return 0;
    if (p->left->allowed && p->right->allowed) return p->left->allowed[i] + p->right->allowed[i] + smallest;
    if (!p->emulated_left) return y->whole + smallest;
    const double ulp = fh1_dtype_ulp(storage_of(a, p->left->id), p->true_left->v[i]);
    return slack(p) * fh1_rule.chain_element * sqrt(fmax(y->variance, y->fiber)) + fh1_rule.chain_ulps * ulp + smallest;
}

static double ratio(double err, double allowed)
{
    if (fh1_within(err, 0)) return 0;
    return allowed > 0 && !isnan(err) ? err / allowed : (double)INFINITY; /* a NaN would not stay the largest one */
}

law_finding gld_place_compare(const gld_law_args *a, const law_place *p, const law_tensor *mine,
                              const law_tensor *other)
{
    yardstick y = p->left->exact ? (yardstick){0} : measure(a, p);
    law_finding f = {.first = -1, .whole = y.whole};
    fh1_rms rms = {0};
    for (int64_t i = 0; i < mine->n * mine->width; ++i) {
        if (p->emulated_left && i % p->left->fiber == 0) y.fiber = fiber_variance(p, i);
        const double err = fh1_error_of(mine->v[i], other->v[i]), allowed = element_allowed(a, p, &y, i);
        const double margin = ratio(err, allowed);
        fh1_rms_add(&rms, err, mine->v[i], i);
        if (f.first < 0 && !fh1_within(margin, 1)) f.first = i, f.first_allowed = allowed;
        if (i == 0 || !fh1_within(margin, f.margin)) f.margin = margin, f.allowed = allowed, f.at = i;
    }
    const bool whole = !p->left->exact && !p->left->allowed && rms.n >= fh1_rule.min_elements;
    const double margin = whole ? ratio(fh1_rms_err(&rms), y.whole + a->engine->profile->underflow) : 0;
    if (whole && !fh1_within(margin, f.margin)) f.margin = margin, f.allowed = y.whole, f.at = rms.argmax;
    return f;
}

/* ---- one verdict for all tensors ---- */

static void tell_where(fh1_family family, const law_place *p, const law_finding *f, gld_law_result *r)
{
    const law_tensor *t = p->left;
    fh1_tap_name(family, t->id, t->layer, r->tap);
    r->row = t->row;
    r->token = t->first_token < 0 ? -1 : t->first_token + f->at / t->width;
    r->channel = f->at % t->width * t->stride;
    r->left = t->v[f->at];
    r->right = p->right->v[f->at];
    r->allowed = f->allowed;
}

static void tell_failure(const law_place *p, gld_law_result *r, const char *whose)
{
    char token[32] = "";
    if (r->token >= 0) snprintf(token, sizeof token, ", token %lld", (long long)r->token);
    if (p->left->exact)
        snprintf(r->sentence, sizeof r->sentence,
                 "%s%s, row %lld%s, channel %lld: %.9g on one road and %.9g on the other, the same bits are promised",
                 whose, r->tap, (long long)r->row, token, (long long)r->channel, r->left, r->right);
    else
        snprintf(r->sentence, sizeof r->sentence,
                 "%s%s, row %lld%s, channel %lld: %.9g on one road and %.9g on the other, %.3g times what two honest "
                 "runs may differ by",
                 whose, r->tap, (long long)r->row, token, (long long)r->channel, r->left, r->right, r->margin);
}

static bool same_form(const law_side *a, const law_side *b)
{
    if (a->n != b->n) return false;
    for (int i = 0; i < a->n; ++i)
        if (a->t[i].id != b->t[i].id || a->t[i].n != b->t[i].n || a->t[i].width != b->t[i].width) return false;
    return true;
}

/* Σ err² / Σ truth² of both emulated roads, per tap and layer: [FH1_TAP_COUNT, n_layers]. NULL without memory. */
static double *pool(const law_side truth[3], const law_side emulated[2], int64_t n_layers)
{
    double *sums = calloc((size_t)(2 * FH1_TAP_COUNT * n_layers), sizeof *sums), *size = sums;
    if (!sums) return NULL;
    size += FH1_TAP_COUNT * n_layers;
    for (int road = 0; road < 2; ++road)
        for (int i = 0; i < emulated[road].n; ++i) {
            const law_tensor *t = &truth[road].t[i];
            const int64_t at = t->id * n_layers + t->layer, n = t->n * t->width;
            sums[at] += (double)n * gld_mean_square(&emulated[road].t[i], t);
            size[at] += (double)n * gld_mean_square(t, NULL);
        }
    for (int64_t i = 0; i < FH1_TAP_COUNT * n_layers; ++i) sums[i] = size[i] > 0 ? sums[i] / size[i] : 0;
    return sums;
}

/* The part that noticed the planted mistake least, of those that must. */
static double noticed(const fh1_config *c, const double *seen, uint64_t notices, int *part)
{
    double least = (double)INFINITY;
    *part = -1;
    for (int id = 0; id < FH1_TAP_COUNT; ++id)
        if (notices & LAW_BIT(id) && fh1_tap_exists(c, (fh1_tap_id)id) && (*part < 0 || !fh1_within(least, seen[id]))) {
            least = seen[id];
            *part = id;
        }
    return least;
}

fh1_status gld_law_compare(const law_run *run, const law_side mine[2], const law_side truth[3],
                           const law_side emulated[2], uint64_t notices, gld_law_result *r)
{
    const int64_t n_layers = run->m->config.n_layers;
    double seen[FH1_TAP_COUNT] = {0}, *pooled = pool(truth, emulated, n_layers);
    if (!pooled) return fh1_no_memory(0, "the errors of a law");
    assert(same_form(&truth[0], &truth[1]) && same_form(&truth[0], &truth[2]));
    r->verdict = FH1_PASS;
    r->margin = 0;
    for (int i = 0; i < truth[0].n; ++i) {
        law_place p = {.left = &mine[0].t[i],
                       .right = &mine[1].t[i],
                       .true_left = &truth[0].t[i],
                       .true_right = &truth[1].t[i],
                       .planted = &truth[2].t[i]};
        if (emulated[0].n) p.emulated_left = &emulated[0].t[i], p.emulated_right = &emulated[1].t[i];
        p.pooled = pooled[p.left->id * n_layers + p.left->layer];
        if (p.left->n * p.left->width == 0) continue;
        const law_finding f = gld_place_compare(run->a, &p, p.left, p.right);
        const law_finding plant = gld_place_compare(run->a, &p, p.true_left, p.planted);
        double *most = &seen[p.left->id];
        if (!fh1_within(plant.margin, *most)) *most = plant.margin;
        if (fh1_within(f.margin, r->margin)) continue;
        r->margin = f.margin;
        tell_where(run->m->config.family, &p, &f, r);
        if (fh1_within(f.margin, 1)) continue;
        r->verdict = FH1_FAIL;
        tell_failure(&p, r, "");
    }
    free(pooled);
    int part;
    r->planted = noticed(&run->m->config, seen, notices, &part);
    if (r->verdict == FH1_FAIL || !fh1_within(r->planted, 1)) return NULL;
    r->verdict = FH1_MISTRUSTED;
    char tap[FH1_TAP_NAME_SIZE];
    snprintf(r->sentence, sizeof r->sentence,
             "a planted mistake moves %s by %.3g of what is allowed: this law could not have failed on this data",
             fh1_tap_name(run->m->config.family, (fh1_tap_id)part, 0, tap), r->planted);
    return NULL;
}

/* ---- the roads ---- */

fh1_status gld_law_skip(gld_law_result *r, const char *why, ...)
{
    va_list args;
    *r = (gld_law_result){
        .verdict = FH1_SKIP, .margin = (double)NAN, .planted = (double)NAN, .row = -1, .token = -1, .channel = -1};
    va_start(args, why);
    vsnprintf(r->sentence, sizeof r->sentence, why, args);
    va_end(args);
    return NULL;
}

/* Enough for two chunk edges of the small models; a large one is not asked for minutes of work. */
int64_t gld_law_tokens(const gld_law_args *a)
{
    const int64_t K = a->model->config.K, few = K > 5 ? 3 * K : 16, many = few > 70 ? few : 70;
    const int64_t two_chunks = 2 * fh1_scan_chunk(&a->model->config) + 5;
    if (a->tokens > 0) return a->tokens;
    return two_chunks < few ? few : two_chunks > many ? many : two_chunks;
}

static fh1_status check_args(const gld_law_args *a)
{
    assert(a->engine && a->truth && a->model);
    if (a->tokens != 0 && (a->tokens < 16 || a->tokens > GLD_LAW_TOKENS))
        return fh1_found(fh1_expected(FH1_BAD("tokens of a law"), "16 to %d", GLD_LAW_TOKENS), "%lld",
                         (long long)a->tokens);
    if (!a->emulated && a->engine->profile->storage != FH1_F64)
        return FH1_BAD("engine %s rounds: its laws need an emulated pipeline", a->engine->name);
    if (a->model->config.V < 2) return FH1_BAD("laws need two different ids, the vocabulary has one");
    return NULL;
}

static fh1_status walk_road(law_run *run, law_walk walk, fh1_engine *e, law_road road, law_side *out)
{
    fh1_status s = walk(run, e, road, out);
    gld_sessions_close(run);
    while (run->rooms) {
        void *next = *(void **)run->rooms;
        free(run->rooms);
        run->rooms = next;
    }
    return s;
}

/* A judged engine that refuses a lawful call breaks the law; the truth must not. */
static fh1_status judged_refuses(fh1_status s, gld_law_result *r)
{
    if (s->code == FH1_E_INTERNAL) return s;
    char line[240];
    r->verdict = FH1_FAIL;
    r->margin = (double)INFINITY;
    snprintf(r->sentence, sizeof r->sentence, "%s%s",
             s->code == FH1_E_WRONG ? "" : "the engine refuses a lawful call: ", fh1_status_line(s, line, sizeof line));
    return NULL;
}

typedef struct {
    law_side mine[2], truth[3], emulated[2];
} all_sides;

static fh1_status walk_all(law_run *run, law_walk walk, all_sides *s, gld_law_result *r)
{
    const gld_law_args *a = run->a;
    for (int road = LAW_LEFT; road <= LAW_PLANTED; ++road)
        FH1_TRY(walk_road(run, walk, a->truth, (law_road)road, &s->truth[road]));
    for (int road = LAW_LEFT; road <= LAW_RIGHT; ++road) {
        fh1_status st = walk_road(run, walk, a->engine, (law_road)road, &s->mine[road]);
        if (st) return judged_refuses(st, r);
    }
    bool exact = true;
    for (int i = 0; i < s->truth[0].n; ++i) exact &= s->truth[0].t[i].exact;
    if (exact || a->engine->profile->storage == FH1_F64) return NULL;
    for (int road = LAW_LEFT; road <= LAW_RIGHT; ++road)
        FH1_TRY(walk_road(run, walk, a->emulated, (law_road)road, &s->emulated[road]));
    return NULL;
}

fh1_status gld_law_judge(const gld_law_args *a, law_walk walk, uint64_t notices, void *data, gld_law_result *r)
{
    *r = (gld_law_result){.verdict = FH1_PASS, .row = -1, .token = -1, .channel = -1};
    FH1_TRY(check_args(a));
    law_run *run = calloc(1, sizeof *run);
    if (!run) return fh1_no_memory(sizeof *run, "a law");
    run->a = a;
    run->m = a->model;
    run->T = gld_law_tokens(a);
    run->data = data;
    for (int b = 0; b < LAW_ROWS; ++b) {
        char name[32];
        snprintf(name, sizeof name, "law text %d", b);
        const fh1_stream ids = fh1_stream_open(a->seed, name);
        for (int64_t i = 0; i < 2 * run->T + 32; ++i)
            run->text[b][i] = fh1_random_below(ids, (uint64_t)i, a->model->config.V);
    }
    all_sides sides = {0};
    fh1_status s = walk_all(run, walk, &sides, r);
    if (!s && r->verdict != FH1_FAIL) {
        if (!same_form(&sides.mine[0], &sides.truth[0]) || !same_form(&sides.mine[1], &sides.truth[0]))
            s = fh1_fail(FH1_E_INTERNAL, "the roads of a law have different forms");
        else s = gld_law_compare(run, sides.mine, sides.truth, sides.emulated, notices, r);
    }
    for (size_t i = 0; i < 2; ++i) gld_side_free(&sides.mine[i]), gld_side_free(&sides.emulated[i]);
    for (size_t i = 0; i < 3; ++i) gld_side_free(&sides.truth[i]);
    free(run);
    return s;
}
