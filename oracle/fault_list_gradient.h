/* Faults of backward passes outside the mixer, of the whole model's and of the training step. FH1_FAULT(id, name, op,
 * tap, source, caught_by, what); included by fault_list.h. `tap` is the output of the op whose backward is wrong;
 * caught_by is "gradient". "class XX": no thread of its own, the family of that id in the catalogue of bugs. */

/* embed */
FH1_FAULT(GRAD_EMBED_DUPLICATES_OVERWRITE, "grad_embed_duplicates_overwrite", "embed", EMBED, "class GB1", "gradient",
          "a token that occurs again overwrites the gradient of its row instead of adding to it")
FH1_FAULT(GRAD_EMBED_PADDING_ROW_KEPT, "grad_embed_padding_row_kept", "embed", EMBED, "class TE1", "gradient",
          "the row of padding_idx gets the gradient of its lookups")
FH1_FAULT(GRAD_EMBED_PADDING_ROW_ZEROED, "grad_embed_padding_row_zeroed", "embed", EMBED, "class TE1", "gradient",
          "the row of padding_idx is set to zero, with the share that a tied head has put there")

/* rmsnorm */
FH1_FAULT(GRAD_NORM_CONSTANT, "grad_norm_constant", "rmsnorm", INPUT_LAYERNORM, "class GB1", "gradient",
          "the norm is taken for a constant: dx is dy times w over the norm")
FH1_FAULT(GRAD_NORM_WRONG_WIDTH, "grad_norm_wrong_width", "rmsnorm", INPUT_LAYERNORM,
          "GB1 state-spaces/mamba#547, class", "gradient",
          "the mean in the gradient of the norm divides by half of the width")
FH1_FAULT(GRAD_NORM_WEIGHT_WITHOUT_SCALE, "grad_norm_weight_without_scale", "rmsnorm", INPUT_LAYERNORM, "class GB1",
          "gradient", "the gradient of the norm's weight takes x as it came in, not divided by the norm")

/* linear */
FH1_FAULT(GRAD_LINEAR_LAST_ROW_LOST, "grad_linear_last_row_lost", "linear", Q_PROJ,
          "GB2 fla-org/flash-linear-attention#955", "gradient", "the gradient of a weight leaves out the last token")
FH1_FAULT(GRAD_WEIGHT_TRANSPOSED, "grad_weight_transposed", "linear", Q_PROJ, "class GB2", "gradient",
          "the gradient of a square weight is stored transposed")
FH1_FAULT(GRAD_WEIGHT_OVERWRITTEN, "grad_weight_overwritten", "linear", Q_PROJ, "class GB2", "gradient",
          "the gradient of a weight replaces what was accumulated before")
FH1_FAULT(GRAD_BIAS_AVERAGED, "grad_bias_averaged", "linear", Q_PROJ, "class GB1", "gradient",
          "the gradient of a bias is the mean over the tokens, not the sum")

/* lora */
FH1_FAULT(GRAD_LORA_A_WITHOUT_SCALE, "grad_lora_a_without_scale", "linear", Q_PROJ, "class LO6", "gradient",
          "the gradients behind lora_B are not multiplied by the adapter's scale")
FH1_FAULT(GRAD_LORA_B_WITHOUT_SCALE, "grad_lora_b_without_scale", "linear", Q_PROJ, "class LO6", "gradient",
          "the gradient of lora_B is not multiplied by the adapter's scale")
FH1_FAULT(GRAD_LORA_INPUT_DROPPED, "grad_lora_input_dropped", "linear", Q_PROJ, "class LO1", "gradient",
          "the gradient of a module's input leaves out the path through its adapter")
FH1_FAULT(GRAD_LORA_EMBED_PADDING_KEPT, "grad_lora_embed_padding_kept", "embed", EMBED, "class TE1", "gradient",
          "the column of padding_idx in lora_embedding_A gets the gradient of its lookups")

/* rope */
FH1_FAULT(GRAD_ROPE_ROTATED_FORWARD, "grad_rope_rotated_forward", "rope", K_ROPE, "class GB1", "gradient",
          "the gradient is rotated by the angle again instead of back")
FH1_FAULT(GRAD_ROPE_MISSING, "grad_rope_missing", "rope", K_ROPE, "class GB1", "gradient",
          "the gradient is not rotated back")

/* attention */
FH1_FAULT(GRAD_KV_HEADS_LAST_WINS, "grad_kv_heads_last_wins", "attention", CONTEXT, "GB1 state-spaces/mamba#827, class",
          "gradient", "keys and values get the gradient of the last query head of their group instead of the sum")
FH1_FAULT(GRAD_SOFTMAX_WITHOUT_ROW_TERM, "grad_softmax_without_row_term", "attention", CONTEXT, "class GB1", "gradient",
          "the gradient of the softmax leaves out what its sum contributes")
FH1_FAULT(GRAD_KEYS_NOT_SCALED, "grad_keys_not_scaled", "attention", CONTEXT, "class GB1", "gradient",
          "the gradient of the keys is not divided by the root of the head's width")
FH1_FAULT(GRAD_PAST_KEYS_DROPPED, "grad_past_keys_dropped", "attention", CONTEXT, "class GB3", "gradient",
          "keys and values that were in the cache get no gradient")

/* swiglu */
FH1_FAULT(GRAD_GATE_WITHOUT_MULTIPLIER, "grad_gate_without_multiplier", "swiglu", ACT, "MU5 class", "gradient",
          "the gradient of the gate is not multiplied by the gate multiplier")
FH1_FAULT(GRAD_SILU_AS_SIGMOID, "grad_silu_as_sigmoid", "swiglu", ACT, "class GB1", "gradient",
          "the derivative of silu is taken for the sigmoid")
FH1_FAULT(GRAD_UP_FROM_PRE_ACTIVATION, "grad_up_from_pre_activation", "swiglu", ACT, "class GB3", "gradient",
          "the gradient of up takes the gate before its activation")

/* cross_entropy */
FH1_FAULT(GRAD_LOSS_LABEL_0_WITHOUT_ONEHOT, "grad_loss_label_0_without_onehot", "cross_entropy", LOSS, "class GB1",
          "gradient", "label 0 is taken for none: its row has the softmax without the label's own term")
FH1_FAULT(GRAD_LOSS_IGNORED_ROWS_KEPT, "grad_loss_ignored_rows_kept", "cross_entropy", LOSS, "class GB1", "gradient",
          "rows whose label is ignored get the gradient of their logsumexp")
FH1_FAULT(GRAD_LOSS_DIVISOR_COUNTS_IGNORED, "grad_loss_divisor_counts_ignored", "cross_entropy", LOSS, "class GB1",
          "gradient", "the gradient of the loss is divided by the number of all rows, ignored ones too")

/* adamw */
FH1_FAULT(ADAMW_WITHOUT_BIAS_CORRECTION, "adamw_without_bias_correction", "adamw", LOSS, "class GB1", "gradient",
          "the first steps of Adam are not corrected for moments that began at zero")
FH1_FAULT(ADAMW_DECAY_COUPLED, "adamw_decay_coupled", "adamw", LOSS, "class GB1", "gradient",
          "weight decay is added to the gradient, as in Adam with L2, instead of to the weight")
FH1_FAULT(ADAMW_EPS_INSIDE_ROOT, "adamw_eps_inside_root", "adamw", LOSS, "class GB1", "gradient",
          "eps is added under the root of the second moment")
FH1_FAULT(ADAMW_V_WITHOUT_GRAD_SCALE, "adamw_v_without_grad_scale", "adamw", LOSS, "class GB1", "gradient",
          "the second moment takes the gradient before it was clipped")
