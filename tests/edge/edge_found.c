/* Found by running the libraries. What runs stands in edge_pads.c, edge_configs.c, edge_tensors.c, edge_saves.c and
 * edge_adapters.c. */
#include "tests/edge/edge_file_cases.h"

const edge_case edge_found[] = {
    {.id = "D-101",
     .title = "left padding with every bias on",
     .setup =
         "1, K-2, K-1 and K columns of padding on the left, rows alone and beside rows with less and none; biases of "
         "in_proj, conv, q, k, v, o, MLP and out_proj; then a step and a call of two",
     .invariant = "logits, keys, values, window and state are those of the row by itself",
     .catches =
         "HF15 found by running transformers 4.57 to 5.23; HF8 pads in the conv, read in source: transformers; PD1 "
         "huggingface/transformers#32677",
     .faults = "in_proj_bias_at_left_pads pads_not_masked_after_conv",
     .engines = EDGE_ALL,
     .run = edge_left_pads},
    {.id = "D-102",
     .title = "ragged rows padded on the right, then decoded",
     .setup = "rows of 9, 5, 2 and 1 tokens in 9 columns; then three steps of all rows together, and of each row moved "
              "into a batch of its own",
     .invariant =
         "window and state are those after the last real token of the row, every later logit, key and value those "
         "of the row by itself",
     .catches = "HF16 found by running transformers 4.57 to 5.23; PD4 huggingface/transformers#48256",
     .faults = "cache_after_last_column conv_window_at_right_pads state_decays_over_right_pads",
     .engines = EDGE_ALL,
     .run = edge_right_pads},
    {.id = "D-103",
     .title = "config.json in the forms of 4.5x and 5.x",
     .setup =
         "theta = 1e11 as rope_theta, as rope_parameters, as both; two thetas, two types of rotation, rope_scaling "
         "against rope_parameters, dtype against torch_dtype; theta left out",
     .invariant =
         "the three forms are one model, which gives the truth's taps; contradictions are refused as such, what is "
         "missing is named",
     .catches = "HF17 found by running: transformers 4.57.6 reads a folder of 5.x with the theta of the class; TK3",
     .faults = "rope_parameters_ignored contradiction_accepted rope_theta_class_default",
     .engines = EDGE_ALL,
     .run = edge_config_forms},
    {.id = "D-104",
     .title = "loaded as bf16 and moved to f32, loaded as f32",
     .setup = "multipliers of in_proj's segments that bf16 does not hold; the engine on the model as it is, and on the "
              "model whose buffer of multipliers has been through bf16",
     .invariant = "each trace passes under its own contract (plain, +mup_rounded) and fails under the other",
     .catches = "HF18 found by running transformers; MU9 read in source: transformers",
     .faults = "mup_rounded_to_bf16 multipliers_in_bf16",
     .engines = EDGE_ALL & ~EDGE_BF16,
     .why = "not ref-bf16: its contract rounds the multipliers to bf16 however the model was loaded",
     .run = edge_loaded_types},
    {.id = "D-105",
     .title = "conv widths 2 to 5",
     .setup =
         "K = 2, 3, 4, 5: a ragged padded schedule against the truth, and the laws prefix, split, decode_prefill, "
         "single_token, causality, padding on both sides, rows of padding, neighbours, order of rows, positions (on "
         "CUDA: split, decode_prefill, padding_left)",
     .invariant = "every tap is the truth's, every law holds",
     .catches = "CV2 ggml-org/llama.cpp#23015, #22746, #21831; HF10 huggingface/transformers#44950",
     .faults = "conv_stride_of_four conv_window_read_as_k conv_window_frozen_in_steps",
     .engines = EDGE_ALL,
     .run = edge_conv_widths},
    {.id = "D-106",
     .title = "every tensor of a checkpoint is read, once",
     .setup =
         "each tensor of a model with every bias, and of a tied one, is moved in turn, all other taps being held at "
         "what they were (on CUDA: of one layer and of the ends); the rows that loading asks for are counted",
     .invariant =
         "exactly one tap differs, that of the tensor's own product in its layer (of a tied embedding two); every "
         "row is loaded once",
     .catches = "AT5 ferrox#250; SR10 read in source: llama.cpp",
     .faults = "o_proj_bias_ignored qkv_bias_ignored mlp_bias_ignored down_bias_ignored pre_ff_norm_weight_missing "
               "norm_weight_dropped final_norm_weight_dropped head_tied_to_embedding tensor_loaded_twice",
     .engines = EDGE_ALL,
     .run = edge_each_tensor},
    {.id = "D-107",
     .title = "what would overflow f16 and bf16",
     .setup = "trained-like weights under the multipliers of the 34B, and with key and down multipliers of 4e-7; the "
              "largest magnitude of every tap",
     .invariant =
         "the first model stays in the range of f16 everywhere; of the second exactly k_proj and down_proj, in "
         "front of their multipliers, leave it; bf16 holds all; every tap is the truth's",
     .catches = "NU6 unslothai/unsloth-zoo#211, #212, unslothai/unsloth#3026",
     .faults = "decay_sums_in_f16 key_multiplier_dropped range_seen_behind_the_multiplier",
     .engines = EDGE_ALL,
     .run = edge_ranges},
    {.id = "D-108",
     .title = "saving over what is read",
     .setup = "a writer over a mapped file, given up and finished, its data from the map; containers and folders onto "
              "themselves by the same path, by hard links and by links to links; a file over the folder it is read "
              "from; a folder replaced under a model that is mapped from it",
     .invariant = "the map and the other name keep every byte, a given-up writer leaves the file, a save is refused or "
                  "leaves the whole model; links stay links; the saved model gives the truth's taps",
     .catches = "ST1b huggingface/safetensors#764",
     .faults = "written_in_place",
     .engines = EDGE_ALL,
     .run = edge_saves},
    {.id = "D-109",
     .title = "a restore computes nothing again",
     .setup =
         "a snapshot after 1, 8 and 13 tokens, four tokens more, four others, restore, the four again; the tokens that "
         "enter the model are counted",
     .invariant = "after the restore exactly four tokens are computed, their logits are the same bits",
     .catches = "PC7 vllm-project/vllm#51250, #54504, ggml-org/llama.cpp#25913, NVIDIA/TensorRT-LLM#12185",
     .faults = "restore_recomputes restore_does_nothing restore_keys_only",
     .engines = EDGE_ALL,
     .run = edge_restore_counted},
    {.id = "D-110",
     .title = "what an adapter adapts, and what matches nothing",
     .setup = "an adapter of in_proj and o_proj; the same with tensors of a module that the model does not have, of a "
              "layer that it does not have, of a module that the config does not name, and with a module left out",
     .invariant =
         "the adapted modules are told, all of them and no other; each tensor that matches nothing and each module "
         "without one is refused by name, and no target is left; the merged model gives the truth's taps",
     .catches = "LO3 read in source: unslothai/unsloth; LO4 huggingface/peft#3554; LO5 vllm-project/vllm#55193",
     .faults = "unmatched_tensor_skipped mixer_targets_dropped",
     .engines = EDGE_ALL,
     .run = edge_adapter_coverage},
    {.id = "D-111",
     .title = "rows of 1e-4 through every norm",
     .setup = "three rows of magnitude 1e-4 through each norm weight of a model with gated norms, before and after the "
              "gate; and the model with a stream that begins at 1e-4",
     .invariant =
         "each element is the truth's within the gauge of the op, where a tenth of eps would be seen in most; every "
         "tap is the truth's",
     .catches = "SR9 read in source: llama.cpp; NVIDIA/TransformerEngine#364, apache/tvm#15856",
     .faults = "norm_eps_missing norm_eps_tenth norm_eps_outside_root norm_eps_on_sum gated_norm_eps_missing "
               "gated_norm_eps_outside_root",
     .engines = EDGE_ALL,
     .run = edge_tiny_rows},
    {.id = "D-112",
     .title = "what a new model is made of",
     .setup = "fh1 init of three layers of 60 heads",
     .invariant =
         "-A in [1, 16] and dt in [0.001, 0.1], both over their whole range, the first head of a layer forgets in "
         "three tokens and the last in a thousand, D is 1 on average; the model gives the truth's taps",
     .catches =
         "HF13 huggingface/transformers#43717, #43778, fla-org/flash-linear-attention#739, state-spaces/mamba#556",
     .faults = "init_dt_bias_zero init_a_log_normal init_d_zero",
     .engines = EDGE_ALL,
     .run = edge_init_statistics},
    {.id = NULL},
};
