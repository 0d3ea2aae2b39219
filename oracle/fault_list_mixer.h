/* Faults of in_proj's multipliers, conv1d, dt, scan and gate. FH1_FAULT(id, name, op, tap, source, caught_by, what);
 * included by fault_list.h. "XX class": no thread of its own, the family of that id in the catalogue of bugs. */

/* multipliers of the mixer */
FH1_FAULT(MUP_Z_DROPPED, "mup_z_dropped", "gated_norm", GATED, "MU1 huggingface/transformers#38320", "check",
          "the gate z is not multiplied by ssm_multipliers[0]")
FH1_FAULT(MUP_X_DROPPED, "mup_x_dropped", "conv1d", CONV_ACT, "MU1 huggingface/transformers#38320", "check",
          "x is not multiplied by ssm_multipliers[1]")
FH1_FAULT(MUP_B_DROPPED, "mup_b_dropped", "conv1d", CONV_ACT, "MU1 huggingface/transformers#38320", "check",
          "B is not multiplied by ssm_multipliers[2]")
FH1_FAULT(MUP_C_DROPPED, "mup_c_dropped", "conv1d", CONV_ACT, "MU1 huggingface/transformers#38320", "check",
          "C is not multiplied by ssm_multipliers[3]")
FH1_FAULT(MUP_DT_DROPPED, "mup_dt_dropped", "dt_softplus", DT, "MU1 huggingface/transformers#38320", "check",
          "dt is not multiplied by ssm_multipliers[4]")
FH1_FAULT(MUP_ALL_ONES, "mup_all_ones", "conv1d", CONV_ACT, "MU1a huggingface/transformers#38320", "check",
          "none of the five ssm_multipliers is applied")
FH1_FAULT(MUP_TWICE, "mup_twice", "conv1d", CONV_ACT, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "the ssm_multipliers are folded into weights that have them already")
FH1_FAULT(MUP_ROUNDED_TO_BF16, "mup_rounded_to_bf16", "conv1d", CONV_ACT,
          "HF18, MU9 read in source: transformers 4.57 to 5.23", "check",
          "an f32 engine holds the ssm_multipliers rounded to bf16")
FH1_FAULT(MUP_UNINITIALISED, "mup_uninitialised", "conv1d", CONV_ACT, "HF6 huggingface/transformers#48892", "check",
          "the buffer of the ssm_multipliers is never filled")
FH1_FAULT(MUP_Z_X_SWAPPED, "mup_z_x_swapped", "conv1d", CONV_ACT, "MU1 class", "check",
          "the multipliers of z and x change places")
FH1_FAULT(MUP_B_C_SWAPPED, "mup_b_c_swapped", "conv1d", CONV_ACT, "MU1 class", "check",
          "the multipliers of B and C change places")
FH1_FAULT(MUP_AFTER_CONV, "mup_after_conv", "conv1d", CONV_ACT, "MU1 class", "check",
          "the multipliers of x, B and C are applied to the output of the conv")
FH1_FAULT(IN_PROJ_X_BEFORE_Z, "in_proj_x_before_z", "conv1d", CONV_ACT, "MU1 class", "check",
          "in_proj is read in the order x, z, B, C, dt")
FH1_FAULT(IN_PROJ_C_BEFORE_B, "in_proj_c_before_b", "conv1d", CONV_ACT, "MU1 class", "check",
          "in_proj is read in the order z, x, C, B, dt")
FH1_FAULT(IN_PROJ_SPLIT_EVENLY, "in_proj_split_evenly", "conv1d", CONV_ACT, "GR3 vllm-project/vllm#13660", "check",
          "two ranks take one half of in_proj's rows each, whatever segments they belong to")
FH1_FAULT(SSM_IN_DROPPED, "ssm_in_multiplier_dropped", "linear", IN_PROJ, "MU1a huggingface/transformers#38320",
          "check", "the input of in_proj is not multiplied by ssm_in_multiplier")
