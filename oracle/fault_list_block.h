/* Faults of the blocks that no release has: SAM and S_A_M (fh1_block). FH1_FAULT as in fault_list_network.h; included
 * by fault_list.h. Ports know the released block, SA_M: what they make of another one. Which branch
 * reads what is no op: those faults are of the config. */

FH1_FAULT(BLOCK_S_A_M_AS_RELEASED, "block_s_a_m_as_released", "config", Q_PROJ, "class GR4, run: transformers 5.23",
          "check", "fh1_block S_A_M is ignored: attention reads the mixer's norm, both are added at once")
FH1_FAULT(BLOCK_SAM_AS_RELEASED, "block_sam_as_released", "config", GATE_PROJ, "class GR4, run: transformers 5.23",
          "check", "fh1_block SAM is ignored: the MLP reads the stream behind the mixers, through a norm of weight one")
FH1_FAULT(BLOCK_ATTENTION_FIRST, "block_attention_first", "config", INPUT_LAYERNORM, "class GR4", "check",
          "of the block S_A_M attention comes before the mixer")
FH1_FAULT(ATTN_LAYERNORM_SKIPPED, "attn_layernorm_skipped", "config", ATTN_LAYERNORM, "class GR4", "check",
          "of the block S_A_M attention reads the stream without a norm")
FH1_FAULT(ATTN_LAYERNORM_SHARED, "attn_layernorm_shared", "rmsnorm", ATTN_LAYERNORM, "class AT5", "check",
          "attn_layernorm has the weight of input_layernorm")
FH1_FAULT(ATTENTION_READS_FIRST_NORM, "attention_reads_first_norm", "config", Q_PROJ, "class GR4", "check",
          "of the block S_A_M attention reads what the mixer read, before its output was added")
FH1_FAULT(SAM_MLP_READS_MID, "sam_mlp_reads_mid", "config", GATE_PROJ, "class GR4", "check",
          "of the block SAM the MLP reads the norm of the stream behind the mixers")
FH1_FAULT(SAM_RESIDUAL_TWICE, "sam_residual_twice", "config", LAYER, "class GR4", "check",
          "of the block SAM the MLP adds the residual, and then the layer does")
