#include "fuzz/mutate_safetensors.h"

#include "fuzz/slow_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the length word says that the header ends, as far as there are bytes. */
static size_t header_size(const uint8_t *data, size_t size)
{
    uint64_t length = 0;
    if (size < 8) return 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)data[i] << (8 * i);
    return length > size - 8 ? size - 8 : (size_t)length;
}

static void set_length(uint8_t *data, size_t length)
{
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)length >> (8 * i));
}

/* -- the header laid out anew --------------------------------------------------------------------- */

typedef struct {
    char *s;
    size_t n, room;
    bool full;
} printed;

static void put(printed *p, const char *s, size_t n)
{
    if (p->full || n > p->room - p->n) {
        p->full = true;
        return;
    }
    memcpy(p->s + p->n, s, n);
    p->n += n;
}

static void put_text(printed *p, const char *s)
{
    put(p, s, strlen(s));
}

static void put_string(printed *p, const char *s)
{
    char escape[8];
    put_text(p, "\"");
    for (; *s; s++) {
        bool as_it_is = (unsigned char)*s >= 0x20 && *s != '"' && *s != '\\';
        snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*s & 0x7f);
        put(p, as_it_is ? s : escape, as_it_is ? 1 : 6);
    }
    put_text(p, "\"");
}

static void put_value(printed *p, const slow_json *v)
{
    const bool list = v->kind == SLOW_ARRAY || v->kind == SLOW_OBJECT;
    if (v->kind == SLOW_STRING) put_string(p, v->text);
    else if (v->kind == SLOW_NUMBER) put_text(p, v->text);
    else if (!list) put_text(p, v->kind == SLOW_NULL ? "null" : v->kind == SLOW_TRUE ? "true" : "false");
    if (!list) return;
    put_text(p, v->kind == SLOW_OBJECT ? "{" : "[");
    for (const slow_json *m = v->first; m; m = m->next) {
        if (m != v->first) put_text(p, ",");
        if (m->name) put_string(p, m->name);
        if (m->name) put_text(p, ":");
        put_value(p, m);
    }
    put_text(p, v->kind == SLOW_OBJECT ? "}" : "]");
}

/* How many bytes an entry's dtype and shape ask for; 0 where they make no sense or too much. */
static size_t wanted(const slow_json *entry)
{
    const slow_json *dtype = slow_json_member(entry, "dtype"), *shape = slow_json_member(entry, "shape");
    if (!dtype || dtype->kind != SLOW_STRING || !shape || shape->kind != SLOW_ARRAY) return 0;
    const char *digits = dtype->text + strcspn(dtype->text, "0123456789");
    size_t n = strcmp(dtype->text, "BOOL") == 0 ? 8 : (size_t)atoi(digits);
    for (const slow_json *d = shape->first; d; d = d->next) {
        int64_t dim;
        if (!slow_json_integer(d, &dim) || dim < 0 || dim > 4096) return 0;
        n *= (size_t)dim;
        if (n > 1 << 16) return 0;
    }
    return n / 8;
}

static void set_number(slow_json *v, size_t to)
{
    char text[24];
    if (v->kind != SLOW_NUMBER) return;
    snprintf(text, sizeof text, "%zu", to);
    free(v->text);
    v->text = strdup(text);
    if (!v->text) abort();
}

size_t fuzz_lay_out_safetensors(uint8_t *data, size_t size, size_t max_size, fuzz_rng *r)
{
    const size_t header = header_size(data, size);
    slow_json *v = size < 8 ? NULL : slow_json_read((const char *)data + 8, header, 3);
    printed p = {.s = malloc(max_size), .room = max_size < 8 ? 0 : max_size - 8};
    size_t at = 0;
    if (!p.s) abort();
    for (slow_json *m = v && v->kind == SLOW_OBJECT ? v->first : NULL; m; m = m->next) {
        const slow_json *offsets = slow_json_member(m, "data_offsets");
        if (!offsets || offsets->kind != SLOW_ARRAY || offsets->n != 2) continue;
        const size_t n = wanted(m);
        set_number(offsets->first, at);
        set_number(offsets->first->next, at += n);
    }
    if (v) put_value(&p, v);
    if (v && !p.full && p.n + at <= p.room) {
        set_length(data, p.n);
        memcpy(data + 8, p.s, p.n);
        size = 8 + p.n + at;
        for (size_t i = size - at; i < size; i++) data[i] = (uint8_t)fuzz_next(r);
    }
    slow_json_free(v);
    free(p.s);
    return size;
}

/* -- changes ---------------------------------------------------------------------------------------- */

static size_t change_header(uint8_t *data, size_t size, size_t max_size, const fuzz_json_stock *stock, fuzz_rng *r)
{
    const size_t header = header_size(data, size), behind = size - 8 - header;
    char *text = malloc(max_size);
    if (!text) abort();
    memcpy(text, data + 8, header);
    const size_t n = fuzz_mutate_json(text, header, max_size - 8 - behind, stock, r);
    memmove(data + 8 + n, data + 8 + header, behind);
    memcpy(data + 8, text, n);
    free(text);
    if (fuzz_below(r, 16)) set_length(data, n);
    return 8 + n + behind;
}

static size_t change_data(uint8_t *data, size_t size, size_t max_size, fuzz_rng *r)
{
    const size_t n = 1 + fuzz_below(r, 9);
    switch (fuzz_below(r, 3)) {
    case 0: return size > n ? size - n : 0;
    case 1:
        if (size) data[size - 1 - fuzz_below(r, size)] ^= (uint8_t)(1u << fuzz_below(r, 8));
        return size;
    default:
        if (max_size - size < n) return size;
        memset(data + size, (int)fuzz_below(r, 256), n);
        return size + n;
    }
}

static size_t change_length(uint8_t *data, size_t size, fuzz_rng *r)
{
    static const uint64_t list[] = {0, 1, 99999999, 100000000, 100000001, UINT64_C(1) << 63, UINT64_MAX};
    const size_t header = header_size(data, size), n = sizeof list / sizeof *list;
    const uint64_t which = fuzz_below(r, n + 2);
    set_length(data, which < n ? (size_t)list[which] : header + which - n);
    return size;
}

size_t fuzz_mutate_safetensors(uint8_t *data, size_t size, size_t max_size, const fuzz_json_stock *stock, fuzz_rng *r)
{
    if (max_size < 16) return LLVMFuzzerMutate(data, size, max_size);
    if (size < 10) { /* the smallest file there is */
        memcpy(data, "\2\0\0\0\0\0\0\0{}", 10);
        return 10;
    }
    const uint64_t which = fuzz_below(r, 32);
    if (which == 0) return change_length(data, size, r);
    if (which < 3) return LLVMFuzzerMutate(data, size, max_size);
    if (which < 6) return change_data(data, size, max_size, r);
    if (which < 10) return fuzz_lay_out_safetensors(data, size, max_size, r);
    for (uint64_t i = 1 + fuzz_below(r, 3); i > 0; i--) size = change_header(data, size, max_size, stock, r);
    return fuzz_below(r, 2) ? fuzz_lay_out_safetensors(data, size, max_size, r) : size;
}

size_t fuzz_cross_safetensors(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
                              size_t max_size, fuzz_rng *r)
{
    const size_t size = a_size < max_size ? a_size : max_size;
    memcpy(out, a, size);
    if (size < 10 || max_size < 16 || b_size < 10) return size;
    const fuzz_json_stock stock = {.other = (const char *)b + 8, .n_other = header_size(b, b_size)};
    const size_t n = change_header(out, size, max_size, &stock, r);
    return fuzz_lay_out_safetensors(out, n, max_size, r);
}
