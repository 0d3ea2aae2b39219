/* Masks: what is refused, what means the same, and who sees what. */
#include "tests/edge/edge_padding.h"

#include "convert/safetensors.h"
#include "golden/trace.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { B = 3, FIRST = 8, MORE = 6, ALL = FIRST + MORE };

/* Three rows of FIRST + MORE columns, all real, in two calls. */
typedef struct {
    edge_run *r;
    const fh1_model *m;
    fh1_engine *e;
    fh1_cache *cache;
    int64_t ids[B * ALL], next[B * MORE];
    int64_t mask[B * ALL]; /* of the second call */
} two_calls;

static fh1_status after_first(two_calls *k)
{
    int64_t first[B * FIRST];
    edge_ids(k->r, "words under masks", 0, k->m->config.V, B * ALL, k->ids);
    for (int64_t i = 0; i < B * ALL; ++i) {
        k->mask[i] = 1;
        if (i % ALL < FIRST) first[i / ALL * FIRST + i % ALL] = k->ids[i];
        else k->next[i / ALL * MORE + i % ALL - FIRST] = k->ids[i];
    }
    FH1_TRY(edge_engine(k->r, k->m, &k->e));
    FH1_TRY(fh1_cache_new(&k->m->config, k->e->dtype, B, &k->cache));
    return edge_forward(k->e, k->m, &(fh1_batch){.B = B, .T = FIRST, .ids = first}, k->cache, 1, NULL);
}

static fh1_batch second(const two_calls *k, const int64_t *mask, int64_t len)
{
    return (fh1_batch){.B = B, .T = MORE, .ids = k->next, .mask = mask, .mask_len = len};
}

/* Mask readers of real stacks, in front of the engine. */
static fh1_status call_with_mask(two_calls *k, fh1_batch b, const char *what)
{
    int64_t read[2 * B * ALL];
    const int64_t n = b.mask ? b.B * b.mask_len : 0;
    memcpy(read, b.mask, (size_t)n * sizeof *read);
    if (edge_plants(k->r, "mask_read_as_boolean")) /* any number but 0 is a token */
        for (int64_t i = 0; i < n; ++i) read[i] = read[i] != 0;
    if (edge_plants(k->r, "mask_read_in_32_bits"))
        for (int64_t i = 0; i < n; ++i) read[i] = (int64_t)(uint32_t)read[i];
    b.mask = read;
    if (edge_plants(k->r, "hole_masked_in_attention_only")) b.mask = NULL, b.mask_len = 0; /* the mixer has no mask */
    if (edge_plants(k->r, "short_mask_filled_with_ones") && b.mask_len < k->cache->n_cols + b.T) {
        const int64_t len = k->cache->n_cols + b.T;
        for (int64_t i = 0; i < b.B * len; ++i) {
            const int64_t t = i % len - (len - b.mask_len);
            read[B * ALL + i] = t < 0 ? 1 : read[i / len * b.mask_len + t];
        }
        b.mask = read + B * ALL;
        b.mask_len = len;
    }
    return edge_call_refused(k->r, k->e, k->m, &b, k->cache, what);
}

/* ---- D-25: holes ---- */

static fh1_status holes(two_calls *k)
{
    static const int64_t hole[][2] = {{1, 1}, {MORE - 2, 1}, {2, 2}, {1, MORE - 2}}; /* column of the call, width */
    for (size_t i = 0; i < sizeof hole / sizeof *hole; ++i)
        for (int64_t row = 0; row < B; ++row) {
            char what[64];
            int64_t mask[B * ALL];
            memcpy(mask, k->mask, sizeof mask);
            for (int64_t t = 0; t < hole[i][1]; ++t) mask[row * ALL + FIRST + hole[i][0] + t] = 0;
            snprintf(what, sizeof what, "a hole of %lld columns in row %lld", (long long)hole[i][1], (long long)row);
            FH1_TRY(call_with_mask(k, second(k, mask, ALL), what));
        }
    int64_t past[B * ALL]; /* a token that was said is not padding afterwards */
    memcpy(past, k->mask, sizeof past);
    past[1 * ALL + 3] = 0;
    return call_with_mask(k, second(k, past, ALL), "a hole in the past");
}

