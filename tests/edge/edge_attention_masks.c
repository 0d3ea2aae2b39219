/* Who sees what: causality in both branches, and queries that see nothing. */
#include "tests/edge/edge_padding.h"

#include "oracle/compare.h"
#include "oracle/grads.h"

#include <math.h>
#include <string.h>

/* ---- D-29: a token moves nothing before it and something from it on, in attention and in the mixer ---- */

enum { T = 36, LAYERS = 3, WIDEST = 32, FEW = 8 };

/* What the two branches of each layer gave, and the logits: [T, WIDEST] of the first channels. */
typedef struct {
    const edge_run *r;
    double branch[2][LAYERS][T * WIDEST], logits[T * WIDEST];
    int64_t width;
} branches;

/* A conv that looks one column ahead. */
static void look_ahead(const fh1_tap_event *e)
{
    const size_t row = (size_t)e->value.shape[1] * (e->value.dtype == FH1_F64 ? 8 : 4);
    memmove(e->value.data, (char *)e->value.data + row, (size_t)(e->value.shape[0] - 1) * row);
}

static fh1_status keep_branches(void *user, const fh1_tap_event *e)
{
    branches *k = user;
    const bool attention = e->id == FH1_TAP_O_PROJ;
    if (e->id == FH1_TAP_CONV_ACT && edge_plants(k->r, "conv_looks_ahead")) look_ahead(e);
    if (!attention && e->id != FH1_TAP_OUT_PROJ) return NULL;
    k->width = e->value.shape[1];
    fh1_to_f64(k->branch[attention][e->layer], e->value.data, e->value.dtype, T * k->width);
    return NULL;
}

static fh1_status observe(edge_run *r, const fh1_model *m, int64_t changed, branches *k)
{
    int64_t ids[T];
    fh1_engine *e;
    fh1_cache *c = NULL;
    const fh1_tap_sink sink = {.user = k, .tap = keep_branches};
    k->r = r;
    edge_ids(r, "probed words", 0, m->config.V, T, ids);
    if (changed >= 0) ids[changed] = (ids[changed] + 1) % m->config.V;
    void *out = malloc((size_t)(T * m->config.V) * 8);
    if (!out) return fh1_no_memory(0, "logits");
    fh1_status s = edge_engine(r, m, &e);
    if (!s) s = fh1_cache_new(&m->config, e->dtype, 1, &c);
    if (!s) s = e->forward(e, m, &(fh1_batch){.B = 1, .T = T, .ids = ids}, c, T, out, &sink);
    if (!s) fh1_to_f64(k->logits, out, e->dtype, T * m->config.V);
    fh1_cache_free(c);
    free(out);
    return s;
}

static int64_t first_moved(const double *a, const double *b, int64_t width)
{
    int64_t i = 0;
    while (i < T * width && memcmp(a + i, b + i, sizeof *a) == 0) ++i;
    return i / width;
}

static int64_t rows_moved(const double *a, const double *b, int64_t width, int64_t from)
{
    int64_t n = 0;
    for (int64_t t = from; t < T; ++t) n += memcmp(a + t * width, b + t * width, (size_t)width * sizeof *a) != 0;
    return n;
}

/* In layer 0 a changed token reaches its branches only through its own key, value, column and state: the token itself
 * moves, and tokens behind it do: `all` of them, or half in f64 with weights of heavy tails, beside which a small
 * attention weight vanishes, or some of many in a type that rounds. */
static fh1_status judge_probe(edge_run *r, const fh1_model *m, bool all, int64_t t, const branches *a,
                              const branches *b)
{
    static const char *const name[] = {"mixer", "attention"};
    for (int branch = 0; branch < (m->config.Hq > 0 ? 2 : 1); ++branch) {
        for (int64_t layer = 0; layer < LAYERS; ++layer) {
            const int64_t at = first_moved(a->branch[branch][layer], b->branch[branch][layer], a->width);
            FH1_TRY(edge_require(r, at == t, "another token %lld: %s of layer %lld moves from token %lld on",
                                 (long long)t, name[branch], (long long)layer, (long long)at));
        }
        const int64_t behind = rows_moved(a->branch[branch][0], b->branch[branch][0], a->width, t + 1);
        const int64_t n = T - 1 - t, least = !(r->bit & EDGE_F64) ? n >= FEW : all ? n : n / 2;
        FH1_TRY(edge_require(r, behind >= least,
                             "another token %lld: %s of layer 0 moves %lld of %lld tokens behind it", (long long)t,
                             name[branch], (long long)behind, (long long)n));
    }
    return NULL;
}

