#include "convert/file.h"
#include "convert/native_impl.h"
#include "convert/safetensors.h"
#include "convert/work.h"
#include "oracle/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_LANES 32                      /* readers at once; 3 MiB each */
#define HEADERS_MAX ((uint64_t)128 << 20) /* of all safetensors headers together, which stay in memory */

/* What one reader at a time works with. The last chunk that was read in parts stays decoded, so that rows that are read
 * one after the other cost one decode per chunk. */
typedef struct {
    native_lane *codec;
    unsigned char *stored;  /* NATIVE_SPAN_MAX */
    unsigned char *decoded; /* NATIVE_CHUNK; made when it is needed */
    int64_t chunk;          /* in `decoded`; -1: none */
    uint64_t used;          /* when, for the choice of the oldest */
    bool busy;
} reader;

typedef struct {
    int fd;
    struct stat opened;
    native_header header;
    native_index index;
    pthread_mutex_t lock;
    pthread_cond_t free_reader;
    reader readers[MAX_LANES];
    int n_readers;
    uint64_t clock;
} native_state;

/* ---- readers ---- */

static void reader_free(reader *r)
{
    native_lane_free(r->codec);
    free(r->stored);
    free(r->decoded);
}

static fh1_status reader_new(reader *r, uint64_t largest_span)
{
    *r = (reader){.chunk = -1, .busy = true};
    r->stored = aligned_alloc(NATIVE_ALIGN, (size_t)largest_span);
    fh1_status s = r->stored ? native_lane_new(&r->codec) : fh1_no_memory(NATIVE_CHUNK, "a chunk");
    if (s) reader_free(r);
    return s;
}

/* A free reader: the one that holds the chunk; else a new one up to two per thread, so that threads that read row by
 * row do not take each other's chunks; else the one that was used longest ago. */
static fh1_status take_reader(native_state *n, int64_t chunk, reader **out)
{
    fh1_status s = NULL;
    reader *best = NULL;
    const int enough = 2 * fh1_threads() < MAX_LANES ? 2 * fh1_threads() : MAX_LANES;
    pthread_mutex_lock(&n->lock);
    for (;;) {
        for (int i = 0; i < n->n_readers; i++) {
            reader *r = &n->readers[i];
            if (r->busy) continue;
            if (r->chunk == chunk) {
                best = r;
                break;
            }
            if (!best || r->used < best->used) best = r;
        }
        if (best || n->n_readers < MAX_LANES) break;
        pthread_cond_wait(&n->free_reader, &n->lock);
    }
    if (!best || (best->chunk != chunk && n->n_readers < enough)) {
        best = NULL;
        s = reader_new(&n->readers[n->n_readers], n->index.largest_span);
        if (!s) best = &n->readers[n->n_readers++];
    }
    if (best) {
        best->busy = true;
        best->used = ++n->clock;
    }
    pthread_mutex_unlock(&n->lock);
    *out = best;
    return s;
}

static void give_reader(native_state *n, reader *r)
{
    pthread_mutex_lock(&n->lock);
    r->busy = false;
    pthread_cond_signal(&n->free_reader);
    pthread_mutex_unlock(&n->lock);
}

/* ---- chunks ---- */

static fh1_status decode(const cvt_ckpt *c, reader *r, int64_t chunk, void *dst)
{
    const native_state *n = c->state;
    const native_chunk *k = &n->index.chunks[chunk];
    FH1_TRY(cvt_read_at(n->fd, c->path, r->stored, (size_t)native_span(k), k->offset));
    return fh1_where(fh1_hint(native_decode(r->codec, k, r->stored, dst), "%s", native_repair),
                     "%s, chunk %lld (bytes %llu to %llu)", c->path, (long long)chunk, (unsigned long long)k->offset,
                     (unsigned long long)(k->offset + native_span(k) - 1));
}

/* A whole chunk goes straight to its place, a part by way of the reader's own copy. */
static fh1_status read_piece(cvt_ckpt *c, int64_t chunk, size_t skip, size_t n_bytes, void *dst)
{
    native_state *n = c->state;
    reader *r;
    FH1_TRY(take_reader(n, chunk, &r));
    fh1_status s = NULL;
    if (r->chunk == chunk) {
        memcpy(dst, r->decoded + skip, n_bytes);
    } else if (n_bytes == n->index.chunks[chunk].bytes) {
        s = decode(c, r, chunk, dst);
    } else {
        r->chunk = -1;
        if (!r->decoded) r->decoded = aligned_alloc(NATIVE_ALIGN, NATIVE_CHUNK);
        s = !r->decoded ? fh1_no_memory(NATIVE_CHUNK, "a chunk") : decode(c, r, chunk, r->decoded);
        if (!s) {
            r->chunk = chunk;
            memcpy(dst, r->decoded + skip, n_bytes);
        }
    }
    give_reader(n, r);
    return s;
}

