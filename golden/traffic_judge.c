/* Traffic against each document alone: what every token of every row computed, and what lies in the caches. */
#include "golden/law_impl.h"
#include "golden/traffic_impl.h"

#include "oracle/compare.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const gld_law_args *a;
    const gld_traffic *t;
    traffic_sizes sizes;
    int64_t L;
    traffic_road mine, emulated; /* emulated: without tokens where none is needed */
    traffic_alone truth, honest;
    int64_t *path;   /* [longest document]: a path of tokens */
    double *room[4]; /* gathered tensors: mine, truth, emulated on the traffic and alone */
    double *pooled;  /* [FH1_TAP_COUNT, layers] sums of square errors, and of squares behind them */
    gld_traffic_result *r;
    int64_t key;           /* when the failure that is told happened */
    int told, logits_lost; /* tensors of logits where something could be told, and the others */
    int shown;             /* tensors of tokens in which there is something to see */
    bool pooling;
} judge;

/* ---- one tensor of all roads ---- */

enum { MINE, TRUTH, EMULATED, HONEST, ROADS };

/* Where a tensor was seen. */
typedef struct {
    const int64_t *path;      /* its tokens; NULL: of no token, */
    int last;                 /* but behind this one; -1: an empty row */
    const traffic_look *look; /* NULL: logits */
} seen;

static int64_t key_of(const judge *j, const seen *s, int token)
{
    if (!s->look) return 2 * (int64_t)j->mine.token[token].move + 1;
    return s->look->move < 0 ? INT64_MAX : 2 * (int64_t)s->look->move;
}

static void tell(judge *j, const law_tensor t[ROADS], const seen *s, int64_t at, double allowed)
{
    gld_traffic_result *r = j->r;
    const int64_t i = s->path ? at / t->width : -1;
    const int token = s->path ? (int)s->path[i] : s->last;
    const traffic_token *k = token >= 0 ? &j->mine.token[token] : NULL;
    fh1_tap_name(j->a->model->config.family, t->id, t->layer, r->tap);
    r->move = s->look ? s->look->move : k->move;
    r->cache = s->look ? s->look->cache : k->cache;
    r->row = s->look ? s->look->row : k->row;
    r->document = k ? k->document : -1;
    r->token = s->path ? k->position : -1;
    r->channel = at % t->width * t->stride;
    r->value = t[MINE].v[at];
    r->truth = t[TRUTH].v[at];
    r->allowed = allowed;
}

static void say_failure(judge *j, const seen *s, bool average)
{
    gld_traffic_result *r = j->r;
    char when[48] = "at the end", document[48] = "", token[32] = "";
    if (r->move >= 0) snprintf(when, sizeof when, s->look ? "before move %d" : "move %d", r->move + 1);
    if (r->document >= 0) snprintf(document, sizeof document, ", document %lld", (long long)r->document);
    if (r->token >= 0) snprintf(token, sizeof token, ", token %lld", (long long)r->token);
    snprintf(r->sentence, sizeof r->sentence,
             "%s: %s, cache %c, row %lld%s%s, channel %lld: %.9g, but %.9g alone; %.3g is allowed%s", when, r->tap,
             'a' + r->cache, (long long)r->row, document, token, (long long)r->channel, r->value, r->truth, r->allowed,
             average ? " on average" : "");
}

static bool all_finite(const law_tensor *t)
{
    for (int64_t i = 0; i < t->n * t->width; i++)
        if (!isfinite(t->v[i])) return false;
    return true;
}

/* An emulated pipeline that is off by half of what there is, or has overflowed, tells nothing. */
static bool is_lost(const law_place *p, const law_finding *f)
{
    if (!p->emulated_left) return false;
    if (!all_finite(p->emulated_left) || !all_finite(p->emulated_right)) return true;
    const double rms = sqrt(gld_mean_square(p->true_left, NULL));
    return rms > 0 && !(f->whole < rms / 2);
}

/* Of 10 000 lines on random small models of both families and every block no honest traffic was beyond 0.61 times what
 * is allowed under fp32 (2 beyond 0.5, 17 beyond 0.4), of 5 500 under bf16 none beyond 0.43. Four times that, and
 * twice, is for heads in which nearly everything cancels and the emulation was lucky; mistakes with caches are as large
 * as the numbers themselves, which f32 is far below. In f64 1 of 90 000 lines was beyond the 1e-11 of the laws, by a
 * fifth; by the same tail 16 times that leaves fewer than 1 in 10^9. */
static double slack(const gld_law_args *a)
{
    if (a->engine->profile->storage == FH1_F64) return 16;
    return a->engine->profile->storage == FH1_F32 ? 4 : 2;
}

