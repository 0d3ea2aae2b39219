/* Write an fh1 trace from your own engine, in C11 with nothing but the standard library.
 *
 *     cc -std=c11 -O2 golden/examples/write_trace.c -o write_trace -lm
 *     ./write_trace golden/models/mini-0.5b trace.safetensors
 *     fh1 check golden/models/mini-0.5b --trace trace.safetensors
 *
 * Take write_trace() into your engine. The rest is a stand-in for one: it computes the first three
 * taps of a float32 Falcon-H1, reading what it needs from the folder in the shortest way.
 *
 * A trace is a .safetensors file:
 *     8 bytes   length n of the header, little-endian
 *     n bytes   JSON: name -> dtype, shape, data_offsets; padded with blanks, so that n % 8 == 0
 *     the rest  the tensors, little-endian, C order, one after the other without gaps
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tensor {
    const char *name;  /* "step0/" and a tap, or an input such as "step0/input_ids" */
    const char *dtype; /* "F64" "F32" "BF16" "F16"; inputs "I64" */
    int n_dims;
    int64_t shape[4];
    size_t n_bytes;
    const void *data; /* little-endian, C order */
};

/* Header text so far. Grows on demand; a failed allocation ends the program. */
struct text {
    char *at;
    size_t len, room;
};

static void put(struct text *t, const char *s)
{
    size_t n = strlen(s);
    if (t->len + n + 1 > t->room) {
        t->room = 2 * (t->len + n + 1);
        t->at = realloc(t->at, t->room);
        if (!t->at) {
            fprintf(stderr, "write_trace: out of memory\n");
            exit(3);
        }
    }
    memcpy(t->at + t->len, s, n + 1);
    t->len += n;
}

/* 0 when the file is complete. Names and producer must not need JSON escapes.
 * Give tensors with wide elements first: then every one starts at a multiple of its element. */
static int write_trace(const char *path, const struct tensor *tensors, int n, const char *producer)
{
    struct text h = {0};
    char number[64];
    size_t offset = 0;

    /* HERE: fp32 is what an engine in f32 declares; hf-eager-bf16 and others: docs/numerics.md, "Contracts" */
    put(&h, "{\"__metadata__\":{\"fh1.trace\":\"1\",\"fh1.contract\":\"fp32\",\"fh1.producer\":\"");
    put(&h, producer);
    put(&h, "\"}");
    for (int i = 0; i < n; i++) {
        const struct tensor *t = &tensors[i];
        put(&h, ",\"");
        put(&h, t->name);
        put(&h, "\":{\"dtype\":\"");
        put(&h, t->dtype);
        put(&h, "\",\"shape\":[");
        for (int k = 0; k < t->n_dims; k++) {
            snprintf(number, sizeof number, "%s%" PRId64, k ? "," : "", t->shape[k]);
            put(&h, number);
        }
        snprintf(number, sizeof number, "],\"data_offsets\":[%zu,%zu]}", offset, offset + t->n_bytes);
        put(&h, number);
        offset += t->n_bytes;
    }
    put(&h, "}");
    while (h.len % 8) put(&h, " ");

    unsigned char length[8];
    for (int k = 0; k < 8; k++) length[k] = (unsigned char)((uint64_t)h.len >> 8 * k);

    FILE *f = fopen(path, "wb");
    int ok = f && fwrite(length, 1, 8, f) == 8 && fwrite(h.at, 1, h.len, f) == h.len;
    for (int i = 0; ok && i < n; i++) ok = fwrite(tensors[i].data, 1, tensors[i].n_bytes, f) == tensors[i].n_bytes;
    if (f && fclose(f)) ok = 0;
    free(h.at);
    return ok ? 0 : -1;
}

/* ---- the stand-in for an engine -------------------------------------------------------------- */

static void fail(const char *what)
{
    fprintf(stderr, "write_trace: %s\n", what);
    exit(2);
}

