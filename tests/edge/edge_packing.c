/* Packing: documents side by side in a row. The walks with changed documents stand in edge_documents.c, those of
 * several ranks in edge_ranks.c. */
#include "tests/edge/edge_moves.h"
#include "tests/edge/edge_rows.h"

#include <string.h>

/* ---- D-57: every document as it is alone ---- */

static fh1_status walk_packed(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = edge_chunk(run), length[] = {1, 2, 3, Q - 1, Q, Q + 1};
    const int rounds = edge_slow(run->data) ? 1 : 6; /* each length at each place, each one as the last */
    for (int first = 0; first < rounds; first += 3)
        for (int64_t B = 1; B <= (edge_slow(run->data) ? 1 : 3); B += 2) {
            int64_t len[EDGE_PACKED_ROWS][EDGE_DOCS] = {{0}};
            edge_packed p;
            law_session *s = NULL;
            for (int b = 0; b < 3; ++b)
                for (int d = 0; d < 6; ++d) len[b][d] = length[(d + first + b) % 6];
            gld_sessions_close(run);
            edge_pack(run, B, (const int64_t(*)[EDGE_DOCS])len, 1, &p);
            if (road != LAW_LEFT) {
                FH1_TRY(gld_session_open(run, e, B, &s));
                FH1_TRY(edge_feed_packed(s, &p, 0, p.T, road == LAW_RIGHT));
                FH1_TRY(edge_step_packed(run, s, &p));
            }
            FH1_TRY(edge_take_packed(run, e, &p, s, 1, out));
        }
    return NULL;
}

static fh1_status packed_lengths(edge_run *r)
{
    return edge_walks(r, 32, walk_packed, LAW_ALL);
}

/* ---- D-59: borders at chunk edges ---- */

static fh1_status borders(law_run *run, fh1_engine *e, law_road road, const int64_t (*len)[EDGE_DOCS], int64_t B,
                          int64_t cut, law_side *out)
{
    edge_packed p;
    law_session *s = NULL;
    gld_sessions_close(run);
    edge_pack(run, B, len, 1, &p);
    if (road != LAW_LEFT) {
        FH1_TRY(gld_session_open(run, e, B, &s));
        if (cut > 0) FH1_TRY(edge_feed_packed(s, &p, 0, cut, road == LAW_RIGHT));
        FH1_TRY(edge_feed_packed(s, &p, cut, p.T - cut, road == LAW_RIGHT));
    }
    return edge_take_packed(run, e, &p, s, 0, out);
}

static fh1_status walk_borders(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t len[][EDGE_DOCS] = {{7, 13},       {8, 12},    {9, 11},       {8, 8, 4}, {2, 3, 15},
                                             {10, 1, 2, 7}, {7, 2, 11}, {15, 1, 1, 3}, {16, 4}};
    if (edge_slow(run->data)) return borders(run, e, road, &len[5], 1, 0, out);
    for (int64_t cut = 0; cut <= 9; cut += cut == 0 ? 7 : 1) /* in one call, and cut at the chunk edge and beside it */
        for (int i = 0; i < 9; i += 3) FH1_TRY(borders(run, e, road, &len[i], 3, cut, out));
    for (int i = 0; i < 9; ++i) FH1_TRY(borders(run, e, road, &len[i], 1, 0, out));
    return NULL;
}

static fh1_status at_chunk_edges(edge_run *r)
{
    return edge_walks(r, 24, walk_borders, LAW_ALL);
}

/* ---- D-60: what stands behind the last document ---- */

typedef enum { TAIL_LAST, TAIL_MINUS_ONE, TAIL_ZERO, TAILS } tail_id;