static void compare(judge *j, const law_tensor t[ROADS], const seen *s)
{
    const bool rounds = j->pooled != NULL;
    law_place p = {
        .left = &t[MINE], .right = &t[TRUTH], .true_left = &t[TRUTH], .true_right = &t[TRUTH], .slack = slack(j->a)};
    if (rounds) {
        const double *sum = j->pooled + t->id * j->L + t->layer;
        p.emulated_left = &t[EMULATED];
        p.emulated_right = &t[HONEST];
        p.pooled = sum[FH1_TAP_COUNT * j->L] > 0 ? *sum / sum[FH1_TAP_COUNT * j->L] : 0;
    }
    const law_finding f = gld_place_compare(j->a, &p, p.left, p.right);
    const bool lost = is_lost(&p, &f);
    if (!s->look) lost ? j->logits_lost++ : j->told++;
    if (lost) return;
    /* zeros and overflown numbers are the same whatever was said before */
    j->shown += s->path && gld_mean_square(&t[TRUTH], NULL) > 0;
    if (!fh1_within(f.margin, j->r->margin)) {
        j->r->margin = f.margin;
        if (j->r->verdict != FH1_FAIL) tell(j, t, s, f.at, f.allowed);
    }
    if (fh1_within(f.margin, 1)) return;
    const int64_t at = f.first >= 0 ? f.first : f.at;
    const int64_t key = key_of(j, s, s->path ? (int)s->path[at / t->width] : s->last);
    if (j->r->verdict == FH1_FAIL && key >= j->key) return;
    j->r->verdict = FH1_FAIL;
    j->key = key;
    tell(j, t, s, at, f.first >= 0 ? f.first_allowed : f.allowed);
    say_failure(j, s, f.first < 0);
}

static void pool(judge *j, const law_tensor t[ROADS])
{
    double *sum = j->pooled + t->id * j->L + t->layer;
    const double n = (double)(t->n * t->width);
    sum[0] += n * (gld_mean_square(&t[EMULATED], &t[TRUTH]) + gld_mean_square(&t[HONEST], &t[TRUTH]));
    sum[FH1_TAP_COUNT * j->L] += 2 * n * gld_mean_square(&t[TRUTH], NULL);
}

static void visit(judge *j, const law_tensor *like, const seen *s)
{
    law_tensor t[ROADS];
    for (int i = 0; i < ROADS; i++) {
        t[i] = *like;
        t[i].v = j->room[i];
    }
    if (like->n * like->width == 0) return;
    if (j->pooling) pool(j, t);
    else compare(j, t, s);
}

/* ---- all tensors ---- */

static void visit_logits(judge *j, const traffic_solo *s)
{
    const int64_t kept = j->sizes.kept, first = s->n - s->own;
    const double *from[ROADS] = {j->mine.logits, j->truth.logits, j->emulated.logits, j->honest.logits};
    gld_traffic_path(&j->mine, s, j->path);
    for (int road = 0; road < ROADS; road++)
        for (int64_t i = 0; from[road] && i < s->own; i++)
            memcpy(j->room[road] + i * kept, from[road] + j->path[first + i] * kept, (size_t)kept * sizeof(double));
    const law_tensor t = {.id = FH1_TAP_LOGITS,
                          .first_token = first,
                          .n = s->own,
                          .width = kept,
                          .stride = j->sizes.stride,
                          .fiber = kept,
                          .samples = s->own};
    visit(j, &t, &(seen){.path = j->path + first});
}

/* Keys and values of tokens [begin, end) of a row, which are one document. */
static void visit_tokens(judge *j, int look, int64_t begin, int64_t end)
{
    const traffic_look *mine = &j->mine.look[look];
    const traffic_look *emulated = j->pooled ? &j->emulated.look[look] : NULL;
    const int64_t w = j->sizes.kv, n = end - begin;
    for (int64_t i = 0; i < n; i++) j->path[i] = mine->token[begin + i];
    for (int64_t lp = 0; lp < 2 * j->L; lp++) {
        memcpy(j->room[MINE], mine->kv + (lp * mine->n + begin) * w, (size_t)(n * w) * sizeof(double));
        if (emulated)
            memcpy(j->room[EMULATED], emulated->kv + (lp * mine->n + begin) * w, (size_t)(n * w) * sizeof(double));
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = (j->path[i] * 2 * j->L + lp) * w;
            memcpy(j->room[TRUTH] + i * w, j->truth.kv + at, (size_t)w * sizeof(double));
            if (emulated) memcpy(j->room[HONEST] + i * w, j->honest.kv + at, (size_t)w * sizeof(double));
        }
        const law_tensor t = {.id = lp % 2 ? FH1_TAP_CACHE_VALUE : FH1_TAP_CACHE_KEY,
                              .layer = lp / 2,
                              .row = mine->row,
                              .n = n,
                              .width = w,
                              .stride = 1,
                              .fiber = j->a->model->config.A,
                              .samples = n};
        visit(j, &t, &(seen){.path = j->path, .look = mine});
    }
}

