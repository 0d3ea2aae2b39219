/* D-63: ranks of a context-parallel run. Each computes its tokens on a cache of its own and sends on what the next one
 * needs: keys and values, the last K - 1 columns before the conv, and the state. */
#include "tests/edge/edge_moves.h"

enum { MOST_CUTS = 3 };

/* What rank r sends instead of the carried state when it does not correct it: the state that its own tokens leave when
 * they begin at zero. Rank 0's is right, so two ranks show nothing behind the first. */
static fh1_status local_state(law_run *run, const law_session *sent, const edge_packed *p, int64_t begin, int64_t n,
                              law_session *to)
{
    law_session *local;
    FH1_TRY(edge_swapped(run, sent, EDGE_KEYS | EDGE_WINDOW, &local));
    FH1_TRY(edge_feed_packed(local, p, begin, n, true));
    return edge_copy_all(to, local, EDGE_STATE);
}

static fh1_status over_ranks(law_run *run, fh1_engine *e, law_road road, const int64_t *len, const int64_t *cut,
                             law_side *out)
{
    edge_packed p;
    law_session *s, *rank;
    int64_t begin = 0;
    gld_sessions_close(run);
    edge_pack(run, 1, (const int64_t(*)[EDGE_DOCS])len, 1, &p);
    FH1_TRY(gld_session_open(run, e, 1, &s));
    if (road == LAW_LEFT) {
        FH1_TRY(edge_feed_packed(s, &p, 0, p.T, true));
        return gld_session_take(s, 0, 0, -1, true, false, out);
    }
    for (int r = 0; begin < p.T; ++r) {
        const int64_t end = r < MOST_CUTS && cut[r] > 0 ? cut[r] : p.T;
        const bool no_halo = edge_wrong(run, e, road, "halo_is_not_exchanged");
        FH1_TRY(edge_swapped(run, s, no_halo ? EDGE_KEYS | EDGE_STATE : EDGE_PARTS, &rank));
        FH1_TRY(edge_feed_packed(rank, &p, begin, end - begin, true));
        if (edge_mistake(run, e, road, "local_state_is_sent"))
            FH1_TRY(local_state(run, s, &p, begin, end - begin, rank));
        s = rank;
        begin = end;
    }
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

static fh1_status walk_ranks(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t len[][EDGE_DOCS] = {{9, 11}, {20}};
    static const int64_t cuts[][MOST_CUTS] = {{8, 12},      {5, 10},    {9, 10},    {10, 11},    {1, 2},
                                              {11, 12, 13}, {4, 9, 15}, {7, 8, 16}, {17, 18, 19}};
    if (edge_slow(run->data)) {
        FH1_TRY(over_ranks(run, e, road, len[0], cuts[0], out));
        return over_ranks(run, e, road, len[1], cuts[1], out);
    }
    for (int i = 0; i < 2; ++i) {
        const int step = i ? 4 : 1; /* at every token where there is a border */
        for (int64_t at = 1; at < 20; at += step) FH1_TRY(over_ranks(run, e, road, len[i], (int64_t[]){at, 0, 0}, out));
        for (int c = 1; c < (int)(sizeof cuts / sizeof *cuts); c += step)
            FH1_TRY(over_ranks(run, e, road, len[i], cuts[c], out));
    }
    return NULL;
}

fh1_status edge_ranks(edge_run *r)
{
    return edge_walks(r, 24, walk_ranks, LAW_BIT(FH1_TAP_CACHE_SSM));
}