/* data: whether every token behind the changed one has a weight that shows. */
static fh1_status probes_on(edge_run *r, const fh1_model *m, void *data)
{
    static branches plain, moved;
    static const int64_t some[] = {0, 8, T - 1};
    FH1_TRY(observe(r, m, -1, &plain));
    for (int64_t i = 0; i < (edge_is_slow(r) ? 3 : T); ++i) {
        const int64_t t = edge_is_slow(r) ? some[i] : i;
        FH1_TRY(observe(r, m, t, &moved));
        FH1_TRY(judge_probe(r, m, data != NULL, t, &plain, &moved));
        const int64_t at = first_moved(plain.logits, moved.logits, m->config.V);
        FH1_TRY(edge_require(r, at == t, "another token %lld: logits move from token %lld on", (long long)t,
                             (long long)at));
    }
    return NULL;
}

fh1_status edge_causality(edge_run *r)
{
    static const char even[] =
        "layers=3,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,m_emb=2.75,m_key=0.59375,"
        "m_attn_in=1.3125,m_ssm_in=1.21875,m_x=1.4375,m_dt=0.46875,attention_bias=1";
    bool all = true;
    if (!edge_is_slow(r)) FH1_TRY(edge_on_model(r, even, probes_on, &all));
    FH1_TRY(edge_each_model(r, probes_on, NULL));
    return edge_is_slow(r) ? NULL : edge_named_law(r, "causality", 34);
}

/* ---- D-28: queries that see nothing, and scores at the end of the range ---- */

enum { QUERIES = 6, KEYS = 9, HQ = 4, HKV = 2, A = 8, N_Q = QUERIES * HQ * A, N_KV = HKV * KEYS * A };

typedef struct {
    edge_run *r;
    fh1_engine *e;
    double q[N_Q], k[N_KV], v[N_KV], dout[N_Q];
    int64_t first[QUERIES];
    double out[N_Q], dq[N_Q], dk[N_KV], dv[N_KV];
} blind;

/* Queries 0, 2 and 5 see nothing: their first key comes behind their own. */
static bool is_blind(int64_t t)
{
    return t == 0 || t == 2 || t == 5;
}

static fh1_status attend(blind *b, int64_t n_queries)
{
    double room[4 * N_KV + 3 * N_Q];
    double *q = room, *k = q + N_Q, *v = k + N_KV, *out = v + N_KV;
    fh1_engine *e = b->e;
    const int64_t n = n_queries * HQ * A;
    double keys[N_KV];
    memcpy(keys, b->k, sizeof keys);
    /* an additive mask of -inf without a guard */
    for (int64_t i = 0; edge_plants(b->r, "blind_by_adding_minus_infinity") && i < N_KV; ++i) keys[i] = -INFINITY;
    fh1_from_f64(q, e->dtype, b->q, n);
    fh1_from_f64(k, e->dtype, keys, N_KV);
    fh1_from_f64(v, e->dtype, b->v, N_KV);
    fh1_status s = n_queries == 1 ? e->ops->attention_step(e, KEYS, HQ, HKV, A, q, k, v, b->first[0], out)
                                  : e->ops->attention(e, n_queries, KEYS, HQ, HKV, A, q, k, v, b->first, out);
    fh1_to_f64(b->out, out, e->dtype, n);
    return s;
}