/* Window and state of a row, all of it the current document's; an empty row has zeros. A head that forgets fast shows
 * the errors of its last token alone. */
static void visit_memory(judge *j, int look, int64_t tokens)
{
    const fh1_config *c = &j->a->model->config;
    const traffic_look *mine = &j->mine.look[look];
    const int last = mine->n ? mine->token[mine->n - 1] : -1;
    const double *from[ROADS] = {mine->memory};
    if (last >= 0) from[TRUTH] = j->truth.run[j->truth.of[last]].memory;
    if (j->pooled) {
        from[EMULATED] = j->emulated.look[look].memory;
        if (last >= 0) from[HONEST] = j->honest.run[j->honest.of[last]].memory;
    }
    int64_t at = 0;
    for (int64_t i = 0; i < 2 * j->L; i++) {
        const bool window = i % 2 == 0;
        const int64_t n = window ? j->sizes.window : j->sizes.state;
        for (int road = 0; road < ROADS; road++) {
            if (from[road]) memcpy(j->room[road], from[road] + at, (size_t)n * sizeof(double));
            else memset(j->room[road], 0, (size_t)n * sizeof(double));
        }
        law_tensor t = {.id = window ? FH1_TAP_CACHE_CONV : FH1_TAP_CACHE_SSM,
                        .layer = i / 2,
                        .row = mine->row,
                        .first_token = -1,
                        .n = 1,
                        .width = n,
                        .stride = window ? j->sizes.window_stride : j->sizes.state_stride,
                        .samples = !window             ? 1
                                   : tokens > c->K - 1 ? c->K - 1
                                                       : tokens};
        t.fiber = t.stride > 1 ? 1 : window ? c->K - 1 : c->N;
        visit(j, &t, &(seen){.last = last, .look = mine});
        at += n;
    }
}

static void visit_all(judge *j, bool pooling)
{
    j->pooling = pooling;
    for (int i = j->truth.n - 1; i >= 0; i--)
        if (j->truth.run[i].own) visit_logits(j, &j->truth.run[i]);
    for (int i = 0; i < j->mine.n_looks; i++) {
        const traffic_look *look = &j->mine.look[i];
        int64_t begin = 0;
        for (int64_t k = 1; k <= look->n; k++) {
            if (k < look->n && j->mine.token[look->token[k]].parent >= 0) continue;
            visit_tokens(j, i, begin, k);
            if (k < look->n) begin = k;
        }
        visit_memory(j, i, look->n - begin);
    }
}

/* ---- the verdict ---- */

static fh1_status check_args(const gld_traffic *t, const gld_law_args *a)
{
    assert(a->engine && a->truth && a->model);
    FH1_TRY(gld_traffic_check(t));
    FH1_TRY(fh1_engine_open(a->engine, a->model));
    if (!a->emulated && a->engine->profile->storage != FH1_F64)
        return FH1_BAD("engine %s rounds: its traffic needs an emulated pipeline", a->engine->name);
    return NULL;
}

static void set_verdict(gld_traffic_result *r, fh1_verdict verdict, double margin, const char *why)
{
    r->verdict = verdict;
    r->margin = margin;
    snprintf(r->sentence, sizeof r->sentence, "%s", why);
}

/* An engine that refuses what it must do has failed. */
static fh1_status judged_refuses(judge *j, fh1_status s)
{
    if (s->code == FH1_E_INTERNAL) return s;
    char line[200];
    const traffic_road *road = &j->mine;
    char when[32] = "at the end";
    if (road->move >= 0) snprintf(when, sizeof when, "move %d", road->move + 1);
    set_verdict(j->r, FH1_FAIL, (double)INFINITY, "");
    j->r->move = road->move;
    j->r->cache = road->cache;
    snprintf(
        j->r->sentence, sizeof j->r->sentence, "%s, cache %c: %s%s", when, 'a' + road->cache,
        s->code == FH1_E_WRONG ? "" : "the engine refuses what it must do: ", fh1_status_line(s, line, sizeof line));
    return NULL;
}

/* Angles that depend on the longest sequence of a batch: then no document is alone. */
static bool angles_depend(const judge *j)
{
    const fh1_rope *r = &j->a->model->config.rope;
    const int64_t longest = j->mine.longest;
    return (r->type == FH1_ROPE_DYNAMIC && longest > r->max_position) ||
           (r->type == FH1_ROPE_LONGROPE && longest > r->original_max_position);
}

