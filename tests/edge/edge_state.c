/* Moving state: snapshots, slots, resets, batches that change. The walks stand in edge_snapshot.c, edge_layout.c and
 * edge_slots.c. */
#include "tests/edge/edge_moves.h"

static fh1_status reset_is_new(edge_run *r)
{
    return edge_named_law(r, "reset", 20);
}

/* ---- D-48: rows leave the batch and change places ---- */

/* Positions by column numbers of the rows that stood there before: what a batch without its compacted books does. */
static fh1_status step_with_old_books(law_run *run, law_session *s, const int64_t *text_of, const int64_t *old)
{
    const int64_t len = s->n_cols + 1;
    int64_t ids[LAW_ROWS], positions[LAW_ROWS];
    int64_t *mask = calloc((size_t)(s->B * len), sizeof *mask);
    if (!mask) return fh1_no_memory((size_t)len, "a mask");
    for (int64_t b = 0; b < s->B; ++b) {
        ids[b] = run->text[text_of[b]][s->n[b]];
        positions[b] = old[b];
        for (int64_t i = 0; i < len; ++i) mask[b * len + i] = i == len - 1 || s->real[b][i];
    }
    const fh1_batch step = {.B = s->B, .T = 1, .ids = ids, .mask = mask, .mask_len = len, .positions = positions};
    fh1_status st = gld_session_call(s, &step);
    free(mask);
    return st;
}

static fh1_status walk_compaction(law_run *run, fh1_engine *e, law_road road, law_side *out)
{
    static const int64_t move[3][3] = {{0, 2, 3}, {2, 0}, {1}}, left[] = {3, 2, 1}; /* rows after each move */
    int64_t who[LAW_ROWS] = {0, 1, 2, 3}, n[LAW_ROWS] = {9, 3, 1, 6}, old[LAW_ROWS];
    law_session *s;
    law_row rows[LAW_ROWS];
    FH1_TRY(gld_session_open(run, e, 4, &s));
    for (int b = 0; b < 4; ++b) rows[b] = (law_row){run->text[b], 9 - n[b], n[b], 0}; /* ragged, padded left */
    FH1_TRY(gld_session_rows(s, rows, 0));
    for (int i = 0; i < 3; ++i) {
        int64_t now[LAW_ROWS];
        if (road == LAW_LEFT) /* what must stand in each place after the move */
            for (int64_t b = 0; b < left[i]; ++b) FH1_TRY(gld_session_take(s, move[i][b], 0, -1, true, true, out));
        for (int64_t b = 0; b < s->B; ++b) old[b] = s->n[b];
        FH1_TRY(gld_session_reorder(run, s, move[i], left[i]));
        if (road == LAW_PLANTED && i == 2) FH1_TRY(gld_session_forget(s));
        if (road != LAW_LEFT) FH1_TRY(edge_take_all(s, true, out));
        for (int64_t b = 0; b < left[i]; ++b) now[b] = who[move[i][b]];
        for (int64_t b = 0; b < left[i]; ++b) who[b] = now[b], rows[b] = (law_row){run->text[who[b]], 0, 1, 0};
        if (edge_wrong(run, e, road, "positions_not_compacted")) FH1_TRY(step_with_old_books(run, s, who, old));
        else FH1_TRY(gld_session_rows(s, rows, 0));
        FH1_TRY(gld_session_rows(s, rows, 0));
        for (int64_t b = 0; b < left[i]; ++b) {
            if (road == LAW_LEFT) FH1_TRY(edge_take_alone(run, e, run->text[who[b]], s->n[b], out));
            else FH1_TRY(gld_session_take(s, b, 0, -1, true, false, out));
        }
    }
    return NULL;
}

static fh1_status compaction(edge_run *r)
{
    return edge_walks(r, 20, walk_compaction, LAW_ALL);
}

