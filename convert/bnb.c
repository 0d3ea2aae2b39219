/* The view that decodes: which tensors are parts of which weight, and rows on request. */
#include "convert/bnb.h"

#include "convert/bnb_parts.h"
#include "oracle/reached.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 65536 /* weights decoded at a time; even */

static fh1_status in_tensor(const cvt_ckpt *c, int64_t t, fh1_status s)
{
    return fh1_where(s, "%s, tensor \"%.160s\"", c->path, c->tensors[t].name);
}

/* A scale that is not finite makes a block, with double quantisation 256 blocks, not a number. */
static fh1_status refuse_not_finite(const cvt_ckpt *c, int64_t t, const float *v, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return fh1_hint(fh1_found(fh1_expected(in_tensor(c, t,
                                                             FH1_BAD("scale %lld is %s", (long long)(first + i),
                                                                     isnan(v[i]) ? "NaN" : "infinite")),
                                                   "finite scales"),
                                      "%g", (double)v[i]),
                            "the weights held NaN or infinity when they were quantised; quantise the original again");
    return NULL;
}

/* Scales [first, first + n), at most CHUNK / 32 + 2 of them. */
static fh1_status read_scales(cvt_ckpt *c, const cvt_bnb_weight *w, int64_t first, int64_t n, float *out)
{
    const cvt_bnb_state *q = &w->state;
    if (!q->nested) {
        FH1_TRY(cvt_ckpt_read_rows(c, w->absmax, first, n, out));
        return refuse_not_finite(c, w->absmax, out, first, n);
    }
    uint8_t code[CHUNK / 32 + 2];
    float absmax[CHUNK / 32 / 32 + 2];
    int64_t from = first / q->nested_blocksize, to = (first + n - 1) / q->nested_blocksize + 1;
    FH1_TRY(cvt_ckpt_read_rows(c, w->absmax, first, n, code));
    FH1_TRY(cvt_ckpt_read_rows(c, w->nested_absmax, from, to - from, absmax));
    FH1_TRY(refuse_not_finite(c, w->nested_absmax, absmax, from, to - from));
    cvt_bnb_scales(code, w->map, absmax, q->nested_offset, q->nested_blocksize, first, n, out);
    return refuse_not_finite(c, w->absmax, out, first, n);
}

typedef struct {
    uint8_t packed[CHUNK / 2 + 1];
    float scale[CHUNK / 32 + 2], value[CHUNK];
} scratch;

static fh1_status decode4(cvt_ckpt *c, const cvt_bnb_weight *w, int64_t first, int64_t n, scratch *x)
{
    int64_t block = w->state.blocksize, from = first / block, to = (first + n - 1) / block + 1;
    FH1_REACHED((first + n) % block != 0); /* the last block is not full */
    FH1_REACHED(w->state.n_elems % 2 != 0);
    FH1_REACHED(w->state.rank == 2 && w->state.shape[1] % block != 0); /* blocks straddle rows */
    FH1_REACHED(w->state.nested);
    uint64_t byte = (uint64_t)first / 2, n_bytes = (uint64_t)(first + n + 1) / 2 - byte;
    FH1_TRY(cvt_ckpt_read(c, w->weight, byte, n_bytes, x->packed));
    FH1_TRY(read_scales(c, w, from, to - from, x->scale));
    cvt_bnb_decode4(w->state.kind, x->packed, x->scale, block, first, n, x->value);
    return NULL;
}

static fh1_status decode8(cvt_ckpt *c, const cvt_bnb_weight *w, int64_t first, int64_t n, scratch *x)
{
    int64_t width = w->state.shape[1], from = 0, to = 0; /* the rows whose scales are in x->scale */
    const int64_t room = sizeof x->scale / sizeof *x->scale;
    FH1_TRY(cvt_ckpt_read(c, w->weight, (uint64_t)first, (uint64_t)n, x->packed));
    for (int64_t i = first; i < first + n;) {
        int64_t row = i / width, end = (row + 1) * width < first + n ? (row + 1) * width : first + n;
        if (row >= to) {
            from = row;
            to = (first + n - 1) / width + 1;
            if (to - from > room) to = from + room;
            FH1_TRY(cvt_ckpt_read_rows(c, w->absmax, from, to - from, x->scale));
            FH1_TRY(refuse_not_finite(c, w->absmax, x->scale, from, to - from));
        }
        cvt_bnb_decode8((const int8_t *)x->packed + (i - first), x->scale[row - from], end - i, x->value + (i - first));
        i = end;
    }
    return NULL;
}

