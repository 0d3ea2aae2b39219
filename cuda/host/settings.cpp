/* Settings from the environment, read once, and the order, which tests may change. */
#include "cuda/host/internal.h"

namespace cu_host
{
namespace sim
{

static bool set_order(Settings &s, const char *text)
{
    if (!strcmp(text, "forward")) s.order = FORWARD;
    else if (!strcmp(text, "reverse")) s.order = REVERSE;
    else if (!strncmp(text, "random", 6) && (!text[6] || text[6] == ':')) {
        s.order = RANDOM;
        s.seed = text[6] ? static_cast<unsigned>(strtoul(text + 7, nullptr, 10)) : 1;
    } else return false;
    return true;
}

static size_t bytes_of(const char *text)
{
    char *end;
    const double v = strtod(text, &end);
    const int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    return v > 0 ? static_cast<size_t>(v * static_cast<double>(static_cast<size_t>(1) << shift)) : 0;
}

static Settings from_environment()
{
    Settings s = {};
    s.order = FORWARD;
    s.seed = 1;
    s.poison = true;
    s.workers = 1;
    s.sms = 4;
    s.memory = static_cast<size_t>(16) << 30;
    const bool deep = CU_HOST_ASAN || CU_HOST_MSAN || CU_HOST_TSAN || CU_HOST_CHECK;
#ifndef __OPTIMIZE__
    s.stack = 256 << 10;
#else
    s.stack = deep ? 256 << 10 : 64 << 10;
#endif
    const char *e;
    if ((e = getenv("FH1_CUDA_ORDER")) && !set_order(s, e))
        fprintf(stderr, "cuda-host: FH1_CUDA_ORDER=%s is unknown: forward, reverse or random:SEED\n", e);
    if ((e = getenv("FH1_CUDA_STREAMS"))) s.deferred = !strcmp(e, "deferred");
    if ((e = getenv("FH1_CUDA_POISON"))) s.poison = strcmp(e, "0") != 0;
    if ((e = getenv("FH1_CUDA_WORKERS")) && !deep && atoi(e) > 0) s.workers = atoi(e) < 64 ? atoi(e) : 64;
    if ((e = getenv("FH1_CUDA_SMS")) && atoi(e) > 0) s.sms = atoi(e) < 1024 ? atoi(e) : 1024;
    if ((e = getenv("FH1_CUDA_MEMORY")) && bytes_of(e)) s.memory = bytes_of(e);
    return s;
}

Settings &settings()
{
    static Settings s = from_environment();
    return s;
}

const Hooks *hooks;

} // namespace sim
} // namespace cu_host

extern "C" int cu_host_set_order(const char *order)
{
    return cu_host::sim::set_order(cu_host::sim::settings(), order) ? 0 : -1;
}

extern "C" int cu_host_set_streams(const char *streams)
{
    const bool deferred = !strcmp(streams, "deferred");
    if (!deferred && strcmp(streams, "eager") != 0) return -1;
    cu_host::cudaDeviceSynchronize();
    cu_host::sim::settings().deferred = deferred;
    return 0;
}