/* Two documents and `pads` columns behind them that bear this id. */
static fh1_status with_tail(law_run *run, law_session *s, const edge_packed *p, int64_t pads, tail_id id, bool masked)
{
    const int64_t T = p->T + pads;
    int64_t ids[EDGE_COLUMNS], seq_idx[EDGE_COLUMNS], positions[EDGE_COLUMNS], mask[EDGE_COLUMNS];
    for (int64_t t = 0; t < T; ++t) {
        const bool real = t < p->T;
        mask[t] = real;
        ids[t] = real ? p->ids[t] : run->m->config.V - 1;
        positions[t] = real ? p->positions[t] : 0;
        seq_idx[t] = real ? p->seq_idx[t] : id == TAIL_LAST ? p->seq_idx[p->T - 1] : id == TAIL_ZERO ? 0 : -1;
    }
    return gld_session_call(s, &(fh1_batch){.B = 1,
                                            .T = T,
                                            .ids = ids,
                                            .seq_idx = seq_idx,
                                            .positions = positions,
                                            .mask = masked ? mask : NULL,
                                            .mask_len = masked ? T : 0});
}

static fh1_status must_refuse(edge_run *r, fh1_status s, const char *what)
{
    if (s && s->code == FH1_E_INTERNAL) return s;
    return edge_require(r, s && s->code == FH1_E_INPUT, "%s is %s", what, s ? "no bad input" : "accepted");
}

/* Real tokens with an id below zero, and with one that falls. */
static fh1_status refuses_tails(law_run *run, fh1_engine *e, const edge_packed *p)
{
    static const char *const what[TAILS] = {"", "a token of document -1", "a token of document 0 behind document 5"};
    for (int id = TAIL_MINUS_ONE; id <= TAIL_ZERO; ++id) {
        law_session *s;
        FH1_TRY(gld_session_open(run, e, 1, &s));
        FH1_TRY(must_refuse(run->data, with_tail(run, s, p, 2, (tail_id)id, false), what[id]));
    }
    return NULL;
}

static fh1_status tail_of(law_run *run, fh1_engine *e, law_road road, int64_t pads, law_side *out)
{
    static const int64_t len[][EDGE_DOCS] = {{5, 4}};
    edge_packed p;
    law_session *s, *over;
    edge_pack(run, 1, len, 5, &p);
    for (int id = TAIL_LAST; id < TAILS; ++id) {
        gld_sessions_close(run);
        FH1_TRY(gld_session_open(run, e, 1, &s));
        FH1_TRY(with_tail(run, s, &p, pads, road == LAW_LEFT ? TAIL_LAST : (tail_id)id, true));
        if (edge_mistake(run, e, road, "tail_updates_the_last_document")) {
            FH1_TRY(gld_session_open(run, e, 1, &over));
            FH1_TRY(with_tail(run, over, &p, pads, TAIL_LAST, false));
            FH1_TRY(edge_copy_all(s, over, EDGE_MEMORY));
        }
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, true, out));
    }
    if (road != LAW_LEFT && e == run->a->engine) FH1_TRY(refuses_tails(run, e, &p));
    if (road != LAW_LEFT) return edge_take_packed(run, e, &p, s, 0, out);
    return edge_take_packed(run, e, &p, NULL, 0, out);
}

static fh1_status walk_tails(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t pads[] = {3, 1, 9};
    for (int i = 0; i < (edge_slow(run->data) ? 1 : 3); ++i) FH1_TRY(tail_of(run, e, road, pads[i], out));
    return NULL;
}

static fh1_status padded_tails(edge_run *r)
{
    return edge_walks(r, 24, walk_tails, LAW_MEMORY);
}

/* ---- D-61: which numbers documents may bear ---- */

/* Two calls of 4 and 5 tokens with these numbers; positions restart where the second document begins. */
static fh1_status numbered(law_run *run, law_session *s, const int64_t *number)
{
    static const int64_t position[] = {0, 1, 2, 0, 1, 2, 3, 0, 1};
    for (int64_t begin = 0; begin < 9; begin += begin ? 5 : 4)
        FH1_TRY(gld_session_call(s, &(fh1_batch){.B = 1,
                                                 .T = begin ? 5 : 4,
                                                 .ids = run->text[0] + begin,
                                                 .seq_idx = number + begin,
                                                 .positions = position + begin}));
    return NULL;
}

