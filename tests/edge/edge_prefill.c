/* Prefill, decode, chunking: however a row is cut into calls, it computes what it computes in one. */
#include "tests/edge/edge_prefill.h"

#include <stdio.h>

enum { TEXT = 48 };

/* Schedules written by loops; the last one stays empty. */
typedef struct {
    edge_plan plan[264];
    char text[264][TEXT];
    int n;
} plan_list;

static edge_plan *add(plan_list *l, uint64_t looks, unsigned engines)
{
    edge_plan *p = &l->plan[l->n];
    p->calls = l->text[l->n++];
    p->looks = looks;
    p->engines = engines;
    return p;
}

static void add_slow(plan_list *l, const char *schedule)
{
    add(l, 0, EDGE_CUDA_HOST | EDGE_CUDA)->calls = schedule;
}

/* ---- D-01, D-02: every length around the window and the chunk, then one, two and five steps ---- */

const int64_t edge_lengths[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17};

/* A prefill and five steps are looked at after 1, 2 and 5 of them: the shorter schedules are its beginnings. With no
 * prefill the first step is the first call. */
static void prefill_and_steps(plan_list *l, int64_t n, int64_t B, unsigned engines)
{
    const int64_t before = n > 0; /* steps of the schedule before the first one of decode */
    add(l, (uint64_t)(1 | 2 | 16) << before, engines);
    if (n > 0) snprintf(l->text[l->n - 1], TEXT, "p%lldx%lld;d5", (long long)n, (long long)B);
    else snprintf(l->text[l->n - 1], TEXT, "p1x%lld;d4", (long long)B);
}

/* A finite limit of dt, which a step may forget. */
static const char limited[] = "layers=3,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,weights=trained,m_z=0.75,"
                              "m_x=1.5,m_B=0.625,m_C=1.25,m_dt=0.5,dt_lo=0.01,dt_hi=0.1";

