#include "fuzz/slow_native_index.h"

#include "fuzz/plant.h"
#include "fuzz/slow_safetensors.h"

#define MOST INT64_C(9007199254740992) /* 2^53 */

static const slow_json *value(const slow_json *o, const char *key)
{
    const slow_json *v = slow_json_member(o, key);
    return v && v->kind != SLOW_NULL ? v : NULL;
}

static bool integer(const slow_json *o, const char *key, int64_t least, int64_t most, int64_t *out)
{
    const slow_json *v = value(o, key);
    return v && v->kind == SLOW_NUMBER && slow_json_integer(v, out) && *out >= least && *out <= most;
}

static const char *text(const slow_json *o, const char *key)
{
    const slow_json *v = value(o, key);
    return v && v->kind == SLOW_STRING ? v->text : NULL;
}

/* Within a version that is known every key is. */
static bool keys_known(const slow_native *f, const slow_json *o, const char *const *names)
{
    if (o->kind != SLOW_OBJECT) return false;
    for (const slow_json *v = o->first; v && f->minor == 0 && !fuzz_planted("key"); v = v->next) {
        int k = 0;
        while (names[k] && strcmp(names[k], v->name) != 0) k++;
        if (!names[k]) return false;
    }
    return true;
}

static int bits_of(const char *dtype)
{
    static const struct {
        const char *name;
        int bits;
    } all[] = {{"F64", 64}, {"F32", 32},    {"BF16", 16},   {"F16", 16},       {"I64", 64},    {"I32", 32},
               {"I16", 16}, {"I8", 8},      {"U64", 64},    {"U32", 32},       {"U16", 16},    {"U8", 8},
               {"BOOL", 8}, {"C64", 64},    {"F8_E5M2", 8}, {"F8_E4M3", 8},    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
               {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E5M2FNUZ", 8}};
    for (size_t i = 0; dtype && i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, dtype) == 0) return all[i].bits;
    return 0;
}

/* ---- names ---- */

static bool from_hex(const char *hex, char out[4097])
{
    const size_t n = strlen(hex);
    if (n == 0 || n % 2 != 0 || n / 2 > 4095) return false;
    for (size_t i = 0; i < n; i++) {
        const char *digits = "0123456789abcdef", *d = strchr(digits, hex[i]);
        if (!d) return false;
        const unsigned v = (unsigned)(d - digits);
        out[i / 2] = (char)(i % 2 ? (unsigned char)out[i / 2] | v : v << 4);
        if (i % 2 && out[i / 2] == '\0') return false;
    }
    out[n / 2] = '\0';
    return true;
}

/* Valid in JSON's eyes, by asking the second reader of JSON. */
static bool is_utf8(const char *name)
{
    const size_t n = strlen(name);
    char *quoted = malloc(2 * n + 3), *p = quoted;
    *p++ = '"';
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)name[i];
        if (c == '"' || c == '\\') *p++ = '\\';
        *p++ = (char)(c < 0x20 ? 'x' : c);
    }
    *p++ = '"';
    slow_json *v = slow_json_read(quoted, (size_t)(p - quoted), 1);
    free(quoted);
    slow_json_free(v);
    return v != NULL;
}

/* A path that stays in the folder. */
static bool stays_inside(const char *name)
{
    size_t n = strlen(name), begin = 0;
    if (n == 0 || n > 4095) return false;
    for (size_t i = 0; i <= n; i++) {
        if (name[i] != '/' && name[i] != '\0') continue;
        const size_t part = i - begin;
        if (part == 0 || part > 255) return false;
        if (part == 1 && name[begin] == '.') return false;
        if (part == 2 && name[begin] == '.' && name[begin + 1] == '.' && !fuzz_planted("outside")) return false;
        begin = i + 1;
    }
    return true;
}

