/* LLVMFuzzerMutate where libFuzzer does not run the target (bytes.c): draws from here on follow from the seed. */
#pragma once

#include <stdint.h>

void fuzz_bytes_seed(uint64_t seed);
