#include "cli/machine.h"

#include "oracle/thread.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { BASELINE, AVX2, AVX512 };

/* What the kernels of an OpenBLAS core type use. A name that is not listed counts as the best there is:
 * a new OpenBLAS may know more processors than this table. */
static int core_level(const char *core)
{
    static const struct {
        const char *name;
        int level;
    } known[] = {
        {"Haswell", AVX2},          {"Zen", AVX2},
        {"Excavator", AVX2},        {"Sandybridge", BASELINE},
        {"Nehalem", BASELINE},      {"Prescott", BASELINE},
        {"Core2", BASELINE},        {"Penryn", BASELINE},
        {"Dunnington", BASELINE},   {"Atom", BASELINE},
        {"Nano", BASELINE},         {"Katmai", BASELINE},
        {"Coppermine", BASELINE},   {"Northwood", BASELINE},
        {"Banias", BASELINE},       {"Athlon", BASELINE},
        {"Opteron", BASELINE},      {"Barcelona", BASELINE},
        {"Bobcat", BASELINE},       {"Bulldozer", BASELINE},
        {"Piledriver", BASELINE},   {"Steamroller", BASELINE},
        {"Opteron_SSE3", BASELINE},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcasecmp(known[i].name, core) == 0) return known[i].level;
    return AVX512;
}

static int machine_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return BASELINE;
}

cli_machine cli_machine_get(void)
{
    static const char *const simd[] = {[BASELINE] = "baseline", [AVX2] = "avx2", [AVX512] = "avx512"};
    int level = machine_level();
    cli_machine m = {
        .blas = openblas_get_config(),
        .core = openblas_get_corename(),
        .blas_threads = openblas_get_num_threads(),
        .threads = fh1_threads(),
        .simd = simd[level],
        .coretype = getenv("OPENBLAS_CORETYPE"),
    };
    m.slow_core = core_level(m.core) < level;
    return m;
}

const char *cli_machine_warning(const cli_machine *m, char *buf, size_t size)
{
    if (m->coretype)
        snprintf(buf, size,
                 "OpenBLAS uses its %s kernels, but this processor has %s: OPENBLAS_CORETYPE=%s is set; "
                 "unset it (env -u OPENBLAS_CORETYPE fh1 …)",
                 m->core, m->simd, m->coretype);
    else
        snprintf(buf, size,
                 "OpenBLAS chose its %s kernels, but this processor has %s: this OpenBLAS does not know the "
                 "processor; try OPENBLAS_CORETYPE=%s",
                 m->core, m->simd, m->simd[3] == '5' ? "SkylakeX" : "Haswell");
    return buf;
}
