/* Faults of masks, positions, documents and ids. FH1_FAULT(id, name, op, tap, source, caught_by, what); included by
 * fault_list.h. "class XX": no thread of its own, the family of that id in the catalogue of bugs. */

/* ids */
FH1_FAULT(IDS_OFF_BY_ONE, "ids_off_by_one", "embed", EMBED, "class TK1", "check", "token ids count from one")

/* masks */
FH1_FAULT(MASK_IGNORED, "mask_ignored", "schedule", CONTEXT, "PD2 huggingface/transformers#41790", "check",
          "the padding mask is not read: padding is attended to and enters the states")
FH1_FAULT(MASK_FOR_BATCHES_ONLY, "mask_for_batches_only", "schedule", CONTEXT,
          "HF9 read in source: transformers 4.57, huggingface/transformers#41790", "check",
          "a batch of one is taken as unpadded")
FH1_FAULT(MASK_DROPPED_ON_A_CACHE, "mask_dropped_on_a_cache", "schedule", CONTEXT, "PD3 huggingface/transformers#47086",
          "check", "with a history the padding of new columns is not masked")
FH1_FAULT(MASK_INVERTED, "mask_inverted", "schedule", EMBED, "class D-26", "check",
          "1 is taken as padding and 0 as token")
FH1_FAULT(MASK_ONE_LATE, "mask_one_late", "schedule", EMBED, "class D-15", "check",
          "the first token of a left-padded row is taken as padding")
FH1_FAULT(MASK_ONE_EARLY, "mask_one_early", "schedule", CONTEXT, "class D-15", "check",
          "the last padding column of a left-padded row is taken as a token")
FH1_FAULT(MASK_OF_ROW_0, "mask_of_row_0", "schedule", CONTEXT, "CP6 class (D-08)", "check",
          "all rows are padded as row 0 is")
FH1_FAULT(RIGHT_PADDING_IGNORED_BESIDE_LEFT, "right_padding_ignored_beside_left", "schedule", CACHE_CONV,
          "PD5a ml-explore/mlx-lm#1736, #1908", "check", "as soon as a row is padded left, right padding is not masked")
FH1_FAULT(LENGTH_OF_THE_BATCH, "length_of_the_batch", "schedule", CACHE_CONV, "PD5b Blaizzy/mlx-vlm#1946", "check",
          "every row is taken to be as long as the longest")
FH1_FAULT(DOCUMENT_IDS_SCALE_THE_MIXER, "document_ids_scale_the_mixer", "linear", IN_PROJ,
          "HF11 read in source: transformers", "check",
          "document numbers in the mask, counted from one, multiply the mixer's input")
FH1_FAULT(EMPTY_ROW_IS_NAN, "empty_row_is_nan", "attention", CACHE_CONV, "AT3 pytorch/pytorch#103749", "check",
          "softmax over a fully masked row is NaN, and the row's states with it")

/* positions */
FH1_FAULT(POSITIONS_RESTART_EACH_CALL, "positions_restart_each_call", "rope", Q_ROPE,
          "SR2 read in source: transformers", "check", "default positions begin at 0 in each call")
FH1_FAULT(POSITIONS_RESTART_IN_PREFILL, "positions_restart_in_continued_prefill", "rope", Q_ROPE,
          "CP1 class, huggingface/transformers#46741", "check", "positions of a call of several tokens begin at 0")
FH1_FAULT(DECODE_POSITION_STUCK, "decode_position_stuck_at_0", "rope", Q_ROPE, "AT2a huggingface/optimum-intel#1908",
          "check", "a decode step rotates by position 0")
FH1_FAULT(DECODE_POSITION_ONE_LATE, "decode_position_one_late", "rope", Q_ROPE, "AT2 class (D-32)", "check",
          "the position of a decode step counts the new token")
FH1_FAULT(POSITIONS_COUNT_PADDING, "positions_count_padding", "rope", Q_ROPE, "D-33, unslothai/unsloth#3699", "check",
          "positions are column numbers, padding included")
FH1_FAULT(POSITIONS_OF_PADDED_ROWS_ONE_LATE, "positions_of_padded_rows_one_late", "rope", Q_ROPE, "class D-33", "check",
          "positions of padded rows are the sum of the mask, not one less")
FH1_FAULT(POSITIONS_OF_ROW_0, "positions_of_row_0", "rope", Q_ROPE, "CP6 class (D-33)", "check",
          "all rows get the positions of row 0")
FH1_FAULT(POSITIONS_RUN_ON, "positions_run_on", "rope", Q_ROPE, "PK2 class", "check",
          "positions do not start again at a document")
FH1_FAULT(POSITIONS_IN_BF16, "positions_in_bf16", "rope", Q_ROPE, "AT4b class, huggingface/candle#3520", "check",
          "positions are rounded to bf16")
FH1_FAULT(POSITIONS_CLAMPED, "positions_clamped", "rope", Q_ROPE, "AT4 class (D-34)", "check",
          "positions stop at the end of a table of 4096")

/* documents */
FH1_FAULT(DOCUMENTS_IGNORED, "documents_ignored", "schedule", CONTEXT, "PK1 axolotl-ai-cloud/axolotl#3572", "check",
          "seq_idx is not read: attention and states run through all documents")
FH1_FAULT(DOCUMENTS_IGNORED_IN_ATTENTION, "documents_ignored_in_attention", "attention", CONTEXT,
          "PK2 NovaSky-AI/SkyRL#2056", "check", "attention looks through to earlier documents")
FH1_FAULT(DOCUMENTS_OF_ROW_0, "documents_of_row_0", "schedule", CONTEXT, "CP6 class (D-57)", "check",
          "all rows get the documents of row 0")
FH1_FAULT(DOCUMENT_BORDER_AT_POSITION_0, "document_border_at_position_0", "schedule", CONTEXT,
          "PK2 huggingface/transformers#35861", "check", "documents begin where a position is 0, nowhere else")
FH1_FAULT(DOCUMENT_BORDER_ONE_LATE, "document_border_one_late", "schedule", CONTEXT, "PK2 class (D-59)", "check",
          "the first token of a document belongs to the one before")
FH1_FAULT(DOCUMENT_BORDER_ONE_EARLY, "document_border_one_early", "schedule", CONTEXT, "PK2 class (D-59)", "check",
          "the last token of a document belongs to the next")
FH1_FAULT(DOCUMENTS_AS_BOOLEAN, "documents_as_boolean", "schedule", CONTEXT, "PK2 class (D-61)", "check",
          "all documents but the first are one")
FH1_FAULT(CALL_IS_A_DOCUMENT, "call_is_a_document", "schedule", CONTEXT, "CP3 class (D-05)", "check",
          "documents that a call names are taken to begin in that call")