static const struct {
    const char *what;
    int64_t number[9];
} unlawful[] = {
    {"a number that falls within a call", {0, 0, 2, 1, 1, 2, 2, 2, 2}},
    {"a number that falls between two calls", {0, 0, 3, 3, 2, 2, 2, 2, 2}},
    {"a number that was used before, behind another one", {0, 0, 1, 1, 1, 2, 2, 0, 0}},
    {"a negative number", {-1, -1, -1, -1, 0, 0, 0, 0, 0}},
};

static fh1_status refuses_numbers(law_run *run, fh1_engine *e)
{
    for (size_t i = 0; i < sizeof unlawful / sizeof *unlawful; ++i) {
        law_session *s;
        FH1_TRY(gld_session_open(run, e, 1, &s));
        FH1_TRY(must_refuse(run->data, numbered(run, s, unlawful[i].number), unlawful[i].what));
        /* what came before the refused call stands: the row goes on as if nothing had been said */
        FH1_TRY(edge_require(run->data, s->cache->rows[0].n == s->n[0], "%s moved the cache", unlawful[i].what));
    }
    return NULL;
}

static fh1_status walk_numbers(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    /* rising by any steps, over the border of the calls */
    static const int64_t plain[] = {0, 0, 0, 1, 1, 1, 1, 2, 2}, one[9] = {0};
    static const int64_t other[][9] = {{3, 3, 3, 7, 7, 7, 7, 8, 8},
                                       {0, 0, 0, 9, 9, 9, 9, 90, 90},
                                       {0, 0, 0, 1L << 40, 1L << 40, 1L << 40, 1L << 40, 1L << 41, 1L << 41}};
    static const int64_t all_one[] = {5, 5, 5, 5, 5, 5, 5, 5, 5}; /* one document, whatever its positions say */
    law_session *s;
    for (int i = 0; i < (edge_slow(run->data) ? 1 : 3); ++i) {
        FH1_TRY(gld_session_open(run, e, 1, &s));
        FH1_TRY(numbered(run, s, road == LAW_PLANTED ? one : road == LAW_LEFT ? plain : other[i]));
        FH1_TRY(gld_session_take(s, 0, 0, -1, true, true, out));
    }
    FH1_TRY(gld_session_take(s, 0, 3, 4, false, false, out)); /* the second one alone */
    FH1_TRY(gld_session_open(run, e, 1, &s));
    FH1_TRY(numbered(run, s, road == LAW_LEFT ? one : all_one));
    FH1_TRY(gld_session_take(s, 0, 0, -1, true, true, out));
    if (road != LAW_LEFT && e == run->a->engine) FH1_TRY(refuses_numbers(run, e));
    if (road != LAW_LEFT) return gld_session_take(s, 0, 0, -1, true, false, out);
    /* one document in one call that says nothing of documents */
    static const int64_t position[] = {0, 1, 2, 0, 1, 2, 3, 0, 1};
    FH1_TRY(gld_session_open(run, e, 1, &s));
    FH1_TRY(gld_session_call(s, &(fh1_batch){.B = 1, .T = 9, .ids = run->text[0], .positions = position}));
    return gld_session_take(s, 0, 0, -1, true, false, out);
}

static fh1_status numbers(edge_run *r)
{
    return edge_walks(r, 16, walk_numbers, LAW_ALL);
}

/* ---- D-62: every path knows of documents ---- */

typedef enum { ONE_CALL, CUT_INSIDE, CUT_AT_BORDER, BORDER_IN_STEP, STEPS_ONLY, PATHS } path;

static const int64_t docs_of_paths[][EDGE_DOCS] = {{5, 6, 3}, {4, 1, 9}, {2, 8, 4}};