FH1_FAULT(SSM_IN_TWICE, "ssm_in_multiplier_twice", "linear", IN_PROJ, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "ssm_in_multiplier is folded into weights that have it already")
FH1_FAULT(SSM_IN_BEFORE_NORM, "ssm_in_multiplier_before_norm", "linear", IN_PROJ,
          "MU7a NVIDIA-NeMo/Megatron-Bridge#4845", "check",
          "ssm_in_multiplier is applied to the input of the norm, which cancels it")
FH1_FAULT(SSM_IN_ON_RESIDUAL, "ssm_in_multiplier_on_residual", "linear", IN_PROJ,
          "MU7a NVIDIA-NeMo/Megatron-Bridge#4845", "check",
          "ssm_in_multiplier scales the residual stream instead of the input of in_proj")
FH1_FAULT(SSM_OUT_DROPPED, "ssm_out_multiplier_dropped", "residual", MID, "MU1 class", "check",
          "the mixer branch is not multiplied by ssm_out_multiplier")
FH1_FAULT(SSM_OUT_TWICE, "ssm_out_multiplier_twice", "residual", MID, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "ssm_out_multiplier is folded into weights that have it already")

/* conv */
FH1_FAULT(CONV_TAPS_REVERSED, "conv_taps_reversed", "conv1d", CONV_ACT,
          "CV1b state-spaces/mamba commit e097613, ekryski/mlx-swift-lm#218", "check",
          "the first tap meets the newest column")
FH1_FAULT(CONV_OFF_BY_ONE, "conv_off_by_one", "conv1d", CONV_ACT, "CV1 state-spaces/mamba commit e097613", "check",
          "each tap meets the column before its own")
FH1_FAULT(CONV_BIAS_DROPPED, "conv_bias_dropped", "conv1d", CONV_ACT, "CV1 class", "check",
          "the bias of the conv is not added")
FH1_FAULT(CONV_WITHOUT_SILU, "conv_without_silu", "conv1d", CONV_ACT, "HF4 huggingface/transformers#47532", "check",
          "the output of the conv is not activated")
FH1_FAULT(CONV_STEP_WITHOUT_SILU, "conv_step_without_silu", "conv1d_step", CONV_ACT,
          "HF4b huggingface/transformers#47452", "check",
          "in one-token steps the bias stands in the place of the activation: no silu")
FH1_FAULT(CONV_SILU_FIRST, "conv_silu_first", "conv1d", CONV_ACT, "CV1 class", "check",
          "silu is applied to the columns before the conv instead of after it")
FH1_FAULT(CONV_STRIDE_OF_FOUR, "conv_stride_of_four", "conv1d", CONV_ACT, "CV2 ggml-org/llama.cpp#23015", "check",
          "the taps of a channel are looked for 4 elements after those of the one before, whatever K is")
FH1_FAULT(CONV_LEAKS_DOCUMENTS, "conv_leaks_documents", "conv1d", CONV_ACT,
          "PK1b axolotl-ai-cloud/axolotl#3572, PK3 state-spaces/mamba commit 8ffd905", "check law.packing",
          "taps reach back into the document before")
FH1_FAULT(CONV_CONTEXT_OF_ROW_BEFORE, "conv_context_of_row_before", "conv1d", CONV_ACT, "PD7 ggml-org/llama.cpp#29002",
          "check law.batch_mate", "the conv of a row takes its left context from the end of the row before")
FH1_FAULT(CONV_WINDOW_FIRST_COLUMNS, "conv_window_first_columns", "conv1d", CACHE_CONV,
          "CV1a state-spaces/mamba commit e097613", "check law.decode_prefill",
          "the window keeps the first K-1 columns of a prefill")
FH1_FAULT(CONV_WINDOW_POST_CONV, "conv_window_post_conv", "conv1d", CACHE_CONV, "SL5a state-spaces/mamba#1027",
          "check law.decode_prefill", "the window keeps columns as they are after conv and silu")
