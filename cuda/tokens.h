/* The packed tokens of one call as kernels see them: M real tokens, row after row (oracle/batch.h), never padding.
 * Device arrays, made by the engine from fh1_tokens and its cache, or advanced on the device by a decode graph. */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_tokens {
    int M, B;
    int longest;             /* most new tokens of one row */
    int most_keys;           /* most stored keys of one row after this call */
    const int *id;           /* [M] */
    const int *row;          /* [M] row of the batch */
    const int *row_begin;    /* [B + 1]: tokens of row b are row_begin[b] .. row_begin[b+1] */
    const int *past;         /* [B] tokens stored in the row before this call */
    const int64_t *position; /* [M] for the rotation */
    const int *start;        /* [M] packed index of the first token of m's document if that is in this call, else -1:
                                the document goes on from the row's window and state */
    const int *first;        /* [M] first slot of the row's stored keys that m sees: its document's first token */
};

} // namespace CU_NS
