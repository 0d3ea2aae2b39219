/* Spoilers of the step sizes and of the gate. */
#include "cuda/faulty/spoil.cuh"
#include "cuda/silu.h"

namespace CU_NS
{
namespace
{

/* -- step sizes --------------------------------------------------------------------------------------------- */

bool sizes_by_hand()
{
    return CU_FAULT(DT_BIAS_AFTER_SOFTPLUS) || CU_FAULT(SOFTPLUS_MISSING) || CU_FAULT(SOFTPLUS_IS_EXP) ||
           CU_FAULT(SOFTPLUS_LINEAR_TOO_EARLY) || CU_FAULT(DT_IN_BF16) || CU_FAULT(DT_CLAMPED_BEFORE_SOFTPLUS);
}

float softplus_of(float v)
{
    if (CU_FAULT(SOFTPLUS_MISSING)) return v;
    if (CU_FAULT(SOFTPLUS_IS_EXP)) return expf(v);
    return v > (CU_FAULT(SOFTPLUS_LINEAR_TOO_EARLY) ? 2.f : 20.f) ? v : log1pf(expf(v));
}

float clamped(const cu_dt_softplus *a, float v)
{
    return v < a->lo ? a->lo : v > a->hi ? a->hi : v;
}

float size_of(const cu_dt_softplus *a, int64_t m, int h)
{
    const float raw = get(a->type, a->raw, m * a->ld + h) * a->m_dt, arg = raw + a->bias[h];
    if (CU_FAULT(DT_BIAS_AFTER_SOFTPLUS)) return clamped(a, softplus_of(raw) + a->bias[h]);
    if (CU_FAULT(DT_CLAMPED_BEFORE_SOFTPLUS)) return softplus_of(clamped(a, arg));
    if (CU_FAULT(DT_IN_BF16)) return clamped(a, in_bf16(softplus_of(in_bf16(arg))));
    return clamped(a, softplus_of(arg));
}

} // namespace

fh1_status cu_faulty_dt_softplus_fwd(cu_ctx *k, const cu_dt_softplus *given)
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_dt_softplus_fwd(k, given);
    cu_dt_softplus a = *given;
    const cu_tokens &t = cu_faulty.t;
    const bool steps = all_steps(t);
    FH1_TRY(settled(k));
    if (CU_FAULT(DT_NOT_CLAMPED) || (CU_FAULT(DT_NOT_CLAMPED_IN_STEPS) && steps) ||
        (CU_FAULT(DT_CLAMPED_IN_STEPS_ONLY) && !steps)) {
        a.lo = 0;
        a.hi = INFINITY;
    }
    if (CU_FAULT(MUP_ROUNDED_TO_BF16)) a.m_dt = in_bf16(a.m_dt);
    if (CU_FAULT(DT_CLAMPED_TO_INIT_RANGE)) {
        a.lo = 0.001f;
        a.hi = 0.1f;
    }
    if (CU_FAULT(DT_NORM_AFTER_DT_PROJ) && of_falcon_mamba()) { /* its own place was left out */
        cu_rmsnorm norm = {};
        norm.type = a.type;
        norm.M = a.M;
        norm.D = a.H;
        norm.x = norm.n = const_cast<void *>(a.raw);
        norm.eps = static_cast<float>(cu_faulty.w->config->mixer_eps);
        FH1_TRY(cu_rmsnorm_fwd(k, &norm));
    }
    FH1_TRY(cu_dt_softplus_fwd(k, &a));
    FH1_TRY(settled(k));
    for (int64_t m = 0; sizes_by_hand() && m < a.M; ++m)
        for (int h = 0; h < a.H; ++h) a.dt[m * a.H + h] = size_of(&a, m, h);
    for (int b = 0; CU_FAULT(DT_OF_FIRST_TOKEN) && past_columns() > 0 && b < t.B; ++b)
        for (int64_t m = t.row_begin[b] + 1; m < t.row_begin[b + 1]; ++m)
            memcpy(a.dt + m * a.H, a.dt + static_cast<int64_t>(t.row_begin[b]) * a.H,
                   static_cast<size_t>(a.H) * sizeof *a.dt);
    return NULL;
}