/* A finite product that its own type cannot hold: bitsandbytes makes an infinity of it. */
static fh1_status refuse_overflow(const cvt_ckpt *c, const cvt_bnb_weight *w, const float *v, int64_t first, int64_t n)
{
    /* The smallest numbers that round to infinity. */
    float limit = w->state.dtype == FH1_F16 ? 65520.0f : w->state.dtype == FH1_BF16 ? 0x1.ffp127f : INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (fabsf(v[i]) >= limit)
            return fh1_found(in_tensor(c, w->weight,
                                       FH1_BAD("weight %lld decodes to infinity in %s", (long long)(first + i),
                                               fh1_dtype_name(w->state.dtype))),
                             "%.9g", (double)v[i]);
    return NULL;
}

static fh1_status decode(cvt_ckpt *c, const cvt_bnb_weight *w, int64_t first, int64_t n, char *dst)
{
    bool int8 = w->state.kind == CVT_BNB_INT8;
    size_t size = (size_t)fh1_dtype_bits(w->state.dtype) / 8;
    int64_t chunk = int8 ? CHUNK / 2 : CHUNK;
    scratch *x = malloc(sizeof *x);
    fh1_status s = x ? NULL : fh1_no_memory(sizeof *x, "decoding of a quantised weight");
    for (int64_t i = 0; i < n && !s; i += chunk) {
        int64_t k = n - i < chunk ? n - i : chunk;
        char *out = dst + (size_t)i * size;
        s = int8 ? decode8(c, w, first + i, k, x) : decode4(c, w, first + i, k, x);
        if (s) break;
        fh1_from_f32(out, w->state.dtype, x->value, k);
        s = refuse_overflow(c, w, x->value, first + i, k);
    }
    free(x);
    return s;
}

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    const cvt_bnb_weights *w = c->state;
    const cvt_ckpt_tensor *e = &c->tensors[t];
    int64_t k = w->of[e->source];
    if (k < 0) return cvt_ckpt_read_rows(c->below, e->source, first, n, dst);
    int64_t width = e->shape[0] ? w->at[k].state.n_elems / e->shape[0] : 0;
    return decode(c->below, &w->at[k], first * width, n * width, dst);
}

static void free_state(cvt_ckpt *c)
{
    cvt_bnb_weights *w = c->state;
    if (w) cvt_bnb_weights_free(w);
    free(w);
}

static const cvt_ckpt_ops bnb_ops = {.read_rows = read_rows, .free_state = free_state};

/* The decoded weight in the place of the packed one; its other parts are gone. */
static void edit_tables(cvt_ckpt *c, const cvt_bnb_weights *w)
{
    for (int64_t i = 0; i < w->n; i++) {
        cvt_ckpt_tensor *t = &c->tensors[cvt_ckpt_find(c, w->at[i].name)];
        t->dtype = w->at[i].state.dtype;
        t->rank = w->at[i].state.rank;
        memcpy(t->shape, w->at[i].state.shape, sizeof t->shape);
        cvt_ckpt_drop_header(c, t->file);
    }
    for (int64_t i = 0; i < c->below->n_tensors; i++)
        if (w->part[i]) cvt_ckpt_remove_tensor(c, c->below->tensors[i].name);
}

static fh1_status attach(cvt_ckpt *c)
{
    cvt_bnb_weights *w = calloc(1, sizeof *w);
    if (!w) return fh1_no_memory(sizeof *w, "a view of quantised weights");
    c->state = w;
    c->ops = &bnb_ops;
    FH1_TRY(cvt_bnb_weights_find(c->below, w));
    edit_tables(c, w);
    return cvt_ckpt_edit_config(c, "quantization_config", NULL);
}

fh1_status cvt_bnb_is(cvt_ckpt *c, bool *yes)
{
    cJSON *config;
    *yes = false;
    const fh1_status s = cvt_ckpt_config_json(c, &config);
    if (s && s->code == FH1_E_INTERNAL) return s;
    if (!s) {
        const cJSON *q = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
        *yes = q && !cJSON_IsNull(q);
        cJSON_Delete(config);
    }
    for (int64_t i = 0; i < c->n_tensors && !*yes; i++) *yes = cvt_bnb_is_part(c->tensors[i].name);
    return NULL;
}

fh1_status cvt_ckpt_dequantise(cvt_ckpt *below, fh1_dtype dtype, cvt_ckpt **out)
{
    cvt_ckpt *c = NULL;
    *out = NULL;
    fh1_status s = cvt_bnb_check_method(below);
    if (s) {
        cvt_ckpt_close(below);
        return s;
    }
    FH1_TRY(cvt_ckpt_view(below, &c));
    s = attach(c);
    if (s) {
        cvt_ckpt_close(c);
        return s;
    }
    if (dtype != FH1_DTYPE_COUNT) return cvt_ckpt_cast(c, dtype, out);
    *out = c;
    return NULL;
}
