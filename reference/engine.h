/* The reference engines: one source, compiled for f64 (the truth) and f32. */
#pragma once

#include "oracle/engine.h"

/* "ref-f64" (exact), "ref-f32" (fp32), "ref-bf16" (f32 arithmetic under a rounding profile,
 * hf-eager-bf16 unless `profile` says otherwise). profile NULL: the engine's own. Returns NULL for an unknown
 * name or without memory. Freed by its free(). */
fh1_engine *ref_engine_new(const char *name, const fh1_profile *profile, unsigned variants);

/* The names that ref_engine_new knows, NULL past the last. */
const char *ref_engine_name_at(int i);
