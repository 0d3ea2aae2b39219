/* Faults of the whole model's backward pass, as fault_list_gradient.h: multipliers, shares and checkpoints. */

FH1_FAULT(GRAD_LABELS_NOT_SHIFTED, "grad_labels_not_shifted", "cross_entropy", LOSS, "class TK1", "gradient",
          "each token is held against its own label, not against that of the next one")
FH1_FAULT(GRAD_HEAD_MULTIPLIER_DROPPED, "grad_head_multiplier_dropped", "lm_head", LOGITS,
          "MU5 linkedin/Liger-Kernel#1477", "gradient",
          "the derivative of the logits goes back without lm_head_multiplier")
FH1_FAULT(GRAD_TIED_HEAD_SHARE_LOST, "grad_tied_head_share_lost", "lm_head", LOGITS, "class MU3", "gradient",
          "a tied table gets the gradient of the lookup alone")
FH1_FAULT(GRAD_DOWN_MULTIPLIER_DROPPED, "grad_down_multiplier_dropped", "residual", LAYER, "MU6 unslothai/unsloth#2938",
          "gradient", "the MLP's backward pass forgets its output multiplier")
FH1_FAULT(GRAD_RESIDUAL_NOT_PASSED, "grad_residual_not_passed", "residual", MID, "class GB1", "gradient",
          "the gradient of the stream goes through the branches alone, not past them")
FH1_FAULT(GRAD_ATTENTION_OUT_DROPPED, "grad_attention_out_multiplier_dropped", "residual", MID,
          "MU6b unslothai/unsloth#2938", "gradient", "the attention branch goes back without attention_out_multiplier")
FH1_FAULT(GRAD_SSM_OUT_DROPPED, "grad_ssm_out_multiplier_dropped", "residual", MID, "class MU6", "gradient",
          "the mixer branch goes back without ssm_out_multiplier")
FH1_FAULT(GRAD_KEY_MULTIPLIER_DROPPED, "grad_key_multiplier_dropped", "rope", K_ROPE, "class MU2", "gradient",
          "the gradient of the keys goes back without key_multiplier")
FH1_FAULT(GRAD_ATTENTION_IN_DROPPED, "grad_attention_in_multiplier_dropped", "linear", Q_PROJ,
          "MU6b unslothai/unsloth#2938", "gradient",
          "what the projections leave for the norm misses attention_in_multiplier")
FH1_FAULT(GRAD_SSM_IN_DROPPED, "grad_ssm_in_multiplier_dropped", "linear", IN_PROJ, "class MU1", "gradient",
          "what in_proj leaves for the norm misses ssm_in_multiplier")
FH1_FAULT(GRAD_WEIGHTS_FROM_UNSCALED_INPUT, "grad_weights_from_unscaled_input", "linear", IN_PROJ, "class MU6",
          "gradient", "weight gradients of the projections are taken from the norm's output, before its multiplier")
FH1_FAULT(GRAD_MUP_DROPPED, "grad_mup_of_x_b_c_dropped", "linear", IN_PROJ, "class MU1", "gradient",
          "the gradient of x, B and C goes back without its ssm_multipliers")
FH1_FAULT(GRAD_MUP_OF_DT_DROPPED, "grad_mup_of_dt_dropped", "linear", IN_PROJ, "class MU1", "gradient",
          "the gradient of dt goes back without its ssm_multiplier")
FH1_FAULT(GRAD_OUT_PROJ_ADAPTER_NOT_SEEN, "grad_out_proj_adapter_not_seen", "linear", OUT_PROJ,
          "LO1 tiiuae/Falcon-H1#13, huggingface/peft#2556", "gradient",
          "the fused mixer reads the raw out_proj: its adapter gets no gradient and passes none on")
FH1_FAULT(GRAD_SHARED_NORM_OF_THE_MIXER_ONLY, "grad_shared_norm_of_the_mixer_only", "rmsnorm", INPUT_LAYERNORM,
          "MU7b NVIDIA-NeMo/Megatron-Bridge#4845", "gradient",
          "the norm that both branches read hears from the mixer alone")
FH1_FAULT(GRAD_CHECKPOINTS_IN_BF16, "grad_checkpoints_in_bf16", "residual", LAYER, "GB4 class, NVIDIA/Megatron-LM#5463",
          "gradient", "a layer is computed again from an input that was stored in bf16")
FH1_FAULT(GRAD_EMBEDDING_MULTIPLIER_DROPPED, "grad_embedding_multiplier_dropped", "embed", INPUT, "class MU3",
          "gradient", "the table's gradient misses embedding_multiplier")
FH1_FAULT(GRAD_NORMS_OF_STEPS_ADDED_UP, "grad_norms_of_steps_added_up", "rmsnorm", INPUT_LAYERNORM, "class MU7b",
          "gradient", "of the block S_A_M what attention passes to its norm reaches the mixer's as well")
FH1_FAULT(GRAD_SAM_NORM_WITHOUT_MLP, "grad_sam_norm_without_mlp", "rmsnorm", INPUT_LAYERNORM, "class MU7b", "gradient",
          "of the block SAM the norm that all branches read hears nothing from the MLP")
