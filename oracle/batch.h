/* The inputs of one call, [B, T], and the list of real tokens that they stand for.
 *
 * fh1 never computes on padding: a batch is packed into its M real tokens, row after row, and taps
 * are scattered back to [B, T]. Padding therefore cannot reach a state, whatever its ids or
 * embeddings hold. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

typedef struct {
    int64_t B, T;
    const int64_t *ids;       /* [B, T] */
    const int64_t *mask;      /* [B, past + T] of 0 and 1, or NULL: all new tokens are real */
    int64_t mask_len;         /* past + T when mask is given */
    const int64_t *positions; /* [B, T] or NULL: past + arange(T), no correction for padding */
    const int64_t *seq_idx;   /* [B, T] or NULL: the row's last document goes on */
    const int64_t *labels;    /* [B, T] unshifted, -100 = ignore, or NULL */
} fh1_batch;

/* The real tokens of a batch; arrays of M entries, row by row, columns rising. */
typedef struct {
    int64_t B, T, M;
    int64_t past;       /* columns of the earlier calls, padding included */
    int64_t *row_begin; /* [B + 1]: tokens of row b are row_begin[b] .. row_begin[b+1] */
    int64_t *row, *col; /* place in [B, T] */
    int64_t *id;
    int64_t *position;
    int64_t *doc;              /* document id */
    int64_t *n_left, *n_right; /* [B]: padding columns before and after the row's real tokens */
    int64_t max_position;      /* over all B*T positions, padding included (HF's seq_len - 1) */
} fh1_tokens;

struct fh1_cache;

/* Check a batch against the vocabulary and the cache (NULL = empty), and pack it. FH1_E_INPUT, with
 * row and column: T = 0, an id outside [0, V), mask values other than 0 and 1, a hole in the mask of
 * the new columns, past columns that contradict the earlier calls, a mask of the wrong length,
 * seq_idx that falls or is negative, negative positions or ones above 2^53, a label outside [0, V) other
 * than -100. Ids and documents of padding are not read; positions of padding count for max_position
 * alone. A row of nothing but padding is fine: no tokens, n_left = T. Mask columns count from the first
 * call, all others from the first new token.
 * Released by fh1_tokens_free. */
fh1_status fh1_tokens_pack(const fh1_batch *b, int64_t V, const struct fh1_cache *past, fh1_tokens *out);
void fh1_tokens_free(fh1_tokens *t);
