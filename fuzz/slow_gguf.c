#include "fuzz/slow_gguf.h"

#include "fuzz/plant.h"

#include <xxhash.h>

enum { KINDS = 13, STRING = 8, ARRAY = 9, BOOL = 7, U32 = 4, U64 = 10, MOST_ENTRIES = 65536 };

uint64_t slow_gguf_number(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v += (uint64_t)p[i] << (8 * i);
    return v;
}

/* ggml's types: elements and bytes of a block. */
bool slow_gguf_block(uint32_t type, uint64_t *elems, uint64_t *bytes)
{
    static const uint16_t plain[][2] = {{0, 4}, {1, 2}, {24, 1}, {25, 2}, {26, 4}, {27, 8}, {28, 8}, {30, 2}};
    static const uint16_t of32[][2] = {{2, 18}, {3, 20}, {6, 22}, {7, 24}, {8, 34}, {9, 36}, {20, 18}, {39, 17}};
    static const uint16_t of256[][2] = {{10, 84},  {11, 110}, {12, 144}, {13, 176}, {14, 210}, {15, 292},
                                        {16, 66},  {17, 74},  {18, 98},  {19, 50},  {21, 110}, {22, 82},
                                        {23, 136}, {29, 56},  {34, 54},  {35, 66}};
    *elems = 0;
    for (int i = 0; i < 8; i++) {
        if (plain[i][0] == type) *elems = 1, *bytes = plain[i][1];
        if (of32[i][0] == type) *elems = 32, *bytes = of32[i][1];
    }
    for (int i = 0; i < 16; i++)
        if (of256[i][0] == type) *elems = 256, *bytes = of256[i][1];
    return *elems != 0;
}

typedef struct {
    slow_gguf *f;
    size_t at;
    bool lenient, bad; /* bad: the bytes have come to an end, or a rule is broken */
} cursor;

static uint64_t left(const cursor *c)
{
    return c->f->size - c->at;
}

static uint64_t take(cursor *c, size_t n)
{
    if (c->bad || left(c) < n) {
        c->bad = true;
        return 0;
    }
    c->at += n;
    return slow_gguf_number(c->f->data + c->at - n, n);
}

static const uint8_t *take_bytes(cursor *c, uint64_t n)
{
    if (c->bad || left(c) < n) {
        c->bad = true;
        return NULL;
    }
    c->at += n;
    return c->f->data + c->at - n;
}

static void rule(cursor *c, bool holds)
{
    if (!holds && !c->lenient) c->bad = true;
}

/* One character: its length, 0 where there is none. */
static size_t character(const uint8_t *p, uint64_t n)
{
    const uint32_t a = p[0];
    const size_t len = a < 0x80 ? 1 : a >> 5 == 6 ? 2 : a >> 4 == 14 ? 3 : a >> 3 == 30 ? 4 : 0;
    if (len == 0 || len > n) return 0;
    uint32_t v = len == 1 ? a : a & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if (p[i] >> 6 != 2) return 0;
        v = v << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    return v < least[len] || v > 0x10ffff || (v >= 0xd800 && v < 0xe000) ? 0 : len;
}

static bool is_text(const uint8_t *p, uint64_t n)
{
    size_t step = 1;
    for (uint64_t i = 0; i < n && step > 0; i += step) {
        step = character(p + i, n - i);
        if (step == 0 || p[i] == 0) return false;
    }
    return true;
}

static const uint8_t *take_name(cursor *c, uint64_t most, uint64_t *n)
{
    *n = take(c, 8);
    rule(c, *n <= most);
    const uint8_t *p = take_bytes(c, *n);
    if (p && !fuzz_planted("utf8")) rule(c, is_text(p, *n));
    rule(c, *n > 0);
    return p;
}

static size_t width(uint32_t kind)
{
    return kind < 2 || kind == BOOL ? 1 : kind < 4 ? 2 : kind < 7 ? 4 : kind == STRING || kind == ARRAY ? 0 : 8;
}

static void take_strings(cursor *c, uint64_t n)
{
    for (uint64_t i = 0; i < n && !c->bad; i++) {
        const uint64_t bytes = take(c, 8);
        rule(c, bytes <= (uint64_t)64 << 20);
        take_bytes(c, bytes);
    }
}

