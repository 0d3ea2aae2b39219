/* Laws of a batch: what a row computes depends neither on its neighbours nor on its place. */
#include "golden/law_impl.h"

enum { RAGGED = 4 }; /* rows of the ragged batch */

/* Rows of a ragged batch: padded on the left, on the right, not at all, on both sides; T columns each. */
static law_row ragged_row(const law_run *r, int which)
{
    const int64_t T = r->T / 2 + 4, left[RAGGED] = {5, 0, 0, 2}, right[RAGGED] = {0, 3, 0, 1};
    return (law_row){r->text[which], left[which], T - left[which] - right[which], right[which]};
}

/* ---- batch_mate: row 1 among neighbours of other words, of other lengths, and alone ---- */

static fh1_status walk_mates(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t T = r->T / 2, planted = road == LAW_PLANTED;
    const law_row row = {r->text[1] + planted, 0, T, 0}, next = {r->text[1] + planted, 0, 2, 0};
    const law_row mates[3][2] = {{{r->text[0], 0, T, 0}, {r->text[2], 0, T, 0}},
                                 {{r->text[3], 0, T, 0}, {r->text[0], 0, T, 0}},
                                 {{r->text[0], 4, T - 4, 0}, {r->text[2], 1, T - 3, 2}}};
    for (int i = 0; i < 3; ++i) {
        law_session *s;
        if (i == 2 && road == LAW_LEFT) {
            FH1_TRY(gld_session_open(r, e, 1, &s));
            FH1_TRY(gld_session_rows(s, &row, 0));
            FH1_TRY(gld_session_rows(s, &next, 0));
            FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
            continue;
        }
        if (i == (road == LAW_LEFT)) continue; /* left: mates 0 and alone; right: mates 1 and 2 */
        const law_row *m = mates[i];
        FH1_TRY(gld_session_open(r, e, 3, &s));
        FH1_TRY(gld_session_rows(s, (law_row[]){m[0], row, m[1]}, 0));
        FH1_TRY(gld_session_rows(s, (law_row[]){{m[0].text, 0, 2, 0}, next, {m[1].text, 0, 2, 0}}, 0));
        FH1_TRY(gld_session_take(s, 1, 0, -1, true, false, out));
    }
    return NULL;
}

fh1_status gld_law_batch_mate(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_mates, LAW_ALL, NULL, r);
}

/* ---- batch_permutation: ragged rows in another order ---- */

static fh1_status walk_permutation(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    static const int order[2][RAGGED] = {{0, 1, 2, 3}, {2, 0, 3, 1}};
    const int *place = order[road != LAW_LEFT]; /* which row stands in each place */
    law_row first[RAGGED], second[RAGGED];
    law_session *s;
    for (int i = 0; i < RAGGED; ++i) {
        first[i] = ragged_row(r, place[i]);
        if (road == LAW_PLANTED) first[i].text = r->text[place[(i + 1) % RAGGED]]; /* the masks did not move along */
        second[i] = (law_row){first[i].text, 0, 2, 0};
    }
    FH1_TRY(gld_session_open(r, e, RAGGED, &s));
    FH1_TRY(gld_session_rows(s, first, 0));
    FH1_TRY(gld_session_rows(s, second, 0));
    for (int b = 0; b < RAGGED; ++b)
        for (int i = 0; i < RAGGED; ++i)
            if (place[i] == b) FH1_TRY(gld_session_take(s, i, 0, -1, true, false, out));
    return NULL;
}

fh1_status gld_law_batch_permutation(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_permutation, LAW_ALL, NULL, r);
}
