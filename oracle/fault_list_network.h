/* Faults of embedding, norms, attention, MLP, residual, head and loss. FH1_FAULT(id, name, op, tap, source, caught_by,
 * what); included by fault_list.h. "class XX": no thread of its own, the family of that id in the catalogue of bugs. */

/* multipliers */
FH1_FAULT(KEY_MULTIPLIER_DROPPED, "key_multiplier_dropped", "rope", K_ROPE, "MU2 ml-explore/mlx-lm#1622", "check",
          "keys are not multiplied by key_multiplier")
FH1_FAULT(KEY_MULTIPLIER_TWICE, "key_multiplier_twice", "rope", K_ROPE, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "key_multiplier is folded into weights that have it already")
FH1_FAULT(KEY_MULTIPLIER_ON_QUERIES, "key_multiplier_on_queries", "rope", Q_ROPE, "MU2 class", "check",
          "queries are multiplied by key_multiplier too")
FH1_FAULT(KEY_MULTIPLIER_ON_VALUES, "key_multiplier_on_values", "attention", CONTEXT, "MU2 class", "check",
          "values are multiplied by key_multiplier too")
FH1_FAULT(EMBEDDING_MULTIPLIER_DROPPED, "embedding_multiplier_dropped", "embed", INPUT, "MU class", "check",
          "embeddings are not multiplied by embedding_multiplier")
FH1_FAULT(EMBEDDING_MULTIPLIER_TWICE, "embedding_multiplier_twice", "embed", INPUT, "MU4 ml-explore/mlx-swift-lm#368",
          "check", "embedding_multiplier is folded into weights that have it already")
FH1_FAULT(EMBEDDING_SCALED_BY_ROOT_D, "embedding_scaled_by_root_d", "embed", INPUT, "MU class", "check",
          "embeddings are multiplied by the root of hidden_size, whatever embedding_multiplier says")
FH1_FAULT(EMBEDDING_AND_HEAD_MULTIPLIERS_SWAPPED, "embedding_and_head_multipliers_swapped", "embed", INPUT,
          "MU3 ml-explore/mlx-lm#764", "check", "embedding_multiplier and lm_head_multiplier change places")
FH1_FAULT(HEAD_MULTIPLIER_DROPPED, "head_multiplier_dropped", "lm_head", LOGITS, "MU5 linkedin/Liger-Kernel#1477",
          "check", "logits are not multiplied by lm_head_multiplier")
FH1_FAULT(HEAD_MULTIPLIER_TWICE, "head_multiplier_twice", "lm_head", LOGITS, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "lm_head_multiplier is folded into weights that have it already")
FH1_FAULT(HEAD_MULTIPLIER_DIVIDES, "head_multiplier_divides", "lm_head", LOGITS, "MU class", "check",
          "logits are divided by lm_head_multiplier")
FH1_FAULT(TIED_HEAD_SCALED_AS_EMBEDDING, "tied_head_scaled_as_embedding", "lm_head", LOGITS,
          "MU3 ml-explore/mlx-lm#764, SR10 read in source: llama.cpp", "check",
          "the tied head is the embedding with embedding_multiplier folded in")
FH1_FAULT(ATTENTION_IN_MULTIPLIER_DROPPED, "attention_in_multiplier_dropped", "linear", Q_PROJ,
          "MU6b unslothai/unsloth#2938", "check", "the input of q, k, v is not multiplied by attention_in_multiplier")
FH1_FAULT(ATTENTION_IN_MULTIPLIER_TWICE, "attention_in_multiplier_twice", "linear", Q_PROJ,
          "MU4 ml-explore/mlx-swift-lm#368", "check",
          "attention_in_multiplier is folded into weights that have it already")
FH1_FAULT(VALUES_WITHOUT_ATTENTION_IN, "values_without_attention_in_multiplier", "linear", V_PROJ,
          "MU2c ml-explore/mlx-lm#1622", "check", "attention_in_multiplier reaches queries and keys, not values")
FH1_FAULT(ATTENTION_IN_ON_RESIDUAL, "attention_in_multiplier_on_residual", "residual", MID,
          "MU7 NVIDIA-NeMo/Megatron-Bridge#4845", "check", "attention_in_multiplier scales the residual stream too")
