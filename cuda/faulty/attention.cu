/* Spoilers of rotation and attention. */
#include "cuda/faulty/spoil.cuh"

namespace CU_NS
{
namespace
{

/* -- rotation -------------------------------------------------------------------------------------------- */

bool rotates_by_hand()
{
    return CU_FAULT(ROPE_INTERLEAVED) || CU_FAULT(ROPE_ANGLES_IN_BF16) || CU_FAULT(ROPE_TABLE_IN_BF16) ||
           CU_FAULT(ROPE_KEYS_NOT_ROTATED) || CU_FAULT(ROPE_QUERIES_NOT_ROTATED);
}

void turn(const cu_rope *a, void *head, int64_t at, int64_t m)
{
    const int half = a->A / 2, step = CU_FAULT(ROPE_INTERLEAVED) ? 2 : 1, apart = CU_FAULT(ROPE_INTERLEAVED) ? 1 : half;
    for (int i = 0; i < half; ++i) {
        const double exact = static_cast<double>(a->t.position[m]) * a->inv_freq[i];
        const double angle =
            CU_FAULT(ROPE_ANGLES_IN_BF16) ? static_cast<double>(in_bf16(static_cast<float>(exact))) : exact;
        float c = static_cast<float>(cos(angle)) * a->scale, s = static_cast<float>(sin(angle)) * a->scale;
        if (CU_FAULT(ROPE_TABLE_IN_BF16)) {
            c = in_bf16(c);
            s = in_bf16(s);
        }
        const int64_t lo = at + i * step, hi = lo + apart;
        const float x = get(a->type, head, lo), y = get(a->type, head, hi);
        put(a->type, head, lo, x * c - y * s);
        put(a->type, head, hi, y * c + x * s);
    }
}

/* In place of the kernel; what it appends is left to it, as a rotation by nothing. */
fh1_status rotate_by_hand(cu_ctx *k, const cu_rope *a)
{
    for (int64_t m = 0; m < a->t.M; ++m) {
        for (int64_t i = 0; i < static_cast<int64_t>(a->Hkv) * a->A; ++i)
            put(a->type, a->k, m * a->ldk + i, get(a->type, a->k, m * a->ldk + i) * a->m_key);
        for (int h = 0; h < a->Hq && !CU_FAULT(ROPE_QUERIES_NOT_ROTATED); ++h) turn(a, a->q, m * a->ldq + h * a->A, m);
        for (int h = 0; h < a->Hkv && !CU_FAULT(ROPE_KEYS_NOT_ROTATED); ++h) turn(a, a->k, m * a->ldk + h * a->A, m);
    }
    if (!a->kv.key) return NULL;
    const std::vector<double> still(static_cast<size_t>(a->A), 0.);
    cu_rope rest = *a;
    rest.inv_freq = still.data();
    rest.scale = rest.m_key = 1;
    FH1_TRY(cu_rope_fwd(k, &rest));
    return settled(k);
}

void scale_rows(cu_type type, void *x, int64_t rows, int64_t ld, int64_t n, float factor)
{
    for (int64_t i = 0; i < rows * n; ++i) {
        const int64_t at = i / n * ld + i % n;
        put(type, x, at, get(type, x, at) * factor);
    }
}

} // namespace

fh1_status cu_faulty_rope_fwd(cu_ctx *k, const cu_rope *given)
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_rope_fwd(k, given);
    cu_rope a = *given;
    FH1_TRY(settled(k));
    std::vector<double> f(a.inv_freq, a.inv_freq + a.A / 2);
    for (size_t i = 0; i < f.size(); ++i) {
        if (CU_FAULT(ROPE_SIGN_FLIPPED)) f[i] = -f[i];
        if (CU_FAULT(ROPE_HALF_OF_HEAD) && i >= f.size() / 2) f[i] = 0;
    }
    a.inv_freq = f.data();
    if (CU_FAULT(KEY_MULTIPLIER_DROPPED)) a.m_key = 1;
    if (CU_FAULT(KEY_MULTIPLIER_ON_QUERIES)) scale_rows(a.type, a.q, a.t.M, a.ldq, a.Hq * a.A, a.m_key);
    if (CU_FAULT(KEY_MULTIPLIER_ON_VALUES) && a.v)
        scale_rows(a.type, const_cast<void *>(a.v), a.t.M, a.ldv, a.Hkv * a.A, a.m_key);
    if (rotates_by_hand()) return rotate_by_hand(k, &a);
    FH1_TRY(cu_rope_fwd(k, &a));
    return settled(k);
}

