/* A second reading of config.json beside convert/hf_config*.c, hf_rope.c and oracle/config.c: docs/formats.md, key by
 * key, over slow_json. */
#pragma once

#include "fuzz/slow_json.h"
#include "oracle/config.h"
#include "oracle/tensor.h"

/* False: refused. */
bool slow_config_read(const slow_json *root, fh1_config *out);
bool slow_config_dtype(const slow_json *root, fh1_dtype *out);
/* The keys that Falcon-Mamba has for itself, into a config of zeros. */
bool slow_config_read_mamba(const slow_json *root, fh1_config *out);
/* A config.json that says the same, malloc'ed: rope keys of transformers 5.x, or those of 4.5x. */
char *slow_config_write(const fh1_config *c, bool v5);

/* Same type and value: numbers exactly, objects in any order. */
bool slow_json_same(const slow_json *a, const slow_json *b);
