/* D-99: 4-bit weights, decoded against what bitsandbytes itself decoded and against a decoder that is written here. */
#include "tests/edge/edge_file_cases.h"

#include "convert/bnb.h"
#include "convert/bnb_state.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "convert/json.h"
#include "convert/model_open.h"
#include "convert/safetensors.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

/* ---- real results: odd sizes, blocks over several rows, nested scales, every block size and type ---- */

static fh1_status compare_folder(edge_run *r, const char *dir, const cJSON *want)
{
    cvt_ckpt *below, *c;
    FH1_TRY(cvt_ckpt_open(dir, &below));
    FH1_TRY(edge_accepted(r, cvt_ckpt_dequantise(below, FH1_DTYPE_COUNT, &c), dir));
    fh1_status s = NULL;
    for (const cJSON *e = want->child; e && !s; e = e->next) {
        const int64_t t = cvt_ckpt_find(c, e->string);
        const uint64_t n = t < 0 ? 0 : cvt_ckpt_tensor_bytes(&c->tensors[t]);
        char *data = malloc(n + 1), hash[20];
        if (!data) s = fh1_no_memory(n, e->string);
        if (!s && t >= 0) s = cvt_ckpt_read(c, t, 0, n, data);
        snprintf(hash, sizeof hash, "%016llx", (unsigned long long)(s ? 0 : cvt_hash64(data, n)));
        const char *line = strrchr(e->valuestring, ' ');
        if (!s)
            s = edge_require(r, t >= 0 && line && strcmp(line + 1, hash) == 0,
                             "%s: %s does not decode to bitsandbytes' bytes", dir, e->string);
        free(data);
    }
    cvt_ckpt_close(c);
    return s;
}

static fh1_status real_results(edge_run *r)
{
    cJSON *json;
    FH1_TRY(cvt_json_read("golden/bnb/decoded.json", 1 << 20, 4, &json));
    fh1_status s = NULL;
    for (const cJSON *e = json->child; e && !s; e = e->next) s = compare_folder(r, e->string, e);
    cJSON_Delete(json);
    return s;
}

/* ---- the arithmetic by itself ---- */

/* The sixteen values again, from the definition: quantiles of a normal distribution, as bitsandbytes prints them. */
static const float codes[16] = {-1.0f,         -0.6961928f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                                -0.091050036f, 0.0f,        0.0795803f,   0.1609302f,   0.2461123f,   0.33791524f,
                                0.44070983f,   0.562617f,   0.72295684f,  1.0f};

/* Weight i is code · scale of its block in f32, the even one of two in the high half. */
static float decoded(const uint8_t *packed, const float *scale, int64_t block, int64_t i)
{
    const unsigned nibble = i % 2 ? packed[i / 2] & 15u : (unsigned)packed[i / 2] >> 4;
    return codes[nibble] * scale[i / block];
}

static fh1_status compare_range(edge_run *r, const uint8_t *packed, const float *scale, int64_t block, int64_t first,
                                int64_t n)
{
    float out[4 * 64], want[4 * 64];
    for (int64_t i = 0; i < n; ++i) want[i] = decoded(packed, scale, block, first + i);
    cvt_bnb_decode4(CVT_BNB_NF4, packed + first / 2, scale + first / block, block, first, n, out);
    return edge_require(r, memcmp(out, want, (size_t)n * sizeof *out) == 0,
                        "weights %d to %d in blocks of %d are not code times scale", (int)first, (int)(first + n),
                        (int)block);
}

/* Blocks of which one is all zero, ordinary, tiny and -0.0 for a scale; even and odd beginnings and lengths. */
static fh1_status by_hand(edge_run *r)
{
    uint8_t packed[2 * 64];
    float scale[8] = {0.0f, 1.5f, 0x1p-140f, 0.25f, -0.0f, 3.0f, 1.0f, 0.0f};
    const fh1_stream s = fh1_stream_open(r->seed, "codes");
    for (size_t i = 0; i < sizeof packed; ++i) packed[i] = (uint8_t)fh1_random_u64(s, i);
    packed[0] = 0x07; /* -1 and +0 times 0: -0.0 and +0.0 */
    for (int64_t first = 0; first < 40; first += 3)
        for (int64_t n = 0; n < 200; n += 37) FH1_TRY(compare_range(r, packed, scale, 32, first, n));
    FH1_TRY(compare_range(r, packed, scale, 64, 0, 255)); /* odd n */
    float zero[2];
    cvt_bnb_decode4(CVT_BNB_NF4, packed, scale, 32, 0, 2, zero);
    return edge_require(r, zero[0] == 0 && signbit(zero[0]) && zero[1] == 0 && !signbit(zero[1]),
                        "a block of zeros is %g and %g, not -0 and 0", (double)zero[0], (double)zero[1]);
}

