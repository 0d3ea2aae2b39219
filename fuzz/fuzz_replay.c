/* Runs a target over files, for any compiler: what ctest does with corpus and regressions, and how a finding is looked
 * at. */
#include "fuzz/bytes.h"
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#pragma weak LLVMFuzzerCustomMutator
#pragma weak LLVMFuzzerInitialize
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { MAX_SIZE = 4096 }; /* of drawn inputs */

/* What runs now: a file, or the seed of a drawn input. Told when the program dies of it. */
static char now[512];
static uint64_t inputs;

static void tell(void)
{
    if (write(STDERR_FILENO, now, strlen(now)) < 0) return;
}

#ifdef FH1_SANITIZE
extern void __sanitizer_set_death_callback(void (*call)(void));
#endif

static void died(int signal_number)
{
    tell();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void watch(void)
{
#ifdef FH1_SANITIZE /* the others are the sanitizers' own */
    __sanitizer_set_death_callback(tell);
    signal(SIGABRT, died);
#else
    const int deaths[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) signal(deaths[i], died);
#endif
}

static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1); /* of exactly this size: a read past it is seen by AddressSanitizer */
    if (!copy) abort();
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    inputs++;
}

static void run_file(const char *path)
{
    size_t size;
    uint8_t *data = fuzz_read(path, &size);
    snprintf(now, sizeof now, "while running %s\n", path);
    run(data, size);
    free(data);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int run_path(const char *path)
{
    struct stat st;
    if (stat(path, &st)) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 2;
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path);
        return 0;
    }
    struct dirent **list;
    int worst = 0;
    const int n = scandir(path, &list, visible, by_name);
    for (int i = 0; i < n; i++) {
        char child[4096];
        snprintf(child, sizeof child, "%s/%s", path, list[i]->d_name);
        const int code = run_path(child);
        if (code > worst) worst = code;
        free(list[i]);
    }
    if (n >= 0) free(list);
    return n < 0 ? 2 : worst;
}

/* Input number `seed`: a few mutations of nothing. A pure function of the seed. */
static void run_drawn(uint64_t seed, const char *program)
{
    uint8_t *data = calloc(1, MAX_SIZE);
    if (!data) abort();
    fuzz_rng r = {(seed + 1) * UINT64_C(0x9e3779b97f4a7c15)};
    size_t size = 0;
    snprintf(now, sizeof now, "while running %s --random 1 %" PRIu64 "\n", program, seed);
    fuzz_next(&r);
    fuzz_bytes_seed(fuzz_next(&r));
    for (uint64_t left = 1 + fuzz_below(&r, 32); left > 0; left--) {
        if (LLVMFuzzerCustomMutator) size = LLVMFuzzerCustomMutator(data, size, MAX_SIZE, (unsigned)fuzz_next(&r));
        else size = LLVMFuzzerMutate(data, size, MAX_SIZE);
    }
    run(data, size);
    free(data);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int usage(const char *program, FILE *out, int code)
{
    fprintf(out,
            "usage: %s [--random N [SEED]] [FILE|FOLDER]…\n\nRuns the target over N drawn inputs and over the files. "
            "A finding ends the program and says what ran.\n",
            program);
    return code;
}

int main(int argc, char **argv)
{
    /* The BLAS starts its threads when the program does, and each takes from the heap whenever it gets to run: what a
     * parse leaves there could not be told. Here nothing is large enough for two. */
    if (!getenv("OPENBLAS_NUM_THREADS") && setenv("OPENBLAS_NUM_THREADS", "1", 1) == 0) execv("/proc/self/exe", argv);
    const char *program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    const double start = seconds();
    int at = 1, worst = 0;
    uint64_t drawn = 0, seed = 1;
    if (argc > 1 && !strcmp(argv[1], "--help")) return usage(program, stdout, 0);
    if (argc > 2 && !strcmp(argv[1], "--random")) {
        char *end;
        drawn = strtoull(argv[2], &end, 10);
        if (*end) return usage(program, stderr, 2);
        at = 3;
        if (argc > 3 && argv[3][strspn(argv[3], "0123456789")] == 0) seed = strtoull(argv[at++], NULL, 10);
    }
    if (at < argc && argv[at][0] == '-') return usage(program, stderr, 2);
    watch();
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    snprintf(now, sizeof now, "while running no bytes\n");
    run((const uint8_t *)"", 0);
    for (uint64_t i = 0; i < drawn; i++) run_drawn(seed + i, program);
    for (; at < argc; at++) {
        const int code = run_path(argv[at]);
        if (code > worst) worst = code;
    }
    printf("%s: %" PRIu64 " inputs, %.2f s\n", program, inputs, seconds() - start);
    return worst;
}
