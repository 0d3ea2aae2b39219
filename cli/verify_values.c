#include "cli/verify.h"
#include "convert/file.h"
#include "convert/safetensors.h"
#include "convert/work.h"
#include "oracle/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bytes that are read at a time, multiples of every element's size: of one thread, and of all together. */
#define PIECE ((uint64_t)4 << 20)
#define PIECES ((uint64_t)128 << 20)

/* A float is NaN or infinite when all bits of its exponent are set. */
#define DEFINE_SCAN(name, word, exponent)                                                 \
    static cli_odd_values name(const void *data, int64_t n)                               \
    {                                                                                     \
        const word *x = data;                                                             \
        const word mask = (exponent), fraction = (word)((mask & (word)(~mask + 1u)) - 1); \
        cli_odd_values odd = {0, 0, n};                                                   \
        int64_t any = 0;                                                                  \
        for (int64_t i = 0; i < n; i++) any += (x[i] & mask) == mask;                     \
        for (int64_t i = 0; any && i < n; i++) {                                          \
            if ((x[i] & mask) != mask) continue;                                          \
            if (odd.first == n) odd.first = i;                                            \
            if (x[i] & fraction) odd.nan++;                                               \
            else odd.inf++;                                                               \
        }                                                                                 \
        return odd;                                                                       \
    }
DEFINE_SCAN(scan_bf16, uint16_t, 0x7f80u)
DEFINE_SCAN(scan_f16, uint16_t, 0x7c00u)
DEFINE_SCAN(scan_f32, uint32_t, 0x7f800000u)
DEFINE_SCAN(scan_f64, uint64_t, 0x7ff0000000000000u)

cli_odd_values cli_find_odd(const void *data, fh1_dtype dtype, int64_t n)
{
    switch (dtype) {
    case FH1_BF16: return scan_bf16(data, n);
    case FH1_F16: return scan_f16(data, n);
    case FH1_F32: return scan_f32(data, n);
    case FH1_F64: return scan_f64(data, n);
    default: return (cli_odd_values){0, 0, n};
    }
}

/* A stretch of one tensor, or of one side file where tensor is -1. */
typedef struct {
    int64_t tensor, file;
    uint64_t first, n;
} piece;

typedef struct {
    cvt_ckpt *c;
    piece *pieces;
    int64_t n_pieces, room;
    uint64_t piece_bytes;
    char *buffers;       /* [threads][piece_bytes] */
    cli_odd_values *odd; /* [tensors]; first: of the tensor, -1: codes, not to be looked at; guarded by lock */
    pthread_mutex_t lock;
    cvt_work work;
} reading;

static fh1_status add_pieces(reading *r, int64_t tensor, int64_t file, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += r->piece_bytes) {
        if (r->n_pieces == r->room) {
            int64_t room = r->room ? 2 * r->room : 256;
            piece *grown = realloc(r->pieces, (size_t)room * sizeof *grown);
            if (!grown) return fh1_no_memory((size_t)room * sizeof *grown, "a list of pieces");
            r->pieces = grown;
            r->room = room;
        }
        r->pieces[r->n_pieces++] = (piece){tensor, file, at, bytes - at < r->piece_bytes ? bytes - at : r->piece_bytes};
    }
    return NULL;
}

static fh1_status list_pieces(reading *r)
{
    for (int64_t i = 0; i < r->c->n_tensors; i++)
        FH1_TRY(add_pieces(r, i, -1, cvt_ckpt_tensor_bytes(&r->c->tensors[i])));
    for (int64_t i = 0; i < r->c->n_files; i++)
        if (!r->c->files[i].weights) FH1_TRY(add_pieces(r, -1, i, r->c->files[i].bytes));
    return NULL;
}

/* Quantised weights may be packed in a float type (bnb_4bit_quant_storage); as floats they mean nothing. */
static bool holds_codes(const cvt_ckpt *c, const char *tensor)
{
    char scales[1024];
    int n = snprintf(scales, sizeof scales, "%s.absmax", tensor);
    return n > 0 && (size_t)n < sizeof scales && cvt_ckpt_find(c, scales) >= 0;
}

static void look(reading *r, const piece *p, const void *data)
{
    fh1_dtype dtype = r->c->tensors[p->tensor].dtype;
    if (!fh1_dtype_is_float(dtype) || r->odd[p->tensor].first < 0) return;
    int64_t width = fh1_dtype_bits(dtype) / 8, n = (int64_t)p->n / width;
    cli_odd_values found = cli_find_odd(data, dtype, n);
    if (found.first == n) return;
    int64_t first = (int64_t)p->first / width + found.first;
    pthread_mutex_lock(&r->lock);
    cli_odd_values *o = &r->odd[p->tensor];
    if (o->nan + o->inf == 0 || first < o->first) o->first = first;
    o->nan += found.nan;
    o->inf += found.inf;
    pthread_mutex_unlock(&r->lock);
}