/* No element at all, and what is no state. */
static fh1_status states(edge_run *r)
{
    static const char good[] = "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"bfloat16\",\"shape\":[0,4]}",
                      size[] = "{\"quant_type\":\"nf4\",\"blocksize\":48,\"dtype\":\"bfloat16\",\"shape\":[2,4]}",
                      nan[] = "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"bfloat16\",\"shape\":[2,4],"
                              "\"nested_blocksize\":256,\"nested_dtype\":\"float32\",\"nested_offset\":NaN}";
    cvt_bnb_state s;
    FH1_TRY(
        edge_accepted(r, cvt_bnb_state_parse(good, strlen(good), CVT_BNB_NF4, "state", &s), "a weight of no element"));
    FH1_TRY(edge_require(r, s.n_elems == 0, "a weight of no element has %d", (int)s.n_elems));
    FH1_TRY(edge_refused(r, cvt_bnb_state_parse(size, strlen(size), CVT_BNB_NF4, "state", &s), "power of two",
                         "blocks of 48"));
    return edge_refused(r, cvt_bnb_state_parse(nan, strlen(nan), CVT_BNB_NF4, "state", &s), "NaN",
                        "an offset that is NaN");
}

/* ---- NaN and infinity among the scales of a file ---- */

#define BASE "golden/merges/bases/nf4"

static fh1_status with_scale(edge_run *r, char *bytes, size_t n, uint64_t at, float value, const char *word)
{
    char path[EDGE_PATH];
    float was;
    fh1_model m;
    cvt_ckpt *below, *c;
    memcpy(&was, bytes + at, sizeof was);
    memcpy(bytes + at, &value, sizeof value);
    FH1_TRY(cvt_file_write(edge_path(r, "nf4/model.safetensors", path), bytes, n, true));
    memcpy(bytes + at, &was, sizeof was);
    FH1_TRY(cvt_ckpt_open(edge_path(r, "nf4", path), &below));
    FH1_TRY(edge_accepted(r, cvt_ckpt_dequantise(below, FH1_BF16, &c), "the folder"));
    fh1_status s = cvt_model_from_ckpt(c, &m);
    cvt_ckpt_close(c);
    if (!s) fh1_model_free(&m);
    return word ? edge_refused(r, s, word, "a scale") : edge_accepted(r, s, "a scale");
}

static fh1_status scales(edge_run *r)
{
    char path[EDGE_PATH], *text, *bytes;
    size_t n;
    cvt_st *f;
    mkdir(edge_path(r, "nf4", path), 0777);
    FH1_TRY(cvt_file_read(BASE "/config.json", 1 << 20, &text, &n));
    fh1_status s = edge_text(r, "nf4/config.json", text);
    free(text);
    FH1_TRY(s);
    FH1_TRY(cvt_st_open(BASE "/model.safetensors", &f));
    const cvt_st_entry *e = cvt_st_find(f, "model.layers.0.self_attn.q_proj.weight.absmax");
    const uint64_t at = e && e->t.dtype == FH1_F32 ? e->begin + 8 : 0;
    cvt_st_close(f);
    if (!at) return fh1_fail(FH1_E_INTERNAL, "no scales in " BASE);
    FH1_TRY(cvt_file_read(BASE "/model.safetensors", (size_t)16 << 20, &bytes, &n));
    s = with_scale(r, bytes, n, at, 0.0f, NULL);
    if (!s) s = with_scale(r, bytes, n, at, NAN, "NaN");
    if (!s) s = with_scale(r, bytes, n, at, INFINITY, "infinite");
    if (!s) s = with_scale(r, bytes, n, at, -INFINITY, "infinite");
    free(bytes);
    return s;
}

static fh1_status leg(edge_run *r, const char *dir)
{
    cvt_ckpt *below, *c;
    fh1_model m;
    FH1_TRY(cvt_ckpt_open(dir, &below));
    FH1_TRY(edge_accepted(r, cvt_ckpt_dequantise(below, FH1_BF16, &c), dir));
    fh1_status s = cvt_model_from_ckpt(c, &m);
    cvt_ckpt_close(c);
    if (s) return s;
    s = edge_save(r, &m, "decoded", EDGE_FORM_5);
    char path[EDGE_PATH];
    if (!s) s = edge_check_file(r, edge_path(r, "decoded", path), &m, 0);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}

fh1_status edge_nf4(edge_run *r)
{
    if (r->bit == EDGE_F64) {
        FH1_TRY(real_results(r));
        FH1_TRY(by_hand(r));
        FH1_TRY(states(r));
        FH1_TRY(scales(r));
    }
    FH1_TRY(leg(r, BASE));
    return leg(r, "golden/merges/bases/nf4-nested");
}
