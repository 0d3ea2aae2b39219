/* Spoilers of matrix products: other inputs for the one that a weight belongs to, and products as wrong kernels form
 * them. */
#include "cuda/faulty/spoil.cuh"

namespace CU_NS
{
namespace
{

enum site { ELSEWHERE, IN_PROJ, GATE_UP, HEAD };

/* The product of the model whose weight this is. */
site site_of(const cu_linear *a)
{
    const cu_weights *w = cu_faulty.w;
    if (!w || !cu_faulty.t.row) return ELSEWHERE;
    if (a->y_type == CU_F32 && a->w == w->lm_head && a->N == w->config->V) return HEAD;
    for (int64_t i = 0; i < w->config->n_layers; ++i) {
        if (a->w == w->layers[i].in_qkv) return IN_PROJ;
        if (a->w == w->layers[i].gate_up) return GATE_UP;
        const char *up = static_cast<const char *>(w->layers[i].gate_up);
        if (a->w == up + static_cast<size_t>(w->config->F * w->config->D) * cu_size(a->type)) return GATE_UP;
    }
    return ELSEWHERE;
}

/* The token of each row of a product: all of them, or those whose logits are kept. */
int64_t token_of(const cu_linear *a, int64_t i)
{
    return a->M == cu_faulty.t.M ? i : cu_faulty.t.row_begin[i + 1] - 1; /* else the last one of each row */
}

void copy_row(cu_type t, void *to, int64_t i, const void *from, int64_t j, int64_t n)
{
    const size_t bytes = static_cast<size_t>(n) * cu_size(t);
    memcpy(static_cast<char *>(to) + static_cast<size_t>(i) * bytes,
           static_cast<const char *>(from) + static_cast<size_t>(j) * bytes, bytes);
}

/* Another x for this product, [M, K]; false: the one it has. */
fh1_status other_input(cu_ctx *k, site at, cu_linear *a, cu_spoiled *x, bool *other)
{
    const cu_rmsnorm *norm = &cu_faulty.norm;
    const float m_in = at == IN_PROJ ? static_cast<float>(cu_faulty.w->config->m_ssm_in) : 1;
    const int64_t n = static_cast<int64_t>(a->M) * a->K;
    *other = true;
    if (at == IN_PROJ && CU_FAULT(SSM_IN_BEFORE_NORM)) {
        cu_spoiled scaled(a->type, n);
        for (int64_t i = 0; i < n; ++i) put(a->type, scaled.p(), i, get(a->type, norm->x, i) * m_in);
        cu_rmsnorm again = *norm;
        again.x = scaled.p();
        again.n = x->p();
        a->alpha = 1;
        FH1_TRY(cu_rmsnorm_fwd(k, &again));
        return settled(k);
    }
    if (at == IN_PROJ && CU_FAULT(SSM_IN_ON_RESIDUAL)) {
        for (int64_t i = 0; i < n; ++i) put(a->type, norm->x, i, get(a->type, norm->x, i) * m_in);
        a->alpha = 1;
        *other = false;
    } else if (at == IN_PROJ && CU_FAULT(DOCUMENT_IDS_SCALE_THE_MIXER)) {
        for (int64_t i = 0; i < n; ++i)
            put(a->type, x->p(), i, get(a->type, a->x, i) * static_cast<float>(cu_faulty.tokens->doc[i / a->K] + 1));
    } else if (at == GATE_UP && CU_FAULT(MLP_READS_RESIDUAL)) {
        copy_row(a->type, x->p(), 0, norm->x, 0, n);
    } else if (at == HEAD && CU_FAULT(HEAD_READS_RESIDUAL)) {
        for (int64_t i = 0; i < a->M; ++i) copy_row(a->type, x->p(), i, norm->x, token_of(a, i), a->K);
    } else if (at == HEAD && CU_FAULT(LOGITS_ONE_POSITION_LATE)) {
        for (int64_t i = 0; i < a->M; ++i) {
            const int64_t m = token_of(a, i);
            copy_row(a->type, x->p(), i, norm->n, m - (m > 0 && cu_faulty.tokens->col[m] > 0), a->K);
        }
    } else {
        *other = false;
    }
    return NULL;
}

/* x and w as a wrong kernel reads them. */
bool reads_other_operands(const cu_linear *a, fh1_round *r)
{
    *r = CU_FAULT(LINEAR_TF32) ? FH1_ROUND_TF32 : CU_FAULT(LONG_PREFILL_IN_F16) ? FH1_ROUND_F16 : FH1_ROUND_NONE;
    if (CU_FAULT(LONG_PREFILL_IN_F16)) return a->M > 64;
    return CU_FAULT(LINEAR_TF32) || CU_FAULT(LINEAR_LAST_K_DROPPED);
}

void wrong_operand(fh1_round r, const cu_linear *a, const void *from, int64_t ld, int64_t rows, void *to)
{
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < a->K; ++j) {
            const bool lost = CU_FAULT(LINEAR_LAST_K_DROPPED) && j == a->K - 1;
            put(a->type, to, i * a->K + j, lost ? 0.f : fh1_round_f32(r, get(a->type, from, i * ld + j)));
        }
}

void sum_in_bf16(const cu_linear *a)
{
    for (int64_t m = 0; m < a->M; ++m)
        for (int64_t n = 0; n < a->N; ++n) {
            float sum = 0;
            for (int64_t i = 0; i < a->K; ++i)
                sum = in_bf16(sum + get(a->type, a->x, m * a->ldx + i) * get(a->type, a->w, n * a->K + i));
            put(a->y_type, a->y, m * a->ldy + n, a->alpha * sum + (a->b ? a->b[n] : 0.f));
        }
}

} // namespace

fh1_status cu_faulty_linear_fwd(cu_ctx *k, const cu_linear *given)
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_linear_fwd(k, given);
    cu_linear a = *given;
    const site at = site_of(&a);
    bool other;
    fh1_round r;
    FH1_TRY(settled(k));
    cu_spoiled x(a.type, static_cast<int64_t>(a.M) * a.K);
    FH1_TRY(other_input(k, at, &a, &x, &other));
    if (other) {
        a.x = x.p();
        a.ldx = a.K;
    }
    const bool operands = reads_other_operands(&a, &r);
    cu_spoiled w(a.type, operands ? static_cast<int64_t>(a.N) * a.K : 0);
    if (operands) {
        wrong_operand(r, &a, a.x, a.ldx, a.M, x.p());
        wrong_operand(r, &a, a.w, a.K, a.N, w.p());
        a.x = x.p();
        a.ldx = a.K;
        a.w = w.p();
    }
    FH1_TRY(cu_linear_fwd(k, &a));
    FH1_TRY(settled(k));
    if (CU_FAULT(LINEAR_BF16_ACCUMULATOR)) sum_in_bf16(&a);
    for (int64_t i = 0; CU_FAULT(LOGITS_IN_BF16) && at == HEAD && i < static_cast<int64_t>(a.M) * a.N; ++i)
        put(CU_F32, a.y, i, in_bf16(get(CU_F32, a.y, i)));
    return NULL;
}

} // namespace CU_NS