/* -- gate ------------------------------------------------------------------------------------------------------ */

namespace
{

bool gates_by_hand()
{
    return CU_FAULT(GATE_OPERANDS_SWAPPED) || CU_FAULT(GATE_IS_SIGMOID) || CU_FAULT(GATE_IN_BF16) ||
           CU_FAULT(GATED_NORM_TWICE) || CU_FAULT(GATED_NORM_EPS_OUTSIDE_ROOT);
}

float gate_of(const cu_gated_norm *a, float z)
{
    const float s = CU_FAULT(GATE_IS_SIGMOID) ? sigmoid_of(z) : silu(z);
    return CU_FAULT(GATE_IN_BF16) && !a->w ? in_bf16(s) : s;
}

void normalise(const cu_gated_norm *a, int first, std::vector<float> *v)
{
    float sum = 0;
    for (const float x : *v) sum += x * x;
    const float mean = sum / static_cast<float>(v->size());
    const float r = CU_FAULT(GATED_NORM_EPS_OUTSIDE_ROOT) ? 1 / (sqrtf(mean) + a->eps) : 1 / sqrtf(mean + a->eps);
    for (size_t i = 0; i < v->size(); ++i) (*v)[i] *= r * a->w[static_cast<size_t>(first) + i];
}

void gate_group(const cu_gated_norm *a, int64_t m, int first, int n)
{
    const bool before = a->w && a->norm_before_gate;
    std::vector<float> out, gates;
    for (int i = first; i < first + n; ++i) {
        float y = get(a->type, a->y, m * a->d + i), z = get(a->type, a->z, m * a->ldz + i) * a->m_z;
        if (CU_FAULT(GATE_OPERANDS_SWAPPED)) {
            const float other = y;
            y = z;
            z = other;
        }
        gates.push_back(gate_of(a, z));
        out.push_back(before ? y : y * gates.back());
    }
    for (int times = !a->w ? 0 : CU_FAULT(GATED_NORM_TWICE) ? 2 : 1; times > 0; --times) normalise(a, first, &out);
    for (int i = 0; i < n; ++i)
        put(a->type, a->out, m * a->d + first + i,
            out[static_cast<size_t>(i)] * (before ? gates[static_cast<size_t>(i)] : 1.f));
}

} // namespace

fh1_status cu_faulty_gated_norm_fwd(cu_ctx *k, const cu_gated_norm *given)
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_gated_norm_fwd(k, given);
    cu_gated_norm a = *given;
    FH1_TRY(settled(k));
    std::vector<float> w;
    cu_spoiled z(a.type, CU_FAULT(GATE_OF_ROW_0) ? static_cast<int64_t>(a.M) * a.d : 0);
    if (CU_FAULT(MUP_ROUNDED_TO_BF16)) a.m_z = in_bf16(a.m_z);
    if (CU_FAULT(GATED_NORM_OVER_WHOLE_WIDTH)) a.G = 1;
    if (CU_FAULT(GATED_NORM_EPS_MISSING)) a.eps = 0;
    if (CU_FAULT(GATED_NORM_WEIGHT_OF_GROUP_0) && a.w) {
        for (int i = 0; i < a.d; ++i) w.push_back(a.w[i % (a.d / a.G)]);
        a.w = w.data();
    }
    if (CU_FAULT(GATE_OF_ROW_0) && all_steps(cu_faulty.t)) {
        for (int64_t i = 0; i < static_cast<int64_t>(a.M) * a.d; ++i) put(a.type, z.p(), i, get(a.type, a.z, i % a.d));
        a.z = z.p();
        a.ldz = a.d;
    }
    if (gates_by_hand()) {
        for (int64_t m = 0; m < a.M; ++m)
            for (int g = 0; g < a.G; ++g) gate_group(&a, m, g * (a.d / a.G), a.d / a.G);
        return NULL;
    }
    FH1_TRY(cu_gated_norm_fwd(k, &a));
    return settled(k);
}

} // namespace CU_NS
