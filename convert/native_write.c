/* Writing a native file: chunks in batches, each batch encoded by all threads while the one before it is hashed and
 * written. The bytes depend on the checkpoint only, never on the number of threads. */
#include "convert/file.h"
#include "convert/native_impl.h"
#include "convert/text.h"
#include "convert/work.h"
#include "oracle/thread.h"

#include "oracle/reached.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SLOTS 24 /* 3 MiB each, and as many codecs at most */
#define LEVEL_INDEX 9

typedef struct {
    int64_t stream;
    native_chunk record;
    unsigned char *raw[2]; /* of the batch that is encoded and the one before, which is hashed */
    uint32_t raw_bytes[2];
    int64_t file[2];
    unsigned char *out;
} slot;

typedef struct {
    cvt_ckpt *c;
    cvt_target target;
    native_index index;
    int64_t *order;
    native_hasher *hasher;
    pthread_mutex_t lock; /* of the codecs: the one used last is taken first, its tables are warm */
    native_lane *lanes[MAX_SLOTS];
    int n_lanes, n_free; /* lanes[0 … n_free) are free */
    slot slots[MAX_SLOTS];
    int n_slots;
    int n_now, n_before; /* slots in use by this batch and the one before */
    int side;            /* of raw[]: this batch's */
    cvt_work work;
} writing;

static fh1_status allocate(writing *w)
{
    w->n_slots = 4 * fh1_threads() < MAX_SLOTS ? 4 * fh1_threads() : MAX_SLOTS;
    for (; w->n_lanes < w->n_slots; w->n_lanes++) FH1_TRY(native_lane_new(&w->lanes[w->n_lanes]));
    w->n_free = w->n_lanes;
    for (int i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        for (int k = 0; k < 2; k++) s->raw[k] = aligned_alloc(NATIVE_ALIGN, NATIVE_CHUNK);
        s->out = aligned_alloc(NATIVE_ALIGN, NATIVE_SPAN_MAX);
        if (!s->raw[0] || !s->raw[1] || !s->out) return fh1_no_memory(3 * NATIVE_CHUNK, "a chunk");
    }
    w->index.hashes = malloc(((size_t)w->c->n_files + 1) * sizeof *w->index.hashes);
    w->index.chunks = malloc(((size_t)w->index.n_chunks + 1) * sizeof *w->index.chunks);
    if (!w->index.hashes || !w->index.chunks)
        return fh1_no_memory((size_t)w->index.n_chunks * sizeof *w->index.chunks, "the table of chunks");
    return native_hasher_new(w->c, w->index.hashes, &w->hasher);
}

static void release(writing *w)
{
    for (int i = 0; i < w->n_lanes; i++) native_lane_free(w->lanes[i]);
    for (int i = 0; i < w->n_slots; i++) {
        free(w->slots[i].raw[0]);
        free(w->slots[i].raw[1]);
        free(w->slots[i].out);
    }
    free(w->order);
    native_hasher_free(w->hasher);
    native_index_free(&w->index);
    cvt_target_free(&w->target);
    pthread_mutex_destroy(&w->lock);
}

/* ---- one batch ---- */

static fh1_status read_raw(writing *w, const slot *s, int64_t chunk, unsigned char *dst)
{
    const native_stream *st = &w->index.streams[s->stream];
    const uint64_t first = (uint64_t)(chunk - st->first) * NATIVE_CHUNK, n = native_chunk_bytes(st, chunk);
    const int64_t what = w->order[s->stream];
    if (what >= 0) return cvt_ckpt_read(w->c, what, first, n, dst);
    const cvt_ckpt_file *f = &w->c->files[-1 - what];
    if (!f->weights) return cvt_ckpt_read_file(w->c, -1 - what, first, n, dst);
    memcpy(dst, f->header + first, n);
    return NULL;
}

static bool is_split(const writing *w, int64_t stream)
{
    const int64_t t = w->order[stream];
    return t >= 0 && (w->c->tensors[t].dtype == FH1_BF16 || w->c->tensors[t].dtype == FH1_F16);
}

