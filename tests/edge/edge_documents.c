/* D-58: the last token of document A is changed; nothing of document B may move, forward or backward. */
#include "tests/edge/edge_moves.h"
#include "tests/edge/edge_rows.h"

#include "oracle/grads.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>

enum { OF_B = 6 };

/* A says `words` of the text, then `last`; B the words behind it. */
static void two_documents(const law_run *run, int64_t of_a, int64_t last, edge_packed *p)
{
    edge_pack(run, 1, (const int64_t[][EDGE_DOCS]){{of_a, OF_B}}, 1, p);
    for (int64_t t = 0; t < p->T; ++t) p->ids[t] %= run->m->config.V - 1; /* the last word stands nowhere else */
    if (last >= 0) p->ids[of_a - 1] = last;
}

static fh1_status changed(law_run *run, fh1_engine *e, law_road road, int64_t of_a, int64_t last, law_side *out)
{
    edge_packed p;
    law_session *s;
    two_documents(run, of_a, road == LAW_LEFT ? -1 : last, &p);
    FH1_TRY(gld_session_open(run, e, 1, &s));
    FH1_TRY(edge_feed_packed(s, &p, 0, p.T, road != LAW_PLANTED));
    FH1_TRY(gld_session_take(s, 0, of_a, -1, true, true, out));
    const int64_t word = p.ids[p.T - 1], position = OF_B; /* an ordinary word goes on with B */
    FH1_TRY(gld_session_call(s, &(fh1_batch){.B = 1, .T = 1, .ids = &word, .positions = &position}));
    return gld_session_take(s, 0, of_a, -1, true, true, out);
}

static fh1_status walk_changed(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t K = run->m->config.K, Q = edge_chunk(run), of_a[] = {K - 1, 1, Q, Q + 1}, V = run->m->config.V;
    for (int i = 0; i < (edge_slow(run->data) ? 1 : 4); ++i) FH1_TRY(changed(run, e, road, of_a[i], V - 1, out));
    return NULL;
}

/* ---- backward ---- */

typedef struct {
    const fh1_model *m;
    int64_t of_a, V;
    int64_t ids[EDGE_COLUMNS], seq_idx[EDGE_COLUMNS], positions[EDGE_COLUMNS], labels[EDGE_COLUMNS];
} lesson;

/* A's words are of the lower half of the vocabulary, B's of the upper one, the last word excepted. Labels are those of
 * B's own words; its first one would be foretold by A. */
static lesson lesson_of(edge_run *r, const fh1_model *m, int64_t of_a)
{
    lesson l = {.m = m, .of_a = of_a, .V = m->config.V};
    const fh1_stream words = fh1_stream_open(r->seed, "lesson");
    const int64_t half = l.V / 2;
    for (int64_t t = 0; t < of_a + OF_B; ++t) {
        const bool b = t >= of_a;
        l.ids[t] = b ? half + fh1_random_below(words, (uint64_t)t, l.V - 1 - half)
                     : fh1_random_below(words, (uint64_t)t, half);
        l.seq_idx[t] = b;
        l.positions[t] = b ? t - of_a : t;
        l.labels[t] = t > of_a ? l.ids[t] : -100;
    }
    return l;
}

static fh1_status learn(fh1_engine *e, fh1_model *m, const lesson *l, int64_t last, double *loss, fh1_grads **g)
{
    lesson copy = *l;
    if (last >= 0) copy.ids[l->of_a - 1] = last;
    const fh1_batch b = {.B = 1,
                         .T = l->of_a + OF_B,
                         .ids = copy.ids,
                         .seq_idx = copy.seq_idx,
                         .positions = copy.positions,
                         .labels = copy.labels};
    FH1_TRY(fh1_grads_new(m, e->dtype, NULL, NULL, g));
    fh1_backward o = {.grads = *g};
    FH1_TRY(e->backward(e, m, &b, &o));
    *loss = o.loss;
    return NULL;
}

