/* Taps of a call: each stored array comes to the host as f32, dense, and goes back where the sink wrote to it. */
#include "cuda/call.h"

#include <vector>

namespace CU_NS
{
namespace
{

/* One element of a stored array on the host. */
float widen(cu_type t, const unsigned char *p)
{
    uint32_t u = 0;
    uint16_t h;
    float v;
    if (t == CU_F32) {
        memcpy(&v, p, sizeof v);
        return v;
    }
    memcpy(&h, p, sizeof h);
    u = static_cast<uint32_t>(h) << 16;
    memcpy(&v, &u, sizeof v);
    return v;
}

void narrow(cu_type t, float v, unsigned char *p)
{
    const bf16 h = __float2bfloat16_rn(v);
    if (t == CU_F32) memcpy(p, &v, sizeof v);
    else memcpy(p, &h, sizeof h);
}

} // namespace

fh1_status cu_call_tap(cu_call *call, fh1_tap_id id, int64_t layer, const cu_shown *a, bool *changed)
{
    if (!call->sink) return NULL;
    /* from the first column shown to the last one: what lies around them may be somebody else's */
    const int64_t span = a->rows ? (a->rows - 1) * a->ld + a->width : 0;
    const size_t size = cu_size(a->type), bytes = static_cast<size_t>(span) * size;
    const size_t n = static_cast<size_t>(a->rows * a->width);
    void *const first = cu_at(a->type, a->p, a->at);
    std::vector<unsigned char> stored(bytes);
    std::vector<float> dense(n + 1);
    FH1_TRY(cu_fetch(stored.data(), first, bytes, call->k->stream, "reading a tap"));
    for (int64_t m = 0; m < a->rows; ++m)
        for (int64_t i = 0; i < a->width; ++i)
            dense[static_cast<size_t>(m * a->width + i)] =
                widen(a->type, &stored[static_cast<size_t>(m * a->ld + i) * size]);
    const std::vector<float> before = dense;

    fh1_tap_event ev = {};
    ev.id = id;
    ev.layer = layer;
    ev.tokens = call->tokens;
    ev.kept = a->kept;
    ev.value = fh1_tap_packed_shape(call->c, id, a->rows);
    ev.value.dtype = FH1_F32;
    ev.value.data = dense.data();
    FH1_TRY(call->sink->tap(call->sink->user, &ev));

    if (!n || memcmp(before.data(), dense.data(), n * sizeof(float)) == 0) return NULL;
    if (changed) *changed = true;
    for (int64_t m = 0; m < a->rows; ++m)
        for (int64_t i = 0; i < a->width; ++i)
            narrow(a->type, dense[static_cast<size_t>(m * a->width + i)],
                   &stored[static_cast<size_t>(m * a->ld + i) * size]);
    return cu_send(first, stored.data(), bytes, call->k->stream, "writing a tap");
}

} // namespace CU_NS
