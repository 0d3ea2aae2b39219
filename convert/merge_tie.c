/* The two ends of a tied base. EXACT gives what the attached model computes: one tensor where both ends get the same,
 * two where they differ. The chains of PEFT write into the one tensor what either end asks for, as PEFT does. */
#include "convert/merge_plan.h"

#include "convert/fault.h"

#include <stdlib.h>
#include <string.h>

static const char head[] = "lm_head.weight";

static bool same_values(const fh1_tensor *a, const fh1_tensor *b)
{
    if (!fh1_same_shape(a, b)) return false;
    if (a->dtype == b->dtype && fh1_is_dense(a) && fh1_is_dense(b))
        return memcmp(a->data, b->data, fh1_n_bytes(a)) == 0;
    int64_t n = fh1_n_elems(a);
    for (int64_t i = 0; i < n; i++)
        if (fh1_get(a, i) != fh1_get(b, i)) return false;
    return true;
}

static bool same_rows(const cvt_token_rows *a, const cvt_token_rows *b)
{
    return a->n == b->n && memcmp(a->rows, b->rows, (size_t)a->n * sizeof *a->rows) == 0 &&
           same_values(&a->values, &b->values);
}

/* ΔW of the embedding, s·(B·A)ᵀ, is that of the head when A_head = Bᵀ and B_head = Aᵀ. */
static bool same_lora(const cvt_lora *e, const cvt_lora *h)
{
    static const int swap[2] = {1, 0};
    if (e->scale != h->scale || e->magnitude.data || h->magnitude.data || h->bias.data) return false;
    if (!e->embedding) return same_values(&e->A, &h->A) && same_values(&e->B, &h->B);
    fh1_tensor at = fh1_permute(&e->A, swap), bt = fh1_permute(&e->B, swap);
    return same_values(&bt, &h->A) && same_values(&at, &h->B);
}

static bool same_op(const cvt_merge_op *e, const cvt_merge_op *h)
{
    if (e->kind != h->kind || e->part != h->part) return false;
    switch (e->kind) {
    case CVT_MERGE_REPLACE: return same_values(&e->t, &h->t);
    case CVT_MERGE_ROWS: return same_rows(e->tokens, h->tokens);
    case CVT_MERGE_DELTA: return same_lora(e->lora, h->lora);
    case CVT_MERGE_BIAS: break;
    }
    return false;
}

static bool same_ops(const cvt_merge_target *e, const cvt_merge_target *h)
{
    int n = e ? e->n_ops : 0, m = h ? h->n_ops : 0;
    if (n != m) return false;
    for (int i = 0; i < n; i++)
        if (!same_op(&e->ops[i], &h->ops[i])) return false;
    return true;
}

static void drop(cvt_merge_plan *p, cvt_merge_target *t)
{
    int64_t at = t - p->targets;
    free(t->name);
    free(t->ops);
    for (int64_t i = at + 1; i < p->n_targets; i++) p->targets[i - 1] = p->targets[i];
    p->n_targets--;
}

/* A tied base may store the head too; then both tensors get the same. */
static bool head_is_stored(const cvt_merge_plan *p)
{
    return cvt_ckpt_find(p->base, head) >= 0;
}

/* A modules_to_save copy without ensure_weight_tying: PEFT saves two tensors then. */
static bool peft_unties(const cvt_merge_plan *p, const cvt_merge_target *t)
{
    for (int i = 0; t && i < t->n_ops; i++)
        if (t->ops[i].copy && !p->parts[t->ops[i].part].adapter->ensure_weight_tying) return true;
    return false;
}

/* All operations of both ends, the embedding's first, as PEFT goes through the modules; whole tensors and rows that
 * both ends get are written once, ΔW is added by each. */
static fh1_status join_ends(const cvt_merge_target *e, const cvt_merge_target *h, cvt_merge_op **ops, int *n)
{
    int ne = e ? e->n_ops : 0, nh = h ? h->n_ops : 0;
    *n = 0;
    *ops = calloc((size_t)(ne + nh) + 1, sizeof **ops);
    if (!*ops) return fh1_no_memory((size_t)(ne + nh) * sizeof **ops, "a plan");
    for (int i = 0; i < ne; i++) (*ops)[(*n)++] = e->ops[i];
    for (int i = 0; i < nh; i++) {
        bool twice = false;
        for (int k = 0; k < ne; k++) twice |= h->ops[i].kind != CVT_MERGE_DELTA && same_op(&e->ops[k], &h->ops[i]);
        if (!twice) (*ops)[(*n)++] = h->ops[i];
    }
    return NULL;
}

static fh1_status set_ops(cvt_merge_plan *p, const char *tensor, const cvt_merge_op *ops, int n)
{
    cvt_merge_target *t;
    FH1_TRY(cvt_merge_plan_target(p, tensor, &t));
    cvt_merge_op *copy = malloc(((size_t)n + 1) * sizeof *copy);
    if (!copy) return fh1_no_memory((size_t)n * sizeof *copy, "a plan");
    memcpy(copy, ops, (size_t)n * sizeof *copy);
    free(t->ops);
    t->ops = copy;
    t->n_ops = n;
    return NULL;
}

/* The one tensor of both ends in the chains of PEFT. */
static fh1_status tie_as_peft(cvt_merge_plan *p)
{
    cvt_merge_op *ops;
    int n;
    cvt_merge_target *e = cvt_merge_plan_find(p, p->embed), *h = cvt_merge_plan_find(p, head);
    bool same = same_ops(e, h);
    if (same && e->ops[e->n_ops - 1].kind == CVT_MERGE_DELTA)
        cvt_merge_warn(p,
                       "lm_head and the embedding are one tensor: PEFT adds ΔW to it twice, the attached model has it "
                       "once in each (--rounding exact)");
    if (!same)
        cvt_merge_warn(p,
                       "lm_head and the embedding are one tensor: PEFT's merge changes both ends with what belongs to "
                       "one, and is not the attached model (--rounding exact unties them)");
    FH1_TRY(join_ends(e, h, &ops, &n));
    if (h && !head_is_stored(p)) drop(p, h);
    fh1_status s = set_ops(p, p->embed, ops, n);
    if (!s && head_is_stored(p)) s = set_ops(p, head, ops, n);
    free(ops);
    return s;
}

fh1_status cvt_merge_plan_tie(cvt_merge_plan *p)
{
    cvt_merge_target *e = cvt_merge_plan_find(p, p->embed), *h = cvt_merge_plan_find(p, head);
    if (!e && !h) return NULL;
    bool chain = p->o->rounding != CVT_ROUND_EXACT || CVT_FAULT(DELTA_ON_BOTH_ENDS);
    if (chain && !peft_unties(p, e) && !peft_unties(p, h)) return tie_as_peft(p);
    if (!chain && same_ops(e, h)) {
        if (!head_is_stored(p)) drop(p, h);
        return NULL;
    }
    p->untie = true;
    cvt_merge_warn(p, "the embedding and lm_head are no longer the same: lm_head.weight is stored, tie_word_embeddings "
                      "becomes false");
    return NULL;
}
