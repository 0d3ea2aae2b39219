/* Counts of one model: parameters by part, bytes, and the memory of one call. */
#pragma once

#include "oracle/model.h"

enum { CLI_EMBEDDING, CLI_ATTENTION, CLI_MIXER, CLI_MLP, CLI_NORMS, CLI_HEAD, CLI_N_PARTS };

typedef struct {
    int64_t total, tensors;
    int64_t parts[CLI_N_PARTS];
    uint64_t weight_bytes;                    /* as stored: mapped, never copied as a whole */
    uint64_t kv_bytes, conv_bytes, ssm_bytes; /* cache of B rows after T tokens, f32 */
    uint64_t workspace_bytes;                 /* estimate for ref-f32, logits of the last token */
} cli_footprint;

/* "embedding", "attention", "mixer", "mlp", "norms", "lm_head" */
const char *cli_part_name(int part);
/* The part of a tensor, by its name in the checkpoint. */
int cli_part_of(const char *name);

fh1_status cli_footprint_of(const fh1_model *m, int64_t B, int64_t T, cli_footprint *out);
