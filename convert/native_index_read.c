/* The header and the index of a native file, read strictly: every number is checked before it is used, memory is asked
 * for only by the size of what is there. */
#include "convert/fields.h"
#include "convert/native_impl.h"
#include "convert/st_layout.h"
#include "convert/text.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

fh1_status native_header_read(const unsigned char in[NATIVE_HEADER], uint64_t file_bytes, native_header *h,
                              bool *is_native)
{
    uint64_t *const words[] = {&h->file_bytes, &h->index_offset, &h->index_stored, &h->index_bytes, &h->index_checksum};
    *is_native = memcmp(in, native_magic, sizeof native_magic) == 0;
    if (!*is_native) return fh1_where(FH1_BAD("this is not a native file: it does not begin with \\x89FH1"), "byte 0");
    if (native_get(in + 56, 8) != cvt_hash64(in, 56))
        return fh1_hint(fh1_where(FH1_BAD("the header is damaged: its checksum does not fit"), "bytes 0 to 63"), "%s",
                        native_repair);
    h->major = (int)native_get(in + 8, 2);
    h->minor = (int)native_get(in + 10, 2);
    if (h->major != NATIVE_MAJOR) { /* what all versions share is magic, version and the header's checksum */
        *is_native = false;
        return fh1_hint(
            fh1_found(fh1_expected(fh1_where(FH1_BAD("this version of the native format is not supported"), "byte 8"),
                                   "version %d", NATIVE_MAJOR),
                      "version %d.%d", h->major, h->minor),
            "use the fh1 that wrote it, or a newer one");
    }
    for (int i = 0; i < 5; i++) *words[i] = native_get(in + 16 + 8 * i, 8);
    if (native_get(in + 12, 4) != 0) return fh1_where(FH1_BAD("the reserved bytes are not zero"), "bytes 12 to 15");
    if (h->file_bytes != file_bytes)
        return fh1_hint(
            fh1_found(fh1_expected(fh1_where(FH1_BAD("the file is cut off, or something was added"), "byte 16"),
                                   "%llu bytes", (unsigned long long)h->file_bytes),
                      "%llu", (unsigned long long)file_bytes),
            "%s", native_repair);
    if (h->index_offset < NATIVE_HEADER || h->index_offset % NATIVE_ALIGN != 0 || h->index_offset > file_bytes ||
        h->index_stored != file_bytes - h->index_offset)
        return fh1_where(FH1_BAD("the index does not lie at the end of the file"), "byte 24");
    if (h->index_bytes > NATIVE_INDEX_MAX ||
        (h->index_bytes + NATIVE_INDEX_SHRINK - 1) / NATIVE_INDEX_SHRINK > h->index_stored)
        return fh1_found(fh1_where(FH1_BAD("the index claims to be too large"), "byte 40"), "%llu bytes",
                         (unsigned long long)h->index_bytes);
    return NULL;
}

typedef struct {
    cvt_ckpt *c;
    native_index *ix;
    bool newer; /* of a later minor version: unknown keys are additions */
    int64_t next_chunk, room_streams;
} reading;

static fh1_status known_keys(const reading *r, const cvt_fields *f, const char *const *names)
{
    for (const cJSON *v = f->object->child; v && !r->newer; v = v->next) {
        int k = 0;
        while (names[k] && strcmp(names[k], v->string) != 0) k++;
        if (!names[k]) return cvt_bad_value(f, v->string, v, "the key is unknown", "a key of version 1.0");
    }
    return NULL;
}

/* ---- chunks ---- */

static fh1_status bad_chunk(int64_t i, const char *what)
{
    return fh1_where(FH1_BAD("%s", what), "index, chunk %lld", (long long)i);
}

static fh1_status check_chunk(const native_chunk *c, int64_t i, uint32_t bytes, bool split)
{
    const bool halves = c->layout == NATIVE_SPLIT16;
    const uint32_t plane[2] = {halves ? c->bytes / 2 : c->bytes, halves ? c->bytes / 2 : 0};
    if (c->bytes != bytes) return bad_chunk(i, "the chunk has another size than its place asks for");
    if (c->layout >= NATIVE_LAYOUTS || c->codec[0] >= NATIVE_CODECS || c->codec[1] >= NATIVE_CODECS)
        return fh1_hint(bad_chunk(i, "a layout or codec is unknown"), "use a newer fh1");
    if (halves && (!split || c->bytes % 2 != 0)) return bad_chunk(i, "the split layout is for 16-bit floats only");
    for (int p = 0; p < 2; p++) {
        const bool raw = c->codec[p] == NATIVE_RAW;
        if (raw ? c->stored[p] != plane[p] : c->stored[p] == 0 || c->stored[p] >= plane[p])
            return bad_chunk(i, "the size of a plane does not fit its codec");
    }
    return NULL;
}