static void take_value(cursor *c, slow_gguf_key *k)
{
    k->kind = (uint32_t)take(c, 4);
    k->n = 1;
    uint32_t kind = k->kind;
    if (kind == ARRAY) {
        kind = k->item = (uint32_t)take(c, 4);
        k->n = take(c, 8);
        if (kind == ARRAY || k->n > (uint64_t)1 << 26) c->bad = true;
    } else if (kind == STRING) {
        k->n = take(c, 8);
        rule(c, k->n <= (uint64_t)64 << 20);
    }
    if (kind >= KINDS) c->bad = true;
    k->value_at = c->at;
    if (k->kind == ARRAY && kind == STRING) take_strings(c, k->n);
    else take_bytes(c, kind == STRING ? k->n : k->n * width(kind));
    k->bytes = c->at - k->value_at;
    for (size_t i = 0; kind == BOOL && i < k->bytes && !fuzz_planted("bool"); i++)
        rule(c, c->f->data[k->value_at + i] <= 1);
}

static bool equal(const uint8_t *a, uint64_t n, const uint8_t *b, uint64_t m)
{
    return n == m && memcmp(a, b, n) == 0;
}

static void take_keys(cursor *c, uint64_t n)
{
    slow_gguf *f = c->f;
    for (; f->n_keys < n && !c->bad; f->n_keys++) {
        if ((f->n_keys & (f->n_keys - 1)) == 0) /* room for twice as many */
            f->keys = realloc(f->keys, (f->n_keys ? 2 * f->n_keys : 1) * sizeof *f->keys);
        slow_gguf_key *k = &f->keys[f->n_keys];
        *k = (slow_gguf_key){.at = c->at};
        k->name = take_name(c, 65535, &k->n_name);
        take_value(c, k);
        if (c->bad) break;
        for (size_t i = 0; i < f->n_keys; i++)
            if (equal(f->keys[i].name, f->keys[i].n_name, k->name, k->n_name)) rule(c, fuzz_planted("twice"));
    }
}

static void find_alignment(cursor *c)
{
    const slow_gguf_key *k = slow_gguf_find(c->f, "general.alignment");
    c->f->alignment = 32;
    if (!k) return;
    const uint64_t a = k->kind == U32 ? slow_gguf_number(c->f->data + k->value_at, 4) : 0;
    bool power = false;
    for (uint64_t p = 8; p <= 1 << 20; p *= 2) power |= p == a;
    rule(c, power || fuzz_planted("power"));
    if (power) c->f->alignment = a;
}

static void take_tensor(cursor *c, slow_gguf_tensor *t)
{
    uint64_t block = 1, bytes = 1;
    *t = (slow_gguf_tensor){.at = c->at, .dim = {1, 1, 1, 1}};
    t->name = take_name(c, 63, &t->n_name);
    t->n_dims = (uint32_t)take(c, 4);
    if (t->n_dims < 1 || t->n_dims > 4) c->bad = true;
    unsigned __int128 elems = 1;
    for (uint32_t i = 0; i < t->n_dims && !c->bad; i++) {
        t->dim[i] = take(c, 8);
        rule(c, t->dim[i] >= 1 && t->dim[i] <= INT64_MAX);
        elems *= t->dim[i];
        if (elems > INT64_MAX) rule(c, false), elems = INT64_MAX;
    }
    t->type = (uint32_t)take(c, 4);
    rule(c, slow_gguf_block(t->type, &block, &bytes));
    if (block == 0) block = bytes = 1;
    rule(c, t->dim[0] % block == 0);
    elems = elems / block * bytes;
    rule(c, elems <= INT64_MAX);
    t->bytes = elems <= INT64_MAX ? (uint64_t)elems : 0;
    t->offset = take(c, 8);
    rule(c, t->offset % c->f->alignment == 0); /* follows from the cover too */
}

static void take_tensors(cursor *c, uint64_t n)
{
    slow_gguf *f = c->f;
    for (; f->n_tensors < n && !c->bad; f->n_tensors++) {
        if ((f->n_tensors & (f->n_tensors - 1)) == 0)
            f->tensors = realloc(f->tensors, (f->n_tensors ? 2 * f->n_tensors : 1) * sizeof *f->tensors);
        slow_gguf_tensor *t = &f->tensors[f->n_tensors];
        take_tensor(c, t);
        if (c->bad) break;
        for (size_t i = 0; i < f->n_tensors; i++)
            rule(c, !equal(f->tensors[i].name, f->tensors[i].n_name, t->name, t->n_name));
    }
}

