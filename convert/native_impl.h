/* What the files of the native container share: its records and its codec. docs/native_format.md has every byte. */
#pragma once

#include "convert/hash.h"
#include "convert/native.h"

#include <sys/stat.h>

#define NATIVE_MAJOR 1
#define NATIVE_MINOR 0
#define NATIVE_HEADER 64               /* bytes before the first chunk */
#define NATIVE_ALIGN 64                /* of planes and of the index */
#define NATIVE_CHUNK ((size_t)1 << 20) /* bytes of a file or tensor in one chunk */
#define NATIVE_RECORD 32               /* bytes of a chunk's record in the index */
#define NATIVE_INDEX_MAX ((uint64_t)64 << 20)
#define NATIVE_INDEX_SHRINK 256 /* no index of names and checksums compresses further */
#define NATIVE_INDEX_DEPTH 7    /* object, files, file, tensors, tensor, shape; one to spare */

extern const unsigned char native_magic[8];
extern const char native_repair[]; /* what to do about damage */

typedef enum { NATIVE_PLAIN, NATIVE_SPLIT16, NATIVE_LAYOUTS } native_layout;
typedef enum { NATIVE_RAW, NATIVE_ZSTD, NATIVE_CODECS } native_codec;

typedef struct {
    uint64_t offset;    /* of plane 0 in the file */
    uint64_t checksum;  /* XXH3-64 of the stored bytes, padding included */
    uint32_t bytes;     /* that it decodes to */
    uint32_t stored[2]; /* bytes of the planes; 0 for the plane that PLAIN lacks */
    unsigned char layout, codec[2];
} native_chunk;

/* A run of chunks that decodes to one side file, header or tensor. */
typedef struct {
    int64_t first; /* chunk */
    uint64_t bytes;
} native_stream;

static inline uint64_t native_pad(uint64_t n)
{
    return (n + (NATIVE_ALIGN - 1)) & ~(uint64_t)(NATIVE_ALIGN - 1);
}

static inline uint64_t native_span(const native_chunk *c) /* bytes in the file, padding included */
{
    return native_pad(c->stored[0]) + native_pad(c->stored[1]);
}

static inline int64_t native_chunks_of(uint64_t bytes)
{
    return (int64_t)(bytes / NATIVE_CHUNK + (bytes % NATIVE_CHUNK != 0));
}

static inline uint32_t native_chunk_bytes(const native_stream *s, int64_t chunk)
{
    uint64_t before = (uint64_t)(chunk - s->first) * NATIVE_CHUNK, left = s->bytes - before;
    return (uint32_t)(left < NATIVE_CHUNK ? left : NATIVE_CHUNK);
}

static inline void native_put(unsigned char *p, uint64_t v, int n) /* little endian */
{
    for (int i = 0; i < n; i++) p[i] = (unsigned char)(v >> (8 * i));
}

static inline uint64_t native_get(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* ---- native_codec.c ---- */

/* Contexts and scratch of one thread. */
typedef struct native_lane native_lane;
fh1_status native_lane_new(native_lane **out);
void native_lane_free(native_lane *l); /* NULL is fine */

/* Room that encoding writes to at most: two padded planes. */
#define NATIVE_SPAN_MAX (NATIVE_CHUNK + 2 * NATIVE_ALIGN)

/* Encodes n bytes, 1 to NATIVE_CHUNK, into `out`, and fills in all of the record but its offset. */
fh1_status native_encode(native_lane *l, const void *raw, size_t n, bool split16, unsigned char *out,
                         native_chunk *record);
/* The reverse; `in` holds native_span(c) bytes, c->bytes come out. Nothing is trusted but the record's own rules
 * (native_check_record). The checksum first. */
fh1_status native_decode(native_lane *l, const native_chunk *c, const unsigned char *in, void *dst);

/* One zstd frame that must decode to exactly n bytes and be all of `in`. */
fh1_status native_unzstd(native_lane *l, const void *in, size_t n_in, void *dst, size_t n);
/* One frame of level `level`, malloc'ed. */
fh1_status native_zstd(const void *in, size_t n, int level, unsigned char **out, size_t *n_out);

/* The two planes of 16-bit elements: bits 14 to 7, and bit 15 before bits 6 to 0. */
void native_split_high(const unsigned char *raw, unsigned char *high, size_t n_elems);
void native_split_low(const unsigned char *raw, unsigned char *low, size_t n_elems);
void native_join(const unsigned char *high, const unsigned char *low, unsigned char *raw, size_t n_elems);

/* ---- native_index.c, native_index_read.c ---- */

typedef struct {
    int major, minor;
    uint64_t file_bytes, index_offset, index_stored, index_bytes, index_checksum;
} native_header;

typedef struct {
    native_chunk *chunks;
    int64_t n_chunks;
    uint64_t largest_span;  /* of the chunks; set by the reader */
    native_stream *streams; /* in the order of the file */
    int64_t n_streams;
    cvt_hash_text *hashes; /* of the files of the checkpoint, as the index tells */
    char *provenance;      /* JSON */
} native_index;

void native_index_free(native_index *ix);

void native_header_write(const native_header *h, unsigned char out[NATIVE_HEADER]);
/* *is_native: the magic is there. FH1_E_INPUT for another file, another major version, and damage. */
fh1_status native_header_read(const unsigned char in[NATIVE_HEADER], uint64_t file_bytes, native_header *h,
                              bool *is_native);

/* The bytes of the index before compression, malloc'ed. */
fh1_status native_index_make(const cvt_ckpt *c, const native_index *ix, const int64_t *order, unsigned char **out,
                             size_t *n);
/* Checks every rule, fills in the index and the tables of the new checkpoint (finished, without headers); `source` of a
 * file and of a tensor is its stream. */
fh1_status native_index_read(const unsigned char *in, size_t n, const native_header *h, cvt_ckpt *c, native_index *ix);

/* ---- native_order.c ---- */

/* The streams of a checkpoint that is laid out, in the order of the file: for each of its files the side file or the
 * header, then the tensors in the order of their data. order[i] is the tensor of stream i, or -1 - the file. Both
 * tables are malloc'ed. */
fh1_status native_plan(const cvt_ckpt *c, native_stream **streams, int64_t **order, int64_t *n_streams);

/* XXH3-128 of each file, from chunks that come in the order of the file. */
typedef struct native_hasher native_hasher;
fh1_status native_hasher_new(const cvt_ckpt *c, cvt_hash_text *hashes, native_hasher **out);
void native_hasher_free(native_hasher *h); /* NULL is fine */
void native_hasher_add(native_hasher *h, int64_t file, const void *data, size_t n);
void native_hasher_end(native_hasher *h); /* after the last one */
/* One hash of them all: of the lines that xxh128sum prints for the files. */
fh1_status native_model_hash(const cvt_ckpt *c, const cvt_hash_text *hashes, cvt_hash_text *out);

/* ---- native_read.c ---- */

/* *is_native says also when it fails whether the file is one of ours and of this version, so that what fails is damage.
 */
fh1_status native_open(const char *path, bool *is_native, cvt_ckpt **out);
/* NULL when c is no native file. */
const native_index *native_index_of(const cvt_ckpt *c, const native_header **h);
