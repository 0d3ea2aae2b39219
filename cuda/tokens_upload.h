/* The packed tokens of a call on the device, from the host's and the books of the cache. */
#pragma once

#include "cuda/device.h"
#include "cuda/oracle.h"
#include "cuda/tokens.h"

namespace CU_NS
{

/* Arrays of cu_tokens, each its own buffer. */
struct cu_token_buffers {
    cu_buffer id, row, row_begin, past, position, start, first;
};

/* `past` as it is before the call. The host's arrays are read when this returns. FH1_E_INPUT: more tokens than 2^31. */
fh1_status cu_tokens_upload(const fh1_tokens *t, const fh1_cache *past, cudaStream_t stream, cu_token_buffers *b,
                            cu_tokens *out);
void cu_token_buffers_free(cu_token_buffers *b);

} // namespace CU_NS
