/* Padding and masks: wherever padding stands and whatever it holds, a row computes what it computes alone. */
#include "tests/edge/edge_padding.h"

#include <stdio.h>

/* ---- D-15: padding left by around the window and the chunk ---- */

static fh1_status padded_left(edge_run *r)
{
    static const int64_t pads[] = {1, 2, 3, 4, 7, 8, 9};
    enum { N = sizeof pads / sizeof *pads };
    char text[2 * N][96];
    edge_plan plans[2 * N + 3] = {{.calls = NULL}};
    int n = 0;
    for (int i = 0; i < N; ++i) {
        const long long p = (long long)pads[i];
        snprintf(text[n], sizeof text[n], "p%lldl:%lld;d1;c3", 6 + p, p);
        plans[n] = (edge_plan){.calls = text[n], .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 7};
        ++n;
        snprintf(text[n], sizeof text[n], "p%lldx3l:%lld,%lld,0;d1;c3", 6 + p, p / 2, p);
        plans[n] = (edge_plan){.calls = text[n], .looks = ~0ull, .engines = EDGE_REFERENCE};
        ++n;
    }
    plans[n++] = (edge_plan){.calls = "p12x3l:3,0,8;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA};
    plans[n++] = (edge_plan){.calls = "p7l:3;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA};
    return edge_plans_all(r, plans);
}

/* ---- D-19 … D-23 ---- */

static fh1_status right_then_decode(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p9r:3;d4", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3r:4,0,9;d4", .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 11},
        {.calls = "p17x3r:1,9,8;d3", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3r:4,0,9;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p6r:3;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

static fh1_status state_behind_right_padding(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p8r:1", .engines = EDGE_REFERENCE},
        {.calls = "p17r:8", .engines = EDGE_REFERENCE},
        {.calls = "p40r:31", .engines = EDGE_REFERENCE},
        {.calls = "p17x3r:9,8,7", .engines = EDGE_REFERENCE, .pad_id = 3},
        {.calls = "p6x3;c11r:10,8,0", .engines = EDGE_REFERENCE},
        {.calls = "p17x3r:9,8,7", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p17r:8", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* Real lengths on both sides of K-1 = 3, in a first call and behind one. */
static fh1_status window_behind_right_padding(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p2r:1;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p4r:2;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p6r:3;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p9r:5;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p5x3r:4,3,2;c4r:3,2,1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p8x3;c3r:2,1,0;d1", .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 2},
        {.calls = "p5x3r:4,3,2;c3r:2,1,0", .looks = ~0ull, .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p4r:2;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

static fh1_status padded_continuation(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p6x3;c7l:1,0,3", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p6x3l:2,0,1;c7l:1,0,3;c5r:0,2,1;d1", .looks = ~0ull, .engines = EDGE_REFERENCE, .pad_id = 4},
        {.calls = "p8x3r:1,0,5;c9l:0,8,2r:3,0,0;c2l:1,0,0;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p5;c6l:2;c4r:1;d1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p6x3l:2,0,1;c7l:1,0,3;c5r:0,2,1", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p3;c4l:2", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* A row padded left, one padded right and one not at all, in every order. */
static fh1_status both_sides(edge_run *r)
{
    const edge_plan plans[] = {
        {.calls = "p12x3l:4,0,0r:0,7,0;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3l:4,0,0r:0,0,7;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3l:0,4,0r:7,0,0;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3l:0,4,0r:0,0,7;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3l:0,0,4r:7,0,0;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3l:0,0,4r:0,7,0;d2", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x4l:4,3,0,0r:0,6,7,0;c3l:0,2,0,1r:2,0,0,1", .looks = ~0ull, .engines = EDGE_REFERENCE},
        {.calls = "p12x3l:4,0,0r:0,7,0;c2", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = "p8x3l:0,0,4r:7,0,2;d1", .engines = EDGE_CUDA_HOST | EDGE_CUDA},
        {.calls = NULL},
    };
    return edge_plans_all(r, plans);
}

/* ---- the chapter ---- */

const edge_case edge_padding[] = {
    {.id = "D-15",
     .title = "padding on the left",
     .setup = "rows padded left by 1, 2, 3, 4, Q-1, Q and Q+1 columns, alone and in a batch of three that are padded "
              "differently; then a step and a call of three tokens",
     .invariant = "logits of real tokens, keys, values, window and state are those of the row without padding",
     .catches = "PD1 huggingface/transformers#32677; PD2 huggingface/transformers#41790; HF9, SR5 read in source: "
                "transformers",
     .faults = "mask_ignored mask_for_batches_only mask_one_early mask_one_late pads_not_masked_after_conv "
               "in_proj_bias_at_left_pads mask_inverted",
     .engines = EDGE_ALL,
     .run = padded_left,
     .falcon_mamba = true},
    {.id = "D-16",
     .title = "any id at padding",
     .setup = "three rows padded left, on both sides and in a second call also in between; every id of the vocabulary "
              "at the padding in turn (on an engine of CUDA the first and the last)",
     .invariant = "logits of real tokens and the cache have the same bits",
     .catches = "PD1 state-spaces/mamba#66; embeddings of padding that reach attention or a state",
     .faults = "mask_ignored mask_one_early mask_dropped_on_a_cache length_of_the_batch",
     .engines = EDGE_ALL,
     .run = edge_pad_ids,
     .falcon_mamba = true},
    {.id = "D-17",
     .title = "NaN and 1e30 in the embedding of the padding id",
     .setup = "the rows of D-16 after the embedding of the padding id was overwritten by NaN, by 1e30 and by infinity "
              "(untied head; on an engine of CUDA by NaN)",
     .invariant = "everything is finite and has the bits of the clean model",
     .catches = "masks that multiply by zero, which keeps a NaN; PD1 huggingface/transformers#32677",
     .faults = "padding_times_zero mask_ignored mask_dropped_on_a_cache",
     .engines = EDGE_ALL,
     .run = edge_pad_embeddings,
     .falcon_mamba = true},
    {.id = "D-18",
     .title = "the state before the first token",
     .setup =
         "rows of nothing but 1, 2, 3, 4, Q-1, Q or Q+1 columns of padding, alone and beside others, in models with "
         "bias in conv (and in in_proj); then their first tokens, in the same call and in later ones",
     .invariant = "window and state are exactly zero before the first token, and afterwards those of the row alone",
     .catches = "HF8 read in source: transformers; HF15 read in source: transformers 4.57 to 5.23",
     .faults = "pads_not_masked_after_conv in_proj_bias_at_left_pads mask_ignored padding_row_writes_slot_0",
     .engines = EDGE_ALL,
     .run = edge_zero_before_first,
     .falcon_mamba = true},
    {.id = "D-19",
     .title = "padding on the right, then steps",
     .setup = "a call padded right by 1 to 9 columns, alone and in a batch of three, then up to four steps",
     .invariant = "the logits of every step are those of the row without padding",
     .catches = "PD4 huggingface/transformers#48256; HF16 found by running transformers 4.57 to 5.23",
     .faults = "conv_window_at_right_pads state_decays_over_right_pads cache_after_last_column mask_ignored",
     .engines = EDGE_ALL,
     .run = right_then_decode,
     .falcon_mamba = true},
    {.id = "D-20",
     .title = "the state behind padding on the right",
     .setup = "1, Q-1, Q, Q+1 and 31 columns of padding behind 7, 8, 9 and 10 tokens, in a first call and behind one",
     .invariant = "the state is that after the last real token: nothing decays over the tail",
     .catches = "PD4b huggingface/transformers#48256; HF16 found by running transformers 4.57 to 5.23",
     .faults = "state_decays_over_right_pads cache_after_last_column length_of_the_batch",
     .engines = EDGE_ALL,
     .run = state_behind_right_padding,
     .falcon_mamba = true},
    {.id = "D-21",
     .title = "the window behind padding on the right",
     .setup = "1 to 5 columns of padding behind 1, 2, 3 and 4 tokens (K-1 is 3), in a first call and behind one",
     .invariant = "the window holds the last K-1 real columns, behind zeros where there are fewer",
     .catches = "PD4a huggingface/transformers#48256",
     .faults = "conv_window_at_right_pads cache_after_last_column length_of_the_batch conv_window_left_aligned",
     .engines = EDGE_ALL,
     .run = window_behind_right_padding,
     .falcon_mamba = true},
    {.id = "D-22",
     .title = "padding in a call that continues",
     .setup =
         "several calls of several tokens on one cache, with padding on either side in some rows of the second and "
         "the third",
     .invariant = "each row is what it is alone",
     .catches = "PD3 huggingface/transformers#47086",
     .faults = "mask_dropped_on_a_cache mask_of_row_0 length_of_the_batch positions_restart_in_continued_prefill",
     .engines = EDGE_ALL,
     .run = padded_continuation,
     .falcon_mamba = true},
    {.id = "D-23",
     .title = "left, right and no padding in one batch",
     .setup =
         "a row padded left, one padded right and one without, in all six orders, and four rows with a second call "
         "(on an engine of CUDA two orders)",
     .invariant = "each row is what it is alone, wherever it stands in the batch",
     .catches = "PD5a ml-explore/mlx-lm#1736, #1908; PD7 ggml-org/llama.cpp#29002",
     .faults = "right_padding_ignored_beside_left conv_context_of_row_before mask_of_row_0 positions_of_row_0",
     .engines = EDGE_ALL,
     .run = both_sides,
     .falcon_mamba = true},
    {.id = "D-24",
     .title = "another neighbour",
     .setup = "one row beside neighbours of other words, and of lengths from 1 to 30 tokens",
     .invariant = "with neighbours of the same lengths the row has the same bits whatever they say; with others it is "
                  "what it is alone",
     .catches = "PD5b Blaizzy/mlx-vlm#1946; PD2 huggingface/transformers#41790; CP6 sgl-project/sglang#29368",
     .faults = "length_of_the_batch keys_of_row_0 initial_state_of_row_0 gate_of_row_0 mask_ignored",
     .engines = EDGE_ALL,
     .run = edge_neighbour,
     .falcon_mamba = true},
    {.id = "D-25",
     .title = "a hole in the mask",
     .setup =
         "a second call in which one row has padding between two tokens, of one and more columns at every place, and "
         "one whose mask calls a token of the past padding; and padding that ends one call and begins the next",
     .invariant = "a hole is refused and the cache stays as it was: there is no half mask; padding between calls gives "
                  "the row alone",
     .catches = "HF11 read in source: transformers; PD3 huggingface/transformers#47086",
     .faults = "mask_ignored mask_dropped_on_a_cache hole_masked_in_attention_only length_of_the_batch",
     .engines = EDGE_ALL,
     .run = edge_hole,
     .falcon_mamba = true},
    {.id = "D-26",
     .title = "what stands in a mask",
     .setup =
         "mask values 2, -1, 255, the smallest integer, 2^32, 2^32+1 and the bits of floats, at new columns and at "
         "past ones; a mask of ones; trace files whose mask is I64, I32, U8, BOOL, F32, F64, or additive with -inf "
         "or the lowest float; documents in a batch",
     .invariant =
         "0 and 1 in I64 are read, anything else is refused with the cache as it was; ones mean the same as no "
         "mask, bit for bit; document numbers are no factors",
     .catches = "HF11 read in source: transformers (a 2 in the mask doubles activations)",
     .faults = "mask_read_as_boolean mask_read_in_32_bits file_mask_cast_to_integers document_ids_scale_the_mixer "
               "mask_ignored",
     .engines = EDGE_ALL,
     .run = edge_mask_values,
     .falcon_mamba = true},
    {.id = "D-27",
     .title = "a row of nothing but padding",
     .setup = "two rows of six tokens and a step, and the same with a third row at each place that has nothing but "
              "padding in both calls",
     .invariant = "logits are finite everywhere, window and state of the empty row stay zero, and the other rows have "
                  "the bits that they have without it (on an engine of CUDA, where the number of rows chooses the "
                  "kernels, they are what they are alone)",
     .catches = "AT3 pytorch/pytorch#103749; SL3 NVIDIA/TensorRT-LLM#13151; SL5b state-spaces/mamba#792",
     .faults = "empty_row_is_nan padding_row_writes_slot_0 padding_row_writes_last_slot mask_ignored",
     .engines = EDGE_ALL,
     .run = edge_empty_row,
     .falcon_mamba = true},
    {.id = "D-28",
     .title = "queries that see nothing",
     .setup = "attention of six queries over nine keys of which three queries see none, a step that sees none, and a "
              "step whose scores are all at the lower end of f32's range, forward and backward (the first two on the "
              "reference: kernels of CUDA get packed tokens, of which each sees itself); a training batch with and "
              "without a row of nothing but padding",
     .invariant =
         "outputs and gradients are finite; those of a query that sees nothing are exactly zero and what is "
         "handed back to it reaches no key; equal scores give the mean of the values, however low they are; a row "
         "of padding moves no bit of loss and gradients",
     .catches = "AT3 pytorch/pytorch#103749, huggingface/transformers#26572, unslothai/unsloth#9848",
     .faults = "blind_by_adding_minus_infinity softmax_without_max padding_has_labels",
     .engines = EDGE_ALL,
     .run = edge_blind_queries,
     .falcon_mamba = true},
    {.id = "D-29",
     .title = "causality in both branches",
     .setup =
         "36 tokens of which each in turn is replaced (on an engine of CUDA three of them); the outputs of attention "
         "and of the mixer in every layer, and the logits",
     .invariant = "nothing before the changed token moves by a bit; from it on both branches move",
     .catches = "AT1 osaurus vmlx-swift#185, pytorch/pytorch#108108",
     .faults = "attention_not_causal causal_mask_shows_next first_key_not_seen sliding_window conv_looks_ahead",
     .engines = EDGE_ALL,
     .run = edge_causality,
     .falcon_mamba = true},
    {.id = "D-30",
     .title = "the length of a mask",
     .setup = "a second call with a mask of the new columns alone, of one column less than all, of the past alone, of "
              "none and of one too many; and steps and calls with masks over padding of the past",
     .invariant =
         "a mask counts all columns from the first call on; any other length is refused and the cache stays as "
         "it was; with the right one rows are what they are alone",
     .catches = "AT2b huggingface/optimum-intel#1908; CP1 huggingface/transformers#46741",
     .faults = "decode_sees_new_key_only continued_call_sees_new_keys_only short_mask_filled_with_ones mask_ignored",
     .engines = EDGE_ALL,
     .run = edge_mask_length,
     .falcon_mamba = true},
    {.id = NULL},
};
