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
        char *end = nullptr;
        s.seed = text[6] ? static_cast<unsigned>(strtoul(text + 7, &end, 10)) : 1;
        if (text[6] && (end == text + 7 || *end)) return false;
    } else return false;
    return true;
}

/* A setting that is misspelt would check nothing and look like a pass: the program ends, as after any bad usage. */
[[noreturn]] static void refuse(const char *name, const char *value, const char *expected)
{
    fprintf(stderr, "cuda-host: %s=%.80s: expected %s\n", name, value, expected);
    exit(2);
}

/* A whole number from `least` to `most`, or `usual` where the variable is not set. */
static int number(const char *name, int least, int most, int usual)
{
    const char *text = getenv(name);
    if (!text) return usual;
    char *end, expected[64];
    const long v = strtol(text, &end, 10);
    snprintf(expected, sizeof expected, "a whole number from %d to %d", least, most);
    if (end == text || *end || v < least || v > most) refuse(name, text, expected);
    return static_cast<int>(v);
}

/* 64M, 1.5G, or plain bytes. */
static size_t memory(size_t usual)
{
    const char *text = getenv("FH1_CUDA_MEMORY");
    if (!text) return usual;
    char *end;
    const double v = strtod(text, &end);
    const int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    const bool good = end != text && v >= 1 && v <= 1e12 && (shift ? end[1] == 0 : *end == 0);
    if (!good) refuse("FH1_CUDA_MEMORY", text, "bytes, or a number with K, M or G");
    return static_cast<size_t>(v * static_cast<double>(static_cast<size_t>(1) << shift));
}

static Settings from_environment()
{
    Settings s = {};
    s.order = FORWARD;
    s.seed = 1;
    const bool deep = CU_HOST_ASAN || CU_HOST_MSAN || CU_HOST_TSAN || CU_HOST_CHECK;
#ifndef __OPTIMIZE__
    s.stack = 256 << 10;
#else
    s.stack = deep ? 256 << 10 : 64 << 10;
#endif
    const char *e;
    if ((e = getenv("FH1_CUDA_ORDER")) && !set_order(s, e))
        refuse("FH1_CUDA_ORDER", e, "forward, reverse or random:SEED");
    if ((e = getenv("FH1_CUDA_STREAMS"))) {
        s.deferred = !strcmp(e, "deferred");
        if (!s.deferred && strcmp(e, "eager")) refuse("FH1_CUDA_STREAMS", e, "eager or deferred");
    }
    s.poison = number("FH1_CUDA_POISON", 0, 1, 1) != 0;
    s.workers = number("FH1_CUDA_WORKERS", 1, 64, 1);
    if (deep) s.workers = 1; /* sanitizers and checker see one thread's fibers */
    s.sms = number("FH1_CUDA_SMS", 1, 1024, 4);
    s.memory = memory(static_cast<size_t>(16) << 30);
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
