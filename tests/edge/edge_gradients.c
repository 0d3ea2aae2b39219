/* D-77 to D-88: gradients. */
#include "tests/edge/edge_mixer.h"

const edge_case edge_gradients[] = {
    {.id = "D-77",
     .title = "every gradient by differences and by the complex step",
     .setup = "two rows of Q + 3 tokens, both usual models: the largest element and two others of every parameter, and all 14 "
              "multipliers, by extrapolated central differences of the f64 loss; every tensor by the complex step; the "
              "adjoint identity; scan (x, dt, B, C, A_log, D), conv, dt, both norms alone, with states before and after",
     .invariant = "central differences agree to 1e-6 of the tensor's largest gradient, multipliers to 1e-8 of their terms, the complex step to 1e-12; other "
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
     .setup = "4 heads in 2 groups, 8 and 72 channels each (kernels take up to 64 at once): the backward of the scan over "
              "2 groups and over one per head on whole numbers, and the gradients of whole models over 11 tokens",
     .invariant = "dB and dC of a group are the sums over its heads and dD is the sum of dy x over all channels, bit for bit; "
                  "every gradient is the truth's",
     .catches = "GB1 state-spaces/mamba#547 (group size missing), #827 (dD beyond the first block; a race)",
     .faults = "grad_b_and_c_last_head grad_groups_tiled grad_d_first_block grad_d_race grad_gated_norm_over_whole_width",
     .engines = EDGE_ALL,
     .run = edge_group_gradients},
    {.id = "D-81",
     .title = "slopes of softplus and of the clamp",
     .setup = "pre-activations from -50 to 90, on both sides of 2 and of 20, under the limits (0, inf), (0.01, 0.1), (0.05, 22) "
              "and (21, 60); values exactly at a limit; models with such dt_bias, with and without limits, 11 tokens",
     .invariant = "the slope is the complex step's: the sigmoid below 20, 1 above, 0 beyond a limit and 1 times it at the limit",
     .catches = "GB1 state-spaces/mamba#574, #713",
     .faults = "grad_softplus_linear_too_early grad_softplus_zero_above_20 grad_softplus_at_output grad_dt_clamp_ignored "
               "grad_dt_clamp_zero_at_limit grad_dt_clamp_of_raw",
     .engines = EDGE_ALL,
     .run = edge_dt_slopes},
    {.id = NULL},
};
