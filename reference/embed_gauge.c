#include "reference/embed_gauge.h"

void ref_embed_gauge(const fh1_profile *contract, int64_t n, const double *y, const fh1_gauge *g)
{
    for (int64_t i = 0; i < n; ++i)
        fh1_gauge_set(g, i, fh1_err_half((fh1_err){0}, fh1_dtype_ulp(contract->storage, y[i]) / 2));
}
