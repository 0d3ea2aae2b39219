/* A second reading of a safetensors file, beside convert/safetensors.h and without a line of it: docs/formats.md rule
 * by rule, each over all tensors or pairs of tensors, in no hurry. */
#pragma once

#include "fuzz/slow_json.h"

enum { SLOW_RANK = 8 };

typedef struct {
    const char *name, *dtype; /* as the header spells them, decoded */
    int bits;                 /* of one element */
    int rank;
    int64_t shape[SLOW_RANK];
    int64_t begin, end; /* in the data */
} slow_tensor;

typedef struct {
    slow_json *header;         /* owns the names */
    const slow_json *metadata; /* an object of strings; NULL: none */
    size_t data;               /* where the data begin in the file */
    slow_tensor *tensors;      /* in the order of the header */
    size_t n;
} slow_safetensors;

/* False when a rule refuses the file. Free in both cases. Each rule can be taken out (fuzz/plant.h). */
bool slow_safetensors_read(const uint8_t *file, size_t size, slow_safetensors *out);
void slow_safetensors_free(slow_safetensors *f);
