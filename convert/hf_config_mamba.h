/* The keys of config.json that Falcon-Mamba has for itself, and what both families ask of theirs. For
 * convert/hf_config*.c. */
#pragma once

#include "convert/fields.h"
#include "oracle/config.h"

#define CVT_HF_MAX_SIZE (INT64_C(1) << 31)
#define CVT_HF_MAX_LAYERS (INT64_C(1) << 14) /* 1 to 1000 in practice */

/* All but model_type, the dtype keys and the tokens. */
fh1_status cvt_hf_config_mamba_parse(const cvt_fields *f, fh1_config *c);

/* hidden_act: "silu", or refused. */
fh1_status cvt_hf_config_silu(const cvt_fields *f);
