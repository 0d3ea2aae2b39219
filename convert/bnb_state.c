#include "convert/bnb_state.h"

#include "convert/fault.h"
#include "convert/fields.h"

#include <math.h>
#include <string.h>

const char *cvt_bnb_kind_name(cvt_bnb_kind k)
{
    static const char *const names[CVT_BNB_KINDS] = {"nf4", "fp4", "int8"};
    return names[k];
}

static fh1_status read_dtype(const cvt_fields *f, const char *key, fh1_dtype *out)
{
    static const struct {
        const char *name;
        fh1_dtype dtype;
    } known[] = {{"bfloat16", FH1_BF16}, {"float16", FH1_F16}, {"float32", FH1_F32}};
    const char *name;
    FH1_TRY(cvt_need_string(f, key, &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].dtype;
            return NULL;
        }
    return cvt_bad_value(f, key, cvt_optional(f, key), "unknown dtype", "bfloat16, float16 or float32");
}

/* bitsandbytes knows powers of two from 32 to 4096. */
static fh1_status read_blocksize(const cvt_fields *f, const char *key, int64_t *out)
{
    FH1_TRY(cvt_need_int(f, key, 32, 4096, out));
    if (*out & (*out - 1))
        return cvt_bad_value(f, key, cvt_optional(f, key), "no block size of bitsandbytes",
                             "a power of two from 32 to 4096");
    return NULL;
}

static fh1_status read_shape(const cvt_fields *f, cvt_bnb_state *s)
{
    const cJSON *v;
    FH1_TRY(cvt_need(f, "shape", &v));
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) < 1 || cJSON_GetArraySize(v) > FH1_MAX_RANK)
        return cvt_bad_value(f, "shape", v, "the shape is not a list of dimensions", "one to eight whole numbers");
    s->n_elems = 1;
    for (const cJSON *d = v->child; d; d = d->next) {
        int64_t n;
        if (!cvt_json_is_int(d, &n) || n < 0 || !fh1_mul_i64(s->n_elems, n, &s->n_elems))
            return cvt_bad_value(f, "shape", v, "the shape is not a list of dimensions", "whole numbers from 0 on");
        s->shape[s->rank++] = n;
    }
    return NULL;
}

static fh1_status read_nested(const cvt_fields *f, cvt_bnb_state *s)
{
    double offset;
    fh1_dtype dtype = FH1_DTYPE_COUNT;
    s->nested = true;
    FH1_TRY(read_blocksize(f, "nested_blocksize", &s->nested_blocksize));
    FH1_TRY(read_dtype(f, "nested_dtype", &dtype));
    if (dtype != FH1_F32)
        return cvt_bad_value(f, "nested_dtype", cvt_optional(f, "nested_dtype"), "the scales are of another type",
                             "float32, the only one that bitsandbytes writes");
    FH1_TRY(cvt_need_number(f, "nested_offset", &offset));
    s->nested_offset = (float)offset;
    if (!isfinite(s->nested_offset))
        return cvt_bad_value(f, "nested_offset", cvt_optional(f, "nested_offset"), "the value is out of range",
                             "a finite float32");
    return NULL;
}

static fh1_status refuse_others(const cvt_fields *f)
{
    static const char *const known[] = {"quant_type",       "blocksize",    "dtype",        "shape",
                                        "nested_blocksize", "nested_dtype", "nested_offset"};
    for (const cJSON *v = f->object->child; v; v = v->next) {
        size_t i = 0, n = sizeof known / sizeof *known;
        while (i < n && strcmp(v->string, known[i]) != 0) i++;
        if (i == n)
            return fh1_hint(fh1_where(FH1_BAD("unknown key \"%.60s\"", v->string), "%s", f->path),
                            "fh1 follows bitsandbytes 0.50.2; another version may mean something else by this state");
    }
    return NULL;
}

static fh1_status read_state(const cvt_fields *f, cvt_bnb_kind kind, cvt_bnb_state *s)
{
    const char *type;
    FH1_TRY(cvt_need_string(f, "quant_type", &type));
    if (strcmp(type, cvt_bnb_kind_name(kind)) != 0)
        return cvt_bad_value(f, "quant_type", cvt_optional(f, "quant_type"), "the type is not the one of the name",
                             cvt_bnb_kind_name(kind));
    FH1_TRY(refuse_others(f));
    FH1_TRY(read_blocksize(f, "blocksize", &s->blocksize));
    FH1_TRY(read_dtype(f, "dtype", &s->dtype));
    FH1_TRY(read_shape(f, s));
    static const char *const nested[3] = {"nested_blocksize", "nested_dtype", "nested_offset"};
    for (int i = 0; i < 3; i++)
        if (cJSON_GetObjectItemCaseSensitive(f->object, nested[i])) return read_nested(f, s);
    return NULL;
}

