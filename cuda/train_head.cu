/* The head in training: logits of a chunk of tokens at a time, replaced by their derivatives, which go into dh and the
 * head's gradient at once. The derivatives may also be given. */
#include "cuda/linear.cuh"
#include "cuda/train.h"

namespace CU_NS
{
namespace
{

const int64_t LOGITS = int64_t{1} << (CU_HOST ? 22 : 28); /* of a chunk at most: it depends on V alone */

/* Labels are stored unshifted: a token predicts that of the next column of its row. */
fh1_status send_labels(cu_train_run *r, double *divisor)
{
    const fh1_tokens *t = &r->tokens;
    const int64_t *given = r->batch->labels;
    std::vector<int> label;
    for (int64_t m = 0; m < t->M; ++m) {
        const bool has = given && t->col[m] + 1 < t->T;
        label.push_back(has ? static_cast<int>(given[t->row[m] * t->T + t->col[m] + 1]) : -100);
        r->o->n_labels += label.back() != -100;
    }
    const int64_t n = r->o->n_labels;
    *divisor = r->o->divisor > 0 ? r->o->divisor : n > 0 ? static_cast<double>(n) : 1;
    const size_t bytes = label.size() * sizeof(int);
    cu_buffer *b = &r->t->part[CU_TRAIN_LABEL];
    FH1_TRY(cu_buffer_need(b, bytes));
    return cu_send(b->p, label.data(), bytes, r->call.k->stream, "sending labels");
}

/* Rows m0 … of the given derivatives, packed. */
fh1_status send_given(cu_train_run *r, int64_t m0, int64_t n, float *dlogits)
{
    const fh1_tokens *t = &r->tokens;
    const int64_t V = r->c->V;
    const float *given = static_cast<const float *>(r->o->dlogits);
    for (int64_t i = 0; i < n; ++i)
        FH1_TRY(cu_send(dlogits + i * V, given + (t->row[m0 + i] * t->T + t->col[m0 + i]) * V,
                        static_cast<size_t>(V) * sizeof(float), r->call.k->stream, "sending derivatives of logits"));
    return NULL;
}

/* (h·Wᵀ + adapter)·m_lm */
fh1_status logits_of(cu_train_run *r, int n, const float *h, float *logits)
{
    const fh1_config *c = r->c;
    cu_linear y = {};
    y.type = y.y_type = CU_F32;
    y.M = n;
    y.N = static_cast<int>(c->V);
    y.K = static_cast<int>(c->D);
    y.x = h;
    y.ldx = c->D;
    y.w = r->w->lm_head;
    y.alpha = static_cast<float>(c->m_lm);
    y.y = logits;
    y.ldy = c->V;
    FH1_TRY(cu_linear_fwd(r->call.k, &y));
    return cu_call_adapt_head(&r->call, n, h, logits);
}

/* Tokens m0 … m0 + n: their losses, their rows of dh, their part of the head's gradient. */
fh1_status chunk(cu_train_run *r, int64_t m0, int n, double divisor)
{
    const int64_t D = r->c->D, V = r->c->V;
    const float *h = cu_train_f32(r, CU_N) + m0 * D;
    float *logits = cu_train_at(r, CU_TRAIN_LOGITS);
    if (r->o->dlogits) FH1_TRY(send_given(r, m0, n, logits));
    else {
        FH1_TRY(logits_of(r, n, h, logits));
        const int *label = static_cast<const int *>(r->t->part[CU_TRAIN_LABEL].p) + m0;
        double *row = static_cast<double *>(r->t->part[CU_TRAIN_LOSS].p) + m0;
        const cu_cross_entropy_bwd_args ce = {n, static_cast<int>(V), logits, label, divisor, logits, row};
        FH1_TRY(cu_cross_entropy_bwd(r->call.k, &ce));
    }
    /* the multiplier also stands before an adapter's bias: it scales the derivative and not the input */
    const cu_residual_bwd_args scale = {n * V, logits, static_cast<float>(r->c->m_lm), 0, logits, NULL};
    FH1_TRY(cu_residual_bwd(r->call.k, &scale));
    const cu_train_product p = {FH1_TAP_LOGITS,
                                0,
                                n,
                                h,
                                D,
                                1,
                                static_cast<const float *>(r->w->lm_head),
                                logits,
                                V,
                                false,
                                cu_train_at(r, CU_TRAIN_DN) + m0 * D,
                                D};
    return cu_train_linear_bwd(r, &p);
}

fh1_status read_loss(cu_train_run *r, double divisor)
{
    if (r->o->dlogits || (!r->o->n_labels && !(r->o->divisor > 0))) return NULL;
    std::vector<double> row(static_cast<size_t>(r->tokens.M));
    FH1_TRY(cu_fetch(row.data(), r->t->part[CU_TRAIN_LOSS].p, row.size() * sizeof(double), r->call.k->stream,
                     "reading losses"));
    double sum = 0;
    for (double v : row) sum += v;
    r->o->loss = sum / divisor;
    return NULL;
}

} // namespace

fh1_status cu_train_head_bwd(cu_train_run *r)
{
    const int64_t M = r->tokens.M, V = r->c->V, D = r->c->D;
    int64_t rows = LOGITS / V;
    rows = rows < 1 ? 1 : rows > M ? M : rows;
    double divisor;
    FH1_TRY(send_labels(r, &divisor));
    FH1_TRY(cu_train_need(r, CU_TRAIN_LOGITS, rows * V));
    FH1_TRY(cu_buffer_need(&r->t->part[CU_TRAIN_LOSS], static_cast<size_t>(M) * sizeof(double)));
    for (int64_t m = 0; m < M; m += rows) FH1_TRY(chunk(r, m, static_cast<int>(M - m < rows ? M - m : rows), divisor));
    FH1_TRY(read_loss(r, divisor));
    const float *x = cu_train_at(r, CU_TRAIN_CHECKPOINT) + r->c->n_layers * M * D;
    return cu_train_norm_bwd(r, x, r->w->final_layernorm, &r->m->final_layernorm, cu_train_at(r, CU_TRAIN_DN), false,
                             cu_train_at(r, CU_TRAIN_DX));
}

} // namespace CU_NS
