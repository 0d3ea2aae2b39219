/* Faults of backward passes inside the mixer, as fault_list_gradient.h. */

/* conv1d */
FH1_FAULT(GRAD_CONV_SLOPE_IS_SIGMOID, "grad_conv_slope_is_sigmoid", "conv1d", CONV_ACT, "class GB1", "gradient",
          "silu' of the conv is σ(u), without the term u·σ(u)·(1 - σ(u))")
FH1_FAULT(GRAD_CONV_TAPS_REVERSED, "grad_conv_taps_reversed", "conv1d", CONV_ACT, "class GB1", "gradient",
          "dx of the conv reads the taps in the order of the forward, k where K-1-k is meant")
FH1_FAULT(GRAD_CONV_WEIGHT_SHIFTED, "grad_conv_weight_shifted", "conv1d", CONV_ACT,
          "GB2 Dao-AILab/causal-conv1d#117, class", "gradient",
          "the gradient of tap k of the conv is summed over the column one to the left")
FH1_FAULT(GRAD_CONV_LEAKS_DOCUMENTS, "grad_conv_leaks_documents", "conv1d", CONV_ACT,
          "GB1 state-spaces/mamba#746, class", "gradient", "dx of the conv reaches into the document before")
FH1_FAULT(GRAD_CONV_BIAS_AFTER_SILU, "grad_conv_bias_after_silu", "conv1d", CONV_ACT, "class GB1", "gradient",
          "the gradient of the conv's bias sums dy, not dy·silu'(u)")
FH1_FAULT(GRAD_CONV_WINDOW_OUT_IGNORED, "grad_conv_window_out_ignored", "conv1d", CONV_ACT, "class GB1", "gradient",
          "what a later call reads from the conv window gives nothing back to this call's columns")
FH1_FAULT(GRAD_CONV_WINDOW_DROPPED, "grad_conv_window_dropped", "conv1d", CONV_ACT, "class GB1", "gradient",
          "the window before the call gets no gradient")

/* dt_softplus */
FH1_FAULT(GRAD_DT_CLAMP_IGNORED, "grad_dt_clamp_ignored", "dt_softplus", DT, "class GB1", "gradient",
          "the clamp of dt lets every gradient through, as with the bracket on the clamped value")
FH1_FAULT(GRAD_DT_CLAMP_ZERO_AT_LIMIT, "grad_dt_clamp_zero_at_limit", "dt_softplus", DT, "class GB1", "gradient",
          "a dt that equals its limit before the clamp gets no gradient")
FH1_FAULT(GRAD_DT_CLAMP_OF_RAW, "grad_dt_clamp_of_raw", "dt_softplus", DT, "class GB1", "gradient",
          "the bracket of the clamp looks at the value before softplus")
FH1_FAULT(GRAD_SOFTPLUS_LINEAR_TOO_EARLY, "grad_softplus_linear_too_early", "dt_softplus", DT,
          "GB1 state-spaces/mamba#574, class", "gradient", "softplus' is 1 above 2 instead of above 20")
FH1_FAULT(GRAD_SOFTPLUS_ZERO_ABOVE_20, "grad_softplus_zero_above_20", "dt_softplus", DT,
          "GB1 state-spaces/mamba#574, class", "gradient", "softplus' is 0 where softplus is the identity, above 20")
FH1_FAULT(GRAD_SOFTPLUS_AT_OUTPUT, "grad_softplus_at_output", "dt_softplus", DT, "GB1 state-spaces/mamba#574, class",
          "gradient", "softplus' is the sigmoid of dt, not of the value before softplus")
FH1_FAULT(GRAD_DT_BIAS_AVERAGED, "grad_dt_bias_averaged", "dt_softplus", DT, "class GB1", "gradient",
          "the gradient of dt_bias is the mean over the tokens, not the sum")

/* ssd_scan */
FH1_FAULT(GRAD_B_DECAY_MISSING, "grad_b_decay_missing", "ssd_scan", SSD, "GB1 state-spaces/mamba#746", "gradient",
          "with documents, what dB gets from later tokens is not decayed on the way from the next one")
FH1_FAULT(GRAD_B_AND_C_LAST_HEAD, "grad_b_and_c_last_head", "ssd_scan", SSD, "GB1a state-spaces/mamba#547, class",
          "gradient", "dB and dC are not summed over the heads of a group: the last head wins")
FH1_FAULT(GRAD_GROUPS_TILED, "grad_groups_tiled", "ssd_scan", SSD, "class GB1", "gradient",
          "the backward of head i reads and feeds group i mod G")
FH1_FAULT(GRAD_B_WITHOUT_DT, "grad_b_without_dt", "ssd_scan", SSD, "class GB1", "gradient",
          "dB is not multiplied by dt")
FH1_FAULT(GRAD_C_FROM_STATE_BEFORE, "grad_c_from_state_before", "ssd_scan", SSD, "class GB3", "gradient",
          "dC reads the state before its token")
