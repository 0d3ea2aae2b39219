/* What the device can do at most, measured: the yardstick of `fh1 bench`. */
#include "cuda/linear.cuh"
#include "cuda/session_impl.h"

#include <ctime>

namespace CU_NS
{
namespace
{

/* Seconds of the fastest of a few rounds; `run` queues one. The first round warms up. */
template <typename Run> fh1_status fastest(cudaStream_t stream, double *out, const Run &run)
{
    *out = 0;
    for (int i = 0; i < 6; ++i) {
        CU_TRY(cudaStreamSynchronize(stream), "measuring");
        const double begin = cu_seconds();
        FH1_TRY(run());
        CU_TRY(cudaStreamSynchronize(stream), "measuring");
        const double t = cu_seconds() - begin;
        if (i && (*out == 0 || t < *out)) *out = t;
    }
    return NULL;
}

fh1_status measure_copy(cudaStream_t stream, char *from, char *to, size_t bytes, double *out)
{
    const auto run = [&]() -> fh1_status {
        for (int i = 0; i < 4; ++i)
            CU_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "measuring a copy");
        return NULL;
    };
    double t;
    FH1_TRY(fastest(stream, &t, run));
    *out = 4 * 2 * static_cast<double>(bytes) / t;
    return NULL;
}

fh1_status measure_product(cu_ctx *k, const void *x, const void *w, void *y, int64_t n, double *out)
{
    double t;
    cu_linear a = {};
    a.type = a.y_type = CU_BF16;
    a.M = a.N = a.K = static_cast<int>(n);
    a.x = x;
    a.w = w;
    a.y = y;
    a.ldx = a.ldy = n;
    a.alpha = 1;
    FH1_TRY(fastest(k->stream, &t, [&] { return cu_linear_fwd(k, &a); }));
    *out = 2 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / t;
    return NULL;
}

/* Values of both signs that are not all alike: constants draw less power and would flatter the limit. */
fh1_status fill(cu_buffer *b, cudaStream_t stream)
{
    std::vector<uint32_t> v(b->bytes / 4);
    uint32_t x = 1;
    for (uint32_t &u : v) {
        x = x * UINT32_C(1664525) + UINT32_C(1013904223);
        u = (x & UINT32_C(0x807f807f)) | UINT32_C(0x3f003f00);
    }
    return cu_send(b->p, v.data(), v.size() * 4, stream, "measuring");
}

} // namespace

fh1_status cu_live_session_limits(cu_session *base, int64_t n, double *copy, double *product)
{
    cu_live_session *s = cu_live(base);
    cu_ctx *k = &s->device.k;
    cu_buffer b[3] = {};
    const size_t bytes = static_cast<size_t>(n) * static_cast<size_t>(n) * 2;
    fh1_status e = NULL;
    for (int i = 0; i < 3 && !e; ++i) e = cu_buffer_need(&b[i], bytes);
    for (int i = 0; i < 2 && !e; ++i) e = fill(&b[i], k->stream);
    if (!e) e = measure_copy(k->stream, static_cast<char *>(b[0].p), static_cast<char *>(b[2].p), bytes, copy);
    if (!e) e = measure_product(k, b[0].p, b[1].p, b[2].p, n, product);
    for (cu_buffer &part : b) cu_buffer_free(&part);
    return e;
}

} // namespace CU_NS