FH1_FAULT(CONV_WINDOW_ONE_SHORT, "conv_window_one_short", "conv1d", CACHE_CONV, "CV1 vllm-project/vllm#56196",
          "check law.decode_prefill", "the window ends one column before the last one")
FH1_FAULT(CONV_WINDOW_READ_AS_K, "conv_window_read_as_k", "conv1d", CONV_ACT, "HF10b huggingface/transformers#44950",
          "check law.decode_prefill",
          "a window of K-1 columns is read as one of K: everything in it seems one column older")
FH1_FAULT(CONV_WINDOW_LEFT_ALIGNED, "conv_window_left_aligned", "conv1d", CACHE_CONV,
          "CV1c fla-org/flash-linear-attention#1140", "check law.split",
          "after a call shorter than K-1 its columns stand at the left of the window, with no zeros before them")
FH1_FAULT(CONV_WINDOW_NOT_STORED_IN_SHORT_CALLS, "conv_window_not_stored_in_short_calls", "conv1d", CACHE_CONV,
          "CP4 vllm-project/vllm#56196", "check law.split",
          "a call of several tokens that is shorter than K-1 writes its window elsewhere: this one stays")
FH1_FAULT(CONV_WINDOW_FROZEN_IN_STEPS, "conv_window_frozen_in_steps", "conv1d_step", CACHE_CONV,
          "SP2a ekryski/mlx-swift-lm#218", "check law.decode_prefill", "one-token steps do not move the window on")
FH1_FAULT(CONV_WINDOW_AT_RIGHT_PADS, "conv_window_at_right_pads", "conv1d", CACHE_CONV,
          "PD4a huggingface/transformers#48256", "check law.padding_right",
          "after right padding the window holds the last K-1 columns, padding included")
FH1_FAULT(CONV_BIAS_AT_LEFT_PADS, "in_proj_bias_at_left_pads", "conv1d", CONV_ACT,
          "HF15 read in source: transformers 4.57 to 5.23", "check law.padding_left",
          "the bias of in_proj at left padding enters the window of the first real tokens")

/* dt */
FH1_FAULT(DT_BIAS_DROPPED, "dt_bias_dropped", "dt_softplus", DT, "NU4 class", "check", "dt_bias is not added")
FH1_FAULT(DT_BIAS_TWICE, "dt_bias_twice", "dt_softplus", DT, "NU4 class", "check",
          "dt_bias is added by the caller and by the kernel")
FH1_FAULT(DT_BIAS_AFTER_SOFTPLUS, "dt_bias_after_softplus", "dt_softplus", DT, "NU4 class", "check",
          "dt_bias is added to the softplus, not to its argument")
FH1_FAULT(SOFTPLUS_MISSING, "softplus_missing", "dt_softplus", DT, "NU4 class", "check",
          "dt + dt_bias is used as it is")
FH1_FAULT(SOFTPLUS_IS_EXP, "softplus_is_exp", "dt_softplus", DT, "NU4 class", "check",
          "exp stands in the place of softplus")
FH1_FAULT(SOFTPLUS_LINEAR_TOO_EARLY, "softplus_linear_too_early", "dt_softplus", DT, "NU4 state-spaces/mamba#574",
          "check", "softplus is the identity from 2 on, not from 20")
FH1_FAULT(DT_IN_BF16, "dt_in_bf16", "dt_softplus", DT, "HF5 read in source: transformers; PK4 NVIDIA/Megatron-LM#3922",
          "check", "softplus and its argument are rounded to bf16")
FH1_FAULT(DT_NOT_CLAMPED, "dt_not_clamped", "dt_softplus", DT, "HF3 ml-explore/mlx-lm#1026", "check",
          "time_step_limit is ignored (where that is known: --variant no_dt_limit, in steps only decode_no_dt_limit)")
