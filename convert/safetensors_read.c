#include "convert/safetensors.h"

#include "convert/fault.h"
#include "convert/file.h"
#include "convert/json.h"
#include "oracle/reached.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The reference reader's limit on the JSON header. */
#define MAX_HEADER 100000000u
/* header object > entry > shape */
#define MAX_DEPTH 3

struct cvt_st {
    const void *map; /* NULL when the bytes belong to the caller */
    const char *bytes;
    size_t n_bytes;
    size_t data_begin; /* 8 + header */
    char *head;        /* length word and header, owned, when the data are not in memory */
    char *path;
    cJSON *header; /* owns the names */
    const cJSON *metadata;
    cvt_st_entry *entries; /* sorted by name */
    int64_t count;
};

static fh1_status in_tensor(const cvt_st *f, const char *name, fh1_status s)
{
    return fh1_where(s, "%s, header entry \"%.120s\"", f->path, name);
}

static uint64_t read_u64_le(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | b[i];
    return v;
}

static void faulty_room(uint64_t n)
{
    char *volatile room = malloc(n < SIZE_MAX / 2 ? (size_t)n : SIZE_MAX / 2);
    free(room);
}

/* The length word, checked against the file; *n is the header's length. */
static fh1_status read_length(const cvt_st *f, size_t *n)
{
    static const char lfs[] = "version https://git-lfs";
    if (!CVT_FAULT(LFS_POINTER_PARSED) && f->n_bytes >= sizeof lfs - 1 && memcmp(f->bytes, lfs, sizeof lfs - 1) == 0)
        return fh1_hint(fh1_where(FH1_BAD("this is a git-lfs pointer, not the file itself"), "%s, byte 0", f->path),
                        "fetch the file with `git lfs pull`");
    if (f->n_bytes < 8)
        return fh1_found(
            fh1_expected(fh1_where(FH1_BAD("the file is too short for a safetensors header"), "%s, byte 0", f->path),
                         "at least 8 bytes"),
            "%zu", f->n_bytes);
    uint64_t length = read_u64_le(f->bytes);
    if (CVT_FAULT(HEADER_ROOM_BEFORE_CHECK)) faulty_room(length);
    if (length > MAX_HEADER)
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("the header length is too large; is this a safetensors file?"),
                                                "%s, byte 0", f->path),
                                      "at most %u", MAX_HEADER),
                         "%llu", (unsigned long long)length);
    if (length > f->n_bytes - 8)
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("the header is cut off"), "%s, byte %zu", f->path, f->n_bytes),
                                      "%llu bytes of header", (unsigned long long)length),
                         "%zu", f->n_bytes - 8);
    *n = (size_t)length;
    return NULL;
}

static fh1_status read_metadata(cvt_st *f, const cJSON *m)
{
    if (cJSON_IsNull(m)) return NULL; /* as the reference reader: absent */
    if (!cJSON_IsObject(m)) return in_tensor(f, m->string, FH1_BAD("the metadata is not an object of strings"));
    for (const cJSON *v = m->child; v; v = v->next)
        if (!cJSON_IsString(v))
            return fh1_hint(
                in_tensor(f, m->string, FH1_BAD("the metadata value of \"%.100s\" is not a string", v->string)),
                "a tensor cannot be named __metadata__");
    f->metadata = m;
    return NULL;
}

/* Dims into `shape`, their product left to right into *count. */
static fh1_status read_shape(const cvt_st *f, const char *name, const cJSON *v, int *rank, int64_t *shape,
                             int64_t *count)
{
    if (!cJSON_IsArray(v)) return in_tensor(f, name, FH1_BAD("the shape is not an array"));
    int n = cJSON_GetArraySize(v);
    if (n > FH1_MAX_RANK)
        return fh1_found(fh1_expected(in_tensor(f, name, FH1_BAD("a tensor of this rank is not supported")),
                                      "at most %d dimensions", FH1_MAX_RANK),
                         "%d", n);
    *rank = 0;
    *count = 1;
    for (const cJSON *d = v->child; d; d = d->next, ++*rank) {
        int64_t dim;
        if (!cvt_json_is_int(d, &dim) || dim < 0)
            return in_tensor(f, name, FH1_BAD("dimension %d of the shape is not a whole number from 0 to 2^53", *rank));
        if (CVT_FAULT(SHAPE_PRODUCT_WRAPS)) *count = (int64_t)((uint64_t)*count * (uint64_t)dim);
        else if (!fh1_mul_i64(*count, dim, count))
            return in_tensor(f, name, FH1_BAD("the product of the shape overflows at dimension %d", *rank));
        shape[*rank] = dim;
    }
    return NULL;
}