FH1_FAULT(ATTENTION_OUT_MULTIPLIER_DROPPED, "attention_out_multiplier_dropped", "residual", MID, "MU class", "check",
          "the attention branch is not multiplied by attention_out_multiplier")
FH1_FAULT(ATTENTION_OUT_MULTIPLIER_TWICE, "attention_out_multiplier_twice", "residual", MID,
          "MU4 ml-explore/mlx-swift-lm#368", "check",
          "attention_out_multiplier is folded into weights that have it already")
FH1_FAULT(ATTENTION_OUT_ON_BOTH_BRANCHES, "attention_out_multiplier_on_both_branches", "residual", MID, "MU class",
          "check", "the mixer branch is multiplied by attention_out_multiplier")
FH1_FAULT(BRANCH_OUT_MULTIPLIERS_SWAPPED, "branch_out_multipliers_swapped", "residual", MID, "MU class", "check",
          "attention_out_multiplier and ssm_out_multiplier change places")
FH1_FAULT(BRANCH_IN_MULTIPLIERS_SWAPPED, "branch_in_multipliers_swapped", "linear", Q_PROJ, "MU class", "check",
          "attention_in_multiplier and ssm_in_multiplier change places")
FH1_FAULT(ATTENTION_MULTIPLIERS_MIXED_UP, "attention_multipliers_mixed_up", "linear", Q_PROJ,
          "MU6 unslothai/unsloth#2938", "check",
          "attention_out_multiplier is read where attention_in_multiplier is meant")
FH1_FAULT(MLP_MULTIPLIERS_DROPPED, "mlp_multipliers_dropped", "swiglu", ACT,
          "MU6a unslothai/unsloth#2938, MU8 NVIDIA-NeMo/Automodel#2589", "check",
          "the MLP has neither of its multipliers")
FH1_FAULT(MLP_MULTIPLIERS_SWAPPED, "mlp_multipliers_swapped", "swiglu", ACT, "MU6 class", "check",
          "the two mlp_multipliers change places")
FH1_FAULT(GATE_MULTIPLIER_AFTER_SILU, "gate_multiplier_after_silu", "swiglu", ACT, "MU6 class", "check",
          "the gate multiplier scales silu(gate) instead of gate")
FH1_FAULT(GATE_MULTIPLIER_TWICE, "gate_multiplier_twice", "swiglu", ACT, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "the gate multiplier is folded into weights that have it already")
FH1_FAULT(DOWN_MULTIPLIER_DROPPED, "down_multiplier_dropped", "residual", LAYER, "MU6a unslothai/unsloth#2938", "check",
          "the MLP's output is not multiplied by the down multiplier")
FH1_FAULT(DOWN_MULTIPLIER_TWICE, "down_multiplier_twice", "residual", LAYER, "MU4 ml-explore/mlx-swift-lm#368", "check",
          "the down multiplier is folded into weights that have it already")
FH1_FAULT(DOWN_MULTIPLIER_ON_RESIDUAL, "down_multiplier_on_residual", "residual", LAYER, "MU class", "check",
          "the down multiplier scales the sum of residual and MLP")
FH1_FAULT(MULTIPLIERS_ALL_ONE, "multipliers_all_one", "config", INPUT, "MU7 NVIDIA-NeMo/Megatron-Bridge#1462", "check",
          "none of the 14 multipliers is applied")
FH1_FAULT(MULTIPLIERS_IN_BF16, "multipliers_in_bf16", "config", INPUT, "HF18 class", "check",
          "the multipliers outside the mup vector are rounded to bf16")

/* embedding */
FH1_FAULT(EMBEDDING_ROW_0_ZEROED, "embedding_row_0_zeroed", "embed", EMBED, "class TK1 (pad id 0)", "check",
          "the embedding of token 0, the padding token, is taken as zero")

/* norms */
FH1_FAULT(NORM_EPS_OUTSIDE_ROOT, "norm_eps_outside_root", "rmsnorm", INPUT_LAYERNORM,
          "SR9 class, NVIDIA/TransformerEngine#364", "check", "eps is added to the root instead of the mean square")
FH1_FAULT(NORM_EPS_MISSING, "norm_eps_missing", "rmsnorm", INPUT_LAYERNORM, "class SR9 (D-111)", "check",
          "eps is left out")
