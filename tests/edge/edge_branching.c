/* Branching: beams, forks, drafts that are taken back. The walks of speculation stand in edge_speculation.c and
 * edge_greedy.c. */
#include "tests/edge/edge_moves.h"

#include <string.h>

/* ---- D-49: beams ---- */

enum { BEAMS = 4, WORDS = 64 };

/* What each beam has said, and will say next: words of its own place. */
typedef struct {
    int64_t word[BEAMS][WORDS];
} histories;

static fh1_status say(const law_run *run, law_session *s, histories *h, int64_t n)
{
    law_row rows[LAW_ROWS];
    for (int64_t b = 0; b < s->B; ++b) {
        for (int64_t i = s->n[b]; i < s->n[b] + n; ++i) h->word[b][i] = run->text[b][i];
        rows[b] = (law_row){h->word[b], 0, n, 0};
    }
    return gld_session_rows(s, rows, 0);
}

static fh1_status move_beams(law_run *run, law_session *s, histories *h, const int64_t *from, int64_t n)
{
    const histories old = *h;
    for (int64_t b = 0; b < n; ++b) memcpy(h->word[b], old.word[from[b]], sizeof *h->word);
    return gld_session_reorder(run, s, from, n);
}

/* Right after a move every bit; after the next words each beam against its history said alone. */
static fh1_status walk_beams(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const struct {
        int64_t n, from[BEAMS];
    } move[] = {{3, {1, 2, 0}}, {4, {2, 2, 0, 1}}, {4, {3, 1, 1, 0}}, {2, {3, 0}}};
    const bool slow = edge_slow(run->data);
    law_session *s;
    histories *h = calloc(1, sizeof *h);
    if (!h) return fh1_no_memory(sizeof *h, "the words of beams");
    fh1_status st = gld_session_open(run, e, 3, &s);
    if (!st) st = say(run, s, h, 7);
    for (int i = slow; i < (slow ? 3 : 4) && !st; ++i) {
        for (int64_t b = 0; b < move[i].n && road == LAW_LEFT && !st; ++b)
            st = gld_session_take(s, move[i].from[b], 0, -1, true, true, out);
        if (!st) st = move_beams(run, s, h, move[i].from, move[i].n);
        if (road == LAW_PLANTED && i == 1 && !st) st = gld_session_forget(s);
        if (road != LAW_LEFT && !st) st = edge_take_all(s, true, out);
        if (!st) st = say(run, s, h, i == 1 ? 3 : 1);
        for (int64_t b = 0; b < s->B && !st; ++b)
            st = road == LAW_LEFT ? edge_take_alone(run, e, h->word[b], s->n[b], out)
                                  : gld_session_take(s, b, 0, -1, true, false, out);
    }
    free(h);
    return st;
}

static fh1_status beams(edge_run *r)
{
    return edge_walks(r, 20, walk_beams, LAW_ALL);
}

/* ---- D-50: a fork and its parent ---- */

static fh1_status go_on(law_run *run, law_session *s, int first)
{
    FH1_TRY(edge_feed_all(run, s, first, 1));
    return edge_feed_all(run, s, first, 3);
}

static fh1_status fork_at(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t t, bool child_first,
                          law_side *out)
{
    law_session *parent, *child, *grandchild;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, t, &parent));
    if (road == LAW_LEFT) { /* rows that never met */
        FH1_TRY(edge_open(run, e, B, 0, t, &child));
        FH1_TRY(edge_open(run, e, B, 0, t, &grandchild));
    } else {
        FH1_TRY(gld_session_fork(run, parent, &child));
        FH1_TRY(gld_session_fork(run, child, &grandchild));
        if (road == LAW_PLANTED) FH1_TRY(gld_session_forget(child));
    }
    if (child_first) FH1_TRY(go_on(run, child, 3));
    FH1_TRY(go_on(run, parent, 0));
    FH1_TRY(edge_take_all(grandchild, true, out));
    if (!child_first) FH1_TRY(go_on(run, child, 3));
    FH1_TRY(edge_take_all(child, true, out));
    /* copy-on-write by the first that writes: the child's words must not reach the parent's next ones */
    if (edge_wrong(run, e, road, "no_copy_on_write")) FH1_TRY(edge_copy_all(parent, child, EDGE_STATE));
    FH1_TRY(go_on(run, parent, 0));
    FH1_TRY(edge_take_all(parent, true, out));
    FH1_TRY(go_on(run, grandchild, 2));
    return edge_take_all(grandchild, true, out);
}

static fh1_status walk_forks(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t K = run->m->config.K, Q = edge_chunk(run), t[] = {K - 1, 1, Q, Q + 1, 13};
    if (edge_slow(run->data)) return fork_at(run, e, road, 1, t[0], true, out);
    for (size_t i = 0; i < sizeof t / sizeof *t; ++i) {
        FH1_TRY(fork_at(run, e, road, 1, t[i], i % 2, out));
        FH1_TRY(fork_at(run, e, road, 3, t[i], i % 2 == 0, out));
    }
    return NULL;
}

