/* Memory that runs out at the n-th allocation of a command, for every n: an error of code 3, nothing leaked, no target
 * and no temporary left, and the same command works afterwards. Commands run in this process, over an allocator that
 * counts (fuzz/heap.h), in a child, so that a crash is one finding. Sanitizers bring allocators of their own: there
 * every command runs once. */
#include "cli/commands.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "fuzz/heap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 20, MOST_RUNS = 6000, MOST_CRASHES = 4 };

typedef struct {
    const char *name;
    fh1_status (*run)(int, char **, int *);
    const char *word[WORDS]; /* after the command; %T is a name in the empty folder, %I a file of ids */
} command;

#define MODEL "golden/models/mini-0.5b"
#define BASE "golden/merges/bases/plain-bf16"
static const command commands[] = {
    {"info", cmd_info, {MODEL}},
    {"taps", cmd_taps, {MODEL, "--json"}},
    {"verify a folder", cmd_verify, {BASE}},
    {"verify a trace", cmd_verify, {"golden/traces/mini-0.5b/t37.safetensors"}},
    {"convert to a native file", cmd_convert, {BASE, "%T", "--to", "fh1"}},
    {"convert to a folder", cmd_convert, {BASE, "%T", "--to", "hf"}},
    {"convert to GGUF", cmd_convert, {BASE, "%T", "--to", "gguf"}},
    {"merge", cmd_merge, {BASE, "golden/merges/adapters/in-bf16", "-o", "%T"}},
    {"decode bitsandbytes", cmd_convert, {"golden/bnb/mixed", "%T"}},
    {"convert from a native file", cmd_convert, {"golden/native/tiny.fh1", "%T", "--to", "hf"}},
    {"init", cmd_init, {"--config", MODEL "/config.json", "-o", "%T", "--seed", "1"}},
    {"trace",
     cmd_trace,
     {MODEL, "--engine", "ref-f32", "--seed", "1", "--tokens", "3", "--taps", "logits", "-o", "%T"}},
    {"gradients", cmd_trace, {MODEL, "--engine", "ref-f32", "--seed", "1", "--tokens", "3", "--backward", "-o", "%T"}},
    {"run", cmd_run, {MODEL, "--ids", "%I", "-n", "2"}},
    {"check", cmd_check, {MODEL, "--trace", "golden/traces/mini-0.5b/t1.safetensors", "--taps", "logits,cache.*"}},
    {"train an adapter",
     cmd_train,
     {MODEL, "--data", "%I", "--steps", "1", "--lr", "0.1", "--seq-len", "4", "--lora", "1,1,q_proj", "-o", "%T"}},
    {"repro of an op", cmd_repro, {"--op=ssd_scan --regime=trained --T=9 --H=2 --P=4 --N=4 --G=1 --engine=ref-f32"}},
    {"repro of a model",
     cmd_repro,
     {"--make=layers=1,D=8,F=8,V=16,Hq=2,Hkv=1,A=4,H=2,P=4,N=4,G=1,K=2,Q=4 --engine=ref-bf16 --schedule=p5x2l:2;d1"}},
    {"laws", cmd_laws, {"--engine", "ref-f64", "--law", "fork", "reset", "reorder"}},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

/* What the child tells the parent, in memory that both see. */
typedef struct {
    long n, total; /* the allocation that fails now, and how many there are */
    long runs, good, refused, findings;
    uint64_t contents; /* of the folder after a good run */
    bool done;
} progress;

static char folder[128];
static long only; /* this allocation alone, in this process: for a debugger */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind;
    return ftw->level > 0 ? remove(path) : 0;
}

static void empty_folder(void)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static int entries(void)
{
    DIR *d = opendir(folder);
    int n = -2; /* . and .. */
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

static uint64_t sum; /* of what stands in the folder: names, sizes, bytes */

static int add_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)ftw;
    const char *text = path + strlen(folder);
    size_t n = 0;
    char *data = NULL;
    if (kind == FTW_F && cvt_file_read(path, (size_t)st->st_size, &data, &n)) return 1;
    sum = sum * 31 + cvt_hash64(text, strlen(text)) + (data ? cvt_hash64(data, n) : 0);
    free(data);
    return 0;
}

static uint64_t contents(void)
{
    sum = 0;
    return nftw(folder, add_entry, 8, FTW_PHYS) == 0 ? sum : ~sum;
}

