/* Other programs under measurement: their time and their largest resident size. */
#pragma once

#include <stdbool.h>

typedef struct {
    double seconds;
    double peak_mib; /* of resident memory, mapped pages included */
} bench_child;

/* Runs argv[0] (looked for in PATH), stdout to `out` (NULL: nowhere), and waits. Ends the benchmark when it fails. */
bench_child bench_run(const char *const *argv, const char *out);
/* Is there such a program? */
bool bench_has(const char *program);

/* A rank-16 LoRA adapter of all linear layers for the folder's base, drawn from a seed, in `dir`. */
void bench_make_adapter(const char *model, const char *dir);
