/* Laws of one row cut into calls: however it is cut, logits, keys, values, conv window and state are the same; a token
 * sees nothing that comes after it; the same call gives the same bits. */
#include "golden/law_impl.h"

#include "oracle/compare.h"
#include "oracle/thread.h"

#include <string.h>

/* The text of row 0 with the id at `at` replaced (at < 0: none). */
static void text_with(const law_run *r, int64_t at, int64_t *text)
{
    memcpy(text, r->text[0], (size_t)(2 * r->T + 32) * sizeof *text);
    if (at >= 0) text[at] = gld_other_id(r, text[at]);
}

/* ---- prefix: the first n outputs do not depend on how many more tokens the call has ---- */

/* Planted: another text. */
static fh1_status walk_prefix(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t length[] = {1, r->m->config.K, r->T / 2, r->T - 1}, *text = r->text[road == LAW_PLANTED];
    law_session *s = NULL;
    for (size_t i = 0; i < sizeof length / sizeof *length; ++i) {
        if (i == 0 || road != LAW_LEFT) /* the whole row is run once */
            FH1_TRY(gld_session_solo(r, e, text, (int64_t[]){road == LAW_LEFT ? r->T : length[i], 0}, &s));
        FH1_TRY(gld_session_take(s, 0, 0, length[i], false, false, out));
    }
    return NULL;
}

fh1_status gld_law_prefix(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_prefix, LAW_TOKENS, NULL, r);
}

/* ---- split and decode: one call against several ---- */

/* Lengths of calls that add up to T, 0 at the end. A length past the end is cut. */
static void fill_calls(int64_t T, const int64_t *want, int64_t *calls)
{
    for (; *want > 0 && T > 0; ++want, ++calls) {
        *calls = *want < T ? *want : T;
        T -= *calls;
    }
    if (T > 0) *calls++ = T;
    *calls = 0;
}

/* What is planted: the cache forgets after the first call, and before the last: without attention the first fades. */
static fh1_status walk_calls(law_run *r, fh1_engine *e, law_road road, const int64_t *calls, law_side *out)
{
    int64_t T = 0;
    law_session *s;
    for (const int64_t *n = calls; *n > 0; ++n) T += *n;
    if (road == LAW_LEFT) {
        FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){T, 0}, &s));
    } else {
        FH1_TRY(gld_session_open(r, e, 1, &s));
        const int64_t *text = r->text[0];
        for (const int64_t *n = calls; *n > 0; text += *n++) {
            if (road == LAW_PLANTED && (n == calls + 1 || (n > calls && n[1] == 0))) FH1_TRY(gld_session_forget(s));
            FH1_TRY(gld_session_feed(s, text, *n));
        }
    }
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

static fh1_status walk_split(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = fh1_scan_chunk(&r->m->config), K = r->m->config.K, edge = Q < r->T - 4 ? Q : r->T / 2;
    const int64_t plan[][8] = {{edge - 1, 1, 2, 1, 0}, {1, 2, K, edge + 1, 0}, {edge, r->T - edge - 1, 1, 0}};
    for (size_t i = 0; i < sizeof plan / sizeof *plan; ++i) {
        int64_t calls[8 + 2];
        fill_calls(r->T, plan[i], calls);
        FH1_TRY(walk_calls(r, e, road, calls, out));
    }
    return NULL;
}

fh1_status gld_law_split(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_split, LAW_ALL, NULL, r);
}

static fh1_status walk_decode(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = fh1_scan_chunk(&r->m->config), prefill[] = {1, Q + 1 < r->T - 6 ? Q + 1 : r->T - 6, r->T - 6};
    for (size_t i = 0; i < sizeof prefill / sizeof *prefill; ++i)
        FH1_TRY(walk_calls(r, e, road, (int64_t[]){prefill[i], 1, 1, 1, 1, 1, 1, 0}, out));
    return NULL;
}

fh1_status gld_law_decode_prefill(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_decode, LAW_ALL, NULL, r);
}

/* ---- single_token: a call of one token on an empty cache is a prefill ---- */

/* Against a longer row, within rounding; and in a cache that was used before, bit for bit. */
static fh1_status walk_single(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    law_session *fresh, *other;
    const int64_t first = road == LAW_PLANTED ? gld_other_id(r, r->text[0][0]) : r->text[0][0];
    FH1_TRY(gld_session_solo(r, e, &first, (int64_t[]){1, 0}, &fresh));
    if (road == LAW_LEFT) {
        FH1_TRY(gld_session_take(fresh, 0, 0, 1, true, true, out));
        FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){r->T, 0}, &other));
        return gld_session_take(other, 0, 0, 1, false, false, out);
    }
    FH1_TRY(gld_session_solo(r, e, r->text[1], (int64_t[]){5, 1, 0}, &other));
    gld_session_reset(other);
    FH1_TRY(gld_session_feed(other, &first, 1));
    FH1_TRY(gld_session_take(other, 0, 0, 1, true, true, out));
    return gld_session_take(fresh, 0, 0, 1, false, false, out);
}

