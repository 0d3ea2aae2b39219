/* Mistakes of the host: transfers, and what it does before the device is done. */
#include "tests/cuda/zoo.h"

namespace CU_NS
{
namespace
{

__global__ void copy(float *o, const float *x)
{
    o[threadIdx.x] = x[threadIdx.x];
}

float *pinned(float v)
{
    float *h = nullptr;
    (void)cudaMallocHost(&h, T * sizeof *h);
    for (int i = 0; i < T; ++i) h[i] = v;
    return h;
}

void memcpy_past(cage *c)
{
    std::vector<float> more(c->in, c->in + T);
    more.push_back(0);
    (void)cudaMemcpy(c->o, more.data(), (T + static_cast<size_t>(c->bug)) * sizeof(float), cudaMemcpyHostToDevice);
}
void wrong_direction(cage *c)
{
    (void)cudaMemcpy(c->o, c->in, T * sizeof(float), c->bug ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice);
}
void host_reads_early(cage *c)
{
    cudaStream_t s;
    (void)cudaStreamCreate(&s);
    float *h = pinned(-1);
    LAUNCH(copy, 1, T, 0, s, c->o, c->x);
    (void)cudaMemcpyAsync(h, c->o, T * sizeof *h, cudaMemcpyDeviceToHost, s);
    if (!c->bug) (void)cudaStreamSynchronize(s);
    c->seen.assign(h, h + T);
}
void host_reuses_early(cage *c)
{
    cudaStream_t s;
    (void)cudaStreamCreate(&s);
    float *h = pinned(-1);
    for (int i = 0; i < T; ++i) h[i] = c->in[i];
    (void)cudaMemcpyAsync(c->o, h, T * sizeof *h, cudaMemcpyHostToDevice, s);
    if (!c->bug) (void)cudaStreamSynchronize(s);
    for (int i = 0; i < T; ++i) h[i] = -7;
}
/* The second stream reads what the first one is to write; it does not wait for it. */
void event_missing(cage *c)
{
    cudaStream_t s, other;
    (void)cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    (void)cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    float *between = nullptr;
    (void)cudaMalloc(&between, T * sizeof *between);
    (void)cudaMemset(between, 0, T * sizeof *between);
    (void)cudaDeviceSynchronize();
    LAUNCH(copy, 1, T, 0, s, between, c->x);
    if (!c->bug) {
        cudaEvent_t e;
        (void)cudaEventCreate(&e);
        (void)cudaEventRecord(e, s);
        (void)cudaStreamWaitEvent(other, e);
    }
    LAUNCH(copy, 1, T, 0, other, c->o, between);
    (void)cudaStreamSynchronize(other);
}

} // namespace

const std::vector<animal> zoo_host = {
    {"memcpy_past", memcpy_past, same},           {"wrong_direction", wrong_direction, same},
    {"host_reads_early", host_reads_early, same}, {"host_reuses_early", host_reuses_early, same},
    {"event_missing", event_missing, same},
};

} // namespace CU_NS
