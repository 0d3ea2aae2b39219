#include "convert/hf_folder.h"

#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/hf_recipe.h"
#include "convert/safetensors.h"
#include "oracle/thread.h"

#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK ((int64_t)1 << 22) /* elements that are made before they are written: 8 to 32 MB */
#define GRAIN 4096               /* elements of a thread's turn */

typedef struct {
    const fh1_config *config;
    uint64_t seed;
    fh1_dtype dtype;
    cvt_st_writer *writer;
    char *block;
    /* the tensor being made */
    const char *name;
    cvt_recipe recipe;
    int64_t first;        /* ordinal of the block's first element */
    atomic_bool infinite; /* a value is out of the type's range */
} maker;

static fh1_status declare(void *user, const char *name, int rank, const int64_t *shape)
{
    maker *k = user;
    return cvt_st_writer_declare(k->writer, name, k->dtype, rank, shape);
}

static void fill_pieces(void *user, int64_t begin, int64_t end, int thread)
{
    maker *k = user;
    double values[GRAIN];
    size_t width = (size_t)fh1_dtype_bits(k->dtype) / 8;
    (void)thread;
    cvt_hf_recipe_fill(k->config, &k->recipe, k->seed, k->name, k->first + begin, end - begin, values);
    fh1_from_f64(k->block + (size_t)begin * width, k->dtype, values, end - begin);
    fh1_to_f64(values, k->block + (size_t)begin * width, k->dtype, end - begin);
    for (int64_t i = 0; i < end - begin; i++)
        if (!isfinite(values[i])) k->infinite = true;
}

static fh1_status make_tensor(void *user, const char *name, int rank, const int64_t *shape)
{
    maker *k = user;
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i]; /* fh1_config_check bounds it */
    k->name = name;
    FH1_TRY(cvt_hf_recipe(k->config, name, n, &k->recipe));
    for (k->first = 0; k->first < n; k->first += BLOCK) {
        int64_t m = n - k->first < BLOCK ? n - k->first : BLOCK;
        fh1_parallel_for(m, GRAIN, fill_pieces, k);
        if (k->infinite)
            return fh1_hint(
                fh1_where(FH1_BAD("weights for these multipliers are too large for %s", fh1_dtype_name(k->dtype)), "%s",
                          name),
                "choose a type with more range: bf16 or f32");
        FH1_TRY(cvt_st_writer_put(k->writer, name, k->first, k->block, m));
    }
    return NULL;
}

static fh1_status write_weights(const fh1_config *c, const char *dir, uint64_t seed, fh1_dtype dtype)
{
    char path[PATH_MAX];
    maker k = {.config = c, .seed = seed, .dtype = dtype};
    FH1_TRY(cvt_path_join(path, sizeof path, dir, "model.safetensors"));
    FH1_TRY(cvt_st_writer_new(path, false, &k.writer));
    size_t n_bytes = (size_t)BLOCK * (size_t)fh1_dtype_bits(dtype) / 8;
    k.block = malloc(n_bytes);
    fh1_status s = k.block ? NULL : fh1_no_memory(n_bytes, "a block of weights");
    if (!s) s = cvt_st_writer_meta(k.writer, "format", "pt");
    if (!s) s = fh1_config_weights(c, declare, &k);
    if (!s) s = fh1_config_weights(c, make_tensor, &k);
    if (!s) s = cvt_st_writer_commit(k.writer);
    cvt_st_writer_free(k.writer);
    free(k.block);
    return s;
}

/* text[begin, end) becomes `with`; *text is reallocated. */
static fh1_status splice(char **text, size_t *n, size_t begin, size_t end, const char *with)
{
    size_t len = strlen(with), room = *n - (end - begin) + len;
    char *out = malloc(room + 1);
    if (!out) return fh1_no_memory(room, "config.json");
    memcpy(out, *text, begin);
    memcpy(out + begin, with, len);
    memcpy(out + begin + len, *text + end, *n - end);
    out[room] = '\0';
    free(*text);
    *text = out;
    *n = room;
    return NULL;
}

/* Sets the dtype keys that are there, or adds `dtype`; every other byte stays. */
static fh1_status set_dtype(char **text, size_t *n, fh1_dtype dtype)
{
    static const char *const keys[2] = {"dtype", "torch_dtype"};
    char value[40];
    size_t begin, end;
    bool found = false;
    snprintf(value, sizeof value, "\"%s\"", cvt_hf_dtype_name(dtype));
    for (int i = 0; i < 2; i++) {
        if (!cvt_json_find_value(*text, *n, keys[i], &begin, &end)) continue;
        FH1_TRY(splice(text, n, begin, end, value));
        found = true;
    }
    if (found) return NULL;
    begin = (size_t)(strchr(*text, '{') - *text) + 1; /* it is a JSON object with keys in it */
    snprintf(value, sizeof value, "\n  \"dtype\": \"%s\",", cvt_hf_dtype_name(dtype));
    return splice(text, n, begin, begin, value);
}

/* The text that config.json gets, and what it says. */
static fh1_status prepare_config(const char *path, fh1_dtype dtype, char **text, size_t *n, fh1_config *config)
{
    cJSON *json = NULL;
    fh1_dtype said = dtype;
    fh1_status s = cvt_json_parse(*text, *n, CVT_HF_CONFIG_DEPTH, path, &json);
    if (!s) s = cvt_hf_config_parse(json, path, config);
    if (!s) s = cvt_hf_config_refuse_quantised(json, path);
    if (!s) s = cvt_hf_config_dtype_parse(json, path, &said);
    cJSON_Delete(json);
    if (!s && said != dtype) s = set_dtype(text, n, dtype);
    return s;
}

static fh1_status build_folder(const char *dir, const char *text, size_t n, const fh1_config *config, uint64_t seed,
                               fh1_dtype dtype)
{
    char path[PATH_MAX];
    FH1_TRY(cvt_path_join(path, sizeof path, dir, "config.json"));
    FH1_TRY(cvt_file_write(path, text, n, false));
    return write_weights(config, dir, seed, dtype);
}

fh1_status cvt_hf_folder_init(const char *config_path, const char *out_dir, uint64_t seed, fh1_dtype dtype, bool force)
{
    char *text;
    size_t n;
    FH1_TRY(cvt_file_read(config_path, CVT_HF_CONFIG_BYTES, &text, &n));
    return cvt_hf_folder_init_text(text, n, config_path, out_dir, seed, dtype, force);
}

fh1_status cvt_hf_folder_init_text(char *text, size_t n, const char *name, const char *out_dir, uint64_t seed,
                                   fh1_dtype dtype, bool force)
{
    cvt_target t = {.fd = -1};
    fh1_config *config = malloc(sizeof *config);
    fh1_status s = config ? NULL : fh1_no_memory(sizeof *config, "a config");
    if (!s && !cvt_hf_dtype_name(dtype))
        s = fh1_found(fh1_expected(FH1_BAD("weights cannot have this type"), "BF16, F32, F16 or F64"), "%s",
                      fh1_dtype_name(dtype));
    if (!s) s = prepare_config(name, dtype, &text, &n, config);
    if (!s) s = cvt_target_begin(out_dir, true, force, &t);
    if (!s) s = build_folder(t.temp, text, n, config, seed, dtype);
    if (!s) s = cvt_target_commit(&t);
    cvt_target_free(&t);
    free(config);
    free(text);
    return s;
}
