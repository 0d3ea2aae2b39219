/* A view with every float in another type, rounded once. */
#include "convert/checkpoint.h"
#include "convert/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096 /* elements converted at a time */

static bool any_infinite(const double *v, int64_t n)
{
    bool any = false;
    for (int64_t i = 0; i < n; i++) any |= isinf(v[i]);
    return any;
}

/* Infinite after the rounding and finite before it? */
static fh1_status check_overflow(const double *before, const void *after, fh1_dtype dtype, int64_t n)
{
    double now[BLOCK];
    fh1_to_f64(now, after, dtype, n);
    if (!any_infinite(now, n)) return NULL;
    for (int64_t i = 0; i < n; i++)
        if (isinf(now[i]) && !isinf(before[i]))
            return fh1_hint(
                fh1_found(FH1_BAD("a value is too large for %s and would become infinite", fh1_dtype_name(dtype)),
                          "%.9g", before[i]),
                "choose a type with more range: bf16 or f32");
    return NULL;
}

static fh1_status convert(const char *src, fh1_dtype from, char *dst, fh1_dtype to, int64_t n)
{
    double v[BLOCK];
    size_t a = (size_t)fh1_dtype_bits(from) / 8, b = (size_t)fh1_dtype_bits(to) / 8;
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t k = n - i < BLOCK ? n - i : BLOCK;
        char *out = dst + (size_t)i * b;
        fh1_to_f64(v, src + (size_t)i * a, from, k);
        fh1_from_f64(out, to, v, k);
        FH1_TRY(check_overflow(v, out, to, k));
    }
    return NULL;
}

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    const cvt_ckpt_tensor *e = &c->tensors[t], *src = &c->below->tensors[e->source];
    if (src->dtype == e->dtype) return cvt_ckpt_read_rows(c->below, e->source, first, n, dst);
    uint64_t n_bytes = (uint64_t)n * cvt_ckpt_row_bytes(src);
    char *buf = malloc(n_bytes);
    if (!buf) return fh1_no_memory(n_bytes, e->name);
    fh1_status s = cvt_ckpt_read_rows(c->below, e->source, first, n, buf);
    int64_t n_elems = (int64_t)(n_bytes * 8 / (uint64_t)fh1_dtype_bits(src->dtype));
    if (!s) s = fh1_where(convert(buf, src->dtype, dst, e->dtype, n_elems), "%s, tensor \"%.120s\"", c->path, e->name);
    free(buf);
    return s;
}

static const cvt_ckpt_ops cast_ops = {.read_rows = read_rows};

/* The dtype keys that are there say it, or else a new one. */
static fh1_status set_dtype(cvt_ckpt *c, fh1_dtype dtype)
{
    static const char *const keys[2] = {"dtype", "torch_dtype"};
    char value[40];
    cJSON *json;
    bool there[2] = {false};
    if (cvt_ckpt_find_file(c, "config.json") < 0) return NULL;
    snprintf(value, sizeof value, "\"%s\"", cvt_hf_dtype_name(dtype));
    FH1_TRY(cvt_ckpt_config_json(c, &json));
    bool same[2] = {false};
    for (int i = 0; i < 2; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(json, keys[i]);
        there[i] = v != NULL;
        same[i] = cJSON_IsString(v) && strcmp(v->valuestring, cvt_hf_dtype_name(dtype)) == 0;
    }
    cJSON_Delete(json);
    for (int i = 0; i < 2; i++)
        if (there[i] && !same[i]) FH1_TRY(cvt_ckpt_edit_config(c, keys[i], value));
    return there[0] || there[1] ? NULL : cvt_ckpt_edit_config(c, keys[0], value);
}

fh1_status cvt_ckpt_cast(cvt_ckpt *below, fh1_dtype dtype, cvt_ckpt **out)
{
    *out = NULL;
    if (!cvt_hf_dtype_name(dtype)) {
        cvt_ckpt_close(below);
        return fh1_found(fh1_expected(FH1_BAD("weights cannot have this type"), "BF16, F32, F16 or F64"), "%s",
                         fh1_dtype_name(dtype));
    }
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_view(below, &c));
    c->ops = &cast_ops;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        cvt_ckpt_tensor *t = &c->tensors[i];
        if (!fh1_dtype_is_float(t->dtype) || t->dtype == dtype) continue;
        t->dtype = dtype;
        cvt_ckpt_drop_header(c, t->file);
    }
    fh1_status s = set_dtype(c, dtype);
    if (s) cvt_ckpt_close(c);
    else *out = c;
    return s;
}