/* The chunks lie one behind the other from the header to the index. */
static fh1_status read_chunks(const unsigned char *in, const native_header *h, native_index *ix)
{
    uint64_t at = NATIVE_HEADER;
    ix->chunks = malloc(((size_t)ix->n_chunks + 1) * sizeof *ix->chunks);
    if (!ix->chunks) return fh1_no_memory((size_t)ix->n_chunks * sizeof *ix->chunks, "the table of chunks");
    for (int64_t i = 0; i < ix->n_chunks; i++) {
        const unsigned char *p = in + (size_t)i * NATIVE_RECORD;
        native_chunk *c = &ix->chunks[i];
        *c = (native_chunk){.offset = native_get(p, 8),
                            .checksum = native_get(p + 8, 8),
                            .bytes = (uint32_t)native_get(p + 16, 4),
                            .stored = {(uint32_t)native_get(p + 20, 4), (uint32_t)native_get(p + 24, 4)},
                            .layout = p[28],
                            .codec = {p[29], p[30]}};
        if (p[31] != 0) return bad_chunk(i, "the reserved byte is not zero");
        if (c->stored[0] > NATIVE_CHUNK || c->stored[1] > NATIVE_CHUNK) return bad_chunk(i, "a plane is too large");
        if (c->offset != at) return bad_chunk(i, "the chunk does not begin where the one before it ends");
        at += native_span(c);
        if (native_span(c) > ix->largest_span) ix->largest_span = native_span(c);
    }
    if (at != h->index_offset)
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("the chunks do not end where the index begins"), "index"),
                                      "byte %llu", (unsigned long long)h->index_offset),
                         "%llu", (unsigned long long)at);
    return NULL;
}

/* The next stream in the order of the file; *index its number. */
static fh1_status add_stream(reading *r, const cvt_fields *f, uint64_t bytes, bool split, int64_t *index)
{
    native_index *ix = r->ix;
    int64_t chunk;
    FH1_TRY(cvt_need_int(f, "chunk", 0, INT64_C(1) << 53, &chunk));
    if (chunk != r->next_chunk)
        return fh1_where(
            fh1_found(fh1_expected(FH1_BAD("the chunks are not in order"), "%lld", (long long)r->next_chunk), "%lld",
                      (long long)chunk),
            "%s, %schunk", f->path, f->prefix);
    const int64_t n = native_chunks_of(bytes);
    if (n > ix->n_chunks - chunk)
        return fh1_where(fh1_found(fh1_expected(FH1_BAD("there are too few chunks"), "%lld from chunk %lld on",
                                                (long long)n, (long long)chunk),
                                   "%lld", (long long)(ix->n_chunks - chunk)),
                         "%s, %sbytes", f->path, f->prefix);
    if (ix->n_streams == r->room_streams) {
        const int64_t room = r->room_streams ? 2 * r->room_streams : 64;
        native_stream *grown = realloc(ix->streams, (size_t)room * sizeof *grown);
        if (!grown) return fh1_no_memory((size_t)room * sizeof *grown, "the table of streams");
        ix->streams = grown;
        r->room_streams = room;
    }
    const native_stream s = {chunk, bytes};
    for (int64_t i = 0; i < n; i++)
        FH1_TRY(check_chunk(&ix->chunks[chunk + i], chunk + i, native_chunk_bytes(&s, chunk + i), split));
    *index = ix->n_streams;
    ix->streams[ix->n_streams++] = s;
    r->next_chunk += n;
    return NULL;
}

/* ---- files and tensors ---- */

static fh1_status read_shape(const cvt_fields *f, int *rank, int64_t *shape)
{
    const cJSON *v;
    FH1_TRY(cvt_need(f, "shape", &v));
    if (!cJSON_IsArray(v)) return cvt_bad_value(f, "shape", v, "the shape is not an array", "whole numbers");
    *rank = 0;
    for (const cJSON *d = v->child; d; d = d->next) {
        if (*rank == FH1_MAX_RANK || !cvt_json_is_int(d, &shape[*rank]) || shape[*rank] < 0)
            return cvt_bad_value(f, "shape", d, "the shape is wrong", "up to 8 whole numbers");
        ++*rank;
    }
    return NULL;
}