FH1_FAULT(NORM_EPS_TENTH, "norm_eps_tenth", "rmsnorm", INPUT_LAYERNORM, "SR9 class, apache/tvm#15856", "check",
          "eps is a tenth of rms_norm_eps, 1e-6 for 1e-5")
FH1_FAULT(NORM_EPS_ON_SUM, "norm_eps_on_sum", "rmsnorm", INPUT_LAYERNORM, "class SR9 (D-111)", "check",
          "eps is added to the sum of squares, before the mean is taken")
FH1_FAULT(NORM_MEAN_SUBTRACTED, "norm_mean_subtracted", "rmsnorm", INPUT_LAYERNORM, "class SR9", "check",
          "the mean is subtracted, as in LayerNorm")
FH1_FAULT(NORM_SUM_FOR_MEAN, "norm_sum_for_mean", "rmsnorm", INPUT_LAYERNORM, "class SR9", "check",
          "rows are divided by their length instead of their root mean square")
FH1_FAULT(NORM_WEIGHT_DROPPED, "norm_weight_dropped", "rmsnorm", INPUT_LAYERNORM, "class AT5", "check",
          "the weight of input_layernorm is not applied")
FH1_FAULT(NORM_WEIGHT_PLUS_ONE, "norm_weight_plus_one", "rmsnorm", INPUT_LAYERNORM, "class AT5", "check",
          "input_layernorm multiplies by 1 + weight")
FH1_FAULT(NORM_SCALE_IN_BF16, "norm_scale_in_bf16", "rmsnorm", INPUT_LAYERNORM, "class NU", "check",
          "the reciprocal root mean square is rounded to bf16")
FH1_FAULT(LAYER_NORMS_SWAPPED, "layer_norms_swapped", "rmsnorm", INPUT_LAYERNORM, "class AT5", "check",
          "input_layernorm and pre_ff_layernorm change places")
FH1_FAULT(PRE_FF_NORM_WEIGHT_MISSING, "pre_ff_norm_weight_missing", "rmsnorm", PRE_FF_LAYERNORM, "AT5 ferrox#250",
          "check", "the weight of pre_ff_layernorm is not found and taken as ones")
FH1_FAULT(FINAL_NORM_SKIPPED, "final_norm_skipped", "rmsnorm", FINAL_LAYERNORM, "class GR4", "check",
          "the final norm is left out")
FH1_FAULT(FINAL_NORM_TWICE, "final_norm_twice", "rmsnorm", FINAL_LAYERNORM, "GR4c class, lablup/mlxcel#1333", "check",
          "the final norm is applied twice")
FH1_FAULT(FINAL_NORM_WEIGHT_DROPPED, "final_norm_weight_dropped", "rmsnorm", FINAL_LAYERNORM, "class AT5", "check",
          "the weight of final_layernorm is not applied")

/* rope */
FH1_FAULT(ROPE_INTERLEAVED, "rope_interleaved", "rope", Q_ROPE, "D-35, ooples/AiDotNet#2074, warpfront/hipfire#241",
          "check", "neighbours are rotated as pairs instead of the two halves")
FH1_FAULT(QK_ROWS_INTERLEAVED, "qk_rows_interleaved", "linear", Q_PROJ, "D-35 (known_bugs.md section 23)", "check",
          "a converter permuted the rows of q_proj and k_proj for an interleaved RoPE")
FH1_FAULT(ROPE_SIGN_FLIPPED, "rope_sign_flipped", "rope", Q_ROPE, "class AT4", "check", "the rotation turns backwards")
FH1_FAULT(ROPE_HALF_OF_HEAD, "rope_half_of_head", "rope", Q_ROPE, "class AT4", "check",
          "only half of the pairs are rotated, as with partial_rotary_factor 0.5")
FH1_FAULT(ROPE_KEYS_NOT_ROTATED, "rope_keys_not_rotated", "rope", K_ROPE, "class AT4", "check", "keys are not rotated")
FH1_FAULT(ROPE_QUERIES_NOT_ROTATED, "rope_queries_not_rotated", "rope", Q_ROPE, "class AT4", "check",
          "queries are not rotated")
FH1_FAULT(ROPE_ANGLES_IN_BF16, "rope_angles_in_bf16", "rope", Q_ROPE, "AT4b, huggingface/transformers#29285", "check",
          "angles are rounded to bf16 before sine and cosine")