/* Rows [begin, end) of the embedding's gradient, or all of any other. By value: a sum of zeros may have either sign. */
static fh1_status same_grad(edge_run *r, const fh1_param *a, const fh1_param *b, int64_t begin, int64_t end,
                            const char *what)
{
    int64_t differ = -1;
    for (int64_t i = begin; i < end && differ < 0; ++i) {
        const double left = fh1_get(&a->grad, i), right = b ? fh1_get(&b->grad, i) : 0;
        if (!(left == right)) differ = i;
    }
    return edge_require(r, differ < 0, "%s: the gradient of %s differs at element %lld", what, a->name,
                        (long long)differ);
}

/* `whole`: all parameters must agree, not the embeddings alone. */
static fh1_status compare_lessons(edge_run *r, const lesson *l, const fh1_grads *a, const fh1_grads *b, bool whole)
{
    const int64_t half = l->V / 2, D = l->m->config.D;
    for (int64_t i = 0; i < a->n; ++i) {
        const bool embed = a->params[i].value == &l->m->embed;
        const int64_t n = fh1_n_elems(&a->params[i].grad);
        if (embed) {
            FH1_TRY(same_grad(r, &a->params[i], &b->params[i], half * D, (l->V - 1) * D, "document A changed"));
            if (whole) FH1_TRY(same_grad(r, &b->params[i], NULL, 0, half * D, "A's words learn from B's loss"));
        } else if (whole) {
            FH1_TRY(same_grad(r, &a->params[i], &b->params[i], 0, n, "document A changed"));
        }
    }
    return NULL;
}

/* `m`'s last word is ordinary, `poisoned`'s is NaN. */
static fh1_status backward(edge_run *r, fh1_model *m, bool poisoned, int64_t of_a)
{
    fh1_engine *e;
    FH1_TRY(edge_engine(r, m, &e));
    if (!e->backward) return fh1_fail(FH1_E_INTERNAL, "%s has no backward pass", e->name);
    const lesson l = lesson_of(r, m, of_a);
    fh1_grads *before = NULL, *after = NULL;
    double loss[2] = {0};
    fh1_status s = learn(e, m, &l, -1, &loss[0], &before);
    if (!s) s = learn(e, m, &l, poisoned ? l.V - 1 : (l.ids[of_a - 1] + 1) % (l.V / 2), &loss[1], &after);
    if (!s)
        s = edge_require(r, loss[0] == loss[1], "document A changed: the loss of B is %.17g, it was %.17g", loss[1],
                         loss[0]);
    if (!s) s = compare_lessons(r, &l, before, after, !poisoned);
    fh1_grads_free(before);
    fh1_grads_free(after);
    return s;
}

/* ------------------------------------------------------------------------------------------------- */

static fh1_status documents_on(edge_run *r, const fh1_model *m, void *data)
{
    static const int64_t of_a[] = {3, 1, 8, 9};
    const bool *poisoned = data;
    const int64_t D = m->config.D, V = m->config.V;
    fh1_model own = *m; /* its weights are the case's own */
    for (int64_t d = 0; *poisoned && d < D; ++d) fh1_set(&own.embed, (V - 1) * D + d, (double)NAN);
    fh1_status s = edge_law(r, &own, 20, walk_changed, LAW_ALL, r);
    for (int k = 0; k < (edge_slow(r) ? 1 : 4) && !s; ++k) s = backward(r, &own, *poisoned, of_a[k]);
    edge_contract(r, r->profile); /* no engine may outlive the copy */
    return fh1_where(s, *poisoned ? "NaN" : "another word");
}

fh1_status edge_other_document(edge_run *r)
{
    bool poisoned = false;
    for (int i = 0; i < 2; ++i, poisoned = true) {
        if (!edge_slow(r)) FH1_TRY(edge_each_model(r, documents_on, &poisoned));
        else FH1_TRY(edge_on_model(r, edge_model_text(1), documents_on, &poisoned));
        if (edge_slow(r)) FH1_TRY(edge_on_mamba(r, documents_on, &poisoned));
    }
    return NULL;
}
