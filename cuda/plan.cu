/* Device memory of a request, part by part. */
#include "cuda/plan.h"

#include "cuda/cache.h"
#include "cuda/call.h"

namespace CU_NS
{

namespace
{

const double GIB = 1024.0 * 1024.0 * 1024.0;

const char *const names[CU_PLAN_PARTS] = {"weights", "keys and values", "windows and states", "activations, scratch",
                                          "logits"};

double gib(size_t n)
{
    return static_cast<double>(n) / GIB;
}

struct counting {
    cu_type type;
    size_t bytes;
};

/* What is no matrix is a small parameter, in f32. */
fh1_status count_weight(void *user, const char *name, int rank, const int64_t *shape)
{
    counting *k = static_cast<counting *>(user);
    size_t n = fh1_weight_is_matrix(name, rank) ? cu_size(k->type) : sizeof(float);
    for (int i = 0; i < rank; ++i) n *= static_cast<size_t>(shape[i]);
    k->bytes += n;
    return NULL;
}

/* As cu_weights_bytes, from the config alone. */
size_t weight_bytes(const fh1_config *c, cu_type type)
{
    counting k = {type, 0};
    fh1_config_weights(c, count_weight, &k); /* count_weight never fails */
    const int64_t qkv = (c->Hq + 2 * c->Hkv) * c->A, in = fh1_in_proj_dim(c);
    if (c->Hq && c->attention_bias != c->mamba_proj_bias) /* zeros for the part without a bias */
        k.bytes += static_cast<size_t>(c->n_layers * (c->attention_bias ? in : qkv)) * sizeof(float);
    if (c->rope.type != FH1_ROPE_DYNAMIC && c->rope.type != FH1_ROPE_LONGROPE)
        k.bytes += static_cast<size_t>(c->A / 2) * sizeof(double);
    return k.bytes;
}

/* What a smaller request would have less of. */
const char *advice(const cu_plan *p, size_t free_bytes)
{
    if (p->bytes[CU_PLAN_WEIGHTS] >= free_bytes) return "a device with more memory, or a smaller model";
    int largest = CU_PLAN_KV;
    for (int i = CU_PLAN_KV; i < CU_PLAN_PARTS; ++i)
        if (p->bytes[i] > p->bytes[largest]) largest = i;
    switch (largest) {
    case CU_PLAN_KV: return "fewer rows, or a shorter context";
    case CU_PLAN_STATE: return "fewer rows";
    case CU_PLAN_WORK: return "fewer rows, or fewer tokens in one call";
    default: return "fewer rows, or logits of fewer tokens";
    }
}

} // namespace

cu_plan cu_plan_make(const fh1_config *c, cu_type type, int64_t B, int64_t prompt, int64_t context, int64_t n_logits)
{
    cu_plan p = {};
    p.type = type;
    p.B = B;
    p.prompt = prompt;
    p.context = context;
    p.n_logits = n_logits;
    const size_t rows = static_cast<size_t>(B);
    p.bytes[CU_PLAN_WEIGHTS] = weight_bytes(c, type);
    p.bytes[CU_PLAN_STATE] = cu_cache_bytes(c, type, B, 0);
    p.bytes[CU_PLAN_KV] = cu_cache_bytes(c, type, B, context) - p.bytes[CU_PLAN_STATE];
    p.bytes[CU_PLAN_WORK] = cu_work_bytes(c, type, B * prompt, B);
    p.bytes[CU_PLAN_LOGITS] = rows * static_cast<size_t>(n_logits) *
                              (static_cast<size_t>(c->V) * sizeof(float) + static_cast<size_t>(c->D) * cu_size(type));
    for (int i = 0; i < CU_PLAN_PARTS; ++i) p.total += p.bytes[i];
    return p;
}

void cu_plan_print(const cu_plan *p, FILE *to)
{
    fprintf(to, "%lld rows of %lld tokens, %lld in one call, %s\n", static_cast<long long>(p->B),
            static_cast<long long>(p->context), static_cast<long long>(p->prompt), p->type == CU_F32 ? "f32" : "bf16");
    for (int i = 0; i < CU_PLAN_PARTS; ++i) fprintf(to, "  %-22s %9.3f GiB\n", names[i], gib(p->bytes[i]));
    fprintf(to, "  %-22s %9.3f GiB\n", "together", gib(p->total));
}

fh1_status cu_plan_check(const cu_plan *p, size_t free_bytes)
{
    if (p->total <= free_bytes) return NULL;
    int largest = 0;
    for (int i = 1; i < CU_PLAN_PARTS; ++i)
        if (p->bytes[i] > p->bytes[largest]) largest = i;
    fh1_status s = FH1_BAD("%lld rows of %lld tokens do not fit the device's memory", static_cast<long long>(p->B),
                           static_cast<long long>(p->context));
    s = fh1_expected(s, "at most %.2f GiB, which are free", gib(free_bytes));
    s = fh1_found(s, "%.2f GiB, the most of it for %s: %.2f GiB", gib(p->total), names[largest],
                  gib(p->bytes[largest]));
    return fh1_hint(s, "what helps: %s", advice(p, free_bytes));
}

} // namespace CU_NS