/* What is told as progress: tensors and side files, as in cvt_ckpt_total_bytes. */
static uint64_t counted(const writing *w, const slot *s)
{
    const int64_t what = w->order[s->stream];
    return what < 0 && w->c->files[-1 - what].weights ? 0 : s->record.bytes;
}

static fh1_status write_out(writing *w, const slot *s)
{
    return cvt_write_at(w->target.fd, w->target.target, s->out, (size_t)native_span(&s->record), s->record.offset);
}

static native_lane *take_lane(writing *w)
{
    pthread_mutex_lock(&w->lock);
    native_lane *l = w->lanes[--w->n_free]; /* a slot is turned by one thread, so there is one for each */
    pthread_mutex_unlock(&w->lock);
    return l;
}

static void give_lane(writing *w, native_lane *l)
{
    pthread_mutex_lock(&w->lock);
    w->lanes[w->n_free++] = l;
    pthread_mutex_unlock(&w->lock);
}

/* The last stream that begins at or before the chunk: it is not empty. */
static int64_t stream_of(const native_index *ix, int64_t chunk)
{
    int64_t low = 0, high = ix->n_streams;
    while (high - low > 1) {
        const int64_t mid = low + (high - low) / 2;
        if (ix->streams[mid].first <= chunk) low = mid;
        else high = mid;
    }
    return low;
}

/* The chunk of the batch before goes out of the slot, then the next one in. */
static fh1_status turn_slot(writing *w, int k, int64_t chunk)
{
    slot *s = &w->slots[k];
    if (k < w->n_before) FH1_TRY(write_out(w, s));
    if (k >= w->n_now) return NULL;
    s->stream = stream_of(&w->index, chunk);
    const int64_t what = w->order[s->stream];
    unsigned char *raw = s->raw[w->side];
    s->file[w->side] = what >= 0 ? w->c->tensors[what].file : -1 - what;
    s->raw_bytes[w->side] = native_chunk_bytes(&w->index.streams[s->stream], chunk);
    FH1_REACHED(s->raw_bytes[w->side] == NATIVE_CHUNK);
    FH1_REACHED(s->raw_bytes[w->side] == 1);
    FH1_TRY(read_raw(w, s, chunk, raw));
    native_lane *lane = take_lane(w);
    fh1_status st = native_encode(lane, raw, s->raw_bytes[w->side], is_split(w, s->stream), s->out, &s->record);
    give_lane(w, lane);
    return st;
}

typedef struct {
    writing *w;
    int64_t first;
} batch;

/* Piece 0 hashes the batch before, in order; piece 1 + k turns slot k. */
static void run_piece(void *ctx, int64_t begin, int64_t end, int thread)
{
    const batch *b = ctx;
    writing *w = b->w;
    (void)thread;
    for (int64_t i = begin; i < end && cvt_work_goes_on(&w->work); i++) {
        if (i == 0) {
            for (int k = 0; k < w->n_before; k++) {
                const slot *s = &w->slots[k];
                native_hasher_add(w->hasher, s->file[!w->side], s->raw[!w->side], s->raw_bytes[!w->side]);
            }
            continue;
        }
        const int k = (int)i - 1;
        fh1_status s = turn_slot(w, k, b->first + k);
        cvt_work_did(&w->work, !s && k < w->n_now ? counted(w, &w->slots[k]) : 0, s);
    }
}

static fh1_status write_chunks(writing *w, uint64_t *end)
{
    uint64_t at = NATIVE_HEADER;
    for (int64_t first = 0;;) {
        const int64_t left = w->index.n_chunks - first;
        w->n_now = left < w->n_slots ? (int)left : w->n_slots;
        if (w->n_now == 0 && w->n_before == 0) break;
        batch b = {w, first};
        fh1_parallel_for(1 + (w->n_now > w->n_before ? w->n_now : w->n_before), 1, run_piece, &b);
        FH1_TRY(cvt_work_status(&w->work));
        for (int k = 0; k < w->n_now; k++) {
            native_chunk *r = &w->slots[k].record;
            r->offset = at;
            at += native_span(r);
            w->index.chunks[first + k] = *r;
        }
        first += w->n_now;
        w->n_before = w->n_now;
        w->side = !w->side;
    }
    native_hasher_end(w->hasher);
    *end = at;
    return NULL;
}