/* -- attention ------------------------------------------------------------------------------------------- */

namespace
{

bool attends_by_hand()
{
    return CU_FAULT(ATTENTION_NOT_CAUSAL) || CU_FAULT(CAUSAL_MASK_SHOWS_NEXT) || CU_FAULT(CAUSAL_MASK_HIDES_SELF) ||
           CU_FAULT(CAUSAL_MASK_FROM_TOP_LEFT) || CU_FAULT(CONTINUED_CALL_NOT_CAUSAL) || CU_FAULT(KV_HEADS_BY_MODULO) ||
           CU_FAULT(SCORES_HAVE_A_POSITION_TERM) || CU_FAULT(SCORES_IN_BF16) || CU_FAULT(SOFTMAX_IN_BF16) ||
           CU_FAULT(SOFTMAX_WITHOUT_MAX) || CU_FAULT(SOFTMAX_COUNTS_AN_EMPTY_SLOT) || CU_FAULT(KEYS_OF_ROW_0);
}

/* One past the last key that token i of a row's n sees, of S stored ones. */
int last_seen(int i, int n, int S, int first)
{
    int end = S - n + i + 1;
    if (CU_FAULT(ATTENTION_NOT_CAUSAL) || (CU_FAULT(CONTINUED_CALL_NOT_CAUSAL) && S > n)) end = S;
    if (CU_FAULT(CAUSAL_MASK_SHOWS_NEXT) && end < S) ++end;
    if (CU_FAULT(CAUSAL_MASK_HIDES_SELF) && end > first + 1) --end;
    if (CU_FAULT(CAUSAL_MASK_FROM_TOP_LEFT)) end = i + 1 > first ? i + 1 : first + 1;
    return end;
}

void weigh(std::vector<float> *score)
{
    float max = -INFINITY, sum = 0;
    for (size_t i = 0; i < score->size(); ++i) {
        float &s = (*score)[i];
        if (CU_FAULT(SCORES_IN_BF16)) s = in_bf16(s);
        if (CU_FAULT(SCORES_HAVE_A_POSITION_TERM)) s += static_cast<float>(i) / 64;
        max = s > max ? s : max;
    }
    if (CU_FAULT(SOFTMAX_WITHOUT_MAX)) max = 0;
    for (float &s : *score) sum += s = expf(s - max);
    if (CU_FAULT(SOFTMAX_COUNTS_AN_EMPTY_SLOT)) sum += expf(-max);
    for (float &s : *score) s = CU_FAULT(SOFTMAX_IN_BF16) ? in_bf16(s / sum) : s / sum;
}

/* Query m, head h, from the keys of row `from`. */
void attend_one(const cu_attention *a, int64_t m, int h, int from, int first, int end)
{
    const int head = CU_FAULT(KV_HEADS_BY_MODULO) ? h % a->Hkv : h / (a->Hq / a->Hkv);
    const float root = 1 / sqrtf(static_cast<float>(a->A));
    std::vector<float> score, out(static_cast<size_t>(a->A), 0.f);
    for (int s = first; s < end; ++s) {
        const int64_t key = cu_kv_at(a->kv, from, head, s);
        float sum = 0;
        for (int e = 0; e < a->A; ++e)
            sum += get(a->type, a->q, m * a->ldq + h * a->A + e) * get(a->type, a->kv.key, key + e);
        score.push_back((CU_FAULT(SCORES_IN_BF16) ? in_bf16(sum) : sum) * root);
    }
    weigh(&score);
    for (int s = first; s < end; ++s) {
        const int64_t value = cu_kv_at(a->kv, from, head, s);
        for (int e = 0; e < a->A; ++e)
            out[static_cast<size_t>(e)] += score[static_cast<size_t>(s - first)] * get(a->type, a->kv.value, value + e);
    }
    for (int e = 0; e < a->A; ++e) put(a->type, a->out, m * a->Hq * a->A + h * a->A + e, out[static_cast<size_t>(e)]);
}

void attend_by_hand(const cu_attention *a)
{
    const cu_tokens &t = a->t;
    for (int64_t m = 0; m < t.M; ++m) {
        const int b = t.row[m], n = t.row_begin[b + 1] - t.row_begin[b], S = t.past[b] + n;
        const int end = last_seen(static_cast<int>(m) - t.row_begin[b], n, S, t.first[m]);
        const bool of_row_0 = CU_FAULT(KEYS_OF_ROW_0) && t.past[0] + t.row_begin[1] - t.row_begin[0] >= S;
        for (int h = 0; h < a->Hq; ++h) attend_one(a, m, h, of_row_0 ? 0 : b, t.first[m], end);
    }
}

/* The first key that token m sees. */
int first_seen(const cu_tokens &t, int64_t m)
{
    const int b = t.row[m], past = t.past[b], self = past + static_cast<int>(m) - t.row_begin[b], from = t.first[m];
    if (CU_FAULT(DOCUMENTS_IGNORED_IN_ATTENTION)) return 0;
    if (CU_FAULT(CONTINUED_CALL_SEES_NEW_KEYS_ONLY) && t.longest > 1 && from < past) return past;
    if (CU_FAULT(DECODE_SEES_NEW_KEY_ONLY) && all_steps(t)) return self;
    if (CU_FAULT(FIRST_KEY_NOT_SEEN) && from < self) return from + 1;
    if (CU_FAULT(SLIDING_WINDOW) && self - from >= 32) return self - 31;
    return from;
}

float query_scale(const cu_attention *a)
{
    const float root = sqrtf(static_cast<float>(a->A));
    if (CU_FAULT(SCORES_NOT_SCALED)) return root;
    if (CU_FAULT(SCORES_SCALED_TWICE)) return 1 / root;
    if (CU_FAULT(SCORES_SCALED_BY_HIDDEN) && cu_faulty.w && of_model(a->t))
        return static_cast<float>(
            sqrt(static_cast<double>(a->A * a->Hq) / static_cast<double>(cu_faulty.w->config->D)));
    return 1;
}

void round_stored(const cu_attention *a)
{
    for (int b = 0; b < a->t.B; ++b)
        for (int s = 0; s < a->t.past[b] + a->t.row_begin[b + 1] - a->t.row_begin[b]; ++s)
            for (int h = 0; h < a->Hkv; ++h)
                for (int e = 0; e < a->A; ++e)
                    for (void *p : {a->kv.key, a->kv.value}) {
                        const int64_t at = cu_kv_at(a->kv, b, h, s) + e;
                        put(a->type, p, at, in_bf16(get(a->type, p, at)));
                    }
}

fh1_status attend(cu_ctx *k, const cu_attention *given, fh1_status (*launch)(cu_ctx *, const cu_attention *))
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return launch(k, given);
    cu_attention a = *given;
    FH1_TRY(settled(k));
    std::vector<int> first;
    for (int64_t m = 0; m < a.t.M; ++m) first.push_back(first_seen(a.t, m));
    first.push_back(0);
    a.t.first = first.data();
    const float factor = query_scale(&a);
    cu_spoiled q(a.type, static_cast<int64_t>(a.t.M) * a.Hq * a.A);
    if (factor < 1 || factor > 1) {
        for (int64_t m = 0; m < a.t.M; ++m)
            for (int64_t i = 0; i < static_cast<int64_t>(a.Hq) * a.A; ++i)
                put(a.type, q.p(), m * a.Hq * a.A + i, get(a.type, a.q, m * a.ldq + i) * factor);
        a.q = q.p();
        a.ldq = static_cast<int64_t>(a.Hq) * a.A;
    }
    if (CU_FAULT(KV_CACHE_IN_BF16)) round_stored(&a);
    if (attends_by_hand()) {
        attend_by_hand(&a);
        return NULL;
    }
    FH1_TRY(launch(k, &a));
    return settled(k);
}

} // namespace

fh1_status cu_faulty_attention_fwd(cu_ctx *k, const cu_attention *a)
{
    return attend(k, a, cu_attention_fwd);
}

fh1_status cu_faulty_attention_step_fwd(cu_ctx *k, const cu_attention *a)
{
    return attend(k, a, cu_attention_step_fwd);
}

} // namespace CU_NS
