#include "fuzz/slow_native.h"

#include "fuzz/plant.h"
#include "fuzz/slow_native_index.h"

#include <stdio.h>

#include <xxhash.h>
#include <zstd.h>

static uint64_t get(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v += (uint64_t)p[i] << (8 * i);
    return v;
}

static uint64_t up64(uint64_t n)
{
    return (n + 63) / 64 * 64;
}

/* ---- zstd: one frame, its header read by hand (RFC 8878, 3.1.1.1) ---- */

static bool frame_header_holds(const uint8_t *p, size_t n, uint64_t content)
{
    static const size_t dict_bytes[4] = {0, 1, 2, 4}, size_bytes[4] = {0, 2, 4, 8};
    if (n < 6 || get(p, 4) != 0xfd2fb528) return false;
    const unsigned flags = p[4], single = flags >> 5 & 1, dict = flags & 3, size = flags >> 6;
    const size_t n_size = size == 0 && single ? 1 : size_bytes[size], at = 5 + !single;
    if (flags & 8 || n_size == 0 || n < at + dict_bytes[dict] + n_size) return false;
    if (get(p + at, dict_bytes[dict]) != 0) return false;
    const uint64_t told = get(p + at + dict_bytes[dict], n_size) + (n_size == 2 ? 256 : 0);
    const uint64_t base = single ? told : (uint64_t)1 << (10 + (p[5] >> 3));
    const uint64_t window = single ? told : base + base / 8 * (p[5] & 7);
    return told == content && (window <= (uint64_t)8 << 20 || fuzz_planted("window"));
}

static bool unzstd(const uint8_t *p, size_t n, uint8_t *out, size_t content)
{
    if (!frame_header_holds(p, n, content) || ZSTD_findFrameCompressedSize(p, n) != n) return false;
    return ZSTD_decompress(out, content, p, n) == content;
}

/* ---- header ---- */

static const uint8_t magic[8] = {0x89, 'F', 'H', '1', 0x0d, 0x0a, 0x1a, 0x0a};

static slow_native_verdict read_header(slow_native *f)
{
    const uint8_t *p = f->data;
    if (f->size < 64 || memcmp(p, magic, 8) != 0) return SLOW_NATIVE_OTHER;
    if (get(p + 56, 8) != XXH3_64bits(p, 56) && !fuzz_planted("header")) return SLOW_NATIVE_BAD;
    if (get(p + 8, 2) != 1) return SLOW_NATIVE_OTHER;
    const uint64_t offset = get(p + 24, 8), stored = get(p + 32, 8), n = get(p + 40, 8);
    f->minor = get(p + 10, 2);
    f->index_offset = offset;
    if (get(p + 12, 4) != 0 || get(p + 16, 8) != f->size) return SLOW_NATIVE_BAD;
    if (offset < 64 || offset % 64 != 0 || offset > f->size || stored != f->size - offset) return SLOW_NATIVE_BAD;
    if (n > (uint64_t)64 << 20 || n > 256 * stored) return SLOW_NATIVE_BAD;
    if (get(p + 48, 8) != XXH3_64bits(p + offset, stored)) return SLOW_NATIVE_BAD;
    f->n_index = (size_t)n;
    return SLOW_NATIVE_GOOD;
}

static bool read_index(slow_native *f)
{
    f->index = calloc(1, f->n_index + 1);
    if (!unzstd(f->data + f->index_offset, f->size - f->index_offset, f->index, f->n_index)) return false;
    if (f->n_index < 8 || get(f->index, 8) > f->n_index - 8) return false;
    f->n_text = get(f->index, 8);
    const size_t records = f->n_index - 8 - f->n_text;
    f->n_chunks = records / 32;
    return f->n_text % 8 == 0 && records % 32 == 0;
}

/* ---- chunks ---- */

typedef struct {
    uint64_t offset, checksum, bytes, stored[2];
    unsigned layout, codec[2], zero;
} record;

static record record_of(const slow_native *f, size_t i)
{
    const uint8_t *p = f->index + 8 + f->n_text + 32 * i;
    return (record){get(p, 8), get(p + 8, 8),  get(p + 16, 4), {get(p + 20, 4), get(p + 24, 4)},
                    p[28],     {p[29], p[30]}, p[31]};
}

/* They lie one behind the other from the header to the index. */
static bool chunks_follow(slow_native *f)
{
    uint64_t at = 64;
    for (size_t i = 0; i < f->n_chunks; i++) {
        const record r = record_of(f, i);
        if (r.offset != at || r.zero != 0 || r.stored[0] > 1 << 20 || r.stored[1] > 1 << 20) return false;
        at += up64(r.stored[0]) + up64(r.stored[1]);
        f->decoded += r.bytes;
    }
    return at == f->index_offset;
}

/* The chunks of a run of n bytes: each full but the last. */
static bool run_holds(const slow_native *f, size_t first, int64_t n, bool halves_allowed)
{
    for (size_t i = first; n > 0; i++, n -= 1 << 20) {
        if (i >= f->n_chunks) return false;
        const record r = record_of(f, i);
        const uint64_t bytes = n < 1 << 20 ? (uint64_t)n : 1 << 20;
        if (r.bytes != bytes || r.layout > 1 || r.codec[0] > 1 || r.codec[1] > 1) return false;
        if (r.layout == 1 && (!halves_allowed || bytes % 2 != 0) && !fuzz_planted("split")) return false;
        const uint64_t plane[2] = {r.layout == 1 ? bytes / 2 : bytes, r.layout == 1 ? bytes / 2 : 0};
        for (int k = 0; k < 2; k++) {
            const bool fits = r.codec[k] == 0 ? r.stored[k] == plane[k] : r.stored[k] > 0 && r.stored[k] < plane[k];
            if (!fits) return false;
        }
    }
    return true;
}

