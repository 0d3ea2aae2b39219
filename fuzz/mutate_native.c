#include "fuzz/mutate_native.h"

#include "fuzz/mutate_json.h"
#include "fuzz/slow_native.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

enum { RECORD = 32, ROOM = 1 << 16 };

/* The file in parts. */
typedef struct {
    uint8_t *chunks; /* from byte 64 on */
    size_t n_chunks; /* bytes */
    char *text;
    size_t n_text;
    uint8_t *records;
    size_t n_records; /* of 32 bytes */
    uint64_t minor;
} parts;

static void put(uint8_t *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v += (uint64_t)p[i] << (8 * i);
    return v;
}

static bool take_apart(const uint8_t *data, size_t n, parts *p)
{
    slow_native f;
    *p = (parts){0};
    const bool good =
        slow_native_take_apart(data, n, &f) && f.n_text < ROOM && f.n_chunks < ROOM / RECORD && f.index_offset >= 64;
    if (good) {
        p->minor = f.minor;
        p->n_chunks = f.index_offset - 64;
        p->n_text = f.n_text;
        p->n_records = f.n_chunks;
        p->chunks = malloc(p->n_chunks + ROOM);
        p->text = malloc(ROOM);
        p->records = malloc(ROOM + RECORD);
        if (!p->chunks || !p->text || !p->records) abort();
        memcpy(p->chunks, data + 64, p->n_chunks);
        memcpy(p->text, f.index + 8, p->n_text);
        memcpy(p->records, f.index + 8 + f.n_text, p->n_records * RECORD);
    }
    slow_native_free(&f);
    return good;
}

static size_t span_of(const uint8_t *record)
{
    return (size_t)((get(record + 20, 4) + 63) / 64 * 64 + (get(record + 24, 4) + 63) / 64 * 64);
}

static bool in_file(const parts *p, const uint8_t *record)
{
    const uint64_t at = get(record, 8);
    return at >= 64 && at - 64 <= p->n_chunks && span_of(record) <= p->n_chunks - (at - 64);
}

static void repair_chunks(parts *p)
{
    for (size_t i = 0; i < p->n_records; i++) {
        uint8_t *record = p->records + RECORD * i;
        if (in_file(p, record)) put(record + 8, XXH3_64bits(p->chunks + get(record, 8) - 64, span_of(record)), 8);
    }
}

/* The new length of the file; 0: no room. */
static size_t put_together(const parts *p, uint8_t *data, size_t room, fuzz_rng *r)
{
    const size_t n_text = (p->n_text + 7) / 8 * 8, n = 8 + n_text + p->n_records * RECORD;
    uint8_t *index = calloc(1, n + 1);
    const size_t at = 64 + p->n_chunks, bound = ZSTD_compressBound(n);
    if (!index) abort();
    put(index, n_text, 8);
    memset(index + 8, ' ', n_text);
    memcpy(index + 8, p->text, p->n_text);
    memcpy(index + 8 + n_text, p->records, p->n_records * RECORD);
    if (at + bound > room) {
        free(index);
        return 0;
    }
    memcpy(data + 64, p->chunks, p->n_chunks);
    const size_t stored = ZSTD_compress(data + at, bound, index, n, 1);
    free(index);
    static const uint8_t magic[8] = {0x89, 'F', 'H', '1', 0x0d, 0x0a, 0x1a, 0x0a};
    memset(data, 0, 64);
    memcpy(data, magic, 8);
    put(data + 8, 1, 2);
    put(data + 10, p->minor, 2);
    put(data + 16, at + stored, 8);
    put(data + 24, at, 8);
    put(data + 32, stored, 8);
    put(data + 40, n, 8);
    put(data + 48, XXH3_64bits(data + at, stored), 8);
    if (fuzz_below(r, 24) == 0) put(data + 8 * (1 + fuzz_below(r, 5)), fuzz_next(r) >> fuzz_below(r, 48), 8);
    put(data + 56, XXH3_64bits(data, 56), 8);
    return at + stored;
}

