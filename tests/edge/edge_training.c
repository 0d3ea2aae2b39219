/* The forward pass of a training step against the one of inference. */
#include "tests/edge/edge_prefill.h"

#include "oracle/compare.h"
#include "oracle/grads.h"
#include "reference/faulty.h"

#include <math.h>

enum { ROWS = 3, COLUMNS = 19 };

typedef struct {
    edge_run *r;
    bool padded;
    fh1_engine *trains;    /* the training branch where a fault is planted in it alone; NULL: the judged engine */
    const fh1_model *read; /* the model as that branch reads it */
    int64_t ids[ROWS * COLUMNS], mask[ROWS * COLUMNS], labels[ROWS * COLUMNS], next[ROWS * COLUMNS];
    int64_t positions[ROWS * COLUMNS];
} training;

static void set_up(training *k, const edge_run *r, int64_t B, int64_t V)
{
    int64_t words[ROWS * COLUMNS];
    edge_ids(r, "words", 0, V, ROWS * COLUMNS, words);
    static const int64_t pads[ROWS] = {5, 0, 2};
    for (int64_t b = 0; b < B; ++b)
        for (int64_t t = 0; t < COLUMNS; ++t) {
            const int64_t i = b * COLUMNS + t, left = k->padded ? pads[b] : 0;
            k->ids[i] = t < left ? 0 : words[b * COLUMNS + t - left];
            k->mask[i] = t >= left;
            k->positions[i] = t < left ? 0 : t - left;
            k->labels[i] = t < left || t == 11 ? -100 : k->ids[i];
        }
    for (int64_t i = 0; i < B * COLUMNS; ++i) k->next[i] = i % COLUMNS + 1 < COLUMNS ? k->labels[i + 1] : -100;
    /* what a padding column predicts does not count: the reference's training step packs tokens */
    for (int64_t i = 0; i < B * COLUMNS; ++i)
        if (!k->mask[i]) k->next[i] = -100;
}

/* What the op of the loss may be off by at these logits, whatever the order of its sums; `allowed` NULL: not asked. */
static fh1_status loss_allowed(edge_run *r, const fh1_engine *e, int64_t n, int64_t V, const void *logits,
                               const int64_t *next, double *allowed)
{
    fh1_engine *truth;
    fh1_gauge g = {0};
    double *exact = malloc((size_t)(n * V) * sizeof *exact), loss;
    if (!exact) return fh1_no_memory((size_t)(n * V) * 8, "logits");
    fh1_to_f64(exact, logits, e->dtype, n * V);
    fh1_status s = edge_truth(r, &truth);
    if (!s) s = fh1_gauge_new(1, &g);
    if (!s) s = truth->ops->cross_entropy(truth, n, V, exact, next, &loss);
    if (!s) s = truth->gauges->cross_entropy(e->profile, n, V, exact, next, loss, &g);
    if (!s) *allowed = g.worst[0];
    fh1_gauge_free(&g);
    free(exact);
    return s;
}

static fh1_status eval_loss(edge_run *r, fh1_engine *e, const fh1_model *m, const fh1_batch *b, const int64_t *next,
                            double *loss, double *allowed)
{
    const int64_t n = b->B * b->T, V = m->config.V;
    void *logits = malloc((size_t)(n * V) * 8);
    fh1_cache *cache = NULL;
    if (!logits) return fh1_no_memory((size_t)(n * V) * 8, "logits");
    fh1_status s = fh1_cache_new(&m->config, e->dtype, b->B, &cache);
    if (!s) s = e->forward(e, m, b, cache, b->T, logits, NULL);
    if (!s) s = e->ops->cross_entropy(e, n, V, logits, next, loss);
    if (!s && allowed) s = loss_allowed(r, e, n, V, logits, next, allowed);
    fh1_cache_free(cache);
    free(logits);
    return s;
}

static fh1_status train_loss(fh1_engine *e, const fh1_model *m, const fh1_batch *b, bool keep, double *loss)
{
    fh1_grads *grads = NULL;
    fh1_backward o = {.keep = keep};
    FH1_TRY(fh1_grads_new((fh1_model *)(uintptr_t)m, e->dtype, NULL, NULL, &grads));
    o.grads = grads;
    fh1_status s = e->backward(e, m, b, &o);
    *loss = o.loss;
    fh1_grads_free(grads);
    return s;
}

static fh1_batch batch_of(const training *k, int64_t B)
{
    return (fh1_batch){.B = B,
                       .T = COLUMNS,
                       .ids = k->ids,
                       .mask = k->padded ? k->mask : NULL,
                       .mask_len = k->padded ? COLUMNS : 0,
                       .positions = k->padded ? k->positions : NULL,
                       .labels = k->labels};
}

