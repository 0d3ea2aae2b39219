/* From the tensors of an adapter file to cvt_adapter. For convert/adapter_*.c. */
#pragma once

#include "convert/adapter_match.h"

/* Sorts every tensor of a->file into LoRA matrices, replacements and token rows, and checks that what belongs together
 * is there, has the right shape, is of a float type and finite. */
fh1_status cvt_adapter_sort_tensors(cvt_adapter *a, const cvt_modules *m, const cvt_adapter_config *c);
/* trainable_token_indices: fills a->tokens from the tensors that `tensor_of` finds. */
fh1_status cvt_adapter_take_tokens(cvt_adapter *a, const cvt_modules *m, const cvt_adapter_config *c);
/* The adapter as trained on a base from which the initial adapter was taken away, made one for the whole base: each A
 * and B hold both, B's second half negated. Takes ΔW of both at the scale of `a`. */
fh1_status cvt_adapter_add_initial(cvt_adapter *a, const cvt_adapter *initial);

/* A float tensor, finite all over; the message names the file and the tensor. */
fh1_status cvt_adapter_check_values(const cvt_adapter *a, const cvt_st_entry *e);
fh1_status cvt_adapter_at(const cvt_adapter *a, const char *tensor, fh1_status s);
/* n bytes that the adapter owns; NULL without memory. */
void *cvt_adapter_own(cvt_adapter *a, size_t n);
