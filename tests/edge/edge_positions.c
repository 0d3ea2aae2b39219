/* Positions and RoPE: attention knows differences of positions only, and they are the right ones. */
#include "tests/edge/edge_positions.h"

#include <string.h>

/* Some of what a session left; `exact` as asked per tensor, keys left out where `keys` is false. */
static fh1_status take_but_keys(const law_session *s, int64_t b, bool layer_0_exact, law_side *out)
{
    law_side all = {0};
    fh1_status st = gld_session_take(s, b, 0, -1, true, false, &all);
    for (int i = 0; i < all.n && !st; ++i) {
        law_tensor *t, like = all.t[i];
        if (like.id == FH1_TAP_CACHE_KEY) continue;
        like.row = b;
        like.exact = layer_0_exact && like.layer == 0 &&
                     (like.id == FH1_TAP_CACHE_CONV || like.id == FH1_TAP_CACHE_SSM || like.id == FH1_TAP_CACHE_VALUE);
        st = gld_side_add(out, &like, &t);
        if (!st) memcpy(t->v, all.t[i].v, (size_t)(t->n * t->width) * sizeof *t->v);
    }
    gld_side_free(&all);
    return st;
}

/* ---- D-31 ---- */

typedef struct {
    int64_t shift;
} shifted;

/* A prefill, a call of four and two steps at positions from `first` on, `step` apart. */
static fh1_status at_positions(law_session *s, const int64_t *text, int64_t first, int64_t step)
{
    static const int64_t calls[] = {9, 4, 1, 1};
    int64_t position[16], n = 0;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; ++c) {
        for (int64_t t = 0; t < calls[c]; ++t) position[t] = first + step * (n + t);
        FH1_TRY(gld_session_call(s, &(fh1_batch){.B = 1, .T = calls[c], .ids = text + n, .positions = position}));
        n += calls[c];
    }
    return NULL;
}

/* Left: from 0 on. Right: from `shift` on. Planted: positions 37 apart. The mixer of layer 0 reads embeddings alone
 * and knows of no position: its window and state, and the values, keep their bits. */
static fh1_status walk_shifted(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const shifted *k = r->data;
    law_session *s;
    FH1_TRY(gld_session_open(r, e, 1, &s));
    FH1_TRY(at_positions(s, r->text[0], road == LAW_LEFT ? 0 : k->shift, road == LAW_PLANTED ? 37 : 1));
    return take_but_keys(s, 0, true, out);
}

static fh1_status shifts_on(edge_run *r, const fh1_model *m, void *data)
{
    /* the last is for engines whose pipeline is emulated: what an angle of so many turns loses in f64 is more than the
     * flat allowance of a law there */
    static const int64_t shifts[] = {1, 37, 4096, 131000};
    (void)data;
    for (size_t i = edge_is_slow(r) ? 2 : 0; i < 4; ++i) {
        if (shifts[i] > 4096 && (edge_is_slow(r) || r->bit == EDGE_F64)) continue;
        shifted k = {shifts[i]};
        fh1_status s = edge_law(r, m, 16, walk_shifted, LAW_BIT(FH1_TAP_LOGITS), &k);
        if (s) return fh1_where(s, "positions from %lld on", (long long)shifts[i]);
    }
    return edge_is_slow(r) ? NULL : edge_check(r, m, "p9x3;c4;d1", r->seed);
}

static fh1_status positions_shifted(edge_run *r)
{
    FH1_TRY(edge_each_model(r, shifts_on, NULL));
    return edge_is_slow(r) ? NULL : edge_named_law(r, "rope_shift", 20);
}

/* ---- D-32 ---- */

typedef struct {
    int64_t B, prefill, steps;
    bool given; /* positions are given, or left to the engine */
} decoding;

/* The exported decode step of some stack, in front of the engine: one position for all steps. */
static int64_t position_of_step(const law_run *r, const fh1_engine *e, law_road road, int64_t n)
{
    (void)r, (void)e;
    return road == LAW_PLANTED ? 0 : n;
}

/* Left: all at once. Right: a prefill and steps at n, n + 1, … Planted: all steps at position 0, which must show. */
static fh1_status walk_decoding(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const decoding *k = r->data;
    const int64_t all = k->prefill + k->steps;
    law_session *s;
    law_row rows[LAW_ROWS];
    FH1_TRY(gld_session_open(r, e, k->B, &s));
    for (int64_t b = 0; b < k->B; ++b) rows[b] = (law_row){r->text[b], 0, road == LAW_LEFT ? all : k->prefill, 0};
    FH1_TRY(gld_session_rows(s, rows, 0));
    for (int64_t n = k->prefill; road != LAW_LEFT && n < all; ++n) {
        int64_t ids[LAW_ROWS], position[LAW_ROWS];
        for (int64_t b = 0; b < k->B; ++b) {
            ids[b] = r->text[b][n];
            position[b] = position_of_step(r, e, road, n);
        }
        const bool given = k->given || road == LAW_PLANTED;
        FH1_TRY(gld_session_call(s, &(fh1_batch){.B = k->B, .T = 1, .ids = ids, .positions = given ? position : NULL}));
    }
    for (int64_t b = 0; b < k->B; ++b) FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
    return NULL;
}