static bool zeros(const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] != 0 && !fuzz_planted("padding")) return false;
    return true;
}

uint8_t *slow_native_chunk(const slow_native *f, size_t i, uint32_t *n)
{
    const record r = record_of(f, i);
    const uint8_t *p[2] = {f->data + r.offset, f->data + r.offset + up64(r.stored[0])};
    const uint64_t plane[2] = {r.layout == 1 ? r.bytes / 2 : r.bytes, r.layout == 1 ? r.bytes / 2 : 0};
    uint8_t *decoded[2] = {NULL, NULL}, *out = calloc(1, r.bytes + 1);
    bool good = XXH3_64bits(p[0], up64(r.stored[0]) + up64(r.stored[1])) == r.checksum;
    for (int k = 0; k < 2; k++) {
        decoded[k] = calloc(1, plane[k] + 1);
        good = good && zeros(p[k] + r.stored[k], up64(r.stored[k]) - r.stored[k]);
        if (good && r.codec[k] == 1) good = unzstd(p[k], r.stored[k], decoded[k], plane[k]);
        else if (good && r.stored[k]) memcpy(decoded[k], p[k], r.stored[k]);
    }
    for (uint64_t e = 0; e < plane[0] && good; e++) {
        const unsigned hi = decoded[0][e], lo = r.layout == 1 ? decoded[1][e] : 0;
        const unsigned word = (hi << 7) | (lo & 0x7f) | ((lo & 0x80) << 8);
        if (r.layout == 0) out[e] = (uint8_t)hi;
        else out[2 * e] = (uint8_t)word, out[2 * e + 1] = (uint8_t)(word >> 8);
    }
    free(decoded[0]);
    free(decoded[1]);
    *n = (uint32_t)r.bytes;
    if (good) return out;
    free(out);
    return NULL;
}

uint8_t *slow_native_bytes(const slow_native *f, size_t first, int64_t n)
{
    uint8_t *out = calloc(1, (size_t)n + 1);
    int64_t at = 0;
    while (out && at < n) {
        uint32_t some;
        uint8_t *chunk = slow_native_chunk(f, first++, &some);
        if (chunk) memcpy(out + at, chunk, some);
        else free(out), out = NULL;
        free(chunk);
        at += some;
    }
    return out;
}

/* ---- all of it ---- */

slow_native_verdict slow_native_read(const uint8_t *data, size_t size, slow_native *out)
{
    *out = (slow_native){.data = data, .size = size};
    const slow_native_verdict v = read_header(out);
    if (v != SLOW_NATIVE_GOOD) return v;
    const bool good =
        read_index(out) && chunks_follow(out) && slow_native_index(out, run_holds) && slow_native_headers(out);
    return good ? SLOW_NATIVE_GOOD : SLOW_NATIVE_BAD;
}

bool slow_native_take_apart(const uint8_t *data, size_t size, slow_native *out)
{
    *out = (slow_native){.data = data, .size = size};
    if (size < 64 || get(data + 24, 8) > size || get(data + 40, 8) > 1 << 22) return false;
    out->index_offset = get(data + 24, 8);
    out->minor = get(data + 10, 2);
    out->n_index = get(data + 40, 8);
    return read_index(out);
}

void slow_native_free(slow_native *f)
{
    slow_json_free(f->json);
    free(f->index);
    free(f->files);
    free(f->tensors);
}

/* ---- hashes ---- */

static void hex_of(XXH3_state_t *state, char hex[33])
{
    const XXH128_hash_t h = XXH3_128bits_digest(state);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

/* The lines that xxh128sum prints, of all files. */
static void hash_lines(const slow_native *f, XXH3_state_t *state)
{
    for (size_t i = 0; i < f->n_files; i++) {
        XXH3_128bits_update(state, f->files[i].hash, 32);
        XXH3_128bits_update(state, "  ", 2);
        XXH3_128bits_update(state, f->files[i].name, strlen(f->files[i].name));
        XXH3_128bits_update(state, "\n", 1);
    }
}

/* The run of a file itself, then those of its tensors, all in the order of the chunks. */
static bool hash_file(const slow_native *f, size_t i, XXH3_state_t *state)
{
    const slow_native_file *file = &f->files[i];
    const int64_t n = file->weights ? file->header_bytes : file->bytes;
    uint8_t *p = slow_native_bytes(f, file->chunk, n);
    if (p) XXH3_128bits_update(state, p, (size_t)n);
    bool good = p != NULL;
    free(p);
    for (size_t k = 0; k < f->n_tensors && good; k++) {
        const slow_native_tensor *t = &f->tensors[k];
        if (t->file != i) continue;
        p = slow_native_bytes(f, t->chunk, t->bytes);
        if (p) XXH3_128bits_update(state, p, (size_t)t->bytes);
        good = p != NULL;
        free(p);
    }
    return good;
}

bool slow_native_hash(const slow_native *f, size_t i, char hex[33])
{
    XXH3_state_t *state = XXH3_createState();
    XXH3_128bits_reset(state);
    bool good = true;
    if (i == f->n_files) hash_lines(f, state);
    else good = hash_file(f, i, state);
    hex_of(state, hex);
    XXH3_freeState(state);
    return good;
}

bool slow_native_sound(const slow_native *f)
{
    char hex[33];
    for (size_t i = 0; i < f->n_files; i++)
        if (!slow_native_hash(f, i, hex) || (strcmp(hex, f->files[i].hash) != 0 && !fuzz_planted("hash"))) return false;
    const slow_json *told = slow_json_member(slow_json_member(f->json, "provenance"), "xxh3_128");
    slow_native_hash(f, f->n_files, hex);
    return told && told->kind == SLOW_STRING && strcmp(told->text, hex) == 0;
}