FH1_FAULT(DT_NOT_CLAMPED_IN_STEPS, "dt_not_clamped_in_steps", "dt_softplus", DT, "HF3b huggingface/transformers#48989",
          "check law.decode_prefill",
          "one-token steps ignore time_step_limit (where that is known: --variant decode_no_dt_limit)")
FH1_FAULT(DT_CLAMPED_IN_STEPS_ONLY, "dt_clamped_in_steps_only", "dt_softplus", DT, "HF3 class",
          "check law.decode_prefill", "calls of several tokens ignore time_step_limit")
FH1_FAULT(DT_CLAMPED_AT_TIME_STEP_MIN, "dt_clamped_at_time_step_min", "dt_softplus", DT,
          "HF3a huggingface/transformers#48989, ml-explore/mlx-lm#1026", "check",
          "the lower limit is 0.001 (time_step_min) instead of time_step_limit[0]")
FH1_FAULT(DT_CLAMPED_BEFORE_SOFTPLUS, "dt_clamped_before_softplus", "dt_softplus", DT, "HF3 class", "check",
          "time_step_limit holds for the argument of softplus")
FH1_FAULT(DT_OF_FIRST_TOKEN, "dt_of_first_token", "dt_softplus", DT, "CP1b huggingface/transformers#46741",
          "check law.split", "several tokens on a cache take the one-token branch: all have the first one's dt")

/* scan: what an update is made of */
FH1_FAULT(A_NOT_NEGATED, "a_not_negated", "ssd_scan", SSD, "NU3 class", "check", "A is exp(A_log): states grow")
FH1_FAULT(A_LOG_NOT_EXPONENTIATED, "a_log_not_exponentiated", "ssd_scan", SSD, "NU3 class", "check", "A is -A_log")
FH1_FAULT(A_LOG_IN_BF16, "a_log_in_bf16", "ssd_scan", SSD, "NU3 state-spaces/mamba commit 1e6aa5e", "check",
          "A_log is rounded to bf16")
FH1_FAULT(A_IN_BF16_IN_PREFILL, "a_in_bf16_in_prefill", "ssd_scan", SSD, "NU3 read in source: mlx-lm",
          "check law.decode_prefill", "-exp(A_log) is rounded to bf16 in calls of several tokens, not in steps")
FH1_FAULT(DECAY_WITHOUT_DT, "decay_without_dt", "ssd_scan", SSD, "NU3 class", "check lattice",
          "a state decays by exp(A) per token, whatever dt is")
FH1_FAULT(INPUT_WITHOUT_DT, "input_without_dt", "ssd_scan", SSD, "NU3 class", "check lattice",
          "x enters the state without the factor dt")
FH1_FAULT(DT_STALE_AT_ONE_TOKEN, "dt_stale_at_one_token", "ssd_scan", SSD, "CP1 class",
          "check lattice law.decode_prefill", "the fourth token of a call is scanned with the dt of the third")
FH1_FAULT(D_DROPPED, "d_dropped", "ssd_scan", SSD, "GB1 state-spaces/mamba commit 52ba2d7", "check",
          "D times x is not added")
FH1_FAULT(D_ON_SCALED_INPUT, "d_on_scaled_input", "ssd_scan", SSD, "GB1 state-spaces/mamba commit 52ba2d7",
          "check lattice", "D multiplies x after its scaling by dt")
FH1_FAULT(D_OF_NEXT_HEAD, "d_of_next_head", "ssd_scan", SSD, "GB1 state-spaces/mamba commit 52ba2d7", "check",
          "each head takes the D of the next one")
FH1_FAULT(GROUPS_TILED, "groups_tiled", "ssd_scan", SSD,
          "GR1 ggml-org/llama.cpp#15625, MU1b huggingface/transformers#38320", "check lattice",
          "head i reads B and C of group i mod G")
FH1_FAULT(GROUP_0_FOR_ALL, "group_0_for_all", "ssd_scan", SSD, "GR1 class", "check lattice",
          "all heads read B and C of group 0")