FH1_FAULT(ROPE_TABLE_IN_BF16, "rope_table_in_bf16", "rope", Q_ROPE, "AT4b class, KellerJordan/modded-nanogpt#39",
          "check", "sines and cosines are rounded to bf16")
FH1_FAULT(ROPE_THETA_10000, "rope_theta_10000", "rope", Q_ROPE,
          "AT4a tiiuae/llama.cpp-Falcon-H1#2, TK3 read in source: transformers 5", "check", "theta is 10000")
FH1_FAULT(ROPE_THETA_CLASS_DEFAULT, "rope_theta_class_default", "rope", Q_ROPE,
          "HF17 found by running: transformers 4.57.6", "check",
          "rope_parameters is ignored and theta is the class default, 100000")
FH1_FAULT(ROPE_THETA_IN_BF16, "rope_theta_in_bf16", "rope", Q_ROPE, "AT4 class (D-34)", "check",
          "theta is rounded to bf16")
FH1_FAULT(ROPE_THETA_IN_F16, "rope_theta_in_f16", "rope", Q_ROPE, "AT4 class (D-34)", "check",
          "theta is read as f16 and becomes infinite")
FH1_FAULT(ROPE_THETA_AS_INT32, "rope_theta_as_int32", "rope", Q_ROPE, "AT4 class (D-34)", "check",
          "theta is read as a 32-bit integer and wraps")
FH1_FAULT(ROPE_FREQUENCIES_UNINITIALISED, "rope_frequencies_uninitialised", "rope", Q_ROPE,
          "HF6 huggingface/transformers#48892", "check", "inv_freq is not rebuilt after loading")
FH1_FAULT(ROPE_EXPONENT_HALVED, "rope_exponent_halved", "rope", Q_ROPE, "class AT4", "check",
          "frequencies are theta^(-i/A) instead of theta^(-2i/A)")
FH1_FAULT(ROPE_WIDTH_FROM_HIDDEN, "rope_width_from_hidden", "rope", Q_ROPE, "NU8 NVIDIA-NeMo/Megatron-Bridge#1053",
          "check", "frequencies are those of head_dim = hidden_size / heads")
FH1_FAULT(ROPE_LINEAR_FACTOR_IGNORED, "rope_linear_factor_ignored", "rope", Q_ROPE, "TK3 class", "check",
          "the factor of linear RoPE scaling is ignored")
FH1_FAULT(ROPE_LLAMA3_FACTOR_IGNORED, "rope_llama3_factor_ignored", "rope", Q_ROPE, "TK3 class", "check",
          "the factor of llama3 RoPE scaling is ignored")
FH1_FAULT(ROPE_YARN_FACTOR_IGNORED, "rope_yarn_factor_ignored", "rope", Q_ROPE, "TK3 class", "check",
          "the factor of yarn RoPE scaling is ignored")
FH1_FAULT(ROPE_YARN_SCALE_DROPPED, "rope_yarn_scale_dropped", "rope", Q_ROPE, "turboderp-org/exllamav3#259", "check",
          "yarn's factor on sine and cosine is left out")
FH1_FAULT(ROPE_YARN_SCALE_TWICE, "rope_yarn_scale_twice", "rope", Q_ROPE, "sgl-project/sglang#33558", "check",
          "yarn's factor on sine and cosine is applied twice")
FH1_FAULT(ROPE_DYNAMIC_NEVER_GROWS, "rope_dynamic_never_grows", "rope", Q_ROPE, "TK3 class", "check",
          "dynamic RoPE keeps theta beyond max_position_embeddings")
FH1_FAULT(ROPE_LONGROPE_STAYS_SHORT, "rope_longrope_stays_short", "rope", Q_ROPE, "TK3 class", "check",
          "longrope keeps short_factor beyond original_max_position_embeddings")

/* attention */
FH1_FAULT(ATTENTION_NOT_CAUSAL, "attention_not_causal", "attention", CONTEXT, "AT1 osaurus vmlx-swift#185", "check",
          "prefill has no causal mask")
FH1_FAULT(CAUSAL_MASK_SHOWS_NEXT, "causal_mask_shows_next", "attention", CONTEXT, "AT1 class", "check",
          "a query sees the key after its own")
