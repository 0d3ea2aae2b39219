/* An open GGUF file: its life, its bytes, its values. */
#include "convert/gguf_file.h"
#include "convert/file.h"

#include "convert/find_name.h"
#include "oracle/round.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

fh1_status cvt_gguf_at(fh1_status s, const cvt_gguf_file *f, uint64_t at)
{
    return fh1_where(s, "%s, byte %llu", f->path, (unsigned long long)at);
}

uint64_t cvt_gguf_u64(const unsigned char *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

uint32_t cvt_gguf_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

fh1_status cvt_gguf_read(const cvt_gguf_file *f, uint64_t at, uint64_t n, void *dst)
{
    char *p = dst;
    while (n > 0) {
        ssize_t k = pread(f->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return cvt_gguf_at(cvt_cannot(errno, "reading failed"), f, at);
        if (k == 0) return cvt_gguf_at(FH1_BAD("the file has become shorter while it was read"), f, at);
        p += k;
        at += (uint64_t)k;
        n -= (uint64_t)k;
    }
    return NULL;
}

static fh1_status open_file(cvt_gguf_file *f)
{
    struct stat st;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0) return fh1_where(cvt_cannot(errno, "the file cannot be opened"), "%s", f->path);
    if (fstat(f->fd, &st) != 0) return fh1_where(cvt_cannot(errno, "the file cannot be examined"), "%s", f->path);
    if (!S_ISREG(st.st_mode)) return fh1_where(FH1_BAD("this is not a regular file"), "%s", f->path);
    f->device = (uint64_t)st.st_dev;
    f->inode = (uint64_t)st.st_ino;
    f->file_bytes = (uint64_t)st.st_size;
    f->changed[0] = st.st_mtim.tv_sec;
    f->changed[1] = st.st_mtim.tv_nsec;
    f->changed[2] = st.st_ctim.tv_sec;
    f->changed[3] = st.st_ctim.tv_nsec;
    return NULL;
}

fh1_status cvt_gguf_file_open(const char *path, cvt_gguf_file **out)
{
    *out = NULL;
    cvt_gguf_file *f = calloc(1, sizeof *f);
    if (!f) return fh1_no_memory(sizeof *f, "a GGUF file");
    f->fd = -1;
    f->path = strdup(path);
    fh1_status s = f->path ? open_file(f) : fh1_no_memory(strlen(path), "a path");
    if (!s) s = cvt_gguf_parse(f);
    if (s) cvt_gguf_file_close(f);
    else *out = f;
    return s;
}

void cvt_gguf_file_close(cvt_gguf_file *f)
{
    if (!f) return;
    for (int64_t i = 0; i < f->n_kv; i++) free(f->kv[i].key);
    for (int64_t i = 0; i < f->n_tensors; i++) free(f->tensors[i].name);
    free(f->kv);
    free(f->tensors);
    free(f->in_order);
    free(f->head);
    free(f->path);
    if (f->fd >= 0) close(f->fd);
    free(f);
}

fh1_status cvt_gguf_file_unchanged(const cvt_gguf_file *f)
{
    struct stat st;
    bool same = stat(f->path, &st) == 0 && (uint64_t)st.st_dev == f->device && (uint64_t)st.st_ino == f->inode &&
                (uint64_t)st.st_size == f->file_bytes && st.st_mtim.tv_sec == f->changed[0] &&
                st.st_mtim.tv_nsec == f->changed[1] && st.st_ctim.tv_sec == f->changed[2] &&
                st.st_ctim.tv_nsec == f->changed[3];
    if (same) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the file was changed while it was read"), "%s", f->path), "run again");
}

const cvt_gguf_kv *cvt_gguf_find_kv(const cvt_gguf_file *f, const char *key)
{
    const int64_t i = cvt_find_name(f->kv, f->n_kv, sizeof *f->kv, key);
    return i < 0 ? NULL : &f->kv[i];
}

int64_t cvt_gguf_find_tensor(const cvt_gguf_file *f, const char *name)
{
    return cvt_find_name(f->tensors, f->n_tensors, sizeof *f->tensors, name);
}

static fh1_status wrong_kind(const cvt_gguf_file *f, const cvt_gguf_kv *kv, const char *expected)
{
    return cvt_gguf_at(
        fh1_found(fh1_expected(fh1_where(FH1_BAD("the value is of the wrong type"), "key \"%.120s\"", kv->key), "%s",
                               expected),
                  "%s", cvt_gguf_kind_name(kv->kind)),
        f, kv->at);
}

fh1_status cvt_gguf_get_uint(const cvt_gguf_file *f, const char *key, uint64_t *out)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, key);
    if (!kv) return NULL;
    const unsigned char *p = f->head + kv->value_at;
    uint64_t v = 0;
    for (uint64_t i = kv->bytes; i-- > 0 && kv->bytes <= 8;) v = v << 8 | p[i];
    switch (kv->kind) {
    case CVT_GGUF_U8:
    case CVT_GGUF_U16:
    case CVT_GGUF_U32:
    case CVT_GGUF_U64: break;
    case CVT_GGUF_I8:
    case CVT_GGUF_I16:
    case CVT_GGUF_I32:
    case CVT_GGUF_I64:
        if (p[kv->bytes - 1] < 0x80) break;
        return cvt_gguf_at(fh1_where(FH1_BAD("the value is negative"), "key \"%.120s\"", key), f, kv->value_at);
    default: return wrong_kind(f, kv, "a whole number");
    }
    *out = v;
    return NULL;
}

fh1_status cvt_gguf_get_real(const cvt_gguf_file *f, const char *key, float *out)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, key);
    if (!kv) return NULL;
    if (kv->kind != CVT_GGUF_FLOAT) return wrong_kind(f, kv, "float32");
    *out = fh1_bits_f32(cvt_gguf_u32(f->head + kv->value_at));
    return NULL;
}

fh1_status cvt_gguf_get_text(const cvt_gguf_file *f, const char *key, const char **out, uint64_t *n)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, key);
    if (!kv) return NULL;
    if (kv->kind != CVT_GGUF_STRING) return wrong_kind(f, kv, "string");
    *out = (const char *)f->head + kv->value_at;
    *n = kv->n;
    return NULL;
}

const char *cvt_gguf_next_string(const cvt_gguf_file *f, uint64_t *at, uint64_t *n)
{
    *n = cvt_gguf_u64(f->head + *at);
    const char *s = (const char *)f->head + *at + 8;
    *at += 8 + *n;
    return s;
}
