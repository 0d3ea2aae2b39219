/* The header and the index of a native file, written. */
#include "convert/native_impl.h"
#include "convert/st_layout.h"
#include "convert/text.h"

#include <stdlib.h>
#include <string.h>

/* A first byte that no text has, and line ends that a transfer as text would change. */
const unsigned char native_magic[8] = {0x89, 'F', 'H', '1', '\r', '\n', 0x1a, '\n'};
const char native_repair[] = "take a good copy of the file, or convert the model again";

void native_index_free(native_index *ix)
{
    free(ix->chunks);
    free(ix->streams);
    free(ix->hashes);
    free(ix->provenance);
    *ix = (native_index){0};
}

bool cvt_native_is(const void *begin, size_t n)
{
    return n >= sizeof native_magic && memcmp(begin, native_magic, sizeof native_magic) == 0;
}

void native_header_write(const native_header *h, unsigned char out[NATIVE_HEADER])
{
    const uint64_t words[] = {h->file_bytes, h->index_offset, h->index_stored, h->index_bytes, h->index_checksum};
    memset(out, 0, NATIVE_HEADER);
    memcpy(out, native_magic, sizeof native_magic);
    native_put(out + 8, (uint64_t)h->major, 2);
    native_put(out + 10, (uint64_t)h->minor, 2);
    for (int i = 0; i < 5; i++) native_put(out + 16 + 8 * i, words[i], 8);
    native_put(out + 56, cvt_hash64(out, 56), 8);
}

/* ---- the index ---- */

static void add_tensor(cvt_text *b, const cvt_ckpt_tensor *t, int64_t chunk)
{
    cvt_text_add(b, "\n  {\"name\":");
    cvt_text_json(b, t->name, false);
    cvt_text_add(b, ",\"dtype\":\"%s\",\"shape\":[", fh1_dtype_name(t->dtype));
    for (int k = 0; k < t->rank; k++) cvt_text_add(b, "%s%lld", k ? "," : "", (long long)t->shape[k]);
    cvt_text_add(b, "],\"chunk\":%lld}", (long long)chunk);
}

/* JSON is UTF-8; a folder may hold names that are not. */
static void add_name(cvt_text *b, const char *name)
{
    if (!cvt_st_check_text(name)) {
        cvt_text_add(b, "\"name\":");
        cvt_text_json(b, name, false);
        return;
    }
    cvt_text_add(b, "\"name_hex\":\"");
    cvt_text_hex(b, name);
    cvt_text_add(b, "\"");
}

static void add_files(cvt_text *b, const cvt_ckpt *c, const native_index *ix, const int64_t *order)
{
    for (int64_t i = 0; i < ix->n_streams; i++) {
        if (order[i] >= 0) {
            if (order[i - 1] >= 0) cvt_text_add(b, ",");
            add_tensor(b, &c->tensors[order[i]], ix->streams[i].first);
        } else {
            const cvt_ckpt_file *f = &c->files[-1 - order[i]];
            cvt_text_add(b, "%s\n {", i ? "," : "");
            add_name(b, f->name);
            cvt_text_add(b, ",\"bytes\":%llu,\"xxh3_128\":\"%s\",\"chunk\":%lld", (unsigned long long)f->bytes,
                         ix->hashes[-1 - order[i]].hex, (long long)ix->streams[i].first);
            if (f->weights)
                cvt_text_add(b, ",\"header_bytes\":%llu,\"tensors\":[", (unsigned long long)f->header_bytes);
        }
        const bool last_of_file = i + 1 == ix->n_streams || order[i + 1] < 0;
        int64_t file = order[i] >= 0 ? c->tensors[order[i]].file : -1 - order[i];
        if (last_of_file) cvt_text_add(b, "%s}", c->files[file].weights ? "]" : "");
    }
}

static void put_record(unsigned char *p, const native_chunk *c)
{
    native_put(p, c->offset, 8);
    native_put(p + 8, c->checksum, 8);
    native_put(p + 16, c->bytes, 4);
    native_put(p + 20, c->stored[0], 4);
    native_put(p + 24, c->stored[1], 4);
    p[28] = c->layout;
    p[29] = c->codec[0];
    p[30] = c->codec[1];
    p[31] = 0;
}

fh1_status native_index_make(const cvt_ckpt *c, const native_index *ix, const int64_t *order, unsigned char **out,
                             size_t *n)
{
    cvt_text b = {0};
    *out = NULL;
    cvt_text_add(&b, "{\"chunk_bytes\":%zu,\n\"provenance\":%s,\n\"files\":[", NATIVE_CHUNK, ix->provenance);
    add_files(&b, c, ix, order);
    cvt_text_add(&b, "\n]}\n");
    while (!b.failed && b.n % 8 != 0) cvt_text_bytes(&b, " ", 1); /* the records lie aligned */
    *n = 8 + b.n + (size_t)ix->n_chunks * NATIVE_RECORD;
    if (!b.failed) *out = malloc(*n);
    if (!*out) {
        free(b.s);
        return fh1_no_memory(*n, "the index");
    }
    native_put(*out, b.n, 8);
    memcpy(*out + 8, b.s, b.n);
    for (int64_t i = 0; i < ix->n_chunks; i++) put_record(*out + 8 + b.n + (size_t)i * NATIVE_RECORD, &ix->chunks[i]);
    free(b.s);
    if (*n <= NATIVE_INDEX_MAX) return NULL;
    free(*out);
    *out = NULL;
    return fh1_found(fh1_expected(fh1_where(FH1_BAD("the model has too many pieces for a native file"), "%s", c->path),
                                  "an index of at most %llu bytes", (unsigned long long)NATIVE_INDEX_MAX),
                     "%zu", *n);
}
