/* Checking a native file to the last byte: every checksum, every rule, and that what comes out hashes to what went in.
 */
#include "convert/json.h"
#include "convert/native_impl.h"
#include "convert/work.h"
#include "oracle/thread.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SLOTS 32

typedef struct {
    unsigned char *raw[2]; /* of the batch that is decoded and the one before, which is hashed */
    size_t n[2];
    int64_t file[2];
} slot;

typedef struct {
    cvt_ckpt *c;
    int64_t *order;
    native_stream *streams;
    int64_t n_streams;
    native_hasher *hasher;
    cvt_hash_text *hashes;
    slot slots[MAX_SLOTS];
    int n_slots, n_now, n_before, side;
    int64_t stream; /* where the next batch goes on */
    uint64_t first; /* byte in it */
    cvt_work work;
} verifying;

typedef struct {
    verifying *v;
    int64_t stream[MAX_SLOTS];
    uint64_t first[MAX_SLOTS];
} batch;

/* What refuses a file to its readers is damage to a verifier. */
static fh1_status as_damage(fh1_status s)
{
    if (!s || s->code != FH1_E_INPUT) return s;
    const fh1_error e = *s;
    s = fh1_where(fh1_fail(FH1_E_WRONG, "%s", e.what), "%s", e.where);
    if (e.expected[0]) s = fh1_expected(s, "%s", e.expected);
    if (e.found[0]) s = fh1_found(s, "%s", e.found);
    return e.hint[0] ? fh1_hint(s, "%s", e.hint) : s;
}

static fh1_status read_slot(verifying *v, const batch *b, int k)
{
    slot *s = &v->slots[k];
    const int64_t what = v->order[b->stream[k]];
    unsigned char *dst = s->raw[v->side];
    if (what >= 0) return cvt_ckpt_read(v->c, what, b->first[k], s->n[v->side], dst);
    const cvt_ckpt_file *f = &v->c->files[-1 - what];
    if (!f->weights) return cvt_ckpt_read_file(v->c, -1 - what, b->first[k], s->n[v->side], dst);
    memcpy(dst, f->header + b->first[k], s->n[v->side]); /* was checked when it was read */
    return NULL;
}

/* Piece 0 hashes the batch before, in order; piece 1 + k decodes into slot k. */
static void run_piece(void *ctx, int64_t begin, int64_t end, int thread)
{
    const batch *b = ctx;
    verifying *v = b->v;
    (void)thread;
    for (int64_t i = begin; i < end && cvt_work_goes_on(&v->work); i++) {
        if (i > 0) {
            fh1_status s = as_damage(read_slot(v, b, (int)i - 1));
            const int64_t what = v->order[b->stream[i - 1]];
            const bool header = what < 0 && v->c->files[-1 - what].weights;
            cvt_work_did(&v->work, header ? 0 : v->slots[i - 1].n[v->side], s);
            continue;
        }
        for (int k = 0; k < v->n_before; k++) {
            const slot *s = &v->slots[k];
            native_hasher_add(v->hasher, s->file[!v->side], s->raw[!v->side], s->n[!v->side]);
        }
    }
}

static void fill_batch(verifying *v, batch *b)
{
    v->n_now = 0;
    while (v->n_now < v->n_slots && v->stream < v->n_streams) {
        const uint64_t left = v->streams[v->stream].bytes - v->first;
        slot *s = &v->slots[v->n_now];
        if (left > 0) {
            const int64_t what = v->order[v->stream];
            b->stream[v->n_now] = v->stream;
            b->first[v->n_now++] = v->first;
            s->n[v->side] = left < NATIVE_CHUNK ? (size_t)left : NATIVE_CHUNK;
            s->file[v->side] = what >= 0 ? v->c->tensors[what].file : -1 - what;
            v->first += s->n[v->side];
        }
        if (v->first == v->streams[v->stream].bytes) {
            v->stream++;
            v->first = 0;
        }
    }
}

static fh1_status decode_all(verifying *v)
{
    batch b = {.v = v};
    for (;;) {
        fill_batch(v, &b);
        if (v->n_now == 0 && v->n_before == 0) break;
        fh1_parallel_for(1 + v->n_now, 1, run_piece, &b);
        FH1_TRY(cvt_work_status(&v->work));
        v->n_before = v->n_now;
        v->side = !v->side;
    }
    native_hasher_end(v->hasher);
    return NULL;
}

