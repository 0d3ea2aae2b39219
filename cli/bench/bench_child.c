#include "cli/bench/bench_child.h"

#include "cli/bench/bench.h"
#include "convert/checkpoint.h"
#include "convert/file.h"
#include "convert/safetensors.h"
#include "oracle/random.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void copy_to_stderr(FILE *f)
{
    rewind(f);
    for (int ch; (ch = fgetc(f)) != EOF;) fputc(ch, stderr);
}

bench_child bench_run(const char *const *argv, const char *out)
{
    struct rusage use;
    int status;
    FILE *errors = tmpfile(); /* notes and warnings, told only when the command fails */
    fflush(stdout);
    const double t0 = bench_now();
    const pid_t pid = fork();
    if (pid < 0) bench_stop(fh1_fail(FH1_E_INTERNAL, "no process for %s: %s", argv[0], strerror(errno)));
    if (pid == 0) {
        int fd = open(out ? out : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (errors) dup2(fileno(errors), STDERR_FILENO);
        if (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0) execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    while (wait4(pid, &status, 0, &use) < 0)
        if (errno != EINTR) bench_stop(fh1_fail(FH1_E_INTERNAL, "waiting for %s: %s", argv[0], strerror(errno)));
    const bench_child c = {bench_now() - t0, (double)use.ru_maxrss / 1024};
    const bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (errors && !good) copy_to_stderr(errors);
    if (errors) fclose(errors);
    if (good) return c;
    char line[400] = "";
    for (int i = 0; argv[i]; i++) snprintf(line + strlen(line), sizeof line - strlen(line), " %s", argv[i]);
    bench_stop(
        fh1_fail(FH1_E_INTERNAL, "failed with status %d:%s", WIFEXITED(status) ? WEXITSTATUS(status) : -1, line));
}

bool bench_has(const char *program)
{
    char paths[4096], full[4096], *rest = NULL;
    snprintf(paths, sizeof paths, "%s", getenv("PATH") ? getenv("PATH") : "");
    for (char *p = strtok_r(paths, ":", &rest); p; p = strtok_r(NULL, ":", &rest))
        if (snprintf(full, sizeof full, "%s/%s", p, program) < (int)sizeof full && access(full, X_OK) == 0) return true;
    return false;
}

/* ---- an adapter ---- */

#define RANK 16

static const char *const modules[] = {"q_proj",    "k_proj",  "v_proj",    "o_proj",
                                      "gate_proj", "up_proj", "down_proj", "in_proj"};

static bool is_linear(const cvt_ckpt_tensor *t)
{
    char suffix[64];
    for (size_t i = 0; t->rank == 2 && i < sizeof modules / sizeof *modules; i++) {
        snprintf(suffix, sizeof suffix, ".%s.weight", modules[i]);
        if (cvt_has_suffix(t->name, suffix)) return true;
    }
    return false;
}

static void declare(cvt_st_writer *w, const cvt_ckpt_tensor *t, bool data)
{
    char name[512];
    const int64_t shape[2][2] = {{RANK, t->shape[1]}, {t->shape[0], RANK}};
    for (int half = 0; half < 2; half++) {
        snprintf(name, sizeof name, "base_model.model.%.*s.lora_%c.weight", (int)(strlen(t->name) - strlen(".weight")),
                 t->name, "AB"[half]);
        const int64_t n = shape[half][0] * shape[half][1];
        if (!data) {
            bench_must(cvt_st_writer_declare(w, name, FH1_F32, 2, shape[half]));
            continue;
        }
        const fh1_stream s = fh1_stream_open(1, name);
        float *v = malloc((size_t)n * sizeof *v);
        if (!v) bench_stop(fh1_no_memory((size_t)n * sizeof *v, "an adapter"));
        for (int64_t i = 0; i < n; i++) v[i] = (float)(0.02 * (2 * fh1_random_uniform(s, (uint64_t)i) - 1));
        bench_must(cvt_st_writer_put(w, name, 0, v, n));
        free(v);
    }
}

void bench_make_adapter(const char *model, const char *dir)
{
    static const char config[] =
        "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"base_model_name_or_path\": \"bench\", \"r\": 16,\n"
        " \"lora_alpha\": 32, \"bias\": \"none\", \"target_modules\": [\"q_proj\", \"k_proj\", \"v_proj\", "
        "\"o_proj\",\n"
        " \"gate_proj\", \"up_proj\", \"down_proj\", \"in_proj\"]}\n";
    char path[4096];
    cvt_ckpt *c;
    cvt_st_writer *w;
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        bench_stop(fh1_fail(FH1_E_INTERNAL, "%s cannot be made: %s", dir, strerror(errno)));
    bench_must(cvt_path_join(path, sizeof path, dir, "adapter_config.json"));
    bench_must(cvt_file_write(path, config, sizeof config - 1, true));
    bench_must(cvt_path_join(path, sizeof path, dir, "adapter_model.safetensors"));
    bench_must(cvt_ckpt_open(model, &c));
    bench_must(cvt_st_writer_new(path, true, &w));
    bench_must(cvt_st_writer_meta(w, "format", "pt"));
    for (int data = 0; data < 2; data++)
        for (int64_t i = 0; i < c->n_tensors; i++)
            if (is_linear(&c->tensors[i])) declare(w, &c->tensors[i], data);
    bench_must(cvt_st_writer_commit(w));
    cvt_st_writer_free(w);
    cvt_ckpt_close(c);
}