fh1_status gld_law_single_token(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_single, LAW_ALL, NULL, r);
}

/* ---- causality: bit-equal before the changed token, moved from it on ---- */

static bool same_bits(const law_tensor *a, const law_tensor *b)
{
    return memcmp(a->v, b->v, (size_t)(a->n * a->width) * sizeof *a->v) == 0;
}

/* Logits of the next token, windows and states after token `at`, without and with another id there. */
static fh1_status both_behind(law_run *r, fh1_engine *e, int64_t at, law_side side[2])
{
    int64_t text[2 * GLD_LAW_TOKENS + 32];
    for (int k = 0; k < 2; ++k) {
        law_session *s;
        text_with(r, k ? at : -1, text);
        FH1_TRY(gld_session_solo(r, e, text, (int64_t[]){at + 2, 0}, &s));
        FH1_TRY(gld_session_take(s, 0, at + 1, 1, true, true, &side[k]));
    }
    return NULL;
}

/* Whether truth moves the tensor by so much that no honest rounding hides all of it. */
static bool visible(const law_run *r, const law_tensor *a, const law_tensor *b)
{
    fh1_rms rms = {0};
    for (int64_t i = 0; i < a->n * a->width; ++i) fh1_rms_add(&rms, fh1_error_of(a->v[i], b->v[i]), a->v[i], i);
    const fh1_dtype type = fh1_profile_tap_dtype(r->a->engine->profile, a->id, false, &r->m->config);
    return fh1_rms_err(&rms) > fh1_rule.chain_element * fh1_dtype_ulp(type, fh1_rms_ref(&rms));
}

/* Whether the changed token reached what stands behind it. */
static fh1_status moved_behind(law_run *r, fh1_engine *e, int64_t at)
{
    law_side truth[2] = {0}, mine[2] = {0};
    fh1_status st = both_behind(r, r->a->truth, at, truth);
    if (!st) st = both_behind(r, e, at, mine);
    for (int i = 0; !st && i < mine[0].n; ++i) {
        const fh1_tap_id id = mine[0].t[i].id;
        if (id == FH1_TAP_CACHE_KEY || id == FH1_TAP_CACHE_VALUE) continue; /* of the next token: its own */
        if (!same_bits(&mine[0].t[i], &mine[1].t[i]) || !visible(r, &truth[0].t[i], &truth[1].t[i])) continue;
        char tap[FH1_TAP_NAME_SIZE];
        st = fh1_fail(FH1_E_WRONG, "another id at token %lld moves nothing in %s behind it", (long long)at,
                      fh1_tap_name(r->m->config.family, id, mine[0].t[i].layer, tap));
    }
    for (int k = 0; k < 2; ++k) gld_side_free(&truth[k]), gld_side_free(&mine[k]);
    return st;
}

static fh1_status walk_causality(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = fh1_scan_chunk(&r->m->config), edge = Q < r->T - 1 ? Q : r->T / 2;
    const int64_t changed[] = {2, edge, r->T - 1}; /* the first token of a chunk, and the last of all */
    int64_t text[2 * GLD_LAW_TOKENS + 32];
    for (size_t i = 0; i < sizeof changed / sizeof *changed; ++i) {
        law_session *s;
        text_with(r, road == LAW_LEFT ? -1 : road == LAW_RIGHT ? changed[i] : 0, text);
        FH1_TRY(gld_session_solo(r, e, text, (int64_t[]){r->T, 0}, &s));
        FH1_TRY(gld_session_take(s, 0, 0, changed[i], false, true, out));
    }
    if (road != LAW_RIGHT || e != r->a->engine || e == r->a->truth) return NULL;
    return moved_behind(r, e, edge);
}

fh1_status gld_law_causality(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_causality, LAW_TOKENS, NULL, r);
}

/* ---- run_to_run: the same calls give the same bits, with one thread and with two ---- */

static fh1_status walk_runs(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const int threads = fh1_threads();
    int64_t text[2 * GLD_LAW_TOKENS + 32];
    fh1_status s = NULL;
    text_with(r, road == LAW_PLANTED ? 0 : -1, text);
    for (int again = 0; again < 2 && !s; ++again) { /* one thread twice against one thread and two */
        law_session *run;
        fh1_set_threads(road == LAW_RIGHT && again ? 2 : 1);
        s = gld_session_solo(r, e, text, (int64_t[]){r->T - 4, 1, 3, 0}, &run);
        if (!s) s = gld_session_take(run, 0, 0, -1, true, true, out);
    }
    fh1_set_threads(threads);
    return s;
}

fh1_status gld_law_run_to_run(const gld_law_args *a, gld_law_result *r)
{
    return gld_law_judge(a, walk_runs, LAW_ALL, NULL, r);
}
