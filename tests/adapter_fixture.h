/* Adapters made on the spot, for the base golden/merges/bases/plain-bf16: a config text and a file of tensors. */
#pragma once

#include "convert/adapter.h"
#include "convert/merge.h"
#include "oracle/random.h"
#include "tests/convert_test.h"

#define BASES "golden/merges/bases/"
#define PEFT_PREFIX "base_model.model."

enum { MADE_TENSORS = 32 };

/* One tensor of a file to be written. */
typedef struct {
    char name[160];
    fh1_dtype dtype;
    int rank;
    int64_t shape[2];
    double scale;   /* of the normal numbers in it */
    double special; /* element 0 gets it when it is not 0 */
} made_tensor;

typedef struct {
    made_tensor t[MADE_TENSORS];
    int n;
    char config[1024];
} made_adapter;

static inline made_tensor *made_add(made_adapter *a, const char *name, int64_t n0, int64_t n1)
{
    ck_assert_int_lt(a->n, MADE_TENSORS);
    made_tensor *t = &a->t[a->n++];
    *t = (made_tensor){.dtype = FH1_F32, .rank = n1 ? 2 : 1, .shape = {n0, n1}, .scale = 0.25};
    snprintf(t->name, sizeof t->name, PEFT_PREFIX "%s", name);
    return t;
}

static inline void made_lora(made_adapter *a, const char *module, int64_t out, int64_t in, int64_t r)
{
    char name[128];
    snprintf(name, sizeof name, "%s.lora_A.weight", module);
    made_add(a, name, r, in);
    snprintf(name, sizeof name, "%s.lora_B.weight", module);
    made_add(a, name, out, r);
}

static inline made_tensor *made_find(made_adapter *a, const char *end)
{
    for (int i = 0; i < a->n; i++)
        if (strstr(a->t[i].name, end)) return &a->t[i];
    ck_abort_msg("no tensor %s", end);
}

static inline void made_remove(made_adapter *a, const char *end)
{
    made_tensor *t = made_find(a, end);
    memmove(t, t + 1, (size_t)(&a->t[a->n] - t - 1) * sizeof *t);
    a->n--;
}

/* Config keys come as JSON members: "\"r\":2,\"lora_alpha\":4". */
static inline void made_config(made_adapter *a, const char *members)
{
    snprintf(a->config, sizeof a->config, "{\"peft_type\":\"LORA\"%s%s}", *members ? "," : "", members);
}

static inline void made_write(const made_adapter *a, const char *dir)
{
    char path[4096];
    cvt_st_writer *w;
    mkdir(dir, 0777);
    write_text(dir, "adapter_config.json", a->config);
    path_in(path, sizeof path, dir, "adapter_model.safetensors");
    expect_ok(cvt_st_writer_new(path, true, &w), "writer");
    for (int i = 0; i < a->n; i++)
        expect_ok(cvt_st_writer_declare(w, a->t[i].name, a->t[i].dtype, a->t[i].rank, a->t[i].shape), a->t[i].name);
    for (int i = 0; i < a->n; i++) {
        const made_tensor *t = &a->t[i];
        int64_t n = t->shape[0] * (t->rank == 2 ? t->shape[1] : 1);
        char *data = malloc((size_t)n * 8);
        fh1_tensor view = fh1_view1(data, t->dtype, n);
        fh1_stream s = fh1_stream_open(5, t->name);
        for (int64_t k = 0; k < n; k++)
            fh1_set(&view, k, t->scale == 0 ? 0 : (double)(float)(t->scale * fh1_random_normal(s, (uint64_t)k)));
        if (t->special != 0) fh1_set(&view, 0, t->special);
        expect_ok(cvt_st_writer_put(w, t->name, 0, data, n), t->name);
        free(data);
    }
    expect_ok(cvt_st_writer_commit(w), "commit");
    cvt_st_writer_free(w);
}

static inline cvt_ckpt *open_base(const char *name)
{
    char path[256];
    cvt_ckpt *c;
    snprintf(path, sizeof path, BASES "%s", name);
    expect_ok(cvt_ckpt_open(path, &c), path);
    return c;
}

/* Geometry of the bases. */
static inline const cvt_ckpt_tensor *tensor_of(const cvt_ckpt *c, const char *name)
{
    int64_t t = cvt_ckpt_find(c, name);
    ck_assert_msg(t >= 0, "no tensor %s", name);
    return &c->tensors[t];
}

/* A whole tensor as numbers, malloc'ed. */
static inline double *numbers_of(cvt_ckpt *c, const char *name, int64_t *n)
{
    int64_t t = cvt_ckpt_find(c, name);
    ck_assert_msg(t >= 0, "no tensor %s", name);
    const cvt_ckpt_tensor *e = &c->tensors[t];
    uint64_t bytes = cvt_ckpt_tensor_bytes(e);
    *n = (int64_t)(bytes * 8 / (uint64_t)fh1_dtype_bits(e->dtype));
    char *raw = malloc(bytes + 1);
    double *v = malloc((size_t)*n * sizeof *v);
    ck_assert(raw && v);
    expect_ok(cvt_ckpt_read_rows(c, t, 0, cvt_ckpt_rows(e), raw), name);
    fh1_to_f64(v, raw, e->dtype, *n);
    free(raw);
    return v;
}