static fh1_status differentiate(blind *b)
{
    double room[4 * N_KV + 4 * N_Q];
    double *q = room, *k = q + N_Q, *v = k + N_KV, *dout = v + N_KV, *dq = dout + N_Q, *dk = dq + N_Q, *dv = dk + N_KV;
    fh1_engine *e = b->e;
    fh1_from_f64(q, e->dtype, b->q, N_Q);
    fh1_from_f64(k, e->dtype, b->k, N_KV);
    fh1_from_f64(v, e->dtype, b->v, N_KV);
    fh1_from_f64(dout, e->dtype, b->dout, N_Q);
    FH1_TRY(e->bwd_ops->attention(e, QUERIES, KEYS, HQ, HKV, A, q, k, v, b->first, dout, dq, dk, dv));
    fh1_to_f64(b->dq, dq, e->dtype, N_Q);
    fh1_to_f64(b->dk, dk, e->dtype, N_KV);
    fh1_to_f64(b->dv, dv, e->dtype, N_KV);
    return NULL;
}

static fh1_status zeros(edge_run *r, const double *v, int64_t n, const char *what, int64_t t)
{
    int64_t i = 0;
    while (i < n && v[i] == 0) ++i;
    return edge_require(r, i == n, "%s of query %lld, which sees nothing, is %g", what, (long long)t,
                        i < n ? v[i] : 0.0);
}

/* Outputs and gradients; what the blind ones are given in `dout` must not matter to the keys. */
static fh1_status blind_queries(blind *b)
{
    const int64_t row = HQ * A;
    for (int64_t t = 0; t < QUERIES; ++t) b->first[t] = is_blind(t) ? KEYS - QUERIES + t + 1 : t % 2;
    FH1_TRY(attend(b, QUERIES));
    FH1_TRY(edge_finite(b->r, b->out, N_Q, "attention beside queries that see nothing"));
    for (int64_t t = 0; t < QUERIES; ++t)
        if (is_blind(t)) FH1_TRY(zeros(b->r, b->out + t * row, row, "the output", t));
    if (b->e->bwd_ops) {
        double dk[N_KV], dv[N_KV];
        FH1_TRY(differentiate(b));
        FH1_TRY(edge_finite(b->r, b->dq, N_Q, "gradients by queries"));
        memcpy(dk, b->dk, sizeof dk);
        memcpy(dv, b->dv, sizeof dv);
        for (int64_t t = 0; t < QUERIES; ++t)
            if (is_blind(t)) FH1_TRY(zeros(b->r, b->dq + t * row, row, "the gradient", t));
        for (int64_t i = 0; i < N_Q; ++i)
            if (is_blind(i / row)) b->dout[i] = -3 * b->dout[i] + 1;
        FH1_TRY(differentiate(b));
        FH1_TRY(edge_same_bits(b->r, dk, b->dk, N_KV, "gradients by keys"));
        FH1_TRY(edge_same_bits(b->r, dv, b->dv, N_KV, "gradients by values"));
    }
    b->first[0] = KEYS; /* a decode step that sees nothing */
    FH1_TRY(attend(b, 1));
    return zeros(b->r, b->out, row, "the output of a step", 0);
}

/* All scores of a query at the lower end of f32's range, where exp of them is 0: the softmax is that of their
 * differences, which are 0, so the output is the mean of the values. Sums of up to 9 values: within 16 units of the
 * engine's arithmetic and of the type that it stores contexts in. */
static fh1_status lowest_scores(blind *b, const fh1_config *c)
{
    double mean[HKV * A] = {0}, largest = 0;
    const double u =
        fmax(b->e->profile->u, fh1_dtype_ulp(fh1_profile_tap_dtype(b->e->profile, FH1_TAP_CONTEXT, false, c), 1));
    for (int64_t i = 0; i < N_KV; ++i) {
        mean[i / (KEYS * A) * A + i % A] += b->v[i] / KEYS;
        largest = fmax(largest, fabs(b->v[i]));
        b->k[i] = i % A ? 0 : -0x1p60;
    }
    for (int64_t i = 0; i < N_Q; ++i) b->q[i] = i % A ? 0 : 0x1p66;
    b->first[0] = 0;
    FH1_TRY(attend(b, 1));
    for (int64_t i = 0; i < HQ * A; ++i) {
        const double want = mean[i / A / (HQ / HKV) * A + i % A];
        FH1_TRY(edge_require(b->r, fh1_within(fabs(b->out[i] - want), 16 * u * largest),
                             "all scores are -2^126/sqrt(A): output %lld is %.9g, the mean of the values is %.9g",
                             (long long)i, b->out[i], want));
    }
    return NULL;
}