/* A whole file with a zero behind it; the caller frees it. */
static char *read_file(const char *folder, const char *name, size_t *n_bytes)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) fail("path too long");
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) fail("cannot open the model's config.json or model.safetensors");
    long size = ftell(f);
    if (size < 0) fail("cannot read the size of a file");
    rewind(f);
    char *data = malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, f) != (size_t)size) fail("cannot read the model");
    fclose(f);
    data[size] = 0;
    *n_bytes = (size_t)size;
    return data;
}

static double config_number(const char *config, const char *key)
{
    const char *at = strstr(config, key);
    if (!at || !(at = strchr(at, ':'))) fail("a key is missing in config.json");
    return strtod(at + 1, NULL);
}

/* Points at an F32 tensor of n elements inside the file. */
static const float *weight(const char *file, size_t n_bytes, const char *name, size_t n)
{
    uint64_t header = 0;
    size_t begin, end;
    if (n_bytes < 8) fail("model.safetensors is too short");
    for (int k = 0; k < 8; k++) header |= (uint64_t)(unsigned char)file[k] << 8 * k;
    const char *at = strstr(file + 8, name);
    const char *dtype = at ? strstr(at, "\"dtype\":\"") : NULL;
    const char *offsets = at ? strstr(at, "\"data_offsets\":[") : NULL;
    if (!dtype || !offsets || strncmp(dtype, "\"dtype\":\"F32\"", 13)) fail("no such F32 weight in model.safetensors");
    if (sscanf(offsets, "\"data_offsets\":[%zu,%zu]", &begin, &end) != 2 || end < begin ||
        end - begin != n * sizeof(float) || header > n_bytes - 8 || end > n_bytes - 8 - header)
        fail("model.safetensors is damaged");
    return (const float *)(const void *)(file + 8 + header + begin);
}

enum { T = 6 };
static const int64_t ids[T] = {5, 17, 23, 42, 8, 31};

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: write_trace MODEL_FOLDER TRACE\n");
        return 2;
    }
    size_t n_config, n_file;
    char *config = read_file(argv[1], "config.json", &n_config);
    char *file = read_file(argv[1], "model.safetensors", &n_file);
    if (!strstr(config, "\"falcon_h1\""))
        fail("this example computes a falcon_h1; write_trace() takes the taps of any model");
    size_t D = (size_t)config_number(config, "\"hidden_size\"");
    size_t V = (size_t)config_number(config, "\"vocab_size\"");
    double multiplier = config_number(config, "\"embedding_multiplier\"");
    double eps = config_number(config, "\"rms_norm_eps\"");
    const float *table = weight(file, n_file, "\"model.embed_tokens.weight\"", V * D);
    const float *norm = weight(file, n_file, "\"model.layers.0.input_layernorm.weight\"", D);

    float *embedded = malloc(3 * T * D * sizeof(float));
    if (!embedded || V <= 42) fail("the model does not fit this example");
    float *input = embedded + T * D, *normed = input + T * D;
    for (size_t t = 0; t < T; t++) {
        const float *row = table + (size_t)ids[t] * D;
        double square = 0;
        for (size_t i = 0; i < D; i++) {
            embedded[t * D + i] = row[i];
            input[t * D + i] = (float)(row[i] * multiplier);
            square += (double)input[t * D + i] * input[t * D + i];
        }
        double r = 1 / sqrt(square / (double)D + eps);
        for (size_t i = 0; i < D; i++) normed[t * D + i] = (float)(input[t * D + i] * r * norm[i]);
    }

    int64_t d = (int64_t)D;
    size_t n_bytes = T * D * sizeof(float);
    struct tensor tensors[] = {
        {"step0/input_ids", "I64", 2, {1, T}, sizeof ids, ids},
        {"step0/model.embed_tokens", "F32", 3, {1, T, d}, n_bytes, embedded},
        {"step0/model.layers.0.input", "F32", 3, {1, T, d}, n_bytes, input},
        {"step0/model.layers.0.input_layernorm", "F32", 3, {1, T, d}, n_bytes, normed},
    };
    int bad = write_trace(argv[2], tensors, sizeof tensors / sizeof *tensors, "write_trace.c example");
    if (bad) fprintf(stderr, "write_trace: cannot write %s\n", argv[2]);
    free(embedded);
    free(file);
    free(config);
    return bad ? 2 : 0;
}
