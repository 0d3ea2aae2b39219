/* D-63: ranks of a context-parallel run. Each computes its tokens on a cache of its own and sends on what the next one
 * needs: keys and values, the last K - 1 columns before the conv, and the state. */
#include "tests/edge/edge_moves.h"

#include <math.h>
#include <string.h>

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

/* ---- the scan alone, in parallel ---- */

/* What ranks do that must not wait for each other: each scans its tokens from zero; the carry runs over their ends,
 *   S_in(r+1) = a(r) S_in(r) + S_local(r), a(r) the product of the decays of rank r's tokens,
 * and each scans again from what comes in. `planted`: S_in(r+1) = S_local(r).
 *
 * Allowed: the gauge of each rank's scan from an exact state, and once more that of the whole scan, since what comes in
 * is the sum of the same terms that the whole scan has in its state there, and no worse rounded. */
static law_scan tokens_of(const law_scan *s, int64_t begin, int64_t end, const double *state)
{
    law_scan part = *s;
    part.T = end - begin;
    part.x += begin * s->H * s->P;
    part.B += begin * s->G * s->N;
    part.C += begin * s->G * s->N;
    part.dt += begin * s->H;
    part.state = state;
    return part;
}

/* In place: S = a S + local; a is one number per head, or per element in a selective scan, where P is 1. */
static void carry_on(const law_scan *part, const double *local, bool planted, double *S)
{
    const int64_t PN = part->P * part->N, rates = fh1_n_elems(&part->A_log) / part->H;
    for (int64_t h = 0; h < part->H; ++h) {
        double sum = 0;
        for (int64_t t = 0; t < part->T; ++t) sum += part->dt[t * part->H + h];
        for (int64_t i = h * PN; i < (h + 1) * PN; ++i) {
            const double A = -exp(fh1_get(&part->A_log, rates == 1 ? h : i));
            S[i] = (planted ? 0 : exp(A * sum)) * S[i] + local[i];
        }
    }
}

static void add_allowed(law_out *to, int64_t at, const law_out *from)
{
    for (int64_t i = 0; to->allowed && from->allowed && i < from->n; ++i) to->allowed[at + i] += from->allowed[i];
}

/* y and state hold what the whole scan left; its numbers are replaced. */
static fh1_status in_parallel(law_run *run, fh1_engine *e, const law_scan *s, const int64_t *cut, bool planted,
                              law_out *y, law_out *state)
{
    const int64_t d = s->H * s->P, n = d * s->N;
    double *S = gld_law_room(run, n), *zero = gld_law_room(run, n);
    if (!S || !zero) return fh1_no_memory((size_t)n * sizeof *S, "the states of ranks");
    memcpy(S, s->state, (size_t)n * sizeof *S);
    for (int64_t begin = 0, end, r = 0; begin < s->T; begin = end, ++r) {
        law_out local_y, local, part_y, part_state;
        end = r < MOST_CUTS && cut[r] > 0 ? cut[r] : s->T;
        const law_scan alone = tokens_of(s, begin, end, zero), part = tokens_of(s, begin, end, S);
        FH1_TRY(gld_run_scan(run, e, &alone, &local_y, &local));
        FH1_TRY(gld_run_scan(run, e, &part, &part_y, &part_state));
        memcpy(y->v + begin * d, part_y.v, (size_t)part_y.n * sizeof *y->v);
        add_allowed(y, begin * d, &part_y);
        if (end == s->T) add_allowed(state, 0, &part_state);
        carry_on(&part, local.v, planted, S);
    }
    memcpy(state->v, S, (size_t)n * sizeof *S);
    return NULL;
}

static fh1_status scan_ranks(law_run *run, fh1_engine *e, law_road road, const law_acts *a, const int64_t *cut,
                             law_side *out)
{
    const fh1_config *c = &run->m->config;
    const law_scan whole = gld_law_scan_of(run, a);
    const law_tensor memory = {.id = FH1_TAP_CACHE_SSM,
                               .layer = a->layer,
                               .first_token = -1,
                               .n = 1,
                               .width = c->d_ssm * c->N,
                               .stride = 1,
                               .fiber = c->N,
                               .samples = a->T};
    law_out y, state;
    law_tensor *t;
    FH1_TRY(gld_run_scan(run, e, &whole, &y, &state));
    const bool planted = edge_mistake(run, e, road, "local_state_is_sent");
    if (road != LAW_LEFT) FH1_TRY(in_parallel(run, e, &whole, cut, planted, &y, &state));
    FH1_TRY(gld_side_op(out, a, FH1_TAP_SSD, c->d_ssm, &t));
    FH1_TRY(gld_out_add(t, &y, NULL, 1));
    FH1_TRY(gld_side_add(out, &memory, &t));
    return gld_out_add(t, &state, NULL, 1);
}

static fh1_status walk_scans(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t cuts[][MOST_CUTS] = {{7, 12}, {1}, {8}, {5, 6, 7}, {15, 17}};
    law_acts acts;
    FH1_TRY(gld_acts_record(run->a, &acts));
    fh1_status s = NULL;
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts && !s; ++i) s = scan_ranks(run, e, road, &acts, cuts[i], out);
    gld_acts_free(&acts);
    return s;
}

fh1_status edge_ranks(edge_run *r)
{
    FH1_TRY(edge_walks(r, 24, walk_ranks, LAW_BIT(FH1_TAP_CACHE_SSM)));
    return edge_walks(r, 24, walk_scans, LAW_BIT(FH1_TAP_CACHE_SSM) | LAW_BIT(FH1_TAP_SSD));
}
