/* GGUF files of architecture `falcon-h1`, as stock llama.cpp reads them: multipliers folded into the weights.
 *
 * Reading one gives the checkpoint before folding: names of Hugging Face, weights divided by their factors in f64 and
 * rounded once, config.json from the private key or made from the GGUF keys. */
#pragma once

#include "convert/checkpoint.h"

typedef enum { CVT_GGUF_KEEP, CVT_GGUF_F32, CVT_GGUF_F16, CVT_GGUF_BF16, CVT_GGUF_Q8_0 } cvt_gguf_type;

bool cvt_gguf_is(const void *begin, size_t n); /* the first bytes of a file */
fh1_status cvt_gguf_open(const char *path, cvt_ckpt **out);
/* The same for an engine: every tensor as f32 (f64 where the original was), so that unfolding what is stored in few
 * bits rounds nothing that matters. */
fh1_status cvt_gguf_open_wide(const char *path, cvt_ckpt **out);
/* Folds in f64, rounds once. Refuses by name a config that stock llama.cpp cannot represent. KEEP: the type of the
 * checkpoint's matrices. */
fh1_status cvt_gguf_write(cvt_ckpt *c, const char *path, cvt_gguf_type type, const cvt_write_options *o);
/* What reading could not undo, one sentence per line; "" when nothing. Owned by c. */
const char *cvt_gguf_losses(const cvt_ckpt *c);
fh1_status cvt_gguf_verify(const char *path, const cvt_progress *progress);