static fh1_status read_tensor(reading *r, const cJSON *json, int64_t file, uint64_t *at)
{
    static const char *const keys[] = {"name", "dtype", "shape", "chunk", NULL};
    const cvt_fields f = {json, "index", "tensors."};
    const char *name, *type;
    fh1_dtype dtype;
    int rank = 0;
    int64_t shape[FH1_MAX_RANK], n_elems, stream;
    uint64_t bytes;
    if (!cJSON_IsObject(json)) return fh1_where(FH1_BAD("an entry is not an object"), "index, tensors");
    FH1_TRY(known_keys(r, &f, keys));
    FH1_TRY(cvt_need_string(&f, "name", &name));
    FH1_TRY(cvt_need_string(&f, "dtype", &type));
    if (!fh1_dtype_parse(type, &dtype))
        return cvt_bad_value(&f, "dtype", cvt_optional(&f, "dtype"), "the dtype is unknown", "a dtype of safetensors");
    FH1_TRY(read_shape(&f, &rank, shape));
    FH1_TRY(fh1_where(cvt_st_size(dtype, rank, shape, &n_elems, &bytes), "index, tensor \"%.120s\"", name));
    const bool split = dtype == FH1_BF16 || dtype == FH1_F16;
    FH1_TRY(fh1_where(add_stream(r, &f, bytes, split, &stream), "tensor \"%.120s\"", name));
    FH1_TRY(cvt_ckpt_push_tensor(r->c, name, dtype, rank, shape, file, *at, stream));
    *at += bytes; /* at most a chunk's size for each record */
    return NULL;
}

static fh1_status read_weights(reading *r, const cvt_fields *f, int64_t file)
{
    const cJSON *tensors;
    int64_t header_bytes, stream;
    FH1_TRY(cvt_need_int(f, "header_bytes", 10, 100000008 /* what readers accept */, &header_bytes));
    FH1_TRY(cvt_need(f, "tensors", &tensors));
    if (!cJSON_IsArray(tensors)) return cvt_bad_value(f, "tensors", tensors, "the value is wrong", "an array");
    FH1_TRY(add_stream(r, f, (uint64_t)header_bytes, false, &stream));
    r->c->files[file].source = stream;
    r->c->files[file].header_bytes = (uint64_t)header_bytes;
    uint64_t at = (uint64_t)header_bytes;
    for (const cJSON *t = tensors->child; t; t = t->next) FH1_TRY(read_tensor(r, t, file, &at));
    if (at != r->c->files[file].bytes)
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("header and tensors do not add up to the file"), "index"),
                                      "%llu bytes", (unsigned long long)r->c->files[file].bytes),
                         "%llu", (unsigned long long)at);
    return NULL;
}

static fh1_status read_hash(const cvt_fields *f, cvt_hash_text *out)
{
    const char *hex;
    FH1_TRY(cvt_need_string(f, "xxh3_128", &hex));
    if (strlen(hex) != 32 || strspn(hex, "0123456789abcdef") != 32)
        return cvt_bad_value(f, "xxh3_128", NULL, "the checksum is wrong", "32 digits from 0 to f");
    memcpy(out->hex, hex, sizeof out->hex);
    return NULL;
}

/* `name`, or `name_hex` for one that is not UTF-8. */
static fh1_status read_name(const cvt_fields *f, char *out, size_t size)
{
    const char *name;
    if (!cvt_optional(f, "name_hex")) {
        FH1_TRY(cvt_need_string(f, "name", &name));
        if (strlen(name) >= size) return cvt_bad_value(f, "name", NULL, "the name is too long", "a path");
        memcpy(out, name, strlen(name) + 1);
        return NULL;
    }
    FH1_TRY(cvt_need_string(f, "name_hex", &name));
    if (!cvt_optional(f, "name") && cvt_text_unhex(name, out, size)) return NULL;
    return cvt_bad_value(f, "name_hex", NULL, "the name is wrong", "bytes that are not UTF-8, instead of name");
}