fh1_status cvt_bnb_state_parse(const char *json, size_t n, cvt_bnb_kind kind, const char *what, cvt_bnb_state *out)
{
    cJSON *root;
    *out = (cvt_bnb_state){.kind = kind};
    fh1_status s = cvt_json_parse(json, n, 3, what, &root);
    if (s && memmem(json, n, "NaN", 3))
        return fh1_hint(s, "the NaN comes from a NaN in the weights; quantise the original again");
    if (s) return s;
    cvt_fields f = {root, what, ""};
    if (!cJSON_IsObject(root)) s = fh1_where(FH1_BAD("the quantisation state is not a JSON object"), "%s", what);
    else s = read_state(&f, kind, out);
    cJSON_Delete(root);
    return s;
}

const float *cvt_bnb_codes(cvt_bnb_kind kind)
{
    static const float nf4[16] = {-1.0f,
                                  -0.6961928009986877f,
                                  -0.5250730514526367f,
                                  -0.39491748809814453f,
                                  -0.28444138169288635f,
                                  -0.18477343022823334f,
                                  -0.09105003625154495f,
                                  0.0f,
                                  0.07958029955625534f,
                                  0.16093020141124725f,
                                  0.24611230194568634f,
                                  0.33791524171829224f,
                                  0.44070982933044434f,
                                  0.5626170039176941f,
                                  0.7229568362236023f,
                                  1.0f};
#define TWELFTHS(s) 0.0f, s 0.0625f / 12, s 8.0f / 12, s 12.0f / 12, s 4.0f / 12, s 6.0f / 12, s 2.0f / 12, s 3.0f / 12
    static const float fp4[16] = {TWELFTHS(+), TWELFTHS(-)}; /* code 8 is +0 */
#undef TWELFTHS
    return kind == CVT_BNB_NF4 ? nf4 : fp4;
}

void cvt_bnb_scales(const uint8_t *code, const float *map, const float *absmax, float offset, int64_t blocksize,
                    int64_t first, int64_t n, float *out)
{
    int64_t block = first / blocksize;
    for (int64_t i = 0; i < n; i++) {
        float residual = map[code[i]] * absmax[(first + i) / blocksize - block];
        out[i] = CVT_FAULT(NF4_NESTED_OFFSET_DROPPED) ? residual : residual + offset;
    }
}

void cvt_bnb_decode4(cvt_bnb_kind kind, const uint8_t *packed, const float *scale, int64_t blocksize, int64_t first,
                     int64_t n, float *out)
{
    if (CVT_FAULT(PACKED_READ_AS_VALUES)) {
        for (int64_t i = 0; i < n; i++) out[i] = (float)packed[i / 2];
        return;
    }
    const float *codes = cvt_bnb_codes(kind);
    int64_t even = first & ~(int64_t)1, block = first / blocksize;
    for (int64_t i = first; i < first + n;) {
        int64_t end = (i / blocksize + 1) * blocksize;
        if (end > first + n) end = first + n;
        float s = scale[i / blocksize - block], table[16];
        for (int k = 0; k < 16; k++) table[k] = codes[k] * s;
        /* The even one of two is the high half. */
        if (i & 1) {
            out[i - first] = table[packed[(i - even) / 2] & 15];
            i++;
        }
        for (; i + 1 < end; i += 2) {
            uint8_t byte = packed[(i - even) / 2];
            if (CVT_FAULT(NF4_NIBBLES_SWAPPED)) byte = (uint8_t)(byte << 4 | byte >> 4);
            out[i - first] = table[byte >> 4];
            out[i - first + 1] = table[byte & 15];
        }
        if (i < end) {
            out[i - first] = table[packed[(i - even) / 2] >> 4];
            i++;
        }
    }
}

void cvt_bnb_decode8(const int8_t *q, float scb, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        float product = (float)q[i] * scb;
        out[i] = product * 7.874015718698502e-3f;
    }
}
