/* Spoilers of embedding, norms, sums, MLP, loss and sampling. */
#include "cuda/faulty/spoil.cuh"

#include <limits>

namespace CU_NS
{

fh1_status cu_faulty_embed_fwd(cu_ctx *k, const cu_embed *a)
{
    FH1_TRY(cu_embed_fwd(k, a));
    if (!CU_FAULT(EMBEDDING_ROW_0_ZEROED)) return NULL;
    FH1_TRY(settled(k));
    for (int m = 0; m < a->M; ++m)
        for (int i = 0; a->id[m] == 0 && i < a->D; ++i) {
            const int64_t at = static_cast<int64_t>(m) * a->D + i;
            if (a->y) put(a->type, a->y, at, 0);
            put(stream_of(a), a->x, at, 0);
        }
    return NULL;
}

/* -- norms and sums ---------------------------------------------------------------------------------- */

static void wrong_norm(const cu_rmsnorm *a)
{
    const int64_t ldx = a->ldx ? a->ldx : a->D, ldn = a->ldn ? a->ldn : a->D;
    for (int64_t m = 0; m < a->M; ++m) {
        float sum = 0, squares = 0;
        for (int i = 0; i < a->D; ++i) {
            const float x = get(stream_of(a), a->x, m * ldx + i);
            sum += x;
            squares += x * x;
        }
        const float mean_square = squares / static_cast<float>(a->D);
        float r = 1 / sqrtf(mean_square + a->eps);
        if (CU_FAULT(NORM_EPS_OUTSIDE_ROOT)) r = 1 / (sqrtf(mean_square) + a->eps);
        if (CU_FAULT(NORM_SCALE_IN_BF16)) r = in_bf16(r);
        const float mean = CU_FAULT(NORM_MEAN_SUBTRACTED) ? sum / static_cast<float>(a->D) : 0;
        for (int i = 0; i < a->D; ++i)
            put(a->type, a->n, m * ldn + i,
                (a->w ? a->w[i] : 1.f) * ((get(stream_of(a), a->x, m * ldx + i) - mean) * r));
    }
}

/* -- Falcon-Mamba's norms of dt, B and C --------------------------------------------------------------- */

enum { OF_DT, OF_B, OF_C };

/* Which of the three this one is: dt's goes to rows of its own, B's comes before C's. */
static int inner_kind(const cu_rmsnorm *a)
{
    static int last;
    last = a->ldn == a->D ? OF_DT : last == OF_DT ? OF_B : OF_C;
    return last;
}

/* n = x times `scale` of the row, NULL: as it is. */
static void columns(const cu_rmsnorm *a, const std::vector<float> *scale)
{
    for (int64_t m = 0; m < a->M; ++m)
        for (int i = 0; i < a->D; ++i)
            put(a->type, a->n, m * a->ldn + i,
                get(a->type, a->x, m * a->ldx + i) * (scale ? (*scale)[static_cast<size_t>(m)] : 1.f));
}

/* One factor for all of x_proj, whose first column is dt's. */
static std::vector<float> whole_scales(const cu_rmsnorm *dt)
{
    const int64_t width = fh1_x_proj_dim(cu_faulty.w->config);
    std::vector<float> scale;
    for (int64_t m = 0; m < dt->M; ++m) {
        float squares = 0;
        for (int64_t i = 0; i < width; ++i) {
            const float x = get(dt->type, dt->x, m * dt->ldx + i);
            squares += x * x;
        }
        scale.push_back(1 / sqrtf(squares / static_cast<float>(width) + dt->eps));
    }
    return scale;
}

static fh1_status inner_norm(cu_ctx *k, const cu_rmsnorm *given)
{
    const fh1_config *c = cu_faulty.w->config;
    cu_rmsnorm a = *given;
    const int kind = inner_kind(&a);
    cu_faulty.inner[kind] = a;
    const bool dropped = CU_FAULT(INNER_NORMS_DROPPED) ||
                         (kind == OF_DT && (CU_FAULT(INNER_NORM_OF_DT_DROPPED) || CU_FAULT(DT_NORM_AFTER_DT_PROJ))) ||
                         (kind == OF_B && CU_FAULT(INNER_NORM_OF_B_DROPPED)) ||
                         (kind == OF_C && CU_FAULT(INNER_NORM_OF_C_DROPPED));
    FH1_TRY(settled(k));
    if (CU_FAULT(X_PROJ_DT_LAST)) {
        const int64_t by = kind == OF_DT ? 2 * c->N : -c->R, size = static_cast<int64_t>(cu_size(a.type));
        a.x = static_cast<char *>(a.x) + by * size;
    }
    if (dropped) {
        columns(&a, NULL);
        return NULL;
    }
    if (CU_FAULT(INNER_NORM_OVER_X_PROJ)) {
        const std::vector<float> scale = whole_scales(&cu_faulty.inner[OF_DT]);
        columns(&a, &scale);
        return NULL;
    }
    FH1_TRY(cu_rmsnorm_fwd(k, &a));
    FH1_TRY(settled(k));
    if (CU_FAULT(NORM_EPS_OUTSIDE_ROOT) || CU_FAULT(NORM_MEAN_SUBTRACTED) || CU_FAULT(NORM_SCALE_IN_BF16))
        wrong_norm(&a);
    if (!CU_FAULT(INNER_NORMS_TWICE)) return NULL;
    a.x = a.n;
    a.ldx = a.ldn;
    FH1_TRY(cu_rmsnorm_fwd(k, &a));
    return settled(k);
}

fh1_status cu_faulty_rmsnorm_fwd(cu_ctx *k, const cu_rmsnorm *given)
{
    cu_rmsnorm a = *given;
    if (a.a && cu_faulty.fault != FH1_FAULT_NONE) { /* the sum goes through its own spoiler */
        cu_residual r = {};
        r.type = a.type;
        r.n = static_cast<int64_t>(a.M) * a.D;
        r.a = a.a;
        r.b = a.b;
        r.m_a = a.m_a;
        r.m_b = a.m_b;
        r.wide = a.wide;
        r.x = a.x;
        FH1_TRY(cu_faulty_residual_fwd(k, &r));
        a.a = a.b = NULL;
    }
    if (cu_faulty.fault != FH1_FAULT_NONE && !a.w && of_falcon_mamba()) return inner_norm(k, &a);
    cu_faulty.norm = a;
    const bool last = cu_faulty.w && a.w == cu_faulty.w->final_layernorm;
    const int64_t all = static_cast<int64_t>(a.M) * a.D;
    if (CU_FAULT(LAST_NORM_READS_ROUNDED_RESIDUAL) && last && of_falcon_mamba()) {
        FH1_TRY(settled(k));
        for (int64_t i = 0; i < all; ++i) put(stream_of(&a), a.x, i, in_bf16(get(stream_of(&a), a.x, i)));
    }
    FH1_TRY(cu_rmsnorm_fwd(k, &a));
    if (cu_faulty.fault == FH1_FAULT_NONE || !a.n) return NULL;
    FH1_TRY(settled(k));
    if (CU_FAULT(NORM_EPS_OUTSIDE_ROOT) || CU_FAULT(NORM_MEAN_SUBTRACTED) || CU_FAULT(NORM_SCALE_IN_BF16))
        wrong_norm(&a);
    for (int64_t i = 0; CU_FAULT(FINAL_NORM_SKIPPED) && last && i < all; ++i)
        put(a.type, a.n, i, get(stream_of(&a), a.x, i));
    if (CU_FAULT(FINAL_NORM_TWICE) && last) {
        cu_rmsnorm again = a;
        again.x = a.n;
        again.wide = false;
        FH1_TRY(cu_rmsnorm_fwd(k, &again));
        return settled(k);
    }
    return NULL;
}

static void scale(cu_type type, void *x, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; ++i) put(type, x, i, get(type, x, i) * factor);
}

