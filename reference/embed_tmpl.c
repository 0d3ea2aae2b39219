#include "reference/embed.h"

void REF(ref_embed_fwd)(int64_t M, const int64_t *ids, const fh1_tensor *table, real *y)
{
    const int64_t D = table->shape[1];
    const size_t row_bytes = (size_t)(D * (fh1_dtype_bits(table->dtype) / 8));
    for (int64_t m = 0; m < M; ++m) {
        fh1_tensor row = fh1_view1((char *)table->data + (size_t)ids[m] * row_bytes, table->dtype, D);
        REF(ref_widen)(y + m * D, &row, D);
        for (int64_t i = 0; REF_FAULT(EMBEDDING_ROW_0_ZEROED) && ids[m] == 0 && i < D; ++i) y[m * D + i] = 0;
    }
}