static fh1_status read_stream(cvt_ckpt *c, int64_t stream, uint64_t first, uint64_t n_bytes, unsigned char *dst)
{
    const native_state *n = c->state;
    const native_stream *s = &n->index.streams[stream];
    while (n_bytes > 0) {
        const int64_t chunk = s->first + (int64_t)(first / NATIVE_CHUNK);
        const size_t skip = (size_t)(first % NATIVE_CHUNK), left = native_chunk_bytes(s, chunk) - skip;
        const size_t now = n_bytes < left ? (size_t)n_bytes : left;
        FH1_TRY(read_piece(c, chunk, skip, now, dst));
        dst += now;
        first += now;
        n_bytes -= now;
    }
    return NULL;
}

/* ---- the operations of a checkpoint ---- */

static fh1_status read_bytes(cvt_ckpt *c, int64_t t, uint64_t first, uint64_t n_bytes, void *dst)
{
    const cvt_ckpt_tensor *e = &c->tensors[t];
    return fh1_where(read_stream(c, e->source, first, n_bytes, dst), "tensor \"%.120s\"", e->name);
}

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n_rows, void *dst)
{
    const uint64_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
    return read_bytes(c, t, (uint64_t)first * width, (uint64_t)n_rows * width, dst);
}

static fh1_status read_file(cvt_ckpt *c, int64_t file, uint64_t first, uint64_t n_bytes, void *dst)
{
    const cvt_ckpt_file *f = &c->files[file];
    return fh1_where(read_stream(c, f->source, first, n_bytes, dst), "file \"%.120s\"", f->name);
}

static fh1_status unchanged(cvt_ckpt *c)
{
    const native_state *n = c->state;
    const struct stat *was = &n->opened;
    struct stat st;
    if (stat(c->path, &st) != 0)
        return fh1_where(cvt_cannot(errno, "the file went away while it was read"), "%s", c->path);
    if (st.st_ino == was->st_ino && st.st_dev == was->st_dev && st.st_size == was->st_size &&
        st.st_mtim.tv_sec == was->st_mtim.tv_sec && st.st_mtim.tv_nsec == was->st_mtim.tv_nsec)
        return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the file was changed or replaced while it was read"), "%s", c->path),
                    "try again when nothing writes to it");
}

static void free_state(cvt_ckpt *c)
{
    native_state *n = c->state;
    for (int i = 0; i < n->n_readers; i++) reader_free(&n->readers[i]);
    pthread_mutex_destroy(&n->lock);
    pthread_cond_destroy(&n->free_reader);
    native_index_free(&n->index);
    if (n->fd >= 0) close(n->fd);
    free(n);
}

static const cvt_ckpt_ops native_ops = {read_rows, read_bytes, read_file, unchanged, free_state};

/* ---- opening ---- */

static fh1_status read_index(cvt_ckpt *c, native_state *n, bool *is_native)
{
    unsigned char begin[NATIVE_HEADER];
    native_header *h = &n->header;
    const uint64_t size = (uint64_t)n->opened.st_size;
    if (size < NATIVE_HEADER)
        return fh1_found(fh1_expected(FH1_BAD("the file is too short for a native file"), "at least 64 bytes"), "%llu",
                         (unsigned long long)size);
    FH1_TRY(cvt_read_at(n->fd, c->path, begin, sizeof begin, 0));
    FH1_TRY(native_header_read(begin, size, h, is_native));
    if (h->index_stored > NATIVE_INDEX_MAX + (NATIVE_INDEX_MAX >> 6))
        return fh1_where(FH1_BAD("the index is too large"), "byte 32");
    unsigned char *stored = malloc((size_t)h->index_stored + 1), *text = malloc((size_t)h->index_bytes + 1);
    native_lane *lane = NULL;
    fh1_status s = stored && text ? native_lane_new(&lane) : fh1_no_memory((size_t)h->index_bytes, "the index");
    if (!s) s = cvt_read_at(n->fd, c->path, stored, (size_t)h->index_stored, h->index_offset);
    if (!s && cvt_hash64(stored, (size_t)h->index_stored) != h->index_checksum)
        s = fh1_hint(fh1_where(FH1_BAD("the index is damaged: its checksum does not fit"), "bytes %llu to %llu",
                               (unsigned long long)h->index_offset, (unsigned long long)(size - 1)),
                     "%s", native_repair);
    if (!s) {
        s = native_unzstd(lane, stored, (size_t)h->index_stored, text, (size_t)h->index_bytes);
        s = fh1_where(s, "index, byte %llu", (unsigned long long)h->index_offset);
    }
    if (!s) s = native_index_read(text, (size_t)h->index_bytes, h, c, &n->index);
    native_lane_free(lane);
    free(stored);
    free(text);
    return s;
}