static fh1_status limited_plans(edge_run *r, const fh1_model *m, void *data)
{
    (void)data;
    const edge_plan plans[] = {{.calls = "p9x3;d2", .engines = EDGE_REFERENCE},
                               {.calls = "p9;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
                               {.calls = NULL}};
    return edge_plans(r, m, plans);
}

/* The truth's word on the same schedule: what both roads have wrong in common. */
static fh1_status checked(edge_run *r, const fh1_model *m, void *data)
{
    return edge_check(r, m, data, r->seed);
}

fh1_status edge_prefill_then_decode(edge_run *r)
{
    static char schedule[] = "p9x3;d2";
    plan_list l = {.n = 0};
    for (int i = 0; i < EDGE_LENGTHS; ++i)
        for (int64_t B = 1; B <= 3; B += 2) prefill_and_steps(&l, edge_lengths[i], B, EDGE_REFERENCE);
    add_slow(&l, "p1x3;d1");
    add_slow(&l, "p8x3;d2");
    add_slow(&l, "p3;d1");
    FH1_TRY(edge_plans_all(r, l.plan));
    FH1_TRY(edge_on_model(r, limited, limited_plans, NULL));
    return edge_is_slow(r) ? NULL : edge_on_model(r, edge_model_text(1), checked, schedule);
}

/* ---- D-02 ---- */

fh1_status edge_states_after_decode(edge_run *r)
{
    static char schedule[] = "p2;c2;d1;c4;d1";
    plan_list l = {.n = 0};
    FH1_TRY(edge_windows(r));
    for (int i = 0; i < EDGE_LENGTHS; ++i)
        for (int64_t B = 1; B <= 3; B += 2) prefill_and_steps(&l, edge_lengths[i], B, EDGE_REFERENCE);
    add_slow(&l, "p9x3;d1");
    add_slow(&l, "p2;d2");
    FH1_TRY(edge_plans_all(r, l.plan));
    return edge_is_slow(r) ? NULL : edge_on_model(r, edge_model_text(0), checked, schedule);
}

/* ---- D-04 ---- */

fh1_status edge_short_prompts(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p1;d4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p1x3;d4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p2;d4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p2x3;d4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p2;c2;c1;c2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p2x3l:0,1,0r:0,0,1;d4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p2x3l:0,1,0;d2", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p1;c2", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* ---- D-05: every way to cut 9 tokens ---- */

/* Bit i of `cuts`: a call ends behind token i. Calls of one token are not steps of decode only: "c1" and "d1" are the
 * same call. */
static void composition(unsigned cuts, int64_t n, int64_t B, char *text)
{
    int64_t from = 0, used = 0;
    for (int64_t t = 0; t < n; ++t) {
        if (t < n - 1 && !(cuts >> t & 1)) continue;
        used += snprintf(text + used, (size_t)(TEXT - used), from ? ";c%lld" : "p%lld", (long long)(t + 1 - from));
        if (from == 0) used += snprintf(text + used, (size_t)(TEXT - used), "x%lld", (long long)B);
        from = t + 1;
    }
}

/* All of them in f64; the engines that round take every second one, the others on the other model. */
static fh1_status compositions_on(edge_run *r, const fh1_model *m, void *data)
{
    /* an engine of CUDA: halves, thirds, one and two tokens first, last and in the middle */
    static const unsigned some[] = {0x04, 0x93, 0x28};
    unsigned *odd = data;
    plan_list l = {.n = 0};
    for (unsigned cuts = 0; cuts < 256 && !edge_is_slow(r); ++cuts) {
        if (!(r->bit & EDGE_F64) && cuts % 2 != *odd) continue;
        add(&l, 0, 0);
        composition(cuts, 9, cuts % 8 == 5 || cuts % 8 == 2 ? 3 : 1, l.text[l.n - 1]);
    }
    for (size_t i = 0; i < 3 && edge_is_slow(r); ++i) {
        add(&l, 0, 0);
        composition(some[i], 9, i == 0 ? 3 : 1, l.text[l.n - 1]);
    }
    *odd = !*odd;
    return edge_plans(r, m, l.plan);
}

fh1_status edge_compositions(edge_run *r)
{
    unsigned odd = 0;
    return edge_each_model(r, compositions_on, &odd);
}

/* ---- D-07 … D-09 ---- */

fh1_status edge_chunk_ends(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p7;c12", .engines = EDGE_REFERENCE},
        {.calls = "p8;c12"},
        {.calls = "p9;c12", .engines = EDGE_REFERENCE},
        {.calls = "p15;c4;c21", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p16;c16", .engines = EDGE_REFERENCE},
        {.calls = "p17;c4;c21", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p7x3;c1;c1;c8;c12", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p17x3;c15;c3", .engines = EDGE_REFERENCE},
        /* rows of other lengths in one batch: their chunks do not begin together */
        {.calls = "p17x3r:0,2,1;c9r:1,0,2;c4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p17x3r:0,2,1;c9r:1,0,2", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* Row 0 goes on behind a long history, row 1 begins, row 2 takes a single token; and the same with the rows in other
 * places, since a kernel may look at the first or the last row alone. */
fh1_status edge_mixed_batch(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p130x3l:0,130,119;c3l:0,0,2;d1", .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 5},
        {.calls = "p130x3l:130,119,0;c3l:0,2,0;d1", .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 5},
        {.calls = "p130x3l:119,0,130;c3l:2,0,0;d1", .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 5},
        {.calls = "p34x3l:0,34,23;c3l:0,0,2", .looks = 2, .engines = EDGE_CUDA_HOST | EDGE_CUDA, .pad_id = 5},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* Lengths on both sides of where the engines change their path: the matrix products of cuda at 4, 8, 16, 32 and 64
 * rows, the tiles of attention at 64 and 128. One call against calls of at most 32 tokens and what is left of them.
 * 8192 is tried on single ops by D-11. */
fh1_status edge_path_lengths(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p3;c1;c1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p4;c4;c1", .looks = ~0ull},
        {.calls = "p16;c1;c15;c1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p32;c31;c1;c1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p32;c32;c1", .looks = 6, .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p32x3;c32;c1", .looks = 6, .engines = EDGE_REFERENCE},
        {.calls = "p32;c32;c32;c31;c1;c1", .looks = 0x38, .engines = EDGE_REFERENCE},
        {.calls = "p65;c63;c1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* ---- the chapter ---- */

const edge_case edge_prefill[] = {
    {.id = "D-01",
     .title = "prefill, then steps",
     .setup = "0, 1, 2, 3, 4, 5, Q-1, Q, Q+1, 2Q-1, 2Q and 2Q+1 tokens in one call, then 1, 2 and 5 calls of one "
              "token, in batches of one and of three; both usual models, and one with finite limits of dt",
     .invariant = "logits of all positions, keys and values are those of one call over all tokens; one schedule is "
                  "judged against the truth tap by tap",
     .catches = "HF2 huggingface/transformers#34817, #47246; HF3 huggingface/transformers#48989; HF4 "
                "huggingface/transformers#47532; HF5 and SR1 read in source: transformers; NU5c state-spaces/mamba "
                "commit bb3a82a",
     .faults = "dt_not_clamped_in_steps dt_clamped_in_steps_only dt_in_bf16 gate_of_row_0 conv_step_without_silu "
               "conv_taps_reversed carry_lost_at_chunk_edge decay_skipped_at_chunk_edge chunk_tail_not_zeroed "
               "conv_window_frozen_in_steps decode_overwrites_last_key decay_sums_in_f16 logits_not_returned",
     .engines = EDGE_ALL,
     .run = edge_prefill_then_decode,
     .falcon_mamba = true},
    {.id = "D-02",
     .title = "what a window and a state hold",
     .setup = "the schedules of D-01 and calls of 2, 3, 2 and 9 tokens; after every call the window is read beside the "
              "columns that the engine showed at in_proj",
     .invariant = "states and windows are those of one call; the window holds the last K-1 columns before conv and "
                  "activation, oldest first, behind zeros where there were fewer",
     .catches =
         "CV1 state-spaces/mamba commit e097613; SL5 state-spaces/mamba#1027; HF10b read in source: transformers",
     .faults = "conv_window_first_columns conv_window_post_conv conv_window_one_short conv_window_read_as_k "
               "state_transposed last_token_not_in_state state_stored_in_bf16 window_of_activations",
     .engines = EDGE_ALL,
     .run = edge_states_after_decode,
     .falcon_mamba = true},
    {.id = "D-03",
     .title = "a prompt of one token",
     .setup = "the same token six times: in new caches, in caches that were reset after other words, and in a row of a "
              "batch that was given to another sequence; with n_logits 1",
     .invariant = "logits, keys, values, window and state have the same bits each time, and are the truth's for one "
                  "token",
     .catches = "SL2b vllm-project/vllm#57720; SL1 vllm-project/vllm#56524, #37728",
     .faults = "one_token_prompt_on_dirty_slot reset_keeps_conv reset_keeps_ssm slot_not_zeroed truncate_keeps_conv",
     .engines = EDGE_ALL,
     .run = edge_one_token_prompt,
     .falcon_mamba = true},
    {.id = "D-04",
     .title = "prompts shorter than the window",
     .setup = "prompts of 1 and of 2 tokens, then calls of 1 and 2 tokens, in batches of one and of three",
     .invariant = "after every call logits and memory are those of one call over all tokens",
     .catches = "CV1c fla-org/flash-linear-attention#1140; CP4 vllm-project/vllm#56196; SR11 read in source: unsloth",
     .faults = "conv_window_left_aligned conv_window_not_stored_in_short_calls state_not_stored_by_prefill",
     .engines = EDGE_ALL,
     .run = edge_short_prompts,
     .falcon_mamba = true},
    {.id = "D-05",
     .title = "every way to cut nine tokens",
     .setup =
         "all 256 compositions of nine tokens into calls, every fourth of them in a batch of three (in f64 on both "
         "usual models; reference engines that round take each on one of them, engines of CUDA three)",
     .invariant = "all are equal: logits of all positions, keys, values, window and state",
     .catches = "CP1 huggingface/transformers#46741, #46084; CP3 vllm-project/vllm#16942; CP7 kekzl/imp#104; CV3 "
                "ggml-org/llama.cpp#14575",
     .faults = "history_dropped dt_of_first_token second_half_from_zero long_calls_drop_state "
               "state_uninitialised_at_block_edge causal_mask_from_top_left positions_restart_in_continued_prefill "
               "continued_call_not_causal selective_scan_restarts conv_of_first_token conv_restarts_at_k_tokens",
     .engines = EDGE_ALL,
     .run = edge_compositions,
     .falcon_mamba = true},
    {.id = "D-06",
     .title = "calls of one and two tokens in the middle and at the end",
     .setup =
         "calls of 1 and 2 tokens behind calls of Q-1, Q and Q+1 tokens and behind each other; a snapshot is taken "
         "before each call and read after it",
     .invariant = "the row is that of one call, and every snapshot still is the row at its own moment",
     .catches = "CP4 vllm-project/vllm#56196",
     .faults = "conv_window_not_stored_in_short_calls snapshot_shares_state short_call_writes_its_source",
     .engines = EDGE_ALL,
     .run = edge_short_chunks,
     .falcon_mamba = true},
    {.id = "D-07",
     .title = "calls that end at the edge of a chunk",
     .setup = "first calls of Q-1, Q, Q+1, 2Q-1, 2Q and 2Q+1 tokens and longer ones behind them; in batches of three "
              "whose rows have different lengths, so that their chunks do not begin together",
     .invariant = "logits and memory are those of one call per row",
     .catches = "CP2 vllm-project/vllm#23279, NVIDIA/TensorRT-LLM#6334; HF2 huggingface/transformers#34817; CP5 "
                "syv-ai/qwen38-27b-rtx3090#43",
     .faults = "decay_from_wrong_origin carry_lost_at_chunk_edge decay_skipped_at_chunk_edge chunk_tail_not_zeroed "
               "state_uninitialised_at_block_edge",
     .engines = EDGE_ALL,
     .run = edge_chunk_ends,
     .falcon_mamba = true},
    {.id = "D-08",
     .title = "one call that continues, begins and decodes",
     .setup =
         "in one call a row goes on behind 130 tokens, a row says its first tokens and a row says a single one; in "
         "all three orders (on an engine of CUDA behind 34 tokens, in one order)",
     .invariant = "each row is what it is alone, before, in and after that call",
     .catches = "CP6 sgl-project/sglang#29368; PD7 ggml-org/llama.cpp#29002; CP2 vllm-project/vllm#23279; CV3 "
                "ggml-org/llama.cpp#14575",
     .faults = "initial_state_of_row_0 conv_context_of_row_before decay_from_wrong_origin keys_of_row_0 "
               "padding_row_writes_slot_0 mask_of_row_0 last_row_has_stale_slot second_half_from_zero",
     .engines = EDGE_ALL,
     .run = edge_mixed_batch,
     .falcon_mamba = true},
    {.id = "D-09",
     .title = "both sides of the lengths at which an engine changes its path",
     .setup = "4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 65, 127, 128 and 129 tokens in one call against calls of at most 65 "
              "tokens (on an engine of CUDA 4, 8, 9, 64 and 65); 8192 and 8193 are tried on single ops by D-11",
     .invariant = "logits and memory are equal within what two honest runs differ by",
     .catches = "NU7 ggml-org/llama.cpp#22675",
     .faults = "long_calls_drop_state long_prefill_in_f16",
     .engines = EDGE_ALL,
     .run = edge_path_lengths,
     .falcon_mamba = true},
    {.id = "D-10",
     .title = "no new tokens",
     .setup = "calls of no columns on new and on used caches, with and without a mask; calls whose columns are padding "
              "for one row of three, for two of them, and for all",
     .invariant = "a call of no columns is refused and leaves the cache as it was; a row whose new columns are all "
                  "padding keeps keys, values, window, state and books bit for bit",
     .catches = "PC8 JamePeng/llama-cpp-python#178; SL3 NVIDIA/TensorRT-LLM#13151; SL5b state-spaces/mamba#792; PD3 "
                "huggingface/transformers#47086",
     .faults = "stale_logits_for_nothing padding_row_writes_slot_0 padding_row_writes_last_slot "
               "mask_dropped_on_a_cache",
     .engines = EDGE_ALL,
     .run = edge_no_new_tokens,
     .falcon_mamba = true},
    {.id = "D-11",
     .title = "rows and tables beyond the indices of 16 and 32 bits",
     .setup = "scan, scan in chunks, selective scan and conv over 8192, 8193, 2^15+1, 2^16+1 and 115713 tokens (where "
              "an engine rounds "
              "8193, 2^16+1 and 115713) of one channel and one "
              "state in one "
              "call; a lookup in a table and attention to keys behind element 2^31, of which only the pages that are "
              "read exist (engines of CUDA copy what an op is given: they have the rows of 8193 and 2^16+1 tokens, of "
              "the selective scan the latter)",
     .invariant = "long rows are the truth's over blocks of 4096 tokens within the gauge; far rows and far keys give "
                  "the bits of near ones",
     .catches = "NU5b state-spaces/mamba commit f9fe50f (115713 tokens)",
     .faults = "token_index_of_16_bits element_index_of_31_bits carry_lost_at_50000",
     .engines = EDGE_ALL,
     .run = edge_long_rows,
     .falcon_mamba = true},
    {.id = "D-12",
     .title = "a call whose cache nobody keeps",
     .setup = "twelve tokens at once on a cache that is thrown away, against the same on a cache that is used for two "
              "calls; the layers that run are counted",
     .invariant = "every layer runs and changes the stream; logits and memory are equal",
     .catches = "GR5 read in source: mlx-lm d78bf58 (ml-explore/mlx-lm)",
     .faults = "only_layer_0 last_layer_skipped history_dropped",
     .engines = EDGE_ALL,
     .run = edge_thrown_away,
     .falcon_mamba = true},
    {.id = "D-13",
     .title = "the loss of a training step and of inference",
     .setup =
         "three rows of 19 tokens with an ignored label, without padding and padded on the left, with activations "
         "kept and computed again; gate before norm and norm before gate (on an engine of CUDA the last with padding)",
     .invariant =
         "the loss of the training step is that of the logits of a forward pass, as far as the order of sums in "
         "the loss tells; where training has kernels of its own, as far as two honest runs may differ",
     .catches = "HF7, HF8 read in source: transformers; MU6b unslothai/unsloth#2938; PK4 NVIDIA/Megatron-LM#3922",
     .faults = "training_forgets_attention_in_multiplier training_rounds_dt training_masks_before_in_proj_only "
               "training_ignores_norm_before_gate grad_labels_not_shifted",
     .engines = EDGE_ALL,
     .run = edge_train_and_eval,
     .falcon_mamba = true},
    {.id = "D-14",
     .title = "what is asked for does not change what is computed",
     .setup =
         "a prefill of ten tokens and a step, for the logits of all columns, of 1 and of 3, and for none, with and "
         "without a sink that looks at every tap; batches of one and of three",
     .invariant =
         "a request for all logits gives the same bits with and without a sink, a request for fewer what another "
         "order of the head's sums may give; the cache afterwards has the same bits after every request",
     .catches = "TK2 read in source: transformers; branches on use_cache and on hooks",
     .faults = "last_logits_only hook_hands_back_bf16",
     .engines = EDGE_ALL,
     .run = edge_requests,
     .falcon_mamba = true},
    {.id = NULL},
};
