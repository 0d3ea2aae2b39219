#include "convert/st_layout.h"

#include "convert/json_scan.h" /* cvt_utf8_len */
#include "convert/text.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 100000000u /* what the readers accept */

/* The reference writer's order of types, by their place in its enumeration, from its end. */
static const fh1_dtype file_order[] = {
    FH1_U64, FH1_I64, FH1_F64,     FH1_C64,         FH1_F32,         FH1_U32,     FH1_I32,     FH1_BF16,
    FH1_F16, FH1_U16, FH1_I16,     FH1_F8_E5M2FNUZ, FH1_F8_E4M3FNUZ, FH1_F8_E8M0, FH1_F8_E4M3, FH1_F8_E5M2,
    FH1_I8,  FH1_U8,  FH1_F6_E3M2, FH1_F6_E2M3,     FH1_F4,          FH1_BOOL,
};
_Static_assert(sizeof file_order / sizeof *file_order == FH1_FILE_DTYPES, "every type of a file has a place");

static fh1_status in_tensor(const char *name, fh1_status s)
{
    return fh1_where(s, "tensor \"%.120s\"", name);
}

fh1_status cvt_st_check_text(const char *text)
{
    for (size_t i = 0, n = strlen(text), step; i < n; i += step) {
        step = cvt_utf8_len(text + i, n - i);
        if (step == 0) return FH1_BAD("a name or metadata text is not valid UTF-8");
    }
    return NULL;
}

fh1_status cvt_st_check_name(const char *name)
{
    if (strcmp(name, "__metadata__") == 0)
        return FH1_BAD("a tensor cannot have this name: readers take it for the metadata");
    return cvt_st_check_text(name);
}

fh1_status cvt_st_size(fh1_dtype dtype, int rank, const int64_t *shape, int64_t *n_elems, uint64_t *n_bytes)
{
    int64_t bits;
    *n_elems = 1;
    *n_bytes = 0;
    if (rank < 0 || rank > FH1_MAX_RANK || (unsigned)dtype >= FH1_FILE_DTYPES)
        return fh1_fail(FH1_E_INTERNAL, "a tensor of rank %d cannot be written", rank);
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || !fh1_mul_i64(*n_elems, shape[i], n_elems))
            return FH1_BAD("the product of the shape overflows at dimension %d", i);
    if (!fh1_mul_i64(*n_elems, fh1_dtype_bits(dtype), &bits) || bits % 8 != 0)
        return FH1_BAD("%lld elements of %s are no whole number of bytes", (long long)*n_elems, fh1_dtype_name(dtype));
    *n_bytes = (uint64_t)bits / 8;
    return NULL;
}

static int file_rank(fh1_dtype t)
{
    int i = 0;
    while (file_order[i] != t) i++;
    return i;
}

static int by_file_order(const void *a, const void *b)
{
    const cvt_st_item *x = a, *y = b;
    int rank = file_rank(x->dtype) - file_rank(y->dtype);
    return rank ? rank : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static fh1_status refuse_duplicates(const cvt_st_item *items, size_t n)
{
    const char **names = malloc((n + 1) * sizeof *names);
    const char *twice = NULL;
    if (!names) return fh1_no_memory(n * sizeof *names, "the names of tensors");
    for (size_t i = 0; i < n; i++) names[i] = items[i].name;
    if (n > 1) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 1; i < n && !twice; i++)
        if (strcmp(names[i - 1], names[i]) == 0) twice = names[i];
    free(names);
    return twice ? in_tensor(twice, FH1_BAD("two tensors have the same name")) : NULL;
}

static fh1_status place(cvt_st_item *items, size_t n)
{
    uint64_t at = 0;
    if (n > 1) qsort(items, n, sizeof *items, by_file_order);
    for (size_t i = 0; i < n; i++) {
        items[i].begin = at;
        at += items[i].n_bytes;
        if (at > INT64_MAX / 2) return in_tensor(items[i].name, FH1_BAD("the tensors are too large for a file"));
    }
    return refuse_duplicates(items, n);
}

static void add_json(cvt_text *b, const cvt_st_item *items, size_t n, const cvt_pair *meta, size_t n_meta)
{
    cvt_text_add(b, "{");
    for (size_t i = 0; i < n_meta; i++) {
        cvt_text_add(b, i ? "," : "\"__metadata__\":{");
        cvt_text_json(b, meta[i].key, false);
        cvt_text_add(b, ":");
        cvt_text_json(b, meta[i].value, false);
    }
    if (n_meta) cvt_text_add(b, n ? "}," : "}");
    for (size_t i = 0; i < n; i++) {
        const cvt_st_item *t = &items[i];
        if (i) cvt_text_add(b, ",");
        cvt_text_json(b, t->name, false);
        cvt_text_add(b, ":{\"dtype\":\"%s\",\"shape\":[", fh1_dtype_name(t->dtype));
        for (int k = 0; k < t->rank; k++) cvt_text_add(b, "%s%lld", k ? "," : "", (long long)t->shape[k]);
        cvt_text_add(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->begin,
                     (unsigned long long)(t->begin + t->n_bytes));
    }
    cvt_text_add(b, "}");
    while (!b->failed && b->n % 8 != 0) cvt_text_add(b, " ");
}

fh1_status cvt_st_layout(cvt_st_item *items, size_t n, const cvt_pair *meta, size_t n_meta, char **header,
                         size_t *header_bytes)
{
    cvt_text b = {0};
    *header = NULL;
    *header_bytes = 0;
    FH1_TRY(place(items, n));
    cvt_text_bytes(&b, "\0\0\0\0\0\0\0", 8);
    add_json(&b, items, n, meta, n_meta);
    fh1_status s = NULL;
    if (b.failed) s = fh1_no_memory(b.n, "a safetensors header");
    else if (b.n - 8 > MAX_HEADER)
        s = fh1_found(
            fh1_expected(FH1_BAD("the header would be too large for readers"), "at most %u bytes", MAX_HEADER), "%zu",
            b.n - 8);
    if (s) {
        free(b.s);
        return s;
    }
    for (int i = 0; i < 8; i++) b.s[i] = (char)(unsigned char)((uint64_t)(b.n - 8) >> (8 * i));
    *header = b.s;
    *header_bytes = b.n;
    return NULL;
}