fh1_status cu_faulty_residual_fwd(cu_ctx *k, const cu_residual *given)
{
    cu_residual a = *given;
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_residual_fwd(k, &a);
    FH1_TRY(settled(k));
    const bool mixers = a.b != NULL || of_falcon_mamba(), model = cu_faulty.t.row && cu_faulty.w;
    const cu_type type = stream_of(&a);
    if (CU_FAULT(MIXERS_RESIDUAL_DROPPED) && mixers) scale(type, a.x, a.n, 0);
    if (CU_FAULT(MLP_RESIDUAL_DROPPED) && !mixers) scale(type, a.x, a.n, 0);
    for (int64_t i = 0; CU_FAULT(RESIDUAL_FROM_NORM) && mixers && model && i < a.n; ++i)
        put(type, a.x, i, get(a.type, cu_faulty.norm.n, i));
    if (CU_FAULT(ATTENTION_IN_ON_RESIDUAL) && mixers && model)
        scale(type, a.x, a.n, static_cast<float>(cu_faulty.w->config->m_attn_in));
    const bool whole = CU_FAULT(DOWN_MULTIPLIER_ON_RESIDUAL) && !mixers;
    if (whole) a.m_a = 1;
    FH1_TRY(cu_residual_fwd(k, &a));
    FH1_TRY(settled(k));
    if (whole) scale(type, a.x, a.n, given->m_a);
    for (int64_t i = 0; CU_FAULT(RESIDUAL_IN_BF16) && i < a.n; ++i) put(type, a.x, i, in_bf16(get(type, a.x, i)));
    return NULL;
}

/* -- MLP ------------------------------------------------------------------------------------------------ */

