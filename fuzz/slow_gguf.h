/* A second reading of the GGUF container beside convert/gguf_*.c, and a writer of it: docs/gguf.md, "What the reader
 * checks", rule by rule over bytes that are all in memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *name;
    uint64_t n_name;
    uint32_t kind, item; /* item: of an array */
    uint64_t n;          /* items of an array, bytes of a string, else 1 */
    size_t at, value_at; /* of the entry; of the text, the first item or the number */
    size_t bytes;        /* of these */
} slow_gguf_key;

typedef struct {
    const uint8_t *name;
    uint64_t n_name;
    uint32_t n_dims, type;
    uint64_t dim[4]; /* 1 beyond n_dims */
    uint64_t offset; /* from the start of the data */
    uint64_t bytes;
    size_t at; /* of its entry */
} slow_gguf_tensor;

typedef struct {
    const uint8_t *data;
    size_t size;
    slow_gguf_key *keys; /* in the order of the file, as the tensors */
    size_t n_keys;
    slow_gguf_tensor *tensors;
    size_t n_tensors;
    uint64_t alignment;
    size_t infos_at, infos_end, data_begin;
} slow_gguf;

/* The tables as far as they can be read; `lenient`: what only a rule forbids is taken. False: refused. */
bool slow_gguf_read(const uint8_t *data, size_t size, bool lenient, slow_gguf *out);
void slow_gguf_free(slow_gguf *f);

const slow_gguf_key *slow_gguf_find(const slow_gguf *f, const char *name); /* NULL: none */
/* Elements and bytes of a block of a type; false: unknown. */
bool slow_gguf_block(uint32_t type, uint64_t *elems, uint64_t *bytes);
/* Zeros between tensors, and the checksums of fh1 where they are for this table: what `fh1 verify` asks beyond reading.
 * The container has been accepted. */
bool slow_gguf_sound(const slow_gguf *f);

/* Numbers of the file, little endian, n of 1 to 8 bytes. */
uint64_t slow_gguf_number(const uint8_t *p, size_t n);