static fh1_status read_offsets(const cvt_st *f, const char *name, const cJSON *v, int64_t *begin, int64_t *end)
{
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) != 2)
        return in_tensor(f, name, FH1_BAD("data_offsets is not an array of two numbers"));
    if (!cvt_json_is_int(v->child, begin) || !cvt_json_is_int(v->child->next, end) || *begin < 0 || *end < 0)
        return in_tensor(f, name, FH1_BAD("data_offsets is not two whole numbers from 0 to 2^53"));
    if (*end < *begin)
        return in_tensor(
            f, name, FH1_BAD("data_offsets end before they begin: [%lld, %lld]", (long long)*begin, (long long)*end));
    int64_t n_data = (int64_t)(f->n_bytes - f->data_begin);
    if (*end > n_data)
        return fh1_found(
            fh1_expected(in_tensor(f, name, FH1_BAD("the data lies beyond the end of the file; is it cut?")),
                         "data_offsets up to %lld", (long long)n_data),
            "%lld", (long long)*end);
    return NULL;
}

static fh1_status read_dtype(const cvt_st *f, const char *name, const cJSON *v, fh1_dtype *out)
{
    if (!cJSON_IsString(v)) return in_tensor(f, name, FH1_BAD("the dtype is not a string"));
    if (!fh1_dtype_parse(v->valuestring, out))
        return fh1_hint(
            in_tensor(f, name, FH1_BAD("unknown dtype \"%.40s\"", v->valuestring)),
            "safetensors 0.8 knows F64 F32 BF16 F16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL C64, F8_*, F6_* and F4");
    return NULL;
}

/* Fields: exactly one dtype, shape and data_offsets; others must be plain values, so that nothing can hide. */
static fh1_status find_fields(const cvt_st *f, const cJSON *entry, const cJSON **fields)
{
    static const char *const names[3] = {"dtype", "shape", "data_offsets"};
    if (!cJSON_IsObject(entry)) return in_tensor(f, entry->string, FH1_BAD("a tensor's entry is not an object"));
    for (const cJSON *v = entry->child; v; v = v->next) {
        int k = 0;
        while (k < 3 && strcmp(v->string, names[k]) != 0) k++;
        if (k < 3) fields[k] = v;
        else if (cJSON_IsArray(v) || cJSON_IsObject(v))
            return in_tensor(f, entry->string, FH1_BAD("the unknown field \"%.60s\" is not a plain value", v->string));
    }
    for (int k = 0; k < 3; k++)
        if (!fields[k]) return in_tensor(f, entry->string, FH1_BAD("the field %s is missing", names[k]));
    return NULL;
}

static fh1_status read_entry(const cvt_st *f, const cJSON *entry, cvt_st_entry *out)
{
    const cJSON *fields[3] = {NULL};
    const char *name = entry->string;
    fh1_dtype dtype = FH1_F32;
    int rank = 0;
    int64_t shape[FH1_MAX_RANK], count = 0, bits = 0, begin = 0, end = 0;
    FH1_TRY(find_fields(f, entry, fields));
    FH1_TRY(read_dtype(f, name, fields[0], &dtype));
    FH1_TRY(read_shape(f, name, fields[1], &rank, shape, &count));
    FH1_TRY(read_offsets(f, name, fields[2], &begin, &end));
    if (!fh1_mul_i64(count, fh1_dtype_bits(dtype), &bits))
        return in_tensor(f, name, FH1_BAD("the product of shape and dtype overflows"));
    if (bits % 8 != 0)
        return in_tensor(
            f, name,
            FH1_BAD("%lld elements of %s are not a whole number of bytes", (long long)count, fh1_dtype_name(dtype)));
    FH1_REACHED(rank == 0);
    FH1_REACHED(rank == FH1_MAX_RANK);
    FH1_REACHED(count == 0);
    FH1_REACHED(end == (int64_t)(f->n_bytes - f->data_begin)); /* the last one */
    if (end - begin != bits / 8)
        return fh1_found(fh1_expected(in_tensor(f, name, FH1_BAD("data_offsets do not fit shape and dtype")),
                                      "%lld bytes", (long long)(bits / 8)),
                         "%lld", (long long)(end - begin));
    const char *data = f->head ? NULL : f->bytes + f->data_begin + (size_t)begin;
    out->name = name;
    /* The view is for reading only; fh1_tensor has no const form. */
    out->t = fh1_view((void *)(uintptr_t)data, dtype, rank, shape);
    out->begin = f->data_begin + (uint64_t)begin;
    out->end = f->data_begin + (uint64_t)end;
    return NULL;
}

