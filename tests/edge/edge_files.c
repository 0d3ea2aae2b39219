/* Adapters and files: merges, folds, headers, indexes, quantised weights. What runs stands in edge_merges.c,
 * edge_adapters.c, edge_images.c, edge_folds.c, edge_index.c, edge_headers.c and edge_nf4.c. The same bytes are read
 * whatever the engine, so these cases compare files once, and on every engine what the written model computes. */
#include "tests/edge/edge_file_cases.h"

const edge_case edge_files[] = {
    {.id = "D-89",
     .title = "merges in each named rounding",
     .setup = "every case of the suite of merges (DoRA, embedding, tied ends, patterns, NF4, int8 …) in each "
              "rounding that was recorded: exact, peft, peft-safe, peft-noautocast, peft-low-memory; two of them are "
              "written and opened again",
     .invariant = "every tensor has the bits that the real PEFT computed (DoRA's, whose norms are sums in an order of "
                  "the machine, to one ulp), or the base's; the written model gives the "
                  "logits of the view that it was written from, and the engine's taps are the truth's",
     .catches = "MG4 rounding chains of safe and unsafe merges, read in source: peft; MG2 huggingface/peft#2321",
     .faults = "safe_merge_rounds_once plain_merge_rounds_twice noautocast_in_f32",
     .engines = EDGE_ALL,
     .run = edge_merges_of_peft},
    {.id = "D-90",
     .title = "LoRA in closed form",
     .setup =
         "f32 and bf16 base with every bias; adapters with rank_pattern, alpha_pattern, layers_to_transform, rsLoRA "
         "with a rank of its own, fan_in_fan_out, the embedding and the head, lora_bias; merged in f64, written, "
         "opened, and attached",
     .invariant = "W + s·B·A element by element, rounded once, s = alpha/r or alpha/√r of each module; all else is the "
                  "base's; merged equals attached at every tap; the engine's taps are the truth's",
     .catches = "AD1 sgl-project/sglang#40835, NVIDIA/TensorRT-LLM#1668, Blaizzy/mlx-vlm#986; MG5 "
                "ggml-org/llama.cpp#8581; SR14 lora_bias without the scale, read in source: peft",
     .faults = "rslora_by_rank alpha_not_divided rank_pattern_not_in_scale alpha_pattern_ignored scale_on_a_and_b "
               "fan_in_obeyed embedding_not_scaled lora_bias_not_scaled delta_added_twice",
     .engines = EDGE_ALL,
     .run = edge_merge_closed_form},
    {.id = "D-91",
     .title = "DoRA, and its base one ulp off",
     .setup =
         "DoRA on q_proj, down_proj and the embedding, merged onto its base and onto one with a single weight moved "
         "by one ulp",
     .invariant =
         "m·V/‖V‖ with V = W + s·B·A, norms over the inputs of each output (of an embedding over the "
         "vocabulary), for both bases; the hash of the base in the merged model's metadata is the same for the "
         "same base and another one for the other",
     .catches = "AD2 unslothai/unsloth-zoo#828, ml-explore/mlx-examples#832, ggml-org/llama.cpp#6536",
     .faults = "dora_column_norm base_hash_of_shapes scale_on_a_and_b",
     .engines = EDGE_ALL,
     .run = edge_merge_dora},
    {.id = "D-92",
     .title = "adapters of a base that their initialisation changed",
     .setup = "one adapter with init_lora_weights pissa, pissa_niter_4, olora, corda, lora_ga and loftq without its "
              "initial state; the same with it",
     .invariant =
         "each is refused by the name of the field and leaves no target; with the initial adapter the merge has "
         "PEFT's bits, and the written model gives the truth's taps",
     .catches = "AD3 PiSSA, OLoRA, CorDA, LoftQ adapters added to the original weights, read in source: peft",
     .faults = "pissa_onto_base",
     .engines = EDGE_ALL,
     .run = edge_merge_initial},
    {.id = "D-93",
     .title = "merging twice",
     .setup =
         "an adapter merged onto the model that has it, onto a container made from that model, onto a model that has "
         "it and another; a second adapter onto the merged model",
     .invariant = "the same adapter is refused each time and leaves no target; the second one is added: the two merges "
                  "give, bit for bit, what one merge of both gives, and each ΔW is there once",
     .catches = "MG3 unslothai/unsloth#3633",
     .faults = "provenance_not_read delta_added_twice",
     .engines = EDGE_ALL,
     .run = edge_merge_again},
    {.id = "D-94",
     .title = "merge onto W16 and onto decoded NF4",
     .setup =
         "an adapter of an NF4 base, merged onto the decoded weights and onto a 16-bit original, each with the other "
         "image beside it",
     .invariant =
         "each merge is its own image plus ΔW; of every matrix the RMS of ΔW and of what quantisation changed are "
         "told as the tensors have them; the two losses are computed and differ; both written models give the "
         "truth's taps",
     .catches = "MG1 unslothai/unsloth-zoo#810; MG2 huggingface/peft#2321, #2105",
     .faults = "merged_onto_other_image quantisation_not_told",
     .engines = EDGE_ALL,
     .run = edge_merge_onto_images},
    {.id = "D-95",
     .title = "multipliers folded before and after a merge",
     .setup =
         "GGUF in f32 and bf16, its private keys hidden, so that the numbers are those that stock readers see; LoRA "
         "on in_proj, k_proj, gate and down, merged and then folded, and ΔW folded by itself with the vector of "
         "in_proj's segments and added to the folded base",
     .invariant =
         "every folded element is the weight times its factors, rounded once; conv, dt_bias and D stay as they "
         "are, A to f32; both orders agree to the two roundings; the folded model gives the logits of the merged "
         "one to 2^-15 and the engine's taps are the truth's",
     .catches = "LO6 multipliers and LoRA, no known tool folds ΔW; MU2 ml-explore/mlx-lm#1622; MU8 "
                "NVIDIA-NeMo/Automodel#2589; MU10 "
                "TransformerLensOrg/TransformerLens#496; QT1 NVIDIA/TensorRT-LLM#18607, state-spaces/mamba#133",
     .faults = "key_fold_matches_nothing mlp_fold_matches_nothing factors_in_bf16 segments_folded_as_one "
               "fold_rounds_twice ssm_parameters_quantised "
               "theta_not_written delta_not_folded",
     .engines = EDGE_ALL,
     .run = edge_folds},
    {.id = "D-96",
     .title = "tied ends of which one is trained",
     .setup =
         "LoRA on the embedding, on the head, on both, of an untied and of a tied base; merged in f64, written and "
         "opened; a tied model folded into GGUF, whose two ends have two multipliers",
     .invariant = "the head is the trained head, the embedding the trained embedding, in closed form; merged equals "
                  "attached; the opened models give the truth's taps on the engine",
     .catches = "TE1 unslothai/unsloth#9331, huggingface/transformers#45127, huggingface/peft#2777; MU3 "
                "ml-explore/mlx-lm#764",
     .faults = "delta_on_both_ends retied_on_load tied_head_folded_as_embedding head_tied_to_embedding",
     .engines = EDGE_ALL,
     .run = edge_merge_tied},
    {.id = "D-97",
     .title = "the index of shards, audited",
     .setup =
         "two shards with an index: a wrong total_size, no weight_map, a tensor unmapped, mapped to nothing, to the "
         "wrong shard, twice; a shard that is not there; names that lead out of the folder or are none; a tensor in "
         "two shards and in none; a git-lfs pointer; a stray file with tensors of the model's names",
     .invariant =
         "each is refused, by the reader that maps and by the one that converts, in words that name the tensor or "
         "file; the stray file changes nothing, and the model of the sound folder gives the truth's taps",
     .catches = "ST2 sgl-project/sglang#32279, Blaizzy/mlx-vlm#1464, #1827, unslothai/unsloth#1122, "
                "ml-explore/mlx-examples#413; ST1 MFTCoder#20",
     .faults = "every_file_loaded missing_shard_dropped stale_index_believed traversal_followed lfs_pointer_parsed",
     .engines = EDGE_ALL,
     .run = edge_index},
    {.id = "D-98",
     .title = "headers of safetensors",
     .setup =
         "a table of headers: spaces around, no order, no alignment, holes, overlaps, duplicates with the same and "
         "with other offsets, a byte behind the last tensor, odd counts of F4, dimensions that overflow, a name with "
         "a NUL, 200 brackets deep; length words 0, 1, too long, 2^40, 2^63 and 2^64 - 1; a pointer of git-lfs; read "
         "from memory, from a map, and the header alone; the largest request to malloc is counted",
     .invariant =
         "each is accepted or refused as declared, for the declared reason; no request of memory is larger than "
         "64 times the file and 64 kB; a model under a reordered header gives the truth's taps",
     .catches = "ST1 huggingface/safetensors#669, #749, #764, #466; MFTCoder#20",
     .faults = "header_room_before_check shape_product_wraps holes_accepted lfs_pointer_parsed",
     .engines = EDGE_ALL,
     .run = edge_headers},
    {.id = "D-99",
     .title = "NF4 and its borders",
     .setup =
         "every weight of the suite that bitsandbytes decoded (odd sizes, blocks over several rows, nested scales, "
         "block sizes 32 to 4096, f32, f16, bf16); blocks of zeros, scales of 0, -0 and 2^-140, ranges that begin "
         "and end anywhere; a weight of no element; NaN and infinity among the scales",
     .invariant =
         "the bytes of bitsandbytes, code times scale in f32 with its sign of zero; scales that are no numbers are "
         "refused by their place; the decoded models give the truth's taps",
     .catches = "LO2 axolotl-ai-cloud/axolotl#3951, huggingface/transformers#45674, vllm-project/vllm#41874",
     .faults = "nf4_nibbles_swapped nf4_nested_offset_dropped packed_read_as_values",
     .engines = EDGE_ALL,
     .run = edge_nf4},
    {.id = "D-100",
     .title = "converting twice",
     .setup =
         "folder to container to container to folder to folder; folder to GGUF, that to GGUF again, a stock GGUF to "
         "a folder and to GGUF again; the folded folder with its old multipliers put back; a target that exists",
     .invariant =
         "the folder comes back byte for byte; a target that exists and weights that are folded already are refused; "
         "what has no multipliers left is folded into the same weights; the results give the truth's taps",
     .catches = "MU4 ml-explore/mlx-swift-lm#368; FM3 ml-explore/mlx-lm#504, #231",
     .faults = "folded_mark_ignored folded_by_shape",
     .engines = EDGE_ALL,
     .run = edge_convert_twice},
    {.id = NULL},
};
