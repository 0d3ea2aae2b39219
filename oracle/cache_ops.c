#include "oracle/engine.h"

const fh1_cache_ops fh1_cache_ops_true = {
    .reset = fh1_cache_reset,
    .clone = fh1_cache_clone,
    .restore = fh1_cache_restore,
    .reorder = fh1_cache_reorder,
    .truncate = fh1_cache_truncate,
};
