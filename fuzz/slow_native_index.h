/* The JSON of a native file's index, and the safetensors headers in the file: slow_native_index.c. */
#pragma once

#include "fuzz/slow_native.h"

/* Fills json, files and tensors; `run` says whether the chunks from `first` on hold n bytes. False: refused. */
bool slow_native_index(slow_native *f, bool (*run)(const slow_native *f, size_t first, int64_t n, bool halves_allowed));
/* The headers say what the index says. */
bool slow_native_headers(const slow_native *f);