FH1_FAULT(B_AND_C_SWAPPED, "b_and_c_swapped", "ssd_scan", SSD, "GR1 class", "check lattice",
          "B reads the state and C writes it")
FH1_FAULT(Y_READS_STATE_BEFORE, "y_reads_state_before", "ssd_scan", SSD, "GB3 class", "check lattice",
          "an output reads the state before its token's update")

/* scan: how a state is carried */
FH1_FAULT(CARRY_LOST_AT_CHUNK_EDGE, "carry_lost_at_chunk_edge", "ssd_scan", SSD,
          "HF2 huggingface/transformers#34817, #47246", "check lattice law.decode_prefill law.split",
          "each chunk of 16 tokens starts from an empty state")
FH1_FAULT(CARRY_LOST_AT_50000, "carry_lost_at_50000", "ssd_scan", SSD, "HF2 class", "horizon",
          "the state is emptied once, before token 50 000 of a scan")
FH1_FAULT(SECOND_HALF_FROM_ZERO, "second_half_from_zero", "ssd_scan", SSD, "CV3 ggml-org/llama.cpp#14575",
          "check lattice law.split", "a call is cut in two halves and the second one starts from an empty state")
FH1_FAULT(LONG_CALLS_DROP_STATE, "long_calls_drop_state", "ssd_scan", SSD, "NU7 ggml-org/llama.cpp#22675",
          "check lattice law.split", "calls of more than four tokens take a branch that ignores the incoming state")
FH1_FAULT(HISTORY_DROPPED, "history_dropped", "conv1d", CONV_ACT, "CP1a huggingface/transformers#46741, #46084",
          "check law.split", "several tokens on a cache start from an empty window and an empty state")
FH1_FAULT(DECAY_SKIPPED_AT_CHUNK_EDGE, "decay_skipped_at_chunk_edge", "ssd_scan", SSD, "HF2 class",
          "check lattice law.decode_prefill", "the first token of a chunk of 16 does not decay the state")
FH1_FAULT(DECAY_FROM_WRONG_ORIGIN, "decay_from_wrong_origin", "ssd_scan", SSD,
          "CP2 vllm-project/vllm#23279, NVIDIA/TensorRT-LLM#6334", "check law.batch_mate",
          "the state of a row decays over the tokens of the rows before it that share its chunk")
FH1_FAULT(DECAY_SUMS_IN_F16, "decay_sums_in_f16", "ssd_scan", SSD, "NU6 unslothai/unsloth-zoo#211", "check",
          "the sums of dt A over a chunk are held in f16")
FH1_FAULT(DECAY_ABOVE_DIAGONAL, "decay_above_diagonal", "ssd_scan", SSD, "NU5a state-spaces/mamba commit 2e16fc3",
          "check", "exponents of later tokens are evaluated too and multiplied by 0: inf times 0")
FH1_FAULT(CHUNK_TAIL_NOT_ZEROED, "chunk_tail_not_zeroed", "ssd_scan", CACHE_SSM,
          "NU5c state-spaces/mamba commit bb3a82a, CP7 kekzl/imp#104", "check lattice law.decode_prefill",
          "the padded tail of the last chunk of 16 repeats the last token and enters the state")
FH1_FAULT(LAST_TOKEN_NOT_IN_STATE, "last_token_not_in_state", "ssd_scan", CACHE_SSM, "PC6 class",
          "check law.decode_prefill", "a prefill stores the state before its last token")
FH1_FAULT(STATE_NOT_STORED_BY_PREFILL, "state_not_stored_by_prefill", "ssd_scan", CACHE_CONV,
          "SR11 read in source: unsloth", "check law.decode_prefill", "a prefill leaves window and state empty")
FH1_FAULT(STATE_TRANSPOSED, "state_transposed", "ssd_scan", CACHE_SSM, "HF10 huggingface/transformers#47630",
          "check law.decode_prefill", "a prefill stores the state as [H, N, P], which is read as [H, P, N]")
