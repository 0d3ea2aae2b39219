/* Faults of Falcon-Mamba that Falcon-H1 cannot have: two halves of in_proj, norms between x_proj and the scan, a rate
 * per element of the state, a residual of its own type. Those that both can have stand in the other lists and in
 * fault_mamba.h. FH1_FAULT as there; included by fault_list.h. */

/* in_proj and conv */
FH1_FAULT(IN_PROJ_Z_BEFORE_X, "in_proj_z_before_x", "conv1d", CONV_ACT, "GR4 class", "check",
          "in_proj is read in the order z, x, as Mamba-2 and Falcon-H1 have it")
FH1_FAULT(
    CONV_RESTARTS_AT_K_TOKENS, "conv_restarts_at_k_tokens", "conv1d", CONV_ACT,
    "SR8 found by running transformers 4.57.6", "check law.split",
    "as many tokens on a cache as the conv is wide are taken for a prefill: its window is empty, the state goes on")
FH1_FAULT(
    CONV_OF_FIRST_TOKEN, "conv_of_first_token", "conv1d", CONV_ACT, "SR8 read in source: transformers 4.57",
    "check law.split",
    "several tokens on a cache take the one-token formula unless they are as many as the conv is wide: all have the "
    "first one's conv, and only that one enters the window")
FH1_FAULT(
    CONV_COLUMN_AT_POSITION, "conv_column_at_position", "conv1d_step", CONV_ACT,
    "SR8 class, found by running transformers 4.57.6", "check law.decode_prefill",
    "a step stores its column at the number of its position in the window, not at the end: wrong until the window "
    "is full")

/* norms of dt, B and C */
FH1_FAULT(MIXER_EPS_OF_LAYER_NORM, "mixer_eps_of_layer_norm", "rmsnorm", DT, "SR9 read in source: llama.cpp", "check",
          "the norms of dt, B and C take layer_norm_epsilon instead of mixer_rms_eps")
FH1_FAULT(LAYER_NORM_EPS_OF_MIXER, "layer_norm_eps_of_mixer", "rmsnorm", INPUT_LAYERNORM, "SR9 class", "check",
          "the norms of the layers take mixer_rms_eps instead of layer_norm_epsilon")
FH1_FAULT(INNER_NORMS_DROPPED, "inner_norms_dropped", "rmsnorm", DT, "SR9 class, huggingface/transformers#33195",
          "check", "dt, B and C are not normalised, as in Mamba")
FH1_FAULT(INNER_NORM_OF_DT_DROPPED, "inner_norm_of_dt_dropped", "rmsnorm", DT, "SR9 class", "check",
          "dt is not normalised")
FH1_FAULT(INNER_NORM_OF_B_DROPPED, "inner_norm_of_b_dropped", "rmsnorm", SSD, "SR9 class", "check",
          "B is not normalised")
FH1_FAULT(INNER_NORM_OF_C_DROPPED, "inner_norm_of_c_dropped", "rmsnorm", SSD, "SR9 class", "check",
          "C is not normalised")
FH1_FAULT(INNER_NORMS_TWICE, "inner_norms_twice", "rmsnorm", DT, "GR4c lablup/mlxcel#1333", "check",
          "the norms of dt, B and C are applied twice: eps counts twice")
FH1_FAULT(INNER_NORM_OVER_X_PROJ, "inner_norm_over_x_proj", "rmsnorm", DT, "GR2 class", "check",
          "one norm is taken over all of x_proj instead of one each over dt, B and C")
FH1_FAULT(DT_NORM_AFTER_DT_PROJ, "dt_norm_after_dt_proj", "rmsnorm", DT,
          "SR6 read in source: transformers, mamba_inner_fn", "check",
          "dt is normalised behind dt_proj, over all channels, as the training kernel has it")
FH1_FAULT(X_PROJ_DT_LAST, "x_proj_dt_last", "linear", DT, "GR4 class", "check", "x_proj is read in the order B, C, dt")
FH1_FAULT(DT_CLAMPED_TO_INIT_RANGE, "dt_clamped_to_init_range", "dt_softplus", DT, "HF3 class", "check",
          "dt is clamped to time_step_min and time_step_max, which are for initialisation only")

/* selective_scan */
FH1_FAULT(SELECTIVE_A_TRANSPOSED, "selective_a_transposed", "selective_scan", SSD, "NU3 class", "check lattice",
          "A_log [I, N] is read as if it were stored [N, I]")
FH1_FAULT(SELECTIVE_A_PER_CHANNEL, "selective_a_per_channel", "selective_scan", SSD, "NU3 class", "check lattice",
          "a channel has one rate, A[i, 0], as a head of Mamba-2 has")
FH1_FAULT(SELECTIVE_A_OF_CHANNEL_0, "selective_a_of_channel_0", "selective_scan", SSD, "NU3 class", "check lattice",
          "all channels decay at the rates of channel 0, as they do at initialisation")
FH1_FAULT(SELECTIVE_SCAN_RESTARTS, "selective_scan_restarts", "selective_scan", SSD,
          "SR7 found by running transformers 5.23.0", "check lattice law.split",
          "several tokens on a cache: the conv goes on from its window, the scan begins at an empty state")
FH1_FAULT(SELECTIVE_STATE_TRANSPOSED, "selective_state_transposed", "selective_scan", CACHE_SSM,
          "HF10 huggingface/transformers#47630, class", "check lattice law.decode_prefill",
          "a prefill stores the state as [N, I], which is read as [I, N]")
FH1_FAULT(D_IN_BF16_IN_STEPS, "d_in_bf16_in_steps", "selective_scan", SSD,
          "SR8 class, read in source: transformers 4.57", "check law.decode_prefill",
          "one-token steps take D rounded to bf16")
FH1_FAULT(GATE_BEFORE_D, "gate_before_d", "gated_norm", GATED, "GR4 class", "check",
          "the gate multiplies the scan before D times x is added")

/* a residual in f32 */
FH1_FAULT(NORM_READS_WIDE_RESIDUAL, "norm_reads_wide_residual", "rmsnorm", INPUT_LAYERNORM, "NU class", "check",
          "a bf16 pipeline with its residual in f32 does not round it in front of the norm of a layer")
FH1_FAULT(LAST_NORM_READS_ROUNDED_RESIDUAL, "last_norm_reads_rounded_residual", "rmsnorm", FINAL_LAYERNORM, "NU class",
          "check", "a residual in f32 is rounded to bf16 in front of the last norm, as in front of the others")

/* backward */
FH1_FAULT(GRAD_INNER_NORM_JACOBIAN_DROPPED, "grad_inner_norm_jacobian_dropped", "rmsnorm", X_PROJ,
          "SR6 read in source: the training kernels of transformers", "gradient",
          "the gradients of dt, B and C pass their norms as if these were not there")
FH1_FAULT(GRAD_INNER_NORM_CONSTANT, "grad_inner_norm_constant", "rmsnorm", X_PROJ, "class GB1", "gradient",
          "the norms of dt, B and C are taken for a constant factor")
FH1_FAULT(GRAD_A_LOG_OF_FIRST_STATE, "grad_a_log_of_first_state", "selective_scan", SSD, "class GB1", "gradient",
          "of a channel's A_log only the first state's has a gradient")
FH1_FAULT(GRAD_X_WITHOUT_X_PROJ, "grad_x_without_x_proj", "linear", X_PROJ, "class GB1", "gradient",
          "x gets the gradient of the scan alone, not that of dt, B and C through x_proj")
