/* The forward pass of a training step against the one of inference. */
#include "tests/edge/edge_prefill.h"

#include "cuda/faulty.h"
#include "oracle/grads.h"
#include "reference/faulty.h"

#include <string.h>

enum { ROWS = 3, COLUMNS = 19 };

typedef struct {
    edge_run *r;
    bool padded;
    fh1_engine *trains; /* the judged engine's training branch; another one where a fault is planted in it alone */
    int64_t ids[ROWS * COLUMNS], mask[ROWS * COLUMNS], labels[ROWS * COLUMNS], next[ROWS * COLUMNS];
    int64_t positions[ROWS * COLUMNS];
} training;

static void set_up(training *k, const law_run *r, int64_t B)
{
    static const int64_t pads[ROWS] = {5, 0, 2};
    for (int64_t b = 0; b < B; ++b)
        for (int64_t t = 0; t < COLUMNS; ++t) {
            const int64_t i = b * COLUMNS + t, left = k->padded ? pads[b] : 0;
            k->ids[i] = t < left ? 0 : r->text[b][t - left];
            k->mask[i] = t >= left;
            k->positions[i] = t < left ? 0 : t - left;
            k->labels[i] = t < left || t == 11 ? -100 : k->ids[i];
        }
    for (int64_t i = 0; i < B * COLUMNS; ++i) k->next[i] = i % COLUMNS + 1 < COLUMNS ? k->labels[i + 1] : -100;
    /* what a padding column predicts does not count: the reference's training step packs tokens */
    for (int64_t i = 0; i < B * COLUMNS; ++i)
        if (!k->mask[i]) k->next[i] = -100;
}

static fh1_status eval_loss(training *k, fh1_engine *e, const fh1_model *m, const fh1_batch *b, const int64_t *next,
                            double *loss)
{
    const int64_t n = b->B * b->T;
    void *logits = malloc((size_t)(n * m->config.V) * 8);
    fh1_cache *cache = NULL;
    (void)k;
    if (!logits) return fh1_no_memory(0, "logits");
    fh1_status s = fh1_cache_new(&m->config, e->dtype, b->B, &cache);
    if (!s) s = e->forward(e, m, b, cache, b->T, logits, NULL);
    if (!s) s = e->ops->cross_entropy(e, n, m->config.V, logits, next, loss);
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

/* Left: logits of a forward pass, and their loss. Right: what the training step calls its loss. Planted: other labels. */
static fh1_status walk_loss(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    training *k = r->data;
    const int64_t sizes[] = {1, 3};
    for (int i = 0; i < 2; ++i) {
        const int64_t B = sizes[i];
        double loss = 0;
        law_tensor *t;
        const law_tensor like = {
            .id = FH1_TAP_LOSS, .first_token = -1, .n = 1, .width = 1, .stride = 1, .fiber = 1, .samples = B * COLUMNS};
        set_up(k, r, B);
        const fh1_batch b = {.B = B,
                             .T = COLUMNS,
                             .ids = k->ids,
                             .mask = k->padded ? k->mask : NULL,
                             .mask_len = k->padded ? COLUMNS : 0,
                             .positions = k->padded ? k->positions : NULL,
                             .labels = k->labels};
        for (int64_t t = 0; road == LAW_PLANTED && t < B * COLUMNS; ++t)
            if (k->next[t] >= 0) k->next[t] = gld_other_id(r, k->next[t]);
        if (road != LAW_RIGHT) FH1_TRY(eval_loss(k, e, r->m, &b, k->next, &loss));
        else FH1_TRY(train_loss(e == r->a->engine && k->trains ? k->trains : e, r->m, &b, i == 1, &loss));
        FH1_TRY(gld_side_add(out, &like, &t));
        t->v[0] = loss;
    }
    return NULL;
}

/* Training branches of real stacks that lack something the other one has. */
static const char *const branch_faults[][2] = {
    {"training_forgets_attention_in_multiplier", "attention_in_multiplier_dropped"},
    {"training_rounds_dt", "dt_in_bf16"},
    {"training_masks_before_in_proj_only", "pads_not_masked_after_conv"},
    {"training_ignores_norm_before_gate", "norm_before_gate_inverted"},
};

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
    training *k = data;
    for (int padded = 0; padded < 2; ++padded) {
        k->padded = padded;
        fh1_status s = open_branch(r, &k->trains);
        if (!s) s = edge_law(r, m, COLUMNS, walk_loss, LAW_BIT(FH1_TAP_LOSS), k);
        if (k->trains) k->trains->free(k->trains);
        k->trains = NULL;
        if (s) return fh1_where(s, padded ? "padded left" : "without padding");
    }
    return NULL;
}

fh1_status edge_train_and_eval(edge_run *r)
{
    static const char before_gate[] =
        "layers=3,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,weights=trained,rms_norm=1,norm_before_gate=1,"
        "mamba_proj_bias=1,m_emb=2.75,m_lm=0.40625,m_attn_in=1.3125,m_ssm_in=1.21875,m_dt=0.46875";
    training k = {.r = r};
    FH1_TRY(edge_each_model(r, losses, &k));
    return edge_on_model(r, before_gate, losses, &k);
}