static bool read_name(const slow_json *o, char out[4097])
{
    const char *plain = text(o, "name"), *hex = text(o, "name_hex");
    if (!value(o, "name_hex")) {
        if (!plain || strlen(plain) > 4095) return false;
        memcpy(out, plain, strlen(plain) + 1);
    } else if (value(o, "name") || !hex || !from_hex(hex, out) || is_utf8(out)) {
        return false;
    }
    return stays_inside(out);
}

/* No file is a folder that another one lies in; names rise. */
static bool names_hold(const slow_native *f)
{
    for (size_t i = 1; i < f->n_files; i++)
        if (strcmp(f->files[i - 1].name, f->files[i].name) >= 0) return false;
    for (size_t i = 0; i < f->n_files; i++)
        for (size_t k = 0; k < f->n_files; k++) {
            const size_t n = strlen(f->files[i].name);
            if (strncmp(f->files[i].name, f->files[k].name, n) == 0 && f->files[k].name[n] == '/') return false;
        }
    for (size_t i = 0; i < f->n_tensors; i++) {
        if (strcmp(f->tensors[i].name, "__metadata__") == 0) return false;
        for (size_t k = 0; k < i; k++)
            if (strcmp(f->tensors[i].name, f->tensors[k].name) == 0 && !fuzz_planted("tensor twice")) return false;
    }
    return true;
}

/* ---- entries ---- */

typedef struct {
    slow_native *f;
    bool (*run)(const slow_native *f, size_t first, int64_t n, bool halves_allowed);
    size_t chunk; /* the next that belongs to nobody */
} place;

/* The entry's chunks are the next ones. */
static bool take_run(place *p, const slow_json *o, int64_t n, bool halves, size_t *first)
{
    int64_t chunk;
    if (!integer(o, "chunk", 0, MOST, &chunk) || (size_t)chunk != p->chunk) return false;
    *first = p->chunk;
    if (n > (int64_t)(p->f->n_chunks - p->chunk) * SLOW_NATIVE_CHUNK || !p->run(p->f, *first, n, halves)) return false;
    p->chunk += (size_t)((n + SLOW_NATIVE_CHUNK - 1) / SLOW_NATIVE_CHUNK);
    return true;
}

static bool read_tensor(place *p, const slow_json *o, int64_t *at)
{
    static const char *const keys[] = {"name", "dtype", "shape", "chunk", NULL};
    slow_native *f = p->f;
    const slow_json *shape = value(o, "shape");
    slow_native_tensor *t = &f->tensors[f->n_tensors];
    *t = (slow_native_tensor){.name = text(o, "name"), .dtype = text(o, "dtype"), .begin = *at, .file = f->n_files};
    t->bits = bits_of(t->dtype);
    if (!keys_known(f, o, keys) || !t->name || !t->bits || !shape || shape->kind != SLOW_ARRAY || shape->n > 8)
        return false;
    unsigned __int128 elems = 1;
    for (const slow_json *d = shape->first; d; d = d->next) {
        if (d->kind != SLOW_NUMBER || !slow_json_integer(d, &t->shape[t->rank]) || t->shape[t->rank] < 0) return false;
        elems *= (uint64_t)t->shape[t->rank++];
        if (elems > INT64_MAX) return false;
    }
    elems *= (unsigned)t->bits;
    if (elems > INT64_MAX || elems % 8 != 0) return false;
    t->bytes = (int64_t)(elems / 8);
    *at += t->bytes;
    f->n_tensors++;
    return take_run(p, o, t->bytes, strcmp(t->dtype, "BF16") == 0 || strcmp(t->dtype, "F16") == 0, &t->chunk);
}

static bool read_weights(place *p, const slow_json *o, slow_native_file *file)
{
    const slow_json *list = value(o, "tensors");
    if (!integer(o, "header_bytes", 10, 100000008, &file->header_bytes) || list->kind != SLOW_ARRAY) return false;
    if (!take_run(p, o, file->header_bytes, false, &file->chunk)) return false;
    int64_t at = file->header_bytes;
    p->f->tensors = realloc(p->f->tensors, (p->f->n_tensors + list->n + 1) * sizeof *p->f->tensors);
    for (const slow_json *t = list->first; t; t = t->next)
        if (!read_tensor(p, t, &at)) return false;
    return at == file->bytes;
}