FH1_FAULT(SCAN_LEAKS_DOCUMENTS, "scan_leaks_documents", "ssd_scan", SSD,
          "PK1a NovaSky-AI/SkyRL#2056, SR3 read in source: transformers", "check lattice law.packing",
          "the conv is cut at the borders of documents, the state is not")
FH1_FAULT(DOC_RESET_BY_8, "doc_reset_by_8", "ssd_scan", SSD, "PK1 class", "check law.packing",
          "a document begins with log-decay -8 where -80 was meant: 3.4e-4 of the state before it stays")
FH1_FAULT(MIXER_LEAKS_DOCUMENTS, "mixer_leaks_documents", "conv1d", CONV_ACT, "PK1 axolotl-ai-cloud/axolotl#3572",
          "check law.packing", "the mixer is not told of documents at all")
FH1_FAULT(STATE_UNINITIALISED_AT_BLOCK_EDGE, "state_uninitialised_at_block_edge", "ssd_scan", SSD,
          "CP5 syv-ai/qwen38-27b-rtx3090#43", "check law.split",
          "a call that goes on over the edge of a block of 8 tokens starts from memory that nobody filled")
FH1_FAULT(INITIAL_STATE_OF_ROW_0, "initial_state_of_row_0", "ssd_scan", SSD, "CP6 sgl-project/sglang#29368",
          "check law.batch_mate", "several tokens on a cache start from the state of row 0 in every row")
FH1_FAULT(LAST_ROW_HAS_STALE_SLOT, "last_row_has_stale_slot", "ssd_scan", CONV_ACT, "SL2a vllm-project/vllm#42947",
          "check law.padding_left law.reorder",
          "in one-token steps the last row works on the window and state of row 0")
FH1_FAULT(LAYERS_SHARE_STATE, "layers_share_state", "ssd_scan", CACHE_SSM,
          "PC3 vllm-project/vllm#34874, SL4 NVIDIA-NeMo/Megatron-Bridge#4367", "check",
          "every layer works on the state of the first one")
FH1_FAULT(PADDING_ROW_WRITES_SLOT_0, "padding_row_writes_slot_0", "ssd_scan", CACHE_CONV,
          "SL3 NVIDIA/TensorRT-LLM#13151", "check law.state_of_padding",
          "a row of nothing but padding writes its window and state to slot 0")
FH1_FAULT(PADDING_ROW_WRITES_LAST_SLOT, "padding_row_writes_last_slot", "ssd_scan", CONV_ACT,
          "SL5b state-spaces/mamba#792", "check", "the slot -1 of a row of padding wraps around to the last one")
FH1_FAULT(PADS_NOT_MASKED_AFTER_CONV, "pads_not_masked_after_conv", "ssd_scan", SSD,
          "HF8, SR5 read in source: transformers; PD1 huggingface/transformers#32677", "check law.padding_left",
          "left padding is masked before in_proj only: the bias of the conv enters the state there")
FH1_FAULT(STATE_DECAYS_OVER_RIGHT_PADS, "state_decays_over_right_pads", "ssd_scan", CACHE_SSM,
          "PD4b huggingface/transformers#48256", "check law.padding_right",
          "dt is not masked at right padding: the state decays over it")
FH1_FAULT(CACHE_AFTER_LAST_COLUMN, "cache_after_last_column", "ssd_scan", CACHE_CONV,
          "HF16 found by running transformers 4.57 to 5.23", "check law.padding_right",
          "window and state are those after the last column, not after the last real token")

/* scan: precision */
FH1_FAULT(STATE_IN_BF16, "state_in_bf16", "ssd_scan", SSD, "NU1 vllm-project/vllm#13466", "check",
          "the state is rounded to bf16 after every token")
FH1_FAULT(STATE_IN_F16, "state_in_f16", "ssd_scan", SSD, "NU1 ggml-org/llama.cpp#16982", "check",
          "the state is rounded to f16 after every token")
