/* Whether a GGUF file is whole: its structure, its meaning, and in files of fh1 the checksums. */
#include "convert/gguf_import.h"

#include <stdlib.h>
#include <string.h>

#define PIECE ((uint64_t)4 << 20)

typedef struct {
    const cvt_gguf_file *f;
    const cvt_progress *progress;
    uint64_t done, total;
    unsigned char *buf;
} verifier;

static fh1_status damage(const cvt_gguf_file *f, uint64_t at, fh1_status s)
{
    return cvt_gguf_at(s, f, at);
}

/* The gaps that alignment leaves are zeros. */
static fh1_status check_gap(const cvt_gguf_file *f, uint64_t begin, uint64_t end)
{
    unsigned char buf[4096];
    for (uint64_t at = begin; at < end;) {
        const uint64_t n = end - at < sizeof buf ? end - at : sizeof buf;
        FH1_TRY(cvt_gguf_read(f, at, n, buf));
        for (uint64_t i = 0; i < n; i++)
            if (buf[i])
                return damage(
                    f, at + i,
                    fh1_found(fh1_expected(fh1_fail(FH1_E_WRONG, "a byte between two tensors is damaged"), "0"), "%d",
                              buf[i]));
        at += n;
    }
    return NULL;
}

static fh1_status hash_tensor(verifier *v, const cvt_gguf_info *t, XXH64_hash_t *out)
{
    XXH3_state_t *hash = XXH3_createState();
    fh1_status s = hash && XXH3_64bits_reset(hash) == XXH_OK ? NULL : fh1_no_memory(sizeof hash, "a checksum");
    for (uint64_t at = 0; at < t->bytes && !s; at += PIECE) {
        const uint64_t n = t->bytes - at < PIECE ? t->bytes - at : PIECE;
        s = cvt_gguf_read(v->f, t->begin + at, n, v->buf);
        if (!s) XXH3_64bits_update(hash, v->buf, n);
        v->done += n;
        if (!s && v->progress) s = v->progress->step(v->progress->user, v->done, v->total);
    }
    *out = s ? 0 : XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return s;
}

/* The checksums, NULL where there are none or where another program wrote the table of tensors anew. */
static const unsigned char *find_checksums(const cvt_gguf_file *f)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, CVT_GGUF_KEY_CHECKSUMS);
    if (!kv || kv->kind != CVT_GGUF_ARRAY || kv->item != CVT_GGUF_U64 || kv->n != (uint64_t)f->n_tensors + 1)
        return NULL;
    const unsigned char *sums = f->head + kv->value_at;
    return XXH3_64bits(f->head + f->infos_at, f->infos_end - f->infos_at) == cvt_gguf_u64(sums) ? sums : NULL;
}

static fh1_status check_data(verifier *v)
{
    const cvt_gguf_file *f = v->f;
    const unsigned char *sums = find_checksums(f);
    uint64_t end = f->infos_end;
    for (int64_t i = 0; i < f->n_tensors; i++) {
        const cvt_gguf_info *t = &f->tensors[f->in_order[i]];
        XXH64_hash_t hash;
        FH1_TRY(check_gap(f, end, t->begin));
        end = t->begin + t->bytes;
        if (!sums) continue;
        FH1_TRY(hash_tensor(v, t, &hash));
        if (hash != cvt_gguf_u64(sums + 8 * (i + 1)))
            return damage(
                f, t->begin,
                fh1_found(fh1_expected(fh1_where(fh1_fail(FH1_E_WRONG, "the data of the tensor is damaged"),
                                                 "tensor \"%s\"", t->name),
                                       "checksum %016llx", (unsigned long long)cvt_gguf_u64(sums + 8 * (i + 1))),
                          "%016llx", (unsigned long long)hash));
    }
    return check_gap(f, end, f->file_bytes);
}

static fh1_status verify_file(const cvt_gguf_file *f, const cvt_progress *progress)
{
    verifier v = {.f = f, .progress = progress, .total = f->file_bytes, .buf = malloc(PIECE)};
    if (!v.buf) return fh1_no_memory(PIECE, "a checksum");
    fh1_status s = check_data(&v);
    free(v.buf);
    return s ? s : cvt_gguf_file_unchanged(f);
}

fh1_status cvt_gguf_verify(const char *path, const cvt_progress *progress)
{
    cvt_gguf_file *f;
    cvt_ckpt *c;
    FH1_TRY(cvt_gguf_file_open(path, &f));
    fh1_status s = verify_file(f, progress);
    cvt_gguf_file_close(f);
    if (s) return s;
    FH1_TRY(cvt_gguf_open(path, &c)); /* names, shapes, keys, private keys */
    cvt_ckpt_close(c);
    return NULL;
}
