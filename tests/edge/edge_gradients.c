/* D-77 to D-88: gradients. */
#include "tests/edge/edge_mixer.h"

const edge_case edge_gradients[] = {
    {.id = "D-77",
     .title = "every gradient by differences and by the complex step",
     .setup =
         "two rows of Q + 3 tokens, both usual models: the largest element and another of every parameter of the "
         "second, and all 14 "
         "multipliers, by extrapolated central differences of the f64 loss; every tensor by the complex step; the "
         "adjoint identity; scan (x, dt, B, C, A_log, D), conv, dt, both norms alone, with states before and after",
     .invariant = "central differences agree to 1e-6 of the tensor's largest gradient, multipliers to 1e-8 of their "
                  "terms, the complex step to 1e-12; other "
                  "engines stay within the spread of their contract's own pipeline",
     .catches = "GB1 state-spaces/mamba#537, #547, #574, #746, #834; GB3 huggingface/transformers#29514, #29563; MU7b "
                "NVIDIA-NeMo/Megatron-Bridge#4845: a norm whose two readers diverge",
     .faults = "grad_state_after grad_dt_decay_dropped grad_dt_input_dropped grad_a_log_without_a grad_x_without_skip "
               "grad_c_from_state_before grad_conv_weight_shifted grad_conv_taps_reversed grad_gated_norm_constant "
               "grad_norm_constant grad_shared_norm_of_the_mixer_only grad_dt_bias_averaged grad_b_without_dt "
               "grad_gate_slope_is_sigmoid grad_mup_of_x_b_c_dropped grad_weight_transposed",
     .engines = EDGE_ALL,
     .run = edge_differences},
    {.id = "D-78",
     .title = "two groups, heads narrower and wider than a block",
     .setup =
         "4 heads in 2 groups, 8 and 72 channels each (kernels take up to 64 at once): the backward of the scan over "
         "2 groups and over one per head on whole numbers, and the gradients of whole models over 11 tokens",
     .invariant =
         "dB and dC of a group are the sums over its heads and dD is the sum of dy x over all channels, bit for bit; "
         "every gradient is the truth's",
     .catches = "GB1 state-spaces/mamba#547 (group size missing), #827 (dD beyond the first block; a race)",
     .faults =
         "grad_b_and_c_last_head grad_groups_tiled grad_d_first_block grad_d_race grad_gated_norm_over_whole_width",
     .engines = EDGE_ALL,
     .run = edge_group_gradients},
    {.id = "D-79",
     .title = "two documents, the loss of one",
     .setup = "two rows of 13 tokens, document A of 6 and of 3 tokens, then B; A has words of its own and no label "
              "counts in "
              "it; both usual models",
     .invariant =
         "the gradient by the words of A is exactly zero, that by the words of B is not; every gradient is the truth's",
     .catches = "GB1 state-spaces/mamba#746; PK1 axolotl-ai-cloud/axolotl#3572; PK2 NovaSky-AI/SkyRL#2056",
     .faults =
         "grad_carry_crosses_documents grad_decay_crosses_documents grad_conv_leaks_documents grad_b_decay_missing "
         "scan_leaks_documents conv_leaks_documents documents_ignored_in_attention",
     .engines = EDGE_ALL,
     .run = edge_documents_apart},
    {.id = "D-80",
     .title = "dy that is zero, at the last token only, strided, broadcast",
     .setup = "derivatives of the logits: all zero; NaN in padding rows; random; a loss of the last token alone; dy "
              "with a row "
              "stride of its own and one row for all tokens (fh1_bwd_ops and dlogits take dense arrays only: both are "
              "gathered first); both usual models, two rows of 11",
     .invariant = "no derivative gives no gradient at all; padding rows are not read; a bias gets the sum of its "
                  "column, whatever the "
                  "layout was; the adjoint identity and every gradient hold",
     .catches = "GB2 fla-org/flash-linear-attention#871, #955, #1140; state-spaces/mamba#834",
     .faults = "grad_linear_last_row_lost dy_read_as_contiguous grad_bias_averaged grad_weight_overwritten "
               "grad_loss_ignored_rows_kept",
     .engines = EDGE_ALL,
     .run = edge_upstream},
    {.id = "D-81",
     .title = "slopes of softplus and of the clamp",
     .setup = "pre-activations from -50 to 90, on both sides of 2 and of 20, under the limits (0, inf), (0.01, 0.1), "
              "(0.05, 22) "
              "and (21, 60); values exactly at a limit; models with such dt_bias, with and without limits, 11 tokens",
     .invariant =
         "the slope is the complex step's: the sigmoid below 20, 1 above, 0 beyond a limit and 1 times it at the limit",
     .catches = "GB1 state-spaces/mamba#574, #713",
     .faults =
         "grad_softplus_linear_too_early grad_softplus_zero_above_20 grad_softplus_at_output grad_dt_clamp_ignored "
         "grad_dt_clamp_zero_at_limit grad_dt_clamp_of_raw",
     .engines = EDGE_ALL,
     .run = edge_dt_slopes},
    {.id = "D-82",
     .title = "rows shorter than the conv",
     .setup = "rows of 1, 2 and 3 tokens with 4 taps, in one left-padded batch with labels, and each alone with random "
              "derivatives of its logits; both usual models",
     .invariant = "every gradient is finite and the truth's, and <Jv, w> = <v, J'w>",
     .catches = "GB2 fla-org/flash-linear-attention#1140, Dao-AILab/causal-conv1d#117",
     .faults = "grad_conv_weight_shifted grad_conv_taps_reversed grad_conv_slope_is_sigmoid grad_conv_bias_after_silu",
     .engines = EDGE_ALL,
     .run = edge_short_rows},
    {.id = "D-83",
     .title = "states before and after in the loss",
     .setup = "the backward of the scan over 11 tokens in one call and as 4 + 7, on whole numbers with decays of 1, "
              "the last state "
              "in the loss or not; scan, conv and attention with what was before them",
     .invariant = "two calls that hand the gradient of the state over give the bits of one; the gradient of the last "
                  "state reaches "
                  "the first whole; window, state and past keys get the truth's gradient",
     .catches = "GB2 fla-org/flash-linear-attention#1138; GB3 huggingface/transformers#29514, #29563",
     .faults = "grad_initial_state_lost grad_final_state_ignored grad_conv_window_out_ignored grad_conv_window_dropped "
               "grad_past_keys_dropped grad_state_after",
     .engines = EDGE_ALL,
     .run = edge_states_in_loss},
    {.id = "D-84",
     .title = "large negative sums and masked segments",
     .setup = "dt_bias -20 to 90 times A_log -1 and 5, so that sums over a chunk go far below -1000, with documents "
              "that begin "
              "inside chunks: two rows of 19 tokens, forward and backward",
     .invariant = "nothing is NaN: every tap and every gradient is finite and the truth's",
     .catches = "state-spaces/mamba#352, #353; NU5 state-spaces/mamba commit 2e16fc3: inf times 0; NU6 "
                "unslothai/unsloth-zoo#211",
     .faults = "decay_above_diagonal decay_sums_in_f16 grad_carry_dropped_at_chunk_edge grad_decay_crosses_documents",
     .engines = EDGE_ALL,
     .run = edge_segment_sums},
    {.id = "D-85",
     .title = "the gradient of left padding",
     .setup = "rows with 0, 4 and 7 columns of padding on the left of 11, the first real token's label ignored, "
              "padding with a "
              "word of its own, and with another; both usual models",
     .invariant = "the gradient by the embedding of padding is exactly zero and no gradient depends on its id by one "
                  "bit; a label "
                  "that padding would predict is refused",
     .catches = "HF8, SR5 read in source: transformers; PD1 huggingface/transformers#32677; PD2 "
                "huggingface/transformers#41790",
     .faults = "mask_not_handed_to_backward mask_one_column_early pads_not_masked_after_conv",
     .engines = EDGE_ALL,
     .run = edge_pad_gradients},
    {.id = "D-86",
     .title = "adapters on every projection",
     .setup = "pairs of rank 2 on q, k, v, o, in_proj, out_proj, gate, up and down of every layer, both usual models, "
              "two rows "
              "of 11 tokens; the same with W + s B A in the place of W; P(9)+D(2) with the adapters. (A conv has no "
              "pair of low "
              "rank in any engine here: its own gradient is in D-77 and D-82.)",
     .invariant = "every tensor of every adapter has a gradient, finite and not zero, and it is the truth's; what the "
                  "gradient of the "
                  "merged weight says of both factors is the same; every tap of the forward pass is the truth's",
     .catches = "LO1 tiiuae/Falcon-H1#13, huggingface/peft#2274, #2556, #2562; LO3 read in source: unsloth; LO4 "
                "huggingface/peft#3554; LO5 vllm-project/vllm#55193; MU6 unslothai/unsloth#2938",
     .faults =
         "grad_out_proj_adapter_not_seen grad_lora_a_without_scale grad_lora_b_without_scale grad_lora_input_dropped "
         "targets_pass_mamba_over grad_gate_without_multiplier grad_down_multiplier_dropped "
         "grad_attention_in_multiplier_dropped grad_weights_from_unscaled_input",
     .engines = EDGE_ALL,
     .run = edge_adapter_gradients},
    {.id = "D-87",
     .title = "recomputation on and off",
     .setup = "activations of all layers kept, or each layer computed again from its input: two rows of 21 tokens, "
              "left padding, "
              "documents that begin inside chunks; both usual models",
     .invariant = "the loss and every gradient have the same bits, and are the truth's",
     .catches = "GB4 NVIDIA/Megatron-LM#5463, #4496, axolotl-ai-cloud/axolotl#1889",
     .faults = "grad_checkpoints_in_bf16 grad_other_chunk_length grad_carry_dropped_at_chunk_edge",
     .engines = EDGE_ALL,
     .run = edge_recomputed},
    {.id = "D-88",
     .title = "lm_head_multiplier in the loss",
     .setup =
         "lm_head_multiplier 0.0390625, 0.25 and 1 on both usual models: as it is, doubled with half of the head's "
         "weights, and (powers "
         "of two) in the weight of the final norm, as losses do that scale what goes into the head; the loss as a tap",
     .invariant = "loss and gradients have the same bits on all ways, but for the factors of the weights that were "
                  "scaled; both are "
                  "the truth's",
     .catches = "MU5 linkedin/Liger-Kernel#1477, meta-pytorch/torchtune#1875; SR12 read in source: unsloth (an honest "
                "variant)",
     .faults = "loss_without_head_multiplier loss_not_shifted loss_shifted_twice loss_counts_ignored loss_summed "
               "grad_head_multiplier_dropped grad_labels_not_shifted grad_loss_divisor_counts_ignored "
               "grad_loss_label_0_without_onehot",
     .engines = EDGE_ALL,
     .run = edge_head_in_loss},
    {.id = NULL},
};