static int by_place(const void *a, const void *b)
{
    const cvt_st_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_st_entry *)a)->name, ((const cvt_st_entry *)b)->name);
}

/* The tensors must cover the data without hole or overlap, to its last byte. */
static fh1_status check_cover(const cvt_st *f)
{
    uint64_t at = f->data_begin;
    for (int64_t i = 0; i < f->count; i++) {
        const cvt_st_entry *e = &f->entries[i];
        if (e->begin != at && !CVT_FAULT(HOLES_ACCEPTED))
            return fh1_found(fh1_expected(in_tensor(f, e->name,
                                                    FH1_BAD("%s before this tensor",
                                                            e->begin > at ? "there is a hole" : "tensors overlap")),
                                          "data at byte %llu of the file", (unsigned long long)at),
                             "%llu", (unsigned long long)e->begin);
        at = e->end;
    }
    if (at != f->n_bytes && !CVT_FAULT(HOLES_ACCEPTED))
        return fh1_found(fh1_expected(fh1_where(FH1_BAD("the file goes on after the last tensor"), "%s, byte %llu",
                                                f->path, (unsigned long long)at),
                                      "%llu bytes", (unsigned long long)at),
                         "%zu", f->n_bytes);
    return NULL;
}

static fh1_status read_header(cvt_st *f, size_t n)
{
    /* A copy: the file may change under the map while it is being checked. */
    char *text = malloc(n + 1);
    if (!text) return fh1_no_memory(n, "a safetensors header");
    memcpy(text, f->bytes + 8, n);
    fh1_status s = cvt_json_parse(text, n, MAX_DEPTH, "JSON", &f->header);
    free(text);
    if (s) return fh1_where(s, "%s, header (from byte 8)", f->path);
    if (!cJSON_IsObject(f->header)) return fh1_where(FH1_BAD("the header is not a JSON object"), "%s, byte 8", f->path);
    size_t count = 0;
    for (const cJSON *v = f->header->child; v; v = v->next) count++;
    f->entries = calloc(count + 1, sizeof *f->entries);
    if (!f->entries) return fh1_no_memory(count * sizeof *f->entries, "the table of tensors");
    FH1_REACHED(count == 0); /* no tensor */
    FH1_REACHED(n % 8 != 0);
    FH1_REACHED(count == 1 && f->header->child &&
                strcmp(f->header->child->string, "__metadata__") == 0); /* metadata alone */
    for (const cJSON *v = f->header->child; v; v = v->next) {
        if (strcmp(v->string, "__metadata__") == 0) FH1_TRY(read_metadata(f, v));
        else FH1_TRY(read_entry(f, v, &f->entries[f->count++]));
    }
    return NULL;
}

/* Takes `head` over on success. *out is set only then. */
static fh1_status parse(const void *map, const void *data, char *head, size_t n_bytes, const char *name, cvt_st **out)
{
    *out = NULL;
    cvt_st *f = calloc(1, sizeof *f);
    char *path = strdup(name);
    if (!f || !path) {
        free(f);
        free(path);
        return fh1_no_memory(sizeof *f, "a safetensors handle");
    }
    *f = (cvt_st){.bytes = data, .head = head, .n_bytes = n_bytes, .path = path};
    size_t n = 0;
    fh1_status s = read_length(f, &n);
    f->data_begin = 8 + n;
    if (!s) s = read_header(f, n);
    if (!s) qsort(f->entries, (size_t)f->count, sizeof *f->entries, by_place);
    if (!s) s = check_cover(f);
    if (s) {
        f->head = NULL;
        cvt_st_close(f);
        return s;
    }
    qsort(f->entries, (size_t)f->count, sizeof *f->entries, by_name);
    f->map = map;
    *out = f;
    return NULL;
}

