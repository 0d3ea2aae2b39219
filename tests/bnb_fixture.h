/* What the tests of convert/bnb.h share: every tensor of a folder in memory, to be changed and written again, and a
 * decoder of their own. */
#pragma once

#include "convert/bnb.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "convert/safetensors.h"
#include "oracle/round.h"
#include "tests/convert_test.h"

#include <math.h>

#define BNB_MIXED "golden/bnb/mixed"

typedef struct {
    char name[160];
    fh1_dtype dtype;
    int rank;
    int64_t shape[FH1_MAX_RANK];
    size_t n;
    unsigned char *data;
    bool gone;
} bnb_tensor;

typedef struct {
    bnb_tensor *t;
    int64_t n;
    char *config;
} bnb_folder;

static inline bnb_folder bnb_load(const char *dir)
{
    bnb_folder f = {0};
    cvt_ckpt *c;
    size_t n;
    expect_ok(cvt_ckpt_open(dir, &c), dir);
    f.n = c->n_tensors;
    f.t = calloc((size_t)f.n + 1, sizeof *f.t);
    ck_assert_ptr_nonnull(f.t);
    for (int64_t i = 0; i < f.n; i++) {
        const cvt_ckpt_tensor *e = &c->tensors[i];
        bnb_tensor *t = &f.t[i];
        snprintf(t->name, sizeof t->name, "%s", e->name);
        t->dtype = e->dtype;
        t->rank = e->rank;
        memcpy(t->shape, e->shape, sizeof t->shape);
        t->n = cvt_ckpt_tensor_bytes(e);
        t->data = malloc(t->n + 64);
        ck_assert_ptr_nonnull(t->data);
        expect_ok(cvt_ckpt_read(c, i, 0, t->n, t->data), t->name);
    }
    cvt_ckpt_close(c);
    f.config = read_bytes(dir, "config.json", &n);
    return f;
}

static inline void bnb_free(bnb_folder *f)
{
    for (int64_t i = 0; i < f->n; i++) free(f->t[i].data);
    free(f->t);
    free(f->config);
}

static inline bnb_tensor *bnb_find(bnb_folder *f, const char *name)
{
    for (int64_t i = 0; i < f->n; i++)
        if (strcmp(f->t[i].name, name) == 0 && !f->t[i].gone) return &f->t[i];
    return NULL;
}

static inline bnb_tensor *bnb_part(bnb_folder *f, const char *weight, const char *suffix)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", weight, suffix);
    return bnb_find(f, name);
}

/* As one file. */
static inline void bnb_store(const bnb_folder *f, const char *dir)
{
    char path[4096];
    cvt_st_writer *w;
    write_text(dir, "config.json", f->config);
    path_in(path, sizeof path, dir, "model.safetensors");
    expect_ok(cvt_st_writer_new(path, true, &w), path);
    expect_ok(cvt_st_writer_meta(w, "format", "pt"), path);
    for (int64_t i = 0; i < f->n; i++)
        if (!f->t[i].gone)
            expect_ok(cvt_st_writer_declare(w, f->t[i].name, f->t[i].dtype, f->t[i].rank, f->t[i].shape), path);
    for (int64_t i = 0; i < f->n; i++)
        if (!f->t[i].gone && f->t[i].n)
            expect_ok(cvt_st_writer_put(w, f->t[i].name, 0, f->t[i].data,
                                        (int64_t)(f->t[i].n * 8 / (size_t)fh1_dtype_bits(f->t[i].dtype))),
                      f->t[i].name);
    expect_ok(cvt_st_writer_commit(w), path);
    cvt_st_writer_free(w);
}

/* ---- a decoder that shares nothing with the one under test ---- */

typedef enum {
    BNB_RIGHT,
    BNB_NIBBLES_SWAPPED,
    BNB_OFFSET_DROPPED,
    BNB_DIVIDED_BY_127,
    BNB_BLOCKS_PER_ROW,
    BNB_OTHER_TABLE,
    BNB_SCALE_ROUNDED,
    BNB_WAYS
} bnb_way;

static inline float bnb_float(const bnb_tensor *t, int64_t i)
{
    float v;
    memcpy(&v, t->data + (size_t)i * sizeof v, sizeof v);
    return v;
}

static inline double bnb_number(const char *json, const char *key)
{
    const char *at = strstr(json, key);
    return at ? atof(at + strlen(key) + 3) : 0; /* "key": 1.5 */
}

/* Scale of block k; every product and sum is rounded to f32 by the stores. */
static inline float bnb_scale(bnb_folder *f, const char *weight, const char *json, int64_t k, bnb_way way)
{
    bnb_tensor *absmax = bnb_part(f, weight, ".absmax"), *outer = bnb_part(f, weight, ".nested_absmax");
    if (!outer) return bnb_float(absmax, k);
    int64_t per = (int64_t)bnb_number(json, "nested_blocksize");
    volatile float product =
        bnb_float(bnb_part(f, weight, ".nested_quant_map"), absmax->data[k]) * bnb_float(outer, k / per);
    volatile float sum = product + (float)(way == BNB_OFFSET_DROPPED ? 0.0 : bnb_number(json, "nested_offset"));
    return sum;
}

/* Element i of a weight [rows, width] in f32, before it is rounded to the type of the state. */
static inline float bnb_element(bnb_folder *f, const char *weight, const char *json, int64_t width, int64_t i,
                                bnb_way way)
{
    bnb_tensor *w = bnb_find(f, weight);
    if (!json) {
        char name[256];
        snprintf(name, sizeof name, "%.*sSCB", (int)(strlen(weight) - strlen("weight")), weight);
        float scb = bnb_float(bnb_find(f, name), i / width), q = (float)(signed char)w->data[i];
        volatile float product = q * scb, unit = scb / 127.0f;
        volatile float v = way == BNB_DIVIDED_BY_127  ? product / 127.0f
                           : way == BNB_SCALE_ROUNDED ? q * unit
                                                      : product * (float)(1.0 / 127.0);
        return v;
    }
    int64_t block = (int64_t)bnb_number(json, "blocksize"), k = i / block;
    if (way == BNB_BLOCKS_PER_ROW) k = i / width * (width / block) + i % width / block;
    bool high = (i % 2 == 0) != (way == BNB_NIBBLES_SWAPPED);
    int code = high ? w->data[i / 2] / 16 : w->data[i / 2] % 16;
    /* The file has the table too; bitsandbytes does not look at it. */
    float value = bnb_float(bnb_part(f, weight, ".quant_map"), way == BNB_OTHER_TABLE ? (code ^ 1) : code);
    volatile float v = value * bnb_scale(f, weight, json, k, way);
    return v;
}
