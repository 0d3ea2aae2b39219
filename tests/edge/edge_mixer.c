/* D-64 to D-76: the numbers of the mixer as caches and taps show them. */
#include "tests/edge/edge_mixer.h"

const edge_case edge_mixer[] = {
    {.id = "D-64",
     .title = "each multiplier doubled",
     .setup = "each of the 14 multipliers doubled in the config, in turn, on both usual models: P(9)+D(1)+P(2), beside "
              "the same model "
              "with the weights doubled that it acts on",
     .invariant = "logits, keys, values, window and state have the same bits on both roads, since a doubling is exact; "
                  "every tap of the doubled model is the truth's; each doubling moves the true logits by more than "
                  "0.1 %, attention_in included",
     .catches = "MU1 huggingface/transformers#38320, MU2 ml-explore/mlx-lm#1622, MU4 ml-explore/mlx-swift-lm#368, MU5 "
                "linkedin/Liger-Kernel#1477, MU6 unslothai/unsloth#2938, MU7 NVIDIA-NeMo/Megatron-Bridge#4845, MU8 "
                "NVIDIA-NeMo/Automodel#2589, HF6 huggingface/transformers#48892",
     .faults =
         "mup_all_ones mup_twice mup_uninitialised mup_dt_dropped ssm_in_multiplier_dropped "
         "ssm_in_multiplier_before_norm "
         "ssm_out_multiplier_dropped key_multiplier_dropped key_multiplier_on_queries embedding_multiplier_dropped "
         "embedding_and_head_multipliers_swapped head_multiplier_dropped attention_in_multiplier_dropped "
         "values_without_attention_in_multiplier attention_multipliers_mixed_up attention_out_multiplier_dropped "
         "mlp_multipliers_dropped gate_multiplier_after_silu mup_rounded_to_bf16",
     .engines = EDGE_ALL,
     .run = edge_multipliers_doubled},
    {.id = "D-65",
     .title = "the order z, x, B, C, dt",
     .setup = "five different ssm_multipliers: powers of two, in the config or in the rows of in_proj; the usual ones, "
              "right and with each two of them exchanged",
     .invariant = "config and rows give the same bits; the right engine passes at every tap, and one with two of them "
                  "exchanged (z and x: on every engine) does not",
     .catches = "MU1 class: a port that lists in_proj as x, z, B, C, dt; huggingface/transformers#38320",
     .faults = "mup_z_x_swapped mup_b_c_swapped in_proj_x_before_z in_proj_c_before_b mup_after_conv mup_all_ones",
     .engines = EDGE_ALL,
     .run = edge_multipliers_ordered},
    {.id = "D-66",
     .title = "two and four groups of B and C",
     .setup =
         "8 heads in 2 and in 4 groups, with and without the gated norm, one row and three: P(11)+D(2); and the same "
         "model written with one group per head, B and C copied to the heads of their group",
     .invariant =
         "every tap is the truth's; both ways to write the model give the same logits, keys, values and states, "
         "and copies dealt out in turn (head i from group i mod G) do not",
     .catches = "GR1 ggml-org/llama.cpp#15625, MU1b huggingface/transformers#38320: groups tiled, not interleaved",
     .faults = "groups_tiled group_0_for_all b_and_c_swapped gated_norm_weight_of_group_0",
     .engines = EDGE_ALL,
     .run = edge_groups},
    {.id = "D-67",
     .title = "the gated norm: per group, before and after the gate",
     .setup = "1, 2, 4 and 8 groups, norm first or gate first, no norm: P(9)+D(2) with three rows; the op over 2 and 8 "
              "groups "
              "beside one call per group, whose sizes differ by powers of two",
     .invariant =
         "only the configured form passes: the norm on the other side of the gate is rejected, and a mean over "
         "the whole width differs from those of the groups by more than is allowed",
     .catches = "GR2 osaurus vmlx-swift#188, state-spaces/mamba#908, #910, #916, #951, ggml-org/llama.cpp#15507; HF7 "
                "read in source: transformers; GR4 vllm-project/vllm#18500; SR1 read in source: transformers",
     .faults = "gated_norm_over_whole_width gated_norm_weight_of_group_0 norm_before_gate_inverted "
               "norm_before_gate_ignored gated_norm_missing gated_norm_although_off gated_norm_twice gate_of_row_0 "
               "gate_operands_swapped gated_norm_eps_outside_root",
     .engines = EDGE_ALL,
     .run = edge_gated_norm},
    {.id = "D-68",
     .title = "extremes of dt and of A_log",
     .setup = "32 heads: pre-activations -50, -20, 0, 19.9, 20, 20.1, 50 and 90 times A_log -10, 0, 5 and 10: "
              "softplus, then "
              "the scan, chunks of 3 and steps over 5 tokens, from a state of ones with and without inputs; a model "
              "with these "
              "as dt_bias and A_log, P(19)+D(2), three rows",
     .invariant =
         "everything is finite; a decay that is 1 to rounding keeps the state in every bit and one below exp(-746) "
         "leaves 0; every tap of the model is the truth's",
     .catches =
         "NU4 state-spaces/mamba#574: softplus without its threshold; NU5 state-spaces/mamba commit 2e16fc3: inf "
         "times 0 above the diagonal; NU6 unslothai/unsloth-zoo#211",
     .faults =
         "softplus_overflows softplus_linear_too_early softplus_is_exp softplus_missing a_not_negated "
         "a_log_not_exponentiated decay_without_dt decay_above_diagonal decay_sums_in_f16 dt_in_bf16 dt_bias_twice",
     .engines = EDGE_ALL,
     .run = edge_dt_extremes},
    {.id = "D-69",
     .title = "time_step_limit in prefill and decode",
     .setup =
         "limits (0.01, 0.1), (0, 0.05) and (0, inf), dt of the heads from 0.002 to 0.2, on both usual models: F(21) "
         "beside P(9)+D(12), and P(9)+D(3)+P(4) with three rows",
     .invariant = "both ways give the same logits, keys, values, window and state, every tap is the truth's, and steps "
                  "that forget the limits do not",
     .catches = "HF3 huggingface/transformers#48989, ml-explore/mlx-lm#1026, NVIDIA-NeMo/Nemotron#142; decode kernels "
                "without a limit: read in source, transformers",
     .faults = "dt_not_clamped dt_not_clamped_in_steps dt_clamped_in_steps_only dt_clamped_at_time_step_min "
               "dt_clamped_before_softplus dt_of_first_token",
     .engines = EDGE_ALL,
     .run = edge_dt_limits},
    {.id = "D-70",
     .title = "4096 steps with a state in f32, bf16, f16 and int8",
     .setup = "4096 decode steps (96 on cuda) of four heads with horizons of 5 to 5000 tokens and one-signed inputs; "
              "after each "
              "the state is stored in f32, bf16, f16, or int8 with a scale per row, to nearest and stochastically from "
              "a fixed seed; 8 runs of each stochastic one",
     .invariant = "at every step state and outputs stay under the curve of the contract: its gauge, plus half a "
                  "spacing of the stored type a "
                  "step that may repeat, or a noise of at most a quarter spacing squared; the mean of the stochastic "
                  "runs is off by no more than the noise over their number; the same seed gives the same bits",
     .catches = "NU1 vllm-project/vllm#13466, #27264, NVIDIA/TensorRT-LLM#14600, flashinfer-ai/flashinfer#2645, "
                "sgl-project/sglang#26929, vllm-project/vllm#40012, ggml-org/llama.cpp#16982",
     .faults = "state_in_bf16 state_in_f16 y_reads_rounded_state scan_sums_in_bf16 stochastic_rounds_to_nearest "
               "int8_scale_of_the_first_step state_truncated",
     .engines = EDGE_ALL,
     .run = edge_state_types},
    {.id = "D-71",
     .title = "the rounding point of the state",
     .setup =
         "three tokens in one scan and in steps, with decays of exactly 1, products of few bits and states of 13 bits, "
         "so that every sum is exact; under every profile on ref-bf16, under the engine's own contract and cuda-bf16 "
         "elsewhere",
     .invariant = "outputs have the very bits that the declared points give (read from the rounded state, or from the "
                  "unrounded one "
                  "and rounded once), by a second reading of the formula; states are kept unrounded",
     .catches = "NU2 vllm-project/vllm#48578: the kernel's test reference had the other rounding point",
     .faults = "y_reads_rounded_state state_in_bf16 scan_sums_in_bf16 reference_reads_unrounded_state",
     .engines = EDGE_ALL,
     .run = edge_rounding_point},
    {.id = "D-72",
     .title = "-exp(A_log) in prefill and decode",
     .setup =
         "slow heads whose rates are no bf16 numbers: a state that only decays, over 24 tokens in one scan, in chunks "
         "of 8 and in steps; both usual models with such heads, P(25)+D(4)",
     .invariant =
         "the state is the same in both phases, to the error of exp in f32, and every tap is the truth's; A in "
         "bf16 in one phase is not",
     .catches = "NU3 state-spaces/mamba commit 1e6aa5e; read in source: mlx-lm",
     .faults = "a_in_bf16_in_prefill a_log_in_bf16 decay_without_dt",
     .engines = EDGE_ALL,
     .run = edge_decay_precision},
    {.id = "D-73",
     .title = "D per head and per channel",
     .setup =
         "scan, chunks of 4 and single steps over 11 tokens from a given state: heads of one channel with a D for "
         "each, "
         "beside heads of 6 channels with one D, and beside a scan without a skip with D x added outside; the usual "
         "model, P(9)+D(2)",
     .invariant =
         "both forms of D give the same outputs in prefill and in steps; one D for channels that differ does not",
     .catches = "GB1 state-spaces/mamba#827 and commit 52ba2d7: D with a head dimension in the step",
     .faults = "d_dropped d_on_scaled_input d_of_next_head",
     .engines = EDGE_ALL,
     .run = edge_skip_forms},
    {.id = "D-74",
     .title = "batches of 1, of N, of N shuffled",
     .setup =
         "a row alone and as row 1 of 2, 0 and 2 of 3 and 2 of 4: P(9)+D(2); ragged rows in another order; neighbours "
         "of other words and paddings; both usual models",
     .invariant = "logits, keys, values, window and state of the row are the same, to what sums over another number of "
                  "rows may be off by",
     .catches =
         "vllm-project/vllm#38561; SR1 and HF4 huggingface/transformers#47532: a length axis that broadcasts over "
         "the batch; CP6 sgl-project/sglang#29368; PD7 ggml-org/llama.cpp#29002; CP2 vllm-project/vllm#23279; SL2 "
         "vllm-project/vllm#42947",
     .faults = "gate_of_row_0 last_row_has_stale_slot initial_state_of_row_0 conv_context_of_row_before "
               "decay_from_wrong_origin keys_of_row_0 mask_of_row_0 positions_of_row_0",
     .engines = EDGE_ALL,
     .run = edge_batch_sizes},
    {.id = "D-75",
     .title = "tensor parallelism over 2 and 4 ranks",
     .setup = "the mixer of a layer from in_proj to out_proj by the engine's ops, each rank with its part of the five "
              "segments of "
              "in_proj, of the conv, of the heads and of the columns of out_proj: 1, 2 and 4 groups, split over the "
              "ranks or "
              "replicated, with and without the gated norm; a group that spans ranks is gathered before its norm",
     .invariant = "gated outputs, and the sum of the ranks' outputs, are those of one rank that holds all",
     .catches = "GR3 vllm-project/vllm#13660, #55091; GR2 state-spaces/mamba#908, #951; MU8 NVIDIA-NeMo/Automodel#2589",
     .faults =
         "rank_takes_an_even_share_of_in_proj replicated_group_by_modulo spread_group_normed_per_rank "
         "norm_over_the_whole_rank bias_of_out_proj_on_every_rank in_proj_split_evenly gated_norm_weight_of_group_0",
     .engines = EDGE_ALL,
     .run = edge_tensor_parallel},
    {.id = "D-76",
     .title = "logits to keep: 0, 1, k, and by index",
     .setup = "three rows, one padded left and one right, 9 columns and then 5 more: 0 (all, as transformers means "
              "it), 1, 2, 4 and "
              "9 columns of logits; the tap of the logits, which names the tokens it was computed for",
     .invariant =
         "the kept ones are the last columns of the full logits, none from padding; keys, values, window and state "
         "do not depend on them by one bit; every row of the tap is that of the token it names",
     .catches = "TK2 read in source: transformers (num_logits_to_keep)",
     .faults = "last_logits_only logits_one_position_late keep_0_is_none keeps_the_first_columns",
     .engines = EDGE_ALL,
     .run = edge_logits_kept},
    {.id = NULL},
};
