/* Checkpoints quantised by bitsandbytes (NF4, FP4, with or without double quantisation, int8), decoded bit for bit as
 * bitsandbytes 0.50.2 does. */
#pragma once

#include "convert/checkpoint.h"

/* *yes: config.json has a quantization_config or the table quantised tensors. A config that cannot be read as JSON has
 * none; FH1_E_INTERNAL where it was not read to the end. */
fh1_status cvt_bnb_is(cvt_ckpt *c, bool *yes);
/* A view with the weights decoded (to the type that quant_state names, int8: f32) and then rounded to `dtype`
 * (FH1_DTYPE_COUNT: as decoded), without quantization_config. Takes `below` over. Damaged state is FH1_E_INPUT. */
fh1_status cvt_ckpt_dequantise(cvt_ckpt *below, fh1_dtype dtype, cvt_ckpt **out);
