/* Planted faults that the scans of both kinds of mixer have in common, and what they ask about documents. */
#pragma once

#include "reference/real.h"

enum { REF_FAULTY_CHUNK = 16 }; /* of a kernel that has them */

/* Whether token t meets an empty state. */
static inline bool REF(ref_carry_lost)(int64_t t, int64_t T)
{
    if (t == 0) return REF_FAULT(LONG_CALLS_DROP_STATE) && T > 4;
    return (REF_FAULT(CARRY_LOST_AT_CHUNK_EDGE) && t % REF_FAULTY_CHUNK == 0) ||
           (REF_FAULT(CARRY_LOST_AT_50000) && t == 50000) || (REF_FAULT(SECOND_HALF_FROM_ZERO) && t == T / 2);
}

/* The token whose Δ token t takes. */
static inline int64_t REF(ref_dt_token)(int64_t t)
{
    return REF_FAULT(DT_STALE_AT_ONE_TOKEN) && t == 3 ? 2 : t;
}

/* Whether the last token of a call enters the state once more. */
static inline bool REF(ref_tail_repeats)(int64_t T)
{
    return REF_FAULT(CHUNK_TAIL_NOT_ZEROED) && T > 1 && T % REF_FAULTY_CHUNK != 0;
}

/* Whether a row of the state is read or rounded at the wrong point. */
static inline bool REF(ref_row_is_spoiled)(void)
{
    return REF_FAULT(STATE_IN_BF16) || REF_FAULT(STATE_IN_F16) || REF_FAULT(Y_READS_ROUNDED_STATE) ||
           REF_FAULT(Y_READS_STATE_BEFORE) || REF_FAULT(SCAN_SUMS_IN_BF16);
}

/* One element of such a row: S = decay·S + in; returns y + S·C. */
static inline real REF(ref_spoiled_element)(real y, real decay, real in, real C, real *S)
{
    const fh1_round state = REF_FAULT(STATE_IN_BF16)  ? FH1_ROUND_BF16
                            : REF_FAULT(STATE_IN_F16) ? FH1_ROUND_F16
                                                      : FH1_ROUND_NONE;
    const fh1_round read = REF_FAULT(Y_READS_ROUNDED_STATE) ? FH1_ROUND_BF16 : FH1_ROUND_NONE;
    const fh1_round sum = REF_FAULT(SCAN_SUMS_IN_BF16) ? FH1_ROUND_BF16 : FH1_ROUND_NONE;
    const real before = *S, now = decay * before + in;
    *S = r_round(state, now);
    return r_round(sum, y + r_round(read, REF_FAULT(Y_READS_STATE_BEFORE) ? before : now) * C);
}

/* Whether token t begins another document than what lies before it, `state_doc` before token 0. */
static inline bool REF(ref_doc_begins)(const int64_t *doc, int64_t state_doc, int64_t t)
{
    return doc && doc[t] != (t > 0 ? doc[t - 1] : state_doc);
}

/* The log-decay that token t has because it begins a document behind another one, `reset` (fh1_doc_reset). 0: it has
 * its own, and where a document begins the state is cut. */
static inline double REF(ref_reset_at)(const int64_t *doc, int64_t state_doc, int64_t t, double reset)
{
    if (!REF(ref_doc_begins)(doc, state_doc, t) || (t > 0 ? doc[t - 1] : state_doc) < 0) return 0;
    return REF_FAULT(DOC_RESET_BY_8) ? -8 : REF_FAULT(SCAN_LEAKS_DOCUMENTS) ? 0 : reset;
}

/* Whether nothing is carried from token t to the left, on the way back. */
static inline bool REF(ref_carry_ends)(const int64_t *doc, int64_t state_doc, int64_t t)
{
    if (REF_FAULT(GRAD_CARRY_CROSSES_DOCUMENTS)) return false;
    return REF(ref_doc_begins)(doc, state_doc, t) ||
           (REF_FAULT(GRAD_CARRY_DROPPED_AT_CHUNK_EDGE) && t > 0 && t % REF_FAULTY_CHUNK == 0);
}
