/* Faults of cache operations: snapshot, restore, fork, reorder, reset, truncate, slots. FH1_FAULT(id, name, op, tap,
 * source, caught_by, what); included by fault_list.h. They show in no trace of one cache: `tap` is the first one that
 * differs when a call follows the operation, and the laws of golden/laws.h find them. */

/* snapshot and restore */
FH1_FAULT(SNAPSHOT_WITHOUT_KEYS, "snapshot_without_keys", "cache", CONTEXT, "PC5 LMCache/LMCache#4247",
          "law.snapshot law.fork", "a snapshot holds no keys and values: they read as zero")
FH1_FAULT(SNAPSHOT_WITHOUT_CONV, "snapshot_without_conv", "cache", CONV_ACT, "SP2a ekryski/mlx-swift-lm#218",
          "law.snapshot law.fork", "a snapshot holds no conv window")
FH1_FAULT(SNAPSHOT_WITHOUT_SSM, "snapshot_without_ssm", "cache", SSD, "PC5 LMCache/LMCache#4247",
          "law.snapshot law.fork", "a snapshot holds no SSM state")
FH1_FAULT(SNAPSHOT_STATE_IN_BF16, "snapshot_state_in_bf16", "cache", SSD, "NU1 vllm-project/vllm#27264",
          "law.snapshot law.fork", "a snapshot holds the SSM state rounded to bf16")
FH1_FAULT(SNAPSHOT_ONE_CALL_BEHIND, "snapshot_one_call_behind", "cache", CONV_ACT,
          "PC2 vllm-project/vllm#34587, CP6 sgl-project/sglang#30938", "law.snapshot",
          "a snapshot holds window and state as they were before the last call")
FH1_FAULT(SNAPSHOT_OF_ROW_BEFORE, "snapshot_of_row_before", "cache", CONV_ACT, "PC1 sgl-project/sglang#37836",
          "law.snapshot", "in a snapshot every row but the first has window and state of the row before it")
FH1_FAULT(SNAPSHOT_LENGTH_ROUNDED_UP, "snapshot_length_rounded_up", "cache", Q_ROPE, "PC2a vllm-project/vllm#34587",
          "law.snapshot", "a snapshot is labelled with its length rounded up to blocks of 16")
FH1_FAULT(SNAPSHOT_SHARES_STATE, "snapshot_shares_state", "cache", SSD, "D-50; CP4 vllm-project/vllm#56196",
          "law.fork law.snapshot", "a copy shares its SSM state with the original: each one's calls move both")
FH1_FAULT(RESTORE_DOES_NOTHING, "restore_does_nothing", "cache", Q_ROPE,
          "PC7 vllm-project/vllm#51250, ggml-org/llama.cpp#25913", "law.snapshot",
          "restore reports success and changes nothing")
FH1_FAULT(RESTORE_KEYS_ONLY, "restore_keys_only", "cache", CONV_ACT, "PC5 LMCache/LMCache#4247", "law.snapshot",
          "restore brings back keys and values, not window and state")
FH1_FAULT(RESTORE_KEEPS_CONV, "restore_keeps_conv", "cache", CONV_ACT,
          "SP2a ekryski/mlx-swift-lm#218, ml-explore/mlx-lm#1456", "law.snapshot",
          "restore brings back everything but the conv window")
FH1_FAULT(RESTORE_STATE_OF_LAYER_0, "restore_state_of_layer_0", "cache", SSD, "PC3 vllm-project/vllm#34874",
          "law.snapshot", "restore gives every layer the SSM state of the first one")
FH1_FAULT(RESTORE_MUTATES_SNAPSHOT, "restore_mutates_snapshot", "cache", CONV_ACT, "CP4 vllm-project/vllm#56196, D-40",
          "law.snapshot", "restore takes the window and state out of the snapshot: a second restore finds it empty")
