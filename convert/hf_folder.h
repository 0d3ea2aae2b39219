/* A Hugging Face model folder: config.json and either model.safetensors or shards with
 * model.safetensors.index.json. */
#pragma once

#include "oracle/model.h"

/* Opens and maps the folder, audits the index (docs/formats.md), binds the weights. The model keeps the
 * maps; fh1_model_free releases them. Errors name file and tensor. */
fh1_status cvt_hf_folder_open(const char *dir, fh1_model *out);

/* A synthetic folder for a config.json: trained-like weights drawn by (seed, tensor name, index), so that
 * activations stay of order one under the config's multipliers, A and dt_bias as Mamba initialises them.
 * Tensors in `dtype`; config.json is copied. Refuses an existing target without `force`; writes through
 * a temporary folder name. */
fh1_status cvt_hf_folder_init(const char *config_path, const char *out_dir, uint64_t seed, fh1_dtype dtype, bool force);
/* The same from the text of a config.json, malloc'ed, which it takes over; `name` is what messages call it. */
fh1_status cvt_hf_folder_init_text(char *text, size_t n, const char *name, const char *out_dir, uint64_t seed,
                                   fh1_dtype dtype, bool force);