static fh1_status forks(edge_run *r)
{
    return edge_walks(r, 24, walk_forks, LAW_ALL);
}

/* ---- D-55: back to a moment that nobody kept ---- */

static fh1_status must_refuse(edge_run *r, fh1_status s, const char *what, int64_t row, int64_t n, int64_t to)
{
    if (s && s->code == FH1_E_INTERNAL) return s;
    return edge_require(r, s && s->code == FH1_E_INPUT, "row %lld of %lld tokens: %s (%lld) is %s", (long long)row,
                        (long long)n, what, (long long)to, s ? "no bad input" : "accepted");
}

/* Every length but all and nothing, rows that are not there, a snapshot of another type. */
static fh1_status refusals(law_run *run, law_session *s)
{
    edge_run *r = run->data;
    const fh1_cache_ops *ops = s->e->cache_ops;
    const fh1_dtype other_type = s->cache->dtype == FH1_F64 ? FH1_F32 : FH1_F64;
    fh1_cache *other;
    for (int64_t b = 0; b < s->B; ++b) {
        const int64_t n = s->n[b];
        for (int64_t to = 1; to < n; ++to)
            FH1_TRY(must_refuse(r, ops->truncate(s->cache, b, to), "going back to", b, n, to));
        FH1_TRY(must_refuse(r, ops->truncate(s->cache, b, n + 1), "going on to", b, n, n + 1));
        FH1_TRY(must_refuse(r, ops->truncate(s->cache, b, -1), "a length of", b, n, -1));
        FH1_TRY(ops->truncate(s->cache, b, n)); /* back by no token: nothing to do */
    }
    for (int64_t b = -1; b <= s->B; b += s->B + 1)
        FH1_TRY(must_refuse(r, ops->truncate(s->cache, b, 0), "a row that is not there", b, 0, 0));
    FH1_TRY(fh1_cache_new(s->cache->config, other_type, s->B, &other));
    const fh1_status restored = ops->restore(s->cache, other);
    fh1_cache_free(other);
    return must_refuse(r, restored, "a snapshot of another number type", 0, s->n[0], 0);
}

static fh1_status rolled_back(law_run *run, fh1_engine *e, law_road road, int64_t B, int64_t n, law_side *out)
{
    law_session *s;
    gld_sessions_close(run);
    FH1_TRY(edge_open(run, e, B, 0, n, &s));
    if (road == LAW_RIGHT && e == run->a->engine) FH1_TRY(refusals(run, s));
    if (road == LAW_PLANTED) FH1_TRY(gld_session_forget(s));
    FH1_TRY(edge_take_all(s, true, out));
    FH1_TRY(edge_feed_all(run, s, 0, 1));
    FH1_TRY(edge_feed_all(run, s, 0, 2));
    return edge_take_all(s, true, out);
}

static fh1_status walk_rollbacks(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    const int64_t Q = edge_chunk(run), n[] = {13, 2, 1, run->m->config.K, Q};
    for (size_t i = 0; i < (edge_slow(run->data) ? 2 : sizeof n / sizeof *n); ++i)
        FH1_TRY(rolled_back(run, e, road, i % 2 ? 1 : 3, n[i], out));
    return NULL;
}

static fh1_status rollbacks(edge_run *r)
{
    return edge_walks(r, 20, walk_rollbacks, LAW_ALL);
}

