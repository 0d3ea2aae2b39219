/* Faults of the converters: bugs that real tools have had. CVT_FAULT_LIST(id, name, source, what); included by fault.h.
 * The cases that must turn red name them (tests/edge/). "class XX": no thread of its own, the family of that id. */

/* adapters */
CVT_FAULT_LIST(RSLORA_BY_RANK, "rslora_by_rank", "AD1a sgl-project/sglang#40835, NVIDIA/TensorRT-LLM#1668",
               "use_rslora is not looked at: the scale is alpha/r")
CVT_FAULT_LIST(ALPHA_NOT_DIVIDED, "alpha_not_divided", "AD1b Blaizzy/mlx-vlm#986", "the scale is alpha")
CVT_FAULT_LIST(RANK_PATTERN_NOT_IN_SCALE, "rank_pattern_not_in_scale", "class AD1",
               "rank_pattern sizes the matrices, but the scale divides by r")
CVT_FAULT_LIST(ALPHA_PATTERN_IGNORED, "alpha_pattern_ignored", "class AD1", "alpha_pattern is not looked at")
CVT_FAULT_LIST(PISSA_ONTO_BASE, "pissa_onto_base", "AD3 read in source: peft",
               "an adapter of a residual base is added to the original one")
CVT_FAULT_LIST(UNMATCHED_TENSOR_SKIPPED, "unmatched_tensor_skipped",
               "LO4 huggingface/peft#3554, LO5 vllm-project/vllm#55193",
               "an adapter tensor that matches no module is skipped")
CVT_FAULT_LIST(MIXER_TARGETS_DROPPED, "mixer_targets_dropped", "LO3 read in source: unslothai/unsloth",
               "modules whose path contains mamba are not adapted")

/* merging */
CVT_FAULT_LIST(SCALE_ON_A_AND_B, "scale_on_a_and_b", "MG5 ggml-org/llama.cpp#8581",
               "the scale is applied to A and to B")
CVT_FAULT_LIST(SAFE_MERGE_ROUNDS_ONCE, "safe_merge_rounds_once", "MG4 read in source: peft",
               "the chain of safe_merge rounds once, as the plain one")
CVT_FAULT_LIST(PLAIN_MERGE_ROUNDS_TWICE, "plain_merge_rounds_twice", "MG4 read in source: peft",
               "the plain chain rounds the product of A and B first, as safe_merge")
CVT_FAULT_LIST(NOAUTOCAST_IN_F32, "noautocast_in_f32", "MG4 read in source: peft",
               "autocast_adapter_dtype=False leaves the adapter in f32")
CVT_FAULT_LIST(DELTA_ADDED_TWICE, "delta_added_twice", "MG3a unslothai/unsloth#3633", "the difference is added twice")
CVT_FAULT_LIST(LORA_BIAS_NOT_SCALED, "lora_bias_not_scaled", "SR14 read in source: peft",
               "the adapter's bias is added without the scale")
CVT_FAULT_LIST(FAN_IN_OBEYED, "fan_in_obeyed", "MG5 class, ggml-org/llama.cpp#7062",
               "fan_in_fan_out of the config transposes the difference, though this model's layers are Linear")
CVT_FAULT_LIST(EMBEDDING_NOT_SCALED, "embedding_not_scaled", "class MG5",
               "the difference of an embedding is added without the scale")
CVT_FAULT_LIST(DORA_COLUMN_NORM, "dora_column_norm", "AD2 unslothai/unsloth-zoo#828, ml-explore/mlx-examples#832",
               "the norm of DoRA runs over the columns of a Linear")
CVT_FAULT_LIST(BASE_HASH_OF_SHAPES, "base_hash_of_shapes", "class AD2",
               "the recorded hash of the base covers names and shapes, not the numbers")
CVT_FAULT_LIST(PROVENANCE_NOT_READ, "provenance_not_read", "MG3 unslothai/unsloth#3633",
               "what is merged already is not looked at")
CVT_FAULT_LIST(MERGED_ONTO_OTHER_IMAGE, "merged_onto_other_image", "MG1 unslothai/unsloth-zoo#810",
               "the adapter of a quantised base is merged onto the original weights")
CVT_FAULT_LIST(QUANTISATION_NOT_TOLD, "quantisation_not_told", "MG2 huggingface/peft#2321",
               "what quantisation changed is reported as nothing")
CVT_FAULT_LIST(DELTA_ON_BOTH_ENDS, "delta_on_both_ends", "TE1b huggingface/peft#2777",
               "the difference of one end of a tied pair is written into the one tensor of both")
CVT_FAULT_LIST(RETIED_ON_LOAD, "retied_on_load", "TE1a unslothai/unsloth#9331, huggingface/transformers#45127",
               "the head is the embedding although both are stored")

/* folding into GGUF */
CVT_FAULT_LIST(KEY_FOLD_MATCHES_NOTHING, "key_fold_matches_nothing", "MU2b ml-explore/mlx-lm#1622",
               "key_multiplier is folded into a tensor name that no checkpoint has")
CVT_FAULT_LIST(TIED_HEAD_FOLDED_AS_EMBEDDING, "tied_head_folded_as_embedding", "MU3 ml-explore/mlx-lm#764",
               "the head of a tied model holds embedding_multiplier")
CVT_FAULT_LIST(FOLDED_MARK_IGNORED, "folded_mark_ignored", "MU4 ml-explore/mlx-swift-lm#368",
               "weights that are folded already are folded again")
CVT_FAULT_LIST(FOLDED_BY_SHAPE, "folded_by_shape", "FM3 ml-explore/mlx-lm#504",
               "whether weights are folded is told from the shape of the conv's")
