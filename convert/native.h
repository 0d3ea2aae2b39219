/* The native container `.fh1`: a checkpoint in one checksummed, compressed file. docs/native_format.md has every byte.
 *
 * 16-bit floats are split into a plane of exponents (Huffman-only zstd frames) and a raw plane of signs and mantissas,
 * all else is zstd, in chunks of 1 MiB that decode alone; side files and the headers of the safetensors files are
 * embedded, so that the folder it was made from comes back byte for byte. */
#pragma once

#include "convert/checkpoint.h"

bool cvt_native_is(const void *begin, size_t n); /* the first bytes of a file */
fh1_status cvt_native_open(const char *path, cvt_ckpt **out);
fh1_status cvt_native_write(cvt_ckpt *c, const char *path, const cvt_write_options *o);

/* A whole tensor, decoded by all threads straight into dst. Works on any checkpoint. */
fh1_status cvt_native_read_tensor(cvt_ckpt *c, int64_t t, void *dst);
/* Every checksum and structure rule, and that the files come out as they went in. FH1_E_WRONG names the first damage
 * (offset, chunk, tensor); FH1_E_INPUT: not a native file, or of another major version. */
fh1_status cvt_native_verify(const char *path, const cvt_progress *progress);

/* Facts for `fh1 info`. */
typedef struct {
    int major, minor;
    uint64_t file_bytes, stored_bytes, raw_bytes; /* of the chunks, and what they decode to */
    int64_t chunks;
    const char *provenance; /* JSON: tool, source, XXH3-128 of the model; lives as long as c */
} cvt_native_facts;
fh1_status cvt_native_info(const cvt_ckpt *c, cvt_native_facts *out); /* FH1_E_INPUT when c is no native file */