FH1_FAULT(STATE_STORED_IN_BF16, "state_stored_in_bf16", "ssd_scan", CACHE_SSM, "NU1 NVIDIA/TensorRT-LLM#14600",
          "check law.split", "the state is rounded to bf16 at the end of every call")
FH1_FAULT(Y_READS_ROUNDED_STATE, "y_reads_rounded_state", "ssd_scan", SSD, "NU2 vllm-project/vllm#48578", "check",
          "an output reads the state rounded to bf16")
FH1_FAULT(SCAN_SUMS_IN_BF16, "scan_sums_in_bf16", "ssd_scan", SSD, "NU1 class", "check",
          "the sum of state times C is rounded to bf16 after every term")

/* gate */
FH1_FAULT(GATE_OPERANDS_SWAPPED, "gate_operands_swapped", "gated_norm", GATED, "GR4 class", "check lattice",
          "silu is applied to the scan output and z multiplies it")
FH1_FAULT(GATE_IS_SIGMOID, "gate_is_sigmoid", "gated_norm", GATED, "GR4 class", "check lattice",
          "the gate is sigmoid of z instead of silu of z")
FH1_FAULT(GATE_IN_BF16, "gate_in_bf16", "gated_norm", GATED, "GR4 vllm-project/vllm#18500", "check",
          "without a norm silu of z is rounded to bf16")
FH1_FAULT(GATE_OF_ROW_0, "gate_of_row_0", "gated_norm", GATED,
          "HF4a huggingface/transformers#47532, SR1 read in source: transformers", "check law.padding_left law.reorder",
          "a length axis too many: in one-token steps the gate of row 0 broadcasts over the batch")
FH1_FAULT(GATED_NORM_ALTHOUGH_OFF, "gated_norm_although_off", "gated_norm", GATED, "GR4a vllm-project/vllm#18500",
          "check", "the gated norm is applied although mamba_rms_norm is false")
FH1_FAULT(GATED_NORM_MISSING, "gated_norm_missing", "gated_norm", GATED, "GR4 class", "check",
          "the gated norm is left out although mamba_rms_norm is true")
FH1_FAULT(GATED_NORM_TWICE, "gated_norm_twice", "gated_norm", GATED, "GR4c lablup/mlxcel#1333", "check lattice",
          "norm and weight are applied twice")
FH1_FAULT(GATED_NORM_OVER_WHOLE_WIDTH, "gated_norm_over_whole_width", "gated_norm", GATED,
          "GR2 osaurus vmlx-swift#188, state-spaces/mamba#910", "check lattice",
          "the mean square is taken over all channels instead of those of a group")
FH1_FAULT(GATED_NORM_WEIGHT_DROPPED, "gated_norm_weight_dropped", "gated_norm", GATED, "GR2 class", "check",
          "the weight of the gated norm is not applied")
FH1_FAULT(GATED_NORM_WEIGHT_OF_GROUP_0, "gated_norm_weight_of_group_0", "gated_norm", GATED,
          "GR3 vllm-project/vllm#55091", "check lattice", "every group takes the weights of group 0")
FH1_FAULT(GATED_NORM_EPS_OUTSIDE_ROOT, "gated_norm_eps_outside_root", "gated_norm", GATED, "SR9 class", "check",
          "eps is added to the root instead of the mean square")
FH1_FAULT(GATED_NORM_EPS_MISSING, "gated_norm_eps_missing", "gated_norm", GATED, "SR9 class", "check",
          "eps is not added")
FH1_FAULT(NORM_BEFORE_GATE_INVERTED, "norm_before_gate_inverted", "gated_norm", GATED,
          "HF7 read in source: transformers", "check", "the norm comes first where mamba_norm_before_gate is false")
FH1_FAULT(NORM_BEFORE_GATE_IGNORED, "norm_before_gate_ignored", "gated_norm", GATED, "HF7 read in source: transformers",
          "check", "the gate comes first whatever mamba_norm_before_gate says")
