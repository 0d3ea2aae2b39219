/* Mutations of a safetensors file: the header as JSON, the length word in step with it most of the time, and now and
 * then the offsets laid out anew, so that most tensors fit into the file and what lies behind the first rules is
 * reached. */
#pragma once

#include "fuzz/mutate_json.h"

/* As fuzz_mutate_json, on a whole file. */
size_t fuzz_mutate_safetensors(uint8_t *data, size_t size, size_t max_size, const fuzz_json_stock *stock, fuzz_rng *r);

/* The same with a value of b's header put into a's: for LLVMFuzzerCustomCrossOver. */
size_t fuzz_cross_safetensors(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
                              size_t max_size, fuzz_rng *r);

/* Tensors one behind the other, as they stand in the header, and as many bytes of data, drawn; where the header is no
 * JSON, or there is no room, nothing changes. */
size_t fuzz_lay_out_safetensors(uint8_t *data, size_t size, size_t max_size, fuzz_rng *r);