FH1_FAULT(CAUSAL_MASK_HIDES_SELF, "causal_mask_hides_self", "attention", CONTEXT, "AT1 class", "check",
          "a query does not see its own key")
FH1_FAULT(CAUSAL_MASK_FROM_TOP_LEFT, "causal_mask_from_top_left", "attention", CONTEXT,
          "pytorch/pytorch#108108, onnx/onnx#8068 (D-05)", "check",
          "in a continued call query t sees the first t + 1 keys of the cache")
FH1_FAULT(CONTINUED_CALL_NOT_CAUSAL, "continued_call_not_causal", "attention", CONTEXT,
          "AT1 class, mlx-node/mlx-node#24", "check", "with a history a call of several tokens has no causal mask")
FH1_FAULT(DECODE_SEES_NEW_KEY_ONLY, "decode_sees_new_key_only", "attention_step", CONTEXT,
          "AT2b huggingface/optimum-intel#1908", "check", "the mask of a decode step covers the new key only")
FH1_FAULT(CONTINUED_CALL_SEES_NEW_KEYS_ONLY, "continued_call_sees_new_keys_only", "attention", CONTEXT,
          "CP1 class (D-30)", "check", "the mask of a continued call covers the new keys only")
FH1_FAULT(FIRST_KEY_NOT_SEEN, "first_key_not_seen", "attention", CONTEXT, "AT1 class", "check",
          "the first key of a document is never seen")
FH1_FAULT(SLIDING_WINDOW, "sliding_window", "attention", CONTEXT, "AT1 class", "check",
          "attention looks back no more than 32 tokens")
FH1_FAULT(KV_HEADS_BY_MODULO, "kv_heads_by_modulo", "attention", CONTEXT, "GR1 class, onnx/onnx#7274", "check",
          "query head j reads key head j mod Hkv instead of j / (Hq / Hkv)")
FH1_FAULT(SCORES_NOT_SCALED, "scores_not_scaled", "attention", CONTEXT, "AT class", "check",
          "scores are not multiplied by A^-1/2")
FH1_FAULT(SCORES_SCALED_TWICE, "scores_scaled_twice", "attention", CONTEXT, "AT class", "check",
          "scores are divided by A instead of its root")
FH1_FAULT(SCORES_SCALED_BY_HIDDEN, "scores_scaled_by_hidden", "attention", CONTEXT,
          "NU8 NVIDIA-NeMo/Megatron-Bridge#1053", "check", "scores are scaled for head_dim = hidden_size / heads")
FH1_FAULT(SCORES_HAVE_A_POSITION_TERM, "scores_have_a_position_term", "attention", CONTEXT,
          "D-31 (known_bugs.md section 23)", "check", "scores get a term of the key's position")
FH1_FAULT(SCORES_IN_BF16, "scores_in_bf16", "attention", CONTEXT, "NU class", "check", "scores are rounded to bf16")
FH1_FAULT(SOFTMAX_IN_BF16, "softmax_in_bf16", "attention", CONTEXT, "NU class", "check",
          "attention weights are rounded to bf16")
FH1_FAULT(SOFTMAX_WITHOUT_MAX, "softmax_without_max", "attention", CONTEXT, "AT3 class", "check",
          "softmax does not subtract the largest score and overflows")
FH1_FAULT(SOFTMAX_COUNTS_AN_EMPTY_SLOT, "softmax_counts_an_empty_slot", "attention", CONTEXT, "AT3 class", "check",
          "a slot of the cache that holds no key takes part in the softmax")
FH1_FAULT(KEYS_OF_ROW_0, "keys_of_row_0", "attention", CONTEXT, "CP6 class", "check",
          "all rows read the keys and values of row 0")
FH1_FAULT(KV_CACHE_IN_BF16, "kv_cache_in_bf16", "attention", CONTEXT, "NU1 class", "check",
          "keys and values are rounded to bf16 when they are stored")
FH1_FAULT(DECODE_OVERWRITES_LAST_KEY, "decode_overwrites_last_key", "cache", CONTEXT, "SL2 class", "check",
          "a decode step stores its key over the last one")
FH1_FAULT(K_AND_V_SWAPPED, "k_and_v_swapped", "linear", K_PROJ, "GR4 class, vllm-project/vllm#18406", "check",
          "k_proj and v_proj change places in a packed projection")
