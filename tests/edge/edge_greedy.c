/* D-56: greedy text with and without speculation. */
#include "tests/edge/edge_moves.h"

#include "oracle/random.h"

enum { PROMPT = 5, STEPS = 200, SLOW_STEPS = 12, DRAFTS = 4, ALL = PROMPT + STEPS + DRAFTS + 1 };

/* What both roads of every engine say: the truth's own greedy text, so that they can be compared to the end whatever a
 * near tie of a narrow type would have chosen. */
typedef struct {
    edge_run *r;
    int64_t steps, text[ALL];
    int64_t chosen[ALL]; /* what the plain run of the engine at hand chose behind each token */
} greedy;

static int64_t best(const double *logits, int64_t V)
{
    int64_t at = 0;
    for (int64_t v = 1; v < V; ++v)
        if (logits[v] > logits[at]) at = v;
    return at;
}

/* The truth decodes. */
static fh1_status write_text(edge_run *r, const fh1_model *m, greedy *g)
{
    fh1_engine *e;
    fh1_cache *c = NULL;
    double logits[64];
    const int64_t V = m->config.V;
    const fh1_stream ids = fh1_stream_open(r->seed, "greedy prompt");
    for (int64_t i = 0; i < PROMPT; ++i) g->text[i] = fh1_random_below(ids, (uint64_t)i, V);
    FH1_TRY(edge_truth(r, &e));
    fh1_status s = fh1_cache_new(&m->config, e->dtype, 1, &c);
    for (int64_t n = 0; n < PROMPT + g->steps + DRAFTS && !s; ++n) {
        const fh1_batch b = {.B = 1, .T = 1, .ids = &g->text[n]};
        s = e->forward(e, m, &b, c, 1, logits, NULL);
        if (!s && n + 1 >= PROMPT) g->text[n + 1] = best(logits, V);
    }
    fh1_cache_free(c);
    return s;
}

/* A copy of the cache as it is now, in a session that is used again. */
static fh1_status snapshot_into(law_session *to, const law_session *from)
{
    FH1_TRY(gld_session_restore(to, from)); /* its books */
    fh1_cache_free(to->cache);
    to->cache = NULL;
    return from->e->cache_ops->clone(from->cache, &to->cache);
}

/* The word chosen behind each token of one call. Arithmetic of 24 bits and more moves logits by about 1e-5 at most
 * between the roads; that two of 29 words are so close in one of 200 steps is an accident of one seed in hundreds. A
 * narrower type has near ties: there the law decides, which holds every logit to what two honest runs may differ by,
 * so that a word can only change where the best two are closer than that. */
static fh1_status compare_words(law_run *run, law_session *s, int64_t begin)
{
    greedy *g = run->data;
    const fh1_dtype type = run->a->engine->profile->storage;
    if (s->e != run->a->engine || (type != FH1_F64 && type != FH1_F32)) return NULL;
    for (int64_t t = begin < PROMPT - 1 ? PROMPT - 1 : begin; t < s->n[0]; ++t) {
        const int64_t word = best(s->logits[0] + t * s->kept, s->kept);
        FH1_TRY(edge_require(g->r, word == g->chosen[t],
                             "step %lld: the word is %lld with speculation and %lld without",
                             (long long)(t + 1 - PROMPT), (long long)word, (long long)g->chosen[t]));
    }
    return NULL;
}

/* One call with the next token and DRAFTS drafts, each right two times in three; then back to what was right. */
static fh1_status round_of_drafts(law_run *run, law_road road, law_session *s, law_session *before,
                                  law_session *verified)
{
    greedy *g = run->data;
    const int64_t n = s->n[0], left = PROMPT + g->steps - n, k = left - 1 < DRAFTS ? left - 1 : DRAFTS;
    const fh1_stream dice = fh1_stream_open(g->r->seed, "drafts");
    int64_t text[DRAFTS + 1], j = 0;
    for (int64_t i = 0; i <= k; ++i) {
        const bool first = n == PROMPT; /* one is surely rejected */
        const bool right = i == 0 || (first ? i != 2 : fh1_random_below(dice, (uint64_t)(n + i), 3) > 0);
        text[i] = right ? g->text[n + i] : gld_other_id(run, g->text[n + i]);
        if (right && i == j + 1) j = i;
    }
    FH1_TRY(snapshot_into(before, s));
    FH1_TRY(gld_session_feed(s, text, k + 1));
    if (j == k) return compare_words(run, s, n);
    FH1_TRY(snapshot_into(verified, s));
    FH1_TRY(gld_session_restore(s, before));
    FH1_TRY(gld_session_feed(s, text, j + 1));
    const bool planted = road == LAW_PLANTED || (road == LAW_RIGHT && s->e == run->a->engine &&
                                                 edge_plants(g->r, "state_stays_after_rejection"));
    if (planted) FH1_TRY(edge_copy_all(s, verified, EDGE_MEMORY));
    return compare_words(run, s, n);
}

static fh1_status walk_words(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    greedy *g = run->data;
    law_session *s, *before, *verified;
    FH1_TRY(gld_session_solo(run, e, g->text, (int64_t[]){PROMPT, 0}, &s));
    if (road == LAW_LEFT) {
        for (int64_t i = 0; i < g->steps; ++i) FH1_TRY(gld_session_feed(s, g->text + PROMPT + i, 1));
        for (int64_t t = 0; t < s->n[0]; ++t) g->chosen[t] = best(s->logits[0] + t * s->kept, s->kept);
        return gld_session_take(s, 0, 0, -1, true, false, out);
    }
    FH1_TRY(gld_session_open(run, e, 1, &before));
    FH1_TRY(gld_session_open(run, e, 1, &verified));
    while (s->n[0] < PROMPT + g->steps) FH1_TRY(round_of_drafts(run, road, s, before, verified));
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

fh1_status edge_same_words(edge_run *r)
{
    greedy *g = calloc(1, sizeof *g);
    if (!g) return fh1_no_memory(sizeof *g, "a greedy text");
    *g = (greedy){.r = r, .steps = edge_slow(r) ? SLOW_STEPS : STEPS};
    fh1_model m;
    fh1_status s = edge_model(r,
                              "layers=1,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,weights=trained,"
                              "rms_norm=1,m_key=0.59375,m_lm=0.40625,m_x=1.4375,m_B=0.78125",
                              &m);
    if (!s) {
        s = write_text(r, &m, g);
        if (!s) s = edge_law(r, &m, (ALL + 1) / 2, walk_words, LAW_BIT(FH1_TAP_CACHE_SSM) | LAW_BIT(FH1_TAP_LOGITS), g);
        edge_contract(r, NULL);
        fh1_model_free(&m);
    }
    free(g);
    return s;
}