static void read_pieces(void *ctx, int64_t begin, int64_t end, int thread)
{
    reading *r = ctx;
    char *buffer = r->buffers + (uint64_t)thread * r->piece_bytes;
    for (int64_t i = begin; i < end && cvt_work_goes_on(&r->work); i++) {
        const piece *p = &r->pieces[i];
        fh1_status s = p->tensor >= 0 ? cvt_ckpt_read(r->c, p->tensor, p->first, p->n, buffer)
                                      : cvt_ckpt_read_file(r->c, p->file, p->first, p->n, buffer);
        if (!s && p->tensor >= 0) look(r, p, buffer);
        cvt_work_did(&r->work, p->n, s);
    }
}

static void note_odd(cli_verified *out, const char *tensor, const cli_odd_values *o, fh1_dtype dtype)
{
    if (o->nan + o->inf == 0) return;
    cli_verify_note(out, "%s (%s) holds %lld NaN and %lld infinite values, the first at element %lld", tensor,
                    fh1_dtype_name(dtype), (long long)o->nan, (long long)o->inf, (long long)o->first);
}

fh1_status cli_verify_contents(cvt_ckpt *c, const cvt_progress *progress, cli_verified *out)
{
    reading r = {.c = c};
    uint64_t share = PIECES / (uint64_t)fh1_threads() & ~(uint64_t)4095;
    r.piece_bytes = share < PIECE ? share : PIECE;
    size_t n_buffers = (size_t)fh1_threads() * r.piece_bytes;
    r.buffers = malloc(n_buffers);
    r.odd = calloc((size_t)c->n_tensors + 1, sizeof *r.odd);
    fh1_status s = r.buffers && r.odd ? NULL : fh1_no_memory(n_buffers, "reading");
    for (int64_t i = 0; !s && i < c->n_tensors; i++) r.odd[i].first = holds_codes(c, c->tensors[i].name) ? -1 : 0;
    if (!s) s = list_pieces(&r);
    if (!s) {
        pthread_mutex_init(&r.lock, NULL);
        cvt_work_begin(&r.work, progress, cvt_ckpt_total_bytes(c));
        fh1_parallel_for(r.n_pieces, 1, read_pieces, &r);
        out->bytes += r.work.done;
        s = cvt_work_end(&r.work);
        pthread_mutex_destroy(&r.lock);
    }
    for (int64_t i = 0; !s && i < c->n_tensors; i++) note_odd(out, c->tensors[i].name, &r.odd[i], c->tensors[i].dtype);
    free(r.odd);
    free(r.buffers);
    free(r.pieces);
    return s;
}

static fh1_status scan_entry(int fd, const cvt_st *f, const cvt_st_entry *e, char *buffer, cli_odd_values *odd,
                             const cvt_progress *progress, uint64_t *done, uint64_t total)
{
    int64_t width = fh1_dtype_bits(e->t.dtype) / 8;
    for (uint64_t at = e->begin; at < e->end; at += PIECE) {
        uint64_t n = e->end - at < PIECE ? e->end - at : PIECE;
        FH1_TRY(cvt_read_at(fd, cvt_st_path(f), buffer, n, at));
        if (fh1_dtype_is_float(e->t.dtype)) {
            cli_odd_values found = cli_find_odd(buffer, e->t.dtype, (int64_t)n / width);
            if (odd->nan + odd->inf == 0) odd->first = (int64_t)(at - e->begin) / width + found.first;
            odd->nan += found.nan;
            odd->inf += found.inf;
        }
        *done += n;
        if (progress) FH1_TRY(progress->step(progress->user, *done, total));
    }
    return NULL;
}

fh1_status cli_verify_values(const cvt_st *f, const cvt_progress *progress, cli_verified *out)
{
    int fd;
    size_t size;
    uint64_t done = 0;
    FH1_TRY(cvt_file_open(cvt_st_path(f), &fd, &size));
    char *buffer = malloc(PIECE);
    fh1_status s = buffer ? NULL : fh1_no_memory(PIECE, "reading");
    for (int64_t i = 0; !s && i < cvt_st_count(f); i++) {
        const cvt_st_entry *e = cvt_st_at(f, i);
        cli_odd_values odd = {0};
        s = scan_entry(fd, f, e, buffer, &odd, progress, &done, size);
        if (!s) note_odd(out, e->name, &odd, e->t.dtype);
    }
    out->bytes += done;
    free(buffer);
    close(fd);
    return s;
}