static void other_gate(const cu_swiglu *a)
{
    for (int64_t m = 0; m < a->M; ++m)
        for (int i = 0; i < a->F; ++i) {
            const float g = get(a->type, a->gate, m * a->ld + i) * a->m_gate, up = get(a->type, a->up, m * a->ld + i);
            const float v = CU_FAULT(MLP_SIGMOID) ? sigmoid_of(g) : g / 2 * (1 + erff(g * 0.70710678f));
            put(a->type, a->act, m * a->F + i, v * up);
        }
}

fh1_status cu_faulty_swiglu_fwd(cu_ctx *k, const cu_swiglu *given)
{
    cu_swiglu a = *given;
    const int64_t n = static_cast<int64_t>(a.M) * a.F;
    if (CU_FAULT(GATE_MULTIPLIER_AFTER_SILU)) a.m_gate = 1;
    FH1_TRY(cu_swiglu_fwd(k, &a));
    if (cu_faulty.fault == FH1_FAULT_NONE) return NULL;
    FH1_TRY(settled(k));
    if (CU_FAULT(GATE_MULTIPLIER_AFTER_SILU)) scale(a.type, a.act, n, given->m_gate);
    if (CU_FAULT(MLP_GELU) || CU_FAULT(MLP_SIGMOID)) other_gate(&a);
    if (CU_FAULT(NAN_IN_ONE_ELEMENT) && n > 0) put(a.type, a.act, n - 1, NAN);
    return NULL;
}

/* -- loss and token -------------------------------------------------------------------------------------- */

/* The label of the column `shift` after each token's own. */
static std::vector<int> shifted(const cu_cross_entropy *a, int64_t shift)
{
    std::vector<int> label(a->label, a->label + a->M);
    const fh1_tokens *t = cu_faulty.tokens;
    const fh1_batch *b = cu_faulty.batch;
    for (int64_t m = 0; t && b && b->labels && m < a->M && m < t->M; ++m)
        label[static_cast<size_t>(m)] =
            t->col[m] + shift < t->T ? static_cast<int>(b->labels[t->row[m] * t->T + t->col[m] + shift]) : -100;
    return label;
}

static double loss_without_max(const cu_cross_entropy *a)
{
    double total = 0, n = 0;
    for (int64_t m = 0; m < a->M; ++m) {
        if (a->label[m] == -100) continue;
        float sum = 0;
        for (int v = 0; v < a->V; ++v) sum += expf(a->logits[m * a->V + v]);
        total += static_cast<double>(logf(sum) - a->logits[m * a->V + a->label[m]]);
        ++n;
    }
    return n > 0 ? total / n : std::numeric_limits<double>::quiet_NaN();
}

fh1_status cu_faulty_cross_entropy_fwd(cu_ctx *k, const cu_cross_entropy *given)
{
    cu_cross_entropy a = *given;
    FH1_TRY(settled(k));
    std::vector<int> label;
    std::vector<float> logits;
    if (CU_FAULT(LOSS_NOT_SHIFTED) || CU_FAULT(LOSS_SHIFTED_TWICE)) {
        label = shifted(&a, CU_FAULT(LOSS_NOT_SHIFTED) ? 0 : 2);
        a.label = label.data();
    }
    if (CU_FAULT(LOSS_WITHOUT_HEAD_MULTIPLIER) && cu_faulty.w) {
        logits.assign(a.logits, a.logits + static_cast<int64_t>(a.M) * a.V);
        for (float &v : logits) v /= static_cast<float>(cu_faulty.w->config->m_lm);
        a.logits = logits.data();
    }
    FH1_TRY(cu_cross_entropy_fwd(k, &a));
    FH1_TRY(settled(k));
    int counted = 0;
    for (int m = 0; m < a.M; ++m) counted += a.label[m] != -100;
    if (CU_FAULT(LOSS_COUNTS_IGNORED)) *a.loss *= static_cast<double>(counted) / a.M;
    if (CU_FAULT(LOSS_SUMMED)) *a.loss *= counted;
    if (CU_FAULT(LOSS_WITHOUT_MAX)) *a.loss = loss_without_max(&a);
    return NULL;
}

fh1_status cu_faulty_sample_fwd(cu_ctx *k, const cu_sample *a)
{
    FH1_TRY(cu_sample_fwd(k, a));
    if (!CU_FAULT(SAMPLE_TIE_TAKES_LAST) && !CU_FAULT(SAMPLE_PASSES_NAN)) return NULL;
    FH1_TRY(settled(k));
    for (int64_t m = 0; m < a->M; ++m) {
        const float *row = a->logits + m * a->V;
        int best = 0;
        bool nan = false;
        for (int v = 0; v < a->V; ++v) {
            nan = nan || row[v] != row[v];
            if (row[v] > row[best] || (CU_FAULT(SAMPLE_TIE_TAKES_LAST) && row[v] == row[best])) best = v;
        }
        a->token[m] = nan && CU_FAULT(SAMPLE_TIE_TAKES_LAST) ? -1 : best;
    }
    return NULL;
}

} // namespace CU_NS