fh1_status cvt_st_parse(const void *data, size_t n_bytes, const char *name, cvt_st **out)
{
    return parse(NULL, data, NULL, n_bytes, name, out);
}

fh1_status cvt_st_open(const char *path, cvt_st **out)
{
    const void *map;
    size_t n;
    *out = NULL;
    FH1_TRY(cvt_file_map(path, &map, &n));
    fh1_status s = parse(map, map ? map : "", NULL, n, path, out);
    if (s) cvt_file_unmap(map, n);
    return s;
}

/* The length word and as much behind it as is a header's, zeros behind the end of a file that is shorter. */
static fh1_status read_head(int fd, const char *path, uint64_t n_bytes, char **head)
{
    char word[64] = {0}; /* long enough for everything that read_length looks at */
    uint64_t got = n_bytes < sizeof word ? n_bytes : sizeof word, length;
    FH1_TRY(cvt_read_at(fd, path, word, got, 0));
    length = read_u64_le(word);
    if (length > MAX_HEADER || n_bytes < 8 || length > n_bytes - 8) length = 0; /* refused by read_length */
    uint64_t room = length + 8 < sizeof word ? sizeof word : length + 8;
    *head = calloc(1, room);
    if (!*head) return fh1_no_memory(room, "a safetensors header");
    memcpy(*head, word, sizeof word);
    if (n_bytes >= 8 && length + 8 > got) return cvt_read_at(fd, path, *head + got, length + 8 - got, got);
    return NULL;
}

fh1_status cvt_st_open_header(const char *path, cvt_st **out)
{
    int fd;
    size_t n;
    char *head = NULL;
    *out = NULL;
    FH1_TRY(cvt_file_open(path, &fd, &n));
    fh1_status s = read_head(fd, path, n, &head);
    close(fd);
    if (!s) s = parse(NULL, head, head, n, path, out);
    if (s) free(head);
    return s;
}

void cvt_st_close(cvt_st *f)
{
    if (!f) return;
    cvt_file_unmap(f->map, f->n_bytes);
    free(f->head);
    cJSON_Delete(f->header);
    free(f->entries);
    free(f->path);
    free(f);
}

int64_t cvt_st_count(const cvt_st *f)
{
    return f->count;
}

const cvt_st_entry *cvt_st_at(const cvt_st *f, int64_t i)
{
    return i >= 0 && i < f->count ? &f->entries[i] : NULL;
}

const cvt_st_entry *cvt_st_find(const cvt_st *f, const char *name)
{
    cvt_st_entry key = {.name = name};
    return f->count ? bsearch(&key, f->entries, (size_t)f->count, sizeof key, by_name) : NULL;
}

const char *cvt_st_metadata(const cvt_st *f, const char *key)
{
    const cJSON *v = f->metadata ? cJSON_GetObjectItemCaseSensitive(f->metadata, key) : NULL;
    return v ? v->valuestring : NULL;
}

const char *cvt_st_path(const cvt_st *f)
{
    return f->path;
}

fh1_status cvt_st_parse_header(const void *header, size_t n, uint64_t file_bytes, const char *name, cvt_st **out)
{
    *out = NULL;
    if (n < 8 || file_bytes > SIZE_MAX / 2 || n > file_bytes || read_u64_le(header) != n - 8)
        return fh1_where(FH1_BAD("the stored safetensors header does not have the length that it tells"), "%s", name);
    char *head = calloc(1, n < 64 ? 64 : n); /* read_length looks at more than the word */
    if (!head) return fh1_no_memory(n, "a safetensors header");
    memcpy(head, header, n);
    fh1_status s = parse(NULL, head, head, (size_t)file_bytes, name, out);
    if (s) free(head);
    return s;
}

const cJSON *cvt_st_metadata_all(const cvt_st *f)
{
    return f->metadata ? f->metadata->child : NULL;
}

const char *cvt_st_header(const cvt_st *f, size_t *n)
{
    *n = f->data_begin;
    return f->bytes;
}