/* The embedded header must say what the index says. */
static fh1_status compare_header(const cvt_ckpt *c, int64_t file, const cvt_st *st)
{
    int64_t n = 0;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &c->tensors[i];
        if (t->file != file) continue;
        const cvt_st_entry *e = cvt_st_find(st, t->name);
        bool same = e && e->t.dtype == t->dtype && e->t.rank == t->rank && e->begin == t->begin;
        for (int k = 0; same && k < t->rank; k++) same = e->t.shape[k] == t->shape[k];
        if (!same) return fh1_where(FH1_BAD("index and embedded header disagree"), "tensor \"%.120s\"", t->name);
        n++;
    }
    if (n == cvt_st_count(st)) return NULL;
    return FH1_BAD("the embedded header has %lld tensors, the index %lld", (long long)cvt_st_count(st), (long long)n);
}

static fh1_status read_header(cvt_ckpt *c, int64_t file)
{
    cvt_ckpt_file *f = &c->files[file];
    cvt_st *st = NULL;
    f->header = malloc((size_t)f->header_bytes);
    if (!f->header) return fh1_no_memory((size_t)f->header_bytes, "a safetensors header");
    FH1_TRY(read_stream(c, f->source, 0, f->header_bytes, (unsigned char *)f->header));
    FH1_TRY(cvt_st_parse_header(f->header, (size_t)f->header_bytes, f->bytes, f->name, &st));
    fh1_status s = compare_header(c, file, st);
    for (const cJSON *m = cvt_st_metadata_all(st); m && !s; m = m->next)
        s = cvt_ckpt_push_meta(f, m->string, m->valuestring);
    cvt_st_close(st);
    return s;
}

static fh1_status read_headers(cvt_ckpt *c)
{
    uint64_t total = 0;
    for (int64_t i = 0; i < c->n_files; i++) total += c->files[i].header_bytes;
    if (total > HEADERS_MAX)
        return FH1_BAD("the safetensors headers are too large: %llu bytes", (unsigned long long)total);
    for (int64_t i = 0; i < c->n_files; i++)
        if (c->files[i].weights) FH1_TRY(fh1_where(read_header(c, i), "file \"%.120s\"", c->files[i].name));
    return NULL;
}

fh1_status native_open(const char *path, bool *is_native, cvt_ckpt **out)
{
    cvt_ckpt *c = NULL;
    native_state *n = calloc(1, sizeof *n);
    size_t size;
    *out = NULL;
    *is_native = false;
    if (!n) return fh1_no_memory(sizeof *n, "a native file");
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->free_reader, NULL);
    n->fd = -1;
    fh1_status s = cvt_ckpt_new(path, &native_ops, n, &c);
    if (s) {
        free_state(&(cvt_ckpt){.state = n});
        return s;
    }
    s = cvt_file_open(path, &n->fd, &size);
    if (s) n->fd = -1;
    else if (fstat(n->fd, &n->opened) != 0) s = cvt_cannot(errno, "the file cannot be examined");
    if (!s) {
        s = read_index(c, n, is_native);
        if (!s) s = read_headers(c);
        s = fh1_where(s, "%s", path);
    }
    if (s) cvt_ckpt_close(c);
    else *out = c;
    return s;
}

fh1_status cvt_native_open(const char *path, cvt_ckpt **out)
{
    bool is_native;
    return native_open(path, &is_native, out);
}

const native_index *native_index_of(const cvt_ckpt *c, const native_header **h)
{
    const native_state *n = c->ops == &native_ops ? c->state : NULL;
    *h = n ? &n->header : NULL;
    return n ? &n->index : NULL;
}

/* ---- whole tensors ---- */

typedef struct {
    cvt_ckpt *c;
    int64_t t;
    uint64_t bytes;
    char *dst;
    cvt_work work;
} whole_tensor;

static void read_one_chunk(void *ctx, int64_t begin, int64_t end, int thread)
{
    whole_tensor *w = ctx;
    (void)thread;
    for (int64_t i = begin; i < end && cvt_work_goes_on(&w->work); i++) {
        const uint64_t at = (uint64_t)i * NATIVE_CHUNK, left = w->bytes - at;
        const uint64_t n = left < NATIVE_CHUNK ? left : NATIVE_CHUNK;
        cvt_work_did(&w->work, n, cvt_ckpt_read(w->c, w->t, at, n, w->dst + at));
    }
}

fh1_status cvt_native_read_tensor(cvt_ckpt *c, int64_t t, void *dst)
{
    if (t < 0 || t >= c->n_tensors) return fh1_fail(FH1_E_INTERNAL, "there is no tensor %lld", (long long)t);
    whole_tensor w = {.c = c, .t = t, .bytes = cvt_ckpt_tensor_bytes(&c->tensors[t]), .dst = dst};
    cvt_work_begin(&w.work, NULL, w.bytes);
    fh1_parallel_for(native_chunks_of(w.bytes), 1, read_one_chunk, &w);
    return cvt_work_end(&w.work);
}