FH1_FAULT(RESTORE_REPLAYS_ONE_TOKEN, "restore_replays_one_token", "cache", SSD, "PC6 sgl-project/sglang#34760",
          "law.snapshot", "the first token after a restore enters the state twice")

/* reorder */
FH1_FAULT(REORDER_KEYS_ONLY, "reorder_keys_only", "cache", CONV_ACT, "SP3 huggingface/transformers#46612, #46819",
          "law.reorder", "keys and values follow their beams, window and state stay where they are")
FH1_FAULT(REORDER_STATE_ONLY, "reorder_state_only", "cache", CONTEXT, "SP3 class", "law.reorder",
          "window and state follow their beams, keys and values stay where they are")
FH1_FAULT(REORDER_WITHOUT_CONV, "reorder_without_conv", "cache", CONV_ACT, "SP2a ml-explore/mlx-lm#1456", "law.reorder",
          "everything follows its beam but the conv window")
FH1_FAULT(REORDER_OFF_BY_ONE, "reorder_off_by_one", "cache", CONTEXT, "SP3 class", "law.reorder",
          "row b becomes the old row after from[b]")
FH1_FAULT(REORDER_IN_PLACE, "reorder_in_place", "cache", CONTEXT, "SP3 class", "law.reorder",
          "rows are moved one after another in place, so that later ones read what earlier ones wrote")

/* reset, truncate, slots */
FH1_FAULT(RESET_KEEPS_KEYS, "reset_keeps_keys", "cache", CONTEXT, "HF10a class", "law.reset",
          "reset empties window and state; the keys and values before it are still seen")
FH1_FAULT(RESET_KEEPS_CONV, "reset_keeps_conv", "cache", CONV_ACT,
          "HF10a read in source: transformers, SL1 vllm-project/vllm#56524", "law.reset",
          "reset leaves the conv window as it is")
FH1_FAULT(RESET_KEEPS_SSM, "reset_keeps_ssm", "cache", SSD,
          "HF10a read in source: transformers, SL1 vllm-project/vllm#56524", "law.reset",
          "reset leaves the SSM state as it is")
FH1_FAULT(RESET_KEEPS_POSITIONS, "reset_keeps_positions", "cache", Q_ROPE, "HF10a class", "law.reset",
          "after a reset positions go on from where they were")
FH1_FAULT(ONE_TOKEN_PROMPT_ON_DIRTY_SLOT, "one_token_prompt_on_dirty_slot", "cache", CONV_ACT,
          "SL2b vllm-project/vllm#57720", "law.reset",
          "window and state are not emptied when a slot is given out again but when a prompt of two or more tokens "
          "comes: one of one token goes on from what is there")
FH1_FAULT(TRUNCATE_LEAVES_STATE, "truncate_leaves_state", "cache", CONV_ACT,
          "PC4 vllm-project/vllm#43559, SP1 vllm-project/vllm#39273", "law.truncate",
          "truncate drops keys and values and accepts any length; window and state stay")
FH1_FAULT(TRUNCATE_KEEPS_CONV, "truncate_keeps_conv", "cache", CONV_ACT, "SP2a ekryski/mlx-swift-lm#218",
          "law.truncate", "a row that starts again keeps its conv window")
FH1_FAULT(TRUNCATE_DOES_NOTHING, "truncate_does_nothing", "cache", CONTEXT, "SP1a vllm-project/vllm#39273",
          "law.truncate", "truncate reports success and changes nothing: rejected drafts stay in the cache")
FH1_FAULT(TRUNCATE_OFF_BY_ONE, "truncate_off_by_one", "cache", CONV_ACT, "SP2b ggml-org/llama.cpp#16382",
          "law.truncate", "going back by one token is accepted although the state of that moment is gone")
FH1_FAULT(SLOT_NOT_ZEROED, "slot_not_zeroed", "cache", CONV_ACT, "SL1 vllm-project/vllm#56524, #37728", "law.truncate",
          "a row that is given to another sequence keeps window and state")