CVT_FAULT_LIST(FOLD_ROUNDS_TWICE, "fold_rounds_twice", "MU10 TransformerLensOrg/TransformerLens#496",
               "a fold of two multipliers rounds after each")
CVT_FAULT_LIST(MLP_FOLD_MATCHES_NOTHING, "mlp_fold_matches_nothing", "MU8 NVIDIA-NeMo/Automodel#2589",
               "mlp_multipliers are folded into names that begin with mlp., which no checkpoint has")
CVT_FAULT_LIST(FACTORS_IN_BF16, "factors_in_bf16", "MU9 read in source: transformers",
               "the factors of a fold are rounded to bf16, as a buffer of them is")
CVT_FAULT_LIST(SEGMENTS_FOLDED_AS_ONE, "segments_folded_as_one", "class LO6",
               "in_proj is folded with ssm_in_multiplier alone, not with the vector of its segments")
CVT_FAULT_LIST(SSM_PARAMETERS_QUANTISED, "ssm_parameters_quantised", "QT1 NVIDIA/TensorRT-LLM#18607",
               "conv, dt_bias, A and D are rounded to bf16 with the matrices")
CVT_FAULT_LIST(THETA_NOT_WRITTEN, "theta_not_written", "FM1, AT4a tiiuae/llama.cpp-Falcon-H1#2",
               "rope_theta is not in the key that readers look for, they take 10000")

/* checkpoints */
CVT_FAULT_LIST(EVERY_FILE_LOADED, "every_file_loaded", "ST2 Blaizzy/mlx-vlm#1464",
               "every .safetensors of the folder is taken for a shard")
CVT_FAULT_LIST(MISSING_SHARD_DROPPED, "missing_shard_dropped",
               "ST2 sgl-project/sglang#32279, MG3b unslothai/unsloth#1122", "a shard that is not there is passed by")
CVT_FAULT_LIST(STALE_INDEX_BELIEVED, "stale_index_believed", "ST2 Blaizzy/mlx-vlm#1827",
               "the index is not compared with what the shards hold")
CVT_FAULT_LIST(TRAVERSAL_FOLLOWED, "traversal_followed", "class ST2", "a shard's name may lead out of the folder")
CVT_FAULT_LIST(LFS_POINTER_PARSED, "lfs_pointer_parsed", "ST1 MFTCoder#20",
               "a git-lfs pointer is taken for a file with a huge header")
CVT_FAULT_LIST(HEADER_ROOM_BEFORE_CHECK, "header_room_before_check", "ST1a class",
               "memory for the header is taken before its length is compared with the file")
CVT_FAULT_LIST(SHAPE_PRODUCT_WRAPS, "shape_product_wraps", "ST1c huggingface/safetensors#764 class",
               "the product of a shape wraps around")
CVT_FAULT_LIST(HOLES_ACCEPTED, "holes_accepted", "class ST1", "tensors need not cover the file")
CVT_FAULT_LIST(WRITTEN_IN_PLACE, "written_in_place", "ST1b huggingface/safetensors#764",
               "the target is cut to nothing and written under its own name")

/* bitsandbytes */
CVT_FAULT_LIST(NF4_NIBBLES_SWAPPED, "nf4_nibbles_swapped", "class LO2", "the low half of a byte comes first")
CVT_FAULT_LIST(PACKED_READ_AS_VALUES, "packed_read_as_values", "LO2 axolotl-ai-cloud/axolotl#3951",
               "two codes in a byte are read as the one number of the byte")
CVT_FAULT_LIST(NF4_NESTED_OFFSET_DROPPED, "nf4_nested_offset_dropped", "class LO2",
               "scales of double quantisation miss their offset")

/* configs and new models */
CVT_FAULT_LIST(ROPE_PARAMETERS_IGNORED, "rope_parameters_ignored", "HF17, TK3 found by running: transformers 4.57.6",
               "rope_parameters is not read: theta is the default of the class")
CVT_FAULT_LIST(CONTRADICTION_ACCEPTED, "contradiction_accepted", "class TK3",
               "of two values of rope_theta the top-level one wins silently")
CVT_FAULT_LIST(BLOCK_NOT_READ, "block_not_read", "class LO4", "fh1_block is not looked at: every model is SA_M")
CVT_FAULT_LIST(MIXER_EPS_OF_LAYERS, "mixer_eps_of_layers", "SR9 read in source: llama.cpp",
               "the norms inside Falcon-Mamba's mixer take layer_norm_epsilon, not mixer_rms_eps")
CVT_FAULT_LIST(WIDTH_BY_EXPAND, "width_by_expand", "class FM1",
               "Falcon-Mamba's width is expand * hidden_size although intermediate_size is given")
CVT_FAULT_LIST(TIME_STEP_RANK_FLOORED, "time_step_rank_floored", "class FM1",
               "time_step_rank \"auto\" is hidden_size / 16 rounded down")
CVT_FAULT_LIST(UNTIED_BY_DEFAULT, "untied_by_default", "TE1 found by running: transformers 4.57.6",
               "a Falcon-Mamba config without tie_word_embeddings is taken for untied")
CVT_FAULT_LIST(INIT_DT_BIAS_ZERO, "init_dt_bias_zero", "HF13 huggingface/transformers#43717, state-spaces/mamba#556",
               "a new model's dt_bias is 0, as every bias")
CVT_FAULT_LIST(INIT_A_LOG_NORMAL, "init_a_log_normal", "HF13 read in source: transformers 4.5x",
               "a new model's A_log is a small normal number")
CVT_FAULT_LIST(INIT_D_ZERO, "init_d_zero", "HF13 class", "a new model's D is a small normal number")
