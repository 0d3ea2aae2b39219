#include "cli/sink.h"

#include "cli/progress.h"
#include "convert/file.h"
#include "convert/hf_write.h"
#include "convert/native.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const format_names[] = {"hf", "fh1", "gguf"};

const char *cli_format_name(cli_format f)
{
    return format_names[f];
}

fh1_status cli_format_parse(const char *to, const char *out, cli_format *f)
{
    *f = cvt_has_suffix(out, ".fh1") ? CLI_TO_FH1 : cvt_has_suffix(out, ".gguf") ? CLI_TO_GGUF : CLI_TO_HF;
    if (!to) return NULL;
    for (int i = 0; i < 3; i++) {
        if (strcmp(to, format_names[i]) != 0) continue;
        *f = (cli_format)i;
        return NULL;
    }
    return fh1_found(fh1_expected(FH1_BAD("--to: unknown format"), "hf, fh1 or gguf"), "'%s'", to);
}

/* ---- source and target apart ---- */

/* The target's real path: of itself when it is there, else of the folder around it with its name. */
static fh1_status real_target(const char *out, char real[PATH_MAX])
{
    char dir[PATH_MAX], real_dir[PATH_MAX], *target;
    FH1_TRY(cvt_target_path(out, &target));
    size_t len = strlen(target);
    if (len < sizeof dir) memcpy(dir, target, len + 1);
    free(target);
    if (len == 0 || len >= sizeof dir)
        return fh1_where(FH1_BAD("the target's path is empty or too long"), "%.200s", out);
    if (realpath(dir, real)) return NULL;
    char *slash = strrchr(dir, '/');
    const char *name = slash ? slash + 1 : dir, *around = slash == dir ? "/" : slash ? dir : ".";
    if (slash) *slash = '\0';
    if (!realpath(around, real_dir))
        return fh1_hint(fh1_where(cvt_cannot(errno, "the folder of the target cannot be opened"), "%s", out),
                        "make the folder first");
    return cvt_path_join(real, PATH_MAX, real_dir, name);
}

/* Is `path` the folder `dir` or below it? Both real. */
static bool is_within(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    if (n == 1) return true; /* the root */
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static fh1_status not_apart(const char *source, const char *out, const char *what)
{
    return fh1_hint(fh1_where(FH1_BAD("%s", what), "%s and %s", source, out), "choose another target");
}

/* Links in a source folder that lead into the target: replacing that would take the source away. */
static fh1_status check_links(const char *source, const cvt_ckpt *c, const char *out, const char *real_out)
{
    char path[PATH_MAX], real[PATH_MAX];
    for (int64_t i = 0; i < c->n_files; i++) {
        FH1_TRY(cvt_path_join(path, sizeof path, source, c->files[i].name));
        if (realpath(path, real) && is_within(real, real_out))
            return not_apart(path, out, "a file of the source is a link into the target");
    }
    return NULL;
}

fh1_status cli_check_apart(const char *source, const cvt_ckpt *c, const char *out)
{
    char real_source[PATH_MAX], real_out[PATH_MAX];
    struct stat a, b;
    if (!realpath(source, real_source) || stat(source, &a) != 0)
        return fh1_where(cvt_cannot(errno, "the model cannot be opened"), "%s", source);
    FH1_TRY(real_target(out, real_out));
    bool there = stat(out, &b) == 0;
    if (strcmp(real_source, real_out) == 0 || (there && a.st_dev == b.st_dev && a.st_ino == b.st_ino))
        return not_apart(source, out, "the target is the source");
    if (S_ISDIR(a.st_mode) && is_within(real_out, real_source))
        return not_apart(source, out, "the target lies inside the source");
    if (there && is_within(real_source, real_out)) return not_apart(source, out, "the source lies inside the target");
    return there && c && S_ISDIR(a.st_mode) ? check_links(source, c, out, real_out) : NULL;
}

/* With --force a file is replaced only when it is a model, as a folder is (cvt_target_begin), or empty. */
static fh1_status check_replaced_file(const char *out)
{
    cvt_kind kind;
    struct stat st;
    if (stat(out, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) return NULL; /* the rest is for the target */
    FH1_TRY(cvt_ckpt_kind(out, &kind));
    if (kind != CVT_KIND_NONE) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the existing file is not a model and is not replaced"), "%s", out),
                    "choose another name, or remove the file");
}

fh1_status cli_write(cvt_ckpt *c, const char *out, const cli_sink *sink)
{
    if (sink->force && sink->to != CLI_TO_HF) FH1_TRY(check_replaced_file(out));
    if (!sink->force && cvt_path_exists(out))
        return fh1_hint(fh1_where(FH1_BAD("the target exists"), "%s", out), "choose another name, or use --force");
    cli_progress p;
    cli_progress_begin(&p, sink->what, sink->quiet);
    cvt_write_options o = {.force = sink->force, .progress = &p.steps};
    fh1_status s = sink->to == CLI_TO_HF    ? cvt_hf_write(c, out, &o)
                   : sink->to == CLI_TO_FH1 ? cvt_native_write(c, out, &o)
                                            : cvt_gguf_write(c, out, sink->gguf, &o);
    return cli_progress_end(&p, s);
}

uint64_t cli_model_bytes(const char *path, const cvt_ckpt *c)
{
    struct stat st;
    uint64_t n = 0;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) return (uint64_t)st.st_size;
    for (int64_t i = 0; i < c->n_files; i++) n += c->files[i].bytes;
    return n;
}

fh1_status cli_shard_size(const char *text, uint64_t *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    size_t digits = strspn(text, "0123456789.");
    char *end = NULL;
    double n = digits ? strtod(text, &end) : 0;
    for (size_t i = 0; end == text + digits && digits > 0 && i < sizeof units / sizeof *units; i++) {
        if (strcasecmp(end, units[i].name) != 0 || !(n * units[i].bytes >= 1 && n * units[i].bytes <= 1e18)) continue;
        *out = (uint64_t)(n * units[i].bytes);
        return NULL;
    }
    return fh1_found(
        fh1_expected(FH1_BAD("--shard-size: this is not a size"), "bytes, or a number with KB, MB, GB, TB"), "'%s'",
        text);
}

void cli_print_losses(const char *path, const char *losses)
{
    while (*losses) {
        const size_t n = strcspn(losses, "\n");
        char line[1024], safe[1024], name[1024];
        snprintf(line, sizeof line, "%.*s", (int)n, losses);
        if (n)
            fprintf(stderr, "note: %s: %s\n", fh1_printable(path, name, sizeof name),
                    fh1_printable(line, safe, sizeof safe));
        losses += n + (losses[n] == '\n');
    }
}

void cli_print_folding(const char *path, cvt_gguf_type asked)
{
    cvt_ckpt *c;
    char line[1024], why[1100];
    const fh1_status s = cvt_ckpt_open(path, &c);
    if (s) {
        snprintf(why, sizeof why, "complete, but what it loses was not read: %s",
                 fh1_status_line(s, line, sizeof line));
        cli_print_losses(path, why);
        return;
    }
    const char *losses = cvt_gguf_losses(c);
    if (asked == CVT_GGUF_Q8_0 && !strstr(losses, "Q8_0"))
        cli_print_losses(path, "no matrix is stored as Q8_0: rows that blocks of 32 do not divide stay F32");
    cli_print_losses(path, losses);
    cvt_ckpt_close(c);
}