const edge_case edge_branching[] = {
    {.id = "D-49",
     .title = "beams change places",
     .setup =
         "three beams of seven tokens; moved by (1,2,0), (2,2,0,1), (3,1,1,0) and (3,0); after each move the beams "
         "say words of their own, copies part there",
     .invariant = "a move keeps every bit of keys, values, window and state; afterwards each beam computes what its "
                  "history computes alone",
     .catches = "SP3 huggingface/transformers#46612, #46819, SP2 ml-explore/mlx-lm#1456",
     .faults = "reorder_keys_only reorder_state_only reorder_without_conv reorder_off_by_one reorder_in_place "
               "last_row_has_stale_slot keys_of_row_0",
     .engines = EDGE_ALL,
     .run = beams,
     .falcon_mamba = true},
    {.id = "D-50",
     .title = "a fork leaves its parent alone",
     .setup = "a fork after 1, K-1, Q, Q+1 and 13 tokens of one and three rows, and a fork of the fork; parent and "
              "child say different words, each as the first to write; the youngest waits, then speaks",
     .invariant = "all three have the bits of rows that never met",
     .catches = "CP4 vllm-project/vllm#56196, a fork that shares storage with its parent; PC5 LMCache/LMCache#4247",
     .faults = "no_copy_on_write snapshot_shares_state snapshot_without_keys snapshot_without_conv "
               "snapshot_without_ssm snapshot_one_call_behind",
     .engines = EDGE_ALL,
     .run = forks,
     .falcon_mamba = true},
    {.id = "D-51",
     .title = "j of k drafts accepted",
     .setup =
         "one call of the next token and k drafts, of which the first j are right, for all 0 <= j <= k <= 5 on one "
         "row after 0 to 15 tokens, and three rows that accept different numbers; the snapshot before is "
         "restored and what was accepted is said again; one more step",
     .invariant = "the logits by which one accepts, and window, state, keys and values after j + 1 tokens, are those "
                  "of steps of one token",
     .catches = "SP1 vllm-project/vllm#39273, SP2 ekryski/mlx-swift-lm#218, ml-explore/mlx-lm#1456, PC4 "
                "vllm-project/vllm#43559, CP1 huggingface/transformers#46741, CP7 vllm-project/vllm#35447",
     .faults = "state_after_all_drafts window_not_rolled_back restore_does_nothing restore_keys_only "
               "restore_keeps_conv snapshot_without_conv snapshot_without_ssm dt_of_first_token "
               "history_dropped conv_window_frozen_in_steps",
     .engines = EDGE_ALL,
     .run = edge_drafts,
     .falcon_mamba = true},
    {.id = "D-52",
     .title = "no drafts after an acceptance",
     .setup = "the memory after each of k + 1 tokens is kept in columns; 2 of 2, 2 of 3, 2, 3 and 5 of 5 are accepted, "
              "one and three rows; then two steps without drafts, 2 of 2 again, one step",
     .invariant = "logits and memory are those of steps of one token",
     .catches = "SP1 vllm-project/vllm#52942",
     .faults = "column_0_after_acceptance restore_keeps_conv snapshot_without_ssm",
     .engines = EDGE_ALL,
     .run = edge_after_drafts,
     .falcon_mamba = true},
    {.id = "D-53",
     .title = "acceptance ends at a border",
     .setup =
         "five drafts, 0 to 5 accepted so that the row ends at Q-1, Q, Q+1, 2Q-1, 2Q and 2Q+1 tokens; a step and a "
         "call of two behind it",
     .invariant = "logits and memory are those of steps of one token",
     .catches = "SP1 vllm-project/vllm#53505, CP5 syv-ai/qwen38-27b-rtx3090#43",
     .faults = "block_before_at_a_border state_uninitialised_at_block_edge",
     .engines = EDGE_ALL,
     .run = edge_drafts_at_borders,
     .falcon_mamba = true},
    {.id = "D-54",
     .title = "a prompt filled up with placeholders",
     .setup = "prompts of 1, 2, 3, 5, Q-1, Q, Q+1, 13 and 2Q+1 tokens, alone and three in a batch, filled up on the "
              "right to a multiple of Q; saved after the call, restored alone, two steps",
     .invariant = "window and state are those after the last real token, the steps those of the bare prompt",
     .catches = "SP1 vllm-project/vllm#55178, PD4 huggingface/transformers#48256, HF16 found by running transformers",
     .faults = "placeholders_advance_the_state conv_window_at_right_pads state_decays_over_right_pads "
               "cache_after_last_column length_of_the_batch mask_for_batches_only",
     .engines = EDGE_ALL,
     .run = edge_placeholders,
     .falcon_mamba = true},
    {.id = "D-55",
     .title = "back to a moment that nobody kept",
     .setup = "rows of 1, 2, K, Q and 13 tokens, alone and in threes; each is asked to go back by every number of "
              "tokens, to more than it has, to -1; rows that are not there; a snapshot of another number type; going "
              "back by no token",
     .invariant = "all are refused as bad input, the last one does nothing; the cache keeps every bit and goes on",
     .catches = "SP2 ggml-org/llama.cpp#16382, PC4 vllm-project/vllm#43559, #47861",
     .faults = "truncate_leaves_state truncate_off_by_one truncate_does_nothing",
     .engines = EDGE_ALL,
     .run = rollbacks,
     .falcon_mamba = true},
    {.id = "D-56",
     .title = "the same words with speculation",
     .setup = "a prompt of five tokens and 200 greedy steps (12 on engines whose kernels run on the CPU) of a model of "
              "one layer, plain; then with up to four drafts a round, each right two times in three",
     .invariant = "at every step the logits differ by no more than those of two honest runs may, so that a word can "
                  "change only where the best two are closer than that (the run goes on with the plain word); in f64 "
                  "and f32 every word is the same",
     .catches = "SP1 vllm-project/vllm#39273, SL6 vllm-project/vllm#14848",
     .faults = "state_stays_after_rejection restore_keys_only restore_keeps_conv snapshot_without_ssm history_dropped",
     .engines = EDGE_ALL,
     .run = edge_same_words},
    {.id = NULL},
};
