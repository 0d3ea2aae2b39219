/* What the tests of the native container share: a checkpoint in memory with everything that a folder may hold, and a
 * comparison of two checkpoints down to the last byte. */
#pragma once

#include "convert/native.h"
#include "oracle/random.h"
#include "tests/convert_test.h"

#define MIB ((int64_t)1 << 20)

typedef struct {
    unsigned char *data[64];
    int n;
} memory_state;

static inline fh1_status memory_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    const memory_state *m = c->state;
    const uint64_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
    memcpy(dst, m->data[c->tensors[t].source] + (uint64_t)first * width, (uint64_t)n * width);
    return NULL;
}

static inline void memory_free(cvt_ckpt *c)
{
    memory_state *m = c->state;
    for (int i = 0; i < m->n; i++) free(m->data[i]);
    free(m);
}

static const cvt_ckpt_ops memory_ops = {.read_rows = memory_rows, .free_state = memory_free};

static inline cvt_ckpt *memory_new(void)
{
    cvt_ckpt *c;
    memory_state *m = calloc(1, sizeof *m);
    ck_assert_ptr_nonnull(m);
    expect_ok(cvt_ckpt_new("a checkpoint in memory", &memory_ops, m, &c), "a checkpoint");
    return c;
}

/* Bytes that look like those of trained weights of the type: a bell curve where it is a float, else any bytes. */
static inline void fill_weights(void *dst, fh1_dtype t, int64_t n_elems, uint64_t n_bytes, uint64_t seed)
{
    const fh1_stream s = fh1_stream_open(seed, "weights");
    fh1_tensor v = fh1_view1(dst, t, n_elems);
    if (fh1_dtype_is_float(t))
        for (int64_t i = 0; i < n_elems; i++) fh1_set(&v, i, 0.02 * fh1_random_normal(s, (uint64_t)i));
    else
        for (uint64_t i = 0; i < n_bytes; i++) ((unsigned char *)dst)[i] = (unsigned char)fh1_random_u64(s, i);
}

static inline void add_weights(cvt_ckpt *c, int64_t file, const char *name, fh1_dtype t, int rank, const int64_t *shape)
{
    memory_state *m = c->state;
    ck_assert_int_lt(m->n, 64);
    expect_ok(cvt_ckpt_push_tensor(c, name, t, rank, shape, file, 0, m->n), name);
    int64_t n_elems = 1;
    for (int i = 0; i < rank; i++) n_elems *= shape[i];
    const uint64_t bytes = (uint64_t)n_elems * (uint64_t)fh1_dtype_bits(t) / 8;
    unsigned char *data = malloc(bytes + 1);
    ck_assert_ptr_nonnull(data);
    fill_weights(data, t, n_elems, bytes, (uint64_t)m->n);
    m->data[m->n++] = data;
}

static inline void add_side_file(cvt_ckpt *c, const char *name, const void *data, size_t n)
{
    expect_ok(cvt_ckpt_push_file(c, name, false, n, 0), name);
    cvt_ckpt_file *f = &c->files[c->n_files - 1];
    f->data = malloc(n + 1);
    ck_assert_ptr_nonnull(f->data);
    memcpy(f->data, data, n);
}

static inline int64_t add_weight_file(cvt_ckpt *c, const char *name)
{
    expect_ok(cvt_ckpt_push_file(c, name, true, 0, 0), name);
    expect_ok(cvt_ckpt_push_meta(&c->files[c->n_files - 1], "format", "pt"), name);
    return c->n_files - 1;
}

static inline cvt_ckpt *memory_done(cvt_ckpt *c)
{
    expect_ok(cvt_ckpt_finish(c), "the tables");
    expect_ok(cvt_ckpt_lay_out(c), "the headers");
    return c;
}

/* A few kB: side files, a sub-folder, two files of weights, split and plain tensors, an empty one and a scalar. */
static inline cvt_ckpt *small_checkpoint(void)
{
    cvt_ckpt *c = memory_new();
    add_side_file(c, "config.json", "{\"model_type\": \"falcon_h1\"}\n", 28);
    add_side_file(c, "extra/a note.txt", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                  76);
    add_side_file(c, "empty", "", 0);
    const int64_t one = add_weight_file(c, "model-1.safetensors"), two = add_weight_file(c, "model-2.safetensors");
    add_weights(c, one, "a.weight", FH1_BF16, 2, (const int64_t[]){20, 31});
    add_weights(c, one, "a.scale", FH1_F32, 1, (const int64_t[]){5});
    add_weights(c, two, "b.weight", FH1_F16, 2, (const int64_t[]){3, 100});
    add_weights(c, two, "b.none", FH1_BF16, 2, (const int64_t[]){0, 7});
    add_weights(c, two, "b.one", FH1_I64, 0, NULL);
    return memory_done(c);
}