/* ---- the reference: both passes run the same ops, so that the loss alone may round otherwise ---- */

static fh1_status same_loss(edge_run *r, const fh1_model *m, training *k, int64_t B, bool keep)
{
    double eval, allowed, train;
    fh1_engine *e;
    set_up(k, r, B, m->config.V);
    const fh1_batch b = batch_of(k, B);
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(eval_loss(r, e, m, &b, k->next, &eval, &allowed));
    FH1_TRY(train_loss(k->trains ? k->trains : e, k->read, &b, keep, &train));
    return edge_require(r, fh1_within(fabs(train - eval), 2 * allowed),
                        "%lld rows, %s: the training step's loss is %.9g, that of the logits %.9g (%.3g allowed)",
                        (long long)B, k->padded ? "padded" : "no padding", train, eval, 2 * allowed);
}

/* ---- engines whose training step has kernels of its own: what two honest runs may differ by ---- */

/* Left: the loss of the logits. Right: that of the training step. Planted: other labels. */
static fh1_status walk_loss(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    training *k = run->data;
    const int64_t B = ROWS;
    const law_tensor like = {
        .id = FH1_TAP_LOSS, .first_token = -1, .n = 1, .width = 1, .stride = 1, .fiber = 1, .samples = B * COLUMNS};
    double loss = 0;
    law_tensor *t;
    set_up(k, k->r, B, run->m->config.V);
    for (int64_t i = 0; road == LAW_PLANTED && i < B * COLUMNS; ++i)
        if (k->next[i] >= 0) k->next[i] = gld_other_id(run, k->next[i]);
    const fh1_batch b = batch_of(k, B);
    if (road != LAW_RIGHT) FH1_TRY(eval_loss(k->r, e, run->m, &b, k->next, &loss, NULL));
    else FH1_TRY(train_loss(e, run->m, &b, true, &loss));
    FH1_TRY(gld_side_add(out, &like, &t));
    t->v[0] = loss;
    return NULL;
}

/* Training branches of real stacks that lack something the other one has: an engine of their own … */
static const char *const branch_faults[][2] = {
    {"training_rounds_dt", "dt_in_bf16"},
    {"training_masks_before_in_proj_only", "pads_not_masked_after_conv"},
};

/* … or a config that is read otherwise. */
static fh1_model read_by_branch(const edge_run *r, const fh1_model *m)
{
    fh1_model branch = *m;
    if (edge_plants(r, "training_forgets_attention_in_multiplier")) branch.config.m_attn_in = 1;
    if (edge_plants(r, "training_ignores_norm_before_gate")) branch.config.norm_before_gate = false;
    return branch;
}

static fh1_status open_branch(const edge_run *r, fh1_engine **out)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof branch_faults / sizeof *branch_faults; ++i) {
        if (!edge_plants(r, branch_faults[i][0])) continue;
        *out = ref_faulty_engine_new(r->engine, NULL, 0, fh1_fault_find(branch_faults[i][1]));
        return *out ? NULL : fh1_no_memory(sizeof **out, "an engine");
    }
    return NULL;
}

static fh1_status losses(edge_run *r, const fh1_model *m, void *data)
{
    training k = {.r = r, .padded = true};
    (void)data;
    if (edge_is_slow(r)) return edge_law(r, m, COLUMNS, walk_loss, LAW_BIT(FH1_TAP_LOSS), &k);
    const fh1_model read = read_by_branch(r, m);
    k.read = &read;
    FH1_TRY(open_branch(r, &k.trains));
    fh1_status s = NULL;
    for (int i = 0; i < 8 && !s; ++i) {
        k.padded = i & 1;
        s = same_loss(r, m, &k, i & 2 ? 3 : 1, i & 4);
    }
    if (k.trains) k.trains->free(k.trains);
    return s;
}

fh1_status edge_train_and_eval(edge_run *r)
{
    static const char before_gate[] =
        "layers=3,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,weights=trained,rms_norm=1,norm_before_gate=1,"
        "mamba_proj_bias=1,m_emb=2.75,m_lm=0.40625,m_attn_in=1.3125,m_ssm_in=1.21875,m_dt=0.46875";
    FH1_TRY(edge_is_slow(r) ? edge_on_mamba(r, losses, NULL) : edge_each_model(r, losses, NULL));
    return edge_on_model(r, before_gate, losses, NULL);
}