static uint64_t up(uint64_t v, uint64_t to)
{
    return (v / to + (v % to != 0)) * to;
}

/* From 0 on somebody must begin where the one before ends, until the file ends; each tensor has a byte at least. */
static void check_cover(cursor *c)
{
    slow_gguf *f = c->f;
    uint64_t end = 0;
    f->data_begin = up(f->infos_end, f->alignment);
    for (size_t placed = 0; placed < f->n_tensors && !c->bad; placed++) {
        const uint64_t next = up(end, f->alignment);
        size_t i = 0;
        while (i < f->n_tensors && f->tensors[i].offset != next) i++;
        rule(c, i < f->n_tensors);
        if (i == f->n_tensors) break;
        for (size_t k = i + 1; k < f->n_tensors; k++) rule(c, f->tensors[k].offset != next);
        rule(c, f->tensors[i].bytes <= f->size);
        end = next + f->tensors[i].bytes;
        if (end > f->size) break;
    }
    if (fuzz_planted("tail")) return;
    if (f->n_tensors == 0) rule(c, f->size >= f->infos_end && f->size <= f->data_begin);
    else rule(c, f->size >= f->data_begin + end && f->size <= f->data_begin + up(end, f->alignment));
}

bool slow_gguf_read(const uint8_t *data, size_t size, bool lenient, slow_gguf *out)
{
    cursor c = {.f = out, .lenient = lenient};
    *out = (slow_gguf){.data = data, .size = size, .alignment = 32};
    const uint8_t *magic = take_bytes(&c, 4);
    if (magic) rule(&c, memcmp(magic, "GGUF", 4) == 0);
    const uint64_t version = take(&c, 4), n_tensors = take(&c, 8), n_keys = take(&c, 8);
    rule(&c, version == 3);
    if (n_tensors > MOST_ENTRIES || n_keys > MOST_ENTRIES) c.bad = true;
    take_keys(&c, n_keys);
    if (!c.bad) find_alignment(&c);
    out->infos_at = c.at;
    take_tensors(&c, n_tensors);
    out->infos_end = c.at;
    if (!c.bad) check_cover(&c);
    return !c.bad;
}

void slow_gguf_free(slow_gguf *f)
{
    free(f->keys);
    free(f->tensors);
}

const slow_gguf_key *slow_gguf_find(const slow_gguf *f, const char *name)
{
    for (size_t i = 0; i < f->n_keys; i++)
        if (equal(f->keys[i].name, f->keys[i].n_name, (const uint8_t *)name, strlen(name))) return &f->keys[i];
    return NULL;
}

static const slow_gguf_tensor *at_offset(const slow_gguf *f, uint64_t offset)
{
    size_t i = 0;
    while (i < f->n_tensors && f->tensors[i].offset != offset) i++;
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

bool slow_gguf_sound(const slow_gguf *f)
{
    const slow_gguf_key *k = slow_gguf_find(f, "fh1.checksums");
    const bool array = k && k->kind == ARRAY && k->item == U64 && k->n == f->n_tensors + 1;
    const uint8_t *sums = array ? f->data + k->value_at : NULL;
    const bool ours =
        sums && XXH3_64bits(f->data + f->infos_at, f->infos_end - f->infos_at) == slow_gguf_number(sums, 8);
    size_t end = f->infos_end;
    for (size_t i = 0; i <= f->n_tensors; i++) {
        const slow_gguf_tensor *t =
            i < f->n_tensors ? at_offset(f, i == 0 ? 0 : up(end - f->data_begin, f->alignment)) : NULL;
        const size_t begin = t ? f->data_begin + t->offset : f->size;
        for (; end < begin && !fuzz_planted("gap"); end++)
            if (f->data[end] != 0) return false;
        if (!t) break;
        end = begin + t->bytes;
        if (ours && XXH3_64bits(f->data + begin, t->bytes) != slow_gguf_number(sums + 8 * (i + 1), 8)) return false;
    }
    return true;
}
