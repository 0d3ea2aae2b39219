/* Mutations of a trace of the model of slow_trace.h: those of a safetensors file, whole traces drawn anew, and inputs
 * that make sense most of the time. */
#pragma once

#include "fuzz/mutate_safetensors.h"

size_t fuzz_mutate_trace(uint8_t *data, size_t size, size_t max_size, fuzz_rng *r);
