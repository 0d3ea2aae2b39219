/* Laws of packed rows: documents in one row, numbered by seq_idx with positions that restart, compute what each
 * computes alone, also where calls cut the row; nothing of one document reaches the next. */
#include "golden/law_impl.h"

#include <string.h>

enum { LAW_DOCS = 6 };

typedef struct {
    int n;
    int64_t len[LAW_DOCS], T;
    int64_t ids[2 * GLD_LAW_TOKENS], seq_idx[2 * GLD_LAW_TOKENS], positions[2 * GLD_LAW_TOKENS];
} packing;

/* Documents as short as a token, as long as the conv window and across a chunk edge; numbered in twos. */
static packing *pack(const law_run *r)
{
    const int64_t Q = fh1_scan_chunk(&r->m->config), K = r->m->config.K, most = r->T / 3,
                  edge = Q + 1 < most ? Q + 1 : most;
    const int64_t len[LAW_DOCS] = {K, 1, edge, 2, edge > 1 ? edge - 1 : 1, K + 1};
    packing *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    memcpy(p->ids, r->text[0], (size_t)(2 * r->T) * sizeof *p->ids);
    for (int d = 0; d < LAW_DOCS; ++d) {
        p->len[p->n++] = len[d];
        for (int64_t i = 0; i < len[d]; ++i, ++p->T) {
            p->seq_idx[p->T] = 2 * d;
            p->positions[p->T] = i;
        }
    }
    return p;
}

static fh1_status feed(law_session *s, const packing *p, int64_t begin, int64_t n, bool with_docs)
{
    return gld_session_call(s, &(fh1_batch){.B = 1,
                                            .T = n,
                                            .ids = p->ids + begin,
                                            .seq_idx = with_docs ? p->seq_idx + begin : NULL,
                                            .positions = p->positions + begin});
}

/* Each document alone (s == NULL) or where it stands in the packed row; window and state of the last one. */
static fh1_status take_documents(law_run *r, fh1_engine *e, const packing *p, const law_session *s, law_side *out)
{
    int64_t begin = 0;
    for (int d = 0; d < p->n; begin += p->len[d++]) {
        law_session *solo;
        const bool last = d == p->n - 1;
        if (s) {
            FH1_TRY(gld_session_take(s, 0, begin, p->len[d], last, false, out));
            continue;
        }
        FH1_TRY(gld_session_solo(r, e, p->ids + begin, (int64_t[]){p->len[d], 0}, &solo));
        FH1_TRY(gld_session_take(solo, 0, 0, -1, last, false, out));
    }
    return NULL;
}

/* ---- packing ---- */

/* The last token of the third document says something else: the later ones keep their bits. */
static fh1_status changed_before(law_run *r, fh1_engine *e, law_road road, packing *p, law_side *out)
{
    law_session *s;
    const int64_t border = p->len[0] + p->len[1] + p->len[2], was = p->ids[border - 1];
    if (road != LAW_LEFT) p->ids[border - 1] = gld_other_id(r, was);
    fh1_status st = gld_session_open(r, e, 1, &s);
    if (!st) st = feed(s, p, 0, p->T, road != LAW_PLANTED);
    if (!st) st = gld_session_take(s, 0, border, -1, true, true, out);
    p->ids[border - 1] = was;
    return st;
}

static fh1_status walk_packing(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    law_session *s = NULL;
    packing *p = pack(r);
    if (!p) return fh1_no_memory(sizeof *p, "a packed row");
    fh1_status st = NULL;
    if (road != LAW_LEFT) {
        st = gld_session_open(r, e, 1, &s);
        if (!st) st = feed(s, p, 0, p->T, road == LAW_RIGHT);
    }
    if (!st) st = take_documents(r, e, p, s, out);
    if (!st) st = changed_before(r, e, road, p, out);
    free(p);
    return st;
}

fh1_status gld_law_packing(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_packing, LAW_ALL, NULL, r);
}

/* ---- cut_documents: the packed row in two and three calls ---- */

/* The tokens from `from` on. Planted: documents are not told, and the last one finds an empty cache: without attention
 * what was forgotten earlier fades. */
static fh1_status feed_rest(law_session *s, const packing *p, int64_t from, bool planted)
{
    if (!planted || p->T - from < 2) return feed(s, p, from, p->T - from, !planted);
    FH1_TRY(feed(s, p, from, p->T - from - 1, false));
    FH1_TRY(gld_session_forget(s));
    return feed(s, p, p->T - 1, 1, false);
}

/* Cuts in the third document's border: before, at and behind it. A call without seq_idx goes on with the last one. */
static fh1_status feed_cut(law_session *s, const packing *p, int k, bool planted)
{
    const int64_t border = p->len[0] + p->len[1] + p->len[2], cut = border - 1 + k;
    FH1_TRY(feed(s, p, 0, cut, true));
    if (planted) FH1_TRY(gld_session_forget(s));
    if (k == 2) { /* one token of a new document was fed: the rest of it goes on unsaid */
        FH1_TRY(feed(s, p, cut, p->len[3] - 1, false));
        return feed_rest(s, p, cut + p->len[3] - 1, planted);
    }
    if (k == 1) { /* a one-token step begins a document */
        FH1_TRY(feed(s, p, cut, 1, !planted));
        return feed_rest(s, p, cut + 1, planted);
    }
    return feed_rest(s, p, cut, planted);
}

static fh1_status walk_cut(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    packing *p = pack(r);
    if (!p) return fh1_no_memory(sizeof *p, "a packed row");
    fh1_status st = NULL;
    for (int k = 0; k < 3 && !st; ++k) {
        law_session *s = NULL;
        if (road != LAW_LEFT) {
            st = gld_session_open(r, e, 1, &s);
            if (!st) st = feed_cut(s, p, k, road == LAW_PLANTED);
        }
        if (!st) st = take_documents(r, e, p, s, out);
    }
    free(p);
    return st;
}

fh1_status gld_law_cut_documents(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_cut, LAW_ALL, NULL, r);
}
