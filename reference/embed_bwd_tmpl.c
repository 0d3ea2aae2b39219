#include "reference/embed_bwd.h"

#include "oracle/thread.h"

#include <string.h>

#define COLUMNS 64 /* of a piece: whole lines of the cache, so that no two threads write to one */

typedef struct {
    int64_t M, D, pad;
    const int64_t *ids;
    const real *dy;
    real *dtable;
} embed_job;

/* The one path: a row of the table was copied to each place where its id stands, so it gets the sum of their
 * gradients. Columns stand alone; within one the tokens come in their order. */
static void columns(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    const embed_job *j = ctx;
    for (int64_t m = 0; m < j->M; ++m) {
        if (j->ids[m] == j->pad && !REF_FAULT(GRAD_EMBED_PADDING_ROW_KEPT)) continue;
        const real *dy = j->dy + m * j->D;
        real *row = j->dtable + j->ids[m] * j->D;
        for (int64_t i = i0; i < i1; ++i) row[i] = (REF_FAULT(GRAD_EMBED_DUPLICATES_OVERWRITE) ? 0 : row[i]) + dy[i];
    }
}

void REF(ref_embed_bwd)(int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad, const real *dy, real *dtable)
{
    if (!dtable) return;
    embed_job j = {M, D, pad, ids, dy, dtable};
    fh1_parallel_for(D, COLUMNS, columns, &j);
    if (REF_FAULT(GRAD_EMBED_PADDING_ROW_ZEROED) && pad >= 0 && pad < V)
        memset(dtable + pad * D, 0, (size_t)D * sizeof *dtable);
}