/* ---- the rest of the file ---- */

/* {"tool":…,"source":…,"xxh3_128":…} */
static fh1_status make_provenance(writing *w)
{
    cvt_hash_text hash;
    cvt_text b = {0};
    char *full = realpath(w->c->path, NULL);
    const char *name = full ? full : w->c->path, *slash = strrchr(name, '/');
    if (slash && slash[1]) name = slash + 1;
    fh1_status s = native_model_hash(w->c, w->index.hashes, &hash);
    if (!s) {
        cvt_text_add(&b, "{\"tool\":\"%s\",\"source\":", FH1_TOOL);
        cvt_text_json(&b, name, false);
        cvt_text_add(&b, ",\"xxh3_128\":\"%s\"}", hash.hex);
        if (b.failed) s = fh1_no_memory(b.n, "the provenance");
    }
    free(full);
    w->index.provenance = b.s;
    return s;
}

static fh1_status write_index(writing *w, uint64_t at)
{
    unsigned char *index, *stored, begin[NATIVE_HEADER];
    size_t n, n_stored;
    FH1_TRY(make_provenance(w));
    FH1_TRY(native_index_make(w->c, &w->index, w->order, &index, &n));
    fh1_status s = native_zstd(index, n, LEVEL_INDEX, &stored, &n_stored);
    free(index);
    if (s) return s;
    const native_header h = {NATIVE_MAJOR, NATIVE_MINOR, at + n_stored, at, n_stored, n, cvt_hash64(stored, n_stored)};
    native_header_write(&h, begin);
    s = cvt_write_at(w->target.fd, w->target.target, stored, n_stored, at);
    if (!s) s = cvt_write_at(w->target.fd, w->target.target, begin, sizeof begin, 0);
    free(stored);
    return s;
}

/* What the file will take, roughly: a full disk shows before the work where it is sure. */
static uint64_t expected_bytes(const cvt_ckpt *c)
{
    uint64_t n = 0;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const uint64_t bytes = cvt_ckpt_tensor_bytes(&c->tensors[i]);
        const bool split = c->tensors[i].dtype == FH1_BF16 || c->tensors[i].dtype == FH1_F16;
        n += split ? bytes / 8 * 5 : bytes / 2;
    }
    return n;
}

static fh1_status write_all(writing *w)
{
    uint64_t end;
    FH1_TRY(native_plan(w->c, &w->index.streams, &w->order, &w->index.n_streams));
    for (int64_t i = 0; i < w->index.n_streams; i++) w->index.n_chunks += native_chunks_of(w->index.streams[i].bytes);
    FH1_TRY(allocate(w));
    FH1_TRY(write_chunks(w, &end));
    FH1_TRY(write_index(w, end));
    FH1_TRY(cvt_ckpt_unchanged(w->c));
    cvt_work_did(&w->work, 0, NULL); /* the last chance to be stopped */
    FH1_TRY(cvt_work_status(&w->work));
    return cvt_target_commit(&w->target);
}

fh1_status cvt_native_write(cvt_ckpt *c, const char *path, const cvt_write_options *o)
{
    FH1_TRY(cvt_ckpt_lay_out(c));
    FH1_TRY(cvt_check_space(path, expected_bytes(c)));
    writing *w = calloc(1, sizeof *w);
    if (!w) return fh1_no_memory(sizeof *w, "a native file");
    w->c = c;
    pthread_mutex_init(&w->lock, NULL);
    fh1_status s = cvt_target_begin(path, false, o->force, &w->target);
    cvt_work_begin(&w->work, o->progress, cvt_ckpt_total_bytes(c));
    if (!s) s = write_all(w);
    cvt_work_end(&w->work); /* its status has been asked for */
    release(w);
    free(w);
    return s;
}
