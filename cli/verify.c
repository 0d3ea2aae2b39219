#include "cli/verify.h"
#include "convert/file.h"
#include "convert/gguf.h"
#include "convert/native.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_NOTES 200

void cli_verify_note(cli_verified *v, const char *fmt, ...)
{
    char line[1024], safe[2048];
    va_list list;
    if (v->n_notes++ >= MAX_NOTES) return;
    va_start(list, fmt);
    vsnprintf(line, sizeof line, fmt, list);
    va_end(list);
    cvt_text_add(&v->notes, "%s\n", fh1_printable(line, safe, sizeof safe));
}

void cli_verified_free(cli_verified *v)
{
    free(v->notes.s);
    memset(v, 0, sizeof *v);
}

fh1_status cli_damage(fh1_status s)
{
    if (!s || s->code != FH1_E_INPUT) return s;
    const fh1_error e = *s;
    s = fh1_fail(FH1_E_WRONG, "%s", e.what);
    if (e.where[0]) s = fh1_where(s, "%s", e.where);
    if (e.expected[0]) s = fh1_expected(s, "%s", e.expected);
    if (e.found[0]) s = fh1_found(s, "%s", e.found);
    return e.hint[0] ? fh1_hint(s, "%s", e.hint) : s;
}

bool cli_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static bool has(const char *dir, const char *name)
{
    char path[4096];
    return !cvt_path_join(path, sizeof path, dir, name) && cvt_path_exists(path);
}

static fh1_status verify_folder(const char *dir, const cvt_progress *progress, cli_verified *out)
{
    bool model = has(dir, "config.json") || has(dir, "model.safetensors") || has(dir, "model.safetensors.index.json");
    bool adapter = has(dir, "adapter_config.json") || has(dir, "adapter_model.safetensors");
    if (!model && !adapter)
        return fh1_hint(fh1_where(FH1_BAD("the folder holds neither a model nor an adapter"), "%s", dir),
                        "give a folder with config.json or adapter_config.json, or a file");
    if (model) FH1_TRY(cli_verify_model_folder(dir, progress, out));
    if (adapter) FH1_TRY(cli_verify_adapter_folder(dir, progress, out));
    if (model && adapter) out->kind = "model folder with an adapter";
    return NULL;
}

/* Facts of a file that was verified already. */
static fh1_status count(const char *path, cli_verified *out)
{
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(path, &c));
    out->tensors = c->n_tensors;
    out->files = 1;
    cvt_ckpt_close(c);
    return NULL;
}

typedef enum { NOTHING, NATIVE, GGUF, SAFETENSORS } file_kind;

/* By the first bytes, else by the name: a file whose magic is damaged is still what its name says. */
static file_kind kind_of(const char *path, const unsigned char *begin, size_t n, uint64_t size)
{
    if (cvt_native_is(begin, n)) return NATIVE;
    if (cvt_gguf_is(begin, n)) return GGUF;
    if (cvt_has_suffix(path, ".fh1")) return NATIVE;
    if (cvt_has_suffix(path, ".gguf")) return GGUF;
    if (cvt_has_suffix(path, ".safetensors")) return SAFETENSORS;
    uint64_t header = 0;
    for (size_t i = 8; i-- > 0 && n > 8;) header = header << 8 | begin[i];
    return n > 8 && begin[8] == '{' && header <= size - 8 ? SAFETENSORS : NOTHING;
}

/* What this program cannot read may be whole: the messages that say so have these words in common. */
static bool is_unsupported(fh1_status s)
{
    return s && s->code == FH1_E_INPUT && strstr(s->what, "not supported") != NULL;
}

static fh1_status verify_kind(file_kind kind, const char *path, const cvt_progress *progress, cli_verified *out)
{
    switch (kind) {
    case NATIVE:
        out->kind = "native file";
        FH1_TRY(cvt_native_verify(path, progress));
        return count(path, out);
    case GGUF:
        out->kind = "GGUF file";
        FH1_TRY(cvt_gguf_verify(path, progress));
        return count(path, out);
    case SAFETENSORS: return cli_verify_safetensors(path, progress, out);
    default: break;
    }
    return NULL;
}

static fh1_status verify_file(const char *path, const cvt_progress *progress, cli_verified *out)
{
    static const char lfs[] = "version https://git-lfs";
    unsigned char begin[64] = {0};
    struct stat before, after;
    size_t size, n;
    int fd;
    FH1_TRY(cvt_file_open(path, &fd, &size));
    fh1_status bad =
        fstat(fd, &before) == 0 ? NULL : fh1_where(cvt_cannot(errno, "the file cannot be examined"), "%s", path);
    if (!bad) bad = cvt_read_begin(fd, path, begin, sizeof begin, &n);
    close(fd);
    FH1_TRY(bad);
    file_kind kind = kind_of(path, begin, n, size);
    if (kind == NOTHING)
        return fh1_hint(fh1_where(FH1_BAD("this is no file that fh1 knows"), "%s, byte 0", path),
                        "give a model folder, an adapter folder, a .fh1, a .gguf or a .safetensors file");
    if (n >= sizeof lfs - 1 && memcmp(begin, lfs, sizeof lfs - 1) == 0)
        return fh1_hint(fh1_where(fh1_fail(FH1_E_WRONG, "this is a git-lfs pointer, not the file itself"), "%s", path),
                        "fetch the file with `git lfs pull`");
    fh1_status s = verify_kind(kind, path, progress, out);
    if (stat(path, &after) != 0 || !cli_same_file(&before, &after)) return cvt_changed(path);
    if (kind != SAFETENSORS) out->bytes = size;
    return is_unsupported(s) ? s : cli_damage(s);
}

fh1_status cli_verify(const char *path, const cvt_progress *progress, cli_verified *out)
{
    struct stat st;
    memset(out, 0, sizeof *out);
    if (stat(path, &st) != 0) return fh1_where(cvt_cannot(errno, "the path cannot be opened"), "%s", path);
    return S_ISDIR(st.st_mode) ? verify_folder(path, progress, out) : verify_file(path, progress, out);
}