static fh1_status along(law_run *run, fh1_engine *e, law_road road, path way, law_session *s, const edge_packed *p)
{
    /* an engine whose steps, or whose calls on a cache, take no seq_idx */
    const bool steps = !edge_wrong(run, e, road, "steps_without_documents");
    const bool calls = !edge_mistake(run, e, road, "continued_calls_without_documents");
    int64_t at = 0;
    const int64_t cut = way == CUT_INSIDE ? 7 : way == ONE_CALL ? 0 : way == STEPS_ONLY ? 1 : 5;
    if (cut > 0) FH1_TRY(edge_feed_packed(s, p, 0, cut, true));
    at = cut;
    for (; at < p->T && (way == STEPS_ONLY || (way == BORDER_IN_STEP && at == cut)); ++at)
        FH1_TRY(edge_feed_packed(s, p, at, 1, steps));
    return at < p->T ? edge_feed_packed(s, p, at, p->T - at, calls || at == 0) : NULL;
}

static fh1_status walk_paths(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    edge_packed p;
    for (int way = 0; way < PATHS; ++way)
        for (int64_t B = 1; B <= 3; B += 2) {
            law_session *s = NULL;
            if (edge_slow(run->data) && (B == 3 || (way != CUT_AT_BORDER && way != BORDER_IN_STEP))) continue;
            gld_sessions_close(run);
            edge_pack(run, B, docs_of_paths, 1, &p);
            if (road != LAW_LEFT) {
                FH1_TRY(gld_session_open(run, e, B, &s));
                FH1_TRY(along(run, e, road, (path)way, s, &p));
            }
            FH1_TRY(edge_take_packed(run, e, &p, s, 0, out));
        }
    return NULL;
}

/* Every tap of such calls against the truth. */
static fh1_status taps_on(edge_run *r, const fh1_model *m, void *data)
{
    (void)data;
    return edge_check(r, m, edge_slow(r) ? "p9k:4,7;c5k:1" : "p14x3k:5,11/4,5/2,10;d1;c5k:0/2/1;d1", r->seed);
}

static fh1_status all_paths(edge_run *r)
{
    FH1_TRY(edge_walks(r, 20, walk_paths, LAW_ALL));
    if (!edge_slow(r)) return edge_each_model(r, taps_on, NULL);
    FH1_TRY(edge_on_model(r, edge_model_text(1), taps_on, NULL));
    return edge_on_mamba(r, taps_on, NULL);
}