static fh1_status run_once(const command *c, long fail_at, long *allocations, int *code)
{
    static char target[160], ids[160];
    snprintf(ids, sizeof ids, "%s.ids", folder);
    char *argv[WORDS + 2] = {(char *)(uintptr_t) "fh1"};
    int argc = 1;
    snprintf(target, sizeof target, "%s/target", folder);
    argv[argc++] = (char *)(uintptr_t)c->name;
    for (int i = 0; i < WORDS - 1 && c->word[i]; i++)
        argv[argc++] = strcmp(c->word[i], "%T") == 0   ? target
                       : strcmp(c->word[i], "%I") == 0 ? ids
                                                       : (char *)(uintptr_t)c->word[i];
    fuzz_heap_fail_at(fail_at);
    fh1_status s = c->run(argc, argv, code);
    *allocations = fuzz_heap_count();
    fuzz_heap_fail_at(0);
    fflush(stdout);
    return s;
}

static void finding(progress *p, const command *c, const char *what, fh1_status s)
{
    char line[512];
    p->findings++;
    fprintf(stderr, "%s, allocation %ld of %ld: %s%s%s\n", c->name, p->n, p->total, what, s ? ": " : "",
            s ? fh1_status_line(s, line, sizeof line) : "");
}

/* One run in which allocation n fails. */
static void fail_once(progress *p, const command *c, long n)
{
    long allocations;
    int code = 0;
    p->n = n;
    const size_t before = fuzz_heap_live();
    fh1_status s = run_once(c, n, &allocations, &code);
    p->runs++;
    if (s && s->code != FH1_E_INTERNAL) finding(p, c, "is told as bad input", s);
    if (!s && code != 0) finding(p, c, "is told as a verdict", NULL);
    if (s) p->refused++;
    else p->good++; /* done without what was asked for: a buffer of stdio */
    /* The emulated device, which info asks, keeps its streams: it tells who uses one that is gone. */
    if (fuzz_heap_live() - before > (c->run == cmd_info ? 1000 : 0)) {
        fprintf(stderr, "%ld bytes ", (long)(fuzz_heap_live() - before));
        finding(p, c, "leaks", s);
    }
    if (s && entries() != 0) finding(p, c, "leaves something in the folder", s);
    if (!s && contents() != p->contents) finding(p, c, "makes another target", s);
    empty_folder();
}

static void child(progress *p, const command *c, long first)
{
    long allocations, last = 0;
    int code = 0;
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0 || dup2(null, STDOUT_FILENO) < 0) _exit(9);
    for (int i = 0; i < 3; i++) { /* what is made once in a process is made now */
        fh1_status s = run_once(c, 0, &allocations, &code);
        if (s) {
            finding(p, c, "does not work at all", s);
            _exit(9);
        }
        if (i < 2) empty_folder();
        last = allocations;
    }
    p->contents = contents();
    empty_folder();
    p->total = last;
    const long step = last / MOST_RUNS + 1;
    for (long n = first; n <= last && allocations > 0; n += only ? last : step) fail_once(p, c, n);
    fh1_status s = run_once(c, 0, &allocations, &code);
    if (s || code != 0 || contents() != p->contents) finding(p, c, "does not work afterwards", s);
    empty_folder();
    p->done = true;
    _exit(0);
}

/* NULL or what died. */
static bool run_command(const command *c, progress *p)
{
    long first = 1;
    *p = (progress){0};
    if (only) child(p, c, only);
    for (int crashes = 0; !p->done && crashes < MOST_CRASHES; crashes++) {
        fflush(NULL);
        const pid_t pid = fork();
        if (pid < 0) return false;
        if (pid == 0) child(p, c, first);
        int status = 0;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (WIFEXITED(status)) {
            if (WEXITSTATUS(status) != 0) p->findings++;
            break;
        }
        p->findings++;
        fprintf(stderr, "%s, allocation %ld of %ld: dies by signal %d\n", c->name, p->n, p->total, WTERMSIG(status));
        first = p->n + 1;
        empty_folder();
    }
    printf("%-26s %5ld allocations, %5ld runs: %ld refused, %ld did without, %ld findings\n", c->name, p->total,
           p->runs, p->refused, p->good, p->findings);
#ifdef FH1_SANITIZE
    return p->findings == 0 && p->done;
#else
    return p->findings == 0 && p->done && p->refused > 0;
#endif
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int bad = 0;
    char ids[160];
    only = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    setenv("FH1_THREADS", "1", 1);
    snprintf(folder, sizeof folder, "%.60s/fh1-memory-XXXXXX", tmp ? tmp : "/tmp");
    if (p == MAP_FAILED || !mkdtemp(folder)) return 3;
    snprintf(ids, sizeof ids, "%s.ids", folder);
    if (cvt_file_write(ids, "5 17 23 42 8 9\n", 15, true)) return 3;
    for (int i = 0; i < N_COMMANDS; i++) {
        if (argc > 1 && !strstr(commands[i].name, argv[1])) continue;
        bad += !run_command(&commands[i], p);
    }
    remove(ids);
    rmdir(folder);
    return bad > 0;
}