FH1_FAULT(GRAD_X_WITHOUT_SKIP, "grad_x_without_skip", "ssd_scan", SSD, "class GB1", "gradient", "dx lacks D·dy")
FH1_FAULT(GRAD_D_FIRST_BLOCK, "grad_d_first_block", "ssd_scan", SSD, "GB1b state-spaces/mamba#827", "gradient",
          "dD is summed over the first half of a head's channels only")
FH1_FAULT(GRAD_D_RACE, "grad_d_race", "ssd_scan", SSD, "GB1 state-spaces/mamba#827", "gradient",
          "every second token's addition to dD is lost, as when two blocks write at once")
FH1_FAULT(GRAD_DT_DECAY_DROPPED, "grad_dt_decay_dropped", "ssd_scan", SSD, "GB1 state-spaces/mamba#537, class",
          "gradient", "the gradient of dt lacks its path through the decay exp(dt·A)")
FH1_FAULT(GRAD_DT_INPUT_DROPPED, "grad_dt_input_dropped", "ssd_scan", SSD, "class GB1", "gradient",
          "the gradient of dt lacks its path through the input dt·x")
FH1_FAULT(GRAD_A_LOG_WITHOUT_A, "grad_a_log_without_a", "ssd_scan", SSD, "GB1 state-spaces/mamba#537, class",
          "gradient", "the gradient of A_log is that of A, not multiplied by A")
FH1_FAULT(GRAD_STATE_AFTER, "grad_state_after", "ssd_scan", SSD, "GB3 huggingface/transformers#29514", "gradient",
          "the gradient of the decay reads S_t where S_{t-1} is meant")
FH1_FAULT(GRAD_CARRY_CROSSES_DOCUMENTS, "grad_carry_crosses_documents", "ssd_scan", SSD,
          "GB1 state-spaces/mamba#746, class", "gradient",
          "the gradient of the state runs on, backwards, into the document before")
FH1_FAULT(GRAD_DECAY_CROSSES_DOCUMENTS, "grad_decay_crosses_documents", "ssd_scan", SSD,
          "GB1 state-spaces/mamba#746, class", "gradient",
          "the first token of a document has a gradient of its decay, by the state of the document before")
FH1_FAULT(GRAD_INITIAL_STATE_LOST, "grad_initial_state_lost", "ssd_scan", SSD, "class GB1", "gradient",
          "the state before the call gets no gradient")
FH1_FAULT(GRAD_FINAL_STATE_IGNORED, "grad_final_state_ignored", "ssd_scan", SSD, "class GB1", "gradient",
          "the gradient by the state after the call is not read")
FH1_FAULT(GRAD_CARRY_DROPPED_AT_CHUNK_EDGE, "grad_carry_dropped_at_chunk_edge", "ssd_scan", SSD, "class GB1",
          "gradient", "no gradient passes backwards from one chunk of 16 tokens to the one before")
FH1_FAULT(GRAD_OTHER_CHUNK_LENGTH, "grad_other_chunk_length", "ssd_scan", SSD,
          "GB4 axolotl-ai-cloud/axolotl#1889, NVIDIA/Megatron-LM#5463", "gradient",
          "the states of a chunk are computed again from the checkpoint of another chunk length")

/* gated_norm */
FH1_FAULT(GRAD_GATED_NORM_OVER_WHOLE_WIDTH, "grad_gated_norm_over_whole_width", "gated_norm", GATED,
          "GB1c state-spaces/mamba#547", "gradient",
          "the mean in the gradient of the gated norm divides by d, not by d/G")
FH1_FAULT(GRAD_GATED_NORM_CONSTANT, "grad_gated_norm_constant", "gated_norm", GATED, "class GB1", "gradient",
          "the gated norm is taken for a constant")
FH1_FAULT(GRAD_GATE_SLOPE_IS_SIGMOID, "grad_gate_slope_is_sigmoid", "gated_norm", GATED, "class GB1", "gradient",
          "silu' of the gate is σ(z), without the term z·σ(z)·(1 - σ(z))")
FH1_FAULT(GRAD_GATE_AND_NORM_SWAPPED, "grad_gate_and_norm_swapped", "gated_norm", GATED, "class GB1", "gradient",
          "the backward norms before the gate where the forward gates first, and the other way round")
FH1_FAULT(GRAD_GATED_WEIGHT_WITHOUT_NORM, "grad_gated_weight_without_norm", "gated_norm", GATED, "class GB1",
          "gradient", "the gradient of the gated norm's weight takes what goes into the norm, not what comes out")
FH1_FAULT(GRAD_GATE_FROM_NORMALISED, "grad_gate_from_normalised", "gated_norm", GATED, "class GB1", "gradient",
          "gate first: dz reads y divided by the norm; norm first: y as it came in")
