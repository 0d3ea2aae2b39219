/* A model for the engines, from whatever holds it. */
#pragma once

#include "convert/checkpoint.h"
#include "oracle/model.h"

/* A Hugging Face folder is mapped (cvt_hf_folder_open); a native or a GGUF file is decoded into memory, the latter
 * unfolded. fh1_model_free releases it. Errors name file and tensor. */
fh1_status cvt_model_open(const char *path, fh1_model *out);

/* Any checkpoint or view, decoded into memory by all threads; c stays the caller's and may be closed. */
fh1_status cvt_model_from_ckpt(cvt_ckpt *c, fh1_model *out);

/* The same with all weights zero and nothing read: names, types and shapes for whoever only asks about sizes. */
fh1_status cvt_model_outline(cvt_ckpt *c, fh1_model *out);