/* Hashes of files and of all of them, where the file is one; they have the same length as those that stand there. */
static void repair_hashes(const uint8_t *data, size_t n, parts *p)
{
    slow_native f;
    char hex[33];
    if (slow_native_read(data, n, &f) == SLOW_NATIVE_GOOD && f.decoded < 1 << 20) {
        const slow_json *told = slow_json_member(slow_json_member(f.json, "provenance"), "xxh3_128");
        for (size_t i = 0; i <= f.n_files; i++) {
            const char *old = i < f.n_files ? f.files[i].hash : told ? told->text : NULL;
            if (!old || strlen(old) != 32 || !slow_native_hash(&f, i, hex)) continue;
            char *at = memmem(p->text, p->n_text, old, 32);
            if (at) memcpy(at, hex, 32);
            if (at && i < f.n_files) memcpy((char *)(uintptr_t)old, hex, 32); /* the last one is of the new ones */
        }
    }
    slow_native_free(&f);
}

static const char *const words[] = {
    "chunk_bytes", "provenance",   "files",   "name",  "name_hex",    "bytes", "xxh3_128",
    "chunk",       "header_bytes", "tensors", "dtype", "shape",       "BF16",  "F16",
    "F32",         "F4",           "../a",    "a/b",   "config.json", "ff",    NULL};

static void change_record(parts *p, fuzz_rng *r)
{
    static const uint64_t values[] = {0, 1, 2, 63, 64, 65, 1 << 20, (1 << 20) + 1, UINT32_MAX, UINT64_MAX - 63};
    static const uint8_t at[] = {0, 16, 20, 24, 28, 29, 30, 31}, width[] = {8, 4, 4, 4, 1, 1, 1, 1};
    if (p->n_records == 0) return;
    uint8_t *record = p->records + RECORD * fuzz_below(r, p->n_records);
    const size_t k = fuzz_below(r, 8);
    const uint64_t old = get(record + at[k], width[k]);
    switch (fuzz_below(r, 4)) {
    case 0: put(record + at[k], values[fuzz_below(r, 10)], width[k]); break;
    case 1: put(record + at[k], old + 1, width[k]); break;
    case 2: put(record + at[k], old - 1, width[k]); break;
    default: /* one more, or one less */
        if (fuzz_below(r, 2) && p->n_records < ROOM / RECORD) {
            memmove(p->records + RECORD * p->n_records, record, RECORD);
            p->n_records++;
        } else {
            p->n_records--;
        }
    }
}

/* Other bytes in a chunk: a plane's, the padding's, or a frame of another text with the same size. */
static void change_chunk(parts *p, fuzz_rng *r)
{
    if (p->n_records == 0) return;
    const uint8_t *record = p->records + RECORD * fuzz_below(r, p->n_records);
    if (!in_file(p, record) || span_of(record) == 0) return;
    uint8_t *chunk = p->chunks + get(record, 8) - 64;
    const size_t n = fuzz_below(r, 2) ? (size_t)get(record + 20, 4) : span_of(record);
    if (n == 0 || n > span_of(record)) return;
    if (fuzz_below(r, 2)) chunk[fuzz_below(r, n)] ^= (uint8_t)(1u << fuzz_below(r, 8));
    else LLVMFuzzerMutate(chunk, n, n);
}

size_t fuzz_mutate_native(uint8_t *data, size_t n, size_t room, fuzz_rng *r)
{
    const fuzz_json_stock stock = {NULL, 0, words};
    parts p;
    if (fuzz_below(r, 10) == 0 || !take_apart(data, n, &p)) return LLVMFuzzerMutate(data, n, room);
    do {
        switch (fuzz_below(r, 8)) {
        case 0:
        case 1: change_record(&p, r); break;
        case 2:
        case 3: change_chunk(&p, r); break;
        case 4: p.minor = fuzz_below(r, 3); break;
        default: p.n_text = fuzz_mutate_json(p.text, p.n_text, ROOM - 8, &stock, r);
        }
    } while (fuzz_below(r, 4) == 0);
    if (fuzz_below(r, 8)) repair_chunks(&p);
    size_t now = put_together(&p, data, room, r);
    if (now && fuzz_below(r, 3) == 0) {
        repair_hashes(data, now, &p);
        const size_t again = put_together(&p, data, room, r);
        if (again) now = again;
    }
    free(p.chunks);
    free(p.text);
    free(p.records);
    return now ? now : n;
}
