/* What holds a model: for fh1 info. */
#pragma once

#include "convert/checkpoint.h"

/* Lines, or with `json` members of an object that begin with a comma. `c` as it was opened, without views. */
fh1_status cli_print_format(cvt_ckpt *c, bool json);
