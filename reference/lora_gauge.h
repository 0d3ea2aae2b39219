#pragma once

#include "oracle/gauge.h"
#include "oracle/model.h"

/* The gauge of ref_lora_add: g [M,out] holds that of y = R(W·x + bias) on entry and that of the sum afterwards. x
 * [M,in], y [M,out] true, without the adapters. FH1_E_INTERNAL without memory. */
fh1_status ref_lora_gauge(const fh1_profile *contract, int64_t M, const double *x, const fh1_lora *lora,
                          const fh1_tensor *bias, const double *y, const fh1_gauge *g);

/* The gauge of ref_lora_embed: g [M,D] holds that of the table's rows y [M,D] on entry. */
fh1_status ref_lora_embed_gauge(const fh1_profile *contract, int64_t M, const int64_t *ids, const fh1_lora *lora,
                                const double *y, const fh1_gauge *g);