const edge_case edge_state[] = {
    {.id = "D-36",
     .title = "a snapshot in another slot",
     .setup = "a snapshot after p = Q and 2Q tokens of one and of three rows; the original goes on with other words; "
              "the snapshot is restored into a new cache, into one that had seen other words, and with its rows in "
              "other slots; then a call of three tokens and two steps",
     .invariant = "the same bits as without the interruption, in logits, keys, values, window and state; within "
                  "rounding of each row said in one call",
     .catches = "PC1 sgl-project/sglang#37836, PC5 LMCache/LMCache#4247, PC7 vllm-project/vllm#51250, "
                "ggml-org/llama.cpp#25913, PC3 vllm-project/vllm#34874, SP2 ml-explore/mlx-lm#1456",
     .faults = "snapshot_without_keys snapshot_without_conv snapshot_without_ssm snapshot_state_in_bf16 "
               "snapshot_one_call_behind snapshot_of_row_before restore_does_nothing restore_keys_only "
               "restore_keeps_conv restore_state_of_layer_0 empty_snapshot",
     .engines = EDGE_ALL,
     .run = edge_snapshot_restored,
     .falcon_mamba = true},
    {.id = "D-37",
     .title = "a snapshot at any length",
     .setup = "snapshots of one and of three rows after 1, 2, 3, 5, 7, 9, 13, 15, 17 and 21 tokens: shorter than the "
              "conv window, beside chunk edges, on no grid of blocks; several in one pool, each found again by its "
              "length and restored as in D-36, the rest of the text crossing block edges",
     .invariant = "the same bits as without the interruption; within rounding of each row said in one call",
     .catches = "PC2 vllm-project/vllm#34587, #53142, #55600, #57266, CP5 syv-ai/qwen38-27b-rtx3090#43, CP6 "
                "sgl-project/sglang#30938, #29368",
     .faults = "state_index_of_the_key_blocks snapshot_length_rounded_up snapshot_one_call_behind "
               "state_uninitialised_at_block_edge initial_state_of_row_0",
     .engines = EDGE_ALL,
     .run = edge_snapshot_anywhere,
     .falcon_mamba = true},
    {.id = "D-38",
     .title = "snapshots of several requests in one batch",
     .setup = "requests of 20, 27 and 36 tokens are prefilled in one batch, first to their aligned lengths 16, 24 and "
              "32 (multiples of Q), where a snapshot is taken; each request is taken out of it alone, restored into a "
              "used cache of one row and ended there",
     .invariant = "at the aligned length and at the end each request has the keys, values, window, state and logits "
                  "that it has alone",
     .catches = "PC1 sgl-project/sglang#31833, #33450, #37836, PC6 sgl-project/sglang#34760, CP2 "
                "vllm-project/vllm#23279",
     .faults = "grid_of_the_flattened_batch snapshot_of_row_before snapshot_one_call_behind restore_replays_one_token "
               "decay_from_wrong_origin",
     .engines = EDGE_ALL,
     .run = edge_snapshots_of_a_batch,
     .falcon_mamba = true},
    {.id = "D-39",
     .title = "one token left, none left",
     .setup = "prompts of 1, 2, K, Q, Q+1 and 2Q+1 tokens, one and three rows, of which all but one or all are cached. "
              "One left: the snapshot is restored over another text and the last token is said. None left: a call of "
              "no tokens is tried, then the snapshot before the last token is restored and that token said again",
     .invariant = "the logits of the last token and all memory are those of the whole prompt, the bits those of the "
                  "same calls without a cache; the call of no tokens is refused as bad input and moves nothing",
     .catches = "PC6 sgl-project/sglang#29633, #34760, PC8 JamePeng/llama-cpp-python#178",
     .faults = "stale_logits_with_nothing_left last_token_fed_again restore_replays_one_token restore_keys_only",
     .engines = EDGE_ALL,
     .run = edge_almost_all_cached,
     .falcon_mamba = true},
    {.id = "D-40",
     .title = "one snapshot restored twice",
     .setup =
         "a snapshot after 2, 13 and Q tokens, one and three rows; restored, then three steps, calls of 2 and 1, of "
         "3 and 2, or of 9 tokens; the snapshot is read; restored once more, the same calls again",
     .invariant = "both runs have the bits of an uninterrupted one, within rounding of each row in one call, and the "
                  "snapshot those of the moment it was taken",
     .catches = "CP4 vllm-project/vllm#56196, PC8 ggml-org/llama.cpp#18552",
     .faults = "restore_mutates_snapshot snapshot_shares_state short_call_writes_into_the_shared_block "
               "conv_window_not_stored_in_short_calls",
     .engines = EDGE_ALL,
     .run = edge_snapshot_twice,
     .falcon_mamba = true},
    {.id = "D-41",
     .title = "other layouts, through a file",
     .setup = "a ragged batch of three and a single row; every part of every layer is exported into another layout (K "
              "window columns with an idle oldest one, tokens before heads, columns before channels, width and state "
              "before heads; f64, f32, bf16), written to a safetensors file, read back and imported into a new cache; "
              "then a step. The usual models, and K = 2, 3, 5",
     .invariant = "the bits of the cache that was saved, each number rounded to the file's type first; where that is "
                  "as wide as the cache or wider, its very bits",
     .catches = "HF10 huggingface/transformers#44950, #47630, CV2 ggml-org/llama.cpp#23015",
     .faults = "window_read_from_the_first_of_k_columns window_stride_of_four heads_and_width_exchanged saved_in_bf16 "
               "conv_window_read_as_k state_transposed",
     .engines = EDGE_ALL,
     .run = edge_layouts,
     .falcon_mamba = true},
    {.id = "D-42",
     .title = "NaN in every slot that nobody owns",
     .setup = "a pool of four rows that was in use; every part of every slot is overwritten with NaN; rows 0 and 3 are "
              "given out again (by truncation, or by a reset of the pool), rows 1 and 2 stay NaN and are masked; "
              "ragged prefill, steps, a call on a cache, snapshot and restore",
     .invariant = "no NaN in what belongs to the live rows: the bits of a pool that held ordinary numbers, and within "
                  "rounding of each row alone",
     .catches = "SL1 vllm-project/vllm#56524, #37728, SL5 state-spaces/mamba#792, SL6 vllm-project/vllm#14848",
     .faults = "slot_given_out_as_it_is slot_not_zeroed truncate_keeps_conv reset_keeps_conv reset_keeps_ssm "
               "padding_row_writes_slot_0 padding_row_writes_last_slot state_uninitialised_at_block_edge",
     .engines = EDGE_ALL,
     .run = edge_poisoned_pool,
     .falcon_mamba = true},
    {.id = "D-43",
     .title = "a slot given to a short request",
     .setup = "30 words of another request, then one of 1 or 2 tokens in the same slot and two steps: a cache of one "
              "row that is reset, and the middle one of three rows that is truncated while its neighbours wait",
     .invariant = "the bits of a slot that was never used; within rounding of the row in one call",
     .catches = "SL1 vllm-project/vllm#56524, SL2 vllm-project/vllm#57720",
     .faults = "slot_not_zeroed truncate_keeps_conv truncate_does_nothing one_token_prompt_on_dirty_slot "
               "reset_keeps_keys reset_keeps_conv reset_keeps_ssm reset_keeps_positions",
     .engines = EDGE_ALL,
     .run = edge_slot_again,
     .falcon_mamba = true},
    {.id = "D-44",
     .title = "a decode batch padded to a graph's shape",
     .setup =
         "one and three live rows in batches of 4 and 8; the other rows are padding with stale ids, there from the "
         "prefill on or added before the steps as emptied copies of row 0, in front or behind; three steps; the "
         "padding goes, one more step",
     .invariant =
         "the live rows have the bits of a batch without padding (on cuda and cuda-host its values: their fused "
         "steps are for batches without padding); window and state of padding stay zero, and it has no tokens",
     .catches = "SL2 vllm-project/vllm#41841, #42947, SL3 NVIDIA/TensorRT-LLM#13151, #13278, PC3 "
                "vllm-project/vllm#34874, SL5 state-spaces/mamba#792",
     .faults = "padding_row_aliases_a_live_slot padding_row_writes_slot_0 padding_row_writes_last_slot "
               "last_row_has_stale_slot mask_ignored mask_dropped_on_a_cache reorder_keys_only slot_not_zeroed",
     .engines = EDGE_ALL,
     .run = edge_padded_steps,
     .falcon_mamba = true},
    {.id = "D-45",
     .title = "preempted at any step",
     .setup = "seven tokens and six steps, one and three rows. Swap: before every step all parts are exported, a new "
              "cache gets the books and imports them. Recompute: before step 0 … 5 a row is reset or truncated and "
              "all it has said is said again in one call, while its neighbours wait",
     .invariant = "swap: the bits of a run that was left alone; recompute: within rounding of it",
     .catches = "SL6 vllm-project/vllm#48401, #45238, SL1 vllm-project/vllm#56524",
     .faults = "window_not_swapped recomputed_on_the_old_state reset_keeps_conv reset_keeps_ssm slot_not_zeroed "
               "reset_keeps_positions",
     .engines = EDGE_ALL,
     .run = edge_preempted,
     .falcon_mamba = true},
    {.id = "D-46",
     .title = "both caches of a layer in one table",
     .setup = "as many tokens as make keys and values as long as the state, then as long as the window, then another "
              "number; all parts of all layers go into one table and from there into a new cache, which goes on; and "
              "each part of each layer is overwritten alone",
     .invariant = "the bits of a cache that was left alone; a part that is written moves no other",
     .catches = "SL4 NVIDIA-NeMo/Megatron-Bridge#4367, ml-explore/mlx-lm#510, PC3 vllm-project/vllm#34874",
     .faults = "caches_keyed_by_layer_alone layers_share_state",
     .engines = EDGE_ALL,
     .run = edge_colliding_keys},
    {.id = "D-47",
     .title = "reset, then the object again",
     .setup = "a cache that has seen other words is reset and used for the text",
     .invariant = "logits, keys, values, window and state are those of a new cache, bit for bit",
     .catches = "HF10a read in source: transformers",
     .faults = "reset_keeps_keys reset_keeps_conv reset_keeps_ssm reset_keeps_positions",
     .engines = EDGE_ALL,
     .run = reset_is_new,
     .falcon_mamba = true},
    {.id = "D-48",
     .title = "finished rows leave the batch",
     .setup = "four ragged rows padded on the left; row 1 is finished, then one more, the rest change places, then all "
              "but one are finished; two steps after each move",
     .invariant = "each row that stays keeps every bit in the move and computes on as it does alone",
     .catches = "PD5 ml-explore/mlx-lm#690, #842, SP3 huggingface/transformers#46612",
     .faults = "positions_not_compacted reorder_keys_only reorder_state_only reorder_without_conv reorder_off_by_one "
               "reorder_in_place last_row_has_stale_slot",
     .engines = EDGE_ALL,
     .run = compaction,
     .falcon_mamba = true},
    {.id = NULL},
};