static fh1_status decoding_on(edge_run *r, const fh1_model *m, void *data)
{
    static const decoding all[] = {{1, 8, 5, false}, {1, 8, 5, true}, {3, 1, 4, false}, {3, 17, 3, true}};
    static const decoding some[] = {{1, 4, 2, false}, {3, 4, 1, true}};
    (void)data;
    for (size_t i = 0; i < (edge_is_slow(r) ? 2 : 4); ++i) {
        decoding k = edge_is_slow(r) ? some[i] : all[i];
        FH1_TRY(edge_law(r, m, 24, walk_decoding, LAW_BIT(FH1_TAP_LOGITS) | LAW_BIT(FH1_TAP_CACHE_KEY), &k));
    }
    return NULL;
}

static fh1_status steps_move_on(edge_run *r)
{
    return edge_each_model(r, decoding_on, NULL);
}

/* ---- D-33 ---- */

typedef struct {
    edge_run *r;
    int64_t pads[3];
    bool columns;    /* positions are left to the engine, which counts columns: a shift of all of a row */
    int64_t at_pads; /* what stands in the positions of padding */
} left_padded;

enum { REAL = 7, MORE = 3 };

static fh1_status padded_call(law_session *s, const law_run *r, const left_padded *k, int64_t begin, int64_t n,
                              int64_t pad)
{
    enum { ROOM = 3 * 40 };
    const int64_t T = n + pad, len = s->n_cols + T;
    int64_t ids[ROOM] = {0}, positions[ROOM], mask[ROOM];
    for (int64_t b = 0; b < s->B; ++b)
        for (int64_t t = 0; t < len; ++t) {
            const int64_t col = t - s->n_cols, left = pad ? k->pads[b] : 0, i = col - left;
            mask[b * len + t] = t >= k->pads[b];
            if (col < 0) continue;
            ids[b * T + col] = i >= 0 ? r->text[b][begin + i] : 0;
            positions[b * T + col] = i >= 0 ? begin + i : k->at_pads;
            if (edge_plants(k->r, "positions_clipped_at_one") && s->e == r->a->engine && positions[b * T + col] < 1)
                positions[b * T + col] = 1; /* the sum of the mask, clipped from below at the wrong end */
        }
    return gld_session_call(
        s,
        &(fh1_batch){
            .B = s->B, .T = T, .ids = ids, .mask = mask, .mask_len = len, .positions = k->columns ? NULL : positions});
}

/* Left: each row alone at positions from 0 on. Right: padded so that all rows end together; then three steps in one
 * call. Planted: the row begins at its second token. */
static fh1_status walk_left_padded(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const left_padded *k = r->data;
    int64_t most = 0;
    law_session *s;
    for (int b = 0; b < 3; ++b) most = k->pads[b] > most ? k->pads[b] : most;
    if (road == LAW_RIGHT) {
        FH1_TRY(gld_session_open(r, e, 3, &s));
        FH1_TRY(padded_call(s, r, k, 0, REAL, most)); /* a row with less padding says more at once */
    }
    for (int64_t b = 0; b < 3; ++b) {
        const int64_t said = REAL + most - k->pads[b];
        if (road != LAW_RIGHT)
            FH1_TRY(gld_session_solo(r, e, r->text[road == LAW_PLANTED ? 3 : b], (int64_t[]){said, 0}, &s));
        law_side all = {0};
        fh1_status st = gld_session_take(s, road == LAW_RIGHT ? b : 0, 0, -1, true, false, &all);
        for (int i = 0; i < all.n && !st; ++i) {
            law_tensor *t, like = all.t[i];
            if (k->columns && like.id == FH1_TAP_CACHE_KEY) continue; /* rotated elsewhere */
            like.row = b;
            st = gld_side_add(out, &like, &t);
            if (!st) memcpy(t->v, all.t[i].v, (size_t)(t->n * t->width) * sizeof *t->v);
        }
        gld_side_free(&all);
        FH1_TRY(st);
    }
    return NULL;
}

