/* What every reader does with its table of weights before it is bound to a config. */
#pragma once

#include "oracle/model.h"

/* FH1_E_INPUT for a tensor that is part of a quantised model: scales go by their names, codes by type and name. */
fh1_status cvt_weights_plain(const char *file, const char *name, fh1_dtype dtype);

/* Some writers store the head of a tied model too. It must then be the embedding itself, and leaves the table. */
fh1_status cvt_weights_drop_tied_head(const char *path, fh1_family family, fh1_weight *w, int64_t *n);

/* "bf16, 51 tensors, 1042822208 bytes" */
void cvt_weights_describe(const fh1_weight *w, int64_t n, char *buf, size_t size);

void cvt_weights_free(fh1_weight *w, int64_t n);
