/* Packed rows for the cases of documents. */
#include "tests/edge/edge_moves.h"

#include <string.h>

void edge_pack(const law_run *run, int64_t B, const int64_t len[][EDGE_DOCS], int64_t step, edge_packed *p)
{
    *p = (edge_packed){.B = B};
    for (int d = 0; d < EDGE_DOCS; ++d) p->T += len[0][d];
    for (int64_t b = 0; b < B; ++b) {
        int64_t at = b * p->T;
        memcpy(p->len[b], len[b], sizeof *len);
        for (; p->n[b] < EDGE_DOCS && len[b][p->n[b]] > 0; ++p->n[b])
            for (int64_t i = 0; i < len[b][p->n[b]]; ++i, ++at) {
                p->ids[at] = run->text[b][at - b * p->T];
                p->seq_idx[at] = p->n[b] * step;
                p->positions[at] = i;
            }
    }
}

fh1_status edge_feed_packed(law_session *s, const edge_packed *p, int64_t begin, int64_t n, bool documents)
{
    int64_t ids[EDGE_PACKED_ROWS * EDGE_COLUMNS], seq_idx[EDGE_PACKED_ROWS * EDGE_COLUMNS],
        positions[EDGE_PACKED_ROWS * EDGE_COLUMNS];
    for (int64_t b = 0; b < p->B; ++b) {
        const int64_t from = b * p->T + begin;
        memcpy(ids + b * n, p->ids + from, (size_t)n * sizeof *ids);
        memcpy(seq_idx + b * n, p->seq_idx + from, (size_t)n * sizeof *ids);
        memcpy(positions + b * n, p->positions + from, (size_t)n * sizeof *ids);
    }
    return gld_session_call(
        s, &(fh1_batch){.B = p->B, .T = n, .ids = ids, .seq_idx = documents ? seq_idx : NULL, .positions = positions});
}

fh1_status edge_step_packed(law_run *run, law_session *s, const edge_packed *p)
{
    int64_t ids[EDGE_PACKED_ROWS], positions[EDGE_PACKED_ROWS];
    for (int64_t b = 0; b < p->B; ++b) {
        ids[b] = run->text[b][s->n[b]];
        positions[b] = p->len[b][p->n[b] - 1] + s->n[b] - p->T;
    }
    return gld_session_call(s, &(fh1_batch){.B = p->B, .T = 1, .ids = ids, .positions = positions});
}

fh1_status edge_take_packed(law_run *run, fh1_engine *e, const edge_packed *p, const law_session *s, int64_t more,
                            law_side *out)
{
    for (int64_t b = 0; b < p->B; ++b) {
        int64_t begin = 0;
        for (int64_t d = 0; d < p->n[b]; begin += p->len[b][d++]) {
            const bool last = d == p->n[b] - 1;
            const int64_t n = p->len[b][d] + (last ? more : 0);
            law_session *alone;
            if (s) {
                FH1_TRY(gld_session_take(s, b, begin, n, last, false, out));
                continue;
            }
            gld_sessions_close(run);
            FH1_TRY(gld_session_solo(run, e, run->text[b] + begin, (int64_t[]){n, 0}, &alone));
            FH1_TRY(gld_session_take(alone, 0, 0, -1, last, false, out));
        }
    }
    return NULL;
}
