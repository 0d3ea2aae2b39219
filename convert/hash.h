/* XXH3 checksums, as xxhsum prints them: against damage, not against malice. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

uint64_t cvt_hash64(const void *data, size_t n);

/* XXH3-128 of bytes that come piece by piece. */
typedef struct cvt_hash cvt_hash;
typedef struct {
    char hex[33]; /* 32 lower-case digits, high half first: the line of `xxh128sum` */
} cvt_hash_text;

fh1_status cvt_hash_new(cvt_hash **out);
void cvt_hash_free(cvt_hash *h); /* NULL is fine */
void cvt_hash_reset(cvt_hash *h);
void cvt_hash_add(cvt_hash *h, const void *data, size_t n);
cvt_hash_text cvt_hash_end(const cvt_hash *h); /* of all bytes since the reset */
