#include "fuzz/slow_safetensors.h"

#include "fuzz/plant.h"

#include <stdlib.h>
#include <string.h>

/* The rule holds, or is left out on purpose. */
static bool rule(bool holds, const char *name)
{
    return holds || fuzz_planted(name);
}

static const struct {
    const char *name;
    int bits;
} dtypes[] = {
    {"F64", 64},        {"F32", 32},    {"BF16", 16},   {"F16", 16},    {"I64", 64},    {"I32", 32},
    {"I16", 16},        {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},    {"U8", 8},
    {"BOOL", 8},        {"C64", 64},    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

static int bits_of(const char *dtype)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, dtype) == 0) return dtypes[i].bits;
    return 0;
}

/* A whole number from 0 to 2^53. */
static bool whole(const slow_json *v, int64_t *out)
{
    *out = 0;
    if (v->kind != SLOW_NUMBER) return false;
    if (!slow_json_integer(v, out)) {
        if (!fuzz_planted("integers")) return false;
        double d = slow_json_double(v);
        *out = d < 9e15 && d > -9e15 ? (int64_t)d : 0;
    }
    if (*out >= 0) return true;
    *out = -*out;
    return fuzz_planted("negative");
}

static bool read_metadata(const slow_json *v, slow_safetensors *f)
{
    if (v->kind == SLOW_NULL) return true; /* as if it were not there */
    if (v->kind != SLOW_OBJECT) return fuzz_planted("metadata");
    for (const slow_json *m = v->first; m; m = m->next)
        if (!rule(m->kind == SLOW_STRING, "metadata_text")) return false;
    f->metadata = v;
    return true;
}

static bool read_fields(const slow_json *entry)
{
    static const char *const needed[] = {"dtype", "shape", "data_offsets"};
    for (int i = 0; i < 3; i++)
        if (!slow_json_member(entry, needed[i])) return false;
    for (const slow_json *m = entry->first; m; m = m->next) {
        bool known = false;
        for (int i = 0; i < 3; i++) known = known || strcmp(m->name, needed[i]) == 0;
        bool plain = m->kind != SLOW_OBJECT && m->kind != SLOW_ARRAY;
        if (!known && !rule(plain, "other_field")) return false;
    }
    return true;
}

/* The product from left to right, none of it above 2^63 - 1, and so the bits. */
static bool count_bits(slow_tensor *t, __int128 *bits)
{
    __int128 product = 1;
    for (int i = 0; i < t->rank; i++) {
        product *= t->shape[i]; /* below 2^63 · 2^53 */
        if (!rule(product <= INT64_MAX, "overflow")) return false;
        if (product > INT64_MAX) product = INT64_MAX; /* by the plant alone */
    }
    *bits = product * t->bits;
    return rule(*bits <= INT64_MAX, "overflow");
}

static bool read_tensor(const slow_json *entry, slow_tensor *t)
{
    __int128 bits;
    *t = (slow_tensor){.name = entry->name};
    if (entry->kind != SLOW_OBJECT || !read_fields(entry)) return false;
    const slow_json *dtype = slow_json_member(entry, "dtype"), *shape = slow_json_member(entry, "shape");
    const slow_json *offsets = slow_json_member(entry, "data_offsets");
    if (dtype->kind != SLOW_STRING || shape->kind != SLOW_ARRAY || offsets->kind != SLOW_ARRAY) return false;
    t->dtype = dtype->text;
    t->bits = bits_of(dtype->text);
    if (!rule(t->bits != 0, "dtype") || !rule(shape->n <= SLOW_RANK, "rank")) return false;
    for (const slow_json *d = shape->first; d && t->rank < SLOW_RANK; d = d->next)
        if (!whole(d, &t->shape[t->rank++])) return false;
    if (offsets->n < 2 || !rule(offsets->n == 2, "offsets")) return false;
    if (!whole(offsets->first, &t->begin) || !whole(offsets->first->next, &t->end)) return false;
    if (!count_bits(t, &bits) || !rule(bits % 8 == 0, "whole_bytes")) return false;
    return rule(t->end - t->begin == bits / 8, "size");
}

/* Every byte of the data belongs to one tensor, and an empty tensor lies between others, not inside one. */
static bool covers(const slow_safetensors *f, int64_t n_data)
{
    int64_t sum = 0;
    for (size_t i = 0; i < f->n; i++) {
        const slow_tensor *a = &f->tensors[i];
        if (a->begin > a->end || !rule(a->end <= n_data, "beyond")) return false;
        sum += a->end - a->begin;
        for (size_t k = 0; k < f->n; k++) {
            const slow_tensor *b = &f->tensors[k];
            bool both = i != k && a->begin < a->end && b->begin < b->end;
            if (both && !rule(a->end <= b->begin || b->end <= a->begin, "overlap")) return false;
            bool inside = a->begin == a->end && b->begin < a->begin && a->begin < b->end;
            if (!rule(!inside, "inside")) return false;
        }
    }
    if (fuzz_planted("overlap") && sum > n_data) return true;
    return rule(sum == n_data, "hole");
}

static bool read_header(slow_safetensors *f)
{
    if (f->header->kind != SLOW_OBJECT) return false;
    f->tensors = calloc(f->header->n + 1, sizeof *f->tensors);
    if (!f->tensors) abort();
    for (const slow_json *m = f->header->first; m; m = m->next) {
        if (strcmp(m->name, "__metadata__") == 0) {
            if (!read_metadata(m, f)) return false;
        } else if (!read_tensor(m, &f->tensors[f->n++])) {
            if (!fuzz_planted(m->kind == SLOW_OBJECT ? "field" : "entry")) return false;
            f->n--;
        }
    }
    return true;
}

bool slow_safetensors_read(const uint8_t *file, size_t size, slow_safetensors *out)
{
    uint64_t length = 0;
    memset(out, 0, sizeof *out);
    if (size < 8) return false;
    for (int i = 0; i < 8; i++) length += (uint64_t)file[i] << (8 * i);
    if (length > 100000000) return false;
    if (length > size - 8) {
        if (!fuzz_planted("length")) return false;
        length = size - 8;
    }
    out->data = 8 + (size_t)length - fuzz_planted("data_begin");
    out->header = slow_json_read((const char *)file + 8, (size_t)length, 3);
    return out->header && read_header(out) && covers(out, (int64_t)(size - 8 - length));
}

void slow_safetensors_free(slow_safetensors *f)
{
    slow_json_free(f->header);
    free(f->tensors);
    memset(f, 0, sizeof *f);
}
