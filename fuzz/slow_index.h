/* A second audit of model.safetensors.index.json and its shards, beside convert/hf_index.h and without a line of it:
 * docs/formats.md, "Model folders", rule by rule over all pairs. */
#pragma once

#include "fuzz/slow_safetensors.h"

typedef struct {
    const char *name; /* of a file in the folder */
    const uint8_t *data;
    size_t size;
    bool named;            /* set: the index names it */
    slow_safetensors read; /* set: of one that is named; freed by slow_index_free */
} slow_shard;

/* Whether the index, in a folder with just these files, is exact. */
bool slow_index_audit(const char *text, size_t size, slow_shard *shards, int n);
void slow_index_free(slow_shard *shards, int n);
