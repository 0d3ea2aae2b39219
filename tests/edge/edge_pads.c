/* D-101, D-102, D-105: padding where every bias is on, and the laws of calls and padding for every width of the conv.
 */
#include "tests/edge/edge_file_cases.h"

#include "reference/engine.h"

#include <string.h>

#define BIASES ",attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1"

/* The two usual models, both with every bias. */
static fh1_status with_biases(edge_run *r, int64_t tokens, law_walk walk, uint64_t notices)
{
    char spec[2][1024];
    snprintf(spec[0], sizeof spec[0], "%s" BIASES, edge_model_text(0));
    snprintf(spec[1], sizeof spec[1], "%s", edge_model_text(1));
    for (int i = 0; i < 2; ++i) {
        fh1_model m;
        FH1_TRY(edge_model(r, spec[i], &m));
        fh1_status s = edge_law(r, &m, tokens, walk, notices, r);
        edge_contract(r, r->profile);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}

static bool on_device(const edge_run *r)
{
    return r->bit & (EDGE_CUDA_HOST | EDGE_CUDA);
}

/* ---- D-101 ---- */

enum { REAL = 8 };

/* Row 0 has p columns of padding, row 1 none, row 2 one less than row 0. */
static void left_rows(const law_run *r, int64_t p, law_row rows[3])
{
    for (int b = 0; b < 3; ++b) {
        const int64_t left = b == 0 ? p : b == 1 ? 0 : p - 1;
        rows[b] = (law_row){r->text[b], left, REAL + p - left, 0};
    }
}

/* The call, then a step and a call of two. */
static fh1_status padded(law_run *r, fh1_engine *e, int64_t p, int64_t B, law_side *out)
{
    law_row rows[3], next[3], two[3];
    law_session *s;
    left_rows(r, p, rows);
    for (int b = 0; b < 3; ++b) next[b] = (law_row){r->text[b], 0, 1, 0}, two[b] = (law_row){r->text[b], 0, 2, 0};
    FH1_TRY(gld_session_open(r, e, B, &s));
    FH1_TRY(gld_session_rows(s, rows, r->m->config.V - 1));
    for (int64_t b = 0; b < B; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    FH1_TRY(gld_session_rows(s, next, 0));
    FH1_TRY(gld_session_rows(s, two, 0));
    for (int64_t b = 0; b < B; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    return NULL;
}

/* Planted: the last padding is a token. */
static fh1_status alone(law_run *r, fh1_engine *e, int64_t p, int64_t B, bool pad, law_side *out)
{
    law_row rows[3];
    law_session *s[3];
    left_rows(r, p, rows);
    for (int64_t b = 0; b < B; ++b) {
        int64_t text[64] = {r->m->config.V - 1};
        memcpy(text + pad, rows[b].text, (size_t)(rows[b].n + 3) * sizeof *text);
        FH1_TRY(gld_session_solo(r, e, text, (int64_t[]){rows[b].n + pad, 0}, &s[b]));
        FH1_TRY(gld_session_take(s[b], 0, pad, -1, true, false, out));
    }
    for (int64_t b = 0; b < B; ++b) {
        FH1_TRY(gld_session_feed(s[b], rows[b].text + rows[b].n, 1));
        FH1_TRY(gld_session_feed(s[b], rows[b].text + rows[b].n + 1, 2));
        FH1_TRY(gld_session_take(s[b], 0, pad, -1, true, false, out));
    }
    return NULL;
}

static fh1_status walk_left(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const edge_run *run = r->data;
    const int64_t K = r->m->config.K, pads[] = {1, K - 2, K - 1, K};
    for (int i = 0; i < 4; ++i)
        for (int64_t B = 1; B <= 3; B += 2) {
            if (on_device(run) && (B == 1 || i != 2)) continue; /* slow: K-1, three rows */
            if (road == LAW_RIGHT) FH1_TRY(padded(r, e, pads[i], B, out));
            else FH1_TRY(alone(r, e, pads[i], B, road == LAW_PLANTED, out));
        }
    return NULL;
}

fh1_status edge_left_pads(edge_run *r)
{
    return with_biases(r, 24, walk_left, LAW_ALL);
}

/* ---- D-102 ---- */

enum { ROWS = 4, COLUMNS = 9 };
static const int64_t lengths[ROWS] = {9, 5, 2, 1}; /* the last two are shorter than the window */

static int steps_of(const law_run *r)
{
    return on_device(r->data) ? 1 : 3; /* slow */
}

/* Row b after the call, after three steps with all the others, and by itself, moved out of the batch. */
static fh1_status ragged(law_run *r, fh1_engine *e, law_side *out)
{
    law_row rows[ROWS], next[ROWS];
    law_session *s, *one;
    const int steps = steps_of(r);
    for (int b = 0; b < ROWS; ++b) {
        rows[b] = (law_row){r->text[b], 0, lengths[b], COLUMNS - lengths[b]};
        next[b] = (law_row){r->text[b], 0, 1, 0};
    }
    FH1_TRY(gld_session_open(r, e, ROWS, &s));
    FH1_TRY(gld_session_rows(s, rows, 0));
    for (int64_t b = 0; b < ROWS; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    for (int64_t b = 0; b < ROWS; ++b) {
        FH1_TRY(gld_session_fork(r, s, &one));
        FH1_TRY(gld_session_reorder(r, one, &b, 1));
        for (int k = 0; k < steps; ++k) FH1_TRY(gld_session_rows(one, &next[b], 0));
        FH1_TRY(gld_session_take(one, 0, lengths[b], -1, true, false, out));
    }
    for (int k = 0; k < steps; ++k) FH1_TRY(gld_session_rows(s, next, 0));
    for (int64_t b = 0; b < ROWS; ++b) FH1_TRY(gld_session_take(s, b, lengths[b], -1, true, false, out));
    return NULL;
}

static fh1_status solo_rows(law_run *r, fh1_engine *e, law_side *out)
{
    law_session *s[ROWS];
    for (int b = 0; b < ROWS; ++b) {
        FH1_TRY(gld_session_solo(r, e, r->text[b], (int64_t[]){lengths[b], 0}, &s[b]));
        FH1_TRY(gld_session_take(s[b], 0, 0, -1, true, false, out));
    }
    for (int b = 0; b < ROWS; ++b)
        for (int k = 0; k < steps_of(r); ++k) FH1_TRY(gld_session_feed(s[b], r->text[b] + lengths[b] + k, 1));
    for (int twice = 0; twice < 2; ++twice)
        for (int b = 0; b < ROWS; ++b) FH1_TRY(gld_session_take(s[b], 0, lengths[b], -1, true, false, out));
    return NULL;
}

/* Planted: window and state go on over the padding, as in transformers. */
static fh1_status walk_right(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    if (road == LAW_LEFT) return solo_rows(r, e, out);
    const unsigned was = e->variants;
    if (road == LAW_PLANTED) e->variants |= FH1_VAR_RIGHT_PAD_CACHE;
    fh1_status s = ragged(r, e, out);
    e->variants = was;
    return s;
}

fh1_status edge_right_pads(edge_run *r)
{
    return with_biases(r, 24, walk_right, LAW_MEMORY);
}

/* ---- D-105 ---- */

/* The laws of calls, padding and positions. */
static const char *const laws[] = {
    "prefix",           "split",      "decode_prefill",    "single_token", "causality", "padding_left", "padding_right",
    "state_of_padding", "batch_mate", "batch_permutation", "rope_shift"};

/* For a device, which is slow on the CPU: the window from call to call, longer and shorter than K, against one call. */
static fh1_status walk_window(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t whole[] = {10, 0}, calls[] = {1, 2, 6, 1, 0}, planted[] = {1, 2, 0};
    law_session *s;
    FH1_TRY(gld_session_solo(r, e, r->text[0], road == LAW_LEFT ? whole : road == LAW_RIGHT ? calls : planted, &s));
    if (road == LAW_PLANTED) {
        FH1_TRY(gld_session_forget(s));
        FH1_TRY(gld_session_feed(s, r->text[0] + 3, 7));
    }
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

static fh1_status one_law(edge_run *r, const fh1_model *m, const char *name)
{
    const gld_law *law = gld_law_find(name);
    gld_law_args a = {.model = m, .seed = r->seed, .tokens = 16};
    gld_law_result result;
    if (!law) return fh1_fail(FH1_E_INTERNAL, "no law is called %s", name);
    FH1_TRY(edge_engine(r, m, &a.engine));
    FH1_TRY(edge_truth(r, &a.truth));
    a.emulated = ref_engine_new("ref-bf16", a.engine->profile, 0);
    if (!a.emulated) return fh1_no_memory(sizeof *a.emulated, "an engine");
    fh1_status s = law->run(&a, &result);
    a.emulated->free(a.emulated);
    if (s) return s;
    return edge_require(r, result.verdict == FH1_PASS, "K = %d, %s: %s", (int)m->config.K, name, result.sentence);
}

fh1_status edge_conv_widths(edge_run *r)
{
    for (int K = 2; K <= 5; ++K) {
        char spec[1024], *at;
        fh1_model m;
        snprintf(spec, sizeof spec, "%s", edge_model_text(K % 2));
        if (!(at = strstr(spec, ",K=4,"))) return fh1_fail(FH1_E_INTERNAL, "no width of the conv in %s", spec);
        at[3] = (char)('0' + K);
        FH1_TRY(edge_model(r, spec, &m));
        fh1_status s = edge_check_short(r, &m);
        if (!s && on_device(r)) s = edge_law(r, &m, 16, walk_window, LAW_ALL, r);
        for (size_t i = 0; i < sizeof laws / sizeof *laws && !s && !on_device(r); ++i) s = one_law(r, &m, laws[i]);
        edge_contract(r, r->profile);
        fh1_model_free(&m);
        FH1_TRY(s);
    }
    return NULL;
}