static fh1_status refused_masks(edge_run *r, const fh1_model *m, fh1_status (*try_all)(two_calls *k))
{
    two_calls k = {.r = r, .m = m};
    fh1_status s = after_first(&k);
    if (!s) s = try_all(&k);
    fh1_cache_free(k.cache);
    return s;
}

static fh1_status holes_on(edge_run *r, const fh1_model *m, void *data)
{
    (void)data;
    FH1_TRY(refused_masks(r, m, holes));
    /* what may be done instead: padding that ends one call and begins the next, and a row without the columns */
    const edge_plan plans[] = {{.calls = "p8x3r:2,0,1;c6l:2,1,0", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p6r:2;c4l:1", .looks = ~0ull},
                               {.calls = NULL}};
    return edge_plans(r, m, plans);
}

fh1_status edge_hole(edge_run *r)
{
    return edge_each_model(r, holes_on, NULL);
}

/* ---- D-26: what stands in a mask ---- */

static int64_t bits_of(float v)
{
    int32_t i;
    memcpy(&i, &v, sizeof i);
    return i;
}

static fh1_status values(two_calls *k)
{
    const int64_t value[] = {2,
                             -1,
                             255,
                             INT64_MIN,
                             INT64_C(1) << 32,
                             (INT64_C(1) << 32) + 1,
                             bits_of(1),
                             bits_of(-INFINITY),
                             0x3c00,
                             0x3f80,
                             0x3ff0000000000000};
    for (size_t i = 0; i < sizeof value / sizeof *value; ++i)
        for (int at = 0; at < 2; ++at) { /* at a new column and at one of the past */
            char what[64];
            int64_t mask[B * ALL];
            memcpy(mask, k->mask, sizeof mask);
            mask[1 * ALL + (at ? 2 : FIRST)] = value[i];
            snprintf(what, sizeof what, "mask value %lld", (long long)value[i]);
            FH1_TRY(call_with_mask(k, second(k, mask, ALL), what));
        }
    return NULL;
}

/* A trace file of one step whose mask [1, 4] has this type; what its reader says. */
static fh1_status read_mask(const edge_run *r, const fh1_model *m, const char *type, const void *mask, size_t bytes)
{
    const int64_t ids[4] = {1, 2, 3, 4};
    char path[128], header[512];
    gld_trace t;
    snprintf(path, sizeof path, "%s/mask.safetensors", r->folder);
    const int n =
        snprintf(header, sizeof header,
                 "{\"__metadata__\":{\"fh1.trace\":\"1\"},\"step0/input_ids\":{\"dtype\":\"I64\",\"shape\":[1,4],"
                 "\"data_offsets\":[0,32]},\"step0/attention_mask\":{\"dtype\":\"%s\",\"shape\":[1,4],"
                 "\"data_offsets\":[32,%d]}}",
                 type, (int)(32 + bytes));
    const uint64_t length = (uint64_t)n;
    FILE *f = fopen(path, "wb");
    if (!f) return fh1_fail(FH1_E_INTERNAL, "%s: cannot be written", path);
    fwrite(&length, sizeof length, 1, f);
    fwrite(header, 1, (size_t)n, f);
    fwrite(ids, sizeof ids, 1, f);
    fwrite(mask, 1, bytes, f);
    fclose(f);
    fh1_status s = gld_trace_open(path, m, NULL, &t);
    if (!s) gld_trace_free(&t);
    return s;
}

/* I64 is read; every other form of a mask is an error that names it, never a guess. */
static fh1_status mask_files(edge_run *r, const fh1_model *m)
{
    static const int64_t i64[4] = {0, 1, 1, 1};
    static const int32_t i32[4] = {0, 1, 1, 1};
    static const unsigned char boolean[4] = {0, 1, 1, 1};
    static const float f32[4] = {0, 1, 1, 1}, additive[4] = {-INFINITY, 0, 0, 0}, lowest[4] = {-3.4e38f, 0, 0, 0};
    static const double f64[4] = {0, 1, 1, 1};
    const struct {
        const char *type;
        const void *mask;
        size_t bytes;
    } others[] = {{"BOOL", boolean, 4}, {"U8", boolean, 4},    {"I32", i32, 16},   {"F32", f32, 16},
                  {"F64", f64, 32},     {"F32", additive, 16}, {"F32", lowest, 16}};
    char line[512];
    fh1_status s = read_mask(r, m, "I64", i64, 32);
    FH1_TRY(edge_require(r, !s, "a mask of I64: %s", s ? fh1_status_line(s, line, sizeof line) : ""));
    for (size_t i = 0; i < sizeof others / sizeof *others; ++i) {
        /* a reader that casts whatever is there to integers sees this */
        const bool cast = edge_plants(r, "file_mask_cast_to_integers");
        s = cast ? read_mask(r, m, "I64", i64, 32) : read_mask(r, m, others[i].type, others[i].mask, others[i].bytes);
        FH1_TRY(edge_require(r, s && s->code == FH1_E_INPUT, "a mask of %s is accepted", others[i].type));
    }
    return NULL;
}

/* All ones mean what no mask means; documents are no factors. */
static fh1_status values_on(edge_run *r, const fh1_model *m, void *data)
{
    static double masked[B * MORE * 32], plain[B * MORE * 32];
    two_calls a = {.r = r, .m = m}, b = {.r = r, .m = m};
    (void)data;
    FH1_TRY(refused_masks(r, m, values));
    FH1_TRY(mask_files(r, m));
    fh1_status s = after_first(&a);
    if (!s) s = after_first(&b);
    const fh1_batch ones = second(&a, a.mask, ALL), none = second(&b, NULL, 0);
    if (!s) s = edge_forward(a.e, m, &ones, a.cache, MORE, masked);
    if (!s) s = edge_forward(b.e, m, &none, b.cache, MORE, plain);
    if (!s) s = edge_same_bits(r, plain, masked, B * MORE * m->config.V, "a mask of ones");
    if (!s) s = edge_same_cache(r, b.cache, a.cache, "a mask of ones");
    fh1_cache_free(a.cache);
    fh1_cache_free(b.cache);
    return s ? s : edge_check(r, m, "p9x3k:4/2,5;c3", r->seed);
}

fh1_status edge_mask_values(edge_run *r)
{
    return edge_each_model(r, values_on, NULL);
}

/* ---- D-30: a mask of the new columns alone ---- */

static fh1_status mask_lengths(two_calls *k)
{
    const int64_t len[] = {MORE, MORE - 1, ALL - 1, FIRST, 1, 0};
    for (size_t i = 0; i < sizeof len / sizeof *len; ++i) {
        char what[64];
        snprintf(what, sizeof what, "a mask of %lld columns for %d", (long long)len[i], (int)ALL);
        FH1_TRY(call_with_mask(k, second(k, k->mask, len[i]), what));
    }
    int64_t longer[B * (ALL + 1)];
    for (int64_t i = 0; i < B * (ALL + 1); ++i) longer[i] = 1;
    const fh1_batch b = second(k, longer, ALL + 1);
    return edge_call_refused(k->r, k->e, k->m, &b, k->cache, "a mask that is too long");
}

static fh1_status mask_lengths_on(edge_run *r, const fh1_model *m, void *data)
{
    (void)data;
    FH1_TRY(refused_masks(r, m, mask_lengths));
    const edge_plan plans[] = {{.calls = "p6x3l:1,0,2;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p6x3l:1,0,2;c5r:0,1,0;d1", .looks = ~0ull},
                               {.calls = "p5l:1;d1", .looks = ~0ull},
                               {.calls = NULL}};
    return edge_plans(r, m, plans);
}

fh1_status edge_mask_length(edge_run *r)
{
    return edge_each_model(r, mask_lengths_on, NULL);
}
