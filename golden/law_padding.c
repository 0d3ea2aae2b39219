/* Laws of padding: wherever it stands and whatever it holds, a row computes what it computes alone, in logits, keys,
 * values, conv window and state; a row of nothing but padding stays as it was created. */
#include "golden/law_impl.h"

#include <string.h>

/* ---- padding_left, padding_right ---- */

/* Three ragged rows; `p` columns of padding in row 0, half of it in row 2, none in row 1. */
static void ragged(const law_run *r, int64_t n, int64_t p, bool right, law_row rows[3])
{
    const int64_t half = p / 2;
    rows[0] = (law_row){r->text[0], right ? 0 : p, n, right ? p : 0};
    rows[1] = (law_row){r->text[1], 0, n + p, 0};
    rows[2] = (law_row){r->text[2], right ? 0 : half, n + p - half, right ? half : 0};
}

static const law_row *without_padding(const law_run *r, int64_t n, law_row rows[3])
{
    for (int b = 0; b < 3; ++b) rows[b] = (law_row){r->text[b], 0, n, 0};
    return rows;
}

/* After the padded call, and after a step of one token and a call of three. */
static fh1_status take_rows(law_session *const *s, const int64_t *row, const int64_t *begin, int64_t B, law_side *out)
{
    for (int64_t b = 0; b < B; ++b) FH1_TRY(gld_session_take(s[b], row[b], begin[b], -1, true, false, out));
    return NULL;
}

/* Each row alone. Planted on the left: it begins with a padding id that it takes for a token. */
static fh1_status take_alone(law_run *r, fh1_engine *e, int64_t B, const law_row *rows, bool pad, law_side *out)
{
    law_session *s[3];
    int64_t text[2 * GLD_LAW_TOKENS], begin[3], row[3] = {0};
    for (int64_t b = 0; b < B; ++b) {
        begin[b] = pad;
        text[0] = 0;
        memcpy(text + pad, rows[b].text, (size_t)rows[b].n * sizeof *text);
        FH1_TRY(gld_session_solo(r, e, text, (int64_t[]){rows[b].n + pad, 0}, &s[b]));
    }
    FH1_TRY(take_rows(s, row, begin, B, out));
    for (int64_t b = 0; b < B; ++b) {
        begin[b] += rows[b].n;
        FH1_TRY(gld_session_feed(s[b], rows[b].text + rows[b].n, 1));
        FH1_TRY(gld_session_feed(s[b], rows[b].text + rows[b].n + 1, 3));
    }
    return take_rows(s, row, begin, B, out);
}

static fh1_status take_padded(law_run *r, fh1_engine *e, int64_t B, const law_row *rows, law_side *out)
{
    law_session *s[3];
    law_row next[3];
    int64_t begin[3] = {0}, row[3] = {0, 1, 2};
    FH1_TRY(gld_session_open(r, e, B, &s[0]));
    s[1] = s[2] = s[0];
    FH1_TRY(gld_session_rows(s[0], rows, 0));
    FH1_TRY(take_rows(s, row, begin, B, out));
    FH1_TRY(gld_session_rows(s[0], without_padding(r, 1, next), 0));
    FH1_TRY(gld_session_rows(s[0], without_padding(r, 3, next), 0));
    for (int64_t b = 0; b < B; ++b) begin[b] = rows[b].n;
    return take_rows(s, row, begin, B, out);
}

/* Planted on the right: window and state go on over the padding, as in transformers. */
static fh1_status take_memory_over_pads(law_run *r, fh1_engine *e, int64_t B, const law_row *rows, law_side *out)
{
    const unsigned was = e->variants;
    e->variants |= FH1_VAR_RIGHT_PAD_CACHE;
    fh1_status s = take_padded(r, e, B, rows, out);
    e->variants = was;
    return s;
}

static fh1_status walk_side(law_run *r, fh1_engine *e, law_road road, bool right, law_side *out)
{
    const int64_t K = r->m->config.K, pads[] = {1, K > 2 ? K - 1 : 1, 7}, real[] = {r->T / 2, K > 2 ? K - 2 : 1, 1};
    for (int i = 0; i < 3; ++i) {
        const int64_t B = i == 1 ? 1 : 3; /* a padded batch of one, too */
        law_row rows[3];
        ragged(r, real[i], pads[i], right, rows);
        if (road == LAW_LEFT) FH1_TRY(take_alone(r, e, B, rows, false, out));
        else if (road == LAW_RIGHT) FH1_TRY(take_padded(r, e, B, rows, out));
        else if (right) FH1_TRY(take_memory_over_pads(r, e, B, rows, out));
        else FH1_TRY(take_alone(r, e, B, rows, true, out));
    }
    return NULL;
}

static fh1_status walk_left(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    return walk_side(r, e, road, false, out);
}

static fh1_status walk_right(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    return walk_side(r, e, road, true, out);
}

fh1_status gld_law_padding_left(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_left, LAW_ALL, NULL, r);
}

fh1_status gld_law_padding_right(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_right, LAW_MEMORY, NULL, r);
}

/* ---- state_of_padding ---- */

/* Window and state of row b in every layer, or as many zeros. */
static fh1_status take_memory(const law_session *s, int64_t b, bool zeros, law_side *out)
{
    law_side all = {0};
    fh1_status st = gld_session_take(s, b, 0, 0, true, true, &all);
    for (int i = 0; i < all.n && !st; ++i) {
        law_tensor *t;
        if (all.t[i].id != FH1_TAP_CACHE_CONV && all.t[i].id != FH1_TAP_CACHE_SSM) continue;
        st = gld_side_add(out, &all.t[i], &t);
        if (!st && !zeros) memcpy(t->v, all.t[i].v, (size_t)(t->n * t->width) * sizeof *t->v);
    }
    gld_side_free(&all);
    return st;
}

/* Row 1 has nothing but padding in its first call; its memory must be zero, whatever id and bias stand at padding.
 * Then it says its first tokens beside padding in the others. Planted: one of its columns was a token. */
static fh1_status walk_empty_row(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t n = r->T / 2, K = r->m->config.K;
    law_session *s, *alone;
    const int64_t token = road == LAW_PLANTED;
    const law_row first[3] = {{r->text[0], 0, n, 0}, {r->text[1], n - token, token, 0}, {r->text[2], 2, n - 4, 2}};
    const law_row second[3] = {{r->text[0], K, 0, 0}, {r->text[1], 0, K, 0}, {r->text[2], 0, K - 1, 1}};
    FH1_TRY(gld_session_open(r, e, 3, &s));
    FH1_TRY(gld_session_rows(s, first, r->m->config.V - 1));
    FH1_TRY(take_memory(s, 1, road == LAW_LEFT, out));
    FH1_TRY(gld_session_rows(s, second, r->m->config.V - 1));
    if (road != LAW_LEFT) {
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, false, out));
        return gld_session_take(s, 1, token, -1, true, false, out);
    }
    FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){n, 0}, &alone));
    FH1_TRY(gld_session_take(alone, 0, 0, -1, true, false, out));
    FH1_TRY(gld_session_solo(r, e, r->text[1], (int64_t[]){K, 0}, &alone));
    return gld_session_take(alone, 0, 0, -1, true, false, out);
}

fh1_status gld_law_state_of_padding(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_empty_row, LAW_MEMORY, NULL, r);
}