FH1_FAULT(QKV_BIAS_IGNORED, "qkv_bias_ignored", "linear", Q_PROJ, "AT5 ferrox#250", "check",
          "the biases of q, k, v are not read")
FH1_FAULT(O_PROJ_BIAS_IGNORED, "o_proj_bias_ignored", "linear", O_PROJ, "AT5 ferrox#250", "check",
          "the bias of o_proj is not read")
FH1_FAULT(QK_BIAS_SCALED, "qk_bias_scaled", "linear", Q_PROJ, "SR10 read in source: llama.cpp", "check",
          "the biases of q and k get attention_in_multiplier")

/* MLP */
FH1_FAULT(GATE_AND_UP_SWAPPED, "gate_and_up_swapped", "linear", GATE_PROJ, "GR4b vllm-project/vllm#18406", "check",
          "gate_proj and up_proj change places")
FH1_FAULT(MLP_READS_RESIDUAL, "mlp_reads_residual", "linear", GATE_PROJ, "class GR4", "check",
          "the MLP reads the residual stream before its norm")
FH1_FAULT(MLP_GELU, "mlp_gelu", "swiglu", ACT, "class GR4", "check", "the MLP's gate goes through gelu")
FH1_FAULT(MLP_SIGMOID, "mlp_sigmoid", "swiglu", ACT, "class GR4", "check",
          "the MLP's gate goes through sigmoid, silu without its factor")
FH1_FAULT(MLP_BIAS_IGNORED, "mlp_bias_ignored", "linear", GATE_PROJ, "AT5 class (D-106)", "check",
          "the biases of gate_proj and up_proj are not read")
FH1_FAULT(DOWN_BIAS_IGNORED, "down_bias_ignored", "linear", DOWN_PROJ, "AT5 class (D-106)", "check",
          "the bias of down_proj is not read")

/* residual and layers */
FH1_FAULT(ATTENTION_BRANCH_DROPPED, "attention_branch_dropped", "residual", MID, "GR5 class", "check",
          "the attention branch is not added")
FH1_FAULT(MIXER_BRANCH_DROPPED, "mixer_branch_dropped", "residual", MID, "GR5 class", "check",
          "the mixer branch is not added")
FH1_FAULT(BRANCHES_AVERAGED, "branches_averaged", "residual", MID, "MU class", "check",
          "the mean of the two branches is added instead of their sum")
FH1_FAULT(MIXERS_RESIDUAL_DROPPED, "mixers_residual_dropped", "residual", MID, "GR5 class", "check",
          "the residual is not carried around the two mixers")
FH1_FAULT(MLP_RESIDUAL_DROPPED, "mlp_residual_dropped", "residual", LAYER, "GR5 class", "check",
          "the residual is not carried around the MLP (Falcon-Mamba: around the mixer)")
FH1_FAULT(RESIDUAL_FROM_NORM, "residual_from_norm", "residual", MID, "MU7 class", "check",
          "the branches are added to the normalised input of the layer")
FH1_FAULT(RESIDUAL_IN_BF16, "residual_in_bf16", "residual", MID, "NU class", "check",
          "the residual stream is rounded to bf16")
FH1_FAULT(ONLY_LAYER_0, "only_layer_0", "schedule", FINAL_LAYERNORM,
          "GR5 read in source: mlx-lm d78bf58 (ml-explore/mlx-lm)", "check",
          "without a history the layer loop is as long as an empty list and ends after layer 0")
FH1_FAULT(LAST_LAYER_SKIPPED, "last_layer_skipped", "schedule", FINAL_LAYERNORM, "GR5 class", "check",
          "the last layer is not run")
FH1_FAULT(LAYER_0_FOR_ALL, "layer_0_for_all", "schedule", INPUT_LAYERNORM, "PC3 class", "check",
          "all layers run with the weights of layer 0")
FH1_FAULT(LAYERS_SWAPPED, "layers_swapped", "schedule", INPUT_LAYERNORM, "ST2 class", "check",
          "the weights of the first two layers change places")

/* head and loss */
FH1_FAULT(HEAD_TIED_TO_EMBEDDING, "head_tied_to_embedding", "lm_head", LOGITS, "TE1a unslothai/unsloth#9331", "check",
          "the head is tied to the embedding although it has weights of its own")
