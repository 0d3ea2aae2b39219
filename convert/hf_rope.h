/* The rotary position keys of config.json. */
#pragma once

#include "convert/fields.h"
#include "oracle/config.h"

/* From `rope_parameters` (transformers 5.x), `rope_theta` with `rope_scaling` (4.5x), or both where they
 * agree. Needs c->A. */
fh1_status cvt_hf_rope_parse(const cvt_fields *f, fh1_config *c);