static fh1_status compare_hashes(const verifying *v, const native_index *ix)
{
    cvt_hash_text model;
    for (int64_t i = 0; i < v->c->n_files; i++)
        if (strcmp(v->hashes[i].hex, ix->hashes[i].hex) != 0)
            return fh1_found(fh1_expected(fh1_where(FH1_BAD("the file does not decode to what was put in"),
                                                    "%s, file \"%.120s\"", v->c->path, v->c->files[i].name),
                                          "XXH3-128 %s", ix->hashes[i].hex),
                             "%s", v->hashes[i].hex);
    FH1_TRY(native_model_hash(v->c, v->hashes, &model));
    cJSON *json;
    FH1_TRY(cvt_json_parse(ix->provenance, strlen(ix->provenance), NATIVE_INDEX_DEPTH, "provenance", &json));
    const cJSON *told = cJSON_GetObjectItemCaseSensitive(json, "xxh3_128");
    const bool same = cJSON_IsString(told) && strcmp(told->valuestring, model.hex) == 0;
    cJSON_Delete(json);
    if (same) return NULL;
    return fh1_expected(
        fh1_where(FH1_BAD("the hash of the model is not that of its files"), "%s, provenance", v->c->path), "%s",
        model.hex);
}

static fh1_status allocate(verifying *v)
{
    v->n_slots = 4 * fh1_threads() < MAX_SLOTS ? 4 * fh1_threads() : MAX_SLOTS;
    for (int i = 0; i < v->n_slots; i++)
        for (int k = 0; k < 2; k++) {
            v->slots[i].raw[k] = aligned_alloc(NATIVE_ALIGN, NATIVE_CHUNK);
            if (!v->slots[i].raw[k]) return fh1_no_memory(NATIVE_CHUNK, "a chunk");
        }
    v->hashes = malloc(((size_t)v->c->n_files + 1) * sizeof *v->hashes);
    if (!v->hashes) return fh1_no_memory((size_t)v->c->n_files * sizeof *v->hashes, "the hashes");
    return native_hasher_new(v->c, v->hashes, &v->hasher);
}

static fh1_status verify_content(cvt_ckpt *c, const cvt_progress *progress)
{
    const native_header *h;
    const native_index *ix = native_index_of(c, &h);
    verifying *v = calloc(1, sizeof *v);
    if (!v) return fh1_no_memory(sizeof *v, "the verification");
    v->c = c;
    cvt_work_begin(&v->work, progress, cvt_ckpt_total_bytes(c));
    fh1_status s = native_plan(c, &v->streams, &v->order, &v->n_streams);
    if (!s) s = allocate(v);
    if (!s) s = decode_all(v);
    if (!s) s = as_damage(compare_hashes(v, ix));
    cvt_work_end(&v->work); /* its status has been asked for */
    for (int i = 0; i < v->n_slots; i++) {
        free(v->slots[i].raw[0]);
        free(v->slots[i].raw[1]);
    }
    native_hasher_free(v->hasher);
    free(v->hashes);
    free(v->streams);
    free(v->order);
    free(v);
    return s;
}

fh1_status cvt_native_verify(const char *path, const cvt_progress *progress)
{
    cvt_ckpt *c;
    bool is_native;
    fh1_status s = native_open(path, &is_native, &c);
    if (s) return is_native ? as_damage(s) : s;
    s = verify_content(c, progress);
    cvt_ckpt_close(c);
    return s;
}

fh1_status cvt_native_info(const cvt_ckpt *c, cvt_native_facts *out)
{
    const native_header *h;
    const native_index *ix = native_index_of(c, &h);
    *out = (cvt_native_facts){0};
    if (!ix) return fh1_where(FH1_BAD("this is not a native file"), "%s", c->path);
    *out = (cvt_native_facts){.major = h->major,
                              .minor = h->minor,
                              .file_bytes = h->file_bytes,
                              .stored_bytes = h->index_offset - NATIVE_HEADER,
                              .chunks = ix->n_chunks,
                              .provenance = ix->provenance};
    for (int64_t i = 0; i < ix->n_chunks; i++) out->raw_bytes += ix->chunks[i].bytes;
    return NULL;
}