FH1_FAULT(TIED_HEAD_LEFT_EMPTY, "tied_head_left_empty", "lm_head", LOGITS, "TE1 huggingface/transformers#45127, class",
          "check", "a head that is tied is not connected to the embedding: it holds zeros")
FH1_FAULT(HEAD_READS_RESIDUAL, "head_reads_residual", "lm_head", LOGITS, "class GR4", "check",
          "the head reads the residual stream before the final norm")
FH1_FAULT(LAST_LOGITS_ONLY, "last_logits_only", "lm_head", LOGITS, "TK2 read in source: transformers", "check",
          "all logits are asked for and only those of the last column come")
FH1_FAULT(LOGITS_ONE_POSITION_LATE, "logits_one_position_late", "lm_head", LOGITS, "TK2 class (D-76)", "check",
          "each token gets the logits of the one before it")
FH1_FAULT(LOGITS_IN_BF16, "logits_in_bf16", "lm_head", LOGITS, "NU class", "check", "logits are rounded to bf16")
FH1_FAULT(LOSS_WITHOUT_HEAD_MULTIPLIER, "loss_without_head_multiplier", "cross_entropy", LOSS,
          "MU5 linkedin/Liger-Kernel#1477", "check", "the loss is computed from logits without lm_head_multiplier")
FH1_FAULT(LOSS_NOT_SHIFTED, "loss_not_shifted", "cross_entropy", LOSS, "MU5 class (D-88)", "check",
          "labels are not shifted")
FH1_FAULT(LOSS_SHIFTED_TWICE, "loss_shifted_twice", "cross_entropy", LOSS, "MU5 class (D-88)", "check",
          "labels are shifted twice")
FH1_FAULT(LOSS_COUNTS_IGNORED, "loss_counts_ignored", "cross_entropy", LOSS,
          "MU5 class (D-88), meta-pytorch/torchtune#1875", "check", "the mean counts ignored labels")
FH1_FAULT(LOSS_SUMMED, "loss_summed", "cross_entropy", LOSS, "MU5 class (D-88)", "check",
          "the loss is the sum instead of the mean")
FH1_FAULT(LOSS_WITHOUT_MAX, "loss_without_max", "cross_entropy", LOSS, "NU5 class", "check",
          "logsumexp does not subtract the largest logit and overflows")
FH1_FAULT(SAMPLE_TIE_TAKES_LAST, "sample_tie_takes_last", "sample", LOGITS,
          "HF14 class (huggingface/transformers#38086)", "lattice", "of equal logits the last token is chosen")
FH1_FAULT(SAMPLE_PASSES_NAN, "sample_passes_nan", "sample", LOGITS, "class R-2", "lattice",
          "a NaN among the logits is passed over in silence")

/* numbers */
FH1_FAULT(LINEAR_TF32, "linear_tf32", "linear", Q_PROJ, "class NU", "check",
          "the inputs of matrix products are rounded to TF32")
FH1_FAULT(LINEAR_BF16_ACCUMULATOR, "linear_bf16_accumulator", "linear", Q_PROJ, "class NU", "check",
          "matrix products accumulate in bf16")
FH1_FAULT(LINEAR_LAST_K_DROPPED, "linear_last_k_dropped", "linear", Q_PROJ, "class NU", "check",
          "matrix products leave out their last term")
FH1_FAULT(LONG_PREFILL_IN_F16, "long_prefill_in_f16", "linear", Q_PROJ, "NU7 ggml-org/llama.cpp#22675", "check",
          "beyond 64 tokens another matrix product is taken, with f16 inputs")
FH1_FAULT(ONE_ROW_SCALED, "one_row_scaled", "linear", DOWN_PROJ, "class NU", "check",
          "one row of down_proj in layer 1 is 1 % too large")
FH1_FAULT(NAN_IN_ONE_ELEMENT, "nan_in_one_element", "swiglu", ACT, "class NU", "check",
          "one element of the MLP's activation is NaN")
FH1_FAULT(ACTIVATIONS_IN_BF16, "activations_in_bf16", "config", EMBED, "HF18 class", "check",
          "an engine that declares fp32 computes as transformers does in bf16")