static bool read_file(place *p, const slow_json *o)
{
    static const char *const keys[] = {"name",  "name_hex",     "bytes",   "xxh3_128",
                                       "chunk", "header_bytes", "tensors", NULL};
    slow_native_file *file = &p->f->files[p->f->n_files];
    file->hash = text(o, "xxh3_128");
    file->weights = value(o, "tensors") != NULL;
    if (!keys_known(p->f, o, keys) || !read_name(o, file->name) || !integer(o, "bytes", 0, MOST, &file->bytes))
        return false;
    if (!file->hash || strlen(file->hash) != 32 || file->hash[strspn(file->hash, "0123456789abcdef")] != '\0')
        return false;
    const bool good = file->weights ? read_weights(p, o, file) : take_run(p, o, file->bytes, false, &file->chunk);
    p->f->n_files++;
    return good;
}

bool slow_native_index(slow_native *f, bool (*run)(const slow_native *f, size_t first, int64_t n, bool halves_allowed))
{
    static const char *const keys[] = {"chunk_bytes", "provenance", "files", NULL};
    const char *json = (const char *)f->index + 8;
    place p = {.f = f, .run = run};
    int64_t bytes;
    f->json = slow_json_read(json, f->n_text, 7);
    if (!f->json || !keys_known(f, f->json, keys) || !integer(f->json, "chunk_bytes", 1048576, 1048576, &bytes))
        return false;
    const slow_json *provenance = value(f->json, "provenance"), *files = value(f->json, "files");
    if (!provenance || provenance->kind != SLOW_OBJECT || !files || files->kind != SLOW_ARRAY) return false;
    if (!memmem(json, f->n_text, "\"provenance\"", 12)) return false; /* the key is spelled without escapes */
    f->files = calloc(files->n + 1, sizeof *f->files);
    for (const slow_json *v = files->first; v; v = v->next)
        if (!read_file(&p, v)) return false;
    return p.chunk == f->n_chunks && names_hold(f);
}

/* ---- headers of safetensors ---- */

static bool same_tensor(const slow_native_tensor *a, const slow_tensor *b, size_t data)
{
    bool same = strcmp(a->dtype, b->dtype) == 0 && a->rank == b->rank && a->begin == (int64_t)data + b->begin;
    for (int k = 0; k < a->rank && same; k++) same = a->shape[k] == b->shape[k];
    return same || fuzz_planted("header differs");
}

static bool header_holds(const slow_native *f, size_t i, const slow_safetensors *st)
{
    size_t n = 0;
    for (size_t k = 0; k < f->n_tensors; k++) {
        if (f->tensors[k].file != i) continue;
        size_t j = 0;
        while (j < st->n && strcmp(st->tensors[j].name, f->tensors[k].name) != 0) j++;
        if (j == st->n || !same_tensor(&f->tensors[k], &st->tensors[j], st->data)) return false;
        n++;
    }
    return n == st->n;
}

bool slow_native_headers(const slow_native *f)
{
    int64_t total = 0;
    bool good = true;
    for (size_t i = 0; i < f->n_files; i++) total += f->files[i].header_bytes;
    if (total > (int64_t)128 << 20) return false;
    for (size_t i = 0; i < f->n_files && good; i++) {
        const slow_native_file *file = &f->files[i];
        if (!file->weights) continue;
        uint8_t *header = slow_native_bytes(f, file->chunk, file->header_bytes);
        if (!header) return false;
        uint8_t *whole = calloc(1, (size_t)file->bytes + 1); /* zeros for the data, which no rule looks at */
        memcpy(whole, header, (size_t)file->header_bytes);
        slow_safetensors st;
        good = slow_safetensors_read(whole, (size_t)file->bytes, &st) && st.data == (size_t)file->header_bytes &&
               header_holds(f, i, &st);
        slow_safetensors_free(&st);
        free(whole);
        free(header);
    }
    return good;
}
