/* A second reading of native files beside convert/native_*.c: docs/native_format.md rule by rule over bytes in memory,
 * with the stock zstd and xxHash libraries. */
#pragma once

#include "fuzz/slow_json.h"

typedef struct {
    char name[4097];
    bool weights;
    int64_t bytes, header_bytes;
    const char *hash; /* 32 digits */
    size_t chunk;     /* the first */
} slow_native_file;

typedef struct {
    const char *name, *dtype;
    int bits, rank;
    int64_t shape[8], begin, bytes; /* begin: in its file */
    size_t file, chunk;
} slow_native_tensor;

typedef struct {
    const uint8_t *data;
    size_t size;
    uint64_t index_offset, minor;
    uint8_t *index; /* decompressed */
    size_t n_index, n_text, n_chunks;
    slow_json *json;
    slow_native_file *files;
    size_t n_files;
    slow_native_tensor *tensors; /* in the order of the index */
    size_t n_tensors;
    uint64_t decoded; /* bytes of all chunks */
} slow_native;

enum { SLOW_NATIVE_CHUNK = 1 << 20 };

typedef enum { SLOW_NATIVE_GOOD, SLOW_NATIVE_BAD, SLOW_NATIVE_OTHER } slow_native_verdict; /* OTHER: no native file */

/* GOOD: it opens. Free in any case. */
slow_native_verdict slow_native_read(const uint8_t *data, size_t size, slow_native *out);
void slow_native_free(slow_native *f);

/* Chunk i decoded, malloc'ed; NULL: damaged. */
uint8_t *slow_native_chunk(const slow_native *f, size_t i, uint32_t *n);
/* n bytes from chunk `first` on, malloc'ed; NULL: damaged. */
uint8_t *slow_native_bytes(const slow_native *f, size_t first, int64_t n);
/* Everything decodes and hashes to what the index says. */
bool slow_native_sound(const slow_native *f);
/* XXH3-128 of file i, and of all (i = n_files); false: damaged. */
bool slow_native_hash(const slow_native *f, size_t i, char hex[33]);

/* The index, decompressed and taken apart as far as its sizes allow, whatever its rules: for mutators. */
bool slow_native_take_apart(const uint8_t *data, size_t size, slow_native *out);
