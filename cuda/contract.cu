/* Which of its two contracts the engine takes for a model. */
#include "cuda/adapters.h"
#include "cuda/weights.h"

namespace CU_NS
{

namespace
{

/* NULL when every matrix is bf16, else the first one that is not. */
const fh1_tensor *first_not_bf16(const fh1_model *m, char name[FH1_TAP_NAME_SIZE])
{
    snprintf(name, FH1_TAP_NAME_SIZE, "%s", fh1_embed_module(m->config.family));
    if (m->embed.dtype != FH1_BF16) return &m->embed;
    fh1_model *borrowed = const_cast<fh1_model *>(m); /* only read */
    for (int id = 0; id < FH1_TAP_COUNT; ++id) {
        const fh1_tap_id tap = static_cast<fh1_tap_id>(id);
        const bool product = fh1_tap_is_linear(tap) || tap == FH1_TAP_DT; /* dt_proj stands in front of that one */
        if (!product || !fh1_tap_exists(&m->config, tap)) continue;
        const int64_t n_layers = fh1_tap_is_per_layer(tap) ? m->config.n_layers : 1;
        for (int64_t i = 0; i < n_layers; ++i) {
            const fh1_tensor *w = fh1_model_linear(borrowed, tap, i).w;
            if (!w || !w->data || w->dtype == FH1_BF16) continue;
            fh1_tap_linear_module(m->config.family, tap, i, name);
            return w;
        }
    }
    return NULL;
}

bool has_adapters(const fh1_model *m)
{
    bool any = m->embed_lora || m->head_lora;
    for (int64_t i = 0; i < m->config.n_layers; ++i)
        for (const fh1_lora *l : m->layers[i].lora) any = any || l;
    return any;
}

fh1_status adapter_refused(const char *where)
{
    const fh1_status s = fh1_where(FH1_BAD("here merged models run only, and an adapter is attached"), "%s", where);
    return fh1_hint(
        s,
        "`fh1 merge BASE ADAPTER -o OUT` makes one model of the two; an engine with --contract fp32 applies adapters");
}

} // namespace

fh1_status cu_adapters_none(const fh1_model *m)
{
    char name[FH1_TAP_NAME_SIZE];
    if (m->embed_lora) return adapter_refused(fh1_embed_module(m->config.family));
    if (m->head_lora) return adapter_refused("lm_head");
    for (int64_t i = 0; i < m->config.n_layers; ++i)
        for (int id = 0; id < FH1_TAP_LAYER; ++id)
            if (m->layers[i].lora[id])
                return adapter_refused(fh1_tap_name(m->config.family, static_cast<fh1_tap_id>(id), i, name));
    return NULL;
}

fh1_status cu_contract(const fh1_model *m, const fh1_profile *profile, const fh1_profile **out, cu_type *type)
{
    char name[FH1_TAP_NAME_SIZE];
    const fh1_tensor *other = first_not_bf16(m, name);
    const bool adapted = has_adapters(m);
    if (!profile) profile = fh1_profile_find(other || adapted ? "fp32" : "cuda-bf16");
    if (!profile) return fh1_fail(FH1_E_INTERNAL, "the contract cuda-bf16 is not in the list of profiles");
    const bool narrow = strcmp(profile->name, "cuda-bf16") == 0;
    if (!narrow && strcmp(profile->name, "fp32") != 0) {
        const fh1_status s = FH1_BAD("the CUDA engine does not have this contract");
        return fh1_found(fh1_expected(s, "cuda-bf16 or fp32"), "%s", profile->name);
    }
    if (narrow && adapted) return cu_adapters_none(m);
    if (narrow && other) {
        fh1_status s = fh1_where(FH1_BAD("the contract cuda-bf16 needs bf16 matrices"), "%s.weight", name);
        s = fh1_found(fh1_expected(s, "BF16"), "%s", fh1_dtype_name(other->dtype));
        return fh1_hint(s, "run this checkpoint with the contract fp32");
    }
    *out = profile;
    *type = narrow ? CU_BF16 : CU_F32;
    return NULL;
}

} // namespace CU_NS