static fh1_status left_padded_on(edge_run *r, const fh1_model *m, void *data)
{
    static const left_padded all[] = {{.pads = {3, 0, 1}},
                                      {.pads = {0, 4, 9}, .at_pads = 1},
                                      {.pads = {8, 8, 7}, .at_pads = 999},
                                      {.pads = {3, 0, 8}, .columns = true}};
    (void)data;
    for (size_t i = edge_is_slow(r) ? 2 : 0; i < 4; ++i) {
        left_padded k = all[i];
        k.r = r;
        const uint64_t keys = k.columns ? 0 : LAW_BIT(FH1_TAP_CACHE_KEY);
        FH1_TRY(edge_law(r, m, 24, walk_left_padded, LAW_BIT(FH1_TAP_LOGITS) | keys, &k));
    }
    const edge_plan plans[] = {{.calls = "p12x3l:5,0,1;d3", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = "p9x3l:1,7,0;c4l:0,2,1;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
                               {.calls = NULL}};
    return edge_is_slow(r) ? NULL : edge_plans(r, m, plans);
}

static fh1_status padded_positions(edge_run *r)
{
    return edge_each_model(r, left_padded_on, NULL);
}

/* ---- the chapter ---- */

const edge_case edge_positions[] = {
    {.id = "D-31",
     .title = "all positions larger by a constant",
     .setup =
         "a prefill of nine tokens, a call of four and two steps at positions from 1, 37, 4096 and 131000 on (in f64 "
         "up to 4096, on an engine of CUDA from 4096 on); one schedule against the truth",
     .invariant = "logits, values and memory are those at positions from 0 on; window, state and values of layer 0, "
                  "which know of no position, have the same bits",
     .catches = "positions that leak into scores; AT4b huggingface/candle#3520, huggingface/transformers#29285",
     .faults = "scores_have_a_position_term rope_keys_not_rotated rope_queries_not_rotated positions_in_bf16 "
               "positions_clamped rope_angles_in_bf16",
     .engines = EDGE_ALL,
     .run = positions_shifted},
    {.id = "D-32",
     .title = "positions of steps",
     .setup =
         "steps behind 1, 4, 8 and 17 tokens, with positions n, n+1, … given and left to the engine, in batches of "
         "one and of three; and all steps at position 0",
     .invariant = "the first two are one call over all tokens; steps stuck at position 0 are seen to be something else",
     .catches = "AT2a huggingface/optimum-intel#1908; SR2 read in source: transformers",
     .faults = "decode_position_stuck_at_0 decode_position_one_late positions_restart_each_call",
     .engines = EDGE_ALL,
     .run = steps_move_on},
    {.id = "D-33",
     .title = "positions of rows padded on the left",
     .setup =
         "three rows padded left by up to 9 columns, real tokens at positions from 0 on and 0, 1 or 999 at padding; "
         "the same with positions left to the engine, which counts columns; then steps and a padded call",
     .invariant =
         "logits, keys and memory are those of the rows without padding; where columns are counted, all but the "
         "keys, since a row is shifted as a whole",
     .catches = "unslothai/unsloth#3699; CP6 sgl-project/sglang#29368; cumulative sums of a mask that are clipped at "
                "the wrong end",
     .faults = "positions_count_padding positions_of_padded_rows_one_late positions_of_row_0 positions_clipped_at_one",
     .engines = EDGE_ALL,
     .run = padded_positions},
    {.id = "D-34",
     .title = "tables of sine and cosine for theta 1e11",
     .setup = "heads of 64 and of 128 channels at positions 0, 1, 4095, 131071 and 262143; queries whose pairs are (1, "
              "0), so that the rotated ones are cosine and sine",
     .invariant =
         "within the gauge of the engine's contract of cosine and sine in long double; in the slowest pair the "
         "cosine is 1 as the contract stores it and the sine a tiny positive number",
     .catches = "AT4a tiiuae/llama.cpp-Falcon-H1#2; AT4b huggingface/transformers#29285; HF6 "
                "huggingface/transformers#48892; HF17 found by running transformers 4.57.6",
     .faults = "rope_theta_10000 rope_theta_class_default rope_theta_in_bf16 rope_theta_in_f16 rope_theta_as_int32 "
               "rope_frequencies_uninitialised rope_angles_in_bf16 rope_table_in_bf16 rope_exponent_halved "
               "positions_in_bf16 rope_sign_flipped",
     .engines = EDGE_ALL,
     .run = edge_rope_tables},
    {.id = "D-35",
     .title = "halves and neighbours",
     .setup = "a model made as a folder, converted to the native container and to GGUF and opened again; and the model "
              "with the rows of q_proj and k_proj ordered for pairs of neighbours; one schedule against the truth",
     .invariant =
         "the converted model computes what the folder's does, its rows of q and k stand where they stood; the "
         "permuted one is seen to compute something else, and permuted back is the same bits",
     .catches = "permutations for other RoPE layouts: ooples/AiDotNet#2074, "
                "warpfront/hipfire#241",
     .faults = "rope_interleaved qk_rows_interleaved converter_interleaves_q_and_k gguf_writer_interleaves_q_and_k",
     .engines = EDGE_ALL,
     .run = edge_rope_layout},
    {.id = NULL},
};