/* Without a row of nothing but padding, or with it in the middle: the gradients of all weights. */
static fh1_status gradients_beside(edge_run *r, const fh1_model *m, bool empty, fh1_grads **out, double *loss)
{
    enum { COLUMNS = 7 };
    static const int64_t left[] = {3, COLUMNS, 0};
    int64_t words[3 * COLUMNS], ids[3 * COLUMNS], mask[3 * COLUMNS], labels[3 * COLUMNS], rows = 0;
    fh1_engine *e;
    edge_ids(r, "words", 0, m->config.V, 3 * COLUMNS, words);
    for (int b = 0; b < 3; ++b) {
        if (b == 1 && !empty) continue;
        for (int64_t t = 0; t < COLUMNS; ++t) {
            const int64_t i = rows * COLUMNS + t;
            ids[i] = words[b * COLUMNS + t];
            mask[i] = t >= left[b];
            labels[i] = mask[i] ? ids[i] : -100;
            /* a loader that forgets the row: its columns are said and counted */
            if (b == 1 && edge_plants(r, "padding_has_labels")) mask[i] = 1, labels[i] = ids[i];
        }
        rows++;
    }
    const fh1_batch batch = {.B = rows, .T = COLUMNS, .ids = ids, .mask = mask, .mask_len = COLUMNS, .labels = labels};
    fh1_backward o = {.keep = true};
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(fh1_grads_new((fh1_model *)(uintptr_t)m, e->dtype, NULL, NULL, out));
    o.grads = *out;
    fh1_status s = e->backward(e, m, &batch, &o);
    *loss = o.loss;
    return s;
}

static fh1_status empty_row_in_training(edge_run *r, const fh1_model *m, void *data)
{
    fh1_grads *without = NULL, *with = NULL;
    double loss[2];
    (void)data;
    fh1_status s = gradients_beside(r, m, false, &without, &loss[0]);
    if (!s) s = gradients_beside(r, m, true, &with, &loss[1]);
    if (!s) s = edge_finite(r, loss, 2, "the loss beside a row of nothing but padding");
    if (!s) s = edge_same_bits(r, &loss[0], &loss[1], 1, "the loss beside a row of nothing but padding");
    if (!s)
        s = edge_require(r, with->bytes == without->bytes && memcmp(with->memory, without->memory, with->bytes) == 0,
                         "gradients move when a row of nothing but padding joins the batch");
    fh1_grads_free(without);
    fh1_grads_free(with);
    return s;
}

static fh1_status blind_on(edge_run *r, const fh1_model *m, void *data)
{
    static blind b;
    int64_t numbers[2 * N_Q + 2 * N_KV];
    (void)data;
    b.r = r;
    edge_ids(r, "keys and queries", 0, 33, 2 * N_Q + 2 * N_KV, numbers);
    for (int64_t i = 0; i < N_Q; ++i) {
        b.q[i] = (double)(numbers[i] - 16) / 8;
        b.dout[i] = (double)(numbers[N_Q + i] - 16) / 8;
    }
    for (int64_t i = 0; i < N_KV; ++i) {
        b.k[i] = (double)(numbers[2 * N_Q + i] - 16) / 8;
        b.v[i] = (double)(numbers[2 * N_Q + N_KV + i] - 16) / 8;
    }
    FH1_TRY(edge_engine(r, m, &b.e));
    /* The kernels of CUDA are never given a query that sees nothing, as tokens are packed: a row of padding in a batch
     * is what a user can do to them. */
    if (!edge_is_slow(r)) FH1_TRY(blind_queries(&b));
    return lowest_scores(&b, &m->config);
}

fh1_status edge_blind_queries(edge_run *r)
{
    FH1_TRY(edge_on_model(r, edge_model_text(0), blind_on, NULL));
    if (!edge_is_slow(r)) return edge_each_model(r, empty_row_in_training, NULL);
    FH1_TRY(edge_on_model(r, edge_model_text(1), empty_row_in_training, NULL));
    return edge_on_mamba(r, empty_row_in_training, NULL);
}
