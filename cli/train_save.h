/* The trained model as a checkpoint for the sinks of convert/. */
#pragma once

#include "cli/train_state.h"
#include "convert/checkpoint.h"

/* `base` with the trained parameters in place of its own, each rounded once from its master to the tensor's type; all
 * other bytes as they are. Takes base over, also when it fails; `s` must outlive the view. */
fh1_status cli_train_view(cvt_ckpt *base, const cli_train_state *s, cvt_ckpt **out);