static fh1_status read_file(reading *r, const cJSON *json, int64_t i)
{
    static const char *const keys[] = {"name",  "name_hex",     "bytes",   "xxh3_128",
                                       "chunk", "header_bytes", "tensors", NULL};
    const cvt_fields f = {json, "index", "files."};
    char name[PATH_MAX];
    int64_t bytes, stream;
    if (!cJSON_IsObject(json)) return fh1_where(FH1_BAD("an entry is not an object"), "index, files");
    FH1_TRY(known_keys(r, &f, keys));
    FH1_TRY(read_name(&f, name, sizeof name));
    FH1_TRY(cvt_need_int(&f, "bytes", 0, INT64_C(1) << 53, &bytes));
    FH1_TRY(fh1_where(read_hash(&f, &r->ix->hashes[i]), "file \"%.120s\"", name));
    const bool weights = cvt_optional(&f, "tensors") != NULL;
    if (i > 0 && strcmp(r->c->files[i - 1].name, name) >= 0)
        return fh1_where(FH1_BAD("the files are not in the order of their names"), "index, file \"%.120s\"", name);
    FH1_TRY(cvt_ckpt_push_file(r->c, name, weights, (uint64_t)bytes, 0));
    if (weights) return fh1_where(read_weights(r, &f, i), "file \"%.120s\"", name);
    FH1_TRY(fh1_where(add_stream(r, &f, (uint64_t)bytes, false, &stream), "file \"%.120s\"", name));
    r->c->files[i].source = stream;
    return NULL;
}

/* The JSON value as it stands. */
static fh1_status keep_provenance(const cvt_fields *f, const char *text, size_t n, char **out)
{
    size_t begin, end;
    const cJSON *v;
    FH1_TRY(cvt_need(f, "provenance", &v));
    if (!cJSON_IsObject(v) || !cvt_json_find_value(text, n, "provenance", &begin, &end))
        return cvt_bad_value(f, "provenance", v, "the value is wrong", "an object");
    *out = strndup(text + begin, end - begin);
    return *out ? NULL : fh1_no_memory(end - begin, "the provenance");
}

static fh1_status read_root(reading *r, const cJSON *root, const char *text, size_t n)
{
    static const char *const keys[] = {"chunk_bytes", "provenance", "files", NULL};
    const cvt_fields f = {root, "index", ""};
    const cJSON *files;
    int64_t chunk_bytes, i = 0;
    if (!cJSON_IsObject(root)) return fh1_where(FH1_BAD("the text is not an object"), "index");
    FH1_TRY(known_keys(r, &f, keys));
    FH1_TRY(cvt_need_int(&f, "chunk_bytes", (int64_t)NATIVE_CHUNK, (int64_t)NATIVE_CHUNK, &chunk_bytes));
    FH1_TRY(keep_provenance(&f, text, n, &r->ix->provenance));
    FH1_TRY(cvt_need(&f, "files", &files));
    if (!cJSON_IsArray(files)) return cvt_bad_value(&f, "files", files, "the value is wrong", "an array");
    const size_t n_files = (size_t)cJSON_GetArraySize(files);
    r->ix->hashes = malloc((n_files + 1) * sizeof *r->ix->hashes);
    if (!r->ix->hashes) return fh1_no_memory(n_files * sizeof *r->ix->hashes, "the table of files");
    for (const cJSON *v = files->child; v; v = v->next) FH1_TRY(read_file(r, v, i++));
    if (r->next_chunk != r->ix->n_chunks)
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("some chunks belong to no file"), "index"), "%lld chunks",
                                      (long long)r->next_chunk),
                         "%lld", (long long)r->ix->n_chunks);
    return cvt_ckpt_finish(r->c);
}

fh1_status native_index_read(const unsigned char *in, size_t n, const native_header *h, cvt_ckpt *c, native_index *ix)
{
    reading r = {.c = c, .ix = ix, .newer = h->minor > NATIVE_MINOR};
    const uint64_t n_text = n >= 8 ? native_get(in, 8) : UINT64_MAX;
    if (n < 8 || n_text > n - 8 || n_text % 8 != 0 || (n - 8 - n_text) % NATIVE_RECORD != 0)
        return fh1_where(FH1_BAD("the index has another size than its parts"), "index, byte 0");
    const char *text = (const char *)in + 8;
    cJSON *root;
    ix->n_chunks = (int64_t)((n - 8 - n_text) / NATIVE_RECORD);
    FH1_TRY(read_chunks(in + 8 + n_text, h, ix));
    FH1_TRY(cvt_json_parse(text, (size_t)n_text, NATIVE_INDEX_DEPTH, "index", &root));
    fh1_status s = read_root(&r, root, text, (size_t)n_text);
    cJSON_Delete(root);
    return s;
}