const edge_case edge_packing[] = {
    {.id = "D-57",
     .title = "packed documents of every length",
     .setup = "documents of 1, 2, 3, Q-1, Q and Q+1 tokens in one row, positions from 0 in each, every length at every "
              "place and once the last; one row, and three that begin with different ones; then a step that goes on "
              "with the last document",
     .invariant = "logits, keys and values of each document are those it has alone, window and state those of the last",
     .catches = "PK1 axolotl-ai-cloud/axolotl#3572, PK2 NovaSky-AI/SkyRL#2056, huggingface/transformers#35861, SR3 "
                "read in source: transformers",
     .faults = "documents_ignored documents_ignored_in_attention documents_of_row_0 documents_as_boolean "
               "positions_run_on scan_leaks_documents conv_leaks_documents mixer_leaks_documents",
     .engines = EDGE_ALL,
     .run = packed_lengths,
     .falcon_mamba = true},
    {.id = "D-58",
     .title = "the last token of a document is changed",
     .setup = "documents A of 1, K-1, Q and Q+1 tokens and B of six; A's last token is another word, and one whose "
              "embedding is NaN. Forward; and backward from a loss on B alone",
     .invariant = "forward: B's logits, keys, values, window and state keep every bit. Backward: the loss, the "
                  "gradients of all parameters and of B's embeddings keep every bit, those of A's embeddings are "
                  "exactly zero; with NaN in A, loss and the gradients of B's embeddings still do (sums over all "
                  "tokens are NaN, as 0 times NaN is)",
     .catches = "PK1 axolotl-ai-cloud/axolotl#3572, PK3 state-spaces/mamba#746, commit 8ffd905",
     .faults = "documents_ignored documents_ignored_in_attention scan_leaks_documents conv_leaks_documents "
               "grad_conv_leaks_documents grad_carry_crosses_documents grad_decay_crosses_documents",
     .engines = EDGE_ALL,
     .run = edge_other_document,
     .falcon_mamba = true},
    {.id = "D-59",
     .title = "borders of documents at chunk edges",
     .setup = "borders at Q-1, Q, Q+1, 2Q-1 and 2Q, two and three of them within a chunk; in one call, and in two that "
              "are cut at Q-1, Q and Q+1; one row and three",
     .invariant = "each document computes what it computes alone",
     .catches = "PK3 state-spaces/mamba#746, CP2 vllm-project/vllm#23279, PK1 axolotl-ai-cloud/axolotl#3572",
     .faults = "document_border_one_late document_border_one_early scan_leaks_documents conv_leaks_documents "
               "call_is_a_document",
     .engines = EDGE_ALL,
     .run = at_chunk_edges,
     .falcon_mamba = true},
    {.id = "D-60",
     .title = "a padded tail and its document number",
     .setup = "two documents and 1, 3 and 9 columns of padding behind them that bear the last document's number, -1 or "
              "0; and the same columns given as tokens",
     .invariant = "masked, the number makes no difference in any bit, and both documents, window and state are as "
                  "alone; as tokens, numbers that fall or are negative are refused as bad input",
     .catches = "PK2 NovaSky-AI/SkyRL#2056, PK3 Dao-AILab/causal-conv1d#67, a tail that updates the final state",
     .faults = "tail_updates_the_last_document conv_window_at_right_pads state_decays_over_right_pads "
               "cache_after_last_column mask_for_batches_only",
     .engines = EDGE_ALL,
     .run = padded_tails,
     .falcon_mamba = true},
    {.id = "D-61",
     .title = "numbers of documents",
     .setup = "the same documents numbered 0, 1, 2 and with other rising numbers up to 2^41, the second one over the "
              "border of two calls; neighbours of one number, whose positions restart; numbers that fall within a "
              "call, between calls, come back, or are negative",
     .invariant = "rising numbers: the same bits whatever they are; one number is one document, whatever the positions "
                  "say; the others are refused as bad input and the cache does not move",
     .catches = "PK2 huggingface/transformers#35861, PrimeIntellect-ai/prime-rl#3000, PK3 Dao-AILab/causal-conv1d#67",
     .faults = "document_border_at_position_0 documents_as_boolean call_is_a_document documents_ignored",
     .engines = EDGE_ALL,
     .run = numbers,
     .falcon_mamba = true},
    {.id = "D-62",
     .title = "every path knows of documents",
     .setup = "rows of three documents in one call, in two that are cut inside a document and at a border, with a step "
              "that begins a document, and in steps alone; one row and three. And ragged packed calls and steps "
              "recorded with all their taps",
     .invariant = "no path drops seq_idx in silence: each document computes what it computes alone; every tap is the "
                  "truth's",
     .catches = "PK1 axolotl-ai-cloud/axolotl#3572, SR3 read in source: transformers, PK3 state-spaces/mamba commit "
                "8ffd905",
     .faults = "steps_without_documents continued_calls_without_documents documents_ignored "
               "documents_ignored_in_attention scan_leaks_documents mixer_leaks_documents",
     .engines = EDGE_ALL,
     .run = all_paths,
     .falcon_mamba = true},
    {.id = "D-63",
     .title = "a row split over ranks",
     .setup = "two documents of 9 and 11 tokens, cut at every token for two ranks and at pairs and triples of tokens "
              "for three and four, at the border, beside it and within K-1 of it; one document of 20, cut here and "
              "there; each rank has a cache of its own and gets keys and values, the conv halo and the carried state "
              "by export and import. And the scan of one layer by ranks that do not wait: each from zero, the carry "
              "over their ends (decays of a rank times what came in, plus its own state), each again from its carry",
     .invariant = "tokens and final memory are those of the row in one call, outputs and state those of one scan",
     .catches = "SR4 read in source: axolotl, PK2 NovaSky-AI/SkyRL#2056, NVIDIA/Megatron-LM#3922",
     .faults = "local_state_is_sent halo_is_not_exchanged call_is_a_document history_dropped",
     .engines = EDGE_ALL,
     .run = edge_ranks,
     .falcon_mamba = true},
    {.id = NULL},
};
