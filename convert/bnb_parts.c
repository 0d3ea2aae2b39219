#include "convert/bnb_parts.h"

#include "convert/file.h"
#include "oracle/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE ".quant_state.bitsandbytes__"

static fh1_status in_tensor(const cvt_ckpt *c, int64_t t, fh1_status s)
{
    return fh1_where(s, "%s, tensor \"%.160s\"", c->path, c->tensors[t].name);
}

bool cvt_bnb_is_part(const char *tensor)
{
    static const char *const ends[] = {
        ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map",
        ".SCB",           ".weight_format"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (cvt_has_suffix(tensor, ends[i])) return true;
    return strstr(tensor, ".weight.quant_state.") != NULL;
}

fh1_status cvt_bnb_check_method(cvt_ckpt *c)
{
    cJSON *config;
    FH1_TRY(cvt_ckpt_config_json(c, &config));
    const cJSON *q = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    const cJSON *m = q ? cJSON_GetObjectItemCaseSensitive(q, "quant_method") : NULL;
    fh1_status s = NULL;
    if (q && !cJSON_IsNull(q) && !(cJSON_IsString(m) && strcmp(m->valuestring, "bitsandbytes") == 0))
        s = fh1_hint(
            fh1_found(fh1_expected(fh1_where(FH1_BAD("the model is quantised by a method that fh1 does not decode"),
                                             "%s, config.json, quantization_config.quant_method", c->path),
                                   "bitsandbytes"),
                      "%.60s", cJSON_IsString(m) ? m->valuestring : "none"),
            "give the model that it was made from");
    cJSON_Delete(config);
    return s;
}

/* Index of the weight's part `suffix`, which must be there. */
static fh1_status need_part(const cvt_ckpt *c, const char *base, const char *suffix, bool *part, int64_t *out)
{
    char name[600];
    if (snprintf(name, sizeof name, "%s%s", base, suffix) >= (int)sizeof name)
        return fh1_where(FH1_BAD("the name of a tensor is too long"), "%s, %.160s", c->path, base);
    *out = cvt_ckpt_find(c, name);
    if (*out < 0)
        return fh1_hint(fh1_where(FH1_BAD("a part of the quantised weight %.160s is missing", base),
                                  "%s, tensor \"%.200s\"", c->path, name),
                        "the folder is incomplete: copy or quantise it again");
    part[*out] = true;
    return NULL;
}

static fh1_status expect_list(const cvt_ckpt *c, int64_t t, fh1_dtype dtype, int64_t n)
{
    char text[128];
    const cvt_ckpt_tensor *e = &c->tensors[t];
    if (e->dtype == dtype && e->rank == 1 && e->shape[0] == n) return NULL;
    fh1_tensor found = fh1_view(NULL, e->dtype, e->rank, e->shape);
    return fh1_found(fh1_expected(in_tensor(c, t, FH1_BAD("a part of a quantised weight has the wrong type or shape")),
                                  "%s [%lld]", fh1_dtype_name(dtype), (long long)n),
                     "%s %s", fh1_dtype_name(e->dtype), fh1_shape_text(&found, text, sizeof text));
}

/* bitsandbytes ignores the table in the file and takes its own; another table means damage, or another quantiser. */
static fh1_status check_codes(cvt_ckpt *c, int64_t t, cvt_bnb_kind kind)
{
    float v[16];
    const float *own = cvt_bnb_codes(kind);
    FH1_TRY(expect_list(c, t, FH1_F32, 16));
    FH1_TRY(cvt_ckpt_read_rows(c, t, 0, 16, v));
    for (int i = 0; i < 16; i++)
        if (!(fabsf(v[i] - own[i]) <= 1e-6f))
            return fh1_found(
                fh1_expected(in_tensor(c, t, FH1_BAD("code %d is not that of %s", i, cvt_bnb_kind_name(kind))), "%.9g",
                             (double)own[i]),
                "%.9g", (double)v[i]);
    return NULL;
}

static int64_t blocks(int64_t n, int64_t size)
{
    return n / size + (n % size != 0);
}

static fh1_status read_map(cvt_ckpt *c, int64_t t, float **out)
{
    FH1_TRY(expect_list(c, t, FH1_F32, CVT_BNB_MAP));
    *out = malloc(CVT_BNB_MAP * sizeof **out);
    if (!*out) return fh1_no_memory(CVT_BNB_MAP * sizeof **out, "a map of scales");
    FH1_TRY(cvt_ckpt_read_rows(c, t, 0, CVT_BNB_MAP, *out));
    for (int i = 0; i < CVT_BNB_MAP; i++)
        if (!isfinite((*out)[i])) return in_tensor(c, t, FH1_BAD("entry %d of the map is not finite", i));
    return NULL;
}

static fh1_status find_scales(cvt_ckpt *c, cvt_bnb_weight *w, bool *part)
{
    int64_t map, n = blocks(w->state.n_elems, w->state.blocksize);
    FH1_TRY(need_part(c, w->name, ".absmax", part, &w->absmax));
    w->nested_absmax = -1;
    if (!w->state.nested) {
        if (c->tensors[w->absmax].dtype == FH1_U8)
            return in_tensor(c, w->absmax,
                             FH1_BAD("the scales are quantised, but the quantisation state has no nested_* keys"));
        return expect_list(c, w->absmax, FH1_F32, n);
    }
    FH1_TRY(expect_list(c, w->absmax, FH1_U8, n));
    FH1_TRY(need_part(c, w->name, ".nested_absmax", part, &w->nested_absmax));
    FH1_TRY(expect_list(c, w->nested_absmax, FH1_F32, blocks(n, w->state.nested_blocksize)));
    FH1_TRY(need_part(c, w->name, ".nested_quant_map", part, &map));
    return read_map(c, map, &w->map);
}

/* Two codes in a byte, in whatever type carries the bytes. */
static fh1_status check_packed(const cvt_ckpt *c, const cvt_bnb_weight *w)
{
    char text[128];
    const cvt_ckpt_tensor *e = &c->tensors[w->weight];
    int64_t n = blocks(w->state.n_elems, 2);
    bool carrier =
        e->dtype == FH1_U8 || e->dtype == FH1_I8 || e->dtype == FH1_BF16 || e->dtype == FH1_F16 || e->dtype == FH1_F32;
    bool column = e->rank == 2 && (e->shape[0] == 1 || e->shape[1] == 1 || n == 0);
    if (carrier && column && cvt_ckpt_tensor_bytes(e) == (uint64_t)n) return NULL;
    fh1_tensor found = fh1_view(NULL, e->dtype, e->rank, e->shape);
    return fh1_found(fh1_expected(in_tensor(c, w->weight, FH1_BAD("the packed weight has the wrong type or size")),
                                  "a column of %lld bytes of U8, BF16, F16 or F32", (long long)n),
                     "%s %s", fh1_dtype_name(e->dtype), fh1_shape_text(&found, text, sizeof text));
}

static fh1_status read_state(cvt_ckpt *c, int64_t t, cvt_bnb_kind kind, cvt_bnb_state *out)
{
    char json[CVT_BNB_STATE_BYTES];
    const cvt_ckpt_tensor *e = &c->tensors[t];
    if (e->dtype != FH1_U8 || e->rank != 1 || e->shape[0] > CVT_BNB_STATE_BYTES)
        return fh1_expected(in_tensor(c, t, FH1_BAD("the quantisation state is no text")), "U8 [n], n at most %d",
                            CVT_BNB_STATE_BYTES);
    FH1_TRY(cvt_ckpt_read_rows(c, t, 0, e->shape[0], json));
    return in_tensor(c, t, cvt_bnb_state_parse(json, (size_t)e->shape[0], kind, "quantisation state", out));
}

/* The weight whose state is tensor t. */
static fh1_status find_4bit(cvt_ckpt *c, int64_t t, cvt_bnb_weight *w, bool *part)
{
    char base[600];
    const char *name = c->tensors[t].name, *at = strstr(name, STATE);
    cvt_bnb_kind kind = CVT_BNB_KINDS;
    if (at && strcmp(at + strlen(STATE), "nf4") == 0) kind = CVT_BNB_NF4;
    if (at && strcmp(at + strlen(STATE), "fp4") == 0) kind = CVT_BNB_FP4;
    if (kind == CVT_BNB_KINDS)
        return fh1_expected(in_tensor(c, t, FH1_BAD("unknown type of quantisation")),
                            "a name that ends in \"" STATE "nf4\" or \"" STATE "fp4\"");
    size_t n = (size_t)(at - name);
    if (n >= sizeof base) return in_tensor(c, t, FH1_BAD("the name of a tensor is too long"));
    memcpy(base, name, n);
    base[n] = '\0';
    int64_t codes;
    w->weight = cvt_ckpt_find(c, base);
    if (w->weight < 0) return in_tensor(c, t, FH1_BAD("the state belongs to a weight that is not there"));
    w->name = c->tensors[w->weight].name;
    part[t] = true;
    FH1_TRY(read_state(c, t, kind, &w->state));
    FH1_TRY(check_packed(c, w));
    FH1_TRY(need_part(c, w->name, ".quant_map", part, &codes));
    FH1_TRY(check_codes(c, codes, kind));
    return find_scales(c, w, part);
}

/* 0: by rows, the only order left in bitsandbytes. */
static fh1_status check_format(cvt_ckpt *c, int64_t t)
{
    uint8_t format = 255;
    if (c->tensors[t].dtype != FH1_U8 || cvt_ckpt_tensor_bytes(&c->tensors[t]) != 1)
        return fh1_expected(in_tensor(c, t, FH1_BAD("the format of an int8 weight has the wrong type")), "U8 []");
    FH1_TRY(cvt_ckpt_read(c, t, 0, 1, &format));
    if (format == 0) return NULL;
    return fh1_hint(
        fh1_found(fh1_expected(in_tensor(c, t, FH1_BAD("the int8 weight is not stored by rows")), "0"), "%u", format),
        "versions of bitsandbytes before 0.45 can read it: save it again with one of them");
}

/* The int8 weight whose scales are tensor t. */
static fh1_status find_8bit(cvt_ckpt *c, int64_t t, cvt_bnb_weight *w, bool *part)
{
    char name[600];
    const char *scb = c->tensors[t].name;
    int n = (int)(strlen(scb) - strlen(".SCB"));
    if ((size_t)n + sizeof ".weight_format" > sizeof name)
        return in_tensor(c, t, FH1_BAD("the name of a tensor is too long"));
    snprintf(name, sizeof name, "%.*s.weight", n, scb);
    w->weight = cvt_ckpt_find(c, name);
    if (w->weight < 0) return in_tensor(c, t, FH1_BAD("the scales belong to a weight that is not there"));
    const cvt_ckpt_tensor *e = &c->tensors[w->weight];
    w->name = e->name;
    w->absmax = t;
    w->nested_absmax = -1;
    part[t] = true;
    if (e->dtype != FH1_I8 || e->rank != 2)
        return fh1_found(fh1_expected(in_tensor(c, w->weight, FH1_BAD("a weight with int8 scales is no int8 matrix")),
                                      "I8 [out, in]"),
                         "%s of rank %d", fh1_dtype_name(e->dtype), e->rank);
    w->state = (cvt_bnb_state){.kind = CVT_BNB_INT8, .dtype = FH1_F32, .rank = 2, .blocksize = 1};
    memcpy(w->state.shape, e->shape, sizeof w->state.shape);
    w->state.n_elems = e->shape[0] * e->shape[1]; /* cvt_ckpt_finish has seen that it stands */
    FH1_TRY(expect_list(c, t, FH1_F32, e->shape[0]));
    snprintf(name, sizeof name, "%.*s.weight_format", n, scb);
    int64_t format = cvt_ckpt_find(c, name);
    if (format < 0) return NULL; /* as bitsandbytes: by rows */
    part[format] = true;
    return check_format(c, format);
}

typedef struct {
    const cvt_ckpt *c;
    const cvt_bnb_weights *w;
} shapes;

/* The model's shape of each tensor against that of the state; a packed weight that lost its state is seen here too. */
static fh1_status check_shape(void *user, const char *name, int rank, const int64_t *shape)
{
    const shapes *x = user;
    char text[128], want[128];
    int64_t t = cvt_ckpt_find(x->c, name);
    if (t < 0) return NULL; /* whoever binds the model misses it */
    const cvt_bnb_weight *w = x->w->of[t] < 0 ? NULL : &x->w->at[x->w->of[t]];
    const cvt_ckpt_tensor *e = &x->c->tensors[t];
    fh1_tensor expected = fh1_view(NULL, FH1_F32, rank, shape);
    fh1_tensor found =
        w ? fh1_view(NULL, FH1_F32, w->state.rank, w->state.shape) : fh1_view(NULL, FH1_F32, e->rank, e->shape);
    bool number = w || fh1_dtype_is_float(e->dtype);
    if (number && fh1_same_shape(&expected, &found)) return NULL;
    const char *what = w ? "the quantised weight is not of the model's shape"
                         : "the tensor is not of the model's shape, and nothing beside it says that it is quantised";
    return fh1_found(
        fh1_expected(in_tensor(x->c, t, FH1_BAD("%s", what)), "%s", fh1_shape_text(&expected, want, sizeof want)),
        "%s %s", w ? "" : fh1_dtype_name(e->dtype), fh1_shape_text(&found, text, sizeof text));
}

static fh1_status refuse_leftovers(const cvt_ckpt *c, const bool *part)
{
    for (int64_t i = 0; i < c->n_tensors; i++)
        if (!part[i] && cvt_bnb_is_part(c->tensors[i].name))
            return fh1_hint(in_tensor(c, i, FH1_BAD("the part belongs to no quantised weight")),
                            "a weight without quant_state or SCB cannot be decoded; copy or quantise the folder again");
    return NULL;
}

fh1_status cvt_bnb_weights_find(cvt_ckpt *c, cvt_bnb_weights *out)
{
    fh1_config config;
    size_t n = (size_t)c->n_tensors + 1;
    *out = (cvt_bnb_weights){
        .at = calloc(n, sizeof *out->at), .of = malloc(n * sizeof *out->of), .part = calloc(n, sizeof *out->part)};
    if (!out->at || !out->of || !out->part) return fh1_no_memory(n * sizeof *out->at, "a table of quantised weights");
    for (size_t i = 0; i < n; i++) out->of[i] = -1;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        bool four = strstr(name, ".weight.quant_state.") != NULL, eight = cvt_has_suffix(name, ".SCB");
        if (!four && !eight) continue;
        cvt_bnb_weight *w = &out->at[out->n++];
        FH1_TRY(four ? find_4bit(c, i, w, out->part) : find_8bit(c, i, w, out->part));
        if (out->of[w->weight] >= 0) return in_tensor(c, w->weight, FH1_BAD("the weight has two quantisation states"));
        out->of[w->weight] = out->n - 1;
    }
    FH1_TRY(refuse_leftovers(c, out->part));
    FH1_TRY(cvt_ckpt_config(c, &config));
    return fh1_config_weights(&config, check_shape, &(shapes){c, out});
}

void cvt_bnb_weights_free(cvt_bnb_weights *w)
{
    for (int64_t i = 0; w->at && i < w->n; i++) free(w->at[i].map);
    free(w->at);
    free(w->of);
    free(w->part);
    *w = (cvt_bnb_weights){0};
}
