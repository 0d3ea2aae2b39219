/* What the benchmarks share: time, medians, and one form of result. */
#pragma once

#include "oracle/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BENCH_MAX_ROUNDS 64

static inline double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int bench_by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double bench_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, bench_by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static inline _Noreturn void bench_stop(fh1_status s)
{
    char line[2048];
    fprintf(stderr, "fh1-bench: %s\n", fh1_status_line(s, line, sizeof line));
    exit((int)s->code);
}

static inline void bench_must(fh1_status s)
{
    if (s) bench_stop(s);
}

static inline void bench_json_number(const char *key, double v)
{
    if (isnan(v)) printf(",\"%s\":null", key);
    else printf(",\"%s\":%.6g", key, v);
}

/* One figure beside the machine's own limit for it and beside another program, both of the same run; NAN: none. */
static inline void bench_tell(bool json, const char *name, double value, const char *unit, double limit, double peer)
{
    if (json) {
        printf("{\"bench\":\"%s\",\"value\":%.6g,\"unit\":\"%s\"", name, value, unit);
        bench_json_number("limit", limit);
        bench_json_number("share", value / limit);
        bench_json_number("peer", peer);
        bench_json_number("ratio", value / peer);
        printf("}\n");
        return;
    }
    printf("%-22s %10.4g %-9s", name, value, unit);
    if (!isnan(limit)) printf(" limit %10.4g   share %5.1f %%", limit, 100 * value / limit);
    if (!isnan(peer)) printf("   peer %10.4g   ratio %.2f", peer, value / peer);
    printf("\n");
}
