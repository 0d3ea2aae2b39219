/* A checkpoint written as a Hugging Face folder. */
#pragma once

#include "convert/checkpoint.h"

/* Every file of the checkpoint under `dir`, sub-folders included: headers as they are laid out, data behind them. The
 * folder appears whole or not at all (cvt_target), synced. A checkpoint that came from a folder and was not edited
 * gives the same bytes in every file. */
fh1_status cvt_hf_write(cvt_ckpt *c, const char *dir, const cvt_write_options *o);