static fh1_status make_room(judge *j)
{
    const traffic_sizes *z = &j->sizes;
    int64_t longest = 1, width = z->kept > z->kv ? z->kept : z->kv, most;
    for (int i = 0; i < j->mine.n_tokens; i++)
        if (j->mine.token[i].position >= longest) longest = j->mine.token[i].position + 1;
    for (int i = 0; i < j->mine.n_looks; i++)
        if (j->mine.look[i].n > longest) longest = j->mine.look[i].n;
    most = longest * width;
    if (z->window > most) most = z->window;
    if (z->state > most) most = z->state;
    j->path = malloc((size_t)longest * sizeof *j->path);
    j->room[0] = malloc((size_t)(ROADS * most) * sizeof(double));
    if (!j->path || !j->room[0]) return fh1_no_memory((size_t)(ROADS * most) * sizeof(double), "traffic");
    for (int i = 1; i < ROADS; i++) j->room[i] = j->room[0] + i * most;
    return NULL;
}

/* A contract that names no form of the scan is kept by the recurrence as well as by chunks, whose errors differ in
 * kind: where D·x and what the state says nearly cancel, a chunk's product C·B is off by one factor for all channels of
 * a head, which a norm behind it takes away again; the recurrence is off in each channel by itself, and the norm makes
 * that as large as the cancellation was. Of both forms the number counts that is farther off. */
static fh1_status run_honest(judge *j)
{
    const fh1_model *m = j->a->model;
    fh1_engine *e = j->a->emulated;
    traffic_alone other = {0};
    FH1_TRY(gld_traffic_alone(&j->mine, m, e, &j->honest));
    if (!e->profile->any_form || e->profile->chunk == 1 || m->config.family == FH1_FALCON_MAMBA) return NULL;
    e->chunked = !e->chunked;
    const fh1_status s = gld_traffic_alone(&j->mine, m, e, &other);
    e->chunked = !e->chunked;
    if (!s) gld_traffic_farther(&j->mine, m, &j->honest, &other, &j->truth);
    gld_traffic_alone_free(&other);
    return s;
}

static fh1_status run_emulated(judge *j)
{
    const gld_law_args *a = j->a;
    if (a->engine->profile->storage == FH1_F64) return NULL;
    j->pooled = calloc((size_t)(2 * FH1_TAP_COUNT * j->L), sizeof *j->pooled);
    if (!j->pooled) return fh1_no_memory(0, "the errors of traffic");
    FH1_TRY(gld_traffic_walk(j->t, a->model, a->emulated, a->seed, &j->emulated));
    return run_honest(j);
}

static fh1_status run(judge *j)
{
    const gld_law_args *a = j->a;
    gld_traffic_result *r = j->r;
    if (!a->engine->cache_ops)
        return set_verdict(r, FH1_SKIP, (double)NAN, "the engine has no operations on its cache"), NULL;
    fh1_status s = gld_traffic_walk(j->t, a->model, a->engine, a->seed, &j->mine);
    r->calls = j->mine.calls;
    r->tokens = j->mine.n_tokens;
    if (s) return judged_refuses(j, s);
    if (angles_depend(j)) {
        set_verdict(r, FH1_SKIP, (double)NAN, "angles depend on the longest sequence of a batch: no document is alone");
        return NULL;
    }
    FH1_TRY(make_room(j));
    FH1_TRY(gld_traffic_alone(&j->mine, a->model, a->truth, &j->truth));
    FH1_TRY(run_emulated(j));
    if (j->pooled) visit_all(j, true);
    visit_all(j, false);
    if (r->verdict == FH1_FAIL) return NULL;
    if (r->tokens == 0) set_verdict(r, FH1_MISTRUSTED, (double)NAN, "nothing was said: this traffic proves nothing");
    else if (j->told == 0)
        set_verdict(r, FH1_SKIP, (double)NAN, "the emulated pipeline has lost the numbers: nothing can be told");
    else if (j->shown == 0)
        set_verdict(r, FH1_MISTRUSTED, (double)NAN, "truth is zero or not finite everywhere: nobody could be wrong");
    else
        snprintf(r->sentence, sizeof r->sentence, "%lld tokens in %lld calls are what they are alone",
                 (long long)r->tokens, (long long)r->calls);
    return NULL;
}

fh1_status gld_traffic_judge(const gld_traffic *t, const gld_law_args *a, gld_traffic_result *r)
{
    *r = (gld_traffic_result){.verdict = FH1_PASS, .move = -1, .row = -1, .document = -1, .token = -1, .channel = -1};
    FH1_TRY(check_args(t, a));
    judge *j = calloc(1, sizeof *j);
    if (!j) return fh1_no_memory(sizeof *j, "traffic");
    *j = (judge){.a = a, .t = t, .sizes = gld_traffic_sizes(&a->model->config), .L = a->model->config.n_layers, .r = r};
    fh1_status s = run(j);
    gld_traffic_road_free(&j->mine);
    gld_traffic_road_free(&j->emulated);
    gld_traffic_alone_free(&j->truth);
    gld_traffic_alone_free(&j->honest);
    free(j->path);
    free(j->room[0]);
    free(j->pooled);
    free(j);
    return s;
}
