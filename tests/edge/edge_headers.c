/* D-98: headers of safetensors files, each with what must be said of it, and what may be asked of malloc before. */
#include "tests/edge/edge_file_cases.h"

#include "convert/file.h"
#include "convert/model_open.h"
#include "convert/safetensors.h"
#include "convert/text.h"

#include <string.h>

#define E(dtype, shape, offsets) ":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define A(dtype, shape, offsets) "{\"a\"" E(dtype, shape, offsets) "}"

typedef struct {
    const char *header;
    size_t n_data;
    const char *word; /* NULL: accepted */
} header;

static const header headers[] = {
    {A("F32", "[2]", "[0,8]"), 8, NULL},
    {"   \t\r\n" A("F32", "[2]", "[0,8]") "   ", 8, NULL}, /* spaces around */
    {"{}", 0, NULL},
    {"{\"a\"" E("U8", "[2]", "[1,3]") ",\"b\"" E("U8", "[]", "[0,1]") "}", 3, NULL}, /* not in the order of the data */
    {"{\"a\"" E("F32", "[1]", "[1,5]") ",\"b\"" E("BOOL", "[1]", "[0,1]") "}", 5, NULL}, /* not aligned */
    {A("F4", "[2,3]", "[0,3]"), 3, NULL},
    {A("U8", "[0,4294967296,4294967296]", "[0,0]"), 0, NULL}, /* zero before it could overflow */
    /* holes and overlaps */
    {A("F32", "[2]", "[4,12]"), 12, "there is a hole before"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("U8", "[2]", "[3,5]") "}", 5, "there is a hole"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("U8", "[2]", "[1,3]") "}", 3, "tensors overlap"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"b\"" E("U8", "[2]", "[0,2]") "}", 2, "tensors overlap"},
    {A("F32", "[2]", "[0,8]"), 7, "beyond the end"},
    {A("F32", "[2]", "[0,8]"), 9, "goes on after the last tensor"}, /* one byte behind */
    {"{}", 1, "goes on"},
    /* duplicates, with the same offsets and with others, spelled out and escaped */
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"a\"" E("U8", "[2]", "[0,2]") "}", 2, "\"a\" appears twice"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"a\"" E("U8", "[2]", "[2,4]") "}", 4, "\"a\" appears twice"},
    {"{\"a\"" E("U8", "[2]", "[0,2]") ",\"\\u0061\"" E("U8", "[2]", "[2,4]") "}", 4, "\"a\" appears twice"},
    /* sizes */
    {A("F4", "[3]", "[0,2]"), 2, "3 elements of F4"},
    {A("U8", "[4294967296,4294967296]", "[0,0]"), 0, "overflows at dimension 1"},
    {A("U8", "[2,4294967296,4294967296]", "[0,0]"), 0, "overflows at dimension 2"},
    {A("F64", "[4503599627370496,512]", "[0,8]"), 8, "shape and dtype overflows"},
    {A("F32", "[9223372036854775808]", "[0,8]"), 8, "dimension 0"},
    {A("F32", "[-2]", "[0,8]"), 8, "dimension 0"},
    {A("F32", "[3]", "[0,8]"), 8, "expected 12 bytes, found 8"},
    /* names */
    {"{\"a\\u0000b\"" E("U8", "[2]", "[0,2]") "}", 2, "\\u0000"},
    {"{\"__metadata__\"" E("U8", "[2]", "[0,2]") "}", 2, "cannot be named __metadata__"},
    {"{\"a\xc0\x80\"" E("U8", "[2]", "[0,2]") "}", 2, "UTF-8"},
    /* what is no header */
    {"", 0, "not well-formed"},
    {"[]", 0, "not a JSON object"},
    {"{}{}", 0, "more text"},
};

/* The largest piece of memory that reading n bytes may ask for: the header once, and cJSON's and our tables of it; a
 * claim in the file is no reason for more. */
static size_t most_memory(size_t n)
{
    return 64 * n + 65536;
}

/* Read from memory and from a file, and only by its header. */
static fh1_status judge(edge_run *r, const char *bytes, size_t n, const char *word, const char *what)
{
    char path[EDGE_PATH];
    FH1_TRY(cvt_file_write(edge_path(r, "header.safetensors", path), bytes, n, true));
    for (int reader = 0; reader < 3; ++reader) {
        cvt_st *f = NULL;
        edge_alloc_begin();
        fh1_status s = reader == 0   ? cvt_st_parse(bytes, n, "memory", &f)
                       : reader == 1 ? cvt_st_open(path, &f)
                                     : cvt_st_open_header(path, &f);
        const size_t asked = edge_alloc_largest();
        cvt_st_close(f);
        FH1_TRY(word ? edge_refused(r, s, word, what) : edge_accepted(r, s, what));
        FH1_TRY(edge_require(r, asked <= most_memory(n), "%s: %zu bytes of memory are asked for, the file has %zu",
                             what, asked, n));
    }
    return NULL;
}