static inline int64_t find_tensor(const cvt_ckpt *c, const char *name)
{
    const int64_t t = cvt_ckpt_find(c, name);
    ck_assert_msg(t >= 0, "no tensor %s", name);
    return t;
}

static inline bool same_tensor(cvt_ckpt *a, cvt_ckpt *b, int64_t t)
{
    const cvt_ckpt_tensor *x = &a->tensors[t], *y = &b->tensors[t];
    bool same = strcmp(x->name, y->name) == 0 && x->dtype == y->dtype && x->rank == y->rank && x->file == y->file &&
                x->begin == y->begin && memcmp(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape) == 0;
    if (!same) return false;
    const uint64_t n = cvt_ckpt_tensor_bytes(x);
    unsigned char *p = malloc(n + 1), *q = malloc(n + 1);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_nonnull(q);
    expect_ok(cvt_native_read_tensor(a, t, p), x->name);
    expect_ok(cvt_ckpt_read_rows(b, t, 0, cvt_ckpt_rows(y), q), x->name);
    same = memcmp(p, q, n) == 0;
    free(p);
    free(q);
    return same;
}

static inline bool same_file(cvt_ckpt *a, cvt_ckpt *b, int64_t i)
{
    const cvt_ckpt_file *x = &a->files[i], *y = &b->files[i];
    if (strcmp(x->name, y->name) != 0 || x->weights != y->weights || x->bytes != y->bytes || x->n_meta != y->n_meta)
        return false;
    if (x->weights) return x->header_bytes == y->header_bytes && memcmp(x->header, y->header, x->header_bytes) == 0;
    char *p = malloc(x->bytes + 1), *q = malloc(x->bytes + 1);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_nonnull(q);
    expect_ok(cvt_ckpt_read_file(a, i, 0, x->bytes, p), x->name);
    expect_ok(cvt_ckpt_read_file(b, i, 0, x->bytes, q), x->name);
    const bool same = memcmp(p, q, x->bytes) == 0;
    free(p);
    free(q);
    return same;
}

/* Tables, headers and every byte; the name of the first thing that differs, NULL when nothing does. */
static inline const char *first_difference(cvt_ckpt *a, cvt_ckpt *b)
{
    if (a->n_files != b->n_files || a->n_tensors != b->n_tensors) return "the tables";
    for (int64_t i = 0; i < a->n_files; i++)
        if (!same_file(a, b, i)) return a->files[i].name;
    for (int64_t i = 0; i < a->n_tensors; i++)
        if (!same_tensor(a, b, i)) return a->tensors[i].name;
    return NULL;
}

static inline void write_native(cvt_ckpt *c, const char *path)
{
    const cvt_write_options o = {.force = true};
    expect_ok(cvt_native_write(c, path, &o), path);
}

static inline cvt_ckpt *open_native(const char *path)
{
    cvt_ckpt *c;
    expect_ok(cvt_native_open(path, &c), path);
    return c;
}

/* Opens the file and reads every byte of it. */
static inline fh1_status read_everything(const char *path)
{
    cvt_ckpt *c;
    FH1_TRY(cvt_native_open(path, &c));
    fh1_status s = NULL;
    for (int64_t i = 0; i < c->n_files && !s; i++) {
        char *data = malloc(c->files[i].bytes + 1);
        ck_assert_ptr_nonnull(data);
        if (!c->files[i].weights) s = cvt_ckpt_read_file(c, i, 0, c->files[i].bytes, data);
        free(data);
    }
    for (int64_t i = 0; i < c->n_tensors && !s; i++) {
        const uint64_t n = cvt_ckpt_tensor_bytes(&c->tensors[i]);
        char *data = malloc(n + 1);
        ck_assert_ptr_nonnull(data);
        s = cvt_ckpt_read(c, i, 0, n, data);
        free(data);
    }
    cvt_ckpt_close(c);
    return s;
}
