#include "cli/bench_train.h"

#include "cli/ids.h"
#include "cli/synthetic.h"
#include "cuda/trainer.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct {
    double backward, update, whole; /* seconds */
} timing;

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of one member of every timing. */
static double median(const timing *t, int64_t n, size_t member, double *room)
{
    for (int64_t i = 0; i < n; i++) room[i] = *(const double *)(const void *)((const char *)&t[i] + member);
    qsort(room, (size_t)n, sizeof *room, by_value);
    return n % 2 ? room[n / 2] : (room[n / 2 - 1] + room[n / 2]) / 2;
}

static fh1_status one_step(cu_trainer *t, const cli_bench_train_options *o, int64_t V, int64_t step,
                           cu_trainer_result *r)
{
    const fh1_adamw adamw = {.lr = 1e-5, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .t = step + 1};
    cli_ids ids;
    FH1_TRY(cli_ids_seeded((uint64_t)step, o->B, o->T, V, &ids));
    ids.batch.labels = ids.batch.ids;
    fh1_status s = cu_trainer_step(t, &ids.batch, &adamw, 1, r);
    cli_ids_free(&ids);
    return s;
}

static void line(const cli_bench_train_options *o, const char *name, double value, const char *unit)
{
    if (o->json)
        printf("{\"bench\":\"%s train %s\",\"value\":%.6g,\"unit\":\"%s\",\"limit\":null,\"share\":null,"
               "\"peer\":null,\"ratio\":null}\n",
               o->engine, name, value, unit);
    else printf("%-20s %10.4g %s\n", name, value, unit);
}

static void report(const cli_bench_train_options *o, const fh1_model *m, const timing *t, double *room,
                   const cu_trainer_result *last)
{
    const double whole = median(t, o->steps, offsetof(timing, whole), room), tokens = (double)(o->B * o->T);
    if (!o->json)
        printf("%s, %s, fp32: full steps over %" PRId64 " rows of %" PRId64 " tokens\n", m->path, o->engine, o->B,
               o->T);
    line(o, "tokens", tokens / whole, "tokens/s");
    line(o, "step", 1e3 * whole, "ms");
    line(o, "forward, backward", 1e3 * median(t, o->steps, offsetof(timing, backward), room), "ms");
    line(o, "norm, update", 1e3 * median(t, o->steps, offsetof(timing, update), room), "ms");
    line(o, "memory", (double)last->bytes / 1e9, "GB");
    line(o, "last loss", last->loss, "nats");
}

static fh1_status measure(const cli_bench_train_options *o, cu_trainer *t, const fh1_model *m)
{
    const size_t n = (size_t)o->steps;
    timing *times = calloc(n, sizeof *times);
    double *room = calloc(n, sizeof *room);
    cu_trainer_result r = {0};
    fh1_status s = times && room ? one_step(t, o, m->config.V, 0, &r) : fh1_no_memory(n * sizeof *times, "timings");
    for (int64_t i = 0; i < o->steps && !s; i++) {
        s = one_step(t, o, m->config.V, i + 1, &r);
        times[i] = (timing){r.backward, r.update, r.backward + r.update};
    }
    if (!s) report(o, m, times, room, &r);
    free(times);
    free(room);
    return s;
}

fh1_status cli_bench_train(const cli_bench_train_options *o, fh1_model *m)
{
    cu_trainer *t;
    FH1_TRY(cu_trainer_new(m, &(cu_trainer_options){.engine = o->engine}, &t));
    fh1_status s = o->synthetic ? cli_synthetic_matrices(t, m, (uint64_t)o->seed) : NULL;
    if (!s) s = measure(o, t, m);
    cu_trainer_free(t);
    return s;
}