static fh1_status with_length(edge_run *r, const header *h, uint64_t length, const char *word)
{
    const size_t n = strlen(h->header), total = 8 + n + h->n_data;
    char *bytes = calloc(1, total + 1);
    if (!bytes) return fh1_no_memory(total, "a file");
    for (int i = 0; i < 8; ++i) bytes[i] = (char)(unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, h->header, n);
    fh1_status s = judge(r, bytes, total, word, h->header);
    free(bytes);
    return s;
}

static fh1_status wrong_lengths(edge_run *r)
{
    static const struct {
        uint64_t length;
        const char *word;
    } lengths[] = {{0, "not well-formed"},   {1, "not well-formed"},           {99999999, "header is cut off"},
                   {100000001, "too large"}, {UINT64_C(1) << 40, "too large"}, {UINT64_C(1) << 63, "too large"},
                   {UINT64_MAX, "too large"}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; ++i)
        FH1_TRY(with_length(r, &headers[0], lengths[i].length, lengths[i].word));
    FH1_TRY(judge(r, "", 0, "at least 8 bytes", "nothing"));
    FH1_TRY(judge(r, "\2\0\0\0\0\0\0", 7, "at least 8 bytes", "seven bytes"));
    return judge(r, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", 64, "git-lfs pointer", "lfs");
}

/* Two hundred brackets in one another. */
static fh1_status too_deep(edge_run *r)
{
    char text[500] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":";
    const size_t n = strlen(text);
    memset(text + n, '[', 200);
    memset(text + n + 200, ']', 200);
    memcpy(text + n + 400, "}}", 3);
    const header h = {text, 1, "nested deeper than 3"};
    return with_length(r, &h, strlen(text), h.word);
}

/* The file of a model, its header in the reverse order and with spaces around: the same model. */
static fh1_status another_order(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH];
    cvt_text b = {0};
    size_t at = 0;
    FH1_TRY(edge_save(r, m, "model", EDGE_FORM_5));
    cvt_text_bytes(&b, "\0\0\0\0\0\0\0\0", 8);
    cvt_text_add(&b, "  {");
    for (int64_t i = 0; i < m->n_weights; ++i) at += fh1_n_bytes(&m->weights[i].t);
    for (int64_t i = m->n_weights; i-- > 0;) { /* the last tensor lies last in the file and is named first */
        const fh1_tensor *t = &m->weights[i].t;
        cvt_text_add(&b, " \"%s\" : {\"data_offsets\": [%zu, %zu], \"shape\": [", m->weights[i].name,
                     at - fh1_n_bytes(t), at);
        for (int k = 0; k < t->rank; ++k) cvt_text_add(&b, "%s%lld", k ? ", " : "", (long long)t->shape[k]);
        cvt_text_add(&b, "], \"dtype\": \"%s\"}%s", fh1_dtype_name(t->dtype), i ? "," : "");
        at -= fh1_n_bytes(t);
    }
    cvt_text_add(&b, "}   ");
    for (int i = 0; i < 8 && !b.failed; ++i) b.s[i] = (char)(unsigned char)((b.n - 8) >> (8 * i));
    for (int64_t i = 0; i < m->n_weights; ++i) cvt_text_bytes(&b, m->weights[i].t.data, fh1_n_bytes(&m->weights[i].t));
    fh1_status s = b.failed ? fh1_no_memory(b.n, "a file")
                            : cvt_file_write(edge_path(r, "model/model.safetensors", path), b.s, b.n, true);
    free(b.s);
    return s ? s : edge_check_file(r, edge_path(r, "model", path), m, 0);
}

fh1_status edge_headers(edge_run *r)
{
    fh1_model m;
    for (size_t i = 0; i < sizeof headers / sizeof *headers && r->bit == EDGE_F64; ++i)
        FH1_TRY(with_length(r, &headers[i], strlen(headers[i].header), headers[i].word));
    if (r->bit == EDGE_F64) FH1_TRY(wrong_lengths(r));
    if (r->bit == EDGE_F64) FH1_TRY(too_deep(r));
    FH1_TRY(edge_model(r, edge_model_text(1), &m));
    fh1_status s = another_order(r, &m);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}
